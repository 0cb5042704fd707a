/* clips.c - the life of a clip in this stage: announced, opened, worked on, finished; in order of index at its end. */
#include "stages/runtime/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A source that is opening a clip may pass over some: which one it will be is known when the job returns. */
static bool has_index(const rt *rt, const rt_clip *clip)
{
    return clip->state != RT_CLIP_NONE && !(rt_is_source(rt) && clip->state == RT_CLIP_OPENING);
}

rt_clip *rt_clip_find(rt *rt, uint32_t index)
{
    for (int i = 0; i < RT_CLIPS; i++)
        if (has_index(rt, &rt->clips[i]) && rt->clips[i].clip.index == index) return &rt->clips[i];
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

void rt_clip_arrived(rt *rt, int port, uint32_t index, uint32_t since, const lt_stream *stream)
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
        if (!field && !lt_stream_is_endless(stream))
            rt_clip_end_came(rt, port, index, stream->n_frames, stream->n_units, stream->last_duration);
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
    clip->since = clip->has_turn_word ? LT_MAX(clip->since, since) : since;
    clip->has_turn_word = true;
}

const lt_stream *rt_clip_stream(const rt *rt, const rt_clip *clip)
{
    if (rt_is_source(rt)) return *clip->output.name ? &clip->output : NULL;
    for (int port = 0; port < rt->stage->n_inputs; port++)
        if (clip->clip.inputs[port]) return clip->clip.inputs[port];
    return NULL;
}

/* Clips below `closed` are no more. True: that is news. */
static bool close_below(rt *rt, uint32_t closed)
{
    if (closed <= rt->n_closed) return false;
    rt->n_closed = closed;
    if (rt_is_source(rt)) rt->n_announced = LT_MAX(rt->n_announced, closed);
    for (int i = 0; i < RT_CLIPS; i++) {
        rt_clip *clip = &rt->clips[i];
        if (!has_index(rt, clip) || clip->clip.index >= closed) continue;
        clip->safe_edges = UINT64_MAX;
        if (clip->ends) continue;
        clip->ends = true;
        clip->complete = !rt_is_sink(rt); /* a sink has not seen the end of it */
    }
    return true;
}

void rt_clips_known(rt *rt, const Lt__Wire__Clips *clips)
{
    bool is_news = close_below(rt, clips->closed);
    if (clips->ended && !rt->is_ended) {
        rt->is_ended = is_news = true;
        rt->n_clips = clips->n_clips;
    }
    if (is_news && rt->output.socket) rt_output_announce_clips(rt);
}

void rt_clips_closed_below(rt *rt, uint32_t edge, uint32_t closed)
{
    size_t n_edges = rt->output.boot->n_edges;
    if (edge >= LT_COUNT(rt->edge_closed)) return;
    rt->edge_closed[edge] = LT_MAX(rt->edge_closed[edge], closed);
    for (size_t e = 0; e < n_edges; e++) closed = LT_MIN(closed, rt->edge_closed[e]);
    if (close_below(rt, closed)) rt_output_announce_clips(rt);
}

/* ---- live clips --------------------------------------------------------------------------------------------------------- */

void rt_clip_end_came(rt *rt, int port, uint32_t index, uint64_t n_frames, uint64_t n_units,
                      int64_t last_duration)
{
    rt_clip *clip = rt_clip_find(rt, index);
    if (!clip || !clip->clip.inputs[port] || !lt_stream_is_endless(&clip->inputs[port])) return;
    if (clip->ends_come[port]) return;
    clip->ends_come[port] = true;
    clip->end_of[port].n_frames = n_frames;
    clip->end_of[port].n_units = n_units;
    clip->end_of[port].last_duration = last_duration;
}

/* Units of the output, or of the sink, where the stage does not say itself. */
static void follow_input(rt *rt, rt_clip *clip)
{
    if (rt_is_sink(rt)) {
        clip->clip.n_units = clip->inputs[0].n_units;
        return;
    }
    clip->output.n_frames = clip->inputs[0].n_frames;
    clip->output.n_units = clip->inputs[0].n_units;
}

/* The length of the output is known: of what lies behind it nothing is asked or made any more. */
static void tell_end(rt *rt, rt_clip *clip)
{
    rt_requests_revise(rt, clip, clip->output.n_units);
    clip->is_end_told = true;
    rt_output_end(rt, clip);
}

static void apply_end(rt *rt, rt_clip *clip, int port)
{
    lt_stream *input = &clip->inputs[port];
    lt_err err = {0};
    input->n_frames = clip->end_of[port].n_frames;
    input->n_units = clip->end_of[port].n_units;
    input->last_duration = clip->end_of[port].last_duration;
    clip->ends_come[port] = false;
    if (clip->state != RT_CLIP_OPEN || clip->ends) return; /* who opens it next sees it as it is now */
    clip->output.last_duration = input->last_duration;
    if (!rt->stage->ended) {
        follow_input(rt, clip);
    } else if (rt->stage->ended(rt->state, &clip->clip, &err)) {
        rt_fail(rt, &err, NULL);
        return;
    }
    if (rt_is_sink(rt))
        rt_requests_revise(rt, clip, clip->clip.n_units);
    else
        tell_end(rt, clip);
    rt_input_drop_behind(rt, port, clip->clip.index, input->n_units);
    if (rt_is_sink(rt) && clip->next_unit >= clip->clip.n_units) clip->ends = clip->complete = true;
}

void rt_clips_apply_ends(rt *rt)
{
    for (int i = 0; i < RT_CLIPS; i++)
        for (int port = 0; port < rt->stage->n_inputs && rt->clips[i].state != RT_CLIP_NONE; port++)
            if (rt->clips[i].ends_come[port]) apply_end(rt, &rt->clips[i], port);
}

void rt_clip_source_ended(rt *rt, rt_clip *clip)
{
    lt_stream *output = &clip->output;
    output->n_frames = clip->clip.end_frames;
    output->n_units = (output->n_frames + output->chunk - 1) / output->chunk;
    output->last_duration = LT_MAX(clip->clip.end_duration, 0);
    tell_end(rt, clip);
}

/* ---- giving up ---------------------------------------------------------------------------------------------------------- */

static void abandon(rt *rt, rt_clip *clip, const char *reason, bool is_passed_over)
{
    if (rt->quits || clip->ends) return;
    lt_log(LT_LOG_WARN, "clip %u is %s: %s", clip->clip.index, is_passed_over ? "passed over" : "given up",
           reason);
    clip->ends = true;
    clip->complete = false;
    clip->is_given_up = true;
    clip->is_passed_over = is_passed_over;
    lt_text_clean(clip->reason, reason, sizeof clip->reason - 1);
}

void rt_clip_give_up(rt *rt, rt_clip *clip, const Lt__Wire__GiveUp *word, int from_below)
{
    if (from_below >= 0 && from_below < 64) clip->safe_edges |= UINT64_C(1) << from_below;
    abandon(rt, clip, word->reason, word->passed_over);
}

void rt_clip_given_up_above(rt *rt, uint32_t index, const Lt__Wire__GiveUp *word)
{
    rt_clip *clip = rt_clip_find(rt, index);
    if (rt->quits || (!clip && index < rt->n_closed)) return;
    if (!clip) clip = add_clip(rt, index);
    if (!clip || clip->ends) return;
    if (!clip->has_turn_word) {
        clip->since = word->since;
        clip->has_turn_word = true;
    }
    clip->name = lt_arena_strdup(&clip->arena, word->name);
    clip->entry = lt_arena_strdup(&clip->arena, word->entry);
    clip->key = lt_arena_strdup(&clip->arena, word->key);
    abandon(rt, clip, word->reason, word->passed_over);
}

void rt_clip_doom(rt *rt, uint32_t index, const char *reason)
{
    rt_clip *clip = rt_clip_find(rt, index);
    if (clip) {
        abandon(rt, clip, reason, false);
    } else if (index >= rt->n_closed && rt->n_doomed < RT_DOOMED) {
        pthread_mutex_lock(&rt->mutex);
        rt->doomed[rt->n_doomed].clip = index;
        lt_text_clean(rt->doomed[rt->n_doomed++].reason, reason, sizeof rt->doomed[0].reason - 1);
        pthread_mutex_unlock(&rt->mutex);
    }
}

const char *rt_clip_is_doomed(rt *rt, uint32_t index)
{
    const char *reason = NULL;
    pthread_mutex_lock(&rt->mutex);
    for (int i = 0; i < rt->n_doomed && !reason; i++)
        if (rt->doomed[i].clip == index) reason = rt->doomed[i].reason;
    pthread_mutex_unlock(&rt->mutex);
    return reason;
}

static bool is_clips_own(const rt *rt, lt_status status)
{
    switch (status) {
    case LT_E_INVALID:
    case LT_E_FORMAT:
    case LT_E_UNSUPPORTED:
    case LT_E_NOT_FOUND:
    case LT_E_MISMATCH:
    case LT_E_NUMERIC: return true;
    case LT_AGAIN:
    case LT_E_IO:
    case LT_E_PERMISSION: return rt_is_source(rt);
    default: return false;
    }
}

bool rt_clip_fail(rt *rt, rt_clip *clip, lt_status status, const lt_err *err)
{
    const lt_stream *stream = rt_clip_stream(rt, clip);
    if (!stream || !stream->expendable || !is_clips_own(rt, status)) return false;
    if (clip->ends && !clip->is_given_up) clip->ends = false; /* it failed at its end */
    abandon(rt, clip, *err->text ? err->text : lt_status_string(status), status == LT_AGAIN);
    return true;
}

static bool has_all_edges(const rt *rt, const rt_clip *clip)
{
    size_t n_edges = rt->output.socket ? rt->output.boot->n_edges : 0;
    uint64_t all = n_edges >= 64 ? UINT64_MAX : (UINT64_C(1) << n_edges) - 1;
    return (clip->safe_edges & all) == all;
}

void rt_clip_safe(rt *rt, rt_clip *clip, uint32_t edge, uint64_t unit)
{
    if (clip->state == RT_CLIP_GIVEN_UP) clip->safe_edges |= UINT64_C(1) << edge;
    if (clip->state != RT_CLIP_OPEN || unit < clip->output.n_units) return;
    clip->safe_edges |= UINT64_C(1) << edge;
    if (!has_all_edges(rt, clip) || clip->ends) return;
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

/* A sink: whether nothing that it has to do comes between what it is at and this clip. */
static bool is_next(const rt *rt, const rt_clip *clip)
{
    uint32_t next = rt->n_closed;
    for (int i = 0; i < RT_CLIPS; i++)
        if (rt->clips[i].state >= RT_CLIP_OPENING) next = LT_MAX(next, rt->clips[i].clip.index + 1);
    return clip->has_turn_word && clip->since <= next;
}

/* The clip whose turn it is to be opened, or NULL. A sink has one open at a time, or as many as it likes. */
static rt_clip *next_to_open(rt *rt)
{
    rt_clip *next = NULL;
    if (rt_is_source(rt)) {
        if (rt->is_ended || count(rt, RT_CLIP_ARRIVING) >= RT_CLIPS_OPEN) return NULL;
        next = add_clip(rt, rt->n_announced);
        rt->n_announced += next != NULL;
        return next;
    }
    if (rt_is_sink(rt) && (count(rt, RT_CLIP_OPENING) >= LT_MAX(rt->stage->clips_ahead, 1) || rt->stop_asked))
        return NULL;
    for (int i = 0; i < RT_CLIPS; i++) {
        rt_clip *clip = &rt->clips[i];
        if (clip->state != RT_CLIP_ARRIVING || clip->ends || !has_all_inputs(rt, clip)) continue;
        if (!next || clip->clip.index < next->clip.index) next = clip;
    }
    return next && rt_is_sink(rt) && !is_next(rt, next) ? NULL : next;
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
    /* A clip of a data set may be larger than those that were looked at for the plan: its units are copied. */
    if (slot_bytes && stream->unit_bytes > slot_bytes && !stream->expendable)
        return lt_fail(err, LT_E_MISMATCH, "clip %s has units of %llu bytes; %llu were planned", stream->name,
                       (unsigned long long)stream->unit_bytes, (unsigned long long)slot_bytes);
    return LT_OK;
}

void rt_clip_opened(rt *rt, rt_clip *clip)
{
    lt_err err;
    clip->state = RT_CLIP_OPEN;
    rt->last_clip = clip->clip.index;
    const char *reason = rt_clip_is_doomed(rt, clip->clip.index);
    if (reason) abandon(rt, clip, reason, false);
    if (rt_is_sink(rt)) {
        clip->next_unit = clip->clip.first_unit;
        if (clip->next_unit >= clip->clip.n_units) clip->ends = clip->complete = true;
        return;
    }
    clip->next_unit = clip->clip.first_unit;
    if (*rt->numeric_class) clip->output.numeric_class = (char *)rt->numeric_class;
    clip->output.unit_bytes = rt_unit_bytes(&clip->output);
    if (check_output(rt, clip, &err)) {
        rt_fail(rt, &err, NULL);
        return;
    }
    if (rt_is_source(rt) && clip->clip.index < rt->n_closed && !clip->ends)
        clip->ends = clip->complete = true;
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
    if (rt_is_sink(rt) && clip->complete) {
        rt->clips_done++;
        if (clip->clip.inputs[0]) rt->frames_of_clips += clip->inputs[0].n_frames;
    }
    if (rt_is_sink(rt) && (clip->complete || clip->is_given_up)) rt_report_clip_end(rt, clip);
    /* Done is written before anyone upstream can forget the clip. */
    if (rt_is_sink(rt) && ((rt->is_ended && rt->n_closed >= rt->n_clips) || was_stopped)) rt_finish_sink(rt);
    if (!was_stopped) tell_upstream(rt, clip);
    if (rt->output.socket) rt_output_announce_clips(rt);
    lt_arena_finish(&clip->arena);
    clip->state = RT_CLIP_NONE;
}

/* The clip is through here. One that was given up is kept until the consumers know: one of them that is started again
 * has to be told once more, and a sink must not be given the next clip before. */
static void leave(rt *rt, rt_clip *clip)
{
    if (!clip->is_given_up || has_all_edges(rt, clip)) {
        close_clip(rt, clip);
        return;
    }
    clip->state = RT_CLIP_GIVEN_UP;
    rt_requests_drop_clip(rt, clip->clip.index);
    rt_input_drop_clip(rt, clip->clip.index);
    rt_output_drop_clip(rt, clip->clip.index);
    rt_output_give_up(rt, clip);
}

void rt_clip_finished(rt *rt, rt_clip *clip)
{
    if (rt->job.result && clip->complete) {
        clip->result = lt_arena_strdup(&clip->arena, rt->job.result);
        char *result = rt->n_results < RT_RESULTS ? lt_arena_strdup(&rt->arena, rt->job.result) : NULL;
        if (result) rt->results[rt->n_results++] = result;
    }
    leave(rt, clip);
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

/* What has never been opened, and ends: whether it can be left now. */
static bool may_leave(const rt *rt, const rt_clip *clip)
{
    if (clip->clip.index < rt->n_closed || rt_is_source(rt)) return true;
    if (rt_is_sink(rt)) return clip->has_turn_word && clip->since <= rt->n_closed;
    return rt_clip_stream(rt, clip) || clip->name;
}

/* Clips that end are finished, or left, the lowest first; true when a job was posted for one. */
static bool end_lowest(rt *rt)
{
    rt_clip *clip;
    while ((clip = lowest(rt)) && clip->ends) {
        if (clip->state == RT_CLIP_GIVEN_UP) {
            if (!has_all_edges(rt, clip)) return false;
            close_clip(rt, clip);
        } else if (!clip->is_stage_open) {
            if (!may_leave(rt, clip)) return false;
            leave(rt, clip);
            if (clip->state == RT_CLIP_GIVEN_UP) return false;
        } else {
            rt->job.complete = clip->complete;
            clip->state = RT_CLIP_FINISHING;
            rt_job_post(rt, RT_FINISH_CLIP, clip);
            return true;
        }
    }
    return false;
}

bool rt_clips_dispatch(rt *rt)
{
    if (end_lowest(rt)) return true;
    if (rt->quits) return false;
    rt_clip *clip = next_to_open(rt);
    const char *reason = clip && !rt_is_source(rt) ? rt_clip_is_doomed(rt, clip->clip.index) : NULL;
    if (reason) { /* opening it would be one more death */
        abandon(rt, clip, reason, false);
        return rt_clips_dispatch(rt);
    }
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
