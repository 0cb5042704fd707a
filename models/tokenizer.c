/* tokenizer.c - tokenizer.h: opens a folder, and takes a text through added tokens, normal form and model. */
#include "models/tokenizer_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

/* ---- opening ------------------------------------------------------------------------------------------------------------- */

/* folder/name, or NULL where there is no such file. */
static char *file_in(lt_tokenizer *t, const char *folder, const char *name)
{
    struct stat info;
    char *path = lt_arena_printf(&t->arena, "%s/%s", folder, name);
    return path && stat(path, &info) == 0 && S_ISREG(info.st_mode) ? path : NULL;
}

static lt_status find_files(lt_tokenizer *t, const char *path, token_files *files, lt_err *err)
{
    struct stat info;
    if (stat(path, &info) != 0) return lt_fail_errno(err, errno, "no tokenizer at %s", path);
    if (S_ISREG(info.st_mode)) {
        files->spiece = lt_arena_strdup(&t->arena, path);
        return files->spiece ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "no memory for a tokenizer");
    }
    files->vocab = file_in(t, path, "vocab.json");
    files->merges = file_in(t, path, "merges.txt");
    files->spiece = file_in(t, path, "spiece.model");
    files->config = file_in(t, path, "tokenizer_config.json");
    files->special_map = file_in(t, path, "special_tokens_map.json");
    files->added = file_in(t, path, "added_tokens.json");
    if (files->spiece || (files->vocab && files->merges)) return LT_OK;
    const char *what = files->vocab                         ? "merges.txt is missing"
                       : files->merges                      ? "vocab.json is missing"
                       : file_in(t, path, "tokenizer.json") ? "tokenizer.json alone is not enough"
                                                            : "none of the three";
    return lt_fail(err, LT_E_NOT_FOUND,
                   "%s holds no tokenizer: neither spiece.model, nor vocab.json and merges.txt (%s)", path,
                   what);
}

/* What each added token looks like in the text it is looked for in. */
static lt_status set_normal_texts(lt_tokenizer *t, lt_err *err)
{
    for (int i = 0; i < t->n_added; i++) {
        added_token *a = &t->added[i];
        a->normal_text = a->text;
        a->normal_n = a->n;
        if (!a->normalized) continue;
        lt_buffer normal = {0};
        lt_status status = t->bpe ? bpe_normalise(a->text, a->n, &normal, err)
                                  : unigram_normalise(t->unigram, a->text, a->n, &normal, err);
        char *copy = status == LT_OK ? lt_arena_alloc(&t->arena, normal.n + 1) : NULL;
        if (copy && normal.n) memcpy(copy, normal.at, normal.n);
        a->normal_text = copy;
        a->normal_n = normal.n;
        free(normal.at);
        if (status != LT_OK) return status;
        if (!copy) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the tokens of %s", t->path);
    }
    return LT_OK;
}

static lt_status open_files(lt_tokenizer *t, const char *path, lt_err *err)
{
    token_files files = {0};
    lt_status status;
    int extra_ids;
    t->path = lt_arena_strdup(&t->arena, path);
    t->added = lt_arena_alloc(&t->arena, MAX_ADDED * sizeof *t->added);
    t->digest = XXH3_createState();
    if (!t->path || !t->added || !t->digest) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a tokenizer");
    XXH3_128bits_reset(t->digest);
    LT_TRY(find_files(t, path, &files, err));
    t->info.kind = files.spiece ? LT_TOKENIZER_T5 : LT_TOKENIZER_CLIP;
    if (files.spiece) {
        LT_TRY(tokenizer_extra_ids(t, &files, &extra_ids, err));
        LT_TRY(unigram_open(t, files.spiece, extra_ids, err));
    } else {
        LT_TRY(bpe_open(t, &files, err));
    }
    LT_TRY(tokenizer_read_config(t, &files, err));
    if (files.spiece)
        LT_TRY(unigram_add_tokens(t, extra_ids, err));
    else
        bpe_set_unknown(t->bpe, t->unknown_id);
    LT_TRY(set_normal_texts(t, err));
    XXH128_hash_t digest = XXH3_128bits_digest(t->digest);
    snprintf(t->info.digest, sizeof t->info.digest, "%016llx%016llx", (unsigned long long)digest.high64,
             (unsigned long long)digest.low64);
fail:
    return status;
}

lt_status lt_tokenizer_open(lt_tokenizer **tokenizer, const char *path, lt_err *err)
{
    lt_tokenizer *t = calloc(1, sizeof *t);
    *tokenizer = NULL;
    if (!t) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a tokenizer");
    lt_status status = open_files(t, path, err);
    XXH3_freeState(t->digest);
    t->digest = NULL;
    if (status != LT_OK)
        lt_tokenizer_close(t);
    else
        *tokenizer = t;
    return status;
}

void lt_tokenizer_close(lt_tokenizer *tokenizer)
{
    if (!tokenizer) return;
    bpe_close(tokenizer->bpe);
    unigram_close(tokenizer->unigram);
    vocab_finish(&tokenizer->vocab);
    lt_arena_finish(&tokenizer->arena);
    free(tokenizer);
}

const lt_tokenizer_info *lt_tokenizer_get_info(const lt_tokenizer *tokenizer)
{
    return &tokenizer->info;
}

/* ---- text ------------------------------------------------------------------------------------------------------------------ */

/* Normalise a run of text without added tokens, and take it through the normalised ones and the model. */
static lt_status encode_run(const lt_tokenizer *t, const char *text, size_t n, token_ids *ids, lt_err *err)
{
    lt_buffer normal = {0};
    added_cursor cursor;
    size_t begin, end;
    int32_t id;
    lt_status status =
        t->bpe ? bpe_normalise(text, n, &normal, err) : unigram_normalise(t->unigram, text, n, &normal, err);
    added_start(&cursor, t->added, t->n_added, true, normal.at, normal.n);
    while (status == LT_OK && !ids_full(ids) && added_next(&cursor, &begin, &end, &id)) {
        if (id >= 0)
            ids_push(ids, id);
        else if (t->bpe)
            status = bpe_encode(t->bpe, normal.at + begin, end - begin, ids, err);
        else
            status = unigram_encode(t->unigram, normal.at + begin, end - begin, ids, err);
    }
    free(normal.at);
    return status;
}

lt_status lt_tokenizer_encode(const lt_tokenizer *tokenizer, const char *text, size_t n_bytes, int32_t *ids,
                              int length, int *n_ids, lt_err *err)
{
    const lt_tokenizer_info *info = &tokenizer->info;
    int frame = 1 + (info->start_id >= 0);
    if (length < frame)
        return lt_fail(err, LT_E_INVALID, "%d ids leave no room for a text: its end alone takes %d", length,
                       frame);
    size_t valid = lt_utf8_valid(text, n_bytes);
    if (valid < n_bytes)
        return lt_fail(err, LT_E_INVALID, "the text is not UTF-8: byte %zu (0x%02x) begins no character",
                       valid, (unsigned char)text[valid]);
    token_ids body = {.at = ids + frame - 1, .enough = (size_t)(length - frame)};
    added_cursor cursor;
    size_t begin, end;
    int32_t id;
    lt_status status = LT_OK;
    added_start(&cursor, tokenizer->added, tokenizer->n_added, false, text, n_bytes);
    while (status == LT_OK && !ids_full(&body) && added_next(&cursor, &begin, &end, &id)) {
        if (id >= 0)
            ids_push(&body, id);
        else
            status = encode_run(tokenizer, text + begin, end - begin, &body, err);
    }
    if (status != LT_OK) return status;
    if (info->start_id >= 0) ids[0] = info->start_id;
    body.at[body.n] = info->end_id;
    *n_ids = (int)body.n + frame;
    for (int i = *n_ids; i < length; i++) ids[i] = info->pad_id;
    return LT_OK;
}
