/* supervise.c - the loop that keeps a run's stages going. */
#include "orchestrator/supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "orchestrator/deaths.h"
#include "orchestrator/launch.h"
#include "orchestrator/messages.h"
#include "orchestrator/progress.h"
#include "orchestrator/report.h"
#include "orchestrator/reports.h"

#define SECOND INT64_C(1000000000)

static const int64_t heartbeat_ns = 30 * SECOND, load_ns = 1800 * SECOND;
static const int64_t least_deadline_ns = 600 * SECOND, stalled_ns = 300 * SECOND;
static const double pessimistic_flops = 1e9; /* a second: a busy machine with one core */

static bool is_sink(const lt_run *run, const lt_replica *replica)
{
    return !run->graph->stages[replica->stage].described->n_outputs;
}

/* ---- processes --------------------------------------------------------------------------------------- */

static void start_due(lt_run *run)
{
    lt_err err = {0};
    for (int i = 0; i < run->graph->n_stages && run->outcome == LT_GOING; i++) {
        int stage = run->graph->order[i];
        for (int n = 0; n < run->graph->stages[stage].replicas; n++) {
            lt_replica *replica = lt_run_replica(run, stage, n);
            if (replica->state != LT_REPLICA_DOWN || replica->restart_ns > lt_now_ns()) continue;
            bool again = replica->incarnation > 0;
            if (lt_launch(run, replica, &err)) {
                lt_run_fail(run, "%s", err.text);
                return;
            }
            replica->n_restarts += again;
            lt_announce(run, replica);
            lt_progress_event(run, again ? "restart" : "start", replica, "%s",
                              again ? "started again" : "started");
        }
    }
}

static void reap(lt_run *run)
{
    int wait_status;
    struct rusage usage;
    for (int i = 0; i < run->n_replicas; i++) {
        lt_replica *replica = &run->replicas[i];
        if (!replica->pid || wait4(replica->pid, &wait_status, WNOHANG, &usage) != replica->pid) continue;
        lt_read_reports(run, replica); /* what it said last */
        lt_handle_death(run, replica, wait_status, &usage);
    }
}

/* Slots handed to a process that was dead already are free again. */
static void sweep_slots(lt_run *run)
{
    for (int e = 0; e < run->graph->n_edges; e++) {
        const lt_edge *edge = &run->graph->edges[e];
        for (int c = 0; c < run->graph->stages[edge->consumer].replicas; c++) {
            const lt_replica *consumer = lt_run_replica(run, edge->consumer, c);
            uint32_t dead = consumer->incarnation - (consumer->pid ? 1 : 0);
            for (int p = 0; p < run->graph->stages[edge->producer].replicas && dead; p++) {
                const lt_slab *slab = &lt_run_replica(run, edge->producer, p)->outlets[edge->output].slab;
                lt_slab_holder holder = {lt_slab_owner(edge->name, (uint32_t)c), dead};
                if (slab->base) lt_slab_reclaim(slab, holder);
            }
        }
    }
}

static int64_t deadline_of(const lt_run *run, const lt_replica *replica)
{
    const lt_planned_stage *planned = &run->plan->stages[replica->stage];
    double seconds = planned->reply->flops / (double)LT_MAX(planned->units, 1) / pessimistic_flops;
    return LT_MAX((int64_t)(LT_MIN(seconds, 1e6) * 1e9), least_deadline_ns);
}

bool lt_is_stalled(const lt_run *run, int64_t now_ns)
{
    for (int i = 0; i < run->n_replicas; i++) {
        const lt_replica *replica = &run->replicas[i];
        if (replica->state == LT_REPLICA_ENDED || replica->is_done) continue;
        /* One that is down may have all the work there is, and does it when it is started again. */
        if (!replica->pid || !replica->is_idle) return false;
    }
    return !run->plan->is_live && now_ns - run->moved_ns > stalled_ns;
}

static void check_deadlines(lt_run *run)
{
    int64_t now = lt_now_ns();
    for (int i = 0; i < run->n_replicas; i++) {
        lt_replica *replica = &run->replicas[i];
        if (!replica->pid || replica->is_done) continue;
        bool is_loading = replica->state == LT_REPLICA_STARTING;
        /* If it was this process that was stopped, a stage's signs of life are still to be read. */
        if (now - replica->heard_ns > heartbeat_ns) lt_read_reports(run, replica);
        if (now - replica->heard_ns > heartbeat_ns)
            lt_kill_stuck(run, replica, "gave no sign of life for 30 s");
        else if (is_loading && now - replica->started_ns > load_ns)
            lt_kill_stuck(run, replica, "did not get ready in half an hour");
        else if (!is_loading && !replica->is_idle && !run->plan->stages[replica->stage].reply->live &&
                 now - replica->moved_ns > deadline_of(run, replica))
            lt_kill_stuck(run, replica, "has worked on one unit for far too long");
    }
    if (lt_is_stalled(run, now))
        lt_run_fail(run, "no stage has had anything to do for %d s: this is a bug in Longtake",
                    (int)(stalled_ns / SECOND));
}

/* ---- interrupts -------------------------------------------------------------------------------------- */

/* Live sources end here; what they gave until now is finished, by all who come after. */
static void end_sources(lt_run *run)
{
    for (int i = 0; i < run->n_replicas; i++)
        if (run->replicas[i].pid && run->plan->stages[run->replicas[i].stage].reply->live)
            lt_send_stop(&run->replicas[i], true);
    lt_progress_event(run, "interrupt", NULL,
                      "the input ends here; finishing what came, press Ctrl-C again to stop at once");
}

static void interrupt(lt_run *run)
{
    run->n_interrupts++;
    if (run->is_stopping) return;
    if (run->n_interrupts > 1) {
        if (run->outcome == LT_GOING) run->outcome = LT_INTERRUPTED;
        return;
    }
    if (run->plan->is_live) {
        end_sources(run);
        return;
    }
    bool any = false;
    for (int i = 0; i < run->n_replicas; i++) {
        lt_replica *replica = &run->replicas[i];
        if (!is_sink(run, replica)) continue;
        any |= replica->pid > 0;
        if (replica->pid)
            lt_send_stop(replica, true);
        else
            replica->state = LT_REPLICA_ENDED;
    }
    if (any)
        lt_progress_event(run, "interrupt", NULL, "finishing %s, press Ctrl-C again to stop at once",
                          run->folder->n_outputs ? "the segment" : "what is being kept");
}

static void read_signals(lt_run *run, int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo != SIGCHLD) interrupt(run);
}

/* After an interrupt the run is over when no sink has anything left to finish. */
static void check_interrupted(lt_run *run)
{
    if (!run->n_interrupts || run->outcome != LT_GOING || run->plan->is_live) return;
    for (int i = 0; i < run->n_replicas; i++) {
        const lt_replica *replica = &run->replicas[i];
        if (is_sink(run, replica) && replica->state != LT_REPLICA_ENDED && !replica->is_done) return;
    }
    run->outcome = LT_INTERRUPTED;
}

/* ---- the loop ---------------------------------------------------------------------------------------- */

/* Milliseconds until something is due. */
static int time_left(const lt_run *run)
{
    int64_t due = SECOND / 4, now = lt_now_ns();
    if (run->is_stopping) due = SECOND / 20;
    for (int i = 0; i < run->n_replicas && !run->is_stopping; i++)
        if (run->replicas[i].state == LT_REPLICA_DOWN) due = LT_MIN(due, run->replicas[i].restart_ns - now);
    return (int)(LT_MAX(due, 0) / 1000000) + (due > 0);
}

/* Wait for news, and take it. */
static void step(lt_run *run, int signals, struct pollfd *fds)
{
    int n = 0;
    fds[n++] = (struct pollfd){signals, POLLIN, 0};
    for (int i = 0; i < run->n_replicas; i++) {
        lt_replica *replica = &run->replicas[i];
        fds[n++] = (struct pollfd){replica->report, POLLIN, 0};
        fds[n++] = (struct pollfd){replica->n_pending ? replica->control : -1, POLLOUT, 0};
    }
    if (poll(fds, (nfds_t)n, time_left(run)) < 0) {
        if (errno != EINTR) lt_run_fail(run, "waiting for stages: %s", strerror(errno));
        return;
    }
    for (int i = 0; i < run->n_replicas; i++) {
        if (fds[1 + 2 * i].revents) lt_read_reports(run, &run->replicas[i]);
        if (fds[2 + 2 * i].revents) lt_flush_control(&run->replicas[i]);
    }
    if (fds[0].revents) read_signals(run, signals);
    reap(run);
}

static bool any_alive(const lt_run *run)
{
    for (int i = 0; i < run->n_replicas; i++)
        if (run->replicas[i].pid) return true;
    return false;
}

static void signal_all(const lt_run *run, int number)
{
    for (int i = 0; i < run->n_replicas; i++)
        if (run->replicas[i].pid) kill(run->replicas[i].pid, number);
}

/* Stop, then SIGTERM, then SIGKILL, until nobody is left. */
static void stop_all(lt_run *run, int signals, struct pollfd *fds)
{
    int n_signals = 0;
    run->is_stopping = true;
    run->stop_ns = lt_now_ns();
    for (int i = 0; i < run->n_replicas; i++)
        if (run->replicas[i].pid) lt_send_stop(&run->replicas[i], false);
    while (any_alive(run)) {
        /* What came of a live input becomes a file first. */
        int64_t grace = run->n_interrupts > 1 ? SECOND
                        : run->plan->is_live  ? 600 * SECOND
                                              : 3 * SECOND,
                passed = lt_now_ns() - run->stop_ns;
        if (n_signals < 2 && passed > (n_signals + 1) * grace)
            signal_all(run, n_signals++ ? SIGKILL : SIGTERM);
        step(run, signals, fds);
    }
}

void lt_supervise(lt_run *run, int signals)
{
    struct pollfd *fds = lt_arena_alloc(run->arena, (size_t)(2 * run->n_replicas + 1) * sizeof *fds);
    int64_t tick_ns = 0;
    run->begun_ns = run->moved_ns = lt_now_ns();
    run->oom_kills = lt_oom_kills();
    if (!fds) {
        lt_run_fail(run, "no memory for the run");
        return;
    }
    while (run->outcome == LT_GOING) {
        start_due(run);
        step(run, signals, fds);
        check_interrupted(run);
        if (lt_now_ns() - tick_ns >= SECOND) {
            tick_ns = lt_now_ns();
            sweep_slots(run);
            check_deadlines(run);
        }
        lt_sample_memory(run);
        lt_progress_tick(run);
    }
    stop_all(run, signals, fds);
}
