/* clip_list_test.c - manifests: what is read, names, shards. What is refused is in tests/pipeline/datasets.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stages/manifest/clip_list.h"

static char folder[] = "/tmp/lt-clip-list-XXXXXX";

static const char *put(const char *name, const char *text)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

static lt_clip_list *open_list(const char *name, const char *text, lt_shard shard)
{
    lt_clip_list *list = NULL;
    lt_err err = {0};
    if (lt_clip_list_open(&list, put(name, text), NULL, shard, &err)) fail_msg("%s", err.text);
    return list;
}

static lt_clip_entry get(lt_clip_list *list, int64_t index, lt_arena *arena)
{
    lt_clip_entry entry;
    lt_err err = {0};
    if (lt_clip_list_get(list, index, arena, &entry, &err)) fail_msg("%s", err.text);
    return entry;
}

/* The same three clips in each form. */
static void forms_agree(void **state)
{
    static const struct {
        const char *name, *text;
    } forms[] = {
        {"a.json", "\xef\xbb\xbf [{\"path\": \"v/a.mp4\", \"text\": \"one, \\\"two\\\"\", \"start\": 1.5, "
                   "\"end\": \"1:02\"},\n"
                   "{\"path\":\"/b [1].mp4\", \"x\": {\"y\": \"]}\"}}, {\"path\": \"lavfi:testsrc\"}]\n"},
        {"a.jsonl",
         "{\"path\": \"v/a.mp4\", \"caption\": \"one, \\\"two\\\"\", \"start\": 1.5, \"end\": 62}\n\n"
         "{\"path\": \"/b [1].mp4\"}\r\n{\"path\": \"lavfi:testsrc\"}"},
        {"a.csv",
         "path,end,text,start\nv/a.mp4,62,\"one, \"\"two\"\"\",1.5\n/b [1].mp4,,,\r\nlavfi:testsrc\n"},
    };
    for (size_t i = 0; i < LT_COUNT(forms); i++) {
        lt_arena arena = {0};
        lt_clip_list *list = open_list(forms[i].name, forms[i].text, (lt_shard){0});
        char absolute[128];
        snprintf(absolute, sizeof absolute, "%s/v/a.mp4", folder);
        assert_int_equal(lt_clip_list_count(list), 3);
        lt_clip_entry a = get(list, 0, &arena), b = get(list, 1, &arena), c = get(list, 2, &arena);
        assert_string_equal(a.path, absolute);
        assert_string_equal(a.text, "one, \"two\"");
        assert_string_equal(a.name, "a");
        assert_true(a.start == 1.5 && a.end == 62);
        assert_string_equal(b.path, "/b [1].mp4");
        assert_string_equal(b.name, "b--1-");
        assert_string_equal(c.path, "lavfi:testsrc");
        assert_true(c.start == 0 && c.end == 0 && !*c.text);
        lt_clip_list_close(list);
        lt_arena_finish(&arena);
    }
}

/* Quotes that open a field, and those in the middle of one. */
static void quotes_of_csv(void **state)
{
    static const char *const texts[] = {"a 6\" nail", "plain", "\"x\"",      "a,\n\"b",
                                        "\"",         "",      "5'7\", \"8", "end\""};
    lt_arena arena = {0};
    lt_clip_list *list = open_list("quotes.csv",
                                   "path,text,x\n0.mp4,a 6\" nail,\n1.mp4,plain,6\"\n2.mp4,\"\"\"x\"\"\",\n"
                                   "3.mp4,\"a,\n\"\"b\",\"\"\r\n4.mp4,\"\"\"\",y\n5.mp4,\"\",\n"
                                   "6.mp4,\"5'7\"\", \"\"8\",\n7.mp4,end\"\n",
                                   (lt_shard){0});
    assert_int_equal(lt_clip_list_count(list), LT_COUNT(texts));
    for (int i = 0; i < (int)LT_COUNT(texts); i++) {
        lt_clip_entry entry = get(list, i, &arena);
        assert_int_equal(atoi(entry.name), i);
        assert_string_equal(entry.text, texts[i]);
        assert_int_equal(entry.line, i + 2 + (i > 3)); /* one of them has two lines */
    }
    lt_clip_list_close(list);
    lt_arena_finish(&arena);
}

/* A name is its entry's, whatever is added behind, and tells entries of one file apart. */
static void names_stay(void **state)
{
    lt_arena arena = {0};
    lt_clip_list *few =
        open_list("few.jsonl", "{\"path\": \"x/a.mp4\"}\n{\"path\": \"y/a.mp4\"}\n", (lt_shard){0});
    lt_clip_list *more =
        open_list("more.jsonl",
                  "{\"path\": \"x/a.mp4\"}\n{\"path\": \"y/a.mp4\"}\n{\"path\": \"y/a.mp4\", \"start\": 3}\n",
                  (lt_shard){0});
    for (int i = 0; i < 2; i++) assert_string_equal(get(few, i, &arena).name, get(more, i, &arena).name);
    assert_string_equal(get(more, 0, &arena).name, "a");
    assert_string_not_equal(get(more, 1, &arena).name, get(more, 2, &arena).name);
    assert_string_not_equal(lt_clip_list_digest(few), lt_clip_list_digest(more));
    /* An entry's line is an entry again. */
    lt_clip_entry entry = get(more, 2, &arena);
    lt_clip_list *again = open_list("again.jsonl", entry.json, (lt_shard){0});
    assert_string_equal(get(again, 0, &arena).path, entry.path);
    assert_true(get(again, 0, &arena).start == 3);
    lt_clip_list_close(few);
    lt_clip_list_close(more);
    lt_clip_list_close(again);
    lt_arena_finish(&arena);
}

static void shards_share(void **state)
{
    char text[2048] = "";
    for (int i = 0; i < 11; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "{\"path\": \"%d.mp4\"}\n", i);
    int seen[11] = {0};
    for (int shard = 0; shard < 4; shard++) {
        lt_arena arena = {0};
        lt_clip_list *list = open_list("shard.jsonl", text, (lt_shard){shard, 4});
        assert_int_equal(lt_clip_list_count(list), shard < 3 ? 3 : 2);
        for (int64_t i = 0; i < lt_clip_list_count(list); i++) seen[atoi(get(list, i, &arena).name)]++;
        lt_clip_list_close(list);
        lt_arena_finish(&arena);
    }
    for (int i = 0; i < 11; i++) assert_int_equal(seen[i], 1);
    lt_shard shard;
    lt_err err;
    for (const char *const *wrong = (const char *const[]){"4/4", "-1/4", "1", "1/0", "0/4x", "a/b", NULL};
         *wrong; wrong++)
        assert_int_equal(lt_shard_parse(*wrong, &shard, &err), LT_E_INVALID);
    assert_int_equal(lt_shard_parse("3/4", &shard, &err), LT_OK);
    assert_true(shard.index == 3 && shard.count == 4);
}

/* A file that is cut off after it was opened is an error, not what happens to lie there. */
static void cut_off(void **state)
{
    lt_arena arena = {0};
    lt_clip_entry entry;
    lt_err err;
    lt_clip_list *list =
        open_list("cut.jsonl", "{\"path\": \"a.mp4\"}\n{\"path\": \"b.mp4\"}\n", (lt_shard){0});
    put("cut.jsonl", "{\"path\": \"a.mp4\"}\n{\"pa");
    assert_int_equal(lt_clip_list_get(list, 0, &arena, &entry, &err), LT_OK);
    assert_int_equal(lt_clip_list_get(list, 1, &arena, &entry, &err), LT_E_FORMAT);
    assert_int_equal(lt_clip_list_get(list, 2, &arena, &entry, &err), LT_E_INTERNAL);
    lt_clip_list_close(list);
    lt_arena_finish(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(forms_agree), cmocka_unit_test(quotes_of_csv),
                                       cmocka_unit_test(names_stay), cmocka_unit_test(shards_share),
                                       cmocka_unit_test(cut_off)};
    if (!mkdtemp(folder)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) || failed;
}
