/* config.h - a graph as one flat list of what decides the output's bytes. */
#ifndef LT_ORCHESTRATOR_CONFIG_H
#define LT_ORCHESTRATOR_CONFIG_H

#include <jansson.h>

#include "orchestrator/graph.h"

enum { LT_DIGEST_BYTES = 33 };

/* {"stage.read.size": "384x216", ...}: kinds, edges, the cache, and every option's value, defaults too. Left out is what cannot
 * change the bytes: cosmetic options, threads, replicas, transport. Paths are those of lt_config_path. The caller's to decref; NULL when memory is out. */
json_t *lt_config_of(const lt_graph *graph);

/* A path as it is recorded: one name for all ways to its folder (lt_path_placed), relative to the graph's folder where it lies below it,
 * so that that can be moved; as it stands where it is no path. In `arena`, NULL when memory is out. */
const char *lt_config_path(const lt_graph *graph, const char *path, lt_arena *arena);

/* XXH3-128 of a configuration, in hex. */
void lt_config_digest(const json_t *config, char digest[LT_DIGEST_BYTES]);

/* A sentence on how `now` differs from `then`, or "" when it does not: the first key that differs, with both values,
 * and how many more. */
void lt_config_difference(const json_t *then, const json_t *now, char *text, size_t room);

#endif
