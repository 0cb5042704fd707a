/* test_vae.c - the networks against the references' own code in float64. */
#include "models/vae_parts.h"
#include "tests/models/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define F32_BOUND  1e-5
#define BF16_BOUND 3e-2
#define WORKSPACE  ((size_t)256 << 20)

/* What a case of a fixture means. */
typedef struct vae_case {
    const char *fixture, *model, *in, *out;
    lt_numerics numerics;
    test_layout layout;
    bool encode, scaled; /* scaled: latents are times 0.18215, as lite-sora has them */
} vae_case;

static const vae_case cases[] = {
    {"svd_encode", "svd", "sample", "latent", LT_NUMERICS_AUTO, FRAMES_FIRST, true, false},
    {"svd_decode", "svd", "latent", "sample", LT_NUMERICS_AUTO, FRAMES_FIRST, false, false},
    {"svd_decode_lite", "svd", "latent", "sample", LT_NUMERICS_LITE_SORA, CHANNELS_FIRST, false, true},
    {"svd_shallow_1", "svd_shallow", "latent", "frames", LT_NUMERICS_AUTO, FRAMES_FIRST, false, false},
    {"svd_shallow_1", "svd_shallow", "sample", "mean", LT_NUMERICS_AUTO, FRAMES_FIRST, true, false},
    {"svd_shallow_4", "svd_shallow", "latent", "frames", LT_NUMERICS_AUTO, FRAMES_FIRST, false, false},
    {"svd_shallow_4", "svd_shallow", "sample", "mean", LT_NUMERICS_AUTO, FRAMES_FIRST, true, false},
    {"kl_encode", "kl", "sample", "latent", LT_NUMERICS_AUTO, FRAMES_FIRST, true, false},
    {"kl_decode", "kl", "latent", "sample", LT_NUMERICS_AUTO, FRAMES_FIRST, false, false},
    {"lite_encoder", "lite_encoder", "sample", "latent", LT_NUMERICS_AUTO, FRAMES_FIRST, true, true},
    {"lite_sd_decoder", "lite_sd_decoder", "latent", "sample", LT_NUMERICS_AUTO, FRAMES_FIRST, false, true},
    {"lite_svd_decoder", "lite_svd_decoder", "latent", "sample", LT_NUMERICS_AUTO, CHANNELS_FIRST, false,
     true},
};

static void scale(lt_tensor *t, double by)
{
    float *x = t->data;
    for (int64_t i = 0; i < lt_n_elements(t); i++) x[i] = (float)(x[i] * by);
}

/* Run one half of a VAE on x [N,H,W,C] f32; the result, f32 on the heap. Moments are cut to the mean. */
static lt_tensor run_half(lt_context *c, lt_vae *vae, lt_tensor x, bool encode)
{
    lt_err err = {0};
    lt_tensor in = lt_upload(c, x, c->dtype);
    lt_tensor y = encode ? lt_vae_encode(c, vae, in) : lt_vae_decode(c, vae, in);
    lt_drop(c, &in);
    int64_t channels = encode ? lt_vae_get_info(vae)->latent_channels : 3;
    lt_tensor mean = lt_slice_channels(c, y, 0, channels);
    must(lt_context_status(c, &err), &err);
    lt_tensor host = mean;
    host.dtype = LT_F32;
    host.data = fetch_f32(c, mean);
    lt_drop(c, &y);
    lt_drop(c, &mean);
    check_empty(c);
    return host;
}

static double run_case(const vae_case *t, const char *model, const char *device, lt_dtype dtype, double bound)
{
    fixture f = fixture_open(t->fixture);
    lt_vae *vae = open_vae(in_folder("%s", model), t->encode ? LT_VAE_ENCODER : LT_VAE_DECODER, t->numerics);
    lt_context *c = open_context(device, dtype, WORKSPACE, 2);
    double factor = t->scaled ? lt_vae_get_info(vae)->scaling_factor : 1;
    lt_tensor in = fixture_get(&f, t->in, t->layout), wanted = fixture_get(&f, t->out, t->layout);
    if (!t->encode) scale(&in, 1 / factor);
    lt_tensor got = run_half(c, vae, in, t->encode);
    if (t->encode) scale(&got, factor);
    char label[96];
    snprintf(label, sizeof(label), "%s %s %s", device, lt_dtype_name(dtype), t->fixture);
    assert_int_equal(lt_n_elements(&got), lt_n_elements(&wanted));
    double l2 = check_close(label, got.data, wanted.data, lt_n_elements(&wanted), bound);
    free(in.data);
    free(wanted.data);
    free(got.data);
    lt_vae_close(vae, c);
    lt_context_destroy(c);
    fixture_close(&f);
    return l2;
}

static void networks_f32(void **state)
{
    for (size_t i = 0; i < LT_COUNT(cases); i++)
        run_case(&cases[i], cases[i].model, "cpu", LT_F32, F32_BOUND);
}

static void networks_ref(void **state)
{
    static const int some[] = {0, 2, 3, 5, 7, 9};
    for (size_t i = 0; i < LT_COUNT(some); i++)
        run_case(&cases[some[i]], cases[some[i]].model, "ref", LT_F64, 1e-6);
}

/* A wrong eps must not pass. */
static void numerics_matter(void **state)
{
    vae_case wrong = cases[2];
    fixture f = fixture_open(wrong.fixture);
    lt_context *c = open_context("cpu", LT_F32, WORKSPACE, 2);
    lt_vae *lite = open_vae(in_folder("svd"), LT_VAE_DECODER, LT_NUMERICS_LITE_SORA);
    lt_vae *other = open_vae(in_folder("svd"), LT_VAE_DECODER, LT_NUMERICS_DIFFUSERS);
    assert_int_equal(lt_vae_get_info(other)->numerics, LT_NUMERICS_DIFFUSERS);
    lt_tensor in = fixture_get(&f, "latent", CHANNELS_FIRST);
    scale(&in, 1 / 0.18215);
    lt_tensor a = run_half(c, lite, in, false), b = run_half(c, other, in, false);
    double difference = 0, size = 0;
    for (int64_t i = 0; i < lt_n_elements(&a); i++) {
        double x = ((float *)a.data)[i], y = ((float *)b.data)[i];
        difference += (x - y) * (x - y);
        size += y * y;
    }
    assert_true(difference / size > 1e-8); /* L2 above 1e-4 */
    free(in.data);
    free(a.data);
    free(b.data);
    lt_vae_close(lite, c);
    lt_vae_close(other, c);
    lt_context_destroy(c);
    fixture_close(&f);
}

/* Weight files in halves, computed in f32. */
static void weights_f16(void **state)
{
    const vae_case encode = {"svd_f16", "", "sample", "mean", LT_NUMERICS_AUTO, FRAMES_FIRST, true, false};
    const vae_case decode = {"svd_f16", "", "latent", "frames", LT_NUMERICS_AUTO, FRAMES_FIRST, false, false};
    synthetic_write("svd", in_folder("svd_f16"), &(synthetic){.dtype = LT_F16});
    run_case(&encode, "svd_f16", "cpu", LT_F32, F32_BOUND);
    run_case(&decode, "svd_f16", "cpu", LT_F32, F32_BOUND);
}

/* bf16 weights and activations; no worse than 1.25 times PyTorch's own network in bf16, which rounds after each operator. */
static void network_bf16(void **state)
{
    static const struct {
        const char *fixture, *model;
        bool encoder, decoder;
        test_layout decoded;
        bool scaled;
    } all[] = {
        {"svd_wide_bf16", "svd_wide", true, true, FRAMES_FIRST, false},
        {"kl_bf16", "kl", true, true, FRAMES_FIRST, false},
        {"lite_encoder_bf16", "lite_encoder", true, false, FRAMES_FIRST, true},
        {"lite_sd_wide_bf16", "lite_sd_wide", false, true, FRAMES_FIRST, true},
        {"lite_svd_decoder_bf16", "lite_svd_decoder", false, true, CHANNELS_FIRST, true},
    };
    for (size_t i = 0; i < LT_COUNT(all); i++) {
        const char *name = all[i].fixture;
        const vae_case encode = {name,         "",   "sample",     "mean", LT_NUMERICS_AUTO,
                                 FRAMES_FIRST, true, all[i].scaled};
        const vae_case decode = {name,           "",    "latent",     "frames", LT_NUMERICS_AUTO,
                                 all[i].decoded, false, all[i].scaled};
        synthetic_write(all[i].model, in_folder("%s", name), &(synthetic){.dtype = LT_BF16});
        fixture f = fixture_open(name);
        const char *emulated_encode = lt_safetensors_metadata(f.file, "emulation_mean");
        const char *emulated_decode = lt_safetensors_metadata(f.file, "emulation_frames");
        if (all[i].encoder)
            assert_true(run_case(&encode, name, "cpu", LT_BF16, BF16_BOUND) <= 1.25 * atof(emulated_encode));
        if (all[i].decoder) {
            assert_true(run_case(&decode, name, "cpu", LT_BF16, BF16_BOUND) <= 1.25 * atof(emulated_decode));
            /* The file's values in f32 arithmetic are the reference itself. */
            run_case(&decode, name, "cpu", LT_F32, F32_BOUND);
        }
        fixture_close(&f);
    }
}

static void sharded(void **state)
{
    synthetic_write("svd", in_folder("shards"), &(synthetic){.n_shards = 3});
    run_case(&cases[0], "shards", "cpu", LT_F32, F32_BOUND);
    run_case(&cases[1], "shards", "cpu", LT_F32, F32_BOUND);
}

/* Without config.json the architecture comes from names and shapes (32 groups). */
static void inferred(void **state)
{
    synthetic_write("svd", in_folder("bare"), &(synthetic){.no_config = true});
    run_case(&cases[0], "bare", "cpu", LT_F32, F32_BOUND);
    run_case(&cases[1], "bare", "cpu", LT_F32, F32_BOUND);
    run_case(&cases[1], "bare/diffusion_pytorch_model.safetensors", "cpu", LT_F32, F32_BOUND);
    synthetic_write("svd_shallow", in_folder("bare_shallow"), &(synthetic){.no_config = true});
    run_case(&cases[5], "bare_shallow", "cpu", LT_F32, F32_BOUND);
}

/* diffusers' names as they were before 0.17. */
static void rename_old(const char *name, char *to, size_t bytes)
{
    static const char *const pairs[][2] = {
        {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}};
    snprintf(to, bytes, "%s", name);
    for (size_t i = 0; i < LT_COUNT(pairs); i++) {
        const char *at = strstr(name, pairs[i][0]);
        if (at)
            snprintf(to, bytes, "%.*s%s%s", (int)(at - name), name, pairs[i][1], at + strlen(pairs[i][0]));
    }
}

static void rename_ldm_scoped(const char *name, char *to, size_t bytes)
{
    char bare[160];
    rename_ldm_vae(name, bare, sizeof(bare));
    snprintf(to, bytes, "first_stage_model.%s", bare);
}

static void replace_part(char *name, size_t bytes, const char *from, const char *to)
{
    char *at = strstr(name, from), rest[160];
    if (!at) return;
    snprintf(rest, sizeof(rest), "%s%s", to, at + strlen(from));
    snprintf(at, bytes - (size_t)(at - name), "%s", rest);
}

/* A single-file SVD's names of the model "svd", which has four levels. */
static void rename_svd(const char *name, char *to, size_t bytes)
{
    static const char *const pairs[][2] = {
        {"decoder.time_conv_out", "decoder.conv_out.time_mix_conv"},
        {".time_mixer", ""},
        {".spatial_res_block", ""},
        {".temporal_res_block.norm1", ".time_stack.in_layers.0"},
        {".temporal_res_block.conv1", ".time_stack.in_layers.2"},
        {".temporal_res_block.norm2", ".time_stack.out_layers.0"},
        {".temporal_res_block.conv2", ".time_stack.out_layers.3"},
    };
    int level;
    rename_ldm_scoped(name, to, bytes);
    for (size_t i = 0; i < LT_COUNT(pairs); i++) replace_part(to, bytes, pairs[i][0], pairs[i][1]);
    char *up = strstr(to, "decoder.up."); /* counted for three levels */
    if (up && sscanf(up, "decoder.up.%d.", &level) == 1 && level >= -1) {
        char now[24], wanted[24];
        snprintf(now, sizeof(now), "decoder.up.%d.", level);
        snprintf(wanted, sizeof(wanted), "decoder.up.%d.", level + 1);
        replace_part(to, bytes, now, wanted);
    }
}

/* SVD's own names, beside tensors of its text encoder; without a configuration. */
static void single_file_svd(void **state)
{
    const synthetic o = {.rename = rename_svd,
                         .no_config = true,
                         .add = {"conditioner.embedders.0.open_clip.model.logit_scale"}};
    synthetic_write("svd", in_folder("svd_xt"), &o);
    for (size_t i = 0; i < LT_COUNT(cases); i++)
        if (strcmp(cases[i].model, "svd") == 0) run_case(&cases[i], "svd_xt", "cpu", LT_F32, F32_BOUND);
}

/* The same model under other names; beside a scoped one other tensors may stand. */
static void other_names(void **state)
{
    void (*const renames[])(const char *, char *, size_t) = {rename_old, rename_ldm_vae, rename_ldm_scoped};
    for (int i = 0; i < 3; i++) {
        char model[16];
        snprintf(model, sizeof(model), "renamed_%d", i);
        synthetic o = {.rename = renames[i]};
        if (i == 1) o.add[0] = "loss.logvar";
        if (i == 2) o.add[0] = "model.diffusion_model.out.2.bias";
        synthetic_write("kl", in_folder("%s", model), &o);
        run_case(&cases[7], model, "cpu", LT_F32, F32_BOUND);
        run_case(&cases[8], model, "cpu", LT_F32, F32_BOUND);
    }
}

/* A frame has the same bytes alone and in a batch, with one thread and with two. */
static void same_bytes(void **state)
{
    fixture f = fixture_open("svd_encode");
    lt_tensor both = fixture_get(&f, "sample", FRAMES_FIRST), one = both;
    lt_context *c = open_context("cpu", LT_F32, WORKSPACE, 2),
               *single = open_context("cpu", LT_F32, WORKSPACE, 1);
    lt_vae *vae = open_vae(in_folder("svd"), LT_VAE_ENCODER | LT_VAE_DECODER, LT_NUMERICS_AUTO);
    lt_vae *again = open_vae(in_folder("svd"), LT_VAE_ENCODER | LT_VAE_DECODER, LT_NUMERICS_AUTO);
    one.shape[0] = 1;
    lt_tensor a = run_half(c, vae, both, true), b = run_half(c, vae, one, true),
              d = run_half(single, again, both, true);
    assert_memory_equal(a.data, b.data, lt_tensor_bytes(&b));
    assert_memory_equal(a.data, d.data, lt_tensor_bytes(&a));
    lt_tensor x = run_half(c, vae, a, false), y = run_half(single, again, a, false);
    assert_memory_equal(x.data, y.data, lt_tensor_bytes(&x));
    lt_tensor *all[] = {&both, &a, &b, &d, &x, &y};
    for (size_t i = 0; i < LT_COUNT(all); i++) free(all[i]->data);
    lt_vae_close(vae, c);
    lt_vae_close(again, single);
    lt_context_destroy(c);
    lt_context_destroy(single);
    fixture_close(&f);
}

/* The decoder's widest steps run for a few frames at a time: how many changes no byte. */
static void groups_of_frames(void **state)
{
    fixture f = fixture_open("svd_decode");
    lt_tensor z = fixture_get(&f, "latent", FRAMES_FIRST);
    lt_context *c = open_context("cpu", LT_F32, WORKSPACE, 2);
    lt_vae *vae = open_vae(in_folder("svd"), LT_VAE_DECODER, LT_NUMERICS_AUTO);
    lt_tensor all = run_half(c, vae, z, false);
    for (int64_t pixels = 1; pixels <= 2 * 24 * 32;
         pixels *= 24) { /* one frame at every level; two at some */
        vae->group_pixels = pixels;
        lt_tensor some = run_half(c, vae, z, false);
        assert_memory_equal(all.data, some.data, lt_tensor_bytes(&all));
        free(some.data);
    }
    free(all.data);
    free(z.data);
    lt_vae_close(vae, c);
    lt_context_destroy(c);
    fixture_close(&f);
}

/* Wrong input and a workspace that is too small are errors; the context can be used again and nothing is left in it. */
static void errors(void **state)
{
    lt_err err = {0};
    lt_vae *vae = open_vae(in_folder("svd"), LT_VAE_DECODER, LT_NUMERICS_AUTO);
    lt_context *c = open_context("cpu", LT_F32, 200000, 2);
    lt_tensor wrong = new_host(1, 3, 4, 5), right = new_host(2, 3, 4, 4);
    assert_null(lt_vae_decode(c, vae, wrong).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    assert_non_null(strstr(err.text, "[1,3,4,5]"));
    assert_null(lt_vae_encode(c, vae, right).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    assert_non_null(strstr(err.text, "encoder"));
    check_empty(c);
    lt_tensor up = lt_upload(c, right, LT_F32);
    assert_null(lt_vae_decode(c, vae, up).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_NO_MEMORY);
    lt_drop(c, &up);
    check_empty(c);
    free(wrong.data);
    free(right.data);
    lt_vae_close(vae, c);
    lt_context_destroy(c);
}

int main(void)
{
    support_start();
    static const char *const models[] = {"svd",          "svd_shallow",     "kl",
                                         "lite_encoder", "lite_sd_decoder", "lite_svd_decoder"};
    for (size_t i = 0; i < LT_COUNT(models); i++)
        synthetic_write(models[i], in_folder("%s", models[i]), &(synthetic){0});
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks_f32), cmocka_unit_test(networks_ref),     cmocka_unit_test(numerics_matter),
        cmocka_unit_test(weights_f16),  cmocka_unit_test(network_bf16),     cmocka_unit_test(sharded),
        cmocka_unit_test(inferred),     cmocka_unit_test(other_names),      cmocka_unit_test(single_file_svd),
        cmocka_unit_test(same_bytes),   cmocka_unit_test(groups_of_frames), cmocka_unit_test(errors),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
