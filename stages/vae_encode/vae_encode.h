/* vae_encode.h - the stage `vae_encode`: frames to latents, through the cache. */
#ifndef LT_VAE_ENCODE_H
#define LT_VAE_ENCODE_H

#include "cache/cache.h"
#include "stages/vae/vae_stage.h"

extern const lt_stage lt_vae_encode_stage;

typedef struct lt_vae_encode_config {
    lt_vae_common common;
    double overlap;
    int64_t batch; /* 0: by device and memory */
    int64_t cache_size;
    int cache_dtype; /* index of f32|f16|bf16 */
    bool logvar;
} lt_vae_encode_config;

/* ---- geometry (encode_plan.c): the same when planned and when run --------------------------------------- */

typedef struct lt_encode_geometry {
    lt_encode_plan plan;
    lt_tile_cost cost;
    lt_dtype pixels, dtype; /* of frames, of latents */
    int channels, height, width;
    int64_t n_frames, chunk;
    bool
        may_leave; /* a chunk's latents can be left on the device: they end there, and are all that a unit has */
} lt_encode_geometry;

/* Work out tiles, frames at once and cost for a clip of `input`. E_INVALID, E_NO_MEMORY, E_UNSUPPORTED with sentences. */
lt_status lt_encode_geometry_of(const lt_vae_encode_config *config, lt_vae_host *host, const lt_stream *input,
                                lt_encode_geometry *geometry, lt_err *err);

/* Fill `output` from the input's description; everything it points to lives in arena. */
lt_status lt_encode_describe(const lt_vae_encode_config *config, const lt_vae_host *host,
                             const lt_stream *input, const lt_encode_geometry *geometry, lt_stream *output,
                             lt_arena *arena, lt_err *err);

/* "tile none" or "tile 512, overlap 0.25". */
void lt_encode_tile_text(const lt_encode_geometry *geometry, char *text, size_t text_bytes);

/* Bytes of f32 moments and of rounded values of one chunk, that a clip holds. */
size_t lt_encode_moment_bytes(const lt_encode_geometry *geometry);
size_t lt_encode_value_bytes(const lt_encode_geometry *geometry);

lt_status lt_encode_stage_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan,
                               lt_err *err);

#endif
