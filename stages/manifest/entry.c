/* entry.c - what an entry of a manifest says, checked. */
#include "stages/manifest/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "proto/wire.h"

enum { PATH_BYTES = 4000, SUFFIX_BYTES = 13, NAME_BYTES = 120 };

static lt_status fail_entry(const lt_clip_list *list, const lt_list_place *place, lt_err *err,
                            const char *what)
{
    return lt_fail(err, LT_E_FORMAT, "%s:%d: %s", list->path, (int)place->line, what);
}

/* ---- fields -------------------------------------------------------------------------------------------- */

/* "12.5", "1:02.5", "01:02:03"; false when it is none of those. */
static bool parse_seconds(const char *text, double *seconds)
{
    double total = 0;
    for (int part = 0; part < 3; part++) {
        char *end;
        if (*text < '0' || *text > '9') return false;
        double value = strtod(text, &end);
        total = total * 60 + value;
        if (!*end) {
            *seconds = total;
            return isfinite(total);
        }
        if (*end != ':') return false;
        text = end + 1;
    }
    return false;
}

static lt_status take_seconds(const lt_clip_list *list, const lt_list_place *place, const json_t *object,
                              const char *name, double *seconds, lt_err *err)
{
    const json_t *value = json_object_get(object, name);
    *seconds = 0;
    if (!value || json_is_null(value)) return LT_OK;
    bool fine = json_is_number(value);
    if (fine) *seconds = json_number_value(value);
    if (json_is_string(value)) fine = parse_seconds(json_string_value(value), seconds);
    if (fine && *seconds >= 0 && *seconds <= 1e9) return LT_OK;
    return lt_fail(err, LT_E_FORMAT, "%s:%d: %s must be seconds: a number from 0 on, or \"MM:SS.s\"",
                   list->path, (int)place->line, name);
}

static const char *take_text(const json_t *object, const char *name, const char *other)
{
    const char *text = json_string_value(json_object_get(object, name));
    if (!text && other) text = json_string_value(json_object_get(object, other));
    return text ? text : "";
}

/* Captions come from everywhere: what is no printable character is a space. */
static char *clean(const char *text, lt_arena *arena)
{
    char *copy = lt_arena_strdup(arena, text);
    for (char *c = copy; c && *c; c++)
        if (((unsigned char)*c < 0x20 && *c != '\n' && *c != '\t') || *c == 0x7f) *c = ' ';
    return copy;
}

/* A line of JSON, in which jansson escapes all control characters but the delete character: that too. */
static char *escape_deletes(const char *line, lt_arena *arena)
{
    static const char escape[] = "\\u007f";
    size_t n = strlen(line) + 1;
    for (const char *c = line; (c = strchr(c, 0x7f)); c++) n += strlen(escape) - 1;
    char *copy = lt_arena_alloc(arena, n), *to = copy;
    for (const char *c = line; copy && *c; c++) {
        if (*c == 0x7f)
            to = stpcpy(to, escape);
        else
            *to++ = *c;
    }
    if (copy) *to = 0;
    return copy;
}

static const char *absolute(const lt_clip_list *list, const char *path, lt_arena *arena)
{
    const char *scheme = strstr(path, "://");
    bool is_url = scheme && !memchr(path, '/', (size_t)(scheme - path));
    if (*path == '/' || is_url || !strncmp(path, "lavfi:", 6)) return lt_arena_strdup(arena, path);
    return lt_arena_printf(arena, "%s/%s", list->base, path);
}

/* ---- names --------------------------------------------------------------------------------------------- */

lt_status lt_list_add_suffix(lt_clip_entry *entry, lt_arena *arena, lt_err *err)
{
    char times[64];
    XXH3_state_t *state = XXH3_createState();
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    snprintf(times, sizeof times, "%.17g %.17g", entry->start, entry->end);
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, entry->path, strlen(entry->path) + 1);
    XXH3_64bits_update(state, times, strlen(times) + 1);
    XXH3_64bits_update(state, entry->text, strlen(entry->text));
    entry->name = lt_arena_printf(arena, "%.*s-%012llx", LT_CLIP_NAME_BYTES - SUFFIX_BYTES - 1, entry->name,
                                  (unsigned long long)(XXH3_64bits_digest(state) >> 16));
    XXH3_freeState(state);
    return entry->name ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static lt_status fill(const lt_clip_list *list, const lt_list_place *place, json_t *object, lt_arena *arena,
                      lt_clip_entry *entry, lt_err *err)
{
    lt_status status;
    const char *path = take_text(object, "path", NULL), *name = take_text(object, "name", NULL);
    if (!*path) return fail_entry(list, place, err, "this entry has no path");
    if (strlen(path) > PATH_BYTES) return fail_entry(list, place, err, "its path is too long");
    if (*name && (!lt_is_clip_name(name) || strlen(name) >= LT_CLIP_NAME_BYTES))
        return fail_entry(list, place, err,
                          "name must be of letters, digits and . _ - (at most 199, the first no dot)");
    entry->line = (int64_t)place->line;
    entry->path = absolute(list, path, arena);
    entry->text = clean(take_text(object, "text", "caption"), arena);
    LT_TRY(take_seconds(list, place, object, "start", &entry->start, err));
    LT_TRY(take_seconds(list, place, object, "end", &entry->end, err));
    if (entry->end && entry->end <= entry->start)
        return fail_entry(list, place, err, "its end is not behind its start");
    if (entry->path)
        entry->name = *name ? lt_arena_strdup(arena, name) : lt_clip_name_of(entry->path, NAME_BYTES, arena);
    if (entry->path) json_object_set_new(object, "path", json_string(entry->path));
    char *line = json_dumps(object, JSON_COMPACT);
    entry->json = line ? escape_deletes(line, arena) : NULL;
    free(line);
    if (!entry->path || !entry->text || !entry->name || !entry->json)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", list->path);
    if (!lt_text_is_clean(entry->text, LT_CLIP_ENTRY_BYTES))
        return fail_entry(list, place, err, "its text is not UTF-8");
fail:
    return status;
}

lt_status lt_list_parse(const lt_clip_list *list, const lt_list_place *place, const char *text,
                        lt_arena *arena, lt_clip_entry *entry, lt_err *err)
{
    json_t *object = NULL;
    json_error_t where;
    lt_status status = LT_OK;
    *entry = (lt_clip_entry){0};
    if (list->format == LT_LIST_CSV) {
        status = lt_csv_object(list, text, place->bytes, place->line, &object, err);
    } else {
        object = json_loadb(text, place->bytes, JSON_REJECT_DUPLICATES, &where);
        if (!object)
            status = lt_fail(err, LT_E_FORMAT, "%s:%d: %s", list->path, (int)place->line + where.line - 1,
                             where.text);
        else if (!json_is_object(object))
            status = fail_entry(list, place, err, "an entry must be an object, {\"path\": ...}");
    }
    if (!status) status = fill(list, place, object, arena, entry, err);
    json_decref(object);
    return status;
}
