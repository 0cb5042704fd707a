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

enum { LT_MAX_RANK = 6, LT_NUMERIC_CLASS_MAX = 256 };

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

/* Place of the first of n numbers that is infinite or NaN, -1: there is none. dtype: a float; of others every number is finite. data
 * need not be aligned. */
int64_t lt_first_not_finite(const void *data, lt_dtype dtype, int64_t n);

/* "f32[2,3,4]", or "nothing", cut to fit into text, for error sentences. Returns text. */
const char *lt_tensor_describe(const lt_tensor *tensor, char *text, size_t text_bytes);

/* ---- workspace: memory of the activations of a running network -------------------------------------- */

/* Offsets in one block, first fit, neighbours merged on release: where an allocation lies depends on the order of calls
 * only, so a dry run tells the exact peak. Dry: there is no block, addresses are never touched, only the peak is
 * counted. Nothing is allocated elsewhere in steady state. */
typedef struct lt_workspace lt_workspace;

/* Of all that lies in one: cuBLASLt takes scratch memory at multiples of this alone, and nothing here asks for more. */
#define LT_WORKSPACE_ALIGNMENT ((size_t)256)

/* Over a block of `bytes`, a multiple of the alignment, so aligned, borrowed; block NULL: dry. E_NO_MEMORY; *workspace is NULL then. */
lt_status lt_workspace_create(lt_workspace **workspace, void *block, size_t bytes, lt_err *err);
/* The block stays. Takes NULL. */
void lt_workspace_destroy(lt_workspace *workspace);

/* `bytes` (0 counts as 1, rounded up to the alignment), uninitialised. NULL when no gap is large enough. */
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
    void *block; /* the workspace's memory, the backend's own; NULL when dry */
    size_t block_bytes;
    void *staging;                      /* host memory for lt_begin_upload, where the workspace's is not */
    size_t staging_bytes, staging_peak; /* what it has; what it must have, counted when dry too */
    struct lt_tape *tape;
    struct lt_replay *replay; /* kernels/replay.h; NULL before the first use */
    lt_dtype dtype;           /* of activations */
    bool is_open;             /* the device; it may have no state of its own */
    bool dry;                 /* plan only: shapes, peak and FLOPs; no data is read or written */
    double flops;             /* counted by every operator, 2 per multiply-add; the caller may set it to 0 */
    size_t packed_bytes; /* of weights in the backend's form, outside the workspace; counted when dry too */
    /* What bytes depend on: "cpu/avx512_core_bf16+avx512/onednn-2.6.3/epoch-1/f32". */
    char numeric_class[LT_NUMERIC_CLASS_MAX];
    lt_err err; /* first error; status LT_OK while there is none */
} lt_context;

/* What a device is and has. Bytes are those of the moment of asking. */
typedef struct lt_device_info {
    char name[64];                  /* as its maker calls it; "cpu" */
    bool host_memory;               /* it works in the host's memory */
    size_t total_bytes, free_bytes; /* of its memory; 0 with host_memory */
    char id
        [48]; /* the same in every process that can open its memory (share.h), and of no other device; "" where none can */
    size_t staging_bytes; /* for transfers: of its memory, and as much of the host's, pinned; a process */
    /* What nobody can tell before a run: the driver and its libraries take it by themselves, a process (kernels' code, their state,
     * recorded evaluations). Not measured: an allowance. Of its memory, and of the host's. */
    size_t allowance_bytes, host_allowance_bytes;
    /* With host_memory: what the code takes that it makes, a process, beside what it takes for every shape that comes; 0: it makes none. */
    size_t code_bytes;
} lt_device_info;

/* Look at a device without opening it. device: as for lt_context_create, "auto" excepted. E_NOT_FOUND, E_UNSUPPORTED, with a
 * sentence that says what is missing; *info is zeroed then. */
lt_status lt_device_probe(const char *device, lt_device_info *info, lt_err *err);

/* The device that "auto" means here: the first "cuda:N" that works, else "cpu"; any other name is copied. name has room for
 * name_bytes, 32 are enough. *why (may be NULL): where auto is cpu, what was the matter with cuda:0; status LT_OK otherwise. Of the
 * devices only those are passed over that are not supported: where there is no plug-in, one of another build, or a device that was
 * lost, no further one is looked at. */
void lt_device_choose(const char *device, char *name, size_t name_bytes, lt_err *why);

/* Does a device compute in dtype? Of its backend alone: no device is looked at. E_UNSUPPORTED, with those it takes, or E_NOT_FOUND. */
lt_status lt_device_takes(const char *device, lt_dtype dtype, lt_err *err);

/* Open a backend with a workspace.
 *
 * device: "cpu"; "ref", the slow f64 reference; "cuda:0" and the like, whose plug-in is loaded. dtype, of activations and results: F32
 * or BF16 on the cpu, F32, BF16 or F16 on cuda (weights may be F32, BF16, F16 or F64 in all), any float dtype on ref.
 * workspace_bytes: 0 means dry; the peak of a dry run with the same device, dtype, threads and shapes is exactly enough. The memory
 * is reserved at once; on the host pages count as used when they are first touched. threads: 0 means all cores the process may
 * run on; results do not depend on it, scratch memory does.
 *
 * E_NOT_FOUND for an unknown or absent device, E_UNSUPPORTED for a dtype it does not compute in, or a driver that is too old,
 * E_INVALID, E_NO_MEMORY, E_BUSY (others use the device's memory), E_MISMATCH (a plug-in of another build); *context is NULL then.
 *
 * When a device is lost while it computes, the context's error becomes E_DEVICE_LOST, and stays: another process may go on.
 *
 * OpenMP's threads of the cpu backend, of which there is one set for each calling thread, spin for about a millisecond
 * after every operator before they sleep. Where several processes share a machine, their launcher sets
 * OMP_WAIT_POLICY=passive in the environment: the runtime reads it before main, so no program can do it for itself. */
lt_status lt_context_create(lt_context **context, const char *device, lt_dtype dtype, size_t workspace_bytes,
                            int threads, lt_err *err);
/* The workspace goes with it; packed weights do not (lt_weight_finish before). Takes NULL. */
void lt_context_destroy(lt_context *context);

/* Another size, for the same device: all tensors have been dropped, the context is not dry. On an error (those of
 * lt_context_create) the context has no workspace: destroy it. */
lt_status lt_context_resize(lt_context *context, size_t workspace_bytes, lt_err *err);

/* Wait until all that was asked for is done (lt_wait), then: the context's first error, copied to err (may be NULL) and
 * cleared. LT_OK, with err untouched, when there was none. */
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

/* ---- between the host's memory and the workspace ----------------------------------------------------------
 *
 * A tensor's data is the host's to read only where the backend says so (host_memory); these work everywhere. A "host tensor" is
 * a tensor whose data is ordinary memory of the caller's; operators (ops.h) never take one, but for numbers of rows. When dry
 * nothing is read or written, and host data may be NULL. */

/* A new tensor with the values of a host tensor, converted to dtype as lt_convert does. */
lt_tensor lt_upload(lt_context *context, lt_tensor host, lt_dtype dtype);

/* Rows y .. y+h-1, columns x .. x+w-1 of images first .. first+n-1 of a host tensor [N,H,W,C]: a new tensor [n,h,w,C] of its dtype.
 * E_INVALID when they are not there. */
lt_tensor lt_upload_part(lt_context *context, lt_tensor host, int64_t first, int64_t n, int64_t y, int64_t h,
                         int64_t x, int64_t w);

/* Memory in which the host may make the values of a new tensor, before anything else is done with the context; lt_end_upload puts them
 * into it. On the host it is the tensor's own. NULL when dry, and after an error (LT_NONE too); then lt_end_upload does nothing. */
void *lt_begin_upload(lt_context *context, lt_tensor tensor);
void lt_end_upload(lt_context *context, lt_tensor tensor);

/* x's values, converted to dtype, to host memory, which is complete when lt_wait or lt_context_status has returned LT_OK. x may be
 * dropped at once. LT_NONE: nothing. */
void lt_download(lt_context *context, lt_tensor x, lt_dtype dtype, void *host);

/* A result that ends in host memory: a tensor to compute in, which is that memory itself where the backend can work there (64-byte
 * alignment is not asked for), else a new one; uninitialised. lt_deliver downloads what is not there yet, gives the tensor's memory
 * back and sets it to LT_NONE. */
lt_tensor lt_place(lt_context *context, lt_dtype dtype, int rank, const int64_t *shape, void *host);
void lt_deliver(lt_context *context, lt_tensor *tensor, void *host);

/* Until all that was asked for is done. The context's error status, with the error kept. */
lt_status lt_wait(lt_context *context);

/* ---- weights ---------------------------------------------------------------------------------------- */

/* A parameter of a network: the tensor as it lies in the mapped file (F32, F16, BF16 or F64, PyTorch's layout, at any
 * address), borrowed; and the form in which the backend wants it, made at first use and kept until lt_weight_finish. Zero
 * all but `tensor`. A weight may be used by several contexts of one backend, by one thread at a time. */
typedef struct lt_weight {
    lt_tensor tensor;    /* data NULL: this network has no such parameter (no bias) */
    void *packed;        /* backend's own */
    size_t packed_bytes; /* of `packed`; of what it would be, after a dry run */
    uint64_t planned;    /* backend's own: the forms that dry runs have counted */
} lt_weight;

/* Free the packed form; the weight can be used again. context: any one of the backend that packed it; NULL only where
 * none did but dry ones. */
void lt_weight_finish(lt_context *context, lt_weight *weight);

/* How many packed forms this process has freed: while it is the same, every one is where it was. Any thread. */
uint64_t lt_weight_changes(void);

#endif
