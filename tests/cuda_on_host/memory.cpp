/* memory.cpp - the memory of the CUDA device on the host: a range of addresses of its own, given out once. */
#include "tests/cuda_on_host/fake.h"

#include <map>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace
{

constexpr size_t page = 4096, range_bytes = (size_t)1 << 40;
constexpr unsigned char canary = 0xcb;

/* The memory ends with its last page, as nearly as its alignment allows; the rest of the first holds the canary. */
struct allocation {
    char *pages;
    size_t page_bytes, bytes;
};

char *range, *next_page;
std::map<char *, allocation> live; /* by the address given out */
std::map<char *, size_t> pinned;
size_t in_use, limit = (size_t)64 << 30;
int reach;

void set_reach(bool on)
{
    for (const auto &entry : live) {
        const allocation &a = entry.second;
        if (mprotect(a.pages, a.page_bytes, on ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
            fake_die("mprotect of device memory failed");
    }
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
    if (reach++ == 0) set_reach(true);
}

void fake_reach_end()
{
    if (--reach == 0) set_reach(false);
}

void fake_cuda_memory(size_t bytes)
{
    std::lock_guard<std::recursive_mutex> lock(fake_mutex);
    limit = bytes ? bytes : (size_t)64 << 30;
}

size_t fake_cuda_in_use(void)
{
    std::lock_guard<std::recursive_mutex> lock(fake_mutex);
    return in_use;
}

size_t fake_cuda_pinned(void)
{
    std::lock_guard<std::recursive_mutex> lock(fake_mutex);
    size_t bytes = 0;
    for (const auto &entry : pinned) bytes += entry.second;
    return bytes;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    std::lock_guard<std::recursive_mutex> lock(fake_mutex);
    *total = limit;
    *available = limit - in_use;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    std::lock_guard<std::recursive_mutex> lock(fake_mutex);
    *pointer = NULL;
    if (bytes == 0) return cudaSuccess;
    if (bytes > limit - in_use) return fake_error(cudaErrorMemoryAllocation);
    if (!range) {
        range =
            (char *)mmap(NULL, range_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (range == MAP_FAILED) fake_die("no range of addresses for device memory");
        next_page = range + page;
    }
    size_t aligned = (bytes + 255) / 256 * 256, page_bytes = (aligned + page - 1) / page * page;
    if (page_bytes + page > (size_t)(range + range_bytes - next_page))
        fake_die("device addresses are used up");
    allocation a = {next_page, page_bytes, bytes};
    char *memory = a.pages + page_bytes - aligned;
    next_page += page_bytes + page;
    fake_reach_begin();
    live[memory] = a;
    if (mprotect(a.pages, page_bytes, PROT_READ | PROT_WRITE) != 0)
        fake_die("mprotect of device memory failed");
    /* What is large is left as it comes: nobody could have that much real memory. */
    if (bytes <= (size_t)256 << 20) memset(memory, 0xff, bytes);
    memset(a.pages, canary, (size_t)(memory - a.pages));
    memset(memory + bytes, canary, aligned - bytes);
    fake_reach_end();
    in_use += bytes;
    *pointer = memory;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer)
{
    std::lock_guard<std::recursive_mutex> lock(fake_mutex);
    if (!pointer) return cudaSuccess;
    fake_drain_all();
    auto at = live.find((char *)pointer);
    if (at == live.end()) return fake_error(cudaErrorInvalidValue);
    fake_reach_begin();
    check_canary(at->first, at->second);
    fake_reach_end();
    /* The addresses stay reserved: whoever uses them again dies. */
    madvise(at->second.pages, at->second.page_bytes, MADV_DONTNEED);
    in_use -= at->second.bytes;
    live.erase(at);
    return cudaSuccess;
}

bool fake_is_device(const void *memory, size_t bytes)
{
    auto at = live.upper_bound((char *)memory);
    if (at == live.begin()) return false;
    --at;
    return (const char *)memory + bytes <= at->first + at->second.bytes;
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
    std::lock_guard<std::recursive_mutex> lock(fake_mutex);
    *pointer = NULL;
    if (bytes == 0) return cudaSuccess;
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
    std::lock_guard<std::recursive_mutex> lock(fake_mutex);
    if (!pointer) return cudaSuccess;
    cudaError_t error = unpin(pointer);
    if (error == cudaSuccess) free(pointer);
    return error;
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned flags)
{
    std::lock_guard<std::recursive_mutex> lock(fake_mutex);
    if (fake_is_pinned(pointer, 1)) return fake_error(cudaErrorHostMemoryAlreadyRegistered);
    if (!pointer || !bytes) return fake_error(cudaErrorInvalidValue);
    pinned[(char *)pointer] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *pointer)
{
    std::lock_guard<std::recursive_mutex> lock(fake_mutex);
    return unpin(pointer);
}
