/* test_cache_faults.c - the cache when processes die, disks fill, and others were there before. */
#include "tests/unit/cache_sample.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

typedef struct fixture {
    char folder[512];
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    strcpy(f->folder, temporary_folder(NULL));
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    remove_folder(f->folder);
    free(f);
    return 0;
}

static lt_cache *open_cache(const char *folder, int64_t map_bytes)
{
    lt_err err;
    lt_cache *cache = NULL;
    if (lt_cache_open(&cache, folder, true, map_bytes, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return cache;
}

/* Run `body` in a child process. */
#define IN_CHILD(body)                                                                                       \
    ({                                                                                                       \
        fflush(NULL);                                                                                        \
        pid_t child_pid = fork();                                                                            \
        if (child_pid == 0) {                                                                                \
            body;                                                                                            \
            _exit(0);                                                                                        \
        }                                                                                                    \
        child_pid;                                                                                           \
    })

static int wait_for(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

/* ---- several processes --------------------------------------------------------------------------------- */

/* Put every chunk of a clip in an order of one's own; how many were new. */
static int put_shuffled(const char *folder, const lt_cache_clip *clip, int64_t step)
{
    lt_err err;
    lt_cache *cache = open_cache(folder, 0);
    int64_t n = lt_cache_n_chunks(clip);
    int n_added = 0;
    for (int64_t i = 0; i < n; i++) {
        bool added;
        if (put_chunk(cache, clip, i * step % n * clip->chunk, &added, &err)) abort();
        n_added += added;
    }
    lt_cache_close(cache);
    return n_added;
}

static void replicas_count_exactly(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_stat stat;
    lt_cache_clip clip = sample_clip("film");
    clip.n_frames = 101 * clip.chunk - 3;
    static const int64_t steps[] = {1, 7, 100};
    pid_t pids[3];
    int n_added = 0;
    for (int i = 0; i < 3; i++) pids[i] = IN_CHILD(_exit(put_shuffled(f->folder, &clip, steps[i])));
    for (int i = 0; i < 3; i++) {
        int status = wait_for(pids[i]);
        assert_true(WIFEXITED(status));
        n_added += WEXITSTATUS(status);
    }
    assert_int_equal(n_added, 101);
    lt_cache *cache = open_cache(f->folder, 0);
    MUST(lt_cache_get_stat(cache, &stat, &err));
    assert_int_equal(stat.chunks, 101);
    assert_int_equal(stat.complete, 1);
    assert_int_equal(stat.last_transaction, 102);
    assert_int_equal(count_faults(cache), 0);
    lt_cache_close(cache);
}

/* Write a value and stop in the middle of the transaction. */
static void die_in_a_transaction(const char *folder)
{
    lt_err err;
    MDB_txn *txn;
    lt_cache *cache = open_cache(folder, 0);
    static char bytes[1 << 20];
    MDB_val key = lt_cache_val("latent/half/00/000000000000", 27), value = {sizeof bytes, bytes};
    if (lt_cache_begin(cache, true, &txn, &err) || mdb_put(txn, cache->dbi, &key, &value, 0)) abort();
    raise(SIGKILL);
}

static void a_writer_killed_in_a_transaction_blocks_nobody(void **state)
{
    fixture *f = *state;
    lt_err err;
    bool there = true;
    lt_cache_clip clip = sample_clip("film");
    lt_cache *cache = open_cache(f->folder, 0);
    MUST(put_chunk(cache, &clip, 0, NULL, &err));
    int status = wait_for(IN_CHILD(die_in_a_transaction(f->folder)));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    alarm(20);
    MUST(lt_cache_has(cache, "half", "00", 0, &there, &err));
    assert_false(there);
    MUST(put_clip(cache, &clip, &err));
    alarm(0);
    assert_int_equal(count_faults(cache), 0);
    lt_cache_close(cache);
}

static void die_reading(const char *folder)
{
    lt_err err;
    MDB_txn *txn;
    if (lt_cache_begin(open_cache(folder, 0), false, &txn, &err)) abort();
    raise(SIGKILL);
}

static void dead_readers_leave_no_slots(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_stat stat;
    lt_cache_close(open_cache(f->folder, 0));
    /* The last process to close an environment clears its table of readers: one stays. */
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t stays = IN_CHILD({
        open_cache(f->folder, 0);
        if (write(ready[1], "x", 1) != 1) abort();
        pause();
    });
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    for (int i = 0; i < 5; i++) wait_for(IN_CHILD(die_reading(f->folder)));
    lt_cache *cache = open_cache(f->folder, 0);
    MUST(lt_cache_get_stat(cache, &stat, &err));
    assert_true(stat.readers <= 2);
    lt_cache_close(cache);
    kill(stays, SIGKILL);
    wait_for(stays);
    close(ready[0]);
    close(ready[1]);
}

/* A byte goes to `begun` when the first clip is in. */
static void put_forever(const char *folder, int begun)
{
    lt_err err;
    lt_cache *cache = open_cache(folder, 0);
    for (int i = 0;; i++) {
        char name[32];
        snprintf(name, sizeof name, "clip-%d-%d", (int)getpid(), i);
        lt_cache_clip clip = sample_clip(name);
        clip.height = 40, clip.width = 60;
        if (put_clip(cache, &clip, &err) || (!i && write(begun, "x", 1) != 1)) abort();
    }
}

static void kills_at_any_time_leave_whole_values(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_stat stat;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    srand(seed);
    int begun[2];
    char byte;
    assert_int_equal(pipe(begun), 0);
    for (int i = 0; i < 25; i++) {
        pid_t a = IN_CHILD(put_forever(f->folder, begun[1])), b = IN_CHILD(put_forever(f->folder, begun[1]));
        assert_int_equal(read(begun[0], &byte, 1),
                         1); /* on a slow machine, too, something is there to be killed */
        usleep(5000 + (unsigned)rand() % 30000);
        kill(a, SIGKILL);
        usleep((unsigned)rand() % 5000);
        kill(b, SIGKILL);
        wait_for(a);
        wait_for(b);
    }
    close(begun[0]);
    close(begun[1]);
    alarm(60);
    lt_cache *cache = open_cache(f->folder, 0);
    lt_cache_clip clip = sample_clip("after");
    MUST(put_clip(cache, &clip, &err));
    assert_int_equal(count_faults(cache), 0);
    MUST(lt_cache_get_stat(cache, &stat, &err));
    assert_true(stat.chunks > 25);
    lt_cache_close(cache);
    alarm(0);
}

/* Take the clip out in another process, which is killed when it has begun; whether that was in the middle. */
static bool kill_a_removal(const char *folder, lt_cache *cache, const lt_cache_clip *clip)
{
    lt_err err;
    lt_cache_summary s = {.state = LT_CACHE_COMPLETE};
    pid_t child = IN_CHILD({
        lt_cache *theirs = open_cache(folder, 0);
        if (lt_cache_remove(theirs, clip->clip, clip->digest, &err)) abort();
    });
    int64_t n = lt_cache_n_chunks(clip);
    while (lt_cache_look(cache, clip->clip, clip->digest, &s, &err) == LT_OK && s.chunks == n) {
    }
    kill(child, SIGKILL);
    wait_for(child);
    return lt_cache_look(cache, clip->clip, clip->digest, &s, &err) == LT_OK && s.state == LT_CACHE_PARTIAL;
}

/* What is left is a partial clip like any other: it can be made again, or taken out by the same command. */
static void a_killed_removal_leaves_a_partial_clip(void **state)
{
    lt_err err;
    lt_cache_stat stat;
    lt_arena arena = {0};
    lt_cache_clip clip = sample_clip("film"), got;
    char folder[512];
    bool there = true;
    int n_middle = 0;
    strcpy(folder, temporary_folder(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : NULL));
    clip.chunk = 1, clip.n_frames = 8000;
    lt_cache *cache = open_cache(folder, 0);
    for (int i = 0; i < 6 && n_middle < 2; i++) {
        MUST(put_clip(cache, &clip, &err));
        MUST(lt_cache_get_clip(cache, "film", clip.digest, &arena, &got, &err));
        MUST(lt_cache_get_stat(cache, &stat, &err));
        assert_int_equal(stat.chunks, 8000);
        assert_int_equal(stat.complete, 1);
        n_middle += kill_a_removal(folder, cache, &clip);
        assert_int_equal(lt_cache_get_clip(cache, "film", clip.digest, &arena, &got, &err), LT_E_NOT_FOUND);
        assert_int_equal(count_faults(cache), 0);
    }
    print_message("killed in the middle %d times\n", n_middle);
    assert_int_equal(n_middle, 2);
    MUST(lt_cache_remove(cache, "film", clip.digest, &err));
    MUST(lt_cache_has(cache, "film", clip.digest, 7999, &there, &err));
    assert_false(there);
    MUST(lt_cache_get_stat(cache, &stat, &err));
    assert_int_equal(stat.entries, 2);
    assert_int_equal(stat.clips + stat.chunks + stat.frames + stat.latent_bytes, 0);
    assert_int_equal(count_faults(cache), 0);
    lt_arena_finish(&arena);
    lt_cache_close(cache);
    remove_folder(folder);
}

static void growth_by_another_process_is_followed(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache_clip clip = sample_clip("film"), large = sample_clip("large");
    large.height = 128, large.width = 256, large.n_frames = 64;
    lt_cache *cache = open_cache(f->folder, 1 << 20);
    MUST(put_chunk(cache, &clip, 0, NULL, &err));
    pid_t child = IN_CHILD({
        lt_cache *theirs = open_cache(f->folder, 256 << 20);
        if (put_clip(theirs, &large, &err)) abort();
        lt_cache_close(theirs);
    });
    assert_int_equal(wait_for(child), 0);
    MUST(lt_cache_read(cache, "large", large.digest, 56, same_chunk, &large, &err));
    MUST(put_clip(cache, &clip, &err));
    assert_int_equal(count_faults(cache), 0);
    lt_cache_close(cache);
}

/* ---- no room ------------------------------------------------------------------------------------------- */

/* Put clips until one does not go in; how many chunks did. */
static int64_t fill(lt_cache *cache, lt_status *status, lt_err *err)
{
    int64_t n = 0;
    *status = LT_OK;
    for (int i = 0; i < 1000 && *status == LT_OK; i++) {
        char name[32];
        snprintf(name, sizeof name, "clip-%04d", i);
        lt_cache_clip clip = sample_clip(name);
        clip.height = 50, clip.width = 60;
        for (int64_t first = 0; first < clip.n_frames && *status == LT_OK; first += clip.chunk) {
            *status = put_chunk(cache, &clip, first, NULL, err);
            n += *status == LT_OK;
        }
    }
    return n;
}

static void expect_chunks(lt_cache *cache, int64_t n)
{
    lt_err err;
    lt_cache_stat stat;
    MUST(lt_cache_get_stat(cache, &stat, &err));
    assert_int_equal(stat.chunks, n);
    assert_int_equal(count_faults(cache), 0);
}

static void a_full_map_loses_nothing(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_status status;
    lt_cache *cache = open_cache(f->folder, 2 << 20);
    int64_t n = fill(cache, &status, &err);
    assert_int_equal(status, LT_E_NO_SPACE);
    assert_non_null(strstr(err.text, "2.0 MiB"));
    assert_true(n >= 5);
    expect_chunks(cache, n);
    fill(cache, &status, &err);
    assert_int_equal(status, LT_E_NO_SPACE);
    expect_chunks(cache, n);
    lt_cache_close(cache);
    cache = open_cache(f->folder, 4 << 20);
    assert_true(fill(cache, &status, &err) > n);
    assert_int_equal(status, LT_E_NO_SPACE);
    lt_cache_close(cache);
}

/* In a mount namespace of its own: a small file system at the test's folder. False without the right to do so. */
static bool mount_small(const char *folder)
{
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("tmpfs", folder, "tmpfs", 0, "size=2m") == 0;
}

enum { SKIPPED = 77 };

static void fill_a_disk(const char *folder)
{
    lt_err err;
    lt_status status;
    char path[600];
    if (!mount_small(folder)) _exit(SKIPPED);
    snprintf(path, sizeof path, "%s/filler", folder);
    FILE *filler = fopen(path, "w");
    for (int i = 0; i < 512 * 1024; i++) fputc(i, filler);
    fclose(filler);
    lt_cache *cache = open_cache(folder, 0);
    int64_t n = fill(cache, &status, &err), more;
    if (status != LT_E_NO_SPACE) fprintf(stderr, "not no space: %s\n", err.text), _exit(1);
    if (n < 3 || count_faults(cache) != 0) _exit(2);
    lt_cache_close(cache);
    unlink(path);
    cache = open_cache(folder, 0);
    more = fill(cache, &status, &err);
    if (status != LT_E_NO_SPACE || more <= n)
        fprintf(stderr, "%lld, then %lld\n", (long long)n, (long long)more), _exit(3);
    if (count_faults(cache) != 0) _exit(4);
}

static void change_nothing(const char *folder)
{
    lt_err err;
    lt_cache *cache;
    lt_cache_clip clip = sample_clip("film");
    bool there = false;
    if (!mount_small(folder)) _exit(SKIPPED);
    cache = open_cache(folder, 0);
    if (put_clip(cache, &clip, &err)) _exit(1);
    lt_cache_close(cache);
    if (mount(NULL, folder, NULL, MS_REMOUNT | MS_RDONLY, NULL)) _exit(2);
    if (lt_cache_open(&cache, folder, true, 0, &err) != LT_E_PERMISSION || !strstr(err.text, "read-only"))
        fprintf(stderr, "%s\n", err.text), _exit(3);
    if (lt_cache_open(&cache, folder, false, 0, &err)) fprintf(stderr, "%s\n", err.text), _exit(4);
    if (lt_cache_has(cache, "film", clip.digest, 8, &there, &err) || !there) _exit(5);
    lt_cache_close(cache);
}

static void expect_child(pid_t pid, const char *needs)
{
    int status = wait_for(pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
        print_message("skipped: %s: 1 case\n", needs);
        skip();
    }
    assert_int_equal(status, 0);
}

static void a_full_disk_loses_nothing(void **state)
{
    fixture *f = *state;
    expect_child(IN_CHILD(fill_a_disk(f->folder)), "no right to mount a small file system");
}

static void a_read_only_disk_can_be_read(void **state)
{
    fixture *f = *state;
    expect_child(IN_CHILD(change_nothing(f->folder)), "no right to mount a small file system");
}

static void open_as_nobody(const char *folder)
{
    lt_err err;
    lt_cache *cache;
    char path[600];
    if (geteuid() == 0 && (setgid(65534) || setuid(65534))) _exit(SKIPPED);
    if (lt_cache_open(&cache, folder, true, 0, &err) != LT_E_PERMISSION || !strstr(err.text, "permission"))
        fprintf(stderr, "%s\n", err.text), _exit(1);
    snprintf(path, sizeof path, "%s/new/cache", folder);
    if (lt_cache_open(&cache, path, true, 0, &err) != LT_E_PERMISSION)
        fprintf(stderr, "%s\n", err.text), _exit(2);
}

static void no_permission_is_said(void **state)
{
    fixture *f = *state;
    lt_cache_close(open_cache(f->folder, 0));
    assert_int_equal(chmod(f->folder, 0555), 0);
    char path[600];
    snprintf(path, sizeof path, "%s/data.mdb", f->folder);
    assert_int_equal(chmod(path, 0444), 0);
    expect_child(IN_CHILD(open_as_nobody(f->folder)), "cannot become another user");
    assert_int_equal(chmod(f->folder, 0755), 0);
}

/* ---- other environments -------------------------------------------------------------------------------- */

/* An environment with one key and value. */
static void make_environment(const char *folder, const char *key, const char *value)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_val k = lt_cache_val(key, strlen(key)), v = lt_cache_val(value, strlen(value));
    mdb_env_create(&env);
    assert_int_equal(mdb_env_open(env, folder, 0, 0666), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    assert_int_equal(mdb_put(txn, dbi, &k, &v, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static void another_version_is_refused(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache *cache;
    make_environment(f->folder, "longtake/format", "2");
    for (int writable = 0; writable < 2; writable++) {
        assert_int_equal(lt_cache_open(&cache, f->folder, writable, 0, &err), LT_E_MISMATCH);
        assert_non_null(strstr(err.text, "version 2"));
    }
}

static void what_is_no_cache_is_refused(void **state)
{
    fixture *f = *state;
    lt_err err;
    lt_cache *cache;
    char path[600];
    assert_int_equal(lt_cache_open(&cache, f->folder, false, 0, &err), LT_E_NOT_FOUND);
    make_environment(f->folder, "someone", "else's");
    assert_int_equal(lt_cache_open(&cache, f->folder, true, 0, &err), LT_E_FORMAT);
    assert_non_null(strstr(err.text, "not a cache"));
    snprintf(path, sizeof path, "%s/data.mdb", f->folder);
    FILE *file = fopen(path, "wb");
    for (int i = 0; i < 100000; i++) fputc(i * 7, file);
    fclose(file);
    assert_int_equal(lt_cache_open(&cache, f->folder, true, 0, &err), LT_E_FORMAT);
    assert_int_equal(lt_cache_open(&cache, path, true, 0, &err), LT_E_INVALID);
    snprintf(path, sizeof path, "%s/a/b/c", f->folder);
    assert_int_equal(lt_cache_open(&cache, path, false, 0, &err), LT_E_NOT_FOUND);
    MUST(lt_cache_open(&cache, path, true, 0, &err));
    lt_cache_close(cache);
}

/* ---- many clips ---------------------------------------------------------------------------------------- */

static void ten_thousand_clips_are_counted_at_once(void **state)
{
    lt_err err;
    lt_cache_stat stat;
    char folder[512];
    bool in_memory = access("/dev/shm", W_OK) == 0;
    strcpy(folder, temporary_folder(in_memory ? "/dev/shm" : NULL));
    lt_cache *cache = open_cache(folder, 0);
    for (int i = 0; i < 10000; i++) {
        char name[32];
        snprintf(name, sizeof name, "clip-%d", i);
        lt_cache_clip clip = sample_clip(name);
        clip.n_frames = clip.chunk = 1;
        MUST(put_clip(cache, &clip, &err));
    }
    int64_t start = lt_now_ns();
    MUST(lt_cache_get_stat(cache, &stat, &err));
    int64_t counted = lt_now_ns();
    lt_cache_summary summary = {0};
    int64_t n = 0;
    while (lt_cache_next_clip(cache, &summary, &err) == LT_OK) n++;
    int64_t listed = lt_now_ns();
    print_message("10,000 clips: stat %.3f ms, list %.1f ms\n", (double)(counted - start) / 1e6,
                  (double)(listed - counted) / 1e6);
    assert_int_equal(stat.complete, 10000);
    assert_int_equal(n, 10000);
    assert_true(counted - start < (listed - counted) / 20); /* it does not look at them */
    assert_int_equal(count_faults(cache), 0);
    lt_cache_close(cache);
    remove_folder(folder);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(replicas_count_exactly),
        TEST(a_writer_killed_in_a_transaction_blocks_nobody),
        TEST(dead_readers_leave_no_slots),
        TEST(kills_at_any_time_leave_whole_values),
        TEST(a_killed_removal_leaves_a_partial_clip),
        TEST(growth_by_another_process_is_followed),
        TEST(a_full_map_loses_nothing),
        TEST(a_full_disk_loses_nothing),
        TEST(a_read_only_disk_can_be_read),
        TEST(no_permission_is_said),
        TEST(another_version_is_refused),
        TEST(what_is_no_cache_is_refused),
        TEST(ten_thousand_clips_are_counted_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
