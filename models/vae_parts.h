/* vae_parts.h - what a video VAE is made of; shared by vae_names.c, vae_config.c, vae_open.c and vae.c. Internal. */
#ifndef LT_VAE_PARTS_H
#define LT_VAE_PARTS_H

#include "models/checkpoint.h"
#include "models/vae.h"

enum { VAE_MAX_LEVELS = 8, VAE_MAX_LAYERS = 16 };
typedef enum { VAE_ENCODER, VAE_DECODER, VAE_N_HALVES } vae_half_id;

/* All that decides the shapes. */
typedef struct vae_arch {
    bool temporal;
    int n_levels, channels[VAE_MAX_LEVELS]; /* block_out_channels: encoder's order, full resolution first */
    int layers; /* layers_per_block: residual blocks a level, one more in the decoder */
    int n_mid;  /* residual blocks in the middle of the temporal decoder; 2 elsewhere */
    int groups;
    int in_channels, out_channels, latent_channels;
    bool mid_attention, quant, post_quant;
    double scaling_factor;
    bool factor_told; /* by config.json */
    unsigned halves;  /* that the file holds: bits 1 << vae_half_id */
} vae_arch;

/* ---- names (vae_names.c) ----------------------------------------------------------------------------------------- */

typedef enum {
    VAE_CONV_IN,
    VAE_RES,     /* residual block j of level i */
    VAE_SAMPLER, /* down- or upsampling convolution of level i */
    VAE_MID_RES, /* residual block j of the middle */
    VAE_MID_ATTN,
    VAE_NORM_OUT,
    VAE_CONV_OUT,
    VAE_TIME_CONV, /* time_conv_out */
    VAE_QUANT,     /* quant_conv, post_quant_conv */
    VAE_N_MODULES
} vae_module;

typedef enum {
    VAE_NORM1,
    VAE_CONV1,
    VAE_NORM2,
    VAE_CONV2,
    VAE_SHORTCUT,
    VAE_ATTN_NORM,
    VAE_ATTN_Q,
    VAE_ATTN_K,
    VAE_ATTN_V,
    VAE_ATTN_OUT,
    VAE_N_LEAVES
} vae_leaf;

/* One way of naming tensors. A module's pattern holds {i} the level in order of execution, {r} the level counted from
 * the last executed, {j} the block, {m} the block counted from 1, {n} a number that counts modules in order of
 * execution (lite-sora). */
typedef struct vae_names {
    const char *label;                  /* for error sentences */
    const char *scope;                  /* names of the whole model begin with it */
    const char *marks[VAE_N_HALVES][2]; /* a file that holds one of these holds this half */
    lt_numerics numerics;
    bool numbered;                                   /* {n} */
    bool one_half;                                   /* both halves have the same names: a file holds one */
    const char *module[VAE_N_HALVES][VAE_N_MODULES]; /* NULL: not known under this way */
    const char *spatial, *temporal,
        *mix; /* what follows the module in a temporal decoder's residual blocks */
    const char *leaf[VAE_N_LEAVES];
    const char *temporal_leaf[VAE_CONV2 + 1]; /* of the part over time; NULL: as in the spatial one */
    const char *const *ignored;               /* prefixes of tensors that may stay unused */
} vae_names;

/* The way in which a checkpoint's tensors are named, or NULL. *halves: which it holds. */
const vae_names *vae_names_of(const lt_checkpoint *checkpoint, unsigned *halves);

/* A module's name into text. number: what {n} stands for. */
void vae_module_name(const vae_names *names, vae_half_id half, vae_module module, int level, int n_levels,
                     int block, int number, char *text, size_t text_bytes);

/* ---- architecture (vae_config.c) ----------------------------------------------------------------------------------- */

/* From config.json, or, where there is none, from names and shapes of the halves that are `wanted`. E_FORMAT, E_UNSUPPORTED. */
lt_status vae_arch_read(vae_arch *arch, const lt_checkpoint *checkpoint, const vae_names *names,
                        unsigned halves, unsigned wanted, lt_err *err);

/* ---- the network ------------------------------------------------------------------------------------------------------ */

typedef struct vae_affine {
    lt_weight weight, bias;
} vae_affine;

typedef struct vae_resnet {
    vae_affine norm1, conv1, norm2, conv2, shortcut;
    bool has_shortcut;
} vae_resnet;

/* A residual block; in the temporal decoder followed by one over time, added with weight alpha. */
typedef struct vae_block {
    vae_resnet spatial, temporal;
    bool has_temporal;
    lt_weight mix;
    double alpha;
} vae_block;

typedef struct vae_attention {
    vae_affine norm, q, k, v, out;
    int channels;
} vae_attention;

typedef struct vae_level {
    vae_block blocks[VAE_MAX_LAYERS + 1];
    int n_blocks;
    vae_affine sampler;
    bool has_sampler;
} vae_level;

typedef struct vae_half {
    bool open;
    vae_affine conv_in, norm_out, conv_out, time_conv, quant;
    bool has_time_conv, has_quant;
    vae_block mid[VAE_MAX_LAYERS];
    int n_mid;
    vae_attention attention;
    bool has_attention;
    vae_level levels[VAE_MAX_LEVELS]; /* in order of execution */
    int n_levels;
    double temporal_eps, norm_out_eps;
    int64_t n_parameters;
    int first_weight, n_weights; /* of lt_vae's list */
} vae_half;

struct lt_vae {
    lt_checkpoint *checkpoint;
    vae_arch arch;
    lt_vae_info info;
    vae_half halves[VAE_N_HALVES];
    int64_t group_pixels; /* VAE_GROUP_PIXELS */
    lt_weight **weights;  /* all of them, for lt_weight_finish */
    int n_weights;
};

/* Pixels of frames that the decoder upsamples at once: enough to keep all cores busy. */
#define VAE_GROUP_PIXELS (1 << 17)

/* What lite-sora multiplies all latents with; diffusers' default. */
#define VAE_SCALING_FACTOR 0.18215

/* Every eps that is the same in both references. */
#define VAE_EPS 1e-6

#endif
