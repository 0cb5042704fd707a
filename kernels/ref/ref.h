/* ref.h - shared by the files of the ref backend. */
#ifndef LT_REF_H
#define LT_REF_H

#include "kernels/backend.h"

/* A tensor's values as f64 (malloc'd, the caller frees; one element at least), or NULL with the context's error set.
 * A tensor without data gives NULL and no error. */
double *ref_load(lt_context *c, const lt_tensor *tensor);
double *ref_load_weight(lt_context *c, const lt_weight *weight);

double ref_activation(lt_activation act, double x);

lt_status conv_ref(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                   const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y);
lt_status linear_ref(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias, lt_activation act,
                     const lt_tensor *residual, lt_tensor *y);
lt_status group_norm_ref(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups,
                         double eps, lt_activation act, lt_tensor *y);
lt_status attention_ref(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                        const lt_tensor *mask, double scale, bool causal, lt_tensor *y);

#endif
