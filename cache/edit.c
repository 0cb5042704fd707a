/* edit.c - taking clips out of a cache, and what belongs to none. */
#include "cache/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS_A_TRANSACTION = 1000 };

/* ---- one clip ------------------------------------------------------------------------------------------ */

static lt_status delete_key(lt_cache *cache, MDB_txn *txn, MDB_val key, lt_err *err)
{
    int rc = mdb_del(txn, cache->dbi, &key, NULL);
    return rc && rc != MDB_NOTFOUND ? lt_cache_fail_mdb(cache, rc, err, "removing from the cache") : LT_OK;
}

/* Take values "word/CLIP/DIGEST/..." out, as many as *n, which is less by each; chunks are counted off the clip (NULL: it has no
 * state, or one that cannot be read) and the totals. */
static lt_status take_values(lt_cache *cache, MDB_txn *txn, const char *word, const char *clip,
                             const char *digest, int *n, lt_cache_summary *s, lt_cache_totals *totals,
                             lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES], its_clip[LT_CACHE_CLIP_BYTES], its_digest[LT_CACHE_DIGEST_BYTES];
    MDB_val from = lt_cache_key(text, word, clip, digest), key, value;
    text[from.mv_size++] = '/';
    lt_status status = LT_OK;
    int64_t first;
    while (*n > 0 && (status = lt_cache_seek(cache, txn, from, false, &key, &value, err)) == LT_OK) {
        if (key.mv_size < from.mv_size || memcmp(key.mv_data, text, from.mv_size)) break;
        if (s && lt_cache_key_parse(&key, "latent", its_clip, its_digest, &first)) {
            s->chunks--;
            s->bytes -= (int64_t)value.mv_size;
            totals->chunks--;
            totals->latent_bytes -= (int64_t)value.mv_size;
            totals->frames -= LT_MIN((int64_t)s->chunk, s->n_frames - first);
        }
        if ((status = delete_key(cache, txn, key, err)) != LT_OK) break;
        --*n;
    }
    return status == LT_END ? LT_OK : status;
}

/* Add what the clip's state says, and for a complete clip its record. */
static lt_status add_clip(lt_cache *cache, MDB_txn *txn, const lt_cache_summary *s, lt_cache_totals *totals,
                          lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    lt_arena arena = {0};
    lt_cache_clip record;
    lt_cache_side_info side = {0};
    MDB_val value, key = lt_cache_key_number(text, "latent", s->clip, s->digest, (s->n_chunks - 1) * s->chunk,
                                             LT_CACHE_FIRST_DIGITS);
    lt_status status = lt_cache_get(cache, txn, key, &value, err);
    if (status && status != LT_E_NOT_FOUND) return status;
    totals->clips++;
    totals->complete += s->state == LT_CACHE_COMPLETE;
    totals->failed += s->state == LT_CACHE_FAILED;
    totals->chunks += s->chunks;
    totals->latent_bytes += s->bytes;
    totals->frames += s->chunks * s->chunk - (status ? 0 : s->n_chunks * s->chunk - s->n_frames);
    if (s->state != LT_CACHE_COMPLETE) return LT_OK;
    status = lt_cache_get(cache, txn, lt_cache_key(text, "clip", s->clip, s->digest), &value, err);
    if (!status) status = lt_cache_parse_record(&value, text, &arena, &record, &side, err);
    totals->side_bytes += side.bytes;
    lt_arena_finish(&arena);
    return status == LT_E_NOT_FOUND || status == LT_E_FORMAT ? LT_OK : status;
}

/* Totals of all states that can be read. */
static lt_status count_all(lt_cache *cache, MDB_txn *txn, lt_cache_totals *totals, lt_err *err)
{
    static const char prefix[] = "state/";
    MDB_val from = lt_cache_val(prefix, sizeof prefix - 1), key, value;
    lt_status status;
    *totals = (lt_cache_totals){0};
    for (bool after = false; !(status = lt_cache_seek(cache, txn, from, after, &key, &value, err));
         after = true) {
        lt_cache_summary s;
        if (key.mv_size < sizeof prefix - 1 || memcmp(key.mv_data, prefix, sizeof prefix - 1)) return LT_OK;
        if (!lt_cache_parse_summary(&key, &value, &s, NULL))
            if ((status = add_clip(cache, txn, &s, totals, err)) != LT_OK) return status;
        from = key;
    }
    return status == LT_END ? LT_OK : status;
}

/* The clip is complete or failed no more. False: its side streams' bytes are not known. */
static bool make_partial(lt_cache *cache, MDB_txn *txn, lt_cache_summary *s, lt_cache_totals *totals)
{
    char text[LT_CACHE_KEY_BYTES];
    lt_arena arena = {0};
    lt_cache_clip record;
    lt_cache_side_info side = {0};
    MDB_val value;
    lt_status status = LT_OK;
    if (s->state == LT_CACHE_COMPLETE) {
        status = lt_cache_get(cache, txn, lt_cache_key(text, "clip", s->clip, s->digest), &value, NULL);
        if (!status) status = lt_cache_parse_record(&value, text, &arena, &record, &side, NULL);
        lt_arena_finish(&arena);
    }
    totals->complete -= s->state == LT_CACHE_COMPLETE;
    totals->failed -= s->state == LT_CACHE_FAILED;
    totals->side_bytes -= side.bytes;
    s->state = LT_CACHE_PARTIAL;
    s->completed_ms = 0;
    return !status;
}

/* One transaction of a removal. The record goes with the first, so that no reader takes the clip for whole, and with it what its
 * maker would go on from over chunks that are gone; the state goes with the last value. In between the clip is a partial one. */
static lt_status remove_some(lt_cache *cache, const char *clip, const char *digest, bool *done, lt_err *err)
{
    static const char *const words[] = {"clip", "progress", "state"};
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    lt_cache_summary s;
    lt_cache_totals totals;
    int n = KEYS_A_TRANSACTION;
    lt_status status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    status = lt_cache_get_summary(cache, txn, clip, digest, &s, err);
    bool damaged = status == LT_E_FORMAT, sure = !damaged;
    if (status && !damaged) goto fail;
    LT_TRY(lt_cache_get_totals(cache, txn, &totals, err));
    if (!damaged) sure = make_partial(cache, txn, &s, &totals);
    LT_TRY(take_values(cache, txn, "latent", clip, digest, &n, damaged ? NULL : &s, &totals, err));
    LT_TRY(take_values(cache, txn, "side", clip, digest, &n, NULL, NULL, err));
    *done = n > 0;
    for (int i = 0; i < 2 + *done; i++)
        LT_TRY(delete_key(cache, txn, lt_cache_key(text, words[i], clip, digest), err));
    if (!*done && !damaged) LT_TRY(lt_cache_set_summary(cache, txn, &s, err));
    totals.clips -= *done;
    /* A clip that had not what its state says has left the totals wrong. */
    if (!sure || (*done && (s.chunks || s.bytes))) LT_TRY(count_all(cache, txn, &totals, err));
    LT_TRY(lt_cache_set_totals(cache, txn, &totals, err));
    return lt_cache_commit(cache, txn, err);
fail:
    lt_cache_abort(cache, txn);
    return status;
}

lt_status lt_cache_remove(lt_cache *cache, const char *clip, const char *digest, lt_err *err)
{
    bool done = false;
    lt_status status = lt_cache_check_name(clip, digest, err);
    for (bool begun = false; !status && !done; begun = true) {
        status = remove_some(cache, clip, digest, &done, err);
        if (begun && status == LT_E_NOT_FOUND) return LT_OK; /* by somebody else */
    }
    return status;
}

lt_status lt_cache_remove_exactly(lt_cache *cache, const char *what, lt_err *err)
{
    char text[512], clip[LT_CACHE_CLIP_BYTES], digest[LT_CACHE_DIGEST_BYTES];
    MDB_txn *txn;
    int n = snprintf(text, sizeof text, "state/%s", what);
    MDB_val key = lt_cache_val(text, (size_t)n), value;
    if (n < 0 || n >= (int)sizeof text) return lt_fail(err, LT_E_NOT_FOUND, "%.100s...: no clip", what);
    if (lt_cache_key_parse(&key, "state", clip, digest, NULL))
        return lt_cache_remove(cache, clip, digest, err);
    lt_status status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    LT_TRY(lt_cache_get(cache, txn, key, &value, err));
    LT_TRY(delete_key(cache, txn, key, err));
    return lt_cache_commit(cache, txn, err);
fail:
    lt_cache_abort(cache, txn);
    return status;
}

lt_status lt_cache_drop_rest(lt_cache *cache, const char *clip, const char *digest, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    MDB_val key, value;
    bool known = true;
    lt_status status = lt_cache_begin(cache, false, &txn, err);
    if (status) return status;
    status = lt_cache_knows(cache, txn, clip, digest, &known, err);
    if (!status && !known) {
        MDB_val from = lt_cache_key_number(text, "latent", clip, digest, 0, LT_CACHE_FIRST_DIGITS);
        size_t prefix = from.mv_size - LT_CACHE_FIRST_DIGITS;
        status = lt_cache_seek(cache, txn, from, false, &key, &value, err);
        known = status == LT_END || key.mv_size < prefix || memcmp(key.mv_data, text, prefix);
        if (status == LT_END) status = LT_OK;
    }
    lt_cache_abort(cache, txn);
    for (int n = 0; !status && !known && !n;) {
        n = KEYS_A_TRANSACTION;
        status = lt_cache_begin(cache, true, &txn, err);
        if (status) return status;
        LT_TRY(lt_cache_knows(cache, txn, clip, digest, &known, err));
        if (!known) LT_TRY(take_values(cache, txn, "latent", clip, digest, &n, NULL, NULL, err));
        status = lt_cache_commit(cache, txn, err);
    }
    return status;
fail:
    lt_cache_abort(cache, txn);
    return status;
}

/* ---- captions ------------------------------------------------------------------------------------------ */

static lt_status rewrite(lt_cache *cache, MDB_txn *txn, MDB_val key, const lt_cache_clip *record,
                         const lt_cache_side_info *side, lt_err *err)
{
    char *text = lt_cache_record_text(record, side);
    if (!text) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the record of clip %s", record->clip);
    MDB_val value = lt_cache_val(text, strlen(text));
    int rc = mdb_put(txn, cache->dbi, &key, &value, 0);
    free(text);
    return rc ? lt_cache_fail_mdb(cache, rc, err, "writing a clip's record") : LT_OK;
}

lt_status lt_cache_set_caption(lt_cache *cache, const char *clip, const char *digest, const char *caption,
                               bool *changed, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    lt_arena arena = {0};
    lt_cache_clip record;
    lt_cache_side_info side;
    MDB_val value;
    MDB_txn *txn = NULL;
    *changed = false;
    char *clean = lt_cache_clean_text(caption);
    lt_status status =
        clean ? lt_cache_check_name(clip, digest, err) : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    if (!status) status = lt_cache_begin(cache, true, &txn, err);
    if (status) goto fail;
    MDB_val key = lt_cache_key(text, "clip", clip, digest);
    LT_TRY(lt_cache_get(cache, txn, key, &value, err));
    LT_TRY(lt_cache_parse_record(&value, text, &arena, &record, &side, err));
    if (!strcmp(record.caption, clean)) goto fail;
    record.caption = clean;
    LT_TRY(rewrite(cache, txn, key, &record, &side, err));
    status = lt_cache_commit(cache, txn, err);
    txn = NULL;
    *changed = !status;
fail:
    lt_cache_abort(cache, txn);
    lt_arena_finish(&arena);
    free(clean);
    return status;
}

/* ---- what belongs to none -------------------------------------------------------------------------------- */

/* The first key at or after "word/CLIP/", whether it begins so. */
static bool seek_clip(lt_cache *cache, MDB_txn *txn, const char *word, const char *clip, MDB_val *key,
                      MDB_val *value)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_val from = lt_cache_key(text, word, clip, "");
    return lt_cache_seek(cache, txn, from, false, key, value, NULL) == LT_OK && key->mv_size > from.mv_size &&
           !memcmp(key->mv_data, text, from.mv_size);
}

/* Whether what a source has seen is damaged, of a clip that is not there in any way, or not the newest of the clip. */
static bool is_seen_in_vain(lt_cache *cache, MDB_txn *txn, const MDB_val *seen, const MDB_val *value,
                            const char *clip)
{
    char its_clip[LT_CACHE_CLIP_BYTES], its_key[LT_CACHE_DIGEST_BYTES];
    MDB_val key, other;
    const void *bytes;
    size_t n;
    int64_t since, its;
    if (!lt_cache_parse_seen(value, &since, &bytes, &n)) return true;
    if (!seek_clip(cache, txn, "state", clip, &key, &other)) return true;
    bool newer = false, at_end = !seek_clip(cache, txn, "seen", clip, &key, &other);
    while (!at_end && !newer && lt_cache_key_parse(&key, "seen", its_clip, its_key, NULL) &&
           !strcmp(its_clip, clip)) {
        bool behind = key.mv_size > seen->mv_size ||
                      (key.mv_size == seen->mv_size && memcmp(key.mv_data, seen->mv_data, key.mv_size) > 0);
        newer = lt_cache_parse_seen(&other, &its, &bytes, &n) && (its > since || (its == since && behind));
        at_end = lt_cache_seek(cache, txn, key, true, &key, &other, NULL) != LT_OK;
    }
    return newer;
}

/* Whether a value is of a clip that the cache does not have, or of no use to it. */
static bool is_orphan(lt_cache *cache, MDB_txn *txn, const MDB_val *key, const MDB_val *value)
{
    static const char *const words[] = {"clip", "latent", "side", "progress"};
    char clip[LT_CACHE_CLIP_BYTES], digest[LT_CACHE_DIGEST_BYTES];
    int64_t number;
    if (lt_cache_key_parse(key, "seen", clip, digest, NULL))
        return is_seen_in_vain(cache, txn, key, value, clip);
    for (int i = 0; i < (int)LT_COUNT(words); i++) {
        lt_cache_summary s;
        if (!lt_cache_key_parse(key, words[i], clip, digest, i == 1 || i == 2 ? &number : NULL)) continue;
        return lt_cache_get_summary(cache, txn, clip, digest, &s, NULL) == LT_E_NOT_FOUND;
    }
    return false;
}

lt_status lt_cache_remove_orphans(lt_cache *cache, int64_t *n_removed, lt_err *err)
{
    char last[512];
    MDB_val from = lt_cache_val("", 1);
    lt_status status = LT_OK;
    *n_removed = 0;
    for (bool after = false; !status; after = true) {
        MDB_txn *txn;
        MDB_val key, value;
        int64_t n = 0;
        status = lt_cache_begin(cache, true, &txn, err);
        if (status) return status;
        for (int i = 0; i < KEYS_A_TRANSACTION && !status; i++) {
            status = lt_cache_seek(cache, txn, from, after || i > 0, &key, &value, err);
            if (status) break;
            from = lt_cache_val(memcpy(last, key.mv_data, LT_MIN(key.mv_size, sizeof last)), key.mv_size);
            if (!is_orphan(cache, txn, &key, &value)) continue;
            status = delete_key(cache, txn, from, err);
            n += !status;
        }
        bool at_end = status == LT_END;
        if (status && !at_end) {
            lt_cache_abort(cache, txn);
            return status;
        }
        if (n)
            status = lt_cache_commit(cache, txn, err);
        else
            lt_cache_abort(cache, txn);
        *n_removed += status && !at_end ? 0 : n;
        if (at_end) return status == LT_END ? LT_OK : status;
    }
    return status;
}
