/* denoise_plan.c - what denoise will make, and what it takes. */
#include "stages/denoise/denoise.h"

#include "proto/wire.h"
#include "stages/digest/digest.h"
#include "stages/record/record.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Measured, RssAnon of the running process less what is counted apart: libraries, threads, sockets; and what
 * oneDNN makes for the convolutions of a UNet. */
enum { BASE_BYTES = 1600 << 10, UNET_BYTES = 1600 << 10, VAE_FACTOR = 8 };

/* ---- sizes --------------------------------------------------------------------------------------------- */

/* What lite-sora's pipelines make where nothing is said. */
static void set_defaults(const lt_denoiser_info *info, lt_size *size, int64_t *frames)
{
    int edge = info->pixels ? 64 : info->size_ids ? 1024 : 512;
    if (!size->width) *size = (lt_size){edge, edge};
    if (!*frames) *frames = info->single_frame ? 1 : info->pixels ? 64 : 128;
}

/* Sizes that encoded latents bring; options may only agree with them. */
static lt_status take_latents(const lt_denoise_model *m, const lt_stream *in, lt_size *size, int64_t *frames,
                              lt_err *err)
{
    lt_size theirs = {(int32_t)in->width * VAE_FACTOR, (int32_t)in->height * VAE_FACTOR};
    bool same = (!size->width || (size->width == theirs.width && size->height == theirs.height)) &&
                (!*frames || *frames == (int64_t)in->n_frames);
    if (in->live)
        return lt_fail(
            err, LT_E_UNSUPPORTED,
            "clip %s is live: its length is not known, and denoising asks for it; write the input to a file "
            "first",
            in->name);
    if (m->info->pixels || in->channels != (uint32_t)m->info->channels ||
        (in->factor && in->factor != VAE_FACTOR))
        return lt_fail(err, LT_E_MISMATCH,
                       "clip %s has latents of %u channels and %u pixels a cell; %s denoises %d channels%s",
                       in->name, in->channels, in->factor, m->info->name, m->info->channels,
                       m->info->pixels ? " of pixels" : " of 8 pixels a cell");
    if (!same)
        return lt_fail(err, LT_E_INVALID,
                       "the latents of clip %s are %" PRIu64
                       " frames of %dx%d; size and frames say something else: leave them out",
                       in->name, in->n_frames, theirs.width, theirs.height);
    if (*m->config->initial_noise && m->noise.shape[1] != (int64_t)in->n_frames)
        return lt_fail(err, LT_E_MISMATCH, "initial_noise has %" PRId64 " frames; the latents have %" PRIu64,
                       m->noise.shape[1], in->n_frames);
    *size = theirs;
    *frames = (int64_t)in->n_frames;
    return LT_OK;
}

static double rate_of(const lt_denoise_config *config, const lt_stream *latents)
{
    if (!latents || latents->n_pts_delta < 2) return config->fps;
    double ticks = 0;
    for (size_t i = 1; i < latents->n_pts_delta; i++) ticks += (double)latents->pts_delta[i];
    double seconds = ticks * latents->time_base_num / latents->time_base_den;
    return seconds > 0 ? (double)(latents->n_pts_delta - 1) / seconds : config->fps;
}

/* Does the text fit the network? */
static lt_status check_text(const lt_denoiser_info *info, const lt_stream *text, const lt_stream *latents,
                            lt_err *err)
{
    if (latents && latents->expendable && !text->expendable)
        return lt_fail(err, LT_E_INVALID,
                       "clips of a data set come, and one text: give each of them its own, with from = "
                       "\"STAGE\" in the text's table, where STAGE is the one that reads the clips");
    if (!text->text || text->n_units < 2) return lt_fail(err, LT_E_INVALID, "clip %s is no text", text->name);
    bool context = !info->context_width || (int)text->width == info->context_width;
    bool pooled = !info->pooled_width || (int)text->channels == info->pooled_width;
    if (context && pooled) return LT_OK;
    return lt_fail(
        err, LT_E_MISMATCH,
        "%s takes text as sequences of width %d and pooled vectors of width %d (0: none); this text encoder "
        "gives %u and %u: it is that of another network",
        info->name, info->context_width, info->pooled_width, text->width, text->channels);
}

static lt_status check_noise(const lt_denoise_model *m, const lt_denoise_geometry *g, lt_err *err)
{
    const int64_t shape[4] = {g->channels, g->n_frames, g->height, g->width};
    char text[96];
    if (!m->noise.data || memcmp(m->noise.shape, shape, sizeof shape) == 0) return LT_OK;
    return lt_fail(err, LT_E_MISMATCH, "%s: noise is %s; this video is [%d,%" PRId64 ",%d,%d]",
                   m->config->initial_noise, lt_tensor_describe(&m->noise, text, sizeof text), g->channels,
                   g->n_frames, g->height, g->width);
}

/* ---- windows ------------------------------------------------------------------------------------------- */

static lt_status set_windows(const lt_denoise_config *config, lt_denoise_geometry *g, lt_err *err)
{
    int64_t window = config->window, stride = config->stride;
    if (!stride) stride = LT_MAX(window / 2, 1);
    g->waves.n_frames = g->n_frames;
    g->waves.window = window;
    g->waves.stride = stride;
    g->waves.unreleased = g->chunk;
    g->waves.frame_elements = (size_t)g->height * (size_t)g->width * (size_t)g->channels;
    return lt_wavefront_check(&g->waves, err);
}

static int64_t window_frames(const lt_denoise_geometry *g)
{
    int64_t first, end;
    lt_wavefront_window(&g->waves, 0, &first, &end);
    return end;
}

/* The size in the user's words, where the network cannot take it. */
static lt_status check_size(const lt_denoise_model *m, const lt_denoise_geometry *g, lt_err *err)
{
    int64_t t = window_frames(g);
    lt_status status = lt_denoiser_check_size(m->net, t, g->height, g->width, err);
    if (!status) return LT_OK;
    const int *multiple = m->info->multiple;
    if (m->info->single_frame)
        return lt_err_prefix(err,
                             "%s makes single pictures: frames = 1; width and height multiples of %d and %d",
                             m->info->name, multiple[2] * g->factor, multiple[1] * g->factor);
    return lt_err_prefix(err,
                         "%s takes %s that are multiples of %d, width multiples of %d and height multiples "
                         "of %d pixels; this is "
                         "%" PRId64 " frames of %dx%d",
                         m->info->name, t == g->n_frames ? "frames" : "windows of frames", multiple[0],
                         multiple[2] * g->factor, multiple[1] * g->factor, t, g->width * g->factor,
                         g->height * g->factor);
}

lt_need lt_denoise_latents_needed(const lt_denoise_geometry *g, const lt_stream *latents, uint64_t unit)
{
    int64_t end = LT_MIN((int64_t)(unit + 1) * g->chunk, g->n_frames), before = (int64_t)unit * g->chunk;
    uint64_t from = before ? (uint64_t)lt_wavefront_entered_for(&g->waves, before) : 0;
    uint64_t to = (uint64_t)lt_wavefront_entered_for(&g->waves, end);
    if (to <= from) return (lt_need){0, 0};
    return (lt_need){from / latents->chunk, (to - 1) / latents->chunk - from / latents->chunk + 1};
}

/* Chunks of latents for a unit and the one after it. */
static uint32_t most_latents(const lt_denoise_geometry *g, const lt_stream *latents)
{
    uint64_t most = 1, last = 0, n_units = (uint64_t)((g->n_frames - 1) / g->chunk + 1);
    for (uint64_t unit = 0; unit < n_units; unit++) {
        uint64_t count = lt_denoise_latents_needed(g, latents, unit).count;
        most = LT_MAX(most, count + last);
        last = count;
    }
    return (uint32_t)LT_MIN(most, (uint64_t)UINT32_MAX);
}

/* ---- cost ---------------------------------------------------------------------------------------------- */

static lt_status measure(lt_denoise_model *m, const lt_stream *text, lt_denoise_geometry *g, lt_err *err)
{
    lt_workspace *saved = m->dry->workspace, *own;
    lt_status status = lt_workspace_create(&own, NULL, 0, err);
    if (status) return status;
    m->dry->workspace = own;
    m->dry->flops = 0;
    status = lt_denoise_dry_run(m, window_frames(g), g->height, g->width, text, err);
    m->dry->workspace = saved;
    g->workspace_bytes = lt_workspace_peak(own);
    g->weight_bytes = m->dry->packed_bytes;
    g->window_flops = m->dry->flops;
    lt_workspace_destroy(own);
    return status;
}

lt_status lt_denoise_geometry_of(lt_denoise_model *m, const lt_stream *const *inputs, lt_denoise_geometry *g,
                                 lt_err *err)
{
    const lt_denoise_config *config = m->config;
    const lt_stream *text = inputs[LT_DENOISE_TEXT], *latents = inputs[LT_DENOISE_LATENTS];
    lt_size size = config->size;
    int64_t frames = config->frames;
    lt_status status = check_text(m->info, text, latents, err);
    if (status == LT_OK && latents) status = take_latents(m, latents, &size, &frames, err);
    if (status) return status;
    set_defaults(m->info, &size, &frames);
    int factor = m->info->pixels ? 1 : VAE_FACTOR;
    *g = (lt_denoise_geometry){.n_frames = frames,
                               .chunk = config->chunk,
                               .height = size.height / factor,
                               .width = size.width / factor,
                               .channels = m->info->channels,
                               .factor = factor,
                               .fps = rate_of(config, latents),
                               .start_sec = config->start_sec};
    g->end_sec = config->end_sec > 0 ? config->end_sec : g->start_sec + (double)frames / g->fps;
    if (size.width % factor || size.height % factor)
        return lt_fail(err, LT_E_INVALID,
                       "size is %dx%d; width and height must be multiples of %d and %d pixels", size.width,
                       size.height, m->info->multiple[2] * factor, m->info->multiple[1] * factor);
    if (g->end_sec <= g->start_sec)
        return lt_fail(err, LT_E_INVALID, "end_sec %g is not after start_sec %g", g->end_sec, g->start_sec);
    g->waves.steps = m->ddim.n_steps;
    LT_TRY(set_windows(config, g, err));
    LT_TRY(check_size(m, g, err));
    LT_TRY(check_noise(m, g, err));
    g->text_units = (uint32_t)text->n_units;
    g->latent_units = latents ? most_latents(g, latents) : 0;
    return measure(m, text, g, err);
fail:
    return status;
}

/* ---- the stream ---------------------------------------------------------------------------------------- */

/* Everything that decides the latents' bytes. */
static void digest_of(const lt_denoise_model *m, const lt_denoise_geometry *g, const lt_stream *const *inputs,
                      uint32_t clip, char digest[33])
{
    const lt_stream *latents = inputs[LT_DENOISE_LATENTS];
    const lt_denoise_config *config = m->config;
    char text[1024];
    int64_t window = window_frames(g);
    int n = snprintf(
        text, sizeof text,
        "denoise 1 %s text %.64s latents %.64s %" PRId64 " frames %dx%d chunk %" PRId64 " window %" PRId64
        " %" PRId64 " cfg %.17g sec %.17g %.17g fps %.17g transition %.17g seed %" PRId64 " clip %u",
        m->digest, inputs[LT_DENOISE_TEXT]->digest, latents ? latents->digest : "none", g->n_frames, g->width,
        g->height, g->chunk, window, window == g->n_frames ? 0 : g->waves.stride, config->cfg_scale,
        g->start_sec, g->end_sec, g->fps, config->transition, config->seed, clip);
    lt_digest(text, (size_t)n, digest);
}

/* A clip that begins here: every frame lasts as long. */
static lt_status set_time(const lt_denoise_geometry *g, lt_stream *out, lt_arena *arena, lt_err *err)
{
    bool whole = g->fps == floor(g->fps);
    int64_t *delta = lt_arena_alloc(arena, (size_t)g->n_frames * sizeof *delta);
    if (!delta) return lt_fail(err, LT_E_NO_MEMORY, "no memory for %" PRId64 " timestamps", g->n_frames);
    for (int64_t i = 0; i < g->n_frames; i++) delta[i] = i > 0;
    out->time_base_num = whole ? 1 : 1000;
    out->time_base_den = (uint32_t)(whole ? g->fps : LT_MAX(lround(g->fps * 1000), 1));
    out->pts_delta = delta;
    out->n_pts_delta = (size_t)g->n_frames;
    out->last_duration = 1;
    return LT_OK;
}

static lt_status set_picture(const lt_denoise_geometry *g, lt_stream *out, lt_arena *arena, lt_err *err)
{
    Lt__Wire__Picture *picture = lt_arena_alloc(arena, sizeof *picture);
    if (!picture) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt__wire__picture__init(picture);
    picture->width = (uint32_t)(g->width * g->factor);
    picture->height = (uint32_t)(g->height * g->factor);
    picture->sample_aspect_num = picture->sample_aspect_den = 1;
    out->picture = picture;
    return LT_OK;
}

lt_status lt_denoise_describe(const lt_denoise_model *m, const lt_denoise_geometry *g,
                              const lt_stream *const *inputs, uint32_t clip, lt_stream *out, lt_arena *arena,
                              lt_err *err)
{
    const lt_stream *text = inputs[LT_DENOISE_TEXT], *latents = inputs[LT_DENOISE_LATENTS];
    const lt_denoiser_info *info = m->info;
    char digest[33];
    digest_of(m, g, inputs, clip, digest);
    lt_status status = lt_stream_copy(out, latents ? latents : text, arena, err);
    out->text = NULL;
    if (status == LT_OK && !latents) status = set_time(g, out, arena, err);
    if (status == LT_OK && !latents) status = set_picture(g, out, arena, err);
    if (status) return status;
    size_t element = info->pixels ? 1 : sizeof(float);
    out->kind = info->pixels ? LT__WIRE__PORT_KIND__PORT_FRAMES : LT__WIRE__PORT_KIND__PORT_LATENTS;
    out->dtype = info->pixels ? LT__WIRE__DTYPE__DTYPE_U8 : LT__WIRE__DTYPE__DTYPE_F32;
    out->width = (uint32_t)g->width;
    out->height = (uint32_t)g->height;
    out->channels = (uint32_t)g->channels;
    out->bits = info->pixels ? 8 : 0;
    out->chunk = (uint32_t)g->chunk;
    out->n_frames = (uint64_t)g->n_frames;
    out->n_units = (uint64_t)((g->n_frames - 1) / g->chunk + 1);
    out->unit_bytes = (uint64_t)LT_MIN(g->chunk, g->n_frames) * g->waves.frame_elements * element;
    out->scaling_factor = info->pixels ? 0 : info->scaling_factor;
    out->factor = info->pixels ? 0 : VAE_FACTOR;
    lt_cache_clip made = {.model = m->config->model,
                          .weights = info->digest,
                          .numerics = info->numerics == LT_NUMERICS_LITE_SORA ? "lite-sora" : "diffusers",
                          .encoding = "denoised"};
    status = lt_record_tell(&made, out, arena, err);
    if (status) return status;
    out->caption = lt_arena_strdup(arena, text->caption);
    out->digest = lt_arena_strdup(arena, digest);
    if (!latents) out->fingerprint = out->digest;
    out->numeric_class = lt_arena_strdup(arena, m->dry->numeric_class);
    return out->caption && out->digest && out->numeric_class ? LT_OK
                                                             : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

/* ---- planning ------------------------------------------------------------------------------------------ */

/* Passes of the network over all windows of all steps. */
static double count_passes(const lt_denoise_model *m, const lt_denoise_geometry *g, const lt_stream *text)
{
    const Lt__Wire__Text *prompts = text->text;
    double passes = 0;
    int64_t n = lt_wavefront_n_windows(&g->waves);
    for (int64_t k = 0; k < n; k++) {
        int64_t first, end;
        lt_wavefront_window(&g->waves, k, &first, &end);
        double from = (double)first / g->fps, to = (double)end / g->fps;
        for (size_t i = 0; i < prompts->n_at; i++) {
            bool begun = i == 0 || prompts->at[i] < to;
            bool over = i + 1 < prompts->n_at && prompts->at[i + 1] + m->config->transition <= from;
            passes += begun && !over;
        }
        passes += m->config->cfg_scale != 1;
    }
    return passes * g->waves.steps;
}

static void add_notes(const lt_denoise_model *m, const lt_denoise_geometry *g, lt_plan *plan)
{
    static const char *const spacings[] = {"lite-sora", "leading", "trailing", "linspace"};
    int64_t windows = lt_wavefront_n_windows(&g->waves), live = lt_wavefront_live(&g->waves);
    if (windows == 1)
        lt_plan_note(plan, "%s: the whole sequence of %" PRId64 " frames, %dx%d, at once", m->info->name,
                     g->n_frames, g->width * g->factor, g->height * g->factor);
    else
        lt_plan_note(plan, "%s: %" PRId64 " windows of %" PRId64 " frames every %" PRId64 ", %dx%d",
                     m->info->name, windows, window_frames(g), g->waves.stride, g->width * g->factor,
                     g->height * g->factor);
    lt_plan_note(plan,
                 "first frames after %" PRId64 " window evaluations of %" PRId64 "; at most %" PRId64
                 " live latent frames, %.0f MiB",
                 lt_wavefront_first_evaluations(&g->waves), lt_wavefront_n_evaluations(&g->waves), live,
                 (double)lt_wavefront_bytes(&g->waves) / 0x1p20);
    lt_plan_note(plan, "%d steps, spacing %s, %s, guidance %g%s; computes as %s", m->ddim.n_steps,
                 spacings[m->ddim.params.spacing],
                 m->ddim.params.prediction == LT_PREDICT_V ? "v-prediction" : "noise", m->config->cfg_scale,
                 m->config->cfg_scale == 1 ? " (one pass)" : "", m->dry->numeric_class);
    if (*m->note) lt_plan_note(plan, "%s", m->note);
    if (m->config->numerics == LT_NUMERICS_AUTO)
        lt_plan_resolve(plan, "numerics", "%s",
                        m->info->numerics == LT_NUMERICS_LITE_SORA ? "lite-sora" : "diffusers");
}

/* Anonymous memory at the peak beside the network: the wavefront, its frontier as bytes twice (ours, and the transaction's). */
static size_t peak_bytes(const lt_denoise_model *m, const lt_denoise_geometry *g)
{
    size_t frame = g->waves.frame_elements * sizeof(float), live = (size_t)lt_wavefront_live(&g->waves);
    size_t window = (size_t)window_frames(g) * frame, chunk = (size_t)LT_MIN(g->chunk, g->n_frames) * frame;
    return BASE_BYTES + (m->info->size_ids ? UNET_BYTES : 0) + lt_wavefront_bytes(&g->waves) +
           4 * live * frame + 2 * window + 4 * chunk;
}

lt_status lt_denoise_stage_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan,
                                lt_err *err)
{
    const lt_denoise_config *config = setup->config;
    lt_denoise_model m;
    lt_denoise_geometry g;
    lt_status status = lt_denoise_model_open(&m, config, setup->threads, err);
    if (status) return status;
    LT_TRY(lt_denoise_geometry_of(&m, inputs, &g, err));
    LT_TRY(lt_denoise_describe(&m, &g, inputs, 0, plan->output, plan->arena, err));
    plan->peak_bytes = peak_bytes(&m, &g);
    LT_TRY(lt_stage_device_plan(&m.device, config->device, m.dry, g.workspace_bytes, g.weight_bytes,
                                config->window ? "make the window smaller"
                                               : "give it a window, or make the video smaller",
                                plan, err));
    if (config->memory > 0 && LT_MAX(plan->peak_bytes, plan->device_bytes) > (uint64_t)config->memory)
        LT_TRY(lt_fail(
            err, LT_E_NO_MEMORY, "denoise takes %.0f MiB; memory is %.0f MiB: make the window%s smaller",
            (double)LT_MAX(plan->peak_bytes, plan->device_bytes) / 0x1p20, (double)config->memory / 0x1p20,
            config->window ? "" : " (there is none: the whole video is denoised at once) or the video"));
    plan->in_flight[LT_DENOISE_TEXT] = g.text_units;
    plan->in_flight[LT_DENOISE_LATENTS] = g.latent_units;
    plan->disk_bytes = (uint64_t)g.n_frames * g.waves.frame_elements * sizeof(float) +
                       4 * (uint64_t)lt_wavefront_live(&g.waves) * g.waves.frame_elements * sizeof(float);
    plan->flops = g.window_flops * count_passes(&m, &g, inputs[LT_DENOISE_TEXT]);
    plan->work_factor =
        (double)lt_wavefront_n_windows(&g.waves) * (double)window_frames(&g) / (double)g.n_frames;
    add_notes(&m, &g, plan);
fail:
    lt_denoise_model_close(&m);
    return status;
}
