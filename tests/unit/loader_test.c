/* loader_test.c - which frames and which box decode takes, against lite-sora's own loader (tests/fixtures/make_loader_fixtures.py):
 * the rule for every value of every draw, the draws' range and distribution, and the stage from its options to its bytes. */
#include "stages/decode/decode.h"
#include "stages/video/loader.h"
#include "stages/video/resample.h"
#include "tests/unit/video_harness.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above, as it demands */
#include <cmocka.h>

static json_t *fixture;

static int64_t number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static int64_t item(const json_t *list, size_t i)
{
    return json_integer_value(json_array_get(list, i));
}

static bool is_set(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

/* ---- the rule ------------------------------------------------------------------------------------------ */

/* A draw that takes `value` of [low, high): at (0 .. 1) of the way through what does. */
static double draw_of(const json_t *drawn, double at)
{
    if (!json_is_array(drawn)) return at;
    double n = (double)(item(drawn, 1) - item(drawn, 0));
    return ((double)(item(drawn, 2) - item(drawn, 0)) + at) / n;
}

static void check_frames(const json_t *c, int64_t interval, int64_t start, const json_t *expected)
{
    assert_int_equal(json_array_size(expected), number(c, "n"));
    for (size_t i = 0; i < json_array_size(expected); i++)
        if (start + (int64_t)i * interval != item(expected, i))
            fail_msg("%lld of %lld: interval %lld from %lld, which is not frame %lld at %zu",
                     (long long)number(c, "n"), (long long)number(c, "count"), (long long)interval,
                     (long long)start, (long long)item(expected, i), i);
}

static void every_draw_takes_the_same_frames(void **state)
{
    static const double places[] = {0.001, 0.5, 0.999};
    size_t i, j, n_paths = 0;
    json_t *c, *path;
    json_array_foreach(json_object_get(fixture, "frames"), i, c)
    {
        json_array_foreach(json_object_get(c, "paths"), j, path)
        {
            for (size_t k = 0; k < LT_COUNT(places); k++) {
                int64_t interval = 1, start = -1;
                lt_loader_draws draws = {.coin = (number(path, "coin") == 1) * 0.5 + places[k] / 2,
                                         .interval = draw_of(json_object_get(path, "interval"), places[k]),
                                         .start = draw_of(json_object_get(path, "start"), places[k])};
                lt_loader_frames(&draws, is_set(c, "random_interval"), is_set(c, "random_start"),
                                 number(c, "count"), number(c, "n"), &interval, &start);
                check_frames(c, interval, start, json_object_get(path, "frames"));
            }
            n_paths++;
        }
    }
    print_message("%zu paths through the draws\n", n_paths);
    assert_true(n_paths > 100);
}

static lt_size size_of(const json_t *object, const char *key)
{
    const json_t *list = json_object_get(object, key);
    return (lt_size){(int)item(list, 0), (int)item(list, 1)};
}

static void check_box(const json_t *c, lt_loader_box box, int64_t x, int64_t y)
{
    const json_t *middle = json_object_get(c, "middle");
    lt_size picture = size_of(c, "picture"), size = size_of(c, "size");
    if (box.x != x || box.y != y || box.width != item(middle, 2) || box.height != item(middle, 3))
        fail_msg("%dx%d to %dx%d: %dx%d at %d, %d, for %dx%d at %d, %d", picture.width, picture.height,
                 size.width, size.height, box.width, box.height, box.x, box.y, (int)item(middle, 2),
                 (int)item(middle, 3), (int)x, (int)y);
}

static void every_place_cuts_the_same_box(void **state)
{
    size_t i, j, n = 0;
    json_t *c, *drawn;
    assert_int_equal(number(fixture, "bits"), 24);
    json_array_foreach(json_object_get(fixture, "boxes"), i, c)
    {
        lt_size picture = size_of(c, "picture"), size = size_of(c, "size");
        const json_t *middle = json_object_get(c, "middle");
        check_box(c, lt_loader_cut(picture.width, picture.height, 1, size, NULL), item(middle, 0),
                  item(middle, 1));
        json_array_foreach(json_object_get(c, "drawn"), j, drawn)
        {
            float place = (float)item(drawn, 0) * 0x1p-24f;
            check_box(c, lt_loader_cut(picture.width, picture.height, 1, size, &place), item(drawn, 1),
                      item(drawn, 2));
            n++;
        }
    }
    print_message("%zu places\n", n);
    assert_true(n > 500);
}

/* ---- the draws ----------------------------------------------------------------------------------------- */

enum { BINS = 64, SEEDS = 64000 };

/* Chi-squared of counts that should be equal, 63 degrees of freedom: above 120 once in 10^5; the seeds are always the same. */
static double chi_squared(const int *counts)
{
    double sum = 0, due = (double)SEEDS / BINS;
    for (int i = 0; i < BINS; i++) sum += (counts[i] - due) * (counts[i] - due) / due;
    return sum;
}

static void draws_are_uniform_and_independent(void **state)
{
    static int counts[7][BINS];
    double least = 1, most = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        lt_loader_draws draws = lt_loader_draw(seed);
        double all[] = {draws.coin, draws.interval, draws.start, draws.place};
        for (int i = 0; i < 4; i++) {
            assert_true(all[i] >= 0 && all[i] < 1);
            counts[i][(int)(all[i] * BINS)]++;
            if (i) counts[3 + i][(int)(all[i - 1] * 8) * 8 + (int)(all[i] * 8)]++;
        }
        assert_true(draws.place * 0x1p24f == (float)(int)(draws.place * 0x1p24f));
        least = LT_MIN(least, draws.place);
        most = LT_MAX(most, draws.place);
    }
    for (int i = 0; i < 7; i++)
        if (!(chi_squared(counts[i]) < 120)) fail_msg("draw %d: chi-squared %g", i, chi_squared(counts[i]));
    assert_true(least < 1e-3 && most > 1 - 1e-3);
}

/* ---- which of the paths -------------------------------------------------------------------------------- */

enum { MOST_PATHS = 128, MOST_FRAMES = 32 };

/* Which path of the case those frames are; they are one of them. */
static size_t path_of(const json_t *c, const int64_t *frames)
{
    size_t j;
    json_t *path;
    json_array_foreach(json_object_get(c, "paths"), j, path)
    {
        const json_t *expected = json_object_get(path, "frames");
        bool same = true;
        for (size_t i = 0; i < json_array_size(expected); i++) same = same && frames[i] == item(expected, i);
        if (same) return j;
    }
    fail_msg("%lld of %lld from frame %lld on: lite-sora's loader never takes those",
             (long long)number(c, "n"), (long long)number(c, "count"), (long long)frames[0]);
    return 0;
}

/* How probable a path is, by the ranges that lite-sora's loader draws from. */
static double chance_of(const json_t *path)
{
    const json_t *interval = json_object_get(path, "interval"), *start = json_object_get(path, "start");
    double chance = number(path, "coin") < 0 ? 1 : 0.5;
    if (json_is_array(interval)) chance /= (double)(item(interval, 1) - item(interval, 0));
    if (json_is_array(start)) chance /= (double)(item(start, 1) - item(start, 0));
    return chance;
}

/* Each path as often as it should be; paths of the same frames, one without a drawn interval, count together. */
static void check_chances(const json_t *c, const int *hits, int n)
{
    double sum = 0, chances[MOST_PATHS] = {0};
    size_t j, k, n_paths = 0;
    json_t *path, *other, *paths = json_object_get(c, "paths");
    json_array_foreach(paths, j, path)
    {
        json_array_foreach(paths, k, other)
        {
            if (!json_equal(json_object_get(path, "frames"), json_object_get(other, "frames"))) continue;
            chances[k] += chance_of(path);
            break;
        }
    }
    json_array_foreach(paths, j, path)
    {
        if (chances[j] == 0) continue;
        double due = chances[j] * n;
        if (!hits[j]) fail_msg("path %zu, due %g times, is never taken", j, due);
        sum += (hits[j] - due) * (hits[j] - due) / due;
        n_paths++;
    }
    double free = (double)n_paths - 1;
    if (!(sum <= free + 5 * sqrt(2 * free) + 1e-9))
        fail_msg("chi-squared %g with %g degrees of freedom", sum, free);
}

static void paths_are_taken_as_often(void **state)
{
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(fixture, "frames"), i, c)
    {
        size_t n_paths = json_array_size(json_object_get(c, "paths"));
        int hits[MOST_PATHS] = {0}, n_seeds = 200 * (int)n_paths;
        assert_true(n_paths <= MOST_PATHS && number(c, "n") <= MOST_FRAMES);
        for (int seed = 0; seed < n_seeds; seed++) {
            int64_t interval = 1, start, frames[MOST_FRAMES];
            lt_loader_draws draws = lt_loader_draw((uint64_t)seed);
            lt_loader_frames(&draws, is_set(c, "random_interval"), is_set(c, "random_start"),
                             number(c, "count"), number(c, "n"), &interval, &start);
            for (int64_t k = 0; k < number(c, "n"); k++) frames[k] = start + k * interval;
            hits[path_of(c, frames)]++;
        }
        if (n_seeds) check_chances(c, hits, n_seeds);
    }
}

/* ---- the stage ----------------------------------------------------------------------------------------- */

/* A clip whose pixels all differ, frame by frame, by its size and length. */
static const char *clip_of(int width, int height, int64_t count)
{
    static char text[300];
    snprintf(text, sizeof text,
             "lavfi:testsrc=size=%dx%d:rate=25:duration=%g,noise=alls=80:allf=t:all_seed=7", width, height,
             (double)count / 25 - 0.01);
    return text;
}

enum { MOST = 6 };

static const char *option(char text[MOST][400], int i, const char *name, const char *value)
{
    snprintf(text[i], 400, "%s=%s", name, value);
    return text[i];
}

static lt_status open_stage(lt_driver *driver, const char *clip, const char *frames, const json_t *c,
                            int seed, lt_err *err)
{
    char text[MOST][400], number_of[32];
    snprintf(number_of, sizeof number_of, "%d", seed);
    const char *options[] = {
        option(text, 0, "input", clip),
        option(text, 1, "frames", frames),
        option(text, 2, "random_interval", is_set(c, "random_interval") ? "true" : "false"),
        option(text, 3, "random_start", is_set(c, "random_start") ? "true" : "false"),
        option(text, 4, "seed", number_of),
        option(text, 5, "short", "skip"),
        NULL};
    lt_status status = lt_driver_open(driver, &lt_decode_stage, NULL, options, err);
    return status ? status : lt_driver_open_clip(driver, NULL, err);
}

/* Frames of a seed, as a path of the case. */
static size_t path_of_seed(const json_t *c, int seed)
{
    int64_t pts[MOST_FRAMES];
    lt_driver driver = {0};
    lt_err err = {0};
    char frames[16];
    snprintf(frames, sizeof frames, "%lld", (long long)number(c, "n"));
    if (open_stage(&driver, clip_of(24, 16, number(c, "count")), frames, c, seed, &err))
        fail_msg("%s", err.text);
    assert_int_equal(driver.output.n_frames, number(c, "n"));
    assert_int_equal(lt_stream_pts(&driver.output, pts, &err), LT_OK);
    lt_driver_close(&driver);
    return path_of(c, pts);
}

static void the_stage_takes_those_frames(void **state)
{
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(fixture, "frames"), i, c)
    {
        size_t n_paths = json_array_size(json_object_get(c, "paths"));
        bool hits[MOST_PATHS] = {0};
        int n_hits = 0, distinct = (int)number(c, "distinct");
        for (int seed = 0; seed < 3 * (int)n_paths; seed++) {
            size_t path = path_of_seed(c, seed);
            n_hits += !hits[path];
            hits[path] = true;
        }
        if (2 * n_hits < distinct) fail_msg("%d of %d outcomes seen", n_hits, distinct);
    }
}

static void a_clip_too_short_is_passed_over(void **state)
{
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(fixture, "frames"), i, c)
    {
        lt_driver driver = {0};
        lt_err err;
        if (json_is_array(json_object_get(c, "paths"))) continue;
        assert_int_equal(open_stage(&driver, clip_of(24, 16, number(c, "count")), "5", c, 0, &err),
                         LT_E_INVALID);
        lt_driver_close(&driver);
    }
}

/* ---- the stage's pixels -------------------------------------------------------------------------------- */

typedef struct picture {
    int width, height, stride; /* stride: pixels */
    uint8_t *rgb;
} picture;

/* The first frame as the stage gives it. */
static picture first_frame(const char *const *options)
{
    lt_driver driver;
    lt_payload payload;
    lt_err err = {0};
    lt_status status = lt_driver_open(&driver, &lt_decode_stage, NULL, options, &err);
    if (!status) status = lt_driver_open_clip(&driver, NULL, &err);
    if (!status) status = lt_driver_make(&driver, 0, &payload, &err);
    if (status) fail_msg("%s", err.text);
    const lt_stream *stream = &driver.output;
    picture picture = {(int)stream->picture->width, (int)stream->picture->height, (int)stream->width,
                       malloc(payload.spans[0].bytes)};
    memcpy(picture.rgb, payload.spans[0].data, payload.spans[0].bytes);
    lt_driver_close(&driver);
    return picture;
}

/* Whether `got` is the box of `whole`, resized. */
static bool is_box(const picture *whole, const picture *got, lt_loader_box box)
{
    lt_resample *resample;
    lt_err err;
    size_t row = 3 * (size_t)got->width;
    uint8_t *expected = malloc(row * (size_t)got->height);
    assert_int_equal(lt_resample_create(&resample, box.width, box.height, got->width, got->height, 8, &err),
                     LT_OK);
    lt_resample_run(resample, whole->rgb + 3 * ((size_t)box.y * (size_t)whole->stride + (size_t)box.x),
                    3 * (size_t)whole->stride, expected, row);
    bool same = true;
    for (int y = 0; y < got->height; y++)
        same =
            same && !memcmp(expected + row * (size_t)y, got->rgb + 3 * (size_t)got->stride * (size_t)y, row);
    free(expected);
    lt_resample_destroy(resample);
    return same;
}

/* The place of the one box of the fixture's shape that `got` is. */
static void find_box(const picture *whole, const picture *got, const json_t *c, int *x, int *y)
{
    const json_t *middle = json_object_get(c, "middle");
    lt_loader_box box = {0, 0, (int)item(middle, 2), (int)item(middle, 3)};
    int n = 0;
    for (box.y = 0; box.y + box.height <= whole->height; box.y++)
        for (box.x = 0; box.x + box.width <= whole->width; box.x++)
            if (is_box(whole, got, box)) {
                *x = box.x;
                *y = box.y;
                n++;
            }
    lt_size size = size_of(c, "size");
    if (n != 1)
        fail_msg("%dx%d to %dx%d: is no box of %dx%d", whole->width, whole->height, size.width, size.height,
                 box.width, box.height);
}

static void the_stage_cuts_those_boxes(void **state)
{
    size_t i;
    int n_moved = 0;
    json_t *c;
    json_array_foreach(json_object_get(fixture, "boxes"), i, c)
    {
        lt_size from = size_of(c, "picture"), size = size_of(c, "size");
        const json_t *middle = json_object_get(c, "middle");
        char text[MOST][400], wanted[32], seed[16];
        const char *clip = clip_of(from.width, from.height, 1);
        snprintf(wanted, sizeof wanted, "%dx%d", size.width, size.height);
        const char *plain[] = {option(text, 0, "input", clip), NULL};
        picture whole = first_frame(plain);
        for (int k = 0; k < 4; k++) { /* the middle, then places that are drawn */
            snprintf(seed, sizeof seed, "%d", k);
            const char *options[] = {option(text, 0, "input", clip),
                                     option(text, 1, "size", wanted),
                                     option(text, 2, "fit", "crop"),
                                     option(text, 3, "scaler", "pillow"),
                                     option(text, 4, "random_crop", k ? "true" : "false"),
                                     option(text, 5, "seed", seed),
                                     NULL};
            picture got = first_frame(options);
            int x = -1, y = -1;
            find_box(&whole, &got, c, &x, &y);
            if (!k)
                check_box(c, (lt_loader_box){x, y, (int)item(middle, 2), (int)item(middle, 3)},
                          item(middle, 0), item(middle, 1));
            n_moved += x != item(middle, 0) || y != item(middle, 1);
            free(got.rgb);
        }
        free(whole.rgb);
    }
    print_message("%d boxes out of the middle\n", n_moved);
    assert_true(n_moved > (int)json_array_size(json_object_get(fixture, "boxes")));
}

int main(void)
{
    json_error_t where;
    fixture = json_load_file(LT_FIXTURES "/loader.json", 0, &where);
    if (!fixture) return fprintf(stderr, "loader.json: %s\n", where.text), 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_draw_takes_the_same_frames),
                                       cmocka_unit_test(every_place_cuts_the_same_box),
                                       cmocka_unit_test(draws_are_uniform_and_independent),
                                       cmocka_unit_test(paths_are_taken_as_often),
                                       cmocka_unit_test(the_stage_takes_those_frames),
                                       cmocka_unit_test(a_clip_too_short_is_passed_over),
                                       cmocka_unit_test(the_stage_cuts_those_boxes)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(fixture);
    return failed;
}
