/* wire.c - messages framed on pipes and packed for edges. What they may contain is in check.c. */
#include "proto/wire.h"
#include "proto/check.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PREFIX = 4, READ_STEP = 64 << 10 };

/* ---- unpacking with bounded memory -------------------------------------------------------------------------- */

/* A few bytes on the wire can ask for many in memory: an unpacked message may take so much and no more. */
typedef struct budget {
    size_t left;
    bool spent, no_memory;
} budget;

static void *budget_alloc(void *data, size_t bytes)
{
    budget *budget = data;
    if (bytes > budget->left) {
        budget->spent = true;
        return NULL;
    }
    budget->left -= bytes;
    void *memory = malloc(bytes);
    budget->no_memory |= !memory;
    return memory;
}

static void budget_free(void *data, void *memory)
{
    free(memory);
}

/* Is there an unknown field of number 0, here or in a message inside? protobuf-c keeps one that is written at unusual length, and
 * then packs what it would not unpack itself. Depth is that of the types. */
static bool has_field_zero(const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    for (unsigned i = 0; i < message->n_unknown_fields; i++)
        if (message->unknown_fields[i].tag == 0) return true;
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        if (field->type != PROTOBUF_C_TYPE_MESSAGE) continue;
        const char *base = (const char *)message;
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t n = *(const size_t *)(base + field->quantifier_offset);
            ProtobufCMessage *const *inside = *(ProtobufCMessage *const *const *)(base + field->offset);
            for (size_t j = 0; j < n; j++)
                if (has_field_zero(inside[j])) return true;
            continue;
        }
        bool one_of = field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF;
        if (one_of && *(const uint32_t *)(base + field->quantifier_offset) != field->id) continue;
        const ProtobufCMessage *inside = *(ProtobufCMessage *const *)(base + field->offset);
        if (inside && has_field_zero(inside)) return true;
    }
    return false;
}

static lt_status unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t bytes,
                        ProtobufCMessage **message, lt_err *err)
{
    budget budget = {.left = LT_MIN(bytes * 32 + ((size_t)64 << 10), (size_t)1 << 30)};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    *message = protobuf_c_message_unpack(type, &allocator, bytes, data);
    if (*message && !has_field_zero(*message)) return LT_OK;
    if (*message) {
        protobuf_c_message_free_unpacked(*message, NULL);
        *message = NULL;
        return lt_fail(err, LT_E_FORMAT, "a %s of %zu bytes has a field of number 0", type->short_name,
                       bytes);
    }
    if (budget.no_memory)
        return lt_fail(err, LT_E_NO_MEMORY, "no memory for a %s of %zu bytes", type->short_name, bytes);
    if (budget.spent)
        return lt_fail(err, LT_E_FORMAT, "a %s of %zu bytes unpacks to too much", type->short_name, bytes);
    return lt_fail(err, LT_E_FORMAT, "%zu bytes are not a %s", bytes, type->short_name);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

void lt_reader_finish(lt_reader *reader)
{
    if (!reader) return;
    free(reader->data);
    *reader = (lt_reader){0};
}

static uint32_t get_u32(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Make room for `bytes` more behind what is pending. */
static lt_status reserve(lt_reader *reader, size_t bytes, lt_err *err)
{
    size_t pending = reader->end - reader->start;
    if (reader->start) {
        memmove(reader->data, reader->data + reader->start, pending);
        reader->start = 0;
        reader->end = pending;
    }
    if (reader->capacity - pending >= bytes) return LT_OK;
    size_t capacity = LT_MAX(pending + bytes, LT_MIN(reader->capacity * 2, (size_t)LT_FRAME_MAX));
    unsigned char *data = realloc(reader->data, capacity);
    if (!data) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a message of %zu bytes", capacity);
    reader->data = data;
    reader->capacity = capacity;
    return LT_OK;
}

/* AGAIN until `fd` has something to read (or its end). */
static lt_status wait_for(int fd, short events, int timeout_ms, lt_err *err)
{
    struct pollfd pollfd = {.fd = fd, .events = events};
    int n = poll(&pollfd, 1, timeout_ms);
    if (n == 0 || (n < 0 && errno == EINTR)) return LT_AGAIN;
    if (n < 0) return lt_fail_errno(err, errno, "poll of a message pipe");
    if (pollfd.revents & POLLNVAL)
        return lt_fail(err, LT_E_IO, "descriptor %d of a message pipe is not open", fd);
    return LT_OK;
}

/* One read(2) of at least what the pending message lacks, in steps, so that a length alone costs no memory. */
static lt_status fill(lt_reader *reader, int fd, int timeout_ms, lt_err *err)
{
    lt_status status = wait_for(fd, POLLIN, timeout_ms, err);
    if (status) return status;
    status = reserve(reader, READ_STEP, err);
    if (status) return status;
    ssize_t n = read(fd, reader->data + reader->end, reader->capacity - reader->end);
    if (n == 0) return LT_END;
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return LT_AGAIN;
    if (n < 0) return lt_fail_errno(err, errno, "reading a message");
    reader->end += (size_t)n;
    return LT_OK;
}

static lt_status read_message(lt_reader *reader, int fd, int timeout_ms,
                              const ProtobufCMessageDescriptor *type, ProtobufCMessage **message, lt_err *err)
{
    int64_t deadline = lt_now_ns() + timeout_ms * INT64_C(1000000);
    for (;;) {
        size_t pending = reader->end - reader->start;
        if (pending >= PREFIX) {
            const unsigned char *data = reader->data + reader->start;
            uint32_t length = get_u32(data);
            if (length > LT_FRAME_MAX)
                return lt_fail(err, LT_E_FORMAT, "a %s claims %u bytes; at most %d are taken",
                               type->short_name, length, LT_FRAME_MAX);
            if (pending - PREFIX >= length) {
                reader->start += PREFIX + length;
                return unpack(type, data + PREFIX, length, message, err);
            }
        }
        int left = timeout_ms;
        if (timeout_ms > 0) left = (int)LT_MAX((deadline - lt_now_ns()) / 1000000, 0);
        lt_status status = fill(reader, fd, left, err);
        if (status == LT_AGAIN && (timeout_ms < 0 || left > 0)) continue;
        if (status) return status;
    }
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static lt_status pack(const ProtobufCMessage *message, size_t prefix, void **data, size_t *bytes, lt_err *err)
{
    size_t length = protobuf_c_message_get_packed_size(message);
    if (length > LT_FRAME_MAX)
        return lt_fail(err, LT_E_INVALID, "a %s of %zu bytes is longer than a message may be (%d)",
                       message->descriptor->short_name, length, LT_FRAME_MAX);
    unsigned char *packed = malloc(prefix + length + 1);
    if (!packed) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a message of %zu bytes", length);
    for (size_t i = 0; i < prefix; i++) packed[i] = (unsigned char)(length >> 8 * i);
    protobuf_c_message_pack(message, packed + prefix);
    *data = packed;
    *bytes = prefix + length;
    return LT_OK;
}

static lt_status write_message(int fd, const ProtobufCMessage *message, lt_err *err)
{
    void *data = NULL;
    size_t bytes = 0;
    lt_status status = pack(message, PREFIX, &data, &bytes, err);
    if (status) return status;
    for (size_t done = 0; done < bytes && !status;) {
        ssize_t n = write(fd, (unsigned char *)data + done, bytes - done);
        if (n >= 0)
            done += (size_t)n;
        else if (errno == EPIPE)
            status = LT_END;
        else if (errno == EAGAIN) {
            status = wait_for(fd, POLLOUT, -1, err);
            if (status == LT_AGAIN) status = LT_OK;
        } else if (errno != EINTR)
            status = lt_fail_errno(err, errno, "writing a message");
    }
    free(data);
    return status;
}

/* ---- the conversations on pipes ----------------------------------------------------------------------------------- */

#define READ(name, Type)                                                                                     \
    lt_status lt_##name##_read(lt_reader *reader, int fd, int timeout_ms, Lt__Wire__##Type **message,        \
                               lt_err *err)                                                                  \
    {                                                                                                        \
        ProtobufCMessage *read;                                                                              \
        lt_status status =                                                                                   \
            read_message(reader, fd, timeout_ms, &lt__wire__##name##__descriptor, &read, err);               \
        if (status) return status;                                                                           \
        status = lt_##name##_check((Lt__Wire__##Type *)read, err);                                           \
        if (status)                                                                                          \
            protobuf_c_message_free_unpacked(read, NULL);                                                    \
        else                                                                                                 \
            *message = (Lt__Wire__##Type *)read;                                                             \
        return status;                                                                                       \
    }
READ(control, Control)
READ(report, Report)
READ(plan_request, PlanRequest)
#undef READ

#define WRITE(name, Type)                                                                                    \
    lt_status lt_##name##_write(int fd, const Lt__Wire__##Type *message, lt_err *err)                        \
    {                                                                                                        \
        return write_message(fd, &message->base, err);                                                       \
    }
WRITE(control, Control)
WRITE(report, Report)
WRITE(plan_reply, PlanReply)
#undef WRITE

#define PACK(name, Type)                                                                                     \
    lt_status lt_##name##_pack(const Lt__Wire__##Type *message, void **frame, size_t *bytes, lt_err *err)    \
    {                                                                                                        \
        return pack(&message->base, PREFIX, frame, bytes, err);                                              \
    }
PACK(control, Control)
PACK(plan_request, PlanRequest)
#undef PACK

lt_status lt_plan_reply_unpack(const void *frame, size_t bytes, Lt__Wire__PlanReply **reply, lt_err *err)
{
    ProtobufCMessage *message;
    if (bytes < PREFIX || bytes - PREFIX > LT_FRAME_MAX || get_u32(frame) != bytes - PREFIX)
        return lt_fail(err, LT_E_FORMAT, "%zu bytes are not one plan_reply", bytes);
    lt_status status = unpack(&lt__wire__plan_reply__descriptor, (const unsigned char *)frame + PREFIX,
                              bytes - PREFIX, &message, err);
    if (status) return status;
    status = lt_plan_reply_check((Lt__Wire__PlanReply *)message, err);
    if (status)
        protobuf_c_message_free_unpacked(message, NULL);
    else
        *reply = (Lt__Wire__PlanReply *)message;
    return status;
}

/* ---- headers ------------------------------------------------------------------------------------------------------ */

lt_status lt_header_pack(const Lt__Wire__Header *header, void **data, size_t *bytes, lt_err *err)
{
    return pack(&header->base, 0, data, bytes, err);
}

lt_status lt_header_unpack(const void *data, size_t bytes, Lt__Wire__Header **header, lt_err *err)
{
    ProtobufCMessage *message;
    if (bytes > LT_FRAME_MAX) return lt_fail(err, LT_E_FORMAT, "a header of %zu bytes is too long", bytes);
    lt_status status = unpack(&lt__wire__header__descriptor, data, bytes, &message, err);
    if (status) return status;
    status = lt_header_check((Lt__Wire__Header *)message, err);
    if (status)
        protobuf_c_message_free_unpacked(message, NULL);
    else
        *header = (Lt__Wire__Header *)message;
    return status;
}
