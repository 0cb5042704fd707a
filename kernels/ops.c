/* ops.c - the public operators: check shapes, allocate the result, count FLOPs, call the backend.
 *
 * Everything that holds for all backends is decided here, once. */
#include "kernels/ops_check.h"

#include <math.h>

/* ---- convolution ------------------------------------------------------------------------------------- */

static int64_t out_size(int64_t in, int64_t kernel, int64_t stride, int64_t pads)
{
    return in + pads < kernel ? 0 : (in + pads - kernel) / stride + 1;
}

static void kernel_sizes(const lt_tensor *w, lt_conv_dims *d)
{
    int64_t k[3] = {1, 1, 1};
    for (int i = 2; i < w->rank; i++) k[3 - (w->rank - i)] = w->shape[i];
    d->kt = k[0];
    d->kh = k[1];
    d->kw = k[2];
    d->o = w->shape[0];
}

/* False, with the context's error set, when x, weight and params do not fit each other. */
static bool conv_dims(lt_context *c, const lt_tensor *x, const lt_tensor *w, const lt_conv_params *p,
                      lt_conv_dims *d)
{
    bool rank_ok = x->rank == 5 && (w->rank == 2 || w->rank == 4 || w->rank == 5);
    if (!rank_ok || w->shape[1] != x->shape[4]) {
        lt_context_fail(c, LT_E_INVALID, "conv: the weight %s does not fit the input %s", op_say(w).s,
                        op_say(x).s);
        return false;
    }
    *d = (lt_conv_dims){
        .n = x->shape[0],
        .t = x->shape[1],
        .h = x->shape[2],
        .w = x->shape[3],
        .i = x->shape[4],
        .st = p->stride_t ? p->stride_t : 1,
        .sh = p->stride_h ? p->stride_h : 1,
        .sw = p->stride_w ? p->stride_w : 1,
        .front = p->pad_front,
        .back = p->pad_back,
        .top = p->pad_top,
        .bottom = p->pad_bottom,
        .left = p->pad_left,
        .right = p->pad_right,
    };
    kernel_sizes(w, d);
    int64_t signs[] = {d->st - 1, d->sh - 1, d->sw - 1, d->front,  d->back,   d->top,   d->bottom,
                       d->left,   d->right,  d->kt - 1, d->kh - 1, d->kw - 1, d->o - 1, d->i - 1};
    for (size_t i = 0; i < LT_COUNT(signs); i++) {
        if (signs[i] < 0) {
            lt_context_fail(c, LT_E_INVALID, "conv: a negative stride or padding, or the empty weight %s",
                            op_say(w).s);
            return false;
        }
    }
    d->to = out_size(d->t, d->kt, d->st, d->front + d->back);
    d->ho = out_size(d->h, d->kh, d->sh, d->top + d->bottom);
    d->wo = out_size(d->w, d->kw, d->sw, d->left + d->right);
    if (d->to > 0 && d->ho > 0 && d->wo > 0) return true;
    lt_context_fail(c, LT_E_INVALID, "conv: the input %s is smaller than the kernel of the weight %s",
                    op_say(x).s, op_say(w).s);
    return false;
}

lt_tensor lt_conv(lt_context *c, lt_tensor x, lt_weight *weight, lt_weight *bias, lt_conv_params params,
                  lt_tensor residual)
{
    lt_conv_dims d;
    if (!op_ready(c, "conv", &x) || !op_float_weight(c, "conv", weight)) return LT_NONE;
    if (!conv_dims(c, &x, &weight->tensor, &params, &d)) return LT_NONE;
    int64_t shape[] = {d.n, d.to, d.ho, d.wo, d.o};
    if (!op_check_vector(c, "conv", "bias", bias, d.o, true) ||
        !op_check_residual(c, "conv", &residual, 5, shape))
        return LT_NONE;
    lt_tensor y = lt_new(c, c->dtype, 5, shape);
    if (!y.data) return LT_NONE;
    double flops = 2 * op_count(&y) * (double)d.i * (double)(d.kt * d.kh * d.kw);
    lt_status status = d.n == 0 ? LT_OK : c->backend->conv(c, &x, weight, bias, &d, &residual, &y);
    return op_done(c, status, flops, y);
}

/* ---- linear ------------------------------------------------------------------------------------------ */

lt_tensor lt_linear(lt_context *c, lt_tensor x, lt_weight *weight, lt_weight *bias, lt_activation act,
                    lt_tensor residual)
{
    if (!op_ready(c, "linear", &x) || !op_float_weight(c, "linear", weight)) return LT_NONE;
    const lt_tensor *w = &weight->tensor;
    bool fits = x.rank >= 1 && w->rank >= 2 && w->shape[1] == x.shape[x.rank - 1];
    for (int i = 2; i < w->rank; i++) fits = fits && w->shape[i] == 1;
    if (!fits || w->shape[0] < 1 || w->shape[1] < 1) {
        lt_context_fail(c, LT_E_INVALID, "linear: the weight %s does not fit the input %s", op_say(w).s,
                        op_say(&x).s);
        return LT_NONE;
    }
    int64_t shape[LT_MAX_RANK];
    for (int i = 0; i < x.rank; i++) shape[i] = x.shape[i];
    shape[x.rank - 1] = w->shape[0];
    if (!op_check_vector(c, "linear", "bias", bias, w->shape[0], true)) return LT_NONE;
    if (!op_check_residual(c, "linear", &residual, x.rank, shape)) return LT_NONE;
    lt_tensor y = lt_new(c, c->dtype, x.rank, shape);
    if (!y.data) return LT_NONE;
    double flops = 2 * op_count(&y) * (double)w->shape[1];
    lt_status status =
        op_count(&y) == 0 ? LT_OK : c->backend->linear(c, &x, weight, bias, act, &residual, &y);
    return op_done(c, status, flops, y);
}

/* ---- norms ------------------------------------------------------------------------------------------- */

lt_tensor lt_group_norm(lt_context *c, lt_tensor x, lt_weight *gamma, lt_weight *beta, int groups, double eps,
                        lt_activation act)
{
    if (!op_ready(c, "group_norm", &x)) return LT_NONE;
    int64_t channels = x.rank >= 2 ? x.shape[x.rank - 1] : 0;
    if (groups < 1 || channels < 1 || channels % groups != 0 || !(eps >= 0) || !isfinite(eps)) {
        lt_context_fail(c, LT_E_INVALID, "group_norm: %d groups, eps %g over the input %s", groups, eps,
                        op_say(&x).s);
        return LT_NONE;
    }
    if (!op_check_vector(c, "group_norm", "gamma", gamma, channels, false)) return LT_NONE;
    if (!op_check_vector(c, "group_norm", "beta", beta, channels, false)) return LT_NONE;
    lt_tensor y = lt_new(c, c->dtype, x.rank, x.shape);
    if (!y.data) return LT_NONE;
    lt_status status =
        op_count(&x) == 0 ? LT_OK : c->backend->group_norm(c, &x, gamma, beta, groups, eps, act, &y);
    return op_done(c, status, 8 * op_count(&x), y);
}

/* ---- attention --------------------------------------------------------------------------------------- */

static bool attention_fits(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                           const lt_tensor *mask, double scale)
{
    bool fits = q->rank == 4 && k->rank == 4 && op_same_shape(v, 4, k->shape) && k->shape[0] == q->shape[0] &&
                k->shape[2] == q->shape[2] && k->shape[3] == q->shape[3] && k->shape[1] > 0 &&
                q->shape[3] > 0;
    if (!fits || !isfinite(scale)) {
        lt_context_fail(c, LT_E_INVALID, "attention: q %s, k %s and v %s do not fit each other (scale %g)",
                        op_say(q).s, op_say(k).s, op_say(v).s, scale);
        return false;
    }
    if (!mask->data) return true;
    int64_t wanted[] = {q->shape[0], q->shape[2], q->shape[1], k->shape[1]};
    fits = mask->rank == 4 && mask->dtype == LT_F32 && mask->shape[3] == wanted[3];
    for (int i = 0; i < 3; i++) fits = fits && (mask->shape[i] == 1 || mask->shape[i] == wanted[i]);
    if (!fits) {
        lt_context_fail(c, LT_E_INVALID, "attention: the mask %s does not fit q %s and k %s", op_say(mask).s,
                        op_say(q).s, op_say(k).s);
    }
    return fits;
}

lt_tensor lt_attention(lt_context *c, lt_tensor q, lt_tensor k, lt_tensor v, lt_tensor mask, double scale,
                       bool causal)
{
    if (!op_ready(c, "attention", &q) || !op_ready(c, "attention", &k) || !op_ready(c, "attention", &v))
        return LT_NONE;
    if (!attention_fits(c, &q, &k, &v, &mask, scale)) return LT_NONE;
    lt_tensor y = lt_new(c, c->dtype, 4, q.shape);
    if (!y.data) return LT_NONE;
    double flops = 4 * op_count(&q) * (double)k.shape[1];
    lt_status status =
        op_count(&q) == 0 ? LT_OK : c->backend->attention(c, &q, &k, &v, &mask, scale, causal, &y);
    return op_done(c, status, flops, y);
}

/* ---- shapes and elements ----------------------------------------------------------------------------- */

lt_tensor lt_upsample_nearest(lt_context *c, lt_tensor x, int ft, int fh, int fw)
{
    if (!op_ready(c, "upsample_nearest", &x)) return LT_NONE;
    if (x.rank != 5 || ft < 1 || fh < 1 || fw < 1) {
        lt_context_fail(c, LT_E_INVALID, "upsample_nearest: factors %d, %d, %d over the input %s", ft, fh, fw,
                        op_say(&x).s);
        return LT_NONE;
    }
    int64_t shape[] = {x.shape[0], x.shape[1], x.shape[2], x.shape[3], x.shape[4]};
    const int factors[] = {ft, fh, fw};
    for (int i = 0; i < 3; i++) {
        if (__builtin_mul_overflow(shape[1 + i], factors[i], &shape[1 + i])) shape[1 + i] = -1;
    }
    lt_tensor y = lt_new(c, c->dtype, 5, shape);
    if (!y.data) return LT_NONE;
    lt_status status = op_count(&y) == 0 ? LT_OK : c->backend->upsample_nearest(c, &x, ft, fh, fw, &y);
    return op_done(c, status, 0, y);
}

lt_tensor lt_upsample_conv(lt_context *c, lt_tensor x, lt_weight *weight, lt_weight *bias)
{
    if (!op_ready(c, "upsample_conv", &x) || !op_float_weight(c, "upsample_conv", weight)) return LT_NONE;
    const lt_tensor *w = &weight->tensor;
    lt_conv_params same = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
    lt_tensor wide = x;
    lt_conv_dims d = {0};
    kernel_sizes(w, &d);
    bool fits = x.rank == 5 && w->rank >= 4 && d.kt == 1 && d.kh == 3 && d.kw == 3 &&
                w->shape[1] == x.shape[4] && !__builtin_mul_overflow(x.shape[2], 2, &wide.shape[2]) &&
                !__builtin_mul_overflow(x.shape[3], 2, &wide.shape[3]);
    if (!fits) {
        lt_context_fail(c, LT_E_INVALID, "upsample_conv: the weight %s does not fit the input %s",
                        op_say(w).s, op_say(&x).s);
        return LT_NONE;
    }
    if (!conv_dims(c, &wide, w, &same, &d)) return LT_NONE;
    if (!op_check_vector(c, "upsample_conv", "bias", bias, d.o, true)) return LT_NONE;
    lt_tensor y = lt_new(c, c->dtype, 5, (int64_t[]){d.n, d.to, d.ho, d.wo, d.o});
    if (!y.data) return LT_NONE;
    double flops = 2 * op_count(&y) * (double)d.i * 9;
    lt_status status = d.n == 0 ? LT_OK : c->backend->upsample_conv(c, &x, weight, bias, &d, &y);
    return op_done(c, status, flops, y);
}

lt_tensor lt_add_scaled(lt_context *c, lt_tensor x, lt_tensor y, double a)
{
    if (!op_ready(c, "add_scaled", &x) || !op_ready(c, "add_scaled", &y)) return LT_NONE;
    if (!op_same_shape(&y, x.rank, x.shape)) {
        lt_context_fail(c, LT_E_INVALID, "add_scaled: %s and %s differ in shape", op_say(&x).s, op_say(&y).s);
        return LT_NONE;
    }
    lt_tensor out = lt_new(c, c->dtype, x.rank, x.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&x) == 0 ? LT_OK : c->backend->add_scaled(c, &x, &y, a, &out);
    return op_done(c, status, 2 * op_count(&x), out);
}

lt_tensor lt_affine(lt_context *c, lt_tensor x, double a, double b, lt_activation act)
{
    if (!op_ready(c, "affine", &x)) return LT_NONE;
    lt_tensor out = lt_new(c, c->dtype, x.rank, x.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&x) == 0 ? LT_OK : c->backend->affine(c, &x, a, b, act, &out);
    return op_done(c, status, 2 * op_count(&x), out);
}

lt_tensor lt_slice_channels(lt_context *c, lt_tensor x, int64_t start, int64_t n)
{
    if (!op_ready(c, "slice_channels", &x)) return LT_NONE;
    if (x.rank < 1 || start < 0 || n < 0 || start > x.shape[x.rank - 1] - n) {
        lt_context_fail(c, LT_E_INVALID, "slice_channels: %s has no %lld channels from %lld on", op_say(&x).s,
                        (long long)n, (long long)start);
        return LT_NONE;
    }
    int64_t shape[LT_MAX_RANK];
    for (int i = 0; i < x.rank; i++) shape[i] = x.shape[i];
    shape[x.rank - 1] = n;
    lt_tensor out = lt_new(c, c->dtype, x.rank, shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&out) == 0 ? LT_OK : c->backend->slice_channels(c, &x, start, &out);
    return op_done(c, status, 0, out);
}

lt_tensor lt_convert(lt_context *c, lt_tensor x, lt_dtype dtype)
{
    if (c->err.status != LT_OK) return LT_NONE;
    if (!x.data) {
        lt_context_fail(c, LT_E_INVALID, "convert: no input");
        return LT_NONE;
    }
    lt_tensor out = lt_new(c, dtype, x.rank, x.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&x) == 0 ? LT_OK : c->backend->convert(c, &x, &out);
    return op_done(c, status, 0, out);
}

void lt_copy(lt_context *c, lt_tensor x, lt_tensor out)
{
    if (c->err.status != LT_OK) return;
    if (!x.data || !out.data || x.dtype != out.dtype || lt_n_elements(&x) != lt_n_elements(&out)) {
        lt_context_fail(c, LT_E_INVALID, "copy: %s into %s", op_say(&x).s, op_say(&out).s);
        return;
    }
    lt_status status = op_count(&x) == 0 ? LT_OK : c->backend->copy(c, &x, &out);
    if (status != LT_OK) lt_context_fail(c, status, "%s", lt_status_string(status));
}

void lt_zero(lt_context *c, lt_tensor out)
{
    if (c->err.status != LT_OK) return;
    lt_status status = !out.data || op_count(&out) == 0 ? LT_OK : c->backend->zero(c, &out);
    if (!out.data) lt_context_fail(c, LT_E_INVALID, "zero: no tensor");
    if (status != LT_OK) lt_context_fail(c, status, "%s", lt_status_string(status));
}

void lt_add_tile(lt_context *c, lt_tensor tile, const lt_tile_weights *w, int64_t row, int64_t column,
                 lt_tensor sums)
{
    if (!op_ready(c, "add_tile", &tile)) return;
    const int64_t wanted[] = {sums.shape[0], w->rows.size, w->columns.size, sums.shape[3]};
    bool fits = sums.data && sums.dtype == LT_F32 && sums.rank == 4 && op_same_shape(&tile, 4, wanted) &&
                tile.shape[3] <= 1024 && w->border >= 1 && row >= 0 && column >= 0 &&
                row <= sums.shape[1] - tile.shape[1] && column <= sums.shape[2] - tile.shape[2];
    if (!fits) {
        lt_context_fail(c, LT_E_INVALID, "add_tile: %s at row %lld, column %lld of %s, as %lld x %lld x %lld",
                        op_say(&tile).s, (long long)row, (long long)column, op_say(&sums).s,
                        (long long)w->time.size, (long long)w->rows.size, (long long)w->columns.size);
        return;
    }
    lt_status status = op_count(&tile) == 0 ? LT_OK : c->backend->add_tile(c, &tile, w, row, column, &sums);
    if (status != LT_OK) lt_context_fail(c, status, "%s", lt_status_string(status));
}

/* ---- pixels ------------------------------------------------------------------------------------------ */

lt_tensor lt_pixels_to_values(lt_context *c, lt_tensor pixels, int bits)
{
    if (c->err.status != LT_OK) return LT_NONE;
    if (!pixels.data || bits < 1 || bits > 16 || pixels.dtype != (bits <= 8 ? LT_U8 : LT_U16)) {
        lt_context_fail(c, LT_E_INVALID, "pixels_to_values: %d bits from %s", bits, op_say(&pixels).s);
        return LT_NONE;
    }
    lt_tensor out = lt_new(c, c->dtype, pixels.rank, pixels.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&out) == 0 ? LT_OK : c->backend->pixels_to_values(c, &pixels, bits, &out);
    return op_done(c, status, 2 * op_count(&out), out);
}

lt_tensor lt_values_to_pixels(lt_context *c, lt_tensor x, int bits, bool truncate)
{
    if (!op_ready(c, "values_to_pixels", &x)) return LT_NONE;
    if (bits < 1 || bits > 16) {
        lt_context_fail(c, LT_E_INVALID, "values_to_pixels: %d bits; 1 to 16 are supported", bits);
        return LT_NONE;
    }
    lt_tensor out = lt_new(c, bits <= 8 ? LT_U8 : LT_U16, x.rank, x.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&x) == 0 ? LT_OK : c->backend->values_to_pixels(c, &x, bits, truncate, &out);
    return op_done(c, status, 2 * op_count(&x), out);
}

/* ---- colour ------------------------------------------------------------------------------------------ */

static bool is_picture(const lt_yuv *p, bool dry)
{
    bool there = dry || (p->y && p->u && p->v);
    bool sized = p->width > 0 && p->height > 0 && p->uv_step >= 1 && p->uv_step <= 2;
    bool known = p->bits >= 8 && p->bits <= 16 && p->low_zeros >= 0 && p->bits + p->low_zeros <= 16 &&
                 (p->bits > 8 || p->low_zeros == 0) && p->matrix >= LT_MATRIX_601 &&
                 p->matrix <= LT_MATRIX_2020;
    return there && sized && known && (p->shift_x | 1) == 1 && (p->shift_y | 1) == 1 && p->at_x >= 0 &&
           p->at_x <= 2 && p->at_y >= 0 && p->at_y <= 2;
}

void lt_yuv_to_rgb(lt_context *c, const lt_yuv *p, int bits, lt_tensor out)
{
    if (c->err.status != LT_OK) return;
    if (out.data && out.rank == 4 && out.shape[0] == 1)
        out = LT_VIEW(c, out, out.shape[1], out.shape[2], out.shape[3]);
    bool wanted =
        out.dtype == (bits == 8 ? LT_U8 : LT_U16) || (c->backend->any_float && lt_dtype_is_float(out.dtype));
    if (!out.data || out.rank != 3 || out.shape[2] != 3 || bits < 8 || bits > 16 || !wanted ||
        !is_picture(p, c->dry) || out.shape[0] < p->height || out.shape[1] < p->width) {
        lt_context_fail(c, LT_E_INVALID, "yuv_to_rgb: a picture of %dx%d in %d bits into %s, with %d bits",
                        p->width, p->height, p->bits, op_say(&out).s, bits);
        return;
    }
    lt_status status = c->backend->yuv_to_rgb(c, p, bits, &out);
    if (status != LT_OK) lt_context_fail(c, status, "%s", lt_status_string(status));
}
