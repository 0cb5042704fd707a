/* store.c - sink: latents until they are durable in the cache. Where the producer keeps them there itself nothing is
 * written twice; where it runs on another host, or knows no cache, they are written here. */
#include "stages/store/store.h"

#include "cache/cache.h"
#include "proto/wire.h"
#include "stages/record/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct store_config {
    int64_t cache_size;
} store_config;

static const lt_option options[] = {
    {"cache_size", LT_OPT_BYTES, offsetof(store_config, cache_size), "1T", 1048576, 1.4e14, NULL, NULL,
     "the most the cache may hold", true},
};

typedef struct store_state {
    const lt_setup *setup;
    lt_cache *cache;
} store_state;

/* One clip. The buffers hold one chunk, [n,C,h,w]: latents, and log-variances where they come too. */
typedef struct store_clip {
    lt_cache_clip record;
    void *values, *logvars;
    bool side_missed;
} store_clip;

/* Embeddings of texts: text_encode keeps them itself, before it gives them. */
static bool is_text(const lt_stream *in)
{
    return in->kind == LT__WIRE__PORT_KIND__PORT_TEXT;
}

static lt_status check_input(const lt_stream *in, lt_err *err)
{
    if (is_text(in)) return LT_OK;
    bool dtype = in->dtype == LT__WIRE__DTYPE__DTYPE_F32 || in->dtype == LT__WIRE__DTYPE__DTYPE_F16 ||
                 in->dtype == LT__WIRE__DTYPE__DTYPE_BF16;
    if (in->live)
        return lt_fail(
            err, LT_E_UNSUPPORTED,
            "clip %s is live: its length is not known, and the cache keeps whole clips; write the input to a "
            "file first",
            in->name);
    if (in->kind != LT__WIRE__PORT_KIND__PORT_LATENTS || !dtype || !in->n_frames || !in->chunk)
        return lt_fail(err, LT_E_INVALID,
                       "store keeps latents in f32, f16 or bf16; clip %s is something else", in->name);
    return LT_OK;
}

static size_t chunk_bytes(const lt_stream *in)
{
    if (is_text(in)) return in->unit_bytes;
    uint64_t frames = LT_MIN((uint64_t)in->chunk, in->n_frames);
    return frames * in->channels * in->height * in->width * lt_wire_dtype_bytes(in->dtype);
}

/* ---- planning ------------------------------------------------------------------------------------------- */

static lt_status store_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan, lt_err *err)
{
    enum { BASE_BYTES = 700 << 10 };
    const lt_stream *in = inputs[0];
    lt_status status = check_input(in, err);
    if (status) return status;
    if (!setup->cache || !*setup->cache)
        return lt_fail(err, LT_E_INVALID, "store keeps latents in the graph's cache, and [graph] names none");
    plan->in_flight[0] = 4;
    /* Of a chunk that is not there yet: as the cache has it, packed, and on its way to the disk. */
    plan->peak_bytes = BASE_BYTES + 3 * lt_record_unit_bytes(chunk_bytes(in), lt_stream_has_logvar(in));
    plan->work_factor = 1;
    if (is_text(in)) return LT_OK;
    uint64_t frames = in->run_frames ? in->run_frames : in->n_frames;
    double bytes =
        (double)chunk_bytes(in) / (double)LT_MIN((uint64_t)in->chunk, in->n_frames) * (double)frames;
    lt_plan_note(plan, "%" PRIu64 " latent frames of %ux%ux%u, %.1f MiB in all", frames, in->channels,
                 in->height, in->width, bytes / 0x1p20);
    return LT_OK;
}

/* ---- running -------------------------------------------------------------------------------------------- */

static void store_destroy(void *opaque)
{
    store_state *state = opaque;
    if (!state) return;
    lt_cache_close(state->cache);
    free(state);
}

static lt_status store_create(void **out, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    const store_config *config = setup->config;
    store_state *state = calloc(1, sizeof *state);
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    state->setup = setup;
    lt_status status = lt_cache_open(&state->cache, setup->cache, true, config->cache_size, err);
    if (status) {
        store_destroy(state);
        return status;
    }
    *numeric_class = "";
    *out = state;
    return LT_OK;
}

/* Chunks from the start on that are there already. */
static lt_status count_present(store_state *state, const lt_cache_clip *record, uint64_t n_units,
                               uint64_t *present, lt_err *err)
{
    lt_status status = LT_OK;
    lt_cache_summary summary;
    lt_err none;
    bool there = true;
    *present = 0;
    if (lt_cache_look(state->cache, record->clip, record->digest, &summary, &none) != LT_OK) return LT_OK;
    if (summary.state == LT_CACHE_COMPLETE) {
        *present = n_units;
        return LT_OK;
    }
    while (*present < n_units && there && !status) {
        status = lt_cache_has(state->cache, record->clip, record->digest, (int64_t)*present * record->chunk,
                              &there, err);
        *present += there && !status;
    }
    return status;
}

/* The latents of a clip are there; what is said of it may have been said anew since. */
static lt_status update_caption(store_state *state, const lt_stream *in, lt_err *err)
{
    lt_arena arena = {0};
    lt_cache_clip record;
    bool changed = false;
    lt_status status = lt_cache_get_clip(state->cache, in->name, in->digest, &arena, &record, err);
    if (status == LT_E_NOT_FOUND)
        status = LT_OK; /* its last chunk is being put just now */
    else if (!status && strcmp(record.caption, in->caption))
        status = lt_cache_set_caption(state->cache, in->name, in->digest, in->caption, &changed, err);
    lt_arena_finish(&arena);
    if (changed) lt_log(LT_LOG_INFO, "clip %s: another caption", in->name);
    return status;
}

static void free_clip(store_clip *c)
{
    if (!c) return;
    free(c->values);
    free(c->logvars);
    free(c);
}

static lt_status store_open_clip(void *opaque, lt_clip *clip, lt_err *err)
{
    store_state *state = opaque;
    const lt_stream *in = clip->inputs[0];
    lt_status status = check_input(in, err);
    if (status) return status;
    store_clip *c = calloc(1, sizeof *c);
    bool has_logvar = lt_stream_has_logvar(in);
    if (c) c->values = malloc(chunk_bytes(in));
    if (c && has_logvar) c->logvars = malloc(chunk_bytes(in));
    if (!c || !c->values || (has_logvar && !c->logvars)) {
        free_clip(c);
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a chunk of latents");
    }
    c->record = lt_record_of_stream(in);
    clip->n_units = in->n_units;
    clip->state = c;
    if (is_text(in)) return LT_OK;
    status = count_present(state, &c->record, clip->n_units, &clip->first_unit, err);
    if (!status && clip->first_unit == clip->n_units) status = update_caption(state, in, err);
    if (!status) return LT_OK;
    free_clip(c);
    clip->state = NULL;
    return status;
}

/* Are these latents of frames first .. first+n-1, and their log-variances where the stream has them? */
static bool is_chunk(const lt_payload *payload, const lt_stream *in, int64_t first, int64_t n)
{
    size_t bytes = (size_t)n * in->channels * in->height * in->width * lt_wire_dtype_bytes(in->dtype);
    bool fine = payload->n_spans == 1 + lt_stream_has_logvar(in);
    for (int i = 0; i < payload->n_spans && fine; i++) {
        const lt_span *span = &payload->spans[i];
        fine = span->first == (uint64_t)first && span->count == (uint64_t)n && span->dtype == in->dtype &&
               span->bytes == bytes;
    }
    return fine;
}

static lt_status store_process(void *opaque, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                               lt_payload *output, lt_err *err)
{
    store_state *state = opaque;
    store_clip *c = clip->state;
    const lt_stream *in = clip->inputs[0];
    int64_t first = (int64_t)unit * c->record.chunk,
            n = LT_MIN((int64_t)c->record.chunk, c->record.n_frames - first);
    bool there = false;
    if (lt_stage_stopping()) return LT_END;
    if (is_text(in)) {
        lt_stage_safe(clip, unit + 1);
        return LT_OK;
    }
    if (!is_chunk(inputs[0], in, first, n))
        return lt_fail(err, LT_E_FORMAT,
                       "clip %s: the chunk at frame %" PRId64 " is not %" PRId64 " frames of latents",
                       in->name, first, n);
    lt_status status = lt_cache_has(state->cache, c->record.clip, c->record.digest, first, &there, err);
    if (!status && !there) {
        lt_record_to_cache(&c->record, inputs[0]->spans[0].data, c->values, n);
        if (c->logvars) lt_record_to_cache(&c->record, inputs[0]->spans[1].data, c->logvars, n);
        c->record.side_path = lt_record_side(in, &c->side_missed);
        status = lt_cache_put(state->cache, &c->record, first, c->values, c->logvars, NULL, err);
    }
    if (!status) lt_stage_safe(clip, unit + 1);
    return status;
}

static lt_status store_finish_clip(void *opaque, lt_clip *clip, bool complete, const char **result,
                                   lt_err *err)
{
    store_state *state = opaque;
    store_clip *c = clip->state;
    lt_status status = LT_OK;
    lt_cache_summary summary;
    *result = NULL;
    if (c && complete && !is_text(clip->inputs[0])) {
        status = lt_cache_look(state->cache, c->record.clip, c->record.digest, &summary, err);
        if (!status && summary.state != LT_CACHE_COMPLETE)
            status = lt_fail(err, LT_E_INTERNAL,
                             "clip %s is not complete in the cache, though all of it came", c->record.clip);
    }
    if (c && clip->given_up && !is_text(clip->inputs[0])) {
        lt_err ignored;
        if (lt_cache_fail(state->cache, &c->record, clip->given_up, &ignored))
            lt_log(LT_LOG_WARN, "%s", ignored.text);
    }
    free_clip(c);
    clip->state = NULL;
    return status;
}

static const lt_port inputs[] = {
    {"latents", 1u << LT__WIRE__PORT_KIND__PORT_LATENTS | 1u << LT__WIRE__PORT_KIND__PORT_TEXT,
     "what is to be kept; of texts text_encode has kept it"}};

const lt_stage lt_store_stage = {
    .kind = "store",
    .help = "Takes latents, or embeddings of texts, until they are durable in the graph's cache: the end of "
            "a graph that makes no "
            "video. What "
            "another stage has put there is not written twice.",
    .inputs = inputs,
    .n_inputs = 1,
    .options = options,
    .n_options = (int)LT_COUNT(options),
    .config_bytes = sizeof(store_config),
    .clips_ahead = 3,
    .plan = store_plan,
    .create = store_create,
    .destroy = store_destroy,
    .open_clip = store_open_clip,
    .process = store_process,
    .finish_clip = store_finish_clip,
};
