/* config.c - values of a config.json, checked. */
#include "models/config.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

lt_status config_open(config_reader *r, const char *text, const char *path, lt_err *err)
{
    json_error_t where;
    *r = (config_reader){.path = path, .err = err};
    r->root = json_loads(text, 0, &where);
    if (!r->root)
        r->status = lt_fail(err, LT_E_FORMAT, "%s:%d: %s", path, where.line, where.text);
    else if (!json_is_object(r->root))
        r->status = lt_fail(err, LT_E_FORMAT, "%s: not a JSON object", path);
    return r->status;
}

void config_close(config_reader *r)
{
    json_decref(r->root);
    r->root = NULL;
}

void config_fail(config_reader *r, lt_status status, const char *format, ...)
{
    char text[512];
    if (r->status != LT_OK) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    r->status = lt_fail(r->err, status, "%s: %s", r->path, text);
}

/* The value, or NULL where the fallback is meant. */
static const json_t *value_of(const config_reader *r, const char *key)
{
    const json_t *value = json_object_get(r->root, key);
    return r->status != LT_OK || json_is_null(value) ? NULL : value;
}

int config_int(config_reader *r, const char *key, int fallback, int low, int high)
{
    const json_t *value = value_of(r, key);
    if (!value) return fallback;
    json_int_t number = json_integer_value(value);
    if (json_is_integer(value) && number >= low && number <= high) return (int)number;
    config_fail(r, LT_E_UNSUPPORTED, "\"%s\" must be a whole number from %d to %d", key, low, high);
    return fallback;
}

double config_double(config_reader *r, const char *key, double fallback)
{
    const json_t *value = value_of(r, key);
    if (!value) return fallback;
    double number = json_number_value(value);
    if (json_is_number(value) && isfinite(number)) return number;
    config_fail(r, LT_E_FORMAT, "\"%s\" must be a number", key);
    return fallback;
}

bool config_bool(config_reader *r, const char *key, bool fallback)
{
    const json_t *value = value_of(r, key);
    if (!value) return fallback;
    if (!json_is_boolean(value)) config_fail(r, LT_E_FORMAT, "\"%s\" must be true or false", key);
    return json_is_true(value);
}

const char *config_text(config_reader *r, const char *key, const char *fallback)
{
    const char *text = json_string_value(value_of(r, key));
    return text ? text : fallback;
}
