/* denoiser.h - the denoising networks: VideoDiT v1 (pixels) and v2 (latents), PixartDiT (pictures), PixartVideoDiT, and
 * SDXL3DUNet.
 *
 * One call is one evaluation: latents, a timestep and a condition in, the network's prediction (noise, or v) out. Schedules are
 * models/ddim.h's, guidance and windows the caller's. L2 within 1e-5 of lite-sora's and diffusers' own code run in float64.
 * Sources: lite-sora's models of branches main (VideoDiT v1) and dev; diffusers' PixArtTransformer2DModel,
 * UNet2DConditionModel. */
#ifndef LT_DENOISER_H
#define LT_DENOISER_H

#include "kernels/ops.h"
#include "models/vae.h" /* lt_numerics */

typedef struct lt_denoiser lt_denoiser;

typedef enum {
    LT_DENOISER_VIDEO_DIT_V1,
    LT_DENOISER_VIDEO_DIT_V2,
    LT_DENOISER_PIXART,
    LT_DENOISER_PIXART_VIDEO,
    LT_DENOISER_SDXL_3D,
    LT_DENOISER_N_KINDS
} lt_denoiser_kind;

typedef struct lt_denoiser_info {
    lt_denoiser_kind kind;
    const char *name;      /* "VideoDiT v2": for people */
    bool pixels;           /* works on frames, not on latents */
    int channels;          /* of what is denoised: 3 or 4 */
    int multiple[3];       /* T, h, w must be multiples of these, in latent (or pixel) units */
    bool single_frame;     /* T must be 1 */
    int context_width;     /* of the text's sequence; 0: it takes none */
    int context_length;    /* tokens it was made for: 77, 120; others are taken too */
    bool context_mask;     /* padded tokens are masked */
    int pooled_width;      /* of the pooled text vector; 0: it takes none */
    bool seconds;          /* takes start and end seconds */
    bool size_ids;         /* takes sizes in pixels: SDXL six ids, PixArt for 1024 pixels the first two */
    double scaling_factor; /* of its latents; SDXL's own, 0.13025, under diffusers' numerics */
    bool
        other_factor; /* scaling_factor is not the network's usual one, but that of ../vae/config.json (PixArt) */
    double beta_start, beta_end; /* of the schedule that its pipeline samples with */
    bool beta_linear;            /* linear, otherwise scaled_linear */
    lt_numerics numerics;        /* never AUTO */
    int64_t n_parameters;
    size_t weight_bytes;
    char digest[33]; /* of all weight files and the configuration, hex */
} lt_denoiser_info;

/* Open the network at `path`: a lite-sora checkpoint as safetensors (bare names, or with the prefix "denoising_model."), a diffusers
 * folder of a PixArt transformer or an SDXL UNet (or a pipeline's folder that holds it), or a single-file SDXL checkpoint;
 * two-dimensional weights are inflated as lite-sora does. as: LT_DENOISER_N_KINDS lets names and shapes decide; otherwise the
 * kind that is wanted, such as PIXART_VIDEO from a PixArt picture model, whose patch tensors are then left at zero and
 * named in *note (at most note_bytes; may be NULL).
 * numerics: AUTO follows lite-sora for its names, diffusers otherwise.
 * Errors as lt_vae_open (models/vae.h); a checkpoint of another network is E_UNSUPPORTED and says which one it looks like;
 * a .ckpt of training has to go through tools/to_safetensors first, and that is said. */
lt_status lt_denoiser_open(lt_denoiser **denoiser, const char *path, lt_denoiser_kind as,
                           lt_numerics numerics, char *note, size_t note_bytes, lt_err *err);
/* context: the one that packed the weights, or NULL where no context has run it. Takes NULL. */
void lt_denoiser_close(lt_denoiser *denoiser, lt_context *context);
const lt_denoiser_info *lt_denoiser_get_info(const lt_denoiser *denoiser);

/* What a prediction is conditioned on. A tensor of batch 1 serves every sample. */
typedef struct lt_condition {
    lt_tensor context; /* [N or 1, L, context_width] in the context's dtype, or LT_NONE where there is none */
    const int *n_context;      /* [N or 1]: tokens of each that are not padding; NULL: all */
    lt_tensor pooled;          /* [N or 1, pooled_width], or LT_NONE */
    double start_sec, end_sec; /* of the T frames handed in */
    double size_ids[6]; /* SDXL: height, width, 0, 0, height, width, in pixels; PixArt: height, width */
} lt_condition;

/* E_INVALID, naming the multiple, when the network cannot take such a video. */
lt_status lt_denoiser_check_size(const lt_denoiser *denoiser, int64_t t, int64_t h, int64_t w, lt_err *err);

/* x [N,T,h,w,channels] in the context's dtype; timestep of the schedule's 1,000, one for all samples. Returns the
 * prediction, of x's shape (PixArt's sigma half is dropped); the caller's to drop. Errors are kept in the context. */
lt_tensor lt_denoise(lt_context *c, lt_denoiser *denoiser, lt_tensor x, double timestep,
                     const lt_condition *condition);

#endif
