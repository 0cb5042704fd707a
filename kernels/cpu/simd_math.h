/* simd_math.h - vectors of the instruction set this file is compiled for, as GCC and clang spell them without
 * intrinsics, and the functions networks need on them.
 *
 * An element's value never depends on its place: tails are computed by the same vector code on a padded copy, and a fused
 * multiply-add is said (madd), not left to the compiler, which may fuse in one copy of a loop and not in another. */
#ifndef LT_CPU_SIMD_MATH_H
#define LT_CPU_SIMD_MATH_H

#include "kernels/cpu/simd.h"

#include <math.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512BF16__)
#define LANES           16
#define SIMD_NAME(name) name##_avx512bf16
#elif defined(__AVX512F__)
#define LANES           16
#define SIMD_NAME(name) name##_avx512
#elif defined(__AVX2__)
#define LANES           8
#define SIMD_NAME(name) name##_avx2
#else
#define LANES           4
#define SIMD_NAME(name) name##_base
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));
typedef double vd __attribute__((vector_size(LANES * 8)));

INLINE vf splat(float x)
{
    return x - (vf){0};
}

/* a * b + c, rounded once where the machine can. */
INLINE vf madd(vf a, vf b, vf c)
{
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

INLINE vf blend(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

INLINE vf load_f32(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof(v));
    return v;
}

INLINE void store_f32(float *p, vf v)
{
    memcpy(p, &v, sizeof(v));
}

INLINE vf load_bf16(const uint16_t *p)
{
    vh h;
    memcpy(&h, p, sizeof(h));
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

INLINE void store_bf16(uint16_t *p, vf v)
{
    vu bits = (vu)v;
    vu rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    vu quiet = bits >> 16 | 0x40;
    vu nan = (vu)(v != v);
    vh h = __builtin_convertvector((nan & quiet) | (~nan & rounded), vh);
    memcpy(p, &h, sizeof(h));
}

/* Elements i .. i + LANES - 1 of T; at the end of n, those that are there and zeros. */
INLINE vf load_t(const void *p, bool bf16, int64_t i)
{
    return bf16 ? load_bf16((const uint16_t *)p + i) : load_f32((const float *)p + i);
}

INLINE void store_t(void *p, bool bf16, int64_t i, vf v)
{
    if (bf16) {
        store_bf16((uint16_t *)p + i, v);
    } else {
        store_f32((float *)p + i, v);
    }
}

INLINE vf load_tail(const void *p, bool bf16, int64_t i, int64_t count)
{
    char padded[LANES * 4] = {0};
    size_t size = bf16 ? 2 : 4;
    memcpy(padded, (const char *)p + (size_t)i * size, (size_t)count * size);
    return load_t(padded, bf16, 0);
}

INLINE void store_tail(void *p, bool bf16, int64_t i, vf v, int64_t count)
{
    char padded[LANES * 4];
    size_t size = bf16 ? 2 : 4;
    store_t(padded, bf16, 0, v);
    memcpy((char *)p + (size_t)i * size, padded, (size_t)count * size);
}

/* e^x, to 2 ulp; 0 below -87.3, infinity above 88.3; NaN stays. x = n ln 2 + r, e^r by its Taylor polynomial of degree 7
 * over |r| <= 0.35 (remainder 6e-9). */
INLINE vf vexp(vf x)
{
    const vf magic =
        splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
    vi small = x < splat(-87.3f);
    vi large = x > splat(88.3f);
    vf shifted = madd(x, splat(1.44269504f), magic);
    vf n = shifted - magic;
    /* ln 2 in two parts; the first has few enough bits for n times it to be exact */
    vf r = madd(n, splat(-1.42860677e-6f), madd(n, splat(-0.693145752f), x));
    vf p = splat(1.98412698e-4f);
    p = madd(p, r, splat(1.38888889e-3f));
    p = madd(p, r, splat(8.33333333e-3f));
    p = madd(p, r, splat(4.16666667e-2f));
    p = madd(p, r, splat(1.66666667e-1f));
    p = madd(p, r, splat(0.5f));
    p = madd(p, r, splat(1.0f));
    p = madd(p, r, splat(1.0f));
    vu power = ((vu)shifted - (vu)magic + 127) << 23; /* unsigned: of a NaN it may be anything */
    return blend(small, splat(0.0f), blend(large, splat(INFINITY), p * (vf)power));
}

/* The larger of two; b where one of them is NaN. */
INLINE vf vmax(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return blend(a > b, a, b);
#endif
}

/* 2^x for x below 127, to 1 ulp; 0 below `least`, -126 or more: subnormals cost some processors a hundred cycles each. NaN stays.
 * x = n + r with n whole and r in [0, 1]; 2^r by the polynomial of degree 6 with the least relative error (2e-9) that is exact at 0. */
INLINE vf vexp2(vf x, float least)
{
    x = vmax(splat(-200.0f), x);
#if defined(__AVX512F__)
    vf r = (vf)_mm512_reduce_ps((__m512)x, 1); /* x - floor(x) */
#else
    const vf magic = splat(12582912.0f); /* as in vexp */
    vf shifted = (x - splat(0.5f)) + magic, r = x - (shifted - magic);
#endif
    vf p = splat(2.1612919e-4f);
    p = madd(p, r, splat(1.24678446e-3f));
    p = madd(p, r, splat(9.67545155e-3f));
    p = madd(p, r, splat(5.54852821e-2f));
    p = madd(p, r, splat(2.40229309e-1f));
    p = madd(p, r, splat(6.93147063e-1f));
    p = madd(p, r, splat(1.0f));
#if defined(__AVX512F__)
    __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, (__m512)splat(least), _CMP_NLT_UQ);
    return (vf)_mm512_maskz_scalef_ps(kept, (__m512)p, (__m512)x); /* p 2^floor(x) */
#else
    vu power = ((vu)shifted - (vu)magic + 127) << 23;
    return blend(x < splat(least), splat(0.0f), p * (vf)power);
#endif
}

/* All bits set in the lanes below `count`. */
INLINE vi lanes_below(int64_t count)
{
    vi lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    return lane < ((int32_t)count - (vi){0});
}

/* erfc(z) exp(z^2) for z >= 0 as a polynomial in t = 1 / (1 + z / 2), interpolated at 12 Chebyshev
 * nodes of t in [1/8, 1]; relative error 1.2e-7 in f32. */
INLINE vf scaled_erfc(vf z)
{
    static const float coefficients[] = {
        0.0220317487f,  -0.10745912f, 0.157288998f, 0.0591842905f, -0.370891869f, 0.270367891f,
        -0.0534703843f, 0.219716236f, 0.23800382f,  0.283210576f,  0.282015413f,  2.41683188e-06f,
    };
    vf t = splat(1.0f) / madd(splat(0.5f), z, splat(1.0f));
    vf p = splat(coefficients[0]);
    for (size_t i = 1; i < sizeof(coefficients) / sizeof(float); i++) p = madd(p, t, splat(coefficients[i]));
    return p;
}

INLINE vf activate(vf x, lt_activation act)
{
    switch (act) {
    case LT_ACT_SILU: return x / (splat(1.0f) + vexp(-x));
    case LT_ACT_QUICK_GELU: return x / (splat(1.0f) + vexp(splat(-1.702f) * x));
    case LT_ACT_GELU_TANH: {
        /* 0.5 (1 + tanh(u)) = 1 / (1 + e^(-2u)) */
        vf u = splat(1.59576912f) * x * madd(splat(0.044715f) * x, x, splat(1.0f));
        return x / (splat(1.0f) + vexp(-u));
    }
    case LT_ACT_GELU_ERF: {
        vf z = (vf)((vi)x & 0x7fffffff) * splat(0.707106781f);
        vf half_tail = splat(0.5f) * scaled_erfc(z) * vexp(-z * z);
        return x * blend(x > splat(0.0f), splat(1.0f) - half_tail, half_tail);
    }
    default: return x;
    }
}

#endif
