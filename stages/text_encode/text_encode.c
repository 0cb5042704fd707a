/* text_encode.c - a clip whose units are the embeddings of a negative prompt and of the prompts of a timeline: one, or one for each clip
 * that comes. What the cache holds is not computed, and equal texts are computed once. */
#include "stages/text_encode/text_encode.h"

#include "kernels/safetensors.h"
#include "proto/wire.h"
#include "stages/digest/digest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Measured, RssAnon of the running process less what is counted apart: libraries, threads, sockets; and a tokenizer's tables. */
enum { BASE_BYTES = 1400 << 10, TOKEN_BYTES = 220 };

#define AT(field) offsetof(lt_text_encode_config, field)
static const lt_option options[] = {
    {"model", LT_OPT_PATH, AT(model), NULL, 0, 0, NULL, NULL,
     "folder of a text encoder (CLIP, OpenCLIP, T5) or of a pipeline that holds one or two, or a safetensors "
     "file, also a "
     "whole SDXL checkpoint",
     false},
    {"model_2", LT_OPT_PATH, AT(model_2), "", 0, 0, NULL, NULL,
     "SDXL's second encoder, where model does not hold it", false},
    {"tokenizer", LT_OPT_PATH, AT(tokenizer), "", 0, 0, NULL, NULL,
     "folder with vocab.json and merges.txt, or spiece.model; without it tokenizer in the model's folder, or "
     "beside it",
     false},
    {"tokenizer_2", LT_OPT_PATH, AT(tokenizer_2), "", 0, 0, NULL, NULL,
     "the same for the second encoder: tokenizer_2", false},
    {"prompt", LT_OPT_STRING, AT(prompt), "", 0, 0, NULL, NULL,
     "what shall be seen; where clips come, {caption} in it stands for each one's caption", false},
    {"negative", LT_OPT_STRING, AT(negative), "", 0, 0, NULL, NULL,
     "what shall not be seen, for all clips; an empty one is encoded too", false},
    {"prompts", LT_OPT_JSON, AT(prompts), "", 0, 0, NULL, NULL,
     "instead of prompt, prompts along the timeline: [{ at = 0.0, text = \"...\" }, ...]", false},
    {"manifest", LT_OPT_PATH, AT(manifest), "", 0, 0, NULL, NULL,
     "instead of prompts, the captions of a manifest's clips, for the cache", false},
    {"name", LT_OPT_STRING, AT(name), "", 0, 0, NULL, NULL, "name of the clip; default: from the prompt",
     false},
    {"clip_skip", LT_OPT_INT, AT(clip_skip), "1", 1, 12, NULL, "layers",
     "CLIP: 1 takes the state after the last layer of lite-sora's network (which for SDXL is the last but "
     "one of the file's)",
     false},
    {"clip_skip_2", LT_OPT_INT, AT(clip_skip_2), "2", 1, 32, NULL, "layers",
     "the same for SDXL's second encoder, counted from its last layer", false},
    {"length", LT_OPT_INT, AT(length), "0", 0, 512, NULL, "tokens",
     "texts are cut and padded to it; 0: 77 (CLIP), 120 (T5)", false},
    {"batch", LT_OPT_INT, AT(batch), "8", 1, 256, NULL, "texts", "encoded at once; changes no result", true},
    {"weights", LT_OPT_ENUM, AT(weights), "auto", 0, 0, "auto|keep|repack", NULL,
     "between batches: keep them as the device works with them, or repack each layer's for every batch; "
     "auto: they are kept where there is more than one batch and they fit in memory",
     true},
    {"memory", LT_OPT_BYTES, AT(memory), "0", 0, 0, NULL, NULL,
     "what it may take of the host's or the device's memory, for weights = auto; 0: a quarter of what is "
     "free on the host when it is planned, half of it on a device",
     true},
    LT_DEVICE_OPTIONS(lt_text_encode_config, ", and of the embeddings"),
    {"cache_size", LT_OPT_BYTES, AT(cache_size), "1T", 1048576, 1.4e14, NULL, NULL,
     "the most the cache may hold", true},
};
#undef AT

/* ---- the stream ---------------------------------------------------------------------------------------- */

/* Bytes of the parts of a unit, in their order; 0: there is none. */
typedef struct parts {
    size_t sequence, pooled, total;
} parts;

static parts parts_of(const lt_text_model *m)
{
    size_t element = lt_dtype_bytes(m->dtype);
    parts p = {.sequence = (size_t)m->length * (size_t)m->width * element,
               .pooled = (size_t)m->pooled_width * element};
    p.total = lt_round_up(p.sequence, LT_PAYLOAD_ALIGNMENT) + lt_round_up(p.pooled, LT_PAYLOAD_ALIGNMENT) +
              sizeof(int32_t);
    return p;
}

/* Of everything that decides the units' bytes. */
static lt_status digest_of(const lt_text_model *m, const lt_prompts *prompts, char digest[33], lt_err *err)
{
    size_t room = 64 + (size_t)prompts->n_texts * 64, used;
    char *text = malloc(room), one[33];
    if (!text) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    used = (size_t)snprintf(text, room, "text_encode 1 %s", m->digest);
    for (int i = 0; i < prompts->n_texts; i++) {
        lt_digest(prompts->texts[i], strlen(prompts->texts[i]), one);
        used += (size_t)snprintf(text + used, room - used, " %s %.9g", one, i ? prompts->at[i - 1] : 0);
    }
    lt_digest(text, used, digest);
    free(text);
    return LT_OK;
}

/* The text of a clip that came has its name, and its place in a data set. */
static lt_status follow(const lt_stream *in, lt_stream *out, lt_arena *arena, lt_err *err)
{
    out->name = lt_arena_strdup(arena, in->name);
    out->source = lt_arena_strdup(arena, in->source);
    out->entry = lt_arena_strdup(arena, in->entry);
    out->key = lt_arena_strdup(arena, in->key);
    out->expendable = in->expendable;
    out->run_clips = in->run_clips;
    out->run_frames = in->run_clips * out->n_frames;
    return out->name && out->source && out->entry && out->key ? LT_OK
                                                              : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

/* Of the option name is made what decode makes of its own. */
static char *name_of(const lt_text_encode_config *config, const lt_prompts *prompts, uint32_t clip,
                     lt_arena *arena)
{
    const char *from = *config->name       ? config->name
                       : *config->manifest ? "captions"
                                           : lt_prompts_name(prompts->texts[1], arena);
    char *name = from ? lt_arena_printf(arena, "%.200s", from) : NULL;
    if (name) lt_make_clip_name(name);
    return name && *config->manifest ? lt_arena_printf(arena, "%s-%06u", name, clip) : name;
}

/* in: the clip that came, or NULL. */
static lt_status describe(const lt_text_model *m, const lt_prompts *prompts, uint32_t clip,
                          const lt_stream *in, lt_stream *out, lt_arena *arena, lt_err *err)
{
    char digest[33];
    lt_status status = digest_of(m, prompts, digest, err);
    if (status) return status;
    Lt__Wire__Text *text = lt_arena_alloc(arena, sizeof *text);
    if (!text) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt__wire__text__init(text);
    text->n_at = (size_t)prompts->n_texts - 1;
    text->at = prompts->at;
    out->text = text;
    out->kind = LT__WIRE__PORT_KIND__PORT_TEXT;
    out->dtype = (Lt__Wire__Dtype)(m->dtype + 1);
    out->width = (uint32_t)m->width;
    out->height = (uint32_t)m->length;
    out->channels = (uint32_t)m->pooled_width;
    out->chunk = 1;
    out->n_frames = out->n_units = (uint64_t)prompts->n_texts;
    out->unit_bytes = parts_of(m).total;
    out->time_base_num = out->time_base_den = 1;
    out->name = name_of(m->config, prompts, clip, arena);
    out->source = "";
    out->caption = lt_prompts_caption(prompts->texts[1], arena);
    out->digest = out->fingerprint = lt_arena_strdup(arena, digest);
    out->numeric_class = lt_arena_strdup(arena, m->dry->numeric_class);
    if (!out->name || !out->caption || !out->digest || !out->numeric_class)
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    return in ? follow(in, out, arena, err) : LT_OK;
}

/* How much there is in all. */
static void set_run(lt_stream *out, const lt_clip_list *captions)
{
    int64_t n = lt_clip_list_count(captions);
    out->run_clips = (uint64_t)((n - 1) / LT_PROMPTS_SLICE + 1);
    out->run_frames = (uint64_t)n + out->run_clips;
}

/* The manifest that is asked for, or NULL. */
static lt_status open_captions(const lt_setup *setup, lt_clip_list **captions, lt_err *err)
{
    const lt_text_encode_config *config = setup->config;
    if (!*config->manifest) return LT_OK;
    if (*config->prompts || *config->prompt)
        return lt_fail(err, LT_E_INVALID, "manifest and prompts are both given: give one");
    if (!setup->cache || !*setup->cache)
        return lt_fail(err, LT_E_INVALID,
                       "embeddings of a manifest go to the graph's cache, and [graph] names none");
    return lt_clip_list_open(captions, config->manifest, "", (lt_shard){0, 0}, err);
}

/* Whether weights are kept between batches of at_once texts, and what that takes. */
static lt_status choose_weights(lt_text_model *m, bool one_batch, int at_once, lt_text_cost *cost,
                                lt_plan *plan, lt_err *err)
{
    bool is_auto = m->config->weights == LT_TEXT_WEIGHTS_AUTO;
    if (is_auto) m->keep_packed = !one_batch;
    lt_status status = lt_text_model_cost(m, at_once, cost, err);
    size_t memory = lt_stage_device_memory(&m->device, m->config->memory);
    if (status == LT_OK && is_auto && m->keep_packed && cost->workspace_bytes + cost->packed_bytes > memory) {
        m->keep_packed = false;
        status = lt_text_model_cost(m, at_once, cost, err);
    }
    if (is_auto) lt_plan_resolve(plan, "weights", "%s", m->keep_packed ? "keep" : "repack");
    return status;
}

static lt_status plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan, lt_err *err)
{
    static const char *const forms[] = {"CLIP", "SDXL's pair of CLIPs", "T5"};
    const lt_text_encode_config *config = setup->config;
    lt_text_model model;
    lt_prompts prompts;
    lt_text_cost cost;
    lt_clip_list *captions = NULL;
    lt_status status = lt_text_model_open(&model, config, setup->threads, err);
    if (status) return status;
    LT_TRY(open_captions(setup, &captions, err));
    if (captions && inputs[0])
        LT_TRY(lt_fail(err, LT_E_INVALID,
                       "manifest and from are both given: texts are those of a manifest, or of the clips "
                       "that come (prompt = \"{caption}\")"));
    status = lt_prompts_read(config, captions, 0, plan->arena, &prompts, err);
    if (status == LT_END) status = lt_fail(err, LT_E_INVALID, "%s lists no clips", config->manifest);
    if (status) goto fail;
    /* Of a data set, the clip that stands for all may be one without a caption. */
    bool has_caption = inputs[0] && (*inputs[0]->caption || !inputs[0]->expendable);
    if (!captions)
        LT_TRY(lt_prompts_fill(&prompts, inputs[0] ? inputs[0]->name : "",
                               !inputs[0]    ? NULL
                               : has_caption ? inputs[0]->caption
                                             : "a caption",
                               plan->arena, err));
    for (int i = 0; i < prompts.n_texts; i++)
        if ((status = lt_text_model_check(&model, prompts.texts[i], err))) {
            lt_err_prefix(err, "%s %d", i ? "prompt" : "negative prompt", LT_MAX(i, 1));
            goto fail;
        }
    int at_once = (int)LT_MIN(config->batch, (int64_t)prompts.n_texts);
    LT_TRY(describe(&model, &prompts, 0, inputs[0], plan->output, plan->arena, err));
    if (captions) set_run(plan->output, captions);
    LT_TRY(choose_weights(&model, prompts.n_texts <= config->batch && plan->output->run_clips <= 1, at_once,
                          &cost, plan, err));
    plan->in_flight[0] = 1; /* of a clip that comes its stream alone is looked at */
    size_t unit = plan->output->unit_bytes, tokens = 0;
    for (int i = 0; i < model.n; i++) tokens += (size_t)lt_tokenizer_get_info(model.tokenizers[i])->n_tokens;
    plan->peak_bytes = BASE_BYTES + tokens * TOKEN_BYTES + unit * (size_t)prompts.n_texts * 2 +
                       model.length * sizeof(int32_t);
    LT_TRY(lt_stage_device_plan(&model.device, config->device, model.dry, cost.workspace_bytes,
                                cost.packed_bytes, "a smaller batch takes less", plan, err));
    plan->disk_bytes = *setup->cache ? (uint64_t)prompts.n_texts * (unit + 4096) : 0;
    plan->flops = cost.flops / at_once * prompts.n_texts;
    if (captions) {
        int64_t n = lt_clip_list_count(captions);
        plan->peak_bytes += unit * (size_t)prompts.n_texts; /* of the clip that is opened ahead */
        plan->disk_bytes = (uint64_t)(n + 1) * (unit + 4096);
        plan->flops = cost.flops / at_once * (double)(n + 1);
        lt_plan_note(plan, "%" PRId64 " captions", n);
    }
    lt_plan_note(plan, "%s: sequence %d x %d, pooled %d, %s; a negative prompt and %d more",
                 forms[model.form], model.length, model.width, model.pooled_width, lt_dtype_name(model.dtype),
                 prompts.n_texts - 1);
fail:
    lt_clip_list_close(captions);
    lt_text_model_close(&model);
    return status;
}

/* ---- opening ------------------------------------------------------------------------------------------- */

typedef struct text_state {
    const lt_setup *setup;
    const lt_text_encode_config *config;
    lt_text_model model;
    lt_clip_list *captions; /* NULL: none */
    lt_cache *cache;        /* NULL: none */
    char numeric_class[LT_NUMERIC_CLASS_MAX];
} text_state;

/* The clip: texts, and their embeddings once they were asked for. */
typedef struct text_clip {
    lt_prompts prompts;
    parts parts;
    bool encoded;
    char (*digests)[33];
    int *same_as; /* the first text that is equal */
    bool *is_here;
    lt_embeddings all; /* of every text */
} text_clip;

static void destroy(void *opaque)
{
    text_state *state = opaque;
    if (!state) return;
    lt_cache_close(state->cache);
    lt_clip_list_close(state->captions);
    lt_text_model_close(&state->model);
    free(state);
}

static lt_status create(void **out, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    text_state *state = calloc(1, sizeof *state);
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_status status;
    state->setup = setup;
    state->config = setup->config;
    LT_TRY(lt_text_model_open(&state->model, state->config, setup->threads, err));
    LT_TRY(open_captions(setup, &state->captions, err));
    if (setup->cache && *setup->cache)
        LT_TRY(lt_cache_open(&state->cache, setup->cache, true, state->config->cache_size, err));
    snprintf(state->numeric_class, sizeof state->numeric_class, "%s", state->model.dry->numeric_class);
    *numeric_class = state->numeric_class;
    *out = state;
    return LT_OK;
fail:
    destroy(state);
    return status;
}

static void free_clip(text_clip *c)
{
    if (!c) return;
    free(c->digests);
    free(c->same_as);
    free(c->is_here);
    free(c->all.sequence);
    free(c->all.pooled);
    free(c->all.n_tokens);
    free(c);
}

static lt_status make_buffers(text_clip *c, lt_err *err)
{
    size_t n = (size_t)c->prompts.n_texts;
    c->digests = calloc(n, sizeof *c->digests);
    c->same_as = calloc(n, sizeof *c->same_as);
    c->is_here = calloc(n, sizeof *c->is_here);
    c->all.n_tokens = calloc(n, sizeof *c->all.n_tokens);
    c->all.sequence = calloc(n, LT_MAX(c->parts.sequence, (size_t)1));
    c->all.pooled = calloc(n, LT_MAX(c->parts.pooled, (size_t)1));
    if (c->digests && c->same_as && c->is_here && c->all.n_tokens && c->all.sequence && c->all.pooled)
        return LT_OK;
    return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the embeddings of %zu texts", n);
}

static lt_status open_clip(void *opaque, lt_clip *clip, lt_err *err)
{
    text_state *state = opaque;
    lt_status status = LT_OK;
    text_clip *c = calloc(1, sizeof *c);
    if (!c) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    c->parts = parts_of(&state->model);
    const lt_stream *in = clip->inputs[0];
    LT_TRY(
        lt_prompts_read(state->config, state->captions, in ? 0 : clip->index, clip->arena, &c->prompts, err));
    if (!state->captions)
        LT_TRY(lt_prompts_fill(&c->prompts, in ? in->name : "", in ? in->caption : NULL, clip->arena, err));
    LT_TRY(describe(&state->model, &c->prompts, clip->index, in, clip->output, clip->arena, err));
    if (state->captions) set_run(clip->output, state->captions);
    LT_TRY(make_buffers(c, err));
    for (int i = 0; i < c->prompts.n_texts; i++) {
        lt_digest(c->prompts.texts[i], strlen(c->prompts.texts[i]), c->digests[i]);
        while (strcmp(c->digests[c->same_as[i]], c->digests[i]) != 0) c->same_as[i]++;
    }
    clip->n_units = clip->output->n_units;
    clip->state = c;
    return LT_OK;
fail:
    free_clip(c);
    return status;
}

static lt_status finish_clip(void *opaque, lt_clip *clip, bool complete, const char **result, lt_err *err)
{
    free_clip(clip->state);
    clip->state = NULL;
    *result = NULL;
    return LT_OK;
}

/* ---- the cache ----------------------------------------------------------------------------------------- */

/* Where text i's embeddings are. */
static lt_embeddings place(const text_clip *c, int i)
{
    return (lt_embeddings){(char *)c->all.sequence + (size_t)i * c->parts.sequence,
                           (char *)c->all.pooled + (size_t)i * c->parts.pooled, c->all.n_tokens + i};
}

/* Take a tensor out of a value; false when it is not what it should be. */
static bool take(const lt_safetensors *file, const char *name, const lt_text_model *m, void *to, size_t bytes)
{
    lt_tensor tensor;
    if (!bytes) return true;
    if (lt_safetensors_get(file, name, &tensor, NULL) || tensor.dtype != m->dtype ||
        lt_tensor_bytes(&tensor) != bytes)
        return false;
    memcpy(to, tensor.data, bytes);
    return true;
}

static lt_status recall(text_state *state, text_clip *c, int i, lt_err *err)
{
    void *bytes = NULL;
    size_t n_bytes;
    lt_safetensors *file = NULL;
    lt_embeddings to = place(c, i);
    lt_err ignored;
    lt_status status =
        lt_cache_get_text(state->cache, c->digests[i], state->model.digest, &bytes, &n_bytes, &ignored);
    if (status == LT_E_NOT_FOUND) return LT_OK;
    if (status) return lt_fail(err, status, "%s", ignored.text);
    status = lt_safetensors_open_memory(&file, bytes, n_bytes, "a text's embeddings in the cache", err);
    const char *n_tokens = file ? lt_safetensors_metadata(file, "n_tokens") : NULL;
    if (status == LT_OK) {
        c->is_here[i] = n_tokens && take(file, "sequence", &state->model, to.sequence, c->parts.sequence) &&
                        take(file, "pooled", &state->model, to.pooled, c->parts.pooled);
        if (c->is_here[i]) *to.n_tokens = atoi(n_tokens);
        if (!c->is_here[i])
            status = lt_fail(
                err, LT_E_FORMAT,
                "the cache's value text/%s/%s is not what its key says: take it out with `latents rm "
                "%s text/%s/%s`",
                c->digests[i], state->model.digest, state->setup->cache, c->digests[i], state->model.digest);
    }
    lt_safetensors_close(file);
    free(bytes);
    return status;
}

static lt_status remember(text_state *state, text_clip *c, int i, lt_err *err)
{
    const lt_text_model *m = &state->model;
    lt_embeddings from = place(c, i);
    lt_named_tensor tensors[2] = {{"sequence", {from.sequence, m->dtype, 2, {m->length, m->width}, 0}},
                                  {"pooled", {from.pooled, m->dtype, 1, {m->pooled_width}, 0}}};
    char n_tokens[16];
    lt_arena arena = {0};
    if (!state->cache) return LT_OK;
    snprintf(n_tokens, sizeof n_tokens, "%d", *from.n_tokens);
    char *caption = lt_prompts_caption(c->prompts.texts[i], &arena);
    lt_metadata metadata[] = {{"n_tokens", n_tokens},
                              {"text", caption ? caption : ""},
                              {"model", m->digest},
                              {"numeric_class", state->numeric_class}};
    lt_status status = lt_cache_put_text(state->cache, c->digests[i], m->digest, tensors,
                                         m->pooled_width ? 2 : 1, metadata, LT_COUNT(metadata), err);
    lt_arena_finish(&arena);
    return status;
}

/* ---- encoding ------------------------------------------------------------------------------------------ */

/* The place of the first number of a text's embeddings that is not finite, in words. */
static lt_status check_finite(const text_state *state, const text_clip *c, int i, lt_err *err)
{
    const lt_text_model *m = &state->model;
    lt_embeddings e = place(c, i);
    const struct {
        const char *name;
        const void *data;
        size_t bytes;
    } all[] = {{"sequence", e.sequence, c->parts.sequence}, {"pooled", e.pooled, c->parts.pooled}};
    for (size_t k = 0; k < LT_COUNT(all); k++) {
        int64_t bad =
            lt_first_not_finite(all[k].data, m->dtype, (int64_t)(all[k].bytes / lt_dtype_bytes(m->dtype)));
        if (bad >= 0)
            return lt_fail(err, LT_E_NUMERIC,
                           "%s %d: %s of the text encoder is not finite at number %lld (model %s, dtype %s)",
                           i ? "prompt" : "negative prompt", LT_MAX(i, 1), all[k].name, (long long)bad,
                           state->config->model, lt_dtype_name(m->dtype));
    }
    return LT_OK;
}

/* Encode `n` of the texts, whose numbers are in `which`. */
static lt_status encode_batch(text_state *state, text_clip *c, const int *which, int n, lt_err *err)
{
    const char **texts = calloc((size_t)n, sizeof *texts);
    lt_embeddings out = {malloc(LT_MAX((size_t)n * c->parts.sequence, (size_t)1)),
                         malloc(LT_MAX((size_t)n * c->parts.pooled, (size_t)1)),
                         malloc((size_t)n * sizeof *out.n_tokens)};
    lt_status status = texts && out.sequence && out.pooled && out.n_tokens
                           ? LT_OK
                           : lt_fail(err, LT_E_NO_MEMORY, "out of memory for the embeddings of %d texts", n);
    for (int i = 0; i < n && status == LT_OK; i++) texts[i] = c->prompts.texts[which[i]];
    if (status == LT_OK)
        status = lt_text_model_encode(&state->model, texts, n, state->setup->threads, &out, err);
    for (int i = 0; i < n && status == LT_OK; i++) {
        lt_embeddings to = place(c, which[i]);
        memcpy(to.sequence, (char *)out.sequence + (size_t)i * c->parts.sequence, c->parts.sequence);
        memcpy(to.pooled, (char *)out.pooled + (size_t)i * c->parts.pooled, c->parts.pooled);
        *to.n_tokens = out.n_tokens[i];
        c->is_here[which[i]] = true;
        status = check_finite(state, c, which[i], err);
        if (status == LT_OK) status = remember(state, c, which[i], err);
    }
    free(texts);
    free(out.sequence);
    free(out.pooled);
    free(out.n_tokens);
    return status;
}

/* Embeddings of all texts: from the cache, else computed a batch at a time. The first unit that is asked for pays for all, and moves. */
static lt_status encode_all(text_state *state, const lt_clip *clip, lt_err *err)
{
    text_clip *c = clip->state;
    int batch = (int)state->config->batch, n = 0, *which = malloc((size_t)batch * sizeof *which);
    lt_status status = which ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (int i = 0; i < c->prompts.n_texts && status == LT_OK; i++) {
        if (c->same_as[i] != i || c->is_here[i]) continue;
        if (state->cache) status = recall(state, c, i, err);
        if (status || c->is_here[i]) continue;
        which[n++] = i;
        if (n < batch) continue;
        status = encode_batch(state, c, which, n, err);
        lt_stage_moved(clip);
        n = 0;
    }
    if (status == LT_OK && n) status = encode_batch(state, c, which, n, err);
    free(which);
    c->encoded = status == LT_OK;
    return status;
}

static lt_status give(const text_state *state, const text_clip *c, int i, lt_payload *output, lt_err *err)
{
    const lt_text_model *m = &state->model;
    lt_embeddings e = place(c, c->same_as[i]);
    Lt__Wire__Dtype dtype = (Lt__Wire__Dtype)(m->dtype + 1);
    lt_span *span;
    lt_status status;
    int32_t n_tokens = *e.n_tokens;
    if (c->parts.sequence) {
        LT_TRY(lt_payload_add(output, (uint64_t)i, 1, dtype, c->parts.sequence, &span, err));
        memcpy(span->data, e.sequence, c->parts.sequence);
    }
    if (c->parts.pooled) {
        LT_TRY(lt_payload_add(output, (uint64_t)i, 1, dtype, c->parts.pooled, &span, err));
        memcpy(span->data, e.pooled, c->parts.pooled);
    }
    LT_TRY(lt_payload_add(output, (uint64_t)i, 1, LT__WIRE__DTYPE__DTYPE_I32, sizeof n_tokens, &span, err));
    memcpy(span->data, &n_tokens, sizeof n_tokens);
    return LT_OK;
fail:
    return status;
}

/* Of a clip that comes no frames are needed. */
static lt_status need(void *opaque, const lt_clip *clip, uint64_t unit, lt_need needs[LT_MAX_PORTS],
                      lt_err *err)
{
    needs[0] = (lt_need){0, 0};
    return LT_OK;
}

static lt_status process(void *opaque, lt_clip *clip, uint64_t unit, const lt_payload *const *in,
                         lt_payload *output, lt_err *err)
{
    text_state *state = opaque;
    text_clip *c = clip->state;
    lt_status status = LT_OK;
    if (unit >= (uint64_t)c->prompts.n_texts)
        return lt_fail(err, LT_E_INTERNAL, "unit %" PRIu64 " lies behind the end", unit);
    if (!c->encoded) status = encode_all(state, clip, err);
    return status ? status : give(state, c, (int)unit, output, err);
}

/* ---- the descriptor ------------------------------------------------------------------------------------ */

static const lt_port inputs[] = {
    {"clips",
     1u << LT__WIRE__PORT_KIND__PORT_FRAMES | 1u << LT__WIRE__PORT_KIND__PORT_LATENTS | LT_PORT_OPTIONAL,
     "each of these gets its text; without it there is one text"}};
static const lt_port outputs[] = {
    {"text", 1u << LT__WIRE__PORT_KIND__PORT_TEXT, "embeddings of the negative prompt and of the prompts"}};

const lt_stage lt_text_encode_stage = {
    .kind = "text_encode",
    .help = "Encodes prompts with CLIP, SDXL's pair of CLIPs, or T5. Embeddings are kept in the cache, where "
            "the graph has "
            "one; equal texts are computed once.",
    .inputs = inputs,
    .n_inputs = 1,
    .outputs = outputs,
    .n_outputs = 1,
    .options = options,
    .n_options = (int)LT_COUNT(options),
    .config_bytes = sizeof(lt_text_encode_config),
    .plan = plan,
    .create = create,
    .destroy = destroy,
    .open_clip = open_clip,
    .need = need,
    .process = process,
    .finish_clip = finish_clip,
};
