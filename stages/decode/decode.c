/* decode.c - source: any video FFmpeg reads, as chunks of RGB frames, from any place at any time. */
#include "stages/decode/decode.h"
#include "proto/wire.h"
#include "stages/decode/side.h"
#include "stages/video/video.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct decode_config {
    const char *input, *name, *caption;
    lt_size size;
    int fit, bits; /* bits: 0 auto, 1: 8, 2: 16 */
    double start, fps;
    int64_t frames, interval, chunk, ring;
} decode_config;

#define AT(field) offsetof(decode_config, field)
static const lt_option options[] = {
    {"input", LT_OPT_PATH, AT(input), NULL, 0, 0, NULL, NULL,
     "video file or URL, or lavfi:GRAPH for a synthetic source of FFmpeg", false},
    {"size", LT_OPT_SIZE, AT(size), "", 0, 0, NULL, "pixels",
     "size to bring the picture to, with square pixels; without it the source's own", false},
    {"fit", LT_OPT_ENUM, AT(fit), "crop", 0, 0, "crop|pad|stretch", NULL,
     "how: fill and cut what is over, fit inside black bars, or distort", false},
    {"start", LT_OPT_SECONDS, AT(start), "0", 0, 1e9, NULL, "seconds",
     "begin this long after the first frame", false},
    {"frames", LT_OPT_INT, AT(frames), "0", 0, 67108864, NULL, "frames", "at most so many frames; 0: all",
     false},
    {"interval", LT_OPT_INT, AT(interval), "1", 1, 1000000, NULL, "frames", "take every n-th frame", false},
    {"fps", LT_OPT_FLOAT, AT(fps), "0", 0, 1000, NULL, "1/s",
     "resample: the frame shown at each tick of this rate; 0: the source's own timestamps", false},
    {"chunk", LT_OPT_INT, AT(chunk), "8", 1, 1024, NULL, "frames", "frames in a unit of flow", false},
    {"bits", LT_OPT_ENUM, AT(bits), "auto", 0, 0, "auto|8|16", NULL,
     "bits a sample; auto: 16 for sources of more than 8", false},
    {"ring", LT_OPT_INT, AT(ring), "4", 0, 64, NULL, "chunks",
     "chunks kept when consumers ask out of order, instead of seeking back (at most 128 MiB of them, at "
     "least one)",
     true},
    {"name", LT_OPT_STRING, AT(name), "", 0, 0, NULL, NULL, "name of the clip; default: from the input's",
     false},
    {"caption", LT_OPT_STRING, AT(caption), "", 0, 0, NULL, NULL, "what is seen in the clip", false},
};
#undef AT

/* A chunk that was made on the way to another. */
typedef struct kept {
    bool used;
    uint64_t unit;
    uint8_t *data;
} kept;

/* Places of the ring for chunks of this size. */
static int64_t ring_places(const decode_config *config, size_t unit_bytes)
{
    enum { MOST = 128 << 20 };
    return LT_MIN(config->ring, LT_MAX((int64_t)(MOST / unit_bytes), 1));
}

typedef struct decode_state {
    const lt_setup *setup;
    const decode_config *config;
    lt_video *video;
    uint64_t next; /* unit after the one made last */
    kept *ring;
    int64_t n_ring;
    size_t unit_bytes;
} decode_state;

/* ---- the stream
 * ------------------------------------------------------------------------------------------ */

static lt_status open_video(const lt_setup *setup, lt_video **video, lt_err *err)
{
    const decode_config *config = setup->config;
    static const int bits[] = {0, 8, 16};
    lt_video_request request = {.input = config->input,
                                .size = config->size,
                                .fit = (lt_video_fit)config->fit,
                                .bits = bits[config->bits],
                                .threads = setup->threads,
                                .start = config->start,
                                .frames = config->frames,
                                .interval = config->interval,
                                .fps = config->fps};
    return lt_video_open(video, &request, err);
}

/* A name of [A-Za-z0-9._-] from the file's name without its ending, or from a graph's text. */
static char *clip_name(const decode_config *config, lt_arena *arena)
{
    bool graph = lt_video_is_graph(config->input);
    const char *slash = strrchr(config->input, '/');
    const char *from = *config->name ? config->name : !graph && slash ? slash + 1 : config->input;
    char *name = lt_arena_printf(arena, "%.64s", *from ? from : "clip");
    if (!name) return NULL;
    char *dot = strrchr(name, '.');
    if (!*config->name && !graph && dot && dot > name) *dot = 0;
    const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    for (char *c = name; *c; c++)
        if (!strchr(letters, *c)) *c = '-';
    return name;
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
}

/* Of everything that decides the bytes of a unit. */
static char *digest_of(const decode_config *config, const lt_video_info *info, lt_arena *arena)
{
    char text[96], hex[33];
    int n = snprintf(text, sizeof text, "decode 1 %s chunk %" PRId64, info->digest, config->chunk);
    lt_video_hash(text, (size_t)n, hex);
    return lt_arena_strdup(arena, hex);
}

static lt_status fill_stream(const decode_config *config, const lt_video_info *info, lt_stream *stream,
                             lt_arena *arena, lt_err *err)
{
    stream->kind = LT__WIRE__PORT_KIND__PORT_FRAMES;
    stream->dtype = info->bits == 8 ? LT__WIRE__DTYPE__DTYPE_U8 : LT__WIRE__DTYPE__DTYPE_U16;
    stream->width = (uint32_t)info->width;
    stream->height = (uint32_t)info->height;
    stream->channels = 3;
    stream->bits = (uint32_t)info->bits;
    stream->chunk = (uint32_t)config->chunk;
    stream->n_frames = (uint64_t)info->n_frames;
    stream->n_units = (uint64_t)((info->n_frames + config->chunk - 1) / config->chunk);
    stream->unit_bytes = lt_video_frame_bytes(info) * (uint64_t)config->chunk;
    stream->time_base_num = (uint32_t)info->time_base_num;
    stream->time_base_den = (uint32_t)info->time_base_den;
    stream->last_duration = info->last_duration;
    stream->picture = lt_arena_alloc(arena, sizeof *stream->picture);
    stream->name = clip_name(config, arena);
    stream->source = lt_arena_strdup(arena, config->input);
    stream->caption = lt_arena_strdup(arena, config->caption ? config->caption : "");
    stream->fingerprint = lt_arena_strdup(arena, info->fingerprint);
    stream->digest = digest_of(config, info, arena);
    stream->numeric_class = lt_arena_strdup(arena, "");
    stream->side_path = lt_arena_strdup(arena, "");
    if (!stream->picture || !stream->name || !stream->source || !stream->caption || !stream->fingerprint ||
        !stream->digest || !stream->numeric_class || !stream->side_path)
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    set_picture(info, stream->picture);
    return lt_stream_set_pts(stream, info->pts, (size_t)info->n_frames, arena, err);
}

/* ---- planning
 * --------------------------------------------------------------------------------------------- */

static void add_notes(const lt_video_info *info, lt_plan *plan)
{
    lt_plan_note(plan, "%s, %dx%d, %" PRId64 " frames, %.3f s; %" PRId64 " selected, %dx%d visible, %d bits",
                 info->codec, info->source_width, info->source_height, info->source_frames,
                 info->source_end - info->source_start, info->n_frames, info->visible_width,
                 info->visible_height, info->bits);
    if (info->width != info->visible_width || info->height != info->visible_height)
        lt_plan_note(plan, "padded to %dx%d by repeating the edge; cut off again at the end", info->width,
                     info->height);
    if (info->skipped_leading)
        lt_plan_note(plan, "%" PRId64 " frames before the first key frame cannot be decoded and are left out",
                     info->skipped_leading);
    if (info->rotation)
        lt_plan_note(plan, "turned by %d degrees: left to the player, since it is no multiple of 90",
                     info->rotation);
}

static lt_status decode_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan,
                             lt_err *err)
{
    const decode_config *config = setup->config;
    lt_video *video;
    lt_status status = open_video(setup, &video, err);
    if (status) return status;
    const lt_video_info *info = lt_video_get_info(video);
    status = fill_stream(config, info, plan->output, plan->arena, err);
    size_t chunk_bytes = lt_video_frame_bytes(info) * (size_t)config->chunk;
    plan->peak_bytes = lt_video_peak_bytes(video) + chunk_bytes * (size_t)ring_places(config, chunk_bytes);
    plan->work_factor = 1;
    add_notes(info, plan);
    lt_video_close(video);
    return status;
}

/* ---- running
 * ---------------------------------------------------------------------------------------------- */

static lt_status decode_create(void **out, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    decode_state *state = calloc(1, sizeof *state);
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    state->setup = setup;
    state->config = setup->config;
    *numeric_class = "";
    *out = state;
    return LT_OK;
}

static void close_clip(decode_state *state)
{
    for (int64_t i = 0; i < state->n_ring; i++) free(state->ring[i].data);
    free(state->ring);
    state->ring = NULL;
    state->n_ring = 0;
    lt_video_close(state->video);
    state->video = NULL;
    state->next = 0;
}

static void decode_destroy(void *opaque)
{
    decode_state *state = opaque;
    if (!state) return;
    close_clip(state);
    free(state);
}

/* All at once, so that what the plan says is what is taken. */
static lt_status make_ring(decode_state *state, lt_err *err)
{
    int64_t n = ring_places(state->config, state->unit_bytes);
    state->ring = calloc((size_t)LT_MAX(n, 1), sizeof *state->ring);
    for (; state->ring && state->n_ring < n; state->n_ring++) {
        uint8_t *data = state->ring[state->n_ring].data = malloc(state->unit_bytes);
        if (!data) break;
        memset(data, 0x80,
               state->unit_bytes); /* not 0: malloc and memset 0 make a calloc, which takes nothing */
    }
    if (!state->ring || state->n_ring < n)
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for %" PRId64 " chunks of %zu bytes", n,
                       state->unit_bytes);
    return LT_OK;
}

static lt_status decode_open_clip(void *opaque, lt_clip *clip, lt_err *err)
{
    decode_state *state = opaque;
    const lt_setup *setup = state->setup;
    lt_status status;
    const char *input = state->config->input, *side = NULL;
    if (clip->index > 0) return LT_END;
    close_clip(state);
    LT_TRY(open_video(setup, &state->video, err));
    const lt_video_info *info = lt_video_get_info(state->video);
    LT_TRY(fill_stream(state->config, info, clip->output, clip->arena, err));
    state->unit_bytes = clip->output->unit_bytes;
    LT_TRY(make_ring(state, err));
    if (setup->run_folder && *setup->run_folder && !lt_video_is_graph(input))
        LT_TRY(lt_side_copy(input, info, setup->run_folder, clip->arena, &side, err));
    if (side) clip->output->side_path = (char *)side;
    clip->n_units = clip->output->n_units;
    return LT_OK;
fail:
    close_clip(state);
    return status;
}

/* Frames of one unit into `data`; *count of them. */
static lt_status make_unit(decode_state *state, uint64_t unit, uint8_t *data, lt_err *err)
{
    const lt_video_info *info = lt_video_get_info(state->video);
    int64_t first = (int64_t)unit * state->config->chunk;
    int64_t end = LT_MIN(first + state->config->chunk, info->n_frames);
    for (int64_t i = first; i < end; i++) {
        lt_status status = lt_video_read(state->video, i, data, err);
        if (status) return status;
        data += lt_video_frame_bytes(info);
    }
    return LT_OK;
}

static kept *find_kept(decode_state *state, uint64_t unit)
{
    for (int64_t i = 0; i < state->n_ring; i++)
        if (state->ring[i].used && state->ring[i].unit == unit) return &state->ring[i];
    return NULL;
}

/* A free place of the ring, else that of the earliest unit. */
static kept *place_for(decode_state *state)
{
    kept *best = &state->ring[0];
    for (int64_t i = 0; i < state->n_ring; i++) {
        kept *k = &state->ring[i];
        if (!k->used) return k;
        if (k->unit < best->unit) best = k;
    }
    best->used = false;
    return best;
}

/* Decode up to `unit` and keep what is passed: another replica of the consumer will ask for it next. */
static lt_status keep_up_to(decode_state *state, uint64_t unit, lt_err *err)
{
    while (state->next < unit) {
        if (!find_kept(state, state->next)) {
            kept *place = place_for(state);
            lt_status status = make_unit(state, state->next, place->data, err);
            if (status) return status;
            place->used = true;
            place->unit = state->next;
        }
        state->next++;
    }
    return LT_OK;
}

static lt_status decode_process(void *opaque, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                                lt_payload *output, lt_err *err)
{
    decode_state *state = opaque;
    const lt_video_info *info = lt_video_get_info(state->video);
    uint64_t first = unit * (uint64_t)state->config->chunk;
    if (first >= (uint64_t)info->n_frames)
        return lt_fail(err, LT_E_INTERNAL, "unit %" PRIu64 " lies behind the end", unit);
    uint64_t count = LT_MIN((uint64_t)state->config->chunk, (uint64_t)info->n_frames - first);
    size_t bytes = lt_video_frame_bytes(info) * count;
    lt_span *span;
    lt_status status = lt_payload_add(output, first, count, clip->output->dtype, bytes, &span, err);
    if (status) return status;
    kept *have = find_kept(state, unit);
    if (have) {
        memcpy(span->data, have->data, bytes);
        return LT_OK;
    }
    if (unit > state->next && unit - state->next <= (uint64_t)state->n_ring)
        status = keep_up_to(state, unit, err);
    if (!status) status = make_unit(state, unit, span->data, err);
    if (!status) state->next = unit + 1;
    return status;
}

static lt_status decode_finish_clip(void *opaque, lt_clip *clip, bool complete, const char **result,
                                    lt_err *err)
{
    close_clip(opaque);
    *result = NULL;
    return LT_OK;
}

static const lt_port outputs[] = {
    {"frames", 1u << LT__WIRE__PORT_KIND__PORT_FRAMES, "pictures in RGB, upright, in display order"}};

const lt_stage lt_decode_stage = {
    .kind = "decode",
    .help = "Reads a video with FFmpeg and gives its frames in RGB. Audio, subtitles and chapters are put "
            "aside for mux.",
    .outputs = outputs,
    .n_outputs = 1,
    .options = options,
    .n_options = (int)LT_COUNT(options),
    .config_bytes = sizeof(decode_config),
    .plan = decode_plan,
    .create = decode_create,
    .destroy = decode_destroy,
    .open_clip = decode_open_clip,
    .process = decode_process,
    .finish_clip = decode_finish_clip,
};
