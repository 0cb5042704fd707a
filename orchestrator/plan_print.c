/* plan_print.c - a plan as a table for people and as JSON for programs. */
#include "orchestrator/plan_print.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "orchestrator/format.h"
#include "orchestrator/json_text.h"
#include "proto/wire.h"

typedef struct traffic {
    const char *kind, *transport;
    double frame_bytes, second_bytes; /* 0: unknown */
    uint32_t n_slots;
} traffic;

static const char *host_name(void)
{
    static char name[64];
    if (gethostname(name, sizeof name - 1)) strcpy(name, "localhost");
    return name;
}

static traffic traffic_of(const lt_run_plan *plan, int index)
{
    const Lt__Wire__Stream *stream = plan->edges[index].stream;
    double bytes = stream->live ? 0 : (double)stream->unit_bytes * (double)stream->n_units,
           seconds = lt_stream_seconds(stream);
    traffic t = {
        .kind = lt_port_kind_name(stream->kind),
        .transport = plan->graph->is_tcp            ? "tcp, encrypted"
                     : plan->edges[index].device_id ? "device memory"
                                                    : "shared memory",
        .frame_bytes = stream->n_frames ? bytes / (double)stream->n_frames : 0,
        .second_bytes = seconds > 0 ? bytes / seconds : 0,
        .n_slots = plan->edges[index].n_slots,
    };
    return t;
}

/* ---- for people -------------------------------------------------------------------------------------- */

static int widest(const lt_run_plan *plan, bool edges)
{
    int width = 5;
    int n = edges ? plan->graph->n_edges : plan->graph->n_stages;
    for (int i = 0; i < n; i++)
        width = LT_MAX(width, (int)strlen(edges ? plan->graph->edges[i].name : plan->graph->stages[i].name));
    return width;
}

static void print_stages(const lt_run_plan *plan, FILE *out)
{
    int width = widest(plan, false), host_width = LT_MAX((int)strlen(host_name()), 4);
    fprintf(out, "%-*s  %-*s  replicas  threads     units  peak memory  work factor     TFLOP\n", width,
            "stage", host_width, "host");
    for (int i = 0; i < plan->graph->n_stages; i++) {
        const lt_graph_stage *stage = &plan->graph->stages[plan->graph->order[i]];
        const lt_planned_stage *planned = &plan->stages[plan->graph->order[i]];
        char factor[32] = "-", flop[32] = "-", units[32] = "-";
        if (!plan->is_live) snprintf(units, sizeof units, "%llu", (unsigned long long)planned->units);
        if (planned->reply->flops > 0) {
            snprintf(factor, sizeof factor, "%.2f", planned->reply->work_factor);
            if (!plan->is_live)
                snprintf(flop, sizeof flop, planned->reply->flops < 1e10 ? "%.4f" : "%.2f",
                         planned->reply->flops / 1e12);
        }
        fprintf(out, "%-*s  %-*s  %8d  %7d  %8s  %11s  %11s  %8s\n", width, stage->name, host_width,
                host_name(), stage->replicas, planned->threads, units,
                lt_format_bytes((double)planned->reply->peak_bytes).text, factor, flop);
    }
}

static void print_edges(const lt_run_plan *plan, FILE *out)
{
    int width = widest(plan, true);
    fprintf(out, "\n%-*s  kind      bytes a unit  slots  transport       bytes a frame  bytes a second\n",
            width, "edge");
    for (int i = 0; i < plan->graph->n_edges; i++) {
        traffic t = traffic_of(plan, i);
        fprintf(out, "%-*s  %-8s  %12s  %5u  %-14s  %13s  %14s\n", width, plan->graph->edges[i].name, t.kind,
                lt_format_bytes((double)plan->edges[i].stream->unit_bytes).text, t.n_slots, t.transport,
                t.frame_bytes > 0 ? lt_format_bytes(t.frame_bytes).text : "-",
                t.second_bytes > 0 ? lt_format_bytes(t.second_bytes).text : "-");
    }
}

json_t *lt_plan_left_out(const lt_run_plan *plan)
{
    json_t *list = json_array();
    for (int i = 0; i < plan->graph->n_stages; i++) {
        const Lt__Wire__PlanReply *reply = plan->stages[plan->graph->order[i]].reply;
        for (size_t k = 0; k < reply->n_notes; k++)
            if (!strncmp(reply->notes[k], "left out: ", 10))
                json_array_append_new(list, json_string(reply->notes[k] + 10));
    }
    return list;
}

void lt_plan_print_left_out(const lt_run_plan *plan, FILE *out)
{
    json_t *list = lt_plan_left_out(plan), *text;
    size_t i;
    json_array_foreach(list, i, text) fprintf(out, "left out: %s\n", json_string_value(text));
    json_decref(list);
}

/* What each stage says, and in one line what it set its options to. */
static void print_notes(const lt_run_plan *plan, FILE *out)
{
    fprintf(out, "\n");
    for (int i = 0; i < plan->graph->n_stages; i++) {
        int index = plan->graph->order[i];
        const char *name = plan->graph->stages[index].name;
        const Lt__Wire__PlanReply *reply = plan->stages[index].reply;
        for (size_t k = 0; k < reply->n_notes; k++) fprintf(out, "%s: %s\n", name, reply->notes[k]);
        if (reply->n_resolved) fprintf(out, "%s:", name);
        for (size_t k = 0; k < reply->n_resolved; k++)
            fprintf(out, "%s %s = %s", k ? "," : "", reply->resolved[k]->name, reply->resolved[k]->text);
        if (reply->n_resolved) fprintf(out, "\n");
    }
}

/* What the operations come to on an ordinary core; the run itself tells how fast this machine is. */
static void print_time(const lt_run_plan *plan, FILE *out)
{
    static const double core_flops = 50e9;
    double flops = 0;
    for (int i = 0; i < plan->graph->n_stages; i++)
        if (!*plan->stages[i].reply->device) flops += plan->stages[i].reply->flops;
    if (flops <= 0) return;
    fprintf(out,
            "time: about %s of computing on %d cores of 50 GFLOP/s each, less what the cache has already\n",
            lt_format_seconds(flops / core_flops / LT_MAX(plan->cores, 1)).text, plan->cores);
}

void lt_plan_print(const lt_run_plan *plan, const lt_disk *disks, int n_disks, FILE *out)
{
    uint64_t available = lt_available_memory();
    print_stages(plan, out);
    print_edges(plan, out);
    print_notes(plan, out);
    fprintf(out, "\nmemory: %s for all processes and slots, %s available%s\n",
            lt_format_bytes((double)plan->memory_bytes).text, lt_format_bytes((double)available).text,
            available && plan->memory_bytes > available ? ": NOT ENOUGH" : "");
    for (int i = 0; i < plan->n_devices; i++) {
        const lt_planned_device *d = &plan->devices[i];
        fprintf(out, "device: %s, %s: %s for %d process%s, %s free of %s%s\n", d->name, d->title,
                lt_format_bytes((double)d->bytes).text, d->n_processes, d->n_processes == 1 ? "" : "es",
                lt_format_bytes((double)d->available).text, lt_format_bytes((double)d->total).text,
                d->bytes > d->available ? ": NOT ENOUGH IS FREE" : "");
    }
    for (int i = 0; i < n_disks; i++)
        fprintf(out, "disk: %s: about %s needed, %s free%s\n", disks[i].path,
                lt_format_bytes((double)disks[i].needed).text,
                lt_format_bytes((double)disks[i].available).text,
                disks[i].needed > disks[i].available ? ": NOT ENOUGH" : "");
    if (plan->is_live)
        fprintf(out, "the source is live: its length is not known, nor are time and space; an interrupted "
                     "run cannot be resumed\n");
    else
        print_time(plan, out);
}

/* ---- for programs ------------------------------------------------------------------------------------ */

static json_t *stage_json(const lt_run_plan *plan, int index)
{
    const lt_graph_stage *stage = &plan->graph->stages[index];
    const lt_planned_stage *planned = &plan->stages[index];
    json_t *resolved = json_object(), *notes = json_array();
    for (size_t k = 0; k < planned->reply->n_resolved; k++)
        json_object_set_new(resolved, planned->reply->resolved[k]->name,
                            lt_json_text(planned->reply->resolved[k]->text));
    for (size_t k = 0; k < planned->reply->n_notes; k++)
        json_array_append_new(notes, json_string(planned->reply->notes[k]));
    json_t *device =
        *planned->reply->device
            ? json_pack("{ss ss sI sI sI}", "name", planned->reply->device, "title",
                        planned->reply->device_title, "bytes", (json_int_t)planned->reply->device_bytes,
                        "total_bytes", (json_int_t)planned->reply->device_total_bytes, "free_bytes",
                        (json_int_t)planned->reply->device_free_bytes)
            : json_null();
    return json_pack(
        "{ss ss ss si si sI sI sI sI sf sf so so so}", "name", stage->name, "kind", stage->described->kind,
        "host", host_name(), "replicas", stage->replicas, "threads", planned->threads, "units",
        (json_int_t)planned->units, "peak_bytes", (json_int_t)planned->reply->peak_bytes, "slab_bytes",
        (json_int_t)(plan->graph->is_tcp ? 0 : planned->slab_bytes), "disk_bytes",
        (json_int_t)planned->reply->disk_bytes, "work_factor", planned->reply->work_factor, "tflop",
        planned->reply->flops / 1e12, "resolved", resolved, "notes", notes, "device", device);
}

static json_t *edge_json(const lt_run_plan *plan, int index)
{
    traffic t = traffic_of(plan, index);
    return json_pack("{ss ss sI si ss so so}", "name", plan->graph->edges[index].name, "kind", t.kind,
                     "unit_bytes", (json_int_t)plan->edges[index].stream->unit_bytes, "slots", (int)t.n_slots,
                     "transport", plan->graph->is_tcp ? "tcp" : t.transport, "bytes_per_frame",
                     t.frame_bytes > 0 ? json_real(t.frame_bytes) : json_null(), "bytes_per_second",
                     t.second_bytes > 0 ? json_real(t.second_bytes) : json_null());
}

json_t *lt_plan_json(const lt_run_plan *plan, const lt_disk *disks, int n_disks)
{
    json_t *stages = json_array(), *edges = json_array(), *places = json_array(), *devices = json_array();
    for (int i = 0; i < plan->graph->n_stages; i++)
        json_array_append_new(stages, stage_json(plan, plan->graph->order[i]));
    for (int i = 0; i < plan->graph->n_edges; i++) json_array_append_new(edges, edge_json(plan, i));
    for (int i = 0; i < n_disks; i++)
        json_array_append_new(places, json_pack("{so sI sI}", "path", lt_json_text(disks[i].path), "needed",
                                                (json_int_t)disks[i].needed, "available",
                                                (json_int_t)disks[i].available));
    for (int i = 0; i < plan->n_devices; i++) {
        const lt_planned_device *d = &plan->devices[i];
        json_array_append_new(devices,
                              json_pack("{ss ss sI si sI sI}", "name", d->name, "title", d->title, "bytes",
                                        (json_int_t)d->bytes, "processes", d->n_processes, "total_bytes",
                                        (json_int_t)d->total, "free_bytes", (json_int_t)d->available));
    }
    return json_pack("{sb so so sI si so so}", "live", plan->is_live, "stages", stages, "edges", edges,
                     "memory_bytes", (json_int_t)plan->memory_bytes, "cores", plan->cores, "devices", devices,
                     "disks", places);
}
