/* test_requests.c - what CUDA's plug-in asks cuDNN and cuBLASLt for: one convolution or product where an operator can be one, with what
 * is added to its sums in the same call. What comes of it is kernelcheck's to check; the doubles note what they were asked. */
#include "kernels/ops.h"

#include <cublasLt.h>
#include <cudnn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static lt_context *context;

/* ---- operands ------------------------------------------------------------------------------------------ */

static float values[1 << 16];

/* Halves, which are exact in bf16. */
static void fill(void)
{
    for (size_t i = 0; i < LT_COUNT(values); i++) values[i] = (float)(i * 7 % 9) * 0.5f - 2;
}

static lt_tensor host(int rank, const int64_t *shape)
{
    lt_tensor t = {.data = values, .dtype = LT_F32, .rank = rank};
    memcpy(t.shape, shape, (size_t)rank * sizeof(int64_t));
    return t;
}
#define HOST(...)      host((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})
#define ON_DEVICE(...) lt_upload(context, HOST(__VA_ARGS__), LT_BF16)

/* A bias that is not exact in bf16. */
static float odd[64];

static int open_device(void **state)
{
    lt_err err;
    fill();
    for (size_t i = 0; i < LT_COUNT(odd); i++) odd[i] = 1.0f + 1e-4f * (float)i;
    return lt_context_create(&context, "cuda:0", LT_BF16, 16 << 20, 1, &err) != LT_OK;
}

static int close_device(void **state)
{
    lt_context_destroy(context);
    return 0;
}

/* y was made by exactly these calls. y, x and residual are given back, and the weights' forms. */
static void asked(lt_tensor y, lt_tensor *inputs, lt_weight *w, lt_weight *b, const char *lines)
{
    lt_err err;
    assert_int_equal(lt_wait(context), LT_OK);
    if (lt_context_status(context, &err) != LT_OK) fail_msg("%s", err.text);
    assert_string_equal(fake_library_calls(), lines);
    fake_library_forget();
    lt_drop(context, &y);
    for (int i = 0; i < 2; i++) lt_drop(context, &inputs[i]);
    lt_weight_finish(context, w);
    lt_weight_finish(context, b);
}

/* ---- convolutions -------------------------------------------------------------------------------------- */

/* Time is the height, a frame's pixels the width; bias and residual in the same graph. */
static void over_time(void **state)
{
    lt_conv_params p = {.pad_front = 1, .pad_back = 1};
    lt_weight w = {.tensor = HOST(24, 16, 3, 1, 1)}, b = {.tensor = HOST(24)};
    lt_tensor in[2] = {ON_DEVICE(1, 5, 3, 4, 16), ON_DEVICE(1, 5, 3, 4, 24)};
    asked(lt_conv(context, in[0], &w, &b, p, in[1]), in, &w, &b,
          "conv 1x5x12x16 -> 1x5x12x24 by 3x1, pads 1 1 0 0, then add add\n");
}

/* Sums of halves are exact: y has the bytes of the reference's result. */
static void same_as_reference(lt_tensor y, lt_tensor x, lt_weight *w, lt_weight *b, lt_conv_params p,
                              lt_tensor residual)
{
    lt_context *c;
    static uint16_t bytes[1 << 16];
    assert_int_equal(lt_context_create(&c, "ref", LT_BF16, 16 << 20, 1, NULL), LT_OK);
    lt_tensor wanted = lt_conv(c, x, w, b, p, residual);
    lt_download(context, y, LT_BF16, bytes);
    assert_int_equal(lt_wait(context), LT_OK);
    assert_int_equal(lt_tensor_bytes(&wanted), lt_tensor_bytes(&y));
    assert_memory_equal(wanted.data, bytes, lt_tensor_bytes(&y));
    lt_drop(c, &wanted);
    lt_context_destroy(c);
}

/* CUDA_MOST_ELEMENTS is 16384 here: 42 frames of 12 pixels and 32 channels. The double, as cuDNN may, has no engine for uneven pads: the ends
 * are products. */
static void over_a_long_time(void **state)
{
    lt_conv_params p = {.pad_front = 1, .pad_back = 1};
    lt_weight w = {.tensor = HOST(32, 32, 3, 1, 1)}, b = {.tensor = HOST(32)};
    lt_tensor in[2] = {ON_DEVICE(1, 100, 3, 4, 32), ON_DEVICE(1, 100, 3, 4, 32)};
    lt_tensor y = lt_conv(context, in[0], &w, &b, p, in[1]);
    same_as_reference(y, HOST(1, 100, 3, 4, 32), &w, &b, p, HOST(1, 100, 3, 4, 32));
    asked(y, in, &w, &b,
          "product 480x96 -> 480x32, bias, add\n"
          "conv 1x42x12x32 -> 1x40x12x32 by 3x1, pads 0 0 0 0, then add add\n"
          "product 240x96 -> 240x32, bias, add\n");
}

/* Frames are images. */
static void over_space(void **state)
{
    lt_conv_params p = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
    lt_weight w = {.tensor = HOST(8, 16, 3, 3)}, b = {0};
    lt_tensor in[2] = {ON_DEVICE(1, 3, 4, 5, 16), LT_NONE};
    asked(lt_conv(context, in[0], &w, &b, p, LT_NONE), in, &w, &b,
          "conv 3x4x5x16 -> 3x4x5x8 by 3x3, pads 1 1 1 1\n");
}

/* Three channels are eight, five of them zeros. */
static void of_few_channels(void **state)
{
    lt_conv_params p = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
    lt_weight w = {.tensor = HOST(8, 3, 3, 3)}, b = {.tensor = HOST(8)};
    lt_tensor in[2] = {ON_DEVICE(1, 3, 4, 5, 3), ON_DEVICE(1, 3, 4, 5, 8)};
    lt_tensor y = lt_conv(context, in[0], &w, &b, p, in[1]);
    same_as_reference(y, HOST(1, 3, 4, 5, 3), &w, &b, p, HOST(1, 3, 4, 5, 8));
    asked(y, in, &w, &b, "conv 3x4x5x8 -> 3x4x5x8 by 3x3, pads 1 1 1 1, then add add\n");
}

/* Every element by every tap, of three images at once; and of as many lines as there is room for (CUDA_ROUGH_BYTES is 8192 here), with
 * those that their windows see. */
static void to_few_channels(void **state)
{
    lt_conv_params p = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
    lt_weight w = {.tensor = HOST(3, 64, 3, 3)}, b = {.tensor = HOST(3)};
    lt_tensor in[2] = {ON_DEVICE(1, 3, 4, 5, 64), ON_DEVICE(1, 3, 4, 5, 3)};
    lt_tensor y = lt_conv(context, in[0], &w, &b, p, in[1]);
    same_as_reference(y, HOST(1, 3, 4, 5, 64), &w, &b, p, HOST(1, 3, 4, 5, 3));
    asked(y, in, &w, &b, "product 60x64 -> 60x32, f32\n");
    in[0] = ON_DEVICE(1, 1, 4, 20, 64);
    in[1] = LT_NONE;
    y = lt_conv(context, in[0], &w, &b, p, LT_NONE);
    same_as_reference(y, HOST(1, 1, 4, 20, 64), &w, &b, p, LT_NONE);
    asked(y, in, &w, &b,
          "product 40x64 -> 40x32, f32\n"
          "product 60x64 -> 60x32, f32\n"
          "product 60x64 -> 60x32, f32\n"
          "product 40x64 -> 40x32, f32\n");
}

/* A picture without lines, or columns, that has pads: every result is the bias. */
static void of_pads_alone(void **state)
{
    lt_conv_params p = {.pad_top = 2, .pad_bottom = 2, .pad_left = 2, .pad_right = 2};
    lt_weight w = {.tensor = HOST(3, 64, 3, 3)}, b = {.tensor = HOST(3)};
    const int64_t shapes[2][5] = {{1, 1, 0, 4, 64}, {1, 1, 4, 0, 64}};
    for (int i = 0; i < 2; i++) {
        lt_tensor x = lt_new(context, LT_BF16, 5, shapes[i]), y = lt_conv(context, x, &w, &b, p, LT_NONE);
        same_as_reference(y, host(5, shapes[i]), &w, &b, p, LT_NONE);
        lt_drop(context, &y);
        lt_drop(context, &x);
    }
    lt_weight_finish(context, &w);
    lt_weight_finish(context, &b);
    fake_library_forget();
}

/* The small picture, by 2 x 2, for four times the outputs. */
static void upsampled(void **state)
{
    lt_weight w = {.tensor = HOST(8, 16, 3, 3)}, b = {.tensor = HOST(8)};
    lt_tensor in[2] = {ON_DEVICE(1, 3, 4, 5, 16), LT_NONE};
    asked(lt_upsample_conv(context, in[0], &w, &b), in, &w, &b,
          "conv 3x4x5x16 -> 3x5x6x32 by 2x2, pads 1 1 1 1, then add\n");
}

/* ---- compiling ----------------------------------------------------------------------------------------- */

static void convolve_frames(lt_context *c, int64_t frames)
{
    lt_conv_params p = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
    lt_weight w = {.tensor = HOST(8, 16, 3, 3)};
    lt_tensor x = lt_new(c, LT_BF16, 5, (int64_t[]){1, frames, 7, 5, 16});
    lt_zero(c, x);
    lt_tensor y = lt_conv(c, x, &w, NULL, p, LT_NONE);
    lt_drop(c, &x);
    lt_drop(c, &y);
    lt_weight_finish(c, &w);
}

/* A plan takes cuDNN about a second of a processor: there is one for every shape that runs, and none for planning. */
static void one_plan_a_shape(void **state)
{
    lt_context *dry;
    lt_err err;
    int64_t before = fake_dnn_plans();
    assert_int_equal(lt_context_create(&dry, "cuda:0", LT_BF16, 0, 1, &err), LT_OK);
    convolve_frames(dry, 3);
    assert_int_equal(lt_context_status(dry, &err), LT_OK);
    lt_context_destroy(dry);
    assert_int_equal(fake_dnn_plans(), before);
    for (int i = 0; i < 3; i++) convolve_frames(context, 3);
    assert_int_equal(lt_context_status(context, &err), LT_OK);
    assert_int_equal(fake_dnn_plans(), before + 1);
    convolve_frames(context, 2);
    convolve_frames(context, 8);
    assert_int_equal(lt_context_status(context, &err), LT_OK);
    assert_int_equal(fake_dnn_plans(), before + 3);
    fake_library_forget();
}

/* Code that cannot be loaded says nothing of its engine: no other way is taken, and the next attempt has the same plan. */
static void a_plan_that_fails(void **state)
{
    lt_err err;
    fake_dnn_make_plans(FAKE_DNN_PLANS_FAIL);
    convolve_frames(context, 5);
    assert_int_equal(lt_context_status(context, &err), LT_E_INTERNAL);
    fake_dnn_make_plans(FAKE_DNN_PLANS_ARE_LARGE);
    convolve_frames(context, 5);
    assert_int_equal(lt_context_status(context, &err), LT_E_INTERNAL);
    assert_non_null(strstr(err.text, "takes 1001 bytes of scratch memory where its configuration said 1000"));
    assert_string_equal(fake_library_calls(), "");
    fake_dnn_make_plans(FAKE_DNN_PLANS_GOOD);
    convolve_frames(context, 5);
    assert_int_equal(lt_context_status(context, &err), LT_OK);
    assert_string_equal(fake_library_calls(), "conv 5x7x5x16 -> 5x7x5x8 by 3x3, pads 1 1 1 1\n");
    fake_library_forget();
}

/* The same on a full device, which passes, unless it is this context that fills it. */
static void a_plan_that_does_not_fit(void **state)
{
    lt_err err;
    void *others;
    assert_int_equal(cudaMalloc(&others, 8 << 20), cudaSuccess);
    fake_dnn_make_plans(FAKE_DNN_PLANS_FAIL);
    fake_cuda_memory(fake_cuda_in_use() + (63 << 20));
    convolve_frames(context, 6);
    assert_int_equal(lt_context_status(context, &err), LT_E_BUSY);
    assert_non_null(strstr(err.text, "cuda:0 is in use by others, or its memory is"));
    cudaFree(others);
    fake_cuda_memory((16 << 20) + (60 << 20));
    convolve_frames(context, 6);
    assert_int_equal(lt_context_status(context, &err), LT_E_NO_MEMORY);
    fake_cuda_memory(0);
    fake_dnn_make_plans(FAKE_DNN_PLANS_GOOD);
    convolve_frames(context, 6);
    assert_int_equal(lt_context_status(context, &err), LT_OK);
    fake_library_forget();
}

/* ---- products ------------------------------------------------------------------------------------------ */

/* One pixel in, one out: a product, that adds the bias and the residual. */
static void pointwise(void **state)
{
    lt_conv_params p = {0};
    lt_weight w = {.tensor = HOST(24, 16, 1, 1)}, b = {.tensor = HOST(24)};
    lt_tensor in[2] = {ON_DEVICE(1, 5, 3, 4, 16), ON_DEVICE(1, 5, 3, 4, 24)};
    asked(lt_conv(context, in[0], &w, &b, p, in[1]), in, &w, &b, "product 60x16 -> 60x24, bias, add\n");
}

/* A bias is rounded as the weight is. */
static void inexact_bias(void **state)
{
    lt_weight w = {.tensor = HOST(24, 16)}, b = {.tensor = HOST(24)};
    b.tensor.data = odd;
    lt_tensor in[2] = {ON_DEVICE(12, 16), ON_DEVICE(12, 24)};
    asked(lt_linear(context, in[0], &w, &b, LT_ACT_NONE, in[1]), in, &w, &b,
          "product 12x16 -> 12x24, bias, add\n");
    in[0] = ON_DEVICE(1, 12, 1, 1, 16);
    in[1] = LT_NONE;
    asked(lt_conv(context, in[0], &w, &b, (lt_conv_params){0}, LT_NONE), in, &w, &b,
          "product 12x16 -> 12x24, bias\n");
}

/* Without an algorithm that adds the bias (of 28 outputs, the double's), a kernel of ours does. */
static void no_algorithm_for_a_bias(void **state)
{
    lt_weight w = {.tensor = HOST(28, 16)}, b = {.tensor = HOST(28)};
    lt_tensor in[2] = {ON_DEVICE(12, 16), LT_NONE};
    asked(lt_linear(context, in[0], &w, &b, LT_ACT_NONE, LT_NONE), in, &w, &b,
          "product 12x16 -> 12x28, f32\n");
}

/* GELU by tanh is the product's own; what the library has no algorithm for (of 20 outputs, the double) and other activations are a
 * kernel of ours. */
static void activations(void **state)
{
    lt_weight w = {.tensor = HOST(24, 16)}, b = {.tensor = HOST(24)}, narrow = {.tensor = HOST(20, 16)};
    lt_weight none = {0};
    lt_tensor in[2] = {ON_DEVICE(12, 16), LT_NONE};
    asked(lt_linear(context, in[0], &w, &b, LT_ACT_GELU_TANH, LT_NONE), in, &w, &b,
          "product 12x16 -> 12x24, bias, gelu\n");
    in[0] = ON_DEVICE(12, 16);
    asked(lt_linear(context, in[0], &w, &none, LT_ACT_GELU_TANH, LT_NONE), in, &w, &b,
          "product 12x16 -> 12x24, gelu\n");
    in[0] = ON_DEVICE(12, 16);
    asked(lt_linear(context, in[0], &narrow, &none, LT_ACT_GELU_TANH, LT_NONE), in, &narrow, &b,
          "product 12x16 -> 12x20, f32\n");
    in[0] = ON_DEVICE(12, 16);
    in[1] = ON_DEVICE(12, 24);
    asked(lt_linear(context, in[0], &w, &b, LT_ACT_GELU_TANH, in[1]), in, &w, &b,
          "product 12x16 -> 12x24, f32\n");
    in[0] = ON_DEVICE(12, 16);
    asked(lt_linear(context, in[0], &w, &b, LT_ACT_GELU_ERF, LT_NONE), in, &w, &b,
          "product 12x16 -> 12x24, f32\n");
}

/* A product's kernel that cannot be loaded, of which the library says no more than a convolution's. */
static void a_product_that_does_not_fit(void **state)
{
    const struct {
        size_t bytes; /* of device memory, beside what is in use; 0: much */
        size_t others;
        lt_status status;
    } cases[] = {{60 << 20, 8 << 20, LT_E_BUSY}, {60 << 20, 0, LT_E_NO_MEMORY}, {0, 0, LT_E_INTERNAL}};
    lt_weight w = {.tensor = HOST(24, 16)};
    lt_err err;
    lt_tensor x = ON_DEVICE(12, 16), y = lt_linear(context, x, &w, NULL, LT_ACT_NONE, LT_NONE);
    lt_drop(context, &y);
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        void *others = NULL;
        assert_int_equal(lt_context_status(context, &err), LT_OK);
        assert_int_equal(cudaMalloc(&others, cases[i].others), cudaSuccess);
        fake_cuda_memory(cases[i].bytes ? fake_cuda_in_use() + cases[i].bytes : 0);
        fake_cuda_fail(1, cudaErrorMemoryAllocation);
        y = lt_linear(context, x, &w, NULL, LT_ACT_NONE, LT_NONE);
        lt_status status = lt_context_status(context, &err);
        if (status != cases[i].status) fail_msg("case %zu: %s: %s", i, lt_status_string(status), err.text);
        lt_drop(context, &y);
        cudaFree(others);
    }
    fake_cuda_memory(0);
    lt_drop(context, &x);
    lt_weight_finish(context, &w);
    fake_library_forget();
}

/* ---- attention ----------------------------------------------------------------------------------------- */

static void attends(bool causal)
{
    lt_tensor in[2] = {ON_DEVICE(2, 6, 3, 16), ON_DEVICE(2, 7, 3, 16)};
    lt_weight none = {0};
    asked(lt_attention(context, in[0], in[1], in[1], LT_NONE, 0.25, causal), in, &none, &none, "attention\n");
}

/* One graph of cuDNN's, for all samples and heads. */
static void attention(void **state)
{
    attends(false);
    attends(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(over_time),
                                       cmocka_unit_test(over_a_long_time),
                                       cmocka_unit_test(over_space),
                                       cmocka_unit_test(of_few_channels),
                                       cmocka_unit_test(to_few_channels),
                                       cmocka_unit_test(of_pads_alone),
                                       cmocka_unit_test(upsampled),
                                       cmocka_unit_test(pointwise),
                                       cmocka_unit_test(inexact_bias),
                                       cmocka_unit_test(no_algorithm_for_a_bias),
                                       cmocka_unit_test(activations),
                                       cmocka_unit_test(attention),
                                       cmocka_unit_test(one_plan_a_shape),
                                       cmocka_unit_test(a_plan_that_fails),
                                       cmocka_unit_test(a_plan_that_does_not_fit),
                                       cmocka_unit_test(a_product_that_does_not_fit)};
    return cmocka_run_group_tests(tests, open_device, close_device);
}
