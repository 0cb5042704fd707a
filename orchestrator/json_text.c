/* json_text.c - text of any origin as JSON. */
#include "orchestrator/json_text.h"

#include <stdlib.h>
#include <string.h>

#include "core/core.h"

json_t *lt_json_text(const char *text)
{
    char *utf8 = malloc(2 * strlen(text) + 1), *to = utf8;
    if (!utf8) return NULL;
    for (const char *at = text; *at;) {
        size_t n = lt_utf8_bytes(at);
        memcpy(to, at, n);
        to += n;
        if (!n) { /* a byte from 0x80 on */
            *to++ = (char)(0xc0 | (unsigned char)*at >> 6);
            *to++ = (char)(0x80 | (*at & 0x3f));
        }
        at += LT_MAX(n, 1);
    }
    json_t *json = json_stringn(utf8, (size_t)(to - utf8));
    free(utf8);
    return json;
}
