/* scan.c - finding every frame of a file without decoding it, and what the file lacks. */
#include "stages/video/internal.h"

#include <stdlib.h>
#include <string.h>

/* What one pass over the packets saw. */
typedef struct scan {
    int64_t n_packets, last_pts, last_pts_duration, last_dts,
        whole_dts; /* of the last; of the last whole one */
    bool without_pts, seen_key, last_corrupt;
    int64_t n_fields, fields_end; /* pictures of one field; packets up to the last of those that are tried */
    unsigned orders;              /* of fields, a bit each, that a parser told */
    bool falls;                   /* decoding times do not always rise: parts with clocks of their own */
    int64_t first_key_pts;
} scan;

static bool is_hidden(const AVStream *stream, const AVPacket *packet)
{
    if (packet->flags & AV_PKT_FLAG_DISCARD) return true;
    return stream->codecpar->codec_id == AV_CODEC_ID_VP8 && packet->size > 0 && !(packet->data[0] & 0x10);
}

enum { TRIED_FIELDS = 32 };

/* Pictures that are interlaced, or coded field by field, as far as the demuxer looks into them. */
static void look_for_fields(scan *seen, const AVStream *stream)
{
    const AVCodecParserContext *parser = av_stream_get_parser(stream);
    if (!parser) return;
    if (parser->field_order != AV_FIELD_UNKNOWN) seen->orders |= 1u << parser->field_order;
    if (parser->picture_structure != AV_PICTURE_STRUCTURE_TOP_FIELD &&
        parser->picture_structure != AV_PICTURE_STRUCTURE_BOTTOM_FIELD)
        return;
    if (++seen->n_fields <= TRIED_FIELDS) seen->fields_end = seen->n_packets;
}

static lt_status add_packet(scan *seen, const AVStream *stream, const AVPacket *packet, lt_video_table *table,
                            lt_err *err)
{
    lt_status status;
    seen->n_packets++;
    seen->last_corrupt = packet->flags & AV_PKT_FLAG_CORRUPT;
    look_for_fields(seen, stream);
    bool key = packet->flags & AV_PKT_FLAG_KEY;
    if (packet->pts == AV_NOPTS_VALUE) seen->without_pts = true;
    if (key && !seen->seen_key) {
        seen->seen_key = true;
        seen->first_key_pts = packet->pts;
        table->skipped_leading = table->n; /* nothing before it can be decoded */
        table->n = 0;
    }
    if (is_hidden(stream, packet)) return LT_OK;
    if (packet->dts != AV_NOPTS_VALUE) {
        seen->falls |= seen->last_dts != AV_NOPTS_VALUE && packet->dts < seen->last_dts;
        seen->last_dts = packet->dts;
    }
    if (!seen->last_corrupt) seen->whole_dts = packet->dts;
    if (key) LT_TRY(lt_table_add_key(table, packet->pts, packet->dts, err));
    if (packet->pts >= seen->last_pts || !table->n) {
        seen->last_pts = packet->pts;
        seen->last_pts_duration = packet->duration;
    }
    return lt_table_add(table, packet->pts, err);
fail:
    return status;
}

static int compare_pts(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int compare_keys(const void *a, const void *b)
{
    const lt_video_key *x = a, *y = b;
    return (x->pts > y->pts) - (x->pts < y->pts);
}

/* Sort, leave out what leads the first key frame, number the key frames. False: timestamps are not unique. */
static bool arrange(lt_video_table *table, const scan *seen)
{
    qsort(table->pts, (size_t)table->n, sizeof *table->pts, compare_pts);
    for (int64_t i = 1; i < table->n; i++)
        if (table->pts[i] == table->pts[i - 1]) return false;
    int64_t leading = 0;
    while (seen->seen_key && leading < table->n && table->pts[leading] < seen->first_key_pts) leading++;
    if (leading) {
        table->n -= leading;
        memmove(table->pts, table->pts + leading, (size_t)table->n * sizeof *table->pts);
        table->skipped_leading += leading;
    }
    qsort(table->keys, (size_t)table->n_keys, sizeof *table->keys, compare_keys);
    int64_t kept = 0;
    for (int64_t i = 0; i < table->n_keys; i++) {
        table->keys[i].index = lt_table_find(table, table->keys[i].pts);
        if (table->keys[i].index >= 0) table->keys[kept++] = table->keys[i];
    }
    table->n_keys = kept;
    return true;
}

static int64_t nominal_duration(const lt_container *container)
{
    AVRational rate = av_guess_frame_rate(container->format, container->stream, NULL);
    if (rate.num <= 0 || rate.den <= 0) rate = (AVRational){25, 1};
    return LT_MAX(av_rescale_q(1, av_inv_q(rate), container->stream->time_base), 1);
}

static void find_last_duration(const lt_container *container, lt_video_table *table, const scan *seen)
{
    table->last_duration = seen->last_pts_duration;
    if (table->last_duration > 0) return;
    table->last_duration =
        table->n > 1 ? table->pts[table->n - 1] - table->pts[table->n - 2] : nominal_duration(container);
}

/* Seconds that a Matroska file says this stream lasts; below 0: it does not say. */
static double tagged_seconds(const AVStream *stream)
{
    const AVDictionaryEntry *tag = av_dict_get(stream->metadata, "DURATION", NULL, 0);
    int hours, minutes;
    double seconds;
    if (!tag || sscanf(tag->value, "%d:%d:%lf", &hours, &minutes, &seconds) != 3) return -1;
    return hours * 3600.0 + minutes * 60.0 + seconds;
}

/* Of a file that was cut off, frames that are shown later than its last whole packet is decoded: some that belong between them are not
 * there, and some refer to those. */
static void leave_out_end(lt_video_table *table, const scan *seen)
{
    int64_t n = table->n;
    if (table->counted || seen->whole_dts == AV_NOPTS_VALUE) {
        table->n -= seen->last_corrupt && table->n;
    } else {
        while (table->n && table->pts[table->n - 1] > seen->whole_dts) table->n--;
    }
    if (table->missing > 0) table->missing += n - table->n;
}

/* What the container promises and does not hold: a file whose end was cut off. */
static void find_missing(const lt_container *container, lt_video_table *table, const scan *seen, bool broke)
{
    const char *kind = container->format->iformat->name;
    if (strstr(kind, "mov")) {
        int64_t promised = avformat_index_get_entries_count(container->stream);
        table->missing = LT_MAX(promised - seen->n_packets, 0);
    } else if (strstr(kind, "matroska") && table->n) {
        double promised = tagged_seconds(container->stream), unit = av_q2d(table->time_base);
        double end = (double)(table->pts[table->n - 1] + table->last_duration) * unit;
        if (promised - end > 0.5) table->missing = -1;
        table->promised = promised > 0;
    }
    table->promised |= strstr(kind, "mov") || lt_video_is_sequence(container->name);
    if (!table->missing && (broke || seen->last_corrupt)) table->missing = -1;
    if (table->missing) leave_out_end(table, seen);
}

/* Frames that the decoder has ready. */
static int64_t drain(AVCodecContext *decoder, AVFrame *frame)
{
    int64_t n = 0;
    for (int rc; (rc = avcodec_receive_frame(decoder, frame)) != AVERROR(EAGAIN) && rc != AVERROR_EOF;) {
        if (rc == AVERROR(ENOMEM)) break;
        n += rc >= 0;
    }
    return n;
}

/* Whether fields have packets of their own, of which the decoder makes one frame of two: some containers do so, some put both into one
 * packet. The first are tried. */
static lt_status try_fields(lt_container *container, const scan *seen, bool *apart, lt_err *err)
{
    AVPacket *packet = container->packet;
    AVFrame *frame = av_frame_alloc();
    if (!frame) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", container->name);
    int64_t n_read = 0, n_sent = 0, n_frames = 0;
    lt_status status = lt_container_rewind(container, err);
    while (!status && n_read < seen->fields_end && av_read_frame(container->format, packet) >= 0) {
        if (packet->stream_index == container->stream->index) {
            n_read++;
            if ((n_sent || packet->flags & AV_PKT_FLAG_KEY) && !is_hidden(container->stream, packet)) {
                n_sent += avcodec_send_packet(container->decoder, packet) >= 0;
                n_frames += drain(container->decoder, frame);
            }
        }
        av_packet_unref(packet);
    }
    if (!status) avcodec_send_packet(container->decoder, NULL);
    if (!status) n_frames += drain(container->decoder, frame);
    av_frame_free(&frame);
    *apart = n_sent - n_frames >= LT_MAX(LT_MIN(seen->n_fields, TRIED_FIELDS) / 4, 1);
    return status;
}

/* Frames whose timestamps do not tell them apart: decode once, count, and repair the timestamps; follows: those of parts that are one
 * behind the other. */
static lt_status scan_by_decoding(lt_container *container, lt_video_table *table, bool follows, lt_err *err)
{
    lt_status status;
    int64_t step = nominal_duration(container);
    AVRational time_base = table->time_base;
    lt_table_finish(table);
    *table = (lt_video_table){.time_base = time_base, .counted = true, .last_duration = step};
    AVFrame *frame = av_frame_alloc();
    if (!frame) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", container->name);
    container->follows = follows;
    LT_TRY(lt_container_rewind(container, err));
    while (!(status = lt_container_next(container, frame, err))) {
        int64_t pts = frame->best_effort_timestamp, last = table->n ? table->pts[table->n - 1] : -step;
        if (pts == AV_NOPTS_VALUE || (table->n && pts <= last)) pts = last + step;
        LT_TRY(lt_table_add(table, pts, err));
    }
    if (status == LT_END) status = LT_OK;
    table->restarts = container->line.restarts;
fail:
    container->follows = false;
    av_frame_free(&frame);
    return status;
}

lt_status lt_container_scan(lt_container *container, lt_video_table *table, lt_err *err)
{
    lt_status status;
    scan seen = {.last_dts = AV_NOPTS_VALUE, .whole_dts = AV_NOPTS_VALUE};
    AVPacket *packet = container->packet;
    table->time_base = container->stream->time_base;
    int rc;
    while ((rc = av_read_frame(container->format, packet)) >= 0) {
        status = LT_OK;
        if (packet->stream_index == container->stream->index)
            status = add_packet(&seen, container->stream, packet, table, err);
        av_packet_unref(packet);
        if (status) return status;
    }
    bool apart = false, counts = seen.without_pts || seen.falls || !arrange(table, &seen);
    if (!counts && seen.n_fields) LT_TRY(try_fields(container, &seen, &apart, err));
    if (seen.n_packets && (counts || apart))
        LT_TRY(scan_by_decoding(container, table, seen.falls, err));
    else
        find_last_duration(container, table, &seen);
    /* What the container calls its rate may be that of fields. */
    if (apart && table->n > 1) table->last_duration = table->pts[table->n - 1] - table->pts[table->n - 2];
    table->mixed = !seen.orders || (seen.orders & (seen.orders - 1)) != 0;
    find_missing(container, table, &seen, rc != AVERROR_EOF);
    if (!table->n)
        return lt_fail(err, LT_E_FORMAT, "%s: its video stream holds no frames%s", container->name,
                       table->missing ? "; the file was cut off" : "");
    return LT_OK;
fail:
    return status;
}
