/* little.h - a little network that goes every way through CUDA's plug-in: both libraries and what stands in for them, our own kernels,
 * rows by number, uploads and downloads. In bf16, as cuDNN takes no f32. */
#ifndef LT_TEST_LITTLE_H
#define LT_TEST_LITTLE_H

#include "kernels/ops.h"

enum { LITTLE_RESULT_BYTES = 2 * 4 * 8 * 2, LITTLE_WEIGHTS = 11 };

typedef struct little {
    lt_weight weights[LITTLE_WEIGHTS];
    float values[3000];
} little;

/* Weights that are the same every time. */
void little_init(little *net);
/* The input of a chunk; what comes of it, for which other rows of a table are taken for every chunk. */
lt_tensor little_upload(lt_context *c, int chunk);
lt_tensor little_evaluate(lt_context *c, little *net, lt_tensor input, int chunk);
/* Both, and a download of LITTLE_RESULT_BYTES bytes, which are there when the context has
 * waited; when dry, count. After an error nothing. */
void little_run(lt_context *c, little *net, int chunk, void *result);
/* What one evaluation takes of a workspace on the device. */
size_t little_workspace(const char *device);
/* Free what the backend made of the weights. */
void little_finish(lt_context *c, little *net);

#endif
