/* test_manifests.c - every name and shape of real VAEs is known, and every parameter has the values of the tensor of the right
 * name. The files are made at their real size, each tensor of the VAE filled from a hash of its name; other models in the
 * same file are holes. Without the manifests (LT_SHARED_DIR) the test says what it skipped. */
#include "models/vae_parts.h"
#include "tests/models/support.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* How the names of a file follow from diffusers' of today. */
typedef enum {
    AS_THEY_ARE,
    BEFORE_0_17, /* attention's */
    SINGLE_FILE, /* name_maps.json */
    LITE_SORA,   /* name_maps.json */
    LITE_SORA_SVD
} naming;

typedef struct manifest {
    const char *file, *config; /* config: under configs/, NULL: none */
    naming naming;
    int parts;
    bool temporal;
    lt_numerics numerics;
    int64_t n_parameters; /* of the parts */
} manifest;

#define BOTH (LT_VAE_ENCODER | LT_VAE_DECODER)
#define DIFF LT_NUMERICS_DIFFUSERS
#define LITE LT_NUMERICS_LITE_SORA

static const manifest manifests[] = {
    {"svd_vae.json", "svd/vae/config.json", AS_THEY_ARE, BOTH, true, DIFF, 97742847},
    {"svd_vae.json", NULL, AS_THEY_ARE, BOTH, true, DIFF, 97742847},
    {"sd_vae_diffusers_new.json", "sdxl/vae/config.json", AS_THEY_ARE, BOTH, false, DIFF, 83653863},
    {"sd_vae_diffusers_new.json", NULL, AS_THEY_ARE, LT_VAE_DECODER, false, DIFF, 49490199},
    {"sd_vae_diffusers_old.json", "sd15/vae/config.json", BEFORE_0_17, BOTH, false, DIFF, 83653863},
    {"sdxl_single_file.json", NULL, SINGLE_FILE, BOTH, false, DIFF, 83653863},
    {"lite_sora_sd_vae_encoder.json", NULL, LITE_SORA, LT_VAE_ENCODER, false, LITE, 34163664},
    {"lite_sora_sd_vae_decoder.json", NULL, LITE_SORA, LT_VAE_DECODER, false, LITE, 49490199},
    {"lite_sora_svd_vae_decoder.json", NULL, LITE_SORA_SVD, LT_VAE_DECODER, true, LITE, 63579183},
};

/* ---- the name that a parameter should have in the file -------------------------------------------------------------------- */

typedef struct tracer {
    const manifest *m;
    const json_t *map; /* of name_maps.json: single-file names to the others */
    int number;        /* LITE_SORA_SVD: modules so far */
    int n_checked;
} tracer;

static void replace_part(char *name, size_t bytes, const char *from, const char *to)
{
    char *at = strstr(name, from), rest[120];
    if (!at) return;
    snprintf(rest, sizeof(rest), "%s", at + strlen(from));
    snprintf(at, bytes - (size_t)(at - name), "%s%s", to, rest);
}

static void look_up(const tracer *t, char *name, size_t bytes)
{
    const char *single;
    json_t *others;
    json_object_foreach((json_t *)t->map, single, others)
    {
        if (strcmp(json_string_value(json_object_get(others, "diffusers")), name) != 0) continue;
        bool lite = t->m->naming == LITE_SORA;
        snprintf(name, bytes, "%s", lite ? json_string_value(json_object_get(others, "lite_sora")) : single);
        return;
    }
    fail_msg("%s is not in name_maps.json", name);
}

/* lite-sora's SVD decoder stands in one list: spatial, temporal, attention, samplers, as they are executed. */
static void number_svd(const tracer *t, char *name, size_t bytes)
{
    char module[24], leaf[60] = "";
    const char *block = strstr(name, "_blocks."), *mid = strstr(name, "mid_block.");
    replace_part(name, bytes, "decoder.", "");
    if (!block && !mid) return;
    const char *last = strrchr(name, '.');
    const char *before = last;
    while (before > name && before[-1] != '.') before--;
    snprintf(leaf, sizeof(leaf), "%s", strstr(name, "mix_factor") ? "mix_factor" : before);
    snprintf(module, sizeof(module), "blocks.%d.", t->number);
    if (strstr(name, "attentions")) {
        const char *what = strstr(name, "group_norm") ? "norm" : "transformer_blocks.0";
        const char *rest = strstr(name, "to_") ? strstr(name, "to_") : last + 1;
        snprintf(leaf, sizeof(leaf), "%s.%s", what, rest);
        replace_part(leaf, sizeof(leaf), "to_out.0", "to_out");
    }
    snprintf(name, bytes, "%s%s", module, leaf);
}

/* diffusers' name of today to the file's. */
static void name_in_file(const tracer *t, char *name, size_t bytes)
{
    static const char *const pairs[][2] = {
        {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}};
    switch (t->m->naming) {
    case AS_THEY_ARE: break;
    case BEFORE_0_17:
        for (size_t i = 0; i < LT_COUNT(pairs); i++) replace_part(name, bytes, pairs[i][0], pairs[i][1]);
        break;
    case SINGLE_FILE:
    case LITE_SORA: look_up(t, name, bytes); break;
    case LITE_SORA_SVD: number_svd(t, name, bytes); break;
    }
}

/* ---- all parameters, by their place in the network ------------------------------------------------------------------------ */

__attribute__((format(printf, 3, 4))) static void trace(tracer *t, const lt_weight *w, const char *format,
                                                        ...)
{
    char name[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof(name), format, arguments);
    va_end(arguments);
    char wanted[200];
    snprintf(wanted, sizeof(wanted), "%s", name);
    name_in_file(t, wanted, sizeof(wanted));
    assert_int_equal(w->tensor.dtype, LT_F16);
    const unsigned char *data = w->tensor.data; /* at any address */
    int64_t n = lt_n_elements(&w->tensor), step = LT_MAX(n / 1000, 1);
    for (int64_t i = 0; i < n; i = i == n - 1 ? n : LT_MIN(i + step, n - 1)) {
        uint16_t value;
        memcpy(&value, data + 2 * i, 2);
        if (value != hollow_value(wanted, i)) fail_msg("%s: not the values of %s", name, wanted);
    }
    t->n_checked++;
}

static void affine(tracer *t, const vae_affine *a, const char *name)
{
    trace(t, &a->weight, "%s.weight", name);
    trace(t, &a->bias, "%s.bias", name);
}

static void part_of(tracer *t, const vae_affine *a, const char *module, const char *part)
{
    char name[160];
    snprintf(name, sizeof(name), "%s.%s", module, part);
    affine(t, a, name);
}

static void resnet(tracer *t, const vae_resnet *r, const char *module)
{
    part_of(t, &r->norm1, module, "norm1");
    part_of(t, &r->conv1, module, "conv1");
    part_of(t, &r->norm2, module, "norm2");
    part_of(t, &r->conv2, module, "conv2");
    if (r->has_shortcut) part_of(t, &r->shortcut, module, "conv_shortcut");
    t->number++;
}

static void block(tracer *t, const vae_block *b, const char *module)
{
    char name[160];
    snprintf(name, sizeof(name), "%s%s", module, b->has_temporal ? ".spatial_res_block" : "");
    resnet(t, &b->spatial, name);
    if (!b->has_temporal) return;
    trace(t, &b->mix, "%s.time_mixer.mix_factor", module);
    snprintf(name, sizeof(name), "%s.temporal_res_block", module);
    resnet(t, &b->temporal, name);
}

static void middle(tracer *t, const vae_half *h, const char *half)
{
    static const char *const parts[] = {"group_norm", "to_q", "to_k", "to_v", "to_out.0"};
    const vae_attention *a = &h->attention;
    const vae_affine *const of[] = {&a->norm, &a->q, &a->k, &a->v, &a->out};
    char name[160];
    for (int i = 0; i < h->n_mid; i++) {
        snprintf(name, sizeof(name), "%s.mid_block.resnets.%d", half, i);
        block(t, &h->mid[i], name);
        snprintf(name, sizeof(name), "%s.mid_block.attentions.0", half);
        for (int j = 0; i == 0 && j < 5; j++) part_of(t, of[j], name, parts[j]);
        t->number += i == 0;
    }
}

static void levels(tracer *t, const vae_half *h, const char *half, const char *way)
{
    char name[160];
    for (int i = 0; i < h->n_levels; i++) {
        for (int j = 0; j < h->levels[i].n_blocks; j++) {
            snprintf(name, sizeof(name), "%s.%s_blocks.%d.resnets.%d", half, way, i, j);
            block(t, &h->levels[i].blocks[j], name);
        }
        if (!h->levels[i].has_sampler) continue;
        snprintf(name, sizeof(name), "%s.%s_blocks.%d.%ssamplers.0.conv", half, way, i, way);
        affine(t, &h->levels[i].sampler, name);
        t->number++;
    }
}

static void trace_half(tracer *t, const vae_half *h, bool encoder)
{
    const char *half = encoder ? "encoder" : "decoder";
    if (!h->open) return;
    t->number = 0;
    part_of(t, &h->conv_in, half, "conv_in");
    if (encoder) levels(t, h, half, "down");
    middle(t, h, half);
    if (!encoder) levels(t, h, half, "up");
    part_of(t, &h->norm_out, half, "conv_norm_out");
    part_of(t, &h->conv_out, half, "conv_out");
    if (h->has_time_conv) part_of(t, &h->time_conv, half, "time_conv_out");
    if (h->has_quant) affine(t, &h->quant, encoder ? "quant_conv" : "post_quant_conv");
}

/* ---- the manifests ------------------------------------------------------------------------------------------------------ */

static void check_info(const lt_vae_info *info, const manifest *m)
{
    assert_int_equal(info->temporal, m->temporal);
    assert_int_equal(info->numerics, m->numerics);
    assert_int_equal(info->n_parameters, m->n_parameters);
    assert_int_equal(info->factor, 8);
}

static void check(const manifest *m, const json_t *map)
{
    const char *folder = in_folder("hollow");
    mkdir(folder, 0700);
    const char *weights = in_folder("hollow/diffusion_pytorch_model.fp16.safetensors");
    int n = hollow_write(m->file, NULL, weights);
    hollow_fill(weights, m->naming == SINGLE_FILE ? "first_stage_model." : "");
    if (m->config) hollow_config(m->config, folder);
    lt_vae *vae = open_vae(m->config ? folder : weights, m->parts, LT_NUMERICS_AUTO);
    check_info(lt_vae_get_info(vae), m);
    tracer t = {.m = m, .map = map};
    for (int half = 0; half < VAE_N_HALVES; half++) trace_half(&t, &vae->halves[half], half == VAE_ENCODER);
    int bound = 0;
    for (int half = 0; half < VAE_N_HALVES; half++)
        if (vae->halves[half].open) bound += vae->halves[half].n_weights;
    assert_int_equal(t.n_checked, bound);
    if (m->parts == BOTH && m->naming != SINGLE_FILE) assert_int_equal(bound, n);
    printf("%-32s %-22s %d tensors, %d of them the values of %lld parameters\n", m->file,
           m->config ? m->config : "no configuration", n, bound, (long long)m->n_parameters);
    lt_vae_close(vae, NULL);
    unlink(weights);
    unlink(in_folder("hollow/config.json"));
}

static void real_manifests(void **state)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/models/name_maps.json", LT_SHARED);
    json_t *root = json_load_file(path, 0, NULL);
    const json_t *map = json_object_get(root, "vae");
    assert_int_equal(json_object_size(map), 248);
    for (size_t i = 0; i < LT_COUNT(manifests); i++) check(&manifests[i], map);
    json_decref(root);
}

int main(void)
{
    return hollow_main(real_manifests, "real checkpoints", LT_COUNT(manifests));
}
