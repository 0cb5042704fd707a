/* side_streams.h - what side.c (of files) and side_live.c share: which container holds which streams, and packets from one into the other. */
#ifndef LT_DECODE_SIDE_STREAMS_H
#define LT_DECODE_SIDE_STREAMS_H

#include "stages/video/ffmpeg.h"
#include "stages/video/timeline.h"

/* Containers in the order they are tried: the one that holds most streams wins, the first of equals. NUT
 * keeps any timestamp as it is, MOV those in units of a sample; Matroska rounds to milliseconds. */
enum { LT_SIDE_FORMATS = 3 };
typedef struct lt_side_format {
    const char *format, *suffix;
    const char
        *live; /* options under which what was written can be read while memory stays; NULL: there are none */
} lt_side_format;
extern const lt_side_format lt_side_formats[LT_SIDE_FORMATS];

/* Of a source without such streams: chapters and tags. */
enum { LT_SIDE_NO_STREAMS = LT_SIDE_FORMATS };

typedef struct lt_side {
    const char *input;
    AVFormatContext *in, *out;
    unsigned n_streams; /* of `in` when it was opened; later ones are left out */
    int *target;        /* stream of `out` by stream of `in`; -1: left out */
    int64_t *last_dts;  /* by stream of `out` */
    /* Where a packet of sound that does not say belongs, by stream of `out`, in the input's time base. */
    int64_t *next;
    int64_t shift;     /* seconds; at least one, for packets before 0 that decoders need (priming) */
    bool is_live;      /* `in` is read by another, for its video, and its packets are on one timeline */
    int64_t n_written; /* packets */
    int64_t from, to;  /* microseconds: packets that lie wholly outside are left out */
    lt_timeline *line; /* of an input whose clock starts again; NULL: all is as it is */
} lt_side;

/* Sound that was announced and has not been met: broadcasts list more than they carry, and some begins late. */
bool lt_side_is_unknown(const AVStream *stream);

/* Number of the container that holds most of `in`'s streams, or -1 where none holds any. */
int lt_side_choose_format(const lt_side *s);

/* target, last_dts and next, as many as `in` has streams; false: no memory. */
bool lt_side_make_tables(lt_side *s);

/* A stream of `out` for each of `in` that it can hold, and the shift; the others are named in the log and not read.
 * E_NO_MEMORY. */
lt_status lt_side_add_streams(lt_side *s, lt_err *err);

/* Whether the packet's stream goes into `out`. */
bool lt_side_carries(const lt_side *s, const AVPacket *packet);

/* A packet that is carried, into `out`; what lies outside the clip, or before all that is shown, is left out. FFmpeg's code. */
int lt_side_write(lt_side *s, AVPacket *packet);

/* What a muxer does not want of stream `index` of `in` (lt_side_write's rc) costs that stream, and says so in the log. False: all is
 * well, or the file itself cannot be written. */
bool lt_side_leaves_out(lt_side *s, int index, int rc);

/* Frees `out`, which is not open any more, and the tables. */
void lt_side_close_output(lt_side *s);

#endif
