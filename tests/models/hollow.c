/* hollow.c - real checkpoints' names and shapes, from the shared folder, as files of zeros that take no room on disk; and with
 * values that tell whose they are. */
#include "models/checkpoint_files.h"
#include "tests/models/support.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static json_t *load(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/models/%s/%s", LT_SHARED, folder, name);
    json_t *root = json_load_file(path, 0, NULL);
    if (!root) fail_msg("%s cannot be read", path);
    return root;
}

static bool wanted(const char *name, const char *const *prefixes)
{
    if (!prefixes) return true;
    for (; *prefixes; prefixes++)
        if (strncmp(name, *prefixes, strlen(*prefixes)) == 0) return true;
    return false;
}

/* Gigabytes of zeros need not be read. */
static void take_for_read(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    checkpoint_remember(&info, (const unsigned char[16]){0});
}

int hollow_write(const char *manifest, const char *const *prefixes, const char *path)
{
    json_t *root = load("manifests", manifest), *tensors = json_object_get(root, "tensors");
    json_t *header = json_object();
    const char *name;
    json_t *shape;
    int64_t offset = 0;
    json_object_foreach(tensors, name, shape)
    {
        if (!wanted(name, prefixes)) continue;
        int64_t n = 2;
        for (size_t i = 0; i < json_array_size(shape); i++) n *= json_integer_value(json_array_get(shape, i));
        json_object_set_new(header, name,
                            json_pack("{s:s, s:O, s:[I,I]}", "dtype", "F16", "shape", shape, "data_offsets",
                                      (json_int_t)offset, (json_int_t)(offset + n)));
        offset += n;
    }
    int count = (int)json_object_size(header);
    char *text = json_dumps(header, JSON_COMPACT | JSON_PRESERVE_ORDER);
    uint64_t length = strlen(text);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    fwrite(&length, 8, 1, out);
    fwrite(text, 1, length, out);
    assert_int_equal(fflush(out), 0);
    assert_int_equal(ftruncate(fileno(out), (off_t)(8 + length + (uint64_t)offset)), 0);
    assert_int_equal(fclose(out), 0);
    take_for_read(path);
    free(text);
    json_decref(header);
    json_decref(root);
    return count;
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

static uint64_t mix64(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t key_of(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001B3u;
    return h;
}

/* Four values at once; without the highest bit of its exponent an f16 is below 2. */
static uint64_t four_values(uint64_t key, int64_t i)
{
    return mix64(key + 0x9E3779B97F4A7C15u * (uint64_t)(i / 4)) & 0xBFFFBFFFBFFFBFFFu;
}

uint16_t hollow_value(const char *name, int64_t i)
{
    return (uint16_t)(four_values(key_of(name), i) >> 16 * (i % 4));
}

/* n values of a tensor at the file's place. */
static void fill(int fd, const char *name, int64_t n, int64_t at)
{
    enum { BUFFER = 1 << 16 };
    static uint64_t buffer[BUFFER];
    uint64_t key = key_of(name);
    for (int64_t done = 0; done < n; done += 4 * BUFFER) {
        int64_t count = LT_MIN(n - done, 4 * BUFFER);
        for (int64_t i = 0; i < count; i += 4) buffer[i / 4] = four_values(key, done + i);
        assert_int_equal(pwrite(fd, buffer, (size_t)count * 2, at + done * 2), count * 2);
    }
}

void hollow_fill(const char *path, const char *prefix)
{
    lt_safetensors *file;
    lt_err err = {0};
    uint64_t header;
    must(lt_safetensors_open(&file, path, &err), &err);
    int fd = open(path, O_RDWR), count = lt_safetensors_count(file);
    assert_true(fd >= 0 && count > 0);
    assert_int_equal(pread(fd, &header, 8, 0), 8);
    const char *first = lt_safetensors_at(file, 0, NULL).data, *name;
    for (int i = 1; i < count; i++)
        first = LT_MIN(first, (const char *)lt_safetensors_at(file, i, NULL).data);
    for (int i = 0; i < count; i++) {
        lt_tensor t = lt_safetensors_at(file, i, &name);
        if (strncmp(name, prefix, strlen(prefix)) != 0) continue;
        fill(fd, name, lt_n_elements(&t), 8 + (int64_t)header + ((const char *)t.data - first));
    }
    lt_safetensors_close(file);
    assert_int_equal(close(fd), 0);
    take_for_read(path);
}

void hollow_config(const char *config, const char *folder)
{
    char path[4096];
    json_t *root = load("configs", config);
    snprintf(path, sizeof(path), "%s/config.json", folder);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
}

static bool shared_there(void)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/models/manifests/svd_vae.json", LT_SHARED);
    return access(path, R_OK) == 0;
}

int hollow_main(CMUnitTestFunction test, const char *what, size_t count)
{
    if (!shared_there()) {
        printf("skipped: names and shapes of %zu %s, since %s/models is not there\n", count, what, LT_SHARED);
        return 77;
    }
    support_start();
    const struct CMUnitTest tests[] = {{"names and shapes", test, NULL, NULL, NULL}};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
