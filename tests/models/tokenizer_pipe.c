/* tokenizer_pipe.c - a tokenizer behind a pipe, for comparison with other implementations.
 *
 *   tokenizer_pipe FOLDER
 *
 * Standard input: texts, each a 32-bit number of bytes and the bytes. Standard output: for each a 32-bit number of ids and the
 * ids; all in the machine's own order. */
#include <stdio.h>
#include <stdlib.h>

#include "models/tokenizer.h"

static int answer(const lt_tokenizer *tokenizer, const char *text, uint32_t n_bytes)
{
    lt_err err;
    int n = 0;
    size_t room = 4 * (size_t)n_bytes + 8; /* normal form C makes at most three characters of one */
    int32_t *ids = malloc(room * sizeof *ids);
    if (!ids) return 1;
    if (lt_tokenizer_encode(tokenizer, text, n_bytes, ids, (int)room, &n, &err) != LT_OK)
        fprintf(stderr, "tokenizer_pipe: %s\n", err.text);
    size_t written = fwrite(&n, sizeof n, 1, stdout) + fwrite(ids, sizeof *ids, (size_t)n, stdout);
    free(ids);
    return written != (size_t)n + 1;
}

int main(int argc, char **argv)
{
    lt_err err;
    lt_tokenizer *tokenizer;
    uint32_t n_bytes;
    int failed = 0;
    if (argc != 2) {
        fprintf(stderr, "usage: tokenizer_pipe FOLDER\n");
        return 2;
    }
    if (lt_tokenizer_open(&tokenizer, argv[1], &err) != LT_OK) {
        fprintf(stderr, "tokenizer_pipe: %s\n", err.text);
        return 1;
    }
    while (!failed && fread(&n_bytes, sizeof n_bytes, 1, stdin) == 1) {
        char *text = n_bytes < 1u << 28 ? malloc(n_bytes + 1u) : NULL;
        failed = !text || fread(text, 1, n_bytes, stdin) != n_bytes || answer(tokenizer, text, n_bytes);
        free(text);
    }
    lt_tokenizer_close(tokenizer);
    return failed;
}
