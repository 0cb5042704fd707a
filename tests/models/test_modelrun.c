/* test_modelrun.c - the tool end to end: its files against the references', its exit codes and sentences. */
#include "tests/models/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static char said[4096]; /* what the last run wrote to standard error */

static int run(const char *format, ...)
{
    char command[8192];
    int n = snprintf(command, sizeof(command), "%s ", LT_MODELRUN);
    va_list arguments;
    va_start(arguments, format);
    n += vsnprintf(command + n, sizeof(command) - (size_t)n, format, arguments);
    va_end(arguments);
    snprintf(command + n, sizeof(command) - (size_t)n, " >%s 2>%s", in_folder("stdout"), in_folder("stderr"));
    int status = system(command);
    FILE *file = fopen(in_folder("stderr"), "r");
    assert_non_null(file);
    size_t length = fread(said, 1, sizeof(said) - 1, file);
    said[length] = '\0';
    fclose(file);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void run_well(const char *options, const char *model, const char *name)
{
    int code = run("%s --in %s/vae/%s.safetensors --out %s --threads 2 %s", in_folder("%s", model),
                   LT_FIXTURES, name, in_folder("out.safetensors"), options);
    if (code != 0) fail_msg("modelrun ended with %d: %s", code, said);
}

static void compare(const char *label, const char *name, const char *key, const char *wanted_key,
                    double bound)
{
    lt_safetensors *out;
    lt_tensor got, wanted;
    lt_err err = {0};
    fixture f = fixture_open(name);
    must(lt_safetensors_open(&out, in_folder("out.safetensors"), &err), &err);
    must(lt_safetensors_get(out, key, &got, &err), &err);
    must(lt_safetensors_get(f.file, wanted_key, &wanted, &err), &err);
    assert_int_equal(got.rank, wanted.rank);
    assert_memory_equal(got.shape, wanted.shape, (size_t)got.rank * sizeof(int64_t));
    check_close(label, got.data, wanted.data, lt_n_elements(&got), bound);
    lt_safetensors_close(out);
    fixture_close(&f);
}

static void against_fixtures(void **state)
{
    run_well("--part encoder", "kl", "kl_encode");
    compare("encoder, diffusers", "kl_encode", "latent", "latent", 1e-5);
    compare("  its log-variance", "kl_encode", "logvar", "logvar", 1e-5);
    run_well("--part decoder", "kl", "kl_decode");
    compare("decoder, diffusers", "kl_decode", "sample", "sample", 1e-5);
    run_well("--part decoder --device ref", "svd_shallow", "svd_shallow_1");
    compare("decoder, ref", "svd_shallow_1", "sample", "frames", 1e-6);
    run_well("--part decoder --dtype bf16", "svd", "svd_decode");
    compare("decoder, bf16", "svd_decode", "sample", "sample", 3e-2);
    run_well("--part encoder", "lite_encoder", "lite_encoder");
    compare("encoder, lite-sora", "lite_encoder", "latent", "latent", 1e-5);
    run_well("--part decoder --numerics lite-sora", "svd", "svd_decode_lite");
    compare("decoder, lite-sora numerics", "svd_decode_lite", "sample", "sample", 1e-5);
    run_well("--part decode_video --tile 4x3x3 --stride 2x2x2", "lite_svd_decoder", "video_1");
    compare("decode_video", "video_1", "sample", "sample", 1e-5);
}

/* One sentence, naming what it is about. */
static void complains(const char *text)
{
    if (!strstr(said, text)) fail_msg("'%s' is not in: %s", text, said);
    char *end = strchr(said, '\n');
    assert_true(end && end[1] == '\0');
}

/* A fixture's token ids, as i64, and the mask of its rows, in a file of their own. */
static void write_ids(const char *name)
{
    fixture f = fixture_open(name);
    lt_err err = {0};
    lt_tensor from, n_ids;
    must(lt_safetensors_get(f.file, "input_ids", &from, &err), &err);
    bool masked = lt_safetensors_get(f.file, "n_ids", &n_ids, NULL) == LT_OK;
    int64_t ids[128], mask[128], n = lt_n_elements(&from), length = from.shape[1];
    assert_true(n <= 128);
    for (int64_t i = 0; i < n; i++) {
        ids[i] = ((const int32_t *)from.data)[i];
        mask[i] = masked && i % length < ((const int32_t *)n_ids.data)[i / length];
    }
    lt_named_tensor tensors[] = {{"input_ids", from}, {"attention_mask", from}};
    tensors[0].tensor.data = ids;
    tensors[1].tensor.data = mask;
    tensors[0].tensor.dtype = tensors[1].tensor.dtype = LT_I64;
    must(lt_safetensors_write(in_folder("ids.safetensors"), tensors, masked ? 2 : 1, NULL, 0, &err), &err);
    fixture_close(&f);
}

static void run_text(const char *options, const char *model, const char *name)
{
    write_ids(name);
    int code = run("%s --in %s --out %s --threads 2 %s", in_folder("%s", model), in_folder("ids.safetensors"),
                   in_folder("out.safetensors"), options);
    if (code != 0) fail_msg("modelrun ended with %d: %s", code, said);
}

static void text_encoders(void **state)
{
    run_text("--clip-skip 2", "clip_quick", "text/clip_quick");
    compare("text_encoder", "text/clip_quick", "last_hidden_state", "last_hidden_state", 1e-5);
    compare("  pooled", "text/clip_quick", "pooler_output", "pooler_output", 1e-5);
    compare("  clip_skip 2", "text/clip_quick", "hidden_state", "skip_2", 1e-5);
    run_text("--part text_encoder_2 --device ref", "clip_projection", "text/clip_projection");
    compare("text_encoder_2, ref", "text/clip_projection", "text_embeds", "text_embeds", 1e-6);
    run_text("", "lite_sdxl", "text/lite_sdxl");
    compare("text_encoder without a norm", "text/lite_sdxl", "hidden_state", "skip_1", 1e-5);
    run_text("", "t5", "text/t5_padded");
    compare("text_encoder, T5", "text/t5_padded", "last_hidden_state", "last_hidden_state", 1e-5);
    assert_int_equal(run("%s --in %s --out %s --clip-skip 2", in_folder("t5"), in_folder("ids.safetensors"),
                         in_folder("out.safetensors")),
                     1);
    complains("clip_skip");
    assert_int_equal(run("%s --in %s --out %s", in_folder("kl"), in_folder("ids.safetensors"),
                         in_folder("out.safetensors")),
                     1);
    complains("no text encoder");
}

static void run_denoiser(const char *options, const char *model, const char *name)
{
    int code = run("%s --in %s/denoiser/%s.safetensors --out %s --threads 2 %s", in_folder("%s", model),
                   LT_FIXTURES, name, in_folder("out.safetensors"), options);
    if (code != 0) fail_msg("modelrun ended with %d: %s", code, said);
}

/* The fixture keeps the timestep and the size beside its tensors. */
static void write_unet_inputs(void)
{
    fixture f = fixture_open("denoiser/sdxl3d_lite");
    lt_err err = {0};
    float step = (float)atof(lt_safetensors_metadata(f.file, "timestep")),
          height = (float)atof(lt_safetensors_metadata(f.file, "height")),
          width = (float)atof(lt_safetensors_metadata(f.file, "width")),
          ids[] = {height, width, 0, 0, height, width};
    lt_named_tensor tensors[5] = {
        {"sample", LT_NONE}, {"encoder_hidden_states", LT_NONE}, {"add_text_embeds", LT_NONE}};
    for (int i = 0; i < 3; i++) tensors[i].tensor = fixture_raw(&f, tensors[i].name);
    tensors[3] = (lt_named_tensor){"timestep", {.data = &step, .dtype = LT_F32, .rank = 1, .shape = {1}}};
    tensors[4] = (lt_named_tensor){"add_time_id", {.data = ids, .dtype = LT_F32, .rank = 1, .shape = {6}}};
    must(lt_safetensors_write(in_folder("unet.safetensors"), tensors, 5, NULL, 0, &err), &err);
    fixture_close(&f);
}

static void denoisers(void **state)
{
    run_denoiser("--part transformer", "video_dit_v2", "video_dit_v2");
    compare("transformer, VideoDiT v2", "denoiser/video_dit_v2", "sample", "sample", 1e-5);
    run_denoiser("--part transformer --device ref", "pixart_512", "pixart_512");
    compare("transformer, PixArt, ref", "denoiser/pixart_512", "sample", "sample", 1e-6);
    run_denoiser("--part transformer --dtype bf16", "pixart_1024", "pixart_1024");
    compare("transformer, PixArt 1024, bf16", "denoiser/pixart_1024", "sample", "sample", 3e-2);
    write_unet_inputs();
    int code = run("%s --in %s --out %s --threads 2 --part unet", in_folder("sdxl3d_lite"),
                   in_folder("unet.safetensors"), in_folder("out.safetensors"));
    if (code != 0) fail_msg("modelrun ended with %d: %s", code, said);
    compare("unet", "denoiser/sdxl3d_lite", "sample", "prediction", 1e-5);
    assert_int_equal(run("%s --in %s/denoiser/video_dit_v2.safetensors --out %s --part transformer",
                         in_folder("kl"), LT_FIXTURES, in_folder("out.safetensors")),
                     1);
    complains("looks like a VAE");
    assert_int_equal(run("%s --in %s/denoiser/video_dit_v1.safetensors --out %s --part transformer",
                         in_folder("video_dit_v2"), LT_FIXTURES, in_folder("out.safetensors")),
                     1);
    complains("text_emb is f32[2,40]; wanted floats of rank 3");
}

/* All steps, on the fixtures of the stage denoise. */
static void pipelines(void **state)
{
    static const struct {
        const char *fixture, *model;
        double bound;
    } all[] = {{"latent_dit", "video_dit_v2", 5e-6}, {"sdxl_3d", "sdxl3d_lite", 5e-6}};
    for (size_t i = 0; i < LT_COUNT(all); i++) {
        char name[64];
        int code =
            run("%s --in %s/pipeline/%s.safetensors --out %s --threads 2 --part pipeline",
                in_folder("%s", all[i].model), LT_FIXTURES, all[i].fixture, in_folder("out.safetensors"));
        if (code != 0) fail_msg("modelrun ended with %d: %s", code, said);
        snprintf(name, sizeof(name), "pipeline/%s", all[i].fixture);
        compare(name, name, "latents", "latents", all[i].bound);
    }
    assert_int_equal(run("%s --in %s/pipeline/pixel_dit.safetensors --out %s --part pipeline",
                         in_folder("video_dit_v2"), LT_FIXTURES, in_folder("out.safetensors")),
                     1);
    complains("3 channels");
}

static void failures(void **state)
{
    const char *in = LT_FIXTURES "/vae/kl_encode.safetensors";
    char model[2048], out[2048];
    snprintf(model, sizeof(model), "%s", in_folder("kl"));
    snprintf(out, sizeof(out), "%s", in_folder("out.safetensors"));
    assert_int_equal(run("--help"), 0);
    assert_int_equal(run("%s --in %s", model, in), 2);
    complains("--out");
    assert_int_equal(run("%s --in %s --out %s --part middle", model, in, out), 2);
    complains("--part does not take 'middle'");
    assert_int_equal(run("%s --in %s --out %s --tile 4x4", model, in, out), 2);
    assert_int_equal(run("%s --in %s --out %s --frobnicate", model, in, out), 2);
    assert_int_equal(run("%s --in %s --out %s", model, in, out), 1); /* holds both sample and latent */
    complains("--part");
    assert_int_equal(run("%s --in %s --out %s --part encoder", in_folder("nowhere"), in, out), 1);
    complains("nowhere");
    assert_int_equal(run("%s --in %s --out %s --part encoder --device warp", model, in, out), 1);
    complains("warp");
    assert_int_equal(
        run("%s --in %s --out %s --part encoder", model, LT_FIXTURES "/vae/video_2.safetensors", out), 1);
    assert_int_equal(run("%s --in %s --out %s --part encoder", model, in, "/proc/no/out.safetensors"), 1);
}

int main(void)
{
    support_start();
    static const char *const models[] = {"svd", "svd_shallow", "kl", "lite_encoder", "lite_svd_decoder"};
    for (size_t i = 0; i < LT_COUNT(models); i++)
        synthetic_write(models[i], in_folder("%s", models[i]), &(synthetic){0});
    static const char *const encoders[] = {"clip_quick", "clip_projection", "lite_sdxl", "t5"};
    for (size_t i = 0; i < LT_COUNT(encoders); i++) {
        char name[64];
        snprintf(name, sizeof(name), "text/%s", encoders[i]);
        synthetic_write(name, in_folder("%s", encoders[i]), &(synthetic){.stem = "model"});
    }
    static const char *const denoisers_of[] = {"video_dit_v2", "pixart_512", "pixart_1024", "sdxl3d_lite"};
    for (size_t i = 0; i < LT_COUNT(denoisers_of); i++) {
        char name[64];
        snprintf(name, sizeof(name), "denoiser/%s", denoisers_of[i]);
        synthetic_write(name, in_folder("%s", denoisers_of[i]), &(synthetic){0});
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_fixtures), cmocka_unit_test(text_encoders),
                                       cmocka_unit_test(denoisers), cmocka_unit_test(pipelines),
                                       cmocka_unit_test(failures)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
