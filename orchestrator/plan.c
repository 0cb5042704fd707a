/* plan.c - asks stages for geometry, memory and work, producers first. */
#include "orchestrator/plan.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/ask.h"
#include "orchestrator/check.h"
#include "proto/check.h"
#include "proto/wire.h"
#include "stages/runtime/slab.h"

/* A source may have to look through hours of video for its timestamps. */
enum { PLAN_SECONDS = 1800, CHECK_SECONDS = 60, DEFAULT_IN_FLIGHT = 2 };

/* FFmpeg's SIMD reads a little beyond the last pixel, which must not be beyond the mapping. */
enum { SLOT_PADDING = 64 };

/* Of a slot's twin on a device: LT_SHARE_ALIGNMENT of kernels/share.h. */
enum { DEVICE_SLOT_ALIGNMENT = 2 << 20 };

typedef struct planner {
    const lt_graph *graph;
    const lt_resolved *recorded;
    int n_recorded;
    lt_run_plan *plan;
    lt_arena *arena;
} planner;

/* ---- options ----------------------------------------------------------------------------------------- */

static bool set_option(Lt__Wire__Option **options, size_t *n, const char *name, const char *text,
                       lt_arena *arena)
{
    size_t at = 0;
    while (at < *n && strcmp(options[at]->name, name)) at++;
    if (at == *n) {
        options[at] = lt_arena_alloc(arena, sizeof **options);
        if (!options[at]) return false;
        lt__wire__option__init(options[at]);
        (*n)++;
    }
    options[at]->name = lt_arena_strdup(arena, name);
    options[at]->text = lt_arena_strdup(arena, text);
    return options[at]->name && options[at]->text;
}

Lt__Wire__Option **lt_plan_options(const lt_graph *graph, int index, const lt_resolved *recorded,
                                   int n_recorded, const Lt__Wire__PlanReply *reply, lt_arena *arena,
                                   size_t *n)
{
    const lt_graph_stage *stage = &graph->stages[index];
    size_t room = (size_t)stage->n_given + (size_t)n_recorded + (reply ? reply->n_resolved : 0) + 1;
    Lt__Wire__Option **options = lt_arena_alloc(arena, room * sizeof *options);
    bool ok = options != NULL;
    *n = 0;
    for (int i = 0; i < stage->n_given && ok; i++)
        ok = set_option(options, n, stage->given[i].name, stage->given[i].text, arena);
    for (int i = 0; i < n_recorded && ok; i++)
        if (!strcmp(recorded[i].stage, stage->name))
            ok = set_option(options, n, recorded[i].name, recorded[i].text, arena);
    for (size_t i = 0; reply && i < reply->n_resolved && ok; i++)
        ok = set_option(options, n, reply->resolved[i]->name, reply->resolved[i]->text, arena);
    return ok ? options : NULL;
}

/* ---- one stage --------------------------------------------------------------------------------------- */

static const char *place_of(const planner *p, const lt_graph_stage *stage)
{
    const char *text = stage->where.set
                           ? lt_arena_printf(p->arena, "%s: stage \"%s\"", stage->where.set, stage->name)
                           : lt_arena_printf(p->arena, "%s:%d:%d: stage \"%s\"", p->graph->file,
                                             stage->where.line, stage->where.column, stage->name);
    return text ? text : stage->name;
}

/* The id of the device on which the producer of an edge can leave payloads, "" where it cannot, or others want them too: what is on a
 * device has one consumer. */
static const char *offered_device(const planner *p, int edge)
{
    const lt_edge *e = &p->graph->edges[edge];
    const Lt__Wire__PlanReply *reply = p->plan->stages[e->producer].reply;
    const char *port = p->graph->stages[e->producer].described->outputs[e->output].name;
    if (p->graph->is_tcp) return "";
    for (int i = 0; i < p->graph->n_edges; i++)
        if (i != edge && p->graph->edges[i].producer == e->producer && p->graph->edges[i].output == e->output)
            return "";
    for (size_t i = 0; i < reply->n_outputs; i++)
        if (!strcmp(reply->outputs[i]->port, port)) return reply->outputs[i]->device_id;
    return "";
}

/* What the consumer of an edge said to that. */
static bool takes_device(const planner *p, int edge)
{
    const lt_edge *e = &p->graph->edges[edge];
    const Lt__Wire__PlanReply *reply = p->plan->stages[e->consumer].reply;
    const char *port = p->graph->stages[e->consumer].described->inputs[e->input].name;
    for (size_t i = 0; i < reply->n_in_flight; i++)
        if (!strcmp(reply->in_flight[i]->port, port)) return reply->in_flight[i]->on_device;
    return false;
}

/* What the sinks downstream of a stage write. */
static size_t outputs_of(const lt_graph *graph, int stage, char *outputs[LT_MAX_STAGES])
{
    bool is_below[LT_MAX_STAGES] = {false};
    size_t n = 0;
    is_below[stage] = true;
    for (int i = 0; i < graph->n_stages; i++) /* producers first */
        for (int e = 0; e < graph->n_edges; e++)
            if (graph->edges[e].producer == graph->order[i] && is_below[graph->order[i]])
                is_below[graph->edges[e].consumer] = true;
    for (int i = 0; i < graph->n_stages; i++) {
        const char *output = is_below[i] ? lt_stage_output(&graph->stages[i]) : NULL;
        if (output) outputs[n++] = (char *)output;
    }
    return n;
}

/* The request of a stage, framed. */
static lt_status pack_request(planner *p, int index, void **frame, size_t *bytes, lt_err *err)
{
    const lt_graph *graph = p->graph;
    const lt_graph_stage *stage = &graph->stages[index];
    Lt__Wire__PlanRequest request = LT__WIRE__PLAN_REQUEST__INIT;
    Lt__Wire__PlannedInput inputs[16], *input_list[16];
    char *outputs[LT_MAX_STAGES];
    request.outputs = outputs;
    request.n_outputs = outputs_of(graph, index, outputs);
    request.options =
        lt_plan_options(graph, index, p->recorded, p->n_recorded, NULL, p->arena, &request.n_options);
    request.base_folder = (char *)graph->base;
    request.cache = (char *)(graph->cache ? graph->cache : "");
    request.threads = (uint32_t)p->plan->stages[index].threads;
    Lt__Wire__Pipe pipe = LT__WIRE__PIPE__INIT;
    if (p->plan->stages[index].pipe.fd) {
        pipe.fd = p->plan->stages[index].pipe.fd;
        pipe.head_fd = p->plan->stages[index].pipe.head_fd;
        request.pipe = &pipe;
    }
    request.inputs = input_list;
    for (int e = 0; e < graph->n_edges && request.n_inputs < LT_COUNT(inputs); e++) {
        if (graph->edges[e].consumer != index) continue;
        Lt__Wire__PlannedInput *input = &inputs[request.n_inputs];
        lt__wire__planned_input__init(input);
        input->port = (char *)stage->described->inputs[graph->edges[e].input].name;
        input->stream = p->plan->edges[e].stream;
        input->device_id = (char *)offered_device(p, e);
        input_list[request.n_inputs++] = input;
    }
    if (!request.options) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the plan");
    return lt_plan_request_pack(&request, frame, bytes, err);
}

/* The reply in an answer, or an error with the best sentence there is. */
static lt_status unpack_reply(const lt_answer *answer, Lt__Wire__PlanReply **reply, lt_err *err)
{
    lt_err why = {0};
    lt_status unpacked = lt_plan_reply_unpack(answer->out, answer->out_bytes, reply, &why);
    int number = answer->exit_code - 128; /* of the signal, as shells say it */
    if (unpacked && number > 0)
        return lt_fail(err, LT_E_INTERNAL, "planning died of signal %d (%s)%s%s", number, strsignal(number),
                       *answer->errors ? ": " : "", answer->errors);
    if (unpacked && answer->exit_code)
        return lt_fail(err, LT_E_INTERNAL, "planning ended with code %d%s%s", answer->exit_code,
                       *answer->errors ? ": " : "", answer->errors);
    if (unpacked) return lt_fail(err, unpacked, "its answer cannot be read: %s", why.text);
    if (!(*reply)->status) return LT_OK;
    lt_status status = (*reply)->status < LT_N_STATUS ? (lt_status)(*reply)->status : LT_E_INVALID;
    return lt_fail(err, status, "%s",
                   (*reply)->text && *(*reply)->text ? (*reply)->text : lt_status_string(status));
}

lt_status lt_plan_check(const lt_graph *graph, int stage, lt_arena *arena, lt_err *err)
{
    Lt__Wire__PlanRequest request = LT__WIRE__PLAN_REQUEST__INIT;
    Lt__Wire__PlanReply *reply = NULL;
    lt_answer answer = {0};
    void *frame = NULL;
    size_t bytes = 0;
    request.options = lt_plan_options(graph, stage, NULL, 0, NULL, arena, &request.n_options);
    request.base_folder = (char *)graph->base;
    if (!request.options) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the check");
    lt_status status = lt_plan_request_pack(&request, &frame, &bytes, err);
    if (!status)
        status = lt_ask(graph->stages[stage].described->program, "--check", frame, bytes, CHECK_SECONDS,
                        &answer, err);
    if (!status) status = unpack_reply(&answer, &reply, err);
    if (reply) lt__wire__plan_reply__free_unpacked(reply, NULL);
    lt_answer_finish(&answer);
    free(frame);
    return status;
}

/* Units of all clips, where the plan's stream stands for several. */
static uint64_t units_of_run(const Lt__Wire__Stream *stream)
{
    if (!stream->run_frames || !stream->n_frames) return stream->n_units;
    double times = (double)stream->run_frames / (double)stream->n_frames;
    return LT_MAX((uint64_t)((double)stream->n_units * times), UINT64_C(1));
}

/* Streams of the reply, by output port. What a stage says of itself is not believed before it has been looked at. */
static lt_status take_outputs(planner *p, int index, lt_err *err)
{
    const lt_described *d = p->graph->stages[index].described;
    lt_planned_stage *planned = &p->plan->stages[index];
    planned->outputs = lt_arena_alloc(p->arena, (size_t)LT_MAX(d->n_outputs, 1) * sizeof *planned->outputs);
    if (!planned->outputs) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the plan");
    for (int port = 0; port < d->n_outputs; port++) {
        Lt__Wire__Stream *stream = NULL;
        for (size_t i = 0; i < planned->reply->n_outputs; i++)
            if (!strcmp(planned->reply->outputs[i]->port, d->outputs[port].name))
                stream = planned->reply->outputs[i]->stream;
        if (!stream)
            return lt_fail(err, LT_E_FORMAT, "its plan says nothing of output \"%s\"", d->outputs[port].name);
        if (stream->kind < 1 || stream->kind > 31 || !(d->outputs[port].kinds & 1u << stream->kind))
            return lt_fail(err, LT_E_FORMAT, "its output \"%s\" is planned as another kind than it describes",
                           d->outputs[port].name);
        if (lt_stream_check(stream, err))
            return lt_err_prefix(err, "its plan of output \"%s\"", d->outputs[port].name);
        planned->outputs[port].stream = stream;
        planned->units = units_of_run(stream);
    }
    return LT_OK;
}

static lt_status plan_stage(planner *p, int index, lt_err *err)
{
    const lt_graph_stage *stage = &p->graph->stages[index];
    lt_planned_stage *planned = &p->plan->stages[index];
    lt_answer answer = {0};
    size_t bytes = 0;
    if (planned->reply) lt__wire__plan_reply__free_unpacked(planned->reply, NULL);
    planned->reply = NULL;
    void *request = NULL;
    const int kept[] = {planned->pipe.fd, planned->pipe.head_fd};
    lt_status status = pack_request(p, index, &request, &bytes, err);
    if (!status)
        status = lt_ask_keeping(stage->described->program, "--plan", request, bytes, PLAN_SECONDS, kept,
                                planned->pipe.fd ? 2 : 0, &answer, err);
    if (!status) status = unpack_reply(&answer, &planned->reply, err);
    if (!status) status = take_outputs(p, index, err);
    for (int e = 0; e < p->graph->n_edges && !status; e++) {
        const lt_edge *edge = &p->graph->edges[e];
        if (edge->producer == index) p->plan->edges[e].stream = planned->outputs[edge->output].stream;
        if (edge->consumer == index && !stage->described->n_outputs)
            planned->units = units_of_run(p->plan->edges[e].stream);
        unsigned kinds = p->graph->stages[edge->consumer].described->inputs[edge->input].kinds;
        if (edge->producer == index && !(kinds & 1u << p->plan->edges[e].stream->kind))
            status = lt_fail(err, LT_E_INVALID, "gives %s, which stage \"%s\" does not take",
                             lt_kinds_text(p->arena, 1u << p->plan->edges[e].stream->kind),
                             p->graph->stages[edge->consumer].name);
    }
    free(request);
    lt_answer_finish(&answer);
    return status ? lt_err_prefix(err, "%s", place_of(p, stage)) : LT_OK;
}

/* ---- all stages -------------------------------------------------------------------------------------- */

/* On the cores, not on a device. */
static bool computes_here(const Lt__Wire__PlanReply *reply)
{
    return reply->flops > 0 && !*reply->device;
}

int lt_plan_threads(const lt_run_plan *plan, int index)
{
    const lt_graph *graph = plan->graph;
    const lt_graph_stage *stage = &graph->stages[index];
    int n_compute = 0;
    if (stage->threads) return stage->threads;
    for (int i = 0; i < graph->n_stages; i++)
        if (plan->stages[i].reply && computes_here(plan->stages[i].reply))
            n_compute += graph->stages[i].replicas;
    if (!plan->stages[index].reply) return plan->cores;
    if (!computes_here(plan->stages[index].reply)) return LT_MIN(plan->cores, 4);
    int share = (plan->cores + n_compute - 1) / n_compute;
    return LT_MAX(share, LT_MIN(plan->cores, 2));
}

static int count_cores(const lt_graph *graph)
{
    cpu_set_t set;
    if (graph->threads) return graph->threads;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : LT_MAX(CPU_COUNT(&set), 1);
}

static uint32_t replicas(const planner *p, int stage)
{
    return (uint32_t)p->graph->stages[stage].replicas;
}

/* How many units one consumer of an edge wants at once: what it said, and enough that every replica of the producer has one to
 * make while others are waited for or consumed. */
static uint32_t in_flight(const planner *p, const lt_edge *edge)
{
    const Lt__Wire__PlanReply *reply = p->plan->stages[edge->consumer].reply;
    const char *port = p->graph->stages[edge->consumer].described->inputs[edge->input].name;
    uint32_t makers = replicas(p, edge->producer), takers = replicas(p, edge->consumer);
    uint32_t units = DEFAULT_IN_FLIGHT;
    for (size_t i = 0; i < reply->n_in_flight; i++)
        if (!strcmp(reply->in_flight[i]->port, port) && reply->in_flight[i]->units)
            units = reply->in_flight[i]->units;
    if (makers > 1) units += (makers + takers - 1) / takers;
    return LT_MIN(units, 4096);
}

/* Slots of an edge in each replica of its producer: wants are spread evenly over replicas. Should one of them hold more after all,
 * because others were killed, it sends copies. */
static uint32_t slots(const planner *p, const lt_edge *edge, uint32_t in_flight)
{
    uint32_t makers = replicas(p, edge->producer), all = in_flight * replicas(p, edge->consumer);
    return LT_MIN(all, (all + makers - 1) / makers + 1);
}

/* Slots and shared memory, once all stages have answered. */
static void size_slabs(planner *p)
{
    const lt_graph *graph = p->graph;
    lt_run_plan *plan = p->plan;
    for (int e = 0; e < graph->n_edges; e++) {
        const lt_edge *edge = &graph->edges[e];
        lt_planned_output *output = &plan->stages[edge->producer].outputs[edge->output];
        plan->edges[e].in_flight = in_flight(p, edge);
        output->slot_bytes = lt_round_up(output->stream->unit_bytes + SLOT_PADDING, LT_SLAB_ALIGNMENT);
        /* A second consumer finds what was made for the first. */
        if (output->n_slots) output->memo_units = LT_MAX(output->memo_units, plan->edges[e].in_flight);
        uint32_t n_slots = slots(p, edge, plan->edges[e].in_flight);
        plan->edges[e].n_slots = n_slots * replicas(p, edge->producer);
        output->n_slots += n_slots;
        const char *device_id = offered_device(p, e);
        plan->edges[e].device_id = *device_id && takes_device(p, e) ? device_id : NULL;
        if (plan->edges[e].device_id)
            output->device_bytes = n_slots * lt_round_up(output->slot_bytes, DEVICE_SLOT_ALIGNMENT);
    }
    for (int i = 0; i < graph->n_stages; i++) {
        uint64_t own = 0;
        for (int port = 0; port < graph->stages[i].described->n_outputs; port++)
            own += plan->stages[i].outputs[port].slot_bytes * plan->stages[i].outputs[port].n_slots +
                   LT_SLAB_ALIGNMENT; /* its header */
        plan->stages[i].slab_bytes += own;
        for (int e = 0; e < graph->n_edges && own; e++)
            if (graph->edges[e].producer == i)
                plan->stages[graph->edges[e].consumer].slab_bytes +=
                    own * (uint64_t)graph->stages[i].replicas;
        plan->memory_bytes += (plan->stages[i].reply->peak_bytes + own) * (uint64_t)graph->stages[i].replicas;
        plan->is_live |= plan->stages[i].reply->live;
    }
}

const char *lt_plan_output(const lt_run_plan *plan, int sink, lt_arena *arena)
{
    static const char placeholder[] = "{clip}";
    const char *output = lt_stage_output(&plan->graph->stages[sink]),
               *at = output ? strstr(output, placeholder) : NULL;
    const Lt__Wire__Stream *stream = NULL;
    for (int e = 0; e < plan->graph->n_edges; e++)
        if (plan->graph->edges[e].consumer == sink) stream = plan->edges[e].stream;
    if (!output || !stream || stream->expendable) return NULL;
    return at ? lt_arena_printf(arena, "%.*s%s%s", (int)(at - output), output, stream->name,
                                at + sizeof placeholder - 1)
              : output;
}

/* With the clip's name in it an output may be another stage's. */
static lt_status check_files(const planner *p, lt_err *err)
{
    const char *files[LT_MAX_STAGES];
    for (int i = 0; i < p->graph->n_stages; i++) {
        files[i] = lt_plan_output(p->plan, i, p->arena);
        if (files[i]) files[i] = lt_path_real(p->arena, files[i]);
        for (int k = 0; k < i && files[i]; k++)
            if (files[k] && !strcmp(files[i], files[k]))
                return lt_fail(err, LT_E_INVALID, "%s: stage \"%s\" writes %s, too",
                               place_of(p, &p->graph->stages[i]), p->graph->stages[k].name, files[i]);
    }
    return LT_OK;
}

lt_status lt_plan_make(const lt_graph *graph, const lt_resolved *recorded, int n_recorded, lt_arena *arena,
                       lt_run_plan *plan, lt_err *err)
{
    *plan = (lt_run_plan){.graph = graph, .cores = count_cores(graph)};
    planner p = {graph, recorded, n_recorded, plan, arena};
    plan->stages = lt_arena_alloc(arena, (size_t)LT_MAX(graph->n_stages, 1) * sizeof *plan->stages);
    plan->edges = lt_arena_alloc(arena, (size_t)LT_MAX(graph->n_edges, 1) * sizeof *plan->edges);
    if (!plan->stages || !plan->edges) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the plan");
    for (int i = 0; i < graph->n_stages; i++) plan->stages[i].threads = lt_plan_threads(plan, i);
    lt_status status = LT_OK;
    for (int i = 0; i < graph->n_stages && !status; i++)
        status = lt_pipe_open(graph, i, &plan->stages[i].pipe, err);
    bool changed = true;
    /* Who computes is known after the first pass; the second one plans with the shares that follow. */
    for (int pass = 0; pass < 2 && changed && !status; pass++) {
        for (int i = 0; i < graph->n_stages && !status; i++) status = plan_stage(&p, graph->order[i], err);
        changed = false;
        for (int i = 0; i < graph->n_stages && !status; i++) {
            int threads = lt_plan_threads(plan, i);
            changed |= threads != plan->stages[i].threads && plan->stages[i].reply->flops > 0;
            plan->stages[i].threads = threads;
        }
    }
    if (!status) status = check_files(&p, err);
    if (!status) size_slabs(&p);
    return status ? status : lt_plan_devices(plan, arena, err);
}

void lt_plan_finish(lt_run_plan *plan)
{
    for (int i = 0; plan->stages && i < plan->graph->n_stages; i++) {
        if (plan->stages[i].reply) lt__wire__plan_reply__free_unpacked(plan->stages[i].reply, NULL);
        lt_pipe_close(&plan->stages[i].pipe);
    }
    *plan = (lt_run_plan){0};
}

double lt_stream_seconds(const Lt__Wire__Stream *stream)
{
    if (stream->live) return 0;
    double ticks = (double)stream->last_duration;
    for (size_t i = 1; i < stream->n_pts_delta; i++) ticks += (double)stream->pts_delta[i];
    return stream->time_base_den && ticks > 0 ? ticks * stream->time_base_num / stream->time_base_den : 0;
}
