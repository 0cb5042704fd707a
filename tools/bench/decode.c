/* decode.c - times the SVD decoder over a video in windows and tiles, a pass for every line on standard input, so that a driver can take
 * turns with lite-sora's decode_video (torch_decode.py), which has the same parameters.
 *
 *     bench-decode MODEL FRAMESxHEIGHTxWIDTH WINDOW STRIDE TILExTILE STRIDExSTRIDE THREADS OUT|-
 *
 * Sizes in latent units (tiles: height x width). First line out: JSON with the FLOPs of a pass. Then the seconds of each pass, by the
 * clock and of the processors. Latents are a fixed pattern. The video of the first pass, f32 [T,H,W,3], is written to OUT; "-": only the
 * FLOPs are told, of a dry run. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/tiling.h"
#include "tools/bench/turns.h"

typedef struct job {
    const char *model, *out;
    lt_vae *vae;
    lt_decode_plan plan;
    int frames, threads;
    int64_t cell, pixels; /* floats of a frame: latents, values */
    float *latents, *sums, *video;
    bool written;
} job;

static bool parse(job *job, int argc, char **argv)
{
    lt_decode_plan *p = &job->plan;
    if (argc != 9) return false;
    job->model = argv[1];
    p->temporal = true;
    p->window = atoi(argv[3]);
    p->stride = atoi(argv[4]);
    job->threads = atoi(argv[7]);
    job->out = argv[8];
    return sscanf(argv[2], "%dx%dx%d", &job->frames, &p->height, &p->width) == 3 &&
           sscanf(argv[5], "%dx%d", &p->tile_height, &p->tile_width) == 2 &&
           sscanf(argv[6], "%dx%d", &p->stride_height, &p->stride_width) == 2;
}

/* All of the video, as the stages make it, but in one process. */
static lt_status decode(job *job, lt_context *c, lt_err *err)
{
    lt_status status = LT_OK;
    lt_blend *blend = NULL;
    int64_t next = 0;
    const lt_decode_plan *p = &job->plan;
    int channels = lt_vae_get_info(job->vae)->latent_channels;
    if (!c->dry) LT_TRY(lt_blend_create(&blend, p, job->frames, 0, err));
    for (int64_t k = 0, first, end, frame; k < lt_decode_windows_count(p, job->frames); k++) {
        lt_decode_window_range(p, job->frames, k, &first, &end);
        lt_tensor latents = {.data = c->dry ? NULL : job->latents + first * job->cell,
                             .dtype = LT_F32,
                             .rank = 4,
                             .shape = {end - first, p->height, p->width, channels}};
        LT_TRY(lt_decode_window(c, job->vae, p, job->frames, k, latents, job->sums, err));
        if (c->dry) continue;
        LT_TRY(lt_blend_add(blend, k, first, end - first, job->sums, err));
        while (lt_blend_take(blend, &frame, job->video + next * job->pixels) == LT_OK) next = frame + 1;
    }
fail:
    lt_blend_destroy(blend);
    return status;
}

static lt_status write_video(job *job, lt_err *err)
{
    FILE *file = fopen(job->out, "wb");
    size_t n = (size_t)(job->frames * job->pixels);
    bool fine = file && fwrite(job->video, sizeof(float), n, file) == n;
    if (file) fine &= fclose(file) == 0;
    job->written = true;
    return fine ? LT_OK : lt_fail(err, LT_E_IO, "%s cannot be written", job->out);
}

static lt_status pass(void *user, lt_context *c, bench_times *times, lt_err *err)
{
    job *job = user;
    bench_begin(times);
    lt_status status = decode(job, c, err);
    bench_end(times);
    if (!status && !c->dry && !job->written) status = write_video(job, err);
    return status;
}

static lt_status tell_flops(job *job, lt_err *err)
{
    lt_context *dry;
    lt_status status = lt_context_create(&dry, "cpu", LT_F32, 0, job->threads, err);
    if (status) return status;
    status = decode(job, dry, err);
    if (!status) printf("{\"flops\": %.0f}\n", dry->flops);
    lt_context_destroy(dry);
    return status;
}

static lt_status run(job *job, lt_context **context, lt_err *err)
{
    lt_status status = lt_vae_open(&job->vae, job->model, LT_VAE_DECODER, LT_NUMERICS_LITE_SORA, err);
    if (status) return status;
    const lt_vae_info *info = lt_vae_get_info(job->vae);
    job->plan.factor = info->factor;
    job->cell = (int64_t)job->plan.height * job->plan.width * info->latent_channels;
    job->pixels = 3 * (int64_t)job->plan.height * job->plan.width * info->factor * info->factor;
    status = lt_decode_plan_check(&job->plan, err);
    if (status) return status;
    if (!strcmp(job->out, "-")) return tell_flops(job, err);
    int64_t n = job->frames * job->cell;
    float scaling =
        (float)info->scaling_factor; /* lite-sora's decoder is given scaled latents, ours are not */
    job->latents = malloc((size_t)n * sizeof(float));
    job->sums = malloc((size_t)(LT_MIN(job->plan.window, job->frames) * job->pixels) * sizeof(float));
    job->video = malloc((size_t)((job->frames + 1) * job->pixels) *
                        sizeof(float)); /* a frame more: where the next would go */
    if (!job->latents || !job->sums || !job->video) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (int64_t i = 0; i < n; i++) job->latents[i] = sinf((float)i * 0.37f) / scaling;
    return bench_turns(pass, job, LT_F32, job->threads, context, err);
}

int main(int argc, char **argv)
{
    job job = {0};
    lt_err err = {0};
    lt_context *context = NULL;
    if (!parse(&job, argc, argv)) {
        fprintf(stderr,
                "usage: bench-decode MODEL TxHxW WINDOW STRIDE TILExTILE STRIDExSTRIDE THREADS OUT|-\n");
        return 2;
    }
    lt_status status = run(&job, &context, &err);
    lt_vae_close(job.vae, context);
    lt_context_destroy(context);
    free(job.latents);
    free(job.sums);
    free(job.video);
    if (status) fprintf(stderr, "bench-decode: %s\n", err.text);
    return status ? 1 : 0;
}
