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
#include <sys/resource.h>

#include "models/denoiser.h"

typedef struct job {
    const char *model;
    int frames, size, tokens, threads;
    lt_dtype dtype;
} job;

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

/* Inputs of normal numbers are made in the workspace, anew for each pass and outside of what is timed; they are small. */
static lt_status pass(lt_context *c, lt_denoiser *denoiser, const job *job, double *wall, double *cpu,
                      lt_err *err)
{
    const lt_denoiser_info *info = lt_denoiser_get_info(denoiser);
    const int64_t x_shape[] = {1, job->frames, job->size, job->size, info->channels},
                  text_shape[] = {1, job->tokens, info->context_width},
                  pooled_shape[] = {1, info->pooled_width};
    lt_condition condition = {.end_sec = 8, .size_ids = {512, 512, 0, 0, 512, 512}};
    lt_tensor x = lt_noise(c, 5, x_shape, 1, 0, 0);
    if (info->context_width) condition.context = lt_noise(c, 3, text_shape, 2, 0, 0);
    if (info->pooled_width) condition.pooled = lt_noise(c, 2, pooled_shape, 3, 0, 0);
    double before = cpu_seconds();
    int64_t started = lt_now_ns();
    c->flops = 0;
    lt_tensor y = lt_denoise(c, denoiser, x, 500, &condition);
    *wall = (double)(lt_now_ns() - started) * 1e-9;
    *cpu = cpu_seconds() - before;
    lt_drop(c, &y);
    lt_drop(c, &x);
    lt_drop(c, &condition.context);
    lt_drop(c, &condition.pooled);
    return lt_context_status(c, err);
}

static lt_status time_passes(lt_denoiser *denoiser, const job *job, lt_err *err)
{
    lt_context *dry = NULL, *context = NULL;
    lt_status status;
    char line[16];
    double wall, cpu;
    LT_TRY(lt_context_create(&dry, "cpu", job->dtype, 0, job->threads, err));
    LT_TRY(pass(dry, denoiser, job, &wall, &cpu, err));
    size_t peak = lt_workspace_peak(dry->workspace);
    LT_TRY(lt_context_create(&context, "cpu", job->dtype, peak, job->threads, err));
    LT_TRY(pass(context, denoiser, job, &wall, &cpu, err));
    printf("{\"flops\": %.0f, \"workspace_bytes\": %zu}\n", dry->flops, peak);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        LT_TRY(pass(context, denoiser, job, &wall, &cpu, err));
        printf("%.6f %.6f\n", wall, cpu);
        fflush(stdout);
    }
fail:
    lt_denoiser_close(denoiser, context);
    lt_context_destroy(context);
    lt_context_destroy(dry);
    return status;
}

int main(int argc, char **argv)
{
    job job = {.dtype = LT_F32};
    lt_err err = {0};
    lt_denoiser *denoiser = NULL;
    if (argc < 6 || (argc > 6 && !lt_dtype_parse(argv[6], &job.dtype))) {
        fprintf(stderr, "usage: bench-denoiser MODEL FRAMES SIZE TOKENS THREADS [f32|bf16]\n");
        return 2;
    }
    job.model = argv[1];
    job.frames = atoi(argv[2]);
    job.size = atoi(argv[3]);
    job.tokens = atoi(argv[4]);
    job.threads = atoi(argv[5]);
    if (lt_denoiser_open(&denoiser, job.model, LT_DENOISER_N_KINDS, LT_NUMERICS_AUTO, NULL, 0, &err) ||
        time_passes(denoiser, &job, &err)) {
        fprintf(stderr, "bench-denoiser: %s\n", err.text);
        return 1;
    }
    return 0;
}
