/* text.c - the parts of text encoders: text_encoder and text_encoder_2. */
#include "kernels/convert.h"
#include "models/text_encoder.h"
#include "tools/modelrun/part.h"

#include <stdlib.h>
#include <string.h>

/* What a run holds until its end. */
typedef struct run {
    const arguments *a;
    lt_text_encoder *encoder;
    lt_context *dry, *context;
    lt_tensor ids; /* i32 [B,L], ours */
    int *n_ids;    /* [B], ours; NULL: no mask was given */
} run;

/* Tensor `name` of whole numbers [B,L] as i32 in new memory. */
static lt_status load_numbers(const lt_tensor *from, const char *name, lt_tensor *to, lt_err *err)
{
    char text[96];
    bool whole = from->dtype == LT_I64 || from->dtype == LT_I32 || from->dtype == LT_U8;
    if (!whole || from->rank != 2)
        return lt_fail(err, LT_E_INVALID, "tensor %s is %s; wanted i64, i32 or u8 [prompts, tokens]", name,
                       lt_tensor_describe(from, text, sizeof(text)));
    int64_t n = lt_n_elements(from);
    *to = *from;
    to->dtype = LT_I32;
    to->data = malloc(LT_MAX((size_t)n * sizeof(int32_t), (size_t)1));
    if (!to->data) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for %s", name);
    for (int64_t i = 0; i < n; i++) {
        double value = lt_load_f64(from->data, from->dtype, i);
        if (value < INT32_MIN || value > INT32_MAX)
            return lt_fail(err, LT_E_INVALID, "tensor %s holds %.0f, which is no token id", name, value);
        ((int32_t *)to->data)[i] = (int32_t)value;
    }
    return LT_OK;
}

/* Rows of ones, then zeros, as numbers of ones. */
static lt_status count_ids(run *r, const lt_tensor *mask, lt_err *err)
{
    int64_t rows = mask->shape[0], length = mask->shape[1];
    if (rows != r->ids.shape[0] || length != r->ids.shape[1])
        return lt_fail(err, LT_E_INVALID, "%s: attention_mask is not of the shape of input_ids", r->a->in);
    r->n_ids = malloc(LT_MAX((size_t)rows, (size_t)1) * sizeof(*r->n_ids));
    if (!r->n_ids) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for attention_mask");
    for (int64_t i = 0; i < rows; i++) {
        const int32_t *row = (const int32_t *)mask->data + i * length;
        int n = 0;
        while (n < length && row[n] == 1) n++;
        for (int64_t j = n; j < length; j++)
            if (row[j] != 0)
                return lt_fail(
                    err, LT_E_INVALID,
                    "%s: row %lld of attention_mask is not ones followed by zeros (padding on the right)",
                    r->a->in, (long long)i);
        r->n_ids[i] = n;
    }
    return LT_OK;
}

static lt_status load(run *r, const lt_safetensors *in, lt_err *err)
{
    lt_status status;
    lt_tensor t, mask = LT_NONE;
    LT_TRY(lt_safetensors_get(in, "input_ids", &t, err));
    LT_TRY(load_numbers(&t, "input_ids", &r->ids, err));
    if (lt_safetensors_get(in, "attention_mask", &t, NULL) == LT_OK) {
        status = load_numbers(&t, "attention_mask", &mask, err);
        if (status == LT_OK) status = count_ids(r, &mask, err);
        free(mask.data);
    }
fail:
    return status;
}

/* A result on the heap under `name`; nothing where there is none. */
static lt_status keep(run *r, lt_context *c, results *results, const char *name, lt_tensor t, lt_err *err)
{
    if (!t.data) return LT_OK;
    lt_named_tensor *named = &results->tensors[results->n++];
    named->name = name;
    lt_status status = part_new(&named->tensor, t.rank, t.shape, err);
    if (status == LT_OK) lt_download(c, t, LT_F32, named->tensor.data);
    return status == LT_OK ? lt_context_status(c, err) : status;
}

/* One pass; its results, where they are asked for. */
static lt_status pass(run *r, lt_context *c, const lt_text_params *params, const char *sequence,
                      const char *pooled, results *results, lt_err *err)
{
    lt_text text = lt_text_encode(c, r->encoder, r->ids, r->n_ids, params);
    if (c->dry) lt_download(c, text.sequence, LT_F32, NULL);
    lt_status status = lt_context_status(c, err);
    if (status == LT_OK && !c->dry && sequence) status = keep(r, c, results, sequence, text.sequence, err);
    if (status == LT_OK && !c->dry && pooled) status = keep(r, c, results, pooled, text.pooled, err);
    lt_drop(c, &text.sequence);
    lt_drop(c, &text.pooled);
    return status;
}

static lt_status execute(run *r, const lt_safetensors *in, results *results, lt_text_which which, lt_err *err)
{
    lt_status status;
    LT_TRY(load(r, in, err));
    LT_TRY(lt_text_encoder_open(&r->encoder, r->a->model, which, err));
    const lt_text_encoder_info *info = lt_text_encoder_get_info(r->encoder);
    bool clip = info->family == LT_TEXT_CLIP, norm = !clip || info->pooled_width;
    /* T5's weights are large: a layer at a time. */
    lt_text_params last = {.clip_skip = clip ? 0 : r->a->clip_skip, .final_norm = norm, .keep_packed = clip};
    lt_text_params raw = {.clip_skip = r->a->clip_skip, .keep_packed = clip};
    LT_TRY(part_context(&r->dry, r->a, 0, err));
    if (norm) LT_TRY(pass(r, r->dry, &last, NULL, NULL, results, err));
    if (clip) LT_TRY(pass(r, r->dry, &raw, NULL, NULL, results, err));
    LT_TRY(part_context(&r->context, r->a, lt_workspace_peak(r->dry->workspace), err));
    if (norm)
        LT_TRY(pass(r, r->context, &last, "last_hidden_state",
                    info->projected ? "text_embeds" : "pooler_output", results, err));
    if (clip && (r->a->clip_skip || !norm))
        LT_TRY(pass(r, r->context, &raw, "hidden_state", NULL, results, err));
fail:
    return status;
}

static lt_status run_part(const arguments *a, const lt_safetensors *in, results *results, lt_text_which which,
                          lt_err *err)
{
    run r = {.a = a};
    lt_status status = execute(&r, in, results, which, err);
    lt_text_encoder_close(r.encoder, r.context ? r.context : r.dry);
    lt_context_destroy(r.context);
    lt_context_destroy(r.dry);
    free(r.ids.data);
    free(r.n_ids);
    return status;
}

static lt_status run_first(const arguments *a, const lt_safetensors *in, results *results, lt_err *err)
{
    return run_part(a, in, results, LT_TEXT_FIRST, err);
}

static lt_status run_second(const arguments *a, const lt_safetensors *in, results *results, lt_err *err)
{
    return run_part(a, in, results, LT_TEXT_SECOND, err);
}

const part part_text_encoder = {
    .name = "text_encoder",
    .input = "input_ids",
    .help =
        "text_encoder, CLIP or T5; text_encoder_2, the second one of a pipeline or a single-file SDXL:\n"
        "  input_ids [B,L], attention_mask [B,L] (T5; ones, then zeros; optional)\n"
        "                              -> last_hidden_state [B,L,C]; CLIP: pooler_output or text_embeds\n"
        "  with --clip-skip K, CLIP    -> hidden_state [B,L,C] = hidden_states[-K], without the final norm\n",
    .run = run_first,
};

const part part_text_encoder_2 = {.name = "text_encoder_2", .help = "", .run = run_second};
