/* layout.h - from the layouts of the references (channels first) to ours (channels last) and back. */
#ifndef LT_MODELRUN_LAYOUT_H
#define LT_MODELRUN_LAYOUT_H

#include "kernels/tensor.h"

/* Where the channels stand in a rank-4 tensor of a reference. */
typedef enum {
    LAYOUT_FRAMES_FIRST,  /* [N,C,H,W] */
    LAYOUT_CHANNELS_FIRST /* [C,T,H,W] */
} layout;

/* `from` (F32, F16, BF16 or F64, rank 4, in layout `from_layout`) times scale, as f32 [N,H,W,C] in new memory at to->data,
 * which the caller frees. E_INVALID with a sentence naming `name`, E_NO_MEMORY. */
lt_status layout_load(const lt_tensor *from, const char *name, layout from_layout, double scale,
                      lt_tensor *to, lt_err *err);

/* The reverse: f32 [N,H,W,C] times scale, as f32 in layout `to_layout`, in new memory. E_NO_MEMORY. */
lt_status layout_store(const lt_tensor *from, layout to_layout, double scale, lt_tensor *to, lt_err *err);

#endif
