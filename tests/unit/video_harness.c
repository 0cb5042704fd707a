/* video_harness.c - the runtime's part, as far as decode and mux see it. */
#include "tests/unit/video_harness.h"
#include "stages/decode/decode.h"
#include "stages/mux/mux.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t lt_harness_safe;
bool lt_harness_stopping;

/* ---- what stages call
 * ------------------------------------------------------------------------------------- */

lt_status lt_payload_add(lt_payload *payload, uint64_t first, uint64_t count, Lt__Wire__Dtype dtype,
                         size_t bytes, lt_span **span, lt_err *err)
{
    size_t offset = lt_round_up(payload->bytes, 64);
    if (payload->n_spans == LT_MAX_SPANS || offset + bytes > payload->capacity)
        return lt_fail(err, LT_E_INTERNAL, "the payload is full");
    *span = &payload->spans[payload->n_spans++];
    **span = (lt_span){first, count, dtype, (char *)payload->data + offset, bytes};
    payload->bytes = offset + bytes;
    return LT_OK;
}

void lt_plan_note(lt_plan *plan, const char *format, ...)
{
    va_list arguments;
    char text[1024];
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (plan->n_notes < (int)LT_COUNT(plan->notes))
        plan->notes[plan->n_notes++] = lt_arena_strdup(plan->arena, text);
}

void lt_plan_resolve(lt_plan *plan, const char *name, const char *format, ...) {}

lt_status lt_stage_opens(const lt_clip *clip, lt_err *err)
{
    return LT_OK;
}

lt_status lt_payload_times(lt_payload *payload, uint64_t first, uint64_t count, int64_t **pts, lt_err *err)
{
    return lt_fail(err, LT_E_UNSUPPORTED, "no test here reads a live input");
}

void lt_stage_safe(const lt_clip *clip, uint64_t unit)
{
    lt_harness_safe = unit;
}

bool lt_stage_stopping(void)
{
    return lt_harness_stopping;
}

int lt_stage_main(const lt_stage *stage, int argc, char **argv)
{
    return LT_EXIT_BUG;
}

/* ---- a stage
 * ---------------------------------------------------------------------------------------------- */

lt_status lt_driver_open(lt_driver *driver, const lt_stage *stage, const char *run_folder,
                         const char *const *options, lt_err *err)
{
    lt_status status;
    const char *class;
    *driver = (lt_driver){.stage = stage};
    driver->config = calloc(1, stage->config_bytes);
    LT_TRY(lt_options_defaults(stage->options, stage->n_options, driver->config, stage->config_bytes,
                               &driver->arena, err));
    for (; *options; options++) {
        char name[64];
        const char *equals = strchr(*options, '=');
        snprintf(name, sizeof name, "%.*s", (int)(equals - *options), *options);
        LT_TRY(lt_options_set(stage->options, stage->n_options, driver->config, name, equals + 1,
                              &driver->arena, err));
    }
    driver->setup = (lt_setup){.config = driver->config,
                               .base_folder = "",
                               .run_folder = run_folder,
                               .cache = "",
                               .stage = stage->kind,
                               .threads = 2};
    LT_TRY(stage->create(&driver->state, &driver->setup, &class, err));
    return LT_OK;
fail:
    lt_driver_close(driver);
    return status;
}

lt_status lt_driver_open_clip(lt_driver *driver, const lt_stream *input, lt_err *err)
{
    lt__wire__stream__init(&driver->output);
    driver->clip = (lt_clip){.inputs = {input}, .output = &driver->output, .arena = &driver->arena};
    lt_status status = driver->stage->open_clip(driver->state, &driver->clip, err);
    if (!status && !input) driver->buffer = aligned_alloc(64, lt_round_up(driver->output.unit_bytes, 64));
    return status;
}

lt_status lt_driver_make(lt_driver *driver, uint64_t unit, lt_payload *payload, lt_err *err)
{
    *payload = (lt_payload){
        .unit = unit, .data = driver->buffer, .capacity = lt_round_up(driver->output.unit_bytes, 64)};
    return driver->stage->process(driver->state, &driver->clip, unit, NULL, payload, err);
}

void lt_driver_close(lt_driver *driver)
{
    const char *result;
    if (driver->clip.state) driver->stage->finish_clip(driver->state, &driver->clip, false, &result, NULL);
    if (driver->state) driver->stage->destroy(driver->state);
    free(driver->config);
    free(driver->buffer);
    lt_arena_finish(&driver->arena);
    *driver = (lt_driver){0};
}

/* ---- a run
 * ------------------------------------------------------------------------------------------------ */

static lt_status flow(lt_driver *decode, lt_driver *mux, int64_t max_units, int64_t stop_at, int64_t *units,
                      lt_err *err)
{
    lt_status status = LT_OK;
    for (uint64_t u = mux->clip.first_unit; !status && u < mux->clip.n_units; u++) {
        if (max_units >= 0 && *units >= max_units) return LT_AGAIN;
        if (stop_at >= 0 && u >= (uint64_t)stop_at) lt_harness_stopping = true;
        lt_payload payload;
        status = lt_driver_make(decode, u, &payload, err);
        const lt_payload *input = &payload, *const *inputs = &input;
        if (!status) status = mux->stage->process(mux->state, &mux->clip, u, inputs, NULL, err);
        ++*units;
    }
    return status;
}

lt_status lt_run_chain(const char *run_folder, const char *const *decode_options,
                       const char *const *mux_options, int64_t max_units, int64_t stop_at, int64_t *units,
                       lt_err *err)
{
    lt_driver decode = {0}, mux = {0};
    const char *result;
    int64_t made = 0;
    lt_status status;
    lt_harness_stopping = false;
    LT_TRY(lt_driver_open(&decode, &lt_decode_stage, run_folder, decode_options, err));
    LT_TRY(lt_driver_open(&mux, &lt_mux_stage, run_folder, mux_options, err));
    LT_TRY(lt_driver_open_clip(&decode, NULL, err));
    LT_TRY(lt_driver_open_clip(&mux, &decode.output, err));
    status = flow(&decode, &mux, max_units, stop_at, &made, err);
    lt_status finished =
        mux.stage->finish_clip(mux.state, &mux.clip, status == LT_OK, &result, status ? NULL : err);
    if (!status) status = finished;
    decode.stage->finish_clip(decode.state, &decode.clip, true, &result, NULL);
fail:
    if (units) *units = made;
    lt_driver_close(&decode);
    lt_driver_close(&mux);
    return status;
}
