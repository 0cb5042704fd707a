/* run.c - a stage under an orchestrator, from its Boot to its exit code. */
#include "stages/runtime/runtime.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

/* The one stage of this process, for the functions a stage calls without a clip. */
static rt *running;

/* ---- called from process ---------------------------------------------------------------------------------------------------- */

lt_status lt_stage_opens(const lt_clip *clip, lt_err *err)
{
    rt *rt = ((rt_clip *)clip)->rt;
    uint32_t index = clip->index + clip->passed;
    const char *reason = rt_clip_is_doomed(rt, index);
    if (reason) return lt_fail(err, LT_E_INVALID, "%s", reason);
    rt_report_started(rt, index, LT_UNIT_OPENING);
    return LT_OK;
}

void lt_stage_safe(const lt_clip *clip, uint64_t unit)
{
    rt_clip *mine = (rt_clip *)clip; /* lt_clip is its first member */
    atomic_store(&mine->safe, unit);
    rt_wake(mine->rt);
}

void lt_stage_moved(const lt_clip *clip)
{
    atomic_fetch_add(&((rt_clip *)clip)->rt->n_moves, 1);
}

void lt_stage_cached(const lt_clip *clip)
{
    atomic_fetch_add(&((rt_clip *)clip)->rt->n_cached, 1);
}

bool lt_stage_stopping(void)
{
    return running && atomic_load(&running->stop_gracefully);
}

/* ---- start -------------------------------------------------------------------------------------------------------------------- */

static lt_status read_boot(rt *rt, Lt__Wire__Control **control, lt_err *err)
{
    lt_status status = lt_control_read(&rt->reader, STDIN_FILENO, -1, control, err);
    if (status == LT_END)
        return lt_fail(err, LT_E_TRANSIENT, "standard input ended before the first message");
    if (status) return status;
    if ((*control)->body_case != LT__WIRE__CONTROL__BODY_BOOT)
        return lt_fail(err, LT_E_FORMAT, "the first message on standard input is not Boot");
    rt->boot = (*control)->boot;
    return LT_OK;
}

static void name_process(const rt *rt)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%u", rt->boot->stage, rt->boot->replica);
    lt_log_init(name, (lt_log_level)LT_MIN(rt->boot->log_level, (uint32_t)LT_LOG_DEBUG));
    prctl(PR_SET_NAME, name);
}

static lt_status set_up_ports(rt *rt, lt_err *err)
{
    const Lt__Wire__Boot *boot = rt->boot;
    const lt_stage *stage = rt->stage;
    lt_status status;
    for (size_t i = 0; i < boot->n_inputs; i++) {
        int port = 0;
        while (port < stage->n_inputs && strcmp(stage->inputs[port].name, boot->inputs[i]->port)) port++;
        if (port == stage->n_inputs)
            return lt_fail(err, LT_E_INVALID, "there is no input port \"%s\"", boot->inputs[i]->port);
        LT_TRY(rt_input_init(rt, port, boot->inputs[i], err));
        if (*boot->inputs[i]->device_id) rt->setup.input_device[port] = boot->inputs[i]->device_id;
    }
    for (int port = 0; port < stage->n_inputs; port++)
        if (!rt->inputs[port].edge && !(stage->inputs[port].kinds & LT_PORT_OPTIONAL))
            return lt_fail(err, LT_E_INVALID, "input port \"%s\" has no producer", stage->inputs[port].name);
    if (boot->n_outputs != (size_t)stage->n_outputs ||
        (boot->n_outputs && strcmp(boot->outputs[0]->port, stage->outputs[0].name)))
        return lt_fail(err, LT_E_INVALID, "%s has %d output ports; other ones were asked for", stage->kind,
                       stage->n_outputs);
    if (boot->n_outputs) {
        LT_TRY(rt_output_init(rt, boot->outputs[0], err));
        if (*boot->outputs[0]->device_id && rt->output.has_slab)
            rt->setup.output_device = boot->outputs[0]->device_id;
        rt->setup.slot_bytes = rt->output.slab.slot_bytes;
        if (rt->output.is_encrypted) LT_TRY(rt_zap_open(rt, err));
    }
    return LT_OK;
fail:
    return status;
}

static lt_status set_up(rt *rt, lt_err *err)
{
    const Lt__Wire__Boot *boot = rt->boot;
    lt_status status;
    LT_TRY(rt_config_fill(rt->stage, boot->options, boot->n_options, boot->base_folder, &rt->arena,
                          &rt->setup.config, err));
    rt->setup.base_folder = boot->base_folder;
    rt->setup.run_folder = boot->run_folder;
    rt->setup.cache = boot->cache;
    rt->setup.stage = boot->stage;
    if (boot->pipe) {
        rt->setup.pipe_fd = boot->pipe->fd;
        rt->setup.head_fd = boot->pipe->head_fd;
    }
    rt->setup.replica = (int)boot->replica;
    rt->setup.threads = (int)LT_MIN(LT_MAX(boot->threads, 1u), 4096u);
    rt->numeric_class = "";
    rt->context = zmq_ctx_new();
    rt->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!rt->context || rt->wake_fd < 0) return lt_fail_errno(err, errno, "cannot start the transport");
    LT_TRY(set_up_ports(rt, err));
    return LT_OK;
fail:
    return status;
}

static void meet_peers(rt *rt)
{
    for (size_t i = 0; i < rt->boot->n_peers; i++) rt_peer(rt, rt->boot->peers[i]);
}

/* ---- end ---------------------------------------------------------------------------------------------------------------------- */

static void tear_down(rt *rt)
{
    for (int port = 0; port < rt->stage->n_inputs; port++) {
        for (uint32_t r = 0; rt->inputs[port].producers && r < rt->inputs[port].n_producers; r++)
            rt_socket_close(&rt->inputs[port].producers[r], 0);
        rt_input_finish(rt, port);
    }
    if (rt->output.socket) zmq_close(rt->output.socket);
    if (rt->zap) zmq_close(rt->zap);
    rt_memory_free(rt, &rt->job.memory, rt->output.me);
    if (rt->context) zmq_ctx_term(rt->context);
    rt_output_finish(rt);
    for (int i = 0; i < RT_CLIPS; i++)
        if (rt->clips[i].state != RT_CLIP_NONE) lt_arena_finish(&rt->clips[i].arena);
    rt_pool_finish(&rt->pool);
    free(rt->requests);
    lt_arena_finish(&rt->arena);
    lt_reader_finish(&rt->reader);
    if (rt->wake_fd >= 0) close(rt->wake_fd);
}

/* Both threads, until the stage has quit. */
static lt_status work(rt *rt, lt_err *err)
{
    rt_job_post(rt, RT_CREATE, NULL);
    meet_peers(rt);
    int error = pthread_create(&rt->io, NULL, rt_loop, rt);
    if (error) return lt_fail_errno(err, error, "cannot start a thread");
    rt_job_loop(rt);
    pthread_join(rt->io, NULL);
    return LT_OK;
}

int rt_run(const lt_stage *stage)
{
    static rt rt; /* some kilobytes, once a process */
    lt_err err = {0};
    Lt__Wire__Control *control = NULL;
    signal(SIGINT, SIG_IGN); /* of the terminal: the orchestrator decides */
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    rt.stage = stage;
    rt.report_fd = rt.wake_fd = -1;
    rt.has_orchestrator = true;
    pthread_mutex_init(&rt.mutex, NULL);
    pthread_mutex_init(&rt.report_mutex, NULL);
    pthread_cond_init(&rt.posted, NULL);
    rt_pool_init(&rt.pool);
    running = &rt;
    lt_log_init(stage->kind, LT_LOG_INFO);
    lt_mapping_watch(stage->kind);
    lt_status status = rt_take_stdout(&rt.report_fd, &err);
    if (!status) status = read_boot(&rt, &control, &err);
    if (!status) name_process(&rt);
    if (!status) status = set_up(&rt, &err);
    if (!status) status = work(&rt, &err);
    if (status) {
        lt_log(LT_LOG_ERROR, "%s", err.text);
        if (rt.report_fd >= 0) rt_report_failed(&rt, &err, NULL);
        rt.exit_code = lt_exit_code(status);
    } else if (rt_is_sink(&rt) && rt.exit_code == LT_EXIT_DONE && rt.was_stopped && !rt.has_reported_done) {
        rt_report_done(&rt);
    }
    tear_down(&rt);
    if (control) lt__wire__control__free_unpacked(control, NULL);
    return rt.exit_code;
}
