/* timeline.h - timestamps of an input whose clock starts again: recordings put one behind the other, cameras and senders that
 * restart. Its parts follow on each other, sound and pictures moved alike. A zeroed object is an input not begun.
 *
 * Threads: of who reads the input. */
#ifndef LT_VIDEO_TIMELINE_H
#define LT_VIDEO_TIMELINE_H

#include "stages/video/ffmpeg.h"

/* Streams beyond so many follow the others. */
enum { LT_TIMELINE_STREAMS = 64 };

typedef struct lt_timeline {
    int64_t offset[2]; /* microseconds, of the two parts met last: around a seam packets of both come */
    int64_t now;       /* of the packet before */
    int64_t last[LT_TIMELINE_STREAMS], end[LT_TIMELINE_STREAMS]; /* of each stream's packet before */
    bool begun, met[LT_TIMELINE_STREAMS];
    int64_t restarts;
} lt_timeline;

/* Move one packet of the input, in the order they are read, as its part is moved. Where the decoding time of sound or pictures falls back
 * by more than half a second, a part begins: what fell back follows on what was before, and all else keeps its distance to that. */
void lt_timeline_move(lt_timeline *line, const AVStream *stream, AVPacket *packet);

#endif
