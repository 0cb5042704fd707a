/* arena.c - memory of one lifetime, in blocks that double. */
#include "core/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 16, FIRST_BLOCK = 4096, LAST_DOUBLING = 1 << 20 };

struct lt_arena_block {
    struct lt_arena_block *next;
    size_t used, size; /* of data, in bytes */
    _Alignas(ALIGNMENT) unsigned char data[];
};

void *lt_arena_alloc(lt_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = lt_round_up(LT_MAX(bytes, 1), ALIGNMENT);
    struct lt_arena_block *block = arena->head;
    if (!block || block->size - block->used < bytes) {
        size_t size = block ? LT_MIN(block->size * 2, (size_t)LAST_DOUBLING) : FIRST_BLOCK;
        size = LT_MAX(size, bytes);
        block = malloc(sizeof *block + size);
        if (!block) return NULL;
        *block = (struct lt_arena_block){.next = arena->head, .size = size};
        arena->head = block;
    }
    void *memory = block->data + block->used;
    block->used += bytes;
    return memset(memory, 0, bytes);
}

char *lt_arena_strdup(lt_arena *arena, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = lt_arena_alloc(arena, bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

char *lt_arena_printf(lt_arena *arena, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : lt_arena_alloc(arena, (size_t)n + 1);
    if (text) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

void lt_arena_finish(lt_arena *arena)
{
    if (!arena) return;
    for (struct lt_arena_block *block = arena->head, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    arena->head = NULL;
}
