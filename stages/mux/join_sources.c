/* join_sources.c - packets of segments with absolute timestamps; packets of the side file inside the clip. */
#include "stages/mux/join_sources.h"

#include <stdlib.h>
#include <string.h>

/* ---- segments
 * ------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static lt_status open_segment(lt_pictures *pictures, lt_err *err)
{
    char path[4096], url[4200];
    AVDictionary *options = NULL;
    lt_segment_path(pictures->request->list, pictures->segment, false, path, sizeof path);
    snprintf(url, sizeof url, "file:%s", path);
    av_dict_set(&options, "ignore_editlist", "1", 0);
    avformat_close_input(&pictures->file);
    int rc = avformat_open_input(&pictures->file, url, NULL, &options);
    av_dict_free(&options);
    bool unclear = rc >= 0 && (!pictures->file->nb_streams || !pictures->file->streams[0]->codecpar->width);
    if (unclear) rc = avformat_find_stream_info(pictures->file, NULL);
    if (rc >= 0 && pictures->file->nb_streams != 1) rc = AVERROR_INVALIDDATA;
    return rc < 0 ? lt_fail_av(err, rc, "%s", path) : LT_OK;
}

/* Collect the timestamps of the segment's pictures: the rank of one is its number in the segment. */
static lt_status rank_segment(lt_pictures *pictures, lt_err *err)
{
    const lt_segment_entry *entry = &pictures->request->list->entries[pictures->segment];
    AVPacket *packet = av_packet_alloc();
    if (entry->frames > pictures->capacity) {
        free(pictures->shown);
        pictures->shown = malloc((size_t)entry->frames * sizeof *pictures->shown);
        pictures->capacity = pictures->shown ? entry->frames : 0;
    }
    if (!packet || !pictures->shown) {
        av_packet_free(&packet);
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    }
    int64_t n = 0;
    while (av_read_frame(pictures->file, packet) >= 0) {
        if (n < entry->frames) pictures->shown[n] = packet->pts;
        n++;
        av_packet_unref(packet);
    }
    av_packet_free(&packet);
    if (n == entry->frames) qsort(pictures->shown, (size_t)n, sizeof *pictures->shown, compare);
    for (int64_t i = 1; n == entry->frames && i < n; i++)
        if (pictures->shown[i] == pictures->shown[i - 1]) n = -1;
    if (n != entry->frames)
        return lt_fail(
            err, LT_E_FORMAT, "%s: segment %lld does not hold the %lld frames noted; remove it and run again",
            pictures->request->list->folder, (long long)pictures->segment, (long long)entry->frames);
    return LT_OK;
}

static lt_status start_segment(lt_pictures *pictures, lt_err *err)
{
    lt_status status = open_segment(pictures, err);
    if (!status) status = rank_segment(pictures, err);
    return status ? status : open_segment(pictures, err);
}

lt_status lt_pictures_open(lt_pictures *pictures, const lt_join_request *request, lt_err *err)
{
    *pictures = (lt_pictures){.request = request};
    for (int64_t i = 0; i < request->list->n; i++)
        pictures->reorder = LT_MAX(pictures->reorder, request->list->entries[i].reorder);
    if (lt_segment_list_frames(request->list) != request->n_frames)
        return lt_fail(err, LT_E_INTERNAL, "%s: %lld of %lld frames are there to be joined", request->output,
                       (long long)lt_segment_list_frames(request->list), (long long)request->n_frames);
    return start_segment(pictures, err);
}

void lt_pictures_close(lt_pictures *pictures)
{
    avformat_close_input(&pictures->file);
    free(pictures->shown);
    *pictures = (lt_pictures){0};
}

const AVStream *lt_pictures_stream(const lt_pictures *pictures)
{
    return pictures->file->streams[0];
}

/* A picture's place in decoding order has the timestamp of the picture shown `reorder` places earlier. */
static int64_t decoding_time(const lt_pictures *pictures)
{
    const lt_join_request *request = pictures->request;
    int64_t at = pictures->coded - pictures->reorder;
    if (at >= 0) return request->pts[at];
    int64_t step =
        request->n_frames > 1 ? request->pts[1] - request->pts[0] : LT_MAX(request->last_duration, 1);
    return request->pts[0] + at * step;
}

lt_status lt_pictures_next(lt_pictures *pictures, AVPacket *packet, lt_err *err)
{
    const lt_join_request *request = pictures->request;
    while (av_read_frame(pictures->file, packet) < 0) {
        if (pictures->segment + 1 == request->list->n) return LT_END;
        pictures->segment++;
        lt_status status = start_segment(pictures, err);
        if (status) return status;
    }
    const lt_segment_entry *entry = &request->list->entries[pictures->segment];
    const int64_t *place =
        bsearch(&packet->pts, pictures->shown, (size_t)entry->frames, sizeof *pictures->shown, compare);
    if (!place)
        return lt_fail(err, LT_E_FORMAT, "%s: a segment changed while it was read", request->list->folder);
    int64_t frame = entry->first + (place - pictures->shown);
    packet->pts = request->pts[frame];
    packet->dts = decoding_time(pictures);
    packet->duration =
        frame + 1 < request->n_frames ? request->pts[frame + 1] - packet->pts : request->last_duration;
    pictures->coded++;
    return LT_OK;
}

/* ---- the side file
 * -------------------------------------------------------------------------------------- */

static int64_t tag_number(const lt_side *side, const char *key, int64_t fallback)
{
    const AVDictionaryEntry *tag = av_dict_get(side->in->metadata, key, NULL, 0);
    return tag ? strtoll(tag->value, NULL, 10) : fallback;
}

/* The clip's place in its source, and where it leaves some of it out (by more than a frame or a
 * millisecond). */
static void find_range(lt_side *side, const lt_join_request *request)
{
    AVRational base = {request->time_base_num, request->time_base_den};
    int64_t last = request->pts[request->n_frames - 1] + request->last_duration;
    side->start = av_rescale_q(request->pts[0], base, AV_TIME_BASE_Q);
    side->end = av_rescale_q(last, base, AV_TIME_BASE_Q);
    int64_t frame = LT_MAX(av_rescale_q(request->last_duration, base, AV_TIME_BASE_Q), 1000);
    side->cut_start = side->start - tag_number(side, "longtake_start", side->start) > 1000;
    side->cut_end = tag_number(side, "longtake_end", side->end) - side->end > frame;
    side->shift = tag_number(side, "longtake_shift", 0) * AV_TIME_BASE;
    side->first = INT64_MAX;
    for (unsigned i = 0; i < side->in->nb_streams; i++) {
        const AVStream *stream = side->in->streams[i];
        if (stream->start_time == AV_NOPTS_VALUE) continue;
        int64_t at = av_rescale_q(stream->start_time, stream->time_base, AV_TIME_BASE_Q) - side->shift;
        side->first = LT_MIN(side->first, at);
    }
}

lt_status lt_side_open(lt_side *side, const lt_join_request *request, lt_err *err)
{
    *side = (lt_side){0};
    if (!request->side_path || !*request->side_path) return LT_OK;
    AVDictionary *options = NULL;
    char *url = av_asprintf("file:%s", request->side_path);
    av_dict_set(&options, "protocol_whitelist", "file", 0);
    int rc = url ? avformat_open_input(&side->in, url, NULL, &options) : AVERROR(ENOMEM);
    av_dict_free(&options);
    av_free(url);
    if (rc >= 0) rc = avformat_find_stream_info(side->in, NULL);
    if (rc < 0) return lt_fail_av(err, rc, "%s: opening the source's audio", request->side_path);
    side->target = calloc(LT_MAX(side->in->nb_streams, 1), sizeof *side->target);
    side->packet = av_packet_alloc();
    if (!side->target || !side->packet) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    find_range(side, request);
    return LT_OK;
}

void lt_side_close(lt_side *side)
{
    avformat_close_input(&side->in);
    av_packet_free(&side->packet);
    free(side->target);
    *side = (lt_side){0};
}

AVRational lt_side_time_base(const lt_side *side)
{
    return side->in->streams[side->packet->stream_index]->time_base;
}

/* Undo the shift; true when the packet belongs to the clip. */
static bool take(lt_side *side)
{
    AVPacket *packet = side->packet;
    AVRational base = lt_side_time_base(side);
    if (side->target[packet->stream_index] < 0 || packet->pts == AV_NOPTS_VALUE) return false;
    int64_t shift = av_rescale_q(side->shift, AV_TIME_BASE_Q, base);
    packet->pts -= shift;
    packet->dts = packet->dts == AV_NOPTS_VALUE ? packet->pts : packet->dts - shift;
    int64_t end = packet->pts + LT_MAX(packet->duration, 0);
    if (side->cut_start && av_compare_ts(end, base, side->start, AV_TIME_BASE_Q) <= 0) return false;
    return !(side->cut_end && av_compare_ts(packet->pts, base, side->end, AV_TIME_BASE_Q) >= 0);
}

const AVPacket *lt_side_peek(lt_side *side)
{
    while (side->in && !side->have) {
        if (av_read_frame(side->in, side->packet) < 0) return NULL;
        side->have = (unsigned)side->packet->stream_index < side->in->nb_streams && take(side);
        if (!side->have) av_packet_unref(side->packet);
    }
    return side->have ? side->packet : NULL;
}

void lt_side_drop(lt_side *side)
{
    av_packet_unref(side->packet);
    side->have = false;
}

bool lt_side_chapter(const lt_side *side, unsigned index, int64_t origin, AVChapter *chapter)
{
    *chapter = *side->in->chapters[index];
    int64_t start = av_rescale_q(chapter->start, chapter->time_base, AV_TIME_BASE_Q) - side->shift;
    int64_t end = av_rescale_q(chapter->end, chapter->time_base, AV_TIME_BASE_Q) - side->shift;
    if (side->cut_start) start = LT_MAX(start, side->start);
    if (side->cut_end) end = LT_MIN(end, side->end);
    if (end <= start) return false;
    chapter->time_base = AV_TIME_BASE_Q;
    chapter->start = LT_MAX(start - origin, 0);
    chapter->end = LT_MAX(end - origin, 0);
    return true;
}

int64_t lt_join_origin(const lt_join_request *request, const lt_side *side)
{
    AVRational base = {request->time_base_num, request->time_base_den};
    int64_t video = request->pts[0];
    if ((side->in && side->cut_start) || video < 0) return video;
    if (side->in && side->first < INT64_MAX) {
        int64_t first = av_rescale_q_rnd(side->first, AV_TIME_BASE_Q, base, AV_ROUND_DOWN);
        return LT_MAX(LT_MIN(video, first), 0);
    }
    return video;
}
