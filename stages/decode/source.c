/* source.c - which clips there are, and which of them still need something. */
#include "stages/decode/decode.h"

#include "stages/digest/digest.h"
#include "stages/video/ffmpeg.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- options ------------------------------------------------------------------------------------------- */

/* "512x288, 288x512": sizes that clips are sorted into. */
static lt_status parse_buckets(const char *text, lt_source *source, lt_err *err)
{
    const char *at = text;
    while (*at) {
        int width = 0, height = 0, used = 0;
        while (*at == ' ' || *at == ',') at++;
        if (!*at) break;
        bool fine = sscanf(at, "%5dx%5d%n", &width, &height, &used) == 2 && width > 0 && height > 0 &&
                    width <= 65536 && height <= 65536 && (!at[used] || strchr(" ,", at[used]));
        if (!fine)
            return lt_fail(err, LT_E_INVALID,
                           "buckets = \"%s\": must be sizes, \"512x288, 288x512, 384x384\"", text);
        if (source->n_buckets == LT_DECODE_BUCKETS)
            return lt_fail(err, LT_E_INVALID, "buckets: more than %d sizes", LT_DECODE_BUCKETS);
        source->buckets[source->n_buckets++] = (lt_size){width, height};
        at += used;
    }
    return LT_OK;
}

/* With convert = device: what the GPU that decodes does not do. */
static lt_status check_device(const lt_decode_config *config, lt_err *err)
{
    const char *what = config->size.width                 ? "size"
                       : *config->buckets                 ? "buckets"
                       : config->scaler                   ? "scaler"
                       : config->deinterlace              ? "deinterlace"
                       : config->live                     ? "live"
                       : lt_video_is_graph(config->input) ? "a filter graph as input"
                                                          : NULL;
    if (!config->convert) return LT_OK;
    if (lt_decode_gpu_number(config->hwaccel) < 0)
        return lt_fail(
            err, LT_E_INVALID,
            "convert = \"device\" needs the GPU that decodes: say hwaccel = \"cuda\", or \"cuda:1\" "
            "or another number, not \"%s\"",
            config->hwaccel);
    if (!what) return LT_OK;
    return lt_fail(err, LT_E_INVALID,
                   "%s does not go with convert = \"device\": the GPU takes the frames of a file as they are",
                   what);
}

static lt_status check_together(const lt_decode_config *config, lt_err *err)
{
    bool input = config->input && *config->input, manifest = config->manifest && *config->manifest;
    if (input == manifest)
        return lt_fail(
            err, LT_E_INVALID,
            input ? "both input and manifest are given: a run reads one video, or those of a manifest"
                  : "neither input nor manifest is given");
    if (!manifest && (*config->base || *config->shard))
        return lt_fail(err, LT_E_INVALID, "%s belongs to a manifest, and there is none",
                       *config->base ? "base" : "shard");
    if (manifest && (*config->name || *config->caption))
        return lt_fail(err, LT_E_INVALID, "%s is each clip's own: it stands in the manifest",
                       *config->name ? "name" : "caption");
    if (manifest && config->live)
        return lt_fail(err, LT_E_INVALID, "live belongs to a single input, not to a manifest");
    if (config->size.width && *config->buckets)
        return lt_fail(err, LT_E_INVALID, "both size and buckets are given");
    if (config->random_crop && (config->scaler != 1 || config->fit != LT_FIT_CROP))
        return lt_fail(err, LT_E_INVALID, "random_crop needs scaler = \"pillow\" and fit = \"crop\"");
    if ((config->random_start || config->random_interval) && (!config->frames || config->fps > 0))
        return lt_fail(err, LT_E_INVALID, "random_start and random_interval need frames, and no fps");
    if (config->short_clips != LT_SHORT_KEEP && !config->frames)
        return lt_fail(err, LT_E_INVALID,
                       "short says what happens to clips of fewer than `frames`: give frames");
    return check_device(config, err);
}

lt_status lt_source_check(const lt_decode_config *config, lt_err *err)
{
    lt_source source = {0};
    lt_shard shard;
    lt_status status = check_together(config, err);
    if (!status) status = parse_buckets(config->buckets, &source, err);
    return status ? status : lt_shard_parse(config->shard, &shard, err);
}

lt_status lt_source_open(lt_source *source, const lt_decode_config *config, lt_err *err)
{
    lt_shard shard;
    *source = (lt_source){.config = config};
    lt_status status = check_together(config, err);
    if (!status) status = parse_buckets(config->buckets, source, err);
    if (!status) status = lt_shard_parse(config->shard, &shard, err);
    if (status || !*config->manifest) return status;
    return lt_clip_list_open(&source->list, config->manifest, config->base, shard, err);
}

lt_status lt_source_remember(lt_source *source, const char *run_folder, const char *cache, lt_err *err)
{
    if (!source->list || !run_folder || !*run_folder) return LT_OK;
    lt_status status = lt_journal_open(&source->journal, run_folder, err);
    lt_err none;
    /* Without a cache every clip needs something, and is opened to be known. */
    source->keeps =
        !status && cache && *cache && lt_cache_open(&source->cache, cache, true, 0, &none) == LT_OK;
    return status;
}

void lt_source_close(lt_source *source)
{
    if (source->cache) lt_source_flush(source);
    lt_clip_list_close(source->list);
    lt_journal_close(source->journal);
    lt_cache_close(source->cache);
    *source = (lt_source){0};
}

uint32_t lt_source_count(const lt_source *source)
{
    return source->list ? (uint32_t)lt_clip_list_count(source->list) : 1;
}

/* ---- clips --------------------------------------------------------------------------------------------- */

/* The file as it is now, or the pictures: a clip whose file was changed is another one. */
static void add_file(const char *input, char *text, size_t room)
{
    struct stat info;
    char pictures[33];
    lt_err none;
    if (lt_video_is_sequence(input) && lt_video_stamp_sequence(input, pictures, &none) == LT_OK)
        snprintf(text, room, "%s", pictures);
    else if (lt_video_is_graph(input) || stat(input, &info))
        snprintf(text, room, "-");
    else
        snprintf(text, room, "%lld %lld.%09ld", (long long)info.st_size, (long long)info.st_mtim.tv_sec,
                 info.st_mtim.tv_nsec);
}

static lt_status make_key(const lt_source *source, lt_wanted *wanted, lt_arena *arena, lt_err *err)
{
    const lt_decode_config *c = source->config;
    char file[96], hex[33], versions[64];
    add_file(wanted->input, file, sizeof file);
    const char *text = lt_arena_printf(
        arena,
        "clip 1 %s|%s|%s|%s|%.17g|%.17g|%s|%dx%d %s %d %d %d %d|%.17g %.17g %" PRId64 " %" PRId64 " %" PRId64
        "|%d %d%d%d%d %" PRId64 "%s%s%s",
        lt_ffmpeg_versions(versions), wanted->input, wanted->name, wanted->caption, wanted->start,
        wanted->end, file, c->size.width, c->size.height, c->buckets, c->fit, c->bits, c->short_clips,
        c->audio, c->start, c->fps, c->frames, c->interval, c->chunk, c->scaler, c->random_crop,
        c->random_start, c->random_interval, c->deinterlace, c->seed, strcmp(c->hwaccel, "none") ? "|" : "",
        strcmp(c->hwaccel, "none") ? c->hwaccel : "", c->convert ? "|device" : "");
    if (!text) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_digest(text, strlen(text), hex);
    wanted->key = lt_arena_strdup(arena, hex);
    return wanted->key ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

/* A name of [A-Za-z0-9._-]: the option's, or from the input's. */
static const char *name_of(const lt_decode_config *config, lt_arena *arena)
{
    enum { MOST = 64 };
    if (!*config->name)
        return lt_clip_name_of(strcmp(config->input, "-") ? config->input : "stdin", MOST, arena);
    char *name = lt_arena_printf(arena, "%.*s", MOST, config->name);
    if (name) lt_make_clip_name(name);
    return name;
}

lt_status lt_source_get(lt_source *source, uint32_t index, lt_arena *arena, lt_wanted *wanted, lt_err *err)
{
    lt_clip_entry entry;
    if (!source->list) {
        const lt_decode_config *config = source->config;
        *wanted = (lt_wanted){.input = config->input, .caption = config->caption, .entry = "", .key = ""};
        wanted->name = name_of(config, arena);
        return wanted->name ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    }
    lt_status status = lt_clip_list_get(source->list, index, arena, &entry, err);
    if (status) return status;
    *wanted = (lt_wanted){.input = entry.path,
                          .name = entry.name,
                          .caption = entry.text,
                          .entry = entry.json,
                          .start = entry.start,
                          .end = entry.end};
    return make_key(source, wanted, arena, err);
}

/* Whether what was made of the clip is still there. */
static bool is_done(lt_source *source, const char *key)
{
    lt_journal_entry entry;
    lt_cache_summary summary;
    lt_err none;
    if (!source->journal || !lt_journal_find(source->journal, key, &entry)) return false;
    if (*entry.result) return access(entry.result, F_OK) == 0;
    return source->cache &&
           lt_cache_look(source->cache, entry.name, entry.digest, &summary, &none) == LT_OK &&
           summary.state == LT_CACHE_COMPLETE;
}

lt_status lt_source_next(lt_source *source, uint32_t index, uint32_t *passed, lt_arena *arena,
                         lt_wanted *wanted, lt_err *err)
{
    uint32_t count = lt_source_count(source);
    for (*passed = 0; index < count; index++, ++*passed) {
        lt_arena local = {0};
        lt_status status = lt_source_get(source, index, &local, wanted, err);
        bool done = !status && source->list && is_done(source, wanted->key);
        lt_arena_finish(&local);
        if (status) return status;
        if (!done) return lt_source_get(source, index, arena, wanted, err);
    }
    return LT_END;
}
