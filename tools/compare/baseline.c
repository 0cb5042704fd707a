/* baseline.c - 8x8 blocks through a linear code. */
#include "tools/compare/baseline.h"
#include "kernels/safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 8, BLOCK = SIDE * SIDE * 3, N_BASIS = 4 };

struct lt_baseline {
    float mean[BLOCK], basis[N_BASIS][BLOCK];
};

/* Copy tensor `name` of n values into `to`. */
static lt_status load(const lt_safetensors *file, const char *path, const char *name, int64_t n, float *to,
                      lt_err *err)
{
    lt_tensor tensor;
    char text[96];
    lt_status status = lt_safetensors_get(file, name, &tensor, err);
    if (status) return status;
    if (tensor.dtype != LT_F32 || lt_n_elements(&tensor) != n)
        return lt_fail(err, LT_E_FORMAT, "%s: %s is %s, not f32 of %lld values", path, name,
                       lt_tensor_describe(&tensor, text, sizeof text), (long long)n);
    memcpy(to, tensor.data, (size_t)n * sizeof *to);
    return LT_OK;
}

lt_status lt_baseline_open(lt_baseline **out, const char *path, lt_err *err)
{
    lt_safetensors *file = NULL;
    lt_status status;
    lt_baseline *baseline = *out = NULL;
    LT_TRY(lt_safetensors_open(&file, path, err));
    baseline = malloc(sizeof *baseline);
    if (!baseline) {
        status = lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        goto fail;
    }
    LT_TRY(load(file, path, "mean", BLOCK, baseline->mean, err));
    LT_TRY(load(file, path, "basis", (int64_t)N_BASIS * BLOCK, baseline->basis[0], err));
    *out = baseline;
    baseline = NULL;
fail:
    free(baseline);
    lt_safetensors_close(file);
    return status;
}

void lt_baseline_close(lt_baseline *baseline)
{
    free(baseline);
}

static void apply_block(const lt_baseline *baseline, const uint8_t *in, size_t stride, uint8_t *out)
{
    double x[BLOCK], code[N_BASIS] = {0};
    for (int row = 0; row < SIDE; row++)
        for (int i = 0; i < SIDE * 3; i++)
            x[row * SIDE * 3 + i] =
                in[(size_t)row * stride + (size_t)i] / 127.5 - 1 - baseline->mean[row * SIDE * 3 + i];
    for (int b = 0; b < N_BASIS; b++)
        for (int i = 0; i < BLOCK; i++) code[b] += baseline->basis[b][i] * x[i];
    for (int i = 0; i < BLOCK; i++) {
        double y = baseline->mean[i];
        for (int b = 0; b < N_BASIS; b++) y += baseline->basis[b][i] * code[b];
        double value = (y + 1) * 127.5;
        out[(size_t)(i / (SIDE * 3)) * stride + (size_t)(i % (SIDE * 3))] =
            (uint8_t)lrint(value < 0     ? 0
                           : value > 255 ? 255
                                         : value);
    }
}

void lt_baseline_apply(const lt_baseline *baseline, const uint8_t *rgb, int width, int height, uint8_t *out)
{
    size_t stride = (size_t)width * 3;
    for (int y = 0; y < height; y += SIDE)
        for (int x = 0; x < width; x += SIDE) {
            size_t at = (size_t)y * stride + (size_t)x * 3;
            apply_block(baseline, rgb + at, stride, out + at);
        }
}
