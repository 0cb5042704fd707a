/* fuzz_clip_list.c - a data set's manifest, and the journal of a run over one. The first byte chooses: 'J' JSON, 'L' JSON lines,
 * 'C' CSV, 'F' by its first character, 'R' a journal. */
#include "tests/fuzz/fuzz.h"

#include <jansson.h>

#include "stages/manifest/clip_list.h"
#include "stages/manifest/journal.h"

static bool is_name(const char *name)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = strlen(name);
    return n && n < LT_CLIP_NAME_BYTES && *name != '.' && strspn(name, letters) == n;
}

/* What stages rely on: a name that may stand in paths and keys, a path from anywhere, times in order, a line of JSON. */
static void use_entry(const lt_clip_entry *entry)
{
    FUZZ_MUST(is_name(entry->name) && entry->line > 0);
    FUZZ_MUST(*entry->path == '/' || strstr(entry->path, "://") || !strncmp(entry->path, "lavfi:", 6));
    FUZZ_MUST(entry->start >= 0 && entry->end >= 0 && (entry->end == 0 || entry->end > entry->start));
    json_t *json = json_loads(entry->json, JSON_REJECT_DUPLICATES, NULL);
    FUZZ_MUST(json && !strchr(entry->json, '\n'));
    FUZZ_MUST(!strcmp(json_string_value(json_object_get(json, "path")), entry->path));
    json_decref(json);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void use_list(lt_clip_list *list)
{
    lt_err err;
    lt_arena arena = {0}, names_arena = {0};
    int64_t n = lt_clip_list_count(list);
    FUZZ_MUST(n >= 0 && strlen(lt_clip_list_digest(list)) == 32);
    const char **names = lt_arena_alloc(&names_arena, (size_t)n * sizeof *names);
    for (int64_t i = 0; i < n; i++) {
        lt_clip_entry entry;
        FUZZ_MUST(!lt_clip_list_get(list, i, &arena, &entry, &err));
        use_entry(&entry);
        names[i] = lt_arena_strdup(&names_arena, entry.name);
        lt_arena_finish(&arena);
    }
    qsort(names, (size_t)n, sizeof *names, by_text);
    for (int64_t i = 1; i < n; i++) FUZZ_MUST(strcmp(names[i - 1], names[i]));
    lt_arena_finish(&names_arena);
}

/* The whole list, and its shards: together they hold as many. */
static void manifest(const char *path, const uint8_t *data, size_t n_bytes)
{
    int64_t n[4] = {0};
    fuzz_write(path, data, n_bytes);
    for (int i = 0; i < 4; i++) {
        lt_err err;
        lt_clip_list *list;
        lt_shard shard = i ? (lt_shard){i - 1, 3} : (lt_shard){0, 0};
        lt_status status = lt_clip_list_open(&list, path, NULL, shard, &err);
        FUZZ_MUST(!status == (list != NULL) && (i == 0 || !status));
        if (status) {
            FUZZ_REFUSED(status, err);
            return;
        }
        n[i] = lt_clip_list_count(list);
        use_list(list);
        lt_clip_list_close(list);
    }
    FUZZ_MUST(n[0] == n[1] + n[2] + n[3]);
}

static void journal(const uint8_t *data, size_t n_bytes)
{
    lt_err err;
    lt_journal *journal;
    lt_journal_entry entry;
    fuzz_write(fuzz_path("clips.jsonl"), data, n_bytes);
    FUZZ_MUST(!lt_journal_open(&journal, fuzz_folder(), &err));
    static const char *const keys[] = {"a", "b", ""};
    for (size_t i = 0; i < LT_COUNT(keys); i++)
        if (lt_journal_find(journal, keys[i], &entry))
            FUZZ_MUST(strlen(entry.name) < sizeof entry.name && strlen(entry.digest) < sizeof entry.digest &&
                      strlen(entry.result) < sizeof entry.result);
    lt_journal_close(journal);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (!n_bytes) return 0;
    switch (data[0]) {
    case 'J': manifest(fuzz_path("list.json"), data + 1, n_bytes - 1); break;
    case 'L': manifest(fuzz_path("list.jsonl"), data + 1, n_bytes - 1); break;
    case 'C': manifest(fuzz_path("list.csv"), data + 1, n_bytes - 1); break;
    case 'F': manifest(fuzz_path("list"), data + 1, n_bytes - 1); break;
    case 'R': journal(data + 1, n_bytes - 1); break;
    default: break;
    }
    return 0;
}
