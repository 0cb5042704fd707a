/* tokenizer.h - text to token ids: CLIP's byte-pair encoding and T5's SentencePiece.
 *
 * Equal, id for id, to the Fast tokenizers of transformers for any Unicode text.
 * Threads: an open tokenizer is read-only and may be used from any number of threads.
 * Equal: to transformers 5.23 with tokenizers 0.23, whose versions of Unicode are ours, too (unicode.h).
 * Sources: transformers' CLIPTokenizerFast, T5TokenizerFast; Sennrich et al., 2016; Kudo and Richardson, 2018. */
#ifndef LT_TOKENIZER_H
#define LT_TOKENIZER_H

#include "core/core.h"

typedef struct lt_tokenizer lt_tokenizer;

typedef enum { LT_TOKENIZER_CLIP, LT_TOKENIZER_T5 } lt_tokenizer_kind;

typedef struct lt_tokenizer_info {
    lt_tokenizer_kind kind;
    int n_tokens; /* ids are below this */
    int pad_id;   /* what ids are padded with: 49407 (CLIP-L), 0 (bigG, T5) */
    int start_id; /* -1: there is none (T5) */
    int end_id;
    int length; /* that the model is used with: CLIP's model_max_length, or 77; 120 for T5, as PixArt has it */
    char digest[33]; /* XXH3-128 of all files that decide ids, hex */
} lt_tokenizer_info;

/* Open the tokenizer at `path`: a folder that holds vocab.json and merges.txt (CLIP) or spiece.model (T5), with
 * tokenizer_config.json, special_tokens_map.json and added_tokens.json where they are; or a spiece.model itself; tokenizer.json is not read. All of it is
 * checked. E_NOT_FOUND saying what was looked for, E_FORMAT with file and line (a merge whose result is no token, a token that
 * is there twice), E_UNSUPPORTED (an added token that the vocabulary lacks; a SentencePiece model that is not T5's kind), E_IO,
 * E_NO_MEMORY; *tokenizer is NULL then. Never more than 64 MiB of a file is read.
 * lite-sora's repository has SDXL's tokenizer_2/merges.txt cut short in a line: refused, as transformers refuses it; CLIP-L's file is
 * the same one, whole. */
lt_status lt_tokenizer_open(lt_tokenizer **tokenizer, const char *path, lt_err *err);
void lt_tokenizer_close(lt_tokenizer *tokenizer); /* takes NULL */
const lt_tokenizer_info *lt_tokenizer_get_info(const lt_tokenizer *tokenizer);

/* The ids of `text` (n_bytes of UTF-8, 0 bytes among them too), start and end ids included, cut to `length` (the last id
 * stays the end id) and padded to it: ids[length]. *n_ids: how many are not padding.
 * Text of any length is taken; time is at most n log n in it. E_INVALID when it is not UTF-8, naming the byte, or `length` has no
 * room for start and end; E_NO_MEMORY. */
lt_status lt_tokenizer_encode(const lt_tokenizer *tokenizer, const char *text, size_t n_bytes, int32_t *ids,
                              int length, int *n_ids, lt_err *err);

#endif
