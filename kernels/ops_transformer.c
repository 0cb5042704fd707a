/* ops_transformer.c - the public operators that transformers add: norms with modulation, gates, tables, tokens, noise. */
#include "kernels/ops_check.h"

#include <math.h>

/* x [N,...,C] with C channels at least 1, and an eps that a norm can take. */
static bool check_norm(lt_context *c, const char *op, const lt_tensor *x, int least_rank, double eps)
{
    if (!op_ready(c, op, x)) return false;
    if (x->rank >= least_rank && x->shape[x->rank - 1] >= 1 && eps >= 0 && isfinite(eps)) return true;
    lt_context_fail(c, LT_E_INVALID, "%s: eps %g over the input %s", op, eps, op_say(x).s);
    return false;
}

/* Optional [N,C], a row for each sample of x [N,...,C]. */
static bool check_rows(lt_context *c, const char *op, const char *what, const lt_tensor *rows,
                       const lt_tensor *x)
{
    if (!rows->data) return true;
    if (!op_ready(c, op, rows)) return false;
    int64_t wanted[] = {x->shape[0], x->shape[x->rank - 1]};
    if (op_same_shape(rows, 2, wanted)) return true;
    lt_context_fail(c, LT_E_INVALID, "%s: the %s %s is not a row for each sample of %s", op, what,
                    op_say(rows).s, op_say(x).s);
    return false;
}

lt_tensor lt_layer_norm(lt_context *c, lt_tensor x, lt_weight *gamma, lt_weight *beta, double eps,
                        lt_tensor scale, lt_tensor shift)
{
    if (!check_norm(c, "layer_norm", &x, 2, eps)) return LT_NONE;
    int64_t channels = x.shape[x.rank - 1];
    if (!op_check_vector(c, "layer_norm", "gamma", gamma, channels, true)) return LT_NONE;
    if (!op_check_vector(c, "layer_norm", "beta", beta, channels, true)) return LT_NONE;
    if (!check_rows(c, "layer_norm", "scale", &scale, &x)) return LT_NONE;
    if (!check_rows(c, "layer_norm", "shift", &shift, &x)) return LT_NONE;
    lt_tensor y = lt_new(c, c->dtype, x.rank, x.shape);
    if (!y.data) return LT_NONE;
    lt_status status =
        op_count(&x) == 0 ? LT_OK : c->backend->layer_norm(c, &x, gamma, beta, eps, &scale, &shift, &y);
    return op_done(c, status, 8 * op_count(&x), y);
}

lt_tensor lt_rms_norm(lt_context *c, lt_tensor x, lt_weight *gamma, double eps)
{
    if (!check_norm(c, "rms_norm", &x, 1, eps)) return LT_NONE;
    if (!op_check_vector(c, "rms_norm", "gamma", gamma, x.shape[x.rank - 1], false)) return LT_NONE;
    lt_tensor y = lt_new(c, c->dtype, x.rank, x.shape);
    if (!y.data) return LT_NONE;
    lt_status status = op_count(&x) == 0 ? LT_OK : c->backend->rms_norm(c, &x, gamma, eps, &y);
    return op_done(c, status, 4 * op_count(&x), y);
}

/* ---- sums and products ------------------------------------------------------------------------------- */

lt_tensor lt_add_broadcast(lt_context *c, lt_tensor x, lt_tensor y)
{
    if (!op_ready(c, "add_broadcast", &x) || !op_ready(c, "add_broadcast", &y)) return LT_NONE;
    if (y.rank > x.rank || !op_same_shape(&y, y.rank, x.shape + (x.rank - y.rank))) {
        lt_context_fail(c, LT_E_INVALID, "add_broadcast: %s is not the end of the shape of %s", op_say(&y).s,
                        op_say(&x).s);
        return LT_NONE;
    }
    lt_tensor out = lt_new(c, c->dtype, x.rank, x.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&x) == 0 ? LT_OK : c->backend->add_broadcast(c, &x, &y, &out);
    return op_done(c, status, op_count(&x), out);
}

lt_tensor lt_add_gated(lt_context *c, lt_tensor x, lt_tensor y, lt_tensor gate)
{
    if (!op_ready(c, "add_gated", &x) || !op_ready(c, "add_gated", &y)) return LT_NONE;
    if (x.rank < 2) {
        lt_context_fail(c, LT_E_INVALID, "add_gated: the input %s has no samples and channels", op_say(&x).s);
        return LT_NONE;
    }
    if (!op_same_shape(&y, x.rank, x.shape) && !check_rows(c, "add_gated", "summand", &y, &x)) return LT_NONE;
    if (!check_rows(c, "add_gated", "gate", &gate, &x)) return LT_NONE;
    lt_tensor out = lt_new(c, c->dtype, x.rank, x.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&x) == 0 ? LT_OK : c->backend->add_gated(c, &x, &y, &gate, &out);
    return op_done(c, status, 2 * op_count(&x), out);
}

/* Two tensors of one shape. */
static bool check_pair(lt_context *c, const char *op, const lt_tensor *x, const lt_tensor *y)
{
    if (!op_ready(c, op, x) || !op_ready(c, op, y)) return false;
    if (op_same_shape(y, x->rank, x->shape)) return true;
    lt_context_fail(c, LT_E_INVALID, "%s: %s and %s differ in shape", op, op_say(x).s, op_say(y).s);
    return false;
}

lt_tensor lt_multiply(lt_context *c, lt_tensor x, lt_tensor y)
{
    if (!check_pair(c, "multiply", &x, &y)) return LT_NONE;
    lt_tensor out = lt_new(c, c->dtype, x.rank, x.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&x) == 0 ? LT_OK : c->backend->multiply(c, &x, &y, &out);
    return op_done(c, status, op_count(&x), out);
}

lt_tensor lt_combine(lt_context *c, lt_tensor x, double a, lt_tensor y, double b)
{
    if (!check_pair(c, "combine", &x, &y)) return LT_NONE;
    lt_tensor out = lt_new(c, c->dtype, x.rank, x.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&x) == 0 ? LT_OK : c->backend->combine(c, &x, a, &y, b, &out);
    return op_done(c, status, 3 * op_count(&x), out);
}

lt_tensor lt_gated(lt_context *c, lt_tensor x, lt_activation act)
{
    if (!op_ready(c, "gated", &x)) return LT_NONE;
    if (x.rank < 1 || x.shape[x.rank - 1] % 2 != 0) {
        lt_context_fail(c, LT_E_INVALID, "gated: the channels of %s are not two halves", op_say(&x).s);
        return LT_NONE;
    }
    lt_tensor shape = x;
    shape.shape[x.rank - 1] /= 2;
    lt_tensor out = lt_new(c, c->dtype, x.rank, shape.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&out) == 0 ? LT_OK : c->backend->gated(c, &x, act, &out);
    return op_done(c, status, 10 * op_count(&out), out);
}

/* ---- shapes, tables ---------------------------------------------------------------------------------- */

lt_tensor lt_concat_channels(lt_context *c, lt_tensor x, lt_tensor y)
{
    if (!op_ready(c, "concat_channels", &x) || !op_ready(c, "concat_channels", &y)) return LT_NONE;
    lt_tensor sum = x;
    int last = x.rank - 1;
    if (last >= 0 && y.rank == x.rank) sum.shape[last] = y.shape[last];
    if (last < 0 || !op_same_shape(&y, x.rank, sum.shape) || x.dtype != y.dtype) {
        lt_context_fail(c, LT_E_INVALID, "concat_channels: %s and %s differ in more than their channels",
                        op_say(&x).s, op_say(&y).s);
        return LT_NONE;
    }
    if (__builtin_add_overflow(x.shape[last], y.shape[last], &sum.shape[last])) sum.shape[last] = -1;
    lt_tensor out = lt_new(c, c->dtype, sum.rank, sum.shape);
    if (!out.data) return LT_NONE;
    lt_status status = op_count(&out) == 0 ? LT_OK : c->backend->concat_channels(c, &x, &y, &out);
    return op_done(c, status, 0, out);
}

/* Numbers of rows: i32, in the host's memory. */
static bool check_ids(lt_context *c, const char *op, const lt_tensor *ids)
{
    if (c->err.status != LT_OK) return false;
    if ((ids->data || c->dry) && ids->dtype == LT_I32) return true;
    lt_context_fail(c, LT_E_INVALID, "%s: %s where numbers of rows, i32, are needed", op, op_say(ids).s);
    return false;
}

lt_tensor lt_embedding(lt_context *c, lt_weight *table, lt_tensor ids)
{
    if (!check_ids(c, "embedding", &ids) || !op_float_weight(c, "embedding", table)) return LT_NONE;
    if (table->tensor.rank != 2 || ids.rank >= LT_MAX_RANK) {
        lt_context_fail(c, LT_E_INVALID, "embedding: the table %s, or ids %s, of a rank it cannot have",
                        op_say(&table->tensor).s, op_say(&ids).s);
        return LT_NONE;
    }
    lt_tensor shape = ids;
    shape.shape[ids.rank] = table->tensor.shape[1];
    lt_tensor out = lt_new(c, c->dtype, ids.rank + 1, shape.shape);
    if (!out.data) return LT_NONE;
    lt_status status = LT_OK;
    if (!op_check_rows(c, "embedding", &ids, table->tensor.shape[0]))
        status = c->err.status;
    else if (op_count(&out) > 0)
        status = c->backend->embedding(c, table, ids.data, &out);
    return op_done(c, status, 0, out);
}

lt_tensor lt_gather_rows(lt_context *c, lt_tensor x, lt_tensor rows)
{
    if (!op_ready(c, "gather_rows", &x) || !check_ids(c, "gather_rows", &rows)) return LT_NONE;
    if (x.rank != 2 || rows.rank != 1) {
        lt_context_fail(c, LT_E_INVALID, "gather_rows: %s out of %s: a list out of a matrix is needed",
                        op_say(&rows).s, op_say(&x).s);
        return LT_NONE;
    }
    lt_tensor out = lt_new(c, c->dtype, 2, (int64_t[]){rows.shape[0], x.shape[1]});
    if (!out.data) return LT_NONE;
    lt_status status = LT_OK;
    if (!op_check_rows(c, "gather_rows", &rows, x.shape[0]))
        status = c->err.status;
    else if (op_count(&out) > 0)
        status = c->backend->gather_rows(c, &x, rows.data, &out);
    return op_done(c, status, 0, out);
}

lt_tensor lt_unpatchify(lt_context *c, lt_tensor x, int64_t t, int64_t h, int64_t w, int pt, int ph, int pw)
{
    if (!op_ready(c, "unpatchify", &x)) return LT_NONE;
    int64_t tokens = -1, patch = -1, positive = LT_MIN(LT_MIN(pt, ph), pw);
    bool fits = x.rank == 3 && t >= 0 && h >= 0 && w >= 0 && positive >= 1 &&
                lt_product_i64((int64_t[]){t, h, w}, 3, &tokens) &&
                lt_product_i64((int64_t[]){pt, ph, pw}, 3, &patch) && x.shape[1] == tokens &&
                x.shape[2] % patch == 0;
    if (!fits) {
        lt_context_fail(c, LT_E_INVALID,
                        "unpatchify: %s is not %lld x %lld x %lld tokens of patches of %d x %d x %d",
                        op_say(&x).s, (long long)t, (long long)h, (long long)w, pt, ph, pw);
        return LT_NONE;
    }
    int64_t shape[] = {x.shape[0], t, h, w, x.shape[2] / patch};
    const int factors[] = {pt, ph, pw};
    for (int i = 0; i < 3; i++) {
        if (__builtin_mul_overflow(shape[1 + i], factors[i], &shape[1 + i])) shape[1 + i] = -1;
    }
    lt_tensor y = lt_new(c, c->dtype, 5, shape);
    if (!y.data) return LT_NONE;
    lt_status status = op_count(&y) == 0 ? LT_OK : c->backend->unpatchify(c, &x, pt, ph, pw, &y);
    return op_done(c, status, 0, y);
}

/* ---- noise ------------------------------------------------------------------------------------------- */

lt_tensor lt_noise(lt_context *c, int rank, const int64_t *shape, uint64_t seed, uint32_t clip,
                   uint64_t first_frame)
{
    const int64_t most = INT64_C(1) << 34; /* four times what the counter's 32 bits of blocks number */
    if (rank < 1) {
        lt_context_fail(c, LT_E_INVALID, "noise: a shape of rank %d has no frames", rank);
        return LT_NONE;
    }
    lt_tensor out = lt_new(c, c->dtype, rank, shape);
    if (!out.data) return LT_NONE;
    lt_status status = LT_OK;
    if (op_count(&out) > 0 && lt_n_elements(&out) / shape[0] > most) {
        status =
            lt_context_fail(c, LT_E_INVALID, "noise: a frame of %lld elements; at most 2^34 are numbered",
                            (long long)(lt_n_elements(&out) / shape[0]));
    } else if (op_count(&out) > 0) {
        status = c->backend->noise(c, seed, clip, first_frame, &out);
    }
    return op_done(c, status, 0, out);
}
