/* journal.c - which clips of a dataset an earlier part of the run was through with. */
#include "stages/manifest/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* A done clip: the hash of its key, and where its line stands. */
typedef struct place {
    uint64_t hash;
    uint64_t offset;
    uint32_t bytes; /* 0: not done any more */
} place;

struct lt_journal {
    int fd;
    place *places; /* a hash table */
    size_t n, room;
};

static place *find(const lt_journal *journal, uint64_t hash)
{
    size_t at = hash & (journal->room - 1);
    while (journal->places[at].hash && journal->places[at].hash != hash) at = (at + 1) & (journal->room - 1);
    return &journal->places[at];
}

static bool grow(lt_journal *journal)
{
    lt_journal larger = {.room = LT_MAX(journal->room * 2, (size_t)256)};
    larger.places = calloc(larger.room, sizeof *larger.places);
    if (!larger.places) return false;
    for (size_t i = 0; i < journal->room; i++)
        if (journal->places[i].hash) *find(&larger, journal->places[i].hash) = journal->places[i];
    free(journal->places);
    journal->places = larger.places;
    journal->room = larger.room;
    return true;
}

static uint64_t hash_of(const char *key)
{
    return XXH3_64bits(key, strlen(key)) | 1;
}

static bool take_line(lt_journal *journal, const char *line, size_t bytes, uint64_t offset)
{
    json_t *object = json_loadb(line, bytes, 0, NULL);
    const char *key = json_string_value(json_object_get(object, "key"));
    const char *state = json_string_value(json_object_get(object, "state"));
    bool fine = true;
    if (key && *key && state) {
        fine = journal->n * 2 < journal->room || grow(journal);
        if (fine) {
            place *place = find(journal, hash_of(key));
            journal->n += !place->hash;
            *place = (struct place){hash_of(key), offset, strcmp(state, "done") ? 0 : (uint32_t)bytes};
        }
    }
    json_decref(object);
    return fine;
}

lt_status lt_journal_open(lt_journal **out, const char *run_folder, lt_err *err)
{
    char path[4200];
    lt_status status = LT_OK;
    lt_journal *journal = calloc(1, sizeof *journal);
    *out = NULL;
    if (!journal) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    snprintf(path, sizeof path, "%s/clips.jsonl", run_folder);
    journal->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (journal->fd < 0 && errno != ENOENT) status = lt_fail_errno(err, errno, "%s", path);
    if (!status && !grow(journal)) status = lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    int copy = !status && journal->fd >= 0 ? dup(journal->fd) : -1;
    FILE *file = copy >= 0 ? fdopen(copy, "r") : NULL;
    char *line = NULL;
    size_t room = 0;
    uint64_t offset = 0;
    for (ssize_t n; file && !status && (n = getline(&line, &room, file)) > 0; offset += (uint64_t)n)
        if (line[n - 1] == '\n' && !take_line(journal, line, (size_t)n, offset))
            status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    free(line);
    if (file)
        fclose(file);
    else if (copy >= 0)
        close(copy);
    if (status)
        lt_journal_close(journal);
    else
        *out = journal;
    return status;
}

void lt_journal_close(lt_journal *journal)
{
    if (!journal) return;
    if (journal->fd >= 0) close(journal->fd);
    free(journal->places);
    free(journal);
}

bool lt_journal_knows(const lt_journal *journal, const char *key)
{
    return find(journal, hash_of(key))->hash != 0;
}

static void copy_text(char *to, size_t room, const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    snprintf(to, room, "%s", text ? text : "");
}

bool lt_journal_find(lt_journal *journal, const char *key, lt_journal_entry *entry)
{
    const place *place = find(journal, hash_of(key));
    char *line = place->hash && place->bytes ? malloc(place->bytes) : NULL;
    if (!line) return false;
    bool read = pread(journal->fd, line, place->bytes, (off_t)place->offset) == (ssize_t)place->bytes;
    json_t *object = read ? json_loadb(line, place->bytes, 0, NULL) : NULL;
    const char *there = json_string_value(json_object_get(object, "key"));
    bool same = there && !strcmp(there, key);
    if (same) {
        copy_text(entry->name, sizeof entry->name, object, "name");
        copy_text(entry->digest, sizeof entry->digest, object, "digest");
        copy_text(entry->result, sizeof entry->result, object, "result");
    }
    json_decref(object);
    free(line);
    return same;
}
