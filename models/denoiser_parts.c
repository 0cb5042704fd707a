/* denoiser_parts.c - the list of parameters, and the small tensors that every network needs. */
#include "models/denoiser_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- parameters ------------------------------------------------------------------------------------------------------ */

static lt_parameter *new_parameter(denoiser_builder *b)
{
    if (b->no_memory) return NULL;
    if (b->n == b->capacity) {
        int capacity = b->capacity ? 2 * b->capacity : 512;
        lt_parameter *list = realloc(b->list, sizeof(*list) * (size_t)capacity);
        if (!list) {
            b->no_memory = true;
            return NULL;
        }
        b->list = list;
        b->capacity = capacity;
    }
    return &b->list[b->n++];
}

lt_parameter *denoiser_add(denoiser_builder *b, lt_weight *weight, int rank, const int64_t *shape,
                           const char *format, ...)
{
    lt_parameter *p = new_parameter(b);
    if (!p) return NULL;
    *p = (lt_parameter){.rank = rank, .required = weight != NULL, .weight = weight};
    memcpy(p->shape, shape, sizeof(*shape) * (size_t)rank);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->name, sizeof(p->name), format, arguments);
    va_end(arguments);
    return p;
}

void denoiser_add_linear(denoiser_builder *b, denoiser_affine *a, const char *module, int64_t in, int64_t out,
                         bool bias)
{
    lt_parameter *p = denoiser_add(b, &a->weight, 2, (int64_t[]){out, in}, "%s.weight", module);
    if (p) p->matrix = true;
    if (bias) denoiser_add(b, &a->bias, 1, (int64_t[]){out}, "%s.bias", module);
}

lt_status denoiser_bind(lt_denoiser *d, denoiser_builder *b, const char *scope, const char *const *ignored,
                        lt_err *err)
{
    const char *path = lt_checkpoint_path(d->checkpoint);
    lt_status status = b->no_memory ? lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path)
                                    : lt_checkpoint_take(d->checkpoint, b->list, b->n, scope, ignored, err);
    if (status == LT_OK && !(d->weights = malloc(sizeof(*d->weights) * (size_t)LT_MAX(b->n, 1))))
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    for (int i = 0; status == LT_OK && i < b->n; i++) {
        int64_t n = 0;
        if (!b->list[i].weight) continue;
        d->weights[d->n_weights++] = b->list[i].weight;
        lt_product_i64(b->list[i].shape, b->list[i].rank, &n);
        d->info.n_parameters += n;
    }
    free(b->list);
    *b = (denoiser_builder){0};
    return status;
}

bool denoiser_holds(const lt_checkpoint *checkpoint, const char *prefix, const char *name)
{
    char full[160];
    snprintf(full, sizeof(full), "%s%s", prefix, name);
    return lt_checkpoint_find(checkpoint, full).data != NULL;
}

int64_t denoiser_dim(const lt_checkpoint *checkpoint, int axis, const char *prefix, const char *format, ...)
{
    char full[160];
    int n = snprintf(full, sizeof(full), "%s", prefix);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(full + n, sizeof(full) - (size_t)n, format, arguments);
    va_end(arguments);
    lt_tensor t = lt_checkpoint_find(checkpoint, full);
    return t.data && axis < t.rank ? t.shape[axis] : 0;
}

/* ---- a call ---------------------------------------------------------------------------------------------------------- */

void *denoiser_reserve(lt_context *c, denoiser_buffer *buffer, size_t bytes)
{
    if (c->err.status != LT_OK) return NULL;
    if (buffer->bytes >= bytes && buffer->data) return buffer->data;
    void *data = realloc(buffer->data, LT_MAX(bytes, 64));
    if (!data) {
        lt_context_fail(c, LT_E_NO_MEMORY, "out of memory for %zu bytes of embeddings", bytes);
        return NULL;
    }
    buffer->data = data;
    buffer->bytes = LT_MAX(bytes, 64);
    return data;
}

lt_tensor denoiser_sinusoids(lt_context *c, lt_denoiser *d, const double *values, int n, int width)
{
    int half = width / 2;
    float *table = denoiser_reserve(c, &d->sinusoids, sizeof(float) * (size_t)n * (size_t)width);
    if (!table) return LT_NONE;
    for (int i = 0; i < half; i++) {
        float exponent = (float)-log(10000.0) * (float)i / (float)half;
        float frequency = (float)exp((double)exponent);
        for (int j = 0; j < n; j++) {
            float angle = (float)values[j] * frequency;
            table[j * width + i] = (float)cos((double)angle);
            table[j * width + half + i] = (float)sin((double)angle);
        }
    }
    for (int j = 0; j < n && width % 2; j++) table[j * width + width - 1] = 0;
    lt_tensor host = {.data = table, .dtype = LT_F32, .rank = 2, .shape = {n, width}};
    return lt_upload(c, host, c->dtype);
}

lt_tensor denoiser_repeat(lt_context *c, lt_tensor x, int64_t n)
{
    if (c->err.status != LT_OK) return LT_NONE;
    int64_t times = x.shape[0] == n ? 1 : n, shape[LT_MAX_RANK];
    lt_tensor row = LT_VIEW(c, x, 1, 1, 1, 1, lt_n_elements(&x));
    lt_tensor y = lt_upsample_nearest(c, row, (int)times, 1, 1);
    memcpy(shape, x.shape, sizeof(shape));
    shape[0] = n;
    return lt_view(c, y, x.rank, shape);
}
