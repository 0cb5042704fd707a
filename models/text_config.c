/* text_config.c - the architecture of a text encoder, from its config.json or from the names and shapes of its tensors. */
#include "models/config.h"
#include "models/text_parts.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { MAX_LAYERS = 512, MAX_WIDTH = 1 << 16 };

/* A projection that should be there. Of one that is, the tensor tells its width: a whole CLIP's configuration has it outside the
 * text's part. */
enum { NO_TENSOR = -1 };

#define CLIP_HEAD     64  /* width of a head in every published CLIP */
#define OPENAI_WIDTH  768 /* of CLIP-L, OpenAI's, which has the quick gelu */
#define T5_BUCKETS    32
#define T5_DISTANCE   128
#define T5_EPS        1e-6
#define CLIP_EPS      1e-5
#define CLIP_END      49407
#define LEGACY_EOS_ID 2 /* what configurations said before transformers 4.31: the largest id is meant */

/* ---- names and shapes ------------------------------------------------------------------------------------------------ */

typedef struct prober {
    const lt_checkpoint *checkpoint;
    const text_names *names;
    const char *scope;
} prober;

/* Dimension `axis` of a tensor, counted from the last where it is negative; 0 where there is none. */
static int shape_of(const prober *p, const char *full_name, int axis)
{
    lt_tensor t = lt_checkpoint_find(p->checkpoint, full_name);
    if (axis < 0) axis += t.rank;
    bool there = t.data && axis >= 0 && axis < t.rank && t.shape[axis] <= INT32_MAX;
    return there ? (int)t.shape[axis] : 0;
}

static int probe(const prober *p, const char *name, const char *leaf, int axis)
{
    char text[160];
    if (!name) return 0;
    snprintf(text, sizeof(text), "%s%s%s", p->scope, name, leaf);
    return shape_of(p, text, axis);
}

static int probe_part(const prober *p, int layer, text_part part, int axis)
{
    char text[120];
    if (!p->names->part[part]) return 0;
    text_part_name(p->names, p->scope, layer, part, "weight", text);
    return shape_of(p, text, axis);
}

static int count_layers(const prober *p)
{
    int n = 0;
    while (n <= MAX_LAYERS && probe_part(p, n, TEXT_DOWN, 0)) n++;
    return n;
}

static void infer(text_arch *arch, const prober *p)
{
    bool clip = arch->family == LT_TEXT_CLIP;
    int tokens = probe(p, p->names->tokens, "", 0);
    arch->width = probe_part(p, 0, TEXT_DOWN, 0);
    arch->ffn = probe_part(p, 0, TEXT_DOWN, 1);
    arch->layers = count_layers(p);
    arch->n_tokens = tokens ? tokens : probe(p, p->names->tied, "", 0);
    if (clip) {
        arch->length = probe(p, p->names->positions, "", -2);
        arch->head_dim = CLIP_HEAD;
        arch->heads = arch->width / CLIP_HEAD;
        bool quick = !p->names->open_clip && (!arch->projection || arch->width == OPENAI_WIDTH);
        arch->activation = quick ? LT_ACT_QUICK_GELU : LT_ACT_GELU_ERF;
        return;
    }
    arch->heads = probe(p, p->names->relative, "", 1);
    arch->head_dim = arch->heads ? probe_part(p, 0, TEXT_Q, 0) / arch->heads : 0;
    arch->buckets = probe(p, p->names->relative, "", 0);
}

/* ---- config.json --------------------------------------------------------------------------------------------------- */

static void read_clip_activation(config_reader *r, text_arch *arch)
{
    const char *name = config_text(r, "hidden_act", "quick_gelu");
    if (strcmp(name, "quick_gelu") == 0)
        arch->activation = LT_ACT_QUICK_GELU;
    else if (strcmp(name, "gelu") == 0)
        arch->activation = LT_ACT_GELU_ERF;
    else if (strcmp(name, "gelu_new") == 0 || strcmp(name, "gelu_pytorch_tanh") == 0)
        arch->activation = LT_ACT_GELU_TANH;
    else
        config_fail(r, LT_E_UNSUPPORTED, "\"hidden_act\" is %.60s; known are quick_gelu, gelu, gelu_new",
                    name);
}

static void read_clip(config_reader *r, text_arch *arch)
{
    arch->width = config_int(r, "hidden_size", 512, 1, MAX_WIDTH);
    arch->ffn = config_int(r, "intermediate_size", 2048, 1, MAX_WIDTH);
    arch->layers = config_int(r, "num_hidden_layers", 12, 1, MAX_LAYERS);
    arch->heads = config_int(r, "num_attention_heads", 8, 1, 1024);
    arch->head_dim = arch->width / arch->heads;
    arch->length = config_int(r, "max_position_embeddings", 77, 1, 1 << 20);
    arch->n_tokens = config_int(r, "vocab_size", CLIP_END + 1, 1, INT32_MAX);
    arch->eps = config_double(r, "layer_norm_eps", CLIP_EPS);
    int eos = config_int(r, "eos_token_id", CLIP_END, 0, INT32_MAX);
    arch->eos_id = eos == LEGACY_EOS_ID ? -1 : eos;
    if (arch->projection == NO_TENSOR) arch->projection = config_int(r, "projection_dim", 512, 1, MAX_WIDTH);
    read_clip_activation(r, arch);
    if (arch->width % arch->heads)
        config_fail(r, LT_E_UNSUPPORTED, "%d channels cannot be split among %d heads", arch->width,
                    arch->heads);
}

static void read_t5(config_reader *r, text_arch *arch)
{
    arch->width = config_int(r, "d_model", 512, 1, MAX_WIDTH);
    arch->ffn = config_int(r, "d_ff", 2048, 1, MAX_WIDTH);
    arch->layers = config_int(r, "num_layers", 6, 1, MAX_LAYERS);
    arch->heads = config_int(r, "num_heads", 8, 1, 1024);
    arch->head_dim = config_int(r, "d_kv", 64, 1, MAX_WIDTH);
    arch->n_tokens = config_int(r, "vocab_size", 32128, 1, INT32_MAX);
    arch->eps = config_double(r, "layer_norm_epsilon", T5_EPS);
    arch->buckets = config_int(r, "relative_attention_num_buckets", T5_BUCKETS, 4, 1 << 16);
    arch->max_distance = config_int(r, "relative_attention_max_distance", T5_DISTANCE, 2, 1 << 24);
    const char *ffn = config_text(r, "feed_forward_proj", "relu");
    if (strcmp(ffn, "gated-gelu") != 0)
        config_fail(r, LT_E_UNSUPPORTED,
                    "\"feed_forward_proj\" is %.60s; only gated-gelu is known (T5 v1.1 and flan-T5)", ffn);
}

/* Which of the two the configuration is of; a whole CLIP keeps its text part in an object of its own. */
static void check_type(config_reader *r, lt_text_family family)
{
    const char *type = config_text(r, "model_type", "");
    bool clip = strncmp(type, "clip", 4) == 0, t5 = strcmp(type, "t5") == 0;
    if (*type && !(family == LT_TEXT_CLIP ? clip : t5))
        config_fail(r, LT_E_UNSUPPORTED, "\"model_type\" is %.60s, but the tensors are named as those of %s",
                    type, family == LT_TEXT_CLIP ? "CLIP" : "T5");
    json_t *text = json_object_get(r->root, "text_config");
    if (!json_is_object(text)) return;
    json_incref(text);
    json_decref(r->root);
    r->root = text;
}

static lt_status from_config(text_arch *arch, const char *text, const char *path, lt_err *err)
{
    config_reader r;
    config_open(&r, text, path, err);
    if (r.status == LT_OK) check_type(&r, arch->family);
    if (arch->family == LT_TEXT_CLIP)
        read_clip(&r, arch);
    else
        read_t5(&r, arch);
    if (!(arch->eps >= 0)) config_fail(&r, LT_E_FORMAT, "the eps of its norms is below 0");
    config_close(&r);
    return r.status;
}

/* ---- both ------------------------------------------------------------------------------------------------------------ */

static lt_status check(const text_arch *arch, const char *path, lt_err *err)
{
    bool good = arch->width >= 1 && arch->heads >= 1 && arch->head_dim >= 1 && arch->ffn >= 1 &&
                arch->layers >= 1 && arch->layers <= MAX_LAYERS && arch->n_tokens >= 1;
    if (arch->family == LT_TEXT_CLIP)
        good = good && arch->length >= 1 && arch->heads * arch->head_dim == arch->width;
    else
        good = good && arch->buckets >= 4 && arch->max_distance > arch->buckets / 4;
    return good ? LT_OK
                : lt_fail(
                      err, LT_E_UNSUPPORTED,
                      "%s: its tensors' shapes (width %d, %d heads of %d, %d layers, %d tokens) are those of "
                      "no text encoder known",
                      path, arch->width, arch->heads, arch->head_dim, arch->layers, arch->n_tokens);
}

lt_status text_arch_read(text_arch *arch, const lt_checkpoint *checkpoint, const text_names *names,
                         const char *scope, lt_err *err)
{
    bool clip = names->family == LT_TEXT_CLIP;
    const prober p = {checkpoint, names, scope};
    *arch = (text_arch){.family = names->family,
                        .activation = LT_ACT_GELU_TANH,
                        .eps = clip ? CLIP_EPS : T5_EPS,
                        .eos_id = -1,
                        .max_distance = T5_DISTANCE};
    arch->projection = probe(&p, names->projection, "", names->projection_transposed ? 1 : 0);
    const char *path = NULL, *text = *scope ? NULL : lt_checkpoint_config(checkpoint, &path);
    if (text) {
        /* A class with a projection must have one. */
        if (clip && !arch->projection && strstr(text, "\"CLIPTextModelWithProjection\""))
            arch->projection = NO_TENSOR;
        lt_status status = from_config(arch, text, path, err);
        if (status != LT_OK) return status;
    } else {
        path = lt_checkpoint_path(checkpoint);
        infer(arch, &p);
    }
    /* lite-sora's first encoder of SDXL is cut off before its last layer and its norm. */
    arch->final_norm = text || !clip || probe(&p, names->final_norm, ".weight", 0);
    return check(arch, path, err);
}
