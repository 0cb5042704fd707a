/* commands.c - the verbs `plan` and `run`. */
#include "orchestrator/commands.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "orchestrator/clips.h"
#include "orchestrator/format.h"
#include "orchestrator/launch.h"
#include "orchestrator/plan_print.h"
#include "orchestrator/progress.h"
#include "orchestrator/report.h"
#include "orchestrator/supervise.h"

/* Of what could not be planned or begun: the graph says what cannot be, or something else is amiss. */
static int exit_code_of(lt_status status)
{
    return status == LT_E_INVALID ? LT_EXIT_USAGE : LT_EXIT_RUN_FAILED;
}

/* ---- plan -------------------------------------------------------------------------------------------- */

int lt_command_plan(const lt_graph *graph, bool json, lt_arena *arena)
{
    lt_run_plan plan;
    lt_err err = {0};
    lt_disk disks[LT_MAX_DISKS];
    lt_status status = lt_plan_make(graph, NULL, 0, arena, &plan, &err);
    if (status) {
        fprintf(stderr, "%s\n", err.text);
    } else {
        int n = lt_disk_needs(&plan, graph->base, disks);
        json_t *object = json ? lt_plan_json(&plan, disks, n) : NULL;
        char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
        if (text)
            printf("%s\n", text);
        else
            lt_plan_print(&plan, disks, n, stdout);
        free(text);
        json_decref(object);
    }
    lt_plan_finish(&plan);
    return status ? exit_code_of(status) : 0;
}

/* ---- run --------------------------------------------------------------------------------------------- */

/* Everything of one `run`, so that one place takes it down. */
typedef struct session {
    lt_run_folder folder;
    lt_manifest manifest;
    lt_run_plan plan;
    lt_run run;
    int signals;
} session;

/* Interrupts arrive at a descriptor from here on. What was ignored by whoever started us stays so. */
static lt_status catch_signals(session *s, lt_err *err)
{
    static const int caught[] = {SIGINT, SIGHUP, SIGTERM, SIGCHLD};
    struct sigaction action;
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < LT_COUNT(caught); i++) {
        bool may_be_ignored = caught[i] == SIGINT || caught[i] == SIGHUP;
        if (may_be_ignored && !sigaction(caught[i], NULL, &action) && action.sa_handler == SIG_IGN) continue;
        sigaddset(&set, caught[i]);
    }
    signal(SIGCHLD, SIG_DFL); /* or children would vanish unseen */
    sigprocmask(SIG_BLOCK, &set, NULL);
    s->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return s->signals < 0 ? lt_fail_errno(err, errno, "signals") : LT_OK;
}

static const char *finished_at(const session *s)
{
    return json_string_value(json_object_get(s->manifest.json, "finished"));
}

/* Lock, and see what is there. A live input is not opened where a finished run has its place. */
static lt_status take_folder(session *s, const lt_graph *graph, bool fresh, lt_arena *arena, lt_err *err)
{
    lt_status status = lt_run_folder_lock(graph, arena, &s->folder, err);
    if (!status && !fresh) status = lt_run_folder_check_outputs(&s->folder, err);
    if (!status) status = lt_manifest_open(graph, &s->folder, fresh, arena, &s->manifest, err);
    if (status) return status;
    if (s->manifest.state == LT_RUN_FINISHED && lt_manifest_is_live(&s->manifest))
        return lt_fail(err, LT_E_EXISTS,
                       "%s was finished at %s, and what comes now is not read: use --fresh to start over, or "
                       "another output",
                       s->folder.n_outputs ? s->folder.outputs[0] : s->folder.path, finished_at(s));
    return LT_OK;
}

/* Lock, plan (as recorded, where a run continues), and look for room. *done: it was finished before. */
static lt_status prepare(session *s, const lt_graph *graph, bool fresh, lt_arena *arena, bool *done,
                         lt_err *err)
{
    lt_disk disks[LT_MAX_DISKS];
    lt_status status;
    LT_TRY(take_folder(s, graph, fresh, arena, err));
    status = lt_plan_make(graph, s->manifest.resolved, s->manifest.n_resolved, arena, &s->plan, err);
    *done = s->manifest.state == LT_RUN_FINISHED;
    if (*done && !status &&
        lt_plan_is_dataset(&s->plan)) { /* clips may have been added; what is done is passed over */
        s->manifest.state = LT_RUN_CONTINUES;
        *done = false;
    }
    if (*done && status && !lt_manifest_is_dataset(&s->manifest))
        return LT_OK; /* what it was made from may be gone */
    if (status) goto fail;
    if (s->manifest.state == LT_RUN_CONTINUES && s->plan.is_live) { /* it cannot be asked for twice */
        LT_TRY(lt_run_folder_clear(&s->folder, err));
        s->manifest.state = LT_RUN_NEW;
    }
    if (!*done) {
        int n = lt_disk_needs(&s->plan, s->folder.path, disks);
        bool is_new = s->manifest.state == LT_RUN_NEW && !s->manifest.is_over_another;
        uint64_t spent = is_new ? 0 : lt_manifest_spent(graph, &s->folder, &s->manifest);
        LT_TRY(lt_disk_check(disks, n, spent, err));
    }
    LT_TRY(lt_manifest_begin(&s->plan, &s->folder, arena, &s->manifest, err));
    if (*done) return LT_OK;
    LT_TRY(catch_signals(s, err));
    LT_TRY(lt_run_prepare(&s->run, err));
fail:
    return status;
}

static void print_start(const session *s)
{
    for (int i = 0; i < s->folder.n_kept && s->manifest.is_over_another; i++)
        fprintf(stderr, "starts over; %s stays, since the run reads it\n", s->folder.kept[i]);
    uint64_t available = lt_available_memory();
    if (available && s->plan.memory_bytes > available)
        fprintf(stderr, "warning: %s of memory planned, but only %s available: lower `memory` or replicas\n",
                lt_format_bytes((double)s->plan.memory_bytes).text, lt_format_bytes((double)available).text);
    if (s->run.mode == LT_OUTPUT_JSON) return;
    if (s->manifest.state == LT_RUN_CONTINUES)
        fprintf(stderr, "continues the run that began at %s\n",
                json_string_value(json_object_get(s->manifest.json, "created")));
    fprintf(stderr, "%d stages, %s of memory planned; logs in %s/logs\n", s->run.graph->n_stages,
            lt_format_bytes((double)s->plan.memory_bytes).text, s->folder.path);
}

/* From the first process to the last, and what is written down after it. */
static int supervise(session *s)
{
    lt_err err = {0};
    lt_run *run = &s->run;
    print_start(s);
    if (lt_plan_is_dataset(&s->plan)) lt_clips_begin(run);
    lt_supervise(run, s->signals);
    if (lt_clips_end(run, &err)) fprintf(stderr, "orchestrator: %s\n", err.text);
    if (run->outcome == LT_FINISHED && lt_manifest_end(&s->folder, &s->manifest, &err)) {
        run->outcome = LT_FAILED;
        snprintf(run->why, sizeof run->why, "%s", err.text);
    }
    if (lt_write_report(run, &err)) fprintf(stderr, "orchestrator: report: %s\n", err.text);
    if (run->outcome == LT_FAILED) return LT_EXIT_RUN_FAILED;
    if (run->mode != LT_OUTPUT_JSON) lt_plan_print_left_out(&s->plan, stderr);
    if (run->outcome != LT_FINISHED) return LT_EXIT_INTERRUPTED;
    return run->clips_failed ? LT_EXIT_CLIPS_FAILED : run->n_bad_ends ? LT_EXIT_BAD_END : 0;
}

int lt_command_run(const lt_graph *graph, bool json, bool fresh, lt_arena *arena)
{
    session *s = lt_arena_alloc(arena, sizeof *s);
    lt_err err = {0};
    bool done = false;
    int code = LT_EXIT_RUN_FAILED;
    if (!s) return code;
    s->signals = -1;
    s->run = (lt_run){.graph = graph,
                      .plan = &s->plan,
                      .folder = &s->folder,
                      .manifest = &s->manifest,
                      .arena = arena,
                      .journal = -1};
    s->run.mode = json ? LT_OUTPUT_JSON : isatty(2) ? LT_OUTPUT_SCREEN : LT_OUTPUT_LINES;
    lt_status status = prepare(s, graph, fresh, arena, &done, &err);
    if (status) {
        code = exit_code_of(status);
        s->run.outcome = LT_FAILED;
        snprintf(s->run.why, sizeof s->run.why, "%s", err.text);
    } else if (done) {
        s->run.outcome = LT_FINISHED;
        snprintf(s->run.why, sizeof s->run.why, "%s: finished at %s, nothing to do (--fresh starts over)",
                 s->folder.n_outputs ? s->folder.outputs[0] : s->folder.path, finished_at(s));
        code = 0;
    } else {
        code = supervise(s);
    }
    if (done && !status && !json)
        printf("%s\n", s->run.why);
    else
        lt_progress_end(&s->run, code);
    lt_run_finish(&s->run);
    lt_plan_finish(&s->plan);
    lt_run_folder_finish(&s->folder, s->manifest.state == LT_RUN_NEW && status);
    lt_manifest_finish(&s->manifest);
    if (s->signals >= 0) close(s->signals);
    return code;
}
