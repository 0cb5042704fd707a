/* synthetic.c - checkpoints made of a list of names and shapes and a seed; the same values as make_vae_fixtures.py. */
#include "tests/models/support.h"

#include "kernels/convert.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static uint64_t mix64(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t name_hash(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001B3u;
    return h;
}

static bool part_is(const char *name, int from_end, const char *wanted)
{
    const char *end = name + strlen(name);
    for (;;) {
        const char *start = end;
        while (start > name && start[-1] != '.') start--;
        if (from_end-- == 0)
            return (size_t)(end - start) == strlen(wanted) && strncmp(start, wanted, strlen(wanted)) == 0;
        if (start == name) return false;
        end = start - 1;
    }
}

/* Modules whose matrices are larger than the rest: queries and keys, so that attention is not a mean; and what goes into an
 * activation. */
static double gain_of(const char *name, double otherwise)
{
    static const char *const sharp[] = {"to_q", "to_k", "query", "key", "q_proj", "k_proj", "q", "k"};
    static const char *const wide[] = {"fc1", "wi_0", "wi_1", "relative_attention_bias"};
    for (size_t i = 0; i < LT_COUNT(sharp); i++)
        if (part_is(name, 1, sharp[i])) return 3.0;
    for (size_t i = 0; i < LT_COUNT(wide); i++)
        if (part_is(name, 1, wide[i])) return 1.5;
    return otherwise;
}

/* Value = offset + scale * u of a parameter. */
static void amplitude(const char *name, int rank, const int64_t *shape, int64_t n, double gain,
                      double *offset, double *scale)
{
    *offset = 0;
    if (part_is(name, 0, "mix_factor")) {
        *scale = 2.0;
    } else if (part_is(name, 0, "scale_shift_table")) {
        *scale = 0.5;
    } else if (part_is(name, 0, "bias")) {
        *scale = 0.02;
    } else if (rank == 1) {
        *offset = 1.0;
        *scale = 0.5;
    } else {
        *scale = gain_of(name, gain) / sqrt((double)(n / shape[0]));
    }
}

static void store(void *data, lt_dtype dtype, int64_t i, float value)
{
    if (dtype == LT_F32)
        ((float *)data)[i] = value;
    else
        ((uint16_t *)data)[i] = dtype == LT_F16 ? lt_f32_to_f16(value) : lt_f32_to_bf16(value);
}

static void fill(const char *name, uint64_t seed, double gain, lt_tensor *t)
{
    uint64_t key = mix64(name_hash(name) ^ seed);
    int64_t n = lt_n_elements(t);
    double offset, scale;
    amplitude(name, t->rank, t->shape, n, gain, &offset, &scale);
    for (int64_t i = 0; i < n; i++) {
        uint64_t z = mix64(key + 0x9E3779B97F4A7C15u * (uint64_t)(i + 1));
        double u = (double)(z >> 40) * 0x1p-23 - 1.0;
        store(t->data, t->dtype, i, (float)(offset + scale * u));
    }
}

static bool listed(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] && strcmp(list[i], name) == 0) return true;
    return false;
}

static lt_tensor make(const char *name, const json_t *shape, uint64_t seed, double gain, const synthetic *o)
{
    lt_tensor t = {.dtype = o->dtype, .rank = (int)json_array_size(shape)};
    for (int i = 0; i < t.rank; i++) t.shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
    if (listed(name, o->reshape, LT_COUNT(o->reshape))) t.shape[0]++;
    assert_non_null(t.data = malloc(lt_tensor_bytes(&t)));
    fill(name, seed, gain, &t);
    int64_t last = lt_n_elements(&t) - 1;
    if (o->poison[0] && strcmp(name, o->poison[0]) == 0) store(t.data, t.dtype, last, NAN);
    if (o->poison[1] && strcmp(name, o->poison[1]) == 0) store(t.data, t.dtype, last, INFINITY);
    return t;
}

static void write_text(const char *path, const json_t *json)
{
    assert_int_equal(json_dump_file(json, path, JSON_INDENT(1) | JSON_PRESERVE_ORDER), 0);
}

/* Tensors round robin over shards, with an index beside them. */
static void write_shards(const char *folder, const char *stem, const lt_named_tensor *list, int n,
                         int n_shards)
{
    json_t *index = json_object(), *map = json_object();
    lt_named_tensor *part = calloc((size_t)n + 1, sizeof(*part));
    lt_err err = {0};
    assert_non_null(part);
    json_object_set_new(index, "metadata", json_pack("{s:i}", "total_size", 0));
    for (int s = 0; s < n_shards; s++) {
        char file[64], path[4096];
        int n_part = 0;
        snprintf(file, sizeof(file), "%s-%05d-of-%05d.safetensors", stem, s + 1, n_shards);
        snprintf(path, sizeof(path), "%s/%s", folder, file);
        for (int i = s; i < n; i += n_shards) {
            part[n_part++] = list[i];
            json_object_set_new(map, list[i].name, json_string(file));
        }
        must(lt_safetensors_write(path, part, n_part, NULL, 0, &err), &err);
    }
    json_object_set_new(index, "weight_map", map);
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s.safetensors.index.json", folder, stem);
    write_text(path, index);
    json_decref(index);
    free(part);
}

static void write_weights(const char *folder, const lt_named_tensor *list, int n, const synthetic *o)
{
    lt_err err = {0};
    const char *stem = o->stem ? o->stem : "diffusion_pytorch_model";
    if (o->n_shards) {
        write_shards(folder, stem, list, n, o->n_shards);
        return;
    }
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s%s.safetensors", folder, stem, o->dtype == LT_F16 ? ".fp16" : "");
    must(lt_safetensors_write(path, list, n, NULL, 0, &err), &err);
}

void synthetic_write(const char *name, const char *folder, const synthetic *o)
{
    char path[4096];
    json_error_t where;
    snprintf(path, sizeof(path), "%s/%s%s.json", fixtures_folder(), strchr(name, '/') ? "" : "vae/", name);
    json_t *root = json_load_file(path, 0, &where);
    if (!root) fail_msg("%s:%d: %s", path, where.line, where.text);
    const json_t *config = json_object_get(root, "config");
    json_t *tensors = json_object_get(root, "tensors");
    uint64_t seed = (uint64_t)json_integer_value(json_object_get(root, "seed"));
    const json_t *own_gain = json_object_get(root, "gain");
    double gain = own_gain ? json_number_value(own_gain) : 0.15;
    mkdir(folder, 0700);
    snprintf(path, sizeof(path), "%s/config.json", folder);
    if (json_object_size(config) && !o->no_config) write_text(path, config);
    lt_named_tensor *list = calloc(json_object_size(tensors) + LT_COUNT(o->add), sizeof(*list));
    assert_non_null(list);
    int n = 0;
    const char *key;
    json_t *shape;
    json_object_foreach(tensors, key, shape)
    {
        if (listed(key, o->omit, LT_COUNT(o->omit))) continue;
        char name[200];
        snprintf(name, sizeof(name), "%s", key);
        if (o->rename) o->rename(key, name, sizeof(name));
        list[n++] = (lt_named_tensor){strdup(name), make(key, shape, seed, gain, o)};
    }
    for (size_t i = 0; i < LT_COUNT(o->add); i++) {
        if (!o->add[i]) continue;
        lt_tensor t = {.data = calloc(3, 4), .dtype = LT_F32, .rank = 1, .shape = {3}};
        list[n++] = (lt_named_tensor){strdup(o->add[i]), t};
    }
    write_weights(folder, list, n, o);
    for (int i = 0; i < n; i++) {
        free((char *)list[i].name);
        free(list[i].tensor.data);
    }
    free(list);
    json_decref(root);
}

void rename_ldm_vae(const char *name, char *to, size_t bytes)
{
    char rest[120], half[16];
    int level, block;
    if (sscanf(name, "%15[a-z].down_blocks.%d.resnets.%d.%119s", half, &level, &block, rest) == 4)
        snprintf(to, bytes, "%s.down.%d.block.%d.%s", half, level, block, rest);
    else if (sscanf(name, "%15[a-z].up_blocks.%d.resnets.%d.%119s", half, &level, &block, rest) == 4)
        snprintf(to, bytes, "%s.up.%d.block.%d.%s", half, 2 - level, block, rest);
    else if (sscanf(name, "%15[a-z].down_blocks.%d.downsamplers.0.%119s", half, &level, rest) == 3)
        snprintf(to, bytes, "%s.down.%d.downsample.%s", half, level, rest);
    else if (sscanf(name, "%15[a-z].up_blocks.%d.upsamplers.0.%119s", half, &level, rest) == 3)
        snprintf(to, bytes, "%s.up.%d.upsample.%s", half, 2 - level, rest);
    else if (sscanf(name, "%15[a-z].mid_block.resnets.%d.%119s", half, &block, rest) == 3)
        snprintf(to, bytes, "%s.mid.block_%d.%s", half, block + 1, rest);
    else if (sscanf(name, "%15[a-z].mid_block.attentions.0.%119s", half, rest) == 2)
        snprintf(to, bytes, "%s.mid.attn_1.%s", half, rest);
    else
        snprintf(to, bytes, "%s", name);
    static const char *const pairs[][2] = {{"conv_shortcut", "nin_shortcut"},
                                           {"conv_norm_out", "norm_out"},
                                           {"group_norm", "norm"},
                                           {"to_out.0", "proj_out"},
                                           {"to_q", "q"},
                                           {"to_k", "k"},
                                           {"to_v", "v"}};
    for (size_t i = 0; i < LT_COUNT(pairs); i++) {
        char *at = strstr(to, pairs[i][0]);
        if (!at) continue;
        snprintf(rest, sizeof(rest), "%s%s", pairs[i][1], at + strlen(pairs[i][0]));
        snprintf(at, bytes - (size_t)(at - to), "%s", rest);
    }
}
