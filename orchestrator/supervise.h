/* supervise.h - the loop that keeps a run's stages going until its sinks are done. */
#ifndef LT_ORCHESTRATOR_SUPERVISE_H
#define LT_ORCHESTRATOR_SUPERVISE_H

#include "orchestrator/run.h"

/* Run a prepared run to its end: start every stage, restart what dies, and when the sinks are done, a stage fails for
 * good or the user interrupts, end all of them. Returns when no stage is alive. run->outcome and ->why say how it
 * went. SIGINT, SIGTERM, SIGHUP and SIGCHLD must be blocked and arrive at `signals` (a signalfd, non-blocking). The
 * first interrupt lets sinks finish their segment, the second ends everything at once. One thread. */
void lt_supervise(lt_run *run, int signals);

/* Whether every stage is up and waits for others, and all have for five minutes, though the run is not over: a bug of ours. Part of
 * lt_supervise. */
bool lt_is_stalled(const lt_run *run, int64_t now_ns);

#endif
