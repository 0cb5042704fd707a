/* stream.c - the description of a clip on an edge: checked, copied, compared; its timestamps; names of enumerations. */
#include "proto/wire.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    DIMENSION_MAX = 1 << 20,
    TEXT_MAX = 1 << 20,
    PATH_MAX_BYTES = 4096,
    NAME_MAX_BYTES = 255,
    DIGEST_MAX = 256
};

/* ---- names ---------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    Lt__Wire__PortKind kind;
} kinds[] = {
    {"frames", LT__WIRE__PORT_KIND__PORT_FRAMES},
    {"latents", LT__WIRE__PORT_KIND__PORT_LATENTS},
    {"windows", LT__WIRE__PORT_KIND__PORT_WINDOWS},
    {"text", LT__WIRE__PORT_KIND__PORT_TEXT},
};

const char *lt_port_kind_name(Lt__Wire__PortKind kind)
{
    for (size_t i = 0; i < LT_COUNT(kinds); i++)
        if (kinds[i].kind == kind) return kinds[i].name;
    return "none";
}

Lt__Wire__PortKind lt_port_kind_parse(const char *name)
{
    for (size_t i = 0; i < LT_COUNT(kinds); i++)
        if (!strcmp(kinds[i].name, name)) return kinds[i].kind;
    return LT__WIRE__PORT_KIND__PORT_NONE;
}

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {{"none", 0}, {"f32", 4}, {"bf16", 2}, {"f16", 2}, {"f64", 8},
              {"u8", 1},   {"u16", 2}, {"i32", 4},  {"i64", 8}};

const char *lt_wire_dtype_name(Lt__Wire__Dtype dtype)
{
    return dtypes[(unsigned)dtype < LT_COUNT(dtypes) ? dtype : 0].name;
}

size_t lt_wire_dtype_bytes(Lt__Wire__Dtype dtype)
{
    return dtypes[(unsigned)dtype < LT_COUNT(dtypes) ? dtype : 0].bytes;
}

/* ---- text ------------------------------------------------------------------------------------------------------------ */

/* Bytes of the clean character at `text`; 0: there is none. */
static size_t clean_bytes(const char *text)
{
    unsigned char c = (unsigned char)*text;
    bool is_control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f;
    return is_control ? 0 : lt_utf8_bytes(text);
}

bool lt_text_is_clean(const char *text, size_t max_bytes)
{
    for (const char *at = text; *at;) {
        size_t n = clean_bytes(at);
        at += n;
        if (!n || (size_t)(at - text) > max_bytes) return false;
    }
    return true;
}

void lt_text_clean(char *to, const char *text, size_t max_bytes)
{
    for (size_t n; *text; text += n, to += n, max_bytes -= n) {
        size_t valid = clean_bytes(text);
        n = LT_MAX(valid, (size_t)1);
        if (n > max_bytes) break;
        if (valid)
            memmove(to, text, n);
        else
            *to = '?';
    }
    *to = 0;
}

static const char name_letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

bool lt_is_clip_name(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n <= NAME_MAX_BYTES && strspn(name, name_letters) == n && name[0] != '.';
}

void lt_make_clip_name(char *text)
{
    for (char *c = text; *c; c++)
        if (!strchr(name_letters, *c)) *c = '-';
    if (*text == '.') *text = '-';
}

static bool is_hex(const char *digest)
{
    size_t n = strlen(digest);
    return n <= DIGEST_MAX && strspn(digest, "0123456789abcdef") == n;
}

/* ---- check ------------------------------------------------------------------------------------------------------------ */

static bool in_range(uint32_t value, uint32_t max)
{
    return value >= 1 && value <= max;
}

static const char *wrong_windows(const Lt__Wire__Windows *w)
{
    const uint32_t values[] = {w->window,     w->stride,        w->tile_height,
                               w->tile_width, w->stride_height, w->stride_width};
    for (size_t i = 0; i < LT_COUNT(values); i++)
        if (values[i] > DIMENSION_MAX) return "windows";
    return w->window && w->stride ? NULL : "windows";
}

static const char *wrong_count(const lt_stream *s)
{
    if (s->n_frames > LT_STREAM_FRAMES_MAX) return "n_frames";
    if (s->n_units > s->n_frames || !s->n_units != !s->n_frames) return "n_units";
    bool has_chunks = s->kind != LT__WIRE__PORT_KIND__PORT_WINDOWS;
    if (has_chunks && !in_range(s->chunk, DIMENSION_MAX)) return "chunk";
    if (has_chunks && s->n_units != (s->n_frames + s->chunk - 1) / s->chunk) return "n_units";
    if (!s->unit_bytes || s->unit_bytes > LT_UNIT_BYTES_MAX) return "unit_bytes";
    if (s->live && s->n_pts_delta) return "pts_delta";
    if (s->rate_num > INT32_MAX || s->rate_den > INT32_MAX || !s->rate_num != !s->rate_den) return "rate_num";
    if (!in_range(s->time_base_num, INT32_MAX)) return "time_base_num";
    if (!in_range(s->time_base_den, INT32_MAX)) return "time_base_den";
    if (s->n_pts_delta && s->n_pts_delta != s->n_frames) return "pts_delta";
    return s->last_duration < 0 ? "last_duration" : NULL;
}

/* Prompts and the sizes of their embeddings. */
static const char *wrong_prompts(const lt_stream *s)
{
    if (!s->text || s->n_units < 1 || s->text->n_at != s->n_units - 1 || s->chunk != 1) return "text";
    for (size_t i = 0; i < s->text->n_at; i++) {
        double at = s->text->at[i];
        if (!isfinite(at) || (i ? at <= s->text->at[i - 1] : at != 0)) return "text";
    }
    if (!s->width != !s->height || s->width > DIMENSION_MAX) return "width";
    if (s->height > DIMENSION_MAX) return "height";
    if (s->channels > DIMENSION_MAX || (!s->channels && !s->width)) return "channels";
    return NULL;
}

static const char *wrong_latents(const Lt__Wire__Latents *l)
{
    const char *const texts[] = {l->weights, l->numerics, l->encoding, l->made_of};
    if (strlen(l->model) > PATH_MAX_BYTES) return "latents";
    for (size_t i = 0; i < LT_COUNT(texts); i++)
        if (!lt_text_is_clean(texts[i], DIGEST_MAX)) return "latents";
    return NULL;
}

static const char *wrong_text(const lt_stream *s)
{
    if (!lt_is_clip_name(s->name)) return "name";
    if (!is_hex(s->fingerprint)) return "fingerprint";
    if (!is_hex(s->digest)) return "digest";
    if (!lt_text_is_clean(s->numeric_class, NAME_MAX_BYTES)) return "numeric_class";
    if (!lt_text_is_clean(s->caption, TEXT_MAX)) return "caption";
    if (!lt_text_is_clean(s->entry, TEXT_MAX)) return "entry";
    if (!is_hex(s->key)) return "key";
    if (strlen(s->source) > PATH_MAX_BYTES) return "source";
    if (strlen(s->side_path) > PATH_MAX_BYTES) return "side_path";
    return NULL;
}

static const char *wrong_field(const lt_stream *s)
{
    if (!strcmp(lt_port_kind_name(s->kind), "none")) return "kind";
    if (!lt_wire_dtype_bytes(s->dtype)) return "dtype";
    bool is_text = s->kind == LT__WIRE__PORT_KIND__PORT_TEXT;
    if (!is_text && !in_range(s->width, DIMENSION_MAX)) return "width";
    if (!is_text && !in_range(s->height, DIMENSION_MAX)) return "height";
    if (!is_text && !in_range(s->channels, DIMENSION_MAX)) return "channels";
    if (s->bits > 64) return "bits";
    if (s->factor > DIMENSION_MAX) return "factor";
    if (!isfinite(s->scaling_factor)) return "scaling_factor";
    if (s->kind == LT__WIRE__PORT_KIND__PORT_WINDOWS && !s->windows) return "windows";
    const char *wrong = s->windows ? wrong_windows(s->windows) : NULL;
    if (!wrong && s->latents) wrong = wrong_latents(s->latents);
    if (!wrong) wrong = wrong_count(s);
    if (!wrong && is_text) wrong = wrong_prompts(s);
    return wrong ? wrong : wrong_text(s);
}

/* Walk the timestamps; pts may be NULL. False where they overflow or do not increase. */
static bool walk_pts(const lt_stream *s, int64_t *pts)
{
    int64_t now = 0;
    for (size_t i = 0; i < s->n_pts_delta; i++) {
        if (i && s->pts_delta[i] <= 0) return false;
        if (__builtin_add_overflow(now, s->pts_delta[i], &now)) return false;
        if (pts) pts[i] = now;
    }
    return true;
}

lt_status lt_stream_check(const lt_stream *stream, lt_err *err)
{
    const char *wrong = wrong_field(stream);
    if (!wrong && !walk_pts(stream, NULL)) wrong = "pts_delta";
    if (wrong) return lt_fail(err, LT_E_FORMAT, "a stream's %s cannot be what it says", wrong);
    return LT_OK;
}

lt_status lt_stream_clean(lt_stream *stream, lt_arena *arena, lt_err *err)
{
    char *caption = stream->caption, *entry = stream->entry;
    if (!lt_text_is_clean(caption, TEXT_MAX)) caption = lt_arena_strdup(arena, caption);
    if (strlen(entry) > TEXT_MAX)
        entry = lt_arena_strdup(arena, "");
    else if (!lt_text_is_clean(entry, TEXT_MAX))
        entry = lt_arena_strdup(arena, entry);
    if (!caption || !entry) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the texts of a stream");
    if (caption != stream->caption) lt_text_clean(caption, caption, TEXT_MAX);
    if (entry != stream->entry) lt_text_clean(entry, entry, TEXT_MAX);
    stream->caption = caption;
    stream->entry = entry;
    return LT_OK;
}

/* ---- copy -------------------------------------------------------------------------------------------------------------- */

static Lt__Wire__Latents *copy_latents(const Lt__Wire__Latents *from, lt_arena *arena)
{
    Lt__Wire__Latents *copy = lt_arena_alloc(arena, sizeof *copy);
    if (!copy) return NULL;
    *copy = *from;
    copy->base = (ProtobufCMessage){.descriptor = &lt__wire__latents__descriptor};
    char **const texts[] = {&copy->model, &copy->weights, &copy->numerics, &copy->encoding, &copy->made_of};
    for (size_t i = 0; i < LT_COUNT(texts); i++)
        if (!(*texts[i] = lt_arena_strdup(arena, *texts[i]))) return NULL;
    return copy;
}

lt_status lt_stream_copy(lt_stream *to, const lt_stream *from, lt_arena *arena, lt_err *err)
{
    lt_stream copy = *from;
    char **const texts[] = {&copy.name,        &copy.source, &copy.caption,
                            &copy.fingerprint, &copy.digest, &copy.numeric_class,
                            &copy.side_path,   &copy.entry,  &copy.key};
    for (size_t i = 0; i < LT_COUNT(texts); i++) {
        *texts[i] = lt_arena_strdup(arena, *texts[i]);
        if (!*texts[i]) goto fail;
    }
    if (from->n_pts_delta) {
        copy.pts_delta = lt_arena_alloc(arena, from->n_pts_delta * sizeof *copy.pts_delta);
        if (!copy.pts_delta) goto fail;
        memcpy(copy.pts_delta, from->pts_delta, from->n_pts_delta * sizeof *copy.pts_delta);
    }
    if (from->picture) {
        copy.picture = lt_arena_alloc(arena, sizeof *copy.picture);
        if (!copy.picture) goto fail;
        *copy.picture = *from->picture;
    }
    if (from->windows) {
        copy.windows = lt_arena_alloc(arena, sizeof *copy.windows);
        if (!copy.windows) goto fail;
        *copy.windows = *from->windows;
    }
    if (from->text) {
        copy.text = lt_arena_alloc(arena, sizeof *copy.text);
        double *at = lt_arena_alloc(arena, LT_MAX(from->text->n_at, (size_t)1) * sizeof *at);
        if (!copy.text || !at) goto fail;
        if (from->text->n_at) memcpy(at, from->text->at, from->text->n_at * sizeof *at);
        *copy.text = *from->text;
        copy.text->base = (ProtobufCMessage){.descriptor = &lt__wire__text__descriptor};
        copy.text->at = at;
    }
    if (from->latents && !(copy.latents = copy_latents(from->latents, arena))) goto fail;
    /* Fields that a newer sender knows belong to the message they came in. */
    copy.base.n_unknown_fields = 0;
    copy.base.unknown_fields = NULL;
    if (copy.picture) copy.picture->base = (ProtobufCMessage){.descriptor = &lt__wire__picture__descriptor};
    if (copy.windows) copy.windows->base = (ProtobufCMessage){.descriptor = &lt__wire__windows__descriptor};
    *to = copy;
    return LT_OK;
fail:
    return lt_fail(err, LT_E_NO_MEMORY, "no memory to copy a stream of %zu timestamps", from->n_pts_delta);
}

/* ---- comparison -------------------------------------------------------------------------------------------------------- */

/* Names are the messages' own, so that the sentence can be looked up in longtake.proto. */
static const char *picture_difference(const Lt__Wire__Picture *a, const Lt__Wire__Picture *b)
{
    if (!a || !b) return a == b ? NULL : "picture";
    bool same = a->width == b->width && a->height == b->height &&
                a->sample_aspect_num == b->sample_aspect_num &&
                a->sample_aspect_den == b->sample_aspect_den && a->rotation == b->rotation &&
                a->primaries == b->primaries && a->transfer == b->transfer && a->matrix == b->matrix &&
                a->range == b->range && a->bits == b->bits;
    return same ? NULL : "picture";
}

static const char *windows_difference(const Lt__Wire__Windows *a, const Lt__Wire__Windows *b)
{
    if (!a || !b) return a == b ? NULL : "windows";
    bool same = a->window == b->window && a->stride == b->stride && a->tile_height == b->tile_height &&
                a->tile_width == b->tile_width && a->stride_height == b->stride_height &&
                a->stride_width == b->stride_width && a->truncate == b->truncate;
    return same ? NULL : "windows";
}

static const char *text_difference(const Lt__Wire__Text *a, const Lt__Wire__Text *b)
{
    if (!a || !b) return a == b ? NULL : "text";
    bool same = a->n_at == b->n_at && (!a->n_at || !memcmp(a->at, b->at, a->n_at * sizeof *a->at));
    return same ? NULL : "text";
}

bool lt_stream_has_logvar(const lt_stream *stream)
{
    return stream->latents && stream->latents->logvar;
}

const char *lt_stream_difference(const lt_stream *a, const lt_stream *b, bool mixed)
{
#define COMPARE(field)                                                                                       \
    if (a->field != b->field) return #field
    COMPARE(kind);
    COMPARE(dtype);
    COMPARE(width);
    COMPARE(height);
    COMPARE(channels);
    COMPARE(bits);
    COMPARE(chunk);
    COMPARE(live);
    if (!a->live) { /* of a live one it may be known by now, or not yet */
        COMPARE(n_frames);
        COMPARE(n_units);
        COMPARE(last_duration);
    }
    COMPARE(unit_bytes);
    COMPARE(time_base_num);
    COMPARE(time_base_den);
    COMPARE(rate_num);
    COMPARE(rate_den);
    COMPARE(scaling_factor);
    COMPARE(factor);
    COMPARE(n_pts_delta);
#undef COMPARE
    if (a->n_pts_delta && memcmp(a->pts_delta, b->pts_delta, a->n_pts_delta * sizeof *a->pts_delta))
        return "pts_delta";
    const char *different = picture_difference(a->picture, b->picture);
    if (!different) different = windows_difference(a->windows, b->windows);
    if (!different) different = text_difference(a->text, b->text);
    if (!different && lt_stream_has_logvar(a) != lt_stream_has_logvar(b)) different = "latents";
    if (different) return different;
    if (strcmp(a->name, b->name)) return "name";
    if (strcmp(a->fingerprint, b->fingerprint)) return "fingerprint";
    bool same_class = !strcmp(a->numeric_class, b->numeric_class);
    if (!same_class && !mixed) return "numeric_class";
    if (same_class && strcmp(a->digest, b->digest)) return "digest";
    return NULL;
}

/* ---- timestamps -------------------------------------------------------------------------------------------------------- */

lt_status lt_stream_pts(const lt_stream *stream, int64_t *pts, lt_err *err)
{
    if (stream->n_pts_delta != stream->n_frames)
        return lt_fail(err, LT_E_INVALID, "clip %s carries %zu timestamps for %llu frames", stream->name,
                       stream->n_pts_delta, (unsigned long long)stream->n_frames);
    if (!walk_pts(stream, pts))
        return lt_fail(err, LT_E_FORMAT, "timestamps of clip %s overflow or do not increase", stream->name);
    return LT_OK;
}

lt_status lt_stream_set_pts(lt_stream *stream, const int64_t *pts, size_t n, lt_arena *arena, lt_err *err)
{
    size_t bytes;
    if (!lt_mul_size(n, sizeof(int64_t), &bytes))
        return lt_fail(err, LT_E_INVALID, "%zu timestamps are too many", n);
    int64_t *delta = lt_arena_alloc(arena, bytes);
    if (!delta) return lt_fail(err, LT_E_NO_MEMORY, "no memory for %zu timestamps", n);
    for (size_t i = 0; i < n; i++) {
        if (i && pts[i] <= pts[i - 1])
            return lt_fail(err, LT_E_INVALID,
                           "timestamp of frame %zu (%lld) is not above the one before (%lld)", i,
                           (long long)pts[i], (long long)pts[i - 1]);
        if (__builtin_sub_overflow(pts[i], i ? pts[i - 1] : 0, &delta[i]))
            return lt_fail(err, LT_E_INVALID, "timestamp of frame %zu is out of range", i);
    }
    stream->n_frames = stream->n_pts_delta = n;
    stream->pts_delta = delta;
    return LT_OK;
}
