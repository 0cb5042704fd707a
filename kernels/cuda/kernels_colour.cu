/* kernels_colour.cu - Y'CbCr in planes to RGB in pixels (ITU-R BT.601, 709, 2020; non-constant luminance). */
#include "kernels/cuda/device.cuh"

/* Samples as numbers: luma (s - y_zero) * y_scale in [0, 1], chroma (s - c_zero) * c_scale in [-1/2, 1/2]. */
struct colour_numbers {
    float kr, kg, kb;
    float y_zero, y_scale, c_zero, c_scale;
    float rgb_most; /* the largest sample of RGB */
};

static bool is_picture(const lt_yuv *p, int bits_rgb)
{
    return p->width > 0 && p->height > 0 && p->bits >= 8 && p->bits <= 16 && p->low_zeros >= 0 &&
           p->bits + p->low_zeros <= 16 && (p->bits > 8 || p->low_zeros == 0) && p->shift_x >= 0 &&
           p->shift_x <= 1 && p->shift_y >= 0 && p->shift_y <= 1 && p->uv_step >= 1 && p->uv_step <= 2 &&
           p->at_x >= 0 && p->at_x <= 2 && p->at_y >= 0 && p->at_y <= 2 && bits_rgb >= 8 && bits_rgb <= 16;
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
    c.rgb_most = (float)((1 << bits_rgb) - 1);
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
