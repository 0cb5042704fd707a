/* vae_names.c - the ways in which video VAEs name their tensors, as data: another one is another entry. */
#include "models/vae_parts.h"

#include <stdio.h>
#include <string.h>

#define DIFFUSERS_MODULES                                                                                    \
    {                                                                                                        \
        [VAE_ENCODER] = {[VAE_CONV_IN] = "encoder.conv_in",                                                  \
                         [VAE_RES] = "encoder.down_blocks.{i}.resnets.{j}",                                  \
                         [VAE_SAMPLER] = "encoder.down_blocks.{i}.downsamplers.0.conv",                      \
                         [VAE_MID_RES] = "encoder.mid_block.resnets.{j}",                                    \
                         [VAE_MID_ATTN] = "encoder.mid_block.attentions.0",                                  \
                         [VAE_NORM_OUT] = "encoder.conv_norm_out",                                           \
                         [VAE_CONV_OUT] = "encoder.conv_out",                                                \
                         [VAE_QUANT] = "quant_conv"},                                                        \
        [VAE_DECODER] = {[VAE_CONV_IN] = "decoder.conv_in",                                                  \
                         [VAE_RES] = "decoder.up_blocks.{i}.resnets.{j}",                                    \
                         [VAE_SAMPLER] = "decoder.up_blocks.{i}.upsamplers.0.conv",                          \
                         [VAE_MID_RES] = "decoder.mid_block.resnets.{j}",                                    \
                         [VAE_MID_ATTN] = "decoder.mid_block.attentions.0",                                  \
                         [VAE_NORM_OUT] = "decoder.conv_norm_out",                                           \
                         [VAE_CONV_OUT] = "decoder.conv_out",                                                \
                         [VAE_TIME_CONV] = "decoder.time_conv_out",                                          \
                         [VAE_QUANT] = "post_quant_conv"},                                                   \
    }

#define LDM_MODULES(scope)                                                                                   \
    {                                                                                                        \
        [VAE_ENCODER] = {[VAE_CONV_IN] = scope "encoder.conv_in",                                            \
                         [VAE_RES] = scope "encoder.down.{i}.block.{j}",                                     \
                         [VAE_SAMPLER] = scope "encoder.down.{i}.downsample.conv",                           \
                         [VAE_MID_RES] = scope "encoder.mid.block_{m}",                                      \
                         [VAE_MID_ATTN] = scope "encoder.mid.attn_1",                                        \
                         [VAE_NORM_OUT] = scope "encoder.norm_out",                                          \
                         [VAE_CONV_OUT] = scope "encoder.conv_out",                                          \
                         [VAE_QUANT] = scope "quant_conv"},                                                  \
        [VAE_DECODER] = {[VAE_CONV_IN] = scope "decoder.conv_in",                                            \
                         [VAE_RES] = scope "decoder.up.{r}.block.{j}",                                       \
                         [VAE_SAMPLER] = scope "decoder.up.{r}.upsample.conv",                               \
                         [VAE_MID_RES] = scope "decoder.mid.block_{m}",                                      \
                         [VAE_MID_ATTN] = scope "decoder.mid.attn_1",                                        \
                         [VAE_NORM_OUT] = scope "decoder.norm_out",                                          \
                         [VAE_CONV_OUT] = scope "decoder.conv_out",                                          \
                         [VAE_TIME_CONV] = scope "decoder.conv_out.time_mix_conv",                           \
                         [VAE_QUANT] = scope "post_quant_conv"},                                             \
    }

#define RESNET_LEAVES                                                                                        \
    [VAE_NORM1] = "norm1", [VAE_CONV1] = "conv1", [VAE_NORM2] = "norm2", [VAE_CONV2] = "conv2"

#define LDM_LEAVES                                                                                           \
    {                                                                                                        \
        RESNET_LEAVES, [VAE_SHORTCUT] = "nin_shortcut", [VAE_ATTN_NORM] = "norm", [VAE_ATTN_Q] = "q",        \
                       [VAE_ATTN_K] = "k", [VAE_ATTN_V] = "v", [VAE_ATTN_OUT] = "proj_out"                   \
    }

/* The temporal decoder of SVD's own code (generative-models, VideoDecoder): a spatial block holds the one over time, which is
 * built as those of the UNet are. */
#define LDM_TEMPORAL                                                                                         \
    .spatial = "", .temporal = ".time_stack", .mix = ".mix_factor",                                          \
    .temporal_leaf = {[VAE_NORM1] = "in_layers.0",                                                           \
                      [VAE_CONV1] = "in_layers.2",                                                           \
                      [VAE_NORM2] = "out_layers.0",                                                          \
                      [VAE_CONV2] = "out_layers.3"}

/* lite-sora's modules stand in one list, numbered as they are executed. */
#define LITE_SORA_HALF(quant)                                                                                \
    {                                                                                                        \
        [VAE_CONV_IN] = "conv_in", [VAE_RES] = "blocks.{n}", [VAE_SAMPLER] = "blocks.{n}.conv",              \
        [VAE_MID_RES] = "blocks.{n}", [VAE_MID_ATTN] = "blocks.{n}", [VAE_NORM_OUT] = "conv_norm_out",       \
        [VAE_CONV_OUT] = "conv_out", [VAE_TIME_CONV] = "time_conv_out", [VAE_QUANT] = quant                  \
    }

/* Parts of training checkpoints and other models in the same file. */
static const char *const ldm_ignored[] = {"loss.", "model_ema.", NULL};

/* The first whose marks are there is taken: what is general stands after what is special. */
static const vae_names dialects[] = {
    {.label = "diffusers' names from before version 0.17",
     .scope = "",
     .marks = {{"encoder.mid_block.attentions.0.query.weight",
                "encoder.mid_block.attentions.0.proj_attn.weight"},
               {"decoder.mid_block.attentions.0.query.weight",
                "decoder.mid_block.attentions.0.proj_attn.weight"}},
     .numerics = LT_NUMERICS_DIFFUSERS,
     .module = DIFFUSERS_MODULES,
     .leaf = {RESNET_LEAVES, [VAE_SHORTCUT] = "conv_shortcut", [VAE_ATTN_NORM] = "group_norm",
              [VAE_ATTN_Q] = "query", [VAE_ATTN_K] = "key", [VAE_ATTN_V] = "value",
              [VAE_ATTN_OUT] = "proj_attn"}},
    {.label = "names of a whole ldm checkpoint",
     .scope = "first_stage_model.",
     .marks = {{"first_stage_model.encoder.mid.attn_1.q.weight", NULL},
               {"first_stage_model.decoder.mid.attn_1.q.weight", NULL}},
     .numerics = LT_NUMERICS_DIFFUSERS,
     .module = LDM_MODULES("first_stage_model."),
     LDM_TEMPORAL,
     .leaf = LDM_LEAVES},
    {.label = "ldm names",
     .scope = "",
     .marks = {{"encoder.mid.attn_1.q.weight", NULL}, {"decoder.mid.attn_1.q.weight", NULL}},
     .numerics = LT_NUMERICS_DIFFUSERS,
     .module = LDM_MODULES(""),
     LDM_TEMPORAL,
     .leaf = LDM_LEAVES,
     .ignored = ldm_ignored},
    {.label = "diffusers' names",
     .scope = "",
     .marks = {{"encoder.conv_norm_out.weight", "encoder.conv_in.weight"},
               {"decoder.conv_norm_out.weight", "decoder.conv_in.weight"}},
     .numerics = LT_NUMERICS_DIFFUSERS,
     .module = DIFFUSERS_MODULES,
     .spatial = ".spatial_res_block",
     .temporal = ".temporal_res_block",
     .mix = ".time_mixer.mix_factor",
     .leaf =
         {RESNET_LEAVES, [VAE_SHORTCUT] = "conv_shortcut", [VAE_ATTN_NORM] = "group_norm",
          [VAE_ATTN_Q] = "to_q", [VAE_ATTN_K] = "to_k", [VAE_ATTN_V] = "to_v", [VAE_ATTN_OUT] = "to_out.0"}},
    {.label = "lite-sora's names",
     .scope = "",
     .marks = {{"quant_conv.weight", NULL}, {"time_conv_out.weight", "post_quant_conv.weight"}},
     .numerics = LT_NUMERICS_LITE_SORA,
     .numbered = true,
     .one_half = true,
     .module =
         {[VAE_ENCODER] = LITE_SORA_HALF("quant_conv"), [VAE_DECODER] = LITE_SORA_HALF("post_quant_conv")},
     .spatial = "",
     .temporal = "",
     .mix = ".mix_factor",
     .leaf = {RESNET_LEAVES, [VAE_SHORTCUT] = "conv_shortcut", [VAE_ATTN_NORM] = "norm",
              [VAE_ATTN_Q] = "transformer_blocks.0.to_q", [VAE_ATTN_K] = "transformer_blocks.0.to_k",
              [VAE_ATTN_V] = "transformer_blocks.0.to_v", [VAE_ATTN_OUT] = "transformer_blocks.0.to_out"}},
};

static bool holds(const lt_checkpoint *checkpoint, const char *name)
{
    return name && lt_checkpoint_find(checkpoint, name).data;
}

const vae_names *vae_names_of(const lt_checkpoint *checkpoint, unsigned *halves)
{
    for (size_t d = 0; d < LT_COUNT(dialects); d++) {
        const vae_names *names = &dialects[d];
        if (names->one_half && !holds(checkpoint, "blocks.0.norm1.weight")) continue;
        *halves = 0;
        for (int half = 0; half < VAE_N_HALVES; half++)
            for (int i = 0; i < 2; i++)
                if (holds(checkpoint, names->marks[half][i])) *halves |= 1u << half;
        if (*halves) return names;
    }
    return NULL;
}

void vae_module_name(const vae_names *names, vae_half_id half, vae_module module, int level, int n_levels,
                     int block, int number, char *text, size_t text_bytes)
{
    const char *pattern = names->module[half][module];
    size_t n = 0;
    text[0] = '\0';
    for (const char *p = pattern ? pattern : "?"; *p && n + 12 < text_bytes; p++) {
        if (*p != '{') {
            text[n++] = *p;
            text[n] = '\0';
            continue;
        }
        int value = p[1] == 'i'   ? level
                    : p[1] == 'r' ? n_levels - 1 - level
                    : p[1] == 'j' ? block
                    : p[1] == 'm' ? block + 1
                                  : number;
        n += (size_t)snprintf(text + n, text_bytes - n, "%d", value);
        p += 2;
    }
}
