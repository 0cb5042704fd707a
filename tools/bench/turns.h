/* turns.h - what the timed programs share: one pass for every line on standard input, so that a driver can take turns with another
 * program.
 *
 * First line out: JSON with the FLOPs of a pass (flops.h), the bytes of its workspace and of packed weights, the numeric class, and
 * with --samples values of the first pass's result, a digest of it, and whether a second pass gave the same bytes. Then, for every line in, the seconds of a pass, by the clock and of the processors,
 * until the device has done all of it. A first pass, which packs the weights, is made before anything is printed. */
#ifndef LT_BENCH_TURNS_H
#define LT_BENCH_TURNS_H

#include "kernels/tensor.h"

typedef struct bench_options {
    const char *device; /* --device, "cpu" */
    bool flops;         /* --flops: print the first line of a dry run, and end */
    int n_samples;      /* --samples N: values of the first pass's result, evenly spread over it */
} bench_options;

/* Take these options out of a program's arguments. False when one of them is not complete. */
bool bench_options_take(bench_options *options, int *argc, char **argv);

typedef struct bench_times {
    double wall, cpu; /* seconds */
    int n_samples;    /* of what bench_keep is to keep; 0: nothing */
    float *samples;
    uint64_t digest; /* of all values */
} bench_times;

/* Around what is timed, within a pass; both wait for the device. */
void bench_begin(bench_times *times, lt_context *context);
void bench_end(bench_times *times, lt_context *context);

/* The result of a pass, in the context's memory or the host's: its values number i * (elements / n_samples) are kept, where asked for. */
void bench_keep(bench_times *times, lt_context *context, lt_tensor result);
void bench_keep_values(bench_times *times, const float *values, int64_t n);

/* A host tensor of f32, sin(i * step) for element i, whose data is the caller's to free. E_NO_MEMORY. */
lt_status bench_pattern(lt_tensor *tensor, int rank, const int64_t *shape, float step, lt_err *err);

/* One pass in a context, dry or not; and what is brought into a context's memory before its first pass, and stays (may be NULL). */
typedef struct bench_work {
    lt_status (*prepare)(void *user, lt_context *context, lt_err *err);
    lt_status (*pass)(void *user, lt_context *context, bench_times *times, lt_err *err);
    void *user;
} bench_work;

/* Take turns until standard input ends. *context is the one that packed the weights, the caller's to destroy, also after an
 * error (NULL before there is one). */
lt_status bench_turns(const bench_work *work, const bench_options *options, lt_dtype dtype, int threads,
                      lt_context **context, lt_err *err);

#endif
