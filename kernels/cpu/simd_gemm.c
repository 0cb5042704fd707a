/* simd_gemm.c - the matrix kernel with its epilogue, softmax, and the table of this instruction set.
 *
 * The matrix kernel keeps a tile of TILE_ROWS x 2 vectors in registers and walks the inner dimension once: per step two
 * vectors of b are loaded and TILE_ROWS values of a broadcast. Both operands lie so that every address is a constant
 * away from two pointers. */
#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/simd_tables.h"

#include <math.h>

#if defined(__AVX512F__)
enum { TILE_ROWS = 12 }; /* 24 of 32 registers hold sums */
#else
enum { TILE_ROWS = 6 }; /* 12 of 16 */
#endif
enum { TILE_COLUMNS = 2 * LANES };

INLINE void tile(float *c, int64_t c_stride, const float *a, const void *b, bool b_bf16, int64_t k,
                 bool accumulate)
{
    vf sum[TILE_ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++) {
        sum[r][0] = accumulate ? load_f32(c + r * c_stride) : (vf){0};
        sum[r][1] = accumulate ? load_f32(c + r * c_stride + LANES) : (vf){0};
    }
    for (int64_t i = 0; i < k; i++) {
        vf b0 = load_t(b, b_bf16, i * TILE_COLUMNS), b1 = load_t(b, b_bf16, i * TILE_COLUMNS + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; r++) {
            vf av = splat(a[r * ROW_STRIDE + i]);
            sum[r][0] = madd(av, b0, sum[r][0]);
            sum[r][1] = madd(av, b1, sum[r][1]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++) {
        store_f32(c + r * c_stride, sum[r][0]);
        store_f32(c + r * c_stride + LANES, sum[r][1]);
    }
}

INLINE void gemm_body(float *c, int64_t c_stride, const float *a, const void *b, bool b_bf16,
                      int64_t panel_stride, int64_t rows, int64_t columns, int64_t k, bool accumulate)
{
    size_t size = b_bf16 ? 2 : 4;
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS) {
        const void *panel = (const char *)b + (size_t)(j / TILE_COLUMNS * panel_stride) * size;
        for (int64_t i = 0; i < rows; i += TILE_ROWS)
            tile(c + i * c_stride + j, c_stride, a + i * ROW_STRIDE, panel, b_bf16, k, accumulate);
    }
}

static void gemm(float *c, int64_t c_stride, const float *a, const void *b, bool b_bf16, int64_t panel_stride,
                 int64_t rows, int64_t columns, int64_t k, bool accumulate)
{
    if (b_bf16) {
        gemm_body(c, c_stride, a, b, true, panel_stride, rows, columns, k, accumulate);
    } else {
        gemm_body(c, c_stride, a, b, false, panel_stride, rows, columns, k, accumulate);
    }
}

#if defined(__AVX512BF16__)
/* As tile, with two inner elements a step. The processor multiplies bf16 exactly and adds in f32. */
INLINE void tile_pairs(float *c, int64_t c_stride, const uint16_t *a, const uint16_t *b, int64_t k,
                       bool accumulate)
{
    __m512 sum[TILE_ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++) {
        sum[r][0] = accumulate ? _mm512_loadu_ps(c + r * c_stride) : _mm512_setzero_ps();
        sum[r][1] = accumulate ? _mm512_loadu_ps(c + r * c_stride + LANES) : _mm512_setzero_ps();
    }
    for (int64_t i = 0; i < k; i += 2) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + i * TILE_COLUMNS);
        __m512bh b1 = (__m512bh)_mm512_loadu_si512(b + i * TILE_COLUMNS + 2 * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; r++) {
            int pair;
            memcpy(&pair, a + r * ROW_STRIDE + i, sizeof(pair));
            __m512bh av = (__m512bh)_mm512_set1_epi32(pair);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], av, b0);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], av, b1);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++) {
        _mm512_storeu_ps(c + r * c_stride, sum[r][0]);
        _mm512_storeu_ps(c + r * c_stride + LANES, sum[r][1]);
    }
}

static void gemm_pairs(float *c, int64_t c_stride, const uint16_t *a, const uint16_t *b, int64_t panel_stride,
                       int64_t rows, int64_t columns, int64_t k, bool accumulate)
{
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS) {
        for (int64_t i = 0; i < rows; i += TILE_ROWS)
            tile_pairs(c + i * c_stride + j, c_stride, a + i * ROW_STRIDE,
                       b + j / TILE_COLUMNS * panel_stride, k, accumulate);
    }
}
#endif

/* Vector `i` of a row; count < LANES at the row's end. */
INLINE void finish_vector(const cpu_epilogue *e, bool bf16, const float *c, int64_t row, int64_t i,
                          int64_t count)
{
    bool whole = count == LANES;
    int64_t at = row * e->stride + i;
    vf v = whole ? load_f32(c + i) : load_tail(c, false, i, count);
    if (e->bias) v += whole ? load_f32(e->bias + i) : load_tail(e->bias, false, i, count);
    v = activate(v, e->act);
    if (e->residual) v += whole ? load_t(e->residual, bf16, at) : load_tail(e->residual, bf16, at, count);
    if (whole) {
        store_t(e->y, bf16, at, v);
    } else {
        store_tail(e->y, bf16, at, v, count);
    }
}

static void epilogue(const cpu_epilogue *e, bool bf16, const float *c, int64_t c_stride, int64_t rows,
                     int64_t columns)
{
    for (int64_t r = 0; r < rows; r++) {
        int64_t i = 0;
        for (; i + LANES <= columns; i += LANES) finish_vector(e, bf16, c + r * c_stride, r, i, LANES);
        if (i < columns) finish_vector(e, bf16, c + r * c_stride, r, i, columns - i);
    }
}

/* Scores of one row, scaled and masked, in place; what cannot be seen becomes -infinity. Returns their maximum. */
INLINE float mask_row(const cpu_softmax *s, int64_t row)
{
    float *scores = s->scores + row * ROW_STRIDE;
    const float *mask = s->mask ? s->mask + row * s->mask_stride : NULL;
    int64_t n = s->n;
    if (s->causal) n = LT_MAX(0, LT_MIN(n, s->first_row + row + 1 - s->first_key));
    vf best = splat(-INFINITY);
    for (int64_t i = 0; i < s->n; i += LANES) {
        int64_t count = LT_MIN(LANES, s->n - i);
        vf v = load_f32(scores + i) * splat(s->scale);
        if (mask) v += count == LANES ? load_f32(mask + i) : load_tail(mask, false, i, count);
        for (int64_t lane = LT_MAX(0, n - i); lane < LANES; lane++) v[lane] = -INFINITY;
        store_f32(scores + i, v);
        best = blend((best > v) | (best != best), best, v); /* keeps a NaN */
    }
    float max = -INFINITY;
    for (int lane = 0; lane < LANES; lane++) max = max > best[lane] || isnan(max) ? max : best[lane];
    return max;
}

static void softmax(const cpu_softmax *s)
{
    for (int64_t row = 0; row < s->rows; row++) {
        float *scores = s->scores + row * ROW_STRIDE;
        float before = s->max[row], max = mask_row(s, row);
        if (before > max) max = before;
        /* While nothing was seen the maximum is -infinity, and -inf - -inf would be NaN. */
        float base = max == -INFINITY ? 0 : max;
        vf total = splat(0.0f);
        for (int64_t i = 0; i < s->n; i += LANES) {
            vf p = vexp(load_f32(scores + i) - splat(base));
            store_f32(scores + i, p);
            total += p;
        }
        float sum = 0;
        for (int lane = 0; lane < LANES; lane++) sum += total[lane];
        float rescale = vexp(splat(before - base))[0];
        s->sum[row] = s->sum[row] * rescale + sum;
        s->rescale[row] = rescale;
        s->max[row] = max;
    }
}

static void scale_rows(float *c, int64_t c_stride, int64_t rows, int64_t columns, const float *factor,
                       bool invert)
{
    for (int64_t r = 0; r < rows; r++) {
        float f = factor[r];
        if (invert && f != 0) f = 1 / f;
        for (int64_t i = 0; i < columns; i += LANES)
            store_f32(c + r * c_stride + i, load_f32(c + r * c_stride + i) * splat(f));
    }
}

const cpu_simd SIMD_NAME(cpu_simd) = {
    .name = LT_SIMD_TEXT,
    .tile_rows = TILE_ROWS,
    .tile_columns = TILE_COLUMNS,
    .load = SIMD_NAME(load),
    .store = SIMD_NAME(store),
    .affine = SIMD_NAME(affine),
    .add_scaled = SIMD_NAME(add_scaled),
    .from_pixels = SIMD_NAME(from_pixels),
    .to_pixels = SIMD_NAME(to_pixels),
    .norm_sums = SIMD_NAME(norm_sums),
    .norm_apply = SIMD_NAME(norm_apply),
    .norm_rows = SIMD_NAME(norm_rows),
    .gate = SIMD_NAME(gate),
    .multiply = SIMD_NAME(multiply),
    .glu = SIMD_NAME(glu),
    .combine = SIMD_NAME(combine),
    .gemm = gemm,
#if defined(__AVX512BF16__)
    .bf16_pairs = true,
    .gemm_pairs = gemm_pairs,
#endif
    .epilogue = epilogue,
    .softmax = softmax,
    .scale_rows = scale_rows,
};
