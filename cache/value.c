/* value.c - a chunk's value: a complete safetensors file. */
#include "cache/internal.h"

#include "core/xxh3.h"
#include "kernels/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t lt_cache_n_chunks(const lt_cache_clip *clip)
{
    return (clip->n_frames - 1) / clip->chunk + 1;
}

int64_t lt_cache_chunk_frames(const lt_cache_clip *clip, int64_t first)
{
    return LT_MIN((int64_t)clip->chunk, clip->n_frames - first);
}

void lt_cache_format_double(double value, char *text, size_t text_bytes)
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, text_bytes, "%.*g", digits, value);
        if (strtod(text, NULL) == value) return;
    }
}

bool lt_cache_is_finite(const lt_tensor *tensor)
{
    return lt_first_not_finite(tensor->data, tensor->dtype, lt_n_elements(tensor)) < 0;
}

void lt_cache_checksum(const lt_tensor *latent, const lt_tensor *logvar, char text[24])
{
    uint64_t hash = XXH3_64bits(latent->data, lt_tensor_bytes(latent));
    if (logvar->data) hash = XXH3_64bits_withSeed(logvar->data, lt_tensor_bytes(logvar), hash);
    snprintf(text, 24, "%016llx", (unsigned long long)hash);
}

/* The chunk's timestamps as "[0,512,1024]". */
static char *timestamps(const lt_cache_clip *clip, int64_t first, int64_t n)
{
    size_t bytes = (size_t)n * 22 + 3, at = 0;
    char *text = malloc(bytes);
    if (!text) return NULL;
    int64_t pts = 0;
    text[at++] = '[';
    for (int64_t i = 0; clip->pts_delta && i < first; i++) pts += clip->pts_delta[i];
    for (int64_t i = first; clip->pts_delta && i < first + n; i++) {
        pts += clip->pts_delta[i];
        at += (size_t)snprintf(text + at, bytes - at, "%s%lld", i > first ? "," : "", (long long)pts);
    }
    text[at++] = ']';
    text[at] = 0;
    return text;
}

lt_status lt_cache_pack(const lt_cache_clip *clip, int64_t first, const void *latent, const void *logvar,
                        void **bytes, size_t *n_bytes, lt_err *err)
{
    int64_t n = lt_cache_chunk_frames(clip, first);
    lt_named_tensor tensors[2] = {
        {"latent", {(void *)latent, clip->dtype, 4, {n, clip->channels, clip->height, clip->width}, 0}},
        {"logvar", {(void *)logvar, clip->dtype, 4, {n, clip->channels, clip->height, clip->width}, 0}},
    };
    char first_text[24], frames[24], scaling[32], base[32], hash[24];
    snprintf(first_text, sizeof first_text, "%lld", (long long)first);
    snprintf(frames, sizeof frames, "%lld", (long long)clip->n_frames);
    snprintf(base, sizeof base, "%d/%d", clip->time_base_num, clip->time_base_den);
    lt_cache_format_double(clip->scaling_factor, scaling, sizeof scaling);
    lt_cache_checksum(&tensors[0].tensor, &tensors[1].tensor, hash);
    lt_status status = LT_OK;
    char *pts = timestamps(clip, first, n);
    char *source = lt_cache_clean_text(clip->source), *model = lt_cache_clean_text(clip->model);
    if (!pts || !source || !model) LT_TRY(lt_fail(err, LT_E_NO_MEMORY, "out of memory"));
#define TEXT(field) clip->field ? clip->field : ""
    lt_metadata metadata[] = {
        {"clip", clip->clip},
        {"digest", clip->digest},
        {"first_frame", first_text},
        {"clip_frames", frames},
        {"pts", pts},
        {"time_base", base},
        {"scaling_factor", scaling},
        {"source", source},
        {"model", model},
        {"weights", TEXT(weights)},
        {"fingerprint", TEXT(fingerprint)},
        {"numerics", TEXT(numerics)},
        {"numeric_class", TEXT(numeric_class)},
        {"encoding", TEXT(encoding)},
        {"xxh3", hash},
    };
#undef TEXT
    status = lt_safetensors_pack(bytes, n_bytes, tensors, logvar ? 2 : 1, metadata, LT_COUNT(metadata), err);
fail:
    free(pts);
    free(source);
    free(model);
    return status;
}

/* The chunk inside an opened value; E_FORMAT says what is wrong with it. */
static lt_status take_chunk(const lt_safetensors *file, lt_cache_chunk *chunk, lt_err *err)
{
    lt_status status = lt_safetensors_get(file, "latent", &chunk->latent, err);
    if (status) return lt_fail(err, LT_E_FORMAT, "it has no tensor \"latent\"");
    if (lt_safetensors_get(file, "logvar", &chunk->logvar, NULL) != LT_OK) chunk->logvar = LT_NONE;
    const lt_tensor *a = &chunk->latent, *b = &chunk->logvar;
    char text[96];
    if (a->rank != 4 || !lt_dtype_is_float(a->dtype))
        return lt_fail(err, LT_E_FORMAT, "latent is %s, not [T,C,h,w] of floats",
                       lt_tensor_describe(a, text, sizeof text));
    if (b->data &&
        (b->rank != 4 || b->dtype != a->dtype || memcmp(a->shape, b->shape, 4 * sizeof a->shape[0])))
        return lt_fail(err, LT_E_FORMAT, "logvar is %s, other than latent",
                       lt_tensor_describe(b, text, sizeof text));
    uintptr_t size = lt_dtype_bytes(a->dtype);
    if ((uintptr_t)a->data % size || (uintptr_t)b->data % size)
        return lt_fail(err, LT_E_FORMAT, "its tensors do not begin at multiples of their elements' %d bytes",
                       (int)size);
    const char *expected = lt_safetensors_metadata(file, "xxh3");
    char hash[24];
    lt_cache_checksum(a, b, hash);
    if (!expected || strcmp(expected, hash)) return lt_fail(err, LT_E_FORMAT, "its checksum is wrong");
    return LT_OK;
}

lt_status lt_cache_unpack(const MDB_val *value, const char *key, int64_t first, lt_cache_use use, void *user,
                          lt_err *err)
{
    lt_cache_chunk chunk = {.first = first, .value_bytes = value->mv_size};
    lt_safetensors *file = NULL;
    const void *bytes = value->mv_data;
    /* Small values lie packed in LMDB's pages, at even addresses; large ones start 16 bytes into a page. */
    void *copy = NULL;
    lt_status status = LT_OK;
    if ((uintptr_t)bytes % 16 != 0) {
        if (!(copy = aligned_alloc(64, lt_round_up(value->mv_size, 64))))
            return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        bytes = memcpy(copy, bytes, value->mv_size);
    }
    status = lt_safetensors_open_memory(&file, bytes, value->mv_size, key, err);
    if (status == LT_OK && (status = take_chunk(file, &chunk, err)) != LT_OK)
        lt_err_prefix(err, "the cache's value of %s is damaged", key);
    if (status == LT_OK) status = use(user, &chunk, err);
    lt_safetensors_close(file);
    free(copy);
    return status;
}
