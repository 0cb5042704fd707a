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
