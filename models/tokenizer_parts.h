/* tokenizer_parts.h - what the sources of tokenizer.h share. Internal. */
#ifndef LT_TOKENIZER_PARTS_H
#define LT_TOKENIZER_PARTS_H

#include "models/tokenizer.h"
#include "models/unicode.h"

/* Ids that are collected until there are `enough`. */
typedef struct token_ids {
    int32_t *at;
    size_t n, enough;
} token_ids;

static inline bool ids_full(const token_ids *ids)
{
    return ids->n >= ids->enough;
}

/* Dropped when there are enough. */
static inline void ids_push(token_ids *ids, int32_t id)
{
    if (ids->n < ids->enough) ids->at[ids->n++] = id;
}

/* ---- strings to ids (tokenizer_vocab.c) ------------------------------------------------------------------------------ */

typedef struct vocab_entry {
    const char *text; /* NULL: free */
    uint32_t n;
    int32_t id;
} vocab_entry;

/* A hash table; texts are borrowed. Zeroed is empty. */
typedef struct token_vocab {
    vocab_entry *slots;
    size_t n_slots; /* a power of two */
    size_t n;
} token_vocab;

lt_status vocab_init(token_vocab *vocab, size_t n_tokens, lt_err *err);
void vocab_finish(token_vocab *vocab);
/* False when the text is there already. */
bool vocab_put(token_vocab *vocab, const char *text, size_t n, int32_t id);
/* -1: not there. */
int32_t vocab_get(const token_vocab *vocab, const char *text, size_t n);

/* ---- tokens that are found in the text itself (tokenizer_added.c) -------------------------------------------------------- */

enum { MAX_ADDED = 4096 };

typedef struct added_token {
    const char *text; /* in the tokenizer's arena */
    size_t n;
    int32_t id;
    bool normalized; /* looked for in the normalised text, itself normalised; else in the text as it came */
    bool lstrip, rstrip;     /* take the white space before, after with it */
    bool single_word;        /* only where no word character stands before or after */
    const char *normal_text; /* what is looked for */
    size_t normal_n;
} added_token;

/* Walks through a text. */
typedef struct added_cursor {
    const added_token *tokens;
    int n_tokens;
    bool normalized; /* which of the tokens are looked for */
    const char *text;
    size_t n;
    size_t done;   /* everything before has been given */
    size_t search; /* where to look on */
    bool pending;  /* a match waits behind the text before it */
    size_t match_begin, match_end;
    int32_t match_id;
    bool first[256]; /* bytes that begin a token */
} added_cursor;

void added_start(added_cursor *cursor, const added_token *tokens, int n_tokens, bool normalized,
                 const char *text, size_t n);
/* The next part [*begin, *end): an added token, or with *id -1 the text between. False at the end. */
bool added_next(added_cursor *cursor, size_t *begin, size_t *end, int32_t *id);

/* ---- the files (tokenizer_config.c) -------------------------------------------------------------------------------------- */

typedef struct token_files {
    char *folder, *vocab, *merges, *spiece; /* paths in the arena; NULL: not there */
    char *config, *special_map, *added;
} token_files;

/* Read a whole file of at most `limit` bytes into the arena, with a NUL behind; and feed its bytes to the digest. */
lt_status tokenizer_read(lt_tokenizer *tokenizer, const char *path, size_t limit, char **text, size_t *n,
                         lt_err *err);

/* Which tokens are named (start, end, unknown, padding) and which are found in text, with their ways. Ids are looked up in
 * tokenizer->vocab, so that comes first. */
lt_status tokenizer_read_config(lt_tokenizer *tokenizer, const token_files *files, lt_err *err);
/* Add a token that is found as it stands, unless one of its text is there. */
lt_status tokenizer_add_plain(lt_tokenizer *tokenizer, const char *text, lt_err *err);
/* How many <extra_id_N> a T5 folder has; 100 where it does not say. */
lt_status tokenizer_extra_ids(lt_tokenizer *tokenizer, const token_files *files, int *n, lt_err *err);

/* ---- the two models ---------------------------------------------------------------------------------------------------------- */

typedef struct bpe_model bpe_model;         /* tokenizer_bpe.c */
typedef struct unigram_model unigram_model; /* tokenizer_unigram.c */

struct lt_tokenizer {
    lt_tokenizer_info info;
    lt_arena arena;
    const char *path;
    token_vocab vocab;
    int32_t unknown_id;
    added_token *added;
    int n_added;
    bpe_model *bpe;         /* CLIP */
    unigram_model *unigram; /* T5 */
    void *digest;           /* XXH3 state while files are read */
};

/* vocab.json and merges.txt; fills vocab and bpe. bpe_finish once unknown_id is known. */
lt_status bpe_open(lt_tokenizer *tokenizer, const token_files *files, lt_err *err);
void bpe_set_unknown(bpe_model *model, int32_t unknown_id);
void bpe_close(bpe_model *model); /* takes NULL */
/* NFC, runs of white space to one space, lower case. */
lt_status bpe_normalise(const char *text, size_t n, lt_buffer *out, lt_err *err);
/* Ids of normalised text. */
lt_status bpe_encode(const bpe_model *model, const char *text, size_t n, token_ids *ids, lt_err *err);

/* spiece.model; fills vocab and unigram, extra_ids tokens included. */
lt_status unigram_open(lt_tokenizer *tokenizer, const char *path, int extra_ids, lt_err *err);
/* What transformers adds by itself, where the files have not: control and user-defined pieces, and the extra ids. */
lt_status unigram_add_tokens(lt_tokenizer *tokenizer, int extra_ids, lt_err *err);
void unigram_close(unigram_model *model); /* takes NULL */
lt_status unigram_normalise(const unigram_model *model, const char *text, size_t n, lt_buffer *out,
                            lt_err *err);
lt_status unigram_encode(const unigram_model *model, const char *text, size_t n, token_ids *ids, lt_err *err);

#endif
