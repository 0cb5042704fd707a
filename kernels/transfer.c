/* transfer.c - between the host's memory and the workspace; and all of it for backends that work in the host's memory. */
#include "kernels/ops_check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- backends with host memory ------------------------------------------------------------------------ */

lt_status lt_host_memory_create(void *device, size_t bytes, void **block, lt_err *err)
{
    *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*block == MAP_FAILED) {
        *block = NULL;
        return lt_fail(err, LT_E_NO_MEMORY, "cannot reserve a workspace of %.1f MiB",
                       (double)bytes / (1 << 20));
    }
    /* Activations are touched front to back in large pieces: huge pages save most TLB misses. */
    madvise(*block, bytes, MADV_HUGEPAGE);
    return LT_OK;
}

void lt_host_memory_destroy(void *device, void *block, size_t bytes)
{
    if (block) munmap(block, bytes);
}

lt_status lt_host_upload(lt_context *c, const lt_host_box *from, lt_tensor *out)
{
    char *to = out->data;
    for (int64_t i = 0; i < from->n_planes; i++) {
        const char *plane = (const char *)from->data + (size_t)i * from->plane_stride;
        for (int64_t j = 0; j < from->n_lines; j++, to += from->line_bytes)
            memcpy(to, plane + (size_t)j * from->line_stride, from->line_bytes);
    }
    return LT_OK;
}

lt_status lt_host_download(lt_context *c, const lt_tensor *x, void *to)
{
    memcpy(to, x->data, lt_tensor_bytes(x));
    return LT_OK;
}

lt_status lt_host_wait(lt_context *c)
{
    return LT_OK;
}

lt_status lt_host_copy(lt_context *c, const lt_tensor *x, lt_tensor *out)
{
    if (!c->dry) memcpy(out->data, x->data, lt_tensor_bytes(x));
    return LT_OK;
}

lt_status lt_host_zero(lt_context *c, lt_tensor *out)
{
    if (!c->dry) memset(out->data, 0, lt_tensor_bytes(out));
    return LT_OK;
}

lt_status lt_no_record(lt_context *c, lt_record_step step, size_t host_bytes, void **record)
{
    return lt_context_fail(c, LT_E_UNSUPPORTED, "%s does not record", c->backend->name);
}

/* ---- up ------------------------------------------------------------------------------------------------ */

static bool host_ready(lt_context *c, const char *op, const lt_tensor *host)
{
    if (c->err.status != LT_OK) return false;
    if (host->data || c->dry || lt_n_elements(host) == 0) return true;
    lt_context_fail(c, LT_E_INVALID, "%s: no input", op);
    return false;
}

static lt_tensor upload_box(lt_context *c, const lt_host_box *box, lt_tensor out)
{
    bool wanted = out.data && !c->dry && lt_n_elements(&out) > 0;
    lt_status status = wanted ? c->backend->upload(c, box, &out) : LT_OK;
    return out.data ? op_done(c, status, 0, out) : LT_NONE;
}

static lt_tensor upload_as_is(lt_context *c, const lt_tensor *host)
{
    size_t bytes = lt_tensor_bytes(host);
    lt_host_box box = {host->data, bytes, bytes, bytes, 1, 1};
    return upload_box(c, &box, lt_new(c, host->dtype, host->rank, host->shape));
}

lt_tensor lt_upload(lt_context *c, lt_tensor host, lt_dtype dtype)
{
    if (!host_ready(c, "upload", &host)) return LT_NONE;
    if (dtype == host.dtype) return upload_as_is(c, &host);
    if (!c->backend->host_memory) {
        lt_tensor raw = upload_as_is(c, &host), out = raw.data ? lt_convert(c, raw, dtype) : LT_NONE;
        lt_drop(c, &raw);
        return out;
    }
    lt_tensor out = lt_new(c, dtype, host.rank, host.shape);
    bool wanted = out.data && !c->dry && lt_n_elements(&out) > 0;
    return out.data ? op_done(c, wanted ? c->backend->convert(c, &host, &out) : LT_OK, 0, out) : LT_NONE;
}

lt_tensor lt_upload_part(lt_context *c, lt_tensor host, int64_t first, int64_t n, int64_t y, int64_t h,
                         int64_t x, int64_t w)
{
    if (!host_ready(c, "upload", &host)) return LT_NONE;
    const int64_t *s = host.shape;
    bool there = host.rank == 4 && first >= 0 && n >= 0 && y >= 0 && h >= 0 && x >= 0 && w >= 0 &&
                 first <= s[0] - n && y <= s[1] - h && x <= s[2] - w;
    if (!there) {
        lt_context_fail(
            c, LT_E_INVALID,
            "upload: %s has no images %lld to %lld with rows %lld to %lld and columns %lld to %lld",
            op_say(&host).s, (long long)first, (long long)(first + n - 1), (long long)y,
            (long long)(y + h - 1), (long long)x, (long long)(x + w - 1));
        return LT_NONE;
    }
    size_t cell = (size_t)s[3] * lt_dtype_bytes(host.dtype), line = cell * (size_t)s[2];
    size_t start = (size_t)((first * s[1] + y) * s[2] + x) * cell;
    lt_host_box box = {.data = host.data ? (const char *)host.data + start : NULL,
                       .line_bytes = cell * (size_t)w,
                       .line_stride = line,
                       .plane_stride = line * (size_t)s[1],
                       .n_lines = h,
                       .n_planes = n};
    return upload_box(c, &box, lt_new(c, host.dtype, 4, (int64_t[]){n, h, w, s[3]}));
}

/* Host memory of the context, at least this large. */
static void *staging(lt_context *c, size_t bytes)
{
    c->staging_peak = LT_MAX(c->staging_peak, bytes);
    if (c->dry) return NULL;
    if (bytes <= c->staging_bytes) return c->staging;
    void *grown = aligned_alloc(64, lt_round_up(bytes, 64));
    if (!grown) {
        lt_context_fail(c, LT_E_NO_MEMORY, "out of memory for %.1f MiB on their way to the device",
                        (double)bytes / (1 << 20));
        return NULL;
    }
    free(c->staging);
    c->staging = grown;
    c->staging_bytes = bytes;
    return grown;
}

void *lt_begin_upload(lt_context *c, lt_tensor tensor)
{
    if (c->err.status != LT_OK || !tensor.data) return NULL;
    if (!c->backend->host_memory) return staging(c, LT_MAX(lt_tensor_bytes(&tensor), (size_t)1));
    return c->dry ? NULL : tensor.data;
}

void lt_end_upload(lt_context *c, lt_tensor tensor)
{
    if (c->err.status != LT_OK || !tensor.data || c->dry || c->backend->host_memory) return;
    size_t bytes = lt_tensor_bytes(&tensor);
    lt_host_box box = {c->staging, bytes, bytes, bytes, 1, 1};
    lt_status status = bytes ? c->backend->upload(c, &box, &tensor) : LT_OK;
    if (status != LT_OK) lt_context_fail(c, status, "%s", lt_status_string(status));
}

/* ---- down ---------------------------------------------------------------------------------------------- */

void lt_download(lt_context *c, lt_tensor x, lt_dtype dtype, void *host)
{
    if (c->err.status != LT_OK || !x.data || lt_n_elements(&x) == 0) return;
    lt_status status = LT_OK;
    if (x.dtype == dtype) {
        if (!c->dry) status = c->backend->download(c, &x, host);
    } else if (c->backend->host_memory) {
        lt_tensor to = x;
        to.data = host;
        to.dtype = dtype;
        if (!c->dry) status = c->backend->convert(c, &x, &to);
    } else {
        lt_tensor converted = lt_convert(c, x, dtype);
        if (converted.data && !c->dry) status = c->backend->download(c, &converted, host);
        lt_drop(c, &converted);
    }
    if (status != LT_OK) lt_context_fail(c, status, "%s", lt_status_string(status));
}

lt_tensor lt_place(lt_context *c, lt_dtype dtype, int rank, const int64_t *shape, void *host)
{
    if (!c->backend->host_memory) return lt_new(c, dtype, rank, shape);
    if (c->err.status != LT_OK) return LT_NONE;
    /* When dry any address will do: nothing is read or written there. */
    lt_tensor t = {.data = c->dry ? c : host, .dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
    return t;
}

void lt_deliver(lt_context *c, lt_tensor *tensor, void *host)
{
    if (tensor->data && !c->backend->host_memory) {
        lt_download(c, *tensor, tensor->dtype, host);
        lt_drop(c, tensor);
    }
    *tensor = LT_NONE;
}

lt_status lt_wait(lt_context *c)
{
    if (c->dry) return c->err.status;
    lt_status status = c->backend->wait(c);
    if (status != LT_OK) lt_context_fail(c, status, "%s", lt_status_string(status));
    return c->err.status;
}
