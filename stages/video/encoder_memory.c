/* encoder_memory.c - what an encoder takes at its peak.
 *
 * Measured as RssAnon of stage-mux at 96x64 to 1280x720 (FFmpeg 5.1, x264 164, x265 3.5, libvpx 1.12, two threads):
 * what the encoder takes whatever the size, and bytes for each pixel of a picture with a border round it. x264 takes
 * them for each frame it holds: its lookahead and 11 more; with a second segment 12 more still, since the memory of the
 * first does not come back whole. The others are given at their default settings. */
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

typedef struct cost {
    const char *codec;
    double base, border, bytes; /* MiB, pixels in all of width or height, bytes a pixel */
    double deep;                /* times as many for more than 8 bits */
} cost;

static cost cost_of(const lt_encoder *encoder, int64_t n_frames, bool several)
{
    static const cost measured[] = {
        {"libx264", 4, 48, 3.78, 2},     {"libx265", 24.5, 96, 174, 2}, {"ffv1", 0, 0, 175, 1.07},
        {"libvpx-vp9", 12, 192, 119, 2}, {"libvpx", 0, 32, 50, 1},      {"libsvtav1", 35, 192, 235, 2},
        {"prores", 0, 16, 49, 1},        {"prores_ks", 0, 16, 49, 1},   {"prores_aw", 0, 16, 49, 1},
        {"mjpeg", 0, 160, 18, 1},
    };
    cost found = {encoder->codec->name, 0, 80, 29, 2}; /* MPEG-2 and MPEG-4 */
    for (size_t i = 0; i < LT_COUNT(measured); i++)
        if (!strcmp(found.codec, measured[i].codec)) found = measured[i];
    if (!strcmp(found.codec, "libx264"))
        found.bytes *= (double)(LT_MIN(n_frames, x264_lookahead(encoder->options) + 11) + (several ? 12 : 0));
    if (!strcmp(found.codec, "libx265") && several) found.base += 5;
    return found;
}

size_t lt_encoder_peak_bytes(const lt_encoder *encoder, int64_t n_frames, bool several)
{
    const AVPixFmtDescriptor *format = av_pix_fmt_desc_get(encoder->format);
    cost c = cost_of(encoder, n_frames, several);
    if (format->comp[0].depth > 8) c.bytes *= c.deep;
    if (format->nb_components >= 3 && !format->log2_chroma_w) c.bytes *= 1.5;
    double pixels = (encoder->width + c.border) * (encoder->height + c.border);
    return (size_t)(c.base * 0x1p20 + c.bytes * pixels);
}
