/* kernels_tiles.cu - tiles and windows added up: models/tiling.c's arithmetic, operation by operation. */
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
