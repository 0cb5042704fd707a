/* mux.h - the stage `mux`: frames, or decoded windows to be blended, into a video file or pictures. */
#ifndef LT_MUX_H
#define LT_MUX_H

#include "stages/mux/frames.h"
#include "stages/mux/writer.h"
#include "stages/runtime/stage.h"

extern const lt_stage lt_mux_stage;

typedef struct lt_mux_config {
    const char *output, *codec, *pixel_format, *options, *format_options;
    int64_t segment, first_number;
    int audio; /* 0 copy, 1 none */
    double fps;
    bool keep_segments;
} lt_mux_config;

typedef struct lt_mux_clip {
    const lt_stream *stream;
    const char *output; /* file of this clip */
    lt_encoder *encoder;
    lt_segment_list list;
    lt_stills stills; /* where has_stills; the list is empty then */
    bool has_stills;
    lt_writer *writer;
    lt_frames *frames;
    int64_t *pts, last_duration; /* pts: NULL of a live clip, whose times are in a file */
    lt_times times;
    bool is_live;
    AVRational time_base;
    int64_t next; /* frame that comes next */
} lt_mux_clip;

/* ---- what is to be encoded (mux_encoding.c): the same when planned and when run ------------------------------- */

/* Timestamps to write into clip->pts (in `arena`), time_base and last_duration: the source's, or those of a constant rate. A live
 * clip's come with its frames. E_FORMAT: a stream without frames or time base; E_UNSUPPORTED: a rate for a live clip; E_NO_MEMORY. */
lt_status lt_mux_times(lt_mux_clip *clip, const lt_mux_config *config, lt_arena *arena, lt_err *err);

/* Open clip->encoder, which is then the clip's to destroy. Needs lt_mux_times and lt_mux_name_output. Errors: lt_encoder_create's; E_FORMAT:
 * a visible picture larger than the frames. */
lt_status lt_mux_encoder(lt_mux_clip *clip, const lt_mux_config *config, lt_err *err);

/* Whether what came beside the pictures goes to the output. */
bool lt_mux_takes_side(const lt_mux_config *config);

/* Of all that decides the bytes of a segment; needs the encoder. */
void lt_mux_digest(const lt_mux_clip *clip, const lt_mux_config *config, char digest[33]);

/* ---- outputs (mux_plan.c) ------------------------------------------------------------------------------------- */

/* Whether every clip has a file of its own: {clip} stands in the name. */
bool lt_mux_is_pattern(const lt_mux_config *config);

/* clip->output, in `arena`: the option with the clip's name in it; has_stills from its ending. E_INVALID: {clip} in the wrong place. */
lt_status lt_mux_name_output(lt_mux_clip *clip, const lt_mux_config *config, lt_arena *arena, lt_err *err);

/* E_INVALID, or the error of its folder, when a file of this name cannot be written. */
lt_status lt_mux_check_output(const char *output, lt_err *err);

/* E_INVALID where clip->output is the very file that the clip is read from, by whatever name, or its pictures meet those it is read
 * from (lt_stills_meet). */
lt_status lt_mux_check_source(const lt_mux_clip *clip, lt_err *err);

/* Of pictures: a number in the name where there are several. E_INVALID. */
lt_status lt_mux_check_stills(const lt_mux_clip *clip, const lt_mux_config *config, lt_err *err);

/* E_INVALID, E_NOT_FOUND: the option format_options is not one of the output's format. */
lt_status lt_mux_check_format_options(const lt_mux_config *config, const char *output, lt_err *err);

lt_status lt_mux_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan, lt_err *err);

#endif
