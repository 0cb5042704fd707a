/* slab.h - slots of shared memory that carry payloads between the processes of one host.
 *
 * A slab is one memfd: a header, one state word per slot, then the slots. The orchestrator creates it and lets the
 * producer's and the consumers' processes inherit it, so that it outlives each of them. A state word is 0 (free) or
 * names who holds the slot: (owner, incarnation). A slot's life:
 *
 *     free -> producer (lt_slab_acquire) -> consumer (lt_slab_give, before its message is sent) -> free
 *
 * Threads: every function but create, map and unmap may be called from any thread and process at once. */
#ifndef LT_SLAB_H
#define LT_SLAB_H

#include "core/core.h"

enum { LT_SLAB_SLOTS_MAX = 65536, LT_SLAB_ALIGNMENT = 4096 };

/* A slab mapped into this process. A zeroed one is unmapped. */
typedef struct lt_slab {
    unsigned char *base;
    size_t mapped_bytes, first_bytes; /* of the whole mapping; before slot 0 */
    uint64_t slot_bytes;              /* a multiple of LT_SLAB_ALIGNMENT */
    uint32_t n_slots;
    uint64_t inode; /* of the memfd: tells one slab from another */
} lt_slab;

/* Who holds a slot. */
typedef struct lt_slab_holder {
    uint32_t owner;       /* lt_slab_owner, never 0 */
    uint32_t incarnation; /* of that process, from 1 */
} lt_slab_holder;

/* Name of a holder: of a producer (name: its stage) or of a consumer (name: the edge). Never 0. */
uint32_t lt_slab_owner(const char *name, uint32_t replica);

/* Make a memfd of `n_slots` slots of at least `slot_bytes`, all free, its memory reserved, sealed against any change of
 * size. *fd is close-on-exec: the launcher clears that in the child it is for. E_INVALID: 0 slots or sizes that overflow;
 * E_NO_SPACE or E_NO_MEMORY: the host has no such memory; E_IO. */
lt_status lt_slab_create(uint64_t slot_bytes, uint32_t n_slots, int *fd, lt_err *err);

/* Map the slab behind `fd` (which stays the caller's and may be closed). E_FORMAT: not a slab, or not sealed. */
lt_status lt_slab_map(lt_slab *slab, int fd, lt_err *err);
void lt_slab_unmap(lt_slab *slab);

/* Memory of a slot; slot < n_slots. */
void *lt_slab_memory(const lt_slab *slab, uint32_t slot);

/* Take a free slot for `holder`. False when there is none. */
bool lt_slab_acquire(const lt_slab *slab, lt_slab_holder holder, uint32_t *slot);

/* Hand a slot from one holder to the next. False, changing nothing, when `from` does not hold it. */
bool lt_slab_give(const lt_slab *slab, uint32_t slot, lt_slab_holder from, lt_slab_holder to);

/* Free a slot. False, changing nothing, when `holder` does not hold it. */
bool lt_slab_release(const lt_slab *slab, uint32_t slot, lt_slab_holder holder);

bool lt_slab_holds(const lt_slab *slab, uint32_t slot, lt_slab_holder holder);

/* Free every slot held by `holder.owner` in its incarnations up to holder.incarnation: that process is dead. Returns how
 * many there were. */
uint32_t lt_slab_reclaim(const lt_slab *slab, lt_slab_holder holder);

/* Slots that are not free. */
uint32_t lt_slab_n_held(const lt_slab *slab);

#endif
