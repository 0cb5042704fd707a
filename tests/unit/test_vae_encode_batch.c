/* test_vae_encode_batch.c - how many frames vae_encode hands to the network at once where nobody says it: on the CPU, and on the
 * device "far" (tests/kernels/far.c), whose memory is not the host's. */
#include "tests/unit/cache_troupe.h"

#include "stages/vae_encode/vae_encode.h"
#include "tests/models/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WIDTH = 256, HEIGHT = 192, FRAMES = 19, CHUNK = 8 };

#define OPTIONS(...) ((const char *const[]){"model=" LT_MODEL, ##__VA_ARGS__, NULL})

static troupe_clip film;

/* What a plan says. */
typedef struct said {
    lt_arena arena;
    lt_stream output;
    lt_plan plan;
} said;

static lt_status make_plan(said *s, const char *const *options, const lt_stream *input, lt_err *err)
{
    *s = (said){0};
    return troupe_plan(&lt_vae_encode_stage, options, "", 2, input, &s->arena, &s->output, &s->plan, err);
}

static void must_plan(said *s, const char *const *options, const lt_stream *input)
{
    lt_err err;
    MUST(make_plan(s, options, input, &err));
}

/* The value an option has got in the plan; NULL: none. */
static const char *resolved(const said *s, const char *name)
{
    for (int i = 0; i < s->plan.n_resolved; i++)
        if (!strcmp(s->plan.resolved[i].name, name)) return s->plan.resolved[i].text;
    return NULL;
}

/* As the plan tells it; 0: it tells nothing of it. */
static int frames_at_once(const said *s)
{
    for (int i = 0; i < s->plan.n_notes; i++) {
        const char *at = strstr(s->plan.notes[i], " frames at once");
        while (at && at > s->plan.notes[i] && at[-1] >= '0' && at[-1] <= '9') at--;
        if (at) return atoi(at);
    }
    return 0;
}

/* What a replica takes of the device with so many frames at once, tiles as told. */
static uint64_t device_bytes(int batch, const char *tile)
{
    said s;
    char options[2][32];
    snprintf(options[0], 32, "batch=%d", batch);
    snprintf(options[1], 32, "tile=%s", tile);
    must_plan(&s, OPTIONS("device=far", options[0], options[1]), &film.stream);
    uint64_t bytes = s.plan.device_bytes;
    lt_arena_finish(&s.arena);
    return bytes;
}

/* The option `memory`, as text, that a replica of these bytes is just within. */
static const char *memory_for(uint64_t bytes)
{
    static char text[40];
    snprintf(text, sizeof text, "memory=%llu", (unsigned long long)(bytes + bytes / 50 + 64));
    return text;
}

/* The memory of the device, for the rest of a test. */
static void set_total(uint64_t bytes)
{
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)bytes);
    setenv("LT_FAR_TOTAL", text, 1);
}

static int usual_total(void **state)
{
    return unsetenv("LT_FAR_TOTAL");
}

static void the_cpu_takes_one(void **state)
{
    said one, any;
    must_plan(&one, OPTIONS("batch=1"), &film.stream);
    must_plan(&any, OPTIONS(), &film.stream);
    assert_int_equal(any.plan.peak_bytes, one.plan.peak_bytes);
    assert_int_equal(frames_at_once(&any), 0);
    assert_null(resolved(&any, "memory"));
    lt_arena_finish(&one.arena);
    lt_arena_finish(&any.arena);
}

static void a_device_takes_a_chunk(void **state)
{
    said s;
    must_plan(&s, OPTIONS("device=far"), &film.stream);
    assert_int_equal(frames_at_once(&s), CHUNK);
    assert_int_equal(s.plan.device_bytes, device_bytes(CHUNK, "none"));
    lt_arena_finish(&s.arena);
}

/* A chunk of many is handed over in calls of even length, none of more than 8 frames; a clip that is shorter than a chunk, whole. */
static void no_more_than_eight(void **state)
{
    static const int frames[][3] = {{40, 12, 6}, {40, 16, 8}, {40, 17, 6}, {3, 8, 3}, {40, 1, 0}, {1, 8, 0}};
    for (size_t i = 0; i < LT_COUNT(frames); i++) {
        said s;
        troupe_clip clip;
        troupe_make_clip(&clip, 64, 48, frames[i][0], frames[i][1], 8);
        must_plan(&s, OPTIONS("device=far"), &clip.stream);
        assert_int_equal(frames_at_once(&s), frames[i][2]);
        lt_arena_finish(&s.arena);
        troupe_free_clip(&clip);
    }
}

static void it_fits_into_memory(void **state)
{
    uint64_t one = device_bytes(1, "none"), all = device_bytes(CHUNK, "none");
    int last = 0;
    for (int i = 0; i <= 16; i++) {
        said s;
        uint64_t bytes = one + (all - one) * (uint64_t)i / 16;
        must_plan(&s, OPTIONS("device=far", memory_for(bytes)), &film.stream);
        int n = LT_MAX(frames_at_once(&s), 1);
        assert_string_equal(resolved(&s, "tile"), "none");
        assert_true(s.plan.device_bytes <= bytes + 64);
        assert_true(n >= last && (n == 1 || n == 2 || n == 3 || n == 4 || n == 8));
        last = n;
        lt_arena_finish(&s.arena);
    }
    assert_int_equal(last, CHUNK);
}

/* Memory is for the largest tile; what it leaves is for frames. */
static void no_tile_is_made_smaller(void **state)
{
    uint64_t whole = device_bytes(1, "none");
    for (int part = 4; part <= 7; part++) {
        said one, any;
        must_plan(&one, OPTIONS("device=far", "batch=1", memory_for(whole * (uint64_t)part / 8)),
                  &film.stream);
        must_plan(&any, OPTIONS("device=far", memory_for(whole * (uint64_t)part / 8)), &film.stream);
        assert_string_not_equal(resolved(&one, "tile"), "none");
        assert_string_equal(resolved(&any, "tile"), resolved(&one, "tile"));
        assert_true(any.plan.device_bytes <= whole * (uint64_t)part / 8 + 64);
        lt_arena_finish(&one.arena);
        lt_arena_finish(&any.arena);
    }
    /* A tile that was told leaves more. */
    said s;
    must_plan(&s, OPTIONS("device=far", "tile=64", memory_for(whole)), &film.stream);
    assert_int_equal(frames_at_once(&s), CHUNK);
    lt_arena_finish(&s.arena);
}

static void the_same_bytes(void **state)
{
    lt_err err;
    static const char *const tiles[] = {"tile=none", "tile=64"};
    for (int i = 0; i < 2; i++) {
        troupe_stage near, one, any;
        MUST(troupe_open(&near, &lt_vae_encode_stage, OPTIONS(tiles[i]), "", 2, &film.stream, &err));
        MUST(troupe_open(&one, &lt_vae_encode_stage, OPTIONS(tiles[i], "device=far", "batch=1"), "", 2,
                         &film.stream, &err));
        MUST(troupe_open(&any, &lt_vae_encode_stage, OPTIONS(tiles[i], "device=far"), "", 2, &film.stream,
                         &err));
        troupe_make_all(&near, film.chunks, false);
        troupe_make_all(&one, film.chunks, false);
        troupe_make_all(&any, film.chunks, true);
        troupe_expect_same(&near, &one);
        troupe_expect_same(&one, &any);
        assert_string_equal(one.output.digest, any.output.digest);
        troupe_close(&near);
        troupe_close(&one);
        troupe_close(&any);
    }
}

/* Memory that nobody has named is what the device has free, which is less the second time: the plan records how much it was. */
static void the_second_time_it_is_the_same(void **state)
{
    said first, again, other;
    uint64_t all = device_bytes(CHUNK, "none");
    char memory[40], tile[40];
    set_total(all * 5);
    must_plan(&first, OPTIONS("device=far"), &film.stream);
    assert_int_equal(frames_at_once(&first), CHUNK);
    assert_non_null(resolved(&first, "memory"));
    snprintf(memory, sizeof memory, "memory=%s", resolved(&first, "memory"));
    snprintf(tile, sizeof tile, "tile=%s", resolved(&first, "tile"));
    set_total(all * 2);
    must_plan(&other, OPTIONS("device=far", tile), &film.stream);
    assert_true(frames_at_once(&other) < CHUNK);
    must_plan(&again, OPTIONS("device=far", tile, memory), &film.stream);
    assert_int_equal(frames_at_once(&again), CHUNK);
    assert_int_equal(again.plan.device_bytes, first.plan.device_bytes);
    lt_arena_finish(&first.arena);
    lt_arena_finish(&again.arena);
    lt_arena_finish(&other.arena);
}

/* By default the stages on a device share it: where a decoder plans with half of it, frames at once leave a quarter. */
static void a_quarter_is_taken_unasked(void **state)
{
    said s;
    uint64_t all = device_bytes(CHUNK, "none");
    set_total(all * 3);
    must_plan(&s, OPTIONS("device=far"), &film.stream);
    assert_string_equal(resolved(&s, "tile"), "none");
    assert_true(frames_at_once(&s) > 1 && s.plan.device_bytes <= all * 3 / 4);
    lt_arena_finish(&s.arena);
}

/* More memory than the device has is no reason to take more than it has. */
static void it_fits_onto_the_device(void **state)
{
    said s;
    set_total(device_bytes(CHUNK, "none") - 1);
    must_plan(&s, OPTIONS("device=far", "memory=1T"), &film.stream);
    assert_true(frames_at_once(&s) > 1 && frames_at_once(&s) < CHUNK);
    lt_arena_finish(&s.arena);
}

/* In a run whose clips are of several sizes each takes what fits: the larger ones fewer frames. */
static void a_larger_clip_takes_fewer(void **state)
{
    said small, large;
    troupe_clip clip;
    const char *memory = memory_for(device_bytes(CHUNK, "none"));
    troupe_make_clip(&clip, 2 * WIDTH, HEIGHT, CHUNK, CHUNK, 8);
    must_plan(&small, OPTIONS("device=far", "tile=none", memory), &film.stream);
    must_plan(&large, OPTIONS("device=far", "tile=none", memory), &clip.stream);
    assert_int_equal(frames_at_once(&small), CHUNK);
    assert_true(frames_at_once(&large) > 1 && frames_at_once(&large) < CHUNK);
    troupe_free_clip(&clip);
    lt_arena_finish(&small.arena);
    lt_arena_finish(&large.arena);
}

/* Who says a number gets it. */
static void a_number_stands(void **state)
{
    said s;
    must_plan(&s, OPTIONS("device=far", "batch=3"), &film.stream);
    assert_int_equal(s.plan.device_bytes, device_bytes(3, "none"));
    assert_null(resolved(&s, "memory"));
    lt_arena_finish(&s.arena);
}

int main(void)
{
    if (access(LT_MODEL "/diffusion_pytorch_model.safetensors", R_OK)) {
        print_message("skipped: examples/tiny-svd-vae has no weights: nothing of this test ran\n");
        return 77;
    }
    support_start();
    setenv("XDG_CACHE_HOME", in_folder("digests"), 1);
    troupe_make_clip(&film, WIDTH, HEIGHT, FRAMES, CHUNK, 8);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cpu_takes_one),
        cmocka_unit_test(a_device_takes_a_chunk),
        cmocka_unit_test(no_more_than_eight),
        cmocka_unit_test(it_fits_into_memory),
        cmocka_unit_test(no_tile_is_made_smaller),
        cmocka_unit_test(the_same_bytes),
        cmocka_unit_test_teardown(the_second_time_it_is_the_same, usual_total),
        cmocka_unit_test_teardown(a_quarter_is_taken_unasked, usual_total),
        cmocka_unit_test_teardown(it_fits_onto_the_device, usual_total),
        cmocka_unit_test(a_larger_clip_takes_fewer),
        cmocka_unit_test(a_number_stands),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    troupe_free_clip(&film);
    support_finish();
    return failed;
}
