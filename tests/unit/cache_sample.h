/* cache_sample.h - clips for the tests of the cache: latents whose every number says where it belongs. */
#ifndef LT_TESTS_CACHE_SAMPLE_H
#define LT_TESTS_CACHE_SAMPLE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cache/internal.h"

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        lt_status must_status = (call);                                                                      \
        if (must_status) fail_msg("%s: %s: %s", #call, lt_status_string(must_status), err.text);             \
    } while (0)

/* A folder of the test, gone when the test is. `base` NULL: $TMPDIR or /tmp. */
static inline char *temporary_folder(const char *base)
{
    static char path[512];
    const char *given = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/longtake-cache-XXXXXX", base ? base : given ? given : "/tmp");
    if (!mkdtemp(path)) fail_msg("cannot make a folder in %s", path);
    return path;
}

static inline void remove_folder(const char *folder)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0) fail_msg("%s", command);
}

/* 19 frames in chunks of 8 of f32[3,5,7]; unlike sizes, and a short last chunk. */
static inline lt_cache_clip sample_clip(const char *name)
{
    return (lt_cache_clip){.clip = name,
                           .digest = "0123456789abcdef",
                           .n_frames = 19,
                           .chunk = 8,
                           .dtype = LT_F32,
                           .channels = 3,
                           .height = 5,
                           .width = 7,
                           .scaling_factor = 0.18215,
                           .factor = 8,
                           .source = "/films/a film.mkv",
                           .fingerprint = "00ff",
                           .caption = "a cockatoo \"dances\"",
                           .time_base_num = 1,
                           .time_base_den = 12800,
                           .last_duration = 512,
                           .picture = {56, 40, 4, 3, 90, 1, 13, 5, 2},
                           .model = "svd/vae",
                           .weights = "aa",
                           .numerics = "diffusers",
                           .numeric_class = "cpu/test",
                           .encoding = "tile none",
                           .made_of = "f00d"};
}

/* Value `i` of the chunk at `first`: small integers, exact in every dtype. */
static inline float sample_value(int64_t first, int64_t i)
{
    return (float)((first * 31 + i) % 251 - 125);
}

static inline uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)(bits >> 16);
}

/* Numbers of a chunk in the clip's dtype (F32 or BF16); malloc'd. */
static inline void *sample_chunk(const lt_cache_clip *clip, int64_t first, int64_t offset)
{
    int64_t n = (int64_t)clip->chunk * clip->channels * clip->height * clip->width; /* of a whole chunk */
    float *values = malloc((size_t)n * sizeof *values);
    if (!values) abort();
    for (int64_t i = 0; i < n; i++) {
        float value = sample_value(first + offset, i);
        if (clip->dtype == LT_F32)
            values[i] = value;
        else
            ((uint16_t *)values)[i] = to_bf16(value);
    }
    return values;
}

static inline lt_status put_chunk(lt_cache *cache, const lt_cache_clip *clip, int64_t first, bool *added,
                                  lt_err *err)
{
    void *latent = sample_chunk(clip, first, 0),
         *logvar = clip->logvar ? sample_chunk(clip, first, 1000) : NULL;
    lt_status status = lt_cache_put(cache, clip, first, latent, logvar, added, err);
    free(latent);
    free(logvar);
    return status;
}

static inline lt_status put_clip(lt_cache *cache, const lt_cache_clip *clip, lt_err *err)
{
    lt_status status = LT_OK;
    for (int64_t first = 0; first < clip->n_frames && !status; first += clip->chunk)
        status = put_chunk(cache, clip, first, NULL, err);
    return status;
}

/* Compare what is read with what was put. user: the clip. */
static inline lt_status same_chunk(void *user, const lt_cache_chunk *chunk, lt_err *err)
{
    const lt_cache_clip *clip = user;
    void *latent = sample_chunk(clip, chunk->first, 0), *logvar = sample_chunk(clip, chunk->first, 1000);
    bool same = chunk->latent.shape[0] == lt_cache_chunk_frames(clip, chunk->first) &&
                chunk->latent.dtype == clip->dtype && (uintptr_t)chunk->latent.data % 16 == 0 &&
                memcmp(chunk->latent.data, latent, lt_tensor_bytes(&chunk->latent)) == 0;
    if (clip->logvar) same = same && memcmp(chunk->logvar.data, logvar, lt_tensor_bytes(&chunk->logvar)) == 0;
    free(latent);
    free(logvar);
    return same ? LT_OK
                : lt_fail(err, LT_E_MISMATCH, "chunk %lld is not what was put", (long long)chunk->first);
}

static inline void print_faults(void *user, const char *what)
{
    (void)user;
    print_message("fault: %s\n", what);
}

static inline int64_t count_faults(lt_cache *cache)
{
    lt_err err;
    int64_t n = 0;
    MUST(lt_cache_verify(cache, print_faults, NULL, &n, &err));
    return n;
}

#endif
