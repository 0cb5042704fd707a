/* memory.c - private payload buffers, and payloads that are being made. */
#include "stages/runtime/runtime.h"

#include <stdlib.h>

enum { KEPT_FREE = 64 }; /* buffers that lie ready */

void rt_pool_init(rt_pool *pool)
{
    pthread_mutex_init(&pool->mutex, NULL);
    pool->free = NULL;
}

static void buffer_destroy(rt_buffer *buffer)
{
    free(buffer->data);
    free(buffer);
}

void rt_pool_finish(rt_pool *pool)
{
    for (rt_buffer *next; pool->free; pool->free = next) {
        next = pool->free->next;
        buffer_destroy(pool->free);
    }
    pthread_mutex_destroy(&pool->mutex);
}

rt_buffer *rt_buffer_get(rt_pool *pool, size_t bytes)
{
    bytes = lt_round_up(LT_MAX(bytes, 1), LT_PAYLOAD_ALIGNMENT);
    pthread_mutex_lock(&pool->mutex);
    rt_buffer **link = &pool->free, *buffer;
    while (*link && (*link)->capacity < bytes) link = &(*link)->next;
    buffer = *link;
    if (buffer) *link = buffer->next;
    pthread_mutex_unlock(&pool->mutex);
    if (buffer) return buffer;
    buffer = calloc(1, sizeof *buffer);
    if (!buffer) return NULL;
    *buffer =
        (rt_buffer){.pool = pool, .capacity = bytes, .data = aligned_alloc(LT_PAYLOAD_ALIGNMENT, bytes)};
    if (buffer->data) return buffer;
    free(buffer);
    return NULL;
}

void rt_buffer_put(rt_buffer *buffer)
{
    if (!buffer) return;
    rt_pool *pool = buffer->pool;
    int n = 0;
    pthread_mutex_lock(&pool->mutex);
    for (const rt_buffer *b = pool->free; b && n < KEPT_FREE; b = b->next) n++;
    bool is_kept = n < KEPT_FREE;
    if (is_kept) {
        buffer->next = pool->free;
        pool->free = buffer;
    }
    pthread_mutex_unlock(&pool->mutex);
    if (!is_kept) buffer_destroy(buffer);
}

void rt_buffer_put_sent(void *data, void *buffer)
{
    rt_buffer_put(buffer);
}

lt_status lt_payload_add(lt_payload *payload, uint64_t first, uint64_t count, Lt__Wire__Dtype dtype,
                         size_t bytes, lt_span **span, lt_err *err)
{
    size_t offset = lt_round_up(payload->bytes, LT_PAYLOAD_ALIGNMENT);
    if (payload->n_spans >= LT_MAX_SPANS || !count || offset > payload->capacity ||
        bytes > payload->capacity - offset)
        return lt_fail(
            err, LT_E_INTERNAL,
            "%zu bytes for %llu frames do not fit a unit: %zu of %zu bytes and %d of %d spans are taken",
            bytes, (unsigned long long)count, payload->bytes, payload->capacity, payload->n_spans,
            LT_MAX_SPANS);
    lt_span *added = &payload->spans[payload->n_spans++];
    *added = (lt_span){.first = first,
                       .count = count,
                       .dtype = dtype,
                       .data = (unsigned char *)payload->data + offset,
                       .bytes = bytes};
    payload->bytes = offset + bytes;
    if (span) *span = added;
    return LT_OK;
}

lt_status lt_payload_times(lt_payload *payload, uint64_t first, uint64_t count, int64_t **pts, lt_err *err)
{
    size_t offset = lt_round_up(payload->bytes, LT_PAYLOAD_ALIGNMENT), bytes;
    bool fits = count && offset <= payload->capacity && lt_mul_size(count, sizeof **pts, &bytes) &&
                bytes <= payload->capacity - offset;
    if (!fits)
        return lt_fail(err, LT_E_INTERNAL, "timestamps of %llu frames do not fit a unit of %zu bytes",
                       (unsigned long long)count, payload->capacity);
    payload->times = (lt_span){.first = first,
                               .count = count,
                               .dtype = LT__WIRE__DTYPE__DTYPE_I64,
                               .data = (unsigned char *)payload->data + offset,
                               .bytes = bytes};
    payload->bytes = offset + bytes;
    *pts = payload->times.data;
    return LT_OK;
}

uint64_t rt_unit_bytes(const lt_stream *stream)
{
    uint64_t frames = stream->windows ? LT_MAX(stream->windows->window, stream->chunk) : stream->chunk;
    if (!stream->live) return stream->unit_bytes;
    return lt_round_up(stream->unit_bytes, LT_PAYLOAD_ALIGNMENT) +
           lt_round_up(frames * sizeof(int64_t), LT_PAYLOAD_ALIGNMENT);
}

/* Where a payload says when `frame` is shown; NULL: it does not. */
static const int64_t *time_of(const lt_payload *payload, uint64_t frame)
{
    const lt_span *times = &payload->times;
    bool there = frame >= times->first && frame - times->first < times->count;
    return there ? (const int64_t *)times->data + (frame - times->first) : NULL;
}

lt_status rt_pass_times(lt_payload *output, const lt_payload *inputs, uint64_t n_inputs, lt_err *err)
{
    if (output->times.count || !output->n_spans) return LT_OK;
    const lt_span *last = &output->spans[output->n_spans - 1];
    uint64_t first = output->spans[0].first, count = last->first + last->count - first;
    int64_t *pts;
    lt_status status = lt_payload_times(output, first, count, &pts, err);
    for (uint64_t i = 0; !status && i < count; i++) {
        const int64_t *found = NULL;
        for (uint64_t n = 0; n < n_inputs && !found; n++) found = time_of(&inputs[n], first + i);
        if (!found)
            return lt_fail(err, LT_E_FORMAT, "frame %llu of a live stream came without its timestamp",
                           (unsigned long long)(first + i));
        pts[i] = *found;
    }
    return status;
}
