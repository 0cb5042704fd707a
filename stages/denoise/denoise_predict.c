/* denoise_predict.c - noise and encoded latents at the start; then passes of the network, prompts faded into each other,
 * guidance. */
#include "stages/denoise/denoise.h"

#include "kernels/convert.h"
#include "kernels/noise.h"
#include "kernels/replay.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- life ---------------------------------------------------------------------------------------------- */

static size_t window_elements(const lt_denoise_geometry *g)
{
    int64_t first, end;
    lt_wavefront_window(&g->waves, 0, &first, &end);
    return (size_t)end * g->waves.frame_elements;
}

lt_status lt_denoise_work_init(lt_denoise_work *work, lt_denoise_model *model,
                               const lt_denoise_geometry *geometry, const lt_stream *const *inputs,
                               const char *name, uint32_t clip, lt_err *err)
{
    *work = (lt_denoise_work){.model = model,
                              .geometry = geometry,
                              .text = inputs[LT_DENOISE_TEXT],
                              .latents = inputs[LT_DENOISE_LATENTS],
                              .clip = clip,
                              .name = name};
    work->one = malloc(window_elements(geometry) * sizeof *work->one);
    work->blend = malloc(window_elements(geometry) * sizeof *work->blend);
    work->weights =
        malloc(window_elements(geometry) / geometry->waves.frame_elements * sizeof *work->weights);
    if (work->one && work->blend && work->weights) return LT_OK;
    lt_denoise_work_finish(work);
    return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the predictions of a window");
}

void lt_denoise_work_finish(lt_denoise_work *work)
{
    free(work->one);
    free(work->blend);
    free(work->weights);
    work->one = work->blend = NULL;
    work->weights = NULL;
}

/* ---- step 0 -------------------------------------------------------------------------------------------- */

/* Noise of one frame, [h,w,C]. */
static void noise_of(const lt_denoise_work *work, int64_t f, float *x)
{
    const lt_denoise_geometry *g = work->geometry;
    size_t n = g->waves.frame_elements;
    if (work->model->noise.data) {
        const char *data = work->model->noise.data; /* at any address */
        int64_t plane = (int64_t)g->height * g->width;
        for (int64_t p = 0; p < plane; p++)
            for (int64_t c = 0; c < g->channels; c++)
                memcpy(&x[p * g->channels + c],
                       data + (size_t)((c * g->n_frames + f) * plane + p) * sizeof *x, sizeof *x);
        return;
    }
    for (size_t e = 0; e < n; e += 4) {
        float block[4];
        lt_noise_block(block, (uint64_t)work->model->config->seed, work->clip, (uint64_t)f,
                       (uint32_t)(e / 4));
        memcpy(x + e, block, LT_MIN((size_t)4, n - e) * sizeof *x);
    }
}

/* Where frame f of the encoded latents lies, [h,w,C]; NULL: it did not come. */
static const void *latent_of(const lt_denoise_work *work, int64_t f)
{
    const lt_stream *in = work->latents;
    uint64_t unit = (uint64_t)f / in->chunk;
    if (unit < work->first_latent || unit >= work->first_latent + work->n_latents) return NULL;
    const lt_span *span = &work->latent_units[unit - work->first_latent].spans[0];
    size_t bytes = work->geometry->waves.frame_elements * lt_wire_dtype_bytes(in->dtype);
    if (span->dtype != in->dtype || (uint64_t)f < span->first || (uint64_t)f >= span->first + span->count ||
        span->bytes != span->count * bytes)
        return NULL;
    return (const char *)span->data + ((uint64_t)f - span->first) * bytes;
}

/* The context's tensor of host memory in some dtype; data may be NULL when dry. */
static lt_tensor bring(lt_context *c, const void *data, lt_dtype dtype, int rank, const int64_t *shape)
{
    lt_tensor host = {.data = (void *)data, .dtype = dtype, .rank = rank};
    memcpy(host.shape, shape, (size_t)rank * sizeof *shape);
    return lt_upload(c, host, c->dtype);
}

/* Encoded latents and noise to the first step: a * scaling_factor * latent + b * noise. */
static lt_status mix(lt_denoise_work *work, int64_t f, float *x, lt_err *err)
{
    size_t n = work->geometry->waves.frame_elements;
    const void *from = latent_of(work, f);
    double a, b;
    if (!from)
        return lt_fail(err, LT_E_INTERNAL, "clip %s: encoded latent %lld did not come", work->name,
                       (long long)f);
    lt_ddim_noise(&work->model->ddim, 0, &a, &b);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(a * (work->model->info->scaling_factor *
                            lt_load_f64(from, (lt_dtype)(work->latents->dtype - 1), (int64_t)i)) +
                       b * x[i]);
    return LT_OK;
}

lt_status lt_denoise_enter(void *user, int64_t first, int64_t n, float *x, lt_err *err)
{
    lt_denoise_work *work = user;
    lt_status status = LT_OK;
    for (int64_t i = 0; i < n && status == LT_OK; i++) {
        float *frame = x + (size_t)i * work->geometry->waves.frame_elements;
        noise_of(work, first + i, frame);
        if (work->latents) status = mix(work, first + i, frame, err);
    }
    return status;
}

/* ---- prompts along the timeline ------------------------------------------------------------------------ */

/* How far prompt i has come in at `seconds`. */
static double arrived(const double *at, size_t n_at, double transition, double seconds, size_t i)
{
    if (i == 0) return 1;
    if (i >= n_at) return 0;
    if (transition <= 0) return seconds >= at[i];
    return LT_MIN(LT_MAX((seconds - at[i]) / transition, 0.0), 1.0);
}

double lt_denoise_prompt_weight(const double *at, size_t n_at, double transition, double seconds, size_t i)
{
    /* What has come in, less what the ones after it have taken. */
    double part = arrived(at, n_at, transition, seconds, i);
    for (size_t j = i + 1; j < n_at && at[j] <= seconds; j++)
        part *= 1 - arrived(at, n_at, transition, seconds, j);
    return part;
}

/* ---- one pass of the network --------------------------------------------------------------------------- */

/* Parts of a text unit; sizes are those of the stream, which was checked. */
static lt_status condition_of(const lt_denoise_work *work, lt_context *c, int unit, lt_condition *condition,
                              int *n_tokens, lt_err *err)
{
    const lt_stream *text = work->text;
    const lt_denoiser_info *info = work->model->info;
    const lt_payload *payload = &work->texts[unit];
    size_t element = lt_wire_dtype_bytes(text->dtype);
    size_t sizes[2] = {element * text->width * text->height, element * text->channels};
    int span = 0;
    lt_dtype dtype = (lt_dtype)(text->dtype - 1);
    for (int part = 0; part < 2; part++) {
        if (!sizes[part]) continue;
        const lt_span *s = &payload->spans[span++];
        if (span >= payload->n_spans || s->dtype != text->dtype || s->bytes != sizes[part])
            return lt_fail(err, LT_E_FORMAT, "text %d of clip %s is not what its stream says", unit,
                           work->name);
        if (part == 0 && info->context_width)
            condition->context = bring(c, s->data, dtype, 3, (const int64_t[]){1, text->height, text->width});
        if (part == 1 && info->pooled_width)
            condition->pooled = bring(c, s->data, dtype, 2, (const int64_t[]){1, text->channels});
    }
    const lt_span *last = &payload->spans[span];
    if (payload->n_spans != span + 1 || last->bytes != sizeof(int32_t))
        return lt_fail(err, LT_E_FORMAT, "text %d of clip %s is not what its stream says", unit, work->name);
    memcpy(n_tokens, last->data, sizeof(int32_t));
    if (*n_tokens < 0 || *n_tokens > (int)LT_MAX(text->height, 1u))
        return lt_fail(err, LT_E_FORMAT, "text %d of clip %s has %d tokens", unit, work->name, *n_tokens);
    if (info->context_mask && text->height) condition->n_context = n_tokens;
    return LT_OK;
}

/* Seconds and sizes that a window is conditioned on. */
static void place_window(const lt_denoise_geometry *g, int64_t first, int64_t n, lt_condition *condition)
{
    double length = g->end_sec - g->start_sec;
    condition->start_sec = g->start_sec + length * (double)first / (double)g->n_frames;
    condition->end_sec = g->start_sec + length * (double)(first + n) / (double)g->n_frames;
    double height = g->height * g->factor, width = g->width * g->factor;
    const double ids[6] = {height, width, 0, 0, height, width};
    memcpy(condition->size_ids, ids, sizeof ids);
}

/* The tensor `what` at a step must be finite. */
static lt_status check_finite(const lt_denoise_work *work, const char *what, int64_t k, int step,
                              int64_t first, int64_t n, const float *x, lt_err *err)
{
    int64_t frame = (int64_t)work->geometry->waves.frame_elements,
            bad = lt_first_not_finite(x, LT_F32, n * frame);
    if (bad < 0) return LT_OK;
    return lt_fail(
        err, LT_E_NUMERIC,
        "clip %s, step %d of %d (timestep %g), window %lld (latents %lld to %lld): %s is not finite "
        "at latent %lld (model %s, dtype %s)",
        work->name, step + 1, work->model->ddim.n_steps, work->model->ddim.timesteps[step], (long long)k,
        (long long)first, (long long)(first + n - 1), what, (long long)(first + bad / frame),
        work->model->config->model, lt_dtype_name(work->model->dtype));
}

typedef struct network_call {
    lt_denoiser *net;
    lt_tensor input;
    double timestep;
    const lt_condition *condition;
} network_call;

static void call_network(lt_context *c, void *user, lt_tensor *results)
{
    const network_call *k = user;
    results[0] = lt_denoise(c, k->net, k->input, k->timestep, k->condition);
}

/* Windows have one shape, but at the ends; what changes from step to step the host brings. */
static lt_tensor run_network(lt_context *c, network_call *k, int n_tokens)
{
    const lt_tensor inputs[] = {k->input, k->condition->context, k->condition->pooled};
    uint64_t key = lt_replay_key(k->net, inputs, (int)LT_COUNT(inputs));
    lt_tensor y = LT_NONE;
    if (k->condition->n_context) key += (uint64_t)n_tokens;
    lt_replay(c, key, call_network, k, &y, 1);
    return y;
}

/* The network's answer to a text, to `out`. */
static lt_status pass(lt_denoise_work *work, int unit, int64_t k, int step, int64_t first, int64_t n,
                      const float *x, float *out, lt_err *err)
{
    const lt_denoise_geometry *g = work->geometry;
    lt_context *c = work->model->run;
    lt_condition condition = {0};
    char what[64];
    int n_tokens = 0;
    place_window(g, first, n, &condition);
    lt_status status = condition_of(work, c, unit, &condition, &n_tokens, err);
    const int64_t shape[5] = {1, n, g->height, g->width, g->channels};
    lt_tensor input = LT_NONE, prediction = LT_NONE;
    if (status == LT_OK) {
        input = bring(c, x, LT_F32, 5, shape);
        network_call call = {work->model->net, input, work->model->ddim.timesteps[step], &condition};
        prediction = run_network(c, &call, n_tokens);
        lt_download(c, prediction, LT_F32, out);
        status = lt_context_status(c, err);
        lt_stage_device_report(&work->model->device, c);
    }
    lt_drop(c, &prediction);
    lt_drop(c, &input);
    lt_drop(c, &condition.context);
    lt_drop(c, &condition.pooled);
    if (status)
        return lt_err_prefix(err, "clip %s, step %d, window %lld", work->name, step + 1, (long long)k);
    if (unit)
        snprintf(what, sizeof what, "the prediction for prompt %d", unit);
    else
        snprintf(what, sizeof what, "the prediction for the negative prompt");
    return check_finite(work, what, k, step, first, n, out, err);
}

/* ---- a window ------------------------------------------------------------------------------------------ */

/* Seconds of the middle of latent frame f. */
static double seconds_of(const lt_denoise_geometry *g, int64_t f)
{
    return ((double)f + 0.5) / g->fps;
}

/* Weights of prompt i over the window's frames; false: it has none. */
static bool weigh(lt_denoise_work *work, size_t i, int64_t first, int64_t n)
{
    const Lt__Wire__Text *text = work->text->text;
    bool any = false;
    for (int64_t f = 0; f < n; f++) {
        work->weights[f] = lt_denoise_prompt_weight(text->at, text->n_at, work->model->config->transition,
                                                    seconds_of(work->geometry, first + f), i);
        any |= work->weights[f] > 0;
    }
    return any;
}

/* The predictions of all prompts that are heard in the window, each frame's parts adding up to 1, to `out`. */
static lt_status fade(lt_denoise_work *work, int64_t k, int step, int64_t first, int64_t n, const float *x,
                      float *out, lt_err *err)
{
    size_t frame = work->geometry->waves.frame_elements;
    memset(out, 0, (size_t)n * frame * sizeof *out);
    for (size_t i = 0; i < work->text->text->n_at; i++) {
        if (!weigh(work, i, first, n)) continue;
        lt_status status = pass(work, (int)i + 1, k, step, first, n, x, work->one, err);
        if (status) return status;
        for (int64_t f = 0; f < n; f++)
            for (size_t e = (size_t)f * frame; e < (size_t)(f + 1) * frame; e++)
                out[e] = (float)(out[e] + work->weights[f] * work->one[e]);
    }
    return LT_OK;
}

lt_status lt_denoise_predict(void *user, int64_t k, int step, int64_t first, int64_t n, const float *x,
                             float *prediction, lt_err *err)
{
    lt_denoise_work *work = user;
    double scale = work->model->config->cfg_scale;
    size_t elements = (size_t)n * work->geometry->waves.frame_elements;
    lt_status status = check_finite(work, "the latent", k, step, first, n, x, err);
    if (status == LT_OK) status = fade(work, k, step, first, n, x, prediction, err);
    if (status || scale == 1) return status;
    status = pass(work, 0, k, step, first, n, x, work->blend, err);
    for (size_t i = 0; i < elements && status == LT_OK; i++)
        prediction[i] = (float)(work->blend[i] + scale * ((double)prediction[i] - work->blend[i]));
    return status;
}

/* ---- dry ----------------------------------------------------------------------------------------------- */

lt_status lt_denoise_dry_run(lt_denoise_model *m, int64_t t, int height, int width, const lt_stream *text,
                             lt_err *err)
{
    lt_context *c = m->dry;
    const lt_denoiser_info *info = m->info;
    lt_condition condition = {.end_sec = 1};
    int n_tokens = (int)text->height;
    const int64_t sequence[3] = {1, text->height, text->width}, pooled[2] = {1, text->channels};
    const int64_t shape[5] = {1, t, height, width, info->channels};
    lt_dtype dtype = (lt_dtype)(text->dtype - 1);
    if (info->context_width) condition.context = bring(c, NULL, dtype, 3, sequence);
    if (info->pooled_width) condition.pooled = bring(c, NULL, dtype, 2, pooled);
    if (info->context_mask && text->height) condition.n_context = &n_tokens;
    lt_tensor x = bring(c, NULL, LT_F32, 5, shape);
    lt_tensor prediction = lt_denoise(c, m->net, x, 999, &condition);
    lt_download(c, prediction, LT_F32, NULL);
    lt_drop(c, &prediction);
    lt_drop(c, &x);
    lt_drop(c, &condition.context);
    lt_drop(c, &condition.pooled);
    return lt_context_status(c, err);
}
