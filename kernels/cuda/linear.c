/* linear.c - linear layers: a product and what follows it.
 *
 * The result is rounded once, from sums in f32 to which the bias was added. cuBLASLt adds a bias of the result's dtype only: it is
 * rounded to it, as the weight is. The library's one activation for us is GELU by tanh, of 11 bits: a bf16 result has 8, one of f16 as many, one of
 * f32 more. So this is done in the product, if the library has an algorithm for that: a bias; a residual without an activation;
 * GELU by tanh in bf16 without a residual. Otherwise the sums of some rows at a time, as many as stay in the second-level
 * cache, go to scratch memory in f32, and a kernel of ours does the rest: 8 bytes a result to and from that cache, and a product
 * in pieces. Against 2 K operations a result that is little for K of thousands and much for hundreds. */
#include "kernels/cuda/operators.h"

/* Can all of it be done in the product, as far as values go? */
static bool is_direct(lt_dtype dtype, const cuda_layer *l)
{
    return l->act == LT_ACT_NONE || (l->act == LT_ACT_GELU_TANH && dtype == LT_BF16 && !l->has_residual);
}

static cuda_product product_of(lt_context *c, const cuda_layer *l)
{
    return (cuda_product){.in = c->dtype,
                          .out = c->dtype,
                          .rows = l->rows,
                          .columns = l->columns,
                          .inner = l->inner,
                          .count = 1,
                          .a_ld = l->inner,
                          .b_ld = l->inner,
                          .d_ld = l->columns,
                          .canonical_rows = l->canonical_rows};
}

static cuda_product direct_product(lt_context *c, const cuda_layer *l)
{
    cuda_product p = product_of(c, l);
    p.add = l->has_residual;
    p.biased = l->has_bias;
    p.gelu = l->act == LT_ACT_GELU_TANH;
    return p;
}

static lt_status run_direct(lt_context *c, const cuda_layer *l)
{
    cuda_product p = direct_product(c, l);
    return cuda_multiply(c, l->op, &p, l->x, l->weight, l->bias.narrow, l->residual, l->y);
}

/* Sums in f32, then bias, activation, residual. In an f32 context the sums lie where the result will. */
static lt_status run_rough(lt_context *c, const cuda_layer *l)
{
    cuda_product p = product_of(c, l);
    p.out = LT_F32;
    size_t row_bytes = (size_t)l->columns * sizeof(float), size = cuda_dtype_bytes(c->dtype);
    int64_t step = l->rows;
    float *rough = NULL;
    if (c->dtype != LT_F32) {
        step = LT_MAX((int64_t)(CUDA_ROUGH_BYTES / row_bytes) / 256 * 256, (int64_t)256);
        step = LT_MIN(step, l->rows);
        rough = lt_scratch(c, (size_t)step * row_bytes);
        if (!rough) return c->err.status;
    }
    lt_status status = LT_OK;
    for (int64_t row = 0; row < l->rows && status == LT_OK; row += step) {
        size_t at_x = (size_t)(row * l->inner) * size, at_y = (size_t)(row * l->columns) * size;
        p.rows = LT_MIN(step, l->rows - row);
        float *sums = rough ? rough : l->y;
        status = cuda_multiply(c, l->op, &p, (const char *)l->x + at_x, l->weight, NULL, NULL, sums);
        if (c->dry) continue; /* the last rows are fewer, and may take more scratch memory */
        if (status != LT_OK) break;
        status = cuda_epilogue(c, l->op, sums, l->bias.values, l->act,
                               l->has_residual ? (const char *)l->residual + at_y : NULL, (char *)l->y + at_y,
                               p.rows, l->columns);
    }
    lt_scratch_release(c, rough);
    return status;
}

lt_status cuda_layer_run(lt_context *c, const cuda_layer *l)
{
    bool direct = is_direct(c->dtype, l);
    cuda_product p = direct_product(c, l);
    if (direct && (p.add || p.biased || p.gelu) && !cuda_can_multiply(c, l->op, &p)) direct = false;
    if (c->err.status != LT_OK) return c->err.status;
    return direct ? run_direct(c, l) : run_rough(c, l);
}

lt_status linear_cuda(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                      lt_activation act, const lt_tensor *residual, lt_tensor *y)
{
    int64_t inner = weight->tensor.shape[1], columns = weight->tensor.shape[0],
            rows = lt_n_elements(x) / inner;
    int64_t samples = x->rank >= 2 ? x->shape[0] : 1;
    cuda_layer l = {.op = "linear",
                    .rows = rows,
                    .inner = inner,
                    .columns = columns,
                    .canonical_rows = cuda_canonical_rows(rows / samples),
                    .x = x->data,
                    .residual = residual->data,
                    .has_bias = bias && bias->tensor.data,
                    .has_residual = residual->data != NULL,
                    .act = act,
                    .y = y->data};
    cuda_of(c);
    l.weight = cuda_weight_matrix(c, weight);
    if ((!l.weight && !c->dry) || !cuda_weight_vector(c, bias, &l.bias)) return c->err.status;
    return cuda_layer_run(c, &l);
}
