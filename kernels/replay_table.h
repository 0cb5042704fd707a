/* replay_table.h - a pass of an evaluation through operators that are watched. For replay.c only. */
#ifndef LT_REPLAY_TABLE_H
#define LT_REPLAY_TABLE_H

#include "kernels/backend.h"

typedef enum {
    REPLAY_WATCH,  /* operators do what they do */
    REPLAY_RECORD, /* so, while the backend records */
    REPLAY_SKIP    /* only what the host brings is brought: a record does the rest */
} replay_mode;

typedef struct replay_pass {
    lt_backend table; /* first: the context's, meanwhile */
    const lt_backend *real;
    replay_mode mode;
    uint64_t digest;    /* of what operators were given; never 0 */
    size_t host_bytes;  /* that the host brings, each piece rounded up */
    const char *barred; /* what cannot be in a record; NULL */
} replay_pass;

void replay_begin(lt_context *c, replay_pass *pass, replay_mode mode);
void replay_end(lt_context *c, replay_pass *pass);

uint64_t replay_mix(uint64_t digest, uint64_t number);
uint64_t replay_mix_tensor(uint64_t digest, const lt_tensor *t); /* its address, dtype and shape */

#endif
