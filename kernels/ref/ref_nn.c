/* ref_nn.c - the reference's operators with reductions: convolution, linear, group norm, attention. */
#include "kernels/ref/ref.h"
#include "kernels/convert.h"

#include <stdlib.h>

/* One output value's sum over the kernel window and the input channels. */
static double conv_sum(const lt_conv_dims *d, const double *x, const double *w, const int64_t at[4],
                       int64_t o)
{
    double sum = 0;
    for (int64_t kt = 0; kt < d->kt; kt++)
        for (int64_t kh = 0; kh < d->kh; kh++)
            for (int64_t kw = 0; kw < d->kw; kw++) {
                int64_t t = at[1] * d->st + kt - d->front;
                int64_t h = at[2] * d->sh + kh - d->top;
                int64_t v = at[3] * d->sw + kw - d->left;
                if (t < 0 || t >= d->t || h < 0 || h >= d->h || v < 0 || v >= d->w) continue;
                const double *row = x + (((at[0] * d->t + t) * d->h + h) * d->w + v) * d->i;
                const double *taps = w + ((o * d->i * d->kt + kt) * d->kh + kh) * d->kw + kw;
                for (int64_t i = 0; i < d->i; i++) sum += row[i] * taps[i * d->kt * d->kh * d->kw];
            }
    return sum;
}

static void conv_values(lt_context *c, const double *xs, const lt_weight *weight, const lt_weight *bias,
                        const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    double *w = ref_load_weight(c, weight), *b = ref_load_weight(c, bias);
    int64_t n = c->err.status == LT_OK ? lt_n_elements(y) : 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t o = i % d->o, pixel = i / d->o;
        int64_t at[4] = {pixel / (d->to * d->ho * d->wo), pixel / (d->ho * d->wo) % d->to,
                         pixel / d->wo % d->ho, pixel % d->wo};
        double sum = conv_sum(d, xs, w, at, o) + (b ? b[o] : 0);
        if (residual->data) sum += lt_load_f64(residual->data, residual->dtype, i);
        lt_store_f64(y->data, y->dtype, i, sum);
    }
    free(w);
    free(b);
}

lt_status conv_ref(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                   const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    double *xs = ref_load(c, x);
    conv_values(c, xs, weight, bias, d, residual, y);
    free(xs);
    return c->err.status;
}

/* x in f64, upsampled by 2 in h and w. */
static double *load_upsampled(lt_context *c, const lt_tensor *x, const lt_conv_dims *d)
{
    int64_t n = d->n * d->t * d->h * d->w * d->i;
    double *values = malloc((size_t)LT_MAX(n, 1) * sizeof(double));
    if (!values) lt_context_fail(c, LT_E_NO_MEMORY, "ref: out of memory for %lld values", (long long)n);
    for (int64_t i = 0; i < n && values; i++) {
        int64_t w = i / d->i % d->w, row = i / d->i / d->w, frame = row / d->h, h = row % d->h;
        int64_t from = (frame * (d->h / 2) + h / 2) * (d->w / 2) + w / 2;
        values[i] = lt_load_f64(x->data, x->dtype, from * d->i + i % d->i);
    }
    return values;
}

lt_status upsample_conv_ref(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                            const lt_conv_dims *d, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    double *xs = load_upsampled(c, x, d);
    conv_values(c, xs, weight, bias, d, &LT_NONE, y);
    free(xs);
    return c->err.status;
}

lt_status linear_ref(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias, lt_activation act,
                     const lt_tensor *residual, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    double *xs = ref_load(c, x), *w = ref_load_weight(c, weight), *b = ref_load_weight(c, bias);
    int64_t n = c->err.status == LT_OK ? lt_n_elements(y) : 0;
    int64_t outputs = weight->tensor.shape[0], inputs = weight->tensor.shape[1];
    for (int64_t i = 0; i < n; i++) {
        int64_t o = i % outputs, row = i / outputs;
        double sum = b ? b[o] : 0;
        for (int64_t k = 0; k < inputs; k++) sum += xs[row * inputs + k] * w[o * inputs + k];
        sum = ref_activation(act, sum);
        if (residual->data) sum += lt_load_f64(residual->data, residual->dtype, i);
        lt_store_f64(y->data, y->dtype, i, sum);
    }
    free(xs);
    free(w);
    free(b);
    return c->err.status;
}

/* Two passes: the mean, then the variance around it. x and y are sample n's first element of the group. */
static void norm_group(const double *x, const double *gamma, const double *beta, int64_t rows,
                       int64_t channels, int64_t first, int64_t width, double eps, lt_activation act,
                       lt_tensor *y, int64_t offset)
{
    double mean = 0, variance = 0, count = (double)(rows * width);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = first; i < first + width; i++) mean += x[r * channels + i];
    mean /= count;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = first; i < first + width; i++) {
            double d = x[r * channels + i] - mean;
            variance += d * d;
        }
    double inverse = 1 / sqrt(variance / count + eps);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = first; i < first + width; i++) {
            double value = (x[r * channels + i] - mean) * inverse * gamma[i] + beta[i];
            lt_store_f64(y->data, y->dtype, offset + r * channels + i, ref_activation(act, value));
        }
}

lt_status group_norm_ref(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups,
                         double eps, lt_activation act, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    double *xs = ref_load(c, x), *g = ref_load_weight(c, gamma), *b = ref_load_weight(c, beta);
    if (c->err.status == LT_OK) {
        int64_t channels = x->shape[x->rank - 1], width = channels / groups;
        int64_t sample = lt_n_elements(x) / x->shape[0];
        for (int64_t n = 0; n < x->shape[0]; n++)
            for (int64_t i = 0; i < channels; i += width)
                norm_group(xs + n * sample, g, b, sample / channels, channels, i, width, eps, act, y,
                           n * sample);
    }
    free(xs);
    free(g);
    free(b);
    return c->err.status;
}

/* One query row: scores, softmax, weighted sum of values. A row that may see no key at all gives zeros. */
static void attend(const double *q, const double *k, const double *v, const double *mask, int64_t n_keys,
                   int64_t stride, int64_t width, double scale, double *scores, double *out)
{
    double max = -INFINITY, sum = 0;
    for (int64_t s = 0; s < n_keys; s++) {
        double dot = 0;
        for (int64_t i = 0; i < width; i++) dot += q[i] * k[s * stride + i];
        scores[s] = dot * scale + (mask ? mask[s] : 0);
        max = scores[s] > max || isnan(scores[s]) ? scores[s] : max;
    }
    for (int64_t i = 0; i < width; i++) out[i] = 0;
    if (max == -INFINITY) return;
    for (int64_t s = 0; s < n_keys; s++) sum += scores[s] = exp(scores[s] - max);
    for (int64_t s = 0; s < n_keys; s++)
        for (int64_t i = 0; i < width; i++) out[i] += scores[s] / sum * v[s * stride + i];
}

static const double *mask_row(const lt_tensor *mask, const double *values, int64_t b, int64_t h, int64_t l)
{
    if (!values) return NULL;
    const int64_t *s = mask->shape;
    return values + (((s[0] == 1 ? 0 : b) * s[1] + (s[1] == 1 ? 0 : h)) * s[2] + (s[2] == 1 ? 0 : l)) * s[3];
}

lt_status attention_ref(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                        const lt_tensor *mask, double scale, bool causal, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    int64_t batch = q->shape[0], length = q->shape[1], heads = q->shape[2], width = q->shape[3],
            keys = k->shape[1];
    double *qs = ref_load(c, q), *ks = ref_load(c, k), *vs = ref_load(c, v), *ms = ref_load(c, mask);
    double *scores = malloc((size_t)(keys + width) * sizeof(double));
    if (!scores) lt_context_fail(c, LT_E_NO_MEMORY, "ref: out of memory");
    for (int64_t i = 0; i < batch * length * heads && c->err.status == LT_OK; i++) {
        int64_t h = i % heads, l = i / heads % length, b = i / heads / length;
        int64_t from = (b * keys * heads + h) * width;
        int64_t visible = causal ? LT_MIN(l + 1, keys) : keys;
        double *out = scores + keys;
        attend(qs + i * width, ks + from, vs + from, mask_row(mask, ms, b, h, l), visible, heads * width,
               width, scale, scores, out);
        for (int64_t e = 0; e < width; e++) lt_store_f64(y->data, y->dtype, i * width + e, out[e]);
    }
    free(qs);
    free(ks);
    free(vs);
    free(ms);
    free(scores);
    return c->err.status;
}
