/* cache_troupe.h - the stages vae_encode and vae_decode driven in this process, without a runtime: a clip of made-up
 * frames, units made in any order, payloads kept. */
#ifndef LT_TESTS_CACHE_TROUPE_H
#define LT_TESTS_CACHE_TROUPE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "stages/runtime/stage.h"

/* With an lt_err err. */
#define MUST(call)                                                                                           \
    do {                                                                                                     \
        lt_status must_status = (call);                                                                      \
        if (must_status) fail_msg("%s: %s", #call, err.text);                                                \
    } while (0)

/* A clip of frames: noise over slow gradients, its own for every frame. */
typedef struct troupe_clip {
    lt_stream stream;
    Lt__Wire__Picture picture;
    int64_t *deltas;
    lt_payload *chunks; /* n_units */
} troupe_clip;

void troupe_make_clip(troupe_clip *clip, int width, int height, int n_frames, int chunk, int bits);
void troupe_free_clip(troupe_clip *clip);

/* A stage with one clip open, and the units it has made. */
typedef struct troupe_stage {
    const lt_stage *stage;
    lt_arena arena, clip_arena;
    lt_setup setup;
    void *state;
    lt_clip clip;
    lt_stream output;
    lt_payload *units; /* output.n_units; data NULL: not made */
    int n_cached, n_needed;
} troupe_stage;

/* options: "name=value" texts, ended by NULL. */
lt_status troupe_open(troupe_stage *t, const lt_stage *stage, const char *const *options, const char *cache,
                      int threads, const lt_stream *input, lt_err *err);
/* Make unit `unit` from the upstream's payloads; those that are not needed are not shown to the stage. */
lt_status troupe_make(troupe_stage *t, uint64_t unit, const lt_payload *upstream, lt_err *err);
void troupe_make_all(troupe_stage *t, const lt_payload *upstream, bool backwards);
void troupe_close(troupe_stage *t);

/* The plan of the same stage; text in `arena`. */
lt_status troupe_plan(const lt_stage *stage, const char *const *options, const char *cache, int threads,
                      const lt_stream *input, lt_arena *arena, lt_stream *output, lt_plan *plan, lt_err *err);

/* The same spans with the same bytes in all units. */
void troupe_expect_same(const troupe_stage *a, const troupe_stage *b);

#endif
