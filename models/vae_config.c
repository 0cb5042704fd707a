/* vae_config.c - the architecture of a video VAE, from its config.json or from the names and shapes of its tensors. */
#include "models/config.h"
#include "models/vae_parts.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define SDXL_SCALING_FACTOR 0.13025

/* ---- config.json --------------------------------------------------------------------------------------------------- */

static void read_channels(config_reader *r, vae_arch *arch)
{
    const json_t *list = json_object_get(r->root, "block_out_channels");
    if (r->status != LT_OK) return;
    size_t n = json_array_size(list);
    bool good = json_is_array(list) && n >= 1 && n <= VAE_MAX_LEVELS;
    for (size_t i = 0; good && i < n; i++) {
        const json_t *value = json_array_get(list, i);
        json_int_t number = json_integer_value(value);
        good = json_is_integer(value) && number >= 1 && number <= 16384;
        arch->channels[i] = (int)number;
    }
    arch->n_levels = (int)n;
    if (!good)
        config_fail(r, LT_E_UNSUPPORTED, "\"block_out_channels\" must list 1 to %d widths", VAE_MAX_LEVELS);
}

/* Every entry of the list `key` must be `wanted`; the list may be absent. */
static void check_types(config_reader *r, const char *key, const char *wanted)
{
    const json_t *list = json_object_get(r->root, key);
    for (size_t i = 0; r->status == LT_OK && i < json_array_size(list); i++) {
        const char *type = json_string_value(json_array_get(list, i));
        if (!type || strcmp(type, wanted) != 0)
            config_fail(r, LT_E_UNSUPPORTED, "\"%s\" has a %.60s; only %s is known", key,
                        type ? type : "nameless block", wanted);
    }
}

static void check_text(config_reader *r, const char *key, const char *wanted)
{
    const json_t *value = json_object_get(r->root, key);
    if (r->status != LT_OK || !value || json_is_null(value)) return;
    const char *text = json_string_value(value);
    if (!text || strcmp(text, wanted) != 0)
        config_fail(r, LT_E_UNSUPPORTED, "\"%s\" is %.60s; only \"%s\" is known", key,
                    text ? text : "no text", wanted);
}

static void read_class(config_reader *r, vae_arch *arch)
{
    const char *name = json_string_value(json_object_get(r->root, "_class_name"));
    if (name && strcmp(name, "AutoencoderKLTemporalDecoder") == 0)
        arch->temporal = true;
    else if (!name || strcmp(name, "AutoencoderKL") != 0)
        config_fail(r, LT_E_UNSUPPORTED,
                    "\"_class_name\" is %.80s; a video VAE is an AutoencoderKL or an "
                    "AutoencoderKLTemporalDecoder",
                    name ? name : "absent");
}

/* How a denoiser's latents come from these. Where it is by a shift, too (SD3, Flux), nothing here could say so to whom they
 * are given: better none than wrong ones. */
static void read_scaling(config_reader *r, vae_arch *arch)
{
    double shift = config_double(r, "shift_factor", 0);
    if (shift != 0)
        config_fail(
            r, LT_E_UNSUPPORTED,
            "\"shift_factor\" is %g, as of SD3 and Flux; only latents that are scaled alone are known",
            shift);
    double factor = config_double(r, "scaling_factor", 0);
    arch->factor_told = json_is_number(json_object_get(r->root, "scaling_factor"));
    if (!arch->factor_told) return;
    arch->scaling_factor = factor;
    if (!(factor > 0)) config_fail(r, LT_E_FORMAT, "\"scaling_factor\" must be above 0");
}

static lt_status from_config(vae_arch *arch, const char *text, const char *path, lt_err *err)
{
    config_reader r;
    config_open(&r, text, path, err);
    if (r.status == LT_OK) read_class(&r, arch);
    read_channels(&r, arch);
    check_types(&r, "down_block_types", "DownEncoderBlock2D");
    if (!arch->temporal) {
        check_types(&r, "up_block_types", "UpDecoderBlock2D");
        check_text(&r, "act_fn", "silu");
        arch->groups = config_int(&r, "norm_num_groups", 32, 1, 16384);
        arch->quant = config_bool(&r, "use_quant_conv", true);
        arch->post_quant = config_bool(&r, "use_post_quant_conv", true);
        arch->mid_attention = config_bool(&r, "mid_block_add_attention", true);
    }
    arch->layers = config_int(&r, "layers_per_block", 1, 1, VAE_MAX_LAYERS);
    arch->n_mid = arch->temporal ? arch->layers : 2;
    arch->in_channels = config_int(&r, "in_channels", 3, 1, 64);
    arch->out_channels = config_int(&r, "out_channels", 3, 1, 64);
    arch->latent_channels = config_int(&r, "latent_channels", 4, 1, 1024);
    read_scaling(&r, arch);
    config_close(&r);
    return r.status;
}

/* ---- names and shapes ------------------------------------------------------------------------------------------------ */

typedef struct prober {
    const lt_checkpoint *checkpoint;
    const vae_names *names;
    vae_half_id half;
} prober;

/* Dimension `axis` of tensor `module``suffix`, 0 where there is none. Levels are counted as {i} or {r} has them. */
static int64_t probe(const prober *p, vae_module module, int level, int block, int number, const char *suffix,
                     int axis)
{
    char name[160];
    bool backward = p->names->module[p->half][module] && strstr(p->names->module[p->half][module], "{r}");
    vae_module_name(p->names, p->half, module, backward ? 0 : level, level + 1, block, number, name,
                    sizeof(name));
    size_t n = strlen(name);
    snprintf(name + n, sizeof(name) - n, "%s", suffix);
    lt_tensor t = lt_checkpoint_find(p->checkpoint, name);
    return t.data && axis < t.rank ? t.shape[axis] : 0;
}

/* Levels and layers where modules have names of their own. */
static void infer_named(vae_arch *arch, const prober *p)
{
    char first[80];
    snprintf(first, sizeof(first), "%s.conv1.weight",
             arch->temporal && p->half == VAE_DECODER ? p->names->spatial : "");
    int n = 0, layers = 0, mid = 0;
    while (n < VAE_MAX_LEVELS && probe(p, VAE_RES, n, 0, 0, first, 0)) {
        arch->channels[n] = (int)probe(p, VAE_RES, n, 0, 0, first, 0);
        n++;
    }
    while (layers <= VAE_MAX_LAYERS && probe(p, VAE_RES, 0, layers, 0, first, 0)) layers++;
    while (mid < VAE_MAX_LAYERS && probe(p, VAE_MID_RES, 0, mid, 0, first, 0)) mid++;
    arch->n_levels = n;
    arch->layers = layers - (p->half == VAE_DECODER);
    if (p->half == VAE_DECODER) arch->n_mid = mid;
    const char *res = p->names->module[p->half][VAE_RES];
    if (p->half == VAE_DECODER && !strstr(res, "{r}")) {
        for (int i = 0; i < n / 2; i++) {
            int swap = arch->channels[i];
            arch->channels[i] = arch->channels[n - 1 - i];
            arch->channels[n - 1 - i] = swap;
        }
    }
}

/* Levels and layers where modules are numbered: samplers end levels. */
static void infer_numbered(vae_arch *arch, const prober *p)
{
    int widths[VAE_MAX_LEVELS] = {0}, n = 0, spatial = 0, first = 0;
    for (int number = 0; number < 4 * VAE_MAX_LEVELS * VAE_MAX_LAYERS; number++) {
        int64_t width = probe(p, VAE_RES, 0, 0, number, ".conv1.weight", 0);
        if (width) {
            bool temporal = probe(p, VAE_RES, 0, 0, number, ".mix_factor", 0) != 0;
            spatial += !temporal;
            if (n < VAE_MAX_LEVELS) widths[n] = (int)width;
        } else if (probe(p, VAE_SAMPLER, 0, 0, number, ".weight", 0)) {
            if (n++ == 0) first = spatial;
            if (n == VAE_MAX_LEVELS) break;
        } else if (!probe(p, VAE_RES, 0, 0, number, ".norm.weight", 0)) {
            break;
        }
    }
    arch->n_levels = LT_MIN(n + 1, VAE_MAX_LEVELS);
    if (n == 0) first = spatial;
    arch->n_mid = 2;
    arch->layers = p->half == VAE_DECODER ? first - 3 : n == 0 ? first - 2 : first;
    for (int i = 0; i < arch->n_levels; i++)
        arch->channels[i] = widths[p->half == VAE_DECODER ? arch->n_levels - 1 - i : i];
}

/* Text encoders of SDXL, or its refiner, in the same file. */
static bool beside_sdxl(const lt_checkpoint *checkpoint)
{
    return lt_checkpoint_find(checkpoint, "conditioner.embedders.1.model.ln_final.weight").data ||
           lt_checkpoint_find(checkpoint, "conditioner.embedders.0.model.ln_final.weight").data;
}

static void infer(vae_arch *arch, const lt_checkpoint *checkpoint, const vae_names *names, unsigned halves)
{
    if (beside_sdxl(checkpoint)) arch->scaling_factor = SDXL_SCALING_FACTOR;
    const prober encoder = {checkpoint, names, VAE_ENCODER}, decoder = {checkpoint, names, VAE_DECODER};
    bool has_encoder = halves & 1u << VAE_ENCODER, has_decoder = halves & 1u << VAE_DECODER;
    const prober *p = has_decoder ? &decoder : &encoder;
    arch->temporal = has_decoder && probe(&decoder, VAE_TIME_CONV, 0, 0, 0, ".weight", 0);
    if (names->numbered)
        infer_numbered(arch, p);
    else
        infer_named(arch, p);
    if (has_decoder) {
        arch->latent_channels = (int)probe(&decoder, VAE_CONV_IN, 0, 0, 0, ".weight", 1);
        arch->out_channels = (int)probe(&decoder, VAE_CONV_OUT, 0, 0, 0, ".weight", 0);
        arch->post_quant = probe(&decoder, VAE_QUANT, 0, 0, 0, ".weight", 0);
    }
    if (has_encoder) {
        arch->latent_channels = (int)probe(&encoder, VAE_CONV_OUT, 0, 0, 0, ".weight", 0) / 2;
        arch->in_channels = (int)probe(&encoder, VAE_CONV_IN, 0, 0, 0, ".weight", 1);
        arch->quant = probe(&encoder, VAE_QUANT, 0, 0, 0, ".weight", 0);
    }
}

/* ---- both ------------------------------------------------------------------------------------------------------------ */

static lt_status check(const vae_arch *arch, const char *path, lt_err *err)
{
    bool good = arch->n_levels >= 1 && arch->layers >= 1 && arch->layers <= VAE_MAX_LAYERS &&
                arch->n_mid >= 1 && arch->latent_channels >= 1 && arch->in_channels >= 1 &&
                arch->out_channels >= 1;
    for (int i = 0; good && i < arch->n_levels; i++) good = arch->channels[i] >= 1;
    if (!good)
        return lt_fail(
            err, LT_E_UNSUPPORTED,
            "%s: no architecture of a video VAE can be read from the tensors' names and shapes; put its "
            "config.json beside the file and give the folder",
            path);
    for (int i = 0; i < arch->n_levels; i++)
        if (arch->channels[i] % arch->groups)
            return lt_fail(err, LT_E_UNSUPPORTED, "%s: a width of %d channels does not divide into %d groups",
                           path, arch->channels[i], arch->groups);
    if (arch->in_channels != 3 || arch->out_channels != 3)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: a picture of %d channels in, %d out; video has 3", path,
                       arch->in_channels, arch->out_channels);
    return LT_OK;
}

lt_status vae_arch_read(vae_arch *arch, const lt_checkpoint *checkpoint, const vae_names *names,
                        unsigned halves, unsigned wanted, lt_err *err)
{
    *arch = (vae_arch){.groups = 32,
                       .n_mid = 2,
                       .in_channels = 3,
                       .out_channels = 3,
                       .mid_attention = true,
                       .quant = true,
                       .scaling_factor = VAE_SCALING_FACTOR,
                       .halves = halves};
    const char *path = NULL, *text = lt_checkpoint_config(checkpoint, &path);
    if (text) {
        lt_status status = from_config(arch, text, path, err);
        if (status != LT_OK) return status;
    } else {
        path = lt_checkpoint_path(checkpoint);
        infer(arch, checkpoint, names, halves & wanted);
    }
    if (!arch->factor_told && arch->latent_channels != 4)
        return lt_fail(
            err, LT_E_UNSUPPORTED,
            "%s: latents of %d channels, and no \"scaling_factor\" is told, which is known of 4 channels "
            "alone; open the VAE's folder, with a config.json that tells it",
            path, arch->latent_channels);
    return check(arch, path, err);
}
