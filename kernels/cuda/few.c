/* few.c - convolutions over space to few channels, as the last of a decoder, which makes pictures.
 *
 * cuDNN asks for scratch memory of 8 channels for them, and has blocks of 128: of 128 channels to 3 at 576 x 1024 that would be
 * 174 GFLOP where 4 are asked for (by arithmetic; not measured). Taps and outputs together are as many as a product's block has columns: so every element is multiplied
 * with every tap of every output, 27 numbers in 32 columns, by one product of all pixels, and a result is the sum of the nine products
 * that belong to it. x is read once; the products, in f32, of some lines at a time, stay in the second-level cache until they are summed.
 * What a product is chosen for, and the order of a sum, follow from one image's size. */
#include "kernels/cuda/operators.h"

enum { FEWEST_INPUTS = 64 }; /* of fewer, x is smaller than its products */

bool cuda_has_few_outputs(const lt_context *c, const lt_conv_dims *d)
{
    bool over_space = d->kt == 1 && d->st == 1 && d->front == 0 && d->back == 0 && d->sh == 1 && d->sw == 1;
    return c->dtype != LT_F32 && over_space && d->kh * d->kw > 1 && d->o <= LT_TAP_OUTPUTS &&
           d->i >= FEWEST_INPUTS && d->i % CUDA_CHANNELS == 0 && d->h > 0 &&
           d->w > 0; /* or only pads are seen */
}

typedef struct few_call {
    const lt_conv_dims *d;
    const char *x;
    const void *weight, *residual;
    const float *bias;
    char *y;
    float *products;
    int64_t columns;
} few_call;

/* Lines line0 .. line0 + lines - 1 of the results of some images; of several, all lines. */
static lt_status run_lines(lt_context *c, const few_call *k, int64_t image, int64_t images, int64_t line0,
                           int64_t lines)
{
    const lt_conv_dims *d = k->d;
    size_t size = cuda_dtype_bytes(c->dtype);
    int64_t low = LT_MIN(LT_MAX(line0 - d->top, (int64_t)0), d->h),
            high = LT_MAX(LT_MIN(line0 + lines - 1 - d->top + d->kh, d->h), low);
    cuda_product p = {.in = c->dtype,
                      .out = LT_F32,
                      .rows = images * (high - low) * d->w,
                      .columns = k->columns,
                      .inner = d->i,
                      .count = 1,
                      .a_ld = d->i,
                      .b_ld = d->i,
                      .d_ld = k->columns,
                      .canonical_rows = cuda_canonical_rows(d->h * d->w)};
    lt_tap_sums sums = {.images = images,
                        .lines = lines,
                        .wo = d->wo,
                        .line0 = line0,
                        .x_lines = high - low,
                        .w = d->w,
                        .x_line0 = low,
                        .kh = d->kh,
                        .kw = d->kw,
                        .top = d->top,
                        .left = d->left,
                        .o = d->o,
                        .columns = k->columns};
    const char *x = k->x + (size_t)((image * d->h + low) * d->w * d->i) * size;
    lt_status status = LT_OK;
    if (p.rows) status = cuda_multiply(c, "conv", &p, x, k->weight, NULL, NULL, k->products);
    if (status != LT_OK || c->dry) return status;
    size_t at = (size_t)((image * d->ho + line0) * d->wo * d->o) * size;
    return cuda_launched(c, "conv",
                         lt_launch_tap_sums(cuda_of(c)->compute, c->dtype, k->y + at, k->products, k->bias,
                                            k->residual ? (const char *)k->residual + at : NULL, &sums));
}

/* Lines of a result at a time, for whose products there is room: of one image, or of whole images. */
static lt_status run_pieces(lt_context *c, few_call *k)
{
    const lt_conv_dims *d = k->d;
    int64_t images = d->n * d->t, line_bytes = d->w * k->columns * (int64_t)sizeof(float);
    int64_t room = LT_MAX(CUDA_ROUGH_BYTES / line_bytes, d->kh); /* lines of x */
    int64_t at_once = LT_MIN(LT_MAX(room / d->h, (int64_t)1), images);
    int64_t lines = room < d->h ? room - d->kh + 1 : d->ho;
    k->products = lt_scratch(c, (size_t)(LT_MIN(room, at_once * d->h) * line_bytes));
    lt_status status = k->products ? LT_OK : c->err.status;
    for (int64_t image = 0; image < images && status == LT_OK; image += at_once) {
        int64_t n = LT_MIN(at_once, images - image);
        for (int64_t line = 0; line < d->ho && status == LT_OK; line += lines)
            status = run_lines(c, k, image, n, line, LT_MIN(lines, d->ho - line));
    }
    lt_scratch_release(c, k->products);
    return status;
}

lt_status cuda_conv_to_few(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                           const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    cuda_vector vector;
    few_call k = {.d = d,
                  .x = x->data,
                  .residual = residual->data,
                  .y = y->data,
                  .columns = (int64_t)lt_round_up((size_t)(d->kh * d->kw * d->o), CUDA_CHANNELS)};
    k.weight = cuda_weight_taps(c, weight);
    if ((!k.weight && !c->dry) || !cuda_weight_vector(c, bias, &vector)) return c->err.status;
    k.bias = vector.values;
    return run_pieces(c, &k);
}
