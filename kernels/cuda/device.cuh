/* device.cuh - what the kernels share: elements of a dtype in groups of 16 bytes, activations, sums over lanes, fast division, the
 * launch. Internal.
 *
 * Contraction is off (-fmad=false): a fused multiply-add is said. */
#ifndef LT_CUDA_DEVICE_CUH
#define LT_CUDA_DEVICE_CUH

#include "kernels/cuda/kernels.h" /* first: as C, with what it includes */
#include "kernels/convert.h"

#include <cuda_runtime.h>
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

/* ---- dtypes ------------------------------------------------------------------------------------------------ */

/* f64 to f32 in such a way that rounding to 16 bits afterwards is as if done once: lt_f64_round_odd. */
static __device__ __forceinline__ float round_odd(double d)
{
#if defined(__CUDACC__)
    float f = __double2float_rz(d);
    return (double)f == d || d != d ? f : __uint_as_float(__float_as_uint(f) | 1);
#else
    return lt_f64_round_odd(d);
#endif
}

struct f32 {
    typedef float storage;
    static __device__ __forceinline__ float get(float x)
    {
        return x;
    }
    static __device__ __forceinline__ float put(float x)
    {
        return x;
    }
    static __device__ __forceinline__ float put64(double x)
    {
        return (float)x;
    }
};

struct bf16 {
    typedef uint16_t storage;
    static __device__ __forceinline__ float get(uint16_t x)
    {
#if defined(__CUDACC__)
        return __uint_as_float((unsigned)x << 16);
#else
        return lt_bf16_to_f32(x);
#endif
    }
    static __device__ __forceinline__ uint16_t put(float x)
    {
#if defined(__CUDACC__)
        return __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
        return lt_f32_to_bf16(x);
#endif
    }
    static __device__ __forceinline__ uint16_t put64(double x)
    {
        return put(round_odd(x));
    }
};

struct f16 {
    typedef uint16_t storage;
    static __device__ __forceinline__ float get(uint16_t x)
    {
#if defined(__CUDACC__)
        return __half2float(__ushort_as_half(x));
#else
        return lt_f16_to_f32(x);
#endif
    }
    static __device__ __forceinline__ uint16_t put(float x)
    {
#if defined(__CUDACC__)
        return __half_as_ushort(__float2half_rn(x));
#else
        return lt_f32_to_f16(x);
#endif
    }
    static __device__ __forceinline__ uint16_t put64(double x)
    {
        return put(round_odd(x));
    }
};

/* Run the statements with T the type of a dtype; for another, return E_INVALID. */
#define WITH_DTYPE(dtype, T, ...)                                                                            \
    switch (dtype) {                                                                                         \
    case LT_F32: {                                                                                           \
        typedef f32 T;                                                                                       \
        __VA_ARGS__;                                                                                         \
        break;                                                                                               \
    }                                                                                                        \
    case LT_BF16: {                                                                                          \
        typedef bf16 T;                                                                                      \
        __VA_ARGS__;                                                                                         \
        break;                                                                                               \
    }                                                                                                        \
    case LT_F16: {                                                                                           \
        typedef f16 T;                                                                                       \
        __VA_ARGS__;                                                                                         \
        break;                                                                                               \
    }                                                                                                        \
    default: return LT_E_INVALID;                                                                            \
    }

static inline bool is_float(lt_dtype dtype)
{
    return dtype == LT_F32 || dtype == LT_BF16 || dtype == LT_F16;
}

/* Elements in 16 bytes. */
template <class T> constexpr int vector_of = (int)(16 / sizeof(typename T::storage));

/* N elements of p from i on, of which `count` are there; the rest is zero. whole: p + i lies at a multiple of the size of N
 * elements, 16 bytes or more of them in accesses of 16. */
template <class S, int N>
static __device__ __forceinline__ void load_raw(S (&v)[N], const void *p, int64_t i, int count, bool whole)
{
    constexpr int size = (int)sizeof(S) * N;
    const S *at = (const S *)p + i;
    if (whole && count == N && size % 16 == 0) {
        uint4 raw[(size + 15) / 16];
#pragma unroll
        for (int k = 0; k < size / 16; k++) raw[k] = ((const uint4 *)at)[k];
        memcpy(v, raw, sizeof(v));
    } else if (whole && count == N && size == 8) {
        uint2 raw = *(const uint2 *)at;
        memcpy(v, &raw, sizeof(v));
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = k < count ? at[k] : (S)0;
    }
}

template <class S, int N>
static __device__ __forceinline__ void store_raw(const S (&v)[N], void *p, int64_t i, int count, bool whole)
{
    constexpr int size = (int)sizeof(S) * N;
    S *at = (S *)p + i;
    if (whole && count == N && size % 16 == 0) {
        uint4 raw[(size + 15) / 16];
        memcpy(raw, v, sizeof(v));
#pragma unroll
        for (int k = 0; k < size / 16; k++) ((uint4 *)at)[k] = raw[k];
    } else if (whole && count == N && size == 8) {
        uint2 raw;
        memcpy(&raw, v, sizeof(v));
        *(uint2 *)at = raw;
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) {
            if (k < count) at[k] = v[k];
        }
    }
}

template <class T, int N>
static __device__ __forceinline__ void load(float (&v)[N], const void *p, int64_t i, int count, bool whole)
{
    typename T::storage raw[N];
    load_raw(raw, p, i, count, whole);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = T::get(raw[k]);
}

template <class T, int N>
static __device__ __forceinline__ void store(const float (&v)[N], void *p, int64_t i, int count, bool whole)
{
    typename T::storage raw[N];
#pragma unroll
    for (int k = 0; k < N; k++) raw[k] = T::put(v[k]);
    store_raw(raw, p, i, count, whole);
}

/* Element i of any dtype. */
static __device__ inline double load_any(const void *p, lt_dtype dtype, int64_t i)
{
    switch (dtype) {
    case LT_F32: return (double)((const float *)p)[i];
    case LT_BF16: return (double)bf16::get(((const uint16_t *)p)[i]);
    case LT_F16: return (double)f16::get(((const uint16_t *)p)[i]);
    case LT_F64: return ((const double *)p)[i];
    case LT_U8: return (double)((const uint8_t *)p)[i];
    case LT_U16: return (double)((const uint16_t *)p)[i];
    case LT_I32: return (double)((const int32_t *)p)[i];
    default: return (double)((const int64_t *)p)[i];
    }
}

/* ---- arithmetic -------------------------------------------------------------------------------------------- */

/* e^(high + low), low small beside high. */
static __device__ __forceinline__ float exp_of_sum(float high, float low)
{
    float e = expf(high);
    return e > 3.4e38f ? e : fmaf(e, low, e);
}

/* 1 / d to an ulp, for 2^-126 <= d <= 2^126 and infinity, in one instruction. */
static __device__ __forceinline__ float reciprocal(float d)
{
#if defined(__CUDACC__)
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
    return r;
#else
    return fake_reciprocal(d);
#endif
}

/* x / (1 + e), 0 <= e, to an ulp more than by a division; for the two largest finite x it may be infinite. A quarter of the divisor is never
 * between 2^126 and infinity, where reciprocal, as __fdividef, gives 0: SiLU at -88 would be -0 in place of -5e-37, 5 times affine's bound.
 * group_apply with SiLU takes 18.8 instructions an element in bf16 (sm_90, CUDA 13.0; f16 18.3, f32 19.3), loads and stores included; with a
 * division 28.3 (27.5, 28.9). */
static __device__ __forceinline__ float over_one_and(float x, float e)
{
    return 0.25f * x * reciprocal(fmaf(e, 0.25f, 0.25f));
}

/* The exponents of the last two are made of two numbers: at -6 the rounding of one alone would cost 30 times the bound. */
static __device__ __forceinline__ float activate(float x, lt_activation act)
{
    switch (act) {
    case LT_ACT_SILU: return over_one_and(x, expf(-x));
    case LT_ACT_GELU_ERF: return x * (0.5f * erfcf(-0.707106781f * x));
    case LT_ACT_GELU_TANH: {
        /* 0.5 (1 + tanh(u)) = 1 / (1 + e^(-2u)); -2u = -2 sqrt(2 / pi) (x + 0.044715 x^3) */
        double wide = (double)x, e = wide * (-1.5957691216057308 - 0.07135481282636577 * wide * wide);
        float high = (float)e;
        return over_one_and(x, exp_of_sum(high, fabsf(high) < 200.0f ? (float)(e - (double)high) : 0.0f));
    }
    case LT_ACT_QUICK_GELU: {
        float high = -1.702f * x, low = fmaf(-1.702f, x, -high) + 2.193450927734375e-8f * x;
        return over_one_and(x, exp_of_sum(high, fabsf(high) < 200.0f ? low : 0.0f));
    }
    default: return x;
    }
}

/* n / d for 0 <= n and 0 < d, by a product where n and d are below 2^31 (Granlund and Montgomery, 1994). */
struct divisor {
    int64_t d;
    uint32_t factor, shift;
};

static inline divisor divisor_of(int64_t d)
{
    divisor by = {d, 0, 0};
    if (d < 2 || d >= (int64_t)1 << 31) return by;
    while (((int64_t)1 << by.shift) < d) by.shift++; /* 2^shift >= d */
    by.factor = (uint32_t)((((uint64_t)1 << (31 + by.shift)) + (uint64_t)d - 1) / (uint64_t)d);
    by.shift--;
    return by;
}

/* Once, not wherever something is divided: it is a hundred instructions. */
static __device__ __attribute__((noinline)) int64_t divide_wide(int64_t n, int64_t d)
{
    return n / d;
}

static __device__ __forceinline__ int64_t divide(int64_t n, const divisor &by)
{
    if (by.d == 1) return n;
    if (by.factor && n < (int64_t)1 << 31) return (int64_t)(__umulhi((unsigned)n, by.factor) >> by.shift);
    return divide_wide(n, by.d);
}

/* Sum over the lanes of a warp; every lane gets it. A tree: the order is fixed. */
static __device__ __forceinline__ double warp_sum(double v)
{
#pragma unroll
    for (int by = 16; by; by >>= 1) v += __shfl_xor_sync(0xffffffffu, v, by);
    return v;
}

/* ---- launch ------------------------------------------------------------------------------------------------ */

/* Dynamic shared memory, 16-byte aligned: all that kernels here use. */
#if defined(__CUDACC__)
template <class S> static __device__ __forceinline__ S *shared_memory()
{
    extern __shared__ uint4 lt_dynamic_shared[];
    return (S *)lt_dynamic_shared;
}
#else
template <class S> static inline S *shared_memory()
{
    return (S *)fake_shared_memory();
}
#endif

enum { THREADS = 256, MOST_BLOCKS = 132 * 16 };

/* Blocks of a loop over `items` with a stride of the grid. */
static inline int64_t blocks_of(int64_t items)
{
    return LT_MIN((items + THREADS - 1) / THREADS, (int64_t)MOST_BLOCKS);
}

static __device__ __forceinline__ int64_t first_item()
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

static __device__ __forceinline__ int64_t item_stride()
{
    return (int64_t)gridDim.x * THREADS;
}

/* LT_OK, or E_INTERNAL with the error that lt_launch_error names. */
lt_status lt_launched(void);

/* A kernel of `blocks` blocks of THREADS. */
template <typename... P, typename... A>
static inline lt_status launch(void (*kernel)(P...), int64_t blocks, size_t shared_bytes, lt_stream stream,
                               A... arguments)
{
    if (shared_bytes > 48 << 10) {
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
    }
#if defined(__CUDACC__)
    kernel<<<(unsigned)blocks, THREADS, shared_bytes, stream>>>(static_cast<P>(arguments)...);
#else
    fake_launch((const void *)kernel, [=] { kernel(static_cast<P>(arguments)...); }, (unsigned)blocks,
                THREADS, shared_bytes, stream);
#endif
    return lt_launched();
}

/* Do all addresses allow accesses of 16 bytes? NULL does. */
static inline bool are_aligned(const void *a, const void *b = NULL, const void *c = NULL,
                               const void *d = NULL)
{
    return (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d) & 15) == 0;
}

#endif
