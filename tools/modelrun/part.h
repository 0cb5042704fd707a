/* part.h - what modelrun can run: one descriptor and one file a part, listed in main.c. */
#ifndef LT_MODELRUN_PART_H
#define LT_MODELRUN_PART_H

#include "kernels/safetensors.h"
#include "models/vae.h"

/* The command line; a part reads what concerns it. Another option is another field here and a row of main.c's table. */
typedef struct arguments {
    const char *model, *in, *out, *device;
    lt_dtype dtype;
    int threads;
    lt_numerics numerics;
    int tile[3], stride[3]; /* decode_video: T, H, W in latent units */
    int clip_skip;          /* text_encoder; 0: not given */
} arguments;

enum { MAX_RESULTS = 4 };

/* What a part gives back: tensors of which main.c writes the file, and whose memory (malloc) it frees, also after an error. */
typedef struct results {
    lt_named_tensor tensors[MAX_RESULTS];
    int n;
} results;

typedef struct part {
    const char *name;
    const char
        *input; /* a file that holds this tensor means this part where --part is left out; NULL: never */
    const char *help; /* lines of the usage text */
    /* Open the model, take the inputs from `in`, run, and fill `results`, in the layout of the reference. */
    lt_status (*run)(const arguments *arguments, const lt_safetensors *in, results *results, lt_err *err);
} part;

extern const part part_encoder, part_decoder, part_decode_video; /* vae.c */
extern const part part_text_encoder, part_text_encoder_2;        /* text.c */
extern const part part_transformer, part_unet;                   /* denoiser.c */
extern const part part_pipeline;                                 /* pipeline.c */

/* A context as the command line wants it: f64 on ref, else arguments->dtype. bytes 0: dry. */
lt_status part_context(lt_context **context, const arguments *arguments, size_t bytes, lt_err *err);

/* A new tensor of f32, zeroed, on the heap; the caller's to free. E_NO_MEMORY. */
lt_status part_new(lt_tensor *tensor, int rank, const int64_t *shape, lt_err *err);

#endif
