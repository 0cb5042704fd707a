/* text.c - UTF-8, and sentences that fit into their room. */
#include "core/core.h"

#include <stdio.h>
#include <string.h>

size_t lt_utf8_bytes(const char *text)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) return p[0] != 0;
    size_t n = p[0] >= 0xf8 ? 0 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : p[0] >= 0xc0 ? 2 : 0;
    if (!n) return 0;
    uint32_t code = p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (p[i] & 0x3f);
    }
    bool is_surrogate = code >= 0xd800 && code < 0xe000;
    return code < least[n] || code > 0x10ffff || is_surrogate ? 0 : n;
}

/* The text was cut off: a character of which only the beginning is left goes, too. */
static void end_whole(char *text)
{
    size_t n = strlen(text), at = n;
    while (at && n - at < 3 && ((unsigned char)text[at - 1] & 0xc0) == 0x80) at--;
    if (!at || (unsigned char)text[at - 1] < 0xc0) return;
    if (!lt_utf8_bytes(text + at - 1)) text[at - 1] = 0;
}

void lt_text_vprint(char *text, size_t room, const char *format, va_list args)
{
    int n = vsnprintf(text, room, format, args);
    if (n >= 0 && (size_t)n >= room) end_whole(text);
}

void lt_text_print(char *text, size_t room, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    lt_text_vprint(text, room, format, args);
    va_end(args);
}
