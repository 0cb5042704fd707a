/* ops_check.c - the checks that the public operators share. */
#include "kernels/ops_check.h"

op_text op_say(const lt_tensor *t)
{
    op_text out;
    lt_tensor_describe(t, out.s, sizeof(out.s));
    return out;
}

bool op_ready(lt_context *c, const char *op, const lt_tensor *x)
{
    if (c->err.status != LT_OK) return false;
    if (!x->data) {
        lt_context_fail(c, LT_E_INVALID, "%s: no input", op);
        return false;
    }
    if (!lt_dtype_is_float(x->dtype) || (!c->backend->any_float && x->dtype != c->dtype)) {
        lt_context_fail(c, LT_E_INVALID, "%s: the input %s is not %s: convert it first", op, op_say(x).s,
                        lt_dtype_name(c->dtype));
        return false;
    }
    return true;
}

bool op_same_shape(const lt_tensor *a, int rank, const int64_t *shape)
{
    if (a->rank != rank) return false;
    for (int i = 0; i < rank; i++) {
        if (a->shape[i] != shape[i]) return false;
    }
    return true;
}

bool op_check_residual(lt_context *c, const char *op, const lt_tensor *residual, int rank,
                       const int64_t *shape)
{
    if (!residual->data) return true;
    if (!op_ready(c, op, residual)) return false;
    if (op_same_shape(residual, rank, shape)) return true;
    lt_tensor result = {.data = residual->data, .dtype = c->dtype, .rank = rank};
    for (int i = 0; i < rank; i++) result.shape[i] = shape[i];
    lt_context_fail(c, LT_E_INVALID, "%s: the residual %s does not fit the result %s", op, op_say(residual).s,
                    op_say(&result).s);
    return false;
}

bool op_float_weight(lt_context *c, const char *op, const lt_weight *weight)
{
    if (!weight || !weight->tensor.data) {
        lt_context_fail(c, LT_E_INVALID, "%s: no weight", op);
        return false;
    }
    if (lt_dtype_is_float(weight->tensor.dtype)) return true;
    lt_context_fail(c, LT_E_UNSUPPORTED, "%s: weights of %s; f32, bf16 or f16 are supported", op,
                    op_say(&weight->tensor).s);
    return false;
}

bool op_check_vector(lt_context *c, const char *op, const char *what, const lt_weight *weight, int64_t n,
                     bool optional)
{
    if (optional && (!weight || !weight->tensor.data)) return true;
    if (!op_float_weight(c, op, weight)) return false;
    if (op_same_shape(&weight->tensor, 1, &n)) return true;
    lt_context_fail(c, LT_E_INVALID, "%s: %s is %s where [%lld] is needed", op, what,
                    op_say(&weight->tensor).s, (long long)n);
    return false;
}

lt_tensor op_done(lt_context *c, lt_status status, double flops, lt_tensor y)
{
    if (status == LT_OK && c->err.status == LT_OK) {
        c->flops += flops;
        return y;
    }
    lt_context_fail(c, status, "%s", lt_status_string(status));
    lt_drop(c, &y);
    return LT_NONE;
}

double op_count(const lt_tensor *t)
{
    return (double)lt_n_elements(t);
}

bool op_check_rows(lt_context *c, const char *op, const lt_tensor *ids, int64_t n)
{
    if (c->dry) return true;
    const int32_t *id = ids->data;
    for (int64_t i = 0; i < lt_n_elements(ids); i++) {
        if (id[i] >= 0 && id[i] < n) continue;
        lt_context_fail(c, LT_E_INVALID, "%s: row %d of a table of %lld", op, (int)id[i], (long long)n);
        return false;
    }
    return true;
}
