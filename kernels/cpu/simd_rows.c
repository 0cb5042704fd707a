/* simd_rows.c - kernels on rows of channels: layer and rms norm, gates; and products and sums of pairs of tensors. Each
 * body is instantiated for f32 and bf16 by its wrapper. */
#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/simd_tables.h"

/* ---- norms ------------------------------------------------------------------------------------------- */

/* A vector of x from i on; lanes beyond n are `fill`. */
INLINE vf load_filled(const void *x, bool bf16, int64_t i, int64_t n, float fill)
{
    if (i + LANES <= n) return load_t(x, bf16, i);
    vf v = load_tail(x, bf16, i, n - i);
    for (int64_t lane = n - i; lane < LANES; lane++) v[lane] = fill;
    return v;
}

INLINE double sum_of(vd v)
{
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += v[lane];
    return sum;
}

/* Sums of x - shift and of its square. */
INLINE void row_sums(const void *x, bool bf16, int64_t n, float shift, double *sum, double *square)
{
    vd s = {0}, q = {0};
    for (int64_t i = 0; i < n; i += LANES) {
        vd d = __builtin_convertvector(load_filled(x, bf16, i, n, shift), vd) - (double)shift;
        s += d;
        q += d * d;
    }
    *sum = sum_of(s);
    *square = sum_of(q);
}

INLINE void norm_row(void *y, const void *x, bool bf16, int64_t n, const cpu_norm_rows *p, bool centre)
{
    double sum, square, mean = 0, count = (double)n;
    float first = 0;
    if (centre) first = load_filled(x, bf16, 0, n, 0)[0];
    if (!__builtin_isfinite(first)) first = 0;
    row_sums(x, bf16, n, first, &sum, &square);
    double variance = square / count;
    if (centre) {
        double away = sum / count;
        mean = (double)first + away;
        variance -= away * away;
        if (variance < 0) variance = 0;
    }
    double inverse = 1 / sqrt(variance + p->eps);
    /* What rounding the mean to f32 took is given back after the product. */
    vf centre_v = splat((float)mean), inverse_v = splat((float)inverse);
    vf rest = splat((float)(((double)(float)mean - mean) * inverse));
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t here = LT_MIN(LANES, n - i);
        bool whole = here == LANES;
        vf v = whole ? load_t(x, bf16, i) : load_tail(x, bf16, i, here);
        v = centre ? madd(v - centre_v, inverse_v, rest) : v * inverse_v;
        vf factor = whole ? load_f32(p->factor + i) : load_tail(p->factor, false, i, here);
        if (centre) {
            v = madd(v, factor, whole ? load_f32(p->offset + i) : load_tail(p->offset, false, i, here));
        } else {
            v = v * factor;
        }
        if (whole) {
            store_t(y, bf16, i, v);
        } else {
            store_tail(y, bf16, i, v, here);
        }
    }
}

INLINE void norm_rows_body(void *y, const void *x, bool bf16, int64_t rows, int64_t n, const cpu_norm_rows *p,
                           bool centre)
{
    size_t bytes = (size_t)n * (bf16 ? 2 : 4);
    for (int64_t r = 0; r < rows; r++)
        norm_row((char *)y + (size_t)r * bytes, (const char *)x + (size_t)r * bytes, bf16, n, p, centre);
}

void SIMD_NAME(norm_rows)(void *y, const void *x, bool bf16, int64_t rows, int64_t channels,
                          const cpu_norm_rows *p)
{
    bool centre = p->offset != NULL;
    if (bf16 && centre) {
        norm_rows_body(y, x, true, rows, channels, p, true);
    } else if (bf16) {
        norm_rows_body(y, x, true, rows, channels, p, false);
    } else if (centre) {
        norm_rows_body(y, x, false, rows, channels, p, true);
    } else {
        norm_rows_body(y, x, false, rows, channels, p, false);
    }
}

/* ---- gates ------------------------------------------------------------------------------------------- */

/* Element i of a row of n, with its tail. */
INLINE vf at(const void *p, bool bf16, int64_t i, int64_t n)
{
    return i + LANES <= n ? load_t(p, bf16, i) : load_tail(p, bf16, i, n - i);
}

INLINE void put(void *p, bool bf16, int64_t i, int64_t n, vf v)
{
    if (i + LANES <= n) {
        store_t(p, bf16, i, v);
    } else {
        store_tail(p, bf16, i, v, n - i);
    }
}

INLINE void gate_body(void *out, const void *x, const void *y, const void *gate, bool bf16, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        put(out, bf16, i, n, madd(at(gate, bf16, i, n), at(y, bf16, i, n), at(x, bf16, i, n)));
}

void SIMD_NAME(gate)(void *out, const void *x, const void *y, const void *gate, bool bf16, int64_t n)
{
    if (bf16) {
        gate_body(out, x, y, gate, true, n);
    } else {
        gate_body(out, x, y, gate, false, n);
    }
}

INLINE void glu_body(void *out, const void *x, bool bf16, lt_activation act, int64_t rows, int64_t n)
{
    size_t half = (size_t)n * (bf16 ? 2 : 4);
    for (int64_t r = 0; r < rows; r++) {
        const char *low = (const char *)x + (size_t)r * 2 * half, *high = low + half;
        char *to = (char *)out + (size_t)r * half;
        for (int64_t i = 0; i < n; i += LANES)
            put(to, bf16, i, n, at(low, bf16, i, n) * activate(at(high, bf16, i, n), act));
    }
}

void SIMD_NAME(glu)(void *out, const void *x, bool bf16, lt_activation act, int64_t rows, int64_t channels)
{
    if (bf16) {
        glu_body(out, x, true, act, rows, channels);
    } else {
        glu_body(out, x, false, act, rows, channels);
    }
}

/* ---- pairs ------------------------------------------------------------------------------------------- */

INLINE void multiply_body(void *out, const void *x, const void *y, bool bf16, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) put(out, bf16, i, n, at(x, bf16, i, n) * at(y, bf16, i, n));
}

void SIMD_NAME(multiply)(void *out, const void *x, const void *y, bool bf16, int64_t n)
{
    if (bf16) {
        multiply_body(out, x, y, true, n);
    } else {
        multiply_body(out, x, y, false, n);
    }
}

void SIMD_NAME(combine)(float *out, const float *x, double a, const float *y, double b, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        vd sum = __builtin_convertvector(at(x, false, i, n), vd) * a +
                 __builtin_convertvector(at(y, false, i, n), vd) * b;
        put(out, false, i, n, __builtin_convertvector(sum, vf));
    }
}

/* ---- convolution to few outputs ---------------------------------------------------------------------- */

INLINE float lanes_sum(vf v)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += v[lane];
    return sum;
#endif
}

INLINE void narrow_body(float *sums, const void *const *from, const float *weight, bool bf16, int64_t taps,
                        int64_t inputs, int outputs)
{
    vf sum[NARROW_PIXELS][NARROW_OUTPUTS];
#pragma GCC unroll 4
    for (int p = 0; p < NARROW_PIXELS; p++)
#pragma GCC unroll 4
        for (int o = 0; o < outputs; o++) sum[p][o] = (vf){0};
    for (int64_t tap = 0; tap < taps; tap++, from += NARROW_PIXELS)
        for (int64_t i = 0; i < inputs; i += LANES, weight += outputs * LANES)
#pragma GCC unroll 4
            for (int p = 0; p < NARROW_PIXELS; p++) {
                vf x = load_t(from[p], bf16, i);
#pragma GCC unroll 4
                for (int o = 0; o < outputs; o++)
                    sum[p][o] = madd(x, load_f32(weight + o * LANES), sum[p][o]);
            }
#pragma GCC unroll 4
    for (int p = 0; p < NARROW_PIXELS; p++)
#pragma GCC unroll 4
        for (int o = 0; o < outputs; o++) sums[p * outputs + o] = lanes_sum(sum[p][o]);
}

INLINE void narrow_outputs(float *sums, const void *const *from, const float *weight, bool bf16, int64_t taps,
                           int64_t inputs, int64_t outputs)
{
    switch (outputs) {
    case 1: narrow_body(sums, from, weight, bf16, taps, inputs, 1); break;
    case 2: narrow_body(sums, from, weight, bf16, taps, inputs, 2); break;
    case 3: narrow_body(sums, from, weight, bf16, taps, inputs, 3); break;
    default: narrow_body(sums, from, weight, bf16, taps, inputs, 4);
    }
}

void SIMD_NAME(narrow)(float *sums, const void *const *from, const float *weight, bool bf16, int64_t taps,
                       int64_t inputs, int64_t outputs)
{
    if (bf16) {
        narrow_outputs(sums, from, weight, true, taps, inputs, outputs);
    } else {
        narrow_outputs(sums, from, weight, false, taps, inputs, outputs);
    }
}
