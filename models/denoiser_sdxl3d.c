/* denoiser_sdxl3d.c - SDXL3DUNet, as its formulas read.
 *
 * Weights of pictures are run as they are. lite-sora inflates a kernel [3,3] to [3,3,3] with the picture's in the middle
 * slice and exact zeros before and after it. A convolution with it reads, for frame t of its output, frames s t - 1, s t and
 * s t + 1 of its input, s the stride, and adds nothing but zeros for the two outer ones: it is the picture's convolution of
 * frame s t. Of T frames there are (T + 2 - 3) / s + 1 = (T - 1) / s + 1 such, as for a kernel of one frame without
 * padding. So a kernel of one frame, stride s in time and no padding there gives the same numbers from a third of the
 * weights and of the work. */
#include "models/denoiser_sdxl3d.h"

#include "kernels/backend.h"

#include <math.h>

/* A video on its way through the network. */
typedef struct walk {
    lt_context *c;
    sdxl3d *net;
    lt_tensor emb;     /* [N,time_width], through its SiLU */
    lt_tensor context; /* [N,L,context_width] */
    lt_tensor x;       /* [N,T,H,W,C] */
    bool kept;         /* x is the last skip, too */
    lt_tensor skips[SDXL3D_MAX_SKIPS];
    int n_skips;
} walk;

static lt_tensor linear(lt_context *c, lt_tensor x, denoiser_affine *a, lt_tensor residual)
{
    return denoiser_linear(c, x, a, LT_ACT_NONE, residual);
}

static lt_tensor layer_norm(lt_context *c, lt_tensor x, denoiser_affine *a)
{
    return lt_layer_norm(c, x, &a->weight, &a->bias, SDXL3D_EPS, LT_NONE, LT_NONE);
}

/* y follows x on the way. */
static void advance(walk *w, lt_tensor y)
{
    if (!w->kept) lt_drop(w->c, &w->x);
    w->x = y;
    w->kept = false;
}

static void push(walk *w)
{
    w->skips[w->n_skips++] = w->x;
    w->kept = true;
}

static void pop(walk *w)
{
    lt_tensor *skip = &w->skips[--w->n_skips];
    advance(w, lt_concat_channels(w->c, w->x, *skip));
    lt_drop(w->c, skip);
}

/* Kernel 3 in H and W, and in T where the weights are of videos. */
static lt_tensor conv3(walk *w, lt_tensor x, denoiser_affine *a, int stride, lt_tensor residual)
{
    int front = w->net->arch.flat ? 0 : 1;
    lt_conv_params p = {stride, stride, stride, front, front, 1, 1, 1, 1};
    return lt_conv(w->c, x, &a->weight, &a->bias, p, residual);
}

static lt_tensor norm_silu(walk *w, lt_tensor x, denoiser_affine *a)
{
    return lt_group_norm(w->c, x, &a->weight, &a->bias, w->net->arch.groups, SDXL3D_EPS, LT_ACT_SILU);
}

/* x + conv(silu(norm(conv(silu(norm(x))) + time))), x through a 1x1x1 convolution where widths differ. */
static void resnet(walk *w, sdxl3d_resnet *r)
{
    lt_context *c = w->c;
    lt_tensor y = norm_silu(w, w->x, &r->norm1);
    if (r->has_shortcut)
        advance(w, lt_conv(c, w->x, &r->shortcut.weight, &r->shortcut.bias, (lt_conv_params){0}, LT_NONE));
    y = denoiser_replace(c, &y, conv3(w, y, &r->conv1, 1, LT_NONE));
    lt_tensor time = linear(c, w->emb, &r->time, LT_NONE);
    y = denoiser_replace(c, &y, lt_add_gated(c, y, time, LT_NONE));
    lt_drop(c, &time);
    y = denoiser_replace(c, &y, norm_silu(w, y, &r->norm2));
    y = denoiser_replace(c, &y, conv3(w, y, &r->conv2, 1, w->x));
    advance(w, y);
}

/* y + out(attention(z to context)), z and y taken over. context LT_NONE: z to itself.
 * A token's attention to the text depends on no other token, so that frames need not be told apart there and the text is
 * not repeated for each. */
static lt_tensor attend(walk *w, const sdxl3d_attention *a, sdxl3d_projections *p, lt_tensor z,
                        lt_tensor context, lt_tensor y)
{
    lt_context *c = w->c;
    lt_tensor from = context.data ? context : z;
    lt_tensor q = linear(c, z, &p->q, LT_NONE);
    lt_tensor k = linear(c, from, &p->k, LT_NONE);
    lt_tensor v = linear(c, from, &p->v, LT_NONE);
    lt_drop(c, &z);
    int64_t n = y.shape[0], tokens = y.shape[1] * y.shape[2] * y.shape[3], keys = tokens;
    int64_t width = y.shape[4] / a->heads;
    if (context.data) {
        keys = context.shape[1];
    } else if (!a->joint) {
        n *= y.shape[1];
        keys = tokens = y.shape[2] * y.shape[3];
    }
    lt_tensor o =
        lt_attention(c, LT_VIEW(c, q, n, tokens, a->heads, width), LT_VIEW(c, k, n, keys, a->heads, width),
                     LT_VIEW(c, v, n, keys, a->heads, width), LT_NONE, 1.0 / sqrt((double)width), false);
    lt_drop(c, &q);
    lt_drop(c, &k);
    lt_drop(c, &v);
    lt_tensor video = LT_VIEW(c, o, y.shape[0], y.shape[1], y.shape[2], y.shape[3], y.shape[4]);
    y = denoiser_replace(c, &y, linear(c, video, &p->out, y));
    lt_drop(c, &o);
    return y;
}

/* y + ff(GEGLU(norm(y))) of rows [R,C]; y stays. */
static lt_tensor feed_forward_rows(lt_context *c, sdxl3d_layer *l, lt_tensor y)
{
    lt_tensor z = layer_norm(c, y, &l->norm3);
    z = denoiser_replace(c, &z, linear(c, z, &l->gate, LT_NONE));
    z = denoiser_replace(c, &z, lt_gated(c, z, LT_ACT_GELU_ERF));
    return denoiser_replace(c, &z, linear(c, z, &l->ff, y));
}

/* The same for a whole video, which is taken over, some tokens at a time: the inner layer is 8 times as wide as the video.
 * Tokens are independent here, so that the result has the same bytes. */
static lt_tensor feed_forward(walk *w, sdxl3d_layer *l, lt_tensor y)
{
    lt_context *c = w->c;
    if (!y.data) return LT_NONE;
    int64_t width = y.shape[4], rows = lt_n_elements(&y) / LT_MAX(width, 1);
    int64_t group = LT_MAX(w->net->group_values / LT_MAX(8 * width, 1), 1);
    if (c->tape || group >= rows) {
        lt_tensor z = feed_forward_rows(c, l, LT_VIEW(c, y, rows, width));
        lt_tensor video = LT_VIEW(c, z, y.shape[0], y.shape[1], y.shape[2], y.shape[3], width);
        return denoiser_replace(c, &y, video);
    }
    lt_tensor out = lt_new(c, c->dtype, 5, y.shape);
    lt_tensor from = LT_VIEW(c, y, rows, width), to = LT_VIEW(c, out, rows, width);
    for (int64_t i = 0; i < rows && c->err.status == LT_OK; i += group) {
        int64_t n = LT_MIN(group, rows - i);
        lt_tensor z = feed_forward_rows(c, l, lt_rows(c, from, i, n)), place = lt_rows(c, to, i, n);
        if (z.data && place.data) lt_copy(c, z, place);
        lt_drop(c, &z);
    }
    return denoiser_replace(c, &y, out);
}

static void attention(walk *w, sdxl3d_attention *a)
{
    lt_context *c = w->c;
    if (!a->depth) return;
    lt_tensor y = lt_group_norm(c, w->x, &a->norm.weight, &a->norm.bias, w->net->arch.groups,
                                w->net->attention_eps, LT_ACT_NONE);
    y = denoiser_replace(c, &y, linear(c, y, &a->in, LT_NONE));
    for (int i = 0; i < a->depth; i++) {
        sdxl3d_layer *l = &a->layers[i];
        y = attend(w, a, &l->self, layer_norm(c, y, &l->norm1), LT_NONE, y);
        y = attend(w, a, &l->cross, layer_norm(c, y, &l->norm2), w->context, y);
        y = feed_forward(w, l, y);
    }
    y = denoiser_replace(c, &y, linear(c, y, &a->out, w->x));
    advance(w, y);
}

/* Nearest x2 in T, H and W, then a convolution. Frames that are the same stay the same under a picture's kernel, and are
 * made the same after it. */
static void twice(walk *w, denoiser_affine *a)
{
    if (w->net->arch.flat) {
        advance(w, lt_upsample_conv(w->c, w->x, &a->weight, &a->bias));
        advance(w, lt_upsample_nearest(w->c, w->x, 2, 1, 1));
    } else {
        advance(w, lt_upsample_nearest(w->c, w->x, 2, 2, 2));
        advance(w, conv3(w, w->x, a, 1, LT_NONE));
    }
    /* A copy falls into the room that the steps before have left, and what lies above is free for the widest tensors of the
     * network, which come next: a sixth off the peak. */
    if (!w->c->tape) advance(w, lt_convert(w->c, w->x, w->c->dtype));
}

static void blocks(walk *w)
{
    sdxl3d *net = w->net;
    const sdxl3d_arch *arch = &net->arch;
    for (int i = 0; i < arch->n_levels; i++) {
        for (int j = 0; j < arch->layers; j++) {
            resnet(w, &net->levels[i].down[j].res);
            attention(w, &net->levels[i].down[j].attention);
            push(w);
        }
        if (i == arch->n_levels - 1) break;
        advance(w, conv3(w, w->x, &net->levels[i].halve, 2, LT_NONE));
        push(w);
    }
    resnet(w, &net->mid[0]);
    attention(w, &net->mid_attention);
    resnet(w, &net->mid[1]);
    for (int i = arch->n_levels - 1; i >= 0; i--) {
        for (int j = 0; j <= arch->layers; j++) {
            pop(w);
            resnet(w, &net->levels[i].up[j].res);
            attention(w, &net->levels[i].up[j].attention);
        }
        if (i) twice(w, &net->levels[i].twice);
    }
}

/* ---- embeddings ---------------------------------------------------------------------------------------------------- */

/* Linear, SiLU, linear; x taken over. */
static lt_tensor two_layers(lt_context *c, lt_tensor x, denoiser_affine layers[2])
{
    lt_tensor y = denoiser_linear(c, x, &layers[0], LT_ACT_SILU, LT_NONE);
    lt_drop(c, &x);
    return denoiser_replace(c, &y, linear(c, y, &layers[1], LT_NONE));
}

/* The six ids, which are the same for all samples, through sinusoids: [n, 6 * id_width]. */
static lt_tensor id_rows(lt_context *c, lt_denoiser *d, int64_t n, const double ids[SDXL3D_IDS])
{
    const sdxl3d *net = d->net;
    lt_tensor t = denoiser_sinusoids(c, d, ids, SDXL3D_IDS, net->arch.id_width);
    lt_tensor row = LT_VIEW(c, t, 1, SDXL3D_IDS * net->arch.id_width);
    return denoiser_replace(c, &t, denoiser_repeat(c, row, n));
}

/* The timestep's embedding and that of pooled text and size, added up, through the SiLU that every residual block begins
 * with: [n,time_width]. */
static lt_tensor embed(lt_context *c, lt_denoiser *d, int64_t n, double timestep,
                       const lt_condition *condition)
{
    sdxl3d *net = d->net;
    lt_tensor pooled = denoiser_repeat(c, condition->pooled, n);
    lt_tensor ids = id_rows(c, d, n, condition->size_ids);
    lt_tensor both = lt_concat_channels(c, pooled, ids);
    lt_drop(c, &pooled);
    lt_drop(c, &ids);
    lt_tensor added = two_layers(c, both, net->add);
    lt_tensor time = two_layers(c, denoiser_sinusoids(c, d, &timestep, 1, net->arch.channels[0]), net->time);
    time = denoiser_replace(c, &time, denoiser_repeat(c, time, n));
    lt_tensor sum = lt_add_scaled(c, added, time, 1.0);
    lt_drop(c, &added);
    lt_drop(c, &time);
    return denoiser_replace(c, &sum, lt_affine(c, sum, 1.0, 0.0, LT_ACT_SILU));
}

lt_tensor sdxl3d_predict(lt_context *c, lt_denoiser *d, lt_tensor x, double timestep,
                         const lt_condition *condition)
{
    sdxl3d *net = d->net;
    int64_t n = x.shape[0];
    walk w = {.c = c, .net = net, .emb = embed(c, d, n, timestep, condition)};
    w.context = denoiser_repeat(c, condition->context, n);
    w.x = conv3(&w, x, &net->conv_in, 1, LT_NONE);
    push(&w);
    blocks(&w);
    lt_drop(c, &w.emb);
    lt_drop(c, &w.context);
    advance(&w, norm_silu(&w, w.x, &net->norm_out));
    advance(&w, conv3(&w, w.x, &net->conv_out, 1, LT_NONE));
    return w.x;
}
