/* conv.c - which way a convolution is computed: a matrix product where it is one, otherwise oneDNN. */
#include "kernels/cpu/cpu.h"

lt_status conv_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                   const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    bool pointwise = d->kt * d->kh * d->kw == 1 && d->st * d->sh * d->sw == 1 && d->to == d->t &&
                     d->ho == d->h && d->wo == d->w && d->front + d->top + d->left == 0;
    if (pointwise) return linear_cpu(c, x, weight, bias, LT_ACT_NONE, residual, y);
    return cpu_onednn_conv(c, x, weight, bias, d, residual, y);
}
