/* segment.c - an encoder at work, and the file it writes. */
#include "stages/video/encoder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Places that a picture is coded before its turn, at most, of any encoder. */
enum { MOST_REORDERED = 100 };

struct lt_segment {
    const lt_encoder *encoder;
    AVCodecContext *codec;
    AVFormatContext *file;
    AVPacket *packet;
    char *path;
    int64_t n_frames, n_packets;
    int reorder;
};

/* ---- the encoder
 * ---------------------------------------------------------------------------------------- */

/* E_NOT_FOUND naming the first option that the encoder did not know. */
static lt_status check_unused(const lt_encoder *encoder, const AVCodecContext *codec,
                              const AVDictionary *left, lt_err *err)
{
    const AVDictionaryEntry *entry = av_dict_get(left, "", NULL, AV_DICT_IGNORE_SUFFIX);
    if (!entry) return LT_OK;
    const char *names[1024];
    int n = 0;
    const AVOption *option = NULL;
    while (encoder->codec->priv_class && (option = av_opt_next(codec->priv_data, option)) && n < 512)
        if (option->type != AV_OPT_TYPE_CONST) names[n++] = option->name;
    while ((option = av_opt_next(codec, option)) && n < (int)LT_COUNT(names))
        if (option->type != AV_OPT_TYPE_CONST && option->flags & AV_OPT_FLAG_ENCODING_PARAM)
            names[n++] = option->name;
    const char *near = lt_did_you_mean(entry->key, names, n);
    return lt_fail(err, LT_E_NOT_FOUND, "options: the encoder %s has no option \"%s\"%s%s%s",
                   encoder->codec->name, entry->key, near ? "; did you mean \"" : "", near ? near : "",
                   near ? "\"?" : "");
}

static AVCodecContext *new_codec(const lt_encoder *encoder)
{
    AVCodecContext *codec = avcodec_alloc_context3(encoder->codec);
    if (!codec) return NULL;
    codec->width = encoder->width;
    codec->height = encoder->height;
    codec->pix_fmt = encoder->format;
    codec->sample_aspect_ratio = encoder->aspect;
    codec->framerate = encoder->rate;
    codec->time_base = av_inv_q(encoder->rate);
    codec->color_primaries = encoder->colour.primaries;
    codec->color_trc = encoder->colour.transfer;
    codec->colorspace = encoder->colour.matrix;
    codec->color_range = encoder->colour.range;
    const AVPixFmtDescriptor *format = av_pix_fmt_desc_get(encoder->format);
    if (format->log2_chroma_w == 1 && format->log2_chroma_h == 1)
        codec->chroma_sample_location = AVCHROMA_LOC_LEFT;
    codec->thread_count = encoder->threads;
    codec->flags |= AV_CODEC_FLAG_BITEXACT;
    if (encoder->global_header) codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    return codec;
}

/* Why it did not open: an option that cannot have its value, or what FFmpeg said. */
static lt_status fail_open(const lt_encoder *encoder, int rc, lt_err *err)
{
    const char *name = encoder->codec->name;
    char why[LT_FFMPEG_REASON_BYTES];
    snprintf(why, sizeof why, "%s", lt_ffmpeg_reason(rc));
    AVCodecContext *codec = new_codec(encoder);
    lt_status status = codec ? lt_ffmpeg_check_values(codec, encoder->options, "options", name, err) : LT_OK;
    avcodec_free_context(&codec);
    if (status) return status;
    if (lt_encoder_is_hardware(encoder->codec))
        return lt_fail(err, LT_E_BUSY,
                       "the encoder %s did not open: its device is not here, has no encoder free, or refuses "
                       "these settings (%s): %s",
                       name, encoder->settings, why);
    return lt_fail(err, rc == AVERROR(ENOMEM) ? LT_E_NO_MEMORY : LT_E_INVALID,
                   "the encoder refuses these settings (%s): %s", encoder->settings, why);
}

lt_status lt_encoder_open_codec(const lt_encoder *encoder, AVCodecContext **out, lt_err *err)
{
    AVDictionary *options = NULL;
    AVCodecContext *codec = *out = new_codec(encoder);
    if (!codec || av_dict_copy(&options, encoder->options, 0) < 0) {
        avcodec_free_context(out);
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for an encoder");
    }
    lt_ffmpeg_listen();
    int rc = avcodec_open2(codec, encoder->codec, &options);
    lt_status status = rc < 0 ? fail_open(encoder, rc, err) : check_unused(encoder, codec, options, err);
    av_dict_free(&options);
    if (status) lt_encoder_close_codec(out, false);
    return status;
}

/* SVT-AV1 waits for ever when it is freed before it has seen a picture and the end. */
static void end_svt(AVCodecContext *codec, bool fed)
{
    AVPacket *packet = av_packet_alloc();
    AVFrame *picture = fed ? NULL : av_frame_alloc();
    if (picture) {
        picture->format = codec->pix_fmt;
        picture->width = codec->width;
        picture->height = codec->height;
        picture->pts = 0;
        fed = av_frame_get_buffer(picture, 0) >= 0 && avcodec_send_frame(codec, picture) >= 0;
        av_frame_free(&picture);
    }
    if (fed) avcodec_send_frame(codec, NULL);
    while (fed && packet && avcodec_receive_packet(codec, packet) >= 0) av_packet_unref(packet);
    av_packet_free(&packet);
}

void lt_encoder_close_codec(AVCodecContext **codec, bool fed)
{
    if (*codec && avcodec_is_open(*codec) && !strcmp((*codec)->codec->name, "libsvtav1"))
        end_svt(*codec, fed);
    avcodec_free_context(codec);
}

/* ---- the file
 * ------------------------------------------------------------------------------------------- */

static lt_status fail_write(const lt_segment *segment, int rc, lt_err *err)
{
    if (rc == AVERROR(ENOSPC))
        return lt_fail(err, LT_E_NO_SPACE,
                       "%s: the disk is full; make room and run the same command again: what is "
                       "finished is kept",
                       segment->path);
    if (lt_encoder_is_hardware(segment->encoder->codec) && (rc == AVERROR_EXTERNAL || rc == AVERROR_UNKNOWN))
        return lt_fail(err, LT_E_DEVICE_LOST, "%s: the device of %s failed", segment->path,
                       segment->encoder->codec->name);
    return lt_fail_av(err, rc, "%s: writing", segment->path);
}

static int open_file(lt_segment *segment)
{
    const lt_encoder *encoder = segment->encoder;
    int rc = avformat_alloc_output_context2(&segment->file, NULL, encoder->segment_format, segment->path);
    if (rc < 0) return rc;
    AVStream *stream = avformat_new_stream(segment->file, NULL);
    if (!stream) return AVERROR(ENOMEM);
    if ((rc = avcodec_parameters_from_context(stream->codecpar, segment->codec)) < 0) return rc;
    stream->time_base = segment->codec->time_base;
    stream->avg_frame_rate = encoder->rate;
    stream->sample_aspect_ratio = encoder->aspect;
    segment->file->flags |= AVFMT_FLAG_BITEXACT;
    if ((rc = avio_open(&segment->file->pb, segment->path, AVIO_FLAG_WRITE)) < 0) return rc;
    AVDictionary *options = NULL;
    if (!strcmp(encoder->segment_format, "mp4") || !strcmp(encoder->segment_format, "mov"))
        av_dict_set_int(&options, "video_track_timescale", encoder->rate.num, 0);
    rc = avformat_write_header(segment->file, &options);
    av_dict_free(&options);
    return rc;
}

lt_status lt_segment_open(lt_segment **out, const lt_encoder *encoder, const char *path, lt_err *err)
{
    *out = NULL;
    lt_segment *segment = calloc(1, sizeof *segment);
    if (!segment) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_status status;
    segment->encoder = encoder;
    segment->path = strdup(path);
    segment->packet = av_packet_alloc();
    if (!segment->path || !segment->packet) {
        status = lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        goto fail;
    }
    LT_TRY(lt_encoder_open_codec(encoder, &segment->codec, err));
    int rc = open_file(segment);
    if (rc < 0) {
        status = fail_write(segment, rc, err);
        goto fail;
    }
    *out = segment;
    return LT_OK;
fail:
    lt_segment_abort(segment);
    return status;
}

/* Packets that are ready into the file. */
static int drain(lt_segment *segment)
{
    AVPacket *packet = segment->packet;
    for (;;) {
        int rc = avcodec_receive_packet(segment->codec, packet);
        if (rc == AVERROR(EAGAIN) || rc == AVERROR_EOF) return 0;
        if (rc < 0) return rc;
        segment->reorder = LT_MAX(segment->reorder, (int)(segment->n_packets - packet->pts));
        segment->n_packets++;
        /* x265 leaves the decoding times of fewer pictures than it looks ahead to chance. */
        if (packet->dts > packet->pts || packet->dts < segment->n_packets - MOST_REORDERED)
            packet->dts = LT_MIN(segment->n_packets - MOST_REORDERED, packet->pts);
        packet->stream_index = 0;
        if (!packet->duration) packet->duration = 1;
        av_packet_rescale_ts(packet, segment->codec->time_base, segment->file->streams[0]->time_base);
        rc = av_write_frame(segment->file, packet);
        av_packet_unref(packet);
        if (rc >= 0) rc = segment->file->pb->error;
        if (rc < 0) return rc;
    }
}

lt_status lt_segment_push(lt_segment *segment, AVFrame *picture, lt_err *err)
{
    picture->pts = segment->n_frames++;
    picture->pict_type = AV_PICTURE_TYPE_NONE;
    int rc = avcodec_send_frame(segment->codec, picture);
    if (rc >= 0) rc = drain(segment);
    return rc < 0 ? fail_write(segment, rc, err) : LT_OK;
}

static void close_file(lt_segment *segment)
{
    if (segment->file) avio_closep(&segment->file->pb);
    avformat_free_context(segment->file);
    segment->file = NULL;
}

static void free_segment(lt_segment *segment)
{
    close_file(segment);
    lt_encoder_close_codec(&segment->codec, segment->n_frames > 0);
    av_packet_free(&segment->packet);
    free(segment->path);
    free(segment);
}

void lt_segment_abort(lt_segment *segment)
{
    if (!segment) return;
    if (segment->path) unlink(segment->path);
    free_segment(segment);
}

lt_status lt_segment_finish(lt_segment *segment, int *reorder, lt_err *err)
{
    lt_status status = LT_OK;
    int rc = avcodec_send_frame(segment->codec, NULL);
    if (rc >= 0) rc = drain(segment);
    if (rc >= 0) rc = av_write_trailer(segment->file);
    if (rc >= 0 && segment->file->pb->error < 0) rc = segment->file->pb->error;
    int closed = avio_closep(&segment->file->pb);
    if (rc >= 0) rc = closed;
    if (rc < 0)
        status = fail_write(segment, rc, err);
    else if (segment->n_packets != segment->n_frames)
        status = lt_fail(err, LT_E_UNSUPPORTED, "the encoder %s made %lld packets of %lld pictures",
                         segment->encoder->codec->name, (long long)segment->n_packets,
                         (long long)segment->n_frames);
    else
        status = lt_file_sync(segment->path, err);
    *reorder = segment->reorder;
    if (status) unlink(segment->path);
    free_segment(segment);
    return status;
}
