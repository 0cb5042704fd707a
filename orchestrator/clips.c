/* clips.c - the journal of a dataset's clips, and the list of those that failed. */
#include "orchestrator/clips.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "orchestrator/json_text.h"
#include "orchestrator/messages.h"
#include "orchestrator/progress.h"

bool lt_plan_is_dataset(const lt_run_plan *plan)
{
    for (int e = 0; e < plan->graph->n_edges; e++)
        if (plan->edges[e].stream && plan->edges[e].stream->expendable) return true;
    return false;
}

/* ---- the journal ----------------------------------------------------------------------------------------- */

static void path_of(const lt_run *run, const char *name, char path[4200])
{
    snprintf(path, 4200, "%s/%s", run->folder->path, name);
}

void lt_clips_begin(lt_run *run)
{
    char path[4200];
    struct stat info;
    path_of(run, "clips.jsonl", path);
    run->journal = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    run->journal_start = run->journal >= 0 && !fstat(run->journal, &info) ? (int64_t)info.st_size : 0;
    /* A line that a kill cut in half is ended, so that the next one is whole. */
    char last = '\n';
    if (run->journal_start && pread(run->journal, &last, 1, run->journal_start - 1) == 1 && last != '\n')
        run->journal_start += write(run->journal, "\n", 1) == 1;
}

static const char *state_of(const lt_clip_ends *ends)
{
    return ends->failed ? "failed" : ends->passed_over ? "passed over" : "done";
}

static json_t *text_of(const char *text)
{
    return lt_json_text(text ? text : "");
}

/* `last` is what one of the sinks said, for what is the same for all. */
static void append(lt_run *run, const lt_clip_ends *ends, const Lt__Wire__ClipEnd *last)
{
    json_t *line =
        json_pack("{ss ss ss so sI so so}", "key", last->key, "name", last->name, "state", state_of(ends),
                  "digest", text_of(ends->digest), "frames", (json_int_t)ends->frames, "result",
                  text_of(ends->result), "reason", text_of(ends->reason));
    json_t *entry = ends->failed ? json_loads(last->entry, 0, NULL) : NULL;
    if (line && entry) json_object_set_new(line, "entry", entry);
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    size_t n = text ? strlen(text) : 0;
    if (n) text[n] = '\n';
    bool fine = n && run->journal >= 0 && write(run->journal, text, n + 1) == (ssize_t)(n + 1);
    if (!fine && !run->has_lost_journal) {
        lt_progress_event(run, "journal", NULL,
                          "clips.jsonl cannot be written: clips will be looked at again");
        run->has_lost_journal = true;
    }
    free(text);
}

/* ---- datasets -------------------------------------------------------------------------------------------- */

/* The source whose clips come to this stage, or which it is; -1: they are of no dataset. */
static int source_of(const lt_run *run, int stage)
{
    const lt_graph *graph = run->graph;
    int source = -1;
    for (int e = 0; e < graph->n_edges; e++) {
        if (!run->plan->edges[e].stream->expendable) continue;
        if (graph->edges[e].producer == stage) source = stage;
    }
    for (int e = 0; e < graph->n_edges; e++)
        if (graph->edges[e].consumer == stage && run->plan->edges[e].stream->expendable)
            return source_of(run, graph->edges[e].producer); /* the graph has no cycle */
    return source;
}

uint64_t lt_clip_sinks(const lt_run *run, int stage)
{
    int source = source_of(run, stage);
    uint64_t sinks = 0;
    for (int i = 0; i < run->graph->n_stages && source >= 0; i++)
        if (!run->graph->stages[i].described->n_outputs && source_of(run, i) == source)
            sinks |= UINT64_C(1) << i;
    return sinks;
}

/* ---- ends ------------------------------------------------------------------------------------------------ */

static void forget(lt_clip_ends *ends)
{
    free(ends->reason);
    free(ends->digest);
    free(ends->result);
    *ends = (lt_clip_ends){0};
}

/* What is known of the clip. A sink is at most a few clips ahead of another, since their source is. */
static lt_clip_ends *find_ends(lt_run *run, uint64_t set, uint32_t clip)
{
    for (int i = 0; i < LT_MAX_ENDS; i++)
        if (run->ends[i].set == set && run->ends[i].clip == clip) return &run->ends[i];
    lt_clip_ends *ends = &run->ends[run->n_ends++ % LT_MAX_ENDS];
    forget(ends);
    ends->set = set;
    ends->clip = clip;
    return ends;
}

static void keep_text(char **kept, const char *text)
{
    if (!*kept && *text) *kept = strdup(text);
}

static void merge(lt_clip_ends *ends, int sink, const Lt__Wire__ClipEnd *end)
{
    /* Of several reasons that of a failure is told. */
    if (end->failed && !ends->failed) {
        free(ends->reason);
        ends->reason = NULL;
    }
    keep_text(&ends->reason, end->reason);
    keep_text(&ends->digest, end->digest);
    keep_text(&ends->result, end->result);
    ends->sinks |= UINT64_C(1) << sink;
    ends->failed |= end->failed;
    ends->passed_over |= end->passed_over;
    ends->frames = LT_MAX(ends->frames, end->frames);
}

/* Nobody will ask for the clip again. */
static void undoom(lt_run *run, int sink, uint32_t clip)
{
    int n = 0, source = source_of(run, sink);
    for (int i = 0; i < run->n_doomed; i++)
        if (run->doomed[i].clip != clip || source_of(run, run->doomed[i].stage) != source)
            run->doomed[n++] = run->doomed[i];
    run->n_doomed = n;
}

void lt_clip_ended(lt_run *run, lt_replica *replica, const Lt__Wire__ClipEnd *end)
{
    uint64_t set = lt_clip_sinks(run, replica->stage);
    run->moved_ns = lt_now_ns();
    if (!*end->key || !set) return;
    lt_clip_ends *ends = find_ends(run, set, end->clip);
    if (ends->is_written) return;
    if (end->failed && !ends->failed)
        lt_progress_event(run, "clip", NULL, "clip %s failed: %s", end->name, end->reason);
    if (!(ends->sinks >> replica->stage & 1)) replica->clip_frames += end->frames;
    replica->clips_behind = LT_MAX(replica->clips_behind, end->clip + 1);
    merge(ends, replica->stage, end);
    if (ends->sinks != set) return;
    ends->is_written = true;
    run->clips_failed += ends->failed;
    run->clips_passed_over += ends->passed_over && !ends->failed;
    run->clips_done += !ends->failed && !ends->passed_over;
    append(run, ends, end);
    undoom(run, replica->stage, end->clip);
}

bool lt_clip_doom(lt_run *run, int stage, uint32_t clip, const char *reason)
{
    if (source_of(run, stage) < 0 || run->n_doomed == LT_MAX_DOOMED) return false;
    /* It was told to leave the clip alone, and dies of it all the same. */
    for (int i = 0; i < run->n_doomed; i++)
        if (run->doomed[i].stage == stage && run->doomed[i].clip == clip) return false;
    lt_doomed *doomed = &run->doomed[run->n_doomed++];
    doomed->stage = stage;
    doomed->clip = clip;
    lt_text_clean(doomed->reason, reason, sizeof doomed->reason - 1);
    for (int i = 0; i < run->graph->stages[stage].replicas; i++)
        lt_send_give_up(lt_run_replica(run, stage, i), clip, doomed->reason);
    return true;
}

void lt_clips_tell(lt_run *run, lt_replica *replica)
{
    for (int i = 0; i < run->n_doomed; i++)
        if (run->doomed[i].stage == replica->stage)
            lt_send_give_up(replica, run->doomed[i].clip, run->doomed[i].reason);
}

/* ---- the list of failures ----------------------------------------------------------------------------------- */

/* The entry of a line of the journal, with the reason; NULL where the line tells of no failure. */
static json_t *failed_entry(const char *line, size_t bytes)
{
    json_t *object = json_loadb(line, bytes, 0, NULL);
    const char *state = json_string_value(json_object_get(object, "state"));
    json_t *entry = state && !strcmp(state, "failed") ? json_object_get(object, "entry") : NULL;
    if (json_is_object(entry)) {
        json_object_set(entry, "error", json_object_get(object, "reason"));
        json_incref(entry);
    } else {
        entry = NULL;
    }
    json_decref(object);
    return entry;
}

static bool copy_failures(FILE *from, FILE *to)
{
    char *line = NULL;
    size_t room = 0;
    bool fine = true, any = false;
    for (ssize_t n; fine && (n = getline(&line, &room, from)) > 0;) {
        json_t *entry = failed_entry(line, (size_t)n);
        char *text = entry ? json_dumps(entry, JSON_COMPACT) : NULL;
        if (text) fine = fprintf(to, "%s\n  %s", any ? "," : "[", text) > 0;
        any |= text != NULL;
        free(text);
        json_decref(entry);
    }
    free(line);
    return fine && fprintf(to, "%s\n]\n", any ? "" : "[") > 0;
}

lt_status lt_clips_end(lt_run *run, lt_err *err)
{
    char path[4200], part[4210];
    lt_status status = LT_OK;
    path_of(run, "failed.json", path);
    snprintf(part, sizeof part, "%s.new", path);
    for (int i = 0; i < LT_MAX_ENDS; i++) forget(&run->ends[i]);
    if (run->journal < 0) return LT_OK;
    if (!run->clips_failed) {
        bool is_through = run->outcome == LT_FINISHED;
        if (is_through && !lt_run_folder_keeps(run->folder, path, run->arena)) unlink(path);
        close(run->journal);
        run->journal = -1;
        return LT_OK;
    }
    FILE *from = fdopen(run->journal, "r"), *to = fopen(part, "we");
    run->journal = -1;
    if (!from || !to || fseeko(from, run->journal_start, SEEK_SET) || !copy_failures(from, to))
        status = lt_fail_errno(err, errno, "writing %s", part);
    if (to && fclose(to) && !status) status = lt_fail_errno(err, errno, "writing %s", part);
    if (from) fclose(from);
    if (!status && rename(part, path)) status = lt_fail_errno(err, errno, "%s", path);
    if (status) unlink(part);
    return status;
}
