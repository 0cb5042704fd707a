/* output.c - the producer's end of its edges: who consumes, what they want, and results on their way. */
#include "stages/runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

enum { MESSAGES_A_TURN = 64, EDGES_MAX = 64 };

lt_status rt_output_init(rt *rt, const Lt__Wire__OutputPort *boot, lt_err *err)
{
    rt_output *output = &rt->output;
    if (boot->n_edges > EDGES_MAX)
        return lt_fail(err, LT_E_UNSUPPORTED, "%zu consumers of one port; at most %d", boot->n_edges,
                       EDGES_MAX);
    output->port = &rt->stage->outputs[0];
    output->boot = boot;
    output->me = (lt_slab_holder){lt_slab_owner(rt->boot->stage, rt->boot->replica), rt->boot->incarnation};
    if (boot->slab_fd >= 0) {
        lt_status status = lt_slab_map(&output->slab, boot->slab_fd, err);
        if (status) return status;
        output->has_slab = true;
        lt_slab_reclaim(&output->slab, (lt_slab_holder){output->me.owner, output->me.incarnation - 1});
    }
    if (boot->memo_units) output->memos = calloc(boot->memo_units, sizeof *output->memos);
    if (boot->memo_units && !output->memos)
        return lt_fail(err, LT_E_NO_MEMORY, "no memory to keep %u results", boot->memo_units);
    output->n_memos = boot->memo_units;
    return rt_socket_bind(rt, output, err);
}

void rt_output_finish(rt *rt)
{
    rt_output *output = &rt->output;
    for (size_t i = 0; i < output->n_memos; i++) rt_buffer_put(output->memos[i].buffer);
    lt_slab_unmap(&output->slab);
    free(output->memos);
    free(output->wants);
    free(output->consumers);
}

/* ---- consumers ------------------------------------------------------------------------------------------------------ */

static rt_consumer *find_consumer(rt_output *output, uint32_t edge, uint32_t replica)
{
    for (size_t i = 0; i < output->n_consumers; i++)
        if (output->consumers[i].edge == edge && output->consumers[i].replica == replica)
            return &output->consumers[i];
    return NULL;
}

static rt_consumer *get_consumer(rt *rt, const char *edge, uint32_t replica)
{
    rt_output *output = &rt->output;
    uint32_t e = 0;
    while (e < output->boot->n_edges && strcmp(output->boot->edges[e], edge)) e++;
    if (e == output->boot->n_edges) return NULL;
    rt_consumer *consumer = find_consumer(output, e, replica);
    if (consumer) return consumer;
    if (output->n_consumers == output->consumers_room) {
        size_t room = LT_MAX(output->consumers_room * 2, (size_t)8);
        rt_consumer *grown = realloc(output->consumers, room * sizeof *grown);
        if (!grown) return NULL;
        output->consumers = grown;
        output->consumers_room = room;
    }
    consumer = &output->consumers[output->n_consumers++];
    *consumer = (rt_consumer){.edge = e, .replica = replica, .owner = lt_slab_owner(edge, replica)};
    return consumer;
}

static void drop_wants(rt_output *output, const rt_consumer *consumer)
{
    uint32_t index = (uint32_t)(consumer - output->consumers);
    size_t n = 0;
    for (size_t i = 0; i < output->n_wants; i++)
        if (output->wants[i].consumer != index) output->wants[n++] = output->wants[i];
    output->n_wants = n;
}

/* Its process up to `incarnation` is dead: what it wanted and what it held is free. */
static void bury_consumer(rt *rt, rt_consumer *consumer, uint32_t incarnation)
{
    rt_output *output = &rt->output;
    drop_wants(output, consumer);
    rt_requests_prune(rt);
    consumer->is_connected = false;
    if (output->has_slab && incarnation)
        lt_slab_reclaim(&output->slab, (lt_slab_holder){consumer->owner, incarnation});
}

bool rt_output_peer(rt *rt, const Lt__Wire__Peer *peer)
{
    rt_consumer *consumer = get_consumer(rt, peer->edge, peer->replica);
    if (!consumer) return false;
    consumer->has_key = rt_key_read(&peer->public_key, consumer->key);
    if (!peer->incarnation) {
        bury_consumer(rt, consumer, consumer->incarnation);
    } else if (peer->incarnation > consumer->incarnation) {
        bury_consumer(rt, consumer, peer->incarnation - 1);
        consumer->incarnation = peer->incarnation;
    }
    return true;
}

/* ---- sending ---------------------------------------------------------------------------------------------------------- */

static bool tell(rt *rt, const rt_consumer *consumer, uint32_t clip, Lt__Wire__Header *header,
                 zmq_msg_t *payload)
{
    header->clip = clip;
    return consumer->is_connected &&
           rt_socket_send(rt, rt->output.socket, consumer->id, consumer->id_bytes, header, payload);
}

/* To one consumer, or to all where `only` is NULL. */
static void tell_one_or_all(rt *rt, const rt_consumer *only, uint32_t clip, Lt__Wire__Header *header)
{
    if (only) {
        tell(rt, only, clip, header, NULL);
        return;
    }
    for (size_t i = 0; i < rt->output.n_consumers; i++)
        tell(rt, &rt->output.consumers[i], clip, header, NULL);
}

static void announce(rt *rt, const rt_consumer *only, const rt_clip *clip)
{
    Lt__Wire__Open open = LT__WIRE__OPEN__INIT;
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    open.stream = (lt_stream *)&clip->output;
    open.since = clip->since;
    header.body_case = LT__WIRE__HEADER__BODY_OPEN;
    header.open = &open;
    tell_one_or_all(rt, only, clip->clip.index, &header);
}

void rt_output_announce(rt *rt, const rt_clip *clip)
{
    announce(rt, NULL, clip);
}

static void announce_clips(rt *rt, const rt_consumer *only)
{
    Lt__Wire__Clips clips = LT__WIRE__CLIPS__INIT;
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    clips.closed = rt->n_closed;
    clips.ended = rt->is_ended;
    clips.n_clips = rt->is_ended ? rt->n_clips : 0;
    header.body_case = LT__WIRE__HEADER__BODY_CLIPS;
    header.clips = &clips;
    tell_one_or_all(rt, only, 0, &header);
}

void rt_output_announce_clips(rt *rt)
{
    announce_clips(rt, NULL);
}

static void give_up(rt *rt, const rt_consumer *only, const rt_clip *clip)
{
    Lt__Wire__GiveUp give_up = LT__WIRE__GIVE_UP__INIT;
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    const lt_stream *stream = rt_clip_stream(rt, clip);
    give_up.reason = (char *)clip->reason;
    give_up.since = clip->since;
    give_up.passed_over = clip->is_passed_over;
    give_up.name = (char *)(stream ? stream->name : clip->name ? clip->name : "");
    give_up.entry = (char *)(stream ? stream->entry : clip->entry ? clip->entry : "");
    give_up.key = (char *)(stream ? stream->key : clip->key ? clip->key : "");
    header.body_case = LT__WIRE__HEADER__BODY_GIVE_UP;
    header.give_up = &give_up;
    tell_one_or_all(rt, only, clip->clip.index, &header);
}

void rt_output_give_up(rt *rt, const rt_clip *clip)
{
    give_up(rt, NULL, clip);
}

static void say_end(rt *rt, const rt_consumer *only, const rt_clip *clip)
{
    Lt__Wire__End end = LT__WIRE__END__INIT;
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    end.n_frames = clip->output.n_frames;
    end.n_units = clip->output.n_units;
    end.last_duration = clip->output.last_duration;
    header.body_case = LT__WIRE__HEADER__BODY_END;
    header.end = &end;
    tell_one_or_all(rt, only, clip->clip.index, &header);
}

void rt_output_end(rt *rt, const rt_clip *clip)
{
    rt_output *output = &rt->output;
    size_t n = 0;
    for (size_t i = 0; i < output->n_wants; i++) {
        const rt_want *want = &output->wants[i];
        bool is_behind = want->key.clip == clip->clip.index && want->key.unit >= clip->output.n_units;
        if (!is_behind) output->wants[n++] = *want;
    }
    output->n_wants = n;
    say_end(rt, NULL, clip);
}

/* Where a payload lies, in its header. `device` is for the call. */
static void name_place(Lt__Wire__Unit *unit, const lt_payload *payload, const rt_memory *memory,
                       bool is_inline, Lt__Wire__DeviceSlot *device)
{
    if (is_inline) {
        unit->payload_case = LT__WIRE__UNIT__PAYLOAD_INLINE;
        unit->inline_ = true;
    } else if (payload->handle_bytes) {
        lt__wire__device_slot__init(device);
        device->slot = memory->slot;
        device->handle = (ProtobufCBinaryData){payload->handle_bytes, (uint8_t *)payload->handle};
        unit->payload_case = LT__WIRE__UNIT__PAYLOAD_DEVICE;
        unit->device = device;
    } else {
        unit->payload_case = LT__WIRE__UNIT__PAYLOAD_SLOT;
        unit->slot = memory->slot;
    }
}

/* The header of a payload that lies in `memory`. */
static bool send_unit(rt *rt, const rt_consumer *consumer, rt_key key, const lt_payload *payload,
                      const rt_memory *memory, zmq_msg_t *message)
{
    Lt__Wire__Unit unit = LT__WIRE__UNIT__INIT;
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    Lt__Wire__DeviceSlot device;
    Lt__Wire__Span spans[LT_UNIT_SPANS_MAX], *list[LT_UNIT_SPANS_MAX];
    int n_spans = payload->n_spans + (payload->times.count > 0);
    for (int i = 0; i < n_spans; i++) {
        const lt_span *span = i < payload->n_spans ? &payload->spans[i] : &payload->times;
        lt__wire__span__init(&spans[i]);
        spans[i].first = span->first;
        spans[i].count = span->count;
        spans[i].dtype = span->dtype;
        spans[i].offset = (uint64_t)((unsigned char *)span->data - (unsigned char *)payload->data);
        spans[i].bytes = span->bytes;
        list[i] = &spans[i];
    }
    unit.unit = key.unit;
    unit.n_spans = (size_t)n_spans;
    unit.spans = list;
    unit.bytes = payload->bytes;
    name_place(&unit, payload, memory, message != NULL, &device);
    header.body_case = LT__WIRE__HEADER__BODY_UNIT_DONE;
    header.unit_done = &unit;
    return tell(rt, consumer, key.clip, &header, message);
}

/* Hand `memory` over with the message. Whatever happens, it is taken. */
static void hand_over(rt *rt, const rt_consumer *consumer, rt_key key, const lt_payload *payload,
                      rt_memory *memory)
{
    rt_output *output = &rt->output;
    if (memory->kind == RT_SLOT) {
        lt_slab_holder to = {consumer->owner, consumer->incarnation};
        if (lt_slab_give(&output->slab, memory->slot, output->me, to) &&
            !send_unit(rt, consumer, key, payload, memory, NULL))
            lt_slab_release(&output->slab, memory->slot, to);
    } else {
        zmq_msg_t message;
        rt_buffer *buffer = memory->buffer;
        if (zmq_msg_init_data(&message, buffer->data, payload->bytes, rt_buffer_put_sent, buffer)) {
            rt_buffer_put(buffer);
        } else {
            send_unit(rt, consumer, key, payload, memory, &message);
            zmq_msg_close(&message);
        }
    }
    memory->kind = RT_NOWHERE;
}

/* Room where `consumer` can have it: a slot, or, when it shares no memory or (which credits should prevent) no slot is
 * free, a private buffer that is sent along. */
static bool get_memory(rt *rt, const rt_consumer *consumer, uint64_t bytes, rt_memory *memory, void **data)
{
    rt_output *output = &rt->output;
    uint32_t slot;
    if (output->has_slab && consumer && consumer->shares_memory && bytes <= output->slab.slot_bytes &&
        lt_slab_acquire(&output->slab, output->me, &slot)) {
        *memory = (rt_memory){.kind = RT_SLOT, .slab = &output->slab, .slot = slot};
        *data = lt_slab_memory(&output->slab, slot);
        return true;
    }
    if (output->has_slab && consumer && consumer->shares_memory)
        rt_complain(rt, "no slot is free: a unit of %llu bytes is copied", (unsigned long long)bytes);
    rt_buffer *buffer = rt_buffer_get(&rt->pool, bytes);
    if (!buffer) return false;
    *memory = (rt_memory){.kind = RT_BUFFER, .buffer = buffer};
    *data = buffer->data;
    return true;
}

/* A copy of a payload at `data`. */
static void rebase(lt_payload *copy, void *data, const lt_payload *payload)
{
    const unsigned char *from = payload->data;
    memcpy(data, payload->data, payload->bytes);
    *copy = *payload;
    copy->data = data;
    for (int i = 0; i < copy->n_spans; i++)
        copy->spans[i].data = (unsigned char *)data + ((unsigned char *)payload->spans[i].data - from);
    if (copy->times.count)
        copy->times.data = (unsigned char *)data + ((unsigned char *)payload->times.data - from);
}

/* A second consumer gets a copy of its own. */
static void send_copy(rt *rt, const rt_consumer *consumer, rt_key key, const lt_payload *payload)
{
    rt_memory memory;
    lt_payload copy = *payload;
    if (!get_memory(rt, consumer, payload->bytes, &memory, &copy.data)) {
        lt_err err;
        lt_fail(&err, LT_E_NO_MEMORY, "no memory for %zu bytes", payload->bytes);
        rt_fail(rt, &err, &key);
        return;
    }
    rebase(&copy, copy.data, payload);
    hand_over(rt, consumer, key, &copy, &memory);
}

/* ---- results ----------------------------------------------------------------------------------------------------------- */

static const rt_consumer *wanting(const rt_output *output, rt_key key)
{
    for (size_t i = 0; i < output->n_wants; i++)
        if (!rt_key_compare(output->wants[i].key, key)) return &output->consumers[output->wants[i].consumer];
    return NULL;
}

static void forget_want(rt_output *output, rt_key key, const rt_consumer *consumer)
{
    uint32_t index = (uint32_t)(consumer - output->consumers);
    for (size_t i = 0; i < output->n_wants; i++)
        if (output->wants[i].consumer == index && !rt_key_compare(output->wants[i].key, key)) {
            output->wants[i] = output->wants[--output->n_wants];
            return;
        }
}

lt_status rt_output_memory(rt *rt, rt_key key, uint64_t bytes, rt_memory *memory, lt_payload *payload,
                           lt_err *err)
{
    rt_output *output = &rt->output;
    uint32_t n_wanting = 0;
    if (!get_memory(rt, wanting(output, key), bytes, memory, &payload->data))
        return lt_fail(err, LT_E_NO_MEMORY, "no memory for a unit of %llu bytes", (unsigned long long)bytes);
    for (size_t i = 0; i < output->n_wants; i++) n_wanting += !rt_key_compare(output->wants[i].key, key);
    /* What lies on a device is for one consumer: others get copies, and the runtime makes them on the host. */
    bool may_leave = rt->setup.output_device && memory->kind == RT_SLOT && n_wanting == 1;
    payload->capacity = bytes;
    payload->slot = may_leave ? (int64_t)memory->slot : -1;
    return LT_OK;
}

/* Keep a private copy in place of the oldest. */
static void remember(rt *rt, rt_key key, const lt_payload *payload)
{
    rt_output *output = &rt->output;
    if (!output->n_memos) return;
    rt_memo *memo = &output->memos[output->next_memo++ % output->n_memos];
    if (memo->buffer && memo->buffer->capacity < payload->bytes) {
        rt_buffer_put(memo->buffer);
        memo->buffer = NULL;
    }
    if (!memo->buffer) memo->buffer = rt_buffer_get(&rt->pool, payload->bytes);
    if (!memo->buffer) return; /* a memory of it is a convenience */
    memo->key = key;
    rebase(&memo->payload, memo->buffer->data, payload);
}

/* A unit on a device goes to one who wants it. Others have begun to since it was begun: it is made again, for them. */
static void deliver_on_device(rt *rt, rt_key key, const lt_payload *payload, rt_memory *memory)
{
    rt_output *output = &rt->output;
    rt_clip *clip = rt_clip_find(rt, key.clip);
    const rt_consumer *consumer = wanting(output, key);
    if (consumer && consumer->shares_memory) {
        forget_want(output, key, consumer);
        hand_over(rt, consumer, key, payload, memory);
    }
    rt_memory_free(rt, memory, output->me);
    if (clip && wanting(output, key)) rt_request_add(rt, clip, key.unit);
}

void rt_output_deliver(rt *rt, rt_key key, const lt_payload *payload, rt_memory *memory)
{
    rt_output *output = &rt->output;
    if (payload->handle_bytes) {
        deliver_on_device(rt, key, payload, memory);
        return;
    }
    remember(rt, key, payload);
    for (const rt_consumer *consumer; (consumer = wanting(output, key));) {
        forget_want(output, key, consumer);
        bool is_last = !wanting(output, key);
        bool fits = memory->kind != RT_SLOT || consumer->shares_memory;
        if (is_last && fits)
            hand_over(rt, consumer, key, payload, memory);
        else
            send_copy(rt, consumer, key, payload);
    }
    rt_memory_free(rt, memory, output->me);
}

bool rt_output_recall(rt *rt, rt_key key)
{
    rt_output *output = &rt->output;
    for (size_t i = 0; i < output->n_memos; i++) {
        const rt_memo *memo = &output->memos[i];
        if (!memo->buffer || rt_key_compare(memo->key, key)) continue;
        for (const rt_consumer *consumer; (consumer = wanting(output, key));) {
            forget_want(output, key, consumer);
            send_copy(rt, consumer, key, &memo->payload);
        }
        return true;
    }
    return false;
}

void rt_output_drop_clip(rt *rt, uint32_t clip)
{
    rt_output *output = &rt->output;
    size_t n = 0;
    for (size_t i = 0; i < output->n_wants; i++)
        if (output->wants[i].key.clip != clip) output->wants[n++] = output->wants[i];
    output->n_wants = n;
    for (size_t i = 0; i < output->n_memos; i++) {
        if (output->memos[i].key.clip != clip) continue;
        rt_buffer_put(output->memos[i].buffer);
        output->memos[i].buffer = NULL;
    }
}

/* ---- arrivals ---------------------------------------------------------------------------------------------------------- */

/* Who sent it: known by the connection's name since its Hello. */
static rt_consumer *sender(rt_output *output, const rt_arrival *arrival)
{
    for (size_t i = 0; i < output->n_consumers; i++) {
        rt_consumer *consumer = &output->consumers[i];
        if (consumer->is_connected && consumer->id_bytes == arrival->id_bytes &&
            !memcmp(consumer->id, arrival->id, arrival->id_bytes) &&
            consumer->incarnation == arrival->header->incarnation)
            return consumer;
    }
    return NULL;
}

/* The clip that is known with the lowest index above `last`, or NULL. */
static const rt_clip *next_clip(const rt *rt, int64_t last)
{
    const rt_clip *next = NULL;
    for (int i = 0; i < RT_CLIPS; i++) {
        const rt_clip *clip = &rt->clips[i];
        if (clip->state == RT_CLIP_NONE || (int64_t)clip->clip.index <= last) continue;
        if (!next || clip->clip.index < next->clip.index) next = clip;
    }
    return next;
}

static void take_hello(rt *rt, const rt_arrival *arrival)
{
    const Lt__Wire__Hello *hello = arrival->header->hello;
    rt_consumer *consumer = get_consumer(rt, hello->edge, hello->replica);
    uint32_t incarnation = arrival->header->incarnation;
    if (!consumer) {
        rt_complain(rt, "a Hello along %s, which does not start here", hello->edge);
        return;
    }
    if (incarnation < consumer->incarnation) return;
    bury_consumer(rt, consumer, incarnation - 1);
    consumer->incarnation = incarnation;
    consumer->is_connected = true;
    consumer->shares_memory = hello->shares_memory && rt->output.has_slab;
    consumer->id_bytes = arrival->id_bytes;
    memcpy(consumer->id, arrival->id, arrival->id_bytes);
    rt_clips_closed_below(rt, consumer->edge, hello->closed);
    announce_clips(rt, consumer);
    const rt_clip *next = NULL;
    for (int64_t last = -1; (next = next_clip(rt, last)); last = next->clip.index) {
        if (next->state == RT_CLIP_OPEN && !next->ends) announce(rt, consumer, next);
        if (next->state == RT_CLIP_GIVEN_UP) give_up(rt, consumer, next);
    }
}

static void take_want(rt *rt, const rt_consumer *consumer, const rt_arrival *arrival)
{
    rt_output *output = &rt->output;
    rt_key key = {arrival->header->clip, arrival->header->want->unit};
    rt_want want = {key, (uint32_t)(consumer - output->consumers)};
    rt_clip *clip = rt_clip_find(rt, key.clip);
    if (!clip || clip->state != RT_CLIP_OPEN || clip->ends) return;
    if (key.unit >= clip->output.n_units && clip->output.live) {
        say_end(rt, consumer, clip); /* it asked before it knew */
        return;
    }
    if (key.unit >= clip->output.n_units) {
        rt_complain(rt, "unit %llu of clip %u is wanted, which has %llu", (unsigned long long)key.unit,
                    key.clip, (unsigned long long)clip->output.n_units);
        return;
    }
    for (size_t i = 0; i < output->n_wants; i++)
        if (output->wants[i].consumer == want.consumer && !rt_key_compare(output->wants[i].key, key)) return;
    if (output->n_wants == output->wants_room) {
        size_t room = LT_MAX(output->wants_room * 2, (size_t)64);
        rt_want *grown = room > RT_WANTS_MAX ? NULL : realloc(output->wants, room * sizeof *grown);
        if (!grown) {
            rt_complain(rt, "too many units are wanted at once: one was dropped");
            return;
        }
        output->wants = grown;
        output->wants_room = room;
    }
    output->wants[output->n_wants++] = want;
    if (!rt_output_recall(rt, key)) rt_request_add(rt, clip, key.unit);
}

static void take(rt *rt, const rt_arrival *arrival)
{
    const Lt__Wire__Header *header = arrival->header;
    if (header->body_case == LT__WIRE__HEADER__BODY_HELLO) {
        take_hello(rt, arrival);
        return;
    }
    const rt_consumer *consumer = sender(&rt->output, arrival);
    if (!consumer) return; /* of a dead incarnation, or never introduced */
    rt_clip *clip = rt_clip_find(rt, header->clip);
    switch (header->body_case) {
    case LT__WIRE__HEADER__BODY_WANT: take_want(rt, consumer, arrival); break;
    case LT__WIRE__HEADER__BODY_RELEASE: break; /* the slot is free already: it was a wake-up */
    case LT__WIRE__HEADER__BODY_SAFE:
        if (clip) rt_clip_safe(rt, clip, consumer->edge, header->safe->unit);
        break;
    case LT__WIRE__HEADER__BODY_GIVE_UP:
        if (clip) rt_clip_give_up(rt, clip, header->give_up, (int)consumer->edge);
        break;
    default: rt_complain(rt, "a consumer sent what only producers say"); break;
    }
}

void rt_output_receive(rt *rt)
{
    for (int i = 0; i < MESSAGES_A_TURN; i++) {
        rt_arrival arrival;
        lt_status status = rt_socket_receive(rt, rt->output.socket, true, &arrival);
        if (status == LT_AGAIN) return;
        if (status) continue;
        take(rt, &arrival);
        lt__wire__header__free_unpacked(arrival.header, NULL);
        zmq_msg_close(&arrival.payload);
    }
}
