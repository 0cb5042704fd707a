/* colour.h - a picture of Y'CbCr in planes, as decoders have it: plain numbers, for who makes them and for lt_yuv_to_rgb (ops.h). */
#ifndef LT_COLOUR_H
#define LT_COLOUR_H

#include <stdbool.h>
#include <stdint.h>

/* ITU-R BT.601, 709, 2020 with non-constant luminance. */
typedef enum { LT_MATRIX_601, LT_MATRIX_709, LT_MATRIX_2020 } lt_colour_matrix;

/* One picture of Y'CbCr in planes, as video decoders and encoders have it: addresses in the device's memory, of samples; when dry they may be
 * NULL. */
typedef struct lt_yuv {
    void *y, *u, *v;           /* NV12, P010: v is u plus one sample */
    int64_t y_pitch, uv_pitch; /* bytes from row to row */
    int uv_step;               /* samples from one Cb to the next: 1 in planes, 2 interleaved */
    int width, height;         /* of y */
    int shift_x,
        shift_y; /* log2 of chroma's subsampling, 0 or 1: 4:2:0 is 1, 1. Sizes of chroma are rounded up */
    int at_x,
        at_y; /* where it is subsampled: a sample of chroma lies so many halves of a pixel, 0 to 2, behind the first pixel that it is for;
                 0, 1 in MPEG-2, H.264 and most video: on its column, between its rows */
    int bits; /* 8: samples are u8; 9 to 16: u16 */
    int low_zeros; /* unused low bits of a sample: 6 in P010, else 0 */
    lt_colour_matrix matrix;
    bool full_range;
} lt_yuv;

#endif
