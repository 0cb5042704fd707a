/* share.h - memory of a device that two processes of one host have at once.
 *
 * One process makes a share and writes it; others open it by its handle, which is plain bytes that fit into a message. A share has
 * one mark. The writer sets it behind the work that it has asked for; a reader waits until the device has come there, or the writer has
 * ended. Who may write and who may read is not decided here: stages go by the slots of their slab (stages/runtime/slab.h).
 *
 * A process takes its shares with it when it ends, and readers are not told: what they read then is nothing. So a reader asks
 * lt_share_check after lt_wait, before it believes what came of it.
 *
 * A share outlives the contexts that it was made or used with, but not the process. Threads: as a context. */
#ifndef LT_SHARE_H
#define LT_SHARE_H

#include "kernels/tensor.h"

/* Which share it is, to other processes. `memory` and `mark` are the backend's. */
typedef struct lt_share_handle {
    int32_t pid; /* of the process that made it */
    uint64_t bytes;
    uint8_t memory[64], mark[64];
} lt_share_handle;

/* A share's size is a multiple of this: smaller allocations of CUDA lie in one block with others, which would be given away too. */
#define LT_SHARE_ALIGNMENT ((size_t)2 << 20)

typedef struct lt_share lt_share;

/* Of at least `bytes`, uninitialised, on the context's device. *handle tells others. E_UNSUPPORTED: this device's memory cannot be shared
 * (lt_device_info.id is empty); E_BUSY, E_NO_MEMORY, E_DEVICE_LOST. *share is NULL then. */
lt_status lt_share_create(lt_share **share, lt_context *context, size_t bytes, lt_share_handle *handle,
                          lt_err *err);

/* Open one of another process, on the same device. E_TRANSIENT: it cannot be opened, since its process has ended, or for another reason, which is
 * said; E_UNSUPPORTED, E_NO_MEMORY, E_DEVICE_LOST. *share is NULL then. */
lt_status lt_share_open(lt_share **share, lt_context *context, const lt_share_handle *handle, lt_err *err);

/* What was asked of it has been waited for. Of one that was made here others may still have the memory: it is the device's again when
 * this process has ended and all others have closed it. Takes NULL. */
void lt_share_destroy(lt_share *share);

/* A tensor in it from byte `offset` on, a view: never dropped. E_INVALID in the context and LT_NONE where it does not fit, or
 * offset is no multiple of 64. */
lt_tensor lt_share_tensor(lt_context *context, const lt_share *share, size_t offset, lt_dtype dtype, int rank,
                          const int64_t *shape);

/* The writer: what has been asked of the context so far is what readers shall find. A reader: what is asked of the context from now on
 * begins when the mark has been reached that was set last. lt_share_await may block until then, without using the processor. Errors go to
 * the context: E_TRANSIENT when the writer has ended, and the mark will perhaps never be reached. */
void lt_share_mark(lt_context *context, lt_share *share);
void lt_share_await(lt_context *context, lt_share *share);

/* LT_OK: the process that made it is still there, so that what was read before this call, and has been waited for, is what it wrote.
 * E_TRANSIENT with a sentence: it has ended. */
lt_status lt_share_check(const lt_share *share, lt_err *err);

#endif
