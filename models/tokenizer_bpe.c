/* tokenizer_bpe.c - CLIP's byte-pair encoding: bytes as characters, merges by rank (Sennrich et al., 2016). */
#include "models/tokenizer_parts.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 64 << 20, MAX_TOKENS = 1 << 22 };

#define WORD_END "</w>"

typedef struct merge {
    uint64_t pair; /* left id << 32 | right id */
    int32_t rank, made;
} merge;

struct bpe_model {
    merge *merges; /* a hash table; rank -1: free */
    size_t n_slots;
    int32_t inside[256], last[256]; /* ids of a single byte, of one that ends a word; -1: unknown */
    int32_t unknown_id;
};

/* ---- the files ------------------------------------------------------------------------------------------------------ */

/* GPT-2's alphabet: printable bytes of Latin-1 stand for themselves, the others for U+0100 on. */
static void byte_alphabet(uint32_t chars[256])
{
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
        chars[b] = printable ? b : next++;
    }
}

static merge *merge_slot(const bpe_model *model, uint64_t pair)
{
    uint64_t h = pair * 0x9E3779B97F4A7C15ull;
    size_t i = (h ^ h >> 32) & (model->n_slots - 1);
    while (model->merges[i].rank >= 0 && model->merges[i].pair != pair) i = (i + 1) & (model->n_slots - 1);
    return &model->merges[i];
}

static lt_status read_vocab(lt_tokenizer *t, const char *path, lt_err *err)
{
    char *text;
    size_t n;
    lt_status status = tokenizer_read(t, path, MAX_FILE, &text, &n, err);
    if (status != LT_OK) return status;
    json_error_t where;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &where), *value;
    if (!root) return lt_fail(err, LT_E_FORMAT, "%s:%d:%d: %s", path, where.line, where.column, where.text);
    size_t count = json_object_size(root);
    bool *seen = lt_arena_alloc(&t->arena, count + 1);
    const char *key;
    if (!json_is_object(root) || count == 0 || count > MAX_TOKENS)
        status = lt_fail(err, LT_E_FORMAT, "%s must be an object of 1 to %d tokens and their ids", path,
                         MAX_TOKENS);
    else if (!seen)
        status = lt_fail(err, LT_E_NO_MEMORY, "no memory for the %zu tokens of %s", count, path);
    else
        status = vocab_init(&t->vocab, count, err);
    json_object_foreach(root, key, value)
    {
        if (status != LT_OK) break;
        json_int_t id = json_integer_value(value);
        char *copy = lt_arena_strdup(&t->arena, key);
        if (!copy)
            status = lt_fail(err, LT_E_NO_MEMORY, "no memory for the %zu tokens of %s", count, path);
        else if (!json_is_integer(value) || id < 0 || id >= (json_int_t)count)
            status = lt_fail(err, LT_E_FORMAT,
                             "%s: the id of token \"%.64s\" is not a number below the number of tokens, %zu",
                             path, key, count);
        else if (seen[id])
            status = lt_fail(err, LT_E_FORMAT, "%s: id %d belongs to two tokens; \"%.64s\" is one of them",
                             path, (int)id, key);
        else if (vocab_put(&t->vocab, copy, strlen(copy), (int32_t)id))
            seen[id] = true;
    }
    json_decref(root);
    t->info.n_tokens = (int)count;
    return status;
}

/* One line "left right" of merges.txt, n bytes. */
static lt_status read_merge(const lt_tokenizer *t, bpe_model *model, const char *path, int line, int rank,
                            const char *text, size_t n, lt_buffer *joined, lt_err *err)
{
    const char *space = memchr(text, ' ', n);
    size_t left = space ? (size_t)(space - text) : 0;
    if (!space || memchr(space + 1, ' ', n - left - 1))
        return lt_fail(
            err, LT_E_FORMAT,
            "%s:%d: a merge is two tokens with one space between; the file may be cut short, as "
            "lite-sora's tokenizer_2/merges.txt is; that of CLIP-L's tokenizer is the same, and whole",
            path, line);
    int32_t a = vocab_get(&t->vocab, text, left), b = vocab_get(&t->vocab, space + 1, n - left - 1);
    joined->n = 0;
    if (!lt_buffer_append(joined, text, left) || !lt_buffer_append(joined, space + 1, n - left - 1))
        return lt_fail(err, LT_E_NO_MEMORY, "no memory to read %s", path);
    int32_t made = vocab_get(&t->vocab, joined->at, joined->n);
    if (a < 0 || b < 0 || made < 0) {
        const char *missing = a < 0 ? text : b < 0 ? space + 1 : joined->at;
        size_t length = a < 0 ? left : b < 0 ? n - left - 1 : joined->n;
        return lt_fail(err, LT_E_FORMAT,
                       "%s:%d: the merge needs token \"%.*s\", which vocab.json does not have", path, line,
                       (int)LT_MIN(length, 64), missing);
    }
    uint64_t pair = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    *merge_slot(model, pair) = (merge){pair, rank, made};
    return LT_OK;
}

static lt_status read_merges(lt_tokenizer *t, bpe_model *model, const char *path, lt_err *err)
{
    char *text;
    size_t n, lines = 1;
    lt_status status = tokenizer_read(t, path, MAX_FILE, &text, &n, err);
    if (status != LT_OK) return status;
    if (lt_utf8_valid(text, n) < n)
        return lt_fail(err, LT_E_FORMAT, "%s: byte %zu is not UTF-8", path, lt_utf8_valid(text, n));
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    for (model->n_slots = 16; model->n_slots < 2 * lines;) model->n_slots *= 2;
    model->merges = malloc(model->n_slots * sizeof *model->merges);
    if (!model->merges)
        return lt_fail(err, LT_E_NO_MEMORY, "no memory for the %zu merges of %s", lines, path);
    for (size_t i = 0; i < model->n_slots; i++) model->merges[i].rank = -1;

    lt_buffer joined = {0};
    int line = 1, rank = 0;
    for (size_t i = 0; i < n && status == LT_OK; line++) {
        const char *end = memchr(text + i, '\n', n - i);
        size_t length = end ? (size_t)(end - text) - i : n - i, whole = length;
        if (length && text[i + length - 1] == '\r') length--;
        if (length < 8 || memcmp(text + i, "#version", 8) != 0)
            status = read_merge(t, model, path, line, rank++, text + i, length, &joined, err);
        i += whole + 1;
    }
    free(joined.at);
    return status;
}

static void set_bytes(const lt_tokenizer *t, bpe_model *model)
{
    uint32_t chars[256];
    byte_alphabet(chars);
    for (int b = 0; b < 256; b++) {
        char buffer[16];
        lt_buffer text = {.at = buffer, .capacity = sizeof buffer};
        lt_buffer_append_char(&text, chars[b]);
        model->inside[b] = vocab_get(&t->vocab, text.at, text.n);
        lt_buffer_append(&text, WORD_END, strlen(WORD_END));
        model->last[b] = vocab_get(&t->vocab, text.at, text.n);
    }
}

lt_status bpe_open(lt_tokenizer *tokenizer, const token_files *files, lt_err *err)
{
    bpe_model *model = tokenizer->bpe = calloc(1, sizeof *model);
    if (!model) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a tokenizer");
    lt_status status = read_vocab(tokenizer, files->vocab, err);
    if (status == LT_OK) status = read_merges(tokenizer, model, files->merges, err);
    if (status == LT_OK) set_bytes(tokenizer, model);
    return status;
}

void bpe_set_unknown(bpe_model *model, int32_t unknown_id)
{
    for (int b = 0; b < 256; b++) {
        if (model->inside[b] < 0) model->inside[b] = unknown_id;
        if (model->last[b] < 0) model->last[b] = unknown_id;
    }
}

void bpe_close(bpe_model *model)
{
    if (!model) return;
    free(model->merges);
    free(model);
}

/* ---- text ----------------------------------------------------------------------------------------------------------- */

lt_status bpe_normalise(const char *text, size_t n, lt_buffer *out, lt_err *err)
{
    lt_buffer composed = {0};
    lt_status status = lt_unicode_nfc(text, n, &composed, err);
    bool good = true, space = false;
    for (size_t i = 0; good && status == LT_OK && i < composed.n;) {
        uint32_t c = lt_utf8_next(composed.at, &i), lower[2];
        if (lt_unicode_is(LT_UNICODE_SPACE, c)) {
            if (!space) good = lt_buffer_append(out, " ", 1);
            space = true;
            continue;
        }
        space = false;
        int m = lt_unicode_lower(c, lower);
        for (int k = 0; good && k < m; k++) good = lt_buffer_append_char(out, lower[k]);
    }
    free(composed.at);
    if (!good) status = lt_fail(err, LT_E_NO_MEMORY, "no memory to normalise a text of %zu bytes", n);
    return status;
}

/* ---- one word ------------------------------------------------------------------------------------------------------- */

/* A token of the word so far; those that were merged into another have n 0. */
typedef struct symbol {
    int32_t id, previous, next; /* -1: none */
    int32_t n;
} symbol;

/* A merge that can be done: of the symbol at `at` and the next. */
typedef struct candidate {
    int32_t rank, at, made;
} candidate;

typedef struct word {
    symbol *symbols;
    candidate *heap;
    size_t n_symbols, n_heap, capacity; /* capacity in bytes of text */
} word;

static bool sooner(candidate a, candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(word *w, candidate c)
{
    size_t i = w->n_heap++;
    while (i > 0 && sooner(c, w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = c;
}

static candidate heap_pop(word *w)
{
    candidate top = w->heap[0], c = w->heap[--w->n_heap];
    size_t i = 0;
    for (size_t k = 1; k < w->n_heap; k = 2 * i + 1) {
        if (k + 1 < w->n_heap && sooner(w->heap[k + 1], w->heap[k])) k++;
        if (!sooner(w->heap[k], c)) break;
        w->heap[i] = w->heap[k];
        i = k;
    }
    w->heap[i] = c;
    return top;
}

static const merge *merge_of(const bpe_model *model, const word *w, int32_t at)
{
    int32_t next = w->symbols[at].next;
    if (next < 0) return NULL;
    uint64_t pair = (uint64_t)(uint32_t)w->symbols[at].id << 32 | (uint32_t)w->symbols[next].id;
    const merge *m = merge_slot(model, pair);
    return m->rank >= 0 ? m : NULL;
}

static void offer(const bpe_model *model, word *w, int32_t at)
{
    const merge *m = at >= 0 ? merge_of(model, w, at) : NULL;
    if (m) heap_push(w, (candidate){m->rank, at, m->made});
}

static bool word_reserve(word *w, size_t n)
{
    size_t bytes;
    if (n <= w->capacity) return true;
    n = LT_MAX(n, 256);
    free(w->symbols);
    free(w->heap);
    w->capacity = 0;
    /* Every merge takes a symbol away and offers two more candidates. */
    bool fits = n < INT32_MAX && lt_mul_size(n, 3 * sizeof(candidate), &bytes);
    w->symbols = fits ? calloc(n, sizeof *w->symbols) : NULL;
    w->heap = fits ? malloc(bytes) : NULL;
    if (w->symbols && w->heap) w->capacity = n;
    return w->capacity > 0;
}

/* The ids of one word of n > 0 bytes. */
static bool encode_word(const bpe_model *model, word *w, const char *text, size_t n, token_ids *ids)
{
    if (!word_reserve(w, n)) return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)text[i];
        bool last = i + 1 == n;
        w->symbols[i] =
            (symbol){last ? model->last[b] : model->inside[b], (int32_t)i - 1, last ? -1 : (int32_t)i + 1, 1};
    }
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++) offer(model, w, (int32_t)i);
    while (w->n_heap > 0) {
        candidate c = heap_pop(w);
        symbol *s = &w->symbols[c.at];
        const merge *m = s->n ? merge_of(model, w, c.at) : NULL;
        if (!m || m->made != c.made) continue; /* one of the two has gone into another since */
        symbol *right = &w->symbols[s->next];
        right->n = 0;
        s->id = c.made;
        s->next = right->next;
        if (s->next >= 0) w->symbols[s->next].previous = c.at;
        offer(model, w, s->previous);
        offer(model, w, c.at);
    }
    for (int32_t i = 0; i >= 0 && !ids_full(ids); i = w->symbols[i].next) ids_push(ids, w->symbols[i].id);
    return true;
}

/* ---- words of a text -------------------------------------------------------------------------------------------------- */

typedef enum { KIND_SPACE, KIND_LETTER, KIND_NUMBER, KIND_OTHER } char_kind;

static char_kind kind_of(uint32_t c)
{
    if (c < 0x80) {
        if (c >= 'a' && c <= 'z') return KIND_LETTER;
        if (c >= '0' && c <= '9') return KIND_NUMBER;
    }
    if (lt_unicode_is(LT_UNICODE_SPACE, c)) return KIND_SPACE;
    if (lt_unicode_is(LT_UNICODE_LETTER, c)) return KIND_LETTER;
    return lt_unicode_is(LT_UNICODE_NUMBER, c) ? KIND_NUMBER : KIND_OTHER;
}

/* Length of the text that stands at the start of [text, text + n) and makes a word by itself; 0: none does. */
static size_t fixed_word(const char *text, size_t n)
{
    static const char *const fixed[] = {
        "<|startoftext|>", "<|endoftext|>", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    if (text[0] != '<' && text[0] != '\'') return 0;
    for (size_t i = 0; i < LT_COUNT(fixed); i++) {
        size_t m = strlen(fixed[i]);
        if (m <= n && memcmp(text, fixed[i], m) == 0) return m;
    }
    return 0;
}

/* End of the word that starts at `at`: one number, or all that are of one kind. */
static size_t word_end(const char *text, size_t n, size_t at)
{
    char_kind kind = kind_of(lt_utf8_next(text, &at));
    while (kind != KIND_NUMBER && at < n) {
        size_t next = at;
        if (kind_of(lt_utf8_next(text, &next)) != kind) break;
        at = next;
    }
    return at;
}

/* The pattern of CLIP, and of what it finds once more that of GPT-2, which takes the two special tokens apart. */
lt_status bpe_encode(const bpe_model *model, const char *text, size_t n, token_ids *ids, lt_err *err)
{
    word w = {0};
    bool good = true;
    for (size_t i = 0; good && i < n && !ids_full(ids);) {
        if (text[i] == ' ') {
            i++;
            continue;
        }
        size_t m = fixed_word(text + i, n - i);
        if (m == 0) {
            size_t end = word_end(text, n, i);
            good = encode_word(model, &w, text + i, end - i, ids);
            i = end;
        } else if (text[i] == '<') {
            good = encode_word(model, &w, text + i, 2, ids) &&
                   encode_word(model, &w, text + i + 2, m - 4, ids) &&
                   encode_word(model, &w, text + i + m - 2, 2, ids);
            i += m;
        } else {
            good = encode_word(model, &w, text + i, m, ids);
            i += m;
        }
    }
    free(w.symbols);
    free(w.heap);
    return good ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "no memory for a text of %zu bytes", n);
}
