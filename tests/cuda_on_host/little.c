/* little.c - see little.h. */
#include "tests/cuda_on_host/little.h"

#include <math.h>
#include <stdlib.h>

enum { N = 2, SIDE = 2, TOKENS = SIDE * SIDE, C = 8, HIDDEN = 24, ROWS = 5 };

/* In the order of their use; ranks by the zeros. */
static const int64_t shapes[LITTLE_WEIGHTS][4] = {
    {C, C, 3, 3},
    {C},
    {C},
    {C},          /* a convolution as cuDNN takes it, a norm */
    {C, C, 3, 3}, /* one with uneven pads, which it does not */
    {HIDDEN, C},
    {HIDDEN},        /* with an activation */
    {C, HIDDEN / 2}, /* without */
    {C},
    {C},       /* another norm */
    {ROWS, C}, /* a table */
};

void little_init(little *net)
{
    *net = (little){0};
    uint32_t state = 1;
    float *next = net->values;
    for (int i = 0; i < LITTLE_WEIGHTS; i++) {
        lt_tensor *t = &net->weights[i].tensor;
        int64_t n = 1;
        t->data = next;
        t->dtype = LT_F32;
        for (; t->rank < 4 && shapes[i][t->rank]; t->rank++) n *= t->shape[t->rank] = shapes[i][t->rank];
        for (int64_t k = 0; k < n; k++) {
            state = state * 1664525u + 1013904223u;
            *next++ = (float)(state >> 8) * 0x1p-23f - 1;
        }
    }
}

/* Attention of the tokens to themselves, by cuDNN, with a mask, too; and masked and causal, in pieces. */
static lt_tensor attend(lt_context *c, lt_tensor x)
{
    float mask[TOKENS];
    for (int i = 0; i < TOKENS; i++) mask[i] = i % 5 == 4 ? -INFINITY : 0;
    lt_tensor host = {.data = mask, .dtype = LT_F32, .rank = 4, .shape = {1, 1, 1, TOKENS}};
    lt_tensor heads = LT_VIEW(c, x, N, TOKENS, 1, C), far = lt_upload(c, host, LT_F32);
    lt_tensor a = lt_attention(c, heads, heads, heads, LT_NONE, 0.5, false);
    lt_tensor b = lt_attention(c, a, heads, heads, far, 0.5, false);
    lt_drop(c, &a);
    a = lt_attention(c, b, heads, heads, far, 0.5, true);
    lt_drop(c, &far);
    lt_drop(c, &b);
    return a;
}

static lt_tensor convolve(lt_context *c, little *net, lt_tensor x)
{
    lt_weight *w = net->weights;
    lt_conv_params even = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
    lt_conv_params odd = {.pad_top = 2, .pad_left = 2};
    lt_tensor a = lt_conv(c, x, &w[0], &w[1], even, LT_NONE);
    lt_tensor b = lt_group_norm(c, a, &w[2], &w[3], 2, 1e-5, LT_ACT_SILU);
    lt_drop(c, &a);
    a = lt_conv(c, b, &w[4], NULL, odd, LT_NONE);
    lt_drop(c, &b);
    return a;
}

/* The rows of a table that ids name, which depend on the chunk, in another order. */
static lt_tensor look_up(lt_context *c, little *net, int chunk)
{
    int32_t ids[N * TOKENS], rows[N * TOKENS];
    for (int i = 0; i < N * TOKENS; i++) {
        ids[i] = (i + chunk) % ROWS;
        rows[i] = (i * 3 + chunk) % (N * TOKENS);
    }
    lt_tensor id = {.data = ids, .dtype = LT_I32, .rank = 1, .shape = {N * TOKENS}}, row = id;
    row.data = rows;
    lt_tensor a = lt_embedding(c, &net->weights[10], id), b = lt_gather_rows(c, a, row);
    lt_drop(c, &a);
    return b;
}

lt_tensor little_upload(lt_context *c, int chunk)
{
    uint8_t pixels[N * TOKENS * C];
    for (int i = 0; i < N * TOKENS * C; i++) pixels[i] = (uint8_t)(i * 37 + chunk * 11);
    lt_tensor host = {.data = pixels, .dtype = LT_U8, .rank = 5, .shape = {N, 1, SIDE, SIDE, C}};
    lt_tensor up = lt_upload(c, host, LT_U8), x = lt_pixels_to_values(c, up, 8);
    lt_drop(c, &up);
    return x;
}

lt_tensor little_evaluate(lt_context *c, little *net, lt_tensor input, int chunk)
{
    lt_weight *w = net->weights;
    lt_tensor y = convolve(c, net, input), x = attend(c, y);
    lt_drop(c, &y);
    y = lt_linear(c, LT_VIEW(c, x, N, TOKENS, C), &w[5], &w[6], LT_ACT_NONE, LT_NONE);
    lt_tensor gated = lt_gated(c, y, LT_ACT_GELU_ERF);
    lt_drop(c, &y);
    y = lt_linear(c, gated, &w[7], NULL, LT_ACT_SILU, LT_VIEW(c, x, N, TOKENS, C));
    lt_drop(c, &gated);
    lt_drop(c, &x);
    x = lt_layer_norm(c, y, &w[8], &w[9], 1e-5, LT_NONE, LT_NONE);
    lt_drop(c, &y);
    lt_tensor rows = look_up(c, net, chunk);
    y = lt_add_scaled(c, LT_VIEW(c, x, N * TOKENS, C), rows, 0.25);
    lt_drop(c, &rows);
    lt_drop(c, &x);
    return y;
}

void little_run(lt_context *c, little *net, int chunk, void *result)
{
    lt_tensor x = little_upload(c, chunk), y = little_evaluate(c, net, x, chunk);
    lt_drop(c, &x);
    lt_download(c, y, LT_BF16, result);
    lt_drop(c, &y);
}

size_t little_workspace(const char *device)
{
    lt_context *c;
    lt_err err;
    little net;
    if (lt_context_create(&c, device, LT_BF16, 0, 1, &err) != LT_OK) abort();
    little_init(&net);
    little_run(c, &net, 0, NULL);
    if (lt_context_status(c, &err) != LT_OK) abort();
    size_t bytes = lt_workspace_peak(c->workspace);
    lt_context_destroy(c);
    return bytes;
}

void little_finish(lt_context *c, little *net)
{
    for (int i = 0; i < LITTLE_WEIGHTS; i++) lt_weight_finish(c, &net->weights[i]);
}
