/* clip_list_test.c - manifests: what is read, names, shards. What is refused is in tests/pipeline/datasets.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

/* Numbered pictures, and a pattern of the shell, have the name of what stands before the numbers, else of their folder. */
static void pictures_have_a_name(void **state)
{
    static const char *const cases[][2] = {{"shots/%04d.png", "shots"},
                                           {"s2/*.png", "s2"},
                                           {"a/img_%04d.png", "img"},
                                           {"a/b.%d.left.png", "b"},
                                           {"a/x-[0-9]?.png", "x"},
                                           {"-a-/_%d.png", "a"},
                                           {"-/-*", "clip"},
                                           {"lavfi:testsrc=duration=1/2*3", "lavfi-testsrc-duration-1-2-3"},
                                           {"http://x/y/a?b=*.mp4", "a-b--"},
                                           {"a/100%.mp4", "100-"},
                                           {"a/b[1].mp4", "b-1-"},
                                           {"there%d.mp4", "there-d"}};
    char path[256];
    lt_arena arena = {0};
    put("there%d.mp4", "");
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        bool is_path = !strchr(cases[i][0], ':');
        snprintf(path, sizeof path, "%s%s%s", is_path ? folder : "", is_path ? "/" : "", cases[i][0]);
        assert_string_equal(lt_clip_name_of(path, 120, &arena), cases[i][1]);
    }
    assert_string_equal(lt_clip_name_of("%04d.png", 120, &arena), "clip");
    assert_string_equal(lt_clip_name_of("abcdef_%04d.png", 3, &arena), "abc");
    lt_clip_list *list = open_list("pictures.jsonl", "{\"path\": \"shots/%04d.png\"}", (lt_shard){0});
    assert_string_equal(get(list, 0, &arena).name, "shots");
    lt_clip_list_close(list);
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

static void outputs_meet_no_source(void **state)
{
    static const struct {
        const char *list, *outputs[2]; /* below the folder; the list has %s for it */
        int line, other;               /* 0: all is well */
    } cases[] = {
        {"{\"path\": \"a/x.mp4\"}\n{\"path\": \"b/x.mp4\", \"name\": \"y\"}", {"b/{clip}.mp4"}, 1, 2},
        {"{\"path\": \"a/x.mp4\"}\n{\"path\": \"b/x.mp4\", \"name\": \"y\"}", {"b/{clip}.mkv"}, 0, 0},
        {"{\"path\": \"a/x.mp4\"}\n{\"path\": \"b/x.mp4\", \"name\": \"y\"}",
         {"a/o-{clip}.mp4", "link/{clip}.mp4"},
         1,
         2},
        {"{\"path\": \"b/x.mp4\"}", {"b/{clip}.mp4"}, 1, 1},
        {"{\"path\": \"b/x.mp4\"}", {"none/{clip}.mp4", "b/x.mp4"}, 0, 0},
        {"{\"path\": \"a/x.png\"}\n{\"path\": \"b/x-12.png\", \"name\": \"y\"}", {"b/{clip}-%d.png"}, 1, 2},
        {"{\"path\": \"a/x.png\"}\n{\"path\": \"b/x.png\", \"name\": \"y\"}", {"b/{clip}-%04d.png"}, 0, 0},
        {"{\"path\": \"a/x.png\"}\n{\"path\": \"b/%04d.png\", \"name\": \"b\"}", {"{clip}/%d.png"}, 2, 2},
        {"{\"path\": \"a/x.png\", \"name\": \"17\"}\n{\"path\": \"b/%04d.png\", \"name\": \"y\"}",
         {"b/{clip}.png"},
         1,
         2},
        {"{\"path\": \"a/x.png\"}\n{\"path\": \"b/*.png\", \"name\": \"y\"}", {"b/{clip}.PNG"}, 1, 2},
        {"{\"path\": \"a/x.png\"}\n{\"path\": \"b/*.png\", \"name\": \"y\"}", {"b/{clip}-%d.tiff"}, 0, 0},
        {"{\"path\": \"a/x.mp4\"}\n{\"path\": \"b/[1].mp4\", \"name\": \"y\"}", {"b/{clip}.mp4"}, 0, 0},
        {"{\"path\": \"lavfi:testsrc\", \"name\": \"x\"}", {"b/{clip}.mp4"}, 0, 0},
    };
    static const char *const folders[] = {"a", "b"};
    char path[256], outputs[2][256];
    for (size_t i = 0; i < LT_COUNT(folders); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, folders[i]);
        assert_int_equal(mkdir(path, 0777), 0);
    }
    put("b/[1].mp4", "");
    snprintf(path, sizeof path, "%s/link", folder);
    assert_int_equal(symlink("b", path), 0);
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        const char *patterns[] = {outputs[0], outputs[1]};
        char wanted[2][64];
        lt_err err = {0};
        int n = 0;
        for (; n < 2 && cases[i].outputs[n]; n++)
            snprintf(outputs[n], sizeof outputs[n], "%s/%s", folder, cases[i].outputs[n]);
        lt_clip_list *list = open_list("meet.jsonl", cases[i].list, (lt_shard){0});
        lt_status status = lt_clip_list_check_outputs(list, patterns, n, &err);
        lt_clip_list_close(list);
        if (status != (cases[i].line ? LT_E_INVALID : LT_OK)) fail_msg("case %zu: %s", i, err.text);
        if (!cases[i].line) continue;
        snprintf(wanted[0], sizeof wanted[0], "meet.jsonl:%d: ", cases[i].line);
        snprintf(wanted[1], sizeof wanted[1], "of line %d is made from", cases[i].other);
        if (!strstr(err.text, wanted[0]) || !strstr(err.text, wanted[1]))
            fail_msg("case %zu: %s", i, err.text);
    }
    /* Sources of other shards are sources, outputs of other shards are theirs. */
    for (int64_t shard = 0; shard < 2; shard++) {
        lt_err err = {0};
        lt_clip_list *list = open_list("meet.jsonl", cases[0].list, (lt_shard){shard, 2});
        snprintf(outputs[0], sizeof outputs[0], "%s/b/{clip}.mp4", folder);
        const char *pattern = outputs[0];
        assert_int_equal(lt_clip_list_check_outputs(list, &pattern, 1, &err), shard ? LT_OK : LT_E_INVALID);
        lt_clip_list_close(list);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(forms_agree),
                                       cmocka_unit_test(quotes_of_csv),
                                       cmocka_unit_test(outputs_meet_no_source),
                                       cmocka_unit_test(names_stay),
                                       cmocka_unit_test(pictures_have_a_name),
                                       cmocka_unit_test(shards_share),
                                       cmocka_unit_test(cut_off)};
    if (!mkdtemp(folder)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) || failed;
}
