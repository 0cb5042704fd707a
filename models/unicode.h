/* unicode.h - what the tokenizers need of Unicode: classes, lower case, normal form C, graphemes. Internal to models/.
 *
 * By tables that agree, character by character, with the libraries behind transformers' tokenizers, which are at four
 * different versions of Unicode: a library of the system agrees with none of them throughout, and would change ids when
 * it is updated. tools/make_unicode_tables.py makes them. Pure functions of their arguments; any thread. */
#ifndef LT_UNICODE_H
#define LT_UNICODE_H

#include "core/core.h"

typedef enum {
    LT_UNICODE_LETTER, /* \p{L} */
    LT_UNICODE_NUMBER, /* \p{N} */
    LT_UNICODE_WORD,   /* \w */
    LT_UNICODE_SPACE,  /* \s, White_Space */
} lt_unicode_class;

bool lt_unicode_is(lt_unicode_class class, uint32_t c);

/* Bytes that grow. Zeroed is empty; free `at`. */
typedef struct lt_buffer {
    char *at;
    size_t n, capacity;
} lt_buffer;

/* Both: false when memory is out. */
bool lt_buffer_append(lt_buffer *text, const char *bytes, size_t n);
bool lt_buffer_append_char(lt_buffer *text, uint32_t c); /* in UTF-8 */

/* How many bytes from the start are whole characters of UTF-8 (no surrogates, nothing overlong, at most U+10FFFF); n when all
 * are. */
size_t lt_utf8_valid(const char *text, size_t n);

/* The character at *at of text known to be valid, and *at past it. */
uint32_t lt_utf8_next(const char *text, size_t *at);
/* The character before *at, and *at at its start. */
uint32_t lt_utf8_previous(const char *text, size_t *at);

/* Append to `out` (at least 2 characters of room): the lower case of c, one or two characters. Returns how many. */
int lt_unicode_lower(uint32_t c, uint32_t out[2]);

/* Text in normal form C, appended to out. Time: n. E_NO_MEMORY. */
lt_status lt_unicode_nfc(const char *text, size_t n, lt_buffer *out, lt_err *err);

/* End of the grapheme that starts at `at` < n. Hangul syllables and flags are not joined: no grapheme of theirs is shorter than
 * six bytes, and longer ones are of no interest to any caller. */
size_t lt_unicode_grapheme_end(const char *text, size_t n, size_t at);

#endif
