/* test_device.cpp - the CUDA device on the host finds what it is there to find: each bug is planted in a process of its own, which must
 * die, or in a kernel whose result must change with the order of its threads. */
#include <cuda_runtime.h>

#include <functional>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static int n_failed;

static void expect(bool what, const char *name)
{
    if (!what) printf("FAIL %s\n", name);
    n_failed += !what;
}

/* Does the code end its process by a signal? Its messages are not shown. */
static bool dies(std::function<void()> code)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        if (!freopen("/dev/null", "w", stderr)) _exit(0);
        code();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0; /* a sanitizer exits instead */
}

static int *device_ints(size_t n)
{
    void *p = NULL;
    if (cudaMalloc(&p, n * sizeof(int)) != cudaSuccess) abort();
    cudaMemset(p, 0, n * sizeof(int));
    return (int *)p;
}

static cudaError_t run(std::function<void()> kernel, unsigned blocks, unsigned threads, size_t shared = 0,
                       cudaStream_t stream = NULL)
{
    return fake_launch(NULL, kernel, blocks, threads, shared, stream);
}

/* A digest of 64 threads' numbers, each thread's neighbour read with or without a barrier. */
static unsigned neighbours(uint64_t seed, bool barrier)
{
    int *out = device_ints(64), result[64];
    fake_cuda_seed(seed);
    run(
        [=] {
            int *shared = (int *)fake_shared_memory(), i = (int)threadIdx.x;
            shared[i] = i;
            if (barrier) __syncthreads();
            out[i] = shared[(i + 1) % 64];
        },
        1, 64, 64 * sizeof(int));
    cudaMemcpy(result, out, sizeof(result), cudaMemcpyDeviceToHost);
    cudaFree(out);
    unsigned sum = 0;
    for (int v : result) sum = sum * 31 + (unsigned)v;
    return sum;
}

static void test_races()
{
    expect(neighbours(1, true) == neighbours(2, true), "a barrier makes the result the same");
    bool differs = false;
    for (uint64_t seed = 1; seed < 4; seed++)
        differs |= neighbours(seed, false) != neighbours(seed + 1, false);
    expect(differs, "a missing barrier shows");
    expect(dies([] {
               run(
                   [] {
                       if (threadIdx.x < 32)
                           __syncthreads();
                       else
                           fake_sync_threads("elsewhere", 1);
                   },
                   1, 64);
           }),
           "threads at different barriers");
    expect(dies([] {
               run(
                   [] {
                       if (threadIdx.x != 5) __syncwarp();
                   },
                   1, 32);
           }),
           "a lane that does not come");
    int *sums = device_ints(2);
    run(
        [=] {
            int v = (int)threadIdx.x % 32;
            for (int by = 16; by; by >>= 1) v += __shfl_xor_sync(0xffffffffu, v, by);
            if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = v;
        },
        1, 64);
    int result[2];
    cudaMemcpy(result, sums, sizeof(result), cudaMemcpyDeviceToHost);
    cudaFree(sums);
    expect(result[0] == 496 && result[1] == 496, "lanes exchange values");
}

static void test_memory()
{
    expect(dies([] { *device_ints(1) = 1; }), "the host writes device memory");
    expect(dies([] {
               int *p = device_ints(1024);
               run([=] { p[1024 + threadIdx.x] = 1; }, 1, 1);
           }),
           "a kernel writes behind an allocation");
    expect(dies([] {
               int *p = device_ints(3);
               run([=] { p[3] = 1; }, 1, 1);
               cudaFree(p);
           }),
           "a kernel writes into an allocation's rounding");
    expect(dies([] {
               int *p = device_ints(64);
               cudaFree(p);
               run([=] { p[0] = 1; }, 1, 1);
           }),
           "a kernel uses freed memory");
    expect(dies([] { run([] { ((int *)fake_shared_memory())[16] = 1; }, 1, 1, 64); }),
           "a kernel leaves its shared memory");
    void *p = NULL;
    fake_cuda_memory(1000);
    expect(cudaMalloc(&p, 2000) == cudaErrorMemoryAllocation && !p, "a full device");
    fake_cuda_memory(0);
    expect(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess,
           "errors are kept");
    expect(run([] {}, 1, 1025) == cudaErrorInvalidConfiguration, "a block that is too large");
    expect(run([] {}, 1, 1, 100 << 10) == cudaErrorInvalidValue, "shared memory that was not allowed");
}

static void test_streams()
{
    cudaStream_t a, b;
    cudaEvent_t event;
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaEventCreate(&event);
    int *from = device_ints(1), *to = device_ints(1), *host = NULL, result = 0;
    cudaMallocHost((void **)&host, sizeof(int));
    int seen = 0;
    for (uint64_t seed = 1; seed < 9; seed++) {
        fake_cuda_seed(seed);
        for (int with_event = 0; with_event < 2; with_event++) {
            cudaMemset(from, 0, sizeof(int));
            run([=] { *from = 7; }, 1, 1, 0, a);
            if (with_event) cudaEventRecord(event, a);
            if (with_event) cudaStreamWaitEvent(b, event, 0);
            run([=] { *to = *from; }, 1, 1, 0, b);
            cudaStreamSynchronize(b);
            cudaMemcpy(&result, to, sizeof(int), cudaMemcpyDeviceToHost);
            cudaStreamSynchronize(a);
            if (with_event) expect(result == 7, "an event orders streams");
            if (!with_event && result != 7) seen |= 1;
        }
    }
    expect(seen == 1, "a missing wait shows");
    *host = 1;
    cudaMemcpyAsync(from, host, sizeof(int), cudaMemcpyHostToDevice, a);
    *host = 2; /* too early: the copy has not read it */
    cudaStreamSynchronize(a);
    cudaMemcpy(&result, from, sizeof(int), cudaMemcpyDeviceToHost);
    expect(result == 2, "pinned memory that is changed too early shows");
    expect(cudaEventQuery(event) == cudaSuccess, "an event that was reached");
    fake_cuda_fail(1, cudaErrorUnknown);
    expect(run([] {}, 1, 1) == cudaErrorUnknown && cudaStreamSynchronize(a) == cudaErrorUnknown,
           "a lost device");
    fake_cuda_fail(0, cudaSuccess);
    cudaFree(from);
    cudaFree(to);
    cudaFreeHost(host);
    cudaEventDestroy(event);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
}

/* What one process shares. */
struct shared {
    int *memory;
    cudaEvent_t event;
    cudaIpcMemHandle_t memory_handle;
    cudaIpcEventHandle_t event_handle;
};

static shared share()
{
    shared s;
    s.memory = device_ints(1);
    if (cudaEventCreateWithFlags(&s.event, cudaEventInterprocess | cudaEventDisableTiming) != cudaSuccess ||
        cudaIpcGetMemHandle(&s.memory_handle, s.memory) != cudaSuccess ||
        cudaIpcGetEventHandle(&s.event_handle, s.event) != cudaSuccess)
        _exit(0); /* no death */
    return s;
}

/* Another process opens it, and closes it again or not, and then stays. */
static void open_elsewhere(const shared &s, bool closes)
{
    int ends[2];
    char byte;
    void *memory;
    cudaEvent_t event;
    if (pipe(ends) != 0) _exit(0);
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (cudaIpcOpenMemHandle(&memory, s.memory_handle, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess ||
            cudaIpcOpenEventHandle(&event, s.event_handle) != cudaSuccess)
            _exit(1);
        if (closes) cudaIpcCloseMemHandle(memory);
        if (closes) cudaEventDestroy(event);
        if (write(ends[1], "", 1) == 1) pause();
        _exit(0);
    }
    close(ends[1]);
    if (read(ends[0], &byte, 1) != 1) _exit(0);
    close(ends[0]);
}

/* Waits for an event that another process has recorded, and not reached when it ends. */
static void await_ended()
{
    int ends[2];
    cudaStream_t stream;
    cudaEvent_t event;
    cudaIpcEventHandle_t handle;
    if (pipe(ends) != 0) _exit(0);
    pid_t other = fork();
    if (other == 0) {
        shared s = share();
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        cudaEventRecord(s.event, stream);
        if (write(ends[1], &s.event_handle, sizeof(s.event_handle)) > 0) pause();
        _exit(1);
    }
    close(ends[1]);
    if (read(ends[0], &handle, sizeof(handle)) != (ssize_t)sizeof(handle) ||
        cudaIpcOpenEventHandle(&event, handle) != cudaSuccess)
        _exit(0);
    kill(other, SIGKILL);
    if (waitpid(other, NULL, 0) != other || cudaEventQuery(event) != cudaErrorNotReady) _exit(0);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamWaitEvent(stream, event, 0);
    cudaStreamSynchronize(stream);
}

static void test_processes()
{
    expect(dies([] {
               shared s = share();
               open_elsewhere(s, false);
               cudaFree(s.memory);
           }),
           "memory is freed that another process has open");
    expect(dies([] {
               shared s = share();
               open_elsewhere(s, false);
               cudaEventDestroy(s.event);
           }),
           "an event is destroyed that another process has open");
    expect(!dies([] {
        shared s = share();
        open_elsewhere(s, true);
        cudaFree(s.memory);
        cudaEventDestroy(s.event);
    }),
           "what another process has closed goes");
    expect(dies(await_ended), "a wait for an event of a process that has ended");
}

int main()
{
    test_races();
    test_memory();
    test_streams();
    test_processes();
    expect(fake_cuda_in_use() == 0 && fake_cuda_pinned() == 0, "all memory was given back");
    printf(n_failed ? "%d failures\n" : "ok\n", n_failed);
    return n_failed != 0;
}
