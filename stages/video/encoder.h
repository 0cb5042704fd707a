/* encoder.h - RGB pictures into short video files (segments) that depend on nothing but those pictures and
 * the settings. Used by mux, which joins them, and by tools that write a whole file at once.
 *
 * Threads: lt_encoder_picture belongs to one thread and lt_segment_* to one other at most; the settings of
 * an lt_encoder are read by both and written by neither. */
#ifndef LT_ENCODER_H
#define LT_ENCODER_H

#include "stages/video/ffmpeg.h"
#include "stages/video/video.h"

/* Threads of every encoder, whatever the machine: x264 and x265 give other bytes at another number. */
enum { LT_ENCODER_THREADS = 2 };

typedef struct lt_encoder_request {
    const char *codec;             /* FFmpeg's name of an encoder */
    const char *pixel_format;      /* FFmpeg's name, or "auto" */
    const char *options;           /* key=value pairs joined by ':'; "" means lt_encoder_default_options */
    int width, height;             /* of the visible picture */
    int frame_width, frame_height; /* of frames as they come: at least the visible size */
    int bits;                      /* 8 or 16 */
    lt_video_colour colour;        /* of the source; unspecified parts are chosen by size */
    int aspect_num, aspect_den;
    int rate_num, rate_den; /* frames a second, for rate control and the time base of segments */
    const char *container;  /* a file name whose ending says what the segments will be joined into */
    bool whole;             /* the one segment is that file itself, in its format */
    bool still; /* pictures, each a file of its own: no container; one thread, so that none is late */
} lt_encoder_request;

/* Read-only for callers. */
typedef struct lt_encoder {
    const AVCodec *codec;
    AVDictionary *options;
    enum AVPixelFormat format;
    int width, height; /* encoded: visible, rounded up to whole chroma samples */
    int source_width, source_height, source_bits;
    lt_video_colour colour; /* as written */
    AVRational aspect, rate;
    int threads;
    bool global_header;
    const char *segment_format, *segment_suffix; /* of FFmpeg's muxers: "mp4", "mp4" */
    char settings[512];                          /* all of it as text, for digests and notes */
    struct SwsContext *sws;
    AVBufferPool *pool;
} lt_encoder;

/* "crf=16:preset=medium" and the like, or "" for encoders that are best left alone. */
const char *lt_encoder_default_options(const char *codec);

/* Whether hardware does the work: then its model and driver decide the bytes, too. */
bool lt_encoder_is_hardware(const AVCodec *codec);

/* Whether there is an encoder of this name, and a format that the output's ending names; NULL: it is not asked. E_INVALID. */
lt_status lt_encoder_check(const char *codec, const char *container, lt_err *err);

/* Check everything, by opening the encoder once. E_NOT_FOUND: unknown pixel format or option
 * (with what may have been meant); E_UNSUPPORTED: a pixel format it does not take; E_INVALID: an unknown encoder or ending, values it
 * refuses; E_BUSY: hardware that is not here, is used by others, or refuses them. */
lt_status lt_encoder_create(lt_encoder **encoder, const lt_encoder_request *request, lt_err *err);
void lt_encoder_destroy(lt_encoder *encoder);

/* An encoder with these settings, opened. Errors as lt_encoder_create's of options. */
lt_status lt_encoder_open_codec(const lt_encoder *encoder, AVCodecContext **codec, lt_err *err);
/* End it, wherever it stands (fed: it was sent pictures), and set *codec to NULL. Takes NULL in it. */
void lt_encoder_close_codec(AVCodecContext **codec, bool fed);

/* rgb [frame_height, frame_width, 3] to a new picture in the encoder's format; the caller frees it. */
lt_status lt_encoder_picture(lt_encoder *encoder, const void *rgb, AVFrame **picture, lt_err *err);

/* Memory the encoder and the pictures that wait for it take at their peak, in segments of n_frames, one or
 * several after each other; measured for the usual encoders, a guess for others. */
size_t lt_encoder_peak_bytes(const lt_encoder *encoder, int64_t n_frames, bool several);

/* A file being written. Its pictures are numbered 0, 1, ... in time base 1 / rate; it starts with a key
 * frame and refers to nothing outside. */
typedef struct lt_segment lt_segment;

lt_status lt_segment_open(lt_segment **segment, const lt_encoder *encoder, const char *path, lt_err *err);
lt_status lt_segment_push(lt_segment *segment, AVFrame *picture, lt_err *err);
/* Flush, close and fsync. *reorder: how many places a picture is coded after its turn, at most. Frees the
 * segment, on failure too; the partial file is removed then. */
lt_status lt_segment_finish(lt_segment *segment, int *reorder, lt_err *err);
/* Give up: close and remove the file. Takes NULL. */
void lt_segment_abort(lt_segment *segment);

#endif
