/* encoder.c - what pictures become: encoder, pixel format, options and colour, checked; RGB to its format. */
#include "stages/video/encoder.h"

#include <stdio.h>
#include <libavutil/cpu.h>
#include <stdlib.h>
#include <string.h>

const char *lt_encoder_default_options(const char *codec)
{
    if (!strcmp(codec, "libx264")) return "crf=16:preset=medium";
    if (!strcmp(codec, "libx265")) return "crf=18:preset=medium";
    /* Left alone NVENC keeps to 2 Mbit/s, whatever the size. */
    if (av_strnstr(codec, "_nvenc", strlen(codec))) return "rc=constqp:qp=18:preset=p5";
    if (!strcmp(codec, "mjpeg")) return "flags=+qscale:global_quality=236"; /* q = 2, nearly the best */
    return "";
}

/* ---- names
 * ---------------------------------------------------------------------------------------------- */

static lt_status find_codec(lt_encoder *encoder, const char *name, lt_err *err)
{
    encoder->codec = avcodec_find_encoder_by_name(name);
    if (encoder->codec && encoder->codec->type == AVMEDIA_TYPE_VIDEO) return LT_OK;
    const char *names[512];
    int n = 0;
    void *position = NULL;
    const AVCodec *codec;
    while ((codec = av_codec_iterate(&position)) && n < (int)LT_COUNT(names))
        if (av_codec_is_encoder(codec) && codec->type == AVMEDIA_TYPE_VIDEO) names[n++] = codec->name;
    const AVCodecDescriptor *descriptor = avcodec_descriptor_get_by_name(name);
    codec = descriptor ? avcodec_find_encoder(descriptor->id) : NULL;
    const char *near = codec ? codec->name : lt_did_you_mean(name, names, n);
    return lt_fail(err, LT_E_INVALID, "codec = \"%s\": this FFmpeg has no such video encoder%s%s%s", name,
                   near ? "; did you mean \"" : " (`ffmpeg -encoders` lists them)", near ? near : "",
                   near ? "\"?" : "");
}

static lt_status find_container(const AVOutputFormat **format, const char *output, lt_err *err)
{
    *format = av_guess_format(NULL, output, NULL);
    if (*format) return LT_OK;
    return lt_fail(err, LT_E_INVALID,
                   "output = \"%s\": its ending names no format FFmpeg writes; use .mp4, .mkv, .mov or .webm",
                   output);
}

lt_status lt_encoder_check(const char *codec, const char *container, lt_err *err)
{
    lt_encoder encoder = {0};
    const AVOutputFormat *format;
    lt_status status = codec ? find_codec(&encoder, codec, err) : LT_OK;
    return status || !container ? status : find_container(&format, container, err);
}

bool lt_encoder_is_hardware(const AVCodec *codec)
{
    return codec->capabilities & (AV_CODEC_CAP_HARDWARE | AV_CODEC_CAP_HYBRID);
}

/* Does it take pictures from the host's memory, of whatever format? */
static bool takes_pictures(const AVCodec *codec)
{
    for (const enum AVPixelFormat *f = codec->pix_fmts; f && *f != AV_PIX_FMT_NONE; f++)
        if (!(av_pix_fmt_desc_get(*f)->flags & AV_PIX_FMT_FLAG_HWACCEL)) return true;
    return !codec->pix_fmts;
}

static bool takes(const AVCodec *codec, enum AVPixelFormat format)
{
    if (!codec->pix_fmts) return sws_isSupportedOutput(format);
    for (const enum AVPixelFormat *f = codec->pix_fmts; *f != AV_PIX_FMT_NONE; f++)
        if (*f == format) return sws_isSupportedOutput(format);
    return false;
}

static enum AVPixelFormat still_format(const AVCodec *codec, int bits)
{
    static const enum AVPixelFormat shallow[] = {AV_PIX_FMT_RGB24, AV_PIX_FMT_BGR24, AV_PIX_FMT_GBRPF32LE};
    static const enum AVPixelFormat deep[] = {AV_PIX_FMT_RGB48BE, AV_PIX_FMT_RGB48LE, AV_PIX_FMT_GBRPF32LE,
                                              AV_PIX_FMT_RGB24, AV_PIX_FMT_BGR24};
    const enum AVPixelFormat *wanted = bits > 8 ? deep : shallow;
    size_t n = bits > 8 ? LT_COUNT(deep) : LT_COUNT(shallow);
    for (size_t i = 0; i < n; i++)
        if (takes(codec, wanted[i])) return wanted[i];
    return AV_PIX_FMT_NONE;
}

static enum AVPixelFormat automatic_format(const AVCodec *codec, int bits, bool still)
{
    static const enum AVPixelFormat shallow[] = {AV_PIX_FMT_YUV420P};
    static const enum AVPixelFormat deep[] = {AV_PIX_FMT_YUV420P10, AV_PIX_FMT_YUV422P10, AV_PIX_FMT_P010LE,
                                              AV_PIX_FMT_YUV420P};
    /* JPEG has the full range; a picture of its own keeps its colours whole. */
    if (codec->id == AV_CODEC_ID_MJPEG) return still ? AV_PIX_FMT_YUVJ444P : AV_PIX_FMT_YUVJ420P;
    if (still) return still_format(codec, bits);
    const enum AVPixelFormat *wanted = bits > 8 ? deep : shallow;
    size_t n = bits > 8 ? LT_COUNT(deep) : LT_COUNT(shallow);
    for (size_t i = 0; i < n; i++) {
        /* NVENC lists one set of formats for all its codecs, and has no H.264 of 10 bits. */
        bool is_idle = wanted[i] == AV_PIX_FMT_P010LE && codec->id == AV_CODEC_ID_H264;
        if (!is_idle && takes(codec, wanted[i])) return wanted[i];
    }
    return avcodec_find_best_pix_fmt_of_list(codec->pix_fmts, bits > 8 ? AV_PIX_FMT_RGB48 : AV_PIX_FMT_RGB24,
                                             0, NULL);
}

static lt_status unknown_format(const char *name, lt_err *err)
{
    const char *names[512];
    int n = 0;
    for (const AVPixFmtDescriptor *d = NULL; (d = av_pix_fmt_desc_next(d)) && n < (int)LT_COUNT(names);)
        if (!(d->flags & AV_PIX_FMT_FLAG_HWACCEL)) names[n++] = d->name;
    const char *near = lt_did_you_mean(name, names, n);
    return lt_fail(err, LT_E_NOT_FOUND, "pixel_format = \"%s\": FFmpeg knows no such format%s%s%s", name,
                   near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static lt_status find_format(lt_encoder *encoder, const char *name, int bits, bool still, lt_err *err)
{
    const AVCodec *codec = encoder->codec;
    bool automatic = !strcmp(name, "auto");
    if (!takes_pictures(codec))
        return lt_fail(
            err, LT_E_UNSUPPORTED,
            "codec = \"%s\": takes pictures only out of a device's memory, where they are not; of the "
            "hardware encoders those of NVENC (h264_nvenc, hevc_nvenc) take them from the host's",
            codec->name);
    encoder->format = automatic ? automatic_format(codec, bits, still) : av_get_pix_fmt(name);
    if (encoder->format == AV_PIX_FMT_NONE && !automatic) return unknown_format(name, err);
    if (encoder->format != AV_PIX_FMT_NONE && takes(codec, encoder->format)) return LT_OK;
    char list[400] = "";
    size_t used = 0;
    for (const enum AVPixelFormat *f = codec->pix_fmts; f && *f != AV_PIX_FMT_NONE && used < sizeof list - 40;
         f++)
        if (sws_isSupportedOutput(*f))
            used += (size_t)snprintf(list + used, sizeof list - used, " %s", av_get_pix_fmt_name(*f));
    return lt_fail(err, LT_E_UNSUPPORTED, "pixel_format = \"%s\": %s does not take it, but these:%s", name,
                   codec->name, list);
}

/* ---- colour
 * --------------------------------------------------------------------------------------------- */

static bool is_rgb(enum AVPixelFormat format)
{
    return av_pix_fmt_desc_get(format)->flags & AV_PIX_FMT_FLAG_RGB;
}

static bool is_always_full(enum AVPixelFormat format)
{
    return format == AV_PIX_FMT_YUVJ420P || format == AV_PIX_FMT_YUVJ422P || format == AV_PIX_FMT_YUVJ444P;
}

/* JPEG is full range in BT.601's matrix, whatever a file says of it: no decoder looks. */
static bool is_jpeg(const AVCodec *codec)
{
    return codec->id == AV_CODEC_ID_MJPEG || codec->id == AV_CODEC_ID_LJPEG || codec->id == AV_CODEC_ID_AMV;
}

/* Theora and VP8 have no matrix but BT.601's. */
static bool is_bt601(const AVCodec *codec)
{
    return is_jpeg(codec) || codec->id == AV_CODEC_ID_THEORA || codec->id == AV_CODEC_ID_VP8;
}

/* Whether who reads the file learns that samples have the full range. Some codecs say it, some are of limited range by
 * definition; of the others the format says it, or does not. */
static bool says_full_range(const AVCodec *codec, const char *container)
{
    static const struct {
        enum AVCodecID id;
        bool says;
    } codecs[] = {{AV_CODEC_ID_H264, true},        {AV_CODEC_ID_HEVC, true},
                  {AV_CODEC_ID_VP9, true},         {AV_CODEC_ID_AV1, true},
                  {AV_CODEC_ID_MPEG1VIDEO, false}, {AV_CODEC_ID_MPEG2VIDEO, false},
                  {AV_CODEC_ID_PRORES, false},     {AV_CODEC_ID_THEORA, false},
                  {AV_CODEC_ID_VP8, false},        {AV_CODEC_ID_DVVIDEO, false}};
    static const char *const formats[] = {"mp4", "matroska", "webm"};
    for (size_t i = 0; i < LT_COUNT(codecs); i++)
        if (codec->id == codecs[i].id) return codecs[i].says;
    const AVOutputFormat *format = av_guess_format(NULL, container, NULL);
    for (size_t i = 0; format && i < LT_COUNT(formats); i++)
        if (!strcmp(format->name, formats[i])) return true;
    return false;
}

/* The source's colour, with the matrix and range that will really be used. */
static void choose_colour(lt_encoder *encoder, const lt_encoder_request *request)
{
    const lt_video_colour *source = &request->colour;
    encoder->colour = *source;
    if (is_rgb(encoder->format)) {
        encoder->colour.matrix = AVCOL_SPC_RGB;
        encoder->colour.range = AVCOL_RANGE_JPEG;
        return;
    }
    bool full = source->range == AVCOL_RANGE_JPEG && source->matrix != AVCOL_SPC_RGB &&
                (request->still || says_full_range(encoder->codec, request->container));
    full |= is_always_full(encoder->format) || is_jpeg(encoder->codec);
    encoder->colour.range = full ? AVCOL_RANGE_JPEG : AVCOL_RANGE_MPEG;
    encoder->colour.matrix = lt_video_matrix(source->matrix, encoder->height);
    /* SMPTE 170M's is the same by another number. */
    if (is_bt601(encoder->codec) && encoder->colour.matrix != AVCOL_SPC_SMPTE170M)
        encoder->colour.matrix = AVCOL_SPC_BT470BG;
}

static lt_status make_sws(lt_encoder *encoder, lt_err *err)
{
    const AVPixFmtDescriptor *format = av_pix_fmt_desc_get(encoder->format);
    struct SwsContext *sws = encoder->sws = sws_alloc_context();
    if (!sws) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a scaler");
    av_opt_set_int(sws, "srcw", encoder->width, 0);
    av_opt_set_int(sws, "srch", encoder->height, 0);
    av_opt_set_int(sws, "src_format", encoder->source_bits == 8 ? AV_PIX_FMT_RGB24 : AV_PIX_FMT_RGB48, 0);
    av_opt_set_int(sws, "dstw", encoder->width, 0);
    av_opt_set_int(sws, "dsth", encoder->height, 0);
    av_opt_set_int(sws, "dst_format", encoder->format, 0);
    av_opt_set_int(sws, "sws_flags",
                   SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP,
                   0);
    if (format->log2_chroma_w == 1) av_opt_set_int(sws, "dst_h_chr_pos", 0, 0);
    if (format->log2_chroma_h == 1) av_opt_set_int(sws, "dst_v_chr_pos", 128, 0);
    const int *table = sws_getCoefficients(encoder->colour.matrix);
    sws_setColorspaceDetails(sws, table, 1, table, encoder->colour.range == AVCOL_RANGE_JPEG, 0, 1 << 16,
                             1 << 16);
    int rc = sws_init_context(sws, NULL, NULL);
    return rc < 0 ? lt_fail_av(err, rc, "converting RGB to %s", format->name) : LT_OK;
}

/* ---- creation
 * ------------------------------------------------------------------------------------------- */

/* With an encoder that makes what the format is meant for; PNG is the cover of a format of sounds. */
static lt_status refuse_codec(const lt_encoder *encoder, const AVOutputFormat *format, const char *output,
                              lt_err *err)
{
    bool is_cover = format->video_codec == AV_CODEC_ID_PNG;
    const AVCodec *other = is_cover ? NULL : avcodec_find_encoder(format->video_codec);
    return lt_fail(err, LT_E_UNSUPPORTED, "output = \"%s\": the %s format does not hold %s; %s%s%s", output,
                   format->name, avcodec_get_name(encoder->codec->id), other ? "set codec = \"" : "",
                   other ? other->name : "choose another ending, as .mkv or .mp4", other ? "\"" : "");
}

/* Where segments are kept: the first format that holds the codec. Timestamps in them are small whole
 * numbers. */
static lt_status choose_segment_format(lt_encoder *encoder, const lt_encoder_request *request, lt_err *err)
{
    const char *container = request->container;
    static const char *const names[][2] = {
        {"mp4", "mp4"}, {"nut", "nut"}, {"matroska", "mkv"}, {"mov", "mov"}};
    const AVOutputFormat *final;
    lt_status status = find_container(&final, container, err);
    if (status) return status;
    if (avformat_query_codec(final, encoder->codec->id, FF_COMPLIANCE_NORMAL) == 0)
        return refuse_codec(encoder, final, container, err);
    encoder->global_header = final->flags & AVFMT_GLOBALHEADER;
    encoder->segment_format = encoder->segment_suffix = final->name;
    if (request->whole) return LT_OK;
    for (size_t i = 0; i < LT_COUNT(names); i++) {
        const AVOutputFormat *format = av_guess_format(names[i][0], NULL, NULL);
        if (!format || avformat_query_codec(format, encoder->codec->id, FF_COMPLIANCE_NORMAL) != 1) continue;
        encoder->segment_format = names[i][0];
        encoder->segment_suffix = names[i][1];
        encoder->global_header |= (bool)(format->flags & AVFMT_GLOBALHEADER);
        return LT_OK;
    }
    return lt_fail(err, LT_E_UNSUPPORTED, "codec = \"%s\": no file format holds it", encoder->codec->name);
}

static void describe(lt_encoder *encoder)
{
    char *options = NULL;
    av_dict_get_string(encoder->options, &options, '=', ':');
    snprintf(encoder->settings, sizeof encoder->settings,
             "%s %s %dx%d sar %d:%d colour %d/%d/%d/%d rate %d/%d threads %d options %s",
             encoder->codec->name, av_get_pix_fmt_name(encoder->format), encoder->width, encoder->height,
             encoder->aspect.num, encoder->aspect.den, encoder->colour.primaries, encoder->colour.transfer,
             encoder->colour.matrix, encoder->colour.range, encoder->rate.num, encoder->rate.den,
             encoder->threads, options ? options : "");
    av_freep(&options);
}

/* Put key=value behind what the user gave of option `name`, unless its key is there. */
static lt_status add_parameter(lt_encoder *encoder, const char *name, const char *key, const char *value,
                               lt_err *err)
{
    const AVDictionaryEntry *given = av_dict_get(encoder->options, name, NULL, 0);
    if (given && strstr(given->value, key)) return LT_OK;
    char *text = av_asprintf("%s%s%s=%s", given ? given->value : "", given ? ":" : "", key, value);
    if (!text || av_dict_set(&encoder->options, name, text, AV_DICT_DONT_STRDUP_VAL) < 0)
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    return LT_OK;
}

/* x264's AVX-512 code is not deterministic: with mbtree on, equal input gave two to seven different files
 * in 14 runs of 240 frames (Debian 12's 0.164, threads 1 and 2); held to AVX2, or without mbtree, always
 * one. x265 writes to standard error by itself: only what is wrong is wanted there. */
static lt_status tame(lt_encoder *encoder, lt_err *err)
{
    if (!strcmp(encoder->codec->name, "libx264") && av_get_cpu_flags() & AV_CPU_FLAG_AVX512)
        return add_parameter(encoder, "x264-params", "asm", "avx2", err);
    if (!strcmp(encoder->codec->name, "libx265"))
        return add_parameter(encoder, "x265-params", "log-level", "error", err);
    return LT_OK;
}

static int round_up_shift(int value, int shift)
{
    return (value + (1 << shift) - 1) >> shift << shift;
}

static lt_status fill(lt_encoder *encoder, const lt_encoder_request *request, lt_err *err)
{
    lt_status status;
    const char *options = *request->options ? request->options : lt_encoder_default_options(request->codec);
    LT_TRY(find_codec(encoder, request->codec, err));
    LT_TRY(find_format(encoder, request->pixel_format, request->bits, request->still, err));
    encoder->threads = request->still ? 1 : LT_ENCODER_THREADS;
    if (!request->still) LT_TRY(choose_segment_format(encoder, request, err));
    if (av_dict_parse_string(&encoder->options, options, "=", ":", 0) < 0) {
        status =
            lt_fail(err, LT_E_INVALID, "options = \"%s\": must be key=value pairs joined by ':'", options);
        goto fail;
    }
    LT_TRY(tame(encoder, err));
    const AVPixFmtDescriptor *format = av_pix_fmt_desc_get(encoder->format);
    encoder->width = LT_MIN(round_up_shift(request->width, format->log2_chroma_w), request->frame_width);
    encoder->height = LT_MIN(round_up_shift(request->height, format->log2_chroma_h), request->frame_height);
    encoder->source_width = request->frame_width;
    encoder->source_height = request->frame_height;
    encoder->source_bits = request->bits;
    encoder->aspect = (AVRational){LT_MAX(request->aspect_num, 1), LT_MAX(request->aspect_den, 1)};
    encoder->rate = (AVRational){request->rate_num, request->rate_den};
    choose_colour(encoder, request);
    describe(encoder);
    LT_TRY(make_sws(encoder, err));
    int bytes = av_image_get_buffer_size(encoder->format, encoder->width, encoder->height, 64);
    encoder->pool = bytes > 0 ? av_buffer_pool_init((size_t)bytes + 64, NULL) : NULL;
    if (!encoder->pool) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for pictures");
    AVCodecContext *codec = NULL;
    LT_TRY(lt_encoder_open_codec(encoder, &codec, err));
    lt_encoder_close_codec(&codec, false);
fail:
    return status;
}

lt_status lt_encoder_create(lt_encoder **out, const lt_encoder_request *request, lt_err *err)
{
    lt_ffmpeg_init();
    *out = NULL;
    lt_encoder *encoder = calloc(1, sizeof *encoder);
    if (!encoder) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_status status = fill(encoder, request, err);
    if (status)
        lt_encoder_destroy(encoder);
    else
        *out = encoder;
    return status;
}

void lt_encoder_destroy(lt_encoder *encoder)
{
    if (!encoder) return;
    av_dict_free(&encoder->options);
    sws_freeContext(encoder->sws);
    av_buffer_pool_uninit(&encoder->pool);
    free(encoder);
}

lt_status lt_encoder_picture(lt_encoder *encoder, const void *rgb, AVFrame **out, lt_err *err)
{
    AVFrame *picture = *out = av_frame_alloc();
    int rc = AVERROR(ENOMEM);
    if (!picture || !(picture->buf[0] = av_buffer_pool_get(encoder->pool))) goto fail;
    picture->format = encoder->format;
    picture->width = encoder->width;
    picture->height = encoder->height;
    picture->sample_aspect_ratio = encoder->aspect;
    picture->color_primaries = encoder->colour.primaries;
    picture->color_trc = encoder->colour.transfer;
    picture->colorspace = encoder->colour.matrix;
    picture->color_range = encoder->colour.range;
    rc = av_image_fill_arrays(picture->data, picture->linesize, picture->buf[0]->data, encoder->format,
                              encoder->width, encoder->height, 64);
    if (rc < 0) goto fail;
    const uint8_t *planes[4] = {rgb};
    int strides[4] = {encoder->source_width * 3 * (encoder->source_bits / 8)};
    rc = sws_scale(encoder->sws, planes, strides, 0, encoder->height, picture->data, picture->linesize);
    if (rc >= 0) return LT_OK;
fail:
    av_frame_free(out);
    return lt_fail_av(err, rc, "converting a picture to %s", av_get_pix_fmt_name(encoder->format));
}
