/* graph.h - a graph file as it was written: tables and values, nothing yet compared with what stages can do.
 *
 *     [graph]                        cache, run, transport, threads, memory
 *     [stage.NAME]                   kind or exec, from, replicas, threads, host, mixed; the rest is the stage's own
 *
 * Everything lives in the caller's arena and borrows from nothing else. */
#ifndef LT_ORCHESTRATOR_GRAPH_H
#define LT_ORCHESTRATOR_GRAPH_H

#include "orchestrator/describe.h"
#include "orchestrator/mistakes.h"

enum { LT_MAX_STAGES = 64, LT_MAX_REPLICAS = 256, LT_MAX_THREADS = 1024 };

/* An option of a stage, as given. */
typedef struct lt_given {
    const char *name;
    const char *text; /* as its option table reads it; paths are absolute once the graph is checked */
    lt_toml_type type;
    lt_where where, key_where;
} lt_given;

/* One entry of `from`. */
typedef struct lt_from {
    const char *input;           /* port it goes to, NULL: the one that fits */
    const char *producer, *port; /* "read.frames"; port NULL: its only output */
    lt_where where, input_where;
} lt_from;

typedef struct lt_graph_stage {
    const char *name;
    lt_where where;
    const char *kind;      /* NULL where exec is given */
    const char *exec;      /* program named by the user, as written */
    lt_where kind_where;   /* of the one that is given */
    int replicas, threads; /* threads 0: a share */
    lt_where replicas_where;
    bool mixed;
    lt_given *given;
    int n_given;
    lt_from *from;
    int n_from;
    const lt_described *described; /* set by the check */
    bool is_known;                 /* false: what is wrong with it has been said */
} lt_graph_stage;

/* Producer's output port feeds consumer's input port. */
typedef struct lt_edge {
    const char *name; /* "read.frames>vae_encode.frames" */
    int producer, output;
    int consumer, input;
    lt_where where;
} lt_edge;

typedef struct lt_graph {
    const char *file; /* as named */
    const char *base; /* absolute folder: where relative paths of the file start */
    const char *here; /* absolute folder: where relative paths of --set start */
    const char *cache;
    const char *run; /* the run is kept in <run>.longtake, instead of beside an output; NULL: not given */
    lt_where cache_where;
    const char *memory; /* default of the option `memory`, or NULL */
    lt_where memory_where;
    bool is_tcp;
    int threads; /* 0: all of this host */
    lt_graph_stage *stages;
    int n_stages;
    lt_edge *edges; /* by the check */
    int n_edges;
    int *order; /* stages, producers first; by the check */
} lt_graph;

/* Read and take apart `file` with `n_sets` overrides "stage.read.input=clip.mp4". What is wrong is added to
 * `mistakes` (its file and arena are set here) and what can be understood is still in *graph, so that the check can
 * go on. E_IO, E_NOT_FOUND: the file cannot be read; E_FORMAT: it is not TOML (also among the mistakes); E_NO_MEMORY. */
lt_status lt_graph_read(const char *file, const char *const *sets, int n_sets, lt_arena *arena,
                        lt_graph **graph, lt_mistakes *mistakes, lt_err *err);

/* `path` made absolute: itself when it is, starts with "scheme:" or is "-"; else below the folder `base`, without "./" in front; ".."
 * stays, since what it means depends on links (lt_path_real). In `arena`; NULL when memory is out. */
const char *lt_path_absolute(lt_arena *arena, const char *base, const char *path);

/* Index of the stage with this name, or -1. */
int lt_graph_find(const lt_graph *graph, const char *name);

/* Names of all stages, n_stages of them. In `arena`. */
const char *const *lt_graph_names(const lt_graph *graph, lt_arena *arena);

#endif
