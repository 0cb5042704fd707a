/* test_manifests.c - every name and shape of real checkpoints is known. The files are made at their real size with zeros
 * that take no room on disk; without the manifests (LT_SHARED_DIR) the test says what it skipped. */
#include "tests/models/support.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct manifest {
    const char *file, *config; /* config: under configs/, NULL: none */
    int parts;
    bool temporal;
    lt_numerics numerics;
    int64_t n_parameters; /* of the parts */
} manifest;

static const manifest manifests[] = {
    {"svd_vae.json", "svd/vae/config.json", LT_VAE_ENCODER | LT_VAE_DECODER, true, LT_NUMERICS_DIFFUSERS,
     97742847},
    {"svd_vae.json", NULL, LT_VAE_ENCODER | LT_VAE_DECODER, true, LT_NUMERICS_DIFFUSERS, 97742847},
    {"sd_vae_diffusers_new.json", "sdxl/vae/config.json", LT_VAE_ENCODER | LT_VAE_DECODER, false,
     LT_NUMERICS_DIFFUSERS, 83653863},
    {"sd_vae_diffusers_new.json", NULL, LT_VAE_DECODER, false, LT_NUMERICS_DIFFUSERS, 49490199},
    {"sd_vae_diffusers_old.json", "sd15/vae/config.json", LT_VAE_ENCODER | LT_VAE_DECODER, false,
     LT_NUMERICS_DIFFUSERS, 83653863},
    {"sdxl_single_file.json", NULL, LT_VAE_ENCODER | LT_VAE_DECODER, false, LT_NUMERICS_DIFFUSERS, 83653863},
    {"lite_sora_sd_vae_encoder.json", NULL, LT_VAE_ENCODER, false, LT_NUMERICS_LITE_SORA, 34163664},
    {"lite_sora_sd_vae_decoder.json", NULL, LT_VAE_DECODER, false, LT_NUMERICS_LITE_SORA, 49490199},
    {"lite_sora_svd_vae_decoder.json", NULL, LT_VAE_DECODER, true, LT_NUMERICS_LITE_SORA, 63579183},
};

static bool wanted(const char *name, const char *file)
{
    /* Of a whole SDXL only the VAE and a few tensors beside it: the rest would say nothing more. */
    return strcmp(file, "sdxl_single_file.json") != 0 || strncmp(name, "first_stage_model.", 18) == 0 ||
           strncmp(name, "model.diffusion_model.time_embed.", 33) == 0;
}

/* A safetensors file of f16 zeros: its header, then a hole. */
static void write_hollow(const char *path, const json_t *tensors, const char *file)
{
    json_t *header = json_object();
    const char *name;
    json_t *shape;
    int64_t offset = 0;
    json_object_foreach((json_t *)tensors, name, shape)
    {
        if (!wanted(name, file)) continue;
        int64_t n = 2;
        for (size_t i = 0; i < json_array_size(shape); i++) n *= json_integer_value(json_array_get(shape, i));
        json_object_set_new(header, name,
                            json_pack("{s:s, s:O, s:[I,I]}", "dtype", "F16", "shape", shape, "data_offsets",
                                      (json_int_t)offset, (json_int_t)(offset + n)));
        offset += n;
    }
    char *text = json_dumps(header, JSON_COMPACT | JSON_PRESERVE_ORDER);
    uint64_t length = strlen(text);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    fwrite(&length, 8, 1, out);
    fwrite(text, 1, length, out);
    assert_int_equal(fflush(out), 0);
    assert_int_equal(ftruncate(fileno(out), (off_t)(8 + length + (uint64_t)offset)), 0);
    assert_int_equal(fclose(out), 0);
    free(text);
    json_decref(header);
}

static void copy_config(const char *name, const char *folder)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/models/configs/%s", LT_SHARED, name);
    json_t *config = json_load_file(path, 0, NULL);
    assert_non_null(config);
    snprintf(path, sizeof(path), "%s/config.json", folder);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
}

static void check(const manifest *m)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/models/manifests/%s", LT_SHARED, m->file);
    json_t *root = json_load_file(path, 0, NULL);
    if (!root) fail_msg("%s is not there", path);
    const char *folder = in_folder("hollow");
    mkdir(folder, 0700);
    const char *weights = in_folder("hollow/diffusion_pytorch_model.fp16.safetensors");
    write_hollow(weights, json_object_get(root, "tensors"), m->file);
    if (m->config) copy_config(m->config, folder);
    lt_vae *vae = open_vae(m->config ? folder : weights, m->parts, LT_NUMERICS_AUTO);
    const lt_vae_info *info = lt_vae_get_info(vae);
    printf("%-32s %-22s %zu tensors, %lld parameters\n", m->file, m->config ? m->config : "no configuration",
           json_object_size(json_object_get(root, "tensors")), (long long)info->n_parameters);
    assert_int_equal(info->temporal, m->temporal);
    assert_int_equal(info->numerics, m->numerics);
    assert_int_equal(info->n_parameters, m->n_parameters);
    assert_int_equal(info->factor, 8);
    lt_vae_close(vae, NULL);
    unlink(weights);
    unlink(in_folder("hollow/config.json"));
    json_decref(root);
}

static void real_manifests(void **state)
{
    for (size_t i = 0; i < LT_COUNT(manifests); i++) check(&manifests[i]);
}

int main(void)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/models/manifests/svd_vae.json", LT_SHARED);
    if (access(path, R_OK) != 0) {
        printf("skipped: names and shapes of %zu real checkpoints, since %s is not there\n",
               LT_COUNT(manifests), path);
        return 77;
    }
    support_start();
    const struct CMUnitTest tests[] = {cmocka_unit_test(real_manifests)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
