/* denoiser_dit.h - what the diffusion transformers share: patches, positions, attention, feed-forward. Internal. */
#ifndef LT_DENOISER_DIT_H
#define LT_DENOISER_DIT_H

#include "models/denoiser_parts.h"

enum { DIT_MAX_BLOCKS = 256 };

/* Sinusoids of the place of a token on each axis, sin first, with angles in f64 of places in f32.
 *
 * Since an axis has channels of its own, a token's embedding is a sum of three that depend on t, h or w alone (zero where the
 * others have their channels), before a projection as after it: only a row for each index is made, never one for each token. */
typedef struct dit_positions {
    int width;      /* of the whole embedding */
    int axis_width; /* of one axis */
    int offset[3];  /* where the channels of t, h, w begin; -1: that axis has none */
    double base[3]; /* index / (count / base); 0: seconds */
    double scale;   /* and divided by this, unless 1 */
    int64_t grid[3];
    double start, end;     /* seconds */
    denoiser_buffer table; /* f64 [gt + gh + gw, width], made for grid, start and end */
} dit_positions;

void dit_positions_finish(dit_positions *positions);

/* x [N,gt,gh,gw,C] plus its positions, projected to C by `projection` (NULL: as they are). Takes x over. */
lt_tensor dit_add_positions(lt_context *c, dit_positions *p, lt_tensor x, denoiser_affine *projection,
                            double start, double end);

/* x [N,T,h,w,C] to tokens' values [N,gt,gh,gw,width]. */
lt_tensor dit_patchify(lt_context *c, lt_tensor x, denoiser_affine *projection);

typedef struct dit_attention {
    denoiser_affine q, k, v, out;
} dit_attention;

/* `module`.to_q and so on, all with bias; out: the name of the last ("to_out"). */
void dit_add_attention(denoiser_builder *b, dit_attention *a, const char *module, const char *out,
                       int64_t width, int64_t context_width);
/* x [N,L,C] asks context [N,S,K] (x itself for self-attention); mask, residual may be LT_NONE. Borrows. */
lt_tensor dit_attend(lt_context *c, dit_attention *a, lt_tensor x, lt_tensor context, lt_tensor mask,
                     int heads, lt_tensor residual);

typedef struct dit_feed_forward {
    denoiser_affine in, out;
} dit_feed_forward;

/* GELU (tanh) between two linear maps. Takes x over. */
lt_tensor dit_feed(lt_context *c, dit_feed_forward *f, lt_tensor x);

typedef struct dit_time {
    denoiser_affine first, second;
} dit_time;

/* Linear SiLU Linear of a timestep's (or any value's) sinusoids: [n,C] of n values. */
lt_tensor dit_embed_values(lt_context *c, lt_denoiser *d, dit_time *t, const double *values, int n);

/* LN(x) (1 + scale) + shift without an affine map of its own. x [N,L,C]; scale, shift [M,C], M 1 or N. Borrows. */
lt_tensor dit_modulated_norm(lt_context *c, lt_tensor x, double eps, lt_tensor scale, lt_tensor shift);
/* x + gate y. Takes x and y over. */
lt_tensor dit_add_gated(lt_context *c, lt_tensor x, lt_tensor y, lt_tensor gate);

/* denoiser_dim of `module``leaf`, 0 also for a size that no network has, so that products of a few cannot overflow. */
int dit_dim(const lt_checkpoint *checkpoint, int axis, const char *prefix, const char *module,
            const char *leaf);

/* 1 to 64 on each axis. */
bool dit_patch_is_sane(const int patch[3]);

/* How many consecutive names prefix + `pattern` (which holds one %d) there are, at most DIT_MAX_BLOCKS. */
int dit_count(const lt_checkpoint *checkpoint, const char *prefix, const char *pattern);

#endif
