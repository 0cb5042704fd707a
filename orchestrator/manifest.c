/* manifest.c - what a run folder remembers of its run. */
#include "orchestrator/manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "orchestrator/check.h"
#include "orchestrator/config.h"
#include "orchestrator/disk.h"
#include "orchestrator/json_text.h"
#include "proto/wire.h"

enum { MANIFEST_FORMAT = 1 };

void lt_time_text(char text[32])
{
    time_t now = time(NULL);
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &parts);
}

static lt_status write_manifest(const lt_run_folder *folder, const lt_manifest *manifest, lt_err *err)
{
    char path[4200], *text = json_dumps(manifest->json, JSON_INDENT(2));
    snprintf(path, sizeof path, "%s/manifest.json", folder->path);
    if (!text) return lt_fail(err, LT_E_NO_MEMORY, "no memory for %s", path);
    lt_status status = lt_write_file(path, text, strlen(text), err);
    free(text);
    return status;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

static lt_status read_manifest(const lt_run_folder *folder, lt_manifest *manifest, lt_err *err)
{
    char path[4200];
    json_error_t where;
    snprintf(path, sizeof path, "%s/manifest.json", folder->path);
    if (access(path, F_OK) && errno == ENOENT) return LT_OK;
    manifest->json = json_load_file(path, 0, &where);
    if (!manifest->json)
        return lt_fail(err, LT_E_FORMAT, "%s:%d: %s; use --fresh to start over", path, where.line,
                       where.text);
    if (json_integer_value(json_object_get(manifest->json, "format")) != MANIFEST_FORMAT)
        return lt_fail(err, LT_E_FORMAT, "%s was written by another version; use --fresh to start over",
                       path);
    manifest->state =
        json_is_string(json_object_get(manifest->json, "finished")) ? LT_RUN_FINISHED : LT_RUN_CONTINUES;
    return LT_OK;
}

static bool holds_text(const json_t *list, const char *text)
{
    json_t *wanted = lt_json_text(text);
    bool found = false;
    for (size_t i = 0; i < json_array_size(list) && !found; i++)
        found = json_equal(json_array_get(list, i), wanted);
    json_decref(wanted);
    return found;
}

/* What the finished run has written is what this one would write. */
static bool outputs_match(const lt_graph *graph, const lt_run_folder *folder, const lt_manifest *manifest,
                          lt_arena *arena)
{
    const json_t *outputs = json_object_get(manifest->json, "outputs");
    for (int i = 0; i < folder->n_outputs; i++) {
        const char *output = folder->outputs[i], *recorded = lt_config_path(graph, output, arena);
        /* An earlier build recorded it as it stands. */
        if (!recorded || (!holds_text(outputs, recorded) && !holds_text(outputs, output))) return false;
    }
    return true;
}

/* And is still there. */
static bool outputs_exist(const lt_graph *graph, const lt_run_folder *folder, const lt_manifest *manifest,
                          lt_arena *arena)
{
    const json_t *files = json_object_get(manifest->json, "files");
    for (int i = 0; i < folder->n_outputs; i++)
        if (!lt_output_pattern(folder->outputs[i]) && access(folder->outputs[i], F_OK)) return false;
    for (size_t i = 0; i < json_array_size(files); i++) {
        const char *file = json_string_value(json_array_get(files, i));
        const char *path = file ? lt_path_absolute(arena, graph->base, file) : NULL;
        if (!path || access(path, F_OK)) return false;
    }
    return true;
}

/* Whether an output of a recorded stage is marked so. */
static bool has_mark(const lt_manifest *manifest, const char *mark)
{
    const json_t *stages = json_object_get(manifest->json, "stages");
    for (size_t i = 0; i < json_array_size(stages); i++) {
        const json_t *outputs = json_object_get(json_array_get(stages, i), "outputs");
        for (size_t k = 0; k < json_array_size(outputs); k++)
            if (json_is_true(json_object_get(json_array_get(outputs, k), mark))) return true;
    }
    return false;
}

bool lt_manifest_is_dataset(const lt_manifest *manifest)
{
    return has_mark(manifest, "dataset");
}

bool lt_manifest_is_live(const lt_manifest *manifest)
{
    return has_mark(manifest, "live");
}

/* Options of the recorded plan. */
static lt_status read_resolved(lt_manifest *manifest, lt_arena *arena, lt_err *err)
{
    const json_t *stages = json_object_get(manifest->json, "stages");
    size_t room = 1;
    for (size_t i = 0; i < json_array_size(stages); i++)
        room += json_object_size(json_object_get(json_array_get(stages, i), "resolved"));
    manifest->resolved = lt_arena_alloc(arena, room * sizeof *manifest->resolved);
    if (!manifest->resolved) return lt_fail(err, LT_E_NO_MEMORY, "no memory");
    for (size_t i = 0; i < json_array_size(stages); i++) {
        const json_t *stage = json_array_get(stages, i);
        const char *name = json_string_value(json_object_get(stage, "name")), *key;
        json_t *value;
        json_object_foreach(json_object_get(stage, "resolved"), key, value)
        {
            if (!name || !json_is_string(value)) continue;
            manifest->resolved[manifest->n_resolved++] =
                (lt_resolved){lt_arena_strdup(arena, name), lt_arena_strdup(arena, key),
                              lt_arena_strdup(arena, json_string_value(value))};
        }
    }
    return LT_OK;
}

/* A manifest for a run that has not begun. */
static lt_status make_manifest(const lt_graph *graph, json_t *config, lt_manifest *manifest, lt_err *err)
{
    char now[32], digest[LT_DIGEST_BYTES];
    lt_time_text(now);
    lt_config_digest(config, digest);
    json_decref(manifest->json);
    manifest->json = json_pack("{si ss ss sn ss sO sI}", "format", MANIFEST_FORMAT, "version", LT_VERSION,
                               "created", now, "finished", "digest", digest, "config", config, "cache_bytes",
                               (json_int_t)(graph->cache ? lt_disk_used(graph->cache) : 0));
    manifest->state = LT_RUN_NEW;
    return manifest->json ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "no memory for the manifest");
}

/* Of a finished run. Where its output was removed, what it has finished is joined again; but what a live input had is not what it has now. */
static bool is_to_begin_again(const lt_graph *graph, const lt_run_folder *folder, lt_manifest *manifest,
                              lt_arena *arena)
{
    if (!outputs_match(graph, folder, manifest, arena)) return true;
    if (outputs_exist(graph, folder, manifest, arena)) return false;
    if (lt_manifest_is_live(manifest)) return true;
    manifest->state = LT_RUN_CONTINUES;
    json_object_set_new(manifest->json, "finished", json_null());
    return false;
}

lt_status lt_manifest_open(const lt_graph *graph, const lt_run_folder *folder, bool fresh, lt_arena *arena,
                           lt_manifest *manifest, lt_err *err)
{
    char difference[900];
    *manifest = (lt_manifest){0};
    json_t *config = lt_config_of(graph);
    lt_status status = config ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "no memory");
    if (!status && !fresh) status = read_manifest(folder, manifest, err);
    if (!status && manifest->json) {
        lt_config_difference(json_object_get(manifest->json, "config"), config, difference,
                             sizeof difference);
        if (*difference)
            status = lt_fail(
                err, LT_E_MISMATCH,
                "%s holds a run with another configuration: %s. Use --fresh to start over, or %s",
                folder->path, difference,
                folder->n_outputs ? "another output" : "keep this run apart with --set graph.run=NAME");
        else if (manifest->state == LT_RUN_FINISHED)
            fresh = is_to_begin_again(graph, folder, manifest, arena);
    }
    manifest->is_over_another = fresh;
    if (!status && (fresh || !manifest->json))
        status = make_manifest(graph, config, manifest, err);
    else if (!status)
        status = read_resolved(manifest, arena, err);
    json_decref(config);
    return status;
}

/* ---- beginning and ending ---------------------------------------------------------------------------- */

/* What of a stage's plan must be the same the second time. */
static json_t *stage_record(const lt_run_plan *plan, const lt_manifest *manifest, int index)
{
    const lt_graph_stage *stage = &plan->graph->stages[index];
    const lt_planned_stage *planned = &plan->stages[index];
    json_t *resolved = json_object(), *outputs = json_array();
    for (int i = 0; i < manifest->n_resolved; i++)
        if (!strcmp(manifest->resolved[i].stage, stage->name))
            json_object_set_new(resolved, manifest->resolved[i].name,
                                lt_json_text(manifest->resolved[i].text));
    for (size_t i = 0; i < planned->reply->n_resolved; i++)
        json_object_set_new(resolved, planned->reply->resolved[i]->name,
                            lt_json_text(planned->reply->resolved[i]->text));
    for (int port = 0; port < stage->described->n_outputs; port++) {
        const Lt__Wire__Stream *stream = planned->outputs[port].stream;
        if (stream->live) { /* another every time */
            json_array_append_new(
                outputs, json_pack("{ss sb}", "port", stage->described->outputs[port].name, "live", true));
            continue;
        }
        if (stream->expendable) { /* clips come and go; each is looked at when its turn comes */
            json_array_append_new(
                outputs, json_pack("{ss sb}", "port", stage->described->outputs[port].name, "dataset", true));
            continue;
        }
        json_array_append_new(outputs,
                              json_pack("{ss ss ss sI sI sI}", "port", stage->described->outputs[port].name,
                                        "digest", stream->digest ? stream->digest : "", "fingerprint",
                                        stream->fingerprint ? stream->fingerprint : "", "units",
                                        (json_int_t)stream->n_units, "frames", (json_int_t)stream->n_frames,
                                        "unit_bytes", (json_int_t)stream->unit_bytes));
    }
    return json_pack("{ss ss so so}", "name", stage->name, "kind", stage->described->kind, "resolved",
                     resolved, "outputs", outputs);
}

/* What the sinks write, and of outputs with a clip's name in them the file that this is. */
static void record_outputs(const lt_run_plan *plan, lt_arena *arena, lt_manifest *manifest)
{
    json_t *outputs = json_array(), *files = json_array();
    for (int i = 0; i < plan->graph->n_stages; i++) {
        const char *output = lt_stage_output(&plan->graph->stages[i]), *file = lt_plan_output(plan, i, arena);
        const char *recorded = output ? lt_config_path(plan->graph, output, arena) : NULL;
        if (recorded) json_array_append_new(outputs, lt_json_text(recorded));
        if (!file || !strcmp(file, output) || lt_output_pattern(file)) continue;
        file = lt_config_path(plan->graph, file, arena);
        if (file && lt_text_is_clean(file, SIZE_MAX)) json_array_append_new(files, json_string(file));
    }
    json_object_set_new(manifest->json, "outputs", outputs);
    json_object_set_new(manifest->json, "files", files);
}

static const json_t *find_stage(const json_t *stages, const json_t *name)
{
    for (size_t i = 0; i < json_array_size(stages); i++)
        if (json_equal(json_object_get(json_array_get(stages, i), "name"), name))
            return json_array_get(stages, i);
    return NULL;
}

lt_status lt_manifest_begin(const lt_run_plan *plan, const lt_run_folder *folder, lt_arena *arena,
                            lt_manifest *manifest, lt_err *err)
{
    json_t *stages = json_array(), *recorded = json_object_get(manifest->json, "stages");
    for (int i = 0; i < plan->graph->n_stages; i++)
        json_array_append_new(stages, stage_record(plan, manifest, plan->graph->order[i]));
    for (size_t i = 0; manifest->state != LT_RUN_NEW && i < json_array_size(stages); i++) {
        const json_t *now = json_array_get(stages, i),
                     *then = find_stage(recorded, json_object_get(now, "name"));
        if (json_equal(json_object_get(then, "outputs"), json_object_get(now, "outputs"))) continue;
        lt_status status = lt_fail(
            err, LT_E_MISMATCH,
            "stage \"%s\" would make other data than when the run in %s began: has its input, its model "
            "or this machine changed? Use --fresh to start over",
            json_string_value(json_object_get(now, "name")), folder->path);
        json_decref(stages);
        return status;
    }
    json_object_set_new(manifest->json, "stages", stages);
    if (manifest->state != LT_RUN_FINISHED) record_outputs(plan, arena, manifest);
    lt_status status = manifest->is_over_another ? lt_run_folder_clear(folder, err) : LT_OK;
    if (status) return status;
    return manifest->state == LT_RUN_FINISHED ? LT_OK : write_manifest(folder, manifest, err);
}

lt_status lt_manifest_end(const lt_run_folder *folder, lt_manifest *manifest, lt_err *err)
{
    char now[32];
    lt_time_text(now);
    json_object_set_new(manifest->json, "finished", json_string(now));
    return write_manifest(folder, manifest, err);
}

uint64_t lt_manifest_spent(const lt_graph *graph, const lt_run_folder *folder, const lt_manifest *manifest)
{
    uint64_t bytes = 0;
    for (int i = 0; i < folder->n_paths; i++) bytes += lt_disk_used(folder->paths[i]);
    uint64_t now = graph->cache ? lt_disk_used(graph->cache) : 0;
    uint64_t then = (uint64_t)json_integer_value(json_object_get(manifest->json, "cache_bytes"));
    return bytes + (now > then ? now - then : 0);
}

void lt_manifest_finish(lt_manifest *manifest)
{
    json_decref(manifest->json);
    *manifest = (lt_manifest){0};
}
