/* devices.c - what the stages of a plan take together of each device's memory. */
#include "orchestrator/plan.h"

#include <stdio.h>
#include <string.h>

#include "orchestrator/format.h"

static lt_planned_device *device_of(lt_run_plan *plan, const Lt__Wire__PlanReply *reply)
{
    int i = 0;
    while (i < plan->n_devices && strcmp(plan->devices[i].name, reply->device)) i++;
    if (i == plan->n_devices)
        plan->devices[plan->n_devices++] = (lt_planned_device){.name = reply->device,
                                                               .title = reply->device_title,
                                                               .total = reply->device_total_bytes,
                                                               .available = reply->device_free_bytes};
    return &plan->devices[i];
}

/* What a replica takes: what it said, and the twins of its slots. */
static uint64_t bytes_of(const lt_run_plan *plan, int stage)
{
    uint64_t bytes = plan->stages[stage].reply->device_bytes;
    for (int port = 0; port < plan->graph->stages[stage].described->n_outputs; port++)
        bytes += plan->stages[stage].outputs[port].device_bytes;
    return bytes;
}

/* "vae_encode 2 x 1.5 GiB, vae_decode 3.0 GiB" */
static const char *who(const lt_run_plan *plan, const char *device, char *text, size_t text_bytes)
{
    size_t at = 0;
    text[0] = 0;
    for (int i = 0; i < plan->graph->n_stages && at < text_bytes; i++) {
        const lt_graph_stage *stage = &plan->graph->stages[plan->graph->order[i]];
        const Lt__Wire__PlanReply *reply = plan->stages[plan->graph->order[i]].reply;
        char times[24] = "";
        if (strcmp(reply->device, device)) continue;
        if (stage->replicas > 1) snprintf(times, sizeof times, "%d x ", stage->replicas);
        at += (size_t)snprintf(text + at, text_bytes - at, "%s%s %s%s", at ? ", " : "", stage->name, times,
                               lt_format_bytes((double)bytes_of(plan, plan->graph->order[i])).text);
    }
    return text;
}

lt_status lt_plan_devices(lt_run_plan *plan, lt_arena *arena, lt_err *err)
{
    const lt_graph *graph = plan->graph;
    plan->n_devices = 0;
    plan->devices = lt_arena_alloc(arena, (size_t)LT_MAX(graph->n_stages, 1) * sizeof *plan->devices);
    if (!plan->devices) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the plan");
    for (int i = 0; i < graph->n_stages; i++) {
        const Lt__Wire__PlanReply *reply = plan->stages[i].reply;
        if (!*reply->device) continue;
        lt_planned_device *device = device_of(plan, reply);
        device->bytes += bytes_of(plan, i) * (uint64_t)graph->stages[i].replicas;
        device->n_processes += graph->stages[i].replicas;
    }
    for (int i = 0; i < plan->n_devices; i++) {
        const lt_planned_device *d = &plan->devices[i];
        char text[512];
        if (d->bytes <= d->total) continue;
        return lt_fail(
            err, LT_E_NO_MEMORY,
            "%s: %s (%s) has %s, and the stages on it take %s: %s; lower their option memory, or take fewer "
            "replicas",
            graph->file, d->name, d->title, lt_format_bytes((double)d->total).text,
            lt_format_bytes((double)d->bytes).text, who(plan, d->name, text, sizeof text));
    }
    return LT_OK;
}
