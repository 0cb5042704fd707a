/* vae_decode.c - filter: chunks of latents to windows of frames. A window depends on nothing but its latents, so any
 * replica may make it; what windows share travels as weighted sums, which the consumer adds up. */
#include "stages/vae_decode/vae_decode.h"

#include "proto/wire.h"
#include "stages/device/handover.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(lt_vae_decode_config, field)
static const lt_option options[] = {
    LT_VAE_COMMON_OPTIONS(
        "tiles a window is cut into: auto (the least work that fits in memory, none where the frame does), "
        "none, or WIDTHxHEIGHT"),
    {"window", LT_OPT_INT, AT(window), "0", 0, 4096, NULL, "frames",
     "decoded together; part of the result's definition for a temporal VAE; 0: 32, or a chunk where frames "
     "stand alone",
     false},
    {"stride", LT_OPT_INT, AT(stride), "0", 0, 4096, NULL, "frames",
     "from one window's start to the next; the rest overlaps and is blended; 0: three quarters of the window",
     false},
    {"tile_stride", LT_OPT_STRING, AT(tile_stride), "auto", 0, 0, NULL, "pixels",
     "from one tile's start to the next, WIDTHxHEIGHT; auto: the tile less 128 pixels, at least half of it",
     false},
    {"bits", LT_OPT_ENUM, AT(bits), "8", 0, 0, "8|16", NULL, "bits a sample of the frames", false},
};
#undef AT

typedef struct decode_state {
    const lt_setup *setup;
    const lt_vae_decode_config *config;
    lt_vae_host host;
    lt_inlet inlet;
    char numeric_class[LT_NUMERIC_CLASS_MAX];
    /* Room for one window of the largest clip so far: one is made at a time, however many clips are open. */
    void *latents;      /* [n,h,w,C] in the stream's dtype */
    float *sums;        /* [n,H,W,3] */
    lt_context *pixels; /* f32 on the CPU: values of a frame to bytes */
    size_t latent_bytes, sum_bytes, pixel_bytes;
} decode_state;

/* One clip, and the stage's buffers. */
typedef struct decode_clip {
    lt_decode_geometry geometry;
    decode_state *state;
} decode_clip;

/* ---- opening ------------------------------------------------------------------------------------------- */

static void decode_destroy(void *opaque)
{
    decode_state *state = opaque;
    if (!state) return;
    lt_context_destroy(state->pixels);
    free(state->latents);
    free(state->sums);
    lt_inlet_close(&state->inlet);
    lt_vae_host_close(&state->host);
    free(state);
}

static lt_status decode_create(void **out, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    decode_state *state = calloc(1, sizeof *state);
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    state->setup = setup;
    state->config = setup->config;
    lt_status status =
        lt_vae_host_open(&state->host, &state->config->common, LT_VAE_DECODER, setup->threads, err);
    if (status) {
        decode_destroy(state);
        return status;
    }
    snprintf(state->numeric_class, sizeof state->numeric_class, "%s", state->host.dry->numeric_class);
    *numeric_class = state->numeric_class;
    *out = state;
    return LT_OK;
}

static lt_status grow(void **buffer, size_t *have, size_t bytes, lt_err *err)
{
    if (bytes <= *have) return LT_OK;
    free(*buffer);
    *have = 0;
    *buffer = malloc(bytes);
    if (!*buffer) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a window of %zu bytes", bytes);
    *have = bytes;
    return LT_OK;
}

static lt_status make_room(decode_state *state, const lt_decode_geometry *g, lt_err *err)
{
    size_t pixels = lt_round_up(lt_decode_pixel_bytes(g), 64);
    lt_status status = grow(&state->latents, &state->latent_bytes, lt_decode_latent_bytes(g), err);
    if (!status) status = grow((void **)&state->sums, &state->sum_bytes, lt_decode_sum_bytes(g), err);
    if (status || pixels <= state->pixel_bytes) return status;
    lt_context_destroy(state->pixels);
    state->pixels = NULL;
    state->pixel_bytes = 0;
    status = lt_context_create(&state->pixels, "cpu", LT_F32, pixels, state->host.threads, err);
    if (!status) state->pixel_bytes = pixels;
    return status;
}

static lt_status decode_open_clip(void *opaque, lt_clip *clip, lt_err *err)
{
    decode_state *state = opaque;
    lt_status status = LT_OK;
    decode_clip *c = calloc(1, sizeof *c);
    if (!c) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_decode_geometry *g = &c->geometry;
    LT_TRY(lt_decode_geometry_of(state->config, &state->host, clip->inputs[0], state->setup->input_device[0],
                                 g, err));
    LT_TRY(lt_decode_describe(&state->host, clip->inputs[0], g, clip->output, clip->arena, err));
    LT_TRY(lt_vae_host_reserve(&state->host, g->cost.workspace_bytes, err));
    LT_TRY(make_room(state, g, err));
    c->state = state;
    clip->n_units = clip->output->n_units;
    clip->state = c;
    return LT_OK;
fail:
    free(c);
    return status;
}

static lt_status decode_ended(void *opaque, lt_clip *clip, lt_err *err)
{
    decode_clip *c = clip->state;
    lt_decode_geometry *g = &c->geometry;
    g->endless = false;
    g->n_frames = (int64_t)clip->inputs[0]->n_frames;
    g->n_windows = lt_decode_windows_count(&g->plan, g->n_frames);
    clip->output->n_frames = (uint64_t)g->n_frames;
    clip->output->n_units = (uint64_t)g->n_windows;
    return LT_OK;
}

static lt_status decode_finish_clip(void *opaque, lt_clip *clip, bool complete, const char **result,
                                    lt_err *err)
{
    free(clip->state);
    clip->state = NULL;
    *result = NULL;
    return LT_OK;
}

/* ---- units --------------------------------------------------------------------------------------------- */

static lt_status decode_need(void *opaque, const lt_clip *clip, uint64_t unit, lt_need needs[LT_MAX_PORTS],
                             lt_err *err)
{
    const decode_clip *c = clip->state;
    needs[0] = lt_decode_need(&c->geometry, (int64_t)unit);
    return LT_OK;
}

/* What a window takes of a chunk of n frames: `take` of them from `skip` on, which are its own from `at` on. */
typedef struct part {
    const lt_payload *chunk;
    int64_t n, skip, take, at;
} part;

/* To where the window is put together, from where the chunk came: either may be the host's memory, or the device's. */
static lt_status put(decode_state *state, const lt_decode_geometry *g, const part *p, lt_tensor window,
                     lt_err *err)
{
    lt_context *run = state->host.run;
    lt_share *share;
    lt_status status = lt_inlet_open(&state->inlet, run, p->chunk, &share, err);
    if (status) return status;
    const lt_span *span = &p->chunk->spans[0];
    size_t frame = lt_decode_latent_bytes(g) / (size_t)g->longest;
    lt_tensor chunk = {span->data, g->dtype, 4, {p->n, g->plan.height, g->plan.width, g->channels}, 0};
    char *to = (char *)state->latents + (size_t)p->at * frame;
    if (share)
        chunk = lt_share_tensor(run, share, (size_t)((char *)span->data - (char *)p->chunk->data), g->dtype,
                                4, chunk.shape);
    lt_tensor from = lt_rows(run, chunk, p->skip, p->take);
    if (g->there) {
        lt_tensor values = share ? lt_convert(run, from, run->dtype) : lt_upload(run, from, run->dtype);
        lt_copy(run, values, lt_rows(run, window, p->at, p->take));
        lt_drop(run, &values);
    } else if (share) {
        lt_download(run, from, g->dtype, to);
        lt_wait(run);
    } else {
        memcpy(to, from.data, (size_t)p->take * frame);
    }
    return run->err.status ? lt_context_status(run, err) : LT_OK;
}

/* Latents of frames first .. first+n-1 from the chunks that cover them, one after the other. */
static lt_status gather(const decode_clip *c, const lt_stream *in, const lt_payload *chunks,
                        uint64_t first_chunk, int64_t first, int64_t n, lt_tensor window, lt_err *err)
{
    const lt_decode_geometry *g = &c->geometry;
    size_t frame = lt_decode_latent_bytes(g) / (size_t)g->longest;
    lt_status status = LT_OK;
    for (int64_t at = first; at < first + n && !status;) {
        int64_t start = at / g->chunk * g->chunk, count = LT_MIN(g->chunk, g->n_frames - start);
        const lt_payload *chunk = &chunks[(uint64_t)(at / g->chunk) - first_chunk];
        const lt_span *span = &chunk->spans[0];
        if (chunk->n_spans != 1 + lt_stream_has_logvar(in) || span->first != (uint64_t)start ||
            span->count != (uint64_t)count || span->dtype != in->dtype ||
            span->bytes != (size_t)count * frame)
            return lt_fail(err, LT_E_FORMAT, "clip %s: the chunk at frame %lld is not %lld frames of latents",
                           in->name, (long long)start, (long long)count);
        part p = {chunk, count, at - start, LT_MIN(start + count, first + n) - at, at - first};
        status = put(c->state, g, &p, window, err);
        at += p.take;
    }
    return status;
}

/* window: its latents on the device, or LT_NONE where they are in state->latents. */
static lt_status decode_window(decode_state *state, decode_clip *c, const lt_stream *in, int64_t k,
                               int64_t first, int64_t n, lt_tensor window, lt_err *err)
{
    const lt_decode_geometry *g = &c->geometry;
    lt_tensor latents = {c->state->latents, g->dtype, 4, {n, g->plan.height, g->plan.width, g->channels}, 0};
    lt_status status = g->there ? lt_decode_window_there(state->host.run, state->host.vae, &g->plan,
                                                         g->n_frames, k, window, c->state->sums, err)
                                : lt_decode_window(state->host.run, state->host.vae, &g->plan, g->n_frames, k,
                                                   latents, c->state->sums, err);
    lt_stage_device_report(&state->host.device, state->host.run);
    if (status) {
        lt_err_prefix(err, "clip %s, window of frames %lld to %lld", in->name, (long long)first,
                      (long long)(first + n - 1));
        return status;
    }
    int64_t frame = (int64_t)lt_decode_frame_elements(g),
            bad = lt_first_not_finite(c->state->sums, LT_F32, n * frame);
    if (bad < 0) return LT_OK;
    return lt_fail(err, LT_E_NUMERIC,
                   "clip %s, window of frames %lld to %lld: frame %lld is not finite (model %s, dtype %s)",
                   in->name, (long long)first, (long long)(first + n - 1), (long long)(first + bad / frame),
                   state->config->common.model, lt_dtype_name(lt_stage_dtype(state->config->common.dtype)));
}

/* Frames that other windows add to: weighted sums as they are. */
static lt_status give_sums(const decode_clip *c, int64_t offset, int64_t first, int64_t n, lt_payload *output,
                           lt_err *err)
{
    lt_span *span;
    size_t frame = lt_decode_frame_elements(&c->geometry), bytes = (size_t)n * frame * sizeof(float);
    if (n == 0) return LT_OK;
    lt_status status =
        lt_payload_add(output, (uint64_t)first, (uint64_t)n, LT__WIRE__DTYPE__DTYPE_F32, bytes, &span, err);
    if (status == LT_OK) memcpy(span->data, c->state->sums + (size_t)offset * frame, bytes);
    return status;
}

/* Frames of this window alone: final pixels. */
static lt_status give_pixels(const decode_clip *c, int64_t k, int64_t offset, int64_t first, int64_t n,
                             lt_payload *output, lt_err *err)
{
    const lt_decode_geometry *g = &c->geometry;
    lt_span *span;
    int64_t frame = (int64_t)lt_decode_frame_elements(g);
    size_t bytes = lt_decode_pixel_bytes(g);
    float *values = c->state->sums + offset * frame;
    if (n == 0) return LT_OK;
    lt_status status = lt_payload_add(output, (uint64_t)first, (uint64_t)n,
                                      g->bits > 8 ? LT__WIRE__DTYPE__DTYPE_U16 : LT__WIRE__DTYPE__DTYPE_U8,
                                      (size_t)n * bytes, &span, err);
    if (status == LT_OK) status = lt_decode_finish(&g->plan, g->n_frames, k, first, n, values, values, err);
    for (int64_t i = 0; i < n && status == LT_OK; i++, values += frame) {
        lt_tensor pixels = lt_values_to_pixels(c->state->pixels, (lt_tensor){values, LT_F32, 1, {frame}, 0},
                                               g->bits, g->truncate);
        if (pixels.data) memcpy((char *)span->data + (size_t)i * bytes, pixels.data, bytes);
        lt_drop(c->state->pixels, &pixels);
        status = lt_context_status(c->state->pixels, err);
    }
    return status;
}

static lt_status decode_process(void *opaque, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                                lt_payload *output, lt_err *err)
{
    decode_state *state = opaque;
    decode_clip *c = clip->state;
    int64_t k = (int64_t)unit;
    if (k >= c->geometry.n_windows)
        return lt_fail(err, LT_E_INTERNAL, "window %" PRIu64 " lies behind the end", unit);
    if (!inputs || !inputs[0])
        return lt_fail(err, LT_E_INTERNAL, "window %" PRIu64 " came without its latents", unit);
    lt_window_parts parts = lt_decode_parts(&c->geometry, k);
    lt_need need = lt_decode_need(&c->geometry, k);
    int64_t n = parts.lead + parts.own + parts.trail;
    lt_context *run = state->host.run;
    lt_tensor window = c->geometry.there ? lt_decode_new_window(run, &c->geometry, n) : LT_NONE;
    lt_status status = gather(c, clip->inputs[0], inputs[0], need.first, parts.first, n, window, err);
    if (status == LT_OK) status = decode_window(state, c, clip->inputs[0], k, parts.first, n, window, err);
    lt_drop(run, &window);
    if (status == LT_OK) status = lt_inlet_check(&state->inlet, inputs[0], need.count, err);
    if (status == LT_OK) status = give_sums(c, 0, parts.first, parts.lead, output, err);
    if (status == LT_OK)
        status = give_pixels(c, k, parts.lead, parts.first + parts.lead, parts.own, output, err);
    if (status == LT_OK)
        status = give_sums(c, parts.lead + parts.own, parts.first + parts.lead + parts.own, parts.trail,
                           output, err);
    return status;
}

static lt_status decode_check(const void *opaque, lt_err *err)
{
    const lt_vae_decode_config *config = opaque;
    if (config->window && config->stride > config->window)
        return lt_fail(err, LT_E_INVALID,
                       "window %" PRId64 " with stride %" PRId64 ": the stride is at most the window",
                       config->window, config->stride);
    if (!config->window && config->stride > LT_DEFAULT_WINDOW)
        return lt_fail(err, LT_E_INVALID,
                       "option stride is %" PRId64 ", more than the default window of %d; give a window",
                       config->stride, LT_DEFAULT_WINDOW);
    return LT_OK;
}

/* ---- the descriptor ------------------------------------------------------------------------------------ */

static const lt_port inputs[] = {
    {"latents", 1u << LT__WIRE__PORT_KIND__PORT_LATENTS, "unscaled latents, as vae_encode gives them"}};
static const lt_port outputs[] = {{"frames", 1u << LT__WIRE__PORT_KIND__PORT_WINDOWS,
                                   "windows of frames: pixels, and weighted sums where windows overlap"}};

const lt_stage lt_vae_decode_stage = {
    .kind = "vae_decode",
    .help = "Decodes latents with a VAE, in windows of frames; a temporal VAE's windows overlap and are "
            "blended by the consumer.",
    .inputs = inputs,
    .outputs = outputs,
    .n_inputs = 1,
    .n_outputs = 1,
    .options = options,
    .n_options = (int)LT_COUNT(options),
    .config_bytes = sizeof(lt_vae_decode_config),
    .replicable = true,
    .check = decode_check,
    .plan = lt_decode_stage_plan,
    .create = decode_create,
    .destroy = decode_destroy,
    .open_clip = decode_open_clip,
    .need = decode_need,
    .process = decode_process,
    .ended = decode_ended,
    .finish_clip = decode_finish_clip,
};
