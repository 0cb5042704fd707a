/* test_tokenizer.c - ids equal to those of transformers' Fast tokenizers (tests/fixtures/make_tokenizer_fixtures.py, which also compares
 * as many texts as one likes); texts and files that are wrong. */
#include "tests/models/support.h"

#include "models/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROOM = 4096 };

static const char *small(const char *name)
{
    static char paths[4][1024];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/tokenizers/%s", LT_FIXTURES, name);
    return path;
}

static const char *real(const char *name)
{
    static char paths[4][1024];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/data/tokenizers/%s", LT_SHARED, name);
    return path;
}

static lt_tokenizer *open_at(const char *path)
{
    lt_err err = {0};
    lt_tokenizer *t;
    must(lt_tokenizer_open(&t, path, &err), &err);
    return t;
}

static void write_bytes(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static void write_file(const char *path, const char *text)
{
    write_bytes(path, text, strlen(text));
}

static char *read_file(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 8 << 20);
    assert_non_null(file);
    assert_non_null(text);
    *n = fread(text, 1, (8 << 20) - 1, file);
    fclose(file);
    return text;
}

/* ---- ids ---------------------------------------------------------------------------------------------------------------- */

/* The texts of texts.json, through tokenizer `t`, against the ids under `key`: all of them, and cut to 9. */
static void check_texts(const lt_tokenizer *t, const char *key)
{
    const lt_tokenizer_info *info = lt_tokenizer_get_info(t);
    json_error_t where;
    json_t *root = json_load_file(small("texts.json"), JSON_ALLOW_NUL, &where), *entry, *wanted, *id;
    size_t i, k, total = 0;
    assert_non_null(root);
    json_array_foreach(root, i, entry)
    {
        const json_t *text = json_object_get(entry, "text");
        int32_t ids[ROOM];
        int n = -1;
        lt_err err = {0};
        const char *bytes = json_string_value(text);
        assert_non_null(wanted = json_object_get(entry, key));
        must(lt_tokenizer_encode(t, bytes, json_string_length(text), ids, ROOM, &n, &err), &err);
        if (n != (int)json_array_size(wanted))
            fail_msg("%s, text %zu: %d ids for %zu", key, i, n, json_array_size(wanted));
        json_array_foreach(wanted, k, id) if (ids[k] != json_integer_value(id))
            fail_msg("%s, text %zu: id %zu is %d", key, i, k, ids[k]);
        for (int j = n; j < ROOM; j++) assert_int_equal(ids[j], info->pad_id);
        total += (size_t)n;

        int32_t cut[9];
        int n_cut = -1;
        must(lt_tokenizer_encode(t, bytes, json_string_length(text), cut, 9, &n_cut, &err), &err);
        assert_int_equal(n_cut, LT_MIN(n, 9));
        assert_int_equal(cut[n_cut - 1], info->end_id);
        assert_memory_equal(cut, ids, (size_t)(n_cut - 1) * sizeof *ids);
    }
    printf("  %s: %zu texts, %zu ids\n", key, i, total);
    assert_true(i >= 300);
    json_decref(root);
}

/* A folder with the vocabulary of `folder`, configured as SDXL's second tokenizer: "!" pads. */
static const char *second(const char *folder, const char *name)
{
    lt_tokenizer *t = open_at(folder);
    int n = lt_tokenizer_get_info(t)->n_tokens;
    char from[2048], config[2048];
    const char *to = in_folder("%s", name);
    assert_int_equal(mkdir(to, 0777), 0);
    snprintf(from, sizeof from, "%s/vocab.json", folder);
    assert_int_equal(symlink(from, in_folder("%s/vocab.json", name)), 0);
    snprintf(from, sizeof from, "%s/merges.txt", folder);
    assert_int_equal(symlink(from, in_folder("%s/merges.txt", name)), 0);
    snprintf(config, sizeof config,
             "{\"pad_token\": \"!\", \"model_max_length\": 1000000000000000019884624838656, "
             "\"added_tokens_decoder\": {"
             "\"0\": {\"content\": \"!\", \"normalized\": false, \"special\": true},"
             "\"%d\": {\"content\": \"<|startoftext|>\", \"normalized\": true, \"special\": true},"
             "\"%d\": {\"content\": \"<|endoftext|>\", \"normalized\": true, \"special\": true}}}",
             n - 2, n - 1);
    write_file(in_folder("%s/tokenizer_config.json", name), config);
    lt_tokenizer_close(t);
    return to;
}

static void check_folder(const char *path, const char *key, const char *second_key)
{
    lt_tokenizer *t = open_at(path);
    char first[33];
    check_texts(t, key);
    strcpy(first, lt_tokenizer_get_info(t)->digest);
    assert_int_equal(strlen(first), 32);
    if (second_key) {
        lt_tokenizer *other = open_at(second(path, second_key));
        assert_string_not_equal(lt_tokenizer_get_info(other)->digest, first);
        assert_int_equal(lt_tokenizer_get_info(other)->pad_id, 0);
        assert_int_equal(lt_tokenizer_get_info(other)->length, 77);
        check_texts(other, second_key);
        lt_tokenizer_close(other);
    }
    lt_tokenizer_close(t);
}

static void small_ones(void **state)
{
    check_folder(small("clip"), "clip", "clip_2");
    check_folder(small("t5"), "t5", NULL);
}

static void real_ones(void **state)
{
    if (access(real(""), F_OK) != 0) {
        printf("  skipped: no real tokenizers at %s\n", real(""));
        skip();
    }
    check_folder(real("stable_diffusion/tokenizer"), "real_clip", "real_clip_2");
    check_folder(real("pixart/tokenizer"), "real_t5", NULL);
    lt_tokenizer *t = open_at(real("pixart/tokenizer"));
    const lt_tokenizer_info *info = lt_tokenizer_get_info(t);
    assert_int_equal(info->kind, LT_TOKENIZER_T5);
    assert_int_equal(info->n_tokens, 32100);
    assert_int_equal(info->length, 120);
    assert_int_equal(info->start_id, -1);
    lt_tokenizer_close(t);
}

/* A model file alone is its folder without a configuration. */
static void bare_model(void **state)
{
    char path[2048];
    int32_t ids[8];
    int n;
    lt_err err = {0};
    snprintf(path, sizeof path, "%s/spiece.model", small("t5"));
    lt_tokenizer *t = open_at(path);
    assert_int_equal(lt_tokenizer_get_info(t)->n_tokens, 320 + 100);
    must(lt_tokenizer_encode(t, "<extra_id_99></s>", 17, ids, 8, &n, &err), &err);
    assert_int_equal(n, 3);
    assert_int_equal(ids[0], 320);
    assert_int_equal(ids[1], 1);
    lt_tokenizer_close(t);
}

/* Texts of 200,000 characters of every awkward kind: what is quadratic takes minutes. */
static void long_texts(void **state)
{
    static const char *const units[] = {"a",
                                        "ab",
                                        "e\xCC\x81",
                                        "\xCC\x96\xCC\x81",
                                        "word ",
                                        "<",
                                        " ",
                                        "!",
                                        "'s",
                                        "\xE4\xB8\x80",
                                        "\xF0\x9F\x98\x80\xE2\x80\x8D",
                                        "<extra_id_0>",
                                        "\xE2\x96\x81"};
    enum { TIMES = 200000 };
    int32_t *ids = malloc(TIMES * 16 * sizeof *ids);
    assert_non_null(ids);
    for (size_t kind = 0; kind < 2; kind++) {
        lt_tokenizer *t = open_at(small(kind ? "t5" : "clip"));
        for (size_t u = 0; u < LT_COUNT(units); u++) {
            size_t m = strlen(units[u]);
            char *text = malloc(m * TIMES);
            lt_err err = {0};
            int n;
            for (size_t i = 0; i < TIMES; i++) memcpy(text + i * m, units[u], m);
            int64_t start = lt_now_ns();
            must(lt_tokenizer_encode(t, text, m * TIMES, ids, TIMES * 16, &n, &err), &err);
            double seconds = (double)(lt_now_ns() - start) * 1e-9;
            if (seconds > 10) fail_msg("%d times '%s' took %.1f s", TIMES, units[u], seconds);
            free(text);
        }
        lt_tokenizer_close(t);
    }
    free(ids);
}

static void wrong_texts(void **state)
{
    static const struct {
        const char *text;
        size_t n;
        const char *byte;
    } wrong[] = {{"ab\xFF", 3, "byte 2"},        {"\xC0\x80", 2, "byte 0"},
                 {"a\xED\xA0\x80", 4, "byte 1"}, {"\xF4\x90\x80\x80", 4, "byte 0"},
                 {"\xE2\x82", 2, "byte 0"},      {"\xF0\x80\x80\x80", 4, "byte 0"},
                 {"\x80", 1, "byte 0"},          {"\xE0\x9F\xBF", 3, "byte 0"},
                 {"ok\xC3", 3, "byte 2"}};
    lt_tokenizer *t = open_at(small("clip"));
    int32_t ids[77];
    int n = -1;
    for (size_t i = 0; i < LT_COUNT(wrong); i++) {
        lt_err err = {0};
        assert_int_equal(lt_tokenizer_encode(t, wrong[i].text, wrong[i].n, ids, 77, &n, &err), LT_E_INVALID);
        assert_non_null(strstr(err.text, wrong[i].byte));
    }
    lt_err err = {0};
    assert_int_equal(lt_tokenizer_encode(t, "a", 1, ids, 1, &n, &err), LT_E_INVALID);
    must(lt_tokenizer_encode(t, "a b c", 5, ids, 2, &n, &err), &err);
    assert_int_equal(n, 2);
    must(lt_tokenizer_encode(t, "", 0, ids, 77, &n, &err), &err);
    assert_int_equal(n, 2);
    lt_tokenizer_close(t);
}

/* ---- files --------------------------------------------------------------------------------------------------------------- */

static void refuse(const char *path, lt_status wanted, const char *text)
{
    lt_tokenizer *t;
    lt_err err = {0};
    lt_status status = lt_tokenizer_open(&t, path, &err);
    printf("  %s\n", err.text);
    assert_null(t);
    assert_int_equal(status, wanted);
    if (!strstr(err.text, text)) fail_msg("'%s' is not in: %s", text, err.text);
}

/* A folder of byte pairs: vocab.json and merges.txt. NULL: not there. */
static const char *bpe_folder(const char *name, const char *vocab, const char *merges, const char *config)
{
    const char *path = in_folder("%s", name);
    assert_int_equal(mkdir(path, 0777), 0);
    if (vocab) write_file(in_folder("%s/vocab.json", name), vocab);
    if (merges) write_file(in_folder("%s/merges.txt", name), merges);
    if (config) write_file(in_folder("%s/tokenizer_config.json", name), config);
    return path;
}

#define TWO "\"<|startoftext|>\": 0, \"<|endoftext|>\": 1, \"a\": 2, \"b</w>\": 3"

static void wrong_byte_pairs(void **state)
{
    refuse(in_folder("nowhere"), LT_E_NOT_FOUND, "no tokenizer at");
    refuse(bpe_folder("b0", NULL, NULL, NULL), LT_E_NOT_FOUND, "none of the three");
    refuse(bpe_folder("b1", "{}", NULL, NULL), LT_E_NOT_FOUND, "merges.txt is missing");
    write_file(in_folder("b0/tokenizer.json"), "{}");
    refuse(in_folder("b0"), LT_E_NOT_FOUND, "tokenizer.json alone");
    refuse(bpe_folder("b2", "{" TWO "}", "#version: 0.2\na b</w>\n", NULL), LT_E_FORMAT,
           "merges.txt:2: the merge needs token \"ab</w>\"");
    refuse(bpe_folder("b3", "{" TWO "}", "a c\n", NULL), LT_E_FORMAT,
           "merges.txt:1: the merge needs token \"c\"");
    refuse(bpe_folder("b4", "{" TWO "}", "ab\n", NULL), LT_E_FORMAT, "cut short");
    refuse(bpe_folder("b5", "{" TWO "}", "a b c\n", NULL), LT_E_FORMAT, "merges.txt:1");
    refuse(bpe_folder("b6", "{" TWO ", \"a\": 4}", "", NULL), LT_E_FORMAT, "duplicate");
    refuse(bpe_folder("b7", "{" TWO ", \"c\": 3}", "", NULL), LT_E_FORMAT, "belongs to two tokens");
    refuse(bpe_folder("b8", "{" TWO ", \"c\": 7}", "", NULL), LT_E_FORMAT, "\"c\"");
    refuse(bpe_folder("b9", "{" TWO ", \"c\": -1}", "", NULL), LT_E_FORMAT, "\"c\"");
    refuse(bpe_folder("b10", "{" TWO ", \"c\": \"x\"}", "", NULL), LT_E_FORMAT, "\"c\"");
    refuse(bpe_folder("b11", "{" TWO, "", NULL), LT_E_FORMAT, "vocab.json:1");
    refuse(bpe_folder("b12", "[1]", "", NULL), LT_E_FORMAT, "must be an object");
    refuse(bpe_folder("b13", "{\"a\": 0}", "", NULL), LT_E_UNSUPPORTED, "<|startoftext|>");
    refuse(bpe_folder("b14", "{" TWO "}", "\xFF \xFE\n", NULL), LT_E_FORMAT, "not UTF-8");
    refuse(bpe_folder("b15", "{" TWO "}", "", "{\"pad_token\": \"q\"}"), LT_E_UNSUPPORTED, "\"q\"");
    refuse(bpe_folder("b16", "{" TWO "}", "", "{\"pad"), LT_E_FORMAT, "tokenizer_config.json:1");
    refuse(bpe_folder("b17", "{" TWO "}", "", "{\"added_tokens_decoder\": {\"5\": {\"content\": \"a\"}}}"),
           LT_E_UNSUPPORTED, "number 5 there and 2");
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    deep[100000] = 0;
    refuse(bpe_folder("b18", deep, "", NULL), LT_E_FORMAT, "depth");
    free(deep);
    const char *big = bpe_folder("b19", "{}", "", NULL);
    assert_int_equal(truncate(in_folder("b19/vocab.json"), (off_t)1 << 32), 0);
    refuse(big, LT_E_FORMAT, "at most");
    lt_tokenizer_close(open_at(bpe_folder("b20", "{" TWO "}", "#version\r\n", NULL)));
}

/* A byte that stands for nothing in the vocabulary is the unknown token. */
static void unknown_bytes(void **state)
{
    lt_tokenizer *t = open_at(bpe_folder("u", "{" TWO ", \"ab</w>\": 4}", "a b</w>\n", NULL));
    int32_t ids[8];
    int n;
    lt_err err = {0};
    must(lt_tokenizer_encode(t, "ab aab zb", 9, ids, 8, &n, &err), &err);
    static const int32_t wanted[8] = {0, 4, 2, 4, 1, 3, 1, 1};
    assert_memory_equal(ids, wanted, sizeof wanted);
    assert_int_equal(n, 7);
    lt_tokenizer_close(t);
}

static uint32_t random_bits(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 33);
}

/* Cut anywhere, or with bytes changed: opened or refused, and then used, without harm (the sanitizers watch). */
static void broken_models(void **state)
{
    size_t n, opened = 0;
    char path[2048];
    snprintf(path, sizeof path, "%s/spiece.model", small("t5"));
    char *good = read_file(path, &n);
    uint64_t seed = 1;
    write_bytes(in_folder("g.model"), "garbage, no model", 17);
    refuse(in_folder("g.model"), LT_E_FORMAT, "not a SentencePiece model");
    write_bytes(in_folder("e.model"), "", 0);
    refuse(in_folder("e.model"), LT_E_FORMAT, "0 pieces");
    for (int i = 0; i < 600; i++) {
        lt_tokenizer *t;
        lt_err err = {0};
        char *bad = malloc(n);
        size_t length = i % 2 ? n : random_bits(&seed) % n;
        memcpy(bad, good, n);
        for (int k = 0; i % 2 && k < 1 + i % 7; k++) bad[random_bits(&seed) % n] = (char)random_bits(&seed);
        write_bytes(in_folder("bad.model"), bad, length);
        if (lt_tokenizer_open(&t, in_folder("bad.model"), &err) == LT_OK) {
            int32_t ids[64];
            int m;
            static const char text[] =
                "a cockatoo \xEF\xBC\xA1\xE2\x91\xA0\xCC\x81 e\xCC\x81 walking, slowly \xC2\xBD <extra_id_3>";
            must(lt_tokenizer_encode(t, text, sizeof text - 1, ids, 64, &m, &err), &err);
            for (int k = 0; k < m; k++) assert_in_range(ids[k], 0, lt_tokenizer_get_info(t)->n_tokens - 1);
            lt_tokenizer_close(t);
            opened++;
        } else {
            assert_null(t);
            assert_true(err.text[0]);
        }
        free(bad);
    }
    printf("  %zu of 600 could be opened\n", opened);
    free(good);
}

/* The same of byte pairs and configurations. */
static void broken_byte_pairs(void **state)
{
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
    char *good[3], path[2048];
    size_t n[3], opened = 0;
    uint64_t seed = 2;
    for (int f = 0; f < 3; f++) {
        snprintf(path, sizeof path, "%s/%s", small("clip"), names[f]);
        good[f] = read_file(path, &n[f]);
    }
    bpe_folder("broken", NULL, NULL, NULL);
    for (int i = 0; i < 300; i++) {
        lt_tokenizer *t;
        lt_err err = {0};
        for (int f = 0; f < 3; f++) {
            char *bad = malloc(n[f]);
            memcpy(bad, good[f], n[f]);
            size_t length = i % 3 == f && i % 2 ? random_bits(&seed) % n[f] : n[f];
            for (int k = 0; i % 3 == f && k < 1 + i % 5; k++)
                bad[random_bits(&seed) % n[f]] = (char)random_bits(&seed);
            write_bytes(in_folder("broken/%s", names[f]), bad, length);
            free(bad);
        }
        if (lt_tokenizer_open(&t, in_folder("broken"), &err) == LT_OK) {
            int32_t ids[64];
            int m;
            must(lt_tokenizer_encode(t, "A cockatoo<|endoftext|>, it's calm!", 35, ids, 64, &m, &err), &err);
            for (int k = 0; k < m; k++) assert_in_range(ids[k], 0, lt_tokenizer_get_info(t)->n_tokens - 1);
            lt_tokenizer_close(t);
            opened++;
        } else {
            assert_null(t);
            assert_true(err.text[0]);
        }
    }
    printf("  %zu of 300 could be opened\n", opened);
    for (int f = 0; f < 3; f++) free(good[f]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_ones),    cmocka_unit_test(real_ones),     cmocka_unit_test(bare_model),
        cmocka_unit_test(long_texts),    cmocka_unit_test(wrong_texts),   cmocka_unit_test(wrong_byte_pairs),
        cmocka_unit_test(unknown_bytes), cmocka_unit_test(broken_models), cmocka_unit_test(broken_byte_pairs),
    };
    support_start();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
