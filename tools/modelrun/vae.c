/* vae.c - the parts of a video VAE: encoder, decoder, decode_video. */
#include "models/tiling.h"
#include "tools/modelrun/layout.h"
#include "tools/modelrun/part.h"

#include <stdlib.h>

/* What a run holds until its end. */
typedef struct run {
    const arguments *a;
    bool encoder, video;
    lt_vae *vae;
    const lt_vae_info *info;
    lt_context *dry, *context;
    lt_tensor input;      /* [N,H,W,C] f32, ours */
    lt_tensor outputs[2]; /* ours, channels last */
} run;

static lt_status encode(run *r, lt_err *err)
{
    lt_status status;
    const int64_t *s = r->input.shape, f = r->info->factor;
    const lt_encode_request request = {
        .height = (int)s[1], .width = (int)s[2], .overlap = -1, .frames = LT_F32};
    lt_encode_plan plan;
    lt_tile_cost cost;
    LT_TRY(lt_encode_plan_auto(r->dry, r->vae, &request, &plan, &cost, err));
    LT_TRY(part_context(&r->context, r->a, cost.workspace_bytes, err));
    const int64_t shape[] = {s[0], s[1] / f, s[2] / f, r->info->latent_channels};
    for (int i = 0; i < 2; i++) LT_TRY(part_new(&r->outputs[i], 4, shape, err));
    LT_TRY(lt_encode_frames(r->context, r->vae, &plan, r->input, 8, r->outputs[0].data, r->outputs[1].data,
                            err));
fail:
    return status;
}

/* All windows in order, blended as a consumer does. */
static lt_status decode_windows(run *r, const lt_decode_plan *plan, lt_blend *blend, float *sums, lt_err *err)
{
    lt_status status = LT_OK;
    int64_t n = r->input.shape[0], frame;
    size_t pixels = 3 * (size_t)(r->outputs[0].shape[1] * r->outputs[0].shape[2]);
    float *out = r->outputs[0].data;
    for (int64_t k = 0; k < lt_decode_windows_count(plan, n); k++) {
        int64_t first, end;
        lt_decode_window_range(plan, n, k, &first, &end);
        lt_tensor latents = lt_rows(r->context, r->input, first, end - first);
        LT_TRY(lt_decode_window(r->context, r->vae, plan, n, k, latents, sums, err));
        LT_TRY(lt_blend_add(blend, k, first, end - first, sums, err));
        while (lt_blend_take(blend, &frame, out) == LT_OK) out += pixels;
    }
fail:
    return status;
}

static lt_status decode(run *r, lt_err *err)
{
    lt_status status;
    const int64_t *s = r->input.shape, f = r->info->factor;
    const int *tile = r->a->tile, *stride = r->a->stride;
    lt_decode_request request = {
        .height = (int)s[1], .width = (int)s[2], .n_frames = s[0], .window = (int)s[0], .stride = (int)s[0]};
    if (r->video) {
        request = (lt_decode_request){(int)s[1], (int)s[2], s[0],      tile[0],   stride[0],
                                      tile[1],   tile[2],   stride[1], stride[2], 0};
        if (!r->info->temporal) request.stride = request.window;
    } else {
        request.tile_height = request.stride_height = (int)s[1];
        request.tile_width = request.stride_width = (int)s[2];
    }
    lt_decode_plan plan;
    lt_tile_cost cost;
    lt_blend *blend = NULL;
    float *sums = NULL;
    LT_TRY(lt_decode_plan_auto(r->dry, r->vae, &request, &plan, &cost, err));
    LT_TRY(part_context(&r->context, r->a, cost.workspace_bytes, err));
    LT_TRY(part_new(&r->outputs[0], 4, (int64_t[]){s[0], s[1] * f, s[2] * f, 3}, err));
    LT_TRY(lt_blend_create(&blend, &plan, s[0], 0, err));
    size_t pixels = (size_t)(s[1] * s[2] * f * f);
    sums = malloc(3 * sizeof(float) * pixels * (size_t)LT_MIN((int64_t)plan.window, s[0]));
    status = sums ? decode_windows(r, &plan, blend, sums, err)
                  : lt_fail(err, LT_E_NO_MEMORY, "out of memory for a window");
fail:
    free(sums);
    lt_blend_destroy(blend);
    return status;
}

static lt_status execute(run *r, const lt_safetensors *in, results *results, lt_err *err)
{
    lt_status status;
    lt_tensor t;
    LT_TRY(
        lt_vae_open(&r->vae, r->a->model, r->encoder ? LT_VAE_ENCODER : LT_VAE_DECODER, r->a->numerics, err));
    r->info = lt_vae_get_info(r->vae);
    LT_TRY(part_context(&r->dry, r->a, 0, err));
    const char *from = r->encoder ? "sample" : "latent", *to = r->encoder ? "latent" : "sample";
    bool lite_sora = r->info->numerics == LT_NUMERICS_LITE_SORA, scaled = lite_sora || r->video;
    bool clip = r->video || (lite_sora && r->info->temporal && !r->encoder);
    layout l = clip ? LAYOUT_CHANNELS_FIRST : LAYOUT_FRAMES_FIRST;
    double factor = r->info->scaling_factor;
    LT_TRY(lt_safetensors_get(in, from, &t, err));
    LT_TRY(layout_load(&t, from, l, scaled && !r->encoder ? 1 / factor : 1, &r->input, err));
    if (r->input.shape[0] < 1) LT_TRY(lt_fail(err, LT_E_INVALID, "%s: `%s` holds no frames", r->a->in, from));
    LT_TRY(r->encoder ? encode(r, err) : decode(r, err));
    int n = r->encoder && !scaled ? 2 : 1;
    for (int i = 0; i < n; i++) {
        lt_named_tensor *named = &results->tensors[results->n++];
        named->name = i ? "logvar" : to;
        LT_TRY(layout_store(&r->outputs[i], l, scaled && r->encoder ? factor : 1, &named->tensor, err));
    }
fail:
    return status;
}

static lt_status run_part(const arguments *a, const lt_safetensors *in, results *results, bool encoder,
                          bool video, lt_err *err)
{
    run r = {.a = a, .encoder = encoder, .video = video};
    lt_status status = execute(&r, in, results, err);
    lt_vae_close(r.vae, r.context ? r.context : r.dry);
    lt_context_destroy(r.context);
    lt_context_destroy(r.dry);
    free(r.input.data);
    for (int i = 0; i < 2; i++) free(r.outputs[i].data);
    return status;
}

static lt_status run_encoder(const arguments *a, const lt_safetensors *in, results *results, lt_err *err)
{
    return run_part(a, in, results, true, false, err);
}

static lt_status run_decoder(const arguments *a, const lt_safetensors *in, results *results, lt_err *err)
{
    return run_part(a, in, results, false, false, err);
}

static lt_status run_video(const arguments *a, const lt_safetensors *in, results *results, lt_err *err)
{
    return run_part(a, in, results, false, true, err);
}

const part part_encoder = {
    .name = "encoder",
    .input = "sample",
    .help = "encoder, diffusers' numerics:\n"
            "  sample [N,3,H,W] in [-1,1]  -> latent [N,C,h,w] = encode(sample).latent_dist.mean (unscaled), "
            "logvar\n"
            "encoder, lite-sora's:\n"
            "  sample [N,3,H,W]            -> latent [N,C,h,w] = SDVAEEncoder(sample): mean times "
            "scaling_factor\n",
    .run = run_encoder,
};

const part part_decoder = {
    .name = "decoder",
    .input = "latent",
    .help = "decoder, diffusers' numerics:\n"
            "  latent [N,C,h,w] (unscaled) -> sample [N,3,H,W] = decode(latent, num_frames = N).sample\n"
            "decoder, lite-sora's:\n"
            "  latent [C,T,h,w] (scaled)   -> sample [3,T,H,W] = SVDVAEDecoder(latent)\n"
            "  latent [N,C,h,w] (scaled)   -> sample [N,3,H,W] = SDVAEDecoder(latent), not temporal\n",
    .run = run_decoder,
};

const part part_decode_video = {
    .name = "decode_video",
    .help = "decode_video, both:\n"
            "  latent [C,T,h,w] (scaled)   -> sample [3,T,H,W] = lite-sora's decode_video(latent, tile, "
            "stride)\n",
    .run = run_video,
};
