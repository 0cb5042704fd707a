/* vae_open.c - building a video VAE: which parameters it has, where they lie in the files. */
#include "models/vae_parts.h"

#include "kernels/convert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- the list of parameters ------------------------------------------------------------------------------------------ */

typedef struct builder {
    const vae_names *names;
    const vae_arch *arch;
    vae_half_id half;
    int number; /* of the next module, for numbered names */
    lt_parameter *list;
    int n, capacity;
    bool no_memory;
} builder;

static void add(builder *b, lt_weight *weight, const char *module, const char *leaf, bool matrix, int rank,
                const int64_t *shape)
{
    if (b->no_memory) return;
    if (b->n == b->capacity) {
        int capacity = b->capacity ? 2 * b->capacity : 256;
        lt_parameter *list = realloc(b->list, sizeof(*list) * (size_t)capacity);
        if (!list) {
            b->no_memory = true;
            return;
        }
        b->list = list;
        b->capacity = capacity;
    }
    lt_parameter *p = &b->list[b->n++];
    *p = (lt_parameter){.rank = rank, .matrix = matrix, .required = true, .weight = weight};
    snprintf(p->name, sizeof(p->name), "%s%s", module, leaf);
    memcpy(p->shape, shape, sizeof(*shape) * (size_t)rank);
}

/* module`.leaf`.weight and .bias; leaf "" where the module itself is the layer. */
static void add_affine(builder *b, vae_affine *a, const char *module, const char *leaf, bool matrix, int rank,
                       const int64_t *shape)
{
    char prefix[120];
    snprintf(prefix, sizeof(prefix), "%s%s%s", module, *leaf ? "." : "", leaf);
    add(b, &a->weight, prefix, ".weight", matrix, rank, shape);
    add(b, &a->bias, prefix, ".bias", false, 1, shape);
}

static void add_norm(builder *b, vae_affine *a, const char *module, const char *leaf, int channels)
{
    add_affine(b, a, module, leaf, false, 1, (int64_t[]){channels});
}

static void add_conv(builder *b, vae_affine *a, const char *module, const char *leaf, int in, int out,
                     int kernel)
{
    add_affine(b, a, module, leaf, false, 4, (int64_t[]){out, in, kernel, kernel});
}

/* A convolution over time, kernel 3. */
static void add_time_conv(builder *b, vae_affine *a, const char *module, const char *leaf, int channels)
{
    add_affine(b, a, module, leaf, false, 5, (int64_t[]){channels, channels, 3, 1, 1});
}

static void name_of(const builder *b, vae_module module, int level, int block, int number, char text[120])
{
    vae_module_name(b->names, b->half, module, level, b->arch->n_levels, block, number, text, 120);
}

static void add_resnet(builder *b, vae_resnet *r, const char *module, int in, int out, bool temporal)
{
    const char *const *leaf = temporal && *b->names->temporal_leaf ? b->names->temporal_leaf : b->names->leaf;
    add_norm(b, &r->norm1, module, leaf[VAE_NORM1], in);
    add_norm(b, &r->norm2, module, leaf[VAE_NORM2], out);
    if (temporal) {
        add_time_conv(b, &r->conv1, module, leaf[VAE_CONV1], out);
        add_time_conv(b, &r->conv2, module, leaf[VAE_CONV2], out);
        return;
    }
    add_conv(b, &r->conv1, module, leaf[VAE_CONV1], in, out, 3);
    add_conv(b, &r->conv2, module, leaf[VAE_CONV2], out, out, 3);
    r->has_shortcut = in != out;
    if (r->has_shortcut) add_conv(b, &r->shortcut, module, leaf[VAE_SHORTCUT], in, out, 1);
}

static void add_block(builder *b, vae_block *block, vae_module kind, int level, int index, int in, int out)
{
    char module[120], part[160];
    block->has_temporal = b->arch->temporal && b->half == VAE_DECODER;
    name_of(b, kind, level, index, b->number++, module);
    if (!block->has_temporal) {
        add_resnet(b, &block->spatial, module, in, out, false);
        return;
    }
    snprintf(part, sizeof(part), "%s%s", module, b->names->spatial);
    add_resnet(b, &block->spatial, part, in, out, false);
    if (b->names->numbered) name_of(b, kind, level, index, b->number++, module);
    snprintf(part, sizeof(part), "%s%s", module, b->names->temporal);
    add_resnet(b, &block->temporal, part, out, out, true);
    add(b, &block->mix, module, b->names->mix, false, 1, (int64_t[]){1});
}

static void add_attention(builder *b, vae_attention *a, int channels)
{
    char module[120];
    const char *const *leaf = b->names->leaf;
    int64_t shape[] = {channels, channels};
    name_of(b, VAE_MID_ATTN, 0, 0, b->number++, module);
    a->channels = channels;
    add_norm(b, &a->norm, module, leaf[VAE_ATTN_NORM], channels);
    add_affine(b, &a->q, module, leaf[VAE_ATTN_Q], true, 2, shape);
    add_affine(b, &a->k, module, leaf[VAE_ATTN_K], true, 2, shape);
    add_affine(b, &a->v, module, leaf[VAE_ATTN_V], true, 2, shape);
    add_affine(b, &a->out, module, leaf[VAE_ATTN_OUT], true, 2, shape);
}

static void add_middle(builder *b, vae_half *h, int channels, int n_mid)
{
    h->n_mid = n_mid;
    h->has_attention = b->arch->mid_attention;
    for (int i = 0; i < n_mid; i++) {
        add_block(b, &h->mid[i], VAE_MID_RES, 0, i, channels, channels);
        if (i == 0 && h->has_attention) add_attention(b, &h->attention, channels);
    }
}

/* One level: its residual blocks, and the sampler unless it is the last. */
static void add_level(builder *b, vae_half *h, int level, int in, int out, int n_blocks)
{
    vae_level *l = &h->levels[level];
    char module[120];
    l->n_blocks = n_blocks;
    for (int i = 0; i < n_blocks; i++) add_block(b, &l->blocks[i], VAE_RES, level, i, i ? out : in, out);
    l->has_sampler = level < h->n_levels - 1;
    if (!l->has_sampler) return;
    name_of(b, VAE_SAMPLER, level, 0, b->number++, module);
    add_conv(b, &l->sampler, module, "", out, out, 3);
}

static void add_ends(builder *b, vae_half *h, int in, int first, int last, int out)
{
    char module[120];
    name_of(b, VAE_CONV_IN, 0, 0, 0, module);
    add_conv(b, &h->conv_in, module, "", in, first, 3);
    name_of(b, VAE_NORM_OUT, 0, 0, 0, module);
    add_norm(b, &h->norm_out, module, "", last);
    name_of(b, VAE_CONV_OUT, 0, 0, 0, module);
    add_conv(b, &h->conv_out, module, "", last, out, 3);
}

static void add_encoder(builder *b, vae_half *h)
{
    const vae_arch *a = b->arch;
    int top = a->channels[a->n_levels - 1], moments = 2 * a->latent_channels;
    char module[120];
    h->n_levels = a->n_levels;
    for (int i = 0; i < a->n_levels; i++)
        add_level(b, h, i, a->channels[LT_MAX(i - 1, 0)], a->channels[i], a->layers);
    add_middle(b, h, top, 2);
    add_ends(b, h, a->in_channels, a->channels[0], top, moments);
    h->has_quant = a->quant;
    name_of(b, VAE_QUANT, 0, 0, 0, module);
    if (h->has_quant) add_conv(b, &h->quant, module, "", moments, moments, 1);
}

static void add_decoder(builder *b, vae_half *h)
{
    const vae_arch *a = b->arch;
    int n = a->n_levels, top = a->channels[n - 1];
    char module[120];
    h->n_levels = n;
    add_middle(b, h, top, a->temporal ? a->n_mid : 2);
    for (int i = 0; i < n; i++)
        add_level(b, h, i, a->channels[LT_MIN(n - i, n - 1)], a->channels[n - 1 - i], a->layers + 1);
    add_ends(b, h, a->latent_channels, top, a->channels[0], a->out_channels);
    h->has_quant = a->post_quant;
    name_of(b, VAE_QUANT, 0, 0, 0, module);
    if (h->has_quant) add_conv(b, &h->quant, module, "", a->latent_channels, a->latent_channels, 1);
    h->has_time_conv = a->temporal;
    name_of(b, VAE_TIME_CONV, 0, 0, 0, module);
    if (h->has_time_conv) add_time_conv(b, &h->time_conv, module, "", a->out_channels);
}

/* ---- opening --------------------------------------------------------------------------------------------------------- */

static void set_numerics(lt_vae *vae, lt_numerics numerics)
{
    bool lite_sora = numerics == LT_NUMERICS_LITE_SORA;
    vae->info.numerics = numerics;
    vae->halves[VAE_ENCODER].norm_out_eps = VAE_EPS;
    vae->halves[VAE_DECODER].norm_out_eps = lite_sora ? 1e-5 : VAE_EPS;
    vae->halves[VAE_DECODER].temporal_eps = lite_sora ? VAE_EPS : 1e-5;
}

static void read_mix(vae_block *block)
{
    if (!block->has_temporal || !block->mix.tensor.data) return;
    block->alpha = 1.0 / (1.0 + exp(-lt_load_f64(block->mix.tensor.data, block->mix.tensor.dtype, 0)));
}

static void read_mixes(vae_half *h)
{
    for (int i = 0; i < h->n_mid; i++) read_mix(&h->mid[i]);
    for (int i = 0; i < h->n_levels; i++)
        for (int j = 0; j < h->levels[i].n_blocks; j++) read_mix(&h->levels[i].blocks[j]);
}

static lt_status check_halves(const vae_names *names, unsigned halves, int parts, const char *path,
                              lt_err *err)
{
    if ((parts & LT_VAE_ENCODER) && !(halves & 1u << VAE_ENCODER))
        return lt_fail(err, LT_E_NOT_FOUND, "%s: no encoder in it, only a decoder under %s", path,
                       names->label);
    if ((parts & LT_VAE_DECODER) && !(halves & 1u << VAE_DECODER))
        return lt_fail(err, LT_E_NOT_FOUND, "%s: no decoder in it, only an encoder under %s", path,
                       names->label);
    return LT_OK;
}

static void add_half(builder *b, vae_half *h, vae_half_id half)
{
    h->first_weight = b->n;
    b->half = half;
    b->number = 0;
    if (half == VAE_ENCODER)
        add_encoder(b, h);
    else
        add_decoder(b, h);
    h->n_weights = b->n - h->first_weight;
    for (int i = h->first_weight; i < b->n; i++) {
        int64_t n = 0;
        lt_product_i64(b->list[i].shape, b->list[i].rank, &n);
        h->n_parameters += n;
    }
}

/* What all names of a half begin with: those of its modules, to the first point behind the scope, and of its quant convolution. */
static void half_prefixes(const vae_names *names, vae_half_id half, char prefixes[2][64])
{
    const char *module = names->module[half][VAE_CONV_IN];
    size_t scope = strlen(names->scope), n = scope + strcspn(module + scope, ".");
    snprintf(prefixes[0], 64, "%.*s.", (int)n, module);
    snprintf(prefixes[1], 64, "%s.", names->module[half][VAE_QUANT]);
}

/* Bind the wanted halves; whatever stands under the other's names is none of theirs. */
static lt_status bind(lt_vae *vae, const vae_names *names, int parts, lt_err *err)
{
    enum { MAX_IGNORED = 8 };
    builder b = {.names = names, .arch = &vae->arch};
    const char *ignored[MAX_IGNORED + 1] = {NULL};
    char prefixes[VAE_N_HALVES][2][64];
    int n_ignored = 0;
    for (; names->ignored && names->ignored[n_ignored]; n_ignored++)
        ignored[n_ignored] = names->ignored[n_ignored];
    for (int half = 0; half < VAE_N_HALVES; half++) {
        vae_half *h = &vae->halves[half];
        h->open = parts & (half == VAE_ENCODER ? LT_VAE_ENCODER : LT_VAE_DECODER);
        if (h->open) add_half(&b, h, half);
        if (h->open || names->one_half) continue;
        half_prefixes(names, half, prefixes[half]);
        for (int i = 0; i < 2 && n_ignored < MAX_IGNORED; i++) ignored[n_ignored++] = prefixes[half][i];
    }
    const char *path = lt_checkpoint_path(vae->checkpoint);
    lt_status status = b.no_memory
                           ? lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path)
                           : lt_checkpoint_take(vae->checkpoint, b.list, b.n, names->scope, ignored, err);
    vae->weights = status == LT_OK ? malloc(sizeof(*vae->weights) * (size_t)LT_MAX(b.n, 1)) : NULL;
    if (status == LT_OK && !vae->weights) status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    for (int i = 0; status == LT_OK && i < b.n; i++) vae->weights[vae->n_weights++] = b.list[i].weight;
    free(b.list);
    for (int half = 0; half < VAE_N_HALVES; half++) read_mixes(&vae->halves[half]);
    return status;
}

static void fill_info(lt_vae *vae)
{
    lt_vae_info *info = &vae->info;
    vae->group_pixels = VAE_GROUP_PIXELS;
    info->temporal = vae->arch.temporal;
    info->has_encoder = vae->halves[VAE_ENCODER].open;
    info->has_decoder = vae->halves[VAE_DECODER].open;
    info->latent_channels = vae->arch.latent_channels;
    info->factor = 1 << (vae->arch.n_levels - 1);
    info->factor_told = vae->arch.factor_told;
    info->scaling_factor = !info->factor_told && info->numerics == LT_NUMERICS_LITE_SORA
                               ? VAE_SCALING_FACTOR
                               : vae->arch.scaling_factor;
    info->weight_bytes = lt_checkpoint_bytes(vae->checkpoint);
    for (int half = 0; half < VAE_N_HALVES; half++)
        if (vae->halves[half].open) info->n_parameters += vae->halves[half].n_parameters;
    snprintf(info->digest, sizeof(info->digest), "%s", lt_checkpoint_digest(vae->checkpoint));
}

/* A pipeline's folder holds its VAE in a folder of that name. */
static bool pipeline_vae(const char *path, char *inner, size_t bytes)
{
    struct stat info;
    if ((size_t)snprintf(inner, bytes, "%s/config.json", path) >= bytes || stat(inner, &info) == 0)
        return false;
    if ((size_t)snprintf(inner, bytes, "%s/vae/config.json", path) >= bytes || stat(inner, &info) != 0)
        return false;
    snprintf(inner, bytes, "%s/vae", path);
    return true;
}

static lt_status open_vae(lt_vae *vae, const char *path, int parts, lt_numerics numerics, lt_err *err)
{
    char inner[4096];
    lt_status status =
        lt_checkpoint_open(&vae->checkpoint, pipeline_vae(path, inner, sizeof(inner)) ? inner : path, err);
    if (status != LT_OK) return status;
    unsigned halves;
    const vae_names *names = vae_names_of(vae->checkpoint, &halves);
    if (!names)
        return lt_fail(
            err, LT_E_UNSUPPORTED,
            "%s: no video VAE: none of its %d tensors has a name that diffusers, lite-sora or ldm give", path,
            lt_checkpoint_count(vae->checkpoint));
    status = check_halves(names, halves, parts, path, err);
    unsigned wanted =
        (parts & LT_VAE_ENCODER ? 1u << VAE_ENCODER : 0) | (parts & LT_VAE_DECODER ? 1u << VAE_DECODER : 0);
    if (status == LT_OK) status = vae_arch_read(&vae->arch, vae->checkpoint, names, halves, wanted, err);
    if (status == LT_OK && vae->arch.temporal && !names->mix)
        status = lt_fail(err, LT_E_UNSUPPORTED, "%s: a temporal decoder under %s", path, names->label);
    if (status == LT_OK) status = bind(vae, names, parts, err);
    if (status != LT_OK) return status;
    set_numerics(vae, numerics == LT_NUMERICS_AUTO ? names->numerics : numerics);
    fill_info(vae);
    return LT_OK;
}

lt_status lt_vae_open(lt_vae **vae, const char *path, int parts, lt_numerics numerics, lt_err *err)
{
    *vae = NULL;
    lt_vae *v = calloc(1, sizeof(*v));
    if (!v) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    lt_status status = open_vae(v, path, parts, numerics, err);
    if (status != LT_OK) {
        lt_vae_close(v, NULL);
        return status;
    }
    *vae = v;
    return LT_OK;
}

void lt_vae_close(lt_vae *vae, lt_context *context)
{
    if (!vae) return;
    for (int i = 0; context && i < vae->n_weights; i++) lt_weight_finish(context, vae->weights[i]);
    lt_checkpoint_close(vae->checkpoint);
    free(vae->weights);
    free(vae);
}

const lt_vae_info *lt_vae_get_info(const lt_vae *vae)
{
    return &vae->info;
}
