/* ask.h - put one question to a stage program (--describe, --plan) and take its answer. */
#ifndef LT_ORCHESTRATOR_ASK_H
#define LT_ORCHESTRATOR_ASK_H

#include "core/core.h"

typedef struct lt_answer {
    char *out; /* all of standard output, with a 0 behind it */
    size_t out_bytes;
    char errors[1024]; /* the last line of standard error, "" when there was none */
    int exit_code;     /* 128 + signal when one ended it */
} lt_answer;

/* Run `program argument` with `input` on its standard input until it ends. *answer is the caller's to finish, also
 * after an error. E_NOT_FOUND, E_PERMISSION: it cannot be run; E_TRANSIENT: no answer within `seconds` (it is killed);
 * E_FORMAT: more than 1 GiB; E_IO; E_NO_MEMORY. An exit code other than 0 is not an error here. A program that
 * somebody kills is asked again, twenty times in all. Blocks. */
lt_status lt_ask(const char *program, const char *argument, const void *input, size_t input_bytes,
                 double seconds, lt_answer *answer, lt_err *err);
/* The same, and it inherits the descriptors kept[n_kept]. */
lt_status lt_ask_keeping(const char *program, const char *argument, const void *input, size_t input_bytes,
                         double seconds, const int *kept, int n_kept, lt_answer *answer, lt_err *err);

void lt_answer_finish(lt_answer *answer);

#endif
