/* test_wavefront.c - the wavefront against a plain loop over steps and windows, bit for bit; its memory; its frontier. */
#include "tests/models/support.h"

#include "models/wavefront.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ELEMENTS = 6 };

/* ---- a network that is none: every prediction depends on all frames of its window, the step and the place ----------- */

static void predict_plain(int64_t n, int step, const float *x, float *prediction)
{
    for (int e = 0; e < ELEMENTS; e++) {
        double mean = 0;
        for (int64_t f = 0; f < n; f++) mean += x[f * ELEMENTS + e];
        mean /= (double)n;
        for (int64_t f = 0; f < n; f++)
            prediction[f * ELEMENTS + e] = (float)(sin(x[f * ELEMENTS + e] * (1 + 0.1 * step)) + 0.3 * mean +
                                                   0.05 * (double)f / (double)n);
    }
}

static float noise_at(int64_t f, int e)
{
    return (float)sin(12.9898 * (double)f + 78.233 * e + 0.5) * 1.7f;
}

static void factors(int steps, double *a, double *b)
{
    for (int s = 0; s < steps; s++) {
        a[s] = 1.02 + 0.001 * s;
        b[s] = -0.4 / steps - 0.003 * s;
    }
}

typedef struct counts {
    int64_t entered, evaluations, fails_at;
    const lt_wavefront_params *p;
} counts;

static lt_status enter(void *user, int64_t first, int64_t n, float *x, lt_err *err)
{
    counts *c = user;
    assert_int_equal(first, c->entered); /* every frame once, in order */
    c->entered += n;
    for (int64_t i = 0; i < n; i++)
        for (int e = 0; e < ELEMENTS; e++) x[i * ELEMENTS + e] = noise_at(first + i, e);
    return LT_OK;
}

static lt_status predict(void *user, int64_t k, int step, int64_t first, int64_t n, const float *x,
                         float *prediction, lt_err *err)
{
    counts *c = user;
    int64_t a, b;
    lt_wavefront_window(c->p, k, &a, &b);
    assert_true(first == a && n == b - a);
    if (c->evaluations == c->fails_at) return lt_fail(err, LT_E_NUMERIC, "step %d, window %d", step, (int)k);
    c->evaluations++;
    predict_plain(n, step, x, prediction);
    return LT_OK;
}

/* ---- the plain loop: the whole sequence, step by step ---------------------------------------------------------------- */

static float *plain_loop(int64_t T, int64_t W, int64_t S, int steps)
{
    double a[64], b[64];
    size_t n = (size_t)T * ELEMENTS;
    float *x = malloc(n * sizeof *x), *average = malloc(n * sizeof *x), *one = malloc(n * sizeof *x);
    if (W == 0 || W > T) W = T;
    int64_t n_windows = W == T ? 1 : 1 + (T - W + S - 1) / S;
    factors(steps, a, b);
    for (int64_t f = 0; f < T; f++)
        for (int e = 0; e < ELEMENTS; e++) x[f * ELEMENTS + e] = noise_at(f, e);
    for (int s = 0; s < steps; s++) {
        memset(average, 0, n * sizeof *average);
        for (int64_t k = 0; k < n_windows; k++) {
            int64_t start = k * S + W > T ? T - W : k * S;
            predict_plain(W, s, x + start * ELEMENTS, one);
            for (int64_t f = start; f < start + W; f++) {
                double mine = 0, all = 0;
                for (int64_t j = 0; j < n_windows; j++) {
                    int64_t i = f - (j * S + W > T ? T - W : j * S);
                    if (i < 0 || i >= W) continue;
                    double weight =
                        fmin(fmin((double)(i + 1), (double)(W - i)), W == T ? 1 : (double)(W - S + 1));
                    all += weight;
                    if (j == k) mine = weight;
                }
                for (int e = 0; e < ELEMENTS; e++) {
                    float *to = &average[f * ELEMENTS + e];
                    *to = (float)(*to + mine / all * one[(f - start) * ELEMENTS + e]);
                }
            }
        }
        for (size_t i = 0; i < n; i++) x[i] = (float)(a[s] * x[i] + b[s] * average[i]);
    }
    free(average);
    free(one);
    return x;
}

/* ---- the wavefront ---------------------------------------------------------------------------------------------------- */

static lt_wavefront *open_wavefront(const lt_wavefront_params *p, counts *c)
{
    double a[64], b[64];
    lt_wavefront *w = NULL;
    lt_err err = {0};
    lt_wavefront_calls calls = {.user = c, .enter = enter, .predict = predict};
    factors(p->steps, a, b);
    *c = (counts){.p = p, .fails_at = -1};
    must(lt_wavefront_create(&w, p, a, b, &calls, &err), &err);
    return w;
}

/* Replace w by what its frontier says, as after a kill. */
static lt_wavefront *reopen(lt_wavefront *w, const lt_wavefront_params *p, counts *c)
{
    void *bytes;
    size_t n_bytes;
    lt_err err = {0};
    counts before = *c;
    must(lt_wavefront_save(w, &bytes, &n_bytes, &err), &err);
    lt_wavefront_destroy(w);
    w = open_wavefront(p, c);
    *c = before;
    must(lt_wavefront_load(w, bytes, n_bytes, &err), &err);
    free(bytes);
    return w;
}

/* Largest number of frames under live evaluations, measured between them. */
typedef struct measure {
    int64_t most_held, first_evaluations;
} measure;

/* All frames chunk by chunk, killed at every `kill_every`-th evaluation (0: never). */
static float *run(const lt_wavefront_params *p, int64_t chunk, int kill_every, measure *m)
{
    counts c;
    lt_err err = {0};
    lt_wavefront *w = open_wavefront(p, &c);
    float *x = malloc((size_t)p->n_frames * ELEMENTS * sizeof *x);
    *m = (measure){0};
    for (int64_t first = 0; first < p->n_frames; first += chunk) {
        int64_t end = LT_MIN(first + chunk, p->n_frames);
        lt_status status;
        while ((status = lt_wavefront_evaluate(w, end, NULL, &err)) == LT_OK) {
            m->most_held = LT_MAX(m->most_held, lt_wavefront_held(w));
            if (!m->first_evaluations && lt_wavefront_finished(w)) m->first_evaluations = c.evaluations;
            if (kill_every && c.evaluations % kill_every == 0) w = reopen(w, p, &c);
        }
        assert_int_equal(status, LT_END);
        assert_true(lt_wavefront_entered(w) <= lt_wavefront_entered_for(p, end));
        must(lt_wavefront_read(w, first, end - first, x + first * ELEMENTS, &err), &err);
        lt_wavefront_release(w, end);
    }
    assert_int_equal(c.entered, p->n_frames);
    assert_int_equal(c.evaluations, lt_wavefront_n_evaluations(p));
    lt_wavefront_destroy(w);
    return x;
}

static void check_case(int64_t T, int64_t W, int64_t S, int steps, int64_t chunk)
{
    lt_wavefront_params p = {.n_frames = T,
                             .window = W,
                             .stride = S,
                             .steps = steps,
                             .unreleased = chunk,
                             .frame_elements = ELEMENTS};
    measure m;
    float *expected = plain_loop(T, W, S, steps);
    for (int kill_every = 0; kill_every <= 3; kill_every += 3) {
        float *got = run(&p, chunk, kill_every, &m);
        if (memcmp(got, expected, (size_t)T * ELEMENTS * sizeof *got))
            fail_msg("T %d, window %d, stride %d, %d steps, chunk %d: other bytes than the plain loop",
                     (int)T, (int)W, (int)S, steps, (int)chunk);
        free(got);
        assert_int_equal(m.first_evaluations, lt_wavefront_first_evaluations(&p));
        assert_true(m.most_held <= lt_wavefront_live(&p));
    }
    free(expected);
}

static void the_bytes_of_a_plain_loop(void **state)
{
    uint32_t seed = 7;
    for (int i = 0; i < 1000; i++) {
        int64_t number[5];
        for (int j = 0; j < 5; j++) {
            seed = seed * 1664525 + 1013904223;
            number[j] = seed >> 8;
        }
        int64_t W = 1 + number[0] % 12, S = 1 + number[1] % W;
        check_case(1 + number[2] % 50, W, S, 1 + (int)(number[3] % 9), 1 + number[4] % 9);
    }
    check_case(37, 0, 0, 6, 8);   /* the whole sequence */
    check_case(12, 12, 5, 3, 5);  /* exactly a window */
    check_case(13, 12, 12, 3, 5); /* the last window all but covers the one before */
    check_case(64, 8, 1, 4, 8);   /* every frame under eight windows */
    check_case(200, 8, 4, 20, 8);
}

/* However long the video, and no more than the formula of DESIGN.md where the stride divides the window. */
static void memory_does_not_grow_with_length(void **state)
{
    measure m[2];
    int64_t lengths[2] = {404, 8004};
    lt_wavefront_params p = {
        .window = 8, .stride = 4, .steps = 20, .unreleased = 8, .frame_elements = ELEMENTS};
    size_t bytes[2];
    for (int i = 0; i < 2; i++) {
        p.n_frames = lengths[i];
        free(run(&p, 8, 0, &m[i]));
        bytes[i] = lt_wavefront_bytes(&p);
    }
    printf("100 and 2,000 windows: %d and %d latents held, first frames after %d and %d evaluations\n",
           (int)m[0].most_held, (int)m[1].most_held, (int)m[0].first_evaluations,
           (int)m[1].first_evaluations);
    assert_int_equal(lt_wavefront_n_windows(&p), 2000);
    assert_int_equal(bytes[0], bytes[1]);
    assert_int_equal(m[0].most_held, m[1].most_held);
    assert_int_equal(m[0].first_evaluations, m[1].first_evaluations);
    int64_t formula = 20 * (8 - 4) + 8;
    assert_true(m[1].most_held <= formula + 8);
    assert_int_equal(m[1].first_evaluations, 20 * 21 / 2);
}

/* A diagonal is a window for every step: what a restart does again. */
static void a_diagonal_is_a_window_a_step(void **state)
{
    counts c;
    lt_err err = {0};
    lt_wavefront_params p = {.n_frames = 400,
                             .window = 8,
                             .stride = 4,
                             .steps = 10,
                             .unreleased = 400,
                             .frame_elements = ELEMENTS};
    lt_wavefront *w = open_wavefront(&p, &c);
    int64_t longest = 0, since = 0;
    bool ended;
    while (lt_wavefront_evaluate(w, 400, &ended, &err) == LT_OK) {
        since++;
        longest = LT_MAX(longest, since);
        if (ended) since = 0;
    }
    assert_int_equal(longest, 10);
    lt_wavefront_destroy(w);
}

static void a_failed_prediction_changes_nothing(void **state)
{
    counts c;
    lt_err err = {0};
    measure m;
    lt_wavefront_params p = {
        .n_frames = 30, .window = 8, .stride = 4, .steps = 4, .unreleased = 30, .frame_elements = ELEMENTS};
    float *expected = run(&p, 30, 0, &m), got[30 * ELEMENTS];
    lt_wavefront *w = open_wavefront(&p, &c);
    for (int64_t n = 0; n < lt_wavefront_n_evaluations(&p); n++) {
        c.fails_at = n;
        assert_int_equal(lt_wavefront_evaluate(w, 30, NULL, &err), LT_E_NUMERIC);
        c.fails_at = -1;
        must(lt_wavefront_evaluate(w, 30, NULL, &err), &err);
    }
    must(lt_wavefront_read(w, 0, 30, got, &err), &err);
    assert_memory_equal(got, expected, sizeof got);
    assert_int_equal(lt_wavefront_read(w, 25, 6, got, &err), LT_E_INVALID);
    lt_wavefront_release(w, 10);
    assert_int_equal(lt_wavefront_read(w, 9, 2, got, &err), LT_E_INVALID);
    lt_wavefront_destroy(w);
    free(expected);
}

static void a_frontier_of_something_else_is_refused(void **state)
{
    counts c;
    lt_err err = {0};
    lt_wavefront_params p = {
        .n_frames = 60, .window = 8, .stride = 4, .steps = 4, .unreleased = 8, .frame_elements = ELEMENTS};
    lt_wavefront *w = open_wavefront(&p, &c);
    void *bytes;
    size_t n;
    for (int i = 0; i < 9; i++) must(lt_wavefront_evaluate(w, 60, NULL, &err), &err);
    must(lt_wavefront_save(w, &bytes, &n, &err), &err);
    lt_wavefront_destroy(w);
    w = open_wavefront(&p, &c);
    assert_int_equal(lt_wavefront_load(w, bytes, n - 1, &err), LT_E_FORMAT);
    assert_int_equal(lt_wavefront_load(w, bytes, 3, &err), LT_E_FORMAT);
    ((char *)bytes)[0] ^= 1;
    assert_int_equal(lt_wavefront_load(w, bytes, n, &err), LT_E_FORMAT);
    ((char *)bytes)[0] ^= 1;
    for (size_t at = 8; at < 8 + 8 * 8 + 4 * 8; at += 8) { /* every counter, made absurd */
        int64_t saved, absurd = INT64_MAX / 3;
        memcpy(&saved, (char *)bytes + at, 8);
        memcpy((char *)bytes + at, &absurd, 8);
        assert_int_not_equal(lt_wavefront_load(w, bytes, n, &err), LT_OK);
        memcpy((char *)bytes + at, &saved, 8);
    }
    must(lt_wavefront_load(w, bytes, n, &err), &err);
    lt_wavefront_destroy(w);
    p.steps = 5;
    w = open_wavefront(&p, &c);
    assert_int_equal(lt_wavefront_load(w, bytes, n, &err), LT_E_MISMATCH);
    lt_wavefront_destroy(w);
    free(bytes);
}

static void impossible_parameters_are_refused(void **state)
{
    lt_err err = {0};
    lt_wavefront_params good = {.n_frames = 9, .window = 4, .stride = 2, .steps = 3, .frame_elements = 1},
                        bad;
    must(lt_wavefront_check(&good, &err), &err);
    bad = good, bad.stride = 5;
    assert_int_equal(lt_wavefront_check(&bad, &err), LT_E_INVALID);
    bad = good, bad.stride = 0;
    assert_int_equal(lt_wavefront_check(&bad, &err), LT_E_INVALID);
    bad = good, bad.steps = 0;
    assert_int_equal(lt_wavefront_check(&bad, &err), LT_E_INVALID);
    bad = good, bad.n_frames = 0;
    assert_int_equal(lt_wavefront_check(&bad, &err), LT_E_INVALID);
}

/* What tests/fixtures/make_wavefront_fixture.py computes with PyTorch in float64. */
static void agrees_with_pytorch(void **state)
{
    lt_safetensors *file;
    lt_err err = {0};
    lt_tensor expected;
    lt_wavefront_params p = {
        .n_frames = 29, .window = 8, .stride = 3, .steps = 7, .unreleased = 5, .frame_elements = ELEMENTS};
    measure m;
    must(lt_safetensors_open(&file, LT_FIXTURES "/wavefront/codenoise.safetensors", &err), &err);
    must(lt_safetensors_get(file, "x", &expected, &err), &err);
    assert_int_equal(lt_n_elements(&expected), 29 * ELEMENTS);
    float *got = run(&p, 5, 0, &m);
    check_close("co-denoising", got, expected.data, lt_n_elements(&expected), 1e-5);
    free(got);
    lt_safetensors_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bytes_of_a_plain_loop),
        cmocka_unit_test(memory_does_not_grow_with_length),
        cmocka_unit_test(a_diagonal_is_a_window_a_step),
        cmocka_unit_test(a_failed_prediction_changes_nothing),
        cmocka_unit_test(a_frontier_of_something_else_is_refused),
        cmocka_unit_test(impossible_parameters_are_refused),
        cmocka_unit_test(agrees_with_pytorch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
