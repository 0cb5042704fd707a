/* text_prompts.c - prompts as options give them. */
#include "stages/text_encode/text_encode.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

enum { CAPTION_BYTES = 64 << 10, NAME_BYTES = 48 };

/* One entry of `prompts`. */
static lt_status read_entry(const json_t *entry, int i, lt_prompts *p, lt_arena *arena, lt_err *err)
{
    const json_t *at = json_object_get(entry, "at"), *text = json_object_get(entry, "text");
    const char *key;
    json_t *value;
    if (!json_is_string(text) || (at && !json_is_number(at)))
        return lt_fail(err, LT_E_INVALID,
                       "entry %d of prompts is none: give { at = SECONDS, text = \"...\" }", i + 1);
    json_object_foreach(
        (json_t *)entry, key,
        value) if (strcmp(key, "at") != 0 &&
                   strcmp(key, "text") !=
                       0) return lt_fail(err, LT_E_INVALID,
                                         "entry %d of prompts has \"%.60s\"; there are at and text", i + 1,
                                         key);
    p->at[i] = at ? json_number_value(at) : 0;
    p->texts[i + 1] = lt_arena_strdup(arena, json_string_value(text));
    if (!p->texts[i + 1]) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the prompts");
    if (i == 0 && p->at[0] != 0)
        return lt_fail(err, LT_E_INVALID, "the first of prompts begins at %g s: it must begin at 0",
                       p->at[0]);
    if (!isfinite(p->at[i]) || (i && p->at[i] <= p->at[i - 1]))
        return lt_fail(err, LT_E_INVALID, "entry %d of prompts begins at %g s, not after the one before",
                       i + 1, p->at[i]);
    return LT_OK;
}

static lt_status make_room(lt_prompts *p, int n_prompts, lt_arena *arena, lt_err *err)
{
    p->n_texts = n_prompts + 1;
    p->texts = lt_arena_alloc(arena, (size_t)p->n_texts * sizeof *p->texts);
    p->at = lt_arena_alloc(arena, (size_t)n_prompts * sizeof *p->at);
    return p->texts && p->at ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory for the prompts");
}

static lt_status read_timeline(const lt_text_encode_config *config, lt_arena *arena, lt_prompts *p,
                               lt_err *err)
{
    json_error_t where;
    json_t *root = json_loads(config->prompts, 0, &where);
    size_t n = json_array_size(root);
    lt_status status = LT_OK;
    if (!root)
        status =
            lt_fail(err, LT_E_INVALID, "prompts cannot be read: %s (byte %d)", where.text, where.position);
    else if (!n)
        status =
            lt_fail(err, LT_E_INVALID, "prompts is no list with entries { at = SECONDS, text = \"...\" }");
    else if (n >= LT_PROMPTS_MAX)
        status = lt_fail(err, LT_E_INVALID, "%zu prompts; at most %d are taken", n, LT_PROMPTS_MAX - 1);
    else if (*config->prompt)
        status = lt_fail(err, LT_E_INVALID, "prompt and prompts are both given: give one");
    if (status == LT_OK) status = make_room(p, (int)n, arena, err);
    for (size_t i = 0; i < n && status == LT_OK; i++)
        status = read_entry(json_array_get(root, i), (int)i, p, arena, err);
    json_decref(root);
    return status;
}

/* Captions of a manifest, a slice of them a clip; their places stand for seconds. */
static lt_status read_slice(lt_clip_list *captions, uint32_t clip, lt_arena *arena, lt_prompts *p,
                            lt_err *err)
{
    int64_t first = (int64_t)clip * LT_PROMPTS_SLICE, n = lt_clip_list_count(captions) - first;
    if (n <= 0) return LT_END;
    lt_status status = make_room(p, (int)LT_MIN(n, (int64_t)LT_PROMPTS_SLICE), arena, err);
    for (int i = 0; i + 1 < p->n_texts && status == LT_OK; i++) {
        lt_clip_entry entry;
        status = lt_clip_list_get(captions, first + i, arena, &entry, err);
        if (status == LT_OK) p->texts[i + 1] = entry.text;
        p->at[i] = i;
    }
    return status;
}

lt_status lt_prompts_read(const lt_text_encode_config *config, lt_clip_list *captions, uint32_t clip,
                          lt_arena *arena, lt_prompts *p, lt_err *err)
{
    lt_status status;
    *p = (lt_prompts){0};
    if (captions) {
        status = read_slice(captions, clip, arena, p, err);
    } else if (clip > 0) {
        return LT_END;
    } else if (*config->prompts) {
        status = read_timeline(config, arena, p, err);
    } else {
        status = make_room(p, 1, arena, err);
        if (status == LT_OK) p->texts[1] = config->prompt;
    }
    if (status == LT_OK) p->texts[0] = config->negative;
    return status;
}

static const char placeholder[] = "{caption}";

/* `text` with `caption` in every place that asks for it. */
static const char *fill_one(const char *text, const char *caption, lt_arena *arena)
{
    size_t n = 0, length = strlen(caption);
    for (const char *at = text; (at = strstr(at, placeholder)); at += sizeof placeholder - 1) n++;
    if (!n) return text;
    char *filled = lt_arena_alloc(arena, strlen(text) + n * length + 1), *to = filled;
    if (!filled) return NULL;
    for (const char *at; (at = strstr(text, placeholder)); text = at + sizeof placeholder - 1) {
        memcpy(to, text, (size_t)(at - text));
        memcpy(to + (at - text), caption, length);
        to += (size_t)(at - text) + length;
    }
    strcpy(to, text);
    return filled;
}

lt_status lt_prompts_fill(lt_prompts *p, const char *clip, const char *caption, lt_arena *arena, lt_err *err)
{
    for (int i = 0; i < p->n_texts; i++) {
        if (!strstr(p->texts[i], placeholder)) continue;
        if (!caption)
            return lt_fail(err, LT_E_INVALID,
                           "a prompt has {caption}, but no clips come here: add from = \"STAGE\", with the "
                           "stage that reads them");
        if (!*caption)
            return lt_fail(err, LT_E_INVALID, "clip %s has no caption, which its prompt asks for", clip);
        p->texts[i] = fill_one(p->texts[i], caption, arena);
        if (!p->texts[i]) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the prompts");
    }
    return LT_OK;
}

const char *lt_prompts_name(const char *prompt, lt_arena *arena)
{
    char name[NAME_BYTES + 1];
    size_t n = 0;
    for (const char *c = prompt; *c && n < NAME_BYTES; c++) {
        if (isalnum((unsigned char)*c))
            name[n++] = (char)tolower((unsigned char)*c);
        else if (n && name[n - 1] != '-')
            name[n++] = '-';
    }
    while (n && name[n - 1] == '-') n--;
    name[n] = 0;
    return lt_arena_strdup(arena, n ? name : "prompt");
}

char *lt_prompts_caption(const char *prompt, lt_arena *arena)
{
    char *caption = lt_arena_strdup(arena, prompt);
    if (!caption) return NULL;
    size_t n = LT_MIN(strlen(caption), (size_t)CAPTION_BYTES);
    while (n && ((unsigned char)caption[n] & 0xc0) == 0x80) n--; /* no half a character */
    caption[n] = 0;
    for (char *c = caption; *c; c++)
        if (((unsigned char)*c < 0x20 && *c != '\n' && *c != '\t') || *c == 0x7f) *c = ' ';
    return caption;
}
