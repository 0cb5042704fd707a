/* check_layout.c - launchers that move elements, tiles, and colour: the place or value of each element, worked out alone. */
#include "tests/cuda_on_host/check.h"
#include "kernels/backend.h"
#include "kernels/convert.h"

#include <stdio.h>
#include <stdlib.h>

static lt_dtype draw_size(void)
{
    return (lt_dtype)ONE_OF(LT_F32, LT_BF16, LT_F16, LT_U8, LT_F64);
}

static size_t size_of(const test *t)
{
    return lt_dtype_bytes(t->out.dtype);
}

/* ---- channels: ints are rows, a, b (slice: channels, start, count) -------------------------------------------- */

static lt_status launch_slice(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_slice_channels(s, out, in[0], size_of(t), t->ints[0], t->ints[1], t->ints[2],
                                    t->ints[3]);
}

static double expect_slice(const test *t, int64_t i)
{
    return value_of(&t->in[0], i / t->ints[3] * t->ints[1] + t->ints[2] + i % t->ints[3]);
}

static lt_status launch_concat(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_concat_channels(s, out, in[0], in[1], size_of(t), t->ints[0], t->ints[1], t->ints[2]);
}

static double expect_concat(const test *t, int64_t i)
{
    int64_t a = t->ints[1], b = t->ints[2], row = i / (a + b), c = i % (a + b);
    if (c < a) return value_of(&t->in[0], row * a + c);
    return t->in[1].data ? value_of(&t->in[1], row * b + c - a) : 0;
}

static void check_channels(void)
{
    int64_t rows = draw(1, 40), channels = ONE_OF(1, 3, 8, 32, 100), start = draw(0, channels - 1);
    int64_t count = channels % 8 || draw(0, 1) ? draw(1, channels - start) : 8;
    if (count == 8) start = start / 8 * 8;
    test t = {.out = {draw_size(), rows * count, NULL}, .ints = {rows, channels, start, count}};
    t.in[0] = make_array(t.out.dtype, rows * channels, BYTES);
    t.launch = launch_slice;
    t.expect = expect_slice;
    snprintf(t.name, sizeof(t.name), "slice_channels %lld of %lld from %lld", (long long)count,
             (long long)channels, (long long)start);
    run_test(&t);
    int64_t a = ONE_OF(1, 3, 4, 16, 65), b = ONE_OF(1, 5, 8, 64);
    t = (test){.out = {draw_size(), rows * (a + b), NULL}, .ints = {rows, a, b}};
    t.in[0] = make_array(t.out.dtype, rows * a, BYTES);
    if (draw(0, 2)) t.in[1] = make_array(t.out.dtype, rows * b, BYTES);
    t.launch = launch_concat;
    t.expect = expect_concat;
    snprintf(t.name, sizeof(t.name), "concat_channels %lld and %lld", (long long)a, (long long)b);
    run_test(&t);
}

/* ---- videos: ints are n, t, h, w, channels, then factors ------------------------------------------------------ */

static lt_status launch_upsample(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    const int64_t *i = t->ints;
    return lt_launch_upsample_nearest(s, out, in[0], size_of(t), i[0], i[1], i[2], i[3], i[4], (int)i[5],
                                      (int)i[6], (int)i[7]);
}

static double expect_upsample(const test *t, int64_t at)
{
    const int64_t *i = t->ints;
    int64_t c = at % i[4], w = at / i[4] % (i[3] * i[7]);
    int64_t h = at / i[4] / (i[3] * i[7]) % (i[2] * i[6]);
    int64_t f = at / i[4] / (i[3] * i[7]) / (i[2] * i[6]);
    int64_t n = f / (i[1] * i[5]), time = f % (i[1] * i[5]);
    return value_of(&t->in[0], (((n * i[1] + time / i[5]) * i[2] + h / i[6]) * i[3] + w / i[7]) * i[4] + c);
}

/* The small picture's sizes, and channels, are ints 1 to 3. */
static lt_status launch_windows(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    const int64_t *i = t->ints;
    return lt_launch_window_pixels(s, out, in[0], size_of(t), i[0], i[1], i[2], i[3]);
}

static double expect_windows(const test *t, int64_t at)
{
    const int64_t *i = t->ints;
    int64_t c = at % i[3], x = at / i[3] % (2 * i[2]), y = at / i[3] / (2 * i[2]) % (2 * i[1]),
            n = at / i[3] / (4 * i[1] * i[2]);
    int64_t window = (n * (i[1] + 1) + (y + 1) / 2) * (i[2] + 1) + (x + 1) / 2;
    return value_of(&t->in[0], (window * 4 + (y + 1) % 2 * 2 + (x + 1) % 2) * i[3] + c);
}

static lt_status launch_unpatchify(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    const int64_t *i = t->ints;
    return lt_launch_unpatchify(s, out, in[0], size_of(t), i[0], i[1], i[2], i[3], (int)i[5], (int)i[6],
                                (int)i[7], i[4]);
}

static double expect_unpatchify(const test *t, int64_t at)
{
    const int64_t *i = t->ints;
    int64_t c = at % i[4], w = at / i[4] % (i[3] * i[7]);
    int64_t h = at / i[4] / (i[3] * i[7]) % (i[2] * i[6]);
    int64_t f = at / i[4] / (i[3] * i[7]) / (i[2] * i[6]);
    int64_t n = f / (i[1] * i[5]), time = f % (i[1] * i[5]);
    int64_t token = ((n * i[1] + time / i[5]) * i[2] + h / i[6]) * i[3] + w / i[7];
    int64_t place = ((time % i[5] * i[6] + h % i[6]) * i[7] + w % i[7]) * i[4] + c;
    return value_of(&t->in[0], token * i[5] * i[6] * i[7] * i[4] + place);
}

static void check_videos(void)
{
    int64_t s[8] = {draw(1, 2), draw(1, 3), draw(1, 5), draw(1, 5), ONE_OF(1, 3, 4, 16, 24),
                    draw(1, 3), draw(1, 3), draw(1, 3)};
    int64_t x = s[0] * s[1] * s[2] * s[3] * s[4], all = x * s[5] * s[6] * s[7];
    test t = {.out = {draw_size(), all, NULL}, .launch = launch_upsample, .expect = expect_upsample};
    memcpy(t.ints, s, sizeof(s));
    t.in[0] = make_array(t.out.dtype, x, BYTES);
    snprintf(t.name, sizeof(t.name), "upsample_nearest %lld channels", (long long)s[4]);
    run_test(&t);
    t = (test){.out = {draw_size(), s[0] * 4 * s[2] * s[3] * s[4], NULL},
               .ints = {s[0], s[2], s[3], s[4]},
               .launch = launch_windows,
               .expect = expect_windows};
    t.in[0] = make_array(t.out.dtype, s[0] * 4 * (s[2] + 1) * (s[3] + 1) * s[4], BYTES);
    snprintf(t.name, sizeof(t.name), "window_pixels %lld channels", (long long)s[4]);
    run_test(&t);
    t = (test){.out = {draw_size(), all, NULL}, .launch = launch_unpatchify, .expect = expect_unpatchify};
    memcpy(t.ints, s, sizeof(s));
    t.in[0] = make_array(t.out.dtype, all, BYTES);
    snprintf(t.name, sizeof(t.name), "unpatchify %lld channels", (long long)s[4]);
    run_test(&t);
}

/* ---- rows by number: ints are rows of the table, channels ------------------------------------------------------ */

static lt_status launch_gather(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_gather_rows(s, out, t->out.dtype, in[0], t->in[0].dtype, t->ints[0], t->ints[1], in[1],
                                 t->in[1].n, NULL);
}

static double expect_gather(const test *t, int64_t i)
{
    return value_of(&t->in[0], (int64_t)value_of(&t->in[1], i / t->ints[1]) * t->ints[1] + i % t->ints[1]);
}

/* in: table, numbers. The result is the place of the first that is wrong; the rows themselves go to the scratch. */
static lt_status launch_bad(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_gather_rows(s, scratch, LT_F32, in[0], LT_F32, t->ints[0], t->ints[1], in[1], t->in[1].n,
                                 out);
}

static void check_gather(void)
{
    int64_t rows = draw(1, 30), channels = ONE_OF(1, 5, 8, 64), n = draw(1, 50);
    test t = {.out = {draw_dtype(), n * channels, NULL}, .ints = {rows, channels}};
    t.in[0] = make_array((lt_dtype)ONE_OF(LT_F32, LT_BF16, LT_F16, LT_F64), rows * channels, WIDE);
    t.in[1] = make_array(LT_I32, n, BYTES);
    for (int64_t i = 0; i < n; i++) ((int32_t *)t.in[1].data)[i] %= (int32_t)rows;
    t.launch = launch_gather;
    t.expect = expect_gather;
    snprintf(t.name, sizeof(t.name), "gather_rows %s to %s", lt_dtype_name(t.in[0].dtype),
             lt_dtype_name(t.out.dtype));
    run_test(&t);
    t = (test){.out = make_array(LT_I64, 1, BYTES), .ints = {rows, channels}, .prefill = true};
    *(int64_t *)t.out.data = INT64_MAX;
    t.expected = make_array(LT_F64, 1, BYTES);
    t.in[0] = make_array(LT_F32, rows * channels, WIDE);
    t.in[1] = make_array(LT_I32, n, BYTES);
    int32_t *ids = t.in[1].data;
    for (int64_t i = 0; i < n; i++) ids[i] %= (int32_t)rows;
    int64_t bad = draw(0, n - 1);
    ids[bad] = draw(0, 1) ? -1 : (int32_t)rows;
    ids[n - 1] = (int32_t)rows + 5;
    *(double *)t.expected.data = (double)bad;
    t.scratch = (size_t)(n * channels) * 4;
    t.launch = launch_bad;
    snprintf(t.name, sizeof(t.name), "gather_rows, number %lld wrong", (long long)bad);
    run_test(&t);
}

/* ---- windows: ints are n, t, h, w (of x), i, up_h, up_w, kind of kernel, strided, first, count --------------------- */

static lt_conv_dims dims_of(const test *t)
{
    const int64_t *i = t->ints;
    static const int64_t kernels[][3] = {{3, 1, 1}, {1, 3, 3}, {1, 1, 1}, {2, 3, 2}};
    const int64_t *k = kernels[i[7]];
    lt_conv_dims d = {.n = i[0],
                      .t = i[1],
                      .h = i[2] * i[5],
                      .w = i[3] * i[6],
                      .i = i[4],
                      .o = 1,
                      .kt = k[0],
                      .kh = k[1],
                      .kw = k[2],
                      .st = 1,
                      .sh = 1 + i[8],
                      .sw = 1 + i[8],
                      .front = k[0] / 2,
                      .back = k[0] / 2,
                      .top = k[1] / 2,
                      .bottom = 1,
                      .right = k[2] / 2};
    d.to = d.t + d.front + d.back - d.kt + 1;
    d.ho = (d.h + d.top + d.bottom - d.kh) / d.sh + 1;
    d.wo = (d.w + d.left + d.right - d.kw) / d.sw + 1;
    return d;
}

static lt_status launch_im2col(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    lt_conv_dims d = dims_of(t);
    return lt_launch_im2col(s, out, in[0], size_of(t), &d, (int)t->ints[5], (int)t->ints[6], t->ints[9],
                            t->ints[10]);
}

static double expect_im2col(const test *t, int64_t at)
{
    lt_conv_dims d = dims_of(t);
    const int64_t *i = t->ints;
    int64_t c = at % d.i, kw = at / d.i % d.kw, kh = at / d.i / d.kw % d.kh,
            kt = at / d.i / d.kw / d.kh % d.kt;
    int64_t p = at / d.i / d.kw / d.kh / d.kt + i[9];
    int64_t w = p % d.wo * d.sw + kw - d.left, h = p / d.wo % d.ho * d.sh + kh - d.top;
    int64_t f = p / d.wo / d.ho % d.to * d.st + kt - d.front, n = p / d.wo / d.ho / d.to;
    if (f < 0 || f >= d.t || h < 0 || h >= d.h || w < 0 || w >= d.w) return 0;
    return value_of(&t->in[0], (((n * d.t + f) * i[2] + h / i[5]) * i[3] + w / i[6]) * d.i + c);
}

static void check_im2col(void)
{
    test t = {.ints = {draw(1, 2), draw(2, 4), draw(2, 5), draw(2, 5), ONE_OF(1, 3, 8, 16), draw(1, 2),
                       draw(1, 2), draw(0, 3), draw(0, 1)},
              .launch = launch_im2col,
              .expect = expect_im2col};
    lt_conv_dims d = dims_of(&t);
    int64_t places = d.n * d.to * d.ho * d.wo;
    t.ints[9] = draw(0, places - 1);
    t.ints[10] = draw(1, places - t.ints[9]);
    t.out = (array){draw_size(), t.ints[10] * d.kt * d.kh * d.kw * d.i, NULL};
    t.in[0] = make_array(t.out.dtype, t.ints[0] * t.ints[1] * t.ints[2] * t.ints[3] * d.i, BYTES);
    snprintf(t.name, sizeof(t.name), "im2col kernel %lld,%lld,%lld stride %lld", (long long)d.kt,
             (long long)d.kh, (long long)d.kw, (long long)d.sh);
    run_test(&t);
}

void check_layout(int n)
{
    for (int i = 0; i < 2 * n; i++) {
        check_channels();
        check_videos();
        check_gather();
        check_im2col();
    }
}
