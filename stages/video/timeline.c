/* timeline.c - one clock for an input whose own starts again. */
#include "stages/video/timeline.h"

#include <stdlib.h>

enum {
    FALL = AV_TIME_BASE / 2, /* more than any muxer leaves packets of one stream out of order */
    SKEW = AV_TIME_BASE      /* how far streams are apart in a file, at most */
};

/* Times of files that lie: 35 years, of which no sum overflows. */
#define FAR (INT64_C(1) << 50)

static bool decides(const AVStream *stream)
{
    enum AVMediaType type = stream->codecpar->codec_type;
    return stream->index < LT_TIMELINE_STREAMS && (type == AVMEDIA_TYPE_VIDEO || type == AVMEDIA_TYPE_AUDIO);
}

/* Of the last two parts the one that puts the packet nearest to where its stream is expected. */
static int choose_part(const lt_timeline *line, int64_t at, int64_t expected)
{
    return llabs(at + line->offset[1] - expected) < llabs(at + line->offset[0] - expected);
}

void lt_timeline_move(lt_timeline *line, const AVStream *stream, AVPacket *packet)
{
    int i = stream->index;
    int64_t at = packet->dts != AV_NOPTS_VALUE ? packet->dts : packet->pts;
    if (at == AV_NOPTS_VALUE) return;
    at = av_rescale_q(at, stream->time_base, AV_TIME_BASE_Q);
    if (at < -FAR || at > FAR) return;
    bool known = decides(stream) && line->met[i];
    int64_t now = line->begun ? line->now : at, expected = now;
    if (known) expected = LT_MAX(LT_MIN(line->end[i], now + SKEW), now - SKEW);
    int part = choose_part(line, at, expected);
    bool falls = known && at + line->offset[part] < LT_MIN(line->last[i], now) - FALL;
    if (falls && line->end[i] - at <= FAR) {
        part = !part;
        line->offset[part] = line->end[i] - at;
        line->restarts++;
    }
    at += line->offset[part];
    line->begun = true;
    line->now = at;
    if (decides(stream)) {
        line->met[i] = true;
        line->last[i] = at;
        int64_t span = av_rescale_q(LT_MAX(packet->duration, 0), stream->time_base, AV_TIME_BASE_Q);
        line->end[i] = at + LT_MAX(LT_MIN(span, FAR), 0);
    }
    int64_t offset = av_rescale_q(line->offset[part], AV_TIME_BASE_Q, stream->time_base);
    if (packet->dts != AV_NOPTS_VALUE) packet->dts += offset;
    if (packet->pts != AV_NOPTS_VALUE) packet->pts += offset;
}
