/* vae_encode.c - filter: chunks of frames to chunks of latents. What the cache holds is not computed, and what is
 * computed goes to the cache before anyone sees it. */
#include "stages/vae_encode/vae_encode.h"

#include "kernels/convert.h"
#include "proto/wire.h"
#include "stages/device/handover.h"
#include "stages/record/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(lt_vae_encode_config, field)
static const lt_option options[] = {
    LT_VAE_COMMON_OPTIONS(
        "square tiles a frame is cut into: auto (the largest that fits in memory, none where the "
        "frame does), none, or their edge"),
    {"overlap", LT_OPT_FLOAT, AT(overlap), "0.25", 0, 0.9, NULL, NULL,
     "part of a tile over which it is blended with the next", false},
    {"batch", LT_OPT_INT, AT(batch), "0", 0, 256, NULL, "frames",
     "frames handed to the network at once; changes no result; 0: one on the CPU, and on a GPU as many as "
     "fit into memory beside the largest tile, at most 8; where memory is 0, into a quarter of what is free",
     true},
    {"cache_dtype", LT_OPT_ENUM, AT(cache_dtype), "f32", 0, 0, "f32|f16|bf16", NULL,
     "what latents are rounded to, in the cache and downstream: f32 keeps what was computed, f16 and bf16 "
     "take half the room",
     false},
    {"logvar", LT_OPT_BOOL, AT(logvar), "false", 0, 0, NULL, NULL,
     "keep the log-variance in the cache, too, also in that of a store on another host", false},
    {"cache_size", LT_OPT_BYTES, AT(cache_size), "1T", 1048576, 1.4e14, NULL, NULL,
     "the most the cache may hold", true},
};
#undef AT

typedef struct encode_state {
    const lt_setup *setup;
    const lt_vae_encode_config *config;
    lt_vae_host host;
    lt_inlet inlet;
    lt_outlet outlet;
    lt_cache *cache; /* NULL: none */
    char numeric_class[LT_NUMERIC_CLASS_MAX];
    /* Room for one chunk of the largest clip so far: one is made at a time, however many clips are open. */
    float *mean, *logvar;    /* [n,h,w,C], as computed */
    void *latents, *logvars; /* [n,C,h,w], rounded, as in the cache */
    size_t moment_bytes, value_bytes;
    /* The geometry worked out last, and of what: clips of a data set are mostly alike. */
    lt_encode_geometry last;
    uint32_t last_width, last_height, last_chunk;
    uint64_t last_frames;
    Lt__Wire__Dtype last_dtype;
} encode_state;

/* One clip. */
typedef struct encode_clip {
    lt_encode_geometry geometry;
    lt_cache_clip record;
    bool side_missed;
    lt_cache *cache; /* NULL: none, or the clip is live and not kept */
} encode_clip;

/* ---- opening ------------------------------------------------------------------------------------------- */

static void encode_destroy(void *opaque)
{
    encode_state *state = opaque;
    if (!state) return;
    free(state->mean);
    free(state->logvar);
    free(state->latents);
    free(state->logvars);
    lt_cache_close(state->cache);
    lt_inlet_close(&state->inlet);
    lt_outlet_close(&state->outlet);
    lt_vae_host_close(&state->host);
    free(state);
}

static lt_status encode_create(void **out, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    encode_state *state = calloc(1, sizeof *state);
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_status status;
    state->setup = setup;
    state->config = setup->config;
    LT_TRY(lt_vae_host_open(&state->host, &state->config->common, LT_VAE_ENCODER, setup->threads, err));
    if (setup->cache && *setup->cache)
        LT_TRY(lt_cache_open(&state->cache, setup->cache, true, state->config->cache_size, err));
    snprintf(state->numeric_class, sizeof state->numeric_class, "%s", state->host.dry->numeric_class);
    *numeric_class = state->numeric_class;
    *out = state;
    return LT_OK;
fail:
    encode_destroy(state);
    return status;
}

static lt_status make_room(encode_state *state, const lt_encode_geometry *g, lt_err *err)
{
    size_t moments = lt_encode_moment_bytes(g), values = lt_encode_value_bytes(g);
    bool logvar = state->config->logvar;
    if (moments <= state->moment_bytes && values <= state->value_bytes) return LT_OK;
    void **const buffers[] = {(void **)&state->mean, (void **)&state->logvar, &state->latents,
                              &state->logvars};
    state->moment_bytes = LT_MAX(moments, state->moment_bytes);
    state->value_bytes = LT_MAX(values, state->value_bytes);
    for (int i = 0; i < 4; i++) {
        free(*buffers[i]);
        *buffers[i] = i % 2 && !logvar ? NULL : malloc(i < 2 ? state->moment_bytes : state->value_bytes);
        if (*buffers[i] || (i % 2 && !logvar)) continue;
        state->moment_bytes = state->value_bytes = 0;
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a chunk of latents");
    }
    return LT_OK;
}

/* The geometry of a clip; of one like the last, the same. */
static lt_status find_geometry(encode_state *state, const lt_stream *in, lt_encode_geometry *g, lt_err *err)
{
    uint64_t frames = LT_MIN(in->n_frames, (uint64_t)in->chunk);
    if (state->last_frames == frames && state->last_width == in->width && state->last_height == in->height &&
        state->last_chunk == in->chunk && state->last_dtype == in->dtype &&
        in->kind == LT__WIRE__PORT_KIND__PORT_FRAMES && in->channels == 3) {
        *g = state->last;
        g->n_frames = (int64_t)in->n_frames;
        return LT_OK;
    }
    lt_status status = lt_encode_geometry_of(state->config, &state->host, in, g, err);
    if (status) return status;
    state->last = *g;
    state->last_frames = frames;
    state->last_width = in->width;
    state->last_height = in->height;
    state->last_chunk = in->chunk;
    state->last_dtype = in->dtype;
    return LT_OK;
}

static lt_status encode_open_clip(void *opaque, lt_clip *clip, lt_err *err)
{
    encode_state *state = opaque;
    lt_status status = LT_OK;
    encode_clip *c = calloc(1, sizeof *c);
    if (!c) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    LT_TRY(find_geometry(state, clip->inputs[0], &c->geometry, err));
    LT_TRY(lt_encode_describe(state->config, &state->host, clip->inputs[0], &c->geometry, clip->output,
                              clip->arena, err));
    LT_TRY(lt_vae_host_reserve(&state->host, c->geometry.cost.workspace_bytes, err));
    LT_TRY(make_room(state, &c->geometry, err));
    c->record = lt_record_of_stream(clip->output);
    c->cache = clip->output->live ? NULL : state->cache;
    clip->n_units = clip->output->n_units;
    clip->state = c;
    return LT_OK;
fail:
    free(c);
    return status;
}

static lt_status encode_ended(void *opaque, lt_clip *clip, lt_err *err)
{
    encode_clip *c = clip->state;
    c->geometry.n_frames = (int64_t)clip->inputs[0]->n_frames;
    clip->output->n_frames = clip->inputs[0]->n_frames;
    clip->output->n_units = clip->inputs[0]->n_units;
    return LT_OK;
}

static lt_status encode_finish_clip(void *opaque, lt_clip *clip, bool complete, const char **result,
                                    lt_err *err)
{
    free(clip->state);
    clip->state = NULL;
    *result = NULL;
    return LT_OK;
}

/* ---- units --------------------------------------------------------------------------------------------- */

static lt_status encode_need(void *opaque, const lt_clip *clip, uint64_t unit, lt_need needs[LT_MAX_PORTS],
                             lt_err *err)
{
    const encode_clip *c = clip->state;
    bool there = false;
    needs[0] = (lt_need){unit, 1};
    if (!c->cache) return LT_OK;
    lt_status status = lt_cache_has(c->cache, c->record.clip, c->record.digest,
                                    (int64_t)unit * c->record.chunk, &there, err);
    if (there) needs[0] = (lt_need){0, 0};
    return status;
}

/* The frames of one unit, and where they go. */
typedef struct unit_of {
    encode_clip *clip;
    int64_t first, n;
    lt_payload *output;
} unit_of;

static lt_status give_cached(void *user, const lt_cache_chunk *chunk, lt_err *err)
{
    const unit_of *u = user;
    const lt_encode_geometry *g = &u->clip->geometry;
    const int64_t shape[4] = {u->n, g->channels, g->height, g->width};
    char text[96];
    if (chunk->latent.dtype != g->dtype || memcmp(chunk->latent.shape, shape, sizeof shape) != 0)
        return lt_fail(
            err, LT_E_FORMAT, "the cache's latents of clip %s, frame %lld, are %s; run latents verify",
            u->clip->record.clip, (long long)u->first, lt_tensor_describe(&chunk->latent, text, sizeof text));
    if (u->clip->record.logvar != (chunk->logvar.data != NULL))
        return lt_fail(
            err, LT_E_FORMAT,
            "the cache's latents of clip %s, frame %lld, have no log-variances; run latents verify",
            u->clip->record.clip, (long long)u->first);
    return lt_record_give(&u->clip->record, u->first, u->n, chunk->latent.data, chunk->logvar.data, u->output,
                          err);
}

/* Round [n,h,w,C] to the cache's dtype, as [n,C,h,w]. */
static void round_values(const encode_clip *c, const float *from, void *to, int64_t n)
{
    const lt_encode_geometry *g = &c->geometry;
    int64_t plane = (int64_t)g->height * g->width, at = 0;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t ch = 0; ch < g->channels; ch++) {
            const float *x = from + i * plane * g->channels + ch;
            for (int64_t p = 0; p < plane; p++, x += g->channels, at++) {
                if (g->dtype == LT_F32)
                    ((float *)to)[at] = *x;
                else
                    ((uint16_t *)to)[at] = g->dtype == LT_F16 ? lt_f32_to_f16(*x) : lt_f32_to_bf16(*x);
            }
        }
    }
}

/* NaN and infinity end the clip: they would spread to everything that is made of it. */
static lt_status check_finite(encode_state *state, const unit_of *u, const char *tensor, const float *values,
                              lt_err *err)
{
    const lt_encode_geometry *g = &u->clip->geometry;
    int64_t frame = (int64_t)g->channels * g->height * g->width,
            at = lt_first_not_finite(values, LT_F32, u->n * frame);
    float largest = 0;
    for (int64_t i = 0; at < 0 && g->dtype == LT_F16 && i < u->n * frame; i++)
        largest = LT_MAX(largest, values[i] < 0 ? -values[i] : values[i]);
    if (at < 0 && largest < 65520) return LT_OK;
    const lt_cache_clip *record = &u->clip->record;
    lt_status status = at < 0
                           ? lt_fail(err, LT_E_NUMERIC,
                                     "clip %s, chunk of frames %lld to %lld: %s reaches %g, too large for "
                                     "f16; use cache_dtype bf16 or f32",
                                     record->clip, (long long)u->first, (long long)(u->first + u->n - 1),
                                     tensor, (double)largest)
                           : lt_fail(err, LT_E_NUMERIC,
                                     "clip %s, chunk of frames %lld to %lld: %s is not finite at frame %lld "
                                     "(model %s, dtype %s)",
                                     record->clip, (long long)u->first, (long long)(u->first + u->n - 1),
                                     tensor, (long long)(u->first + at / frame), state->config->common.model,
                                     lt_dtype_name(lt_stage_dtype(state->config->common.dtype)));
    lt_err ignored;
    if (u->clip->cache &&
        lt_cache_fail(u->clip->cache, record, err ? err->text : "not finite", &ignored) != LT_OK)
        lt_log(LT_LOG_WARN, "%s", ignored.text);
    return status;
}

/* Where the frames of a chunk lie; *there: on the device. It is only offered where a plan without tiles has said so, and then no clip
 * has any: tile = none is what it is from then on. */
static lt_status find_pixels(encode_state *state, const lt_payload *frames, lt_tensor *pixels, bool *there,
                             lt_err *err)
{
    lt_share *share;
    lt_context *run = state->host.run;
    lt_status status = lt_inlet_open(&state->inlet, run, frames, &share, err);
    *there = !status && share;
    if (!*there) return status;
    size_t offset = (size_t)((char *)frames->spans[0].data - (char *)frames->data);
    *pixels = lt_share_tensor(run, share, offset, pixels->dtype, 4, pixels->shape);
    return run->err.status ? lt_context_status(run, err) : LT_OK;
}

/* kept: the chunk's latents once more, on the device; LT_NONE: not. */
static lt_status compute(encode_state *state, unit_of *u, const lt_stream *in, const lt_payload *frames,
                         lt_tensor kept, lt_err *err)
{
    encode_clip *c = u->clip;
    const lt_span *span = &frames->spans[0];
    lt_tensor pixels = {span->data, c->geometry.pixels, 4, {u->n, in->height, in->width, 3}, 0};
    if (frames->n_spans != 1 || span->first != (uint64_t)u->first || span->count != (uint64_t)u->n ||
        span->dtype != in->dtype || span->bytes != lt_tensor_bytes(&pixels))
        return lt_fail(err, LT_E_FORMAT, "clip %s: the chunk at frame %lld is not %lld frames of %ux%u",
                       in->name, (long long)u->first, (long long)u->n, in->width, in->height);
    bool there;
    lt_status status = find_pixels(state, frames, &pixels, &there, err);
    if (status) return status;
    status = lt_encode_frames_there(state->host.run, state->host.vae, &c->geometry.plan, pixels, there,
                                    (int)in->bits, state->mean, state->logvar, kept, err);
    lt_stage_device_report(&state->host.device, state->host.run);
    if (!status) status = lt_inlet_check(&state->inlet, frames, 1, err);
    if (status) {
        lt_err_prefix(err, "clip %s, chunk at frame %lld", in->name, (long long)u->first);
        return status;
    }
    status = check_finite(state, u, "latent", state->mean, err);
    if (status == LT_OK && state->logvar) status = check_finite(state, u, "logvar", state->logvar, err);
    if (status) return status;
    round_values(c, state->mean, state->latents, u->n);
    if (state->logvar) round_values(c, state->logvar, state->logvars, u->n);
    return LT_OK;
}

/* Where the unit's latents can be left on the device, for the consumer to find them there; LT_NONE: on the host. */
static lt_status place_on_device(encode_state *state, const unit_of *u, lt_tensor *kept, lt_err *err)
{
    const lt_encode_geometry *g = &u->clip->geometry;
    lt_share *share = NULL;
    *kept = LT_NONE;
    if (!g->may_leave) return LT_OK;
    lt_status status = lt_outlet_open(&state->outlet, state->setup, state->host.run, u->output, &share, err);
    if (status || !share) return status;
    const int64_t shape[] = {u->n, g->height, g->width, g->channels};
    *kept = lt_share_tensor(state->host.run, share, 0, g->dtype, 4, shape);
    return lt_context_status(state->host.run, err);
}

static lt_status leave_on_device(encode_state *state, const unit_of *u, const lt_tensor *kept, lt_err *err)
{
    lt_status status = lt_payload_add(u->output, (uint64_t)u->first, (uint64_t)u->n,
                                      (Lt__Wire__Dtype)(kept->dtype + 1), lt_tensor_bytes(kept), NULL, err);
    if (!status) lt_outlet_give(&state->outlet, state->host.run, u->output);
    return status ? status : lt_context_status(state->host.run, err);
}

static lt_status encode_process(void *opaque, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                                lt_payload *output, lt_err *err)
{
    encode_state *state = opaque;
    encode_clip *c = clip->state;
    lt_status status = LT_E_NOT_FOUND;
    unit_of u = {.clip = c, .first = (int64_t)unit * c->geometry.chunk, .output = output};
    u.n = LT_MIN(c->geometry.chunk, c->geometry.n_frames - u.first);
    if (u.n <= 0) return lt_fail(err, LT_E_INTERNAL, "unit %" PRIu64 " lies behind the end", unit);
    if (c->cache)
        status = lt_cache_read(c->cache, c->record.clip, c->record.digest, u.first, give_cached, &u, err);
    if (status == LT_OK) lt_stage_cached(clip);
    if (status != LT_E_NOT_FOUND) return status;
    if (!inputs || !inputs[0])
        return lt_fail(err, LT_E_TRANSIENT, "clip %s, frame %lld: what the cache had is gone from it",
                       c->record.clip, (long long)u.first);
    lt_tensor kept;
    status = place_on_device(state, &u, &kept, err);
    if (!status) status = compute(state, &u, clip->inputs[0], inputs[0], kept, err);
    if (status) return status;
    if (c->cache) {
        c->record.side_path = lt_record_side(clip->output, &c->side_missed);
        status = lt_cache_put(c->cache, &c->record, u.first, state->latents, state->logvars, NULL, err);
        if (status) return status;
    }
    if (kept.data) return leave_on_device(state, &u, &kept, err);
    return lt_record_give(&c->record, u.first, u.n, state->latents, state->logvars, output, err);
}

/* ---- the descriptor ------------------------------------------------------------------------------------ */

static const lt_port inputs[] = {
    {"frames", 1u << LT__WIRE__PORT_KIND__PORT_FRAMES, "pictures in RGB, width and height multiples of 8"}};
static const lt_port outputs[] = {
    {"latents", 1u << LT__WIRE__PORT_KIND__PORT_LATENTS, "means of the VAE's encoder, unscaled"}};

const lt_stage lt_vae_encode_stage = {
    .kind = "vae_encode",
    .help = "Encodes frames with a VAE. Latents are kept in the cache, where the graph has one; what is "
            "there is neither "
            "decoded nor computed again.",
    .inputs = inputs,
    .outputs = outputs,
    .n_inputs = 1,
    .n_outputs = 1,
    .options = options,
    .n_options = (int)LT_COUNT(options),
    .config_bytes = sizeof(lt_vae_encode_config),
    .replicable = true,
    .plan = lt_encode_stage_plan,
    .create = encode_create,
    .destroy = encode_destroy,
    .open_clip = encode_open_clip,
    .need = encode_need,
    .process = encode_process,
    .ended = encode_ended,
    .finish_clip = encode_finish_clip,
};
