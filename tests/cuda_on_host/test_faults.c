/* test_faults.c - what CUDA's plug-in does when something does not work: no driver, an old one, no such device, a full one, one that is
 * taken away at any launch or copy, a library that fails at any call. Every one ends with the status that a stage's exit code
 * follows from and a sentence that names the device; nothing is leaked, and the next attempt has the bytes of the first. */
#include "kernels/ops.h"
#include "tests/cuda_on_host/little.h"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <cudnn.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static size_t workspace;
static unsigned char wanted[LITTLE_RESULT_BYTES];

/* ---- a device that cannot be opened ------------------------------------------------------------------- */

static void refused(const char *device, lt_status status, const char *part)
{
    lt_err err = {0};
    lt_device_info info = {.total_bytes = 7};
    lt_context *c = (void *)&info;
    assert_int_equal(lt_device_probe(device, &info, &err), status);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
    assert_int_equal(info.total_bytes, 0);
    err = (lt_err){0};
    assert_int_equal(lt_context_create(&c, device, LT_F32, 1024, 1, &err), status);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
    assert_null(c);
}

static void close_everything(void);

static void auto_is_cpu(const char *because)
{
    char name[32];
    lt_err why;
    lt_device_choose("auto", name, sizeof(name), &why);
    assert_string_equal(name, "cpu");
    if (!strstr(why.text, because)) fail_msg("'%s' does not say '%s'", why.text, because);
}

static void what_is_not_there(void **state)
{
    refused("cuda:1", LT_E_NOT_FOUND, "no device cuda:1: there is 1 here");
    fake_cuda_devices(4);
    refused("cuda:7", LT_E_NOT_FOUND, "there are 4 here");
    fake_cuda_devices(0);
    refused("cuda:0", LT_E_NOT_FOUND, "no device cuda:0");
    auto_is_cpu("no device cuda:0");
    fake_cuda_devices(1);
    fake_cuda_driver(0);
    refused("cuda:0", LT_E_NOT_FOUND, "there is no NVIDIA driver here");
    auto_is_cpu("there is no NVIDIA driver here");
    fake_cuda_driver(12020);
    auto_is_cpu("driver is too old");
    refused("cuda:0", LT_E_UNSUPPORTED, "driver is too old: it is of CUDA 12.2, this program of 13.0");
    fake_cuda_driver(CUDART_VERSION);
    fake_cuda_capability(7, 5);
    auto_is_cpu("compute capability 7.5");
    refused("cuda:0", LT_E_UNSUPPORTED, "compute capability 7.5: 8.0 is the least");
    fake_cuda_capability(9, 0);
    /* Kernels are compiled for one architecture: an older device, that would do otherwise, has none. */
    close_everything();
    fake_cuda_capability(8, 0);
    refused("cuda:0", LT_E_UNSUPPORTED, "8.0: this program has no kernels for it");
    fake_cuda_capability(9, 0);
    lt_device_info info;
    assert_int_equal(lt_device_probe("cuda:0", &info, NULL), LT_OK);
}

/* Others have it for themselves, which passes: a stage that ends for it is started again. */
static void what_others_have(void **state)
{
    lt_context *c;
    lt_err err;
    close_everything();
    fake_cuda_taken(true);
    refused("cuda:0", LT_E_BUSY, "cudaErrorDevicesUnavailable");
    assert_int_equal(lt_exit_code(LT_E_BUSY), LT_EXIT_TRANSIENT);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, 1024, 1, &err), LT_E_BUSY);
    assert_non_null(strstr(err.text, "wait until others are done with it"));
    fake_cuda_taken(false);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, 1024, 1, &err), LT_OK);
    lt_context_destroy(c);
}

/* cuDNN would have other engines, and other bytes, without its compiler. */
static void without_nvrtc(void **state)
{
    lt_context *c;
    lt_err err;
    close_everything();
    fake_nvrtc_is_there(false);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, 1024, 1, &err), LT_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "cuda:0 cannot be opened"));
    assert_non_null(strstr(err.text, "libnvrtc.so.13"));
    assert_null(c);
    assert_int_equal(fake_library_objects(), 0);
    fake_nvrtc_is_there(true);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, 1024, 1, &err), LT_OK);
    assert_non_null(strstr(c->numeric_class, "/nvrtc-13.0/"));
    lt_context_destroy(c);
}

/* ---- attempts ----------------------------------------------------------------------------------------- */

/* A whole life of a context: create, evaluations of other chunks, their results, destroy. */
static lt_status attempt(int n_chunks, lt_err *err)
{
    lt_context *c;
    little net;
    unsigned char result[LITTLE_RESULT_BYTES];
    *err = (lt_err){0};
    lt_status status = lt_context_create(&c, "cuda:0", LT_BF16, workspace, 1, err);
    if (status != LT_OK) return status;
    little_init(&net);
    for (int i = 0; i < n_chunks && status == LT_OK; i++) {
        little_run(c, &net, i, result);
        status = lt_context_status(c, err);
        if (status == LT_OK) assert_int_equal(memcmp(result, wanted, sizeof(wanted)) == 0, i == 0);
    }
    assert_int_equal(lt_workspace_in_use(c->workspace), 0);
    little_finish(c, &net);
    assert_int_equal(c->packed_bytes, 0);
    lt_context_destroy(c);
    return status;
}

/* A device that was lost is not kept: nothing is open after this. */
static void close_everything(void)
{
    lt_context *c;
    lt_err err;
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, 64, 1, &err), LT_OK);
    lt_tensor t = lt_new(c, LT_BF16, 1, (int64_t[]){4});
    fake_cuda_fail(1, cudaErrorUnknown);
    lt_zero(c, t);
    assert_int_equal(lt_context_status(c, &err), LT_E_DEVICE_LOST);
    lt_context_destroy(c);
    fake_cuda_fail(0, cudaSuccess);
    assert_int_equal(fake_cuda_objects(), 0);
    assert_int_equal(fake_cuda_in_use(), 0);
    assert_int_equal(fake_cuda_pinned(), 0);
    assert_int_equal(fake_library_objects(), 0);
}

static void too_little_memory(void **state)
{
    lt_context *c, *other;
    lt_err err;
    close_everything();
    fake_cuda_memory(3 << 20);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_F32, 4 << 20, 1, &err), LT_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "4.0 MiB on cuda:0, whose memory is 3.0 MiB"));
    assert_null(c);
    assert_int_equal(lt_context_create(&other, "cuda:0", LT_F32, 2 << 20, 1, &err), LT_OK);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_F32, 2 << 20, 1, &err), LT_E_BUSY);
    assert_non_null(strstr(err.text, "1.0 of them free"));
    assert_non_null(strstr(err.text, "others"));
    lt_context_destroy(other);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_F32, 2 << 20, 1, &err), LT_OK);
    lt_context_destroy(c);
    fake_cuda_memory(0);
}

typedef struct fault {
    const char *name;
    void (*plan)(int64_t n); /* the n-th fails; 0: none */
    int n_chunks;
    lt_status statuses[2]; /* one of these */
    const char *says;
} fault;

/* Every n, on a device that is opened for it, until an attempt succeeds because there are fewer calls; after every eighth another
 * attempt, on what the failed one left. */
static void sweep(const fault *f, int64_t least)
{
    lt_err err;
    int64_t n = 1;
    for (;; n++) {
        close_everything();
        f->plan(n);
        lt_status status = attempt(f->n_chunks, &err);
        bool came = !fake_cuda_planned() && !fake_library_planned();
        f->plan(0);
        if (status == LT_OK && came) fail_msg("%s %lld: nobody noticed", f->name, (long long)n);
        if (status == LT_OK) break;
        if (status != f->statuses[0] && status != f->statuses[1])
            fail_msg("%s %lld: %s: %s", f->name, (long long)n, lt_status_string(status), err.text);
        if (!strstr(err.text, "cuda:0") || !strstr(err.text, f->says))
            fail_msg("%s %lld: '%s' does not say '%s'", f->name, (long long)n, err.text, f->says);
        if (status == LT_E_DEVICE_LOST) assert_int_equal(fake_cuda_objects(), 0);
        if (n % 8 != 1) continue;
        status = attempt(1, &err);
        if (status != LT_OK) fail_msg("%s %lld: the next attempt: %s", f->name, (long long)n, err.text);
    }
    close_everything();
    if (n <= least) fail_msg("%s: only %lld calls", f->name, (long long)n);
}

static void full(int64_t n)
{
    fake_cuda_full(n);
}

static void library(int64_t n)
{
    fake_library_fail(n);
}

/* In a library, whose runtime is not ours. */
static void library_loses(int64_t n)
{
    fake_library_lose(n, n % 2 ? cudaErrorIllegalAddress : cudaErrorECCUncorrectable);
}

#define LOSS(how, error)                                                                                     \
    static void how##_##error(int64_t n)                                                                     \
    {                                                                                                        \
        fake_cuda_##how(n, n ? error : cudaSuccess);                                                         \
    }
LOSS(fail, cudaErrorContextIsDestroyed)
LOSS(fail, cudaErrorECCUncorrectable)
LOSS(fail, cudaErrorInvalidValue)
LOSS(fail, cudaErrorContained)
LOSS(fault, cudaErrorMpsClientTerminated)
LOSS(fault, cudaErrorExternalDevice)
LOSS(fault, cudaErrorIllegalAddress)
LOSS(fault, cudaErrorLaunchFailure)

static void every_allocation(void **state)
{
    /* Host memory that cannot be pinned never is there; device memory may be others'. */
    const fault f = {"allocation", full, 2, {LT_E_NO_MEMORY, LT_E_BUSY}, "memory"};
    sweep(&f, 20);
}

static void every_call_of_a_library(void **state)
{
    const fault full = {"library call", library, 1, {LT_E_NO_MEMORY, LT_E_BUSY}, "memory"};
    const fault lost = {"library's loss", library_loses, 1, {LT_E_DEVICE_LOST, LT_E_DEVICE_LOST}, "lost"};
    sweep(&full, 200);
    sweep(&lost, 200);
}

/* The nth of a few calls, for errors that are like those below. */
static void kinds_of_loss(void **state)
{
    static void (*const plans[])(int64_t) = {fail_cudaErrorContained, fault_cudaErrorMpsClientTerminated,
                                             fault_cudaErrorExternalDevice};
    lt_err err;
    for (size_t i = 0; i < LT_COUNT(plans); i++) {
        close_everything();
        plans[i](7);
        assert_int_equal(attempt(2, &err), LT_E_DEVICE_LOST);
        assert_non_null(strstr(err.text, "lost"));
        plans[i](0);
        assert_int_equal(fake_cuda_objects(), 0);
    }
    close_everything();
}

static void every_launch_and_copy(void **state)
{
    const fault faults[] = {
        {"device gone", fail_cudaErrorContextIsDestroyed, 2, {LT_E_DEVICE_LOST, LT_E_DEVICE_LOST}, "lost"},
        {"memory broken", fail_cudaErrorECCUncorrectable, 1, {LT_E_DEVICE_LOST, LT_E_DEVICE_LOST}, "lost"},
        {"illegal address", fault_cudaErrorIllegalAddress, 2, {LT_E_DEVICE_LOST, LT_E_DEVICE_LOST}, "lost"},
        {"launch failure", fault_cudaErrorLaunchFailure, 1, {LT_E_DEVICE_LOST, LT_E_DEVICE_LOST}, "lost"},
        {"invalid value", fail_cudaErrorInvalidValue, 2, {LT_E_INTERNAL, LT_E_INTERNAL}, ""},
    };
    for (size_t i = 0; i < LT_COUNT(faults); i++) sweep(&faults[i], 40);
}

/* A launch that fails while the device is busy: the next one, which is innocent, does not. */
static void an_error_is_told_once(void **state)
{
    lt_context *c;
    lt_err err;
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, 1 << 20, 1, &err), LT_OK);
    lt_tensor x = lt_new(c, LT_BF16, 1, (int64_t[]){64});
    lt_zero(c, x);
    fake_cuda_fail(1, cudaErrorInvalidConfiguration);
    lt_tensor y = lt_add_scaled(c, x, x, 1);
    assert_int_equal(c->err.status, LT_E_INTERNAL); /* and nobody has waited */
    assert_int_equal(lt_context_status(c, &err), LT_E_INTERNAL);
    assert_non_null(strstr(err.text, "cudaErrorInvalidConfiguration"));
    lt_drop(c, &y);
    y = lt_add_scaled(c, x, x, 1);
    if (lt_context_status(c, &err) != LT_OK) fail_msg("%s", err.text);
    lt_drop(c, &y);
    lt_drop(c, &x);
    lt_context_destroy(c);
}

/* A kernel's code is loaded when it is first started, for which there may be no memory; and others may have the device. */
static void a_launch_that_others_stop(void **state)
{
    const struct {
        cudaError_t error;
        size_t bytes; /* of device memory, beside what is in use */
        lt_status status;
        const char *says;
    } cases[] = {
        {cudaErrorMemoryAllocation, (size_t)1 << 30, LT_E_BUSY, "wait until they are done"},
        {cudaErrorMemoryAllocation, 0, LT_E_NO_MEMORY, "memory of cuda:0 is full"},
        {cudaErrorDevicesUnavailable, 0, LT_E_BUSY, "wait until they are done"},
        {cudaErrorLaunchFailure, 0, LT_E_DEVICE_LOST, "lost"},
    };
    lt_context *c;
    lt_err err;
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, 1 << 20, 1, &err), LT_OK);
    lt_tensor x = lt_new(c, LT_BF16, 1, (int64_t[]){64});
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        lt_zero(c, x);
        assert_int_equal(lt_context_status(c, &err), LT_OK);
        fake_cuda_memory(fake_cuda_in_use() + cases[i].bytes);
        fake_cuda_fail(1, cases[i].error);
        lt_tensor y = lt_add_scaled(c, x, x, 1);
        lt_status status = lt_context_status(c, &err);
        if (status != cases[i].status || !strstr(err.text, cases[i].says))
            fail_msg("case %zu: %s: %s", i, lt_status_string(status), err.text);
        lt_drop(c, &y);
    }
    lt_drop(c, &x);
    lt_context_destroy(c);
    fake_cuda_memory(0);
    fake_cuda_fail(0, cudaSuccess);
    close_everything();
}

/* Who waits sleeps: a stage that waits for its device has no use for a processor. */
static void waits_sleep(void **state)
{
    lt_err err;
    close_everything();
    int64_t waits = fake_cuda_waits(), spins = fake_cuda_spins();
    assert_int_equal(attempt(2, &err), LT_OK);
    assert_true(fake_cuda_waits() > waits + 2);
    assert_int_equal(fake_cuda_spins(), spins);
}

/* A device that is lost between two evaluations of a context, or before it is opened again. */
static void lost_for_good(void **state)
{
    lt_context *c;
    lt_err err;
    lt_device_info info;
    little net;
    unsigned char result[LITTLE_RESULT_BYTES];
    little_init(&net);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, workspace, 1, &err), LT_OK);
    fake_cuda_fault(1, cudaErrorIllegalAddress);
    for (int i = 0; i < 3; i++) { /* it stays lost */
        little_run(c, &net, 0, result);
        assert_int_equal(lt_context_status(c, &err), LT_E_DEVICE_LOST);
        assert_non_null(strstr(err.text, "another process may go on"));
    }
    assert_int_equal(lt_context_resize(c, workspace, &err), LT_E_DEVICE_LOST);
    little_finish(c, &net);
    lt_context_destroy(c);
    assert_int_equal(lt_device_probe("cuda:0", &info, &err), LT_E_DEVICE_LOST);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, workspace, 1, &err), LT_E_DEVICE_LOST);
    fake_cuda_fault(0, cudaSuccess);
}

static void weights_that_do_not_fit(void **state)
{
    lt_context *c;
    lt_err err;
    little net;
    unsigned char result[LITTLE_RESULT_BYTES];
    little_init(&net);
    assert_int_equal(attempt(1, &err), LT_OK); /* the rings are there, and stay with the idle device */
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, workspace, 1, &err), LT_OK);
    fake_cuda_memory(fake_cuda_in_use() + 300);
    little_run(c, &net, 0, result);
    lt_status status = lt_context_status(c, &err);
    if (!strstr(err.text, "weights of ") || !strstr(err.text, "cuda:0")) fail_msg("%s", err.text);
    assert_true(status == LT_E_BUSY || status == LT_E_NO_MEMORY);
    fake_cuda_memory(0);
    little_run(c, &net, 0, result); /* the context is still good */
    assert_int_equal(lt_context_status(c, &err), LT_OK);
    assert_memory_equal(result, wanted, sizeof(wanted));
    little_finish(c, &net);
    lt_context_destroy(c);
}

/* ---- a long run --------------------------------------------------------------------------------------- */

typedef struct holdings {
    int64_t objects, descriptors;
    size_t device, pinned, heap;
} holdings;

static holdings held(void)
{
    return (holdings){fake_cuda_objects(), fake_library_objects(), fake_cuda_in_use(), fake_cuda_pinned(),
                      mallinfo2().uordblks};
}

static void same(holdings a, holdings b)
{
    assert_int_equal(a.objects, b.objects);
    assert_int_equal(a.descriptors, b.descriptors);
    assert_int_equal(a.device, b.device);
    assert_int_equal(a.pinned, b.pinned);
    if (b.heap > a.heap + 4096) fail_msg("the heap grew from %zu to %zu bytes", a.heap, b.heap);
}

static void a_thousand_chunks_leave_nothing(void **state)
{
    lt_context *c;
    lt_err err;
    little net;
    holdings early = {0};
    unsigned char first[LITTLE_RESULT_BYTES], result[LITTLE_RESULT_BYTES];
    little_init(&net);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, workspace, 1, &err), LT_OK);
    for (int i = 1; i <= 1000; i++) {
        little_run(c, &net, i % 7, result);
        assert_int_equal(lt_context_status(c, &err), LT_OK);
        if (i == 1) memcpy(first, result, sizeof(first));
        if (i == 10) early = held();
    }
    same(early, held());
    little_run(c, &net, 1, result);
    assert_int_equal(lt_context_status(c, &err), LT_OK);
    assert_memory_equal(result, first, sizeof(first));
    little_finish(c, &net);
    lt_context_destroy(c);
}

static void a_hundred_contexts_leave_nothing(void **state)
{
    lt_err err;
    holdings early = {0};
    for (int i = 1; i <= 100; i++) {
        assert_int_equal(attempt(1, &err), LT_OK);
        if (i == 10) early = held();
    }
    same(early, held());
}

static int prepare(void **state)
{
    lt_context *c;
    lt_err err;
    little net;
    workspace = little_workspace("cuda:0");
    little_init(&net);
    assert_int_equal(lt_context_create(&c, "cuda:0", LT_BF16, workspace, 1, &err), LT_OK);
    little_run(c, &net, 0, wanted);
    assert_int_equal(lt_context_status(c, &err), LT_OK);
    little_finish(c, &net);
    lt_context_destroy(c);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_there),
        cmocka_unit_test(what_others_have),
        cmocka_unit_test(without_nvrtc),
        cmocka_unit_test(too_little_memory),
        cmocka_unit_test(every_allocation),
        cmocka_unit_test(every_call_of_a_library),
        cmocka_unit_test(kinds_of_loss),
        cmocka_unit_test(every_launch_and_copy),
        cmocka_unit_test(an_error_is_told_once),
        cmocka_unit_test(a_launch_that_others_stop),
        cmocka_unit_test(waits_sleep),
        cmocka_unit_test(lost_for_good),
        cmocka_unit_test(weights_that_do_not_fit),
        cmocka_unit_test(a_thousand_chunks_leave_nothing),
        cmocka_unit_test(a_hundred_contexts_leave_nothing),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
