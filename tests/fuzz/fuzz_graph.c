/* fuzz_graph.c - a graph file and what --set does to it. A line "#--set NAME=VALUE" (a comment in TOML) is an override. Stages
 * of the kinds below get the ports of a round trip; no program is asked. */
#include "tests/fuzz/fuzz.h"

#include "orchestrator/config.h"
#include "orchestrator/edges.h"
#include "proto/longtake.pb-c.h"

enum { MAX_SETS = 8 };

#define FRAMES  (1u << LT__WIRE__PORT_KIND__PORT_FRAMES)
#define LATENTS (1u << LT__WIRE__PORT_KIND__PORT_LATENTS)
#define WINDOWS (1u << LT__WIRE__PORT_KIND__PORT_WINDOWS)

#define PORT(text, set, ...)                                                                                 \
    {                                                                                                        \
        .name = text, .help = "", .kinds = set, ##__VA_ARGS__                                                \
    }
static lt_described_port frames = PORT("frames", FRAMES), latents = PORT("latents", LATENTS),
                         windows = PORT("frames", WINDOWS), pictures = PORT("frames", FRAMES | WINDOWS),
                         two[] = {PORT("first", FRAMES),
                                  PORT("second", FRAMES | LATENTS, .is_optional = true)};
static lt_option options[] = {
    {.name = "input", .type = LT_OPT_PATH},
    {.name = "output", .type = LT_OPT_PATH},
    {.name = "model", .type = LT_OPT_PATH},
    {.name = "size", .type = LT_OPT_SIZE, .fallback = ""},
    {.name = "chunk", .type = LT_OPT_INT, .fallback = "8", .min = 1, .max = 1024},
    {.name = "memory", .type = LT_OPT_BYTES, .fallback = "0"},
    {.name = "start", .type = LT_OPT_SECONDS, .fallback = "0"},
    {.name = "overlap", .type = LT_OPT_FLOAT, .fallback = "0.25", .max = 0.9},
    {.name = "fit", .type = LT_OPT_ENUM, .fallback = "crop", .choices = "crop|pad|stretch"},
    {.name = "options", .type = LT_OPT_DICT, .fallback = ""},
    {.name = "keep", .type = LT_OPT_BOOL, .fallback = "true"},
};

#define DESCRIBED(name, in, n_in, out, n_out)                                                                \
    {                                                                                                        \
        .program = name, .kind = name, .help = "", .inputs = in, .outputs = out, .n_inputs = n_in,           \
        .n_outputs = n_out, .options = options, .n_options = LT_COUNT(options)                               \
    }
static const lt_described kinds[] = {
    DESCRIBED("decode", NULL, 0, &frames, 1),
    DESCRIBED("vae_encode", &frames, 1, &latents, 1),
    DESCRIBED("vae_decode", &latents, 1, &windows, 1),
    DESCRIBED("mux", &pictures, 1, NULL, 0),
    DESCRIBED("two", two, 2, two, 2),
};

/* Options through their own parsers, as the check does it. */
static void use_given(const lt_graph_stage *stage)
{
    for (int i = 0; i < stage->n_given; i++) {
        lt_err err = {0};
        FUZZ_MUST(stage->given[i].name);
        const lt_option *option = lt_described_option(stage->described, stage->given[i].name);
        if (!option || !stage->given[i].text) continue;
        lt_status status = lt_option_check(option, stage->given[i].text, &err);
        if (status) FUZZ_REFUSED(status, err);
    }
}

/* What a graph without mistakes promises: edges between stages there are, producers first, and a configuration. */
static void use_graph(const lt_graph *graph)
{
    int place[LT_MAX_STAGES];
    for (int i = 0; i < graph->n_stages; i++) place[graph->order[i]] = i;
    for (int i = 0; i < graph->n_edges; i++) {
        const lt_edge *edge = &graph->edges[i];
        FUZZ_MUST(edge->producer >= 0 && edge->producer < graph->n_stages);
        FUZZ_MUST(edge->consumer >= 0 && edge->consumer < graph->n_stages);
        FUZZ_MUST(place[edge->producer] < place[edge->consumer]);
        FUZZ_MUST(edge->output < graph->stages[edge->producer].described->n_outputs);
        FUZZ_MUST(edge->input < graph->stages[edge->consumer].described->n_inputs);
    }
    json_t *config = lt_config_of(graph);
    char digest[LT_DIGEST_BYTES], text[900];
    FUZZ_MUST(config);
    lt_config_digest(config, digest);
    lt_config_difference(config, config, text, sizeof text);
    FUZZ_MUST(!*text);
    json_decref(config);
}

static void check(lt_graph *graph, lt_mistakes *mistakes, lt_arena *arena)
{
    lt_err err;
    FUZZ_MUST(graph->n_stages <= LT_MAX_STAGES);
    for (int i = 0; i < graph->n_stages; i++) {
        lt_graph_stage *stage = &graph->stages[i];
        FUZZ_MUST(stage->replicas >= 1 && stage->replicas <= LT_MAX_REPLICAS && stage->threads >= 0);
        for (size_t k = 0; stage->is_known && stage->kind && k < LT_COUNT(kinds); k++)
            if (!strcmp(stage->kind, kinds[k].kind)) stage->described = &kinds[k];
        if (stage->described) use_given(stage);
    }
    FUZZ_MUST(!lt_edges_check(graph, mistakes, arena, &err));
    bool is_whole = mistakes->n == 0;
    for (int i = 0; i < graph->n_stages; i++) is_whole &= graph->stages[i].described != NULL;
    if (is_whole) use_graph(graph);
}

/* Overrides, one a line "#--set ...". In the arena. */
static int find_sets(const uint8_t *data, size_t n_bytes, const char *sets[MAX_SETS], lt_arena *arena)
{
    static const char mark[] = "#--set ";
    int n = 0;
    const char *at = (const char *)data, *end = at + n_bytes;
    while (n < MAX_SETS && (at = memmem(at, (size_t)(end - at), mark, sizeof mark - 1))) {
        at += sizeof mark - 1;
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        int length = (int)((line_end ? line_end : end) - at);
        sets[n] = lt_arena_printf(arena, "%.*s", length, at);
        FUZZ_MUST(sets[n++]);
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static FILE *nowhere;
    if (!nowhere) nowhere = fopen("/dev/null", "w");
    lt_arena arena = {0};
    lt_err err;
    lt_graph *graph = NULL;
    lt_mistakes mistakes;
    const char *sets[MAX_SETS], *path = fuzz_path("graph.toml");
    fuzz_write(path, data, n_bytes);
    int n_sets = find_sets(data, n_bytes, sets, &arena);
    lt_status status = lt_graph_read(path, sets, n_sets, &arena, &graph, &mistakes, &err);
    if (status)
        FUZZ_REFUSED(status, err);
    else
        check(graph, &mistakes, &arena);
    FUZZ_MUST(status != LT_E_FORMAT || n_bytes > 1 << 20 || mistakes.n > 0);
    lt_mistakes_print(&mistakes, nowhere);
    lt_arena_finish(&arena);
    return 0;
}
