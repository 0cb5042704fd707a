/* run.h - a run in progress: every replica of every stage, and what is known of it. Shared by launch, supervise,
 * messages, progress and report; nothing else holds state of a run. */
#ifndef LT_ORCHESTRATOR_RUN_H
#define LT_ORCHESTRATOR_RUN_H

#include <sys/resource.h>
#include <sys/types.h>

#include "orchestrator/manifest.h"
#include "proto/wire.h"
#include "stages/runtime/slab.h"

enum { LT_KEY_BYTES = 32 };

typedef enum {
    LT_REPLICA_DOWN,     /* waits to be started (again) */
    LT_REPLICA_STARTING, /* has its Boot */
    LT_REPLICA_READY,
    LT_REPLICA_ENDED, /* and will not be started again */
} lt_replica_state;

/* What one output port of a replica has for its consumers. */
typedef struct lt_outlet {
    int fd; /* of the slab; -1: payloads go inline */
    lt_slab slab;
    char *endpoint; /* owned; NULL: not bound now */
} lt_outlet;

typedef struct lt_replica {
    int stage, replica;
    lt_replica_state state;
    uint32_t incarnation;
    pid_t pid;              /* 0: not running */
    int control, report;    /* our ends of its standard input and output, -1 */
    unsigned char *pending; /* bytes of control messages it has not taken yet */
    size_t n_pending, pending_capacity;
    lt_reader reader;
    lt_outlet *outlets; /* by output port */
    uint8_t secret_key[LT_KEY_BYTES], public_key[LT_KEY_BYTES];
    const char *name, *log_path; /* "vae_encode.0" */
    char *numeric_class;         /* owned */

    /* Of this incarnation. */
    bool has_unit; /* `clip` and `unit` are the last it started */
    uint32_t clip;
    uint64_t unit;
    bool has_failed; /* said why: status and sentence */
    lt_status failed;
    char failure[1024];
    bool is_stuck;                                   /* we killed it for that */
    bool is_done, was_stopped;                       /* a sink that finished its clips, or what it was at */
    int64_t started_ns, heard_ns, moved_ns, made_ns; /* launch; last message; last progress; last unit */
    uint64_t units, moves, frames, frames_made, frames_total, cached, bytes_out, busy_ns;
    uint32_t queued, held;
    bool is_idle;
    int64_t log_start; /* bytes of its log that others wrote */

    /* Over all incarnations. */
    uint64_t most_frames, first_frames; /* of a sink: in its output, and when this run began */
    uint64_t clip_frames;               /* of a sink of a dataset: of clips that it made */
    uint32_t clips_behind;              /* of a sink of a dataset: through, or in need of nothing */
    uint64_t past_units, past_made, past_cached, past_bytes_out, past_busy_ns;
    double cpu_seconds;
    uint64_t memory_bytes, peak_anonymous, peak_shared, peak_memory; /* now, and the highest that was seen */
    int n_restarts;
    int n_kills, n_transients, n_backoff; /* since the last progress */
    int64_t restart_ns;                   /* when DOWN: not before */
} lt_replica;

/* How often a stage crashed on a unit. */
typedef struct lt_crash {
    int stage;
    bool has_unit;
    uint32_t clip;
    uint64_t unit;
    int count;
} lt_crash;

/* Speed of a stage, since its work in this run began. */
typedef struct lt_meter {
    uint64_t frames; /* that were there then */
    int64_t ns;      /* when that was; 0: not yet */
    double fps;
} lt_meter;

typedef enum { LT_OUTPUT_LINES, LT_OUTPUT_SCREEN, LT_OUTPUT_JSON } lt_output_mode;

typedef enum { LT_GOING, LT_FINISHED, LT_FAILED, LT_INTERRUPTED } lt_outcome;

enum { LT_MAX_CRASHES = 256, LT_MAX_ENDS = 64, LT_MAX_DOOMED = 256 };

/* A clip that a stage dies of. */
typedef struct lt_doomed {
    int stage;
    uint32_t clip;
    char reason[256];
} lt_doomed;

/* What has become of a clip of a dataset, sink by sink. */
typedef struct lt_clip_ends {
    uint64_t set,
        sinks; /* bits by stage: sinks that the clip comes to (0: free), and those through with it */
    uint32_t clip;
    bool is_written; /* all are, and the journal says so */
    bool failed, passed_over;
    uint64_t frames;
    char *reason, *digest, *result; /* owned; NULL: nobody gave one */
} lt_clip_ends;

typedef struct lt_run {
    const lt_graph *graph;
    const lt_run_plan *plan;
    const lt_run_folder *folder;
    const lt_manifest *manifest;
    lt_arena *arena;
    uint64_t id;
    char sockets[80]; /* folder of the ipc sockets; "": none */
    int sockets_lock;
    lt_replica *replicas;
    int n_replicas;
    lt_crash crashes[LT_MAX_CRASHES];
    int n_crashes;
    lt_outcome outcome;
    char why[1200];   /* LT_FAILED, or n_bad_ends: the sentence */
    int n_bad_ends;   /* stages that crashed, or left with an error, when all was done */
    int n_interrupts; /* Ctrl-C so far */
    bool is_stopping; /* every stage has been told to end */
    int64_t begun_ns, stop_ns, moved_ns, sampled_ns;
    uint64_t oom_kills; /* of this host, when last looked at */

    /* Clips of a dataset (clips.c). */
    uint64_t clips_done, clips_failed, clips_passed_over;
    int journal; /* descriptor, -1: none */
    int64_t journal_start;
    bool has_lost_journal;
    lt_clip_ends
        ends[LT_MAX_ENDS]; /* of the latest clips, those that are through too: a sink may tell twice */
    int n_ends;            /* so many were begun; the next takes the place of the oldest */
    lt_doomed doomed[LT_MAX_DOOMED];
    int n_doomed;

    lt_output_mode mode; /* progress.c's */
    int n_drawn;         /* lines on the screen */
    int64_t drawn_ns;
    lt_meter meters[LT_MAX_STAGES];
} lt_run;

/* The replica of a stage; n is below its number of replicas. */
lt_replica *lt_run_replica(const lt_run *run, int stage, int n);

/* "stage vae_encode", or with its number where there are several. In `text`. */
const char *lt_replica_title(const lt_run *run, const lt_replica *replica, char text[96]);

#endif
