/* sockets.h - the folder of a run's ipc sockets: private, short-lived, cleaned up after whoever left one. */
#ifndef LT_ORCHESTRATOR_SOCKETS_H
#define LT_ORCHESTRATOR_SOCKETS_H

#include "core/core.h"

/* Make a folder of mode 0700 below $XDG_RUNTIME_DIR, $TMPDIR or /tmp, and remove those that dead runs of this user
 * left there. `path` gets its name. E_IO; E_INVALID: the name is too long for a socket's. */
lt_status lt_sockets_make(char *path, size_t room, lt_err *err);

/* Remove the folder and what is in it. */
void lt_sockets_remove(const char *path);

#endif
