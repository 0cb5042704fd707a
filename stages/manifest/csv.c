/* csv.c - records of RFC 4180: fields between commas, in quotes where they hold commas, quotes or line ends. */
#include "stages/manifest/internal.h"

#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 256 };

size_t lt_csv_record(const char *text, size_t bytes, int64_t *lines)
{
    bool quoted = false, begins = true; /* a field: a quote elsewhere is a letter like others */
    for (size_t i = 0; i < bytes; i++) {
        *lines += text[i] == '\n';
        if (quoted) {
            bool doubled = text[i] == '"' && i + 1 < bytes && text[i + 1] == '"';
            quoted = doubled || text[i] != '"';
            i += doubled;
        } else if (text[i] == '\n') {
            return i + 1;
        } else {
            quoted = begins && text[i] == '"';
        }
        begins = !quoted && text[i] == ',';
    }
    return bytes;
}

/* The field at *at, its end in *at (behind the comma; `bytes` + 1 after the last one). NULL: memory is out or, with
 * *wrong set, it is malformed. */
static char *take_field(const char *record, size_t bytes, size_t *at, bool *wrong)
{
    char *field = malloc(bytes - LT_MIN(*at, bytes) + 1);
    size_t i = *at, n = 0;
    *wrong = false;
    if (!field) return NULL;
    if (i < bytes && record[i] == '"') {
        for (i++; i < bytes && !(record[i] == '"' && (i + 1 == bytes || record[i + 1] != '"')); i++) {
            i += record[i] == '"';
            field[n++] = record[i];
        }
        *wrong = i >= bytes || (i + 1 < bytes && record[i + 1] != ',');
        i++;
    } else {
        while (i < bytes && record[i] != ',') field[n++] = record[i++];
    }
    field[n] = 0;
    *wrong |= strlen(field) != n;
    *at = i + 1;
    if (!*wrong) return field;
    free(field);
    return NULL;
}

static size_t without_end(const char *record, size_t bytes)
{
    while (bytes && (record[bytes - 1] == '\n' || record[bytes - 1] == '\r')) bytes--;
    return bytes;
}

static lt_status fail_field(const lt_clip_list *list, int64_t line, bool wrong, lt_err *err)
{
    if (!wrong) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", list->path);
    return lt_fail(err, LT_E_FORMAT, "%s:%lld: a field is malformed: quotes do not match", list->path,
                   (long long)line);
}

lt_status lt_csv_header(lt_clip_list *list, const char *record, size_t bytes, lt_err *err)
{
    bytes = without_end(record, bytes);
    list->columns = calloc(COLUMNS_MAX, sizeof *list->columns);
    if (!list->columns) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", list->path);
    bool has_path = false;
    for (size_t at = 0; at <= bytes;) {
        bool wrong;
        char *name = take_field(record, bytes, &at, &wrong);
        if (!name) return fail_field(list, 1, wrong, err);
        if (list->n_columns == COLUMNS_MAX) {
            free(name);
            return lt_fail(err, LT_E_FORMAT, "%s:1: more than %d columns", list->path, COLUMNS_MAX);
        }
        has_path |= !strcmp(name, "path");
        list->columns[list->n_columns++] = name;
    }
    if (has_path) return LT_OK;
    return lt_fail(err, LT_E_FORMAT,
                   "%s:1: no column is called path; the first line of a CSV file names the columns "
                   "(path,text,start,end,name)",
                   list->path);
}

lt_status lt_csv_object(const lt_clip_list *list, const char *record, size_t bytes, int64_t line,
                        json_t **out, lt_err *err)
{
    json_t *object = json_object();
    int n = 0;
    bytes = without_end(record, bytes);
    lt_status status = object ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", list->path);
    for (size_t at = 0; at <= bytes && !status; n++) {
        bool wrong;
        char *field = take_field(record, bytes, &at, &wrong);
        if (!field)
            status = fail_field(list, line, wrong, err);
        else if (n >= list->n_columns)
            status = lt_fail(err, LT_E_FORMAT, "%s:%lld: more fields than the %d columns of the first line",
                             list->path, (long long)line, list->n_columns);
        else if (*field && json_object_set_new(object, list->columns[n], json_string(field)))
            status = lt_fail(err, LT_E_FORMAT, "%s:%lld: column %s is not text in UTF-8", list->path,
                             (long long)line, list->columns[n]);
        free(field);
    }
    if (status)
        json_decref(object);
    else
        *out = object;
    return status;
}
