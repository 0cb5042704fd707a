/* deaths.c - a stage process ended: blame, limits, restarts. */
#include "orchestrator/deaths.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "orchestrator/clips.h"
#include "orchestrator/launch.h"
#include "orchestrator/messages.h"
#include "orchestrator/progress.h"

enum { MAX_CRASHES_OF_UNIT = 3, MAX_KILLS = 20, MAX_TRANSIENTS = 10 };

static const int64_t first_backoff_ns = 100000000, longest_backoff_ns = 5000000000;

void lt_run_fail(lt_run *run, const char *format, ...)
{
    if (run->outcome == LT_FAILED) return;
    va_list arguments;
    va_start(arguments, format);
    lt_text_vprint(run->why, sizeof run->why, format, arguments);
    va_end(arguments);
    run->outcome = LT_FAILED;
}

uint64_t lt_oom_kills(void)
{
    char line[128];
    unsigned long long count = 0;
    FILE *file = fopen("/proc/vmstat", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "oom_kill %llu", &count) == 1) break;
    if (file) fclose(file);
    return count;
}

/* ---- words ------------------------------------------------------------------------------------------- */

/* The last line that this incarnation has logged, without the name and time in front when it is one of ours. */
static void last_line(const lt_replica *replica, char *line, size_t room)
{
    char tail[2048];
    line[0] = 0;
    FILE *file = fopen(replica->log_path, "rb");
    if (!file) return;
    if (!fseek(file, 0, SEEK_END)) {
        long size = ftell(file);
        fseek(file, LT_MAX(size - (long)sizeof tail + 1, (long)replica->log_start), SEEK_SET);
        size_t n = fread(tail, 1, sizeof tail - 1, file);
        while (n && (tail[n - 1] == '\n' || tail[n - 1] == '\r')) n--;
        tail[n] = 0;
        const char *begin = strrchr(tail, '\n');
        const char *level = strstr(begin ? begin : tail, " error: ");
        lt_text_print(line, room, "%s", level ? level + 8 : begin ? begin + 1 : tail);
    }
    fclose(file);
}

/* "signal 11 (Segmentation fault)", "exit code 101", ... */
static void how_it_ended(const lt_replica *replica, int wait_status, bool for_memory, char *text, size_t room)
{
    if (replica->is_stuck)
        snprintf(text, room, "it was stuck");
    else if (for_memory)
        snprintf(text, room, "killed because memory ran out");
    else if (WIFSIGNALED(wait_status))
        snprintf(text, room, "signal %d, %s", WTERMSIG(wait_status), strsignal(WTERMSIG(wait_status)));
    else
        snprintf(text, room, "exit code %d", WEXITSTATUS(wait_status));
    if (*replica->failure) {
        size_t used = strlen(text);
        snprintf(text + used, room - used, ": %s", replica->failure);
    }
}

/* What a stage does with a clip that is no work on a unit; NULL: it is. */
static const char *beside_units(uint64_t unit)
{
    return unit == LT_UNIT_OPENING ? "while opening" : unit == LT_UNIT_FINISHING ? "while finishing" : NULL;
}

/* "on clip X, frames a-b (unit k)": where a unit of this stage lies. */
static void where_it_was(const lt_run *run, const lt_crash *crash, char *text, size_t room)
{
    const Lt__Wire__Stream *stream = NULL;
    for (int e = 0; e < run->graph->n_edges; e++) {
        const lt_edge *edge = &run->graph->edges[e];
        if (edge->producer == crash->stage)
            stream = run->plan->edges[e].stream;
        else if (edge->consumer == crash->stage && !stream)
            stream = run->plan->edges[e].stream;
    }
    char clip[128];
    unsigned long long unit = crash->unit, step = 0, count = 0;
    if (!crash->has_unit) {
        snprintf(text, room, "before its first unit");
        return;
    }
    if (stream && stream->name && *stream->name && !crash->clip && !stream->expendable)
        snprintf(clip, sizeof clip, "%s", stream->name);
    else
        snprintf(clip, sizeof clip, "%u", crash->clip);
    const char *doing = beside_units(unit);
    if (doing) {
        snprintf(text, room, "%s clip %s", doing, clip);
        return;
    }
    if (stream) step = count = stream->chunk;
    if (stream && stream->windows) {
        step = stream->windows->stride;
        count = stream->windows->window;
    }
    unsigned long long last = unit * step + count;
    if (stream && last > stream->n_frames) last = stream->n_frames;
    if (count && last > unit * step)
        snprintf(text, room, "on clip %s, frames %llu-%llu (unit %llu)", clip, unit * step, last - 1, unit);
    else
        snprintf(text, room, "on clip %s, unit %llu", clip, unit);
}

/* ---- blame ------------------------------------------------------------------------------------------- */

static lt_crash *count_crash(lt_run *run, const lt_replica *replica)
{
    lt_crash *crash = NULL;
    for (int i = 0; i < run->n_crashes && !crash; i++) {
        lt_crash *c = &run->crashes[i];
        bool same_unit = !c->has_unit || (c->clip == replica->clip && c->unit == replica->unit);
        if (c->stage == replica->stage && c->has_unit == replica->has_unit && same_unit) crash = c;
    }
    if (!crash) {
        /* So many different units crash that the oldest is forgotten. */
        if (run->n_crashes == LT_MAX_CRASHES)
            memmove(run->crashes, run->crashes + 1, (size_t)--run->n_crashes * sizeof *run->crashes);
        crash = &run->crashes[run->n_crashes++];
        *crash = (lt_crash){replica->stage, replica->has_unit, replica->clip, replica->unit, 0};
    }
    crash->count++;
    return crash;
}

static void blame_unit(lt_run *run, lt_replica *replica, const char *how)
{
    char title[96], where[256];
    const lt_crash *crash = count_crash(run, replica);
    where_it_was(run, crash, where, sizeof where);
    if (crash->count >= MAX_CRASHES_OF_UNIT && crash->has_unit) {
        char reason[256];
        const char *doing = beside_units(crash->unit);
        snprintf(reason, sizeof reason, "%s crashed %d times %s it (%.150s)",
                 lt_replica_title(run, replica, title), crash->count, doing ? doing : "on", how);
        if (lt_clip_doom(run, replica->stage, crash->clip, reason)) return;
    }
    if (crash->count >= MAX_CRASHES_OF_UNIT)
        lt_run_fail(run, "%s crashed %d times %s (%s); see %s", lt_replica_title(run, replica, title),
                    crash->count, where, how, replica->log_path);
    else
        lt_progress_event(run, "crash", replica, "crashed %s (%s)", where, how);
}

static void count_kill(lt_run *run, lt_replica *replica, const char *how)
{
    char title[96];
    if (++replica->n_kills >= MAX_KILLS)
        lt_run_fail(run, "%s was killed %d times without getting any further (%s)",
                    lt_replica_title(run, replica, title), replica->n_kills, how);
    else
        lt_progress_event(run, "killed", replica, "was killed (%s)", how);
}

static void count_transient(lt_run *run, lt_replica *replica, const char *how)
{
    char title[96], line[512] = "";
    if (!*replica->failure) last_line(replica, line, sizeof line);
    if (++replica->n_transients >= MAX_TRANSIENTS)
        lt_run_fail(run, "%s ended %d times without getting any further (%s%s%s); see %s",
                    lt_replica_title(run, replica, title), replica->n_transients, how, *line ? ": " : "",
                    line, replica->log_path);
    else
        lt_progress_event(run, "ended", replica, "ended too early (%s%s%s)", how, *line ? ": " : "", line);
}

static void end_run(lt_run *run, const lt_replica *replica)
{
    char title[96], line[512];
    if (*replica->failure) {
        lt_run_fail(run, "%s: %s", lt_replica_title(run, replica, title), replica->failure);
        return;
    }
    last_line(replica, line, sizeof line);
    lt_run_fail(run, "%s: %s (see %s)", lt_replica_title(run, replica, title), *line ? line : "failed",
                replica->log_path);
}

static void judge(lt_run *run, lt_replica *replica, int wait_status)
{
    char how[1200];
    int code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1;
    int number = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
    uint64_t oom_kills = number == SIGKILL ? lt_oom_kills() : run->oom_kills;
    bool for_memory = oom_kills > run->oom_kills && !replica->is_stuck;
    run->oom_kills = oom_kills;
    how_it_ended(replica, wait_status, for_memory, how, sizeof how);
    if (code == LT_EXIT_PERMANENT ||
        (replica->has_failed && lt_exit_code(replica->failed) == LT_EXIT_PERMANENT))
        end_run(run, replica);
    else if (for_memory || replica->is_stuck || code == LT_EXIT_BUG ||
             (number && number != SIGKILL && number != SIGTERM))
        blame_unit(run, replica, how);
    else if (number)
        count_kill(run, replica, how);
    else
        count_transient(run, replica, how);
}

/* It died with nothing left to do: what was made stands and nobody is started again, but a crash or a leak is not passed over. That
 * somebody killed it is no fault of its own. */
static void judge_end(lt_run *run, lt_replica *replica, int wait_status)
{
    char title[96], how[1200], line[512] = "";
    int number = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
    bool is_fine = WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == LT_EXIT_DONE;
    if (is_fine || number == SIGKILL || number == SIGTERM) return;
    how_it_ended(replica, wait_status, false, how, sizeof how);
    if (!*replica->failure) last_line(replica, line, sizeof line);
    if (!run->n_bad_ends++ && !*run->why)
        snprintf(run->why, sizeof run->why, "%s ended badly after all was done (%s%s%.400s); see %s",
                 lt_replica_title(run, replica, title), how, *line ? ": " : "", line, replica->log_path);
    lt_progress_event(run, "ended", replica, "ended badly after all was done (%s%s%s)", how,
                      *line ? ": " : "", line);
}

/* ---- afterwards -------------------------------------------------------------------------------------- */

static void account(lt_replica *replica, const struct rusage *usage)
{
    replica->cpu_seconds += (double)usage->ru_utime.tv_sec + (double)usage->ru_utime.tv_usec * 1e-6 +
                            (double)usage->ru_stime.tv_sec + (double)usage->ru_stime.tv_usec * 1e-6;
    replica->past_units += replica->units;
    replica->past_made += replica->frames_made;
    replica->past_cached += replica->cached;
    replica->past_bytes_out += replica->bytes_out;
    replica->past_busy_ns += replica->busy_ns;
    replica->units = replica->moves = replica->frames = replica->frames_made = replica->cached =
        replica->bytes_out = replica->busy_ns = 0;
    replica->memory_bytes = 0;
}

static void schedule_restart(lt_replica *replica)
{
    int64_t wait = 0;
    if (replica->n_backoff > 0) {
        wait = first_backoff_ns;
        for (int i = 1; i < replica->n_backoff && wait < longest_backoff_ns; i++) wait *= 2;
    }
    replica->n_backoff++;
    replica->restart_ns = lt_now_ns() + LT_MIN(wait, longest_backoff_ns);
    replica->state = LT_REPLICA_DOWN;
}

void lt_handle_death(lt_run *run, lt_replica *replica, int wait_status, const struct rusage *usage)
{
    bool is_sink = !run->graph->stages[replica->stage].described->n_outputs;
    account(replica, usage);
    lt_bury(run, replica);
    replica->state = LT_REPLICA_ENDED;
    if (replica->is_done || run->outcome == LT_FINISHED) judge_end(run, replica, wait_status);
    if (run->is_stopping || replica->is_done || run->outcome != LT_GOING) return;
    judge(run, replica, wait_status);
    if (run->outcome == LT_GOING && run->plan->stages[replica->stage].reply->live) {
        char title[96];
        lt_run_fail(run,
                    "%s died, and a live input cannot be read again: the run ends with what came; see %s",
                    lt_replica_title(run, replica, title), replica->log_path);
        return;
    }
    lt_announce(run, replica);
    bool is_through = is_sink && run->n_interrupts && !run->plan->is_live; /* it was told to end anyway */
    if (is_through) return;
    if (run->outcome == LT_GOING) schedule_restart(replica);
}
