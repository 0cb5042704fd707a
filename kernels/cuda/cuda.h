/* cuda.h - shared by the C files of the plug-in longtake_cuda.so: its device, errors, staging, weights, products.
 *
 * Order. Everything that computes is enqueued on one stream of the context, `compute`; memory of the workspace is reused in its
 * order. Two more streams carry data, so that the upload of the next chunk and the download of the last one run beside the
 * computation of this one (memory.c).
 *
 * Same bytes for every batch. A library may sum in another order for another shape. So its kernel is chosen for a canonical
 * number of rows or images that follows from one sample's shape alone, as the first of the library's own list that sums
 * without splitting the inner dimension between blocks; then this very kernel (algorithm, tile, stages, ...) is used for
 * whatever batch there is. An element's sum then runs over the inner dimension in one order, wherever its row lies in the
 * batch. Nothing is chosen by timing.
 *
 * Dry contexts open the device too, and ask the libraries for the same choices: what a plan counts as scratch memory is what a
 * run takes. */
#ifndef LT_CUDA_H
#define LT_CUDA_H

#include "kernels/backend.h"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <cudnn.h>

enum {
    CUDA_ALIGNMENT = 16,              /* of rows, at most, that libraries are told of */
    CUDA_MATMUL_WORKSPACE = 32 << 20, /* what a product's algorithm may ask for */
    CUDA_CHANNELS = 8,                /* of which cuDNN's engines take multiples in 16 bits */
    CUDA_ROOM = 64 << 20, /* with less free memory, what fails for no other cause fails for that */
    CUDA_SLOTS = 16,      /* of a ring of staging memory */
};

/* Of a slot. Tests have small ones, so that small transfers take several. */
#ifndef CUDA_SLOT_BYTES
#define CUDA_SLOT_BYTES (8 << 20)
#endif

/* Of f32 sums between a product and what is done with them: they stay in the second-level cache. Tests have fewer. */
#ifndef CUDA_ROUGH_BYTES
#define CUDA_ROUGH_BYTES (24 << 20)
#endif

/* ---- staging (memory.c) ------------------------------------------------------------------------------ */

/* A piece of a transfer: pinned host memory and device memory of one size. */
typedef struct cuda_slot {
    char *host, *device;
    cudaEvent_t done; /* the last transfer through it */
    void *to;         /* of a download that has not been given to the host */
    size_t bytes;
} cuda_slot;

typedef struct cuda_ring {
    cuda_slot slots[CUDA_SLOTS];
    char *host, *device; /* of all slots; NULL before the first use */
    int next;
} cuda_ring;

typedef struct cuda_record cuda_record;

/* ---- device ------------------------------------------------------------------------------------------ */

typedef struct cuda_device {
    struct cuda_device *next_idle;
    int index;
    lt_dtype dtype;
    cudaStream_t compute, up, down;
    cudaEvent_t arrived, computed; /* of a piece on its way to and from `compute` */
    cudaEvent_t decoded;           /* what was asked of the default stream */
    cuda_ring uploads, downloads;
    cublasLtHandle_t blas;
    cublasLtMatmulPreference_t preference;
    cudnnHandle_t dnn;
    cudnnBackendDescriptor_t
        dnn_properties; /* of a device that is not here, where `dnn` is NULL: for choices alone */
    void *nvrtc;        /* the library, by which cuDNN compiles */
    int nvrtc_version[2];
    struct cuda_matmul *matmuls;    /* algorithms by shape (matmul.c) */
    struct cuda_graph_plan *graphs; /* of cuDNN, by shape (graph.c) */
    cuda_record *record;            /* that is being recorded, or filled; NULL: none (record.c) */
    bool lost;
} cuda_device;

/* The context's device, made current on this thread. */
cuda_device *cuda_of(const lt_context *c);

size_t cuda_dtype_bytes(lt_dtype dtype);
cudaDataType_t cuda_data_type(lt_dtype dtype);
cudnnDataType_t cuda_dnn_type(lt_dtype dtype);

/* The largest power of two, at most CUDA_ALIGNMENT, that divides `bytes`. */
size_t cuda_alignment(size_t bytes);

/* ---- errors (plugin.c) -------------------------------------------------------------------------------
 * LT_OK for success; otherwise the context's error is set, a sentence that names the operator, and its status returned: a device
 * that can no longer be used is E_DEVICE_LOST and stays so, its memory being full E_NO_MEMORY, its being in use by others, or
 * its memory, E_BUSY, what it cannot do E_UNSUPPORTED, the rest E_INTERNAL. */
lt_status cuda_check(lt_context *c, const char *op, cudaError_t error);
/* Of a launch of a kernel of our own: full memory may be others'. */
lt_status cuda_check_launch(lt_context *c, const char *op, cudaError_t error);
lt_status cuda_check_blas(lt_context *c, const char *op, cublasStatus_t status);
lt_status cuda_check_dnn(lt_context *c, const char *op, cudnnStatus_t status);

/* Does the device say that it can no longer be used? */
bool cuda_is_gone(const lt_context *c);

/* Had cuDNN no memory? That passes, and says nothing of what it was asked. */
bool cuda_dnn_is_full(cudnnStatus_t status);

/* The status that an error of CUDA means. */
lt_status cuda_status_of(cudaError_t error);

/* ---- memory.c ---------------------------------------------------------------------------------------- */

lt_status memory_create_cuda(void *device, size_t bytes, void **block, lt_err *err);
void memory_destroy_cuda(void *device, void *block, size_t bytes);
lt_status upload_cuda(lt_context *c, const lt_host_box *from, lt_tensor *out);
lt_status download_cuda(lt_context *c, const lt_tensor *x, void *to);
lt_status wait_cuda(lt_context *c);
lt_status copy_cuda(lt_context *c, const lt_tensor *x, lt_tensor *out);
lt_status zero_cuda(lt_context *c, lt_tensor *out);
void cuda_ring_destroy(cuda_ring *ring); /* also one that is not open, or half */

/* Device memory outside the workspace, for cudaFree: NULL, with the context's error set to a sentence that says how much there is, after
 * one: E_BUSY, E_NO_MEMORY, E_DEVICE_LOST. `what`: "weights", ... */
void *cuda_allocate(lt_context *c, const char *what, size_t bytes);

/* Pinned memory of `bytes`, at most CUDA_SLOT_BYTES, that the host may fill, NULL after an error; and its way to device
 * memory: that of the workspace, in the order of `compute`, or memory that nothing uses yet (fresh), at once. While an evaluation is recorded
 * it is the record's; while a record is filled, it goes nowhere. */
cuda_slot *cuda_stage(lt_context *c, const char *op, size_t bytes);
lt_status cuda_send(lt_context *c, const char *op, cuda_slot *slot, void *to, size_t bytes, bool fresh);

/* ---- share.c ------------------------------------------------------------------------------------------ */

lt_status share_create_cuda(void *device, lt_share *share, lt_share_handle *handle, lt_err *err);
lt_status share_open_cuda(void *device, lt_share *share, const lt_share_handle *handle, lt_err *err);
void share_close_cuda(lt_share *share);
lt_status share_mark_cuda(lt_context *c, lt_share *share);
lt_status share_await_cuda(lt_context *c, lt_share *share);

/* "GPU-" and its UUID, by which two processes that number devices differently know it; "" where it has no events between processes. */
void cuda_share_id(int index, const struct cudaDeviceProp *p, char *id, size_t id_bytes);

/* ---- record.c ---------------------------------------------------------------------------------------- */

lt_status record_cuda(lt_context *c, lt_record_step step, size_t host_bytes, void **record);
/* Is nothing to be enqueued but what the host brings? */
bool cuda_is_filling(const cuda_device *d);
/* cuda_stage and cuda_send while there is a record; never fresh. */
cuda_slot *cuda_record_stage(lt_context *c, const char *op, size_t bytes);
lt_status cuda_record_send(lt_context *c, const char *op, const cuda_slot *slot, void *to, size_t bytes);

/* ---- weights.c --------------------------------------------------------------------------------------- */

/* A matrix [O,I] or a convolution's weight [O,I,...] as [O][taps][I] in the context's dtype: a product's right side, and a filter
 * of a channels-last convolution. NULL when dry or after an error. */
const void *cuda_weight_matrix(lt_context *c, lt_weight *weight);

/* The same with as many zeros behind the inputs of each tap as make their number a multiple of CUDA_CHANNELS. */
const void *cuda_weight_padded(lt_context *c, lt_weight *weight);

/* A weight [O,I,3,3] for what comes before it being upsampled by 2 in h and w: [2][2][O][2][2][I], by an output pixel's place (row and
 * column, 0 where they are odd) and by the element of x. A tap is the sum of those that fall on its element, in f64, rounded once. */
const void *cuda_weight_folded(lt_context *c, lt_weight *weight);

/* A convolution's weight [O,I,...] as [taps][O][I], a row for each tap of each output, with as many rows of zeros behind them as make their
 * number a multiple of CUDA_CHANNELS. */
const void *cuda_weight_taps(lt_context *c, lt_weight *weight);

typedef struct cuda_vector {
    const float *values; /* NULL when left out, or dry */
    const void *narrow;  /* the same in the context's dtype; values itself in f32 */
} cuda_vector;

/* A vector. False after an error. */
bool cuda_weight_vector(lt_context *c, lt_weight *weight, cuda_vector *vector);
/* The same four times over. */
bool cuda_weight_vector_4(lt_context *c, lt_weight *weight, cuda_vector *vector);

void release_weight_cuda(lt_context *c, lt_weight *weight);

/* ---- matmul.c ---------------------------------------------------------------------------------------- */

/* D[n] = A[n] B[n]^T, or A[n] B[n] (b_plain), rows by rows of memory, summed in f32: A [rows, inner], B [columns, inner] or [inner,
 * columns], D [rows, columns], n < count. Leading dimensions and distances between matrices in elements. */
typedef struct cuda_product {
    lt_dtype in, out;
    bool b_plain;
    bool add;    /* D += */
    bool biased; /* D += bias, a vector of `columns` of dtype `out` */
    bool gelu;   /* D = the library's GELU, by tanh, of all that */
    int64_t rows, columns, inner, count;
    int64_t a_ld, b_ld, d_ld;
    int64_t a_step, b_step, d_step;
    int64_t canonical_rows; /* the algorithm is chosen for these */
} cuda_product;

/* `c_matrix`, of D's layout, is added where `add` says so: it may be D. Dry: scratch memory is counted. */
lt_status cuda_multiply(lt_context *c, const char *op, const cuda_product *p, const void *a, const void *b,
                        const void *bias, const void *c_matrix, void *d);
/* Has the library a deterministic algorithm for it? False after an error, too. */
bool cuda_can_multiply(lt_context *c, const char *op, const cuda_product *p);
void cuda_matmuls_destroy(cuda_device *d);

/* Rows that the algorithm is chosen for: eight samples of so many rows, at least 512, at most 2^20. */
int64_t cuda_canonical_rows(int64_t sample_rows);

/* ---- choices.c --------------------------------------------------------------------------------------- */

/* Where LT_CUDA_CHOICES is set, a line on standard error of an engine or an algorithm that was chosen, or of there being none; begins with
 * "choice: ". `sizes`: those that the problem is made of, its unused end left out. */
void cuda_tell_engine(const char *op, const int64_t *sizes, int n_sizes, bool supported, int64_t engine,
                      size_t workspace);
void cuda_tell_algorithm(const char *op, const cuda_product *p, const cublasLtMatmulAlgo_t *algo);

/* ---- linear.c ---------------------------------------------------------------------------------------- */

/* y = act(x w^T + bias) + residual for `rows` rows; weight as of cuda_weight_matrix, in which x's rows have `inner` values. */
typedef struct cuda_layer {
    const char *op;
    int64_t rows, inner, columns, canonical_rows;
    const void *x, *weight, *residual;
    cuda_vector bias;
    bool has_bias, has_residual; /* when dry, too */
    lt_activation act;
    void *y;
} cuda_layer;

lt_status cuda_layer_run(lt_context *c, const cuda_layer *l);
lt_status linear_cuda(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                      lt_activation act, const lt_tensor *residual, lt_tensor *y);

/* ---- few.c ------------------------------------------------------------------------------------------- */

/* Is it one that few.c does? */
bool cuda_has_few_outputs(const lt_context *c, const lt_conv_dims *d);
lt_status cuda_conv_to_few(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                           const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y);

/* ---- conv.c, attention.c ----------------------------------------------------------------------------- */

lt_status conv_cuda(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                    const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y);
lt_status upsample_conv_cuda(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                             const lt_conv_dims *d, lt_tensor *y);
lt_status attention_cuda(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                         const lt_tensor *mask, double scale, bool causal, lt_tensor *y);

#endif
