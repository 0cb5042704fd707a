/* simd_tables.h - the kernels of one instruction set, declared for the file that builds its table. */
#ifndef LT_CPU_SIMD_TABLES_H
#define LT_CPU_SIMD_TABLES_H

#include "kernels/cpu/simd_math.h"

void SIMD_NAME(load)(float *dst, const void *src, bool bf16, int64_t n);
void SIMD_NAME(store)(void *dst, const float *src, bool bf16, int64_t n);
void SIMD_NAME(load_half)(float *dst, const void *src, int64_t n);
void SIMD_NAME(affine)(void *out, const void *x, bool bf16, float a, float b, lt_activation act, int64_t n);
void SIMD_NAME(add_scaled)(void *out, const void *x, const void *y, bool bf16, float a, int64_t n);
void SIMD_NAME(from_pixels)(void *out, bool bf16, const void *pixels, bool wide, float half, int64_t n);
void SIMD_NAME(to_pixels)(void *pixels, bool wide, const void *x, bool bf16, float max, bool truncate,
                          int64_t n);
void SIMD_NAME(norm_sums)(const void *x, bool bf16, int64_t rows, int64_t channels, const float *shift,
                          double *sum, double *square);
void SIMD_NAME(norm_apply)(void *y, const void *x, bool bf16, int64_t rows, int64_t channels,
                           const float *mean, const float *factor, const float *offset, lt_activation act);
void SIMD_NAME(norm_rows)(void *y, const void *x, bool bf16, int64_t rows, int64_t channels,
                          const cpu_norm_rows *p);
void SIMD_NAME(narrow)(float *sums, const void *const *from, const float *weight, bool bf16, int64_t taps,
                       int64_t inputs, int64_t outputs);
void SIMD_NAME(winograd_in)(float *to, int64_t plane, const void *const *from, bool bf16, cpu_winograd form,
                            int64_t inputs);
void SIMD_NAME(winograd_out)(const cpu_winograd_out *o, bool bf16, cpu_winograd form);
void SIMD_NAME(gate)(void *out, const void *x, const void *y, const void *gate, bool bf16, int64_t n);
void SIMD_NAME(multiply)(void *out, const void *x, const void *y, bool bf16, int64_t n);
void SIMD_NAME(glu)(void *out, const void *x, bool bf16, lt_activation act, int64_t rows, int64_t channels);
void SIMD_NAME(combine)(float *out, const float *x, double a, const float *y, double b, int64_t n);

#endif
