/* manifest.h - what a run folder remembers of its run, so that the same command continues it. */
#ifndef LT_ORCHESTRATOR_MANIFEST_H
#define LT_ORCHESTRATOR_MANIFEST_H

#include <jansson.h>

#include "orchestrator/plan.h"
#include "orchestrator/run_folder.h"

typedef enum { LT_RUN_NEW, LT_RUN_CONTINUES, LT_RUN_FINISHED } lt_run_state;

typedef struct lt_manifest {
    lt_run_state state;
    bool is_over_another;  /* NEW, and the folder holds an earlier run, which goes when this one begins */
    json_t *json;          /* owned */
    lt_resolved *resolved; /* options of the recorded plan, in the arena */
    int n_resolved;
} lt_manifest;

/* Read <folder>/manifest.json and compare its configuration with the graph's. E_MISMATCH: it is another one (the
 * sentence says which key, and --fresh). `fresh`, or a finished run that has not written these outputs: the run is new, and
 * is_over_another. A finished run whose output is gone continues. Changes no file. *manifest is the caller's to finish, also after an error. */
lt_status lt_manifest_open(const lt_graph *graph, const lt_run_folder *folder, bool fresh, lt_arena *arena,
                           lt_manifest *manifest, lt_err *err);

/* Whether the recorded run was one of clips that may fail alone: it may have others by now. */
bool lt_manifest_is_dataset(const lt_manifest *manifest);

/* Whether the recorded run read an input that comes once: what comes now is another. */
bool lt_manifest_is_live(const lt_manifest *manifest);

/* Record the plan of a new run, in place of the earlier one where it is_over_another; of one that continues, compare it
 * with what was recorded: E_MISMATCH when a stage would make other data than when the run began (its input has changed).
 * Then the run has begun. */
lt_status lt_manifest_begin(const lt_run_plan *plan, const lt_run_folder *folder, lt_arena *arena,
                            lt_manifest *manifest, lt_err *err);

/* Record that the run is finished. */
lt_status lt_manifest_end(const lt_run_folder *folder, lt_manifest *manifest, lt_err *err);

/* Bytes on disk that a run which continues has written before, or that go when a new one begins: its folders, and what
 * the cache has grown by. */
uint64_t lt_manifest_spent(const lt_graph *graph, const lt_run_folder *folder, const lt_manifest *manifest);

void lt_manifest_finish(lt_manifest *manifest);

/* Now as "2024-05-01T12:00:00Z", in `text`. */
void lt_time_text(char text[32]);

#endif
