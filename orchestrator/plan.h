/* plan.h - what a run will need: geometry, memory, work, transport, from the source down. */
#ifndef LT_ORCHESTRATOR_PLAN_H
#define LT_ORCHESTRATOR_PLAN_H

#include "orchestrator/graph.h"
#include "orchestrator/pipe.h"
#include "proto/longtake.pb-c.h"

/* An option that was "auto" and what it means since. */
typedef struct lt_resolved {
    const char *stage, *name, *text;
} lt_resolved;

/* One output port of a stage. Every replica of the producer has as many slots. */
typedef struct lt_planned_output {
    Lt__Wire__Stream *stream; /* borrowed from the reply */
    uint64_t slot_bytes;
    uint32_t n_slots;
    uint32_t memo_units;
    uint64_t device_bytes; /* of its slots' twins on its stage's device, a replica; 0: there are none */
} lt_planned_output;

typedef struct lt_planned_stage {
    Lt__Wire__PlanReply *reply; /* owned */
    lt_planned_output *outputs; /* by port */
    int threads;                /* of one replica */
    uint64_t units;             /* it makes, or eats when a sink; 0: unknown */
    lt_pipe pipe;               /* owned: its input, where that can be read only once */
    uint64_t slab_bytes;        /* shared memory one replica may map: its own slots and its producers' */
} lt_planned_stage;

typedef struct lt_planned_edge {
    Lt__Wire__Stream *stream; /* borrowed */
    uint32_t in_flight;       /* of one replica of the consumer */
    uint32_t n_slots;         /* of this edge, in all replicas of the producer */
    const char *device_id;    /* payloads are left on this device; borrowed; NULL: in the host's memory */
} lt_planned_edge;

/* A memory that is not the host's, and what the stages take of it together. */
typedef struct lt_planned_device {
    const char *name, *title; /* of a stage's reply */
    uint64_t total, available, bytes;
    int n_processes;
} lt_planned_device;

typedef struct lt_run_plan {
    const lt_graph *graph;
    lt_planned_stage *stages; /* by stage of the graph */
    lt_planned_edge *edges;   /* by edge of the graph */
    uint64_t memory_bytes;    /* all processes and slots together */
    lt_planned_device *devices;
    int n_devices;
    int cores;    /* shared by the stages */
    bool is_live; /* an input cannot be asked for twice; its length is not known */
} lt_run_plan;

/* Ask the stages in order. `recorded`: options resolved by an earlier plan, which stand. The plan is the caller's to
 * finish, also after an error, which is the sentence of the stage that refused, with its place in the graph file.
 * Needs a checked graph without mistakes. Runs the stage programs; other memory comes from `arena`. */
lt_status lt_plan_make(const lt_graph *graph, const lt_resolved *recorded, int n_recorded, lt_arena *arena,
                       lt_run_plan *plan, lt_err *err);

/* Ask a stage that has_check whether its options go together. The stage's error, and its sentence. Runs the stage program. */
lt_status lt_plan_check(const lt_graph *graph, int stage, lt_arena *arena, lt_err *err);

/* Fill plan->devices from the stages' replies. E_NO_MEMORY, with who takes how much, where one has less than is asked of it. Part of
 * lt_plan_make. */
lt_status lt_plan_devices(lt_run_plan *plan, lt_arena *arena, lt_err *err);

void lt_plan_finish(lt_run_plan *plan);

/* The file, or pattern of pictures, that a sink makes of its one clip; NULL: it makes none, or the clips are many. In `arena`. */
const char *lt_plan_output(const lt_run_plan *plan, int sink, lt_arena *arena);

/* Options of a stage as it is told them: given, or resolved before (`recorded`), or by this plan (NULL: not yet).
 * *n of them, in `arena`; NULL when memory is out. */
Lt__Wire__Option **lt_plan_options(const lt_graph *graph, int stage, const lt_resolved *recorded,
                                   int n_recorded, const Lt__Wire__PlanReply *reply, lt_arena *arena,
                                   size_t *n);

/* How long a stream lasts; 0: unknown. */
double lt_stream_seconds(const Lt__Wire__Stream *stream);

/* Threads of a replica of `stage`; fills nothing. Compute stages (those whose plan has FLOPs) divide the cores by
 * their replicas, but get no fewer than two while there are two: stages of a pipeline wait for each other, and idle
 * threads cost nothing. Others get up to four. A stage's own `threads` stands. */
int lt_plan_threads(const lt_run_plan *plan, int stage);

#endif
