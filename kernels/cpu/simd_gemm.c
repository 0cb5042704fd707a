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

/* A sum of RUN products is rounded as a whole when it is added to what stands in c: the error of a long sum grows with the root
 * of RUN and not of its length. RUN rows of a panel also stay in the first-level cache while all tiles of a block use them. */
enum { RUN = 256 };

/* k <= RUN. */
INLINE void tile(float *c, int64_t c_stride, const float *a, int64_t a_stride, const void *b, bool b_bf16,
                 int64_t k, bool accumulate, int vectors)
{
    vf sum[TILE_ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = (vf){0};
    for (int64_t i = 0; i < k; i++) {
        vf bv[2];
        for (int v = 0; v < vectors; v++) bv[v] = load_t(b, b_bf16, i * TILE_COLUMNS + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; r++) {
            vf av = splat(a[r * a_stride + i]);
            for (int v = 0; v < vectors; v++) sum[r][v] = madd(av, bv[v], sum[r][v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int v = 0; v < vectors; v++) {
            float *to = c + r * c_stride + v * LANES;
            store_f32(to, accumulate ? load_f32(to) + sum[r][v] : sum[r][v]);
        }
    }
}

/* All rows of a panel's columns over one run. */
INLINE void panel_rows(float *c, int64_t c_stride, const float *a, int64_t a_stride, const void *panel,
                       bool b_bf16, int64_t rows, int64_t columns, int64_t k, bool accumulate)
{
    for (int64_t i = 0; i < rows; i += TILE_ROWS) {
        if (columns > LANES) {
            tile(c + i * c_stride, c_stride, a + i * a_stride, a_stride, panel, b_bf16, k, accumulate, 2);
        } else {
            tile(c + i * c_stride, c_stride, a + i * a_stride, a_stride, panel, b_bf16, k, accumulate, 1);
        }
    }
}

/* bf16 values are made f32 once where a few tiles of rows use them and the first-level cache has room for them. */
#if defined(__AVX512F__)
enum { LEAST_ROWS = BLOCK_ROWS + 1 };
#else
enum { LEAST_ROWS = 4 * TILE_ROWS };
#endif

INLINE void gemm_body(float *c, int64_t c_stride, const float *a, int64_t a_stride, const void *b,
                      bool b_bf16, int64_t panel_stride, int64_t rows, int64_t columns, int64_t k,
                      bool accumulate)
{
    size_t size = b_bf16 ? 2 : 4;
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS) {
        for (int64_t run = 0; run < k || run == 0; run += RUN) {
            const void *panel =
                (const char *)b + (size_t)(j / TILE_COLUMNS * panel_stride + run * TILE_COLUMNS) * size;
            int64_t n = LT_MIN(k - run, RUN);
            bool add = accumulate || run > 0;
            if (b_bf16 && rows >= LEAST_ROWS) {
                _Alignas(64) float values[RUN * TILE_COLUMNS];
                for (int64_t i = 0; i < n * TILE_COLUMNS; i += LANES)
                    store_f32(values + i, load_t(panel, true, i));
                panel_rows(c + j, c_stride, a + run, a_stride, values, false, rows, columns - j, n, add);
            } else {
                panel_rows(c + j, c_stride, a + run, a_stride, panel, b_bf16, rows, columns - j, n, add);
            }
        }
    }
}

static void gemm(float *c, int64_t c_stride, const float *a, int64_t a_stride, const void *b, bool b_bf16,
                 int64_t panel_stride, int64_t rows, int64_t columns, int64_t k, bool accumulate)
{
    if (b_bf16) {
        gemm_body(c, c_stride, a, a_stride, b, true, panel_stride, rows, columns, k, accumulate);
    } else {
        gemm_body(c, c_stride, a, a_stride, b, false, panel_stride, rows, columns, k, accumulate);
    }
}

#if defined(__AVX512BF16__)
/* As tile, with two inner elements a step. The processor multiplies bf16 exactly and adds in f32. */
INLINE void tile_pairs(float *c, int64_t c_stride, const uint16_t *a, const uint16_t *b, int64_t k,
                       bool accumulate, int vectors)
{
    __m512 sum[TILE_ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = accumulate ? _mm512_loadu_ps(c + r * c_stride + v * LANES) : _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i += 2) {
        __m512bh bv[2];
        for (int v = 0; v < vectors; v++)
            bv[v] = (__m512bh)_mm512_loadu_si512(b + i * TILE_COLUMNS + 2 * v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; r++) {
            int pair;
            memcpy(&pair, a + r * ROW_STRIDE + i, sizeof(pair));
            __m512bh av = (__m512bh)_mm512_set1_epi32(pair);
            for (int v = 0; v < vectors; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], av, bv[v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++)
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(c + r * c_stride + v * LANES, sum[r][v]);
}

static void gemm_pairs(float *c, int64_t c_stride, const uint16_t *a, const uint16_t *b, int64_t panel_stride,
                       int64_t rows, int64_t columns, int64_t k, bool accumulate)
{
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS) {
        const uint16_t *panel = b + j / TILE_COLUMNS * panel_stride;
        for (int64_t i = 0; i < rows; i += TILE_ROWS) {
            float *to = c + i * c_stride + j;
            if (columns - j > LANES) {
                tile_pairs(to, c_stride, a + i * ROW_STRIDE, panel, k, accumulate, 2);
            } else {
                tile_pairs(to, c_stride, a + i * ROW_STRIDE, panel, k, accumulate, 1);
            }
        }
    }
}

const cpu_pairs cpu_pairs_avx512bf16 = {TILE_ROWS, BLOCK_ROWS, 512, gemm_pairs};
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

/* ---- softmax: in powers of two, scores times scale (which has the factor log2 e in it) ------------------------ */

/* Vector i of a row's scores, scaled; `seen` < LANES: lanes from there on are -infinity. */
INLINE vf scaled_scores(const float *scores, const float *mask, float scale, int64_t i, int64_t seen)
{
    vf v = load_f32(scores + i) * splat(scale);
    if (mask) {
        vf m = seen < LANES ? load_tail(mask, false, i, seen) : load_f32(mask + i);
        vi low = (m < splat(-2e38f)) & (m > splat(-INFINITY)); /* times log2 e it would be -infinity, too */
        m = blend(low, splat(-2e38f), m);
        v = madd(m, splat(1.44269504f), v);
    }
    return seen < LANES ? blend(lanes_below(seen), v, splat(-INFINITY)) : v;
}

/* The largest of the first `seen` scores; they are left scaled and masked where there is a mask. */
INLINE float largest_score(float *scores, const float *mask, float scale, int64_t seen)
{
    vf best = splat(-INFINITY);
    for (int64_t i = 0; i < seen; i += LANES) {
        vf v = scaled_scores(scores, mask, scale, i, LT_MIN(seen - i, LANES));
        if (mask) store_f32(scores + i, v);
        best = vmax(best, v); /* a NaN may get lost here, but not in the sum */
    }
    float max = -INFINITY;
    for (int lane = 0; lane < LANES; lane++) max = max > best[lane] ? max : best[lane];
    return max;
}

/* As f32, or as two bf16 that add up to the first 16 bits. */
INLINE void store_weights(float *scores, bool pairs, int64_t i, vf p)
{
    if (pairs) {
        vu high = (vu)p & 0xffff0000, low = (vu)(p - (vf)high) + 0x8000;
        p = (vf)((low & 0xffff0000) | high >> 16);
    }
    store_f32(scores + i, p);
}

/* Scores -> 2^(score * scale - base), 0 where not seen, and their sum. `out` does not lie behind the scores. */
INLINE float exponentials(const float *scores, float *out, bool pairs, float scale, float base, int64_t seen,
                          int64_t n)
{
    /* Of a weight in two parts, neither is subnormal. */
    const float least = pairs ? -110.0f : -126.0f;
    vf total = splat(0.0f);
    int64_t i = 0;
    for (; i < seen; i += LANES) {
        vf p = vexp2(madd(load_f32(scores + i), splat(scale), splat(-base)), least);
        if (seen - i < LANES) p = blend(lanes_below(seen - i), p, splat(0.0f));
        store_weights(out, pairs, i, p);
        total += p;
    }
    for (; i < n; i += LANES) store_weights(out, pairs, i, splat(0.0f));
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += total[lane];
    return sum;
}

INLINE void softmax_body(const cpu_softmax *s, bool pairs)
{
    for (int64_t row = 0; row < s->rows; row++) {
        float *scores = s->scores + row * ROW_STRIDE;
        float *out = pairs ? s->scores + row * ROW_STRIDE / 2 : scores;
        const float *mask = s->mask ? s->mask + row * s->mask_stride : NULL;
        int64_t seen = s->causal ? LT_MAX(0, LT_MIN(s->n, s->first_row + row + 1 - s->first_key)) : s->n;
        float before = s->max[row], max = largest_score(scores, mask, s->scale, seen);
        if (before > max) max = before;
        /* While nothing was seen the maximum is -infinity, and -inf - -inf would be NaN. */
        float base = max == -INFINITY ? 0 : max;
        float sum = exponentials(scores, out, pairs, mask ? 1 : s->scale, base, seen, s->n);
        float rescale = vexp2(splat(before - base), -126.0f)[0];
        s->sum[row] = s->sum[row] * rescale + sum;
        s->rescale[row] = rescale;
        s->max[row] = max;
    }
}

static void softmax(const cpu_softmax *s)
{
    if (s->pairs) {
        softmax_body(s, true);
    } else {
        softmax_body(s, false);
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
    .load_half = SIMD_NAME(load_half),
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
    .epilogue = epilogue,
    .narrow = SIMD_NAME(narrow),
    .winograd_in = SIMD_NAME(winograd_in),
    .winograd_out = SIMD_NAME(winograd_out),
    .softmax = softmax,
    .scale_rows = scale_rows,
};
