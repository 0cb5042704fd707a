/* attention.c - softmax(scale q k^T + mask) v.
 *
 * In 16 bits and for heads of up to 256 numbers, a multiple of 8: cuDNN, which recognises the graph below and never stores a score. A mask
 * comes to it in f32 with its own sizes, which it repeats. Where a query has seen only masked keys so far, or none at all, it subtracts
 * infinities, and has NaN: so its mask is bounded before, and what the queries that see nothing have is made zeros after.
 *
 * Other heads, f32, and masks beside causality go in pieces of queries and keys, whose scores stay in scratch memory: a product by
 * cuBLASLt, a softmax that goes on from piece to piece, another product. Which of the two it is follows from the shapes of one
 * sample; in pieces, samples go one by one. In 16 bits both round a query's weights to the dtype before they multiply v. */
#include "kernels/cuda/operators.h"

#include <math.h>

/* Of scores in f32 at a time: with half as many of weights they stay in a second-level cache of 50 MiB between the two products, which is all
 * they are for. Four times as many went through memory four times: by estimate, not measured, 40 us where the products take 10. Few
 * keys and many queries: for the VAE's one head of 512, weights v has 32 rows of blocks of 128 x 128 then, which fill 128 of 132
 * multiprocessors, where 4,096 keys would leave a quarter of the rows, and fill 32. */
enum { SCORE_BYTES = 16 << 20, KEYS_AT_ONCE = 1024, LARGEST_HEAD = 256, CANONICAL_SAMPLES = 8 };

typedef struct attention {
    int64_t batch, queries, keys, heads, width;
    const char *q, *k, *v;
    const lt_tensor *mask;
    char *y;
    float scale;
    bool causal;
} attention;

/* ---- cuDNN ------------------------------------------------------------------------------------------- */

enum { UID_Q = 1, UID_K, UID_V, UID_Y, UID_SCALE, UID_LOWEST, UID_MASK, UID_FIRST_VIRTUAL };

typedef struct sdpa_problem {
    int64_t queries, keys, heads, width;
    cudnnDataType_t type;
    bool causal;
    bool has_mask, mask_by_sample;    /* one for each sample, or one of all */
    int64_t mask_heads, mask_queries; /* 1: of all */
    size_t alignment;
} sdpa_problem;

/* A virtual tensor [n,heads,queries,keys]. */
static cudnnBackendDescriptor_t matrix(graph_builder *g, int64_t *uid, cudnnDataType_t type,
                                       const sdpa_problem *p, int64_t n, int64_t keys)
{
    const int64_t dims[4] = {n, p->heads, p->queries, keys};
    const int64_t strides[4] = {p->heads * p->queries * keys, p->queries * keys, keys, 1};
    return graph_tensor(g, (*uid)++, type, GRAPH_VIRTUAL, 4, dims, strides, CUDA_ALIGNMENT);
}

static cudnnBackendDescriptor_t scalar(graph_builder *g, int64_t uid)
{
    const int64_t ones[4] = {1, 1, 1, 1};
    return graph_tensor(g, uid, CUDNN_DATA_FLOAT, GRAPH_BY_VALUE, 4, ones, ones, 4);
}

/* Scores of keys behind the query become -infinity. */
static cudnnBackendDescriptor_t mask_future(graph_builder *g, int64_t *uid, const sdpa_problem *p, int64_t n,
                                            cudnnBackendDescriptor_t scores)
{
    cudnnBackendDescriptor_t row = matrix(g, uid, CUDNN_DATA_INT32, p, n, p->keys);
    cudnnBackendDescriptor_t column = matrix(g, uid, CUDNN_DATA_INT32, p, n, p->keys);
    cudnnBackendDescriptor_t seen = matrix(g, uid, CUDNN_DATA_BOOLEAN, p, n, p->keys);
    cudnnBackendDescriptor_t masked = matrix(g, uid, CUDNN_DATA_FLOAT, p, n, p->keys);
    graph_pointwise(g, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, 2, scores, NULL, NULL, row);
    graph_pointwise(g, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, 3, scores, NULL, NULL, column);
    graph_pointwise(g, CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, 0, row, column, NULL, seen);
    graph_pointwise(g, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, 0, scores, scalar(g, UID_LOWEST),
                    seen, masked);
    return masked;
}

static cudnnBackendDescriptor_t add_mask(graph_builder *g, int64_t *uid, const sdpa_problem *p, int64_t n,
                                         cudnnBackendDescriptor_t scores)
{
    const int64_t row = p->mask_queries * p->keys,
                  dims[4] = {p->mask_by_sample ? n : 1, p->mask_heads, p->mask_queries, p->keys};
    const int64_t strides[4] = {p->mask_heads * row, row, p->keys, 1};
    cudnnBackendDescriptor_t mask =
        graph_tensor(g, UID_MASK, CUDNN_DATA_FLOAT, GRAPH_STORED, 4, dims, strides, CUDA_ALIGNMENT);
    cudnnBackendDescriptor_t masked = matrix(g, uid, CUDNN_DATA_FLOAT, p, n, p->keys);
    graph_pointwise(g, CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, 0, scores, mask, NULL, masked);
    return masked;
}

/* The graph that cuDNN knows as attention. It has the logarithm of every query's sum of powers, which nobody reads: without it
 * cuDNN does not know the graph, and has no engine for it. */
static void build_sdpa(graph_builder *g, const void *problem, int64_t n)
{
    const sdpa_problem *p = problem;
    const int64_t row = p->heads * p->width, q_step = p->queries * row, k_step = p->keys * row;
    const int64_t q_dims[4] = {n, p->heads, p->queries, p->width}, q_strides[4] = {q_step, p->width, row, 1};
    const int64_t k_dims[4] = {n, p->heads, p->width, p->keys}, k_strides[4] = {k_step, p->width, 1, row};
    const int64_t v_dims[4] = {n, p->heads, p->keys, p->width}, v_strides[4] = {k_step, p->width, row, 1};
    int64_t uid = UID_FIRST_VIRTUAL;
    cudnnBackendDescriptor_t q, k, v, y, scores, scaled, largest, shifted, powers, sum, logarithm, statistics,
        weights;
    q = graph_tensor(g, UID_Q, p->type, GRAPH_STORED, 4, q_dims, q_strides, p->alignment);
    k = graph_tensor(g, UID_K, p->type, GRAPH_STORED, 4, k_dims, k_strides, p->alignment);
    v = graph_tensor(g, UID_V, p->type, GRAPH_STORED, 4, v_dims, v_strides, p->alignment);
    y = graph_tensor(g, UID_Y, p->type, GRAPH_STORED, 4, q_dims, q_strides, p->alignment);
    scores = matrix(g, &uid, CUDNN_DATA_FLOAT, p, n, p->keys);
    graph_matmul(g, q, k, scores);
    scaled = matrix(g, &uid, CUDNN_DATA_FLOAT, p, n, p->keys);
    graph_pointwise(g, CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, 0, scores, scalar(g, UID_SCALE), NULL, scaled);
    if (p->has_mask) scaled = add_mask(g, &uid, p, n, scaled);
    if (p->causal) scaled = mask_future(g, &uid, p, n, scaled);
    largest = matrix(g, &uid, CUDNN_DATA_FLOAT, p, n, 1);
    graph_reduce(g, CUDNN_REDUCE_TENSOR_MAX, scaled, largest);
    shifted = matrix(g, &uid, CUDNN_DATA_FLOAT, p, n, p->keys);
    graph_pointwise(g, CUDNN_POINTWISE_SUB, CUDNN_DATA_FLOAT, 0, scaled, largest, NULL, shifted);
    powers = matrix(g, &uid, CUDNN_DATA_FLOAT, p, n, p->keys);
    graph_pointwise(g, CUDNN_POINTWISE_EXP, CUDNN_DATA_FLOAT, 0, shifted, NULL, NULL, powers);
    sum = matrix(g, &uid, CUDNN_DATA_FLOAT, p, n, 1);
    graph_reduce(g, CUDNN_REDUCE_TENSOR_ADD, powers, sum);
    logarithm = matrix(g, &uid, CUDNN_DATA_FLOAT, p, n, 1);
    graph_pointwise(g, CUDNN_POINTWISE_LOG, CUDNN_DATA_FLOAT, 0, sum, NULL, NULL, logarithm);
    statistics = matrix(g, &uid, CUDNN_DATA_FLOAT, p, n, 1);
    graph_pointwise(g, CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, 0, largest, logarithm, NULL, statistics);
    weights = matrix(g, &uid, p->type, p, n, p->keys);
    graph_pointwise(g, CUDNN_POINTWISE_DIV, CUDNN_DATA_FLOAT, 0, powers, sum, NULL, weights);
    graph_matmul(g, weights, v, y);
}

/* What cuDNN is given for a mask, and which of its rows have a key that is seen; NULL where there is no mask, and after an error. */
typedef struct bounded {
    float *mask;
    uint8_t *seen;
} bounded;

static lt_status bound_mask(lt_context *c, const attention *a, bounded *b)
{
    *b = (bounded){0};
    if (!a->mask->data) return LT_OK;
    int64_t rows = lt_n_elements(a->mask) / a->keys;
    b->mask = lt_scratch(c, (size_t)(rows * a->keys) * sizeof(float));
    b->seen = lt_scratch(c, (size_t)rows);
    if (!b->mask || !b->seen) return c->err.status;
    if (c->dry) return LT_OK;
    return cuda_launched(
        c, "attention",
        lt_launch_bound_mask(cuda_of(c)->compute, b->mask, b->seen, a->mask->data, rows, a->keys));
}

static lt_status clear_unseen(lt_context *c, const attention *a, const bounded *b)
{
    const int64_t *m = a->mask->shape;
    if (!b->seen) return LT_OK;
    lt_seen_rows rows = {.batch = a->batch,
                         .queries = a->queries,
                         .heads = a->heads,
                         .seen_b = m[0] > 1 ? m[1] * m[2] : 0,
                         .seen_h = m[1] > 1 ? m[2] : 0,
                         .seen_q = m[2] > 1 ? 1 : 0};
    return cuda_launched(
        c, "attention",
        lt_launch_clear_unseen(cuda_of(c)->compute, c->dtype, a->y, a->width, b->seen, &rows));
}

static lt_status run_plan(lt_context *c, const attention *a, cuda_graph_plan *plan, bounded *b)
{
    void *workspace = NULL;
    if (plan->workspace && !(workspace = lt_scratch(c, plan->workspace))) return c->err.status;
    float scale = a->scale, lowest = -INFINITY;
    int64_t uids[6] = {UID_Q, UID_K, UID_V, UID_Y, UID_SCALE};
    void *pointers[6] = {(void *)(uintptr_t)a->q, (void *)(uintptr_t)a->k, (void *)(uintptr_t)a->v, a->y,
                         &scale};
    int n = 5;
    if (a->causal) {
        uids[n] = UID_LOWEST;
        pointers[n++] = &lowest;
    } else if (b->mask) {
        uids[n] = UID_MASK;
        pointers[n++] = b->mask;
    }
    lt_status status = c->dry ? LT_OK : cuda_graph_run(c, "attention", plan, n, uids, pointers, workspace);
    if (status == LT_OK && !c->dry) status = clear_unseen(c, a, b);
    lt_scratch_release(c, workspace);
    return status;
}

static lt_status run_sdpa(lt_context *c, const attention *a, cuda_graph_plan *plan)
{
    bounded b;
    lt_status status = bound_mask(c, a, &b);
    if (status == LT_OK) status = run_plan(c, a, plan, &b);
    lt_scratch_release(c, b.seen);
    lt_scratch_release(c, b.mask);
    return status;
}

static graph_key sdpa_key(const sdpa_problem *p)
{
    enum { SDPA = 2 };
    return (graph_key){{SDPA, p->queries, p->keys, p->heads, p->width, p->type, p->causal, p->has_mask,
                        p->mask_by_sample, p->mask_heads, p->mask_queries}};
}

/* cuDNN's plan, NULL when it has none, or after an error. */
static cuda_graph_plan *sdpa_plan(lt_context *c, const attention *a)
{
    const lt_tensor *m = a->mask;
    bool fits = c->dtype != LT_F32 && !(m->data && a->causal) && a->width % 8 == 0 &&
                a->width <= LARGEST_HEAD && a->queries > 1 && a->keys > 1;
    if (!fits) return NULL;
    sdpa_problem p = {.queries = a->queries,
                      .keys = a->keys,
                      .heads = a->heads,
                      .width = a->width,
                      .type = cuda_dnn_type(c->dtype),
                      .causal = a->causal,
                      .alignment = CUDA_ALIGNMENT};
    if (m->data) {
        p.has_mask = p.mask_by_sample = true;
        p.mask_heads = m->shape[1];
        p.mask_queries = m->shape[2];
    }
    graph_key key = sdpa_key(&p);
    cuda_graph_plan *choice = cuda_graph_choose(c, "attention", &key, build_sdpa, &p, CANONICAL_SAMPLES);
    if (!choice || !choice->supported) return NULL;
    p.mask_by_sample = m->data && m->shape[0] > 1; /* the engine is the same for a mask of all samples */
    key = sdpa_key(&p);
    cuda_graph_plan *plan = cuda_graph_get(c, "attention", &key, build_sdpa, &p, a->batch, choice);
    if (plan && !plan->supported) {
        lt_context_fail(c, LT_E_UNSUPPORTED, "attention: cuDNN's engine for %d samples does not take %lld",
                        CANONICAL_SAMPLES, (long long)a->batch);
        return NULL;
    }
    return plan;
}

/* ---- in pieces --------------------------------------------------------------------------------------- */

/* Scratch memory of one piece, for all heads of a sample: `rows` queries, `keys` keys. */
typedef struct pieces {
    int64_t rows, keys;
    float *scores, *sums, *state;
    char *weights; /* over the scores in f32 */
} pieces;

static bool create_pieces(lt_context *c, const attention *a, pieces *p)
{
    *p = (pieces){.keys = LT_MIN(a->keys, (int64_t)KEYS_AT_ONCE)};
    int64_t most = SCORE_BYTES / (a->heads * p->keys * (int64_t)sizeof(float)) / 64 * 64;
    p->rows = LT_MIN(a->queries, LT_MAX(most, (int64_t)64));
    size_t rows = (size_t)(a->heads * p->rows), n = rows * (size_t)p->keys;
    p->scores = lt_scratch(c, n * sizeof(float));
    p->sums = lt_scratch(c, rows * (size_t)a->width * sizeof(float));
    p->state = lt_scratch(c, rows * 3 * sizeof(float));
    p->weights = c->dtype == LT_F32 ? (char *)p->scores : lt_scratch(c, n * cuda_dtype_bytes(c->dtype));
    return p->scores && p->sums && p->state && p->weights;
}

static void destroy_pieces(lt_context *c, pieces *p)
{
    if (p->weights != (char *)p->scores) lt_scratch_release(c, p->weights);
    lt_scratch_release(c, p->state);
    lt_scratch_release(c, p->sums);
    lt_scratch_release(c, p->scores);
}

/* scores = q k^T of all heads: queries from `q` on, keys from `k` on. */
static lt_status score(lt_context *c, const attention *a, const pieces *p, const void *q, const void *k,
                       int64_t rows, int64_t keys)
{
    int64_t row = a->heads * a->width;
    cuda_product product = {.in = c->dtype,
                            .out = LT_F32,
                            .rows = rows,
                            .columns = keys,
                            .inner = a->width,
                            .count = a->heads,
                            .a_ld = row,
                            .b_ld = row,
                            .d_ld = keys,
                            .a_step = a->width,
                            .b_step = a->width,
                            .d_step = rows * keys,
                            .canonical_rows = rows};
    return cuda_multiply(c, "attention", &product, q, k, NULL, NULL, p->scores);
}

/* sums = weights v, or += for later pieces of keys. */
static lt_status weigh(lt_context *c, const attention *a, const pieces *p, const void *v, int64_t rows,
                       int64_t keys, bool add)
{
    cuda_product product = {.in = c->dtype,
                            .out = LT_F32,
                            .b_plain = true,
                            .add = add,
                            .rows = rows,
                            .columns = a->width,
                            .inner = keys,
                            .count = a->heads,
                            .a_ld = keys,
                            .b_ld = a->heads * a->width,
                            .d_ld = a->width,
                            .a_step = rows * keys,
                            .b_step = a->width,
                            .d_step = rows * a->width,
                            .canonical_rows = rows};
    return cuda_multiply(c, "attention", &product, p->weights, v, NULL, p->sums, p->sums);
}

static lt_softmax_piece piece_of(const attention *a, int64_t sample, int64_t query0, int64_t rows,
                                 int64_t key0, int64_t keys)
{
    const lt_tensor *m = a->mask;
    lt_softmax_piece piece = {.n_matrices = a->heads,
                              .heads = a->heads,
                              .query0 = query0,
                              .rows = rows,
                              .key0 = key0,
                              .keys = keys,
                              .scale = a->scale,
                              .causal = a->causal};
    if (!m->data) return piece;
    int64_t of_head = m->shape[2] * m->shape[3], of_sample = m->shape[1] * of_head;
    piece.mask = (const float *)m->data + (m->shape[0] > 1 ? sample * of_sample : 0);
    piece.mask_h = m->shape[1] > 1 ? of_head : 0;
    piece.mask_q = m->shape[2] > 1 ? m->shape[3] : 0;
    return piece;
}

/* Some queries of one sample against all keys. */
static lt_status attend(lt_context *c, const attention *a, const pieces *p, int64_t sample, int64_t query0)
{
    cuda_device *d = cuda_of(c);
    int64_t rows = LT_MIN(p->rows, a->queries - query0), row = a->heads * a->width;
    size_t size = cuda_dtype_bytes(c->dtype);
    const char *q = a->q + (size_t)((sample * a->queries + query0) * row) * size;
    lt_status status = LT_OK;
    for (int64_t key0 = 0; key0 < a->keys && status == LT_OK; key0 += p->keys) {
        int64_t keys = LT_MIN(p->keys, a->keys - key0);
        if (a->causal && key0 >= query0 + rows) break; /* nobody sees these */
        size_t at = (size_t)((sample * a->keys + key0) * row) * size;
        lt_softmax_piece piece = piece_of(a, sample, query0, rows, key0, keys);
        status = score(c, a, p, q, a->k + at, rows, keys);
        if (status == LT_OK && !c->dry)
            status = cuda_launched(
                c, "attention",
                lt_launch_softmax_piece(d->compute, c->dtype, p->weights, p->scores, p->state, &piece));
        if (status == LT_OK && !c->dry && key0 > 0)
            status = cuda_launched(
                c, "attention",
                lt_launch_softmax_rescale(d->compute, p->sums, p->state, a->heads, rows, a->width));
        if (status == LT_OK) status = weigh(c, a, p, a->v + at, rows, keys, key0 > 0);
    }
    if (status != LT_OK || c->dry) return status;
    char *y = a->y + (size_t)(sample * a->queries * row) * size;
    return cuda_launched(c, "attention",
                         lt_launch_softmax_finish(d->compute, c->dtype, y, p->sums, p->state, 1, a->heads,
                                                  a->queries, query0, rows, a->width));
}

/* The mask comes in as f32 of the workspace. Planning goes through all pieces, too: their products have scratch of their own. */
static lt_status run_pieces(lt_context *c, const attention *a)
{
    pieces p;
    lt_status status = create_pieces(c, a, &p) ? LT_OK : c->err.status;
    int64_t samples = c->dry ? 1 : a->batch;
    for (int64_t sample = 0; sample < samples && status == LT_OK; sample++) {
        for (int64_t query = 0; query < a->queries && status == LT_OK; query += p.rows)
            status = attend(c, a, &p, sample, query);
    }
    destroy_pieces(c, &p);
    return status;
}

lt_status attention_cuda(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                         const lt_tensor *mask, double scale, bool causal, lt_tensor *y)
{
    attention a = {.batch = q->shape[0],
                   .queries = q->shape[1],
                   .keys = k->shape[1],
                   .heads = q->shape[2],
                   .width = q->shape[3],
                   .q = q->data,
                   .k = k->data,
                   .v = v->data,
                   .mask = mask,
                   .y = y->data,
                   .scale = (float)scale,
                   .causal = causal};
    cuda_of(c);
    cuda_graph_plan *plan = sdpa_plan(c, &a);
    if (c->err.status != LT_OK) return c->err.status;
    return plan ? run_sdpa(c, &a, plan) : run_pieces(c, &a);
}
