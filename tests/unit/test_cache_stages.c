/* test_cache_stages.c - vae_encode and vae_decode: what they give is the models' own result, whoever makes it, in
 * whatever order, from pixels or from the cache. */
#include "tests/unit/cache_troupe.h"

#include "cache/cache.h"
#include "kernels/safetensors.h"
#include "stages/record/record.h"
#include "stages/vae_decode/vae_decode.h"
#include "stages/vae_encode/vae_encode.h"
#include "tests/models/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WIDTH = 64, HEIGHT = 48, FRAMES = 11, CHUNK = 4 };

static char model_option[300] = "model=" LT_MODEL; /* what OPTIONS begins with */
#define OPTIONS(...) ((const char *const[]){model_option, ##__VA_ARGS__, NULL})

static troupe_clip film;
static char folder[] = "/tmp/longtake-cache-stages-XXXXXX";

static const char *at_folder(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* ---- encode -------------------------------------------------------------------------------------------- */

/* All frames at once through models/, f32 [n,h,w,4]; malloc'd. */
static float *encode_whole(void)
{
    lt_err err;
    lt_vae *vae;
    lt_context *context;
    lt_encode_plan plan = {.factor = 8, .height = HEIGHT, .width = WIDTH, .batch = 1};
    size_t frame = WIDTH * HEIGHT * 3, n = (size_t)FRAMES * WIDTH * HEIGHT / 64 * 4;
    uint8_t *pixels = malloc(frame * FRAMES);
    float *mean = malloc(n * sizeof *mean);
    for (int i = 0; i < FRAMES; i++)
        memcpy(pixels + (size_t)i * frame, (char *)film.chunks[i / CHUNK].data + (size_t)(i % CHUNK) * frame,
               frame);
    MUST(lt_vae_open(&vae, LT_MODEL, LT_VAE_ENCODER, LT_NUMERICS_AUTO, &err));
    MUST(lt_context_create(&context, "cpu", LT_F32, 256 << 20, 1, &err));
    lt_tensor frames = {pixels, LT_U8, 4, {FRAMES, HEIGHT, WIDTH, 3}, 0};
    MUST(lt_encode_frames(context, vae, &plan, frames, 8, mean, NULL, &err));
    lt_vae_close(vae, context);
    lt_context_destroy(context);
    free(pixels);
    return mean;
}

static void latents_are_the_models_own(void **state)
{
    lt_err err;
    troupe_stage t;
    float *expected = encode_whole();
    MUST(troupe_open(&t, &lt_vae_encode_stage, OPTIONS(), "", 2, &film.stream, &err));
    troupe_make_all(&t, film.chunks, false);
    assert_int_equal(t.output.dtype, LT__WIRE__DTYPE__DTYPE_F32);
    assert_int_equal(t.output.width, WIDTH / 8);
    assert_int_equal(t.output.height, HEIGHT / 8);
    assert_int_equal(t.output.channels, 4);
    assert_int_equal(t.output.factor, 8);
    assert_true(t.output.scaling_factor > 0);
    assert_int_equal(t.output.n_units, 3);
    const char *at = (const char *)expected;
    for (int u = 0; u < 3; u++) {
        const lt_span *span = &t.units[u].spans[0];
        assert_int_equal(span->first, u * CHUNK);
        assert_int_equal(span->bytes, span->count * t.output.width * t.output.height * 16);
        assert_memory_equal(span->data, at, span->bytes);
        at += span->bytes;
    }
    troupe_close(&t);
    free(expected);
}

static void nothing_but_the_frames_decides(void **state)
{
    lt_err err;
    troupe_stage a, b, c, d;
    MUST(troupe_open(&a, &lt_vae_encode_stage, OPTIONS(), "", 1, &film.stream, &err));
    MUST(troupe_open(&b, &lt_vae_encode_stage, OPTIONS("batch=4"), "", 2, &film.stream, &err));
    MUST(troupe_open(&d, &lt_vae_encode_stage, OPTIONS("batch=4", "logvar=true"), "", 2, &film.stream, &err));
    MUST(troupe_open(&c, &lt_vae_encode_stage, OPTIONS("tile=32"), "", 2, &film.stream, &err));
    troupe_make_all(&a, film.chunks, false);
    troupe_make_all(&b, film.chunks, true);
    troupe_make_all(&c, film.chunks, false);
    troupe_make_all(&d, film.chunks, true);
    troupe_expect_same(&a, &b);
    assert_string_equal(a.output.digest, b.output.digest);
    assert_string_not_equal(a.output.digest, c.output.digest);
    assert_string_not_equal(a.output.digest, d.output.digest);
    for (uint64_t u = 0; u < d.output.n_units; u++) {
        assert_int_equal(d.units[u].n_spans, 2);
        assert_int_equal(d.units[u].spans[1].bytes, a.units[u].spans[0].bytes);
        assert_memory_equal(d.units[u].spans[0].data, a.units[u].spans[0].data, a.units[u].spans[0].bytes);
    }
    troupe_close(&a);
    troupe_close(&b);
    troupe_close(&c);
    troupe_close(&d);
}

/* Between need and process somebody takes the clip out of the cache: another try needs its frames. */
static void what_has_left_the_cache_is_asked_for_again(void **state)
{
    lt_err err;
    troupe_stage t;
    lt_cache *cache;
    lt_need needs[LT_MAX_PORTS] = {{0, 0}};
    const lt_payload *nothing[LT_MAX_PORTS] = {NULL};
    char memory[64];
    lt_payload output = {.data = memory, .capacity = sizeof memory};
    MUST(troupe_open(&t, &lt_vae_encode_stage, OPTIONS(), at_folder("leaving"), 1, &film.stream, &err));
    troupe_make_all(&t, film.chunks, false);
    MUST(t.stage->need(t.state, &t.clip, 1, needs, &err));
    assert_int_equal(needs[0].count, 0);
    MUST(lt_cache_open(&cache, at_folder("leaving"), true, 1 << 30, &err));
    MUST(lt_cache_remove(cache, t.output.name, t.output.digest, &err));
    lt_cache_close(cache);
    assert_int_equal(t.stage->process(t.state, &t.clip, 1, nothing, &output, &err), LT_E_TRANSIENT);
    assert_non_null(strstr(err.text, "is gone from it"));
    MUST(t.stage->need(t.state, &t.clip, 1, needs, &err));
    assert_int_equal(needs[0].count, 1);
    troupe_close(&t);
}

static void check_cache(const char *dtype, int expected_chunks)
{
    lt_err err;
    troupe_stage fresh, filling, hitting;
    char option[64];
    const char *cache = at_folder("cache");
    snprintf(option, sizeof option, "cache_dtype=%s", dtype);
    MUST(troupe_open(&fresh, &lt_vae_encode_stage, OPTIONS(option), "", 2, &film.stream, &err));
    troupe_make_all(&fresh, film.chunks, false);
    MUST(troupe_open(&filling, &lt_vae_encode_stage, OPTIONS(option), cache, 2, &film.stream, &err));
    troupe_make_all(&filling, film.chunks, true);
    assert_int_equal(filling.n_cached, 0);
    troupe_expect_same(&fresh, &filling);
    troupe_close(&filling);
    MUST(troupe_open(&hitting, &lt_vae_encode_stage, OPTIONS(option, "batch=3"), cache, 1, &film.stream,
                     &err));
    troupe_make_all(&hitting, NULL, false);
    assert_int_equal(hitting.n_cached, 3);
    assert_int_equal(hitting.n_needed, 0);
    troupe_expect_same(&fresh, &hitting);
    troupe_close(&hitting);
    troupe_close(&fresh);
    lt_cache *opened;
    lt_cache_stat stat;
    int64_t faults;
    MUST(lt_cache_open(&opened, cache, false, 0, &err));
    MUST(lt_cache_get_stat(opened, &stat, &err));
    assert_int_equal(stat.chunks, expected_chunks);
    assert_int_equal(stat.complete, expected_chunks / 3);
    MUST(lt_cache_verify(opened, NULL, NULL, &faults, &err));
    assert_int_equal(faults, 0);
    lt_cache_close(opened);
}

static void the_cache_gives_the_same_bytes(void **state)
{
    check_cache("f32", 3);
    check_cache("f16", 6);
    check_cache("bf16", 9);
}

static void the_record_says_where_it_came_from(void **state)
{
    lt_err err;
    lt_cache *cache;
    lt_cache_summary summary = {0};
    lt_arena arena = {0};
    lt_cache_clip clip;
    MUST(lt_cache_open(&cache, at_folder("cache"), false, 0, &err));
    MUST(lt_cache_next_clip(cache, &summary, &err));
    MUST(lt_cache_get_clip(cache, summary.clip, summary.digest, &arena, &clip, &err));
    assert_string_equal(clip.clip, "clip");
    assert_string_equal(clip.source, "made up");
    assert_string_equal(clip.caption, "noise");
    assert_string_equal(clip.fingerprint, "0badcafe");
    assert_string_equal(clip.encoding, "tile none");
    assert_string_equal(clip.numerics, "diffusers");
    assert_string_equal(clip.made_of, film.stream.digest);
    assert_string_equal(clip.model, LT_MODEL);
    assert_int_equal(clip.picture.width, WIDTH - 1);
    assert_int_equal(clip.time_base_den, 12800);
    assert_memory_equal(clip.pts_delta, film.deltas, FRAMES * sizeof(int64_t));
    lt_cache_close(cache);
    lt_arena_finish(&arena);
}

/* One that was made on another host is left out, and that it is missed is not forgotten. */
static void a_side_file_may_be_elsewhere(void **state)
{
    lt_stream stream = film.stream;
    char here[128];
    bool missed = false;
    strcpy(here, at_folder("side"));
    stream.side_path = "";
    assert_null(lt_record_side(&stream, &missed));
    assert_false(missed);
    stream.side_path = here;
    assert_null(lt_record_side(&stream, &missed));
    assert_true(missed);
    FILE *file = fopen(here, "w");
    assert_non_null(file);
    fclose(file);
    assert_ptr_equal(lt_record_side(&stream, &missed), here);
    assert_true(missed);
}

/* ---- decode -------------------------------------------------------------------------------------------- */

/* Latents of the film, from vae_encode. */
static void open_encoder(troupe_stage *t, const char *dtype)
{
    lt_err err;
    char option[64];
    snprintf(option, sizeof option, "cache_dtype=%s", dtype);
    MUST(troupe_open(t, &lt_vae_encode_stage, OPTIONS(option), "", 2, &film.stream, &err));
    troupe_make_all(t, film.chunks, false);
}

static lt_decode_plan plan_of(const lt_stream *s, bool temporal)
{
    const Lt__Wire__Windows *w = s->windows;
    return (lt_decode_plan){.temporal = temporal,
                            .factor = (int)s->factor,
                            .height = (int)(s->height / s->factor),
                            .width = (int)(s->width / s->factor),
                            .window = (int)w->window,
                            .stride = (int)w->stride,
                            .tile_height = (int)w->tile_height,
                            .tile_width = (int)w->tile_width,
                            .stride_height = (int)w->stride_height,
                            .stride_width = (int)w->stride_width};
}

/* Values [n,H,W,3] of the whole clip by models/ alone: whole windows, blended. malloc'd. */
static float *decode_whole(const troupe_stage *latents, const lt_decode_plan *plan)
{
    lt_err err;
    lt_vae *vae;
    lt_context *context;
    lt_blend *blend;
    const lt_stream *s = &latents->output;
    size_t cells = (size_t)s->width * s->height * 4 * sizeof(float), frame = WIDTH * HEIGHT * 3;
    char *all = malloc(FRAMES * cells);
    for (uint64_t u = 0; u < s->n_units; u++)
        memcpy(all + u * CHUNK * cells, latents->units[u].spans[0].data, latents->units[u].spans[0].bytes);
    float *values = malloc(FRAMES * frame * sizeof *values), *sums = malloc(FRAMES * frame * sizeof *sums);
    MUST(lt_vae_open(&vae, model_option + 6, LT_VAE_DECODER, LT_NUMERICS_AUTO, &err));
    MUST(lt_context_create(&context, "cpu", LT_F32, 512 << 20, 1, &err));
    MUST(lt_blend_create(&blend, plan, FRAMES, 0, &err));
    int64_t taken = 0;
    for (int64_t k = 0; k < lt_decode_windows_count(plan, FRAMES); k++) {
        int64_t first, end, at;
        lt_decode_window_range(plan, FRAMES, k, &first, &end);
        lt_tensor z = {all + (size_t)first * cells, LT_F32, 4, {end - first, s->height, s->width, 4}, 0};
        MUST(lt_decode_window(context, vae, plan, FRAMES, k, z, sums, &err));
        MUST(lt_blend_add(blend, k, first, end - first, sums, &err));
        while (lt_blend_take(blend, &at, values + (size_t)taken * frame) == LT_OK)
            assert_int_equal(at, taken++);
    }
    assert_int_equal(taken, FRAMES);
    lt_blend_destroy(blend);
    lt_vae_close(vae, context);
    lt_context_destroy(context);
    free(sums);
    free(all);
    return values;
}

static uint8_t to_byte(float value, bool truncate)
{
    double v = ((double)value + 1) * 127.5;
    v = v < 0 ? 0 : v > 255 ? 255 : v;
    return (uint8_t)(truncate ? __builtin_floor(v) : __builtin_rint(v));
}

/* What mux does: blend what is shared, take the rest as it is. */
static uint8_t *blend_units(const troupe_stage *t, const lt_decode_plan *plan)
{
    lt_err err;
    lt_blend *blend;
    size_t frame = WIDTH * HEIGHT * 3;
    uint8_t *bytes = malloc(FRAMES * frame);
    float *values = malloc(frame * sizeof *values);
    int n = 0;
    MUST(lt_blend_create(&blend, plan, FRAMES, 0, &err));
    for (uint64_t k = 0; k < t->output.n_units; k++) {
        for (int i = 0; i < t->units[k].n_spans; i++) {
            const lt_span *span = &t->units[k].spans[i];
            int64_t at;
            if (span->dtype == LT__WIRE__DTYPE__DTYPE_U8) {
                memcpy(bytes + span->first * frame, span->data, span->bytes);
                n += (int)span->count;
                continue;
            }
            MUST(lt_blend_add(blend, (int64_t)k, (int64_t)span->first, (int64_t)span->count, span->data,
                              &err));
            for (; lt_blend_take(blend, &at, values) == LT_OK; n++)
                for (size_t j = 0; j < frame; j++)
                    bytes[(size_t)at * frame + j] = to_byte(values[j], t->output.windows->truncate);
        }
    }
    assert_int_equal(n, FRAMES);
    lt_blend_destroy(blend);
    free(values);
    return bytes;
}

static void check_decode(bool temporal, const char *window, const char *stride, const char *tile,
                         const char *tile_stride, int n_windows)
{
    lt_err err;
    troupe_stage latents, t, again;
    char options[4][32];
    snprintf(options[0], 32, "window=%s", window);
    snprintf(options[1], 32, "stride=%s", stride);
    snprintf(options[2], 32, "tile=%s", tile);
    snprintf(options[3], 32, "tile_stride=%s", tile_stride);
    open_encoder(&latents, "f32");
    MUST(troupe_open(&t, &lt_vae_decode_stage, OPTIONS(options[0], options[1], options[2], options[3]), "", 2,
                     &latents.output, &err));
    assert_int_equal(t.output.n_units, n_windows);
    troupe_make_all(&t, latents.units, false);
    uint64_t largest = 0;
    for (uint64_t k = 0; k < t.output.n_units; k++) largest = LT_MAX(largest, (uint64_t)t.units[k].bytes);
    assert_int_equal(largest, t.output.unit_bytes);
    MUST(troupe_open(&again, &lt_vae_decode_stage, OPTIONS(options[0], options[1], options[2], options[3]),
                     "", 1, &latents.output, &err));
    troupe_make_all(&again, latents.units, true);
    troupe_expect_same(&t, &again);
    lt_decode_plan plan = plan_of(&t.output, temporal);
    float *expected = decode_whole(&latents, &plan);
    uint8_t *got = blend_units(&t, &plan);
    int n_off = 0;
    for (size_t i = 0; i < (size_t)FRAMES * WIDTH * HEIGHT * 3; i++)
        n_off += got[i] != to_byte(expected[i], t.output.windows->truncate);
    print_message("window %s, stride %s, tile %s: %d windows, %d bytes off\n", window, stride, tile,
                  n_windows, n_off);
    assert_int_equal(n_off, 0);
    free(got);
    free(expected);
    troupe_close(&again);
    troupe_close(&t);
    troupe_close(&latents);
}

static void windows_blend_to_the_whole_decode(void **state)
{
    check_decode(true, "32", "24", "none", "auto", 1);
    check_decode(true, "6", "4", "none", "auto", 3);
    check_decode(true, "5", "2", "none", "auto", 4);
    check_decode(true, "4", "4", "none", "auto", 3);
    check_decode(true, "6", "4", "32x24", "24x16", 3);
}

/* Another family: frames alone, four pixels a cell, random weights. */
static void frames_alone_need_no_blending(void **state)
{
    char kept[sizeof model_option];
    memcpy(kept, model_option, sizeof kept);
    snprintf(model_option, sizeof model_option, "model=%s", at_folder("kl"));
    synthetic_write("kl", model_option + 6, &(synthetic){.dtype = LT_F32});
    check_decode(false, "0", "0", "none", "auto", 3);
    check_decode(false, "3", "1", "32x16", "20x12", 4);
    memcpy(model_option, kept, sizeof kept);
}

static void lite_sora_truncates(void **state)
{
    lt_err err;
    troupe_stage latents, rounded, truncated;
    int n_less = 0, n_more = 0;
    open_encoder(&latents, "f32");
    const char *const *options = OPTIONS("window=4", "stride=4", "numerics=lite-sora");
    MUST(troupe_open(&truncated, &lt_vae_decode_stage, options, "", 2, &latents.output, &err));
    MUST(troupe_open(&rounded, &lt_vae_decode_stage, OPTIONS("window=4", "stride=4"), "", 2, &latents.output,
                     &err));
    assert_true(truncated.output.windows->truncate && !rounded.output.windows->truncate);
    MUST(troupe_make(&truncated, 0, latents.units, &err));
    MUST(troupe_make(&rounded, 0, latents.units, &err));
    const uint8_t *a = truncated.units[0].spans[0].data, *b = rounded.units[0].spans[0].data;
    for (size_t i = 0; i < truncated.units[0].spans[0].bytes; i++) n_less += a[i]<b[i], n_more += a[i]> b[i];
    print_message("%d smaller, %d larger\n", n_less, n_more);
    assert_true(n_less > 1000 && n_more < n_less / 100);
    troupe_close(&truncated);
    troupe_close(&rounded);
    troupe_close(&latents);
}

static void sixteen_bits_hold_eight(void **state)
{
    lt_err err;
    troupe_stage latents, a, b;
    open_encoder(&latents, "f16");
    MUST(troupe_open(&a, &lt_vae_decode_stage, OPTIONS("bits=8"), "", 2, &latents.output, &err));
    MUST(troupe_open(&b, &lt_vae_decode_stage, OPTIONS("bits=16"), "", 2, &latents.output, &err));
    troupe_make_all(&a, latents.units, false);
    troupe_make_all(&b, latents.units, false);
    const uint8_t *small = a.units[0].spans[0].data;
    const uint16_t *large = b.units[0].spans[0].data;
    for (size_t i = 0; i < (size_t)FRAMES * WIDTH * HEIGHT * 3; i++)
        assert_true(abs((int)large[i] - small[i] * 257) <= 129);
    troupe_close(&a);
    troupe_close(&b);
    troupe_close(&latents);
}

/* ---- plans --------------------------------------------------------------------------------------------- */

static void a_plan_says_what_open_clip_will(void **state)
{
    lt_err err;
    lt_arena arena = {0};
    lt_plan plan;
    lt_stream planned, planned_windows;
    troupe_stage latents, windows;
    MUST(troupe_plan(&lt_vae_encode_stage, OPTIONS(), "", 2, &film.stream, &arena, &planned, &plan, &err));
    assert_true(plan.flops > 0 && plan.work_factor == 1 && plan.peak_bytes > 0 && plan.in_flight[0] == 2);
    assert_string_equal(plan.resolved[0].text, "none");
    MUST(troupe_open(&latents, &lt_vae_encode_stage, OPTIONS(), "", 2, &film.stream, &err));
    assert_null(lt_stream_difference(&planned, &latents.output, false));
    assert_int_equal(planned.unit_bytes, latents.output.unit_bytes);
    const char *const *options = OPTIONS("window=6", "stride=4");
    MUST(troupe_plan(&lt_vae_decode_stage, options, "", 2, &planned, &arena, &planned_windows, &plan, &err));
    assert_true(plan.in_flight[0] >= 3);
    assert_true(plan.work_factor > 1.3 && plan.work_factor < 1.4);
    MUST(troupe_open(&windows, &lt_vae_decode_stage, options, "", 2, &latents.output, &err));
    assert_null(lt_stream_difference(&planned_windows, &windows.output, false));
    for (int i = 0; i < plan.n_resolved; i++)
        print_message("%s = %s\n", plan.resolved[i].name, plan.resolved[i].text);
    for (int i = 0; i < plan.n_notes; i++) print_message("%s\n", plan.notes[i]);
    troupe_close(&windows);
    troupe_close(&latents);
    lt_arena_finish(&arena);
}

/* Less memory, smaller tiles; too little, a sentence. */
static void memory_decides_about_tiles(void **state)
{
    lt_err err;
    lt_arena arena = {0};
    lt_plan whole, cut;
    lt_stream output;
    troupe_clip large;
    char memory[64];
    troupe_make_clip(&large, 256, 192, 1, 1, 8);
    MUST(troupe_plan(&lt_vae_encode_stage, OPTIONS("memory=8G"), "", 2, &large.stream, &arena, &output,
                     &whole, &err));
    assert_string_equal(whole.resolved[0].text, "none");
    snprintf(memory, sizeof memory, "memory=%lld", (long long)(whole.peak_bytes - (4 << 20)));
    MUST(troupe_plan(&lt_vae_encode_stage, OPTIONS(memory), "", 2, &large.stream, &arena, &output, &cut,
                     &err));
    assert_true(atoi(cut.resolved[0].text) >= 64 && cut.work_factor > 1 &&
                cut.peak_bytes <= whole.peak_bytes - (4 << 20));
    print_message("%s: tile %s\n", memory, cut.resolved[0].text);
    assert_int_equal(troupe_plan(&lt_vae_encode_stage, OPTIONS("memory=1M"), "", 2, &large.stream, &arena,
                                 &output, &cut, &err),
                     LT_E_NO_MEMORY);
    assert_int_equal(troupe_plan(&lt_vae_encode_stage, OPTIONS("tile=20"), "", 2, &large.stream, &arena,
                                 &output, &cut, &err),
                     LT_E_INVALID);
    assert_non_null(strstr(err.text, "tile"));
    troupe_free_clip(&large);
    lt_arena_finish(&arena);
}

/* ---- refusals ------------------------------------------------------------------------------------------ */

static void sizes_must_be_multiples(void **state)
{
    lt_err err;
    troupe_stage t;
    troupe_clip odd;
    troupe_make_clip(&odd, 60, 48, 2, 2, 8);
    assert_int_equal(troupe_open(&t, &lt_vae_encode_stage, OPTIONS(), "", 2, &odd.stream, &err),
                     LT_E_INVALID);
    assert_non_null(strstr(err.text, "60x48"));
    troupe_free_clip(&odd);
}

/* The model with tensor `name` multiplied by `factor`, in the test's folder. */
static const char *spoiled_model(const char *label, const char *name, float factor)
{
    lt_err err;
    lt_safetensors *file;
    static char path[256];
    char command[700], option_file[300];
    lt_named_tensor tensors[512];
    float *changed = NULL;
    snprintf(path, sizeof path, "model=%s/%s", folder, label);
    snprintf(command, sizeof command, "mkdir -p %s && cp %s/config.json %s/", path + 6, LT_MODEL, path + 6);
    assert_int_equal(system(command), 0);
    MUST(lt_safetensors_open(&file, LT_MODEL "/diffusion_pytorch_model.safetensors", &err));
    int n = lt_safetensors_count(file);
    assert_true(n <= 512);
    for (int i = 0; i < n; i++) {
        tensors[i].tensor = lt_safetensors_at(file, i, &tensors[i].name);
        if (strcmp(tensors[i].name, name) != 0) continue;
        lt_tensor *t = &tensors[i].tensor;
        int64_t count = lt_n_elements(t);
        changed = malloc((size_t)count * sizeof *changed);
        for (int64_t j = 0; j < count; j++) changed[j] = factor;
        t->data = changed;
        t->dtype = LT_F32;
    }
    assert_non_null(changed);
    snprintf(option_file, sizeof option_file, "%s/diffusion_pytorch_model.safetensors", path + 6);
    MUST(lt_safetensors_write(option_file, tensors, n, NULL, 0, &err));
    lt_safetensors_close(file);
    free(changed);
    return path;
}

static void expect_failed_record(const char *cache_folder, const char *reason)
{
    lt_err err;
    lt_cache *cache;
    lt_cache_summary summary = {0};
    lt_arena arena = {0};
    lt_cache_clip clip;
    MUST(lt_cache_open(&cache, cache_folder, false, 0, &err));
    MUST(lt_cache_next_clip(cache, &summary, &err));
    assert_int_equal(summary.state, LT_CACHE_FAILED);
    assert_int_equal(summary.chunks, 0);
    MUST(lt_cache_get_clip(cache, summary.clip, summary.digest, &arena, &clip, &err));
    assert_non_null(strstr(clip.reason, reason));
    lt_cache_close(cache);
    lt_arena_finish(&arena);
}

static void what_is_not_finite_ends_the_clip(void **state)
{
    lt_err err;
    troupe_stage t;
    const char *nan[] = {spoiled_model("nan", "encoder.conv_out.weight", 3e38f), NULL};
    char cache[128];
    strcpy(cache, at_folder("nan-cache"));
    MUST(troupe_open(&t, &lt_vae_encode_stage, nan, cache, 2, &film.stream, &err));
    assert_int_equal(troupe_make(&t, 1, film.chunks, &err), LT_E_NUMERIC);
    print_message("%s\n", err.text);
    assert_non_null(strstr(err.text, "frames 4 to 7: latent is not finite at frame 4"));
    troupe_close(&t);
    expect_failed_record(cache, "frames 4 to 7");
    const char *large[] = {spoiled_model("large", "quant_conv.bias", 1e6f), "cache_dtype=f16", NULL};
    MUST(troupe_open(&t, &lt_vae_encode_stage, large, "", 2, &film.stream, &err));
    assert_int_equal(troupe_make(&t, 0, film.chunks, &err), LT_E_NUMERIC);
    assert_non_null(strstr(err.text, "too large for f16"));
    troupe_close(&t);
}

static void latents_that_are_not_finite_are_named(void **state)
{
    lt_err err;
    troupe_stage latents, t;
    open_encoder(&latents, "f32");
    MUST(
        troupe_open(&t, &lt_vae_decode_stage, OPTIONS("window=4", "stride=4"), "", 2, &latents.output, &err));
    ((float *)latents.units[1].spans[0].data)[5] = __builtin_nanf("");
    MUST(troupe_make(&t, 0, latents.units, &err));
    assert_int_equal(troupe_make(&t, 1, latents.units, &err), LT_E_NUMERIC);
    assert_non_null(strstr(err.text, "window of frames 4 to 7"));
    MUST(troupe_make(&t, 2, latents.units, &err));
    troupe_close(&t);
    troupe_close(&latents);
}

static void wrong_streams_are_refused(void **state)
{
    lt_err err;
    troupe_stage latents, t;
    open_encoder(&latents, "f32");
    assert_int_equal(troupe_open(&t, &lt_vae_encode_stage, OPTIONS(), "", 2, &latents.output, &err),
                     LT_E_INVALID);
    assert_int_equal(troupe_open(&t, &lt_vae_decode_stage, OPTIONS(), "", 2, &film.stream, &err),
                     LT_E_INVALID);
    latents.output.channels = 16;
    assert_int_equal(troupe_open(&t, &lt_vae_decode_stage, OPTIONS(), "", 2, &latents.output, &err),
                     LT_E_MISMATCH);
    assert_int_equal(troupe_open(&t, &lt_vae_encode_stage, (const char *const[]){"model=/nowhere", NULL}, "",
                                 2, &film.stream, &err),
                     LT_E_NOT_FOUND);
    troupe_close(&latents);
}

int main(void)
{
    if (access(LT_MODEL "/config.json", R_OK) != 0) {
        printf("skipped: there is no %s: 15 cases\n", LT_MODEL);
        return 77;
    }
    if (!mkdtemp(folder)) return 1;
    setenv("XDG_CACHE_HOME", at_folder("digests"), 1);
    troupe_make_clip(&film, WIDTH, HEIGHT, FRAMES, CHUNK, 8);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(latents_are_the_models_own),
        cmocka_unit_test(nothing_but_the_frames_decides),
        cmocka_unit_test(what_has_left_the_cache_is_asked_for_again),
        cmocka_unit_test(the_cache_gives_the_same_bytes),
        cmocka_unit_test(the_record_says_where_it_came_from),
        cmocka_unit_test(a_side_file_may_be_elsewhere),
        cmocka_unit_test(windows_blend_to_the_whole_decode),
        cmocka_unit_test(frames_alone_need_no_blending),
        cmocka_unit_test(lite_sora_truncates),
        cmocka_unit_test(sixteen_bits_hold_eight),
        cmocka_unit_test(a_plan_says_what_open_clip_will),
        cmocka_unit_test(memory_decides_about_tiles),
        cmocka_unit_test(sizes_must_be_multiples),
        cmocka_unit_test(what_is_not_finite_ends_the_clip),
        cmocka_unit_test(latents_that_are_not_finite_are_named),
        cmocka_unit_test(wrong_streams_are_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    troupe_free_clip(&film);
    return system(command) || failed;
}
