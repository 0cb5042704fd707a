/* chain.c - a source, filters and a sink, and what their file should hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/pipeline/stages/chain.h"

uint64_t base_seed = 1;
static const char *programs;
static char folder[64];

/* ---- the standard chain --------------------------------------------------------------------------------------------------- */

troupe make_chain(transport transport, int sources, int filters, const char *output)
{
    unlink(output);
    return (troupe){
        .programs = programs,
        .folder = folder,
        .transport = transport,
        .n_parts = 3,
        .parts = {{.kind = "null_source",
                   .replicas = sources,
                   .from = -1,
                   .options = {{"frames", "478"}, {"chunk", "4"}}},
                  {.kind = "null_filter",
                   .replicas = filters,
                   .from = 0,
                   .in_flight = 4,
                   .options = {{"window", "3"}, {"stride", "2"}, {"sleep_ms", "2"}}},
                  {.kind = "null_sink",
                   .replicas = 1,
                   .from = 1,
                   .in_flight = 4,
                   .options = {{"output", output}}}},
    };
}

void set_option(troupe *t, int part, const char *name, const char *value)
{
    int i = 0;
    while (t->parts[part].options[i][0] && strcmp(t->parts[part].options[i][0], name)) i++;
    t->parts[part].options[i][0] = name;
    t->parts[part].options[i][1] = value;
}

char *path(const char *name)
{
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

char *read_file(const char *name)
{
    FILE *file = fopen(name, "rb");
    if (!file) return strdup("(no file)");
    char *text = calloc(1, 1 << 20);
    size_t n = fread(text, 1, (1 << 20) - 1, file);
    text[n] = 0;
    fclose(file);
    return text;
}

void assert_written(const char *name, const char *right)
{
    char *text = read_file(name);
    assert_string_equal(text, right);
    free(text);
}

void play(troupe *t, uint64_t seed, int n_kills, int every_ms)
{
    troupe_start(t);
    bool ended = troupe_act(t, 60, seed, n_kills, every_ms);
    bool stopped = troupe_stop(t);
    if (!ended || t->blamed >= 0)
        print_error("%s, actor %d, exit code %d, signal %d: %s\n", ended ? "ended" : "stuck", t->blamed,
                    t->exit_code, t->exit_signal, t->text);
    assert_true(ended);
    assert_int_equal(t->blamed, -1);
    assert_true(stopped);
    char *log = read_file(path("log"));
    assert_null(strstr(log, "no slot is free")); /* credits leave none without */
    free(log);
    assert_int_equal(t->n_outputs, 1);
}

int chain_main(int argc, char **argv, const struct CMUnitTest *tests, size_t n_tests, char **expected)
{
    programs = argc > 1 ? argv[1] : ".";
    if (argc > 2) base_seed = strtoull(argv[2], NULL, 10);
    print_message("seed %llu\n", (unsigned long long)base_seed);
    const char *base = getenv("TMPDIR");
    if (!base || strlen(base) > 40) base = "/tmp"; /* a socket's name is short */
    snprintf(folder, sizeof folder, "%s/longtake-test-XXXXXX", base);
    if (!mkdtemp(folder)) return 1;
    int failed = _cmocka_run_group_tests("pipeline", tests, n_tests, NULL, NULL);
    free(*expected);
    if (failed) return failed;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) != 0;
}
