/* format.h - numbers as people read them. */
#ifndef LT_ORCHESTRATOR_FORMAT_H
#define LT_ORCHESTRATOR_FORMAT_H

#include "core/core.h"

/* A few characters of text, returned by value. */
typedef struct lt_text {
    char text[32];
} lt_text;

/* "512 B", "1.5 GiB"; "0:07", "1:02:03". */
lt_text lt_format_bytes(double bytes);
lt_text lt_format_seconds(double seconds);

#endif
