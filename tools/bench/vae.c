/* vae.c - times one half of a VAE, one pass for every line on standard input, so that a driver can take turns with another program.
 *
 *     bench-vae MODEL encoder|decoder WIDTHxHEIGHT FRAMES THREADS [f32|bf16|f16] [--device NAME] [--samples N] [--flops]
 *
 * What it prints: turns.h. Input is a fixed pattern, which lies in the device's memory before a pass begins; results stay there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/replay.h"
#include "models/vae.h"
#include "tools/bench/turns.h"

typedef struct job {
    const char *model;
    lt_vae *vae;
    lt_tensor input;
    bool encoder;
    int width, height, frames, threads;
    lt_dtype dtype;
    lt_tensor resident; /* the input, in the context's memory */
} job;

static bool parse(job *job, int argc, char **argv)
{
    if (argc < 6) return false;
    job->model = argv[1];
    job->encoder = !strcmp(argv[2], "encoder");
    if (!job->encoder && strcmp(argv[2], "decoder")) return false;
    if (sscanf(argv[3], "%dx%d", &job->width, &job->height) != 2) return false;
    job->frames = atoi(argv[4]);
    job->threads = atoi(argv[5]);
    job->dtype = LT_F32;
    return argc < 7 || lt_dtype_parse(argv[6], &job->dtype);
}

static lt_status prepare(void *user, lt_context *c, lt_err *err)
{
    job *job = user;
    job->resident = lt_upload(c, job->input, c->dtype);
    return lt_context_status(c, err);
}

static void call_vae(lt_context *c, void *user, lt_tensor *results)
{
    const job *job = user;
    results[0] =
        job->encoder ? lt_vae_encode(c, job->vae, job->resident) : lt_vae_decode(c, job->vae, job->resident);
}

/* As models/tiling.c asks for it. */
static lt_status pass(void *user, lt_context *c, bench_times *times, lt_err *err)
{
    job *job = user;
    lt_tensor output = LT_NONE;
    bench_begin(times, c);
    lt_replay(c, lt_replay_key(job->vae, &job->resident, 1), call_vae, job, &output, 1);
    bench_end(times, c);
    bench_keep(times, c, output);
    lt_drop(c, &output);
    return lt_context_status(c, err);
}

static lt_status time_passes(job *job, const bench_options *options, lt_err *err)
{
    const bench_work work = {prepare, pass, job};
    const lt_vae_info *info = lt_vae_get_info(job->vae);
    int shrink = job->encoder ? 1 : info->factor, channels = job->encoder ? 3 : info->latent_channels;
    const int64_t shape[] = {job->frames, job->height / shrink, job->width / shrink, channels};
    lt_context *context = NULL;
    lt_status status = bench_pattern(&job->input, 4, shape, 0.37f, err);
    if (status == LT_OK) status = bench_turns(&work, options, job->dtype, job->threads, &context, err);
    lt_vae_close(job->vae, context);
    lt_context_destroy(context);
    free(job->input.data);
    return status;
}

int main(int argc, char **argv)
{
    job job = {0};
    lt_err err = {0};
    bench_options options;
    if (!bench_options_take(&options, &argc, argv) || !parse(&job, argc, argv)) {
        fprintf(stderr, "usage: bench-vae MODEL encoder|decoder WIDTHxHEIGHT FRAMES THREADS [f32|bf16|f16] "
                        "[--device NAME] [--samples N] [--flops]\n");
        return 2;
    }
    int part = job.encoder ? LT_VAE_ENCODER : LT_VAE_DECODER;
    if (lt_vae_open(&job.vae, job.model, part, LT_NUMERICS_AUTO, &err) || time_passes(&job, &options, &err)) {
        fprintf(stderr, "bench-vae: %s\n", err.text);
        return 1;
    }
    return 0;
}
