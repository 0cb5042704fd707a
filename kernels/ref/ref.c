/* ref.c - the reference backend: scalar, in f64, as close to the formulas as C allows. What every other backend is
 * tested against; never fast. */
#include "kernels/ref/ref.h"
#include "kernels/convert.h"

#include <stdio.h>
#include <stdlib.h>

double *ref_load(lt_context *c, const lt_tensor *tensor)
{
    if (!tensor->data) return NULL;
    int64_t n = lt_n_elements(tensor);
    double *values = malloc((size_t)LT_MAX(n, 1) * sizeof(double));
    if (!values) {
        lt_context_fail(c, LT_E_NO_MEMORY, "ref: out of memory for %lld values", (long long)n);
        return NULL;
    }
    for (int64_t i = 0; i < n; i++) values[i] = lt_load_f64(tensor->data, tensor->dtype, i);
    return values;
}

double *ref_load_weight(lt_context *c, const lt_weight *weight)
{
    return weight ? ref_load(c, &weight->tensor) : NULL;
}

double ref_activation(lt_activation act, double x)
{
    switch (act) {
    case LT_ACT_SILU: return x / (1 + exp(-x));
    case LT_ACT_GELU_ERF: return x * 0.5 * erfc(-x * M_SQRT1_2);
    case LT_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case LT_ACT_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    default: return x;
    }
}

static lt_status probe_ref(int index, lt_device_info *info, lt_err *err)
{
    if (index != 0) return lt_fail(err, LT_E_NOT_FOUND, "there is one device 'ref', not 'ref:%d'", index);
    *info = (lt_device_info){.name = "ref", .host_memory = true};
    return LT_OK;
}

static lt_status open_ref(void **device, int index, lt_dtype dtype, int threads, char *numeric_class,
                          size_t class_bytes, lt_err *err)
{
    *device = NULL;
    lt_device_info info;
    lt_status found = probe_ref(index, &info, err);
    if (found != LT_OK) return found;
    snprintf(numeric_class, class_bytes, "ref/epoch-%d/%s", lt_backend_ref.numeric_epoch,
             lt_dtype_name(dtype));
    return LT_OK;
}

static void close_ref(void *device) {}

static void release_weight_ref(lt_context *c, lt_weight *weight) {}

static lt_status upsample_nearest_ref(lt_context *c, const lt_tensor *x, int ft, int fh, int fw, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    const int64_t *in = x->shape, *out = y->shape;
    int64_t channels = in[4], at = 0;
    for (int64_t n = 0; n < out[0]; n++)
        for (int64_t t = 0; t < out[1]; t++)
            for (int64_t h = 0; h < out[2]; h++)
                for (int64_t w = 0; w < out[3]; w++) {
                    int64_t from = (((n * in[1] + t / ft) * in[2] + h / fh) * in[3] + w / fw) * channels;
                    for (int64_t i = 0; i < channels; i++, at++)
                        lt_store_f64(y->data, y->dtype, at, lt_load_f64(x->data, x->dtype, from + i));
                }
    return LT_OK;
}

static lt_status add_scaled_ref(lt_context *c, const lt_tensor *x, const lt_tensor *y, double a,
                                lt_tensor *out)
{
    if (c->dry) return LT_OK;
    for (int64_t i = 0; i < lt_n_elements(x); i++) {
        double sum = lt_load_f64(x->data, x->dtype, i) + a * lt_load_f64(y->data, y->dtype, i);
        lt_store_f64(out->data, out->dtype, i, sum);
    }
    return LT_OK;
}

static lt_status affine_ref(lt_context *c, const lt_tensor *x, double a, double b, lt_activation act,
                            lt_tensor *out)
{
    if (c->dry) return LT_OK;
    for (int64_t i = 0; i < lt_n_elements(x); i++)
        lt_store_f64(out->data, out->dtype, i,
                     ref_activation(act, a * lt_load_f64(x->data, x->dtype, i) + b));
    return LT_OK;
}

static lt_status slice_channels_ref(lt_context *c, const lt_tensor *x, int64_t start, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t channels = x->shape[x->rank - 1], n = out->shape[out->rank - 1];
    for (int64_t i = 0; i < lt_n_elements(out); i++) {
        double value = lt_load_f64(x->data, x->dtype, i / n * channels + start + i % n);
        lt_store_f64(out->data, out->dtype, i, value);
    }
    return LT_OK;
}

static lt_status convert_ref(lt_context *c, const lt_tensor *x, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    if (x->dtype == out->dtype) {
        memcpy(out->data, x->data, lt_tensor_bytes(x));
        return LT_OK;
    }
    for (int64_t i = 0; i < lt_n_elements(x); i++)
        lt_store_f64(out->data, out->dtype, i, lt_load_f64(x->data, x->dtype, i));
    return LT_OK;
}

static lt_status pixels_to_values_ref(lt_context *c, const lt_tensor *pixels, int bits, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    double half = (double)((1 << bits) - 1) / 2;
    for (int64_t i = 0; i < lt_n_elements(pixels); i++)
        lt_store_f64(out->data, out->dtype, i, lt_load_f64(pixels->data, pixels->dtype, i) / half - 1);
    return LT_OK;
}

static lt_status values_to_pixels_ref(lt_context *c, const lt_tensor *x, int bits, bool truncate,
                                      lt_tensor *out)
{
    if (c->dry) return LT_OK;
    double max = (double)((1 << bits) - 1);
    for (int64_t i = 0; i < lt_n_elements(x); i++) {
        double value = (lt_load_f64(x->data, x->dtype, i) + 1) * (max / 2);
        value = value > 0 ? LT_MIN(value, max) : 0; /* NaN becomes 0 */
        lt_store_f64(out->data, out->dtype, i, truncate ? floor(value) : value);
    }
    return LT_OK;
}

static lt_status add_tile_ref(lt_context *c, const lt_tensor *tile, const lt_tile_weights *w, int64_t row,
                              int64_t column, lt_tensor *sums)
{
    if (c->dry) return LT_OK;
    const int64_t *s = tile->shape;
    float *to = sums->data;
    for (int64_t i = 0; i < lt_n_elements(tile); i++) {
        int64_t channel = i % s[3], x = i / s[3] % s[2], y = i / s[3] / s[2] % s[1],
                t = i / s[3] / s[2] / s[1];
        int64_t near =
            LT_MIN(lt_ramp_distance(&w->time, t, w->border), lt_ramp_distance(&w->rows, y, w->border));
        near = LT_MIN(near, lt_ramp_distance(&w->columns, x, w->border));
        int64_t cell = (t * sums->shape[1] + row + y) * sums->shape[2] + column + x;
        to[cell * s[3] + channel] += (float)lt_load_f64(tile->data, tile->dtype, i) * lt_tile_weight(w, near);
    }
    return LT_OK;
}

const lt_backend lt_backend_ref = {
    .abi = LT_BACKEND_ABI,
    .bytes = sizeof(lt_backend),
    .name = "ref",
    .numeric_epoch = 1,
    .any_float = true,
    .host_memory = true,
    .dtypes = 1u << LT_F32 | 1u << LT_BF16 | 1u << LT_F16 | 1u << LT_F64,
    .probe = probe_ref,
    .open = open_ref,
    .close = close_ref,
    .memory_create = lt_host_memory_create,
    .memory_destroy = lt_host_memory_destroy,
    .upload = lt_host_upload,
    .download = lt_host_download,
    .wait = lt_host_wait,
    .copy = lt_host_copy,
    .zero = lt_host_zero,
    .record = lt_no_record,
    .share_create = lt_no_share_create,
    .share_open = lt_no_share_open,
    .share_close = lt_no_share_close,
    .share_mark = lt_no_share_mark,
    .share_await = lt_no_share_mark,
    .conv = conv_ref,
    .linear = linear_ref,
    .group_norm = group_norm_ref,
    .attention = attention_ref,
    .upsample_nearest = upsample_nearest_ref,
    .upsample_conv = upsample_conv_ref,
    .add_scaled = add_scaled_ref,
    .affine = affine_ref,
    .slice_channels = slice_channels_ref,
    .convert = convert_ref,
    .layer_norm = layer_norm_ref,
    .rms_norm = rms_norm_ref,
    .add_broadcast = add_broadcast_ref,
    .add_gated = add_gated_ref,
    .multiply = multiply_ref,
    .combine = combine_ref,
    .gated = gated_ref,
    .concat_channels = concat_channels_ref,
    .embedding = embedding_ref,
    .gather_rows = gather_rows_ref,
    .unpatchify = unpatchify_ref,
    .noise = noise_ref,
    .pixels_to_values = pixels_to_values_ref,
    .values_to_pixels = values_to_pixels_ref,
    .yuv_to_rgb = yuv_to_rgb_ref,
    .add_tile = add_tile_ref,
    .release_weight = release_weight_ref,
};
