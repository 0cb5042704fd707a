/* frames.h - units of mux's input as finished pictures, one after the other: chunks as they are, windows
 * blended. */
#ifndef LT_MUX_FRAMES_H
#define LT_MUX_FRAMES_H

#include "stages/runtime/stage.h"

/* Takes finished frame number `frame`: rgb [height, width, 3] of the stream, valid for the call. */
typedef lt_status lt_frame_sink(void *context, int64_t frame, const void *rgb, lt_err *err);

typedef struct lt_frames lt_frames;

/* Frames from first_frame on of `stream` (borrowed): frames, or windows. E_INVALID for a geometry that
 * cannot be. */
lt_status lt_frames_create(lt_frames **frames, const lt_stream *stream, int64_t first_frame, lt_err *err);
void lt_frames_destroy(lt_frames *frames);

/* A live stream turned out to have n_frames. */
void lt_frames_end(lt_frames *frames, int64_t n_frames);

/* The first unit that touches `frame`, or n_units behind the end. */
uint64_t lt_frames_unit_of(const lt_frames *frames, int64_t frame);

/* Hand over the next unit; sink is called for every frame that is final then, in order. E_FORMAT when the
 * payload is not what the stream says; the sink's errors. */
lt_status lt_frames_add(lt_frames *frames, const lt_payload *unit, lt_frame_sink *sink, void *context,
                        lt_err *err);

/* Memory it takes: buffers of blending. */
size_t lt_frames_peak_bytes(const lt_stream *stream);

#endif
