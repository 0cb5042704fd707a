/* fuzz_wire.c - messages of every kind. The first byte chooses: 'H' a header of an edge; 'C' control, 'R' report, 'Q' plan
 * request, 'A' plan reply, framed as on a pipe, as many as there are;
 * of replies one, as a stage gives it. */
#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include "proto/wire.h"

/* What a checked stream promises: it can be copied, is equal to its copy, and its timestamps increase. */
static void use_stream(const lt_stream *stream)
{
    lt_err err;
    lt_arena arena = {0};
    lt_stream copy;
    FUZZ_MUST(!lt_stream_check(stream, &err));
    FUZZ_MUST(!lt_stream_copy(&copy, stream, &arena, &err));
    FUZZ_MUST(!lt_stream_difference(stream, &copy, false));
    if (stream->n_pts_delta) {
        int64_t *pts = lt_arena_alloc(&arena, stream->n_frames * sizeof *pts);
        FUZZ_MUST(pts && !lt_stream_pts(stream, pts, &err));
        for (uint64_t i = 1; i < stream->n_frames; i++) FUZZ_MUST(pts[i] > pts[i - 1]);
    }
    lt_arena_finish(&arena);
}

static void use_unit(const Lt__Wire__Unit *unit)
{
    FUZZ_MUST(unit->n_spans >= 1 && unit->n_spans <= LT_UNIT_SPANS_MAX && unit->bytes <= LT_UNIT_BYTES_MAX);
    for (size_t i = 0; i < unit->n_spans; i++)
        FUZZ_MUST(unit->spans[i]->offset + unit->spans[i]->bytes <= unit->bytes);
}

static void header(const uint8_t *data, size_t n_bytes)
{
    Lt__Wire__Header *header, *again;
    lt_err err;
    lt_status status = lt_header_unpack(data, n_bytes, &header, &err);
    if (status) {
        FUZZ_REFUSED(status, err);
        return;
    }
    if (header->body_case == LT__WIRE__HEADER__BODY_OPEN) use_stream(header->open->stream);
    if (header->body_case == LT__WIRE__HEADER__BODY_UNIT_DONE) use_unit(header->unit_done);
    void *packed;
    size_t packed_bytes;
    FUZZ_MUST(!lt_header_pack(header, &packed, &packed_bytes, &err));
    FUZZ_MUST(!lt_header_unpack(packed, packed_bytes, &again, &err));
    FUZZ_MUST(again->body_case == header->body_case);
    lt__wire__header__free_unpacked(again, NULL);
    lt__wire__header__free_unpacked(header, NULL);
    free(packed);
}

/* ---- messages of pipes ---- */

static void use_control(const Lt__Wire__Control *message)
{
    void *frame;
    size_t n_bytes;
    lt_err err;
    FUZZ_MUST(message->body_case && !lt_control_pack(message, &frame, &n_bytes, &err));
    free(frame);
}

static void use_report(const Lt__Wire__Report *message)
{
    FUZZ_MUST(message->body_case);
}

static void use_plan_request(const Lt__Wire__PlanRequest *message)
{
    for (size_t i = 0; i < message->n_inputs; i++) use_stream(message->inputs[i]->stream);
}

static void plan_reply(const uint8_t *data, size_t n_bytes)
{
    Lt__Wire__PlanReply *message = NULL;
    lt_err err;
    lt_status status = lt_plan_reply_unpack(data, n_bytes, &message, &err);
    if (status) {
        FUZZ_MUST(!message);
        FUZZ_REFUSED(status, err);
        return;
    }
    FUZZ_MUST(message->status < LT_N_STATUS);
    for (size_t i = 0; i < message->n_outputs; i++) use_stream(message->outputs[i]->stream);
    lt__wire__plan_reply__free_unpacked(message, NULL);
}

#define CONVERSATION(name, Type)                                                                             \
    static void name(int fd)                                                                                 \
    {                                                                                                        \
        lt_reader reader = {0};                                                                              \
        for (int n_refused = 0; n_refused < 16;) {                                                           \
            Lt__Wire__##Type *message = NULL;                                                                \
            lt_err err;                                                                                      \
            lt_status status = lt_##name##_read(&reader, fd, 0, &message, &err);                             \
            if (status == LT_END) break;                                                                     \
            if (status) {                                                                                    \
                FUZZ_MUST(!message);                                                                         \
                FUZZ_REFUSED(status, err);                                                                   \
                n_refused++;                                                                                 \
                continue;                                                                                    \
            }                                                                                                \
            use_##name(message);                                                                             \
            lt__wire__##name##__free_unpacked(message, NULL);                                                \
        }                                                                                                    \
        lt_reader_finish(&reader);                                                                           \
    }
CONVERSATION(control, Control)
CONVERSATION(report, Report)
CONVERSATION(plan_request, PlanRequest)

/* A descriptor that has these bytes and then ends. */
static int as_file(const uint8_t *data, size_t n_bytes)
{
    static int fd = -1;
    if (fd < 0) fd = memfd_create("pipe", MFD_CLOEXEC);
    FUZZ_MUST(fd >= 0 && !ftruncate(fd, 0) && pwrite(fd, data, n_bytes, 0) == (ssize_t)n_bytes);
    FUZZ_MUST(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (!n_bytes) return 0;
    const uint8_t *rest = data + 1;
    switch (data[0]) {
    case 'H': header(rest, n_bytes - 1); break;
    case 'C': control(as_file(rest, n_bytes - 1)); break;
    case 'R': report(as_file(rest, n_bytes - 1)); break;
    case 'Q': plan_request(as_file(rest, n_bytes - 1)); break;
    case 'A': plan_reply(rest, n_bytes - 1); break;
    default: break;
    }
    return 0;
}
