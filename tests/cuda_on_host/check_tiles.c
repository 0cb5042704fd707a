/* check_tiles.c - tiles added up in f32 exactly as models/tiling.c does it; colour against its formulas in f64. */
#include "tests/cuda_on_host/check.h"
#include "kernels/convert.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- tiles ---------------------------------------------------------------------------------------------------- */

/* ints: t, height, width, channels, row, column, h, w, border, ends. Sums in in[0], in place; the tile in in[1]. */
static lt_tile_weights weights_of(const test *t)
{
    const int64_t *i = t->ints;
    return (lt_tile_weights){.time = {i[0], i[9] & 1, i[9] & 2},
                             .rows = {i[6], i[9] & 4, i[9] & 8},
                             .columns = {i[7], i[9] & 16, i[9] & 32},
                             .border = i[8]};
}

static lt_status launch_add(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    const int64_t *i = t->ints;
    lt_tile_weights w = weights_of(t);
    return lt_launch_tile_add(s, t->in[1].dtype, out, in[1], i[0], i[1], i[2], i[3], i[4], i[5], &w);
}

static double expect_add(const test *t, int64_t at)
{
    const int64_t *i = t->ints;
    lt_tile_weights m = weights_of(t);
    int64_t c = at % i[3], x = at / i[3] % i[2] - i[5], y = at / i[3] / i[2] % i[1] - i[4];
    int64_t f = at / i[3] / i[2] / i[1];
    float sum = (float)value_of(&t->in[0], at);
    if (x < 0 || x >= i[7] || y < 0 || y >= i[6]) return (double)sum;
    int64_t near = LT_MIN(lt_ramp_distance(&m.time, f, m.border), lt_ramp_distance(&m.rows, y, m.border));
    near = LT_MIN(near, lt_ramp_distance(&m.columns, x, m.border));
    float product =
        (float)value_of(&t->in[1], ((f * i[6] + y) * i[7] + x) * i[3] + c) * lt_tile_weight(&m, near);
    return (double)(sum + product);
}

static void check_add(void)
{
    int64_t f = draw(1, 3), height = draw(2, 12), width = draw(2, 12), channels = ONE_OF(1, 3, 3, 8);
    int64_t row = draw(0, height - 1), column = draw(0, width - 1), h = draw(1, height - row),
            w = draw(1, width - column);
    test t = {.ints = {f, height, width, channels, row, column, h, w, draw(1, 6), draw(0, 63)},
              .in_place = true,
              .launch = launch_add,
              .expect = expect_add};
    t.in[0] = make_array(LT_F32, f * height * width * channels, WIDE);
    t.in[1] = make_array(draw_dtype(), f * h * w * channels, WIDE);
    t.out = (array){LT_F32, t.in[0].n, NULL};
    snprintf(t.name, sizeof(t.name), "tile_add %s %lld channels", lt_dtype_name(t.in[1].dtype),
             (long long)channels);
    run_test(&t);
}

void check_tiles(int n)
{
    for (int i = 0; i < 3 * n; i++) check_add();
}

/* ---- colour --------------------------------------------------------------------------------------------------- */

/* ints: width, height, shift_x, shift_y, bits, low_zeros, matrix, full range, bits of RGB, columns and rows of RGB beside the picture (8 x
 * rows + columns), interleaved, where chroma lies (3 x down + across). The picture is one array of samples: luma, then Cb and Cr, in planes
 * or interleaved. */
static lt_yuv picture_of(const test *t, void *samples)
{
    const int64_t *i = t->ints;
    int64_t size = i[4] > 8 ? 2 : 1, wc = (i[0] + i[2]) >> i[2], hc = (i[1] + i[3]) >> i[3];
    char *chroma = (char *)samples + i[0] * i[1] * size;
    return (lt_yuv){.y = samples,
                    .u = chroma,
                    .v = chroma + (i[10] ? size : wc * hc * size),
                    .y_pitch = i[0] * size,
                    .uv_pitch = wc * size * (i[10] ? 2 : 1),
                    .uv_step = i[10] ? 2 : 1,
                    .width = (int)i[0],
                    .height = (int)i[1],
                    .shift_x = (int)i[2],
                    .shift_y = (int)i[3],
                    .at_x = (int)(i[11] % 3),
                    .at_y = (int)(i[11] / 3),
                    .bits = (int)i[4],
                    .low_zeros = (int)i[5],
                    .matrix = (lt_colour_matrix)i[6],
                    .full_range = i[7] != 0};
}

static int64_t chroma_place(const test *t, int plane, int64_t y, int64_t x)
{
    const int64_t *i = t->ints;
    int64_t wc = (i[0] + i[2]) >> i[2], hc = (i[1] + i[3]) >> i[3], at = y * wc + x;
    return i[0] * i[1] + (i[10] ? 2 * at + plane : plane * wc * hc + at);
}

typedef struct numbers {
    double kr, kb, y_zero, y_scale, c_zero, c_scale, rgb;
} numbers;

static numbers numbers_of(const test *t)
{
    static const double k[][2] = {{0.299, 0.114}, {0.2126, 0.0722}, {0.2627, 0.0593}};
    const int64_t *i = t->ints;
    double unit = (double)(1 << (i[4] - 8)), most = (double)((1 << i[4]) - 1);
    return (numbers){k[i[6]][0],
                     k[i[6]][1],
                     i[7] ? 0 : 16 * unit,
                     i[7] ? most : 219 * unit,
                     128 * unit,
                     i[7] ? most : 224 * unit,
                     (double)((1 << i[8]) - 1)};
}

/* Chroma of a plane at a pixel, interpolated: columns on the even pixels, rows between two. */
static double chroma_at(const test *t, int plane, int64_t y, int64_t x)
{
    const int64_t *i = t->ints;
    int64_t wc = (i[0] + i[2]) >> i[2], hc = (i[1] + i[3]) >> i[3];
    double py = (double)y, px = (double)x;
    if (i[3]) py = LT_MAX((py - (double)(i[11] / 3) / 2) / 2, 0);
    if (i[2]) px = LT_MAX((px - (double)(i[11] % 3) / 2) / 2, 0);
    int64_t y0 = (int64_t)py, x0 = (int64_t)px, y1 = LT_MIN(y0 + 1, hc - 1), x1 = LT_MIN(x0 + 1, wc - 1);
    double fy = py - (double)y0, fx = px - (double)x0, v[2];
    int64_t at[2] = {y0, y1};
    for (int r = 0; r < 2; r++)
        v[r] = (1 - fx) * (double)((int64_t)value_of(&t->in[0], chroma_place(t, plane, at[r], x0)) >> i[5]) +
               fx * (double)((int64_t)value_of(&t->in[0], chroma_place(t, plane, at[r], x1)) >> i[5]);
    return (1 - fy) * v[0] + fy * v[1];
}

static double clamp(double v, double most)
{
    return v < 0 ? 0 : v > most ? most : v;
}

static double expect_rgb(const test *t, int64_t at)
{
    numbers k = numbers_of(t);
    int64_t width = t->ints[0] + t->ints[9] % 8, c = at % 3;
    int64_t x = LT_MIN(at / 3 % width, t->ints[0] - 1), y = LT_MIN(at / 3 / width, t->ints[1] - 1);
    double luma = (double)((int64_t)value_of(&t->in[0], y * t->ints[0] + x) >> t->ints[5]);
    luma = (luma - k.y_zero) / k.y_scale;
    double cb = (chroma_at(t, 0, y, x) - k.c_zero) / k.c_scale,
           cr = (chroma_at(t, 1, y, x) - k.c_zero) / k.c_scale;
    double r = luma + 2 * (1 - k.kr) * cr, b = luma + 2 * (1 - k.kb) * cb;
    double g = (luma - k.kr * r - k.kb * b) / (1 - k.kr - k.kb);
    return clamp((c == 0 ? r : c == 1 ? g : b) * k.rgb, k.rgb);
}

static lt_status launch_rgb(const test *t, lt_stream s, void *const *in, void *out, void *scratch)
{
    lt_yuv p = picture_of(t, in[0]);
    return lt_launch_yuv_to_rgb(s, out, (int)t->ints[8], (int)(t->ints[0] + t->ints[9] % 8),
                                (int)(t->ints[1] + t->ints[9] / 8), &p);
}

void check_colour(int n)
{
    for (int c = 0; c < 6 * n; c++) {
        int64_t bits = ONE_OF(8, 10, 12, 16), rgb = ONE_OF(8, 8, 10, 16), sx = draw(0, 1),
                sy = sx && draw(0, 1);
        int64_t zeros = bits == 10 && draw(0, 1) ? 6 : 0, w = draw(1, 13), h = draw(1, 13);
        int64_t samples = w * h + 2 * ((w + sx) >> sx) * ((h + sy) >> sy), beside = draw(0, 63);
        test t = {
            .ints = {w, h, sx, sy, bits, zeros, draw(0, 2), draw(0, 1), rgb, beside, draw(0, 1), draw(0, 8)},
            .launch = launch_rgb,
            .expect = expect_rgb};
        t.in[0] = make_array(bits > 8 ? LT_U16 : LT_U8, samples, BYTES);
        for (int64_t i = 0; i < samples; i++)
            lt_store_f64(t.in[0].data, t.in[0].dtype, i, (double)(draw(0, (1 << bits) - 1) << zeros));
        t.out = (array){rgb > 8 ? LT_U16 : LT_U8, 3 * (w + beside % 8) * (h + beside / 8), NULL};
        t.absolute = 0.5 + (rgb == 8 ? 0x1p-8 : pow(2, (double)rgb - 20));
        snprintf(t.name, sizeof(t.name),
                 "yuv_to_rgb %lldx%lld bits %lld rgb %lld shifts %lld,%lld matrix %lld", (long long)w,
                 (long long)h, (long long)bits, (long long)rgb, (long long)sx, (long long)sy,
                 (long long)t.ints[6]);
        run_test(&t);
    }
}
