/* colour.c - Y'CbCr to RGB, in f32. No stage converts here: it is what a device of the tests does. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* What the formulas need of a picture. */
typedef struct numbers {
    float y_zero, y_scale, c_zero, c_scale;
    float red, blue, green_cb, green_cr, most;
} numbers;

static numbers numbers_of(const lt_yuv *p, int bits)
{
    static const double weights[][2] = {{0.299, 0.114}, {0.2126, 0.0722}, {0.2627, 0.0593}};
    double kr = weights[p->matrix][0], kb = weights[p->matrix][1], kg = 1 - kr - kb;
    double unit = (double)(1 << (p->bits - 8)), most = (double)((1 << p->bits) - 1);
    return (numbers){.y_zero = (float)(p->full_range ? 0 : 16 * unit),
                     .y_scale = (float)(p->full_range ? most : 219 * unit),
                     .c_zero = (float)(128 * unit),
                     .c_scale = (float)(p->full_range ? most : 224 * unit),
                     .red = (float)(2 * (1 - kr)),
                     .blue = (float)(2 * (1 - kb)),
                     .green_cb = (float)(2 * kb * (1 - kb) / kg),
                     .green_cr = (float)(2 * kr * (1 - kr) / kg),
                     .most = (float)((1 << bits) - 1)};
}

static float sample(const lt_yuv *p, const void *plane, int64_t pitch, int64_t at, int64_t row)
{
    const char *line = (const char *)plane + row * pitch;
    uint16_t wide;
    if (p->bits == 8) return (float)((const unsigned char *)line)[at];
    memcpy(&wide, line + 2 * at, sizeof(wide));
    return (float)(wide >> p->low_zeros);
}

/* The two places of chroma around a pixel, and how much the second counts. */
typedef struct around {
    int64_t first, second;
    float part;
} around;

static around around_of(int64_t at, int shift, int halves, int64_t size)
{
    if (!shift) return (around){at, at, 0};
    int64_t quarters = 2 * at - halves + 4, first = quarters / 4 - 1; /* quarters behind the place -1 */
    return (around){LT_MAX(first, (int64_t)0), LT_MIN(first + 1, size - 1), (float)(quarters % 4) * 0.25f};
}

static float chroma(const lt_yuv *p, const void *plane, const around *x, const around *y)
{
    int64_t left = x->first * p->uv_step, right = x->second * p->uv_step;
    float a = sample(p, plane, p->uv_pitch, left, y->first),
          b = sample(p, plane, p->uv_pitch, right, y->first);
    float c = sample(p, plane, p->uv_pitch, left, y->second),
          d = sample(p, plane, p->uv_pitch, right, y->second);
    float top = a + (b - a) * x->part, bottom = c + (d - c) * x->part;
    return top + (bottom - top) * y->part;
}

static void store(const lt_tensor *out, int64_t at, float value, float most)
{
    float rounded = nearbyintf(value > 0 ? LT_MIN(value * most, most) : 0);
    if (out->dtype == LT_U8)
        ((uint8_t *)out->data)[at] = (uint8_t)rounded;
    else
        ((uint16_t *)out->data)[at] = (uint16_t)rounded;
}

static void convert_row(const lt_yuv *p, const numbers *n, int64_t row, const lt_tensor *out)
{
    int64_t wc = (p->width + p->shift_x) >> p->shift_x, hc = (p->height + p->shift_y) >> p->shift_y;
    int64_t from = LT_MIN(row, (int64_t)p->height - 1), at = row * out->shape[1] * 3;
    around y = around_of(from, p->shift_y, p->at_y, hc);
    for (int64_t i = 0; i < out->shape[1]; i++, at += 3) {
        int64_t column = LT_MIN(i, (int64_t)p->width - 1);
        around x = around_of(column, p->shift_x, p->at_x, wc);
        float luma = (sample(p, p->y, p->y_pitch, column, from) - n->y_zero) / n->y_scale;
        float cb = (chroma(p, p->u, &x, &y) - n->c_zero) / n->c_scale;
        float cr = (chroma(p, p->v, &x, &y) - n->c_zero) / n->c_scale;
        store(out, at, luma + n->red * cr, n->most);
        store(out, at + 1, luma - n->green_cb * cb - n->green_cr * cr, n->most);
        store(out, at + 2, luma + n->blue * cb, n->most);
    }
}

lt_status yuv_to_rgb_cpu(lt_context *c, const lt_yuv *p, int bits, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    numbers n = numbers_of(p, bits);
#pragma omp parallel for num_threads(cpu_of(c)->threads) schedule(static)
    for (int64_t row = 0; row < out->shape[0]; row++) convert_row(p, &n, row, out);
    return LT_OK;
}
