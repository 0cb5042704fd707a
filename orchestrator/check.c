/* check.c - stages of a graph: programs, options, replicas, and what sinks write. Edges are in edges.c. */
#include "orchestrator/check.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "orchestrator/edges.h"
#include "orchestrator/plan.h"
#include "orchestrator/run_folder.h"

static const char *const reserved[] = {"kind", "exec", "from", "replicas", "threads", "host", "mixed"};

typedef struct checker {
    lt_graph *graph;
    lt_mistakes *mistakes;
    lt_arena *arena;
    const char *folder; /* of the stage programs */
    const char **kinds;
    int n_kinds;
} checker;

/* ---- programs ---------------------------------------------------------------------------------------- */

/* What another stage with the same program was told; NULL: not asked yet. */
static const lt_described *known_answer(const checker *c, const char *program)
{
    for (int i = 0; i < c->graph->n_stages; i++) {
        const lt_described *d = c->graph->stages[i].described;
        if (d && !strcmp(d->program, program)) return d;
    }
    return NULL;
}

static void ask_stage(checker *c, lt_graph_stage *stage)
{
    lt_err err = {0};
    const char *program = stage->exec;
    if (!program) {
        program = lt_arena_printf(c->arena, "%s/stage-%s", c->folder, stage->kind);
        if (program && (strchr(stage->kind, '/') || access(program, X_OK))) {
            lt_mistake_add(c->mistakes, stage->kind_where, "unknown kind \"%s\"%s", stage->kind,
                           lt_meant_or_any(c->arena, stage->kind, c->kinds, c->n_kinds));
            stage->is_known = false;
            return;
        }
    }
    stage->described = program ? known_answer(c, program) : NULL;
    if (!stage->described && program && lt_describe(program, c->arena, &stage->described, &err)) {
        lt_mistake_add(c->mistakes, stage->kind_where, "%s", err.text);
        stage->is_known = false;
    }
}

/* ---- options ----------------------------------------------------------------------------------------- */

static bool type_fits(lt_option_type wanted, lt_toml_type given)
{
    switch (wanted) {
    case LT_OPT_STRING:
    case LT_OPT_PATH:
    case LT_OPT_SIZE: return given == LT_TOML_STRING;
    case LT_OPT_ENUM:
    case LT_OPT_BYTES: return given == LT_TOML_STRING || given == LT_TOML_INTEGER;
    case LT_OPT_INT: return given == LT_TOML_INTEGER;
    case LT_OPT_FLOAT: return given == LT_TOML_INTEGER || given == LT_TOML_FLOAT;
    case LT_OPT_BOOL: return given == LT_TOML_BOOLEAN;
    case LT_OPT_SECONDS: return given <= LT_TOML_FLOAT || given == LT_TOML_TIME;
    case LT_OPT_DICT: return given == LT_TOML_STRING || given == LT_TOML_TABLE;
    case LT_OPT_JSON: return given == LT_TOML_STRING || given == LT_TOML_ARRAY;
    }
    return false;
}

/* What may stand in a graph file for an option. */
static const char *expected(lt_option_type type)
{
    switch (type) {
    case LT_OPT_SIZE: return "text such as \"1024x576\"";
    case LT_OPT_DICT: return "text or a table";
    case LT_OPT_JSON: return "text or an array";
    default: return lt_option_expected(type);
    }
}

static void unknown_option(checker *c, const lt_graph_stage *stage, const lt_given *given)
{
    const lt_described *d = stage->described;
    size_t n = (size_t)d->n_options + LT_COUNT(reserved);
    const char **names = lt_arena_alloc(c->arena, n * sizeof *names);
    if (!names) return;
    for (int i = 0; i < d->n_options; i++) names[i] = d->options[i].name;
    memcpy(names + d->n_options, reserved, sizeof reserved);
    lt_mistake_add(c->mistakes, given->key_where, "unknown option \"%s\" of a %s stage%s", given->name,
                   d->kind, lt_meant(c->arena, given->name, names, (int)n));
}

static void check_given(checker *c, const lt_graph_stage *stage, lt_given *given)
{
    lt_err err = {0};
    const lt_option *option = lt_described_option(stage->described, given->name);
    if (!option) {
        unknown_option(c, stage, given);
        return;
    }
    bool is_array = given->type == LT_TOML_ARRAY && option->type != LT_OPT_JSON;
    if (!given->text || is_array || (!given->where.set && !type_fits(option->type, given->type))) {
        lt_mistake_add(c->mistakes, given->where, "%s is %s: must be %s", given->name,
                       lt_toml_type_name(given->type), expected(option->type));
        return;
    }
    if (option->type == LT_OPT_PATH && *given->text &&
        (!option->fallback || strcmp(given->text, option->fallback)))
        given->text =
            lt_path_absolute(c->arena, given->where.set ? c->graph->here : c->graph->base, given->text);
    if (given->text && lt_option_check(option, given->text, &err))
        lt_mistake_add(c->mistakes, given->where, "%s", err.text);
}

static const lt_given *find_given(const lt_graph_stage *stage, const char *name)
{
    for (int i = 0; i < stage->n_given; i++)
        if (!strcmp(stage->given[i].name, name)) return &stage->given[i];
    return NULL;
}

static void check_options(checker *c, lt_graph_stage *stage)
{
    const lt_described *d = stage->described;
    for (int i = 0; i < stage->n_given; i++) check_given(c, stage, &stage->given[i]);
    for (int i = 0; i < d->n_options; i++)
        if (!d->options[i].fallback && !find_given(stage, d->options[i].name))
            lt_mistake_add(c->mistakes, stage->where, "stage \"%s\" needs the option %s (%s)", stage->name,
                           d->options[i].name, d->options[i].help ? d->options[i].help : "required");
    /* [graph] memory is a default. There is room: `kind` or `exec` stands in the table too. */
    if (c->graph->memory && lt_described_option(d, "memory") && !find_given(stage, "memory")) {
        lt_given given = {"memory", c->graph->memory, LT_TOML_STRING, c->graph->memory_where,
                          c->graph->memory_where};
        stage->given[stage->n_given++] = given;
    }
    if (stage->replicas > 1 && !d->is_replicable)
        lt_mistake_add(c->mistakes, stage->replicas_where, "a %s stage cannot have replicas", d->kind);
}

/* Options that fit one by one may not go together: the stage knows. */
static void ask_about_options(checker *c, int index)
{
    const lt_graph_stage *stage = &c->graph->stages[index];
    lt_err err = {0};
    if (lt_plan_check(c->graph, index, c->arena, &err))
        lt_mistake_add(c->mistakes, stage->where, "stage \"%s\": %s", stage->name, err.text);
}

const char *lt_stage_option(const lt_graph_stage *stage, const char *name)
{
    const lt_given *given = find_given(stage, name);
    if (given) return given->text;
    const lt_option *option = stage->described ? lt_described_option(stage->described, name) : NULL;
    return option ? option->fallback : NULL;
}

const char *lt_stage_output(const lt_graph_stage *stage)
{
    const char *path =
        stage->described && !stage->described->n_outputs ? lt_stage_option(stage, "output") : NULL;
    return path && path[0] == '/' ? path : NULL;
}

/* ---- files ------------------------------------------------------------------------------------------- */

/* `real` and what of `rest` is no "." and no "..": of what is not there, no link can lead elsewhere. */
static char *append_names(lt_arena *arena, const char *real, const char *rest)
{
    char *path = lt_arena_printf(arena, "%s/%s/", strcmp(real, "/") ? real : "", rest);
    size_t end = strcmp(real, "/") ? strlen(real) : 0;
    for (const char *name = rest; path && *name; name += strcspn(name, "/"), name += strspn(name, "/")) {
        size_t n = strcspn(name, "/");
        if (!n || (n == 1 && name[0] == '.')) continue;
        if (n == 2 && name[0] == '.' && name[1] == '.') {
            while (end && path[--end] != '/') continue;
            continue;
        }
        path[end++] = '/';
        memmove(path + end, name, n);
        end += n;
    }
    if (path) path[LT_MAX(end, 1)] = 0;
    return path;
}

const char *lt_path_real(lt_arena *arena, const char *path)
{
    char *there = lt_arena_strdup(arena, path);
    size_t n = there ? strlen(there) : 0;
    while (n) {
        char *real = realpath(there, NULL);
        const char *result = real ? append_names(arena, real, path + n) : NULL;
        free(real);
        if (real) return result;
        while (n && there[n - 1] == '/') n--;
        while (n && there[n - 1] != '/') n--;
        there[n] = 0;
    }
    return there ? lt_arena_strdup(arena, path) : NULL;
}

const char *lt_path_placed(lt_arena *arena, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t at = n;
    while (at && path[at - 1] != '/') at--;
    const char *name = lt_arena_printf(arena, "%.*s", (int)(n - at), path + at);
    if (!name || !*name || !strcmp(name, ".") || !strcmp(name, "..")) return lt_path_real(arena, path);
    const char *folder = lt_arena_printf(arena, "%.*s", (int)LT_MAX(at, 1), path);
    folder = folder ? lt_path_real(arena, folder) : NULL;
    return folder ? lt_arena_printf(arena, "%s/%s", strcmp(folder, "/") ? folder : "", name) : NULL;
}

/* No file is written twice, none is written over that is read. */
static void check_files(checker *c)
{
    lt_graph *graph = c->graph;
    for (int i = 0; i < graph->n_stages; i++) {
        const lt_graph_stage *sink = &graph->stages[i];
        const char *output = lt_stage_output(sink), *real = output ? lt_path_real(c->arena, output) : NULL;
        for (int j = 0; real && j < graph->n_stages; j++) {
            const lt_graph_stage *other = &graph->stages[j];
            for (int k = 0; k < other->n_given && other->described; k++) {
                const lt_given *given = &other->given[k];
                const lt_option *option = lt_described_option(other->described, given->name);
                bool is_output = lt_stage_output(other) && !strcmp(given->name, "output");
                if (!option || option->type != LT_OPT_PATH || !given->text || given->text[0] != '/') continue;
                const char *path = lt_path_real(c->arena, given->text);
                if (!path || strcmp(path, real)) continue;
                if (is_output && j > i)
                    lt_mistake_add(c->mistakes, given->where, "stages \"%s\" and \"%s\" write one output, %s",
                                   sink->name, other->name, output);
                else if (!is_output)
                    lt_mistake_add(c->mistakes, given->where, "the output of stage \"%s\" would overwrite %s",
                                   sink->name, given->text);
            }
        }
    }
}

lt_status lt_graph_check(lt_graph *graph, lt_mistakes *mistakes, lt_arena *arena, lt_err *err)
{
    checker c = {.graph = graph, .mistakes = mistakes, .arena = arena, .folder = lt_program_folder(arena)};
    if (!c.folder) return lt_fail(err, LT_E_IO, "cannot find the folder of this program");
    lt_status status = lt_stage_kinds(c.folder, arena, &c.kinds, &c.n_kinds, err);
    if (status) return status;
    for (int i = 0; i < graph->n_stages; i++) {
        lt_graph_stage *stage = &graph->stages[i];
        if (stage->is_known) ask_stage(&c, stage);
        int n = mistakes->n;
        if (stage->described) check_options(&c, stage);
        if (stage->described && stage->described->has_check && mistakes->n == n) ask_about_options(&c, i);
    }
    check_files(&c);
    status = lt_run_folder_check(graph, mistakes, arena, err);
    return status ? status : lt_edges_check(graph, mistakes, arena, err);
}
