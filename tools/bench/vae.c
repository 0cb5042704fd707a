/* vae.c - times one half of a VAE, one pass for every line on standard input, so that a driver can take turns with another program.
 *
 *     bench-vae MODEL encoder|decoder WIDTHxHEIGHT FRAMES THREADS [f32|bf16]
 *
 * First line out: JSON with the FLOPs of a pass. Then the seconds of each pass. Input is a fixed pattern; the first pass, which packs
 * the weights, is made before anything is printed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/vae.h"

typedef struct job {
    const char *model;
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

/* One pass over the shapes of the job; with real = false nothing is computed. The input's data is the caller's. */
static lt_status pass(lt_context *context, lt_vae *vae, const job *job, lt_tensor input, lt_err *err)
{
    lt_tensor output = job->encoder ? lt_vae_encode(context, vae, input) : lt_vae_decode(context, vae, input);
    lt_drop(context, &output);
    return lt_context_status(context, err);
}

static lt_tensor shape_input(const job *job, const lt_vae_info *info)
{
    int shrink = job->encoder ? 1 : info->factor, channels = job->encoder ? 3 : info->latent_channels;
    return (lt_tensor){.dtype = LT_F32,
                       .rank = 4,
                       .shape = {job->frames, job->height / shrink, job->width / shrink, channels}};
}

static lt_status dry_run(lt_vae *vae, const job *job, lt_tensor input, size_t *peak, double *flops,
                         lt_err *err)
{
    lt_context *dry = NULL;
    lt_status status;
    LT_TRY(lt_context_create(&dry, "cpu", job->dtype, 0, job->threads, err));
    LT_TRY(pass(dry, vae, job, input, err));
    *peak = lt_workspace_peak(dry->workspace);
    *flops = dry->flops;
fail:
    lt_context_destroy(dry);
    return status;
}

static lt_status time_passes(lt_vae *vae, const job *job, lt_err *err)
{
    lt_context *context = NULL;
    lt_status status;
    size_t peak = 0;
    double flops = 0;
    char line[16];
    lt_tensor input = shape_input(job, lt_vae_get_info(vae));
    int64_t n = lt_n_elements(&input);
    float *values = malloc(sizeof *values * (size_t)n);
    if (!values) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (int64_t i = 0; i < n; i++) values[i] = sinf((float)i * 0.37f);
    input.data = values;

    LT_TRY(dry_run(vae, job, input, &peak, &flops, err));
    LT_TRY(lt_context_create(&context, "cpu", job->dtype, peak, job->threads, err));
    LT_TRY(pass(context, vae, job, input, err));
    printf("{\"flops\": %.0f, \"workspace_bytes\": %zu}\n", flops, peak);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        int64_t started = lt_now_ns();
        LT_TRY(pass(context, vae, job, input, err));
        printf("%.6f\n", (double)(lt_now_ns() - started) * 1e-9);
        fflush(stdout);
    }
fail:
    lt_vae_close(vae, context);
    lt_context_destroy(context);
    free(values);
    return status;
}

int main(int argc, char **argv)
{
    job job;
    lt_err err = {0};
    lt_vae *vae = NULL;
    if (!parse(&job, argc, argv)) {
        fprintf(stderr, "usage: bench-vae MODEL encoder|decoder WIDTHxHEIGHT FRAMES THREADS [f32|bf16]\n");
        return 2;
    }
    int part = job.encoder ? LT_VAE_ENCODER : LT_VAE_DECODER;
    if (lt_vae_open(&vae, job.model, part, LT_NUMERICS_AUTO, &err) || time_passes(vae, &job, &err)) {
        fprintf(stderr, "bench-vae: %s\n", err.text);
        return 1;
    }
    return 0;
}
