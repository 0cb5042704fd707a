/* encoder_memory.c - what an encoder takes at its peak.
 *
 * Measured as RssAnon of stage-mux at 320x180 to 1920x1080 (FFmpeg 5.1, x264 164, x265 3.5, libvpx 1.12,
 * two threads). x264 takes 4.1 bytes a pixel for each frame it holds: its lookahead and 11 more; with a
 * second segment 12 more still, since the memory of the first does not come back whole. The others are
 * given as bytes a pixel at their default settings. */
#include "stages/video/encoder.h"

#include <stdlib.h>
#include <string.h>

static int x264_lookahead(const AVDictionary *options)
{
    static const struct {
        const char *preset;
        int frames;
    } presets[] = {{"ultrafast", 0}, {"superfast", 0}, {"veryfast", 10}, {"faster", 20},   {"fast", 30},
                   {"medium", 40},   {"slow", 50},     {"slower", 60},   {"veryslow", 60}, {"placebo", 60}};
    const AVDictionaryEntry *given = av_dict_get(options, "rc-lookahead", NULL, 0);
    if (given) return atoi(given->value);
    given = av_dict_get(options, "preset", NULL, 0);
    for (size_t i = 0; given && i < LT_COUNT(presets); i++)
        if (!strcmp(given->value, presets[i].preset)) return presets[i].frames;
    return 40;
}

static double bytes_a_pixel(const lt_encoder *encoder, int64_t n_frames, bool several)
{
    static const struct {
        const char *codec;
        double bytes;
    } measured[] = {
        {"libx265", 265}, {"libvpx-vp9", 235}, {"libvpx", 150}, {"libsvtav1", 400}, {"ffv1", 173}};
    if (!strcmp(encoder->codec->name, "libx264"))
        return 4.1 * (double)(LT_MIN(n_frames, x264_lookahead(encoder->options) + 11) + (several ? 12 : 0));
    for (size_t i = 0; i < LT_COUNT(measured); i++)
        if (!strcmp(encoder->codec->name, measured[i].codec)) return measured[i].bytes;
    return 30;
}

size_t lt_encoder_peak_bytes(const lt_encoder *encoder, int64_t n_frames, bool several)
{
    const AVPixFmtDescriptor *format = av_pix_fmt_desc_get(encoder->format);
    double samples = format->comp[0].depth > 8 ? 2 : 1;
    if (format->nb_components >= 3 && !format->log2_chroma_w) samples *= 1.5;
    return (size_t)(bytes_a_pixel(encoder, n_frames, several) * samples * encoder->width * encoder->height);
}
