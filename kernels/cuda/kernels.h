/* kernels.h - our own CUDA kernels: plain functions that put one operation on a stream.
 *
 * Contract of all:
 * - Pointers are device memory, aligned to an element; the 16-byte paths are taken where addresses and sizes allow it, and give
 *   the same bytes as the others. Tensors are contiguous, row-major, channels-last. Results lie over no input, but where it is said.
 * - `dtype` is LT_F32, LT_BF16 or LT_F16: of every pointer to void, where nothing else is said. Arithmetic is f32, rounded once, to
 *   nearest even, when stored; bounds and formulas are ops.h's. Vectors of weights (bias, gamma, beta) are f32.
 * - Sizes are elements. A size of 0 is LT_OK without a launch.
 * - The bytes depend on no launch shape, stream, batch or address: what a sample's value is made of, and in which order, follows from
 *   the shape of one sample alone. Floating point is never added atomically.
 * - Asynchronous: the launch is put on the stream and the function returns. E_INVALID for a dtype or size that is not as stated (nothing
 *   is launched then); E_INTERNAL where the driver refuses the launch, whose cause lt_launch_error names: also that of an
 *   earlier failure of the device, as cudaGetLastError has it. Any thread.
 *
 * Compiled by nvcc for the device, and by the host's compiler on tests/cuda_on_host's runtime. */
#ifndef LT_CUDA_KERNELS_H
#define LT_CUDA_KERNELS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/ops.h"

typedef struct CUstream_st *lt_stream; /* cudaStream_t; NULL: the default stream */

/* Name of the CUDA error that the calling thread's last launch or query ended with; "no error" when there was none. */
const char *lt_launch_error(void);
/* The same error as its number, a cudaError_t. */
int lt_launch_code(void);

/* Is there code of these kernels for the thread's device? It is compiled for one architecture and those after it: E_UNSUPPORTED on an older
 * one; E_INTERNAL, and lt_launch_error, after another error. */
lt_status lt_kernels_found(void);

/* ---- norms (kernels_norm.cu) ------------------------------------------------------------------------- */

/* Bytes of scratch that lt_launch_group_norm needs (256-byte aligned): the sums of pieces of each sample, in f64. */
size_t lt_group_norm_scratch(lt_dtype dtype, int64_t n, int64_t rows, int64_t channels, int groups);

/* y = act((x - mean) * gamma / sqrt(variance + eps) + beta). x, y [n,rows,channels]; groups divides channels; gamma, beta
 * [channels]. Statistics in f64 around a value of the group. A sample whose groups fit in a block's shared memory is read once; others
 * are read by a pass over pieces of rows, whose sums are added in their order, and once more where the result is written.
 * y may be x. */
lt_status lt_launch_group_norm(lt_stream stream, lt_dtype dtype, void *y, const void *x, int64_t n,
                               int64_t rows, int64_t channels, int groups, const float *gamma,
                               const float *beta, double eps, lt_activation act, void *scratch);

/* y = (norm(x) * gamma + beta) * (1 + scale) + shift. x, y [n,rows,channels]; gamma, beta [channels] or NULL, each; scale, shift
 * [n,channels] of dtype, or NULL, each. y may be x. */
lt_status lt_launch_layer_norm(lt_stream stream, lt_dtype dtype, void *y, const void *x, int64_t n,
                               int64_t rows, int64_t channels, const float *gamma, const float *beta,
                               double eps, const void *scale, const void *shift);

/* y = x / sqrt(mean(x^2) + eps) * gamma. x, y [rows,channels], gamma [channels]. y may be x. */
lt_status lt_launch_rms_norm(lt_stream stream, lt_dtype dtype, void *y, const void *x, int64_t rows,
                             int64_t channels, const float *gamma, double eps);

/* ---- elements (kernels_elements.cu); out may be any of the inputs ------------------------------------- */

/* out = x + a * y, n elements. */
lt_status lt_launch_add_scaled(lt_stream stream, lt_dtype dtype, void *out, const void *x, const void *y,
                               float a, int64_t n);
/* out = act(a * x + b), n elements. */
lt_status lt_launch_affine(lt_stream stream, lt_dtype dtype, void *out, const void *x, float a, float b,
                           lt_activation act, int64_t n);
/* out = x * y, n elements. */
lt_status lt_launch_multiply(lt_stream stream, lt_dtype dtype, void *out, const void *x, const void *y,
                             int64_t n);
/* out = a x + b y, n elements: products and sum in f64, rounded once. The DDIM step, and a window's share of a prediction. */
lt_status lt_launch_combine(lt_stream stream, lt_dtype dtype, void *out, const void *x, double a,
                            const void *y, double b, int64_t n);
/* out[i] = x[i] + y[i % period], n elements, y of `period`. */
lt_status lt_launch_add_broadcast(lt_stream stream, lt_dtype dtype, void *out, const void *x, const void *y,
                                  int64_t n, int64_t period);
/* out = x + gate * y: x, out [n,rows,channels]; y of x's shape, or [n,channels] with y_is_row; gate [n,channels] or NULL (1). */
lt_status lt_launch_add_gated(lt_stream stream, lt_dtype dtype, void *out, const void *x, const void *y,
                              bool y_is_row, const void *gate, int64_t n, int64_t rows, int64_t channels);
/* out = x[:, :channels] * act(x[:, channels:]): x [rows,2*channels], out [rows,channels], which must not be x. */
lt_status lt_launch_gated(lt_stream stream, lt_dtype dtype, void *out, const void *x, lt_activation act,
                          int64_t rows, int64_t channels);
/* out = act(x + bias) + residual, what a matrix product leaves to be done: x [rows,channels] of x_dtype (f32 accumulators, or dtype);
 * bias [channels] or NULL; residual and out of dtype, residual may be NULL. */
lt_status lt_launch_bias_act(lt_stream stream, lt_dtype dtype, void *out, lt_dtype x_dtype, const void *x,
                             const float *bias, lt_activation act, const void *residual, int64_t rows,
                             int64_t channels);

/* ---- dtypes, pixels, noise (kernels_convert.cu) ------------------------------------------------------- */

/* n elements from any dtype to any: ops.h's lt_convert, the same bytes as the CPU's but for the payload of a NaN. Not in place. */
lt_status lt_launch_convert(lt_stream stream, void *out, lt_dtype to, const void *x, lt_dtype from,
                            int64_t n);

/* out = x / (max/2) - 1, max = 2^bits - 1, n elements; pixels u8 for bits <= 8, else u16; bits 1 to 16. */
lt_status lt_launch_pixels_to_values(lt_stream stream, lt_dtype dtype, void *out, const void *pixels,
                                     int bits, int64_t n);
/* clamp((x + 1) * max/2, 0, max) in f64, rounded half to even or truncated; NaN becomes 0. out u8 for bits <= 8, else u16. */
lt_status lt_launch_values_to_pixels(lt_stream stream, lt_dtype dtype, void *out, const void *x, int bits,
                                     bool truncate, int64_t n);

/* noise.h's numbers, to the bit: out [frames,elements], at most 2^34 elements a frame. */
lt_status lt_launch_noise(lt_stream stream, lt_dtype dtype, void *out, int64_t frames, int64_t elements,
                          uint64_t seed, uint32_t clip, uint64_t first_frame);

/* ---- layout (kernels_layout.cu): moves bytes, `bytes` is the size of an element, 1, 2, 4 or 8 ---------------- */

/* Elements start .. start + count - 1 of each row: x [rows,channels] -> out [rows,count]. */
lt_status lt_launch_slice_channels(lt_stream stream, void *out, const void *x, size_t bytes, int64_t rows,
                                   int64_t channels, int64_t start, int64_t count);
/* x [rows,a], y [rows,b] -> out [rows,a+b]. y NULL: zeros, that is, x with its channels padded. */
lt_status lt_launch_concat_channels(lt_stream stream, void *out, const void *x, const void *y, size_t bytes,
                                    int64_t rows, int64_t a, int64_t b);
/* x [n,t,h,w,channels] -> [n,t*ft,h*fh,w*fw,channels]; factors at least 1. */
lt_status lt_launch_upsample_nearest(lt_stream stream, void *out, const void *x, size_t bytes, int64_t n,
                                     int64_t t, int64_t h, int64_t w, int64_t channels, int ft, int fh,
                                     int fw);
/* Pixels of an upsampled picture from where their windows of 2 x 2 lie: x [n,h+1,w+1,2,2,channels] -> [n,2h,2w,channels], pixel (y, x) from
 * window ((y + 1) / 2, (x + 1) / 2), at place ((y + 1) % 2, (x + 1) % 2) of it. */
lt_status lt_launch_window_pixels(lt_stream stream, void *out, const void *x, size_t bytes, int64_t n,
                                  int64_t h, int64_t w, int64_t channels);
/* x [n,t*h*w,pt*ph*pw*channels] -> [n,t*pt,h*ph,w*pw,channels]. */
lt_status lt_launch_unpatchify(lt_stream stream, void *out, const void *x, size_t bytes, int64_t n, int64_t t,
                               int64_t h, int64_t w, int pt, int ph, int pw, int64_t channels);

/* Rows of a table by their numbers: table [n_table,channels] of dtype `from` (a float dtype), ids i32 [n] -> out [n,channels] of dtype
 * `to`, any float dtype; the same dtype is a copy. A number outside the table leaves its row untouched and lowers *bad (device; the
 * caller sets it to INT64_MAX before) to the number's place: check it after the stream. bad may be NULL: ids are known to be right. */
lt_status lt_launch_gather_rows(lt_stream stream, void *out, lt_dtype to, const void *table, lt_dtype from,
                                int64_t n_table, int64_t channels, const int32_t *ids, int64_t n,
                                int64_t *bad);

/* What a convolution's window sees, as rows of a matrix: output positions first .. first + count - 1 of n * to * ho * wo -> out
 * [count, kt*kh*kw*i], zeros where the window lies outside x. dims as in backend.h, for an x that has been upsampled by
 * (up_h, up_w), 1 or more, without its being stored: dims.h and dims.w are the upsampled sizes, multiples of the factors; x is
 * [n,t,h/up_h,w/up_w,i]. With kt = 3 and kh = kw = 1: the temporal convolution as one product. */
struct lt_conv_dims;
lt_status lt_launch_im2col(lt_stream stream, void *out, const void *x, size_t bytes,
                           const struct lt_conv_dims *dims, int up_h, int up_w, int64_t first, int64_t count);

/* ---- convolutions to few channels (kernels_taps.cu) ----------------------------------------------------- */

/* Lines line0 .. line0 + lines - 1 of the result, out [images,lines,wo,o] of dtype, of a convolution with strides of 1: the sums, tap by
 * tap, of products [images,x_lines,w,columns] f32, which are of the lines from x_line0 on that the result's windows see: of every element
 * with tap (y,x) of output j in column (y * kw + x) * o + j. bias [o] f32 or NULL; residual, as out, or NULL. */
enum { LT_TAP_OUTPUTS = 4 }; /* at most */
typedef struct lt_tap_sums {
    int64_t images, lines, wo, line0;
    int64_t x_lines, w, x_line0;
    int64_t kh, kw, top, left;
    int64_t o, columns;
} lt_tap_sums;
lt_status lt_launch_tap_sums(lt_stream stream, lt_dtype dtype, void *out, const float *products,
                             const float *bias, const void *residual, const lt_tap_sums *dims);

/* ---- attention in pieces (kernels_softmax.cu) ---------------------------------------------------------- */

/* One piece of keys of softmax(scale * q k^T + mask) v, for what the library's attention refuses: products by cuBLASLt, this between
 * them. Matrix m = b * heads + h of n_matrices, rows query0 .. query0 + rows - 1 of it, keys key0 .. key0 + keys - 1.
 * - scores f32 [n_matrices,rows,keys] in: q k^T, not scaled. weights out, of dtype, [n_matrices,rows,keys]: e^(score - maximum so far);
 *   for f32 it may lie over scores.
 * - state f32 [n_matrices,rows,3], in and out: maximum so far, sum of weights so far, and what sums made of earlier pieces are to be
 *   multiplied by (0 where there are none). With key0 = 0 what it held does not matter.
 * - mask f32 or NULL; its value for (b, h, query, key) is mask[b * mask_b + h * mask_h + query * mask_q + key]. strides of 0 repeat.
 * - causal: query l sees keys 0 .. l only.
 * A query that has seen no key but masked ones has maximum -infinity, weights of zero and a sum of 0. */
typedef struct lt_softmax_piece {
    int64_t n_matrices, heads, query0, rows, key0, keys;
    int64_t mask_b, mask_h, mask_q;
    const float *mask;
    float scale;
    bool causal;
} lt_softmax_piece;
lt_status lt_launch_softmax_piece(lt_stream stream, lt_dtype dtype, void *weights, const float *scores,
                                  float *state, const lt_softmax_piece *piece);

/* sums [n_matrices,rows,width] f32 *= the state's factor (state[.., 2]): before the next piece's product is added to them. */
lt_status lt_launch_softmax_rescale(lt_stream stream, float *sums, const float *state, int64_t n_matrices,
                                    int64_t rows, int64_t width);

/* y = sums / sum of weights, 0 where that is 0: sums f32 [batch*heads,rows,width] -> y of dtype, rows query0 .. of
 * [batch,queries,heads,width]. */
lt_status lt_launch_softmax_finish(lt_stream stream, lt_dtype dtype, void *y, const float *sums,
                                   const float *state, int64_t batch, int64_t heads, int64_t queries,
                                   int64_t query0, int64_t rows, int64_t width);

/* ---- masks for the library's attention (kernels_softmax.cu) ---------------------------------------------- */

/* bounded [rows,keys] f32 = mask, but no less than -4e37, and -8e37 for -infinity: sums of these with scores, times log2 e, are finite, and
 * beside the first the second has a weight of 0. NaN stays. seen [rows]: 1 where
 * a key of the row is not -infinity in the mask, else 0. */
lt_status lt_launch_bound_mask(lt_stream stream, float *bounded, uint8_t *seen, const float *mask,
                               int64_t rows, int64_t keys);

/* y [batch,queries,heads,width] of dtype: zeros in the rows (b, query, h) that see nothing: seen[b * seen_b + h * seen_h + query * seen_q]
 * is 0. Strides of 0 repeat. */
typedef struct lt_seen_rows {
    int64_t batch, queries, heads;
    int64_t seen_b, seen_h, seen_q;
} lt_seen_rows;
lt_status lt_launch_clear_unseen(lt_stream stream, lt_dtype dtype, void *y, int64_t width,
                                 const uint8_t *seen, const lt_seen_rows *rows);

/* ---- tiles and windows (kernels_tiles.cu): models/tiling.h's arithmetic, the same bytes as the CPU's --------- */

/* lt_add_tile: sums [t,height,width,channels] f32 += tile * weight, where the tile lies: tile [t,rows.size,columns.size,channels] of dtype,
 * from place (row, column) of the sums on. */
lt_status lt_launch_tile_add(lt_stream stream, lt_dtype dtype, float *sums, const void *tile, int64_t t,
                             int64_t height, int64_t width, int64_t channels, int64_t row, int64_t column,
                             const lt_tile_weights *weights);

/* ---- colour (kernels_colour.cu) ------------------------------------------------------------------------- */

/* rgb [height,width,3], u8 for bits_rgb 8, u16 for 9 to 16, full range; at least as large as the picture, whose edge is repeated. Bound:
 * lt_yuv_to_rgb's. */
lt_status lt_launch_yuv_to_rgb(lt_stream stream, void *rgb, int bits_rgb, int width, int height,
                               const lt_yuv *picture);

#ifdef __cplusplus
}
#endif

#endif
