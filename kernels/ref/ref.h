/* ref.h - shared by the files of the ref backend. */
#ifndef LT_REF_H
#define LT_REF_H

#include "kernels/backend.h"

/* A tensor's values as f64 (malloc'd, the caller frees; one element at least), or NULL with the context's error set.
 * A tensor without data gives NULL and no error. */
double *ref_load(lt_context *c, const lt_tensor *tensor);
double *ref_load_weight(lt_context *c, const lt_weight *weight);

double ref_activation(lt_activation act, double x);

lt_status upsample_conv_ref(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                            const lt_conv_dims *d, lt_tensor *y);
lt_status conv_ref(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                   const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y);
lt_status linear_ref(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias, lt_activation act,
                     const lt_tensor *residual, lt_tensor *y);
lt_status group_norm_ref(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups,
                         double eps, lt_activation act, lt_tensor *y);
lt_status attention_ref(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                        const lt_tensor *mask, double scale, bool causal, lt_tensor *y);

lt_status layer_norm_ref(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
                         const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y);
lt_status rms_norm_ref(lt_context *c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y);
lt_status add_broadcast_ref(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
lt_status add_gated_ref(lt_context *c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate,
                        lt_tensor *out);
lt_status multiply_ref(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
lt_status combine_ref(lt_context *c, const lt_tensor *x, double a, const lt_tensor *y, double b,
                      lt_tensor *out);
lt_status gated_ref(lt_context *c, const lt_tensor *x, lt_activation act, lt_tensor *out);
lt_status concat_channels_ref(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out);
lt_status embedding_ref(lt_context *c, lt_weight *table, const int32_t *ids, lt_tensor *out);
lt_status gather_rows_ref(lt_context *c, const lt_tensor *x, const int32_t *rows, lt_tensor *out);
lt_status unpatchify_ref(lt_context *c, const lt_tensor *x, int pt, int ph, int pw, lt_tensor *y);
lt_status yuv_to_rgb_ref(lt_context *c, const lt_yuv *p, int bits, lt_tensor *out);
lt_status noise_ref(lt_context *c, uint64_t seed, uint32_t clip, uint64_t first_frame, lt_tensor *out);

#endif
