/* tokenizer_added.c - tokens such as <|endoftext|> that are found in the text before anything else: the leftmost, of several
 * there the longest, none over another. */
#include "models/tokenizer_parts.h"

#include <string.h>

void added_start(added_cursor *cursor, const added_token *tokens, int n_tokens, bool normalized,
                 const char *text, size_t n)
{
    *cursor = (added_cursor){
        .tokens = tokens, .n_tokens = n_tokens, .normalized = normalized, .text = text, .n = n};
    for (int i = 0; i < n_tokens; i++)
        if (tokens[i].normalized == normalized && tokens[i].normal_n > 0)
            cursor->first[(unsigned char)tokens[i].normal_text[0]] = true;
}

static const added_token *token_at(const added_cursor *cursor, size_t at)
{
    const added_token *best = NULL;
    if (!cursor->first[(unsigned char)cursor->text[at]]) return NULL;
    for (int i = 0; i < cursor->n_tokens; i++) {
        const added_token *t = &cursor->tokens[i];
        if (t->normalized != cursor->normalized || t->normal_n == 0 || t->normal_n > cursor->n - at) continue;
        if ((!best || t->normal_n > best->normal_n) &&
            memcmp(cursor->text + at, t->normal_text, t->normal_n) == 0)
            best = t;
    }
    return best;
}

/* Whether [begin, end) stands alone: no word character on either side. */
static bool stands_alone(const added_cursor *cursor, size_t begin, size_t end)
{
    size_t before = begin, after = end;
    if (begin > 0 && lt_unicode_is(LT_UNICODE_WORD, lt_utf8_previous(cursor->text, &before))) return false;
    return end == cursor->n || !lt_unicode_is(LT_UNICODE_WORD, lt_utf8_next(cursor->text, &after));
}

/* Look for the next match and leave it pending; false: there is none. */
static bool find_match(added_cursor *cursor)
{
    while (cursor->search < cursor->n) {
        size_t begin = cursor->search;
        const added_token *t = token_at(cursor, begin);
        if (!t) {
            cursor->search++;
            continue;
        }
        size_t end = begin + t->normal_n;
        cursor->search = end;
        if (t->single_word && !stands_alone(cursor, begin, end)) continue;
        for (size_t at = begin; t->lstrip && begin > cursor->done; begin = at)
            if (!lt_unicode_is(LT_UNICODE_SPACE, lt_utf8_previous(cursor->text, &at))) break;
        for (size_t at = end; t->rstrip && end < cursor->n; end = at)
            if (!lt_unicode_is(LT_UNICODE_SPACE, lt_utf8_next(cursor->text, &at))) break;
        cursor->match_begin = LT_MAX(begin, cursor->done);
        cursor->match_end = end;
        cursor->match_id = t->id;
        cursor->pending = true;
        return true;
    }
    return false;
}

bool added_next(added_cursor *cursor, size_t *begin, size_t *end, int32_t *id)
{
    *begin = cursor->done;
    *id = -1;
    if (!cursor->pending && !find_match(cursor)) {
        *end = cursor->done = cursor->n;
        return *begin < *end;
    }
    if (cursor->match_begin > cursor->done) {
        *end = cursor->done = cursor->match_begin;
        return true;
    }
    *end = cursor->done = LT_MAX(cursor->match_end, cursor->done);
    *id = cursor->match_id;
    cursor->pending = false;
    return true;
}
