/* denoise.h - the stage `denoise`: from noise (or encoded latents) and prompts to latents, or for a network of pixels to frames.
 *
 * The stage makes its units in order, along the wavefront of models/wavefront.h. Finished latents and the frontier go to a
 * cache in one transaction: the graph's, or without one the stage's own in the run folder. */
#ifndef LT_DENOISE_H
#define LT_DENOISE_H

#include "cache/cache.h"
#include "kernels/safetensors.h"
#include "models/ddim.h"
#include "models/denoiser.h"
#include "models/wavefront.h"
#include "stages/device/device.h"
#include "stages/runtime/stage.h"

extern const lt_stage lt_denoise_stage;

enum { LT_DENOISE_TEXT, LT_DENOISE_LATENTS }; /* input ports */

typedef struct lt_denoise_config {
    const char *model, *device, *scheduler, *initial_noise;
    int as, numerics, dtype, spacing, prediction; /* indices of their choices */
    int64_t steps, frames, chunk, seed, window, stride, memory, cache_size;
    double cfg_scale, strength, fps, start_sec, end_sec, transition;
    lt_size size;
} lt_denoise_config;

/* ---- the network and its schedule (denoise_model.c) ------------------------------------------------------ */

typedef struct lt_denoise_model {
    const lt_denoise_config *config;
    lt_denoiser *net;
    const lt_denoiser_info *info;
    lt_stage_device device;
    lt_context *dry, *run; /* run: NULL until memory is reserved */
    size_t run_bytes;
    int threads;
    lt_dtype dtype;
    lt_ddim ddim;
    lt_safetensors *noise_file; /* NULL: noise is generated */
    lt_tensor noise;            /* f32 [C,T,h,w] */
    char noise_digest[33], note[512];
    char digest[33]; /* of network, numerics, schedule, numeric class */
} lt_denoise_model;

/* Open what the options name. Errors as lt_denoiser_open and lt_ddim_read_config; the model is empty then. */
lt_status lt_denoise_model_open(lt_denoise_model *model, const lt_denoise_config *config, int threads,
                                lt_err *err);
/* Make model->run a context whose workspace holds at least `bytes`. */
lt_status lt_denoise_model_reserve(lt_denoise_model *model, size_t bytes, lt_err *err);
void lt_denoise_model_close(lt_denoise_model *model); /* an empty one too */

/* ---- geometry (denoise_plan.c): the same when planned and when run --------------------------------------- */

typedef struct lt_denoise_geometry {
    int64_t n_frames, chunk;
    int height, width, channels; /* of what is denoised */
    int factor;                  /* pixels per cell: 8, or 1 for a network of pixels */
    double fps, start_sec, end_sec;
    lt_wavefront_params waves;
    uint32_t text_units, latent_units; /* of the inputs that may be needed at once */
    size_t workspace_bytes, weight_bytes;
    double window_flops; /* of one pass of the network over a window */
} lt_denoise_geometry;

/* E_INVALID with the multiple that is needed, E_MISMATCH where text or latents do not fit the network, E_NO_MEMORY. inputs by
 * port; latents may be NULL. */
lt_status lt_denoise_geometry_of(lt_denoise_model *model, const lt_stream *const *inputs,
                                 lt_denoise_geometry *geometry, lt_err *err);

/* Fill `out`; everything it points to lives in arena. clip: its number in the noise. */
lt_status lt_denoise_describe(const lt_denoise_model *model, const lt_denoise_geometry *geometry,
                              const lt_stream *const *inputs, uint32_t clip, lt_stream *out, lt_arena *arena,
                              lt_err *err);

/* Units of the latents' stream that must come in for output unit `unit` once those before it were made. */
lt_need lt_denoise_latents_needed(const lt_denoise_geometry *geometry, const lt_stream *latents,
                                  uint64_t unit);

lt_status lt_denoise_stage_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan,
                                lt_err *err);

/* ---- predictions (denoise_predict.c): what the wavefront calls ------------------------------------------- */

/* Everything a prediction is made from. Inputs' payloads are those of the running process call. */
typedef struct lt_denoise_work {
    lt_denoise_model *model;
    const lt_denoise_geometry *geometry;
    const lt_stream *text, *latents; /* latents NULL: from noise alone */
    const lt_payload *texts;         /* every unit of the text */
    const lt_payload *latent_units;  /* n_latents of them, one after the other */
    uint64_t first_latent, n_latents;
    uint32_t clip;
    const char *name;   /* of the clip, for sentences */
    float *one, *blend; /* a window each */
    double *weights;    /* of prompts, window after window frame: [text units - 1] */
} lt_denoise_work;

lt_status lt_denoise_work_init(lt_denoise_work *work, lt_denoise_model *model,
                               const lt_denoise_geometry *geometry, const lt_stream *const *inputs,
                               const char *name, uint32_t clip, lt_err *err);
void lt_denoise_work_finish(lt_denoise_work *work);

/* lt_wavefront_calls; user is an lt_denoise_work. */
lt_status lt_denoise_enter(void *user, int64_t first, int64_t n, float *x, lt_err *err);
lt_status lt_denoise_predict(void *user, int64_t k, int step, int64_t first, int64_t n, const float *x,
                             float *prediction, lt_err *err);

/* Part of prompt i, 0 .. n_at-1, in the prediction for a frame at `seconds`; all parts add up to 1. */
double lt_denoise_prompt_weight(const double *at, size_t n_at, double transition, double seconds, size_t i);

/* A window with all its operators on the dry context. */
lt_status lt_denoise_dry_run(lt_denoise_model *model, int64_t t, int height, int width, const lt_stream *text,
                             lt_err *err);

/* ---- what is kept (denoise_store.c) ---------------------------------------------------------------------- */

typedef struct lt_denoise_store {
    lt_cache *cache;
    lt_cache_clip record; /* text of the clip's stream, borrowed */
    float *values;        /* a chunk [n,C,h,w] */
} lt_denoise_store;

/* The folder of the cache: the graph's, or one in the run folder. In arena. */
const char *lt_denoise_store_folder(const lt_setup *setup, bool pixels, lt_arena *arena);

lt_status lt_denoise_store_open(lt_denoise_store *store, lt_cache *cache, const lt_denoise_model *model,
                                const lt_denoise_geometry *geometry, const lt_stream *out, lt_err *err);
void lt_denoise_store_finish(lt_denoise_store *store);

/* Chunk at `first` as [n,h,w,C] to x. E_NOT_FOUND. */
lt_status lt_denoise_store_get(lt_denoise_store *store, int64_t first, float *x, lt_err *err);
/* Keep the chunk and, in the same transaction, the frontier behind it. */
lt_status lt_denoise_store_put(lt_denoise_store *store, int64_t first, const float *x,
                               const lt_wavefront *frontier, lt_err *err);
/* Keep the frontier alone. */
lt_status lt_denoise_store_mark(lt_denoise_store *store, const lt_wavefront *frontier, lt_err *err);
/* Load the frontier that was kept, if it and all chunks before it are there and whole; else leave the wavefront as new. A
 * complete clip: *complete, and nothing is loaded. */
lt_status lt_denoise_store_resume(lt_denoise_store *store, lt_wavefront *wavefront, bool *complete,
                                  lt_err *err);

#endif
