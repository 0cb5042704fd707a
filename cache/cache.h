/* cache.h - the latent cache: an LMDB environment that holds latents of clips, chunk by chunk, as safetensors
 * files.
 *
 * Keys are text, values are what their first word says:
 *     longtake/format                     "1"
 *     longtake/totals                     JSON: counters over everything, kept in every transaction
 *     state/CLIP/DIGEST                   JSON: geometry, chunks and bytes there, partial | complete | failed, and since when it is complete
 *     clip/CLIP/DIGEST                    JSON: the clip's record, written with its last missing chunk
 *     latent/CLIP/DIGEST/000000000008     a safetensors file: `latent` [T,C,h,w] of the chunk that starts at
 *                                         frame 8, perhaps `logvar`, and strings in its metadata
 *     side/CLIP/DIGEST/000000             bytes of the clip's other streams (sound, subtitles), 4 MiB a value
 *     progress/CLIP/DIGEST                XXH3-64 and bytes: what the maker of an unfinished clip needs to go on
 *     seen/CLIP/KEY                       a clip's description by its source: of a file that has not changed since, it is taken as known
 *     text/TEXT/MODEL                     a safetensors file: embeddings of the text with digest TEXT by an encoder
 *
 * DIGEST stands for everything that can change a latent's bytes and is the caller's to work out. A chunk is one
 * synced transaction: when a put returns, it is on the disk. Several processes may read and write at once; the
 * record of a clip appears in the transaction that adds its last missing chunk, whoever adds it. Readers take only
 * clips that have one and are complete.
 *
 * Threads: a cache may be used by several threads at once. LMDB forbids to open one environment twice in one
 * process, or to use one over a fork. A call takes a transaction and gives it back before it returns. All text given
 * is UTF-8 and borrowed for the call. */
#ifndef LT_CACHE_H
#define LT_CACHE_H

#include "kernels/safetensors.h"

typedef struct lt_cache lt_cache;

enum {
    LT_CACHE_FORMAT = 1,       /* of keys and values; another one is refused */
    LT_CACHE_CLIP_BYTES = 256, /* longest clip name, final 0 included */
    LT_CACHE_DIGEST_BYTES = 65,
    LT_CACHE_SIDE_BYTES = 4 << 20, /* of a side value */
    LT_CACHE_FRAMES_MAX = 1 << 26  /* of a clip; a record that says more is damaged */
};

/* ---- opening ------------------------------------------------------------------------------------------- */

/* Open the cache in `folder` (made, with its parents, when writable and not there). map_bytes: the most it may ever
 * hold, reserved as address space only; 0: 1 TiB, or less where the process may not reserve that much. Slots of
 * readers that died are freed.
 * Errors: E_NOT_FOUND (read only, no cache there), E_PERMISSION (rights, a read-only file system), E_MISMATCH
 * (another format version), E_FORMAT (an LMDB environment that is no cache, or no environment at all),
 * E_UNSUPPORTED (a network file system: LMDB would lose data there), E_NO_SPACE, E_NO_MEMORY, E_IO. */
lt_status lt_cache_open(lt_cache **cache, const char *folder, bool writable, int64_t map_bytes, lt_err *err);
void lt_cache_close(lt_cache *cache); /* takes NULL */

/* ---- clips --------------------------------------------------------------------------------------------- */

typedef enum { LT_CACHE_PARTIAL, LT_CACHE_COMPLETE, LT_CACHE_FAILED } lt_cache_state;

const char *lt_cache_state_name(lt_cache_state state);

/* What the picture was before it was scaled, padded and encoded. Numbers of colour are H.273's. */
typedef struct lt_cache_picture {
    int32_t width, height;
    int32_t sample_aspect_num, sample_aspect_den;
    int32_t rotation; /* degrees clockwise still to be applied by a player */
    int32_t primaries, transfer, matrix, range;
} lt_cache_picture;

/* A clip: where its latents are, their geometry, and what is told about it. NULL text means "". */
typedef struct lt_cache_clip {
    const char *clip;                /* of [A-Za-z0-9._-], 1 .. 255 bytes */
    const char *digest;              /* of [0-9a-z], 1 .. 64 bytes */
    int64_t n_frames;                /* 1 .. LT_CACHE_FRAMES_MAX */
    int32_t chunk;                   /* frames a chunk, > 0; the last may be shorter */
    lt_dtype dtype;                  /* of latents: F32, F16, BF16 */
    int32_t channels, height, width; /* > 0 */
    bool logvar;                     /* every value has one */

    double scaling_factor; /* finite */
    int32_t factor;        /* pixels per latent cell */
    const char *source, *fingerprint, *caption;
    int32_t time_base_num, time_base_den;
    const int64_t *pts_delta; /* first timestamp, then differences; n_frames of them, or NULL */
    int64_t last_duration;
    lt_cache_picture picture;
    const char *model, *weights, *numerics, *numeric_class;
    const char *encoding; /* how it was cut and batched, for people: "tile 512, overlap 0.25" */
    const char *
        made_of; /* digest of the frames that were encoded: the file, which frames, how scaled; "": it is of none, or not known */
    const char *
        side_path; /* put: file with the clip's other streams, stored by whoever completes the clip; NULL: none */

    /* put: how far the clip's maker has come once this chunk is there (see lt_cache_put_progress), in the same transaction;
     * NULL: nothing is said. */
    const void *progress;
    size_t progress_bytes;

    int64_t completed_ms; /* put: when its last chunk came, as in lt_cache_summary; 0: now */

    lt_cache_state state; /* set by lt_cache_get_clip */
    const char *reason;   /* of a failed one */
    int64_t side_bytes;   /* set by lt_cache_get_clip */
} lt_cache_clip;

/* Chunks of a clip: n_frames / chunk, rounded up. */
int64_t lt_cache_n_chunks(const lt_cache_clip *clip);

/* Add the chunk that starts at frame `first` (a multiple of clip->chunk): latent, and logvar where clip->logvar,
 * [T,C,h,w] in clip->dtype with T = min(chunk, n_frames - first). Returns after the commit is on the disk. *added
 * (may be NULL) is false when the chunk was there: then nothing is written.
 * Errors: E_INVALID, E_MISMATCH (this digest's latents have another geometry), E_NO_SPACE (the map or the disk is full),
 * E_IO, E_NO_MEMORY; nothing is changed then, and everything that was there can still be read.
 * Allocates two values' bytes for the time of the call; with the clip's last chunk, lt_cache_record_peak. */
lt_status lt_cache_put(lt_cache *cache, const lt_cache_clip *clip, int64_t first, const void *latent,
                       const void *logvar, bool *added, lt_err *err);

/* Bytes that are allocated while the clip's record is written: it holds all timestamps, ten bytes each where no two steps are alike. */
size_t lt_cache_record_peak(const lt_cache_clip *clip);

/* Record that the clip cannot be completed, and why. A complete clip stays complete; a later put of the last missing
 * chunk completes a failed one. */
lt_status lt_cache_fail(lt_cache *cache, const lt_cache_clip *clip, const char *reason, lt_err *err);

/* ---- beside the latents -------------------------------------------------------------------------------- */

/* What the maker of a clip needs to go on after a crash, over what was there; dropped when the clip is complete. Returns after the
 * commit. Errors as lt_cache_put. */
lt_status lt_cache_put_progress(lt_cache *cache, const char *clip, const char *digest, const void *bytes,
                                size_t n_bytes, lt_err *err);
/* *bytes is the caller's to free. E_NOT_FOUND: there is none; E_FORMAT: it is damaged. */
lt_status lt_cache_get_progress(lt_cache *cache, const char *clip, const char *digest, void **bytes,
                                size_t *n_bytes, lt_err *err);

/* Embeddings of a text: a safetensors file of these tensors (at most 8) with this metadata (at most 7) and their checksum. Digests
 * are of [0-9a-z], 1 .. 64 bytes. What is there stays. E_INVALID, and what lt_cache_put says. */
lt_status lt_cache_put_text(lt_cache *cache, const char *text_digest, const char *model_digest,
                            const lt_named_tensor *tensors, int n_tensors, const lt_metadata *metadata,
                            int n_metadata, lt_err *err);
/* *bytes, aligned to 64, is the caller's to free. E_NOT_FOUND; E_FORMAT when it is damaged (its checksum is checked, where an
 * earlier build has not left it out), naming the command that takes it out. */
lt_status lt_cache_get_text(lt_cache *cache, const char *text_digest, const char *model_digest, void **bytes,
                            size_t *n_bytes, lt_err *err);
/* Take it out. E_NOT_FOUND, E_IO, E_NO_SPACE. */
lt_status lt_cache_remove_text(lt_cache *cache, const char *text_digest, const char *model_digest,
                               lt_err *err);

/* ---- reading ------------------------------------------------------------------------------------------- */

/* Is the chunk there? One of a clip that has no state, which a kill has left of an earlier one, is not: the next put drops it. */
lt_status lt_cache_has(lt_cache *cache, const char *clip, const char *digest, int64_t first, bool *there,
                       lt_err *err);

/* A chunk as it lies in the map: valid inside the callback only. */
typedef struct lt_cache_chunk {
    int64_t first;
    lt_tensor latent; /* [T,C,h,w], aligned to 16 bytes */
    lt_tensor logvar; /* or LT_NONE */
    size_t value_bytes;
} lt_cache_chunk;

/* Called in a read transaction: use or copy the chunk, and do not call the cache. Its status is the read's. */
typedef lt_status (*lt_cache_use)(void *user, const lt_cache_chunk *chunk, lt_err *err);

/* Give the chunk that starts at `first` to `use`. E_NOT_FOUND; E_FORMAT when the value is damaged (its checksum is
 * checked), naming the key. */
lt_status lt_cache_read(lt_cache *cache, const char *clip, const char *digest, int64_t first,
                        lt_cache_use use, void *user, lt_err *err);

/* The smallest first frame above `after` (-1: the first of all) of a chunk that is there. LT_END after the last. */
lt_status lt_cache_next_chunk(lt_cache *cache, const char *clip, const char *digest, int64_t after,
                              int64_t *first, lt_err *err);

/* The clip's record; text and arrays in `arena`. E_NOT_FOUND while it has none. */
lt_status lt_cache_get_clip(lt_cache *cache, const char *clip, const char *digest, lt_arena *arena,
                            lt_cache_clip *out, lt_err *err);

/* A clip in short, whether complete or not. */
typedef struct lt_cache_summary {
    char clip[LT_CACHE_CLIP_BYTES], digest[LT_CACHE_DIGEST_BYTES];
    lt_cache_state state;
    int64_t n_frames, n_chunks; /* when complete */
    int64_t chunks, bytes;      /* that are there */
    int32_t chunk, channels, height, width;
    lt_dtype dtype;
    bool logvar;
    int64_t
        completed_ms; /* by the clock, milliseconds since 1970; 0: it is not, or by a build that did not note it */
    bool
        damaged; /* its state cannot be read, or its key is none: then only `key` is told, and the names where it has some */
    char key
        [512]; /* "state/CLIP/DIGEST" as it lies in the cache, a 0 behind it; set by lt_cache_next_clip, to go on from */
    size_t key_bytes;
} lt_cache_summary;

/* "2026-11-23 03:41:05" of such a time, UTC. */
void lt_cache_time_text(int64_t ms, char text[32]);

/* The clip after the one that *summary was filled with, in the order of keys (zeroed: the first). LT_END after the last. Damage of one
 * is no failure: it is partial, and summary->damaged. */
lt_status lt_cache_next_clip(lt_cache *cache, lt_cache_summary *summary, lt_err *err);

/* One clip in short. E_NOT_FOUND. */
lt_status lt_cache_look(lt_cache *cache, const char *clip, const char *digest, lt_cache_summary *summary,
                        lt_err *err);

/* Write the clip's side file beside `path` and rename it: what was there is kept by those who have it open, and after an error.
 * E_NOT_FOUND where the clip has no record or no side streams; E_FORMAT when it is damaged. */
lt_status lt_cache_side(lt_cache *cache, const char *clip, const char *digest, const char *path, lt_err *err);

/* ---- the whole ----------------------------------------------------------------------------------------- */

typedef struct lt_cache_stat {
    int64_t clips, complete, failed; /* clips: of any state */
    int64_t chunks, frames;
    int64_t latent_bytes, side_bytes; /* of values */
    int64_t entries;                  /* keys */
    int64_t file_bytes, map_bytes;    /* of the environment */
    int64_t last_transaction;
    int32_t readers, max_readers, page_bytes, depth;
} lt_cache_stat;

/* From counters; takes as long on a large cache as on an empty one. */
lt_status lt_cache_get_stat(lt_cache *cache, lt_cache_stat *stat, lt_err *err);

/* Called for every fault found; `what` names the key and says what is wrong. */
typedef void (*lt_cache_fault)(void *user, const char *what);

/* Read everything, embeddings of texts, progress and what sources have seen too: values parse, shapes and checksums agree, numbers are finite, complete clips have all their chunks
 * and side values, counters are right. Faults go to `fault`, their number to *n_faults; the status is an error only
 * when reading could not go on. */
lt_status lt_cache_verify(lt_cache *cache, lt_cache_fault fault, void *user, int64_t *n_faults, lt_err *err);

/* A whole complete clip as one safetensors file at `path`: `latent` [T,C,h,w] (and `logvar`), the record's fields and a checksum of
 * the numbers (xxh3) in the metadata. Holds one chunk at a time. Written beside the path, fsynced, renamed. E_NOT_FOUND when it is not
 * complete. */
lt_status lt_cache_export(lt_cache *cache, const char *clip, const char *digest, const char *path,
                          lt_err *err);

/* ---- what a source has seen ------------------------------------------------------------------------------ */

/* A clip's description by its source, of the source's making, under a key (of [0-9a-z], 1 .. 64) that changes with the file
 * and with how it is read. */
typedef struct lt_cache_seen {
    const char *clip, *key;
    const void *bytes;
    size_t n_bytes;
} lt_cache_seen;

/* Keep n of them, in one transaction, and the time with them. E_NO_SPACE, E_IO, E_INVALID. */
lt_status lt_cache_put_seen(lt_cache *cache, const lt_cache_seen *seen, int n, lt_err *err);
/* *bytes is freed by free(). E_NOT_FOUND; E_FORMAT when it is damaged. */
lt_status lt_cache_get_seen(lt_cache *cache, const char *clip, const char *key, void **bytes, size_t *n_bytes,
                            lt_err *err);

/* ---- changing ------------------------------------------------------------------------------------------ */

/* Take a clip out, whatever its state, and also where that cannot be read: a thousand values a transaction, the record with the first,
 * the state with the last. A kill in between leaves a partial clip. E_NOT_FOUND, E_IO, E_NO_SPACE. */
lt_status lt_cache_remove(lt_cache *cache, const char *clip, const char *digest, lt_err *err);

/* Take out what verify and lt_cache_next_clip name "state/WHAT", be it damaged, or no clip's name at all: then it is that value alone.
 * Errors as lt_cache_remove. */
lt_status lt_cache_remove_exactly(lt_cache *cache, const char *what, lt_err *err);

/* Give a clip that has a record another caption; its latents do not depend on it. *changed: it had another. E_NOT_FOUND. */
lt_status lt_cache_set_caption(lt_cache *cache, const char *clip, const char *digest, const char *caption,
                               bool *changed, lt_err *err);

/* Remove values that belong to no clip, and of what sources have seen all but the newest of each clip that is there: who wants another
 * looks at the file again. *n_removed of them. Not while somebody writes: a clip's side streams come
 * before it does. */
lt_status lt_cache_remove_orphans(lt_cache *cache, int64_t *n_removed, lt_err *err);

/* Copy a complete clip into another cache, with the time it was completed: what is there is not copied again, every chunk's
 * checksum is checked. *n_added:
 * chunks. E_NOT_FOUND when it is not complete; E_MISMATCH when the other cache has it with another geometry. */
lt_status lt_cache_copy(lt_cache *from, lt_cache *to, const char *clip, const char *digest, int64_t *n_added,
                        lt_err *err);

/* What an import takes for what a file does not say. */
typedef struct lt_cache_unsaid {
    const char *tensor;    /* name of the tensor that holds latents; "": it must be `latent` */
    double fps;            /* frames a second, 0.001 to 1000 */
    double scaling_factor; /* above 0 */
} lt_cache_unsaid;

#define LT_CACHE_SCALING_FACTOR 0.18215 /* Stable Diffusion's, and SVD's */

typedef struct lt_cache_imported {
    lt_cache_summary clip;
    int64_t n_added; /* chunks; 0: the clip was there */
    double scaling_factor;
    bool says_scaling; /* the file says it */
} lt_cache_imported;

/* Put a safetensors file into the cache as a clip: its tensor `latent`, or where there is none the one of unsaid->tensor, [T,C,h,w] or
 * [C,h,w], f32, f16 or bf16, unscaled, perhaps `logvar`. What lt_cache_export has put into its metadata is taken back (name, caption,
 * scaling_factor, timestamps, picture, ...); without it the clip is called after the file, with the frames a second and the
 * scaling_factor of `unsaid`. Its digest and how it was made are taken back where the numbers are those of the export, by its checksum;
 * others have a digest of their own. Texts are made clean: UTF-8, lines that end in \n, no control characters; a source of more than
 * 4096 bytes is none. E_INVALID: of `unsaid`. E_FORMAT (also a scaling_factor that is not finite and above 0, timestamps that do not
 * rise, a caption above 1 MiB), E_NUMERIC, E_MISMATCH (also where these numbers are there with another scaling_factor), and what
 * lt_cache_put says. */
lt_status lt_cache_import(lt_cache *cache, const char *path, const lt_cache_unsaid *unsaid,
                          lt_cache_imported *imported, lt_err *err);

#endif
