/* ops.h - the operators networks are made of.
 *
 * Contract of all: inputs are borrowed; the result is a new tensor of the context's workspace, to be dropped by the caller.
 * Results have the context's dtype; accumulation is f32 (f64 on ref), in an order that depends neither on threads nor on batch:
 * sample n of a batch has the same bytes as when it is computed alone. Shapes that do not fit set the context's error, name the operator and
 * both shapes, and return LT_NONE. With a dry context only shapes, memory and FLOPs are worked out. With a tape, an operator keeps what its gradient needs.
 * A tensor or weight whose data is NULL is "left out". */
#ifndef LT_OPS_H
#define LT_OPS_H

#include "kernels/tensor.h"

typedef enum { LT_ACT_NONE, LT_ACT_SILU, LT_ACT_GELU_ERF, LT_ACT_GELU_TANH, LT_ACT_QUICK_GELU } lt_activation;

/* Convolution over T, H, W.
 * x [N,T,H,W,I]; weight [O,I,kt,kh,kw] ([O,I,kh,kw] and [O,I] mean kernel sizes of 1 in front or everywhere); bias [O] or left out.
 * residual [N,To,Ho,Wo,O], added to the result, or LT_NONE. Returns [N,To,Ho,Wo,O], To = (T + pad.front + pad.back - kt) / stride_t + 1 and so on. */
typedef struct lt_conv_params {
    int stride_t, stride_h, stride_w; /* 0 means 1 */
    int pad_front, pad_back, pad_top, pad_bottom, pad_left, pad_right;
} lt_conv_params;
lt_tensor lt_conv(lt_context *c, lt_tensor x, lt_weight *weight, lt_weight *bias, lt_conv_params params,
                  lt_tensor residual);

/* y = act(x W^T + b) + residual. x [...,K]; weight [O,K] (or [O,K,1,1]); bias [O] or left out; residual [...,O] or LT_NONE. */
lt_tensor lt_linear(lt_context *c, lt_tensor x, lt_weight *weight, lt_weight *bias, lt_activation act,
                    lt_tensor residual);

/* Group normalisation with an activation after it. x [N,...,C]: statistics (biased variance) over everything of sample n in a group of C/groups
 * channels; so frames folded in N give per-frame statistics, frames in T those of the clip. gamma, beta [C]. */
lt_tensor lt_group_norm(lt_context *c, lt_tensor x, lt_weight *gamma, lt_weight *beta, int groups, double eps,
                        lt_activation act);

/* softmax(scale * q k^T + mask) v. q [B,L,heads,D], k, v [B,S,heads,D]; mask additive [B or 1, heads or 1, L or 1, S] f32 or LT_NONE. Returns [B,L,heads,D].
 * Never holds an L x S matrix whole: memory is O(L). */
lt_tensor lt_attention(lt_context *c, lt_tensor q, lt_tensor k, lt_tensor v, lt_tensor mask, double scale,
                       bool causal);

/* Nearest-neighbour upsampling by whole factors. x [N,T,H,W,C] -> [N,T*ft,H*fh,W*fw,C]. */
lt_tensor lt_upsample_nearest(lt_context *c, lt_tensor x, int ft, int fh, int fw);

/* x + a * y, elementwise, same shapes. */
lt_tensor lt_add_scaled(lt_context *c, lt_tensor x, lt_tensor y, double a);

/* act(a * x + b), elementwise. */
lt_tensor lt_affine(lt_context *c, lt_tensor x, double a, double b, lt_activation act);

/* Elements start .. start+count of the last dimension. x [...,C] -> [...,count]. */
lt_tensor lt_slice_channels(lt_context *c, lt_tensor x, int64_t start, int64_t count);

/* The same values in another dtype (round to nearest, ties to even; to integer types also clamped). */
lt_tensor lt_convert(lt_context *c, lt_tensor x, lt_dtype dtype);

/* Pixels to model values: u8 or u16 (full range of `bits`) -> x / (max/2) - 1, in the context's dtype. */
lt_tensor lt_pixels_to_values(lt_context *c, lt_tensor pixels, int bits);

/* Model values to pixels: clamp((x + 1) * max/2, 0, max), rounded half to even (diffusers) or truncated (lite-sora), u8 for bits <= 8 else u16. */
lt_tensor lt_values_to_pixels(lt_context *c, lt_tensor x, int bits, bool truncate);

#endif
