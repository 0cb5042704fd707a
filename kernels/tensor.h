/* tensor.h - tensors, the workspace they live in, and the context that operators run in.
 *
 * A tensor is a small value: a view of contiguous, row-major memory. Video tensors are channels-last, [N,T,H,W,C].
 * Networks read like their formulas: operators (ops.h) take a context and tensors and return a tensor; the first error
 * is kept in the context and everything after it does nothing, so a network checks once, at its end.
 *
 * Threads: a context, its workspace, its tensors and the weights it has packed belong to one thread at a time. Contexts
 * do not share anything else: several threads may each have their own. */
#ifndef LT_TENSOR_H
#define LT_TENSOR_H

#include "core/core.h"

/* ---- dtypes ------------------------------------------------------------------------------------------ */

typedef enum { LT_F32, LT_BF16, LT_F16, LT_F64, LT_U8, LT_U16, LT_I32, LT_I64, LT_N_DTYPES } lt_dtype;

/* Bytes of one element: 1, 2, 4 or 8. */
size_t lt_dtype_bytes(lt_dtype dtype);
/* "f32", "bf16", ...; never NULL. */
const char *lt_dtype_name(lt_dtype dtype);
/* F32, BF16, F16 or F64. */
bool lt_dtype_is_float(lt_dtype dtype);
/* From a name in lower or upper case (safetensors'). False, with *dtype untouched, for one that is not in the list. */
bool lt_dtype_parse(const char *name, lt_dtype *dtype);

/* ---- tensors ----------------------------------------------------------------------------------------- */

enum { LT_MAX_RANK = 6 };

typedef struct lt_tensor {
    void *data; /* NULL: no tensor (an optional argument left out, or a result after an error) */
    lt_dtype dtype;
    int32_t rank;               /* 0: a scalar */
    int64_t shape[LT_MAX_RANK]; /* 0 is a legal size: a tensor without elements */
    uint32_t id;                /* place on the tape; 0: not recorded */
} lt_tensor;

#define LT_NONE ((lt_tensor){0})

/* Product of the shape, and bytes of all elements. The shape is trusted to have been checked: lt_new, lt_view and the
 * reader of safetensors files do. */
int64_t lt_n_elements(const lt_tensor *tensor);
size_t lt_tensor_bytes(const lt_tensor *tensor);

/* "f32[2,3,4]", or "nothing", cut to fit into text, for error sentences. Returns text. */
const char *lt_tensor_describe(const lt_tensor *tensor, char *text, size_t text_bytes);

/* ---- workspace: memory of the activations of a running network -------------------------------------- */

/* Offsets in one block, first fit, neighbours merged on release: where an allocation lies depends on the order of calls
 * only, so a dry run tells the exact peak. Dry: there is no block, addresses are never touched, only the peak is
 * counted. Nothing is allocated elsewhere in steady state. */
typedef struct lt_workspace lt_workspace;

/* bytes = 0: dry. Otherwise a block of that many bytes (rounded up to 64), 64-byte aligned, zeroed, reserved at once: pages
 * count as used when they are first touched. E_NO_MEMORY when it cannot be had; *workspace is NULL then. */
lt_status lt_workspace_create(lt_workspace **workspace, size_t bytes, lt_err *err);
/* Whatever is still in use goes with it. Takes NULL. */
void lt_workspace_destroy(lt_workspace *workspace);

/* `bytes` (0 counts as 1, rounded up to 64), 64-byte aligned, uninitialised. NULL when no gap is large enough. */
void *lt_workspace_alloc(lt_workspace *workspace, size_t bytes);
/* Memory that lt_workspace_alloc returned, once; anything else is a bug of the caller (assert). NULL: nothing. */
void lt_workspace_release(lt_workspace *workspace, void *memory);

/* The size a block must have for what has been asked for since creation: the highest end of an allocation, in bytes. */
size_t lt_workspace_peak(const lt_workspace *workspace);
/* Bytes allocated and not released, each allocation rounded up to 64; 0 when every tensor was dropped. */
size_t lt_workspace_in_use(const lt_workspace *workspace);

/* ---- context ---------------------------------------------------------------------------------------- */

struct lt_backend; /* kernels/backend.h */
struct lt_tape;    /* the autograd tape; NULL: inference, nothing is kept for a backward pass */

typedef struct lt_context {
    const struct lt_backend *backend;
    void *device; /* the backend's own state: streams, handles, caches of primitives */
    lt_workspace *workspace;
    struct lt_tape *tape;
    lt_dtype dtype;      /* of activations */
    bool dry;            /* plan only: shapes, peak and FLOPs; no data is read or written */
    double flops;        /* counted by every operator, 2 per multiply-add; the caller may set it to 0 */
    size_t packed_bytes; /* of weights in the backend's form, outside the workspace; counted when dry too */
    char
        numeric_class[128]; /* what bytes depend on: "cpu/avx512_core_bf16+avx512/onednn-2.6.3/epoch-1/f32" */
    lt_err err;             /* first error; status LT_OK while there is none */
} lt_context;

/* Open a backend with a workspace.
 *
 * device: "cpu"; "ref", the slow f64 reference; later "cuda:0". dtype, of activations and results: F32 or BF16 on the cpu
 * (weights may be F32, BF16, F16 or F64 in either), any float dtype on ref. workspace_bytes: 0 means dry; the peak of
 * a dry run with the same device, dtype, threads and shapes is exactly enough. threads: 0 means all cores the process may
 * run on; results do not depend on it, scratch memory does.
 *
 * E_NOT_FOUND for an unknown or absent device, E_UNSUPPORTED for a dtype it does not compute in, E_INVALID, E_NO_MEMORY;
 * *context is NULL then.
 *
 * OpenMP's threads of the cpu backend, of which there is one set for each calling thread, spin for about a millisecond
 * after every operator before they sleep. Where several processes share a machine, their launcher sets
 * OMP_WAIT_POLICY=passive in the environment: the runtime reads it before main, so no program can do it for itself. */
lt_status lt_context_create(lt_context **context, const char *device, lt_dtype dtype, size_t workspace_bytes,
                            int threads, lt_err *err);
/* The workspace goes with it; packed weights do not (lt_weight_finish before). Takes NULL. */
void lt_context_destroy(lt_context *context);

/* The context's first error, copied to err (may be NULL) and cleared. LT_OK, with err untouched, when there was none. */
lt_status lt_context_status(lt_context *context, lt_err *err);

/* Keep an error as the context's first one, unless there is one already. Returns the status that is kept. */
lt_status lt_context_fail(lt_context *context, lt_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A new, uninitialised tensor in the workspace. On failure (shape negative or too large: E_INVALID; no room:
 * E_NO_MEMORY) sets the context's error and returns LT_NONE. */
lt_tensor lt_new(lt_context *context, lt_dtype dtype, int rank, const int64_t *shape);

/* Give a tensor's memory back (kept if a tape still needs it) and set *tensor to LT_NONE. A view does not own: drop only
 * what an operator or lt_new returned, once. LT_NONE: nothing. */
void lt_drop(lt_context *context, lt_tensor *tensor);

/* The same memory under another shape of as many elements; E_INVALID in the context and LT_NONE otherwise. */
lt_tensor lt_view(lt_context *context, lt_tensor tensor, int rank, const int64_t *shape);
#define LT_VIEW(context, tensor, ...)                                                                        \
    lt_view(context, tensor, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                      \
            (const int64_t[]){__VA_ARGS__})

/* `count` rows of dimension 0 from `first` on, a view; E_INVALID in the context and LT_NONE when they are not there. */
lt_tensor lt_rows(lt_context *context, lt_tensor tensor, int64_t first, int64_t count);

/* ---- weights ---------------------------------------------------------------------------------------- */

/* A parameter of a network: the tensor as it lies in the mapped file (F32, F16, BF16 or F64, PyTorch's layout, at any
 * address), borrowed; and the form in which the backend wants it, made at first use and kept until lt_weight_finish. Zero
 * all but `tensor`. A weight may be used by several contexts of one backend, by one thread at a time. */
typedef struct lt_weight {
    lt_tensor tensor;    /* data NULL: this network has no such parameter (no bias) */
    void *packed;        /* backend's own */
    size_t packed_bytes; /* of `packed`; of what it would be, after a dry run */
} lt_weight;

/* Free the packed form; the weight can be used again. context: any one of the backend that packed it; NULL only where
 * none did but dry ones. */
void lt_weight_finish(lt_context *context, lt_weight *weight);

#endif
