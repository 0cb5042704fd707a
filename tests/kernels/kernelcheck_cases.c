/* kernelcheck_cases.c - random cases of every operator, and the error bound of each. */
#include "tests/kernels/kernelcheck.h"

#include <math.h>
#include <string.h>

int64_t pick(rng *r, const int64_t *from, int n)
{
    return from[rng_range(r, 0, n - 1)];
}

lt_dtype weight_dtype(rng *r)
{
    return (lt_dtype)PICK(r, LT_F32, LT_F32, LT_BF16, LT_F16);
}

/* ---- convolution ------------------------------------------------------------------------------------- */

static lt_tensor run_conv(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    const int64_t *i = k->ints;
    lt_conv_params p = {.stride_t = (int)i[0],
                        .stride_h = (int)i[1],
                        .stride_w = (int)i[2],
                        .pad_front = (int)i[3],
                        .pad_back = (int)i[4],
                        .pad_top = (int)i[5],
                        .pad_bottom = (int)i[6],
                        .pad_left = (int)i[7],
                        .pad_right = (int)i[8]};
    return lt_conv(c, in[0], &w[0], &w[1], p, in[1]);
}

/* Shapes of x, the weight, strides and pads of the kinds that networks have, and of any kind. */
static void conv_shapes(op_case *k, rng *r, bool big)
{
    int64_t kernels[][3] = {{1, 3, 3}, {3, 1, 1}, {1, 1, 1}, {3, 3, 3}, {1, 3, 3}, {1, 5, 2}};
    const int64_t *size = kernels[rng_range(r, 0, 5)];
    int64_t in = big ? PICK(r, 128, 256, 320, 512) : PICK(r, 1, 3, 4, 8, 16, 17, 33, 48, 64);
    int64_t out = big ? PICK(r, 3, 128, 320, 512) : PICK(r, 1, 3, 4, 8, 16, 31, 32, 64);
    bool wide = !big && rng_range(r, 0, 9) == 0; /* the channels of real networks, over few pixels */
    if (wide) {
        in = PICK(r, 128, 320, 512);
        out = PICK(r, 3, 128, 512);
    }
    int64_t *x = k->inputs[0].shape, *w = k->weights[0].shape;
    x[0] = rng_range(r, 1, 3);
    for (int i = 0; i < 3; i++) {
        k->ints[i] = size[i] > 1 ? PICK(r, 0, 1, 2) : PICK(r, 0, 1);
        k->ints[3 + 2 * i] = size[i] > 1 ? rng_range(r, 0, size[i] / 2) : 0;
        k->ints[4 + 2 * i] = size[i] > 1 ? rng_range(r, 0, size[i] / 2) : 0;
        x[1 + i] = big ? (i == 0 ? rng_range(r, 2, 3) : rng_range(r, 8, 24)) : rng_range(r, 1, wide ? 3 : 9);
        if (x[1 + i] < size[i]) x[1 + i] = size[i];
    }
    x[4] = in;
    w[0] = out;
    w[1] = in;
    int rank = size[0] == 1 ? (int)PICK(r, 4, 5) : 5;
    if (size[0] * size[1] * size[2] == 1 && rng_range(r, 0, 1)) rank = 2;
    for (int i = 2; i < rank; i++) w[i] = size[3 - (rank - i)];
    k->weights[0].rank = rank;
    k->magnitude = (double)(size[0] * size[1] * size[2]);
}

/* Kernels of 1 along some axis or all, with strides and with pads, so that there may be as many results as inputs and other ones. */
static void pointwise_shapes(op_case *k, rng *r, bool big)
{
    int64_t kernels[][3] = {{1, 1, 1}, {1, 1, 1}, {1, 3, 1}, {3, 1, 1}, {1, 1, 3}};
    const int64_t *size = kernels[rng_range(r, 0, 4)];
    int64_t in = big ? PICK(r, 128, 320, 512) : PICK(r, 1, 3, 16, 17, 32, 64);
    int64_t out = big ? PICK(r, 128, 512) : PICK(r, 1, 3, 16, 31, 64);
    int64_t x[5] = {rng_range(r, 1, 3), 0, 0, 0, in}, w[5] = {out, in, size[0], size[1], size[2]};
    bool as_many = rng_range(r, 0, 1);
    for (int i = 0; i < 3; i++) {
        int64_t stride = PICK(r, 1, 2, 3), pads = rng_range(r, 0, 4), low = rng_range(r, 0, pads);
        x[1 + i] = rng_range(r, big ? 6 : 1, big ? 20 : 6);
        if (as_many && size[i] == 1) { /* (x + pads - 1) / stride + 1 = x */
            x[1 + i] = rng_range(r, 1, big ? 9 : 4);
            pads = (stride - 1) * (x[1 + i] - 1);
            low = rng_range(r, 0, pads);
        }
        if (x[1 + i] + pads < size[i]) x[1 + i] = size[i];
        k->ints[i] = stride;
        k->ints[3 + 2 * i] = low;
        k->ints[4 + 2 * i] = pads - low;
    }
    memcpy(k->inputs[0].shape, x, sizeof(x));
    memcpy(k->weights[0].shape, w, sizeof(w));
    k->weights[0].rank = 5;
}

/* Kernels of 3 with a stride of 1 over channels enough, which transforms make cheaper: sizes from one pixel on that are no
 * multiples of a tile, channels that are none of a vector, any pads on any side. */
static void same_size_shapes(op_case *k, rng *r, bool big)
{
    int64_t kernels[][3] = {{1, 3, 3}, {3, 1, 1}, {3, 3, 3}};
    const int64_t *size = kernels[rng_range(r, 0, 2)];
    int64_t in = big ? PICK(r, 96, 128, 320, 600) : PICK(r, 32, 33, 47, 64);
    int64_t out = big ? PICK(r, 128, 320, 370) : PICK(r, 32, 37, 64, 130);
    int64_t most = big ? 24 : size[0] == 3 && size[1] == 3 ? 5 : 13;
    int64_t x[5] = {rng_range(r, 1, 3), 0, 0, 0, in}, w[5] = {out, in, size[0], size[1], size[2]};
    for (int i = 0; i < 3; i++) {
        x[1 + i] = i == 0 ? rng_range(r, 1, 5) : rng_range(r, 1, most);
        if (size[i] > 1) {
            k->ints[3 + 2 * i] = rng_range(r, 0, 2);
            k->ints[4 + 2 * i] = rng_range(r, 0, 2);
        } else if (size[0] == 3) {
            x[1 + i] = rng_range(r, 1, big ? 24 : 6);
        }
        int64_t padded = x[1 + i] + k->ints[3 + 2 * i] + k->ints[4 + 2 * i];
        if (padded < size[i]) x[1 + i] += size[i] - padded;
    }
    memcpy(k->inputs[0].shape, x, sizeof(x));
    memcpy(k->weights[0].shape, w, sizeof(w));
    k->weights[0].rank = 5;
}

/* Operands of a convolution whose shapes are chosen. */
static void conv_operands(op_case *k, rng *r, values v)
{
    k->op = "conv";
    k->spreads = 1 << 0;
    k->run = run_conv;
    k->n_inputs = k->n_weights = 2;
    const int64_t *x = k->inputs[0].shape, *w = k->weights[0].shape, *i = k->ints;
    int64_t kernel[3] = {1, 1, 1};
    for (int e = 2; e < k->weights[0].rank; e++) kernel[3 - (k->weights[0].rank - e)] = w[e];
    double inner = (double)(w[1] * kernel[0] * kernel[1] * kernel[2]);
    k->inputs[0] =
        (spec){.rank = 5, .shape = {x[0], x[1], x[2], x[3], x[4]}, .dtype = DTYPE_CONTEXT, .values = v};
    k->inputs[1] = (spec){.rank = 5, .dtype = DTYPE_CONTEXT, .left_out = rng_range(r, 0, 1)};
    int64_t *y = k->inputs[1].shape;
    y[0] = x[0];
    y[4] = w[0];
    for (int e = 0; e < 3; e++) {
        int64_t stride = i[e] ? i[e] : 1;
        y[1 + e] = (x[1 + e] + i[3 + 2 * e] + i[4 + 2 * e] - kernel[e]) / stride + 1;
    }
    k->weights[0].dtype = (int)weight_dtype(r);
    k->weights[0].scale = 1 / sqrt(inner);
    k->weights[1] = (spec){
        .rank = 1, .shape = {w[0]}, .dtype = (int)weight_dtype(r), .left_out = rng_range(r, 0, 3) == 0};
    /* A sum of K products in f32, in any order: a random walk of K roundings, 5 deviations. */
    k->units = 4 + 2 * sqrt(inner);
    k->magnitude = 1;
    k->narrow_bias = true;
}

static void make_conv(op_case *k, rng *r, bool big)
{
    conv_shapes(k, r, big);
    conv_operands(k, r, (values)PICK(r, VALUES_NORMAL, VALUES_NORMAL, VALUES_WIDE));
}

static void make_same_size(op_case *k, rng *r, bool big)
{
    same_size_shapes(k, r, big);
    conv_operands(k, r, (values)PICK(r, VALUES_NORMAL, VALUES_WIDE, VALUES_OFFSET));
}

static void make_pointwise(op_case *k, rng *r, bool big)
{
    pointwise_shapes(k, r, big);
    conv_operands(k, r, (values)PICK(r, VALUES_NORMAL, VALUES_NORMAL, VALUES_WIDE));
}

/* ---- linear ------------------------------------------------------------------------------------------ */

static lt_tensor run_linear(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_linear(c, in[0], &w[0], &w[1], k->act, in[1]);
}

static void make_linear(op_case *k, rng *r, bool big)
{
    k->op = "linear";
    k->run = run_linear;
    k->n_inputs = k->n_weights = 2;
    k->act = (lt_activation)rng_range(r, LT_ACT_NONE, LT_ACT_QUICK_GELU);
    int64_t rows = big ? rng_range(r, 90, 300) : rng_range(r, 1, 120), batch = rng_range(r, big ? 1 : 0, 3);
    int64_t in = big ? PICK(r, 320, 768, 1280) : PICK(r, 1, 3, 8, 31, 64, 100, 520, 1030);
    int64_t out = big ? PICK(r, 320, 512, 770) : PICK(r, 1, 3, 8, 33, 64, 96, 520);
    values v = (values)PICK(r, VALUES_NORMAL, VALUES_NORMAL, VALUES_WIDE);
    k->inputs[0] = (spec){.rank = 3, .shape = {batch, rows, in}, .dtype = DTYPE_CONTEXT, .values = v};
    k->inputs[1] = (spec){
        .rank = 3, .shape = {batch, rows, out}, .dtype = DTYPE_CONTEXT, .left_out = rng_range(r, 0, 1)};
    k->weights[0] = (spec){.rank = rng_range(r, 0, 1) ? 2 : 4,
                           .shape = {out, in, 1, 1},
                           .dtype = (int)weight_dtype(r),
                           .scale = 1 / sqrt((double)in)};
    k->weights[1] =
        (spec){.rank = 1, .shape = {out}, .dtype = (int)weight_dtype(r), .left_out = rng_range(r, 0, 3) == 0};
    k->units = 8 + 2 * sqrt((double)in); /* as conv; 4 more for the activation */
    k->narrow_bias = true;
    k->narrow[0] = k->act == LT_ACT_GELU_TANH ? 0.25 : 0; /* a tanh of 11 bits, which is 1 from 4 on */
    k->magnitude = 1;
}

/* ---- group norm -------------------------------------------------------------------------------------- */

static lt_tensor run_group_norm(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_group_norm(c, in[0], &w[0], &w[1], (int)k->ints[0], k->reals[0], k->act);
}

static void make_group_norm(op_case *k, rng *r, bool big)
{
    k->op = "group_norm";
    k->run = run_group_norm;
    k->n_inputs = 1;
    k->n_weights = 2;
    k->act = (lt_activation)PICK(r, LT_ACT_NONE, LT_ACT_SILU, LT_ACT_SILU, LT_ACT_GELU_ERF);
    int64_t groups = PICK(r, 1, 2, 4, 32), width = PICK(r, 1, 2, 3, 4, 10);
    if (big) groups = 32;
    int64_t channels = groups * width, side = big ? rng_range(r, 60, 120) : rng_range(r, 1, 12);
    values v = (values)PICK(r, VALUES_NORMAL, VALUES_OFFSET, VALUES_SMALL);
    k->inputs[0] = (spec){.rank = 4,
                          .shape = {rng_range(r, big ? 1 : 0, 3), side, side + 1, channels},
                          .dtype = DTYPE_CONTEXT,
                          .values = v};
    k->weights[0] = (spec){.rank = 1, .shape = {channels}, .dtype = (int)weight_dtype(r)};
    k->weights[1] = (spec){.rank = 1, .shape = {channels}, .dtype = (int)weight_dtype(r)};
    k->ints[0] = groups;
    k->reals[0] = rng_range(r, 0, 1) ? 1e-5 : 1e-6;
    /* x - mean, * factor, + offset, each rounded once, and the factor's own rounding; 4 more for the activation. */
    k->units = 10;
    k->magnitude = 1;
}

/* ---- attention --------------------------------------------------------------------------------------- */

static lt_tensor run_attention(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_attention(c, in[0], in[1], in[2], in[3], k->reals[0], k->ints[0] != 0);
}

static void make_attention(op_case *k, rng *r, bool big)
{
    k->op = "attention";
    k->run = run_attention;
    k->n_inputs = 4;
    int64_t batch = rng_range(r, big ? 1 : 0, 3), heads = big ? PICK(r, 1, 2) : rng_range(r, 1, 3);
    int64_t queries = big ? rng_range(r, 100, 400) : rng_range(r, 1, 130);
    int64_t keys = big ? rng_range(r, 500, 700) : PICK(r, 1, 7, 33, 77, 130, 600);
    int64_t width = big ? PICK(r, 64, 128, 512) : PICK(r, 1, 5, 32, 40, 64);
    if (!big && rng_range(r, 0, 9) == 0) width = 520;
    bool masked = rng_range(r, 0, 2) == 0;
    k->ints[0] = rng_range(r, 0, 2) == 0;
    k->reals[0] = 1 / sqrt((double)width) * PICK(r, 1, 1, 4);
    k->inputs[0] = (spec){.rank = 4, .shape = {batch, queries, heads, width}, .dtype = DTYPE_CONTEXT};
    k->inputs[1] = (spec){.rank = 4, .shape = {batch, keys, heads, width}, .dtype = DTYPE_CONTEXT};
    k->inputs[2] = k->inputs[1];
    bool shared = batch != 1 && rng_range(r, 0, 1);
    k->inputs[3] = (spec){.rank = 4,
                          .shape = {shared ? 1 : batch, PICK(r, 1, heads), PICK(r, 1, queries), keys},
                          .dtype = LT_F32,
                          .values = VALUES_MASK,
                          .left_out = !masked,
                          .shared = shared};
    /* An error e of a score is a relative error e of its weight: scores of up to 4 * sqrt(D) * scale * sqrt(D) rounded
     * over a sum of D, then a sum over the keys. */
    double score = 16 * k->reals[0] * sqrt((double)width);
    k->units = 16 + score * (2 + sqrt((double)width)) + 2 * sqrt((double)keys);
    k->bf16_units = 0x1p-16 / 0x1p-23; /* weights rounded to 16 bits, of values of 1 */
    k->narrow[0] = k->narrow[1] = 1;   /* factors, they are below 1 in sum, of values of 1 */
    k->spreads = masked || k->ints[0] ? 1 << 1 | 1 << 2 : 0;
    k->f16_spreads = 1 << 2; /* small weights are 0 */
    k->magnitude = 1;
}

/* ---- elements ---------------------------------------------------------------------------------------- */

spec any_tensor(rng *r, bool big, values v)
{
    int64_t batch = rng_range(r, big ? 1 : 0, 3);
    return (spec){.rank = 3,
                  .shape = {batch, big ? rng_range(r, 100, 2000) : rng_range(r, 0, 40), rng_range(r, 1, 70)},
                  .dtype = DTYPE_CONTEXT,
                  .values = v};
}

static lt_tensor run_upsample(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_upsample_nearest(c, in[0], (int)k->ints[0], (int)k->ints[1], (int)k->ints[2]);
}

static void make_upsample(op_case *k, rng *r, bool big)
{
    k->op = "upsample_nearest";
    k->run = run_upsample;
    k->n_inputs = 1;
    int64_t most = big ? 30 : 6;
    k->inputs[0] = (spec){.rank = 5,
                          .shape = {rng_range(r, 0, 3), rng_range(r, 1, 4), rng_range(r, 1, most),
                                    rng_range(r, 1, most), PICK(r, 1, 3, 4, 17, 64)},
                          .dtype = DTYPE_CONTEXT,
                          .values = VALUES_WIDE};
    for (int i = 0; i < 3; i++) k->ints[i] = rng_range(r, 1, 3);
}

static lt_tensor run_upsample_conv(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_upsample_conv(c, in[0], &w[0], &w[1]);
}

static void make_upsample_conv(op_case *k, rng *r, bool big)
{
    k->op = "upsample_conv";
    k->spreads = 1 << 0;
    k->joins = true;
    k->run = run_upsample_conv;
    k->narrow_bias = true;
    k->n_inputs = 1;
    k->n_weights = 2;
    int64_t in = big ? PICK(r, 128, 256, 320) : PICK(r, 1, 3, 8, 16, 17, 32, 40, 64);
    int64_t out = big ? PICK(r, 3, 128, 320) : PICK(r, 1, 3, 8, 16, 31, 32, 64), most = big ? 12 : 6;
    values v = (values)PICK(r, VALUES_NORMAL, VALUES_NORMAL, VALUES_WIDE, VALUES_OFFSET);
    k->inputs[0] = (spec){.rank = 5,
                          .shape = {rng_range(r, big ? 1 : 0, 3), rng_range(r, 1, 3), rng_range(r, 1, most),
                                    rng_range(r, 1, most), in},
                          .dtype = DTYPE_CONTEXT,
                          .values = v};
    k->weights[0] =
        (spec){.rank = (int)PICK(r, 4, 5), .dtype = (int)weight_dtype(r), .scale = 1 / sqrt(9 * (double)in)};
    int64_t shape[2][5] = {{out, in, 3, 3}, {out, in, 1, 3, 3}};
    memcpy(k->weights[0].shape, shape[k->weights[0].rank - 4], sizeof(shape[0]));
    k->weights[1] =
        (spec){.rank = 1, .shape = {out}, .dtype = (int)weight_dtype(r), .left_out = rng_range(r, 0, 3) == 0};
    k->units = 4 + 2 * sqrt(9 * (double)in); /* as conv */
    /* Sums of taps are rounded, each by up to half an eps of its own value, two fifths of that in the mean; 5 deviations. */
    k->narrow[0] = k->narrow[1] = 2;
    k->magnitude = 1;
}

static lt_tensor run_add_scaled(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_add_scaled(c, in[0], in[1], k->reals[0]);
}

static void make_add_scaled(op_case *k, rng *r, bool big)
{
    k->op = "add_scaled";
    k->run = run_add_scaled;
    k->n_inputs = 2;
    k->inputs[0] = any_tensor(r, big, VALUES_WIDE);
    k->inputs[1] = k->inputs[0];
    k->reals[0] = (double)(float)rng_normal(r);
    k->units = 2;
}

static lt_tensor run_affine(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_affine(c, in[0], k->reals[0], k->reals[1], k->act);
}

static void make_affine(op_case *k, rng *r, bool big)
{
    k->op = "affine";
    k->run = run_affine;
    k->n_inputs = 1;
    values v = (values)PICK(r, VALUES_NORMAL, VALUES_WIDE, VALUES_EXTREME);
    k->inputs[0] = any_tensor(r, big, v);
    k->act = (lt_activation)rng_range(r, LT_ACT_NONE, LT_ACT_QUICK_GELU);
    bool plain = v == VALUES_EXTREME || rng_range(r, 0, 1);
    k->reals[0] = plain ? 1 : (double)(float)rng_normal(r);
    k->reals[1] = plain ? 0 : (double)(float)rng_normal(r);
    /* The tail of GELU at -6: e^(-x^2/2), where 18 roundings of x^2 / 2 count. */
    k->units = k->act == LT_ACT_GELU_ERF && v == VALUES_EXTREME ? 8 + 2 * 18 : 8;
    /* VALUES_EXTREME has results of 1e30: there the bound per element, eps |ref|, must do, with 8 units of it. */
    k->magnitude = v == VALUES_EXTREME ? -1 : 1;
}

static lt_tensor run_slice(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_slice_channels(c, in[0], k->ints[0], k->ints[1]);
}

static void make_slice(op_case *k, rng *r, bool big)
{
    k->op = "slice_channels";
    k->run = run_slice;
    k->n_inputs = 1;
    k->inputs[0] = any_tensor(r, big, VALUES_WIDE);
    k->ints[0] = rng_range(r, 0, k->inputs[0].shape[2]);
    k->ints[1] = rng_range(r, 0, k->inputs[0].shape[2] - k->ints[0]);
}

static lt_tensor run_convert(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_convert(c, in[0], (lt_dtype)k->ints[0]);
}

static void make_convert(op_case *k, rng *r, bool big)
{
    k->op = "convert";
    k->run = run_convert;
    k->n_inputs = 1;
    bool floats = rng_range(r, 0, 3) != 0;
    k->inputs[0] = any_tensor(r, big, floats ? (values)PICK(r, VALUES_WIDE, VALUES_EXTREME) : VALUES_PIXELS);
    k->inputs[0].dtype =
        floats ? (int)PICK(r, LT_F32, LT_BF16, LT_F16, LT_F64) : (int)PICK(r, LT_U8, LT_U16, LT_I32, LT_I64);
    k->ints[0] = rng_range(r, 0, LT_N_DTYPES - 1);
}

/* ---- pixels ------------------------------------------------------------------------------------------ */

static lt_tensor run_from_pixels(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_pixels_to_values(c, in[0], (int)k->ints[0]);
}

static void make_from_pixels(op_case *k, rng *r, bool big)
{
    k->op = "pixels_to_values";
    k->run = run_from_pixels;
    k->n_inputs = 1;
    k->ints[0] = PICK(r, 8, 8, 10, 12, 16);
    k->inputs[0] = any_tensor(r, big, VALUES_PIXELS);
    k->inputs[0].dtype = k->ints[0] <= 8 ? LT_U8 : LT_U16;
    k->inputs[0].scale = (double)(1 << k->ints[0]);
    k->units = 2; /* the quotient, up to 2, and the difference are rounded once each */
    k->magnitude = 1;
}

static lt_tensor run_to_pixels(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_values_to_pixels(c, in[0], (int)k->ints[0], k->ints[1] != 0);
}

static void make_to_pixels(op_case *k, rng *r, bool big)
{
    k->op = "values_to_pixels";
    k->run = run_to_pixels;
    k->n_inputs = 1;
    k->ints[0] = PICK(r, 8, 8, 10, 12, 16);
    k->ints[1] = rng_range(r, 0, 1);
    k->inputs[0] = any_tensor(r, big, (values)PICK(r, VALUES_NORMAL, VALUES_NORMAL, VALUES_EXTREME));
    k->inputs[0].scale = 0.5;
}

/* ---- tiles ------------------------------------------------------------------------------------------- */

/* A tile twice into sums of zeros, at different places: ints are rows and columns around it, the border and the ends. The
 * sums' first frame is copied over the last. */
static lt_tensor run_add_tile(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    const int64_t *s = in[0].shape, *v = k->ints;
    lt_tensor sums = lt_new(c, LT_F32, 4, (int64_t[]){s[1], s[2] + v[0], s[3] + v[1], s[4]});
    lt_tensor tile = LT_VIEW(c, in[0], s[1], s[2], s[3], s[4]);
    lt_tile_weights weights = {.time = {s[1], v[3] & 1, v[3] & 2},
                               .rows = {s[2], v[3] & 4, v[3] & 8},
                               .columns = {s[3], v[3] & 16, v[3] & 32},
                               .border = v[2]};
    lt_zero(c, sums);
    lt_add_tile(c, tile, &weights, 0, 0, sums);
    lt_add_tile(c, tile, &weights, v[0], v[1], sums);
    if (s[1] > 1) lt_copy(c, lt_rows(c, sums, 0, 1), lt_rows(c, sums, s[1] - 1, 1));
    return sums;
}

static void make_add_tile(op_case *k, rng *r, bool big)
{
    k->op = "add_tile";
    k->run = run_add_tile;
    k->n_inputs = 1;
    k->inputs[0] = (spec){.rank = 5,
                          .shape = {1, rng_range(r, 0, 5), rng_range(r, 1, big ? 300 : 20),
                                    rng_range(r, 1, big ? 500 : 20), PICK(r, 1, 3, 3, 8)},
                          .dtype = DTYPE_CONTEXT,
                          .values = VALUES_WIDE};
    k->ints[0] = rng_range(r, 0, 9);
    k->ints[1] = rng_range(r, 0, 9);
    k->ints[2] = rng_range(r, 1, 9);
    k->ints[3] = rng_range(r, 0, 63);
}

static const generator generators[] = {
    {"conv", make_conv},
    {"conv_stride_1", make_same_size},
    {"conv_pointwise", make_pointwise},
    {"linear", make_linear},
    {"group_norm", make_group_norm},
    {"attention", make_attention},
    {"upsample_nearest", make_upsample},
    {"upsample_conv", make_upsample_conv},
    {"add_scaled", make_add_scaled},
    {"affine", make_affine},
    {"slice_channels", make_slice},
    {"convert", make_convert},
    {"pixels_to_values", make_from_pixels},
    {"values_to_pixels", make_to_pixels},
    {"add_tile", make_add_tile},
    {"yuv_to_rgb", make_yuv_to_rgb},
};
enum { N_BASIC = LT_COUNT(generators) };

int n_generators(void)
{
    return N_BASIC + n_transformer_generators;
}

static const generator *generator_of(int which)
{
    return which < N_BASIC ? &generators[which] : &transformer_generators[which - N_BASIC];
}

void generate_case(op_case *k, int which, rng *r, bool big)
{
    *k = (op_case){0};
    generator_of(which)->make(k, r, big);
}

const char *generator_name(int which)
{
    return generator_of(which)->name;
}
