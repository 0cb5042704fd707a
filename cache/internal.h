/* internal.h - what the files of the cache share. */
#ifndef LT_CACHE_INTERNAL_H
#define LT_CACHE_INTERNAL_H

#include "cache/cache.h"

#include <jansson.h>
#include <lmdb.h>
#include <pthread.h>

struct lt_cache {
    MDB_env *env;
    MDB_dbi dbi;
    pthread_rwlock_t
        map_lock; /* held shared by every transaction: the map may move only when there is none */
    bool map_lock_made, writable;
    char *folder;
};

/* ---- env.c: transactions ---- */

/* Begin a transaction (the map is enlarged first when another process grew it); end it with lt_cache_commit or
 * lt_cache_abort. */
lt_status lt_cache_begin(lt_cache *cache, bool write, MDB_txn **txn, lt_err *err);
lt_status lt_cache_commit(lt_cache *cache, MDB_txn *txn, lt_err *err);
void lt_cache_abort(lt_cache *cache, MDB_txn *txn); /* NULL: nothing */

/* The sentence for LMDB's (or the system's) error `rc` while doing `what`. */
lt_status lt_cache_fail_mdb(const lt_cache *cache, int rc, lt_err *err, const char *what);

/* ---- read.c: looking ---- */

/* E_NOT_FOUND names the key. */
lt_status lt_cache_get(lt_cache *cache, MDB_txn *txn, MDB_val key, MDB_val *value, lt_err *err);
/* The first key at or after `from` (with `after`: strictly after it) and its value. LT_END at the end. */
lt_status lt_cache_seek(lt_cache *cache, MDB_txn *txn, MDB_val from, bool after, MDB_val *key, MDB_val *value,
                        lt_err *err);

/* Whether the clip has a state. Values without one are what a kill has left of a clip: nobody's. */
lt_status lt_cache_knows(lt_cache *cache, MDB_txn *txn, const char *clip, const char *digest, bool *known,
                         lt_err *err);

/* ---- edit.c ---- */

/* Before a clip's first chunk is put: take out chunks that a kill has left of one that was called so. Nothing where the clip has a
 * state. */
lt_status lt_cache_drop_rest(lt_cache *cache, const char *clip, const char *digest, lt_err *err);

/* ---- beside.c ---- */

/* Write bytes with their checksum, over what is there. */
lt_status lt_cache_write_beside(lt_cache *cache, MDB_txn *txn, MDB_val key, const void *bytes, size_t n_bytes,
                                lt_err *err);

/* What such a value holds, where it lies; false: it is damaged. Of what a source has seen also since when it is kept, 0: not known. */
bool lt_cache_parse_beside(const MDB_val *value, const void **bytes, size_t *n_bytes);
bool lt_cache_parse_seen(const MDB_val *value, int64_t *since_ms, const void **bytes, size_t *n_bytes);

/* A text's value, checked, as a copy that is aligned to 64 and the caller's to free. E_FORMAT says what is wrong, and what to type. */
lt_status lt_cache_copy_text(lt_cache *cache, const MDB_val *key, const MDB_val *value, void **bytes,
                             lt_err *err);

/* ---- key.c: keys ---- */

enum { LT_CACHE_KEY_BYTES = 400 }; /* longest key with its final 0; LMDB's own limit is 511 */

/* Is the name of a clip or a digest one that may stand in a key? E_INVALID says why not. */
lt_status lt_cache_check_name(const char *clip, const char *digest, lt_err *err);
/* "word/CLIP/DIGEST" into text; "word/CLIP/DIGEST/NUMBER" padded to `digits`. */
MDB_val lt_cache_key(char text[LT_CACHE_KEY_BYTES], const char *word, const char *clip, const char *digest);
MDB_val lt_cache_key_number(char text[LT_CACHE_KEY_BYTES], const char *word, const char *clip,
                            const char *digest, int64_t number, int digits);
/* Take "word/CLIP/DIGEST[/NUMBER]" apart. False when the key is none of that word. number may be NULL: there is none then. */
bool lt_cache_key_parse(const MDB_val *key, const char *word, char clip[LT_CACHE_CLIP_BYTES],
                        char digest[LT_CACHE_DIGEST_BYTES], int64_t *number);

enum { LT_CACHE_FIRST_DIGITS = 12, LT_CACHE_SIDE_DIGITS = 6 };

/* ---- record.c: JSON values ---- */

typedef struct lt_cache_totals {
    int64_t clips, complete, failed, chunks, frames, latent_bytes, side_bytes;
} lt_cache_totals;

typedef struct lt_cache_side_info {
    int64_t bytes, values;
    uint64_t xxh3;
} lt_cache_side_info;

/* Read; where there is none, *totals is zero, and the summary E_NOT_FOUND. */
lt_status lt_cache_get_totals(lt_cache *cache, MDB_txn *txn, lt_cache_totals *totals, lt_err *err);
lt_status lt_cache_get_summary(lt_cache *cache, MDB_txn *txn, const char *clip, const char *digest,
                               lt_cache_summary *summary, lt_err *err);
lt_status lt_cache_parse_summary(const MDB_val *key, const MDB_val *value, lt_cache_summary *summary,
                                 lt_err *err);
lt_status lt_cache_set_totals(lt_cache *cache, MDB_txn *txn, const lt_cache_totals *totals, lt_err *err);
lt_status lt_cache_set_summary(lt_cache *cache, MDB_txn *txn, const lt_cache_summary *summary, lt_err *err);

/* By the clock, since 1970. */
int64_t lt_cache_now_ms(void);

/* A copy (malloc'd) that is UTF-8: a path or caption that is not must not lose the record; its bytes above 127
 * become '?'. NULL gives "". */
char *lt_cache_clean_text(const char *text);
/* The record as JSON text (malloc'd), and back. NULL: out of memory, or a number that JSON has not. */
char *lt_cache_record_text(const lt_cache_clip *clip, const lt_cache_side_info *side);
lt_status lt_cache_parse_record(const MDB_val *value, const char *name, lt_arena *arena, lt_cache_clip *out,
                                lt_cache_side_info *side, lt_err *err);

/* ---- value.c: chunks as safetensors ---- */

/* Frames of the chunk that starts at `first`. */
int64_t lt_cache_chunk_frames(const lt_cache_clip *clip, int64_t first);
lt_status lt_cache_pack(const lt_cache_clip *clip, int64_t first, const void *latent, const void *logvar,
                        void **bytes, size_t *n_bytes, lt_err *err);
/* XXH3-64 of latent's bytes, then, seeded by it, of logvar's, in hex: a value's and an export's `xxh3`. */
void lt_cache_checksum(const lt_tensor *latent, const lt_tensor *logvar, char text[24]);
/* Parse a value and give its chunk to `use`. `key` stands in sentences. */
lt_status lt_cache_unpack(const MDB_val *value, const char *key, int64_t first, lt_cache_use use, void *user,
                          lt_err *err);
/* Is every number of a float tensor finite? */
bool lt_cache_is_finite(const lt_tensor *tensor);
/* A number in as few digits as give it back. */
void lt_cache_format_double(double value, char *text, size_t text_bytes);

static inline MDB_val lt_cache_val(const char *text, size_t n_bytes)
{
    return (MDB_val){.mv_size = n_bytes, .mv_data = (void *)text};
}

#endif
