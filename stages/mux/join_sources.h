/* join_sources.h - where the packets of the final file come from: coded pictures out of segments, in
 * order, with the clip's timestamps; and the side file's packets inside the clip's range. */
#ifndef LT_MUX_JOIN_SOURCES_H
#define LT_MUX_JOIN_SOURCES_H

#include "stages/mux/join.h"
#include "stages/video/ffmpeg.h"

typedef struct lt_pictures {
    const lt_join_request *request;
    int64_t segment; /* open now */
    AVFormatContext *file;
    int64_t *shown, capacity; /* timestamps of the segment's pictures in its own file, sorted */
    int64_t coded;            /* pictures given so far, over all segments */
    int reorder;              /* the largest of all segments */
} lt_pictures;

lt_status lt_pictures_open(lt_pictures *pictures, const lt_join_request *request, lt_err *err);
void lt_pictures_close(lt_pictures *pictures);
/* The video stream of the first segment; borrowed, until lt_pictures_next. */
const AVStream *lt_pictures_stream(const lt_pictures *pictures);
/* Next picture in coded order, pts, dts and duration in the clip's time base. LT_END after the last. */
lt_status lt_pictures_next(lt_pictures *pictures, AVPacket *packet, lt_err *err);

typedef struct lt_side {
    AVFormatContext *in; /* NULL: none */
    int *target;         /* stream of the output by stream of the file; -1: left out */
    AVPacket *packet;    /* the one peeked at */
    bool have;
    int64_t shift;           /* microseconds that stand in the file's timestamps on top */
    bool cut_start, cut_end; /* the clip leaves out some of its source there */
    int64_t start, end;      /* of the clip, microseconds of the source */
    int64_t first;           /* earliest timestamp, microseconds of the source */
} lt_side;

lt_status lt_side_open(lt_side *side, const lt_join_request *request, lt_err *err);
void lt_side_close(lt_side *side);
/* The next packet that belongs to the clip, with the source's timestamps; NULL: no more. */
const AVPacket *lt_side_peek(lt_side *side);
AVRational lt_side_time_base(const lt_side *side); /* of the packet peeked at */
void lt_side_drop(lt_side *side);
/* Chapter `index` less `origin` microseconds, cut to the clip; its tags are borrowed. False: it lies
 * outside. */
bool lt_side_chapter(const lt_side *side, unsigned index, int64_t origin, AVChapter *chapter);

/* What is taken off all timestamps, in the clip's time base. */
int64_t lt_join_origin(const lt_join_request *request, const lt_side *side);

#endif
