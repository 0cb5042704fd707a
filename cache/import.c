/* import.c - a clip from a safetensors file of latents. */
#include "cache/internal.h"

#include "kernels/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { CHUNK = 8 };

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

static const char *text_or(const lt_safetensors *file, const char *key, const char *fallback)
{
    const char *text = lt_safetensors_metadata(file, key);
    return text ? text : fallback;
}

/* What is there instead of a tensor called latent, and what to do. */
static lt_status ask_for_name(const lt_safetensors *file, const char *path, const char *wanted, lt_err *err)
{
    const char *name = "";
    if (*wanted)
        return lt_fail(err, LT_E_NOT_FOUND, "%s: has no tensor called latent, and none called %s", path,
                       wanted);
    if (lt_safetensors_count(file) > 0) lt_safetensors_at(file, 0, &name);
    return lt_fail(err, LT_E_FORMAT,
                   "%s: none of its %d tensors is called latent%s%.100s%s; name the one that holds latents, "
                   "--tensor NAME",
                   path, (int)lt_safetensors_count(file), *name ? " (the first is " : "", name,
                   *name ? ")" : "");
}

/* The tensor called latent, or `wanted`; [C,h,w] is a clip of one frame. */
static lt_status find_latent(const lt_safetensors *file, const char *path, const char *wanted,
                             lt_tensor *latent, lt_tensor *logvar, lt_err *err)
{
    char text[96];
    lt_status status = lt_safetensors_get(file, "latent", latent, NULL);
    if (status && *wanted) status = lt_safetensors_get(file, wanted, latent, NULL);
    if (status) return ask_for_name(file, path, wanted, err);
    if (lt_safetensors_get(file, "logvar", logvar, NULL)) *logvar = LT_NONE;
    for (lt_tensor *t = latent; t; t = t == latent && logvar->data ? logvar : NULL)
        if (t->rank == 3) {
            memmove(t->shape + 1, t->shape, 3 * sizeof t->shape[0]);
            t->shape[0] = 1;
            t->rank = 4;
        }
    bool fine =
        latent->rank == 4 && (latent->dtype == LT_F32 || latent->dtype == LT_F16 || latent->dtype == LT_BF16);
    for (int i = 0; i < 4 && fine; i++)
        fine = latent->shape[i] > 0 && latent->shape[i] <= (i ? 1 << 20 : 1 << 26);
    if (!fine)
        return lt_fail(err, LT_E_FORMAT, "%s: latent is %s, not [T,C,h,w] or [C,h,w] in f32, f16 or bf16",
                       path, lt_tensor_describe(latent, text, sizeof text));
    if (logvar->data && (logvar->dtype != latent->dtype || logvar->rank != 4 ||
                         memcmp(logvar->shape, latent->shape, 4 * sizeof latent->shape[0])))
        return lt_fail(err, LT_E_FORMAT, "%s: logvar is other than latent", path);
    if (!lt_cache_is_finite(latent) || (logvar->data && !lt_cache_is_finite(logvar)))
        return lt_fail(err, LT_E_NUMERIC, "%s: a number is not finite", path);
    return LT_OK;
}

static char *name_of(const lt_safetensors *file, const char *path, lt_arena *arena)
{
    const char *given = lt_safetensors_metadata(file, "clip"), *slash = strrchr(path, '/');
    char *name = lt_arena_printf(arena, "%.200s", given && *given ? given : slash ? slash + 1 : path);
    char *dot = name && !(given && *given) ? strrchr(name, '.') : NULL;
    if (dot && dot > name) *dot = 0;
    for (char *c = name; c && *c; c++)
        if (!strchr(letters, *c)) *c = '-';
    if (name && (*name == '.' || !*name)) return lt_arena_printf(arena, "clip%s", name);
    return name;
}

/* Of an exported clip its own; otherwise of the numbers. */
static const char *digest_of(const lt_safetensors *file, const lt_tensor *latent, lt_arena *arena)
{
    const char *given = lt_safetensors_metadata(file, "digest");
    size_t n = given ? strlen(given) : 0;
    if (n && n < LT_CACHE_DIGEST_BYTES && strspn(given, "0123456789abcdef") == n)
        return lt_arena_strdup(arena, given);
    XXH128_hash_t hash = XXH3_128bits(latent->data, lt_tensor_bytes(latent));
    return lt_arena_printf(arena, "%016llx%016llx", (unsigned long long)hash.high64,
                           (unsigned long long)hash.low64);
}

static lt_status fill(const lt_safetensors *file, const char *path, const lt_tensor *latent,
                      const lt_tensor *logvar, double fps, lt_arena *arena, lt_cache_clip *clip, lt_err *err)
{
    int64_t n = latent->shape[0];
    int64_t *deltas = lt_arena_alloc(arena, (size_t)n * sizeof *deltas);
    *clip =
        (lt_cache_clip){.clip = name_of(file, path, arena),
                        .digest = digest_of(file, latent, arena),
                        .n_frames = n,
                        .chunk = CHUNK,
                        .dtype = latent->dtype,
                        .channels = (int32_t)latent->shape[1],
                        .height = (int32_t)latent->shape[2],
                        .width = (int32_t)latent->shape[3],
                        .logvar = logvar->data != NULL,
                        .scaling_factor = strtod(text_or(file, "scaling_factor", "0.18215"), NULL),
                        .factor = 8,
                        .source = lt_arena_strdup(arena, text_or(file, "source", path)),
                        .caption = lt_arena_strdup(arena, text_or(file, "caption", "")),
                        .time_base_num = 1000,
                        .time_base_den = (int32_t)(fps * 1000 + 0.5),
                        .pts_delta = deltas,
                        .last_duration = 1,
                        .model = lt_arena_strdup(arena, text_or(file, "model", "")),
                        .weights = lt_arena_strdup(arena, text_or(file, "weights", "")),
                        .numerics = lt_arena_strdup(arena, text_or(file, "numerics", "")),
                        .numeric_class = lt_arena_strdup(arena, text_or(file, "numeric_class", "imported")),
                        .encoding = "imported"};
    if (!clip->clip || !clip->digest || !deltas || !clip->source || !clip->caption || !clip->numeric_class)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    for (int64_t i = 1; i < n; i++) deltas[i] = 1;
    clip->picture = (lt_cache_picture){.width = clip->width * clip->factor,
                                       .height = clip->height * clip->factor,
                                       .sample_aspect_num = 1,
                                       .sample_aspect_den = 1,
                                       .primaries = 2,
                                       .transfer = 2,
                                       .matrix = 2};
    return LT_OK;
}

/* What an export says beside texts: when frames are shown, the picture they are of, the chunks of its digest. */
static lt_status take_record(const lt_safetensors *file, const char *path, lt_arena *arena,
                             lt_cache_clip *clip, lt_err *err)
{
    const char *text = lt_safetensors_metadata(file, "record");
    lt_cache_clip record;
    lt_cache_side_info side;
    if (!text) return LT_OK;
    MDB_val value = lt_cache_val(text, strlen(text));
    lt_status status = lt_cache_parse_record(&value, path, arena, &record, &side, err);
    if (status) return status;
    if (record.n_frames != clip->n_frames || record.height != clip->height || record.width != clip->width ||
        record.channels != clip->channels || record.chunk < 1)
        return lt_fail(err, LT_E_FORMAT, "%s: its record is that of a clip of %lld frames of %dx%dx%d", path,
                       (long long)record.n_frames, record.channels, record.height, record.width);
    clip->chunk = record.chunk;
    clip->time_base_num = record.time_base_num;
    clip->time_base_den = record.time_base_den;
    clip->pts_delta = record.pts_delta;
    clip->last_duration = record.last_duration;
    clip->picture = record.picture;
    clip->factor = record.factor;
    clip->fingerprint = record.fingerprint;
    return LT_OK;
}

lt_status lt_cache_import(lt_cache *cache, const char *path, const char *tensor, double fps,
                          lt_cache_summary *summary, lt_err *err)
{
    lt_arena arena = {0};
    lt_safetensors *file = NULL;
    lt_tensor latent = LT_NONE, logvar = LT_NONE;
    lt_cache_clip clip;
    lt_status status;
    if (!(fps >= 0.001 && fps <= 1000))
        return lt_fail(err, LT_E_INVALID, "%g frames a second: from 0.001 to 1000", fps);
    LT_TRY(lt_safetensors_open(&file, path, err));
    LT_TRY(find_latent(file, path, tensor, &latent, &logvar, err));
    LT_TRY(fill(file, path, &latent, &logvar, fps, &arena, &clip, err));
    LT_TRY(take_record(file, path, &arena, &clip, err));
    size_t frame = lt_tensor_bytes(&latent) / (size_t)clip.n_frames;
    for (int64_t first = 0; first < clip.n_frames; first += clip.chunk)
        LT_TRY(lt_cache_put(cache, &clip, first, (const char *)latent.data + (size_t)first * frame,
                            logvar.data ? (const char *)logvar.data + (size_t)first * frame : NULL, NULL,
                            err));
    LT_TRY(lt_cache_look(cache, clip.clip, clip.digest, summary, err));
fail:
    lt_safetensors_close(file);
    lt_arena_finish(&arena);
    return status;
}
