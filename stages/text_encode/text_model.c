/* text_model.c - which encoders and tokenizers the options name, and what they make of texts. */
#include "stages/text_encode/text_encode.h"

#include "kernels/backend.h"
#include "kernels/safetensors.h"
#include "stages/digest/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- what the files are -------------------------------------------------------------------------------- */

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Does `path` hold a second encoder beside the first: a pipeline's folder, a single-file SDXL checkpoint? */
static bool has_second(const char *path)
{
    char inner[4200];
    lt_safetensors *file;
    lt_tensor tensor;
    snprintf(inner, sizeof inner, "%s/text_encoder_2", path);
    if (is_folder(path)) return is_folder(inner);
    if (lt_safetensors_open(&file, path, NULL)) return false;
    bool found =
        lt_safetensors_get(file, "conditioner.embedders.1.model.ln_final.weight", &tensor, NULL) == LT_OK;
    lt_safetensors_close(file);
    return found;
}

/* Open the first of these folders that holds a tokenizer. */
static lt_status open_tokenizer(lt_tokenizer **tokenizer, const char *given, const char *model, int which,
                                lt_err *err)
{
    const char *name = which ? "tokenizer_2" : "tokenizer";
    char parent[4096], places[4][4200];
    if (*given) return lt_tokenizer_open(tokenizer, given, err);
    snprintf(parent, sizeof parent, "%s", model);
    char *slash = strrchr(parent, '/');
    if (slash) *slash = 0;
    snprintf(places[0], sizeof places[0], "%s/%s", model, name);
    snprintf(places[1], sizeof places[1], "%s", model);
    snprintf(places[2], sizeof places[2], "%s/%s", parent, name);
    snprintf(places[3], sizeof places[3], "%s", parent);
    for (int i = 0; i < 4; i++) {
        if (!is_folder(places[i])) continue;
        lt_status status = lt_tokenizer_open(tokenizer, places[i], err);
        if (status != LT_E_NOT_FOUND) return status;
    }
    return lt_fail(err, LT_E_NOT_FOUND,
                   "no tokenizer in %s/%s, in %s or beside it: name its folder as option %s", model, name,
                   model, name);
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static lt_status check_pair(const lt_text_model *m, lt_err *err)
{
    const lt_text_encoder_info *second = lt_text_encoder_get_info(m->encoders[1]);
    if (lt_text_encoder_get_info(m->encoders[0])->family != LT_TEXT_CLIP || second->family != LT_TEXT_CLIP)
        return lt_fail(err, LT_E_UNSUPPORTED, "two encoders make SDXL's pair of CLIPs; one of these is a T5");
    if (!second->pooled_width)
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "the second encoder has no pooled vector (its final norm is missing)");
    return LT_OK;
}

static lt_status open_encoders(lt_text_model *m, lt_err *err)
{
    const lt_text_encode_config *config = m->config;
    bool own_second = *config->model_2 != 0, pair = own_second || has_second(config->model);
    const char *second = own_second ? config->model_2 : config->model;
    lt_status status = lt_text_encoder_open(&m->encoders[0], config->model, LT_TEXT_FIRST, err);
    m->n = 1;
    if (status == LT_OK && pair) {
        status = lt_text_encoder_open(&m->encoders[1], second, LT_TEXT_SECOND, err);
        m->n = 2;
    }
    if (status) return status;
    m->form = pair                                                             ? LT_FORM_SDXL
              : lt_text_encoder_get_info(m->encoders[0])->family == LT_TEXT_T5 ? LT_FORM_T5
                                                                               : LT_FORM_CLIP;
    LT_TRY(pair ? check_pair(m, err) : LT_OK);
    LT_TRY(open_tokenizer(&m->tokenizers[0], config->tokenizer, config->model, 0, err));
    if (pair) LT_TRY(open_tokenizer(&m->tokenizers[1], config->tokenizer_2, second, 1, err));
    return LT_OK;
fail:
    return status;
}

/* Sizes of the embeddings, and whether tokenizers fit their encoders. */
static lt_status measure(lt_text_model *m, lt_err *err)
{
    const lt_text_encoder_info *last = lt_text_encoder_get_info(m->encoders[m->n - 1]);
    const lt_tokenizer_info *tokens = lt_tokenizer_get_info(m->tokenizers[0]);
    m->length = m->config->length ? (int)m->config->length : last->length ? last->length : tokens->length;
    m->width = 0;
    for (int i = 0; i < m->n; i++) {
        const lt_text_encoder_info *info = lt_text_encoder_get_info(m->encoders[i]);
        const lt_tokenizer_info *t = lt_tokenizer_get_info(m->tokenizers[i]);
        bool is_t5 = info->family == LT_TEXT_T5;
        if (is_t5 != (t->kind == LT_TOKENIZER_T5) || t->n_tokens > info->n_tokens)
            return lt_fail(err, LT_E_MISMATCH,
                           "the tokenizer (%s, %d tokens) is not that of the encoder (%s, %d rows)",
                           t->kind == LT_TOKENIZER_T5 ? "T5" : "CLIP", t->n_tokens, is_t5 ? "T5" : "CLIP",
                           info->n_tokens);
        if (info->length && m->length > info->length)
            return lt_fail(err, LT_E_INVALID, "length is %d; the encoder has %d positions", m->length,
                           info->length);
        m->width += info->width;
    }
    m->pooled_width = last->pooled_width;
    return LT_OK;
}

static void make_digest(lt_text_model *m)
{
    static const char *const forms[] = {"clip", "sdxl", "t5"};
    char text[768];
    const lt_text_encode_config *config = m->config;
    snprintf(text, sizeof text, "text 1 %s %s %s %s %s length %d skip %d %d %s %s epoch %d", forms[m->form],
             lt_text_encoder_get_info(m->encoders[0])->digest,
             lt_tokenizer_get_info(m->tokenizers[0])->digest,
             m->n > 1 ? lt_text_encoder_get_info(m->encoders[1])->digest : "",
             m->n > 1 ? lt_tokenizer_get_info(m->tokenizers[1])->digest : "", m->length,
             m->form == LT_FORM_T5 ? 0 : (int)config->clip_skip,
             m->form == LT_FORM_SDXL ? (int)config->clip_skip_2 : 0, lt_dtype_name(m->dtype),
             m->dry->numeric_class, m->dry->backend->numeric_epoch);
    lt_digest(text, strlen(text), m->digest);
}

lt_status lt_text_model_open(lt_text_model *m, const lt_text_encode_config *config, int threads, lt_err *err)
{
    *m = (lt_text_model){.config = config,
                         .dtype = lt_stage_dtype(config->dtype),
                         .keep_packed = config->weights == LT_TEXT_WEIGHTS_KEEP};
    lt_status status;
    LT_TRY(lt_stage_device_open(&m->device, config->device, err));
    LT_TRY(lt_context_create(&m->dry, m->device.name, m->dtype, 0, threads, err));
    m->dry->dry = true;
    LT_TRY(open_encoders(m, err));
    LT_TRY(measure(m, err));
    make_digest(m);
    return LT_OK;
fail:
    lt_text_model_close(m);
    return status;
}

void lt_text_model_close(lt_text_model *m)
{
    for (int i = 0; i < 2; i++) {
        lt_text_encoder_close(m->encoders[i], m->run);
        lt_tokenizer_close(m->tokenizers[i]);
    }
    lt_context_destroy(m->run);
    lt_context_destroy(m->dry);
    *m = (lt_text_model){0};
}

/* ---- encoding ------------------------------------------------------------------------------------------ */

/* How encoder i is run. lite-sora's SDXL encoder 1 is built without its last layer, which counts for clip_skip there. */
static lt_text_params params_of(const lt_text_model *m, int i)
{
    const lt_text_encoder_info *info = lt_text_encoder_get_info(m->encoders[i]);
    int skip = (int)(i ? m->config->clip_skip_2 : m->config->clip_skip);
    if (m->form == LT_FORM_T5) return (lt_text_params){.final_norm = true, .keep_packed = m->keep_packed};
    if (m->form == LT_FORM_SDXL && i == 0) skip += info->pooled_width > 0;
    return (lt_text_params){
        .clip_skip = skip, .final_norm = m->form == LT_FORM_CLIP, .keep_packed = m->keep_packed};
}

/* Rows of `text` [n,bytes] into every out_stride bytes of `to`. */
static lt_status give_rows(lt_context *c, lt_tensor text, size_t bytes, void *to, size_t out_stride,
                           int64_t n, lt_err *err)
{
    char *all = bytes == out_stride ? to : malloc((size_t)n * bytes);
    if (!all) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for embeddings");
    lt_download(c, text, text.dtype, all);
    lt_status status = lt_context_status(c, err);
    for (int64_t i = 0; all != to && status == LT_OK && i < n; i++)
        memcpy((char *)to + (size_t)i * out_stride, all + (size_t)i * bytes, bytes);
    if (all != to) free(all);
    return status;
}

/* Run encoder i on ids [n,length]; copy what it gives (unless dry). */
static lt_status run_encoder(lt_text_model *m, lt_context *c, int i, lt_tensor ids, const int *n_ids,
                             size_t before, lt_embeddings *out, lt_err *err)
{
    lt_text_params params = params_of(m, i);
    lt_text text = lt_text_encode(c, m->encoders[i], ids, n_ids, &params);
    lt_status status = lt_context_status(c, err);
    int64_t n = ids.shape[0];
    size_t element = lt_dtype_bytes(m->dtype);
    size_t width = (size_t)lt_text_encoder_get_info(m->encoders[i])->width * element;
    if (status == LT_OK && !c->dry) {
        if (i == m->n - 1 && m->pooled_width) lt_download(c, text.pooled, m->dtype, out->pooled);
        status = give_rows(c, text.sequence, width, (char *)out->sequence + before,
                           (size_t)m->width * element, n * m->length, err);
    }
    lt_drop(c, &text.sequence);
    lt_drop(c, &text.pooled);
    return status;
}

static lt_status run_all(lt_text_model *m, lt_context *c, const char *const *texts, int n, lt_embeddings *out,
                         lt_err *err)
{
    int32_t *ids = calloc((size_t)n * (size_t)m->length, sizeof *ids);
    int *n_ids = calloc((size_t)n, sizeof *n_ids);
    lt_status status = ids && n_ids ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory for token ids");
    size_t before = 0;
    for (int i = 0; i < m->n && status == LT_OK; i++) {
        for (int t = 0; t < n && status == LT_OK; t++) {
            n_ids[t] = m->length;
            if (texts)
                status = lt_tokenizer_encode(m->tokenizers[i], texts[t], strlen(texts[t]),
                                             ids + (size_t)t * (size_t)m->length, m->length, &n_ids[t], err);
            if (out && i == 0) out->n_tokens[t] = n_ids[t];
        }
        lt_tensor tensor = {ids, LT_I32, 2, {n, m->length}, 0};
        if (status == LT_OK) status = run_encoder(m, c, i, tensor, n_ids, before, out, err);
        before += (size_t)lt_text_encoder_get_info(m->encoders[i])->width * lt_dtype_bytes(m->dtype);
    }
    free(ids);
    free(n_ids);
    return status;
}

/* The workspace that n texts at once take, by a dry run. */
static lt_status measure_workspace(lt_text_model *m, int n, size_t *bytes, lt_err *err)
{
    lt_workspace *saved = m->dry->workspace, *own;
    lt_status status = lt_workspace_create(&own, NULL, 0, err);
    if (status) return status;
    m->dry->workspace = own;
    status = run_all(m, m->dry, NULL, n, NULL, err);
    m->dry->workspace = saved;
    *bytes = lt_workspace_peak(own);
    lt_workspace_destroy(own);
    return status;
}

lt_status lt_text_model_cost(lt_text_model *m, int n, lt_text_cost *cost, lt_err *err)
{
    for (int i = 0; i < m->n; i++) lt_text_encoder_forget(m->encoders[i], m->dry);
    m->dry->packed_bytes = 0;
    m->dry->flops = 0;
    lt_status status = measure_workspace(m, n, &cost->workspace_bytes, err);
    cost->packed_bytes = m->dry->packed_bytes;
    cost->flops = m->dry->flops;
    /* Where tensors lie depends on their sizes: fewer texts may take more. */
    for (int fewer = 1; fewer < n && status == LT_OK; fewer++) {
        size_t bytes;
        status = measure_workspace(m, fewer, &bytes, err);
        cost->workspace_bytes = LT_MAX(cost->workspace_bytes, bytes);
    }
    return status;
}

lt_status lt_text_model_check(const lt_text_model *m, const char *text, lt_err *err)
{
    lt_status status = LT_OK;
    int n;
    int32_t *ids = malloc((size_t)m->length * sizeof *ids);
    if (!ids) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for token ids");
    for (int i = 0; i < m->n && status == LT_OK; i++)
        status = lt_tokenizer_encode(m->tokenizers[i], text, strlen(text), ids, m->length, &n, err);
    free(ids);
    return status;
}

lt_status lt_text_model_encode(lt_text_model *m, const char *const *texts, int n, int threads,
                               lt_embeddings *out, lt_err *err)
{
    lt_text_cost cost;
    lt_status status = LT_OK;
    if (!m->run) {
        m->at_once = (int)LT_MIN(m->config->batch, (int64_t)n);
        status = lt_text_model_cost(m, m->at_once, &cost, err);
        if (status == LT_OK)
            status = lt_context_create(&m->run, m->device.name, m->dtype, cost.workspace_bytes, threads, err);
    }
    size_t element = lt_dtype_bytes(m->dtype), row = (size_t)m->length * (size_t)m->width * element;
    for (int i = 0; i < n && status == LT_OK; i += m->at_once) {
        lt_embeddings part = {(char *)out->sequence + (size_t)i * row, out->pooled, out->n_tokens + i};
        if (part.pooled) part.pooled = (char *)part.pooled + (size_t)i * (size_t)m->pooled_width * element;
        status = run_all(m, m->run, texts + i, LT_MIN(m->at_once, n - i), &part, err);
    }
    return status;
}
