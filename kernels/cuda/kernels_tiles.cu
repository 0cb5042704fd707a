/* kernels_tiles.cu - tiles and windows put together: models/tiling.c's arithmetic, operation by operation. */
#include "kernels/cuda/device.cuh"

static __device__ __forceinline__ int64_t distance(const lt_ramp &ramp, int64_t at, int64_t border)
{
    int64_t low = ramp.low_end ? border : at + 1, high = ramp.high_end ? border : ramp.size - at;
    return LT_MIN(low, high);
}

/* lt_tile_weight. */
static __device__ __forceinline__ float weight_at(const lt_tile_weights &m, int64_t t, int64_t y, int64_t x)
{
    int64_t near = LT_MIN(distance(m.time, t, m.border), distance(m.rows, y, m.border));
    near = LT_MIN(near, distance(m.columns, x, m.border));
    return (float)LT_MAX(LT_MIN(near, m.border), (int64_t)1) / (float)m.border;
}

/* Where a tile's elements lie in the sums. */
struct tile_place {
    divisor channels, w, h;
    int64_t height, width, row, column;
};

template <class T>
static __global__ void __launch_bounds__(THREADS)
    tile_add(float *sums, const void *tile, int64_t items, tile_place p, lt_tile_weights m)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t cell = divide(i, p.channels), c = i - cell * p.channels.d, line = divide(cell, p.w);
        int64_t x = cell - line * p.w.d, t = divide(line, p.h), y = line - t * p.h.d;
        int64_t to = ((t * p.height + p.row + y) * p.width + p.column + x) * p.channels.d + c;
        sums[to] += T::get(((const typename T::storage *)tile)[i]) * weight_at(m, t, y, x);
    }
}

lt_status lt_launch_tile_add(lt_stream stream, lt_dtype dtype, float *sums, const void *tile, int64_t t,
                             int64_t height, int64_t width, int64_t channels, int64_t row, int64_t column,
                             const lt_tile_weights *weights)
{
    int64_t h = weights->rows.size, w = weights->columns.size, items = t * h * w * channels;
    if (t < 0 || h < 0 || w < 0 || channels < 0 || row < 0 || column < 0 || row + h > height ||
        column + w > width || weights->border < 1 || !is_float(dtype))
        return LT_E_INVALID;
    if (items == 0) return LT_OK;
    tile_place p = {divisor_of(channels), divisor_of(w), divisor_of(h), height, width, row, column};
    WITH_DTYPE(dtype, T,
               return launch(tile_add<T>, blocks_of(items), 0, stream, sums, tile, items, p, *weights));
}

static __global__ void __launch_bounds__(THREADS)
    tile_finish(float *values, const float *sums, const float *weights, bool constant, int64_t items,
                divisor channels)
{
    for (int64_t i = first_item(); i < items; i += item_stride())
        values[i] = sums[i] / weights[constant ? 0 : divide(i, channels)];
}

lt_status lt_launch_tile_finish(lt_stream stream, float *values, const float *sums, const float *weights,
                                bool constant, int64_t pixels, int64_t channels)
{
    if (pixels < 0 || channels < 0) return LT_E_INVALID;
    if (pixels * channels == 0) return LT_OK;
    return launch(tile_finish, blocks_of(pixels * channels), 0, stream, values, sums, weights, constant,
                  pixels * channels, divisor_of(channels));
}

/* Two tiles, and the part of b that is blended, h x w cells. */
struct tile_pair {
    int64_t hb, wb, ha, wa, channels, extent;
    divisor cells_w, cells_h, cells_c;
    bool down;
};

static __global__ void __launch_bounds__(THREADS)
    tile_blend(float *b, const float *a, int64_t items, tile_pair p)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t cell = divide(i, p.cells_c), c = i - cell * p.channels;
        int64_t line = divide(cell, p.cells_w), x = cell - line * p.cells_w.d;
        int64_t n = divide(line, p.cells_h), y = line - n * p.cells_h.d, step = p.down ? y : x;
        double part = (double)step / (double)p.extent;
        float wb = (float)part, wa = (float)(1 - part);
        int64_t ya = p.down ? p.ha - p.extent + y : y, xa = p.down ? x : p.wa - p.extent + x;
        float *to = b + ((n * p.hb + y) * p.wb + x) * p.channels + c;
        *to = a[((n * p.ha + ya) * p.wa + xa) * p.channels + c] * wa + *to * wb;
    }
}

lt_status lt_launch_tile_blend(lt_stream stream, float *b, int64_t hb, int64_t wb, const float *a, int64_t ha,
                               int64_t wa, int64_t n, int64_t channels, int64_t extent, bool down)
{
    if (n < 0 || channels < 0 || hb < 0 || wb < 0 || ha < 0 || wa < 0 || extent < 0 ||
        (down ? wb > wa : hb > ha))
        return LT_E_INVALID;
    extent = LT_MIN(extent, down ? LT_MIN(ha, hb) : LT_MIN(wa, wb));
    int64_t h = down ? extent : hb, w = down ? wb : extent, items = n * h * w * channels;
    if (items == 0) return LT_OK;
    tile_pair p = {hb,  wb, ha, wa, channels, extent, divisor_of(w), divisor_of(h), divisor_of(channels),
                   down};
    return launch(tile_blend, blocks_of(items), 0, stream, b, a, items, p);
}

struct tile_target {
    int64_t h, w, height, width, y, x;
    divisor channels, columns, rows;
};

static __global__ void __launch_bounds__(THREADS)
    tile_store(float *mean, float *logvar, const float *moments, int64_t items, tile_target p)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t cell = divide(i, p.channels), c = i - cell * p.channels.d;
        int64_t line = divide(cell, p.columns), x = cell - line * p.columns.d;
        int64_t n = divide(line, p.rows), y = line - n * p.rows.d;
        const float *from = moments + 2 * p.channels.d * ((n * p.h + y) * p.w + x);
        int64_t to = ((n * p.height + p.y + y) * p.width + p.x + x) * p.channels.d + c;
        mean[to] = from[c];
        if (!logvar) continue;
        float v = from[p.channels.d + c];
        v = LT_MIN(v, 20.0f);
        logvar[to] = LT_MAX(v, -30.0f);
    }
}

lt_status lt_launch_tile_store(lt_stream stream, float *mean, float *logvar, const float *moments, int64_t n,
                               int64_t h, int64_t w, int64_t channels, int64_t rows, int64_t columns,
                               int64_t height, int64_t width, int64_t y, int64_t x)
{
    rows = LT_MIN(rows, h);
    columns = LT_MIN(columns, w);
    if (n < 0 || channels < 0 || rows < 0 || columns < 0 || y < 0 || x < 0 || y + rows > height ||
        x + columns > width)
        return LT_E_INVALID;
    int64_t items = n * rows * columns * channels;
    if (items == 0) return LT_OK;
    tile_target p = {h, w, height, width, y, x, divisor_of(channels), divisor_of(columns), divisor_of(rows)};
    return launch(tile_store, blocks_of(items), 0, stream, mean, logvar, moments, items, p);
}
