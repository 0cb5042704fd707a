/* gc.c - `latents gc`: what is of no use. */
#include "cache/tool/tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP = 64 }; /* clips of one name that are looked at together */

typedef struct sweep {
    lt_cache *cache;
    const arguments *a;
    int64_t n_clips, n_values, bytes, n_damaged;
    json_t *removed; /* an array, with --json */
} sweep;

/* ---- the same, made anew --------------------------------------------------------------------------------- */

/* What follows the epoch in a class, but for the revision of one dtype: "/bf16" of "/bf16.2". */
static size_t tail_bytes(const char *tail)
{
    const char *dot = strrchr(tail, '.');
    bool revised = dot && dot[1] && !dot[1 + strspn(dot + 1, "0123456789")];
    return revised ? (size_t)(dot - tail) : strlen(tail);
}

/* Whether a numeric class is the other one at a later epoch: ".../epoch-5/..." of ".../epoch-4/...", all else alike. */
static bool is_later(const char *one, const char *other)
{
    const char *at = strstr(one, "epoch-");
    size_t head = at ? (size_t)(at - one) + strlen("epoch-") : 0;
    char *one_end, *other_end;
    if (!head || strncmp(one, other, head)) return false;
    long one_epoch = strtol(one + head, &one_end, 10), other_epoch = strtol(other + head, &other_end, 10);
    bool numbers = one_end > one + head && other_end > other + head;
    size_t n = numbers ? tail_bytes(one_end) : 0;
    return numbers && one_epoch > other_epoch && n == tail_bytes(other_end) &&
           !strncmp(one_end, other_end, n);
}

/* Whether latents are of the same frames, made in the same way, as far as their records say so: of an earlier build's, of what was
 * denoised, and of an import that was edited it is not said of what they are. */
static bool same_making(const lt_cache_clip *a, const lt_cache_clip *b)
{
    return *a->made_of && *a->weights && !strcmp(a->made_of, b->made_of) && !strcmp(a->weights, b->weights) &&
           !strcmp(a->numerics, b->numerics) && !strcmp(a->encoding, b->encoding) &&
           !strcmp(a->fingerprint, b->fingerprint);
}

static bool same_geometry(const lt_cache_summary *a, const lt_cache_summary *b)
{
    return a->n_frames == b->n_frames && a->chunk == b->chunk && a->channels == b->channels &&
           a->height == b->height && a->width == b->width && a->dtype == b->dtype && a->logvar == b->logvar;
}

/* Whether a clip is there in a later epoch, which is named. One whose record cannot be read is not. */
static bool is_superseded(lt_cache *cache, const lt_cache_summary *group, int n, const lt_cache_summary *s,
                          char why[400])
{
    lt_arena arena = {0};
    lt_cache_clip clip, other;
    bool is = false;
    if (n < 2 || lt_cache_get_clip(cache, s->clip, s->digest, &arena, &clip, NULL)) n = 0;
    for (int i = 0; i < n && !is; i++) {
        lt_arena its = {0};
        is = &group[i] != s && same_geometry(&group[i], s) &&
             !lt_cache_get_clip(cache, s->clip, group[i].digest, &its, &other, NULL) &&
             same_making(&other, &clip) && is_later(other.numeric_class, clip.numeric_class);
        if (is) snprintf(why, 400, "made anew as %s/%s", s->clip, group[i].digest);
        lt_arena_finish(&its);
    }
    lt_arena_finish(&arena);
    return is;
}

/* ---- the sweep ------------------------------------------------------------------------------------------- */

static lt_status drop(sweep *swept, const lt_cache_summary *s, const char *why, lt_err *err)
{
    lt_status status = lt_cache_remove(swept->cache, s->clip, s->digest, err);
    if (status) return status;
    swept->n_clips++;
    swept->bytes += s->bytes;
    if (swept->removed)
        json_array_append_new(swept->removed,
                              json_pack("{ssssss}", "clip", s->clip, "digest", s->digest, "why", why));
    else
        printf("%s/%s removed: %s\n", s->clip, s->digest, why);
    return LT_OK;
}

/* With --newest: all but those of the group that were completed last, which are moved to its front, *n of them. */
static lt_status drop_older(sweep *swept, lt_cache_summary *group, int *n, lt_err *err)
{
    lt_status status = LT_OK;
    int newest = 0, n_kept = 0;
    char why[400];
    for (int i = 1; i < *n; i++)
        if (group[i].completed_ms > group[newest].completed_ms) newest = i;
    const lt_cache_summary last = *n ? group[newest] : (lt_cache_summary){0};
    snprintf(why, sizeof why, "%s/%s is newer", last.clip, last.digest);
    for (int i = 0; i < *n && !status; i++) {
        if (group[i].completed_ms == last.completed_ms)
            group[n_kept++] = group[i];
        else
            status = drop(swept, &group[i], why, err);
    }
    *n = n_kept;
    return status;
}

/* Complete clips of one name, which stand next to each other. */
static lt_status drop_superseded(sweep *swept, const lt_cache_summary *group, int n, lt_err *err)
{
    lt_status status = LT_OK;
    char why[400];
    for (int i = 0; i < n && !status; i++)
        if (is_superseded(swept->cache, group, n, &group[i], why)) status = drop(swept, &group[i], why, err);
    return status;
}

/* n of them, perhaps not all of the name; what more of it comes is compared with those that stay in the group. */
static lt_status sweep_group(sweep *swept, lt_cache_summary *group, int *n, bool is_all, lt_err *err)
{
    lt_status status =
        swept->a->newest ? drop_older(swept, group, n, err) : drop_superseded(swept, group, *n, err);
    if (!swept->a->newest || is_all || *n == GROUP) *n = 0;
    return status;
}

static lt_status sweep_clips(sweep *swept, lt_err *err)
{
    lt_cache_summary s = {0}, *group = calloc(GROUP, sizeof *group);
    lt_status status = group ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    int n = 0;
    while (!status && (status = lt_cache_next_clip(swept->cache, &s, err)) == LT_OK) {
        bool is_all = n && strcmp(group[0].clip, s.clip);
        if (is_all || n == GROUP) status = sweep_group(swept, group, &n, is_all, err);
        if (status) break;
        if (s.damaged) {
            swept->n_damaged++;
            lt_tool_damaged(swept->a->folder, &s);
        } else if (s.state == LT_CACHE_COMPLETE) {
            group[n++] = s;
        } else {
            status = drop(swept, &s, s.state == LT_CACHE_FAILED ? "failed" : "unfinished", err);
        }
    }
    if (status == LT_END) status = sweep_group(swept, group, &n, true, err);
    free(group);
    return status;
}

int lt_tool_gc(lt_cache *cache, const arguments *a)
{
    lt_err err;
    sweep swept = {.cache = cache, .a = a, .removed = a->json ? json_array() : NULL};
    char bytes[32];
    lt_status status = sweep_clips(&swept, &err);
    if (!status) status = lt_cache_remove_orphans(cache, &swept.n_values, &err);
    int code = status ? lt_tool_failed(&err) : swept.n_damaged ? FAILED : FINE;
    if (a->json)
        return lt_tool_json(json_pack("{sIsIsIso}", "clips", (json_int_t)swept.n_clips, "bytes",
                                      (json_int_t)swept.bytes, "values", (json_int_t)swept.n_values,
                                      "removed", swept.removed),
                            code);
    printf("%lld clips of %s removed, and %lld values of no use\n", (long long)swept.n_clips,
           lt_tool_bytes(swept.bytes, bytes), (long long)swept.n_values);
    return code;
}
