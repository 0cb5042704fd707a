/* vae.c - times one half of a VAE, one pass for every line on standard input, so that a driver can take turns with another program.
 *
 *     bench-vae MODEL encoder|decoder WIDTHxHEIGHT FRAMES THREADS [f32|bf16]
 *
 * First line out: JSON with the FLOPs of a pass. Then the seconds of each pass, by the clock and of the processors. Input is a fixed pattern; the first pass, which packs
 * the weights, is made before anything is printed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/vae.h"
#include "tools/bench/turns.h"

typedef struct job {
    const char *model;
    lt_vae *vae;
    lt_tensor input;
    bool encoder;
    int width, height, frames, threads;
    lt_dtype dtype;
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

static lt_status pass(void *user, lt_context *c, bench_times *times, lt_err *err)
{
    const job *job = user;
    bench_begin(times);
    lt_tensor output =
        job->encoder ? lt_vae_encode(c, job->vae, job->input) : lt_vae_decode(c, job->vae, job->input);
    bench_end(times);
    lt_drop(c, &output);
    return lt_context_status(c, err);
}

static lt_tensor shape_input(const job *job, const lt_vae_info *info)
{
    int shrink = job->encoder ? 1 : info->factor, channels = job->encoder ? 3 : info->latent_channels;
    return (lt_tensor){.dtype = LT_F32,
                       .rank = 4,
                       .shape = {job->frames, job->height / shrink, job->width / shrink, channels}};
}

static lt_status time_passes(job *job, lt_err *err)
{
    lt_context *context = NULL;
    job->input = shape_input(job, lt_vae_get_info(job->vae));
    int64_t n = lt_n_elements(&job->input);
    float *values = malloc(sizeof *values * (size_t)n);
    if (!values) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (int64_t i = 0; i < n; i++) values[i] = sinf((float)i * 0.37f);
    job->input.data = values;
    lt_status status = bench_turns(pass, job, job->dtype, job->threads, &context, err);
    lt_vae_close(job->vae, context);
    lt_context_destroy(context);
    free(values);
    return status;
}

int main(int argc, char **argv)
{
    job job = {0};
    lt_err err = {0};
    if (!parse(&job, argc, argv)) {
        fprintf(stderr, "usage: bench-vae MODEL encoder|decoder WIDTHxHEIGHT FRAMES THREADS [f32|bf16]\n");
        return 2;
    }
    int part = job.encoder ? LT_VAE_ENCODER : LT_VAE_DECODER;
    if (lt_vae_open(&job.vae, job.model, part, LT_NUMERICS_AUTO, &err) || time_passes(&job, &err)) {
        fprintf(stderr, "bench-vae: %s\n", err.text);
        return 1;
    }
    return 0;
}
