/* deaths.h - a stage process ended: who is to blame, and is it started again.
 *
 *   exit 100, or Failed with a status that restarting cannot mend: the run ends at once with that sentence
 *   signals but SIGKILL and SIGTERM, exit 101, killed for memory, stuck: counts against the unit it last
 *       started; 3 end the run, or cost a dataset the unit's clip (clips.h)
 *   a stage that reads a live input: the run ends with what came
 *   SIGKILL, SIGTERM: 20 without progress end the run
 *   exit 111, any other code: 10 without progress end the run
 *
 * The first restart is at once, then after 0.1 s doubling to 5 s; progress resets it. After an interrupt a sink is not started again, but of
 * a live input, which nobody can ask for twice. What dies when its work is done is not started again either, and counts as a bad end where it
 * is to blame. */
#ifndef LT_ORCHESTRATOR_DEATHS_H
#define LT_ORCHESTRATOR_DEATHS_H

#include "orchestrator/run.h"

/* Account for the end of replica's process, take back what it held, tell the neighbours, and either schedule its
 * restart, or let it be ENDED, or set run->outcome to LT_FAILED with run->why. Its messages have been read. */
void lt_handle_death(lt_run *run, lt_replica *replica, int wait_status, const struct rusage *usage);

/* End the run with a sentence (the first one stays). */
void lt_run_fail(lt_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Processes that this host has killed for memory since it started; 0 where that is not told. */
uint64_t lt_oom_kills(void);

#endif
