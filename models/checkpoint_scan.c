/* checkpoint_scan.c - the digest of a checkpoint's files and the search for values that are not finite: one reading of
 * each file, remembered. */
#include "models/checkpoint_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { READ_BYTES = 1 << 20, REMEMBERED_VERSION = 1 };

/* ---- values that are not finite ------------------------------------------------------------------------------------ */

static bool all_finite_32(const unsigned char *bytes, int64_t n)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, bytes + 4 * i, 4);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

static bool all_finite_16(const unsigned char *bytes, int64_t n, uint16_t exponent)
{
    unsigned bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, bytes + 2 * i, 2);
        bad |= (bits & exponent) == exponent;
    }
    return !bad;
}

static bool all_finite(const lt_tensor *t)
{
    int64_t n = lt_n_elements(t);
    switch (t->dtype) {
    case LT_F32: return all_finite_32(t->data, n);
    case LT_BF16: return all_finite_16(t->data, n, 0x7f80);
    case LT_F16: return all_finite_16(t->data, n, 0x7c00);
    default: return true;
    }
}

/* ---- the remembered results ---------------------------------------------------------------------------------------- */

/* Folder of the remembered results, made where it is missing; false when there is no place for it. */
static bool memory_folder(char *folder, size_t bytes)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char path[3072];
    if (cache && *cache == '/')
        snprintf(path, sizeof(path), "%s", cache);
    else if (home && *home == '/')
        snprintf(path, sizeof(path), "%s/.cache", home);
    else
        return false;
    mkdir(path, 0700);
    size_t n = strlen(path);
    snprintf(path + n, sizeof(path) - n, "/longtake");
    mkdir(path, 0700);
    n = strlen(path);
    snprintf(path + n, sizeof(path) - n, "/weights");
    mkdir(path, 0700);
    return (size_t)snprintf(folder, bytes, "%s", path) < bytes;
}

/* Name of the result of the file that `info` describes; false when there is no place for it. */
static bool memory_path(const struct stat *info, char *path, size_t bytes)
{
    char folder[3328];
    if (!memory_folder(folder, sizeof(folder))) return false;
    int n = snprintf(path, bytes, "%s/%llx-%llx-%llx-%llx.%09ld-%llx.%09ld", folder,
                     (unsigned long long)info->st_dev, (unsigned long long)info->st_ino,
                     (unsigned long long)info->st_size, (unsigned long long)info->st_mtim.tv_sec,
                     info->st_mtim.tv_nsec, (unsigned long long)info->st_ctim.tv_sec, info->st_ctim.tv_nsec);
    return n > 0 && (size_t)n < bytes;
}

static bool recall(const struct stat *info, unsigned char digest[16])
{
    char path[3584], hex[33];
    int version;
    if (!memory_path(info, path, sizeof(path))) return false;
    FILE *file = fopen(path, "r");
    if (!file) return false;
    bool good = fscanf(file, "longtake-weights %d finite %32[0-9a-f]", &version, hex) == 2 &&
                version == REMEMBERED_VERSION && strlen(hex) == 32;
    fclose(file);
    for (int i = 0; good && i < 16; i++) {
        unsigned byte;
        good = sscanf(hex + 2 * i, "%2x", &byte) == 1;
        digest[i] = (unsigned char)byte;
    }
    return good;
}

void checkpoint_remember(const struct stat *info, const unsigned char digest[16])
{
    char path[3584], temporary[3600];
    if (!memory_path(info, path, sizeof(path))) return;
    snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path);
    int fd = mkstemp(temporary);
    if (fd < 0) return;
    FILE *file = fdopen(fd, "w");
    if (!file) {
        close(fd);
        unlink(temporary);
        return;
    }
    fprintf(file, "longtake-weights %d finite ", REMEMBERED_VERSION);
    for (int i = 0; i < 16; i++) fprintf(file, "%02x", digest[i]);
    fputc('\n', file);
    if (fclose(file) != 0 || rename(temporary, path) != 0) unlink(temporary);
}

/* Wait until no other process reads the file that `info` describes for its digest. The lock's descriptor, or -1 where there
 * is no place for it. */
static int lock_reading(const struct stat *info, char *path, size_t bytes)
{
    if (!memory_path(info, path, bytes - 5)) return -1;
    strcat(path, ".lock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    while (fd >= 0 && flock(fd, LOCK_EX) != 0) {
        if (errno == EINTR) continue;
        close(fd);
        return -1;
    }
    return fd;
}

/* Whoever waits looks for the remembered result first, and so may still hold the file that is removed here: at worst a
 * result that could not be kept is made twice. */
static void unlock_reading(int fd, const char *path)
{
    if (fd < 0) return;
    unlink(path);
    close(fd);
}

/* ---- digests --------------------------------------------------------------------------------------------------------- */

static lt_status digest_file(int fd, const char *path, unsigned char digest[16], lt_err *err)
{
    XXH3_state_t *state = XXH3_createState();
    unsigned char *buffer = malloc(READ_BYTES);
    lt_status status = LT_OK;
    if (!state || !buffer) {
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    } else {
        XXH3_128bits_reset(state);
        ssize_t n;
        while ((n = read(fd, buffer, READ_BYTES)) != 0) {
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) {
                status = lt_fail_errno(err, errno, "%s: could not be read", path);
                break;
            }
            XXH3_128bits_update(state, buffer, (size_t)n);
        }
        XXH128_canonicalFromHash((XXH128_canonical_t *)digest, XXH3_128bits_digest(state));
    }
    free(buffer);
    XXH3_freeState(state);
    return status;
}

/* Digest and values of a file, read now. */
static lt_status read_file(lt_checkpoint *c, int number, int fd, const struct stat *info, lt_err *err)
{
    checkpoint_file *file = &c->files[number];
    lt_status status = digest_file(fd, file->path, file->digest, err);
    bool finite = true;
    for (int i = 0; status == LT_OK && i < c->n_entries; i++) {
        if (c->entries[i].file != number) continue;
        c->entries[i].not_finite = !all_finite(&c->entries[i].tensor);
        finite = finite && !c->entries[i].not_finite;
    }
    if (status == LT_OK && finite) checkpoint_remember(info, file->digest);
    return status;
}

static lt_status scan_file(lt_checkpoint *c, int number, lt_err *err)
{
    checkpoint_file *file = &c->files[number];
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        lt_status status = lt_fail_errno(err, errno, "%s: cannot be opened", file->path);
        if (fd >= 0) close(fd);
        return status;
    }
    file->bytes = (size_t)info.st_size;
    lt_status status = LT_OK;
    if (!recall(&info, file->digest)) {
        char path[3600];
        int lock = lock_reading(&info, path, sizeof(path));
        if (lock < 0 || !recall(&info, file->digest)) status = read_file(c, number, fd, &info, err);
        unlock_reading(lock, path);
    }
    close(fd);
    return status;
}

static int by_path(const void *a, const void *b)
{
    return strcmp((*(const checkpoint_file *const *)a)->path, (*(const checkpoint_file *const *)b)->path);
}

lt_status lt_checkpoint_scan(lt_checkpoint *c, lt_err *err)
{
    checkpoint_file *order[MAX_FILES];
    for (int i = 0; i < c->n_files; i++) {
        lt_status status = scan_file(c, i, err);
        if (status != LT_OK) return status;
        order[i] = &c->files[i];
    }
    qsort(order, (size_t)c->n_files, sizeof(*order), by_path);
    unsigned char parts[16 * (MAX_FILES + 1)];
    size_t n = 0;
    if (c->config) {
        XXH128_canonicalFromHash((XXH128_canonical_t *)parts, XXH3_128bits(c->config, c->config_bytes));
        n = 16;
    }
    for (int i = 0; i < c->n_files; i++, n += 16) memcpy(parts + n, order[i]->digest, 16);
    XXH128_canonical_t total;
    XXH128_canonicalFromHash(&total, XXH3_128bits(parts, n));
    for (int i = 0; i < 16; i++) snprintf(c->digest + 2 * i, 3, "%02x", total.digest[i]);
    return LT_OK;
}
