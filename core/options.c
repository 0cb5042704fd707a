/* options.c - parsing of option values by their table. */
#include "core/core.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *lt_option_type_name(lt_option_type type)
{
    static const char *const names[] = {
        [LT_OPT_STRING] = "string",   [LT_OPT_PATH] = "path",       [LT_OPT_INT] = "integer",
        [LT_OPT_FLOAT] = "number",    [LT_OPT_BOOL] = "boolean",    [LT_OPT_ENUM] = "choice",
        [LT_OPT_BYTES] = "bytes",     [LT_OPT_SECONDS] = "seconds", [LT_OPT_SIZE] = "size",
        [LT_OPT_DICT] = "dictionary", [LT_OPT_JSON] = "JSON",
    };
    return names[type];
}

const char *lt_option_expected(lt_option_type type)
{
    switch (type) {
    case LT_OPT_PATH: return "a path";
    case LT_OPT_INT: return "an integer";
    case LT_OPT_FLOAT: return "a number";
    case LT_OPT_BOOL: return "true or false";
    case LT_OPT_BYTES: return "a number of bytes such as 4096, 512M or 1.5G";
    case LT_OPT_SECONDS: return "seconds such as 12.5 or 01:02:03.5";
    case LT_OPT_SIZE: return "WIDTHxHEIGHT such as 1024x576";
    default: return "text";
    }
}

/* Edit distance with insertions, deletions, substitutions and swaps of neighbours, of words shorter than 64
 * characters. */
static int edit_distance(const char *a, const char *b)
{
    enum { MAX = 64 };
    int n = (int)strlen(a), m = (int)strlen(b), row[3][MAX + 1];
    if (n >= MAX || m >= MAX) return MAX;
    for (int j = 0; j <= m; j++) row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *above = row[(i + 2) % 3], *two_above = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int cost = above[j - 1] + (a[i - 1] != b[j - 1]);
            cost = LT_MIN(cost, LT_MIN(above[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                cost = LT_MIN(cost, two_above[j - 2] + 1);
            now[j] = cost;
        }
    }
    return row[n % 3][m];
}

const char *lt_did_you_mean(const char *name, const char *const *candidates, int n_candidates)
{
    const char *best = NULL;
    int best_distance = (int)strlen(name) / 3 + 1;
    for (int i = 0; i < n_candidates; i++) {
        int distance = edit_distance(name, candidates[i]);
        if (distance <= best_distance && (!best || distance < best_distance)) {
            best = candidates[i];
            best_distance = distance;
        }
    }
    return best;
}

static bool parse_int(const char *text, int64_t *value)
{
    char *end;
    errno = 0;
    long long parsed = strtoll(text, &end, 10);
    if (end == text || *end || errno) return false;
    *value = parsed;
    return true;
}

static bool parse_float(const char *text, double *value)
{
    char *end;
    double parsed = strtod(text, &end);
    if (end == text || *end || !isfinite(parsed)) return false;
    *value = parsed;
    return true;
}

static bool parse_bytes(const char *text, int64_t *value)
{
    static const char units[] = "KMGT";
    char *end;
    double number = strtod(text, &end), factor = 1;
    if (end == text || !isfinite(number) || number < 0) return false;
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (unit) {
        for (const char *u = units; u <= unit; u++) factor *= 1024;
        end++;
        if (end[0] == 'i' && end[1] == 'B') end++;
    }
    if (*end == 'B') end++;
    if (*end || number * factor >= 9.2e18) return false;
    *value = (int64_t)(number * factor);
    return true;
}

/* 12.5, 02:03.5 or 01:02:03.5 */
static bool parse_seconds(const char *text, double *value)
{
    double total = 0;
    for (int part = 0; part < 3; part++) {
        char *end;
        double number = strtod(text, &end);
        if (end == text || !isfinite(number)) return false;
        total = total * 60 + number;
        if (!*end) {
            *value = total;
            return true;
        }
        if (*end != ':') return false;
        text = end + 1;
    }
    return false;
}

static bool parse_size(const char *text, lt_size *value)
{
    int width, height, used;
    if (sscanf(text, "%d%*[xX]%d%n", &width, &height, &used) != 2 || text[used]) return false;
    if (width <= 0 || height <= 0 || width > 65536 || height > 65536) return false;
    *value = (lt_size){width, height};
    return true;
}

static bool parse_choice(const char *text, const char *choices, int *value)
{
    size_t length = strlen(text);
    for (int index = 0; choices; index++) {
        size_t n = strcspn(choices, "|");
        if (n == length && !memcmp(text, choices, n)) {
            *value = index;
            return true;
        }
        choices = choices[n] ? choices + n + 1 : NULL;
    }
    return false;
}

/* Parse text to the option's place. False: not of its type. */
static bool parse_value(const lt_option *option, void *place, const char *text, lt_arena *arena)
{
    switch (option->type) {
    case LT_OPT_STRING:
    case LT_OPT_PATH:
    case LT_OPT_JSON:
    case LT_OPT_DICT: return (*(const char **)place = lt_arena_strdup(arena, text)) != NULL;
    case LT_OPT_INT: return parse_int(text, place);
    case LT_OPT_FLOAT: return parse_float(text, place);
    case LT_OPT_BYTES: return parse_bytes(text, place);
    case LT_OPT_SECONDS: return parse_seconds(text, place);
    case LT_OPT_SIZE: return parse_size(text, place);
    case LT_OPT_ENUM: return parse_choice(text, option->choices, place);
    case LT_OPT_BOOL: {
        bool yes = !strcmp(text, "true"), no = !strcmp(text, "false");
        *(bool *)place = yes;
        return yes || no;
    }
    }
    return false;
}

static bool in_range(const lt_option *option, const void *place)
{
    if (option->min == 0 && option->max == 0) return true;
    double value = 0;
    switch (option->type) {
    case LT_OPT_INT:
    case LT_OPT_BYTES: value = (double)*(const int64_t *)place; break;
    case LT_OPT_FLOAT:
    case LT_OPT_SECONDS: value = *(const double *)place; break;
    default: return true;
    }
    return value >= option->min && value <= option->max;
}

static lt_status set_value(const lt_option *option, void *config, const char *text, lt_arena *arena,
                           lt_err *err)
{
    void *place = (char *)config + option->offset;
    if (!parse_value(option, place, text, arena)) {
        if (option->type == LT_OPT_ENUM)
            return lt_fail(err, LT_E_INVALID, "%s = \"%s\": must be one of %s", option->name, text,
                           option->choices);
        return lt_fail(err, LT_E_INVALID, "%s = \"%s\": must be %s", option->name, text,
                       lt_option_expected(option->type));
    }
    if (!in_range(option, place))
        return lt_fail(err, LT_E_INVALID, "%s = %s: must lie between %.15g and %.15g%s%s", option->name, text,
                       option->min, option->max, option->unit ? " " : "", option->unit ? option->unit : "");
    return LT_OK;
}

lt_status lt_options_defaults(const lt_option *options, int n_options, void *config, size_t config_bytes,
                              lt_arena *arena, lt_err *err)
{
    memset(config, 0, config_bytes);
    for (int i = 0; i < n_options; i++) {
        if (!options[i].fallback) continue;
        /* An empty default means "not given": the zeroed value for a number, an empty text otherwise. */
        bool textual = options[i].type == LT_OPT_STRING || options[i].type == LT_OPT_PATH ||
                       options[i].type == LT_OPT_DICT || options[i].type == LT_OPT_JSON;
        if (!*options[i].fallback && !textual) continue;
        lt_status status = set_value(&options[i], config, options[i].fallback, arena, err);
        if (status) return status;
    }
    return LT_OK;
}

lt_status lt_options_set(const lt_option *options, int n_options, void *config, const char *name,
                         const char *text, lt_arena *arena, lt_err *err)
{
    for (int i = 0; i < n_options; i++)
        if (!strcmp(options[i].name, name)) return set_value(&options[i], config, text, arena, err);
    const char *names[128];
    int n = LT_MIN(n_options, (int)LT_COUNT(names));
    for (int i = 0; i < n; i++) names[i] = options[i].name;
    const char *near = lt_did_you_mean(name, names, n);
    return lt_fail(err, LT_E_NOT_FOUND, "unknown option \"%s\"%s%s%s", name, near ? ": did you mean \"" : "",
                   near ? near : "", near ? "\"?" : "");
}

lt_status lt_options_require(const lt_option *options, int n_options, const char *const *given, int n_given,
                             lt_err *err)
{
    char missing[512] = "";
    size_t used = 0;
    for (int i = 0; i < n_options; i++) {
        bool found = options[i].fallback != NULL;
        for (int j = 0; j < n_given && !found; j++) found = !strcmp(options[i].name, given[j]);
        if (found || used + strlen(options[i].name) + 3 > sizeof missing) continue;
        used += (size_t)snprintf(missing + used, sizeof missing - used, "%s%s", used ? ", " : "",
                                 options[i].name);
    }
    return used ? lt_fail(err, LT_E_INVALID, "required but not given: %s", missing) : LT_OK;
}
