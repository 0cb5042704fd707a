/* test_core.c - status, errors, arena, options, checked arithmetic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <string.h>

#include "core/core.h"

static void every_status_has_a_string(void **state)
{
    for (int s = 0; s < LT_N_STATUS; s++) assert_true(strlen(lt_status_string(s)) > 0);
    assert_string_equal(lt_status_string(LT_N_STATUS), "unknown status");
}

static void exit_codes_tell_the_supervisor(void **state)
{
    assert_int_equal(lt_exit_code(LT_OK), 0);
    assert_int_equal(lt_exit_code(LT_END), 0);
    assert_int_equal(lt_exit_code(LT_E_FORMAT), 100);
    assert_int_equal(lt_exit_code(LT_E_INTERNAL), 101);
    assert_int_equal(lt_exit_code(LT_E_TRANSIENT), 111);
    assert_int_equal(lt_exit_code(LT_E_DEVICE_LOST), 111);
}

static void an_error_grows_on_the_way_up(void **state)
{
    lt_err err = {0};
    assert_int_equal(lt_fail(&err, LT_E_FORMAT, "no header"), LT_E_FORMAT);
    assert_int_equal(lt_err_prefix(&err, "%s:%d", "a.txt", 3), LT_E_FORMAT);
    assert_string_equal(err.text, "a.txt:3: no header");
    assert_int_equal(lt_fail(&err, LT_E_IO, "again: %s", err.text), LT_E_IO);
    assert_string_equal(err.text, "again: a.txt:3: no header");
    assert_int_equal(lt_fail(NULL, LT_E_IO, "nobody listens"), LT_E_IO);
    assert_int_equal(lt_fail_errno(&err, ENOSPC, "cannot write"), LT_E_NO_SPACE);
    assert_non_null(strstr(err.text, "cannot write: "));
}

static void a_long_error_is_cut_not_overrun(void **state)
{
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    struct {
        lt_err err;
        char guard[16];
    } box;
    memset(box.guard, 7, sizeof box.guard);
    lt_fail(&box.err, LT_E_IO, "%s", text);
    lt_err_prefix(&box.err, "%s", text);
    assert_int_equal(strlen(box.err.text), sizeof box.err.text - 1);
    for (size_t i = 0; i < sizeof box.guard; i++) assert_int_equal(box.guard[i], 7);
}

static void sentences_are_cut_between_characters(void **state)
{
    static const char *const characters[] = {"e", "\u00e9", "\u20ac", "\U0001f600"};
    char text[16];
    for (size_t room = 1; room < sizeof text; room++)
        for (size_t i = 0; i < LT_COUNT(characters); i++) {
            const char *c = characters[i];
            size_t n = strlen(c), whole = (room - 1) / n * n;
            lt_text_print(text, room, "%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s", c, c, c, c, c, c, c, c, c, c, c, c,
                          c, c, c, c);
            assert_int_equal(strlen(text), whole);
            assert_int_equal(lt_utf8_bytes(text), whole ? n : 0);
        }
    lt_text_print(text, sizeof text, "%s", "caf\xe9"); /* what was not cut stays as it is */
    assert_string_equal(text, "caf\xe9");
    static const char *const wrong[] = {"\x80", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", ""};
    for (size_t i = 0; i < LT_COUNT(wrong); i++) assert_int_equal(lt_utf8_bytes(wrong[i]), 0);
    assert_int_equal(lt_utf8_bytes("\n"), 1);
}

static void arithmetic_says_when_it_overflows(void **state)
{
    size_t out = 5;
    assert_true(lt_mul_size(3, 4, &out) && out == 12);
    assert_false(lt_mul_size(SIZE_MAX / 2, 3, &out));
    assert_false(lt_add_size(SIZE_MAX, 1, &out));
    assert_int_equal(out, 12);
    int64_t product = 7;
    assert_true(lt_product_i64((int64_t[]){2, 3, 5}, 3, &product) && product == 30);
    assert_true(lt_product_i64(NULL, 0, &product) && product == 1);
    assert_true(lt_product_i64((int64_t[]){INT64_MAX, 2, 0}, 3, &product) && product == 0);
    assert_false(lt_product_i64((int64_t[]){INT64_MAX, 2}, 2, &product));
    assert_false(lt_product_i64((int64_t[]){2, -1}, 2, &product));
}

static void an_arena_gives_zeroed_aligned_memory(void **state)
{
    lt_arena arena = {0};
    for (size_t bytes = 0; bytes < 100000; bytes = bytes * 3 + 1) {
        unsigned char *memory = lt_arena_alloc(&arena, bytes);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 16, 0);
        for (size_t i = 0; i < bytes; i++) assert_int_equal(memory[i], 0);
        memset(memory, 0xff, bytes);
    }
    assert_null(lt_arena_alloc(&arena, SIZE_MAX));
    assert_string_equal(lt_arena_printf(&arena, "%s-%d", "clip", 7), "clip-7");
    lt_arena_finish(&arena);
    assert_null(arena.head);
    lt_arena_finish(NULL);
}

typedef struct config {
    const char *input;
    int64_t chunk, frames, memory;
    double start, rate;
    bool loop;
    int fit;
    lt_size size;
} config;

static const lt_option options[] = {
    {"input", LT_OPT_PATH, offsetof(config, input), NULL, 0, 0, NULL, NULL, "file", false},
    {"chunk", LT_OPT_INT, offsetof(config, chunk), "8", 1, 1024, NULL, "frames", "frames a chunk", false},
    {"frames", LT_OPT_INT, offsetof(config, frames), "0", 0, 1 << 26, NULL, "frames", "frames", false},
    {"memory", LT_OPT_BYTES, offsetof(config, memory), "", 0, 0, NULL, NULL, "limit", true},
    {"start", LT_OPT_SECONDS, offsetof(config, start), "0", 0, 0, NULL, NULL, "start", false},
    {"rate", LT_OPT_FLOAT, offsetof(config, rate), "1.5", 0, 2, NULL, NULL, "rate", false},
    {"loop", LT_OPT_BOOL, offsetof(config, loop), "true", 0, 0, NULL, NULL, "loop", false},
    {"fit", LT_OPT_ENUM, offsetof(config, fit), "pad", 0, 0, "crop|pad|stretch", NULL, "fit", false},
    {"size", LT_OPT_SIZE, offsetof(config, size), "", 0, 0, NULL, "pixels", "size", false},
};
enum { N_OPTIONS = LT_COUNT(options) };

typedef struct fixture {
    config config;
    lt_arena arena;
    lt_err err;
} fixture;

static lt_status set(fixture *f, const char *name, const char *text)
{
    return lt_options_set(options, N_OPTIONS, &f->config, name, text, &f->arena, &f->err);
}

static void options_have_defaults(void **state)
{
    fixture f = {0};
    assert_int_equal(lt_options_defaults(options, N_OPTIONS, &f.config, sizeof f.config, &f.arena, &f.err),
                     LT_OK);
    assert_null(f.config.input);
    assert_int_equal(f.config.chunk, 8);
    assert_int_equal(f.config.memory, 0);
    assert_int_equal(f.config.fit, 1);
    assert_true(f.config.loop);
    lt_arena_finish(&f.arena);
}

static void options_are_parsed(void **state)
{
    fixture f = {0};
    assert_int_equal(set(&f, "input", "a b.mp4"), LT_OK);
    assert_string_equal(f.config.input, "a b.mp4");
    assert_int_equal(set(&f, "memory", "1.5G"), LT_OK);
    assert_int_equal(f.config.memory, 3ll << 29);
    assert_int_equal(set(&f, "memory", "512MiB"), LT_OK);
    assert_int_equal(f.config.memory, 512ll << 20);
    assert_int_equal(set(&f, "start", "01:02:03.5"), LT_OK);
    assert_true(fabs(f.config.start - 3723.5) < 1e-9);
    assert_int_equal(set(&f, "size", "384x216"), LT_OK);
    assert_int_equal(f.config.size.width, 384);
    assert_int_equal(f.config.size.height, 216);
    assert_int_equal(set(&f, "fit", "stretch"), LT_OK);
    assert_int_equal(f.config.fit, 2);
    lt_arena_finish(&f.arena);
}

static void wrong_options_are_refused_with_a_sentence(void **state)
{
    static const struct {
        const char *name, *text, *sentence;
    } cases[] = {
        {"chunk", "0", "chunk = 0: must lie between 1 and 1024 frames"},
        {"frames", "67108865", "frames = 67108865: must lie between 0 and 67108864 frames"},
        {"chunk", "8x", "chunk = \"8x\": must be an integer"},
        {"chunk", "99999999999999999999", "must be an integer"},
        {"rate", "nan", "must be a number"},
        {"loop", "yes", "must be true or false"},
        {"fit", "cro", "must be one of crop|pad|stretch"},
        {"size", "384", "must be WIDTHxHEIGHT"},
        {"size", "384x-2", "must be WIDTHxHEIGHT"},
        {"size", "384x216x3", "must be WIDTHxHEIGHT"},
        {"memory", "-1", "must be a number of bytes"},
        {"memory", "9e30", "must be a number of bytes"},
        {"start", "1:2:3:4", "must be seconds"},
        {"chnuk", "8", "did you mean \"chunk\"?"},
    };
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        fixture f = {0};
        assert_int_not_equal(set(&f, cases[i].name, cases[i].text), LT_OK);
        if (!strstr(f.err.text, cases[i].sentence))
            fail_msg("\"%s\" lacks \"%s\"", f.err.text, cases[i].sentence);
        lt_arena_finish(&f.arena);
    }
}

static void required_options_are_all_named(void **state)
{
    lt_err err = {0};
    assert_int_equal(lt_options_require(options, N_OPTIONS, (const char *[]){"chunk"}, 1, &err),
                     LT_E_INVALID);
    assert_non_null(strstr(err.text, "input"));
    assert_int_equal(lt_options_require(options, N_OPTIONS, (const char *[]){"input"}, 1, &err), LT_OK);
}

static void near_names_are_suggested_and_far_ones_not(void **state)
{
    static const char *const names[] = {"vae_encode", "vae_decode", "mux"};
    assert_string_equal(lt_did_you_mean("vae_encod", names, 3), "vae_encode");
    assert_string_equal(lt_did_you_mean("vea_decode", names, 3), "vae_decode");
    assert_null(lt_did_you_mean("orchestra", names, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_string),
        cmocka_unit_test(exit_codes_tell_the_supervisor),
        cmocka_unit_test(an_error_grows_on_the_way_up),
        cmocka_unit_test(a_long_error_is_cut_not_overrun),
        cmocka_unit_test(sentences_are_cut_between_characters),
        cmocka_unit_test(arithmetic_says_when_it_overflows),
        cmocka_unit_test(an_arena_gives_zeroed_aligned_memory),
        cmocka_unit_test(options_have_defaults),
        cmocka_unit_test(options_are_parsed),
        cmocka_unit_test(wrong_options_are_refused_with_a_sentence),
        cmocka_unit_test(required_options_are_all_named),
        cmocka_unit_test(near_names_are_suggested_and_far_ones_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
