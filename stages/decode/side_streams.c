/* side_streams.c - which container holds which streams beside the video, and their packets one by one. */
#include "stages/decode/side_streams.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const lt_side_format lt_side_formats[LT_SIDE_FORMATS] = {
    {"nut", "nut", "write_index=0"},
    {"mov", "mov", NULL},
    {"matroska", "mkv", "live=1:cluster_time_limit=1000"}};

static bool is_wanted(const AVStream *stream)
{
    return stream->codecpar->codec_type == AVMEDIA_TYPE_AUDIO ||
           stream->codecpar->codec_type == AVMEDIA_TYPE_SUBTITLE;
}

/* Sound that was announced and has not been met: broadcasts list more than they carry, and some begins late. */
bool lt_side_is_unknown(const AVStream *stream)
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

/* Whether a file of this stream alone can be begun: what FFmpeg says of lt_side_formats and codecs is not all that a muxer demands. */
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
    return is_wanted(stream) && !lt_side_is_unknown(stream) && (!sound || describes(format, id)) &&
           avformat_query_codec(format, id, FF_COMPLIANCE_UNOFFICIAL) == 1 && can_begin(format, stream);
}

/* Number of the best format, or -1 when nothing is to be carried. */
int lt_side_choose_format(const lt_side *s)
{
    int best = -1, most = 0;
    for (size_t f = 0; f < LT_COUNT(lt_side_formats); f++) {
        const AVOutputFormat *format = av_guess_format(lt_side_formats[f].format, NULL, NULL);
        int n = 0;
        if (s->is_live && !lt_side_formats[f].live) continue;
        for (unsigned i = 0; format && i < s->in->nb_streams; i++) n += holds(format, s->in->streams[i]);
        if (n > most) {
            best = (int)f;
            most = n;
        }
    }
    return best;
}

static void log_dropped(const lt_side *s, const AVStream *stream)
{
    const AVCodecParameters *parameters = stream->codecpar;
    const char *type = av_get_media_type_string(parameters->codec_type);
    lt_log(LT_LOG_WARN, "%s: stream %d (%s, %s%s) is left out of the output", s->input, stream->index,
           type ? type : "unknown", avcodec_get_name(parameters->codec_id),
           lt_side_is_unknown(stream) ? ", of which nothing came" : "");
}

/* Whether a stream that is not carried is read nonetheless. */
static bool is_followed(const lt_side *s, const AVStream *stream, bool is_video)
{
    if (s->is_live) return is_video;
    return s->line && (is_video || stream->codecpar->codec_type == AVMEDIA_TYPE_AUDIO);
}

bool lt_side_make_tables(lt_side *s)
{
    s->n_streams = s->in->nb_streams;
    s->target = calloc(s->n_streams, sizeof *s->target);
    s->last_dts = calloc(s->n_streams, sizeof *s->last_dts);
    s->next = calloc(s->n_streams, sizeof *s->next);
    return s->target && s->last_dts && s->next;
}

/* A stream of the output for each that it can hold; the first video stream is what decode itself reads. */
lt_status lt_side_add_streams(lt_side *s, lt_err *err)
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

/* Sound that was met before its rate was known has no timestamps: it follows on what was before. */
static void find_time(lt_side *s, AVPacket *packet)
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

static bool is_outside(const lt_side *s, const AVPacket *packet)
{
    AVRational base = s->in->streams[packet->stream_index]->time_base;
    int64_t end = packet->pts + LT_MAX(packet->duration, 0);
    if (s->from != INT64_MIN && av_compare_ts(end, base, s->from, AV_TIME_BASE_Q) <= 0) return true;
    return s->to != INT64_MAX && av_compare_ts(packet->pts, base, s->to, AV_TIME_BASE_Q) >= 0;
}

/* One packet with its timestamps moved; those that do not rise, as muxers demand, are made to. */
int lt_side_write(lt_side *s, AVPacket *packet)
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

bool lt_side_carries(const lt_side *s, const AVPacket *packet)
{
    return (unsigned)packet->stream_index < s->n_streams && s->target[packet->stream_index] >= 0;
}

/* What a muxer does not want to write of a stream costs that stream. */
bool lt_side_leaves_out(lt_side *s, int index, int rc)
{
    char why[AV_ERROR_MAX_STRING_SIZE];
    bool broken = rc == AVERROR(ENOMEM) || rc == AVERROR(ENOSPC) || rc == AVERROR(EIO);
    if (rc >= 0 || broken || s->out->pb->error < 0) return false;
    lt_log(LT_LOG_WARN, "%s: stream %d is left out of the output from here on: %s", s->input, index,
           av_make_error_string(why, sizeof why, rc));
    s->target[index] = -1;
    return true;
}

void lt_side_close_output(lt_side *s)
{
    avformat_free_context(s->out);
    free(s->target);
    free(s->last_dts);
    free(s->next);
    s->out = NULL;
    s->target = NULL;
    s->last_dts = s->next = NULL;
}
