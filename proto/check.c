/* check.c - limits and shapes that every message must keep to. */
#include "proto/check.h"

#include <string.h>

enum {
    NAME_MAX_BYTES = 255, /* of a port, an edge, a stage, an option */
    PATH_MAX_BYTES = 4096,
    TEXT_MAX_BYTES = 64 << 10,
    OPTION_MAX_BYTES = 1 << 20,
    ENTRY_MAX_BYTES = 1 << 20,
    LIST_MAX = 4096, /* entries of any list but timestamps */
    PORTS_MAX = 16,
    SINKS_MAX = 64,
    REPLICAS_MAX = 4096,
    IN_FLIGHT_MAX = 65536,
};

#define REFUSE(...)                                                                                          \
    do {                                                                                                     \
        return lt_fail(err, LT_E_FORMAT, __VA_ARGS__);                                                       \
    } while (0)
#define PASS(call)                                                                                           \
    do {                                                                                                     \
        lt_status passed_ = (call);                                                                          \
        if (passed_) return passed_;                                                                         \
    } while (0)

static lt_status check_name(const char *what, const char *name, lt_err *err)
{
    if (!*name || !lt_text_is_clean(name, NAME_MAX_BYTES) || strpbrk(name, "\n\t"))
        REFUSE("%s is empty, too long or not text", what);
    return LT_OK;
}

static lt_status check_text(const char *what, const char *text, size_t max_bytes, lt_err *err)
{
    if (!lt_text_is_clean(text, max_bytes)) REFUSE("%s is too long or not text", what);
    return LT_OK;
}

/* Paths are what the file system allows: any bytes. */
static lt_status check_path(const char *what, const char *path, lt_err *err)
{
    if (strlen(path) > PATH_MAX_BYTES) REFUSE("%s is longer than %d bytes", what, PATH_MAX_BYTES);
    return LT_OK;
}

static lt_status check_count(const char *what, size_t n, size_t max, lt_err *err)
{
    if (n > max) REFUSE("%zu %s; at most %zu are taken", n, what, max);
    return LT_OK;
}

static lt_status check_options(Lt__Wire__Option *const *options, size_t n, lt_err *err)
{
    PASS(check_count("options", n, LIST_MAX, err));
    for (size_t i = 0; i < n; i++) {
        PASS(check_name("name of an option", options[i]->name, err));
        if (strlen(options[i]->text) > OPTION_MAX_BYTES)
            REFUSE("option %s is longer than %d bytes", options[i]->name, OPTION_MAX_BYTES);
    }
    return LT_OK;
}

/* ---- headers ------------------------------------------------------------------------------------------------------ */

static lt_status check_unit(const Lt__Wire__Unit *unit, lt_err *err)
{
    if (unit->n_spans < 1 || unit->n_spans > LT_UNIT_SPANS_MAX) REFUSE("a unit of %zu spans", unit->n_spans);
    if (unit->bytes > LT_UNIT_BYTES_MAX) REFUSE("a unit of %llu bytes", (unsigned long long)unit->bytes);
    uint64_t end = 0;
    for (size_t i = 0; i < unit->n_spans; i++) {
        const Lt__Wire__Span *span = unit->spans[i];
        if (!lt_wire_dtype_bytes(span->dtype))
            REFUSE("span %zu has an unknown dtype %d", i, (int)span->dtype);
        bool is_times = span->dtype == LT__WIRE__DTYPE__DTYPE_I64 && i && i + 1 == unit->n_spans;
        if (is_times ? span->bytes != span->count * 8 : i == LT_UNIT_SPANS_MAX - 1)
            REFUSE("span %zu is neither one of %d runs of frames nor their timestamps", i,
                   LT_UNIT_SPANS_MAX - 1);
        if (!span->count || span->count > LT_STREAM_FRAMES_MAX || span->first > LT_STREAM_FRAMES_MAX)
            REFUSE("span %zu names impossible frames", i);
        if (span->offset % LT_PAYLOAD_ALIGNMENT || span->offset < end || span->offset > unit->bytes ||
            span->bytes > unit->bytes - span->offset || span->bytes % lt_wire_dtype_bytes(span->dtype))
            REFUSE("span %zu lies outside its payload, overlaps or is not aligned", i);
        end = span->offset + span->bytes;
    }
    switch (unit->payload_case) {
    case LT__WIRE__UNIT__PAYLOAD_INLINE:
    case LT__WIRE__UNIT__PAYLOAD_SLOT: return LT_OK;
    case LT__WIRE__UNIT__PAYLOAD_DEVICE:
        if (!unit->device->handle.len || unit->device->handle.len > LT_DEVICE_HANDLE_MAX)
            REFUSE("a device handle of %zu bytes", unit->device->handle.len);
        return LT_OK;
    default: REFUSE("a unit without payload");
    }
}

lt_status lt_header_check(const Lt__Wire__Header *header, lt_err *err)
{
    if (!header->incarnation) REFUSE("a header without incarnation");
    switch (header->body_case) {
    case LT__WIRE__HEADER__BODY_HELLO:
        if (header->hello->replica >= REPLICAS_MAX) REFUSE("Hello from replica %u", header->hello->replica);
        return check_name("edge of a Hello", header->hello->edge, err);
    case LT__WIRE__HEADER__BODY_OPEN:
        if (!header->open->stream) REFUSE("Open without a stream");
        return lt_stream_check(header->open->stream, err);
    case LT__WIRE__HEADER__BODY_UNIT_DONE: return check_unit(header->unit_done, err);
    case LT__WIRE__HEADER__BODY_GIVE_UP:
        PASS(check_text("name of a clip", header->give_up->name, NAME_MAX_BYTES, err));
        PASS(check_text("entry of a clip", header->give_up->entry, ENTRY_MAX_BYTES, err));
        PASS(check_text("key of a clip", header->give_up->key, NAME_MAX_BYTES, err));
        return check_text("reason to give up", header->give_up->reason, TEXT_MAX_BYTES, err);
    case LT__WIRE__HEADER__BODY_CLIPS:
        if (header->clips->ended && header->clips->closed > header->clips->n_clips)
            REFUSE("%u clips of %u are closed", header->clips->closed, header->clips->n_clips);
        return LT_OK;
    case LT__WIRE__HEADER__BODY_END:
        if (!header->end->n_frames || header->end->n_frames > LT_STREAM_FRAMES_MAX || !header->end->n_units ||
            header->end->n_units > header->end->n_frames || header->end->last_duration < 0)
            REFUSE("an End of %llu frames in %llu units", (unsigned long long)header->end->n_frames,
                   (unsigned long long)header->end->n_units);
        return LT_OK;
    case LT__WIRE__HEADER__BODY_WANT:
    case LT__WIRE__HEADER__BODY_RELEASE:
    case LT__WIRE__HEADER__BODY_SAFE: return LT_OK;
    default: REFUSE("a header without body");
    }
}

/* ---- control -------------------------------------------------------------------------------------------------------- */

static lt_status check_key(const ProtobufCBinaryData *key, lt_err *err)
{
    if (key->len != 0 && key->len != 32 && key->len != 40)
        REFUSE("a key of %zu bytes (32, or 40 in Z85)", key->len);
    return LT_OK;
}

static lt_status check_peer(const Lt__Wire__Peer *peer, lt_err *err)
{
    PASS(check_name("edge of a peer", peer->edge, err));
    PASS(check_path("endpoint of a peer", peer->endpoint, err));
    PASS(check_key(&peer->public_key, err));
    if (peer->replica >= REPLICAS_MAX) REFUSE("peer of %s: replica %u", peer->edge, peer->replica);
    if (peer->slab_fd < -1) REFUSE("peer of %s: descriptor %d", peer->edge, peer->slab_fd);
    return LT_OK;
}

static lt_status check_output_port(const Lt__Wire__OutputPort *port, lt_err *err)
{
    PASS(check_name("an output port", port->port, err));
    PASS(check_count("edges", port->n_edges, LIST_MAX, err));
    for (size_t i = 0; i < port->n_edges; i++) PASS(check_name("an edge", port->edges[i], err));
    if (!*port->bind) REFUSE("port %s has no endpoint to bind", port->port);
    PASS(check_path("an endpoint", port->bind, err));
    if (port->slab_fd < -1) REFUSE("port %s: descriptor %d", port->port, port->slab_fd);
    PASS(check_text("id of a device", port->device_id, NAME_MAX_BYTES, err));
    if (port->slot_bytes > LT_UNIT_BYTES_MAX || port->memo_units > IN_FLIGHT_MAX)
        REFUSE("port %s: slots of %llu bytes, %u results kept", port->port,
               (unsigned long long)port->slot_bytes, port->memo_units);
    return LT_OK;
}

static lt_status check_input_port(const Lt__Wire__InputPort *port, lt_err *err)
{
    PASS(check_name("an input port", port->port, err));
    PASS(check_name("an edge", port->edge, err));
    PASS(check_text("id of a device", port->device_id, NAME_MAX_BYTES, err));
    if (!port->in_flight || port->in_flight > IN_FLIGHT_MAX || !port->n_replicas ||
        port->n_replicas > REPLICAS_MAX)
        REFUSE("port %s: %u in flight, %u producers", port->port, port->in_flight, port->n_replicas);
    return LT_OK;
}

static lt_status check_pipe(const Lt__Wire__Pipe *pipe, lt_err *err)
{
    if (pipe && (pipe->fd < 3 || pipe->head_fd < 3 || pipe->fd == pipe->head_fd))
        REFUSE("a pipe with descriptors %d and %d", pipe->fd, pipe->head_fd);
    return LT_OK;
}

static lt_status check_boot(const Lt__Wire__Boot *boot, lt_err *err)
{
    PASS(check_name("name of the stage", boot->stage, err));
    if (!boot->incarnation || boot->replica >= REPLICAS_MAX || boot->replica >= boot->n_replicas)
        REFUSE("stage %s: replica %u of %u, incarnation %u", boot->stage, boot->replica, boot->n_replicas,
               boot->incarnation);
    PASS(check_options(boot->options, boot->n_options, err));
    PASS(check_path("base_folder", boot->base_folder, err));
    PASS(check_path("run_folder", boot->run_folder, err));
    PASS(check_path("cache", boot->cache, err));
    PASS(check_key(&boot->secret_key, err));
    PASS(check_key(&boot->public_key, err));
    PASS(check_count("input ports", boot->n_inputs, PORTS_MAX, err));
    PASS(check_count("output ports", boot->n_outputs, PORTS_MAX, err));
    for (size_t i = 0; i < boot->n_inputs; i++) PASS(check_input_port(boot->inputs[i], err));
    for (size_t i = 0; i < boot->n_outputs; i++) PASS(check_output_port(boot->outputs[i], err));
    PASS(check_count("peers", boot->n_peers, REPLICAS_MAX * PORTS_MAX, err));
    for (size_t i = 0; i < boot->n_peers; i++) PASS(check_peer(boot->peers[i], err));
    return check_pipe(boot->pipe, err);
}

lt_status lt_control_check(const Lt__Wire__Control *control, lt_err *err)
{
    switch (control->body_case) {
    case LT__WIRE__CONTROL__BODY_BOOT: return check_boot(control->boot, err);
    case LT__WIRE__CONTROL__BODY_PEER: return check_peer(control->peer, err);
    case LT__WIRE__CONTROL__BODY_GIVE_UP:
        return check_text("reason to give up", control->give_up->reason, TEXT_MAX_BYTES, err);
    case LT__WIRE__CONTROL__BODY_STOP: return LT_OK;
    default: REFUSE("a control message without body");
    }
}

lt_status lt_report_check(const Lt__Wire__Report *report, lt_err *err)
{
    switch (report->body_case) {
    case LT__WIRE__REPORT__BODY_READY:
        PASS(check_count("endpoints", report->ready->n_bound, PORTS_MAX, err));
        for (size_t i = 0; i < report->ready->n_bound; i++) {
            PASS(check_name("a bound port", report->ready->bound[i]->port, err));
            PASS(check_name("a bound endpoint", report->ready->bound[i]->endpoint, err));
        }
        return check_text("numeric class", report->ready->numeric_class, NAME_MAX_BYTES, err);
    case LT__WIRE__REPORT__BODY_FAILED:
        if (report->failed->status >= LT_N_STATUS) REFUSE("failed with status %u", report->failed->status);
        if (strlen(report->failed->text) > TEXT_MAX_BYTES) REFUSE("the text of a failure is too long");
        return LT_OK;
    case LT__WIRE__REPORT__BODY_DONE:
        PASS(check_count("outputs", report->done->n_outputs, IN_FLIGHT_MAX, err));
        for (size_t i = 0; i < report->done->n_outputs; i++)
            PASS(check_path("an output", report->done->outputs[i], err));
        return LT_OK;
    case LT__WIRE__REPORT__BODY_CLIP_END:
        PASS(check_text("name of a clip", report->clip_end->name, NAME_MAX_BYTES, err));
        PASS(check_text("entry of a clip", report->clip_end->entry, ENTRY_MAX_BYTES, err));
        PASS(check_text("key of a clip", report->clip_end->key, NAME_MAX_BYTES, err));
        PASS(check_text("digest of a clip", report->clip_end->digest, NAME_MAX_BYTES, err));
        PASS(check_path("what was made of a clip", report->clip_end->result, err));
        return check_text("reason of a clip", report->clip_end->reason, TEXT_MAX_BYTES, err);
    case LT__WIRE__REPORT__BODY_STARTED:
    case LT__WIRE__REPORT__BODY_PROGRESS: return LT_OK;
    default: REFUSE("a report without body");
    }
}

/* ---- plan ------------------------------------------------------------------------------------------------------------ */

static lt_status check_planned(const char *port, const lt_stream *stream, lt_err *err)
{
    PASS(check_name("a planned port", port, err));
    if (!stream) REFUSE("port %s is planned without a stream", port);
    lt_status status = lt_stream_check(stream, err);
    if (status) lt_err_prefix(err, "port %s", port);
    return status;
}

lt_status lt_plan_request_check(const Lt__Wire__PlanRequest *request, lt_err *err)
{
    PASS(check_options(request->options, request->n_options, err));
    PASS(check_path("base_folder", request->base_folder, err));
    PASS(check_path("cache", request->cache, err));
    PASS(check_count("outputs", request->n_outputs, SINKS_MAX, err));
    for (size_t i = 0; i < request->n_outputs; i++) PASS(check_path("an output", request->outputs[i], err));
    PASS(check_count("planned inputs", request->n_inputs, PORTS_MAX, err));
    for (size_t i = 0; i < request->n_inputs; i++) {
        PASS(check_planned(request->inputs[i]->port, request->inputs[i]->stream, err));
        PASS(check_text("id of a device", request->inputs[i]->device_id, NAME_MAX_BYTES, err));
    }
    return check_pipe(request->pipe, err);
}

lt_status lt_plan_reply_check(const Lt__Wire__PlanReply *reply, lt_err *err)
{
    if (reply->status >= LT_N_STATUS) REFUSE("a plan of status %u", reply->status);
    if (strlen(reply->text) > TEXT_MAX_BYTES) REFUSE("the text of a plan is too long");
    PASS(check_text("a device", reply->device, 64, err));
    PASS(check_text("a device's title", reply->device_title, 256, err));
    if (reply->device_bytes >> 56 || reply->device_total_bytes >> 56 || reply->device_free_bytes >> 56)
        REFUSE("a plan of more bytes than any device has");
    PASS(check_options(reply->resolved, reply->n_resolved, err));
    PASS(check_count("planned outputs", reply->n_outputs, PORTS_MAX, err));
    for (size_t i = 0; i < reply->n_outputs; i++) {
        PASS(check_planned(reply->outputs[i]->port, reply->outputs[i]->stream, err));
        PASS(check_text("id of a device", reply->outputs[i]->device_id, NAME_MAX_BYTES, err));
    }
    PASS(check_count("ports in flight", reply->n_in_flight, PORTS_MAX, err));
    for (size_t i = 0; i < reply->n_in_flight; i++) {
        PASS(check_name("a port in flight", reply->in_flight[i]->port, err));
        PASS(check_count("units in flight", reply->in_flight[i]->units, IN_FLIGHT_MAX, err));
    }
    PASS(check_count("notes", reply->n_notes, LIST_MAX, err));
    for (size_t i = 0; i < reply->n_notes; i++)
        PASS(check_text("a note", reply->notes[i], TEXT_MAX_BYTES, err));
    if (!(reply->flops >= 0 && reply->flops < 1e30) || !(reply->work_factor >= 0 && reply->work_factor < 1e9))
        REFUSE("a plan of %g operations, work factor %g", reply->flops, reply->work_factor);
    return LT_OK;
}
