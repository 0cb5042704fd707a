/* commands.h - the verbs that plan and run a checked graph. */
#ifndef LT_ORCHESTRATOR_COMMANDS_H
#define LT_ORCHESTRATOR_COMMANDS_H

#include "orchestrator/graph.h"

/* Exit codes, for scripts. Of a run with failed clips and a bad end it is that of the clips: something is missing then. */
enum {
    LT_EXIT_RUN_FAILED = 1,
    LT_EXIT_USAGE = 2,
    LT_EXIT_CLIPS_FAILED = 3,
    LT_EXIT_BAD_END = 4,
    LT_EXIT_INTERRUPTED = 130
};

/* Print the plan: a table, or with `json` one object a line. Returns the exit code; what went wrong is said on standard
 * error. */
int lt_command_plan(const lt_graph *graph, bool json, lt_arena *arena);

/* Run the graph, or continue its run; `fresh`: start over. Returns the exit code. Changes this process' signal mask. */
int lt_command_run(const lt_graph *graph, bool json, bool fresh, lt_arena *arena);

#endif
