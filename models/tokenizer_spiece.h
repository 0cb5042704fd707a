/* tokenizer_spiece.h - the file format of SentencePiece models. Internal. */
#ifndef LT_TOKENIZER_SPIECE_H
#define LT_TOKENIZER_SPIECE_H

#include "core/core.h"

enum { SPIECE_NORMAL = 1, SPIECE_UNKNOWN = 2, SPIECE_CONTROL = 3, SPIECE_USER = 4 };
enum { SPIECE_UNIGRAM = 1 };

typedef struct spiece {
    const char *text; /* n bytes of the file */
    size_t n;
    float score;
    int type;
} spiece;

typedef struct spiece_model {
    size_t n_pieces;
    int kind;             /* SPIECE_UNIGRAM, or another */
    const char *charsmap; /* the normaliser's table, of the file; NULL: there is none */
    size_t charsmap_n;
} spiece_model;

/* Read the n bytes of `text`, which must outlive model and pieces. pieces: room for n_pieces, or NULL to count them first.
 * E_FORMAT where the message is broken. */
lt_status spiece_read(spiece_model *model, const char *text, size_t n, spiece *pieces, const char *path,
                      lt_err *err);

#endif
