/* join.c - the final remux. */
#include "stages/mux/join.h"
#include "stages/mux/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct join {
    const lt_join_request *request;
    lt_pictures pictures;
    lt_output output;
    AVPacket *packet;
    char *temporary;
} join;

static AVRational time_base(const lt_join_request *request)
{
    return (AVRational){request->time_base_num, request->time_base_den};
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
    char *unknown = NULL;
    AVFormatContext *out = j->output.file;
    int rc = avio_open(&out->pb, j->temporary, AVIO_FLAG_WRITE);
    if (rc >= 0) rc = lt_output_header(&j->output, &unknown);
    lt_status status = LT_OK;
    if (rc < 0)
        status = fail_write(j, rc, err);
    else if (unknown)
        status = lt_fail(err, LT_E_NOT_FOUND, "format_options: the format %s has no option \"%s\"",
                         out->oformat->name, unknown);
    av_free(unknown);
    return status;
}

static lt_status write_packet(join *j, AVPacket *packet, AVRational from, int stream, lt_err *err)
{
    AVFormatContext *out = j->output.file;
    int64_t origin = av_rescale_q(j->output.origin, time_base(j->request), from);
    if (stream > 0 && packet->pts < origin && !(out->oformat->flags & AVFMT_TS_NEGATIVE))
        return LT_OK; /* priming before the start: such a format would move all streams for it */
    packet->pts -= origin;
    packet->dts -= origin;
    packet->stream_index = stream;
    packet->pos = -1;
    av_packet_rescale_ts(packet, from, out->streams[stream]->time_base);
    int rc = av_interleaved_write_frame(out, packet);
    if (rc >= 0) rc = out->pb->error;
    return rc < 0 ? fail_write(j, rc, err) : LT_OK;
}

static lt_status next_picture(join *j, lt_err *err)
{
    lt_status status = lt_pictures_next(&j->pictures, j->packet, err);
    if (status || !j->output.filter) return status;
    int rc = av_bsf_send_packet(j->output.filter, j->packet);
    if (rc >= 0) rc = av_bsf_receive_packet(j->output.filter, j->packet);
    return rc < 0 ? lt_fail_av(err, rc, "%s: %s", j->request->output, j->output.filter->filter->name) : LT_OK;
}

/* All packets of both, in the order of their decoding times. */
static lt_status write_packets(join *j, lt_err *err)
{
    AVRational base = time_base(j->request);
    lt_status video = next_picture(j, err), status = video;
    lt_side *side = &j->output.side;
    while (status == LT_OK || status == LT_END) {
        const AVPacket *other = lt_side_peek(side);
        if (video == LT_END && !other) return LT_OK;
        bool side_first = other && (video == LT_END || av_compare_ts(other->dts, lt_side_time_base(side),
                                                                     j->packet->dts, base) <= 0);
        if (side_first) {
            AVRational from = lt_side_time_base(side);
            int target = side->target[other->stream_index];
            status = write_packet(j, side->packet, from, target, err);
            lt_side_drop(side);
        } else {
            status = write_packet(j, j->packet, base, 0, err);
            av_packet_unref(j->packet);
            if (!status) status = video = next_picture(j, err);
        }
    }
    return status;
}

static lt_status write_file(join *j, lt_err *err)
{
    AVFormatContext *out = j->output.file;
    lt_status status;
    LT_TRY(write_header(j, err));
    LT_TRY(write_packets(j, err));
    int rc = av_write_trailer(out);
    if (rc >= 0 && out->pb->error < 0) rc = out->pb->error;
    int closed = avio_closep(&out->pb);
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
    j->temporary = av_asprintf("%s.part", request->output);
    j->packet = av_packet_alloc();
    if (!j->temporary || !j->packet)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", request->output);
    LT_TRY(lt_pictures_open(&j->pictures, request, err));
    const AVCodecParameters *pictures = lt_pictures_stream(&j->pictures)->codecpar;
    LT_TRY(lt_output_open(&j->output, request, pictures, pictures->sample_aspect_ratio, err));
    av_free(j->output.file->url); /* where a muxer that comes back to its own file finds it */
    j->output.file->url = av_strdup(j->temporary);
    if (!j->output.file->url) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", request->output);
    if (*j->output.left_out)
        lt_log(LT_LOG_WARN, "%s: the %s format does not hold its %s: left out", request->output,
               j->output.file->oformat->name, j->output.left_out);
fail:
    return status;
}

lt_status lt_join(const lt_join_request *request, lt_err *err)
{
    join j = {.request = request};
    lt_status status = open_all(&j, err);
    if (!status) status = write_file(&j, err);
    if (j.output.file) avio_closep(&j.output.file->pb);
    lt_output_close(&j.output);
    if (status && j.temporary) unlink(j.temporary);
    lt_pictures_close(&j.pictures);
    av_packet_free(&j.packet);
    av_free(j.temporary);
    return status;
}
