/* main.c - the command line of the orchestrator. */
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "orchestrator/check.h"
#include "orchestrator/commands.h"

static const char usage[] =
    "orchestrator - checks, plans and runs a graph of Longtake stages\n"
    "\n"
    "  orchestrator run GRAPH             run it, or continue its run; Ctrl-C once finishes the segment, "
    "twice stops\n"
    "  orchestrator check GRAPH           say everything that is wrong with a graph file; its inputs are not "
    "opened\n"
    "  orchestrator plan GRAPH            threads, memory, work, traffic and disk space of a run\n"
    "  orchestrator describe KIND         options of a kind of stage\n"
    "  orchestrator reference             options of all kinds, as markdown\n"
    "\n"
    "  --set stage.NAME.OPTION=VALUE      another value than the graph file's (also graph.OPTION=VALUE); any "
    "number.\n"
    "                                     Relative paths start in the current folder, those in a graph file "
    "in its own.\n"
    "  --fresh                            run: start over; what the run folder holds goes, the cache stays\n"
    "  --json                             run, plan: one JSON object a line on standard output\n"
    "  --help, --version\n"
    "\n"
    "Beside the output a folder OUTPUT.longtake keeps the run: manifest.json, report.json, logs/. The same "
    "command\n"
    "continues a run that did not finish.\n"
    "\n"
    "JSON lines of run have \"event\" and \"time\": start, ready, restart, crash, killed, ended, stuck "
    "(\"text\", \"stage\",\n"
    "\"replica\", \"incarnation\"); interrupt, clip (one that failed), journal (\"text\"); progress, each "
    "second (\"frames\", \"frames_total\", \"fps\", "
    "\"eta_seconds\", \"clips\", \"clips_total\", \"stages\":\n"
    "\"name\", \"state\", \"units\", \"frames\", \"frames_total\", \"fps\", \"queued\", \"held\", "
    "\"cached\", \"memory_bytes\", \"restarts\");\n"
    "end (\"outcome\", \"text\", \"exit_code\", \"outputs\", \"frames\", \"seconds\", \"fps\", "
    "\"restarts\", \"clips_done\", \"clips_failed\", \"clips_passed_over\", \"clips_there\": earlier).\n"
    "\n"
    "Exit codes: 0 done, 1 the run failed, 2 usage or graph wrong, 3 done but for clips that failed "
    "(failed.json in "
    "the run's\n"
    "folder lists them, as a manifest), 4 all is done, but a stage crashed or left with an error after its "
    "work, 130 "
    "interrupted.\n";

enum { MAX_SETS = 256 };

typedef struct command_line {
    const char *verb, *subject;
    const char *sets[MAX_SETS];
    int n_sets;
    bool json, fresh;
} command_line;

static int wrong(const char *format, const char *text, const char *more)
{
    fprintf(stderr, "orchestrator: ");
    fprintf(stderr, format, text, more);
    fprintf(stderr, "\nTry: orchestrator --help\n");
    return LT_EXIT_USAGE;
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
        return LT_EXIT_USAGE;
    }
    if (status) fprintf(stderr, "orchestrator: %s\n", err.text);
    return status ? LT_EXIT_USAGE : 0;
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
        return LT_EXIT_RUN_FAILED;
    }
    for (int i = 0; i < n_kinds; i++) {
        if (kind && strcmp(kind, kinds[i])) continue;
        const char *program = lt_arena_printf(arena, "%s/stage-%s", folder, kinds[i]);
        if (!program || lt_describe(program, arena, &described, &err)) {
            fprintf(stderr, "orchestrator: %s\n", err.text);
            return LT_EXIT_RUN_FAILED;
        }
        if (n_shown++) putchar('\n');
        lt_describe_print(described, !kind, stdout);
    }
    if (n_shown) return 0;
    return kind ? wrong("unknown kind \"%s\"%s", kind, lt_meant_or_any(arena, kind, kinds, n_kinds))
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
        } else if (!strcmp(word, "--json")) {
            line->json = true;
        } else if (!strcmp(word, "--fresh")) {
            line->fresh = true;
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
    return 0;
}

/* A verb whose subject is a graph file. */
static int with_graph(const command_line *line, lt_arena *arena)
{
    lt_graph *graph;
    int code = load(line, arena, &graph);
    if (code) return code;
    if (line->verb[0] == 'r') return lt_command_run(graph, line->json, line->fresh, arena);
    if (line->verb[0] == 'p') return lt_command_plan(graph, line->json, arena);
    printf("%s: %d stages, nothing wrong (orchestrator plan also looks at its files)\n", line->subject,
           graph->n_stages);
    return 0;
}

static int dispatch(const command_line *line, lt_arena *arena)
{
    static const char *const verbs[] = {"run", "check", "plan", "describe", "reference"};
    const char *verb = line->verb ? line->verb : "";
    bool is_run = !strcmp(verb, "run"), is_plan = !strcmp(verb, "plan");
    if (line->fresh && !is_run) return wrong("--fresh belongs to run%s%s", "", "");
    if (line->json && !is_run && !is_plan) return wrong("--json belongs to run and plan%s%s", "", "");
    if (!strcmp(verb, "reference")) return describe(NULL, arena);
    if (!strcmp(verb, "describe") && line->subject) return describe(line->subject, arena);
    if (!strcmp(verb, "describe"))
        return wrong("describe needs the kind of a stage, such as decode (reference: all)%s%s", "", "");
    if (is_run || is_plan || !strcmp(verb, "check"))
        return line->subject ? with_graph(line, arena) : wrong("%s needs a graph file%s", verb, "");
    if (!*verb) return wrong("what shall be done?%s%s", "", "");
    return wrong("unknown command \"%s\"%s", verb, lt_meant_or_any(arena, verb, verbs, (int)LT_COUNT(verbs)));
}

/* Standard descriptors exist, and stages inherit nothing that they are not meant to. */
static void tidy_descriptors(void)
{
    int fd;
    while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd < 3) continue;
    if (fd >= 3) close(fd);
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv)
{
    command_line line = {0};
    lt_arena arena = {0};
    tidy_descriptors();
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
