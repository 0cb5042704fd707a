/* config.c - a graph as one flat list of what decides the output's bytes. */
#include "orchestrator/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "orchestrator/check.h"
#include "orchestrator/json_text.h"

const char *lt_config_path(const lt_graph *graph, const char *path, lt_arena *arena)
{
    size_t n = strlen(graph->base);
    if (path[0] == '/') path = lt_path_placed(arena, path);
    return path && !strncmp(path, graph->base, n) && path[n] == '/' ? path + n + 1 : path;
}

static void put(json_t *config, const char *stage, const char *key, const char *text)
{
    char name[512];
    snprintf(name, sizeof name, "%s%s.%s", stage ? "stage." : "graph", stage ? stage : "", key);
    json_object_set_new(config, name, lt_json_text(text));
}

static void put_path(json_t *config, const lt_graph *graph, const char *stage, const char *key,
                     const char *path)
{
    lt_arena arena = {0};
    const char *recorded = lt_config_path(graph, path, &arena);
    put(config, stage, key, recorded ? recorded : path);
    lt_arena_finish(&arena);
}

static void put_stage(json_t *config, const lt_graph *graph, const lt_graph_stage *stage)
{
    const lt_described *d = stage->described;
    if (stage->kind)
        put(config, stage->name, "kind", stage->kind);
    else
        put_path(config, graph, stage->name, "exec", stage->exec);
    if (stage->mixed) put(config, stage->name, "mixed", "true");
    for (int i = 0; i < d->n_options; i++) {
        const char *text = lt_stage_option(stage, d->options[i].name);
        if (d->options[i].cosmetic || !text) continue;
        if (d->options[i].type == LT_OPT_PATH)
            put_path(config, graph, stage->name, d->options[i].name, text);
        else
            put(config, stage->name, d->options[i].name, text);
    }
}

json_t *lt_config_of(const lt_graph *graph)
{
    json_t *config = json_object();
    if (!config) return NULL;
    put_path(config, graph, NULL, "cache", graph->cache ? graph->cache : "");
    for (int i = 0; i < graph->n_stages; i++) put_stage(config, graph, &graph->stages[i]);
    for (int i = 0; i < graph->n_edges; i++) {
        const lt_edge *edge = &graph->edges[i];
        const lt_graph_stage *from = &graph->stages[edge->producer], *to = &graph->stages[edge->consumer];
        char key[128], text[256];
        snprintf(key, sizeof key, "from.%s", to->described->inputs[edge->input].name);
        snprintf(text, sizeof text, "%s.%s", from->name, from->described->outputs[edge->output].name);
        put(config, to->name, key, text);
    }
    return config;
}

void lt_config_digest(const json_t *config, char digest[LT_DIGEST_BYTES])
{
    char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
    XXH128_hash_t hash = XXH3_128bits(text ? text : "", text ? strlen(text) : 0);
    snprintf(digest, LT_DIGEST_BYTES, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
    free(text);
}

void lt_config_difference(const json_t *then, const json_t *now, char *text, size_t room)
{
    int n = 0;
    const char *key, *first = NULL;
    json_t *value;
    json_object_foreach((json_t *)now, key, value) if (!json_equal(value, json_object_get(then, key)) && !n++)
        first = key;
    json_object_foreach((json_t *)then, key, value) if (!json_object_get(now, key) && !n++) first = key;
    text[0] = 0;
    if (!n) return;
    const char *was = json_string_value(json_object_get(then, first));
    const char *is = json_string_value(json_object_get(now, first));
    int used = snprintf(text, room, "%s is %s%s%s, was %s%s%s", first, is ? "\"" : "", is ? is : "not there",
                        is ? "\"" : "", was ? "\"" : "", was ? was : "not there", was ? "\"" : "");
    if (n > 1 && used > 0 && (size_t)used < room)
        snprintf(text + used, room - (size_t)used, " (and %d more)", n - 1);
}
