/* slab.c - shared-memory slots with an owner each. */
#include "stages/runtime/slab.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct slab_header {
    char magic[8];
    uint64_t slot_bytes, first_bytes;
    uint32_t n_slots, reserved;
    _Alignas(64) _Atomic uint64_t states[];
} slab_header;

static const char magic[8] = "LTSLAB1";

static slab_header *header_of(const lt_slab *slab)
{
    return (slab_header *)slab->base;
}

static uint64_t word(lt_slab_holder holder)
{
    return (uint64_t)holder.owner << 32 | holder.incarnation;
}

uint32_t lt_slab_owner(const char *name, uint32_t replica)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *c = name; *c; c++) hash = (hash ^ (unsigned char)*c) * 16777619u;
    for (int shift = 0; shift < 32; shift += 8) hash = (hash ^ (replica >> shift & 255)) * 16777619u;
    return hash ? hash : 1;
}

/* Bytes before slot 0 and in all, of a slab of rounded slots. */
static bool layout(uint64_t slot_bytes, uint32_t n_slots, size_t *first, size_t *total)
{
    *first = lt_round_up(sizeof(slab_header) + (size_t)n_slots * sizeof(_Atomic uint64_t), LT_SLAB_ALIGNMENT);
    return lt_mul_size(slot_bytes, n_slots, total) && lt_add_size(*total, *first, total) &&
           *total <= INT64_MAX;
}

lt_status lt_slab_create(uint64_t slot_bytes, uint32_t n_slots, int *fd, lt_err *err)
{
    size_t first, total;
    if (!slot_bytes || slot_bytes > (uint64_t)1 << 48 || !n_slots || n_slots > LT_SLAB_SLOTS_MAX)
        return lt_fail(err, LT_E_INVALID, "a slab of %u slots of %llu bytes cannot be", n_slots,
                       (unsigned long long)slot_bytes);
    slot_bytes = lt_round_up(slot_bytes, LT_SLAB_ALIGNMENT);
    if (!layout(slot_bytes, n_slots, &first, &total))
        return lt_fail(err, LT_E_INVALID, "%u slots of %llu bytes are more than memory can address", n_slots,
                       (unsigned long long)slot_bytes);
    /* Reserving more would not fail: the kernel would kill processes to find it. */
    uint64_t available = lt_available_memory();
    if (available && total > available)
        return lt_fail(err, LT_E_NO_MEMORY,
                       "%zu bytes of shared memory (%u slots of %llu bytes) are more than this host has left",
                       total, n_slots, (unsigned long long)slot_bytes);
    int memory = memfd_create("longtake-slab", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory < 0) return lt_fail_errno(err, errno, "cannot create shared memory");
    slab_header header = {.slot_bytes = slot_bytes, .first_bytes = first, .n_slots = n_slots};
    memcpy(header.magic, magic, sizeof magic);
    if (ftruncate(memory, (off_t)total) || fallocate(memory, 0, 0, (off_t)total) ||
        pwrite(memory, &header, sizeof header, 0) != (ssize_t)sizeof header ||
        fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        lt_fail_errno(err, errno, "cannot reserve %zu bytes of shared memory (%u slots of %llu bytes)", total,
                      n_slots, (unsigned long long)slot_bytes);
        close(memory);
        return err ? err->status : LT_E_NO_MEMORY;
    }
    *fd = memory;
    return LT_OK;
}

lt_status lt_slab_map(lt_slab *slab, int fd, lt_err *err)
{
    struct stat stat;
    slab_header header;
    size_t first, total;
    if (fstat(fd, &stat)) return lt_fail_errno(err, errno, "descriptor %d of a slab", fd);
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
        return lt_fail(err, LT_E_FORMAT, "descriptor %d is not a sealed memory file", fd);
    if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header ||
        memcmp(header.magic, magic, sizeof magic) || !header.n_slots || header.n_slots > LT_SLAB_SLOTS_MAX ||
        !header.slot_bytes || header.slot_bytes % LT_SLAB_ALIGNMENT ||
        !layout(header.slot_bytes, header.n_slots, &first, &total) || first != header.first_bytes ||
        total != (size_t)stat.st_size)
        return lt_fail(err, LT_E_FORMAT, "descriptor %d is not a slab", fd);
    void *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return lt_fail_errno(err, errno, "cannot map a slab of %zu bytes", total);
    *slab = (lt_slab){.base = base,
                      .mapped_bytes = total,
                      .first_bytes = first,
                      .slot_bytes = header.slot_bytes,
                      .n_slots = header.n_slots,
                      .inode = stat.st_ino};
    return LT_OK;
}

void lt_slab_unmap(lt_slab *slab)
{
    if (slab && slab->base) munmap(slab->base, slab->mapped_bytes);
    if (slab) *slab = (lt_slab){0};
}

void *lt_slab_memory(const lt_slab *slab, uint32_t slot)
{
    return slab->base + slab->first_bytes + (size_t)slot * slab->slot_bytes;
}

static bool exchange(const lt_slab *slab, uint32_t slot, uint64_t from, uint64_t to)
{
    return slot < slab->n_slots && atomic_compare_exchange_strong(&header_of(slab)->states[slot], &from, to);
}

bool lt_slab_acquire(const lt_slab *slab, lt_slab_holder holder, uint32_t *slot)
{
    for (uint32_t s = 0; s < slab->n_slots; s++) {
        if (atomic_load_explicit(&header_of(slab)->states[s], memory_order_relaxed)) continue;
        if (!exchange(slab, s, 0, word(holder))) continue;
        *slot = s;
        return true;
    }
    return false;
}

bool lt_slab_give(const lt_slab *slab, uint32_t slot, lt_slab_holder from, lt_slab_holder to)
{
    return exchange(slab, slot, word(from), word(to));
}

bool lt_slab_release(const lt_slab *slab, uint32_t slot, lt_slab_holder holder)
{
    return exchange(slab, slot, word(holder), 0);
}

bool lt_slab_holds(const lt_slab *slab, uint32_t slot, lt_slab_holder holder)
{
    return slot < slab->n_slots && atomic_load(&header_of(slab)->states[slot]) == word(holder);
}

uint32_t lt_slab_reclaim(const lt_slab *slab, lt_slab_holder holder)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < slab->n_slots; s++) {
        uint64_t state = atomic_load(&header_of(slab)->states[s]);
        if (state >> 32 == holder.owner && (uint32_t)state <= holder.incarnation)
            n += exchange(slab, s, state, 0);
    }
    return n;
}

uint32_t lt_slab_n_held(const lt_slab *slab)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < slab->n_slots; s++) n += atomic_load(&header_of(slab)->states[s]) != 0;
    return n;
}
