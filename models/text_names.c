/* text_names.c - the ways in which text encoders name their tensors, as data: another one is another entry. */
#include "models/text_parts.h"

#include <stdio.h>
#include <string.h>

#define TRANSFORMERS_CLIP_PARTS                                                                              \
    {                                                                                                        \
        [TEXT_NORM1] = "layer_norm1", [TEXT_Q] = "self_attn.q_proj", [TEXT_K] = "self_attn.k_proj",          \
        [TEXT_V] = "self_attn.v_proj", [TEXT_OUT] = "self_attn.out_proj", [TEXT_NORM2] = "layer_norm2",      \
        [TEXT_UP] = "mlp.fc1", [TEXT_DOWN] = "mlp.fc2"                                                       \
    }

/* The other tower of a whole CLIP, the other half of a whole T5. */
static const char *const clip_ignored[] = {"vision_model.", "visual_projection.", "logit_scale", NULL};
static const char *const t5_ignored[] = {"decoder.", "lm_head.", NULL};

static const text_names dialects[] = {
    {.label = "transformers' names of CLIP",
     .family = LT_TEXT_CLIP,
     .marks = {"text_model.embeddings.token_embedding.weight"},
     .tokens = "text_model.embeddings.token_embedding.weight",
     .positions = "text_model.embeddings.position_embedding.weight",
     .final_norm = "text_model.final_layer_norm",
     .projection = "text_projection.weight",
     .layer = "text_model.encoder.layers.{i}.",
     .part = TRANSFORMERS_CLIP_PARTS,
     .optional = {"text_model.embeddings.position_ids", "logit_scale"},
     .ignored = clip_ignored},
    {.label = "the names that transformers gives CLIPTextModel from version 5 on",
     .family = LT_TEXT_CLIP,
     .marks = {"embeddings.token_embedding.weight"},
     .tokens = "embeddings.token_embedding.weight",
     .positions = "embeddings.position_embedding.weight",
     .final_norm = "final_layer_norm",
     .projection = "text_projection.weight",
     .layer = "encoder.layers.{i}.",
     .part = TRANSFORMERS_CLIP_PARTS,
     .optional = {"embeddings.position_ids"}},
    {.label = "lite-sora's names of CLIP",
     .family = LT_TEXT_CLIP,
     .marks = {"token_embedding.weight", "position_embeds"},
     .tokens = "token_embedding.weight",
     .positions = "position_embeds",
     .final_norm = "final_layer_norm",
     .projection = "text_projection.weight",
     .layer = "encoders.{i}.",
     .part = {[TEXT_NORM1] = "layer_norm1",
              [TEXT_Q] = "attn.to_q",
              [TEXT_K] = "attn.to_k",
              [TEXT_V] = "attn.to_v",
              [TEXT_OUT] = "attn.to_out",
              [TEXT_NORM2] = "layer_norm2",
              [TEXT_UP] = "fc1",
              [TEXT_DOWN] = "fc2"}},
    {.label = "OpenCLIP's names",
     .family = LT_TEXT_CLIP,
     .marks = {"token_embedding.weight", "positional_embedding"},
     .tokens = "token_embedding.weight",
     .positions = "positional_embedding",
     .final_norm = "ln_final",
     .projection = "text_projection",
     .projection_transposed = true,
     .open_clip = true,
     .layer = "transformer.resblocks.{i}.",
     .part = {[TEXT_NORM1] = "ln_1",
              [TEXT_QKV] = "attn.in_proj",
              [TEXT_OUT] = "attn.out_proj",
              [TEXT_NORM2] = "ln_2",
              [TEXT_UP] = "mlp.c_fc",
              [TEXT_DOWN] = "mlp.c_proj"},
     .optional = {"logit_scale"}},
    {.label = "transformers' names of T5",
     .family = LT_TEXT_T5,
     .marks = {"encoder.block.0.layer.0.SelfAttention.q.weight"},
     .tokens = "shared.weight",
     .tied = "encoder.embed_tokens.weight",
     .relative = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
     .final_norm = "encoder.final_layer_norm",
     .layer = "encoder.block.{i}.layer.",
     .part = {[TEXT_NORM1] = "0.layer_norm",
              [TEXT_Q] = "0.SelfAttention.q",
              [TEXT_K] = "0.SelfAttention.k",
              [TEXT_V] = "0.SelfAttention.v",
              [TEXT_OUT] = "0.SelfAttention.o",
              [TEXT_NORM2] = "1.layer_norm",
              [TEXT_GATE] = "1.DenseReluDense.wi_0",
              [TEXT_UP] = "1.DenseReluDense.wi_1",
              [TEXT_DOWN] = "1.DenseReluDense.wo"},
     .ignored = t5_ignored},
};

/* Where an encoder may stand: alone, in a training checkpoint, in a whole SDXL, in a whole SD 1.5. */
static const char *const scopes[][5] = {
    [LT_TEXT_FIRST] = {"text_encoder.", "conditioner.embedders.0.transformer.",
                       "conditioner.embedders.0.model.", "cond_stage_model.transformer.", ""},
    [LT_TEXT_SECOND] = {"text_encoder_2.", "conditioner.embedders.1.model.",
                        "conditioner.embedders.1.transformer.", ""},
};

static bool holds(const lt_checkpoint *checkpoint, const char *scope, const char *name)
{
    char text[160];
    snprintf(text, sizeof(text), "%s%s", scope, name);
    return lt_checkpoint_find(checkpoint, text).data;
}

const text_names *text_names_of(const lt_checkpoint *checkpoint, lt_text_which which, const char **scope)
{
    for (size_t s = 0; s < LT_COUNT(scopes[0]) && scopes[which][s]; s++) {
        for (size_t d = 0; d < LT_COUNT(dialects); d++) {
            bool all = true;
            for (size_t i = 0; i < LT_COUNT(dialects[d].marks); i++)
                all = all &&
                      (!dialects[d].marks[i] || holds(checkpoint, scopes[which][s], dialects[d].marks[i]));
            if (!all) continue;
            *scope = scopes[which][s];
            return &dialects[d];
        }
    }
    return NULL;
}

void text_part_name(const text_names *names, const char *scope, int layer, text_part part, const char *leaf,
                    char text[120])
{
    const char *number = strstr(names->layer, "{i}");
    snprintf(text, 120, "%s%.*s%d%s%s%s%s", scope, (int)(number - names->layer), names->layer, layer,
             number + strlen("{i}"), names->part[part], part == TEXT_QKV ? "_" : ".", leaf);
}
