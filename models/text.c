/* text.c - the networks of the text encoders, as their formulas read. */
#include "kernels/backend.h"
#include "kernels/convert.h"
#include "models/text_parts.h"

#include <math.h>
#include <stdlib.h>

/* What is added to the scores of padded keys: nothing is left of a score beside it, and it is still finite when a backend
 * multiplies it, so that a row without any key has the mean of all values, as in transformers. */
#define MASKED (-1e30f)

/* Result of a step that ends the life of its input. */
static lt_tensor replace(lt_context *c, lt_tensor *x, lt_tensor y)
{
    lt_drop(c, x);
    return y;
}

static lt_tensor linear(lt_context *c, lt_tensor x, text_layer *l, text_part part, lt_activation act,
                        lt_tensor residual)
{
    return lt_linear(c, x, &l->weight[part], &l->bias[part], act, residual);
}

/* softmax(scale q k^T + mask) v of normed x, heads side by side. x is borrowed. */
static lt_tensor attention(lt_context *c, const text_arch *a, text_layer *l, lt_tensor x, lt_tensor mask,
                           double scale)
{
    int64_t n = x.shape[0], length = x.shape[1];
    lt_tensor q = linear(c, x, l, TEXT_Q, LT_ACT_NONE, LT_NONE);
    lt_tensor k = linear(c, x, l, TEXT_K, LT_ACT_NONE, LT_NONE);
    lt_tensor v = linear(c, x, l, TEXT_V, LT_ACT_NONE, LT_NONE);
    lt_tensor y = lt_attention(
        c, LT_VIEW(c, q, n, length, a->heads, a->head_dim), LT_VIEW(c, k, n, length, a->heads, a->head_dim),
        LT_VIEW(c, v, n, length, a->heads, a->head_dim), mask, scale, a->family == LT_TEXT_CLIP);
    lt_drop(c, &q);
    lt_drop(c, &k);
    lt_drop(c, &v);
    return y;
}

/* x + attention(norm(x)), then x + mlp(norm(x)). x is borrowed. */
static lt_tensor clip_layer(lt_context *c, const text_arch *a, text_layer *l, lt_tensor x)
{
    lt_tensor h = lt_layer_norm(c, x, &l->weight[TEXT_NORM1], &l->bias[TEXT_NORM1], a->eps, LT_NONE, LT_NONE);
    h = replace(c, &h, attention(c, a, l, h, LT_NONE, 1.0 / sqrt(a->head_dim)));
    lt_tensor flat = LT_VIEW(c, h, x.shape[0], x.shape[1], a->width);
    lt_tensor y = linear(c, flat, l, TEXT_OUT, LT_ACT_NONE, x);
    lt_drop(c, &h);
    h = lt_layer_norm(c, y, &l->weight[TEXT_NORM2], &l->bias[TEXT_NORM2], a->eps, LT_NONE, LT_NONE);
    h = replace(c, &h, linear(c, h, l, TEXT_UP, a->activation, LT_NONE));
    y = replace(c, &y, linear(c, h, l, TEXT_DOWN, LT_ACT_NONE, y));
    lt_drop(c, &h);
    return y;
}

/* The same without biases, scores unscaled with a bias of their own, and a gated mlp. x is borrowed. */
static lt_tensor t5_layer(lt_context *c, const text_arch *a, text_layer *l, lt_tensor x, lt_tensor mask)
{
    lt_tensor h = lt_rms_norm(c, x, &l->weight[TEXT_NORM1], a->eps);
    h = replace(c, &h, attention(c, a, l, h, mask, 1.0));
    lt_tensor flat = LT_VIEW(c, h, x.shape[0], x.shape[1], (int64_t)a->heads * a->head_dim);
    lt_tensor y = linear(c, flat, l, TEXT_OUT, LT_ACT_NONE, x);
    lt_drop(c, &h);
    h = lt_rms_norm(c, y, &l->weight[TEXT_NORM2], a->eps);
    lt_tensor gate = linear(c, h, l, TEXT_GATE, a->activation, LT_NONE);
    h = replace(c, &h, linear(c, h, l, TEXT_UP, LT_ACT_NONE, LT_NONE));
    h = replace(c, &h, lt_multiply(c, gate, h));
    lt_drop(c, &gate);
    y = replace(c, &y, linear(c, h, l, TEXT_DOWN, LT_ACT_NONE, y));
    lt_drop(c, &h);
    return y;
}

/* ---- what the layers are given --------------------------------------------------------------------------------------- */

int text_bucket(int relative, int buckets, int max_distance)
{
    int half = buckets / 2, exact = half / 2, distance = relative < 0 ? -relative : relative;
    int bucket = distance;
    if (distance >= exact) {
        float far = logf((float)distance / (float)exact) / (float)log((double)max_distance / (double)exact) *
                    (float)(half - exact);
        bucket = LT_MIN(exact + (int)far, half - 1);
    }
    return bucket + (relative > 0 ? half : 0);
}

/* Memory for n numbers of 4 bytes, until the next call. NULL when dry, and after an error. */
static void *host_numbers(lt_context *c, lt_text_encoder *e, int64_t n)
{
    size_t bytes = (size_t)LT_MAX(n, 1) * 4;
    if (c->dry || c->err.status != LT_OK) return NULL;
    if (bytes <= e->host_bytes) return e->host;
    void *grown = realloc(e->host, bytes);
    if (!grown) {
        lt_context_fail(c, LT_E_NO_MEMORY, "out of memory for the numbers of %lld tokens", (long long)n);
        return NULL;
    }
    e->host = grown;
    e->host_bytes = bytes;
    return grown;
}

/* The table's values by head and distance, [heads, 2 L - 1], key - query = -(L - 1) first. */
static const float *distance_bias(lt_context *c, lt_text_encoder *e, int64_t length)
{
    const text_arch *a = &e->arch;
    const lt_tensor *table = &e->relative.tensor;
    float *bias = host_numbers(c, e, a->heads * (2 * length - 1));
    for (int64_t i = 0; bias && i < 2 * length - 1; i++) {
        int64_t row = text_bucket((int)(i - length + 1), a->buckets, a->max_distance);
        for (int head = 0; head < a->heads; head++)
            bias[head * (2 * length - 1) + i] =
                (float)lt_load_f64(table->data, table->dtype, row * a->heads + head);
    }
    return bias;
}

/* The scores' addend f32 [B, heads, L, L]: the bias of the pair's distance, and what masks padded keys. Without n_ids one
 * is of all samples. What is padded does not change its size: a plan knows nothing of it. */
static lt_tensor score_bias(lt_context *c, lt_text_encoder *e, int64_t n, int64_t length, const int *n_ids)
{
    int64_t heads = e->arch.heads, batch = n_ids ? n : 1;
    lt_tensor mask = lt_new(c, LT_F32, 4, (int64_t[]){batch, heads, length, length});
    const float *bias = distance_bias(c, e, length);
    float *out = lt_begin_upload(c, mask);
    for (int64_t i = 0; out && i < batch * heads * length; i++) {
        int64_t query = i % length, head = i / length % heads, sample = i / length / heads;
        const float *near = bias + head * (2 * length - 1) + length - 1 - query;
        for (int64_t key = 0; key < length; key++)
            *out++ = near[key] + (n_ids && key >= n_ids[sample] ? MASKED : 0);
    }
    lt_end_upload(c, mask);
    return mask;
}

/* Embeddings of the ids; CLIP adds those of the places. */
static lt_tensor embed(lt_context *c, lt_text_encoder *e, lt_tensor ids)
{
    lt_tensor x = lt_embedding(c, &e->tokens, ids);
    if (e->arch.family == LT_TEXT_T5) return x;
    int32_t *numbers = host_numbers(c, e, ids.shape[1]);
    for (int64_t i = 0; numbers && i < ids.shape[1]; i++) numbers[i] = (int32_t)i;
    lt_tensor places = {.data = numbers, .dtype = LT_I32, .rank = 1, .shape = {ids.shape[1]}};
    lt_tensor positions = lt_embedding(c, &e->positions, places);
    x = replace(c, &x, lt_add_broadcast(c, x, positions));
    lt_drop(c, &positions);
    return x;
}

/* Row of the pooled token in each sample: the first whose id is eos_id (else 0), or the first largest id. */
static lt_tensor pooled_rows(lt_context *c, lt_text_encoder *e, lt_tensor ids)
{
    int32_t *rows = host_numbers(c, e, ids.shape[0]);
    int64_t length = ids.shape[1];
    for (int64_t i = 0; rows && i < ids.shape[0]; i++) {
        const int32_t *row = (const int32_t *)ids.data + i * length;
        int64_t at = 0;
        if (e->arch.eos_id < 0) {
            for (int64_t j = 1; j < length; j++)
                if (row[j] > row[at]) at = j;
        } else {
            while (at < length && row[at] != e->arch.eos_id) at++;
            if (at == length) at = 0;
        }
        rows[i] = (int32_t)(i * length + at);
    }
    return (lt_tensor){.data = rows, .dtype = LT_I32, .rank = 1, .shape = {ids.shape[0]}};
}

static lt_tensor pool(lt_context *c, lt_text_encoder *e, lt_tensor x, lt_tensor ids)
{
    if (!e->info.pooled_width) return LT_NONE;
    lt_tensor rows = pooled_rows(c, e, ids);
    lt_tensor y = lt_gather_rows(c, LT_VIEW(c, x, x.shape[0] * x.shape[1], x.shape[2]), rows);
    y = replace(c, &y, lt_layer_norm(c, y, &e->final_weight, &e->final_bias, e->arch.eps, LT_NONE, LT_NONE));
    if (!e->projection.tensor.data) return y;
    return replace(c, &y, lt_linear(c, y, &e->projection, NULL, LT_ACT_NONE, LT_NONE));
}

/* ---- all of it ------------------------------------------------------------------------------------------------------- */

static bool fits(lt_context *c, const lt_text_encoder *e, lt_tensor ids, const int *n_ids,
                 const lt_text_params *params)
{
    const text_arch *a = &e->arch;
    char text[96];
    if (c->err.status != LT_OK) return false;
    if (ids.dtype != LT_I32 || ids.rank != 2 || ids.shape[1] < 1 || (a->length && ids.shape[1] > a->length))
        lt_context_fail(c, LT_E_INVALID, "token ids are %s; wanted i32 [prompts, tokens], 1 to %d tokens",
                        lt_tensor_describe(&ids, text, sizeof(text)), a->length ? a->length : INT32_MAX);
    else if (params->clip_skip < 0 || params->clip_skip > (a->family == LT_TEXT_CLIP ? a->layers : 1))
        lt_context_fail(c, LT_E_INVALID, "clip_skip is %d; this encoder takes 0 to %d", params->clip_skip,
                        a->family == LT_TEXT_CLIP ? a->layers : 1);
    else if (params->final_norm && !a->final_norm)
        lt_context_fail(
            c, LT_E_INVALID,
            "the final norm is asked for, but the file holds none (lite-sora's first encoder of SDXL)");
    for (int64_t i = 0; n_ids && c->err.status == LT_OK && i < ids.shape[0]; i++)
        if (n_ids[i] < 0 || n_ids[i] > ids.shape[1])
            lt_context_fail(c, LT_E_INVALID, "prompt %lld is said to have %d tokens of %lld", (long long)i,
                            n_ids[i], (long long)ids.shape[1]);
    return c->err.status == LT_OK;
}

/* Free a layer's packed weights. A plan, in which none are there, counts the largest layer of a pass. */
static void forget_layer(lt_context *c, text_layer *l, size_t before, size_t *largest)
{
    if (c->dry) {
        *largest = LT_MAX(*largest, c->packed_bytes - before);
        c->packed_bytes = before;
    }
    text_layer_finish(c, l);
}

/* All layers. x is taken over; *kept: the state after layer `keep`, which is not dropped. */
static lt_tensor run_layers(lt_context *c, lt_text_encoder *e, lt_tensor x, lt_tensor mask, int keep,
                            bool keep_packed, lt_tensor *kept)
{
    const text_arch *a = &e->arch;
    size_t largest = 0;
    for (int i = 0; i < a->layers && c->err.status == LT_OK; i++) {
        text_layer *l = &e->layers[i];
        size_t before = c->packed_bytes;
        lt_tensor y = a->family == LT_TEXT_CLIP ? clip_layer(c, a, l, x) : t5_layer(c, a, l, x, mask);
        if (x.data != kept->data) lt_drop(c, &x);
        x = y;
        if (!keep_packed) forget_layer(c, l, before, &largest);
        if (i + 1 != keep) continue;
        *kept = x;
        if (!e->info.pooled_width) break;
    }
    c->packed_bytes += largest;
    return x;
}

lt_text lt_text_encode(lt_context *c, lt_text_encoder *e, lt_tensor ids, const int *n_ids,
                       const lt_text_params *params)
{
    lt_text text = {0};
    const text_arch *a = &e->arch;
    if (!fits(c, e, ids, n_ids, params)) return text;
    lt_tensor x = embed(c, e, ids), mask = LT_NONE, kept = LT_NONE;
    if (a->family == LT_TEXT_T5) mask = score_bias(c, e, ids.shape[0], ids.shape[1], n_ids);
    x = run_layers(c, e, x, mask, a->layers + 1 - LT_MAX(params->clip_skip, 1), params->keep_packed, &kept);
    lt_drop(c, &mask);
    text.pooled = pool(c, e, x, ids);
    if (x.data != kept.data) lt_drop(c, &x);
    text.sequence = kept;
    if (a->family == LT_TEXT_T5)
        text.sequence = replace(c, &kept, lt_rms_norm(c, kept, &e->final_weight, a->eps));
    else if (params->final_norm)
        text.sequence = replace(
            c, &kept, lt_layer_norm(c, kept, &e->final_weight, &e->final_bias, a->eps, LT_NONE, LT_NONE));
    if (c->err.status != LT_OK) {
        lt_drop(c, &text.sequence);
        lt_drop(c, &text.pooled);
    }
    return text;
}
