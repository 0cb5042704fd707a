/* record.c - a stream's description and its latents as the cache keeps them. */
#include "stages/record/record.h"

#include <string.h>

static lt_cache_picture picture_of(const lt_stream *s)
{
    const Lt__Wire__Picture *p = s->picture;
    if (!p) return (lt_cache_picture){.sample_aspect_num = 1, .sample_aspect_den = 1};
    return (lt_cache_picture){(int32_t)p->width,
                              (int32_t)p->height,
                              (int32_t)p->sample_aspect_num,
                              (int32_t)p->sample_aspect_den,
                              p->rotation,
                              (int32_t)p->primaries,
                              (int32_t)p->transfer,
                              (int32_t)p->matrix,
                              (int32_t)p->range};
}

lt_cache_clip lt_record_of_stream(const lt_stream *stream)
{
    return (lt_cache_clip){.clip = stream->name,
                           .digest = stream->digest,
                           .n_frames = (int64_t)stream->n_frames,
                           .chunk = (int32_t)stream->chunk,
                           .dtype = (lt_dtype)(stream->dtype - 1),
                           .channels = (int32_t)stream->channels,
                           .height = (int32_t)stream->height,
                           .width = (int32_t)stream->width,
                           .scaling_factor = stream->scaling_factor,
                           .factor = (int32_t)stream->factor,
                           .source = stream->source,
                           .fingerprint = stream->fingerprint,
                           .caption = stream->caption,
                           .time_base_num = (int32_t)stream->time_base_num,
                           .time_base_den = (int32_t)stream->time_base_den,
                           .pts_delta = stream->n_pts_delta == stream->n_frames ? stream->pts_delta : NULL,
                           .last_duration = stream->last_duration,
                           .picture = picture_of(stream),
                           .numeric_class = stream->numeric_class};
}

/* from [frames,rows,columns] -> to [frames,columns,rows], elements of `size` bytes. */
static void transpose(const char *from, char *to, int64_t frames, int64_t rows, int64_t columns, size_t size)
{
    for (int64_t t = 0; t < frames; t++) {
        for (int64_t r = 0; r < rows; r++) {
            const char *a = from + (size_t)((t * rows + r) * columns) * size;
            char *b = to + (size_t)(t * columns * rows + r) * size;
            for (int64_t c = 0; c < columns; c++, a += size, b += (size_t)rows * size) memcpy(b, a, size);
        }
    }
}

void lt_record_to_stream(const lt_cache_clip *r, const void *from, void *to, int64_t frames)
{
    transpose(from, to, frames, r->channels, (int64_t)r->height * r->width, lt_dtype_bytes(r->dtype));
}

void lt_record_to_cache(const lt_cache_clip *r, const void *from, void *to, int64_t frames)
{
    transpose(from, to, frames, (int64_t)r->height * r->width, r->channels, lt_dtype_bytes(r->dtype));
}
