/* simd_elementwise.c - kernels whose elements do not meet: conversion, activations, sums, pixels; and group norm's two
 * passes. Each body is instantiated for f32 and bf16 by its wrapper. */
#include "kernels/convert.h"
#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/simd_tables.h"

#include <math.h>

void SIMD_NAME(load)(float *dst, const void *src, bool bf16, int64_t n)
{
    if (!bf16) {
        memcpy(dst, src, (size_t)n * sizeof(float));
        return;
    }
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store_f32(dst + i, load_bf16((const uint16_t *)src + i));
    if (i < n) store_tail(dst, false, i, load_tail(src, true, i, n - i), n - i);
}

void SIMD_NAME(store)(void *dst, const float *src, bool bf16, int64_t n)
{
    if (!bf16) {
        memcpy(dst, src, (size_t)n * sizeof(float));
        return;
    }
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store_bf16((uint16_t *)dst + i, load_f32(src + i));
    if (i < n) store_tail(dst, true, i, load_tail(src, false, i, n - i), n - i);
}

/* Processors with AVX2 convert f16; others as convert.h does. */
INLINE vf half_vector(const void *p)
{
#if defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(p));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128(p));
#else
    uint16_t part[LANES];
    memcpy(part, p, sizeof(part));
    vf v;
    for (int i = 0; i < LANES; i++) v[i] = lt_f16_to_f32(part[i]);
    return v;
#endif
}

void SIMD_NAME(load_half)(float *dst, const void *src, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store_f32(dst + i, half_vector((const char *)src + 2 * i));
    if (i == n) return;
    uint16_t part[LANES] = {0};
    memcpy(part, (const char *)src + 2 * i, (size_t)(n - i) * 2);
    store_tail(dst, false, i, half_vector(part), n - i);
}

INLINE void affine_body(void *out, const void *x, bool bf16, float a, float b, lt_activation act, int64_t n)
{
    vf va = splat(a), vb = splat(b);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store_t(out, bf16, i, activate(madd(va, load_t(x, bf16, i), vb), act));
    if (i < n) store_tail(out, bf16, i, activate(madd(va, load_tail(x, bf16, i, n - i), vb), act), n - i);
}

void SIMD_NAME(affine)(void *out, const void *x, bool bf16, float a, float b, lt_activation act, int64_t n)
{
    if (bf16) {
        affine_body(out, x, true, a, b, act, n);
    } else {
        affine_body(out, x, false, a, b, act, n);
    }
}

INLINE void add_body(void *out, const void *x, const void *y, bool bf16, float a, int64_t n)
{
    vf va = splat(a);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_t(out, bf16, i, madd(va, load_t(y, bf16, i), load_t(x, bf16, i)));
    if (i < n) {
        vf sum = madd(va, load_tail(y, bf16, i, n - i), load_tail(x, bf16, i, n - i));
        store_tail(out, bf16, i, sum, n - i);
    }
}

void SIMD_NAME(add_scaled)(void *out, const void *x, const void *y, bool bf16, float a, int64_t n)
{
    if (bf16) {
        add_body(out, x, y, true, a, n);
    } else {
        add_body(out, x, y, false, a, n);
    }
}

/* ---- pixels ------------------------------------------------------------------------------------------ */

INLINE vf load_pixels(const void *pixels, bool wide, int64_t i)
{
    if (wide) {
        vh h;
        memcpy(&h, (const uint16_t *)pixels + i, sizeof(h));
        return __builtin_convertvector(h, vf);
    }
    typedef uint8_t vb __attribute__((vector_size(LANES)));
    vb b;
    memcpy(&b, (const uint8_t *)pixels + i, sizeof(b));
    return __builtin_convertvector(b, vf);
}

/* Divided by half, not multiplied by its reciprocal: the nearest f32 to pixel / half, then one subtraction. */
INLINE void from_pixels_body(void *out, bool bf16, const void *pixels, bool wide, float half, int64_t n)
{
    vf vhalf = splat(half);
    size_t size = wide ? 2 : 1;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_t(out, bf16, i, load_pixels(pixels, wide, i) / vhalf - splat(1.0f));
    if (i == n) return;
    char padded[LANES * 2] = {0};
    memcpy(padded, (const char *)pixels + (size_t)i * size, (size_t)(n - i) * size);
    store_tail(out, bf16, i, load_pixels(padded, wide, 0) / vhalf - splat(1.0f), n - i);
}

void SIMD_NAME(from_pixels)(void *out, bool bf16, const void *pixels, bool wide, float half, int64_t n)
{
    if (bf16) {
        from_pixels_body(out, true, pixels, wide, half, n);
    } else if (wide) {
        from_pixels_body(out, false, pixels, true, half, n);
    } else {
        from_pixels_body(out, false, pixels, false, half, n);
    }
}

/* The pixel values of one vector, in f64: (x + 1) * max / 2 would round up over .5 in f32 where the exact product is
 * below it. A NaN fails `v > 0` and becomes 0. */
INLINE vi pixel_values(vf x, float max, bool truncate)
{
    vd v = (__builtin_convertvector(x, vd) + 1.0) * ((double)max * 0.5);
    typedef int64_t vl __attribute__((vector_size(LANES * 8)));
    vd limit = (double)max - (vd){0};
    vl over = v > limit, positive = v > 0.0;
    v = (vd)((over & (vl)limit) | (~over & (vl)v));
    v = (vd)(positive & (vl)v);
    if (!truncate) v = (v + 0x1.8p52) - 0x1.8p52; /* rounds half to even */
    return __builtin_convertvector(v, vi);
}

INLINE void store_pixels(void *pixels, bool wide, vi v)
{
    if (wide) {
        vh h = __builtin_convertvector(v, vh);
        memcpy(pixels, &h, sizeof(h));
    } else {
        typedef uint8_t vb __attribute__((vector_size(LANES)));
        vb b = __builtin_convertvector(v, vb);
        memcpy(pixels, &b, sizeof(b));
    }
}

INLINE void to_pixels_body(void *pixels, bool wide, const void *x, bool bf16, float max, bool truncate,
                           int64_t n)
{
    size_t size = wide ? 2 : 1;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_pixels((char *)pixels + (size_t)i * size, wide,
                     pixel_values(load_t(x, bf16, i), max, truncate));
    if (i == n) return;
    char padded[LANES * 2];
    store_pixels(padded, wide, pixel_values(load_tail(x, bf16, i, n - i), max, truncate));
    memcpy((char *)pixels + (size_t)i * size, padded, (size_t)(n - i) * size);
}

void SIMD_NAME(to_pixels)(void *pixels, bool wide, const void *x, bool bf16, float max, bool truncate,
                          int64_t n)
{
    if (bf16) {
        to_pixels_body(pixels, wide, x, true, max, truncate, n);
    } else {
        to_pixels_body(pixels, wide, x, false, max, truncate, n);
    }
}

/* ---- group norm -------------------------------------------------------------------------------------- */

enum { NORM_VECTORS = 4 };

/* `vectors` vectors of channels from `i` on; `tail` > 0: one vector of which only so many channels are there. */
INLINE void sums_of(const void *x, bool bf16, int64_t rows, int64_t channels, int64_t i, int vectors,
                    int64_t tail, const float *shift, double *sum, double *square)
{
    vd s[NORM_VECTORS] = {0}, q[NORM_VECTORS] = {0};
    vf sh[NORM_VECTORS];
    for (int v = 0; v < vectors; v++)
        sh[v] = tail ? load_tail(shift, false, i, tail) : load_f32(shift + i + v * LANES);
    for (int64_t r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            int64_t at = r * channels + i + v * LANES;
            vf value = tail ? load_tail(x, bf16, at, tail) : load_t(x, bf16, at);
            vd d = __builtin_convertvector(value, vd) - __builtin_convertvector(sh[v], vd);
            s[v] += d;
            q[v] += d * d;
        }
    }
    for (int v = 0; v < vectors; v++) {
        for (int64_t lane = 0; lane < (tail ? tail : LANES); lane++) {
            sum[i + v * LANES + lane] += s[v][lane];
            square[i + v * LANES + lane] += q[v][lane];
        }
    }
}

INLINE void norm_sums_body(const void *x, bool bf16, int64_t rows, int64_t channels, const float *shift,
                           double *sum, double *square)
{
    int64_t i = 0;
    for (; i + NORM_VECTORS * LANES <= channels; i += NORM_VECTORS * LANES)
        sums_of(x, bf16, rows, channels, i, NORM_VECTORS, 0, shift, sum, square);
    for (; i + LANES <= channels; i += LANES) sums_of(x, bf16, rows, channels, i, 1, 0, shift, sum, square);
    if (i < channels) sums_of(x, bf16, rows, channels, i, 1, channels - i, shift, sum, square);
}

void SIMD_NAME(norm_sums)(const void *x, bool bf16, int64_t rows, int64_t channels, const float *shift,
                          double *sum, double *square)
{
    if (bf16) {
        norm_sums_body(x, true, rows, channels, shift, sum, square);
    } else {
        norm_sums_body(x, false, rows, channels, shift, sum, square);
    }
}

INLINE vf normalised(vf x, vf mean, vf factor, vf offset, lt_activation act)
{
    return activate(madd(x - mean, factor, offset), act);
}

INLINE void norm_apply_body(void *y, const void *x, bool bf16, int64_t rows, int64_t channels,
                            const float *mean, const float *factor, const float *offset, lt_activation act)
{
    for (int64_t r = 0; r < rows; r++) {
        int64_t row = r * channels, i = 0;
        for (; i + LANES <= channels; i += LANES) {
            vf v = normalised(load_t(x, bf16, row + i), load_f32(mean + i), load_f32(factor + i),
                              load_f32(offset + i), act);
            store_t(y, bf16, row + i, v);
        }
        if (i < channels) {
            int64_t n = channels - i;
            vf v = normalised(load_tail(x, bf16, row + i, n), load_tail(mean, false, i, n),
                              load_tail(factor, false, i, n), load_tail(offset, false, i, n), act);
            store_tail(y, bf16, row + i, v, n);
        }
    }
}

void SIMD_NAME(norm_apply)(void *y, const void *x, bool bf16, int64_t rows, int64_t channels,
                           const float *mean, const float *factor, const float *offset, lt_activation act)
{
    if (bf16) {
        norm_apply_body(y, x, true, rows, channels, mean, factor, offset, act);
    } else if (act == LT_ACT_SILU) {
        norm_apply_body(y, x, false, rows, channels, mean, factor, offset, LT_ACT_SILU);
    } else {
        norm_apply_body(y, x, false, rows, channels, mean, factor, offset, act);
    }
}
