/* clips.c - the clips of a cache that a run decodes, and their numbers. */
#include "stages/latents/latents.h"

#include "stages/digest/digest.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool lt_is_pattern(const char *clips)
{
    return strpbrk(clips, "*?[") != NULL;
}

void lt_cached_clips_finish(lt_cached_clips *clips)
{
    for (uint32_t i = 0; i < clips->n; i++) free(clips->names[i]);
    free(clips->names);
    *clips = (lt_cached_clips){0};
}

void lt_cached_clips_drop(lt_cached_clips *clips, uint32_t index)
{
    free(clips->names[index]);
    clips->names[index] = clips->names[--clips->n];
}

static lt_status add(lt_cached_clips *clips, const char *name, lt_err *err)
{
    if (clips->n == clips->room) {
        uint32_t room = clips->room ? clips->room * 2 : 64;
        char **grown = room > clips->room ? realloc(clips->names, room * sizeof *grown) : NULL;
        if (!grown) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a list of %u clips", room);
        clips->names = grown;
        clips->room = room;
    }
    clips->names[clips->n] = strdup(name);
    if (!clips->names[clips->n]) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a list of clips");
    clips->n++;
    return LT_OK;
}

static void split(const char *text, char name[LT_CACHE_CLIP_BYTES], char digest[LT_CACHE_DIGEST_BYTES])
{
    const char *slash = strchr(text, '/');
    snprintf(name, LT_CACHE_CLIP_BYTES, "%.*s", (int)(slash - text), text);
    snprintf(digest, LT_CACHE_DIGEST_BYTES, "%s", slash + 1);
}

void lt_cached_clips_get(const lt_cached_clips *clips, uint32_t index, char name[LT_CACHE_CLIP_BYTES],
                         char digest[LT_CACHE_DIGEST_BYTES])
{
    split(clips->names[index], name, digest);
}

void lt_cached_clip_key(const char *name_and_digest, char key[33])
{
    char text[400];
    snprintf(text, sizeof text, "latents 1 %s", name_and_digest);
    lt_digest(text, strlen(text), key);
}

/* ---- the list that is kept ------------------------------------------------------------------------------ */

static lt_status read_list(lt_cached_clips *clips, const char *path, lt_err *err)
{
    lt_status status = LT_OK;
    char *line = NULL;
    size_t room = 0;
    FILE *file = fopen(path, "re");
    if (!file) return errno == ENOENT ? LT_OK : lt_fail_errno(err, errno, "%s", path);
    for (ssize_t n; !status && (n = getline(&line, &room, file)) > 0;) {
        if (line[n - 1] != '\n') break; /* a kill cut it in half */
        line[n - 1] = 0;
        const char *slash = strchr(line, '/');
        bool fine = slash && slash > line && slash - line < LT_CACHE_CLIP_BYTES &&
                    strlen(slash + 1) < LT_CACHE_DIGEST_BYTES && !strchr(slash + 1, '/');
        status =
            fine ? add(clips, line, err)
                 : lt_fail(err, LT_E_FORMAT, "%s: is not a list of clips; use --fresh to start over", path);
    }
    free(line);
    fclose(file);
    return status;
}

static lt_status write_list(const lt_cached_clips *clips, const char *path, lt_err *err)
{
    char part[4300];
    snprintf(part, sizeof part, "%s.part", path);
    FILE *file = fopen(part, "we");
    if (!file) return lt_fail_errno(err, errno, "%s", part);
    bool fine = true;
    for (uint32_t i = 0; i < clips->n && fine; i++) fine = fprintf(file, "%s\n", clips->names[i]) > 0;
    fine = fflush(file) == 0 && fsync(fileno(file)) == 0 && fine;
    int error = errno;
    if (fclose(file) != 0 || !fine || rename(part, path) != 0) return lt_fail_errno(err, error, "%s", path);
    return LT_OK;
}

/* ---- what the cache holds -------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A scan of the cache, and what the list held before it. */
typedef struct search {
    lt_cached_clips *clips;
    const lt_latents_config *config;
    const lt_journal *journal;
    lt_cache *cache;
    char **known; /* sorted */
    uint32_t n_known;
} search;

/* Whether the run is through with clip `text`, or cannot have it any more. */
static bool is_over(const search *s, const char *text)
{
    char key[33], name[LT_CACHE_CLIP_BYTES], digest[LT_CACHE_DIGEST_BYTES];
    lt_cache_summary there;
    lt_cached_clip_key(text, key);
    if (s->journal && lt_journal_knows(s->journal, key)) return true;
    split(text, name, digest);
    return lt_cache_look(s->cache, name, digest, &there, NULL) != LT_OK || there.state != LT_CACHE_COMPLETE;
}

/* Put a clip behind the list, unless it is in it, or an older one of its name that the run is not through with. */
static lt_status add_new(search *s, const lt_cache_summary *newest, lt_err *err)
{
    char text[LT_CACHE_CLIP_BYTES + LT_CACHE_DIGEST_BYTES];
    uint32_t low = 0, high = s->n_known;
    snprintf(text, sizeof text, "%s/%s", newest->clip, newest->digest);
    size_t name = strlen(newest->clip) + 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (strncmp(s->known[middle], text, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (uint32_t i = low; i < s->n_known && !strncmp(s->known[i], text, name); i++)
        if (!strcmp(s->known[i], text) || !is_over(s, s->known[i])) return LT_OK;
    return add(s->clips, text, err);
}

/* The newest of several that are called alike; `n` of them, n_newest made at the same time, or by a build that did not note it. */
static lt_status take(search *s, const lt_cache_summary *newest, int n, int n_newest, lt_err *err)
{
    if (!n) return LT_OK;
    if (n_newest > 1)
        return lt_fail(err, LT_E_NOT_FOUND,
                       "the cache holds clip %s more than once, and does not say which was made last "
                       "(`latents ls` shows them): choose one with the option digest",
                       newest->clip);
    if (n > 1 && !s->clips->n_several++) {
        char since[32];
        lt_cache_time_text(newest->completed_ms, since);
        snprintf(s->clips->several, sizeof s->clips->several, "%s/%s of %s", newest->clip, newest->digest,
                 since);
    }
    return add_new(s, newest, err);
}

/* Clips of one name lie one after the other. */
static lt_status scan(search *s, lt_err *err)
{
    lt_cache_summary at = {0}, newest = {0};
    lt_status status = LT_OK;
    int n = 0, n_newest = 0;
    while (!status && (status = lt_cache_next_clip(s->cache, &at, err)) == LT_OK) {
        if (at.state != LT_CACHE_COMPLETE || fnmatch(s->config->clips, at.clip, 0) ||
            strncmp(at.digest, s->config->digest, strlen(s->config->digest)))
            continue;
        if (n && strcmp(newest.clip, at.clip)) {
            status = take(s, &newest, n, n_newest, err);
            n = n_newest = 0;
        }
        if (n && at.completed_ms == newest.completed_ms) n_newest++;
        if (!n++ || at.completed_ms > newest.completed_ms) newest = at, n_newest = 1;
    }
    return status == LT_END ? take(s, &newest, n, n_newest, err) : status;
}

static lt_status find_new(lt_cached_clips *clips, lt_cache *cache, const lt_latents_config *config,
                          const lt_journal *journal, lt_err *err)
{
    search s = {clips, config, journal, cache, malloc(LT_MAX(clips->n, 1u) * sizeof *s.known), clips->n};
    if (!s.known) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a list of clips");
    if (s.n_known) memcpy(s.known, clips->names, s.n_known * sizeof *s.known);
    qsort(s.known, s.n_known, sizeof *s.known, compare);
    lt_status status = scan(&s, err);
    free(s.known);
    return status;
}

lt_status lt_cached_clips_find(lt_cached_clips *clips, lt_cache *cache, const lt_latents_config *config,
                               const char *run_folder, const lt_journal *journal, lt_err *err)
{
    char path[4200] = "";
    *clips = (lt_cached_clips){0};
    lt_status status = LT_OK;
    if (*run_folder) snprintf(path, sizeof path, "%s/latents.list", run_folder);
    if (*path) LT_TRY(read_list(clips, path, err));
    uint32_t n_known = clips->n;
    LT_TRY(find_new(clips, cache, config, journal, err));
    if (!clips->n)
        LT_TRY(lt_fail(err, LT_E_NOT_FOUND, "the cache holds no complete clip named %s%s%s", config->clips,
                       *config->digest ? " with a digest that begins with " : "", config->digest));
    if (*path && clips->n > n_known) LT_TRY(write_list(clips, path, err));
    return LT_OK;
fail:
    lt_cached_clips_finish(clips);
    return status;
}
