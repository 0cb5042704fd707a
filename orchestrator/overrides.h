/* overrides.h - --set NAME=VALUE, put into the tree of a graph file. */
#ifndef LT_ORCHESTRATOR_OVERRIDES_H
#define LT_ORCHESTRATOR_OVERRIDES_H

#include "orchestrator/mistakes.h"

/* Put "stage.read.input=clip.mp4" into the tree: tables that are not there are made, what is there is replaced. The
 * value is TOML where it can be read as such, else text as it stands; a number keeps its spelling. Everything made
 * carries `set` in its place. A malformed override becomes a mistake. Memory comes from the mistakes' arena;
 * E_NO_MEMORY. */
lt_status lt_override(lt_toml *root, const char *override, lt_mistakes *mistakes);

#endif
