/* change.c - commands of `latents` that change a cache. */
#include "cache/tool/tool.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- import -------------------------------------------------------------------------------------------- */

static int import_file(lt_cache *cache, const char *path, const arguments *a)
{
    lt_err err;
    lt_cache_imported it;
    if (lt_cache_import(cache, path, &a->unsaid, &it, &err)) return lt_tool_failed(&err);
    if (a->json)
        return lt_tool_json(json_pack("{sssssssIsIsfsb}", "path", path, "clip", it.clip.clip, "digest",
                                      it.clip.digest, "frames", (json_int_t)it.clip.n_frames, "added",
                                      (json_int_t)it.n_added, "scaling_factor", it.scaling_factor,
                                      "says_scaling_factor", it.says_scaling),
                            FINE);
    printf("%s -> %s/%s, %lld frames, scaling_factor %g%s%s\n", path, it.clip.clip, it.clip.digest,
           (long long)it.clip.n_frames, it.scaling_factor, it.says_scaling ? "" : " (the file says none)",
           it.n_added ? "" : ": was there already");
    return FINE;
}

static int is_safetensors(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot && strcmp(dot, ".safetensors") == 0;
}

/* One that cannot be taken does not keep the others out. */
int lt_tool_import(lt_cache *cache, const arguments *a)
{
    struct stat info;
    struct dirent **entries;
    if (stat(a->clip, &info) || !S_ISDIR(info.st_mode)) return import_file(cache, a->clip, a);
    int n = scandir(a->clip, &entries, is_safetensors, alphasort), code = FINE;
    if (n < 0) {
        lt_err err;
        lt_fail_errno(&err, errno, "%s", a->clip);
        return lt_tool_failed(&err);
    }
    for (int i = 0; i < n; i++) {
        char path[4600];
        snprintf(path, sizeof path, "%s/%s", a->clip, entries[i]->d_name);
        if (import_file(cache, path, a)) code = FAILED;
        free(entries[i]);
    }
    free(entries);
    return code;
}

/* ---- copy ---------------------------------------------------------------------------------------------- */

int lt_tool_copy(lt_cache *cache, const arguments *a)
{
    lt_err err;
    lt_cache *to;
    lt_status status;
    lt_cache_summary s = {0};
    int64_t n_clips = 0, n_chunks = 0, n_failed = 0;
    if (lt_cache_open(&to, a->clip, true, 0, &err)) return lt_tool_failed(&err);
    while ((status = lt_cache_next_clip(cache, &s, &err)) == LT_OK) {
        int64_t n = 0;
        if (s.damaged) {
            n_failed++;
            lt_tool_damaged(a->folder, &s);
        }
        if (s.state != LT_CACHE_COMPLETE) continue;
        status = lt_cache_copy(cache, to, s.clip, s.digest, &n, &err);
        if (status == LT_E_FORMAT || status == LT_E_MISMATCH || status == LT_E_NOT_FOUND) {
            n_failed++;
            lt_tool_failed(&err);
        } else if (status) {
            break;
        }
        n_clips += n > 0;
        n_chunks += n;
    }
    lt_cache_close(to);
    if (status != LT_END) return lt_tool_failed(&err);
    int code = n_failed ? FAILED : FINE;
    if (a->json)
        return lt_tool_json(json_pack("{sIsIsI}", "clips", (json_int_t)n_clips, "chunks",
                                      (json_int_t)n_chunks, "failed", (json_int_t)n_failed),
                            code);
    printf("%lld clips, %lld chunks copied\n", (long long)n_clips, (long long)n_chunks);
    return code;
}

/* ---- rm ------------------------------------------------------------------------------------------------ */

/* "text/TEXT/MODEL": a clip's name and digest have no more than one slash. */
static bool is_text(const char *what, char text[LT_CACHE_DIGEST_BYTES], char model[LT_CACHE_DIGEST_BYTES])
{
    int end = 0;
    return sscanf(what, "text/%64[0-9a-z]/%64[0-9a-z]%n", text, model, &end) == 2 && !what[end];
}

int lt_tool_remove(lt_cache *cache, const arguments *a)
{
    lt_err err;
    lt_cache_summary s;
    char text[LT_CACHE_DIGEST_BYTES], model[LT_CACHE_DIGEST_BYTES];
    if (is_text(a->clip, text, model)) {
        if (lt_cache_remove_text(cache, text, model, &err)) return lt_tool_failed(&err);
        if (a->json) return lt_tool_json(json_pack("{ssss}", "text", text, "model", model), FINE);
        printf("%s removed\n", a->clip);
        return FINE;
    }
    lt_status status = lt_tool_find_clip(cache, a->clip, false, &s, &err);
    if (status == LT_OK) {
        status = lt_cache_remove(cache, s.clip, s.digest, &err);
    } else if (status == LT_E_NOT_FOUND && lt_cache_remove_exactly(cache, a->clip, NULL) == LT_OK) {
        if (a->json) return lt_tool_json(json_pack("{ss}", "value", a->clip), FINE);
        printf("%s removed\n", a->clip);
        return FINE;
    }
    if (status) return lt_tool_failed(&err);
    if (a->json)
        return lt_tool_json(
            json_pack("{sssssI}", "clip", s.clip, "digest", s.digest, "bytes", (json_int_t)s.bytes), FINE);
    printf("%s/%s removed\n", s.clip, s.digest);
    return FINE;
}
