/* test_denoise.c - the stage denoise in this process: lite-sora's own pipelines to 5e-6, and what a restart does again. */
#include "stages/digest/digest.h"
#include "stages/denoise/denoise.h"

#include "kernels/backend.h"
#include "tests/models/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 4, MAX_UNITS = 64 };

/* ---- what stages call of the runtime ------------------------------------------------------------------------------------ */

lt_status lt_payload_add(lt_payload *payload, uint64_t first, uint64_t count, Lt__Wire__Dtype dtype,
                         size_t bytes, lt_span **span, lt_err *err)
{
    size_t offset = lt_round_up(payload->bytes, LT_PAYLOAD_ALIGNMENT);
    if (payload->n_spans >= LT_MAX_SPANS || offset + bytes > payload->capacity)
        return lt_fail(err, LT_E_INTERNAL, "%zu bytes at %zu do not fit %zu", bytes, offset,
                       payload->capacity);
    *span = &payload->spans[payload->n_spans++];
    **span = (lt_span){first, count, dtype, (char *)payload->data + offset, bytes};
    payload->bytes = offset + bytes;
    return LT_OK;
}

static int n_cached;

void lt_stage_cached(const lt_clip *clip)
{
    n_cached++;
}

void lt_stage_moved(const lt_clip *clip) {}

void lt_plan_resolve(lt_plan *plan, const char *name, const char *format, ...) {}

void lt_plan_note(lt_plan *plan, const char *format, ...) {}

/* ---- evaluations are counted, and one may fail as a killed process does --------------------------------------------------- */

static int n_evaluations, dies_at = -1;

lt_tensor __real_lt_denoise(lt_context *c, lt_denoiser *denoiser, lt_tensor x, double timestep,
                            const lt_condition *condition);
lt_tensor __wrap_lt_denoise(lt_context *c, lt_denoiser *denoiser, lt_tensor x, double timestep,
                            const lt_condition *condition);

lt_tensor __wrap_lt_denoise(lt_context *c, lt_denoiser *denoiser, lt_tensor x, double timestep,
                            const lt_condition *condition)
{
    if (c->dry) return __real_lt_denoise(c, denoiser, x, timestep, condition);
    if (n_evaluations == dies_at) {
        lt_context_fail(c, LT_E_TRANSIENT, "killed");
        return LT_NONE;
    }
    n_evaluations++;
    return __real_lt_denoise(c, denoiser, x, timestep, condition);
}

/* ---- a text ------------------------------------------------------------------------------------------------------------------ */

/* Embeddings of a negative prompt and one prompt, as text_encode would give them. */
typedef struct text {
    lt_stream stream;
    Lt__Wire__Text prompts;
    double at[1];
    lt_payload units[2];
    int32_t n_tokens[2];
} text;

static void add_part(lt_payload *p, lt_tensor t)
{
    p->spans[p->n_spans++] = (lt_span){0, 1, LT__WIRE__DTYPE__DTYPE_F32, t.data, lt_tensor_bytes(&t)};
}

static lt_tensor get(const lt_safetensors *file, const char *which, const char *part)
{
    char name[64];
    lt_tensor t = LT_NONE;
    snprintf(name, sizeof name, "%s.%s", which, part);
    return lt_safetensors_get(file, name, &t, NULL) ? LT_NONE : t;
}

static double number(const lt_safetensors *file, const char *key, double otherwise)
{
    const char *value = lt_safetensors_metadata(file, key);
    return value ? atof(value) : otherwise;
}

static void make_text(text *t, const lt_safetensors *file)
{
    static const char *const which[] = {"negative", "positive"};
    *t = (text){.at = {0}};
    lt__wire__stream__init(&t->stream);
    lt__wire__text__init(&t->prompts);
    t->prompts.at = t->at, t->prompts.n_at = 1;
    for (int i = 0; i < 2; i++) {
        lt_tensor context = get(file, which[i], "context"), pooled = get(file, which[i], "pooled");
        char key[32];
        if (context.data) add_part(&t->units[i], context);
        if (pooled.data) add_part(&t->units[i], pooled);
        snprintf(key, sizeof key, "%s_tokens", which[i]);
        t->n_tokens[i] = (int32_t)number(file, key, context.data ? (double)context.shape[1] : 0);
        t->units[i].spans[t->units[i].n_spans++] =
            (lt_span){0, 1, LT__WIRE__DTYPE__DTYPE_I32, &t->n_tokens[i], sizeof(int32_t)};
        if (context.data)
            t->stream.height = (uint32_t)context.shape[1], t->stream.width = (uint32_t)context.shape[2];
        if (pooled.data) t->stream.channels = (uint32_t)pooled.shape[1];
    }
    lt_stream *s = &t->stream;
    s->kind = LT__WIRE__PORT_KIND__PORT_TEXT;
    s->dtype = LT__WIRE__DTYPE__DTYPE_F32;
    s->chunk = 1, s->n_frames = s->n_units = 2, s->unit_bytes = 1 << 20;
    s->time_base_num = s->time_base_den = 1;
    s->name = "clip", s->caption = s->source = "", s->digest = s->fingerprint = "0a0b";
    s->text = &t->prompts;
}

/* ---- a stage ------------------------------------------------------------------------------------------------------------------ */

typedef struct driven {
    lt_setup setup;
    lt_arena arena, clip_arena;
    void *state;
    lt_clip clip;
    lt_stream output;
} driven;

static void set(void *config, lt_arena *arena, const char *name, const char *format, ...)
{
    char value[512];
    va_list arguments;
    lt_err err = {0};
    va_start(arguments, format);
    vsnprintf(value, sizeof value, format, arguments);
    va_end(arguments);
    const lt_stage *stage = &lt_denoise_stage;
    must(lt_options_set(stage->options, stage->n_options, config, name, value, arena, &err), &err);
}

static void *start(driven *d, const char *model, const char *run_folder)
{
    const lt_stage *stage = &lt_denoise_stage;
    lt_err err = {0};
    *d = (driven){
        .setup = {
            .base_folder = "", .run_folder = run_folder, .cache = "", .stage = "denoise", .threads = 1}};
    void *config = lt_arena_alloc(&d->arena, stage->config_bytes);
    must(lt_options_defaults(stage->options, stage->n_options, config, stage->config_bytes, &d->arena, &err),
         &err);
    d->setup.config = config;
    set(config, &d->arena, "model", "%s/diffusion_pytorch_model.safetensors", in_folder("%s", model));
    set(config, &d->arena, "chunk", "%d", CHUNK);
    return config;
}

static void open_it(driven *d, const text *t)
{
    const char *numeric_class;
    lt_err err = {0};
    lt__wire__stream__init(&d->output);
    d->clip = (lt_clip){.inputs = {&t->stream}, .output = &d->output, .arena = &d->clip_arena};
    must(lt_denoise_stage.create(&d->state, &d->setup, &numeric_class, &err), &err);
    must(lt_denoise_stage.open_clip(d->state, &d->clip, &err), &err);
    must(lt_stream_check(&d->output, &err), &err);
    assert_true(d->output.n_units <= MAX_UNITS);
}

/* The next units up to the end, or to the one that fails; how many there are now. */
static uint64_t work(driven *d, const text *t, lt_status expected)
{
    lt_err err = {0};
    lt_status status = LT_OK;
    uint64_t unit = d->clip.first_unit;
    while (unit < d->output.n_units && status == LT_OK) {
        lt_payload out = {.capacity = lt_round_up(d->output.unit_bytes, 64)};
        lt_need needs[LT_MAX_PORTS];
        const lt_payload *inputs[LT_MAX_PORTS] = {t->units};
        assert_non_null(out.data = aligned_alloc(64, out.capacity));
        must(lt_denoise_stage.need(d->state, &d->clip, unit, needs, &err), &err);
        assert_int_equal(needs[LT_DENOISE_TEXT].count, 2);
        status = lt_denoise_stage.process(d->state, &d->clip, unit, inputs, &out, &err);
        if (status == LT_OK) unit++;
        free(out.data);
    }
    if (status != expected) fail_msg("%s", err.text);
    return unit;
}

static void close_it(driven *d)
{
    const char *result;
    lt_err err = {0};
    must(lt_denoise_stage.finish_clip(d->state, &d->clip, true, &result, &err), &err);
    lt_denoise_stage.destroy(d->state);
    lt_arena_finish(&d->clip_arena);
    lt_arena_finish(&d->arena);
}

/* ---- what is in the cache --------------------------------------------------------------------------------------------------- */

typedef struct reading {
    float *to; /* [C,T,h,w], as the reference has it */
    int64_t n_frames;
} reading;

static lt_status take_chunk(void *user, const lt_cache_chunk *chunk, lt_err *err)
{
    reading *r = user;
    const int64_t *s = chunk->latent.shape;
    int64_t plane = s[2] * s[3];
    for (int64_t t = 0; t < s[0]; t++)
        for (int64_t c = 0; c < s[1]; c++)
            memcpy(r->to + (c * r->n_frames + chunk->first + t) * plane,
                   (const float *)chunk->latent.data + (t * s[1] + c) * plane, (size_t)plane * sizeof(float));
    return LT_OK;
}

static void read_kept(const char *run_folder, float *to)
{
    lt_cache *cache;
    lt_err err = {0};
    lt_cache_summary clip = {0};
    char folder[512];
    snprintf(folder, sizeof folder, "%s/denoise.cache", run_folder);
    must(lt_cache_open(&cache, folder, false, 0, &err), &err);
    must(lt_cache_next_clip(cache, &clip, &err), &err);
    assert_int_equal(clip.state, LT_CACHE_COMPLETE);
    reading r = {to, clip.n_frames};
    for (int64_t first = 0; first < clip.n_frames; first += clip.chunk)
        must(lt_cache_read(cache, clip.clip, clip.digest, first, take_chunk, &r, &err), &err);
    void *bytes;
    size_t n_bytes;
    assert_int_equal(lt_cache_get_progress(cache, clip.clip, clip.digest, &bytes, &n_bytes, &err),
                     LT_E_NOT_FOUND);
    lt_cache_close(cache);
}

/* ---- tests -------------------------------------------------------------------------------------------------------------------- */

/* 20 steps with lite-sora's initial noise and guidance: the latents that its own pipeline hands to the decoder. */
static void check_pipeline(const char *name, double scaling, int factor)
{
    char path[512], model[64], noise_path[512], run_folder[512];
    lt_safetensors *file;
    lt_tensor noise, latents;
    lt_err err = {0};
    text t;
    driven d;
    snprintf(path, sizeof path, LT_FIXTURES "/pipeline/%s.safetensors", name);
    must(lt_safetensors_open(&file, path, &err), &err);
    must(lt_safetensors_get(file, "noise", &noise, &err), &err);
    must(lt_safetensors_get(file, "latents", &latents, &err), &err);
    snprintf(model, sizeof model, "denoiser/%s", lt_safetensors_metadata(file, "model"));
    synthetic_write(model, in_folder("%s", name), &(synthetic){0});
    snprintf(noise_path, sizeof noise_path, "%s", in_folder("%s-noise.safetensors", name));
    snprintf(run_folder, sizeof run_folder, "%s", in_folder("%s-run", name));
    must(lt_safetensors_write(noise_path, &(lt_named_tensor){"noise", noise}, 1, NULL, 0, &err), &err);
    make_text(&t, file);
    void *config = start(&d, name, run_folder);
    set(config, &d.arena, "initial_noise", "%s", noise_path);
    set(config, &d.arena, "steps", "%s", lt_safetensors_metadata(file, "steps"));
    set(config, &d.arena, "cfg_scale", "%s", lt_safetensors_metadata(file, "cfg_scale"));
    set(config, &d.arena, "start_sec", "%g", number(file, "start_sec", 0));
    set(config, &d.arena, "end_sec", "%g", number(file, "end_sec", 0));
    set(config, &d.arena, "frames", "%d", (int)noise.shape[2]);
    set(config, &d.arena, "size", "%dx%d", (int)noise.shape[4] * factor, (int)noise.shape[3] * factor);
    open_it(&d, &t);
    work(&d, &t, LT_OK);
    close_it(&d);
    int64_t n = lt_n_elements(&latents);
    float *got = malloc((size_t)n * sizeof *got);
    read_kept(run_folder, got);
    for (int64_t i = 0; i < n; i++) got[i] = (float)(got[i] * scaling);
    check_close(name, got, latents.data, n, 5e-6);
    free(got);
    lt_safetensors_close(file);
}

static void lite_soras_pipelines(void **state)
{
    check_pipeline("pixel_dit", 1, 1);
    check_pipeline("latent_dit", 0.18215, 8);
    check_pipeline("pixart_video", 0.18215, 8);
    check_pipeline("sdxl_3d", 0.18215, 8);
}

/* A long video, killed at an evaluation: the rest costs what is left and at most a diagonal, and gives the same bytes. */
static void a_restart_redoes_at_most_a_diagonal(void **state)
{
    enum { STEPS = 5, FRAMES = 40, ELEMENTS = 4 * 6 * 8 };
    lt_safetensors *file;
    lt_err err = {0};
    text t;
    float *expected = malloc(FRAMES * ELEMENTS * sizeof *expected),
          *got = malloc(FRAMES * ELEMENTS * sizeof *got);
    int whole = 0;
    must(lt_safetensors_open(&file, LT_FIXTURES "/pipeline/latent_dit.safetensors", &err), &err);
    synthetic_write("denoiser/video_dit_v2", in_folder("long"), &(synthetic){0});
    make_text(&t, file);
    for (int death = -1; death < STEPS * 9; death = death < 0 ? 3 : death + 7) {
        char run_folder[512];
        snprintf(run_folder, sizeof run_folder, "%s", in_folder("long-%d", death));
        n_evaluations = 0, dies_at = death, n_cached = 0;
        for (uint64_t made = 0; made < FRAMES / CHUNK;) {
            driven d;
            void *config = start(&d, "long", run_folder);
            set(config, &d.arena, "steps", "%d", STEPS);
            set(config, &d.arena, "frames", "%d", FRAMES);
            set(config, &d.arena, "size", "64x48");
            set(config, &d.arena, "window", "8");
            open_it(&d, &t);
            assert_int_equal(d.clip.first_unit, made);
            made = work(&d, &t, dies_at >= 0 ? LT_E_TRANSIENT : LT_OK);
            dies_at = -1;
            close_it(&d);
        }
        read_kept(run_folder, death < 0 ? expected : got);
        if (death < 0) whole = n_evaluations;
        printf("killed at %d: %d evaluations\n", death, n_evaluations);
        assert_true(n_evaluations <= whole + STEPS);
        if (death >= 0) assert_memory_equal(got, expected, FRAMES * ELEMENTS * sizeof *got);
    }
    assert_int_equal(whole, STEPS * 9);
    lt_safetensors_close(file);
    free(expected);
    free(got);
}

/* What a schedule's latents are kept under. */
static void schedule_digest(const char *spacing, int steps, char digest[33], char plain[33])
{
    static double numbers[2 * LT_DDIM_MAX_STEPS + 1];
    lt_err err = {0};
    char text[1024];
    driven d;
    lt_denoise_model m;
    void *config = start(&d, "schedules", "");
    set(config, &d.arena, "steps", "%d", steps);
    set(config, &d.arena, "spacing", "%s", spacing);
    must(lt_denoise_model_open(&m, config, 1, &err), &err);
    snprintf(digest, 33, "%s", m.digest);
    size_t n = (size_t)m.ddim.n_steps;
    memcpy(numbers, m.ddim.timesteps, n * sizeof *numbers);
    memcpy(numbers + n, m.ddim.alphas, (n + 1) * sizeof *numbers);
    lt_digest(numbers, (2 * n + 1) * sizeof *numbers, plain);
    snprintf(text, sizeof text,
             "denoise 1 %s kind %d numerics %d steps %d %s predict 0 f32 %s epoch %d noise ", m.info->digest,
             (int)m.info->kind, (int)m.info->numerics, steps, plain, m.dry->numeric_class,
             m.dry->backend->numeric_epoch);
    lt_digest(text, strlen(text), plain);
    lt_denoise_model_close(&m);
    lt_arena_finish(&d.arena);
}

/* Lists of equal timesteps whose steps end elsewhere are other schedules; keys from before that was told stay what they were. */
static void schedules_have_digests_of_their_own(void **state)
{
    synthetic_write("denoiser/video_dit_v2", in_folder("schedules"), &(synthetic){0});
    static const int steps[] = {10, 20, 60};
    for (size_t i = 0; i < LT_COUNT(steps); i++) {
        char lite[33], linspace[33], leading[33], plain[33];
        schedule_digest("linspace", steps[i], linspace, plain);
        assert_string_not_equal(linspace, plain);
        schedule_digest("lite-sora", steps[i], lite, plain);
        assert_string_equal(lite, plain);
        assert_string_not_equal(lite, linspace);
        schedule_digest("leading", steps[i], leading, plain);
        assert_string_equal(leading, plain);
    }
}

/* Parts of prompts add up to 1 at any time, and follow each other. */
static void prompts_fade_into_each_other(void **state)
{
    const double at[] = {0, 2, 2.5, 10};
    for (double s = 0; s < 14; s += 0.03) {
        double all = 0;
        for (size_t i = 0; i < 4; i++) {
            double part = lt_denoise_prompt_weight(at, 4, 1, s, i);
            assert_true(part >= 0 && part <= 1);
            all += part;
        }
        assert_true(all > 1 - 1e-12 && all < 1 + 1e-12);
    }
    assert_true(lt_denoise_prompt_weight(at, 4, 1, 1.99, 0) == 1);
    assert_true(lt_denoise_prompt_weight(at, 4, 1, 10.25, 3) == 0.25);
    assert_true(lt_denoise_prompt_weight(at, 4, 1, 12, 3) == 1);
    assert_true(lt_denoise_prompt_weight(at, 4, 0, 2, 1) == 1);
    assert_true(lt_denoise_prompt_weight(at, 4, 0, 1.999, 0) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(lite_soras_pipelines),
                                       cmocka_unit_test(a_restart_redoes_at_most_a_diagonal),
                                       cmocka_unit_test(schedules_have_digests_of_their_own),
                                       cmocka_unit_test(prompts_fade_into_each_other)};
    support_start();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
