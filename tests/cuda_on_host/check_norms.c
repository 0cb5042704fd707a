/* check_norms.c - norms and the attention's rows against two-pass arithmetic in f64, and samples alone against their batch. */
#include "tests/cuda_on_host/check.h"
#include "kernels/convert.h"
#include "kernels/ref/ref.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- group norm: ints are n, rows, channels, groups, activation; reals: eps ---------------------------------- */

static lt_status launch_group_norm(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    const int64_t *i = t->ints;
    return lt_launch_group_norm(s, t->out.dtype, out, in[0], i[0], i[1], i[2], (int)i[3], in[1], in[2],
                                t->reals[0], (lt_activation)i[4], scratch);
}

/* Places first + r * stride + c of x, r < rows, c < width: normalised, into y. */
static void normalise(const test *t, double *y, int64_t first, int64_t rows, int64_t stride, int64_t width,
                      double eps)
{
    double mean = 0, variance = 0, count = (double)(rows * width);
    for (int64_t i = 0; i < rows * width; i++)
        mean += value_of(&t->in[0], first + i / width * stride + i % width) / count;
    for (int64_t i = 0; i < rows * width; i++) {
        double d = value_of(&t->in[0], first + i / width * stride + i % width) - mean;
        variance += d * d / count;
    }
    for (int64_t i = 0; i < rows * width; i++) {
        int64_t at = first + i / width * stride + i % width;
        y[at] = (value_of(&t->in[0], at) - mean) / sqrt(variance + eps);
    }
}

static void expect_group_norm(test *t)
{
    int64_t n = t->ints[0], rows = t->ints[1], channels = t->ints[2], width = channels / t->ints[3];
    double *y = t->expected.data = malloc((size_t)t->out.n * sizeof(double));
    for (int64_t s = 0; s < n; s++)
        for (int64_t c = 0; c < channels; c += width)
            normalise(t, y, s * rows * channels + c, rows, channels, width, t->reals[0]);
    for (int64_t i = 0; i < t->out.n; i++) {
        double v = y[i] * value_of(&t->in[1], i % channels) + value_of(&t->in[2], i % channels);
        y[i] = ref_activation((lt_activation)t->ints[4], v);
    }
}

/* Every sample alone, from its place in the batch, has the bytes it has in the batch. */
static void check_samples(const test *t, int64_t per_sample_inputs)
{
    void *all = run_once(t, 3, 0, false);
    for (int64_t s = 0; s < t->ints[0]; s++) {
        test alone = *t;
        alone.ints[0] = 1;
        alone.out.n /= t->ints[0];
        for (int i = 0; i < MOST_ARRAYS; i++) {
            if (!(per_sample_inputs >> i & 1) || !t->in[i].data) continue;
            alone.in[i].n /= t->ints[0];
            alone.in[i].data =
                (char *)t->in[i].data + (size_t)(s * alone.in[i].n) * lt_dtype_bytes(t->in[i].dtype);
        }
        size_t bytes = (size_t)alone.out.n * lt_dtype_bytes(t->out.dtype);
        void *one = run_once(&alone, 5, 1, false);
        if (memcmp(one, (char *)all + (size_t)s * bytes, bytes) != 0)
            complain(t, "sample %lld alone has other bytes than in its batch", (long long)s);
        free(one);
    }
    free(all);
}

/* wide: more channels than a block has columns for, and groups that lie across its edge. */
static void check_group_norm(bool large, bool wide)
{
    int64_t groups = ONE_OF(1, 2, 4, 8, 32), width = ONE_OF(1, 2, 3, 4, 10, 16), rows = draw(1, 90),
            n = draw(1, 3);
    if (large)
        groups = ONE_OF(2, 32), width = ONE_OF(4, 10, 128), rows = draw(500, 2000) * 4 / width + 1, n = 2;
    if (wide) groups = ONE_OF(3, 5), width = ONE_OF(511, 700), rows = draw(60, 100), n = 2;
    int64_t channels = groups * width;
    test t = {.out = {draw_dtype(), n * rows * channels, NULL},
              .ints = {n, rows, channels, groups, ONE_OF(LT_ACT_NONE, LT_ACT_SILU)},
              .reals = {draw(0, 1) ? 1e-5 : 1e-6},
              .in_place = draw(0, 2) == 0,
              .units = 10,
              .launch = launch_group_norm};
    fill f = (fill)ONE_OF(NORMAL, OFFSET, SMALL);
    t.in[0] = make_array(t.out.dtype, t.out.n, f);
    t.in[1] = make_array(LT_F32, channels, NORMAL);
    t.in[2] = make_array(LT_F32, channels, NORMAL);
    t.scratch = lt_group_norm_scratch(t.out.dtype, n, rows, channels, (int)groups);
    t.expected = (array){LT_F64, t.out.n, NULL};
    expect_group_norm(&t);
    snprintf(t.name, sizeof(t.name), "group_norm %s [%lld,%lld,%lld] groups %lld values %d %s",
             lt_dtype_name(t.out.dtype), (long long)n, (long long)rows, (long long)channels,
             (long long)groups, f, t.scratch ? "in passes" : "at once");
    if (!large) check_samples(&t, 1);
    run_test(&t);
}

/* ---- rows: ints are n, rows, channels ------------------------------------------------------------------------ */

static lt_status launch_layer_norm(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_layer_norm(s, t->out.dtype, out, in[0], t->ints[0], t->ints[1], t->ints[2], in[1], in[2],
                                t->reals[0], in[3], in[4]);
}

static double optional(const array *a, int64_t i, double otherwise)
{
    return a->data ? value_of(a, i) : otherwise;
}

static lt_status launch_rms_norm(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_rms_norm(s, t->out.dtype, out, in[0], t->ints[0] * t->ints[1], t->ints[2], in[1],
                              t->reals[0]);
}

static void expect_rows(test *t, bool centre)
{
    int64_t channels = t->ints[2];
    double *y = t->expected.data = malloc((size_t)t->out.n * sizeof(double));
    for (int64_t row = 0; row < t->out.n; row += channels) {
        double square = 0;
        if (centre) normalise(t, y, row, 1, channels, channels, t->reals[0]);
        for (int64_t i = 0; i < channels; i++)
            square += value_of(&t->in[0], row + i) * value_of(&t->in[0], row + i) / (double)channels;
        for (int64_t i = 0; i < channels; i++) {
            int64_t m = row / channels / t->ints[1] * channels + i;
            if (!centre) y[row + i] = value_of(&t->in[0], row + i) / sqrt(square + t->reals[0]);
            double v = y[row + i] * optional(&t->in[1], i, 1) + optional(&t->in[2], i, 0);
            y[row + i] = v * (1 + optional(&t->in[3], m, 0)) + optional(&t->in[4], m, 0);
        }
    }
}

static void check_row_norms(bool centre)
{
    int64_t n = draw(1, 3), rows = draw(1, 12), channels = ONE_OF(1, 3, 8, 40, 72, 301, 1152, 2048, 2051);
    test t = {.out = {draw_dtype(), n * rows * channels, NULL},
              .ints = {n, rows, channels},
              .reals = {1e-6},
              .in_place = draw(0, 2) == 0,
              .units = 10,
              .launch = centre ? launch_layer_norm : launch_rms_norm};
    fill f = (fill)ONE_OF(NORMAL, OFFSET, SMALL);
    t.in[0] = make_array(t.out.dtype, t.out.n, f);
    if (!centre || draw(0, 1)) t.in[1] = make_array(LT_F32, channels, NORMAL);
    if (centre && draw(0, 1)) t.in[2] = make_array(LT_F32, channels, NORMAL);
    if (centre && draw(0, 1)) t.in[3] = make_array(t.out.dtype, n * channels, NORMAL);
    if (centre && draw(0, 1)) t.in[4] = make_array(t.out.dtype, n * channels, NORMAL);
    t.expected = (array){LT_F64, t.out.n, NULL};
    expect_rows(&t, centre);
    snprintf(t.name, sizeof(t.name), "%s %s [%lld,%lld,%lld] values %d", centre ? "layer_norm" : "rms_norm",
             lt_dtype_name(t.out.dtype), (long long)n, (long long)rows, (long long)channels, f);
    check_samples(&t, 1 | 8 | 16);
    run_test(&t);
}

void check_norms(int n)
{
    for (int i = 0; i < 3 * n; i++) {
        check_group_norm(false, false);
        if (i % 6 == 0) check_group_norm(true, false);
        if (i % 6 == 3) check_group_norm(true, true);
        check_row_norms(true);
        check_row_norms(false);
    }
}

/* ---- attention in pieces: ints are batch, heads, queries, keys, width, key step, mask's b, h, q, causal, query0, rows ------ */

typedef struct attention {
    lt_dtype dtype;
    int64_t batch, heads, queries, query0, rows, keys, step, width, mask_b, mask_h, mask_q;
    bool masked, causal;
    float scale;
    array scores, v, mask; /* [matrices,rows,keys] f32; [matrices,keys,width]; */
} attention;

/* What cuBLASLt would do: sums [rows,width] += weights [rows,n] v. */
typedef struct product {
    float *sums;
    const void *weights;
    const float *v;
    lt_dtype dtype;
    int64_t rows, n, v_rows, v_first, width, matrices;
} product;

static void multiply(void *argument)
{
    product *p = argument;
    for (int64_t m = 0; m < p->matrices; m++)
        for (int64_t r = 0; r < p->rows; r++)
            for (int64_t e = 0; e < p->width; e++) {
                double sum = 0;
                for (int64_t k = 0; k < p->n; k++)
                    sum += lt_load_f64(p->weights, p->dtype, (m * p->rows + r) * p->n + k) *
                           (double)p->v[(m * p->v_rows + p->v_first + k) * p->width + e];
                p->sums[(m * p->rows + r) * p->width + e] += (float)sum;
            }
}

#include <cuda_runtime.h>

/* in: scores (pieces one behind the other), v, mask. */
static lt_status launch_pieces(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    const int64_t *i = t->ints;
    int64_t matrices = i[0] * i[1], rows = i[11], sums_n = matrices * rows * i[4];
    float *sums = scratch, *state = sums + sums_n;
    void *weights = state + 3 * matrices * rows;
    lt_status status = cudaMemsetAsync(sums, 0, (size_t)sums_n * 4, (cudaStream_t)s) ? LT_E_INTERNAL : LT_OK;
    for (int64_t key0 = 0; key0 < i[3] && status == LT_OK; key0 += i[5]) {
        int64_t keys = LT_MIN(i[5], i[3] - key0);
        lt_softmax_piece p = {matrices,           i[1],     i[10], rows, key0, keys, i[6], i[7], i[8], in[2],
                              (float)t->reals[0], i[9] != 0};
        const float *scores = (const float *)in[0] + matrices * rows * key0;
        status = lt_launch_softmax_piece(s, t->out.dtype, weights, scores, state, &p);
        if (status == LT_OK) status = lt_launch_softmax_rescale(s, sums, state, matrices, rows, i[4]);
        product m = {sums, weights, in[1], t->out.dtype, rows, keys, i[3], key0, i[4], matrices};
        fake_cuda_enqueue((cudaStream_t)s, multiply, &m);
        cudaStreamSynchronize((cudaStream_t)s);
    }
    if (status != LT_OK) return status;
    return lt_launch_softmax_finish(s, t->out.dtype, out, sums, state, i[0], i[1], i[2], i[10], rows, i[4]);
}

/* Score of (matrix, row, key): pieces of `step` keys lie one behind the other, each [matrices,rows,keys of the piece]. */
static double score_at(const test *t, int64_t m, int64_t r, int64_t k)
{
    const int64_t *i = t->ints;
    int64_t matrices = i[0] * i[1], key0 = k / i[5] * i[5], keys = LT_MIN(i[5], i[3] - key0);
    double s = value_of(&t->in[0], matrices * i[11] * key0 + (m * i[11] + r) * keys + k - key0) * t->reals[0];
    if (t->in[2].data) s += value_of(&t->in[2], m / i[1] * i[6] + m % i[1] * i[7] + (i[10] + r) * i[8] + k);
    return i[9] && k > i[10] + r ? -INFINITY : s;
}

/* out [batch,queries,heads,width]; rows outside query0 .. keep what they held. */
static double expect_attention(const test *t, int64_t at)
{
    const int64_t *i = t->ints;
    int64_t e = at % i[4], h = at / i[4] % i[1], q = at / i[4] / i[1] % i[2], b = at / i[4] / i[1] / i[2];
    int64_t r = q - i[10], m = b * i[1] + h;
    if (r < 0 || r >= i[11]) return value_of(&t->out, at);
    double most = -INFINITY, sum = 0, y = 0;
    for (int64_t k = 0; k < i[3]; k++) most = fmax(most, score_at(t, m, r, k));
    if (most == -INFINITY) return 0;
    for (int64_t k = 0; k < i[3]; k++) {
        double w = exp(score_at(t, m, r, k) - most);
        sum += w;
        y += w * value_of(&t->in[1], (m * i[3] + k) * i[4] + e);
    }
    return y / sum;
}

void check_softmax(int n)
{
    for (int c = 0; c < 4 * n; c++) {
        int64_t batch = draw(1, 2), heads = draw(1, 3), queries = draw(1, 9), keys = ONE_OF(1, 7, 33, 300);
        int64_t width = ONE_OF(1, 5, 8), step = ONE_OF(3, 32, 300), query0 = draw(0, queries - 1);
        int64_t rows = draw(1, queries - query0), matrices = batch * heads;
        bool by_batch = draw(0, 1), by_head = draw(0, 1), by_query = draw(0, 1);
        int64_t mq = by_query ? queries : 1, mh = by_head ? heads : 1, mb = by_batch ? batch : 1;
        test t = {.out = make_array(draw_dtype(), batch * queries * heads * width, NORMAL),
                  .prefill = true,
                  .ints = {batch, heads, queries, keys, width, step, by_batch ? mh * mq * keys : 0,
                           by_head ? mq * keys : 0, by_query ? keys : 0, draw(0, 1), query0, rows},
                  .reals = {0.5},
                  .launch = launch_pieces,
                  .expect = expect_attention};
        t.in[0] = make_array(LT_F32, matrices * rows * keys, NORMAL);
        t.in[1] = make_array(LT_F32, matrices * keys * width, NORMAL);
        if (draw(0, 1)) t.in[2] = make_array(LT_F32, mb * mh * mq * keys, NORMAL);
        for (int64_t i = 0; i < t.in[2].n; i++)
            if (draw(0, 2) == 0) ((float *)t.in[2].data)[i] = -INFINITY;
        /* A first piece without a key that is seen; with few keys, rows without any. */
        bool late = draw(0, 2) == 0;
        for (int64_t i = 0; i < t.in[2].n && late; i++)
            if (i % keys < step) ((float *)t.in[2].data)[i] = -INFINITY;
        t.scratch = (size_t)(matrices * rows * (width + 3 + LT_MIN(step, keys))) * 4;
        /* ops.h's bound; weights of 16 bits are rounded before they multiply. */
        t.units = 16 + 2 * sqrt((double)keys) + 8;
        t.absolute = t.out.dtype == LT_F32 ? 0 : t.out.dtype == LT_F16 ? 0x1p-9 : 0x1p-6;
        snprintf(t.name, sizeof(t.name), "softmax %s batch %lld heads %lld keys %lld step %lld%s%s",
                 lt_dtype_name(t.out.dtype), (long long)batch, (long long)heads, (long long)keys,
                 (long long)step, t.in[2].data ? " mask" : "", t.ints[9] ? " causal" : "");
        run_test(&t);
    }
}
