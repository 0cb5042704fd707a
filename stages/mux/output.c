/* output.c - streams and header of the final file, tried in memory. */
#include "stages/mux/output.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

static AVRational time_base(const lt_join_request *request)
{
    return (AVRational){request->time_base_num, request->time_base_den};
}

static bool is_iso(const AVOutputFormat *format)
{
    return !strcmp(format->name, "mp4") || !strcmp(format->name, "mov");
}

/* ---- streams -------------------------------------------------------------------------------------------- */

/* AVI keeps H.264 and HEVC with start codes, as they come from an encoder; in MP4 segments they have none. */
static lt_status add_filter(lt_output *o, const AVCodecParameters *pictures, lt_err *err)
{
    const char *name = pictures->codec_id == AV_CODEC_ID_H264   ? "h264_mp4toannexb"
                       : pictures->codec_id == AV_CODEC_ID_HEVC ? "hevc_mp4toannexb"
                                                                : NULL;
    bool has_none = name && pictures->extradata_size && pictures->extradata[0] == 1;
    if (strcmp(o->file->oformat->name, "avi") || !has_none) return LT_OK;
    const AVBitStreamFilter *filter = av_bsf_get_by_name(name);
    if (!filter)
        return lt_fail(err, LT_E_UNSUPPORTED, "this FFmpeg has no %s, without which AVI cannot be written",
                       name);
    int rc = av_bsf_alloc(filter, &o->filter);
    if (rc >= 0) rc = avcodec_parameters_copy(o->filter->par_in, pictures);
    if (rc >= 0) o->filter->time_base_in = time_base(o->request);
    if (rc >= 0) rc = av_bsf_init(o->filter);
    return rc < 0 ? lt_fail_av(err, rc, "%s: %s", o->request->output, name) : LT_OK;
}

/* Codecs whose own headers tell all of it. */
static bool tells_colour(enum AVCodecID codec)
{
    static const enum AVCodecID codecs[] = {AV_CODEC_ID_H264, AV_CODEC_ID_HEVC,       AV_CODEC_ID_VP9,
                                            AV_CODEC_ID_AV1,  AV_CODEC_ID_MPEG2VIDEO, AV_CODEC_ID_PRORES,
                                            AV_CODEC_ID_MJPEG};
    for (size_t i = 0; i < LT_COUNT(codecs); i++)
        if (codec == codecs[i]) return true;
    return false;
}

/* What the segment's format does not keep. Of RGB the pixel format tells matrix and range. */
static void set_colour(AVCodecParameters *to, const lt_encoder *encoder)
{
    const lt_video_colour *colour = &encoder->colour;
    if (tells_colour(to->codec_id)) return;
    if (to->color_primaries == AVCOL_PRI_UNSPECIFIED) to->color_primaries = colour->primaries;
    if (to->color_trc == AVCOL_TRC_UNSPECIFIED) to->color_trc = colour->transfer;
    if (colour->matrix == AVCOL_SPC_RGB) return;
    if (to->color_range == AVCOL_RANGE_UNSPECIFIED) to->color_range = colour->range;
    if (to->color_space != AVCOL_SPC_UNSPECIFIED) return;
    to->color_space = colour->matrix;
    if (av_pix_fmt_desc_get(encoder->format)->log2_chroma_w == 1) to->chroma_location = AVCHROMA_LOC_LEFT;
}

static lt_status add_pictures(lt_output *o, const AVCodecParameters *pictures, AVRational aspect, lt_err *err)
{
    const lt_join_request *request = o->request;
    AVStream *to = avformat_new_stream(o->file, NULL);
    if (!to || avcodec_parameters_copy(to->codecpar, o->filter ? o->filter->par_out : pictures) < 0)
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    set_colour(to->codecpar, request->encoder);
    to->codecpar->codec_tag = is_iso(o->file->oformat) && to->codecpar->codec_id == AV_CODEC_ID_HEVC
                                  ? MKTAG('h', 'v', 'c', '1')
                                  : 0;
    to->time_base = time_base(request);
    to->sample_aspect_ratio = aspect;
    if (request->rotation) {
        uint8_t *matrix = av_stream_new_side_data(to, AV_PKT_DATA_DISPLAYMATRIX, 9 * sizeof(int32_t));
        if (!matrix) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        av_display_rotation_set((int32_t *)(void *)matrix, -request->rotation);
    }
    if (!request->pts) return LT_OK;
    int64_t span = request->pts[request->n_frames - 1] + request->last_duration - request->pts[0];
    if (span > 0)
        av_reduce(&to->avg_frame_rate.num, &to->avg_frame_rate.den,
                  request->n_frames * request->time_base_den, span * request->time_base_num, 60000);
    return LT_OK;
}

/* The streams of the side file whose target is not -1. */
static lt_status add_side(lt_output *o, lt_err *err)
{
    for (unsigned i = 0; o->side.in && i < o->side.in->nb_streams; i++) {
        const AVStream *from = o->side.in->streams[i];
        if (o->side.target[i] < 0) continue;
        AVStream *to = avformat_new_stream(o->file, NULL);
        if (!to || avcodec_parameters_copy(to->codecpar, from->codecpar) < 0 ||
            av_dict_copy(&to->metadata, from->metadata, 0) < 0)
            return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        to->codecpar->codec_tag = 0;
        to->time_base = from->time_base;
        to->disposition = from->disposition;
        o->side.target[i] = to->index;
    }
    return LT_OK;
}

/* Tags of the source, but those that speak of its file, and chapters inside the clip. */
static lt_status add_tags(lt_output *o, lt_err *err)
{
    static const char *const dropped[] = {"major_brand", "minor_version", "compatible_brands", "encoder"};
    if (!o->side.in) return LT_OK;
    const AVDictionaryEntry *tag = NULL;
    while ((tag = av_dict_get(o->side.in->metadata, "", tag, AV_DICT_IGNORE_SUFFIX))) {
        bool drop = !strncasecmp(tag->key, "longtake_", 9);
        for (size_t i = 0; i < LT_COUNT(dropped); i++) drop |= !strcasecmp(tag->key, dropped[i]);
        if (!drop) av_dict_set(&o->file->metadata, tag->key, tag->value, 0);
    }
    int64_t origin = av_rescale_q(o->origin, time_base(o->request), AV_TIME_BASE_Q);
    unsigned n = o->side.in->nb_chapters;
    if (n && !(o->file->chapters = av_calloc(n, sizeof *o->file->chapters)))
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (unsigned i = 0; i < n; i++) {
        AVChapter chapter;
        if (!lt_side_chapter(&o->side, i, origin, &chapter)) continue;
        AVChapter *to = av_mallocz(sizeof *to);
        if (!to) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        *to = chapter;
        to->metadata = NULL;
        av_dict_copy(&to->metadata, chapter.metadata, 0);
        o->file->chapters[o->file->nb_chapters++] = to;
    }
    return LT_OK;
}

static void close_file(lt_output *o)
{
    av_bsf_free(&o->filter);
    avformat_free_context(o->file);
    o->file = NULL;
}

static lt_status build(lt_output *o, const AVCodecParameters *pictures, AVRational aspect, lt_err *err)
{
    const AVOutputFormat *format = av_guess_format(NULL, o->request->output, NULL);
    lt_status status;
    close_file(o);
    if (!format || avformat_alloc_output_context2(&o->file, format, NULL, o->request->output) < 0)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", o->request->output);
    LT_TRY(add_filter(o, pictures, err));
    LT_TRY(add_pictures(o, pictures, aspect, err));
    LT_TRY(add_side(o, err));
    LT_TRY(add_tags(o, err));
fail:
    return status;
}

/* ---- the header ----------------------------------------------------------------------------------------- */

int lt_output_header(lt_output *o, char **unknown)
{
    const char *text = o->request->format_options ? o->request->format_options : "";
    AVDictionary *options = NULL;
    *unknown = NULL;
    int rc = av_dict_parse_string(&options, text, "=", ":", 0);
    if (is_iso(o->file->oformat) && o->request->time_base_num == 1)
        av_dict_set_int(&options, "video_track_timescale", o->request->time_base_den, AV_DICT_DONT_OVERWRITE);
    o->file->flags |= AVFMT_FLAG_BITEXACT;
    o->file->strict_std_compliance = FF_COMPLIANCE_EXPERIMENTAL;
    if (rc >= 0) rc = avformat_write_header(o->file, &options);
    const AVDictionaryEntry *left = av_dict_get(options, "", NULL, AV_DICT_IGNORE_SUFFIX);
    if (rc >= 0 && left) *unknown = av_strdup(left->key);
    av_dict_free(&options);
    return rc < 0 ? rc : 0;
}

/* The header, and `packet` where there is one, into memory. Formats that open files by themselves are not tried. */
static int write_in_memory(lt_output *o, AVPacket *packet)
{
    char *unknown = NULL;
    uint8_t *bytes = NULL;
    if (o->file->oformat->flags & AVFMT_NOFILE) return 0;
    int rc = avio_open_dyn_buf(&o->file->pb);
    if (rc >= 0) rc = lt_output_header(o, &unknown);
    bool has_begun = rc >= 0;
    if (rc >= 0 && packet && o->filter) {
        rc = av_bsf_send_packet(o->filter, packet);
        if (rc >= 0) rc = av_bsf_receive_packet(o->filter, packet);
    }
    if (rc >= 0 && packet) rc = av_write_frame(o->file, packet);
    if (has_begun) av_write_trailer(o->file); /* some formats keep a packet until then */
    if (o->file->pb) avio_close_dyn_buf(o->file->pb, &bytes);
    o->file->pb = NULL;
    av_free(bytes);
    av_free(unknown);
    return rc < 0 ? rc : 0;
}

static lt_status refuse(const lt_output *o, int rc, const char *why, lt_err *err)
{
    return lt_fail(err, rc == AVERROR(ENOMEM) ? LT_E_NO_MEMORY : LT_E_UNSUPPORTED,
                   "output = \"%s\": the %s format does not take the pictures of %s as they are (%s): choose "
                   "another ending, as .mkv or .mp4, or another codec",
                   o->request->output, o->file->oformat->name, o->request->encoder->codec->name, why);
}

/* A header that was refused: for its options, if it would be taken without them. */
static lt_status refuse_header(lt_output *o, const AVCodecParameters *pictures, AVRational aspect, int rc,
                               lt_err *err)
{
    const lt_join_request *request = o->request;
    lt_join_request bare = *request;
    char why[LT_FFMPEG_REASON_BYTES];
    snprintf(why, sizeof why, "%s", lt_ffmpeg_reason(rc));
    if (!request->format_options || !*request->format_options) return refuse(o, rc, why, err);
    bare.format_options = "";
    o->request = &bare;
    lt_status status = build(o, pictures, aspect, err);
    bool options = !status && write_in_memory(o, NULL) >= 0;
    o->request = request;
    if (status) return status;
    if (!options) return refuse(o, rc, why, err);
    return lt_fail(err, LT_E_INVALID, "format_options = \"%s\": the %s format refuses them: %s",
                   request->format_options, o->file->oformat->name, why);
}

/* ---- opening
 * -------------------------------------------------------------------------------------------- */

static void leave_out(lt_output *o, unsigned stream)
{
    const AVCodecParameters *parameters = o->side.in->streams[stream]->codecpar;
    size_t used = strlen(o->left_out);
    o->side.target[stream] = -1;
    snprintf(o->left_out + used, sizeof o->left_out - used, "%s%s (%s)", used ? ", " : "",
             av_get_media_type_string(parameters->codec_type), avcodec_get_name(parameters->codec_id));
}

/* One stream of the side file after the other: it stays if the format takes it beside those that stay. */
static lt_status choose_side(lt_output *o, const AVCodecParameters *pictures, AVRational aspect, lt_err *err)
{
    lt_status status = LT_OK;
    unsigned n = o->side.in ? o->side.in->nb_streams : 0;
    for (unsigned i = 0; i < n; i++) o->side.target[i] = -1;
    for (unsigned i = 0; i < n && !status; i++) {
        enum AVMediaType type = o->side.in->streams[i]->codecpar->codec_type;
        enum AVCodecID codec = o->side.in->streams[i]->codecpar->codec_id;
        if (type != AVMEDIA_TYPE_AUDIO && type != AVMEDIA_TYPE_SUBTITLE) continue;
        o->side.target[i] = 0;
        if (avformat_query_codec(o->file->oformat, codec, FF_COMPLIANCE_EXPERIMENTAL) == 0)
            leave_out(o, i);
        else if (!(status = build(o, pictures, aspect, err)) && write_in_memory(o, NULL) < 0)
            leave_out(o, i);
    }
    return status;
}

lt_status lt_output_open(lt_output *o, const lt_join_request *request, const AVCodecParameters *pictures,
                         AVRational aspect, lt_err *err)
{
    lt_status status;
    *o = (lt_output){.request = request};
    LT_TRY(build(o, pictures, aspect, err));
    lt_ffmpeg_listen();
    int rc = write_in_memory(o, NULL);
    if (rc < 0) return refuse_header(o, pictures, aspect, rc, err);
    if (request->pts) {
        LT_TRY(lt_side_open(&o->side, request, err));
        o->origin = lt_join_origin(request, &o->side);
    }
    LT_TRY(choose_side(o, pictures, aspect, err));
    LT_TRY(build(o, pictures, aspect, err));
fail:
    return status;
}

void lt_output_close(lt_output *o)
{
    close_file(o);
    lt_side_close(&o->side);
}

/* ---- trying
 * --------------------------------------------------------------------------------------------- */

/* A segment of one black picture at `path`. */
static lt_status make_segment(lt_encoder *encoder, const char *path, lt_err *err)
{
    lt_segment *segment = NULL;
    AVFrame *picture = NULL;
    int reorder;
    lt_status status;
    void *rgb = calloc((size_t)encoder->source_width * (size_t)encoder->source_height,
                       3 * (size_t)(encoder->source_bits / 8));
    if (!rgb) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a picture");
    LT_TRY(lt_encoder_picture(encoder, rgb, &picture, err));
    LT_TRY(lt_segment_open(&segment, encoder, path, err));
    LT_TRY(lt_segment_push(segment, picture, err));
    status = lt_segment_finish(segment, &reorder, err);
    segment = NULL;
fail:
    lt_segment_abort(segment);
    av_frame_free(&picture);
    free(rgb);
    return status;
}

static bool holds_all(const lt_output *o, const AVOutputFormat *format)
{
    bool all =
        format && avformat_query_codec(format, o->request->encoder->codec->id, FF_COMPLIANCE_NORMAL) == 1;
    for (unsigned i = 0; all && i < o->side.in->nb_streams; i++) {
        const AVCodecParameters *p = o->side.in->streams[i]->codecpar;
        if (p->codec_type == AVMEDIA_TYPE_AUDIO || p->codec_type == AVMEDIA_TYPE_SUBTITLE)
            all = avformat_query_codec(format, p->codec_id, FF_COMPLIANCE_NORMAL) == 1;
    }
    return all;
}

static void find_other(lt_output *o)
{
    static const char *const endings[] = {".mkv", ".mov", ".mp4"};
    for (size_t i = 0; *o->left_out && i < LT_COUNT(endings) && !o->other; i++)
        if (holds_all(o, av_guess_format(NULL, endings[i], NULL))) o->other = endings[i];
}

/* That segment's stream and packet, into a file of the output's format. */
static lt_status try_segment(lt_output *output, const lt_join_request *request, const char *path, lt_err *err)
{
    AVFormatContext *file = NULL;
    AVPacket *packet = av_packet_alloc();
    lt_status status = LT_OK;
    int rc = packet ? avformat_open_input(&file, path, NULL, NULL) : AVERROR(ENOMEM);
    if (rc >= 0 && (!file->nb_streams || !file->streams[0]->codecpar->width))
        rc = avformat_find_stream_info(file, NULL);
    if (rc >= 0) rc = av_read_frame(file, packet);
    if (rc < 0) {
        status = lt_fail_av(err, rc, "reading a segment of %s", request->encoder->codec->name);
        goto done;
    }
    const AVCodecParameters *parameters = file->streams[0]->codecpar;
    status = lt_output_open(output, request, parameters, parameters->sample_aspect_ratio, err);
    packet->pts = packet->dts = 0;
    packet->duration = 1;
    packet->stream_index = 0;
    lt_ffmpeg_listen();
    if (!status && (rc = write_in_memory(output, packet)) < 0)
        status = refuse(output, rc, lt_ffmpeg_reason(rc), err);
    if (!status) find_other(output);
done:
    avformat_close_input(&file);
    av_packet_free(&packet);
    return status;
}

lt_status lt_output_try(lt_output *output, lt_encoder *encoder, const lt_join_request *request, lt_err *err)
{
    char path[40];
    *output = (lt_output){0};
    int fd = memfd_create("longtake-segment", MFD_CLOEXEC);
    if (fd < 0) return lt_fail_errno(err, errno, "trying the output's format");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    lt_status status = make_segment(encoder, path, err);
    if (!status) status = try_segment(output, request, path, err);
    close(fd);
    return status;
}
