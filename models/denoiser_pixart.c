/* denoiser_pixart.c - PixArt's transformer for pictures (diffusers' PixArtTransformer2DModel, lite-sora's PixartDiT) and
 * lite-sora's PixartVideoDiT: the same blocks over larger patches, with positions on three axes. */
#include "models/config.h"
#include "models/denoiser_dit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD   72        /* of lite-sora's and of every published model, where no configuration tells */
#define BASE   32.0      /* of the grid of positions */
#define HIDDEN -10000.0f /* added to the scores of padding */

/* ---- names ----------------------------------------------------------------------------------------------------------- */

/* One way of naming tensors. */
typedef struct dialect {
    lt_numerics numerics;
    const char *latent, *time_first, *time_second, *gates, *caption_first, *caption_second, *table, *out;
    const char *block; /* with %d */
    const char *attention_out, *feed_in, *feed_out;
    bool batched_tables; /* tables have a first dimension of 1 */
    const char *const *ignored;
} dialect;

/* A buffer that diffusers 0.22 to 0.24 saved and nothing reads. */
static const char *const unread[] = {"caption_projection.y_embedding", "pos_embed.pos_embed", NULL};

static const dialect lite_sora = {
    .numerics = LT_NUMERICS_LITE_SORA,
    .latent = "patchify.proj_latent",
    .time_first = "global_adaln.time_emb.time_embedding.0",
    .time_second = "global_adaln.time_emb.time_embedding.2",
    .gates = "global_adaln.linear",
    .caption_first = "caption_projection.0",
    .caption_second = "caption_projection.2",
    .table = "unpatchify.scale_shift_table",
    .out = "unpatchify.proj_out",
    .block = "blocks.%d",
    .attention_out = "to_out",
    .feed_in = "ff.proj_in",
    .feed_out = "ff.proj_out",
    .batched_tables = true,
};

static const dialect diffusers = {
    .numerics = LT_NUMERICS_DIFFUSERS,
    .latent = "pos_embed.proj",
    .time_first = "adaln_single.emb.timestep_embedder.linear_1",
    .time_second = "adaln_single.emb.timestep_embedder.linear_2",
    .gates = "adaln_single.linear",
    .caption_first = "caption_projection.linear_1",
    .caption_second = "caption_projection.linear_2",
    .table = "scale_shift_table",
    .out = "proj_out",
    .block = "transformer_blocks.%d",
    .attention_out = "to_out.0",
    .feed_in = "ff.net.0.proj",
    .feed_out = "ff.net.2",
    .ignored = unread,
};

static const dialect *dialect_of(const lt_checkpoint *checkpoint, const char *prefix)
{
    if (denoiser_holds(checkpoint, prefix, "global_adaln.linear.weight")) return &lite_sora;
    if (denoiser_holds(checkpoint, prefix, "adaln_single.linear.weight") &&
        denoiser_holds(checkpoint, prefix, "pos_embed.proj.weight"))
        return &diffusers;
    return NULL;
}

/* ---- architecture ------------------------------------------------------------------------------------------------------ */

typedef struct block {
    lt_weight table; /* as one row, [1, 6 C] */
    dit_attention self_attention, cross_attention;
    dit_feed_forward feed;
} block;

typedef struct pixart {
    const dialect *names;
    bool video;
    bool fresh_patches; /* a video model from a picture's weights: the patch tensors are zero */
    bool size_embedders;
    int width, heads, channels, out_channels, time_width, text_width, n_blocks;
    int patch[3];
    double eps, interpolation, base;
    dit_positions positions;
    dit_time time, resolution, aspect;
    denoiser_affine proj_latent, gates, caption_first, caption_second, proj_out;
    lt_weight table; /* [1, 2 C] */
    block *blocks;
    denoiser_buffer mask;
} pixart;

/* Whether the patch tensors are those of pictures: patches of one frame. */
static bool picture_patches(const lt_checkpoint *checkpoint, const char *prefix, const dialect *names)
{
    return names == &diffusers || denoiser_dim(checkpoint, 2, prefix, "%s.weight", names->latent) == 1;
}

static denoiser_match detect_picture(const lt_checkpoint *checkpoint, const char *prefix)
{
    const dialect *names = dialect_of(checkpoint, prefix);
    return names && picture_patches(checkpoint, prefix, names) ? DENOISER_YES : DENOISER_NO;
}

static denoiser_match detect_video(const lt_checkpoint *checkpoint, const char *prefix)
{
    const dialect *names = dialect_of(checkpoint, prefix);
    if (!names) return DENOISER_NO;
    return picture_patches(checkpoint, prefix, names) ? DENOISER_IF_ASKED : DENOISER_YES;
}

static void read_shapes(pixart *net, const lt_denoiser *d)
{
    const lt_checkpoint *c = d->checkpoint;
    const char *p = d->prefix;
    const dialect *names = net->names;
    char pattern[60];
    int axes = names == &diffusers ? 2 : 3;
    net->width = dit_dim(c, 0, p, names->latent, ".weight");
    net->channels = dit_dim(c, 1, p, names->latent, ".weight");
    net->patch[0] = 1;
    for (int i = 0; i < axes; i++) net->patch[3 - axes + i] = dit_dim(c, 2 + i, p, names->latent, ".weight");
    int64_t values = (int64_t)net->patch[0] * net->patch[1] * net->patch[2];
    net->out_channels = values ? (int)(dit_dim(c, 0, p, names->out, ".weight") / values) : 0;
    net->time_width = dit_dim(c, 1, p, names->time_first, ".weight");
    net->text_width = dit_dim(c, 1, p, names->caption_first, ".weight");
    net->size_embedders = denoiser_holds(c, p, "adaln_single.emb.resolution_embedder.linear_1.weight");
    snprintf(pattern, sizeof(pattern), "%s.attn1.to_q.weight", names->block);
    net->n_blocks = dit_count(c, p, pattern);
    net->heads = net->width / HEAD;
    net->eps = 1e-6;
    net->interpolation = 1;
    net->base = BASE;
    if (net->video && net->fresh_patches)
        for (int i = 0; i < 3; i++) net->patch[i] = 4;
}

static void read_config(pixart *net, config_reader *r)
{
    const char *class = config_text(r, "_class_name", ""),
               *norm = config_text(r, "norm_type", "ada_norm_single"),
               *act = config_text(r, "activation_fn", "gelu-approximate");
    if (strcmp(class, "Transformer2DModel") != 0 && strcmp(class, "PixArtTransformer2DModel") != 0)
        config_fail(r, LT_E_UNSUPPORTED, "\"_class_name\" is %.60s; PixArt is a PixArtTransformer2DModel",
                    *class ? class : "absent");
    if (strcmp(norm, "ada_norm_single") != 0)
        config_fail(r, LT_E_UNSUPPORTED, "\"norm_type\" is %.60s; PixArt has ada_norm_single", norm);
    if (strcmp(act, "gelu-approximate") != 0)
        config_fail(r, LT_E_UNSUPPORTED, "\"activation_fn\" is %.60s; PixArt has gelu-approximate", act);
    if (!config_bool(r, "attention_bias", true) || config_bool(r, "norm_elementwise_affine", false))
        config_fail(r, LT_E_UNSUPPORTED, "PixArt has biases in attention, and norms without an affine map");
    int heads = config_int(r, "num_attention_heads", 16, 1, 1024);
    int head = config_int(r, "attention_head_dim", HEAD, 1, 1024);
    int sample = config_int(r, "sample_size", 128, 1, 65536), patch = config_int(r, "patch_size", 2, 1, 64);
    net->interpolation = config_double(r, "interpolation_scale", LT_MAX(sample / 64, 1));
    net->base = sample / patch;
    net->eps = config_double(r, "norm_eps", 1e-6);
    if (heads * head != net->width)
        config_fail(r, LT_E_UNSUPPORTED, "%d heads of %d are not the %d channels of the weights", heads, head,
                    net->width);
    if (!(net->interpolation > 0) || !(net->eps >= 0) || sample < patch)
        config_fail(r, LT_E_UNSUPPORTED,
                    "\"interpolation_scale\", \"norm_eps\" or \"sample_size\" is too small");
    net->heads = heads;
}

static lt_status read_arch(pixart *net, const lt_denoiser *d, lt_numerics numerics, lt_err *err)
{
    const char *path = lt_checkpoint_path(d->checkpoint), *config_path = path;
    const char *text = lt_checkpoint_config(d->checkpoint, &config_path);
    read_shapes(net, d);
    if (net->names == &diffusers && text) {
        config_reader r;
        if (config_open(&r, text, config_path, err) == LT_OK) read_config(net, &r);
        config_close(&r);
        if (r.status != LT_OK) return r.status;
    }
    if (net->video || numerics == LT_NUMERICS_LITE_SORA) { /* lite-sora reads no configuration */
        net->base = BASE;
        net->interpolation = 1;
    }
    int axes = net->video ? 3 : 2;
    if (net->width < 1 || net->channels < 1 || !dit_patch_is_sane(net->patch) || net->time_width < 2 ||
        net->time_width % 2 || net->text_width < 1 || net->n_blocks < 1 ||
        net->out_channels < net->channels || net->width % (2 * axes))
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "%s: no architecture of a %s can be read from the tensors' shapes", path,
                       d->info.name);
    if (net->heads < 1 || net->width % net->heads)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: %d channels are no whole number of heads of %d", path,
                       net->width, HEAD);
    return LT_OK;
}

/* ---- parameters ------------------------------------------------------------------------------------------------------ */

static void add_linear(denoiser_builder *b, const lt_denoiser *d, denoiser_affine *a, const char *name,
                       int in, int out)
{
    char full[110];
    snprintf(full, sizeof(full), "%s%s", d->prefix, name);
    denoiser_add_linear(b, a, full, in, out, true);
}

/* A table of n rows of C values, in a file [n,C] or [1,n,C]. */
static void add_table(denoiser_builder *b, const pixart *net, lt_weight *table, int n, const char *prefix,
                      const char *module, const char *name)
{
    const int64_t shape[] = {1, n, net->width};
    int batched = net->names->batched_tables;
    denoiser_add(b, table, 2 + batched, shape + !batched, "%s%s%s", prefix, module, name);
}

static void add_block(denoiser_builder *b, const pixart *net, const lt_denoiser *d, int i)
{
    block *k = &net->blocks[i];
    const dialect *names = net->names;
    char module[80], part[100];
    int n = snprintf(module, sizeof(module), "%s", d->prefix);
    const char *number = strstr(names->block, "%d");
    snprintf(module + n, sizeof(module) - (size_t)n, "%.*s%d", (int)(number - names->block), names->block, i);
    add_table(b, net, &k->table, 6, "", module, ".scale_shift_table");
    snprintf(part, sizeof(part), "%s.attn1", module);
    dit_add_attention(b, &k->self_attention, part, names->attention_out, net->width, net->width);
    snprintf(part, sizeof(part), "%s.attn2", module);
    dit_add_attention(b, &k->cross_attention, part, names->attention_out, net->width, net->width);
    snprintf(part, sizeof(part), "%s.%s", module, names->feed_in);
    denoiser_add_linear(b, &k->feed.in, part, net->width, 4 * net->width, true);
    snprintf(part, sizeof(part), "%s.%s", module, names->feed_out);
    denoiser_add_linear(b, &k->feed.out, part, 4 * net->width, net->width, true);
}

/* The tensors that see patches; of a video model made from a picture's weights only known by name. */
static void add_patches(denoiser_builder *b, pixart *net, const lt_denoiser *d)
{
    const dialect *names = net->names;
    const int *p = net->patch;
    int64_t w = net->width, out = (int64_t)net->out_channels * p[0] * p[1] * p[2];
    bool flat = names == &diffusers;
    const int64_t deep[] = {w, net->channels, p[0], p[1], p[2]}, plane[] = {w, net->channels, p[1], p[2]};
    bool fresh = net->fresh_patches;
    denoiser_add(b, fresh ? NULL : &net->proj_latent.weight, flat ? 4 : 5, flat ? plane : deep, "%s%s.weight",
                 d->prefix, names->latent);
    denoiser_add(b, fresh ? NULL : &net->proj_latent.bias, 1, &w, "%s%s.bias", d->prefix, names->latent);
    denoiser_add(b, fresh ? NULL : &net->proj_out.weight, 2, (int64_t[]){out, w}, "%s%s.weight", d->prefix,
                 names->out);
    denoiser_add(b, fresh ? NULL : &net->proj_out.bias, 1, &out, "%s%s.bias", d->prefix, names->out);
}

static const char *const size_embedders[] = {
    "adaln_single.emb.resolution_embedder.linear_1", "adaln_single.emb.resolution_embedder.linear_2",
    "adaln_single.emb.aspect_ratio_embedder.linear_1", "adaln_single.emb.aspect_ratio_embedder.linear_2"};

/* Embedders of height, width and aspect, of 1024-pixel models. lite-sora's video model does not take them over. */
static void add_size_embedders(denoiser_builder *b, pixart *net, const lt_denoiser *d)
{
    denoiser_affine *to[] = {&net->resolution.first, &net->resolution.second, &net->aspect.first,
                             &net->aspect.second};
    int part = net->width / 3;
    for (int i = 0; i < 4 && net->size_embedders; i++) {
        if (!net->fresh_patches) {
            add_linear(b, d, to[i], size_embedders[i], i % 2 ? part : net->time_width, part);
            continue;
        }
        denoiser_add(b, NULL, 1, (int64_t[]){0}, "%s%s.weight", d->prefix, size_embedders[i]);
        denoiser_add(b, NULL, 1, (int64_t[]){0}, "%s%s.bias", d->prefix, size_embedders[i]);
    }
}

static void add_all(denoiser_builder *b, pixart *net, const lt_denoiser *d)
{
    const dialect *names = net->names;
    add_patches(b, net, d);
    add_linear(b, d, &net->time.first, names->time_first, net->time_width, net->width);
    add_linear(b, d, &net->time.second, names->time_second, net->width, net->width);
    add_linear(b, d, &net->gates, names->gates, net->width, 6 * net->width);
    add_linear(b, d, &net->caption_first, names->caption_first, net->text_width, net->width);
    add_linear(b, d, &net->caption_second, names->caption_second, net->width, net->width);
    add_table(b, net, &net->table, 2, d->prefix, "", names->table);
    add_size_embedders(b, net, d);
    for (int i = 0; i < net->n_blocks; i++) add_block(b, net, d, i);
}

/* A table's weight as one row, which is how it is added to a modulation. */
static void flatten(lt_weight *table)
{
    lt_tensor *t = &table->tensor;
    int64_t n = lt_n_elements(t);
    t->rank = 2;
    t->shape[0] = 1;
    t->shape[1] = n;
}

static lt_status zero(lt_denoiser *d, lt_weight *weight, int rank, const int64_t *shape, lt_err *err)
{
    lt_tensor *t = &weight->tensor;
    *t = (lt_tensor){.dtype = LT_F32, .rank = rank};
    memcpy(t->shape, shape, sizeof(*shape) * (size_t)rank);
    if (!(t->data = lt_arena_alloc(&d->arena, lt_tensor_bytes(t))))
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", lt_checkpoint_path(d->checkpoint));
    d->info.n_parameters += lt_n_elements(t);
    return LT_OK;
}

/* lite-sora leaves these four at random when it takes over a picture's weights; here they are zero. */
static lt_status make_patches(lt_denoiser *d, pixart *net, char *note, size_t note_bytes, lt_err *err)
{
    lt_status status;
    const dialect *names = net->names;
    const int *p = net->patch;
    int64_t w = net->width, out = (int64_t)net->out_channels * p[0] * p[1] * p[2];
    LT_TRY(zero(d, &net->proj_latent.weight, 5, (int64_t[]){w, net->channels, p[0], p[1], p[2]}, err));
    LT_TRY(zero(d, &net->proj_latent.bias, 1, &w, err));
    LT_TRY(zero(d, &net->proj_out.weight, 2, (int64_t[]){out, w}, err));
    LT_TRY(zero(d, &net->proj_out.bias, 1, &out, err));
    snprintf(note, note_bytes,
             "a video model from a picture model's weights, to be trained: %s.weight, %s.bias, %s.weight and "
             "%s.bias are of other patches and are zero%s",
             names->latent, names->latent, names->out, names->out,
             net->size_embedders
                 ? "; adaln_single.emb.resolution_embedder and aspect_ratio_embedder are left out"
                 : "");
fail:
    return status;
}

/* ---- opening --------------------------------------------------------------------------------------------------------- */

static void set_positions(pixart *net)
{
    int axis = net->width / (net->video ? 3 : 2);
    net->positions = (dit_positions){.width = net->width,
                                     .axis_width = axis,
                                     .base = {net->base, net->base, net->base},
                                     .scale = net->interpolation};
    const int video[] = {0, axis, 2 * axis}, picture[] = {-1, axis, 0}; /* columns before rows */
    memcpy(net->positions.offset, net->video ? video : picture, sizeof(video));
}

/* The factor of the VAE that stands beside the network in a pipeline's folder: PixArt-Sigma has SDXL's. */
static lt_status read_vae_factor(lt_denoiser *d, lt_err *err)
{
    const char *path = NULL, *text;
    if (d->info.numerics == LT_NUMERICS_LITE_SORA || !lt_checkpoint_config(d->checkpoint, &path))
        return LT_OK;
    lt_status status = lt_checkpoint_read_beside(d->checkpoint, "../vae/config.json", &path, &text, err);
    if (status == LT_E_NOT_FOUND) return LT_OK;
    if (status != LT_OK) return status;
    config_reader r;
    if (config_open(&r, text, path, err) == LT_OK) {
        double factor = config_double(&r, "scaling_factor", d->info.scaling_factor);
        if (!(factor > 0)) config_fail(&r, LT_E_FORMAT, "\"scaling_factor\" must be above 0");
        d->info.other_factor = factor != d->info.scaling_factor;
        d->info.scaling_factor = factor;
    }
    config_close(&r);
    return r.status;
}

static void fill_info(lt_denoiser *d, const pixart *net, lt_numerics numerics)
{
    lt_denoiser_info *info = &d->info;
    info->channels = net->channels;
    for (int i = 0; i < 3; i++) info->multiple[i] = net->patch[i];
    info->single_frame = !net->video;
    info->context_width = net->text_width;
    info->context_length = 120;
    info->context_mask = true;
    info->size_ids = net->size_embedders && !net->fresh_patches;
    info->scaling_factor = 0.18215;
    info->beta_start = 0.0001;
    info->beta_end = 0.02;
    info->beta_linear = true;
    info->numerics = numerics == LT_NUMERICS_AUTO ? net->names->numerics : numerics;
}

static lt_status open_pixart(lt_denoiser *d, lt_numerics numerics, bool video, char *note, size_t note_bytes,
                             lt_err *err)
{
    pixart *net = d->net = lt_arena_alloc(&d->arena, sizeof(*net));
    if (!net) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", lt_checkpoint_path(d->checkpoint));
    net->names = dialect_of(d->checkpoint, d->prefix);
    net->video = video;
    net->fresh_patches = video && picture_patches(d->checkpoint, d->prefix, net->names);
    lt_status status = read_arch(net, d, numerics, err);
    if (status != LT_OK) return status;
    net->blocks = lt_arena_alloc(&d->arena, sizeof(*net->blocks) * (size_t)net->n_blocks);
    if (!net->blocks)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", lt_checkpoint_path(d->checkpoint));
    denoiser_builder b = {0};
    add_all(&b, net, d);
    status = denoiser_bind(d, &b, d->prefix, net->names->ignored, err);
    if (status != LT_OK) return status;
    flatten(&net->table);
    for (int i = 0; i < net->n_blocks; i++) flatten(&net->blocks[i].table);
    set_positions(net);
    fill_info(d, net, numerics);
    status = read_vae_factor(d, err);
    if (status != LT_OK) return status;
    return net->fresh_patches ? make_patches(d, net, note, note_bytes, err) : LT_OK;
}

static lt_status open_picture(lt_denoiser *d, lt_numerics numerics, char *note, size_t note_bytes,
                              lt_err *err)
{
    return open_pixart(d, numerics, false, note, note_bytes, err);
}

static lt_status open_video(lt_denoiser *d, lt_numerics numerics, char *note, size_t note_bytes, lt_err *err)
{
    return open_pixart(d, numerics, true, note, note_bytes, err);
}

static void close_pixart(lt_denoiser *d, lt_context *context)
{
    pixart *net = d->net;
    if (!net) return;
    lt_weight *made[] = {&net->proj_latent.weight, &net->proj_latent.bias, &net->proj_out.weight,
                         &net->proj_out.bias};
    for (size_t i = 0; context && net->fresh_patches && i < LT_COUNT(made); i++)
        lt_weight_finish(context, made[i]);
    dit_positions_finish(&net->positions);
    free(net->mask.data);
}

/* ---- the network ------------------------------------------------------------------------------------------------------ */

/* What a call computes once for all blocks. */
typedef struct call {
    lt_context *c;
    pixart *net;
    lt_tensor emb;   /* [1,C], of the timestep and, in some models, of the size */
    lt_tensor gates; /* [1,6C] */
    lt_tensor text;  /* [N,L,C] */
    lt_tensor mask;  /* f32 [1 or N,1,1,L] */
} call;

/* x [1,n] plus a table of as many values. */
static lt_tensor add_values(lt_context *c, lt_tensor x, lt_weight *table)
{
    static int32_t zero_row = 0;
    const lt_tensor first = {.data = &zero_row, .dtype = LT_I32, .rank = 1, .shape = {1}};
    lt_tensor row = lt_embedding(c, table, first);
    lt_tensor y = lt_add_scaled(c, x, row, 1);
    lt_drop(c, &row);
    return y;
}

/* Height and width in pixels through one embedder, their ratio through another, side by side. */
static lt_tensor embed_size(lt_context *c, lt_denoiser *d, pixart *net, const double *size)
{
    const double ratio = size[0] / size[1];
    if (!(size[0] >= 1) || !(size[1] >= 1))
        lt_context_fail(c, LT_E_INVALID,
                        "%s of this size wants the picture's height and width in pixels, not %g x %g",
                        d->info.name, size[0], size[1]);
    lt_tensor both = dit_embed_values(c, d, &net->resolution, size, 2);
    lt_tensor aspect = dit_embed_values(c, d, &net->aspect, &ratio, 1);
    lt_tensor e = lt_concat_channels(c, LT_VIEW(c, both, 1, 2 * (net->width / 3)), aspect);
    lt_drop(c, &both);
    lt_drop(c, &aspect);
    return e;
}

static void embed(call *k, lt_denoiser *d, double timestep, const lt_condition *condition)
{
    lt_context *c = k->c;
    pixart *net = k->net;
    k->emb = dit_embed_values(c, d, &net->time, &timestep, 1);
    if (d->info.size_ids) {
        lt_tensor size = embed_size(c, d, net, condition->size_ids);
        k->emb = denoiser_replace(c, &k->emb, lt_add_scaled(c, k->emb, size, 1));
        lt_drop(c, &size);
    }
    lt_tensor active = lt_affine(c, k->emb, 1, 0, LT_ACT_SILU);
    k->gates = denoiser_linear(c, active, &net->gates, LT_ACT_NONE, LT_NONE);
    lt_drop(c, &active);
}

/* The caption's tokens in the network's width, and 0 or -10000 for each as a key. */
static void embed_text(call *k, int64_t n, const lt_condition *condition)
{
    lt_context *c = k->c;
    lt_tensor x = condition->context;
    int64_t samples = x.shape[0], length = x.shape[1];
    lt_tensor y = denoiser_linear(c, x, &k->net->caption_first, LT_ACT_GELU_TANH, LT_NONE);
    y = denoiser_replace(c, &y, denoiser_linear(c, y, &k->net->caption_second, LT_ACT_NONE, LT_NONE));
    k->text = denoiser_replace(c, &y, denoiser_repeat(c, y, n));
    float *mask = denoiser_reserve(c, &k->net->mask, sizeof(*mask) * (size_t)(samples * length));
    if (!mask) return;
    for (int64_t i = 0; i < samples; i++)
        for (int64_t j = 0; j < length; j++)
            mask[i * length + j] = condition->n_context && j >= condition->n_context[i] ? HIDDEN : 0;
    const lt_tensor host = {.data = mask, .dtype = LT_F32, .rank = 4, .shape = {samples, 1, 1, length}};
    k->mask = lt_upload(c, host, LT_F32);
}

/* Shift, scale and gate of self-attention, then of the feed-forward, each [1,C]. */
enum { SHIFT_A, SCALE_A, GATE_A, SHIFT_M, SCALE_M, GATE_M, N_PARTS };

static lt_tensor run_block(const call *k, block *b, lt_tensor x)
{
    lt_context *c = k->c;
    const pixart *net = k->net;
    lt_tensor all = add_values(c, k->gates, &b->table), m[N_PARTS];
    for (int i = 0; i < N_PARTS; i++) m[i] = lt_slice_channels(c, all, (int64_t)i * net->width, net->width);
    lt_drop(c, &all);
    lt_tensor y = dit_modulated_norm(c, x, net->eps, m[SCALE_A], m[SHIFT_A]);
    y = denoiser_replace(c, &y, dit_attend(c, &b->self_attention, y, y, LT_NONE, net->heads, LT_NONE));
    x = dit_add_gated(c, x, y, m[GATE_A]);
    x = denoiser_replace(c, &x, dit_attend(c, &b->cross_attention, x, k->text, k->mask, net->heads, x));
    y = dit_modulated_norm(c, x, net->eps, m[SCALE_M], m[SHIFT_M]);
    y = dit_feed(c, &b->feed, y);
    x = dit_add_gated(c, x, y, m[GATE_M]);
    for (int i = 0; i < N_PARTS; i++) lt_drop(c, &m[i]);
    return x;
}

/* Tokens [N,L,C] to a video; of its channels the first half, the other is the variance. */
static lt_tensor output(const call *k, lt_tensor x, const int64_t grid[3])
{
    lt_context *c = k->c;
    pixart *net = k->net;
    const int *p = net->patch;
    lt_tensor both = denoiser_repeat(c, k->emb, 1);
    both = denoiser_replace(c, &both, lt_concat_channels(c, both, both));
    both = denoiser_replace(c, &both, add_values(c, both, &net->table));
    lt_tensor shift = lt_slice_channels(c, both, 0, net->width);
    lt_tensor scale = lt_slice_channels(c, both, net->width, net->width);
    lt_drop(c, &both);
    x = denoiser_replace(c, &x, dit_modulated_norm(c, x, 1e-6, scale, shift));
    lt_drop(c, &shift);
    lt_drop(c, &scale);
    x = denoiser_replace(c, &x, denoiser_linear(c, x, &net->proj_out, LT_ACT_NONE, LT_NONE));
    x = denoiser_replace(c, &x, lt_unpatchify(c, x, grid[0], grid[1], grid[2], p[0], p[1], p[2]));
    if (net->out_channels == net->channels) return x;
    return denoiser_replace(c, &x, lt_slice_channels(c, x, 0, net->channels));
}

static lt_tensor predict(lt_context *c, lt_denoiser *d, lt_tensor x, double timestep,
                         const lt_condition *condition)
{
    pixart *net = d->net;
    int64_t n = x.shape[0];
    const int64_t grid[] = {x.shape[1] / net->patch[0], x.shape[2] / net->patch[1],
                            x.shape[3] / net->patch[2]};
    call k = {.c = c, .net = net};
    embed(&k, d, timestep, condition);
    embed_text(&k, n, condition);
    lt_tensor h = dit_patchify(c, x, &net->proj_latent);
    h = dit_add_positions(c, &net->positions, h, NULL, 0, 0);
    h = LT_VIEW(c, h, n, grid[0] * grid[1] * grid[2], net->width);
    for (int i = 0; i < net->n_blocks && c->err.status == LT_OK; i++) h = run_block(&k, &net->blocks[i], h);
    h = output(&k, h, grid);
    lt_drop(c, &k.emb);
    lt_drop(c, &k.gates);
    lt_drop(c, &k.text);
    lt_drop(c, &k.mask);
    return h;
}

const denoiser_network denoiser_pixart = {
    .kind = LT_DENOISER_PIXART,
    .name = "PixartDiT",
    .folder = "transformer",
    .detect = detect_picture,
    .open = open_picture,
    .close = close_pixart,
    .predict = predict,
};

const denoiser_network denoiser_pixart_video = {
    .kind = LT_DENOISER_PIXART_VIDEO,
    .name = "PixartVideoDiT",
    .folder = "transformer",
    .detect = detect_video,
    .open = open_video,
    .close = close_pixart,
    .predict = predict,
};
