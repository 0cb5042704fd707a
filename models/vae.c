/* vae.c - the networks of the video VAEs, as their formulas read.
 *
 * Every function here borrows its weights and takes x over: x is dropped as soon as it is not needed, since the peak of
 * what lives at once decides how large a tile can be. */
#include "kernels/backend.h"
#include "models/vae_parts.h"

#include <math.h>

static const lt_conv_params same = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
static const lt_conv_params over_time = {.pad_front = 1, .pad_back = 1};
static const lt_conv_params pointwise = {0};
/* One row and one column of zeros below and to the right only. */
static const lt_conv_params halving = {.stride_h = 2, .stride_w = 2, .pad_bottom = 1, .pad_right = 1};

static lt_tensor conv(lt_context *c, lt_tensor x, vae_affine *a, lt_conv_params params, lt_tensor residual)
{
    return lt_conv(c, x, &a->weight, &a->bias, params, residual);
}

static lt_tensor norm_silu(lt_context *c, lt_tensor x, vae_affine *a, int groups, double eps)
{
    return lt_group_norm(c, x, &a->weight, &a->bias, groups, eps, LT_ACT_SILU);
}

static lt_tensor linear(lt_context *c, lt_tensor x, vae_affine *a, lt_tensor residual)
{
    return lt_linear(c, x, &a->weight, &a->bias, LT_ACT_NONE, residual);
}

/* Result of a step that ends the life of its input. */
static lt_tensor replace(lt_context *c, lt_tensor *x, lt_tensor y)
{
    lt_drop(c, x);
    return y;
}

/* GN SiLU conv GN SiLU conv: the branch of a residual block up to its second norm. x stays. */
static lt_tensor branch(lt_context *c, vae_resnet *r, lt_tensor x, lt_conv_params params, int groups,
                        double eps)
{
    lt_tensor y = norm_silu(c, x, &r->norm1, groups, eps);
    y = replace(c, &y, conv(c, y, &r->conv1, params, LT_NONE));
    return replace(c, &y, norm_silu(c, y, &r->norm2, groups, eps));
}

/* x + conv(branch(x)), x through a 1x1 convolution where widths differ. */
static lt_tensor resnet(lt_context *c, vae_resnet *r, lt_tensor x, int groups)
{
    lt_tensor y = branch(c, r, x, same, groups, VAE_EPS);
    if (r->has_shortcut) x = replace(c, &x, conv(c, x, &r->shortcut, pointwise, LT_NONE));
    y = replace(c, &y, conv(c, y, &r->conv2, same, x));
    return replace(c, &x, y);
}

/* x + alpha * conv(branch(x)) over time: what alpha * (x + f) + (1 - alpha) * x comes to. x [T,1,H,W,C]. */
static lt_tensor temporal(lt_context *c, vae_block *b, lt_tensor x, int groups, double eps)
{
    lt_tensor clip = LT_VIEW(c, x, 1, x.shape[0], x.shape[2], x.shape[3], x.shape[4]);
    lt_tensor f = branch(c, &b->temporal, clip, over_time, groups, eps);
    f = replace(c, &f, conv(c, f, &b->temporal.conv2, over_time, LT_NONE));
    lt_tensor frames = LT_VIEW(c, f, x.shape[0], x.shape[1], x.shape[2], x.shape[3], x.shape[4]);
    lt_tensor y = lt_add_scaled(c, x, frames, b->alpha);
    lt_drop(c, &f);
    return replace(c, &x, y);
}

static lt_tensor over_clip(lt_context *c, vae_block *b, lt_tensor x, const lt_vae *vae, const vae_half *h)
{
    return b->has_temporal ? temporal(c, b, x, vae->arch.groups, h->temporal_eps) : x;
}

static lt_tensor block(lt_context *c, vae_block *b, lt_tensor x, const lt_vae *vae, const vae_half *h)
{
    return over_clip(c, b, resnet(c, &b->spatial, x, vae->arch.groups), vae, h);
}

/* One head as wide as the channels, over the cells of each frame. */
static lt_tensor attention(lt_context *c, vae_attention *a, lt_tensor x, int groups)
{
    int64_t n = x.shape[0], cells = x.shape[2] * x.shape[3];
    lt_tensor y = lt_group_norm(c, x, &a->norm.weight, &a->norm.bias, groups, VAE_EPS, LT_ACT_NONE);
    lt_tensor q = linear(c, y, &a->q, LT_NONE), k = linear(c, y, &a->k, LT_NONE);
    lt_tensor v = replace(c, &y, linear(c, y, &a->v, LT_NONE));
    lt_tensor o =
        lt_attention(c, LT_VIEW(c, q, n, cells, 1, a->channels), LT_VIEW(c, k, n, cells, 1, a->channels),
                     LT_VIEW(c, v, n, cells, 1, a->channels), LT_NONE, 1.0 / sqrt(a->channels), false);
    lt_drop(c, &q);
    lt_drop(c, &k);
    lt_drop(c, &v);
    lt_tensor frames = LT_VIEW(c, o, n, 1, x.shape[2], x.shape[3], a->channels);
    y = linear(c, frames, &a->out, x);
    lt_drop(c, &o);
    return replace(c, &x, y);
}

/* Attention stands after the first block and before the second: with one block there is none, as in diffusers. */
static lt_tensor middle(lt_context *c, lt_vae *vae, vae_half *h, lt_tensor x)
{
    x = block(c, &h->mid[0], x, vae, h);
    if (h->n_mid > 1 && h->has_attention) x = attention(c, &h->attention, x, vae->arch.groups);
    return h->n_mid > 1 ? block(c, &h->mid[1], x, vae, h) : x;
}

/* Upsampling, its convolution and the first spatial block of the next level, for a few frames at a time: between them
 * lie the widest tensors of the decoder at its highest resolutions, which then are never there for a whole clip. (With a
 * 32-frame window this takes the peak from 704 channels at full resolution to about 448.) Frames are independent here,
 * so that the result has the same bytes. */
static lt_tensor grow(lt_context *c, lt_vae *vae, vae_level *from, vae_level *to, lt_tensor x)
{
    if (!x.data) return LT_NONE;
    int64_t t = x.shape[0], h = 2 * x.shape[2], w = 2 * x.shape[3];
    int64_t group = c->tape ? t : LT_MIN(LT_MAX(vae->group_pixels / (h * w), 1), t);
    vae_resnet *first = &to->blocks[0].spatial;
    lt_tensor out = LT_NONE;
    if (group < t) out = lt_new(c, c->dtype, 5, (int64_t[]){t, 1, h, w, first->conv2.weight.tensor.shape[0]});
    for (int64_t i = 0; i < t && c->err.status == LT_OK; i += group) {
        int64_t n = LT_MIN(group, t - i);
        lt_tensor y = lt_upsample_conv(c, lt_rows(c, x, i, n), &from->sampler.weight, &from->sampler.bias);
        if (group == t) lt_drop(c, &x);
        y = resnet(c, first, y, vae->arch.groups);
        if (group == t) return y;
        lt_tensor place = lt_rows(c, out, i, n);
        if (y.data && place.data) lt_copy(c, y, place);
        lt_drop(c, &y);
    }
    return replace(c, &x, out);
}

/* GN SiLU conv. */
static lt_tensor output(lt_context *c, lt_vae *vae, vae_half *h, lt_tensor x)
{
    x = replace(c, &x, norm_silu(c, x, &h->norm_out, vae->arch.groups, h->norm_out_eps));
    return replace(c, &x, conv(c, x, &h->conv_out, same, LT_NONE));
}

static bool fits(lt_context *c, const vae_half *h, lt_tensor x, int channels, int multiple, const char *what)
{
    if (c->err.status != LT_OK) return false;
    char text[96];
    lt_tensor_describe(&x, text, sizeof(text));
    if (!h->open)
        lt_fail(&c->err, LT_E_INVALID, "this VAE was opened without its %s", what);
    else if (x.rank != 4 || x.shape[3] != channels || x.shape[1] % multiple || x.shape[2] % multiple)
        lt_fail(&c->err, LT_E_INVALID,
                "%s given %s; wanted [frames, height, width, %d] with sizes that are multiples of %d", what,
                text, channels, multiple);
    return c->err.status == LT_OK;
}

lt_tensor lt_vae_encode(lt_context *c, lt_vae *vae, lt_tensor frames)
{
    vae_half *h = &vae->halves[VAE_ENCODER];
    if (!fits(c, h, frames, vae->arch.in_channels, vae->info.factor, "encoder")) return LT_NONE;
    lt_tensor x = LT_VIEW(c, frames, frames.shape[0], 1, frames.shape[1], frames.shape[2], frames.shape[3]);
    x = conv(c, x, &h->conv_in, same, LT_NONE);
    for (int i = 0; i < h->n_levels; i++) {
        vae_level *l = &h->levels[i];
        for (int j = 0; j < l->n_blocks; j++) x = block(c, &l->blocks[j], x, vae, h);
        if (l->has_sampler) x = replace(c, &x, conv(c, x, &l->sampler, halving, LT_NONE));
    }
    x = middle(c, vae, h, x);
    x = output(c, vae, h, x);
    if (h->has_quant) x = replace(c, &x, conv(c, x, &h->quant, pointwise, LT_NONE));
    return LT_VIEW(c, x, x.shape[0], x.shape[2], x.shape[3], x.shape[4]);
}

lt_tensor lt_vae_decode(lt_context *c, lt_vae *vae, lt_tensor latents)
{
    vae_half *h = &vae->halves[VAE_DECODER];
    if (!fits(c, h, latents, vae->arch.latent_channels, 1, "decoder")) return LT_NONE;
    int64_t t = latents.shape[0];
    lt_tensor z = LT_VIEW(c, latents, t, 1, latents.shape[1], latents.shape[2], latents.shape[3]),
              quant = LT_NONE;
    if (h->has_quant) z = quant = conv(c, z, &h->quant, pointwise, LT_NONE);
    lt_tensor x = conv(c, z, &h->conv_in, same, LT_NONE);
    lt_drop(c, &quant);
    x = middle(c, vae, h, x);
    for (int i = 0; i < h->n_levels; i++) {
        vae_level *l = &h->levels[i];
        for (int j = 0; j < l->n_blocks; j++) {
            if (i == 0 || j > 0) x = resnet(c, &l->blocks[j].spatial, x, vae->arch.groups);
            x = over_clip(c, &l->blocks[j], x, vae, h);
        }
        if (l->has_sampler) x = grow(c, vae, l, &h->levels[i + 1], x);
    }
    x = output(c, vae, h, x);
    if (h->has_time_conv) {
        lt_tensor clip = LT_VIEW(c, x, 1, t, x.shape[2], x.shape[3], x.shape[4]);
        x = replace(c, &x, conv(c, clip, &h->time_conv, over_time, LT_NONE));
    }
    return LT_VIEW(c, x, t, x.shape[2], x.shape[3], x.shape[4]);
}
