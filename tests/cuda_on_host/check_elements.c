/* check_elements.c - elementwise launchers and conversions against their formulas in f64. */
#include "tests/cuda_on_host/check.h"
#include "kernels/convert.h"
#include "kernels/noise.h"
#include "kernels/ref/ref.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- one place at a time ------------------------------------------------------------------------------------ */

static lt_status launch_add_scaled(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_add_scaled(s, t->out.dtype, out, in[0], in[1], (float)t->reals[0], t->out.n);
}

static double expect_add_scaled(const test *t, int64_t i)
{
    return value_of(&t->in[0], i) + t->reals[0] * value_of(&t->in[1], i);
}

static lt_status launch_affine(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_affine(s, t->out.dtype, out, in[0], (float)t->reals[0], (float)t->reals[1],
                            (lt_activation)t->ints[0], t->out.n);
}

static double expect_affine(const test *t, int64_t i)
{
    return ref_activation((lt_activation)t->ints[0], t->reals[0] * value_of(&t->in[0], i) + t->reals[1]);
}

static lt_status launch_multiply(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_multiply(s, t->out.dtype, out, in[0], in[1], t->out.n);
}

static double expect_multiply(const test *t, int64_t i)
{
    return value_of(&t->in[0], i) * value_of(&t->in[1], i);
}

static lt_status launch_combine(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_combine(s, t->out.dtype, out, in[0], t->reals[0], in[1], t->reals[1], t->out.n);
}

static double expect_combine(const test *t, int64_t i)
{
    return t->reals[0] * value_of(&t->in[0], i) + t->reals[1] * value_of(&t->in[1], i);
}

static lt_status launch_broadcast(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_add_broadcast(s, t->out.dtype, out, in[0], in[1], t->out.n, t->in[1].n);
}

static double expect_broadcast(const test *t, int64_t i)
{
    return value_of(&t->in[0], i) + value_of(&t->in[1], i % t->in[1].n);
}

/* x, and y of the same shape with `two`. */
static test elementwise(const char *name, fill f, bool two)
{
    int64_t n = ONE_OF(1, 7, 8, 15, 100, 1000, 4097) * draw(1, 3);
    test t = {.out = {draw_dtype(), n, NULL}, .in_place = draw(0, 2) == 0};
    t.in[0] = make_array(t.out.dtype, n, f);
    if (two) t.in[1] = make_array(t.out.dtype, n, f);
    for (int i = 0; i < 4; i++) t.reals[i] = (double)(float)draw_value(NORMAL);
    snprintf(t.name, sizeof(t.name), "%s %s n %lld", name, lt_dtype_name(t.out.dtype), (long long)n);
    return t;
}

static void check_places(void)
{
    test t = elementwise("add_scaled", WIDE, true);
    t.launch = launch_add_scaled;
    t.expect = expect_add_scaled;
    t.units = 2;
    run_test(&t);
    fill f = (fill)ONE_OF(NORMAL, WIDE, EXTREME);
    t = elementwise("affine", f, false);
    t.launch = launch_affine;
    t.expect = expect_affine;
    t.ints[0] = draw(LT_ACT_NONE, LT_ACT_QUICK_GELU);
    if (f == EXTREME) t.reals[0] = 1, t.reals[1] = 0;
    /* As kernelcheck: GELU's tail at -6 counts the roundings of x^2 / 2. The reference's own 1 + tanh(-12.6) has lost 20 units there. */
    t.units = f == EXTREME && t.ints[0] == LT_ACT_GELU_ERF    ? 44
              : f == EXTREME && t.ints[0] == LT_ACT_GELU_TANH ? 28
                                                              : 8;
    t.magnitude = f == EXTREME ? -1 : 1;
    run_test(&t);
    t = elementwise("multiply", WIDE, true);
    t.launch = launch_multiply;
    t.expect = expect_multiply;
    t.units = 1;
    run_test(&t);
    t = elementwise("combine", WIDE, true);
    t.launch = launch_combine;
    t.expect = expect_combine;
    run_test(&t);
    t = elementwise("add_broadcast", WIDE, false);
    int64_t period = ONE_OF(1, 3, 8, 24, 100);
    free(t.in[0].data);
    t.out.n = period * draw(1, 40);
    t.in[0] = make_array(t.out.dtype, t.out.n, WIDE);
    t.in[1] = make_array(t.out.dtype, period, WIDE);
    t.launch = launch_broadcast;
    t.expect = expect_broadcast;
    t.units = 1;
    run_test(&t);
}

/* SiLU and its kin where e^-x is about to overflow, has done so, or is 0; and what is not finite. */
static void check_tails(void)
{
    static const double special[] = {INFINITY, -INFINITY, NAN,       0,    -0.0,  1e-45, -1e-45, 1e-40,
                                     -1e-40,   0x1p-126,  -0x1p-126, 1e38, -1e38, -87.5, -88,    -88.5,
                                     -88.7,    -88.8,     -89,       -126, -1000, 126,   1000,   -51.8};
    enum { SWEEP = 1000 };
    test t = {
        .out = {LT_F32, LT_COUNT(special) + SWEEP, NULL}, .launch = launch_affine, .expect = expect_affine};
    t.in[0] = make_array(LT_F32, t.out.n, NORMAL);
    for (int64_t i = 0; i < t.out.n; i++) {
        double v = i < SWEEP ? -95 + 120 * (double)draw(0, 1000000) * 1e-6 : special[i - SWEEP];
        lt_store_f64(t.in[0].data, LT_F32, i, v);
    }
    t.ints[0] = ONE_OF(LT_ACT_SILU, LT_ACT_QUICK_GELU);
    t.reals[0] = 1;
    t.units = 8;
    t.magnitude = -1;
    /* Below -88.72 e^-x is infinite: what is lost there, 2.6e-37, less the 1e-37 of every bound. */
    t.absolute = 1.7e-37;
    snprintf(t.name, sizeof(t.name), "tails of activation %lld", (long long)t.ints[0]);
    run_test(&t);
}

/* ---- rows: ints are n, rows, channels ------------------------------------------------------------------------ */

static lt_status launch_add_gated(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_add_gated(s, t->out.dtype, out, in[0], in[1], t->ints[3] != 0, in[2], t->ints[0],
                               t->ints[1], t->ints[2]);
}

static double expect_add_gated(const test *t, int64_t i)
{
    int64_t channels = t->ints[2], row = i / channels / t->ints[1] * channels + i % channels;
    double gate = t->in[2].data ? value_of(&t->in[2], row) : 1;
    return value_of(&t->in[0], i) + gate * value_of(&t->in[1], t->ints[3] ? row : i);
}

static lt_status launch_gated(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_gated(s, t->out.dtype, out, in[0], (lt_activation)t->ints[3], t->ints[0] * t->ints[1],
                           t->ints[2]);
}

static double expect_gated(const test *t, int64_t i)
{
    int64_t channels = t->ints[2], at = i / channels * 2 * channels + i % channels;
    return value_of(&t->in[0], at) *
           ref_activation((lt_activation)t->ints[3], value_of(&t->in[0], at + channels));
}

static lt_status launch_bias_act(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_bias_act(s, t->out.dtype, out, t->in[0].dtype, in[0], in[1], (lt_activation)t->ints[3],
                              in[2], t->ints[0] * t->ints[1], t->ints[2]);
}

static double expect_bias_act(const test *t, int64_t i)
{
    double v = value_of(&t->in[0], i) + (t->in[1].data ? value_of(&t->in[1], i % t->ints[2]) : 0);
    v = ref_activation((lt_activation)t->ints[3], v);
    return v + (t->in[2].data ? value_of(&t->in[2], i) : 0);
}

static test by_rows(const char *name)
{
    int64_t n = draw(1, 3), rows = draw(1, 9), channels = ONE_OF(1, 3, 4, 8, 17, 24, 72, 320);
    test t = {.out = {draw_dtype(), n * rows * channels, NULL}, .ints = {n, rows, channels}};
    snprintf(t.name, sizeof(t.name), "%s %s [%lld,%lld,%lld]", name, lt_dtype_name(t.out.dtype), (long long)n,
             (long long)rows, (long long)channels);
    return t;
}

static void check_rows(void)
{
    test t = by_rows("add_gated");
    t.ints[3] = draw(0, 1);
    t.in[0] = make_array(t.out.dtype, t.out.n, WIDE);
    t.in[1] = make_array(t.out.dtype, t.ints[3] ? t.ints[0] * t.ints[2] : t.out.n, WIDE);
    if (draw(0, 1)) t.in[2] = make_array(t.out.dtype, t.ints[0] * t.ints[2], NORMAL);
    t.launch = launch_add_gated;
    t.expect = expect_add_gated;
    t.units = 2;
    run_test(&t);
    t = by_rows("gated");
    t.ints[3] = draw(LT_ACT_NONE, LT_ACT_QUICK_GELU);
    t.in[0] = make_array(t.out.dtype, 2 * t.out.n, NORMAL);
    t.launch = launch_gated;
    t.expect = expect_gated;
    t.units = 8;
    run_test(&t);
    t = by_rows("bias_act");
    t.ints[3] = draw(LT_ACT_NONE, LT_ACT_QUICK_GELU);
    t.in[0] = make_array(draw(0, 1) ? LT_F32 : t.out.dtype, t.out.n, NORMAL);
    if (draw(0, 3)) t.in[1] = make_array(LT_F32, t.ints[2], NORMAL);
    if (draw(0, 1)) t.in[2] = make_array(t.out.dtype, t.out.n, NORMAL);
    t.launch = launch_bias_act;
    t.expect = expect_bias_act;
    t.units = 8;
    run_test(&t);
}

void check_elements(int n)
{
    for (int i = 0; i < 3 * n; i++) {
        check_places();
        check_rows();
    }
    for (int i = 0; i < n; i++) check_tails();
}

/* ---- conversions --------------------------------------------------------------------------------------------- */

static lt_status launch_convert(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_convert(s, out, t->out.dtype, in[0], t->in[0].dtype, t->out.n);
}

static double expect_same(const test *t, int64_t i)
{
    return value_of(&t->in[0], i);
}

static lt_status launch_from_pixels(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_pixels_to_values(s, t->out.dtype, out, in[0], (int)t->ints[0], t->out.n);
}

static double expect_from_pixels(const test *t, int64_t i)
{
    return value_of(&t->in[0], i) / ((double)((1 << t->ints[0]) - 1) / 2) - 1;
}

static lt_status launch_to_pixels(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_values_to_pixels(s, t->in[0].dtype, out, in[0], (int)t->ints[0], t->ints[1] != 0,
                                      t->out.n);
}

static double expect_to_pixels(const test *t, int64_t i)
{
    double max = (double)((1 << t->ints[0]) - 1), v = (value_of(&t->in[0], i) + 1) * (max / 2);
    v = v > 0 ? LT_MIN(v, max) : 0;
    return t->ints[1] ? floor(v) : v;
}

static lt_status launch_noise(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    return lt_launch_noise(s, t->out.dtype, out, t->ints[0], t->ints[1], (uint64_t)t->ints[2],
                           (uint32_t)t->ints[3], (uint64_t)t->ints[4]);
}

static double expect_noise(const test *t, int64_t i)
{
    float four[4];
    lt_noise_block(four, (uint64_t)t->ints[2], (uint32_t)t->ints[3],
                   (uint64_t)t->ints[4] + (uint64_t)(i / t->ints[1]), (uint32_t)(i % t->ints[1] / 4));
    return (double)four[i % t->ints[1] % 4];
}

static void check_convert(void)
{
    bool floats = draw(0, 2) != 0;
    lt_dtype from = floats ? (lt_dtype)ONE_OF(LT_F32, LT_BF16, LT_F16, LT_F64)
                           : (lt_dtype)ONE_OF(LT_U8, LT_U16, LT_I32, LT_I64);
    int64_t n = ONE_OF(1, 8, 100, 1003);
    test t = {.out = {(lt_dtype)draw(0, LT_N_DTYPES - 1), n, NULL},
              .launch = launch_convert,
              .expect = expect_same};
    t.in[0] = make_array(from, n, floats ? (fill)ONE_OF(WIDE, EXTREME) : BYTES);
    snprintf(t.name, sizeof(t.name), "convert %s to %s n %lld", lt_dtype_name(from),
             lt_dtype_name(t.out.dtype), (long long)n);
    run_test(&t);
}

static void check_pixels(void)
{
    int64_t bits = ONE_OF(1, 8, 8, 10, 12, 16), n = ONE_OF(1, 16, 100, 1003);
    test t = {.out = {draw_dtype(), n, NULL}, .ints = {bits}, .units = 2};
    t.launch = launch_from_pixels;
    t.expect = expect_from_pixels;
    t.in[0] = (array){bits <= 8 ? LT_U8 : LT_U16, n, malloc((size_t)(2 * n))};
    for (int64_t i = 0; i < n; i++)
        lt_store_f64(t.in[0].data, t.in[0].dtype, i, (double)draw(0, (1 << bits) - 1));
    snprintf(t.name, sizeof(t.name), "pixels_to_values %lld bits n %lld", (long long)bits, (long long)n);
    run_test(&t);
    t = (test){.out = {bits <= 8 ? LT_U8 : LT_U16, n, NULL}, .ints = {bits, draw(0, 1)}};
    t.launch = launch_to_pixels;
    t.expect = expect_to_pixels;
    t.in[0] = make_array(draw_dtype(), n, (fill)ONE_OF(NORMAL, EXTREME));
    snprintf(t.name, sizeof(t.name), "values_to_pixels %lld bits n %lld", (long long)bits, (long long)n);
    run_test(&t);
}

static void check_noise(void)
{
    int64_t frames = draw(1, 3), elements = ONE_OF(1, 4, 7, 300);
    test t = {
        .out = {draw_dtype(), frames * elements, NULL},
        .ints = {frames, elements, draw(0, INT64_MAX - 1), draw(0, INT32_MAX), draw(0, (int64_t)1 << 40)}};
    t.launch = launch_noise;
    t.expect = expect_noise;
    snprintf(t.name, sizeof(t.name), "noise [%lld,%lld]", (long long)frames, (long long)elements);
    run_test(&t);
}

void check_conversions(int n)
{
    for (int i = 0; i < 4 * n; i++) {
        check_convert();
        check_pixels();
        check_noise();
    }
}
