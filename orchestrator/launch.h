/* launch.h - processes of stages: their pipes, slots and keys, from fork to the last wait. */
#ifndef LT_ORCHESTRATOR_LAUNCH_H
#define LT_ORCHESTRATOR_LAUNCH_H

#include "orchestrator/run.h"

/* Make replicas, slots, keys and the socket folder of a run whose graph, plan, folder, manifest and arena are set; starts
 * nothing. The run is the caller's to finish, also after an error. */
lt_status lt_run_prepare(lt_run *run, lt_err *err);

/* Close and free all of it, remove the sockets. No stage may be running. */
void lt_run_finish(lt_run *run);

/* Start the next incarnation of a replica: its own process group, standard input and output on pipes, standard error
 * appended to its log; it is killed when this process dies. Sends its Boot. E_IO, E_NO_MEMORY, E_NOT_FOUND. */
lt_status lt_launch(lt_run *run, lt_replica *replica, lt_err *err);

/* After a replica's process has ended: close its pipes, take back its slots. */
void lt_bury(lt_run *run, lt_replica *replica);

#endif
