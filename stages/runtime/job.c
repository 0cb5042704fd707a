/* job.c - where the two threads meet: one job at a time goes to the main thread and comes back. */
#include "stages/runtime/runtime.h"

#include <stdlib.h>
#include <unistd.h>

void rt_wake(rt *rt)
{
    uint64_t one = 1;
    ssize_t written = write(rt->wake_fd, &one, sizeof one);
    (void)written; /* full: it is awake */
}

bool rt_job_is_idle(rt *rt)
{
    pthread_mutex_lock(&rt->mutex);
    bool is_idle = rt->job.state == RT_IDLE;
    pthread_mutex_unlock(&rt->mutex);
    return is_idle;
}

void rt_job_post(rt *rt, rt_job_kind kind, rt_clip *clip)
{
    rt->job.kind = kind;
    rt->job.clip = clip;
    pthread_mutex_lock(&rt->mutex);
    rt->job.state = RT_POSTED;
    pthread_cond_signal(&rt->posted);
    pthread_mutex_unlock(&rt->mutex);
}

bool rt_job_take(rt *rt)
{
    pthread_mutex_lock(&rt->mutex);
    bool returned = rt->job.state == RT_RETURNED;
    if (returned) rt->job.state = RT_IDLE;
    pthread_mutex_unlock(&rt->mutex);
    return returned;
}

/* ---- the main thread ---------------------------------------------------------------------------------------------------- */

static lt_status create(rt *rt, rt_job *job)
{
    rt->numeric_class = "";
    if (!rt->stage->create) return LT_OK;
    const char *numeric_class = "";
    lt_status status = rt->stage->create(&rt->state, &rt->setup, &numeric_class, &job->err);
    rt->numeric_class = status || !numeric_class ? "" : numeric_class;
    return status;
}

/* Whether or not it succeeds, what the stage says of the clip is about to be told. */
static lt_status open_clip(rt *rt, rt_job *job)
{
    lt_clip *clip = &job->clip->clip;
    lt_err err = {0};
    rt_report_started(rt, clip->index, LT_UNIT_OPENING);
    lt_status status = rt->stage->open_clip(rt->state, clip, &job->err);
    job->clip->is_stage_open = status == LT_OK;
    if (!clip->output || !lt_stream_clean(clip->output, clip->arena, &err)) return status;
    job->err = err;
    return err.status;
}

static lt_status process(rt *rt, rt_job *job)
{
    const lt_payload *inputs[LT_MAX_PORTS];
    for (int port = 0; port < LT_MAX_PORTS; port++)
        inputs[port] = job->n_inputs[port] ? job->inputs[port] : NULL;
    rt_report_started(rt, job->clip->clip.index, job->unit);
    lt_status status = rt->stage->process(rt->state, &job->clip->clip, job->unit, inputs,
                                          rt_is_sink(rt) ? NULL : &job->output, &job->err);
    bool passes = !status && job->clip->clip.output && job->clip->clip.output->live && !rt_is_source(rt);
    return passes ? rt_pass_times(&job->output, job->inputs[0], job->n_inputs[0], &job->err) : status;
}

static lt_status finish(rt *rt, rt_job *job)
{
    job->result = NULL;
    if (!rt->stage->finish_clip) return LT_OK;
    job->clip->clip.given_up = job->clip->is_given_up ? job->clip->reason : NULL;
    return rt->stage->finish_clip(rt->state, &job->clip->clip, job->complete, &job->result, &job->err);
}

/* What is open is given back; errors on the way down have no one left to act on them. */
static void quit(rt *rt, rt_job *job)
{
    for (int i = 0; i < RT_CLIPS; i++) {
        const char *result = NULL;
        if (!rt->clips[i].is_stage_open || !rt->stage->finish_clip) continue;
        if (rt->stage->finish_clip(rt->state, &rt->clips[i].clip, false, &result, &job->err))
            lt_log(LT_LOG_WARN, "%s", job->err.text);
    }
    if (rt->stage->destroy) rt->stage->destroy(rt->state);
    rt->state = NULL;
}

static void do_job(rt *rt, rt_job *job)
{
    int64_t start = lt_now_ns();
    job->err.text[0] = 0;
    switch (job->kind) {
    case RT_CREATE: job->status = create(rt, job); break;
    case RT_OPEN_CLIP: job->status = open_clip(rt, job); break;
    case RT_PROCESS: job->status = process(rt, job); break;
    case RT_FINISH_CLIP:
        rt_report_started(rt, job->clip->clip.index, LT_UNIT_FINISHING);
        job->clip->is_stage_open = false;
        job->status = finish(rt, job);
        break;
    case RT_QUIT: quit(rt, job); break;
    }
    if (job->status) job->err.status = job->status;
    job->busy_ns = lt_now_ns() - start;
}

void rt_job_loop(rt *rt)
{
    for (bool has_quit = false; !has_quit;) {
        pthread_mutex_lock(&rt->mutex);
        while (rt->job.state != RT_POSTED) pthread_cond_wait(&rt->posted, &rt->mutex);
        pthread_mutex_unlock(&rt->mutex);
        do_job(rt, &rt->job);
        has_quit = rt->job.kind == RT_QUIT;
        pthread_mutex_lock(&rt->mutex);
        rt->job.state = RT_RETURNED;
        pthread_mutex_unlock(&rt->mutex);
        rt_wake(rt);
    }
}
