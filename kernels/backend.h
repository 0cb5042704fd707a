/* backend.h - what a backend must provide: a const table of functions, none of them NULL.
 *
 * ops.h checks shapes, allocates the result and counts FLOPs once for all backends; a backend function only computes. It is
 * never called with a result of no elements, nor after an error. Inputs are as ops.h says; an optional tensor that is left
 * out has data NULL, an optional weight may also be NULL itself. */
#ifndef LT_BACKEND_H
#define LT_BACKEND_H

#include "kernels/ops.h"

/* A convolution's sizes, worked out and checked. Strides are at least 1. */
typedef struct lt_conv_dims {
    int64_t n, t, h, w, i;                         /* x */
    int64_t to, ho, wo, o;                         /* result */
    int64_t kt, kh, kw;                            /* kernel */
    int64_t st, sh, sw;                            /* strides */
    int64_t front, back, top, bottom, left, right; /* zeros around x */
} lt_conv_dims;

/* The operators return LT_OK, or the status of an error they have set in the context (lt_context_fail). Temporary memory
 * beside the result is taken from the context's workspace (lt_scratch) and released before they return, also when dry,
 * so that plans are exact; when dry nothing else is done. */
typedef struct lt_backend {
    const char *name;  /* "ref", "cpu", "cuda" */
    int numeric_epoch; /* raised when a kernel's results change; part of the numeric class */
    bool any_float;    /* inputs may be of any float dtype; otherwise they have the context's */

    /* Open state for device `index`, computing in `dtype` on `threads` threads (0: all cores); set *device (NULL is legal)
     * and numeric_class (text, at most class_bytes) to what results depend on: backend, instruction set or GPU model,
     * library versions, epoch, dtype. E_NOT_FOUND, E_UNSUPPORTED (dtype), E_INVALID, E_NO_MEMORY. */
    lt_status (*open)(void **device, int index, lt_dtype dtype, int threads, char *numeric_class,
                      size_t class_bytes, lt_err *err);
    void (*close)(void *device); /* not NULL */

    lt_status (*conv)(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                      const lt_conv_dims *dims, const lt_tensor *residual, lt_tensor *y);
    lt_status (*linear)(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                        lt_activation act, const lt_tensor *residual, lt_tensor *y);
    lt_status (*group_norm)(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups,
                            double eps, lt_activation act, lt_tensor *y);
    lt_status (*attention)(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                           const lt_tensor *mask, double scale, bool causal, lt_tensor *y);
    lt_status (*upsample_nearest)(lt_context *c, const lt_tensor *x, int ft, int fh, int fw, lt_tensor *y);
    lt_status (*add_scaled)(lt_context *c, const lt_tensor *x, const lt_tensor *y, double a, lt_tensor *out);
    lt_status (*affine)(lt_context *c, const lt_tensor *x, double a, double b, lt_activation act,
                        lt_tensor *out);
    lt_status (*slice_channels)(lt_context *c, const lt_tensor *x, int64_t start, lt_tensor *out);
    lt_status (*convert)(lt_context *c, const lt_tensor *x, lt_tensor *out);

    lt_status (*layer_norm)(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
                            const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y);
    lt_status (*rms_norm)(lt_context *c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y);
    lt_status (*add_broadcast)(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
    lt_status (*add_gated)(lt_context *c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate,
                           lt_tensor *out);
    lt_status (*multiply)(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
    lt_status (*combine)(lt_context *c, const lt_tensor *x, double a, const lt_tensor *y, double b,
                         lt_tensor *out);
    lt_status (*gated)(lt_context *c, const lt_tensor *x, lt_activation act, lt_tensor *out);
    lt_status (*concat_channels)(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
    /* These two check that every number is that of a row (E_INVALID). */
    lt_status (*embedding)(lt_context *c, const lt_weight *table, const lt_tensor *ids, lt_tensor *out);
    lt_status (*gather_rows)(lt_context *c, const lt_tensor *x, const lt_tensor *rows, lt_tensor *out);
    lt_status (*unpatchify)(lt_context *c, const lt_tensor *x, int pt, int ph, int pw, lt_tensor *out);
    lt_status (*noise)(lt_context *c, uint64_t seed, uint32_t clip, uint64_t first_frame, lt_tensor *out);

    lt_status (*pixels_to_values)(lt_context *c, const lt_tensor *pixels, int bits, lt_tensor *out);
    lt_status (*values_to_pixels)(lt_context *c, const lt_tensor *x, int bits, bool truncate, lt_tensor *out);

    /* Free weight->packed, which is not NULL, and set it to NULL. */
    void (*release_weight)(lt_context *c, lt_weight *weight);
} lt_backend;

extern const lt_backend lt_backend_ref, lt_backend_cpu;

/* The table by name, or NULL. */
const lt_backend *lt_backend_find(const char *name);

/* For backends whose memory the host can read: are all `ids` (i32) within 0 .. n-1? False with the context's error set. */
bool lt_check_rows(lt_context *c, const char *op, const lt_tensor *ids, int64_t n);

/* Temporary bytes from the context's workspace, 64-byte aligned; NULL with the context's error set (E_NO_MEMORY) when they
 * do not fit. */
void *lt_scratch(lt_context *context, size_t bytes);

#endif
