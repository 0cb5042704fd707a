/* ops_check.h - what the files of public operators share: checks before the backend is called, and the one way out.
 * For kernels/ops*.c only. Each check returns false with a sentence in the context when it does not hold. */
#ifndef LT_OPS_CHECK_H
#define LT_OPS_CHECK_H

#include "kernels/backend.h"

typedef struct op_text {
    char s[128];
} op_text;

/* A tensor for an error sentence: op_say(&x).s lives until the end of the expression. */
op_text op_say(const lt_tensor *t);

/* May the operator start? False after an error, or when its input is missing or of a dtype it does not take. */
bool op_ready(lt_context *c, const char *op, const lt_tensor *x);

bool op_same_shape(const lt_tensor *a, int rank, const int64_t *shape);

/* An optional tensor that must have the result's shape. */
bool op_check_residual(lt_context *c, const char *op, const lt_tensor *residual, int rank,
                       const int64_t *shape);

/* A weight that must be there and of a float dtype. */
bool op_float_weight(lt_context *c, const char *op, const lt_weight *weight);

/* A weight [n] that may be left out when `optional`. */
bool op_check_vector(lt_context *c, const char *op, const char *what, const lt_weight *weight, int64_t n,
                     bool optional);

/* Are all `ids`, in the host's memory, within 0 .. n-1? */
bool op_check_rows(lt_context *c, const char *op, const lt_tensor *ids, int64_t n);

/* The way out of every operator, and so the place where a tape records it: the result, or LT_NONE with its memory
 * given back after an error. */
lt_tensor op_done(lt_context *c, lt_status status, double flops, lt_tensor y);

/* Number of elements. */
double op_count(const lt_tensor *t);

#endif
