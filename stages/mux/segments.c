/* segments.c - segments.json: written beside, synced, renamed; read with suspicion. */
#include "stages/mux/segments.h"
#include "proto/wire.h"
#include "stages/video/ffmpeg.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, MANIFEST_VERSION = 1 };

void lt_segment_path(const lt_segment_list *list, int64_t index, bool temporary, char *path,
                     size_t path_bytes)
{
    snprintf(path, path_bytes, "%s/%05lld.%s%s", list->folder, (long long)index, list->suffix,
             temporary ? ".part" : "");
}

int64_t lt_segment_list_frames(const lt_segment_list *list)
{
    return list->n ? list->entries[list->n - 1].first + list->entries[list->n - 1].frames : 0;
}

static lt_status add_entry(lt_segment_list *list, const lt_segment_entry *entry, lt_err *err)
{
    if (list->n == list->capacity) {
        int64_t capacity = LT_MAX(list->capacity * 2, 64);
        void *larger = realloc(list->entries, (size_t)capacity * sizeof *list->entries);
        if (!larger) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the list of segments");
        list->entries = larger;
        list->capacity = capacity;
    }
    list->entries[list->n++] = *entry;
    return LT_OK;
}

/* ---- reading
 * -------------------------------------------------------------------------------------------- */

static int64_t number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? json_integer_value(value) : -1;
}

/* True when the entry continues the list and its file is whole. */
static bool is_sound(const lt_segment_list *list, const lt_segment_entry *entry)
{
    char path[PATH_BYTES];
    struct stat info;
    lt_segment_path(list, list->n, false, path, sizeof path);
    return entry->first == lt_segment_list_frames(list) && entry->frames > 0 &&
           entry->frames <= LT_STREAM_FRAMES_MAX - entry->first && entry->reorder >= 0 &&
           !stat(path, &info) && S_ISREG(info.st_mode) && info.st_size == entry->bytes;
}

static lt_status read_manifest(lt_segment_list *list, lt_err *err)
{
    json_error_t where;
    lt_status status = LT_OK;
    json_t *root = json_load_file(list->manifest, 0, &where);
    const json_t *digest = json_object_get(root, "digest"), *segments = json_object_get(root, "segments");
    const char *found = json_string_value(digest);
    if (root && (!found || strcmp(found, list->digest) || number(root, "version") != MANIFEST_VERSION)) {
        lt_log(LT_LOG_WARN, "%s: belongs to another video or other settings; starting over", list->manifest);
        segments = NULL;
    }
    for (size_t i = 0; !status && i < json_array_size(segments); i++) {
        const json_t *item = json_array_get(segments, i);
        lt_segment_entry entry = {number(item, "first"),
                                  number(item, "frames"),
                                  number(item, "bytes"),
                                  json_integer_value(json_object_get(item, "pts")),
                                  json_integer_value(json_object_get(item, "end")),
                                  (int)number(item, "reorder")};
        if (!is_sound(list, &entry)) {
            lt_log(LT_LOG_WARN, "%s: segment %zu is not as noted; it and what follows is made again",
                   list->manifest, i);
            break;
        }
        status = add_entry(list, &entry, err);
    }
    json_decref(root);
    return status;
}

/* Remove files that the list does not name: parts, and segments that are made again. */
static lt_status clean(const lt_segment_list *list, lt_err *err)
{
    DIR *folder = opendir(list->folder);
    if (!folder) return lt_fail_errno(err, errno, "%s", list->folder);
    const struct dirent *item;
    while ((item = readdir(folder))) {
        char *end, path[PATH_BYTES];
        long long index = strtoll(item->d_name, &end, 10);
        if (end == item->d_name || *end != '.') continue;
        lt_segment_path(list, index, false, path, sizeof path);
        bool named = index < list->n && !strcmp(strrchr(path, '/') + 1, item->d_name);
        if (!named) unlinkat(dirfd(folder), item->d_name, 0);
    }
    closedir(folder);
    return LT_OK;
}

lt_status lt_segment_list_open(lt_segment_list *list, const char *run_folder, uint32_t clip,
                               const char *suffix, const char digest[33], int time_base_num,
                               int time_base_den, lt_err *err)
{
    char number[16] = "";
    lt_status status = LT_OK;
    if (clip) snprintf(number, sizeof number, "-%u", clip);
    *list = (lt_segment_list){.time_base_num = time_base_num, .time_base_den = time_base_den};
    snprintf(list->digest, sizeof list->digest, "%s", digest);
    list->folder = av_asprintf("%s/segments%s", run_folder, number);
    list->manifest = av_asprintf("%s/segments%s.json", run_folder, number);
    list->suffix = av_strdup(suffix);
    if (!list->folder || !list->manifest || !list->suffix)
        status = lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    else if (mkdir(list->folder, 0777) && errno != EEXIST)
        status = lt_fail_errno(err, errno, "%s", list->folder);
    if (!status) status = read_manifest(list, err);
    if (!status) status = clean(list, err);
    if (status) lt_segment_list_finish(list);
    return status;
}

void lt_segment_list_finish(lt_segment_list *list)
{
    av_free(list->folder);
    av_free(list->manifest);
    av_free(list->suffix);
    free(list->entries);
    *list = (lt_segment_list){0};
}

/* ---- writing
 * -------------------------------------------------------------------------------------------- */

/* The list as JSON, a segment a line: written as text, since a day's film has tens of thousands of them, and all are written again
 * for each. Names hold no characters that JSON would escape. */
static void print_manifest(const lt_segment_list *list, FILE *file)
{
    fprintf(file, "{\n \"version\": %d,\n \"digest\": \"%s\",\n \"time_base\": [%d, %d],\n \"segments\": [",
            MANIFEST_VERSION, list->digest, list->time_base_num, list->time_base_den);
    for (int64_t i = 0; i < list->n; i++) {
        char path[PATH_BYTES];
        const lt_segment_entry *e = &list->entries[i];
        lt_segment_path(list, i, false, path, sizeof path);
        fprintf(file,
                "%s\n  {\"file\": \"%s\", \"first\": %" PRId64 ", \"frames\": %" PRId64
                ", \"bytes\": %" PRId64 ", \"pts\": %" PRId64 ", \"end\": %" PRId64 ", \"reorder\": %d}",
                i ? "," : "", strrchr(path, '/') + 1, e->first, e->frames, e->bytes, e->pts, e->end,
                e->reorder);
    }
    fputs("\n ]\n}\n", file);
}

static lt_status write_manifest(const lt_segment_list *list, lt_err *err)
{
    char part[PATH_BYTES];
    snprintf(part, sizeof part, "%s.part", list->manifest);
    FILE *file = fopen(part, "we");
    if (!file) return lt_fail_errno(err, errno, "%s: writing", part);
    errno = 0;
    print_manifest(list, file);
    bool failed = ferror(file);
    failed |= fclose(file) != 0;
    int error = errno ? errno : EIO;
    lt_status status =
        failed ? lt_fail_errno(err, error, "%s: writing", part) : lt_file_replace(part, list->manifest, err);
    if (status) unlink(part);
    return status;
}

lt_status lt_segment_list_add(lt_segment_list *list, const lt_segment_entry *entry, lt_err *err)
{
    char part[PATH_BYTES], path[PATH_BYTES];
    struct stat info;
    lt_segment_entry full = *entry;
    lt_segment_path(list, list->n, true, part, sizeof part);
    lt_segment_path(list, list->n, false, path, sizeof path);
    lt_status status = lt_file_replace(part, path, err);
    if (status) return status;
    if (stat(path, &info)) return lt_fail_errno(err, errno, "%s", path);
    full.bytes = info.st_size;
    status = add_entry(list, &full, err);
    if (!status && (status = write_manifest(list, err))) list->n--;
    return status;
}

void lt_segment_list_remove(const lt_segment_list *list)
{
    unlink(list->manifest);
    for (int64_t i = 0; i < list->n; i++) {
        char path[PATH_BYTES];
        lt_segment_path(list, i, false, path, sizeof path);
        unlink(path);
    }
    rmdir(list->folder);
}
