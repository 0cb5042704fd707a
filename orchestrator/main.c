/* main.c - the command line of the orchestrator. */
#include <stdio.h>
#include <string.h>

#include "orchestrator/check.h"

/* Exit codes, for scripts. */
enum { EXIT_DONE = 0, EXIT_RUN_FAILED = 1, EXIT_USAGE = 2 };

static const char usage[] =
    "orchestrator - checks, plans and runs a graph of Longtake stages\n"
    "\n"
    "  orchestrator check GRAPH           say everything that is wrong with a graph file\n"
    "  orchestrator describe KIND         options of a kind of stage\n"
    "  orchestrator reference             options of all kinds, as markdown\n"
    "\n"
    "  --set stage.NAME.OPTION=VALUE      another value than the graph file's (also graph.OPTION=VALUE); any "
    "number.\n"
    "                                     Relative paths start in the current folder, those in a graph file "
    "in its own.\n"
    "  --help, --version\n"
    "\n"
    "Exit codes: 0 done, 1 the run failed, 2 usage or graph wrong, 130 interrupted.\n";

enum { MAX_SETS = 256 };

typedef struct command_line {
    const char *verb, *subject;
    const char *sets[MAX_SETS];
    int n_sets;
} command_line;

static int wrong(const char *format, const char *text, const char *more)
{
    fprintf(stderr, "orchestrator: ");
    fprintf(stderr, format, text, more);
    fprintf(stderr, "\nTry: orchestrator --help\n");
    return EXIT_USAGE;
}

/* ---- verbs ------------------------------------------------------------------------------------------- */

/* Read and check; prints what is wrong. */
static int load(const command_line *line, lt_arena *arena, lt_graph **graph)
{
    lt_mistakes mistakes;
    lt_err err = {0};
    lt_status status = lt_graph_read(line->subject, line->sets, line->n_sets, arena, graph, &mistakes, &err);
    if (!status) status = lt_graph_check(*graph, &mistakes, arena, &err);
    if (mistakes.n) {
        lt_mistakes_print(&mistakes, stderr);
        return EXIT_USAGE;
    }
    if (status) fprintf(stderr, "orchestrator: %s\n", err.text);
    return status ? EXIT_USAGE : EXIT_DONE;
}

static int check(const command_line *line, lt_arena *arena)
{
    lt_graph *graph;
    int code = load(line, arena, &graph);
    if (!code) printf("%s: %d stages, nothing wrong\n", line->subject, graph->n_stages);
    return code;
}

/* One kind, or (kind NULL) all that lie beside this program. */
static int describe(const char *kind, lt_arena *arena)
{
    lt_err err = {0};
    const char *folder = lt_program_folder(arena), **kinds;
    const lt_described *described;
    int n_kinds, n_shown = 0;
    if (!folder || lt_stage_kinds(folder, arena, &kinds, &n_kinds, &err)) {
        fprintf(stderr, "orchestrator: %s\n", err.text);
        return EXIT_RUN_FAILED;
    }
    for (int i = 0; i < n_kinds; i++) {
        if (kind && strcmp(kind, kinds[i])) continue;
        const char *program = lt_arena_printf(arena, "%s/stage-%s", folder, kinds[i]);
        if (!program || lt_describe(program, arena, &described, &err)) {
            fprintf(stderr, "orchestrator: %s\n", err.text);
            return EXIT_RUN_FAILED;
        }
        if (n_shown++) putchar('\n');
        lt_describe_print(described, !kind, stdout);
    }
    if (n_shown) return EXIT_DONE;
    return kind ? wrong("unknown kind \"%s\"%s", kind, lt_meant(arena, kind, kinds, n_kinds))
                : wrong("there is no stage-KIND in %s%s", folder, "");
}

/* ---- command line ------------------------------------------------------------------------------------ */

static int parse(int argc, char **argv, command_line *line)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!strcmp(word, "--set") && i + 1 < argc) {
            if (line->n_sets == MAX_SETS) return wrong("too many --set%s%s", "", "");
            line->sets[line->n_sets++] = argv[++i];
        } else if (!strcmp(word, "--set")) {
            return wrong("--set needs NAME=VALUE%s%s", "", "");
        } else if (word[0] == '-') {
            return wrong("unknown option %s%s", word, "");
        } else if (!line->verb) {
            line->verb = word;
        } else if (!line->subject) {
            line->subject = word;
        } else {
            return wrong("what is \"%s\" after \"%s\"?", word, line->subject);
        }
    }
    return EXIT_DONE;
}

static int dispatch(const command_line *line, lt_arena *arena)
{
    static const char *const verbs[] = {"check", "describe", "reference"};
    const char *verb = line->verb ? line->verb : "";
    if (!strcmp(verb, "reference")) return describe(NULL, arena);
    if (!strcmp(verb, "describe") && line->subject) return describe(line->subject, arena);
    if (!strcmp(verb, "describe")) return wrong("describe needs the kind of a stage%s%s", "", "");
    if (!strcmp(verb, "check") && line->subject) return check(line, arena);
    if (!strcmp(verb, "check")) return wrong("%s needs a graph file%s", verb, "");
    if (!*verb) return wrong("what shall be done?%s%s", "", "");
    return wrong("unknown command \"%s\"%s", verb, lt_meant(arena, verb, verbs, (int)LT_COUNT(verbs)));
}

int main(int argc, char **argv)
{
    command_line line = {0};
    lt_arena arena = {0};
    lt_log_init("orchestrator", LT_LOG_INFO);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return fputs(usage, stdout) < 0;
        if (!strcmp(argv[i], "--version")) return printf("longtake %s\n", LT_VERSION) < 0;
    }
    int code = parse(argc, argv, &line);
    if (!code) code = dispatch(&line, &arena);
    lt_arena_finish(&arena);
    return code;
}
