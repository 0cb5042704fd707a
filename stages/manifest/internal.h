/* internal.h - what the files of this folder share. */
#ifndef LT_MANIFEST_INTERNAL_H
#define LT_MANIFEST_INTERNAL_H

#include <jansson.h>

#include "stages/manifest/clip_list.h"

typedef enum { LT_LIST_JSON, LT_LIST_LINES, LT_LIST_CSV } lt_list_format;

/* Where an entry stands. */
typedef struct lt_list_place {
    uint64_t offset;
    uint32_t bytes;
    uint32_t line : 31, has_suffix : 1; /* has_suffix: an earlier entry has its name */
} lt_list_place;

struct lt_clip_list {
    char *path, *base;
    int fd;
    lt_list_format format;
    lt_shard shard;
    lt_list_place *places;
    int64_t n, room;
    char **columns; /* CSV: names of the columns */
    int n_columns;
    char digest[33];
};

/* scan.c: find the entries in the text of a whole file (with a 0 behind it). E_FORMAT with file:line. */
lt_status lt_list_scan(lt_clip_list *list, const char *text, size_t bytes, lt_err *err);
lt_status lt_list_add_place(lt_clip_list *list, uint64_t offset, size_t bytes, int64_t line, lt_err *err);

/* clip_list.c: the whole file, with a 0 behind it (malloc'd). */
lt_status lt_list_read(const lt_clip_list *list, char **text, lt_err *err);

/* csv.c: where the record at `text` ends (behind its line end), and its fields as a JSON object of strings. */
size_t lt_csv_record(const char *text, size_t bytes, int64_t *lines);
lt_status lt_csv_header(lt_clip_list *list, const char *record, size_t bytes, lt_err *err);
lt_status lt_csv_object(const lt_clip_list *list, const char *record, size_t bytes, int64_t line,
                        json_t **object, lt_err *err);

/* entry.c: an entry from its text. The name is the wanted one, without a suffix that makes it unique. */
lt_status lt_list_parse(const lt_clip_list *list, const lt_list_place *place, const char *text,
                        lt_arena *arena, lt_clip_entry *entry, lt_err *err);
/* Put the suffix behind the name; what it is made of tells entries of one name apart. */
lt_status lt_list_add_suffix(lt_clip_entry *entry, lt_arena *arena, lt_err *err);

#endif
