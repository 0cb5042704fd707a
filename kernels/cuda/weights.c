/* weights.c - weights in device memory, made once from the mapped file, piece by piece through pinned memory. */
#include "kernels/convert.h"
#include "kernels/cuda/cuda.h"

#include <stdlib.h>

enum { FORM_MATRIX = 1, FORM_VECTOR };

/* One form of a weight. A weight has at most one of each, in the dtype of the context that uses it. */
typedef struct packed {
    struct packed *next;
    int form;
    lt_dtype dtype;
    bool exact; /* a vector's values are the same in dtype */
    void *data;
} packed;

static packed *find_form(const lt_weight *weight, int form, lt_dtype dtype)
{
    packed *p = weight->packed;
    while (p && (p->form != form || p->dtype != dtype)) p = p->next;
    return p;
}

/* Room for one more form. NULL when dry: then it is only counted, the first one of a weight; and after an error. */
static packed *add_form(lt_context *c, lt_weight *weight, int form, size_t bytes)
{
    bytes = LT_MAX(lt_round_up(bytes, 256), (size_t)256);
    if (c->dry) {
        if (weight->packed_bytes == 0) {
            weight->packed_bytes = bytes;
            c->packed_bytes += bytes;
        }
        return NULL;
    }
    if (!weight->packed) weight->packed_bytes = 0; /* what a plan counted */
    packed *p = calloc(1, sizeof(*p));
    if (!p) {
        lt_context_fail(c, LT_E_NO_MEMORY, "weights: out of memory");
        return NULL;
    }
    p->data = cuda_allocate(c, "weights", bytes);
    if (!p->data) {
        free(p);
        return NULL;
    }
    *p = (packed){.next = weight->packed, .form = form, .dtype = c->dtype, .data = p->data};
    weight->packed = p;
    weight->packed_bytes += bytes;
    c->packed_bytes += bytes;
    return p;
}

/* A form that could not be filled is not one. */
static void drop_form(lt_context *c, lt_weight *weight)
{
    packed *p = weight->packed;
    weight->packed = p->next;
    cudaFree(p->data);
    free(p);
    if (!weight->packed) {
        c->packed_bytes -= LT_MIN(c->packed_bytes, weight->packed_bytes);
        weight->packed_bytes = 0;
    }
}

void release_weight_cuda(lt_context *c, lt_weight *weight)
{
    cuda_of(c);
    packed *p = weight->packed;
    while (p) { /* cudaFree waits for what is still reading */
        packed *next = p->next;
        cudaFree(p->data);
        free(p);
        p = next;
    }
    weight->packed = NULL;
}

/* ---- matrices ---------------------------------------------------------------------------------------- */

static float value_at(const lt_tensor *t, int64_t i)
{
    return (float)lt_load_f64(t->data, t->dtype, i);
}

/* Element i of a tensor, in dtype, to place `to` of out. */
static inline void put(void *out, lt_dtype dtype, int64_t to, float value)
{
    switch (dtype) {
    case LT_BF16: ((uint16_t *)out)[to] = lt_f32_to_bf16(value); break;
    case LT_F16: ((uint16_t *)out)[to] = lt_f32_to_f16(value); break;
    default: ((float *)out)[to] = value; break;
    }
}

/* Elements first .. first + n - 1 of the packed order. */
static void convert_piece(void *out, lt_dtype dtype, const lt_tensor *t, int64_t taps, int64_t first,
                          int64_t n)
{
    size_t size = cuda_dtype_bytes(dtype);
    int64_t inputs = t->shape[1], row = inputs * taps;
    if (taps == 1 && t->dtype == dtype) {
        memcpy(out, (const char *)t->data + (size_t)first * size, (size_t)n * size);
        return;
    }
    if (taps == 1) {
        for (int64_t i = 0; i < n; i++) put(out, dtype, i, value_at(t, first + i));
        return;
    }
    int64_t o = first / row, k = first % row, tap = k / inputs, input = k % inputs;
    for (int64_t i = 0; i < n; i++) {
        put(out, dtype, i, value_at(t, o * row + input * taps + tap));
        if (++input < inputs) continue;
        input = 0;
        if (++tap < taps) continue;
        tap = 0;
        o++;
    }
}

static lt_status send_matrix(lt_context *c, const lt_tensor *t, int64_t taps, char *to)
{
    size_t size = cuda_dtype_bytes(c->dtype);
    int64_t all = lt_n_elements(t), piece = (int64_t)(CUDA_SLOT_BYTES / size);
    for (int64_t at = 0; at < all; at += piece) {
        int64_t n = LT_MIN(piece, all - at);
        cuda_slot *slot = cuda_stage(c, "weights");
        if (!slot) return c->err.status;
        convert_piece(slot->host, c->dtype, t, taps, at, n);
        lt_status status = cuda_send(c, "weights", slot, to + (size_t)at * size, (size_t)n * size, true);
        if (status != LT_OK) return status;
    }
    return LT_OK;
}

const void *cuda_weight_matrix(lt_context *c, lt_weight *weight)
{
    const packed *found = find_form(weight, FORM_MATRIX, c->dtype);
    if (found) return found->data;
    const lt_tensor *t = &weight->tensor;
    int64_t taps = 1;
    for (int i = 2; i < t->rank; i++) taps *= t->shape[i];
    packed *p = add_form(c, weight, FORM_MATRIX, (size_t)lt_n_elements(t) * cuda_dtype_bytes(c->dtype));
    if (!p) return NULL;
    if (send_matrix(c, t, taps, p->data) == LT_OK) return p->data;
    drop_form(c, weight);
    return NULL;
}

/* ---- vectors ----------------------------------------------------------------------------------------- */

/* The vector in f32 and, from narrow_at on, in the context's dtype. Vectors are short: one slot holds both. */
static lt_status send_vector(lt_context *c, packed *p, const lt_tensor *t, size_t narrow_at, size_t bytes)
{
    cuda_slot *slot = cuda_stage(c, "weights");
    if (!slot) return c->err.status;
    p->exact = true;
    for (int64_t i = 0; i < lt_n_elements(t); i++) {
        float value = value_at(t, i);
        put(slot->host, LT_F32, i, value);
        if (c->dtype == LT_F32) continue;
        put(slot->host + narrow_at, c->dtype, i, value);
        uint16_t narrow = lt_load_u16(slot->host + narrow_at, i);
        p->exact =
            p->exact && value == (c->dtype == LT_BF16 ? lt_bf16_to_f32(narrow) : lt_f16_to_f32(narrow));
    }
    return cuda_send(c, "weights", slot, p->data, bytes, true);
}

bool cuda_weight_vector(lt_context *c, lt_weight *weight, cuda_vector *vector)
{
    *vector = (cuda_vector){0};
    if (!weight || !weight->tensor.data) return true;
    const lt_tensor *t = &weight->tensor;
    size_t n = (size_t)lt_n_elements(t), narrow_at = c->dtype == LT_F32 ? 0 : lt_round_up(4 * n, 256);
    size_t bytes = c->dtype == LT_F32 ? 4 * n : narrow_at + 2 * n;
    packed *p = find_form(weight, FORM_VECTOR, c->dtype);
    if (!p) {
        if (bytes > CUDA_SLOT_BYTES) {
            lt_context_fail(c, LT_E_UNSUPPORTED, "weights: a vector of %zu values; at most %d are supported",
                            n, CUDA_SLOT_BYTES / 8);
            return false;
        }
        p = add_form(c, weight, FORM_VECTOR, bytes);
        if (!p) return c->dry;
        if (send_vector(c, p, t, narrow_at, bytes) != LT_OK) {
            drop_form(c, weight);
            return false;
        }
    }
    vector->values = p->data;
    vector->narrow = (const char *)p->data + narrow_at;
    vector->exact = p->exact;
    return true;
}
