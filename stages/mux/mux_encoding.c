/* mux_encoding.c - what of a clip is to be encoded: timestamps, frame rate, the encoder and its digest. */
#include "stages/mux/mux.h"

#include "proto/wire.h"
#include "stages/digest/digest.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Of a live clip timestamps come with the frames. */
static lt_status fill_live_times(lt_mux_clip *clip, const lt_mux_config *config, lt_err *err)
{
    const lt_stream *stream = clip->stream;
    clip->last_duration = LT_MAX(stream->last_duration, 1);
    clip->time_base = (AVRational){(int)stream->time_base_num, (int)stream->time_base_den};
    if (config->fps > 0)
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "fps gives a clip a rate of its own; a live one keeps its times");
    return LT_OK;
}

/* Timestamps to write: the source's, or those of a constant rate. */
lt_status lt_mux_times(lt_mux_clip *clip, const lt_mux_config *config, lt_arena *arena, lt_err *err)
{
    const lt_stream *stream = clip->stream;
    size_t bytes;
    clip->is_live = stream->live;
    clip->times.fd = -1;
    if (clip->is_live) return fill_live_times(clip, config, err);
    if (!stream->n_frames || !lt_mul_size(stream->n_frames, sizeof *clip->pts, &bytes))
        return lt_fail(err, LT_E_FORMAT, "the input has no frames");
    clip->pts = lt_arena_alloc(arena, bytes);
    if (!clip->pts) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for timestamps");
    if (config->fps > 0) {
        clip->time_base = av_inv_q(av_d2q(config->fps, 1 << 20));
        clip->last_duration = 1;
        for (uint64_t i = 0; i < stream->n_frames; i++) clip->pts[i] = (int64_t)i;
        return LT_OK;
    }
    clip->time_base = (AVRational){(int)stream->time_base_num, (int)stream->time_base_den};
    clip->last_duration = LT_MAX(stream->last_duration, 1);
    if (clip->time_base.num <= 0 || clip->time_base.den <= 0)
        return lt_fail(err, LT_E_FORMAT, "the input has no time base");
    return lt_stream_pts(stream, clip->pts, err);
}

static AVRational rate_said(const lt_mux_clip *clip)
{
    AVRational rate = {0, 1};
    if (clip->stream->rate_num && clip->stream->rate_den)
        av_reduce(&rate.num, &rate.den, clip->stream->rate_num, clip->stream->rate_den, 60000);
    return rate;
}

/* Whether all timestamps are those of a rate, rounded to the time base. */
static bool keeps_rate(const lt_mux_clip *clip, AVRational rate)
{
    for (uint64_t i = 0; i < clip->stream->n_frames; i++) {
        int64_t due = clip->pts[0] + av_rescale_q((int64_t)i, av_inv_q(rate), clip->time_base);
        if (clip->pts[i] - due > 1 || due - clip->pts[i] > 1) return false;
    }
    return true;
}

/* The usual rate that timestamps are those of: a coarse time base (Matroska's milliseconds) hides it. 0/1: none. */
static AVRational usual_rate(const lt_mux_clip *clip)
{
    static const AVRational usual[] = {{24, 1}, {24000, 1001}, {25, 1}, {30, 1}, {30000, 1001}, {50, 1},
                                       {60, 1}, {60000, 1001}, {12, 1}, {15, 1}, {48, 1},       {120, 1}};
    for (size_t i = 0; i < LT_COUNT(usual); i++)
        if (keeps_rate(clip, usual[i])) return usual[i];
    return (AVRational){0, 1};
}

/* The constant rate, or the mean of a variable one; of a live clip, what its source says. */
static AVRational frame_rate(const lt_mux_clip *clip)
{
    AVRational said = rate_said(clip);
    if (clip->is_live) return said.num > 0 ? said : (AVRational){25, 1};
    int64_t n = (int64_t)clip->stream->n_frames,
            step = n > 1 ? clip->pts[1] - clip->pts[0] : clip->last_duration;
    bool constant = true;
    for (int64_t i = 1; i < n && constant; i++) constant = clip->pts[i] - clip->pts[i - 1] == step;
    if (!constant && (said = usual_rate(clip)).num) return said;
    int64_t ticks = constant ? step : clip->pts[n - 1] - clip->pts[0] + clip->last_duration;
    AVRational rate;
    av_reduce(&rate.num, &rate.den, (constant ? 1 : n) * clip->time_base.den, ticks * clip->time_base.num,
              60000);
    return rate.num > 0 && rate.den > 0 ? rate : (AVRational){25, 1};
}

lt_status lt_mux_encoder(lt_mux_clip *clip, const lt_mux_config *config, lt_err *err)
{
    const lt_stream *stream = clip->stream;
    static const Lt__Wire__Picture none = LT__WIRE__PICTURE__INIT;
    const Lt__Wire__Picture *picture = stream->picture ? stream->picture : &none;
    AVRational rate = frame_rate(clip);
    uint32_t width = picture->width ? picture->width : stream->width;
    uint32_t height = picture->height ? picture->height : stream->height;
    if (width > stream->width || height > stream->height || stream->width > 65536 || stream->height > 65536)
        return lt_fail(err, LT_E_FORMAT, "the visible picture, %ux%u, is larger than the frames, %ux%u",
                       width, height, stream->width, stream->height);
    const char *still_codec = lt_stills_codec(clip->output), *codec = config->codec;
    if (!strcmp(codec, "auto")) codec = still_codec ? still_codec : "libx264";
    lt_encoder_request request = {.codec = codec,
                                  .still = still_codec != NULL,
                                  .pixel_format = config->pixel_format,
                                  .options = config->options,
                                  .width = (int)width,
                                  .height = (int)height,
                                  .frame_width = (int)stream->width,
                                  .frame_height = (int)stream->height,
                                  .bits = stream->bits > 8 ? 16 : 8,
                                  .colour = {AVCOL_PRI_UNSPECIFIED, AVCOL_TRC_UNSPECIFIED,
                                             AVCOL_SPC_UNSPECIFIED, AVCOL_RANGE_UNSPECIFIED},
                                  .aspect_num = (int)picture->sample_aspect_num,
                                  .aspect_den = (int)picture->sample_aspect_den,
                                  .rate_num = rate.num,
                                  .rate_den = rate.den,
                                  .container = clip->output};
    if (stream->picture)
        request.colour = (lt_video_colour){(int)picture->primaries, (int)picture->transfer,
                                           (int)picture->matrix, (int)picture->range};
    return lt_encoder_create(&clip->encoder, &request, err);
}

/* Of all that decides the bytes of a segment. */
void lt_mux_digest(const lt_mux_clip *clip, const lt_mux_config *config, char digest[33])
{
    char text[1024], versions[64];
    int n = snprintf(text, sizeof text, "mux 1 %s | %s | segment %" PRId64 " of %" PRIu64 " | %s",
                     clip->stream->digest ? clip->stream->digest : "", clip->encoder->settings,
                     clip->has_stills ? config->first_number : config->segment,
                     clip->is_live ? 0 : clip->stream->n_frames, lt_ffmpeg_versions(versions));
    lt_digest(text, (size_t)LT_MIN(n, (int)sizeof text - 1), digest);
}
