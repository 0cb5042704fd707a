/* text_open.c - building a text encoder: which parameters it has, where they lie in the files. */
#include "models/text_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- the list of parameters ------------------------------------------------------------------------------------------ */

typedef struct builder {
    const lt_checkpoint *checkpoint;
    const text_names *names;
    const char *scope;
    const text_arch *arch;
    lt_parameter *list;
    int n, capacity;
} builder;

static lt_parameter *next(builder *b, lt_weight *weight, int rank, const int64_t *shape)
{
    lt_parameter *p = &b->list[b->n++];
    *p = (lt_parameter){.rank = rank, .required = true, .weight = weight};
    for (int i = 0; i < rank; i++) p->shape[i] = shape[i];
    return p;
}

/* A parameter by its name after the scope. */
static void add(builder *b, lt_weight *weight, const char *name, const char *leaf, int rank,
                const int64_t *shape)
{
    lt_parameter *p = next(b, weight, rank, shape);
    snprintf(p->name, sizeof(p->name), "%s%s%s", b->scope, name, leaf);
}

/* A tensor that may be there and is not used. */
static void add_optional(builder *b, const char *name)
{
    if (!name) return;
    add(b, NULL, name, "", 0, NULL);
    b->list[b->n - 1].required = false;
}

static bool there(const builder *b, const char *name)
{
    char text[160];
    snprintf(text, sizeof(text), "%s%s", b->scope, name);
    return lt_checkpoint_find(b->checkpoint, text).data;
}

/* The embedding table, under one of its names or both. */
static void add_tokens(builder *b, lt_text_encoder *e)
{
    const text_names *names = b->names;
    bool other = names->tied && !there(b, names->tokens) && there(b, names->tied);
    add(b, &e->tokens, other ? names->tied : names->tokens, "", 2,
        (int64_t[]){b->arch->n_tokens, b->arch->width});
    add_optional(b, other ? names->tokens : names->tied);
}

static void add_part(builder *b, text_layer *l, int layer, text_part part, int64_t out, int64_t in)
{
    if (!b->names->part[part]) return;
    bool norm = part == TEXT_NORM1 || part == TEXT_NORM2;
    lt_parameter *p = next(b, &l->weight[part], norm ? 1 : 2, (int64_t[]){out, in});
    text_part_name(b->names, b->scope, layer, part, "weight", p->name);
    if (b->arch->family == LT_TEXT_T5) return;
    p = next(b, &l->bias[part], 1, (int64_t[]){out});
    text_part_name(b->names, b->scope, layer, part, "bias", p->name);
}

static void add_layer(builder *b, text_layer *l, int layer)
{
    int64_t width = b->arch->width, inner = (int64_t)b->arch->heads * b->arch->head_dim, ffn = b->arch->ffn;
    add_part(b, l, layer, TEXT_NORM1, width, 0);
    add_part(b, l, layer, TEXT_Q, inner, width);
    add_part(b, l, layer, TEXT_K, inner, width);
    add_part(b, l, layer, TEXT_V, inner, width);
    add_part(b, l, layer, TEXT_QKV, 3 * inner, width);
    add_part(b, l, layer, TEXT_OUT, width, inner);
    add_part(b, l, layer, TEXT_NORM2, width, 0);
    add_part(b, l, layer, TEXT_GATE, ffn, width);
    add_part(b, l, layer, TEXT_UP, ffn, width);
    add_part(b, l, layer, TEXT_DOWN, width, ffn);
}

static void add_ends(builder *b, lt_text_encoder *e)
{
    const text_names *names = b->names;
    const text_arch *a = b->arch;
    add_tokens(b, e);
    if (names->positions) {
        char full[160];
        snprintf(full, sizeof(full), "%s%s", b->scope, names->positions);
        bool framed = lt_checkpoint_find(b->checkpoint, full).rank == 3;
        const int64_t shape[] = {1, a->length, a->width};
        add(b, &e->positions, names->positions, "", framed ? 3 : 2, framed ? shape : shape + 1);
    }
    if (names->relative) add(b, &e->relative, names->relative, "", 2, (int64_t[]){a->buckets, a->heads});
    if (a->final_norm) {
        add(b, &e->final_weight, names->final_norm, ".weight", 1, (int64_t[]){a->width});
        if (a->family == LT_TEXT_CLIP)
            add(b, &e->final_bias, names->final_norm, ".bias", 1, (int64_t[]){a->width});
    }
    if (a->projection) {
        const int64_t shape[] = {a->projection, a->width, a->projection};
        add(b, &e->projection, names->projection, "", 2, names->projection_transposed ? shape + 1 : shape);
    }
    for (size_t i = 0; i < LT_COUNT(names->optional); i++) add_optional(b, names->optional[i]);
}

/* ---- tensors in the form of the network ------------------------------------------------------------------------------ */

/* Rows of a stacked tensor. */
static lt_tensor part_of(const lt_tensor *stack, int64_t rows, int index)
{
    lt_tensor t = *stack;
    if (!t.data) return LT_NONE;
    size_t bytes = lt_tensor_bytes(stack) / (size_t)stack->shape[0] * (size_t)rows;
    t.data = (char *)stack->data + bytes * (size_t)index;
    t.shape[0] = rows;
    return t;
}

/* Queries, keys and values of a layer that stacks them: views. */
static void unstack(text_layer *l)
{
    const lt_tensor *weight = &l->weight[TEXT_QKV].tensor, *bias = &l->bias[TEXT_QKV].tensor;
    if (!weight->data) return;
    int64_t rows = weight->shape[0] / 3;
    for (int i = 0; i < 3; i++) {
        l->weight[TEXT_Q + i].tensor = part_of(weight, rows, i);
        l->bias[TEXT_Q + i].tensor = part_of(bias, rows, i);
    }
    l->weight[TEXT_QKV].tensor = l->bias[TEXT_QKV].tensor = LT_NONE;
}

/* The one small matrix that is copied: [in,out] becomes [out,in]. */
static lt_status transpose_projection(lt_text_encoder *e, lt_err *err)
{
    lt_tensor *t = &e->projection.tensor;
    int64_t rows = t->shape[0], columns = t->shape[1];
    size_t size = lt_dtype_bytes(t->dtype);
    char *to = e->projection_copy = malloc(lt_tensor_bytes(t));
    if (!to) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", lt_checkpoint_path(e->checkpoint));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            memcpy(to + (size_t)(j * rows + i) * size, (char *)t->data + (size_t)(i * columns + j) * size,
                   size);
    t->data = to;
    t->shape[0] = columns;
    t->shape[1] = rows;
    return LT_OK;
}

static lt_status shape_tensors(lt_text_encoder *e, const text_names *names, lt_err *err)
{
    lt_tensor *positions = &e->positions.tensor;
    if (positions->rank == 3) {
        positions->rank = 2;
        positions->shape[0] = positions->shape[1];
        positions->shape[1] = positions->shape[2];
    }
    for (int i = 0; i < e->arch.layers; i++) unstack(&e->layers[i]);
    return e->projection.tensor.data && names->projection_transposed ? transpose_projection(e, err) : LT_OK;
}

/* ---- opening --------------------------------------------------------------------------------------------------------- */

static lt_status bind(lt_text_encoder *e, const text_names *names, const char *scope, lt_err *err)
{
    builder b = {.checkpoint = e->checkpoint, .names = names, .scope = scope, .arch = &e->arch};
    const char *path = lt_checkpoint_path(e->checkpoint);
    size_t capacity = 16 + (size_t)e->arch.layers * 2 * TEXT_N_PARTS;
    b.list = malloc(sizeof(*b.list) * capacity);
    e->layers = calloc((size_t)e->arch.layers, sizeof(*e->layers));
    if (!b.list || !e->layers) {
        free(b.list);
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    }
    add_ends(&b, e);
    for (int i = 0; i < e->arch.layers; i++) add_layer(&b, &e->layers[i], i);
    lt_status status = lt_checkpoint_take(e->checkpoint, b.list, b.n, scope, names->ignored, err);
    for (int i = 0; status == LT_OK && i < b.n; i++) {
        if (!b.list[i].weight) continue;
        e->info.n_parameters += lt_n_elements(&b.list[i].weight->tensor);
        e->info.weight_bytes += lt_tensor_bytes(&b.list[i].weight->tensor);
    }
    free(b.list);
    return status == LT_OK ? shape_tensors(e, names, err) : status;
}

static void fill_info(lt_text_encoder *e)
{
    const text_arch *a = &e->arch;
    lt_text_encoder_info *info = &e->info;
    info->family = a->family;
    info->width = a->width;
    info->pooled_width = a->family == LT_TEXT_T5 || !a->final_norm ? 0
                         : a->projection                           ? a->projection
                                                                   : a->width;
    info->projected = a->projection;
    info->length = a->length;
    info->n_tokens = a->n_tokens;
    info->layers = a->layers;
    info->eos_id = a->eos_id;
    snprintf(info->digest, sizeof(info->digest), "%s", lt_checkpoint_digest(e->checkpoint));
}

/* A pipeline's folder holds its encoders in folders of their own. */
static const char *inner_folder(const char *path, lt_text_which which, char *inner, size_t bytes)
{
    struct stat info;
    const char *name = which == LT_TEXT_FIRST ? "text_encoder" : "text_encoder_2";
    if ((size_t)snprintf(inner, bytes, "%s/config.json", path) >= bytes || stat(inner, &info) == 0)
        return path;
    if ((size_t)snprintf(inner, bytes, "%s/%s", path, name) >= bytes || stat(inner, &info) != 0) return path;
    return inner;
}

static lt_status open_encoder(lt_text_encoder *e, const char *path, lt_text_which which, lt_err *err)
{
    static const char *const ordinal[] = {"first", "second"};
    char inner[4096];
    const char *scope;
    lt_status status =
        lt_checkpoint_open(&e->checkpoint, inner_folder(path, which, inner, sizeof(inner)), err);
    if (status != LT_OK) return status;
    const text_names *names = text_names_of(e->checkpoint, which, &scope);
    if (!names && text_names_of(e->checkpoint, !which, &scope))
        return lt_fail(err, LT_E_NOT_FOUND, "%s: no %s text encoder in it, only a %s one", path,
                       ordinal[which], ordinal[!which]);
    if (!names)
        return lt_fail(
            err, LT_E_UNSUPPORTED,
            "%s: no text encoder: none of its %d tensors has a name that transformers, lite-sora or "
            "OpenCLIP give CLIP or T5",
            path, lt_checkpoint_count(e->checkpoint));
    status = text_arch_read(&e->arch, e->checkpoint, names, scope, err);
    if (status == LT_OK) status = bind(e, names, scope, err);
    if (status == LT_OK) fill_info(e);
    return status;
}

lt_status lt_text_encoder_open(lt_text_encoder **encoder, const char *path, lt_text_which which, lt_err *err)
{
    *encoder = NULL;
    lt_text_encoder *e = calloc(1, sizeof(*e));
    if (!e) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    lt_status status = open_encoder(e, path, which, err);
    if (status != LT_OK) {
        lt_text_encoder_close(e, NULL);
        return status;
    }
    *encoder = e;
    return LT_OK;
}

void text_layer_finish(lt_context *context, text_layer *layer)
{
    for (int i = 0; i < TEXT_N_PARTS; i++) {
        lt_weight_finish(context, &layer->weight[i]);
        lt_weight_finish(context, &layer->bias[i]);
    }
}

void lt_text_encoder_forget(lt_text_encoder *e, lt_context *context)
{
    lt_weight *ends[] = {&e->tokens,       &e->positions,  &e->relative,
                         &e->final_weight, &e->final_bias, &e->projection};
    for (size_t i = 0; i < LT_COUNT(ends); i++) lt_weight_finish(context, ends[i]);
    for (int i = 0; e->layers && i < e->arch.layers; i++) text_layer_finish(context, &e->layers[i]);
}

void lt_text_encoder_close(lt_text_encoder *e, lt_context *context)
{
    if (!e) return;
    if (context) lt_text_encoder_forget(e, context);
    lt_checkpoint_close(e->checkpoint);
    free(e->projection_copy);
    free(e->host);
    free(e->layers);
    free(e);
}

const lt_text_encoder_info *lt_text_encoder_get_info(const lt_text_encoder *e)
{
    return &e->info;
}
