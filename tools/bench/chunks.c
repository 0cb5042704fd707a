/* chunks.c - many chunks through a VAE and back, as the stages make them, and what is left of memory after them.
 *
 *     bench-chunks MODEL WIDTHxHEIGHT CHUNKS [f32|bf16|f16] [--device NAME]
 *
 * A chunk is 8 frames: u8 from the host's memory, encoded, decoded in one window, back as f32. One line of JSON: the device's free bytes, and
 * the process's anonymous ones, after a tenth of the chunks and after all; whether the last chunk has the bytes of the first. Exit code 1: memory was lost
 * (more than 1 MiB of the device, more than 4 MiB of the host), or the bytes differ. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/tiling.h"
#include "tools/bench/turns.h"

enum { FRAMES = 8, DEVICE_SLACK = 1 << 20, HOST_SLACK = 4 << 20 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { WATCHES_HOST = false }; /* a sanitizer keeps for a while what was freed */
#else
enum { WATCHES_HOST = true };
#endif

typedef struct job {
    const char *model, *device;
    int width, height, chunks, threads;
    lt_dtype dtype;
    lt_vae *vae;
    lt_encode_plan encode;
    lt_decode_plan decode;
    unsigned char *pixels;
    float *latents, *sums, *first;
    size_t n_pixels, n_latents;
} job;

typedef struct memory {
    size_t device_free, host;
} memory;

static bool parse(job *job, int argc, char **argv)
{
    job->dtype = LT_F32;
    if (argc < 4 || argc > 5 || (argc == 5 && !lt_dtype_parse(argv[4], &job->dtype))) return false;
    job->model = argv[1];
    job->chunks = atoi(argv[3]);
    return sscanf(argv[2], "%dx%d", &job->width, &job->height) == 2 && job->chunks >= 10;
}

static memory look(const job *job)
{
    memory m = {0};
    lt_device_info info;
    char line[256];
    if (lt_device_probe(job->device, &info, NULL) == LT_OK) m.device_free = info.free_bytes;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "RssAnon: %zu", &m.host) == 1) m.host *= 1024;
    if (status) fclose(status);
    return m;
}

static lt_status prepare(job *job, lt_err *err)
{
    lt_status status =
        lt_vae_open(&job->vae, job->model, LT_VAE_ENCODER | LT_VAE_DECODER, LT_NUMERICS_AUTO, err);
    if (status) return status;
    const lt_vae_info *info = lt_vae_get_info(job->vae);
    int h = job->height / info->factor, w = job->width / info->factor;
    job->encode =
        (lt_encode_plan){.factor = info->factor, .height = job->height, .width = job->width, .batch = FRAMES};
    job->decode = (lt_decode_plan){info->temporal, info->factor, h, w, FRAMES, FRAMES, h, w, h, w};
    LT_TRY(lt_encode_plan_check(&job->encode, err));
    LT_TRY(lt_decode_plan_check(&job->decode, err));
    job->n_pixels = (size_t)FRAMES * 3 * (size_t)job->width * (size_t)job->height;
    job->n_latents = (size_t)FRAMES * (size_t)(h * w * info->latent_channels);
    job->pixels = malloc(job->n_pixels);
    job->latents = malloc(job->n_latents * sizeof(float));
    job->sums = malloc(job->n_pixels * sizeof(float));
    job->first = malloc(job->n_pixels * sizeof(float));
    if (!job->pixels || !job->latents || !job->sums || !job->first)
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a chunk");
    for (size_t i = 0; i < job->n_pixels; i++) job->pixels[i] = (unsigned char)(i * 2654435761u >> 24);
fail:
    return status;
}

static lt_status chunk(job *job, lt_context *c, lt_err *err)
{
    lt_tensor pixels = {job->pixels, LT_U8, 4, {FRAMES, job->height, job->width, 3}, 0};
    lt_tensor latents = {job->latents, LT_F32, 4, {FRAMES, job->decode.height, job->decode.width, 0}, 0};
    latents.shape[3] = lt_vae_get_info(job->vae)->latent_channels;
    if (c->dry) pixels.data = latents.data = NULL;
    lt_status status = lt_encode_frames(c, job->vae, &job->encode, pixels, 8, job->latents, NULL, err);
    if (!status) status = lt_decode_window(c, job->vae, &job->decode, FRAMES, 0, latents, job->sums, err);
    return status;
}

static lt_status run(job *job, lt_context *c, bool *fine, lt_err *err)
{
    memory early = {0}, late;
    lt_status status = LT_OK;
    for (int i = 0; i < job->chunks && !status; i++) {
        status = chunk(job, c, err);
        if (i == 0) memcpy(job->first, job->sums, job->n_pixels * sizeof(float));
        if (i == job->chunks / 10) early = look(job);
    }
    if (status) return status;
    late = look(job);
    bool same = !memcmp(job->first, job->sums, job->n_pixels * sizeof(float));
    printf("{\"chunks\": %d, \"device_free\": [%zu, %zu], \"host_anonymous\": [%zu, %zu], "
           "\"workspace_in_use\": %zu, "
           "\"same_bytes\": %s}\n",
           job->chunks, early.device_free, late.device_free, early.host, late.host,
           lt_workspace_in_use(c->workspace), same ? "true" : "false");
    *fine = same && lt_workspace_in_use(c->workspace) == 0 &&
            late.device_free + DEVICE_SLACK >= early.device_free &&
            (!WATCHES_HOST || late.host <= early.host + HOST_SLACK);
    return LT_OK;
}

int main(int argc, char **argv)
{
    job job = {0};
    lt_err err = {0};
    lt_context *dry = NULL, *c = NULL;
    bench_options options;
    bool fine = false;
    lt_status status;
    if (!bench_options_take(&options, &argc, argv) || !parse(&job, argc, argv)) {
        fprintf(stderr, "usage: bench-chunks MODEL WIDTHxHEIGHT CHUNKS [f32|bf16|f16] [--device NAME]\n");
        return 2;
    }
    job.device = options.device;
    LT_TRY(prepare(&job, &err));
    LT_TRY(lt_context_create(&dry, job.device, job.dtype, 0, 0, &err));
    LT_TRY(chunk(&job, dry, &err));
    LT_TRY(lt_context_create(&c, job.device, job.dtype, lt_workspace_peak(dry->workspace), 0, &err));
    LT_TRY(run(&job, c, &fine, &err));
fail:
    if (status) fprintf(stderr, "bench-chunks: %s\n", err.text);
    lt_vae_close(job.vae, c);
    lt_context_destroy(c);
    lt_context_destroy(dry);
    free(job.pixels);
    free(job.latents);
    free(job.sums);
    free(job.first);
    return status || !fine;
}
