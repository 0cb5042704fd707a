/* tiling.h - tiles and windows: encoding and decoding video of any size and length through a VAE in bounded
 * memory.
 *
 * Frames are encoded one by one, cut into tiles only where a whole frame does not fit (equal to diffusers'
 * tiled_encode). Video is decoded in windows of latent frames, each cut into tiles where needed, and put
 * together by weights; the result equals lite-sora's decode_video for the same parameters, while only a
 * window is held.
 *
 *     producer:  for each window k:  lt_decode_window -> weighted sum of its frames [n,H,W,3]
 *                    its middle frames, which no other window touches: lt_decode_finish -> final values
 *     consumer:  for each window k, in order:  lt_blend_add(lead), lt_blend_take until LT_AGAIN, middle as
 *                    it came, lt_blend_add(trail)
 *
 * Terms: T latent frames in a clip (as many frames come out); h, w latent cells; H = factor * h,
 * W = factor * w pixels. Latents are unscaled, as in vae.h. Buffers of floats and data of tensors given here
 * are host memory of the caller. Geometry functions neither allocate nor block and may be called from any
 * thread. */
#ifndef LT_TILING_H
#define LT_TILING_H

#include "models/vae.h"

/* ---- decode: geometry ---------------------------------------------------------------------------------- */

/* How windows and tiles lie over a clip: all that decides the result besides weights and latents. The wire
 * carries these numbers (Windows and Stream of longtake.proto), so that a consumer can rebuild the weights.
 * A stride is the distance of starts, at most the window or tile. A tile as large as the frame (stride equal
 * to it) means no tiles. temporal = false: every frame stands alone, windows are batches and do not overlap
 * (stride == window), and the result does not depend on their length. */
typedef struct lt_decode_plan {
    bool temporal;
    int factor;                      /* pixels per latent cell */
    int height, width;               /* of a latent frame, cells */
    int window, stride;              /* latent frames */
    int tile_height, tile_width;     /* cells */
    int stride_height, stride_width; /* cells */
} lt_decode_plan;

/* E_INVALID with a sentence when a number is not positive, a stride exceeds its tile, or a frame of f32
 * pixels would exceed 2^40 bytes. Call once on a plan that came from elsewhere; all functions below trust
 * it. */
lt_status lt_decode_plan_check(const lt_decode_plan *plan, lt_err *err);

/* Windows of a clip of n_frames; 0 when n_frames is 0. */
int64_t lt_decode_windows_count(const lt_decode_plan *plan, int64_t n_frames);

/* Frames [*first, *end) of window k, 0 <= k < count: the latents it needs and the frames it gives. The last
 * may be short. */
void lt_decode_window_range(const lt_decode_plan *plan, int64_t n_frames, int64_t k, int64_t *first,
                            int64_t *end);

/* How many frames at the start (*lead) and end (*trail) of window k other windows add to; the rest between
 * them is final once divided by its weight. *lead + *trail <= end - first; where everything is shared the
 * sum is equal to it. */
void lt_decode_window_shared(const lt_decode_plan *plan, int64_t n_frames, int64_t k, int64_t *lead,
                             int64_t *trail);

/* First and last window that cover `frame`. A consumer that resumes at `frame` needs windows from *first
 * on. */
void lt_decode_windows_of_frame(const lt_decode_plan *plan, int64_t n_frames, int64_t frame, int64_t *first,
                                int64_t *last);

/* Weight of window k at absolute frame `frame` (inside its range). Constant over space (no tiles): returns
 * true and sets weights[0] alone; otherwise false and all of weights [H,W]. weights has room for H * W
 * floats, or for one where tile_height >= height and tile_width >= width.
 * Numbers: lite-sora's build_mask, summed over the window's tiles row by row; > 0 everywhere. */
bool lt_decode_weights(const lt_decode_plan *plan, int64_t n_frames, int64_t k, int64_t frame,
                       float *weights);

/* ---- decode: work ---------------------------------------------------------------------------------------- */

/* Decode window k of a clip of n_frames. latents [n,h,w,C] with n = end - first; F32, F16, BF16 (converted
 * to the context's dtype). sums [n,H,W,3] f32, overwritten: over its tiles, frames times weights.
 * The workspace must hold the peak that lt_decode_plan_auto told. With a dry context nothing is read or
 * written (latents' shape counts; its data and sums may be NULL). Errors: of the operators, E_INVALID for
 * latents of another shape; sums then hold nothing of use. The context stays usable. */
lt_status lt_decode_window(lt_context *context, lt_vae *vae, const lt_decode_plan *plan, int64_t n_frames,
                           int64_t k, lt_tensor latents, float *sums, lt_err *err);

/* The same for a plan without tiles, of latents that are in the device's memory already, in the context's dtype. They stay. */
lt_status lt_decode_window_there(lt_context *context, lt_vae *vae, const lt_decode_plan *plan,
                                 int64_t n_frames, int64_t k, lt_tensor latents, float *sums, lt_err *err);
bool lt_decode_has_tiles(const lt_decode_plan *plan);

/* Final values of `count` frames from absolute frame `first` on that window k alone covers:
 * values [count,H,W,3] = sums / weight. values may be sums. E_NO_MEMORY. */
lt_status lt_decode_finish(const lt_decode_plan *plan, int64_t n_frames, int64_t k, int64_t first,
                           int64_t count, const float *sums, float *values, lt_err *err);

/* ---- decode: the consumer's side ------------------------------------------------------------------------- */

/* Puts windows together. Holds the frames that later windows still add to (at most window - stride when fed
 * lead and trail parts, at most window when fed whole windows), nothing else; memory is reused. */
typedef struct lt_blend lt_blend;

/* Frames before first_frame are ignored: start feeding with the first window that covers it. */
lt_status lt_blend_create(lt_blend **blend, const lt_decode_plan *plan, int64_t n_frames, int64_t first_frame,
                          lt_err *err);
void lt_blend_destroy(lt_blend *blend);

/* The clip turned out to have n_frames, fewer than were said at first; no window that was added needs to be another for
 * it. Frames that no further window adds to are final now. */
void lt_blend_end(lt_blend *blend, int64_t n_frames);

/* Add window k's sums of frames first .. first+count-1: sums [count,H,W,3]. Windows come in order, and the
 * frames of one window from first to last; parts that stand alone may be left out. E_INVALID when out of
 * order, E_NO_MEMORY; nothing is changed then. */
lt_status lt_blend_add(lt_blend *blend, int64_t k, int64_t first, int64_t count, const float *sums,
                       lt_err *err);

/* The oldest frame held, if no further window adds to it: *frame and values [H,W,3], final. LT_AGAIN
 * otherwise. Frames come out in order. Errors: none but LT_AGAIN. */
lt_status lt_blend_take(lt_blend *blend, int64_t *frame, float *values);

/* ---- encode ------------------------------------------------------------------------------------------------ */

/* diffusers' tiled_encode: square tiles of `tile` pixels whose starts lie tile * (1 - overlap) apart, blended
 * linearly over tile * overlap. tile = 0, or one not smaller than the frame on both axes: no tiles. */
typedef struct lt_encode_plan {
    int factor;
    int height, width; /* of a frame, pixels; multiples of factor */
    int tile;          /* pixels: tile_sample_min_size; tile_latent_min_size is tile / factor */
    double overlap;    /* tile_overlap_factor, 0 <= overlap < 1 */
    int batch;         /* frames handed to the network at once; changes no result */
} lt_encode_plan;

/* E_INVALID when sizes are no multiples of factor, or tile and overlap do not give whole latent cells (then
 * diffusers' own result would have another shape than the frame's). */
lt_status lt_encode_plan_check(const lt_encode_plan *plan, lt_err *err);

/* frames [n,H,W,3]: U8 (bits = 8) or U16 (bits 9 .. 16) pixels, or F32, F16, BF16 values in [-1,1] (bits
 * ignored). mean, logvar [n,h,w,C] f32, overwritten; logvar may be NULL, and is clamped to [-30, 20] as
 * diffusers' DiagonalGaussianDistribution does. Frame i does not depend on the others. Dry: as
 * lt_decode_window. */
lt_status lt_encode_frames(lt_context *context, lt_vae *vae, const lt_encode_plan *plan, lt_tensor frames,
                           int bits, float *mean, float *logvar, lt_err *err);

/* The same, with what may be in the device's memory, for a plan without tiles: `frames`, where `there` says so; and `kept`, a tensor [n,h,w,C]
 * of any float dtype, LT_NONE: none, that gets the means once more, rounded to it once. */
lt_status lt_encode_frames_there(lt_context *context, lt_vae *vae, const lt_encode_plan *plan,
                                 lt_tensor frames, bool there, int bits, float *mean, float *logvar,
                                 lt_tensor kept, lt_err *err);
bool lt_encode_has_tiles(const lt_encode_plan *plan);

/* ---- plans --------------------------------------------------------------------------------------------------- */

/* What a plan costs, from dry runs of the network. */
typedef struct lt_tile_cost {
    size_t workspace_bytes; /* peak of the context's workspace: give lt_context_create this much */
    size_t weight_bytes;    /* parameters of the half in use, in the context's dtype (packed copies) */
    size_t buffer_bytes;    /* of one unit: latents and sums or frames in f32, as the calls above take them */
    double flops;           /* a unit: one whole window (decode), one frame (encode) */
    double work_factor;     /* cells that are computed over cells of the clip, in time and space; >= 1 */
    int n_tiles;            /* a window or frame */
} lt_tile_cost;

/* Defaults of a decode, and why. Work in time is window / stride; a seam is a step that is in the windowed or tiled result
 * and not in the whole one, as RMS over a frame (time) or a column (space).
 *
 * Time. Small SVD decoder (four levels, two layers) with random temporal layers, which mix more than trained ones; 80
 * smooth latents; worst step between two frames, as a part of the clip's own RMS change from frame to frame:
 *     window 32: stride 32 2.50, 28 1.50, 24 0.84, 16 0.80      work 1.00, 1.14, 1.33, 2.00
 *     window 16: stride 12 1.47, 8 1.16; window 48: stride 36 0.60
 * The trained tiny model on 80 frames of real video at 192x112 (tools/bench/seams), whose temporal layers do little:
 *     window 32: stride 32 0.017, 28 0.004, 24 0.002, 16 0.001; window 16: stride 12 0.004, 8 0.002; 48: 36 0.001
 * 24 of 32 is where more overlap stops helping; longer windows help, and cost memory in proportion.
 *
 * Space. Tiles of 32 cells, worst step between two columns as a part of the picture's own RMS gradient:
 *     overlap 0, 2, 4, 8, 12, 16 cells: a trained small VAE on real video 7.7, 0.47, 0.31, 0.28, 0.55, 0.34;
 *     the trained tiny model, tiles of 16 cells, overlap 0, 2, 4, 8: 3.6, 0.28, 0.28, 0.22;
 *     random weights 1.5, 1.5, 0.73, 0.29, 0.53, 0.49 (12 and 16 end with a short tile, whose norms differ most)
 * 8 is enough; tiles chosen here are evenly long, so that none is short. */
enum {
    LT_DEFAULT_WINDOW = 32,
    LT_DEFAULT_STRIDE = 24,
    LT_DEFAULT_BATCH = 8,
    LT_DEFAULT_TILE_OVERLAP = 8 /* cells */
};

typedef struct lt_decode_request {
    int height, width;               /* latent cells of a frame */
    int64_t n_frames;                /* of the clip, for the work factor; 0: without end */
    int window, stride;              /* 0: the default (a stride alone is never 0 with a window given: it is
                                         3/4 of the window then). Non-temporal: window is the batch, default 8 */
    int tile_height, tile_width;     /* 0: auto, the least work that fits in memory; else as given */
    int stride_height, stride_width; /* 0: tile less LT_DEFAULT_TILE_OVERLAP, at least half a tile */
    size_t memory;                   /* bytes the workspace may take; 0: no limit */
} lt_decode_request;

/* Work out a decode plan and its cost. `dry` is a dry context of the device and dtype that will be used.
 * The workspace is enough for every window of the clip; without an end, for every shorter one. E_NO_MEMORY when not even the
 * smallest tile fits (the sentence says what would), E_INVALID. cost may be NULL. */
lt_status lt_decode_plan_auto(lt_context *dry, lt_vae *vae, const lt_decode_request *request,
                              lt_decode_plan *plan, lt_tile_cost *cost, lt_err *err);

typedef struct lt_encode_request {
    int height, width; /* of a frame, pixels */
    int tile;          /* 0: auto: the whole frame where it fits in memory, else the largest tile that does */
    double overlap;    /* < 0: default, 0.25 */
    int batch;         /* 0: 1; calls of fewer frames are planned for, too */
    size_t memory;     /* bytes the workspace may take; 0: no limit */
    lt_dtype frames;   /* of what will be encoded: pixels and values take different room */
    bool keep; /* where there are no tiles, means will be kept on the device (lt_encode_frames_there) ... */
    lt_dtype kept; /* ... in this dtype */
} lt_encode_request;

/* The same for an encode. The cost's workspace is enough for lt_encode_frames, and lt_encode_frames_there, of such frames. */
lt_status lt_encode_plan_auto(lt_context *dry, lt_vae *vae, const lt_encode_request *request,
                              lt_encode_plan *plan, lt_tile_cost *cost, lt_err *err);

#endif
