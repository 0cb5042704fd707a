/* progress.h - what a person, or a program, sees of a run while it goes on.
 *
 * On a terminal: a line a stage, redrawn in place, with events above them. Elsewhere: a line an event, and every 10 s how far the run
 * is. With --json, on standard output, one object a line; all have "event" and "time" (seconds since 1970):
 *
 *   start, restart, ready, crash, killed, ended, stuck
 *            "text", "stage", "replica", "incarnation"
 *   interrupt, clip (one of a dataset that failed), journal (it cannot be written)
 *            "text"
 *   progress every second: "frames", "frames_total" (0: unknown), "fps", "eta_seconds" (null: unknown), "clips" (through, or there
 *            already), "clips_total" (0: no data set), of the sinks;
 *            "stages": ["name", "state", "units", "frames", "frames_total", "fps", "queued", "held", "cached",
 *            "memory_bytes", "restarts"]
 *   end      "outcome" (finished, failed, interrupted), "text", "exit_code", "outputs", "frames", "seconds", "fps",
 *            "restarts", "clips_done", "clips_failed", "clips_passed_over", "clips_there" (that earlier runs are through with) */
#ifndef LT_ORCHESTRATOR_PROGRESS_H
#define LT_ORCHESTRATOR_PROGRESS_H

#include "orchestrator/run.h"

/* A stage's replicas taken together. */
typedef struct lt_stage_progress {
    const char *state; /* "starting", "running", "waiting", "restarting", "done", "stopped" */
    uint64_t units, frames, frames_total,
        frames_before;           /* before: of a sink, that an earlier part of the run made */
    uint64_t clips, clips_total; /* of a sink of a dataset: behind it, and of the run; 0: no dataset */
    uint64_t cached, memory_bytes, peak_bytes, bytes_out;
    uint32_t queued, held;
    int restarts;
    double fps;
} lt_stage_progress;

lt_stage_progress lt_stage_progress_of(const lt_run *run, int stage);

/* Say that something happened to a replica (NULL: to the run). */
void lt_progress_event(lt_run *run, const char *event, const lt_replica *replica, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Redraw, or print a line, when it is time. */
void lt_progress_tick(lt_run *run);

/* The closing lines: what was made, or why not. */
void lt_progress_end(lt_run *run, int exit_code);

#endif
