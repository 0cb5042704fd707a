/* conv.c - which way a convolution is computed. The rule is fixed by the shape and the instruction set (both part of what
 * bytes depend on), never by timing.
 *
 * oneDNN, where it has batch-reduce kernels (AVX-512): they give the same bytes for any number of threads and any batch,
 * and are 5-10 % faster than our product in f32, twice as fast in bf16. Its AVX2 kernels promise neither bytes nor bf16.
 * A 1x1 convolution is a matrix product anyway. */
#include "kernels/cpu/cpu.h"

lt_status conv_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                   const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    bool pointwise = d->kt * d->kh * d->kw == 1;
    if (pointwise || !cpu_of(c)->has_brgemm) return conv_product_cpu(c, x, weight, bias, d, residual, y);
    return cpu_onednn_conv(c, x, weight, bias, d, residual, y);
}
