/* join.h - all segments of a clip, and its audio and other streams, into one file. */
#ifndef LT_MUX_JOIN_H
#define LT_MUX_JOIN_H

#include "stages/mux/segments.h"
#include "stages/video/encoder.h"

typedef struct lt_join_request {
    const lt_encoder *encoder; /* that made the segments */
    const lt_segment_list *list;
    const char *output;
    const char *side_path;      /* "" or NULL: video only */
    const char *format_options; /* of FFmpeg's muxer, key=value joined by ':'; "" none */
    const int64_t *pts;         /* of all frames */
    int64_t n_frames, last_duration;
    int time_base_num, time_base_den;
    int rotation; /* degrees clockwise for the player */
} lt_join_request;

/* Remux without encoding, timestamps as in pts; written beside `output`, synced, renamed. Times start at
 * the earliest stream where that is after 0; a clip cut out of its source starts at its own first frame,
 * and side streams are cut to it. Side streams the format does not hold are left out with a warning. Two
 * runs give identical bytes. E_NO_SPACE, E_IO, E_FORMAT (a segment is not what the list says); nothing is
 * left behind then. */
lt_status lt_join(const lt_join_request *request, lt_err *err);

#endif
