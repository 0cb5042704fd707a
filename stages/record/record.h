/* record.h - what the cache is told of a clip, from the stream that the clip travels as, and how latents lie in either. Shared by the
 * stages that write or read latents. */
#ifndef LT_RECORD_H
#define LT_RECORD_H

#include "cache/cache.h"
#include "stages/runtime/stage.h"

/* The record of a stream of latents [T,C,h,w]: where it lies, its geometry, timestamps, picture, texts, how it was made, and whether
 * it has log-variances. Text and arrays are the stream's, which must outlive the record. Timestamps are left out where the stream has
 * not one for every frame. A chunk put with this record has the same bytes on whichever host, in whichever stage. */
lt_cache_clip lt_record_of_stream(const lt_stream *stream);

/* The path of the stream's side file, for record.side_path; NULL: it has none, or one that cannot be read here (it was made on another
 * host), which is said once: *missed is then true. */
const char *lt_record_side(const lt_stream *stream, bool *missed);

/* What a record says of how latents were made (model, weights, numerics, encoding, made_of, logvar) into stream->latents, all of it in
 * `arena`. E_NO_MEMORY. */
lt_status lt_record_tell(const lt_cache_clip *record, lt_stream *stream, lt_arena *arena, lt_err *err);

/* Bytes of a unit of latents whose values take `values` bytes, with as many log-variances behind them or without. */
size_t lt_record_unit_bytes(size_t values, bool logvar);

/* Put frames first .. first+n-1 into a payload, from the cache's layout: a run of latents and, where the record has logvar, one of
 * log-variances (else not looked at). E_INTERNAL where they do not fit. */
lt_status lt_record_give(const lt_cache_clip *record, int64_t first, int64_t n, const void *latent,
                         const void *logvar, lt_payload *output, lt_err *err);

/* Latents of `frames` frames in the record's dtype and sizes, from the cache's layout [T,C,h,w] to a stream's [T,h,w,C], and back. The
 * two must not overlap. */
void lt_record_to_stream(const lt_cache_clip *record, const void *from, void *to, int64_t frames);
void lt_record_to_cache(const lt_cache_clip *record, const void *from, void *to, int64_t frames);

#endif
