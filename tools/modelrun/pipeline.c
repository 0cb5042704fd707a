/* pipeline.c - the part `pipeline`: a denoising network over all steps of DDIM, with guidance, from given noise. */
#include "kernels/convert.h"
#include "models/ddim.h"
#include "models/denoiser.h"
#include "models/wavefront.h"
#include "tools/modelrun/part.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a text is to the network. Tensors are f32 on the heap. */
typedef struct text {
    lt_tensor context, pooled;
    int n_tokens;
} text;

/* What a run holds until its end. */
typedef struct run {
    const arguments *a;
    lt_denoiser *denoiser;
    const lt_denoiser_info *info;
    lt_context *dry, *context;
    lt_ddim ddim;
    lt_wavefront *waves;
    lt_tensor noise; /* f32 [T,h,w,C] */
    text texts[2];   /* negative, positive */
    double cfg_scale, start_sec, end_sec;
    float *other; /* of the noise's size */
} run;

static double number(const lt_safetensors *in, const char *key, double otherwise)
{
    const char *value = lt_safetensors_metadata(in, key);
    return value ? strtod(value, NULL) : otherwise;
}

/* A tensor of floats as f32 in new memory; *to stays LT_NONE where the file has none. */
static lt_status load(const run *r, const lt_safetensors *in, const char *name, int rank, lt_tensor *to,
                      lt_err *err)
{
    lt_tensor from;
    char words[96];
    if (lt_safetensors_get(in, name, &from, NULL)) return LT_OK;
    if (from.rank != rank || !lt_dtype_is_float(from.dtype) || from.shape[0] != 1)
        return lt_fail(err, LT_E_INVALID, "%s: %s is %s; wanted floats of rank %d, one sample", r->a->in,
                       name, lt_tensor_describe(&from, words, sizeof(words)), rank);
    lt_status status = part_new(to, rank, from.shape, err);
    for (int64_t i = 0; status == LT_OK && i < lt_n_elements(&from); i++)
        ((float *)to->data)[i] = (float)lt_load_f64(from.data, from.dtype, i);
    return status;
}

/* [C,T,cells] and [T,cells,C], from the first to the second or back. */
static void turn(const float *from, float *to, const int64_t shape[4], bool to_last)
{
    int64_t frames = shape[0], cells = shape[1] * shape[2], channels = shape[3];
    for (int64_t t = 0; t < frames; t++)
        for (int64_t p = 0; p < cells; p++)
            for (int64_t c = 0; c < channels; c++) {
                int64_t last = (t * cells + p) * channels + c, first = (c * frames + t) * cells + p;
                to[to_last ? last : first] = from[to_last ? first : last];
            }
}

static lt_status load_noise(run *r, const lt_safetensors *in, lt_err *err)
{
    lt_tensor given = LT_NONE;
    lt_status status = load(r, in, "noise", 5, &given, err);
    if (status) return status;
    if (!given.data) return lt_fail(err, LT_E_NOT_FOUND, "%s: no tensor noise [1,C,T,h,w]", r->a->in);
    const int64_t shape[4] = {given.shape[2], given.shape[3], given.shape[4], given.shape[1]};
    status = part_new(&r->noise, 4, shape, err);
    if (status == LT_OK && shape[3] != r->info->channels)
        status = lt_fail(err, LT_E_INVALID, "%s: noise has %lld channels; %s denoises %d", r->a->in,
                         (long long)shape[3], r->info->name, r->info->channels);
    if (status == LT_OK) status = lt_denoiser_check_size(r->denoiser, shape[0], shape[1], shape[2], err);
    if (status == LT_OK) turn(given.data, r->noise.data, shape, true);
    free(given.data);
    return status;
}

static lt_status load_texts(run *r, const lt_safetensors *in, lt_err *err)
{
    static const char *const which[] = {"negative", "positive"};
    for (int i = 0; i < 2; i++) {
        char name[64];
        text *t = &r->texts[i];
        snprintf(name, sizeof(name), "%s.context", which[i]);
        lt_status status = load(r, in, name, 3, &t->context, err);
        if (status) return status;
        if (r->info->context_width && !t->context.data)
            return lt_fail(err, LT_E_NOT_FOUND, "%s: no tensor %s [1,L,%d]", r->a->in, name,
                           r->info->context_width);
        snprintf(name, sizeof(name), "%s.pooled", which[i]);
        status = load(r, in, name, 2, &t->pooled, err);
        if (status) return status;
        if (r->info->pooled_width && !t->pooled.data)
            return lt_fail(err, LT_E_NOT_FOUND, "%s: no tensor %s [1,%d]", r->a->in, name,
                           r->info->pooled_width);
        snprintf(name, sizeof(name), "%s_tokens", which[i]);
        t->n_tokens = (int)number(in, name, t->context.data ? (double)t->context.shape[1] : 0);
    }
    return LT_OK;
}

/* ---- predictions --------------------------------------------------------------------------------------------------------- */

/* One pass for a text, in a dry context or in a real one, to out (NULL: nowhere). */
static lt_status pass(run *r, lt_context *c, const text *t, double timestep, const float *x, float *out,
                      lt_err *err)
{
    lt_dtype dtype = c->dtype == LT_F64 ? LT_F32 : c->dtype;
    const int64_t *s = r->noise.shape;
    int edge = r->info->pixels ? 1 : 8;
    double height = (double)(s[1] * edge), width = (double)(s[2] * edge);
    lt_condition condition = {
        .start_sec = r->start_sec, .end_sec = r->end_sec, .size_ids = {height, width, 0, 0, height, width}};
    lt_tensor host = {(void *)x, LT_F32, 5, {1, s[0], s[1], s[2], s[3]}, 0};
    if (r->info->context_width) condition.context = lt_upload(c, t->context, dtype);
    if (r->info->pooled_width) condition.pooled = lt_upload(c, t->pooled, dtype);
    if (r->info->context_mask) condition.n_context = &t->n_tokens;
    lt_tensor input = lt_upload(c, host, dtype), y = lt_denoise(c, r->denoiser, input, timestep, &condition);
    lt_download(c, y, LT_F32, out);
    lt_status status = lt_context_status(c, err);
    lt_drop(c, &y);
    lt_drop(c, &input);
    lt_drop(c, &condition.context);
    lt_drop(c, &condition.pooled);
    return status;
}

static lt_status enter(void *user, int64_t first, int64_t n, float *x, lt_err *err)
{
    const run *r = user;
    size_t frame = (size_t)(lt_n_elements(&r->noise) / r->noise.shape[0]);
    memcpy(x, (const float *)r->noise.data + (size_t)first * frame, (size_t)n * frame * sizeof(*x));
    return LT_OK;
}

static lt_status predict(void *user, int64_t k, int step, int64_t first, int64_t n, const float *x,
                         float *prediction, lt_err *err)
{
    run *r = user;
    double timestep = r->ddim.timesteps[step];
    lt_status status = pass(r, r->context, &r->texts[1], timestep, x, prediction, err);
    if (status || r->cfg_scale == 1) return status;
    status = pass(r, r->context, &r->texts[0], timestep, x, r->other, err);
    for (int64_t i = 0; status == LT_OK && i < lt_n_elements(&r->noise); i++)
        prediction[i] = (float)(r->other[i] + r->cfg_scale * ((double)prediction[i] - r->other[i]));
    return status;
}

/* ---- the run --------------------------------------------------------------------------------------------------------------- */

static lt_status prepare(run *r, const lt_safetensors *in, lt_err *err)
{
    double a[LT_DDIM_MAX_STEPS], b[LT_DDIM_MAX_STEPS];
    lt_wavefront_calls calls = {.user = r, .enter = enter, .predict = predict};
    lt_ddim_params params = lt_ddim_defaults();
    lt_status status;
    LT_TRY(load_noise(r, in, err));
    LT_TRY(load_texts(r, in, err));
    params.betas = r->info->beta_linear ? LT_BETAS_LINEAR : LT_BETAS_SCALED_LINEAR;
    params.beta_start = r->info->beta_start;
    params.beta_end = r->info->beta_end;
    params.steps = (int)number(in, "steps", 20);
    LT_TRY(lt_ddim_init(&r->ddim, &params, err));
    r->cfg_scale = number(in, "cfg_scale", 1);
    r->start_sec = number(in, "start_sec", 0);
    r->end_sec = number(in, "end_sec", 1);
    for (int i = 0; i < r->ddim.n_steps; i++) lt_ddim_step(&r->ddim, i, &a[i], &b[i]);
    lt_wavefront_params waves = {.n_frames = r->noise.shape[0],
                                 .steps = r->ddim.n_steps,
                                 .frame_elements = (size_t)(lt_n_elements(&r->noise) / r->noise.shape[0])};
    LT_TRY(lt_wavefront_create(&r->waves, &waves, a, b, &calls, err));
    r->other = malloc(lt_tensor_bytes(&r->noise));
    if (!r->other) LT_TRY(lt_fail(err, LT_E_NO_MEMORY, "out of memory"));
fail:
    return status;
}

/* The finished latents as [1,C,T,h,w]. */
static lt_status give(run *r, results *results, lt_err *err)
{
    const int64_t *s = r->noise.shape, shape[5] = {1, s[3], s[0], s[1], s[2]};
    lt_status status = lt_wavefront_read(r->waves, 0, s[0], r->other, err);
    lt_tensor *out = &results->tensors[results->n].tensor;
    if (status == LT_OK) status = part_new(out, 5, shape, err);
    if (status) return status;
    results->tensors[results->n++].name = "latents";
    turn(r->other, out->data, s, false);
    return LT_OK;
}

static lt_status execute(run *r, const lt_safetensors *in, results *results, lt_err *err)
{
    lt_status status;
    char note[600];
    LT_TRY(lt_denoiser_open(&r->denoiser, r->a->model, LT_DENOISER_N_KINDS, r->a->numerics, note,
                            sizeof(note), err));
    if (note[0]) fprintf(stderr, "modelrun: %s\n", note);
    r->info = lt_denoiser_get_info(r->denoiser);
    LT_TRY(prepare(r, in, err));
    LT_TRY(part_context(&r->dry, r->a, 0, err));
    LT_TRY(pass(r, r->dry, &r->texts[1], 0, r->noise.data, NULL, err));
    LT_TRY(part_context(&r->context, r->a, lt_workspace_peak(r->dry->workspace), err));
    while ((status = lt_wavefront_evaluate(r->waves, r->noise.shape[0], NULL, err)) == LT_OK) {
    }
    if (status == LT_END) status = give(r, results, err);
fail:
    return status;
}

static lt_status run_pipeline(const arguments *a, const lt_safetensors *in, results *results, lt_err *err)
{
    run r = {.a = a};
    lt_status status = execute(&r, in, results, err);
    lt_wavefront_destroy(r.waves);
    lt_denoiser_close(r.denoiser, r.context ? r.context : r.dry);
    lt_context_destroy(r.context);
    lt_context_destroy(r.dry);
    for (int i = 0; i < 2; i++) {
        free(r.texts[i].context.data);
        free(r.texts[i].pooled.data);
    }
    free(r.noise.data);
    free(r.other);
    return status;
}

const part part_pipeline = {
    .name = "pipeline",
    .help = "pipeline, all steps of a denoising network -> latents [1,C,T,h,w], as lite-sora's pipelines "
            "hand them to the\n"
            "  decoder:\n"
            "  noise [1,C,T,h,w]; of positive and negative: positive.context [1,L,C], positive.pooled [1,C], "
            "what the network "
            "takes;\n"
            "  in the file's metadata steps (20), cfg_scale (1), start_sec, end_sec, positive_tokens, "
            "negative_tokens (all)\n",
    .run = run_pipeline,
};
