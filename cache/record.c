/* record.c - the values that are JSON: totals, the state of a clip, and its record. */
#include "cache/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char totals_key[] = "longtake/totals";

const char *lt_cache_state_name(lt_cache_state state)
{
    static const char *const names[] = {"partial", "complete", "failed"};
    return names[state];
}

static bool parse_state(const char *name, lt_cache_state *state)
{
    for (int i = 0; name && i <= LT_CACHE_FAILED; i++) {
        if (strcmp(name, lt_cache_state_name((lt_cache_state)i)) == 0) {
            *state = (lt_cache_state)i;
            return true;
        }
    }
    return false;
}

static int64_t integer(const json_t *object, const char *name)
{
    return json_integer_value(json_object_get(object, name));
}

static bool in_i32(int64_t value)
{
    return value >= 0 && value <= INT32_MAX;
}

/* A number of 32 bits, 0 where there is none; *fine becomes false where it is larger. */
static int32_t int32_of(const json_t *value, bool *fine)
{
    json_int_t number = json_integer_value(value);
    if (number < INT32_MIN || number > INT32_MAX) *fine = false;
    return (int32_t)number;
}

static int32_t int32_at(const json_t *object, const char *name, bool *fine)
{
    return int32_of(json_object_get(object, name), fine);
}

static bool is_length(int64_t n_frames)
{
    return n_frames > 0 && n_frames <= LT_CACHE_FRAMES_MAX;
}

/* ---- totals -------------------------------------------------------------------------------------------- */

static lt_status put_text(lt_cache *cache, MDB_txn *txn, MDB_val key, json_t *object, lt_err *err)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    MDB_val value = lt_cache_val(text, strlen(text));
    int rc = mdb_put(txn, cache->dbi, &key, &value, 0);
    free(text);
    return rc ? lt_cache_fail_mdb(cache, rc, err, "writing to the cache") : LT_OK;
}

lt_status lt_cache_get_totals(lt_cache *cache, MDB_txn *txn, lt_cache_totals *totals, lt_err *err)
{
    *totals = (lt_cache_totals){0};
    MDB_val key = lt_cache_val(totals_key, sizeof totals_key - 1), value;
    int rc = mdb_get(txn, cache->dbi, &key, &value);
    if (rc == MDB_NOTFOUND) return LT_OK;
    if (rc) return lt_cache_fail_mdb(cache, rc, err, "reading the cache's totals");
    json_t *object = json_loadb(value.mv_data, value.mv_size, 0, NULL);
    if (!json_is_object(object)) {
        json_decref(object);
        return lt_fail(err, LT_E_FORMAT, "cache %s: the value of %s is damaged", cache->folder, totals_key);
    }
    *totals = (lt_cache_totals){integer(object, "clips"),     integer(object, "complete"),
                                integer(object, "failed"),    integer(object, "chunks"),
                                integer(object, "frames"),    integer(object, "latent_bytes"),
                                integer(object, "side_bytes")};
    json_decref(object);
    return LT_OK;
}

lt_status lt_cache_set_totals(lt_cache *cache, MDB_txn *txn, const lt_cache_totals *totals, lt_err *err)
{
    json_t *object =
        json_pack("{sIsIsIsIsIsIsI}", "clips", (json_int_t)totals->clips, "complete",
                  (json_int_t)totals->complete, "failed", (json_int_t)totals->failed, "chunks",
                  (json_int_t)totals->chunks, "frames", (json_int_t)totals->frames, "latent_bytes",
                  (json_int_t)totals->latent_bytes, "side_bytes", (json_int_t)totals->side_bytes);
    return put_text(cache, txn, lt_cache_val(totals_key, sizeof totals_key - 1), object, err);
}

/* ---- state of a clip ----------------------------------------------------------------------------------- */

/* Fill the geometry from JSON; false when a number or name is missing or out of range. */
static bool parse_geometry(const json_t *object, lt_cache_summary *s)
{
    int64_t chunk = integer(object, "chunk"), channels = integer(object, "channels");
    int64_t height = integer(object, "height"), width = integer(object, "width");
    const char *dtype = json_string_value(json_object_get(object, "dtype"));
    s->n_frames = integer(object, "frames");
    if (!dtype || !lt_dtype_parse(dtype, &s->dtype) || !lt_dtype_is_float(s->dtype)) return false;
    if (!parse_state(json_string_value(json_object_get(object, "state")), &s->state)) return false;
    if (!in_i32(chunk) || !in_i32(channels) || !in_i32(height) || !in_i32(width) || !is_length(s->n_frames) ||
        chunk == 0)
        return false;
    s->chunk = (int32_t)chunk, s->channels = (int32_t)channels, s->height = (int32_t)height,
    s->width = (int32_t)width;
    s->n_chunks = (s->n_frames - 1) / chunk + 1;
    s->logvar = json_is_true(json_object_get(object, "logvar"));
    s->completed_ms = integer(object, "completed_ms");
    return true;
}

lt_status lt_cache_parse_summary(const MDB_val *key, const MDB_val *value, lt_cache_summary *s, lt_err *err)
{
    *s = (lt_cache_summary){0};
    bool fine = lt_cache_key_parse(key, "state", s->clip, s->digest, NULL);
    if (!fine) s->clip[0] = s->digest[0] = 0;
    json_t *object = json_loadb(value->mv_data, value->mv_size, 0, NULL);
    fine = fine && json_is_object(object) && parse_geometry(object, s);
    s->chunks = integer(object, "chunks");
    s->bytes = integer(object, "bytes");
    json_decref(object);
    if (fine && s->chunks >= 0 && s->bytes >= 0) return LT_OK;
    return lt_fail(err, LT_E_FORMAT, "the cache's value of %.*s is damaged",
                   (int)LT_MIN(key->mv_size, (size_t)511), (char *)key->mv_data);
}

lt_status lt_cache_get_summary(lt_cache *cache, MDB_txn *txn, const char *clip, const char *digest,
                               lt_cache_summary *summary, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    MDB_val key = lt_cache_key(text, "state", clip, digest), value;
    int rc = mdb_get(txn, cache->dbi, &key, &value);
    if (rc == MDB_NOTFOUND)
        return lt_fail(err, LT_E_NOT_FOUND, "the cache %s has no clip %s/%s", cache->folder, clip, digest);
    if (rc) return lt_cache_fail_mdb(cache, rc, err, "reading a clip's state");
    return lt_cache_parse_summary(&key, &value, summary, err);
}

lt_status lt_cache_set_summary(lt_cache *cache, MDB_txn *txn, const lt_cache_summary *s, lt_err *err)
{
    char text[LT_CACHE_KEY_BYTES];
    json_t *object =
        json_pack("{sssIsIsIsisisisisssbsI}", "state", lt_cache_state_name(s->state), "chunks",
                  (json_int_t)s->chunks, "bytes", (json_int_t)s->bytes, "frames", (json_int_t)s->n_frames,
                  "chunk", s->chunk, "channels", s->channels, "height", s->height, "width", s->width, "dtype",
                  lt_dtype_name(s->dtype), "logvar", s->logvar, "completed_ms", (json_int_t)s->completed_ms);
    return put_text(cache, txn, lt_cache_key(text, "state", s->clip, s->digest), object, err);
}

int64_t lt_cache_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void lt_cache_time_text(int64_t ms, char text[32])
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;
    if (!gmtime_r(&seconds, &parts) || !strftime(text, 32, "%Y-%m-%d %H:%M:%S", &parts)) *text = 0;
}

/* ---- record of a clip ---------------------------------------------------------------------------------- */

/* Timestamps as JSON: {"first": t, "steps": "512 1024x7 ..."}: differences, and how often each comes where it is more than once. A
 * long film of variable rate has a million of them, so they are written where they shall stand. Bytes without the closing 0;
 * `to`: NULL to count them. */
static size_t write_timestamps(const lt_cache_clip *clip, char *to)
{
    char text[64];
    size_t n = 0;
    const int64_t *delta = clip->pts_delta;
    if (!delta) {
        n = strlen("null");
        if (to) memcpy(to, "null", n);
        return n;
    }
    for (int64_t i = 0, run = 0; i < clip->n_frames; i++) {
        run += i > 0;
        if (i && i + 1 < clip->n_frames && delta[i + 1] == delta[i]) continue;
        int length = i ? snprintf(text, sizeof text, run == i ? "%" PRId64 : " %" PRId64, delta[i])
                       : snprintf(text, sizeof text, "{\"first\":%" PRId64 ",\"steps\":\"", delta[0]);
        if (run > 1) length += snprintf(text + length, sizeof text - (size_t)length, "x%" PRId64, run);
        if (to) memcpy(to + n, text, (size_t)length);
        n += (size_t)length;
        run = 0;
    }
    if (to) memcpy(to + n, "\"}", 2);
    return n + 2;
}

static json_t *pack_picture(const lt_cache_picture *p)
{
    return json_pack("{sisis[ii]sisisisisi}", "width", p->width, "height", p->height, "sample_aspect",
                     p->sample_aspect_num, p->sample_aspect_den, "rotation", p->rotation, "primaries",
                     p->primaries, "transfer", p->transfer, "matrix", p->matrix, "range", p->range);
}

char *lt_cache_clean_text(const char *text)
{
    if (!text) text = "";
    json_t *string = json_string(text);
    char *copy = strdup(text);
    for (char *c = copy; !string && c && *c; c++)
        if (*c & 0x80) *c = '?';
    json_decref(string);
    return copy;
}

/* An object that is being put together; a value that could not be made is not left out of it unnoticed. */
typedef struct making {
    json_t *object;
    bool failed;
} making;

static void set(making *m, const char *name, json_t *value)
{
    if (json_object_set_new(m->object, name, value)) m->failed = true;
}

static void set_text(making *m, const char *name, const char *text)
{
    char *clean = lt_cache_clean_text(text);
    set(m, name, clean ? json_string(clean) : NULL);
    free(clean);
}

/* NULL where something of it failed. */
static char *dump(making *m)
{
    char *text = m->failed ? NULL : json_dumps(m->object, JSON_COMPACT);
    json_decref(m->object);
    return text;
}

/* The fields before the timestamps. */
static char *head_text(const lt_cache_clip *clip)
{
    making m = {.object = json_object()};
    set_text(&m, "state", lt_cache_state_name(clip->state));
    if (clip->reason) set_text(&m, "reason", clip->reason);
    set_text(&m, "clip", clip->clip);
    set_text(&m, "digest", clip->digest);
    set_text(&m, "source", clip->source);
    set_text(&m, "fingerprint", clip->fingerprint);
    set_text(&m, "caption", clip->caption);
    set(&m, "frames", json_integer(clip->n_frames));
    set(&m, "chunk", json_integer(clip->chunk));
    set(&m, "time_base", json_pack("[ii]", clip->time_base_num, clip->time_base_den));
    return dump(&m);
}

/* The fields behind the timestamps. */
static char *tail_text(const lt_cache_clip *clip, const lt_cache_side_info *side)
{
    char hash[24];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)side->xxh3);
    making m = {.object = json_object()};
    set(&m, "last_duration", json_integer(clip->last_duration));
    set(&m, "picture", pack_picture(&clip->picture));
    set(&m, "latent",
        json_pack("{sisisisssbsfsi}", "channels", clip->channels, "height", clip->height, "width",
                  clip->width, "dtype", lt_dtype_name(clip->dtype), "logvar", clip->logvar, "scaling_factor",
                  clip->scaling_factor, "factor", clip->factor));
    set_text(&m, "model", clip->model);
    set_text(&m, "weights", clip->weights);
    set_text(&m, "numerics", clip->numerics);
    set_text(&m, "numeric_class", clip->numeric_class);
    set_text(&m, "encoding", clip->encoding);
    if (clip->made_of && *clip->made_of) set_text(&m, "made_of", clip->made_of);
    set(&m, "side",
        json_pack("{sIsIss}", "bytes", (json_int_t)side->bytes, "values", (json_int_t)side->values, "xxh3",
                  hash));
    return dump(&m);
}

char *lt_cache_record_text(const lt_cache_clip *clip, const lt_cache_side_info *side)
{
    static const char name[] = ",\"timestamps\":";
    char *head = head_text(clip), *tail = tail_text(clip, side), *text = NULL;
    if (head && tail) {
        size_t n_head = strlen(head) - 1, n_times = write_timestamps(clip, NULL);
        text = malloc(n_head + sizeof name - 1 + n_times + strlen(tail) + 1);
        if (text) {
            char *to = text;
            memcpy(to, head, n_head); /* but its } */
            memcpy(to += n_head, name, sizeof name - 1);
            write_timestamps(clip, to += sizeof name - 1);
            *(to += n_times) = ',';
            strcpy(to + 1, tail + 1); /* but its { */
        }
    }
    free(head);
    free(tail);
    return text;
}

size_t lt_cache_record_peak(const lt_cache_clip *clip)
{
    return 2 * write_timestamps(clip, NULL);
}

static const char *text_of(const json_t *object, const char *name, lt_arena *arena, bool *fine)
{
    const char *text = json_string_value(json_object_get(object, name));
    char *copy = lt_arena_strdup(arena, text ? text : "");
    if (!copy) *fine = false;
    return copy;
}

/* Steps of timestamps on their way through the text "512 1024x7", or through a list [[512,1],[1024,7]], which earlier builds wrote. */
typedef struct steps {
    const char *text;
    const json_t *list;
    size_t at; /* in the list */
} steps;

static bool has_steps(const steps *s)
{
    return s->list ? s->at < json_array_size(s->list) : *s->text != 0;
}

/* The next step, and how often it comes; false when there is none. */
static bool next_step(steps *s, int64_t *step, int64_t *times)
{
    char *end;
    errno = 0;
    if (s->list) {
        const json_t *pair = json_array_get(s->list, s->at++);
        *step = json_integer_value(json_array_get(pair, 0));
        *times = json_integer_value(json_array_get(pair, 1));
        return *times > 0;
    }
    *step = strtoll(s->text, &end, 10);
    *times = 1;
    if (end == s->text) return false;
    if (*end == 'x') *times = strtoll(end + 1, &end, 10);
    s->text = end;
    return *times > 0 && !errno;
}

/* Unpack timestamps to differences; false when they are not n_frames of them. */
static bool parse_timestamps(const json_t *value, int64_t n_frames, lt_arena *arena, const int64_t **out)
{
    *out = NULL;
    if (json_is_null(value)) return true;
    const json_t *packed = json_object_get(value, "steps");
    const steps all = {json_string_value(packed), json_is_array(packed) ? packed : NULL, 0};
    size_t bytes;
    int64_t total = 1, step, times;
    if ((!all.text && !all.list) || !lt_mul_size((size_t)n_frames, sizeof(int64_t), &bytes)) return false;
    for (steps s = all; has_steps(&s); total += times)
        if (!next_step(&s, &step, &times) || times > n_frames - total) return false;
    int64_t *deltas = total == n_frames ? lt_arena_alloc(arena, bytes) : NULL;
    if (!deltas) return false;
    int64_t i = 0;
    deltas[i++] = integer(value, "first");
    for (steps s = all; has_steps(&s);)
        for (next_step(&s, &step, &times); times > 0; times--) deltas[i++] = step;
    *out = deltas;
    return true;
}

static void parse_picture(const json_t *object, lt_cache_picture *p, bool *fine)
{
    const json_t *aspect = json_object_get(object, "sample_aspect");
    *p = (lt_cache_picture){.width = int32_at(object, "width", fine),
                            .height = int32_at(object, "height", fine),
                            .sample_aspect_num = int32_of(json_array_get(aspect, 0), fine),
                            .sample_aspect_den = int32_of(json_array_get(aspect, 1), fine),
                            .rotation = int32_at(object, "rotation", fine),
                            .primaries = int32_at(object, "primaries", fine),
                            .transfer = int32_at(object, "transfer", fine),
                            .matrix = int32_at(object, "matrix", fine),
                            .range = int32_at(object, "range", fine)};
}

static void parse_latent(const json_t *object, lt_cache_clip *out, bool *fine)
{
    const char *dtype = json_string_value(json_object_get(object, "dtype"));
    out->channels = int32_at(object, "channels", fine);
    out->height = int32_at(object, "height", fine);
    out->width = int32_at(object, "width", fine);
    out->factor = int32_at(object, "factor", fine);
    out->logvar = json_is_true(json_object_get(object, "logvar"));
    out->scaling_factor = json_number_value(json_object_get(object, "scaling_factor"));
    if (!dtype || !lt_dtype_parse(dtype, &out->dtype) || !lt_dtype_is_float(out->dtype) ||
        out->channels <= 0 || out->height <= 0 || out->width <= 0)
        *fine = false;
}

static bool parse_record(const json_t *object, lt_arena *arena, lt_cache_clip *out, lt_cache_side_info *side)
{
    bool fine = parse_state(json_string_value(json_object_get(object, "state")), &out->state);
    out->reason = text_of(object, "reason", arena, &fine);
    out->clip = text_of(object, "clip", arena, &fine);
    out->digest = text_of(object, "digest", arena, &fine);
    out->source = text_of(object, "source", arena, &fine);
    out->fingerprint = text_of(object, "fingerprint", arena, &fine);
    out->caption = text_of(object, "caption", arena, &fine);
    out->model = text_of(object, "model", arena, &fine);
    out->weights = text_of(object, "weights", arena, &fine);
    out->numerics = text_of(object, "numerics", arena, &fine);
    out->numeric_class = text_of(object, "numeric_class", arena, &fine);
    out->encoding = text_of(object, "encoding", arena, &fine);
    out->made_of = text_of(object, "made_of", arena, &fine);
    out->n_frames = integer(object, "frames");
    out->chunk = int32_at(object, "chunk", &fine);
    out->last_duration = integer(object, "last_duration");
    const json_t *base = json_object_get(object, "time_base"), *about_side = json_object_get(object, "side");
    out->time_base_num = int32_of(json_array_get(base, 0), &fine);
    out->time_base_den = int32_of(json_array_get(base, 1), &fine);
    parse_picture(json_object_get(object, "picture"), &out->picture, &fine);
    out->side_bytes = side->bytes = integer(about_side, "bytes");
    side->values = integer(about_side, "values");
    const char *hash = json_string_value(json_object_get(about_side, "xxh3"));
    side->xxh3 = hash ? strtoull(hash, NULL, 16) : 0;
    parse_latent(json_object_get(object, "latent"), out, &fine);
    return fine && is_length(out->n_frames) && out->chunk > 0 && side->bytes >= 0 &&
           parse_timestamps(json_object_get(object, "timestamps"), out->n_frames, arena, &out->pts_delta);
}

lt_status lt_cache_parse_record(const MDB_val *value, const char *name, lt_arena *arena, lt_cache_clip *out,
                                lt_cache_side_info *side, lt_err *err)
{
    *out = (lt_cache_clip){0};
    *side = (lt_cache_side_info){0};
    json_t *object = json_loadb(value->mv_data, value->mv_size, 0, NULL);
    bool fine = json_is_object(object) && parse_record(object, arena, out, side);
    json_decref(object);
    return fine ? LT_OK : lt_fail(err, LT_E_FORMAT, "the cache's value of %s is damaged", name);
}
