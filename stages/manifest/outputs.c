/* outputs.c - what is made of one clip must not be written over what another is made from. */
#include "stages/manifest/internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* How a source, or an output, covers files of its folder. A name that is numbered stands without its digits, and what the shell matches with
 * its ending alone: what is made there would be read, too. */
typedef enum { ONE_FILE = 1, ANY_NUMBER, NUMBERED, ENDING } cover;

/* 64-bit hashes and what belongs to them, by open addressing; hash 0: free. */
typedef struct slot {
    uint64_t hash;
    union {
        int64_t entry;
        struct {
            dev_t device;
            ino_t inode; /* 0: it is not there */
        } folder;
    };
} slot;

typedef struct table {
    slot *slots;
    size_t n, room; /* a power of two */
} table;

typedef struct check {
    const lt_clip_list *list;
    const char *text;
    table folders, sources;
    lt_arena arena; /* of one entry */
} check;

/* ---- tables ------------------------------------------------------------------------------------------------ */

static slot *find(const table *t, uint64_t hash)
{
    size_t at = hash & (t->room - 1);
    while (t->slots[at].hash && t->slots[at].hash != hash) at = (at + 1) & (t->room - 1);
    return &t->slots[at];
}

/* The slot of a hash, which may be new; NULL: out of memory. */
static slot *find_or_add(table *t, uint64_t hash)
{
    if (4 * t->n >= 3 * t->room) {
        table larger = {.n = t->n, .room = t->room ? 2 * t->room : 256};
        larger.slots = calloc(larger.room, sizeof *larger.slots);
        if (!larger.slots) return NULL;
        for (size_t i = 0; i < t->room; i++)
            if (t->slots[i].hash) *find(&larger, t->slots[i].hash) = t->slots[i];
        free(t->slots);
        *t = larger;
    }
    slot *found = find(t, hash);
    t->n += !found->hash;
    return found;
}

/* ---- places ------------------------------------------------------------------------------------------------ */

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The folder of a path, looked at once. NULL: out of memory. */
static const slot *folder_of(check *c, const char *path)
{
    size_t n = (size_t)(name_of(path) - path);
    uint64_t hash = XXH3_64bits(path, n) | 1;
    slot *folder = find_or_add(&c->folders, hash);
    if (!folder || folder->hash) return folder;
    struct stat info;
    char *text = lt_arena_printf(&c->arena, "%.*s.", (int)n, path);
    if (!text) return NULL;
    folder->hash = hash;
    if (stat(text, &info)) return folder;
    folder->folder.device = info.st_dev;
    folder->folder.inode = info.st_ino;
    return folder;
}

/* Without its digits; without "%04d" and its digits. In the arena. */
static char *numberless(check *c, const char *name)
{
    char *copy = lt_arena_strdup(&c->arena, name), *to = copy;
    for (const char *at = name; copy && *at; at++) {
        if (*at == '%' && at[1 + strspn(at + 1, "0123456789")] == 'd')
            at += 1 + strspn(at + 1, "0123456789");
        else if (!isdigit((unsigned char)*at))
            *to++ = *at;
    }
    if (to) *to = 0;
    return copy;
}

/* 0: out of memory. */
static uint64_t hash_of(check *c, const slot *folder, const char *name, cover cover)
{
    struct {
        uint64_t device, inode, cover, name;
    } key = {folder->folder.device, folder->folder.inode, cover, 0};
    if (cover == ENDING) {
        const char *dot = strrchr(name, '.');
        char *ending = lt_arena_strdup(&c->arena, dot ? dot : "");
        for (char *at = ending; at && *at; at++) *at = (char)tolower((unsigned char)*at);
        name = ending;
    } else if (cover != ONE_FILE) {
        name = numberless(c, name);
    }
    if (!name) return 0;
    key.name = XXH3_64bits(name, strlen(name));
    return XXH3_64bits(&key, sizeof key) | 1;
}

/* ---- entries ----------------------------------------------------------------------------------------------- */

static lt_status get_entry(check *c, int64_t i, lt_clip_entry *entry, lt_err *err)
{
    const lt_list_place *place = &c->list->places[i];
    lt_status status = lt_list_parse(c->list, place, c->text + place->offset, &c->arena, entry, err);
    return status || !place->has_suffix ? status : lt_list_add_suffix(entry, &c->arena, err);
}

static bool add_source(check *c, const slot *folder, const char *name, cover cover, int64_t i)
{
    uint64_t hash = hash_of(c, folder, name, cover);
    slot *source = hash ? find_or_add(&c->sources, hash) : NULL;
    if (source && !source->hash) *source = (slot){.hash = hash, .entry = i};
    return source != NULL;
}

/* What is read for an entry. A name with signs in it that is there as it stands is that file. */
static lt_status note_source(check *c, int64_t i, lt_err *err)
{
    lt_clip_entry entry;
    lt_status status = get_entry(c, i, &entry, err);
    if (status || entry.path[0] != '/') return status;
    const char *name = name_of(entry.path);
    bool is_pattern = strpbrk(name, "*?[%") && access(entry.path, F_OK);
    bool is_globbed = is_pattern && strpbrk(name, "*?["), is_numbered = is_pattern && !is_globbed;
    const slot *folder = folder_of(c, entry.path);
    bool fine = folder != NULL;
    if (fine && !folder->folder.inode) return LT_OK; /* nothing can be read there */
    if (fine && is_globbed) fine = add_source(c, folder, name, ENDING, i);
    if (fine && is_numbered) fine = add_source(c, folder, name, NUMBERED, i);
    if (fine && !is_globbed) fine = add_source(c, folder, name, ANY_NUMBER, i);
    if (fine && !is_pattern) fine = add_source(c, folder, name, ONE_FILE, i);
    return fine ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", c->list->path);
}

/* Whether an output named so meets a source; *entry: whose. */
static lt_status look_up(check *c, const char *output, bool *meets, int64_t *entry, lt_err *err)
{
    const char *name = name_of(output);
    bool is_numbered = strchr(name, '%') != NULL;
    const cover covers[] = {is_numbered ? ANY_NUMBER : ONE_FILE, NUMBERED, ENDING};
    const slot *folder = folder_of(c, output);
    bool fine = folder != NULL;
    *meets = false;
    for (size_t k = 0; k < LT_COUNT(covers) && fine && folder->folder.inode && !*meets; k++) {
        uint64_t hash = hash_of(c, folder, name, covers[k]);
        const slot *source = hash ? find(&c->sources, hash) : NULL;
        fine = source != NULL;
        *meets = fine && source->hash;
        if (*meets) *entry = source->entry;
    }
    return fine ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", c->list->path);
}

static lt_status check_output(check *c, int64_t i, const char *pattern, lt_err *err)
{
    static const char placeholder[] = "{clip}";
    const char *at = strstr(pattern, placeholder);
    lt_clip_entry entry;
    bool meets;
    int64_t other = 0;
    lt_status status = at ? get_entry(c, i, &entry, err) : LT_OK;
    if (!at || status) return status;
    const char *output = lt_arena_printf(&c->arena, "%.*s%s%s", (int)(at - pattern), pattern, entry.name,
                                         at + sizeof placeholder - 1);
    if (!output) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", c->list->path);
    status = look_up(c, output, &meets, &other, err);
    if (status || !meets) return status;
    return lt_fail(
        err, LT_E_INVALID,
        "%s:%d: what is made of this clip is %s, and what the clip of line %d is made from would be "
        "written over: choose another output",
        c->list->path, (int)entry.line, output, (int)c->list->places[other].line);
}

lt_status lt_clip_list_check_outputs(const lt_clip_list *list, const char *const *outputs, int n_outputs,
                                     lt_err *err)
{
    check c = {.list = list};
    char *text = NULL;
    lt_status status = n_outputs ? lt_list_read(list, &text, err) : LT_OK;
    c.text = text;
    for (int64_t i = 0; i < list->n && n_outputs && !status; i++) {
        status = note_source(&c, i, err);
        lt_arena_finish(&c.arena);
    }
    for (int64_t i = 0; i < list->n && c.sources.n && !status; i++) {
        if (list->shard.count && i % list->shard.count != list->shard.index) continue;
        for (int k = 0; k < n_outputs && !status; k++) status = check_output(&c, i, outputs[k], err);
        lt_arena_finish(&c.arena);
    }
    free(c.folders.slots);
    free(c.sources.slots);
    free(text);
    return status;
}
