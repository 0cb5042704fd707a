/* test_cache_tool.c - the program latents, and what goes into a cache and out of it as files. */
#include "tests/unit/cache_fixture.h"

#include "kernels/safetensors.h"

#include <sys/wait.h>

/* Run the tool; its output, and its exit code. */
static char *run_tool(const char *arguments, int *code)
{
    static char output[8192];
    char command[2048];
    snprintf(command, sizeof command, "%s %s 2>&1", LT_LATENTS, arguments);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    output[fread(output, 1, sizeof output - 1, pipe)] = 0;
    *code = WEXITSTATUS(pclose(pipe));
    return output;
}

#define RUN(...) (snprintf(arguments, sizeof arguments, __VA_ARGS__), run_tool(arguments, &code))

static void the_tool_tells(void **state)
{
    fixture *f = *state;
    lt_err err;
    char arguments[1600];
    int code;
    lt_cache_clip clip = sample_clip("film");
    clip.logvar = true;
    MUST(put_clip(f->cache, &clip, &err));
    clip.clip = "other";
    MUST(put_chunk(f->cache, &clip, 0, NULL, &err));
    assert_non_null(strstr(RUN("ls %s", f->folder),
                           "film/0123456789abcdef  complete  3/3 chunks  19 frames  3x5x7 f32+logvar"));
    assert_int_equal(code, 0);
    assert_non_null(strstr(RUN("--cache %s ls --json", f->folder), "\"state\":\"partial\""));
    json_t *stat = json_loads(RUN("%s stat --json", f->folder), 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(stat, "chunks")), 4);
    assert_int_equal(json_integer_value(json_object_get(stat, "complete")), 1);
    assert_true(json_integer_value(json_object_get(stat, "last_transaction")) > 0);
    json_decref(stat);
    assert_non_null(strstr(RUN("verify %s", f->folder), "no fault"));
    assert_int_equal(code, 0);
    RUN("export %s film/01 %s/film.safetensors", f->folder, f->folder);
    assert_int_equal(code, 0);
    assert_non_null(strstr(RUN("export %s other %s/x.safetensors", f->folder, f->folder), "no record"));
    assert_int_equal(code, 1);
    assert_non_null(strstr(RUN("export %s nobody %s/x.safetensors", f->folder, f->folder), "no clip nobody"));
    assert_int_equal(code, 1);
    RUN("--help");
    assert_int_equal(code, 0);
    RUN("frobnicate %s", f->folder);
    assert_int_equal(code, 2);
    static const char *const wrong[] = {"ls %s", "stat %s", "verify %s", "rm %s film", "gc %s", "copy %s to"};
    for (size_t i = 0; i < LT_COUNT(wrong); i++) {
        char nowhere[600];
        snprintf(nowhere, sizeof nowhere, "%s/nowhere", f->folder);
        assert_non_null(strstr(RUN(wrong[i], nowhere), "there is no cache at "));
        assert_int_equal(code, 1);
        assert_int_equal(access(nowhere, F_OK), -1);
    }
    flip_bit(f->cache, "latent/film/0123456789abcdef/000000000008");
    assert_non_null(strstr(RUN("verify %s", f->folder), "latent/film/0123456789abcdef/000000000008"));
    assert_int_equal(code, 1);
    RUN("verify --json %s", f->folder);
    assert_int_equal(code, 1);
}

/* One damaged state, and keys that nobody has made, are named, and all else goes on; rm takes out what it is given exactly. */
static void the_tool_goes_on_behind_damage(void **state)
{
    fixture *f = *state;
    lt_err err;
    char arguments[2000], odd[400];
    int code;
    lt_cache_clip clip = sample_clip("film");
    MUST(put_clip(f->cache, &clip, &err));
    clip.clip = "other";
    MUST(put_clip(f->cache, &clip, &err));
    tamper(f->cache, "state/film/0123456789abcdef", "[", 1);
    snprintf(odd, sizeof odd, "state/%0300d/00", 7);
    tamper(f->cache, odd, "{}", 2);
    alarm(60);
    assert_non_null(strstr(RUN("ls %s", f->folder), "other/0123456789abcdef  complete"));
    assert_non_null(
        strstr(run_tool(arguments, &code), "state/film/0123456789abcdef is damaged; `latents rm "));
    assert_int_equal(code, 1);
    assert_non_null(strstr(RUN("copy %s %s/copy", f->folder, f->folder), "1 clips, 3 chunks copied"));
    assert_int_equal(code, 1);
    RUN("export %s other %s/x.safetensors", f->folder, f->folder);
    assert_int_equal(code, 0);
    assert_non_null(strstr(RUN("verify %s", f->folder), "state/film/0123456789abcdef is damaged"));
    assert_non_null(strstr(run_tool(arguments, &code), odd));
    assert_non_null(strstr(RUN("gc %s", f->folder), "0 clips of 0 B removed"));
    assert_int_equal(code, 1);
    alarm(0);
    RUN("rm %s film/0123456789abcdef", f->folder);
    assert_int_equal(code, 0);
    RUN("rm %s %s", f->folder, odd + strlen("state/"));
    assert_int_equal(code, 0);
    assert_int_equal(count_faults(f->cache), 0);
    assert_non_null(strstr(RUN("ls %s", f->folder), "other/0123456789abcdef  complete"));
    assert_int_equal(code, 0);
}

/* Only a clip that is there, made in the same way, by a later epoch of the same backend goes. */
static void gc_takes_what_was_made_anew(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_summary s;
    char arguments[2000], digest[8];
    int code;
    for (int i = 0; i < 12; i++) {
        lt_cache_clip clip = sample_clip(i < 10 ? "film" : "denoised");
        snprintf(digest, sizeof digest, "0%d", i);
        clip.digest = digest;
        clip.numeric_class = i ? "cpu/a/epoch-4/f32" : "cpu/a/epoch-5/f32";
        if (i == 1) clip.numeric_class = "cuda/a/epoch-2/f32";
        if (i == 2) clip.weights = "bb";
        if (i == 3) clip.encoding = "tile 512, overlap 0.25";
        if (i == 4) clip.fingerprint = "11";
        if (i == 5) clip.width = 8;
        if (i == 6) clip.numerics = "lite-sora";
        if (i == 7) clip.made_of = "f00e"; /* scaled in another way, say */
        if (i == 8) clip.numeric_class = "cpu/a/epoch-4/bf16";
        if (i == 9) clip.numeric_class = "cpu/a/epoch-4/f32.2"; /* a revision of one dtype */
        if (i >= 10) clip.made_of = "";
        if (i == 10) clip.numeric_class = "cpu/a/epoch-5/f32";
        MUST(put_clip(f->cache, &clip, &err)); /* 9: as the first one, but for the epoch */
    }
    assert_non_null(strstr(RUN("gc %s", f->folder), "film/09 removed: made anew as film/00\n1 clips of"));
    assert_int_equal(code, 0);
    for (int i = 0; i < 9; i++) {
        snprintf(digest, sizeof digest, "0%d", i);
        MUST(lt_cache_look(f->cache, "film", digest, &s, &err));
    }
    MUST(lt_cache_look(f->cache, "denoised", "011", &s, &err));
    lt_cache_clip clip = sample_clip("half");
    MUST(put_chunk(f->cache, &clip, 0, NULL, &err));
    clip.clip = "no";
    MUST(lt_cache_fail(f->cache, &clip, "it cannot be", &err));
    assert_non_null(strstr(RUN("gc %s --json", f->folder),
                           "\"removed\":[{\"clip\":\"half\",\"digest\":\"0123456789abcdef\","
                           "\"why\":\"unfinished\"},{\"clip\":\"no\""));
    assert_int_equal(code, 0);
    assert_int_equal(count_faults(f->cache), 0);
}

/* --newest: of each name, however its clips were made, the complete one that came last stays, and all that came with it. */
static void gc_keeps_the_newest_where_it_is_told(void **state)
{
    static const struct {
        const char *clip, *digest;
        int64_t completed_ms;
        bool stays;
    } cases[] = {{"film", "01", 5000, false}, {"film", "02", 7000, true},  {"film", "03", 6000, false},
                 {"other", "01", 4000, true}, {"twins", "01", 3000, true}, {"twins", "02", 3000, true},
                 {"twins", "03", 2000, false}};
    fixture *f = *state;
    lt_err err;
    lt_cache_summary s;
    char arguments[2000], digest[8];
    int code;
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        lt_cache_clip clip = sample_clip(cases[i].clip);
        clip.digest = cases[i].digest;
        clip.completed_ms = cases[i].completed_ms;
        clip.fingerprint = i % 2 ? "aa" : "bb";
        MUST(put_clip(f->cache, &clip, &err));
    }
    for (int i = 0; i < 100; i++) { /* more than are looked at together */
        lt_cache_clip clip = sample_clip("often");
        snprintf(digest, sizeof digest, "%02x", i);
        clip.digest = digest;
        clip.completed_ms = 1000 + i * 37 % 100;
        MUST(put_clip(f->cache, &clip, &err));
    }
    lt_cache_clip half = sample_clip("film");
    half.digest = "04";
    MUST(put_chunk(f->cache, &half, 0, NULL, &err)); /* not complete: it is no newer one */
    assert_non_null(strstr(RUN("gc %s", f->folder), "1 clips of"));
    assert_non_null(strstr(RUN("gc %s --newest", f->folder), "film/01 removed: film/02 is newer\n"));
    assert_int_equal(code, 0);
    for (size_t i = 0; i < LT_COUNT(cases); i++)
        assert_int_equal(lt_cache_look(f->cache, cases[i].clip, cases[i].digest, &s, &err),
                         cases[i].stays ? LT_OK : LT_E_NOT_FOUND);
    for (int i = 0; i < 100; i++) {
        snprintf(digest, sizeof digest, "%02x", i);
        assert_int_equal(lt_cache_look(f->cache, "often", digest, &s, &err),
                         i * 37 % 100 == 99 ? LT_OK : LT_E_NOT_FOUND);
    }
    assert_non_null(strstr(RUN("gc %s --newest", f->folder), "0 clips of"));
    assert_int_equal(count_faults(f->cache), 0);
    assert_non_null(strstr(RUN("ls %s --newest", f->folder), "usage: latents ls"));
    assert_int_equal(code, 2);
}

/* A mistake is told in three lines: it, how the command is called, where there is more. */
static void a_mistake_is_told_in_short(void **state)
{
    static const char *const cases[][2] = {
        {"export x",
         "latents: wrong number of arguments\nusage: latents export CACHE CLIP OUT.safetensors [--json]\n"},
        {"rm x --force", "latents: unknown option, or one without its value: --force\nusage: latents rm "
                         "CACHE CLIP [--json]\n"},
        {"x gc a b c d", "latents: too many arguments\nusage: latents gc CACHE "},
        {"ls", "latents: no cache was named\nusage: latents ls CACHE [--json]\n"},
        {"frobnicate x", "latents: unknown command: frobnicate\nusage: latents ls | stat "},
        {"", "latents: no command\nusage: latents ls | stat "}};
    int code;
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        const char *said = run_tool(cases[i][0], &code), *last = strstr(said, "`latents --help` says more\n");
        assert_int_equal(code, 2);
        assert_memory_equal(said, cases[i][1], strlen(cases[i][1]));
        assert_non_null(last);
        int lines = 0;
        for (const char *at = said; (at = strchr(at, '\n')); at++) lines++;
        assert_int_equal(lines, 3);
    }
}

/* Behind -- no argument is an option. */
static void a_name_may_begin_with_a_dash(void **state)
{
    fixture *f = *state;
    lt_err err;
    char arguments[2000];
    int code;
    lt_cache_clip clip = sample_clip("-film");
    MUST(put_clip(f->cache, &clip, &err));
    RUN("rm %s -film", f->folder);
    assert_int_equal(code, 2);
    RUN("export --json %s -- -film %s/x.safetensors", f->folder, f->folder);
    assert_int_equal(code, 0);
    assert_non_null(strstr(RUN("rm %s -- -film --json", f->folder), "wrong number"));
    assert_int_equal(code, 2);
    assert_non_null(strstr(RUN("-- rm %s -film", f->folder), "-film/0123456789abcdef removed"));
    assert_int_equal(code, 0);
}

/* Of several clips of a name the complete one is looked at, but none is taken out unasked. */
static void rm_does_not_choose(void **state)
{
    fixture *f = *state;
    lt_err err;
    char arguments[2000];
    int code;
    lt_cache_clip clip = sample_clip("film");
    MUST(put_clip(f->cache, &clip, &err));
    clip.digest = "00ff";
    MUST(put_chunk(f->cache, &clip, 0, NULL, &err));
    RUN("export %s film %s/x.safetensors", f->folder, f->folder);
    assert_int_equal(code, 0);
    assert_non_null(strstr(RUN("rm %s film", f->folder),
                           "film can be any of: film/00ff (partial) film/0123456789abcdef (complete)"));
    assert_int_equal(code, 2);
    RUN("rm %s film/01", f->folder);
    assert_int_equal(code, 0);
    RUN("rm %s film", f->folder);
    assert_int_equal(code, 0);
    assert_string_equal(RUN("ls %s", f->folder), "");
}

static void an_export_is_the_whole_clip(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_safetensors *file;
    lt_tensor latent, logvar;
    char path[600];
    lt_cache_clip clip = sample_clip("film");
    clip.logvar = true;
    MUST(put_clip(f->cache, &clip, &err));
    snprintf(path, sizeof path, "%s/film.safetensors", f->folder);
    MUST(lt_cache_export(f->cache, "film", clip.digest, path, &err));
    MUST(lt_safetensors_open(&file, path, &err));
    MUST(lt_safetensors_get(file, "latent", &latent, &err));
    MUST(lt_safetensors_get(file, "logvar", &logvar, &err));
    assert_int_equal(latent.shape[0], 19);
    const float *values = latent.data, *more = logvar.data;
    for (int64_t i = 0; i < 19 * 105; i++) {
        int64_t first = i / (8 * 105) * 8, at = i - first * 105;
        assert_true(values[i] == sample_value(first, at) && more[i] == sample_value(first + 1000, at));
    }
    assert_string_equal(lt_safetensors_metadata(file, "scaling_factor"), "0.18215");
    assert_string_equal(lt_safetensors_metadata(file, "caption"), "a cockatoo \"dances\"");
    lt_safetensors_close(file);
}

/* ---- import -------------------------------------------------------------------------------------------- */

static const lt_cache_unsaid unsaid = {"", 24, LT_CACHE_SCALING_FACTOR};

/* A safetensors file of latents f32[4,1,2,2] with these texts beside them. */
static void write_file(const char *path, const lt_metadata *metadata, int n)
{
    lt_err err;
    float values[16] = {0.5};
    lt_named_tensor latent = {"latent", {values, LT_F32, 4, {4, 1, 2, 2}, 0}};
    void *bytes;
    size_t n_bytes;
    MUST(lt_safetensors_pack(&bytes, &n_bytes, &latent, 1, metadata, n, &err));
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
    free(bytes);
}

/* What a stage would not take of a clip is not taken into the cache, or is made clean. */
static void an_import_is_what_stages_take(void **state)
{
#define RECORD(times, more)                                                                                  \
    "{\"state\":\"complete\",\"clip\":\"x\",\"digest\":\"ab\",\"frames\":4,\"chunk\":8,\"time_base\":[1,24]" \
    ","                                                                                                      \
    "\"timestamps\":{\"first\":-3,\"steps\":\"" times "\"},\"latent\":{\"channels\":1,\"height\":2,"         \
    "\"width\":2,\"dtype\":\"f32\",\"factor\":8,\"scaling_factor\":1}" more "}"
    static const struct {
        const char *key, *value, *wanted;
    } refused[] = {{"scaling_factor", "nan", "its scaling_factor is \"nan\""},
                   {"scaling_factor", "inf", "its scaling_factor"},
                   {"scaling_factor", "0", "its scaling_factor"},
                   {"scaling_factor", "-1", "its scaling_factor"},
                   {"scaling_factor", "1 or 2", "its scaling_factor"},
                   {"record", RECORD("1 0 1", ""), "its timestamps do not rise at frame 2"},
                   {"record", RECORD("1 -1 1", ""), "its timestamps do not rise at frame 2"},
                   {"record", RECORD("1 9223372036854775807x2", ""), "its timestamps do not rise at frame 3"},
                   {"record", RECORD("1x3", ",\"last_duration\":-1"), "last duration -1"},
                   {"record", RECORD("1x2", ""), "its record is damaged"}};
    fixture *f = *state;
    lt_err err;
    lt_arena arena = {0};
    lt_cache_imported it;
    lt_cache_clip clip;
    char path[600], source[5000];
    snprintf(path, sizeof path, "%s/x.safetensors", f->folder);
    for (size_t i = 0; i < LT_COUNT(refused); i++) {
        write_file(path, &(lt_metadata){refused[i].key, refused[i].value}, 1);
        assert_int_equal(lt_cache_import(f->cache, path, &unsaid, &it, &err), LT_E_FORMAT);
        if (!strstr(err.text, refused[i].wanted)) fail_msg("%s", err.text);
    }
    memset(source, 'x', sizeof source - 1);
    source[sizeof source - 1] = 0;
    const lt_metadata texts[] = {{"caption", "one\r\ntwo\rthree\tfour\001five"},
                                 {"source", source},
                                 {"model", source},
                                 {"numeric_class", "cpu/\n"},
                                 {"record", RECORD("1x3", ",\"fingerprint\":\"no hex\"")}};
    write_file(path, texts, LT_COUNT(texts));
    MUST(lt_cache_import(f->cache, path, &unsaid, &it, &err));
    assert_int_equal(it.n_added, 1);
    MUST(lt_cache_get_clip(f->cache, it.clip.clip, it.clip.digest, &arena, &clip, &err));
    assert_string_equal(clip.caption, "one\ntwo\nthree\tfour five");
    assert_string_equal(clip.source, path);
    assert_string_equal(clip.model, "");
    assert_string_equal(clip.fingerprint, "");
    assert_string_equal(clip.numeric_class, "imported");
    assert_int_equal(clip.pts_delta[0], -3);
    lt_arena_finish(&arena);
    clip = sample_clip("film");
    clip.scaling_factor = 0.0 / 0.0;
    assert_int_equal(put_chunk(f->cache, &clip, 0, NULL, &err), LT_E_INVALID);
    assert_null(lt_cache_record_text(&clip, &(lt_cache_side_info){0}));
    assert_int_equal(count_faults(f->cache), 0);
}

/* What scales the latents is told, whether the file says it or not, and is not changed behind the back of who imported them. */
static void an_import_tells_the_scaling_factor(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_arena arena = {0};
    lt_cache_clip clip;
    char arguments[2000], path[600];
    int code;
    snprintf(path, sizeof path, "%s/x.safetensors", f->folder);
    write_file(path, NULL, 0);
    assert_non_null(
        strstr(RUN("import %s %s", f->folder, path), ", scaling_factor 0.18215 (the file says none)\n"));
    assert_non_null(strstr(RUN("import %s %s --scaling-factor 1.5305", f->folder, path),
                           "with scaling_factor 0.18215, not 1.5305"));
    assert_int_equal(code, 1);
    RUN("rm %s x", f->folder);
    assert_non_null(strstr(RUN("import %s %s --scaling-factor 1.5305 --json", f->folder, path),
                           "\"scaling_factor\":1.5305,\"says_scaling_factor\":false}"));
    assert_int_equal(code, 0);
    lt_cache_imported it;
    MUST(lt_cache_import(f->cache, path, &(lt_cache_unsaid){"", 24, 1.5305}, &it, &err));
    MUST(lt_cache_get_clip(f->cache, "x", it.clip.digest, &arena, &clip, &err));
    assert_true(clip.scaling_factor == 1.5305);
    lt_arena_finish(&arena);
    static const char *const wrong[] = {"0", "-1", "nan", "inf", "1x", "x"};
    for (size_t i = 0; i < LT_COUNT(wrong); i++) {
        assert_non_null(
            strstr(RUN("import %s %s --scaling-factor %s", f->folder, path, wrong[i]), "a number above 0"));
        assert_int_equal(code, 2);
    }
    write_file(path, &(lt_metadata){"scaling_factor", "0.13025"}, 1);
    RUN("rm %s x", f->folder);
    assert_non_null(
        strstr(RUN("import %s %s --scaling-factor 2", f->folder, path), ", scaling_factor 0.13025\n"));
}

/* The digest of an export stands for its numbers, and for no others. */
static void an_edited_export_is_another_clip(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_arena arena = {0};
    char arguments[2000], path[600];
    int code;
    lt_cache_clip clip = sample_clip("film"), got;
    lt_cache_imported it;
    clip.logvar = true, clip.numeric_class = "cpu/a/epoch-4/f32", clip.digest = "00ff";
    MUST(put_clip(f->cache, &clip, &err));
    snprintf(path, sizeof path, "%s/film.safetensors", f->folder);
    MUST(lt_cache_export(f->cache, "film", clip.digest, path, &err));
    assert_non_null(strstr(RUN("import %s %s", f->folder, path),
                           "film/00ff, 19 frames, scaling_factor 0.18215: was there already\n"));
    assert_non_null(
        strstr(RUN("import %s/other %s", f->folder, path), "film/00ff, 19 frames, scaling_factor 0.18215\n"));
    lt_cache *other;
    snprintf(arguments, sizeof arguments, "%s/other", f->folder);
    MUST(lt_cache_open(&other, arguments, true, 0, &err));
    MUST(lt_cache_get_clip(other, "film", "00ff", &arena, &got, &err));
    assert_string_equal(got.numeric_class, clip.numeric_class);
    assert_string_equal(got.encoding, clip.encoding);
    assert_string_equal(got.made_of, clip.made_of);
    lt_cache_close(other);
    for (int i = 0; i < 2; i++) { /* of latent, then of logvar */
        struct stat info;
        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        assert_int_equal(stat(path, &info), 0);
        assert_int_equal(fseek(file, info.st_size - (i ? 4 : 4 * 19 * 105 + 4), SEEK_SET), 0);
        fputs("1234", file);
        assert_int_equal(fclose(file), 0);
        MUST(lt_cache_import(f->cache, path, &unsaid, &it, &err));
        assert_int_equal(it.n_added, 3);
        assert_string_not_equal(it.clip.digest, clip.digest);
        MUST(lt_cache_get_clip(f->cache, "film", it.clip.digest, &arena, &got, &err));
        assert_string_equal(got.numeric_class, "imported");
        assert_string_equal(got.caption, clip.caption);
    }
    MUST(lt_cache_read(f->cache, "film", clip.digest, 8, same_chunk, &clip, &err));
    MUST(lt_cache_import(f->cache, path, &unsaid, &it, &err));
    assert_int_equal(it.n_added, 0);
    assert_int_equal(count_faults(f->cache), 0);
    lt_arena_finish(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_tool_tells),
        TEST(the_tool_goes_on_behind_damage),
        TEST(gc_takes_what_was_made_anew),
        TEST(gc_keeps_the_newest_where_it_is_told),
        TEST(a_mistake_is_told_in_short),
        TEST(a_name_may_begin_with_a_dash),
        TEST(rm_does_not_choose),
        TEST(an_export_is_the_whole_clip),
        TEST(an_import_is_what_stages_take),
        TEST(an_import_tells_the_scaling_factor),
        TEST(an_edited_export_is_another_clip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
