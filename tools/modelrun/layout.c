/* layout.c - channels first to channels last and back. */
#include "tools/modelrun/layout.h"

#include "kernels/convert.h"

#include <stdlib.h>

/* Distance in memory between neighbours along n, h, w, c. */
typedef struct steps {
    int64_t n, h, w, c;
} steps;

static steps steps_of(layout l, int64_t n, int64_t h, int64_t w, int64_t c)
{
    if (l == LAYOUT_FRAMES_FIRST) return (steps){c * h * w, w, 1, h * w};
    return (steps){h * w, w, 1, n * h * w};
}

static lt_status new_tensor(lt_tensor *t, const int64_t shape[4], lt_err *err)
{
    int64_t n;
    size_t bytes;
    *t = (lt_tensor){.dtype = LT_F32, .rank = 4, .shape = {shape[0], shape[1], shape[2], shape[3]}};
    if (!lt_product_i64(shape, 4, &n) || !lt_mul_size((size_t)n, sizeof(float), &bytes) ||
        !(t->data = malloc(LT_MAX(bytes, (size_t)1))))
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a tensor");
    return LT_OK;
}

lt_status layout_load(const lt_tensor *from, const char *name, layout l, double scale, lt_tensor *to,
                      lt_err *err)
{
    char text[96];
    bool is_float =
        from->dtype == LT_F32 || from->dtype == LT_F16 || from->dtype == LT_BF16 || from->dtype == LT_F64;
    if (from->rank != 4 || !is_float)
        return lt_fail(err, LT_E_INVALID, "tensor %s is %s; wanted floating point values of rank 4", name,
                       lt_tensor_describe(from, text, sizeof(text)));
    bool frames_first = l == LAYOUT_FRAMES_FIRST;
    int64_t n = from->shape[frames_first ? 0 : 1], c = from->shape[frames_first ? 1 : 0];
    int64_t h = from->shape[2], w = from->shape[3];
    lt_status status = new_tensor(to, (int64_t[]){n, h, w, c}, err);
    if (status != LT_OK) return status;
    steps s = steps_of(l, n, h, w, c);
    float *out = to->data;
    for (int64_t i = 0; i < n; i++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++)
                for (int64_t j = 0; j < c; j++)
                    *out++ =
                        (float)(lt_load_f64(from->data, from->dtype, i * s.n + y * s.h + x * s.w + j * s.c) *
                                scale);
    return LT_OK;
}

lt_status layout_store(const lt_tensor *from, layout l, double scale, lt_tensor *to, lt_err *err)
{
    int64_t n = from->shape[0], h = from->shape[1], w = from->shape[2], c = from->shape[3];
    bool frames_first = l == LAYOUT_FRAMES_FIRST;
    lt_status status = new_tensor(to, (int64_t[]){frames_first ? n : c, frames_first ? c : n, h, w}, err);
    if (status != LT_OK) return status;
    steps s = steps_of(l, n, h, w, c);
    const float *in = from->data;
    float *out = to->data;
    for (int64_t i = 0; i < n; i++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++)
                for (int64_t j = 0; j < c; j++)
                    out[i * s.n + y * s.h + x * s.w + j * s.c] = (float)((double)*in++ * scale);
    return LT_OK;
}
