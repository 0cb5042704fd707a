/* reports.h - what stages say on their standard output, taken into the run's state. */
#ifndef LT_ORCHESTRATOR_REPORTS_H
#define LT_ORCHESTRATOR_REPORTS_H

#include "orchestrator/run.h"

/* Take every message a replica has written. A permanent failure sets run->outcome; so does the last sink that is done.
 * What cannot be understood is a reason to kill the process. */
void lt_read_reports(lt_run *run, lt_replica *replica);

/* Kill a process that does not do what it should; its death is then counted as a crash. */
void lt_kill_stuck(lt_run *run, lt_replica *replica, const char *why);

#endif
