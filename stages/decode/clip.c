/* clip.c - one clip: its video opened as asked, described, and read by chunks. */
#include "stages/decode/decode.h"

#include "proto/wire.h"
#include "stages/digest/digest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ------------------------------------------------------------------------------------------- */

/* Every clip's draws are its own, whatever its place in the manifest. */
static uint64_t seed_of(const lt_decode_config *config, const lt_wanted *wanted)
{
    char text[300], hex[33];
    snprintf(text, sizeof text, "%" PRId64 " %.250s", config->seed, wanted->name);
    lt_digest(text, strlen(text), hex);
    hex[16] = 0;
    return strtoull(hex, NULL, 16);
}

lt_video_request lt_source_request(const lt_source *source, const lt_wanted *wanted, int threads)
{
    static const int bits[] = {0, 8, 16};
    const lt_decode_config *config = source->config;
    return (lt_video_request){.input = wanted->input,
                              .size = config->size,
                              .fit = (lt_video_fit)config->fit,
                              .bits = bits[config->bits],
                              .threads = threads,
                              .start = wanted->start + config->start,
                              .end = wanted->end,
                              .tries_end = wanted->tries_end,
                              .frames = config->frames,
                              .pad = config->short_clips == LT_SHORT_PAD,
                              .interval = config->interval,
                              .buckets = source->n_buckets ? source->buckets : NULL,
                              .n_buckets = source->n_buckets,
                              .one_field = config->deinterlace,
                              .exact = config->scaler == 1,
                              .random_interval = config->random_interval,
                              .random_start = config->random_start,
                              .random_crop = config->random_crop,
                              .seed = seed_of(config, wanted),
                              .fps = config->fps,
                              .hwaccel = config->hwaccel,
                              .gpu = source->gpu};
}

lt_status lt_source_open_video(const lt_source *source, const lt_wanted *wanted, int threads,
                               lt_video **video, lt_err *err)
{
    const lt_decode_config *config = source->config;
    lt_video_request request = lt_source_request(source, wanted, threads);
    lt_status status = lt_video_open(video, &request, err);
    if (status || config->short_clips != LT_SHORT_SKIP) return status;
    int64_t n = lt_video_get_info(*video)->n_frames;
    if (n >= config->frames) return LT_OK;
    lt_video_close(*video);
    *video = NULL;
    return lt_fail(err, source->list ? LT_AGAIN : LT_E_INVALID,
                   "%s: has %" PRId64 " frames where %" PRId64 " are asked for, and short = skip",
                   wanted->input, n, config->frames);
}

/* ---- the stream ---------------------------------------------------------------------------------------- */

lt_status lt_source_announce(const lt_source *source, const lt_wanted *wanted, lt_stream *stream,
                             lt_arena *arena, lt_err *err)
{
    stream->name = lt_arena_strdup(arena, wanted->name);
    stream->entry = lt_arena_strdup(arena, wanted->entry);
    stream->key = lt_arena_strdup(arena, wanted->key);
    stream->source = lt_arena_strdup(arena, wanted->input);
    stream->caption = lt_arena_strdup(arena, wanted->caption ? wanted->caption : "");
    stream->expendable = source->list != NULL;
    stream->run_clips = source->list ? lt_source_count(source) : 0;
    if (!stream->name || !stream->entry || !stream->key || !stream->source || !stream->caption)
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    return LT_OK;
}

static void set_picture(const lt_video_info *info, Lt__Wire__Picture *picture)
{
    lt__wire__picture__init(picture);
    picture->width = (uint32_t)info->visible_width;
    picture->height = (uint32_t)info->visible_height;
    picture->sample_aspect_num = (uint32_t)info->sample_aspect_num;
    picture->sample_aspect_den = (uint32_t)info->sample_aspect_den;
    picture->rotation = info->rotation;
    picture->primaries = (uint32_t)info->colour.primaries;
    picture->transfer = (uint32_t)info->colour.transfer;
    picture->matrix = (uint32_t)info->colour.matrix;
    picture->range = (uint32_t)info->colour.range;
    picture->bits = (uint32_t)LT_MIN(info->depth, info->bits);
}

/* Of everything that decides the bytes of a unit. */
static char *digest_of(const lt_decode_config *config, const lt_video_info *info, lt_arena *arena)
{
    char text[96], hex[33];
    int n = snprintf(text, sizeof text, "decode 1 %s chunk %" PRId64, info->digest, config->chunk);
    lt_digest(text, (size_t)n, hex);
    return lt_arena_strdup(arena, hex);
}

lt_status lt_source_describe(const lt_source *source, const lt_wanted *wanted, const lt_video_info *info,
                             lt_stream *stream, lt_arena *arena, lt_err *err)
{
    const lt_decode_config *config = source->config;
    lt_status status = lt_source_announce(source, wanted, stream, arena, err);
    if (status) return status;
    stream->kind = LT__WIRE__PORT_KIND__PORT_FRAMES;
    stream->dtype = info->bits == 8 ? LT__WIRE__DTYPE__DTYPE_U8 : LT__WIRE__DTYPE__DTYPE_U16;
    stream->width = (uint32_t)info->width;
    stream->height = (uint32_t)info->height;
    stream->channels = 3;
    stream->bits = (uint32_t)info->bits;
    stream->chunk = (uint32_t)config->chunk;
    stream->live = !info->n_frames;
    stream->n_frames = stream->live ? LT_STREAM_FRAMES_MAX : (uint64_t)info->n_frames;
    stream->n_units = (stream->n_frames + (uint64_t)config->chunk - 1) / (uint64_t)config->chunk;
    stream->rate_num = (uint32_t)info->rate_num;
    stream->rate_den = (uint32_t)info->rate_den;
    stream->unit_bytes = lt_video_frame_bytes(info) * (uint64_t)config->chunk;
    stream->time_base_num = (uint32_t)info->time_base_num;
    stream->time_base_den = (uint32_t)info->time_base_den;
    stream->last_duration = info->last_duration;
    stream->picture = lt_arena_alloc(arena, sizeof *stream->picture);
    stream->fingerprint = lt_arena_strdup(arena, info->fingerprint);
    stream->digest = digest_of(config, info, arena);
    stream->numeric_class = lt_arena_strdup(arena, "");
    stream->side_path = lt_arena_strdup(arena, "");
    if (!stream->picture || !stream->fingerprint || !stream->digest || !stream->numeric_class ||
        !stream->side_path)
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    set_picture(info, stream->picture);
    return stream->live ? LT_OK : lt_stream_set_pts(stream, info->pts, (size_t)info->n_frames, arena, err);
}

/* ---- chunks -------------------------------------------------------------------------------------------- */

/* A chunk that was made on the way to another. */
typedef struct kept {
    bool used;
    uint64_t unit;
    uint8_t *data;
} kept;

struct lt_chunks {
    lt_video *video;
    int64_t chunk;
    uint64_t next; /* unit after the one made last */
    kept *ring;
    int64_t n_ring;
};

int64_t lt_chunks_ring(const lt_decode_config *config, size_t unit_bytes)
{
    enum { MOST = 128 << 20 };
    if (config->convert) return 0; /* what is on a device is not kept in the host's memory */
    return LT_MIN(config->ring, LT_MAX((int64_t)(MOST / unit_bytes), 1));
}

const lt_video_info *lt_chunks_info(const lt_chunks *chunks)
{
    return lt_video_get_info(chunks->video);
}

lt_video *lt_chunks_video(const lt_chunks *chunks)
{
    return chunks->video;
}

void lt_chunks_destroy(lt_chunks *chunks)
{
    if (!chunks) return;
    for (int64_t i = 0; i < chunks->n_ring; i++) free(chunks->ring[i].data);
    free(chunks->ring);
    lt_video_close(chunks->video);
    free(chunks);
}

/* The ring is made all at once, so that what the plan says is what is taken. A clip of one chunk needs none. */
lt_status lt_chunks_create(lt_chunks **out, lt_video **video, const lt_decode_config *config, lt_err *err)
{
    const lt_video_info *info = lt_video_get_info(*video);
    size_t unit_bytes = lt_video_frame_bytes(info) * (size_t)config->chunk;
    int64_t n = info->n_frames > config->chunk ? lt_chunks_ring(config, unit_bytes) : 0;
    lt_chunks *chunks = calloc(1, sizeof *chunks);
    *out = NULL;
    if (!chunks) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    chunks->chunk = config->chunk;
    chunks->ring = calloc((size_t)LT_MAX(n, 1), sizeof *chunks->ring);
    for (; chunks->ring && chunks->n_ring < n; chunks->n_ring++) {
        uint8_t *data = chunks->ring[chunks->n_ring].data = malloc(unit_bytes);
        if (!data) break;
        memset(data, 0x80, unit_bytes); /* not 0: malloc and memset 0 make a calloc, which takes nothing */
    }
    if (!chunks->ring || chunks->n_ring < n) {
        lt_chunks_destroy(chunks);
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for %" PRId64 " chunks of %zu bytes", n,
                       unit_bytes);
    }
    chunks->video = *video;
    *video = NULL;
    *out = chunks;
    return LT_OK;
}

static lt_status make_unit(lt_chunks *chunks, uint64_t unit, uint8_t *data, lt_err *err)
{
    const lt_video_info *info = lt_chunks_info(chunks);
    int64_t first = (int64_t)unit * chunks->chunk;
    int64_t end = LT_MIN(first + chunks->chunk, info->n_frames);
    for (int64_t i = first; i < end; i++) {
        lt_status status = lt_video_read(chunks->video, i, data, err);
        if (status) return status;
        data += lt_video_frame_bytes(info);
    }
    return LT_OK;
}

static kept *find_kept(lt_chunks *chunks, uint64_t unit)
{
    for (int64_t i = 0; i < chunks->n_ring; i++)
        if (chunks->ring[i].used && chunks->ring[i].unit == unit) return &chunks->ring[i];
    return NULL;
}

/* A free place of the ring, else that of the earliest unit. */
static kept *place_for(lt_chunks *chunks)
{
    kept *best = &chunks->ring[0];
    for (int64_t i = 0; i < chunks->n_ring; i++) {
        kept *k = &chunks->ring[i];
        if (!k->used) return k;
        if (k->unit < best->unit) best = k;
    }
    best->used = false;
    return best;
}

/* Decode up to `unit` and keep what is passed: another replica of the consumer will ask for it next. */
static lt_status keep_up_to(lt_chunks *chunks, uint64_t unit, lt_err *err)
{
    while (chunks->next < unit) {
        if (!find_kept(chunks, chunks->next)) {
            kept *place = place_for(chunks);
            lt_status status = make_unit(chunks, chunks->next, place->data, err);
            if (status) return status;
            place->used = true;
            place->unit = chunks->next;
        }
        chunks->next++;
    }
    return LT_OK;
}

lt_status lt_chunks_read(lt_chunks *chunks, uint64_t unit, void *data, size_t bytes, lt_err *err)
{
    lt_status status = LT_OK;
    const kept *have = find_kept(chunks, unit);
    if (have) {
        memcpy(data, have->data, bytes);
        return LT_OK;
    }
    if (unit > chunks->next && unit - chunks->next <= (uint64_t)chunks->n_ring)
        status = keep_up_to(chunks, unit, err);
    if (!status) status = make_unit(chunks, unit, data, err);
    if (!status) chunks->next = unit + 1;
    return status;
}
