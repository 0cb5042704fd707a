/* ref_colour.c - Y'CbCr to RGB, by the formulas of ITU-R BT.601, 709 and 2020. */
#include "kernels/convert.h"
#include "kernels/ref/ref.h"

static double sample(const lt_yuv *p, const void *plane, int64_t pitch, int step, int64_t row, int64_t column)
{
    const char *line = (const char *)plane + row * pitch;
    return (double)((int64_t)lt_load_f64(line, p->bits > 8 ? LT_U16 : LT_U8, column * step) >> p->low_zeros);
}

/* Where a pixel lies among the samples of chroma along an axis. */
static double place(int64_t at, int shift, int halves, int64_t size)
{
    double place = shift ? ((double)at - halves / 2.0) / 2 : (double)at;
    return place < 0 ? 0 : LT_MIN(place, (double)size - 1);
}

static double chroma(const lt_yuv *p, const void *plane, int64_t y, int64_t x)
{
    int64_t w = (p->width + p->shift_x) >> p->shift_x, h = (p->height + p->shift_y) >> p->shift_y;
    double px = place(x, p->shift_x, p->at_x, w), py = place(y, p->shift_y, p->at_y, h);
    int64_t x0 = (int64_t)px, y0 = (int64_t)py, x1 = LT_MIN(x0 + 1, w - 1), y1 = LT_MIN(y0 + 1, h - 1);
    double fx = px - (double)x0, fy = py - (double)y0;
    double top = (1 - fx) * sample(p, plane, p->uv_pitch, p->uv_step, y0, x0) +
                 fx * sample(p, plane, p->uv_pitch, p->uv_step, y0, x1);
    double bottom = (1 - fx) * sample(p, plane, p->uv_pitch, p->uv_step, y1, x0) +
                    fx * sample(p, plane, p->uv_pitch, p->uv_step, y1, x1);
    return (1 - fy) * top + fy * bottom;
}

static void pixel(const lt_yuv *p, int64_t y, int64_t x, double rgb[3])
{
    static const double weights[][2] = {{0.299, 0.114}, {0.2126, 0.0722}, {0.2627, 0.0593}};
    double kr = weights[p->matrix][0], kb = weights[p->matrix][1], unit = (double)(1 << (p->bits - 8));
    double most = (double)((1 << p->bits) - 1), luma_range = p->full_range ? most : 219 * unit,
           chroma_range = p->full_range ? most : 224 * unit;
    double luma = sample(p, p->y, p->y_pitch, 1, y, x) - (p->full_range ? 0 : 16 * unit);
    double cb = (chroma(p, p->u, y, x) - 128 * unit) / chroma_range,
           cr = (chroma(p, p->v, y, x) - 128 * unit) / chroma_range;
    luma /= luma_range;
    rgb[0] = luma + 2 * (1 - kr) * cr;
    rgb[2] = luma + 2 * (1 - kb) * cb;
    rgb[1] = (luma - kr * rgb[0] - kb * rgb[2]) / (1 - kr - kb);
}

lt_status yuv_to_rgb_ref(lt_context *c, const lt_yuv *p, int bits, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    double most = (double)((1 << bits) - 1), rgb[3];
    int64_t at = 0;
    for (int64_t y = 0; y < out->shape[0]; y++)
        for (int64_t x = 0; x < out->shape[1]; x++) {
            pixel(p, LT_MIN(y, (int64_t)p->height - 1), LT_MIN(x, (int64_t)p->width - 1), rgb);
            for (int i = 0; i < 3; i++, at++)
                lt_store_f64(out->data, out->dtype, at,
                             rgb[i] > 0 ? LT_MIN(rgb[i] * most, most) : 0); /* integers: rounded */
        }
    return LT_OK;
}
