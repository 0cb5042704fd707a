/* mistakes.c - gathers, sorts and prints what is wrong with a graph. */
#include "orchestrator/mistakes.h"

#include <stdlib.h>
#include <string.h>

/* File order first, then --set by name. */
static int compare_places(const lt_where *a, const lt_where *b)
{
    if (!a->set != !b->set) return a->set ? 1 : -1;
    if (a->set) return strcmp(a->set, b->set);
    return a->line != b->line ? a->line - b->line : a->column - b->column;
}

void lt_mistake_add(lt_mistakes *mistakes, lt_where where, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    lt_text_vprint(text, sizeof text, format, arguments);
    va_end(arguments);
    lt_mistake **place = &mistakes->head;
    for (; *place && compare_places(&(*place)->where, &where) <= 0; place = &(*place)->next)
        if (!compare_places(&(*place)->where, &where) && !strcmp((*place)->text, text)) return;
    mistakes->n++; /* counted even when there is no memory left to say it */
    lt_mistake *made = lt_arena_alloc(mistakes->arena, sizeof *made);
    if (!made) return;
    *made = (lt_mistake){where, lt_arena_strdup(mistakes->arena, text), *place};
    if (!made->text) made->text = "out of memory";
    *place = made;
}

void lt_mistakes_print(const lt_mistakes *mistakes, FILE *out)
{
    for (const lt_mistake *m = mistakes->head; m; m = m->next) {
        if (m->where.set)
            fprintf(out, "%s: %s\n", m->where.set, m->text);
        else if (!m->where.line)
            fprintf(out, "%s: %s\n", mistakes->file, m->text);
        else
            fprintf(out, "%s:%d:%d: %s\n", mistakes->file, m->where.line, m->where.column, m->text);
    }
}

const char *lt_meant(lt_arena *arena, const char *name, const char *const *candidates, int n_candidates)
{
    const char *near = lt_did_you_mean(name, candidates, n_candidates);
    const char *text = near ? lt_arena_printf(arena, ": did you mean \"%s\"?", near) : NULL;
    return text ? text : "";
}

const char *lt_meant_or_any(lt_arena *arena, const char *name, const char *const *candidates,
                            int n_candidates)
{
    const char *text = lt_meant(arena, name, candidates, n_candidates);
    if (*text) return text;
    for (int i = 0; i < n_candidates && text; i++)
        text = lt_arena_printf(arena, "%s%s%s", text, i ? ", " : "; there are ", candidates[i]);
    return text ? text : "";
}
