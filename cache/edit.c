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

/* Bytes of side values that the totals count for a complete clip. */
static int64_t side_bytes(lt_cache *cache, MDB_txn *txn, const char *clip, const char *digest)
{
    char text[LT_CACHE_KEY_BYTES];
    lt_arena arena = {0};
    lt_cache_clip record;
    lt_cache_side_info side = {0};
    MDB_val value;
    lt_status status = lt_cache_get(cache, txn, lt_cache_key(text, "clip", clip, digest), &value, NULL);
    if (!status) status = lt_cache_parse_record(&value, text, &arena, &record, &side, NULL);
    lt_arena_finish(&arena);
    return status ? 0 : side.bytes;
}

/* The first transaction takes what makes the clip a clip: from then on its values belong to nobody. */
static lt_status forget(lt_cache *cache, const char *clip, const char *digest, lt_err *err)
{
    static const char *const words[] = {"clip", "progress", "state"};
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    lt_cache_summary s;
    lt_cache_totals totals;
    lt_status status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    LT_TRY(lt_cache_get_summary(cache, txn, clip, digest, &s, err));
    LT_TRY(lt_cache_get_totals(cache, txn, &totals, err));
    totals.clips--;
    totals.complete -= s.state == LT_CACHE_COMPLETE;
    totals.failed -= s.state == LT_CACHE_FAILED;
    totals.chunks -= s.chunks;
    totals.latent_bytes -= s.bytes;
    if (s.state == LT_CACHE_COMPLETE) totals.side_bytes -= side_bytes(cache, txn, clip, digest);
    for (int64_t first = -1, n = 0; n < s.chunks; n++) {
        MDB_val key, value,
            from = lt_cache_key_number(text, "latent", clip, digest, first + 1, LT_CACHE_FIRST_DIGITS);
        char there[LT_CACHE_CLIP_BYTES], its[LT_CACHE_DIGEST_BYTES];
        if (lt_cache_seek(cache, txn, from, false, &key, &value, err) != LT_OK ||
            !lt_cache_key_parse(&key, "latent", there, its, &first) || strcmp(there, clip) ||
            strcmp(its, digest))
            break;
        totals.frames -= LT_MIN((int64_t)s.chunk, s.n_frames - first);
    }
    for (size_t i = 0; i < LT_COUNT(words); i++)
        LT_TRY(delete_key(cache, txn, lt_cache_key(text, words[i], clip, digest), err));
    LT_TRY(lt_cache_set_totals(cache, txn, &totals, err));
    return lt_cache_commit(cache, txn, err);
fail:
    lt_cache_abort(cache, txn);
    return status;
}

/* Values "word/CLIP/DIGEST/...", a thousand a transaction. */
static lt_status remove_values(lt_cache *cache, const char *word, const char *clip, const char *digest,
                               lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    lt_status status = LT_OK;
    for (bool more = true; more && !status;) {
        MDB_txn *txn;
        status = lt_cache_begin(cache, true, &txn, err);
        if (status) return status;
        MDB_val from = lt_cache_key_number(text, word, clip, digest, 0, LT_CACHE_SIDE_DIGITS), key, value;
        size_t prefix = strlen(text) - LT_CACHE_SIDE_DIGITS;
        from.mv_size = prefix;
        int n = 0;
        while (n < KEYS_A_TRANSACTION &&
               (status = lt_cache_seek(cache, txn, from, false, &key, &value, err)) == LT_OK &&
               key.mv_size > prefix && !memcmp(key.mv_data, text, prefix)) {
            status = delete_key(cache, txn, key, err);
            if (status) break;
            n++;
        }
        more = n == KEYS_A_TRANSACTION;
        if (status && status != LT_END) {
            lt_cache_abort(cache, txn);
            return status;
        }
        if (n)
            status = lt_cache_commit(cache, txn, err);
        else
            lt_cache_abort(cache, txn);
        if (status == LT_END) status = LT_OK;
    }
    return status == LT_END ? LT_OK : status;
}

lt_status lt_cache_remove(lt_cache *cache, const char *clip, const char *digest, lt_err *err)
{
    lt_status status = lt_cache_check_name(clip, digest, err);
    if (!status) status = forget(cache, clip, digest, err);
    if (!status) status = remove_values(cache, "latent", clip, digest, err);
    return status ? status : remove_values(cache, "side", clip, digest, err);
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

/* Whether a key is of a clip that the cache does not have. */
static bool is_orphan(lt_cache *cache, MDB_txn *txn, const MDB_val *key)
{
    static const char *const words[] = {"clip", "latent", "side", "progress"};
    char clip[LT_CACHE_CLIP_BYTES], digest[LT_CACHE_DIGEST_BYTES];
    int64_t number;
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
            if (!is_orphan(cache, txn, &key)) continue;
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
