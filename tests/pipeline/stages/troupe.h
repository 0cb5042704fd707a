/* troupe.h - a small orchestrator for tests: starts stages, tells them of each other, kills and restarts them. */
#ifndef LT_TESTS_TROUPE_H
#define LT_TESTS_TROUPE_H

#include "proto/wire.h"

enum { MAX_PARTS = 6, MAX_ACTORS = 16, MAX_OPTIONS = 12 };

typedef enum { SLOTS, INLINE, NETWORK } transport; /* shared memory; copied over ipc; encrypted over tcp */

/* One stage of the graph. */
typedef struct part {
    const char *kind;   /* stage-KIND in the folder of programs */
    int replicas, from; /* from: index of the producer, -1 for none */
    uint32_t in_flight, memo_units;
    const char *options[MAX_OPTIONS][2];
} part;

typedef struct actor {
    int part, replica, pid, in, out, slab_fd;
    uint32_t incarnation;
    lt_reader reader;
    char endpoint[128], public_key[41], secret_key[41];
    bool is_ready, is_done, was_killed;
    uint64_t started, units_done, frames_done;
    uint32_t n_started, n_progress;
} actor;

typedef struct troupe {
    const char *programs, *folder; /* of stage programs; of sockets, mode 0700 */
    transport transport;
    bool mixed;
    const char *(*detour)(const char *endpoint); /* where consumers are sent instead, or NULL */
    part parts[MAX_PARTS];
    int n_parts;

    actor actors[MAX_ACTORS];
    int n_actors;
    /* What happened. */
    int n_kills, exit_code,
        exit_signal; /* of the actor that ended by itself without being done; -1, 0: none did */
    int blamed;      /* that actor */
    lt_status failed;
    char text[1024];
    uint32_t n_outputs, n_failed_clips;
    char reason[512], entry[512]; /* of the last of them */
    bool stopped;
} troupe;

/* Start everyone. Aborts the test program on errors of its own. */
void troupe_start(troupe *troupe);

/* Act until every sink is done, someone fails, or `seconds` are over (false). Every so often, up to n_kills times, a
 * process chosen by `seed` is killed and, a little later, started again. */
bool troupe_act(troupe *troupe, double seconds, uint64_t seed, int n_kills, int every_ms);

/* Stop everyone; false when one does not end with 0 within 5 s. Slots that nobody holds are checked to be free. */
bool troupe_stop(troupe *troupe);

/* Take what was reported in the last few milliseconds. */
void troupe_listen(troupe *troupe);
void troupe_tell_stop(troupe *troupe, int part, bool gracefully);
void troupe_tell_give_up(troupe *troupe, uint32_t clip);
/* Say that the producer `about` has another incarnation and endpoint (NULL: its own). */
void troupe_tell_peer(troupe *troupe, const actor *about, actor *to, uint32_t incarnation,
                      const char *endpoint);
void troupe_kill(troupe *troupe, actor *actor);

#endif
