/* test_text.c - the text encoders against the references' own code in float64. */
#include "models/text_parts.h"
#include "tests/models/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define F32_BOUND  1e-5
#define BF16_BOUND 3e-2

/* One output of a fixture. */
typedef struct text_case {
    const char *fixture, *model, *output;
    int clip_skip;
    bool norm, pooled;
} text_case;

static const text_case cases[] = {
    {"clip_quick", "clip_quick", "last_hidden_state", 1, true, false},
    {"clip_quick", "clip_quick", "pooler_output", 0, false, true},
    {"clip_quick", "clip_quick", "skip_2", 2, false, false},
    {"clip_quick", "clip_quick", "skip_2_norm", 2, true, false},
    {"clip_quick", "clip_quick", "pooler_output", 3, false, true},
    {"clip_projection", "clip_projection", "last_hidden_state", 0, true, false},
    {"clip_projection", "clip_projection", "text_embeds", 2, false, true},
    {"clip_projection", "clip_projection", "skip_2", 2, false, false},
    {"t5_padded", "t5", "last_hidden_state", 0, false, false},
    {"t5_long", "t5", "last_hidden_state", 1, true, false},
    {"lite_sd", "lite_sd", "last_hidden_state", 1, true, false},
    {"lite_sd", "lite_sd", "pooler_output", 1, true, true},
    {"lite_sd", "lite_sd", "skip_2_norm", 2, true, false},
    {"lite_sdxl", "lite_sdxl", "skip_1", 1, false, false},
    {"lite_sdxl", "lite_sdxl", "skip_2", 2, false, false},
    {"lite_sdxl_2", "lite_sdxl_2", "skip_1", 1, false, false},
    {"lite_sdxl_2", "lite_sdxl_2", "skip_2", 2, false, false},
    {"lite_sdxl_2", "lite_sdxl_2", "skip_3", 3, false, false},
    {"lite_sdxl_2", "lite_sdxl_2", "text_embeds", 2, false, true},
};

static lt_tensor raw_i32(const fixture *f, const char *name)
{
    lt_tensor t = LT_NONE;
    if (lt_safetensors_get(f->file, name, &t, NULL) == LT_OK) assert_int_equal(t.dtype, LT_I32);
    return t;
}

static fixture open_text_fixture(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "text/%s", name);
    return fixture_open(path);
}

static lt_text_encoder *open_encoder(const char *path, lt_text_which which)
{
    lt_text_encoder *encoder;
    lt_err err = {0};
    must(lt_text_encoder_open(&encoder, path, which, &err), &err);
    return encoder;
}

/* A tensor as f32 on the heap. */
static float *take(lt_context *c, lt_tensor *t, int64_t *n)
{
    *n = lt_n_elements(t);
    return fetch_f32(c, *t);
}

/* Sequence or pooled vectors of ids, in a workspace of exactly the size that a dry run gives. */
static float *encode(lt_text_encoder *e, const char *device, lt_dtype dtype, int threads, lt_tensor ids,
                     const int *n_ids, const lt_text_params *params, bool pooled, int64_t *n)
{
    lt_err err = {0};
    lt_context *dry = open_context(device, dtype, 0, threads);
    lt_text text = lt_text_encode(dry, e, ids, n_ids, params);
    must(lt_context_status(dry, &err), &err);
    lt_drop(dry, &text.sequence);
    lt_drop(dry, &text.pooled);
    check_empty(dry);
    size_t peak = lt_workspace_peak(dry->workspace), planned = dry->packed_bytes;
    lt_context_destroy(dry);

    /* The conversion of the result needs room, too. */
    lt_context *c = open_context(device, dtype, peak + 1000000, threads);
    text = lt_text_encode(c, e, ids, n_ids, params);
    must(lt_context_status(c, &err), &err);
    assert_true(lt_workspace_peak(c->workspace) <= peak);
    assert_true(c->packed_bytes <= planned);
    float *values = take(c, pooled ? &text.pooled : &text.sequence, n);
    lt_drop(c, &text.sequence);
    lt_drop(c, &text.pooled);
    check_empty(c);
    lt_text_encoder_close(e, c);
    lt_context_destroy(c);
    return values;
}

static double run(const text_case *t, const char *path, lt_text_which which, const char *device,
                  lt_dtype dtype, double bound)
{
    fixture f = open_text_fixture(t->fixture);
    lt_text_encoder *e = open_encoder(path, which);
    lt_tensor ids = raw_i32(&f, "input_ids"), n_ids = raw_i32(&f, "n_ids"),
              wanted = fixture_raw(&f, t->output);
    lt_text_params params = {.clip_skip = t->clip_skip, .final_norm = t->norm, .keep_packed = true};
    int64_t n;
    float *got = encode(e, device, dtype, 2, ids, n_ids.data, &params, t->pooled, &n);
    char label[96];
    snprintf(label, sizeof(label), "%s %s %s, %s, skip %d", device, lt_dtype_name(dtype), t->fixture,
             t->output, t->clip_skip);
    assert_int_equal(n, lt_n_elements(&wanted));
    double l2 = check_close(label, got, wanted.data, n, bound);
    free(got);
    fixture_close(&f);
    return l2;
}

static void networks_f32(void **state)
{
    for (size_t i = 0; i < LT_COUNT(cases); i++)
        run(&cases[i], in_folder("%s", cases[i].model), LT_TEXT_FIRST, "cpu", LT_F32, F32_BOUND);
}

static void networks_ref(void **state)
{
    for (size_t i = 0; i < LT_COUNT(cases); i++)
        run(&cases[i], in_folder("%s", cases[i].model), LT_TEXT_FIRST, "ref", LT_F64, 1e-6);
}

/* bf16 weights and activations; no worse than 1.25 times a network that rounds after each operator. */
static void networks_bf16(void **state)
{
    static const text_case some[] = {
        {"clip_quick_bf16", "text/clip_quick", "last_hidden_state", 1, true, false},
        {"t5_bf16", "text/t5", "last_hidden_state", 1, true, false},
    };
    for (size_t i = 0; i < LT_COUNT(some); i++) {
        fixture f = open_text_fixture(some[i].fixture);
        double emulated = atof(lt_safetensors_metadata(f.file, "emulation"));
        fixture_close(&f);
        const char *folder = in_folder("bf16_%zu", i);
        synthetic_write(some[i].model, folder, &(synthetic){.dtype = LT_BF16, .stem = "model"});
        double l2 = run(&some[i], folder, LT_TEXT_FIRST, "cpu", LT_BF16, BF16_BOUND);
        printf("  emulation %.2e\n", emulated);
        assert_true(l2 <= 1.25 * emulated);
        /* The file's values in f32 arithmetic are the reference itself. */
        run(&some[i], folder, LT_TEXT_FIRST, "cpu", LT_F32, F32_BOUND);
    }
}

static void buckets(void **state)
{
    fixture f = open_text_fixture("t5_padded");
    lt_tensor wanted = fixture_raw(&f, "buckets");
    int64_t half = wanted.shape[0] / 2;
    for (int64_t i = -half; i <= half; i++)
        assert_int_equal(text_bucket((int)i, 32, 128), (int)((float *)wanted.data)[i + half]);
    fixture_close(&f);
}

/* A prompt has the same bytes alone and in a batch, with one thread and with two, packed weights kept or not. */
static void same_bytes(void **state)
{
    static const text_case some[] = {{"clip_quick", "clip_quick", NULL, 2, true, true},
                                     {"t5_padded", "t5", NULL, 0, false, false}};
    for (size_t i = 0; i < LT_COUNT(some); i++) {
        for (int dtype = LT_F32; dtype <= LT_BF16; dtype++) {
            fixture f = open_text_fixture(some[i].fixture);
            lt_tensor ids = raw_i32(&f, "input_ids"), n_ids = raw_i32(&f, "n_ids"), one = ids;
            lt_text_params params = {.clip_skip = some[i].clip_skip, .keep_packed = true};
            int64_t n, m, k;
            const char *path = in_folder("%s", some[i].model);
            float *all = encode(open_encoder(path, LT_TEXT_FIRST), "cpu", (lt_dtype)dtype, 2, ids, n_ids.data,
                                &params, some[i].pooled, &n);
            params.keep_packed = false;
            float *again = encode(open_encoder(path, LT_TEXT_FIRST), "cpu", (lt_dtype)dtype, 1, ids,
                                  n_ids.data, &params, some[i].pooled, &k);
            assert_memory_equal(all, again, sizeof(float) * (size_t)n);
            free(again);
            one.shape[0] = 1;
            for (int64_t row = 0; row < ids.shape[0]; row++) {
                one.data = (int32_t *)ids.data + row * ids.shape[1];
                const int *own = n_ids.data ? (const int *)n_ids.data + row : NULL;
                float *alone = encode(open_encoder(path, LT_TEXT_FIRST), "cpu", (lt_dtype)dtype, 2, one, own,
                                      &params, some[i].pooled, &m);
                assert_int_equal(m * ids.shape[0], n);
                assert_memory_equal(all + row * m, alone, sizeof(float) * (size_t)m);
                free(alone);
            }
            free(all);
            fixture_close(&f);
        }
    }
}

/* What is planned for texts that fill their rows is enough for padded ones, of a batch of 8. */
static void padding_takes_no_more(void **state)
{
    enum { N = 8, L = 30 };
    int32_t numbers[N * L] = {0};
    int full[N], padded[N];
    for (int i = 0; i < N; i++) {
        full[i] = L;
        padded[i] = i + 1;
    }
    lt_err err = {0};
    lt_tensor ids = {.data = numbers, .dtype = LT_I32, .rank = 2, .shape = {N, L}};
    lt_text_params params = {0};
    lt_text_encoder *e = open_encoder(in_folder("t5"), LT_TEXT_FIRST);
    lt_context *dry = open_context("cpu", LT_F32, 0, 1);
    lt_text text = lt_text_encode(dry, e, ids, full, &params);
    lt_drop(dry, &text.sequence);
    lt_context *c = open_context("cpu", LT_F32, lt_workspace_peak(dry->workspace), 1);
    text = lt_text_encode(c, e, ids, padded, &params);
    must(lt_context_status(c, &err), &err);
    lt_drop(c, &text.sequence);
    lt_text_encoder_close(e, c);
    lt_context_destroy(dry);
    lt_context_destroy(c);
}

/* Without keep_packed a layer's packed weights go as soon as it has run; a plan counts the largest layer. */
static void packed_weights_go(void **state)
{
    fixture f = open_text_fixture("t5_padded");
    lt_tensor ids = raw_i32(&f, "input_ids");
    size_t left[2], planned[2];
    for (int keep = 0; keep < 2; keep++) {
        lt_text_params params = {.keep_packed = keep};
        lt_text_encoder *e = open_encoder(in_folder("t5"), LT_TEXT_FIRST);
        lt_context *dry = open_context("cpu", LT_F32, 0, 1);
        lt_context *c = open_context("cpu", LT_F32, (size_t)64 << 20, 1);
        lt_text text = lt_text_encode(dry, e, ids, NULL, &params);
        planned[keep] = dry->packed_bytes;
        lt_drop(dry, &text.sequence);
        text = lt_text_encode(c, e, ids, NULL, &params);
        left[keep] = c->packed_bytes;
        lt_drop(c, &text.sequence);
        lt_text_encoder_close(e, c);
        lt_context_destroy(dry);
        lt_context_destroy(c);
    }
    assert_true(left[1] == planned[1]);
    assert_true(left[0] < planned[0] && planned[0] < planned[1] / 2);
    fixture_close(&f);
}

/* ---- names ----------------------------------------------------------------------------------------------------------- */

static void under_text_model(const char *name, char *to, size_t bytes)
{
    snprintf(to, bytes, "text_model.%s", name);
}

static void under_text_encoder(const char *name, char *to, size_t bytes)
{
    snprintf(to, bytes, "text_encoder.%s", name);
}

static void under_text_encoder_2(const char *name, char *to, size_t bytes)
{
    snprintf(to, bytes, "text_encoder_2.%s", name);
}

static void tied_only(const char *name, char *to, size_t bytes)
{
    snprintf(to, bytes, "%s", strcmp(name, "shared.weight") == 0 ? "encoder.embed_tokens.weight" : name);
}

/* The same models in shards, under other names, beside other tensors. */
static void other_files(void **state)
{
    const text_case *clip = &cases[0], *projected = &cases[6], *t5 = &cases[8], *lite = &cases[15];
    const struct {
        const char *model;
        const text_case *t;
        synthetic options;
        bool file; /* opened as a file, not as a folder */
        lt_text_which which;
    } files[] = {
        {"text/clip_quick", clip, {.stem = "model", .n_shards = 3}, false, LT_TEXT_FIRST},
        {"text/clip_quick",
         clip,
         {.stem = "model",
          .dtype = LT_F32,
          .rename = under_text_model,
          .add = {"text_model.embeddings.position_ids", "logit_scale"}},
         false,
         LT_TEXT_SECOND},
        {"text/clip_projection",
         projected,
         {.stem = "model", .add = {"vision_model.post_layernorm.bias", "visual_projection.weight"}},
         false,
         LT_TEXT_FIRST},
        {"text/t5",
         t5,
         {.stem = "model",
          .n_shards = 2,
          .add = {"encoder.embed_tokens.weight", "decoder.final_layer_norm.weight"}},
         false,
         LT_TEXT_FIRST},
        {"text/t5",
         t5,
         {.stem = "model", .rename = tied_only, .add = {"lm_head.weight"}},
         false,
         LT_TEXT_FIRST},
        {"text/t5", t5, {.stem = "model", .no_config = true}, false, LT_TEXT_FIRST},
        {"text/t5",
         t5,
         {.stem = "model", .rename = under_text_encoder, .add = {"denoising_model.pos_embed"}},
         true,
         LT_TEXT_FIRST},
        {"text/lite_sdxl_2",
         lite,
         {.stem = "model", .rename = under_text_encoder_2, .add = {"video_encoder.conv_in.bias"}},
         true,
         LT_TEXT_SECOND},
    };
    for (size_t i = 0; i < LT_COUNT(files); i++) {
        const char *folder = in_folder("other_%zu", i);
        synthetic_write(files[i].model, folder, &files[i].options);
        const char *path = files[i].file ? in_folder("other_%zu/model.safetensors", i) : folder;
        run(files[i].t, path, files[i].which, "cpu", LT_F32, F32_BOUND);
    }
}

/* Shards in halves, under either name of their index. */
static void half_shards(void **state)
{
    static const char *const names[] = {"model.safetensors.index.fp16.json",
                                        "model.fp16.safetensors.index.json"};
    const text_case t = {"t5_f16", "", "last_hidden_state", 0, true, false};
    for (size_t i = 0; i < LT_COUNT(names); i++) {
        const char *folder = in_folder("halves_%zu", i);
        synthetic_write("text/t5", folder, &(synthetic){.stem = "model", .n_shards = 2, .dtype = LT_F16});
        assert_int_equal(rename(in_folder("halves_%zu/model.safetensors.index.json", i),
                                in_folder("halves_%zu/%s", i, names[i])),
                         0);
        run(&t, folder, LT_TEXT_FIRST, "cpu", LT_F32, F32_BOUND);
    }
}

/* A pipeline's folder with two encoders. */
static void pipeline_folder(void **state)
{
    mkdir(in_folder("pipeline"), 0700);
    synthetic_write("text/clip_quick", in_folder("pipeline/text_encoder"), &(synthetic){.stem = "model"});
    synthetic_write("text/clip_projection", in_folder("pipeline/text_encoder_2"),
                    &(synthetic){.stem = "model"});
    run(&cases[0], in_folder("pipeline"), LT_TEXT_FIRST, "cpu", LT_F32, F32_BOUND);
    run(&cases[6], in_folder("pipeline"), LT_TEXT_SECOND, "cpu", LT_F32, F32_BOUND);
}

static void write_config(const char *folder, const char *text)
{
    char path[2100];
    snprintf(path, sizeof(path), "%s/config.json", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* A whole CLIP, as transformers saves it: the text's part of its configuration says nothing of the projection, or something else. */
static void whole_clip(void **state)
{
    static const char *const projections[] = {"", ", \"projection_dim\": 512"};
    for (size_t i = 0; i < LT_COUNT(projections); i++) {
        char config[600];
        synthetic_write("text/clip_projection", in_folder("whole_%zu", i),
                        &(synthetic){.stem = "model", .add = {"vision_model.post_layernorm.bias"}});
        snprintf(config, sizeof(config),
                 "{\"architectures\": [\"CLIPModel\"], \"model_type\": \"clip\", \"projection_dim\": 24, "
                 "\"text_config\": {\"vocab_size\": 61, \"hidden_size\": 40, \"intermediate_size\": 72, "
                 "\"num_hidden_layers\": 2, \"num_attention_heads\": 5, \"max_position_embeddings\": 9, "
                 "\"hidden_act\": \"gelu\", \"eos_token_id\": 57, \"layer_norm_eps\": 3e-05%s}}",
                 projections[i]);
        write_config(in_folder("whole_%zu", i), config);
        run(&cases[6], in_folder("whole_%zu", i), LT_TEXT_FIRST, "cpu", LT_F32, F32_BOUND);
    }
}

/* ---- a whole SDXL in one file ------------------------------------------------------------------------------------------ */

typedef struct collection {
    lt_named_tensor list[256];
    int n;
} collection;

static lt_tensor *collect(collection *c, const char *format, ...)
{
    char *name = malloc(160);
    assert_non_null(name);
    assert_true(c->n < (int)LT_COUNT(c->list));
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, 160, format, arguments);
    va_end(arguments);
    c->list[c->n].name = name;
    return &c->list[c->n++].tensor;
}

static lt_tensor copy_of(const lt_tensor *t)
{
    lt_tensor copy = *t;
    assert_non_null(copy.data = malloc(lt_tensor_bytes(t)));
    memcpy(copy.data, t->data, lt_tensor_bytes(t));
    return copy;
}

/* Part of a name after "encoders.N.", or NULL; *layer: N. */
static const char *in_layer(const char *name, int *layer)
{
    int used = 0;
    return sscanf(name, "encoders.%d.%n", layer, &used) == 1 && used ? name + used : NULL;
}

static void collect_transformers(collection *c, const char *name, const lt_tensor *t)
{
    static const char *const pairs[][2] = {{"attn.to_q", "self_attn.q_proj"},
                                           {"attn.to_k", "self_attn.k_proj"},
                                           {"attn.to_v", "self_attn.v_proj"},
                                           {"attn.to_out", "self_attn.out_proj"},
                                           {"layer_norm1", "layer_norm1"},
                                           {"layer_norm2", "layer_norm2"},
                                           {"fc1", "mlp.fc1"},
                                           {"fc2", "mlp.fc2"}};
    static const char scope[] = "conditioner.embedders.0.transformer.text_model";
    int layer;
    const char *part = in_layer(name, &layer);
    for (size_t i = 0; part && i < LT_COUNT(pairs); i++)
        if (strncmp(part, pairs[i][0], strlen(pairs[i][0])) == 0)
            *collect(c, "%s.encoder.layers.%d.%s%s", scope, layer, pairs[i][1], part + strlen(pairs[i][0])) =
                copy_of(t);
    if (part) return;
    if (strcmp(name, "position_embeds") == 0) {
        lt_tensor *to = collect(c, "%s.embeddings.position_embedding.weight", scope);
        *to = copy_of(t);
        *to =
            (lt_tensor){.data = to->data, .dtype = to->dtype, .rank = 2, .shape = {t->shape[1], t->shape[2]}};
    } else if (strcmp(name, "token_embedding.weight") == 0) {
        *collect(c, "%s.embeddings.%s", scope, name) = copy_of(t);
    } else {
        *collect(c, "%s.%s", scope, name) = copy_of(t);
    }
}

/* [out,in] as [in,out]. */
static lt_tensor transposed(const lt_tensor *t)
{
    lt_tensor to = copy_of(t);
    for (int64_t i = 0; i < t->shape[0]; i++)
        for (int64_t j = 0; j < t->shape[1]; j++)
            ((float *)to.data)[j * t->shape[0] + i] = ((const float *)t->data)[i * t->shape[1] + j];
    to.shape[0] = t->shape[1];
    to.shape[1] = t->shape[0];
    return to;
}

/* q, k, v of a layer on top of each other. */
static lt_tensor stacked(lt_safetensors *from, int layer, const char *leaf)
{
    lt_tensor all = LT_NONE;
    for (int i = 0; i < 3; i++) {
        char name[80];
        lt_tensor t;
        lt_err err = {0};
        snprintf(name, sizeof(name), "encoders.%d.attn.to_%c.%s", layer, "qkv"[i], leaf);
        must(lt_safetensors_get(from, name, &t, &err), &err);
        size_t bytes = lt_tensor_bytes(&t);
        if (i == 0) {
            all = t;
            all.shape[0] *= 3;
            assert_non_null(all.data = malloc(3 * bytes));
        }
        memcpy((char *)all.data + (size_t)i * bytes, t.data, bytes);
    }
    return all;
}

static void collect_open_clip(collection *c, lt_safetensors *from, const char *name, const lt_tensor *t)
{
    static const char *const pairs[][2] = {{"attn.to_out", "attn.out_proj"},
                                           {"layer_norm1", "ln_1"},
                                           {"layer_norm2", "ln_2"},
                                           {"fc1", "mlp.c_fc"},
                                           {"fc2", "mlp.c_proj"}};
    static const char scope[] = "conditioner.embedders.1.model";
    int layer;
    const char *part = in_layer(name, &layer);
    for (size_t i = 0; part && i < LT_COUNT(pairs); i++)
        if (strncmp(part, pairs[i][0], strlen(pairs[i][0])) == 0)
            *collect(c, "%s.transformer.resblocks.%d.%s%s", scope, layer, pairs[i][1],
                     part + strlen(pairs[i][0])) = copy_of(t);
    if (part && strncmp(part, "attn.to_q.", 10) == 0)
        *collect(c, "%s.transformer.resblocks.%d.attn.in_proj_%s", scope, layer, part + 10) =
            stacked(from, layer, part + 10);
    if (part) return;
    if (strcmp(name, "position_embeds") == 0) {
        lt_tensor *to = collect(c, "%s.positional_embedding", scope);
        *to = copy_of(t);
        *to =
            (lt_tensor){.data = to->data, .dtype = to->dtype, .rank = 2, .shape = {t->shape[1], t->shape[2]}};
    } else if (strcmp(name, "text_projection.weight") == 0) {
        *collect(c, "%s.text_projection", scope) = transposed(t);
    } else if (strncmp(name, "final_layer_norm.", 17) == 0) {
        *collect(c, "%s.ln_final.%s", scope, name + 17) = copy_of(t);
    } else {
        *collect(c, "%s.%s", scope, name) = copy_of(t);
    }
}

static void single_file_sdxl(void **state)
{
    static collection c;
    lt_err err = {0};
    lt_safetensors *first, *second;
    const char *name;
    must(lt_safetensors_open(&first, in_folder("lite_sd/model.safetensors"), &err), &err);
    must(lt_safetensors_open(&second, in_folder("lite_sdxl_2/model.safetensors"), &err), &err);
    for (int i = 0; i < lt_safetensors_count(first); i++) {
        lt_tensor t = lt_safetensors_at(first, i, &name);
        collect_transformers(&c, name, &t);
    }
    for (int i = 0; i < lt_safetensors_count(second); i++) {
        lt_tensor t = lt_safetensors_at(second, i, &name);
        collect_open_clip(&c, second, name, &t);
    }
    int32_t numbers[] = {0, 1, 2};
    float scale = 2;
    lt_tensor ids = {.data = numbers, .dtype = LT_I32, .rank = 2, .shape = {1, 3}},
              logit = {.data = &scale, .dtype = LT_F32};
    *collect(&c, "conditioner.embedders.0.transformer.text_model.embeddings.position_ids") = copy_of(&ids);
    *collect(&c, "conditioner.embedders.1.model.logit_scale") = copy_of(&logit);
    *collect(&c, "first_stage_model.encoder.conv_in.bias") = copy_of(&logit);
    must(lt_safetensors_write(in_folder("sdxl.safetensors"), c.list, c.n, NULL, 0, &err), &err);
    for (int i = 0; i < c.n; i++) {
        free(c.list[i].tensor.data);
        free((char *)c.list[i].name);
    }
    lt_safetensors_close(first);
    lt_safetensors_close(second);
    run(&cases[10], in_folder("sdxl.safetensors"), LT_TEXT_FIRST, "cpu", LT_F32, F32_BOUND);
    run(&cases[11], in_folder("sdxl.safetensors"), LT_TEXT_FIRST, "cpu", LT_F32, F32_BOUND);
    run(&cases[16], in_folder("sdxl.safetensors"), LT_TEXT_SECOND, "cpu", LT_F32, F32_BOUND);
    run(&cases[18], in_folder("sdxl.safetensors"), LT_TEXT_SECOND, "cpu", LT_F32, F32_BOUND);
}

/* ---- errors ------------------------------------------------------------------------------------------------------------ */

static void fails(const char *path, lt_text_which which, lt_status status, const char *words)
{
    lt_text_encoder *e;
    lt_err err = {0};
    assert_int_equal(lt_text_encoder_open(&e, path, which, &err), status);
    assert_null(e);
    if (!strstr(err.text, words)) fail_msg("'%s' is not in: %s", words, err.text);
}

static void files_that_do_not_fit(void **state)
{
    const char *folder = in_folder("broken");
    synthetic_write("text/clip_projection", folder,
                    &(synthetic){.stem = "model", .omit = {"text_projection.weight"}});
    fails(folder, LT_TEXT_FIRST, LT_E_MISMATCH, "text_projection.weight");
    synthetic_write("text/t5", folder, &(synthetic){.stem = "model", .omit = {"shared.weight"}});
    fails(folder, LT_TEXT_FIRST, LT_E_MISMATCH, "shared.weight");
    synthetic_write("text/t5", folder,
                    &(synthetic){.stem = "model", .add = {"encoder.block.3.layer.0.layer_norm.weight"}});
    fails(folder, LT_TEXT_FIRST, LT_E_MISMATCH, "not expected");
    synthetic_write("text/t5", folder,
                    &(synthetic){.stem = "model", .poison = {"encoder.final_layer_norm.weight"}});
    fails(folder, LT_TEXT_FIRST, LT_E_NUMERIC, "encoder.final_layer_norm.weight");
    synthetic_write("text/t5", folder, &(synthetic){.stem = "model"});
    write_config(folder, "{\"model_type\": \"umt5\"}");
    fails(folder, LT_TEXT_FIRST, LT_E_UNSUPPORTED, "umt5");
    write_config(folder, "{\"model_type\": \"t5\", \"feed_forward_proj\": \"relu\"}");
    fails(folder, LT_TEXT_FIRST, LT_E_UNSUPPORTED, "gated-gelu");
    write_config(folder, "{\"model_type\": 5, \"d_kv\": 1.5}");
    fails(folder, LT_TEXT_FIRST, LT_E_UNSUPPORTED, "d_kv");
    write_config(folder, "[");
    fails(folder, LT_TEXT_FIRST, LT_E_FORMAT, "config.json:1");
    write_config(folder, "{\"feed_forward_proj\": \"gated-gelu\", \"relative_attention_num_buckets\": 1000, "
                         "\"relative_attention_max_distance\": 128}");
    fails(folder, LT_TEXT_FIRST, LT_E_UNSUPPORTED, "text encoder");
    synthetic_write("kl", folder, &(synthetic){.stem = "model"});
    fails(folder, LT_TEXT_FIRST, LT_E_UNSUPPORTED, "no text encoder");
    synthetic_write("text/lite_sdxl", in_folder("one"),
                    &(synthetic){.stem = "model", .rename = under_text_encoder});
    fails(in_folder("one/model.safetensors"), LT_TEXT_SECOND, LT_E_NOT_FOUND, "no second text encoder");
    fails(in_folder("nowhere"), LT_TEXT_FIRST, LT_E_NOT_FOUND, "nowhere");
}

static void refused(lt_context *c, lt_text_encoder *e, lt_tensor ids, const int *n_ids, lt_text_params params,
                    lt_status status, const char *words)
{
    lt_err err = {0};
    lt_text text = lt_text_encode(c, e, ids, n_ids, &params);
    assert_null(text.sequence.data);
    assert_null(text.pooled.data);
    assert_int_equal(lt_context_status(c, &err), status);
    if (!strstr(err.text, words)) fail_msg("'%s' is not in: %s", words, err.text);
    check_empty(c);
}

/* Wrong input is an error; the context can be used again and nothing is left in it. */
static void input_that_does_not_fit(void **state)
{
    int32_t numbers[24] = {0};
    lt_tensor ids = {.data = numbers, .dtype = LT_I32, .rank = 2, .shape = {2, 12}}, wrong = ids;
    lt_context *c = open_context("cpu", LT_F32, 16 << 20, 2);
    lt_text_encoder *clip = open_encoder(in_folder("clip_quick"), LT_TEXT_FIRST);
    lt_text_encoder *t5 = open_encoder(in_folder("t5"), LT_TEXT_FIRST);
    lt_text_encoder *cut = open_encoder(in_folder("lite_sdxl"), LT_TEXT_FIRST);
    wrong.shape[0] = 1;
    wrong.shape[1] = 14;
    refused(c, clip, wrong, NULL, (lt_text_params){0}, LT_E_INVALID, "1 to 13 tokens");
    wrong.dtype = LT_F32;
    refused(c, t5, wrong, NULL, (lt_text_params){0}, LT_E_INVALID, "f32[1,14]");
    refused(c, clip, ids, NULL, (lt_text_params){.clip_skip = 4}, LT_E_INVALID, "0 to 3");
    refused(c, t5, ids, NULL, (lt_text_params){.clip_skip = 2}, LT_E_INVALID, "clip_skip");
    refused(c, t5, ids, (const int[]){3, 13}, (lt_text_params){0}, LT_E_INVALID, "prompt 1");
    wrong = ids;
    wrong.shape[1] = 7;
    refused(c, cut, wrong, NULL, (lt_text_params){.final_norm = true}, LT_E_INVALID, "final norm");
    numbers[20] = 97;
    refused(c, clip, ids, NULL, (lt_text_params){0}, LT_E_INVALID, "97");
    numbers[20] = 0;
    lt_context *narrow = open_context("cpu", LT_F32, 20000, 2);
    refused(narrow, t5, ids, NULL, (lt_text_params){0}, LT_E_NO_MEMORY, "workspace");
    lt_text_params all = {0};
    lt_text text = lt_text_encode(c, clip, ids, NULL, &all);
    assert_non_null(text.sequence.data);
    lt_drop(c, &text.sequence);
    lt_drop(c, &text.pooled);
    lt_tensor none = {.data = numbers, .dtype = LT_I32, .rank = 2, .shape = {0, 12}};
    text = lt_text_encode(c, clip, none, NULL, &all);
    assert_int_equal(lt_context_status(c, NULL), LT_OK);
    assert_int_equal(lt_n_elements(&text.sequence), 0);
    lt_drop(c, &text.sequence);
    lt_drop(c, &text.pooled);
    check_empty(c);
    lt_text_encoder_close(clip, c);
    lt_text_encoder_close(t5, c);
    lt_text_encoder_close(cut, c);
    lt_context_destroy(c);
    lt_context_destroy(narrow);
}

int main(void)
{
    support_start();
    static const char *const models[] = {"clip_quick", "clip_projection", "t5",
                                         "lite_sd",    "lite_sdxl",       "lite_sdxl_2"};
    for (size_t i = 0; i < LT_COUNT(models); i++) {
        char name[64];
        snprintf(name, sizeof(name), "text/%s", models[i]);
        synthetic_write(name, in_folder("%s", models[i]), &(synthetic){.stem = "model"});
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks_f32),
        cmocka_unit_test(networks_ref),
        cmocka_unit_test(networks_bf16),
        cmocka_unit_test(buckets),
        cmocka_unit_test(same_bytes),
        cmocka_unit_test(padding_takes_no_more),
        cmocka_unit_test(packed_weights_go),
        cmocka_unit_test(other_files),
        cmocka_unit_test(half_shards),
        cmocka_unit_test(pipeline_folder),
        cmocka_unit_test(whole_clip),
        cmocka_unit_test(single_file_sdxl),
        cmocka_unit_test(files_that_do_not_fit),
        cmocka_unit_test(input_that_does_not_fit),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
