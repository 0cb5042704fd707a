/* on_gpu.c - decoded frames that stay in a GPU's memory: the GPU, and where in it a frame lies.
 *
 * FFmpeg decodes on a stream of the GPU, the default one (its AVCUDADeviceContext.stream is NULL), and a frame that it gives may still be on
 * its way there. Whoever reads it makes his work wait for that stream (lt_yuv_to_rgb does). FFmpeg writes over a frame's memory once nobody
 * refers to it, and knows nothing of other streams: so the frame is held until the next one is asked for, and by then the reader's work is done. */
#include "kernels/colour.h"
#include "stages/video/internal.h"

#include <libavutil/hwcontext.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- the GPU ------------------------------------------------------------------------------------------- */

struct lt_video_gpu {
    AVBufferRef *device;
};

/* AV_CUDA_USE_PRIMARY_CONTEXT of libavutil/hwcontext_cuda.h, which wants CUDA's own headers. */
enum { USE_PRIMARY_CONTEXT = 1 << 0 };

/* FFmpeg says "out of memory" of a kind of device that it was built without. */
static bool knows_cuda(void)
{
    enum AVHWDeviceType type = AV_HWDEVICE_TYPE_NONE;
    do type = av_hwdevice_iterate_types(type);
    while (type != AV_HWDEVICE_TYPE_NONE && type != AV_HWDEVICE_TYPE_CUDA);
    return type == AV_HWDEVICE_TYPE_CUDA;
}

lt_status lt_video_gpu_open(lt_video_gpu **out, int index, lt_err *err)
{
    char number[16];
    lt_ffmpeg_init();
    *out = NULL;
    if (!knows_cuda())
        return lt_fail(err, LT_E_NOT_FOUND, "hwaccel = \"cuda:%d\": this FFmpeg was built without CUDA",
                       index);
    lt_video_gpu *gpu = calloc(1, sizeof *gpu);
    if (!gpu) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    snprintf(number, sizeof number, "%d", index);
    int rc = av_hwdevice_ctx_create(&gpu->device, AV_HWDEVICE_TYPE_CUDA, number, NULL, USE_PRIMARY_CONTEXT);
    if (rc >= 0) {
        *out = gpu;
        return LT_OK;
    }
    free(gpu);
    if (rc == AVERROR(ENOTSUP))
        return lt_fail(err, LT_E_UNSUPPORTED, "cuda:%d: FFmpeg cannot decode in the context that is there",
                       index);
    return lt_fail(err, rc == AVERROR(ENOMEM) ? LT_E_NO_MEMORY : LT_E_NOT_FOUND,
                   "hwaccel = \"cuda:%d\": there is no such device here: %s", index, av_err2str(rc));
}

void lt_video_gpu_close(lt_video_gpu *gpu)
{
    if (!gpu) return;
    av_buffer_unref(&gpu->device);
    free(gpu);
}

AVBufferRef *lt_gpu_device(const lt_video_gpu *gpu)
{
    return gpu->device;
}

/* ---- frames -------------------------------------------------------------------------------------------- */

static enum AVPixelFormat layout_of(const AVFrame *frame)
{
    const AVHWFramesContext *frames = frame->hw_frames_ctx ? (void *)frame->hw_frames_ctx->data : NULL;
    return frames ? frames->sw_format : AV_PIX_FMT_NONE;
}

static int sample_bytes(const AVPixFmtDescriptor *d)
{
    return d->comp[0].depth + d->comp[0].shift > 8 ? 2 : 1;
}

/* NV12, P010, P016, YUV444P, YUV444P16 and their like: luma in a plane, chroma in one or two. */
static bool is_known(const AVPixFmtDescriptor *d)
{
    const uint64_t other = AV_PIX_FMT_FLAG_BE | AV_PIX_FMT_FLAG_PAL | AV_PIX_FMT_FLAG_BITSTREAM |
                           AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_FLOAT | AV_PIX_FMT_FLAG_BAYER |
                           AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_ALPHA;
    if (!d || d->flags & other || d->nb_components != 3 || d->log2_chroma_w > 1 || d->log2_chroma_h > 1)
        return false;
    const AVComponentDescriptor *y = &d->comp[0], *u = &d->comp[1], *v = &d->comp[2];
    int bytes = sample_bytes(d);
    return y->step == bytes && y->plane == 0 && u->plane > 0 && v->plane > 0 && u->step == v->step &&
           (u->step == bytes || u->step == 2 * bytes) && u->depth == y->depth && v->depth == y->depth &&
           u->shift == y->shift && y->depth >= 8 && y->depth + y->shift <= 16;
}

/* Is the frame at hand laid out as is known here? *width, *height: without what is cut off. */
static lt_status check_layout(const AVFrame *frame, int *width, int *height, lt_err *err)
{
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(layout_of(frame));
    if (!is_known(d))
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "the GPU gives frames as %s, which cannot be converted there: say convert = ffmpeg",
                       d ? d->name : "nothing that is known");
    bool halves =
        frame->crop_left & ((1u << d->log2_chroma_w) - 1) || frame->crop_top & ((1u << d->log2_chroma_h) - 1);
    *width = frame->width - (int)(frame->crop_left + frame->crop_right);
    *height = frame->height - (int)(frame->crop_top + frame->crop_bottom);
    if (*width > 0 && *height > 0 && !halves) return LT_OK;
    return lt_fail(
        err, LT_E_UNSUPPORTED,
        "a picture that begins at column %zu, row %zu of what is decoded cannot be converted on the "
        "GPU: say convert = ffmpeg",
        frame->crop_left, frame->crop_top);
}

lt_status lt_gpu_describe(const lt_video *video, AVFrame **like, lt_err *err)
{
    const AVFrame *frame = video->frame;
    enum AVPixelFormat coded = video->container.decoder->sw_pix_fmt;
    int width, height;
    *like = NULL;
    lt_status status = check_layout(frame, &width, &height, err);
    if (status) return status;
    AVFrame *f = av_frame_alloc();
    if (!f || av_frame_copy_props(f, frame) < 0) {
        av_frame_free(&f);
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a frame");
    }
    f->format = coded != AV_PIX_FMT_NONE ? coded : layout_of(frame);
    f->width = width;
    f->height = height;
    *like = f;
    return LT_OK;
}

static bool find_matrix(int matrix, lt_colour_matrix *known)
{
    switch (matrix) {
    case AVCOL_SPC_BT470BG:
    case AVCOL_SPC_SMPTE170M: *known = LT_MATRIX_601; return true;
    case AVCOL_SPC_BT709: *known = LT_MATRIX_709; return true;
    case AVCOL_SPC_BT2020_NCL: *known = LT_MATRIX_2020; return true;
    default: return false;
    }
}

lt_status lt_gpu_check(const lt_video *video, lt_err *err)
{
    const lt_convert *c = &video->convert;
    lt_colour_matrix known;
    if (c->transpose || c->flip_x || c->flip_y)
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "its pictures are to be turned, which is not done on the GPU: say convert = ffmpeg");
    if (video->frame->colorspace == AVCOL_SPC_RGB || !find_matrix(c->matrix, &known))
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "its colour matrix, %s, is not known on the GPU: say convert = ffmpeg",
                       av_color_space_name(video->frame->colorspace));
    return LT_OK;
}

/* Bits of a sample that mean something: those of the stream. They lie at the upper end. */
static int depth_of(const lt_video *video, const AVPixFmtDescriptor *layout)
{
    const AVPixFmtDescriptor *stream = av_pix_fmt_desc_get(video->container.decoder->sw_pix_fmt);
    int depth = stream ? stream->comp[0].depth : layout->comp[0].depth;
    return LT_MIN(depth, layout->comp[0].depth);
}

/* In halves of a pixel. */
static void place_chroma(int location, lt_yuv *p)
{
    bool centre =
        location == AVCHROMA_LOC_CENTER || location == AVCHROMA_LOC_TOP || location == AVCHROMA_LOC_BOTTOM;
    bool top = location == AVCHROMA_LOC_TOPLEFT || location == AVCHROMA_LOC_TOP;
    bool bottom = location == AVCHROMA_LOC_BOTTOMLEFT || location == AVCHROMA_LOC_BOTTOM;
    p->at_x = centre ? 1 : 0;
    p->at_y = top ? 0 : bottom ? 2 : 1;
}

static uint8_t *sample_at(const AVFrame *f, const AVComponentDescriptor *c, int x, int y)
{
    return f->data[c->plane] + (ptrdiff_t)y * f->linesize[c->plane] + x * c->step + c->offset;
}

/* The frame at hand, whose geometry has been looked at. */
static void find_planes(const lt_video *video, lt_yuv *p)
{
    const AVFrame *f = video->frame;
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(layout_of(f));
    int bytes = sample_bytes(d), left = (int)f->crop_left, top = (int)f->crop_top;
    int chroma_left = left >> d->log2_chroma_w, chroma_top = top >> d->log2_chroma_h;
    *p = (lt_yuv){.y = sample_at(f, &d->comp[0], left, top),
                  .u = sample_at(f, &d->comp[1], chroma_left, chroma_top),
                  .v = sample_at(f, &d->comp[2], chroma_left, chroma_top),
                  .y_pitch = f->linesize[0],
                  .uv_pitch = f->linesize[d->comp[1].plane],
                  .uv_step = d->comp[1].step / bytes,
                  .width = video->convert.source_width,
                  .height = video->convert.source_height,
                  .shift_x = d->log2_chroma_w,
                  .shift_y = d->log2_chroma_h,
                  .bits = depth_of(video, d),
                  .full_range = video->convert.range};
    p->low_zeros = d->comp[0].depth + d->comp[0].shift - p->bits;
    find_matrix(video->convert.matrix, &p->matrix);
    place_chroma(video->convert.chroma_location, p);
}

static lt_status check_frame(const lt_video *video, lt_err *err)
{
    const AVFrame *frame = video->frame;
    const lt_convert *c = &video->convert;
    if (frame->format != video->container.hw.format)
        return lt_fail(err, LT_E_DEVICE_LOST, "%s does not decode it any more, as it has before",
                       video->container.hw.name);
    int width = 0, height = 0;
    lt_status status = check_layout(frame, &width, &height, err);
    if (status || (width == c->source_width && height == c->source_height)) return status;
    return lt_fail(
        err, LT_E_UNSUPPORTED,
        "the picture is %dx%d where the video began as %dx%d; a change of size in mid-stream is not "
        "supported: cut the video there with start and frames",
        width, height, c->source_width, c->source_height);
}

lt_status lt_video_read_there(lt_video *video, int64_t index, lt_yuv *picture, lt_err *err)
{
    lt_status status = lt_video_seek(video, index, err);
    if (status) return status;
    status = check_frame(video, err);
    if (!status) {
        find_planes(video, picture);
        return LT_OK;
    }
    av_frame_unref(video->frame);
    return lt_err_prefix(err, "%s: frame %lld", video->input, (long long)video->selected[index]);
}

/* ---- its memory ---------------------------------------------------------------------------------------- */

/* As FFmpeg asks NVDEC for them: frames that others refer to or that wait to be shown; two beside, three to work on, one to take a picture
 * out. Of HEVC the decoder does not tell how many: 8, where the standard allows 6 at a level's largest size, and more of smaller ones. */
static int surfaces_of(const AVCodecContext *decoder)
{
    enum { OWN = 2 + 3 + 1 };
    switch (decoder->codec_id) {
    case AV_CODEC_ID_H264: return LT_MAX(decoder->refs, 1) + decoder->has_b_frames + OWN;
    case AV_CODEC_ID_HEVC: return LT_MAX(8, decoder->has_b_frames + 4) + OWN;
    case AV_CODEC_ID_VP9:
    case AV_CODEC_ID_AV1: return 9 + OWN;
    default: return 4 + OWN;
    }
}

size_t lt_video_device_bytes(const lt_video *video)
{
    enum {
        COPIES = 3,
        PITCH = 256,
        LINES = 32
    }; /* of pictures that were taken out: at hand, before, on the way */
    if (video->is_graph || !video->container.hw.device) return 0;
    const AVCodecContext *decoder = video->container.decoder;
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(decoder->sw_pix_fmt);
    int width = LT_MAX(decoder->coded_width, decoder->width),
        height = LT_MAX(decoder->coded_height, decoder->height);
    size_t luma = lt_round_up((size_t)width, PITCH) * lt_round_up((size_t)height, LINES);
    if (d && d->comp[0].depth > 8) luma *= 2;
    size_t chroma = d ? (2 * luma) >> (d->log2_chroma_w + d->log2_chroma_h) : luma / 2;
    return (luma + chroma) * (size_t)(surfaces_of(decoder) + COPIES);
}
