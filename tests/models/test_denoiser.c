/* test_denoiser.c - the diffusion transformers against the references' own code in float64. */
#include "kernels/convert.h"
#include "models/denoiser.h"
#include "tests/models/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define F32_BOUND  1e-5
#define BF16_BOUND 3e-2

typedef struct denoiser_case {
    const char *fixture, *model;
    lt_denoiser_kind kind;
    const char *context, *pooled, *flags; /* names of a case's tensors; NULL: none */
} denoiser_case;

static const denoiser_case cases[] = {
    {"video_dit_v1", "video_dit_v1", LT_DENOISER_VIDEO_DIT_V1, NULL, "text_emb", NULL},
    {"video_dit_v2", "video_dit_v2", LT_DENOISER_VIDEO_DIT_V2, "cross_emb", "text_emb", NULL},
    {"video_dit_v2_one_patch", "video_dit_v2", LT_DENOISER_VIDEO_DIT_V2, "cross_emb", "text_emb", NULL},
    {"pixart_dit", "pixart_dit", LT_DENOISER_PIXART, "text_emb", NULL, "text_flag"},
    {"pixart_video_dit", "pixart_video_dit", LT_DENOISER_PIXART_VIDEO, "text_emb", NULL, "text_flag"},
    {"pixart_512", "pixart_512", LT_DENOISER_PIXART, "encoder_hidden_states", NULL, "encoder_attention_mask"},
    {"pixart_1024", "pixart_1024", LT_DENOISER_PIXART, "encoder_hidden_states", NULL,
     "encoder_attention_mask"},
};

static const denoiser_case bf16_cases[] = {
    {"video_dit_v1_bf16", "video_dit_v1", LT_DENOISER_VIDEO_DIT_V1, NULL, "text_emb", NULL},
    {"video_dit_v2_bf16", "video_dit_v2", LT_DENOISER_VIDEO_DIT_V2, "cross_emb", "text_emb", NULL},
    {"pixart_dit_bf16", "pixart_dit", LT_DENOISER_PIXART, "text_emb", NULL, "text_flag"},
    {"pixart_video_dit_bf16", "pixart_video_dit", LT_DENOISER_PIXART_VIDEO, "text_emb", NULL, "text_flag"},
};

enum { MAX_BATCH = 4 };

/* One call's inputs, f32 on the heap, channels last; and what the reference gives for it. */
typedef struct inputs {
    lt_tensor x, context, pooled, expected;
    int n_context[MAX_BATCH];
    bool counted; /* n_context is given */
    double timestep, start, end, size_ids[6];
    double emulation; /* distance of PyTorch's bf16 from float64 */
} inputs;

static lt_tensor copy(lt_tensor from)
{
    lt_tensor to = from;
    assert_non_null(to.data = malloc(lt_tensor_bytes(&from) + 4));
    memcpy(to.data, from.data, lt_tensor_bytes(&from));
    return to;
}

/* [N,C,T,H,W] or [N,C,H,W] as [N,T,H,W,C]. */
static lt_tensor channels_last(lt_tensor from)
{
    lt_tensor to = copy(from);
    bool picture = from.rank == 4;
    int64_t n = from.shape[0], channels = from.shape[1], t = picture ? 1 : from.shape[2],
            h = from.shape[from.rank - 2], w = from.shape[from.rank - 1], cells = t * h * w;
    const int64_t shape[] = {n, t, h, w, channels};
    memcpy(to.shape, shape, sizeof(shape));
    to.rank = 5;
    const float *in = from.data;
    float *out = to.data;
    for (int64_t i = 0; i < n; i++)
        for (int64_t at = 0; at < cells; at++)
            for (int64_t j = 0; j < channels; j++) *out++ = in[(i * channels + j) * cells + at];
    return to;
}

static double number(const fixture *f, const char *name, int index, double otherwise)
{
    lt_tensor t;
    return lt_safetensors_get(f->file, name, &t, NULL) == LT_OK ? ((const float *)t.data)[index] : otherwise;
}

static inputs read_inputs(const denoiser_case *k)
{
    char name[128];
    snprintf(name, sizeof(name), "denoiser/%s", k->fixture);
    fixture f = fixture_open(name);
    inputs in = {0};
    in.x = channels_last(fixture_raw(&f, "hidden_states"));
    in.expected = channels_last(fixture_raw(&f, "sample"));
    if (k->context) in.context = copy(fixture_raw(&f, k->context));
    if (k->pooled) in.pooled = copy(fixture_raw(&f, k->pooled));
    in.timestep = number(&f, "timesteps", 0, number(&f, "timestep", 0, -1));
    in.start = number(&f, "start_sec", 0, 0);
    in.end = number(&f, "end_sec", 0, 0);
    in.size_ids[0] = number(&f, "resolution", 0, 0);
    in.size_ids[1] = number(&f, "resolution", 1, 0);
    in.counted = k->flags != NULL;
    lt_tensor flags = k->flags ? fixture_raw(&f, k->flags) : LT_NONE;
    for (int64_t i = 0; k->flags && i < lt_n_elements(&flags); i++)
        in.n_context[i / flags.shape[1]] += ((const float *)flags.data)[i] == 1;
    const char *emulation = lt_safetensors_metadata(f.file, "emulation");
    in.emulation = emulation ? atof(emulation) : 0;
    fixture_close(&f);
    return in;
}

static void free_inputs(inputs *in)
{
    free(in->x.data);
    free(in->context.data);
    free(in->pooled.data);
    free(in->expected.data);
}

static lt_denoiser *open_denoiser(const char *path, lt_denoiser_kind as)
{
    lt_denoiser *denoiser;
    lt_err err = {0};
    char note[300];
    must(lt_denoiser_open(&denoiser, path, as, LT_NUMERICS_AUTO, note, sizeof(note), &err), &err);
    return denoiser;
}

static lt_denoiser *open_case(const denoiser_case *k, lt_dtype dtype)
{
    char model[128];
    snprintf(model, sizeof(model), "denoiser/%s", k->model);
    const char *folder = in_folder("%s.%s", k->model, lt_dtype_name(dtype));
    struct stat info;
    if (stat(folder, &info) != 0) synthetic_write(model, folder, &(synthetic){.dtype = dtype});
    return open_denoiser(folder, LT_DENOISER_N_KINDS);
}

/* A host tensor of f32 in the context's dtype, in its workspace. */
static lt_tensor given(lt_context *c, lt_tensor host)
{
    return host.data ? lt_upload(c, host, c->dtype == LT_F64 ? LT_F32 : c->dtype) : LT_NONE;
}

static lt_tensor call(lt_context *c, lt_denoiser *denoiser, const inputs *in)
{
    lt_tensor x = given(c, in->x);
    lt_condition condition = {.context = given(c, in->context),
                              .pooled = given(c, in->pooled),
                              .n_context = in->counted ? in->n_context : NULL,
                              .start_sec = in->start,
                              .end_sec = in->end};
    memcpy(condition.size_ids, in->size_ids, sizeof(in->size_ids));
    lt_tensor y = lt_denoise(c, denoiser, x, in->timestep, &condition);
    lt_drop(c, &x);
    lt_drop(c, &condition.context);
    lt_drop(c, &condition.pooled);
    return y;
}

/* Bytes of workspace that a dry run asks for. */
static size_t peak_of(const char *device, lt_dtype dtype, int threads, lt_denoiser *denoiser,
                      const inputs *in)
{
    lt_context *dry = open_context(device, dtype, 0, threads);
    lt_err err = {0};
    lt_tensor y = call(dry, denoiser, in);
    lt_drop(dry, &y);
    must(lt_context_status(dry, &err), &err);
    check_empty(dry);
    size_t peak = lt_workspace_peak(dry->workspace);
    lt_context_destroy(dry);
    return peak;
}

/* The prediction as f32 on the heap. `times` calls in one context must give the same bytes. */
static float *run(const char *device, lt_dtype dtype, int threads, lt_denoiser *denoiser, const inputs *in,
                  int times)
{
    lt_context *c = open_context(device, dtype, peak_of(device, dtype, threads, denoiser, in), threads);
    float *out = NULL;
    for (int i = 0; i < times; i++) {
        lt_err err = {0};
        lt_tensor y = call(c, denoiser, in);
        must(lt_context_status(c, &err), &err);
        assert_int_equal(y.rank, 5);
        assert_memory_equal(y.shape, in->x.shape, 5 * sizeof(int64_t));
        size_t n = (size_t)lt_n_elements(&y);
        float *values = fetch_f32(c, y);
        lt_drop(c, &y);
        check_empty(c);
        if (out) assert_memory_equal(out, values, n * sizeof(float));
        free(out);
        out = values;
    }
    lt_denoiser_close(denoiser, c);
    lt_context_destroy(c);
    return out;
}

static void check_case(const denoiser_case *k, const char *device, lt_dtype dtype)
{
    char label[80];
    inputs in = read_inputs(k);
    lt_denoiser *denoiser = open_case(k, LT_F32);
    assert_int_equal(lt_denoiser_get_info(denoiser)->kind, k->kind);
    float *y = run(device, dtype, 1, denoiser, &in, 1);
    snprintf(label, sizeof(label), "%s, %s", k->fixture, device);
    check_close(label, y, in.expected.data, lt_n_elements(&in.expected), F32_BOUND);
    free(y);
    free_inputs(&in);
}

static void references(void **state)
{
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        check_case(&cases[i], "cpu", LT_F32);
        check_case(&cases[i], "ref", LT_F64);
    }
}

/* Weights and inputs of bf16; within the bound, and little worse than PyTorch's own rounding after each operator. */
static void bf16(void **state)
{
    for (size_t i = 0; i < LT_COUNT(bf16_cases); i++) {
        const denoiser_case *k = &bf16_cases[i];
        inputs in = read_inputs(k);
        float *y = run("cpu", LT_BF16, 1, open_case(k, LT_BF16), &in, 1);
        double l2 = check_close(k->fixture, y, in.expected.data, lt_n_elements(&in.expected), BF16_BOUND);
        assert_true(in.emulation > 0 && l2 <= 1.25 * in.emulation);
        free(y);
        free_inputs(&in);
    }
}

/* Sample i of a call. */
static inputs sample_of(const inputs *in, int i)
{
    inputs one = *in;
    lt_tensor *parts[] = {&one.x, &one.context, &one.pooled};
    for (size_t p = 0; p < LT_COUNT(parts); p++) {
        if (!parts[p]->data) continue;
        parts[p]->shape[0] = 1;
        parts[p]->data = (char *)parts[p]->data + i * (int64_t)lt_tensor_bytes(parts[p]);
    }
    one.n_context[0] = in->n_context[i];
    return one;
}

/* The two passes of guidance in one call of batch 2, or in two calls; one thread or three; once or again. */
static void invariance(void **state)
{
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        const denoiser_case *k = &cases[i];
        inputs in = read_inputs(k);
        for (int dtype = LT_F32; dtype <= LT_BF16; dtype++) {
            float *all = run("cpu", (lt_dtype)dtype, 3, open_case(k, LT_F32), &in, 2);
            int64_t n = lt_n_elements(&in.x) / in.x.shape[0];
            for (int s = 0; s < in.x.shape[0]; s++) {
                inputs one = sample_of(&in, s);
                float *y = run("cpu", (lt_dtype)dtype, 1, open_case(k, LT_F32), &one, 1);
                assert_memory_equal(y, all + s * n, (size_t)n * sizeof(float));
                free(y);
            }
            free(all);
        }
        free_inputs(&in);
    }
}

/* A condition of batch 1 serves every sample. */
static void shared_condition(void **state)
{
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        inputs in = read_inputs(&cases[i]);
        if (in.x.shape[0] == 2) {
            inputs shared = in, one = sample_of(&in, 0), other = sample_of(&in, 1);
            if (in.context.data) shared.context.shape[0] = other.context.shape[0] = 1;
            if (in.pooled.data) shared.pooled.shape[0] = 1;
            other.context.data = in.context.data;
            other.pooled.data = in.pooled.data;
            other.n_context[0] = in.n_context[0];
            int64_t n = lt_n_elements(&one.x);
            float *both = run("cpu", LT_F32, 1, open_case(&cases[i], LT_F32), &shared, 1);
            float *first = run("cpu", LT_F32, 1, open_case(&cases[i], LT_F32), &one, 1);
            float *second = run("cpu", LT_F32, 1, open_case(&cases[i], LT_F32), &other, 1);
            assert_memory_equal(both, first, (size_t)n * sizeof(float));
            assert_memory_equal(both + n, second, (size_t)n * sizeof(float));
            free(both);
            free(first);
            free(second);
        }
        free_inputs(&in);
    }
}

/* Another grid or other seconds between two calls must not leave a trace. */
static void positions_follow(void **state)
{
    const denoiser_case *k = &cases[1], *other = &cases[2];
    inputs in = read_inputs(k), small = read_inputs(other);
    lt_denoiser *denoiser = open_case(k, LT_F32);
    size_t bytes = peak_of("cpu", LT_F32, 1, denoiser, &in);
    lt_context *c = open_context("cpu", LT_F32, bytes, 1);
    for (int i = 0; i < 3; i++) {
        const inputs *now = i == 1 ? &small : &in;
        lt_err err = {0};
        lt_tensor y = call(c, denoiser, now);
        must(lt_context_status(c, &err), &err);
        float *values = fetch_f32(c, y);
        check_close(i == 1 ? other->fixture : k->fixture, values, now->expected.data, lt_n_elements(&y),
                    F32_BOUND);
        free(values);
        lt_drop(c, &y);
    }
    in.end = 1;
    lt_tensor changed = call(c, denoiser, &in);
    double moved = 0;
    float *values = fetch_f32(c, changed);
    for (int64_t i = 0; i < lt_n_elements(&changed); i++)
        moved = fmax(moved, fabs((double)values[i] - ((float *)in.expected.data)[i]));
    free(values);
    assert_true(moved > 1e-2);
    lt_drop(c, &changed);
    lt_denoiser_close(denoiser, c);
    lt_context_destroy(c);
    free_inputs(&in);
    free_inputs(&small);
}

/* ---- what is said about a network ---------------------------------------------------------------------------------------- */

static void infos(void **state)
{
    lt_denoiser *d = open_case(&cases[1], LT_F32);
    const lt_denoiser_info *info = lt_denoiser_get_info(d);
    assert_string_equal(info->name, "VideoDiT v2");
    assert_true(!info->pixels && info->channels == 4 && info->seconds && !info->size_ids &&
                !info->single_frame);
    assert_true(info->multiple[0] == 2 && info->multiple[1] == 3 && info->multiple[2] == 4);
    assert_true(info->context_width == 40 && info->context_length == 77 && !info->context_mask);
    assert_true(info->pooled_width == 24 && info->scaling_factor == 0.18215);
    assert_true(info->beta_start == 0.00085 && info->beta_end == 0.012 && !info->beta_linear);
    assert_true(info->numerics == LT_NUMERICS_LITE_SORA && strlen(info->digest) == 32);
    lt_denoiser_close(d, NULL);
    d = open_case(&cases[0], LT_F32);
    info = lt_denoiser_get_info(d);
    assert_true(info->pixels && info->channels == 3 && info->context_width == 0 && info->pooled_width == 40 &&
                info->scaling_factor == 1);
    lt_denoiser_close(d, NULL);
    d = open_case(&cases[6], LT_F32);
    info = lt_denoiser_get_info(d);
    assert_true(info->single_frame && info->size_ids && info->context_mask && info->context_length == 120);
    assert_true(info->beta_start == 0.0001 && info->beta_end == 0.02 && info->beta_linear);
    assert_true(info->numerics == LT_NUMERICS_DIFFUSERS && info->multiple[0] == 1 && info->multiple[1] == 2);
    lt_denoiser_close(d, NULL);
}

static void expect_size(const lt_denoiser *d, int64_t t, int64_t h, int64_t w, const char *words)
{
    lt_err err = {0};
    lt_status status = lt_denoiser_check_size(d, t, h, w, &err);
    if (!words) must(status, &err);
    if (!words) return;
    assert_int_equal(status, LT_E_INVALID);
    if (!strstr(err.text, words)) fail_msg("%s: no \"%s\" in it", err.text, words);
}

static void sizes(void **state)
{
    lt_denoiser *d = open_case(&cases[1], LT_F32);
    expect_size(d, 4, 9, 20, NULL);
    expect_size(d, 3, 9, 20, "frames in multiples of 2, not 3");
    expect_size(d, 4, 10, 20, "rows in multiples of 3, not 10");
    expect_size(d, 4, 9, 18, "columns in multiples of 4, not 18");
    expect_size(d, 0, 9, 20, "frames in multiples of 2, not 0");
    lt_denoiser_close(d, NULL);
    d = open_case(&cases[5], LT_F32);
    expect_size(d, 1, 10, 14, NULL);
    expect_size(d, 2, 10, 14, "makes pictures");
    lt_denoiser_close(d, NULL);
}

/* A call that must fail, with these words; the context can be used again. */
static void expect_failure(lt_context *c, lt_denoiser *d, const inputs *in, const char *words)
{
    lt_err err = {0};
    lt_tensor y = call(c, d, in);
    assert_null(y.data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    if (!strstr(err.text, words)) fail_msg("%s: no \"%s\" in it", err.text, words);
    check_empty(c);
}

static void wrong_calls(void **state)
{
    inputs good = read_inputs(&cases[3]), in = good;
    lt_denoiser *d = open_case(&cases[3], LT_F32);
    lt_context *c = open_context("cpu", LT_F32, (size_t)64 << 20, 1);
    in.x.shape[2]--;
    expect_failure(c, d, &in, "rows in multiples of 2");
    in = good;
    in.x.shape[4]--;
    expect_failure(c, d, &in, "wanted [samples,frames,height,width,4]");
    in = good;
    in.context.shape[2]--;
    expect_failure(c, d, &in, "text is f32[2,120,19]; wanted [1 or 2,tokens,20]");
    in = good;
    in.context = LT_NONE;
    expect_failure(c, d, &in, "text is nothing");
    in = good;
    in.pooled = in.context;
    expect_failure(c, d, &in, "takes no pooled text");
    in = good;
    in.n_context[1] = 121;
    expect_failure(c, d, &in, "121 tokens of a text of 120");
    in = good;
    in.timestep = NAN;
    expect_failure(c, d, &in, "timestep is not finite");
    lt_tensor y = call(c, d, &good);
    float *values = fetch_f32(c, y);
    check_close("after all failures", values, good.expected.data, lt_n_elements(&y), F32_BOUND);
    free(values);
    lt_denoiser_close(d, c);
    lt_context_destroy(c);
    free_inputs(&good);

    inputs picture = read_inputs(&cases[6]);
    d = open_case(&cases[6], LT_F32);
    c = open_context("cpu", LT_F32, (size_t)64 << 20, 1);
    picture.size_ids[1] = 0;
    expect_failure(c, d, &picture, "height and width in pixels");
    lt_denoiser_close(d, c);
    lt_context_destroy(c);
    free_inputs(&picture);
}

/* ---- files --------------------------------------------------------------------------------------------------------------- */

static void in_training(const char *name, char *to, size_t bytes)
{
    snprintf(to, bytes, "denoising_model.%s", name);
}

/* As lite-sora's training saves it: behind a prefix, other models beside it. */
static void training_names(void **state)
{
    const denoiser_case *k = &cases[1];
    inputs in = read_inputs(k);
    const synthetic options = {.rename = in_training,
                               .add = {"text_encoder.embeddings.weight", "video_encoder.conv_in.weight"}};
    synthetic_write("denoiser/video_dit_v2", in_folder("training"), &options);
    float *y = run("cpu", LT_F32, 1, open_denoiser(in_folder("training"), LT_DENOISER_N_KINDS), &in, 1);
    check_close("names of training", y, in.expected.data, lt_n_elements(&in.expected), F32_BOUND);
    free(y);
    free_inputs(&in);
}

/* A pipeline's folder; with a buffer that older diffusers saved. */
static void pipeline_folder(void **state)
{
    inputs in = read_inputs(&cases[5]);
    mkdir(in_folder("pipeline"), 0700);
    const synthetic options = {.add = {"caption_projection.y_embedding"}, .n_shards = 3};
    synthetic_write("denoiser/pixart_512", in_folder("pipeline/transformer"), &options);
    float *y = run("cpu", LT_F32, 1, open_denoiser(in_folder("pipeline"), LT_DENOISER_PIXART), &in, 1);
    check_close("a pipeline's folder", y, in.expected.data, lt_n_elements(&in.expected), F32_BOUND);
    free(y);
    free_inputs(&in);
}

/* A video model from a picture's weights: what sees patches is zero, and so is the prediction. */
static void inflated(void **state)
{
    const char *const models[] = {"pixart_512", "pixart_1024", "pixart_dit"};
    for (size_t i = 0; i < LT_COUNT(models); i++) {
        char model[64], note[500];
        lt_err err = {0};
        lt_denoiser *d;
        snprintf(model, sizeof(model), "denoiser/%s", models[i]);
        synthetic_write(model, in_folder("inflated.%s", models[i]), &(synthetic){0});
        must(lt_denoiser_open(&d, in_folder("inflated.%s", models[i]), LT_DENOISER_PIXART_VIDEO,
                              LT_NUMERICS_AUTO, note, sizeof(note), &err),
             &err);
        const lt_denoiser_info *info = lt_denoiser_get_info(d);
        assert_true(info->kind == LT_DENOISER_PIXART_VIDEO && info->multiple[0] == 4 &&
                    info->multiple[2] == 4 && !info->single_frame && !info->size_ids);
        assert_non_null(strstr(note, i == 2 ? "patchify.proj_latent.weight" : "pos_embed.proj.weight"));
        assert_non_null(strstr(note, "proj_out.bias"));
        assert_true(!strstr(note, "resolution_embedder") == (i != 1));
        inputs in = {.x = {.dtype = LT_F32, .rank = 5, .shape = {1, 4, 4, 8, 4}},
                     .context = {.dtype = LT_F32, .rank = 3, .shape = {1, 3, info->context_width}},
                     .timestep = 5};
        in.x.data = calloc(512, sizeof(float));
        in.context.data = calloc((size_t)lt_n_elements(&in.context), sizeof(float));
        float *y = run("cpu", LT_F32, 1, d, &in, 1);
        for (int j = 0; j < 512; j++) assert_true(y[j] == 0);
        free(y);
        free_inputs(&in);
    }
}

static void expect_factor(const char *path, lt_numerics numerics, double factor)
{
    lt_denoiser *d;
    lt_err err = {0};
    must(lt_denoiser_open(&d, path, LT_DENOISER_N_KINDS, numerics, NULL, 0, &err), &err);
    const lt_denoiser_info *i = lt_denoiser_get_info(d);
    assert_true(i->scaling_factor == factor && i->other_factor == (factor != 0.18215));
    lt_denoiser_close(d, NULL);
}

/* A PixArt's latents are those of the VAE beside it. */
static void factor_of_the_pipeline(void **state)
{
    mkdir(in_folder("pipeline"), 0700);
    mkdir(in_folder("pipeline/vae"), 0700);
    synthetic_write("denoiser/pixart_512", in_folder("pipeline/transformer"), &(synthetic){0});
    expect_factor(in_folder("pipeline"), LT_NUMERICS_AUTO, 0.18215);
    FILE *file = fopen(in_folder("pipeline/vae/config.json"), "w");
    assert_non_null(file);
    fputs("{\"_class_name\": \"AutoencoderKL\", \"scaling_factor\": 0.13025}", file);
    fclose(file);
    expect_factor(in_folder("pipeline"), LT_NUMERICS_AUTO, 0.13025);
    expect_factor(in_folder("pipeline/transformer/diffusion_pytorch_model.safetensors"), LT_NUMERICS_AUTO,
                  0.13025);
    expect_factor(in_folder("pipeline"), LT_NUMERICS_LITE_SORA, 0.18215);
}

static void expect_refused(const char *path, lt_denoiser_kind as, lt_status status, const char *words)
{
    lt_denoiser *d;
    lt_err err = {0};
    assert_int_equal(lt_denoiser_open(&d, path, as, LT_NUMERICS_AUTO, NULL, 0, &err), status);
    assert_null(d);
    printf("%s\n", err.text);
    if (!strstr(err.text, words)) fail_msg("%s: no \"%s\" in it", err.text, words);
}

static void wrong_files(void **state)
{
    const char *folder = in_folder("wrong");
    synthetic_write("vae/svd", folder, &(synthetic){0});
    expect_refused(folder, LT_DENOISER_N_KINDS, LT_E_UNSUPPORTED, "a video VAE");
    synthetic_write("denoiser/video_dit_v1", in_folder("v1"), &(synthetic){0});
    expect_refused(in_folder("v1"), LT_DENOISER_VIDEO_DIT_V2, LT_E_UNSUPPORTED,
                   "wanted VideoDiT v2, but this looks like VideoDiT v1");
    expect_refused(in_folder("v1"), LT_DENOISER_PIXART_VIDEO, LT_E_UNSUPPORTED, "looks like VideoDiT v1");
    synthetic_write("denoiser/pixart_video_dit", in_folder("video"), &(synthetic){0});
    expect_refused(in_folder("video"), LT_DENOISER_PIXART, LT_E_UNSUPPORTED, "looks like PixartVideoDiT");
    expect_refused(in_folder("nowhere"), LT_DENOISER_N_KINDS, LT_E_NOT_FOUND, "no model");

    synthetic_write("text/clip_quick", in_folder("clip"), &(synthetic){.stem = "model"});
    expect_refused(in_folder("clip"), LT_DENOISER_N_KINDS, LT_E_UNSUPPORTED, "a CLIP text encoder");
    synthetic_write("text/t5", in_folder("t5"), &(synthetic){.stem = "model"});
    expect_refused(in_folder("t5"), LT_DENOISER_PIXART_VIDEO, LT_E_UNSUPPORTED, "a T5 text encoder");
    mkdir(in_folder("last.ckpt"), 0700);
    expect_refused(in_folder("last.ckpt"), LT_DENOISER_N_KINDS, LT_E_UNSUPPORTED, "tools/to_safetensors");

    synthetic_write("denoiser/video_dit_v2", in_folder("less"),
                    &(synthetic){.omit = {"blocks.1.blockC.ff.proj_in.bias"}, .add = {"blocks.1.extra"}});
    expect_refused(in_folder("less"), LT_DENOISER_N_KINDS, LT_E_MISMATCH,
                   "missing: blocks.1.blockC.ff.proj_in.bias; not expected: blocks.1.extra");
    synthetic_write("denoiser/pixart_dit", in_folder("nan"),
                    &(synthetic){.poison = {"blocks.0.scale_shift_table"}});
    expect_refused(in_folder("nan"), LT_DENOISER_N_KINDS, LT_E_NUMERIC, "blocks.0.scale_shift_table");
    synthetic_write("denoiser/pixart_dit", in_folder("shape"),
                    &(synthetic){.reshape = {"unpatchify.proj_out.bias"}});
    expect_refused(in_folder("shape"), LT_DENOISER_N_KINDS, LT_E_MISMATCH, "unpatchify.proj_out.bias is");
}

int main(void)
{
    support_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(references),
        cmocka_unit_test(bf16),
        cmocka_unit_test(invariance),
        cmocka_unit_test(shared_condition),
        cmocka_unit_test(positions_follow),
        cmocka_unit_test(infos),
        cmocka_unit_test(sizes),
        cmocka_unit_test(wrong_calls),
        cmocka_unit_test(training_names),
        cmocka_unit_test(pipeline_folder),
        cmocka_unit_test(inflated),
        cmocka_unit_test(factor_of_the_pipeline),
        cmocka_unit_test(wrong_files),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
