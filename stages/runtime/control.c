/* control.c - what the orchestrator says, and the ways to an end. */
#include "stages/runtime/runtime.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { ORPHAN_GRACE_MS = 700, STOP_GRACE_MS = 2000, FAIL_GRACE_MS = 2000 };

void rt_complain(rt *rt, const char *format, ...)
{
    char text[512];
    va_list args;
    int64_t now = lt_now_ns();
    if (now < rt->next_complaint_ns) return;
    rt->next_complaint_ns = now + 1000000000;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    lt_log(LT_LOG_WARN, "%s", text);
}

void rt_quit(rt *rt, int exit_code, int grace_ms)
{
    int64_t deadline = grace_ms < 0 ? 0 : lt_now_ns() + grace_ms * INT64_C(1000000);
    if (rt->quits) { /* the first reason counts, the nearest end too */
        if (deadline && (!rt->quit_deadline_ns || deadline < rt->quit_deadline_ns))
            rt->quit_deadline_ns = deadline;
        return;
    }
    rt->quits = true;
    rt->exit_code = exit_code;
    rt->quit_deadline_ns = deadline;
}

void rt_fail(rt *rt, const lt_err *err, const rt_key *unit)
{
    if (rt->quits) return;
    lt_log(LT_LOG_ERROR, "%s", err->text);
    rt_report_failed(rt, err, unit);
    rt_quit(rt, lt_exit_code(err->status), FAIL_GRACE_MS);
}

static void take_stop(rt *rt, const Lt__Wire__Stop *stop)
{
    if (rt_is_source(rt)) atomic_store(&rt->stop_gracefully, true); /* what waits for input, waits no more */
    if (rt_is_source(rt) && stop->gracefully) return; /* its stream ends; what is made of it does not */
    rt->stop_asked = true;
    if (!rt_is_sink(rt)) {
        rt_quit(rt, LT_EXIT_DONE, STOP_GRACE_MS);
        return;
    }
    /* A sink between clips has nothing to finish; one in a clip ends at process' LT_END, or, not gracefully, after the
     * unit that is being written (flow.c). */
    atomic_store(&rt->stop_gracefully, true);
    rt->was_stopped = true;
    if (!stop->gracefully) rt_quit(rt, LT_EXIT_DONE, -1);
}

void rt_peer(rt *rt, const Lt__Wire__Peer *peer)
{
    for (int port = 0; port < rt->stage->n_inputs; port++) {
        if (!rt->inputs[port].edge || strcmp(rt->inputs[port].edge, peer->edge)) continue;
        rt_input_peer(rt, port, peer);
        return;
    }
    if (!rt->output.socket || !rt_output_peer(rt, peer))
        rt_complain(rt, "news of edge %s, which is not ours", peer->edge);
}

static void take(rt *rt, const Lt__Wire__Control *control)
{
    switch (control->body_case) {
    case LT__WIRE__CONTROL__BODY_PEER: rt_peer(rt, control->peer); break;
    case LT__WIRE__CONTROL__BODY_STOP: take_stop(rt, control->stop); break;
    case LT__WIRE__CONTROL__BODY_GIVE_UP:
        rt_clip_doom(rt, control->give_up->clip, control->give_up->reason);
        break;
    default: rt_complain(rt, "an unexpected control message was dropped"); break;
    }
}

void rt_control_read(rt *rt)
{
    for (;;) {
        Lt__Wire__Control *control;
        lt_err err;
        lt_status status = lt_control_read(&rt->reader, STDIN_FILENO, 0, &control, &err);
        if (status == LT_AGAIN) return;
        if (status == LT_END) {
            if (!rt->stop_asked) lt_log(LT_LOG_WARN, "the orchestrator is gone: ending");
            rt_quit(rt, rt->stop_asked ? LT_EXIT_DONE : LT_EXIT_TRANSIENT, ORPHAN_GRACE_MS);
            rt->has_orchestrator = false;
            return;
        }
        if (status) {
            lt_err_prefix(&err, "control channel");
            rt_fail(rt, &err, NULL);
            rt->has_orchestrator = false;
            return;
        }
        take(rt, control);
        lt__wire__control__free_unpacked(control, NULL);
    }
}
