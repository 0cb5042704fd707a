/* text_parts.h - what a text encoder is made of; shared by text_names.c, text_config.c, text_open.c and text.c. Internal. */
#ifndef LT_TEXT_PARTS_H
#define LT_TEXT_PARTS_H

#include "models/checkpoint.h"
#include "models/text_encoder.h"

/* All that decides the shapes, and what the names do not say. */
typedef struct text_arch {
    lt_text_family family;
    int width, heads, head_dim, ffn, layers, n_tokens;
    int length;     /* CLIP: learned positions */
    int projection; /* CLIP: width of the pooled vector's projection; 0: none */
    bool final_norm;
    lt_activation activation;
    double eps;
    int eos_id;                /* as in lt_text_encoder_info */
    int buckets, max_distance; /* T5: of relative positions */
} text_arch;

/* ---- names (text_names.c) ------------------------------------------------------------------------------------------ */

/* The parameters of a layer. CLIP has biases everywhere, T5 nowhere; an absent part is NULL in the table. */
typedef enum {
    TEXT_NORM1,
    TEXT_Q,
    TEXT_K,
    TEXT_V,
    TEXT_QKV, /* the three stacked on dimension 0, in their place */
    TEXT_OUT,
    TEXT_NORM2,
    TEXT_GATE, /* T5: the activated half of the feed-forward net */
    TEXT_UP,
    TEXT_DOWN,
    TEXT_N_PARTS
} text_part;

/* One way of naming tensors. All names follow the scope. */
typedef struct text_names {
    const char *label; /* for error sentences */
    lt_text_family family;
    const char *marks[2];       /* a checkpoint that holds these (NULL: nothing more) is named this way */
    const char *tokens, *tied;  /* the embedding table, and another name of it; either or both may be there */
    const char *positions;      /* CLIP; [length,width], or with a 1 in front */
    const char *relative;       /* T5: the table of the relative positions */
    const char *final_norm;     /* module; may be absent from a CLIP file */
    const char *projection;     /* CLIP; may be absent */
    bool projection_transposed; /* stored for x W, not for x W^T */
    bool open_clip;             /* trained by OpenCLIP, with the exact gelu */
    const char *layer;          /* {i}: its number */
    const char *part[TEXT_N_PARTS];
    const char *optional[2];    /* tensors that may stay unused */
    const char *const *ignored; /* prefixes of the rest of a larger model; they do not follow the scope */
} text_names;

/* The way in which a checkpoint's encoder is named, and what all its names begin with; NULL where there is none. */
const text_names *text_names_of(const lt_checkpoint *checkpoint, lt_text_which which, const char **scope);

/* A parameter's full name into text. part TEXT_QKV is joined by "_": in_proj_weight. leaf: "weight" or "bias". */
void text_part_name(const text_names *names, const char *scope, int layer, text_part part, const char *leaf,
                    char text[120]);

/* ---- architecture (text_config.c) ---------------------------------------------------------------------------------- */

/* From config.json, or, where there is none, from names and shapes. E_FORMAT, E_UNSUPPORTED. */
lt_status text_arch_read(text_arch *arch, const lt_checkpoint *checkpoint, const text_names *names,
                         const char *scope, lt_err *err);

/* ---- the network --------------------------------------------------------------------------------------------------- */

typedef struct text_layer {
    lt_weight weight[TEXT_N_PARTS], bias[TEXT_N_PARTS]; /* data NULL: there is none */
} text_layer;

struct lt_text_encoder {
    lt_checkpoint *checkpoint;
    text_arch arch;
    lt_text_encoder_info info;
    lt_weight tokens, positions, relative, final_weight, final_bias, projection;
    void *projection_copy; /* the transposed one, ours */
    text_layer *layers;
    void *host; /* for what is worked out before the layers: rows' numbers, biases of distances */
    size_t host_bytes;
};

/* Free the packed form of a layer's weights. */
void text_layer_finish(lt_context *context, text_layer *layer);

/* Bucket of the relative position key - query, bidirectional, as transformers has it: computed in f32, truncated. */
int text_bucket(int relative, int buckets, int max_distance);

#endif
