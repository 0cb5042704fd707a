/* hollow.c - real checkpoints' names and shapes, from the shared folder, as files of zeros that take no room on disk. */
#include "models/checkpoint_files.h"
#include "tests/models/support.h"

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

bool hollow_there(void)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/models/manifests/svd_vae.json", LT_SHARED);
    return access(path, R_OK) == 0;
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

void hollow_config(const char *config, const char *folder)
{
    char path[4096];
    json_t *root = load("configs", config);
    snprintf(path, sizeof(path), "%s/config.json", folder);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
}
