/* kernels_softmax.cu - attention in pieces of keys: a row of scores to weights, with its maximum and sum so far (Milakov and
 * Gimelshein, Online normalizer calculation for softmax, 2018); and masks for the library's attention. */
#include "kernels/cuda/device.cuh"

static __device__ __forceinline__ float warp_max(float v)
{
#pragma unroll
    for (int by = 16; by; by >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, by));
    return v;
}

/* Over the block; every thread gets it. shared holds a number a warp. */
static __device__ __forceinline__ float block_max(float v, float *shared)
{
    v = warp_max(v);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
    for (int w = 1; w < THREADS / 32; w++) v = fmaxf(v, shared[w]);
    __syncthreads();
    return v;
}

static __device__ __forceinline__ double block_total(double v, double *shared)
{
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
    for (int w = 1; w < THREADS / 32; w++) v += shared[w];
    return v;
}

/* Score of key k of the piece, -infinity where it is not seen. */
static __device__ __forceinline__ float score_of(const float *scores, const float *mask, int64_t k,
                                                 int64_t visible, float scale)
{
    if (k >= visible) return -INFINITY;
    float s = scores[k] * scale;
    return mask ? s + mask[k] : s;
}

/* A block for each row. */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    softmax_piece(void *weights, const float *scores, float *state, lt_softmax_piece p)
{
    double *shared = shared_memory<double>();
    int64_t row = blockIdx.x, matrix = row / p.rows, query = p.query0 + row % p.rows;
    const float *from = scores + row * p.keys, *mask = NULL;
    if (p.mask)
        mask = p.mask + matrix / p.heads * p.mask_b + matrix % p.heads * p.mask_h + query * p.mask_q + p.key0;
    int64_t visible = p.causal ? LT_MAX(LT_MIN(query + 1 - p.key0, p.keys), (int64_t)0) : p.keys;
    float most = -INFINITY, old_most = p.key0 ? state[3 * row] : -INFINITY;
    float old_sum = p.key0 ? state[3 * row + 1] : 0;
    for (int64_t k = threadIdx.x; k < visible; k += THREADS)
        most = fmaxf(most, score_of(from, mask, k, visible, p.scale));
    most = fmaxf(block_max(most, (float *)shared), old_most);
    float base = most == -INFINITY ? 0 : most;
    double sum = 0;
    for (int64_t k = threadIdx.x; k < p.keys; k += THREADS) {
        float e = expf(score_of(from, mask, k, visible, p.scale) - base);
        sum += (double)e;
        ((typename T::storage *)weights)[row * p.keys + k] = T::put(e);
    }
    sum = block_total(sum, shared);
    if (threadIdx.x == 0) {
        float factor = expf(old_most - base); /* 0 where there was nothing */
        state[3 * row] = most;
        state[3 * row + 1] = (float)((double)old_sum * (double)factor + sum);
        state[3 * row + 2] = factor;
    }
}

lt_status lt_launch_softmax_piece(lt_stream stream, lt_dtype dtype, void *weights, const float *scores,
                                  float *state, const lt_softmax_piece *p)
{
    int64_t rows = p->n_matrices * p->rows;
    if (p->n_matrices < 0 || p->rows < 0 || p->keys < 1 || p->heads < 1 || p->key0 < 0 || p->query0 < 0 ||
        rows > INT32_MAX || !is_float(dtype))
        return LT_E_INVALID;
    if (rows == 0) return LT_OK;
    WITH_DTYPE(dtype, T,
               return launch(softmax_piece<T>, rows, THREADS / 32 * sizeof(double), stream, weights, scores,
                             state, *p));
}

static __global__ void __launch_bounds__(THREADS)
    softmax_rescale(float *sums, const float *state, int64_t items, divisor pieces, int64_t width, bool whole)
{
    for (int64_t u = first_item(); u < items; u += item_stride()) {
        int64_t row = divide(u, pieces), c = (u - row * pieces.d) * 4, i = row * width + c;
        int count = (int)LT_MIN((int64_t)4, width - c);
        float v[4], factor = state[3 * row + 2];
        load<f32>(v, sums, i, count, whole);
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] *= factor;
        store<f32>(v, sums, i, count, whole);
    }
}

lt_status lt_launch_softmax_rescale(lt_stream stream, float *sums, const float *state, int64_t n_matrices,
                                    int64_t rows, int64_t width)
{
    if (n_matrices < 0 || rows < 0 || width < 0) return LT_E_INVALID;
    int64_t pieces = (width + 3) / 4, items = n_matrices * rows * pieces;
    if (items == 0) return LT_OK;
    return launch(softmax_rescale, blocks_of(items), 0, stream, sums, state, items, divisor_of(pieces), width,
                  width % 4 == 0 && are_aligned(sums));
}

struct finish_shape {
    divisor pieces, rows, heads;
    int64_t queries, query0, width;
};

template <class T>
static __global__ void __launch_bounds__(THREADS)
    softmax_finish(void *y, const float *sums, const float *state, int64_t items, finish_shape p, bool whole)
{
    constexpr int N = vector_of<T>;
    for (int64_t u = first_item(); u < items; u += item_stride()) {
        int64_t row = divide(u, p.pieces), c = (u - row * p.pieces.d) * N;
        int64_t matrix = divide(row, p.rows), query = p.query0 + row - matrix * p.rows.d;
        int64_t b = divide(matrix, p.heads), h = matrix - b * p.heads.d;
        int count = (int)LT_MIN((int64_t)N, p.width - c);
        float v[N], sum = state[3 * row + 1];
        load<f32>(v, sums, row * p.width + c, count, whole);
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = sum == 0 ? 0 : v[k] / sum;
        store<T>(v, y, ((b * p.queries + query) * p.heads.d + h) * p.width + c, count, whole);
    }
}

lt_status lt_launch_softmax_finish(lt_stream stream, lt_dtype dtype, void *y, const float *sums,
                                   const float *state, int64_t batch, int64_t heads, int64_t queries,
                                   int64_t query0, int64_t rows, int64_t width)
{
    if (batch < 0 || heads < 1 || query0 < 0 || rows < 0 || query0 + rows > queries || width < 0 ||
        !is_float(dtype))
        return LT_E_INVALID;
    if (batch * rows * width == 0) return LT_OK;
    WITH_DTYPE(
        dtype, T, int64_t pieces = (width + vector_of<T> - 1) / vector_of<T>;
        int64_t items = batch * heads * rows * pieces;
        finish_shape p = {divisor_of(pieces), divisor_of(rows), divisor_of(heads), queries, query0, width};
        return launch(softmax_finish<T>, blocks_of(items), 0, stream, y, sums, state, items, p,
                      width % vector_of<T> == 0 && are_aligned(y, sums)));
}

/* ---- masks for the library ---------------------------------------------------------------------------------- */

/* A warp for each row. */
static __global__ void __launch_bounds__(THREADS)
    bound_mask(float *bounded, uint8_t *seen, const float *mask, int64_t rows, int64_t keys)
{
    const int64_t warps = THREADS / 32;
    int lane = (int)threadIdx.x % 32;
    for (int64_t row = blockIdx.x * warps + threadIdx.x / 32; row < rows; row += gridDim.x * warps) {
        float any = 0;
        for (int64_t k = lane; k < keys; k += 32) {
            float m = mask[row * keys + k];
            if (m != -INFINITY) any = 1;
            bounded[row * keys + k] = m == -INFINITY ? -8e37f : m < -4e37f ? -4e37f : m;
        }
        any = warp_max(any);
        if (lane == 0) seen[row] = any > 0;
    }
}

lt_status lt_launch_bound_mask(lt_stream stream, float *bounded, uint8_t *seen, const float *mask,
                               int64_t rows, int64_t keys)
{
    if (rows < 0 || keys < 1) return LT_E_INVALID;
    if (rows == 0) return LT_OK;
    return launch(bound_mask, blocks_of(rows * 32), 0, stream, bounded, seen, mask, rows, keys);
}

struct seen_shape {
    divisor heads, queries;
    int64_t seen_b, seen_h, seen_q;
};

template <class S>
static __global__ void __launch_bounds__(THREADS)
    clear_unseen(S *y, int64_t width, const uint8_t *seen, int64_t rows, seen_shape s)
{
    for (int64_t row = first_item(); row < rows; row += item_stride()) {
        int64_t place = divide(row, s.heads), h = row - place * s.heads.d;
        int64_t b = divide(place, s.queries), query = place - b * s.queries.d;
        if (seen[b * s.seen_b + h * s.seen_h + query * s.seen_q]) continue;
        for (int64_t i = 0; i < width; i++) y[row * width + i] = 0;
    }
}

lt_status lt_launch_clear_unseen(lt_stream stream, lt_dtype dtype, void *y, int64_t width,
                                 const uint8_t *seen, const lt_seen_rows *r)
{
    if (r->batch < 0 || r->queries < 0 || r->heads < 0 || width < 0 || !is_float(dtype)) return LT_E_INVALID;
    int64_t rows = r->batch * r->queries * r->heads;
    if (rows * width == 0) return LT_OK;
    seen_shape s = {divisor_of(r->heads), divisor_of(r->queries), r->seen_b, r->seen_h, r->seen_q};
    WITH_DTYPE(dtype, T,
               return launch(clear_unseen<typename T::storage>, blocks_of(rows), 0, stream,
                             (typename T::storage *)y, width, seen, rows, s));
}
