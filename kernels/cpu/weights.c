/* weights.c - weights in the forms the CPU's kernels want, made once and kept with the weight. */
#include "kernels/cpu/cpu.h"
#include "kernels/convert.h"

#include <stdlib.h>

static const cpu_packed *find(const lt_weight *weight, int form, lt_dtype dtype)
{
    const cpu_packed *p = weight->packed;
    while (p && (p->form != form || p->dtype != dtype)) p = p->next;
    return p;
}

cpu_packed *cpu_packed_add(lt_context *c, lt_weight *weight, int form, lt_dtype dtype, size_t bytes,
                           const void *layout, size_t layout_bytes)
{
    bytes = LT_MAX(lt_round_up(bytes, 64), (size_t)64);
    if (c->dry) {
        /* No list is kept while planning, so only a weight's first form is counted. A second one is rare: oneDNN asks
         * for another layout only for frames of a few pixels. */
        if (weight->packed_bytes == 0) {
            weight->packed_bytes = bytes;
            c->packed_bytes += bytes;
        }
        return NULL;
    }
    if (!weight->packed) weight->packed_bytes = 0; /* what a plan counted */
    cpu_packed *p = malloc(sizeof(*p) + layout_bytes);
    void *data = aligned_alloc(64, bytes);
    if (!p || !data) {
        free(p);
        free(data);
        lt_context_fail(c, LT_E_NO_MEMORY, "out of memory for a weight of %.1f MiB",
                        (double)bytes / (1 << 20));
        return NULL;
    }
    *p = (cpu_packed){.next = weight->packed, .form = form, .dtype = dtype, .bytes = bytes, .data = data};
    if (layout_bytes) memcpy(p->layout, layout, layout_bytes);
    weight->packed = p;
    weight->packed_bytes += bytes;
    c->packed_bytes += bytes;
    return p;
}

void release_weight_cpu(lt_context *c, lt_weight *weight)
{
    cpu_packed *p = weight->packed;
    while (p) {
        cpu_packed *next = p->next;
        free(p->data);
        free(p);
        p = next;
    }
    weight->packed = NULL;
}

/* Element i as f32. The file's data may lie at any address. */
static float value_at(const lt_tensor *t, int64_t i)
{
    const char *at = (const char *)t->data + (size_t)i * lt_dtype_bytes(t->dtype);
    float f;
    double d;
    uint16_t h;
    switch (t->dtype) {
    case LT_F32: memcpy(&f, at, 4); return f;
    case LT_F64: memcpy(&d, at, 8); return (float)d;
    case LT_F16: memcpy(&h, at, 2); return lt_f16_to_f32(h);
    default: memcpy(&h, at, 2); return lt_bf16_to_f32(h);
    }
}

static void copy_f32(float *dst, const lt_tensor *t, int64_t n)
{
    if (t->dtype == LT_F32) {
        memcpy(dst, t->data, (size_t)n * sizeof(float));
    } else {
        for (int64_t i = 0; i < n; i++) dst[i] = value_at(t, i);
    }
}

void cpu_weight_values(void *dst, lt_dtype dtype, const lt_tensor *weight, int64_t first, int64_t n)
{
    if (weight->dtype == dtype) {
        size_t size = lt_dtype_bytes(dtype);
        memcpy(dst, (const char *)weight->data + (size_t)first * size, (size_t)n * size);
        return;
    }
    for (int64_t i = 0; i < n; i++) lt_store_f64(dst, dtype, i, (double)value_at(weight, first + i));
}

const float *cpu_weight_f32(lt_context *c, const lt_weight *weight, float **owned)
{
    const lt_tensor *t = &weight->tensor;
    *owned = NULL;
    if (t->dtype == LT_F32 && (uintptr_t)t->data % sizeof(float) == 0) return t->data;
    int64_t n = lt_n_elements(t);
    *owned = malloc((size_t)LT_MAX(n, 1) * sizeof(float));
    if (*owned) {
        copy_f32(*owned, t, n);
    } else {
        lt_context_fail(c, LT_E_NO_MEMORY, "out of memory for a weight of %lld values", (long long)n);
    }
    return *owned;
}

const float *cpu_weight_vector(lt_context *c, lt_weight *weight)
{
    if (!weight || !weight->tensor.data) return NULL;
    const cpu_packed *found = find(weight, CPU_FORM_VECTOR, LT_F32);
    if (found) return found->data;
    int64_t n = lt_n_elements(&weight->tensor);
    size_t padded = lt_round_up((size_t)n, 64) * sizeof(float);
    cpu_packed *p = cpu_packed_add(c, weight, CPU_FORM_VECTOR, LT_F32, padded, NULL, 0);
    if (!p) return NULL;
    memset(p->data, 0, padded);
    copy_f32(p->data, &weight->tensor, n);
    return p->data;
}

/* Element `from` of t, or 0 for what pads, into place `to` of panels. */
static void put(void *panels, bool bf16, int64_t to, float value)
{
    if (bf16) {
        ((uint16_t *)panels)[to] = lt_f32_to_bf16(value);
    } else {
        ((float *)panels)[to] = value;
    }
}

static void pack_panel(void *panels, const lt_tensor *t, bool bf16, bool pairs, int64_t width, int64_t inner,
                       int64_t panel)
{
    int64_t outputs = t->shape[0], inputs = t->shape[1], taps = 1;
    for (int i = 2; i < t->rank; i++) taps *= t->shape[i];
    for (int64_t k = 0; k < inner; k++) {
        for (int64_t j = 0; j < width; j++) {
            int64_t o = panel * width + j, to = (panel * inner + k) * width + j;
            if (pairs) to = (panel * inner + k - k % 2) * width + 2 * j + k % 2;
            bool there = o < outputs && k < inputs * taps;
            put(panels, bf16, to, there ? value_at(t, (o * inputs + k % inputs) * taps + k / inputs) : 0);
        }
    }
}

const void *cpu_weight_panels(lt_context *c, lt_weight *weight, int64_t padded_inner)
{
    const cpu_packed *found = find(weight, CPU_FORM_PANELS, c->dtype);
    if (found) return found->data;
    const cpu_simd *simd = cpu_of(c)->simd;
    bool bf16 = c->dtype == LT_BF16;
    int64_t width = simd->tile_columns, n_panels = (weight->tensor.shape[0] + width - 1) / width;
    size_t bytes = (size_t)(n_panels * padded_inner * width) * lt_dtype_bytes(c->dtype);
    cpu_packed *p = cpu_packed_add(c, weight, CPU_FORM_PANELS, c->dtype, bytes, NULL, 0);
    if (!p) return NULL;
#pragma omp parallel for num_threads(cpu_of(c)->threads) schedule(static)
    for (int64_t panel = 0; panel < n_panels; panel++)
        pack_panel(p->data, &weight->tensor, bf16, bf16 && simd->bf16_pairs, width, padded_inner, panel);
    return p->data;
}
