/* attention.c - softmax(scale q k^T + mask) v without the L x S matrix (Dao et al., FlashAttention, 2022, algorithm 1,
 * with the roles of the loops as in its second version).
 *
 * Keys and values of one (sample, head) are packed into the panels of the matrix kernel. A piece is BLOCK_ROWS queries;
 * it walks the keys in blocks of BLOCK_K with a running maximum and sum. Both sizes are fixed, so the result depends on
 * nothing but q, k, v. Small problems are spread over threads by (sample, head), large ones by query blocks; the
 * arithmetic is the same. Where the machine multiplies pairs of bf16, q, k and v are taken as they are, and the weights
 * of a query multiply v as sums of two bf16 each. (One alone is a quarter faster, and what PyTorch does, but it made the
 * bf16 error of a small SDXL-3D UNet 14 % larger.) A head with an infinite value is multiplied in f32: of the two, one may be 0
 * or below it, and the sum no number. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

typedef struct attention {
    const cpu_simd *simd;
    bool bf16, causal;
    const cpu_pairs *pairs; /* blocks and panels hold bf16, for these; NULL: f32 */
    bool value_pairs;       /* so do scores and values, the latter each twice: of one head */
    size_t size;            /* of elements of queries and keys */
    const char *q, *k, *v;
    char *y;
    const lt_tensor *mask;
    int64_t batch, queries, keys, heads, width;
    int64_t unit_rows;    /* rows of a block are padded to multiples of these: both products' */
    int64_t even_width;   /* inner dimension of the first product: even where there are pairs */
    int64_t padded_width; /* columns of the result: to half panels */
    int64_t key_panels, value_panels;
    int64_t q_steps;   /* blocks of BLOCK_K in width */
    int64_t key_block; /* keys of a score block: inner dimension of the second product */
    float scale;       /* with the factor log2 e */
} attention;

/* Bytes of one thread: a query block, a score block, results, and three values a row. */
static size_t piece_bytes(const attention *p)
{
    size_t rows = BLOCK_ROWS, queries = rows * ROW_STRIDE * (size_t)p->q_steps * p->size;
    return queries + (rows * ROW_STRIDE + rows * (size_t)p->padded_width + 3 * rows) * sizeof(float);
}

/* Bytes of one (sample, head)'s packed keys, and values. */
static size_t keys_bytes(const attention *p)
{
    return (size_t)(p->key_panels * p->simd->tile_columns * p->even_width) * p->size;
}

static size_t values_bytes(const attention *p)
{
    return (size_t)(p->value_panels * p->simd->tile_columns * p->keys) * sizeof(float);
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

/* n elements of q, k or v as they stand in blocks. */
static void load(const attention *p, void *to, const char *from, int64_t n)
{
    if (p->pairs) {
        memcpy(to, from, (size_t)n * sizeof(uint16_t));
    } else {
        p->simd->load(to, from, p->bf16, n);
    }
}

/* Panel `j` of keys, the inner dimension being the width: a column a key. line: room for a row. */
static void pack_keys(const attention *p, char *packed, char *line, int64_t sample, int64_t head, int64_t j)
{
    int64_t columns = p->simd->tile_columns;
    char *panel = packed + (size_t)(j * p->even_width * columns) * p->size;
    memset(line, 0, (size_t)p->even_width * p->size);
    for (int64_t c = 0; c < columns; c++) {
        int64_t key = j * columns + c;
        if (key < p->keys) {
            load(p, line, p->k + row_offset(p, sample, head, p->keys, key), p->width);
        } else {
            memset(line, 0, (size_t)p->width * p->size);
        }
        /* A pair is moved as one element of f32's size. */
        int64_t n = p->pairs ? p->even_width / 2 : p->width;
        for (int64_t e = 0; e < n; e++) memcpy(panel + 4 * (e * columns + c), line + 4 * e, 4);
    }
}

/* Row `key` of values into its place in all panels, the inner dimension being the keys. */
static void pack_value(const attention *p, char *packed, char *line, int64_t sample, int64_t head,
                       int64_t key)
{
    int64_t columns = p->simd->tile_columns, padded = p->value_panels * columns;
    const char *from = p->v + row_offset(p, sample, head, p->keys, key);
    memset(line, 0, (size_t)padded * sizeof(float));
    if (p->value_pairs) {
        memcpy(line, from, (size_t)p->width * sizeof(uint16_t));
    } else {
        p->simd->load((float *)(void *)line, from, p->bf16, p->width);
    }
    for (int64_t e = 0; e < padded; e += columns) {
        char *to = packed + (size_t)(e * p->keys + key * columns) * sizeof(float);
        if (p->value_pairs) {
            const uint16_t *values = (const uint16_t *)(const void *)line + e;
            for (int64_t c = 0; c < columns; c++) ((uint32_t *)(void *)to)[c] = values[c] * 0x10001u;
        } else {
            memcpy(to, line + (size_t)e * sizeof(float), (size_t)columns * sizeof(float));
        }
    }
}

static const float *mask_at(const attention *p, int64_t sample, int64_t head, int64_t row, int64_t *stride)
{
    if (!p->mask->data) return NULL;
    const int64_t *s = p->mask->shape;
    int64_t at = ((s[0] == 1 ? 0 : sample) * s[1] + (s[1] == 1 ? 0 : head)) * s[2] + (s[2] == 1 ? 0 : row);
    *stride = s[2] == 1 ? 0 : s[3];
    return (const float *)p->mask->data + at * s[3];
}

/* Query rows as left operands: [q_steps][BLOCK_ROWS][ROW_STRIDE]; rows up to a whole tile, and what makes the width even,
 * are zeros. */
static void load_queries(const attention *p, char *block, int64_t sample, int64_t head, int64_t first,
                         int64_t rows, int64_t padded)
{
    for (int64_t r = 0; r < padded; r++) {
        const char *from = p->q + row_offset(p, sample, head, p->queries, first + (r < rows ? r : 0));
        for (int64_t step = 0; step < p->q_steps; step++) {
            char *to = block + (size_t)((step * BLOCK_ROWS + r) * ROW_STRIDE) * p->size;
            int64_t n = LT_MIN(BLOCK_K, p->width - step * BLOCK_K);
            memset(to, 0, (size_t)LT_MIN(BLOCK_K, p->even_width - step * BLOCK_K) * p->size);
            if (r < rows) load(p, to, from + (size_t)(step * BLOCK_K) * element(p), n);
        }
    }
}

/* c (+)= a b, both operands as they stand in blocks and panels. */
static void product(const attention *p, bool pairs, float *c, int64_t c_stride, const void *a,
                    const char *panels, int64_t panel_stride, int64_t rows, int64_t columns, int64_t inner,
                    bool accumulate)
{
    if (pairs) {
        p->pairs->gemm(c, c_stride, a, (const uint16_t *)(const void *)panels, panel_stride, rows, columns,
                       inner, accumulate);
    } else {
        p->simd->gemm(c, c_stride, a, ROW_STRIDE, panels, false, panel_stride, rows, columns, inner,
                      accumulate);
    }
}

/* scores = q k^T for n keys from `key` on; columns up to half a panel are zeros. */
static void score_block(const attention *p, float *scores, const char *queries, const char *packed_keys,
                        int64_t padded_rows, int64_t key, int64_t n)
{
    int64_t columns = p->simd->tile_columns;
    int64_t padded = (int64_t)lt_round_up((size_t)n, (size_t)columns / 2);
    for (int64_t step = 0; step < p->q_steps; step++)
        product(p, p->pairs, scores, ROW_STRIDE, queries + (size_t)(step * BLOCK_ROWS * ROW_STRIDE) * p->size,
                packed_keys + (size_t)(key * p->even_width + step * BLOCK_K * columns) * p->size,
                p->even_width * columns, padded_rows, padded, LT_MIN(BLOCK_K, p->even_width - step * BLOCK_K),
                step > 0);
}

static void write_rows(const attention *p, const float *results, int64_t sample, int64_t head, int64_t first,
                       int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        p->simd->store(p->y + row_offset(p, sample, head, p->queries, first + r),
                       results + r * p->padded_width, p->bf16, p->width);
}

/* BLOCK_ROWS queries from `first` on against all keys. */
static void attend(const attention *p, char *scratch, const char *packed, int64_t sample, int64_t head,
                   int64_t first)
{
    char *queries = scratch;
    float *scores = (float *)(void *)(queries + (size_t)(p->q_steps * BLOCK_ROWS * ROW_STRIDE) * p->size);
    float *results = scores + BLOCK_ROWS * ROW_STRIDE, *max = results + BLOCK_ROWS * p->padded_width;
    float *sum = max + BLOCK_ROWS, *rescale = sum + BLOCK_ROWS;
    const char *values = packed + keys_bytes(p);
    int64_t rows = LT_MIN(BLOCK_ROWS, p->queries - first), stride = 0;
    int64_t columns = p->simd->tile_columns, twice = p->value_pairs ? 2 : 1;
    int64_t padded_rows = (int64_t)lt_round_up((size_t)rows, (size_t)p->unit_rows);
    const float *mask = mask_at(p, sample, head, first, &stride);
    int64_t visible = p->causal ? LT_MIN(p->keys, first + rows) : p->keys;
    load_queries(p, queries, sample, head, first, rows, padded_rows);
    for (int64_t r = 0; r < BLOCK_ROWS; r++) {
        max[r] = -INFINITY;
        sum[r] = 0;
    }
    for (int64_t key = 0; key < visible; key += p->key_block) {
        int64_t n = LT_MIN(p->key_block, visible - key);
        score_block(p, scores, queries, packed, padded_rows, key, n);
        cpu_softmax s = {.scores = scores,
                         .pairs = p->value_pairs,
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
        product(p, p->value_pairs, results, p->padded_width, scores,
                values + (size_t)(key * columns) * sizeof(float), twice * p->keys * columns, padded_rows,
                p->padded_width, twice * n, key > 0);
    }
    p->simd->scale_rows(results, p->padded_width, rows, p->padded_width, sum, true);
    write_rows(p, results, sample, head, first, rows);
}

/* Whether a value of row `key` is infinite. */
static bool is_infinite(const attention *p, int64_t sample, int64_t head, int64_t key)
{
    typedef uint16_t eight __attribute__((vector_size(16)));
    const char *v = p->v + row_offset(p, sample, head, p->keys, key);
    eight found = {0};
    for (int64_t i = 0; i < p->width; i += 8) {
        eight some = {0};
        if (p->width - i >= 8) {
            memcpy(&some, v + 2 * i, sizeof(some));
        } else {
            memcpy(&some, v + 2 * i, (size_t)(p->width - i) * 2);
        }
        found |= (eight)((some & 0x7fff) == 0x7f80);
    }
    uint64_t halves[2];
    memcpy(halves, &found, sizeof(halves));
    return halves[0] | halves[1];
}

/* Of what both products take: a divisor of BLOCK_ROWS. */
static int64_t unit_rows(const attention *p)
{
    int64_t f32 = p->simd->tile_rows, rows = p->pairs ? p->pairs->rows : f32;
    if (p->pairs && !p->value_pairs)
        while (rows % f32 != 0) rows += p->pairs->rows;
    return rows;
}

/* The same for one (sample, head), whose values are finite or not. */
static attention of_head(const attention *p, bool infinite)
{
    attention one = *p;
    one.value_pairs = p->pairs && !infinite;
    one.unit_rows = unit_rows(&one);
    return one;
}

/* Many small (sample, head)s: each is packed and computed by one thread. */
static void run_small(const attention *p, char *scratch, int threads)
{
    size_t per_thread = piece_bytes(p) + keys_bytes(p) + values_bytes(p);
#pragma omp parallel num_threads(threads)
    {
        char *mine = scratch + (size_t)cpu_thread() * per_thread, *packed = mine + piece_bytes(p);
        char *values = packed + keys_bytes(p);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < p->batch * p->heads; i++) {
            int64_t sample = i / p->heads, head = i % p->heads;
            bool infinite = false;
            for (int64_t key = 0; p->pairs && key < p->keys; key++)
                infinite |= is_infinite(p, sample, head, key);
            attention one = of_head(p, infinite);
            for (int64_t j = 0; j < p->key_panels; j++) pack_keys(&one, packed, mine, sample, head, j);
            for (int64_t key = 0; key < p->keys; key++) pack_value(&one, values, mine, sample, head, key);
            for (int64_t first = 0; first < p->queries; first += BLOCK_ROWS)
                attend(&one, mine, packed, sample, head, first);
        }
    }
}

/* Few large ones: one after the other, packed and computed by all threads. */
static void run_large(const attention *p, char *scratch, int threads)
{
    char *packed = scratch + (size_t)threads * piece_bytes(p), *values = packed + keys_bytes(p);
    bool infinite = false;
#pragma omp parallel num_threads(threads)
    for (int64_t i = 0; i < p->batch * p->heads; i++) {
        char *mine = scratch + (size_t)cpu_thread() * piece_bytes(p);
        int64_t sample = i / p->heads, head = i % p->heads;
#pragma omp single
        infinite = false;
        if (p->pairs) {
#pragma omp for schedule(static) reduction(|| : infinite)
            for (int64_t key = 0; key < p->keys; key++)
                infinite = infinite || is_infinite(p, sample, head, key);
        }
        attention one = of_head(p, infinite);
#pragma omp for schedule(static)
        for (int64_t j = 0; j < p->key_panels; j++) pack_keys(&one, packed, mine, sample, head, j);
#pragma omp for schedule(static)
        for (int64_t key = 0; key < p->keys; key++) pack_value(&one, values, mine, sample, head, key);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < p->queries; first += BLOCK_ROWS)
            attend(&one, mine, packed, sample, head, first);
    }
}

/* What follows from the shapes. */
static void derive(attention *p)
{
    int64_t columns = p->simd->tile_columns;
    p->size = p->pairs ? sizeof(uint16_t) : sizeof(float);
    p->even_width = p->width + (p->pairs ? p->width % 2 : 0);
    p->key_panels = (p->keys + columns - 1) / columns;
    p->value_panels = (p->width + columns - 1) / columns;
    p->padded_width = (int64_t)lt_round_up((size_t)p->width, (size_t)columns / 2);
    p->q_steps = (p->width + BLOCK_K - 1) / BLOCK_K;
    p->key_block = p->pairs ? BLOCK_K / 2 : BLOCK_K;
}

lt_status attention_cpu(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                        const lt_tensor *mask, double scale, bool causal, lt_tensor *y)
{
    enum { SMALL_ELEMENTS = 1 << 17 };
    const cpu_device *device = cpu_of(c);
    attention p = {.simd = device->simd,
                   .bf16 = c->dtype == LT_BF16,
                   .pairs = c->dtype == LT_BF16 ? device->pairs : NULL,
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
                   .scale = (float)(scale * M_LOG2E)};
    derive(&p);
    bool small = p.keys * p.width <= SMALL_ELEMENTS;
    int64_t pieces = small ? p.batch * p.heads : (p.queries + BLOCK_ROWS - 1) / BLOCK_ROWS;
    int threads = (int)LT_MIN((int64_t)device->threads, pieces);
    size_t packed = keys_bytes(&p) + values_bytes(&p);
    char *scratch = lt_scratch(c, (size_t)threads * piece_bytes(&p) + packed * (size_t)(small ? threads : 1));
    if (!scratch) return c->err.status;
    if (!c->dry && small) run_small(&p, scratch, threads);
    if (!c->dry && !small) run_large(&p, scratch, threads);
    lt_scratch_release(c, scratch);
    return LT_OK;
}
