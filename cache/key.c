/* key.c - keys: readable, sorted by clip, digest and first frame, at most 511 bytes. */
#include "cache/internal.h"

#include <stdio.h>
#include <string.h>

static bool is_of(const char *text, size_t most, const char *extra)
{
    size_t n = 0;
    for (; text[n]; n++) {
        char c = text[n];
        bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        bool allowed = plain || (extra && ((c >= 'A' && c <= 'Z') || strchr(extra, c)));
        if (!allowed || n >= most) return false;
    }
    return n > 0;
}

lt_status lt_cache_check_name(const char *clip, const char *digest, lt_err *err)
{
    if (!clip || !is_of(clip, LT_CACHE_CLIP_BYTES - 1, "._-"))
        return lt_fail(err, LT_E_INVALID,
                       "the clip's name \"%.300s\" cannot be a key: 1 to %d of A-Z a-z 0-9 . _ - are allowed",
                       clip ? clip : "", LT_CACHE_CLIP_BYTES - 1);
    if (!digest || !is_of(digest, LT_CACHE_DIGEST_BYTES - 1, NULL))
        return lt_fail(err, LT_E_INVALID,
                       "the digest \"%.100s\" cannot be a key: 1 to %d of a-z 0-9 are allowed",
                       digest ? digest : "", LT_CACHE_DIGEST_BYTES - 1);
    return LT_OK;
}

MDB_val lt_cache_key(char text[LT_CACHE_KEY_BYTES], const char *word, const char *clip, const char *digest)
{
    int n = snprintf(text, LT_CACHE_KEY_BYTES, "%s/%s/%s", word, clip, digest);
    return lt_cache_val(text, (size_t)n);
}

MDB_val lt_cache_key_number(char text[LT_CACHE_KEY_BYTES], const char *word, const char *clip,
                            const char *digest, int64_t number, int digits)
{
    int n =
        snprintf(text, LT_CACHE_KEY_BYTES, "%s/%s/%s/%0*lld", word, clip, digest, digits, (long long)number);
    return lt_cache_val(text, (size_t)n);
}

/* Copy up to the next '/' or the end; false when it does not fit, is empty, or no text. */
static bool take_part(const char **at, const char *end, char *part, size_t part_bytes)
{
    size_t n = 0;
    for (; *at < end && **at != '/'; (*at)++) {
        if (n + 1 >= part_bytes || !**at) return false;
        part[n++] = **at;
    }
    part[n] = 0;
    return n > 0;
}

static bool skip_slash(const char **at, const char *end)
{
    if (*at == end) return false;
    (*at)++;
    return true;
}

bool lt_cache_key_parse(const MDB_val *key, const char *word, char clip[LT_CACHE_CLIP_BYTES],
                        char digest[LT_CACHE_DIGEST_BYTES], int64_t *number)
{
    const char *at = key->mv_data, *end = at + key->mv_size;
    char part[32];
    if (!take_part(&at, end, part, sizeof part) || strcmp(part, word) || !skip_slash(&at, end)) return false;
    if (!take_part(&at, end, clip, LT_CACHE_CLIP_BYTES) || !skip_slash(&at, end)) return false;
    if (!take_part(&at, end, digest, LT_CACHE_DIGEST_BYTES)) return false;
    if (!is_of(clip, LT_CACHE_CLIP_BYTES - 1, "._-") || !is_of(digest, LT_CACHE_DIGEST_BYTES - 1, NULL))
        return false;
    if (!number) return at == end;
    if (!skip_slash(&at, end) || !take_part(&at, end, part, sizeof part) || at != end || strlen(part) > 18)
        return false;
    *number = 0;
    for (const char *c = part; *c; c++) {
        if (*c < '0' || *c > '9') return false;
        *number = *number * 10 + (*c - '0');
    }
    return true;
}
