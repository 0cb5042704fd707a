/* fuzz_tokenizer.c - tokenizers' files, and texts. The first byte chooses: 'C' a text for a tokenizer of CLIP's kind, 'T' for one
 * of T5's (the fixtures); 'U' a spiece.model; 'B' the files of a CLIP tokenizer and a text, parted by lines "%%": vocab.json,
 * merges.txt, tokenizer_config.json, special_tokens_map.json, added_tokens.json. */
#include "tests/fuzz/fuzz.h"

#include <unistd.h>

#include "models/tokenizer.h"

enum { LENGTH = 12 };

/* What a network relies on: ids of its table, the frame of start and end, padding behind. */
static void encode(const lt_tokenizer *tokenizer, const char *text, size_t n_bytes)
{
    const lt_tokenizer_info *info = lt_tokenizer_get_info(tokenizer);
    int32_t ids[LENGTH], again[LENGTH];
    int n, n_again;
    lt_err err;
    lt_status status = lt_tokenizer_encode(tokenizer, text, n_bytes, ids, LENGTH, &n, &err);
    if (status) {
        FUZZ_REFUSED(status, err);
        return;
    }
    FUZZ_MUST(n >= 1 && n <= LENGTH && ids[n - 1] == info->end_id);
    FUZZ_MUST(info->start_id < 0 || ids[0] == info->start_id);
    for (int i = 0; i < LENGTH; i++) FUZZ_MUST(ids[i] >= 0 && ids[i] < info->n_tokens);
    for (int i = n; i < LENGTH; i++) FUZZ_MUST(ids[i] == info->pad_id);
    FUZZ_MUST(!lt_tokenizer_encode(tokenizer, text, n_bytes, again, LENGTH, &n_again, &err));
    FUZZ_MUST(n == n_again && !memcmp(ids, again, sizeof ids));
}

static void with_fixture(lt_tokenizer **tokenizer, const char *path, const uint8_t *text, size_t n_bytes)
{
    lt_err err;
    if (!*tokenizer) FUZZ_MUST(!lt_tokenizer_open(tokenizer, path, &err));
    encode(*tokenizer, (const char *)text, n_bytes);
}

static void open_and_encode(const char *path, const char *text, size_t n_bytes)
{
    lt_err err;
    lt_tokenizer *tokenizer;
    lt_status status = lt_tokenizer_open(&tokenizer, path, &err);
    if (status) {
        FUZZ_MUST(!tokenizer);
        FUZZ_REFUSED(status, err);
        return;
    }
    encode(tokenizer, text, n_bytes);
    lt_tokenizer_close(tokenizer);
}

/* The files of CLIP's kind; what follows them is a text. */
static void files(const uint8_t *data, size_t n_bytes)
{
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json",
                                        "special_tokens_map.json", "added_tokens.json"};
    for (size_t i = 0; i < LT_COUNT(names); i++) {
        const uint8_t *end = memmem(data, n_bytes, "\n%%\n", 4);
        size_t n = end ? (size_t)(end - data) : n_bytes, skip = end ? n + 4 : n_bytes;
        if (n)
            fuzz_write(fuzz_path(names[i]), data, n);
        else
            unlink(fuzz_path(names[i]));
        data += skip;
        n_bytes -= skip;
    }
    open_and_encode(fuzz_folder(), (const char *)data, n_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const char text[] = "A b\xc3\xadrd, flying over the \xe2\x91\xa0 sea";
    static lt_tokenizer *clip, *t5;
    if (!n_bytes) return 0;
    switch (data[0]) {
    case 'C': with_fixture(&clip, LT_FIXTURES "/tokenizers/clip", data + 1, n_bytes - 1); break;
    case 'T': with_fixture(&t5, LT_FIXTURES "/tokenizers/t5", data + 1, n_bytes - 1); break;
    case 'U':
        fuzz_write(fuzz_path("spiece.model"), data + 1, n_bytes - 1);
        open_and_encode(fuzz_path("spiece.model"), text, sizeof text - 1);
        break;
    case 'B': files(data + 1, n_bytes - 1); break;
    default: break;
    }
    return 0;
}
