/* replay.h - an evaluation that is asked for again and again, as one thing that the device does by itself (CUDA graphs).
 *
 * A network of small operators costs a host more time to start than a GPU to compute. Where a backend can record (lt_backend.records), the
 * first call with a key evaluates as always, which packs weights; the second is recorded, and the record run; from the third on the function
 * is called with operators that only take their tensors from the workspace, and the record runs once. It reads and writes the same
 * addresses, since the workspace gives them out by one rule: that all operators have the addresses, shapes and numbers they had is checked
 * by a digest, before anything is run. Where they have not, the function is evaluated as always, and recorded anew at the next call.
 *
 * What the host brings in an evaluation (uploads, numbers of rows) is brought again each time. What cannot be in a record, and what changes
 * every time, makes a key be evaluated as always from then on: downloads and waiting, weights that are released, noise of another
 * frame. The results have the same bytes either way.
 *
 * Elsewhere (dry contexts, tapes, backends that do not record) lt_replay calls the function, and that is all. Threads: as a context. */
#ifndef LT_REPLAY_H
#define LT_REPLAY_H

#include "kernels/tensor.h"

/* Computes results[0 .. n-1], which the caller drops, with operators on the context; LT_NONE after an error. It may be called several times
 * for one result: all that it makes beside the results it drops, and host memory it only reads. */
typedef void lt_replay_fn(lt_context *context, void *user, lt_tensor *results);

/* results, all LT_NONE before, from evaluate; at most 8. key: what tells apart evaluations that are asked for in turns (lt_replay_key). The records of the
 * 16 keys that were used last are kept. Errors are kept in the context. */
void lt_replay(lt_context *context, uint64_t key, lt_replay_fn *evaluate, void *user, lt_tensor *results,
               int n_results);

/* A key of the network, and the addresses and shapes of the n inputs. */
uint64_t lt_replay_key(const void *network, const lt_tensor *inputs, int n);

typedef struct lt_replay_info {
    int64_t n_evaluated, n_recorded, n_replayed; /* calls of lt_replay, by how their results came */
    char note[200]; /* why a key is not recorded, the last such sentence; "" when there was none */
} lt_replay_info;

/* Of a context, since it was created. */
lt_replay_info lt_replay_get_info(const lt_context *context);

/* Free all records: their memory is about to go. For context.c. */
void lt_replay_forget(lt_context *context);

#endif
