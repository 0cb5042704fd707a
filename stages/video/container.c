/* container.c - a video file: opening it, the table of its frames, decoding in display order. */
#include "stages/video/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- opening ----------------------------------------------------------------------------------------- */

/* Sentences for what is not a video file at all, before FFmpeg sees it. */
static lt_status check_path(const char *path, lt_err *err)
{
    struct stat info;
    if (stat(path, &info)) {
        if (errno == ENOENT) return lt_fail(err, LT_E_NOT_FOUND, "%s: there is no such file", path);
        return lt_fail_errno(err, errno, "%s", path);
    }
    if (S_ISDIR(info.st_mode))
        return lt_fail(err, LT_E_FORMAT, "%s: is a folder; input names one video file", path);
    if (!S_ISREG(info.st_mode))
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "%s: is not a regular file; only a single input can be read from it", path);
    if (!info.st_size) return lt_fail(err, LT_E_FORMAT, "%s: is empty (0 bytes)", path);
    return LT_OK;
}

static lt_status open_format(lt_container *container, lt_err *err)
{
    AVDictionary *options = NULL;
    if (!lt_video_is_url(container->name)) av_dict_set(&options, "protocol_whitelist", "file", 0);
    /* Numbered pictures are no file that could be looked into for its format. */
    const AVInputFormat *format =
        lt_video_is_sequence(container->name) ? av_find_input_format("image2") : NULL;
    if (format)
        av_dict_set(&options, "pattern_type", lt_video_is_glob(container->name) ? "glob" : "sequence", 0);
    char first[4200];
    if (format && !lt_sequence_path(container->name, 0, first, sizeof first)) {
        av_dict_free(&options);
        return lt_fail(err, LT_E_NOT_FOUND, "%s: there is no picture of such a name%s", container->name,
                       lt_video_is_glob(container->name) ? "" : " with a number from 0 to 4");
    }
    int rc = avformat_open_input(&container->format, container->url, format, &options);
    av_dict_free(&options);
    if (rc == AVERROR_INVALIDDATA)
        return lt_fail(err, LT_E_FORMAT,
                       "%s: is not a video file FFmpeg knows, or its index is missing "
                       "(a file whose writing was cut off)",
                       container->name);
    if (rc < 0) return lt_fail_av(err, rc, "%s", container->name);
    rc = avformat_find_stream_info(container->format, NULL);
    return rc < 0 ? lt_fail_av(err, rc, "%s: looking for its streams", container->name) : LT_OK;
}

/* The video stream, and every other one switched off. */
static lt_status choose_stream(lt_container *container, lt_err *err)
{
    AVFormatContext *format = container->format;
    int best = av_find_best_stream(format, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    if (best < 0) {
        bool audio = av_find_best_stream(format, AVMEDIA_TYPE_AUDIO, -1, -1, NULL, 0) >= 0;
        return lt_fail(err, LT_E_NOT_FOUND, "%s: has no video stream%s", container->name,
                       audio ? ", only audio" : "");
    }
    if (format->streams[best]->disposition & AV_DISPOSITION_ATTACHED_PIC)
        return lt_fail(err, LT_E_NOT_FOUND, "%s: has no video stream, only audio with a cover picture",
                       container->name);
    for (unsigned i = 0; i < format->nb_streams; i++) {
        bool heard = container->follows && format->streams[i]->codecpar->codec_type == AVMEDIA_TYPE_AUDIO;
        format->streams[i]->discard = (int)i == best || heard ? AVDISCARD_DEFAULT : AVDISCARD_ALL;
    }
    container->stream = format->streams[best];
    return LT_OK;
}

static lt_status reopen(lt_container *container, lt_err *err)
{
    avformat_close_input(&container->format);
    lt_status status = open_format(container, err);
    return status ? status : choose_stream(container, err);
}

lt_status lt_container_open(lt_container *container, const char *input, int threads, lt_err *err)
{
    lt_status status;
    *container = (lt_container){.threads = LT_MAX(threads, 1), .next = -1};
    bool url = lt_video_is_url(input);
    container->name = strdup(input);
    container->url = av_asprintf("%s%s", url || lt_video_is_glob(input) ? "" : "file:", input);
    container->packet = av_packet_alloc();
    if (!container->name || !container->url || !container->packet) {
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", input);
        goto fail;
    }
    if (!url && !lt_video_is_sequence(input)) LT_TRY(check_path(input, err));
    LT_TRY(reopen(container, err));
    if (url && !(container->format->pb && container->format->pb->seekable & AVIO_SEEKABLE_NORMAL)) {
        status =
            lt_fail(err, LT_E_UNSUPPORTED,
                    "%s: cannot be sought in, so a run could not be resumed; save it to a file first, or say "
                    "live = true",
                    input);
        goto fail;
    }
    return LT_OK;
fail:
    lt_container_close(container);
    return status;
}

/* Streams that show what they are within this are not waited for longer. */
enum { PROBE_BYTES = 2 << 20, PROBE_MICROSECONDS = 2000000 };

static lt_status fail_live(const char *input, const AVIOContext *pipe, int rc, lt_err *err)
{
    if (pipe && !pipe->bytes_read)
        return lt_fail(err, LT_E_NOT_FOUND, "%s: nothing came before the input ended", input);
    if (rc == AVERROR_INVALIDDATA)
        return lt_fail(err, LT_E_FORMAT, "%s: what comes is no video that FFmpeg knows", input);
    return lt_fail_av(err, rc, "%s", input);
}

/* What is read once is not sought in. */
enum { INDEX_BYTES = 4 << 10 };

lt_status lt_container_open_live(lt_container *container, const char *input, AVIOContext *pipe,
                                 const lt_video_live *how, int threads, lt_err *err)
{
    lt_status status = LT_OK;
    *container = (lt_container){.threads = LT_MAX(threads, 1), .how = *how, .next = -1, .from_start = true};
    container->name = strdup(input);
    container->url = strdup(input);
    container->packet = av_packet_alloc();
    container->format = avformat_alloc_context();
    if (!container->name || !container->url || !container->packet || !container->format) {
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", input);
        goto fail;
    }
    container->format->pb = pipe;
    container->format->interrupt_callback = (AVIOInterruptCB){how->interrupted, NULL};
    container->format->probesize = PROBE_BYTES;
    container->format->max_index_size = INDEX_BYTES;
    container->format->max_analyze_duration = PROBE_MICROSECONDS;
    int rc = avformat_open_input(&container->format, pipe ? NULL : input, NULL, NULL);
    if (rc >= 0) rc = avformat_find_stream_info(container->format, NULL);
    if (rc < 0) {
        status = fail_live(input, pipe, rc, err);
        goto fail;
    }
    LT_TRY(choose_stream(container, err));
    container->follows = true;
    if (how->other) how->other(how->user, container->format, NULL);
    return LT_OK;
fail:
    lt_container_close(container);
    return status;
}

void lt_container_close(lt_container *container)
{
    avcodec_free_context(&container->decoder);
    lt_hwaccel_close(&container->hw);
    avformat_close_input(&container->format);
    av_packet_free(&container->packet);
    av_free(container->url);
    free(container->name);
    *container = (lt_container){0};
}

lt_status lt_container_open_decoder(lt_container *container, lt_err *err)
{
    const AVCodecParameters *parameters = container->stream->codecpar;
    const AVCodec *codec =
        container->hw.device ? container->hw.codec : avcodec_find_decoder(parameters->codec_id);
    if (!codec)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: this FFmpeg has no decoder for its codec, %s",
                       container->name, avcodec_get_name(parameters->codec_id));
    AVCodecContext *decoder = avcodec_alloc_context3(codec);
    if (!decoder) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", container->name);
    int rc = avcodec_parameters_to_context(decoder, parameters);
    decoder->pkt_timebase = container->stream->time_base;
    decoder->thread_count = container->threads;
    decoder->flags |= AV_CODEC_FLAG_BITEXACT;
    if (container->hw.device) lt_hwaccel_use(&container->hw, decoder);
    if (rc >= 0) rc = avcodec_open2(decoder, codec, NULL);
    avcodec_free_context(&container->decoder);
    container->decoder = decoder;
    return rc < 0 ? lt_fail_av(err, rc, "%s: opening the %s decoder", container->name, codec->name) : LT_OK;
}

lt_status lt_container_rewind(lt_container *container, lt_err *err)
{
    lt_status status = reopen(container, err);
    if (!status) status = lt_container_open_decoder(container, err);
    container->next = 0;
    container->from_start = true;
    container->at_end = false;
    container->line = (lt_timeline){0};
    return status;
}

/* ---- decoding ---------------------------------------------------------------------------------------- */

/* Hand the decoder its next packet, or the news that there are no more. A packet it refuses is passed over:
 * the table tells which frame is missing then. */
static lt_status feed(lt_container *container, lt_err *err)
{
    AVPacket *packet = container->packet;
    for (;;) {
        int rc = av_read_frame(container->format, packet);
        if (rc < 0) {
            container->at_end = true;
            avcodec_send_packet(container->decoder, NULL);
            return LT_OK;
        }
        if (container->follows)
            lt_timeline_move(&container->line, container->format->streams[packet->stream_index], packet);
        if (packet->stream_index != container->stream->index) {
            if (container->how.other) container->how.other(container->how.user, container->format, packet);
            av_packet_unref(packet);
            continue;
        }
        rc = avcodec_send_packet(container->decoder, packet);
        av_packet_unref(packet);
        if (rc == AVERROR(ENOMEM)) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", container->name);
        return LT_OK;
    }
}

lt_status lt_container_next(lt_container *container, AVFrame *frame, lt_err *err)
{
    for (;;) {
        int rc = avcodec_receive_frame(container->decoder, frame);
        if (!rc)
            return container->hw.device ? lt_hwaccel_fetch(&container->hw, container->decoder, frame, err)
                                        : LT_OK;
        if (rc == AVERROR_EOF) return LT_END;
        if (rc == AVERROR(ENOMEM)) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", container->name);
        if (rc != AVERROR(EAGAIN)) continue; /* the error of one packet; the decoder goes on behind it */
        if (container->at_end) return LT_END;
        lt_status status = feed(container, err);
        if (status) return status;
    }
}

int64_t lt_frame_pts(const AVFrame *frame)
{
    return frame->pts != AV_NOPTS_VALUE ? frame->pts : frame->best_effort_timestamp;
}

/* Whether a frame came as it was coded. */
static bool is_whole(const AVFrame *frame)
{
    return !frame->decode_error_flags && !(frame->flags & AV_FRAME_FLAG_CORRUPT);
}

/* Decode on until frame `index`. LT_AGAIN: it did not come, or is damaged. */
static lt_status walk(lt_container *container, const lt_video_table *table, int64_t index, AVFrame *frame,
                      lt_err *err)
{
    for (;;) {
        lt_status status = lt_container_next(container, frame, err);
        if (status == LT_END) return LT_AGAIN;
        if (status) return status;
        int64_t at = table->counted ? container->next : lt_table_find(table, lt_frame_pts(frame));
        if (at < 0) continue; /* before the first key frame, or hidden by an edit list */
        container->next = at + 1;
        if (at > index) return LT_AGAIN;
        if (at < index) continue;
        return is_whole(frame) ? LT_OK : LT_AGAIN;
    }
}

/* Decode from key frame number `key` of the table. */
static lt_status seek(lt_container *container, const lt_video_table *table, int64_t key, lt_err *err)
{
    const lt_video_key *target = &table->keys[key];
    bool by_pts = container->format->iformat->flags & AVFMT_SEEK_TO_PTS ||
                  strstr(container->format->iformat->name, "matroska");
    int64_t to = by_pts || target->dts == AV_NOPTS_VALUE ? target->pts : target->dts;
    if (av_seek_frame(container->format, container->stream->index, to, AVSEEK_FLAG_BACKWARD) < 0)
        return lt_container_rewind(container, err);
    avcodec_flush_buffers(container->decoder);
    container->next = -1;
    container->from_start = container->at_end = false;
    return LT_OK;
}

/* Where to start decoding for `index`: a key frame's number, -1 for the file's start, -2 for where we are. */
static int64_t choose_start(const lt_container *container, const lt_video_table *table, int64_t index)
{
    enum { NEAR = 16 };
    int64_t key = table->counted ? -1 : lt_table_key_before(table, index);
    bool ahead = container->next >= 0 && container->next <= index;
    if (ahead && (key < 0 || table->keys[key].index <= container->next + NEAR)) return -2;
    return key <= 0 ? -1 : key;
}

static lt_status find_frame(lt_container *container, const lt_video_table *table, int64_t index,
                            AVFrame *frame, lt_err *err)
{
    enum { N_KEYS = 2 };
    int64_t start = choose_start(container, table, index);
    for (int attempt = 0;; attempt++) {
        lt_status status = LT_OK;
        if (start >= 0)
            status = seek(container, table, start, err);
        else if (start == -1)
            status = lt_container_rewind(container, err);
        if (!status) status = walk(container, table, index, frame, err);
        if (status != LT_AGAIN) return status;
        if (container->from_start) break;
        /* Key frames that are none (open groups, intra refresh, a demuxer's guess): start earlier. */
        int64_t key = start >= 0 ? start : lt_table_key_before(table, index) + 1;
        start = attempt < N_KEYS && key > 1 ? key - 1 : -1;
    }
    container->next = -1;
    char picture[4200];
    if (lt_video_is_sequence(container->name) &&
        lt_sequence_path(container->name, index, picture, sizeof picture))
        return lt_fail(err, LT_E_FORMAT, "%s: is damaged and cannot be decoded", picture);
    return lt_fail(
        err, LT_E_FORMAT,
        "%s: frame %lld (of %lld, at %.3f s) is damaged or missing and cannot be decoded; leave it "
        "out with start and frames, or repair the file",
        container->name, (long long)index, (long long)table->n,
        (double)table->pts[index] * av_q2d(table->time_base));
}

lt_status lt_container_frame(lt_container *container, const lt_video_table *table, int64_t index,
                             AVFrame *frame, lt_err *err)
{
    lt_status status = find_frame(container, table, index, frame, err);
    bool lost = status == LT_E_FORMAT || status == LT_E_DEVICE_LOST, stays = container->hw.stays;
    bool known = stays || (container->hw.device && lt_hwaccel_is_exact(container->decoder->codec_id));
    if (!lost || !known) return status;
    /* Is it the file, or the hardware? Software knows, and gives the same bytes. */
    if (!stays)
        lt_log(LT_LOG_WARN, "%s: %s fails at frame %lld: decoding goes on in software", container->name,
               container->hw.name, (long long)index);
    lt_hwaccel_close(&container->hw);
    av_frame_unref(frame);
    status = lt_container_rewind(container, err);
    if (!status) status = find_frame(container, table, index, frame, err);
    if (status || !stays) return status;
    av_frame_unref(frame);
    return lt_fail(err, LT_E_DEVICE_LOST, "%s: frame %lld is not decoded by the GPU, but it is by software",
                   container->name, (long long)index);
}

lt_status lt_container_try_end(lt_container *container, const lt_video_table *table, int64_t key, bool *whole,
                               lt_err *err)
{
    int64_t first = table->keys[key].index;
    int threads = container->threads;
    AVFrame *frame = av_frame_alloc();
    if (!frame) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", container->name);
    container->threads = 1; /* of several, one may still find damage when its frame has been given out */
    lt_status status = lt_container_rewind(container, err);
    if (!status) status = lt_container_frame(container, table, first, frame, err);
    whole[0] = !status;
    while (!status) {
        av_frame_unref(frame);
        status = lt_container_next(container, frame, err);
        int64_t at = status ? -1 : lt_table_find(table, lt_frame_pts(frame));
        if (at > first) whole[at - first] = is_whole(frame);
    }
    av_frame_free(&frame);
    container->threads = threads;
    if (status == LT_END || status == LT_E_FORMAT) status = lt_container_rewind(container, err);
    return status;
}
