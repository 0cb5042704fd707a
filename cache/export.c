/* export.c - a whole clip as one safetensors file, a chunk at a time. */
#include "cache/internal.h"
#include "core/xxh3.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The file's header: the tensors' places, and the record's fields as strings. */
static json_t *describe(const lt_cache_clip *clip, int64_t tensor_bytes, uint64_t xxh3)
{
    static const char *const dtypes[LT_N_DTYPES] = {[LT_F32] = "F32", [LT_BF16] = "BF16", [LT_F16] = "F16"};
    char frames[24], scaling[32], base[32], hash[24];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)xxh3);
    snprintf(frames, sizeof frames, "%lld", (long long)clip->n_frames);
    snprintf(base, sizeof base, "%d/%d", clip->time_base_num, clip->time_base_den);
    lt_cache_format_double(clip->scaling_factor, scaling, sizeof scaling);
    const lt_cache_side_info no_side = {0};
    char *record = lt_cache_record_text(clip, &no_side);
    json_t *header = json_object();
    json_object_set_new(header, "__metadata__",
                        json_pack("{ssssssssssssssssssssssssss}", "format", "pt", "xxh3", hash, "clip",
                                  clip->clip, "digest", clip->digest, "frames", frames, "time_base", base,
                                  "scaling_factor", scaling, "source", clip->source, "caption", clip->caption,
                                  "model", clip->model, "weights", clip->weights, "numerics", clip->numerics,
                                  "numeric_class", clip->numeric_class));
    /* All of the record: timestamps, picture and the rest, for lt_cache_import. */
    json_object_set_new(json_object_get(header, "__metadata__"), "record",
                        record ? json_string(record) : NULL);
    free(record);
    for (int i = 0; i <= clip->logvar; i++)
        json_object_set_new(header, i ? "logvar" : "latent",
                            json_pack("{sss[Iiii]s[II]}", "dtype", dtypes[clip->dtype], "shape",
                                      (json_int_t)clip->n_frames, clip->channels, clip->height, clip->width,
                                      "data_offsets", (json_int_t)(i * tensor_bytes),
                                      (json_int_t)((i + 1) * tensor_bytes)));
    return header;
}

/* Of as many bytes whatever the checksum. */
static lt_status write_header(const lt_cache_clip *clip, uint64_t xxh3, FILE *file, const char *path,
                              lt_err *err)
{
    const int64_t sizes[] = {
        clip->n_frames, clip->channels, clip->height, clip->width, (int64_t)lt_dtype_bytes(clip->dtype), 2};
    int64_t twice;
    if (!lt_product_i64(sizes, 6, &twice)) return lt_fail(err, LT_E_FORMAT, "clip %s: too large", clip->clip);
    json_t *header = describe(clip, twice / 2, xxh3);
    char *text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    if (!text) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    size_t length = strlen(text), padded = lt_round_up(length, 8);
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)((uint64_t)padded >> (8 * i));
    bool written = fwrite(prefix, 1, 8, file) == 8 && fwrite(text, 1, length, file) == length &&
                   fprintf(file, "%*s", (int)(padded - length), "") >= 0;
    free(text);
    return written ? LT_OK : lt_fail_errno(err, errno, "cannot write %s", path);
}

typedef struct copy {
    const lt_cache_clip *clip;
    FILE *file;
    const char *path;
    bool logvar;
    XXH3_state_t *hash;
} copy;

static lt_status copy_chunk(void *user, const lt_cache_chunk *chunk, lt_err *err)
{
    const copy *c = user;
    const lt_tensor *tensor = c->logvar ? &chunk->logvar : &chunk->latent;
    const int64_t shape[4] = {lt_cache_chunk_frames(c->clip, chunk->first), c->clip->channels,
                              c->clip->height, c->clip->width};
    if (!tensor->data || tensor->dtype != c->clip->dtype || memcmp(tensor->shape, shape, sizeof shape) != 0)
        return lt_fail(err, LT_E_FORMAT, "clip %s: the chunk of frame %lld is not of the clip's geometry",
                       c->clip->clip, (long long)chunk->first);
    size_t bytes = lt_tensor_bytes(tensor);
    XXH3_64bits_update(c->hash, tensor->data, bytes);
    if (fwrite(tensor->data, 1, bytes, c->file) == bytes) return LT_OK;
    return lt_fail_errno(err, errno, "cannot write %s", c->path);
}

static lt_status write_file(lt_cache *cache, const lt_cache_clip *clip, FILE *file, const char *path,
                            lt_err *err)
{
    /* The checksum of lt_cache_checksum; it is known when all is written. */
    uint64_t xxh3 = 0;
    XXH3_state_t *hash = XXH3_createState();
    lt_status status =
        hash ? write_header(clip, xxh3, file, path, err) : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (int i = 0; i <= clip->logvar && status == LT_OK; i++) {
        copy c = {.clip = clip, .file = file, .path = path, .logvar = i == 1, .hash = hash};
        XXH3_64bits_reset_withSeed(hash, xxh3);
        for (int64_t first = 0; first < clip->n_frames && status == LT_OK; first += clip->chunk)
            status = lt_cache_read(cache, clip->clip, clip->digest, first, copy_chunk, &c, err);
        xxh3 = XXH3_64bits_digest(hash);
    }
    XXH3_freeState(hash);
    if (status == LT_OK && fseeko(file, 0, SEEK_SET) != 0)
        status = lt_fail_errno(err, errno, "cannot write %s", path);
    if (status == LT_OK) status = write_header(clip, xxh3, file, path, err);
    if (status == LT_OK && (fflush(file) != 0 || fsync(fileno(file)) != 0))
        status = lt_fail_errno(err, errno, "cannot write %s", path);
    return status;
}

lt_status lt_cache_export(lt_cache *cache, const char *clip, const char *digest, const char *path,
                          lt_err *err)
{
    lt_arena arena = {0};
    lt_cache_clip record;
    FILE *file = NULL;
    char *beside = lt_arena_printf(&arena, "%s.part", path);
    lt_status status = lt_cache_get_clip(cache, clip, digest, &arena, &record, err);
    if (status == LT_E_NOT_FOUND)
        lt_fail(err, status, "clip %s is not complete in the cache %s: it has no record", clip,
                cache->folder);
    if (status) goto fail;
    if (record.state != LT_CACHE_COMPLETE)
        LT_TRY(lt_fail(err, LT_E_NOT_FOUND, "clip %s is not complete: %s", clip, record.reason));
    if (!beside) LT_TRY(lt_fail(err, LT_E_NO_MEMORY, "out of memory"));
    if (!(file = fopen(beside, "wbe"))) LT_TRY(lt_fail_errno(err, errno, "cannot write %s", beside));
    LT_TRY(write_file(cache, &record, file, beside, err));
    int closed = fclose(file);
    file = NULL;
    if (closed != 0 || rename(beside, path) != 0) LT_TRY(lt_fail_errno(err, errno, "cannot write %s", path));
fail:
    if (file) fclose(file);
    if (status && beside) unlink(beside);
    lt_arena_finish(&arena);
    return status;
}
