/* denoiser_sdxl3d_open.c - building SDXL3DUNet: which parameters it has, where they lie in the files. */
#include "models/denoiser_sdxl3d.h"

#include <stdio.h>

/* ---- the list of parameters ---------------------------------------------------------------------------------------- */

typedef struct builder {
    denoiser_builder list;
    lt_arena *arena;
    const sdxl3d_names *names;
    const sdxl3d_arch *arch;
} builder;

static void add_affine(builder *b, denoiser_affine *a, const char *module, const char *leaf, int rank,
                       const int64_t *shape)
{
    const char *dot = *leaf ? "." : "";
    lt_parameter *p = denoiser_add(&b->list, &a->weight, rank, shape, "%s%s%s.weight", module, dot, leaf);
    if (p) p->matrix = rank == 2;
    denoiser_add(&b->list, &a->bias, 1, shape, "%s%s%s.bias", module, dot, leaf);
}

static void add_norm(builder *b, denoiser_affine *a, const char *module, const char *leaf, int width)
{
    add_affine(b, a, module, leaf, 1, (int64_t[]){width});
}

static void add_linear(builder *b, denoiser_affine *a, const char *module, const char *leaf, int in, int out)
{
    add_affine(b, a, module, leaf, 2, (int64_t[]){out, in});
}

static void add_conv(builder *b, denoiser_affine *a, const char *module, const char *leaf, int in, int out,
                     int kernel)
{
    add_affine(b, a, module, leaf, b->arch->flat ? 4 : 5, (int64_t[]){out, in, kernel, kernel, kernel});
}

static void name_of(const builder *b, sdxl3d_module module, int level, int block, char text[100])
{
    sdxl3d_module_name(b->names, b->arch, module, level, block, text, 100);
}

static void add_resnet(builder *b, sdxl3d_resnet *r, sdxl3d_module module, int level, int block, int in,
                       int out)
{
    const char *const *leaf = b->names->leaf;
    char name[100];
    name_of(b, module, level, block, name);
    add_norm(b, &r->norm1, name, leaf[SDXL3D_NORM1], in);
    add_conv(b, &r->conv1, name, leaf[SDXL3D_CONV1], in, out, 3);
    add_linear(b, &r->time, name, leaf[SDXL3D_TIME], b->arch->time_width, out);
    add_norm(b, &r->norm2, name, leaf[SDXL3D_NORM2], out);
    add_conv(b, &r->conv2, name, leaf[SDXL3D_CONV2], out, out, 3);
    r->has_shortcut = in != out;
    if (r->has_shortcut) add_conv(b, &r->shortcut, name, leaf[SDXL3D_SHORTCUT], in, out, 1);
}

static void add_projections(builder *b, sdxl3d_projections *p, const char *layer, const char *which,
                            int width, int from)
{
    denoiser_affine *of[] = {&p->q, &p->k, &p->v};
    static const char *const leaf[] = {"to_q", "to_k", "to_v"};
    char name[120];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "%s.%s.%s", layer, which, leaf[i]);
        denoiser_add_linear(&b->list, of[i], name, i ? from : width, width, false);
    }
    snprintf(name, sizeof(name), "%s.%s", layer, which);
    add_linear(b, &p->out, name, b->names->leaf[SDXL3D_OUT], width, width);
}

static void add_layer(builder *b, sdxl3d_layer *l, const char *name, int width)
{
    add_norm(b, &l->norm1, name, "norm1", width);
    add_projections(b, &l->self, name, "attn1", width, width);
    add_norm(b, &l->norm2, name, "norm2", width);
    add_projections(b, &l->cross, name, "attn2", width, b->arch->context_width);
    add_norm(b, &l->norm3, name, "norm3", width);
    add_linear(b, &l->gate, name, b->names->leaf[SDXL3D_GATE], width, 8 * width);
    add_linear(b, &l->ff, name, b->names->leaf[SDXL3D_FF], 4 * width, width);
}

static void add_attention(builder *b, sdxl3d_attention *a, sdxl3d_module module, int level, int block,
                          int depth)
{
    int width = b->arch->channels[level];
    char name[100], layer[100];
    if (depth == 0) return;
    a->heads = b->arch->heads[level];
    a->joint = level == b->arch->n_levels - 1;
    a->layers = lt_arena_alloc(b->arena, sizeof(*a->layers) * (size_t)depth);
    if (!a->layers) {
        b->list.no_memory = true;
        return;
    }
    a->depth = depth;
    name_of(b, module, level, block, name);
    add_norm(b, &a->norm, name, "norm", width);
    add_linear(b, &a->in, name, "proj_in", width, width);
    for (int i = 0; i < depth; i++) {
        snprintf(layer, sizeof(layer), "%.70s.transformer_blocks.%d", name, i);
        add_layer(b, &a->layers[i], layer, width);
    }
    add_linear(b, &a->out, name, "proj_out", width, width);
}

/* The first block on the way up takes what comes from below, every one a skip: the last is the input of the first block on
 * the way down, the others its blocks' outputs. */
static void add_level(builder *b, sdxl3d *net, int i)
{
    const sdxl3d_arch *a = b->arch;
    sdxl3d_level *l = &net->levels[i];
    char name[100];
    int width = a->channels[i], before = a->channels[LT_MAX(i - 1, 0)],
        below = a->channels[LT_MIN(i + 1, a->n_levels - 1)];
    for (int j = 0; j < a->layers; j++) {
        add_resnet(b, &l->down[j].res, SDXL3D_DOWN_RES, i, j, j ? width : before, width);
        add_attention(b, &l->down[j].attention, SDXL3D_DOWN_ATTN, i, j, a->depth[i]);
    }
    for (int j = 0; j <= a->layers; j++) {
        int in = (j ? width : below) + (j == a->layers ? before : width);
        add_resnet(b, &l->up[j].res, SDXL3D_UP_RES, i, j, in, width);
        add_attention(b, &l->up[j].attention, SDXL3D_UP_ATTN, i, j, a->depth[i]);
    }
    if (i < a->n_levels - 1) {
        name_of(b, SDXL3D_DOWN, i, 0, name);
        add_conv(b, &l->halve, name, "", width, width, 3);
    }
    if (i > 0) {
        name_of(b, SDXL3D_UP, i, 0, name);
        add_conv(b, &l->twice, name, "", width, width, 3);
    }
}

static void add_embedding(builder *b, denoiser_affine layers[2], sdxl3d_module first, int in)
{
    char name[100];
    for (int i = 0; i < 2; i++) {
        name_of(b, (sdxl3d_module)(first + i), 0, 0, name);
        add_linear(b, &layers[i], name, "", i ? b->arch->time_width : in, b->arch->time_width);
    }
}

static void add_all(builder *b, sdxl3d *net)
{
    const sdxl3d_arch *a = b->arch;
    int top = a->n_levels - 1;
    char name[100];
    add_embedding(b, net->time, SDXL3D_TIME_1, a->channels[0]);
    add_embedding(b, net->add, SDXL3D_ADD_1, a->pooled_width + SDXL3D_IDS * a->id_width);
    name_of(b, SDXL3D_CONV_IN, 0, 0, name);
    add_conv(b, &net->conv_in, name, "", a->in_channels, a->channels[0], 3);
    for (int i = 0; i < a->n_levels; i++) add_level(b, net, i);
    for (int j = 0; j < 2; j++)
        add_resnet(b, &net->mid[j], SDXL3D_MID_RES, top, j, a->channels[top], a->channels[top]);
    add_attention(b, &net->mid_attention, SDXL3D_MID_ATTN, top, 0, a->mid_depth);
    name_of(b, SDXL3D_NORM_OUT, 0, 0, name);
    add_norm(b, &net->norm_out, name, "", a->channels[0]);
    name_of(b, SDXL3D_CONV_OUT, 0, 0, name);
    add_conv(b, &net->conv_out, name, "", a->channels[0], a->in_channels, 3);
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static void fill_info(const sdxl3d *net, lt_numerics numerics, lt_denoiser_info *info)
{
    const sdxl3d_arch *a = &net->arch;
    info->channels = a->in_channels;
    for (int i = 0; i < 3; i++) info->multiple[i] = 1 << (a->n_levels - 1);
    info->context_width = a->context_width;
    info->context_length = 77;
    info->pooled_width = a->pooled_width;
    info->size_ids = true;
    /* lite-sora takes Stable Diffusion's factor with SDXL's weights, too. */
    info->scaling_factor = numerics == LT_NUMERICS_LITE_SORA ? 0.18215 : 0.13025;
    info->beta_start = 0.00085;
    info->beta_end = 0.012;
    info->beta_linear = false;
    info->numerics = numerics;
}

static denoiser_match detect(const lt_checkpoint *checkpoint, const char *prefix)
{
    sdxl3d_names names;
    return sdxl3d_names_of(checkpoint, prefix, &names) ? DENOISER_YES : DENOISER_NO;
}

static lt_status open_net(lt_denoiser *d, lt_numerics numerics, char *note, size_t note_bytes, lt_err *err)
{
    sdxl3d_names names;
    sdxl3d *net = d->net = lt_arena_alloc(&d->arena, sizeof(*net));
    if (!net) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", lt_checkpoint_path(d->checkpoint));
    if (!sdxl3d_names_of(d->checkpoint, d->prefix, &names)) return LT_E_INTERNAL; /* detect found them */
    lt_status status = sdxl3d_arch_read(&net->arch, d->checkpoint, &names, err);
    if (status != LT_OK) return status;
    builder b = {.arena = &d->arena, .names = &names, .arch = &net->arch};
    add_all(&b, net);
    status = denoiser_bind(d, &b.list, names.prefix, NULL, err);
    if (status != LT_OK) return status;
    if (numerics == LT_NUMERICS_AUTO) numerics = names.numerics;
    net->attention_eps = numerics == LT_NUMERICS_LITE_SORA ? SDXL3D_EPS : 1e-6;
    net->group_values = SDXL3D_GROUP_VALUES;
    fill_info(net, numerics, &d->info);
    return LT_OK;
}

const denoiser_network sdxl3d_network = {
    .kind = LT_DENOISER_SDXL_3D,
    .name = "SDXL-3D UNet",
    .folder = "unet",
    .detect = detect,
    .open = open_net,
    .predict = sdxl3d_predict,
};
