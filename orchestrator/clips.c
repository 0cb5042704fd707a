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

static const char *state_of(const Lt__Wire__ClipEnd *end)
{
    return end->failed ? "failed" : end->passed_over ? "passed over" : "done";
}

static void append(lt_run *run, const Lt__Wire__ClipEnd *end)
{
    json_t *line = json_pack("{ss ss ss ss sI ss ss}", "key", end->key, "name", end->name, "state",
                             state_of(end), "digest", end->digest, "frames", (json_int_t)end->frames,
                             "result", end->result, "reason", end->reason);
    json_t *entry = end->failed ? json_loads(end->entry, 0, NULL) : NULL;
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

/* ---- ends ------------------------------------------------------------------------------------------------ */

static int count_sinks(const lt_run *run)
{
    int n = 0;
    for (int i = 0; i < run->graph->n_stages; i++) n += !run->graph->stages[i].described->n_outputs;
    return n;
}

/* Whether all sinks are through with the clip; with several it is remembered who is. */
static bool has_all_sinks(lt_run *run, const lt_replica *replica, const Lt__Wire__ClipEnd *end)
{
    int n_sinks = count_sinks(run), free_place = -1;
    if (n_sinks < 2) return true;
    for (int i = 0; i < LT_MAX_PENDING; i++) {
        if (!run->pending[i].sinks) free_place = i;
        if (!run->pending[i].sinks || run->pending[i].clip != end->clip) continue;
        run->pending[i].sinks |= UINT64_C(1) << replica->stage;
        if (__builtin_popcountll(run->pending[i].sinks) < n_sinks) return false;
        run->pending[i].sinks = 0;
        return true;
    }
    if (free_place >= 0) {
        run->pending[free_place].clip = end->clip;
        run->pending[free_place].sinks = UINT64_C(1) << replica->stage;
    }
    return false;
}

void lt_clip_ended(lt_run *run, const lt_replica *replica, const Lt__Wire__ClipEnd *end)
{
    run->moved_ns = lt_now_ns();
    if (!*end->key || !lt_plan_is_dataset(run->plan)) return;
    if (end->failed) lt_progress_event(run, "clip", NULL, "clip %s failed: %s", end->name, end->reason);
    if (!has_all_sinks(run, replica, end)) return;
    run->clips_failed += end->failed;
    run->clips_passed_over += end->passed_over;
    run->clips_done += !end->failed && !end->passed_over;
    run->clip_frames += end->frames;
    append(run, end);
}

bool lt_clip_doom(lt_run *run, int stage, uint32_t clip, const char *reason)
{
    if (!lt_plan_is_dataset(run->plan)) return false;
    if (run->n_doomed == LT_MAX_DOOMED) return false;
    for (int i = 0; i < run->n_doomed;
         i++) /* it was told to leave the clip alone, and dies of it all the same */
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
    if (run->journal < 0) return LT_OK;
    if (!run->clips_failed) {
        if (!lt_run_folder_keeps(run->folder, path, run->arena)) unlink(path);
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
