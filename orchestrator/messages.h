/* messages.h - what the orchestrator tells stages over their standard input. Never blocks: what a pipe does not take
 * now is kept and sent when it can be. */
#ifndef LT_ORCHESTRATOR_MESSAGES_H
#define LT_ORCHESTRATOR_MESSAGES_H

#include "orchestrator/run.h"

/* The first message of an incarnation. E_NO_MEMORY, E_INVALID (too large). */
lt_status lt_send_boot(const lt_run *run, lt_replica *replica, lt_err *err);

/* Tell the neighbours of `replica` what it is now: its consumers its endpoints and slots (once READY), its producers its
 * incarnation and key; incarnation 0 when it is not running. */
void lt_announce(const lt_run *run, const lt_replica *replica);

/* Tell one replica to end; gracefully: sinks first finish what they are writing. */
void lt_send_stop(lt_replica *replica, bool gracefully);

/* Tell one replica to abandon a clip. */
void lt_send_give_up(lt_replica *replica, uint32_t clip, const char *reason);

/* Write what is pending; when the other end is closed it is dropped (the death will be seen). */
void lt_flush_control(lt_replica *replica);

#endif
