/* memory.c - the workspace's block, and data between the host and the device.
 *
 * Transfers go in pieces through rings of pinned memory. An upload's piece is copied into a slot by the host, crosses on the stream `up`
 * to device memory of the slot's own, and from there on `compute` to its place: so it crosses while `compute` is busy with
 * what was asked for before, although the place may be memory that this is still using. A download goes the same way back; the
 * host gets the bytes when it waits, or when the slot is wanted for another piece. */
#include "kernels/cuda/cuda.h"

#include <string.h>

/* Device memory for `what`, beside `own` bytes that the context has: E_BUSY when others have what is missing, E_NO_MEMORY when
 * the device has less in all, E_DEVICE_LOST. */
static lt_status allocate(cuda_device *d, const char *what, size_t bytes, size_t own, void **memory,
                          lt_err *err)
{
    *memory = NULL;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess) e = cudaMalloc(memory, bytes);
    if (e == cudaSuccess) return LT_OK;
    *memory = NULL;
    cudaGetLastError();
    size_t free_bytes = 0, total = 0;
    if (e == cudaErrorMemoryAllocation && cudaMemGetInfo(&free_bytes, &total) == cudaSuccess) {
        bool never = own > total || bytes > total - own;
        return lt_fail(
            err, never ? LT_E_NO_MEMORY : LT_E_BUSY,
            "%s of %.1f MiB on cuda:%d, whose memory is %.1f MiB, %.1f of them free: use smaller tiles%s",
            what, (double)bytes / (1 << 20), d->index, (double)total / (1 << 20),
            (double)free_bytes / (1 << 20), never ? "" : ", or wait until others are done with it");
    }
    cudaGetLastError();
    lt_status status = cuda_status_of(e);
    d->lost = d->lost || status == LT_E_DEVICE_LOST;
    return lt_fail(err, status, "%s of %.1f MiB on cuda:%d: %s%s", what, (double)bytes / (1 << 20), d->index,
                   status == LT_E_DEVICE_LOST ? "the device was lost: " : "", cudaGetErrorString(e));
}

lt_status memory_create_cuda(void *device, size_t bytes, void **block, lt_err *err)
{
    return allocate(device, "a workspace", bytes, 0, block, err);
}

void *cuda_allocate(lt_context *c, const char *what, size_t bytes)
{
    void *memory;
    lt_err err;
    lt_status status = allocate(cuda_of(c), what, bytes, c->block_bytes + c->packed_bytes, &memory, &err);
    if (status != LT_OK) lt_context_fail(c, status, "%s", err.text);
    return memory;
}

void memory_destroy_cuda(void *device, void *block, size_t bytes)
{
    const cuda_device *d = device;
    if (!block) return;
    cudaSetDevice(d->index);
    cudaStreamSynchronize(d->compute);
    cudaFree(block);
    cudaGetLastError(); /* nobody is told */
}

/* ---- rings ------------------------------------------------------------------------------------------- */

void cuda_ring_destroy(cuda_ring *ring)
{
    for (int i = 0; i < CUDA_SLOTS; i++) {
        if (ring->slots[i].done) cudaEventDestroy(ring->slots[i].done);
    }
    if (ring->device) cudaFree(ring->device);
    if (ring->host) cudaFreeHost(ring->host);
    cudaGetLastError(); /* nobody is told */
    memset(ring, 0, sizeof(*ring));
}

static lt_status open_ring(lt_context *c, const char *op, cuda_ring *ring)
{
    if (ring->host) return LT_OK;
    const size_t all = (size_t)CUDA_SLOTS * CUDA_SLOT_BYTES;
    cudaError_t e = cudaHostAlloc((void **)&ring->host, all, cudaHostAllocDefault);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        ring->host = NULL;
        return lt_context_fail(c, LT_E_NO_MEMORY,
                               "%s: of the host's memory %.1f MiB cannot be pinned for transfers to cuda:%d",
                               op, (double)all / (1 << 20), cuda_of(c)->index);
    }
    if (e == cudaSuccess) ring->device = cuda_allocate(c, "staging memory", all);
    for (int i = 0; i < CUDA_SLOTS && e == cudaSuccess && ring->device; i++)
        e = cudaEventCreateWithFlags(&ring->slots[i].done, cudaEventDisableTiming | cudaEventBlockingSync);
    if (e != cudaSuccess || !ring->device) {
        cuda_ring_destroy(ring);
        return e == cudaSuccess ? c->err.status : cuda_check(c, op, e);
    }
    for (int i = 0; i < CUDA_SLOTS; i++) {
        ring->slots[i].host = ring->host + (size_t)i * CUDA_SLOT_BYTES;
        ring->slots[i].device = ring->device + (size_t)i * CUDA_SLOT_BYTES;
    }
    return LT_OK;
}

/* The next slot, once its last transfer is done, and the host has what it brought. */
static cuda_slot *take_slot(lt_context *c, const char *op, cuda_ring *ring)
{
    if (open_ring(c, op, ring) != LT_OK) return NULL;
    cuda_slot *slot = &ring->slots[ring->next];
    if (cuda_check(c, op, cudaEventSynchronize(slot->done)) != LT_OK) return NULL;
    if (slot->to) memcpy(slot->to, slot->host, slot->bytes);
    slot->to = NULL;
    ring->next = (ring->next + 1) % CUDA_SLOTS;
    return slot;
}

/* ---- uploads ----------------------------------------------------------------------------------------- */

cuda_slot *cuda_stage(lt_context *c, const char *op, size_t bytes)
{
    cuda_device *d = cuda_of(c);
    return d->record ? cuda_record_stage(c, op, bytes) : take_slot(c, op, &d->uploads);
}

lt_status cuda_send(lt_context *c, const char *op, cuda_slot *slot, void *to, size_t bytes, bool fresh)
{
    cuda_device *d = c->device;
    if (d->record) return cuda_record_send(c, op, slot, to, bytes);
    void *landing = fresh ? to : slot->device;
    cudaError_t e = cudaMemcpyAsync(landing, slot->host, bytes, cudaMemcpyHostToDevice, d->up);
    if (e == cudaSuccess) e = cudaEventRecord(fresh ? slot->done : d->arrived, d->up);
    if (e == cudaSuccess) e = cudaStreamWaitEvent(d->compute, fresh ? slot->done : d->arrived, 0);
    if (e == cudaSuccess && !fresh) {
        e = cudaMemcpyAsync(to, slot->device, bytes, cudaMemcpyDeviceToDevice, d->compute);
        if (e == cudaSuccess) e = cudaEventRecord(slot->done, d->compute);
    }
    return cuda_check(c, op, e);
}

/* Bytes first .. first + n - 1 of the box, as its lines lie one behind the other. */
static void gather(char *to, const lt_host_box *from, size_t first, size_t n)
{
    while (n) {
        size_t line = first / from->line_bytes, at = first % from->line_bytes;
        size_t plane = line / (size_t)from->n_lines, run = LT_MIN(n, from->line_bytes - at);
        line %= (size_t)from->n_lines;
        bool whole = from->line_stride == from->line_bytes &&
                     (from->n_planes == 1 || from->plane_stride == from->line_stride * (size_t)from->n_lines);
        if (whole) run = n; /* no gaps: one run */
        memcpy(to, (const char *)from->data + plane * from->plane_stride + line * from->line_stride + at,
               run);
        to += run;
        first += run;
        n -= run;
    }
}

lt_status upload_cuda(lt_context *c, const lt_host_box *from, lt_tensor *out)
{
    size_t all = from->line_bytes * (size_t)from->n_lines * (size_t)from->n_planes;
    for (size_t at = 0; at < all; at += CUDA_SLOT_BYTES) {
        size_t n = LT_MIN(all - at, (size_t)CUDA_SLOT_BYTES);
        cuda_slot *slot = cuda_stage(c, "upload", n);
        if (!slot) return c->err.status;
        gather(slot->host, from, at, n);
        lt_status status = cuda_send(c, "upload", slot, (char *)out->data + at, n, false);
        if (status != LT_OK) return status;
    }
    return LT_OK;
}

/* ---- downloads --------------------------------------------------------------------------------------- */

static cudaError_t send_back(cuda_device *d, cuda_slot *slot, const void *from, size_t bytes)
{
    cudaError_t e = cudaMemcpyAsync(slot->device, from, bytes, cudaMemcpyDeviceToDevice, d->compute);
    if (e == cudaSuccess) e = cudaEventRecord(d->computed, d->compute);
    if (e == cudaSuccess) e = cudaStreamWaitEvent(d->down, d->computed, 0);
    if (e == cudaSuccess)
        e = cudaMemcpyAsync(slot->host, slot->device, bytes, cudaMemcpyDeviceToHost, d->down);
    if (e == cudaSuccess) e = cudaEventRecord(slot->done, d->down);
    return e;
}

lt_status download_cuda(lt_context *c, const lt_tensor *x, void *to)
{
    cuda_device *d = cuda_of(c);
    size_t all = lt_tensor_bytes(x);
    for (size_t at = 0; at < all; at += CUDA_SLOT_BYTES) {
        cuda_slot *slot = take_slot(c, "download", &d->downloads);
        if (!slot) return c->err.status;
        size_t n = LT_MIN(all - at, (size_t)CUDA_SLOT_BYTES);
        lt_status status = cuda_check(c, "download", send_back(d, slot, (const char *)x->data + at, n));
        if (status != LT_OK) return status;
        slot->to = (char *)to + at;
        slot->bytes = n;
    }
    return LT_OK;
}

lt_status wait_cuda(lt_context *c)
{
    cuda_device *d = cuda_of(c);
    lt_status status = cuda_check(c, "wait", cudaStreamSynchronize(d->compute));
    if (status == LT_OK) status = cuda_check(c, "wait", cudaStreamSynchronize(d->down));
    for (int i = 0; i < CUDA_SLOTS; i++) {
        cuda_slot *slot = &d->downloads.slots[i];
        if (status == LT_OK && slot->to) memcpy(slot->to, slot->host, slot->bytes);
        slot->to = NULL; /* after an error what the host gets is nothing */
    }
    return status;
}

/* ---- within the device ------------------------------------------------------------------------------- */

lt_status copy_cuda(lt_context *c, const lt_tensor *x, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    cuda_device *d = cuda_of(c);
    return cuda_check(
        c, "copy",
        cudaMemcpyAsync(out->data, x->data, lt_tensor_bytes(x), cudaMemcpyDeviceToDevice, d->compute));
}

lt_status zero_cuda(lt_context *c, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    cuda_device *d = cuda_of(c);
    return cuda_check(c, "zero", cudaMemsetAsync(out->data, 0, lt_tensor_bytes(out), d->compute));
}
