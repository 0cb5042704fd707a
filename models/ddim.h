/* ddim.h - the DDIM schedule (Song et al., 2021; eta 0), in f64: which timesteps, and the two factors of each step.
 *
 * Agrees with lite-sora's DDIMScheduler to the bit of a double; with diffusers' DDIMScheduler for its own spacings.
 * Pure functions of their arguments; any thread. */
#ifndef LT_DDIM_H
#define LT_DDIM_H

#include "core/core.h"

typedef enum { LT_BETAS_SCALED_LINEAR, LT_BETAS_LINEAR } lt_betas;

/* LITE_SORA: from the last training step to 0, both ends included, and from each step to the next listed. The others are
 * diffusers', from each step to the one train_steps / steps before it. */
typedef enum {
    LT_SPACING_LITE_SORA,
    LT_SPACING_LEADING,
    LT_SPACING_TRAILING,
    LT_SPACING_LINSPACE
} lt_spacing;

typedef enum { LT_PREDICT_NOISE, LT_PREDICT_V } lt_prediction;

typedef struct lt_ddim_params {
    lt_betas betas;
    double beta_start, beta_end;
    int train_steps; /* 1000 */
    lt_spacing spacing;
    int steps_offset; /* LEADING: 1 in Stable Diffusion's configurations */
    bool
        set_alpha_to_one; /* diffusers' spacings: what comes before step 0; false: the first alpha. lite-sora's is one */
    lt_prediction prediction;
    int steps;
    double strength; /* (0, 1]: how much of the schedule is run, denoising_strength */
} lt_ddim_params;

enum { LT_DDIM_MAX_STEPS = 1000 };

typedef struct lt_ddim {
    lt_ddim_params params;
    int n_steps; /* after strength */
    double timesteps[LT_DDIM_MAX_STEPS];
    double alphas[LT_DDIM_MAX_STEPS +
                  1]; /* cumulative product at each listed step, then what follows the last */
    double
        next[LT_DDIM_MAX_STEPS]; /* what follows each; of TRAILING and LINSPACE not always the next listed */
} lt_ddim;

/* The defaults of lite-sora: scaled_linear 0.00085 .. 0.012, 1000, its spacing, noise, 20 steps, strength 1. */
lt_ddim_params lt_ddim_defaults(void);

/* Take over what a diffusers scheduler_config.json says (text, n_bytes; named `name` in sentences); what it leaves out is as
 * diffusers' DDIMScheduler has it. `steps` and `strength` stay. Other schedulers' files are read, too: they hold the training's
 * betas. Accepts -Infinity and NaN as literals, as Python writes them. E_FORMAT, E_UNSUPPORTED naming the field (thresholding,
 * clipped samples, rescaled or listed betas, another beta_schedule, spacing or prediction), E_NO_MEMORY; params are untouched then. */
lt_status lt_ddim_read_config(lt_ddim_params *params, const char *text, size_t n_bytes, const char *name,
                              lt_err *err);

/* With diffusers' spacings strength drops the first steps, as its image-to-image pipelines do; with lite-sora's it lowers the
 * first timestep. Steps are at most train_steps; more are refused, but cut to what there is with lite-sora's.
 * TRAILING: diffusers' list sometimes (61 of 1000) has a step more, at -1, from rounding: it is left out.
 * E_INVALID naming the parameter out of range. */
lt_status lt_ddim_init(lt_ddim *ddim, const lt_ddim_params *params, lt_err *err);

/* Step i, 0 .. n_steps-1: x_next = a * x + b * prediction. */
void lt_ddim_step(const lt_ddim *ddim, int i, double *a, double *b);

/* x at step i of a clean x0 and noise: a * x0 + b * noise. */
void lt_ddim_noise(const lt_ddim *ddim, int i, double *a, double *b);

#endif
