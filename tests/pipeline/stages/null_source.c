/* null_source.c - frames of bytes that follow from the seed and their number. */
#include "tests/pipeline/stages/hash.h"

#include <stdlib.h>
#include <string.h>

typedef struct config {
    int64_t frames, chunk, clips, seed, sleep_ms, crash_unit, fail_unit, fail_clip;
    lt_size size;
    bool copy, dataset;
} config;

static const lt_option options[] = {
    {.name = "frames",
     .type = LT_OPT_INT,
     .offset = offsetof(config, frames),
     .fallback = "100",
     .max = 1e6,
     .unit = "frames",
     .help = "length of a clip"},
    {.name = "chunk",
     .type = LT_OPT_INT,
     .offset = offsetof(config, chunk),
     .fallback = "4",
     .min = 1,
     .max = 1000,
     .unit = "frames",
     .help = "frames a unit"},
    {.name = "clips",
     .type = LT_OPT_INT,
     .offset = offsetof(config, clips),
     .fallback = "1",
     .max = 1000,
     .help = "how many clips there are"},
    {.name = "seed",
     .type = LT_OPT_INT,
     .offset = offsetof(config, seed),
     .fallback = "1",
     .max = 1e9,
     .help = "what the bytes follow from"},
    {.name = "size",
     .type = LT_OPT_SIZE,
     .offset = offsetof(config, size),
     .fallback = "32x24",
     .help = "of a frame"},
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
    {.name = "fail_clip",
     .type = LT_OPT_INT,
     .offset = offsetof(config, fail_clip),
     .fallback = "-1",
     .min = -1,
     .max = 1e9,
     .help = "clip that cannot be opened"},
    {.name = "dataset",
     .type = LT_OPT_BOOL,
     .offset = offsetof(config, dataset),
     .fallback = "false",
     .help = "a clip's failure is its own; what is said of it is not all text"},
    {.name = "copy",
     .type = LT_OPT_BOOL,
     .offset = offsetof(config, copy),
     .fallback = "false",
     .help = "every unit is a copy of the same bytes: what a hand-off costs"},
};

static const lt_port outputs[] = {
    {.name = "frames", .kinds = 1u << LT__WIRE__PORT_KIND__PORT_FRAMES, .help = "noise"}};

static lt_status describe(const config *config, uint32_t clip, lt_stream *stream, lt_arena *arena,
                          lt_err *err)
{
    stream->kind = LT__WIRE__PORT_KIND__PORT_FRAMES;
    stream->dtype = LT__WIRE__DTYPE__DTYPE_U8;
    stream->width = (uint32_t)config->size.width;
    stream->height = (uint32_t)config->size.height;
    stream->channels = 3;
    stream->bits = 8;
    stream->chunk = (uint32_t)config->chunk;
    stream->n_frames = (uint64_t)config->frames;
    stream->n_units = (stream->n_frames + stream->chunk - 1) / stream->chunk;
    stream->unit_bytes = (uint64_t)stream->chunk * stream->width * stream->height * 3;
    stream->time_base_num = 1;
    stream->time_base_den = 25;
    stream->last_duration = 1;
    stream->name = lt_arena_printf(arena, "clip%u", clip);
    stream->digest = lt_arena_printf(arena, "%08llx", (unsigned long long)config->seed);
    if (config->dataset) {
        stream->expendable = true;
        stream->caption = "a bird, \x7f and half a \xc3";
        stream->entry = "{\"text\":\"a bird, \x7f\"}";
        stream->key = lt_arena_printf(arena, "%02x", clip);
        if (!stream->key) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a key");
    }
    return stream->name && stream->digest ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "no memory for a name");
}

static lt_status plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan, lt_err *err)
{
    plan->peak_bytes = 8 << 20;
    return describe(setup->config, 0, plan->output, plan->arena, err);
}

static lt_status create(void **state, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    *state = (void *)setup->config;
    return LT_OK;
}

static lt_status open_clip(void *state, lt_clip *clip, lt_err *err)
{
    const config *config = state;
    if (clip->index >= config->clips) return LT_END;
    lt_status status = describe(config, clip->index, clip->output, clip->arena, err);
    if (clip->index == config->fail_clip && !status)
        status = lt_fail(err, LT_E_FORMAT, "caf\xe9/bad.mp4: is as bad as it was told to be");
    return status;
}

/* Memory that is not in a cache: 32 units of it in turn. */
static const char *copied(size_t bytes)
{
    static char *memory;
    static size_t turn;
    if (!memory) {
        memory = malloc(32 * bytes);
        if (!memory) abort();
        memset(memory, 1, 32 * bytes);
    }
    return memory + turn++ % 32 * bytes;
}

static lt_status process(void *state, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                         lt_payload *output, lt_err *err)
{
    const config *config = state;
    const lt_stream *stream = clip->output;
    uint64_t first = unit * stream->chunk, count = LT_MIN(stream->n_frames - first, stream->chunk);
    lt_span *span;
    lt_status status;
    LT_TRY(misbehave(config->sleep_ms, config->crash_unit, config->fail_unit, unit, err));
    size_t bytes = count * stream->width * stream->height * 3;
    LT_TRY(lt_payload_add(output, first, count, stream->dtype, bytes, &span, err));
    if (config->copy)
        memcpy(span->data, copied(bytes), bytes);
    else
        fill_bytes((uint64_t)config->seed << 32 ^ (uint64_t)clip->index << 24 ^ unit, span->data, bytes);
    return LT_OK;
fail:
    return status;
}

static const lt_stage stage = {
    .kind = "null_source",
    .help = "Makes frames of noise, for tests.",
    .outputs = outputs,
    .n_outputs = LT_COUNT(outputs),
    .options = options,
    .n_options = LT_COUNT(options),
    .config_bytes = sizeof(config),
    .replicable = true,
    .plan = plan,
    .create = create,
    .open_clip = open_clip,
    .process = process,
};

int main(int argc, char **argv)
{
    return lt_stage_main(&stage, argc, argv);
}
