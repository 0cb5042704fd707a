/* baseline.h - what a linear code of four numbers per 8x8 block would give: the bar a trained VAE has to
 * clear. */
#ifndef LT_COMPARE_BASELINE_H
#define LT_COMPARE_BASELINE_H

#include "core/core.h"

typedef struct lt_baseline lt_baseline;

/* A safetensors file with f32 `mean` [192] and `basis` [4,192], orthonormal rows, of blocks in the order
 * row, column, channel and values in [-1,1]. E_FORMAT for other shapes or types; errors of opening. */
lt_status lt_baseline_open(lt_baseline **baseline, const char *path, lt_err *err);
void lt_baseline_close(lt_baseline *baseline);

/* Every block of rgb [height, width, 3], sides multiples of 8, as mean + basis^T basis (x - mean), to
 * bytes by rounding. */
void lt_baseline_apply(const lt_baseline *baseline, const uint8_t *rgb, int width, int height, uint8_t *out);

#endif
