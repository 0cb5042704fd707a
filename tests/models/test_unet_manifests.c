/* test_unet_manifests.c - every name and shape of real SDXL UNets is known, and every weight comes from the tensor of the
 * right name: the maps between the names of the sources are the shared folder's (name_maps.json). The files are made at
 * their real size with zeros that take no room on disk. */
#include "models/denoiser_parts.h"
#include "tests/models/support.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_WEIGHTS = 1680, NAME_BYTES = 120 };

typedef struct manifest {
    const char *file, *config; /* config: under configs/, NULL: none */
    const char *const *prefixes;
    const char *key;   /* of name_maps.json; NULL: the map's own names */
    const char *scope; /* before the names that the map has */
    lt_numerics numerics;
    int64_t n_parameters;
} manifest;

/* Of files that hold other models the UNet and a few tensors beside it: the rest would say nothing more. */
static const char *const of_single_file[] = {"model.diffusion_model.", "first_stage_model.quant", "denoiser",
                                             NULL};
static const char *const of_training[] = {"denoising_model.", "text_encoder.position", NULL};

static const manifest manifests[] = {
    {"sdxl_unet_diffusers.json", "sdxl/unet/config.json", NULL, "diffusers", "", LT_NUMERICS_DIFFUSERS,
     2567463684},
    {"sdxl_single_file.json", NULL, of_single_file, NULL, "", LT_NUMERICS_DIFFUSERS, 2567463684},
    {"lite_sora_sdxl_3d_unet.json", NULL, NULL, "lite_sora", "", LT_NUMERICS_LITE_SORA, 3207100164},
    {"lite_sora_sdxl3d_lightning_ckpt.json", NULL, of_training, "lite_sora", "denoising_model.",
     LT_NUMERICS_LITE_SORA, 3207100164},
};

/* Name of the tensor in the file whose data a weight has. */
static void name_of(const lt_denoiser *d, int weight, char name[NAME_BYTES])
{
    const char *found = "nothing";
    for (int i = 0; i < lt_checkpoint_count(d->checkpoint); i++) {
        const char *candidate;
        if (lt_checkpoint_at(d->checkpoint, i, &candidate).data == d->weights[weight]->tensor.data)
            found = candidate;
    }
    snprintf(name, NAME_BYTES, "%s", found);
}

static void check_info(const lt_denoiser_info *info, const manifest *m)
{
    assert_int_equal(info->kind, LT_DENOISER_SDXL_3D);
    assert_int_equal(info->numerics, m->numerics);
    assert_int_equal(info->n_parameters, m->n_parameters);
    assert_int_equal(info->context_width, 2048);
    assert_int_equal(info->pooled_width, 1280);
    assert_int_equal(info->channels, 4);
    for (int i = 0; i < 3; i++) assert_int_equal(info->multiple[i], 4);
}

/* Names of all weights, in the network's own order, which is the same for every source. */
static void read_names(const manifest *m, char (*names)[NAME_BYTES])
{
    const char *folder = in_folder("hollow");
    mkdir(folder, 0700);
    const char *weights = in_folder("hollow/diffusion_pytorch_model.safetensors");
    int n = hollow_write(m->file, m->prefixes, weights);
    if (m->config) hollow_config(m->config, folder);
    lt_denoiser *d;
    lt_err err = {0};
    must(lt_denoiser_open(&d, m->config ? folder : weights, LT_DENOISER_N_KINDS, LT_NUMERICS_AUTO, NULL, 0,
                          &err),
         &err);
    check_info(lt_denoiser_get_info(d), m);
    printf("%-38s %d tensors, %lld parameters\n", m->file, n, (long long)m->n_parameters);
    assert_int_equal(d->n_weights, N_WEIGHTS);
    for (int i = 0; i < N_WEIGHTS; i++) name_of(d, i, names[i]);
    lt_denoiser_close(d, NULL);
    unlink(weights);
    unlink(in_folder("hollow/config.json"));
}

static void real_manifests(void **state)
{
    char(*names)[N_WEIGHTS][NAME_BYTES] = calloc(LT_COUNT(manifests), sizeof(*names));
    char path[4096];
    snprintf(path, sizeof(path), "%s/models/name_maps.json", LT_SHARED);
    json_t *root = json_load_file(path, 0, NULL), *map = json_object_get(root, "unet");
    assert_non_null(names);
    assert_int_equal(json_object_size(map), N_WEIGHTS);
    for (size_t m = 0; m < LT_COUNT(manifests); m++) read_names(&manifests[m], names[m]);
    for (int i = 0; i < N_WEIGHTS; i++) {
        const json_t *entry = json_object_get(map, names[1][i]);
        for (size_t m = 0; m < LT_COUNT(manifests); m++) {
            if (!manifests[m].key) continue;
            char wanted[200];
            const char *name = json_string_value(json_object_get(entry, manifests[m].key));
            snprintf(wanted, sizeof(wanted), "%s%s", manifests[m].scope, name ? name : "?");
            assert_string_equal(names[m][i], wanted);
        }
        json_object_del(map, names[1][i]); /* each once */
    }
    assert_int_equal(json_object_size(map), 0);
    json_decref(root);
    free(names);
}

int main(void)
{
    return hollow_main(real_manifests, "real checkpoints", LT_COUNT(manifests));
}
