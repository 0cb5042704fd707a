/* test_manifests.c - every name and shape of real checkpoints is known. The files are made at their real size with zeros
 * that take no room on disk; without the manifests (LT_SHARED_DIR) the test says what it skipped. */
#include "tests/models/support.h"

#include <stdio.h>
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

/* Of a whole SDXL only the VAE and a few tensors beside it: the rest would say nothing more. */
static const char *const part_of_sdxl[] = {"first_stage_model.", "model.diffusion_model.time_embed.", NULL};

static void check(const manifest *m)
{
    const char *folder = in_folder("hollow");
    mkdir(folder, 0700);
    const char *weights = in_folder("hollow/diffusion_pytorch_model.fp16.safetensors");
    int n = hollow_write(m->file, strncmp(m->file, "sdxl_single", 11) == 0 ? part_of_sdxl : NULL, weights);
    if (m->config) hollow_config(m->config, folder);
    lt_vae *vae = open_vae(m->config ? folder : weights, m->parts, LT_NUMERICS_AUTO);
    const lt_vae_info *info = lt_vae_get_info(vae);
    printf("%-32s %-22s %d tensors, %lld parameters\n", m->file, m->config ? m->config : "no configuration",
           n, (long long)info->n_parameters);
    assert_int_equal(info->temporal, m->temporal);
    assert_int_equal(info->numerics, m->numerics);
    assert_int_equal(info->n_parameters, m->n_parameters);
    assert_int_equal(info->factor, 8);
    lt_vae_close(vae, NULL);
    unlink(weights);
    unlink(in_folder("hollow/config.json"));
}

static void real_manifests(void **state)
{
    for (size_t i = 0; i < LT_COUNT(manifests); i++) check(&manifests[i]);
}

int main(void)
{
    if (!hollow_there()) {
        printf("skipped: names and shapes of %zu real checkpoints, since %s/models is not there\n",
               LT_COUNT(manifests), LT_SHARED);
        return 77;
    }
    support_start();
    const struct CMUnitTest tests[] = {cmocka_unit_test(real_manifests)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
