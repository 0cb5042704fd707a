/* attention.c - softmax(scale q k^T + mask) v without the L x S matrix (Dao et al., FlashAttention, 2022, algorithm 1,
 * with the roles of the loops as in its second version).
 *
 * Keys and values of one (sample, head) are packed into the panels of the matrix kernel. A piece is BLOCK_ROWS queries;
 * it walks the keys in blocks of BLOCK_K with a running maximum and sum. Both sizes are fixed, so the result depends on
 * nothing but q, k, v. Small problems are spread over threads by (sample, head), large ones by query blocks; the
 * arithmetic is the same. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

typedef struct attention {
    const cpu_simd *simd;
    bool bf16, causal;
    const char *q, *k, *v;
    char *y;
    const lt_tensor *mask;
    int64_t batch, queries, keys, heads, width;
    int64_t padded_keys, padded_width; /* to whole panels */
    int64_t q_steps;                   /* blocks of BLOCK_K in width */
    float scale;
} attention;

/* Floats of one thread: a query block, a score block, results, and four values a row. */
static size_t piece_floats(const attention *p)
{
    size_t rows = BLOCK_ROWS;
    return rows * ROW_STRIDE * (size_t)(p->q_steps + 1) + rows * (size_t)p->padded_width + 3 * rows;
}

/* Floats of one (sample, head)'s packed keys and values, and of one row while packing. */
static size_t packed_floats(const attention *p)
{
    return (size_t)(p->padded_keys * p->width + p->keys * p->padded_width + p->padded_width);
}

static size_t element(const attention *p)
{
    return p->bf16 ? 2 : 4;
}

/* First element of row `row` of (sample, head) in q, k, v or y; n_rows: L or S. */
static size_t row_offset(const attention *p, int64_t sample, int64_t head, int64_t n_rows, int64_t row)
{
    return (size_t)(((sample * n_rows + row) * p->heads + head) * p->width) * element(p);
}

/* Panel `j` of keys: [width][tile_columns], a column a key. */
static void pack_keys(const attention *p, float *packed, float *line, int64_t sample, int64_t head, int64_t j)
{
    int64_t columns = p->simd->tile_columns;
    float *panel = packed + j * p->width * columns;
    for (int64_t i = 0; i < columns; i++) {
        int64_t key = j * columns + i;
        if (key < p->keys) {
            p->simd->load(line, p->k + row_offset(p, sample, head, p->keys, key), p->bf16, p->width);
        } else {
            memset(line, 0, (size_t)p->width * sizeof(float));
        }
        for (int64_t e = 0; e < p->width; e++) panel[e * columns + i] = line[e];
    }
}

/* Row `key` of values into its place in all panels: [padded_width / tile_columns][keys][tile_columns]. */
static void pack_value(const attention *p, float *packed, float *line, int64_t sample, int64_t head,
                       int64_t key)
{
    int64_t columns = p->simd->tile_columns;
    p->simd->load(line, p->v + row_offset(p, sample, head, p->keys, key), p->bf16, p->width);
    memset(line + p->width, 0, (size_t)(p->padded_width - p->width) * sizeof(float));
    for (int64_t e = 0; e < p->padded_width; e += columns)
        memcpy(packed + (e * p->keys) + key * columns, line + e, (size_t)columns * sizeof(float));
}

static const float *mask_at(const attention *p, int64_t sample, int64_t head, int64_t row, int64_t *stride)
{
    if (!p->mask->data) return NULL;
    const int64_t *s = p->mask->shape;
    int64_t at = ((s[0] == 1 ? 0 : sample) * s[1] + (s[1] == 1 ? 0 : head)) * s[2] + (s[2] == 1 ? 0 : row);
    *stride = s[2] == 1 ? 0 : s[3];
    return (const float *)p->mask->data + at * s[3];
}

/* Query rows as left operands: [q_steps][BLOCK_ROWS][ROW_STRIDE]; rows up to a whole tile are zeros. */
static void load_queries(const attention *p, float *block, int64_t sample, int64_t head, int64_t first,
                         int64_t rows, int64_t padded)
{
    for (int64_t r = 0; r < padded; r++) {
        const char *from = p->q + row_offset(p, sample, head, p->queries, first + (r < rows ? r : 0));
        for (int64_t step = 0; step < p->q_steps; step++) {
            float *to = block + (step * BLOCK_ROWS + r) * ROW_STRIDE;
            int64_t n = LT_MIN(BLOCK_K, p->width - step * BLOCK_K);
            if (r < rows) {
                p->simd->load(to, from + (size_t)(step * BLOCK_K) * element(p), p->bf16, n);
            } else {
                memset(to, 0, (size_t)n * sizeof(float));
            }
        }
    }
}

/* scores = q k^T for n keys from `key` on; columns up to a whole panel are zeros. */
static void score_block(const attention *p, float *scores, const float *queries, const float *packed_keys,
                        int64_t padded_rows, int64_t key, int64_t n)
{
    int64_t columns = p->simd->tile_columns;
    const float *panels = packed_keys + key * p->width;
    int64_t padded = (int64_t)lt_round_up((size_t)n, (size_t)columns);
    for (int64_t step = 0; step < p->q_steps; step++) {
        p->simd->gemm(scores, ROW_STRIDE, queries + step * BLOCK_ROWS * ROW_STRIDE,
                      panels + step * BLOCK_K * columns, false, p->width * columns, padded_rows, padded,
                      LT_MIN(BLOCK_K, p->width - step * BLOCK_K), step > 0);
    }
}

static void write_rows(const attention *p, const float *results, int64_t sample, int64_t head, int64_t first,
                       int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        p->simd->store(p->y + row_offset(p, sample, head, p->queries, first + r),
                       results + r * p->padded_width, p->bf16, p->width);
}

/* BLOCK_ROWS queries from `first` on against all keys. */
static void attend(const attention *p, float *scratch, const float *packed, int64_t sample, int64_t head,
                   int64_t first)
{
    float *queries = scratch, *scores = queries + p->q_steps * BLOCK_ROWS * ROW_STRIDE;
    float *results = scores + BLOCK_ROWS * ROW_STRIDE, *max = results + BLOCK_ROWS * p->padded_width;
    float *sum = max + BLOCK_ROWS, *rescale = sum + BLOCK_ROWS;
    const float *values = packed + p->padded_keys * p->width;
    int64_t rows = LT_MIN(BLOCK_ROWS, p->queries - first), stride = 0;
    int64_t padded_rows = (int64_t)lt_round_up((size_t)rows, (size_t)p->simd->tile_rows);
    const float *mask = mask_at(p, sample, head, first, &stride);
    int64_t visible = p->causal ? LT_MIN(p->keys, first + rows) : p->keys;
    load_queries(p, queries, sample, head, first, rows, padded_rows);
    for (int64_t r = 0; r < BLOCK_ROWS; r++) {
        max[r] = -INFINITY;
        sum[r] = 0;
    }
    for (int64_t key = 0; key < visible; key += BLOCK_K) {
        int64_t n = LT_MIN(BLOCK_K, visible - key);
        score_block(p, scores, queries, packed, padded_rows, key, n);
        cpu_softmax s = {.scores = scores,
                         .rows = rows,
                         .n = n,
                         .scale = p->scale,
                         .mask = mask ? mask + key : NULL,
                         .mask_stride = stride,
                         .causal = p->causal,
                         .first_row = first,
                         .first_key = key,
                         .max = max,
                         .sum = sum,
                         .rescale = rescale};
        p->simd->softmax(&s);
        if (key > 0) p->simd->scale_rows(results, p->padded_width, rows, p->padded_width, rescale, false);
        p->simd->gemm(results, p->padded_width, scores, values + key * p->simd->tile_columns, false,
                      p->keys * p->simd->tile_columns, padded_rows, p->padded_width, n, key > 0);
    }
    p->simd->scale_rows(results, p->padded_width, rows, p->padded_width, sum, true);
    write_rows(p, results, sample, head, first, rows);
}

/* Many small (sample, head)s: each is packed and computed by one thread. */
static void run_small(const attention *p, float *scratch, int threads)
{
    size_t per_thread = piece_floats(p) + packed_floats(p);
#pragma omp parallel num_threads(threads)
    {
        float *mine = scratch + (size_t)cpu_thread() * per_thread, *packed = mine + piece_floats(p);
        float *values = packed + p->padded_keys * p->width, *line = values + p->keys * p->padded_width;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < p->batch * p->heads; i++) {
            int64_t sample = i / p->heads, head = i % p->heads;
            for (int64_t j = 0; j < p->padded_keys / p->simd->tile_columns; j++)
                pack_keys(p, packed, line, sample, head, j);
            for (int64_t key = 0; key < p->keys; key++) pack_value(p, values, line, sample, head, key);
            for (int64_t first = 0; first < p->queries; first += BLOCK_ROWS)
                attend(p, mine, packed, sample, head, first);
        }
    }
}

/* Few large ones: one after the other, packed and computed by all threads. */
static void run_large(const attention *p, float *scratch, int threads)
{
    float *packed = scratch + (size_t)threads * piece_floats(p);
    float *values = packed + p->padded_keys * p->width;
#pragma omp parallel num_threads(threads)
    for (int64_t i = 0; i < p->batch * p->heads; i++) {
        float *mine = scratch + (size_t)cpu_thread() * piece_floats(p);
        int64_t sample = i / p->heads, head = i % p->heads;
#pragma omp for schedule(static)
        for (int64_t j = 0; j < p->padded_keys / p->simd->tile_columns; j++)
            pack_keys(p, packed, mine, sample, head, j);
#pragma omp for schedule(static)
        for (int64_t key = 0; key < p->keys; key++) pack_value(p, values, mine, sample, head, key);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < p->queries; first += BLOCK_ROWS)
            attend(p, mine, packed, sample, head, first);
    }
}

lt_status attention_cpu(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                        const lt_tensor *mask, double scale, bool causal, lt_tensor *y)
{
    enum { SMALL_ELEMENTS = 1 << 17 };
    const cpu_device *device = cpu_of(c);
    attention p = {.simd = device->simd,
                   .bf16 = c->dtype == LT_BF16,
                   .causal = causal,
                   .q = q->data,
                   .k = k->data,
                   .v = v->data,
                   .y = y->data,
                   .mask = mask,
                   .batch = q->shape[0],
                   .queries = q->shape[1],
                   .keys = k->shape[1],
                   .heads = q->shape[2],
                   .width = q->shape[3],
                   .scale = (float)scale};
    size_t columns = (size_t)p.simd->tile_columns;
    p.padded_keys = (int64_t)lt_round_up((size_t)p.keys, columns);
    p.padded_width = (int64_t)lt_round_up((size_t)p.width, columns);
    p.q_steps = (p.width + BLOCK_K - 1) / BLOCK_K;
    bool small = p.padded_keys * p.padded_width <= SMALL_ELEMENTS;
    int64_t pieces = small ? p.batch * p.heads : (p.queries + BLOCK_ROWS - 1) / BLOCK_ROWS;
    int threads = (int)LT_MIN((int64_t)device->threads, pieces);
    size_t floats = (size_t)threads * piece_floats(&p) + packed_floats(&p) * (size_t)(small ? threads : 1);
    float *scratch = lt_scratch(c, floats * sizeof(float));
    if (!scratch) return c->err.status;
    if (!c->dry && small) run_small(&p, scratch, threads);
    if (!c->dry && !small) run_large(&p, scratch, threads);
    lt_workspace_release(c->workspace, scratch);
    return LT_OK;
}
