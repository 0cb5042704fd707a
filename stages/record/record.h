/* record.h - what the cache is told of a clip, from the stream that the clip travels as, and how latents lie in either. Shared by the
 * stages that write or read latents. */
#ifndef LT_RECORD_H
#define LT_RECORD_H

#include "cache/cache.h"
#include "proto/wire.h"

/* The record of a stream of latents [T,C,h,w]: where it lies, its geometry, timestamps, picture and texts. Text and arrays are the
 * stream's, which must outlive the record. What a stream does not say (model, weights, numerics, encoding, logvar) is left out for
 * the caller to add. Timestamps are left out where the stream has not one for every frame. */
lt_cache_clip lt_record_of_stream(const lt_stream *stream);

/* Latents of `frames` frames in the record's dtype and sizes, from the cache's layout [T,C,h,w] to a stream's [T,h,w,C], and back. The
 * two must not overlap. */
void lt_record_to_stream(const lt_cache_clip *record, const void *from, void *to, int64_t frames);
void lt_record_to_cache(const lt_cache_clip *record, const void *from, void *to, int64_t frames);

#endif
