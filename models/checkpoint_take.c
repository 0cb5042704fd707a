/* checkpoint_take.c - matching a network's parameters with the tensors of a checkpoint, every difference in one
 * sentence. */
#include "models/checkpoint_files.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A list of names in a sentence: as many as fit, then "and N more". */
typedef struct name_list {
    char text[300];
    size_t used;
    int n_shown, n_total;
} name_list;

__attribute__((format(printf, 2, 3))) static void list_add(name_list *list, const char *format, ...)
{
    char item[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(item, sizeof(item), format, arguments);
    va_end(arguments);
    list->n_total++;
    size_t need = strlen(item) + 2;
    if (list->n_shown < list->n_total - 1 || (list->used && list->used + need > sizeof(list->text) - 1))
        return;
    list->used += (size_t)snprintf(list->text + list->used, sizeof(list->text) - list->used, "%s%s",
                                   list->n_shown ? ", " : "", item);
    list->n_shown++;
}

/* "; label: a, b and 3 more" appended to text. */
static void list_end(const name_list *list, const char *label, char *text, size_t text_bytes)
{
    if (!list->n_total) return;
    size_t n = strlen(text);
    n += (size_t)snprintf(text + n, text_bytes - n, "; %s: %s", label, list->text);
    if (list->n_total > list->n_shown && n < text_bytes)
        snprintf(text + n, text_bytes - n, " and %d more", list->n_total - list->n_shown);
}

static bool same_shape(const lt_parameter *p, const lt_tensor *t)
{
    int rank = t->rank;
    if (p->matrix && rank == p->rank + 2 && t->shape[rank - 1] == 1 && t->shape[rank - 2] == 1) rank -= 2;
    if (rank != p->rank) return false;
    for (int i = 0; i < rank; i++)
        if (t->shape[i] != p->shape[i]) return false;
    return true;
}

static void shape_text(int rank, const int64_t *shape, char *text, size_t bytes)
{
    size_t n = (size_t)snprintf(text, bytes, "[");
    for (int i = 0; i < rank && n < bytes; i++)
        n += (size_t)snprintf(text + n, bytes - n, "%s%lld", i ? "," : "", (long long)shape[i]);
    if (n < bytes) snprintf(text + n, bytes - n, "]");
}

static int parameter_by_name(const void *a, const void *b)
{
    return strcmp((*(const lt_parameter *const *)a)->name, (*(const lt_parameter *const *)b)->name);
}

static bool is_expected(const char *name, const lt_parameter *const *sorted, int n,
                        const char *const *ignored)
{
    int low = 0, high = n;
    while (low < high) {
        int middle = (low + high) / 2, order = strcmp(name, sorted[middle]->name);
        if (order == 0) return true;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    for (; ignored && *ignored; ignored++)
        if (strncmp(name, *ignored, strlen(*ignored)) == 0) return true;
    return false;
}

static lt_status find_extra(const lt_checkpoint *c, const lt_parameter *parameters, int n, const char *scope,
                            const char *const *ignored, name_list *extra, lt_err *err)
{
    const lt_parameter **sorted = malloc(sizeof(*sorted) * (size_t)LT_MAX(n, 1));
    if (!sorted) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", c->path);
    for (int i = 0; i < n; i++) sorted[i] = &parameters[i];
    qsort(sorted, (size_t)n, sizeof(*sorted), parameter_by_name);
    for (int i = 0; i < c->n_entries; i++) {
        const char *name = c->entries[i].name;
        if (strncmp(name, scope, strlen(scope)) == 0 && !is_expected(name, sorted, n, ignored))
            list_add(extra, "%.140s", name);
    }
    free(sorted);
    return LT_OK;
}

static const checkpoint_entry *entry_of(const lt_checkpoint *c, const char *name)
{
    int low = 0, high = c->n_entries;
    while (low < high) {
        int middle = (low + high) / 2, order = strcmp(name, c->entries[middle].name);
        if (order == 0) return &c->entries[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

lt_status lt_checkpoint_take(lt_checkpoint *c, const lt_parameter *parameters, int n_parameters,
                             const char *scope, const char *const *ignored, lt_err *err)
{
    name_list missing = {0}, shapes = {0}, extra = {0}, dtypes = {0}, not_finite = {0};
    for (int i = 0; i < n_parameters; i++) {
        const lt_parameter *p = &parameters[i];
        const checkpoint_entry *e = entry_of(c, p->name);
        if (p->weight) p->weight->tensor = LT_NONE;
        if (!p->required) continue;
        if (!e) {
            list_add(&missing, "%s", p->name);
        } else if (!same_shape(p, &e->tensor)) {
            char is[80], wanted[80];
            shape_text(e->tensor.rank, e->tensor.shape, is, sizeof(is));
            shape_text(p->rank, p->shape, wanted, sizeof(wanted));
            list_add(&shapes, "%s is %s, not %s", p->name, is, wanted);
        } else if (e->tensor.dtype != LT_F32 && e->tensor.dtype != LT_F16 && e->tensor.dtype != LT_BF16) {
            list_add(&dtypes, "%s (%s)", p->name, lt_dtype_name(e->tensor.dtype));
        } else {
            if (e->not_finite) list_add(&not_finite, "%s", p->name);
            if (p->weight) p->weight->tensor = e->tensor;
        }
    }
    lt_status status = find_extra(c, parameters, n_parameters, scope, ignored, &extra, err);
    if (status != LT_OK) return status;
    char text[1000] = "";
    list_end(&missing, "missing", text, sizeof(text));
    list_end(&shapes, "of another shape", text, sizeof(text));
    list_end(&extra, "not expected", text, sizeof(text));
    if (missing.n_total || shapes.n_total || extra.n_total)
        return lt_fail(err, LT_E_MISMATCH, "%s: tensors do not match the model: %s", c->path, text + 2);
    list_end(&dtypes, "neither F32, F16 nor BF16", text, sizeof(text));
    if (dtypes.n_total)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: tensors of a dtype not supported%s", c->path, text);
    list_end(&not_finite, "tensors that hold NaN or infinity", text, sizeof(text));
    if (not_finite.n_total)
        return lt_fail(err, LT_E_NUMERIC, "%s: damaged weights%s; get the file again", c->path, text);
    return LT_OK;
}
