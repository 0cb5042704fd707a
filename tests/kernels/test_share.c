/* Memory of a device between two processes: the reader is this one, the writer the same program, started with "write" and a device. */
#include "kernels/ops.h"
#include "kernels/share.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { N = 5000, OFFSET = 192 };

static const char *device;

static float value(int round, int i)
{
    return (float)(round * 100000 + i);
}

static lt_context *context(void)
{
    lt_context *c = NULL;
    lt_err err = {0};
    if (lt_context_create(&c, device, LT_F32, 1 << 18, 1, &err) != LT_OK) fprintf(stderr, "%s\n", err.text);
    return c;
}

/* ---- the writer -------------------------------------------------------------------------------------- */

/* What a round writes, without waiting for it. */
static void write_round(lt_context *c, lt_share *share, int round)
{
    float values[N];
    for (int i = 0; i < N; i++) values[i] = value(round, i);
    lt_tensor x = lt_upload(c, (lt_tensor){values, LT_F32, 1, {N}, 0}, LT_F32);
    lt_copy(c, x, lt_share_tensor(c, share, OFFSET, LT_F32, 1, (int64_t[]){N}));
    lt_drop(c, &x);
    lt_share_mark(c, share);
}

/* 'f' lets it finish what it has enqueued, 'n' enqueue the next round; it says so. */
static int writer(void)
{
    lt_context *c = context();
    lt_share *share;
    lt_share_handle handle;
    lt_err err;
    char byte;
    if (!c || lt_share_create(&share, c, OFFSET + N * sizeof(float), &handle, &err) != LT_OK) return 1;
    write_round(c, share, 0);
    if (write(1, &handle, sizeof(handle)) != (ssize_t)sizeof(handle)) return 1;
    for (int round = 1; read(0, &byte, 1) == 1;) {
        if (byte == 'n')
            write_round(c, share, round++);
        else if (lt_wait(c) != LT_OK)
            return 1;
        if (write(1, &byte, 1) != 1) return 1;
    }
    bool done = lt_wait(c) == LT_OK;
    lt_share_destroy(share);
    lt_context_destroy(c);
    return !done;
}

typedef struct process {
    pid_t pid;
    int in, out;
} process;

static process start(lt_share_handle *handle)
{
    int in[2], out[2];
    assert_false(pipe(in) || pipe(out));
    process p = {fork(), in[1], out[0]};
    if (p.pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        for (int fd = 3; fd < 64; fd++) close(fd);
        execl("/proc/self/exe", "test_share", "write", device, (char *)NULL);
        _exit(1);
    }
    close(in[0]);
    close(out[1]);
    assert_int_equal(read(p.out, handle, sizeof(*handle)), sizeof(*handle));
    assert_int_equal(handle->pid, p.pid);
    return p;
}

static void told(const process *p)
{
    char byte;
    assert_int_equal(read(p->out, &byte, 1), 1);
}

enum { LATER_MS = 200 };

/* Somebody else lets it finish, or kills it, a while from now. Returns who. */
static pid_t later(const process *p, bool killed)
{
    pid_t pid = fork();
    if (pid != 0) return pid;
    usleep(LATER_MS * 1000);
    _exit(killed ? kill(p->pid, SIGKILL) != 0 : write(p->in, "f", 1) != 1);
}

static void was_done(pid_t by)
{
    int status = -1;
    assert_int_equal(waitpid(by, &status, 0), by);
    assert_int_equal(status, 0);
}

static int end(process *p, bool killed)
{
    int status = -1;
    if (killed) kill(p->pid, SIGKILL);
    close(p->in);
    close(p->out);
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    return status;
}

/* ---- the reader -------------------------------------------------------------------------------------- */

static void ask(lt_context *c, lt_share *share, float *values)
{
    lt_share_await(c, share);
    lt_tensor there = lt_share_tensor(c, share, OFFSET, LT_F32, 1, (int64_t[]){N});
    lt_tensor x = lt_new(c, LT_F32, 1, (int64_t[]){N});
    lt_copy(c, there, x);
    lt_download(c, x, LT_F32, values);
    lt_drop(c, &x);
}

static void expect_round(const float *values, int round)
{
    for (int i = 0; i < N; i++)
        if (values[i] != value(round, i)) fail_msg("value %d of round %d is %g", i, round, (double)values[i]);
}

/* What is asked for before the writer has computed it comes all the same, as it was marked last, and meanwhile the reader sleeps. */
static void written_and_read(void **state)
{
    lt_share_handle handle;
    lt_err err = {0};
    lt_share *share;
    static float values[N];
    process p = start(&handle);
    lt_context *c = context();
    assert_int_equal(lt_share_open(&share, c, &handle, &err), LT_OK);
    for (int round = 0; round < 3; round++) {
        pid_t by = later(&p, false);
        clock_t busy = clock();
        ask(c, share, values);
        assert_int_equal(lt_wait(c), LT_OK);
        busy = clock() - busy;
        was_done(by);
        told(&p);
        expect_round(values, round);
        assert_int_equal(lt_share_check(share, &err), LT_OK);
        assert_true(busy < (clock_t)LATER_MS * CLOCKS_PER_SEC / 1000 / 2);
        assert_int_equal(write(p.in, "n", 1), 1);
        told(&p);
    }
    lt_share_destroy(share);
    lt_context_destroy(c);
    assert_int_equal(end(&p, false), 0);
}

static void the_writer_dies(void **state)
{
    lt_share_handle handle;
    lt_err err = {0};
    lt_share *share, *again = (void *)&err;
    process p = start(&handle);
    lt_context *c = context();
    assert_int_equal(lt_share_open(&share, c, &handle, &err), LT_OK);
    end(&p, true);
    assert_int_equal(lt_share_check(share, &err), LT_E_TRANSIENT);
    assert_non_null(strstr(err.text, "has ended"));
    assert_int_equal(lt_share_open(&again, c, &handle, &err), LT_E_TRANSIENT);
    assert_null(again);
    lt_share_destroy(share);
    handle.pid = (int32_t)getpid(); /* another process, which has no such memory */
    assert_int_equal(lt_share_open(&again, c, &handle, &err), LT_E_TRANSIENT);
    assert_non_null(strstr(err.text, "process"));
    lt_context_destroy(c);
}

/* What comes of a share whose writer is gone. */
static lt_status outcome(lt_context *c, const lt_share *share, lt_err *err)
{
    lt_status status = lt_context_status(c, err);
    return status ? status : lt_share_check(share, err);
}

/* Killed after it has told the reader, and before its device has done what it was asked for: before the reader asks, and while it waits. */
static void the_writer_dies_before_it_has_written(void **state)
{
    static float values[N];
    for (int i = 0; i < 2; i++) {
        bool waits = i == 1;
        lt_share_handle handle;
        lt_err err = {0};
        lt_share *share;
        process p = start(&handle);
        lt_context *c = context();
        assert_int_equal(lt_share_open(&share, c, &handle, &err), LT_OK);
        pid_t by = waits ? later(&p, true) : 0;
        if (!waits) end(&p, true);
        ask(c, share, values);
        if (waits) was_done(by);
        if (waits) end(&p, true);
        assert_int_equal(outcome(c, share, &err), LT_E_TRANSIENT);
        assert_non_null(strstr(err.text, "has ended"));
        lt_share_destroy(share);
        lt_context_destroy(c);
    }
}

/* It ends in good order while its memory is open here: that harms neither. */
static void the_writer_ends_first(void **state)
{
    lt_share_handle handle;
    lt_err err = {0};
    lt_share *share;
    process p = start(&handle);
    lt_context *c = context();
    assert_int_equal(lt_share_open(&share, c, &handle, &err), LT_OK);
    assert_int_equal(end(&p, false), 0);
    assert_int_equal(lt_share_check(share, &err), LT_E_TRANSIENT);
    lt_share_destroy(share);
    assert_int_equal(lt_wait(c), LT_OK);
    lt_context_destroy(c);
}

static void limits(void **state)
{
    lt_share_handle handle;
    lt_err err = {0};
    lt_share *share;
    lt_device_info info;
    lt_context *c = context();
    assert_int_equal(lt_device_probe(device, &info, &err), LT_OK);
    assert_true(*info.id);
    assert_int_equal(lt_share_create(&share, c, 1, &handle, &err), LT_OK);
    assert_int_equal(lt_share_check(share, &err), LT_OK);
    assert_non_null(
        lt_share_tensor(c, share, 64, LT_U8, 1, (int64_t[]){(int64_t)LT_SHARE_ALIGNMENT - 64}).data);
    assert_null(lt_share_tensor(c, share, 64, LT_U8, 1, (int64_t[]){(int64_t)LT_SHARE_ALIGNMENT - 63}).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    assert_null(lt_share_tensor(c, share, 65, LT_U8, 1, (int64_t[]){1}).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    assert_null(lt_share_tensor(c, share, 0, LT_F32, 2, (int64_t[]){INT64_MAX, 4}).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    lt_share_destroy(share);
    lt_share_destroy(NULL);
    lt_context_destroy(c);
}

static void the_hosts_memory_is_not_shared(void **state)
{
    lt_share_handle handle;
    lt_err err = {0};
    lt_share *share = (void *)&err;
    lt_device_info info;
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "ref" : "cpu";
        lt_context *c;
        assert_int_equal(lt_device_probe(name, &info, &err), LT_OK);
        assert_string_equal(info.id, "");
        assert_int_equal(lt_context_create(&c, name, LT_F32, 64, 1, &err), LT_OK);
        assert_int_equal(lt_share_create(&share, c, 64, &handle, &err), LT_E_UNSUPPORTED);
        assert_null(share);
        assert_int_equal(lt_share_open(&share, c, &handle, &err), LT_E_UNSUPPORTED);
        lt_context_destroy(c);
    }
}

int main(int argc, char **argv)
{
    device = argc > 1 ? argv[argc - 1] : "far";
    if (argc > 2 && strcmp(argv[1], "write") == 0) return writer();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_and_read),
        cmocka_unit_test(the_writer_dies),
        cmocka_unit_test(the_writer_dies_before_it_has_written),
        cmocka_unit_test(the_writer_ends_first),
        cmocka_unit_test(limits),
        cmocka_unit_test(the_hosts_memory_is_not_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
