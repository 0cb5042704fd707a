/* linear.c - matrix products of activations with packed weights.
 *
 * A piece is BLOCK_ROWS rows by CHUNK columns. Its sums stand in an f32 block that stays in the second-level cache; the
 * inner dimension is walked in steps of BLOCK_K. Rows of a piece never meet, so batch and threads cannot matter. */
#include "kernels/cpu/cpu.h"

#include <string.h>

enum { CHUNK = 512 };

typedef struct product {
    const cpu_simd *simd;
    bool bf16;
    const char *x;
    const char *panels;
    int64_t rows, inner, outputs;
    cpu_epilogue epilogue; /* y and residual of row 0 */
} product;

static size_t piece_scratch_floats(void)
{
    return (size_t)BLOCK_ROWS * ROW_STRIDE + (size_t)BLOCK_ROWS * CHUNK;
}

/* Rows of x from `row` on and columns first_k .. of it into a block of f32; rows up to a whole tile are zeros. */
static void load_block(const product *p, float *block, int64_t row, int64_t rows, int64_t padded,
                       int64_t first_k, int64_t k)
{
    size_t size = p->bf16 ? 2 : 4;
    for (int64_t r = 0; r < rows; r++)
        p->simd->load(block + r * ROW_STRIDE, p->x + (size_t)((row + r) * p->inner + first_k) * size, p->bf16,
                      k);
    for (int64_t r = rows; r < padded; r++) memset(block + r * ROW_STRIDE, 0, (size_t)k * sizeof(float));
}

static void compute_piece(const product *p, float *scratch, int64_t row, int64_t column)
{
    float *block = scratch, *sums = scratch + (size_t)BLOCK_ROWS * ROW_STRIDE;
    const cpu_simd *simd = p->simd;
    size_t size = p->bf16 ? 2 : 4;
    int64_t rows = LT_MIN(BLOCK_ROWS, p->rows - row), columns = LT_MIN(CHUNK, p->outputs - column);
    int64_t padded_rows = (int64_t)lt_round_up((size_t)rows, (size_t)simd->tile_rows);
    int64_t padded_columns = (int64_t)lt_round_up((size_t)columns, (size_t)simd->tile_columns);
    int64_t panel_stride = p->inner * simd->tile_columns;
    const char *panels = p->panels + (size_t)(column * p->inner) * size;
    for (int64_t k = 0; k < p->inner; k += BLOCK_K) {
        int64_t step = LT_MIN(BLOCK_K, p->inner - k);
        load_block(p, block, row, rows, padded_rows, k, step);
        simd->gemm(sums, CHUNK, block, panels + (size_t)(k * simd->tile_columns) * size, p->bf16,
                   panel_stride, padded_rows, padded_columns, step, k > 0);
    }
    cpu_epilogue e = p->epilogue;
    size_t at = (size_t)(row * p->outputs + column) * size;
    e.y = (char *)e.y + at;
    if (e.residual) e.residual = (const char *)e.residual + at;
    if (e.bias) e.bias += column;
    simd->epilogue(&e, p->bf16, sums, CHUNK, rows, columns);
}

lt_status linear_cpu(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias, lt_activation act,
                     const lt_tensor *residual, lt_tensor *y)
{
    const cpu_device *device = cpu_of(c);
    product p = {.simd = device->simd,
                 .bf16 = c->dtype == LT_BF16,
                 .x = x->data,
                 .outputs = weight->tensor.shape[0],
                 .inner = weight->tensor.shape[1]};
    p.rows = lt_n_elements(x) / p.inner;
    p.panels = cpu_weight_panels(c, weight);
    p.epilogue = (cpu_epilogue){.bias = cpu_weight_vector(c, bias),
                                .act = act,
                                .residual = residual->data,
                                .y = y->data,
                                .stride = p.outputs};
    if (c->err.status != LT_OK) return c->err.status;
    int64_t n_rows = (p.rows + BLOCK_ROWS - 1) / BLOCK_ROWS, n_columns = (p.outputs + CHUNK - 1) / CHUNK;
    int threads = (int)LT_MIN((int64_t)device->threads, n_rows * n_columns);
    float *scratch = lt_scratch(c, (size_t)threads * piece_scratch_floats() * sizeof(float));
    if (!scratch) return c->err.status;
    if (!c->dry) {
#pragma omp parallel num_threads(threads)
        {
            float *mine = scratch + (size_t)cpu_thread() * piece_scratch_floats();
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < n_rows * n_columns; i++)
                compute_piece(&p, mine, i / n_columns * BLOCK_ROWS, i % n_columns * CHUNK);
        }
    }
    lt_workspace_release(c->workspace, scratch);
    return LT_OK;
}
