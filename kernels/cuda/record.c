/* record.c - evaluations as CUDA graphs.
 *
 * What the compute stream is given between BEGIN and END is captured. Capturing allows no allocation and no waiting, so all weights and
 * plans are there before, and what the host brings has pinned memory of the graph's own, from which a node of the graph copies it. Before
 * the host fills that memory again, the run that reads it has ended. */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>

struct cuda_record {
    cudaGraphExec_t graph;
    cudaEvent_t done; /* the last run */
    cuda_slot slot;   /* the piece that is being filled */
    char *host;       /* of all pieces; NULL when there are none */
    size_t host_bytes, next;
    bool filling;
};

static void destroy(cuda_record *r)
{
    if (!r) return;
    if (r->done) cudaEventSynchronize(r->done);
    if (r->graph) cudaGraphExecDestroy(r->graph);
    if (r->done) cudaEventDestroy(r->done);
    if (r->host) cudaFreeHost(r->host);
    cudaGetLastError(); /* of a device that was lost */
    free(r);
}

static lt_status begin(lt_context *c, size_t host_bytes, void **record)
{
    cuda_device *d = cuda_of(c);
    cuda_record *r = calloc(1, sizeof(*r));
    if (!r) return lt_context_fail(c, LT_E_NO_MEMORY, "out of memory");
    r->host_bytes = host_bytes;
    cudaError_t e = cudaEventCreateWithFlags(&r->done, cudaEventDisableTiming | cudaEventBlockingSync);
    if (e == cudaSuccess && host_bytes)
        e = cudaHostAlloc((void **)&r->host, host_bytes, cudaHostAllocDefault);
    if (e == cudaSuccess) e = cudaStreamBeginCapture(d->compute, cudaStreamCaptureModeThreadLocal);
    if (e != cudaSuccess) {
        destroy(r);
        return cuda_check(c, "recording", e);
    }
    *record = d->record = r;
    return LT_OK;
}

static lt_status end(lt_context *c, void **record)
{
    cuda_device *d = cuda_of(c);
    cuda_record *r = *record;
    cudaGraph_t graph = NULL;
    d->record = NULL;
    cudaError_t e = cudaStreamEndCapture(d->compute, &graph);
    if (e == cudaSuccess) e = cudaGraphInstantiate(&r->graph, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (e == cudaSuccess) return LT_OK;
    destroy(r);
    *record = NULL;
    return cuda_check(c, "recording", e);
}

static lt_status fill(lt_context *c, cuda_record *r)
{
    cuda_device *d = cuda_of(c);
    d->record = r;
    r->filling = true;
    r->next = 0;
    return r->host_bytes ? cuda_check(c, "recording", cudaEventSynchronize(r->done)) : LT_OK;
}

static lt_status run(lt_context *c, cuda_record *r)
{
    cuda_device *d = cuda_of(c);
    d->record = NULL;
    cudaError_t e = cudaGraphLaunch(r->graph, d->compute);
    if (e == cudaSuccess) e = cudaEventRecord(r->done, d->compute);
    return cuda_check(c, "a recorded evaluation", e);
}

lt_status record_cuda(lt_context *c, lt_record_step step, size_t host_bytes, void **record)
{
    cuda_device *d = cuda_of(c);
    switch (step) {
    case LT_RECORD_BEGIN: return begin(c, host_bytes, record);
    case LT_RECORD_END: return end(c, record);
    case LT_RECORD_FILL: return fill(c, *record);
    case LT_RECORD_RUN: return run(c, *record);
    case LT_RECORD_FREE:
        if (d->record == *record) d->record = NULL;
        destroy(*record);
        *record = NULL;
    }
    return LT_OK;
}

bool cuda_is_filling(const cuda_device *d)
{
    return d->record && d->record->filling;
}

cuda_slot *cuda_record_stage(lt_context *c, const char *op, size_t bytes)
{
    cuda_record *r = cuda_of(c)->record;
    size_t piece = lt_round_up(bytes, LT_RECORD_ALIGNMENT);
    if (piece > r->host_bytes - r->next) {
        lt_context_fail(c, LT_E_UNSUPPORTED, "%s: more is brought than at the time before", op);
        return NULL;
    }
    r->slot = (cuda_slot){.host = r->host + r->next, .bytes = bytes};
    r->next += piece;
    return &r->slot;
}

lt_status cuda_record_send(lt_context *c, const char *op, const cuda_slot *slot, void *to, size_t bytes)
{
    cuda_device *d = cuda_of(c);
    if (d->record->filling) return LT_OK;
    return cuda_check(c, op, cudaMemcpyAsync(to, slot->host, bytes, cudaMemcpyHostToDevice, d->compute));
}
