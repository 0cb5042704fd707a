/* tokenizer_vocab.c - from a token's text to its id: open addressing over XXH3. */
#include "models/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

lt_status vocab_init(token_vocab *vocab, size_t n_tokens, lt_err *err)
{
    size_t slots = 16;
    while (slots < 2 * n_tokens) slots *= 2;
    vocab->slots = calloc(slots, sizeof *vocab->slots);
    if (!vocab->slots)
        return lt_fail(err, LT_E_NO_MEMORY, "no memory for a vocabulary of %zu tokens", n_tokens);
    vocab->n_slots = slots;
    return LT_OK;
}

void vocab_finish(token_vocab *vocab)
{
    free(vocab->slots);
    *vocab = (token_vocab){0};
}

/* The slot that holds the text, or the free one where it would go. */
static vocab_entry *find_slot(const token_vocab *vocab, const char *text, size_t n)
{
    size_t i = XXH3_64bits(text, n) & (vocab->n_slots - 1);
    for (;; i = (i + 1) & (vocab->n_slots - 1)) {
        vocab_entry *e = &vocab->slots[i];
        if (!e->text || (e->n == n && memcmp(e->text, text, n) == 0)) return e;
    }
}

bool vocab_put(token_vocab *vocab, const char *text, size_t n, int32_t id)
{
    vocab_entry *e = find_slot(vocab, text, n);
    if (e->text) return false;
    *e = (vocab_entry){text, (uint32_t)n, id};
    vocab->n++;
    return true;
}

int32_t vocab_get(const token_vocab *vocab, const char *text, size_t n)
{
    const vocab_entry *e = find_slot(vocab, text, n);
    return e->text ? e->id : -1;
}
