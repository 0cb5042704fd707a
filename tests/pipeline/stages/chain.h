/* chain.h - the standard chain of these tests: source -> filter -> sink, windows of 3 chunks at every second one. */
#ifndef LT_TESTS_CHAIN_H
#define LT_TESTS_CHAIN_H

#include "tests/pipeline/stages/troupe.h"

struct CMUnitTest;

/* `output`: the sink's file, removed first. */
troupe make_chain(transport transport, int sources, int filters, const char *output);
void set_option(troupe *t, int part, const char *name, const char *value);

/* A name in the folder of this test; one of eight buffers. */
char *path(const char *name);
/* To be freed. */
char *read_file(const char *name);
void assert_written(const char *name, const char *right);

/* From start to stop; everything must go well, whoever is killed. */
void play(troupe *t, uint64_t seed, int n_kills, int every_ms);

/* Run the tests in a folder of their own, which stays when one fails. Arguments: the folder of programs, and
 * base_seed where it shall not be 1. */
extern uint64_t base_seed;
int chain_main(int argc, char **argv, const struct CMUnitTest *tests, size_t n_tests, char **expected);

#endif
