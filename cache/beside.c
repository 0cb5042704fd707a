/* beside.c - values beside the latents: how far a clip's maker has come, and embeddings of texts. */
#include "cache/internal.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* A value is its XXH3-64, then the bytes. */
enum { HASH_BYTES = 8 };

lt_status lt_cache_write_beside(lt_cache *cache, MDB_txn *txn, MDB_val key, const void *bytes, size_t n_bytes,
                                lt_err *err)
{
    MDB_val value = {.mv_size = HASH_BYTES + n_bytes};
    uint64_t hash = XXH3_64bits(bytes, n_bytes);
    int rc = mdb_put(txn, cache->dbi, &key, &value, MDB_RESERVE);
    if (rc) return lt_cache_fail_mdb(cache, rc, err, "writing a value beside the latents");
    memcpy(value.mv_data, &hash, HASH_BYTES);
    memcpy((char *)value.mv_data + HASH_BYTES, bytes, n_bytes);
    return LT_OK;
}

static lt_status put_beside(lt_cache *cache, const char *word, const char *name, const char *digest,
                            const void *bytes, size_t n_bytes, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    lt_status status = lt_cache_check_name(name, digest, err);
    if (status == LT_OK) status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    status = lt_cache_write_beside(cache, txn, lt_cache_key(text, word, name, digest), bytes, n_bytes, err);
    if (status == LT_OK) return lt_cache_commit(cache, txn, err);
    lt_cache_abort(cache, txn);
    return status;
}

static lt_status get_beside(lt_cache *cache, const char *word, const char *name, const char *digest,
                            void **bytes, size_t *n_bytes, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    MDB_val value;
    *bytes = NULL;
    *n_bytes = 0;
    lt_status status = lt_cache_check_name(name, digest, err);
    if (status == LT_OK) status = lt_cache_begin(cache, false, &txn, err);
    if (status) return status;
    status = lt_cache_get(cache, txn, lt_cache_key(text, word, name, digest), &value, err);
    if (status == LT_OK) {
        uint64_t hash = 0;
        *n_bytes = value.mv_size - LT_MIN(value.mv_size, (size_t)HASH_BYTES);
        const char *from = (const char *)value.mv_data + HASH_BYTES;
        memcpy(&hash, value.mv_data, LT_MIN(value.mv_size, (size_t)HASH_BYTES));
        if (value.mv_size < HASH_BYTES || hash != XXH3_64bits(from, *n_bytes))
            status = lt_fail(err, LT_E_FORMAT, "the cache's value %s is damaged", text);
        else if (!(*bytes = malloc(LT_MAX(*n_bytes, (size_t)1))))
            status = lt_fail(err, LT_E_NO_MEMORY, "out of memory for %zu bytes", *n_bytes);
        else
            memcpy(*bytes, from, *n_bytes);
    }
    lt_cache_abort(cache, txn);
    return status;
}

lt_status lt_cache_put_progress(lt_cache *cache, const char *clip, const char *digest, const void *bytes,
                                size_t n_bytes, lt_err *err)
{
    return put_beside(cache, "progress", clip, digest, bytes, n_bytes, err);
}

lt_status lt_cache_get_progress(lt_cache *cache, const char *clip, const char *digest, void **bytes,
                                size_t *n_bytes, lt_err *err)
{
    return get_beside(cache, "progress", clip, digest, bytes, n_bytes, err);
}

/* ---- what a source has seen ------------------------------------------------------------------------------ */

lt_status lt_cache_put_seen(lt_cache *cache, const lt_cache_seen *seen, int n, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    lt_status status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    for (int i = 0; i < n && !status; i++) {
        status = lt_cache_check_name(seen[i].clip, seen[i].key, err);
        if (!status)
            status = lt_cache_write_beside(cache, txn, lt_cache_key(text, "seen", seen[i].clip, seen[i].key),
                                           seen[i].bytes, seen[i].n_bytes, err);
    }
    if (!status) return lt_cache_commit(cache, txn, err);
    lt_cache_abort(cache, txn);
    return status;
}

lt_status lt_cache_get_seen(lt_cache *cache, const char *clip, const char *key, void **bytes, size_t *n_bytes,
                            lt_err *err)
{
    return get_beside(cache, "seen", clip, key, bytes, n_bytes, err);
}

/* ---- embeddings ---------------------------------------------------------------------------------------- */

/* A text's value is the safetensors file alone: Python reads it. Its checksum is in its metadata, the writer's matter. */
lt_status lt_cache_put_text(lt_cache *cache, const char *text_digest, const char *model_digest,
                            const void *bytes, size_t n_bytes, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    lt_status status = lt_cache_check_name(text_digest, model_digest, err);
    if (status == LT_OK) status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    MDB_val key = lt_cache_key(text, "text", text_digest, model_digest);
    MDB_val value = lt_cache_val(bytes, n_bytes);
    int rc = mdb_put(txn, cache->dbi, &key, &value, MDB_NOOVERWRITE);
    if (rc == 0) return lt_cache_commit(cache, txn, err);
    lt_cache_abort(cache, txn);
    return rc == MDB_KEYEXIST ? LT_OK : lt_cache_fail_mdb(cache, rc, err, "writing a text's embeddings");
}

lt_status lt_cache_get_text(lt_cache *cache, const char *text_digest, const char *model_digest, void **bytes,
                            size_t *n_bytes, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    MDB_val value;
    *bytes = NULL;
    *n_bytes = 0;
    lt_status status = lt_cache_check_name(text_digest, model_digest, err);
    if (status == LT_OK) status = lt_cache_begin(cache, false, &txn, err);
    if (status) return status;
    status = lt_cache_get(cache, txn, lt_cache_key(text, "text", text_digest, model_digest), &value, err);
    if (status == LT_OK) {
        /* Tensors of the file are read where they lie: at a multiple of 64. */
        size_t room = lt_round_up(LT_MAX(value.mv_size, (size_t)1), 64);
        if ((*bytes = aligned_alloc(64, room))) {
            *n_bytes = value.mv_size;
            memcpy(*bytes, value.mv_data, value.mv_size);
        } else {
            status = lt_fail(err, LT_E_NO_MEMORY, "out of memory for %zu bytes", value.mv_size);
        }
    }
    lt_cache_abort(cache, txn);
    return status;
}
