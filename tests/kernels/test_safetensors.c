/* test_safetensors.c - files that are right come back as they went in; files that lie are refused, with the tensor's name. */
#include "kernels/safetensors.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* A file of this header and so many bytes of data, at the end of an exactly sized allocation: AddressSanitizer sees any
 * read past it. */
static unsigned char *make_file(const char *header, uint64_t claimed, size_t data_bytes, size_t *n_bytes)
{
    size_t length = strlen(header);
    unsigned char *file = malloc(8 + length + data_bytes);
    assert_non_null(file);
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)(claimed >> 8 * i);
    memcpy(file + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) file[8 + length + i] = (unsigned char)i;
    *n_bytes = 8 + length + data_bytes;
    return file;
}

static void expect(const char *header, uint64_t claimed, size_t data_bytes, lt_status wanted,
                   const char *words)
{
    lt_safetensors *f = NULL;
    lt_err err = {0};
    size_t n;
    unsigned char *file = make_file(header, claimed, data_bytes, &n);
    lt_status status = lt_safetensors_open_memory(&f, file, n, "hostile", &err);
    if (status != wanted || (words && !strstr(err.text, words)))
        fail_msg("%s: status %d, \"%s\"; wanted %d and \"%s\"", header, status, err.text, wanted, words);
    if (status != LT_OK) assert_null(f);
    lt_safetensors_close(f);
    free(file);
}

static void refuse(const char *header, size_t data_bytes, const char *words)
{
    expect(header, strlen(header), data_bytes, LT_E_FORMAT, words);
}

#define A(shape, begin, end)                                                                                 \
    "\"a\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
#define B(shape, begin, end)                                                                                 \
    "\"b\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void test_accepted(void **state)
{
    const char *good = "{" A("[2]", "0", "8") "," B("[]", "8", "12") "}  ";
    expect(good, strlen(good), 12, LT_OK, NULL);
    expect("{}", 2, 0, LT_OK, NULL);
    expect("{\"__metadata__\":{\"k\":\"v\"}}", 26, 0, LT_OK, NULL);
    const char *empty = "{" A("[0,3]", "0", "0") "," B("[1]", "0", "4") "}";
    expect(empty, strlen(empty), 4, LT_OK, NULL);
}

static void test_lying_length(void **state)
{
    const char *good = "{" A("[2]", "0", "8") "}";
    size_t n = strlen(good);
    expect(good, 0, 8, LT_E_FORMAT, "header");
    expect(good, n - 1, 8, LT_E_FORMAT, "malformed");
    expect(good, n + 1, 8, LT_E_FORMAT, NULL);
    expect(good, n + 9, 8, LT_E_FORMAT, "header would have");
    expect(good, UINT64_MAX, 8, LT_E_FORMAT, "header would have");
    expect(good, UINT64_MAX - 7, 8, LT_E_FORMAT, "header would have");
    expect(good, 100000001, 8, LT_E_FORMAT, "header would have");
    /* One that is there, but is longer than any of use. */
    char *long_header = malloc(16000002);
    assert_non_null(long_header);
    memset(long_header, ' ', 16000001);
    memcpy(long_header, good, n);
    long_header[16000000] = 0;
    expect(long_header, 16000000, 8, LT_OK, NULL);
    long_header[16000000] = ' ';
    long_header[16000001] = 0;
    expect(long_header, 16000001, 8, LT_E_FORMAT, "header would have");
    free(long_header);
    expect(" {}", 3, 0, LT_E_FORMAT, "'{'");
    lt_safetensors *f;
    lt_err err;
    for (size_t short_bytes = 0; short_bytes < 8; short_bytes++) {
        unsigned char *few = calloc(1, short_bytes + 1);
        assert_int_equal(lt_safetensors_open_memory(&f, few, short_bytes, "short", &err), LT_E_FORMAT);
        free(few);
    }
}

static void test_offsets(void **state)
{
    refuse("{" A("[2]", "0", "8") "," B("[2]", "4", "12") "}", 12, "'b' overlaps");
    refuse("{" A("[2]", "0", "8") "," B("[2]", "0", "8") "}", 8, "overlaps");
    refuse("{" A("[2]", "0", "8") "," B("[2]", "12", "20") "}", 20, "'b' leaves a hole");
    refuse("{" A("[2]", "4", "12") "}", 12, "'a' leaves a hole");
    refuse("{" A("[2]", "0", "8") "}", 12, "after the last tensor");
    refuse("{" A("[2]", "0", "8") "}", 4, "'a' ends at byte 8 of 4");
    refuse("{" A("[2]", "8", "0") "}", 8, "'a' has malformed data_offsets");
    refuse("{" A("[2]", "-8", "0") "}", 8, "'a' has malformed data_offsets");
    refuse("{" A("[2]", "0", "8.0") "}", 8, "'a' has malformed data_offsets");
    refuse("{" A("[2]", "0", "9223372036854775807") "}", 8, "'a' ends");
    refuse("{" A("[2]", "0", "18446744073709551617") "}", 8, "malformed header");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, "'a' has malformed");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "'a' has malformed");
}

static void test_shapes(void **state)
{
    refuse("{" A("[3]", "0", "8") "}", 8, "'a' has 8 bytes");
    refuse("{" A("[-2]", "0", "8") "}", 8, "'a'");
    refuse("{" A("[2.5]", "0", "8") "}", 8, "'a'");
    refuse("{" A("{}", "0", "8") "}", 8, "'a' has no shape");
    /* 2^31 * 2^31 * 4 * ... overflows to a small number where nobody looks */
    refuse("{" A("[4611686018427387904,4]", "0", "0") "}", 0, "'a'");
    refuse("{" A("[9223372036854775807,2]", "0", "8") "}", 8, "'a'");
    refuse("{" A("[4611686018427387905]", "0", "4") "}", 4, "'a'");
    const char *deep = "{" A("[1,1,1,1,1,1,2]", "0", "8") "}";
    expect(deep, strlen(deep), 8, LT_E_UNSUPPORTED, "'a' has 7 dimensions");
}

static void test_json(void **state)
{
    refuse("{" A("[2]", "0", "8") "," A("[2]", "8", "16") "}", 16, "duplicate");
    refuse("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
           "duplicate");
    refuse("{\"a\":[]}", 0, "'a' has no dtype");
    refuse("{\"a\":{\"dtype\":7}}", 0, "'a' has no dtype");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":[]}}", 8, "'a' has a 'x'");
    refuse("{\"a\":null}", 0, "'a' has no dtype");
    refuse("{\"__metadata__\":{\"k\":1}}", 0, "'k' is not a string");
    refuse("{\"__metadata__\":[]}", 0, "__metadata__ is not a table");
    refuse("{\"\xff\xfe\":{}}", 0, "malformed header");
    refuse("{", 0, "malformed header");
    refuse("{}x", 0, "malformed header");
    const char *unknown = "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}";
    expect(unknown, strlen(unknown), 2, LT_E_UNSUPPORTED, "'F8_E4M3'");
    refuse("{\"a\":{\"x\":[[],[]]}}", 0, "malformed header at byte 19: nested too deep");
    refuse("{\"a]\\\"[[[[\":null}", 0, "'a]\"[[[[' has no dtype");
    char list[200] = "{\"a\":{\"shape\":[0";
    for (int i = 0; i < 64; i++) strcat(list, ",0");
    refuse(strcat(list, "]}}"), 0, "the list is too long");
    /* Also of lists, and of tables, each of which is short. */
    for (int braces = 0; braces < 2; braces++) {
        char lists[400] = "{\"a\":[";
        for (int i = 0; i < 65; i++) strcat(lists, braces ? "{}," : "[],");
        refuse(strcat(lists, "0]}"), 0, "the list is too long");
    }
    char nested[5000];
    memset(nested, '[', sizeof(nested) - 1);
    memcpy(nested, "{\"a\":", 5);
    nested[sizeof(nested) - 1] = 0;
    refuse(nested, 0, "malformed header");
}

/* Every single-byte change of a good file is either refused or still tiles its data. */
static void test_flipped_bytes(void **state)
{
    const char *good = "{" A("[2,3]", "0", "24") "," B("[1]", "24", "28") "}";
    size_t n, header = strlen(good);
    unsigned char *file = make_file(good, header, 28, &n);
    for (size_t i = 0; i < 8 + header; i++) {
        for (int bit = 0; bit < 8; bit++) {
            lt_safetensors *f;
            file[i] ^= (unsigned char)(1 << bit);
            if (lt_safetensors_open_memory(&f, file, n, "flipped", NULL) == LT_OK) {
                size_t total = 0;
                for (int t = 0; t < lt_safetensors_count(f); t++) {
                    lt_tensor tensor = lt_safetensors_at(f, t, NULL);
                    total += lt_tensor_bytes(&tensor);
                }
                assert_int_equal(total, 28);
                lt_safetensors_close(f);
            }
            file[i] ^= (unsigned char)(1 << bit);
        }
    }
    free(file);
}

static void test_round_trip(void **state)
{
    float values[6] = {1, 2, 3, 4, 5, 6};
    uint16_t halves[3] = {0x3f80, 0x4000, 0x4040};
    lt_named_tensor tensors[] = {
        {"z.half", {.data = halves, .dtype = LT_BF16, .rank = 1, .shape = {3}}},
        {"latent", {.data = values, .dtype = LT_F32, .rank = 2, .shape = {2, 3}}},
        {"empty", {.data = values, .dtype = LT_I64, .rank = 2, .shape = {0, 9}}},
    };
    lt_metadata metadata[] = {{"scaling_factor", "0.18215"}, {"quote", "\"\\\n\u00e9"}};
    char folder[] = "/tmp/lt-safetensors-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/x.safetensors", folder);
    lt_err err;
    assert_int_equal(lt_safetensors_write(path, tensors, 3, metadata, 2, &err), LT_OK);
    lt_safetensors *f;
    assert_int_equal(lt_safetensors_open(&f, path, &err), LT_OK);
    assert_int_equal(lt_safetensors_count(f), 3);
    const char *name;
    lt_tensor t = lt_safetensors_at(f, 1, &name);
    assert_string_equal(name, "latent");
    assert_int_equal(t.shape[1], 3);
    assert_int_equal((uintptr_t)t.data % 16, 0);
    assert_memory_equal(t.data, values, sizeof(values));
    assert_int_equal(lt_safetensors_get(f, "z.half", &t, &err), LT_OK);
    assert_int_equal(t.dtype, LT_BF16);
    assert_memory_equal(t.data, halves, sizeof(halves));
    assert_int_equal(lt_safetensors_get(f, "absent", &t, &err), LT_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "'absent'"));
    assert_null(t.data);
    assert_string_equal(lt_safetensors_metadata(f, "scaling_factor"), "0.18215");
    assert_string_equal(lt_safetensors_metadata(f, "quote"), "\"\\\n\u00e9");
    assert_null(lt_safetensors_metadata(f, "absent"));
    lt_safetensors_close(f);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0); /* nothing temporary is left */
}

static void test_write_errors(void **state)
{
    float value = 1;
    lt_named_tensor twice[] = {{"a", {.data = &value, .dtype = LT_F32, .rank = 0}},
                               {"a", {.data = &value, .dtype = LT_F32, .rank = 0}}};
    lt_named_tensor reserved[] = {{"__metadata__", {.data = &value, .dtype = LT_F32, .rank = 0}}};
    lt_named_tensor bad_name[] = {{"\xff", {.data = &value, .dtype = LT_F32, .rank = 0}}};
    lt_metadata bad[] = {{"k", "\xff"}};
    void *bytes;
    size_t n;
    lt_err err;
    assert_int_equal(lt_safetensors_pack(&bytes, &n, twice, 2, NULL, 0, &err), LT_E_INVALID);
    assert_null(bytes);
    assert_int_equal(lt_safetensors_pack(&bytes, &n, reserved, 1, NULL, 0, &err), LT_E_INVALID);
    assert_int_equal(lt_safetensors_pack(&bytes, &n, bad_name, 1, NULL, 0, &err), LT_E_INVALID);
    assert_int_equal(lt_safetensors_pack(&bytes, &n, twice, 1, bad, 1, &err), LT_E_INVALID);
    assert_int_not_equal(lt_safetensors_write("/nonexistent-folder/x", twice, 1, NULL, 0, &err), LT_OK);
    assert_non_null(strstr(err.text, "/nonexistent-folder/x"));
    lt_safetensors *f;
    assert_int_equal(lt_safetensors_open(&f, "/nonexistent-folder/x", &err), LT_E_NOT_FOUND);
    assert_null(f);
    assert_int_equal(lt_safetensors_open(&f, "/tmp", &err), LT_E_FORMAT);
    assert_null(f);
}

/* ---- files that are cut short while they are mapped -------------------------------------------------------------- */

enum { BIG = 1 << 18 };

/* Reads the last value of a file that has been cut to its first page. kind 0: a program that does not watch; 1: one that does;
 * 2: one that does, in memory that is no safetensors file. Never returns. */
static void read_cut_file(const char *path, int kind)
{
    lt_safetensors *f;
    signal(SIGBUS, SIG_DFL); /* a sanitizer's own */
    if (kind) lt_mapping_watch("reader");
    if (lt_safetensors_open(&f, path, NULL) != LT_OK) _exit(1);
    int fd = open(path, O_RDONLY);
    const volatile float *value = (const float *)lt_safetensors_at(f, 0, NULL).data + BIG - 1;
    if (kind == 2) value = mmap(NULL, 2 * BIG, PROT_READ, MAP_SHARED, fd, 0);
    if (truncate(path, 4096) != 0) _exit(1);
    float seen = kind == 2 ? value[BIG / 4] : *value;
    _exit(seen == 0 ? 2 : 3);
}

/* How a process that does so ends; what it writes to standard error in text. */
static int end_of(const char *path, int kind, char *text, size_t text_bytes)
{
    lt_err err = {0};
    int pipes[2], status;
    lt_tensor t = {.dtype = LT_F32, .rank = 1, .shape = {BIG}, .data = calloc(BIG, sizeof(float))};
    const lt_named_tensor named = {"w", t};
    assert_int_equal(lt_safetensors_write(path, &named, 1, NULL, 0, &err), LT_OK);
    free(t.data);
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(pipes[1], STDERR_FILENO);
        read_cut_file(path, kind);
    }
    close(pipes[1]);
    ssize_t n = read(pipes[0], text, text_bytes - 1);
    text[n > 0 ? n : 0] = '\0';
    close(pipes[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void test_cut_while_mapped(void **state)
{
    char folder[] = "/tmp/longtake-cut-XXXXXX", path[64], text[512];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/w.safetensors", folder);
    int status = end_of(path, 1, text, sizeof(text));
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == LT_EXIT_PERMANENT);
    assert_non_null(strstr(text, "reader error: "));
    assert_non_null(strstr(text, path));
    assert_non_null(strstr(text, "cut short"));
    for (int kind = 0; kind <= 2; kind += 2) {
        status = end_of(path, kind, text, sizeof(text));
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
        assert_null(strstr(text, "cut short"));
    }
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_lying_length),
        cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_flipped_bytes),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_write_errors),
        cmocka_unit_test(test_cut_while_mapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
