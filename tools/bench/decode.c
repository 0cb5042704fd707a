/* decode.c - times the SVD VAE over a video in windows and tiles, a pass for every line on standard input, so that a driver can take turns
 * with lite-sora's encode_video and decode_video (torch_models.py), which has the same parameters.
 *
 *     bench-decode MODEL FRAMESxHEIGHTxWIDTH WINDOW STRIDE TILExTILE STRIDExSTRIDE THREADS OUT|- [f32|bf16|f16] [--encode]
 *                  [--device NAME] [--samples N] [--flops]
 *
 * Sizes in latent units (tiles: height x width). What it prints: turns.h. Latents are a fixed pattern; with --encode they are made, in every
 * pass, of a pattern of u8 frames that moves. The video of the first pass, f32 [T,H,W,3], is written to OUT; "-": it is not. Frames and
 * videos are in the host's memory, as between stages. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/tiling.h"
#include "tools/bench/turns.h"

enum { BATCH = 8 }; /* frames encoded at once: lite-sora's */

typedef struct job {
    const char *model, *out;
    lt_vae *vae;
    lt_decode_plan plan;
    lt_dtype dtype;
    bool encode;
    int frames, threads;
    int64_t cell, pixels; /* elements of a frame: latents, values */
    lt_tensor latents;    /* of the host, f32 [T,h,w,C] */
    unsigned char *source;
    float *sums, *video;
    bool done; /* the first pass */
} job;

static bool parse(job *job, int argc, char **argv)
{
    lt_decode_plan *p = &job->plan;
    job->dtype = LT_F32;
    if (argc > 1 && !strcmp(argv[argc - 1], "--encode")) {
        job->encode = true;
        argc--;
    }
    if (argc < 9 || argc > 10 || (argc == 10 && !lt_dtype_parse(argv[9], &job->dtype))) return false;
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

/* ---- a pass: all of the video, as the stages make it, but in one process --------------------------------- */

static lt_status encode(const job *job, lt_context *c, lt_err *err)
{
    const lt_decode_plan *p = &job->plan;
    const int height = p->height * p->factor, width = p->width * p->factor;
    const lt_encode_plan plan = {.factor = p->factor, .height = height, .width = width, .batch = BATCH};
    lt_status status = LT_OK;
    for (int first = 0; first < job->frames && !status; first += BATCH) {
        lt_tensor frames = {.data = c->dry ? NULL : job->source + first * job->pixels,
                            .dtype = LT_U8,
                            .rank = 4,
                            .shape = {LT_MIN(BATCH, job->frames - first), height, width, 3}};
        float *mean = c->dry ? NULL : (float *)job->latents.data + first * job->cell;
        status = lt_encode_frames(c, job->vae, &plan, frames, 8, mean, NULL, err);
    }
    return status;
}

static lt_status decode(const job *job, lt_context *c, lt_err *err)
{
    lt_status status = LT_OK;
    lt_blend *blend = NULL;
    int64_t next = 0;
    const lt_decode_plan *p = &job->plan;
    if (!c->dry) LT_TRY(lt_blend_create(&blend, p, job->frames, 0, err));
    for (int64_t k = 0, first, end, frame; k < lt_decode_windows_count(p, job->frames); k++) {
        lt_decode_window_range(p, job->frames, k, &first, &end);
        lt_tensor latents = job->latents;
        latents.shape[0] = end - first;
        latents.data = c->dry ? NULL : (float *)job->latents.data + first * job->cell;
        LT_TRY(lt_decode_window(c, job->vae, p, job->frames, k, latents, job->sums, err));
        if (c->dry) continue;
        LT_TRY(lt_blend_add(blend, k, first, end - first, job->sums, err));
        while (lt_blend_take(blend, &frame, job->video + next * job->pixels) == LT_OK) next = frame + 1;
    }
fail:
    lt_blend_destroy(blend);
    return status;
}

static lt_status write_video(const job *job, lt_err *err)
{
    FILE *file = fopen(job->out, "wb");
    size_t n = (size_t)(job->frames * job->pixels);
    bool fine = file && fwrite(job->video, sizeof(float), n, file) == n;
    if (file) fine &= fclose(file) == 0;
    return fine ? LT_OK : lt_fail(err, LT_E_IO, "%s cannot be written", job->out);
}

static lt_status pass(void *user, lt_context *c, bench_times *times, lt_err *err)
{
    job *job = user;
    bench_begin(times, c);
    lt_status status = job->encode ? encode(job, c, err) : LT_OK;
    if (!status) status = decode(job, c, err);
    bench_end(times, c);
    if (status || c->dry) return status;
    if (times->n_samples) bench_keep_values(times, job->video, job->frames * job->pixels);
    if (job->done) return status;
    job->done = true;
    return strcmp(job->out, "-") ? write_video(job, err) : LT_OK;
}

/* ---- what it works on -------------------------------------------------------------------------------------- */

static lt_status make_room(job *job, lt_err *err)
{
    size_t pixels = (size_t)job->pixels, frames = (size_t)job->frames;
    job->sums = malloc((size_t)LT_MIN(job->plan.window, job->frames) * pixels * sizeof(float));
    job->video = malloc((frames + 1) * pixels * sizeof(float)); /* a frame more: where the next would go */
    if (job->encode) job->source = malloc(frames * pixels);
    bool fine = job->sums && job->video && (job->source || !job->encode);
    return fine ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory for a video");
}

/* Waves that cross the picture, each channel's its own way: 128 pixels long, a 32nd of that a frame. */
static void make_frames(job *job)
{
    const int height = job->plan.height * job->plan.factor, width = job->plan.width * job->plan.factor;
    unsigned char wave[1024], *at = job->source;
    for (int i = 0; i < 1024; i++) wave[i] = (unsigned char)lrint(127.5 + 100 * sin(i * (M_PI / 512)));
    for (int t = 0; t < job->frames; t++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                for (int ch = 1; ch <= 3; ch++) *at++ = wave[(8 * x + 5 * ch * y + 32 * ch * t) & 1023];
}

static lt_status make(job *job, const bench_options *options, lt_err *err)
{
    const lt_vae_info *info = lt_vae_get_info(job->vae);
    lt_decode_plan *p = &job->plan;
    const int64_t shape[] = {job->frames, p->height, p->width, info->latent_channels};
    lt_status status;
    p->factor = info->factor;
    job->cell = (int64_t)p->height * p->width * info->latent_channels;
    job->pixels = 3 * (int64_t)p->height * p->width * info->factor * info->factor;
    LT_TRY(lt_decode_plan_check(p, err));
    LT_TRY(bench_pattern(&job->latents, 4, shape, 0.37f, err));
    if (options->flops) return LT_OK;
    /* lite-sora's decoder is given scaled latents, ours are not */
    for (int64_t i = 0; i < job->frames * job->cell; i++)
        ((float *)job->latents.data)[i] /= (float)info->scaling_factor;
    LT_TRY(make_room(job, err));
    if (job->encode) make_frames(job);
fail:
    return status;
}

static lt_status run(job *job, const bench_options *options, lt_context **context, lt_err *err)
{
    const bench_work work = {.pass = pass, .user = job};
    int parts = LT_VAE_DECODER | (job->encode ? LT_VAE_ENCODER : 0);
    lt_status status = lt_vae_open(&job->vae, job->model, parts, LT_NUMERICS_LITE_SORA, err);
    if (!status) status = make(job, options, err);
    return status ? status : bench_turns(&work, options, job->dtype, job->threads, context, err);
}

int main(int argc, char **argv)
{
    job job = {0};
    lt_err err = {0};
    lt_context *context = NULL;
    bench_options options;
    if (!bench_options_take(&options, &argc, argv) || !parse(&job, argc, argv)) {
        fprintf(stderr, "usage: bench-decode MODEL TxHxW WINDOW STRIDE TILExTILE STRIDExSTRIDE THREADS OUT|- "
                        "[f32|bf16|f16] "
                        "[--encode] [--device NAME] [--samples N] [--flops]\n");
        return 2;
    }
    lt_status status = run(&job, &options, &context, &err);
    lt_vae_close(job.vae, context);
    lt_context_destroy(context);
    free(job.latents.data);
    free(job.source);
    free(job.sums);
    free(job.video);
    if (status) fprintf(stderr, "bench-decode: %s\n", err.text);
    return status ? 1 : 0;
}
