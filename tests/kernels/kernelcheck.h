/* kernelcheck.h - shared by the files of the kernel checker. */
#ifndef LT_KERNELCHECK_H
#define LT_KERNELCHECK_H

#include "kernels/ops.h"

/* xoshiro256** (Blackman, Vigna). */
typedef struct rng {
    uint64_t s[4];
} rng;

void rng_seed(rng *r, uint64_t seed);
uint64_t rng_next(rng *r);
int64_t rng_range(rng *r, int64_t low, int64_t high); /* both included */
double rng_uniform(rng *r);                           /* [0, 1) */
double rng_normal(rng *r);

/* What random values look like. */
typedef enum {
    VALUES_NORMAL,  /* N(0,1) */
    VALUES_OFFSET,  /* mean 1000, deviation 1: what a careless variance loses */
    VALUES_SMALL,   /* deviation 1e-3: where a wrong eps shows */
    VALUES_WIDE,    /* magnitudes from 1e-4 to 1e4 */
    VALUES_EXTREME, /* zeros, subnormals, +-88, +-1e4, +-1e30 */
    VALUES_PIXELS,  /* integers of the dtype's range */
    VALUES_MASK,    /* 0, -infinity, or N(0,1) */
    N_VALUES
} values;

/* dtype of an input that follows the context's. */
enum { DTYPE_CONTEXT = -1 };

typedef struct spec {
    int rank;
    int64_t shape[LT_MAX_RANK];
    int dtype;
    values values;
    double scale;  /* of the values; 0 means 1 */
    bool left_out; /* an optional operand that this case does not give */
    bool shared;   /* not per sample: the batch test passes it whole */
} spec;

enum { MAX_INPUTS = 4, MAX_WEIGHTS = 2, MAX_INTS = 12 };

typedef struct op_case op_case;
struct op_case {
    const char *op;
    lt_tensor (*run)(lt_context *c, const op_case *k, const lt_tensor *inputs, lt_weight *weights);
    int n_inputs, n_weights;
    spec inputs[MAX_INPUTS], weights[MAX_WEIGHTS];
    int64_t ints[MAX_INTS];
    double reals[2];
    lt_activation act;
    /* The bound: |y - ref| <= eps(result) |ref| + units * eps(f32) * max(magnitude, max |ref|). units 0: equal. */
    double units, magnitude;
};

/* A random case of every operator; which = 0 .. n_generators - 1. `big`: shapes of real networks, too large for ref. */
extern const int n_generators;
void generate_case(op_case *k, int which, rng *r, bool big);
const char *generator_name(int which);

/* Times every operator; returns a process exit code. */
int bench(int threads, const char *filter);

#endif
