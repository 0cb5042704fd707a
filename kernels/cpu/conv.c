/* conv.c - which way a convolution is computed. The rule is fixed by the shape, the dtype and the instruction set (all part of
 * what bytes depend on), never by timing.
 *
 * Winograd's algorithm for kernels of 3, in f32 and where bf16 has no units of its own, where it saves a fifth of the products or
 * more.
 *
 * oneDNN, where it has batch-reduce kernels (AVX-512), for the rest of what works on single frames: it is up to 15 % faster
 * than our product in f32 and bf16, on tiles (AMX) half as fast again, and more with few channels. Its AVX2 kernels have no
 * bf16. Our product for what remains: a 1x1 convolution is one anyway, and a temporal one cannot be cut into strips that lie in
 * one piece. Both are slow with four outputs or fewer, which have a kernel of their own where there are inputs enough; but
 * tiles of which most is padding are still three times as fast. */
#include "kernels/cpu/cpu.h"

/* Of frames that are upsampled at once: enough to keep all cores busy. */
enum { UPSAMPLED_PIXELS = 1 << 17 };

lt_status conv_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                   const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    bool per_frame = d->kt == 1 && d->st == 1 && d->front == 0 && d->back == 0 && d->kh * d->kw > 1;
    /* Strips that lie in the padding whole have no input. */
    bool inside = d->top < d->kh && d->bottom < d->kh && d->left < d->kw && d->right < d->kw;
    bool onednn = cpu_of(c)->has_brgemm && per_frame && inside;
    bool tiles = c->dtype == LT_BF16 && cpu_of(c)->pairs == &cpu_pairs_amx;
    if (cpu_conv_is_narrow(d) && !(onednn && tiles))
        return conv_narrow_cpu(c, x, weight, bias, d, residual, y);
    if (cpu_conv_is_winograd(c, d)) return conv_winograd_cpu(c, x, weight, bias, d, residual, y);
    if (onednn) return cpu_onednn_conv(c, x, weight, bias, d, residual, y);
    return conv_product_cpu(c, x, weight, bias, d, residual, y);
}

/* As many frames as are work for all cores are upsampled into scratch memory, and convolved there. */
lt_status upsample_conv_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                            const lt_conv_dims *d, lt_tensor *y)
{
    int64_t frames = d->n * d->t, frame = d->h * d->w;
    int64_t group = LT_MIN(LT_MAX(UPSAMPLED_PIXELS / frame, (int64_t)1), frames);
    size_t size = lt_dtype_bytes(c->dtype);
    char *wide = lt_scratch(c, (size_t)(group * frame * d->i) * size);
    lt_status status = c->err.status;
    for (int64_t f = 0; f < frames && status == LT_OK; f += group) {
        lt_conv_dims part = *d;
        part.n = LT_MIN(group, frames - f);
        part.t = part.to = 1;
        lt_tensor from = {.data = (char *)x->data + (size_t)(f * frame / 4 * d->i) * size,
                          .dtype = c->dtype,
                          .rank = 5,
                          .shape = {part.n, 1, d->h / 2, d->w / 2, d->i}};
        lt_tensor up = {.data = wide, .dtype = c->dtype, .rank = 5, .shape = {part.n, 1, d->h, d->w, d->i}};
        lt_tensor to = {.data = (char *)y->data + (size_t)(f * frame * d->o) * size,
                        .dtype = c->dtype,
                        .rank = 5,
                        .shape = {part.n, 1, d->ho, d->wo, d->o}};
        status = upsample_nearest_cpu(c, &from, 1, 2, 2, &up);
        if (status == LT_OK) status = conv_cpu(c, &up, weight, bias, &part, &LT_NONE, &to);
    }
    lt_scratch_release(c, wide);
    return status;
}
