/* text_encode.h - the stage `text_encode`: prompts to embeddings, through the cache. */
#ifndef LT_TEXT_ENCODE_H
#define LT_TEXT_ENCODE_H

#include "cache/cache.h"
#include "models/text_encoder.h"
#include "models/tokenizer.h"
#include "stages/device/device.h"
#include "stages/manifest/clip_list.h"
#include "stages/runtime/stage.h"

extern const lt_stage lt_text_encode_stage;

/* The packed form of the weights after a batch; AUTO: a plan decides. */
typedef enum { LT_TEXT_WEIGHTS_AUTO, LT_TEXT_WEIGHTS_KEEP, LT_TEXT_WEIGHTS_REPACK } lt_text_weights;

typedef struct lt_text_encode_config {
    const char *model, *model_2, *tokenizer, *tokenizer_2;
    const char *prompt, *negative, *prompts, *name, *manifest;
    int64_t clip_skip, clip_skip_2, length, batch, cache_size, memory;
    const char *device;
    int dtype;   /* lt_stage_dtype */
    int weights; /* lt_text_weights */
} lt_text_encode_config;

/* ---- prompts (text_prompts.c) --------------------------------------------------------------------------- */

enum { LT_PROMPTS_MAX = 4096, LT_PROMPTS_SLICE = 32 /* captions of a manifest that make a clip */ };

/* What is to be encoded: text 0 is the negative prompt, text i + 1 the prompt from at[i] on. All in the arena. */
typedef struct lt_prompts {
    int n_texts;
    const char **texts;
    double *at; /* [n_texts - 1] */
} lt_prompts;

/* Of clip `clip`, from the options prompt, negative and prompts; or, captions not NULL, a slice of those. E_INVALID naming
 * the entry that is none, or not UTF-8; LT_END: there is no such clip. */
lt_status lt_prompts_read(const lt_text_encode_config *config, lt_clip_list *captions, uint32_t clip,
                          lt_arena *arena, lt_prompts *prompts, lt_err *err);

/* Put a clip's caption where prompts have {caption}. caption NULL: no clips come. E_INVALID: there is none to put there, and
 * somebody asks for it; E_NO_MEMORY. */
lt_status lt_prompts_fill(lt_prompts *prompts, const char *clip, const char *caption, lt_arena *arena,
                          lt_err *err);

/* A clip's name made of a prompt's letters and digits: "woman-flowers-plants". In the arena; NULL: out of memory. */
const char *lt_prompts_name(const char *prompt, lt_arena *arena);
/* The prompt as a stream's caption may have it: without control characters, cut to 64 KiB. */
char *lt_prompts_caption(const char *prompt, lt_arena *arena);

/* ---- encoders and tokenizers (text_model.c) ------------------------------------------------------------- */

typedef enum {
    LT_FORM_CLIP, /* CLIP alone: the last state with its final norm, and the pooled vector */
    LT_FORM_SDXL, /* two CLIPs: states before the last layers side by side, and the second one's pooled vector */
    LT_FORM_T5, /* T5: the sequence */
} lt_text_form;

typedef struct lt_text_model {
    const lt_text_encode_config *config;
    lt_text_form form;
    lt_text_encoder *encoders[2];
    lt_tokenizer *tokenizers[2];
    int n; /* encoders: 1 or 2 */
    int length, width, pooled_width;
    lt_stage_device device;
    lt_context *dry, *run;
    int at_once; /* texts that run has room for: as many as came first, at most a batch, as the plan has it */
    lt_dtype dtype;
    bool keep_packed; /* between batches; where it was asked for, unless it is set before the first call */
    char digest[33];  /* of all that decides a text's embeddings but the text */
} lt_text_model;

/* Embeddings of texts, one after the other: [n,length,width], [n,pooled_width], in the model's dtype. */
typedef struct lt_embeddings {
    void *sequence, *pooled; /* NULL where there is none */
    int *n_tokens;           /* that are not padding */
} lt_embeddings;

/* Open what the options name. Errors as lt_text_encoder_open and lt_tokenizer_open; the model is empty then. */
lt_status lt_text_model_open(lt_text_model *model, const lt_text_encode_config *config, int threads,
                             lt_err *err);
void lt_text_model_close(lt_text_model *model); /* an empty one too */

/* What encoding up to `n` texts at once takes: workspace and packed weights in bytes; operations, of n. No batch has been
 * encoded before. */
typedef struct lt_text_cost {
    size_t workspace_bytes, packed_bytes;
    double flops;
} lt_text_cost;
lt_status lt_text_model_cost(lt_text_model *model, int n, lt_text_cost *cost, lt_err *err);

/* Ids of a text by every tokenizer: E_INVALID naming the byte that is not UTF-8. */
lt_status lt_text_model_check(const lt_text_model *model, const char *text, lt_err *err);

/* Encode n texts into memory of the caller's. The first call makes the context that later ones use. */
lt_status lt_text_model_encode(lt_text_model *model, const char *const *texts, int n, int threads,
                               lt_embeddings *out, lt_err *err);

#endif
