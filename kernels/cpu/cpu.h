/* cpu.h - shared by the files of the CPU backend: its device, packed weights, and its operators.
 *
 * Parallelism: an operator cuts its work into pieces by sizes that do not depend on the number of threads, each piece is
 * computed by one thread in a fixed order, and partial sums are added in the order of the pieces. */
#ifndef LT_CPU_H
#define LT_CPU_H

#include "kernels/backend.h"
#include "kernels/cpu/simd.h"

#include <omp.h>

typedef struct cpu_device {
    int threads;
    size_t cache_bytes; /* of the second level; 0: not known */
    const cpu_simd *simd;
    const cpu_pairs *pairs; /* NULL: bf16 is made f32 before it is multiplied */
    bool has_brgemm;        /* oneDNN computes convolutions here */
    struct cpu_onednn *onednn;
} cpu_device;

/* Number of the calling thread within its parallel region. */
static inline int cpu_thread(void)
{
    return omp_get_thread_num();
}

static inline const cpu_device *cpu_of(const lt_context *c)
{
    return c->device;
}

/* ---- weights.c --------------------------------------------------------------------------------------- */

enum {
    CPU_FORM_VECTOR = 1,
    CPU_FORM_PANELS,
    CPU_FORM_NARROW,
    CPU_FORM_WINOGRAD_2,
    CPU_FORM_WINOGRAD_4,
    CPU_FORM_ONEDNN = 16, /* up to 63: with a digest of the layout */
    N_CPU_FORMS = 64
};

/* One form of a weight; a weight has a list of them, since a layout may depend on the dtype and on the shape it meets. */
typedef struct cpu_packed {
    struct cpu_packed *next;
    int form;
    lt_dtype dtype;
    size_t bytes;
    void *data;
    unsigned char layout[]; /* of oneDNN */
} cpu_packed;

/* Add room for one more form, its data uninitialised and 64-byte aligned. NULL with the context's error set when memory
 * is out, or when dry: then it is only counted, each form of a weight once, and none of one that is packed already. */
cpu_packed *cpu_packed_add(lt_context *c, lt_weight *weight, int form, lt_dtype dtype, size_t bytes,
                           const void *layout, size_t layout_bytes);

/* The form that was added last goes again: it could not be filled. */
void cpu_packed_drop(lt_context *c, lt_weight *weight);

/* The form that is there already, or NULL. */
const cpu_packed *cpu_packed_find(const lt_weight *weight, int form, lt_dtype dtype);

/* The weight's values in f32, PyTorch's layout. *owned is to be freed (NULL when the mapped file could be used as it is).
 * NULL with the context's error set when memory is out. */
const float *cpu_weight_f32(lt_context *c, const lt_weight *weight, float **owned);

/* n values of a weight from element `first` on, in f32 or bf16. Works on one thread. */
void cpu_weight_values(void *dst, lt_dtype dtype, const lt_tensor *weight, int64_t first, int64_t n);

/* A vector in f32, padded with zeros to a multiple of 64 values; NULL when it was left out, when dry, or after an error
 * (which is in the context). */
const float *cpu_weight_vector(lt_context *c, lt_weight *weight);

/* A matrix [O,I] or a convolution's weight [O,I,...] as panels for cpu_simd.gemm, in the context's dtype:
 * [O/tile_columns][padded_inner][tile_columns], the inner dimension in the order of taps, then inputs, padded with zeros;
 * where the device has pairs, bf16 lies for cpu_pairs.gemm. NULL when dry or after an error. */
const void *cpu_weight_panels(lt_context *c, lt_weight *weight, int64_t padded_inner);

void release_weight_cpu(lt_context *c, lt_weight *weight);

/* ---- onednn.c ---------------------------------------------------------------------------------------- */

/* Name of the instruction set that oneDNN uses on this machine, which the rest of the backend follows. */
const char *cpu_onednn_isa(void);

lt_status cpu_onednn_open(struct cpu_onednn **onednn, lt_dtype dtype, char *version, size_t version_bytes,
                          lt_err *err);
void cpu_onednn_close(struct cpu_onednn *onednn);
lt_status cpu_onednn_conv(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                          const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y);

/* ---- product.c --------------------------------------------------------------------------------------- */

lt_status conv_product_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                           const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y);

/* ---- narrow.c ---------------------------------------------------------------------------------------- */

bool cpu_conv_is_narrow(const lt_conv_dims *d);
lt_status conv_narrow_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                          const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y);

/* ---- winograd.c -------------------------------------------------------------------------------------- */

bool cpu_conv_is_winograd(const lt_context *c, const lt_conv_dims *d);
lt_status conv_winograd_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                            const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y);

/* ---- operators --------------------------------------------------------------------------------------- */

lt_status conv_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                   const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y);
lt_status upsample_conv_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                            const lt_conv_dims *d, lt_tensor *y);
lt_status linear_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias, lt_activation act,
                     const lt_tensor *residual, lt_tensor *y);
lt_status group_norm_cpu(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups,
                         double eps, lt_activation act, lt_tensor *y);
lt_status attention_cpu(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                        const lt_tensor *mask, double scale, bool causal, lt_tensor *y);
lt_status upsample_nearest_cpu(lt_context *c, const lt_tensor *x, int ft, int fh, int fw, lt_tensor *y);
lt_status add_scaled_cpu(lt_context *c, const lt_tensor *x, const lt_tensor *y, double a, lt_tensor *out);
lt_status affine_cpu(lt_context *c, const lt_tensor *x, double a, double b, lt_activation act,
                     lt_tensor *out);
lt_status slice_channels_cpu(lt_context *c, const lt_tensor *x, int64_t start, lt_tensor *out);
lt_status convert_cpu(lt_context *c, const lt_tensor *x, lt_tensor *out);
lt_status pixels_to_values_cpu(lt_context *c, const lt_tensor *pixels, int bits, lt_tensor *out);
lt_status values_to_pixels_cpu(lt_context *c, const lt_tensor *x, int bits, bool truncate, lt_tensor *out);
lt_status yuv_to_rgb_cpu(lt_context *c, const lt_yuv *p, int bits, lt_tensor *out);
lt_status layer_norm_cpu(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
                         const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y);
lt_status rms_norm_cpu(lt_context *c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y);
lt_status add_broadcast_cpu(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
lt_status add_gated_cpu(lt_context *c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate,
                        lt_tensor *out);
lt_status multiply_cpu(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
lt_status combine_cpu(lt_context *c, const lt_tensor *x, double a, const lt_tensor *y, double b,
                      lt_tensor *out);
lt_status gated_cpu(lt_context *c, const lt_tensor *x, lt_activation act, lt_tensor *out);
lt_status concat_channels_cpu(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
lt_status embedding_cpu(lt_context *c, lt_weight *table, const int32_t *ids, lt_tensor *out);
lt_status gather_rows_cpu(lt_context *c, const lt_tensor *x, const int32_t *rows, lt_tensor *out);
lt_status unpatchify_cpu(lt_context *c, const lt_tensor *x, int pt, int ph, int pw, lt_tensor *y);
lt_status noise_cpu(lt_context *c, uint64_t seed, uint32_t clip, uint64_t first_frame, lt_tensor *out);

lt_status add_tile_cpu(lt_context *c, const lt_tensor *tile, const lt_tile_weights *weights, int64_t row,
                       int64_t column, lt_tensor *sums);

#endif
