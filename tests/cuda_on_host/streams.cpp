/* streams.cpp - streams, events, graphs and copies of the CUDA device on the host. */
#include "tests/cuda_on_host/fake.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <fcntl.h>
#include <map>
#include <memory>
#include <poll.h>
#include <set>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thread>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

std::recursive_mutex fake_mutex;

namespace
{
typedef std::chrono::steady_clock::time_point moment;

/* How often an event was recorded, and how far the device has come. */
struct event_counts {
    std::atomic<uint64_t> recorded{0}, reached{0};
};

struct event_state {
    event_counts own, *counts = &own; /* or those in memory that other processes open: */
    int fd = -1, maker = -1;          /* maker: pidfd of the other process that made it */
    bool sleeps = false, interprocess = false, is_other = false; /* is_other: made by another process */
    moment when;

    ~event_state()
    {
        if (counts != &own) munmap(counts, sizeof(*counts));
        if (fd >= 0) close(fd);
        if (maker >= 0) close(maker);
    }
};

struct task {
    std::function<void()> work;
    std::shared_ptr<event_state> event; /* NULL: work alone */
    uint64_t ticket;
    bool waits; /* for the event, instead of recording it */
};

std::vector<CUstream_st *> streams;
uint64_t random_state;
int64_t n_events;
/* Those with a handle, until they are destroyed. They stay reachable when nobody does that: no leak, for the process's end does it. */
std::set<CUevent_st *> &shared_events = *new std::set<CUevent_st *>;
std::map<const void *, int> allowed_shared;
int64_t n_work, n_graph_launches, n_graphs, n_waits, n_spins;

/* The capture that goes on; one at a time. */
struct {
    CUstream_st *stream; /* NULL: none */
    std::thread::id thread;
    std::vector<std::function<void()>> work;
    bool spoiled;
} capture;

} // namespace

struct CUstream_st {
    bool blocking;
    std::deque<task> queue;
};

struct CUgraph_st {
    std::vector<std::function<void()>> work;
};

struct CUgraphExec_st {
    std::vector<std::function<void()>> work;
};

struct CUevent_st {
    std::shared_ptr<event_state> state;
};

void fake_die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "cuda on host: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    abort();
}

void fake_cuda_seed(uint64_t seed)
{
    guard lock(fake_mutex);
    random_state = seed;
}

/* splitmix64 */
uint64_t fake_draw(uint64_t n)
{
    if (random_state == 0) return 0;
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    if (random_state == 0) random_state = 1;
    return (z ^ z >> 31) % n;
}

/* ---- what there is ------------------------------------------------------------------------------------------ */

/* Fails, as everything does in a capture that does not belong there. */
static cudaError_t spoil()
{
    capture.spoiled = true;
    return fake_error(cudaErrorStreamCaptureUnsupported);
}

cudaError_t fake_while_capturing()
{
    return capture.stream && capture.thread == std::this_thread::get_id() ? spoil() : cudaSuccess;
}

int64_t fake_cuda_objects(void)
{
    guard lock(fake_mutex);
    return fake_n_allocations() + (int64_t)streams.size() + n_events + n_graphs;
}

int64_t fake_cuda_work(void)
{
    guard lock(fake_mutex);
    return n_work - n_graph_launches;
}

int64_t fake_cuda_graph_launches(void)
{
    guard lock(fake_mutex);
    return n_graph_launches;
}

/* ---- queues ------------------------------------------------------------------------------------------------- */

static bool can_run(const CUstream_st *s)
{
    if (s->queue.empty()) return false;
    const task &t = s->queue.front();
    return !t.waits || t.event->counts->reached >= t.ticket;
}

/* Is the process gone that made it? */
static bool has_ended(const event_state &other)
{
    pollfd maker = {other.maker, POLLIN, 0};
    return poll(&maker, 1, 0) > 0;
}

static void run_one(CUstream_st *s)
{
    task t = std::move(s->queue.front());
    s->queue.pop_front();
    if (t.work && !fake_is_gone()) t.work();
    if (!t.event || t.waits) return;
    t.event->counts->reached = std::max(t.event->counts->reached.load(), t.ticket);
    t.event->when = std::chrono::steady_clock::now();
}

/* Every stream waits: until another process's event has been reached that one of them waits for. False: none does, or ten seconds have passed.
 * What a process has not reached when it ends is never reached. */
static bool wait_for_others()
{
    moment end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    bool any = true;
    while (any && std::chrono::steady_clock::now() < end) {
        any = false;
        for (CUstream_st *s : streams) {
            const event_state *other = s->queue.empty() ? nullptr : s->queue.front().event.get();
            if (other && !other->is_other) other = nullptr;
            bool ended = other && has_ended(*other); /* first: it may be reached meanwhile */
            if (can_run(s)) return true;
            if (ended) fake_die("a wait for an event of a process that has ended");
            any |= other != nullptr;
        }
        usleep(1000);
    }
    return false;
}

/* Run what is queued, of any stream, until it is done: whoever waits for one stream must not count on another. */
static void run_until(const std::function<bool()> &done)
{
    if (done()) return;
    fake_reach_begin();
    while (!done()) {
        std::vector<CUstream_st *> able;
        for (CUstream_st *s : streams) {
            if (can_run(s)) able.push_back(s);
        }
        if (!able.empty())
            run_one(able[fake_draw(able.size())]);
        else if (!wait_for_others())
            fake_die("a wait that nothing on any stream ends");
    }
    fake_reach_end();
}

void fake_drain_all()
{
    run_until([] {
        return std::all_of(streams.begin(), streams.end(), [](CUstream_st *s) { return s->queue.empty(); });
    });
}

/* The default stream waits for those that are not non-blocking, and its work is done at once. */
static cudaError_t enqueue(cudaStream_t stream, std::function<void()> work)
{
    if (fake_fault_comes()) work = fake_take_away;
    if (stream && stream == capture.stream) {
        capture.work.push_back(std::move(work));
        return cudaSuccess;
    }
    n_work++;
    if (!stream && fake_while_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (stream) {
        stream->queue.push_back({std::move(work), nullptr, 0, false});
        return cudaSuccess;
    }
    run_until([] {
        return std::all_of(streams.begin(), streams.end(),
                           [](CUstream_st *s) { return !s->blocking || s->queue.empty(); });
    });
    fake_reach_begin();
    work();
    fake_reach_end();
    return cudaSuccess;
}

cudaError_t fake_enqueue(cudaStream_t stream, std::function<void()> work)
{
    guard lock(fake_mutex);
    cudaError_t before = cudaPeekAtLastError(), error = fake_count_work();
    if (error == cudaSuccess) error = enqueue(stream, std::move(work));
    cudaGetLastError();
    fake_error(before);
    return error;
}

cudaError_t fake_cuda_enqueue(cudaStream_t stream, void (*work)(void *), void *argument)
{
    return fake_enqueue(stream, [=] { work(argument); });
}

cudaError_t fake_allow_shared(const void *kernel, int bytes)
{
    guard lock(fake_mutex);
    if (bytes > 227 << 10) return fake_error(cudaErrorInvalidValue);
    allowed_shared[kernel] = bytes;
    return cudaSuccess;
}

cudaError_t fake_launch(const void *kernel, std::function<void()> thread, dim3 grid, dim3 block,
                        size_t shared_bytes, cudaStream_t stream)
{
    guard lock(fake_mutex);
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    int allowed = std::max(48 << 10, allowed_shared.count(kernel) ? allowed_shared[kernel] : 0);
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
        !threads || threads > 1024 || block.z > 64)
        return fake_error(cudaErrorInvalidConfiguration);
    if (shared_bytes > (size_t)allowed) return fake_error(cudaErrorInvalidValue);
    cudaError_t error = fake_count_work();
    if (error != cudaSuccess) return error;
    return enqueue(stream, [=] { fake_run_grid(thread, grid, block, shared_bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    guard lock(fake_mutex);
    if (fake_is_full()) return fake_error(cudaErrorMemoryAllocation);
    if (fake_is_gone()) return fake_gone();
    *stream = new CUstream_st{!(flags & cudaStreamNonBlocking), {}};
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

int64_t fake_cuda_waits(void)
{
    guard lock(fake_mutex);
    return n_waits;
}

int64_t fake_cuda_spins(void)
{
    guard lock(fake_mutex);
    return n_spins;
}

static cudaError_t wait_for(cudaStream_t stream)
{
    if (fake_while_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (!stream) {
        fake_drain_all();
    } else {
        run_until([=] { return stream->queue.empty(); });
    }
    return fake_gone();
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    guard lock(fake_mutex);
    auto at = std::find(streams.begin(), streams.end(), stream);
    if (!stream || at == streams.end()) return fake_error(cudaErrorInvalidResourceHandle);
    wait_for(stream);
    streams.erase(at);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    guard lock(fake_mutex);
    bool pending = stream && !stream->queue.empty();
    n_waits += pending;
    n_spins += pending && !fake_waits_sleep();
    return wait_for(stream);
}

cudaError_t cudaDeviceSynchronize(void)
{
    guard lock(fake_mutex);
    return wait_for(NULL);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    guard lock(fake_mutex);
    if (fake_is_gone()) return fake_gone();
    if (fake_while_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    return !stream || stream->queue.empty() ? cudaSuccess : fake_error(cudaErrorNotReady);
}

/* ---- events ------------------------------------------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    guard lock(fake_mutex);
    bool interprocess = flags & cudaEventInterprocess;
    if (interprocess && !(flags & cudaEventDisableTiming)) return fake_error(cudaErrorInvalidValue);
    if (fake_is_full()) return fake_error(cudaErrorMemoryAllocation);
    if (fake_is_gone()) return fake_gone();
    *event = new CUevent_st{std::make_shared<event_state>()};
    (*event)->state->interprocess = interprocess;
    (*event)->state->sleeps = flags & cudaEventBlockingSync;
    n_events++;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    guard lock(fake_mutex);
    if (!event) return fake_error(cudaErrorInvalidResourceHandle);
    if (shared_events.erase(event) && fake_place_is_open(event->state->fd))
        fake_die("an event is destroyed that another process has open");
    delete event;
    n_events--;
    return cudaSuccess;
}

/* The one stream that the default stream still has to wait for; NULL: none, or several. */
static cudaStream_t awaited_by_default()
{
    auto is = [](const CUstream_st *s) { return s->blocking && !s->queue.empty(); };
    auto at = std::find_if(streams.begin(), streams.end(), is);
    return std::count_if(streams.begin(), streams.end(), is) == 1 ? *at : NULL;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    guard lock(fake_mutex);
    if (fake_is_gone()) return fake_gone();
    if (!stream) stream = awaited_by_default(); /* behind that work, which need not be done at once */
    if (stream == capture.stream && fake_while_capturing() != cudaSuccess)
        return cudaErrorStreamCaptureUnsupported;
    uint64_t ticket = ++event->state->counts->recorded;
    if (stream) {
        stream->queue.push_back({nullptr, event->state, ticket, false});
        return cudaSuccess;
    }
    auto state = event->state;
    return enqueue(NULL, [=] {
        state->counts->reached = ticket;
        state->when = std::chrono::steady_clock::now();
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    guard lock(fake_mutex);
    if (stream == capture.stream && fake_while_capturing() != cudaSuccess)
        return cudaErrorStreamCaptureUnsupported;
    auto state = event->state;
    uint64_t ticket = state->counts->recorded;
    if (!stream) {
        run_until([=] { return state->counts->reached >= ticket; });
    } else if (ticket) {
        stream->queue.push_back({nullptr, state, ticket, true});
    }
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    guard lock(fake_mutex);
    if (fake_while_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    auto state = event->state;
    uint64_t ticket = state->counts->recorded;
    bool pending = state->counts->reached < ticket;
    n_waits += pending;
    n_spins += pending && !state->sleeps;
    run_until([=] { return state->counts->reached >= ticket; });
    return fake_gone();
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    guard lock(fake_mutex);
    if (fake_is_gone()) return fake_gone();
    return event->state->counts->reached >= event->state->counts->recorded ? cudaSuccess
                                                                           : fake_error(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    guard lock(fake_mutex);
    if (!start->state->counts->reached || !end->state->counts->reached) return fake_error(cudaErrorNotReady);
    *milliseconds = std::chrono::duration<float, std::milli>(end->state->when - start->state->when).count();
    return cudaSuccess;
}

/* ---- other processes ---------------------------------------------------------------------------------------- */

fake_place fake_place_of(int fd)
{
    struct stat stat;
    if (fstat(fd, &stat) != 0) fake_die("a memfd is not open");
    return {getpid(), fd, stat.st_ino, (uint64_t)stat.st_size, 0};
}

int fake_place_open(const fake_place &place)
{
    char path[64];
    struct stat stat;
    if (place.pid == getpid()) return -1;
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", place.pid, place.fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return -1;
    if (fstat(fd, &stat) == 0 && stat.st_ino == place.inode && (uint64_t)stat.st_size == place.bytes &&
        flock(fd, LOCK_SH | LOCK_NB) == 0)
        return fd;
    close(fd);
    return -1;
}

/* A lock is the open file's: it goes with the process that opened it. */
bool fake_place_is_open(int fd)
{
    return flock(fd, LOCK_EX | LOCK_NB) != 0;
}

/* The counts are those in the memfd from now on. */
static bool share_counts(event_state &state, int fd)
{
    void *shared = mmap(NULL, sizeof(event_counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) return false;
    state.counts = (event_counts *)shared;
    state.fd = fd;
    return true;
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t *handle, cudaEvent_t event)
{
    guard lock(fake_mutex);
    event_state &state = *event->state;
    if (!state.interprocess || state.is_other) return fake_error(cudaErrorInvalidResourceHandle);
    if (state.fd < 0) {
        int fd = memfd_create("cuda-on-host-event", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, 4096) != 0 || !share_counts(state, fd))
            fake_die("no memory for an event");
        state.counts->recorded = state.own.recorded.load();
        state.counts->reached = state.own.reached.load();
    }
    shared_events.insert(event);
    fake_place place = fake_place_of(state.fd);
    memset(handle, 0, sizeof(*handle));
    memcpy(handle, &place, sizeof(place));
    return cudaSuccess;
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t *event, cudaIpcEventHandle_t handle)
{
    guard lock(fake_mutex);
    fake_place place;
    memcpy(&place, &handle, sizeof(place));
    *event = NULL;
    int fd = fake_place_open(place);
    if (fd < 0) return fake_error(cudaErrorInvalidResourceHandle);
    auto state = std::make_shared<event_state>();
    state->is_other = true;
    state->maker = (int)syscall(SYS_pidfd_open, place.pid, 0);
    if (!share_counts(*state, fd)) fake_die("no memory for an event");
    *event = new CUevent_st{state};
    n_events++;
    return cudaSuccess;
}

/* ---- graphs ------------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    guard lock(fake_mutex);
    if (fake_is_gone()) return fake_gone();
    if (!stream || capture.stream) return fake_error(cudaErrorStreamCaptureUnsupported);
    capture.stream = stream;
    capture.thread = std::this_thread::get_id();
    capture.work.clear();
    capture.spoiled = false;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    guard lock(fake_mutex);
    *graph = NULL;
    if (!stream || stream != capture.stream) return fake_error(cudaErrorInvalidValue);
    capture.stream = NULL;
    if (fake_is_gone()) return fake_gone();
    if (capture.spoiled) return fake_error(cudaErrorStreamCaptureInvalidated);
    *graph = new CUgraph_st{std::move(capture.work)};
    n_graphs++;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags)
{
    guard lock(fake_mutex);
    *executable = NULL;
    if (fake_is_gone()) return fake_gone();
    if (fake_is_full()) return fake_error(cudaErrorMemoryAllocation);
    *executable = new CUgraphExec_st{graph->work};
    n_graphs++;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    guard lock(fake_mutex);
    cudaError_t error = fake_count_work();
    if (error != cudaSuccess) return error;
    n_graph_launches++;
    return enqueue(stream, [work = executable->work] {
        for (size_t i = 0; i < work.size() && !fake_is_gone(); i++) work[i]();
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    guard lock(fake_mutex);
    if (!graph) return fake_error(cudaErrorInvalidValue);
    delete graph;
    n_graphs--;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    guard lock(fake_mutex);
    if (!executable) return fake_error(cudaErrorInvalidValue);
    delete executable;
    n_graphs--;
    return cudaSuccess;
}

/* ---- copies ------------------------------------------------------------------------------------------------- */

static bool sides_are_right(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault) return true;
    return fake_is_device(to, bytes) == to_device && fake_is_device(from, bytes) == from_device;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    guard lock(fake_mutex);
    if (bytes == 0) return cudaSuccess;
    if (!sides_are_right(to, from, bytes, kind)) return fake_error(cudaErrorInvalidValue);
    cudaError_t error = fake_count_work();
    if (error != cudaSuccess) return error;
    bool pageable = (!fake_is_device(from, bytes) && !fake_is_pinned(from, bytes)) ||
                    (!fake_is_device(to, bytes) && !fake_is_pinned(to, bytes));
    if (pageable && stream == capture.stream && fake_while_capturing() != cudaSuccess)
        return cudaErrorStreamCaptureUnsupported;
    if (!fake_is_device(from, bytes) && !fake_is_pinned(from, bytes)) {
        auto copy = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
        return enqueue(stream, [=] { memcpy(to, copy->data(), bytes); });
    }
    error = enqueue(stream, [=] { memmove(to, from, bytes); });
    if (stream && !fake_is_device(to, bytes) && !fake_is_pinned(to, bytes)) wait_for(stream);
    return error;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    return cudaMemcpyAsync(to, from, bytes, kind, NULL);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    guard lock(fake_mutex);
    if (bytes == 0) return cudaSuccess;
    if (!fake_is_device(to, bytes)) return fake_error(cudaErrorInvalidValue);
    cudaError_t error = fake_count_work();
    if (error != cudaSuccess) return error;
    return enqueue(stream, [=] { memset(to, value, bytes); });
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return cudaMemsetAsync(to, value, bytes, NULL);
}
