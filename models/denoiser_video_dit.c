/* denoiser_video_dit.c - lite-sora's VideoDiT: v1 on pixels (branch main), v2 on latents (branch dev). */
#include "models/denoiser_dit.h"

#include <stdio.h>

#define EPS      1e-5 /* of every norm */
#define HEAD     64   /* lite-sora's; a checkpoint does not tell */
#define BASE     16.0 /* rows and columns (v1: frames, too) count from 0 to this */
#define PATTERN1 "blocks.%d.attn1.to_q.weight"
#define PATTERN2 "blocks.%d.blockA.attn.to_q.weight"

/* What the timestep and the pooled text say to a block: a linear map of each, added, SiLU, a linear map to shifts, scales
 * and gates. */
typedef struct adaln {
    denoiser_affine time, text, linear;
} adaln;

/* v1 has one adaln for both of its parts, v2 one for each of its three. */
typedef struct block {
    adaln self_adaln, cross_adaln, feed_adaln;
    dit_attention self_attention, cross_attention;
    dit_feed_forward feed;
} block;

typedef struct video_dit {
    bool v2;
    int width, time_width, text_width, cross_width, channels, heads, n_blocks;
    int patch[3];
    dit_positions positions;
    dit_time time;
    denoiser_affine proj_pos, proj_latent, proj_out, conv_out;
    block *blocks;
} video_dit;

/* ---- opening --------------------------------------------------------------------------------------------------------- */

static denoiser_match detect_v1(const lt_checkpoint *checkpoint, const char *prefix)
{
    return denoiser_holds(checkpoint, prefix, "blocks.0.attn1.to_q.weight") &&
                   denoiser_holds(checkpoint, prefix, "patchify.proj_pos.weight")
               ? DENOISER_YES
               : DENOISER_NO;
}

static denoiser_match detect_v2(const lt_checkpoint *checkpoint, const char *prefix)
{
    return denoiser_holds(checkpoint, prefix, "blocks.0.blockA.attn.to_q.weight") ? DENOISER_YES
                                                                                  : DENOISER_NO;
}

static void read_arch(video_dit *net, const lt_denoiser *d)
{
    const lt_checkpoint *c = d->checkpoint;
    const char *p = d->prefix, *latent = "patchify.proj_latent.weight",
               *adaln = net->v2 ? "blocks.0.blockA.adaln" : "blocks.0.adaln";
    net->width = dit_dim(c, 0, p, latent, "");
    net->channels = dit_dim(c, 1, p, latent, "");
    for (int i = 0; i < 3; i++) net->patch[i] = dit_dim(c, 2 + i, p, latent, "");
    net->time_width = dit_dim(c, 1, p, "time_emb.time_embedding.0.weight", "");
    net->text_width = dit_dim(c, 1, p, adaln, ".fusion.projs.1.weight");
    net->cross_width = net->v2 ? dit_dim(c, 1, p, "blocks.0.blockB.attn.to_k.weight", "") : 0;
    net->heads = net->width / HEAD;
    net->n_blocks = dit_count(c, p, net->v2 ? PATTERN2 : PATTERN1);
}

static lt_status check_arch(const video_dit *net, const lt_denoiser *d, lt_err *err)
{
    const char *path = lt_checkpoint_path(d->checkpoint);
    if (net->width < 1 || net->channels < 1 || !dit_patch_is_sane(net->patch) || net->time_width < 2 ||
        net->time_width % 2 || net->text_width < 1 || (net->v2 && !net->cross_width))
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "%s: no architecture of a %s can be read from the tensors' shapes", path,
                       d->info.name);
    if (net->width % HEAD)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: %d channels are no whole number of heads of %d", path,
                       net->width, HEAD);
    return LT_OK;
}

static void add_adaln(denoiser_builder *b, const video_dit *net, adaln *a, const char *module, int parts)
{
    char name[110];
    snprintf(name, sizeof(name), "%s.adaln.fusion.projs.0", module);
    denoiser_add_linear(b, &a->time, name, net->time_width, net->width, true);
    snprintf(name, sizeof(name), "%s.adaln.fusion.projs.1", module);
    denoiser_add_linear(b, &a->text, name, net->text_width, net->width, true);
    snprintf(name, sizeof(name), "%s.adaln.linear", module);
    denoiser_add_linear(b, &a->linear, name, net->width, (int64_t)parts * net->width, true);
}

static void add_feed(denoiser_builder *b, const video_dit *net, dit_feed_forward *f, const char *module)
{
    char name[110];
    snprintf(name, sizeof(name), "%s.ff.proj_in", module);
    denoiser_add_linear(b, &f->in, name, net->width, 4 * net->width, true);
    snprintf(name, sizeof(name), "%s.ff.proj_out", module);
    denoiser_add_linear(b, &f->out, name, 4 * net->width, net->width, true);
}

static void add_block(denoiser_builder *b, const video_dit *net, block *k, const char *prefix, int i)
{
    char module[80], part[100];
    snprintf(module, sizeof(module), "%sblocks.%d", prefix, i);
    if (!net->v2) {
        add_adaln(b, net, &k->self_adaln, module, 6);
        snprintf(part, sizeof(part), "%s.attn1", module);
        dit_add_attention(b, &k->self_attention, part, "to_out", net->width, net->width);
        add_feed(b, net, &k->feed, module);
        return;
    }
    snprintf(part, sizeof(part), "%s.blockA", module);
    add_adaln(b, net, &k->self_adaln, part, 3);
    snprintf(part, sizeof(part), "%s.blockA.attn", module);
    dit_add_attention(b, &k->self_attention, part, "to_out", net->width, net->width);
    snprintf(part, sizeof(part), "%s.blockB", module);
    add_adaln(b, net, &k->cross_adaln, part, 3);
    snprintf(part, sizeof(part), "%s.blockB.attn", module);
    dit_add_attention(b, &k->cross_attention, part, "to_out", net->width, net->cross_width);
    snprintf(part, sizeof(part), "%s.blockC", module);
    add_adaln(b, net, &k->feed_adaln, part, 3);
    add_feed(b, net, &k->feed, part);
}

static void add_ends(denoiser_builder *b, video_dit *net, const char *prefix)
{
    char name[110];
    int64_t w = net->width, ch = net->channels, values = ch * net->patch[0] * net->patch[1] * net->patch[2];
    snprintf(name, sizeof(name), "%stime_emb.time_embedding.0", prefix);
    denoiser_add_linear(b, &net->time.first, name, net->time_width, net->time_width, true);
    snprintf(name, sizeof(name), "%stime_emb.time_embedding.2", prefix);
    denoiser_add_linear(b, &net->time.second, name, net->time_width, net->time_width, true);
    snprintf(name, sizeof(name), "%spatchify.proj_pos", prefix);
    denoiser_add_linear(b, &net->proj_pos, name, 3 * w, w, true);
    denoiser_add(b, &net->proj_latent.weight, 5,
                 (int64_t[]){w, ch, net->patch[0], net->patch[1], net->patch[2]},
                 "%spatchify.proj_latent.weight", prefix);
    denoiser_add(b, &net->proj_latent.bias, 1, &w, "%spatchify.proj_latent.bias", prefix);
    snprintf(name, sizeof(name), "%s%sproj_out", prefix, net->v2 ? "unpatchify." : "");
    denoiser_add_linear(b, &net->proj_out, name, w, values, true);
    if (!net->v2) return;
    denoiser_add(b, &net->conv_out.weight, 5, (int64_t[]){ch, ch, 3, 3, 3}, "%sunpatchify.conv_out.weight",
                 prefix);
    denoiser_add(b, &net->conv_out.bias, 1, &ch, "%sunpatchify.conv_out.bias", prefix);
}

static void fill_info(lt_denoiser *d, const video_dit *net, lt_numerics numerics)
{
    lt_denoiser_info *info = &d->info;
    info->pixels = !net->v2;
    info->channels = net->channels;
    for (int i = 0; i < 3; i++) info->multiple[i] = net->patch[i];
    info->context_width = net->cross_width;
    info->context_length = net->v2 ? 77 : 0;
    info->pooled_width = net->text_width;
    info->seconds = net->v2;
    info->scaling_factor = net->v2 ? 0.18215 : 1.0;
    info->beta_start = 0.00085;
    info->beta_end = 0.012;
    info->numerics = numerics == LT_NUMERICS_AUTO ? LT_NUMERICS_LITE_SORA : numerics;
}

static lt_status open_video_dit(lt_denoiser *d, lt_numerics numerics, bool v2, lt_err *err)
{
    video_dit *net = d->net = lt_arena_alloc(&d->arena, sizeof(*net));
    if (!net) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", lt_checkpoint_path(d->checkpoint));
    net->v2 = v2;
    read_arch(net, d);
    lt_status status = check_arch(net, d, err);
    if (status != LT_OK) return status;
    net->positions = (dit_positions){.width = 3 * net->width,
                                     .axis_width = net->width,
                                     .offset = {0, net->width, 2 * net->width},
                                     .base = {v2 ? 0 : BASE, BASE, BASE},
                                     .scale = 1};
    net->blocks = lt_arena_alloc(&d->arena, sizeof(*net->blocks) * (size_t)net->n_blocks);
    if (!net->blocks)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", lt_checkpoint_path(d->checkpoint));
    denoiser_builder b = {0};
    add_ends(&b, net, d->prefix);
    for (int i = 0; i < net->n_blocks; i++) add_block(&b, net, &net->blocks[i], d->prefix, i);
    fill_info(d, net, numerics);
    return denoiser_bind(d, &b, d->prefix, NULL, err);
}

static lt_status open_v1(lt_denoiser *d, lt_numerics numerics, char *note, size_t note_bytes, lt_err *err)
{
    return open_video_dit(d, numerics, false, err);
}

static lt_status open_v2(lt_denoiser *d, lt_numerics numerics, char *note, size_t note_bytes, lt_err *err)
{
    return open_video_dit(d, numerics, true, err);
}

static void close_video_dit(lt_denoiser *d, lt_context *context)
{
    video_dit *net = d->net;
    if (net) dit_positions_finish(&net->positions);
}

/* ---- the network ------------------------------------------------------------------------------------------------------ */

/* What a call computes once for all blocks. */
typedef struct call {
    lt_context *c;
    const video_dit *net;
    lt_tensor time;    /* [1,time_width] */
    lt_tensor pooled;  /* [1 or N,text_width], borrowed */
    lt_tensor context; /* [N,L,cross_width] */
} call;

/* shift, scale and gate of one part of a block, each [1 or N,C]. */
typedef struct modulation {
    lt_tensor shift, scale, gate;
} modulation;

/* [1 or N, parts * C] of all of an adaln's parts. */
static lt_tensor conditioning(const call *k, adaln *a)
{
    lt_context *c = k->c;
    lt_tensor time = denoiser_linear(c, k->time, &a->time, LT_ACT_NONE, LT_NONE);
    lt_tensor text = denoiser_linear(c, k->pooled, &a->text, LT_ACT_NONE, LT_NONE);
    lt_tensor sum = lt_add_broadcast(c, text, LT_VIEW(c, time, k->net->width));
    lt_drop(c, &time);
    lt_drop(c, &text);
    sum = denoiser_replace(c, &sum, lt_affine(c, sum, 1, 0, LT_ACT_SILU));
    return denoiser_replace(c, &sum, denoiser_linear(c, sum, &a->linear, LT_ACT_NONE, LT_NONE));
}

/* Part `index` of a conditioning. */
static modulation part_of(const call *k, lt_tensor all, int index)
{
    int64_t w = k->net->width, at = 3 * index * w;
    return (modulation){lt_slice_channels(k->c, all, at, w), lt_slice_channels(k->c, all, at + w, w),
                        lt_slice_channels(k->c, all, at + 2 * w, w)};
}

static modulation modulation_of(const call *k, adaln *a)
{
    lt_tensor all = conditioning(k, a);
    modulation m = part_of(k, all, 0);
    lt_drop(k->c, &all);
    return m;
}

/* Which of a block's parts. */
typedef enum { SELF, CROSS, FEED } part;

/* x + gate * f(LN(x) (1 + scale) + shift). Takes x and the modulation over. */
static lt_tensor apply(const call *k, block *b, part which, lt_tensor x, modulation m)
{
    lt_context *c = k->c;
    lt_tensor y = dit_modulated_norm(c, x, EPS, m.scale, m.shift);
    lt_drop(c, &m.shift);
    lt_drop(c, &m.scale);
    if (which == FEED) {
        y = dit_feed(c, &b->feed, y);
    } else {
        dit_attention *a = which == SELF ? &b->self_attention : &b->cross_attention;
        lt_tensor keys = which == SELF ? y : k->context;
        y = denoiser_replace(c, &y, dit_attend(c, a, y, keys, LT_NONE, k->net->heads, LT_NONE));
    }
    x = dit_add_gated(c, x, y, m.gate);
    lt_drop(c, &m.gate);
    return x;
}

static lt_tensor run_block(const call *k, block *b, lt_tensor x)
{
    if (k->net->v2) {
        x = apply(k, b, SELF, x, modulation_of(k, &b->self_adaln));
        x = apply(k, b, CROSS, x, modulation_of(k, &b->cross_adaln));
        return apply(k, b, FEED, x, modulation_of(k, &b->feed_adaln));
    }
    lt_tensor all = conditioning(k, &b->self_adaln);
    x = apply(k, b, SELF, x, part_of(k, all, 0));
    x = apply(k, b, FEED, x, part_of(k, all, 1));
    lt_drop(k->c, &all);
    return x;
}

/* Tokens [N,L,C] to a video. v1: LN, Linear. v2: LN, SiLU, Linear, and a convolution over the video. */
static lt_tensor output(lt_context *c, video_dit *net, lt_tensor x, const int64_t grid[3])
{
    const int *p = net->patch;
    x = denoiser_replace(c, &x, lt_layer_norm(c, x, NULL, NULL, EPS, LT_NONE, LT_NONE));
    if (net->v2) x = denoiser_replace(c, &x, lt_affine(c, x, 1, 0, LT_ACT_SILU));
    x = denoiser_replace(c, &x, denoiser_linear(c, x, &net->proj_out, LT_ACT_NONE, LT_NONE));
    x = denoiser_replace(c, &x, lt_unpatchify(c, x, grid[0], grid[1], grid[2], p[0], p[1], p[2]));
    const lt_conv_params same = {0, 0, 0, 1, 1, 1, 1, 1, 1};
    if (net->v2)
        x = denoiser_replace(c, &x, lt_conv(c, x, &net->conv_out.weight, &net->conv_out.bias, same, LT_NONE));
    return x;
}

static lt_tensor predict(lt_context *c, lt_denoiser *d, lt_tensor x, double timestep,
                         const lt_condition *condition)
{
    video_dit *net = d->net;
    int64_t n = x.shape[0];
    const int64_t grid[] = {x.shape[1] / net->patch[0], x.shape[2] / net->patch[1],
                            x.shape[3] / net->patch[2]};
    call k = {.c = c, .net = net, .pooled = condition->pooled};
    k.time = dit_embed_values(c, d, &net->time, &timestep, 1);
    if (net->v2) k.context = denoiser_repeat(c, condition->context, n);
    lt_tensor h = dit_patchify(c, x, &net->proj_latent);
    h = dit_add_positions(c, &net->positions, h, &net->proj_pos, condition->start_sec, condition->end_sec);
    h = LT_VIEW(c, h, n, grid[0] * grid[1] * grid[2], net->width);
    for (int i = 0; i < net->n_blocks && c->err.status == LT_OK; i++) h = run_block(&k, &net->blocks[i], h);
    lt_drop(c, &k.time);
    lt_drop(c, &k.context);
    return output(c, net, h, grid);
}

const denoiser_network denoiser_video_dit_v1 = {
    .kind = LT_DENOISER_VIDEO_DIT_V1,
    .name = "VideoDiT v1",
    .detect = detect_v1,
    .open = open_v1,
    .close = close_video_dit,
    .predict = predict,
};

const denoiser_network denoiser_video_dit_v2 = {
    .kind = LT_DENOISER_VIDEO_DIT_V2,
    .name = "VideoDiT v2",
    .detect = detect_v2,
    .open = open_v2,
    .close = close_video_dit,
    .predict = predict,
};
