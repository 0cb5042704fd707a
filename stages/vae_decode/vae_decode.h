/* vae_decode.h - the stage `vae_decode`: latents to windows of frames. */
#ifndef LT_VAE_DECODE_H
#define LT_VAE_DECODE_H

#include "stages/vae/vae_stage.h"

extern const lt_stage lt_vae_decode_stage;

typedef struct lt_vae_decode_config {
    lt_vae_common common;
    int64_t window, stride;
    const char *tile_stride;
    int bits; /* index of 8|16 */
} lt_vae_decode_config;

/* ---- geometry (decode_plan.c): the same when planned and when run --------------------------------------- */

typedef struct lt_decode_geometry {
    lt_decode_plan plan;
    lt_tile_cost cost;
    lt_dtype dtype; /* of latents */
    int channels, bits;
    int64_t n_frames, chunk, n_windows;
    int64_t longest; /* frames of the longest window */
    bool truncate;
    bool endless; /* n_frames is not known yet, but the most there may be */
    bool there;   /* windows are put together in the device's memory, since chunks come there */
} lt_decode_geometry;

/* Work out windows, tiles and cost for a clip of `input`, whose chunks come on the device of id `device` (NULL: in the host's memory). E_INVALID, E_NO_MEMORY, E_UNSUPPORTED with sentences. */
lt_status lt_decode_geometry_of(const lt_vae_decode_config *config, lt_vae_host *host, const lt_stream *input,
                                const char *device, lt_decode_geometry *geometry, lt_err *err);
/* Room for a window's latents in the device's memory: chunks that come from the host are uploaded to it. Not where !geometry->there. */
lt_tensor lt_decode_new_window(lt_context *context, const lt_decode_geometry *geometry, int64_t n);

/* Fill `output` from the input's description; everything it points to lives in arena. */
lt_status lt_decode_describe(const lt_vae_host *host, const lt_stream *input,
                             const lt_decode_geometry *geometry, lt_stream *output, lt_arena *arena,
                             lt_err *err);

/* The runs of frames that the payload of window k is made of: shared ones at its start, its own, shared ones at its
 * end; count 0 where there is none. */
typedef struct lt_window_parts {
    int64_t first, lead, own, trail;
} lt_window_parts;
lt_window_parts lt_decode_parts(const lt_decode_geometry *geometry, int64_t k);

/* Latent chunks that window k is made of; of an endless clip also the chunk of the frame behind it, which shows that the
 * window is not the last: that one is weighted otherwise. */
lt_need lt_decode_need(const lt_decode_geometry *geometry, int64_t k);

/* Elements of one frame of pixels; bytes of the buffers of a clip: latents gathered, weighted sums, pixels of a frame. */
size_t lt_decode_frame_elements(const lt_decode_geometry *geometry);
size_t lt_decode_latent_bytes(const lt_decode_geometry *geometry);
size_t lt_decode_sum_bytes(const lt_decode_geometry *geometry);
size_t lt_decode_pixel_bytes(const lt_decode_geometry *geometry);

lt_status lt_decode_stage_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan,
                               lt_err *err);

#endif
