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
    bool host;     /* numbers of rows: the operator takes them from the host's memory */
    bool shared;   /* not per sample: the batch test passes it whole */
} spec;

/* One of `n` values; PICK(r, 1, 3, 8): one of those. */
int64_t pick(rng *r, const int64_t *from, int n);
#define PICK(r, ...)                                                                                         \
    pick(r, (const int64_t[]){__VA_ARGS__}, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))

/* A dtype in which weights come. */
lt_dtype weight_dtype(rng *r);

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
    double bf16_units; /* more of them in a bf16 context */
    double narrow[2];  /* on cuda, in bf16 and in f16: so many roundings of the dtype on the way more */
    /* On cuda, in 16 bits, weights[1] is taken rounded to the dtype, as matrices are everywhere. */
    bool narrow_bias;
    bool joins;  /* an infinite input may give infinity where the reference takes two from each other */
    int spreads; /* inputs, as bits, whose NaN or infinity may make NaN in other places of its sample, too */
    int f16_spreads; /* more of them in an f16 context */
    double absolute; /* besides, whatever the values */
    bool rounded;    /* instead: equal to the reference's f64 result rounded to the result's dtype */
};

/* A tensor [batch, rows, channels] of any size. */
spec any_tensor(rng *r, bool big, values v);

typedef struct generator {
    const char *name;
    void (*make)(op_case *k, rng *r, bool big);
} generator;
extern const generator transformer_generators[];
extern const int n_transformer_generators;

/* kernelcheck_colour.c */
void make_yuv_to_rgb(op_case *k, rng *r, bool big);

/* A random case of every operator; which = 0 .. n_generators() - 1. `big`: shapes of real networks, too large for ref. */
int n_generators(void);
void generate_case(op_case *k, int which, rng *r, bool big);
const char *generator_name(int which);

/* Times every operator; returns a process exit code. */
int bench(const char *device, int threads, const char *filter);

#endif
