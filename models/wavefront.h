/* wavefront.h - windowed co-denoising of a video of any length, as a schedule.
 *
 * A video of T latent frames lies under windows of W frames every S, the last one shifted to end with the video. At step s
 * every window predicts from the latents of step s; where windows overlap their predictions are averaged with a fixed
 * ramp, in window order; then every frame makes its step, x = a[s] x + b[s] prediction. That is the definition; a plain loop
 * over steps and windows gives the same bytes.
 *
 * Here the same evaluations are made along a diagonal: step s of window k needs step s-1 of the windows that overlap it and
 * of no others, so early windows are finished while late ones have not begun, and finished frames leave at the front. Live
 * at once are at most
 *     (steps - 1) * stride * (ceil(window / stride) - 1) + window
 * frames (where the stride divides the window: (steps - 1) * (window - stride) + window), a stride more at the end, and what the
 * caller has not released, however long the video. The first frames are finished after lt_wavefront_first_evaluations.
 *
 * Threads: a wavefront belongs to one at a time. Nothing is allocated after creation but in lt_wavefront_save. */
#ifndef LT_WAVEFRONT_H
#define LT_WAVEFRONT_H

#include "core/core.h"

typedef struct lt_wavefront lt_wavefront;

enum { LT_WAVEFRONT_MAX_STEPS = 1000 };

typedef struct lt_wavefront_params {
    int64_t n_frames; /* T, > 0 */
    int64_t window,
        stride;            /* 1 <= stride <= window; window 0 or above T: T, one window, the whole sequence */
    int steps;             /* 1 .. LT_WAVEFRONT_MAX_STEPS */
    int64_t unreleased;    /* most frames that are finished and not released between two evaluations */
    size_t frame_elements; /* h * w * C */
} lt_wavefront_params;

/* E_INVALID naming what is out of range. */
lt_status lt_wavefront_check(const lt_wavefront_params *params, lt_err *err);

/* ---- windows: pure functions of checked parameters ----------------------------------------------------- */

int64_t lt_wavefront_n_windows(const lt_wavefront_params *params);
/* Frames *first .. *end - 1 of window k. */
void lt_wavefront_window(const lt_wavefront_params *params, int64_t k, int64_t *first, int64_t *end);
/* The part that window k's prediction has in frame f's average: weights of all windows over f add up to 1. 0 outside.
 * A window's ramp rises by equal amounts from 1 at its ends to W - S + 1. */
double lt_wavefront_weight(const lt_wavefront_params *params, int64_t k, int64_t f);
/* Frames below this must have entered for frames below `end` to be finished. */
int64_t lt_wavefront_entered_for(const lt_wavefront_params *params, int64_t end);
/* Evaluations until the first frames are finished, and in all. */
int64_t lt_wavefront_first_evaluations(const lt_wavefront_params *params);
int64_t lt_wavefront_n_evaluations(const lt_wavefront_params *params);
/* Most frames that are live at once, and bytes that a wavefront allocates. */
int64_t lt_wavefront_live(const lt_wavefront_params *params);
size_t lt_wavefront_bytes(const lt_wavefront_params *params);

/* ---- running -------------------------------------------------------------------------------------------- */

/* What a wavefront calls; each may fail, and its status is the evaluation's. */
typedef struct lt_wavefront_calls {
    void *user;
    /* The latents at step 0 of frames first .. first+n-1, x [n,frame_elements] to be filled; every frame once, in order. */
    lt_status (*enter)(void *user, int64_t first, int64_t n, float *x, lt_err *err);
    /* The prediction at `step` of window k, frames first .. first+n-1: from x to prediction, both [n,frame_elements]. */
    lt_status (*predict)(void *user, int64_t k, int step, int64_t first, int64_t n, const float *x,
                         float *prediction, lt_err *err);
} lt_wavefront_calls;

/* a, b [steps], of x = a x + b prediction (in f64, rounded once to f32); copied. E_INVALID, E_NO_MEMORY; *wavefront is NULL then. */
lt_status lt_wavefront_create(lt_wavefront **wavefront, const lt_wavefront_params *params, const double *a,
                              const double *b, const lt_wavefront_calls *calls, lt_err *err);
void lt_wavefront_destroy(lt_wavefront *wavefront); /* takes NULL */

/* Make one evaluation of those that finish the frames below `end` (1 .. T). END: they are finished, nothing was done.
 * *diagonal (may be NULL): a diagonal of the wavefront ended with it: every step has advanced by a window. On an error of a
 * call the wavefront is as before, but that frames may have entered. */
lt_status lt_wavefront_evaluate(lt_wavefront *wavefront, int64_t end, bool *diagonal, lt_err *err);

/* Frames below this are finished. */
int64_t lt_wavefront_finished(const lt_wavefront *wavefront);
/* Frames below this have entered. */
int64_t lt_wavefront_entered(const lt_wavefront *wavefront);
/* Copy finished frames first .. first+n-1, not released before, to x. E_INVALID where they are not that. */
lt_status lt_wavefront_read(const lt_wavefront *wavefront, int64_t first, int64_t n, float *x, lt_err *err);
/* Frames below `end`, all finished, are not needed any more. */
void lt_wavefront_release(lt_wavefront *wavefront, int64_t end);
/* Frames below this were released. */
int64_t lt_wavefront_released(const lt_wavefront *wavefront);
/* Back to the beginning. */
void lt_wavefront_reset(lt_wavefront *wavefront);
/* Frames that are held. */
int64_t lt_wavefront_held(const lt_wavefront *wavefront);

/* ---- the frontier as bytes ------------------------------------------------------------------------------ */

/* Everything that lt_wavefront_load needs to go on: every live latent, the step it stands at, and the sums of windows that
 * overlap. *bytes is the caller's to free. E_NO_MEMORY. */
lt_status lt_wavefront_save(const lt_wavefront *wavefront, void **bytes, size_t *n_bytes, lt_err *err);
/* Take a frontier over into a fresh wavefront of the same parameters. E_MISMATCH: it belongs to other ones; E_FORMAT: it is none. */
lt_status lt_wavefront_load(lt_wavefront *wavefront, const void *bytes, size_t n_bytes, lt_err *err);

#endif
