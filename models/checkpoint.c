/* checkpoint.c - finding, mapping and checking the files of a checkpoint. */
#include "models/checkpoint_files.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What a folder may hold, in the order of preference. */
static const char *const candidates[] = {
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.fp16.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
    "model.fp16.safetensors.index.json",
};

enum { MAX_JSON_BYTES = 64 << 20 };

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The whole of a small text file in the arena, zero-terminated. */
static lt_status read_text(lt_checkpoint *c, const char *path, const char **text, size_t *n_bytes,
                           lt_err *err)
{
    FILE *file = fopen(path, "rb");
    if (!file) return lt_fail_errno(err, errno, "%s: cannot be opened", path);
    struct stat info;
    lt_status status = LT_OK;
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode))
        status = lt_fail(err, LT_E_FORMAT, "%s: not a regular file", path);
    else if (info.st_size > MAX_JSON_BYTES)
        status = lt_fail(err, LT_E_FORMAT, "%s: %lld bytes are too many for a JSON file", path,
                         (long long)info.st_size);
    char *bytes = status == LT_OK ? lt_arena_alloc(&c->arena, (size_t)info.st_size + 1) : NULL;
    if (status == LT_OK && !bytes) status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    if (status == LT_OK && fread(bytes, 1, (size_t)info.st_size, file) != (size_t)info.st_size)
        status = lt_fail(err, LT_E_IO, "%s: could not be read whole", path);
    fclose(file);
    if (status != LT_OK) return status;
    *text = bytes;
    if (n_bytes) *n_bytes = (size_t)info.st_size;
    return LT_OK;
}

static lt_status add_file(lt_checkpoint *c, const char *path, lt_err *err)
{
    if (c->n_files == MAX_FILES)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: more than %d shards", path, MAX_FILES);
    checkpoint_file *file = &c->files[c->n_files];
    file->path = lt_arena_strdup(&c->arena, path);
    if (!file->path) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    lt_status status = lt_safetensors_open(&file->tensors, path, err);
    if (status == LT_OK) c->n_files++;
    return status;
}

static char *join(lt_checkpoint *c, const char *folder, const char *name)
{
    return lt_arena_printf(&c->arena, "%s/%s", folder, name);
}

/* Open each file that an index names, once. */
static lt_status add_shards(lt_checkpoint *c, const json_t *map, const char *index_path, const char *folder,
                            lt_err *err)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value)
    {
        const char *shard = json_string_value(value);
        if (!shard || !*shard || strchr(shard, '/') || *shard == '.')
            return lt_fail(err, LT_E_FORMAT, "%s: tensor %.100s is not given the name of a file beside it",
                           index_path, name);
        char *path = join(c, folder, shard);
        if (!path) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", index_path);
        bool known = false;
        for (int i = 0; i < c->n_files && !known; i++) known = strcmp(c->files[i].path, path) == 0;
        lt_status status = known ? LT_OK : add_file(c, path, err);
        if (status != LT_OK) {
            lt_err_prefix(err, "shard named by %s", index_path);
            return status;
        }
    }
    return LT_OK;
}

static lt_status open_index(lt_checkpoint *c, const char *path, lt_err *err)
{
    const char *text;
    size_t n_bytes;
    lt_status status = read_text(c, path, &text, &n_bytes, err);
    if (status != LT_OK) return status;
    json_error_t where;
    json_t *root = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &where);
    if (!root) return lt_fail(err, LT_E_FORMAT, "%s:%d: %s", path, where.line, where.text);
    const json_t *map = json_object_get(root, "weight_map");
    const char *slash = strrchr(path, '/');
    char *folder = slash ? lt_arena_printf(&c->arena, "%.*s", (int)(slash - path), path)
                         : lt_arena_strdup(&c->arena, ".");
    if (!json_is_object(map) || json_object_size(map) == 0)
        status = lt_fail(err, LT_E_FORMAT, "%s: no \"weight_map\" of tensors to files", path);
    else if (!folder)
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    else
        status = add_shards(c, map, path, folder, err);
    json_decref(root);
    return status;
}

static lt_status open_weights(lt_checkpoint *c, const char *path, lt_err *err)
{
    return ends_with(path, ".json") ? open_index(c, path, err) : add_file(c, path, err);
}

/* Take folder/config.json, where there is one. */
static lt_status open_config(lt_checkpoint *c, const char *folder, lt_err *err)
{
    struct stat info;
    c->config_path = join(c, folder, "config.json");
    if (!c->config_path) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", folder);
    return stat(c->config_path, &info) == 0 ? read_text(c, c->config_path, &c->config, &c->config_bytes, err)
                                            : LT_OK;
}

static lt_status open_folder(lt_checkpoint *c, const char *folder, lt_err *err)
{
    struct stat info;
    lt_status status = open_config(c, folder, err);
    if (status != LT_OK) return status;
    for (size_t i = 0; i < LT_COUNT(candidates); i++) {
        char *path = join(c, folder, candidates[i]);
        if (!path) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", folder);
        if (stat(path, &info) == 0) return open_weights(c, path, err);
    }
    return lt_fail(
        err, LT_E_NOT_FOUND,
        "%s: no weights here; looked for %s, its .index.json, its .fp16 form and model.safetensors "
        "(of what PyTorch wrote, .bin, .pt or .ckpt, tools/to_safetensors makes a .safetensors file)",
        folder, candidates[0]);
}

/* A file by name. One that would have been found in its folder has the folder's configuration. */
static lt_status open_file(lt_checkpoint *c, const char *path, lt_err *err)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    for (size_t i = 0; i < LT_COUNT(candidates); i++) {
        if (strcmp(name, candidates[i]) != 0) continue;
        char *folder = slash ? lt_arena_printf(&c->arena, "%.*s", (int)(slash - path), path)
                             : lt_arena_strdup(&c->arena, ".");
        if (!folder) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
        lt_status status = open_config(c, folder, err);
        if (status != LT_OK) return status;
    }
    return open_weights(c, path, err);
}

/* What training leaves behind, of which a folder is one kind, and what was saved before safetensors, is read by torch alone. */
static bool is_pickle(const char *path, bool is_folder)
{
    static const char *const files[] = {".ckpt", ".pt", ".pth", ".bin"};
    if (is_folder) return ends_with(path, ".ckpt") || ends_with(path, ".ckpt/");
    for (size_t i = 0; i < LT_COUNT(files); i++)
        if (ends_with(path, files[i])) return true;
    return false;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const checkpoint_entry *)a)->name, ((const checkpoint_entry *)b)->name);
}

/* One sorted list of the tensors of all files. */
static lt_status list_tensors(lt_checkpoint *c, lt_err *err)
{
    int total = 0, n = 0;
    for (int f = 0; f < c->n_files; f++) total += lt_safetensors_count(c->files[f].tensors);
    c->entries = lt_arena_alloc(&c->arena, sizeof(*c->entries) * (size_t)LT_MAX(total, 1));
    if (!c->entries) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", c->path);
    for (int f = 0; f < c->n_files; f++) {
        for (int i = 0; i < lt_safetensors_count(c->files[f].tensors); i++, n++) {
            c->entries[n].tensor = lt_safetensors_at(c->files[f].tensors, i, &c->entries[n].name);
            c->entries[n].file = f;
        }
    }
    c->n_entries = n;
    qsort(c->entries, (size_t)n, sizeof(*c->entries), by_name);
    for (int i = 1; i < n; i++) {
        if (strcmp(c->entries[i - 1].name, c->entries[i].name) == 0)
            return lt_fail(err, LT_E_FORMAT, "tensor %s is in %s and in %s", c->entries[i].name,
                           c->files[c->entries[i - 1].file].path, c->files[c->entries[i].file].path);
    }
    return LT_OK;
}

lt_status lt_checkpoint_open(lt_checkpoint **checkpoint, const char *path, lt_err *err)
{
    *checkpoint = NULL;
    lt_checkpoint *c = calloc(1, sizeof(*c));
    if (!c) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    struct stat info;
    lt_status status = LT_OK;
    if (stat(path, &info) != 0)
        status = lt_fail_errno(err, errno, "%s: no model", path);
    else if (is_pickle(path, S_ISDIR(info.st_mode)))
        status = lt_fail(
            err, LT_E_UNSUPPORTED,
            "%s: a checkpoint that PyTorch wrote; tools/to_safetensors makes a .safetensors file of it",
            path);
    else if (!(c->path = lt_arena_strdup(&c->arena, path)))
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    else
        status = S_ISDIR(info.st_mode) ? open_folder(c, path, err) : open_file(c, path, err);
    if (status == LT_OK) status = list_tensors(c, err);
    if (status == LT_OK) status = lt_checkpoint_scan(c, err);
    if (status != LT_OK) {
        lt_checkpoint_close(c);
        return status;
    }
    *checkpoint = c;
    return LT_OK;
}

void lt_checkpoint_close(lt_checkpoint *c)
{
    if (!c) return;
    for (int i = 0; i < c->n_files; i++) lt_safetensors_close(c->files[i].tensors);
    lt_arena_finish(&c->arena);
    free(c);
}

const char *lt_checkpoint_config(const lt_checkpoint *c, const char **path)
{
    if (path) *path = c->config_path;
    return c->config;
}

const char *lt_checkpoint_path(const lt_checkpoint *c)
{
    return c->path;
}

lt_status lt_checkpoint_read_beside(lt_checkpoint *c, const char *name, const char **path, const char **text,
                                    lt_err *err)
{
    if (!c->config) return lt_fail(err, LT_E_NOT_FOUND, "%s: no config.json", c->path);
    int folder = (int)(strrchr(c->config_path, '/') - c->config_path);
    char *file = lt_arena_printf(&c->arena, "%.*s/%s", folder, c->config_path, name);
    *path = file;
    return file ? read_text(c, file, text, NULL, err)
                : lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", c->path);
}

int lt_checkpoint_count(const lt_checkpoint *c)
{
    return c->n_entries;
}

lt_tensor lt_checkpoint_at(const lt_checkpoint *c, int index, const char **name)
{
    if (name) *name = c->entries[index].name;
    return c->entries[index].tensor;
}

lt_tensor lt_checkpoint_find(const lt_checkpoint *c, const char *name)
{
    const checkpoint_entry key = {.name = name};
    const checkpoint_entry *found = bsearch(&key, c->entries, (size_t)c->n_entries, sizeof(key), by_name);
    return found ? found->tensor : LT_NONE;
}

size_t lt_checkpoint_bytes(const lt_checkpoint *c)
{
    size_t bytes = 0;
    for (int i = 0; i < c->n_files; i++) bytes += c->files[i].bytes;
    return bytes;
}

const char *lt_checkpoint_digest(const lt_checkpoint *c)
{
    return c->digest;
}
