/* check.h - a graph compared with what its stages say of themselves. */
#ifndef LT_ORCHESTRATOR_CHECK_H
#define LT_ORCHESTRATOR_CHECK_H

#include "orchestrator/graph.h"

/* Ask every stage's program what it is, check options and edges, and fill graph->edges, ->order and each stage's
 * `described`. Everything wrong is added to `mistakes`; the graph can be planned when there is none at all.
 * E_NO_MEMORY, E_IO. Runs the stage programs; memory comes from `arena`. */
lt_status lt_graph_check(lt_graph *graph, lt_mistakes *mistakes, lt_arena *arena, lt_err *err);

/* Value of a stage's option: as given, or its default (NULL: neither). */
const char *lt_stage_option(const lt_graph_stage *stage, const char *name);

/* The file a sink writes: its option `output`, or NULL. */
const char *lt_stage_output(const lt_graph_stage *stage);

/* The same name for all ways to name a file: its real path; of what is not there, that of the last folder that is, and the names behind
 * it, with "." and ".." taken out. Of an absolute path; in `arena`, NULL when memory is out. */
const char *lt_path_real(lt_arena *arena, const char *path);
/* The same of its folder, and its name as it stands: where a link points may change, and what it is called does not. */
const char *lt_path_placed(lt_arena *arena, const char *path);

#endif
