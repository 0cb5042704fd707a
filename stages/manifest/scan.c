/* scan.c - where each entry of a manifest stands, in one pass that keeps nothing of the text. */
#include "stages/manifest/internal.h"

#include <stdlib.h>
#include <string.h>

lt_status lt_list_add_place(lt_clip_list *list, uint64_t offset, size_t bytes, int64_t line, lt_err *err)
{
    if (bytes > LT_CLIP_ENTRY_BYTES)
        return lt_fail(err, LT_E_FORMAT, "%s:%lld: an entry of %zu bytes; at most %d are taken", list->path,
                       (long long)line, bytes, LT_CLIP_ENTRY_BYTES);
    if (list->n == list->room) {
        int64_t room = LT_MAX(list->room * 2, 256);
        lt_list_place *grown = room < INT32_MAX ? realloc(list->places, (size_t)room * sizeof *grown) : NULL;
        if (!grown) return lt_fail(err, LT_E_NO_MEMORY, "%s: no memory for its entries", list->path);
        list->places = grown;
        list->room = room;
    }
    list->places[list->n++] =
        (lt_list_place){.offset = offset, .bytes = (uint32_t)bytes, .line = (uint32_t)line & INT32_MAX};
    return LT_OK;
}

/* ---- JSON ---------------------------------------------------------------------------------------------- */

typedef struct cursor {
    const char *at, *end;
    int64_t line;
} cursor;

static void skip_space(cursor *c)
{
    for (; c->at < c->end && strchr(" \t\r\n", *c->at) && *c->at; c->at++) c->line += *c->at == '\n';
}

/* Pass over a value in braces; false when the text ends before it does. */
static bool skip_object(cursor *c)
{
    int64_t depth = 0;
    bool in_string = false;
    for (; c->at < c->end; c->at++) {
        char letter = *c->at;
        c->line += letter == '\n';
        if (in_string) {
            if (letter == '\\' && c->at + 1 < c->end) c->at++;
            in_string = letter != '"';
            continue;
        }
        in_string = letter == '"';
        if (letter == '{' || letter == '[') depth++;
        if ((letter == '}' || letter == ']') && --depth == 0) {
            c->at++;
            return true;
        }
    }
    return false;
}

static lt_status scan_json(lt_clip_list *list, const char *text, size_t bytes, lt_err *err)
{
    cursor c = {text, text + bytes, 1};
    skip_space(&c);
    if (c.at == c.end || *c.at != '[')
        return lt_fail(err, LT_E_FORMAT, "%s:%lld: a manifest in JSON is a list: [{\"path\": ...}, ...]",
                       list->path, (long long)c.line);
    c.at++;
    for (skip_space(&c); c.at < c.end && *c.at != ']';) {
        const char *begin = c.at;
        int64_t line = c.line;
        if (*begin != '{' || !skip_object(&c))
            return lt_fail(err, LT_E_FORMAT, "%s:%lld: %s", list->path, (long long)line,
                           *begin == '{' ? "this entry does not end" : "here should stand an entry, {...}");
        lt_status status =
            lt_list_add_place(list, (uint64_t)(begin - text), (size_t)(c.at - begin), line, err);
        if (status) return status;
        skip_space(&c);
        if (c.at < c.end && *c.at == ',') {
            c.at++;
            skip_space(&c);
        } else if (c.at < c.end && *c.at != ']') {
            return lt_fail(err, LT_E_FORMAT, "%s:%lld: a comma is missing between entries", list->path,
                           (long long)c.line);
        }
    }
    if (c.at == c.end)
        return lt_fail(err, LT_E_FORMAT, "%s:%lld: the list does not end", list->path, (long long)c.line);
    c.at++;
    skip_space(&c);
    if (c.at == c.end) return LT_OK;
    return lt_fail(err, LT_E_FORMAT, "%s:%lld: something follows the list", list->path, (long long)c.line);
}

/* ---- lines --------------------------------------------------------------------------------------------- */

static bool is_blank(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (!strchr(" \t\r\n", text[i]) || !text[i]) return false;
    return true;
}

static lt_status scan_lines(lt_clip_list *list, const char *text, size_t bytes, lt_err *err)
{
    int64_t line = 1;
    for (size_t at = 0; at < bytes; line++) {
        const char *newline = memchr(text + at, '\n', bytes - at);
        size_t n = newline ? (size_t)(newline - text) - at : bytes - at;
        if (!is_blank(text + at, n)) {
            lt_status status = lt_list_add_place(list, at, n, line, err);
            if (status) return status;
        }
        at += n + 1;
    }
    return LT_OK;
}

static lt_status scan_csv(lt_clip_list *list, const char *text, size_t bytes, lt_err *err)
{
    int64_t line = 1;
    for (size_t at = 0; at < bytes;) {
        int64_t lines = 0;
        size_t n = lt_csv_record(text + at, bytes - at, &lines);
        lt_status status = LT_OK;
        if (!is_blank(text + at, n))
            status = list->columns ? lt_list_add_place(list, at, n, line, err)
                                   : lt_csv_header(list, text + at, n, err);
        if (status) return status;
        at += n;
        line += lines;
    }
    return LT_OK;
}

/* ---- which ---------------------------------------------------------------------------------------------- */

static lt_list_format format_of(const char *path, const char *text, size_t bytes)
{
    const char *dot = strrchr(path, '.');
    if (dot && !strcasecmp(dot, ".csv")) return LT_LIST_CSV;
    if (dot && (!strcasecmp(dot, ".jsonl") || !strcasecmp(dot, ".ndjson"))) return LT_LIST_LINES;
    if (dot && !strcasecmp(dot, ".json")) return LT_LIST_JSON;
    cursor c = {text, text + bytes, 1};
    skip_space(&c);
    if (c.at < c.end && *c.at == '{') return LT_LIST_LINES;
    return c.at < c.end && *c.at == '[' ? LT_LIST_JSON : LT_LIST_CSV;
}

lt_status lt_list_scan(lt_clip_list *list, const char *text, size_t bytes, lt_err *err)
{
    size_t mark = bytes >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0; /* of Windows editors */
    list->format = format_of(list->path, text + mark, bytes - mark);
    lt_status status = list->format == LT_LIST_JSON    ? scan_json(list, text + mark, bytes - mark, err)
                       : list->format == LT_LIST_LINES ? scan_lines(list, text + mark, bytes - mark, err)
                                                       : scan_csv(list, text + mark, bytes - mark, err);
    for (int64_t i = 0; i < list->n && mark; i++) list->places[i].offset += mark;
    return status;
}
