/* report.c - what the orchestrator is told. A report is written whole before the next: two threads write. */
#include "stages/runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

static void send_report(rt *rt, const Lt__Wire__Report *report)
{
    lt_err err;
    pthread_mutex_lock(&rt->report_mutex);
    lt_status status = lt_report_write(rt->report_fd, report, &err);
    pthread_mutex_unlock(&rt->report_mutex);
    /* END: the orchestrator is gone, which standard input will say too. */
    if (status && status != LT_END) lt_log(LT_LOG_ERROR, "%s", err.text);
}

void rt_report_ready(rt *rt)
{
    Lt__Wire__Ready ready = LT__WIRE__READY__INIT;
    Lt__Wire__Bound bound = LT__WIRE__BOUND__INIT, *list[1] = {&bound};
    Lt__Wire__Report report = LT__WIRE__REPORT__INIT;
    if (rt->output.socket) {
        bound.port = (char *)rt->output.port->name;
        bound.endpoint = rt->output.endpoint;
        ready.n_bound = 1;
        ready.bound = list;
    }
    ready.numeric_class = (char *)rt->numeric_class;
    report.body_case = LT__WIRE__REPORT__BODY_READY;
    report.ready = &ready;
    send_report(rt, &report);
}

void rt_report_started(rt *rt, uint32_t clip, uint64_t unit)
{
    Lt__Wire__Started started = LT__WIRE__STARTED__INIT;
    Lt__Wire__Report report = LT__WIRE__REPORT__INIT;
    started.clip = clip;
    started.unit = unit;
    report.body_case = LT__WIRE__REPORT__BODY_STARTED;
    report.started = &started;
    send_report(rt, &report);
}

/* Frames of the clip that are behind us, and all of them. */
static void count_frames(const rt *rt, const rt_clip *clip, Lt__Wire__Progress *progress)
{
    const lt_stream *stream = rt_is_sink(rt) ? &clip->inputs[0] : &clip->output;
    progress->frames_total = lt_stream_is_endless(stream) ? 0 : stream->n_frames;
    progress->frames_done = clip->frames;
    if (rt_is_sink(rt) && clip->clip.n_units)
        progress->frames_done =
            (uint64_t)((double)stream->n_frames * (double)clip->next_unit / (double)clip->clip.n_units);
    if (!rt_is_sink(rt) || !stream->run_clips) return;
    progress->frames_done += rt->frames_of_clips;
    progress->frames_total = 0;
}

void rt_report_progress(rt *rt)
{
    Lt__Wire__Progress progress = LT__WIRE__PROGRESS__INIT;
    Lt__Wire__Report report = LT__WIRE__REPORT__INIT;
    const rt_clip *clip = rt_clip_find(rt, rt->last_clip);
    progress.clip = rt->last_clip;
    if (clip && (clip->state == RT_CLIP_OPEN || clip->state == RT_CLIP_FINISHING))
        count_frames(rt, clip, &progress);
    progress.units_done = rt->units_done;
    progress.frames_made = rt->frames_made;
    for (size_t i = 0; i < rt->n_requests; i++) progress.queued += !rt->requests[i].is_running;
    for (int p = 0; p < rt->stage->n_inputs; p++)
        for (uint32_t i = 0; i < rt->inputs[p].n_items; i++)
            progress.held += rt->inputs[p].items[i]->state == RT_ITEM_HELD;
    progress.cached = atomic_load(&rt->n_cached);
    progress.moves = atomic_load(&rt->n_moves);
    progress.busy_ns = rt->busy_ns;
    progress.bytes_out = rt->bytes_out;
    progress.idle = rt_job_is_idle(rt);
    progress.clips_done = rt->clips_done;
    if (clip && rt_clip_stream(rt, clip)) progress.clips_total = rt_clip_stream(rt, clip)->run_clips;
    report.body_case = LT__WIRE__REPORT__BODY_PROGRESS;
    report.progress = &progress;
    send_report(rt, &report);
}

void rt_report_failed(rt *rt, const lt_err *err, const rt_key *unit)
{
    Lt__Wire__Failed failed = LT__WIRE__FAILED__INIT;
    Lt__Wire__Report report = LT__WIRE__REPORT__INIT;
    char text[sizeof err->text];
    lt_text_clean(text, err->text, sizeof text - 1);
    failed.status = (uint32_t)err->status;
    failed.text = text;
    if (unit) {
        failed.has_unit = true;
        failed.clip = unit->clip;
        failed.unit = unit->unit;
    }
    report.body_case = LT__WIRE__REPORT__BODY_FAILED;
    report.failed = &failed;
    send_report(rt, &report);
}

void rt_report_clip_end(rt *rt, const rt_clip *clip)
{
    Lt__Wire__ClipEnd end = LT__WIRE__CLIP_END__INIT;
    Lt__Wire__Report report = LT__WIRE__REPORT__INIT;
    const lt_stream *stream = rt_clip_stream(rt, clip);
    end.clip = clip->clip.index;
    end.name = (char *)(stream ? stream->name : clip->name ? clip->name : "");
    end.entry = (char *)(stream ? stream->entry : clip->entry ? clip->entry : "");
    end.key = (char *)(stream ? stream->key : clip->key ? clip->key : "");
    end.failed = clip->is_given_up && !clip->is_passed_over;
    end.passed_over = clip->is_passed_over;
    end.reason = (char *)clip->reason;
    if (stream) end.digest = stream->digest;
    if (stream && clip->complete) end.frames = stream->n_frames;
    if (clip->result) end.result = (char *)clip->result;
    report.body_case = LT__WIRE__REPORT__BODY_CLIP_END;
    report.clip_end = &end;
    send_report(rt, &report);
}

void rt_report_done(rt *rt)
{
    Lt__Wire__Done done = LT__WIRE__DONE__INIT;
    Lt__Wire__Report report = LT__WIRE__REPORT__INIT;
    done.stopped = rt->was_stopped && !(rt->is_ended && rt->n_closed >= rt->n_clips);
    done.n_outputs = rt->n_results;
    done.outputs = (char **)(void *)rt->results;
    report.body_case = LT__WIRE__REPORT__BODY_DONE;
    report.done = &done;
    send_report(rt, &report);
}
