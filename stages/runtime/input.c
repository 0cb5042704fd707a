/* input.c - the consumer's end of an edge: producers as they come and go, units wanted and held. */
#include "stages/runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

enum { MESSAGES_A_TURN = 64 };

lt_status rt_input_init(rt *rt, int port, const Lt__Wire__InputPort *boot, lt_err *err)
{
    rt_input *input = &rt->inputs[port];
    if (input->edge)
        return lt_fail(err, LT_E_INVALID, "input port \"%s\" has two producers: %s and %s", boot->port,
                       input->edge, boot->edge);
    input->port = &rt->stage->inputs[port];
    input->edge = boot->edge;
    input->me = (lt_slab_holder){lt_slab_owner(boot->edge, rt->boot->replica), rt->boot->incarnation};
    input->n_producers = boot->n_replicas;
    input->n_credits = boot->in_flight;
    input->producers = calloc(input->n_producers, sizeof *input->producers);
    if (!input->producers)
        return lt_fail(err, LT_E_NO_MEMORY, "no memory for %u producers", boot->n_replicas);
    return rt_input_grow(rt, port, input->n_credits, err);
}

lt_status rt_input_grow(rt *rt, int port, uint32_t n_items, lt_err *err)
{
    rt_input *input = &rt->inputs[port];
    if (n_items <= input->n_items) return LT_OK;
    rt_item **grown = realloc(input->items, n_items * sizeof *grown);
    if (grown) input->items = grown;
    /* Messages are referred to where they are, so an item never moves. */
    rt_item *more = grown ? lt_arena_alloc(&rt->arena, (n_items - input->n_items) * sizeof *more) : NULL;
    if (!more) return lt_fail(err, LT_E_NO_MEMORY, "no memory for %u units in flight", n_items);
    while (input->n_items < n_items) input->items[input->n_items++] = more++;
    return LT_OK;
}

void rt_input_finish(rt *rt, int port)
{
    rt_input *input = &rt->inputs[port];
    for (uint32_t i = 0; i < input->n_items && input->items; i++)
        rt_memory_free(rt, &input->items[i]->memory, input->me);
    for (uint32_t r = 0; r < input->n_producers && input->producers; r++)
        lt_slab_unmap(&input->producers[r].slab);
    free(input->producers);
    free(input->items);
    free(rt->job.inputs[port]);
}

/* ---- telling producers ------------------------------------------------------------------------------------------------ */

static void tell(rt *rt, rt_producer *producer, uint32_t clip, Lt__Wire__Header *header)
{
    header->clip = clip;
    rt_socket_send(rt, producer->socket, NULL, 0, header, NULL);
}

void rt_input_tell(rt *rt, int port, uint32_t clip, Lt__Wire__Header *header)
{
    for (uint32_t r = 0; r < rt->inputs[port].n_producers; r++)
        tell(rt, &rt->inputs[port].producers[r], clip, header);
}

static void tell_safe(rt *rt, rt_producer *producer, uint32_t clip, uint64_t unit)
{
    Lt__Wire__Safe safe = LT__WIRE__SAFE__INIT;
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    safe.unit = unit;
    header.body_case = LT__WIRE__HEADER__BODY_SAFE;
    header.safe = &safe;
    tell(rt, producer, clip, &header);
}

static void tell_release(rt *rt, rt_producer *producer, rt_key key, uint32_t slot)
{
    Lt__Wire__Release release = LT__WIRE__RELEASE__INIT;
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    release.slot = slot;
    header.body_case = LT__WIRE__HEADER__BODY_RELEASE;
    header.release = &release;
    tell(rt, producer, key.clip, &header);
}

static void tell_hello(rt *rt, const rt_input *input, rt_producer *producer)
{
    Lt__Wire__Hello hello = LT__WIRE__HELLO__INIT;
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    hello.edge = (char *)input->edge;
    hello.replica = rt->boot->replica;
    hello.shares_memory = producer->has_slab;
    hello.closed = rt->n_closed;
    header.body_case = LT__WIRE__HEADER__BODY_HELLO;
    header.hello = &hello;
    tell(rt, producer, 0, &header);
}

/* ---- items ------------------------------------------------------------------------------------------------------------ */

void rt_memory_free(rt *rt, rt_memory *memory, lt_slab_holder holder)
{
    switch (memory->kind) {
    case RT_NOWHERE: break;
    case RT_SLOT: lt_slab_release(memory->slab, memory->slot, holder); break;
    case RT_BUFFER: rt_buffer_put(memory->buffer); break;
    case RT_MESSAGE: zmq_msg_close(&memory->message); break;
    }
    memory->kind = RT_NOWHERE;
}

rt_item *rt_input_find(rt_input *input, rt_key key)
{
    for (uint32_t i = 0; i < input->n_items; i++)
        if (input->items[i]->state != RT_ITEM_FREE && !rt_key_compare(input->items[i]->key, key))
            return input->items[i];
    return NULL;
}

void rt_input_drop(rt *rt, int port, rt_item *item)
{
    rt_input *input = &rt->inputs[port];
    rt_producer *producer = &input->producers[item->replica];
    bool is_slot = item->state == RT_ITEM_HELD && item->memory.kind == RT_SLOT;
    if (item->state == RT_ITEM_WANTED && producer->n_outstanding) producer->n_outstanding--;
    if (item->state == RT_ITEM_HELD) rt_memory_free(rt, &item->memory, input->me);
    item->state = RT_ITEM_FREE;
    item->in_use = false;
    if (is_slot) tell_release(rt, producer, item->key, item->memory.slot);
}

void rt_input_drop_clip(rt *rt, uint32_t clip)
{
    for (int port = 0; port < rt->stage->n_inputs; port++)
        for (uint32_t i = 0; i < rt->inputs[port].n_items; i++) {
            rt_item *item = rt->inputs[port].items[i];
            if (item->state != RT_ITEM_FREE && item->key.clip == clip) rt_input_drop(rt, port, item);
        }
}

void rt_input_drop_behind(rt *rt, int port, uint32_t clip, uint64_t n_units)
{
    for (uint32_t i = 0; i < rt->inputs[port].n_items; i++) {
        rt_item *item = rt->inputs[port].items[i];
        if (item->state != RT_ITEM_FREE && item->key.clip == clip && item->key.unit >= n_units)
            rt_input_drop(rt, port, item);
    }
}

static bool needs(const rt_request *request, int port, rt_key key)
{
    const lt_need *need = &request->needs[port];
    return request->key.clip == key.clip && key.unit >= need->first && key.unit - need->first < need->count;
}

static bool is_needed(const rt *rt, int port, rt_key key)
{
    for (size_t i = 0; i < rt->n_requests; i++)
        if (needs(&rt->requests[i], port, key)) return true;
    return false;
}

/* What may be given up for something else: not yet asked for, or held and idle. */
static bool is_movable(const rt_item *item)
{
    return item->state == RT_ITEM_NEEDED || (item->state == RT_ITEM_HELD && !item->in_use);
}

/* The lowest that nobody needs; failing that, and if `first` is pressing, the highest that it does not need. */
static rt_item *victim(rt *rt, int port, const rt_request *first)
{
    rt_input *input = &rt->inputs[port];
    rt_item *idle = NULL, *later = NULL;
    for (uint32_t i = 0; i < input->n_items; i++) {
        rt_item *item = input->items[i];
        if (!is_movable(item)) continue;
        if (!is_needed(rt, port, item->key)) {
            if (!idle || rt_key_compare(item->key, idle->key) < 0) idle = item;
        } else if (first && !needs(first, port, item->key)) {
            if (!later || rt_key_compare(item->key, later->key) > 0) later = item;
        }
    }
    return idle ? idle : later;
}

rt_item *rt_input_make_room(rt *rt, int port, rt_key key, const rt_request *first)
{
    rt_input *input = &rt->inputs[port];
    uint64_t most = LT_MAX(input->n_credits, first ? first->needs[port].count : 0), n_used = 0;
    rt_item *room = NULL;
    for (uint32_t i = 0; i < input->n_items; i++) {
        if (input->items[i]->state == RT_ITEM_FREE)
            room = input->items[i];
        else
            n_used++;
    }
    if (!room || n_used >= most) {
        room = victim(rt, port, first);
        if (!room) return NULL;
        rt_input_drop(rt, port, room);
    }
    *room = (rt_item){.state = RT_ITEM_NEEDED, .key = key};
    return room;
}

/* ---- asking ------------------------------------------------------------------------------------------------------------ */

static bool serves(const rt_producer *producer, uint32_t clip)
{
    for (int i = 0; i < producer->n_open && producer->socket; i++)
        if (producer->open[i] == clip) return true;
    return false;
}

/* The unit's own replica unless it is busier than the least busy one by more than one; then that. */
static rt_producer *choose(rt_input *input, rt_key key)
{
    rt_producer *least = NULL, *preferred = &input->producers[key.unit % input->n_producers];
    for (uint32_t r = 0; r < input->n_producers; r++) {
        rt_producer *producer = &input->producers[r];
        if (serves(producer, key.clip) && (!least || producer->n_outstanding < least->n_outstanding))
            least = producer;
    }
    if (least && serves(preferred, key.clip) && preferred->n_outstanding <= least->n_outstanding + 1)
        return preferred;
    return least;
}

static rt_item *lowest_needed(rt_input *input, const rt_key *above)
{
    rt_item *lowest = NULL;
    for (uint32_t i = 0; i < input->n_items; i++) {
        rt_item *item = input->items[i];
        if (item->state != RT_ITEM_NEEDED || (above && rt_key_compare(item->key, *above) <= 0)) continue;
        if (!lowest || rt_key_compare(item->key, lowest->key) < 0) lowest = item;
    }
    return lowest;
}

void rt_input_ask(rt *rt, int port)
{
    rt_input *input = &rt->inputs[port];
    rt_key last;
    for (rt_item *item = lowest_needed(input, NULL); item; item = lowest_needed(input, &last)) {
        last = item->key;
        rt_producer *producer = choose(input, item->key);
        if (!producer) continue;
        Lt__Wire__Want want = LT__WIRE__WANT__INIT;
        Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
        want.unit = item->key.unit;
        header.body_case = LT__WIRE__HEADER__BODY_WANT;
        header.want = &want;
        item->state = RT_ITEM_WANTED;
        item->replica = (uint32_t)(producer - input->producers);
        producer->n_outstanding++;
        tell(rt, producer, item->key.clip, &header);
    }
}

/* ---- producers come and go -------------------------------------------------------------------------------------------- */

static bool is_held_slot(const rt_input *input, const lt_slab *slab, uint32_t slot)
{
    for (uint32_t i = 0; i < input->n_items; i++) {
        const rt_item *item = input->items[i];
        if (item->state == RT_ITEM_HELD && item->memory.kind == RT_SLOT && item->memory.slab == slab &&
            item->memory.slot == slot)
            return true;
    }
    return false;
}

/* What the producer left on a device ends with it. Work that is reading it finds that out by itself. */
static void drop_from_device(rt *rt, rt_input *input, uint32_t replica)
{
    for (uint32_t i = 0; i < input->n_items; i++) {
        rt_item *item = input->items[i];
        if (item->state != RT_ITEM_HELD || item->replica != replica || item->in_use ||
            !item->payload.handle_bytes)
            continue;
        rt_memory_free(rt, &item->memory, input->me);
        item->state = RT_ITEM_NEEDED;
    }
}

/* Whatever was outstanding is wanted again, from whoever is there; slots whose message is lost are free again. */
static void disconnect(rt *rt, rt_input *input, uint32_t replica)
{
    rt_producer *producer = &input->producers[replica];
    rt_socket_close(producer, 0);
    for (uint32_t i = 0; i < input->n_items; i++)
        if (input->items[i]->state == RT_ITEM_WANTED && input->items[i]->replica == replica)
            input->items[i]->state = RT_ITEM_NEEDED;
    producer->n_outstanding = 0;
    producer->n_open = 0;
    for (uint32_t s = 0; s < producer->slab.n_slots; s++)
        if (!is_held_slot(input, &producer->slab, s)) lt_slab_release(&producer->slab, s, input->me);
}

static void connect_to(rt *rt, rt_input *input, rt_producer *producer)
{
    lt_err err;
    if (!producer->incarnation || !*producer->endpoint) return;
    if (rt_socket_connect(rt, producer, &err)) {
        rt_fail(rt, &err, NULL);
        rt_socket_close(producer, 0);
        return;
    }
    tell_hello(rt, input, producer);
}

void rt_input_peer(rt *rt, int port, const Lt__Wire__Peer *peer)
{
    rt_input *input = &rt->inputs[port];
    lt_err err;
    if (peer->replica >= input->n_producers) {
        rt_complain(rt, "%s has no replica %u", peer->edge, peer->replica);
        return;
    }
    rt_producer *producer = &input->producers[peer->replica];
    bool is_same = peer->incarnation == producer->incarnation && !strcmp(peer->endpoint, producer->endpoint);
    if (is_same || strlen(peer->endpoint) >= sizeof producer->endpoint) return;
    disconnect(rt, input, peer->replica);
    drop_from_device(rt, input, peer->replica);
    if (!producer->has_slab && peer->slab_fd >= 0) {
        producer->has_slab = !lt_slab_map(&producer->slab, peer->slab_fd, &err);
        if (!producer->has_slab) lt_log(LT_LOG_WARN, "%s: %s: payloads will be copied", peer->edge, err.text);
        disconnect(rt, input, peer->replica);
    }
    producer->incarnation = peer->incarnation;
    strcpy(producer->endpoint, peer->endpoint);
    producer->has_key = rt_key_read(&peer->public_key, producer->key);
    connect_to(rt, input, producer);
}

void rt_input_reconnect(rt *rt, int port, uint32_t replica)
{
    rt_input *input = &rt->inputs[port];
    lt_log(LT_LOG_WARN, "%s: connection to replica %u broke: connecting again", input->edge, replica);
    disconnect(rt, input, replica);
    connect_to(rt, input, &input->producers[replica]);
}

/* ---- arrivals ---------------------------------------------------------------------------------------------------------- */

static void take_open(rt *rt, int port, rt_producer *producer, uint32_t clip, const Lt__Wire__Open *open)
{
    const lt_stream *stream = open->stream;
    if (clip < rt->n_closed && !rt_clip_find(rt, clip)) {
        tell_safe(rt, producer, clip, stream->n_units);
        return;
    }
    if (!serves(producer, clip)) {
        if (producer->n_open == RT_CLIPS)
            memmove(producer->open, producer->open + 1, --producer->n_open * sizeof *producer->open);
        producer->open[producer->n_open++] = clip;
    }
    rt_clip_arrived(rt, port, clip, open->since, stream);
}

/* A clip that is closed here was given up, or finished, before: the producer has not heard of it. */
static void take_give_up(rt *rt, rt_producer *producer, const Lt__Wire__Header *header)
{
    if (header->clip < rt->n_closed && !rt_clip_find(rt, header->clip))
        tell_safe(rt, producer, header->clip, UINT64_MAX);
    else
        rt_clip_given_up_above(rt, header->clip, header->give_up);
}

/* The slot that a payload came in, whichever memory is used; -1: none. */
static int64_t slot_of(const Lt__Wire__Unit *unit)
{
    return unit->payload_case == LT__WIRE__UNIT__PAYLOAD_SLOT     ? (int64_t)unit->slot
           : unit->payload_case == LT__WIRE__UNIT__PAYLOAD_DEVICE ? (int64_t)unit->device->slot
                                                                  : -1;
}

/* Where the payload is; on success the memory is the item's. */
static lt_status take_payload(rt *rt, const rt_input *input, const rt_producer *producer,
                              const Lt__Wire__Unit *unit, rt_arrival *arrival, rt_memory *memory, void **data,
                              lt_err *err)
{
    int64_t slot = slot_of(unit);
    if (unit->payload_case == LT__WIRE__UNIT__PAYLOAD_DEVICE &&
        !rt->setup.input_device[input->port - rt->stage->inputs])
        return lt_fail(err, LT_E_FORMAT, "a payload on a device, which was not planned");
    if (slot >= 0) {
        if (!producer->has_slab || unit->bytes > producer->slab.slot_bytes ||
            !lt_slab_holds(&producer->slab, (uint32_t)slot, input->me) ||
            is_held_slot(input, &producer->slab, (uint32_t)slot)) /* of another unit, which is still needed */
            return lt_fail(err, LT_E_FORMAT, "slot %lld is not ours", (long long)slot);
        *memory = (rt_memory){.kind = RT_SLOT, .slab = &producer->slab, .slot = (uint32_t)slot};
        *data = lt_slab_memory(&producer->slab, (uint32_t)slot);
        return LT_OK;
    }
    if (unit->payload_case != LT__WIRE__UNIT__PAYLOAD_INLINE)
        return lt_fail(err, LT_E_UNSUPPORTED, "a payload of a kind this version does not know");
    if (!arrival->has_payload || zmq_msg_size(&arrival->payload) != unit->bytes)
        return lt_fail(err, LT_E_FORMAT, "%zu bytes came of %llu",
                       arrival->has_payload ? zmq_msg_size(&arrival->payload) : 0,
                       (unsigned long long)unit->bytes);
    *data = zmq_msg_data(&arrival->payload);
    if ((uintptr_t)*data % LT_PAYLOAD_ALIGNMENT == 0) {
        memory->kind = RT_MESSAGE;
        zmq_msg_init(&memory->message);
        zmq_msg_move(&memory->message, &arrival->payload);
        *data = zmq_msg_data(&memory->message);
        return LT_OK;
    }
    rt_buffer *buffer = rt_buffer_get(&rt->pool, unit->bytes);
    if (!buffer)
        return lt_fail(err, LT_E_NO_MEMORY, "no memory for %llu bytes", (unsigned long long)unit->bytes);
    memcpy(buffer->data, *data, unit->bytes);
    *memory = (rt_memory){.kind = RT_BUFFER, .buffer = buffer};
    *data = buffer->data;
    return LT_OK;
}

static void describe(lt_payload *payload, const Lt__Wire__Unit *unit, void *data)
{
    *payload = (lt_payload){
        .unit = unit->unit, .data = data, .capacity = unit->bytes, .bytes = unit->bytes, .slot = -1};
    if (unit->payload_case == LT__WIRE__UNIT__PAYLOAD_DEVICE) {
        payload->handle_bytes = unit->device->handle.len;
        memcpy(payload->handle, unit->device->handle.data, payload->handle_bytes);
    }
    for (size_t i = 0; i < unit->n_spans; i++) {
        const Lt__Wire__Span *span = unit->spans[i];
        bool is_times = i && i + 1 == unit->n_spans && span->dtype == LT__WIRE__DTYPE__DTYPE_I64;
        lt_span *to = is_times ? &payload->times : &payload->spans[payload->n_spans++];
        *to = (lt_span){.first = span->first,
                        .count = span->count,
                        .dtype = span->dtype,
                        .data = (unsigned char *)data + span->offset,
                        .bytes = span->bytes};
    }
}

static void take_unit(rt *rt, int port, uint32_t replica, rt_arrival *arrival)
{
    rt_input *input = &rt->inputs[port];
    rt_producer *producer = &input->producers[replica];
    const Lt__Wire__Unit *unit = arrival->header->unit_done;
    rt_key key = {arrival->header->clip, unit->unit};
    rt_item *item = rt_input_find(input, key);
    lt_err err;
    void *data = NULL;
    if (!item || item->state != RT_ITEM_WANTED || item->replica != replica) { /* nobody needs it any more */
        int64_t slot = slot_of(unit);
        if (slot >= 0 && producer->has_slab && !is_held_slot(input, &producer->slab, (uint32_t)slot) &&
            lt_slab_release(&producer->slab, (uint32_t)slot, input->me))
            tell_release(rt, producer, key, (uint32_t)slot);
        return;
    }
    if (producer->n_outstanding) producer->n_outstanding--;
    lt_status status = take_payload(rt, input, producer, unit, arrival, &item->memory, &data, &err);
    if (status == LT_E_NO_MEMORY) {
        rt_fail(rt, &err, &key);
    } else if (status) {
        item->state = RT_ITEM_NEEDED;
        rt_complain(rt, "%s: unit %llu of clip %u from replica %u: %s: asking again", input->edge,
                    (unsigned long long)key.unit, key.clip, replica, err.text);
    } else {
        item->state = RT_ITEM_HELD;
        describe(&item->payload, unit, data);
    }
}

static void take(rt *rt, int port, uint32_t replica, rt_arrival *arrival)
{
    const Lt__Wire__Header *header = arrival->header;
    rt_producer *producer = &rt->inputs[port].producers[replica];
    if (header->incarnation != producer->incarnation) return;
    switch (header->body_case) {
    case LT__WIRE__HEADER__BODY_OPEN: take_open(rt, port, producer, header->clip, header->open); break;
    case LT__WIRE__HEADER__BODY_UNIT_DONE: take_unit(rt, port, replica, arrival); break;
    case LT__WIRE__HEADER__BODY_END:
        rt_clip_end_came(rt, port, header->clip, header->end->n_frames, header->end->n_units,
                         header->end->last_duration);
        break;
    case LT__WIRE__HEADER__BODY_CLIPS: rt_clips_known(rt, header->clips); break;
    case LT__WIRE__HEADER__BODY_GIVE_UP: take_give_up(rt, producer, header); break;
    default: rt_complain(rt, "%s: a producer sent what only consumers say", rt->inputs[port].edge); break;
    }
}

void rt_input_receive(rt *rt, int port, uint32_t replica)
{
    for (int i = 0; i < MESSAGES_A_TURN; i++) {
        rt_arrival arrival;
        void *socket = rt->inputs[port].producers[replica].socket;
        lt_status status = socket ? rt_socket_receive(rt, socket, false, &arrival) : LT_AGAIN;
        if (status == LT_AGAIN) return;
        if (status) continue;
        take(rt, port, replica, &arrival);
        lt__wire__header__free_unpacked(arrival.header, NULL);
        zmq_msg_close(&arrival.payload);
    }
}
