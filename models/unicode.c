/* unicode.c - unicode.h by binary search in tables. */
#include "models/unicode.h"

#include <stdlib.h>
#include <string.h>

#include "models/unicode_tables.h"

/* ---- bytes ----------------------------------------------------------------------------------------------------------- */

bool lt_buffer_append(lt_buffer *text, const char *bytes, size_t n)
{
    if (n > text->capacity - text->n) {
        size_t wanted;
        if (!lt_add_size(text->n, n, &wanted) || !lt_mul_size(wanted, 2, &wanted)) return false;
        wanted = LT_MAX(wanted, 256);
        char *grown = realloc(text->at, wanted);
        if (!grown) return false;
        text->at = grown;
        text->capacity = wanted;
    }
    if (n) memcpy(text->at + text->n, bytes, n);
    text->n += n;
    return true;
}

bool lt_buffer_append_char(lt_buffer *text, uint32_t c)
{
    char b[4];
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    if (n == 1) b[0] = (char)c;
    for (size_t i = n; n > 1 && i-- > 1; c >>= 6) b[i] = (char)(0x80 | (c & 0x3F));
    if (n > 1) b[0] = (char)((0xF00 >> n) | c);
    return lt_buffer_append(text, b, n);
}

size_t lt_utf8_valid(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < n;) {
        size_t m = s[i] < 0x80   ? 1
                   : s[i] < 0xC2 ? 0
                   : s[i] < 0xE0 ? 2
                   : s[i] < 0xF0 ? 3
                   : s[i] < 0xF5 ? 4
                                 : 0;
        if (m == 0 || m > n - i) return i;
        for (size_t k = 1; k < m; k++)
            if ((s[i + k] & 0xC0) != 0x80) return i;
        unsigned second = m > 1 ? s[i + 1] : 0;
        if ((s[i] == 0xE0 && second < 0xA0) || (s[i] == 0xED && second > 0x9F) ||
            (s[i] == 0xF0 && second < 0x90) || (s[i] == 0xF4 && second > 0x8F))
            return i;
        i += m;
    }
    return n;
}

uint32_t lt_utf8_next(const char *text, size_t *at)
{
    const unsigned char *s = (const unsigned char *)text + *at;
    int more = s[0] < 0x80 ? 0 : s[0] < 0xE0 ? 1 : s[0] < 0xF0 ? 2 : 3;
    uint32_t c = more ? s[0] & (0x3Fu >> more) : s[0];
    for (int i = 1; i <= more; i++) c = c << 6 | (s[i] & 0x3F);
    *at += (size_t)more + 1;
    return c;
}

uint32_t lt_utf8_previous(const char *text, size_t *at)
{
    do --*at;
    while (((unsigned char)text[*at] & 0xC0) == 0x80);
    size_t start = *at;
    return lt_utf8_next(text, &start);
}

/* ---- classes and case -------------------------------------------------------------------------------------------------- */

static bool in_ranges(const uint32_t (*ranges)[2], size_t n, uint32_t c)
{
    size_t low = 0;
    while (n > 0) {
        size_t half = n / 2;
        if (ranges[low + half][1] < c) {
            low += half + 1;
            n -= half + 1;
        } else if (ranges[low + half][0] > c) {
            n = half;
        } else {
            return true;
        }
    }
    return false;
}

#define IN(table, c) in_ranges(lt_unicode_##table, LT_COUNT(lt_unicode_##table), c)

bool lt_unicode_is(lt_unicode_class class, uint32_t c)
{
    switch (class) {
    case LT_UNICODE_LETTER: return IN(letters, c);
    case LT_UNICODE_NUMBER: return IN(numbers, c);
    case LT_UNICODE_WORD: return IN(words, c);
    case LT_UNICODE_SPACE: return IN(spaces, c);
    }
    return false;
}

int lt_unicode_lower(uint32_t c, uint32_t out[2])
{
    out[0] = c;
    if (c == 0x130) { /* the one that becomes two: i with a dot above it */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    size_t low = 0, n = LT_COUNT(lt_unicode_lower_runs);
    while (n > 0) {
        const int32_t *run = lt_unicode_lower_runs[low + n / 2];
        if (run[1] < (int32_t)c) {
            low += n / 2 + 1;
            n -= n / 2 + 1;
        } else if (run[0] > (int32_t)c) {
            n /= 2;
        } else {
            if (((int32_t)c - run[0]) % run[2] == 0) out[0] = (uint32_t)((int32_t)c + run[3]);
            break;
        }
    }
    return 1;
}

/* ---- normal form C ------------------------------------------------------------------------------------------------------ */

enum { S_BASE = 0xAC00, L_BASE = 0x1100, V_BASE = 0x1161, T_BASE = 0x11A7, L_N = 19, V_N = 21, T_N = 28 };

/* A character and its canonical combining class. */
typedef struct mark {
    uint32_t c, class;
} mark;

typedef struct marks {
    mark *at;
    size_t n, capacity;
} marks;

/* Row of a table of threes whose first (and second, where `pair`) entries are a (and b); NULL: there is none. */
static const uint32_t *find_row(const uint32_t (*rows)[3], size_t n, uint32_t a, uint32_t b, bool pair)
{
    size_t low = 0;
    while (n > 0) {
        const uint32_t *row = rows[low + n / 2];
        if (row[0] == a && (!pair || row[1] == b)) return row;
        if (row[0] < a || (row[0] == a && row[1] < b)) {
            low += n / 2 + 1;
            n -= n / 2 + 1;
        } else {
            n /= 2;
        }
    }
    return NULL;
}

static uint32_t combining_class(uint32_t c)
{
    size_t low = 0, n = LT_COUNT(lt_unicode_combining);
    while (n > 0) {
        const uint32_t *run = lt_unicode_combining[low + n / 2];
        if (run[1] < c) {
            low += n / 2 + 1;
            n -= n / 2 + 1;
        } else if (run[0] > c) {
            n /= 2;
        } else {
            return run[2];
        }
    }
    return 0;
}

static bool push_mark(marks *m, uint32_t c)
{
    if (m->n == m->capacity) {
        size_t wanted = m->capacity ? 2 * m->capacity : 64, bytes;
        mark *grown = lt_mul_size(wanted, sizeof(mark), &bytes) ? realloc(m->at, bytes) : NULL;
        if (!grown) return false;
        m->at = grown;
        m->capacity = wanted;
    }
    m->at[m->n++] = (mark){c, c < 0x300 ? 0 : combining_class(c)};
    return true;
}

static bool push_apart(marks *m, uint32_t c)
{
    uint32_t s = c - S_BASE;
    if (c < 0xC0) return push_mark(m, c);
    if (c >= S_BASE && s < L_N * V_N * T_N)
        return push_mark(m, L_BASE + s / (V_N * T_N)) && push_mark(m, V_BASE + s % (V_N * T_N) / T_N) &&
               (s % T_N == 0 || push_mark(m, T_BASE + s % T_N));
    const uint32_t *row = find_row(lt_unicode_apart, LT_COUNT(lt_unicode_apart), c, 0, false);
    if (!row) return push_mark(m, c);
    for (uint32_t i = 0; i < row[2]; i++)
        if (!push_mark(m, lt_unicode_pool[row[1] + i][0])) return false;
    return true;
}

/* Each run of marks in the order of their classes, those of one class in the order they came: a counting sort, since runs
 * may be as long as the text. */
static void sort_marks(mark *at, size_t n, mark *scratch)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        bool sorted = true;
        for (; end < n && at[end].class; end++)
            sorted = sorted && (end == i || at[end - 1].class <= at[end].class);
        if (!sorted) {
            size_t starts[257] = {0};
            for (size_t k = i; k < end; k++) starts[at[k].class + 1]++;
            for (int c = 1; c < 257; c++) starts[c] += starts[c - 1];
            for (size_t k = i; k < end; k++) scratch[starts[at[k].class]++] = at[k];
            memcpy(at + i, scratch, (end - i) * sizeof *at);
        }
        i = end + 1;
    }
}

/* The character that a and b make together, or 0. */
static uint32_t compose(uint32_t a, uint32_t b)
{
    if (a - L_BASE < L_N && b - V_BASE < V_N) return S_BASE + ((a - L_BASE) * V_N + (b - V_BASE)) * T_N;
    if (a >= S_BASE && a - S_BASE < L_N * V_N * T_N && (a - S_BASE) % T_N == 0 && b > T_BASE &&
        b < T_BASE + T_N)
        return a + (b - T_BASE);
    const uint32_t *row = find_row(lt_unicode_together, LT_COUNT(lt_unicode_together), a, b, true);
    return row ? row[2] : 0;
}

/* Put together what composes; returns how many are left. A mark composes with the last starter unless something of its own
 * class or higher stands between them. */
static size_t put_together(mark *at, size_t n)
{
    size_t kept = 0, starter = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        mark m = at[i];
        bool adjacent = starter != SIZE_MAX && kept == starter + 1;
        bool free_way =
            starter != SIZE_MAX && (adjacent || (at[kept - 1].class < m.class && at[kept - 1].class));
        uint32_t made = free_way && m.c >= 0x300 ? compose(at[starter].c, m.c) : 0;
        if (made) {
            at[starter].c = made;
            continue;
        }
        if (m.class == 0) starter = kept;
        at[kept++] = m;
    }
    return kept;
}

lt_status lt_unicode_nfc(const char *text, size_t n, lt_buffer *out, lt_err *err)
{
    marks m = {0};
    mark *scratch = NULL;
    bool good = true;
    for (size_t i = 0; good && i < n;) good = push_apart(&m, lt_utf8_next(text, &i));
    if (good && m.n) good = (scratch = malloc(m.n * sizeof *scratch)) != NULL;
    if (good && m.n) {
        sort_marks(m.at, m.n, scratch);
        m.n = put_together(m.at, m.n);
    }
    for (size_t i = 0; good && i < m.n; i++) good = lt_buffer_append_char(out, m.at[i].c);
    free(m.at);
    free(scratch);
    return good ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "no memory to normalise a text of %zu bytes", n);
}

/* ---- graphemes (UAX 29) --------------------------------------------------------------------------------------------------- */

enum { ZERO_WIDTH_JOINER = 0x200D };

/* What the rules that look back further than one character have seen. */
typedef struct grapheme {
    uint32_t last;
    bool pictograph; /* a pictograph and marks so far; with a joiner last, another may follow (GB11) */
    bool consonant;  /* a consonant and its marks so far ... */
    bool linked;     /* ... a linker among them: another consonant may follow (GB9c) */
} grapheme;

static bool joins(const grapheme *g, uint32_t c)
{
    if (g->last == '\r' && c == '\n') return true;
    if (IN(controls, g->last) || IN(controls, c)) return false;
    return IN(glued, c) || IN(prepends, g->last) || (g->linked && IN(consonants, c)) ||
           (g->pictograph && g->last == ZERO_WIDTH_JOINER && IN(pictographs, c));
}

static void note(grapheme *g, uint32_t c)
{
    bool extends = c >= 0x300 && IN(glued, c) && !IN(spacing, c);
    bool consonant = c >= 0x900 && IN(consonants, c);
    g->linked = !consonant && g->consonant && extends && (g->linked || IN(linkers, c));
    g->consonant = consonant || (g->consonant && extends);
    g->pictograph = IN(pictographs, c) || (g->pictograph && extends);
    g->last = c;
}

size_t lt_unicode_grapheme_end(const char *text, size_t n, size_t at)
{
    grapheme g = {0};
    note(&g, lt_utf8_next(text, &at));
    while (at < n) {
        size_t next = at;
        uint32_t c = lt_utf8_next(text, &next);
        if (g.last < 0x80 && c < 0x80 ? !(g.last == '\r' && c == '\n') : !joins(&g, c)) break;
        note(&g, c);
        at = next;
    }
    return at;
}
