/* read.c - reading: one transaction a call. */
#include "cache/internal.h"
#include "core/xxh3.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

lt_status lt_cache_get(lt_cache *cache, MDB_txn *txn, MDB_val key, MDB_val *value, lt_err *err)
{
    int rc = mdb_get(txn, cache->dbi, &key, value);
    if (rc == 0) return LT_OK;
    if (rc == MDB_NOTFOUND)
        return lt_fail(err, LT_E_NOT_FOUND, "the cache %s has no value %.*s", cache->folder, (int)key.mv_size,
                       (char *)key.mv_data);
    return lt_cache_fail_mdb(cache, rc, err, "reading the cache");
}

/* Check the names and begin a read transaction. */
static lt_status begin_read(lt_cache *cache, const char *clip, const char *digest, MDB_txn **txn, lt_err *err)
{
    lt_status status = lt_cache_check_name(clip, digest, err);
    return status ? status : lt_cache_begin(cache, false, txn, err);
}

lt_status lt_cache_knows(lt_cache *cache, MDB_txn *txn, const char *clip, const char *digest, bool *known,
                         lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_val key = lt_cache_key(text, "state", clip, digest), value;
    int rc = mdb_get(txn, cache->dbi, &key, &value);
    *known = rc == 0;
    return rc && rc != MDB_NOTFOUND ? lt_cache_fail_mdb(cache, rc, err, "looking for a clip") : LT_OK;
}

/* The value of a chunk, where the clip is known: what was left of one by a kill belongs to nobody. */
static lt_status get_chunk(lt_cache *cache, MDB_txn *txn, char text[LT_CACHE_KEY_BYTES], const char *clip,
                           const char *digest, int64_t first, MDB_val *value, lt_err *err)
{
    bool known;
    lt_status status = lt_cache_knows(cache, txn, clip, digest, &known, err);
    if (status) return status;
    if (!known)
        return lt_fail(err, LT_E_NOT_FOUND, "the cache %s has no clip %s/%s", cache->folder, clip, digest);
    MDB_val key = lt_cache_key_number(text, "latent", clip, digest, first, LT_CACHE_FIRST_DIGITS);
    return lt_cache_get(cache, txn, key, value, err);
}

lt_status lt_cache_has(lt_cache *cache, const char *clip, const char *digest, int64_t first, bool *there,
                       lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    MDB_val value;
    lt_err why;
    *there = false;
    lt_status status = begin_read(cache, clip, digest, &txn, err);
    if (status) return status;
    status = get_chunk(cache, txn, text, clip, digest, first, &value, &why);
    lt_cache_abort(cache, txn);
    *there = status == LT_OK;
    return status && status != LT_E_NOT_FOUND ? lt_fail(err, status, "%s", why.text) : LT_OK;
}

lt_status lt_cache_read(lt_cache *cache, const char *clip, const char *digest, int64_t first,
                        lt_cache_use use, void *user, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    MDB_val value;
    lt_status status = begin_read(cache, clip, digest, &txn, err);
    if (status) return status;
    status = get_chunk(cache, txn, text, clip, digest, first, &value, err);
    if (status == LT_OK) status = lt_cache_unpack(&value, text, first, use, user, err);
    lt_cache_abort(cache, txn);
    return status;
}

lt_status lt_cache_seek(lt_cache *cache, MDB_txn *txn, MDB_val from, bool after, MDB_val *key, MDB_val *value,
                        lt_err *err)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, cache->dbi, &cursor);
    if (rc) return lt_cache_fail_mdb(cache, rc, err, "reading the cache");
    *key = from;
    rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
    if (rc == 0 && after && key->mv_size == from.mv_size &&
        memcmp(key->mv_data, from.mv_data, from.mv_size) == 0)
        rc = mdb_cursor_get(cursor, key, value, MDB_NEXT);
    mdb_cursor_close(cursor);
    if (rc == MDB_NOTFOUND) return LT_END;
    return rc ? lt_cache_fail_mdb(cache, rc, err, "reading the cache") : LT_OK;
}

lt_status lt_cache_next_chunk(lt_cache *cache, const char *clip, const char *digest, int64_t after,
                              int64_t *first, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES], found_clip[LT_CACHE_CLIP_BYTES], found_digest[LT_CACHE_DIGEST_BYTES];
    MDB_txn *txn;
    MDB_val key, value;
    bool known;
    lt_status status = begin_read(cache, clip, digest, &txn, err);
    if (status) return status;
    MDB_val from = lt_cache_key_number(text, "latent", clip, digest, LT_MAX(after + 1, (int64_t)0),
                                       LT_CACHE_FIRST_DIGITS);
    status = lt_cache_knows(cache, txn, clip, digest, &known, err);
    if (!status) status = known ? lt_cache_seek(cache, txn, from, false, &key, &value, err) : LT_END;
    if (status == LT_OK && (!lt_cache_key_parse(&key, "latent", found_clip, found_digest, first) ||
                            strcmp(found_clip, clip) || strcmp(found_digest, digest)))
        status = LT_END;
    lt_cache_abort(cache, txn);
    return status;
}

/* The record, and what it says of the side streams. */
static lt_status get_record(lt_cache *cache, const char *clip, const char *digest, lt_arena *arena,
                            lt_cache_clip *out, lt_cache_side_info *side, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    MDB_val value;
    lt_status status = begin_read(cache, clip, digest, &txn, err);
    if (status) return status;
    status = lt_cache_get(cache, txn, lt_cache_key(text, "clip", clip, digest), &value, err);
    if (status == LT_OK) status = lt_cache_parse_record(&value, text, arena, out, side, err);
    lt_cache_abort(cache, txn);
    return status;
}

lt_status lt_cache_get_clip(lt_cache *cache, const char *clip, const char *digest, lt_arena *arena,
                            lt_cache_clip *out, lt_err *err)
{
    lt_cache_side_info side;
    return get_record(cache, clip, digest, arena, out, &side, err);
}

lt_status lt_cache_look(lt_cache *cache, const char *clip, const char *digest, lt_cache_summary *summary,
                        lt_err *err)
{
    MDB_txn *txn;
    lt_status status = begin_read(cache, clip, digest, &txn, err);
    if (status) return status;
    status = lt_cache_get_summary(cache, txn, clip, digest, summary, err);
    lt_cache_abort(cache, txn);
    return status;
}

lt_status lt_cache_next_clip(lt_cache *cache, lt_cache_summary *summary, lt_err *err)
{
    static const char prefix[] = "state/";
    MDB_txn *txn;
    MDB_val key, value;
    bool start = summary->key_bytes == 0;
    lt_status status = lt_cache_begin(cache, false, &txn, err);
    if (status) return status;
    MDB_val from = start ? lt_cache_val(prefix, sizeof prefix - 1)
                         : lt_cache_val(summary->key, LT_MIN(summary->key_bytes, sizeof summary->key - 1));
    status = lt_cache_seek(cache, txn, from, !start, &key, &value, err);
    if (status == LT_OK &&
        (key.mv_size < sizeof prefix - 1 || memcmp(key.mv_data, prefix, sizeof prefix - 1) != 0))
        status = LT_END;
    if (status == LT_OK) {
        bool damaged = lt_cache_parse_summary(&key, &value, summary, NULL) != LT_OK;
        if (damaged) summary->state = LT_CACHE_PARTIAL, summary->damaged = true;
        summary->key_bytes = LT_MIN(key.mv_size, sizeof summary->key - 1); /* LMDB's are no longer */
        memcpy(summary->key, key.mv_data, summary->key_bytes);
    }
    lt_cache_abort(cache, txn);
    return status;
}

/* ---- side streams -------------------------------------------------------------------------------------- */

/* Append side value `index` to the file, and to the running checksum. */
static lt_status copy_side_value(lt_cache *cache, const char *clip, const char *digest, int64_t index,
                                 FILE *file, uint64_t *hash, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    MDB_val value;
    lt_status status = lt_cache_begin(cache, false, &txn, err);
    if (status) return status;
    MDB_val key = lt_cache_key_number(text, "side", clip, digest, index, LT_CACHE_SIDE_DIGITS);
    status = lt_cache_get(cache, txn, key, &value, err);
    if (status == LT_OK && fwrite(value.mv_data, 1, value.mv_size, file) != value.mv_size)
        status = lt_fail_errno(err, errno, "cannot write the side streams of clip %s", clip);
    else if (status == LT_OK)
        *hash = XXH3_64bits_withSeed(value.mv_data, value.mv_size, *hash);
    lt_cache_abort(cache, txn);
    return status;
}

static lt_status copy_side(lt_cache *cache, const char *clip, const char *digest,
                           const lt_cache_side_info *side, FILE *file, lt_err *err)
{
    uint64_t hash = 0;
    for (int64_t i = 0; i < side->values; i++) {
        lt_status status = copy_side_value(cache, clip, digest, i, file, &hash, err);
        if (status) return status;
    }
    if (hash == side->xxh3) return LT_OK;
    return lt_fail(err, LT_E_FORMAT, "the side streams of clip %s are damaged in the cache %s", clip,
                   cache->folder);
}

/* In one step: somebody may be reading the file that an earlier call made. */
static lt_status write_side(lt_cache *cache, const char *clip, const char *digest,
                            const lt_cache_side_info *side, const char *path, lt_arena *arena, lt_err *err)
{
    const char *beside = lt_arena_printf(arena, "%s.part", path);
    if (!beside) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    FILE *file = fopen(beside, "wbe");
    if (!file) return lt_fail_errno(err, errno, "cannot write %s", path);
    lt_status status = copy_side(cache, clip, digest, side, file, err);
    int closed = fclose(file);
    if (!status && (closed != 0 || rename(beside, path) != 0))
        status = lt_fail_errno(err, errno, "cannot write %s", path);
    if (status) unlink(beside);
    return status;
}

lt_status lt_cache_side(lt_cache *cache, const char *clip, const char *digest, const char *path, lt_err *err)
{
    lt_arena arena = {0};
    lt_cache_clip record;
    lt_cache_side_info side;
    lt_status status = get_record(cache, clip, digest, &arena, &record, &side, err);
    if (!status && side.values == 0)
        status = lt_fail(err, LT_E_NOT_FOUND, "clip %s has no side streams", clip);
    if (!status) status = write_side(cache, clip, digest, &side, path, &arena, err);
    lt_arena_finish(&arena);
    return status;
}

/* ---- statistics ---------------------------------------------------------------------------------------- */

/* mdb_reader_list gives a line of headings, then a line a reader; or one line in brackets when there is none. */
static int count_reader(const char *line, void *user)
{
    int *n = user;
    if (line[0] != '(' && !strstr(line, "pid")) (*n)++;
    return 0;
}

lt_status lt_cache_get_stat(lt_cache *cache, lt_cache_stat *out, lt_err *err)
{
    MDB_txn *txn;
    MDB_stat about;
    MDB_envinfo info;
    lt_cache_totals totals;
    int readers = 0;
    *out = (lt_cache_stat){0};
    lt_status status = lt_cache_begin(cache, false, &txn, err);
    if (status) return status;
    status = lt_cache_get_totals(cache, txn, &totals, err);
    mdb_stat(txn, cache->dbi, &about);
    lt_cache_abort(cache, txn);
    if (status) return status;
    mdb_env_info(cache->env, &info);
    mdb_reader_list(cache->env, count_reader, &readers);
    mdb_filehandle_t fd;
    struct stat file;
    if (mdb_env_get_fd(cache->env, &fd) != 0 || fstat(fd, &file) != 0)
        return lt_fail_errno(err, errno, "cannot look at %s/data.mdb", cache->folder);
    *out = (lt_cache_stat){.clips = totals.clips,
                           .complete = totals.complete,
                           .failed = totals.failed,
                           .chunks = totals.chunks,
                           .frames = totals.frames,
                           .latent_bytes = totals.latent_bytes,
                           .side_bytes = totals.side_bytes,
                           .entries = (int64_t)about.ms_entries,
                           .file_bytes = file.st_size,
                           .map_bytes = (int64_t)info.me_mapsize,
                           .last_transaction = (int64_t)info.me_last_txnid,
                           .readers = readers,
                           .max_readers = (int32_t)info.me_maxreaders,
                           .page_bytes = (int32_t)about.ms_psize,
                           .depth = (int32_t)about.ms_depth};
    return LT_OK;
}
