/* tokenizer_config.c - which tokens a tokenizer's folder names, and which of them are found in text itself: from
 * tokenizer_config.json, or where it does not list them, special_tokens_map.json. What transformers makes of them when it opens the
 * folder, the order included: of two ways for one token the later counts. */
#include "models/tokenizer_parts.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { MAX_CONFIG = 8 << 20 };

lt_status tokenizer_read(lt_tokenizer *tokenizer, const char *path, size_t limit, char **text, size_t *n,
                         lt_err *err)
{
    FILE *file = fopen(path, "rb");
    if (!file) return lt_fail_errno(err, errno, "cannot open %s", path);
    lt_status status = LT_OK;
    long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (size < 0 || fseek(file, 0, SEEK_SET) != 0)
        status = lt_fail_errno(err, errno, "cannot read %s", path);
    else if ((size_t)size > limit)
        status = lt_fail(err, LT_E_FORMAT, "%s has %ld bytes; a file of this kind has at most %zu", path,
                         size, limit);
    else if (!(*text = lt_arena_alloc(&tokenizer->arena, (size_t)size + 1)))
        status = lt_fail(err, LT_E_NO_MEMORY, "no memory for the %ld bytes of %s", size, path);
    else if (fread(*text, 1, (size_t)size, file) != (size_t)size)
        status = lt_fail(err, LT_E_IO, "cannot read %s to its end", path);
    fclose(file);
    if (status != LT_OK) return status;
    *n = (size_t)size;
    uint64_t length = *n;
    XXH3_128bits_update(tokenizer->digest, &length, sizeof length);
    XXH3_128bits_update(tokenizer->digest, *text, *n);
    return LT_OK;
}

/* *root NULL when path is. Whole numbers become doubles: model_max_length may be 1e30. */
static lt_status read_json(lt_tokenizer *t, const char *path, json_t **root, lt_err *err)
{
    char *text;
    size_t n;
    json_error_t where;
    *root = NULL;
    if (!path) return LT_OK;
    lt_status status = tokenizer_read(t, path, MAX_CONFIG, &text, &n, err);
    if (status != LT_OK) return status;
    *root = json_loadb(text, n, JSON_DECODE_INT_AS_REAL, &where);
    if (!*root) return lt_fail(err, LT_E_FORMAT, "%s:%d:%d: %s", path, where.line, where.column, where.text);
    if (json_is_object(*root)) return LT_OK;
    json_decref(*root);
    *root = NULL;
    return lt_fail(err, LT_E_FORMAT, "%s is not a JSON object", path);
}

/* ---- added tokens ----------------------------------------------------------------------------------------------------- */

static added_token *find_added(lt_tokenizer *t, const char *text)
{
    for (int i = 0; i < t->n_added; i++)
        if (t->added[i].n == strlen(text) && memcmp(t->added[i].text, text, t->added[i].n) == 0)
            return &t->added[i];
    return NULL;
}

/* The token as `way` has it, in place of an earlier one of the same text. */
static lt_status add(lt_tokenizer *t, const char *text, added_token way, lt_err *err)
{
    if (!*text) return LT_OK;
    added_token *place = find_added(t, text);
    if (!place) {
        if (t->n_added == MAX_ADDED)
            return lt_fail(err, LT_E_UNSUPPORTED, "%s adds more than %d tokens", t->path, MAX_ADDED);
        place = &t->added[t->n_added++];
    }
    way.text = lt_arena_strdup(&t->arena, text);
    if (!way.text) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the tokens of %s", t->path);
    way.n = strlen(text);
    way.id = vocab_get(&t->vocab, way.text, way.n);
    if (way.id < 0)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s adds token \"%.64s\", which its vocabulary does not have",
                       t->path, text);
    *place = way;
    return LT_OK;
}

lt_status tokenizer_add_plain(lt_tokenizer *tokenizer, const char *text, lt_err *err)
{
    return find_added(tokenizer, text) ? LT_OK : add(tokenizer, text, (added_token){0}, err);
}

static bool flag(const json_t *object, const char *key, bool fallback)
{
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : fallback;
}

/* A token's description: its text, or an object with "content". NULL: neither. */
static const char *content(const json_t *value)
{
    return json_is_object(value) ? json_string_value(json_object_get(value, "content"))
                                 : json_string_value(value);
}

static added_token way_of(const json_t *value, bool normalized)
{
    return (added_token){.normalized = json_is_object(value) && flag(value, "normalized", normalized),
                         .lstrip = flag(value, "lstrip", false),
                         .rstrip = flag(value, "rstrip", false),
                         .single_word = flag(value, "single_word", false)};
}

/* ---- the named tokens ---------------------------------------------------------------------------------------------------- */

enum { START, END, UNKNOWN, PADDING, N_NAMED };

static const char *const named_keys[N_NAMED] = {"bos_token", "eos_token", "unk_token", "pad_token"};

typedef struct named_token {
    const char *text; /* borrowed from the JSON; NULL: there is none */
    added_token way;
} named_token;

static void take_named(named_token named[N_NAMED], const json_t *root, bool special)
{
    for (int i = 0; i < N_NAMED; i++) {
        const json_t *value = json_object_get(root, named_keys[i]);
        const char *text = content(value);
        if (text) named[i] = (named_token){text, way_of(value, !special && !flag(value, "special", false))};
    }
}

static lt_status name_id(const lt_tokenizer *t, const char *text, const char *key, int32_t *id, lt_err *err)
{
    *id = text ? vocab_get(&t->vocab, text, strlen(text)) : -1;
    if (text && *id < 0)
        return lt_fail(err, LT_E_FORMAT, "%s: the vocabulary does not have the %s \"%.64s\"", t->path, key,
                       text);
    return LT_OK;
}

/* added_tokens_decoder, by rising id: {"0": {"content": ...}, ...}. */
static lt_status add_decoder(lt_tokenizer *t, const json_t *decoder, const char *path, lt_err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)decoder, key, value)
    {
        char *end;
        long id = strtol(key, &end, 10);
        const char *text = json_is_object(value) ? content(value) : NULL;
        if (!text || *end || end == key || id < 0)
            return lt_fail(err, LT_E_FORMAT,
                           "%s: added_tokens_decoder has no token's description at \"%.32s\"", path, key);
        lt_status status = add(t, text, way_of(value, !flag(value, "special", false)), err);
        if (status != LT_OK) return status;
        int32_t ours = vocab_get(&t->vocab, text, strlen(text));
        if (*text && ours != id)
            return lt_fail(err, LT_E_UNSUPPORTED,
                           "%s: token \"%.64s\" is number %ld there and %d in the vocabulary", path, text, id,
                           ours);
    }
    return LT_OK;
}

/* Texts of a list that are not there yet, as they stand. */
static lt_status add_list(lt_tokenizer *t, const json_t *root, const char *key, lt_err *err)
{
    const json_t *list = json_object_get(root, key), *value;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = content(value = json_array_get(list, i));
        if (!text || find_added(t, text)) continue;
        lt_status status = add(t, text, way_of(value, false), err);
        if (status != LT_OK) return status;
    }
    return LT_OK;
}

static lt_status add_named(lt_tokenizer *t, const named_token named[N_NAMED], bool listed, lt_err *err)
{
    for (int i = 0; i < N_NAMED; i++) {
        if (!named[i].text || (listed && find_added(t, named[i].text))) continue;
        lt_status status = add(t, named[i].text, named[i].way, err);
        if (status != LT_OK) return status;
    }
    return LT_OK;
}

static lt_status read_length(lt_tokenizer *t, const json_t *config)
{
    double length = json_number_value(json_object_get(config, "model_max_length"));
    bool clip = t->info.kind == LT_TOKENIZER_CLIP;
    t->info.length = !clip ? 120 : length >= 2 && length <= 65536 ? (int)length : 77;
    return LT_OK;
}

lt_status tokenizer_read_config(lt_tokenizer *tokenizer, const token_files *files, lt_err *err)
{
    lt_tokenizer *t = tokenizer;
    json_t *config = NULL, *map = NULL, *added = NULL, *value;
    bool clip = t->info.kind == LT_TOKENIZER_CLIP;
    named_token named[N_NAMED] = {{clip ? "<|startoftext|>" : NULL, {0}},
                                  {clip ? "<|endoftext|>" : "</s>", {0}},
                                  {clip ? "<|endoftext|>" : "<unk>", {0}},
                                  {clip ? "<|endoftext|>" : "<pad>", {0}}};
    lt_status status;
    LT_TRY(read_json(t, files->config, &config, err));
    take_named(named, config, false);
    const json_t *decoder = json_object_get(config, "added_tokens_decoder");
    bool listed = json_is_object(decoder);
    if (listed) {
        LT_TRY(add_decoder(t, decoder, files->config, err));
    } else {
        LT_TRY(read_json(t, files->special_map, &map, err));
        take_named(named, map, true);
        LT_TRY(read_json(t, files->added, &added, err));
        const char *key;
        json_object_foreach(added, key, value) LT_TRY(add(t, key, (added_token){0}, err));
    }
    LT_TRY(add_named(t, named, listed, err));
    LT_TRY(add_list(t, map, "additional_special_tokens", err));
    LT_TRY(add_list(t, config, "additional_special_tokens", err));
    LT_TRY(add_list(t, config, "extra_special_tokens", err));
    int32_t start, end, padding;
    LT_TRY(name_id(t, clip ? named[START].text : NULL, named_keys[START], &start, err));
    LT_TRY(name_id(t, named[END].text, named_keys[END], &end, err));
    LT_TRY(name_id(t, named[UNKNOWN].text, named_keys[UNKNOWN], &t->unknown_id, err));
    LT_TRY(name_id(t, named[PADDING].text, named_keys[PADDING], &padding, err));
    t->info.start_id = start;
    t->info.end_id = end;
    t->info.pad_id = padding;
    status = read_length(t, config);
fail:
    json_decref(config);
    json_decref(map);
    json_decref(added);
    return status;
}

lt_status tokenizer_extra_ids(lt_tokenizer *tokenizer, const token_files *files, int *n, lt_err *err)
{
    json_t *config;
    *n = 100;
    lt_status status = read_json(tokenizer, files->config, &config, err);
    if (status != LT_OK) return status;
    const json_t *value = json_object_get(config, "extra_ids");
    double number = json_number_value(value);
    if (value && !(json_is_number(value) && number >= 0 && number <= 1000))
        status = lt_fail(err, LT_E_UNSUPPORTED, "%s: \"extra_ids\" must be a number from 0 to 1000",
                         files->config);
    else if (value)
        *n = (int)number;
    json_decref(config);
    return status;
}
