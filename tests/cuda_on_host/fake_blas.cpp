/* fake_blas.cpp - cuBLASLt on the host. It refuses what the library refuses, as far as the plug-in could do it, and sums in an order that
 * depends on the algorithm, which depends on the number of columns the heuristics were asked for: who chooses by the batch gets
 * other bytes for other batches. */
#include "kernels/convert.h"
#include "tests/cuda_on_host/fake.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

struct fake_matmul_desc {
    cublasComputeType_t compute;
    cublasOperation_t a;
    cublasLtEpilogue_t epilogue;
    const void *bias;
};

struct fake_matrix_layout {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batch;
    int64_t step;
};

struct fake_preference {
    size_t workspace;
    uint32_t reduction, a, b, c, d;
};

static int64_t n_objects, until_failure, until_loss;
static cudaError_t loss;

void fake_library_fail(int64_t n)
{
    until_failure = n;
}

void fake_library_lose(int64_t n, cudaError_t error)
{
    until_loss = n;
    loss = error;
    if (n == 0) fake_lose(cudaSuccess);
}

bool fake_library_planned(void)
{
    return until_failure > 0 || until_loss > 0;
}

fake_failure fake_library_fails()
{
    if (until_failure > 0 && --until_failure == 0) return FAKE_FULL;
    if (until_loss == 0 || --until_loss > 0) return FAKE_WORKS;
    fake_lose(loss);
    return FAKE_LOST;
}

/* That of a call whose turn it is to fail, which says `lost` where it does not know why. */
static cublasStatus_t planned(cublasStatus_t lost)
{
    switch (fake_library_fails()) {
    case FAKE_FULL: return CUBLAS_STATUS_ALLOC_FAILED;
    case FAKE_LOST: return lost;
    default: return CUBLAS_STATUS_SUCCESS;
    }
}

static std::string calls;

const char *fake_library_calls(void)
{
    return calls.c_str();
}

void fake_library_forget(void)
{
    calls.clear();
}

/* Of many calls that nobody asks about, the last ones. */
void fake_library_called(const std::string &line)
{
    if (calls.size() > 1 << 16) calls.clear();
    calls += line + "\n";
}

int64_t fake_library_objects(void)
{
    return n_objects;
}

void fake_library_count(int by)
{
    n_objects += by;
}

template <typename T> static cublasStatus_t create(T **object, const T &value)
{
    cublasStatus_t s = planned(CUBLAS_STATUS_NOT_INITIALIZED);
    if (s != CUBLAS_STATUS_SUCCESS) return s;
    *object = new T(value);
    n_objects++;
    return CUBLAS_STATUS_SUCCESS;
}

template <typename T> static cublasStatus_t destroy(T *object)
{
    delete object;
    n_objects--;
    return CUBLAS_STATUS_SUCCESS;
}

template <typename T> static cublasStatus_t assign(T *to, const void *value, size_t bytes)
{
    if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- objects ------------------------------------------------------------------------------------------- */

struct cublasLtContext {
    int unused;
};

const char *cublasLtGetStatusString(cublasStatus_t s)
{
    switch (s) {
    case CUBLAS_STATUS_SUCCESS: return "success";
    case CUBLAS_STATUS_ALLOC_FAILED: return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE: return "an invalid value was passed";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "the functionality is not supported";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "the execution failed";
    default: return "an error";
    }
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    return create(handle, cublasLtContext());
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return destroy(handle);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_INVALID_VALUE;
    return create(desc, fake_matmul_desc{compute, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL});
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return destroy(desc);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes)
{
    switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return assign(&d->a, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return assign(&d->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return assign(&d->bias, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld)
{
    if (!rows || !cols || ld < (int64_t)rows) return CUBLAS_STATUS_INVALID_VALUE;
    return create(layout, fake_matrix_layout{type, rows, cols, ld, 1, 0});
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return destroy(layout);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t what, const void *value,
                                                size_t bytes)
{
    switch (what) {
    case CUBLASLT_MATRIX_LAYOUT_COLS: return assign(&l->cols, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return assign(&l->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return assign(&l->step, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    return create(p, fake_preference{0, CUBLASLT_REDUCTION_SCHEME_MASK, 256, 256, 256, 256});
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    return destroy(p);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t bytes)
{
    switch (what) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return assign(&p->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return assign(&p->reduction, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return assign(&p->a, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return assign(&p->b, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return assign(&p->c, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return assign(&p->d, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

/* ---- algorithms ---------------------------------------------------------------------------------------- */

/* What an algorithm_t holds. */
struct algorithm {
    uint64_t magic;
    uint16_t tile, split, scheme; /* the inner dimension is summed in tiles; split between blocks */
    uint32_t alignment[4];
    uint32_t a_type, d_type, transposed, epilogue;
    uint16_t picky;
};
static_assert(sizeof(algorithm) <= sizeof(cublasLtMatmulAlgo_t), "");
enum { MAGIC = 0x5ca1ab1e };

static const cublasStatus_t good = CUBLAS_STATUS_SUCCESS, invalid = CUBLAS_STATUS_INVALID_VALUE;

static bool has_bias(const fake_matmul_desc *d)
{
    return d->epilogue == CUBLASLT_EPILOGUE_BIAS || d->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
}

static bool has_gelu(const fake_matmul_desc *d)
{
    return d->epilogue == CUBLASLT_EPILOGUE_GELU || d->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
}

/* Types and shapes, as documented for cublasLtMatmul. */
static cublasStatus_t check(const fake_matmul_desc *desc, const fake_matrix_layout *a,
                            const fake_matrix_layout *b, const fake_matrix_layout *c,
                            const fake_matrix_layout *d)
{
    uint64_t m = desc->a == CUBLAS_OP_T ? a->cols : a->rows, k = desc->a == CUBLAS_OP_T ? a->rows : a->cols;
    if (b->rows != k || d->rows != m || d->cols != b->cols || c->rows != m || c->cols != d->cols)
        return invalid;
    if (a->batch != d->batch || b->batch != d->batch || c->batch != d->batch || d->batch < 1) return invalid;
    bool wide = a->type == CUDA_R_32F;
    bool types = a->type == b->type && c->type == d->type && (d->type == CUDA_R_32F || d->type == a->type);
    if (!types || (!wide && desc->compute != CUBLAS_COMPUTE_32F)) return CUBLAS_STATUS_NOT_SUPPORTED;
    /* As a library may. */
    if (has_gelu(desc) && d->rows % 8) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (has_bias(desc) && d->rows == 28) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (d->batch > 1 && d->step < d->ld * (int64_t)d->cols && d->step < (int64_t)m) return invalid;
    return good;
}

/* What an algorithm takes: for other numbers of rows (columns of the library's) it is not the same. */
static size_t needed(const fake_matrix_layout *a, const fake_matrix_layout *d)
{
    return a->rows % 3 == 0 ? 0 : 4096 * (a->rows % 5) + 512 * (d->cols % 7);
}

/* One that takes no odd number of rows, and says so when it is asked. */
static bool refuses(const algorithm &algo, const fake_matrix_layout *d)
{
    return algo.picky && d->cols % 2;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t p, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int *n)
{
    *n = 0;
    cublasStatus_t s = planned(CUBLAS_STATUS_INTERNAL_ERROR);
    if (s == good) s = check(desc, a, b, c, d);
    if (s != good) return s;
    /* The first one splits, whatever the mask says of reductions, the second is picky: not all that is returned is fit to be used. */
    for (uint32_t i = 0; i < 3 && *n < most; i++) {
        if (i == 1 && d->cols % 2) continue;
        cublasLtMatmulHeuristicResult_t r;
        memset(&r, 0, sizeof(r));
        algorithm algo = {MAGIC,
                          (uint16_t)(d->cols >= 4096   ? 256
                                     : d->cols >= 1024 ? 64
                                                       : 32),
                          (uint16_t)(i == 0 ? 4 : 1),
                          (uint16_t)(i == 0 && p->reduction ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : 0),
                          {p->a, p->b, p->c, p->d},
                          (uint32_t)a->type,
                          (uint32_t)d->type,
                          desc->a == CUBLAS_OP_T,
                          (uint32_t)desc->epilogue,
                          (uint16_t)(i == 1)};
        memcpy(&r.algo, &algo, sizeof(algo));
        r.workspaceSize = needed(a, d);
        if (r.workspaceSize > p->workspace) continue;
        r.state = good;
        results[(*n)++] = r;
    }
    return *n ? good : CUBLAS_STATUS_NOT_SUPPORTED;
}

static bool is_for(const algorithm &algo, const fake_matmul_desc *desc, const fake_matrix_layout *a,
                   const fake_matrix_layout *d)
{
    return algo.magic == MAGIC && algo.a_type == (uint32_t)a->type && algo.d_type == (uint32_t)d->type &&
           algo.transposed == (desc->a == CUBLAS_OP_T) && algo.epilogue == (uint32_t)desc->epilogue &&
           !refuses(algo, d);
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *opaque,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    algorithm algo;
    memcpy(&algo, opaque, sizeof(algo));
    cublasStatus_t s = planned(CUBLAS_STATUS_NOT_INITIALIZED);
    if (s == good) s = check(desc, a, b, c, d);
    if (s == good && !is_for(algo, desc, a, d)) s = CUBLAS_STATUS_NOT_SUPPORTED;
    if (s != good) return s;
    memset(result, 0, sizeof(*result));
    result->workspaceSize = needed(a, d);
    return good;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *opaque,
                                                    cublasLtMatmulAlgoConfigAttributes_t what, void *value,
                                                    size_t bytes, size_t *written)
{
    algorithm algo;
    memcpy(&algo, opaque, sizeof(algo));
    uint32_t v = what == CUBLASLT_ALGO_CONFIG_SPLITK_NUM         ? algo.split
                 : what == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME ? algo.scheme
                                                                 : algo.tile;
    bool known = what <= CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME; /* of the others this library says nothing */
    if (algo.magic != MAGIC || bytes != sizeof(v) || !known) return invalid;
    memcpy(value, &v, sizeof(v));
    *written = sizeof(v);
    return good;
}

/* ---- products ------------------------------------------------------------------------------------------ */

static float load(const void *data, cudaDataType type, int64_t i)
{
    if (type == CUDA_R_32F) return ((const float *)data)[i];
    uint16_t h = ((const uint16_t *)data)[i];
    return type == CUDA_R_16BF ? lt_bf16_to_f32(h) : lt_f16_to_f32(h);
}

static void store(void *data, cudaDataType type, int64_t i, float v)
{
    if (type == CUDA_R_32F) {
        ((float *)data)[i] = v;
    } else {
        ((uint16_t *)data)[i] = type == CUDA_R_16BF ? lt_f32_to_bf16(v) : lt_f32_to_f16(v);
    }
}

static size_t size_of(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

struct job {
    fake_matmul_desc desc;
    fake_matrix_layout a, b, c, d;
    const char *a_data, *b_data, *c_data;
    char *d_data;
    float alpha, beta;
    uint32_t tile;
};

/* The inner dimension in tiles of 16 lanes: an order of its own for every algorithm. */
static float dot(const float *x, const float *y, size_t k, size_t tile)
{
    float total = 0;
    for (size_t t = 0; t < k; t += tile) {
        float lanes[16] = {0}, sum = 0;
        size_t end = k - t < tile ? k : t + tile, i = t;
        for (; i + 16 <= end; i += 16) {
            for (size_t l = 0; l < 16; l++) lanes[l] += x[i + l] * y[i + l];
        }
        for (size_t l = 0; i < end; i++, l++) lanes[l] += x[i] * y[i];
        for (size_t l = 0; l < 16; l++) sum += lanes[l];
        total += sum;
    }
    return total;
}

/* By a tanh as bad as the hardware's may be: 2^-11 of its value, up or down, until it is 1. */
static float gelu(float x)
{
    float t = tanhf(0.797884561f * (x + 0.044715f * x * x * x));
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    if (fabsf(t) < 1 - 0x1p-11f) t *= 1 + (bits & 1 ? 0x1p-11f : -0x1p-11f);
    return 0.5f * x * (1 + (isnan(t) ? t : fminf(fmaxf(t, -1), 1)));
}

static void multiply_one(const job *j, int64_t n)
{
    const fake_matrix_layout *a = &j->a, *b = &j->b, *d = &j->d;
    bool t = j->desc.a == CUBLAS_OP_T;
    size_t m = d->rows, k = b->rows;
    const char *at_a = j->a_data + n * a->step * (int64_t)size_of(a->type);
    const char *at_b = j->b_data + n * b->step * (int64_t)size_of(b->type);
    const char *at_c = j->c_data + n * j->c.step * (int64_t)size_of(d->type);
    char *at_d = j->d_data + n * d->step * (int64_t)size_of(d->type);
    std::vector<float> rows(m * k), column(k);
    for (size_t i = 0; i < m; i++) {
        for (size_t e = 0; e < k; e++)
            rows[i * k + e] =
                load(at_a, a->type, t ? (int64_t)i * a->ld + (int64_t)e : (int64_t)e * a->ld + (int64_t)i);
    }
    for (size_t c = 0; c < d->cols; c++) {
        for (size_t e = 0; e < k; e++) column[e] = load(at_b, b->type, (int64_t)c * b->ld + (int64_t)e);
        for (size_t i = 0; i < m; i++) {
            int64_t to = (int64_t)c * d->ld + (int64_t)i;
            float v = j->alpha * dot(&rows[i * k], column.data(), k, j->tile);
            if (j->beta != 0) v += j->beta * load(at_c, d->type, (int64_t)c * j->c.ld + (int64_t)i);
            if (has_bias(&j->desc)) v += load(j->desc.bias, d->type, (int64_t)i);
            if (has_gelu(&j->desc)) v = gelu(v);
            store(at_d, d->type, to, v);
        }
    }
}

static bool is_matrix(const void *data, const fake_matrix_layout *l, uint32_t alignment)
{
    size_t elements = (size_t)((l->batch - 1) * l->step) + (size_t)l->ld * (l->cols - 1) + l->rows;
    return (uintptr_t)data % alignment == 0 && fake_is_device(data, elements * size_of(l->type));
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a_data, cublasLtMatrixLayout_t a, const void *b_data,
                              cublasLtMatrixLayout_t b, const void *beta, const void *c_data,
                              cublasLtMatrixLayout_t c, void *d_data, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *opaque, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream)
{
    algorithm algo;
    memcpy(&algo, opaque, sizeof(algo));
    cublasStatus_t s = planned(CUBLAS_STATUS_EXECUTION_FAILED);
    if (s == good) s = check(desc, a, b, c, d);
    if (s != good) return s;
    bool biased = has_bias(desc);
    if (!is_for(algo, desc, a, d)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!is_matrix(a_data, a, algo.alignment[0]) || !is_matrix(b_data, b, algo.alignment[1]) ||
        !is_matrix(c_data, c, algo.alignment[2]) || !is_matrix(d_data, d, algo.alignment[3]))
        return invalid;
    if (biased && !fake_is_device(desc->bias, d->rows * size_of(d->type))) return invalid;
    size_t bytes = needed(a, d);
    if (workspace_bytes < bytes || (bytes && !fake_is_device(workspace, bytes))) return invalid;
    if ((uintptr_t)workspace % 256) return invalid; /* the library's documentation asks for it */
    const job j = {*desc,
                   *a,
                   *b,
                   *c,
                   *d,
                   (const char *)a_data,
                   (const char *)b_data,
                   (const char *)c_data,
                   (char *)d_data,
                   *(const float *)alpha,
                   *(const float *)beta,
                   algo.tile};
    const std::string rows = std::to_string(d->cols);
    fake_library_called(
        "product " + rows + "x" + std::to_string(b->rows) + " -> " + rows + "x" + std::to_string(d->rows) +
        (d->type == a->type ? "" : ", f32") + (biased ? ", bias" : "") + (j.beta != 0 ? ", add" : "") +
        (has_gelu(desc) ? ", gelu" : "") + (d->batch > 1 ? ", batch " + std::to_string(d->batch) : ""));
    cudaError_t error = fake_enqueue(stream, [=] {
        for (int64_t n = 0; n < j.d.batch; n++) multiply_one(&j, n);
    });
    return error == cudaSuccess ? good : CUBLAS_STATUS_EXECUTION_FAILED;
}
