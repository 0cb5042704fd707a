/* clip_list.c - a manifest opened: every entry looked at once, each read again when it is asked for. */
#include "stages/manifest/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static const int64_t largest_file = (int64_t)4 << 30;

lt_status lt_shard_parse(const char *text, lt_shard *shard, lt_err *err)
{
    long long index = -1, count = 0;
    int used = 0;
    *shard = (lt_shard){0, 0};
    if (!text || !*text) return LT_OK;
    bool fine = sscanf(text, "%lld/%lld%n", &index, &count, &used) == 2 && !text[used];
    if (!fine || index < 0 || index >= count || count > 1000000)
        return lt_fail(err, LT_E_INVALID, "shard = \"%s\": must be \"i/n\" with i from 0 to n - 1", text);
    *shard = (lt_shard){index, count};
    return LT_OK;
}

/* ---- text ---------------------------------------------------------------------------------------------- */

static lt_status read_at(const lt_clip_list *list, uint64_t offset, char *to, size_t bytes, lt_err *err)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(list->fd, to + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return lt_fail_errno(err, errno, "%s", list->path);
        if (n == 0) return lt_fail(err, LT_E_FORMAT, "%s: was cut off while it was being read", list->path);
        done += (size_t)n;
    }
    to[bytes] = 0;
    return LT_OK;
}

static lt_status read_whole(const lt_clip_list *list, char **text, size_t *bytes, lt_err *err)
{
    struct stat info;
    if (fstat(list->fd, &info)) return lt_fail_errno(err, errno, "%s", list->path);
    if (!S_ISREG(info.st_mode)) return lt_fail(err, LT_E_INVALID, "%s: is not a file", list->path);
    if (info.st_size > largest_file)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: is larger than 4 GiB; split it", list->path);
    *bytes = (size_t)info.st_size;
    *text = malloc(*bytes + 1);
    if (!*text) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", list->path);
    return read_at(list, 0, *text, *bytes, err);
}

lt_status lt_list_read(const lt_clip_list *list, char **text, lt_err *err)
{
    const lt_list_place *last = &list->places[list->n - 1];
    size_t bytes = 0;
    lt_status status = read_whole(list, text, &bytes, err);
    if (!status && last->offset + last->bytes > bytes)
        status = lt_fail(err, LT_E_FORMAT, "%s: was cut off while it was being read", list->path);
    return status;
}

/* ---- names --------------------------------------------------------------------------------------------- */

/* Hashes of names and where they were used first. */
typedef struct names {
    uint64_t *hash;
    uint32_t *entry;
    size_t room; /* a power of two */
} names;

/* Entry that has the name already, or -1 and the name is this entry's. */
static int64_t take_name(names *names, const char *name, int64_t entry)
{
    uint64_t hash = XXH3_64bits(name, strlen(name)) | 1;
    for (size_t at = hash & (names->room - 1);; at = (at + 1) & (names->room - 1)) {
        if (names->hash[at] == hash) return names->entry[at];
        if (names->hash[at]) continue;
        names->hash[at] = hash;
        names->entry[at] = (uint32_t)entry;
        return -1;
    }
}

static lt_status name_entry(lt_clip_list *list, names *names, int64_t i, const lt_clip_entry *entry,
                            lt_arena *arena, lt_err *err)
{
    lt_clip_entry other = *entry;
    list->places[i].has_suffix = take_name(names, entry->name, i) >= 0;
    lt_status status = lt_list_add_suffix(&other, arena, err);
    if (status) return status;
    int64_t same = take_name(names, other.name, i);
    if (same < 0) return LT_OK;
    return lt_fail(err, LT_E_FORMAT, "%s:%d: this entry repeats the one of line %d", list->path,
                   (int)list->places[i].line, (int)list->places[same].line);
}

static bool is_ours(const lt_clip_list *list, int64_t i)
{
    return !list->shard.count || i % list->shard.count == list->shard.index;
}

/* Look at every entry: is it sound, is its name free, what do they hash to? */
static lt_status check_entries(lt_clip_list *list, const char *text, lt_err *err)
{
    names names = {.room = 64};
    lt_status status = LT_OK;
    XXH3_state_t *hash = XXH3_createState();
    lt_arena arena = {0};
    while (names.room < 4 * (size_t)list->n) names.room *= 2;
    names.hash = calloc(names.room, sizeof *names.hash);
    names.entry = calloc(names.room, sizeof *names.entry);
    if (!hash || !names.hash || !names.entry)
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", list->path);
    else
        XXH3_128bits_reset(hash);
    for (int64_t i = 0; i < list->n && !status; i++) {
        lt_clip_entry entry;
        status = lt_list_parse(list, &list->places[i], text + list->places[i].offset, &arena, &entry, err);
        if (!status) status = name_entry(list, &names, i, &entry, &arena, err);
        if (!status && is_ours(list, i)) {
            char times[64];
            snprintf(times, sizeof times, "%.17g %.17g", entry.start, entry.end);
            XXH3_128bits_update(hash, entry.name, strlen(entry.name) + 1);
            XXH3_128bits_update(hash, entry.path, strlen(entry.path) + 1);
            XXH3_128bits_update(hash, entry.text, strlen(entry.text) + 1);
            XXH3_128bits_update(hash, times, strlen(times) + 1);
        }
        lt_arena_finish(&arena);
    }
    if (!status) {
        XXH128_hash_t digest = XXH3_128bits_digest(hash);
        snprintf(list->digest, sizeof list->digest, "%016llx%016llx", (unsigned long long)digest.high64,
                 (unsigned long long)digest.low64);
    }
    XXH3_freeState(hash);
    free(names.hash);
    free(names.entry);
    return status;
}

/* ---- the list ------------------------------------------------------------------------------------------ */

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, (size_t)LT_MAX(slash - path, 1)) : strdup(".");
}

lt_status lt_clip_list_open(lt_clip_list **out, const char *path, const char *base, lt_shard shard,
                            lt_err *err)
{
    *out = NULL;
    char *text = NULL;
    size_t bytes = 0;
    lt_status status;
    lt_clip_list *list = calloc(1, sizeof *list);
    if (!list) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    list->shard = shard;
    list->path = strdup(path);
    list->base = base && *base ? strdup(base) : folder_of(path);
    list->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!list->path || !list->base) LT_TRY(lt_fail(err, LT_E_NO_MEMORY, "out of memory"));
    if (list->fd < 0) LT_TRY(lt_fail_errno(err, errno, "%s", path));
    LT_TRY(read_whole(list, &text, &bytes, err));
    LT_TRY(lt_list_scan(list, text, bytes, err));
    if (!list->n) LT_TRY(lt_fail(err, LT_E_FORMAT, "%s: holds no clips", path));
    LT_TRY(check_entries(list, text, err));
    free(text);
    *out = list;
    return LT_OK;
fail:
    free(text);
    lt_clip_list_close(list);
    return status;
}

void lt_clip_list_close(lt_clip_list *list)
{
    if (!list) return;
    if (list->fd >= 0) close(list->fd);
    for (int i = 0; i < list->n_columns; i++) free(list->columns[i]);
    free(list->columns);
    free(list->places);
    free(list->path);
    free(list->base);
    free(list);
}

int64_t lt_clip_list_count(const lt_clip_list *list)
{
    if (!list->shard.count) return list->n;
    return list->n > list->shard.index ? (list->n - 1 - list->shard.index) / list->shard.count + 1 : 0;
}

const char *lt_clip_list_digest(const lt_clip_list *list)
{
    return list->digest;
}

lt_status lt_clip_list_get(lt_clip_list *list, int64_t index, lt_arena *arena, lt_clip_entry *entry,
                           lt_err *err)
{
    int64_t i = list->shard.count ? list->shard.index + index * list->shard.count : index;
    if (index < 0 || i >= list->n)
        return lt_fail(err, LT_E_INTERNAL, "%s: entry %lld of %lld asked for", list->path, (long long)index,
                       (long long)lt_clip_list_count(list));
    const lt_list_place *place = &list->places[i];
    char *text = malloc(place->bytes + 1);
    if (!text) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", list->path);
    lt_status status = read_at(list, place->offset, text, place->bytes, err);
    if (!status) status = lt_list_parse(list, place, text, arena, entry, err);
    if (!status && place->has_suffix) status = lt_list_add_suffix(entry, arena, err);
    free(text);
    return status;
}
