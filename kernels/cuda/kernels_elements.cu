/* kernels_elements.cu - elementwise operators: a thread takes 16 bytes of the result at a time. */
#include "kernels/cuda/device.cuh"

static thread_local cudaError_t last_error = cudaSuccess;

lt_status lt_launched(void)
{
    last_error = cudaGetLastError();
    return last_error == cudaSuccess ? LT_OK : LT_E_INTERNAL;
}

const char *lt_launch_error(void)
{
    return last_error == cudaSuccess ? "no error" : cudaGetErrorName(last_error);
}

int lt_launch_code(void)
{
    return (int)last_error;
}

static __global__ void nothing() {}

lt_status lt_kernels_found(void)
{
    cudaFuncAttributes attributes;
    last_error = cudaFuncGetAttributes(&attributes, nothing);
    cudaGetLastError();
    return last_error == cudaSuccess                       ? LT_OK
           : last_error == cudaErrorNoKernelImageForDevice ? LT_E_UNSUPPORTED
                                                           : LT_E_INTERNAL;
}

/* ---- one place at a time ----------------------------------------------------------------------------------- */

struct add_scaled_op {
    float a;
    __device__ __forceinline__ float operator()(float x, float y) const
    {
        return fmaf(a, y, x);
    }
};

struct affine_op {
    float a, b;
    lt_activation act;
    __device__ __forceinline__ float operator()(float x, float) const
    {
        return activate(fmaf(a, x, b), act);
    }
};

struct multiply_op {
    __device__ __forceinline__ float operator()(float x, float y) const
    {
        return x * y;
    }
};

/* y may be NULL. */
template <class T, class F>
static __global__ void __launch_bounds__(THREADS)
    elements(void *out, const void *x, const void *y, F f, int64_t n, bool whole)
{
    constexpr int N = vector_of<T>;
    for (int64_t i = first_item() * N; i < n; i += item_stride() * N) {
        int count = (int)LT_MIN((int64_t)N, n - i);
        float a[N], b[N] = {};
        load<T>(a, x, i, count, whole);
        if (y) load<T>(b, y, i, count, whole);
#pragma unroll
        for (int k = 0; k < N; k++) a[k] = f(a[k], b[k]);
        store<T>(a, out, i, count, whole);
    }
}

template <class F>
static lt_status launch_elements(lt_stream stream, lt_dtype dtype, void *out, const void *x, const void *y,
                                 F f, int64_t n)
{
    if (n < 0 || !is_float(dtype)) return LT_E_INVALID;
    if (n == 0) return LT_OK;
    WITH_DTYPE(dtype, T,
               return launch(elements<T, F>, blocks_of((n + vector_of<T> - 1) / vector_of<T>), 0, stream, out,
                             x, y, f, n, are_aligned(out, x, y)));
}

lt_status lt_launch_add_scaled(lt_stream stream, lt_dtype dtype, void *out, const void *x, const void *y,
                               float a, int64_t n)
{
    return launch_elements(stream, dtype, out, x, y, add_scaled_op{a}, n);
}

lt_status lt_launch_affine(lt_stream stream, lt_dtype dtype, void *out, const void *x, float a, float b,
                           lt_activation act, int64_t n)
{
    return launch_elements(stream, dtype, out, x, NULL, affine_op{a, b, act}, n);
}

lt_status lt_launch_multiply(lt_stream stream, lt_dtype dtype, void *out, const void *x, const void *y,
                             int64_t n)
{
    return launch_elements(stream, dtype, out, x, y, multiply_op(), n);
}

template <class T>
static __global__ void __launch_bounds__(THREADS)
    combine_kernel(void *out, const void *x, double a, const void *y, double b, int64_t n, bool whole)
{
    constexpr int N = vector_of<T>;
    for (int64_t i = first_item() * N; i < n; i += item_stride() * N) {
        int count = (int)LT_MIN((int64_t)N, n - i);
        float v[N], w[N];
        typename T::storage r[N];
        load<T>(v, x, i, count, whole);
        load<T>(w, y, i, count, whole);
#pragma unroll
        for (int k = 0; k < N; k++) r[k] = T::put64(a * (double)v[k] + b * (double)w[k]);
        store_raw(r, out, i, count, whole);
    }
}

lt_status lt_launch_combine(lt_stream stream, lt_dtype dtype, void *out, const void *x, double a,
                            const void *y, double b, int64_t n)
{
    if (n < 0 || !is_float(dtype)) return LT_E_INVALID;
    if (n == 0) return LT_OK;
    WITH_DTYPE(dtype, T,
               return launch(combine_kernel<T>, blocks_of((n + vector_of<T> - 1) / vector_of<T>), 0, stream,
                             out, x, a, y, b, n, are_aligned(out, x, y)));
}

template <class T>
static __global__ void __launch_bounds__(THREADS)
    broadcast_kernel(void *out, const void *x, const void *y, int64_t n, divisor period, bool whole,
                     bool whole_y)
{
    constexpr int N = vector_of<T>;
    for (int64_t i = first_item() * N; i < n; i += item_stride() * N) {
        int count = (int)LT_MIN((int64_t)N, n - i);
        int64_t at = i - divide(i, period) * period.d;
        float v[N], w[N];
        load<T>(v, x, i, count, whole);
        if (whole_y) {
            load<T>(w, y, at, count, true);
        } else {
#pragma unroll
            for (int k = 0; k < N; k++) {
                w[k] = k < count ? T::get(((const typename T::storage *)y)[at]) : 0.0f;
                if (++at == period.d) at = 0;
            }
        }
#pragma unroll
        for (int k = 0; k < N; k++) v[k] += w[k];
        store<T>(v, out, i, count, whole);
    }
}

lt_status lt_launch_add_broadcast(lt_stream stream, lt_dtype dtype, void *out, const void *x, const void *y,
                                  int64_t n, int64_t period)
{
    if (n < 0 || !is_float(dtype) || (n > 0 && period < 1)) return LT_E_INVALID;
    if (n == 0) return LT_OK;
    WITH_DTYPE(dtype, T,
               return launch(broadcast_kernel<T>, blocks_of((n + vector_of<T> - 1) / vector_of<T>), 0, stream,
                             out, x, y, n, divisor_of(period), are_aligned(out, x),
                             are_aligned(y) && period % vector_of<T> == 0));
}

/* ---- by rows of channels ------------------------------------------------------------------------------------ */

/* Place u of a loop over rows, each in pieces of N channels. */
struct row_piece {
    int64_t row, channel;
    int count;
};

template <int N>
static __device__ __forceinline__ row_piece piece_of(int64_t u, const divisor &pieces, int64_t channels)
{
    row_piece p;
    p.row = divide(u, pieces);
    p.channel = (u - p.row * pieces.d) * N;
    p.count = (int)LT_MIN((int64_t)N, channels - p.channel);
    return p;
}

/* gate may be NULL. */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    add_gated_kernel(void *out, const void *x, const void *y, bool y_is_row, const void *gate, int64_t items,
                     int64_t channels, divisor pieces, divisor rows, bool whole)
{
    constexpr int N = vector_of<T>;
    for (int64_t u = first_item(); u < items; u += item_stride()) {
        row_piece p = piece_of<N>(u, pieces, channels);
        int64_t i = p.row * channels + p.channel, s = divide(p.row, rows) * channels + p.channel;
        float v[N], w[N], g[N];
        load<T>(v, x, i, p.count, whole);
        load<T>(w, y, y_is_row ? s : i, p.count, whole);
        if (gate) load<T>(g, gate, s, p.count, whole);
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = gate ? fmaf(g[k], w[k], v[k]) : v[k] + w[k];
        store<T>(v, out, i, p.count, whole);
    }
}

lt_status lt_launch_add_gated(lt_stream stream, lt_dtype dtype, void *out, const void *x, const void *y,
                              bool y_is_row, const void *gate, int64_t n, int64_t rows, int64_t channels)
{
    if (n < 0 || rows < 0 || channels < 0 || !is_float(dtype)) return LT_E_INVALID;
    if (n * rows * channels == 0) return LT_OK;
    WITH_DTYPE(dtype, T, int64_t pieces = (channels + vector_of<T> - 1) / vector_of<T>;
               int64_t items = n * rows * pieces;
               return launch(add_gated_kernel<T>, blocks_of(items), 0, stream, out, x, y, y_is_row, gate,
                             items, channels, divisor_of(pieces), divisor_of(rows),
                             channels % vector_of<T> == 0 && are_aligned(out, x, y, gate)));
}

template <class T>
static __global__ void __launch_bounds__(THREADS)
    gated_kernel(void *out, const void *x, lt_activation act, int64_t items, int64_t channels, divisor pieces,
                 bool whole)
{
    constexpr int N = vector_of<T>;
    for (int64_t u = first_item(); u < items; u += item_stride()) {
        row_piece p = piece_of<N>(u, pieces, channels);
        int64_t from = 2 * p.row * channels + p.channel;
        float v[N], g[N];
        load<T>(v, x, from, p.count, whole);
        load<T>(g, x, from + channels, p.count, whole);
#pragma unroll
        for (int k = 0; k < N; k++) v[k] *= activate(g[k], act);
        store<T>(v, out, p.row * channels + p.channel, p.count, whole);
    }
}

lt_status lt_launch_gated(lt_stream stream, lt_dtype dtype, void *out, const void *x, lt_activation act,
                          int64_t rows, int64_t channels)
{
    if (rows < 0 || channels < 0 || !is_float(dtype)) return LT_E_INVALID;
    if (rows * channels == 0) return LT_OK;
    WITH_DTYPE(dtype, T, int64_t pieces = (channels + vector_of<T> - 1) / vector_of<T>; return launch(
                   gated_kernel<T>, blocks_of(rows * pieces), 0, stream, out, x, act, rows * pieces, channels,
                   divisor_of(pieces), channels % vector_of<T> == 0 && are_aligned(out, x)));
}

/* X is f32 or T. */
template <class T, class X>
static __global__ void __launch_bounds__(THREADS)
    bias_act_kernel(void *out, const void *x, const float *bias, lt_activation act, const void *residual,
                    int64_t items, int64_t channels, divisor pieces, bool whole)
{
    constexpr int N = vector_of<T>;
    for (int64_t u = first_item(); u < items; u += item_stride()) {
        row_piece p = piece_of<N>(u, pieces, channels);
        int64_t i = p.row * channels + p.channel;
        float v[N], b[N] = {}, r[N] = {};
        load<X>(v, x, i, p.count, whole);
        if (bias) load<f32>(b, bias, p.channel, p.count, whole);
        if (residual) load<T>(r, residual, i, p.count, whole);
#pragma unroll
        for (int k = 0; k < N; k++) {
            v[k] = activate(bias ? v[k] + b[k] : v[k], act);
            if (residual) v[k] += r[k];
        }
        store<T>(v, out, i, p.count, whole);
    }
}

lt_status lt_launch_bias_act(lt_stream stream, lt_dtype dtype, void *out, lt_dtype x_dtype, const void *x,
                             const float *bias, lt_activation act, const void *residual, int64_t rows,
                             int64_t channels)
{
    if (rows < 0 || channels < 0 || !is_float(dtype) || (x_dtype != LT_F32 && x_dtype != dtype))
        return LT_E_INVALID;
    if (rows * channels == 0) return LT_OK;
    WITH_DTYPE(dtype, T, int64_t pieces = (channels + vector_of<T> - 1) / vector_of<T>;
               bool whole = channels % vector_of<T> == 0 && are_aligned(out, x, bias, residual);
               return launch(x_dtype == LT_F32 ? bias_act_kernel<T, f32> : bias_act_kernel<T, T>,
                             blocks_of(rows * pieces), 0, stream, out, x, bias, act, residual, rows * pieces,
                             channels, divisor_of(pieces), whole));
}
