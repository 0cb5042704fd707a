/* video_harness.h - runs decode and mux in one process, unit by unit, without the runtime: what the tests
 * of video share. */
#ifndef LT_VIDEO_HARNESS_H
#define LT_VIDEO_HARNESS_H

#include "stages/runtime/stage.h"

/* A stage with its options and, while a clip is open, that clip. */
typedef struct lt_driver {
    const lt_stage *stage;
    lt_arena arena;
    void *config;
    lt_setup setup;
    void *state;
    lt_clip clip;
    lt_stream output;
    void *buffer; /* one unit */
} lt_driver;

/* options: "name=value" texts, up to a NULL. */
lt_status lt_driver_open(lt_driver *driver, const lt_stage *stage, const char *run_folder,
                         const char *const *options, lt_err *err);
lt_status lt_driver_open_clip(lt_driver *driver, const lt_stream *input, lt_err *err);
/* Make a unit of a source; the payload lies in the driver's buffer. */
lt_status lt_driver_make(lt_driver *driver, uint64_t unit, lt_payload *payload, lt_err *err);
void lt_driver_close(lt_driver *driver);

/* What the stages told the runtime, and what they are told. */
extern uint64_t lt_harness_safe;
extern bool lt_harness_stopping;

/* decode into mux in run_folder, at most max_units of it (below 0: all, and finish), as a run that is
 * killed then; stop_at: the unit before which the run is asked to stop (below 0: never). *units: how many
 * were made. E_... or LT_END when stopped. */
lt_status lt_run_chain(const char *run_folder, const char *const *decode_options,
                       const char *const *mux_options, int64_t max_units, int64_t stop_at, int64_t *units,
                       lt_err *err);

#endif
