/* denoise.c - filter: prompts, and perhaps encoded latents, to denoised latents or frames, in order along a wavefront. */
#include "stages/denoise/denoise.h"

#include "proto/wire.h"
#include "stages/digest/digest.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A diagonal that takes longer is kept in parts. */
static const int64_t keep_every_ns = 10000000000;

#define AT(field) offsetof(lt_denoise_config, field)
static const lt_option options[] = {
    {"model", LT_OPT_PATH, AT(model), NULL, 0, 0, NULL, NULL,
     "denoising network: a lite-sora checkpoint as safetensors, a diffusers folder of a PixArt transformer "
     "or an SDXL UNet, "
     "or a whole SDXL checkpoint",
     false},
    {"as", LT_OPT_ENUM, AT(as), "auto", 0, 0, "auto|video_dit_v1|video_dit_v2|pixart|pixart_video|sdxl_3d",
     NULL, "which network; auto: names and shapes decide", false},
    {"steps", LT_OPT_INT, AT(steps), "20", 1, LT_DDIM_MAX_STEPS, NULL, NULL, "of DDIM", false},
    {"cfg_scale", LT_OPT_FLOAT, AT(cfg_scale), "1", 0, 100, NULL, NULL,
     "guidance: negative + scale * (prompt - negative); at 1 the negative prompt is not evaluated", false},
    {"strength", LT_OPT_FLOAT, AT(strength), "1", 0.001, 1, NULL, NULL,
     "how much of the schedule is run; below 1 encoded latents are kept in part", false},
    {"size", LT_OPT_SIZE, AT(size), "", 0, 0, NULL, "pixels",
     "of the video; default: that of the latents, else what lite-sora makes with the network", false},
    {"frames", LT_OPT_INT, AT(frames), "0", 0, LT_STREAM_FRAMES_MAX, NULL, "frames",
     "length of the video; 0: all latents, else what lite-sora makes with the network", false},
    {"fps", LT_OPT_FLOAT, AT(fps), "24", 0.01, 1000, NULL, "1/s",
     "frames a second of what is made; latents keep theirs", false},
    {"chunk", LT_OPT_INT, AT(chunk), "8", 1, 1024, NULL, "frames", "frames in a unit of flow", false},
    {"seed", LT_OPT_INT, AT(seed), "0", 0, 9007199254740992.0, NULL, NULL, "of the noise", false},
    {"start_sec", LT_OPT_SECONDS, AT(start_sec), "0", 0, 1e6, NULL, NULL,
     "when the video begins, for networks that are told", false},
    {"end_sec", LT_OPT_SECONDS, AT(end_sec), "0", 0, 1e6, NULL, NULL, "when it ends; 0: after its frames",
     false},
    {"window", LT_OPT_INT, AT(window), "0", 0, 65536, NULL, "frames",
     "denoised together; 0: the whole video, as lite-sora does", false},
    {"stride", LT_OPT_INT, AT(stride), "0", 0, 65536, NULL, "frames",
     "from one window's start to the next; where they overlap predictions are averaged at every step; 0: "
     "half the window",
     false},
    {"transition", LT_OPT_SECONDS, AT(transition), "1", 0, 1e6, NULL, NULL,
     "how long a prompt of the timeline takes to replace the one before", false},
    {"spacing", LT_OPT_ENUM, AT(spacing), "auto", 0, 0, "auto|lite-sora|leading|trailing|linspace", NULL,
     "of timesteps; auto: the scheduler's file, else lite-sora's", false},
    {"prediction", LT_OPT_ENUM, AT(prediction), "auto", 0, 0, "auto|noise|v", NULL,
     "what the network predicts; auto: the scheduler's file, else noise", false},
    {"scheduler", LT_OPT_PATH, AT(scheduler), "", 0, 0, NULL, NULL, "a scheduler_config.json of diffusers",
     false},
    {"initial_noise", LT_OPT_PATH, AT(initial_noise), "", 0, 0, NULL, NULL,
     "a safetensors file with noise [1,C,T,h,w], instead of the seed's", false},
    {"numerics", LT_OPT_ENUM, AT(numerics), "auto", 0, 0, "auto|diffusers|lite-sora", NULL,
     "whose numbers are followed where the two differ; auto: the file's names decide", false},
    LT_DEVICE_OPTIONS(lt_denoise_config, "; latents between steps are f32"),
    {"memory", LT_OPT_BYTES, AT(memory), "0", 0, 0, NULL, NULL,
     "what it may take: a plan that takes more is refused; 0: anything", true},
    {"cache_size", LT_OPT_BYTES, AT(cache_size), "1T", 1048576, 1.4e14, NULL, NULL,
     "the most the cache may hold", true},
};
#undef AT

typedef struct denoise_state {
    const lt_setup *setup;
    const lt_denoise_config *config;
    lt_denoise_model model;
    lt_arena arena;
    lt_cache *cache;
    char numeric_class[LT_NUMERIC_CLASS_MAX];
} denoise_state;

typedef struct denoise_clip {
    lt_denoise_geometry geometry;
    lt_denoise_work work;
    lt_denoise_store store;
    lt_wavefront *waves;        /* NULL: all of the clip is kept */
    _Atomic uint64_t next_unit; /* those before come from the cache */
    float *x;                   /* a chunk [n,h,w,C] */
    int64_t kept_ns;
} denoise_clip;

/* ---- opening ------------------------------------------------------------------------------------------- */

static void denoise_destroy(void *opaque)
{
    denoise_state *state = opaque;
    if (!state) return;
    lt_cache_close(state->cache);
    lt_denoise_model_close(&state->model);
    lt_arena_finish(&state->arena);
    free(state);
}

static lt_status denoise_create(void **out, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    denoise_state *state = calloc(1, sizeof *state);
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_status status;
    state->setup = setup;
    state->config = setup->config;
    LT_TRY(lt_denoise_model_open(&state->model, state->config, setup->threads, err));
    const char *folder = lt_denoise_store_folder(setup, state->model.info->pixels, &state->arena);
    if (!folder) LT_TRY(lt_fail(err, LT_E_NO_MEMORY, "out of memory"));
    LT_TRY(lt_cache_open(&state->cache, folder, true, state->config->cache_size, err));
    snprintf(state->numeric_class, sizeof state->numeric_class, "%s", state->model.dry->numeric_class);
    *numeric_class = state->numeric_class;
    *out = state;
    return LT_OK;
fail:
    denoise_destroy(state);
    return status;
}

static void free_clip(denoise_clip *c)
{
    if (!c) return;
    lt_denoise_work_finish(&c->work);
    lt_denoise_store_finish(&c->store);
    lt_wavefront_destroy(c->waves);
    free(c->x);
    free(c);
}

static lt_status make_waves(denoise_state *state, denoise_clip *c, lt_err *err)
{
    double a[LT_DDIM_MAX_STEPS], b[LT_DDIM_MAX_STEPS];
    lt_wavefront_calls calls = {.user = &c->work, .enter = lt_denoise_enter, .predict = lt_denoise_predict};
    for (int s = 0; s < state->model.ddim.n_steps; s++) lt_ddim_step(&state->model.ddim, s, &a[s], &b[s]);
    return lt_wavefront_create(&c->waves, &c->geometry.waves, a, b, &calls, err);
}

/* Go on where the clip was left. */
static lt_status resume(denoise_clip *c, uint64_t n_units, lt_err *err)
{
    bool complete = false;
    lt_status status = lt_denoise_store_resume(&c->store, c->waves, &complete, err);
    if (status) return status;
    uint64_t next = complete ? n_units : (uint64_t)(lt_wavefront_released(c->waves) / c->geometry.chunk);
    atomic_store(&c->next_unit, next);
    if (complete) {
        lt_wavefront_destroy(c->waves);
        c->waves = NULL;
    }
    return LT_OK;
}

/* The number of the clip in its noise. In a data set the name decides, wherever the clip stands there. */
static uint32_t noise_clip(const lt_clip *clip)
{
    const lt_stream *latents = clip->inputs[LT_DENOISE_LATENTS];
    char digest[33];
    if (!latents || !latents->expendable) return clip->index;
    lt_digest(latents->name, strlen(latents->name), digest);
    digest[8] = 0;
    return (uint32_t)strtoul(digest, NULL, 16);
}

static lt_status denoise_open_clip(void *opaque, lt_clip *clip, lt_err *err)
{
    denoise_state *state = opaque;
    lt_status status = LT_OK;
    denoise_clip *c = calloc(1, sizeof *c);
    if (!c) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    LT_TRY(lt_denoise_geometry_of(&state->model, clip->inputs, &c->geometry, err));
    LT_TRY(lt_denoise_describe(&state->model, &c->geometry, clip->inputs, noise_clip(clip), clip->output,
                               clip->arena, err));
    LT_TRY(lt_denoise_model_reserve(&state->model, c->geometry.workspace_bytes, err));
    LT_TRY(lt_denoise_work_init(&c->work, &state->model, &c->geometry, clip->inputs, clip->output->name,
                                noise_clip(clip), err));
    LT_TRY(lt_denoise_store_open(&c->store, state->cache, &state->model, &c->geometry, clip->output, err));
    LT_TRY(make_waves(state, c, err));
    c->x = malloc((size_t)LT_MIN(c->geometry.chunk, c->geometry.n_frames) * c->geometry.waves.frame_elements *
                  sizeof *c->x);
    if (!c->x) LT_TRY(lt_fail(err, LT_E_NO_MEMORY, "out of memory for a chunk of latents"));
    LT_TRY(resume(c, clip->output->n_units, err));
    clip->first_unit = atomic_load(&c->next_unit);
    clip->n_units = clip->output->n_units;
    clip->state = c;
    return LT_OK;
fail:
    free_clip(c);
    return status;
}

static lt_status denoise_finish_clip(void *opaque, lt_clip *clip, bool complete, const char **result,
                                     lt_err *err)
{
    free_clip(clip->state);
    clip->state = NULL;
    *result = NULL;
    return LT_OK;
}

/* ---- units --------------------------------------------------------------------------------------------- */

static lt_status denoise_need(void *opaque, const lt_clip *clip, uint64_t unit, lt_need needs[LT_MAX_PORTS],
                              lt_err *err)
{
    const denoise_clip *c = clip->state;
    needs[LT_DENOISE_TEXT] = needs[LT_DENOISE_LATENTS] = (lt_need){0, 0};
    if (unit < atomic_load(&c->next_unit)) return LT_OK;
    needs[LT_DENOISE_TEXT] = (lt_need){0, clip->inputs[LT_DENOISE_TEXT]->n_units};
    if (clip->inputs[LT_DENOISE_LATENTS])
        needs[LT_DENOISE_LATENTS] =
            lt_denoise_latents_needed(&c->geometry, clip->inputs[LT_DENOISE_LATENTS], unit);
    return LT_OK;
}

/* Latents as the network leaves them to what goes along the edge: unscaled, or bytes. */
static lt_status give(const denoise_state *state, const denoise_clip *c, int64_t first, int64_t n,
                      lt_payload *output, lt_err *err)
{
    const lt_denoiser_info *info = state->model.info;
    size_t elements = (size_t)n * c->geometry.waves.frame_elements;
    lt_span *span;
    lt_status status = lt_payload_add(output, (uint64_t)first, (uint64_t)n,
                                      info->pixels ? LT__WIRE__DTYPE__DTYPE_U8 : LT__WIRE__DTYPE__DTYPE_F32,
                                      info->pixels ? elements : elements * sizeof(float), &span, err);
    if (status) return status;
    if (!info->pixels) {
        memcpy(span->data, c->x, elements * sizeof(float));
        return LT_OK;
    }
    double half = info->numerics == LT_NUMERICS_LITE_SORA ? 0 : 0.5;
    unsigned char *bytes = span->data;
    for (size_t i = 0; i < elements; i++) {
        double value = ((double)c->x[i] + 1) * 127.5 + half;
        bytes[i] = (unsigned char)LT_MIN(LT_MAX(value, 0.0), 255.0);
    }
    return LT_OK;
}

/* What process was handed, for the calls of the wavefront. */
static void lend(denoise_clip *c, const lt_clip *clip, uint64_t unit, const lt_payload *const *inputs)
{
    c->work.texts = inputs[LT_DENOISE_TEXT];
    c->work.latent_units = inputs[LT_DENOISE_LATENTS];
    if (!clip->inputs[LT_DENOISE_LATENTS]) return;
    lt_need need = lt_denoise_latents_needed(&c->geometry, clip->inputs[LT_DENOISE_LATENTS], unit);
    c->work.first_latent = need.first;
    c->work.n_latents = need.count;
}

/* Evaluations until the frames below `end` are finished; the frontier is kept a diagonal at a time. */
static lt_status advance(denoise_clip *c, const lt_clip *clip, int64_t end, lt_err *err)
{
    bool diagonal;
    lt_status status;
    if (!c->kept_ns) c->kept_ns = lt_now_ns();
    while ((status = lt_wavefront_evaluate(c->waves, end, &diagonal, err)) == LT_OK) {
        bool is_due = diagonal || lt_now_ns() - c->kept_ns > keep_every_ns;
        if (!is_due || lt_wavefront_finished(c->waves) >= end) continue;
        status = lt_denoise_store_mark(&c->store, c->waves, err);
        if (status) return status;
        c->kept_ns = lt_now_ns();
        lt_stage_moved(clip);
    }
    return status == LT_END ? LT_OK : status;
}

/* The next unit: made, kept, and left in c->x. */
static lt_status make(denoise_state *state, denoise_clip *c, const lt_clip *clip, int64_t first, int64_t n,
                      lt_err *err)
{
    size_t elements = (size_t)n * c->geometry.waves.frame_elements;
    double scale = state->model.info->pixels ? 1 : state->model.info->scaling_factor;
    lt_status status = advance(c, clip, first + n, err);
    if (status == LT_OK) status = lt_wavefront_read(c->waves, first, n, c->x, err);
    if (status) return status;
    for (size_t i = 0; i < elements; i++) c->x[i] = (float)(c->x[i] / scale);
    int64_t bad = lt_first_not_finite(c->x, LT_F32, (int64_t)elements);
    if (bad >= 0)
        return lt_fail(err, LT_E_NUMERIC,
                       "clip %s: the latent after the last step is not finite at latent %" PRId64,
                       c->work.name, first + bad / (int64_t)c->geometry.waves.frame_elements);
    lt_wavefront_release(c->waves, first + n);
    status = lt_denoise_store_put(&c->store, first, c->x, c->waves, err);
    if (status == LT_OK) c->kept_ns = lt_now_ns();
    return status;
}

static lt_status denoise_process(void *opaque, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                                 lt_payload *output, lt_err *err)
{
    denoise_state *state = opaque;
    denoise_clip *c = clip->state;
    int64_t first = (int64_t)unit * c->geometry.chunk,
            n = LT_MIN(c->geometry.chunk, c->geometry.n_frames - first);
    uint64_t next = atomic_load(&c->next_unit);
    lt_status status;
    if (n <= 0 || unit > next)
        return lt_fail(err, LT_E_INTERNAL, "unit %" PRIu64 " was asked for before unit %" PRIu64, unit, next);
    if (unit < next) {
        status = lt_denoise_store_get(&c->store, first, c->x, err);
        if (status == LT_OK) lt_stage_cached(clip);
    } else {
        lend(c, clip, unit, inputs);
        status = make(state, c, clip, first, n, err);
        if (status == LT_OK) atomic_store(&c->next_unit, unit + 1);
    }
    return status ? status : give(state, c, first, n, output, err);
}

/* ---- the descriptor ------------------------------------------------------------------------------------ */

static lt_status denoise_check(const void *opaque, lt_err *err)
{
    const lt_denoise_config *config = opaque;
    if (config->stride && !config->window)
        return lt_fail(err, LT_E_INVALID, "stride is %" PRId64 " but there is no window: give window, too",
                       config->stride);
    if (config->stride > config->window)
        return lt_fail(err, LT_E_INVALID,
                       "window %" PRId64 " with stride %" PRId64 ": the stride is at most the window",
                       config->window, config->stride);
    return LT_OK;
}

static const lt_port inputs[] = {
    {"text", 1u << LT__WIRE__PORT_KIND__PORT_TEXT, "embeddings of prompts, as text_encode gives them"},
    {"latents", 1u << LT__WIRE__PORT_KIND__PORT_LATENTS | LT_PORT_OPTIONAL,
     "for video to video: unscaled latents, as vae_encode gives them"}};
static const lt_port outputs[] = {
    {"latents", 1u << LT__WIRE__PORT_KIND__PORT_LATENTS | 1u << LT__WIRE__PORT_KIND__PORT_FRAMES,
     "unscaled latents for vae_decode; frames where the network works on pixels"}};

const lt_stage lt_denoise_stage = {
    .kind = "denoise",
    .help = "Makes video from prompts with a denoising network: whole sequences as lite-sora does, or any "
            "length in windows that "
            "are denoised together, in constant memory.",
    .inputs = inputs,
    .outputs = outputs,
    .n_inputs = 2,
    .n_outputs = 1,
    .options = options,
    .n_options = (int)LT_COUNT(options),
    .config_bytes = sizeof(lt_denoise_config),
    .in_order = true,
    .check = denoise_check,
    .plan = lt_denoise_stage_plan,
    .create = denoise_create,
    .destroy = denoise_destroy,
    .open_clip = denoise_open_clip,
    .need = denoise_need,
    .process = denoise_process,
    .finish_clip = denoise_finish_clip,
};
