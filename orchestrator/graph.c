/* graph.c - a graph file taken apart into stages and what each was given. */
#include "orchestrator/graph.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "orchestrator/overrides.h"

enum { MAX_GRAPH_BYTES = 1 << 20 };

typedef struct reader {
    lt_graph *graph;
    lt_mistakes *mistakes;
    lt_arena *arena;
} reader;

static const char *const graph_keys[] = {"cache", "run", "transport", "threads", "memory"};
static const char *const top_keys[] = {"graph", "stage"};

/* ---- small values ------------------------------------------------------------------------------------ */

const char *lt_path_absolute(lt_arena *arena, const char *base, const char *path)
{
    size_t scheme = strspn(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");
    if (path[0] == '/' || (scheme > 1 && path[scheme] == ':') || !strcmp(path, "-"))
        return lt_arena_strdup(arena, path);
    while (!strncmp(path, "./", 2)) path += 2;
    return lt_arena_printf(arena, "%s/%s", strcmp(base, "/") ? base : "", path);
}

/* An integer within [low, high], or `fallback` with a mistake added. */
static int read_int(reader *r, const lt_toml *value, int low, int high, int fallback)
{
    char *end = NULL;
    errno = 0;
    long number = value->text ? strtol(value->text, &end, 10) : 0;
    if (value->type == LT_TOML_INTEGER && !*end && !errno && number >= low && number <= high)
        return (int)number;
    lt_mistake_add(r->mistakes, value->where, "%s = %s: must be a whole number between %d and %d", value->key,
                   value->text ? value->text : lt_toml_type_name(value->type), low, high);
    return fallback;
}

/* Text, or NULL with a mistake added. A value of --set may look like anything. */
static const char *read_text(reader *r, const lt_toml *value)
{
    if (value->text && *value->text && (value->type == LT_TOML_STRING || value->where.set))
        return value->text;
    lt_mistake_add(r->mistakes, value->where, "%s is %s: must be a string", value->key,
                   value->text && !*value->text ? "empty" : lt_toml_type_name(value->type));
    return NULL;
}

/* "key=value:key=value" from a table of scalars, as options of type dictionary read it. NULL: no memory. */
static const char *dictionary_text(reader *r, const lt_toml *table)
{
    size_t room = 1;
    for (int i = 0; i < table->n_items; i++)
        room +=
            strlen(table->items[i].key) + 2 + 2 * strlen(table->items[i].text ? table->items[i].text : "");
    char *text = lt_arena_alloc(r->arena, room), *at = text;
    for (int i = 0; i < table->n_items && text; i++) {
        const lt_toml *item = &table->items[i];
        if (!item->text) {
            lt_mistake_add(r->mistakes, item->where, "%s.%s is %s: must be a string or a number", table->key,
                           item->key, lt_toml_type_name(item->type));
            continue;
        }
        at += snprintf(at, room - (size_t)(at - text), "%s%s=", at > text ? ":" : "", item->key);
        for (const char *c = item->text; *c; c++) {
            if (strchr(":\\'", *c)) *at++ = '\\';
            *at++ = *c;
        }
    }
    return text;
}

/* A value as JSON; NULL for what JSON cannot say (infinity) and when memory is out. */
static json_t *json_of(const lt_toml *value)
{
    json_t *json = value->type == LT_TOML_ARRAY ? json_array() : NULL;
    switch (value->type) {
    case LT_TOML_INTEGER: return json_integer(strtoll(value->text, NULL, 0));
    case LT_TOML_FLOAT: return json_real(strtod(value->text, NULL));
    case LT_TOML_BOOLEAN: return json_boolean(!strcmp(value->text, "true"));
    case LT_TOML_STRING:
    case LT_TOML_TIME: return json_string(value->text);
    case LT_TOML_TABLE: json = json_object(); break;
    case LT_TOML_ARRAY: break;
    }
    for (int i = 0; i < value->n_items; i++) {
        json_t *item = json_of(&value->items[i]);
        int failed = json_is_array(json) ? json_array_append_new(json, item)
                                         : json_object_set_new(json, value->items[i].key, item);
        if (!failed) continue;
        json_decref(json);
        return NULL;
    }
    return json;
}

/* An array as options of type JSON read it. */
static const char *json_text(reader *r, const lt_toml *array)
{
    json_t *json = json_of(array);
    char *dump = json ? json_dumps(json, JSON_COMPACT) : NULL;
    const char *text = dump ? lt_arena_strdup(r->arena, dump) : NULL;
    json_decref(json);
    free(dump);
    return text;
}

/* ---- [graph] ----------------------------------------------------------------------------------------- */

static void read_transport(reader *r, const lt_toml *value)
{
    const char *text = read_text(r, value);
    if (!text) return;
    r->graph->is_tcp = !strcmp(text, "tcp");
    if (!r->graph->is_tcp && strcmp(text, "auto"))
        lt_mistake_add(r->mistakes, value->where, "transport = \"%s\": must be one of auto|tcp", text);
}

static void read_memory(reader *r, const lt_toml *value)
{
    static const lt_option memory = {.name = "memory", .type = LT_OPT_BYTES};
    int64_t bytes;
    lt_err err;
    if (!value->text || (value->type != LT_TOML_INTEGER && value->type != LT_TOML_STRING)) {
        lt_mistake_add(r->mistakes, value->where, "memory is %s: must be a size like \"8G\"",
                       lt_toml_type_name(value->type));
    } else if (lt_options_set(&memory, 1, &bytes, "memory", value->text, r->arena, &err)) {
        lt_mistake_add(r->mistakes, value->where, "%s", err.text);
    } else {
        r->graph->memory = value->text;
        r->graph->memory_where = value->where;
    }
}

static void read_graph_table(reader *r, const lt_toml *table)
{
    for (int i = 0; i < table->n_items; i++) {
        const lt_toml *item = &table->items[i];
        if (!strcmp(item->key, "cache")) {
            const char *text = read_text(r, item);
            r->graph->cache_where = item->where;
            if (text)
                r->graph->cache =
                    lt_path_absolute(r->arena, item->where.set ? r->graph->here : r->graph->base, text);
        } else if (!strcmp(item->key, "run")) {
            const char *text = read_text(r, item);
            if (text)
                r->graph->run =
                    lt_path_absolute(r->arena, item->where.set ? r->graph->here : r->graph->base, text);
        } else if (!strcmp(item->key, "transport")) {
            read_transport(r, item);
        } else if (!strcmp(item->key, "threads")) {
            r->graph->threads = read_int(r, item, 0, LT_MAX_THREADS, 0);
        } else if (!strcmp(item->key, "memory")) {
            read_memory(r, item);
        } else {
            lt_mistake_add(r->mistakes, item->key_where, "unknown key \"%s\" in [graph]%s", item->key,
                           lt_meant(r->arena, item->key, graph_keys, (int)LT_COUNT(graph_keys)));
        }
    }
}

/* ---- [stage.NAME] ------------------------------------------------------------------------------------ */

/* One producer, "read" or "read.frames", for `input` (NULL: whichever fits). */
static void read_from_text(reader *r, lt_graph_stage *stage, const char *input, const lt_toml *value)
{
    const char *text = read_text(r, value);
    if (!text) return;
    const char *dot = strchr(text, '.');
    lt_from *from = &stage->from[stage->n_from++];
    *from = (lt_from){.input = input, .where = value->where, .input_where = value->key_where};
    from->producer = dot ? lt_arena_printf(r->arena, "%.*s", (int)(dot - text), text) : text;
    from->port = dot ? dot + 1 : NULL;
}

static lt_status read_from(reader *r, lt_graph_stage *stage, const lt_toml *value)
{
    int n = LT_MAX(value->n_items, 1);
    stage->from = lt_arena_alloc(r->arena, (size_t)n * sizeof *stage->from);
    if (!stage->from) return LT_E_NO_MEMORY;
    if (value->type == LT_TOML_TABLE) {
        for (int i = 0; i < value->n_items; i++)
            read_from_text(r, stage, value->items[i].key, &value->items[i]);
    } else if (value->type == LT_TOML_ARRAY) {
        for (int i = 0; i < value->n_items; i++) read_from_text(r, stage, NULL, &value->items[i]);
    } else {
        read_from_text(r, stage, NULL, value);
    }
    return LT_OK;
}

static void read_host(reader *r, const lt_toml *value)
{
    char name[256] = "";
    const char *text = read_text(r, value);
    gethostname(name, sizeof name - 1);
    if (!text || !strcmp(text, "localhost") || !strcmp(text, name)) return;
    lt_mistake_add(
        r->mistakes, value->where,
        "host = \"%s\": this version runs all stages on the orchestrator's own host; leave `host` out", text);
}

/* Keys that are ours. False: the key is an option of the stage's own. */
static bool read_reserved(reader *r, lt_graph_stage *stage, const lt_toml *item, lt_status *status)
{
    if (!strcmp(item->key, "kind") || !strcmp(item->key, "exec")) {
        const char **place = item->key[0] == 'k' ? &stage->kind : &stage->exec;
        *place = read_text(r, item);
        if (stage->kind && stage->exec)
            lt_mistake_add(r->mistakes, item->key_where, "stage \"%s\" has both kind and exec: give one",
                           stage->name);
        stage->kind_where = item->where;
        stage->is_known &= *place != NULL;
        if (*place == stage->exec && *place)
            stage->exec =
                lt_path_absolute(r->arena, item->where.set ? r->graph->here : r->graph->base, stage->exec);
    } else if (!strcmp(item->key, "from")) {
        *status = read_from(r, stage, item);
    } else if (!strcmp(item->key, "replicas")) {
        stage->replicas = read_int(r, item, 1, LT_MAX_REPLICAS, 1);
        stage->replicas_where = item->where;
    } else if (!strcmp(item->key, "threads")) {
        stage->threads = read_int(r, item, 0, LT_MAX_THREADS, 0);
    } else if (!strcmp(item->key, "host")) {
        read_host(r, item);
    } else if (!strcmp(item->key, "mixed")) {
        stage->mixed = item->text && !strcmp(item->text, "true");
        if (item->type != LT_TOML_BOOLEAN)
            lt_mistake_add(r->mistakes, item->where, "mixed is %s: must be true or false",
                           lt_toml_type_name(item->type));
    } else {
        return false;
    }
    return true;
}

static bool is_name(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return n && !text[n] && n <= 64;
}

static lt_status read_stage(reader *r, lt_graph_stage *stage, const lt_toml *table)
{
    *stage = (lt_graph_stage){.name = table->key, .where = table->key_where, .replicas = 1, .is_known = true};
    stage->kind_where = stage->where;
    if (!is_name(table->key))
        lt_mistake_add(r->mistakes, table->key_where,
                       "\"%s\" cannot name a stage: use up to 64 letters, digits, _ and -", table->key);
    stage->given = lt_arena_alloc(r->arena, (size_t)LT_MAX(table->n_items, 1) * sizeof *stage->given);
    if (!stage->given) return LT_E_NO_MEMORY;
    lt_status status = LT_OK;
    for (int i = 0; i < table->n_items && !status; i++) {
        const lt_toml *item = &table->items[i];
        if (read_reserved(r, stage, item, &status)) continue;
        const char *text = item->type == LT_TOML_TABLE   ? dictionary_text(r, item)
                           : item->type == LT_TOML_ARRAY ? json_text(r, item)
                                                         : item->text;
        stage->given[stage->n_given++] =
            (lt_given){item->key, text, item->type, item->where, item->key_where};
    }
    if (!status && !lt_toml_find(table, "kind") && !lt_toml_find(table, "exec")) {
        lt_mistake_add(r->mistakes, table->key_where, "stage \"%s\" has no kind", table->key);
        stage->is_known = false;
    }
    return status;
}

static lt_status read_stages(reader *r, const lt_toml *stages)
{
    lt_graph *graph = r->graph;
    graph->stages = lt_arena_alloc(r->arena, (size_t)LT_MAX(stages->n_items, 1) * sizeof *graph->stages);
    if (!graph->stages) return LT_E_NO_MEMORY;
    for (int i = 0; i < stages->n_items; i++) {
        const lt_toml *table = &stages->items[i];
        if (table->type != LT_TOML_TABLE) {
            lt_mistake_add(r->mistakes, table->key_where, "stage.%s is %s: must be a table [stage.%s]",
                           table->key, lt_toml_type_name(table->type), table->key);
            continue;
        }
        if (graph->n_stages == LT_MAX_STAGES) {
            lt_mistake_add(r->mistakes, table->key_where, "more than %d stages", LT_MAX_STAGES);
            break;
        }
        lt_status status = read_stage(r, &graph->stages[graph->n_stages++], table);
        if (status) return status;
    }
    return LT_OK;
}

/* ---- the file ---------------------------------------------------------------------------------------- */

static lt_status read_root(reader *r, const lt_toml *root)
{
    lt_status status = LT_OK;
    for (int i = 0; i < root->n_items && !status; i++) {
        const lt_toml *item = &root->items[i];
        bool is_graph = !strcmp(item->key, "graph"), is_stage = !strcmp(item->key, "stage");
        if (!is_graph && !is_stage)
            lt_mistake_add(r->mistakes, item->key_where,
                           "unknown key \"%s\": a graph has [graph] and [stage.NAME]%s", item->key,
                           lt_meant(r->arena, item->key, top_keys, (int)LT_COUNT(top_keys)));
        else if (item->type != LT_TOML_TABLE)
            lt_mistake_add(r->mistakes, item->key_where, "\"%s\" is %s: must be a table", item->key,
                           lt_toml_type_name(item->type));
        else if (is_graph)
            read_graph_table(r, item);
        else
            status = read_stages(r, item);
    }
    if (!status && !r->graph->n_stages)
        lt_mistake_add(r->mistakes, (lt_where){1, 1, NULL},
                       "there is no stage: a graph has a table [stage.NAME] each");
    return status;
}

/* The whole file in the arena. */
static lt_status load(const char *path, lt_arena *arena, char **text, size_t *bytes, lt_err *err)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file) return lt_fail_errno(err, errno, "graph file %s", path);
    lt_status status = LT_OK;
    size_t room = MAX_GRAPH_BYTES + 1;
    if (!fstat(fileno(file), &info) && S_ISREG(info.st_mode)) room = LT_MIN((size_t)info.st_size + 1, room);
    *text = lt_arena_alloc(arena, room);
    if (!*text)
        status = lt_fail(err, LT_E_NO_MEMORY, "no memory to read %s", path);
    else
        *bytes = fread(*text, 1, room, file);
    if (!status && ferror(file))
        status = lt_fail_errno(err, errno, "graph file %s", path);
    else if (!status && *bytes > MAX_GRAPH_BYTES)
        status = lt_fail(err, LT_E_FORMAT, "%s: larger than a graph file can be (1 MiB)", path);
    fclose(file);
    return status;
}

/* Where relative paths start: the file's folder, and the current one. */
static lt_status find_folders(lt_graph *graph, lt_arena *arena, lt_err *err)
{
    char *here = getcwd(NULL, 0), *real = realpath(graph->file, NULL);
    lt_status status = LT_OK;
    if (!here || !real) {
        status = lt_fail_errno(err, errno, "folder of %s", graph->file);
    } else {
        char *slash = strrchr(real, '/');
        graph->here = lt_arena_strdup(arena, here);
        graph->base = lt_arena_printf(arena, "%.*s", (int)LT_MAX(slash - real, 1), real);
        if (!graph->here || !graph->base) status = lt_fail(err, LT_E_NO_MEMORY, "no memory");
    }
    free(here);
    free(real);
    return status;
}

lt_status lt_graph_read(const char *file, const char *const *sets, int n_sets, lt_arena *arena,
                        lt_graph **graph, lt_mistakes *mistakes, lt_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    lt_toml *root = NULL;
    lt_where where = {0};
    *mistakes = (lt_mistakes){.file = file, .arena = arena};
    lt_status status = load(file, arena, &text, &bytes, err);
    if (status) return status;
    *graph = lt_arena_alloc(arena, sizeof **graph);
    if (!*graph) return lt_fail(err, LT_E_NO_MEMORY, "no memory for %s", file);
    (*graph)->file = file;
    reader r = {*graph, mistakes, arena};
    LT_TRY(find_folders(*graph, arena, err));
    status = lt_toml_parse(text, bytes, arena, &root, &where, err);
    if (status == LT_E_FORMAT) lt_mistake_add(mistakes, where, "%s", err->text);
    if (status) goto fail;
    for (int i = 0; i < n_sets && !status; i++) status = lt_override(root, sets[i], mistakes);
    if (!status) status = read_root(&r, root);
    if (status) return lt_fail(err, status, "no memory for %s", file);
fail:
    return status;
}

int lt_graph_find(const lt_graph *graph, const char *name)
{
    for (int i = 0; i < graph->n_stages; i++)
        if (!strcmp(graph->stages[i].name, name)) return i;
    return -1;
}

const char *const *lt_graph_names(const lt_graph *graph, lt_arena *arena)
{
    const char **names = lt_arena_alloc(arena, (size_t)LT_MAX(graph->n_stages, 1) * sizeof *names);
    for (int i = 0; names && i < graph->n_stages; i++) names[i] = graph->stages[i].name;
    return names;
}
