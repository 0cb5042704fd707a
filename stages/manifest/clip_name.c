/* clip_name.c - the name of a clip that is given none. */
#include "stages/manifest/clip_list.h"

#include <string.h>
#include <unistd.h>

#include "proto/wire.h"

static const char signs[] = "-_.";

/* A name of the first bytes of a text, without signs at either end; "" where nothing else is in it. */
static const char *trimmed(const char *text, size_t n_bytes, lt_arena *arena)
{
    char *name = lt_arena_printf(arena, "%.*s", (int)n_bytes, text);
    if (!name) return NULL;
    lt_make_clip_name(name);
    size_t n = strlen(name);
    while (n && strchr(signs, name[n - 1])) name[--n] = 0;
    return name + strspn(name, signs);
}

/* Bytes before the first "%04d" or sign of the shell's in a file's name; SIZE_MAX: it is no pattern. '[' alone makes none: files that
 * are not there are called so, too. */
static size_t pattern_at(const char *name)
{
    size_t at = strcspn(name, "*?["), n = strlen(name);
    bool is_pattern = strpbrk(name, "*?") != NULL;
    for (size_t i = 0; i < n; i++)
        if (name[i] == '%' && name[i + 1 + strspn(name + i + 1, "0123456789")] == 'd') {
            is_pattern = true;
            at = LT_MIN(at, i);
        }
    return is_pattern ? at : SIZE_MAX;
}

/* The last folder of a path, whose file's name is at `file`. */
static const char *folder_of(const char *path, const char *file, lt_arena *arena)
{
    const char *end = file > path ? file - 1 : path, *from = end;
    while (from > path && from[-1] != '/') from--;
    return trimmed(from, (size_t)(end - from), arena);
}

const char *lt_clip_name_of(const char *input, size_t most, lt_arena *arena)
{
    bool is_graph = !strncmp(input, "lavfi:", 6), is_path = !is_graph && !strstr(input, "://");
    const char *slash = strrchr(input, '/'), *file = !is_graph && slash ? slash + 1 : input;
    size_t at = is_path ? pattern_at(file) : SIZE_MAX;
    if (at != SIZE_MAX && access(input, F_OK)) {
        const char *name = trimmed(file, LT_MIN(at, most), arena);
        if (name && !*name) name = folder_of(input, file, arena);
        return name && !*name ? lt_arena_strdup(arena, "clip") : name;
    }
    char *name = lt_arena_printf(arena, "%.*s", (int)most, file);
    if (!name) return NULL;
    char *dot = strrchr(name, '.');
    if (!is_graph && dot && dot > name) *dot = 0;
    lt_make_clip_name(name);
    return *name ? name : lt_arena_strdup(arena, "clip");
}
