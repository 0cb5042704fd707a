/* check.h - runs a launcher on the CUDA device on the host and holds it to its contract: the bound against f64 expectations, the same bytes
 * for any order of threads, address and stream, inputs as they were, nothing written beside the result. */
#ifndef CUDA_ON_HOST_CHECK_H
#define CUDA_ON_HOST_CHECK_H

#include "kernels/cuda/kernels.h"

typedef enum { WIDE, NORMAL, OFFSET, SMALL, EXTREME, BYTES } fill;

/* xorshift64*; never 0. */
extern uint64_t check_state;
int64_t draw(int64_t low, int64_t high); /* both included */
double draw_value(fill f);
int64_t draw_of(const int64_t *from, int n);
#define ONE_OF(...)                                                                                          \
    draw_of((const int64_t[]){__VA_ARGS__}, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))
lt_dtype draw_dtype(void); /* F32, BF16, F16 */

enum { MOST_ARRAYS = 6 };

typedef struct array {
    lt_dtype dtype;
    int64_t n;
    void *data; /* on the host; NULL: the launcher gets NULL */
} array;

/* n values as they are in dtype. */
array make_array(lt_dtype dtype, int64_t n, fill f);
double value_of(const array *a, int64_t i);

typedef struct test test;
struct test {
    char name[200];
    array in[MOST_ARRAYS];
    array out;              /* with prefill, what it holds before */
    array expected;         /* f64 */
    bool prefill, in_place; /* in_place: out lies over in[0] */
    size_t scratch;
    double
        units; /* |y - expected| <= eps(dtype) |expected| + units 2^-23 max(1, largest expected); 0: rounded once */
    double magnitude; /* instead of 1; below 0: of each value alone */
    double absolute;  /* besides */
    lt_status (*launch)(const test *t, lt_stream stream, void *const *in, void *out, void *scratch);
    double (*expect)(const test *t, int64_t i); /* or expected is made by the caller */
    int64_t ints[12];
    double reals[4];
};

/* Check, and free what the test holds. */
void run_test(test *t);
/* Bytes of one run, malloc'd, of the launcher on t's arrays; `first` elements into each array skip[] (may be NULL). */
void *run_once(const test *t, uint64_t seed, int shift, bool on_stream);
void free_test(test *t);
void complain(const test *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

extern int n_checked, n_failed;

/* The files' cases. */
void check_elements(int n);
void check_conversions(int n);
void check_norms(int n);
void check_softmax(int n);
void check_layout(int n);
void check_tiles(int n);
void check_colour(int n);

#endif
