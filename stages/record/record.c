/* record.c - a stream's description and its latents as the cache keeps them. */
#include "stages/record/record.h"

#include <string.h>
#include <unistd.h>

enum { TOLD_MAX = 256 }; /* bytes of a text about latents that a stream takes */

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
    static const Lt__Wire__Latents unknown = LT__WIRE__LATENTS__INIT;
    const Lt__Wire__Latents *made = stream->latents ? stream->latents : &unknown;
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
                           .numeric_class = stream->numeric_class,
                           .logvar = made->logvar,
                           .model = made->model,
                           .weights = made->weights,
                           .numerics = made->numerics,
                           .encoding = made->encoding,
                           .made_of = made->made_of};
}

const char *lt_record_side(const lt_stream *stream, bool *missed)
{
    const char *path = stream->side_path;
    if (!path || !*path) return NULL;
    if (access(path, R_OK) == 0) return path;
    if (!*missed)
        lt_log(LT_LOG_WARN,
               "clip %s: %s is not here; the cache keeps the clip without its sound and subtitles",
               stream->name, path);
    *missed = true;
    return NULL;
}

static char *told(const char *text, lt_arena *arena)
{
    return lt_arena_strdup(arena, text && lt_text_is_clean(text, TOLD_MAX) ? text : "");
}

lt_status lt_record_tell(const lt_cache_clip *record, lt_stream *stream, lt_arena *arena, lt_err *err)
{
    Lt__Wire__Latents *made = lt_arena_alloc(arena, sizeof *made);
    if (!made) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt__wire__latents__init(made);
    made->model = lt_arena_strdup(arena, record->model ? record->model : "");
    made->weights = told(record->weights, arena);
    made->numerics = told(record->numerics, arena);
    made->encoding = told(record->encoding, arena);
    made->made_of = told(record->made_of, arena);
    made->logvar = record->logvar;
    stream->latents = made;
    bool fine = made->model && made->weights && made->numerics && made->encoding && made->made_of;
    return fine ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
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

size_t lt_record_unit_bytes(size_t values, bool logvar)
{
    return logvar ? lt_round_up(values, LT_PAYLOAD_ALIGNMENT) + values : values;
}

lt_status lt_record_give(const lt_cache_clip *r, int64_t first, int64_t n, const void *latent,
                         const void *logvar, lt_payload *output, lt_err *err)
{
    const void *const runs[] = {latent, logvar};
    size_t bytes =
        (size_t)n * (size_t)r->channels * (size_t)r->height * (size_t)r->width * lt_dtype_bytes(r->dtype);
    lt_status status = LT_OK;
    for (int i = 0; i < 1 + r->logvar && !status; i++) {
        lt_span *span;
        status = lt_payload_add(output, (uint64_t)first, (uint64_t)n, (Lt__Wire__Dtype)(r->dtype + 1), bytes,
                                &span, err);
        if (!status) lt_record_to_stream(r, runs[i], span->data, n);
    }
    return status;
}

void lt_record_to_cache(const lt_cache_clip *r, const void *from, void *to, int64_t frames)
{
    transpose(from, to, frames, (int64_t)r->height * r->width, r->channels, lt_dtype_bytes(r->dtype));
}
