/* text_encoder.h - the text encoders: CLIP-L, OpenCLIP bigG with its projection, and T5's encoder (v1.1, flan).
 *
 * Token ids in, embeddings out; L2 within 1e-5 of transformers and lite-sora run in float64 (f32 on the CPU).
 * Sources: transformers' CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel; lite-sora's sd_text_encoder.py,
 * sdxl_text_encoder.py, sdxl_text_encoder_2.py. */
#ifndef LT_TEXT_ENCODER_H
#define LT_TEXT_ENCODER_H

#include "kernels/ops.h"

typedef struct lt_text_encoder lt_text_encoder;

typedef enum { LT_TEXT_CLIP, LT_TEXT_T5 } lt_text_family;

/* Which encoder of a file that holds several (a pipeline's folder, a single-file SDXL checkpoint). */
typedef enum { LT_TEXT_FIRST, LT_TEXT_SECOND } lt_text_which;

typedef struct lt_text_encoder_info {
    lt_text_family family;
    int width;        /* of the sequence */
    int pooled_width; /* of the pooled vector; 0: there is none (T5) */
    bool projected;   /* the pooled vector has gone through a projection */
    int length;       /* tokens: 77; T5: 0, any */
    int n_tokens;     /* rows of the embedding table */
    int layers;       /* that the file holds */
    int eos_id;       /* of pooling; -1: the first largest id */
    int64_t n_parameters;
    size_t weight_bytes; /* of its tensors, mapped */
    char digest[33];     /* of all weight files and the configuration, hex */
} lt_text_encoder_info;

/* Open the encoder at `path`: a transformers folder (sharded or not); a pipeline's folder, of which text_encoder or, for
 * LT_TEXT_SECOND, text_encoder_2 is taken; a file with lite-sora's names; or a single-file SDXL checkpoint
 * (conditioner.embedders.0 or .1). Weights are mapped. Errors as lt_vae_open (models/vae.h); *encoder is NULL then. */
lt_status lt_text_encoder_open(lt_text_encoder **encoder, const char *path, lt_text_which which, lt_err *err);
/* context: the one that packed the weights, or NULL where no context has run it. Takes NULL. */
void lt_text_encoder_close(lt_text_encoder *encoder, lt_context *context);
const lt_text_encoder_info *lt_text_encoder_get_info(const lt_text_encoder *encoder);
/* Free the packed form of all weights; the encoder can be used again. context: as for lt_text_encoder_close. */
void lt_text_encoder_forget(lt_text_encoder *encoder, lt_context *context);

typedef struct lt_text {
    lt_tensor sequence; /* [B,L,width], in the context's dtype */
    lt_tensor pooled;   /* [B,pooled_width], or LT_NONE */
} lt_text;

typedef struct lt_text_params {
    int clip_skip;   /* k: the sequence is the state after layer (layers - k + 1); 1 or 0: all layers */
    bool final_norm; /* CLIP: the final norm is applied to the sequence (SDTextEncoder at any clip_skip; HF's
                         last_hidden_state); false: the raw state (SDXL). T5 always has it */
    bool
        keep_packed; /* false: the packed form of a layer's weights is freed as soon as the layer has run, for T5-xxl on a
                         small machine; the next call packs it again */
} lt_text_params;

/* ids i32 [B,L], in the host's memory; n_ids [B]: how many of each row are not padding (T5 masks the others as keys; CLIP ignores it; NULL: all).
 * What it takes depends on the shape, the parameters, and on whether there are n_ids; not on their values, nor on the ids.
 * pooled is of the last layer the file holds, final norm and projection included (LT_NONE where the file has no final norm:
 * SDXL's first encoder under lite-sora's names). Both results are the caller's to drop; errors are kept in the context, results
 * are LT_NONE then. */
lt_text lt_text_encode(lt_context *c, lt_text_encoder *encoder, lt_tensor ids, const int *n_ids,
                       const lt_text_params *params);

#endif
