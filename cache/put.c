/* put.c - writing: a chunk a transaction, the record with the last missing one. */
#include "cache/internal.h"
#include "core/xxh3.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static lt_status check_clip(const lt_cache_clip *clip, lt_err *err)
{
    lt_status status = lt_cache_check_name(clip->clip, clip->digest, err);
    if (status) return status;
    bool sizes = clip->n_frames > 0 && clip->n_frames <= LT_CACHE_FRAMES_MAX && clip->chunk > 0 &&
                 clip->channels > 0 && clip->height > 0 && clip->width > 0;
    if (!sizes || (clip->dtype != LT_F32 && clip->dtype != LT_F16 && clip->dtype != LT_BF16))
        return lt_fail(err, LT_E_INVALID,
                       "clip %s: %lld frames, chunks of %d, latents %s[%d,%d,%d] cannot be cached",
                       clip->clip, (long long)clip->n_frames, clip->chunk, lt_dtype_name(clip->dtype),
                       clip->channels, clip->height, clip->width);
    if (!isfinite(clip->scaling_factor))
        return lt_fail(err, LT_E_INVALID, "clip %s: scaling_factor %g cannot be cached", clip->clip,
                       clip->scaling_factor);
    return LT_OK;
}

static bool same_geometry(const lt_cache_summary *s, const lt_cache_clip *clip)
{
    return s->n_frames == clip->n_frames && s->chunk == clip->chunk && s->channels == clip->channels &&
           s->height == clip->height && s->width == clip->width && s->dtype == clip->dtype &&
           s->logvar == clip->logvar;
}

/* The clip's state as it is, or as that of a new clip; E_MISMATCH when it has another geometry. */
static lt_status get_state(lt_cache *cache, MDB_txn *txn, const lt_cache_clip *clip, lt_cache_summary *s,
                           bool *is_new, lt_err *err)
{
    lt_err absent;
    lt_status status = lt_cache_get_summary(cache, txn, clip->clip, clip->digest, s, &absent);
    *is_new = status == LT_E_NOT_FOUND;
    if (*is_new) {
        *s = (lt_cache_summary){.n_frames = clip->n_frames,
                                .n_chunks = lt_cache_n_chunks(clip),
                                .chunk = clip->chunk,
                                .channels = clip->channels,
                                .height = clip->height,
                                .width = clip->width,
                                .dtype = clip->dtype,
                                .logvar = clip->logvar};
        strcpy(s->clip, clip->clip);
        strcpy(s->digest, clip->digest);
        return LT_OK;
    }
    if (status) return lt_fail(err, status, "%s", absent.text);
    if (same_geometry(s, clip)) return LT_OK;
    return lt_fail(err, LT_E_MISMATCH,
                   "the cache %s holds clip %s/%s as %lld frames in chunks of %d, %s[%d,%d,%d]; "
                   "another geometry came",
                   cache->folder, clip->clip, clip->digest, (long long)s->n_frames, s->chunk,
                   lt_dtype_name(s->dtype), s->channels, s->height, s->width);
}

/* ---- side streams -------------------------------------------------------------------------------------- */

static lt_status put_side_value(lt_cache *cache, const lt_cache_clip *clip, int64_t index, const void *bytes,
                                size_t n_bytes, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    lt_status status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    MDB_val key = lt_cache_key_number(text, "side", clip->clip, clip->digest, index, LT_CACHE_SIDE_DIGITS);
    MDB_val value = lt_cache_val(bytes, n_bytes);
    int rc = mdb_put(txn, cache->dbi, &key, &value, 0);
    if (rc == 0) return lt_cache_commit(cache, txn, err);
    lt_cache_abort(cache, txn);
    return lt_cache_fail_mdb(cache, rc, err, "writing a clip's side streams");
}

/* Read until the buffer is full or the file ends. */
static lt_status read_part(int fd, const char *path, char *buffer, size_t *filled, lt_err *err)
{
    for (*filled = 0; *filled < LT_CACHE_SIDE_BYTES;) {
        ssize_t n = read(fd, buffer + *filled, LT_CACHE_SIDE_BYTES - *filled);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return lt_fail_errno(err, errno, "cannot read the side streams from %s", path);
        if (n == 0) break;
        *filled += (size_t)n;
    }
    return LT_OK;
}

/* Store the side file, 4 MiB a transaction. Doing it twice gives the same. */
static lt_status put_side(lt_cache *cache, const lt_cache_clip *clip, lt_cache_side_info *side, lt_err *err)
{
    *side = (lt_cache_side_info){0};
    lt_status status = LT_OK;
    size_t filled;
    int fd = open(clip->side_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lt_fail_errno(err, errno, "clip %s: cannot read its side streams from %s", clip->clip,
                             clip->side_path);
    char *buffer = malloc(LT_CACHE_SIDE_BYTES);
    if (!buffer) LT_TRY(lt_fail(err, LT_E_NO_MEMORY, "out of memory"));
    for (;;) {
        LT_TRY(read_part(fd, clip->side_path, buffer, &filled, err));
        if (filled == 0) break;
        LT_TRY(put_side_value(cache, clip, side->values, buffer, filled, err));
        side->xxh3 = XXH3_64bits_withSeed(buffer, filled, side->xxh3);
        side->values++;
        side->bytes += (int64_t)filled;
    }
fail:
    free(buffer);
    close(fd);
    return status;
}

/* ---- the record ---------------------------------------------------------------------------------------- */

static lt_status put_record(lt_cache *cache, MDB_txn *txn, const lt_cache_clip *clip, lt_cache_state state,
                            const char *reason, const lt_cache_side_info *side, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    lt_cache_clip told = *clip;
    told.state = state;
    told.reason = reason;
    char *record = lt_cache_record_text(&told, side);
    if (!record) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the record of clip %s", clip->clip);
    MDB_val key = lt_cache_key(text, "clip", clip->clip, clip->digest);
    MDB_val value = lt_cache_val(record, strlen(record));
    int rc = mdb_put(txn, cache->dbi, &key, &value, 0);
    free(record);
    return rc ? lt_cache_fail_mdb(cache, rc, err, "writing a clip's record") : LT_OK;
}

static lt_status put_counters(lt_cache *cache, MDB_txn *txn, const lt_cache_summary *summary,
                              const lt_cache_totals *totals, lt_err *err)
{
    lt_status status = lt_cache_set_summary(cache, txn, summary, err);
    return status ? status : lt_cache_set_totals(cache, txn, totals, err);
}

/* ---- a chunk ------------------------------------------------------------------------------------------- */

/* A put on its way. */
typedef struct put {
    const lt_cache_clip *clip;
    int64_t first;
    MDB_val value;
    lt_cache_side_info side;
    bool side_stored; /* the side file is in the cache, or there is none */
    bool added, wants_side;
} put;

/* Count the chunk; with the last missing one, write the record. */
static lt_status count_chunk(lt_cache *cache, MDB_txn *txn, put *p, lt_cache_summary *state, bool is_new,
                             lt_err *err)
{
    lt_cache_totals totals;
    lt_status status = lt_cache_get_totals(cache, txn, &totals, err);
    if (status) return status;
    state->chunks++;
    state->bytes += (int64_t)p->value.mv_size;
    totals.clips += is_new;
    totals.chunks++;
    totals.frames += lt_cache_chunk_frames(p->clip, p->first);
    totals.latent_bytes += (int64_t)p->value.mv_size;
    if (state->chunks == state->n_chunks) {
        if (!p->side_stored) {
            p->wants_side = true;
            return LT_OK;
        }
        totals.complete++;
        totals.failed -= state->state == LT_CACHE_FAILED;
        totals.side_bytes += p->side.bytes;
        state->state = LT_CACHE_COMPLETE;
        state->completed_ms = p->clip->completed_ms ? p->clip->completed_ms : lt_cache_now_ms();
        status = put_record(cache, txn, p->clip, LT_CACHE_COMPLETE, NULL, &p->side, err);
        if (status) return status;
    }
    return put_counters(cache, txn, state, &totals, err);
}

/* How far the maker has come; nothing is left of it with the last chunk. */
static lt_status put_progress(lt_cache *cache, MDB_txn *txn, const put *p, bool is_complete, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_val key = lt_cache_key(text, "progress", p->clip->clip, p->clip->digest);
    if (!is_complete)
        return p->clip->progress
                   ? lt_cache_write_beside(cache, txn, key, p->clip->progress, p->clip->progress_bytes, err)
                   : LT_OK;
    int rc = mdb_del(txn, cache->dbi, &key, NULL);
    return rc && rc != MDB_NOTFOUND ? lt_cache_fail_mdb(cache, rc, err, "dropping a clip's progress") : LT_OK;
}

/* One transaction: added, or there already, or (p->wants_side) nothing yet, since the side file comes first. */
static lt_status try_put(lt_cache *cache, put *p, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    lt_cache_summary state;
    bool is_new;
    p->added = p->wants_side = false;
    lt_status status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    LT_TRY(get_state(cache, txn, p->clip, &state, &is_new, err));
    MDB_val key =
        lt_cache_key_number(text, "latent", p->clip->clip, p->clip->digest, p->first, LT_CACHE_FIRST_DIGITS);
    MDB_val value = p->value;
    int rc = mdb_put(txn, cache->dbi, &key, &value, MDB_NOOVERWRITE);
    if (rc == MDB_KEYEXIST) goto fail;
    if (rc) LT_TRY(lt_cache_fail_mdb(cache, rc, err, "writing a chunk of latents"));
    LT_TRY(count_chunk(cache, txn, p, &state, is_new, err));
    if (p->wants_side) goto fail;
    LT_TRY(put_progress(cache, txn, p, state.state == LT_CACHE_COMPLETE, err));
    p->added = true;
    return lt_cache_commit(cache, txn, err);
fail:
    lt_cache_abort(cache, txn);
    return status;
}

lt_status lt_cache_put(lt_cache *cache, const lt_cache_clip *clip, int64_t first, const void *latent,
                       const void *logvar, bool *added, lt_err *err)
{
    lt_status status = check_clip(clip, err);
    if (status) return status;
    if (first < 0 || first >= clip->n_frames || first % clip->chunk != 0)
        return lt_fail(err, LT_E_INVALID, "clip %s: frame %lld starts no chunk", clip->clip,
                       (long long)first);
    if (!latent || clip->logvar != (logvar != NULL))
        return lt_fail(err, LT_E_INVALID, "clip %s: latent or logvar is missing", clip->clip);
    status = lt_cache_drop_rest(cache, clip->clip, clip->digest, err);
    if (status) return status;
    void *bytes = NULL;
    put p = {.clip = clip, .first = first, .side_stored = !clip->side_path || !*clip->side_path};
    LT_TRY(lt_cache_pack(clip, first, latent, logvar, &bytes, &p.value.mv_size, err));
    p.value.mv_data = bytes;
    LT_TRY(try_put(cache, &p, err));
    if (p.wants_side) {
        LT_TRY(put_side(cache, clip, &p.side, err));
        p.side_stored = true;
        LT_TRY(try_put(cache, &p, err));
    }
    if (added) *added = p.added;
fail:
    free(bytes);
    return status;
}

lt_status lt_cache_fail(lt_cache *cache, const lt_cache_clip *clip, const char *reason, lt_err *err)
{
    MDB_txn *txn;
    lt_cache_summary state;
    lt_cache_totals totals;
    bool is_new;
    lt_status status = check_clip(clip, err);
    if (!status) status = lt_cache_drop_rest(cache, clip->clip, clip->digest, err);
    if (!status) status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    LT_TRY(get_state(cache, txn, clip, &state, &is_new, err));
    if (state.state == LT_CACHE_COMPLETE) goto fail;
    LT_TRY(lt_cache_get_totals(cache, txn, &totals, err));
    totals.clips += is_new;
    totals.failed += state.state != LT_CACHE_FAILED;
    state.state = LT_CACHE_FAILED;
    LT_TRY(put_record(cache, txn, clip, LT_CACHE_FAILED, reason, &(lt_cache_side_info){0}, err));
    LT_TRY(put_counters(cache, txn, &state, &totals, err));
    return lt_cache_commit(cache, txn, err);
fail:
    lt_cache_abort(cache, txn);
    return status;
}
