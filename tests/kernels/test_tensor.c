/* test_tensor.c - workspace, contexts, views, dtypes, and the sentences of operators that are given what does not fit. */
#include "kernels/backend.h"
#include "kernels/convert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_workspace_reuse(void **state)
{
    enum { UNIT = LT_WORKSPACE_ALIGNMENT };
    _Alignas(UNIT) char block[UNIT * 4];
    lt_workspace *w;
    assert_int_equal(lt_workspace_create(&w, block, UNIT * 4, NULL), LT_OK);
    char *a = lt_workspace_alloc(w, 1), *b = lt_workspace_alloc(w, UNIT),
         *c = lt_workspace_alloc(w, UNIT + 1);
    assert_ptr_equal(b, a + UNIT);
    assert_ptr_equal(c, a + 2 * UNIT);
    assert_int_equal((uintptr_t)a % UNIT, 0);
    assert_null(lt_workspace_alloc(w, 1));
    assert_int_equal(lt_workspace_peak(w), 4 * UNIT);
    lt_workspace_release(w, a);
    assert_null(lt_workspace_alloc(w, UNIT + 1)); /* two holes of one unit would be needed */
    lt_workspace_release(w, b);                   /* merged with a's place */
    assert_ptr_equal(lt_workspace_alloc(w, 2 * UNIT), a);
    lt_workspace_release(w, a);
    lt_workspace_release(w, c); /* merged on both sides */
    assert_ptr_equal(lt_workspace_alloc(w, 4 * UNIT), a);
    lt_workspace_release(w, a);
    lt_workspace_release(w, NULL);
    assert_int_equal(lt_workspace_in_use(w), 0);
    assert_null(lt_workspace_alloc(w, SIZE_MAX));
    assert_null(lt_workspace_alloc(w, SIZE_MAX - 10));
    lt_workspace_destroy(w);
    lt_workspace_destroy(NULL);
}

/* A random program has the same offsets dry and real, and the dry peak is just enough. */
static void test_dry_is_exact(void **state)
{
    lt_workspace *dry, *real;
    size_t peak = 0;
    assert_int_equal(lt_workspace_create(&dry, NULL, 0, NULL), LT_OK);
    for (int pass = 0; pass < 3; pass++) {
        char *dry_held[40] = {0}, *held[40] = {0}, *base = NULL;
        unsigned seed = 7;
        real = NULL;
        void *block = NULL;
        size_t bytes = pass == 1 ? peak : peak - LT_WORKSPACE_ALIGNMENT;
        if (pass > 0) assert_int_equal(lt_host_memory_create(NULL, bytes, &block, NULL), LT_OK);
        if (pass > 0) assert_int_equal(lt_workspace_create(&real, block, bytes, NULL), LT_OK);
        if (pass > 0) base = lt_workspace_alloc(real, 64);
        if (pass > 0) lt_workspace_release(real, base);
        bool fitted = true;
        for (int i = 0; i < 3000 && fitted; i++) {
            seed = seed * 1664525u + 1013904223u;
            int slot = (int)(seed >> 8) % 40;
            size_t bytes = seed >> 16;
            lt_workspace *w = pass ? real : dry;
            char **place = pass ? &held[slot] : &dry_held[slot];
            if (*place) {
                lt_workspace_release(w, *place);
                *place = NULL;
            } else {
                *place = lt_workspace_alloc(w, bytes);
                fitted = *place != NULL;
                if (fitted && pass) memset(*place, 1, bytes);
            }
        }
        if (pass == 0) peak = lt_workspace_peak(dry);
        if (pass == 1) assert_true(fitted);
        if (pass == 1) assert_int_equal(lt_workspace_peak(real), peak);
        if (pass == 2) assert_false(fitted);
        lt_workspace_destroy(real);
    }
    lt_workspace_destroy(dry);
}

static void test_context_errors(void **state)
{
    lt_context *c = NULL;
    lt_err err;
    const char *absent[] = {
        "tpu", "", ":", "cpu:", "cpu:1", "cpu:x", "ref:2", "a-name-that-is-longer-than-any-device"};
    for (size_t i = 0; i < LT_COUNT(absent); i++) {
        assert_int_equal(lt_context_create(&c, absent[i], LT_F32, 0, 1, &err), LT_E_NOT_FOUND);
        assert_null(c);
    }
    assert_int_equal(lt_context_create(&c, "cpu", LT_F16, 0, 1, &err), LT_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "f16"));
    assert_int_equal(lt_context_create(&c, "cpu", LT_I32, 0, 1, &err), LT_E_INVALID);
    assert_int_equal(lt_context_create(&c, "cpu", LT_F32, 0, -1, &err), LT_E_INVALID);
    assert_int_equal(lt_context_create(&c, "cpu", LT_F32, SIZE_MAX / 2, 1, &err), LT_E_NO_MEMORY);
    assert_int_equal(lt_context_create(&c, "cpu:0", LT_F32, 4096, 1, &err), LT_OK);
    assert_true(strncmp(c->numeric_class, "cpu/", 4) == 0);
    assert_non_null(strstr(c->numeric_class, "/f32"));
    lt_context_destroy(c);
}

/* The first error stays, everything after it does nothing and gives LT_NONE, and taking it clears it. */
static void test_first_error_stays(void **state)
{
    lt_context *c;
    lt_err err = {0};
    assert_int_equal(lt_context_create(&c, "ref", LT_F32, 4096, 1, &err), LT_OK);
    lt_tensor x = lt_new(c, LT_F32, 2, (int64_t[]){3, 4});
    lt_tensor bad = LT_VIEW(c, x, 5, 5);
    assert_null(bad.data);
    assert_null(lt_new(c, LT_F32, 1, (int64_t[]){1}).data);
    assert_null(lt_affine(c, bad, 1, 0, LT_ACT_NONE).data);
    assert_null(lt_rows(c, x, 9, 9).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    assert_non_null(strstr(err.text, "f32[3,4]"));
    assert_int_equal(lt_context_status(c, &err), LT_OK);
    lt_tensor rows = lt_rows(c, x, 1, 2);
    assert_ptr_equal(rows.data, (char *)x.data + 16);
    assert_int_equal(rows.shape[0], 2);
    assert_null(lt_rows(c, x, 2, 2).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    assert_null(lt_rows(c, x, INT64_MAX, 1).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    lt_tensor huge = lt_new(c, LT_F32, 2, (int64_t[]){INT64_MAX, 2});
    assert_null(huge.data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    assert_null(lt_new(c, LT_F32, 1, (int64_t[]){2000}).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_NO_MEMORY);
    lt_drop(c, &x);
    lt_drop(c, &x);
    assert_int_equal(lt_workspace_in_use(c->workspace), 0);
    lt_context_destroy(c);
}

/* Shapes that do not fit: each refused with a sentence that names the operator. */
static void test_operator_errors(void **state)
{
    lt_context *c;
    lt_err err = {0};
    static float data[4096];
    assert_int_equal(lt_context_create(&c, "cpu", LT_F32, 1 << 20, 1, &err), LT_OK);
    lt_tensor x = {.data = data, .dtype = LT_F32, .rank = 5, .shape = {1, 2, 3, 4, 8}};
    lt_tensor flat = {.data = data, .dtype = LT_F32, .rank = 2, .shape = {24, 8}};
    lt_tensor half = {.data = data, .dtype = LT_BF16, .rank = 2, .shape = {24, 8}};
    lt_tensor heads = {.data = data, .dtype = LT_F32, .rank = 4, .shape = {1, 4, 2, 8}};
    lt_tensor other = {.data = data, .dtype = LT_F32, .rank = 4, .shape = {1, 4, 1, 8}};
    lt_tensor mask = {.data = data, .dtype = LT_F32, .rank = 4, .shape = {1, 1, 3, 4}};
    lt_weight w = {.tensor = {.data = data, .dtype = LT_F32, .rank = 4, .shape = {5, 8, 3, 3}}};
    lt_weight narrow = {.tensor = {.data = data, .dtype = LT_F32, .rank = 4, .shape = {5, 7, 3, 3}}};
    lt_weight whole = {.tensor = {.data = data, .dtype = LT_I64, .rank = 1, .shape = {8}}};
    lt_weight b = {.tensor = {.data = data, .dtype = LT_F32, .rank = 1, .shape = {6}}}, none = {0};
    lt_conv_params same = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1},
                   negative = {.stride_h = -1};
#define REFUSED(call, words)                                                                                 \
    do {                                                                                                     \
        assert_null((call).data);                                                                            \
        assert_int_not_equal(lt_context_status(c, &err), LT_OK);                                             \
        if (!strstr(err.text, words)) fail_msg("\"%s\" does not say \"%s\"", err.text, words);               \
        assert_int_equal(lt_workspace_in_use(c->workspace), 0);                                              \
    } while (0)
    REFUSED(lt_conv(c, flat, &w, NULL, same, LT_NONE), "conv: the weight f32[5,8,3,3]");
    REFUSED(lt_conv(c, x, &narrow, NULL, same, LT_NONE), "conv: the weight f32[5,7,3,3]");
    REFUSED(lt_conv(c, x, &w, &b, same, LT_NONE), "conv: bias is f32[6]");
    REFUSED(lt_conv(c, x, &w, NULL, same, x), "conv: the residual");
    REFUSED(lt_conv(c, x, &w, NULL, negative, LT_NONE), "conv: a negative stride");
    REFUSED(lt_conv(c, x, &none, NULL, same, LT_NONE), "conv: no weight");
    REFUSED(lt_conv(c, x, NULL, NULL, same, LT_NONE), "conv: no weight");
    REFUSED(lt_conv(c, LT_NONE, &w, NULL, same, LT_NONE), "conv: no input");
    REFUSED(lt_linear(c, flat, &w, NULL, LT_ACT_NONE, LT_NONE), "linear: the weight");
    REFUSED(lt_linear(c, half, &w, NULL, LT_ACT_NONE, LT_NONE), "linear: the input bf16[24,8] is not f32");
    REFUSED(lt_group_norm(c, flat, &b, &b, 4, 1e-5, LT_ACT_NONE), "group_norm: gamma is f32[6]");
    REFUSED(lt_group_norm(c, flat, &whole, &b, 4, 1e-5, LT_ACT_NONE), "group_norm: weights of i64[8]");
    REFUSED(lt_group_norm(c, flat, &b, &b, 3, 1e-5, LT_ACT_NONE), "group_norm: 3 groups");
    REFUSED(lt_attention(c, heads, other, other, LT_NONE, 1, false), "attention: q f32[1,4,2,8]");
    REFUSED(lt_attention(c, heads, heads, heads, mask, 1, false), "attention: the mask f32[1,1,3,4]");
    REFUSED(lt_upsample_nearest(c, x, 0, 1, 1), "upsample_nearest: factors 0");
    REFUSED(lt_upsample_conv(c, x, &narrow, NULL), "upsample_conv: the weight f32[5,7,3,3]");
    REFUSED(lt_upsample_conv(c, flat, &w, NULL), "upsample_conv: the weight");
    REFUSED(lt_upsample_conv(c, x, &w, &b), "upsample_conv: bias is f32[6]");
    REFUSED(lt_add_scaled(c, flat, x, 1), "add_scaled: f32[24,8] and");
    REFUSED(lt_slice_channels(c, flat, 5, 4), "slice_channels: f32[24,8]");
    REFUSED(lt_pixels_to_values(c, flat, 8), "pixels_to_values: 8 bits");
    REFUSED(lt_values_to_pixels(c, flat, 17, false), "values_to_pixels: 17 bits");
    lt_context_destroy(c);
}

/* A convolution with a one in the middle of its kernel gives its input back; so does a linear layer with a unit matrix. */
static void test_identities(void **state)
{
    enum { C = 17, K = 9 };
    static float x[2 * 3 * 4 * 5 * C], w[C * C * K], unit[C * C];
    for (size_t i = 0; i < LT_COUNT(x); i++) x[i] = (float)((int)(i * 7919 % 2003) - 1001) / 64;
    for (int i = 0; i < C; i++) {
        w[(i * C + i) * K + K / 2] = 1;
        unit[i * C + i] = 1;
    }
    const char *devices[] = {"ref", "cpu"};
    for (size_t d = 0; d < LT_COUNT(devices); d++) {
        lt_context *c;
        lt_weight conv = {.tensor = {.data = w, .dtype = LT_F32, .rank = 4, .shape = {C, C, 3, 3}}};
        lt_weight linear = {.tensor = {.data = unit, .dtype = LT_F32, .rank = 2, .shape = {C, C}}};
        lt_tensor in = {.data = x, .dtype = LT_F32, .rank = 5, .shape = {2, 3, 4, 5, C}};
        assert_int_equal(lt_context_create(&c, devices[d], LT_F32, 4 << 20, 2, NULL), LT_OK);
        lt_conv_params same = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
        lt_tensor y = lt_conv(c, in, &conv, NULL, same, LT_NONE);
        lt_tensor z = lt_linear(c, in, &linear, NULL, LT_ACT_NONE, LT_NONE);
        assert_int_equal(lt_context_status(c, NULL), LT_OK);
        assert_memory_equal(y.data, x, sizeof(x));
        assert_memory_equal(z.data, x, sizeof(x));
        lt_weight_finish(c, &conv);
        lt_weight_finish(c, &linear);
        assert_int_equal(c->packed_bytes, 0);
        lt_context_destroy(c);
    }
}

/* Every bf16 and f16 value survives a trip through f32, and rounding is to nearest even. */
static void test_conversions(void **state)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float b = lt_bf16_to_f32((uint16_t)h), f = lt_f16_to_f32((uint16_t)h);
        if (isnan(b))
            assert_true(isnan(lt_bf16_to_f32(lt_f32_to_bf16(b))));
        else
            assert_int_equal(lt_f32_to_bf16(b), h);
        if (isnan(f))
            assert_true(isnan(lt_f16_to_f32(lt_f32_to_f16(f))));
        else
            assert_int_equal(lt_f32_to_f16(f), h);
    }
    assert_int_equal(lt_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(lt_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(lt_f32_to_f16(0x1p-25f), 0);   /* half of the smallest: to even */
    assert_int_equal(lt_f32_to_f16(0x1.8p-24f), 2); /* between 1 and 2 of them: to even */
    assert_int_equal(lt_f32_to_f16(1 + 0x1p-11f), 0x3c00);
    assert_int_equal(lt_f32_to_bf16(1 + 0x1p-8f), 0x3f80);
    assert_int_equal(lt_f32_to_bf16(1 + 0x1.8p-7f), 0x3f82);
    uint16_t once;
    lt_store_f64(&once, LT_BF16, 0, 1 + 0x1p-8 + 0x1p-40); /* rounding twice would give 0x3f80 */
    assert_int_equal(once, 0x3f81);
    lt_store_f64(&once, LT_U16, 0, NAN);
    assert_int_equal(once, 0);
    lt_dtype dtype;
    assert_true(lt_dtype_parse("BF16", &dtype) && dtype == LT_BF16);
    assert_false(lt_dtype_parse("BOOL", &dtype));
}

/* A file's tensors begin at any byte; UBSan sees a load that minds. */
static void test_unaligned(void **state)
{
    static const lt_dtype dtypes[] = {LT_F32, LT_BF16, LT_F16, LT_F64, LT_U8, LT_U16, LT_I32, LT_I64};
    for (size_t i = 0; i < LT_COUNT(dtypes); i++) {
        _Alignas(8) unsigned char aligned[16] = {0}, shifted[17] = {0};
        lt_store_f64(aligned, dtypes[i], 1, 100);
        memcpy(shifted + 1, aligned, sizeof aligned);
        assert_true(lt_load_f64(shifted + 1, dtypes[i], 1) == 100);
        assert_true(lt_load_f64(shifted + 1, dtypes[i], 0) == 0);
    }
}

/* The least of what is not finite in every dtype, and the largest that is; at the ends of what is looked at at once, and at any byte. */
static void test_not_finite(void **state)
{
    static const struct {
        lt_dtype dtype;
        uint64_t infinite, nan, largest;
    } cases[] = {
        {LT_F32, 0xff800000, 0x7f800001, 0x7f7fffff},
        {LT_BF16, 0xff80, 0x7f81, 0x7f7f},
        {LT_F16, 0xfc00, 0x7c01, 0x7bff},
        {LT_F64, 0xfff0000000000000, 0x7ff0000000000001, 0x7fefffffffffffff},
    };
    static const int64_t places[] = {0, 1, 4095, 4096, 8191, 9000};
    enum { N = 9001 };
    static unsigned char memory[N * 8 + 1];
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        size_t bytes = lt_dtype_bytes(cases[i].dtype);
        unsigned char *data = memory + 1;
        for (size_t j = 0; j < N; j++) memcpy(data + j * bytes, &cases[i].largest, bytes);
        assert_int_equal(lt_first_not_finite(data, cases[i].dtype, N), -1);
        assert_int_equal(lt_first_not_finite(data, cases[i].dtype, 0), -1);
        for (size_t p = LT_COUNT(places); p-- > 0;) { /* what lies behind is not the first any more */
            memcpy(data + (size_t)places[p] * bytes, p % 2 ? &cases[i].infinite : &cases[i].nan, bytes);
            assert_int_equal(lt_first_not_finite(data, cases[i].dtype, N), places[p]);
            assert_int_equal(lt_first_not_finite(data, cases[i].dtype, places[p]), -1);
        }
    }
    assert_int_equal(lt_first_not_finite(memory, LT_U8, sizeof memory), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_workspace_reuse), cmocka_unit_test(test_dry_is_exact),
        cmocka_unit_test(test_context_errors),  cmocka_unit_test(test_first_error_stays),
        cmocka_unit_test(test_operator_errors), cmocka_unit_test(test_identities),
        cmocka_unit_test(test_conversions),     cmocka_unit_test(test_unaligned),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
