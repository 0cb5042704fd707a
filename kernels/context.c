/* context.c - contexts, tensors in their workspace, views, weights. */
#include "kernels/device.h"
#include "kernels/replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A block and the workspace over it; none when dry. */
static lt_status create_workspace(lt_context *c, size_t bytes, lt_err *err)
{
    if (bytes > SIZE_MAX / 2)
        return lt_fail(err, LT_E_NO_MEMORY, "cannot reserve a workspace of %.1f MiB",
                       (double)bytes / (1 << 20));
    bytes = lt_round_up(bytes, LT_WORKSPACE_ALIGNMENT);
    lt_status status = bytes ? c->backend->memory_create(c->device, bytes, &c->block, err) : LT_OK;
    if (status != LT_OK) return status;
    c->block_bytes = bytes;
    return lt_workspace_create(&c->workspace, c->block, bytes, err);
}

static void destroy_workspace(lt_context *c)
{
    lt_replay_forget(c);
    lt_workspace_destroy(c->workspace);
    c->workspace = NULL;
    if (c->block) c->backend->memory_destroy(c->device, c->block, c->block_bytes);
    c->block = NULL;
    c->block_bytes = 0;
}

lt_status lt_context_create(lt_context **context, const char *device, lt_dtype dtype, size_t workspace_bytes,
                            int threads, lt_err *err)
{
    lt_status status;
    *context = NULL;
    lt_context *c = calloc(1, sizeof(*c));
    if (!c) return lt_fail(err, LT_E_NO_MEMORY, "cannot create a context: out of memory");
    int index;
    char chosen[64];
    lt_device_choose(device, chosen, sizeof(chosen), NULL);
    LT_TRY(lt_device_find(chosen, &c->backend, &index, err));
    if (!lt_dtype_is_float(dtype)) {
        status =
            lt_fail(err, LT_E_INVALID, "activations cannot be %s: use f32 or bf16", lt_dtype_name(dtype));
        goto fail;
    }
    LT_TRY(lt_device_takes(chosen, dtype, err));
    c->dtype = dtype;
    c->dry = workspace_bytes == 0;
    LT_TRY(
        c->backend->open(&c->device, index, dtype, threads, c->numeric_class, sizeof(c->numeric_class), err));
    c->is_open = true;
    LT_TRY(create_workspace(c, workspace_bytes, err));
    *context = c;
    return LT_OK;
fail:
    lt_context_destroy(c);
    return status;
}

void lt_context_destroy(lt_context *c)
{
    if (!c) return;
    if (c->is_open) {
        if (!c->dry) c->backend->wait(c);
        destroy_workspace(c);
        c->backend->close(c->device);
    }
    free(c->staging);
    free(c);
}

lt_status lt_context_resize(lt_context *c, size_t workspace_bytes, lt_err *err)
{
    lt_status status = lt_wait(c);
    if (status != LT_OK) return lt_context_status(c, err);
    destroy_workspace(c);
    return create_workspace(c, LT_MAX(workspace_bytes, (size_t)1), err);
}

lt_status lt_context_status(lt_context *c, lt_err *err)
{
    lt_status status = lt_wait(c);
    if (status != LT_OK && err) *err = c->err;
    c->err.status = LT_OK;
    c->err.text[0] = 0;
    return status;
}

lt_status lt_context_fail(lt_context *c, lt_status status, const char *format, ...)
{
    if (c->err.status != LT_OK) return c->err.status;
    va_list arguments;
    va_start(arguments, format);
    c->err.status = status;
    vsnprintf(c->err.text, sizeof(c->err.text), format, arguments);
    va_end(arguments);
    return status;
}

void *lt_scratch(lt_context *c, size_t bytes)
{
    void *memory = lt_workspace_alloc(c->workspace, bytes);
    if (!memory) {
        lt_context_fail(
            c, LT_E_NO_MEMORY,
            "the workspace is full: %.1f MiB asked for with %.1f MiB in use; give it more memory or "
            "use smaller tiles",
            (double)bytes / (1 << 20), (double)lt_workspace_in_use(c->workspace) / (1 << 20));
    }
    return memory;
}

void lt_scratch_release(lt_context *c, void *memory)
{
    if (memory) lt_workspace_release(c->workspace, memory);
}

lt_tensor lt_new(lt_context *c, lt_dtype dtype, int rank, const int64_t *shape)
{
    if (c->err.status != LT_OK) return LT_NONE;
    int64_t n;
    size_t bytes;
    if (rank < 0 || rank > LT_MAX_RANK) {
        lt_context_fail(c, LT_E_INVALID, "a tensor of rank %d: at most %d are supported", rank, LT_MAX_RANK);
        return LT_NONE;
    }
    if (!lt_product_i64(shape, rank, &n) || !lt_mul_size((size_t)n, lt_dtype_bytes(dtype), &bytes)) {
        lt_context_fail(c, LT_E_INVALID, "a tensor's shape is negative or too large");
        return LT_NONE;
    }
    lt_tensor t = {.dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
    t.data = lt_scratch(c, bytes);
    return t.data ? t : LT_NONE;
}

void lt_drop(lt_context *c, lt_tensor *tensor)
{
    lt_scratch_release(c, tensor->data);
    *tensor = LT_NONE;
}

lt_tensor lt_view(lt_context *c, lt_tensor tensor, int rank, const int64_t *shape)
{
    if (c->err.status != LT_OK || !tensor.data) return LT_NONE;
    int64_t n = -1;
    char text[128];
    if (rank < 0 || rank > LT_MAX_RANK || !lt_product_i64(shape, rank, &n) || n != lt_n_elements(&tensor)) {
        lt_context_fail(c, LT_E_INVALID, "view: %s cannot be seen as a tensor of rank %d with %lld elements",
                        lt_tensor_describe(&tensor, text, sizeof(text)), rank, (long long)n);
        return LT_NONE;
    }
    lt_tensor view = {.data = tensor.data, .dtype = tensor.dtype, .rank = rank, .id = tensor.id};
    for (int i = 0; i < rank; i++) view.shape[i] = shape[i];
    return view;
}

lt_tensor lt_rows(lt_context *c, lt_tensor tensor, int64_t first, int64_t count)
{
    if (c->err.status != LT_OK || !tensor.data) return LT_NONE;
    char text[128];
    if (tensor.rank < 1 || first < 0 || count < 0 || first > tensor.shape[0] - count) {
        lt_context_fail(c, LT_E_INVALID, "rows: %s has no %lld rows from %lld on",
                        lt_tensor_describe(&tensor, text, sizeof(text)), (long long)count, (long long)first);
        return LT_NONE;
    }
    size_t row_bytes = tensor.shape[0] ? lt_tensor_bytes(&tensor) / (size_t)tensor.shape[0] : 0;
    tensor.data = (void *)((uintptr_t)tensor.data + (size_t)first * row_bytes);
    tensor.shape[0] = count;
    return tensor;
}

static _Atomic uint64_t n_weight_changes;

uint64_t lt_weight_changes(void)
{
    return n_weight_changes;
}

void lt_weight_finish(lt_context *c, lt_weight *weight)
{
    if (weight->packed && c) {
        n_weight_changes++;
        c->packed_bytes -= LT_MIN(c->packed_bytes, weight->packed_bytes);
        c->backend->release_weight(c, weight);
    }
    weight->packed = NULL;
    weight->packed_bytes = 0;
    weight->planned = 0;
}
