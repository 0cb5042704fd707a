/* tiling_geometry.c - where windows and tiles lie, and how much each counts. */
#include "models/tiling_axis.h"

#include <stdlib.h>

lt_status lt_decode_plan_check(const lt_decode_plan *p, lt_err *err)
{
    const struct {
        const char *name;
        int size, stride;
    } axes[] = {{"window", p->window, p->stride},
                {"tile height", p->tile_height, p->stride_height},
                {"tile width", p->tile_width, p->stride_width}};
    for (size_t i = 0; i < LT_COUNT(axes); i++) {
        if (axes[i].size < 1 || axes[i].stride < 1 || axes[i].stride > axes[i].size)
            return lt_fail(err, LT_E_INVALID,
                           "%s %d with stride %d: both must be positive, the stride at most the %s",
                           axes[i].name, axes[i].size, axes[i].stride, axes[i].name);
    }
    if (p->factor < 1 || p->factor > 128 || p->height < 1 || p->width < 1)
        return lt_fail(err, LT_E_INVALID, "latent frames of %d x %d cells of %d pixels", p->height, p->width,
                       p->factor);
    if (!p->temporal && p->window != p->stride)
        return lt_fail(err, LT_E_INVALID, "window %d with stride %d: frames that stand alone have no overlap",
                       p->window, p->stride);
    double bytes = 12.0 * p->height * p->width * p->factor * p->factor;
    if (bytes > 0x1p40)
        return lt_fail(err, LT_E_INVALID, "frames of %d x %d cells are too large", p->height, p->width);
    return LT_OK;
}

int64_t lt_decode_windows_count(const lt_decode_plan *plan, int64_t n_frames)
{
    return axis_count(n_frames, plan->window, plan->stride);
}

void lt_decode_window_range(const lt_decode_plan *plan, int64_t n_frames, int64_t k, int64_t *first,
                            int64_t *end)
{
    *first = k * plan->stride;
    *end = axis_end(n_frames, plan->window, plan->stride, k);
}

void lt_decode_window_shared(const lt_decode_plan *plan, int64_t n_frames, int64_t k, int64_t *lead,
                             int64_t *trail)
{
    int64_t first, end, count = lt_decode_windows_count(plan, n_frames);
    lt_decode_window_range(plan, n_frames, k, &first, &end);
    *lead = k > 0 ? axis_end(n_frames, plan->window, plan->stride, k - 1) - first : 0;
    *trail = k + 1 < count ? end - (k + 1) * plan->stride : 0;
    *trail = LT_MIN(*trail, end - first - *lead);
}

void lt_decode_windows_of_frame(const lt_decode_plan *plan, int64_t n_frames, int64_t frame, int64_t *first,
                                int64_t *last)
{
    int64_t count = lt_decode_windows_count(plan, n_frames);
    *first = frame < plan->window ? 0 : (frame - plan->window) / plan->stride + 1;
    *last = LT_MIN(frame / plan->stride, count - 1);
}

lt_tile_weights lt_tile_mask(const lt_decode_plan *p, int64_t n_frames, int64_t first, int64_t end,
                             int64_t row, int64_t column)
{
    int64_t f = p->factor;
    lt_tile_weights m = {
        .time = {end - first, first == 0, first + p->window >= n_frames},
        .rows = {f * (LT_MIN(row + p->tile_height, p->height) - row), row == 0,
                 row + p->tile_height >= p->height},
        .columns = {f * (LT_MIN(column + p->tile_width, p->width) - column), column == 0,
                    column + p->tile_width >= p->width},
    };
    if (!p->temporal) m.time = (lt_ramp){1, true, true};
    m.border = LT_MAX((m.time.size + m.rows.size + m.columns.size) / 6, 1);
    return m;
}

/* Add one tile's weights for the frame `at` frames into the window. */
static void add_mask(const lt_tile_weights *m, int64_t at, float *weights, int64_t row_stride)
{
    int64_t time = lt_ramp_distance(&m->time, at, m->border);
    for (int64_t y = 0; y < m->rows.size; y++) {
        int64_t row = LT_MIN(time, lt_ramp_distance(&m->rows, y, m->border));
        float *line = weights + y * row_stride;
        for (int64_t x = 0; x < m->columns.size; x++)
            line[x] += lt_tile_weight(m, LT_MIN(row, lt_ramp_distance(&m->columns, x, m->border)));
    }
}

bool lt_decode_weights(const lt_decode_plan *p, int64_t n_frames, int64_t k, int64_t frame, float *weights)
{
    int64_t first, end, f = p->factor, width = f * p->width;
    lt_decode_window_range(p, n_frames, k, &first, &end);
    int64_t rows = axis_count(p->height, p->tile_height, p->stride_height);
    int64_t columns = axis_count(p->width, p->tile_width, p->stride_width);
    if (rows == 1 && columns == 1) {
        lt_tile_weights m = lt_tile_mask(p, n_frames, first, end, 0, 0);
        weights[0] = lt_tile_weight(&m, lt_ramp_distance(&m.time, frame - first, m.border));
        return true;
    }
    for (int64_t i = 0; i < f * p->height * width; i++) weights[i] = 0;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j++) {
            int64_t row = i * p->stride_height, column = j * p->stride_width;
            lt_tile_weights m = lt_tile_mask(p, n_frames, first, end, row, column);
            add_mask(&m, frame - first, weights + f * (row * width + column), width);
        }
    }
    return false;
}

lt_status lt_decode_finish(const lt_decode_plan *p, int64_t n_frames, int64_t k, int64_t first, int64_t count,
                           const float *sums, float *values, lt_err *err)
{
    size_t pixels = (size_t)p->factor * p->factor * p->height * p->width;
    float *weights = malloc(pixels * sizeof(*weights));
    if (!weights) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the weights of a frame");
    for (int64_t i = 0; i < count; i++, sums += 3 * pixels, values += 3 * pixels) {
        bool constant = lt_decode_weights(p, n_frames, k, first + i, weights);
        for (size_t j = 0; j < pixels; j++)
            for (int c = 0; c < 3; c++) values[3 * j + c] = sums[3 * j + c] / weights[constant ? 0 : j];
    }
    free(weights);
    return LT_OK;
}

/* ---- encode ---------------------------------------------------------------------------------------------------------- */

bool lt_encode_has_tiles(const lt_encode_plan *p)
{
    return p->tile > 0 && (p->tile < p->height || p->tile < p->width);
}

encode_axis lt_encode_axis(const lt_encode_plan *p, int size)
{
    if (!lt_encode_has_tiles(p))
        return (encode_axis){.tile = size, .stride = size, .limit = size / p->factor, .n = 1};
    encode_axis a = {.tile = p->tile, .stride = (int)(p->tile * (1 - p->overlap))};
    a.extent = (int)(p->tile / p->factor * p->overlap);
    a.limit = p->tile / p->factor - a.extent;
    a.n = (size + a.stride - 1) / a.stride;
    return a;
}

lt_status lt_encode_plan_check(const lt_encode_plan *p, lt_err *err)
{
    if (p->factor < 1 || p->height < 1 || p->width < 1 || p->height % p->factor || p->width % p->factor)
        return lt_fail(err, LT_E_INVALID,
                       "frames of %d x %d pixels: width and height must be multiples of %d", p->width,
                       p->height, p->factor);
    if (p->tile < 0 || p->batch < 1 || !(p->overlap >= 0 && p->overlap < 1))
        return lt_fail(err, LT_E_INVALID, "tile %d, overlap %g, batch %d: out of range", p->tile, p->overlap,
                       p->batch);
    if (!lt_encode_has_tiles(p)) return LT_OK;
    encode_axis a = {.tile = p->tile, .stride = (int)(p->tile * (1 - p->overlap))};
    a.limit = p->tile / p->factor - (int)(p->tile / p->factor * p->overlap);
    if (p->tile % p->factor || a.limit < 1 || a.stride != a.limit * p->factor)
        return lt_fail(
            err, LT_E_INVALID,
            "tiles of %d pixels with overlap %g do not begin at latent cells of %d pixels; take a tile that "
            "is a multiple of %d and an overlap that gives whole cells",
            p->tile, p->overlap, p->factor, p->factor);
    return LT_OK;
}
