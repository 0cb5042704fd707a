/* winograd.c - convolutions with kernels of 3 and a stride of 1, computed in f32, by Winograd's algorithm (Lavin and Gray, Fast algorithms
 * for convolutional neural networks, 2015): of a tile of inputs and of the kernel the values at a few points are computed, which
 * are multiplied, point by point, as matrices of tiles x inputs and inputs x outputs; sums and differences of the products are the
 * tile's outputs.
 *
 *     axes        points  outputs of a tile  products, of the direct ones   packed weight, of the weight
 *     h, w          16          2 x 2                   4/9                          16/9
 *     h, w          36          4 x 4                   1/4                           4
 *     t              4            2                     2/3                          4/3
 *     t, h, w       64        2 x 2 x 2               8/27                         64/27
 *
 * A piece is a block of tiles, which may be of several frames, and a chunk of outputs: its inputs' points and its products are
 * scratch of one thread. Nothing is padded: what lies beside the frame is read from zeros. Tiles do not meet, and a product sums
 * inputs in their order. */
#include "kernels/convert.h"
#include "kernels/cpu/cpu.h"

#include <string.h>

enum { MOST_INPUTS = 4096, LEAST_CHANNELS = 32, MOST_WEIGHTS = 256 * 256 };

static const float zeros[MOST_INPUTS]; /* what lies beside the frame, in f32 or bf16 */

typedef struct winograd {
    const cpu_simd *simd;
    const lt_conv_dims *d;
    bool bf16; /* inputs, residual and outputs */
    cpu_winograd form;
    int64_t block, chunk;                       /* tiles and outputs of a piece */
    int64_t points;                             /* of all axes */
    int64_t tiles_t, tiles_h, tiles_w, n_tiles; /* of a sample, by axis; of the batch */
    int64_t in_stride, in_plane, stride, plane; /* floats between tiles and points: of inputs, of products */
    int64_t panel, point_panels;                /* floats of a panel of weights, and of a point's */
    const float *weight, *bias;
    const char *x, *residual;
    char *y;
} winograd;

/* ---- which and how ----------------------------------------------------------------------------------- */

/* Outputs of a tile along an axis of so many points. */
static int64_t outputs_of(int points)
{
    return points > 1 ? points - 2 : 1;
}

static int64_t tiles_of(int64_t size, int points)
{
    return (size + outputs_of(points) - 1) / outputs_of(points);
}

/* Products of one input and one output channel over a sample. */
static double products(const lt_conv_dims *d, cpu_winograd form)
{
    return (double)(tiles_of(d->to, form.t) * form.t) * (double)(tiles_of(d->ho, form.hw) * form.hw) *
           (double)(tiles_of(d->wo, form.hw) * form.hw);
}

/* Tiles of 4 x 4 outputs where weights are few: their packed form is 4 times as large. */
static cpu_winograd form_of(const lt_conv_dims *d)
{
    cpu_winograd small = {.t = d->kt == 3 ? 4 : 1, .hw = d->kh == 3 ? 4 : 1}, large = {.t = 1, .hw = 6};
    bool may = d->kt == 1 && d->i * d->o <= MOST_WEIGHTS;
    return may && products(d, large) <= 0.75 * products(d, small) ? large : small;
}

/* bf16 units take two products at a time: there it would save nothing. */
bool cpu_conv_is_winograd(const lt_context *c, const lt_conv_dims *d)
{
    bool in_f32 = c->dtype == LT_F32 || !cpu_of(c)->pairs;
    bool kernel = d->kh == d->kw && (d->kh == 3 || d->kh == 1) && (d->kt == 3 || d->kt == 1) &&
                  (d->kt == 3 || d->kh == 3);
    bool channels = d->i >= LEAST_CHANNELS && d->o >= LEAST_CHANNELS && d->i <= MOST_INPUTS;
    if (!in_f32 || !kernel || !channels || d->st != 1 || d->sh != 1 || d->sw != 1) return false;
    double direct = (double)(d->to * d->kt) * (double)(d->ho * d->kh) * (double)(d->wo * d->kw);
    return products(d, form_of(d)) <= 0.8 * direct;
}

/* ---- weights ----------------------------------------------------------------------------------------- */

/* The kernel's values at the points of an axis; g has 3 values, `step` apart, to has `points`, `to_step` apart. */
static void kernel_points(const double *g, int step, double *to, int to_step, int points)
{
    double g0 = g[0], g1 = g[step], g2 = g[2 * step];
    to[0] = g0;
    if (points == 4) {
        to[to_step] = (g0 + g1 + g2) / 2;
        to[2 * to_step] = (g0 - g1 + g2) / 2;
    } else {
        const double a = 0.75, b = 1.5;
        double scale_a = 1 / (2 * a * a * (a * a - b * b)), scale_b = 1 / (2 * b * b * (b * b - a * a));
        to[0] = g0 / (a * a * b * b);
        to[to_step] = (g0 + a * g1 + a * a * g2) * scale_a;
        to[2 * to_step] = (g0 - a * g1 + a * a * g2) * scale_a;
        to[3 * to_step] = (g0 + b * g1 + b * b * g2) * scale_b;
        to[4 * to_step] = (g0 - b * g1 + b * b * g2) * scale_b;
    }
    to[(points - 1) * to_step] = g2;
}

/* The kernel of one input and output, [kt][kh][kw], at all points. */
static void transform_kernel(const float *kernel, cpu_winograd form, double *to)
{
    int frame = form.hw * form.hw, taps_t = form.t > 1 ? 3 : 1, taps = form.hw > 1 ? 9 : 1;
    double frames[3 * 36], rows[3 * 6];
    for (int f = 0; f < taps_t; f++) {
        double g[9], *at = frames + f * frame;
        for (int i = 0; i < taps; i++) g[i] = (double)kernel[f * taps + i];
        if (form.hw == 1) {
            at[0] = g[0];
            continue;
        }
        for (int w = 0; w < 3; w++) kernel_points(g + w, 3, rows + w, 3, form.hw);
        for (int h = 0; h < form.hw; h++) kernel_points(rows + 3 * h, 1, at + form.hw * h, 1, form.hw);
    }
    for (int p = 0; p < frame; p++) {
        if (form.t > 1) {
            kernel_points(frames + p, frame, to + p, frame, form.t);
        } else {
            to[p] = frames[p];
        }
    }
}

/* Columns of one panel, for all points. */
static void pack_panel(const winograd *w, const lt_tensor *weight, int64_t panel, float *to)
{
    enum { AT_ONCE = 8, MOST_COLUMNS = 32 };
    int64_t width = w->simd->tile_columns, taps = w->d->kt * w->d->kh * w->d->kw, inputs = w->d->i;
    float values[MOST_COLUMNS][AT_ONCE * 27];
    double points[WINOGRAD_POINTS];
    for (int64_t first = 0; first < inputs; first += AT_ONCE) {
        int64_t n = LT_MIN(AT_ONCE, inputs - first), columns = LT_MIN(width, w->d->o - panel * width);
        memset(values, 0, sizeof(values));
        for (int64_t j = 0; j < columns; j++)
            cpu_weight_values(values[j], LT_F32, weight, ((panel * width + j) * inputs + first) * taps,
                              n * taps);
        for (int64_t j = 0; w->bf16 && j < columns; j++)
            for (int64_t i = 0; i < n * taps; i++)
                values[j][i] = lt_bf16_to_f32(lt_f32_to_bf16(values[j][i]));
        for (int64_t i = 0; i < n; i++) {
            float *row = to + panel * w->panel + (first + i) * width;
            for (int64_t j = 0; j < width; j++) {
                transform_kernel(values[j] + i * taps, w->form, points);
                for (int64_t p = 0; p < w->points; p++) row[p * w->point_panels + j] = (float)points[p];
            }
        }
    }
}

/* [points][panels][inputs][tile_columns]. NULL when dry or after an error. */
static const float *packed_weight(lt_context *c, const winograd *w, lt_weight *weight)
{
    int form = w->form.hw == 6 ? CPU_FORM_WINOGRAD_4 : CPU_FORM_WINOGRAD_2;
    const cpu_packed *found = cpu_packed_find(weight, form, c->dtype);
    if (found) return found->data;
    size_t bytes = (size_t)(w->points * w->point_panels) * sizeof(float);
    cpu_packed *p = cpu_packed_add(c, weight, form, c->dtype, bytes, NULL, 0);
    if (!p) return NULL;
#pragma omp parallel for num_threads(cpu_of(c)->threads) schedule(dynamic)
    for (int64_t panel = 0; panel < w->point_panels / w->panel; panel++)
        pack_panel(w, &weight->tensor, panel, p->data);
    return p->data;
}

/* ---- tiles ------------------------------------------------------------------------------------------- */

/* Where a tile begins, in outputs. */
typedef struct place {
    int64_t sample, t, h, w;
} place;

static place place_of(const winograd *w, int64_t tile)
{
    int64_t row = tile / w->tiles_w, frame = row / w->tiles_h;
    return (place){.sample = frame / w->tiles_t,
                   .t = frame % w->tiles_t * outputs_of(w->form.t),
                   .h = row % w->tiles_h * outputs_of(w->form.hw),
                   .w = tile % w->tiles_w * outputs_of(w->form.hw)};
}

/* Where the inputs of a tile lie: from[t][hw][hw]. */
static void find_inputs(const winograd *w, int64_t tile, const void **from)
{
    const lt_conv_dims *d = w->d;
    int64_t pixel_bytes = d->i * (w->bf16 ? 2 : 4);
    place at = place_of(w, tile);
    for (int64_t kt = 0; kt < w->form.t; kt++) {
        int64_t t = at.t - d->front + kt;
        for (int64_t kh = 0; kh < w->form.hw; kh++) {
            int64_t h = at.h - d->top + kh;
            bool inside = tile < w->n_tiles && t >= 0 && t < d->t && h >= 0 && h < d->h;
            const char *line = w->x;
            if (inside) line += ((at.sample * d->t + t) * d->h + h) * d->w * pixel_bytes;
            for (int64_t kw = 0; kw < w->form.hw; kw++) {
                int64_t column = at.w - d->left + kw;
                bool there = inside && column >= 0 && column < d->w;
                *from++ = there ? (const void *)(line + column * pixel_bytes) : zeros;
            }
        }
    }
}

/* The products of a tile become outputs `first` .. first + n - 1 of its pixels. */
static void finish_tile(const winograd *w, int64_t tile, const float *sums, int64_t first, int64_t n)
{
    const lt_conv_dims *d = w->d;
    void *to[WINOGRAD_OUTPUTS];
    const void *residual[WINOGRAD_OUTPUTS];
    int64_t size = w->bf16 ? 2 : 4;
    place at = place_of(w, tile);
    int i = 0;
    for (int64_t t = at.t; t < at.t + outputs_of(w->form.t); t++)
        for (int64_t h = at.h; h < at.h + outputs_of(w->form.hw); h++)
            for (int64_t x = at.w; x < at.w + outputs_of(w->form.hw); x++, i++) {
                bool inside = t < d->to && h < d->ho && x < d->wo;
                int64_t place = ((((at.sample * d->to + t) * d->ho + h) * d->wo + x) * d->o + first) * size;
                to[i] = inside ? w->y + place : NULL;
                if (w->residual) residual[i] = inside ? w->residual + place : NULL;
            }
    cpu_winograd_out o = {.sums = sums,
                          .plane = w->plane,
                          .to = to,
                          .residual = w->residual ? residual : NULL,
                          .bias = w->bias ? w->bias + first : NULL,
                          .n = n};
    w->simd->winograd_out(&o, w->bf16, w->form);
}

static size_t piece_floats(const winograd *w)
{
    return (size_t)(w->points * (w->in_plane + w->plane));
}

static void compute_piece(const winograd *w, float *scratch, int64_t tile, int64_t column)
{
    const cpu_simd *simd = w->simd;
    float *in = scratch, *sums = scratch + w->points * w->in_plane;
    const void *from[WINOGRAD_POINTS];
    int64_t tiles = LT_MIN(w->block, w->n_tiles - tile), columns = LT_MIN(w->chunk, w->d->o - column);
    int64_t rows = (int64_t)lt_round_up((size_t)tiles, (size_t)simd->tile_rows);
    int64_t padded = (int64_t)lt_round_up((size_t)columns, (size_t)simd->tile_columns / 2);
    for (int64_t i = 0; i < rows; i++) {
        find_inputs(w, tile + i, from);
        simd->winograd_in(in + i * w->in_stride, w->in_plane, from, w->bf16, w->form, w->d->i);
    }
    for (int64_t p = 0; p < w->points; p++) {
        const float *panels = w->weight + p * w->point_panels + column / simd->tile_columns * w->panel;
        for (int64_t k = 0; k < w->d->i; k += BLOCK_K)
            simd->gemm(sums + p * w->plane, w->stride, in + p * w->in_plane + k, w->in_stride,
                       panels + k * simd->tile_columns, false, w->panel, rows, padded,
                       LT_MIN(BLOCK_K, w->d->i - k), k > 0);
    }
    for (int64_t i = 0; i < tiles; i++) finish_tile(w, tile + i, sums + i * w->stride, column, columns);
}

static lt_status compute(lt_context *c, const winograd *w)
{
    int64_t n_blocks = (w->n_tiles + w->block - 1) / w->block;
    int64_t n_chunks = (w->d->o + w->chunk - 1) / w->chunk;
    int threads = (int)LT_MIN((int64_t)cpu_of(c)->threads, n_blocks * n_chunks);
    float *scratch = lt_scratch(c, (size_t)threads * piece_floats(w) * sizeof(float));
    if (!scratch) return c->err.status;
    if (!c->dry) {
#pragma omp parallel num_threads(threads)
        {
            float *mine = scratch + (size_t)cpu_thread() * piece_floats(w);
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < n_blocks * n_chunks; i++)
                compute_piece(w, mine, i % n_blocks * w->block, i / n_blocks * w->chunk);
        }
    }
    lt_workspace_release(c->workspace, scratch);
    return LT_OK;
}

lt_status conv_winograd_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                            const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    winograd w = {.simd = cpu_of(c)->simd, .d = d, .bf16 = c->dtype == LT_BF16, .form = form_of(d)};
    int64_t width = w.simd->tile_columns, most;
    w.points = w.form.t * w.form.hw * w.form.hw;
    /* The scratch of a piece should stay in the second-level cache. The transforms of all three axes cost most: those of the
     * inputs are made for more outputs at once. */
    w.block = w.points > 16 ? 24 : 48;
    w.chunk = w.points == 64 ? 320 : 128;
    most = LT_MIN(d->o, w.chunk);
    w.tiles_t = tiles_of(d->to, w.form.t);
    w.tiles_h = tiles_of(d->ho, w.form.hw);
    w.tiles_w = tiles_of(d->wo, w.form.hw);
    w.n_tiles = d->n * w.tiles_t * w.tiles_h * w.tiles_w;
    /* An odd number of cache lines apart, tiles and points do not fall on one set. */
    w.in_stride = (int64_t)lt_round_up((size_t)d->i, 32) + 16;
    w.stride = (int64_t)lt_round_up((size_t)most, 32) + 16;
    w.in_plane = w.block * w.in_stride + 16;
    w.plane = w.block * w.stride + 16;
    w.panel = d->i * width;
    w.point_panels = (d->o + width - 1) / width * w.panel;
    w.weight = packed_weight(c, &w, weight);
    w.bias = cpu_weight_vector(c, bias);
    w.x = x->data;
    w.residual = residual->data;
    w.y = y->data;
    return c->err.status == LT_OK ? compute(c, &w) : c->err.status;
}
