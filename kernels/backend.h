/* backend.h - what a backend must provide: a const table of functions, none of them NULL.
 *
 * ops.h checks shapes, allocates the result and counts FLOPs once for all backends; a backend function only computes. It is
 * never called with a result of no elements, nor after an error. Inputs are as ops.h says; an optional tensor that is left
 * out has data NULL, an optional weight may also be NULL itself.
 *
 * Memory. A context's workspace lies in one block that the backend makes (memory_create). Where the host cannot read and write
 * it (host_memory false), tensors' data are addresses in that block that only the backend can follow; sizes, views and
 * offsets are computed with on the host all the same. Host memory comes in by `upload` and goes out by `download`. Weights
 * (lt_weight.tensor), numbers of rows and what is uploaded always lie in host memory.
 *
 * Order. A backend may be asynchronous: its functions then enqueue work, in the order of the calls, and every one sees the results
 * of those before it; memory that the workspace gives out again is used in that order too. What the host gives is read before
 * a function returns; what the host gets is complete when `wait` has returned. An error that shows only later is returned by a
 * later call, at the latest by `wait`.
 *
 * Plug-ins. A backend that is not built in is a shared object longtake_NAME.so; see "plug-ins" below. */
#ifndef LT_BACKEND_H
#define LT_BACKEND_H

#include "kernels/ops.h"
#include "kernels/share.h"

/* Raised when this file, tensor.h, ops.h or share.h change so that a plug-in must be built again. */
#define LT_BACKEND_ABI 6

/* n_planes planes of n_lines lines of line_bytes bytes in host memory; the next line starts line_stride bytes further, the
 * next plane plane_stride. */
typedef struct lt_host_box {
    const void *data;
    size_t line_bytes, line_stride, plane_stride;
    int64_t n_lines, n_planes;
} lt_host_box;

/* A convolution's sizes, worked out and checked. Strides are at least 1. */
typedef struct lt_conv_dims {
    int64_t n, t, h, w, i;                         /* x */
    int64_t to, ho, wo, o;                         /* result */
    int64_t kt, kh, kw;                            /* kernel */
    int64_t st, sh, sw;                            /* strides */
    int64_t front, back, top, bottom, left, right; /* zeros around x */
} lt_conv_dims;

/* Memory that is shared between processes (share.h). */
struct lt_share {
    const struct lt_backend *backend;
    void *data; /* set by share_create and share_open, as is what else the backend keeps: */
    void *own;
    size_t bytes; /* a multiple of LT_SHARE_ALIGNMENT */
    bool is_own;  /* made here, not opened */
    int maker;    /* pidfd of the process that made it; -1: this one */
};

/* What `record` is asked for, in this order; FILL and RUN any number of times. */
typedef enum {
    LT_RECORD_BEGIN, /* what is enqueued from now on is kept, and not done; the host brings at most host_bytes */
    LT_RECORD_END, /* that is what *record does. After an error, and whatever it is, nothing is recorded any more */
    LT_RECORD_FILL, /* until RUN or FREE, what the host brings (upload, embedding, gather_rows) goes to the record, in the order of recording, and
                       nothing else is enqueued */
    LT_RECORD_RUN,  /* enqueue the record, as one thing */
    LT_RECORD_FREE  /* any time; what is enqueued may still be using it */
} lt_record_step;

/* Of a piece that the host brings, in host_bytes. */
#define LT_RECORD_ALIGNMENT ((size_t)64)

/* The operators return LT_OK, or the status of an error they have set in the context (lt_context_fail). Temporary memory
 * beside the result is taken from the context's workspace (lt_scratch) and released before they return, also when dry,
 * so that plans are exact; when dry nothing else is done. */
typedef struct lt_backend {
    uint32_t abi;      /* LT_BACKEND_ABI */
    uint32_t bytes;    /* sizeof(lt_backend) */
    const char *name;  /* "ref", "cpu", "cuda" */
    int numeric_epoch; /* raised when a kernel's results change; part of the numeric class */
    bool any_float;    /* inputs may be of any float dtype; otherwise they have the context's */
    bool host_memory;  /* the host can read and write tensors' memory, at any time */
    bool records;      /* `record` does something */
    uint32_t dtypes;   /* those of activations that open takes: bits 1 << LT_F32, ... */

    /* What device `index` is and has; opens nothing that lasts. E_NOT_FOUND: no driver, no device at all, or none of this number (the
     * sentence says which, and how many there are); E_UNSUPPORTED: a driver or device that is too old (says what is needed); E_BUSY: others
     * have it, or its memory; E_DEVICE_LOST. */
    lt_status (*probe)(int index, lt_device_info *info, lt_err *err);

    /* Open state for device `index`, computing in `dtype` on `threads` threads (0: all cores); set *device (NULL is legal)
     * and numeric_class (text, at most class_bytes) to what results depend on: backend, instruction set or GPU model,
     * library versions, epoch, dtype. E_NOT_FOUND, E_UNSUPPORTED (dtype), E_INVALID, E_NO_MEMORY. */
    lt_status (*open)(void **device, int index, lt_dtype dtype, int threads, char *numeric_class,
                      size_t class_bytes, lt_err *err);
    void (*close)(void *device); /* not NULL; what is enqueued has been waited for, or is given up */

    /* A block of `bytes` (not 0) for a workspace, aligned to 256 at least, zeroed on host_memory backends only. E_BUSY when the device
     * has that much but not free now, E_NO_MEMORY when it never has (both say how much there is), E_DEVICE_LOST. */
    lt_status (*memory_create)(void *device, size_t bytes, void **block, lt_err *err);
    void (*memory_destroy)(void *device, void *block, size_t bytes); /* block may be NULL */

    /* out = the rectangle of host memory, its lines one behind the other: as many bytes as out has. Read before it returns. Scratch
     * memory is for the backend to keep outside the workspace (pinned buffers). Not called when dry. */
    lt_status (*upload)(lt_context *c, const lt_host_box *from, lt_tensor *out);
    /* The bytes of x to `to`, which is complete when `wait` has returned; x may be dropped at once. Not called when dry. */
    lt_status (*download)(lt_context *c, const lt_tensor *x, void *to);
    /* Until all that was asked for is done. Returns the first error of any of it. Not called when dry. */
    lt_status (*wait)(lt_context *c);
    /* The bytes of x to out, of the same dtype and number of elements, that may be rows of a larger tensor. */
    lt_status (*copy)(lt_context *c, const lt_tensor *x, lt_tensor *out);
    lt_status (*zero)(lt_context *c, lt_tensor *out); /* all bytes 0 */

    /* replay.h: one step in the life of a record, whose state is *record, NULL before BEGIN and after FREE. While one is recorded, the context's
     * operators are called as ever; E_UNSUPPORTED from one says that it cannot be in a record. Not called when dry. Without
     * `records`: lt_no_record. */
    lt_status (*record)(lt_context *c, lt_record_step step, size_t host_bytes, void **record);

    /* share.h: a share of share->bytes, its handle's `memory` and `mark` filled in; and the same share opened by another process, E_TRANSIENT where
     * that does not succeed now. share_mark's and share_await's errors are the context's; nothing that waits for a mark of another process may
     * be enqueued, which a kill of that one would leave waiting for ever. share_close of one that was made here frees nothing that
     * another process may have open, where the device does not bear that. None is called when dry. A device that has no such memory
     * (lt_no_share_create ...) says so by an empty id when it is probed. */
    lt_status (*share_create)(void *device, lt_share *share, lt_share_handle *handle, lt_err *err);
    lt_status (*share_open)(void *device, lt_share *share, const lt_share_handle *handle, lt_err *err);
    void (*share_close)(lt_share *share);
    lt_status (*share_mark)(lt_context *c, lt_share *share);
    lt_status (*share_await)(lt_context *c, lt_share *share);

    lt_status (*conv)(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                      const lt_conv_dims *dims, const lt_tensor *residual, lt_tensor *y);
    lt_status (*linear)(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                        lt_activation act, const lt_tensor *residual, lt_tensor *y);
    lt_status (*group_norm)(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups,
                            double eps, lt_activation act, lt_tensor *y);
    lt_status (*attention)(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                           const lt_tensor *mask, double scale, bool causal, lt_tensor *y);
    lt_status (*upsample_nearest)(lt_context *c, const lt_tensor *x, int ft, int fh, int fw, lt_tensor *y);
    /* `dims` are those of the convolution of x upsampled: h and w are twice x's. */
    lt_status (*upsample_conv)(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                               const lt_conv_dims *dims, lt_tensor *y);
    lt_status (*add_scaled)(lt_context *c, const lt_tensor *x, const lt_tensor *y, double a, lt_tensor *out);
    lt_status (*affine)(lt_context *c, const lt_tensor *x, double a, double b, lt_activation act,
                        lt_tensor *out);
    lt_status (*slice_channels)(lt_context *c, const lt_tensor *x, int64_t start, lt_tensor *out);
    lt_status (*convert)(lt_context *c, const lt_tensor *x, lt_tensor *out);

    lt_status (*layer_norm)(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
                            const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y);
    lt_status (*rms_norm)(lt_context *c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y);
    lt_status (*add_broadcast)(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
    lt_status (*add_gated)(lt_context *c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate,
                           lt_tensor *out);
    lt_status (*multiply)(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
    lt_status (*combine)(lt_context *c, const lt_tensor *x, double a, const lt_tensor *y, double b,
                         lt_tensor *out);
    lt_status (*gated)(lt_context *c, const lt_tensor *x, lt_activation act, lt_tensor *out);
    lt_status (*concat_channels)(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
    /* Numbers of rows are checked, and lie in host memory that may change when the function has returned. NULL when dry. */
    lt_status (*embedding)(lt_context *c, lt_weight *table, const int32_t *ids, lt_tensor *out);
    lt_status (*gather_rows)(lt_context *c, const lt_tensor *x, const int32_t *rows, lt_tensor *out);
    lt_status (*unpatchify)(lt_context *c, const lt_tensor *x, int pt, int ph, int pw, lt_tensor *out);
    lt_status (*noise)(lt_context *c, uint64_t seed, uint32_t clip, uint64_t first_frame, lt_tensor *out);

    lt_status (*pixels_to_values)(lt_context *c, const lt_tensor *pixels, int bits, lt_tensor *out);
    lt_status (*values_to_pixels)(lt_context *c, const lt_tensor *x, int bits, bool truncate, lt_tensor *out);
    /* out [H,W,3]. The picture is what somebody else has asked of the device's default stream, for which the device waits. */
    lt_status (*yuv_to_rgb)(lt_context *c, const lt_yuv *picture, int bits, lt_tensor *out);

    /* sums += tile * weights, in f32, product and sum rounded apart: lt_add_tile. */
    lt_status (*add_tile)(lt_context *c, const lt_tensor *tile, const lt_tile_weights *weights, int64_t row,
                          int64_t column, lt_tensor *sums);

    /* Free weight->packed, which is not NULL, and set it to NULL; what is enqueued may still be reading it. */
    void (*release_weight)(lt_context *c, lt_weight *weight);
} lt_backend;

extern const lt_backend lt_backend_ref, lt_backend_cpu;

/* The table by name: built in, or that of a plug-in, which is loaded at the first call and stays until the process ends. NULL, with
 * err saying what was looked for where, when there is none. Any thread. */
const lt_backend *lt_backend_find(const char *name, lt_err *err);

/* For backends with host memory: their blocks, their uploads and downloads. */
lt_status lt_host_memory_create(void *device, size_t bytes, void **block, lt_err *err);
void lt_host_memory_destroy(void *device, void *block, size_t bytes);
lt_status lt_host_upload(lt_context *c, const lt_host_box *from, lt_tensor *out);
lt_status lt_host_download(lt_context *c, const lt_tensor *x, void *to);
lt_status lt_host_wait(lt_context *c);
lt_status lt_host_copy(lt_context *c, const lt_tensor *x, lt_tensor *out);
lt_status lt_host_zero(lt_context *c, lt_tensor *out);

/* For backends that do not record: E_UNSUPPORTED. */
lt_status lt_no_record(lt_context *c, lt_record_step step, size_t host_bytes, void **record);

/* For backends whose memory no other process can open. */
lt_status lt_no_share_create(void *device, lt_share *share, lt_share_handle *handle, lt_err *err);
lt_status lt_no_share_open(void *device, lt_share *share, const lt_share_handle *handle, lt_err *err);
void lt_no_share_close(lt_share *share);
lt_status lt_no_share_mark(lt_context *c, lt_share *share); /* and share_await */

/* Temporary bytes from the context's workspace, aligned to LT_WORKSPACE_ALIGNMENT; NULL with the context's error set (E_NO_MEMORY) when they
 * do not fit. */
void *lt_scratch(lt_context *context, size_t bytes);
/* Gives them back; what is enqueued may still be using them. NULL: nothing. */
void lt_scratch_release(lt_context *context, void *memory);

/* ---- plug-ins ---------------------------------------------------------------------------------------- */

/* A shared object longtake_NAME.so that exports the one function lt_backend_plugin. It is looked for in the folders of the environment
 * variable LT_BACKEND_PATH (with ':' between them), beside the program, and in ../lib and ../lib/longtake from there.
 *
 * It is linked with the library lt_plugin (kernels/plugin.c), which has what operators need of the host: lt_context_fail, lt_scratch,
 * lt_scratch_release, lt_backend_find, lt_fail and the functions on tensors and dtypes, by these names. So no state is there twice, and the
 * program need not export its symbols. plugin.c has lt_backend_plugin, too; what a plug-in defines is lt_plugin_backend. */
typedef struct lt_backend_host {
    uint32_t abi, bytes; /* LT_BACKEND_ABI, sizeof(lt_backend_host) */
    lt_status (*fail)(lt_context *c, lt_status status, const char *sentence);
    void *(*scratch)(lt_context *c, size_t bytes);
    void (*release)(lt_context *c, void *memory);
    const lt_backend *(*find)(const char *name, lt_err *err);
} lt_backend_host;

/* What a plug-in exports; defined in plugin.c. `host` stays valid. NULL with err set (E_MISMATCH) when plug-in and program are not of one build. */
typedef const lt_backend *lt_backend_plugin_fn(const lt_backend_host *host, lt_err *err);
#define LT_BACKEND_PLUGIN_SYMBOL "lt_backend_plugin"

/* The plug-in's table. */
const lt_backend *lt_plugin_backend(void);

#endif
