/* test_cache.c - what the cache keeps, and that it comes back.
 *
 *     unit_cache                    the tests
 *     unit_cache --make FOLDER      leave a cache in FOLDER, for cache_python.py */
#include "tests/unit/cache_fixture.h"

#include "kernels/safetensors.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- values and records -------------------------------------------------------------------------------- */

static void reads_back_clip(lt_cache *cache, lt_cache_clip *clip)
{
    lt_err err;
    int64_t first = -1, n = 0;
    lt_status status;
    MUST(put_clip(cache, clip, &err));
    while ((status = lt_cache_next_chunk(cache, clip->clip, clip->digest, first, &first, &err)) == LT_OK) {
        assert_int_equal(first, n++ * clip->chunk);
        MUST(lt_cache_read(cache, clip->clip, clip->digest, first, same_chunk, clip, &err));
    }
    assert_int_equal(status, LT_END);
    assert_int_equal(n, 3);
}

static void chunks_come_back(void **state)
{
    fixture *f = *state;
    lt_cache_clip clip = sample_clip("film");
    reads_back_clip(f->cache, &clip);
    clip.clip = "film-2", clip.dtype = LT_BF16, clip.logvar = true;
    reads_back_clip(f->cache, &clip);
    clip.clip = "film.large", clip.height = 50, clip.width = 70; /* values of many pages */
    reads_back_clip(f->cache, &clip);
    assert_int_equal(count_faults(f->cache), 0);
}

static void a_chunk_is_written_once(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_stat before, after;
    lt_cache_clip clip = sample_clip("film");
    bool added = false, there = true;
    MUST(lt_cache_has(f->cache, "film", clip.digest, 8, &there, &err));
    assert_false(there);
    MUST(put_chunk(f->cache, &clip, 8, &added, &err));
    assert_true(added);
    MUST(lt_cache_has(f->cache, "film", clip.digest, 8, &there, &err));
    assert_true(there);
    MUST(lt_cache_get_stat(f->cache, &before, &err));
    MUST(put_chunk(f->cache, &clip, 8, &added, &err));
    assert_false(added);
    MUST(lt_cache_get_stat(f->cache, &after, &err));
    assert_int_equal(before.last_transaction, after.last_transaction);
    assert_int_equal(after.chunks, 1);
    assert_int_equal(after.frames, 8);
}

static void the_record_comes_with_the_last_chunk(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_arena arena = {0};
    lt_cache_clip clip = sample_clip("film"), got;
    int64_t deltas[19];
    for (int i = 0; i < 19; i++) deltas[i] = i == 0 ? -512 : i < 9 ? 512 : 700 + i % 2;
    clip.pts_delta = deltas;
    clip.caption = "not UTF-8: \xff";
    MUST(put_chunk(f->cache, &clip, 16, NULL, &err));
    MUST(put_chunk(f->cache, &clip, 0, NULL, &err));
    assert_int_equal(lt_cache_get_clip(f->cache, "film", clip.digest, &arena, &got, &err), LT_E_NOT_FOUND);
    MUST(put_chunk(f->cache, &clip, 8, NULL, &err));
    MUST(lt_cache_get_clip(f->cache, "film", clip.digest, &arena, &got, &err));
    assert_int_equal(got.state, LT_CACHE_COMPLETE);
    assert_int_equal(got.n_frames, 19);
    assert_int_equal(got.chunk, 8);
    assert_int_equal(got.channels, 3);
    assert_int_equal(got.height, 5);
    assert_int_equal(got.width, 7);
    assert_int_equal(got.time_base_den, 12800);
    assert_int_equal(got.last_duration, 512);
    assert_memory_equal(got.pts_delta, deltas, sizeof deltas);
    assert_memory_equal(&got.picture, &clip.picture, sizeof clip.picture);
    assert_string_equal(got.source, clip.source);
    assert_string_equal(got.caption, "not UTF-8: ?");
    assert_string_equal(got.numeric_class, "cpu/test");
    assert_string_equal(got.encoding, "tile none");
    assert_string_equal(got.made_of, "f00d");
    assert_true(got.scaling_factor == 0.18215);
    lt_arena_finish(&arena);
}

/* What the maker needs to go on comes with a chunk, or alone, and goes with the last one. */
static void progress_ends_with_the_clip(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_clip clip = sample_clip("film");
    void *bytes;
    size_t n;
    assert_int_equal(lt_cache_get_progress(f->cache, "film", clip.digest, &bytes, &n, &err), LT_E_NOT_FOUND);
    MUST(lt_cache_put_progress(f->cache, "film", clip.digest, "before all", 10, &err));
    clip.progress = "first", clip.progress_bytes = 5;
    MUST(put_chunk(f->cache, &clip, 0, NULL, &err));
    MUST(lt_cache_get_progress(f->cache, "film", clip.digest, &bytes, &n, &err));
    assert_int_equal(n, 5);
    assert_memory_equal(bytes, "first", 5);
    free(bytes);
    clip.progress = NULL;
    MUST(put_chunk(f->cache, &clip, 8, NULL, &err));
    MUST(lt_cache_get_progress(f->cache, "film", clip.digest, &bytes, &n, &err));
    assert_memory_equal(bytes, "first", 5);
    free(bytes);
    assert_int_equal(count_faults(f->cache), 0);
    flip_bit(f->cache, "progress/film/0123456789abcdef");
    assert_int_equal(lt_cache_get_progress(f->cache, "film", clip.digest, &bytes, &n, &err), LT_E_FORMAT);
    assert_int_equal(count_faults(f->cache), 1);
    clip.progress = "last", clip.progress_bytes = 4;
    MUST(put_chunk(f->cache, &clip, 16, NULL, &err));
    assert_int_equal(lt_cache_get_progress(f->cache, "film", clip.digest, &bytes, &n, &err), LT_E_NOT_FOUND);
    assert_int_equal(count_faults(f->cache), 0);
}

static void see(lt_cache *cache, const char *clip, const char *key, const char *bytes)
{
    lt_err err;
    MUST(lt_cache_put_seen(cache, &(lt_cache_seen){clip, key, bytes, strlen(bytes)}, 1, &err));
    usleep(2000); /* the next one is of a later millisecond */
}

/* Gives a text that is read back; "" where there is none. */
static const char *seen(lt_cache *cache, const char *clip, const char *key)
{
    static char text[64];
    lt_err err;
    void *bytes = NULL;
    size_t n = 0;
    if (lt_cache_get_seen(cache, clip, key, &bytes, &n, &err) == LT_OK) memcpy(text, bytes, n);
    text[n] = 0;
    free(bytes);
    return text;
}

/* What a source has seen is kept while it is of use: the newest of a clip that is there. */
static void what_was_seen_goes_at_last(void **state)
{
    fixture *f = *state;
    lt_err err;
    int64_t n;
    lt_cache_clip clip = sample_clip("film");
    MUST(put_clip(f->cache, &clip, &err));
    tamper(f->cache, "seen/film/00",
           "\x40\xbf\xc8\x8c\x7a\xa0\x3c\x0f"
           "old",
           11); /* an earlier build's */
    see(f->cache, "film", "0c", "first");
    see(f->cache, "film", "0a", "second");
    see(f->cache, "gone", "0a", "third");
    see(f->cache, "film-2", "0a", "fourth");
    assert_string_equal(seen(f->cache, "film", "00"), ""); /* who knows what it saw */
    assert_string_equal(seen(f->cache, "film", "0c"), "first");
    assert_int_equal(count_faults(f->cache), 0);
    MUST(lt_cache_remove_orphans(f->cache, &n, &err));
    assert_int_equal(n, 4);
    assert_string_equal(seen(f->cache, "film", "0a"), "second");
    assert_string_equal(seen(f->cache, "film", "0c"), "");
    assert_string_equal(seen(f->cache, "gone", "0a"), "");
    flip_bit(f->cache, "seen/film/0a");
    assert_string_equal(seen(f->cache, "film", "0a"), "");
    assert_int_equal(count_faults(f->cache), 1);
    MUST(lt_cache_remove_orphans(f->cache, &n, &err));
    assert_int_equal(n, 1);
    assert_int_equal(count_faults(f->cache), 0);
    MUST(lt_cache_remove_orphans(f->cache, &n, &err));
    assert_int_equal(n, 0);
}

static void texts_are_kept_once(void **state)
{
    fixture *f = *state;
    lt_err err;
    void *bytes;
    size_t n;
    float sequence[6] = {1, 2, 3, 4, 5, 6}, pooled[2] = {7, 8};
    lt_named_tensor tensors[] = {{"sequence", {sequence, LT_F32, 2, {3, 2}, 0}},
                                 {"pooled", {pooled, LT_F32, 1, {2}, 0}}};
    lt_metadata metadata[] = {{"n_tokens", "3"}};
    assert_int_equal(lt_cache_get_text(f->cache, "00ff", "0a", &bytes, &n, &err), LT_E_NOT_FOUND);
    MUST(lt_cache_put_text(f->cache, "00ff", "0a", tensors, 2, metadata, 1, &err));
    MUST(lt_cache_put_text(f->cache, "00ff", "0a", tensors, 1, metadata, 1, &err));
    MUST(lt_cache_put_text(f->cache, "00ff", "0b", tensors, 1, metadata, 1, &err));
    MUST(lt_cache_get_text(f->cache, "00ff", "0a", &bytes, &n, &err));
    assert_memory_equal((char *)bytes + n - sizeof sequence, sequence, sizeof sequence);
    free(bytes);
    assert_int_equal(lt_cache_put_text(f->cache, "../x", "0a", tensors, 1, metadata, 1, &err), LT_E_INVALID);
    assert_int_equal(count_faults(f->cache), 0);

    flip_bit(f->cache, "text/00ff/0a");
    assert_int_equal(lt_cache_get_text(f->cache, "00ff", "0a", &bytes, &n, &err), LT_E_FORMAT);
    assert_non_null(strstr(err.text, "its checksum is wrong; take it out with `latents rm "));
    assert_non_null(strstr(err.text, " text/00ff/0a`"));
    assert_null(bytes);
    assert_int_equal(count_faults(f->cache), 1);
    MUST(lt_cache_remove_text(f->cache, "00ff", "0a", &err));
    assert_int_equal(lt_cache_remove_text(f->cache, "00ff", "0a", &err), LT_E_NOT_FOUND);
    assert_int_equal(lt_cache_get_text(f->cache, "00ff", "0a", &bytes, &n, &err), LT_E_NOT_FOUND);
    MUST(lt_cache_get_text(f->cache, "00ff", "0b", &bytes, &n, &err));
    free(bytes);
    assert_int_equal(count_faults(f->cache), 0);
}

static void another_geometry_is_refused(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_clip clip = sample_clip("film");
    MUST(put_chunk(f->cache, &clip, 0, NULL, &err));
    clip.width = 8;
    assert_int_equal(put_chunk(f->cache, &clip, 8, NULL, &err), LT_E_MISMATCH);
    clip = sample_clip("film");
    assert_int_equal(put_chunk(f->cache, &clip, 4, NULL, &err), LT_E_INVALID);
    assert_int_equal(put_chunk(f->cache, &clip, 24, NULL, &err), LT_E_INVALID);
    clip.clip = "../film";
    assert_int_equal(put_chunk(f->cache, &clip, 0, NULL, &err), LT_E_INVALID);
    clip.clip = "";
    assert_int_equal(put_chunk(f->cache, &clip, 0, NULL, &err), LT_E_INVALID);
    char name[400];
    memset(name, 'x', sizeof name);
    name[255] = 0;
    clip.clip = name;
    MUST(put_chunk(f->cache, &clip, 0, NULL, &err));
    name[255] = 'x', name[256] = 0;
    assert_int_equal(put_chunk(f->cache, &clip, 0, NULL, &err), LT_E_INVALID);
    assert_int_equal(count_faults(f->cache), 0);
}

static void a_failed_clip_can_be_completed(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_arena arena = {0};
    lt_cache_stat stat;
    lt_cache_clip clip = sample_clip("film"), got;
    MUST(put_chunk(f->cache, &clip, 0, NULL, &err));
    MUST(lt_cache_fail(f->cache, &clip, "a number is not finite", &err));
    MUST(lt_cache_get_clip(f->cache, "film", clip.digest, &arena, &got, &err));
    assert_int_equal(got.state, LT_CACHE_FAILED);
    assert_string_equal(got.reason, "a number is not finite");
    MUST(lt_cache_get_stat(f->cache, &stat, &err));
    assert_int_equal(stat.failed, 1);
    assert_int_equal(count_faults(f->cache), 0);
    MUST(put_clip(f->cache, &clip, &err));
    MUST(lt_cache_fail(f->cache, &clip, "too late", &err));
    MUST(lt_cache_get_clip(f->cache, "film", clip.digest, &arena, &got, &err));
    assert_int_equal(got.state, LT_CACHE_COMPLETE);
    MUST(lt_cache_get_stat(f->cache, &stat, &err));
    assert_int_equal(stat.failed, 0);
    assert_int_equal(stat.complete, 1);
    assert_int_equal(count_faults(f->cache), 0);
    lt_arena_finish(&arena);
}

/* ---- side streams -------------------------------------------------------------------------------------- */

static void write_noise(const char *path, size_t n_bytes, uint32_t seed)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (size_t i = 0; i < n_bytes; i++) {
        seed = seed * 1664525 + 1013904223;
        fputc((int)(seed >> 24), file);
    }
    assert_int_equal(fclose(file), 0);
}

static void side_streams_come_with_the_record(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_arena arena = {0};
    lt_cache_clip clip = sample_clip("film"), got;
    char path[600], back[600], command[1300];
    snprintf(path, sizeof path, "%s/side.mkv", f->folder);
    snprintf(back, sizeof back, "%s/back.mkv", f->folder);
    clip.side_path = path;
    MUST(put_chunk(f->cache, &clip, 0, NULL, &err));
    MUST(put_chunk(f->cache, &clip, 8, NULL, &err));
    assert_int_equal(put_chunk(f->cache, &clip, 16, NULL, &err), LT_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "side.mkv"));
    write_noise(path, LT_CACHE_SIDE_BYTES * 2 + 12345, 7);
    MUST(put_chunk(f->cache, &clip, 16, NULL, &err));
    MUST(lt_cache_get_clip(f->cache, "film", clip.digest, &arena, &got, &err));
    assert_int_equal(got.side_bytes, LT_CACHE_SIDE_BYTES * 2 + 12345);
    MUST(lt_cache_side(f->cache, "film", clip.digest, back, &err));
    snprintf(command, sizeof command, "cmp '%s' '%s'", path, back);
    assert_int_equal(system(command), 0);
    /* Who reads it while it is written again reads the old one. */
    struct stat old;
    int reading = open(back, O_RDONLY);
    MUST(lt_cache_side(f->cache, "film", clip.digest, back, &err));
    assert_int_equal(fstat(reading, &old), 0);
    assert_int_equal(old.st_nlink, 0);
    assert_int_equal(old.st_size, got.side_bytes);
    close(reading);
    assert_int_equal(system(command), 0);
    assert_int_equal(count_faults(f->cache), 0);
    lt_arena_finish(&arena);
}

/* ---- damage -------------------------------------------------------------------------------------------- */

/* Bytes of private memory that can be written to. */
static size_t data_bytes(void)
{
    unsigned long kilobytes = 0;
    char line[128];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) sscanf(line, "VmData: %lu", &kilobytes);
    if (file) fclose(file);
    return kilobytes << 10;
}

/* Write the record of a film of variable rate where no more memory is to be had than is said. */
static int write_within(const char *folder, const int64_t *deltas, int64_t n_frames, double part)
{
    enum { SLACK = 512 << 10 }; /* LMDB's pages, buffers of libraries */
    lt_err err;
    lt_cache *cache;
    lt_cache_clip clip = sample_clip("film");
    clip.n_frames = n_frames, clip.pts_delta = deltas;
    if (lt_cache_open(&cache, folder, true, 0, &err)) return 2;
    size_t bytes = data_bytes() + (size_t)(part * (double)lt_cache_record_peak(&clip)) + SLACK;
    if (setrlimit(RLIMIT_DATA, &(struct rlimit){bytes, bytes})) return 3;
    return lt_cache_fail(cache, &clip, "the disk is full", &err) != LT_OK;
}

static void a_long_record_takes_what_is_said(void **state)
{
    enum { FRAMES = 1000000 };
    if (getenv("LT_SANITIZED")) skip(); /* its allocator is another */
    fixture *f = *state;
    int64_t *deltas = malloc(FRAMES * sizeof *deltas);
    int status;
    for (int i = 0; i < FRAMES; i++) deltas[i] = 3600 + i % 1201 * 7 % 1201;
    for (int part = 0; part < 2; part++) { /* less is not enough, so that it is not said too high */
        char folder[600];
        snprintf(folder, sizeof folder, "%s-%d", f->folder, part);
        pid_t child = fork();
        if (!child) _exit(write_within(folder, deltas, FRAMES, part ? 1 : 0.8));
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), !part);
        remove_folder(folder);
    }
    free(deltas);
}

static lt_status ignore_chunk(void *user, const lt_cache_chunk *chunk, lt_err *err)
{
    return LT_OK;
}

/* The record of a film of variable rate as earlier builds wrote it is read as it was meant. */
static void records_of_earlier_builds_are_read(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_arena arena = {0};
    lt_cache_clip clip = sample_clip("film"), now, then;
    int64_t deltas[19] = {-512, 512, 1024, 1024};
    for (int i = 4; i < 19; i++) deltas[i] = 640;
    clip.pts_delta = deltas;
    MUST(put_clip(f->cache, &clip, &err));
    MUST(lt_cache_get_clip(f->cache, "film", clip.digest, &arena, &now, &err));
    char *text = lt_cache_record_text(&now, &(lt_cache_side_info){0}), old[4000];
    const char *steps = strstr(text, "\"512 1024x2 640x15\"");
    assert_non_null(steps);
    for (int wrong = 0; wrong < 4; wrong++) {
        static const char *const lists[] = {"[[512,1],[1024,2],[640,15]]", "[[512,1],[1024,2],[640,14]]",
                                            "[[512,1],[1024,2],[640,15],[1,0]]", "[512,1024,640]"};
        snprintf(old, sizeof old, "%.*s%s%s", (int)(steps - text), text, lists[wrong],
                 strchr(steps + 1, '"') + 1);
        tamper(f->cache, "clip/film/0123456789abcdef", old, strlen(old));
        assert_int_equal(count_faults(f->cache), wrong > 0);
        lt_status status = lt_cache_get_clip(f->cache, "film", clip.digest, &arena, &then, &err);
        assert_int_equal(status, wrong ? LT_E_FORMAT : LT_OK);
        if (!wrong) assert_memory_equal(then.pts_delta, deltas, sizeof deltas);
    }
    free(text);
    lt_arena_finish(&arena);
}

/* Chunks that a removal by an earlier build has left, when it was killed: nobody's, and not in the way. */
static void what_is_left_of_a_clip_is_not_served(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_stat stat;
    lt_cache_clip clip = sample_clip("film");
    bool there = true, added = false;
    int64_t first;
    MUST(put_clip(f->cache, &clip, &err));
    tamper(f->cache, "state/film/0123456789abcdef", NULL, 0);
    tamper(f->cache, "clip/film/0123456789abcdef", NULL, 0);
    tamper(f->cache, "longtake/totals", NULL, 0);
    MUST(lt_cache_has(f->cache, "film", clip.digest, 8, &there, &err));
    assert_false(there);
    assert_int_equal(lt_cache_read(f->cache, "film", clip.digest, 8, ignore_chunk, NULL, &err),
                     LT_E_NOT_FOUND);
    assert_int_equal(lt_cache_next_chunk(f->cache, "film", clip.digest, -1, &first, &err), LT_END);
    clip.width++; /* nor does what they were decide */
    MUST(put_chunk(f->cache, &clip, 8, &added, &err));
    assert_true(added);
    MUST(lt_cache_has(f->cache, "film", clip.digest, 16, &there, &err));
    assert_false(there);
    assert_int_equal(count_faults(f->cache), 0);
    MUST(put_clip(f->cache, &clip, &err));
    MUST(lt_cache_get_stat(f->cache, &stat, &err));
    assert_int_equal(stat.complete, 1);
    assert_int_equal(stat.chunks, 3);
    assert_int_equal(count_faults(f->cache), 0);
}

/* Clips that are not what their state says leave nothing behind, in the totals neither. */
static void damaged_clips_can_be_taken_out(void **state)
{
    static const char *const keys[] = {"state/film/0123456789abcdef", "clip/film/0123456789abcdef",
                                       "latent/film/0123456789abcdef/000000000008",
                                       "latent/film/0123456789abcdef/000000000016",
                                       "side/film/0123456789abcdef/000000"};
    fixture *f = *state;
    lt_err err;
    lt_cache_stat stat;
    char path[600];
    snprintf(path, sizeof path, "%s/side.mkv", f->folder);
    write_noise(path, 12345, 7);
    for (size_t i = 0; i < LT_COUNT(keys); i++) {
        lt_cache_clip clip = sample_clip("film"), other = sample_clip("other");
        clip.side_path = other.side_path = path;
        MUST(put_clip(f->cache, &clip, &err));
        MUST(put_clip(f->cache, &other, &err));
        tamper(f->cache, keys[i], i == 0 || i == 1 ? "[" : NULL, 1);
        assert_true(count_faults(f->cache) > 0);
        MUST(lt_cache_remove(f->cache, "film", clip.digest, &err));
        assert_int_equal(lt_cache_remove(f->cache, "film", clip.digest, &err), LT_E_NOT_FOUND);
        MUST(lt_cache_get_stat(f->cache, &stat, &err));
        assert_int_equal(stat.side_bytes, 12345);
        assert_int_equal(stat.chunks, 3);
        assert_int_equal(count_faults(f->cache), 0);
    }
}

static void damage_is_found(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_clip clip = sample_clip("a");
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    for (int i = 0; i < 5; i++) {
        clip.clip = names[i];
        MUST(put_clip(f->cache, &clip, &err));
    }
    assert_int_equal(count_faults(f->cache), 0);
    flip_bit(f->cache, "latent/a/0123456789abcdef/000000000008");
    assert_int_equal(lt_cache_read(f->cache, "a", clip.digest, 8, ignore_chunk, NULL, &err), LT_E_FORMAT);
    assert_non_null(strstr(err.text, "latent/a/0123456789abcdef/000000000008"));
    assert_int_equal(count_faults(f->cache), 1);
    tamper(f->cache, "latent/b/0123456789abcdef/000000000000", "short", 5);
    assert_int_equal(count_faults(f->cache), 2);
    tamper(f->cache, "latent/c/0123456789abcdef/000000000016", NULL, 0); /* missing, and the count is wrong */
    assert_int_equal(count_faults(f->cache), 4);
    tamper(f->cache, "clip/d/0123456789abcdef", "{}", 2);
    assert_int_equal(count_faults(f->cache), 5);
    tamper(f->cache, "latent/nobody/00/000000000000", "x", 1);
    tamper(f->cache, "something", "x", 1);
    assert_int_equal(count_faults(f->cache), 7);
    tamper(f->cache, "state/e/0123456789abcdef", "[", 1);
    assert_true(count_faults(f->cache) > 7);
}

/* Timestamps are read back as they were, and steps that are not the clip's are damage. */
static void timestamps_are_as_many_as_frames(void **state)
{
    static const struct {
        const char *steps;
        bool fine;
    } cases[] = {{"7x10 -3 40x7", true}, {"1x18", true},   {"1x19", false},
                 {"1x17", false},        {"1x18 ", false}, {"1x0 1x18", false},
                 {"x18", false},         {"1x", false},    {"1x18 2x-1", false},
                 {"1;1x17", false},      {"", false},      {"1x99999999999999999999", false}};
    fixture *f = *state;
    lt_err err;
    lt_cache_clip clip = sample_clip("film"), out;
    MUST(put_clip(f->cache, &clip, &err));
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        char text[400];
        lt_arena arena = {0};
        snprintf(text, sizeof text,
                 "{\"state\":\"complete\",\"frames\":19,\"chunk\":8,\"latent\":{\"channels\":3,\"height\":5,"
                 "\"width\":7,\"dtype\":\"F32\"},\"timestamps\":{\"first\":9,\"steps\":\"%s\"}}",
                 cases[i].steps);
        tamper(f->cache, "clip/film/0123456789abcdef", text, strlen(text));
        assert_int_equal(lt_cache_get_clip(f->cache, "film", clip.digest, &arena, &out, &err),
                         cases[i].fine ? LT_OK : LT_E_FORMAT);
        if (i == 0) {
            const int64_t *d = out.pts_delta;
            assert_true(d[0] == 9 && d[1] == 7 && d[10] == 7 && d[11] == -3 && d[12] == 40 && d[18] == 40);
        }
        lt_arena_finish(&arena);
    }
}

/* Numbers that no clip has: one that would take gigabytes of timestamps, one that is none of 32 bits. */
static void a_record_that_lies_is_damaged(void **state)
{
    static const char *const records[] = {
        "{\"state\":\"complete\",\"frames\":%lld,\"chunk\":8,\"latent\":{\"channels\":3,\"height\":5,"
        "\"width\":7,"
        "\"dtype\":\"F32\"},\"timestamps\":{\"first\":0,\"steps\":\"1x%lld\"}}",
        "{\"state\":\"complete\",\"frames\":19,\"chunk\":%lld,\"latent\":{\"channels\":3,\"height\":5,"
        "\"width\":7,"
        "\"dtype\":\"F32\"},\"timestamps\":null}",
    };
    const long long right[] = {19, 8}, wrong[] = {LT_CACHE_FRAMES_MAX + 1LL, (1LL << 32) + 8};
    fixture *f = *state;
    lt_err err;
    lt_cache_clip clip = sample_clip("film"), out;
    MUST(put_clip(f->cache, &clip, &err));
    for (int i = 0; i < 4; i++) {
        char text[400];
        lt_arena arena = {0};
        long long number = (i % 2 ? wrong : right)[i / 2];
        snprintf(text, sizeof text, records[i / 2], number, number - 1);
        tamper(f->cache, "clip/film/0123456789abcdef", text, strlen(text));
        assert_int_equal(lt_cache_get_clip(f->cache, "film", clip.digest, &arena, &out, &err),
                         i % 2 ? LT_E_FORMAT : LT_OK);
        lt_arena_finish(&arena);
    }
}

static void nan_is_found(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_clip clip = sample_clip("film");
    clip.n_frames = clip.chunk = 1;
    float *latent = sample_chunk(&clip, 0, 0);
    latent[17] = 0.0f / 0.0f;
    MUST(lt_cache_put(f->cache, &clip, 0, latent, NULL, NULL, &err));
    assert_int_equal(count_faults(f->cache), 1);
    free(latent);
}

static int make(const char *folder)
{
    lt_err err;
    lt_cache *cache;
    lt_cache_clip clip = sample_clip("film");
    clip.logvar = true;
    if (lt_cache_open(&cache, folder, true, 0, &err) || put_clip(cache, &clip, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    lt_cache_close(cache);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--make") == 0) return make(argv[2]);
    const struct CMUnitTest tests[] = {
        TEST(chunks_come_back),
        TEST(a_chunk_is_written_once),
        TEST(the_record_comes_with_the_last_chunk),
        TEST(another_geometry_is_refused),
        TEST(progress_ends_with_the_clip),
        TEST(what_was_seen_goes_at_last),
        TEST(texts_are_kept_once),
        TEST(a_failed_clip_can_be_completed),
        TEST(side_streams_come_with_the_record),
        TEST(records_of_earlier_builds_are_read),
        TEST(a_long_record_takes_what_is_said),
        TEST(what_is_left_of_a_clip_is_not_served),
        TEST(damaged_clips_can_be_taken_out),
        TEST(damage_is_found),
        TEST(timestamps_are_as_many_as_frames),
        TEST(a_record_that_lies_is_damaged),
        TEST(nan_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
