/* kernelcheck_transformer.c - random cases of the operators for transformers, and the error bound of each. */
#include "tests/kernels/kernelcheck.h"

#include <math.h>

/* ---- norms ------------------------------------------------------------------------------------------- */

static int64_t channels_of(rng *r, bool big)
{
    return big ? PICK(r, 1152, 1024, 4096) : PICK(r, 1, 3, 8, 16, 31, 64, 72, 130);
}

static lt_tensor run_layer_norm(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_layer_norm(c, in[0], &w[0], k->ints[0] ? NULL : &w[1], k->reals[0], in[1], in[2]);
}

static void make_layer_norm(op_case *k, rng *r, bool big)
{
    k->op = "layer_norm";
    k->spreads = 1 << 1;
    k->run = run_layer_norm;
    k->n_inputs = 3;
    k->n_weights = 2;
    int64_t channels = channels_of(r, big), batch = rng_range(r, big ? 1 : 0, 3);
    values v = (values)PICK(r, VALUES_NORMAL, VALUES_OFFSET, VALUES_SMALL);
    int rank = (int)PICK(r, 2, 3, 4);
    k->inputs[0] = (spec){.rank = rank, .shape = {batch}, .dtype = DTYPE_CONTEXT, .values = v};
    for (int i = 1; i < rank; i++) k->inputs[0].shape[i] = big ? rng_range(r, 20, 60) : rng_range(r, 1, 9);
    k->inputs[0].shape[rank - 1] = channels;
    for (int i = 1; i < 3; i++)
        k->inputs[i] = (spec){.rank = 2,
                              .shape = {batch, channels},
                              .dtype = DTYPE_CONTEXT,
                              .scale = 0.5,
                              .left_out = rng_range(r, 0, 2) == 0};
    for (int i = 0; i < 2; i++)
        k->weights[i] = (spec){.rank = 1,
                               .shape = {channels},
                               .dtype = (int)weight_dtype(r),
                               .left_out = rng_range(r, 0, 2) == 0};
    k->ints[0] = rng_range(r, 0, 3) == 0; /* a pointer that is NULL is left out too */
    k->weights[1].left_out = k->weights[1].left_out || k->ints[0];
    k->reals[0] = rng_range(r, 0, 1) ? 1e-5 : 1e-6;
    /* As group norm; what scale and shift multiply and add is rounded once each. */
    k->units = 10;
    k->magnitude = 1;
}

static lt_tensor run_rms_norm(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_rms_norm(c, in[0], &w[0], k->reals[0]);
}

static void make_rms_norm(op_case *k, rng *r, bool big)
{
    k->op = "rms_norm";
    k->run = run_rms_norm;
    k->n_inputs = k->n_weights = 1;
    int64_t channels = channels_of(r, big);
    k->inputs[0] = (spec){
        .rank = 3,
        .shape = {rng_range(r, big ? 1 : 0, 3), big ? rng_range(r, 20, 60) : rng_range(r, 1, 9), channels},
        .dtype = DTYPE_CONTEXT,
        .values = (values)PICK(r, VALUES_NORMAL, VALUES_OFFSET, VALUES_SMALL, VALUES_WIDE, VALUES_EXTREME)};
    k->weights[0] = (spec){.rank = 1, .shape = {channels}, .dtype = (int)weight_dtype(r)};
    k->reals[0] = rng_range(r, 0, 1) ? 1e-5 : 1e-6;
    k->units = 10;
    k->magnitude = 1;
}

/* ---- sums and products ------------------------------------------------------------------------------- */

static lt_tensor run_add_broadcast(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_add_broadcast(c, in[0], in[1]);
}

static void make_add_broadcast(op_case *k, rng *r, bool big)
{
    k->op = "add_broadcast";
    k->run = run_add_broadcast;
    k->n_inputs = 2;
    k->inputs[0] = any_tensor(r, big, VALUES_NORMAL);
    k->inputs[1] = k->inputs[0];
    /* Rank 3 would be one more for each sample: the batch test passes y whole. */
    int rank = (int)rng_range(r, 0, 2);
    for (int i = 0; i < rank; i++) k->inputs[1].shape[i] = k->inputs[0].shape[3 - rank + i];
    k->inputs[1].rank = rank;
    k->inputs[1].shared = true;
    k->units = 1;
}

static lt_tensor run_add_gated(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_add_gated(c, in[0], in[1], in[2]);
}

static void make_add_gated(op_case *k, rng *r, bool big)
{
    k->op = "add_gated";
    k->run = run_add_gated;
    k->n_inputs = 3;
    k->inputs[0] = any_tensor(r, big, VALUES_NORMAL);
    k->inputs[1] = k->inputs[0];
    int64_t channels = k->inputs[0].shape[2];
    k->inputs[2] = (spec){.rank = 2,
                          .shape = {k->inputs[0].shape[0], channels},
                          .dtype = DTYPE_CONTEXT,
                          .left_out = rng_range(r, 0, 2) == 0};
    if (rng_range(r, 0, 2) == 0) {
        k->inputs[1] = k->inputs[2];
        k->inputs[1].left_out = false;
    }
    k->units = 2;
}

static lt_tensor run_multiply(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_multiply(c, in[0], in[1]);
}

static void make_multiply(op_case *k, rng *r, bool big)
{
    k->op = "multiply";
    k->run = run_multiply;
    k->n_inputs = 2;
    k->inputs[0] = any_tensor(r, big, (values)PICK(r, VALUES_NORMAL, VALUES_WIDE));
    k->inputs[1] = k->inputs[0];
    k->units = 1;
}

static lt_tensor run_combine(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_combine(c, in[0], k->reals[0], in[1], k->reals[1]);
}

static void make_combine(op_case *k, rng *r, bool big)
{
    k->op = "combine";
    k->run = run_combine;
    k->n_inputs = 2;
    k->inputs[0] = any_tensor(r, big, (values)PICK(r, VALUES_NORMAL, VALUES_WIDE, VALUES_EXTREME));
    k->inputs[1] = k->inputs[0];
    for (int i = 0; i < 2; i++) k->reals[i] = PICK(r, 0, 1, 1) ? rng_normal(r) : 1;
    k->rounded = true;
}

static lt_tensor run_gated(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_gated(c, in[0], k->act);
}

static void make_gated(op_case *k, rng *r, bool big)
{
    k->op = "gated";
    k->run = run_gated;
    k->n_inputs = 1;
    k->inputs[0] = any_tensor(r, big, VALUES_NORMAL);
    k->inputs[0].shape[2] = 2 * channels_of(r, big);
    if (big) k->inputs[0].shape[1] = rng_range(r, 10, 40);
    k->act = (lt_activation)rng_range(r, LT_ACT_NONE, LT_ACT_QUICK_GELU);
    k->units = 8;
    k->magnitude = 1;
}

/* ---- shapes, tables ---------------------------------------------------------------------------------- */

static lt_tensor run_concat(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_concat_channels(c, in[0], in[1]);
}

static void make_concat(op_case *k, rng *r, bool big)
{
    k->op = "concat_channels";
    k->run = run_concat;
    k->n_inputs = 2;
    k->inputs[0] = any_tensor(r, big, VALUES_WIDE);
    k->inputs[1] = k->inputs[0];
    k->inputs[1].shape[2] = rng_range(r, 0, 40);
}

/* Numbers of rows of a table of n. */
static spec row_numbers(rng *r, int rank, int64_t n)
{
    spec s = {.rank = rank, .dtype = LT_I32, .host = true, .values = VALUES_PIXELS, .scale = (double)n};
    for (int i = 0; i < rank; i++) s.shape[i] = rng_range(r, i ? 1 : 0, 9);
    return s;
}

static lt_tensor run_embedding(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_embedding(c, &w[0], in[0]);
}

static void make_embedding(op_case *k, rng *r, bool big)
{
    k->op = "embedding";
    k->run = run_embedding;
    k->n_inputs = k->n_weights = 1;
    int64_t rows = rng_range(r, 1, big ? 3000 : 50);
    k->inputs[0] = row_numbers(r, (int)rng_range(r, 0, 3), rows);
    k->weights[0] = (spec){.rank = 2,
                           .shape = {rows, channels_of(r, big)},
                           .dtype = (int)PICK(r, LT_F32, LT_BF16, LT_F16, LT_F64)};
    k->rounded = true;
}

static lt_tensor run_gather(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    return lt_gather_rows(c, in[1], in[0]);
}

static void make_gather(op_case *k, rng *r, bool big)
{
    k->op = "gather_rows";
    k->run = run_gather;
    k->n_inputs = 2;
    int64_t rows = rng_range(r, 1, big ? 500 : 50);
    k->inputs[0] = row_numbers(r, 1, rows);
    k->inputs[1] = (spec){.rank = 2,
                          .shape = {rows, channels_of(r, big)},
                          .dtype = DTYPE_CONTEXT,
                          .values = VALUES_WIDE,
                          .shared = true};
}

static lt_tensor run_unpatchify(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    const int64_t *i = k->ints;
    return lt_unpatchify(c, in[0], i[0], i[1], i[2], (int)i[3], (int)i[4], (int)i[5]);
}

static void make_unpatchify(op_case *k, rng *r, bool big)
{
    k->op = "unpatchify";
    k->run = run_unpatchify;
    k->n_inputs = 1;
    int64_t *i = k->ints;
    for (int e = 0; e < 3; e++) i[e] = rng_range(r, rng_range(r, 0, 9) != 0, big ? 20 : 5);
    for (int e = 3; e < 6; e++) i[e] = rng_range(r, 1, 3);
    int64_t channels = PICK(r, 1, 3, 4, 8, 17);
    k->inputs[0] = (spec){.rank = 3,
                          .shape = {rng_range(r, 0, 3), i[0] * i[1] * i[2], i[3] * i[4] * i[5] * channels},
                          .dtype = DTYPE_CONTEXT,
                          .values = VALUES_WIDE};
}

/* ---- noise ------------------------------------------------------------------------------------------- */

static lt_tensor run_noise(lt_context *c, const op_case *k, const lt_tensor *in, lt_weight *w)
{
    const int64_t *i = k->ints;
    return lt_noise(c, 4, i + 3, (uint64_t)i[0], (uint32_t)i[1], (uint64_t)i[2]);
}

static void make_noise(op_case *k, rng *r, bool big)
{
    k->op = "noise";
    k->run = run_noise;
    k->ints[0] = (int64_t)rng_next(r);
    k->ints[1] = rng_range(r, 0, UINT32_MAX);
    k->ints[2] = rng_range(r, 0, 1) ? rng_range(r, 0, 1000) : (int64_t)rng_next(r);
    for (int i = 0; i < 4; i++) k->ints[3 + i] = rng_range(r, i == 0 ? 0 : 1, big ? 30 : 7);
    k->rounded = true;
}

const generator transformer_generators[] = {
    {"layer_norm", make_layer_norm}, {"rms_norm", make_rms_norm},      {"add_broadcast", make_add_broadcast},
    {"add_gated", make_add_gated},   {"multiply", make_multiply},      {"combine", make_combine},
    {"gated", make_gated},           {"concat_channels", make_concat}, {"embedding", make_embedding},
    {"gather_rows", make_gather},    {"unpatchify", make_unpatchify},  {"noise", make_noise},
};
const int n_transformer_generators = (int)LT_COUNT(transformer_generators);
