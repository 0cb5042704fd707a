/* test_dit_manifests.c - every name and shape of real diffusion transformers is known, and every tensor is read, by one weight
 * each. The files are made at their real size with zeros that take no room on disk. */
#include "models/denoiser_parts.h"
#include "tests/models/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct manifest {
    const char *file, *config;   /* config: under configs/, NULL: none */
    const char *const *prefixes; /* of the tensors that are written; NULL: all */
    const char *scope;           /* of the names that are the network's */
    lt_denoiser_kind as, kind;
    int unread; /* tensors that are none of the network's, all named in the note */
    int patch[3], context, pooled;
    int64_t n_parameters;
} manifest;

/* Of training's checkpoints the network, and something of each model beside it. */
static const char *const trained[] = {"denoising_model.", "video_encoder.", "text_encoder.encoder.final",
                                      "text_encoder.final", NULL};

#define ANY LT_DENOISER_N_KINDS
#define V1  LT_DENOISER_VIDEO_DIT_V1
#define V2  LT_DENOISER_VIDEO_DIT_V2
#define PIC LT_DENOISER_PIXART
#define VID LT_DENOISER_PIXART_VIDEO

enum { V1_SIZE = 345657536, V2_SIZE = 1004933812, PICTURE_SIZE = 610856096, VIDEO_SIZE = 611686016 };

static const manifest manifests[] = {
    {"lite_sora_videodit_v1.json", NULL, NULL, "", ANY, V1, 0, {4, 4, 4}, 0, 1280, V1_SIZE},
    {"lite_sora_videodit_v1_lightning_ckpt.json",
     NULL,
     trained,
     "denoising_model.",
     ANY,
     V1,
     0,
     {4, 4, 4},
     0,
     1280,
     V1_SIZE},
    {"lite_sora_videodit_v2.json", NULL, NULL, "", ANY, V2, 0, {4, 4, 4}, 768, 768, V2_SIZE},
    {"lite_sora_videodit_v2_lightning_ckpt.json",
     NULL,
     trained,
     "denoising_model.",
     V2,
     V2,
     0,
     {4, 4, 4},
     768,
     768,
     V2_SIZE},
    {"lite_sora_pixart_dit_image.json", NULL, NULL, "", ANY, PIC, 0, {1, 2, 2}, 4096, 0, PICTURE_SIZE},
    {"lite_sora_pixart_dit_image.json", NULL, NULL, "", VID, VID, 4, {4, 4, 4}, 4096, 0, VIDEO_SIZE},
    {"lite_sora_pixart_video_dit.json", NULL, NULL, "", ANY, VID, 0, {4, 4, 4}, 4096, 0, VIDEO_SIZE},
    {"lite_sora_pixart_video_lightning_ckpt.json",
     NULL,
     trained,
     "denoising_model.",
     VID,
     VID,
     0,
     {4, 4, 4},
     4096,
     0,
     VIDEO_SIZE},
    {"pixart_xl2_512_transformer.json",
     "pixart_512/transformer/config.json",
     NULL,
     "",
     ANY,
     PIC,
     0,
     {1, 2, 2},
     4096,
     0,
     PICTURE_SIZE},
    {"pixart_xl2_512_transformer.json", NULL, NULL, "", ANY, PIC, 0, {1, 2, 2}, 4096, 0, PICTURE_SIZE},
    {"pixart_xl2_512_transformer.json",
     "pixart_512/transformer/config.json",
     NULL,
     "",
     VID,
     VID,
     4,
     {4, 4, 4},
     4096,
     0,
     VIDEO_SIZE},
    {"pixart_xl2_1024ms_transformer.json", NULL, NULL, "", ANY, PIC, 0, {1, 2, 2}, 4096, 0, 611349152},
    {"pixart_xl2_1024ms_transformer.json", NULL, NULL, "", VID, VID, 12, {4, 4, 4}, 4096, 0, VIDEO_SIZE},
};

static int by_data(const void *a, const void *b)
{
    const char *x = (*(const lt_weight *const *)a)->tensor.data,
               *y = (*(const lt_weight *const *)b)->tensor.data;
    return (x > y) - (x < y);
}

/* Every tensor in scope belongs to exactly one weight, but for `unread` of them. */
static void check_read(const lt_denoiser *d, const manifest *m)
{
    size_t n = (size_t)d->n_weights;
    lt_weight **sorted = malloc(n * sizeof(lt_weight *));
    assert_non_null(sorted);
    memcpy(sorted, d->weights, n * sizeof(lt_weight *));
    qsort(sorted, n, sizeof(lt_weight *), by_data);
    for (size_t i = 1; i < n; i++) assert_true(by_data(&sorted[i - 1], &sorted[i]) < 0);
    int unread = 0;
    for (int i = 0; i < lt_checkpoint_count(d->checkpoint); i++) {
        const char *name;
        lt_weight key = {.tensor = lt_checkpoint_at(d->checkpoint, i, &name)}, *at = &key;
        if (strncmp(name, m->scope, strlen(m->scope)) != 0) continue;
        lt_weight **found = bsearch(&at, sorted, n, sizeof(lt_weight *), by_data);
        unread += !found;
        if (!found && !m->unread) fail_msg("%s: %s is read by nothing", m->file, name);
        if (found) assert_int_equal(lt_tensor_bytes(&(*found)->tensor), lt_tensor_bytes(&key.tensor));
    }
    assert_int_equal(unread, m->unread);
    free(sorted);
}

/* The file of the manifest before is left where it is the same one, since its digest is remembered. */
static void check(const manifest *m, const manifest *before)
{
    static int n;
    const char *folder = in_folder("hollow"),
               *weights = in_folder("hollow/diffusion_pytorch_model.safetensors");
    char note[600];
    lt_denoiser *d;
    lt_err err = {0};
    mkdir(folder, 0700);
    if (!before || strcmp(before->file, m->file) != 0) {
        unlink(weights);
        n = hollow_write(m->file, m->prefixes, weights);
    }
    if (m->config) hollow_config(m->config, folder);
    must(
        lt_denoiser_open(&d, m->config ? folder : weights, m->as, LT_NUMERICS_AUTO, note, sizeof(note), &err),
        &err);
    const lt_denoiser_info *info = lt_denoiser_get_info(d);
    printf("%-42s %-36s %4d tensors, %s: %lld parameters\n", m->file,
           m->config ? m->config : "no configuration", n, info->name, (long long)info->n_parameters);
    if (note[0]) printf("    %s\n", note);
    assert_int_equal(info->kind, m->kind);
    assert_int_equal(info->n_parameters, m->n_parameters);
    assert_int_equal(info->context_width, m->context);
    assert_int_equal(info->pooled_width, m->pooled);
    assert_memory_equal(info->multiple, m->patch, sizeof(m->patch));
    assert_int_equal(info->single_frame, m->kind == PIC);
    assert_int_equal(info->size_ids, m->kind == PIC && strstr(m->file, "1024") != NULL);
    assert_true((note[0] != '\0') == (m->unread != 0));
    check_read(d, m);
    lt_denoiser_close(d, NULL);
    unlink(in_folder("hollow/config.json"));
}

static void real_manifests(void **state)
{
    for (size_t i = 0; i < LT_COUNT(manifests); i++) check(&manifests[i], i ? &manifests[i - 1] : NULL);
}

int main(void)
{
    return hollow_main(real_manifests, "real diffusion transformers", LT_COUNT(manifests));
}
