/* report.h - what a run has cost.
 *
 * report.json in the run folder:
 *   {"outcome", "text", "began", "ended", "seconds", "frames", "fps", "restarts", "outputs": [],
 *    "stages": [{"name", "kind", "replica", "numeric_class", "units", "cached", "bytes_out", "busy_seconds",
 *                "cpu_seconds", "peak_bytes" (anonymous and shared memory together), "peak_anonymous_bytes",
 *                "peak_shared_bytes", "planned_bytes", "restarts"}],
 *    "clips_done", "clips_failed", "clips_passed_over",
 *    "left_out": texts, what of the inputs is not in the outputs,
 *    "bad_ends": stages that crashed or left with an error when all was done; "text" tells of the first} */
#ifndef LT_ORCHESTRATOR_REPORT_H
#define LT_ORCHESTRATOR_REPORT_H

#include "orchestrator/run.h"

/* Read RssAnon and RssShmem of every process and keep the highest. Called at will: it looks four times a second. */
void lt_sample_memory(lt_run *run);

/* Write report.json. */
lt_status lt_write_report(const lt_run *run, lt_err *err);

/* "finished", "failed", "interrupted". */
const char *lt_outcome_name(lt_outcome outcome);

/* Frames in the outputs, seconds since this command began to run them, frames it has added a second, restarts of all
 * stages. */
uint64_t lt_run_frames(const lt_run *run);
double lt_run_fps(const lt_run *run);
double lt_run_seconds(const lt_run *run);
int lt_run_restarts(const lt_run *run);

#endif
