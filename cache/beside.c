/* beside.c - values beside the latents: how far a clip's maker has come, and embeddings of texts. */
#include "cache/internal.h"
#include "core/xxh3.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A value is its XXH3-64, then the bytes. What a source has seen begins with the time at which it was kept, and its hash is seeded: by
 * that it is told apart from those of earlier builds, which have no time. */
enum { HASH_BYTES = 8, SEEN_SEED = 1 };

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

bool lt_cache_parse_beside(const MDB_val *value, const void **bytes, size_t *n_bytes)
{
    uint64_t hash;
    if (value->mv_size < HASH_BYTES) return false;
    memcpy(&hash, value->mv_data, HASH_BYTES);
    *bytes = (const char *)value->mv_data + HASH_BYTES;
    *n_bytes = value->mv_size - HASH_BYTES;
    return hash == XXH3_64bits(*bytes, *n_bytes);
}

bool lt_cache_parse_seen(const MDB_val *value, int64_t *since_ms, const void **bytes, size_t *n_bytes)
{
    uint64_t hash;
    *since_ms = 0;
    if (lt_cache_parse_beside(value, bytes, n_bytes)) return true;
    if (value->mv_size < HASH_BYTES + sizeof *since_ms) return false;
    memcpy(&hash, value->mv_data, HASH_BYTES);
    if (hash != XXH3_64bits_withSeed(*bytes, *n_bytes, SEEN_SEED)) return false;
    memcpy(since_ms, *bytes, sizeof *since_ms);
    *bytes = (const char *)*bytes + sizeof *since_ms;
    *n_bytes -= sizeof *since_ms;
    return true;
}

/* A copy of what is kept beside the latents. */
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
        const void *from;
        int64_t since_ms = 0;
        bool fine = strcmp(word, "seen") ? lt_cache_parse_beside(&value, &from, n_bytes)
                                         : lt_cache_parse_seen(&value, &since_ms, &from, n_bytes);
        if (!fine)
            status = lt_fail(err, LT_E_FORMAT, "the cache's value %s is damaged", text);
        else if (!strcmp(word, "seen") && !since_ms)
            status = lt_fail(err, LT_E_NOT_FOUND,
                             "%s is an earlier build's, which may have seen it otherwise", text);
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

static lt_status write_seen(lt_cache *cache, MDB_txn *txn, MDB_val key, int64_t since_ms,
                            const lt_cache_seen *seen, lt_err *err)
{
    MDB_val value = {.mv_size = HASH_BYTES + sizeof since_ms + seen->n_bytes};
    int rc = mdb_put(txn, cache->dbi, &key, &value, MDB_RESERVE);
    if (rc) return lt_cache_fail_mdb(cache, rc, err, "writing what a source has seen");
    char *to = (char *)value.mv_data + HASH_BYTES;
    memcpy(to, &since_ms, sizeof since_ms);
    memcpy(to + sizeof since_ms, seen->bytes, seen->n_bytes);
    uint64_t hash = XXH3_64bits_withSeed(to, sizeof since_ms + seen->n_bytes, SEEN_SEED);
    memcpy(value.mv_data, &hash, HASH_BYTES);
    return LT_OK;
}

lt_status lt_cache_put_seen(lt_cache *cache, const lt_cache_seen *seen, int n, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    lt_status status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    for (int i = 0; i < n && !status; i++) {
        status = lt_cache_check_name(seen[i].clip, seen[i].key, err);
        if (!status)
            status = write_seen(cache, txn, lt_cache_key(text, "seen", seen[i].clip, seen[i].key),
                                lt_cache_now_ms(), &seen[i], err);
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

enum { TENSORS_MAX = 8, METADATA_MAX = 7 }; /* of a text's value */

/* Of all tensors, by their names, in whatever order. */
static void checksum(const lt_named_tensor *tensors, int n, char text[24])
{
    uint64_t hash = 0;
    for (int i = 0; i < n; i++)
        hash ^= XXH3_64bits_withSeed(tensors[i].tensor.data, lt_tensor_bytes(&tensors[i].tensor),
                                     XXH3_64bits(tensors[i].name, strlen(tensors[i].name)));
    snprintf(text, 24, "%016llx", (unsigned long long)hash);
}

/* A text's value is the safetensors file alone: Python reads it. Its checksum is in its metadata. */
lt_status lt_cache_put_text(lt_cache *cache, const char *text_digest, const char *model_digest,
                            const lt_named_tensor *tensors, int n_tensors, const lt_metadata *metadata,
                            int n_metadata, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES], hash[24];
    MDB_txn *txn;
    MDB_val value;
    lt_status status = lt_cache_check_name(text_digest, model_digest, err);
    if (status) return status;
    if (n_tensors < 1 || n_tensors > TENSORS_MAX || n_metadata > METADATA_MAX)
        return lt_fail(err, LT_E_INVALID, "%d tensors and %d texts are no embeddings", n_tensors, n_metadata);
    lt_metadata all[METADATA_MAX + 1] = {{"xxh3", hash}};
    if (n_metadata) memcpy(all + 1, metadata, (size_t)n_metadata * sizeof *all);
    checksum(tensors, n_tensors, hash);
    void *bytes = NULL;
    status = lt_safetensors_pack(&bytes, &value.mv_size, tensors, n_tensors, all, 1 + n_metadata, err);
    if (status == LT_OK) status = lt_cache_begin(cache, true, &txn, err);
    if (status == LT_OK) {
        value.mv_data = bytes;
        MDB_val key = lt_cache_key(text, "text", text_digest, model_digest);
        int rc = mdb_put(txn, cache->dbi, &key, &value, MDB_NOOVERWRITE);
        if (rc == 0) {
            status = lt_cache_commit(cache, txn, err);
        } else {
            lt_cache_abort(cache, txn);
            if (rc != MDB_KEYEXIST) status = lt_cache_fail_mdb(cache, rc, err, "writing a text's embeddings");
        }
    }
    free(bytes);
    return status;
}

/* Whether a text's value is one: a safetensors file with numbers that are numbers, and those its checksum was made of. */
static lt_status check_text(const void *bytes, size_t n_bytes, lt_err *err)
{
    lt_named_tensor tensors[TENSORS_MAX];
    char hash[24];
    lt_safetensors *file;
    lt_status status = lt_safetensors_open_memory(&file, bytes, n_bytes, "it", err);
    if (status) return status;
    int n = lt_safetensors_count(file);
    if (n < 1 || n > TENSORS_MAX) status = lt_fail(err, LT_E_FORMAT, "it has %d tensors", n);
    for (int i = 0; i < n && !status; i++) {
        tensors[i].tensor = lt_safetensors_at(file, i, &tensors[i].name);
        if ((uintptr_t)tensors[i].tensor.data % lt_dtype_bytes(tensors[i].tensor.dtype))
            status = lt_fail(err, LT_E_FORMAT, "%s is not aligned", tensors[i].name);
        else if (!lt_cache_is_finite(&tensors[i].tensor))
            status = lt_fail(err, LT_E_FORMAT, "a number of %s is not finite", tensors[i].name);
    }
    const char *expected = lt_safetensors_metadata(file, "xxh3");
    if (!status && expected) checksum(tensors, n, hash);
    if (!status && expected && strcmp(expected, hash))
        status = lt_fail(err, LT_E_FORMAT, "its checksum is wrong");
    lt_safetensors_close(file);
    return status;
}

lt_status lt_cache_copy_text(lt_cache *cache, const MDB_val *key, const MDB_val *value, void **bytes,
                             lt_err *err)
{
    /* Tensors of the file are read where they lie: at a multiple of 64. */
    lt_err why;
    *bytes = aligned_alloc(64, lt_round_up(LT_MAX(value->mv_size, (size_t)1), 64));
    if (!*bytes) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for %zu bytes", value->mv_size);
    memcpy(*bytes, value->mv_data, value->mv_size);
    lt_status status = check_text(*bytes, value->mv_size, &why);
    if (status == LT_OK) return LT_OK;
    free(*bytes);
    *bytes = NULL;
    if (status != LT_E_FORMAT) return lt_fail(err, status, "%s", why.text);
    return lt_fail(err, LT_E_FORMAT, "%.*s is damaged: %s; take it out with `latents rm %s %.*s`",
                   (int)key->mv_size, (char *)key->mv_data, why.text, cache->folder, (int)key->mv_size,
                   (char *)key->mv_data);
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
    MDB_val key = lt_cache_key(text, "text", text_digest, model_digest);
    status = lt_cache_get(cache, txn, key, &value, err);
    if (status == LT_OK) status = lt_cache_copy_text(cache, &key, &value, bytes, err);
    if (status == LT_OK) *n_bytes = value.mv_size;
    lt_cache_abort(cache, txn);
    return status;
}

lt_status lt_cache_remove_text(lt_cache *cache, const char *text_digest, const char *model_digest,
                               lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    lt_status status = lt_cache_check_name(text_digest, model_digest, err);
    if (status == LT_OK) status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    MDB_val key = lt_cache_key(text, "text", text_digest, model_digest);
    int rc = mdb_del(txn, cache->dbi, &key, NULL);
    if (rc == 0) return lt_cache_commit(cache, txn, err);
    lt_cache_abort(cache, txn);
    if (rc != MDB_NOTFOUND) return lt_cache_fail_mdb(cache, rc, err, "removing a text's embeddings");
    return lt_fail(err, LT_E_NOT_FOUND, "the cache %s has no value %s", cache->folder, text);
}
