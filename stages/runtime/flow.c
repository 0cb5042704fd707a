/* flow.c - demand: what shall be made, what that takes, and which piece is worked on next. */
#include "stages/runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

/* ---- requests ------------------------------------------------------------------------------------------------------------- */

/* The plan has seen one clip, and says what that takes. For another there is more room where it must be: what finds no slot comes as a
 * copy, so that it waits for nobody. */
static uint32_t most_at_once(const rt *rt, const rt_clip *clip, int port)
{
    const lt_stream *stream = rt_clip_stream(rt, clip);
    bool is_planned = !clip->clip.index && !(stream && stream->expendable);
    return is_planned ? rt->inputs[port].n_credits
                      : LT_MAX(rt->inputs[port].n_credits, (uint32_t)RT_UNITS_AT_ONCE);
}

lt_status rt_need(rt *rt, const rt_clip *clip, uint64_t unit, lt_need needs[LT_MAX_PORTS], lt_err *err)
{
    const lt_stage *stage = rt->stage;
    lt_status status = LT_OK;
    if (rt_is_source(rt)) return LT_OK;
    if (rt->quit_posted) /* what the stage made is being freed */
        return lt_fail(err, LT_E_TRANSIENT, "%s is ending", stage->kind);
    if (stage->need) status = stage->need(rt->state, &clip->clip, unit, needs, err);
    for (int port = 0; port < stage->n_inputs && !stage->need; port++)
        needs[port] = (lt_need){unit, rt->inputs[port].edge != NULL};
    if (status) err->status = status;
    for (int port = 0; port < stage->n_inputs && !status; port++) {
        const lt_need *need = &needs[port];
        uint64_t n_units = clip->inputs[port].n_units;
        if (need->count && (need->first >= n_units || need->count > n_units - need->first))
            status = lt_fail(err, LT_E_INTERNAL,
                             "unit %llu needs units %llu to %llu of port \"%s\", which has %llu",
                             (unsigned long long)unit, (unsigned long long)need->first,
                             (unsigned long long)(need->first + need->count - 1), stage->inputs[port].name,
                             (unsigned long long)n_units);
        else if (need->count > most_at_once(rt, clip, port))
            status =
                lt_fail(err, LT_E_INVALID,
                        "unit %llu needs %llu units of port \"%s\" at once, but only %u may be in flight",
                        (unsigned long long)unit, (unsigned long long)need->count, stage->inputs[port].name,
                        most_at_once(rt, clip, port));
    }
    return status;
}

/* Where `key` is, or belongs. */
static size_t position(const rt *rt, rt_key key)
{
    size_t low = 0, high = rt->n_requests;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (rt_key_compare(rt->requests[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool rt_request_add(rt *rt, rt_clip *clip, uint64_t unit)
{
    rt_request request = {.key = {clip->clip.index, unit}, .clip = clip};
    size_t at = position(rt, request.key);
    lt_err err = {0};
    if (at < rt->n_requests && !rt_key_compare(rt->requests[at].key, request.key)) return true;
    lt_status status = rt_need(rt, clip, unit, request.needs, &err);
    if (status) {
        if (!rt_clip_fail(rt, clip, status, &err)) rt_fail(rt, &err, &request.key);
        return false;
    }
    if (rt->n_requests == rt->requests_room) {
        size_t room = LT_MAX(rt->requests_room * 2, (size_t)64);
        rt_request *grown = realloc(rt->requests, room * sizeof *grown);
        if (!grown) {
            lt_fail(&err, LT_E_NO_MEMORY, "no memory for %zu requests", room);
            rt_fail(rt, &err, NULL);
            return false;
        }
        rt->requests = grown;
        rt->requests_room = room;
    }
    memmove(rt->requests + at + 1, rt->requests + at, (rt->n_requests - at) * sizeof request);
    rt->requests[at] = request;
    rt->n_requests++;
    return true;
}

static void remove_request(rt *rt, size_t at)
{
    memmove(rt->requests + at, rt->requests + at + 1, (--rt->n_requests - at) * sizeof *rt->requests);
}

void rt_requests_revise(rt *rt, rt_clip *clip, uint64_t n_units)
{
    for (size_t i = rt->n_requests; i-- > 0;) {
        rt_request *request = &rt->requests[i];
        rt_key key = request->key;
        lt_err err = {0};
        if (key.clip != clip->clip.index || request->is_running) continue;
        if (key.unit >= n_units) {
            remove_request(rt, i);
            continue;
        }
        lt_status status = rt_need(rt, clip, key.unit, request->needs, &err);
        if (status && !rt_clip_fail(rt, clip, status, &err)) rt_fail(rt, &err, &key);
    }
}

void rt_requests_drop_clip(rt *rt, uint32_t clip)
{
    for (size_t i = rt->n_requests; i-- > 0;)
        if (rt->requests[i].key.clip == clip) remove_request(rt, i);
}

void rt_requests_prune(rt *rt)
{
    for (size_t i = rt->n_requests; i-- > 0;) {
        bool is_wanted = rt->requests[i].is_running;
        for (size_t w = 0; w < rt->output.n_wants && !is_wanted; w++)
            is_wanted = !rt_key_compare(rt->output.wants[w].key, rt->requests[i].key);
        if (!is_wanted) remove_request(rt, i);
    }
}

/* A sink asks itself: for the next unit, and as many behind it as there may be input for. */
static void look_ahead(rt *rt)
{
    uint64_t ahead = 0;
    for (int port = 0; port < rt->stage->n_inputs; port++) ahead = LT_MAX(ahead, rt->inputs[port].n_credits);
    for (int64_t last = -1; ahead && last < UINT32_MAX;) {
        rt_clip *clip = NULL;
        for (int i = 0; i < RT_CLIPS; i++) {
            rt_clip *other = &rt->clips[i];
            if (other->state != RT_CLIP_OPEN || other->ends || (int64_t)other->clip.index <= last) continue;
            if (!clip || other->clip.index < clip->clip.index) clip = other;
        }
        if (!clip) return;
        last = clip->clip.index;
        uint64_t end = LT_MIN(clip->clip.n_units, clip->next_unit + ahead);
        ahead -= end - clip->next_unit;
        for (uint64_t unit = clip->next_unit; unit < end; unit++)
            if (!rt_request_add(rt, clip, unit)) return;
    }
}

/* Who wants a unit that follows from others wants the next one that is missing, too. */
static void keep_order(rt *rt)
{
    for (int i = 0; i < RT_CLIPS; i++) {
        rt_clip *clip = &rt->clips[i];
        if (clip->state != RT_CLIP_OPEN || clip->ends || clip->next_unit >= clip->output.n_units) continue;
        size_t at = position(rt, (rt_key){clip->clip.index, clip->next_unit});
        bool is_wanted = at < rt->n_requests && rt->requests[at].clip == clip;
        if (is_wanted && rt->requests[at].key.unit != clip->next_unit)
            rt_request_add(rt, clip, clip->next_unit);
    }
}

/* ---- input ------------------------------------------------------------------------------------------------------------------ */

/* Room for everything `request` lacks of a port. False: there is no more. */
static bool gather(rt *rt, int port, const rt_request *request, bool is_first)
{
    const lt_need *need = &request->needs[port];
    lt_err err;
    if (is_first && rt_input_grow(rt, port, (uint32_t)need->count, &err)) {
        rt_fail(rt, &err, &request->key);
        return false;
    }
    for (uint64_t i = 0; i < need->count; i++) {
        rt_key key = {request->key.clip, need->first + i};
        if (rt_input_find(&rt->inputs[port], key)) continue;
        if (!rt_input_make_room(rt, port, key, is_first ? request : NULL)) return false;
    }
    return true;
}

static void fetch(rt *rt)
{
    for (int port = 0; port < rt->stage->n_inputs; port++) {
        bool is_first = true, has_room = true;
        for (size_t i = 0; i < rt->n_requests && has_room; i++) {
            if (rt->requests[i].is_running) continue;
            has_room = gather(rt, port, &rt->requests[i], is_first);
            is_first = false;
        }
        rt_input_ask(rt, port);
    }
}

/* ---- jobs ------------------------------------------------------------------------------------------------------------------- */

static bool is_ready(rt *rt, const rt_request *request)
{
    for (int port = 0; port < rt->stage->n_inputs; port++)
        for (uint64_t i = 0; i < request->needs[port].count; i++) {
            rt_key key = {request->key.clip, request->needs[port].first + i};
            const rt_item *item = rt_input_find(&rt->inputs[port], key);
            if (!item || item->state != RT_ITEM_HELD) return false;
        }
    return true;
}

/* The lowest that can be worked on; of a sink only the next. */
static rt_request *choose(rt *rt)
{
    for (size_t i = 0; i < rt->n_requests; i++) {
        rt_request *request = &rt->requests[i];
        if (request->clip->ends) continue;
        if (rt->stage->in_order && request->key.unit > request->clip->next_unit) continue;
        if (is_ready(rt, request)) return request;
        if (rt_is_sink(rt)) break;
    }
    return NULL;
}

/* Room for what a job is given. */
static lt_status make_inputs(rt_job *job, int port, uint64_t count, lt_err *err)
{
    if (count <= job->input_room[port]) return LT_OK;
    lt_payload *grown = realloc(job->inputs[port], count * sizeof *grown);
    if (!grown)
        return lt_fail(err, LT_E_NO_MEMORY, "no memory for %llu units at once", (unsigned long long)count);
    job->inputs[port] = grown;
    job->input_room[port] = count;
    return LT_OK;
}

static void start(rt *rt, rt_request *request)
{
    rt_job *job = &rt->job;
    lt_err err;
    job->unit = request->key.unit;
    for (int port = 0; port < rt->stage->n_inputs; port++) {
        job->n_inputs[port] = request->needs[port].count;
        if (make_inputs(job, port, request->needs[port].count, &err)) {
            rt_fail(rt, &err, &request->key);
            return;
        }
        for (uint64_t i = 0; i < request->needs[port].count; i++) {
            rt_key key = {request->key.clip, request->needs[port].first + i};
            rt_item *item = rt_input_find(&rt->inputs[port], key);
            item->in_use = true;
            job->inputs[port][i] = item->payload;
        }
    }
    if (!rt_is_sink(rt)) {
        uint64_t bytes = lt_round_up(request->clip->output.unit_bytes, LT_PAYLOAD_ALIGNMENT);
        job->output = (lt_payload){.unit = request->key.unit};
        if (rt_output_memory(rt, request->key, bytes, &job->memory, &job->output, &err)) {
            rt_fail(rt, &err, &request->key);
            return;
        }
    }
    request->is_running = true;
    rt_job_post(rt, RT_PROCESS, request->clip);
}

static void finish_sink_unit(rt *rt, rt_clip *clip)
{
    clip->next_unit++;
    if (clip->next_unit >= clip->clip.n_units) clip->ends = clip->complete = true;
}

/* The job is no more: its inputs may go. */
static void settle(rt *rt, rt_key key)
{
    size_t at = position(rt, key);
    if (at < rt->n_requests && !rt_key_compare(rt->requests[at].key, key)) remove_request(rt, at);
    for (int port = 0; port < rt->stage->n_inputs; port++)
        for (uint32_t i = 0; i < rt->inputs[port].n_items; i++) rt->inputs[port].items[i]->in_use = false;
}

/* One more unit of a clip was made. Where windows overlap, each has its share of the clip's frames. */
static void count_unit(rt *rt, rt_clip *clip, const lt_payload *made)
{
    const lt_stream *stream = &clip->output;
    uint64_t frames = clip->frames;
    clip->units++;
    for (int i = 0; i < made->n_spans; i++) /* a second run of the same frames is not more of them */
        if (!i || made->spans[i].first != made->spans[i - 1].first) frames += made->spans[i].count;
    if (stream->windows && stream->n_units)
        frames = (uint64_t)((double)stream->n_frames * (double)clip->units / (double)stream->n_units + 0.5);
    rt->frames_made += LT_MAX(frames, clip->frames) - clip->frames;
    clip->frames = frames;
}

/* A unit was made, or consumed. */
static void processed(rt *rt, rt_clip *clip, rt_key key)
{
    rt_job *job = &rt->job;
    lt_err err;
    rt->units_done++;
    rt->last_clip = key.clip;
    settle(rt, key);
    if (rt->stage->in_order && key.unit == clip->next_unit) clip->next_unit++;
    if (rt_is_sink(rt)) {
        finish_sink_unit(rt, clip);
    } else if (!job->output.n_spans) {
        lt_fail(&err, LT_E_INTERNAL, "process of %s made nothing", rt->stage->kind);
        rt_fail(rt, &err, &key);
    } else {
        count_unit(rt, clip, &job->output);
        rt->bytes_out += job->output.bytes;
        rt_output_deliver(rt, key, &job->output, &job->memory);
    }
    rt_report_progress(rt);
}

static void fail_job(rt *rt, const char *what, const rt_key *unit)
{
    lt_err *err = &rt->job.err;
    lt_status status = rt->job.status;
    if (status == LT_END || status == LT_AGAIN) status = LT_E_INTERNAL;
    if (!*err->text)
        lt_fail(err, status, "%s of %s failed: %s", what, rt->stage->kind, lt_status_string(rt->job.status));
    err->status = status;
    rt_fail(rt, err, unit);
}

/* A unit failed: the clip's own fault, or the run's. */
static void process_failed(rt *rt, rt_clip *clip, rt_key key)
{
    rt_job *job = &rt->job;
    if (clip->ends) return; /* the clip is lost already */
    if (!rt_clip_fail(rt, clip, job->status, &job->err)) fail_job(rt, "process", &key);
}

static void opened(rt *rt, rt_clip *clip)
{
    rt_job *job = &rt->job;
    if (rt_is_source(rt)) {
        clip->has_turn_word = true;
        clip->since = clip->clip.index;
        clip->clip.index += clip->clip.passed;
        rt->n_announced = LT_MAX(rt->n_announced, clip->clip.index + 1);
    }
    if (job->status == LT_END && rt_is_source(rt)) {
        rt->is_ended = true;
        rt->n_clips =
            LT_MAX(clip->since, rt->n_closed); /* what is passed over at the end is no clip of the run */
        lt_arena_finish(&clip->arena);
        clip->state = RT_CLIP_NONE;
        rt_output_announce_clips(rt);
    } else if (!job->status) {
        rt_clip_opened(rt, clip);
    } else if (!rt_clip_fail(rt, clip, job->status, &job->err)) {
        fail_job(rt, "open_clip", NULL);
    }
}

static void returned(rt *rt)
{
    rt_job *job = &rt->job;
    rt_clip *clip = job->clip;
    rt_key key = {clip ? clip->clip.index : 0, job->unit};
    switch (job->kind) {
    case RT_CREATE:
        if (job->status) {
            fail_job(rt, "create", NULL);
        } else {
            rt->is_ready = true;
            rt_report_ready(rt);
        }
        break;
    case RT_OPEN_CLIP: opened(rt, clip); break;
    case RT_PROCESS:
        rt->busy_ns += (uint64_t)job->busy_ns;
        if (rt_is_source(rt) && clip->clip.has_ended && !clip->is_end_told) rt_clip_source_ended(rt, clip);
        if (!job->status)
            processed(rt, clip, key);
        else if (job->status == LT_END && rt_is_source(rt) && clip->clip.has_ended)
            rt_report_progress(rt); /* a unit behind the end was asked for */
        else if (job->status == LT_END && rt_is_sink(rt) && rt->was_stopped)
            clip->ends = true;
        else
            process_failed(rt, clip, key);
        if (job->status) {
            settle(rt, key);
            rt_memory_free(rt, &job->memory, rt->output.me);
        }
        break;
    case RT_FINISH_CLIP:
        if (!job->status || rt_clip_fail(rt, clip, job->status, &job->err))
            rt_clip_finished(rt, clip);
        else
            fail_job(rt, "finish_clip", NULL);
        break;
    case RT_QUIT: rt->has_quit = true; break;
    }
}

void rt_finish_sink(rt *rt)
{
    if (!rt->has_reported_done) rt_report_done(rt);
    rt->has_reported_done = true;
    rt_quit(rt, LT_EXIT_DONE, -1);
}

/* A sink that has nothing left to do, or nothing it may still do. */
static bool is_finished(rt *rt)
{
    int n = 0;
    for (int i = 0; i < RT_CLIPS; i++)
        n += rt->clips[i].state > RT_CLIP_ARRIVING || (!rt->stop_asked && rt->clips[i].state != RT_CLIP_NONE);
    return !n && (rt->stop_asked || (rt->is_ended && rt->n_closed >= rt->n_clips));
}

void rt_pump(rt *rt)
{
    if (rt_job_take(rt)) returned(rt);
    rt_clips_send_safe(rt);
    bool is_idle = rt_job_is_idle(rt);
    if (is_idle && rt->is_ready && rt_is_sink(rt) && !rt->quits && is_finished(rt)) rt_finish_sink(rt);
    if (rt->quits && is_idle && !rt->quit_posted) {
        rt->quit_posted = true;
        rt_job_post(rt, RT_QUIT, NULL);
    }
    if (rt->quits || !rt->is_ready) return;
    if (is_idle) rt_clips_apply_ends(rt);
    if (rt_is_sink(rt)) look_ahead(rt);
    if (rt->stage->in_order) keep_order(rt);
    fetch(rt);
    if (!is_idle || rt_clips_dispatch(rt) || rt->quits) return;
    rt_request *request = choose(rt);
    if (request) start(rt, request);
}
