/* gpu.c - frames that never leave the GPU that decodes them: converted there, and left there for who takes them. */
#include "kernels/ops.h"
#include "stages/decode/decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int lt_decode_gpu_number(const char *hwaccel)
{
    int number = 0, used = 0;
    if (!strcmp(hwaccel, "cuda")) return 0;
    return sscanf(hwaccel, "cuda:%3d%n", &number, &used) == 1 && !hwaccel[used] ? LT_MAX(number, -1) : -1;
}

/* FFmpeg comes first: it takes over no context of CUDA's that the plug-in has made. */
lt_status lt_decode_gpu_open(lt_decode_gpu *gpu, lt_source *source, lt_err *err)
{
    const lt_decode_config *config = source->config;
    char name[16];
    *gpu = (lt_decode_gpu){.decoder = NULL};
    if (!config->convert) return LT_OK;
    int number = lt_decode_gpu_number(config->hwaccel);
    lt_status status = lt_video_gpu_open(&gpu->decoder, number, err);
    snprintf(name, sizeof name, "cuda:%d", number);
    if (!status) status = lt_stage_device_open(&gpu->device, name, err);
    if (status) {
        lt_decode_gpu_close(gpu);
        return status;
    }
    source->gpu = gpu->decoder;
    return LT_OK;
}

void lt_decode_gpu_close(lt_decode_gpu *gpu)
{
    lt_outlet_close(&gpu->outlet);
    lt_context_destroy(gpu->context);
    lt_video_gpu_close(gpu->decoder);
    *gpu = (lt_decode_gpu){.decoder = NULL};
}

/* ---- planning ------------------------------------------------------------------------------------------- */

lt_status lt_decode_gpu_plan(const lt_decode_gpu *gpu, size_t frame_bytes, size_t surface_bytes,
                             uint32_t n_open, lt_plan *plan, lt_err *err)
{
    const lt_device_info *info = &gpu->device.info;
    size_t surfaces = surface_bytes * n_open;
    lt_status status = lt_stage_device_plan(&gpu->device, gpu->device.name, NULL, frame_bytes, 0,
                                            "convert = ffmpeg leaves it to the host", plan, err);
    if (status) return status;
    plan->device_bytes += surfaces;
    if (n_open > 1)
        lt_plan_note(plan, "the decoders' surfaces, of %u clips at once, are counted as %.1f MiB of it",
                     n_open, (double)surfaces / 0x1p20);
    else
        lt_plan_note(plan, "the decoder's surfaces are counted as %.1f MiB of it", (double)surfaces / 0x1p20);
    if (!*info->id) return LT_OK;
    plan->output_device = lt_arena_strdup(plan->arena, info->id);
    return plan->output_device ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

/* ---- chunks --------------------------------------------------------------------------------------------- */

/* A context whose workspace holds a frame. */
static lt_status reserve(lt_decode_gpu *gpu, size_t frame_bytes, lt_err *err)
{
    if (gpu->context && gpu->frame_bytes >= frame_bytes) return LT_OK;
    lt_status status = gpu->context
                           ? lt_context_resize(gpu->context, frame_bytes, err)
                           : lt_context_create(&gpu->context, gpu->device.name, LT_F32, frame_bytes, 1, err);
    if (!status) gpu->frame_bytes = frame_bytes;
    return status;
}

/* One frame into `pixels`, a row of a share, or by way of the workspace to `host`. The decoder may have its surface back afterwards: the
 * GPU is waited for. */
static lt_status make_frame(lt_decode_gpu *gpu, lt_video *video, int64_t index, lt_tensor pixels, void *host,
                            lt_err *err)
{
    const lt_video_info *info = lt_video_get_info(video);
    lt_context *c = gpu->context;
    lt_yuv picture;
    lt_status status = lt_video_read_there(video, index, &picture, err);
    if (status) return status;
    lt_dtype dtype = info->bits == 8 ? LT_U8 : LT_U16;
    lt_tensor own = pixels.data ? LT_NONE : lt_new(c, dtype, 4, (int64_t[]){1, info->height, info->width, 3});
    lt_tensor out = pixels.data ? pixels : own;
    lt_yuv_to_rgb(c, &picture, info->bits, out);
    if (own.data) lt_download(c, own, dtype, host);
    lt_drop(c, &own);
    return lt_context_status(c, err);
}

lt_status lt_decode_gpu_make(lt_decode_gpu *gpu, const lt_setup *setup, lt_video *video, uint64_t first,
                             uint64_t count, lt_payload *output, lt_err *err)
{
    const lt_video_info *info = lt_video_get_info(video);
    lt_dtype dtype = info->bits == 8 ? LT_U8 : LT_U16;
    size_t frame_bytes = lt_video_frame_bytes(info);
    lt_share *share;
    lt_span *span;
    lt_status status = reserve(gpu, frame_bytes, err);
    if (!status) status = lt_outlet_open(&gpu->outlet, setup, gpu->context, output, &share, err);
    if (!status)
        status = lt_payload_add(output, first, count, (Lt__Wire__Dtype)(dtype + 1), frame_bytes * count,
                                &span, err);
    if (status) return status;
    lt_context *c = gpu->context;
    const int64_t shape[] = {(int64_t)count, info->height, info->width, 3};
    lt_tensor chunk = LT_NONE;
    if (share)
        chunk =
            lt_share_tensor(c, share, (size_t)((char *)span->data - (char *)output->data), dtype, 4, shape);
    for (uint64_t i = 0; i < count && !status; i++) {
        lt_tensor pixels = share ? lt_rows(c, chunk, (int64_t)i, 1) : LT_NONE;
        status = make_frame(gpu, video, (int64_t)(first + i), pixels,
                            share ? NULL : (char *)span->data + i * frame_bytes, err);
    }
    if (status || !share) return status;
    lt_outlet_give(&gpu->outlet, c, output);
    return lt_context_status(c, err);
}

lt_status lt_decode_gpu_blame(const lt_decode_gpu *gpu, lt_status status, lt_err *err)
{
    lt_device_info info;
    lt_err why;
    if (!gpu->decoder || status == LT_E_DEVICE_LOST) return status;
    lt_status probed = lt_device_probe(gpu->device.name, &info, &why);
    if (probed == LT_E_DEVICE_LOST)
        return lt_fail(err, probed, "the GPU that decodes was lost: %s", why.text);
    if (probed == LT_E_BUSY) return lt_fail(err, probed, "the GPU that decodes is taken: %s", why.text);
    return status;
}
