/* workspace.c - first-fit offsets in one block.
 *
 * The block is a row of spans, used or free, in the order of their offsets and without gaps; the last one is the
 * untouched rest. A network holds a few dozen tensors at a time, so a linear search is cheaper than a tree. */
#include "kernels/tensor.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Dry addresses start here: not NULL, and nothing is ever mapped there. */
#define DRY_BASE ((uintptr_t)4096)
/* Enough for any plan, and far from overflow when sizes are added. */
#define DRY_BYTES ((size_t)1 << 62)

typedef struct span {
    size_t offset, bytes;
    bool used;
} span;

struct lt_workspace {
    char *block; /* NULL when dry */
    size_t block_bytes;
    size_t peak, in_use;
    span *spans;
    int n_spans, capacity;
};

lt_status lt_workspace_create(lt_workspace **workspace, void *block, size_t bytes, lt_err *err)
{
    *workspace = NULL;
    lt_workspace *w = calloc(1, sizeof(*w));
    if (!w) goto no_memory;
    w->capacity = 64;
    w->spans = calloc((size_t)w->capacity, sizeof(span));
    if (!w->spans) goto no_memory;
    w->block = block;
    w->block_bytes = block ? bytes : DRY_BYTES;
    w->spans[0] = (span){.offset = 0, .bytes = w->block_bytes, .used = false};
    w->n_spans = 1;
    *workspace = w;
    return LT_OK;
no_memory:
    lt_workspace_destroy(w);
    return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a workspace's list of tensors");
}

void lt_workspace_destroy(lt_workspace *w)
{
    if (!w) return;
    free(w->spans);
    free(w);
}

static void *address_of(const lt_workspace *w, size_t offset)
{
    return w->block ? (void *)(w->block + offset) : (void *)(DRY_BASE + offset);
}

static bool insert_span(lt_workspace *w, int at, span s)
{
    if (w->n_spans == w->capacity) {
        span *grown = realloc(w->spans, 2 * (size_t)w->capacity * sizeof(span));
        if (!grown) return false;
        w->spans = grown;
        w->capacity *= 2;
    }
    memmove(&w->spans[at + 1], &w->spans[at], (size_t)(w->n_spans - at) * sizeof(span));
    w->spans[at] = s;
    w->n_spans++;
    return true;
}

static void remove_span(lt_workspace *w, int at)
{
    memmove(&w->spans[at], &w->spans[at + 1], (size_t)(w->n_spans - at - 1) * sizeof(span));
    w->n_spans--;
}

void *lt_workspace_alloc(lt_workspace *w, size_t bytes)
{
    if (bytes > w->block_bytes) return NULL;
    bytes = lt_round_up(LT_MAX(bytes, (size_t)1), LT_WORKSPACE_ALIGNMENT);
    for (int i = 0; i < w->n_spans; i++) {
        span *s = &w->spans[i];
        if (s->used || s->bytes < bytes) continue;
        size_t rest = s->bytes - bytes;
        if (rest && !insert_span(w, i + 1, (span){.offset = s->offset + bytes, .bytes = rest, .used = false}))
            return NULL;
        s = &w->spans[i];
        s->bytes = bytes;
        s->used = true;
        w->in_use += bytes;
        w->peak = LT_MAX(w->peak, s->offset + bytes);
        return address_of(w, s->offset);
    }
    return NULL;
}

void lt_workspace_release(lt_workspace *w, void *memory)
{
    if (!memory) return;
    size_t offset = (uintptr_t)memory - (w->block ? (uintptr_t)w->block : DRY_BASE);
    int i = 0;
    while (i < w->n_spans && w->spans[i].offset < offset) i++;
    assert(i < w->n_spans && w->spans[i].offset == offset && w->spans[i].used && "not of this workspace");
    w->spans[i].used = false;
    w->in_use -= w->spans[i].bytes;
    if (i + 1 < w->n_spans && !w->spans[i + 1].used) {
        w->spans[i].bytes += w->spans[i + 1].bytes;
        remove_span(w, i + 1);
    }
    if (i > 0 && !w->spans[i - 1].used) {
        w->spans[i - 1].bytes += w->spans[i].bytes;
        remove_span(w, i);
    }
}

size_t lt_workspace_peak(const lt_workspace *w)
{
    return w->peak;
}

size_t lt_workspace_in_use(const lt_workspace *w)
{
    return w->in_use;
}
