/* plan_print.h - a plan as a table for people and as JSON for programs. */
#ifndef LT_ORCHESTRATOR_PLAN_PRINT_H
#define LT_ORCHESTRATOR_PLAN_PRINT_H

#include <jansson.h>

#include "orchestrator/disk.h"

/* The table of stages, of edges, notes, memory and disks. */
void lt_plan_print(const lt_run_plan *plan, const lt_disk *disks, int n_disks, FILE *out);

/* A line for each note of what will not be in the output: those that begin with "left out: ". */
void lt_plan_print_left_out(const lt_run_plan *plan, FILE *out);
/* The same as a list of texts, the caller's to decref. */
json_t *lt_plan_left_out(const lt_run_plan *plan);

/* {"live", "stages": [{"name", "kind", "host", "replicas", "threads", "units", "peak_bytes", "slab_bytes", "disk_bytes",
 *              "work_factor", "tflop", "resolved": {}, "notes": [],
 *              "device": null or {"name", "title", "bytes", "total_bytes", "free_bytes"}}],
 *  "edges": [{"name", "kind", "unit_bytes", "slots", "transport", "bytes_per_frame", "bytes_per_second"}],
 *  "memory_bytes", "cores", "devices": [{"name", "title", "bytes", "processes", "total_bytes", "free_bytes"}],
 *  "disks": [{"path", "needed", "available"}]}
 * peak_bytes and slab_bytes are of one replica: its own memory, and the shared memory it may map. bytes_per_second is
 * in the video's own time, null where durations are not known. "device" is a memory that is not the host's; in
 * "devices" it is what all processes on it take together. The caller's to decref; NULL when memory is out. */
json_t *lt_plan_json(const lt_run_plan *plan, const lt_disk *disks, int n_disks);

#endif
