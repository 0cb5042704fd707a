/* kernels_taps.cu - a convolution's result from the products of every element with every tap (few.c). */
#include "kernels/cuda/device.cuh"

struct taps_shape {
    lt_tap_sums d;
    divisor wo, lines;
};

/* A thread for each pixel. */
template <class T, int O>
static __global__ void __launch_bounds__(THREADS)
    tap_sums(void *out, const float *products, const float *bias, const void *residual, int64_t pixels,
             taps_shape s)
{
    typedef typename T::storage S;
    const lt_tap_sums &d = s.d;
    for (int64_t i = first_item(); i < pixels; i += item_stride()) {
        int64_t line = divide(i, s.wo), x = i - line * d.wo, image = divide(line, s.lines);
        int64_t y = line - image * d.lines + d.line0 - d.top - d.x_line0; /* in the lines of products */
        float sums[O] = {};
        for (int64_t kh = 0; kh < d.kh; kh++) {
            if (y + kh < 0 || y + kh >= d.x_lines) continue;
            for (int64_t kw = 0; kw < d.kw; kw++) {
                int64_t column = x - d.left + kw;
                if (column < 0 || column >= d.w) continue;
                const float *from = products + ((image * d.x_lines + y + kh) * d.w + column) * d.columns +
                                    (kh * d.kw + kw) * O;
#pragma unroll
                for (int o = 0; o < O; o++) sums[o] += from[o];
            }
        }
#pragma unroll
        for (int o = 0; o < O; o++) {
            if (bias) sums[o] += bias[o];
            if (residual) sums[o] += T::get(((const S *)residual)[i * O + o]);
            ((S *)out)[i * O + o] = T::put(sums[o]);
        }
    }
}

lt_status lt_launch_tap_sums(lt_stream stream, lt_dtype dtype, void *out, const float *products,
                             const float *bias, const void *residual, const lt_tap_sums *d)
{
    if (d->images < 0 || d->lines < 0 || d->wo < 0 || d->o < 1 || d->o > LT_TAP_OUTPUTS ||
        d->columns < d->kh * d->kw * d->o || !is_float(dtype))
        return LT_E_INVALID;
    int64_t pixels = d->images * d->lines * d->wo;
    if (pixels == 0) return LT_OK;
    taps_shape s = {*d, divisor_of(d->wo), divisor_of(d->lines)};
    WITH_DTYPE(dtype, T,
               return launch(d->o == 1   ? tap_sums<T, 1>
                             : d->o == 2 ? tap_sums<T, 2>
                             : d->o == 3 ? tap_sums<T, 3>
                                         : tap_sums<T, 4>,
                             blocks_of(pixels), 0, stream, out, products, bias, residual, pixels, s));
}
