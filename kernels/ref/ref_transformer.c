/* ref_transformer.c - the reference's operators for transformers: norms with modulation, gates, tables, tokens, noise. */
#include "kernels/convert.h"
#include "kernels/noise.h"
#include "kernels/ref/ref.h"

#include <stdlib.h>

static double at(const lt_tensor *t, int64_t i)
{
    return lt_load_f64(t->data, t->dtype, i);
}

/* An optional operand. */
static double at_or(const lt_tensor *t, int64_t i, double otherwise)
{
    return t && t->data ? at(t, i) : otherwise;
}

static const lt_tensor *values_of(const lt_weight *weight)
{
    return weight ? &weight->tensor : NULL;
}

lt_status layer_norm_ref(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
                         const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    int64_t channels = x->shape[x->rank - 1], total = lt_n_elements(x), sample = total / x->shape[0];
    for (int64_t row = 0; row < total; row += channels) {
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < channels; i++) mean += at(x, row + i) / (double)channels;
        for (int64_t i = 0; i < channels; i++)
            variance += (at(x, row + i) - mean) * (at(x, row + i) - mean) / (double)channels;
        int64_t n = row / sample * channels;
        for (int64_t i = 0; i < channels; i++) {
            double value = (at(x, row + i) - mean) / sqrt(variance + eps);
            value = value * at_or(values_of(gamma), i, 1) + at_or(values_of(beta), i, 0);
            value = value * (1 + at_or(scale, n + i, 0)) + at_or(shift, n + i, 0);
            lt_store_f64(y->data, y->dtype, row + i, value);
        }
    }
    return LT_OK;
}

lt_status rms_norm_ref(lt_context *c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    int64_t channels = x->shape[x->rank - 1], total = lt_n_elements(x);
    for (int64_t row = 0; row < total; row += channels) {
        double square = 0;
        for (int64_t i = 0; i < channels; i++) square += at(x, row + i) * at(x, row + i);
        for (int64_t i = 0; i < channels; i++) {
            double value = at(x, row + i) / sqrt(square / (double)channels + eps) * at(&gamma->tensor, i);
            lt_store_f64(y->data, y->dtype, row + i, value);
        }
    }
    return LT_OK;
}

lt_status add_broadcast_ref(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    for (int64_t i = 0; i < lt_n_elements(x); i++)
        lt_store_f64(out->data, out->dtype, i, at(x, i) + at(y, i % lt_n_elements(y)));
    return LT_OK;
}

lt_status add_gated_ref(lt_context *c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate,
                        lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t channels = x->shape[x->rank - 1], total = lt_n_elements(x), sample = total / x->shape[0];
    bool whole = lt_n_elements(y) == total;
    for (int64_t i = 0; i < total; i++) {
        int64_t n = i / sample * channels + i % channels;
        double value = at(x, i) + at_or(gate, n, 1) * at(y, whole ? i : n);
        lt_store_f64(out->data, out->dtype, i, value);
    }
    return LT_OK;
}

lt_status multiply_ref(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    for (int64_t i = 0; i < lt_n_elements(x); i++)
        lt_store_f64(out->data, out->dtype, i, at(x, i) * at(y, i));
    return LT_OK;
}

lt_status combine_ref(lt_context *c, const lt_tensor *x, double a, const lt_tensor *y, double b,
                      lt_tensor *out)
{
    if (c->dry) return LT_OK;
    for (int64_t i = 0; i < lt_n_elements(x); i++)
        lt_store_f64(out->data, out->dtype, i, a * at(x, i) + b * at(y, i));
    return LT_OK;
}

lt_status gated_ref(lt_context *c, const lt_tensor *x, lt_activation act, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t n = out->shape[out->rank - 1];
    for (int64_t i = 0; i < lt_n_elements(out); i++) {
        int64_t from = i / n * 2 * n + i % n;
        lt_store_f64(out->data, out->dtype, i, at(x, from) * ref_activation(act, at(x, from + n)));
    }
    return LT_OK;
}

lt_status concat_channels_ref(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t n = out->shape[out->rank - 1], n_x = x->shape[x->rank - 1], n_y = n - n_x;
    for (int64_t i = 0; i < lt_n_elements(out); i++) {
        int64_t row = i / n, k = i % n;
        lt_store_f64(out->data, out->dtype, i, k < n_x ? at(x, row * n_x + k) : at(y, row * n_y + k - n_x));
    }
    return LT_OK;
}

static lt_status rows_of(lt_context *c, const lt_tensor *table, const int32_t *ids, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t n = table->shape[1];
    for (int64_t i = 0; i < lt_n_elements(out); i++)
        lt_store_f64(out->data, out->dtype, i, at(table, ids[i / n] * n + i % n));
    return LT_OK;
}

lt_status embedding_ref(lt_context *c, lt_weight *table, const int32_t *ids, lt_tensor *out)
{
    return rows_of(c, &table->tensor, ids, out);
}

lt_status gather_rows_ref(lt_context *c, const lt_tensor *x, const int32_t *rows, lt_tensor *out)
{
    return rows_of(c, x, rows, out);
}

lt_status unpatchify_ref(lt_context *c, const lt_tensor *x, int pt, int ph, int pw, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    const int64_t *s = y->shape;
    int64_t i = 0, h_tokens = s[2] / ph, w_tokens = s[3] / pw;
    for (int64_t n = 0; n < s[0]; n++)
        for (int64_t t = 0; t < s[1]; t++)
            for (int64_t h = 0; h < s[2]; h++)
                for (int64_t w = 0; w < s[3]; w++)
                    for (int64_t e = 0; e < s[4]; e++, i++) {
                        int64_t token = ((n * (s[1] / pt) + t / pt) * h_tokens + h / ph) * w_tokens + w / pw;
                        int64_t place = ((t % pt * ph + h % ph) * pw + w % pw) * s[4] + e;
                        lt_store_f64(y->data, y->dtype, i, at(x, token * x->shape[2] + place));
                    }
    return LT_OK;
}

lt_status noise_ref(lt_context *c, uint64_t seed, uint32_t clip, uint64_t first_frame, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t frame = lt_n_elements(out) / out->shape[0];
    for (int64_t i = 0; i < lt_n_elements(out); i++) {
        float four[4];
        lt_noise_block(four, seed, clip, first_frame + (uint64_t)(i / frame), (uint32_t)(i % frame / 4));
        lt_store_f64(out->data, out->dtype, i, (double)four[i % frame % 4]);
    }
    return LT_OK;
}
