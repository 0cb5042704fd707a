/* denoiser.c - times one step of a denoising network, a pass for every line on standard input, so that a driver can take turns with
 * another program.
 *
 *     bench-denoiser MODEL FRAMES SIZE TOKENS THREADS [f32|bf16|f16] [--cfg] [--device NAME] [--samples N] [--flops]
 *
 * FRAMES and SIZE (height and width) in latent units, TOKENS of the text. What it prints: turns.h. Inputs are fixed patterns, in the
 * device's memory before a pass begins. --cfg: a step with guidance, as the stage makes it: two evaluations, here
 * with one text, and their mixture. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/replay.h"
#include "models/denoiser.h"
#include "tools/bench/turns.h"

#define CFG_SCALE 4.5

typedef struct job {
    const char *model;
    lt_denoiser *denoiser;
    int frames, size, tokens, threads;
    bool cfg;
    lt_dtype dtype;
    lt_tensor x, context, pooled; /* on the host */
    lt_tensor resident;           /* x in the context's memory, where the condition's are, too */
    lt_condition condition;
} job;

static lt_status prepare(void *user, lt_context *c, lt_err *err)
{
    job *job = user;
    job->condition = (lt_condition){.end_sec = 8, .size_ids = {512, 512, 0, 0, 512, 512}};
    job->resident = lt_upload(c, job->x, c->dtype);
    if (job->context.rank) job->condition.context = lt_upload(c, job->context, c->dtype);
    if (job->pooled.rank) job->condition.pooled = lt_upload(c, job->pooled, c->dtype);
    return lt_context_status(c, err);
}

static void call_network(lt_context *c, void *user, lt_tensor *results)
{
    const job *job = user;
    results[0] = lt_denoise(c, job->denoiser, job->resident, 500, &job->condition);
}

/* As the stage asks for it; which: of the evaluations of a step. */
static lt_tensor evaluate(job *job, lt_context *c, uint64_t which)
{
    lt_tensor y = LT_NONE;
    lt_replay(c, lt_replay_key(job->denoiser, &job->resident, 1) + which, call_network, job, &y, 1);
    return y;
}

static lt_status pass(void *user, lt_context *c, bench_times *times, lt_err *err)
{
    job *job = user;
    bench_begin(times, c);
    lt_tensor y = evaluate(job, c, 0);
    if (job->cfg) {
        lt_tensor negative = evaluate(job, c, 1),
                  mixed = lt_combine(c, y, CFG_SCALE, negative, 1 - CFG_SCALE);
        lt_drop(c, &negative);
        lt_drop(c, &y);
        y = mixed;
    }
    bench_end(times, c);
    bench_keep(times, c, y);
    lt_drop(c, &y);
    return lt_context_status(c, err);
}

static lt_status make_inputs(job *job, lt_err *err)
{
    const lt_denoiser_info *info = lt_denoiser_get_info(job->denoiser);
    lt_status status = bench_pattern(
        &job->x, 5, (int64_t[]){1, job->frames, job->size, job->size, info->channels}, 0.37f, err);
    if (status == LT_OK && info->context_width)
        status =
            bench_pattern(&job->context, 3, (int64_t[]){1, job->tokens, info->context_width}, 0.53f, err);
    if (status == LT_OK && info->pooled_width)
        status = bench_pattern(&job->pooled, 2, (int64_t[]){1, info->pooled_width}, 0.71f, err);
    return status;
}

static bool parse(job *job, int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[argc - 1], "--cfg")) {
        job->cfg = true;
        argc--;
    }
    if (argc < 6 || (argc > 6 && !lt_dtype_parse(argv[6], &job->dtype))) return false;
    job->model = argv[1];
    job->frames = atoi(argv[2]);
    job->size = atoi(argv[3]);
    job->tokens = atoi(argv[4]);
    job->threads = atoi(argv[5]);
    return true;
}

int main(int argc, char **argv)
{
    job job = {.dtype = LT_F32};
    lt_err err = {0};
    lt_context *context = NULL;
    bench_options options;
    if (!bench_options_take(&options, &argc, argv) || !parse(&job, argc, argv)) {
        fprintf(
            stderr,
            "usage: bench-denoiser MODEL FRAMES SIZE TOKENS THREADS [f32|bf16|f16] [--cfg] [--device NAME] "
            "[--samples N] [--flops]\n");
        return 2;
    }
    const bench_work work = {prepare, pass, &job};
    lt_status status =
        lt_denoiser_open(&job.denoiser, job.model, LT_DENOISER_N_KINDS, LT_NUMERICS_AUTO, NULL, 0, &err);
    if (status == LT_OK) status = make_inputs(&job, &err);
    if (status == LT_OK) status = bench_turns(&work, &options, job.dtype, job.threads, &context, &err);
    lt_denoiser_close(job.denoiser, context);
    lt_context_destroy(context);
    free(job.x.data);
    free(job.context.data);
    free(job.pooled.data);
    if (status) {
        fprintf(stderr, "bench-denoiser: %s\n", err.text);
        return 1;
    }
    return 0;
}
