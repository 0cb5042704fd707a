/* test_denoiser_sdxl3d.c - SDXL3DUNet against lite-sora's and diffusers' own code in float64. */
#include "models/denoiser_sdxl3d.h"
#include "tests/models/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define F32_BOUND 1e-5
#define REF_BOUND                                                                                            \
    3e-6 /* sinusoids are f32 in the reference, too, where an exponential's last bit moves an id's angle */
#define BF16_BOUND 3e-2
#define WORKSPACE  ((size_t)64 << 20)

/* What a case of a fixture means. */
typedef struct unet_case {
    const char *fixture, *model, *out;
    lt_numerics numerics;
    int repeat; /* the fixture is a picture, of which a video of so many frames is made; 0: it is a video */
} unet_case;

static const unet_case cases[] = {
    {"sdxl3d_lite", "lite", "prediction", LT_NUMERICS_AUTO, 0},
    {"sdxl3d_flat", "flat", "lite_sora", LT_NUMERICS_LITE_SORA, 0},
    {"sdxl3d_flat", "flat", "diffusers", LT_NUMERICS_AUTO, 0},
    {"sdxl3d_still", "flat", "prediction", LT_NUMERICS_AUTO, 4},
    {"sdxl3d_two", "two", "prediction", LT_NUMERICS_AUTO, 2},
};

/* ---- calls ----------------------------------------------------------------------------------------------------------- */

typedef struct inputs {
    fixture file;
    lt_tensor x, context, pooled; /* f32; x on the heap, the others borrowed */
    double timestep, height, width;
} inputs;

/* A picture [N,C,H,W] as a video [N,T,H,W,C] of the same frames. */
static lt_tensor still(const fixture *f, const char *name, int frames)
{
    lt_tensor from = fixture_get(f, name, FRAMES_FIRST);
    lt_tensor to = {.dtype = LT_F32,
                    .rank = 5,
                    .shape = {from.shape[0], frames, from.shape[1], from.shape[2], from.shape[3]}};
    size_t bytes = lt_tensor_bytes(&from) / (size_t)from.shape[0];
    assert_non_null(to.data = malloc(lt_tensor_bytes(&to)));
    for (int64_t i = 0; i < from.shape[0]; i++)
        for (int64_t t = 0; t < frames; t++)
            memcpy((char *)to.data + (size_t)(i * frames + t) * bytes, (char *)from.data + (size_t)i * bytes,
                   bytes);
    free(from.data);
    return to;
}

static lt_tensor video(const fixture *f, const char *name, int repeat)
{
    return repeat ? still(f, name, repeat) : fixture_video(f, name);
}

static inputs inputs_open(const unet_case *t)
{
    char name[64];
    snprintf(name, sizeof(name), "denoiser/%s", t->fixture);
    inputs in = {.file = fixture_open(name)};
    in.x = video(&in.file, "sample", t->repeat);
    in.context = fixture_raw(&in.file, "encoder_hidden_states");
    in.pooled = fixture_raw(&in.file, "add_text_embeds");
    in.timestep = atof(lt_safetensors_metadata(in.file.file, "timestep"));
    in.height = atof(lt_safetensors_metadata(in.file.file, "height"));
    in.width = atof(lt_safetensors_metadata(in.file.file, "width"));
    return in;
}

static void inputs_close(inputs *in)
{
    free(in->x.data);
    fixture_close(&in->file);
}

static lt_denoiser *open_unet(const char *path, lt_numerics numerics)
{
    lt_denoiser *d;
    lt_err err = {0};
    must(lt_denoiser_open(&d, path, LT_DENOISER_N_KINDS, numerics, NULL, 0, &err), &err);
    assert_int_equal(lt_denoiser_get_info(d)->kind, LT_DENOISER_SDXL_3D);
    return d;
}

/* The prediction, f32 on the heap. */
static float *denoise(lt_context *c, lt_denoiser *d, const inputs *in)
{
    lt_err err = {0};
    lt_tensor x = lt_upload(c, in->x, c->dtype);
    lt_condition condition = {.context = lt_upload(c, in->context, c->dtype),
                              .pooled = lt_upload(c, in->pooled, c->dtype),
                              .size_ids = {in->height, in->width, 0, 0, in->height, in->width}};
    lt_tensor y = lt_denoise(c, d, x, in->timestep, &condition);
    must(lt_context_status(c, &err), &err);
    assert_int_equal(lt_n_elements(&y), lt_n_elements(&in->x));
    float *host = fetch_f32(c, y);
    lt_drop(c, &x);
    lt_drop(c, &condition.context);
    lt_drop(c, &condition.pooled);
    lt_drop(c, &y);
    check_empty(c);
    return host;
}

static double run_case(const unet_case *t, const char *path, const char *device, lt_dtype dtype, double bound)
{
    inputs in = inputs_open(t);
    lt_denoiser *d = open_unet(in_folder("%s", path), t->numerics);
    lt_context *c = open_context(device, dtype, WORKSPACE, 2);
    lt_tensor wanted = video(&in.file, t->out, t->repeat);
    float *got = denoise(c, d, &in);
    char label[96];
    snprintf(label, sizeof(label), "%s %s %s %s", device, lt_dtype_name(dtype), t->fixture, t->out);
    double l2 = check_close(label, got, wanted.data, lt_n_elements(&wanted), bound);
    free(got);
    free(wanted.data);
    lt_denoiser_close(d, c);
    lt_context_destroy(c);
    inputs_close(&in);
    return l2;
}

/* ---- numbers --------------------------------------------------------------------------------------------------------- */

static void networks_f32(void **state)
{
    for (size_t i = 0; i < LT_COUNT(cases); i++)
        run_case(&cases[i], cases[i].model, "cpu", LT_F32, F32_BOUND);
}

static void networks_ref(void **state)
{
    for (size_t i = 0; i < LT_COUNT(cases); i++)
        run_case(&cases[i], cases[i].model, "ref", LT_F64, REF_BOUND);
}

/* bf16 weights and activations; no worse than 1.25 times a network that rounds after each operator. */
static void network_bf16(void **state)
{
    const unet_case t = {"sdxl3d_bf16", "", "prediction", LT_NUMERICS_AUTO, 0};
    synthetic_write("denoiser/sdxl3d_lite", in_folder("bf16"), &(synthetic){.dtype = LT_BF16});
    inputs in = inputs_open(&t);
    double emulated = atof(lt_safetensors_metadata(in.file.file, "emulation"));
    inputs_close(&in);
    assert_true(run_case(&t, "bf16", "cpu", LT_BF16, BF16_BOUND) <= 1.25 * emulated);
}

/* ---- sources --------------------------------------------------------------------------------------------------------- */

static void rename_training(const char *name, char *to, size_t bytes)
{
    snprintf(to, bytes, "denoising_model.%s", name);
}

/* Single-file names of the leaves of a diffusers residual block. */
static const char *ldm_leaf(const char *leaf, char *text, size_t bytes)
{
    static const char *const pairs[][2] = {{"norm1", "in_layers.0"},  {"conv1", "in_layers.2"},
                                           {"norm2", "out_layers.0"}, {"time_emb_proj", "emb_layers.1"},
                                           {"conv2", "out_layers.3"}, {"conv_shortcut", "skip_connection"}};
    size_t n = strcspn(leaf, ".");
    for (size_t i = 0; i < LT_COUNT(pairs); i++)
        if (n == strlen(pairs[i][0]) && strncmp(leaf, pairs[i][0], n) == 0)
            snprintf(text, bytes, "%s%s", pairs[i][1], leaf + n);
    return text;
}

/* Single-file names of the model "flat": three levels of two blocks, the first without attention. */
static void rename_ldm(const char *name, char *to, size_t bytes)
{
    static const char *const ends[][2] = {{"time_embedding.linear_1.", "time_embed.0."},
                                          {"time_embedding.linear_2.", "time_embed.2."},
                                          {"add_embedding.linear_1.", "label_emb.0.0."},
                                          {"add_embedding.linear_2.", "label_emb.0.2."},
                                          {"conv_in.", "input_blocks.0.0."},
                                          {"conv_norm_out.", "out.0."},
                                          {"conv_out.", "out.2."}};
    const char *scope = "model.diffusion_model.";
    char rest[120], leaf[120] = "?";
    int i, j;
    for (size_t e = 0; e < LT_COUNT(ends); e++)
        if (strncmp(name, ends[e][0], strlen(ends[e][0])) == 0)
            snprintf(to, bytes, "%s%s%s", scope, ends[e][1], name + strlen(ends[e][0]));
    if (sscanf(name, "down_blocks.%d.resnets.%d.%119s", &i, &j, rest) == 3)
        snprintf(to, bytes, "%sinput_blocks.%d.0.%s", scope, 1 + 3 * i + j, ldm_leaf(rest, leaf, 120));
    else if (sscanf(name, "down_blocks.%d.attentions.%d.%119s", &i, &j, rest) == 3)
        snprintf(to, bytes, "%sinput_blocks.%d.1.%s", scope, 1 + 3 * i + j, rest);
    else if (sscanf(name, "down_blocks.%d.downsamplers.0.conv.%119s", &i, rest) == 2)
        snprintf(to, bytes, "%sinput_blocks.%d.0.op.%s", scope, 3 + 3 * i, rest);
    else if (sscanf(name, "mid_block.resnets.%d.%119s", &j, rest) == 2)
        snprintf(to, bytes, "%smiddle_block.%d.%s", scope, 2 * j, ldm_leaf(rest, leaf, 120));
    else if (sscanf(name, "mid_block.attentions.0.%119s", rest) == 1)
        snprintf(to, bytes, "%smiddle_block.1.%s", scope, rest);
    else if (sscanf(name, "up_blocks.%d.resnets.%d.%119s", &i, &j, rest) == 3)
        snprintf(to, bytes, "%soutput_blocks.%d.0.%s", scope, 3 * i + j, ldm_leaf(rest, leaf, 120));
    else if (sscanf(name, "up_blocks.%d.attentions.%d.%119s", &i, &j, rest) == 3)
        snprintf(to, bytes, "%soutput_blocks.%d.1.%s", scope, 3 * i + j, rest);
    else if (sscanf(name, "up_blocks.%d.upsamplers.0.conv.%119s", &i, rest) == 2)
        snprintf(to, bytes, "%soutput_blocks.%d.2.conv.%s", scope, 3 * i + 2, rest);
}

/* The same weights under other names, without a configuration, beside tensors of other models; a pipeline's folder. */
static void sources(void **state)
{
    const char *file = "diffusion_pytorch_model.safetensors";
    char path[200];
    synthetic_write("denoiser/sdxl3d_lite", in_folder("training"),
                    &(synthetic){.rename = rename_training, .add = {"text_encoder.encoders.0.bias", "step"}});
    snprintf(path, sizeof(path), "training/%s", file);
    run_case(&cases[0], path, "cpu", LT_F32, F32_BOUND);
    synthetic_write("denoiser/sdxl3d_flat", in_folder("single"),
                    &(synthetic){.rename = rename_ldm,
                                 .no_config = true,
                                 .add = {"first_stage_model.quant_conv.bias", "model_ema.decay"}});
    snprintf(path, sizeof(path), "single/%s", file);
    run_case(&cases[2], path, "cpu", LT_F32, F32_BOUND);
    run_case(&cases[1], path, "cpu", LT_F32, F32_BOUND);
    mkdir(in_folder("pipeline"), 0700);
    synthetic_write("denoiser/sdxl3d_two", in_folder("pipeline/unet"), &(synthetic){.n_shards = 3});
    run_case(&cases[4], "pipeline", "cpu", LT_F32, F32_BOUND);
}

static void information(void **state)
{
    lt_denoiser *lite = open_unet(in_folder("lite"), LT_NUMERICS_AUTO);
    lt_denoiser *two = open_unet(in_folder("two"), LT_NUMERICS_AUTO);
    const lt_denoiser_info *a = lt_denoiser_get_info(lite), *b = lt_denoiser_get_info(two);
    assert_int_equal(a->numerics, LT_NUMERICS_LITE_SORA);
    assert_int_equal(b->numerics, LT_NUMERICS_DIFFUSERS);
    assert_int_equal(a->multiple[0], 4);
    assert_int_equal(b->multiple[2], 2);
    assert_int_equal(a->context_width, 40);
    assert_int_equal(a->pooled_width, 24);
    assert_int_equal(b->pooled_width, 24);
    assert_int_equal(a->channels, 4);
    assert_true(a->size_ids && !a->seconds && !a->pixels && !a->context_mask && !a->single_frame);
    assert_true(a->scaling_factor == 0.18215 && b->scaling_factor == 0.13025);
    assert_true(a->beta_start == 0.00085 && a->beta_end == 0.012 && !a->beta_linear);
    lt_denoiser_close(lite, NULL);
    lt_denoiser_close(two, NULL);
}

/* ---- what a call must not depend on -------------------------------------------------------------------------------------- */

/* The inputs of "two" have two samples: each alone, both, both with one text, on one thread and on two, tokens in small
 * groups, and a dry run. */
static void same_bytes(void **state)
{
    inputs in = inputs_open(&cases[4]);
    lt_denoiser *d = open_unet(in_folder("two"), LT_NUMERICS_AUTO);
    lt_context *c = open_context("cpu", LT_F32, WORKSPACE, 2),
               *one = open_context("cpu", LT_F32, WORKSPACE, 1);
    size_t bytes = lt_tensor_bytes(&in.x) / 2;
    float *both = denoise(c, d, &in), *y = denoise(one, d, &in);
    assert_memory_equal(both, y, 2 * bytes);
    free(y);
    ((sdxl3d *)d->net)->group_values = 700; /* tokens of 32 and 48 channels: 2 and 1 at a time */
    y = denoise(c, d, &in);
    assert_memory_equal(both, y, 2 * bytes);
    free(y);
    for (int i = 0; i < 2; i++) {
        inputs alone = in;
        alone.x.data = (char *)in.x.data + (size_t)i * bytes;
        alone.context.data = (float *)in.context.data + (i ? lt_n_elements(&in.context) / 2 : 0);
        alone.pooled.data = (float *)in.pooled.data + (i ? lt_n_elements(&in.pooled) / 2 : 0);
        alone.x.shape[0] = alone.context.shape[0] = alone.pooled.shape[0] = 1;
        y = denoise(c, d, &alone);
        assert_memory_equal((char *)both + (size_t)i * bytes, y, bytes);
        free(y);
        alone.x = in.x;
        y = denoise(c, d, &alone);
        assert_memory_equal((char *)both + (size_t)i * bytes, (char *)y + (size_t)i * bytes, bytes);
        free(y);
    }
    free(both);
    lt_denoiser_close(d, c);
    lt_context_destroy(c);
    lt_context_destroy(one);
    inputs_close(&in);
}

/* One evaluation of what lies in the host's memory. */
static lt_tensor evaluate(lt_context *c, lt_denoiser *d, lt_tensor host, lt_condition condition)
{
    lt_tensor x = lt_upload(c, host, c->dtype);
    condition.context = lt_upload(c, condition.context, c->dtype);
    condition.pooled = lt_upload(c, condition.pooled, c->dtype);
    lt_tensor y = lt_denoise(c, d, x, 731, &condition);
    lt_drop(c, &x);
    lt_drop(c, &condition.context);
    lt_drop(c, &condition.pooled);
    return y;
}

static void planned_memory(void **state)
{
    inputs in = inputs_open(&cases[0]);
    lt_denoiser *d = open_unet(in_folder("lite"), LT_NUMERICS_AUTO);
    lt_context *dry = open_context("cpu", LT_F32, 0, 2);
    lt_condition condition = {
        .context = in.context, .pooled = in.pooled, .size_ids = {384, 640, 0, 0, 384, 640}};
    lt_err err = {0};
    lt_tensor y = evaluate(dry, d, in.x, condition);
    must(lt_context_status(dry, &err), &err);
    size_t peak = lt_workspace_peak(dry->workspace);
    lt_drop(dry, &y);
    check_empty(dry);
    lt_context *c = open_context("cpu", LT_F32, peak, 2);
    y = evaluate(c, d, in.x, condition);
    must(lt_context_status(c, &err), &err);
    assert_true(dry->flops == c->flops && dry->flops > 1e8);
    assert_true(dry->packed_bytes == c->packed_bytes);
    lt_drop(c, &y);
    check_empty(c);
    lt_denoiser_close(d, c);
    lt_context_destroy(c);
    lt_context_destroy(dry);
    c = open_context("cpu", LT_F32, peak - LT_WORKSPACE_ALIGNMENT,
                     2); /* too small by one line: an error, and nothing left behind */
    d = open_unet(in_folder("lite"), LT_NUMERICS_AUTO);
    y = evaluate(c, d, in.x, condition);
    assert_null(y.data);
    assert_int_equal(lt_context_status(c, &err), LT_E_NO_MEMORY);
    check_empty(c);
    lt_denoiser_close(d, c);
    lt_context_destroy(c);
    inputs_close(&in);
}

/* ---- what is refused ----------------------------------------------------------------------------------------------------- */

static void wrong_sizes(void **state)
{
    static const int64_t sizes[][3] = {{1, 8, 8}, {6, 8, 8}, {4, 10, 8}, {4, 8, 2}, {0, 4, 4}};
    lt_denoiser *d = open_unet(in_folder("lite"), LT_NUMERICS_AUTO);
    lt_context *c = open_context("cpu", LT_F32, 0, 1);
    for (size_t i = 0; i < LT_COUNT(sizes); i++) {
        lt_err err = {0};
        const int64_t *s = sizes[i], shape[] = {1, s[0], s[1], s[2], 4};
        assert_int_equal(lt_denoiser_check_size(d, s[0], s[1], s[2], &err), LT_E_INVALID);
        assert_non_null(strstr(err.text, "multiples of 4"));
        lt_tensor x = lt_new(c, LT_F32, 5, shape);
        lt_tensor y = lt_denoise(c, d, x, 3, &(lt_condition){0});
        assert_null(y.data);
        assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
        lt_drop(c, &x);
    }
    assert_int_equal(lt_denoiser_check_size(d, 4, 12, 8, NULL), LT_OK);
    lt_denoiser_close(d, NULL);
    lt_context_destroy(c);
}

static void refuse(const char *path, lt_status status, const char *word)
{
    lt_denoiser *d;
    lt_err err = {0};
    assert_int_equal(lt_denoiser_open(&d, path, LT_DENOISER_N_KINDS, LT_NUMERICS_AUTO, NULL, 0, &err),
                     status);
    assert_null(d);
    printf("%s\n", err.text);
    if (!strstr(err.text, word)) fail_msg("no \"%s\" in: %s", word, err.text);
}

static void write_config(const char *folder, const char *text)
{
    FILE *file = fopen(in_folder("%s/config.json", folder), "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void damaged(void **state)
{
    const char *two = "denoiser/sdxl3d_two", *folder = in_folder("bad");
    synthetic_write(two, folder,
                    &(synthetic){.omit = {"mid_block.attentions.0.proj_in.bias"},
                                 .add = {"up_blocks.7.resnets.0.conv1.bias"},
                                 .reshape = {"conv_out.weight"}});
    refuse(folder, LT_E_MISMATCH, "mid_block.attentions.0.proj_in.bias");
    refuse(folder, LT_E_MISMATCH, "up_blocks.7.resnets.0.conv1.bias");
    refuse(folder, LT_E_MISMATCH, "conv_out.weight is [5,32,3,3], not [4,32,3,3]");
    synthetic_write(two, folder, &(synthetic){.poison = {"conv_in.bias"}});
    refuse(folder, LT_E_NUMERIC, "conv_in.bias");
    synthetic_write(two, folder, &(synthetic){.omit = {"add_embedding.linear_1.weight"}});
    refuse(folder, LT_E_UNSUPPORTED, "pooled text");
    synthetic_write(two, folder, &(synthetic){0});
    write_config("bad", "{\"act_fn\": \"gelu\"}");
    refuse(folder, LT_E_UNSUPPORTED, "\"act_fn\" is \"gelu\"");
    write_config("bad", "{\"attention_head_dim\": [1, 2, 3]}");
    refuse(folder, LT_E_UNSUPPORTED, "attention_head_dim");
    write_config("bad", "{\"attention_head_dim\": 7, \"norm_num_groups\": 16}");
    refuse(folder, LT_E_UNSUPPORTED, "7 heads");
    write_config("bad", "{\"norm_num_groups\": 0}");
    refuse(folder, LT_E_UNSUPPORTED, "norm_num_groups");
    write_config("bad", "{");
    refuse(folder, LT_E_FORMAT, "config.json");
}

int main(void)
{
    support_start();
    synthetic_write("denoiser/sdxl3d_lite", in_folder("lite"), &(synthetic){0});
    synthetic_write("denoiser/sdxl3d_flat", in_folder("flat"), &(synthetic){0});
    synthetic_write("denoiser/sdxl3d_two", in_folder("two"), &(synthetic){0});
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks_f32),   cmocka_unit_test(networks_ref), cmocka_unit_test(network_bf16),
        cmocka_unit_test(sources),        cmocka_unit_test(information),  cmocka_unit_test(same_bytes),
        cmocka_unit_test(planned_memory), cmocka_unit_test(wrong_sizes),  cmocka_unit_test(damaged),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
