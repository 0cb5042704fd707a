/* resample.c - separable bicubic interpolation in fixed point. */
#include "stages/video/resample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FRACTION_BITS = 22 };

/* Along one axis: sample i of the result is the sum of count[i] samples from first[i] on, weighted. */
typedef struct axis {
    int in, out, room;
    int *first, *count;
    int32_t *weights; /* room of them a sample */
} axis;

struct lt_resample {
    axis x, y;
    int bits;
    uint8_t *rows; /* [in_height, out_width, 3], after the first pass */
};

static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/* Weights of one sample: of the filter around its centre, their sum 1. */
static void fill_sample(axis *a, int i, double scale, double widen)
{
    double centre = (i + 0.5) * scale, support = 2 * widen, sum = 0;
    int first = LT_MAX((int)(centre - support + 0.5), 0), end = LT_MIN((int)(centre + support + 0.5), a->in);
    int32_t *weights = a->weights + (size_t)i * (size_t)a->room;
    a->first[i] = first;
    a->count[i] = end - first;
    for (int k = first; k < end; k++) sum += cubic((k - centre + 0.5) / widen);
    for (int k = first; k < end; k++) {
        double weight = cubic((k - centre + 0.5) / widen) * (sum != 0 ? 1 / sum : 1) * (1 << FRACTION_BITS);
        weights[k - first] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
}

static bool make_axis(axis *a, int in, int out)
{
    double scale = (double)in / out, widen = LT_MAX(scale, 1.0);
    *a = (axis){.in = in, .out = out, .room = 2 * (int)ceil(2 * widen) + 1};
    a->first = malloc((size_t)out * sizeof *a->first);
    a->count = malloc((size_t)out * sizeof *a->count);
    a->weights = calloc((size_t)out * (size_t)a->room, sizeof *a->weights);
    if (!a->first || !a->count || !a->weights) return false;
    for (int i = 0; i < out; i++) fill_sample(a, i, scale, widen);
    return true;
}

static void free_axis(axis *a)
{
    free(a->first);
    free(a->count);
    free(a->weights);
}

lt_status lt_resample_create(lt_resample **out, int in_width, int in_height, int out_width, int out_height,
                             int bits, lt_err *err)
{
    lt_resample *r = *out = calloc(1, sizeof *r);
    if (!r) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a scaler");
    r->bits = bits;
    r->rows = malloc((size_t)in_height * (size_t)out_width * 3 * (size_t)(bits / 8));
    if (r->rows && make_axis(&r->x, in_width, out_width) && make_axis(&r->y, in_height, out_height))
        return LT_OK;
    lt_resample_destroy(r);
    *out = NULL;
    return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a scaler");
}

void lt_resample_destroy(lt_resample *r)
{
    if (!r) return;
    free_axis(&r->x);
    free_axis(&r->y);
    free(r->rows);
    free(r);
}

static inline int64_t clamp(int64_t sum, int64_t most)
{
    sum >>= FRACTION_BITS;
    return sum < 0 ? 0 : sum > most ? most : sum;
}

/* One sample of three channels: `step` samples lie between neighbours. */
static inline void sum8(const uint8_t *in, size_t step, int n, const int32_t *weights, uint8_t *out)
{
    int64_t sum[3] = {1 << (FRACTION_BITS - 1), 1 << (FRACTION_BITS - 1), 1 << (FRACTION_BITS - 1)};
    for (int k = 0; k < n; k++, in += step)
        for (int c = 0; c < 3; c++) sum[c] += (int64_t)in[c] * weights[k];
    for (int c = 0; c < 3; c++) out[c] = (uint8_t)clamp(sum[c], 255);
}

static inline void sum16(const uint16_t *in, size_t step, int n, const int32_t *weights, uint16_t *out)
{
    int64_t sum[3] = {1 << (FRACTION_BITS - 1), 1 << (FRACTION_BITS - 1), 1 << (FRACTION_BITS - 1)};
    for (int k = 0; k < n; k++, in += step)
        for (int c = 0; c < 3; c++) sum[c] += (int64_t)in[c] * weights[k];
    for (int c = 0; c < 3; c++) out[c] = (uint16_t)clamp(sum[c], 65535);
}

static void row(const lt_resample *r, const uint8_t *in, uint8_t *out)
{
    const axis *a = &r->x;
    for (int i = 0; i < a->out; i++) {
        const int32_t *weights = a->weights + (size_t)i * (size_t)a->room;
        size_t at = 3 * (size_t)a->first[i];
        if (r->bits == 8)
            sum8(in + at, 3, a->count[i], weights, out + 3 * (size_t)i);
        else
            sum16((const uint16_t *)(const void *)in + at, 3, a->count[i], weights,
                  (uint16_t *)(void *)out + 3 * (size_t)i);
    }
}

void lt_resample_run(const lt_resample *r, const uint8_t *in, size_t in_stride, uint8_t *out,
                     size_t out_stride)
{
    size_t samples = 3 * (size_t)r->x.out, bytes = samples * (size_t)(r->bits / 8);
    for (int y = 0; y < r->y.in; y++) {
        if (r->x.in == r->x.out)
            memcpy(r->rows + (size_t)y * bytes, in + (size_t)y * in_stride, bytes);
        else
            row(r, in + (size_t)y * in_stride, r->rows + (size_t)y * bytes);
    }
    for (int y = 0; y < r->y.out; y++, out += out_stride) {
        const int32_t *weights = r->y.weights + (size_t)y * (size_t)r->y.room;
        const uint8_t *from = r->rows + (size_t)r->y.first[y] * bytes;
        if (r->y.in == r->y.out) {
            memcpy(out, r->rows + (size_t)y * bytes, bytes);
            continue;
        }
        for (size_t i = 0; i < samples; i += 3) {
            if (r->bits == 8)
                sum8(from + i, samples, r->y.count[y], weights, out + i);
            else
                sum16((const uint16_t *)(const void *)from + i, samples, r->y.count[y], weights,
                      (uint16_t *)(void *)out + i);
        }
    }
}
