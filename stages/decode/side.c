/* side.c - audio, subtitles and chapters of a source, copied packet by packet. */
#include "stages/decode/side.h"
#include "stages/video/ffmpeg.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Formats in the order they are tried: the one that holds most streams wins, the first of equals. NUT
 * keeps any timestamp as it is, MOV those in units of a sample; Matroska rounds to milliseconds. */
static const struct {
    const char *format, *suffix;
    const char *
        live; /* options under which what was written can be read, and memory does not grow; NULL: it cannot */
} formats[] = {{"nut", "nut", "write_index=0"},
               {"mov", "mov", NULL},
               {"matroska", "mkv", "live=1:cluster_time_limit=1000"}};

typedef struct side {
    const char *input;
    AVFormatContext *in, *out;
    int *target;       /* stream of `out` by stream of `in`; -1: left out */
    int64_t *last_dts; /* by stream of `out` */
    int64_t *
        next; /* where a packet of sound that does not say belongs, by stream of `out`, in the input's time base */
    int64_t shift; /* seconds; at least one, for packets before 0 that decoders need (priming) */
    bool is_live;  /* `in` is read by another, for its video */
} side;

static bool is_wanted(const AVStream *stream)
{
    return stream->codecpar->codec_type == AVMEDIA_TYPE_AUDIO ||
           stream->codecpar->codec_type == AVMEDIA_TYPE_SUBTITLE;
}

static bool holds(const AVOutputFormat *format, const AVStream *stream)
{
    return is_wanted(stream) &&
           avformat_query_codec(format, stream->codecpar->codec_id, FF_COMPLIANCE_NORMAL) == 1;
}

static lt_status open_input(side *s, lt_err *err)
{
    AVDictionary *options = NULL;
    bool url = lt_video_is_url(s->input);
    if (!url) av_dict_set(&options, "protocol_whitelist", "file", 0);
    char *name = av_asprintf("%s%s", url ? "" : "file:", s->input);
    int rc = name ? avformat_open_input(&s->in, name, NULL, &options) : AVERROR(ENOMEM);
    av_dict_free(&options);
    av_free(name);
    if (rc >= 0) rc = avformat_find_stream_info(s->in, NULL);
    return rc < 0 ? lt_fail_av(err, rc, "%s: opening it for audio and subtitles", s->input) : LT_OK;
}

/* Number of the best format, or -1 when nothing is to be carried. */
static int choose_format(const side *s)
{
    int best = -1, most = 0;
    for (size_t f = 0; f < LT_COUNT(formats); f++) {
        const AVOutputFormat *format = av_guess_format(formats[f].format, NULL, NULL);
        int n = 0;
        if (s->is_live && !formats[f].live) continue;
        for (unsigned i = 0; format && i < s->in->nb_streams; i++) n += holds(format, s->in->streams[i]);
        if (n > most) {
            best = (int)f;
            most = n;
        }
    }
    return best;
}

static void log_dropped(const side *s, const AVStream *stream)
{
    const AVCodecParameters *parameters = stream->codecpar;
    const char *type = av_get_media_type_string(parameters->codec_type);
    lt_log(LT_LOG_WARN, "%s: stream %d (%s, %s) is left out of the output", s->input, stream->index,
           type ? type : "unknown", avcodec_get_name(parameters->codec_id));
}

/* A stream of the output for each that it can hold; the first video stream is what decode itself reads. */
static lt_status add_streams(side *s, lt_err *err)
{
    int video = av_find_best_stream(s->in, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    for (unsigned i = 0; i < s->in->nb_streams; i++) {
        AVStream *from = s->in->streams[i];
        s->target[i] = -1;
        if (!holds(s->out->oformat, from)) {
            if ((int)i != video || !s->is_live) from->discard = AVDISCARD_ALL;
            if ((int)i != video) log_dropped(s, from);
            continue;
        }
        AVStream *to = avformat_new_stream(s->out, NULL);
        if (!to || avcodec_parameters_copy(to->codecpar, from->codecpar) < 0 ||
            av_dict_copy(&to->metadata, from->metadata, 0) < 0)
            return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
        if (av_codec_get_id(s->out->oformat->codec_tag, to->codecpar->codec_tag) != to->codecpar->codec_id)
            to->codecpar->codec_tag = 0;
        to->time_base = from->time_base;
        to->disposition = from->disposition;
        from->discard = AVDISCARD_DEFAULT;
        s->target[i] = to->index;
        s->last_dts[to->index] = INT64_MIN;
        s->next[to->index] = AV_NOPTS_VALUE;
        double start =
            from->start_time == AV_NOPTS_VALUE ? 0 : (double)from->start_time * av_q2d(from->time_base);
        if (start < 0) s->shift = LT_MAX(s->shift, (int64_t)ceil(-start) + 1);
    }
    return LT_OK;
}

static lt_status add_chapters(side *s, lt_err *err)
{
    if (!s->in->nb_chapters) return LT_OK;
    s->out->chapters = av_calloc(s->in->nb_chapters, sizeof *s->out->chapters);
    if (!s->out->chapters) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
    for (unsigned i = 0; i < s->in->nb_chapters; i++) {
        const AVChapter *from = s->in->chapters[i];
        AVChapter *to = av_mallocz(sizeof *to);
        if (!to) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
        int64_t shift = av_rescale_q(s->shift, (AVRational){1, 1}, from->time_base);
        *to = (AVChapter){.id = from->id,
                          .time_base = from->time_base,
                          .start = from->start + shift,
                          .end = from->end + shift};
        av_dict_copy(&to->metadata, from->metadata, 0);
        s->out->chapters[s->out->nb_chapters++] = to;
    }
    return LT_OK;
}

static void set_tags(side *s, const lt_video_info *info)
{
    AVDictionary **tags = &s->out->metadata;
    av_dict_copy(tags, s->in->metadata, 0);
    av_dict_set(tags, "longtake_fingerprint", info->fingerprint, 0);
    av_dict_set_int(tags, "longtake_start", llrint(info->source_start * 1e6), 0);
    av_dict_set_int(tags, "longtake_end", llrint(info->source_end * 1e6), 0);
    av_dict_set_int(tags, "longtake_shift", s->shift, 0);
}

/* Sound that was met before its rate was known has no timestamps: it follows on what was before. */
static void find_time(side *s, AVPacket *packet)
{
    const AVStream *from = s->in->streams[packet->stream_index];
    AVCodecParameters *codec = from->codecpar;
    int64_t *next = &s->next[s->target[packet->stream_index]];
    if (packet->dts == AV_NOPTS_VALUE) packet->dts = packet->pts;
    if (packet->dts == AV_NOPTS_VALUE) packet->dts = *next;
    if (packet->pts == AV_NOPTS_VALUE) packet->pts = packet->dts;
    if (packet->dts == AV_NOPTS_VALUE || codec->sample_rate <= 0) return;
    int samples = av_get_audio_frame_duration2(codec, packet->size);
    *next = AV_NOPTS_VALUE;
    if (samples > 0)
        *next = av_add_stable(from->time_base, packet->dts, (AVRational){1, codec->sample_rate}, samples);
}

/* One packet with its timestamps moved; those that do not rise, as muxers demand, are made to. */
static int write_packet(side *s, AVPacket *packet)
{
    const AVStream *from = s->in->streams[packet->stream_index];
    int index = s->target[packet->stream_index];
    AVStream *to = s->out->streams[index];
    find_time(s, packet);
    if (packet->dts == AV_NOPTS_VALUE || packet->flags & AV_PKT_FLAG_CORRUPT) return 0;
    int64_t shift = av_rescale_q(s->shift, (AVRational){1, 1}, from->time_base);
    packet->pts += shift;
    packet->dts += shift;
    if (packet->dts < 0) return 0; /* before anything can be shown */
    av_packet_rescale_ts(packet, from->time_base, to->time_base);
    int64_t *last = &s->last_dts[index];
    if (*last != INT64_MIN && packet->dts <= *last) packet->dts = *last + 1;
    packet->pts = LT_MAX(packet->pts, packet->dts);
    *last = packet->dts;
    packet->stream_index = index;
    packet->pos = -1;
    return s->is_live ? av_write_frame(s->out, packet) : av_interleaved_write_frame(s->out, packet);
}

static int copy_packets(side *s)
{
    AVPacket *packet = av_packet_alloc();
    if (!packet) return AVERROR(ENOMEM);
    int rc = 0;
    while (rc >= 0 && av_read_frame(s->in, packet) >= 0) {
        if ((unsigned)packet->stream_index < s->in->nb_streams && s->target[packet->stream_index] >= 0)
            rc = write_packet(s, packet);
        av_packet_unref(packet);
    }
    av_packet_free(&packet);
    return rc;
}

static lt_status write_file(side *s, const char *temporary, lt_err *err)
{
    AVDictionary *options = NULL;
    s->out->flags |= AVFMT_FLAG_BITEXACT;
    if (!strcmp(s->out->oformat->name, "mov")) av_dict_set(&options, "movflags", "use_metadata_tags", 0);
    int rc = avio_open(&s->out->pb, temporary, AVIO_FLAG_WRITE);
    if (rc >= 0) rc = avformat_write_header(s->out, &options);
    if (rc >= 0) rc = copy_packets(s);
    if (rc >= 0) rc = av_write_trailer(s->out);
    av_dict_free(&options);
    int failed = s->out->pb ? s->out->pb->error : 0;
    int closed = avio_closep(&s->out->pb);
    if (rc >= 0) rc = failed < 0 ? failed : closed;
    return rc < 0 ? lt_fail_av(err, rc, "%s: copying audio and subtitles", temporary) : LT_OK;
}

/* True when `path` holds the side streams of this very source. */
static bool is_made(const char *path, const lt_video_info *info)
{
    AVFormatContext *file = NULL;
    if (access(path, R_OK) || avformat_open_input(&file, path, NULL, NULL) < 0) return false;
    const AVDictionaryEntry *tag = av_dict_get(file->metadata, "longtake_fingerprint", NULL, 0);
    bool same = tag && !strcmp(tag->value, info->fingerprint);
    avformat_close_input(&file);
    return same;
}

static lt_status make(side *s, const lt_video_info *info, const char *final, int format, lt_arena *arena,
                      lt_err *err)
{
    lt_status status;
    const char *temporary = lt_arena_printf(arena, "%s.part", final);
    s->target = calloc(s->in->nb_streams, sizeof *s->target);
    s->last_dts = calloc(s->in->nb_streams, sizeof *s->last_dts);
    s->next = calloc(s->in->nb_streams, sizeof *s->next);
    if (!temporary || !s->target || !s->last_dts || !s->next)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
    if (avformat_alloc_output_context2(&s->out, NULL, formats[format].format, temporary) < 0)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
    LT_TRY(add_streams(s, err));
    LT_TRY(add_chapters(s, err));
    set_tags(s, info);
    LT_TRY(write_file(s, temporary, err));
    LT_TRY(lt_file_replace(temporary, final, err));
    return LT_OK;
fail:
    unlink(temporary);
    return status;
}

lt_status lt_side_copy(const char *input, const lt_video_info *info, const char *run_folder, uint32_t clip,
                       lt_arena *arena, const char **path, lt_err *err)
{
    side s = {.input = input, .shift = 1};
    *path = NULL;
    lt_status status = open_input(&s, err);
    if (status) goto done;
    int format = choose_format(&s);
    if (format < 0) {
        if (s.in->nb_chapters)
            lt_log(LT_LOG_WARN, "%s: its %u chapters are left out of the output", input, s.in->nb_chapters);
        goto done;
    }
    const char *suffix = formats[format].suffix;
    const char *final = clip ? lt_arena_printf(arena, "%s/side-%u.%s", run_folder, clip, suffix)
                             : lt_arena_printf(arena, "%s/side.%s", run_folder, suffix);
    if (!final)
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", input);
    else if (!is_made(final, info))
        status = make(&s, info, final, format, arena, err);
    if (!status) *path = final;
done:
    avformat_close_input(&s.in);
    avformat_free_context(s.out);
    free(s.target);
    free(s.last_dts);
    free(s.next);
    return status;
}

/* ---- of a live input ----------------------------------------------------------------------------------- */

struct lt_side_live {
    side side;
    char *run_folder, *path;
    unsigned n_streams; /* of the input when it was opened; later ones are left out */
    bool cut_start, cut_end, is_open;
};

lt_side_live *lt_side_live_create(const char *input, const char *run_folder, bool cut_start, bool cut_end)
{
    lt_side_live *live = calloc(1, sizeof *live);
    if (!live) return NULL;
    live->cut_start = cut_start;
    live->cut_end = cut_end;
    live->side = (side){.input = av_strdup(input), .shift = 1, .is_live = true};
    live->run_folder = av_strdup(run_folder);
    if (live->side.input && live->run_folder) return live;
    lt_side_live_destroy(live);
    return NULL;
}

/* What mux cuts is told by a source that is longer than any clip of it. */
static void set_live_tags(const lt_side_live *live, AVDictionary **tags)
{
    static const int64_t forever = INT64_C(1000000000) * AV_TIME_BASE;
    av_dict_copy(tags, live->side.in->metadata, 0);
    av_dict_set_int(tags, "longtake_shift", live->side.shift, 0);
    if (live->cut_start) av_dict_set_int(tags, "longtake_start", -forever, 0);
    if (live->cut_end) av_dict_set_int(tags, "longtake_end", forever, 0);
}

/* A file of the streams that there are now. */
static lt_status begin(lt_side_live *live, lt_err *err)
{
    side *s = &live->side;
    AVDictionary *options = NULL;
    unsigned n = live->n_streams = s->in->nb_streams;
    s->target = calloc(n, sizeof *s->target);
    s->last_dts = calloc(n, sizeof *s->last_dts);
    s->next = calloc(n, sizeof *s->next);
    int format = choose_format(s);
    if (format < 0) return LT_OK;
    live->path = av_asprintf("%s/side.%s", live->run_folder, formats[format].suffix);
    if (!live->path || !s->target || !s->last_dts || !s->next ||
        avformat_alloc_output_context2(&s->out, NULL, formats[format].format, live->path) < 0 ||
        av_dict_parse_string(&options, formats[format].live, "=", ":", 0) < 0)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
    lt_status status = add_streams(s, err);
    if (status) {
        av_dict_free(&options);
        return status;
    }
    set_live_tags(live, &s->out->metadata);
    s->out->flags |= AVFMT_FLAG_BITEXACT | AVFMT_FLAG_FLUSH_PACKETS;
    int rc = avio_open(&s->out->pb, live->path, AVIO_FLAG_WRITE);
    if (rc >= 0) rc = avformat_write_header(s->out, &options);
    av_dict_free(&options);
    live->is_open = rc >= 0;
    if (live->is_open) avio_flush(s->out->pb);
    return rc < 0 ? lt_fail_av(err, rc, "%s", live->path) : LT_OK;
}

/* The pictures go on without. */
static void leave_out(lt_side_live *live, const lt_err *err)
{
    lt_log(LT_LOG_WARN, "%s; sound and subtitles are left out from here on", err->text);
    lt_side_live_finish(live);
}

void lt_side_live_take(void *opaque, struct AVFormatContext *input, struct AVPacket *packet)
{
    lt_side_live *live = opaque;
    side *s = &live->side;
    lt_err err;
    if (!packet) {
        s->in = input;
        if (begin(live, &err)) leave_out(live, &err);
        return;
    }
    if (!live->is_open || (unsigned)packet->stream_index >= live->n_streams) return;
    if (s->target[packet->stream_index] < 0) return;
    int rc = write_packet(s, packet);
    if (rc >= 0) rc = s->out->pb->error;
    if (rc >= 0) return;
    lt_fail_av(&err, rc, "%s", live->path);
    leave_out(live, &err);
}

const char *lt_side_live_path(const lt_side_live *live)
{
    return live->is_open ? live->path : NULL;
}

void lt_side_live_finish(lt_side_live *live)
{
    if (live->is_open) av_write_trailer(live->side.out);
    live->is_open = false;
    if (live->side.out) avio_closep(&live->side.out->pb);
}

void lt_side_live_destroy(lt_side_live *live)
{
    if (!live) return;
    lt_side_live_finish(live);
    avformat_free_context(live->side.out);
    free(live->side.target);
    free(live->side.last_dts);
    free(live->side.next);
    av_free((char *)live->side.input);
    av_free(live->run_folder);
    av_free(live->path);
    free(live);
}
