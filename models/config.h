/* config.h - reading a model's config.json: the first thing that is wrong is kept, everything after it gives the fallback, so a
 * reader checks once, at its end. Internal to models/.
 *
 * A reader belongs to one thread. It holds the parsed text from config_open to config_close; strings live as long. */
#ifndef LT_MODEL_CONFIG_H
#define LT_MODEL_CONFIG_H

#include "core/core.h"

struct json_t;

typedef struct config_reader {
    struct json_t *root;
    const char *path; /* for sentences; borrowed */
    lt_err *err;
    lt_status status; /* first error */
} config_reader;

/* Parse `text`, which must be a JSON object. The reader is to be closed after an error, too. E_FORMAT. */
lt_status config_open(config_reader *reader, const char *text, const char *path, lt_err *err);
void config_close(config_reader *reader);

/* The value of `key`; the fallback where it is absent or null. E_UNSUPPORTED in the reader for a number that is not whole or not
 * from low to high; E_FORMAT for one that is not finite, and for a boolean that is none. */
int config_int(config_reader *reader, const char *key, int fallback, int low, int high);
double config_double(config_reader *reader, const char *key, double fallback);
bool config_bool(config_reader *reader, const char *key, bool fallback);

/* A string; the fallback where it is absent, null, or no string. */
const char *config_text(config_reader *reader, const char *key, const char *fallback);

/* Keep an error as the reader's first one. */
void config_fail(config_reader *reader, lt_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
