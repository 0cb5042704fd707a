/* denoiser_sdxl3d_names.c - the ways in which UNets name their tensors, as data, and the architecture that names, shapes and
 * config.json tell. */
#include "models/config.h"
#include "models/denoiser_sdxl3d.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names --------------------------------------------------------------------------------------------------------- */

#define RESNET_LEAVES                                                                                        \
    [SDXL3D_NORM1] = "norm1", [SDXL3D_CONV1] = "conv1", [SDXL3D_TIME] = "time_emb_proj",                     \
    [SDXL3D_NORM2] = "norm2", [SDXL3D_CONV2] = "conv2", [SDXL3D_SHORTCUT] = "conv_shortcut"

#define LAYER_LEAVES [SDXL3D_OUT] = "to_out.0", [SDXL3D_GATE] = "ff.net.0.proj", [SDXL3D_FF] = "ff.net.2"

static const sdxl3d_names dialects[] = {
    /* lite-sora's modules stand in one list, pushes and pops among them, numbered as they are executed. */
    {.numerics = LT_NUMERICS_LITE_SORA,
     .module = {[SDXL3D_TIME_1] = "time_embedding.0",
                [SDXL3D_TIME_2] = "time_embedding.2",
                [SDXL3D_ADD_1] = "add_time_embedding.0",
                [SDXL3D_ADD_2] = "add_time_embedding.2",
                [SDXL3D_CONV_IN] = "conv_in",
                [SDXL3D_DOWN_RES] = "blocks.{n}",
                [SDXL3D_DOWN_ATTN] = "blocks.{n}",
                [SDXL3D_DOWN] = "blocks.{n}.conv",
                [SDXL3D_MID_RES] = "blocks.{n}",
                [SDXL3D_MID_ATTN] = "blocks.{n}",
                [SDXL3D_UP_RES] = "blocks.{n}",
                [SDXL3D_UP_ATTN] = "blocks.{n}",
                [SDXL3D_UP] = "blocks.{n}.conv",
                [SDXL3D_NORM_OUT] = "conv_norm_out",
                [SDXL3D_CONV_OUT] = "conv_out"},
     .leaf = {RESNET_LEAVES, [SDXL3D_OUT] = "to_out", [SDXL3D_GATE] = "act_fn.proj", [SDXL3D_FF] = "ff"}},
    /* Single-file checkpoints. */
    {.prefix = "model.diffusion_model.",
     .numerics = LT_NUMERICS_DIFFUSERS,
     .module = {[SDXL3D_TIME_1] = "time_embed.0",
                [SDXL3D_TIME_2] = "time_embed.2",
                [SDXL3D_ADD_1] = "label_emb.0.0",
                [SDXL3D_ADD_2] = "label_emb.0.2",
                [SDXL3D_CONV_IN] = "input_blocks.0.0",
                [SDXL3D_DOWN_RES] = "input_blocks.{k}.0",
                [SDXL3D_DOWN_ATTN] = "input_blocks.{k}.1",
                [SDXL3D_DOWN] = "input_blocks.{k}.0.op",
                [SDXL3D_MID_RES] = "middle_block.{m}",
                [SDXL3D_MID_ATTN] = "middle_block.1",
                [SDXL3D_UP_RES] = "output_blocks.{k}.0",
                [SDXL3D_UP_ATTN] = "output_blocks.{k}.1",
                [SDXL3D_UP] = "output_blocks.{k}.{s}.conv",
                [SDXL3D_NORM_OUT] = "out.0",
                [SDXL3D_CONV_OUT] = "out.2"},
     .leaf = {[SDXL3D_NORM1] = "in_layers.0",
              [SDXL3D_CONV1] = "in_layers.2",
              [SDXL3D_TIME] = "emb_layers.1",
              [SDXL3D_NORM2] = "out_layers.0",
              [SDXL3D_CONV2] = "out_layers.3",
              [SDXL3D_SHORTCUT] = "skip_connection",
              LAYER_LEAVES}},
    /* diffusers. */
    {.prefix = "",
     .numerics = LT_NUMERICS_DIFFUSERS,
     .module = {[SDXL3D_TIME_1] = "time_embedding.linear_1",
                [SDXL3D_TIME_2] = "time_embedding.linear_2",
                [SDXL3D_ADD_1] = "add_embedding.linear_1",
                [SDXL3D_ADD_2] = "add_embedding.linear_2",
                [SDXL3D_CONV_IN] = "conv_in",
                [SDXL3D_DOWN_RES] = "down_blocks.{i}.resnets.{j}",
                [SDXL3D_DOWN_ATTN] = "down_blocks.{i}.attentions.{j}",
                [SDXL3D_DOWN] = "down_blocks.{i}.downsamplers.0.conv",
                [SDXL3D_MID_RES] = "mid_block.resnets.{j}",
                [SDXL3D_MID_ATTN] = "mid_block.attentions.0",
                [SDXL3D_UP_RES] = "up_blocks.{i}.resnets.{j}",
                [SDXL3D_UP_ATTN] = "up_blocks.{i}.attentions.{j}",
                [SDXL3D_UP] = "up_blocks.{i}.upsamplers.0.conv",
                [SDXL3D_NORM_OUT] = "conv_norm_out",
                [SDXL3D_CONV_OUT] = "conv_out"},
     .leaf = {RESNET_LEAVES, LAYER_LEAVES}},
};

/* Modules of a block among lite-sora's: a push or pop, the residual block, and its attention. */
static int modules_of_block(const sdxl3d_arch *a, int level)
{
    return a->depth[level] ? 3 : 2;
}

/* {n}: where a module stands in lite-sora's list. */
static int number_of(const sdxl3d_arch *a, sdxl3d_module module, int level, int block)
{
    bool down = module <= SDXL3D_DOWN, middle = module == SDXL3D_MID_RES || module == SDXL3D_MID_ATTN;
    int n = 0;
    for (int i = 0; i < (down ? level : a->n_levels - 1); i++) n += a->layers * modules_of_block(a, i) + 2;
    if (down) {
        if (module == SDXL3D_DOWN) block = a->layers;
        return n + block * modules_of_block(a, level) + (module == SDXL3D_DOWN_ATTN);
    }
    n += a->layers * modules_of_block(a, a->n_levels - 1);
    if (middle) return n + (module == SDXL3D_MID_ATTN ? 1 : 2 * block);
    n += 3;
    for (int i = a->n_levels - 1; i > level; i--) n += (a->layers + 1) * modules_of_block(a, i) + 1;
    if (module == SDXL3D_UP) return n + (a->layers + 1) * modules_of_block(a, level);
    return n + block * modules_of_block(a, level) + 1 + (module == SDXL3D_UP_ATTN);
}

/* The number that stands for a letter of a pattern. */
static int value_of(const sdxl3d_arch *a, sdxl3d_module module, int level, int block, char letter)
{
    bool down = module <= SDXL3D_DOWN;
    int i = down ? level : a->n_levels - 1 - level;
    switch (letter) {
    case 'i': return i;
    case 'j': return block;
    case 'm': return 2 * block;
    case 's': return modules_of_block(a, level) - 1;
    case 'k':
        if (module == SDXL3D_DOWN || module == SDXL3D_UP) block = a->layers;
        return i * (a->layers + 1) + block + down;
    default: return number_of(a, module, level, block);
    }
}

void sdxl3d_module_name(const sdxl3d_names *names, const sdxl3d_arch *arch, sdxl3d_module module, int level,
                        int block, char *text, size_t text_bytes)
{
    size_t n = (size_t)snprintf(text, text_bytes, "%s", names->prefix);
    for (const char *p = names->module[module]; *p && n + 12 < text_bytes; p++) {
        if (*p == '{') {
            n += (size_t)snprintf(text + n, text_bytes - n, "%d", value_of(arch, module, level, block, p[1]));
            p += 2;
        } else {
            text[n++] = *p;
            text[n] = '\0';
        }
    }
}

/* ---- names and shapes ---------------------------------------------------------------------------------------------- */

typedef struct prober {
    const lt_checkpoint *checkpoint;
    const sdxl3d_names *names;
    const sdxl3d_arch *arch;
} prober;

/* Dimension `axis` of tensor module`.leaf`.weight, leaf "" where the module is the layer; 0 where there is none. */
static int probe(const prober *p, sdxl3d_module module, int level, int block, const char *leaf, int axis)
{
    char name[160];
    sdxl3d_module_name(p->names, p->arch, module, level, block, name, 100);
    size_t n = strlen(name);
    snprintf(name + n, sizeof(name) - n, "%s%s.weight", *leaf ? "." : "", leaf);
    lt_tensor t = lt_checkpoint_find(p->checkpoint, name);
    return t.data && axis < t.rank && t.shape[axis] <= 1 << 20 ? (int)t.shape[axis] : 0;
}

bool sdxl3d_names_of(const lt_checkpoint *checkpoint, const char *prefix, sdxl3d_names *names)
{
    const sdxl3d_arch nothing = {.n_levels = 1};
    const prober p = {checkpoint, names, &nothing};
    for (size_t d = 0; d < LT_COUNT(dialects); d++) {
        *names = dialects[d];
        if (!names->prefix) names->prefix = prefix;
        if (probe(&p, SDXL3D_DOWN_RES, 0, 0, names->leaf[SDXL3D_TIME], 0)) return true;
    }
    return false;
}

/* Transformer layers of an attention block; 0: there is none. */
static int probe_depth(const prober *p, sdxl3d_module module, int level)
{
    int depth = 0;
    char leaf[60];
    if (!probe(p, module, level, 0, "norm", 0)) return 0;
    do {
        snprintf(leaf, sizeof(leaf), "transformer_blocks.%d.attn1.to_q", depth);
    } while (probe(p, module, level, 0, leaf, 0) && ++depth < SDXL3D_MAX_DEPTH);
    return depth;
}

static void infer(sdxl3d_arch *a, const prober *p)
{
    const char *conv1 = p->names->leaf[SDXL3D_CONV1];
    const char *keys = "transformer_blocks.0.attn2.to_k";
    do {
        int i = a->n_levels++;
        a->depth[i] = probe_depth(p, SDXL3D_DOWN_ATTN, i);
        while (i == 0 && a->layers <= SDXL3D_MAX_LAYERS && probe(p, SDXL3D_DOWN_RES, 0, a->layers, conv1, 0))
            a->layers++;
        a->channels[i] = probe(p, SDXL3D_DOWN_RES, i, 0, conv1, 0);
        if (a->depth[i]) a->context_width = probe(p, SDXL3D_DOWN_ATTN, i, 0, keys, 1);
    } while (a->n_levels < SDXL3D_MAX_LEVELS && probe(p, SDXL3D_DOWN, a->n_levels - 1, 0, "", 0));
    a->mid_depth = probe_depth(p, SDXL3D_MID_ATTN, 0);
    if (!a->context_width) a->context_width = probe(p, SDXL3D_MID_ATTN, 0, 0, keys, 1);
    a->in_channels = probe(p, SDXL3D_CONV_IN, 0, 0, "", 1);
    a->flat = !probe(p, SDXL3D_CONV_IN, 0, 0, "", 4);
    a->time_width = probe(p, SDXL3D_TIME_1, 0, 0, "", 0);
    for (int i = 0; i < a->n_levels; i++) a->heads[i] = a->channels[i] % 64 ? 0 : a->channels[i] / 64;
}

/* ---- config.json --------------------------------------------------------------------------------------------------- */

/* What may stand in a configuration only with the value that SDXL has. */
static const struct {
    const char *key, *wanted; /* as JSON */
} fixed[] = {
    {"_class_name", "\"UNet2DConditionModel\""},
    {"act_fn", "\"silu\""},
    {"addition_embed_type", "\"text_time\""},
    {"center_input_sample", "false"},
    {"conv_in_kernel", "3"},
    {"conv_out_kernel", "3"},
    {"downsample_padding", "1"},
    {"dual_cross_attention", "false"},
    {"flip_sin_to_cos", "true"},
    {"freq_shift", "0"},
    {"mid_block_scale_factor", "1"},
    {"norm_eps", "1e-05"},
    {"only_cross_attention", "false"},
    {"resnet_out_scale_factor", "1"},
    {"resnet_skip_time_act", "false"},
    {"resnet_time_scale_shift", "\"default\""},
    {"time_embedding_type", "\"positional\""},
};

static void check_fixed(config_reader *r)
{
    for (size_t i = 0; i < LT_COUNT(fixed); i++) {
        const json_t *value = json_object_get(r->root, fixed[i].key);
        if (!value || json_is_null(value)) continue;
        json_t *wanted = json_loads(fixed[i].wanted, JSON_DECODE_ANY, NULL);
        bool same = json_is_number(wanted)
                        ? json_is_number(value) && json_number_value(value) == json_number_value(wanted)
                        : json_equal(value, wanted);
        json_decref(wanted);
        if (same) continue;
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        config_fail(r, LT_E_UNSUPPORTED, "\"%s\" is %.60s; the UNet of SDXL has %s", fixed[i].key,
                    text ? text : "something else", fixed[i].wanted);
        free(text);
    }
}

/* diffusers' "attention_head_dim" is the number of heads where "num_attention_heads" does not tell it; one for all levels or
 * a list. */
static void read_heads(config_reader *r, sdxl3d_arch *a)
{
    const char *key = "num_attention_heads";
    const json_t *value = json_object_get(r->root, key);
    if (!value || json_is_null(value)) value = json_object_get(r->root, key = "attention_head_dim");
    if (!value || json_is_null(value)) return;
    for (int i = 0; i < a->n_levels; i++) {
        const json_t *entry = json_is_array(value) ? json_array_get(value, (size_t)i) : value;
        json_int_t heads = json_integer_value(entry);
        if (heads < 1 || heads > 65536 ||
            (json_is_array(value) && json_array_size(value) != (size_t)a->n_levels))
            config_fail(r, LT_E_UNSUPPORTED, "\"%s\" must be a whole number from 1 on, or %d of them", key,
                        a->n_levels);
        a->heads[i] = (int)heads;
    }
}

static lt_status from_config(sdxl3d_arch *a, const char *text, const char *path, lt_err *err)
{
    config_reader r;
    if (config_open(&r, text, path, err) == LT_OK) {
        check_fixed(&r);
        a->groups = config_int(&r, "norm_num_groups", a->groups, 1, 65536);
        a->id_width = config_int(&r, "addition_time_embed_dim", a->id_width, 2, 65536);
        read_heads(&r, a);
    }
    config_close(&r);
    return r.status;
}

/* ---- both ---------------------------------------------------------------------------------------------------------- */

static lt_status check(const sdxl3d_arch *a, const char *path, lt_err *err)
{
    bool good = a->layers >= 1 && a->layers <= SDXL3D_MAX_LAYERS && a->in_channels >= 1 &&
                a->mid_depth >= 1 && a->context_width >= 1 && a->time_width >= 1;
    for (int i = 0; i < a->n_levels; i++) good = good && a->channels[i] >= 1;
    if (!good)
        return lt_fail(
            err, LT_E_UNSUPPORTED,
            "%s: names and shapes of a UNet, but not of SDXL's: levels of 1 to %d residual blocks, "
            "the middle with attention to a text",
            path, SDXL3D_MAX_LAYERS);
    for (int i = 0; i < a->n_levels; i++) {
        if (a->channels[i] % a->groups || a->channels[i] % 2)
            return lt_fail(err, LT_E_UNSUPPORTED, "%s: a width of %d channels does not divide into %d groups",
                           path, a->channels[i], a->groups);
        bool attends = a->depth[i] || i == a->n_levels - 1;
        if (attends && (a->heads[i] < 1 || a->channels[i] % a->heads[i]))
            return lt_fail(
                err, LT_E_UNSUPPORTED,
                "%s: a width of %d channels does not divide into %d heads (without a config.json a "
                "head is 64 wide)",
                path, a->channels[i], a->heads[i]);
    }
    if (a->pooled_width < 1)
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "%s: a UNet without SDXL's embedding of pooled text and sizes, such as Stable "
                       "Diffusion 1 and 2 have; only SDXL's is known",
                       path);
    return LT_OK;
}

lt_status sdxl3d_arch_read(sdxl3d_arch *arch, const lt_checkpoint *checkpoint, const sdxl3d_names *names,
                           lt_err *err)
{
    const prober p = {checkpoint, names, arch};
    const char *path = NULL, *text = lt_checkpoint_config(checkpoint, &path);
    *arch = (sdxl3d_arch){.groups = 32, .id_width = 256};
    infer(arch, &p);
    lt_status status = text ? from_config(arch, text, path, err) : LT_OK;
    if (status != LT_OK) return status;
    arch->pooled_width = probe(&p, SDXL3D_ADD_1, 0, 0, "", 1) - SDXL3D_IDS * arch->id_width;
    return check(arch, lt_checkpoint_path(checkpoint), err);
}
