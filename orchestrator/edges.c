/* edges.c - resolves `from`, and finds missing inputs, unused outputs and cycles. */
#include "orchestrator/edges.h"

#include <string.h>

typedef struct wiring {
    lt_graph *graph;
    lt_mistakes *mistakes;
    lt_arena *arena;
    bool is_broken; /* an edge could not be made: do not report what follows from that */
    int n_ordered;
    enum { NEW, OPEN, CLOSED } visited[LT_MAX_STAGES];
    int path[LT_MAX_STAGES], depth;
} wiring;

static const char *const *port_names(wiring *w, const lt_described_port *ports, int n)
{
    const char **names = lt_arena_alloc(w->arena, (size_t)LT_MAX(n, 1) * sizeof *names);
    for (int i = 0; names && i < n; i++) names[i] = ports[i].name;
    return names;
}

/* Index of the port named `name`; -1 with a mistake added. */
static int find_port(wiring *w, const lt_graph_stage *stage, bool is_output, const char *name, lt_where where)
{
    const lt_described *d = stage->described;
    const lt_described_port *ports = is_output ? d->outputs : d->inputs;
    int n = is_output ? d->n_outputs : d->n_inputs;
    for (int i = 0; i < n; i++)
        if (!strcmp(ports[i].name, name)) return i;
    const char *const *names = port_names(w, ports, n);
    lt_mistake_add(w->mistakes, where, "stage \"%s\" has no %s \"%s\"%s", stage->name,
                   is_output ? "output" : "input", name, names ? lt_meant(w->arena, name, names, n) : "");
    return -1;
}

static const lt_edge *edge_into(const lt_graph *graph, int consumer, int input)
{
    for (int i = 0; i < graph->n_edges; i++)
        if (graph->edges[i].consumer == consumer && graph->edges[i].input == input) return &graph->edges[i];
    return NULL;
}

/* The output a `from` means; -1 with a mistake added (or one that was said before). */
static int find_output(wiring *w, const lt_from *from, int *producer)
{
    *producer = lt_graph_find(w->graph, from->producer);
    if (*producer < 0) {
        const char *const *names = lt_graph_names(w->graph, w->arena);
        lt_mistake_add(w->mistakes, from->where, "there is no stage \"%s\"%s", from->producer,
                       names ? lt_meant(w->arena, from->producer, names, w->graph->n_stages) : "");
        return -1;
    }
    const lt_graph_stage *stage = &w->graph->stages[*producer];
    if (!stage->described) return -1;
    if (from->port) return find_port(w, stage, true, from->port, from->where);
    if (stage->described->n_outputs == 1) return 0;
    lt_mistake_add(w->mistakes, from->where, "stage \"%s\" has %s", stage->name,
                   stage->described->n_outputs ? "several outputs: say which, as \"stage.port\""
                                               : "no output");
    return -1;
}

/* The input a `from` without a name goes to: the only one, or the first of the right kind that is free. */
static int choose_input(wiring *w, int consumer, unsigned kinds, const lt_from *from)
{
    const lt_described *d = w->graph->stages[consumer].described;
    if (d->n_inputs == 1) return 0;
    int found = -1;
    for (int i = 0; i < d->n_inputs; i++) {
        if (!(d->inputs[i].kinds & kinds) || edge_into(w->graph, consumer, i)) continue;
        if (found < 0)
            found = i;
        else {
            lt_mistake_add(w->mistakes, from->where,
                           "\"%s\" fits several inputs: say which, as from = { %s = \"%s\" }", from->producer,
                           d->inputs[found].name, from->producer);
            return -1;
        }
    }
    if (found < 0)
        lt_mistake_add(w->mistakes, from->where,
                       d->n_inputs ? "no free input of stage \"%s\" takes %s"
                                   : "stage \"%s\" has no input (and would get %s)",
                       w->graph->stages[consumer].name, lt_kinds_text(w->arena, kinds));
    return found;
}

static bool add_edge(wiring *w, int consumer, const lt_from *from)
{
    lt_graph *graph = w->graph;
    const lt_graph_stage *to = &graph->stages[consumer];
    int producer, output = find_output(w, from, &producer), input;
    if (output < 0) return false;
    const lt_graph_stage *source = &graph->stages[producer];
    const lt_described_port *out = &source->described->outputs[output];
    input = from->input ? find_port(w, to, false, from->input, from->input_where)
                        : choose_input(w, consumer, out->kinds, from);
    if (input < 0) return false;
    const lt_described_port *in = &to->described->inputs[input];
    if (edge_into(graph, consumer, input)) {
        lt_mistake_add(w->mistakes, from->where, "input \"%s\" of stage \"%s\" is given twice", in->name,
                       to->name);
        return false;
    }
    if (!(in->kinds & out->kinds))
        lt_mistake_add(w->mistakes, from->where, "stage \"%s\" takes %s, but \"%s.%s\" gives %s", to->name,
                       lt_kinds_text(w->arena, in->kinds), source->name, out->name,
                       lt_kinds_text(w->arena, out->kinds));
    graph->edges[graph->n_edges++] = (lt_edge){
        .name = lt_arena_printf(w->arena, "%s.%s>%s.%s", source->name, out->name, to->name, in->name),
        .producer = producer,
        .output = output,
        .consumer = consumer,
        .input = input,
        .where = from->where,
    };
    return true;
}

static void check_inputs(wiring *w, int index)
{
    lt_graph_stage *stage = &w->graph->stages[index];
    bool is_broken = false;
    for (int i = 0; i < stage->n_from; i++) is_broken |= !add_edge(w, index, &stage->from[i]);
    w->is_broken |= is_broken;
    for (int i = 0; i < stage->described->n_inputs && !is_broken; i++)
        if (!stage->described->inputs[i].is_optional && !edge_into(w->graph, index, i)) {
            lt_mistake_add(w->mistakes, stage->where,
                           "stage \"%s\" gets nothing at its input \"%s\": add from = \"STAGE\"", stage->name,
                           stage->described->inputs[i].name);
            w->is_broken = true;
        }
}

static void check_outputs(wiring *w)
{
    lt_graph *graph = w->graph;
    int n_sinks = 0;
    for (int i = 0; i < graph->n_stages; i++) {
        bool is_used = false;
        if (!graph->stages[i].described->n_outputs) n_sinks++;
        for (int e = 0; e < graph->n_edges; e++) is_used |= graph->edges[e].producer == i;
        if (!is_used && graph->stages[i].described->n_outputs)
            lt_mistake_add(w->mistakes, graph->stages[i].where, "nobody uses the output of stage \"%s\"",
                           graph->stages[i].name);
    }
    if (!n_sinks && graph->n_stages)
        lt_mistake_add(
            w->mistakes, graph->stages[graph->n_stages - 1].where,
            "the graph has no sink: nothing would be written (a stage of kind \"mux\" writes video)");
}

static void report_cycle(wiring *w, int again, lt_where where)
{
    int from = 0;
    while (w->path[from] != again) from++;
    /* The path goes from consumers to producers: data flows the other way. */
    const char *flow = w->graph->stages[again].name;
    for (int i = w->depth - 1; i >= from && flow; i--)
        flow = lt_arena_printf(w->arena, "%s -> %s", flow, w->graph->stages[w->path[i]].name);
    lt_mistake_add(w->mistakes, where, "these stages feed each other in a cycle: %s", flow ? flow : "");
}

/* Producers of a stage, then the stage. Depth is at most LT_MAX_STAGES. */
static void visit(wiring *w, int index)
{
    w->visited[index] = OPEN;
    w->path[w->depth++] = index;
    for (int e = 0; e < w->graph->n_edges; e++) {
        const lt_edge *edge = &w->graph->edges[e];
        if (edge->consumer != index) continue;
        if (w->visited[edge->producer] == NEW)
            visit(w, edge->producer);
        else if (w->visited[edge->producer] == OPEN)
            report_cycle(w, edge->producer, edge->where);
    }
    w->depth--;
    w->visited[index] = CLOSED;
    w->graph->order[w->n_ordered++] = index;
}

lt_status lt_edges_check(lt_graph *graph, lt_mistakes *mistakes, lt_arena *arena, lt_err *err)
{
    wiring w = {.graph = graph, .mistakes = mistakes, .arena = arena};
    int n_from = 0;
    for (int i = 0; i < graph->n_stages; i++) n_from += graph->stages[i].n_from;
    graph->edges = lt_arena_alloc(arena, (size_t)LT_MAX(n_from, 1) * sizeof *graph->edges);
    graph->order = lt_arena_alloc(arena, LT_MAX_STAGES * sizeof *graph->order);
    if (!graph->edges || !graph->order) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the graph");
    for (int i = 0; i < graph->n_stages; i++) {
        if (graph->stages[i].described)
            check_inputs(&w, i);
        else
            w.is_broken = true;
    }
    for (int i = 0; i < graph->n_stages; i++)
        if (w.visited[i] == NEW) visit(&w, i);
    if (!w.is_broken) check_outputs(&w);
    return LT_OK;
}
