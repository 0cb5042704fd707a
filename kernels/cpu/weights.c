/* weights.c - weights in the forms the CPU's kernels want, made once and kept with the weight. */
#include "kernels/cpu/cpu.h"
#include "kernels/convert.h"

#include <stdlib.h>
#include <sys/mman.h>

const cpu_packed *cpu_packed_find(const lt_weight *weight, int form, lt_dtype dtype)
{
    const cpu_packed *p = weight->packed;
    while (p && (p->form != form || p->dtype != dtype)) p = p->next;
    return p;
}

/* 64-byte aligned. Large ones in huge pages as far as they go whole: their pages are had 512 at a time, and the matrix
 * kernels miss fewer of them. */
static void *allocate(size_t bytes)
{
    const size_t huge = (size_t)2 << 20;
    if (bytes < 2 * huge) return aligned_alloc(64, bytes);
    void *data = NULL;
    if (posix_memalign(&data, huge, bytes) != 0) return NULL;
    madvise(data, bytes / huge * huge, MADV_HUGEPAGE); /* advice only: it need not be taken */
    return data;
}

/* A plan keeps no list, which nobody would free: a bit for each form in place of it. */
static void count_form(lt_context *c, lt_weight *weight, int form, lt_dtype dtype, size_t bytes)
{
    uint64_t bit = UINT64_C(1) << (form < CPU_FORM_ONEDNN ? 2 * form + (dtype == LT_BF16) : form);
    if (weight->packed || weight->planned & bit) return;
    weight->planned |= bit;
    weight->packed_bytes += bytes;
    c->packed_bytes += bytes;
}

cpu_packed *cpu_packed_add(lt_context *c, lt_weight *weight, int form, lt_dtype dtype, size_t bytes,
                           const void *layout, size_t layout_bytes)
{
    bytes = LT_MAX(lt_round_up(bytes, 64), (size_t)64);
    if (c->dry) {
        count_form(c, weight, form, dtype, bytes);
        return NULL;
    }
    if (!weight->packed) weight->packed_bytes = 0; /* what a plan counted */
    cpu_packed *p = malloc(sizeof(*p) + layout_bytes);
    void *data = allocate(bytes);
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

void cpu_packed_drop(lt_context *c, lt_weight *weight)
{
    cpu_packed *p = weight->packed;
    weight->packed = p->next;
    weight->packed_bytes -= p->bytes;
    c->packed_bytes -= LT_MIN(c->packed_bytes, p->bytes);
    free(p->data);
    free(p);
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
    const cpu_packed *found = cpu_packed_find(weight, CPU_FORM_VECTOR, LT_F32);
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

/* A matrix, or a convolution's weight, on its way into panels. */
typedef struct packing {
    const cpu_simd *simd;
    const lt_tensor *from;
    char *to;
    bool bf16, pairs;
    int64_t outputs, inputs, taps;
    int64_t width, inner; /* columns of a panel, its padded inner dimension */
} packing;

/* Any shape and dtype, element by element. */
static void pack_panel_slowly(const packing *p, int64_t panel)
{
    for (int64_t k = 0; k < p->inner; k++) {
        int64_t input = k % p->inputs, tap = k / p->inputs;
        for (int64_t j = 0; j < p->width; j++) {
            int64_t o = panel * p->width + j, to = (panel * p->inner + k) * p->width + j;
            if (p->pairs) to = (panel * p->inner + k - k % 2) * p->width + 2 * j + k % 2;
            bool there = o < p->outputs && tap < p->taps;
            int64_t from = (o * p->inputs + input) * p->taps + tap;
            put(p->to, p->bf16, to, there ? value_at(p->from, from) : 0);
        }
    }
}

enum { LINE = 512 }; /* elements of a row that are converted at a time */

/* n elements of a row in f32, or in bf16 where panels are. */
static void load_line(const packing *p, char *line, int64_t from, int64_t n)
{
    const char *at = (const char *)p->from->data + (size_t)from * lt_dtype_bytes(p->from->dtype);
    if (p->bf16 && p->from->dtype == LT_BF16) {
        memcpy(line, at, (size_t)n * sizeof(uint16_t));
        return;
    }
    float values[LINE], *to = p->bf16 ? values : (float *)(void *)line;
    if (p->from->dtype == LT_F16) {
        p->simd->load_half(to, at, n);
    } else {
        p->simd->load(to, at, p->from->dtype == LT_BF16, n);
    }
    if (p->bf16) p->simd->store(line, values, true, n);
}

/* Inputs first .. first + n - 1 of all columns, which stand in lines, to their places; a unit is what of a line stands together
 * there: an f32, a bf16, or a pair of bf16 whose two are `taps` apart in the line. */
static inline void transpose_units(const packing *p, const char *lines, size_t line_bytes, int64_t panel,
                                   int64_t first, int64_t n, size_t unit, bool split)
{
    size_t element = p->bf16 ? 2 : 4, step = p->pairs ? 2 : 1;
    for (int64_t tap = 0; tap < p->taps; tap++) {
        for (int64_t i = 0; i < n; i += (int64_t)step) {
            int64_t k = tap * p->inputs + first + i;
            char *to = p->to + (size_t)((panel * p->inner + k) * p->width) * element;
            const char *from = lines + (size_t)(i * p->taps + tap) * element;
            for (int64_t j = 0; j < p->width; j++, to += unit, from += line_bytes) {
                if (split) {
                    memcpy(to, from, 2);
                    memcpy(to + 2, from + 2 * p->taps, 2);
                } else {
                    memcpy(to, from, unit);
                }
            }
        }
    }
}

static void transpose(const packing *p, const char *lines, size_t line_bytes, int64_t panel, int64_t first,
                      int64_t n)
{
    if (p->pairs && p->taps > 1) {
        transpose_units(p, lines, line_bytes, panel, first, n, 4, true);
    } else if (p->bf16 && !p->pairs) {
        transpose_units(p, lines, line_bytes, panel, first, n, 2, false);
    } else {
        transpose_units(p, lines, line_bytes, panel, first, n, 4, false);
    }
}

static void pack_panel(const packing *p, int64_t panel)
{
    enum { MOST_COLUMNS = 32 };
    _Alignas(64) char lines[MOST_COLUMNS * LINE * sizeof(float)];
    /* Odd numbers of bytes between lines' starts, in cache lines: they do not fall on one set. */
    size_t line_bytes = (LINE - 16) * sizeof(float);
    int64_t at_once = (LINE - 16) / p->taps / 2 * 2;
    bool whole = p->inner == p->inputs * p->taps && (!p->pairs || p->inputs % 2 == 0);
    if (!whole || at_once < 2 || p->from->dtype == LT_F64 || p->width > MOST_COLUMNS) {
        pack_panel_slowly(p, panel);
        return;
    }
    for (int64_t first = 0; first < p->inputs; first += at_once) {
        int64_t n = LT_MIN(at_once, p->inputs - first);
        for (int64_t j = 0; j < p->width; j++) {
            int64_t o = panel * p->width + j;
            if (o < p->outputs) {
                load_line(p, lines + (size_t)j * line_bytes, (o * p->inputs + first) * p->taps, n * p->taps);
            } else {
                memset(lines + (size_t)j * line_bytes, 0, line_bytes);
            }
        }
        transpose(p, lines, line_bytes, panel, first, n);
    }
}

const void *cpu_weight_panels(lt_context *c, lt_weight *weight, int64_t padded_inner)
{
    const cpu_packed *found = cpu_packed_find(weight, CPU_FORM_PANELS, c->dtype);
    if (found) return found->data;
    const lt_tensor *t = &weight->tensor;
    packing pack = {.simd = cpu_of(c)->simd,
                    .from = t,
                    .bf16 = c->dtype == LT_BF16,
                    .outputs = t->shape[0],
                    .inputs = t->shape[1],
                    .taps = 1,
                    .inner = padded_inner};
    pack.pairs = pack.bf16 && cpu_of(c)->pairs;
    pack.width = pack.simd->tile_columns;
    for (int i = 2; i < t->rank; i++) pack.taps *= t->shape[i];
    int64_t n_panels = (pack.outputs + pack.width - 1) / pack.width;
    size_t bytes = (size_t)(n_panels * padded_inner * pack.width) * lt_dtype_bytes(c->dtype);
    cpu_packed *p = cpu_packed_add(c, weight, CPU_FORM_PANELS, c->dtype, bytes, NULL, 0);
    if (!p) return NULL;
    pack.to = p->data;
#pragma omp parallel for num_threads(cpu_of(c)->threads) schedule(dynamic)
    for (int64_t panel = 0; panel < n_panels; panel++) pack_panel(&pack, panel);
    return p->data;
}
