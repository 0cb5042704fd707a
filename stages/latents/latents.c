/* latents.c - source: complete clips of the cache, to be decoded at any time, with what else is known of them. */
#include "stages/latents/latents.h"

#include "proto/wire.h"
#include "stages/record/record.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(lt_latents_config, field)
static const lt_option options[] = {
    {"clips", LT_OPT_STRING, AT(clips), "*", 0, 0, NULL, NULL,
     "name of a clip in the cache, or a pattern such as \"dog-*\" for several; where the cache holds a clip "
     "more than once, the newest",
     false},
    {"digest", LT_OPT_STRING, AT(digest), "", 0, 0, NULL, NULL,
     "how the digest begins, to choose another than the newest (`latents ls` shows them)", false},
};
#undef AT

typedef struct latents_state {
    const lt_setup *setup;
    const lt_latents_config *config;
    lt_cache *cache;
    lt_cached_clips clips;
    lt_journal *journal;
} latents_state;

/* ---- the stream ----------------------------------------------------------------------------------------- */

static size_t frame_bytes(const lt_cache_clip *r)
{
    return (size_t)r->channels * (size_t)r->height * (size_t)r->width * lt_dtype_bytes(r->dtype);
}

/* Name, entry and key, before the record is read. */
static lt_status announce(const char *name, const char *digest, const lt_cache_clip *record, bool expendable,
                          lt_stream *stream, lt_arena *arena, lt_err *err)
{
    char text[LT_CACHE_CLIP_BYTES + LT_CACHE_DIGEST_BYTES], key[33];
    json_t *entry = json_pack("{ss ss}", "name", name, "digest", digest);
    if (record && *record->source) json_object_set_new(entry, "path", json_string(record->source));
    char *line = entry ? json_dumps(entry, JSON_COMPACT) : NULL;
    json_decref(entry);
    snprintf(text, sizeof text, "%s/%s", name, digest);
    lt_cached_clip_key(text, key);
    stream->name = lt_arena_strdup(arena, name);
    stream->entry = line ? lt_arena_strdup(arena, line) : NULL;
    stream->key = lt_arena_strdup(arena, key);
    stream->expendable = expendable;
    free(line);
    if (stream->name && stream->entry && stream->key) return LT_OK;
    return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

static void set_picture(const lt_cache_picture *from, Lt__Wire__Picture *to)
{
    lt__wire__picture__init(to);
    to->width = (uint32_t)from->width;
    to->height = (uint32_t)from->height;
    to->sample_aspect_num = (uint32_t)from->sample_aspect_num;
    to->sample_aspect_den = (uint32_t)from->sample_aspect_den;
    to->rotation = from->rotation;
    to->primaries = (uint32_t)from->primaries;
    to->transfer = (uint32_t)from->transfer;
    to->matrix = (uint32_t)from->matrix;
    to->range = (uint32_t)from->range;
}

static lt_status describe(const lt_cache_clip *r, lt_stream *stream, lt_arena *arena, lt_err *err)
{
    stream->kind = LT__WIRE__PORT_KIND__PORT_LATENTS;
    stream->dtype = (Lt__Wire__Dtype)(r->dtype + 1);
    stream->width = (uint32_t)r->width;
    stream->height = (uint32_t)r->height;
    stream->channels = (uint32_t)r->channels;
    stream->chunk = (uint32_t)r->chunk;
    stream->n_frames = (uint64_t)r->n_frames;
    stream->n_units = (uint64_t)lt_cache_n_chunks(r);
    stream->unit_bytes =
        lt_record_unit_bytes(frame_bytes(r) * (size_t)LT_MIN((int64_t)r->chunk, r->n_frames), r->logvar);
    stream->time_base_num = (uint32_t)LT_MAX(r->time_base_num, 1);
    stream->time_base_den = (uint32_t)LT_MAX(r->time_base_den, 1);
    stream->last_duration = r->last_duration;
    stream->scaling_factor = r->scaling_factor;
    stream->factor = (uint32_t)r->factor;
    stream->picture = lt_arena_alloc(arena, sizeof *stream->picture);
    stream->source = (char *)r->source;
    stream->caption = (char *)r->caption;
    stream->fingerprint = (char *)r->fingerprint;
    stream->digest = (char *)r->digest;
    stream->numeric_class = (char *)r->numeric_class;
    if (!stream->picture) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    set_picture(&r->picture, stream->picture);
    lt_status status = lt_record_tell(r, stream, arena, err);
    if (status || !r->pts_delta) return status;
    stream->pts_delta = (int64_t *)r->pts_delta;
    stream->n_pts_delta = (size_t)r->n_frames;
    return LT_OK;
}

/* What the cache says of a clip into the stream that was announced. E_FORMAT, naming the clip, where a stream cannot be so: such a
 * record is damage, or another program's. */
static lt_status look_at(lt_cache *cache, const char *name, const char *digest, lt_stream *stream,
                         lt_arena *arena, lt_cache_clip *record, lt_err *err)
{
    lt_status status = lt_cache_get_clip(cache, name, digest, arena, record, err);
    if (!status && record->state != LT_CACHE_COMPLETE)
        status = lt_fail(err, LT_E_NOT_FOUND, "it is not complete any more");
    if (!status) status = describe(record, stream, arena, err);
    if (!status) status = lt_stream_check(stream, err);
    return status ? lt_err_prefix(err, "clip %s/%s of the cache", name, digest) : LT_OK;
}

/* ---- planning ------------------------------------------------------------------------------------------- */

/* The largest clip stands for all; frames of all are counted. */
static lt_status find_largest(lt_cache *cache, const lt_cached_clips *clips, uint32_t *largest,
                              uint64_t *frames, lt_err *err)
{
    size_t most = 0;
    int64_t longest = 0;
    *frames = 0;
    for (uint32_t i = 0; i < clips->n; i++) {
        char name[LT_CACHE_CLIP_BYTES], digest[LT_CACHE_DIGEST_BYTES];
        lt_cache_summary s;
        lt_cached_clips_get(clips, i, name, digest);
        lt_status status = lt_cache_look(cache, name, digest, &s, err);
        if (status) return status;
        size_t bytes = (size_t)s.channels * (size_t)s.height * (size_t)s.width * lt_dtype_bytes(s.dtype) *
                       (size_t)LT_MIN((int64_t)s.chunk, s.n_frames);
        *frames += (uint64_t)s.n_frames;
        if (bytes < most || (bytes == most && s.n_frames <= longest)) continue;
        most = bytes;
        longest = s.n_frames;
        *largest = i;
    }
    return LT_OK;
}

static lt_status check_cache(const lt_setup *setup, lt_err *err)
{
    if (setup->cache && *setup->cache) return LT_OK;
    return lt_fail(err, LT_E_INVALID, "latents reads clips from the graph's cache, and [graph] names none");
}

static lt_status latents_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan,
                              lt_err *err)
{
    enum { BASE_BYTES = 700 << 10, OPEN = 3 };
    const lt_latents_config *config = setup->config;
    char name[LT_CACHE_CLIP_BYTES], digest[LT_CACHE_DIGEST_BYTES];
    uint32_t largest = 0;
    uint64_t frames = 0;
    lt_cache *cache = NULL;
    lt_cached_clips clips = {0};
    lt_cache_clip record;
    lt_status status;
    LT_TRY(check_cache(setup, err));
    LT_TRY(lt_cache_open(&cache, setup->cache, false, 0, err));
    LT_TRY(lt_cached_clips_find(&clips, cache, config, "", NULL, err));
    uint32_t n_clips = clips.n;
    for (;;) {
        LT_TRY(find_largest(cache, &clips, &largest, &frames, err));
        lt_cached_clips_get(&clips, largest, name, digest);
        LT_TRY(announce(name, digest, NULL, lt_is_pattern(config->clips), plan->output, plan->arena, err));
        status = look_at(cache, name, digest, plan->output, plan->arena, &record, err);
        if ((status != LT_E_FORMAT && status != LT_E_NOT_FOUND) || clips.n == 1) break;
        lt_plan_note(plan, "%s", err->text); /* it will cost itself alone; another stands for all */
        lt_cached_clips_drop(&clips, largest);
        lt__wire__stream__init(plan->output);
    }
    if (status) goto fail;
    LT_TRY(announce(name, digest, &record, lt_is_pattern(config->clips), plan->output, plan->arena, err));
    plan->work_factor = 1;
    plan->peak_bytes =
        BASE_BYTES + (size_t)n_clips * 128 + 2 * OPEN * (size_t)record.n_frames * sizeof(int64_t);
    if (lt_is_pattern(config->clips)) {
        plan->output->run_clips = n_clips;
        plan->output->run_frames = frames;
    }
    lt_plan_note(plan, "%u clip%s, %" PRIu64 " latent frames; %s, made with %s", n_clips,
                 n_clips == 1 ? "" : "s", frames, name, *record.model ? record.model : "an unknown model");
    if (clips.n_several == 1)
        lt_plan_note(plan,
                     "the cache holds a clip more than once: the newest is taken, %s (option digest chooses)",
                     clips.several);
    else if (clips.n_several)
        lt_plan_note(
            plan,
            "the cache holds %u clips more than once: the newest of each is taken, such as %s (option "
            "digest chooses)",
            clips.n_several, clips.several);
fail:
    lt_cached_clips_finish(&clips);
    lt_cache_close(cache);
    return status;
}

/* ---- running -------------------------------------------------------------------------------------------- */

static void latents_destroy(void *opaque)
{
    latents_state *state = opaque;
    if (!state) return;
    lt_cached_clips_finish(&state->clips);
    lt_journal_close(state->journal);
    lt_cache_close(state->cache);
    free(state);
}

static lt_status latents_create(void **out, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    latents_state *state = calloc(1, sizeof *state);
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_status status;
    state->setup = setup;
    state->config = setup->config;
    LT_TRY(check_cache(setup, err));
    LT_TRY(lt_cache_open(&state->cache, setup->cache, false, 0, err));
    if (lt_is_pattern(state->config->clips)) LT_TRY(lt_journal_open(&state->journal, setup->run_folder, err));
    LT_TRY(lt_cached_clips_find(&state->clips, state->cache, state->config, setup->run_folder, state->journal,
                                err));
    *numeric_class = ""; /* the record's stands */
    *out = state;
    return LT_OK;
fail:
    latents_destroy(state);
    return status;
}

/* The next clip that nothing has been made of yet. */
static lt_status choose(latents_state *state, lt_clip *clip, char name[LT_CACHE_CLIP_BYTES],
                        char digest[LT_CACHE_DIGEST_BYTES], lt_err *err)
{
    lt_journal_entry done;
    for (uint32_t i = clip->index; i < state->clips.n; i++) {
        lt_cached_clips_get(&state->clips, i, name, digest);
        lt_status status =
            announce(name, digest, NULL, state->journal != NULL, clip->output, clip->arena, err);
        if (status) return status;
        bool is_done = state->journal && lt_journal_find(state->journal, clip->output->key, &done) &&
                       *done.result && access(done.result, F_OK) == 0;
        if (!is_done) {
            clip->passed = i - clip->index;
            return LT_OK;
        }
        lt_arena_finish(clip->arena);
        lt__wire__stream__init(clip->output);
    }
    return LT_END;
}

static lt_status latents_open_clip(void *opaque, lt_clip *clip, lt_err *err)
{
    latents_state *state = opaque;
    char name[LT_CACHE_CLIP_BYTES], digest[LT_CACHE_DIGEST_BYTES];
    lt_status status = choose(state, clip, name, digest, err);
    if (!status) status = lt_stage_opens(clip, err);
    if (status) return status;
    lt_cache_clip *record = lt_arena_alloc(clip->arena, sizeof *record);
    if (!record) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    status = look_at(state->cache, name, digest, clip->output, clip->arena, record, err);
    if (status) return status;
    clip->output->run_clips = state->journal ? state->clips.n : 0;
    if (record->side_bytes > 0) {
        char *side =
            lt_arena_printf(clip->arena, "%s/side-%u", state->setup->run_folder, clip->index + clip->passed);
        if (!side) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        status = lt_cache_side(state->cache, name, digest, side, err);
        if (status) return status;
        clip->output->side_path = side;
    }
    clip->n_units = clip->output->n_units;
    clip->state = record;
    return LT_OK;
}

/* A chunk on its way from the map to the payload. */
typedef struct giving {
    const lt_cache_clip *record;
    int64_t first, n;
    lt_payload *output;
} giving;

/* [n,C,h,w] -> [n,h,w,C]. */
static lt_status give(void *user, const lt_cache_chunk *chunk, lt_err *err)
{
    const giving *g = user;
    const lt_cache_clip *r = g->record;
    const int64_t shape[4] = {g->n, r->channels, r->height, r->width};
    char text[96];
    bool has_logvar = chunk->logvar.data != NULL;
    if (chunk->latent.dtype != r->dtype || memcmp(chunk->latent.shape, shape, sizeof shape) != 0 ||
        has_logvar != r->logvar)
        return lt_fail(err, LT_E_FORMAT,
                       "the cache's latents of clip %s, frame %" PRId64 ", are %s%s; run latents verify",
                       r->clip, g->first, lt_tensor_describe(&chunk->latent, text, sizeof text),
                       has_logvar ? " with log-variances" : "");
    return lt_record_give(r, g->first, g->n, chunk->latent.data, chunk->logvar.data, g->output, err);
}

static lt_status latents_process(void *opaque, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                                 lt_payload *output, lt_err *err)
{
    latents_state *state = opaque;
    const lt_cache_clip *record = clip->state;
    giving g = {.record = record, .first = (int64_t)unit * record->chunk, .output = output};
    g.n = LT_MIN((int64_t)record->chunk, record->n_frames - g.first);
    if (g.n <= 0) return lt_fail(err, LT_E_INTERNAL, "unit %" PRIu64 " lies behind the end", unit);
    lt_stage_cached(clip);
    return lt_cache_read(state->cache, record->clip, record->digest, g.first, give, &g, err);
}

static lt_status latents_finish_clip(void *opaque, lt_clip *clip, bool complete, const char **result,
                                     lt_err *err)
{
    if ((complete || clip->given_up) && *clip->output->side_path) unlink(clip->output->side_path);
    clip->state = NULL;
    *result = NULL;
    return LT_OK;
}

static const lt_port outputs[] = {
    {"latents", 1u << LT__WIRE__PORT_KIND__PORT_LATENTS, "as the cache holds them"}};

const lt_stage lt_latents_stage = {
    .kind = "latents",
    .help = "Gives clips of the graph's cache, with their timestamps and the audio that came with them.",
    .outputs = outputs,
    .n_outputs = 1,
    .options = options,
    .n_options = (int)LT_COUNT(options),
    .config_bytes = sizeof(lt_latents_config),
    .plan = latents_plan,
    .create = latents_create,
    .destroy = latents_destroy,
    .open_clip = latents_open_clip,
    .process = latents_process,
    .finish_clip = latents_finish_clip,
};
