/* fuzz.h - what the fuzz targets share. Each is a file with one LLVMFuzzerTestOneInput, built twice: with clang's libFuzzer
 * (preset `fuzz`), and everywhere with replay.c, which feeds it the committed corpus.
 *
 * A target hands hostile bytes to a function that must refuse them with a sentence, or accept them and keep its header's
 * promises; a promise that is broken aborts. */
#ifndef LT_TESTS_FUZZ_H
#define LT_TESTS_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

/* One input. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

#define FUZZ_MUST(condition)                                                                                 \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);                  \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* A refusal: an error, never flow, with a sentence that ends within its room. */
#define FUZZ_REFUSED(status, err)                                                                            \
    do {                                                                                                     \
        FUZZ_MUST((status) > LT_AGAIN && (status) < LT_N_STATUS && (status) != LT_E_INTERNAL);               \
        FUZZ_MUST((err).status == (status) && *(err).text && memchr((err).text, 0, sizeof(err).text));       \
    } while (0)

/* Write the input to `path`, which is made. */
static inline void fuzz_write(const char *path, const uint8_t *data, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");
    FUZZ_MUST(file && fwrite(data, 1, n_bytes, file) == n_bytes && !fclose(file));
}

/* A folder of this process, in $TMPDIR, else in memory where there is /dev/shm; made at the first call, removed at exit. */
const char *fuzz_folder(void);

/* "fuzz_folder()/name", in a static place; the file is removed at exit. At most eight names. */
const char *fuzz_path(const char *name);

#endif
