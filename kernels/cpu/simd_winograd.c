/* simd_winograd.c - the transforms of Winograd's convolution (Lavin and Gray, 2015), a vector of channels at a time.
 *
 * Along an axis 4 points take 4 inputs to 2 outputs, F(2,3), and 6 points 6 inputs to 4 outputs, F(4,3). F(2,3) has the points
 * 0, 1, -1 and infinity: additions only. F(4,3) has 0, +-3/4, +-3/2 and infinity, whose factors are exact and whose error is less than
 * half that of the usual 0, +-1, +-2. (Of points: Barabasz et al., Error analysis and improving the accuracy of Winograd
 * convolution, 2018.) winograd.c has the third transform, of weights. */
#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/simd_tables.h"

#define A 0.75f
#define B 1.5f

/* Inputs of an axis, `step` vectors apart, become their values at the points. */
INLINE void to_points(vf *d, int step, int points)
{
    vf d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
    if (points == 4) {
        d[0] = d0 - d2;
        d[step] = d1 + d2;
        d[2 * step] = d2 - d1;
        d[3 * step] = d1 - d3;
        return;
    }
    vf d4 = d[4 * step], d5 = d[5 * step];
    vf even_a = madd(splat(-B * B), d2, d4), odd_a = madd(splat(-B * B), d1, d3);
    vf even_b = madd(splat(-A * A), d2, d4), odd_b = madd(splat(-A * A), d1, d3);
    d[0] = madd(splat(A * A * B * B), d0, madd(splat(-(A * A + B * B)), d2, d4));
    d[step] = madd(splat(A), odd_a, even_a);
    d[2 * step] = madd(splat(-A), odd_a, even_a);
    d[3 * step] = madd(splat(B), odd_b, even_b);
    d[4 * step] = madd(splat(-B), odd_b, even_b);
    d[5 * step] = madd(splat(A * A * B * B), d1, madd(splat(-(A * A + B * B)), d3, d5));
}

/* And back: 2 outputs of 4 points, 4 of 6. */
INLINE void from_points(vf *m, int step, int points)
{
    vf m0 = m[0], sum_a = m[step] + m[2 * step], difference_a = m[step] - m[2 * step], m3 = m[3 * step];
    if (points == 4) {
        m[0] = m0 + sum_a;
        m[step] = difference_a - m3;
        return;
    }
    vf sum_b = m3 + m[4 * step], difference_b = m3 - m[4 * step];
    m[0] = m0 + sum_a + sum_b;
    m[step] = madd(splat(A), difference_a, splat(B) * difference_b);
    m[2 * step] = madd(splat(A * A), sum_a, splat(B * B) * sum_b);
    m[3 * step] = madd(splat(A * A * A), difference_a, madd(splat(B * B * B), difference_b, m[5 * step]));
}

/* Channels i .. i + count - 1 of a tile. */
INLINE void tile_in(float *to, int64_t plane, const void *const *from, bool bf16, int t, int hw, int64_t i,
                    int64_t count)
{
    vf d[WINOGRAD_POINTS];
    int frame = hw * hw;
#pragma GCC unroll 36
    for (int p = 0; p < t * frame; p++)
        d[p] = count == LANES ? load_t(from[p], bf16, i) : load_tail(from[p], bf16, i, count);
    for (int f = 0; f < t && hw > 1; f++) {
#pragma GCC unroll 6
        for (int w = 0; w < hw; w++) to_points(d + f * frame + w, hw, hw);
#pragma GCC unroll 6
        for (int h = 0; h < hw; h++) to_points(d + f * frame + h * hw, 1, hw);
    }
    for (int p = 0; p < frame && t > 1; p++) to_points(d + p, frame, t);
#pragma GCC unroll 36
    for (int p = 0; p < t * frame; p++) store_f32(to + p * plane + i, d[p]);
}

INLINE void tile_out(const cpu_winograd_out *o, bool bf16, int t, int hw, int64_t i, int64_t count)
{
    vf m[WINOGRAD_POINTS];
    int frame = hw * hw, outputs = hw > 1 ? hw - 2 : 1;
    vf bias = splat(0.0f);
    if (o->bias) bias = count == LANES ? load_f32(o->bias + i) : load_tail(o->bias, false, i, count);
#pragma GCC unroll 36
    for (int p = 0; p < t * frame; p++) m[p] = load_f32(o->sums + p * o->plane + i);
    for (int p = 0; p < frame && t > 1; p++) from_points(m + p, frame, t);
    for (int f = 0; f < (t > 1 ? t - 2 : 1); f++) {
        vf *of = m + f * frame;
#pragma GCC unroll 6
        for (int w = 0; w < hw && hw > 1; w++) from_points(of + w, hw, hw);
#pragma GCC unroll 4
        for (int h = 0; h < outputs; h++) {
            if (hw > 1) from_points(of + h * hw, 1, hw);
#pragma GCC unroll 4
            for (int w = 0; w < outputs; w++) {
                int at = (f * outputs + h) * outputs + w;
                void *to = o->to[at];
                if (!to) continue;
                vf v = of[h * hw + w] + bias;
                if (count == LANES) {
                    if (o->residual) v += load_t(o->residual[at], bf16, i);
                    store_t(to, bf16, i, v);
                } else {
                    if (o->residual) v += load_tail(o->residual[at], bf16, i, count);
                    store_tail(to, bf16, i, v, count);
                }
            }
        }
    }
}

INLINE void in_body(float *to, int64_t plane, const void *const *from, bool bf16, int t, int hw,
                    int64_t inputs)
{
    int64_t i = 0;
    for (; i + LANES <= inputs; i += LANES) tile_in(to, plane, from, bf16, t, hw, i, LANES);
    if (i < inputs) tile_in(to, plane, from, bf16, t, hw, i, inputs - i);
}

INLINE void out_body(const cpu_winograd_out *o, bool bf16, int t, int hw)
{
    int64_t i = 0;
    for (; i + LANES <= o->n; i += LANES) tile_out(o, bf16, t, hw, i, LANES);
    if (i < o->n) tile_out(o, bf16, t, hw, i, o->n - i);
}

INLINE void in_form(float *to, int64_t plane, const void *const *from, bool bf16, cpu_winograd form,
                    int64_t inputs)
{
    if (form.t > 1 && form.hw > 1) {
        in_body(to, plane, from, bf16, 4, 4, inputs);
    } else if (form.t > 1) {
        in_body(to, plane, from, bf16, 4, 1, inputs);
    } else if (form.hw == 4) {
        in_body(to, plane, from, bf16, 1, 4, inputs);
    } else {
        in_body(to, plane, from, bf16, 1, 6, inputs);
    }
}

INLINE void out_form(const cpu_winograd_out *o, bool bf16, cpu_winograd form)
{
    if (form.t > 1 && form.hw > 1) {
        out_body(o, bf16, 4, 4);
    } else if (form.t > 1) {
        out_body(o, bf16, 4, 1);
    } else if (form.hw == 4) {
        out_body(o, bf16, 1, 4);
    } else {
        out_body(o, bf16, 1, 6);
    }
}

void SIMD_NAME(winograd_in)(float *to, int64_t plane, const void *const *from, bool bf16, cpu_winograd form,
                            int64_t inputs)
{
    if (bf16) {
        in_form(to, plane, from, true, form, inputs);
    } else {
        in_form(to, plane, from, false, form, inputs);
    }
}

void SIMD_NAME(winograd_out)(const cpu_winograd_out *o, bool bf16, cpu_winograd form)
{
    if (bf16) {
        out_form(o, true, form);
    } else {
        out_form(o, false, form);
    }
}
