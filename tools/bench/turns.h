/* turns.h - what the timed programs share: one pass for every line on standard input, so that a driver can take turns with another
 * program.
 *
 * First line out: JSON with the FLOPs of a pass and the bytes of its workspace. Then, for every line in, the seconds of a pass, by
 * the clock and of the processors. A first pass, which packs the weights, is made before anything is printed. */
#ifndef LT_BENCH_TURNS_H
#define LT_BENCH_TURNS_H

#include "kernels/tensor.h"

typedef struct bench_times {
    double wall, cpu; /* seconds */
} bench_times;

/* Around what is timed, within a pass. */
void bench_begin(bench_times *times);
void bench_end(bench_times *times);

/* One pass in a context, dry or not. */
typedef lt_status (*bench_pass)(void *user, lt_context *context, bench_times *times, lt_err *err);

/* Take turns until standard input ends. *context is the one that packed the weights, the caller's to destroy, also after an
 * error (NULL before there is one). */
lt_status bench_turns(bench_pass pass, void *user, lt_dtype dtype, int threads, lt_context **context,
                      lt_err *err);

#endif
