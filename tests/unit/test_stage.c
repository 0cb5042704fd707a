/* test_stage.c - the parts of a stage that need no neighbours: configuration, payloads, buffers, --describe, --plan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stages/runtime/runtime.h"

static lt_err err;

/* ---- a stage ------------------------------------------------------------------------------------------------------------ */

typedef struct config {
    const char *input, *weights;
    int64_t window;
    int mode;
} config;

static const lt_option options[] = {
    {.name = "input", .type = LT_OPT_PATH, .offset = offsetof(config, input), .help = "a file"},
    {.name = "weights",
     .type = LT_OPT_PATH,
     .offset = offsetof(config, weights),
     .fallback = "",
     .help = "more"},
    {.name = "window",
     .type = LT_OPT_INT,
     .offset = offsetof(config, window),
     .fallback = "3",
     .min = 1,
     .max = 9,
     .unit = "frames",
     .help = "how many",
     .cosmetic = true},
    {.name = "mode",
     .type = LT_OPT_ENUM,
     .offset = offsetof(config, mode),
     .fallback = "slow",
     .choices = "slow|fast",
     .help = "how"},
};
static const lt_port inputs[] = {
    {.name = "in", .kinds = 1u << LT__WIRE__PORT_KIND__PORT_FRAMES, .help = "frames"}};
static const lt_port outputs[] = {
    {.name = "out",
     .kinds = 1u << LT__WIRE__PORT_KIND__PORT_FRAMES | 1u << LT__WIRE__PORT_KIND__PORT_LATENTS}};

static lt_status plan(const lt_setup *setup, const lt_stream *const *in, lt_plan *plan, lt_err *err)
{
    const config *config = setup->config;
    puts("a library prints");
    if (config->mode == 1) return lt_fail(err, LT_E_UNSUPPORTED, "nothing is fast, \xe9 least");
    plan->peak_bytes = 123;
    plan->in_flight[0] = 4;
    lt_plan_resolve(plan, "window", "%d", 7);
    lt_plan_note(plan, "%s and %s, caf\xe9", config->input, setup->base_folder);
    lt_status status = lt_stream_copy(plan->output, in[0], plan->arena, err);
    if (config->window == 9) plan->output->width = 0;
    plan->output->caption = "caf\xe9";
    plan->output->entry = "\x7f";
    return status;
}

static const lt_stage stage = {
    .kind = "example",
    .help = "Shows.",
    .inputs = inputs,
    .n_inputs = 1,
    .outputs = outputs,
    .n_outputs = 1,
    .options = options,
    .n_options = LT_COUNT(options),
    .config_bytes = sizeof(config),
    .replicable = true,
    .plan = plan,
};

/* ---- configuration ------------------------------------------------------------------------------------------------------ */

static const config *configure(lt_arena *arena, const char *input, const char *weights, const char *base)
{
    Lt__Wire__Option a = LT__WIRE__OPTION__INIT, b = LT__WIRE__OPTION__INIT, *given[] = {&a, &b};
    const void *filled = NULL;
    a.name = "input", a.text = (char *)input;
    b.name = "weights", b.text = (char *)weights;
    assert_int_equal(rt_config_fill(&stage, given, 2, base, arena, &filled, &err), LT_OK);
    return filled;
}

static void relative_paths_start_at_the_base(void **state)
{
    lt_arena arena = {0};
    const config *c = configure(&arena, "clips/a.mp4", "/abs/w", "/graphs");
    assert_string_equal(c->input, "/graphs/clips/a.mp4");
    assert_string_equal(c->weights, "/abs/w");
    assert_int_equal(c->window, 3);
    c = configure(&arena, "lavfi:testsrc=size=64x48", "https://host/x", "/graphs");
    assert_string_equal(c->input, "lavfi:testsrc=size=64x48");
    assert_string_equal(c->weights, "https://host/x");
    c = configure(&arena, "c:odd name", "", "/graphs"); /* one letter is no scheme */
    assert_string_equal(c->input, "/graphs/c:odd name");
    assert_string_equal(c->weights, "");
    c = configure(&arena, "3d:x", "a/b:c", "/graphs");
    assert_string_equal(c->input, "/graphs/3d:x");
    assert_string_equal(c->weights, "/graphs/a/b:c");
    lt_arena_finish(&arena);
}

static void what_is_missing_or_unknown_is_said(void **state)
{
    lt_arena arena = {0};
    Lt__Wire__Option a = LT__WIRE__OPTION__INIT, *given[] = {&a};
    const void *filled;
    assert_int_equal(rt_config_fill(&stage, NULL, 0, "", &arena, &filled, &err), LT_E_INVALID);
    assert_non_null(strstr(err.text, "input"));
    a.name = "inputt", a.text = "x";
    assert_int_equal(rt_config_fill(&stage, given, 1, "", &arena, &filled, &err), LT_E_NOT_FOUND);
    a.name = "window", a.text = "10";
    assert_int_equal(rt_config_fill(&stage, given, 1, "", &arena, &filled, &err), LT_E_INVALID);
    lt_arena_finish(&arena);
}

/* ---- payloads ------------------------------------------------------------------------------------------------------------ */

static void runs_of_a_payload_are_aligned_and_inside(void **state)
{
    _Alignas(64) unsigned char memory[256];
    lt_payload p = {.data = memory, .capacity = sizeof memory};
    lt_span *span;
    assert_int_equal(lt_payload_add(&p, 0, 1, LT__WIRE__DTYPE__DTYPE_U8, 65, &span, &err), LT_OK);
    assert_ptr_equal(span->data, memory);
    assert_int_equal(lt_payload_add(&p, 1, 1, LT__WIRE__DTYPE__DTYPE_F32, 64, &span, &err), LT_OK);
    assert_ptr_equal(span->data, memory + 128);
    assert_int_equal(p.bytes, 192);
    assert_int_equal(lt_payload_add(&p, 2, 1, LT__WIRE__DTYPE__DTYPE_F32, 65, &span, &err), LT_E_INTERNAL);
    assert_int_equal(lt_payload_add(&p, 2, 1, LT__WIRE__DTYPE__DTYPE_F32, SIZE_MAX, &span, &err),
                     LT_E_INTERNAL);
    assert_int_equal(lt_payload_add(&p, 2, 0, LT__WIRE__DTYPE__DTYPE_F32, 4, &span, &err), LT_E_INTERNAL);
    assert_int_equal(lt_payload_add(&p, 2, 1, LT__WIRE__DTYPE__DTYPE_F32, 64, NULL, &err), LT_OK);
    assert_int_equal(lt_payload_add(&p, 3, 1, LT__WIRE__DTYPE__DTYPE_F32, 0, &span, &err), LT_E_INTERNAL);
    assert_int_equal(p.n_spans, 3);
}

static void buffers_come_back(void **state)
{
    rt_pool pool;
    rt_pool_init(&pool);
    rt_buffer *a = rt_buffer_get(&pool, 1000), *b = rt_buffer_get(&pool, 0);
    assert_true(a->capacity >= 1000);
    assert_int_equal((uintptr_t)a->data % 64, 0);
    memset(a->data, 1, a->capacity);
    rt_buffer_put(a);
    rt_buffer_put(NULL);
    assert_ptr_equal(rt_buffer_get(&pool, 900), a);
    rt_buffer_put(a);
    rt_buffer *c = rt_buffer_get(&pool, 5000);
    assert_ptr_not_equal(c, a);
    rt_buffer *many[200];
    for (int i = 0; i < 200; i++) many[i] = rt_buffer_get(&pool, 100);
    for (int i = 0; i < 200; i++) rt_buffer_put(many[i]);
    rt_buffer_put(b);
    rt_buffer_put(c);
    rt_pool_finish(&pool);
}

/* ---- verbs ---------------------------------------------------------------------------------------------------------------- */

/* Run a verb in a child; its output in *out (to be freed), the exit code returned. */
static int run_verb(const char *verb, const void *input, size_t input_bytes, char **out, size_t *out_bytes)
{
    int in[2], output[2], code;
    assert_int_equal(pipe(in) || pipe(output), 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        char *argv[] = {"stage-example", (char *)verb, NULL};
        dup2(in[0], 0);
        dup2(output[1], 1);
        close(in[1]);
        close(output[0]);
        code = lt_stage_main(&stage, 2, argv);
        fflush(stdout);
        _exit(code);
    }
    close(in[0]);
    close(output[1]);
    assert_int_equal(write(in[1], input, input_bytes), input_bytes);
    close(in[1]);
    *out = calloc(1, 1 << 16);
    *out_bytes = 0;
    for (ssize_t n; (n = read(output[0], *out + *out_bytes, (1 << 16) - 1 - *out_bytes)) > 0;)
        *out_bytes += (size_t)n;
    close(output[0]);
    waitpid(pid, &code, 0);
    return WEXITSTATUS(code);
}

static void a_stage_describes_itself(void **state)
{
    char *out;
    size_t bytes;
    assert_int_equal(run_verb("--describe", "", 0, &out, &bytes), 0);
    json_t *root = json_loads(out, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "kind")), "example");
    assert_true(json_is_true(json_object_get(root, "replicable")));
    json_t *kinds = json_object_get(json_array_get(json_object_get(root, "outputs"), 0), "kinds");
    assert_string_equal(json_string_value(json_array_get(kinds, 1)), "latents");
    json_t *all = json_object_get(root, "options"), *first = json_array_get(all, 0);
    assert_int_equal(json_array_size(all), 4);
    assert_true(json_is_true(json_object_get(first, "required")));
    assert_true(json_is_null(json_object_get(first, "default")));
    assert_true(json_is_true(json_object_get(json_array_get(all, 2), "cosmetic")));
    assert_int_equal(json_array_size(json_object_get(json_array_get(all, 3), "choices")), 2);
    json_decref(root);
    free(out);
    assert_int_equal(run_verb("--help", "", 0, &out, &bytes), 0);
    for (size_t i = 0; i < LT_COUNT(options); i++) assert_non_null(strstr(out, options[i].name));
    free(out);
    assert_int_equal(run_verb("--version", "", 0, &out, &bytes), 0);
    free(out);
    assert_int_equal(run_verb("--nonsense", "", 0, &out, &bytes), LT_EXIT_PERMANENT);
    free(out);
}

static lt_stream make_stream(void)
{
    lt_stream s = LT__WIRE__STREAM__INIT;
    s.kind = LT__WIRE__PORT_KIND__PORT_FRAMES;
    s.dtype = LT__WIRE__DTYPE__DTYPE_U8;
    s.width = s.height = 8, s.channels = 3, s.chunk = 4, s.n_frames = 9, s.n_units = 3, s.unit_bytes = 768;
    s.time_base_num = 1, s.time_base_den = 25;
    s.name = "clip";
    return s;
}

/* Ask with one option and one input; the reply is freed by the caller. */
static Lt__Wire__PlanReply *ask(const char *name, const char *text, lt_stream *stream)
{
    Lt__Wire__PlanRequest request = LT__WIRE__PLAN_REQUEST__INIT;
    Lt__Wire__Option a = LT__WIRE__OPTION__INIT, b = LT__WIRE__OPTION__INIT, *given[] = {&a, &b};
    Lt__Wire__PlannedInput input = LT__WIRE__PLANNED_INPUT__INIT, *list[] = {&input};
    Lt__Wire__PlanReply *reply = NULL;
    char *out;
    void *frame;
    size_t bytes, frame_bytes;
    a.name = "input", a.text = "x";
    b.name = (char *)name, b.text = (char *)text;
    request.options = given, request.n_options = name ? 2 : 1;
    request.base_folder = "/base";
    input.port = "in", input.stream = stream;
    request.inputs = list, request.n_inputs = stream ? 1 : 0;
    assert_int_equal(lt_plan_request_pack(&request, &frame, &frame_bytes, &err), LT_OK);
    assert_int_equal(run_verb("--plan", frame, frame_bytes, &out, &bytes), 0);
    assert_int_equal(lt_plan_reply_unpack(out, bytes, &reply, &err), LT_OK); /* and nothing but the reply */
    free(frame);
    free(out);
    return reply;
}

static void a_stage_plans(void **state)
{
    lt_stream stream = make_stream();
    Lt__Wire__PlanReply *reply = ask(NULL, NULL, &stream);
    assert_int_equal(reply->status, LT_OK);
    /* What the stage says, and the description of its input while it arrives. */
    assert_int_equal(reply->peak_bytes, 123 + lt__wire__stream__get_packed_size(&stream));
    assert_int_equal(reply->n_outputs, 1);
    assert_string_equal(reply->outputs[0]->port, "out");
    assert_null(lt_stream_difference(reply->outputs[0]->stream, &stream, false));
    assert_string_equal(reply->outputs[0]->stream->caption, "caf?");
    assert_string_equal(reply->outputs[0]->stream->entry, "?");
    assert_string_equal(reply->resolved[0]->text, "7");
    assert_int_equal(reply->in_flight[0]->units, 4);
    assert_string_equal(reply->notes[0], "/base/x and /base, caf?");
    lt__wire__plan_reply__free_unpacked(reply, NULL);
}

static void a_refusal_is_an_answer(void **state)
{
    static const struct {
        const char *name, *text, *word;
        bool has_input;
        lt_status status;
    } cases[] = {
        {"mode", "fast", "nothing is fast, ? least", true, LT_E_UNSUPPORTED},
        {"windo", "3", "window", true, LT_E_NOT_FOUND},
        {NULL, NULL, "\"in\"", false, LT_E_INVALID},
        {"window", "9", "width", true, LT_E_INTERNAL}, /* a plan that cannot be is our bug */
    };
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        lt_stream stream = make_stream();
        Lt__Wire__PlanReply *reply = ask(cases[i].name, cases[i].text, cases[i].has_input ? &stream : NULL);
        assert_int_equal(reply->status, cases[i].status);
        assert_non_null(strstr(reply->text, cases[i].word));
        lt__wire__plan_reply__free_unpacked(reply, NULL);
    }
    lt_stream latents = make_stream();
    latents.kind = LT__WIRE__PORT_KIND__PORT_LATENTS;
    Lt__Wire__PlanReply *reply = ask(NULL, NULL, &latents);
    assert_int_equal(reply->status, LT_E_MISMATCH);
    lt__wire__plan_reply__free_unpacked(reply, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(relative_paths_start_at_the_base),
        cmocka_unit_test(what_is_missing_or_unknown_is_said),
        cmocka_unit_test(runs_of_a_payload_are_aligned_and_inside),
        cmocka_unit_test(buffers_come_back),
        cmocka_unit_test(a_stage_describes_itself),
        cmocka_unit_test(a_stage_plans),
        cmocka_unit_test(a_refusal_is_an_answer),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
