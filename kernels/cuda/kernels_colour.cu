/* kernels_colour.cu - Y'CbCr in planes to RGB in pixels, and back (ITU-R BT.601, 709, 2020; non-constant luminance). */
#include "kernels/cuda/device.cuh"

/* Samples as numbers: luma (s - y_zero) * y_scale in [0, 1], chroma (s - c_zero) * c_scale in [-1/2, 1/2]. */
struct colour_numbers {
    float kr, kg, kb;
    float y_zero, y_scale, c_zero, c_scale, most; /* most: the largest sample */
    float rgb_most;
    int shift_x, shift_y, low_zeros;
};

static bool is_picture(const lt_yuv *p, int bits_rgb)
{
    return p->width > 0 && p->height > 0 && p->bits >= 8 && p->bits <= 16 && p->low_zeros >= 0 &&
           p->bits + p->low_zeros <= 16 && (p->bits > 8 || p->low_zeros == 0) && p->shift_x >= 0 &&
           p->shift_x <= 1 && p->shift_y >= 0 && p->shift_y <= 1 && p->uv_step >= 1 && p->uv_step <= 2 &&
           p->at_x >= 0 && p->at_x <= 2 && p->at_y >= 0 && p->at_y <= 2 && bits_rgb >= 8 && bits_rgb <= 16;
}

/* Is chroma where MPEG-2 has it, where it is subsampled? */
static bool is_of_mpeg2(const lt_yuv *p)
{
    return (!p->shift_x || p->at_x == 0) && (!p->shift_y || p->at_y == 1);
}

static colour_numbers numbers_of(const lt_yuv *p, int bits_rgb)
{
    static const double weights[][2] = {{0.299, 0.114}, {0.2126, 0.0722}, {0.2627, 0.0593}};
    double kr = weights[p->matrix][0], kb = weights[p->matrix][1], unit = (double)(1 << (p->bits - 8));
    double most = (double)((1 << p->bits) - 1);
    colour_numbers c = {};
    c.kr = (float)kr;
    c.kg = (float)(1 - kr - kb);
    c.kb = (float)kb;
    c.y_zero = (float)(p->full_range ? 0 : 16 * unit);
    c.y_scale = (float)(p->full_range ? most : 219 * unit);
    c.c_zero = (float)(128 * unit);
    c.c_scale = (float)(p->full_range ? most : 224 * unit);
    c.most = (float)most;
    c.rgb_most = (float)((1 << bits_rgb) - 1);
    c.shift_x = p->shift_x;
    c.shift_y = p->shift_y;
    c.low_zeros = p->low_zeros;
    return c;
}

/* Sample (row, column) of a plane. */
template <class P>
static __device__ __forceinline__ float sample(const void *plane, int64_t pitch, int step, int row,
                                               int column, int low_zeros)
{
    const P *line = (const P *)((const char *)plane + row * pitch);
    return (float)(line[(int64_t)column * step] >> low_zeros);
}

static __device__ __forceinline__ float clamp_round(float v, float most)
{
    v = v > 0 ? v : 0;
    return rintf(v < most ? v : most);
}

/* Places of chroma around a pixel along an axis, and how much the second of them counts. `halves`: where subsampled chroma lies
 * (lt_yuv.at_x). */
struct neighbours {
    int first, second;
    float part;
};

static __device__ __forceinline__ neighbours around(int at, int shift, int halves, int size)
{
    neighbours n = {at, at, 0};
    if (!shift) return n;
    int quarters = 2 * at - halves + 4; /* behind the place before the first */
    n.first = quarters / 4 - 1;
    n.part = (float)(quarters % 4) * 0.25f;
    n.second = LT_MIN(n.first + 1, size - 1);
    n.first = LT_MAX(n.first, 0);
    return n;
}

template <class P>
static __device__ __forceinline__ float chroma_at(const void *plane, const lt_yuv &p, const neighbours &x,
                                                  const neighbours &y)
{
    float a = sample<P>(plane, p.uv_pitch, p.uv_step, y.first, x.first, p.low_zeros);
    float b = sample<P>(plane, p.uv_pitch, p.uv_step, y.first, x.second, p.low_zeros);
    float c = sample<P>(plane, p.uv_pitch, p.uv_step, y.second, x.first, p.low_zeros);
    float d = sample<P>(plane, p.uv_pitch, p.uv_step, y.second, x.second, p.low_zeros);
    float top = fmaf(b - a, x.part, a), bottom = fmaf(d - c, x.part, c);
    return fmaf(bottom - top, y.part, top);
}

template <class P, class R>
static __global__ void __launch_bounds__(THREADS)
    yuv_to_rgb(R *rgb, lt_yuv p, colour_numbers c, int64_t pixels, divisor width)
{
    int wc = (p.width + p.shift_x) >> p.shift_x, hc = (p.height + p.shift_y) >> p.shift_y;
    for (int64_t i = first_item(); i < pixels; i += item_stride()) {
        int row = (int)divide(i, width), column = (int)(i - (int64_t)row * width.d);
        row = LT_MIN(row, p.height - 1);
        column = LT_MIN(column, p.width - 1);
        neighbours x = around(column, p.shift_x, p.at_x, wc), y = around(row, p.shift_y, p.at_y, hc);
        float luma = (sample<P>(p.y, p.y_pitch, 1, row, column, p.low_zeros) - c.y_zero) / c.y_scale;
        float cb = (chroma_at<P>(p.u, p, x, y) - c.c_zero) / c.c_scale;
        float cr = (chroma_at<P>(p.v, p, x, y) - c.c_zero) / c.c_scale;
        float red = luma + 2 * (1 - c.kr) * cr, blue = luma + 2 * (1 - c.kb) * cb;
        float green = luma - (2 * c.kb * (1 - c.kb) / c.kg) * cb - (2 * c.kr * (1 - c.kr) / c.kg) * cr;
        rgb[3 * i] = (R)clamp_round(red * c.rgb_most, c.rgb_most);
        rgb[3 * i + 1] = (R)clamp_round(green * c.rgb_most, c.rgb_most);
        rgb[3 * i + 2] = (R)clamp_round(blue * c.rgb_most, c.rgb_most);
    }
}

lt_status lt_launch_yuv_to_rgb(lt_stream stream, void *rgb, int bits_rgb, int rgb_width, int rgb_height,
                               const lt_yuv *p)
{
    if (!is_picture(p, bits_rgb) || rgb_width < p->width || rgb_height < p->height) return LT_E_INVALID;
    colour_numbers c = numbers_of(p, bits_rgb);
    int64_t pixels = (int64_t)rgb_width * rgb_height, blocks = blocks_of(pixels);
    divisor width = divisor_of(rgb_width);
    if (p->bits == 8 && bits_rgb == 8)
        return launch(yuv_to_rgb<uint8_t, uint8_t>, blocks, 0, stream, (uint8_t *)rgb, *p, c, pixels, width);
    if (p->bits == 8)
        return launch(yuv_to_rgb<uint8_t, uint16_t>, blocks, 0, stream, (uint16_t *)rgb, *p, c, pixels,
                      width);
    if (bits_rgb == 8)
        return launch(yuv_to_rgb<uint16_t, uint8_t>, blocks, 0, stream, (uint8_t *)rgb, *p, c, pixels, width);
    return launch(yuv_to_rgb<uint16_t, uint16_t>, blocks, 0, stream, (uint16_t *)rgb, *p, c, pixels, width);
}

struct colour {
    float y, cb, cr; /* [0, 1], [-1/2, 1/2] */
};

template <class R>
static __device__ __forceinline__ colour colour_at(const R *rgb, const lt_yuv &p, const colour_numbers &c,
                                                   int row, int column)
{
    const R *at = rgb + 3 * ((int64_t)row * p.width + column);
    float r = (float)at[0] / c.rgb_most, g = (float)at[1] / c.rgb_most, b = (float)at[2] / c.rgb_most;
    float y = fmaf(c.kr, r, fmaf(c.kg, g, c.kb * b));
    colour v = {y, (b - y) / (2 * (1 - c.kb)), (r - y) / (2 * (1 - c.kr))};
    return v;
}

template <class P>
static __device__ __forceinline__ P sample_of(float v, float zero, float scale, const colour_numbers &c)
{
    return (P)((unsigned)clamp_round(fmaf(v, scale, zero), c.most) << c.low_zeros);
}

/* A thread takes a place of chroma and the one, two or four pixels of luma that belong to it. */
template <class P, class R>
static __global__ void __launch_bounds__(THREADS)
    rgb_to_yuv(lt_yuv p, const R *rgb, colour_numbers c, int64_t places, divisor across)
{
    for (int64_t i = first_item(); i < places; i += item_stride()) {
        int row = (int)divide(i, across), column = (int)(i - (int64_t)row * across.d);
        int x0 = column << p.shift_x, y0 = row << p.shift_y;
        float cb = 0, cr = 0, count = 0;
        for (int y = y0; y <= LT_MIN(y0 + p.shift_y, p.height - 1); y++) {
            for (int x = x0 - p.shift_x; x <= x0 + p.shift_x; x++) {
                /* The left edge repeats its column; the right one is left out where there is none. */
                if (x >= p.width) continue;
                colour v = colour_at(rgb, p, c, y, LT_MAX(x, 0));
                float part = p.shift_x && x == x0 ? 2 : 1;
                cb = fmaf(part, v.cb, cb);
                cr = fmaf(part, v.cr, cr);
                count += part;
                if (x < x0) continue;
                P *line = (P *)((char *)p.y + y * p.y_pitch);
                line[x] = sample_of<P>(v.y, c.y_zero, c.y_scale, c);
            }
        }
        int64_t at = (int64_t)column * p.uv_step;
        ((P *)((char *)p.u + row * p.uv_pitch))[at] = sample_of<P>(cb / count, c.c_zero, c.c_scale, c);
        ((P *)((char *)p.v + row * p.uv_pitch))[at] = sample_of<P>(cr / count, c.c_zero, c.c_scale, c);
    }
}

lt_status lt_launch_rgb_to_yuv(lt_stream stream, const lt_yuv *p, const void *rgb, int bits_rgb)
{
    if (!is_picture(p, bits_rgb) || !is_of_mpeg2(p)) return LT_E_INVALID;
    colour_numbers c = numbers_of(p, bits_rgb);
    int64_t wc = (p->width + p->shift_x) >> p->shift_x, hc = (p->height + p->shift_y) >> p->shift_y;
    int64_t places = wc * hc, blocks = blocks_of(places);
    divisor across = divisor_of(wc);
    if (p->bits == 8 && bits_rgb == 8)
        return launch(rgb_to_yuv<uint8_t, uint8_t>, blocks, 0, stream, *p, (const uint8_t *)rgb, c, places,
                      across);
    if (p->bits == 8)
        return launch(rgb_to_yuv<uint8_t, uint16_t>, blocks, 0, stream, *p, (const uint16_t *)rgb, c, places,
                      across);
    if (bits_rgb == 8)
        return launch(rgb_to_yuv<uint16_t, uint8_t>, blocks, 0, stream, *p, (const uint8_t *)rgb, c, places,
                      across);
    return launch(rgb_to_yuv<uint16_t, uint16_t>, blocks, 0, stream, *p, (const uint16_t *)rgb, c, places,
                  across);
}
