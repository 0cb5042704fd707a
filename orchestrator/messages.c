/* messages.c - Boot, Peer and Stop. */
#include "orchestrator/messages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PORTS = 16 };

/* ---- sending ----------------------------------------------------------------------------------------- */

void lt_flush_control(lt_replica *replica)
{
    size_t done = 0;
    while (done < replica->n_pending && replica->control >= 0) {
        ssize_t n = write(replica->control, replica->pending + done, replica->n_pending - done);
        if (n > 0)
            done += (size_t)n;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR) {
            close(replica->control);
            replica->control = -1;
        }
    }
    if (replica->control < 0) done = replica->n_pending;
    if (done) memmove(replica->pending, replica->pending + done, replica->n_pending - done);
    replica->n_pending -= done;
}

static lt_status send_control(lt_replica *replica, const Lt__Wire__Control *message, lt_err *err)
{
    void *frame = NULL;
    size_t bytes = 0;
    if (replica->control < 0) return LT_OK;
    lt_status status = lt_control_pack(message, &frame, &bytes, err);
    if (status) return status;
    if (replica->n_pending + bytes > replica->pending_capacity) {
        size_t capacity = 2 * (replica->n_pending + bytes);
        unsigned char *pending = realloc(replica->pending, capacity);
        if (!pending) {
            free(frame);
            return lt_fail(err, LT_E_NO_MEMORY, "no memory for a message to %s", replica->name);
        }
        replica->pending = pending;
        replica->pending_capacity = capacity;
    }
    memcpy(replica->pending + replica->n_pending, frame, bytes);
    replica->n_pending += bytes;
    free(frame);
    lt_flush_control(replica);
    return LT_OK;
}

void lt_send_stop(lt_replica *replica, bool gracefully)
{
    Lt__Wire__Stop stop = LT__WIRE__STOP__INIT;
    Lt__Wire__Control control = LT__WIRE__CONTROL__INIT;
    stop.gracefully = gracefully;
    control.body_case = LT__WIRE__CONTROL__BODY_STOP;
    control.stop = &stop;
    /* Without memory for it, the signals that follow do the same. */
    (void)send_control(replica, &control, NULL);
}

void lt_send_give_up(lt_replica *replica, uint32_t clip, const char *reason)
{
    Lt__Wire__GiveUp give_up = LT__WIRE__GIVE_UP__INIT;
    Lt__Wire__Control control = LT__WIRE__CONTROL__INIT;
    give_up.clip = clip;
    give_up.reason = (char *)reason;
    control.body_case = LT__WIRE__CONTROL__BODY_GIVE_UP;
    control.give_up = &give_up;
    /* Without memory for it, the clip's next crash says so again. */
    (void)send_control(replica, &control, NULL);
}

/* ---- peers ------------------------------------------------------------------------------------------- */

/* How `replica` looks along an edge, to its other end. */
static Lt__Wire__Peer peer_of(const lt_run *run, const lt_replica *replica, const lt_edge *edge)
{
    Lt__Wire__Peer peer = LT__WIRE__PEER__INIT;
    bool is_producer = replica->stage == edge->producer;
    const lt_outlet *outlet = is_producer ? &replica->outlets[edge->output] : NULL;
    peer.edge = (char *)edge->name;
    peer.replica = (uint32_t)replica->replica;
    peer.incarnation = replica->pid ? replica->incarnation : 0;
    peer.slab_fd = outlet ? outlet->fd : -1;
    if (outlet && outlet->endpoint && peer.incarnation) peer.endpoint = outlet->endpoint;
    if (run->graph->is_tcp) {
        peer.public_key.data = (uint8_t *)replica->public_key;
        peer.public_key.len = LT_KEY_BYTES;
    }
    return peer;
}

/* A producer that is not ready has no endpoint to tell. */
static bool is_news(const lt_replica *replica, const lt_edge *edge)
{
    return !replica->pid || replica->stage != edge->producer || replica->outlets[edge->output].endpoint;
}

static void announce_along(const lt_run *run, const lt_replica *replica, const lt_edge *edge)
{
    int other = replica->stage == edge->producer ? edge->consumer : edge->producer;
    Lt__Wire__Peer peer = peer_of(run, replica, edge);
    Lt__Wire__Control control = LT__WIRE__CONTROL__INIT;
    control.body_case = LT__WIRE__CONTROL__BODY_PEER;
    control.peer = &peer;
    for (int i = 0; i < run->graph->stages[other].replicas; i++) {
        lt_replica *neighbour = lt_run_replica(run, other, i);
        if (neighbour->pid) (void)send_control(neighbour, &control, NULL);
    }
}

void lt_announce(const lt_run *run, const lt_replica *replica)
{
    for (int e = 0; e < run->graph->n_edges; e++) {
        const lt_edge *edge = &run->graph->edges[e];
        if ((edge->producer == replica->stage || edge->consumer == replica->stage) && is_news(replica, edge))
            announce_along(run, replica, edge);
    }
}

/* ---- boot -------------------------------------------------------------------------------------------- */

/* Everything a Boot points to. */
typedef struct boot_parts {
    Lt__Wire__Boot boot;
    Lt__Wire__InputPort inputs[MAX_PORTS], *input_list[MAX_PORTS];
    Lt__Wire__OutputPort outputs[MAX_PORTS], *output_list[MAX_PORTS];
    char *edge_names[LT_MAX_STAGES * MAX_PORTS];
    size_t n_edge_names;
    Lt__Wire__Pipe pipe;
    char binds[MAX_PORTS][160];
    Lt__Wire__Peer *peers, **peer_list;
} boot_parts;

static void add_inputs(const lt_run *run, const lt_replica *replica, boot_parts *parts)
{
    const lt_graph *graph = run->graph;
    parts->boot.inputs = parts->input_list;
    for (int e = 0; e < graph->n_edges && parts->boot.n_inputs < MAX_PORTS; e++) {
        const lt_edge *edge = &graph->edges[e];
        if (edge->consumer != replica->stage) continue;
        Lt__Wire__InputPort *input = &parts->inputs[parts->boot.n_inputs];
        lt__wire__input_port__init(input);
        input->port = (char *)graph->stages[edge->consumer].described->inputs[edge->input].name;
        input->edge = (char *)edge->name;
        input->in_flight = run->plan->edges[e].in_flight;
        input->n_replicas = (uint32_t)graph->stages[edge->producer].replicas;
        if (run->plan->edges[e].device_id) input->device_id = (char *)run->plan->edges[e].device_id;
        parts->input_list[parts->boot.n_inputs++] = input;
    }
}

static void add_outputs(const lt_run *run, const lt_replica *replica, boot_parts *parts)
{
    const lt_graph *graph = run->graph;
    const lt_described *d = graph->stages[replica->stage].described;
    parts->boot.outputs = parts->output_list;
    for (int port = 0; port < d->n_outputs && port < MAX_PORTS; port++) {
        const lt_planned_output *planned = &run->plan->stages[replica->stage].outputs[port];
        Lt__Wire__OutputPort *output = &parts->outputs[port];
        lt__wire__output_port__init(output);
        output->port = (char *)d->outputs[port].name;
        output->edges = parts->edge_names + parts->n_edge_names;
        for (int e = 0; e < graph->n_edges; e++)
            if (graph->edges[e].producer == replica->stage && graph->edges[e].output == port) {
                parts->edge_names[parts->n_edge_names++] = (char *)graph->edges[e].name;
                output->n_edges++;
                if (run->plan->edges[e].device_id) output->device_id = (char *)run->plan->edges[e].device_id;
            }
        output->slab_fd = replica->outlets[port].fd;
        output->slot_bytes = planned->slot_bytes;
        output->n_slots = planned->n_slots;
        output->memo_units = planned->memo_units;
        output->bind = parts->binds[port];
        if (graph->is_tcp)
            snprintf(parts->binds[port], sizeof parts->binds[port], "tcp://127.0.0.1:*");
        else
            snprintf(parts->binds[port], sizeof parts->binds[port], "ipc://%s/%d.%d.%d.%u", run->sockets,
                     replica->stage, port, replica->replica, replica->incarnation);
        parts->output_list[parts->boot.n_outputs++] = output;
    }
}

/* Neighbours that are there already. */
static lt_status add_peers(const lt_run *run, const lt_replica *replica, boot_parts *parts, lt_err *err)
{
    const lt_graph *graph = run->graph;
    size_t room = (size_t)graph->n_edges * LT_MAX_REPLICAS;
    parts->peers = calloc(LT_MAX(room, 1), sizeof *parts->peers);
    parts->peer_list = calloc(LT_MAX(room, 1), sizeof(Lt__Wire__Peer *));
    if (!parts->peers || !parts->peer_list) return lt_fail(err, LT_E_NO_MEMORY, "no memory to start a stage");
    parts->boot.peers = parts->peer_list;
    for (int e = 0; e < graph->n_edges; e++) {
        const lt_edge *edge = &graph->edges[e];
        if (edge->producer != replica->stage && edge->consumer != replica->stage) continue;
        int other = edge->producer == replica->stage ? edge->consumer : edge->producer;
        for (int i = 0; i < graph->stages[other].replicas; i++) {
            const lt_replica *neighbour = lt_run_replica(run, other, i);
            if (!neighbour->pid || !is_news(neighbour, edge)) continue;
            parts->peers[parts->boot.n_peers] = peer_of(run, neighbour, edge);
            parts->peer_list[parts->boot.n_peers] = &parts->peers[parts->boot.n_peers];
            parts->boot.n_peers++;
        }
    }
    return LT_OK;
}

static void add_identity(const lt_run *run, const lt_replica *replica, boot_parts *parts)
{
    const lt_graph_stage *stage = &run->graph->stages[replica->stage];
    Lt__Wire__Boot *boot = &parts->boot;
    boot->run = run->id;
    boot->stage = (char *)stage->name;
    boot->replica = (uint32_t)replica->replica;
    boot->n_replicas = (uint32_t)stage->replicas;
    boot->incarnation = replica->incarnation;
    boot->base_folder = (char *)run->graph->base;
    boot->run_folder = (char *)lt_run_folder_of(run->folder, stage);
    boot->cache = (char *)(run->graph->cache ? run->graph->cache : "");
    boot->threads = (uint32_t)run->plan->stages[replica->stage].threads;
    boot->log_level = LT_LOG_INFO;
    boot->mixed = stage->mixed;
    const lt_pipe *pipe = &run->plan->stages[replica->stage].pipe;
    if (pipe->fd) {
        lt__wire__pipe__init(&parts->pipe);
        parts->pipe.fd = pipe->fd;
        parts->pipe.head_fd = pipe->head_fd;
        boot->pipe = &parts->pipe;
    }
    if (!run->graph->is_tcp) return;
    boot->secret_key = (ProtobufCBinaryData){LT_KEY_BYTES, (uint8_t *)replica->secret_key};
    boot->public_key = (ProtobufCBinaryData){LT_KEY_BYTES, (uint8_t *)replica->public_key};
}

lt_status lt_send_boot(const lt_run *run, lt_replica *replica, lt_err *err)
{
    lt_arena arena = {0};
    boot_parts *parts = calloc(1, sizeof *parts);
    lt_status status;
    if (!parts) return lt_fail(err, LT_E_NO_MEMORY, "no memory to start a stage");
    lt__wire__boot__init(&parts->boot);
    add_identity(run, replica, parts);
    add_inputs(run, replica, parts);
    add_outputs(run, replica, parts);
    parts->boot.options =
        lt_plan_options(run->graph, replica->stage, run->manifest->resolved, run->manifest->n_resolved,
                        run->plan->stages[replica->stage].reply, &arena, &parts->boot.n_options);
    status = parts->boot.options ? add_peers(run, replica, parts, err)
                                 : lt_fail(err, LT_E_NO_MEMORY, "no memory to start a stage");
    if (!status) {
        Lt__Wire__Control control = LT__WIRE__CONTROL__INIT;
        control.body_case = LT__WIRE__CONTROL__BODY_BOOT;
        control.boot = &parts->boot;
        status = send_control(replica, &control, err);
    }
    free(parts->peers);
    free(parts->peer_list);
    free(parts);
    lt_arena_finish(&arena);
    return status;
}
