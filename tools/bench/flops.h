/* flops.h - the floating-point operations of a network, by kind of operator.
 *
 * The network's own function is run in a context; every operator counts what ops.h says of it, by the shapes and whatever the
 * implementation computes (Winograd's fewer products, a fused norm). 2 for a multiply-add. Products are convolutions, linear maps and
 * attention's two, which is what others count, too (torch.utils.flop_counter, to the last one: tests/models/flops.py). */
#ifndef LT_BENCH_FLOPS_H
#define LT_BENCH_FLOPS_H

#include <stdio.h>

#include "kernels/backend.h"

enum { BENCH_N_PRODUCTS = 3, BENCH_N_KINDS = 14 };

typedef struct bench_flops {
    lt_backend table; /* the context's, with counters in front; first */
    const lt_backend *original;
    double of[BENCH_N_KINDS]; /* the first BENCH_N_PRODUCTS are products */
    double seen;              /* of the context's sum */
    int last;                 /* kind of the operator that counts next; -1: none yet */
} bench_flops;

/* Count from now on what runs in the context, dry or not, from 0 on. `flops` stays the caller's and must outlive the context's
 * operators, or bench_flops_stop. */
void bench_flops_watch(bench_flops *flops, lt_context *context);
/* The context counts alone again; `of` is complete. */
void bench_flops_stop(bench_flops *flops, lt_context *context);

double bench_flops_products(const bench_flops *flops);
double bench_flops_all(const bench_flops *flops);

/* {"flops": all, "products": those, "kinds": {"conv": ..., ...}} without what is 0, and without the braces around it. */
void bench_flops_print(const bench_flops *flops, FILE *out);

#endif
