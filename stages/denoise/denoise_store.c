/* denoise_store.c - finished latents and the frontier behind them, in a cache. */
#include "stages/denoise/denoise.h"
#include "stages/record/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *lt_denoise_store_folder(const lt_setup *setup, bool pixels, lt_arena *arena)
{
    /* Pixels are no latents: they stay out of a cache that others read. */
    if (setup->cache && *setup->cache && !pixels) return lt_arena_strdup(arena, setup->cache);
    return lt_arena_printf(arena, "%s/%s.cache", setup->run_folder, setup->stage);
}

lt_status lt_denoise_store_open(lt_denoise_store *store, lt_cache *cache, const lt_denoise_model *model,
                                const lt_denoise_geometry *g, const lt_stream *out, lt_err *err)
{
    int64_t chunk = LT_MIN(g->chunk, g->n_frames);
    *store = (lt_denoise_store){.cache = cache};
    store->record = lt_record_of_stream(out);
    store->record.dtype = LT_F32;     /* frames, too, are kept as the network leaves them */
    store->record.factor = g->factor; /* of pixels a stream says neither */
    if (model->info->pixels) store->record.scaling_factor = 1;
    store->record.numeric_class = model->dry->numeric_class;
    store->values = malloc((size_t)chunk * g->waves.frame_elements * sizeof *store->values);
    return store->values ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory for a chunk of latents");
}

void lt_denoise_store_finish(lt_denoise_store *store)
{
    free(store->values);
    *store = (lt_denoise_store){0};
}

/* ---- chunks -------------------------------------------------------------------------------------------- */

static int64_t frames_at(const lt_denoise_store *store, int64_t first)
{
    return LT_MIN((int64_t)store->record.chunk, store->record.n_frames - first);
}

/* [n,C,h,w] and [n,h,w,C], from the first to the second or back. */
static void turn(const lt_cache_clip *r, const float *from, float *to, int64_t n, bool channels_last)
{
    int64_t plane = (int64_t)r->height * r->width, channels = r->channels;
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = 0; p < plane; p++) {
                int64_t last = (i * plane + p) * channels + c, first = (i * channels + c) * plane + p;
                to[channels_last ? last : first] = from[channels_last ? first : last];
            }
}

typedef struct reading {
    lt_denoise_store *store;
    int64_t first;
    float *x;
} reading;

static lt_status use_chunk(void *user, const lt_cache_chunk *chunk, lt_err *err)
{
    const reading *r = user;
    const lt_cache_clip *record = &r->store->record;
    const int64_t n = frames_at(r->store, r->first),
                  shape[4] = {n, record->channels, record->height, record->width};
    char text[96];
    if (chunk->latent.dtype != LT_F32 || memcmp(chunk->latent.shape, shape, sizeof shape) != 0)
        return lt_fail(err, LT_E_FORMAT,
                       "the cache's latents of clip %s, frame %lld, are %s; run latents verify", record->clip,
                       (long long)r->first, lt_tensor_describe(&chunk->latent, text, sizeof text));
    if (r->x) turn(record, chunk->latent.data, r->x, n, true);
    return LT_OK;
}

lt_status lt_denoise_store_get(lt_denoise_store *store, int64_t first, float *x, lt_err *err)
{
    reading r = {store, first, x};
    return lt_cache_read(store->cache, store->record.clip, store->record.digest, first, use_chunk, &r, err);
}

lt_status lt_denoise_store_put(lt_denoise_store *store, int64_t first, const float *x,
                               const lt_wavefront *frontier, lt_err *err)
{
    void *bytes = NULL;
    size_t n_bytes;
    bool added;
    lt_cache_clip *record = &store->record;
    lt_status status = lt_wavefront_save(frontier, &bytes, &n_bytes, err);
    if (status) return status;
    turn(record, x, store->values, frames_at(store, first), false);
    record->progress = bytes;
    record->progress_bytes = n_bytes;
    status = lt_cache_put(store->cache, record, first, store->values, NULL, &added, err);
    record->progress = NULL;
    /* The chunk was there from before: only the frontier is new. */
    if (status == LT_OK && !added)
        status = lt_cache_put_progress(store->cache, record->clip, record->digest, bytes, n_bytes, err);
    free(bytes);
    return status;
}

lt_status lt_denoise_store_mark(lt_denoise_store *store, const lt_wavefront *frontier, lt_err *err)
{
    void *bytes = NULL;
    size_t n_bytes;
    lt_status status = lt_wavefront_save(frontier, &bytes, &n_bytes, err);
    if (status) return status;
    status =
        lt_cache_put_progress(store->cache, store->record.clip, store->record.digest, bytes, n_bytes, err);
    free(bytes);
    return status;
}

/* ---- going on ------------------------------------------------------------------------------------------ */

/* Are all chunks below `end` there? */
static lt_status has_all(lt_denoise_store *store, int64_t end, bool *all, lt_err *err)
{
    lt_status status = LT_OK;
    *all = true;
    for (int64_t first = 0; first < end && *all && status == LT_OK; first += store->record.chunk)
        status = lt_cache_has(store->cache, store->record.clip, store->record.digest, first, all, err);
    return status;
}

lt_status lt_denoise_store_resume(lt_denoise_store *store, lt_wavefront *w, bool *complete, lt_err *err)
{
    void *bytes = NULL;
    size_t n_bytes;
    lt_err why;
    bool all;
    lt_status status = has_all(store, store->record.n_frames, complete, err);
    if (status || *complete) return status;
    status =
        lt_cache_get_progress(store->cache, store->record.clip, store->record.digest, &bytes, &n_bytes, &why);
    if (status == LT_OK) status = lt_wavefront_load(w, bytes, n_bytes, &why);
    free(bytes);
    if (status == LT_E_NOT_FOUND) return LT_OK;
    if (status == LT_E_FORMAT || status == LT_E_MISMATCH) {
        lt_log(LT_LOG_WARN, "clip %s begins anew: %s", store->record.clip, why.text);
        return LT_OK;
    }
    if (status) return lt_fail(err, status, "%s", why.text);
    int64_t kept = lt_wavefront_released(w);
    status = has_all(store, kept, &all, err);
    if (status == LT_OK && (!all || kept % store->record.chunk)) {
        lt_log(LT_LOG_WARN, "clip %s begins anew: latents before its frontier are gone", store->record.clip);
        lt_wavefront_reset(w);
    }
    return status;
}
