/* tiling_axis.h - tiles along one axis, and what the sources of tiling.h share. Internal. */
#ifndef LT_TILING_AXIS_H
#define LT_TILING_AXIS_H

#include "models/tiling.h"

/* Starts that lite-sora's decode_video keeps: multiples of the stride, but none whose predecessor reached the end. */
static inline int64_t axis_count(int64_t size, int64_t tile, int64_t stride)
{
    if (size <= 0) return 0;
    return size <= tile ? 1 : 1 + (size - tile + stride - 1) / stride;
}

static inline int64_t axis_end(int64_t size, int64_t tile, int64_t stride, int64_t k)
{
    return LT_MIN(k * stride + tile, size);
}

/* Cells that all tiles of an axis have together. */
static inline int64_t axis_work(int64_t size, int64_t tile, int64_t stride)
{
    int64_t n = axis_count(size, tile, stride);
    return (n - 1) * tile + axis_end(size, tile, stride, n - 1) - (n - 1) * stride;
}

/* lite-sora's build_mask: the weights of the tile that starts at cells (row, column) in the window [first, end) of a clip. */
lt_tile_weights lt_tile_mask(const lt_decode_plan *plan, int64_t n_frames, int64_t first, int64_t end,
                             int64_t row, int64_t column);

/* The tile at cell (0, 0) of a plan's only window, dry: what lt_decode_window needs of the workspace for a tile of this size. */
lt_status lt_decode_corner(lt_context *dry, lt_vae *vae, const lt_decode_plan *plan, lt_tensor latents,
                           lt_err *err);

/* Tiles of an encode plan along one axis. */
typedef struct encode_axis {
    int tile, stride; /* pixels */
    int limit;        /* latent cells that a tile gives to the result */
    int extent;       /* latent cells blended with the tile before */
    int n;
} encode_axis;

encode_axis lt_encode_axis(const lt_encode_plan *plan, int size);

#endif
