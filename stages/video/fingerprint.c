/* fingerprint.c - telling sources apart cheaply. */
#include "stages/video/internal.h"
#include "core/xxh3.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BLOCK = 64 * 1024, N_BLOCKS = 64 };

static void to_hex(XXH128_hash_t hash, char hex[33])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    for (int i = 0; i < 16; i++) snprintf(hex + 2 * i, 3, "%02x", canonical.digest[i]);
}

/* Hash up to BLOCK bytes from `offset`. */
static int64_t hash_block(XXH3_state_t *state, AVIOContext *file, int64_t offset, uint8_t *block)
{
    int64_t at = avio_seek(file, offset, SEEK_SET);
    if (at < 0) return at;
    int n = avio_read(file, block, BLOCK);
    if (n < 0 && n != AVERROR_EOF) return n;
    XXH3_128bits_update(state, block, (size_t)LT_MAX(n, 0));
    return 0;
}

/* Small files whole; of larger ones the size, and N_BLOCKS blocks of which the first and last are the
 * ends. */
static int64_t hash_file(XXH3_state_t *state, AVIOContext *file, uint8_t *block)
{
    int64_t size = avio_size(file), rc = 0;
    if (size < 0) return size;
    uint8_t size_bytes[8];
    for (int i = 0; i < 8; i++) size_bytes[i] = (uint8_t)((uint64_t)size >> (8 * i));
    XXH3_128bits_update(state, size_bytes, sizeof size_bytes);
    if (size <= (int64_t)BLOCK * N_BLOCKS) {
        for (int64_t offset = 0; offset < size && rc >= 0; offset += BLOCK)
            rc = hash_block(state, file, offset, block);
        return rc;
    }
    for (int i = 0; i < N_BLOCKS && rc >= 0; i++) {
        int64_t room = size - BLOCK;
        rc = hash_block(state, file, room / (N_BLOCKS - 1) * i + room % (N_BLOCKS - 1) * i / (N_BLOCKS - 1),
                        block);
    }
    return rc;
}

/* ---- sequences ------------------------------------------------------------------------------------------- */

static lt_status add_picture(void *state, const char *path, lt_err *err)
{
    char one[33];
    lt_status status = lt_fingerprint_file(path, one, err);
    if (!status) XXH3_128bits_update(state, one, sizeof one);
    return status;
}

static lt_status add_stamp(void *state, const char *path, lt_err *err)
{
    struct stat info;
    if (stat(path, &info)) return lt_fail_errno(err, errno, "%s", path);
    int64_t numbers[] = {info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
    XXH3_128bits_update(state, path, strlen(path) + 1);
    XXH3_128bits_update(state, numbers, sizeof numbers);
    return LT_OK;
}

/* Of the pictures of a sequence: each one's, one after the other. */
static lt_status hash_sequence(const char *pattern, lt_sequence_visitor *add, char hex[33], lt_err *err)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", pattern);
    XXH3_128bits_reset(state);
    lt_status status = lt_sequence_each(pattern, add, state, err);
    if (!status) to_hex(XXH3_128bits_digest(state), hex);
    XXH3_freeState(state);
    return status;
}

lt_status lt_video_stamp_sequence(const char *pattern, char hex[33], lt_err *err)
{
    return hash_sequence(pattern, add_stamp, hex, err);
}

lt_status lt_fingerprint_file(const char *path, char hex[33], lt_err *err)
{
    const char *name = strncmp(path, "file:", 5) ? path : path + 5;
    if (lt_video_is_sequence(name)) return hash_sequence(path, add_picture, hex, err);
    AVIOContext *file = NULL;
    XXH3_state_t *state = XXH3_createState();
    uint8_t *block = malloc(BLOCK);
    int64_t rc = state && block ? avio_open(&file, path, AVIO_FLAG_READ) : AVERROR(ENOMEM);
    if (rc >= 0) {
        XXH3_128bits_reset(state);
        rc = hash_file(state, file, block);
    }
    if (rc >= 0) to_hex(XXH3_128bits_digest(state), hex);
    avio_closep(&file);
    free(block);
    XXH3_freeState(state);
    return rc < 0 ? lt_fail_av(err, (int)rc, "%s: reading its fingerprint", path) : LT_OK;
}
