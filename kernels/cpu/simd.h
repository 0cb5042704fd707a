/* simd.h - the table of vector kernels. The files simd_*.c are compiled once for each instruction set (base: any
 * x86-64, avx2: with FMA, avx512: x86-64-v4) and fill one table each; cpu.c picks one when a context is opened.
 *
 * All work on one thread and on pieces that the caller chose; no result depends on where a piece starts or ends. "T"
 * is f32 or, with bf16 = true, bf16. Pointers need the alignment of their element only. */
#ifndef LT_CPU_SIMD_H
#define LT_CPU_SIMD_H

#include "kernels/ops.h"

/* The matrix product works on blocks of BLOCK_ROWS rows and BLOCK_K inner elements; rows of the left operand and of
 * the result are ROW_STRIDE floats apart where they lie in a block (33 cache lines: rows do not fall on one set). */
enum { BLOCK_ROWS = 96, BLOCK_K = 512, ROW_STRIDE = BLOCK_K + 16 };

/* Of the convolution to few outputs. */
enum { NARROW_PIXELS = 4, NARROW_OUTPUTS = 4 };

/* Of Winograd's convolution: points along t (1: the axis is not transformed; 4), and along h and w (1, 4 or 6, with t 1 or 4, but
 * not both 1, nor 6 with 4), and the most that a tile has in all, of points and of outputs. */
typedef struct cpu_winograd {
    int t, hw;
} cpu_winograd;
enum { WINOGRAD_POINTS = 64, WINOGRAD_OUTPUTS = 16 };

typedef struct cpu_winograd_out {
    const float *sums; /* a tile's value at the first point; the others' are `plane` floats apart */
    int64_t plane;
    void *const *to;             /* T: where the tile's outputs lie; NULL: it is beside the frame */
    const void *const *residual; /* the same for what is added, or NULL */
    const float *bias;           /* [n] or NULL */
    int64_t n;                   /* channels */
} cpu_winograd_out;

typedef struct cpu_epilogue {
    const float *bias; /* [n] or NULL */
    lt_activation act;
    const void *residual; /* T, rows of `stride`, or NULL */
    void *y;              /* T, rows of `stride` */
    int64_t stride;
} cpu_epilogue;

typedef struct cpu_softmax {
    /* [rows][ROW_STRIDE]: q k^T in, 2^(score - max) out, zero from `n` up to half a tile's columns; when `pairs`, as two
     * bf16 each (n at most BLOCK_K / 2), rows ROW_STRIDE bf16 values apart from the same start. */
    float *scores;
    bool pairs;
    int64_t rows, n;
    float scale; /* with the factor log2 e */
    const float
        *mask; /* of the first row and key, or NULL; added to scores that are scaled without that factor */
    int64_t mask_stride;
    bool causal;
    int64_t first_row,
        first_key;    /* for causal: key first_key + j is seen by row first_row + i when it is not later */
    float *max, *sum; /* [rows], running */
    float *rescale;   /* [rows] out: what earlier sums and results are to be multiplied by */
} cpu_softmax;

/* Layer norm of rows: (x - mean) / deviation * factor + offset; rms norm when offset is NULL: x / rms * factor. */
typedef struct cpu_norm_rows {
    double eps;
    const float *factor, *offset; /* [channels] */
} cpu_norm_rows;

typedef struct cpu_simd {
    const char *name;
    int tile_rows, tile_columns; /* of the matrix kernel: rows and columns are padded to multiples of these */

    /* dst (f32) <- src (T), n elements, and back with rounding to nearest even. */
    void (*load)(float *dst, const void *src, bool bf16, int64_t n);
    void (*store)(void *dst, const float *src, bool bf16, int64_t n);
    /* dst (f32) <- src (f16), n elements. */
    void (*load_half)(float *dst, const void *src, int64_t n);

    /* out = act(a * x + b) over n elements; out = x + a * y. */
    void (*affine)(void *out, const void *x, bool bf16, float a, float b, lt_activation act, int64_t n);
    void (*add_scaled)(void *out, const void *x, const void *y, bool bf16, float a, int64_t n);

    /* Pixels (u8, or u16 when wide) -> x * a - 1 (T), and back: clamp((x + 1) * half, 0, max) rounded or truncated. */
    void (*from_pixels)(void *out, bool bf16, const void *pixels, bool wide, float half, int64_t n);
    void (*to_pixels)(void *pixels, bool wide, const void *x, bool bf16, float max, bool truncate, int64_t n);

    /* Sums and sums of squares of x - shift, in f64, added over `rows` rows to sum[channels], square[channels]. */
    void (*norm_sums)(const void *x, bool bf16, int64_t rows, int64_t channels, const float *shift,
                      double *sum, double *square);
    /* y = act((x - mean) * factor + offset), a value of each per channel. */
    void (*norm_apply)(void *y, const void *x, bool bf16, int64_t rows, int64_t channels, const float *mean,
                       const float *factor, const float *offset, lt_activation act);

    /* Every row by its own statistics, in f64. */
    void (*norm_rows)(void *y, const void *x, bool bf16, int64_t rows, int64_t channels,
                      const cpu_norm_rows *p);
    /* out = x + gate * y over n elements; out = x * y. */
    void (*gate)(void *out, const void *x, const void *y, const void *gate, bool bf16, int64_t n);
    void (*multiply)(void *out, const void *x, const void *y, bool bf16, int64_t n);
    /* Rows of x are two halves of `channels`: out = first * act(second). */
    void (*glu)(void *out, const void *x, bool bf16, lt_activation act, int64_t rows, int64_t channels);
    /* out = a x + b y in f64, rounded once. */
    void (*combine)(float *out, const float *x, double a, const float *y, double b, int64_t n);

    /* c [rows][c_stride] (+)= a [rows][a_stride] b. b lies in panels of tile_columns columns, [k][tile_columns],
     * panel_stride elements apart, f32 or bf16. rows are a multiple of tile_rows, columns of half a tile's, k <= BLOCK_K. */
    void (*gemm)(float *c, int64_t c_stride, const float *a, int64_t a_stride, const void *b, bool b_bf16,
                 int64_t panel_stride, int64_t rows, int64_t columns, int64_t k, bool accumulate);
    /* y = act(c + bias) + residual, rounded to T. */
    void (*epilogue)(const cpu_epilogue *e, bool bf16, const float *c, int64_t c_stride, int64_t rows,
                     int64_t columns);

    /* sums [NARROW_PIXELS][outputs] of `taps` x `inputs` products; from [taps][NARROW_PIXELS]: inputs (T) of a pixel under a
     * tap; weight [taps][inputs / lanes][outputs][lanes], a vector being half of tile_columns; inputs a multiple of that. */
    void (*narrow)(float *sums, const void *const *from, const float *weight, bool bf16, int64_t taps,
                   int64_t inputs, int64_t outputs);

    /* Inputs (T) of a tile, which lie at from[points], become their values at the points, `plane` floats apart; up to a vector's
     * width of zeros stands behind `inputs`. And back, with what is added. */
    void (*winograd_in)(float *to, int64_t plane, const void *const *from, bool bf16, cpu_winograd form,
                        int64_t inputs);
    void (*winograd_out)(const cpu_winograd_out *o, bool bf16, cpu_winograd form);

    void (*softmax)(const cpu_softmax *s);
    /* Rows of c times factor[row]; the reciprocals when `invert` (0 stays 0: a row that saw no key). */
    void (*scale_rows)(float *c, int64_t c_stride, int64_t rows, int64_t columns, const float *factor,
                       bool invert);
} cpu_simd;

/* Where the processor multiplies bf16 as they are, two inner elements at a time. */
typedef struct cpu_pairs {
    int rows; /* rows are padded to multiples of these */
    /* Of a piece of a large product: the quicker the units, the more must be computed of what was brought from memory. Multiples of
     * BLOCK_ROWS, and of columns of a panel. */
    int piece_rows, piece_columns;
    /* cpu_simd.gemm with both operands bf16 in pairs of k (even): a [rows][ROW_STRIDE] holds them one after the other, b
     * [k / 2][tile_columns][2]. */
    void (*gemm)(float *c, int64_t c_stride, const uint16_t *a, const uint16_t *b, int64_t panel_stride,
                 int64_t rows, int64_t columns, int64_t k, bool accumulate);
} cpu_pairs;

/* With the tables avx512bf16. Tiles (AMX) are a process's after the first cpu_amx_permitted: false where the kernel refuses them. */
extern const cpu_pairs cpu_pairs_avx512bf16, cpu_pairs_amx;
bool cpu_amx_permitted(void);

extern const cpu_simd cpu_simd_base, cpu_simd_avx2, cpu_simd_avx512, cpu_simd_avx512bf16;

#endif
