/* describe.h - what a stage program says of itself (--describe): ports, kinds of data, options. */
#ifndef LT_ORCHESTRATOR_DESCRIBE_H
#define LT_ORCHESTRATOR_DESCRIBE_H

#include <stdio.h>

#include "core/core.h"

typedef struct lt_described_port {
    const char *name, *help;
    unsigned kinds;   /* bits 1u << LT__WIRE__PORT_KIND__... */
    bool is_optional; /* an input that may be left out */
} lt_described_port;

typedef struct lt_described {
    const char *program; /* path it was asked at */
    const char *kind, *help;
    lt_described_port *inputs, *outputs;
    int n_inputs, n_outputs;
    lt_option *options; /* offset 0: for checking one value at a time */
    int n_options;
    bool is_replicable, has_check; /* it can be asked, by --check, whether its options go together */
} lt_described;

/* Ask `program`. *described and all in it live in `arena`. An error says what about the answer is wrong. Blocks for up
 * to 20 s. */
lt_status lt_describe(const char *program, lt_arena *arena, const lt_described **described, lt_err *err);

/* Whether `text` is a value of the option; E_INVALID says what it should be. */
lt_status lt_option_check(const lt_option *option, const char *text, lt_err *err);

/* The option, or NULL. */
const lt_option *lt_described_option(const lt_described *described, const char *name);

/* "frames or windows" for a set of kinds. In `arena`. */
const char *lt_kinds_text(lt_arena *arena, unsigned kinds);

/* The folder of this program, where stage-KIND lie. In `arena`; NULL when it cannot be found out. */
const char *lt_program_folder(lt_arena *arena);

/* Kinds of the stages in `folder`, sorted. *kinds in `arena`. */
lt_status lt_stage_kinds(const char *folder, lt_arena *arena, const char ***kinds, int *n_kinds, lt_err *err);

/* Reference of one kind: as text for a terminal, or as a markdown section. Output depends on nothing else. */
void lt_describe_print(const lt_described *described, bool markdown, FILE *out);

#endif
