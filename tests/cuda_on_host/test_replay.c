/* test_replay.c - evaluations that are recorded (kernels/replay.h), through CUDA's plug-in: the bytes of those that are not, one launch in
 * place of many, and everything that makes a record stale. */
#include "kernels/replay.h"
#include "kernels/backend.h"
#include "tests/cuda_on_host/little.h"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CHUNKS = 5 };

static size_t workspace;
static unsigned char wanted[CHUNKS][LITTLE_RESULT_BYTES];

typedef struct job {
    little *net;
    lt_tensor input;
    int chunk, calls;
    bool downloads, noisy;
} job;

static void evaluate(lt_context *c, void *user, lt_tensor *results)
{
    job *j = user;
    j->calls++;
    results[0] = little_evaluate(c, j->net, j->input, j->chunk);
    if (j->noisy) {
        lt_tensor noise = lt_noise(c, 2, (int64_t[]){1, 8}, 1, 1, (uint64_t)j->chunk);
        lt_drop(c, &noise);
    }
    unsigned char ignored[LITTLE_RESULT_BYTES];
    if (j->downloads) lt_download(c, results[0], LT_BF16, ignored);
    if (j->downloads) lt_wait(c);
}

/* One chunk through lt_replay; its status. */
static lt_status run(lt_context *c, job *j, int chunk, unsigned char *result, lt_err *err)
{
    lt_tensor y = LT_NONE;
    j->chunk = chunk;
    j->input = little_upload(c, chunk);
    lt_replay(c, lt_replay_key(j->net, &j->input, 1), evaluate, j, &y, 1);
    lt_drop(c, &j->input);
    lt_download(c, y, LT_BF16, result);
    lt_drop(c, &y);
    return lt_context_status(c, err);
}

static void run_well(lt_context *c, job *j, int chunk)
{
    unsigned char result[LITTLE_RESULT_BYTES];
    lt_err err;
    if (run(c, j, chunk, result, &err) != LT_OK) fail_msg("chunk %d: %s", chunk, err.text);
    assert_memory_equal(result, wanted[chunk], sizeof(result));
    assert_int_equal(lt_workspace_in_use(c->workspace), 0);
}

static lt_context *open_context(little *net)
{
    lt_context *c;
    lt_err err;
    little_init(net);
    if (lt_context_create(&c, "cuda:0", LT_BF16, workspace + 4096, 1, &err) != LT_OK)
        fail_msg("%s", err.text);
    return c;
}

static void close_context(lt_context *c, little *net)
{
    little_finish(c, net);
    lt_context_destroy(c);
}

static void expect(const lt_context *c, int64_t evaluated, int64_t recorded, int64_t replayed)
{
    lt_replay_info info = lt_replay_get_info(c);
    if (info.n_evaluated != evaluated || info.n_recorded != recorded || info.n_replayed != replayed)
        fail_msg("%lld evaluated, %lld recorded, %lld replayed; wanted %lld, %lld, %lld; %s",
                 (long long)info.n_evaluated, (long long)info.n_recorded, (long long)info.n_replayed,
                 (long long)evaluated, (long long)recorded, (long long)replayed, info.note);
}

static void the_third_is_one_launch(void **state)
{
    little net;
    lt_context *c = open_context(&net);
    job j = {.net = &net};
    int64_t launches = fake_cuda_graph_launches(), work = fake_cuda_work(), first;
    run_well(c, &j, 0);
    expect(c, 1, 0, 0);
    first = fake_cuda_work() - work;
    assert_int_equal(fake_cuda_graph_launches(), launches);
    run_well(c, &j, 1);
    expect(c, 1, 1, 0);
    for (int i = 2; i < 12; i++) {
        double flops = c->flops;
        work = fake_cuda_work();
        run_well(c, &j, i % CHUNKS);
        expect(c, 1, 1, i - 1);
        assert_int_equal(fake_cuda_graph_launches(), launches + i);
        /* An upload and a download, of one piece each, their other halves, and the values of the pixels. */
        if (fake_cuda_work() - work != 5)
            fail_msg("%d pieces of work beside it", (int)(fake_cuda_work() - work));
        assert_true(c->flops > flops);
        if (i == 2) assert_true(c->flops / 3 == flops / 2);
    }
    assert_true(first > 25);
    assert_int_equal(j.calls, 12);
    close_context(c, &net);
}

static void other_addresses_are_noticed(void **state)
{
    little net;
    lt_context *c = open_context(&net);
    job j = {.net = &net};
    for (int i = 0; i < 3; i++) run_well(c, &j, i);
    expect(c, 1, 1, 1);
    /* The key is that of before; what the function takes lies elsewhere. */
    lt_tensor x = little_upload(c, 0), y = LT_NONE;
    lt_replay(c, lt_replay_key(&net, &x, 1), evaluate, &(job){.net = &net, .input = x}, &y, 1);
    expect(c, 1, 1, 2);
    lt_drop(c, &y);
    lt_tensor in_the_way = lt_new(c, LT_U8, 1, (int64_t[]){1000});
    unsigned char result[LITTLE_RESULT_BYTES];
    for (int i = 0; i < 3; i++) {
        job other = {.net = &net, .input = x};
        lt_replay(c, lt_replay_key(&net, &x, 1), evaluate, &other, &y, 1);
        lt_download(c, y, LT_BF16, result);
        lt_drop(c, &y);
        assert_int_equal(lt_context_status(c, NULL), LT_OK);
        assert_memory_equal(result, wanted[0], sizeof(result));
        assert_int_equal(other.calls, i == 0 ? 2 : 1);
    }
    expect(c, 2, 2, 3);
    lt_drop(c, &in_the_way);
    lt_drop(c, &x);
    close_context(c, &net);
}

static void weights_and_workspaces_that_go(void **state)
{
    little net;
    lt_err err;
    lt_context *c = open_context(&net);
    job j = {.net = &net};
    for (int i = 0; i < 3; i++) run_well(c, &j, i);
    little_finish(c, &net); /* and uploaded again, to another place */
    for (int i = 0; i < 3; i++) run_well(c, &j, i);
    expect(c, 2, 2, 2);
    assert_int_equal(lt_context_resize(c, workspace, &err), LT_OK);
    for (int i = 0; i < 3; i++) run_well(c, &j, i);
    expect(c, 1, 1, 1);
    close_context(c, &net);
}

static void what_cannot_be_recorded(void **state)
{
    little net;
    lt_context *c = open_context(&net);
    job downloads = {.net = &net, .downloads = true}, noisy = {.net = &net, .noisy = true};
    for (int i = 0; i < 4; i++) run_well(c, &downloads, i);
    expect(c, 4, 0, 0);
    assert_non_null(strstr(lt_replay_get_info(c).note, "the host waits in between"));
    assert_int_equal(downloads.calls, 4);
    close_context(c, &net);
    c = open_context(&net);
    for (int i = 0; i < 12; i++) run_well(c, &noisy, i % CHUNKS);
    assert_non_null(strstr(lt_replay_get_info(c).note, "change from call to call"));
    assert_int_equal(lt_replay_get_info(c).n_replayed, 0);
    noisy.calls = 0;
    for (int i = 0; i < 4; i++) run_well(c, &noisy, i);
    assert_int_equal(noisy.calls, 4);
    close_context(c, &net);
}

static void add_alone(lt_context *c, void *user, lt_tensor *results)
{
    job *j = user;
    results[0] = lt_add_scaled(c, j->input, j->input, 0.5);
}

/* Where the host brings nothing, there is nothing of the run before that a new one must wait for. */
static void nothing_is_brought(void **state)
{
    little net;
    lt_err err;
    lt_context *c = open_context(&net);
    job j = {.net = &net, .input = little_upload(c, 0)};
    int64_t waits = 0;
    for (int i = 0; i < 6; i++) {
        lt_tensor y = LT_NONE;
        if (i == 3) waits = fake_cuda_waits();
        lt_replay(c, lt_replay_key(&net, &j.input, 1), add_alone, &j, &y, 1);
        lt_drop(c, &y);
    }
    assert_int_equal(fake_cuda_waits(), waits);
    lt_drop(c, &j.input);
    assert_int_equal(lt_context_status(c, &err), LT_OK);
    expect(c, 1, 1, 4);
    close_context(c, &net);
}

/* What fails while it is recorded is told by its own name, and nothing that is asked for it spoils the recording. */
static void a_failure_keeps_its_name(void **state)
{
    little net;
    lt_context *c = open_context(&net);
    lt_weight w = {.tensor = net.weights[5].tensor}; /* 24 outputs of 8 inputs */
    lt_tensor x = lt_new(c, LT_BF16, 2, (int64_t[]){4, 8});
    lt_zero(c, x);
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "the execution failed" : "cudaErrorInvalidConfiguration";
        lt_tensor y = i ? lt_linear(c, x, &w, NULL, LT_ACT_NONE, LT_NONE) : lt_add_scaled(c, x, x, 1);
        lt_drop(c, &y);
        assert_int_equal(lt_context_status(c, NULL), LT_OK);
        void *record = NULL;
        assert_int_equal(c->backend->record(c, LT_RECORD_BEGIN, 0, &record), LT_OK);
        fake_cuda_fail(1, cudaErrorInvalidConfiguration);
        y = i ? lt_linear(c, x, &w, NULL, LT_ACT_NONE, LT_NONE) : lt_add_scaled(c, x, x, 1);
        assert_int_equal(c->err.status, LT_E_INTERNAL);
        if (!strstr(c->err.text, name)) fail_msg("'%s' does not say '%s'", c->err.text, name);
        c->err = (lt_err){0};
        lt_drop(c, &y);
        assert_int_equal(c->backend->record(c, LT_RECORD_END, 0, &record), LT_OK);
        c->backend->record(c, LT_RECORD_FREE, 0, &record);
    }
    lt_drop(c, &x);
    lt_weight_finish(c, &w);
    close_context(c, &net);
}

static void many_keys_take_turns(void **state)
{
    little net[20];
    lt_context *c = open_context(&net[0]);
    for (int i = 1; i < 20; i++) little_init(&net[i]);
    for (int turn = 0; turn < 4; turn++) {
        for (int i = 0; i < 20; i++) run_well(c, &(job){.net = &net[i]}, turn);
    }
    expect(c, 80, 0, 0); /* the oldest is forgotten each time */
    for (int turn = 0; turn < 4; turn++) {
        for (int i = 0; i < 16; i++) run_well(c, &(job){.net = &net[i]}, turn);
    }
    assert_true(lt_replay_get_info(c).n_replayed >= 16);
    for (int i = 1; i < 20; i++) little_finish(c, &net[i]);
    close_context(c, &net[0]);
}

/* Whatever fails on the way to a record, the results come, or the device is gone. */
static lt_status attempt(lt_err *err)
{
    little net;
    unsigned char result[LITTLE_RESULT_BYTES];
    lt_context *c;
    job j = {.net = &net};
    lt_status status = lt_context_create(&c, "cuda:0", LT_BF16, workspace, 1, err);
    if (status != LT_OK) return status;
    little_init(&net);
    for (int i = 0; i < 4 && status == LT_OK; i++) {
        status = run(c, &j, i, result, err);
        if (status == LT_OK) assert_memory_equal(result, wanted[i], sizeof(result));
    }
    assert_int_equal(lt_workspace_in_use(c->workspace), 0);
    close_context(c, &net);
    return status;
}

static void failures_on_the_way(void **state)
{
    lt_err err;
    assert_int_equal(attempt(&err), LT_OK); /* everything is open */
    int64_t objects = fake_cuda_objects(), descriptors = fake_library_objects();
    bool more = true;
    for (int64_t n = 1; more; n++) { /* the 2nd and the following belong to the record */
        fake_cuda_full(n);
        lt_status status = attempt(&err);
        more = !fake_cuda_planned();
        fake_cuda_full(0);
        if (status != LT_OK && status != LT_E_BUSY && status != LT_E_NO_MEMORY) fail_msg("%s", err.text);
        assert_int_equal(fake_cuda_objects(), objects);
        assert_int_equal(fake_library_objects(), descriptors);
    }
    more = true;
    for (int64_t n = 1; more; n++) {
        fake_library_fail(n);
        lt_status status = attempt(&err);
        more = !fake_library_planned();
        fake_library_fail(0);
        if (status != LT_OK && status != LT_E_NO_MEMORY) fail_msg("%s", err.text);
        assert_int_equal(fake_cuda_objects(), objects);
    }
    more = true;
    for (int64_t n = 1; more; n++) {
        if (n % 2)
            fake_cuda_fail(n, cudaErrorECCUncorrectable);
        else
            fake_cuda_fault(n, cudaErrorIllegalAddress);
        lt_status status = attempt(&err);
        more = !fake_cuda_planned();
        fake_cuda_fail(0, cudaSuccess);
        fake_cuda_fault(0, cudaSuccess);
        assert_int_equal(status, more ? LT_E_DEVICE_LOST : LT_OK);
        if (more) assert_int_equal(fake_cuda_objects(), 0);
        if (more) assert_int_equal(fake_library_objects(), 0);
    }
    more = true;
    for (int64_t n = 1; more; n++) {
        fake_library_lose(n, cudaErrorLaunchFailure);
        lt_status status = attempt(&err);
        more = !fake_library_planned();
        fake_library_lose(0, cudaSuccess);
        assert_int_equal(status, more ? LT_E_DEVICE_LOST : LT_OK);
        if (more) assert_int_equal(fake_cuda_objects(), 0);
    }
}

static void a_thousand_replays_leave_nothing(void **state)
{
    little net;
    lt_context *c = open_context(&net);
    job j = {.net = &net};
    int64_t objects = 0, descriptors = 0;
    size_t device = 0, pinned = 0, heap = 0;
    for (int i = 1; i <= 1000; i++) {
        run_well(c, &j, i % CHUNKS);
        if (i != 10) continue;
        objects = fake_cuda_objects();
        descriptors = fake_library_objects();
        device = fake_cuda_in_use();
        pinned = fake_cuda_pinned();
        heap = mallinfo2().uordblks;
    }
    expect(c, 1, 1, 998);
    assert_int_equal(fake_cuda_objects(), objects);
    assert_int_equal(fake_library_objects(), descriptors);
    assert_int_equal(fake_cuda_in_use(), device);
    assert_int_equal(fake_cuda_pinned(), pinned);
    if (mallinfo2().uordblks > heap + 4096) fail_msg("the heap grew from %zu bytes", heap);
    close_context(c, &net);
}

static void elsewhere_it_is_a_call(void **state)
{
    little net;
    lt_context *c;
    lt_err err;
    little_init(&net);
    assert_int_equal(lt_context_create(&c, "cpu", LT_BF16, 1 << 20, 1, &err), LT_OK);
    job j = {.net = &net};
    unsigned char results[2][LITTLE_RESULT_BYTES];
    for (int i = 0; i < 4; i++) assert_int_equal(run(c, &j, i % 2, results[i % 2], &err), LT_OK);
    assert_int_equal(j.calls, 4);
    assert_null(c->replay);
    void *record = NULL;
    assert_int_equal(c->backend->record(c, LT_RECORD_BEGIN, 0, &record), LT_E_UNSUPPORTED);
    lt_context_status(c, NULL);
    close_context(c, &net);
}

static int prepare(void **state)
{
    little net;
    lt_err err;
    workspace = little_workspace("cuda:0");
    lt_context *c = open_context(&net);
    for (int i = 0; i < CHUNKS; i++) {
        little_run(c, &net, i, wanted[i]);
        assert_int_equal(lt_context_status(c, &err), LT_OK);
        for (int k = 0; k < i; k++) assert_memory_not_equal(wanted[i], wanted[k], sizeof(wanted[i]));
    }
    close_context(c, &net);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_third_is_one_launch),
        cmocka_unit_test(other_addresses_are_noticed),
        cmocka_unit_test(weights_and_workspaces_that_go),
        cmocka_unit_test(what_cannot_be_recorded),
        cmocka_unit_test(nothing_is_brought),
        cmocka_unit_test(a_failure_keeps_its_name),
        cmocka_unit_test(many_keys_take_turns),
        cmocka_unit_test(failures_on_the_way),
        cmocka_unit_test(a_thousand_replays_leave_nothing),
        cmocka_unit_test(elsewhere_it_is_a_call),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
