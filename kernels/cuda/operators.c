/* operators.c - the operators that are kernels of our own, from ops.h's shapes to kernels.h's. */
#include "kernels/cuda/operators.h"
#include "kernels/convert.h"

#include <string.h>

/* E_INTERNAL of a launcher is an error of CUDA's; another, a size or dtype that it does not take. */
lt_status cuda_launched(lt_context *c, const char *op, lt_status status)
{
    if (status == LT_OK) return LT_OK;
    if (status == LT_E_INTERNAL) return cuda_check_launch(c, op, (cudaError_t)lt_launch_code());
    const cuda_device *d = c->device;
    return lt_context_fail(c, status, "%s: a kernel on cuda:%d does not take what it is given", op, d->index);
}

#define LAUNCH(op, call) cuda_launched(c, op, call)

static cudaStream_t stream_of(const lt_context *c)
{
    return cuda_of(c)->compute;
}

static int64_t last_of(const lt_tensor *t)
{
    return t->shape[t->rank - 1];
}

/* Rows of a sample: everything between the first dimension and the last. */
static int64_t inner_rows(const lt_tensor *t)
{
    return lt_n_elements(t) / (t->shape[0] * last_of(t));
}

lt_status cuda_epilogue(lt_context *c, const char *op, const float *sums, const float *bias,
                        lt_activation act, const void *residual, void *out, int64_t rows, int64_t columns)
{
    return LAUNCH(op, lt_launch_bias_act(stream_of(c), c->dtype, out, LT_F32, sums, bias, act, residual, rows,
                                         columns));
}

/* ---- norms ------------------------------------------------------------------------------------------- */

/* False after an error: then there is no vector where there should be one. */
static bool two_vectors(lt_context *c, lt_weight *a, lt_weight *b, cuda_vector *va, cuda_vector *vb)
{
    cuda_of(c);
    return cuda_weight_vector(c, a, va) && cuda_weight_vector(c, b, vb);
}

lt_status group_norm_cuda(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups,
                          double eps, lt_activation act, lt_tensor *y)
{
    cuda_vector g, b;
    int64_t n = x->shape[0], channels = last_of(x), rows = inner_rows(x);
    if (!two_vectors(c, gamma, beta, &g, &b)) return c->err.status;
    void *scratch = lt_scratch(c, lt_group_norm_scratch(c->dtype, n, rows, channels, groups));
    if (!scratch) return c->err.status;
    lt_status status = LT_OK;
    if (!c->dry)
        status = LAUNCH("group_norm",
                        lt_launch_group_norm(stream_of(c), c->dtype, y->data, x->data, n, rows, channels,
                                             groups, g.values, b.values, eps, act, scratch));
    lt_scratch_release(c, scratch);
    return status;
}

lt_status layer_norm_cuda(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
                          const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y)
{
    cuda_vector g, b;
    if (!two_vectors(c, gamma, beta, &g, &b)) return c->err.status;
    if (c->dry) return LT_OK;
    return LAUNCH("layer_norm",
                  lt_launch_layer_norm(stream_of(c), c->dtype, y->data, x->data, x->shape[0], inner_rows(x),
                                       last_of(x), g.values, b.values, eps, scale->data, shift->data));
}

lt_status rms_norm_cuda(lt_context *c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y)
{
    cuda_vector g, none;
    if (!two_vectors(c, gamma, NULL, &g, &none)) return c->err.status;
    if (c->dry) return LT_OK;
    return LAUNCH("rms_norm", lt_launch_rms_norm(stream_of(c), c->dtype, y->data, x->data,
                                                 lt_n_elements(x) / last_of(x), last_of(x), g.values, eps));
}

/* ---- elements ---------------------------------------------------------------------------------------- */

lt_status add_scaled_cuda(lt_context *c, const lt_tensor *x, const lt_tensor *y, double a, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    return LAUNCH("add_scaled", lt_launch_add_scaled(stream_of(c), c->dtype, out->data, x->data, y->data,
                                                     (float)a, lt_n_elements(x)));
}

lt_status affine_cuda(lt_context *c, const lt_tensor *x, double a, double b, lt_activation act,
                      lt_tensor *out)
{
    if (c->dry) return LT_OK;
    return LAUNCH("affine", lt_launch_affine(stream_of(c), c->dtype, out->data, x->data, (float)a, (float)b,
                                             act, lt_n_elements(x)));
}

lt_status multiply_cuda(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    return LAUNCH("multiply",
                  lt_launch_multiply(stream_of(c), c->dtype, out->data, x->data, y->data, lt_n_elements(x)));
}

lt_status combine_cuda(lt_context *c, const lt_tensor *x, double a, const lt_tensor *y, double b,
                       lt_tensor *out)
{
    if (c->dry) return LT_OK;
    return LAUNCH("combine", lt_launch_combine(stream_of(c), c->dtype, out->data, x->data, a, y->data, b,
                                               lt_n_elements(x)));
}

lt_status add_broadcast_cuda(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    return LAUNCH("add_broadcast", lt_launch_add_broadcast(stream_of(c), c->dtype, out->data, x->data,
                                                           y->data, lt_n_elements(x), lt_n_elements(y)));
}

lt_status add_gated_cuda(lt_context *c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate,
                         lt_tensor *out)
{
    if (c->dry) return LT_OK;
    bool y_is_row = lt_n_elements(y) != lt_n_elements(x);
    return LAUNCH("add_gated",
                  lt_launch_add_gated(stream_of(c), c->dtype, out->data, x->data, y->data, y_is_row,
                                      gate->data, x->shape[0], inner_rows(x), last_of(x)));
}

lt_status gated_cuda(lt_context *c, const lt_tensor *x, lt_activation act, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t channels = last_of(out);
    return LAUNCH("gated", lt_launch_gated(stream_of(c), c->dtype, out->data, x->data, act,
                                           lt_n_elements(out) / channels, channels));
}

lt_status convert_cuda(lt_context *c, const lt_tensor *x, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    if (x->dtype == out->dtype) return copy_cuda(c, x, out);
    return LAUNCH("convert", lt_launch_convert(stream_of(c), out->data, out->dtype, x->data, x->dtype,
                                               lt_n_elements(x)));
}

lt_status pixels_to_values_cuda(lt_context *c, const lt_tensor *pixels, int bits, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    return LAUNCH("pixels_to_values", lt_launch_pixels_to_values(stream_of(c), c->dtype, out->data,
                                                                 pixels->data, bits, lt_n_elements(out)));
}

lt_status values_to_pixels_cuda(lt_context *c, const lt_tensor *x, int bits, bool truncate, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    return LAUNCH("values_to_pixels", lt_launch_values_to_pixels(stream_of(c), c->dtype, out->data, x->data,
                                                                 bits, truncate, lt_n_elements(out)));
}

/* `compute` does not wait for the default stream by itself. */
lt_status yuv_to_rgb_cuda(lt_context *c, const lt_yuv *p, int bits, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    cuda_device *d = cuda_of(c);
    cudaError_t e = cudaEventRecord(d->decoded, NULL);
    if (e == cudaSuccess) e = cudaStreamWaitEvent(d->compute, d->decoded, 0);
    if (e != cudaSuccess) return cuda_check(c, "yuv_to_rgb", e);
    return LAUNCH("yuv_to_rgb", lt_launch_yuv_to_rgb(d->compute, out->data, bits, (int)out->shape[1],
                                                     (int)out->shape[0], p));
}

lt_status noise_cuda(lt_context *c, uint64_t seed, uint32_t clip, uint64_t first_frame, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    return LAUNCH("noise", lt_launch_noise(stream_of(c), c->dtype, out->data, out->shape[0],
                                           lt_n_elements(out) / out->shape[0], seed, clip, first_frame));
}

/* ---- layout ------------------------------------------------------------------------------------------ */

lt_status upsample_nearest_cuda(lt_context *c, const lt_tensor *x, int ft, int fh, int fw, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    const int64_t *s = x->shape;
    return LAUNCH("upsample_nearest",
                  lt_launch_upsample_nearest(stream_of(c), y->data, x->data, lt_dtype_bytes(x->dtype), s[0],
                                             s[1], s[2], s[3], s[4], ft, fh, fw));
}

lt_status slice_channels_cuda(lt_context *c, const lt_tensor *x, int64_t start, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    return LAUNCH("slice_channels", lt_launch_slice_channels(
                                        stream_of(c), out->data, x->data, lt_dtype_bytes(x->dtype),
                                        lt_n_elements(out) / last_of(out), last_of(x), start, last_of(out)));
}

lt_status concat_channels_cuda(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    return LAUNCH("concat_channels", lt_launch_concat_channels(
                                         stream_of(c), out->data, x->data, y->data, lt_dtype_bytes(x->dtype),
                                         lt_n_elements(out) / last_of(out), last_of(x), last_of(y)));
}

lt_status unpatchify_cuda(lt_context *c, const lt_tensor *x, int pt, int ph, int pw, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    const int64_t *s = y->shape;
    return LAUNCH("unpatchify",
                  lt_launch_unpatchify(stream_of(c), y->data, x->data, lt_dtype_bytes(x->dtype), s[0],
                                       s[1] / pt, s[2] / ph, s[3] / pw, pt, ph, pw, s[4]));
}

/* A prompt has few rows of a table that may be gigabytes: they are taken on the host, where the table lies. */
lt_status embedding_cuda(lt_context *c, lt_weight *table, const int32_t *ids, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    cuda_of(c);
    const lt_tensor *t = &table->tensor;
    int64_t width = last_of(out), rows = lt_n_elements(out) / width;
    size_t row_bytes = (size_t)width * lt_dtype_bytes(c->dtype);
    int64_t at_once = (int64_t)(CUDA_SLOT_BYTES / row_bytes);
    if (at_once == 0)
        return lt_context_fail(c, LT_E_UNSUPPORTED, "embedding: rows of %lld values", (long long)width);
    for (int64_t row = 0; row < rows; row += at_once) {
        int64_t n = LT_MIN(at_once, rows - row);
        cuda_slot *slot = cuda_stage(c, "embedding", (size_t)n * row_bytes);
        if (!slot) return c->err.status;
        for (int64_t i = 0; i < n * width; i++) {
            int64_t from = ids[row + i / width] * width + i % width;
            lt_store_f64(slot->host, c->dtype, i, lt_load_f64(t->data, t->dtype, from));
        }
        lt_status status = cuda_send(c, "embedding", slot, (char *)out->data + (size_t)row * row_bytes,
                                     (size_t)n * row_bytes, false);
        if (status != LT_OK) return status;
    }
    return LT_OK;
}

lt_status gather_rows_cuda(lt_context *c, const lt_tensor *x, const int32_t *rows, lt_tensor *out)
{
    cuda_device *d = cuda_of(c);
    int64_t n = out->shape[0], most = CUDA_SLOT_BYTES / (int64_t)sizeof(int32_t);
    size_t row_bytes = lt_tensor_bytes(out) / (size_t)n;
    int32_t *ids = lt_scratch(c, (size_t)LT_MIN(n, most) * sizeof(int32_t));
    if (!ids) return c->err.status;
    lt_status status = LT_OK;
    for (int64_t row = 0; row < n && status == LT_OK && !c->dry; row += most) {
        int64_t count = LT_MIN(most, n - row);
        size_t bytes = (size_t)count * sizeof(int32_t);
        cuda_slot *slot = cuda_stage(c, "gather_rows", bytes);
        if (!slot) break;
        memcpy(slot->host, rows + row, bytes);
        status = cuda_send(c, "gather_rows", slot, ids, bytes, false);
        if (status == LT_OK && !cuda_is_filling(d))
            status = LAUNCH("gather_rows",
                            lt_launch_gather_rows(d->compute, (char *)out->data + (size_t)row * row_bytes,
                                                  x->dtype, x->data, x->dtype, x->shape[0], x->shape[1], ids,
                                                  count, NULL));
    }
    lt_scratch_release(c, ids);
    return c->err.status;
}

/* ---- tiles ------------------------------------------------------------------------------------------- */

lt_status add_tile_cuda(lt_context *c, const lt_tensor *tile, const lt_tile_weights *weights, int64_t row,
                        int64_t column, lt_tensor *sums)
{
    if (c->dry) return LT_OK;
    return LAUNCH("add_tile",
                  lt_launch_tile_add(stream_of(c), c->dtype, sums->data, tile->data, tile->shape[0],
                                     sums->shape[1], sums->shape[2], sums->shape[3], row, column, weights));
}
