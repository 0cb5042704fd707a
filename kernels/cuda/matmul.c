/* matmul.c - matrix products by cuBLASLt.
 *
 * Its matrices are column-major: D [rows, columns] of ours is its D^T, so our B is its first factor, our A its second, and
 * our rows are its columns.
 *
 * The algorithm is the first one of the library's heuristics, for the canonical number of rows, that does not split the inner
 * dimension, and that the library's check allows for other numbers of rows, too, one and one more than the canonical: which it is
 * follows from the canonical number alone. Before it is used for a number of rows it is checked for that, which also
 * says how much scratch memory that takes. What the number of rows of a call can change is how many blocks there
 * are, not what one does: a row's sums are the same in every batch. tests/kernels/kernelcheck holds it to that. */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_CHECKS = 8 };

/* What an algorithm is chosen for; compared as bytes. */
typedef struct matmul_key {
    int64_t columns, inner, rows, a_ld, b_ld, d_ld, a_step, b_step, d_step;
    int32_t in, out, b_plain, add, biased, gelu, batched;
} matmul_key;

typedef struct cuda_matmul {
    struct cuda_matmul *next;
    matmul_key key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d; /* ours; `c` of the library is as d */
    bool supported;
    cublasLtMatmulAlgo_t algo;
    struct {
        int64_t rows;
        bool allowed;
        size_t workspace;
    } checks[MOST_CHECKS]; /* the last ones */
    int n_checks;          /* so far */
} cuda_matmul;

int64_t cuda_canonical_rows(int64_t sample_rows)
{
    int64_t most = (int64_t)1 << 20;
    int64_t rows = sample_rows > most / 8 ? most : 8 * sample_rows;
    return LT_MAX(rows, (int64_t)512);
}

static void destroy_matmul(cuda_matmul *m)
{
    if (!m) return;
    if (m->desc) cublasLtMatmulDescDestroy(m->desc);
    if (m->a) cublasLtMatrixLayoutDestroy(m->a);
    if (m->b) cublasLtMatrixLayoutDestroy(m->b);
    if (m->d) cublasLtMatrixLayoutDestroy(m->d);
    free(m);
}

void cuda_matmuls_destroy(cuda_device *d)
{
    while (d->matmuls) {
        cuda_matmul *next = d->matmuls->next;
        destroy_matmul(d->matmuls);
        d->matmuls = next;
    }
}

/* ---- descriptors ------------------------------------------------------------------------------------- */

static cublasStatus_t set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what, const void *value,
                          size_t bytes)
{
    return cublasLtMatmulDescSetAttribute(desc, what, value, bytes);
}

static cublasStatus_t describe(cuda_matmul *m, const cuda_product *p)
{
    /* Pedantic: f32 is f32, whatever a user's environment asks the library for. */
    cublasComputeType_t compute = p->in == LT_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
    cublasOperation_t transpose = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = p->biased ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    if (p->gelu) epilogue = p->biased ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    cublasStatus_t s = cublasLtMatmulDescCreate(&m->desc, compute, CUDA_R_32F);
    if (s == CUBLAS_STATUS_SUCCESS && !p->b_plain)
        s = set(m->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof(transpose));
    if (s == CUBLAS_STATUS_SUCCESS && (p->biased || p->gelu))
        s = set(m->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue));
    /* The library may look at the address's alignment when it chooses. Vectors of weights.c have this one. */
    const void *some_bias = (const void *)LT_WORKSPACE_ALIGNMENT;
    if (s == CUBLAS_STATUS_SUCCESS && p->biased)
        s = set(m->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &some_bias, sizeof(some_bias));
    return s;
}

static cublasStatus_t lay_out(cublasLtMatrixLayout_t *layout, lt_dtype dtype, int64_t fast, int64_t slow,
                              int64_t ld, int64_t count, int64_t step)
{
    int32_t n = (int32_t)count;
    cublasStatus_t s =
        cublasLtMatrixLayoutCreate(layout, cuda_data_type(dtype), (uint64_t)fast, (uint64_t)slow, ld);
    if (s == CUBLAS_STATUS_SUCCESS && count > 1)
        s = cublasLtMatrixLayoutSetAttribute(*layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof(n));
    if (s == CUBLAS_STATUS_SUCCESS && count > 1)
        s = cublasLtMatrixLayoutSetAttribute(*layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step,
                                             sizeof(step));
    return s;
}

/* Alignment that follows from the shape: tensors start at LT_WORKSPACE_ALIGNMENT, parts of them at whole rows. */
static uint32_t alignment_of(lt_dtype dtype, int64_t ld, int64_t step, int64_t count)
{
    size_t size = cuda_dtype_bytes(dtype), a = cuda_alignment((size_t)ld * size);
    return (uint32_t)(count > 1 ? LT_MIN(a, cuda_alignment((size_t)step * size)) : a);
}

static cublasStatus_t prefer(cublasLtMatmulPreference_t preference, const cuda_product *p)
{
    size_t workspace = CUDA_MATMUL_WORKSPACE;
    uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    uint32_t a = alignment_of(p->in, p->a_ld, p->a_step, p->count);
    uint32_t b = alignment_of(p->in, p->b_ld, p->b_step, p->count);
    uint32_t d = alignment_of(p->out, p->d_ld, p->d_step, p->count);
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        const void *value;
        size_t bytes;
    } all[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof(reduction)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b, sizeof(b)}, /* the library's A is our B */
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a, sizeof(a)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &d, sizeof(d)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &d, sizeof(d)},
    };
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < LT_COUNT(all) && s == CUBLAS_STATUS_SUCCESS; i++)
        s = cublasLtMatmulPreferenceSetAttribute(preference, all[i].what, all[i].value, all[i].bytes);
    return s;
}

/* ---- algorithms -------------------------------------------------------------------------------------- */

/* Does it sum the inner dimension in one piece? Then neither atomics nor the number of blocks can change the order. */
static bool sums_whole(const cublasLtMatmulAlgo_t *algo)
{
    int32_t split = 1;
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    size_t written;
    if (cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof(split),
                                             &written) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                             sizeof(scheme), &written) != CUBLAS_STATUS_SUCCESS)
        return false;
    return split >= 0 && split <= 1 && scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
}

static cublasStatus_t set_rows(cuda_matmul *m, int64_t rows)
{
    uint64_t n = (uint64_t)rows;
    cublasStatus_t s = cublasLtMatrixLayoutSetAttribute(m->a, CUBLASLT_MATRIX_LAYOUT_COLS, &n, sizeof(n));
    return s == CUBLAS_STATUS_SUCCESS
               ? cublasLtMatrixLayoutSetAttribute(m->d, CUBLASLT_MATRIX_LAYOUT_COLS, &n, sizeof(n))
               : s;
}

/* Is the algorithm one for so many rows, and with how much scratch memory? A refusal is no error. */
static cublasStatus_t check_rows(cuda_device *d, cuda_matmul *m, const cublasLtMatmulAlgo_t *algo,
                                 int64_t rows, bool *allowed, size_t *workspace)
{
    cublasLtMatmulHeuristicResult_t result;
    cublasStatus_t s = set_rows(m, rows);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulAlgoCheck(d->blas, m->desc, m->b, m->a, m->d, m->d, algo, &result);
    *allowed = s == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= CUDA_MATMUL_WORKSPACE;
    *workspace = *allowed ? result.workspaceSize : 0;
    return s == CUBLAS_STATUS_ALLOC_FAILED || s == CUBLAS_STATUS_NOT_INITIALIZED ? s : CUBLAS_STATUS_SUCCESS;
}

/* Is it one for other numbers of rows, too? Products of many matrices have their own number alone. */
static cublasStatus_t check_others(cuda_device *d, cuda_matmul *m, const cublasLtMatmulAlgo_t *algo,
                                   const cuda_product *p, bool *allowed)
{
    const int64_t others[] = {p->count > 1 ? p->canonical_rows : 1, p->canonical_rows + (p->count == 1)};
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    size_t workspace;
    *allowed = true;
    for (size_t i = 0; i < LT_COUNT(others) && *allowed && s == CUBLAS_STATUS_SUCCESS; i++)
        s = check_rows(d, m, algo, others[i], allowed, &workspace);
    return s;
}

/* The first algorithm that does; where none does, the first one, of a plain product: what adds something can be done without it. */
static lt_status choose(lt_context *c, const char *op, cuda_matmul *m, const cuda_product *p)
{
    enum { MOST = 16 };
    cuda_device *d = c->device;
    cublasLtMatmulHeuristicResult_t found[MOST];
    int n = 0;
    cublasStatus_t s = prefer(d->preference, p);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulAlgoGetHeuristic(d->blas, m->desc, m->b, m->a, m->d, m->d, d->preference, MOST,
                                           found, &n);
    if (s != CUBLAS_STATUS_SUCCESS && s != CUBLAS_STATUS_NOT_SUPPORTED) return cuda_check_blas(c, op, s);
    bool allowed = false, extra = p->add || p->biased || p->gelu;
    for (int i = 0; i < n && !allowed; i++) {
        if (found[i].state != CUBLAS_STATUS_SUCCESS || !sums_whole(&found[i].algo)) continue;
        s = check_others(d, m, &found[i].algo, p, &allowed);
        if (s != CUBLAS_STATUS_SUCCESS) return cuda_check_blas(c, op, s);
        if (!allowed && (m->supported || extra)) continue;
        m->algo = found[i].algo;
        m->supported = true;
    }
    cuda_tell_algorithm(op, p, m->supported ? &m->algo : NULL);
    return LT_OK;
}

static matmul_key key_of(const cuda_product *p)
{
    matmul_key key;
    memset(&key, 0, sizeof(key)); /* padding too */
    key.columns = p->columns;
    key.inner = p->inner;
    key.rows = p->canonical_rows;
    key.a_ld = p->a_ld;
    key.b_ld = p->b_ld;
    key.d_ld = p->d_ld;
    key.batched = (int32_t)p->count;
    if (p->count > 1) {
        key.a_step = p->a_step;
        key.b_step = p->b_step;
        key.d_step = p->d_step;
    }
    key.in = (int32_t)p->in;
    key.out = (int32_t)p->out;
    key.b_plain = p->b_plain;
    key.add = p->add;
    key.biased = p->biased;
    key.gelu = p->gelu;
    return key;
}

/* The algorithm for these sizes, chosen at first use, or `supported` is false; NULL after an error. */
static cuda_matmul *matmul_for(lt_context *c, const char *op, const cuda_product *p)
{
    cuda_device *d = c->device;
    matmul_key key = key_of(p);
    for (cuda_matmul *m = d->matmuls; m; m = m->next) {
        if (memcmp(&m->key, &key, sizeof(key)) == 0) return m;
    }
    cuda_matmul *m = calloc(1, sizeof(*m));
    if (!m) {
        lt_context_fail(c, LT_E_NO_MEMORY, "%s: out of memory", op);
        return NULL;
    }
    m->key = key;
    int64_t b_slow = p->b_plain ? p->inner : p->columns, b_fast = p->b_plain ? p->columns : p->inner;
    cublasStatus_t s = describe(m, p);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lay_out(&m->a, p->in, p->inner, p->canonical_rows, p->a_ld, p->count, p->a_step);
    if (s == CUBLAS_STATUS_SUCCESS) s = lay_out(&m->b, p->in, b_fast, b_slow, p->b_ld, p->count, p->b_step);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lay_out(&m->d, p->out, p->columns, p->canonical_rows, p->d_ld, p->count, p->d_step);
    if (cuda_check_blas(c, op, s) != LT_OK || choose(c, op, m, p) != LT_OK) {
        destroy_matmul(m);
        return NULL;
    }
    m->next = d->matmuls;
    d->matmuls = m;
    return m;
}

/* ---- products ---------------------------------------------------------------------------------------- */

/* Rows of one call: a library's offsets may have 32 bits. */
static int64_t rows_at_once(const cuda_product *p)
{
    int64_t widest = LT_MAX(p->a_ld, p->d_ld), most = (((int64_t)1 << 31) - 1) / LT_MAX(widest, (int64_t)1);
    return LT_MAX(most / 256 * 256, (int64_t)1);
}

/* What so many rows take of scratch memory, into *workspace where that is more. */
static lt_status reserve_rows(lt_context *c, const char *op, cuda_matmul *m, int64_t rows, size_t *workspace)
{
    int i = 0, kept = LT_MIN(m->n_checks, (int)MOST_CHECKS);
    while (i < kept && m->checks[i].rows != rows) i++;
    if (i == kept) {
        bool allowed;
        size_t bytes;
        cublasStatus_t s = check_rows(c->device, m, &m->algo, rows, &allowed, &bytes);
        if (s != CUBLAS_STATUS_SUCCESS) return cuda_check_blas(c, op, s);
        i = m->n_checks++ % MOST_CHECKS;
        m->checks[i].rows = rows;
        m->checks[i].allowed = allowed;
        m->checks[i].workspace = bytes;
    }
    if (!m->checks[i].allowed)
        return lt_context_fail(
            c, LT_E_UNSUPPORTED,
            "%s: cuBLASLt's algorithm for %lld rows of a product by %lld x %lld does not take %lld", op,
            (long long)m->key.rows, (long long)m->key.inner, (long long)m->key.columns, (long long)rows);
    *workspace = LT_MAX(*workspace, m->checks[i].workspace);
    return LT_OK;
}

static cublasStatus_t multiply_rows(cuda_device *d, cuda_matmul *m, const cuda_product *p, int64_t rows,
                                    const void *a, const void *b, const void *bias, const void *c_matrix,
                                    void *to, void *workspace, size_t workspace_bytes)
{
    const float one = 1, beta = p->add ? 1 : 0;
    cublasStatus_t s = set_rows(m, rows);
    if (s == CUBLAS_STATUS_SUCCESS && p->biased)
        s = set(m->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(bias));
    if (s != CUBLAS_STATUS_SUCCESS) return s;
    return cublasLtMatmul(d->blas, m->desc, &one, b, m->b, a, m->a, &beta, p->add ? c_matrix : to, m->d, to,
                          m->d, &m->algo, workspace, workspace_bytes, d->compute);
}

bool cuda_can_multiply(lt_context *c, const char *op, const cuda_product *p)
{
    cuda_of(c);
    const cuda_matmul *m = matmul_for(c, op, p);
    return m && m->supported;
}

lt_status cuda_multiply(lt_context *c, const char *op, const cuda_product *p, const void *a, const void *b,
                        const void *bias, const void *c_matrix, void *to)
{
    cuda_device *d = cuda_of(c);
    cuda_matmul *m = matmul_for(c, op, p);
    if (!m) return c->err.status;
    if (!m->supported)
        return lt_context_fail(
            c, LT_E_UNSUPPORTED,
            "%s: cuBLASLt has no deterministic algorithm for a product of %lld x %lld by %lld in %s", op,
            (long long)p->rows, (long long)p->inner, (long long)p->columns, lt_dtype_name(p->in));
    int64_t step = LT_MIN(rows_at_once(p), p->rows), rest = p->rows % step;
    size_t bytes = 0;
    lt_status status = reserve_rows(c, op, m, step, &bytes);
    if (status == LT_OK && rest) status = reserve_rows(c, op, m, rest, &bytes);
    if (status != LT_OK) return status;
    void *workspace = NULL;
    if (bytes && !(workspace = lt_scratch(c, bytes))) return c->err.status;
    size_t in = cuda_dtype_bytes(p->in), out = cuda_dtype_bytes(p->out);
    for (int64_t row = 0; row < p->rows && status == LT_OK && !c->dry; row += step) {
        size_t at_a = (size_t)(row * p->a_ld) * in, at_d = (size_t)(row * p->d_ld) * out;
        status = cuda_check_blas(c, op,
                                 multiply_rows(d, m, p, LT_MIN(step, p->rows - row), (const char *)a + at_a,
                                               b, bias, c_matrix ? (const char *)c_matrix + at_d : NULL,
                                               (char *)to + at_d, workspace, bytes));
    }
    lt_scratch_release(c, workspace);
    return status;
}
