/* describe.c - asks a stage program what it is, and reads the answer. */
#include "orchestrator/describe.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "orchestrator/ask.h"
#include "proto/longtake.pb-c.h"

static const struct {
    const char *name;
    unsigned bit;
} kinds[] = {
    {"frames", 1u << LT__WIRE__PORT_KIND__PORT_FRAMES},
    {"latents", 1u << LT__WIRE__PORT_KIND__PORT_LATENTS},
    {"windows", 1u << LT__WIRE__PORT_KIND__PORT_WINDOWS},
    {"text", 1u << LT__WIRE__PORT_KIND__PORT_TEXT},
};

/* ---- reading the answer ------------------------------------------------------------------------------ */

static const char *text_of(lt_arena *arena, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? lt_arena_strdup(arena, text) : NULL;
}

static lt_status read_port(const json_t *json, lt_described_port *port, lt_arena *arena, lt_err *err)
{
    port->name = text_of(arena, json, "name");
    port->help = text_of(arena, json, "help");
    port->is_optional = json_is_true(json_object_get(json, "optional"));
    const json_t *names = json_object_get(json, "kinds");
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        for (size_t k = 0; name && k < LT_COUNT(kinds); k++)
            if (!strcmp(name, kinds[k].name)) port->kinds |= kinds[k].bit;
    }
    if (!port->name || !*port->name || !port->kinds)
        return lt_fail(err, LT_E_FORMAT, "a port has no name or no kinds this version knows");
    return LT_OK;
}

static lt_status read_ports(const json_t *root, const char *key, lt_described_port **ports, int *n,
                            lt_arena *arena, lt_err *err)
{
    const json_t *array = json_object_get(root, key);
    size_t count = json_array_size(array);
    *ports = lt_arena_alloc(arena, LT_MAX(count, 1) * sizeof **ports);
    if (!*ports) return lt_fail(err, LT_E_NO_MEMORY, "no memory");
    for (size_t i = 0; i < count; i++) {
        lt_status status = read_port(json_array_get(array, i), &(*ports)[(*n)++], arena, err);
        if (status) return status;
    }
    return LT_OK;
}

/* "a|b|c", written as such or as an array. */
static const char *read_choices(const json_t *json, lt_arena *arena)
{
    const json_t *choices = json_object_get(json, "choices");
    if (json_is_string(choices)) return lt_arena_strdup(arena, json_string_value(choices));
    const char *text = NULL;
    for (size_t i = 0; i < json_array_size(choices); i++) {
        const char *choice = json_string_value(json_array_get(choices, i));
        if (choice) text = lt_arena_printf(arena, "%s%s%s", text ? text : "", text ? "|" : "", choice);
    }
    return text;
}

/* A default is text, as a user would write it; null or none: the option is required. */
static const char *read_fallback(const json_t *json, lt_arena *arena)
{
    const json_t *fallback = json_object_get(json, "default");
    if (!fallback || json_is_null(fallback)) return NULL;
    if (json_is_string(fallback)) return lt_arena_strdup(arena, json_string_value(fallback));
    char *dump = json_dumps(fallback, JSON_ENCODE_ANY);
    const char *text = dump ? lt_arena_strdup(arena, dump) : NULL;
    free(dump);
    return text;
}

static lt_status read_option(const json_t *json, lt_option *option, lt_arena *arena, lt_err *err)
{
    option->name = text_of(arena, json, "name");
    const char *type = text_of(arena, json, "type");
    bool known = false;
    for (int t = LT_OPT_STRING; type && t <= LT_OPT_JSON && !known; t++) {
        known = !strcmp(type, lt_option_type_name((lt_option_type)t));
        option->type = (lt_option_type)t;
    }
    if (!option->name || !known)
        return lt_fail(err, LT_E_FORMAT, "option \"%s\" has no type this version knows",
                       option->name ? option->name : "?");
    option->fallback = read_fallback(json, arena);
    option->min = json_number_value(json_object_get(json, "min"));
    option->max = json_number_value(json_object_get(json, "max"));
    option->choices = read_choices(json, arena);
    option->unit = text_of(arena, json, "unit");
    option->help = text_of(arena, json, "help");
    option->cosmetic = json_is_true(json_object_get(json, "cosmetic"));
    if (option->type == LT_OPT_ENUM && !option->choices)
        return lt_fail(err, LT_E_FORMAT, "option \"%s\" has no choices", option->name);
    return LT_OK;
}

static lt_status read_described(const json_t *root, lt_described *d, lt_arena *arena, lt_err *err)
{
    lt_status status;
    d->kind = text_of(arena, root, "kind");
    d->help = text_of(arena, root, "help");
    d->has_check = json_is_true(json_object_get(root, "checks"));
    d->is_replicable = json_is_true(json_object_get(root, "replicable"));
    if (!d->kind) return lt_fail(err, LT_E_FORMAT, "has no kind");
    LT_TRY(read_ports(root, "inputs", &d->inputs, &d->n_inputs, arena, err));
    LT_TRY(read_ports(root, "outputs", &d->outputs, &d->n_outputs, arena, err));
    const json_t *options = json_object_get(root, "options");
    size_t n = json_array_size(options);
    d->options = lt_arena_alloc(arena, LT_MAX(n, 1) * sizeof *d->options);
    if (!d->options) return lt_fail(err, LT_E_NO_MEMORY, "no memory");
    for (size_t i = 0; i < n; i++)
        LT_TRY(read_option(json_array_get(options, i), &d->options[d->n_options++], arena, err));
    return LT_OK;
fail:
    return status;
}

lt_status lt_describe(const char *program, lt_arena *arena, const lt_described **described, lt_err *err)
{
    lt_answer answer;
    lt_err inner = {0};
    lt_status status = lt_ask(program, "--describe", NULL, 0, 20, &answer, err);
    if (!status && answer.exit_code)
        status = lt_fail(err, LT_E_INVALID, "%s --describe ended with code %d%s%s", program, answer.exit_code,
                         *answer.errors ? ": " : "", answer.errors);
    if (!status) {
        json_error_t where;
        json_t *root = json_loadb(answer.out, answer.out_bytes, 0, &where);
        lt_described *d = lt_arena_alloc(arena, sizeof *d);
        if (!json_is_object(root))
            status = lt_fail(&inner, LT_E_FORMAT, "is no JSON object: %s", where.text);
        else if (!d)
            status = lt_fail(&inner, LT_E_NO_MEMORY, "no memory");
        else
            status = read_described(root, d, arena, &inner);
        json_decref(root);
        if (status)
            lt_fail(err, status, "%s --describe: %s", program, inner.text);
        else {
            d->program = lt_arena_strdup(arena, program);
            *described = d;
        }
    }
    lt_answer_finish(&answer);
    return status;
}

/* ---- using it ---------------------------------------------------------------------------------------- */

lt_status lt_option_check(const lt_option *option, const char *text, lt_err *err)
{
    _Alignas(16) char place[64];
    lt_arena arena = {0};
    lt_status status = lt_options_set(option, 1, place, option->name, text, &arena, err);
    lt_arena_finish(&arena);
    return status;
}

const lt_option *lt_described_option(const lt_described *described, const char *name)
{
    for (int i = 0; i < described->n_options; i++)
        if (!strcmp(described->options[i].name, name)) return &described->options[i];
    return NULL;
}

const char *lt_kinds_text(lt_arena *arena, unsigned set)
{
    const char *text = NULL;
    for (size_t i = 0; i < LT_COUNT(kinds); i++)
        if (set & kinds[i].bit)
            text = lt_arena_printf(arena, "%s%s%s", text ? text : "", text ? " or " : "", kinds[i].name);
    return text ? text : "nothing";
}

const char *lt_program_folder(lt_arena *arena)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0) return NULL;
    path[n] = 0;
    char *slash = strrchr(path, '/');
    if (slash) *slash = 0;
    return lt_arena_strdup(arena, path);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

lt_status lt_stage_kinds(const char *folder, lt_arena *arena, const char ***names, int *n_names, lt_err *err)
{
    enum { MAX_KINDS = 256 };
    *n_names = 0;
    *names = lt_arena_alloc(arena, MAX_KINDS * sizeof **names);
    DIR *dir = opendir(folder);
    if (!dir) return lt_fail_errno(err, errno, "stages in %s", folder);
    if (!*names) {
        closedir(dir);
        return lt_fail(err, LT_E_NO_MEMORY, "no memory");
    }
    for (struct dirent *entry; (entry = readdir(dir)) && *n_names < MAX_KINDS;) {
        if (strncmp(entry->d_name, "stage-", 6) || faccessat(dirfd(dir), entry->d_name, X_OK, 0)) continue;
        char *name = lt_arena_strdup(arena, entry->d_name + 6);
        if (name && !strchr(name, '.')) (*names)[(*n_names)++] = name;
    }
    closedir(dir);
    qsort(*names, (size_t)*n_names, sizeof **names, compare_names);
    return LT_OK;
}

/* ---- reference --------------------------------------------------------------------------------------- */

/* Range or choices, in words. */
static void print_values(const lt_option *o, FILE *out, const char *bar)
{
    const char *type = lt_option_type_name(o->type),
               *unit = o->unit && strcmp(o->unit, type) ? o->unit : NULL;
    bool has_range = o->min != 0 || o->max != 0;
    if (o->type == LT_OPT_ENUM)
        for (const char *c = o->choices; *c; c++) *c == '|' ? fputs(bar, out) : fputc(*c, out);
    else
        fputs(type, out);
    if (has_range) fprintf(out, ", %.10g to %.10g", o->min, o->max);
    if (unit) fprintf(out, "%s%s", has_range ? " " : ", ", unit);
}

static void print_default(const lt_option *o, FILE *out, const char *quote)
{
    if (!o->fallback)
        fputs("required", out);
    else if (!*o->fallback)
        fputs("none", out);
    else
        fprintf(out, "%s%s%s", quote, o->fallback, quote);
}

static void print_port(const lt_described_port *port, const char *what, bool markdown, FILE *out)
{
    lt_arena arena = {0};
    const char *quote = markdown ? "`" : "";
    fprintf(out, "%s%s %s%s%s%s: %s%s%s\n", markdown ? "- " : "  ", what, quote, port->name, quote,
            port->is_optional ? " (may be left out)" : "", lt_kinds_text(&arena, port->kinds),
            port->help && *port->help ? ". " : "", port->help ? port->help : "");
    lt_arena_finish(&arena);
}

void lt_describe_print(const lt_described *d, bool markdown, FILE *out)
{
    fprintf(out, markdown ? "### `%s`\n\n%s\n\n" : "%s - %s\n\n", d->kind, d->help ? d->help : "");
    for (int i = 0; i < d->n_inputs; i++) print_port(&d->inputs[i], "input", markdown, out);
    for (int i = 0; i < d->n_outputs; i++) print_port(&d->outputs[i], "output", markdown, out);
    if (d->is_replicable) fprintf(out, "%scan have replicas\n", markdown ? "- " : "  ");
    if (markdown)
        fprintf(out, "\n| option | value | default | |\n| --- | --- | --- | --- |\n");
    else
        fprintf(out, "\n");
    for (int i = 0; i < d->n_options; i++) {
        const lt_option *o = &d->options[i];
        fprintf(out, markdown ? "| `%s` | " : "  %-16s ", o->name);
        print_values(o, out, markdown ? " \\| " : " | ");
        fputs(markdown ? " | " : "; ", out);
        if (!markdown && o->fallback) fputs("default ", out);
        print_default(o, out, markdown ? "`" : "");
        fprintf(out, markdown ? " | %s |\n" : "\n                   %s\n", o->help ? o->help : "");
    }
}
