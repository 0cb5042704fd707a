/* ops.h - the operators networks are made of.
 *
 * Contract of all:
 * - Inputs are borrowed and not changed; the result is a new tensor of the context's workspace, to be dropped by the
 *   caller, and lies nowhere over an input. Scratch memory is taken from the workspace for the call's duration.
 * - Inputs have the context's dtype (ref takes any float dtype) and so has the result, where nothing else is said. Weights
 *   may be F32, BF16, F16 or F64; in a bf16 context matrices are rounded to bf16, vectors (bias, gamma, beta) to f32.
 * - Computed in f32 (f64 on ref) and rounded once, to nearest even, when stored.
 * - The bytes depend neither on threads nor on batch: sample n (index 0 of the shape) of a batch has the same bytes as when
 *   it is computed alone.
 * - NaN and infinities go through as IEEE arithmetic has it, where nothing else is said.
 * - A batch or a row count of 0 gives a result without elements.
 * - Shapes that do not fit set the context's error (E_INVALID), a sentence that names the operator and both shapes, and
 *   return LT_NONE; a full workspace E_NO_MEMORY. After an error in the context an operator does nothing.
 * - With a dry context only shapes, memory and FLOPs are worked out. With a tape, an operator keeps what its gradient needs.
 * - A tensor or weight whose data is NULL, or a weight pointer that is NULL, is "left out".
 * - Blocking; on the threads of the context.
 *
 * Error bounds below are against exact arithmetic on the same (rounded) inputs and weights, before the result is rounded:
 * u = 2^-23, |.|max the largest magnitude of the result, at least 1. tests/kernels/kernelcheck holds every backend to
 * them. */
#ifndef LT_OPS_H
#define LT_OPS_H

#include "kernels/colour.h"
#include "kernels/tensor.h"

/* none; x sigmoid(x); 0.5 x (1 + erf(x / sqrt 2)); 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); x sigmoid(1.702 x) */
typedef enum { LT_ACT_NONE, LT_ACT_SILU, LT_ACT_GELU_ERF, LT_ACT_GELU_TANH, LT_ACT_QUICK_GELU } lt_activation;

/* Convolution (cross-correlation, as in PyTorch) over T, H, W.
 * x [N,T,H,W,I]; weight [O,I,kt,kh,kw] ([O,I,kh,kw] and [O,I] mean kernel sizes of 1 in front or everywhere); bias [O]
 * or left out. residual [N,To,Ho,Wo,O], added to the result, or LT_NONE. Pads are zeros around x, not negative, and may
 * differ on the two sides. Returns [N,To,Ho,Wo,O], To = (T + pad_front + pad_back - kt) / stride_t + 1, rounded down, and
 * so on; none may be 0. FLOPs: 2 N To Ho Wo O I kt kh kw, pads included.
 * With a stride of 1 and kernels of 3, sums and differences of inputs may be multiplied in place of the inputs (Winograd's
 * algorithm): an infinite input then makes NaN of results that would be infinite, an input that is not finite may make NaN of
 * results up to 3 places beside those that depend on it, along the kernel's axes, and inputs above 2^120 may overflow.
 * Error: (4 + 2 sqrt(I kt kh kw)) u |.|max for weights of deviation 1 / sqrt(I kt kh kw). On cuda, in 16 bits, the bias may be
 * taken rounded to the dtype, as weights are.
 * Agrees with torch.nn.functional.conv2d / conv3d. */
typedef struct lt_conv_params {
    int stride_t, stride_h, stride_w; /* 0 means 1 */
    int pad_front, pad_back, pad_top, pad_bottom, pad_left, pad_right;
} lt_conv_params;
lt_tensor lt_conv(lt_context *c, lt_tensor x, lt_weight *weight, lt_weight *bias, lt_conv_params params,
                  lt_tensor residual);

/* y = act(x W^T + b) + residual.
 * x [...,K]; weight [O,K] (or [O,K,1,1]); bias [O] or left out; residual [...,O] or LT_NONE. Returns [...,O].
 * FLOPs: 2 rows K O. Error: (8 + 2 sqrt(K)) u |.|max for weights of deviation 1 / sqrt(K). On cuda, in bf16, without a residual,
 * LT_ACT_GELU_TANH may be the matrix library's, with a tanh of 11 bits: 2^-10 |.|max more. There, in 16 bits, the bias may be taken
 * rounded to the dtype, as weights are. */
lt_tensor lt_linear(lt_context *c, lt_tensor x, lt_weight *weight, lt_weight *bias, lt_activation act,
                    lt_tensor residual);

/* Group normalisation with an activation after it (Wu and He, 2018).
 * x [N,...,C], rank 2 or more: statistics (biased variance) over everything of sample n in a group of C/groups channels;
 * so frames folded in N give per-frame statistics, frames in T those of the clip. gamma, beta [C]; groups divides C; eps is
 * added to the variance, finite and not negative. Returns [N,...,C]. FLOPs: 8 an element.
 * Statistics are accumulated in f64 around a value of the sample: a mean far from zero costs no digits.
 * Error: 10 u |.|max. Agrees with torch.nn.functional.group_norm. */
lt_tensor lt_group_norm(lt_context *c, lt_tensor x, lt_weight *gamma, lt_weight *beta, int groups, double eps,
                        lt_activation act);

/* softmax(scale * q k^T + mask) v.
 * q [B,L,heads,D], k, v [B,S,heads,D], S and D not 0; mask additive, f32 [B or 1, heads or 1, L or 1, S], or LT_NONE;
 * causal: query l sees keys 0 .. l only (torch's is_causal). A query that sees no key at all (every one masked with
 * -infinity) gives zeros. Finite values of the mask below -4e37 may be taken as that. A key or value that is not finite may make NaN
 * of queries of its sample that do not see it, or hardly (in f16, by less than 2^-25): a weight of 0 may be multiplied with it. Returns
 * [B,L,heads,D].
 * Never holds an L x S matrix whole: memory is O(L + S). FLOPs: 4 B heads L S D, causal or not.
 * Error: (16 + 2 sqrt(S) + s (2 + sqrt(D))) u |.|max, s a bound of the scaled scores. In a bf16 context the weights of a
 * query may be rounded to 16 bits before they multiply v: then 2^-16 |v|max more. On cuda, in 16 bits, they are rounded to the dtype, as
 * its matrix units take them: 2^-8 |v|max more in bf16, 2^-11 in f16.
 * Dao et al., FlashAttention, 2022; agrees with torch.nn.functional.scaled_dot_product_attention. */
lt_tensor lt_attention(lt_context *c, lt_tensor q, lt_tensor k, lt_tensor v, lt_tensor mask, double scale,
                       bool causal);

/* Nearest-neighbour upsampling by whole factors, 1 or more: element (t,h,w) of the result is (t/ft, h/fh, w/fw) of x.
 * x [N,T,H,W,C] -> [N,T*ft,H*fh,W*fw,C]. Exact. FLOPs: none. */
lt_tensor lt_upsample_nearest(lt_context *c, lt_tensor x, int ft, int fh, int fw);

/* Nearest-neighbour upsampling by 2 in h and w and a convolution of its result with kernels of 3 and a pad of 1 there:
 * lt_conv(lt_upsample_nearest(x, 1, 2, 2)), without the upsampled tensor.
 * x [N,T,H,W,I]; weight [O,I,3,3] or [O,I,1,3,3]; bias [O] or left out. Returns [N,T,2H,2W,O]. FLOPs: those of that convolution,
 * 72 N T H W O I, though fewer may be computed: taps that fall on one element of x may be added up before, in f64. An infinite
 * input may then give an infinite result where the difference of two would be NaN; else as lt_conv.
 * Error: (4 + 2 sqrt(9 I)) u |.|max for weights of deviation 1 / sqrt(9 I). On cuda, in 16 bits, the bias may be taken rounded to the
 * dtype, and the sums of taps are rounded to it once more: 2^-7 |.|max more in bf16, 2^-10 in f16 (a sum of products of which each has a
 * relative error of up to 2^-8 or 2^-11 of its own, of both signs: two fifths of that in the mean, 5 deviations). */
lt_tensor lt_upsample_conv(lt_context *c, lt_tensor x, lt_weight *weight, lt_weight *bias);

/* x + a * y, elementwise, same shapes; a is rounded to f32. FLOPs: 2 an element. Error: 2 u |.|max. */
lt_tensor lt_add_scaled(lt_context *c, lt_tensor x, lt_tensor y, double a);

/* act(a * x + b), elementwise; a, b are rounded to f32. FLOPs: 2 an element. Error: 8 u |.|max. */
lt_tensor lt_affine(lt_context *c, lt_tensor x, double a, double b, lt_activation act);

/* Elements start .. start + count - 1 of the last dimension. x [...,C] -> [...,count]. Exact. FLOPs: none. */
lt_tensor lt_slice_channels(lt_context *c, lt_tensor x, int64_t start, int64_t count);

/* The same values in another dtype, from any to any, whatever the context's: round to nearest, ties to even, once; to
 * integer types also clamped, NaN becomes 0; to f16 and f32 too large becomes infinity. The same dtype is a copy. FLOPs:
 * none. */
lt_tensor lt_convert(lt_context *c, lt_tensor x, lt_dtype dtype);

/* x's elements into out, of the same dtype and number of elements: rows of a larger tensor (lt_rows). Exact. FLOPs: none. */
void lt_copy(lt_context *c, lt_tensor x, lt_tensor out);

/* All elements 0, into a tensor that is there. */
void lt_zero(lt_context *c, lt_tensor out);

/* How a tile of a video fades at its sides, along one axis: its distance from an inner side, counted from 1, or no limit
 * where the side is the video's own. */
typedef struct lt_ramp {
    int64_t size; /* of the tile along this axis */
    bool low_end, high_end;
} lt_ramp;

typedef struct lt_tile_weights {
    lt_ramp time, rows, columns;
    int64_t border; /* at least 1 */
} lt_tile_weights;

/* The weight at (t, y, x): the smallest distance of the three axes, limited to 1 .. border, over border, in f32. */
static inline int64_t lt_ramp_distance(const lt_ramp *ramp, int64_t at, int64_t border)
{
    int64_t low = ramp->low_end ? border : at + 1, high = ramp->high_end ? border : ramp->size - at;
    return low < high ? low : high;
}
static inline float lt_tile_weight(const lt_tile_weights *w, int64_t nearest)
{
    return (float)(nearest < 1 ? 1 : nearest < w->border ? nearest : w->border) / (float)w->border;
}

/* sums[t, row + y, column + x, :] += tile[t, y, x, :] * weight(t, y, x), in place.
 * tile [T,h,w,C] of the context's dtype, h x w what the ramps say (time's says T where it has an inner side); sums f32 [T,H,W,C], in which the tile lies; C at most 1024. In f32, product and sum
 * each rounded: the same bytes on every backend. FLOPs: none. */
void lt_add_tile(lt_context *c, lt_tensor tile, const lt_tile_weights *weights, int64_t row, int64_t column,
                 lt_tensor sums);

/* ---- transformers ------------------------------------------------------------------------------------ */

/* Layer normalisation over the last dimension with its affine map, and a modulation after it (Ba et al., 2016; Peebles
 * and Xie, 2023): y = (norm(x) * gamma + beta) * (1 + scale) + shift.
 * x [N,...,C]; gamma, beta [C], each may be left out; scale, shift [N,C] (a row for each sample) or LT_NONE, each. Biased
 * variance, accumulated as in lt_group_norm; eps finite and not negative. An infinite scale may make NaN of results that would be
 * infinite. FLOPs: 8 an element.
 * Error: 10 u |.|max. Agrees with torch.nn.functional.layer_norm. */
lt_tensor lt_layer_norm(lt_context *c, lt_tensor x, lt_weight *gamma, lt_weight *beta, double eps,
                        lt_tensor scale, lt_tensor shift);

/* y = x / sqrt(mean(x^2) + eps) * gamma over the last dimension (Zhang and Sennrich, 2019). x [...,C], gamma [C].
 * FLOPs: 4 an element. Error: 10 u |.|max. Agrees with transformers' T5LayerNorm in f32. */
lt_tensor lt_rms_norm(lt_context *c, lt_tensor x, lt_weight *gamma, double eps);

/* x + y, y repeated over x's leading dimensions: its shape is the end of x's shape. FLOPs: 1 an element. Error: u |.|max. */
lt_tensor lt_add_broadcast(lt_context *c, lt_tensor x, lt_tensor y);

/* x + gate * y: x [N,...,C], y of x's shape or, repeated over the inner dimensions, [N,C]; gate [N,C] or LT_NONE (1).
 * FLOPs: 2 an element. Error: 2 u |.|max. */
lt_tensor lt_add_gated(lt_context *c, lt_tensor x, lt_tensor y, lt_tensor gate);

/* x * y, elementwise, same shapes. FLOPs: 1 an element. Error: u |.|max. */
lt_tensor lt_multiply(lt_context *c, lt_tensor x, lt_tensor y);

/* x[..., :C] * act(x[..., C:]): x [...,2C] -> [...,C] (GEGLU: Shazeer, 2020). FLOPs: 10 an element. Error: 8 u |.|max. */
lt_tensor lt_gated(lt_context *c, lt_tensor x, lt_activation act);

/* a x + b y, elementwise, same shapes; a and b in f64, as are the products and the sum, which is rounded once. FLOPs: 3 an
 * element. Exact but for the rounding. */
lt_tensor lt_combine(lt_context *c, lt_tensor x, double a, lt_tensor y, double b);

/* x [...,A], y [...,B], the same otherwise -> [...,A+B]. Exact. FLOPs: none. */
lt_tensor lt_concat_channels(lt_context *c, lt_tensor x, lt_tensor y);

/* Rows of a table: table [V,C], ids i32 of any shape [...], in the host's memory -> [...,C] in the context's dtype. E_INVALID in the
 * context for an id outside 0 .. V-1. On the host the table is read where it lies, never packed. Exact but for the rounding to the
 * dtype. FLOPs: none. */
lt_tensor lt_embedding(lt_context *c, lt_weight *table, lt_tensor ids);

/* Rows of x [R,C] by their numbers, rows i32 [n] in the host's memory -> [n,C]; E_INVALID outside 0 .. R-1. Exact. FLOPs: none. */
lt_tensor lt_gather_rows(lt_context *c, lt_tensor x, lt_tensor rows);

/* Tokens to a video: x [N, t*h*w, pt*ph*pw*C], tokens in the order t, h, w, a token's values in the order pt, ph, pw, C
 * -> [N, t*pt, h*ph, w*pw, C]. Exact. FLOPs: none. (Patchify is lt_conv with stride = kernel.) */
lt_tensor lt_unpatchify(lt_context *c, lt_tensor x, int64_t t, int64_t h, int64_t w, int pt, int ph, int pw);

/* Standard normal numbers that depend on nothing but seed, clip, absolute frame and place within the frame: shape
 * [T,...], at most 2^34 elements a frame; frame i of the result is absolute frame first_frame + i (modulo 2^64). The generator
 * is Philox4x32-10, the normals are made in f64 without contraction and rounded to f32, and from there to the context's
 * dtype; kernels/noise.h states it to the bit. The same bytes on every backend. FLOPs: none. */
lt_tensor lt_noise(lt_context *c, int rank, const int64_t *shape, uint64_t seed, uint32_t clip,
                   uint64_t first_frame);

/* ---- pixels and values ------------------------------------------------------------------------------- */

/* Pixels to model values: x / (max/2) - 1, max = 2^bits - 1. pixels u8 for bits <= 8, else u16, any shape; bits 1 to 16.
 * Returns the context's dtype. FLOPs: 2 an element. Error: 2 u. */
lt_tensor lt_pixels_to_values(lt_context *c, lt_tensor pixels, int bits);

/* Model values to pixels: clamp((x + 1) * max/2, 0, max), computed in f64, rounded half to even (diffusers) or truncated
 * (lite-sora); NaN becomes 0. Returns u8 for bits <= 8, else u16; bits 1 to 16. Exact. FLOPs: 2 an element. */
lt_tensor lt_values_to_pixels(lt_context *c, lt_tensor x, int bits, bool truncate);

/* ---- colour ------------------------------------------------------------------------------------------ */

/* A picture as RGB, into a tensor that is there: out [H,W,3] or [1,H,W,3] (lt_rows), not smaller than the picture, whose edge pixels are
 * repeated up to H and W; u8 for bits 8, u16 for 9 to 16, full range; on ref any float dtype, too, which is not rounded. Chroma is interpolated
 * linearly. The picture may lie outside the workspace (a decoder's surface) but not over out; what the device's default stream was given
 * before the call is waited for, by the device. The picture must stay until the context has waited (lt_wait). FLOPs: none.
 * f32 arithmetic, clamped, rounded to nearest even: within 0.5 + 2^-8 of exact arithmetic for 8 bits, 0.5 + 2^(bits - 20) above. On cuda the
 * bytes depend on no model of GPU. E_INVALID in the context for a picture or an out that is not as stated. */
void lt_yuv_to_rgb(lt_context *c, const lt_yuv *picture, int bits, lt_tensor out);

#endif
