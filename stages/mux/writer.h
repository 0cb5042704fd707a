/* writer.h - a thread that encodes pictures into segments, so that the stage can blend and convert the
 * next ones. */
#ifndef LT_MUX_WRITER_H
#define LT_MUX_WRITER_H

#include "stages/mux/segments.h"
#include "stages/mux/stills.h"
#include "stages/mux/times.h"
#include "stages/video/encoder.h"

/* Pictures that may wait for the encoder. */
enum { LT_WRITER_QUEUE = 8 };

typedef struct lt_writer lt_writer;

/* All of it is borrowed until lt_writer_destroy. */
typedef struct lt_writer_request {
    const lt_encoder *encoder;
    lt_segment_list *list; /* of segments; unused where there are stills */
    lt_stills *stills;     /* NULL: segments */
    const int64_t *pts;    /* [n_frames], of the clip; NULL of a live one: */
    const lt_times *times; /* of frames that were pushed */
    int64_t n_frames, last_duration;
    int64_t segment_frames;
} lt_writer_request;

/* Encode the pictures from the first that is not in `list` (or `stills`) on, into segments noted there (or pictures of
 * their own). E_NO_MEMORY. */
lt_status lt_writer_create(lt_writer **writer, const lt_writer_request *request, lt_err *err);

/* Hand over the next picture (it is the writer's then, on failure too); waits while the queue is full.
 * Errors are those of encoding an earlier picture. */
lt_status lt_writer_push(lt_writer *writer, AVFrame **picture, lt_err *err);

/* Wait until everything pushed has been encoded; what makes whole segments is durable then. */
lt_status lt_writer_flush(lt_writer *writer, lt_err *err);

/* Wait as lt_writer_flush does, and end the segment that is begun, however short it is: all that was pushed is durable. */
lt_status lt_writer_cut(lt_writer *writer, lt_err *err);

/* Frames that are durable by now. */
int64_t lt_writer_durable(lt_writer *writer);

/* End the thread; a segment that is not whole is removed. Takes NULL. */
void lt_writer_destroy(lt_writer *writer);

#endif
