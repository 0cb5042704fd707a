/* resample.h - pictures made smaller or larger as Pillow does it: bicubic (a = -0.5), the filter widened where the picture
 * shrinks, rows first, each pass rounded to the sample's type. With 8 bits a sample the result is Pillow's, byte for byte. */
#ifndef LT_VIDEO_RESAMPLE_H
#define LT_VIDEO_RESAMPLE_H

#include "core/core.h"

typedef struct lt_resample lt_resample;

/* From [in_height, in_width, 3] to [out_height, out_width, 3], u8 (bits 8) or native u16 (bits 16); sizes 1 .. 65536.
 * E_NO_MEMORY. */
lt_status lt_resample_create(lt_resample **resample, int in_width, int in_height, int out_width,
                             int out_height, int bits, lt_err *err);
void lt_resample_destroy(lt_resample *resample); /* takes NULL */

/* in and out are packed, `in_stride` and `out_stride` bytes a row; they do not overlap. */
void lt_resample_run(const lt_resample *resample, const uint8_t *in, size_t in_stride, uint8_t *out,
                     size_t out_stride);

#endif
