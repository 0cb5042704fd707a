/* edges.h - who feeds whom: `from` resolved to ports, and the order stages are planned in. */
#ifndef LT_ORCHESTRATOR_EDGES_H
#define LT_ORCHESTRATOR_EDGES_H

#include "orchestrator/graph.h"

/* Fill graph->edges and ->order (producers first) of stages that have been described; what is wrong is added to
 * `mistakes`. E_NO_MEMORY. */
lt_status lt_edges_check(lt_graph *graph, lt_mistakes *mistakes, lt_arena *arena, lt_err *err);

#endif
