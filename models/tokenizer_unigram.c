/* tokenizer_unigram.c - T5's tokenizer: SentencePiece's normaliser and unigram model (Kudo and Richardson, 2018) as transformers'
 * Fast tokenizer runs them.
 *
 * SentencePiece's own library gives other ids than the Fast tokenizer where sums of scores nearly tie (it adds floats, Fast
 * doubles), where a sign carries accents (Fast normalises by graphemes) and where a control piece stands in the text; so the model
 * file is read here, and searched as Fast does. */
#include "models/tokenizer_parts.h"
#include "models/tokenizer_spiece.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 64 << 20, MAX_PIECES = 1 << 22, UNKNOWN_ID = 2, SHORT_GRAPHEME = 6 };

#define UNKNOWN_PENALTY 10.0
#define WORD_MARK       "\xE2\x96\x81" /* U+2581: stands for the space before a word */
#define MARK_BYTES      3

struct unigram_model {
    spiece *pieces; /* by id, extra ids included */
    int32_t n_pieces;
    int32_t *sorted;    /* ids by their texts' bytes */
    int32_t first[257]; /* where in sorted each first byte begins */
    double unknown_score;
    const unsigned char
        *trie; /* of the normaliser: 32-bit units of a double array, little-endian; NULL: it does nothing */
    size_t n_units;
    const char *replacements; /* texts, a NUL behind each */
    size_t n_replacements;
};

/* ---- the file --------------------------------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b, void *pieces)
{
    const spiece *x = (const spiece *)pieces + *(const int32_t *)a,
                 *y = (const spiece *)pieces + *(const int32_t *)b;
    int order = memcmp(x->text, y->text, LT_MIN(x->n, y->n));
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static lt_status check_pieces(lt_tokenizer *t, unigram_model *m, const char *path, lt_err *err)
{
    double lowest = INFINITY;
    for (int32_t i = 0; i < m->n_pieces; i++) {
        const spiece *p = &m->pieces[i];
        if (p->n == 0 || memchr(p->text, 0, p->n) || lt_utf8_valid(p->text, p->n) < p->n ||
            !isfinite(p->score))
            return lt_fail(err, LT_E_FORMAT, "%s: piece %d is empty, no UTF-8 or without a finite score",
                           path, i);
        if (!vocab_put(&t->vocab, p->text, p->n, i))
            return lt_fail(err, LT_E_FORMAT, "%s: piece %d, \"%.*s\", is there twice", path, i,
                           (int)LT_MIN(p->n, 64), p->text);
        lowest = fmin(lowest, p->score);
        m->sorted[i] = i;
    }
    m->unknown_score = lowest - UNKNOWN_PENALTY;
    qsort_r(m->sorted, (size_t)m->n_pieces, sizeof *m->sorted, by_text, m->pieces);
    for (int b = 0, i = 0; b <= 256; b++) {
        while (i < m->n_pieces && (unsigned char)m->pieces[m->sorted[i]].text[0] < b) i++;
        m->first[b] = i;
    }
    return LT_OK;
}

static lt_status set_charsmap(unigram_model *m, const spiece_model *file, const char *path, lt_err *err)
{
    const unsigned char *b = (const unsigned char *)file->charsmap;
    if (file->charsmap_n == 0) return LT_OK;
    uint32_t bytes = file->charsmap_n < 4 ? 0 : b[0] | b[1] << 8 | b[2] << 16 | (uint32_t)b[3] << 24;
    if (bytes < 1024 || bytes % 4 || bytes > file->charsmap_n - 4)
        return lt_fail(err, LT_E_FORMAT, "%s: the normaliser's table of %zu bytes is broken", path,
                       file->charsmap_n);
    m->trie = b + 4;
    m->n_units = bytes / 4;
    m->replacements = file->charsmap + 4 + bytes;
    m->n_replacements = file->charsmap_n - 4 - bytes;
    if (lt_utf8_valid(m->replacements, m->n_replacements) < m->n_replacements)
        return lt_fail(err, LT_E_FORMAT, "%s: the replacements of the normaliser are not UTF-8", path);
    return LT_OK;
}

static lt_status read_model(lt_tokenizer *t, unigram_model *m, const char *path, int extra_ids, lt_err *err)
{
    char *text;
    size_t n;
    spiece_model file;
    lt_status status;
    LT_TRY(tokenizer_read(t, path, MAX_FILE, &text, &n, err));
    LT_TRY(spiece_read(&file, text, n, NULL, path, err));
    if (file.kind != SPIECE_UNIGRAM)
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "%s is a SentencePiece model of kind %d; T5's are unigram models (1)", path,
                       file.kind);
    if (file.n_pieces <= UNKNOWN_ID || file.n_pieces > MAX_PIECES)
        return lt_fail(err, LT_E_FORMAT, "%s has %zu pieces; a model has %d to %d", path, file.n_pieces,
                       UNKNOWN_ID + 1, MAX_PIECES);
    m->n_pieces = (int32_t)file.n_pieces + extra_ids;
    m->pieces = lt_arena_alloc(&t->arena, (size_t)m->n_pieces * sizeof *m->pieces);
    m->sorted = lt_arena_alloc(&t->arena, (size_t)m->n_pieces * sizeof *m->sorted);
    if (!m->pieces || !m->sorted) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the pieces of %s", path);
    LT_TRY(spiece_read(&file, text, n, m->pieces, path, err));
    if (m->pieces[UNKNOWN_ID].type != SPIECE_UNKNOWN)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: piece %d is not the unknown one, as in T5's models", path,
                       UNKNOWN_ID);
    for (int i = 0; i < extra_ids; i++) {
        char *name = lt_arena_printf(&t->arena, "<extra_id_%d>", extra_ids - 1 - i);
        if (!name) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the pieces of %s", path);
        m->pieces[file.n_pieces + (size_t)i] = (spiece){name, strlen(name), 0, SPIECE_CONTROL};
    }
    LT_TRY(vocab_init(&t->vocab, (size_t)m->n_pieces, err));
    LT_TRY(set_charsmap(m, &file, path, err));
    status = check_pieces(t, m, path, err);
fail:
    return status;
}

lt_status unigram_open(lt_tokenizer *tokenizer, const char *path, int extra_ids, lt_err *err)
{
    unigram_model *m = tokenizer->unigram = calloc(1, sizeof *m);
    if (!m) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a tokenizer");
    lt_status status = read_model(tokenizer, m, path, extra_ids, err);
    tokenizer->info.n_tokens = m->n_pieces;
    return status;
}

lt_status unigram_add_tokens(lt_tokenizer *tokenizer, int extra_ids, lt_err *err)
{
    const unigram_model *m = tokenizer->unigram;
    for (int32_t i = 0; i < m->n_pieces; i++) {
        const spiece *p = &m->pieces[i];
        if (p->type != SPIECE_CONTROL && p->type != SPIECE_USER) continue;
        char *text = lt_arena_printf(&tokenizer->arena, "%.*s", (int)p->n, p->text);
        if (!text) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the tokens of %s", tokenizer->path);
        lt_status status = tokenizer_add_plain(tokenizer, text, err);
        if (status != LT_OK) return status;
    }
    return LT_OK;
}

void unigram_close(unigram_model *model)
{
    free(model);
}

/* ---- normal form -------------------------------------------------------------------------------------------------------- */

static uint32_t unit(const unigram_model *m, size_t at)
{
    const unsigned char *b = m->trie + 4 * at;
    return b[0] | b[1] << 8 | b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint32_t unit_offset(uint32_t u)
{
    return (u >> 10) << ((u & (1u << 9)) >> 6);
}

/* The replacement of the shortest text of the table that [text, text + n) begins with; NULL: none. */
static const char *replacement(const unigram_model *m, const char *text, size_t n)
{
    size_t at = unit_offset(unit(m, 0));
    for (size_t i = 0; i < n && text[i]; i++) {
        at ^= (unsigned char)text[i];
        if (at >= m->n_units) return NULL;
        uint32_t u = unit(m, at);
        if ((u & 0x800000FFu) != (unsigned char)text[i]) return NULL;
        at ^= unit_offset(u);
        if (!(u >> 8 & 1)) continue;
        if (at >= m->n_units) return NULL;
        size_t value = unit(m, at) & 0x7FFFFFFFu;
        bool inside = value < m->n_replacements && ((unsigned char)m->replacements[value] & 0xC0) != 0x80;
        return inside ? m->replacements + value : NULL;
    }
    return NULL;
}

static bool append_replacement(const unigram_model *m, const char *from, lt_buffer *out)
{
    return lt_buffer_append(out, from, strnlen(from, m->n_replacements - (size_t)(from - m->replacements)));
}

/* Graphemes of less than six bytes are replaced as one, where the table has a text they begin with; all else character by
 * character. */
lt_status unigram_normalise(const unigram_model *model, const char *text, size_t n, lt_buffer *out,
                            lt_err *err)
{
    bool good = model->trie || lt_buffer_append(out, text, n);
    for (size_t i = 0; good && model->trie && i < n;) {
        size_t end = lt_unicode_grapheme_end(text, n, i);
        const char *whole = end - i < SHORT_GRAPHEME ? replacement(model, text + i, end - i) : NULL;
        if (whole) good = append_replacement(model, whole, out);
        for (size_t at = i; good && !whole && at < end; i = at) {
            lt_utf8_next(text, &at);
            const char *one = replacement(model, text + i, at - i);
            good = one ? append_replacement(model, one, out) : lt_buffer_append(out, text + i, at - i);
        }
        i = end;
    }
    return good ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "no memory to normalise a text of %zu bytes", n);
}

/* ---- one word --------------------------------------------------------------------------------------------------------------- */

/* The best way found to the end of a place in the word. */
typedef struct path_node {
    double score;
    int32_t id;
    int32_t from; /* -1: no way yet */
} path_node;

typedef struct lattice {
    lt_buffer word;
    path_node *nodes;
    int32_t *ids; /* backwards */
    size_t capacity;
} lattice;

static bool lattice_reserve(lattice *l, size_t n)
{
    size_t bytes;
    if (n <= l->capacity) return true;
    n = LT_MAX(n, 256);
    free(l->nodes);
    free(l->ids);
    l->capacity = 0;
    bool fits = n < INT32_MAX && lt_mul_size(n, sizeof *l->nodes, &bytes);
    l->nodes = fits ? malloc(bytes) : NULL;
    l->ids = fits ? malloc(n * sizeof *l->ids) : NULL;
    if (l->nodes && l->ids) l->capacity = n;
    return l->capacity > 0;
}

/* The first of sorted[low, high), whose texts agree in their first `depth` bytes and are longer, with a byte of at least b
 * there. */
static int32_t lower_bound(const unigram_model *m, int32_t low, int32_t high, size_t depth, int b)
{
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if ((unsigned char)m->pieces[m->sorted[middle]].text[depth] < b)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void reach(path_node *node, double score, int32_t id, size_t from)
{
    if (node->from < 0 || score > node->score) *node = (path_node){score, id, (int32_t)from};
}

/* All pieces that begin at `at`; true when one of them is the single character of `n_char` bytes there. */
static bool reach_pieces(const unigram_model *m, lattice *l, size_t at, size_t n_char)
{
    const char *text = l->word.at + at;
    size_t left = l->word.n - at;
    double before = l->nodes[at].score;
    bool single = false;
    int32_t low = m->first[(unsigned char)text[0]], high = m->first[(unsigned char)text[0] + 1];
    for (size_t depth = 1; low < high; depth++) {
        const spiece *p = &m->pieces[m->sorted[low]];
        if (p->n == depth) { /* the shortest comes first */
            reach(&l->nodes[at + depth], before + p->score, m->sorted[low], at);
            single = single || depth == n_char;
            low++;
        }
        if (depth == left) break;
        int b = (unsigned char)text[depth];
        low = lower_bound(m, low, high, depth, b);
        high = lower_bound(m, low, high, depth, b + 1);
    }
    return single;
}

/* The ids of l->word, which is not empty: the way with the highest sum of scores; unknown characters side by side are one. */
static bool encode_word(const unigram_model *m, lattice *l, token_ids *ids)
{
    size_t n = l->word.n, n_ids = 0;
    if (!lattice_reserve(l, n + 1)) return false;
    for (size_t i = 0; i <= n; i++) l->nodes[i] = (path_node){.from = -1};
    for (size_t i = 0; i < n;) {
        size_t next = i;
        lt_utf8_next(l->word.at, &next);
        if (!reach_pieces(m, l, i, next - i))
            reach(&l->nodes[next], l->nodes[i].score + m->unknown_score, UNKNOWN_ID, i);
        i = next;
    }
    for (size_t end = n; end > 0; end = (size_t)l->nodes[end].from)
        if (l->nodes[end].id != UNKNOWN_ID || n_ids == 0 || l->ids[n_ids - 1] != UNKNOWN_ID)
            l->ids[n_ids++] = l->nodes[end].id;
    while (n_ids > 0 && !ids_full(ids)) ids_push(ids, l->ids[--n_ids]);
    return true;
}

/* ---- words of a text ------------------------------------------------------------------------------------------------------------ */

/* Where the word at `at` ends: at white space, at a mark that is not its first character, or with the text. */
static size_t word_end(const char *text, size_t n, size_t at)
{
    lt_utf8_next(text, &at);
    for (size_t next = at; at < n; at = next) {
        uint32_t c = lt_utf8_next(text, &next);
        if (c == 0x2581 || lt_unicode_is(LT_UNICODE_SPACE, c)) break;
    }
    return at;
}

/* White space parts words. Each begins with a mark, of which it may bring its own; more marks begin more words. */
lt_status unigram_encode(const unigram_model *model, const char *text, size_t n, token_ids *ids, lt_err *err)
{
    lattice l = {0};
    bool good = true;
    for (size_t i = 0, next = 0; good && i < n && !ids_full(ids); i = next) {
        if (lt_unicode_is(LT_UNICODE_SPACE, lt_utf8_next(text, &next))) continue;
        next = word_end(text, n, i);
        l.word.n = 0;
        bool marked = n - i >= MARK_BYTES && memcmp(text + i, WORD_MARK, MARK_BYTES) == 0;
        good = (marked || lt_buffer_append(&l.word, WORD_MARK, MARK_BYTES)) &&
               lt_buffer_append(&l.word, text + i, next - i) && encode_word(model, &l, ids);
    }
    free(l.word.at);
    free(l.nodes);
    free(l.ids);
    return good ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "no memory for a text of %zu bytes", n);
}
