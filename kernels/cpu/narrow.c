/* narrow.c - convolutions from many channels to four or fewer, such as a decoder's last. The matrix kernels and oneDNN would
 * compute 16 or 32 columns, of which most are padding; here a vector holds inputs, and its lanes are summed at the end.
 *
 * A row of outputs is computed by one thread, NARROW_PIXELS at a time; pixels do not meet. */
#include "kernels/convert.h"
#include "kernels/cpu/cpu.h"

enum { MOST_INPUTS = 4096, MOST_TAPS = 64 };

static const float zeros[MOST_INPUTS]; /* what lies beside the frame, in f32 or bf16 */

bool cpu_conv_is_narrow(const lt_conv_dims *d)
{
    return d->o <= NARROW_OUTPUTS && d->i % 16 == 0 && d->i >= 32 && d->i <= MOST_INPUTS &&
           d->kt * d->kh * d->kw <= MOST_TAPS;
}

/* Vectors of inputs: [taps][inputs / lanes][outputs][lanes]. NULL when dry or after an error. */
static const float *narrow_weight(lt_context *c, lt_weight *weight, const lt_conv_dims *d)
{
    const cpu_packed *found = cpu_packed_find(weight, CPU_FORM_NARROW, c->dtype);
    if (found) return found->data;
    int64_t taps = d->kt * d->kh * d->kw, lanes = cpu_of(c)->simd->tile_columns / 2;
    size_t bytes = (size_t)(taps * d->i * d->o) * sizeof(float);
    cpu_packed *p = cpu_packed_add(c, weight, CPU_FORM_NARROW, c->dtype, bytes, NULL, 0);
    if (!p) return NULL;
    for (int64_t o = 0; o < d->o; o++)
        for (int64_t i = 0; i < d->i; i++) {
            float values[MOST_TAPS];
            cpu_weight_values(values, LT_F32, &weight->tensor, (o * d->i + i) * taps, taps);
            for (int64_t tap = 0; tap < taps; tap++) {
                float value = values[tap];
                if (c->dtype == LT_BF16) value = lt_bf16_to_f32(lt_f32_to_bf16(value));
                int64_t to = ((tap * (d->i / lanes) + i / lanes) * d->o + o) * lanes + i % lanes;
                ((float *)p->data)[to] = value;
            }
        }
    return p->data;
}

/* Where the inputs of a row's pixels from w on lie: from[taps][NARROW_PIXELS]. */
static void find_inputs(const lt_conv_dims *d, const lt_tensor *x, int64_t row, int64_t w, const void **from)
{
    int64_t h0 = row % d->ho * d->sh - d->top, t0 = row / d->ho % d->to * d->st - d->front;
    int64_t sample = row / d->ho / d->to;
    size_t pixel_bytes = (size_t)d->i * lt_dtype_bytes(x->dtype);
    for (int64_t kt = 0; kt < d->kt; kt++)
        for (int64_t kh = 0; kh < d->kh; kh++) {
            int64_t t = t0 + kt, h = h0 + kh;
            bool inside = t >= 0 && t < d->t && h >= 0 && h < d->h;
            const char *line = (const char *)x->data;
            if (inside) line += (size_t)(((sample * d->t + t) * d->h + h) * d->w) * pixel_bytes;
            for (int64_t kw = 0; kw < d->kw; kw++)
                for (int64_t i = 0; i < NARROW_PIXELS; i++) {
                    int64_t at = (w + i) * d->sw - d->left + kw;
                    bool there = inside && w + i < d->wo && at >= 0 && at < d->w;
                    *from++ = there ? (const void *)(line + (size_t)at * pixel_bytes) : zeros;
                }
        }
}

static void compute_row(const cpu_simd *simd, const lt_conv_dims *d, const lt_tensor *x, const float *weight,
                        const float *bias, const lt_tensor *residual, lt_tensor *y, int64_t row)
{
    const void *from[MOST_TAPS * NARROW_PIXELS];
    float sums[NARROW_PIXELS * NARROW_OUTPUTS];
    for (int64_t w = 0; w < d->wo; w += NARROW_PIXELS) {
        find_inputs(d, x, row, w, from);
        simd->narrow(sums, from, weight, x->dtype == LT_BF16, d->kt * d->kh * d->kw, d->i, d->o);
        int64_t first = (row * d->wo + w) * d->o, n = LT_MIN(NARROW_PIXELS, d->wo - w) * d->o;
        for (int64_t i = 0; i < n; i++) {
            float value = sums[i] + (bias ? bias[i % d->o] : 0);
            if (residual->data) value += (float)lt_load_f64(residual->data, residual->dtype, first + i);
            lt_store_f64(y->data, y->dtype, first + i, (double)value);
        }
    }
}

lt_status conv_narrow_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                          const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    const float *w = narrow_weight(c, weight, d), *b = cpu_weight_vector(c, bias);
    if (c->dry || c->err.status != LT_OK) return c->err.status;
    int64_t n_rows = d->n * d->to * d->ho;
    int threads = (int)LT_MIN((int64_t)cpu_of(c)->threads, n_rows);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t row = 0; row < n_rows; row++) compute_row(cpu_of(c)->simd, d, x, w, b, residual, y, row);
    return LT_OK;
}
