/* test_text_manifests.c - every name and shape of real text encoders is known, and every weight comes from the tensor of the
 * right name. The files are made at their real size with zeros that take no room on disk. */
#include "models/text_parts.h"
#include "tests/models/support.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the parts of a layer are called, the number of the layer being %d; the same for what stands once. */
typedef struct naming {
    const char *part[TEXT_N_PARTS];
    const char *tokens, *positions, *relative, *final_norm, *projection;
    bool stacked, biased;
} naming;

#define TRANSFORMERS(scope)                                                                                  \
    {                                                                                                        \
        .part = {[TEXT_NORM1] = scope "encoder.layers.%d.layer_norm1",                                       \
                 [TEXT_Q] = scope "encoder.layers.%d.self_attn.q_proj",                                      \
                 [TEXT_K] = scope "encoder.layers.%d.self_attn.k_proj",                                      \
                 [TEXT_V] = scope "encoder.layers.%d.self_attn.v_proj",                                      \
                 [TEXT_OUT] = scope "encoder.layers.%d.self_attn.out_proj",                                  \
                 [TEXT_NORM2] = scope "encoder.layers.%d.layer_norm2",                                       \
                 [TEXT_UP] = scope "encoder.layers.%d.mlp.fc1",                                              \
                 [TEXT_DOWN] = scope "encoder.layers.%d.mlp.fc2"},                                           \
        .tokens = scope "embeddings.token_embedding.weight",                                                 \
        .positions = scope "embeddings.position_embedding.weight", .final_norm = scope "final_layer_norm",   \
        .projection = "text_projection.weight", .biased = true                                               \
    }

#define LITE_SORA(scope)                                                                                     \
    {                                                                                                        \
        .part = {[TEXT_NORM1] = scope "encoders.%d.layer_norm1",                                             \
                 [TEXT_Q] = scope "encoders.%d.attn.to_q",                                                   \
                 [TEXT_K] = scope "encoders.%d.attn.to_k",                                                   \
                 [TEXT_V] = scope "encoders.%d.attn.to_v",                                                   \
                 [TEXT_OUT] = scope "encoders.%d.attn.to_out",                                               \
                 [TEXT_NORM2] = scope "encoders.%d.layer_norm2",                                             \
                 [TEXT_UP] = scope "encoders.%d.fc1",                                                        \
                 [TEXT_DOWN] = scope "encoders.%d.fc2"},                                                     \
        .tokens = scope "token_embedding.weight", .positions = scope "position_embeds",                      \
        .final_norm = scope "final_layer_norm", .projection = scope "text_projection.weight", .biased = true \
    }

#define T5(scope)                                                                                            \
    {                                                                                                        \
        .part = {[TEXT_NORM1] = scope "encoder.block.%d.layer.0.layer_norm",                                 \
                 [TEXT_Q] = scope "encoder.block.%d.layer.0.SelfAttention.q",                                \
                 [TEXT_K] = scope "encoder.block.%d.layer.0.SelfAttention.k",                                \
                 [TEXT_V] = scope "encoder.block.%d.layer.0.SelfAttention.v",                                \
                 [TEXT_OUT] = scope "encoder.block.%d.layer.0.SelfAttention.o",                              \
                 [TEXT_NORM2] = scope "encoder.block.%d.layer.1.layer_norm",                                 \
                 [TEXT_GATE] = scope "encoder.block.%d.layer.1.DenseReluDense.wi_0",                         \
                 [TEXT_UP] = scope "encoder.block.%d.layer.1.DenseReluDense.wi_1",                           \
                 [TEXT_DOWN] = scope "encoder.block.%d.layer.1.DenseReluDense.wo"},                          \
        .tokens = scope "shared.weight",                                                                     \
        .relative = scope "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",            \
        .final_norm = scope "encoder.final_layer_norm"                                                       \
    }

static const naming transformers = TRANSFORMERS("text_model."), lite = LITE_SORA(""), t5 = T5(""),
                    sdxl_first = TRANSFORMERS("conditioner.embedders.0.transformer.text_model."),
                    training = LITE_SORA("text_encoder."), training_2 = LITE_SORA("text_encoder_2."),
                    training_t5 = T5("text_encoder.");

#define OPEN_CLIP "conditioner.embedders.1.model."
#define BLOCK     OPEN_CLIP "transformer.resblocks.%d."
static const naming sdxl_second = {.part = {[TEXT_NORM1] = BLOCK "ln_1",
                                            [TEXT_Q] = BLOCK "attn.in_proj",
                                            [TEXT_K] = BLOCK "attn.in_proj",
                                            [TEXT_V] = BLOCK "attn.in_proj",
                                            [TEXT_OUT] = BLOCK "attn.out_proj",
                                            [TEXT_NORM2] = BLOCK "ln_2",
                                            [TEXT_UP] = BLOCK "mlp.c_fc",
                                            [TEXT_DOWN] = BLOCK "mlp.c_proj"},
                                   .tokens = OPEN_CLIP "token_embedding.weight",
                                   .positions = OPEN_CLIP "positional_embedding",
                                   .final_norm = OPEN_CLIP "ln_final",
                                   .stacked = true,
                                   .biased = true};

typedef struct manifest {
    const char *file, *config; /* config: under configs/, NULL: none */
    const char *const *prefixes;
    const naming *naming;
    lt_text_which which;
    lt_text_family family;
    int width, layers, heads, pooled;
    lt_activation activation;
    int64_t n_parameters;
} manifest;

static const char *const conditioners[] = {"conditioner.", "first_stage_model.quant_conv", NULL};
/* A training checkpoint's T5 is cut to its first two layers: whole, it is in a file of its own. */
static const char *const two_layers[] = {"text_encoder.shared",
                                         "text_encoder.encoder.embed",
                                         "text_encoder.encoder.final",
                                         "text_encoder.encoder.block.0.",
                                         "text_encoder.encoder.block.1.",
                                         "video_encoder.",
                                         NULL};
static const char *const trained[] = {"text_encoder", "video_encoder.", NULL};

enum { BIGG_PARAMETERS = 694659840, CLIP_L_PARAMETERS = 123060480, CUT_PARAMETERS = 115971072 };

static const manifest manifests[] = {
    {"clip_l_text_encoder.json", "sdxl/text_encoder/config.json", NULL, &transformers, LT_TEXT_FIRST,
     LT_TEXT_CLIP, 768, 12, 12, 768, LT_ACT_QUICK_GELU, CLIP_L_PARAMETERS},
    {"clip_l_text_encoder.json", "sd15/text_encoder/config.json", NULL, &transformers, LT_TEXT_FIRST,
     LT_TEXT_CLIP, 768, 12, 12, 768, LT_ACT_QUICK_GELU, CLIP_L_PARAMETERS},
    {"clip_l_text_encoder.json", NULL, NULL, &transformers, LT_TEXT_FIRST, LT_TEXT_CLIP, 768, 12, 12, 768,
     LT_ACT_QUICK_GELU, CLIP_L_PARAMETERS},
    {"clip_bigg_text_encoder_2.json", "sdxl/text_encoder_2/config.json", NULL, &transformers, LT_TEXT_SECOND,
     LT_TEXT_CLIP, 1280, 32, 20, 1280, LT_ACT_GELU_ERF, BIGG_PARAMETERS},
    {"clip_bigg_text_encoder_2.json", NULL, NULL, &transformers, LT_TEXT_FIRST, LT_TEXT_CLIP, 1280, 32, 20,
     1280, LT_ACT_GELU_ERF, BIGG_PARAMETERS},
    {"lite_sora_sd_text_encoder.json", NULL, NULL, &lite, LT_TEXT_FIRST, LT_TEXT_CLIP, 768, 12, 12, 768,
     LT_ACT_QUICK_GELU, CLIP_L_PARAMETERS},
    {"lite_sora_sdxl_text_encoder.json", NULL, NULL, &lite, LT_TEXT_FIRST, LT_TEXT_CLIP, 768, 11, 12, 0,
     LT_ACT_QUICK_GELU, CUT_PARAMETERS},
    {"lite_sora_sdxl_text_encoder_2.json", NULL, NULL, &lite, LT_TEXT_SECOND, LT_TEXT_CLIP, 1280, 32, 20,
     1280, LT_ACT_GELU_ERF, BIGG_PARAMETERS},
    {"lite_sora_videodit_v1_lightning_ckpt.json", NULL, trained, &training, LT_TEXT_FIRST, LT_TEXT_CLIP, 1280,
     32, 20, 1280, LT_ACT_GELU_ERF, BIGG_PARAMETERS},
    {"lite_sora_videodit_v2_lightning_ckpt.json", NULL, trained, &training, LT_TEXT_FIRST, LT_TEXT_CLIP, 768,
     12, 12, 768, LT_ACT_QUICK_GELU, CLIP_L_PARAMETERS},
    {"lite_sora_sdxl3d_lightning_ckpt.json", NULL, trained, &training, LT_TEXT_FIRST, LT_TEXT_CLIP, 768, 11,
     12, 0, LT_ACT_QUICK_GELU, CUT_PARAMETERS},
    {"lite_sora_sdxl3d_lightning_ckpt.json", NULL, trained, &training_2, LT_TEXT_SECOND, LT_TEXT_CLIP, 1280,
     32, 20, 1280, LT_ACT_GELU_ERF, BIGG_PARAMETERS},
    {"sdxl_single_file.json", NULL, conditioners, &sdxl_first, LT_TEXT_FIRST, LT_TEXT_CLIP, 768, 12, 12, 768,
     LT_ACT_QUICK_GELU, CLIP_L_PARAMETERS},
    {"sdxl_single_file.json", NULL, conditioners, &sdxl_second, LT_TEXT_SECOND, LT_TEXT_CLIP, 1280, 32, 20,
     1280, LT_ACT_GELU_ERF, BIGG_PARAMETERS},
    {"lite_sora_pixart_video_lightning_ckpt.json", NULL, two_layers, &training_t5, LT_TEXT_FIRST, LT_TEXT_T5,
     4096, 2, 64, 0, LT_ACT_GELU_TANH,
     32128 * 4096 + 32 * 64 + 4096 + 2 * (4 * 4096 * 4096 + 3 * 4096 * 10240 + 2 * 4096)},
    {"t5_v1_1_xxl_encoder.json", "pixart_512/text_encoder/config.json", NULL, &t5, LT_TEXT_FIRST, LT_TEXT_T5,
     4096, 24, 64, 0, LT_ACT_GELU_TANH, 4762310656},
};

/* The weight is `part` of `parts` equal pieces of the tensor of that name. */
static void traced(const lt_text_encoder *e, const lt_weight *weight, const char *name, int part, int parts)
{
    lt_tensor t = lt_checkpoint_find(e->checkpoint, name);
    if (!t.data) fail_msg("%s is not in the file", name);
    size_t bytes = lt_tensor_bytes(&t) / (size_t)parts;
    if (weight->tensor.data != (char *)t.data + (size_t)part * bytes ||
        lt_tensor_bytes(&weight->tensor) != bytes)
        fail_msg("the weight that should be %s is not", name);
}

static void trace_layer(const lt_text_encoder *e, const naming *n, int layer)
{
    const text_layer *l = &e->layers[layer];
    for (int part = 0; part < TEXT_N_PARTS; part++) {
        char module[120], name[140];
        bool stacked = n->stacked && part >= TEXT_Q && part <= TEXT_V;
        if (!n->part[part]) {
            assert_null(l->weight[part].tensor.data);
            continue;
        }
        snprintf(module, sizeof(module), n->part[part], layer);
        snprintf(name, sizeof(name), "%s%cweight", module, stacked ? '_' : '.');
        traced(e, &l->weight[part], name, stacked ? part - TEXT_Q : 0, stacked ? 3 : 1);
        snprintf(name, sizeof(name), "%s%cbias", module, stacked ? '_' : '.');
        if (n->biased)
            traced(e, &l->bias[part], name, stacked ? part - TEXT_Q : 0, stacked ? 3 : 1);
        else
            assert_null(l->bias[part].tensor.data);
    }
}

static void trace(const lt_text_encoder *e, const manifest *m)
{
    const naming *n = m->naming;
    char name[140];
    traced(e, &e->tokens, n->tokens, 0, 1);
    if (n->positions) traced(e, &e->positions, n->positions, 0, 1);
    if (n->relative) traced(e, &e->relative, n->relative, 0, 1);
    if (n->projection && m->width == 1280) traced(e, &e->projection, n->projection, 0, 1);
    if (m->pooled || m->family == LT_TEXT_T5) {
        snprintf(name, sizeof(name), "%s.weight", n->final_norm);
        traced(e, &e->final_weight, name, 0, 1);
        snprintf(name, sizeof(name), "%s.bias", n->final_norm);
        if (n->biased) traced(e, &e->final_bias, name, 0, 1);
    }
    for (int i = 0; i < m->layers; i++) trace_layer(e, n, i);
}

/* The file of the manifest before is left where it is the same one, since its digest is remembered. */
static void check(const manifest *m, const manifest *before)
{
    static int n;
    const char *folder = in_folder("hollow"), *weights = in_folder("hollow/model.safetensors");
    lt_text_encoder *e;
    lt_err err = {0};
    mkdir(folder, 0700);
    if (!before || strcmp(before->file, m->file) != 0 || before->prefixes != m->prefixes) {
        unlink(weights);
        n = hollow_write(m->file, m->prefixes, weights);
    }
    if (m->config) hollow_config(m->config, folder);
    must(lt_text_encoder_open(&e, m->config ? folder : weights, m->which, &err), &err);
    const lt_text_encoder_info *info = lt_text_encoder_get_info(e);
    printf("%-42s %-32s %d tensors, %lld parameters\n", m->file, m->config ? m->config : "no configuration",
           n, (long long)info->n_parameters);
    assert_int_equal(info->family, m->family);
    assert_int_equal(info->width, m->width);
    assert_int_equal(info->layers, m->layers);
    assert_int_equal(info->pooled_width, m->pooled);
    assert_int_equal(info->length, m->family == LT_TEXT_CLIP ? 77 : 0);
    assert_int_equal(info->n_tokens, m->family == LT_TEXT_CLIP ? 49408 : 32128);
    assert_int_equal(info->eos_id, -1);
    assert_int_equal(info->n_parameters, m->n_parameters);
    assert_int_equal(info->weight_bytes, 2 * m->n_parameters);
    assert_int_equal(e->arch.heads, m->heads);
    assert_int_equal(e->arch.head_dim, 64);
    assert_int_equal(e->arch.activation, m->activation);
    trace(e, m);
    lt_text_encoder_close(e, NULL);
    unlink(in_folder("hollow/config.json"));
}

static void real_manifests(void **state)
{
    for (size_t i = 0; i < LT_COUNT(manifests); i++) check(&manifests[i], i ? &manifests[i - 1] : NULL);
}

int main(void)
{
    return hollow_main(real_manifests, "real text encoders", LT_COUNT(manifests));
}
