/* reports.c - what stages say, taken into the run's state. */
#include "orchestrator/reports.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "orchestrator/clips.h"
#include "orchestrator/deaths.h"
#include "orchestrator/messages.h"
#include "orchestrator/progress.h"

/* Replicas whose results may differ would make the output depend on which of them was faster. */
static void check_class(lt_run *run, const lt_replica *replica)
{
    const lt_graph_stage *stage = &run->graph->stages[replica->stage];
    for (int i = 0; i < stage->replicas && !stage->mixed; i++) {
        const lt_replica *other = lt_run_replica(run, replica->stage, i);
        if (!other->numeric_class || !strcmp(other->numeric_class, replica->numeric_class)) continue;
        lt_run_fail(
            run, "replicas of stage %s would give different bytes (%s and %s): set mixed = true to allow it",
            stage->name, other->numeric_class, replica->numeric_class);
    }
}

static void take_ready(lt_run *run, lt_replica *replica, const Lt__Wire__Ready *ready)
{
    const lt_described *d = run->graph->stages[replica->stage].described;
    for (size_t i = 0; i < ready->n_bound; i++)
        for (int port = 0; port < d->n_outputs; port++) {
            if (strcmp(ready->bound[i]->port, d->outputs[port].name)) continue;
            free(replica->outlets[port].endpoint);
            replica->outlets[port].endpoint = strdup(ready->bound[i]->endpoint);
        }
    free(replica->numeric_class);
    replica->numeric_class = strdup(ready->numeric_class);
    if (replica->numeric_class) check_class(run, replica);
    replica->state = LT_REPLICA_READY;
    replica->moved_ns = lt_now_ns();
    lt_progress_event(run, "ready", replica, "is ready%s%s%s", *ready->numeric_class ? " (" : "",
                      ready->numeric_class, *ready->numeric_class ? ")" : "");
    lt_announce(run, replica);
}

static void take_progress(lt_run *run, lt_replica *replica, const Lt__Wire__Progress *progress)
{
    bool has_moved = progress->units_done > replica->units || progress->moves > replica->moves;
    if (has_moved || progress->idle) replica->moved_ns = lt_now_ns();
    if (has_moved) {
        replica->n_kills = replica->n_transients = replica->n_backoff = 0;
        replica->made_ns = run->moved_ns = lt_now_ns();
    }
    replica->units = progress->units_done;
    replica->moves = progress->moves;
    replica->frames = progress->frames_done;
    replica->frames_made = progress->frames_made;
    replica->clips_behind = LT_MAX(replica->clips_behind, progress->clip);
    replica->most_frames = LT_MAX(replica->most_frames, replica->frames);
    if (replica->incarnation == 1 && !progress->units_done)
        replica->first_frames = LT_MAX(replica->first_frames, replica->frames);
    replica->frames_total = progress->frames_total;
    replica->queued = progress->queued;
    replica->held = progress->held;
    replica->cached = progress->cached;
    replica->busy_ns = progress->busy_ns;
    replica->bytes_out = progress->bytes_out;
    replica->is_idle = progress->idle;
}

static void take_failed(lt_run *run, lt_replica *replica, const Lt__Wire__Failed *failed)
{
    char title[96];
    bool is_known = failed->status && failed->status < LT_N_STATUS;
    replica->has_failed = true;
    replica->failed = is_known ? (lt_status)failed->status : LT_E_INTERNAL;
    lt_text_print(replica->failure, sizeof replica->failure, "%s", failed->text);
    if (failed->has_unit) {
        replica->has_unit = true;
        replica->clip = failed->clip;
        replica->unit = failed->unit;
    }
    if (lt_exit_code(replica->failed) == LT_EXIT_PERMANENT && run->outcome == LT_GOING && !replica->is_done)
        lt_run_fail(run, "%s: %s", lt_replica_title(run, replica, title), replica->failure);
}

static void take_started(lt_replica *replica, const Lt__Wire__Started *started)
{
    if (!replica->has_unit || replica->unit != started->unit || replica->clip != started->clip)
        replica->moved_ns = lt_now_ns();
    replica->has_unit = true;
    replica->clip = started->clip;
    replica->unit = started->unit;
}

/* All sinks are done: so is the run. */
static void take_done(lt_run *run, lt_replica *replica, const Lt__Wire__Done *done)
{
    replica->is_done = true;
    replica->was_stopped = done->stopped;
    for (int e = 0; e < run->graph->n_edges && !done->stopped; e++)
        if (run->graph->edges[e].consumer == replica->stage && !run->plan->edges[e].stream->expendable &&
            !run->plan->edges[e].stream->live)
            replica->most_frames = LT_MAX(replica->most_frames, run->plan->edges[e].stream->n_frames);
    bool any_stopped = false;
    for (int i = 0; i < run->n_replicas; i++) {
        const lt_replica *other = &run->replicas[i];
        if (run->graph->stages[other->stage].described->n_outputs) continue;
        if (!other->is_done) return;
        any_stopped |= other->was_stopped;
    }
    if (run->outcome == LT_GOING) run->outcome = any_stopped ? LT_INTERRUPTED : LT_FINISHED;
}

static void take_report(lt_run *run, lt_replica *replica, const Lt__Wire__Report *report)
{
    replica->heard_ns = lt_now_ns();
    switch (report->body_case) {
    case LT__WIRE__REPORT__BODY_READY: take_ready(run, replica, report->ready); break;
    case LT__WIRE__REPORT__BODY_STARTED: take_started(replica, report->started); break;
    case LT__WIRE__REPORT__BODY_PROGRESS: take_progress(run, replica, report->progress); break;
    case LT__WIRE__REPORT__BODY_FAILED: take_failed(run, replica, report->failed); break;
    case LT__WIRE__REPORT__BODY_DONE: take_done(run, replica, report->done); break;
    case LT__WIRE__REPORT__BODY_CLIP_END: lt_clip_ended(run, replica, report->clip_end); break;
    default: break;
    }
}

void lt_kill_stuck(lt_run *run, lt_replica *replica, const char *why)
{
    if (replica->is_stuck || !replica->pid) return;
    lt_progress_event(run, "stuck", replica, "%s: killed", why);
    replica->is_stuck = true;
    kill(replica->pid, SIGKILL);
}

void lt_read_reports(lt_run *run, lt_replica *replica)
{
    lt_err err = {0};
    lt_status status = LT_OK;
    while (replica->report >= 0 && !status) {
        Lt__Wire__Report *report = NULL;
        status = lt_report_read(&replica->reader, replica->report, 0, &report, &err);
        if (status) break;
        take_report(run, replica, report);
        lt__wire__report__free_unpacked(report, NULL);
    }
    if (!status || status == LT_AGAIN) return;
    if (replica->report >= 0) close(replica->report); /* nothing more will be understood */
    replica->report = -1;
    if (status != LT_END) lt_kill_stuck(run, replica, err.text);
}
