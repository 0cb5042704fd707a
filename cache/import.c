/* import.c - a clip from a safetensors file of latents. */
#include "cache/internal.h"

#include "core/xxh3.h"
#include "kernels/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* What an export says of the file: its record, and whether the numbers are those it was written with. */
typedef struct exported {
    lt_cache_clip record; /* .clip NULL: there is none */
    bool intact;
} exported;

static lt_status read_record(const lt_safetensors *file, const char *path, const lt_tensor *latent,
                             const lt_tensor *logvar, lt_arena *arena, exported *from, lt_err *err)
{
    const char *text = lt_safetensors_metadata(file, "record"), *digest = text_or(file, "digest", ""),
               *expected = text_or(file, "xxh3", "");
    lt_cache_clip *r = &from->record;
    lt_cache_side_info side;
    char hash[24];
    *from = (exported){0};
    if (!text) return LT_OK;
    MDB_val value = lt_cache_val(text, strlen(text));
    if (lt_cache_parse_record(&value, path, arena, r, &side, NULL))
        return lt_fail(err, LT_E_FORMAT, "%s: its record is damaged", path);
    if (r->n_frames != latent->shape[0] || r->channels != latent->shape[1] || r->height != latent->shape[2] ||
        r->width != latent->shape[3])
        return lt_fail(err, LT_E_FORMAT, "%s: its record is that of a clip of %lld frames of %dx%dx%d", path,
                       (long long)r->n_frames, r->channels, r->height, r->width);
    lt_cache_checksum(latent, logvar, hash);
    from->intact = !strcmp(expected, hash) && !strcmp(r->digest, digest) && r->dtype == latent->dtype &&
                   r->logvar == (logvar->data != NULL) && *digest &&
                   strspn(digest, "0123456789abcdef") == strlen(digest) &&
                   strlen(digest) < LT_CACHE_DIGEST_BYTES;
    return LT_OK;
}

/* Of the numbers. */
static const char *digest_of(const lt_tensor *latent, const lt_tensor *logvar, lt_arena *arena)
{
    uint64_t seed = logvar->data ? XXH3_64bits(logvar->data, lt_tensor_bytes(logvar)) : 0;
    XXH128_hash_t hash = XXH3_128bits_withSeed(latent->data, lt_tensor_bytes(latent), seed);
    return lt_arena_printf(arena, "%016llx%016llx", (unsigned long long)hash.high64,
                           (unsigned long long)hash.low64);
}

/* UTF-8 in lines that end in \n, a space for what else controls a terminal; NULL: out of memory. */
static char *plain(const char *text, lt_arena *arena)
{
    char *clean = lt_cache_clean_text(text), *copy = clean ? lt_arena_strdup(arena, clean) : NULL, *to = copy;
    free(clean);
    for (const char *c = copy; c && *c; c++) {
        if (c[0] == '\r' && c[1] == '\n') continue;
        bool control = (unsigned char)*c < ' ' || *c == 0x7f;
        *to++ = control && *c != '\n' && *c != '\t' ? (*c == '\r' ? '\n' : ' ') : *c;
    }
    if (to) *to = 0;
    return copy;
}

/* Text that a stream takes as it is, or else the other. */
static const char *short_or(const lt_safetensors *file, const char *key, size_t most, const char *other,
                            lt_arena *arena)
{
    const char *text = plain(text_or(file, key, other), arena);
    return text && strlen(text) > most ? other : text;
}

static lt_status fill(const lt_safetensors *file, const char *path, const lt_tensor *latent,
                      const lt_tensor *logvar, const lt_cache_unsaid *unsaid, lt_arena *arena,
                      lt_cache_clip *clip, lt_err *err)
{
    enum { PATH = 4096, SHORT = 255 };
    int64_t n = latent->shape[0];
    int64_t *deltas = lt_arena_alloc(arena, (size_t)n * sizeof *deltas);
    char *end = "";
    const char *scaling = lt_safetensors_metadata(file, "scaling_factor");
    *clip = (lt_cache_clip){.clip = name_of(file, path, arena),
                            .digest = digest_of(latent, logvar, arena),
                            .n_frames = n,
                            .chunk = CHUNK,
                            .dtype = latent->dtype,
                            .channels = (int32_t)latent->shape[1],
                            .height = (int32_t)latent->shape[2],
                            .width = (int32_t)latent->shape[3],
                            .logvar = logvar->data != NULL,
                            .scaling_factor = scaling ? strtod(scaling, &end) : unsaid->scaling_factor,
                            .factor = 8,
                            .source = short_or(file, "source", PATH, path, arena),
                            .caption = plain(text_or(file, "caption", ""), arena),
                            .time_base_num = 1000,
                            .time_base_den = (int32_t)(unsaid->fps * 1000 + 0.5),
                            .pts_delta = deltas,
                            .last_duration = 1,
                            .model = short_or(file, "model", PATH, "", arena),
                            .weights = short_or(file, "weights", SHORT, "", arena),
                            .numerics = short_or(file, "numerics", SHORT, "", arena),
                            .numeric_class = "imported",
                            .encoding = "imported"};
    if (!clip->clip || !clip->digest || !deltas || !clip->source || !clip->caption || !clip->model ||
        !clip->weights || !clip->numerics)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    if (*end || !isfinite(clip->scaling_factor) || clip->scaling_factor <= 0)
        return lt_fail(err, LT_E_FORMAT, "%s: its scaling_factor is \"%.40s\"", path, scaling);
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

/* What an export says beside texts: when frames are shown, the picture they are of, the chunks of its digest; and of numbers that are
 * its own, how they were made. */
static void take_record(const lt_safetensors *file, const exported *from, lt_arena *arena,
                        lt_cache_clip *clip)
{
    const lt_cache_clip *r = &from->record;
    if (!r->clip) return;
    clip->chunk = r->chunk;
    clip->time_base_num = r->time_base_num;
    clip->time_base_den = r->time_base_den;
    clip->pts_delta = r->pts_delta;
    clip->last_duration = r->last_duration;
    clip->picture = r->picture;
    clip->factor = r->factor;
    if (strspn(r->fingerprint, "0123456789abcdef") == strlen(r->fingerprint))
        clip->fingerprint = r->fingerprint;
    if (!from->intact) return;
    clip->digest = r->digest;
    clip->encoding = r->encoding;
    clip->made_of = r->made_of;
    clip->numeric_class = short_or(file, "numeric_class", 255, "imported", arena);
}

/* What the stages take no clip for, were it said of one. */
static lt_status check(const lt_cache_clip *clip, const char *path, lt_err *err)
{
    enum { MOST = 1 << 20 };
    int64_t pts = 0;
    if (strlen(clip->caption) > MOST)
        return lt_fail(err, LT_E_FORMAT, "%s: its caption has more than 1 MiB", path);
    if (clip->chunk > MOST || clip->factor < 0 || clip->factor > MOST || clip->last_duration < 0 ||
        clip->time_base_num < 1 || clip->time_base_den < 1)
        return lt_fail(
            err, LT_E_FORMAT,
            "%s: chunks of %d frames, factor %d, time base %d/%d, last duration %lld: no clip is so", path,
            clip->chunk, clip->factor, clip->time_base_num, clip->time_base_den,
            (long long)clip->last_duration);
    for (int64_t i = 0; clip->pts_delta && i < clip->n_frames; i++)
        if ((i && clip->pts_delta[i] <= 0) || __builtin_add_overflow(pts, clip->pts_delta[i], &pts))
            return lt_fail(err, LT_E_FORMAT, "%s: its timestamps do not rise at frame %lld", path,
                           (long long)i);
    return LT_OK;
}

static lt_status check_unsaid(const lt_cache_unsaid *unsaid, lt_err *err)
{
    double fps = unsaid->fps, scaling = unsaid->scaling_factor;
    if (!(fps >= 0.001 && fps <= 1000))
        return lt_fail(err, LT_E_INVALID, "%g frames a second: from 0.001 to 1000", fps);
    if (!(isfinite(scaling) && scaling > 0))
        return lt_fail(err, LT_E_INVALID, "a scaling_factor of %g: a number above 0", scaling);
    return LT_OK;
}

static lt_status put_all(lt_cache *cache, const lt_cache_clip *clip, const lt_tensor *latent,
                         const lt_tensor *logvar, int64_t *n_added, lt_err *err)
{
    size_t frame = lt_tensor_bytes(latent) / (size_t)clip->n_frames;
    for (int64_t first = 0; first < clip->n_frames; first += clip->chunk) {
        bool added = false;
        size_t at = (size_t)first * frame;
        lt_status status = lt_cache_put(cache, clip, first, (const char *)latent->data + at,
                                        logvar->data ? (const char *)logvar->data + at : NULL, &added, err);
        if (status) return status;
        *n_added += added;
    }
    return LT_OK;
}

/* The digest is of numbers alone: those that were there must be meant as these are. */
static lt_status check_scaling(lt_cache *cache, const lt_cache_clip *clip, const char *path, lt_err *err)
{
    lt_arena arena = {0};
    lt_cache_clip there;
    lt_status status = lt_cache_get_clip(cache, clip->clip, clip->digest, &arena, &there, err);
    if (!status && there.scaling_factor != clip->scaling_factor)
        status = lt_fail(err, LT_E_MISMATCH,
                         "%s: these latents are there as %s/%s, with scaling_factor %g, not %g; to have it "
                         "changed, take them out first: latents rm",
                         path, clip->clip, clip->digest, there.scaling_factor, clip->scaling_factor);
    lt_arena_finish(&arena);
    return status;
}

lt_status lt_cache_import(lt_cache *cache, const char *path, const lt_cache_unsaid *unsaid,
                          lt_cache_imported *imported, lt_err *err)
{
    lt_arena arena = {0};
    lt_safetensors *file = NULL;
    lt_tensor latent = LT_NONE, logvar = LT_NONE;
    lt_cache_clip clip;
    exported from;
    *imported = (lt_cache_imported){0};
    lt_status status = check_unsaid(unsaid, err);
    if (status) return status;
    LT_TRY(lt_safetensors_open(&file, path, err));
    LT_TRY(find_latent(file, path, unsaid->tensor, &latent, &logvar, err));
    LT_TRY(read_record(file, path, &latent, &logvar, &arena, &from, err));
    LT_TRY(fill(file, path, &latent, &logvar, unsaid, &arena, &clip, err));
    take_record(file, &from, &arena, &clip);
    LT_TRY(check(&clip, path, err));
    imported->scaling_factor = clip.scaling_factor;
    imported->says_scaling = lt_safetensors_metadata(file, "scaling_factor") != NULL;
    LT_TRY(put_all(cache, &clip, &latent, &logvar, &imported->n_added, err));
    if (!imported->n_added) LT_TRY(check_scaling(cache, &clip, path, err));
    LT_TRY(lt_cache_look(cache, clip.clip, clip.digest, &imported->clip, err));
fail:
    lt_safetensors_close(file);
    lt_arena_finish(&arena);
    return status;
}
