/* side.c - audio, subtitles and chapters of a source, copied packet by packet. */
#include "stages/decode/side.h"
#include "stages/video/ffmpeg.h"
#include "stages/video/timeline.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
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

/* How far sound that is late is looked for; packets wait in memory meanwhile. */
enum { PATIENT_BYTES = 32 << 20, PATIENT_MICROSECONDS = 60000000 };

/* Of a source without such streams: chapters and tags. */
enum { NO_STREAMS = LT_COUNT(formats) };

typedef struct side {
    const char *input;
    AVFormatContext *in, *out;
    unsigned n_streams; /* of `in` when it was opened; later ones are left out */
    int *target;        /* stream of `out` by stream of `in`; -1: left out */
    int64_t *last_dts;  /* by stream of `out` */
    int64_t *
        next; /* where a packet of sound that does not say belongs, by stream of `out`, in the input's time base */
    int64_t shift;     /* seconds; at least one, for packets before 0 that decoders need (priming) */
    bool is_live;      /* `in` is read by another, for its video, and its packets are on one timeline */
    int64_t n_written; /* packets */
    int64_t from, to;  /* microseconds: packets that lie wholly outside are left out */
    lt_timeline *line; /* of an input whose clock starts again; NULL: all is as it is */
} side;

static bool is_wanted(const AVStream *stream)
{
    return stream->codecpar->codec_type == AVMEDIA_TYPE_AUDIO ||
           stream->codecpar->codec_type == AVMEDIA_TYPE_SUBTITLE;
}

/* Sound that was announced and has not been met: broadcasts list more than they carry, and some begins late. */
static bool is_unknown(const AVStream *stream)
{
    const AVCodecParameters *codec = stream->codecpar;
    return codec->codec_type == AVMEDIA_TYPE_AUDIO &&
           (codec->sample_rate <= 0 || codec->ch_layout.nb_channels <= 0);
}

/* Sound that a decoder knows by its packets and its extradata, without the size of a block, which NUT has no place for. */
static bool describes_itself(enum AVCodecID id)
{
    switch (id) {
    case AV_CODEC_ID_MP1:
    case AV_CODEC_ID_MP2:
    case AV_CODEC_ID_MP3:
    case AV_CODEC_ID_AAC:
    case AV_CODEC_ID_AAC_LATM:
    case AV_CODEC_ID_AC3:
    case AV_CODEC_ID_EAC3:
    case AV_CODEC_ID_DTS:
    case AV_CODEC_ID_MLP:
    case AV_CODEC_ID_TRUEHD:
    case AV_CODEC_ID_OPUS:
    case AV_CODEC_ID_VORBIS:
    case AV_CODEC_ID_SPEEX:
    case AV_CODEC_ID_FLAC:
    case AV_CODEC_ID_ALAC:
    case AV_CODEC_ID_AMR_NB:
    case AV_CODEC_ID_AMR_WB:
    case AV_CODEC_ID_S302M: return true;
    default: return id >= AV_CODEC_ID_FIRST_AUDIO && id < AV_CODEC_ID_ADPCM_IMA_QT; /* PCM */
    }
}

/* What QuickTime has tags of its own for; those of Windows' codecs FFmpeg writes into MOV and does not find again. */
static bool is_quicktime(enum AVCodecID id)
{
    return id == AV_CODEC_ID_ADPCM_IMA_QT || id == AV_CODEC_ID_QDM2 || id == AV_CODEC_ID_QDMC ||
           id == AV_CODEC_ID_MACE3 || id == AV_CODEC_ID_MACE6;
}

/* Whether the format says all that a decoder needs to know of this sound. */
static bool describes(const AVOutputFormat *format, enum AVCodecID id)
{
    if (!strcmp(format->name, "nut")) return describes_itself(id);
    if (!strcmp(format->name, "mov")) return describes_itself(id) || is_quicktime(id);
    return true;
}

/* A stream of `out` with what is known of `from`. */
static AVStream *copy_stream(AVFormatContext *out, const AVStream *from)
{
    AVStream *to = avformat_new_stream(out, NULL);
    if (!to || avcodec_parameters_copy(to->codecpar, from->codecpar) < 0) return NULL;
    if (av_codec_get_id(out->oformat->codec_tag, to->codecpar->codec_tag) != to->codecpar->codec_id)
        to->codecpar->codec_tag = 0;
    to->time_base = from->time_base;
    return to;
}

/* Whether a file of this stream alone can be begun: what FFmpeg says of formats and codecs is not all that a muxer demands. */
static bool can_begin(const AVOutputFormat *format, const AVStream *stream)
{
    AVFormatContext *out = NULL;
    uint8_t *bytes = NULL;
    int rc = avformat_alloc_output_context2(&out, format, NULL, NULL);
    if (rc >= 0 && !copy_stream(out, stream)) rc = AVERROR(ENOMEM);
    if (rc >= 0) rc = avio_open_dyn_buf(&out->pb);
    if (rc >= 0) rc = avformat_write_header(out, NULL);
    bool begun = rc >= 0;
    if (begun) av_write_trailer(out);
    if (out && out->pb) avio_close_dyn_buf(out->pb, &bytes);
    av_free(bytes);
    avformat_free_context(out);
    return begun;
}

static bool holds(const AVOutputFormat *format, const AVStream *stream)
{
    enum AVCodecID id = stream->codecpar->codec_id;
    bool sound = stream->codecpar->codec_type == AVMEDIA_TYPE_AUDIO;
    return is_wanted(stream) && !is_unknown(stream) && (!sound || describes(format, id)) &&
           avformat_query_codec(format, id, FF_COMPLIANCE_UNOFFICIAL) == 1 && can_begin(format, stream);
}

/* patient: read on for a while until all that was announced has come. */
static lt_status open_as(side *s, bool patient, lt_err *err)
{
    AVDictionary *options = NULL;
    bool url = lt_video_is_url(s->input);
    if (!url) av_dict_set(&options, "protocol_whitelist", "file", 0);
    if (patient) av_dict_set_int(&options, "probesize", PATIENT_BYTES, 0);
    if (patient) av_dict_set_int(&options, "analyzeduration", PATIENT_MICROSECONDS, 0);
    char *name = av_asprintf("%s%s", url ? "" : "file:", s->input);
    int rc = name ? avformat_open_input(&s->in, name, NULL, &options) : AVERROR(ENOMEM);
    av_dict_free(&options);
    av_free(name);
    if (rc >= 0) rc = avformat_find_stream_info(s->in, NULL);
    return rc < 0 ? lt_fail_av(err, rc, "%s: opening it for audio and subtitles", s->input) : LT_OK;
}

/* What a clip leaves out of its source, but for a second: mux cuts to the frame. */
static void find_range(side *s, const lt_video_info *info)
{
    double unit = (double)info->time_base_num / info->time_base_den, second = 1;
    double start = (double)info->pts[0] * unit;
    double end = (double)(info->pts[info->n_frames - 1] + info->last_duration) * unit;
    s->from = start - info->source_start > second ? llrint((start - second) * AV_TIME_BASE) : INT64_MIN;
    s->to = info->source_end - end > second ? llrint((end + second) * AV_TIME_BASE) : INT64_MAX;
}

/* Of a clip the range, of a whole video "". */
static void range_text(const side *s, char text[48])
{
    *text = 0;
    if (s->from == INT64_MIN && s->to == INT64_MAX) return;
    snprintf(text, 48, "%" PRId64 " %" PRId64, s->from, s->to);
}

static lt_status open_and_probe(side *s, lt_err *err)
{
    bool unknown = false;
    lt_status status = open_as(s, false, err);
    for (unsigned i = 0; !status && i < s->in->nb_streams; i++) unknown |= is_unknown(s->in->streams[i]);
    if (!unknown) return status;
    avformat_close_input(&s->in);
    return open_as(s, true, err);
}

/* Open it and go to where the clip begins, early enough for subtitles that are shown then; where that cannot be, all is read. */
static lt_status open_input(side *s, lt_err *err)
{
    lt_status status = open_and_probe(s, err);
    if (status || s->from == INT64_MIN || s->line) return status;
    int subtitle = av_find_best_stream(s->in, AVMEDIA_TYPE_SUBTITLE, -1, -1, NULL, 0);
    int64_t to = s->from - INT64_C(1000000) * (subtitle >= 0 ? 30 : 2);
    if (s->in->start_time == AV_NOPTS_VALUE || to <= s->in->start_time) return LT_OK;
    if (av_seek_frame(s->in, -1, to, AVSEEK_FLAG_BACKWARD) >= 0) return LT_OK;
    avformat_close_input(&s->in);
    return open_and_probe(s, err);
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

/* Chapters, or a tag that is not about the file itself. */
static bool has_text(const AVFormatContext *in)
{
    static const char *const of_files[] = {"major_brand",   "minor_version", "compatible_brands",
                                           "creation_time", "encoder",       "duration"};
    const AVDictionaryEntry *tag = NULL;
    if (in->nb_chapters) return true;
    while ((tag = av_dict_get(in->metadata, "", tag, AV_DICT_IGNORE_SUFFIX))) {
        bool is_said = true;
        for (size_t i = 0; i < LT_COUNT(of_files); i++) is_said &= strcasecmp(tag->key, of_files[i]) != 0;
        if (is_said) return true;
    }
    return false;
}

static void log_dropped(const side *s, const AVStream *stream)
{
    const AVCodecParameters *parameters = stream->codecpar;
    const char *type = av_get_media_type_string(parameters->codec_type);
    lt_log(LT_LOG_WARN, "%s: stream %d (%s, %s%s) is left out of the output", s->input, stream->index,
           type ? type : "unknown", avcodec_get_name(parameters->codec_id),
           is_unknown(stream) ? ", of which nothing came" : "");
}

/* Whether a stream that is not carried is read nonetheless. */
static bool is_followed(const side *s, const AVStream *stream, bool is_video)
{
    if (s->is_live) return is_video;
    return s->line && (is_video || stream->codecpar->codec_type == AVMEDIA_TYPE_AUDIO);
}

static bool make_tables(side *s)
{
    s->n_streams = s->in->nb_streams;
    s->target = calloc(s->n_streams, sizeof *s->target);
    s->last_dts = calloc(s->n_streams, sizeof *s->last_dts);
    s->next = calloc(s->n_streams, sizeof *s->next);
    return s->target && s->last_dts && s->next;
}

/* A stream of the output for each that it can hold; the first video stream is what decode itself reads. */
static lt_status add_streams(side *s, lt_err *err)
{
    int video = av_find_best_stream(s->in, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    for (unsigned i = 0; i < s->n_streams; i++) {
        AVStream *from = s->in->streams[i];
        s->target[i] = -1;
        if (!holds(s->out->oformat, from)) {
            if (!is_followed(s, from, (int)i == video)) from->discard = AVDISCARD_ALL;
            if ((int)i != video) log_dropped(s, from);
            continue;
        }
        AVStream *to = copy_stream(s->out, from);
        if (!to || av_dict_copy(&to->metadata, from->metadata, 0) < 0)
            return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
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
    char range[48];
    range_text(s, range);
    av_dict_set(tags, "longtake_fingerprint", info->fingerprint, 0);
    if (*range) av_dict_set(tags, "longtake_range", range, 0);
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

static bool is_outside(const side *s, const AVPacket *packet)
{
    AVRational base = s->in->streams[packet->stream_index]->time_base;
    int64_t end = packet->pts + LT_MAX(packet->duration, 0);
    if (s->from != INT64_MIN && av_compare_ts(end, base, s->from, AV_TIME_BASE_Q) <= 0) return true;
    return s->to != INT64_MAX && av_compare_ts(packet->pts, base, s->to, AV_TIME_BASE_Q) >= 0;
}

/* Whether all that belongs to the clip has been read: streams are not further apart in a file. */
static bool is_past(const side *s, const AVPacket *packet)
{
    enum { APART = 10 * AV_TIME_BASE };
    if (s->to > INT64_MAX - APART || packet->dts == AV_NOPTS_VALUE) return false;
    AVRational base = s->in->streams[packet->stream_index]->time_base;
    return av_compare_ts(packet->dts, base, s->to + APART, AV_TIME_BASE_Q) > 0;
}

/* One packet with its timestamps moved; those that do not rise, as muxers demand, are made to. */
static int write_packet(side *s, AVPacket *packet)
{
    const AVStream *from = s->in->streams[packet->stream_index];
    int index = s->target[packet->stream_index];
    AVStream *to = s->out->streams[index];
    find_time(s, packet);
    if (packet->dts == AV_NOPTS_VALUE || packet->flags & AV_PKT_FLAG_CORRUPT) return 0;
    if (is_outside(s, packet)) return 0;
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
    s->n_written++;
    return s->is_live ? av_write_frame(s->out, packet) : av_interleaved_write_frame(s->out, packet);
}

static bool is_carried(const side *s, const AVPacket *packet)
{
    return (unsigned)packet->stream_index < s->n_streams && s->target[packet->stream_index] >= 0;
}

/* What a muxer does not want to write of a stream costs that stream. */
static bool leaves_out(side *s, int index, int rc)
{
    char why[AV_ERROR_MAX_STRING_SIZE];
    bool broken = rc == AVERROR(ENOMEM) || rc == AVERROR(ENOSPC) || rc == AVERROR(EIO);
    if (rc >= 0 || broken || s->out->pb->error < 0) return false;
    lt_log(LT_LOG_WARN, "%s: stream %d is left out of the output from here on: %s", s->input, index,
           av_make_error_string(why, sizeof why, rc));
    s->target[index] = -1;
    return true;
}

static int copy_packets(side *s)
{
    AVPacket *packet = av_packet_alloc();
    if (!packet) return AVERROR(ENOMEM);
    int rc = 0;
    bool past = false;
    while (rc >= 0 && !past && av_read_frame(s->in, packet) >= 0) {
        int index = packet->stream_index;
        if (s->line) lt_timeline_move(s->line, s->in->streams[index], packet);
        past = is_past(s, packet);
        if (is_carried(s, packet)) rc = write_packet(s, packet);
        if (leaves_out(s, index, rc)) rc = 0;
        av_packet_unref(packet);
    }
    av_packet_free(&packet);
    if (s->in->nb_streams > s->n_streams)
        lt_log(LT_LOG_WARN, "%s: streams that begin later than others are left out of the output: %u",
               s->input, s->in->nb_streams - s->n_streams);
    return rc;
}

static lt_status write_file(side *s, const char *temporary, lt_err *err)
{
    AVDictionary *options = NULL;
    s->out->flags |= AVFMT_FLAG_BITEXACT;
    if (!strcmp(s->out->oformat->name, "mov")) av_dict_set(&options, "movflags", "use_metadata_tags", 0);
    int rc = avio_open(&s->out->pb, temporary, AVIO_FLAG_WRITE);
    if (rc >= 0) rc = avformat_write_header(s->out, &options);
    if (rc >= 0 && s->out->nb_streams) rc = copy_packets(s);
    if (rc >= 0) rc = av_write_trailer(s->out);
    av_dict_free(&options);
    int failed = s->out->pb ? s->out->pb->error : 0;
    int closed = avio_closep(&s->out->pb);
    if (rc >= 0) rc = failed < 0 ? failed : closed;
    return rc < 0 ? lt_fail_av(err, rc, "%s: copying audio and subtitles", temporary) : LT_OK;
}

/* True when `path` holds the side streams of this very source, and of this clip of it. */
static bool is_made(const side *s, const char *path, const lt_video_info *info)
{
    char range[48];
    AVFormatContext *file = NULL;
    if (access(path, R_OK) || avformat_open_input(&file, path, NULL, NULL) < 0) return false;
    const AVDictionaryEntry *tag = av_dict_get(file->metadata, "longtake_fingerprint", NULL, 0);
    bool same = tag && !strcmp(tag->value, info->fingerprint);
    range_text(s, range);
    tag = av_dict_get(file->metadata, "longtake_range", NULL, 0);
    same = same && !strcmp(tag ? tag->value : "", range);
    avformat_close_input(&file);
    return same;
}

/* A file of streams and no packets is none that can be opened; one of text alone has no streams. */
static bool is_worth_it(const side *s)
{
    return s->n_written || !s->out->nb_streams;
}

static lt_status make(side *s, const lt_video_info *info, const char *final, int format, lt_arena *arena,
                      lt_err *err)
{
    lt_status status;
    const char *temporary = lt_arena_printf(arena, "%s.part", final);
    if (!temporary || !make_tables(s)) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
    const char *name = format == NO_STREAMS ? "ffmetadata" : formats[format].format;
    if (avformat_alloc_output_context2(&s->out, NULL, name, temporary) < 0)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
    LT_TRY(add_streams(s, err));
    LT_TRY(add_chapters(s, err));
    set_tags(s, info);
    LT_TRY(write_file(s, temporary, err));
    if (is_worth_it(s)) LT_TRY(lt_file_replace(temporary, final, err));
fail:
    if (status || !is_worth_it(s)) unlink(temporary);
    return status;
}

static char *side_path(const char *run_folder, uint32_t clip, int format, lt_arena *arena)
{
    const char *suffix = format == NO_STREAMS ? "txt" : formats[format].suffix;
    return clip ? lt_arena_printf(arena, "%s/side-%u.%s", run_folder, clip, suffix)
                : lt_arena_printf(arena, "%s/side.%s", run_folder, suffix);
}

static void drop_output(side *s)
{
    avformat_free_context(s->out);
    free(s->target);
    free(s->last_dts);
    free(s->next);
    s->out = NULL;
    s->target = NULL;
    s->last_dts = s->next = NULL;
}

lt_status lt_side_copy(const char *input, const lt_video_info *info, const char *run_folder, uint32_t clip,
                       lt_arena *arena, const char **path, lt_err *err)
{
    lt_timeline line = {0};
    side s = {.input = input, .shift = 1, .line = info->restarts ? &line : NULL};
    *path = NULL;
    find_range(&s, info);
    lt_status status = open_input(&s, err);
    if (status) goto done;
    int format = choose_format(&s);
    if (format < 0 && has_text(s.in)) format = NO_STREAMS;
    if (format < 0) goto done;
    const char *final = side_path(run_folder, clip, format, arena);
    bool made = final && is_made(&s, final, info);
    if (!final)
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", input);
    else if (!made)
        status = make(&s, info, final, format, arena, err);
    if (!status && !made && !is_worth_it(&s) && has_text(s.in)) {
        drop_output(&s); /* no sound lies in the clip: its words alone */
        format = NO_STREAMS;
        final = side_path(run_folder, clip, format, arena);
        status = final ? make(&s, info, final, format, arena, err)
                       : lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", input);
    }
    if (!status && (made || is_worth_it(&s))) *path = final;
done:
    avformat_close_input(&s.in);
    drop_output(&s);
    return status;
}

/* ---- of a live input ----------------------------------------------------------------------------------- */

struct lt_side_live {
    side side;
    char *run_folder, *path;
    bool cut_start, cut_end, is_open;
};

lt_side_live *lt_side_live_create(const char *input, const char *run_folder, bool cut_start, bool cut_end)
{
    lt_side_live *live = calloc(1, sizeof *live);
    if (!live) return NULL;
    live->cut_start = cut_start;
    live->cut_end = cut_end;
    live->side =
        (side){.input = av_strdup(input), .shift = 1, .from = INT64_MIN, .to = INT64_MAX, .is_live = true};
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
    bool room = make_tables(s);
    int format = choose_format(s);
    if (format < 0) return LT_OK;
    live->path = av_asprintf("%s/side.%s", live->run_folder, formats[format].suffix);
    if (!room || !live->path ||
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
    if (!live->is_open || !is_carried(s, packet)) return;
    int index = packet->stream_index, rc = write_packet(s, packet);
    if (leaves_out(s, index, rc)) return;
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
