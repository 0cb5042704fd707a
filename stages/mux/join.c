/* join.c - the final remux. */
#include "stages/mux/join.h"
#include "stages/mux/join_sources.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

typedef struct join {
    const lt_join_request *request;
    lt_pictures pictures;
    lt_side side;
    AVFormatContext *out;
    AVPacket *packet;
    char *temporary;
    int64_t origin; /* taken off all timestamps, in the clip's time base */
} join;

static AVRational time_base(const lt_join_request *request)
{
    return (AVRational){request->time_base_num, request->time_base_den};
}

/* ---- streams of the output
 * ------------------------------------------------------------------------------ */

static lt_status add_video(join *j, lt_err *err)
{
    const lt_join_request *request = j->request;
    const AVStream *from = lt_pictures_stream(&j->pictures);
    AVStream *to = avformat_new_stream(j->out, NULL);
    if (!to || avcodec_parameters_copy(to->codecpar, from->codecpar) < 0)
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    bool iso = !strcmp(j->out->oformat->name, "mp4") || !strcmp(j->out->oformat->name, "mov");
    to->codecpar->codec_tag =
        iso && to->codecpar->codec_id == AV_CODEC_ID_HEVC ? MKTAG('h', 'v', 'c', '1') : 0;
    to->time_base = time_base(request);
    to->sample_aspect_ratio = from->codecpar->sample_aspect_ratio;
    if (request->rotation) {
        uint8_t *matrix = av_stream_new_side_data(to, AV_PKT_DATA_DISPLAYMATRIX, 9 * sizeof(int32_t));
        if (!matrix) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        av_display_rotation_set((int32_t *)(void *)matrix, -request->rotation);
    }
    int64_t span = request->pts[request->n_frames - 1] + request->last_duration - request->pts[0];
    if (span > 0)
        av_reduce(&to->avg_frame_rate.num, &to->avg_frame_rate.den,
                  request->n_frames * request->time_base_den, span * request->time_base_num, 60000);
    return LT_OK;
}

static lt_status add_side(join *j, lt_err *err)
{
    for (unsigned i = 0; j->side.in && i < j->side.in->nb_streams; i++) {
        const AVStream *from = j->side.in->streams[i];
        j->side.target[i] = -1;
        if (avformat_query_codec(j->out->oformat, from->codecpar->codec_id, FF_COMPLIANCE_EXPERIMENTAL) ==
            0) {
            lt_log(LT_LOG_WARN, "%s: the %s format does not hold its %s (%s): left out", j->request->output,
                   j->out->oformat->name, av_get_media_type_string(from->codecpar->codec_type),
                   avcodec_get_name(from->codecpar->codec_id));
            continue;
        }
        AVStream *to = avformat_new_stream(j->out, NULL);
        if (!to || avcodec_parameters_copy(to->codecpar, from->codecpar) < 0 ||
            av_dict_copy(&to->metadata, from->metadata, 0) < 0)
            return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        to->codecpar->codec_tag = 0;
        to->time_base = from->time_base;
        to->disposition = from->disposition;
        j->side.target[i] = to->index;
    }
    return LT_OK;
}

/* Tags of the source, but those that speak of its file, and chapters inside the clip. */
static lt_status add_tags(join *j, lt_err *err)
{
    static const char *const dropped[] = {"major_brand", "minor_version", "compatible_brands", "encoder"};
    if (!j->side.in) return LT_OK;
    const AVDictionaryEntry *tag = NULL;
    while ((tag = av_dict_get(j->side.in->metadata, "", tag, AV_DICT_IGNORE_SUFFIX))) {
        bool drop = !strncasecmp(tag->key, "longtake_", 9);
        for (size_t i = 0; i < LT_COUNT(dropped); i++) drop |= !strcasecmp(tag->key, dropped[i]);
        if (!drop) av_dict_set(&j->out->metadata, tag->key, tag->value, 0);
    }
    int64_t origin = av_rescale_q(j->origin, time_base(j->request), AV_TIME_BASE_Q);
    unsigned n = j->side.in->nb_chapters;
    if (n && !(j->out->chapters = av_calloc(n, sizeof *j->out->chapters)))
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (unsigned i = 0; i < n; i++) {
        AVChapter chapter;
        if (!lt_side_chapter(&j->side, i, origin, &chapter)) continue;
        AVChapter *to = av_mallocz(sizeof *to);
        if (!to) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        *to = chapter;
        to->metadata = NULL;
        av_dict_copy(&to->metadata, chapter.metadata, 0);
        j->out->chapters[j->out->nb_chapters++] = to;
    }
    return LT_OK;
}

/* ---- writing
 * -------------------------------------------------------------------------------------------- */

static lt_status fail_write(const join *j, int rc, lt_err *err)
{
    if (rc == AVERROR(ENOSPC))
        return lt_fail(
            err, LT_E_NO_SPACE,
            "%s: the disk is full; make room and run the same command again: all segments are kept",
            j->request->output);
    return lt_fail_av(err, rc, "%s: writing", j->request->output);
}

static lt_status write_header(join *j, lt_err *err)
{
    const char *text = j->request->format_options ? j->request->format_options : "";
    AVDictionary *options = NULL;
    if (av_dict_parse_string(&options, text, "=", ":", 0) < 0) {
        av_dict_free(&options);
        return lt_fail(err, LT_E_INVALID, "format_options = \"%s\": must be key=value pairs joined by ':'",
                       text);
    }
    bool iso = !strcmp(j->out->oformat->name, "mp4") || !strcmp(j->out->oformat->name, "mov");
    if (iso && j->request->time_base_num == 1)
        av_dict_set_int(&options, "video_track_timescale", j->request->time_base_den, AV_DICT_DONT_OVERWRITE);
    j->out->flags |= AVFMT_FLAG_BITEXACT;
    j->out->strict_std_compliance = FF_COMPLIANCE_EXPERIMENTAL;
    int rc = avio_open(&j->out->pb, j->temporary, AVIO_FLAG_WRITE);
    if (rc >= 0) rc = avformat_write_header(j->out, &options);
    const AVDictionaryEntry *left = av_dict_get(options, "", NULL, AV_DICT_IGNORE_SUFFIX);
    lt_status status = LT_OK;
    if (rc < 0)
        status = fail_write(j, rc, err);
    else if (left)
        status = lt_fail(err, LT_E_NOT_FOUND, "format_options: the format %s has no option \"%s\"",
                         j->out->oformat->name, left->key);
    av_dict_free(&options);
    return status;
}

static lt_status write_packet(join *j, AVPacket *packet, AVRational from, int stream, lt_err *err)
{
    int64_t origin = av_rescale_q(j->origin, time_base(j->request), from);
    if (stream > 0 && packet->pts < origin && !(j->out->oformat->flags & AVFMT_TS_NEGATIVE))
        return LT_OK; /* priming before the start: such a format would move all streams for it */
    packet->pts -= origin;
    packet->dts -= origin;
    packet->stream_index = stream;
    packet->pos = -1;
    av_packet_rescale_ts(packet, from, j->out->streams[stream]->time_base);
    int rc = av_interleaved_write_frame(j->out, packet);
    if (rc >= 0) rc = j->out->pb->error;
    return rc < 0 ? fail_write(j, rc, err) : LT_OK;
}

/* All packets of both, in the order of their decoding times. */
static lt_status write_packets(join *j, lt_err *err)
{
    AVRational base = time_base(j->request);
    lt_status video = lt_pictures_next(&j->pictures, j->packet, err), status = video;
    while (status == LT_OK || status == LT_END) {
        const AVPacket *other = lt_side_peek(&j->side);
        if (video == LT_END && !other) return LT_OK;
        bool side_first = other && (video == LT_END || av_compare_ts(other->dts, lt_side_time_base(&j->side),
                                                                     j->packet->dts, base) <= 0);
        if (side_first) {
            AVRational from = lt_side_time_base(&j->side);
            int target = j->side.target[other->stream_index];
            status = write_packet(j, j->side.packet, from, target, err);
            lt_side_drop(&j->side);
        } else {
            status = write_packet(j, j->packet, base, 0, err);
            av_packet_unref(j->packet);
            if (!status) status = video = lt_pictures_next(&j->pictures, j->packet, err);
        }
    }
    return status;
}

static lt_status write_file(join *j, lt_err *err)
{
    lt_status status;
    LT_TRY(write_header(j, err));
    LT_TRY(write_packets(j, err));
    int rc = av_write_trailer(j->out);
    if (rc >= 0 && j->out->pb->error < 0) rc = j->out->pb->error;
    int closed = avio_closep(&j->out->pb);
    if (rc >= 0) rc = closed;
    if (rc < 0) return fail_write(j, rc, err);
    return lt_file_replace(j->temporary, j->request->output, err);
fail:
    return status;
}

static lt_status open_all(join *j, lt_err *err)
{
    const lt_join_request *request = j->request;
    lt_status status;
    const AVOutputFormat *format = av_guess_format(NULL, request->output, NULL);
    j->temporary = av_asprintf("%s.part", request->output);
    j->packet = av_packet_alloc();
    if (!format || !j->temporary || !j->packet ||
        avformat_alloc_output_context2(&j->out, format, NULL, j->temporary) < 0)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", request->output);
    LT_TRY(lt_pictures_open(&j->pictures, request, err));
    LT_TRY(lt_side_open(&j->side, request, err));
    j->origin = lt_join_origin(request, &j->side);
    LT_TRY(add_video(j, err));
    LT_TRY(add_side(j, err));
    LT_TRY(add_tags(j, err));
fail:
    return status;
}

lt_status lt_join(const lt_join_request *request, lt_err *err)
{
    join j = {.request = request};
    lt_status status = open_all(&j, err);
    if (!status) status = write_file(&j, err);
    if (j.out) avio_closep(&j.out->pb);
    avformat_free_context(j.out);
    if (status && j.temporary) unlink(j.temporary);
    lt_pictures_close(&j.pictures);
    lt_side_close(&j.side);
    av_packet_free(&j.packet);
    av_free(j.temporary);
    return status;
}
