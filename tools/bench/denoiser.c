/* denoiser.c - times one step of a denoising network, a pass for every line on standard input, so that a driver can take turns with
 * another program.
 *
 *     bench-denoiser MODEL FRAMES SIZE TOKENS THREADS [f32|bf16]
 *
 * FRAMES and SIZE (height and width) in latent units, TOKENS of the text. First line out: JSON with the FLOPs of a pass. Then the
 * seconds of each pass, by the clock and of the processors. The first pass, which packs the weights, is made before anything is
 * printed. */
#include <stdio.h>
#include <stdlib.h>

#include "models/denoiser.h"
#include "tools/bench/turns.h"

typedef struct job {
    const char *model;
    lt_denoiser *denoiser;
    int frames, size, tokens, threads;
    lt_dtype dtype;
} job;

/* Inputs of normal numbers are made in the workspace, anew for each pass and outside of what is timed; they are small. */
static lt_status pass(void *user, lt_context *c, bench_times *times, lt_err *err)
{
    const job *job = user;
    const lt_denoiser_info *info = lt_denoiser_get_info(job->denoiser);
    const int64_t x_shape[] = {1, job->frames, job->size, job->size, info->channels},
                  text_shape[] = {1, job->tokens, info->context_width},
                  pooled_shape[] = {1, info->pooled_width};
    lt_condition condition = {.end_sec = 8, .size_ids = {512, 512, 0, 0, 512, 512}};
    lt_tensor x = lt_noise(c, 5, x_shape, 1, 0, 0);
    if (info->context_width) condition.context = lt_noise(c, 3, text_shape, 2, 0, 0);
    if (info->pooled_width) condition.pooled = lt_noise(c, 2, pooled_shape, 3, 0, 0);
    bench_begin(times);
    c->flops = 0;
    lt_tensor y = lt_denoise(c, job->denoiser, x, 500, &condition);
    bench_end(times);
    lt_drop(c, &y);
    lt_drop(c, &x);
    lt_drop(c, &condition.context);
    lt_drop(c, &condition.pooled);
    return lt_context_status(c, err);
}

int main(int argc, char **argv)
{
    job job = {.dtype = LT_F32};
    lt_err err = {0};
    lt_context *context = NULL;
    if (argc < 6 || (argc > 6 && !lt_dtype_parse(argv[6], &job.dtype))) {
        fprintf(stderr, "usage: bench-denoiser MODEL FRAMES SIZE TOKENS THREADS [f32|bf16]\n");
        return 2;
    }
    job.model = argv[1];
    job.frames = atoi(argv[2]);
    job.size = atoi(argv[3]);
    job.tokens = atoi(argv[4]);
    job.threads = atoi(argv[5]);
    lt_status status =
        lt_denoiser_open(&job.denoiser, job.model, LT_DENOISER_N_KINDS, LT_NUMERICS_AUTO, NULL, 0, &err);
    if (status == LT_OK) status = bench_turns(pass, &job, job.dtype, job.threads, &context, &err);
    lt_denoiser_close(job.denoiser, context);
    lt_context_destroy(context);
    if (status) {
        fprintf(stderr, "bench-denoiser: %s\n", err.text);
        return 1;
    }
    return 0;
}
