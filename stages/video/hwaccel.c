/* hwaccel.c - a device for a decoder, and its frames fetched from it. */
#include "stages/video/hwaccel.h"

#include <libavutil/hwcontext.h>
#include <libavutil/intreadwrite.h>
#include <stdio.h>
#include <string.h>

bool lt_hwaccel_is_exact(enum AVCodecID id)
{
    return id == AV_CODEC_ID_H264 || id == AV_CODEC_ID_HEVC || id == AV_CODEC_ID_VP8 ||
           id == AV_CODEC_ID_VP9 || id == AV_CODEC_ID_AV1;
}

/* ---- a device ------------------------------------------------------------------------------------------ */

/* FFmpeg's decoder that decodes by `type`; NULL: none. It may be another than the one that software would take. */
static const AVCodec *find_decoder(enum AVCodecID id, enum AVHWDeviceType type, enum AVPixelFormat *format)
{
    void *position = NULL;
    for (const AVCodec *codec; (codec = av_codec_iterate(&position));) {
        if (codec->id != id || !av_codec_is_decoder(codec)) continue;
        const AVCodecHWConfig *config;
        for (int i = 0; (config = avcodec_get_hw_config(codec, i)); i++) {
            if (config->device_type != type || !(config->methods & AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX))
                continue;
            *format = config->pix_fmt;
            return codec;
        }
    }
    return NULL;
}

static lt_status unknown(const char *name, lt_err *err)
{
    char list[256] = "";
    size_t n = 0;
    for (enum AVHWDeviceType type = AV_HWDEVICE_TYPE_NONE;
         (type = av_hwdevice_iterate_types(type)) != AV_HWDEVICE_TYPE_NONE && n < sizeof list;)
        n += (size_t)snprintf(list + n, sizeof list - n, ", %s", av_hwdevice_get_type_name(type));
    return lt_fail(err, LT_E_NOT_FOUND, "hwaccel = \"%s\": this FFmpeg knows none%s, and auto", name, list);
}

/* Whoever decodes by `type`: everything but the device. */
static lt_status find_codec(lt_hwaccel *hw, enum AVHWDeviceType type, enum AVCodecID id, lt_err *err)
{
    const char *name = av_hwdevice_get_type_name(type);
    *hw = (lt_hwaccel){.codec = NULL};
    const AVCodec *codec = find_decoder(id, type, &hw->format);
    if (!codec)
        return lt_fail(err, LT_E_UNSUPPORTED, "hwaccel = \"%s\": this FFmpeg does not decode %s by it", name,
                       avcodec_get_name(id));
    hw->codec = codec;
    snprintf(hw->name, sizeof hw->name, "%s", name);
    return LT_OK;
}

lt_status lt_hwaccel_open_gpu(lt_hwaccel *hw, AVBufferRef *device, enum AVCodecID id, lt_err *err)
{
    lt_status status = find_codec(hw, AV_HWDEVICE_TYPE_CUDA, id, err);
    if (status) return status;
    hw->stays = true;
    hw->device = av_buffer_ref(device);
    return hw->device ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

/* Through FFmpeg's type `type`, on `device` (NULL: the first). */
static lt_status open_type(lt_hwaccel *hw, enum AVHWDeviceType type, const char *device, enum AVCodecID id,
                           lt_err *err)
{
    const char *name = av_hwdevice_get_type_name(type);
    lt_status status = find_codec(hw, type, id, err);
    if (status) return status;
    int rc = av_hwdevice_ctx_create(&hw->device, type, device, NULL, 0);
    if (rc < 0) {
        *hw = (lt_hwaccel){.codec = NULL};
        return lt_fail(err, rc == AVERROR(ENOMEM) ? LT_E_NO_MEMORY : LT_E_NOT_FOUND,
                       "hwaccel = \"%s%s%s\": there is no such device here: %s", name, device ? ":" : "",
                       device ? device : "", av_err2str(rc));
    }
    hw->fetched = av_frame_alloc();
    if (hw->fetched) return LT_OK;
    lt_hwaccel_close(hw);
    return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

lt_status lt_hwaccel_open(lt_hwaccel *hw, const char *wanted, enum AVCodecID id, lt_err *err)
{
    char name[64];
    const char *colon = strchr(wanted, ':');
    enum AVHWDeviceType type = AV_HWDEVICE_TYPE_NONE;
    *hw = (lt_hwaccel){.codec = NULL};
    if (strcmp(wanted, "auto")) {
        snprintf(name, sizeof name, "%.*s", (int)(colon ? colon - wanted : (ptrdiff_t)strlen(wanted)),
                 wanted);
        type = av_hwdevice_find_type_by_name(name);
        return type == AV_HWDEVICE_TYPE_NONE ? unknown(wanted, err)
                                             : open_type(hw, type, colon ? colon + 1 : NULL, id, err);
    }
    lt_status status = LT_E_NOT_FOUND;
    char tried[200] = "";
    while (status && (type = av_hwdevice_iterate_types(type)) != AV_HWDEVICE_TYPE_NONE) {
        enum AVPixelFormat format;
        lt_err one;
        if (!find_decoder(id, type, &format)) continue;
        status = open_type(hw, type, NULL, id, &one);
        size_t n = strlen(tried);
        snprintf(tried + n, sizeof tried - n, "%s%s", n ? ", " : "; tried ", av_hwdevice_get_type_name(type));
    }
    return status ? lt_fail(err, status, "no hardware decodes %s here%s", avcodec_get_name(id), tried)
                  : LT_OK;
}

void lt_hwaccel_close(lt_hwaccel *hw)
{
    av_frame_free(&hw->fetched);
    av_buffer_unref(&hw->device);
    *hw = (lt_hwaccel){.codec = NULL};
}

/* The hardware's format where the decoder offers it; else, for a profile or size that it does not have, what software gives. */
static enum AVPixelFormat choose_format(AVCodecContext *decoder, const enum AVPixelFormat *offered)
{
    const lt_hwaccel *hw = decoder->opaque;
    for (const enum AVPixelFormat *f = offered; *f != AV_PIX_FMT_NONE; f++)
        if (*f == hw->format) return *f;
    return avcodec_default_get_format(decoder, offered);
}

void lt_hwaccel_use(lt_hwaccel *hw, AVCodecContext *decoder)
{
    decoder->opaque = hw;
    decoder->get_format = choose_format;
    decoder->hw_device_ctx = av_buffer_ref(hw->device); /* NULL: software decodes */
    decoder->thread_count = 1;
    hw->declined = false;
}

/* ---- its frames ---------------------------------------------------------------------------------------- */

static unsigned sample(const uint8_t *at, int bytes)
{
    return bytes == 2 ? (unsigned)AV_RL16(at) : *at;
}

/* One component. */
static void repack_component(const AVFrame *from, const AVComponentDescriptor *a, AVFrame *to,
                             const AVComponentDescriptor *b, int width, int height)
{
    int a_bytes = a->depth + a->shift > 8 ? 2 : 1, b_bytes = b->depth > 8 ? 2 : 1;
    int shift = a->shift + a->depth - b->depth;
    for (int y = 0; y < height; y++) {
        const uint8_t *x = from->data[a->plane] + (ptrdiff_t)y * from->linesize[a->plane] + a->offset;
        uint8_t *out = to->data[b->plane] + (ptrdiff_t)y * to->linesize[b->plane];
        for (int i = 0; i < width; i++, x += a->step, out += b_bytes) {
            unsigned value = sample(x, a_bytes) >> shift;
            if (b_bytes == 2)
                AV_WL16(out, value);
            else
                *out = (uint8_t)value;
        }
    }
}

bool lt_hwaccel_repack(const AVFrame *from, AVFrame *to)
{
    const AVPixFmtDescriptor *a = av_pix_fmt_desc_get(from->format), *b = av_pix_fmt_desc_get(to->format);
    const uint64_t other = AV_PIX_FMT_FLAG_BE | AV_PIX_FMT_FLAG_PAL | AV_PIX_FMT_FLAG_BITSTREAM |
                           AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_FLOAT | AV_PIX_FMT_FLAG_BAYER;
    bool alike = a && b && !((a->flags | b->flags) & other) &&
                 (a->flags & AV_PIX_FMT_FLAG_RGB) == (b->flags & AV_PIX_FMT_FLAG_RGB) &&
                 a->nb_components == b->nb_components && a->nb_components <= 3 &&
                 a->log2_chroma_w == b->log2_chroma_w && a->log2_chroma_h == b->log2_chroma_h;
    for (int i = 0; alike && i < a->nb_components; i++)
        alike = a->comp[i].depth + a->comp[i].shift <= 16 && a->comp[i].depth >= b->comp[i].depth &&
                b->comp[i].shift == 0 && b->comp[i].offset == 0 &&
                b->comp[i].step == (b->comp[i].depth > 8 ? 2 : 1);
    for (int i = 0; alike && i < a->nb_components; i++) {
        bool chroma = i > 0;
        repack_component(from, &a->comp[i], to, &b->comp[i],
                         AV_CEIL_RSHIFT(to->width, chroma ? a->log2_chroma_w : 0),
                         AV_CEIL_RSHIFT(to->height, chroma ? a->log2_chroma_h : 0));
    }
    return alike;
}

/* The fetched frame as the software decoder's, in `frame`. */
static lt_status take_fetched(lt_hwaccel *hw, const AVCodecContext *decoder, AVFrame *frame, lt_err *err)
{
    AVFrame *planar = av_frame_alloc();
    if (!planar) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a frame");
    planar->format = decoder->sw_pix_fmt;
    planar->width = frame->width;
    planar->height = frame->height;
    int rc = av_frame_get_buffer(planar, 0);
    bool known = rc >= 0 && lt_hwaccel_repack(hw->fetched, planar);
    if (known) rc = av_frame_copy_props(planar, frame);
    if (known && rc >= 0)
        rc = av_frame_apply_cropping(planar, 0); /* left and top, which hardware leaves to us */
    lt_status status = LT_OK;
    if (rc < 0)
        status = lt_fail_av(err, rc, "a frame of %s", hw->name);
    else if (!known)
        status =
            lt_fail(err, LT_E_UNSUPPORTED, "%s gives frames as %s, which cannot be taken as %s", hw->name,
                    av_get_pix_fmt_name(hw->fetched->format), av_get_pix_fmt_name(planar->format));
    if (!status) {
        av_frame_unref(frame);
        av_frame_move_ref(frame, planar);
    }
    av_frame_free(&planar);
    return status;
}

lt_status lt_hwaccel_fetch(lt_hwaccel *hw, const AVCodecContext *decoder, AVFrame *frame, lt_err *err)
{
    if (frame->format != hw->format) {
        hw->declined = true;
        return LT_OK;
    }
    if (hw->stays) return LT_OK;
    av_frame_unref(hw->fetched);
    int rc = av_hwframe_transfer_data(hw->fetched, frame, 0);
    if (rc < 0)
        return lt_fail(err, rc == AVERROR(ENOMEM) ? LT_E_NO_MEMORY : LT_E_DEVICE_LOST,
                       "a frame cannot be fetched from %s: %s", hw->name, av_err2str(rc));
    lt_status status = take_fetched(hw, decoder, frame, err);
    av_frame_unref(hw->fetched);
    return status;
}
