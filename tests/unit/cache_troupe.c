/* cache_troupe.c - stages without a runtime: what the runtime would call and provide. */
#include "tests/unit/cache_troupe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static troupe_stage *current;

/* ---- what stages call of the runtime ------------------------------------------------------------------- */

lt_status lt_payload_add(lt_payload *payload, uint64_t first, uint64_t count, Lt__Wire__Dtype dtype,
                         size_t bytes, lt_span **span, lt_err *err)
{
    size_t offset = lt_round_up(payload->bytes, LT_PAYLOAD_ALIGNMENT);
    if (payload->n_spans >= LT_MAX_SPANS || !count || offset + bytes > payload->capacity)
        return lt_fail(err, LT_E_INTERNAL, "%zu bytes at %zu do not fit %zu", bytes, offset,
                       payload->capacity);
    *span = &payload->spans[payload->n_spans++];
    **span = (lt_span){first, count, dtype, (char *)payload->data + offset, bytes};
    payload->bytes = offset + bytes;
    return LT_OK;
}

void lt_stage_cached(const lt_clip *clip)
{
    assert_ptr_equal(clip, &current->clip);
    current->n_cached++;
}

void lt_plan_resolve(lt_plan *plan, const char *name, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    plan->resolved[plan->n_resolved].name = name;
    plan->resolved[plan->n_resolved++].text = lt_arena_strdup(plan->arena, text);
}

void lt_plan_note(lt_plan *plan, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    plan->notes[plan->n_notes++] = lt_arena_strdup(plan->arena, text);
}

/* ---- a clip -------------------------------------------------------------------------------------------- */

static void *filled_with(size_t bytes, int byte)
{
    void *data = aligned_alloc(64, lt_round_up(LT_MAX(bytes, (size_t)1), 64));
    if (!data) abort();
    return memset(data, byte, lt_round_up(LT_MAX(bytes, (size_t)1), 64));
}

static void make_frame(void *pixels, int width, int height, int bits, int frame)
{
    uint32_t seed = 77 + (uint32_t)frame * 2654435761u;
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            for (int c = 0; c < 3; c++) {
                seed = seed * 1664525 + 1013904223;
                int value = (x * (c + 1) * 2 + y * (3 - c) + frame * 5 + (int)(seed >> 27)) % 256;
                size_t at = (size_t)((y * width + x) * 3 + c);
                if (bits > 8)
                    ((uint16_t *)pixels)[at] = (uint16_t)(value * 257);
                else
                    ((uint8_t *)pixels)[at] = (uint8_t)value;
            }
        }
    }
}

static void describe_clip(troupe_clip *clip, int width, int height, int n_frames, int chunk, int bits)
{
    lt_stream *s = &clip->stream;
    lt__wire__stream__init(s);
    lt__wire__picture__init(&clip->picture);
    clip->picture.width = (uint32_t)width - 1, clip->picture.height = (uint32_t)height;
    clip->picture.sample_aspect_num = clip->picture.sample_aspect_den = 1;
    clip->deltas = malloc((size_t)n_frames * sizeof *clip->deltas);
    for (int i = 0; i < n_frames; i++) clip->deltas[i] = 512 + i % 3;
    s->kind = LT__WIRE__PORT_KIND__PORT_FRAMES;
    s->dtype = bits > 8 ? LT__WIRE__DTYPE__DTYPE_U16 : LT__WIRE__DTYPE__DTYPE_U8;
    s->width = (uint32_t)width, s->height = (uint32_t)height, s->channels = 3, s->bits = (uint32_t)bits;
    s->chunk = (uint32_t)chunk, s->n_frames = (uint64_t)n_frames,
    s->n_units = (uint64_t)((n_frames - 1) / chunk + 1);
    s->unit_bytes = (uint64_t)chunk * (uint64_t)(width * height * 3 * (bits > 8 ? 2 : 1));
    s->time_base_num = 1, s->time_base_den = 12800, s->last_duration = 512;
    s->pts_delta = clip->deltas, s->n_pts_delta = (size_t)n_frames;
    s->picture = &clip->picture;
    s->name = "clip", s->source = "made up", s->caption = "noise", s->fingerprint = "0badcafe",
    s->digest = "0123456789abcdef";
}

void troupe_make_clip(troupe_clip *clip, int width, int height, int n_frames, int chunk, int bits)
{
    *clip = (troupe_clip){0};
    describe_clip(clip, width, height, n_frames, chunk, bits);
    clip->chunks = calloc(clip->stream.n_units, sizeof *clip->chunks);
    size_t frame = (size_t)(width * height * 3 * (bits > 8 ? 2 : 1));
    for (uint64_t u = 0; u < clip->stream.n_units; u++) {
        int first = (int)u * chunk, n = LT_MIN(chunk, n_frames - first);
        lt_payload *p = &clip->chunks[u];
        p->data = filled_with((size_t)n * frame, 0);
        p->capacity = p->bytes = (size_t)n * frame;
        p->n_spans = 1;
        p->spans[0] = (lt_span){(uint64_t)first, (uint64_t)n, clip->stream.dtype, p->data, p->bytes};
        for (int i = 0; i < n; i++)
            make_frame((char *)p->data + (size_t)i * frame, width, height, bits, first + i);
    }
}

void troupe_free_clip(troupe_clip *clip)
{
    for (uint64_t u = 0; u < clip->stream.n_units; u++) free(clip->chunks[u].data);
    free(clip->chunks);
    free(clip->deltas);
}

/* ---- a stage ------------------------------------------------------------------------------------------- */

static lt_status configure(const lt_stage *stage, const char *const *options, lt_arena *arena,
                           const void **out, lt_err *err)
{
    void *config = lt_arena_alloc(arena, stage->config_bytes);
    lt_status status =
        lt_options_defaults(stage->options, stage->n_options, config, stage->config_bytes, arena, err);
    for (; *options && !status; options++) {
        char name[64];
        const char *equals = strchr(*options, '=');
        snprintf(name, sizeof name, "%.*s", (int)(equals - *options), *options);
        status = lt_options_set(stage->options, stage->n_options, config, name, equals + 1, arena, err);
    }
    *out = config;
    return status;
}

lt_status troupe_open(troupe_stage *t, const lt_stage *stage, const char *const *options, const char *cache,
                      int threads, const lt_stream *input, lt_err *err)
{
    const char *numeric_class;
    *t = (troupe_stage){.stage = stage,
                        .setup = {.base_folder = "", .run_folder = "", .cache = cache, .stage = stage->kind}};
    t->setup.threads = threads;
    lt__wire__stream__init(&t->output);
    t->clip = (lt_clip){.inputs = {input}, .output = &t->output, .arena = &t->clip_arena};
    lt_status status = configure(stage, options, &t->arena, &t->setup.config, err);
    if (status == LT_OK) status = stage->create(&t->state, &t->setup, &numeric_class, err);
    if (status == LT_OK) status = stage->open_clip(t->state, &t->clip, err);
    if (status == LT_OK) status = lt_stream_check(&t->output, err);
    if (status) {
        troupe_close(t);
        return status;
    }
    assert_string_equal(t->output.numeric_class, numeric_class);
    t->units = calloc(t->output.n_units, sizeof *t->units);
    return LT_OK;
}

lt_status troupe_make(troupe_stage *t, uint64_t unit, const lt_payload *upstream, lt_err *err)
{
    lt_need needs[LT_MAX_PORTS] = {{0, 0}};
    current = t;
    lt_status status = t->stage->need(t->state, &t->clip, unit, needs, err);
    if (status) return status;
    t->n_needed += (int)needs[0].count;
    const lt_payload *inputs[LT_MAX_PORTS] = {needs[0].count ? &upstream[needs[0].first] : NULL};
    lt_payload *p = &t->units[unit];
    free(p->data);
    *p = (lt_payload){.unit = unit, .capacity = lt_round_up(t->output.unit_bytes, 64)};
    p->data = filled_with(p->capacity, 0xa5);
    return t->stage->process(t->state, &t->clip, unit, inputs, p, err);
}

void troupe_make_all(troupe_stage *t, const lt_payload *upstream, bool backwards)
{
    lt_err err;
    for (uint64_t i = 0; i < t->output.n_units; i++)
        if (troupe_make(t, backwards ? t->output.n_units - 1 - i : i, upstream, &err))
            fail_msg("%s", err.text);
}

void troupe_close(troupe_stage *t)
{
    const char *result;
    if (t->clip.state) t->stage->finish_clip(t->state, &t->clip, true, &result, NULL);
    if (t->state) t->stage->destroy(t->state);
    for (uint64_t i = 0; t->units && i < t->output.n_units; i++) free(t->units[i].data);
    free(t->units);
    lt_arena_finish(&t->arena);
    lt_arena_finish(&t->clip_arena);
    *t = (troupe_stage){0};
}

lt_status troupe_plan(const lt_stage *stage, const char *const *options, const char *cache, int threads,
                      const lt_stream *input, lt_arena *arena, lt_stream *output, lt_plan *plan, lt_err *err)
{
    lt_setup setup = {
        .base_folder = "", .run_folder = "", .cache = cache, .stage = stage->kind, .threads = threads};
    const lt_stream *inputs[LT_MAX_PORTS] = {input};
    *plan = (lt_plan){.arena = arena, .output = output, .work_factor = 1};
    lt__wire__stream__init(output);
    lt_status status = configure(stage, options, arena, &setup.config, err);
    if (status == LT_OK) status = stage->plan(&setup, inputs, plan, err);
    if (status == LT_OK) status = lt_stream_check(output, err);
    return status;
}

void troupe_expect_same(const troupe_stage *a, const troupe_stage *b)
{
    assert_int_equal(a->output.n_units, b->output.n_units);
    for (uint64_t u = 0; u < a->output.n_units; u++) {
        const lt_payload *p = &a->units[u], *q = &b->units[u];
        assert_int_equal(p->n_spans, q->n_spans);
        assert_int_equal(p->bytes, q->bytes);
        for (int i = 0; i < p->n_spans; i++) {
            assert_int_equal(p->spans[i].first, q->spans[i].first);
            assert_int_equal(p->spans[i].count, q->spans[i].count);
            assert_int_equal(p->spans[i].bytes, q->spans[i].bytes);
            if (memcmp(p->spans[i].data, q->spans[i].data, p->spans[i].bytes) != 0)
                fail_msg("unit %d, frames from %d on differ", (int)u, (int)p->spans[i].first);
        }
    }
}
