/* operators.h - the backend's operators, for its table, and what they are made of. */
#ifndef LT_CUDA_OPERATORS_H
#define LT_CUDA_OPERATORS_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/kernels.h"

/* What a launcher of kernels.h returned, as cuda_check. */
lt_status cuda_launched(lt_context *c, const char *op, lt_status status);

/* out = act(sums + bias) + residual, sums in f32. */
lt_status cuda_epilogue(lt_context *c, const char *op, const float *sums, const float *bias,
                        lt_activation act, const void *residual, void *out, int64_t rows, int64_t columns);

lt_status group_norm_cuda(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups,
                          double eps, lt_activation act, lt_tensor *y);
lt_status upsample_nearest_cuda(lt_context *c, const lt_tensor *x, int ft, int fh, int fw, lt_tensor *y);
lt_status add_scaled_cuda(lt_context *c, const lt_tensor *x, const lt_tensor *y, double a, lt_tensor *out);
lt_status affine_cuda(lt_context *c, const lt_tensor *x, double a, double b, lt_activation act,
                      lt_tensor *out);
lt_status slice_channels_cuda(lt_context *c, const lt_tensor *x, int64_t start, lt_tensor *out);
lt_status convert_cuda(lt_context *c, const lt_tensor *x, lt_tensor *out);
lt_status yuv_to_rgb_cuda(lt_context *c, const lt_yuv *p, int bits, lt_tensor *out);
lt_status layer_norm_cuda(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
                          const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y);
lt_status rms_norm_cuda(lt_context *c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y);
lt_status add_broadcast_cuda(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
lt_status add_gated_cuda(lt_context *c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate,
                         lt_tensor *out);
lt_status multiply_cuda(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
lt_status combine_cuda(lt_context *c, const lt_tensor *x, double a, const lt_tensor *y, double b,
                       lt_tensor *out);
lt_status gated_cuda(lt_context *c, const lt_tensor *x, lt_activation act, lt_tensor *out);
lt_status concat_channels_cuda(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
lt_status embedding_cuda(lt_context *c, lt_weight *table, const int32_t *ids, lt_tensor *out);
lt_status gather_rows_cuda(lt_context *c, const lt_tensor *x, const int32_t *rows, lt_tensor *out);
lt_status unpatchify_cuda(lt_context *c, const lt_tensor *x, int pt, int ph, int pw, lt_tensor *y);
lt_status noise_cuda(lt_context *c, uint64_t seed, uint32_t clip, uint64_t first_frame, lt_tensor *out);
lt_status pixels_to_values_cuda(lt_context *c, const lt_tensor *pixels, int bits, lt_tensor *out);
lt_status values_to_pixels_cuda(lt_context *c, const lt_tensor *x, int bits, bool truncate, lt_tensor *out);
lt_status add_tile_cuda(lt_context *c, const lt_tensor *tile, const lt_tile_weights *weights, int64_t row,
                        int64_t column, lt_tensor *sums);

#endif
