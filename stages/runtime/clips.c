/* clips.c - the life of a clip in this stage: announced, opened, worked on, finished; in order of index at its end. */
#include "stages/runtime/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

rt_clip *rt_clip_find(rt *rt, uint32_t index)
{
    for (int i = 0; i < RT_CLIPS; i++)
        if (rt->clips[i].state != RT_CLIP_NONE && rt->clips[i].clip.index == index) return &rt->clips[i];
    return NULL;
}

static rt_clip *add_clip(rt *rt, uint32_t index)
{
    for (int i = 0; i < RT_CLIPS; i++) {
        rt_clip *clip = &rt->clips[i];
        if (clip->state != RT_CLIP_NONE) continue;
        memset(clip, 0, sizeof *clip);
        clip->rt = rt;
        clip->state = RT_CLIP_ARRIVING;
        clip->clip.index = index;
        clip->clip.arena = &clip->arena;
        lt__wire__stream__init(&clip->output);
        if (!rt_is_sink(rt)) clip->clip.output = &clip->output;
        return clip;
    }
    rt_complain(rt, "clip %u came while %d others are open: dropped", index, RT_CLIPS);
    return NULL;
}

/* ---- news ---------------------------------------------------------------------------------------------------------------- */

static void fail_mismatch(rt *rt, lt_status status, const rt_input *input, uint32_t index, const char *what)
{
    lt_err err;
    lt_fail(&err, status, "clip %u along %s: %s", index, input->edge, what);
    rt_fail(rt, &err, NULL);
}

void rt_clip_arrived(rt *rt, int port, uint32_t index, const lt_stream *stream)
{
    const rt_input *input = &rt->inputs[port];
    lt_err err;
    if (!(input->port->kinds & 1u << stream->kind)) {
        lt_fail(&err, LT_E_MISMATCH, "clip %u along %s: input port \"%s\" does not take %s", index,
                input->edge, input->port->name, lt_port_kind_name(stream->kind));
        rt_fail(rt, &err, NULL);
        return;
    }
    if (rt->quits) return; /* the main thread is looking at what is open */
    rt_clip *clip = rt_clip_find(rt, index);
    if (!clip) clip = add_clip(rt, index);
    if (!clip) return;
    if (clip->clip.inputs[port]) {
        const char *field = lt_stream_difference(clip->clip.inputs[port], stream, rt->boot->mixed);
        char what[160];
        if (!field) return;
        snprintf(what, sizeof what,
                 "two replicas, or the same one before and after a restart, disagree about its %s", field);
        fail_mismatch(rt, LT_E_MISMATCH, input, index, what);
        return;
    }
    if (lt_stream_copy(&clip->inputs[port], stream, &clip->arena, &err)) {
        rt_fail(rt, &err, NULL);
        return;
    }
    clip->clip.inputs[port] = &clip->inputs[port];
}

void rt_clips_known(rt *rt, const Lt__Wire__Clips *clips)
{
    bool is_news = false;
    if (clips->closed > rt->n_closed) {
        rt->n_closed = clips->closed;
        is_news = true;
        for (int i = 0; i < RT_CLIPS; i++) {
            rt_clip *clip = &rt->clips[i];
            if (clip->state == RT_CLIP_NONE || clip->clip.index >= clips->closed || clip->ends) continue;
            clip->ends = true;
            clip->complete = !rt_is_sink(rt); /* a sink has not seen the end of it */
        }
    }
    if (clips->ended && !rt->is_ended) {
        rt->is_ended = is_news = true;
        rt->n_clips = clips->n_clips;
    }
    if (is_news && rt->output.socket) rt_output_announce_clips(rt);
}

void rt_clip_give_up(rt *rt, uint32_t index, const char *reason)
{
    if (rt->quits) return;
    rt_clip *clip = rt_clip_find(rt, index);
    if (!clip && index >= rt->n_closed && !rt_is_source(rt)) clip = add_clip(rt, index);
    if (!clip || clip->ends) return;
    lt_log(LT_LOG_WARN, "clip %u is given up: %s", index, reason);
    clip->ends = true;
    clip->complete = false;
    clip->is_given_up = true;
    size_t n = LT_MIN(strlen(reason), sizeof clip->reason - 1);
    while (n && ((unsigned char)reason[n] & 0xc0) == 0x80) n--; /* no half a character */
    memcpy(clip->reason, reason, n);
}

void rt_clip_safe(rt *rt, rt_clip *clip, uint32_t edge, uint64_t unit)
{
    if (clip->state != RT_CLIP_OPEN || unit < clip->output.n_units) return;
    clip->safe_edges |= UINT64_C(1) << edge;
    size_t n_edges = rt->output.boot->n_edges;
    uint64_t all = n_edges == 64 ? UINT64_MAX : (UINT64_C(1) << n_edges) - 1;
    if (clip->safe_edges != all || clip->ends) return;
    clip->ends = clip->complete = true;
}

/* ---- opening ---------------------------------------------------------------------------------------------------------------- */

static bool has_all_inputs(const rt *rt, const rt_clip *clip)
{
    for (int port = 0; port < rt->stage->n_inputs; port++)
        if (!clip->clip.inputs[port] && rt->inputs[port].edge) return false;
    return true;
}

static int count(const rt *rt, rt_clip_state least)
{
    int n = 0;
    for (int i = 0; i < RT_CLIPS; i++) n += rt->clips[i].state >= least;
    return n;
}

/* The clip whose turn it is to be opened, or NULL. A sink has one open at a time. */
static rt_clip *next_to_open(rt *rt)
{
    rt_clip *next = NULL;
    if (rt_is_source(rt)) {
        if (rt->is_ended || count(rt, RT_CLIP_ARRIVING) >= RT_CLIPS_OPEN) return NULL;
        next = add_clip(rt, rt->n_announced);
        rt->n_announced += next != NULL;
        return next;
    }
    if (rt_is_sink(rt) && (count(rt, RT_CLIP_OPENING) || rt->stop_asked)) return NULL;
    for (int i = 0; i < RT_CLIPS; i++) {
        rt_clip *clip = &rt->clips[i];
        if (clip->state != RT_CLIP_ARRIVING || clip->ends || !has_all_inputs(rt, clip)) continue;
        if (!next || clip->clip.index < next->clip.index) next = clip;
    }
    return next && rt_is_sink(rt) && next->clip.index != rt->n_closed ? NULL : next;
}

static lt_status check_output(const rt *rt, const rt_clip *clip, lt_err *err)
{
    const lt_stream *stream = &clip->output;
    lt_status status = lt_stream_check(stream, err);
    if (status) return lt_fail(err, LT_E_INTERNAL, "open_clip of %s: %s", rt->stage->kind, err->text);
    if (!(rt->output.port->kinds & 1u << stream->kind))
        return lt_fail(err, LT_E_INTERNAL, "open_clip of %s: port \"%s\" gives no %s", rt->stage->kind,
                       rt->output.port->name, lt_port_kind_name(stream->kind));
    uint64_t slot_bytes = rt->output.boot->slot_bytes;
    if (rt->output.has_slab) slot_bytes = rt->output.slab.slot_bytes;
    if (slot_bytes && stream->unit_bytes > slot_bytes)
        return lt_fail(err, LT_E_MISMATCH, "clip %s has units of %llu bytes; %llu were planned", stream->name,
                       (unsigned long long)stream->unit_bytes, (unsigned long long)slot_bytes);
    return LT_OK;
}

void rt_clip_opened(rt *rt, rt_clip *clip)
{
    lt_err err;
    clip->state = RT_CLIP_OPEN;
    rt->last_clip = clip->clip.index;
    if (rt_is_sink(rt)) {
        clip->next_unit = clip->clip.first_unit;
        if (clip->next_unit >= clip->clip.n_units) clip->ends = clip->complete = true;
        return;
    }
    clip->next_unit = clip->clip.first_unit;
    if (*rt->numeric_class) clip->output.numeric_class = (char *)rt->numeric_class;
    if (check_output(rt, clip, &err)) {
        rt_fail(rt, &err, NULL);
        return;
    }
    if (!clip->ends) rt_output_announce(rt, clip);
}

/* ---- finishing -------------------------------------------------------------------------------------------------------------- */

static void tell_upstream(rt *rt, rt_clip *clip)
{
    for (int port = 0; port < rt->stage->n_inputs; port++) {
        Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
        Lt__Wire__Safe safe = LT__WIRE__SAFE__INIT;
        Lt__Wire__GiveUp give_up = LT__WIRE__GIVE_UP__INIT;
        safe.unit = clip->clip.inputs[port] ? clip->inputs[port].n_units : UINT64_MAX;
        header.body_case = LT__WIRE__HEADER__BODY_SAFE;
        header.safe = &safe;
        if (clip->is_given_up) {
            give_up.reason = clip->reason;
            header.body_case = LT__WIRE__HEADER__BODY_GIVE_UP;
            header.give_up = &give_up;
        }
        rt_input_tell(rt, port, clip->clip.index, &header);
    }
}

/* Forget the clip, and tell the neighbours. */
static void close_clip(rt *rt, rt_clip *clip)
{
    uint32_t index = clip->clip.index;
    rt_requests_drop_clip(rt, index);
    rt_input_drop_clip(rt, index);
    if (rt->output.socket) rt_output_drop_clip(rt, index);
    /* Cut short because it was told to: the clip stays open for the next run. */
    bool was_stopped = rt_is_sink(rt) && rt->was_stopped && !clip->complete && !clip->is_given_up;
    if (!was_stopped) rt->n_closed = LT_MAX(rt->n_closed, index + 1);
    /* Done is written before anyone upstream can forget the clip. */
    if (rt_is_sink(rt) && ((rt->is_ended && rt->n_closed >= rt->n_clips) || was_stopped)) rt_finish_sink(rt);
    if (!was_stopped) tell_upstream(rt, clip);
    if (rt->output.socket && clip->is_given_up) rt_output_give_up(rt, clip);
    if (rt->output.socket) rt_output_announce_clips(rt);
    lt_arena_finish(&clip->arena);
    clip->state = RT_CLIP_NONE;
}

void rt_clip_finished(rt *rt, rt_clip *clip)
{
    if (rt->job.result && clip->complete) {
        if (rt->n_results == rt->results_room) {
            size_t room = LT_MAX(rt->results_room * 2, (size_t)8);
            const char **grown = realloc(rt->results, room * sizeof *grown);
            if (grown) {
                rt->results = grown;
                rt->results_room = room;
            }
        }
        char *result = lt_arena_strdup(&rt->arena, rt->job.result);
        if (result && rt->n_results < rt->results_room) rt->results[rt->n_results++] = result;
    }
    close_clip(rt, clip);
}

static rt_clip *lowest(rt *rt)
{
    rt_clip *lowest = NULL;
    for (int i = 0; i < RT_CLIPS; i++) {
        rt_clip *clip = &rt->clips[i];
        if (clip->state == RT_CLIP_NONE) continue;
        if (!lowest || clip->clip.index < lowest->clip.index) lowest = clip;
    }
    return lowest;
}

bool rt_clips_dispatch(rt *rt)
{
    rt_clip *clip;
    while ((clip = lowest(rt)) && clip->ends) {
        if (clip->state == RT_CLIP_ARRIVING) {
            close_clip(rt, clip);
            continue;
        }
        rt->job.complete = clip->complete;
        clip->state = RT_CLIP_FINISHING;
        rt_job_post(rt, RT_FINISH_CLIP, clip);
        return true;
    }
    clip = next_to_open(rt);
    if (!clip) return false;
    clip->state = RT_CLIP_OPENING;
    rt_job_post(rt, RT_OPEN_CLIP, clip);
    return true;
}

/* ---- marks ------------------------------------------------------------------------------------------------------------------ */

void rt_clips_send_safe(rt *rt)
{
    for (int i = 0; i < RT_CLIPS && rt_is_sink(rt); i++) {
        rt_clip *clip = &rt->clips[i];
        uint64_t safe = atomic_load(&clip->safe);
        if (clip->state != RT_CLIP_OPEN || safe <= clip->safe_sent || safe >= clip->clip.n_units) continue;
        clip->safe_sent = safe;
        lt_need needs[LT_MAX_PORTS] = {{0}};
        lt_err err;
        if (rt_need(rt, clip, safe, needs, &err)) continue;
        for (int port = 0; port < rt->stage->n_inputs; port++) {
            Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
            Lt__Wire__Safe message = LT__WIRE__SAFE__INIT;
            if (!needs[port].count) continue;
            message.unit = needs[port].first;
            header.body_case = LT__WIRE__HEADER__BODY_SAFE;
            header.safe = &message;
            rt_input_tell(rt, port, clip->clip.index, &header);
        }
    }
}
