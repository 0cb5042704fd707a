/* bench-cache FOLDER - reading 4 MiB latents out of a cache into memory, against memcpy of as many bytes, in turns.
 *
 * Prints two numbers, GB/s: of lt_cache_read with a copy in its callback (checksums are checked), and of memcpy; medians
 * of 15 passes over 64 values. */
#include "cache/cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUES = 64, PASSES = 15, CHUNK = 8, CHANNELS = 4, EDGE = 181 };

#define VALUE_BYTES ((size_t)CHUNK * CHANNELS * EDGE * EDGE * sizeof(float))

static lt_status take(void *to, const lt_cache_chunk *chunk, lt_err *err)
{
    memcpy(to, chunk->latent.data, VALUE_BYTES);
    return LT_OK;
}

static int fail(const lt_err *err)
{
    fprintf(stderr, "bench-cache: %s\n", err->text);
    return 1;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_rate(double *seconds)
{
    qsort(seconds, PASSES, sizeof *seconds, by_size);
    return (double)VALUES * (double)VALUE_BYTES / seconds[PASSES / 2] / 1e9;
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    lt_err err = {0};
    lt_cache *cache;
    lt_cache_clip clip = {.clip = "bench",
                          .digest = "0",
                          .n_frames = VALUES * CHUNK,
                          .chunk = CHUNK,
                          .dtype = LT_F32,
                          .channels = CHANNELS,
                          .height = EDGE,
                          .width = EDGE,
                          .scaling_factor = 1,
                          .factor = 8};
    char *from = malloc(VALUES * VALUE_BYTES), *to = malloc(VALUE_BYTES);
    if (!from || !to || lt_cache_open(&cache, argv[1], true, 0, &err)) return fail(&err);
    for (size_t i = 0; i < VALUES * VALUE_BYTES / sizeof(float); i++) ((float *)from)[i] = (float)(i % 1000);
    for (int v = 0; v < VALUES; v++)
        if (lt_cache_put(cache, &clip, v * CHUNK, from + (size_t)v * VALUE_BYTES, NULL, NULL, &err))
            return fail(&err);
    double reading[PASSES], copying[PASSES];
    for (int pass = 0; pass < PASSES; pass++) {
        int64_t begin = lt_now_ns();
        for (int v = 0; v < VALUES; v++)
            if (lt_cache_read(cache, "bench", "0", v * CHUNK, take, to, &err)) return fail(&err);
        int64_t middle = lt_now_ns();
        for (int v = 0; v < VALUES; v++) {
            memcpy(to, from + (size_t)v * VALUE_BYTES, VALUE_BYTES);
            __asm__ volatile("" ::"r"(to) : "memory");
        }
        reading[pass] = (double)(middle - begin) / 1e9;
        copying[pass] = (double)(lt_now_ns() - middle) / 1e9;
    }
    printf("%.3f %.3f\n", median_rate(reading), median_rate(copying));
    lt_cache_close(cache);
    free(from);
    free(to);
    return 0;
}
