/* kernelcheck_colour.c - pictures of Y'CbCr for the kernel checker. */
#include "tests/kernels/kernelcheck.h"

#include "kernels/backend.h"

#include <math.h>

/* ints: width, height; subsampling (0: 4:2:0, 1: 4:2:2, 2: 4:4:4); bits, low zeros; matrix; 1: full range, 2: interleaved; bits of RGB; columns
 * and rows of RGB beside the picture; samples at the end of a row that are none of it; where chroma lies (3 x down + across).
 * The picture is one array of samples: luma, then Cb and Cr. */
enum { WIDTH, HEIGHT, FORMAT, BITS, ZEROS, MATRIX, HOW, RGB_BITS, RIGHT, BELOW, GAP, PLACE };

static int64_t chroma_size(const int64_t *i, int along)
{
    int shift = along == WIDTH ? i[FORMAT] < 2 : i[FORMAT] == 0;
    return (i[along] + shift) >> shift;
}

/* Samples of a row of luma, of a row of chroma. */
static int64_t luma_row(const int64_t *i)
{
    return i[WIDTH] + i[GAP];
}

static int64_t chroma_row(const int64_t *i)
{
    return chroma_size(i, WIDTH) * (i[HOW] & 2 ? 2 : 1) + i[GAP];
}

static int64_t n_samples(const int64_t *i)
{
    return luma_row(i) * i[HEIGHT] + chroma_row(i) * chroma_size(i, HEIGHT) * (i[HOW] & 2 ? 1 : 2);
}

static lt_yuv picture_of(const int64_t *i, void *samples)
{
    int64_t size = i[BITS] > 8 ? 2 : 1;
    char *chroma = (char *)samples + luma_row(i) * i[HEIGHT] * size;
    int64_t second = i[HOW] & 2 ? 1 : chroma_row(i) * chroma_size(i, HEIGHT);
    return (lt_yuv){.y = samples,
                    .u = chroma,
                    .v = chroma + second * size,
                    .y_pitch = luma_row(i) * size,
                    .uv_pitch = chroma_row(i) * size,
                    .uv_step = i[HOW] & 2 ? 2 : 1,
                    .width = (int)i[WIDTH],
                    .height = (int)i[HEIGHT],
                    .shift_x = i[FORMAT] < 2,
                    .shift_y = i[FORMAT] == 0,
                    .at_x = (int)i[PLACE] % 3,
                    .at_y = (int)i[PLACE] / 3,
                    .bits = (int)i[BITS],
                    .low_zeros = (int)i[ZEROS],
                    .matrix = (lt_colour_matrix)i[MATRIX],
                    .full_range = i[HOW] & 1};
}

/* The reference is not rounded. */
static lt_tensor run_yuv_to_rgb(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    const int64_t *i = k->ints, shape[] = {1, i[HEIGHT] + i[BELOW], i[WIDTH] + i[RIGHT], 3};
    bool exact = c->backend->any_float && c->dtype == LT_F64;
    lt_tensor out = lt_new(c, exact ? LT_F64 : i[RGB_BITS] == 8 ? LT_U8 : LT_U16, 4, shape);
    lt_yuv picture = picture_of(i, in[0].data);
    if (out.data) lt_yuv_to_rgb(c, &picture, (int)i[RGB_BITS], out);
    return out;
}

void make_yuv_to_rgb(op_case *k, rng *r, bool big)
{
    k->op = "yuv_to_rgb";
    k->run = run_yuv_to_rgb;
    k->n_inputs = 1;
    int64_t *i = k->ints;
    i[WIDTH] = rng_range(r, 1, big ? 700 : 20);
    i[HEIGHT] = rng_range(r, 1, big ? 300 : 20);
    i[FORMAT] = rng_range(r, 0, 2);
    i[BITS] = PICK(r, 8, 8, 10, 10, 12, 16);
    i[ZEROS] = i[BITS] == 10 ? PICK(r, 0, 6) : 0;
    i[MATRIX] = rng_range(r, 0, 2);
    i[HOW] = rng_range(r, 0, 3);
    i[RGB_BITS] = PICK(r, 8, 8, 16, 16, 10);
    i[RIGHT] = rng_range(r, 0, 8);
    i[BELOW] = rng_range(r, 0, 8);
    i[GAP] = PICK(r, 0, 1, 7);
    i[PLACE] = PICK(r, 3, 3, 0, 1, 2, 4, 5, 6, 7, 8);
    k->inputs[0] = (spec){.rank = 2,
                          .shape = {1, n_samples(i)},
                          .dtype = i[BITS] > 8 ? LT_U16 : LT_U8,
                          .values = VALUES_PIXELS,
                          .scale = (double)(1 << (i[BITS] + i[ZEROS]))};
    k->absolute = 0.5 + (i[RGB_BITS] == 8 ? 0x1p-8 : pow(2, (double)i[RGB_BITS] - 20));
}
