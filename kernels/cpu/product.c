/* product.c - linear layers and convolutions as matrix products of activations with packed weights.
 *
 * A convolution is the product of a matrix with a row for every output pixel, holding the inputs under the kernel, and
 * the weights. That matrix is never made: a piece of rows and outputs gathers BLOCK_K columns of it at a time into a block
 * that stays in the second-level cache. Channels-last, the inputs under one row of the kernel are contiguous, so gathering is
 * copying runs. The sums of a piece stand in an f32 block of its rows and outputs.
 *
 * Rows never meet, and the inner dimension is walked in the same steps always, so neither batch nor threads nor the
 * instruction set's width can change the order of a sum. */
#include "kernels/cpu/cpu.h"

#include <string.h>

enum { CHUNK = 512 }; /* outputs of a piece */
enum { GAP = 16 };    /* floats between rows of sums: they do not fall on one set of the first-level cache */

typedef struct product {
    const cpu_simd *simd;
    bool bf16;
    const cpu_pairs *pairs; /* blocks hold bf16, for these; NULL: f32 */
    const char *x;
    const char *panels;
    int64_t rows, inner, outputs;
    int64_t piece_rows, piece_outputs; /* multiples of BLOCK_ROWS and of panels */
    int64_t padded_inner;              /* even where there are pairs */
    const lt_conv_dims *dims;          /* NULL: rows of x are the rows */
    cpu_epilogue epilogue;             /* y and residual of row 0 */
} product;

/* Of one thread: a block, and sums. */
static size_t piece_floats(const product *p)
{
    return (size_t)p->piece_rows * (size_t)(ROW_STRIDE + p->piece_outputs + GAP);
}

/* Bytes of an element of a block. */
static size_t block_element(const product *p)
{
    return p->pairs ? sizeof(uint16_t) : sizeof(float);
}

/* n elements of x from element `at` on into a block. */
static void load(const product *p, char *to, int64_t at, int64_t n)
{
    const char *from = p->x + (size_t)at * (p->bf16 ? 2 : 4);
    if (p->pairs) {
        memcpy(to, from, (size_t)n * sizeof(uint16_t));
    } else {
        p->simd->load((float *)(void *)to, from, p->bf16, n);
    }
}

static void zeros(const product *p, char *to, int64_t n)
{
    if (n > 0) memset(to, 0, (size_t)n * block_element(p));
}

/* Columns first .. first + n of one kernel row of length kw * I at input position (frame row `line`, pixel w): what lies
 * beside the frame is zero. */
static void load_run(const product *p, char *to, int64_t line, int64_t w, int64_t first, int64_t n)
{
    const lt_conv_dims *d = p->dims;
    int64_t low = LT_MAX(0, -w) * d->i, high = LT_MIN(d->kw, d->w - w) * d->i;
    int64_t from = LT_MIN(LT_MAX(first, low), first + n), until = LT_MAX(LT_MIN(first + n, high), from);
    zeros(p, to, from - first);
    if (until > from)
        load(p, to + (size_t)(from - first) * block_element(p), (line * d->w + w) * d->i + from,
             until - from);
    zeros(p, to + (size_t)(until - first) * block_element(p), first + n - until);
}

/* The inputs under the kernel at one output pixel, columns first_k .. first_k + n of kt x kh runs. */
static void gather_row(const product *p, char *to, int64_t row, int64_t first_k, int64_t n)
{
    const lt_conv_dims *d = p->dims;
    int64_t run = d->kw * d->i, w = row % d->wo * d->sw - d->left;
    int64_t h0 = row / d->wo % d->ho * d->sh - d->top, t0 = row / (d->wo * d->ho) % d->to * d->st - d->front;
    int64_t sample = row / (d->wo * d->ho * d->to);
    while (n > 0) {
        int64_t k = first_k / run, first = first_k % run, count = LT_MIN(n, run - first);
        int64_t t = t0 + k / d->kh, h = h0 + k % d->kh;
        if (t < 0 || t >= d->t || h < 0 || h >= d->h) {
            zeros(p, to, count);
        } else {
            load_run(p, to, (sample * d->t + t) * d->h + h, w, first, count);
        }
        to += (size_t)count * block_element(p);
        first_k += count;
        n -= count;
    }
}

/* Rows from `row` on, columns first_k .. of them, into a block; what pads rows and columns is zeros. */
static void load_block(const product *p, char *block, int64_t row, int64_t rows, int64_t padded,
                       int64_t first_k, int64_t n)
{
    size_t stride = ROW_STRIDE * block_element(p);
    int64_t there = LT_MIN(n, p->inner - first_k);
    for (int64_t r = 0; r < rows; r++) {
        char *to = block + (size_t)r * stride;
        if (p->dims) {
            gather_row(p, to, row + r, first_k, there);
        } else {
            load(p, to, (row + r) * p->inner + first_k, there);
        }
        zeros(p, to + (size_t)there * block_element(p), n - there);
    }
    for (int64_t r = rows; r < padded; r++) zeros(p, block + (size_t)r * stride, n);
}

/* Whether whole tiles of rows of x can be multiplied where they lie: f32, and rows that do not all fall on the same sets of the
 * first-level cache, which repeat every 4 KiB. */
static bool rows_serve(const product *p, int64_t rows, int64_t padded_rows)
{
    enum { FLOATS_OF_SETS = 1024 };
    return !p->dims && !p->bf16 && rows == padded_rows && p->inner % FLOATS_OF_SETS != 0;
}

static void compute_piece(const product *p, float *scratch, int64_t row, int64_t column)
{
    float *block = scratch, *sums = scratch + (size_t)p->piece_rows * ROW_STRIDE;
    const cpu_simd *simd = p->simd;
    int64_t stride = p->piece_outputs + GAP;
    size_t size = p->bf16 ? 2 : 4;
    int64_t rows = LT_MIN(p->piece_rows, p->rows - row),
            columns = LT_MIN(p->piece_outputs, p->outputs - column);
    int64_t padded_rows =
        (int64_t)lt_round_up((size_t)rows, (size_t)(p->pairs ? p->pairs->rows : simd->tile_rows));
    int64_t padded_columns = (int64_t)lt_round_up((size_t)columns, (size_t)simd->tile_columns / 2);
    int64_t panel_stride = p->padded_inner * simd->tile_columns;
    bool in_place = rows_serve(p, rows, padded_rows);
    for (int64_t k = 0; k < p->padded_inner; k += BLOCK_K) {
        int64_t n = LT_MIN(BLOCK_K, p->padded_inner - k);
        const void *panels = p->panels + (size_t)(column * p->padded_inner + k * simd->tile_columns) * size;
        if (!in_place) load_block(p, (char *)block, row, rows, padded_rows, k, n);
        if (p->pairs) {
            p->pairs->gemm(sums, stride, (const uint16_t *)(const void *)block, panels, panel_stride,
                           padded_rows, padded_columns, n, k > 0);
        } else {
            const float *a = in_place ? (const float *)(const void *)p->x + row * p->inner + k : block;
            simd->gemm(sums, stride, a, in_place ? p->inner : ROW_STRIDE, panels, p->bf16, panel_stride,
                       padded_rows, padded_columns, n, k > 0);
        }
    }
    cpu_epilogue e = p->epilogue;
    size_t at = (size_t)(row * p->outputs + column) * size;
    e.y = (char *)e.y + at;
    if (e.residual) e.residual = (const char *)e.residual + at;
    if (e.bias) e.bias += column;
    simd->epilogue(&e, p->bf16, sums, stride, rows, columns);
}

static int64_t n_pieces(const product *p, int64_t rows, int64_t outputs)
{
    return (p->rows + rows - 1) / rows * ((p->outputs + outputs - 1) / outputs);
}

/* Large pieces, which bring a weight from memory less often, where they fit in the second-level cache and there are enough of them for
 * all threads. Sums do not depend on it. */
static void choose_pieces(product *p, const cpu_device *device)
{
    enum { EACH = 4 };
    int64_t rows = p->pairs ? p->pairs->piece_rows : 2 * BLOCK_ROWS;
    int64_t outputs = p->pairs ? p->pairs->piece_columns : CHUNK;
    size_t bytes = (size_t)(rows * (ROW_STRIDE + outputs)) * sizeof(float);
    bool fits = p->pairs || 2 * bytes <= device->cache_bytes;
    bool large = fits && n_pieces(p, rows, outputs) >= EACH * device->threads;
    p->piece_rows = large ? rows : BLOCK_ROWS;
    p->piece_outputs = large ? outputs : CHUNK;
}

static lt_status compute(lt_context *c, const product *p)
{
    int64_t n_rows = (p->rows + p->piece_rows - 1) / p->piece_rows;
    int64_t n_columns = n_pieces(p, p->rows, p->piece_outputs);
    int threads = (int)LT_MIN((int64_t)cpu_of(c)->threads, n_rows * n_columns);
    float *scratch = lt_scratch(c, (size_t)threads * piece_floats(p) * sizeof(float));
    if (!scratch) return c->err.status;
    if (!c->dry) {
#pragma omp parallel num_threads(threads)
        {
            float *mine = scratch + (size_t)cpu_thread() * piece_floats(p);
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < n_rows * n_columns; i++)
                compute_piece(p, mine, i % n_rows * p->piece_rows, i / n_rows * p->piece_outputs);
        }
    }
    lt_scratch_release(c, scratch);
    return LT_OK;
}

/* What linear layers and convolutions share: weights, and what follows the sums. */
static lt_status multiply(lt_context *c, product *p, lt_weight *weight, lt_weight *bias, lt_activation act,
                          const lt_tensor *residual, lt_tensor *y)
{
    p->simd = cpu_of(c)->simd;
    p->bf16 = c->dtype == LT_BF16;
    p->pairs = p->bf16 ? cpu_of(c)->pairs : NULL;
    choose_pieces(p, cpu_of(c));
    p->padded_inner = p->inner + (p->pairs ? p->inner % 2 : 0);
    p->panels = cpu_weight_panels(c, weight, p->padded_inner);
    p->epilogue = (cpu_epilogue){.bias = cpu_weight_vector(c, bias),
                                 .act = act,
                                 .residual = residual->data,
                                 .y = y->data,
                                 .stride = p->outputs};
    return c->err.status == LT_OK ? compute(c, p) : c->err.status;
}

lt_status linear_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias, lt_activation act,
                     const lt_tensor *residual, lt_tensor *y)
{
    product p = {.x = x->data, .outputs = weight->tensor.shape[0], .inner = weight->tensor.shape[1]};
    p.rows = lt_n_elements(x) / p.inner;
    return multiply(c, &p, weight, bias, act, residual, y);
}

/* Whether the inputs under the kernel are the pixels, in their order. */
static bool rows_are_pixels(const lt_conv_dims *d)
{
    return d->kt * d->kh * d->kw == 1 && d->st == 1 && d->sh == 1 && d->sw == 1 && d->front == 0 &&
           d->back == 0 && d->top == 0 && d->bottom == 0 && d->left == 0 && d->right == 0;
}

lt_status conv_product_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                           const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    product p = {.x = x->data, .outputs = d->o, .inner = d->i * d->kt * d->kh * d->kw};
    p.rows = d->n * d->to * d->ho * d->wo;
    p.dims = rows_are_pixels(d) ? NULL : d;
    return multiply(c, &p, weight, bias, LT_ACT_NONE, residual, y);
}
