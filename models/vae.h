/* vae.h - the video VAEs: AutoencoderKL (SD, SDXL) and AutoencoderKLTemporalDecoder (SVD).
 *
 * Tensors in, tensors out. Frames [N,H,W,3] in [-1,1], latents [N,H/8,W/8,C] unscaled (the mean itself; multiply by
 * scaling_factor for a denoiser). Numbers: L2 within 1e-5 of the references run in float64 (f32 on the CPU).
 * Sources: diffusers' AutoencoderKL, AutoencoderKLTemporalDecoder; lite-sora's svd_vae.py and sd_vae.py (branch dev). */
#ifndef LT_VAE_H
#define LT_VAE_H

#include "kernels/ops.h"

/* Where lite-sora and diffusers differ (eps of norms, rounding of bytes), whose numbers are followed.
 * AUTO: a file with lite-sora's names means lite-sora, any other diffusers. */
typedef enum { LT_NUMERICS_AUTO, LT_NUMERICS_DIFFUSERS, LT_NUMERICS_LITE_SORA } lt_numerics;

typedef struct lt_vae lt_vae;

typedef struct lt_vae_info {
    bool temporal;                 /* the decoder mixes frames (SVD); otherwise every frame stands alone */
    bool has_encoder, has_decoder; /* opened: asked for and there */
    int latent_channels;           /* 4 */
    int factor;                    /* pixels per latent cell on an edge: 8 */
    double scaling_factor;         /* what a denoiser's latents are multiplied with */
    bool factor_told;     /* by config.json; otherwise 0.18215, and under diffusers' numerics 0.13025 for
                                      the VAE in a whole SDXL checkpoint */
    lt_numerics numerics; /* never AUTO */
    int64_t n_parameters; /* of the halves that are open */
    size_t weight_bytes;  /* of the mapped files */
    char digest[33];      /* XXH3-128 of all weight files and the configuration, hex */
} lt_vae_info;

enum { LT_VAE_ENCODER = 1, LT_VAE_DECODER = 2 };

/* Open the VAE at `path`: a diffusers folder (config.json and one file or shards), a pipeline's folder that holds such a
 * folder `vae`, or one .safetensors file, whose architecture is then read from names and shapes. Weights are mapped.
 * A file that is named as one in a folder has that folder's config.json.
 * Names: diffusers' of today and from before 0.17, ldm's (alone or in a whole checkpoint; SVD's temporal decoder, too), lite-sora's.
 * parts: the halves the caller needs, LT_VAE_ENCODER | LT_VAE_DECODER; what stands under the other's names is not looked at.
 * Errors: E_NOT_FOUND no file, or not this half; E_FORMAT a broken file; E_UNSUPPORTED no video VAE, one whose latents are
 * shifted (SD3, Flux), or of other than 4 channels and no factor is told; E_MISMATCH one
 * sentence with every missing, extra and mis-shaped tensor; E_NUMERIC naming the weights that hold NaN or infinity;
 * E_IO, E_NO_MEMORY. *vae is NULL then. The first opening of a file reads it whole, for its digest (checkpoint.h). */
lt_status lt_vae_open(lt_vae **vae, const char *path, int parts, lt_numerics numerics, lt_err *err);
/* context: the one that packed the weights, or NULL where no context has run it. Takes NULL. */
void lt_vae_close(lt_vae *vae, lt_context *context);
const lt_vae_info *lt_vae_get_info(const lt_vae *vae);

/* frames [N,H,W,3] in the context's dtype, H and W multiples of factor -> moments [N,H/8,W/8,2C]: mean, then
 * log-variance. Each frame stands alone. The result is the caller's to drop; errors are kept in the context. */
lt_tensor lt_vae_encode(lt_context *c, lt_vae *vae, lt_tensor frames);

/* latents [T,h,w,C], unscaled, in the context's dtype -> frames [T,8h,8w,3], not clamped. Temporal: T is one window, and
 * every frame depends on all of it. As above. */
lt_tensor lt_vae_decode(lt_context *c, lt_vae *vae, lt_tensor latents);

#endif
