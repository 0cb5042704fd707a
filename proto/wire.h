/* wire.h - messages as bytes: framed on pipes, packed for edges, and checked on arrival.
 *
 * Everything that arrives is hostile until it has passed through a function of this file: a message handed out here
 * has its oneof set, dimensions and counts within limits, enumerations known, text valid, spans inside their payload.
 *
 * Threads: no state of its own; a reader belongs to one thread at a time. Nothing here logs or exits. */
#ifndef LT_WIRE_H
#define LT_WIRE_H

#include "core/core.h"
#include "proto/longtake.pb-c.h"

/* A stream's description is the wire's own message. */
typedef Lt__Wire__Stream lt_stream;

enum {
    LT_FRAME_MAX = 64 << 20,        /* bytes of one message, on a pipe or on an edge */
    LT_STREAM_FRAMES_MAX = 1 << 26, /* frames of a clip */
    LT_UNIT_SPANS_MAX = 4,
    LT_PAYLOAD_ALIGNMENT = 64, /* of a span's offset */
    LT_DEVICE_HANDLE_MAX = 160,
};
#define LT_UNIT_BYTES_MAX ((uint64_t)1 << 40)
#define LT_UNIT_OPENING   UINT64_MAX       /* in Started: not a unit, the clip is being opened */
#define LT_UNIT_FINISHING (UINT64_MAX - 1) /* ... or finished */

/* ---- frames on a pipe: a 32-bit little-endian length, then the message ------------------------------------- */

/* What has been read from one pipe and not yet handed out. A zeroed one is ready. */
typedef struct lt_reader {
    unsigned char *data;
    size_t start, end, capacity; /* data[start, end) is pending */
} lt_reader;

/* Free the buffer; the reader is empty and usable again. Takes NULL. */
void lt_reader_finish(lt_reader *reader);

/* Read the next message from `fd`, whether it is in blocking mode or not, and check it.
 * timeout_ms: how long to wait for bytes: 0 takes what is there (for a poll loop: call until it says AGAIN), -1 waits
 * for ever. *message: freed by lt__wire__<message>__free_unpacked(message, NULL); untouched unless OK.
 * AGAIN: no whole message yet. END: end of file, also in the middle of a message, which a killed writer leaves.
 * E_FORMAT: what arrived is no such message, err says why; when its length was plausible the reader stands behind
 * it and may go on, else every further call fails too. E_IO, E_NO_MEMORY. */
lt_status lt_control_read(lt_reader *reader, int fd, int timeout_ms, Lt__Wire__Control **message,
                          lt_err *err);
lt_status lt_report_read(lt_reader *reader, int fd, int timeout_ms, Lt__Wire__Report **message, lt_err *err);
lt_status lt_plan_request_read(lt_reader *reader, int fd, int timeout_ms, Lt__Wire__PlanRequest **message,
                               lt_err *err);

/* Write one framed message to `fd`, whole, with one write(2) where the pipe takes it (always, and atomically, up to
 * PIPE_BUF bytes); waits while the pipe is full. END: the reader is gone (SIGPIPE must be ignored). E_INVALID: longer
 * than LT_FRAME_MAX. E_IO, E_NO_MEMORY. */
lt_status lt_control_write(int fd, const Lt__Wire__Control *message, lt_err *err);
lt_status lt_report_write(int fd, const Lt__Wire__Report *message, lt_err *err);
lt_status lt_plan_reply_write(int fd, const Lt__Wire__PlanReply *message, lt_err *err);

/* The same framed bytes in memory, for a caller that must never wait: *frame (*bytes long) is freed by free(). */
lt_status lt_control_pack(const Lt__Wire__Control *message, void **frame, size_t *bytes, lt_err *err);
lt_status lt_plan_request_pack(const Lt__Wire__PlanRequest *message, void **frame, size_t *bytes,
                               lt_err *err);
/* Unpack and check one framed reply and nothing behind it; *reply is freed as what is read. E_FORMAT, E_NO_MEMORY. */
lt_status lt_plan_reply_unpack(const void *frame, size_t bytes, Lt__Wire__PlanReply **reply, lt_err *err);

/* ---- headers of an edge --------------------------------------------------------------------------------------- */

/* Pack into memory that free() frees. E_INVALID: longer than LT_FRAME_MAX; E_NO_MEMORY. */
lt_status lt_header_pack(const Lt__Wire__Header *header, void **data, size_t *bytes, lt_err *err);

/* Unpack and check `bytes` bytes. *header: freed by lt__wire__header__free_unpacked(header, NULL). E_FORMAT with a
 * sentence; E_NO_MEMORY. Of a Unit it is checked that spans are aligned, in order, apart and inside its `bytes`. */
lt_status lt_header_unpack(const void *data, size_t bytes, Lt__Wire__Header **header, lt_err *err);

/* ---- streams --------------------------------------------------------------------------------------------------- */

/* E_FORMAT naming the first field that cannot be: kind, dtype, dimensions (1 .. 2^20; of text also 0), n_units against n_frames and
 * chunk, time base, timestamps (none, or n_frames that increase), name [A-Za-z0-9._-], hex digests, text. */
lt_status lt_stream_check(const lt_stream *stream, lt_err *err);

/* Make text of what comes from outside, caption and entry, so that lt_stream_check takes it: with lt_text_clean, new copies in
 * `arena`. An entry that is too long is left out, since a part of it is none. E_NO_MEMORY: all stands as it was. */
lt_status lt_stream_clean(lt_stream *stream, lt_arena *arena, lt_err *err);

/* Deep copy of `from` over `to`, which need not be initialised; everything it points to lives in `arena`.
 * E_NO_MEMORY. */
lt_status lt_stream_copy(lt_stream *to, const lt_stream *from, lt_arena *arena, lt_err *err);

/* Whether a unit has two runs of the same frames: latents, and their log-variances in the same dtype and layout. */
bool lt_stream_has_logvar(const lt_stream *stream);

/* NULL when two descriptions of one clip agree, else the name of the first field that differs. With `mixed`, numeric
 * classes may differ, and where they do, digests (which contain them) are not compared. source, caption, side_path and the
 * texts of latents are for people and are never compared. */
const char *lt_stream_difference(const lt_stream *a, const lt_stream *b, bool mixed);

/* Timestamps of all n_frames frames, from the differences. E_INVALID where the stream has none; E_FORMAT where they
 * overflow or do not increase. */
lt_status lt_stream_pts(const lt_stream *stream, int64_t *pts, lt_err *err);

/* Set n_frames and the differences from `n` increasing timestamps. E_INVALID where they do not increase. */
lt_status lt_stream_set_pts(lt_stream *stream, const int64_t *pts, size_t n, lt_arena *arena, lt_err *err);

/* "frames", "latents", "windows", "text"; "none" for anything else. */
const char *lt_port_kind_name(Lt__Wire__PortKind kind);
/* PORT_NONE for a word that is none of them. */
Lt__Wire__PortKind lt_port_kind_parse(const char *name);

/* "f32", ...; "none". Bytes of one element, 0 for none. (kernels/tensor.h's lt_dtype is this minus one.) */
const char *lt_wire_dtype_name(Lt__Wire__Dtype dtype);
size_t lt_wire_dtype_bytes(Lt__Wire__Dtype dtype);

/* Whether a clip can be called so: 1 to 255 of A-Z a-z 0-9 . _ - with no dot in front. */
bool lt_is_clip_name(const char *name);
/* Make such a name of any text of at most 255 bytes, in place: what it may not have becomes '-'. "" stays "". */
void lt_make_clip_name(char *text);

/* Valid UTF-8 of at most max_bytes bytes without control characters other than tab and newline. */
bool lt_text_is_clean(const char *text, size_t max_bytes);

/* Copy `text` so that lt_text_is_clean(to, max_bytes): each byte that is no such character, or part of one, is a '?'; what is longer
 * is cut off at a character. `to` takes as many bytes as `text` has, at most max_bytes, and a final 0; it may be `text`. */
void lt_text_clean(char *to, const char *text, size_t max_bytes);

#endif
