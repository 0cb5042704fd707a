/* report.c - samples memory, and writes down what a run has cost. */
#include "orchestrator/report.h"
#include "orchestrator/plan_print.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "orchestrator/json_text.h"
#include "orchestrator/progress.h"

enum { SAMPLE_NS = 250000000 };

static void sample(lt_replica *replica)
{
    char path[64], line[256];
    unsigned long long anonymous = 0, shared = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)replica->pid);
    FILE *file = fopen(path, "r");
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        sscanf(line, "RssAnon: %llu kB", &anonymous);
        sscanf(line, "RssShmem: %llu kB", &shared);
    }
    fclose(file);
    replica->memory_bytes = (anonymous + shared) * 1024;
    replica->peak_anonymous = LT_MAX(replica->peak_anonymous, anonymous * 1024);
    replica->peak_shared = LT_MAX(replica->peak_shared, shared * 1024);
    replica->peak_memory = LT_MAX(replica->peak_memory, replica->memory_bytes);
}

void lt_sample_memory(lt_run *run)
{
    int64_t now = lt_now_ns();
    if (now - run->sampled_ns < SAMPLE_NS) return;
    run->sampled_ns = now;
    for (int i = 0; i < run->n_replicas; i++)
        if (run->replicas[i].pid) sample(&run->replicas[i]);
}

const char *lt_outcome_name(lt_outcome outcome)
{
    static const char *const names[] = {"going", "finished", "failed", "interrupted"};
    return names[outcome];
}

uint64_t lt_run_frames(const lt_run *run)
{
    uint64_t frames = 0;
    for (int i = 0; i < run->graph->n_stages && run->n_replicas; i++)
        if (!run->graph->stages[i].described->n_outputs) frames += lt_stage_progress_of(run, i).frames;
    return frames;
}

double lt_run_fps(const lt_run *run)
{
    uint64_t before = 0, frames = lt_run_frames(run);
    double seconds = lt_run_seconds(run);
    for (int i = 0; i < run->n_replicas; i++) before += run->replicas[i].first_frames;
    return seconds > 0 && frames > before ? (double)(frames - before) / seconds : 0;
}

double lt_run_seconds(const lt_run *run)
{
    return run->begun_ns ? (double)(lt_now_ns() - run->begun_ns) * 1e-9 : 0;
}

int lt_run_restarts(const lt_run *run)
{
    int n = 0;
    for (int i = 0; i < run->n_replicas; i++) n += run->replicas[i].n_restarts;
    return n;
}

static json_t *replica_json(const lt_run *run, const lt_replica *replica)
{
    const lt_graph_stage *stage = &run->graph->stages[replica->stage];
    const lt_planned_stage *planned = &run->plan->stages[replica->stage];
    uint64_t slabs = run->graph->is_tcp ? 0 : planned->slab_bytes;
    return json_pack(
        "{ss ss si ss sI sI sI sf sf sI sI sI sI si}", "name", stage->name, "kind", stage->described->kind,
        "replica", replica->replica, "numeric_class", replica->numeric_class ? replica->numeric_class : "",
        "units", (json_int_t)(replica->past_units + replica->units), "cached",
        (json_int_t)(replica->past_cached + replica->cached), "bytes_out",
        (json_int_t)(replica->past_bytes_out + replica->bytes_out), "busy_seconds",
        (double)(replica->past_busy_ns + replica->busy_ns) * 1e-9, "cpu_seconds", replica->cpu_seconds,
        "peak_bytes", (json_int_t)replica->peak_memory, "peak_anonymous_bytes",
        (json_int_t)replica->peak_anonymous, "peak_shared_bytes", (json_int_t)replica->peak_shared,
        "planned_bytes", (json_int_t)(planned->reply->peak_bytes + slabs), "restarts", replica->n_restarts);
}

lt_status lt_write_report(const lt_run *run, lt_err *err)
{
    char began[32], ended[32], path[4200];
    double seconds = lt_run_seconds(run);
    uint64_t frames = lt_run_frames(run);
    time_t then = time(NULL) - (time_t)seconds;
    struct tm parts;
    json_t *stages = json_array(), *outputs = json_array();
    strftime(began, sizeof began, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&then, &parts));
    lt_time_text(ended);
    for (int i = 0; i < run->n_replicas; i++)
        json_array_append_new(stages, replica_json(run, &run->replicas[i]));
    for (int i = 0; i < run->folder->n_outputs; i++)
        json_array_append_new(outputs, lt_json_text(run->folder->outputs[i]));
    json_t *report = json_pack(
        "{ss so ss ss sf sI sf si so so sI sI sI si so}", "outcome", lt_outcome_name(run->outcome), "text",
        lt_json_text(run->why), "began", began, "ended", ended, "seconds", seconds, "frames",
        (json_int_t)frames, "fps", lt_run_fps(run), "restarts", lt_run_restarts(run), "outputs", outputs,
        "stages", stages, "clips_done", (json_int_t)run->clips_done, "clips_failed",
        (json_int_t)run->clips_failed, "clips_passed_over", (json_int_t)run->clips_passed_over, "bad_ends",
        run->n_bad_ends, "left_out", lt_plan_left_out(run->plan));
    char *text = report ? json_dumps(report, JSON_INDENT(2)) : NULL;
    json_decref(report);
    snprintf(path, sizeof path, "%s/report.json", run->folder->path);
    lt_status status = text ? lt_write_file(path, text, strlen(text), err)
                            : lt_fail(err, LT_E_NO_MEMORY, "no memory for %s", path);
    free(text);
    return status;
}
