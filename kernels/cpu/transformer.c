/* transformer.c - operators that transformers add, in pieces whose size does not depend on the number of threads. */
#include "kernels/cpu/cpu.h"
#include "kernels/convert.h"
#include "kernels/noise.h"

enum { PIECE = 32768 };

static char *at(const lt_tensor *t, int64_t element)
{
    return (char *)(uintptr_t)t->data + (size_t)element * lt_dtype_bytes(t->dtype);
}

static bool is_bf16(const lt_context *c)
{
    return c->dtype == LT_BF16;
}

static int threads_for(const lt_context *c, int64_t elements)
{
    return (int)LT_MIN((int64_t)cpu_of(c)->threads, (elements + PIECE - 1) / PIECE);
}

/* ---- norms ------------------------------------------------------------------------------------------- */

/* factor = gamma (1 + scale), offset = beta (1 + scale) + shift of sample n, in f64 rounded once. */
static void modulation(float *factor, float *offset, const float *gamma, const float *beta,
                       const lt_tensor *scale, const lt_tensor *shift, int64_t n, int64_t channels)
{
    for (int64_t i = 0; i < channels; i++) {
        int64_t e = n * channels + i;
        double by = scale->data ? 1 + lt_load_f64(scale->data, scale->dtype, e) : 1;
        double and = shift->data ? lt_load_f64(shift->data, shift->dtype, e) : 0;
        factor[i] = (float)((gamma ? (double)gamma[i] : 1) * by);
        offset[i] = (float)((beta ? (double)beta[i] : 0) * by + and);
    }
}

lt_status layer_norm_cpu(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
                         const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y)
{
    int64_t channels = x->shape[x->rank - 1], n_rows = lt_n_elements(x) / channels;
    int64_t samples = scale->data || shift->data ? x->shape[0] : 1, rows = n_rows / samples;
    const float *g = cpu_weight_vector(c, gamma), *b = cpu_weight_vector(c, beta);
    if (c->err.status != LT_OK) return c->err.status;
    float *factors = lt_scratch(c, (size_t)(2 * samples * channels) * sizeof(float));
    if (!factors) return c->err.status;
    float *offsets = factors + samples * channels;
    if (!c->dry) {
#pragma omp parallel num_threads(threads_for(c, lt_n_elements(x)))
        {
#pragma omp for schedule(static)
            for (int64_t n = 0; n < samples; n++)
                modulation(factors + n * channels, offsets + n * channels, g, b, scale, shift, n, channels);
#pragma omp for schedule(static)
            for (int64_t r = 0; r < n_rows; r++) {
                int64_t n = r / rows * channels;
                cpu_norm_rows p = {.eps = eps, .factor = factors + n, .offset = offsets + n};
                cpu_of(c)->simd->norm_rows(at(y, r * channels), at(x, r * channels), is_bf16(c), 1, channels,
                                           &p);
            }
        }
    }
    lt_scratch_release(c, factors);
    return LT_OK;
}

lt_status rms_norm_cpu(lt_context *c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y)
{
    int64_t channels = x->shape[x->rank - 1], n_rows = lt_n_elements(x) / channels;
    cpu_norm_rows p = {.eps = eps, .factor = cpu_weight_vector(c, gamma)};
    if (c->dry || c->err.status != LT_OK) return c->err.status;
#pragma omp parallel for num_threads(threads_for(c, lt_n_elements(x))) schedule(static)
    for (int64_t r = 0; r < n_rows; r++)
        cpu_of(c)->simd->norm_rows(at(y, r * channels), at(x, r * channels), is_bf16(c), 1, channels, &p);
    return LT_OK;
}

/* ---- sums and products ------------------------------------------------------------------------------- */

lt_status add_broadcast_cpu(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t total = lt_n_elements(x), period = lt_n_elements(y), n_pieces = (total + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads_for(c, total)) schedule(static)
    for (int64_t piece = 0; piece < n_pieces; piece++) {
        int64_t i = piece * PIECE, end = LT_MIN(i + PIECE, total);
        while (i < end) {
            int64_t n = LT_MIN(end - i, period - i % period);
            cpu_of(c)->simd->add_scaled(at(out, i), at(x, i), at(y, i % period), is_bf16(c), 1, n);
            i += n;
        }
    }
    return LT_OK;
}

lt_status add_gated_cpu(lt_context *c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate,
                        lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t total = lt_n_elements(x), channels = x->shape[x->rank - 1];
    int64_t n_rows = total / channels, rows = n_rows / x->shape[0];
    bool whole = lt_n_elements(y) == total;
#pragma omp parallel for num_threads(threads_for(c, total)) schedule(static)
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t i = r * channels, n = r / rows * channels;
        const char *by = at(y, whole ? i : n);
        if (gate->data) {
            cpu_of(c)->simd->gate(at(out, i), at(x, i), by, at(gate, n), is_bf16(c), channels);
        } else {
            cpu_of(c)->simd->add_scaled(at(out, i), at(x, i), by, is_bf16(c), 1, channels);
        }
    }
    return LT_OK;
}

lt_status multiply_cpu(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t total = lt_n_elements(x);
#pragma omp parallel for num_threads(threads_for(c, total)) schedule(static)
    for (int64_t i = 0; i < total; i += PIECE)
        cpu_of(c)->simd->multiply(at(out, i), at(x, i), at(y, i), is_bf16(c),
                                  LT_MIN((int64_t)PIECE, total - i));
    return LT_OK;
}

/* bf16 is rounded once, from f64. */
static void combine_bf16(lt_tensor *out, const lt_tensor *x, double a, const lt_tensor *y, double b,
                         int64_t first, int64_t n)
{
    for (int64_t i = first; i < first + n; i++) {
        double sum = a * lt_load_f64(x->data, LT_BF16, i) + b * lt_load_f64(y->data, LT_BF16, i);
        lt_store_f64(out->data, LT_BF16, i, sum);
    }
}

lt_status combine_cpu(lt_context *c, const lt_tensor *x, double a, const lt_tensor *y, double b,
                      lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t total = lt_n_elements(x);
#pragma omp parallel for num_threads(threads_for(c, total)) schedule(static)
    for (int64_t i = 0; i < total; i += PIECE) {
        int64_t n = LT_MIN((int64_t)PIECE, total - i);
        if (is_bf16(c)) {
            combine_bf16(out, x, a, y, b, i, n);
        } else {
            cpu_of(c)->simd->combine((float *)out->data + i, (const float *)x->data + i, a,
                                     (const float *)y->data + i, b, n);
        }
    }
    return LT_OK;
}

lt_status gated_cpu(lt_context *c, const lt_tensor *x, lt_activation act, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t total = lt_n_elements(out), channels = out->shape[out->rank - 1], n_rows = total / channels;
#pragma omp parallel for num_threads(threads_for(c, total)) schedule(static)
    for (int64_t r = 0; r < n_rows; r++)
        cpu_of(c)->simd->glu(at(out, r * channels), at(x, 2 * r * channels), is_bf16(c), act, 1, channels);
    return LT_OK;
}

/* ---- shapes, tables ---------------------------------------------------------------------------------- */

lt_status concat_channels_cpu(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t total = lt_n_elements(out), n = out->shape[out->rank - 1];
    int64_t n_x = x->shape[x->rank - 1], n_y = n - n_x, n_rows = total / n;
    size_t size = lt_dtype_bytes(out->dtype);
#pragma omp parallel for num_threads(threads_for(c, total)) schedule(static)
    for (int64_t r = 0; r < n_rows; r++) {
        memcpy(at(out, r * n), at(x, r * n_x), (size_t)n_x * size);
        memcpy(at(out, r * n + n_x), at(y, r * n_y), (size_t)n_y * size);
    }
    return LT_OK;
}

lt_status embedding_cpu(lt_context *c, lt_weight *table, const int32_t *ids, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t n = table->tensor.shape[1], n_ids = lt_n_elements(out) / n;
#pragma omp parallel for num_threads(threads_for(c, n_ids *n)) schedule(static)
    for (int64_t i = 0; i < n_ids; i++)
        cpu_weight_values(at(out, i * n), out->dtype, &table->tensor, ids[i] * n, n);
    return LT_OK;
}

lt_status gather_rows_cpu(lt_context *c, const lt_tensor *x, const int32_t *rows, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t n = x->shape[1], n_rows = out->shape[0];
#pragma omp parallel for num_threads(threads_for(c, n_rows *n)) schedule(static)
    for (int64_t i = 0; i < n_rows; i++)
        memcpy(at(out, i * n), at(x, rows[i] * n), (size_t)n * lt_dtype_bytes(x->dtype));
    return LT_OK;
}

lt_status unpatchify_cpu(lt_context *c, const lt_tensor *x, int pt, int ph, int pw, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    const int64_t *s = y->shape;
    int64_t run = pw * s[4], w_tokens = s[3] / pw, h_tokens = s[2] / ph, t_tokens = s[1] / pt;
    int64_t n_lines = s[0] * s[1] * s[2];
    size_t bytes = (size_t)run * lt_dtype_bytes(y->dtype);
#pragma omp parallel for num_threads(threads_for(c, lt_n_elements(y))) schedule(static)
    for (int64_t line = 0; line < n_lines; line++) {
        int64_t h = line % s[2], t = line / s[2] % s[1], n = line / s[2] / s[1];
        int64_t token = ((n * t_tokens + t / pt) * h_tokens + h / ph) * w_tokens;
        int64_t place = (t % pt * ph + h % ph) * run;
        for (int64_t w = 0; w < w_tokens; w++)
            memcpy(at(y, (line * w_tokens + w) * run), at(x, (token + w) * x->shape[2] + place), bytes);
    }
    return LT_OK;
}

/* ---- noise ------------------------------------------------------------------------------------------- */

lt_status noise_cpu(lt_context *c, uint64_t seed, uint32_t clip, uint64_t first_frame, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t total = lt_n_elements(out), frame = total / out->shape[0], blocks = (frame + 3) / 4;
    int64_t n_blocks = blocks * out->shape[0];
#pragma omp parallel for num_threads(threads_for(c, total)) schedule(static)
    for (int64_t i = 0; i < n_blocks; i++) {
        float four[4];
        int64_t f = i / blocks, block = i % blocks;
        lt_noise_block(four, seed, clip, first_frame + (uint64_t)f, (uint32_t)block);
        for (int64_t e = 4 * block; e < LT_MIN(4 * block + 4, frame); e++)
            lt_store_f64(out->data, out->dtype, f * frame + e, (double)four[e % 4]);
    }
    return LT_OK;
}
