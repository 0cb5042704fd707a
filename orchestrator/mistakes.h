/* mistakes.h - everything that is wrong with a graph, gathered so that it can be said at once. */
#ifndef LT_ORCHESTRATOR_MISTAKES_H
#define LT_ORCHESTRATOR_MISTAKES_H

#include <stdio.h>

#include "orchestrator/toml_shim.h"

typedef struct lt_mistake {
    lt_where where;
    const char *text;
    struct lt_mistake *next;
} lt_mistake;

/* Zeroed but for `file` and `arena`, it is ready. */
typedef struct lt_mistakes {
    const char *file; /* as the user named it */
    lt_arena *arena;  /* owns the sentences */
    lt_mistake *head;
    int n;
} lt_mistakes;

/* Add a sentence. One that is there already at this place is not added twice. */
void lt_mistake_add(lt_mistakes *mistakes, lt_where where, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* One line each, "file:line:column: sentence" in the order of the file, then "--set NAME: sentence". */
void lt_mistakes_print(const lt_mistakes *mistakes, FILE *out);

/* `: did you mean "x"?` for the candidate nearest to `name`, else "". In `arena`. */
const char *lt_meant(lt_arena *arena, const char *name, const char *const *candidates, int n_candidates);

/* The same; where none is near, "; there are A, B, C". */
const char *lt_meant_or_any(lt_arena *arena, const char *name, const char *const *candidates,
                            int n_candidates);

#endif
