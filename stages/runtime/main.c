/* main.c - the verbs of a stage program. */
#include "stages/runtime/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

lt_status rt_take_stdout(int *fd, lt_err *err)
{
    int copy = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return lt_fail_errno(err, errno, "standard output is not open");
    if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
        lt_fail_errno(err, errno, "standard error is not open");
        close(copy);
        return err ? err->status : LT_E_IO;
    }
    *fd = copy;
    return LT_OK;
}

int lt_stage_main(const lt_stage *stage, int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    if (argc > 2 || (argc == 2 && verb[0] != '-')) {
        fprintf(stderr, "stage-%s takes one verb: --help, --version, --describe, --check or --plan\n",
                stage->kind);
        return LT_EXIT_PERMANENT;
    }
    if (!strcmp(verb, "--help") || !strcmp(verb, "-h")) return rt_help(stage);
    if (!strcmp(verb, "--describe")) return rt_describe(stage);
    if (!strcmp(verb, "--check")) return rt_check(stage);
    if (!strcmp(verb, "--plan")) return rt_plan(stage);
    if (!strcmp(verb, "--version")) return printf("stage-%s %s\n", stage->kind, LT_VERSION) < 0;
    if (*verb) {
        fprintf(stderr, "stage-%s does not know %s; --help says what it does\n", stage->kind, verb);
        return LT_EXIT_PERMANENT;
    }
    if (isatty(STDIN_FILENO)) {
        fprintf(stderr, "stage-%s is started by `orchestrator run GRAPH`; --help says what it does\n",
                stage->kind);
        return LT_EXIT_PERMANENT;
    }
    return rt_run(stage);
}
