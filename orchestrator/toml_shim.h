/* toml_shim.h - a TOML document as a plain C tree, with the line and column of everything. */
#ifndef LT_ORCHESTRATOR_TOML_SHIM_H
#define LT_ORCHESTRATOR_TOML_SHIM_H

#include "core/core.h"

typedef enum {
    LT_TOML_STRING,
    LT_TOML_INTEGER,
    LT_TOML_FLOAT,
    LT_TOML_BOOLEAN,
    LT_TOML_TIME,
    LT_TOML_ARRAY,
    LT_TOML_TABLE
} lt_toml_type;

/* A place in the graph file (both from 1), or the "--set NAME" that stands for one. */
typedef struct lt_where {
    int line, column;
    const char *set; /* NULL: in the file */
} lt_where;

/* One value. A table's and an array's items stand in the order of the file. */
typedef struct lt_toml {
    lt_toml_type type;
    const char *key;  /* "" in an array and for the root */
    const char *text; /* of a scalar, as option tables read it; NULL otherwise */
    lt_where where, key_where;
    struct lt_toml *items;
    int n_items;
} lt_toml;

#ifdef __cplusplus
extern "C" {
#endif

/* Parse `bytes` bytes of TOML 1.0 whose keys have at most 8 parts ("a.b.c" has 3). *root: the tree, owned by `arena`. E_FORMAT: *where says where it broke and err why;
 * E_NO_MEMORY. One thread, no input or output. */
lt_status lt_toml_parse(const char *text, size_t bytes, lt_arena *arena, lt_toml **root, lt_where *where,
                        lt_err *err);

/* "string", "integer", ... */
const char *lt_toml_type_name(lt_toml_type type);

/* The item of a table with this key, or NULL (also when `table` is NULL or no table). */
lt_toml *lt_toml_find(const lt_toml *table, const char *key);

#ifdef __cplusplus
}
#endif

#endif
