/* denoiser.c - the part `transformer`: one evaluation of a denoising network, under the names of its reference's forward. */
#include "kernels/convert.h"
#include "models/denoiser.h"
#include "tools/modelrun/part.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a run holds until its end. Tensors are f32 on the heap. */
typedef struct run {
    const arguments *a;
    lt_denoiser *denoiser;
    lt_context *dry, *context;
    lt_tensor x, text, pooled;
    bool picture; /* the input had no frames: neither has the result */
    int *n_text;  /* [N] or NULL */
    double timestep;
    lt_condition condition;
} run;

/* The names under which references take one thing. */
static const char *const x_names[] = {"hidden_states", "sample", NULL};
static const char *const step_names[] = {"timesteps", "timestep", NULL};
static const char *const text_names[] = {"encoder_hidden_states", "cross_emb", "text_emb", NULL};
static const char *const pooled_names[] = {"text_embeds", "add_text_embeds", "text_emb", NULL};
static const char *const mask_names[] = {"encoder_attention_mask", "text_flag", NULL};
static const char *const size_names[] = {"resolution", "time_ids", "add_time_id", NULL};

static lt_tensor find(const lt_safetensors *in, const char *const *names, const char **name)
{
    lt_tensor t = LT_NONE;
    for (; *names; names++) {
        *name = *names;
        if (lt_safetensors_get(in, *names, &t, NULL) == LT_OK) return t;
    }
    return LT_NONE;
}

/* The tensor of one of the names and of that rank, as f32 in new memory. */
static lt_status load(const run *r, const lt_safetensors *in, const char *const *names, int rank,
                      lt_tensor *to, lt_err *err)
{
    const char *name;
    char text[96];
    lt_tensor from = find(in, names, &name);
    if (!from.data) return lt_fail(err, LT_E_NOT_FOUND, "%s: no tensor %s", r->a->in, names[0]);
    if (from.rank != rank || !lt_dtype_is_float(from.dtype))
        return lt_fail(err, LT_E_INVALID, "%s: %s is %s; wanted floats of rank %d", r->a->in, name,
                       lt_tensor_describe(&from, text, sizeof(text)), rank);
    lt_status status = part_new(to, rank, from.shape, err);
    for (int64_t i = 0; status == LT_OK && i < lt_n_elements(&from); i++)
        ((float *)to->data)[i] = (float)lt_load_f64(from.data, from.dtype, i);
    return status;
}

/* [N,C,cells] to [N,cells,C], or back. */
static lt_status transpose(lt_tensor *t, bool to_last, lt_err *err)
{
    lt_tensor to;
    int64_t shape[5] = {t->shape[0], t->shape[2], t->shape[3], t->shape[4], t->shape[1]};
    const int64_t back[5] = {t->shape[0], t->shape[4], t->shape[1], t->shape[2], t->shape[3]};
    if (!to_last) memcpy(shape, back, sizeof(shape));
    lt_status status = part_new(&to, 5, shape, err);
    if (status != LT_OK) return status;
    int64_t channels = to_last ? shape[4] : shape[1], n = shape[0],
            cells = lt_n_elements(&to) / LT_MAX(n * channels, 1);
    const float *from = t->data;
    float *out = to.data;
    for (int64_t i = 0; i < n; i++)
        for (int64_t at = 0; at < cells; at++)
            for (int64_t j = 0; j < channels; j++) {
                int64_t last = (i * cells + at) * channels + j, first = (i * channels + j) * cells + at;
                out[to_last ? last : first] = from[to_last ? first : last];
            }
    free(t->data);
    *t = to;
    return LT_OK;
}

/* [N,C,T,H,W], or [N,C,H,W] of a picture, channels last. */
static lt_status load_x(run *r, const lt_safetensors *in, lt_err *err)
{
    const char *name;
    lt_tensor from = find(in, x_names, &name);
    r->picture = from.rank == 4;
    lt_status status = load(r, in, x_names, r->picture ? 4 : 5, &r->x, err);
    if (status != LT_OK) return status;
    if (r->picture) {
        memmove(&r->x.shape[3], &r->x.shape[2], 2 * sizeof(int64_t));
        r->x.shape[2] = 1;
        r->x.rank = 5;
    }
    return transpose(&r->x, true, err);
}

/* Number `index` of the tensor of one of the names; otherwise where there is none. */
static double number(const lt_safetensors *in, const char *const *names, int index, double otherwise)
{
    const char *name;
    lt_tensor t = find(in, names, &name);
    return t.data && index < lt_n_elements(&t) ? lt_load_f64(t.data, t.dtype, index) : otherwise;
}

/* Every value of a tensor must be its first. */
static lt_status one_number(const run *r, const lt_safetensors *in, const char *const *names, double *value,
                            lt_err *err)
{
    const char *name;
    lt_tensor t = find(in, names, &name);
    if (!t.data || lt_n_elements(&t) < 1)
        return lt_fail(err, LT_E_NOT_FOUND, "%s: no tensor %s", r->a->in, names[0]);
    *value = lt_load_f64(t.data, t.dtype, 0);
    for (int64_t i = 1; i < lt_n_elements(&t); i++)
        if (lt_load_f64(t.data, t.dtype, i) != *value)
            return lt_fail(err, LT_E_UNSUPPORTED, "%s: %s differs between samples; one run takes one value",
                           r->a->in, name);
    return LT_OK;
}

/* Rows of ones, then zeros, as numbers of ones; without a mask every token counts. */
static lt_status count_tokens(run *r, const lt_safetensors *in, lt_err *err)
{
    const char *name;
    lt_tensor mask = find(in, mask_names, &name);
    if (!mask.data) return LT_OK;
    int64_t rows = r->text.shape[0], length = r->text.shape[1];
    if (mask.rank != 2 || mask.shape[0] != rows || mask.shape[1] != length)
        return lt_fail(err, LT_E_INVALID, "%s: %s has not one value for each token of the text", r->a->in,
                       name);
    r->n_text = malloc(LT_MAX((size_t)rows, (size_t)1) * sizeof(*r->n_text));
    if (!r->n_text) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for %s", name);
    for (int64_t i = 0; i < rows; i++) {
        int n = 0;
        while (n < length && lt_load_f64(mask.data, mask.dtype, i * length + n) == 1) n++;
        for (int64_t j = n; j < length; j++)
            if (lt_load_f64(mask.data, mask.dtype, i * length + j) != 0)
                return lt_fail(err, LT_E_INVALID, "%s: row %lld of %s is not ones followed by zeros",
                               r->a->in, (long long)i, name);
        r->n_text[i] = n;
    }
    return LT_OK;
}

static lt_status load_all(run *r, const lt_safetensors *in, lt_err *err)
{
    lt_status status;
    const lt_denoiser_info *info = lt_denoiser_get_info(r->denoiser);
    const char *const start[] = {"start_sec", NULL}, *const end[] = {"end_sec", NULL};
    LT_TRY(load_x(r, in, err));
    LT_TRY(one_number(r, in, step_names, &r->timestep, err));
    if (info->context_width) LT_TRY(load(r, in, text_names, 3, &r->text, err));
    if (info->pooled_width) LT_TRY(load(r, in, pooled_names, 2, &r->pooled, err));
    if (info->context_mask) LT_TRY(count_tokens(r, in, err));
    if (info->seconds) {
        LT_TRY(one_number(r, in, start, &r->condition.start_sec, err));
        LT_TRY(one_number(r, in, end, &r->condition.end_sec, err));
    }
    for (int i = 0; i < 6 && info->size_ids; i++) r->condition.size_ids[i] = number(in, size_names, i, 0);
fail:
    return status;
}

/* One evaluation in a dry context or in a real one. */
static lt_status evaluate(run *r, lt_context *c, results *results, lt_err *err)
{
    lt_dtype dtype = c->dtype == LT_F64 ? LT_F32 : c->dtype;
    lt_condition condition = r->condition;
    condition.n_context = r->n_text;
    lt_tensor x = lt_upload(c, r->x, dtype);
    if (r->text.data) condition.context = lt_upload(c, r->text, dtype);
    if (r->pooled.data) condition.pooled = lt_upload(c, r->pooled, dtype);
    lt_tensor y = lt_denoise(c, r->denoiser, x, r->timestep, &condition);
    if (c->dry) lt_download(c, y, LT_F32, NULL);
    lt_status status = lt_context_status(c, err);
    if (status == LT_OK && !c->dry) {
        lt_tensor *out = &results->tensors[results->n].tensor;
        results->tensors[results->n++].name = "sample";
        status = part_new(out, 5, y.shape, err);
        if (status == LT_OK) lt_download(c, y, LT_F32, out->data);
        if (status == LT_OK) status = lt_context_status(c, err);
        if (status == LT_OK) status = transpose(out, false, err);
        if (status == LT_OK && r->picture) {
            memmove(&out->shape[2], &out->shape[3], 2 * sizeof(int64_t));
            out->rank = 4;
        }
    }
    lt_drop(c, &y);
    lt_drop(c, &x);
    lt_drop(c, &condition.context);
    lt_drop(c, &condition.pooled);
    return status;
}

static lt_status execute(run *r, const lt_safetensors *in, results *results, lt_err *err)
{
    lt_status status;
    char note[600];
    LT_TRY(lt_denoiser_open(&r->denoiser, r->a->model, LT_DENOISER_N_KINDS, r->a->numerics, note,
                            sizeof(note), err));
    if (note[0]) fprintf(stderr, "modelrun: %s\n", note);
    LT_TRY(load_all(r, in, err));
    LT_TRY(part_context(&r->dry, r->a, 0, err));
    LT_TRY(evaluate(r, r->dry, results, err));
    LT_TRY(part_context(&r->context, r->a, lt_workspace_peak(r->dry->workspace), err));
    LT_TRY(evaluate(r, r->context, results, err));
fail:
    return status;
}

static lt_status run_denoiser(const arguments *a, const lt_safetensors *in, results *results, lt_err *err)
{
    run r = {.a = a};
    lt_status status = execute(&r, in, results, err);
    lt_denoiser_close(r.denoiser, r.context ? r.context : r.dry);
    lt_context_destroy(r.context);
    lt_context_destroy(r.dry);
    free(r.x.data);
    free(r.text.data);
    free(r.pooled.data);
    free(r.n_text);
    return status;
}

const part part_transformer = {
    .name = "transformer",
    .input = "hidden_states",
    .help =
        "transformer, one evaluation of a denoising network -> sample (noise; of the input's shape):\n"
        "  VideoDiT v1     hidden_states [B,3,T,H,W], timesteps [B], text_emb [B,C]\n"
        "  VideoDiT v2     hidden_states [B,4,T,h,w], timesteps, start_sec, end_sec, cross_emb [B,L,C], "
        "text_emb [B,C]\n"
        "  PixartDiT, PixartVideoDiT\n"
        "                  hidden_states [B,4,T,h,w], timesteps, text_emb [B,L,C], text_flag [B,L]\n"
        "  PixArt, diffusers\n"
        "                  hidden_states [B,4,h,w], timestep, encoder_hidden_states, encoder_attention_mask; "
        "1024 pixels:\n"
        "                  resolution [1,2]\n",
    .run = run_denoiser,
};

const part part_unet = {
    .name = "unet",
    .help = "unet, one evaluation of SDXL-3D -> sample:\n"
            "  sample [B,4,T,h,w], timestep, encoder_hidden_states [B,L,C], add_text_embeds [B,C], "
            "add_time_id [6]\n",
    .run = run_denoiser,
};
