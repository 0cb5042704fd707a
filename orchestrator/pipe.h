/* pipe.h - inputs that can be read only once: standard input and FIFOs. They are opened here, once, so that who plans and who
 * runs read the same bytes. */
#ifndef LT_ORCHESTRATOR_PIPE_H
#define LT_ORCHESTRATOR_PIPE_H

#include "orchestrator/graph.h"

typedef struct lt_pipe {
    int fd, head_fd; /* the input, and a memfd of what planning read of it; 0: the stage has none */
} lt_pipe;

/* Open the pipe that a source stage's path options name ("-", or a FIFO), if any. Waits until somebody writes to a
 * FIFO. E_INVALID: a second stage wants standard input; E_IO and such. */
lt_status lt_pipe_open(const lt_graph *graph, int stage, lt_pipe *pipe, lt_err *err);
void lt_pipe_close(lt_pipe *pipe);

#endif
