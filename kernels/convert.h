/* convert.h - one value of one dtype to and from f32 and f64, for the code of this folder. Inline and exact: rounding is
 * to nearest, ties to even; NaN stays NaN; values too large for f16 become infinite. */
#ifndef LT_CONVERT_H
#define LT_CONVERT_H

#include "kernels/tensor.h"

#include <math.h>
#include <string.h>

static inline float lt_f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint32_t lt_f32_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

static inline float lt_bf16_to_f32(uint16_t h)
{
    return lt_f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t lt_f32_to_bf16(float f)
{
    uint32_t bits = lt_f32_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float lt_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31) return lt_f32_from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent) return lt_f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float f = (float)fraction * 0x1p-24f; /* zero and subnormal: exact in f32 */
    return sign ? -f : f;
}

static inline uint16_t lt_f32_to_f16(float f)
{
    uint32_t bits = lt_f32_bits(f), magnitude = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x477ff000) return sign | 0x7c00; /* 65520 and above round to infinity */
    if (magnitude < 0x38800000) { /* below 2^-14: subnormal; the sum rounds to its last bit */
        float shifted = lt_f32_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (lt_f32_bits(shifted) - 0x3f000000));
    }
    magnitude -= 112u << 23;
    return (uint16_t)(sign | (magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

/* f64 to a 16-bit float, rounded once: through an f32 rounded to odd, which keeps what the second rounding needs. */
static inline float lt_f64_round_odd(double d)
{
    float f = (float)d;
    if ((double)f == d || isnan(d) || isinf(f)) return f;
    uint32_t bits = lt_f32_bits(f);
    if (fabs((double)f) > fabs(d)) bits--; /* towards zero */
    return lt_f32_from_bits(bits | 1);
}

/* Element i of data that need not be aligned: a file's tensors are not. */
static inline uint16_t lt_load_u16(const void *data, int64_t i)
{
    uint16_t v;
    memcpy(&v, (const char *)data + i * (int64_t)sizeof v, sizeof v);
    return v;
}

static inline uint32_t lt_load_u32(const void *data, int64_t i)
{
    uint32_t v;
    memcpy(&v, (const char *)data + i * (int64_t)sizeof v, sizeof v);
    return v;
}

static inline uint64_t lt_load_u64(const void *data, int64_t i)
{
    uint64_t v;
    memcpy(&v, (const char *)data + i * (int64_t)sizeof v, sizeof v);
    return v;
}

static inline double lt_f64_from_bits(uint64_t bits)
{
    double d;
    memcpy(&d, &bits, 8);
    return d;
}

/* Element i of any dtype as f64; data need not be aligned. */
static inline double lt_load_f64(const void *data, lt_dtype dtype, int64_t i)
{
    switch (dtype) {
    case LT_F32: return (double)lt_f32_from_bits(lt_load_u32(data, i));
    case LT_BF16: return (double)lt_bf16_to_f32(lt_load_u16(data, i));
    case LT_F16: return (double)lt_f16_to_f32(lt_load_u16(data, i));
    case LT_F64: return lt_f64_from_bits(lt_load_u64(data, i));
    case LT_U8: return (double)((const uint8_t *)data)[i];
    case LT_U16: return (double)lt_load_u16(data, i);
    case LT_I32: return (double)(int32_t)lt_load_u32(data, i);
    case LT_I64: return (double)(int64_t)lt_load_u64(data, i);
    default: return NAN;
    }
}

/* d rounded to an integer within [low, high]; NaN becomes 0. */
static inline double lt_round_clamp(double d, double low, double high)
{
    if (isnan(d)) return 0;
    d = rint(d);
    return d < low ? low : d > high ? high : d;
}

static inline void lt_store_f64(void *data, lt_dtype dtype, int64_t i, double d)
{
    switch (dtype) {
    case LT_F32: ((float *)data)[i] = (float)d; break;
    case LT_BF16: ((uint16_t *)data)[i] = lt_f32_to_bf16(lt_f64_round_odd(d)); break;
    case LT_F16: ((uint16_t *)data)[i] = lt_f32_to_f16(lt_f64_round_odd(d)); break;
    case LT_F64: ((double *)data)[i] = d; break;
    case LT_U8: ((uint8_t *)data)[i] = (uint8_t)lt_round_clamp(d, 0, 255); break;
    case LT_U16: ((uint16_t *)data)[i] = (uint16_t)lt_round_clamp(d, 0, 65535); break;
    case LT_I32: ((int32_t *)data)[i] = (int32_t)lt_round_clamp(d, INT32_MIN, INT32_MAX); break;
    case LT_I64:
        /* 2^63 itself does not fit; the double before it does. */
        ((int64_t *)data)[i] = d >= 0x1p63 ? INT64_MAX : (int64_t)lt_round_clamp(d, -0x1p63, 0x1p63 - 1024);
        break;
    default: break;
    }
}

#endif
