/* share.c - device memory and an event that other processes open, by CUDA's interprocess handles. */
#include "kernels/cuda/cuda.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

_Static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(((lt_share_handle *)0)->memory), "a handle's size");
_Static_assert(sizeof(cudaIpcEventHandle_t) == sizeof(((lt_share_handle *)0)->mark), "a handle's size");

enum { SHORTEST_NS = 20000, LONGEST_NS = 1000000 }; /* from one look at a mark to the next */

typedef struct cuda_share {
    int index;
    cudaEvent_t mark;
    bool is_given; /* made here, and others may have it open */
} cuda_share;

void cuda_share_id(int index, const struct cudaDeviceProp *p, char *id, size_t id_bytes)
{
    int able = 0;
    const unsigned char *u = (const unsigned char *)p->uuid.bytes;
    *id = 0;
    if (cudaDeviceGetAttribute(&able, cudaDevAttrIpcEventSupport, index) != cudaSuccess) cudaGetLastError();
    if (!able) return;
    snprintf(id, id_bytes, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0],
             u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

static lt_status begin(const cuda_device *d, lt_share *share, lt_err *err)
{
    cuda_share *own = calloc(1, sizeof(*own));
    if (!own) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    own->index = d->index;
    share->own = own;
    return LT_OK;
}

static void give_back(const lt_share *share)
{
    const cuda_share *own = share->own;
    cudaSetDevice(own->index);
    if (own->mark) cudaEventDestroy(own->mark);
    if (share->data && share->is_own) cudaFree(share->data);
    if (share->data && !share->is_own) cudaIpcCloseMemHandle(share->data);
    cudaGetLastError(); /* nobody is told */
}

/* What others may have open is left until this process ends, and is the driver's then. To free memory, and to destroy an event, that another
 * process has open is undefined behaviour (cuda_runtime_api.h, at cudaIpcOpenMemHandle and cudaIpcOpenEventHandle), and nobody says when it
 * has closed them: that a slot is free says only that it is not being read. Of a process that ends CUDA's documentation says nothing. NVIDIA's
 * open kernel module counts who has a piece of memory and frees it after the last one (mem.c, memCopyConstruct), as it has to where any
 * process may be killed. To wait for the others instead would need a way to be told, and a limit, behind which the same would happen. */
void share_close_cuda(lt_share *share)
{
    cuda_share *own = share->own;
    if (!own->is_given) give_back(share);
    free(own);
    share->own = share->data = NULL;
}

lt_status share_create_cuda(void *device, lt_share *share, lt_share_handle *handle, lt_err *err)
{
    const cuda_device *d = device;
    lt_status status = begin(d, share, err);
    if (status != LT_OK) return status;
    cuda_share *own = share->own;
    status = memory_create_cuda(device, share->bytes, &share->data, err);
    if (status != LT_OK) goto fail;
    cudaError_t e = cudaEventCreateWithFlags(&own->mark, cudaEventDisableTiming | cudaEventInterprocess);
    if (e == cudaSuccess) e = cudaIpcGetMemHandle((cudaIpcMemHandle_t *)handle->memory, share->data);
    if (e == cudaSuccess) e = cudaIpcGetEventHandle((cudaIpcEventHandle_t *)handle->mark, own->mark);
    own->is_given = e == cudaSuccess;
    if (own->is_given) return LT_OK;
    cudaGetLastError();
    status = lt_fail(err, cuda_status_of(e), "cuda:%d does not share memory with other processes: %s",
                     d->index, cudaGetErrorString(e));
fail:
    share_close_cuda(share);
    return status;
}

lt_status share_open_cuda(void *device, lt_share *share, const lt_share_handle *handle, lt_err *err)
{
    const cuda_device *d = device;
    cudaIpcMemHandle_t memory;
    cudaIpcEventHandle_t mark;
    memcpy(&memory, handle->memory, sizeof(memory));
    memcpy(&mark, handle->mark, sizeof(mark));
    lt_status status = begin(d, share, err);
    if (status != LT_OK) return status;
    cuda_share *own = share->own;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess) e = cudaIpcOpenMemHandle(&share->data, memory, cudaIpcMemLazyEnablePeerAccess);
    if (e == cudaSuccess) e = cudaIpcOpenEventHandle(&own->mark, mark);
    if (e == cudaSuccess) return LT_OK;
    cudaGetLastError();
    status = cuda_status_of(e);
    /* A handle of a process that has ended is no handle any more: which error that is depends on the driver. */
    if (status != LT_E_DEVICE_LOST && status != LT_E_NO_MEMORY) status = LT_E_TRANSIENT;
    status = lt_fail(err, status, "cuda:%d: memory of process %d cannot be opened: %s", d->index,
                     (int)handle->pid, cudaGetErrorString(e));
    share_close_cuda(share);
    return status;
}

lt_status share_mark_cuda(lt_context *c, lt_share *share)
{
    const cuda_share *own = share->own;
    return cuda_check(c, "share", cudaEventRecord(own->mark, cuda_of(c)->compute));
}

/* Has that process ended, or does it within so long? */
static bool ends(int pidfd, long nanoseconds)
{
    struct pollfd process = {.fd = pidfd, .events = POLLIN}; /* readable once it has */
    return ppoll(&process, 1, &(struct timespec){0, nanoseconds}, NULL) > 0;
}

/* The host waits, and nothing on the device: a stream that waited for the event of a process that was killed before its device got there
 * would wait for ever, and whoever synchronises it, too. It sleeps between two looks, 20 us at first and twice as long each time up to 1 ms,
 * and is woken when that process ends; so it comes that much too late at the most, and meanwhile the context is asked for nothing
 * new, while the device goes on with what it was asked for before. A writer that has waited for its own work before it told anybody costs
 * two calls, some microseconds, and no sleep. */
lt_status share_await_cuda(lt_context *c, lt_share *share)
{
    const cuda_share *own = share->own;
    long pause = 0;
    cuda_of(c); /* makes the device current */
    for (;;) {
        if (ends(share->maker, pause))
            return lt_context_fail(c, LT_E_TRANSIENT,
                                   "the process whose device memory was to be read has ended");
        cudaError_t e = cudaEventQuery(own->mark);
        if (e == cudaSuccess) return LT_OK;
        cudaGetLastError(); /* not to be ready is no error */
        if (e != cudaErrorNotReady && !ends(share->maker, 0)) return cuda_check(c, "share", e);
        pause = LT_MIN(LT_MAX(2 * pause, (long)SHORTEST_NS), (long)LONGEST_NS);
    }
}
