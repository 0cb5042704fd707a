/* clips.c - the clips of a cache that a run decodes, and their numbers. */
#include "stages/latents/latents.h"

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

void lt_cached_clips_get(const lt_cached_clips *clips, uint32_t index, char name[LT_CACHE_CLIP_BYTES],
                         char digest[LT_CACHE_DIGEST_BYTES])
{
    const char *slash = strchr(clips->names[index], '/');
    snprintf(name, LT_CACHE_CLIP_BYTES, "%.*s", (int)(slash - clips->names[index]), clips->names[index]);
    snprintf(digest, LT_CACHE_DIGEST_BYTES, "%s", slash + 1);
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

/* Add what matches and is not among the first n_known, which are looked up in `sorted`. */
static lt_status scan(lt_cached_clips *clips, lt_cache *cache, const lt_latents_config *config, lt_err *err)
{
    lt_cache_summary s = {0};
    lt_status status = LT_OK;
    uint32_t n_known = clips->n;
    char previous[LT_CACHE_CLIP_BYTES] = "", text[LT_CACHE_CLIP_BYTES + LT_CACHE_DIGEST_BYTES];
    char **sorted = malloc(LT_MAX(n_known, 1u) * sizeof *sorted);
    if (!sorted) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a list of clips");
    if (n_known) memcpy(sorted, clips->names, n_known * sizeof *sorted);
    qsort(sorted, n_known, sizeof *sorted, compare);
    while (!status && (status = lt_cache_next_clip(cache, &s, err)) == LT_OK) {
        bool matches = s.state == LT_CACHE_COMPLETE && fnmatch(config->clips, s.clip, 0) == 0 &&
                       !strncmp(s.digest, config->digest, strlen(config->digest));
        if (!matches) continue;
        if (!strcmp(previous, s.clip))
            status = lt_fail(
                err, LT_E_NOT_FOUND,
                "the cache holds clip %s more than once, made in different ways (`latents ls` shows them): "
                "choose one with the option digest",
                s.clip);
        snprintf(previous, sizeof previous, "%s", s.clip);
        snprintf(text, sizeof text, "%s/%s", s.clip, s.digest);
        const char *key = text;
        if (!status && !bsearch(&key, sorted, n_known, sizeof *sorted, compare))
            status = add(clips, text, err);
    }
    free(sorted);
    return status == LT_END ? LT_OK : status;
}

lt_status lt_cached_clips_find(lt_cached_clips *clips, lt_cache *cache, const lt_latents_config *config,
                               const char *run_folder, lt_err *err)
{
    char path[4200] = "";
    *clips = (lt_cached_clips){0};
    lt_status status = LT_OK;
    if (*run_folder) snprintf(path, sizeof path, "%s/latents.list", run_folder);
    if (*path) LT_TRY(read_list(clips, path, err));
    uint32_t n_known = clips->n;
    LT_TRY(scan(clips, cache, config, err));
    if (!clips->n)
        LT_TRY(lt_fail(err, LT_E_NOT_FOUND, "the cache holds no complete clip named %s%s%s", config->clips,
                       *config->digest ? " with a digest that begins with " : "", config->digest));
    if (*path && clips->n > n_known) LT_TRY(write_list(clips, path, err));
    return LT_OK;
fail:
    lt_cached_clips_finish(clips);
    return status;
}
