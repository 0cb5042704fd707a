/* tensor.h - tensors, the workspace they live in, and the context that operators run in.
 *
 * A tensor is a small value: a view of contiguous, row-major memory. Video tensors are channels-last, [N,T,H,W,C].
 * Networks read like their formulas: operators (ops.h) take a context and tensors and return a tensor; the first error
 * is kept in the context and everything after it does nothing, so a network checks once, at its end.
 *
 * Threads: a context, its workspace and its tensors belong to one thread at a time. */
#ifndef LT_TENSOR_H
#define LT_TENSOR_H

#include "core/core.h"

typedef enum { LT_F32, LT_BF16, LT_F16, LT_F64, LT_U8, LT_U16, LT_I32, LT_I64, LT_N_DTYPES } lt_dtype;

enum { LT_MAX_RANK = 6 };

typedef struct lt_tensor {
    void *data; /* NULL: no tensor (an optional argument left out, or a result after an error) */
    lt_dtype dtype;
    int32_t rank;
    int64_t shape[LT_MAX_RANK];
    uint32_t id; /* place on the tape; 0: not recorded */
} lt_tensor;

#define LT_NONE ((lt_tensor){0})

size_t lt_dtype_bytes(lt_dtype dtype);
const char *lt_dtype_name(lt_dtype dtype); /* "f32", "bf16", ... */
bool lt_dtype_is_float(lt_dtype dtype);
bool lt_dtype_parse(const char *name, lt_dtype *dtype); /* accepts safetensors' upper case too */
int64_t lt_n_elements(const lt_tensor *tensor);         /* shape is trusted to have been checked */
size_t lt_tensor_bytes(const lt_tensor *tensor);
/* "f32[2,3,4]" into text; for error sentences. */
const char *lt_tensor_describe(const lt_tensor *tensor, char *text, size_t text_bytes);

/* ---- workspace: memory of the activations of a running network -------------------------------------- */

/* Offsets in one block, first fit, neighbours merged on release: deterministic, so that a dry run tells the exact peak.
 * Dry: there is no block, addresses are never touched, only the peak is counted. */
typedef struct lt_workspace lt_workspace;

/* bytes = 0: dry. Otherwise a block of that many bytes, 64-byte aligned, reserved at once (E_NO_MEMORY). */
lt_status lt_workspace_create(lt_workspace **workspace, size_t bytes, lt_err *err);
void lt_workspace_destroy(lt_workspace *workspace);
void *lt_workspace_alloc(lt_workspace *workspace, size_t bytes);  /* 64-byte aligned; NULL: does not fit */
void lt_workspace_release(lt_workspace *workspace, void *memory); /* NULL: nothing */
size_t lt_workspace_peak(const lt_workspace *workspace);          /* bytes, since creation */
size_t lt_workspace_in_use(const lt_workspace *workspace);        /* 0 when every tensor was released */

/* ---- context ---------------------------------------------------------------------------------------- */

struct lt_backend; /* kernels/backend.h */
struct lt_tape;    /* the autograd tape; NULL: inference, nothing is kept for a backward pass */

typedef struct lt_context {
    const struct lt_backend *backend;
    void *device; /* the backend's own state: streams, handles, caches of primitives */
    lt_workspace *workspace;
    struct lt_tape *tape;
    lt_dtype dtype;      /* of activations: F32, BF16, F16; the ref backend computes F64 */
    bool dry;            /* plan only: shapes, peak and FLOPs; no data is read or written */
    double flops;        /* counted by every operator, 2 per multiply-add */
    size_t packed_bytes; /* of weights in the backend's form, outside the workspace; counted when dry too */
    char numeric_class[128]; /* what bytes depend on: "cpu/avx512_core_bf16/onednn-2.6.3/f32" */
    lt_err err;              /* first error; status LT_OK while there is none */
} lt_context;

/* Open a backend by name ("ref", "cpu", later "cuda:0") with a workspace of workspace_bytes (0: dry). threads: 0 = all cores.
 * E_NOT_FOUND for an unknown or absent device, E_NO_MEMORY. */
lt_status lt_context_create(lt_context **context, const char *device, lt_dtype dtype, size_t workspace_bytes,
                            int threads, lt_err *err);
void lt_context_destroy(lt_context *context);

/* The context's first error, moved to err; clears it. LT_OK when there was none. */
lt_status lt_context_status(lt_context *context, lt_err *err);

/* Keep an error as the context's first one, unless there is one already. Returns the status that is kept. */
lt_status lt_context_fail(lt_context *context, lt_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A new, uninitialised tensor in the workspace. On failure sets the context's error and returns LT_NONE. */
lt_tensor lt_new(lt_context *context, lt_dtype dtype, int rank, const int64_t *shape);

/* Give a tensor's memory back (kept if a tape still needs it) and set *tensor to LT_NONE. A view does not own: drop only what
 * an operator or lt_new returned, once. */
void lt_drop(lt_context *context, lt_tensor *tensor);

/* The same memory under another shape of as many elements; error in the context otherwise. */
lt_tensor lt_view(lt_context *context, lt_tensor tensor, int rank, const int64_t *shape);
#define LT_VIEW(context, tensor, ...)                                                                        \
    lt_view(context, tensor, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                      \
            (const int64_t[]){__VA_ARGS__})

/* `count` rows of dimension 0 from `first` on, a view. */
lt_tensor lt_rows(lt_context *context, lt_tensor tensor, int64_t first, int64_t count);

/* ---- weights ---------------------------------------------------------------------------------------- */

/* A parameter of a network: the tensor as it lies in the mapped file (F32, F16 or BF16, PyTorch's layout), and the form in
 * which the backend wants it, made at first use and kept until lt_weight_finish. */
typedef struct lt_weight {
    lt_tensor tensor; /* data NULL: this network has no such parameter (no bias) */
    void *packed;     /* backend's own */
    size_t packed_bytes;
} lt_weight;

void lt_weight_finish(lt_context *context, lt_weight *weight);

#endif
