/* kernels_convert.cu - dtypes, pixels, noise, weights. */
#include "kernels/cuda/device.cuh"
#include "kernels/noise.h"

/* ---- dtypes ------------------------------------------------------------------------------------------------- */

template <class TO, class FROM>
static __global__ void __launch_bounds__(THREADS)
    convert_floats(void *out, const void *x, int64_t n, bool whole)
{
    constexpr int N = 8;
    for (int64_t i = first_item() * N; i < n; i += item_stride() * N) {
        int count = (int)LT_MIN((int64_t)N, n - i);
        float v[N];
        load<FROM>(v, x, i, count, whole);
        store<TO>(v, out, i, count, whole);
    }
}

/* d rounded to an integer within [low, high]; NaN becomes 0. */
static __device__ __forceinline__ double round_clamp(double d, double low, double high)
{
    if (d != d) return 0;
    d = rint(d);
    return d < low ? low : d > high ? high : d;
}

static __device__ inline void store_any(void *p, lt_dtype dtype, int64_t i, double d)
{
    switch (dtype) {
    case LT_F32: ((float *)p)[i] = (float)d; break;
    case LT_BF16: ((uint16_t *)p)[i] = bf16::put64(d); break;
    case LT_F16: ((uint16_t *)p)[i] = f16::put64(d); break;
    case LT_F64: ((double *)p)[i] = d; break;
    case LT_U8: ((uint8_t *)p)[i] = (uint8_t)round_clamp(d, 0, 255); break;
    case LT_U16: ((uint16_t *)p)[i] = (uint16_t)round_clamp(d, 0, 65535); break;
    case LT_I32: ((int32_t *)p)[i] = (int32_t)round_clamp(d, -2147483648.0, 2147483647.0); break;
    default:
        ((int64_t *)p)[i] = d >= 0x1p63 ? INT64_MAX : (int64_t)round_clamp(d, -0x1p63, 0x1p63 - 1024);
        break;
    }
}

static __global__ void __launch_bounds__(THREADS)
    convert_any(void *out, lt_dtype to, const void *x, lt_dtype from, int64_t n)
{
    for (int64_t i = first_item(); i < n; i += item_stride()) store_any(out, to, i, load_any(x, from, i));
}

static __global__ void __launch_bounds__(THREADS) copy_bytes(void *out, const void *x, int64_t n, bool whole)
{
    for (int64_t i = first_item() * 16; i < n; i += item_stride() * 16) {
        uint8_t v[16];
        int count = (int)LT_MIN((int64_t)16, n - i);
        load_raw(v, x, i, count, whole);
        store_raw(v, out, i, count, whole);
    }
}

template <class TO>
static lt_status launch_to(lt_stream stream, void *out, const void *x, lt_dtype from, int64_t n)
{
    bool whole = are_aligned(out, x);
    WITH_DTYPE(from, FROM,
               return launch(convert_floats<TO, FROM>, blocks_of((n + 7) / 8), 0, stream, out, x, n, whole));
}

lt_status lt_launch_convert(lt_stream stream, void *out, lt_dtype to, const void *x, lt_dtype from, int64_t n)
{
    if (n < 0 || (int)to < 0 || (int)from < 0 || to >= LT_N_DTYPES || from >= LT_N_DTYPES)
        return LT_E_INVALID;
    if (n == 0) return LT_OK;
    if (to == from) {
        n *= (int64_t)lt_dtype_bytes(to);
        return launch(copy_bytes, blocks_of((n + 15) / 16), 0, stream, out, x, n, are_aligned(out, x));
    }
    if (!is_float(to) || !is_float(from))
        return launch(convert_any, blocks_of(n), 0, stream, out, to, x, from, n);
    WITH_DTYPE(to, TO, return launch_to<TO>(stream, out, x, from, n));
}

/* ---- pixels ------------------------------------------------------------------------------------------------- */

template <class T, class P>
static __global__ void __launch_bounds__(THREADS)
    from_pixels(void *out, const void *pixels, float half, int64_t n, bool whole)
{
    constexpr int N = 8;
    for (int64_t i = first_item() * N; i < n; i += item_stride() * N) {
        int count = (int)LT_MIN((int64_t)N, n - i);
        P p[N];
        float v[N];
        load_raw(p, pixels, i, count, whole);
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = (float)p[k] / half - 1.0f;
        store<T>(v, out, i, count, whole);
    }
}

lt_status lt_launch_pixels_to_values(lt_stream stream, lt_dtype dtype, void *out, const void *pixels,
                                     int bits, int64_t n)
{
    if (n < 0 || bits < 1 || bits > 16) return LT_E_INVALID;
    if (n == 0) return is_float(dtype) ? LT_OK : LT_E_INVALID;
    float half = (float)((1 << bits) - 1) / 2;
    bool whole = are_aligned(out, pixels);
    WITH_DTYPE(dtype, T,
               return launch(bits <= 8 ? from_pixels<T, uint8_t> : from_pixels<T, uint16_t>,
                             blocks_of((n + 7) / 8), 0, stream, out, pixels, half, n, whole));
}

template <class T, class P>
static __global__ void __launch_bounds__(THREADS)
    to_pixels(void *out, const void *x, double max, bool truncate, int64_t n, bool whole)
{
    constexpr int N = 8;
    for (int64_t i = first_item() * N; i < n; i += item_stride() * N) {
        int count = (int)LT_MIN((int64_t)N, n - i);
        P p[N];
        float v[N];
        load<T>(v, x, i, count, whole);
#pragma unroll
        for (int k = 0; k < N; k++) {
            double d = ((double)v[k] + 1) * (max / 2);
            d = d > 0 ? LT_MIN(d, max) : 0; /* NaN becomes 0 */
            p[k] = (P)(truncate ? floor(d) : rint(d));
        }
        store_raw(p, out, i, count, whole);
    }
}

lt_status lt_launch_values_to_pixels(lt_stream stream, lt_dtype dtype, void *out, const void *x, int bits,
                                     bool truncate, int64_t n)
{
    if (n < 0 || bits < 1 || bits > 16) return LT_E_INVALID;
    if (n == 0) return is_float(dtype) ? LT_OK : LT_E_INVALID;
    double max = (double)((1 << bits) - 1);
    bool whole = are_aligned(out, x);
    WITH_DTYPE(dtype, T,
               return launch(bits <= 8 ? to_pixels<T, uint8_t> : to_pixels<T, uint16_t>,
                             blocks_of((n + 7) / 8), 0, stream, out, x, max, truncate, n, whole));
}

/* ---- noise -------------------------------------------------------------------------------------------------- */

template <class T>
static __global__ void __launch_bounds__(THREADS)
    noise_kernel(void *out, int64_t items, int64_t elements, divisor blocks, uint64_t seed, uint32_t clip,
                 uint64_t first_frame)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t frame = divide(i, blocks), block = i - frame * blocks.d;
        float four[4];
        lt_noise_block(four, seed, clip, first_frame + (uint64_t)frame, (uint32_t)block);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (4 * block + k < elements)
                ((typename T::storage *)out)[frame * elements + 4 * block + k] = T::put(four[k]);
        }
    }
}

lt_status lt_launch_noise(lt_stream stream, lt_dtype dtype, void *out, int64_t frames, int64_t elements,
                          uint64_t seed, uint32_t clip, uint64_t first_frame)
{
    if (frames < 0 || elements < 0 || elements > (int64_t)1 << 34 || !is_float(dtype)) return LT_E_INVALID;
    int64_t blocks = (elements + 3) / 4, items = frames * blocks;
    if (items == 0) return LT_OK;
    WITH_DTYPE(dtype, T,
               return launch(noise_kernel<T>, blocks_of(items), 0, stream, out, items, elements,
                             divisor_of(blocks), seed, clip, first_frame));
}
