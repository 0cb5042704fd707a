/* json_text.h - text of any origin as JSON. */
#ifndef LT_ORCHESTRATOR_JSON_TEXT_H
#define LT_ORCHESTRATOR_JSON_TEXT_H

#include <jansson.h>

/* `text` as a string. Paths and last words need not be UTF-8, which JSON is: a byte that belongs to no character is written as \u00XX,
 * the character of its number. The caller's to decref; NULL when memory is out. */
json_t *lt_json_text(const char *text);

#endif
