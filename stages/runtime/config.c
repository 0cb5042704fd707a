/* config.c - the options of a message as the stage's own configuration. */
#include "stages/runtime/runtime.h"

#include <ctype.h>
#include <string.h>

/* "lavfi:testsrc", "https://...": a word of two letters or more, and a colon. */
static bool has_scheme(const char *path)
{
    const char *c = path;
    if (!isalpha((unsigned char)*c)) return false;
    while (isalnum((unsigned char)*c) || *c == '+' || *c == '-' || *c == '.') c++;
    return *c == ':' && c - path >= 2;
}

static lt_status make_absolute(const lt_stage *stage, void *config, const char *base_folder, lt_arena *arena,
                               lt_err *err)
{
    for (int i = 0; i < stage->n_options; i++) {
        if (stage->options[i].type != LT_OPT_PATH) continue;
        const char **path = (const char **)((unsigned char *)config + stage->options[i].offset);
        if (!*path || !**path || **path == '/' || !strcmp(*path, "-") || has_scheme(*path) || !*base_folder)
            continue;
        *path = lt_arena_printf(arena, "%s/%s", base_folder, *path);
        if (!*path) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a path");
    }
    return LT_OK;
}

lt_status rt_config_fill(const lt_stage *stage, Lt__Wire__Option *const *given, size_t n_given,
                         const char *base_folder, lt_arena *arena, const void **config, lt_err *err)
{
    lt_status status;
    void *filled = lt_arena_alloc(arena, LT_MAX(stage->config_bytes, 1));
    const char **names = lt_arena_alloc(arena, (n_given + 1) * sizeof *names);
    if (!filled || !names) return lt_fail(err, LT_E_NO_MEMORY, "no memory for %zu options", n_given);
    LT_TRY(lt_options_defaults(stage->options, stage->n_options, filled, stage->config_bytes, arena, err));
    for (size_t i = 0; i < n_given; i++) {
        LT_TRY(lt_options_set(stage->options, stage->n_options, filled, given[i]->name, given[i]->text, arena,
                              err));
        names[i] = given[i]->name;
    }
    LT_TRY(lt_options_require(stage->options, stage->n_options, names, (int)n_given, err));
    LT_TRY(make_absolute(stage, filled, base_folder, arena, err));
    *config = filled;
    return LT_OK;
fail:
    return status;
}
