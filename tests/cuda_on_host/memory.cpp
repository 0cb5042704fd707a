/* memory.cpp - the memory of the CUDA device on the host: a range of addresses of its own, given out once. */
#include "tests/cuda_on_host/fake.h"

#include <algorithm>
#include <map>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace
{

constexpr size_t page = 4096, range_bytes = (size_t)1 << 40;
constexpr unsigned char canary = 0xcb;

/* The memory ends with its last page, as nearly as its alignment allows; the rest of the first holds the canary. */
struct allocation {
    char *pages;
    size_t page_bytes, bytes;
    int fd;        /* of a memfd, where other processes may open it; else -1 */
    bool is_other; /* opened here: another process made it */
};

char *range, *next_page;
std::map<char *, allocation> live; /* by the address given out */
std::map<char *, size_t> pinned;
size_t in_use, limit = (size_t)64 << 30;
int reach;
struct piece {
    char *at;
    size_t bytes;
};
std::vector<piece> open_now; /* of what is within reach, those that were touched */
struct sigaction before;     /* what a fault does while nothing is within reach */

void protect(const piece &p, int how)
{
    if (mprotect(p.at, p.bytes, how) != 0) fake_die("mprotect of device memory failed");
}

/* Within reach, until nothing is. */
void open_up(const piece &p)
{
    protect(p, PROT_READ | PROT_WRITE);
    open_now.push_back(p);
}

/* The part of an allocation around an address: a workspace is large, a kernel's tensors are not. */
piece part_around(const allocation &a, char *at)
{
    constexpr size_t part_bytes = 64 * page;
    char *start = a.pages + (size_t)(at - a.pages) / part_bytes * part_bytes;
    return {start, std::min(part_bytes, (size_t)(a.pages + a.page_bytes - start))};
}

/* All of a network's weights would take long to open and close for every kernel: what is within reach is opened when it is touched.
 * Any other fault is what it was. */
void on_fault(int, siginfo_t *info, void *)
{
    auto at = live.upper_bound((char *)info->si_addr);
    /* The address may lie before the memory, in its first page. */
    for (int i = 0; i < 2; i++) {
        if (at != live.end()) {
            const allocation &a = at->second;
            if ((char *)info->si_addr >= a.pages && (char *)info->si_addr < a.pages + a.page_bytes) {
                open_up(part_around(a, (char *)info->si_addr));
                return;
            }
        }
        if (at == live.begin()) break;
        --at;
    }
    sigaction(SIGSEGV, &before, NULL);
}

void open_range()
{
    range = (char *)mmap(NULL, range_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) fake_die("no range of addresses for device memory");
    next_page = range + page;
}

void check_canary(char *memory, const allocation &a)
{
    for (char *p = a.pages; p < a.pages + a.page_bytes; p++) {
        if (p == memory) p += a.bytes;
        if (p < a.pages + a.page_bytes && *(unsigned char *)p != canary)
            fake_die("byte %td of an allocation of %zu was written", p - memory, a.bytes);
    }
}

} // namespace

void fake_reach_begin()
{
    if (reach++ > 0) return;
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &before);
}

void fake_reach_end()
{
    if (--reach > 0) return;
    sigaction(SIGSEGV, &before, NULL);
    for (const piece &p : open_now) protect(p, PROT_NONE);
    open_now.clear();
}

void fake_cuda_memory(size_t bytes)
{
    guard lock(fake_mutex);
    limit = bytes ? bytes : (size_t)64 << 30;
}

size_t fake_cuda_in_use(void)
{
    guard lock(fake_mutex);
    return in_use;
}

size_t fake_cuda_pinned(void)
{
    guard lock(fake_mutex);
    size_t bytes = 0;
    for (const auto &entry : pinned) bytes += entry.second;
    return bytes;
}

size_t fake_total_memory()
{
    return limit;
}

int64_t fake_n_allocations()
{
    return (int64_t)(live.size() + pinned.size());
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    guard lock(fake_mutex);
    if (fake_gone() != cudaSuccess) return fake_gone();
    *total = limit;
    *available = limit - std::min(in_use, limit);
    return cudaSuccess;
}

/* Addresses for so many pages; nobody else gets them again. */
static char *take_pages(size_t page_bytes)
{
    if (!range) open_range();
    if (page_bytes + page > (size_t)(range + range_bytes - next_page))
        fake_die("device addresses are used up");
    char *pages = next_page;
    next_page += page_bytes + page;
    return pages;
}

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    guard lock(fake_mutex);
    *pointer = NULL;
    if (fake_gone() != cudaSuccess) return fake_gone();
    if (fake_while_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (bytes == 0) return cudaSuccess;
    if (in_use > limit || bytes > limit - in_use || fake_is_full())
        return fake_error(cudaErrorMemoryAllocation);
    size_t aligned = (bytes + 255) / 256 * 256, page_bytes = (aligned + page - 1) / page * page;
    allocation a = {take_pages(page_bytes), page_bytes, bytes, -1, false};
    char *memory = a.pages + page_bytes - aligned;
    fake_reach_begin();
    live[memory] = a;
    /* What is large is left as it comes: nobody could have that much real memory. */
    if (bytes <= (size_t)256 << 20) memset(memory, 0xff, bytes);
    memset(a.pages, canary, (size_t)(memory - a.pages));
    memset(memory + bytes, canary, aligned - bytes);
    fake_reach_end();
    in_use += bytes;
    *pointer = memory;
    return cudaSuccess;
}

/* The addresses stay reserved: whoever uses them again dies. */
static void forget(const allocation &a)
{
    mmap(a.pages, a.page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (a.fd >= 0) close(a.fd);
}

cudaError_t cudaFree(void *pointer)
{
    guard lock(fake_mutex);
    if (!pointer) return cudaSuccess;
    if (fake_while_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    fake_drain_all();
    auto at = live.find((char *)pointer);
    if (at == live.end() || at->second.is_other) return fake_error(cudaErrorInvalidValue);
    if (at->second.fd >= 0 && fake_place_is_open(at->second.fd))
        fake_die("memory is freed that another process has open");
    fake_reach_begin();
    check_canary(at->first, at->second);
    fake_reach_end();
    in_use -= at->second.bytes;
    forget(at->second);
    live.erase(at);
    return fake_gone();
}

bool fake_is_device(const void *memory, size_t bytes)
{
    auto at = live.upper_bound((char *)memory);
    if (at == live.begin()) return false;
    --at;
    return (const char *)memory + bytes <= at->first + at->second.bytes;
}

/* ---- other processes ---------------------------------------------------------------------------------------- */

/* What lies there so far moves into a memfd. */
static bool make_shared(allocation &a)
{
    int fd = memfd_create("cuda-on-host", MFD_CLOEXEC);
    fake_reach_begin();
    open_up({a.pages, a.page_bytes}); /* the system does not ask for it */
    bool done = fd >= 0 && pwrite(fd, a.pages, a.page_bytes, 0) == (ssize_t)a.page_bytes &&
                mmap(a.pages, a.page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == a.pages;
    fake_reach_end();
    if (done)
        a.fd = fd;
    else if (fd >= 0)
        close(fd);
    return done;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *memory)
{
    guard lock(fake_mutex);
    static_assert(sizeof(fake_place) <= sizeof(*handle), "");
    auto at = live.find((char *)memory);
    if (at == live.end() || at->second.is_other) return fake_error(cudaErrorInvalidValue);
    if (at->second.fd < 0 && !make_shared(at->second)) return fake_error(cudaErrorMemoryAllocation);
    fake_place place = fake_place_of(at->second.fd);
    place.offset = (uint64_t)(at->first - at->second.pages);
    memset(handle, 0, sizeof(*handle));
    memcpy(handle, &place, sizeof(place));
    return cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void **memory, cudaIpcMemHandle_t handle, unsigned flags)
{
    guard lock(fake_mutex);
    fake_place place;
    memcpy(&place, &handle, sizeof(place));
    *memory = NULL;
    int fd = flags == cudaIpcMemLazyEnablePeerAccess ? fake_place_open(place) : -1;
    if (fd < 0) return fake_error(cudaErrorInvalidValue);
    allocation a = {take_pages(place.bytes), place.bytes, place.bytes - place.offset, fd, true};
    if (mmap(a.pages, a.page_bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, fd, 0) != a.pages)
        fake_die("memory of another process cannot be mapped");
    live[a.pages + place.offset] = a;
    *memory = a.pages + place.offset;
    return cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void *memory)
{
    guard lock(fake_mutex);
    fake_drain_all();
    auto at = live.find((char *)memory);
    if (at == live.end() || !at->second.is_other) return fake_error(cudaErrorInvalidValue);
    forget(at->second);
    live.erase(at);
    return cudaSuccess;
}

/* ---- pinned memory ---------------------------------------------------------------------------------------- */

bool fake_is_pinned(const void *memory, size_t bytes)
{
    auto at = pinned.upper_bound((char *)memory);
    if (at == pinned.begin()) return false;
    --at;
    return (const char *)memory + bytes <= at->first + at->second;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
    guard lock(fake_mutex);
    *pointer = NULL;
    if (fake_gone() != cudaSuccess) return fake_gone();
    if (fake_while_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (bytes == 0) return cudaSuccess;
    if (fake_is_full()) return fake_error(cudaErrorMemoryAllocation);
    *pointer = aligned_alloc(page, (bytes + page - 1) / page * page);
    if (!*pointer) return fake_error(cudaErrorMemoryAllocation);
    pinned[(char *)*pointer] = bytes;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    return cudaHostAlloc(pointer, bytes, 0);
}

static cudaError_t unpin(void *pointer)
{
    fake_drain_all();
    return pinned.erase((char *)pointer) ? cudaSuccess : fake_error(cudaErrorInvalidValue);
}

cudaError_t cudaFreeHost(void *pointer)
{
    guard lock(fake_mutex);
    if (!pointer) return cudaSuccess;
    if (fake_while_capturing() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    cudaError_t error = unpin(pointer);
    if (error == cudaSuccess) free(pointer);
    return error;
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned flags)
{
    guard lock(fake_mutex);
    if (fake_is_pinned(pointer, 1)) return fake_error(cudaErrorHostMemoryAlreadyRegistered);
    if (!pointer || !bytes) return fake_error(cudaErrorInvalidValue);
    pinned[(char *)pointer] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *pointer)
{
    guard lock(fake_mutex);
    return unpin(pointer);
}
