/* null_filter.c - a unit's bytes follow from those of a window of input units; windows may overlap. */
#include "tests/pipeline/stages/hash.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct config {
    int64_t window, later_window, stride, sleep_ms, crash_unit, fail_unit, bare_unit;
    const char *numeric_class;
} config;

static const lt_option options[] = {
    {.name = "window",
     .type = LT_OPT_INT,
     .offset = offsetof(config, window),
     .fallback = "1",
     .min = 1,
     .max = 1000,
     .unit = "units",
     .help = "input units that one output unit takes"},
    {.name = "later_window",
     .type = LT_OPT_INT,
     .offset = offsetof(config, later_window),
     .fallback = "0",
     .max = 10000,
     .unit = "units",
     .help = "window of all clips but the first, for which it is planned; 0: the same"},
    {.name = "stride",
     .type = LT_OPT_INT,
     .offset = offsetof(config, stride),
     .fallback = "1",
     .min = 1,
     .max = 1000,
     .unit = "units",
     .help = "input units from one output unit to the next"},
    {.name = "numeric_class",
     .type = LT_OPT_STRING,
     .offset = offsetof(config, numeric_class),
     .fallback = "null",
     .help = "what results depend on; replica: each says another"},
    {.name = "sleep_ms",
     .type = LT_OPT_INT,
     .offset = offsetof(config, sleep_ms),
     .fallback = "0",
     .max = 60000,
     .unit = "ms",
     .help = "how long a unit takes",
     .cosmetic = true},
    {.name = "crash_unit",
     .type = LT_OPT_INT,
     .offset = offsetof(config, crash_unit),
     .fallback = "-1",
     .min = -1,
     .max = 1e9,
     .help = "unit that kills the process"},
    {.name = "fail_unit",
     .type = LT_OPT_INT,
     .offset = offsetof(config, fail_unit),
     .fallback = "-1",
     .min = -1,
     .max = 1e9,
     .help = "unit that cannot be made"},
    {.name = "bare_unit",
     .type = LT_OPT_INT,
     .offset = offsetof(config, bare_unit),
     .fallback = "-1",
     .min = -1,
     .max = 1e9,
     .help = "unit that needs no input"},
};

static const lt_port inputs[] = {
    {.name = "in",
     .kinds = 1u << LT__WIRE__PORT_KIND__PORT_FRAMES | 1u << LT__WIRE__PORT_KIND__PORT_WINDOWS}};
static const lt_port outputs[] = {{.name = "out", .kinds = 1u << LT__WIRE__PORT_KIND__PORT_WINDOWS}};

static uint64_t window_of(const config *config, uint32_t clip)
{
    return (uint64_t)(clip && config->later_window ? config->later_window : config->window);
}

static lt_status describe(const config *config, uint64_t window, const lt_stream *input, lt_stream *output,
                          lt_arena *arena, lt_err *err)
{
    lt_status status = lt_stream_copy(output, input, arena, err);
    if (status) return status;
    uint64_t stride = (uint64_t)config->stride;
    output->kind = LT__WIRE__PORT_KIND__PORT_WINDOWS;
    output->chunk = 0;
    output->n_units =
        input->n_units <= window ? !!input->n_units : (input->n_units - window + stride - 1) / stride + 1;
    output->windows = lt_arena_alloc(arena, sizeof *output->windows);
    if (!output->windows) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a description");
    lt__wire__windows__init(output->windows);
    output->windows->window = (uint32_t)window;
    output->windows->stride = (uint32_t)stride;
    return LT_OK;
}

static lt_status plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan, lt_err *err)
{
    const config *config = setup->config;
    plan->peak_bytes = 8 << 20;
    plan->in_flight[0] = (uint32_t)config->window + 1;
    plan->work_factor = (double)config->window / (double)config->stride;
    return describe(config, window_of(config, 0), inputs[0], plan->output, plan->arena, err);
}

static lt_status create(void **state, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    const config *config = setup->config;
    puts("a library that prints does no harm");
    fflush(stdout);
    *numeric_class = config->numeric_class;
    if (!strcmp(config->numeric_class, "replica")) *numeric_class = setup->replica ? "null-1" : "null-0";
    *state = (void *)config;
    return LT_OK;
}

static _Atomic bool is_destroyed;

/* Takes its time, in which neighbours go on asking. */
static void destroy(void *state)
{
    struct timespec pause = {0, 100000000};
    atomic_store(&is_destroyed, true);
    nanosleep(&pause, NULL);
}

static lt_status open_clip(void *state, lt_clip *clip, lt_err *err)
{
    return describe(state, window_of(state, clip->index), clip->inputs[0], clip->output, clip->arena, err);
}

static lt_status need(void *state, const lt_clip *clip, uint64_t unit, lt_need needs[LT_MAX_PORTS],
                      lt_err *err)
{
    const config *config = state;
    if (atomic_load(&is_destroyed)) abort();
    uint64_t first = unit * (uint64_t)config->stride;
    needs[0].first = first;
    needs[0].count = (int64_t)unit == config->bare_unit
                         ? 0
                         : LT_MIN(window_of(config, clip->index), clip->inputs[0]->n_units - first);
    return LT_OK;
}

static lt_status process(void *state, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                         lt_payload *output, lt_err *err)
{
    const config *config = state;
    lt_need needs[LT_MAX_PORTS];
    lt_span *span;
    lt_status status;
    uint64_t hash = unit;
    LT_TRY(misbehave(config->sleep_ms, config->crash_unit, config->fail_unit, unit, err));
    LT_TRY(need(state, clip, unit, needs, err));
    if (!inputs[0] != !needs[0].count)
        return lt_fail(err, LT_E_INTERNAL, "unit %llu comes with other inputs than it needs",
                       (unsigned long long)unit);
    for (uint64_t i = 0; i < needs[0].count; i++) {
        if (inputs[0][i].unit != needs[0].first + i)
            return lt_fail(err, LT_E_INTERNAL, "input %llu of unit %llu is another one",
                           (unsigned long long)i, (unsigned long long)unit);
        hash = hash_payload(hash, &inputs[0][i]);
    }
    /* Two runs, the second at an odd size, as windows have them. */
    size_t half = (size_t)clip->output->unit_bytes / 2;
    LT_TRY(lt_payload_add(output, unit, 1, LT__WIRE__DTYPE__DTYPE_U8, half, &span, err));
    fill_bytes(hash, span->data, half);
    LT_TRY(lt_payload_add(output, unit + 1, 1, LT__WIRE__DTYPE__DTYPE_U8, half / 2 + 1, &span, err));
    fill_bytes(~hash, span->data, half / 2 + 1);
    return LT_OK;
fail:
    return status;
}

static const lt_stage stage = {
    .kind = "null_filter",
    .help = "Hashes windows of its input, for tests.",
    .inputs = inputs,
    .n_inputs = LT_COUNT(inputs),
    .outputs = outputs,
    .n_outputs = LT_COUNT(outputs),
    .options = options,
    .n_options = LT_COUNT(options),
    .config_bytes = sizeof(config),
    .replicable = true,
    .plan = plan,
    .create = create,
    .destroy = destroy,
    .open_clip = open_clip,
    .need = need,
    .process = process,
};

int main(int argc, char **argv)
{
    return lt_stage_main(&stage, argc, argv);
}
