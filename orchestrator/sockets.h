/* sockets.h - the folder of a run's ipc sockets: private, short-lived, cleaned up after whoever left one. */
#ifndef LT_ORCHESTRATOR_SOCKETS_H
#define LT_ORCHESTRATOR_SOCKETS_H

#include "core/core.h"

/* Make a folder of mode 0700 below $XDG_RUNTIME_DIR, $TMPDIR or /tmp, the first whose name is short enough for a socket's, and remove those
 * that runs of this user which are no more left there. `path` gets its name, "" on failure, and *lock a descriptor with a lock on it, which
 * says that the run goes on: to whoever sees the folder, in a container where processes have other numbers, too. E_IO. */
lt_status lt_sockets_make(char *path, size_t room, int *lock, lt_err *err);

/* Remove the folder and the sockets in it; closes the lock. */
void lt_sockets_remove(const char *path, int lock);

#endif
