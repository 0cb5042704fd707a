/* bare.c - the round trip's four stages in one process, without orchestrator, sockets or shared memory: what being processes is measured against.
 *
 *     bench-bare MODEL SOURCE OUTPUT CACHE [THREADS]
 *
 * Plays the runtime's part for a chain of stages: a unit is made when it is needed, from units that are made when they are needed. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/wire.h"
#include "stages/decode/decode.h"
#include "stages/mux/mux.h"
#include "stages/vae_decode/vae_decode.h"
#include "stages/vae_encode/vae_encode.h"

/* ---- what stages call of the runtime ----------------------------------------------------------------------- */

lt_status lt_stage_opens(const lt_clip *clip, lt_err *err)
{
    return LT_OK;
}

void lt_stage_safe(const lt_clip *clip, uint64_t unit) {}
void lt_stage_cached(const lt_clip *clip) {}
bool lt_stage_stopping(void)
{
    return false;
}
void lt_plan_resolve(lt_plan *plan, const char *name, const char *format, ...) {}
void lt_plan_note(lt_plan *plan, const char *format, ...) {}

lt_status lt_payload_add(lt_payload *payload, uint64_t first, uint64_t count, Lt__Wire__Dtype dtype,
                         size_t bytes, lt_span **span, lt_err *err)
{
    size_t offset = lt_round_up(payload->bytes, LT_PAYLOAD_ALIGNMENT);
    if (payload->n_spans == LT_MAX_SPANS || offset > payload->capacity || bytes > payload->capacity - offset)
        return lt_fail(err, LT_E_INTERNAL, "a unit is larger than announced");
    lt_span *added = &payload->spans[payload->n_spans++];
    *added = (lt_span){first, count, dtype, (char *)payload->data + offset, bytes};
    payload->bytes = offset + bytes;
    if (span) *span = added;
    return LT_OK;
}

/* Of live inputs alone, which no chain here reads. */
lt_status lt_payload_times(lt_payload *payload, uint64_t first, uint64_t count, int64_t **pts, lt_err *err)
{
    return lt_fail(err, LT_E_UNSUPPORTED, "a live input");
}

/* ---- a chain ------------------------------------------------------------------------------------------------- */

enum { KEPT = 16, MAX_NEEDED = 64 };

typedef struct chain_link {
    const lt_stage *stage;
    struct chain_link *from; /* NULL: the source */
    lt_setup setup;
    void *config, *state;
    lt_clip clip;
    lt_stream output;
    lt_arena arena;
    lt_payload kept[KEPT]; /* by unit modulo KEPT; data NULL: none yet */
    bool is_kept[KEPT];
} chain_link;

typedef struct pair {
    const char *name, *text;
} pair;

static lt_status configure(chain_link *l, const pair *options, int n_options, lt_err *err)
{
    const lt_stage *stage = l->stage;
    l->config = lt_arena_alloc(&l->arena, stage->config_bytes);
    if (!l->config) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_status status =
        lt_options_defaults(stage->options, stage->n_options, l->config, stage->config_bytes, &l->arena, err);
    for (int i = 0; i < n_options && !status; i++)
        status = lt_options_set(stage->options, stage->n_options, l->config, options[i].name, options[i].text,
                                &l->arena, err);
    l->setup.config = l->config;
    return status;
}

static lt_status open_link(chain_link *l, lt_err *err)
{
    const char *numeric_class = "";
    lt_status status = l->stage->create(&l->state, &l->setup, &numeric_class, err);
    if (status) return status;
    lt__wire__stream__init(&l->output);
    l->output.numeric_class = (char *)numeric_class;
    l->clip = (lt_clip){.output = &l->output, .arena = &l->arena};
    if (l->from) l->clip.inputs[0] = &l->from->output;
    return l->stage->open_clip(l->state, &l->clip, err);
}

static lt_status make(chain_link *l, uint64_t unit, lt_err *err);

/* Run the stage's process on one unit, its inputs made first. output: NULL for the sink. */
static lt_status process(chain_link *l, uint64_t unit, lt_payload *output, lt_err *err)
{
    lt_need needs[LT_MAX_PORTS] = {{0}};
    lt_payload inputs[MAX_NEEDED];
    lt_status status = LT_OK;
    if (l->from) status = l->stage->need(l->state, &l->clip, unit, needs, err);
    if (needs[0].count > MAX_NEEDED)
        return lt_fail(err, LT_E_UNSUPPORTED, "more than %d units are needed at once", MAX_NEEDED);
    for (uint64_t i = 0; i < needs[0].count && !status; i++) status = make(l->from, needs[0].first + i, err);
    if (status) return status;
    for (uint64_t i = 0; i < needs[0].count; i++) inputs[i] = l->from->kept[(needs[0].first + i) % KEPT];
    const lt_payload *const by_port[LT_MAX_PORTS] = {inputs};
    return l->stage->process(l->state, &l->clip, unit, by_port, output, err);
}

static lt_status make(chain_link *l, uint64_t unit, lt_err *err)
{
    lt_payload *kept = &l->kept[unit % KEPT];
    bool *is_kept = &l->is_kept[unit % KEPT];
    if (*is_kept && kept->unit == unit) return LT_OK;
    size_t capacity = lt_round_up(l->output.unit_bytes, LT_PAYLOAD_ALIGNMENT);
    if (!kept->data) kept->data = aligned_alloc(LT_PAYLOAD_ALIGNMENT, capacity);
    if (!kept->data) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    *kept = (lt_payload){.unit = unit, .data = kept->data, .capacity = capacity};
    *is_kept = true;
    return process(l, unit, kept, err);
}

static lt_status run(chain_link *sink, lt_err *err)
{
    lt_status status = LT_OK;
    for (uint64_t unit = sink->clip.first_unit; unit < sink->clip.n_units && !status; unit++)
        status = process(sink, unit, NULL, err);
    const char *result = NULL;
    if (!status) status = sink->stage->finish_clip(sink->state, &sink->clip, true, &result, err);
    if (!status) printf("%s\n", result ? result : "done");
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: bench-bare MODEL SOURCE OUTPUT CACHE [THREADS]\n");
        return 2;
    }
    char run_folder[4096], folder[4096];
    if (!getcwd(folder, sizeof folder)) return 1;
    snprintf(run_folder, sizeof run_folder, "%s.longtake", argv[3]);
    mkdir(run_folder, 0777);
    lt_setup setup = {.base_folder = folder,
                      .run_folder = run_folder,
                      .cache = argv[4],
                      .stage = "bare",
                      .threads = argc > 5 ? atoi(argv[5]) : (int)sysconf(_SC_NPROCESSORS_ONLN)};
    chain_link links[] = {{.stage = &lt_decode_stage},
                          {.stage = &lt_vae_encode_stage},
                          {.stage = &lt_vae_decode_stage},
                          {.stage = &lt_mux_stage}};
    const pair options[] = {{"input", argv[2]}, {"model", argv[1]}, {"model", argv[1]}, {"output", argv[3]}};
    lt_err err = {0};
    lt_status status = LT_OK;
    for (size_t i = 0; i < LT_COUNT(links) && !status; i++) {
        links[i].from = i ? &links[i - 1] : NULL;
        links[i].setup = setup;
        status = configure(&links[i], &options[i], 1, &err);
        if (!status) status = open_link(&links[i], &err);
    }
    if (!status) status = run(&links[LT_COUNT(links) - 1], &err);
    if (status) fprintf(stderr, "bench-bare: %s\n", err.text);
    return status ? 1 : 0;
}
