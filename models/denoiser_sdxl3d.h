/* denoiser_sdxl3d.h - what SDXL3DUNet is made of; shared by denoiser_sdxl3d_names.c, denoiser_sdxl3d_open.c and
 * denoiser_sdxl3d.c. Internal.
 *
 * Levels 0 .. n-1 go down: `layers` residual blocks each, with an attention block after each where the level has some, then
 * a convolution that halves T, H and W (not after the last level). The middle: residual, attention, residual. The levels
 * then come up again in reverse, with one block more each; every block takes the last skip beside its input. */
#ifndef LT_DENOISER_SDXL3D_H
#define LT_DENOISER_SDXL3D_H

#include "models/denoiser_parts.h"

enum {
    SDXL3D_MAX_LEVELS = 6,
    SDXL3D_MAX_LAYERS = 6,
    SDXL3D_MAX_DEPTH = 64,
    SDXL3D_MAX_SKIPS = SDXL3D_MAX_LEVELS * (SDXL3D_MAX_LAYERS + 1),
    SDXL3D_IDS = 6 /* that a video's size is told with */
};

/* All that decides the shapes. */
typedef struct sdxl3d_arch {
    int n_levels, channels[SDXL3D_MAX_LEVELS];
    int layers; /* residual blocks a level on the way down; one more on the way up */
    int depth
        [SDXL3D_MAX_LEVELS]; /* transformer layers of a level's attention blocks; 0: the level has none */
    int heads[SDXL3D_MAX_LEVELS];
    int mid_depth;
    int in_channels;   /* of what is denoised */
    int time_width;    /* of the sum of the embeddings */
    int id_width;      /* of the sinusoids of each id */
    int pooled_width;  /* of the pooled text */
    int context_width; /* of the text's sequence */
    int groups;
    bool flat; /* kernels of pictures [O,I,3,3]; otherwise of videos [O,I,3,3,3] */
} sdxl3d_arch;

/* ---- names (denoiser_sdxl3d_names.c) ------------------------------------------------------------------------------- */

typedef enum {
    SDXL3D_TIME_1,
    SDXL3D_TIME_2,
    SDXL3D_ADD_1,
    SDXL3D_ADD_2,
    SDXL3D_CONV_IN,
    SDXL3D_DOWN_RES, /* residual block j of level i */
    SDXL3D_DOWN_ATTN,
    SDXL3D_DOWN,
    SDXL3D_MID_RES,
    SDXL3D_MID_ATTN,
    SDXL3D_UP_RES,
    SDXL3D_UP_ATTN,
    SDXL3D_UP,
    SDXL3D_NORM_OUT,
    SDXL3D_CONV_OUT,
    SDXL3D_N_MODULES
} sdxl3d_module;

typedef enum {
    SDXL3D_NORM1,
    SDXL3D_CONV1,
    SDXL3D_TIME,
    SDXL3D_NORM2,
    SDXL3D_CONV2,
    SDXL3D_SHORTCUT,
    SDXL3D_OUT, /* output projection of an attention */
    SDXL3D_GATE,
    SDXL3D_FF,
    SDXL3D_N_LEAVES
} sdxl3d_leaf;

/* One way of naming tensors. A module's pattern holds {i} the level in order of execution, on each of the two ways;
 * {j} the block, {m} the block times 2; {k} the block counted over all levels of a way, samplers included; {s} the place of
 * an upsampling convolution, after the block and its attention; {n} a number that counts all modules (lite-sora). */
typedef struct sdxl3d_names {
    const char *prefix; /* of all names; others belong to other models. NULL: lite-sora's */
    lt_numerics numerics;
    const char *module[SDXL3D_N_MODULES];
    const char *leaf[SDXL3D_N_LEAVES];
} sdxl3d_names;

/* The way in which the checkpoint's tensors are named; false when it holds no UNet of pictures or of videos. prefix: of
 * lite-sora's names. */
bool sdxl3d_names_of(const lt_checkpoint *checkpoint, const char *prefix, sdxl3d_names *names);

/* Name of a module, without the dot after it. level counts from full resolution on both ways. Of arch, number and layers of
 * levels and where attention stands are used, above `level` only on the way down. */
void sdxl3d_module_name(const sdxl3d_names *names, const sdxl3d_arch *arch, sdxl3d_module module, int level,
                        int block, char *text, size_t text_bytes);

/* From names and shapes, and from config.json, where there is one, what they do not tell: heads, groups, the width of the
 * ids. E_UNSUPPORTED for a UNet that is not SDXL's, E_FORMAT for a broken configuration. */
lt_status sdxl3d_arch_read(sdxl3d_arch *arch, const lt_checkpoint *checkpoint, const sdxl3d_names *names,
                           lt_err *err);

/* ---- the network --------------------------------------------------------------------------------------------------- */

typedef struct sdxl3d_resnet {
    denoiser_affine norm1, conv1, time, norm2, conv2, shortcut;
    bool has_shortcut;
} sdxl3d_resnet;

typedef struct sdxl3d_projections {
    denoiser_affine q, k, v, out; /* q, k, v without bias */
} sdxl3d_projections;

typedef struct sdxl3d_layer {
    denoiser_affine norm1, norm2, norm3, gate, ff;
    sdxl3d_projections self, cross;
} sdxl3d_layer;

typedef struct sdxl3d_attention {
    denoiser_affine norm, in, out;
    sdxl3d_layer *layers; /* [depth] */
    int depth, heads;
    bool joint; /* tokens of all frames see each other; otherwise those of a frame */
} sdxl3d_attention;

typedef struct sdxl3d_block {
    sdxl3d_resnet res;
    sdxl3d_attention attention; /* depth 0: none */
} sdxl3d_block;

typedef struct sdxl3d_level {
    sdxl3d_block down[SDXL3D_MAX_LAYERS], up[SDXL3D_MAX_LAYERS + 1];
    denoiser_affine halve, twice;
} sdxl3d_level;

typedef struct sdxl3d {
    sdxl3d_arch arch;
    double attention_eps; /* of the group norm before an attention block */
    denoiser_affine time[2], add[2], conv_in, norm_out, conv_out;
    sdxl3d_level levels[SDXL3D_MAX_LEVELS];
    sdxl3d_resnet mid[2];
    sdxl3d_attention mid_attention;
    int64_t group_values; /* SDXL3D_GROUP_VALUES */
} sdxl3d;

/* Values of a feed-forward network's inner layer that are there at once: enough to keep all cores busy. */
#define SDXL3D_GROUP_VALUES (1 << 24)

#define SDXL3D_EPS 1e-5 /* of every norm but that of an attention block's input */

/* denoiser_network's, of the descriptor in denoiser_sdxl3d_open.c. */
lt_tensor sdxl3d_predict(lt_context *c, lt_denoiser *denoiser, lt_tensor x, double timestep,
                         const lt_condition *condition);

#endif
