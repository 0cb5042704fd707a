/* ops.c - times one operator, or one block of a network, a pass for every line on standard input, so that a driver can take
 * turns with another program: torch_ops.py knows the same cases.
 *
 *     bench-ops CASE THREADS [f32|bf16]
 *
 * First line out: JSON with the FLOPs of a pass. Then wall and processor seconds of each pass. The first pass, which packs
 * the weights, is made before anything is printed. */
#include "kernels/convert.h"
#include "kernels/ops.h"
#include "tools/bench/turns.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WEIGHTS = 32, MAX_INPUTS = 8 };

/* Inputs and weights, made in the order in which a case asks for them, and found again in the passes after. */
typedef struct bench {
    lt_context *c;
    int which; /* of the cases */
    lt_tensor inputs[MAX_INPUTS];
    lt_weight weights[MAX_WEIGHTS];
    int n_inputs, n_weights; /* asked for in this pass */
} bench;

static void *numbers(lt_dtype dtype, int64_t n, float scale)
{
    void *data = malloc((size_t)n * lt_dtype_bytes(dtype));
    if (!data) abort();
    uint32_t state = 12345;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        float f = ((float)(state >> 8) * 0x1p-23f - 1) * scale;
        uint32_t bits;
        memcpy(&bits, &f, 4);
        if (dtype == LT_F32) ((float *)data)[i] = f;
        if (dtype == LT_BF16) ((uint16_t *)data)[i] = (uint16_t)(bits >> 16);
        if (dtype == LT_F16) ((uint16_t *)data)[i] = lt_f32_to_f16(f);
    }
    return data;
}

static lt_tensor tensor_of(lt_dtype dtype, float scale, int rank, const int64_t *shape)
{
    lt_tensor t = {.dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
    t.data = numbers(dtype, lt_n_elements(&t), scale);
    return t;
}

static lt_tensor input_of(bench *b, lt_dtype dtype, int rank, const int64_t *shape)
{
    lt_tensor *t = &b->inputs[b->n_inputs++];
    if (!t->data) *t = tensor_of(dtype, 1, rank, shape);
    return *t;
}
#define INPUT(b, dtype, ...)                                                                                 \
    input_of(b, dtype, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

static lt_weight *weight_of(bench *b, int rank, const int64_t *shape)
{
    lt_weight *w = &b->weights[b->n_weights++];
    int64_t inner = 1;
    for (int i = 1; i < rank; i++) inner *= shape[i];
    if (!w->tensor.data) w->tensor = tensor_of(LT_F32, 1 / sqrtf((float)inner), rank, shape);
    return w;
}
#define WEIGHT(b, ...)                                                                                       \
    weight_of(b, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

static lt_tensor linear(bench *b, lt_tensor x, int64_t out, bool bias, lt_activation act, lt_tensor residual)
{
    lt_weight *w = WEIGHT(b, out, x.shape[x.rank - 1]);
    return lt_linear(b->c, x, w, bias ? WEIGHT(b, out) : NULL, act, residual);
}

/* ---- blocks ------------------------------------------------------------------------------------------ */

/* Self- or cross-attention with its four projections; the result has x's shape. */
static lt_tensor attend(bench *b, lt_tensor x, lt_tensor context, int64_t heads, bool bias, double scale,
                        lt_tensor mask, lt_tensor residual)
{
    int64_t width = x.shape[2], length = x.shape[1], keys = context.shape[1], head = width / heads;
    lt_tensor q = linear(b, x, width, bias, LT_ACT_NONE, LT_NONE);
    lt_tensor k = linear(b, context, width, bias, LT_ACT_NONE, LT_NONE);
    lt_tensor v = linear(b, context, width, bias, LT_ACT_NONE, LT_NONE);
    lt_tensor y =
        lt_attention(b->c, LT_VIEW(b->c, q, 1, length, heads, head), LT_VIEW(b->c, k, 1, keys, heads, head),
                     LT_VIEW(b->c, v, 1, keys, heads, head), mask, scale, false);
    lt_drop(b->c, &q);
    lt_drop(b->c, &k);
    lt_drop(b->c, &v);
    lt_tensor out = linear(b, LT_VIEW(b->c, y, 1, length, width), width, bias, LT_ACT_NONE, residual);
    lt_drop(b->c, &y);
    return out;
}

/* DiT-XL's block (Peebles and Xie, 2023) over 4096 tokens of 1152, 16 heads of 72. */
static lt_tensor dit(bench *b)
{
    enum { L = 4096, C = 1152 };
    lt_context *c = b->c;
    lt_tensor x = INPUT(b, c->dtype, 1, L, C), m[6];
    for (int i = 0; i < 6; i++) m[i] = INPUT(b, c->dtype, 1, C);
    lt_tensor h = lt_layer_norm(c, x, NULL, NULL, 1e-6, m[0], m[1]);
    lt_tensor a = attend(b, h, h, 16, true, 1 / sqrt(72), LT_NONE, LT_NONE);
    lt_drop(c, &h);
    lt_tensor y = lt_add_gated(c, x, a, m[2]);
    lt_drop(c, &a);
    h = lt_layer_norm(c, y, NULL, NULL, 1e-6, m[3], m[4]);
    lt_tensor f = linear(b, h, 4 * C, true, LT_ACT_GELU_TANH, LT_NONE);
    lt_drop(c, &h);
    h = linear(b, f, C, true, LT_ACT_NONE, LT_NONE);
    lt_drop(c, &f);
    lt_tensor z = lt_add_gated(c, y, h, m[5]);
    lt_drop(c, &h);
    lt_drop(c, &y);
    return z;
}

/* A layer of T5-xxl's encoder (v1.1) over 120 tokens. */
static lt_tensor t5(bench *b)
{
    enum { L = 120, C = 4096, FF = 10240 };
    lt_context *c = b->c;
    lt_tensor x = INPUT(b, c->dtype, 1, L, C), bias = INPUT(b, LT_F32, 1, 64, L, L);
    lt_tensor h = lt_rms_norm(c, x, WEIGHT(b, C), 1e-6);
    lt_tensor y = attend(b, h, h, 64, false, 1, bias, x);
    lt_drop(c, &h);
    h = lt_rms_norm(c, y, WEIGHT(b, C), 1e-6);
    lt_tensor gate = linear(b, h, FF, false, LT_ACT_GELU_TANH, LT_NONE);
    lt_tensor up = linear(b, h, FF, false, LT_ACT_NONE, LT_NONE);
    lt_tensor f = lt_multiply(c, gate, up);
    lt_tensor z = linear(b, f, C, false, LT_ACT_NONE, y);
    lt_tensor all[] = {h, gate, up, f, y};
    for (size_t i = 0; i < LT_COUNT(all); i++) lt_drop(c, &all[i]);
    return z;
}

/* ---- operators --------------------------------------------------------------------------------------- */

static lt_tensor attention(bench *b, int64_t l, int64_t s, int64_t heads, int64_t d, bool masked)
{
    lt_tensor q = INPUT(b, b->c->dtype, 1, l, heads, d), k = INPUT(b, b->c->dtype, 1, s, heads, d);
    lt_tensor mask = masked ? INPUT(b, LT_F32, 1, 1, 1, s) : LT_NONE;
    return lt_attention(b->c, q, k, k, mask, 1 / sqrt((double)d), false);
}

static lt_tensor attention64(bench *b)
{
    return attention(b, 4096, 4096, 16, 64, false);
}

static lt_tensor attention72(bench *b)
{
    return attention(b, 4096, 4096, 16, 72, false);
}

static lt_tensor cross77(bench *b)
{
    return attention(b, 4096, 77, 16, 72, true);
}

static lt_tensor cross120(bench *b)
{
    return attention(b, 4096, 120, 16, 72, true);
}

static lt_tensor linear4608(bench *b)
{
    return linear(b, INPUT(b, b->c->dtype, 1, 4096, 1152), 4608, true, LT_ACT_GELU_TANH, LT_NONE);
}

static lt_tensor linear1152(bench *b)
{
    return linear(b, INPUT(b, b->c->dtype, 1, 4096, 4608), 1152, true, LT_ACT_NONE,
                  INPUT(b, b->c->dtype, 1, 4096, 1152));
}

static lt_tensor norm(bench *b)
{
    lt_tensor x = INPUT(b, b->c->dtype, 1, 4096, 1152), m[2];
    for (int i = 0; i < 2; i++) m[i] = INPUT(b, b->c->dtype, 1, 1152);
    return lt_layer_norm(b->c, x, NULL, NULL, 1e-6, m[0], m[1]);
}

/* A convolution that keeps the size when its stride is 1. */
static lt_tensor conv(bench *b, const int64_t x[5], int64_t out, int kt, int k, int stride)
{
    lt_tensor in = input_of(b, b->c->dtype, 5, x);
    lt_weight *w = WEIGHT(b, out, x[4], kt, k, k);
    bool patches = stride > 1 && stride == k && k != 3;
    int st = kt > 1 ? stride : 1, pad = patches ? 0 : k / 2, pad_t = patches ? 0 : kt / 2;
    lt_conv_params p = {st, stride, stride, pad_t, pad_t, pad, pad, pad, pad};
    return lt_conv(b->c, in, w, WEIGHT(b, out), p, LT_NONE);
}

static lt_tensor patchify(bench *b)
{
    return conv(b, (int64_t[]){1, 16, 64, 64, 4}, 1152, 2, 2, 2);
}

static lt_tensor down3d(bench *b)
{
    return conv(b, (int64_t[]){1, 8, 64, 64, 320}, 320, 3, 3, 2);
}

static lt_tensor conv3d(bench *b)
{
    return conv(b, (int64_t[]){1, 8, 32, 32, 320}, 320, 3, 3, 1);
}

/* Layers of the SVD VAE at 256x256. */
static lt_tensor conv512(bench *b)
{
    return conv(b, (int64_t[]){1, 1, 64, 64, 512}, 512, 1, 3, 1);
}

static lt_tensor conv256(bench *b)
{
    return conv(b, (int64_t[]){1, 1, 128, 128, 256}, 256, 1, 3, 1);
}

static lt_tensor conv128(bench *b)
{
    return conv(b, (int64_t[]){1, 1, 256, 256, 128}, 128, 1, 3, 1);
}

static lt_tensor time512(bench *b)
{
    return conv(b, (int64_t[]){1, 8, 64, 64, 512}, 512, 3, 1, 1);
}

static lt_tensor conv128to3(bench *b)
{
    return conv(b, (int64_t[]){1, 1, 256, 512, 128}, 3, 1, 3, 1);
}

static lt_tensor conv4to8(bench *b)
{
    return conv(b, (int64_t[]){1, 1, 256, 512, 4}, 8, 1, 3, 1);
}

static lt_tensor conv8to8(bench *b)
{
    return conv(b, (int64_t[]){1, 1, 256, 512, 8}, 8, 1, 3, 1);
}

/* A weight of T5-xxl as it streams by: packed for one row, and freed. */
static lt_tensor pack(bench *b, lt_dtype dtype)
{
    lt_weight *w = &b->weights[b->n_weights++];
    if (!w->tensor.data) w->tensor = tensor_of(dtype, 1, 2, (int64_t[]){10240, 4096});
    lt_tensor y = lt_linear(b->c, INPUT(b, b->c->dtype, 1, 4096), w, NULL, LT_ACT_NONE, LT_NONE);
    lt_weight_finish(b->c, w);
    return y;
}

static lt_tensor pack_f16(bench *b)
{
    return pack(b, LT_F16);
}

static lt_tensor pack_bf16(bench *b)
{
    return pack(b, LT_BF16);
}

static lt_tensor pack_f32(bench *b)
{
    return pack(b, LT_F32);
}

static const struct {
    const char *name;
    lt_tensor (*run)(bench *b);
} cases[] = {
    {"dit", dit},
    {"t5", t5},
    {"attention64", attention64},
    {"attention72", attention72},
    {"cross77", cross77},
    {"cross120", cross120},
    {"linear4608", linear4608},
    {"linear1152", linear1152},
    {"norm", norm},
    {"patchify", patchify},
    {"down3d", down3d},
    {"conv3d", conv3d},
    {"conv512", conv512},
    {"conv256", conv256},
    {"conv128", conv128},
    {"time512", time512},
    {"conv128to3", conv128to3},
    {"conv4to8", conv4to8},
    {"conv8to8", conv8to8},
    {"pack_f16", pack_f16},
    {"pack_bf16", pack_bf16},
    {"pack_f32", pack_f32},
};

static lt_status pass(void *user, lt_context *c, bench_times *times, lt_err *err)
{
    bench *b = user;
    b->c = c;
    b->n_inputs = b->n_weights = 0;
    bench_begin(times, c);
    lt_tensor y = cases[b->which].run(b);
    bench_end(times, c);
    lt_drop(c, &y);
    return lt_context_status(c, err);
}

static lt_status time_passes(bench *b, lt_dtype dtype, int threads, lt_err *err)
{
    lt_context *context;
    const bench_work work = {.pass = pass, .user = b};
    lt_status status = bench_turns(&work, &(bench_options){.device = "cpu"}, dtype, threads, &context, err);
    for (int i = 0; i < MAX_WEIGHTS; i++) {
        lt_weight_finish(context, &b->weights[i]);
        free(b->weights[i].tensor.data);
    }
    for (int i = 0; i < MAX_INPUTS; i++) free(b->inputs[i].data);
    lt_context_destroy(context);
    return status;
}

int main(int argc, char **argv)
{
    lt_dtype dtype = LT_F32;
    lt_err err = {0};
    bench b = {0};
    for (size_t i = 0; argc >= 3 && i < LT_COUNT(cases); i++) {
        if (strcmp(cases[i].name, argv[1]) || (argc > 3 && !lt_dtype_parse(argv[3], &dtype))) continue;
        b.which = (int)i;
        if (time_passes(&b, dtype, atoi(argv[2]), &err) == LT_OK) return 0;
        fprintf(stderr, "bench-ops: %s\n", err.text);
        return 1;
    }
    fprintf(stderr, "usage: bench-ops CASE THREADS [f32|bf16]; cases:");
    for (size_t i = 0; i < LT_COUNT(cases); i++) fprintf(stderr, " %s", cases[i].name);
    fprintf(stderr, "\n");
    return 2;
}
