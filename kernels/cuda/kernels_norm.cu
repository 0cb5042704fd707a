/* kernels_norm.cu - group norm, layer norm, rms norm. Sums are f64 around a value of the group (row), added in an order that
 * the shape of one sample decides.
 *
 * Group norm is bound by bytes: 8 operations an element are nothing beside 2 or 4 bytes in and out. Read once and written once it would move
 * two thirds of what it moves when it is read again for the result. What that takes, on a device with 132 multiprocessors of 227 KiB of
 * shared memory and 50 MB of second-level cache:
 * - A bundle of groups whose rows are 64 bytes, kept in one block's shared memory, is at most 1,280 rows: pictures of 32 x 40. That is
 *   group_fused. A cluster of 16 blocks, with all of their shared memory, would keep 50,000: pictures of 144 x 256. But of what the VAE's
 *   decoder normalises of a picture of 576 x 1024 (1.9 G elements a frame), nine tenths lie in larger levels or in clips, where a
 *   sample is all frames: a third of the rest is 3 % of these bytes, and needs a kernel with another order of sums. Not done.
 * - A frame at 576 x 1024 with 128 channels is 151 MB in 16 bits: neither shared memory (30 MB in all) nor the cache holds it. The pass that
 *   writes goes the other way than the one that sums, so that it begins with what the cache still has.
 * - Sums made by the convolution before would save the first read, a third. cuDNN's are f32 sums of x and x^2, not around a value of the group,
 *   so that a mean of 1,000 deviations leaves one digit of the variance, and of the values before they are rounded. They would have to be
 *   a kernel of our own in place of cuDNN's, which loses more in its matrix products than the third is worth. Not done.
 *
 * So: pieces of rows, up to 1,024 of a sample, for all multiprocessors to have several even where a batch is one clip; a block's sums of its
 * channels are added up to groups before they are stored, so that the blocks which merge them read 16 bytes a piece; and eight
 * loads of 16 bytes a thread on their way before the first is added up (AHEAD), four before the first is normalised. */
#include "kernels/cuda/device.cuh"

/* ---- group norm: how a sample is cut ------------------------------------------------------------------------ */

/* Threads of a block stand in `lanes` rows of `columns` vectors; each keeps its channels and goes down the rows. */
struct norm_shape {
    int64_t rows, channels, vectors; /* vectors of 16 bytes in a row, the last maybe short */
    int64_t chunks, chunk_rows, column_blocks;
    int groups, width; /* channels of a group */
    int columns, lanes;
    int slots; /* groups that a block of columns may have a part of */
    bool whole;
};

/* A piece of rows: at least 32,768 elements, at most 1,024 pieces. */
static norm_shape shape_of(int n_vector, int64_t rows, int64_t channels, int groups)
{
    norm_shape s = {};
    s.rows = rows;
    s.channels = channels;
    s.groups = groups;
    s.width = (int)(channels / groups);
    s.vectors = (channels + n_vector - 1) / n_vector;
    s.columns = (int)LT_MIN(s.vectors, (int64_t)THREADS);
    s.lanes = THREADS / s.columns;
    s.column_blocks = (s.vectors + s.columns - 1) / s.columns;
    s.slots = LT_MIN(groups, (s.columns * n_vector + s.width - 2) / s.width + 1);
    int64_t chunks = LT_MAX(LT_MIN(rows * channels / 32768, (int64_t)1024), (int64_t)1);
    s.chunk_rows = (rows + chunks - 1) / chunks;
    s.chunks = (rows + s.chunk_rows - 1) / s.chunk_rows;
    return s;
}

/* Groups that one block takes, so that a row of them is whole vectors and at least 64 bytes, and a sample's fit in shared
 * memory (two blocks in a multiprocessor's): 0 where there is no such number. */
enum { FOLD_BYTES = THREADS * 8 * 16, SLAB_MOST = (112 << 10) - FOLD_BYTES };

static int bundle_of(size_t size, int64_t rows, int64_t channels, int groups)
{
    int64_t width = channels / groups, vector = 16 / (int64_t)size;
    for (int bundle = 1; bundle <= groups; bundle++) {
        int64_t bytes = bundle * width * (int64_t)size;
        if (groups % bundle || bundle * width % vector || (bytes < 64 && bundle < groups)) continue;
        bool fits = bytes / 16 <= THREADS && rows <= SLAB_MOST / bytes && bundle <= 64;
        return fits ? bundle : 0;
    }
    return 0;
}

struct moments {
    double sum, square; /* of x - shift; later mean and 1 / deviation */
};

static __device__ __forceinline__ float finite_or_zero(float v)
{
    return fabsf(v) <= 3.4028235e38f ? v : 0.0f;
}

/* What stays the same down the rows of a thread's channels: y = (x - centre) * scale + offset. */
template <int N> struct norm_constants {
    float centre[N], scale[N], offset[N];
    __device__ __forceinline__ void set(int k, const moments &m, float gamma, float beta)
    {
        double by = m.square * (double)gamma;
        centre[k] = (float)m.sum;
        scale[k] = (float)by;
        offset[k] =
            (float)((double)beta + ((double)centre[k] - m.sum) * by); /* what rounding the mean took */
    }
    __device__ __forceinline__ void apply(float (&v)[N], lt_activation act) const
    {
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = activate(fmaf(v[k] - centre[k], scale[k], offset[k]), act);
    }
};

static __device__ __forceinline__ moments mean_and_inverse(double shift, double sum, double square,
                                                           double count, double eps)
{
    double away = sum / count, variance = square / count - away * away;
    if (variance < 0) variance = 0;
    moments m = {shift + away, 1 / sqrt(variance + eps)};
    return m;
}

/* Value around which group g of the sample that begins at `sample` is summed. */
template <class T>
static __device__ __forceinline__ double shift_of(const void *x, int64_t sample, int64_t g, int width)
{
    return (double)finite_or_zero(T::get(((const typename T::storage *)x)[sample + g * width]));
}

/* ---- sums --------------------------------------------------------------------------------------------------- */

/* Loads of 16 bytes that a thread begins before it adds up the first. In the code for sm_90 (CUDA 13.0) all eight of f32 stand before the
 * first use, and seven of 16 bits, the eighth within 24 instructions after it. Registers (96 to 124) leave room for two blocks: 512 threads
 * have 56 to 64 KiB on their way, 1.6 to 1.8 us of a multiprocessor's share of 4.8 TB/s; a load at a time in each thread of three blocks would
 * be 12 KiB, 0.3 us. Three blocks leave 80 registers a thread: the compiler then moves two of four loads behind the first use. */
enum { AHEAD = 8 };

/* A thread's sums of its channels, each around a value of its group. */
template <int N> struct channel_sums {
    double shift[N], sum[N] = {}, square[N] = {};
    __device__ __forceinline__ void add(int k, float v)
    {
        double d = (double)v - shift[k];
        sum[k] += d;
        square[k] = fma(d, d, square[k]);
    }
};

/* Adds `left` rows, ROWS at most, `step` elements apart, one after the other, all of them loaded before; puts them into `kept`, too, if
 * that is not NULL. */
template <class T, int ROWS, int N>
static __device__ __forceinline__ void add_burst(channel_sums<N> &to, const typename T::storage *from,
                                                 int64_t step, int left, typename T::storage *kept,
                                                 int kept_step)
{
    typename T::storage raw[ROWS][N];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (r < left) load_raw(raw[r], from, r * step, N, true);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (r >= left) continue;
        if (kept) store_raw(raw[r], kept, r * kept_step, N, true);
#pragma unroll
        for (int k = 0; k < N; k++) to.add(k, T::get(raw[r][k]));
    }
}

/* Adds every lanes-th row from `lane` on of `rows` rows (of one piece, or of what fits in shared memory: an int); from, kept: the thread's channels, `count` of them, in row `lane`. */
template <class T, int N>
static __device__ __forceinline__ void add_rows(channel_sums<N> &to, const typename T::storage *from,
                                                int64_t channels, int rows, int lane, int lanes, int count,
                                                bool whole, typename T::storage *kept, int kept_channels)
{
    int64_t step = lanes * channels;
    int r = lane, kept_step = lanes * kept_channels;
    if (whole && count == N) {
        for (; r + (AHEAD - 1) * lanes < rows; r += AHEAD * lanes, from += AHEAD * step) {
            add_burst<T, AHEAD>(to, from, step, AHEAD, kept, kept_step);
            if (kept) kept += AHEAD * kept_step;
        }
        add_burst<T, AHEAD - 1>(to, from, step, (rows - r + lanes - 1) / lanes, kept, kept_step);
        return;
    }
    for (; r < rows; r += lanes, from += step) {
        typename T::storage raw[N];
        load_raw(raw, from, 0, count, false);
        if (kept) {
            store_raw(raw, kept, 0, N, true);
            kept += kept_step;
        }
#pragma unroll
        for (int k = 0; k < N; k++) to.add(k, T::get(raw[k]));
    }
}

/* ---- group norm in passes ----------------------------------------------------------------------------------- */

/* partial [n,chunks,column_blocks,slots]: sums over a piece of rows of the block's channels, group by group, from the group of its first
 * channel on. */
template <class T>
static __global__ void __launch_bounds__(THREADS, 2) group_sums(moments *partial, const void *x, norm_shape s)
{
    constexpr int N = vector_of<T>;
    int64_t column = blockIdx.x % s.column_blocks, piece = blockIdx.x / s.column_blocks;
    int64_t chunk = piece % s.chunks, sample = piece / s.chunks * s.rows * s.channels;
    int tx = (int)threadIdx.x % s.columns, lane = (int)threadIdx.x / s.columns;
    int64_t channel = (column * s.columns + tx) * N;
    int count = lane < s.lanes ? (int)LT_MAX(LT_MIN((int64_t)N, s.channels - channel), (int64_t)0) : 0;
    channel_sums<N> own;
#pragma unroll
    for (int k = 0; k < N; k++)
        own.shift[k] = k < count ? shift_of<T>(x, sample, (channel + k) / s.width, s.width) : 0;
    int64_t row = chunk * s.chunk_rows;
    int rows = (int)(LT_MIN(row + s.chunk_rows, s.rows) - row);
    if (count > 0) {
        const typename T::storage *from = (const typename T::storage *)x + sample + channel;
        add_rows<T>(own, from + (row + lane) * s.channels, s.channels, rows, lane, s.lanes, count, s.whole,
                    NULL, 0);
    }
    moments *fold = shared_memory<moments>();
    if (lane < s.lanes) {
#pragma unroll
        for (int k = 0; k < N; k++) {
            moments m = {own.sum[k], own.square[k]};
            fold[(lane * s.columns + tx) * N + k] = m;
        }
    }
    __syncthreads();
    for (int c = (int)threadIdx.x; c < s.columns * N; c += THREADS) {
        moments m = fold[c];
        for (int l = 1; l < s.lanes; l++) {
            m.sum += fold[l * s.columns * N + c].sum;
            m.square += fold[l * s.columns * N + c].square;
        }
        fold[c] = m;
    }
    __syncthreads();
    /* A warp takes a group. */
    int64_t first = column * s.columns * N, last = LT_MIN(first + s.columns * N, s.channels);
    for (int slot = (int)threadIdx.x / 32; slot < s.slots; slot += THREADS / 32) {
        int64_t group = first / s.width + slot, to = LT_MIN((group + 1) * s.width, last);
        moments m = {0, 0};
        for (int64_t c = LT_MAX(group * s.width, first) + threadIdx.x % 32; c < to; c += 32) {
            m.sum += fold[c - first].sum;
            m.square += fold[c - first].square;
        }
        m.sum = warp_sum(m.sum);
        m.square = warp_sum(m.square);
        if (threadIdx.x % 32 == 0) partial[blockIdx.x * (int64_t)s.slots + slot] = m;
    }
}

/* Sums over a block, in a fixed order: thread 0 gets them. */
static __device__ __forceinline__ moments block_sum(moments m)
{
    moments *warps = shared_memory<moments>();
    m.sum = warp_sum(m.sum);
    m.square = warp_sum(m.square);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = m;
    __syncthreads();
    m.sum = m.square = 0;
    for (int w = 0; w < THREADS / 32 && threadIdx.x == 0; w++) {
        m.sum += warps[w].sum;
        m.square += warps[w].square;
    }
    return m;
}

/* stats [n,groups]: mean and 1 / deviation, from the pieces. A block for each. A group's channels may lie in several blocks of columns. */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    group_finish(moments *stats, const moments *partial, const void *x, norm_shape s, double eps)
{
    int64_t n = blockIdx.x / s.groups, g = blockIdx.x % s.groups, wide = s.columns * vector_of<T>;
    int64_t first = g * s.width / wide, parts = (g * s.width + s.width - 1) / wide - first + 1;
    moments m = {0, 0};
    for (int64_t i = threadIdx.x; i < s.chunks * parts; i += THREADS) {
        int64_t column = first + i % parts, piece = (n * s.chunks + i / parts) * s.column_blocks + column;
        const moments *from = &partial[piece * s.slots + g - column * wide / s.width];
        m.sum += from->sum;
        m.square += from->square;
    }
    m = block_sum(m);
    if (threadIdx.x == 0) {
        double shift = shift_of<T>(x, n * s.rows * s.channels, g, s.width);
        stats[blockIdx.x] = mean_and_inverse(shift, m.sum, m.square, (double)s.rows * s.width, eps);
    }
}

/* ROWS rows of a thread's channels, `step` elements apart: all loads before the first store, which the compiler could not do where y
 * is x. */
template <class T, int ROWS, int N>
static __device__ __forceinline__ void normalise(void *y, const void *x, const norm_constants<N> &c,
                                                 lt_activation act, int64_t i, int64_t step, int count,
                                                 bool whole)
{
    typename T::storage raw[ROWS][N];
#pragma unroll
    for (int k = 0; k < ROWS; k++) load_raw(raw[k], x, i + k * step, count, whole);
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        float v[N];
#pragma unroll
        for (int e = 0; e < N; e++) v[e] = T::get(raw[k][e]);
        c.apply(v, act);
        store<T>(v, y, i + k * step, count, whole);
    }
}

/* Here s.chunks are any pieces of rows: nothing is summed. The last ones first. ACT: the activation that is compiled in, which is not
 * looked at for every value then; -1: `act`. */
template <class T, int ACT>
static __global__ void __launch_bounds__(THREADS)
    group_apply(void *y, const void *x, const moments *stats, const float *gamma, const float *beta,
                lt_activation act, norm_shape s)
{
    constexpr int N = vector_of<T>;
    int64_t block = gridDim.x - 1 - blockIdx.x, column = block % s.column_blocks,
            piece = block / s.column_blocks, chunk = piece % s.chunks, n = piece / s.chunks;
    int tx = (int)threadIdx.x % s.columns, lane = (int)threadIdx.x / s.columns;
    int64_t channel = (column * s.columns + tx) * N, end = LT_MIN((chunk + 1) * s.chunk_rows, s.rows);
    int count = (int)LT_MIN((int64_t)N, s.channels - channel);
    if (lane >= s.lanes || count <= 0) return;
    norm_constants<N> c;
#pragma unroll
    for (int k = 0; k < N; k++) {
        int64_t at = LT_MIN(channel + k, s.channels - 1);
        c.set(k, stats[n * s.groups + at / s.width], gamma[at], beta[at]);
    }
    int64_t r = chunk * s.chunk_rows + lane, step = s.lanes * s.channels,
            i = (n * s.rows + r) * s.channels + channel;
    lt_activation how = ACT < 0 ? act : (lt_activation)ACT;
    for (; r + 3 * s.lanes < end; r += 4 * s.lanes, i += 4 * step)
        normalise<T, 4>(y, x, c, how, i, step, count, s.whole);
    for (; r < end; r += s.lanes, i += step) normalise<T, 1>(y, x, c, how, i, step, count, s.whole);
}

/* The pieces of group_apply: as many blocks as all multiprocessors have room for several times, but 16 rows or more a thread: it
 * works out its channels' constants in f64 before. */
static norm_shape apply_shape(norm_shape s, int64_t n)
{
    int64_t rows = (n * s.rows * s.column_blocks + MOST_BLOCKS - 1) / MOST_BLOCKS;
    s.chunk_rows = LT_MAX(rows, (int64_t)16 * s.lanes);
    s.chunks = (s.rows + s.chunk_rows - 1) / s.chunk_rows;
    return s;
}

/* ---- group norm in one pass --------------------------------------------------------------------------------- */

/* A block takes `bundle` groups of a sample: their rows stay in shared memory between the sums and the result. Here s.columns and
 * s.lanes are of the bundle. */
template <class T>
static __global__ void __launch_bounds__(THREADS, 2)
    group_fused(void *y, const void *x, const float *gamma, const float *beta, double eps, lt_activation act,
                int bundle, norm_shape s)
{
    constexpr int N = vector_of<T>;
    typedef typename T::storage S;
    int bundles = s.groups / bundle, channels = bundle * s.width;
    int64_t sample = blockIdx.x / bundles * s.rows * s.channels, first = blockIdx.x % bundles * channels;
    int tx = (int)threadIdx.x % s.columns, lane = (int)threadIdx.x / s.columns;
    moments *fold = shared_memory<moments>();
    S *slab = (S *)(fold + THREADS * 8);
    channel_sums<N> own;
#pragma unroll
    for (int k = 0; k < N; k++)
        own.shift[k] = shift_of<T>(x, sample, (first + tx * N + k) / s.width, s.width);
    if (lane < s.lanes) {
        add_rows<T>(own, (const S *)x + sample + lane * s.channels + first + tx * N, s.channels, (int)s.rows,
                    lane, s.lanes, N, s.whole, slab + lane * channels + tx * N, channels);
#pragma unroll
        for (int k = 0; k < N; k++) {
            moments m = {own.sum[k], own.square[k]};
            fold[lane * channels + tx * N + k] = m;
        }
    }
    __syncthreads();
    /* Over the lanes, of each channel; into the first lane's place. */
    for (int c = (int)threadIdx.x; c < channels; c += THREADS) {
        for (int l = 1; l < s.lanes; l++) {
            fold[c].sum += fold[l * channels + c].sum;
            fold[c].square += fold[l * channels + c].square;
        }
    }
    __syncthreads();
    moments m = {0, 0};
    if ((int)threadIdx.x < bundle) {
        for (int c = 0; c < s.width; c++) {
            m.sum += fold[threadIdx.x * s.width + c].sum;
            m.square += fold[threadIdx.x * s.width + c].square;
        }
        double around = shift_of<T>(x, sample, first / s.width + threadIdx.x, s.width);
        m = mean_and_inverse(around, m.sum, m.square, (double)s.rows * s.width, eps);
    }
    __syncthreads();
    if ((int)threadIdx.x < bundle) fold[threadIdx.x] = m;
    __syncthreads();
    norm_constants<N> c;
#pragma unroll
    for (int k = 0; k < N; k++) {
        int at = tx * N + k;
        c.set(k, fold[at / s.width], gamma[first + at], beta[first + at]);
    }
    for (int64_t r = lane; r < s.rows && lane < s.lanes; r += s.lanes) {
        float v[N];
        load<T>(v, slab, r * channels + tx * N, N, true);
        c.apply(v, act);
        store<T>(v, y, sample + r * s.channels + first + tx * N, N, s.whole);
    }
}

/* ---- group norm: launch ------------------------------------------------------------------------------------- */

static size_t size_of(lt_dtype dtype)
{
    return dtype == LT_F32 ? 4 : 2;
}

size_t lt_group_norm_scratch(lt_dtype dtype, int64_t n, int64_t rows, int64_t channels, int groups)
{
    if (n < 1 || rows < 1 || channels < 1 || groups < 1 || channels % groups || !is_float(dtype)) return 0;
    if (bundle_of(size_of(dtype), rows, channels, groups)) return 0;
    norm_shape s = shape_of((int)(16 / size_of(dtype)), rows, channels, groups);
    return (size_t)n * ((size_t)(s.chunks * s.column_blocks * s.slots) + (size_t)groups) * sizeof(moments);
}

template <class T>
static lt_status launch_passes(lt_stream stream, void *y, const void *x, int64_t n, norm_shape s,
                               const float *gamma, const float *beta, double eps, lt_activation act,
                               void *scratch)
{
    int64_t pieces = n * s.chunks * s.column_blocks;
    moments *partial = (moments *)scratch, *stats = partial + pieces * s.slots;
    size_t fold = (size_t)THREADS * vector_of<T> * sizeof(moments);
    lt_status status = launch(group_sums<T>, pieces, fold, stream, partial, x, s);
    if (status == LT_OK)
        status = launch(group_finish<T>, n * s.groups, THREADS / 32 * sizeof(moments), stream, stats, partial,
                        x, s, eps);
    norm_shape cut = apply_shape(s, n);
    if (status == LT_OK)
        status = launch(act == LT_ACT_NONE   ? group_apply<T, LT_ACT_NONE>
                        : act == LT_ACT_SILU ? group_apply<T, LT_ACT_SILU>
                                             : group_apply<T, -1>,
                        n * cut.chunks * cut.column_blocks, 0, stream, y, x, stats, gamma, beta, act, cut);
    return status;
}

lt_status lt_launch_group_norm(lt_stream stream, lt_dtype dtype, void *y, const void *x, int64_t n,
                               int64_t rows, int64_t channels, int groups, const float *gamma,
                               const float *beta, double eps, lt_activation act, void *scratch)
{
    if (n < 0 || rows < 0 || channels < 0 || groups < 1 || channels % groups || !is_float(dtype))
        return LT_E_INVALID;
    if (n * rows * channels == 0) return LT_OK;
    int bundle = bundle_of(size_of(dtype), rows, channels, groups);
    norm_shape s = shape_of((int)(16 / size_of(dtype)), rows, channels, groups);
    s.whole = channels % (int64_t)(16 / size_of(dtype)) == 0 && are_aligned(x, y);
    if (n * s.chunks * s.column_blocks > INT32_MAX || n * groups > INT32_MAX) return LT_E_INVALID;
    if (!bundle) {
        if (!scratch) return LT_E_INVALID;
        WITH_DTYPE(dtype, T, return launch_passes<T>(stream, y, x, n, s, gamma, beta, eps, act, scratch));
    }
    size_t row_bytes = (size_t)bundle * (size_t)s.width * size_of(dtype);
    s.columns = (int)(row_bytes / 16);
    s.lanes = THREADS / s.columns;
    WITH_DTYPE(dtype, T,
               return launch(group_fused<T>, n * (groups / bundle), FOLD_BYTES + (size_t)rows * row_bytes,
                             stream, y, x, gamma, beta, eps, act, bundle, s));
}

/* ---- norms of rows ------------------------------------------------------------------------------------------ */

struct row_norm {
    int64_t rows, channels;
    divisor sample_rows;
    const float *gamma, *beta;
    const void *scale, *shift; /* of a sample, or NULL */
    double eps;
    bool centre; /* layer norm; otherwise rms norm */
    bool whole;
};

/* Loads of 16 bytes that a thread begins before it adds up the first, where the row has as many: the four are so in the code for sm_90. */
enum { ROW_AHEAD = 4 };

/* LANES threads take a row: 32, or all of the block. */
template <class T, int LANES>
static __global__ void __launch_bounds__(THREADS) norm_rows(void *y, const void *x, row_norm p)
{
    constexpr int N = vector_of<T>;
    int64_t row = (int64_t)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES, at = row * p.channels;
    int lane = (int)threadIdx.x % LANES;
    if (row >= p.rows) return;
    double shift = p.centre ? shift_of<T>(x, at, 0, 0) : 0;
    moments m = {0, 0};
    for (int64_t c = lane * N; c < p.channels; c += ROW_AHEAD * LANES * N) {
        typename T::storage raw[ROW_AHEAD][N];
#pragma unroll
        for (int r = 0; r < ROW_AHEAD; r++) {
            int64_t from = c + r * LANES * N;
            int count = (int)LT_MIN((int64_t)N, p.channels - from);
            if (count > 0) load_raw(raw[r], x, at + from, count, p.whole);
        }
#pragma unroll
        for (int r = 0; r < ROW_AHEAD; r++) {
            int64_t count = p.channels - (c + r * LANES * N);
            if (count <= 0) continue;
#pragma unroll
            for (int k = 0; k < N; k++) {
                double d = k < count ? (double)T::get(raw[r][k]) - shift : 0;
                m.sum += d;
                m.square = fma(d, d, m.square);
            }
        }
    }
    if (LANES == 32) {
        m.sum = warp_sum(m.sum);
        m.square = warp_sum(m.square);
    } else {
        m = block_sum(m);
        moments *all = shared_memory<moments>() + THREADS / 32;
        if (threadIdx.x == 0) *all = m;
        __syncthreads();
        m = *all;
    }
    if (!p.centre) m.sum = 0;
    m = mean_and_inverse(shift, m.sum, m.square, (double)p.channels, p.eps);
    float centre = (float)m.sum, inverse = (float)m.square,
          rest = (float)(((double)centre - m.sum) * m.square);
    int64_t sample = p.scale || p.shift ? divide(row, p.sample_rows) * p.channels : 0;
    for (int64_t c = lane * N; c < p.channels; c += LANES * N) {
        int count = (int)LT_MIN((int64_t)N, p.channels - c);
        float v[N], g[N], b[N], by[N], to[N];
        load<T>(v, x, at + c, count, p.whole);
        if (p.gamma) load<f32>(g, p.gamma, c, count, p.whole);
        if (p.beta) load<f32>(b, p.beta, c, count, p.whole);
        if (p.scale) load<T>(by, p.scale, sample + c, count, p.whole);
        if (p.shift) load<T>(to, p.shift, sample + c, count, p.whole);
#pragma unroll
        for (int k = 0; k < N; k++) {
            v[k] = fmaf(v[k] - centre, inverse, rest);
            if (p.gamma) v[k] *= g[k];
            if (p.beta) v[k] += b[k];
            if (p.scale) v[k] *= 1.0f + by[k];
            if (p.shift) v[k] += to[k];
        }
        store<T>(v, y, at + c, count, p.whole);
    }
}

/* Which of the two follows from the row's length alone. */
static lt_status launch_rows(lt_stream stream, lt_dtype dtype, void *y, const void *x, row_norm p)
{
    bool wide = p.channels >= 2048;
    int64_t blocks = wide ? p.rows : (p.rows + THREADS / 32 - 1) / (THREADS / 32);
    if (blocks > INT32_MAX) return LT_E_INVALID;
    size_t shared = (THREADS / 32 + 1) * sizeof(moments);
    p.whole = p.channels % (int64_t)(16 / size_of(dtype)) == 0 && are_aligned(x, y, p.gamma, p.beta) &&
              are_aligned(p.scale, p.shift);
    WITH_DTYPE(dtype, T, if (wide) return launch(norm_rows<T, THREADS>, blocks, shared, stream, y, x, p);
               return launch(norm_rows<T, 32>, blocks, 0, stream, y, x, p));
}

lt_status lt_launch_layer_norm(lt_stream stream, lt_dtype dtype, void *y, const void *x, int64_t n,
                               int64_t rows, int64_t channels, const float *gamma, const float *beta,
                               double eps, const void *scale, const void *shift)
{
    if (n < 0 || rows < 0 || channels < 0 || !is_float(dtype)) return LT_E_INVALID;
    if (n * rows * channels == 0) return LT_OK;
    row_norm p = {n * rows, channels, divisor_of(rows), gamma, beta, scale, shift, eps, true, false};
    return launch_rows(stream, dtype, y, x, p);
}

lt_status lt_launch_rms_norm(lt_stream stream, lt_dtype dtype, void *y, const void *x, int64_t rows,
                             int64_t channels, const float *gamma, double eps)
{
    if (rows < 0 || channels < 0 || !is_float(dtype)) return LT_E_INVALID;
    if (rows * channels == 0) return LT_OK;
    row_norm p = {rows, channels, divisor_of(1), gamma, NULL, NULL, NULL, eps, false, false};
    return launch_rows(stream, dtype, y, x, p);
}
