/* overrides.c - --set NAME=VALUE, put into the tree of a graph file. */
#include "orchestrator/overrides.h"

#include <string.h>

/* Mark a value and all below it as given by --set. */
static void mark(lt_toml *node, const char *set)
{
    node->where.set = node->key_where.set = set;
    for (int i = 0; i < node->n_items; i++) mark(&node->items[i], set);
}

/* The value behind '=': TOML, or else a string. A scalar keeps its spelling ("007", "1.10"). */
static lt_status read_value(const char *text, const char *set, lt_toml *out, lt_arena *arena)
{
    lt_toml *root = NULL;
    lt_where where;
    const char *document = lt_arena_printf(arena, "value = %s", text);
    if (!document) return LT_E_NO_MEMORY;
    lt_status status = lt_toml_parse(document, strlen(document), arena, &root, &where, NULL);
    if (status == LT_E_NO_MEMORY) return status;
    bool quoted = text[0] == '"' || text[0] == '\'';
    if (status == LT_OK && root->n_items == 1 && !strcmp(root->items[0].key, "value")) {
        *out = root->items[0];
        if (out->type != LT_TOML_ARRAY && out->type != LT_TOML_TABLE && !quoted)
            out->text = lt_arena_strdup(arena, text);
    } else {
        *out = (lt_toml){.type = LT_TOML_STRING, .text = lt_arena_strdup(arena, text)};
    }
    mark(out, set);
    return out->text || out->items ? LT_OK : LT_E_NO_MEMORY;
}

/* The item `key` of a table, made (as an empty table) where it is not there. */
static lt_toml *find_or_add(lt_toml *table, const char *key, const char *set, lt_arena *arena)
{
    lt_toml *found = lt_toml_find(table, key);
    if (found) return found;
    lt_toml *items = lt_arena_alloc(arena, ((size_t)table->n_items + 1) * sizeof *items);
    if (!items) return NULL;
    if (table->n_items) memcpy(items, table->items, (size_t)table->n_items * sizeof *items);
    table->items = items;
    found = &items[table->n_items++];
    *found = (lt_toml){.type = LT_TOML_TABLE, .key = key};
    mark(found, set);
    return found;
}

/* "stage.NAME.key" where the file has no such stage, and this does not begin one: most likely a slip. */
static bool is_lost(const lt_toml *root, const char *name, lt_where where, lt_mistakes *mistakes)
{
    const char *names[64], *key = strrchr(name, '.') + 1, *begin = name + strlen("stage.");
    const lt_toml *stages = lt_toml_find(root, "stage");
    int n = stages && stages->type == LT_TOML_TABLE ? LT_MIN(stages->n_items, (int)LT_COUNT(names)) : 0;
    if (strncmp(name, "stage.", 6) || key <= begin || !strcmp(key, "kind") || !strcmp(key, "exec"))
        return false;
    const char *stage = lt_arena_printf(mistakes->arena, "%.*s", (int)strcspn(begin, "."), begin);
    for (int i = 0; i < n; i++) names[i] = stages->items[i].key;
    if (!stage || lt_toml_find(stages, stage)) return false;
    lt_mistake_add(mistakes, where, "there is no stage \"%s\"%s", stage,
                   lt_meant(mistakes->arena, stage, names, n));
    return true;
}

lt_status lt_override(lt_toml *root, const char *override, lt_mistakes *mistakes)
{
    lt_arena *arena = mistakes->arena;
    const char *equals = strchr(override, '=');
    size_t length = equals ? (size_t)(equals - override) : strlen(override);
    const char *set = lt_arena_printf(arena, "--set %.*s", (int)length, override);
    char *name = lt_arena_printf(arena, "%.*s", (int)length, override);
    if (!set || !name) return LT_E_NO_MEMORY;
    lt_where where = {.set = set};
    if (!equals || !strchr(name, '.') || name[0] == '.' || name[length - 1] == '.' || strstr(name, "..")) {
        lt_mistake_add(mistakes, where, "must look like stage.NAME.OPTION=VALUE or graph.OPTION=VALUE");
        return LT_OK;
    }
    if (is_lost(root, name, where, mistakes)) return LT_OK;
    lt_toml *node = root;
    for (char *part = name, *dot; part; part = dot) {
        dot = strchr(part, '.');
        if (dot) *dot++ = 0;
        if (node->type != LT_TOML_TABLE) {
            lt_mistake_add(mistakes, where, "\"%s\" is %s, it has nothing inside", node->key,
                           lt_toml_type_name(node->type));
            return LT_OK;
        }
        node = find_or_add(node, part, set, arena);
        if (!node) return LT_E_NO_MEMORY;
    }
    const char *key = node->key;
    lt_status status = read_value(equals + 1, set, node, arena);
    node->key = key;
    node->key_where = where;
    return status;
}
