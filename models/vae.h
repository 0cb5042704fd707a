/* vae.h - the video VAEs: AutoencoderKL (SD, SDXL) and AutoencoderKLTemporalDecoder (SVD).
 *
 * Tensors in, tensors out. Frames [N,H,W,3] in [-1,1], latents [N,H/8,W/8,C] unscaled (the mean itself; multiply by scaling_factor for a denoiser).
 * Sources: diffusers' AutoencoderKL, AutoencoderKLTemporalDecoder; lite-sora's svd_vae.py and sd_vae.py (branch dev). */
#ifndef LT_VAE_H
#define LT_VAE_H

#include "kernels/ops.h"

/* Where lite-sora and diffusers differ (eps of norms, rounding of bytes), whose numbers are followed.
 * AUTO: a file with lite-sora's names means lite-sora, any other diffusers. */
typedef enum { LT_NUMERICS_AUTO, LT_NUMERICS_DIFFUSERS, LT_NUMERICS_LITE_SORA } lt_numerics;

typedef struct lt_vae lt_vae;

typedef struct lt_vae_info {
    bool temporal; /* the decoder mixes frames (SVD); otherwise every frame stands alone */
    bool has_encoder, has_decoder;
    int latent_channels; /* 4 */
    int factor;          /* pixels per latent cell on an edge: 8 */
    double scaling_factor;
    lt_numerics numerics; /* never AUTO */
    int64_t n_parameters;
    size_t weight_bytes; /* of the mapped files */
    char digest[33];     /* XXH3-128 of all weight files and the configuration, hex */
} lt_vae_info;

enum { LT_VAE_ENCODER = 1, LT_VAE_DECODER = 2 };

/* Open a diffusers folder (config.json, single file or sharded) or a single .safetensors; weights are mapped. parts: which halves the caller needs;
 * tensors of the other half may be absent. Errors name every missing, extra and mis-shaped tensor and NaN weights. */
lt_status lt_vae_open(lt_vae **vae, const char *path, int parts, lt_numerics numerics, lt_err *err);
void lt_vae_close(lt_vae *vae, lt_context *context); /* context: the one that packed the weights, or NULL */
const lt_vae_info *lt_vae_get_info(const lt_vae *vae);

/* frames [N,H,W,3], H and W multiples of factor -> moments [N,H/8,W/8,2C]: mean, then log-variance. */
lt_tensor lt_vae_encode(lt_context *c, lt_vae *vae, lt_tensor frames);

/* latents [T,h,w,C], unscaled -> frames [T,8h,8w,3]. Temporal: T is one window. */
lt_tensor lt_vae_decode(lt_context *c, lt_vae *vae, lt_tensor latents);

#endif
