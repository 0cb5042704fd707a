/* copy.c - a clip from one cache to another. */
#include "cache/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A chunk out of the map, checked against the record. */
typedef struct taken {
    const lt_cache_clip *clip;
    void *latent, *logvar;
} taken;

static lt_status take(void *user, const lt_cache_chunk *chunk, lt_err *err)
{
    taken *t = user;
    const lt_cache_clip *clip = t->clip;
    const int64_t shape[4] = {lt_cache_chunk_frames(clip, chunk->first), clip->channels, clip->height,
                              clip->width};
    if (chunk->latent.dtype != clip->dtype || memcmp(chunk->latent.shape, shape, sizeof shape) ||
        (chunk->logvar.data != NULL) != clip->logvar)
        return lt_fail(err, LT_E_FORMAT, "clip %s: the chunk of frame %lld is not of the clip's geometry",
                       clip->clip, (long long)chunk->first);
    memcpy(t->latent, chunk->latent.data, lt_tensor_bytes(&chunk->latent));
    if (t->logvar) memcpy(t->logvar, chunk->logvar.data, lt_tensor_bytes(&chunk->logvar));
    return LT_OK;
}

static lt_status copy_chunks(lt_cache *from, lt_cache *to, const lt_cache_clip *clip, int64_t *n_added,
                             lt_err *err)
{
    const int64_t sizes[] = {LT_MIN((int64_t)clip->chunk, clip->n_frames), clip->channels, clip->height,
                             clip->width, (int64_t)lt_dtype_bytes(clip->dtype)};
    int64_t bytes;
    lt_status status = LT_OK;
    if (!lt_product_i64(sizes, 5, &bytes)) return lt_fail(err, LT_E_FORMAT, "clip %s: too large", clip->clip);
    taken t = {
        .clip = clip, .latent = malloc((size_t)bytes), .logvar = clip->logvar ? malloc((size_t)bytes) : NULL};
    if (!t.latent || (clip->logvar && !t.logvar)) status = lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (int64_t first = 0; first < clip->n_frames && !status; first += clip->chunk) {
        bool there = false, added = false;
        status = lt_cache_has(to, clip->clip, clip->digest, first, &there, err);
        if (status || there) continue;
        status = lt_cache_read(from, clip->clip, clip->digest, first, take, &t, err);
        if (!status) status = lt_cache_put(to, clip, first, t.latent, t.logvar, &added, err);
        *n_added += added;
    }
    free(t.latent);
    free(t.logvar);
    return status;
}

lt_status lt_cache_copy(lt_cache *from, lt_cache *to, const char *clip, const char *digest, int64_t *n_added,
                        lt_err *err)
{
    lt_arena arena = {0};
    lt_cache_clip record;
    lt_cache_summary summary;
    lt_err none;
    const char *side = NULL;
    *n_added = 0;
    lt_status status = lt_cache_get_clip(from, clip, digest, &arena, &record, err);
    if (!status && record.state != LT_CACHE_COMPLETE)
        status = lt_fail(err, LT_E_NOT_FOUND, "clip %s is not complete: %s", clip, record.reason);
    if (status) goto fail;
    if (lt_cache_look(to, clip, digest, &summary, &none) == LT_OK && summary.state == LT_CACHE_COMPLETE)
        goto fail;
    LT_TRY(lt_cache_look(from, clip, digest, &summary, err));
    record.completed_ms = summary.completed_ms;
    if (record.side_bytes) {
        side = lt_arena_printf(&arena, "%s/side-%d.part", to->folder, (int)getpid());
        if (!side) LT_TRY(lt_fail(err, LT_E_NO_MEMORY, "out of memory"));
        LT_TRY(lt_cache_side(from, clip, digest, side, err));
        record.side_path = side;
    }
    LT_TRY(copy_chunks(from, to, &record, n_added, err));
    LT_TRY(lt_cache_look(to, clip, digest, &summary, err));
    if (summary.state != LT_CACHE_COMPLETE)
        status = lt_fail(err, LT_E_FORMAT,
                         "clip %s is not complete in %s, though every chunk was copied: run latents verify",
                         clip, to->folder);
fail:
    if (side) unlink(side);
    lt_arena_finish(&arena);
    return status;
}
