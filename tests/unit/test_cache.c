/* test_cache.c - what the cache keeps, and that it comes back.
 *
 *     unit_cache                    the tests
 *     unit_cache --make FOLDER      leave a cache in FOLDER, for cache_python.py */
#include "tests/unit/cache_sample.h"

#include "kernels/safetensors.h"

#include <sys/resource.h>
#include <sys/wait.h>

typedef struct fixture {
    char folder[512];
    lt_cache *cache;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    lt_err err;
    strcpy(f->folder, temporary_folder(NULL));
    if (lt_cache_open(&f->cache, f->folder, true, 0, &err)) fail_msg("%s", err.text);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    lt_cache_close(f->cache);
    remove_folder(f->folder);
    free(f);
    return 0;
}

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

static void flip_bit(lt_cache *cache, const char *key);
static void tamper(lt_cache *cache, const char *key, const void *bytes, size_t n_bytes);

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
    assert_int_equal(count_faults(f->cache), 0);
    lt_arena_finish(&arena);
}

/* ---- damage -------------------------------------------------------------------------------------------- */

/* Change a value behind the cache's back: NULL bytes delete it. */
static void tamper(lt_cache *cache, const char *key, const void *bytes, size_t n_bytes)
{
    lt_err err;
    MDB_txn *txn;
    MUST(lt_cache_begin(cache, true, &txn, &err));
    MDB_val k = lt_cache_val(key, strlen(key)), v = lt_cache_val(bytes, n_bytes);
    assert_int_equal(bytes ? mdb_put(txn, cache->dbi, &k, &v, 0) : mdb_del(txn, cache->dbi, &k, NULL), 0);
    MUST(lt_cache_commit(cache, txn, &err));
}

static void flip_bit(lt_cache *cache, const char *key)
{
    lt_err err;
    MDB_txn *txn;
    MDB_val value;
    MUST(lt_cache_begin(cache, false, &txn, &err));
    MUST(lt_cache_get(cache, txn, lt_cache_val(key, strlen(key)), &value, &err));
    char *copy = malloc(value.mv_size);
    memcpy(copy, value.mv_data, value.mv_size);
    copy[value.mv_size - 5] ^= 16;
    lt_cache_abort(cache, txn);
    tamper(cache, key, copy, value.mv_size);
    free(copy);
}

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

/* Numbers that no clip has: one that would take gigabytes of timestamps, one that is none of 32 bits. */
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

/* ---- the tool ------------------------------------------------------------------------------------------ */

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
    RUN("ls %s/nowhere", f->folder);
    assert_int_equal(code, 1);
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
    lt_cache_summary s;
    lt_cache_clip clip;
    int64_t n;
    char path[600], source[5000];
    snprintf(path, sizeof path, "%s/x.safetensors", f->folder);
    for (size_t i = 0; i < LT_COUNT(refused); i++) {
        write_file(path, &(lt_metadata){refused[i].key, refused[i].value}, 1);
        assert_int_equal(lt_cache_import(f->cache, path, "", 24, &s, &n, &err), LT_E_FORMAT);
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
    MUST(lt_cache_import(f->cache, path, "", 24, &s, &n, &err));
    assert_int_equal(n, 1);
    MUST(lt_cache_get_clip(f->cache, s.clip, s.digest, &arena, &clip, &err));
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

/* The digest of an export stands for its numbers, and for no others. */
static void an_edited_export_is_another_clip(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_arena arena = {0};
    char arguments[2000], path[600];
    int code;
    lt_cache_clip clip = sample_clip("film"), got;
    lt_cache_summary s;
    int64_t n;
    clip.logvar = true, clip.numeric_class = "cpu/a/epoch-4/f32", clip.digest = "00ff";
    MUST(put_clip(f->cache, &clip, &err));
    snprintf(path, sizeof path, "%s/film.safetensors", f->folder);
    MUST(lt_cache_export(f->cache, "film", clip.digest, path, &err));
    assert_non_null(
        strstr(RUN("import %s %s", f->folder, path), "film/00ff, 19 frames: was there already\n"));
    assert_non_null(strstr(RUN("import %s/other %s", f->folder, path), "film/00ff, 19 frames\n"));
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
        MUST(lt_cache_import(f->cache, path, "", 24, &s, &n, &err));
        assert_int_equal(n, 3);
        assert_string_not_equal(s.digest, clip.digest);
        MUST(lt_cache_get_clip(f->cache, "film", s.digest, &arena, &got, &err));
        assert_string_equal(got.numeric_class, "imported");
        assert_string_equal(got.caption, clip.caption);
    }
    MUST(lt_cache_read(f->cache, "film", clip.digest, 8, same_chunk, &clip, &err));
    MUST(lt_cache_import(f->cache, path, "", 24, &s, &n, &err));
    assert_int_equal(n, 0);
    assert_int_equal(count_faults(f->cache), 0);
    lt_arena_finish(&arena);
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
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
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
        TEST(the_tool_tells),
        TEST(the_tool_goes_on_behind_damage),
        TEST(gc_takes_what_was_made_anew),
        TEST(rm_does_not_choose),
        TEST(an_export_is_the_whole_clip),
        TEST(an_import_is_what_stages_take),
        TEST(an_edited_export_is_another_clip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
