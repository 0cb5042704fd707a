/* plan.c - `STAGE --plan` and `--check`: one question on standard input, one answer on standard output. */
#include "stages/runtime/runtime.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { WAIT_MS = 60000 };

void lt_plan_resolve(lt_plan *plan, const char *name, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (plan->n_resolved >= (int)LT_COUNT(plan->resolved)) return;
    plan->resolved[plan->n_resolved].name = name;
    plan->resolved[plan->n_resolved].text = lt_arena_strdup(plan->arena, text);
    plan->n_resolved++;
}

void lt_plan_note(lt_plan *plan, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    lt_text_clean(text, text, sizeof text - 1);
    if (plan->n_notes < (int)LT_COUNT(plan->notes))
        plan->notes[plan->n_notes++] = lt_arena_strdup(plan->arena, text);
}

/* Match the request's inputs with the stage's ports. */
static lt_status take_inputs(const lt_stage *stage, const Lt__Wire__PlanRequest *request, lt_setup *setup,
                             const lt_stream *inputs[LT_MAX_PORTS], lt_err *err)
{
    for (size_t i = 0; i < request->n_inputs; i++) {
        int port = 0;
        while (port < stage->n_inputs && strcmp(stage->inputs[port].name, request->inputs[i]->port)) port++;
        if (port == stage->n_inputs)
            return lt_fail(err, LT_E_INVALID, "there is no input port \"%s\"", request->inputs[i]->port);
        if (!(stage->inputs[port].kinds & 1u << request->inputs[i]->stream->kind))
            return lt_fail(err, LT_E_MISMATCH, "input port \"%s\" does not take %s", request->inputs[i]->port,
                           lt_port_kind_name(request->inputs[i]->stream->kind));
        inputs[port] = request->inputs[i]->stream;
        if (*request->inputs[i]->device_id) setup->input_device[port] = request->inputs[i]->device_id;
    }
    for (int port = 0; port < stage->n_inputs; port++)
        if (!inputs[port] && !(stage->inputs[port].kinds & LT_PORT_OPTIONAL))
            return lt_fail(err, LT_E_INVALID, "nothing is planned for input port \"%s\"",
                           stage->inputs[port].name);
    return LT_OK;
}

/* A description of every stream is held, in which a long film's timestamps count. An input's comes as a message and is there twice
 * while it is taken over; the output's goes as one. */
static size_t timestamps_bytes(const lt_stream *const *inputs, const lt_stream *output)
{
    size_t held = 0, arriving = 0;
    for (int i = 0; i < LT_MAX_PORTS; i++) {
        if (!inputs[i]) continue;
        size_t bytes = inputs[i]->n_pts_delta * sizeof(int64_t);
        arriving = LT_MAX(arriving, held + 2 * bytes + lt__wire__stream__get_packed_size(inputs[i]));
        held += bytes;
    }
    if (!output->n_pts_delta) return LT_MAX(held, arriving);
    held += output->n_pts_delta * sizeof(int64_t);
    return LT_MAX(held + lt__wire__stream__get_packed_size(output), arriving);
}

/* `output` NULL: look at the options alone. */
static lt_status make_plan(const lt_stage *stage, const Lt__Wire__PlanRequest *request, lt_stream *output,
                           lt_plan *plan, lt_err *err)
{
    lt_status status;
    const lt_stream *inputs[LT_MAX_PORTS] = {NULL};
    lt_setup setup = {.base_folder = request->base_folder,
                      .run_folder = "",
                      .cache = request->cache,
                      .stage = stage->kind,
                      .threads = (int)LT_MAX(request->threads, 1u)};
    setup.outputs = (const char *const *)request->outputs;
    setup.n_outputs = (int)request->n_outputs;
    if (request->pipe) {
        setup.pipe_fd = request->pipe->fd;
        setup.head_fd = request->pipe->head_fd;
    }
    LT_TRY(rt_config_fill(stage, request->options, request->n_options, request->base_folder, plan->arena,
                          &setup.config, err));
    if (stage->check) LT_TRY(stage->check(setup.config, err));
    if (!output) return LT_OK;
    LT_TRY(take_inputs(stage, request, &setup, inputs, err));
    lt__wire__stream__init(output);
    plan->output = stage->n_outputs ? output : NULL;
    plan->work_factor = 1;
    LT_TRY(stage->plan(&setup, inputs, plan, err));
    plan->peak_bytes += timestamps_bytes(inputs, output);
    if (!stage->n_outputs) return LT_OK;
    LT_TRY(lt_stream_clean(output, plan->arena, err));
    output->unit_bytes = rt_unit_bytes(output);
    plan->live |= output->live && !stage->n_inputs;
    status = lt_stream_check(output, err);
    if (status) return lt_fail(err, LT_E_INTERNAL, "the plan of %s is wrong: %s", stage->kind, err->text);
    return LT_OK;
fail:
    return status;
}

/* Everything the reply points to. */
typedef struct reply_parts {
    Lt__Wire__PlanReply reply;
    Lt__Wire__PlannedOutput output, *outputs[1];
    Lt__Wire__Option resolved[16], *resolved_list[16];
    Lt__Wire__InFlight in_flight[LT_MAX_PORTS], *in_flight_list[LT_MAX_PORTS];
    char *notes[16];
} reply_parts;

static void fill_reply(const lt_stage *stage, const lt_plan *plan, reply_parts *parts)
{
    Lt__Wire__PlanReply *reply = &parts->reply;
    reply->peak_bytes = plan->peak_bytes;
    if (plan->device) {
        reply->device = (char *)plan->device;
        reply->device_title = (char *)plan->device_title;
        reply->device_bytes = plan->device_bytes;
        reply->device_total_bytes = plan->device_total;
        reply->device_free_bytes = plan->device_free;
    }
    reply->disk_bytes = plan->disk_bytes;
    reply->flops = plan->flops;
    reply->work_factor = plan->work_factor;
    reply->live = plan->live;
    if (stage->n_outputs) {
        lt__wire__planned_output__init(&parts->output);
        parts->output.port = (char *)stage->outputs[0].name;
        parts->output.stream = plan->output;
        if (plan->output_device) parts->output.device_id = (char *)plan->output_device;
        parts->outputs[0] = &parts->output;
        reply->outputs = parts->outputs;
        reply->n_outputs = 1;
    }
    reply->resolved = parts->resolved_list;
    for (int i = 0; i < plan->n_resolved && plan->resolved[i].text; i++) {
        lt__wire__option__init(&parts->resolved[i]);
        parts->resolved[i].name = (char *)plan->resolved[i].name;
        parts->resolved[i].text = (char *)plan->resolved[i].text;
        parts->resolved_list[reply->n_resolved++] = &parts->resolved[i];
    }
    reply->in_flight = parts->in_flight_list;
    for (int port = 0; port < stage->n_inputs; port++) {
        lt__wire__in_flight__init(&parts->in_flight[port]);
        parts->in_flight[port].port = (char *)stage->inputs[port].name;
        parts->in_flight[port].units = LT_MAX(plan->in_flight[port], 1u);
        parts->in_flight[port].on_device = plan->takes_device[port];
        parts->in_flight_list[reply->n_in_flight++] = &parts->in_flight[port];
    }
    reply->notes = parts->notes;
    for (int i = 0; i < plan->n_notes && plan->notes[i]; i++)
        parts->notes[reply->n_notes++] = (char *)plan->notes[i];
}

/* Answer a request: with a plan, or (`only_check`) with what is wrong with the options. */
static int answer(const lt_stage *stage, bool only_check)
{
    lt_err err = {0};
    lt_reader reader = {0};
    lt_arena arena = {0};
    lt_stream output;
    lt_plan plan = {.arena = &arena};
    reply_parts parts;
    Lt__Wire__PlanRequest *request = NULL;
    int fd = -1;
    signal(SIGPIPE, SIG_IGN);
    lt_log_init(stage->kind, LT_LOG_WARN);
    memset(&parts, 0, sizeof parts);
    lt__wire__plan_reply__init(&parts.reply);
    lt_status status = rt_take_stdout(&fd, &err);
    if (!status) status = lt_plan_request_read(&reader, STDIN_FILENO, WAIT_MS, &request, &err);
    if (status == LT_AGAIN || status == LT_END)
        status = lt_fail(&err, LT_E_INVALID, "a request is expected on standard input");
    lt_status planned = status ? status : make_plan(stage, request, only_check ? NULL : &output, &plan, &err);
    if (planned) {
        lt_text_clean(err.text, err.text, sizeof err.text - 1);
        parts.reply.status = (uint32_t)planned;
        parts.reply.text = err.text;
    } else if (!only_check) {
        fill_reply(stage, &plan, &parts);
    }
    if (fd >= 0) status = lt_plan_reply_write(fd, &parts.reply, &err);
    if (status) lt_log(LT_LOG_ERROR, "%s", err.text);
    if (request) lt__wire__plan_request__free_unpacked(request, NULL);
    lt_reader_finish(&reader);
    lt_arena_finish(&arena);
    return lt_exit_code(status);
}

int rt_plan(const lt_stage *stage)
{
    return answer(stage, false);
}

int rt_check(const lt_stage *stage)
{
    return answer(stage, true);
}
