/* test_ops.c - operators of transformers: the sentences for what does not fit, and their order of axes. */
#include "kernels/convert.h"
#include "kernels/ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static float data[4096];

/* A tensor over `data`. */
static lt_tensor tensor(lt_dtype dtype, int rank, const int64_t *shape)
{
    lt_tensor t = {.data = data, .dtype = dtype, .rank = rank};
    memcpy(t.shape, shape, (size_t)rank * sizeof(int64_t));
    return t;
}
#define TENSOR(dtype, ...)                                                                                   \
    tensor(dtype, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

#define REFUSED(call, words)                                                                                 \
    do {                                                                                                     \
        lt_err err = {0};                                                                                    \
        assert_null((call).data);                                                                            \
        assert_int_not_equal(lt_context_status(c, &err), LT_OK);                                             \
        if (!strstr(err.text, words)) fail_msg("\"%s\" does not say \"%s\"", err.text, words);               \
        assert_int_equal(lt_workspace_in_use(c->workspace), 0);                                              \
    } while (0)

static void test_refused(void **state)
{
    lt_context *c;
    assert_int_equal(lt_context_create(&c, "cpu", LT_F32, 1 << 20, 1, NULL), LT_OK);
    lt_tensor x = TENSOR(LT_F32, 2, 3, 8), rows = TENSOR(LT_F32, 2, 8), odd = TENSOR(LT_F32, 2, 7);
    lt_tensor line = TENSOR(LT_F32, 8), half = TENSOR(LT_BF16, 2, 3, 8);
    lt_weight w = {.tensor = TENSOR(LT_F32, 6)}, gamma = {.tensor = TENSOR(LT_F32, 8)};
    REFUSED(lt_layer_norm(c, x, &w, NULL, 1e-5, LT_NONE, LT_NONE), "layer_norm: gamma is f32[6] where [8]");
    REFUSED(lt_layer_norm(c, x, NULL, &w, 1e-5, LT_NONE, LT_NONE), "layer_norm: beta is f32[6]");
    REFUSED(lt_layer_norm(c, x, NULL, NULL, 1e-5, odd, LT_NONE), "layer_norm: the scale f32[2,7]");
    REFUSED(lt_layer_norm(c, x, NULL, NULL, 1e-5, LT_NONE, x), "layer_norm: the shift f32[2,3,8]");
    REFUSED(lt_layer_norm(c, x, NULL, NULL, -1, LT_NONE, LT_NONE), "layer_norm: eps -1");
    REFUSED(lt_layer_norm(c, line, NULL, NULL, 1, LT_NONE, LT_NONE),
            "layer_norm: eps 1 over the input f32[8]");
    REFUSED(lt_rms_norm(c, x, NULL, 1e-6), "rms_norm: no weight");
    REFUSED(lt_rms_norm(c, half, &gamma, 1e-6), "rms_norm: the input bf16[2,3,8] is not f32");
    REFUSED(lt_add_broadcast(c, x, rows),
            "add_broadcast: f32[2,8] is not the end of the shape of f32[2,3,8]");
    REFUSED(lt_add_broadcast(c, rows, x), "add_broadcast");
    REFUSED(lt_add_gated(c, x, odd, LT_NONE), "add_gated: the summand f32[2,7]");
    REFUSED(lt_add_gated(c, x, x, odd), "add_gated: the gate f32[2,7]");
    REFUSED(lt_add_gated(c, line, line, LT_NONE), "add_gated: the input f32[8]");
    REFUSED(lt_multiply(c, x, rows), "multiply: f32[2,3,8] and f32[2,8]");
    REFUSED(lt_combine(c, x, 1, odd, 1), "combine: f32[2,3,8] and f32[2,7]");
    REFUSED(lt_gated(c, odd, LT_ACT_NONE), "gated: the channels of f32[2,7]");
    REFUSED(lt_concat_channels(c, x, rows), "concat_channels: f32[2,3,8] and f32[2,8]");
    REFUSED(lt_concat_channels(c, TENSOR(LT_F32, 3, 8), rows), "concat_channels");
    lt_weight table = {.tensor = TENSOR(LT_F32, 5, 4)};
    int32_t ids[] = {0, 4, 5, -1};
    lt_tensor three = {.data = ids, .dtype = LT_I32, .rank = 1, .shape = {3}}, last = three;
    last.data = ids + 3;
    last.shape[0] = 1;
    REFUSED(lt_embedding(c, &table, three), "embedding: row 5 of a table of 5");
    REFUSED(lt_embedding(c, &table, last), "embedding: row -1");
    REFUSED(lt_embedding(c, &table, x), "embedding: f32[2,3,8] where numbers of rows");
    REFUSED(lt_embedding(c, &gamma, three), "embedding: the table f32[8]");
    REFUSED(lt_gather_rows(c, rows, last), "gather_rows: row -1 of a table of 2");
    REFUSED(lt_gather_rows(c, x, three), "gather_rows: i32[3] out of f32[2,3,8]");
    REFUSED(lt_unpatchify(c, x, 1, 3, 1, 1, 3, 1), "unpatchify: f32[2,3,8] is not 1 x 3 x 1 tokens");
    REFUSED(lt_unpatchify(c, x, 1, 2, 1, 1, 2, 1), "unpatchify");
    REFUSED(lt_unpatchify(c, x, 1, 3, 1, 0, 2, 1), "unpatchify");
    REFUSED(lt_unpatchify(c, x, INT64_MAX, 3, INT64_MAX, 1, 2, 1), "unpatchify");
    REFUSED(lt_noise(c, 0, NULL, 1, 2, 3), "noise: a shape of rank 0");
    REFUSED(lt_noise(c, 2, (int64_t[]){1, -1}, 1, 2, 3), "a tensor's shape is negative");
    lt_context_destroy(c);
    assert_int_equal(lt_context_create(&c, "cpu", LT_F32, 0, 1, NULL), LT_OK);
    REFUSED(lt_noise(c, 2, (int64_t[]){1, (INT64_C(1) << 34) + 1}, 1, 2, 3), "noise: a frame of 17179869185");
    lt_context_destroy(c);
}

/* What an lt_yuv says is a decoder's, and so a stranger's. */
static void test_refused_pictures(void **state)
{
    static uint8_t samples[64], rgb[4 * 4 * 3];
    const lt_yuv good = {.y = samples,
                         .u = samples + 16,
                         .v = samples + 20,
                         .y_pitch = 4,
                         .uv_pitch = 2,
                         .uv_step = 1,
                         .width = 4,
                         .height = 4,
                         .shift_x = 1,
                         .shift_y = 1,
                         .at_y = 1,
                         .bits = 8};
    lt_yuv bad[12];
    for (size_t i = 0; i < LT_COUNT(bad); i++) bad[i] = good;
    bad[0].v = NULL;
    bad[1].width = 5;
    bad[2].height = 0;
    bad[3].uv_step = 3;
    bad[4].bits = 17;
    bad[5].low_zeros = 1;
    bad[6].matrix = (lt_colour_matrix)3;
    bad[7].shift_x = 2;
    bad[8].at_x = 3;
    bad[9].at_y = -1;
    bad[10].bits = 7;
    bad[11].low_zeros = -1;
    lt_context *c;
    lt_tensor out = {rgb, LT_U8, 3, {4, 4, 3}, 0};
    assert_int_equal(lt_context_create(&c, "cpu", LT_F32, 1 << 12, 1, NULL), LT_OK);
    lt_yuv_to_rgb(c, &good, 8, out);
    assert_int_equal(lt_context_status(c, NULL), LT_OK);
    for (size_t i = 0; i < LT_COUNT(bad); i++) {
        lt_yuv_to_rgb(c, &bad[i], 8, out);
        if (lt_context_status(c, NULL) != LT_E_INVALID) fail_msg("picture %zu was taken", i);
    }
    lt_yuv_to_rgb(c, &good, 16, out);
    assert_int_equal(lt_context_status(c, NULL), LT_E_INVALID);
    out.shape[2] = 4;
    lt_yuv_to_rgb(c, &good, 8, out);
    assert_int_equal(lt_context_status(c, NULL), LT_E_INVALID);
    lt_context_destroy(c);
}

/* A convolution whose stride is its kernel makes tokens whose values are the patch in the order pt, ph, pw, C;
 * unpatchify gives the video back. */
static void test_patches(void **state)
{
    enum { T = 2, H = 3, W = 2, PT = 2, PH = 2, PW = 3, C = 2, P = PT * PH * PW * C };
    static float video[2 * T * PT * H * PH * W * PW * C], unit[P * P];
    for (size_t i = 0; i < LT_COUNT(video); i++) video[i] = (float)i;
    for (int o = 0; o < P; o++) {
        int tap = o / C, channel = o % C;
        unit[(o * C + channel) * (P / C) + tap] = 1; /* [O,I,pt,ph,pw] */
    }
    const char *devices[] = {"ref", "cpu"};
    for (size_t d = 0; d < LT_COUNT(devices); d++) {
        lt_context *c;
        assert_int_equal(lt_context_create(&c, devices[d], LT_F32, 1 << 20, 2, NULL), LT_OK);
        lt_tensor x = {.data = video, .dtype = LT_F32, .rank = 5, .shape = {2, T * PT, H * PH, W * PW, C}};
        lt_weight w = {.tensor = {.data = unit, .dtype = LT_F32, .rank = 5, .shape = {P, C, PT, PH, PW}}};
        lt_conv_params p = {.stride_t = PT, .stride_h = PH, .stride_w = PW};
        lt_tensor tokens = lt_conv(c, x, &w, NULL, p, LT_NONE);
        lt_tensor flat = LT_VIEW(c, tokens, 2, T * H * W, P);
        lt_tensor y = lt_unpatchify(c, flat, T, H, W, PT, PH, PW);
        assert_int_equal(lt_context_status(c, NULL), LT_OK);
        assert_memory_equal(y.data, video, sizeof(video));
        lt_weight_finish(c, &w);
        lt_context_destroy(c);
    }
}

/* One input of a convolution is no number: every result under whose kernel it lies is none either, and what is more than a
 * tile away keeps its bytes. */
static void not_finite(lt_dtype dtype)
{
    enum { T = 6, H = 17, W = 19, C = 32, N = T * H * W * C };
    static float x[N], good[N], result[N], kernel[C * C * 27];
    static const int sizes[][2] = {{1, 3}, {3, 1}, {3, 3}};
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < N; i++) x[i] = (float)(i * 37 % 101) - 50;
    for (int i = 0; i < C * C * 27; i++) kernel[i] = (float)(i * 31 % 67) - 33.5f;
    lt_context *c;
    assert_int_equal(lt_context_create(&c, "cpu", dtype, 64 << 20, 2, NULL), LT_OK);
    for (size_t s = 0; s < LT_COUNT(sizes) * LT_COUNT(odd); s++) {
        int kt = sizes[s / 3][0], k = sizes[s / 3][1], at[] = {3, 8, 9}, far = 4;
        lt_tensor in = {.data = x, .dtype = LT_F32, .rank = 5, .shape = {1, T, H, W, C}};
        lt_weight w = {.tensor = {.data = kernel, .dtype = LT_F32, .rank = 5, .shape = {C, C, kt, k, k}}};
        lt_conv_params p = {1, 1, 1, kt / 2, kt / 2, k / 2, k / 2, k / 2, k / 2};
        float *one = &x[((at[0] * H + at[1]) * W + at[2]) * C + 5], kept = *one;
        for (int run = 0; run < 2; run++) {
            if (run) *one = odd[s % 3];
            lt_tensor own = lt_upload(c, in, dtype), y = lt_conv(c, own, &w, NULL, p, LT_NONE);
            lt_download(c, y, LT_F32, run ? result : good);
            assert_int_equal(lt_context_status(c, NULL), LT_OK);
            lt_drop(c, &own);
            lt_drop(c, &y);
        }
        *one = kept;
        for (int i = 0; i < N; i++) {
            int t = abs(i / C / W / H - at[0]), h = abs(i / C / W % H - at[1]), v = abs(i / C % W - at[2]);
            if (t <= kt / 2 && h <= k / 2 && v <= k / 2) assert_false(isfinite(result[i]));
            if ((kt == 1 ? t > 0 : t > far) || (k == 1 ? h + v > 0 : h > far || v > far))
                assert_memory_equal(&result[i], &good[i], sizeof(float));
        }
        lt_weight_finish(c, &w);
    }
    lt_context_destroy(c);
}

static void test_not_finite(void **state)
{
    not_finite(LT_F32);
    not_finite(LT_BF16);
}

/* A product large enough for large pieces, where the processor has the cache or the units for them: the same bytes on one thread, on many, where pieces
 * are small, and of some of its rows alone; and sums of whole numbers, to be exact. */
static void large_product(lt_dtype dtype)
{
    enum { ROWS = 1300, INNER = 1100, OUTPUTS = 1060, PART = 40 };
    static float x[ROWS * INNER], weight[OUTPUTS * INNER], y[3][ROWS * OUTPUTS];
    static const int threads[] = {1, 64, 1};
    for (int i = 0; i < ROWS * INNER; i++) x[i] = (float)(i * 37 % 11 - 5);
    for (int i = 0; i < OUTPUTS * INNER; i++) weight[i] = (float)(i * 31 % 7 - 3);
    for (int run = 0; run < 3; run++) {
        int64_t rows = run == 2 ? PART : ROWS;
        lt_context *c;
        assert_int_equal(lt_context_create(&c, "cpu", dtype, 256 << 20, threads[run], NULL), LT_OK);
        lt_tensor in = {.data = x, .dtype = LT_F32, .rank = 2, .shape = {rows, INNER}};
        lt_weight w = {.tensor = {.data = weight, .dtype = LT_F32, .rank = 2, .shape = {OUTPUTS, INNER}}};
        lt_tensor own = lt_upload(c, in, dtype);
        lt_tensor out = lt_linear(c, own, &w, NULL, LT_ACT_NONE, LT_NONE);
        lt_download(c, out, LT_F32, y[run]);
        assert_int_equal(lt_context_status(c, NULL), LT_OK);
        lt_weight_finish(c, &w);
        lt_context_destroy(c);
    }
    assert_memory_equal(y[0], y[1], sizeof(y[0]));
    assert_memory_equal(y[0], y[2], PART * OUTPUTS * sizeof(float));
    for (int i = 0; i < ROWS * OUTPUTS; i += 97) {
        double sum = 0;
        for (int k = 0; k < INNER; k++)
            sum += (double)x[i / OUTPUTS * INNER + k] * (double)weight[i % OUTPUTS * INNER + k];
        float wanted = dtype == LT_BF16 ? lt_bf16_to_f32(lt_f32_to_bf16((float)sum)) : (float)sum;
        assert_true(y[0][i] == wanted);
    }
}

static void test_large_product(void **state)
{
    large_product(LT_F32);
    large_product(LT_BF16);
}

int main(void)
{
    for (size_t i = 0; i < LT_COUNT(data); i++) data[i] = (float)i;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_refused_pictures),
                                       cmocka_unit_test(test_patches), cmocka_unit_test(test_not_finite),
                                       cmocka_unit_test(test_large_product)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
