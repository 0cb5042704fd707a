/* share.c - device memory between processes: what is the same for every backend. */
#include "kernels/backend.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static lt_share *new_share(const lt_context *c, size_t bytes, lt_err *err)
{
    lt_share *s = calloc(1, sizeof(*s));
    if (!s) {
        lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        return NULL;
    }
    *s = (lt_share){.backend = c->backend,
                    .bytes = lt_round_up(LT_MAX(bytes, (size_t)1), LT_SHARE_ALIGNMENT),
                    .maker = -1};
    return s;
}

lt_status lt_share_create(lt_share **share, lt_context *c, size_t bytes, lt_share_handle *handle, lt_err *err)
{
    *share = NULL;
    *handle = (lt_share_handle){.pid = (int32_t)getpid()};
    lt_share *s = new_share(c, bytes, err);
    if (!s) return LT_E_NO_MEMORY;
    s->is_own = true;
    handle->bytes = s->bytes;
    lt_status status = c->backend->share_create(c->device, s, handle, err);
    if (status == LT_OK)
        *share = s;
    else
        free(s);
    return status;
}

/* That the share can be opened afterwards shows that this was its maker, and not another process of that number. */
static int watch(int32_t pid)
{
    return pid > 0 ? (int)syscall(SYS_pidfd_open, (pid_t)pid, 0) : -1;
}

lt_status lt_share_open(lt_share **share, lt_context *c, const lt_share_handle *handle, lt_err *err)
{
    *share = NULL;
    lt_share *s = new_share(c, handle->bytes, err);
    if (!s) return LT_E_NO_MEMORY;
    s->maker = watch(handle->pid);
    lt_status status =
        s->maker >= 0
            ? c->backend->share_open(c->device, s, handle, err)
            : lt_fail(err, LT_E_TRANSIENT, "the process %d, whose device memory was to be read, has ended",
                      (int)handle->pid);
    if (status == LT_OK) {
        *share = s;
        return LT_OK;
    }
    if (s->maker >= 0) close(s->maker);
    free(s);
    return status;
}

void lt_share_destroy(lt_share *s)
{
    if (!s) return;
    s->backend->share_close(s);
    if (s->maker >= 0) close(s->maker);
    free(s);
}

lt_tensor lt_share_tensor(lt_context *c, const lt_share *s, size_t offset, lt_dtype dtype, int rank,
                          const int64_t *shape)
{
    if (c->err.status != LT_OK) return LT_NONE;
    int64_t n = 0;
    size_t bytes = 0;
    bool fits = rank >= 0 && rank <= LT_MAX_RANK && offset % 64 == 0 && offset <= s->bytes &&
                lt_product_i64(shape, rank, &n) && lt_mul_size((size_t)n, lt_dtype_bytes(dtype), &bytes) &&
                bytes <= s->bytes - offset;
    if (!fits) {
        lt_context_fail(c, LT_E_INVALID,
                        "a tensor at byte %zu does not fit into %zu bytes of shared device memory", offset,
                        s->bytes);
        return LT_NONE;
    }
    lt_tensor t = {.data = (char *)s->data + offset, .dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
    return t;
}

void lt_share_mark(lt_context *c, lt_share *s)
{
    if (c->err.status != LT_OK || c->dry) return;
    lt_status status = c->backend->share_mark(c, s);
    if (status != LT_OK) lt_context_fail(c, status, "%s", lt_status_string(status));
}

void lt_share_await(lt_context *c, lt_share *s)
{
    if (c->err.status != LT_OK || c->dry) return;
    lt_status status = c->backend->share_await(c, s);
    if (status != LT_OK) lt_context_fail(c, status, "%s", lt_status_string(status));
}

lt_status lt_share_check(const lt_share *s, lt_err *err)
{
    struct pollfd ended = {.fd = s->maker, .events = POLLIN}; /* readable once the process has ended */
    if (s->is_own || poll(&ended, 1, 0) == 0) return LT_OK;
    return lt_fail(err, LT_E_TRANSIENT, "the process whose device memory was read has ended meanwhile");
}

/* ---- backends that have none ------------------------------------------------------------------------- */

lt_status lt_no_share_create(void *device, lt_share *share, lt_share_handle *handle, lt_err *err)
{
    return lt_fail(err, LT_E_UNSUPPORTED, "%s has no device memory to share", share->backend->name);
}

lt_status lt_no_share_open(void *device, lt_share *share, const lt_share_handle *handle, lt_err *err)
{
    return lt_fail(err, LT_E_UNSUPPORTED, "%s has no device memory to share", share->backend->name);
}

void lt_no_share_close(lt_share *share) {}

lt_status lt_no_share_mark(lt_context *c, lt_share *share)
{
    return lt_context_fail(c, LT_E_UNSUPPORTED, "%s has no device memory to share", share->backend->name);
}
