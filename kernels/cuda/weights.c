/* weights.c - weights in device memory, made once from the mapped file, piece by piece through pinned memory. */
#include "kernels/convert.h"
#include "kernels/cuda/cuda.h"

#include <stdlib.h>

enum { FORM_MATRIX = 1, FORM_PADDED, FORM_FOLDED, FORM_TAPS, FORM_VECTOR, FORM_VECTOR_4 };

/* One form of a weight. A weight has at most one of each, in the dtype of the context that uses it. */
typedef struct packed {
    struct packed *next;
    int form;
    lt_dtype dtype;
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
    const cuda_device *d = c->device;
    if (d->record) {
        lt_context_fail(c, LT_E_UNSUPPORTED, "weights: one was used in another form before");
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
    cudaGetLastError(); /* what failed before is what is told */
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
    cudaGetLastError(); /* nobody is told */
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

/* Elements first .. first + n - 1 of a form's order, from a weight of so many taps. */
typedef void piece_fn(void *out, lt_dtype dtype, const lt_tensor *t, int64_t taps, int64_t first, int64_t n);

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

static void pad_piece(void *out, lt_dtype dtype, const lt_tensor *t, int64_t taps, int64_t first, int64_t n)
{
    int64_t inputs = t->shape[1], padded = (int64_t)lt_round_up((size_t)inputs, CUDA_CHANNELS);
    for (int64_t i = 0; i < n; i++) {
        int64_t input = (first + i) % padded, tap = (first + i) / padded % taps,
                o = (first + i) / (padded * taps);
        put(out, dtype, i, input < inputs ? value_at(t, (o * inputs + input) * taps + tap) : 0);
    }
}

/* Along one axis, the taps of an output's window of three that fall on element `e` of the two that it sees: an odd output's on its own
 * element, and its last on the next; an even one's first on the one before, and two on its own. */
static void folded_taps(int64_t even, int64_t e, int64_t *first, int64_t *end)
{
    *first = e ? 2 - even : 0;
    *end = e ? 3 : 2 - even;
}

static void fold_piece(void *out, lt_dtype dtype, const lt_tensor *t, int64_t taps, int64_t first, int64_t n)
{
    int64_t outputs = t->shape[0], inputs = t->shape[1];
    for (int64_t i = 0; i < n; i++) {
        int64_t at = (first + i) / inputs, input = (first + i) % inputs, o = at / 4 % outputs,
                place = at / 4 / outputs;
        int64_t h0, h1, w0, w1;
        folded_taps(place / 2, at / 2 % 2, &h0, &h1);
        folded_taps(place % 2, at % 2, &w0, &w1);
        double sum = 0;
        for (int64_t h = h0; h < h1; h++)
            for (int64_t w = w0; w < w1; w++)
                sum += lt_load_f64(t->data, t->dtype, (o * inputs + input) * taps + 3 * h + w);
        lt_store_f64(out, dtype, i, sum);
    }
}

static void taps_piece(void *out, lt_dtype dtype, const lt_tensor *t, int64_t taps, int64_t first, int64_t n)
{
    int64_t outputs = t->shape[0], inputs = t->shape[1];
    for (int64_t i = 0; i < n; i++) {
        int64_t row = (first + i) / inputs, input = (first + i) % inputs, tap = row / outputs,
                o = row % outputs;
        put(out, dtype, i, tap < taps ? value_at(t, (o * inputs + input) * taps + tap) : 0);
    }
}

static lt_status send_matrix(lt_context *c, const lt_tensor *t, int64_t taps, piece_fn *convert, int64_t all,
                             char *to)
{
    size_t size = cuda_dtype_bytes(c->dtype);
    int64_t piece = (int64_t)(CUDA_SLOT_BYTES / size);
    for (int64_t at = 0; at < all; at += piece) {
        int64_t n = LT_MIN(piece, all - at);
        cuda_slot *slot = cuda_stage(c, "weights", (size_t)n * size);
        if (!slot) return c->err.status;
        convert(slot->host, c->dtype, t, taps, at, n);
        lt_status status = cuda_send(c, "weights", slot, to + (size_t)at * size, (size_t)n * size, true);
        if (status != LT_OK) return status;
    }
    return LT_OK;
}

static const void *matrix_form(lt_context *c, lt_weight *weight, int form, piece_fn *convert, int64_t all)
{
    const packed *found = find_form(weight, form, c->dtype);
    if (found) return found->data;
    const lt_tensor *t = &weight->tensor;
    int64_t taps = 1;
    for (int i = 2; i < t->rank; i++) taps *= t->shape[i];
    packed *p = add_form(c, weight, form, (size_t)all * cuda_dtype_bytes(c->dtype));
    if (!p) return NULL;
    if (send_matrix(c, t, taps, convert, all, p->data) == LT_OK) return p->data;
    drop_form(c, weight);
    return NULL;
}

const void *cuda_weight_matrix(lt_context *c, lt_weight *weight)
{
    return matrix_form(c, weight, FORM_MATRIX, convert_piece, lt_n_elements(&weight->tensor));
}

const void *cuda_weight_padded(lt_context *c, lt_weight *weight)
{
    const lt_tensor *t = &weight->tensor;
    int64_t inputs = t->shape[1], padded = (int64_t)lt_round_up((size_t)inputs, CUDA_CHANNELS);
    return matrix_form(c, weight, FORM_PADDED, pad_piece, lt_n_elements(t) / inputs * padded);
}

const void *cuda_weight_folded(lt_context *c, lt_weight *weight)
{
    return matrix_form(c, weight, FORM_FOLDED, fold_piece,
                       16 * weight->tensor.shape[0] * weight->tensor.shape[1]);
}

const void *cuda_weight_taps(lt_context *c, lt_weight *weight)
{
    const lt_tensor *t = &weight->tensor;
    int64_t inputs = t->shape[1], rows = lt_n_elements(t) / inputs;
    return matrix_form(c, weight, FORM_TAPS, taps_piece,
                       (int64_t)lt_round_up((size_t)rows, CUDA_CHANNELS) * inputs);
}

/* ---- vectors ----------------------------------------------------------------------------------------- */

/* The vector, `times` over, in f32 and, from narrow_at on, in the context's dtype. Vectors are short: one slot holds both. */
static lt_status send_vector(lt_context *c, packed *p, const lt_tensor *t, int64_t times, size_t narrow_at,
                             size_t bytes)
{
    cuda_slot *slot = cuda_stage(c, "weights", bytes);
    if (!slot) return c->err.status;
    for (int64_t i = 0; i < times * lt_n_elements(t); i++) {
        float value = value_at(t, i % lt_n_elements(t));
        put(slot->host, LT_F32, i, value);
        if (c->dtype == LT_F32) continue;
        put(slot->host + narrow_at, c->dtype, i, value);
    }
    return cuda_send(c, "weights", slot, p->data, bytes, true);
}

static bool vector_form(lt_context *c, lt_weight *weight, int form, int64_t times, cuda_vector *vector)
{
    *vector = (cuda_vector){0};
    if (!weight || !weight->tensor.data) return true;
    const lt_tensor *t = &weight->tensor;
    size_t n = (size_t)(times * lt_n_elements(t)),
           narrow_at = c->dtype == LT_F32 ? 0 : lt_round_up(4 * n, 256);
    size_t bytes = c->dtype == LT_F32 ? 4 * n : narrow_at + 2 * n;
    packed *p = find_form(weight, form, c->dtype);
    if (!p) {
        if (bytes > CUDA_SLOT_BYTES) {
            lt_context_fail(c, LT_E_UNSUPPORTED, "weights: a vector of %zu values; at most %d are supported",
                            n, CUDA_SLOT_BYTES / 8);
            return false;
        }
        p = add_form(c, weight, form, bytes);
        if (!p) return c->dry;
        if (send_vector(c, p, t, times, narrow_at, bytes) != LT_OK) {
            drop_form(c, weight);
            return false;
        }
    }
    vector->values = p->data;
    vector->narrow = (const char *)p->data + narrow_at;
    return true;
}

bool cuda_weight_vector(lt_context *c, lt_weight *weight, cuda_vector *vector)
{
    return vector_form(c, weight, FORM_VECTOR, 1, vector);
}

bool cuda_weight_vector_4(lt_context *c, lt_weight *weight, cuda_vector *vector)
{
    return vector_form(c, weight, FORM_VECTOR_4, 4, vector);
}
