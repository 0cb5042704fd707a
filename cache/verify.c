/* verify.c - reading everything, and saying what is wrong with it. */
#include "cache/internal.h"
#include "core/xxh3.h"

#include <stdlib.h>
#include <string.h>

typedef struct verify {
    lt_cache *cache;
    lt_cache_fault fault;
    void *user;
    int64_t n_faults;
    lt_cache_totals seen;
} verify;

__attribute__((format(printf, 2, 3))) static void report(verify *v, const char *format, ...)
{
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    v->n_faults++;
    if (v->fault) v->fault(v->user, text);
}

/* Damage is reported and the work goes on; that the disk cannot be read ends it. */
static lt_status report_damage(verify *v, lt_status status, const lt_err *why, lt_err *err)
{
    if (status != LT_E_FORMAT && status != LT_E_NOT_FOUND) return lt_fail(err, status, "%s", why->text);
    report(v, "%s", why->text);
    return LT_OK;
}

/* ---- chunks -------------------------------------------------------------------------------------------- */

typedef struct chunk_check {
    const lt_cache_summary *clip;
    int64_t bytes;
} chunk_check;

static lt_status check_chunk(void *user, const lt_cache_chunk *chunk, lt_err *err)
{
    chunk_check *check = user;
    const lt_cache_summary *s = check->clip;
    char text[96];
    int64_t n = LT_MIN((int64_t)s->chunk, s->n_frames - chunk->first);
    const int64_t shape[4] = {n, s->channels, s->height, s->width};
    check->bytes = (int64_t)chunk->value_bytes;
    if (chunk->first % s->chunk != 0 || chunk->first >= s->n_frames)
        return lt_fail(err, LT_E_FORMAT, "latent/%s/%s: frame %lld starts no chunk of %d of %lld frames",
                       s->clip, s->digest, (long long)chunk->first, s->chunk, (long long)s->n_frames);
    if (chunk->latent.dtype != s->dtype || memcmp(chunk->latent.shape, shape, sizeof shape) != 0)
        return lt_fail(err, LT_E_FORMAT,
                       "latent/%s/%s/%012lld: latent is %s, the clip's state says %s[%lld,%d,%d,%d]", s->clip,
                       s->digest, (long long)chunk->first,
                       lt_tensor_describe(&chunk->latent, text, sizeof text), lt_dtype_name(s->dtype),
                       (long long)n, s->channels, s->height, s->width);
    if ((chunk->logvar.data != NULL) != s->logvar)
        return lt_fail(err, LT_E_FORMAT, "latent/%s/%s/%012lld: logvar is %s", s->clip, s->digest,
                       (long long)chunk->first, s->logvar ? "missing" : "not expected");
    if (!lt_cache_is_finite(&chunk->latent) || (s->logvar && !lt_cache_is_finite(&chunk->logvar)))
        return lt_fail(err, LT_E_FORMAT, "latent/%s/%s/%012lld: a number is not finite", s->clip, s->digest,
                       (long long)chunk->first);
    return LT_OK;
}

/* All chunks that are there; how many, and their bytes (-1 when one is damaged). In a complete clip, name the
 * missing ones. */
static lt_status verify_chunks(verify *v, const lt_cache_summary *s, int64_t *chunks, int64_t *bytes,
                               lt_err *err)
{
    lt_status status;
    int64_t first = -1, expected = 0;
    *chunks = *bytes = 0;
    while ((status = lt_cache_next_chunk(v->cache, s->clip, s->digest, first, &first, err)) == LT_OK) {
        lt_err why;
        chunk_check check = {.clip = s};
        for (; s->state == LT_CACHE_COMPLETE && expected < first; expected += s->chunk)
            report(v, "latent/%s/%s/%012lld: missing, though the clip is complete", s->clip, s->digest,
                   (long long)expected);
        expected = first - first % s->chunk + s->chunk;
        status = lt_cache_read(v->cache, s->clip, s->digest, first, check_chunk, &check, &why);
        if (status && (status = report_damage(v, status, &why, err)) != LT_OK) return status;
        ++*chunks;
        *bytes = check.bytes && *bytes >= 0 ? *bytes + check.bytes : -1;
        v->seen.frames += LT_MAX((int64_t)0, LT_MIN((int64_t)s->chunk, s->n_frames - first));
    }
    if (status != LT_END) return status;
    for (; s->state == LT_CACHE_COMPLETE && expected < s->n_frames; expected += s->chunk)
        report(v, "latent/%s/%s/%012lld: missing, though the clip is complete", s->clip, s->digest,
               (long long)expected);
    return LT_OK;
}

/* ---- records ------------------------------------------------------------------------------------------- */

static lt_status verify_side(verify *v, MDB_txn *txn, const lt_cache_summary *s,
                             const lt_cache_side_info *side, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    uint64_t hash = 0;
    int64_t bytes = 0;
    for (int64_t i = 0; i < side->values; i++) {
        MDB_val value;
        lt_err why;
        MDB_val key = lt_cache_key_number(text, "side", s->clip, s->digest, i, LT_CACHE_SIDE_DIGITS);
        lt_status status = lt_cache_get(v->cache, txn, key, &value, &why);
        if (status) return report_damage(v, status, &why, err);
        hash = XXH3_64bits_withSeed(value.mv_data, value.mv_size, hash);
        bytes += (int64_t)value.mv_size;
    }
    if (bytes != side->bytes || hash != side->xxh3)
        report(v, "side/%s/%s: the side streams are not those of the record", s->clip, s->digest);
    v->seen.side_bytes += bytes;
    return LT_OK;
}

static lt_status verify_record(verify *v, const lt_cache_summary *s, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_txn *txn;
    MDB_val value;
    lt_arena arena = {0};
    lt_cache_clip record;
    lt_cache_side_info side;
    lt_err why;
    lt_status status = lt_cache_begin(v->cache, false, &txn, err);
    if (status) return status;
    status = lt_cache_get(v->cache, txn, lt_cache_key(text, "clip", s->clip, s->digest), &value, &why);
    if (status == LT_OK) status = lt_cache_parse_record(&value, text, &arena, &record, &side, &why);
    if (status == LT_E_NOT_FOUND && s->state == LT_CACHE_PARTIAL) {
        status = LT_OK;
    } else if (status) {
        status = report_damage(v, status, &why, err);
    } else {
        if (record.state != s->state || strcmp(record.clip, s->clip) || strcmp(record.digest, s->digest))
            report(v, "%s: the record is of another clip or state than state/%s/%s", text, s->clip,
                   s->digest);
        if (record.n_frames != s->n_frames || record.chunk != s->chunk || record.channels != s->channels ||
            record.height != s->height || record.width != s->width || record.dtype != s->dtype)
            report(v, "%s: the record's geometry is not that of state/%s/%s", text, s->clip, s->digest);
        status = verify_side(v, txn, s, &side, err);
    }
    lt_cache_abort(v->cache, txn);
    lt_arena_finish(&arena);
    return status;
}

/* ---- clips --------------------------------------------------------------------------------------------- */

/* Does the state count what is there? A clip that is being written may have grown since its state was read. */
static lt_status verify_counts(verify *v, const lt_cache_summary *s, int64_t chunks, int64_t bytes,
                               lt_err *err)
{
    MDB_txn *txn;
    lt_cache_summary now;
    lt_status status = lt_cache_begin(v->cache, false, &txn, err);
    if (status) return status;
    status = lt_cache_get_summary(v->cache, txn, s->clip, s->digest, &now, err);
    lt_cache_abort(v->cache, txn);
    if (status) return status;
    if (chunks < s->chunks || chunks > now.chunks || (bytes >= 0 && (bytes < s->bytes || bytes > now.bytes)))
        report(v, "state/%s/%s: counts %lld chunks of %lld bytes, there are %lld of %lld", s->clip, s->digest,
               (long long)s->chunks, (long long)s->bytes, (long long)chunks, (long long)bytes);
    if ((s->state == LT_CACHE_COMPLETE) != (s->chunks == s->n_chunks))
        report(v, "state/%s/%s: is %s with %lld of %lld chunks", s->clip, s->digest,
               lt_cache_state_name(s->state), (long long)s->chunks, (long long)s->n_chunks);
    return LT_OK;
}

static lt_status verify_clips(verify *v, lt_err *err)
{
    lt_status status;
    lt_cache_summary s = {0};
    while ((status = lt_cache_next_clip(v->cache, &s, err)) == LT_OK) {
        int64_t chunks, bytes;
        if (s.damaged) {
            report(v, "the cache's value of %s is damaged", s.key);
            continue;
        }
        if ((status = verify_chunks(v, &s, &chunks, &bytes, err)) != LT_OK) return status;
        if ((status = verify_counts(v, &s, chunks, bytes, err)) != LT_OK) return status;
        if ((status = verify_record(v, &s, err)) != LT_OK) return status;
        v->seen.clips++;
        v->seen.complete += s.state == LT_CACHE_COMPLETE;
        v->seen.failed += s.state == LT_CACHE_FAILED;
        v->seen.chunks += chunks;
        v->seen.latent_bytes += bytes;
    }
    return status == LT_END ? LT_OK : status;
}

/* Is this key one that may be here? Values without their clip's state are found by nobody. */
static void verify_key(verify *v, MDB_txn *txn, const MDB_val *key, const MDB_val *value)
{
    static const char *const words[] = {"clip", "latent", "side", "state"};
    char clip[LT_CACHE_CLIP_BYTES], digest[LT_CACHE_DIGEST_BYTES];
    int64_t number;
    if (key->mv_size > 9 && memcmp(key->mv_data, "longtake/", 9) == 0) return;
    bool is_seen = lt_cache_key_parse(key, "seen", clip, digest, NULL);
    if (is_seen || lt_cache_key_parse(key, "progress", clip, digest, NULL)) {
        const void *bytes;
        size_t n;
        bool fine = is_seen ? lt_cache_parse_seen(value, &number, &bytes, &n)
                            : lt_cache_parse_beside(value, &bytes, &n);
        if (!fine)
            report(v, "%.*s is damaged%s", (int)key->mv_size, (char *)key->mv_data,
                   is_seen ? "; it is not used, and `latents gc` takes it out" : "");
        return;
    }
    if (lt_cache_key_parse(key, "text", clip, digest, NULL)) {
        void *bytes;
        lt_err why;
        if (lt_cache_copy_text(v->cache, key, value, &bytes, &why)) report(v, "%s", why.text);
        free(bytes);
        return;
    }
    for (int i = 0; i < 4; i++) {
        lt_cache_summary summary;
        if (!lt_cache_key_parse(key, words[i], clip, digest, i == 1 || i == 2 ? &number : NULL)) continue;
        if (i == 3 || lt_cache_get_summary(v->cache, txn, clip, digest, &summary, NULL) != LT_E_NOT_FOUND)
            return;
        if (i == 2) return; /* side values come before the last chunk */
        report(v, "%.*s: belongs to no clip", (int)key->mv_size, (char *)key->mv_data);
        return;
    }
    report(v, "%.*s: no key of a cache", (int)LT_MIN(key->mv_size, (size_t)511), (char *)key->mv_data);
}

/* Every key, a thousand a transaction. */
static lt_status verify_keys(verify *v, lt_err *err)
{
    char last[512];
    MDB_val from = lt_cache_val("", 1);
    lt_status status = LT_OK;
    for (bool after = false; status == LT_OK; after = true) {
        MDB_txn *txn;
        MDB_val key, value;
        status = lt_cache_begin(v->cache, false, &txn, err);
        if (status) return status;
        for (int i = 0; i < 1000 && status == LT_OK; i++) {
            status = lt_cache_seek(v->cache, txn, from, after || i > 0, &key, &value, err);
            if (status) break;
            verify_key(v, txn, &key, &value);
            from = lt_cache_val(memcpy(last, key.mv_data, LT_MIN(key.mv_size, sizeof last)), key.mv_size);
        }
        lt_cache_abort(v->cache, txn);
    }
    return status == LT_END ? LT_OK : status;
}

lt_status lt_cache_verify(lt_cache *cache, lt_cache_fault fault, void *user, int64_t *n_faults, lt_err *err)
{
    verify v = {.cache = cache, .fault = fault, .user = user};
    lt_cache_stat before, after;
    *n_faults = 0;
    lt_status status = lt_cache_get_stat(cache, &before, err);
    if (status) return status;
    if ((status = verify_clips(&v, err)) == LT_OK) status = verify_keys(&v, err);
    if (status == LT_OK && (status = lt_cache_get_stat(cache, &after, err)) == LT_OK && v.n_faults == 0 &&
        before.last_transaction == after.last_transaction) {
        const lt_cache_totals *t = &v.seen;
        if (t->clips != after.clips || t->complete != after.complete || t->failed != after.failed ||
            t->chunks != after.chunks || t->latent_bytes != after.latent_bytes || t->frames != after.frames ||
            t->side_bytes != after.side_bytes)
            report(&v, "longtake/totals: counts %lld clips, %lld chunks; there are %lld, %lld",
                   (long long)after.clips, (long long)after.chunks, (long long)t->clips,
                   (long long)t->chunks);
    }
    *n_faults = v.n_faults;
    return status;
}
