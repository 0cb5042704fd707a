/* test_wire.c - framing, unpacking of hostile bytes, streams. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/wire.h"

static lt_err err;

/* ---- a stream that is right -------------------------------------------------------------------------------- */

typedef struct example {
    lt_stream stream;
    Lt__Wire__Picture picture;
    Lt__Wire__Windows windows;
    int64_t delta[20];
} example;

static lt_stream *make_stream(example *e)
{
    lt__wire__stream__init(&e->stream);
    lt__wire__picture__init(&e->picture);
    lt__wire__windows__init(&e->windows);
    lt_stream *s = &e->stream;
    s->kind = LT__WIRE__PORT_KIND__PORT_FRAMES;
    s->dtype = LT__WIRE__DTYPE__DTYPE_U8;
    s->width = 64, s->height = 32, s->channels = 3, s->bits = 8, s->chunk = 8;
    s->n_frames = 20, s->n_units = 3, s->unit_bytes = 8 * 64 * 32 * 3;
    s->time_base_num = 1, s->time_base_den = 90000;
    s->n_pts_delta = 20, s->pts_delta = e->delta;
    for (int i = 0; i < 20; i++) e->delta[i] = i ? 3600 : -500;
    s->picture = &e->picture;
    s->scaling_factor = 0.18215;
    s->name = "clip-1.mp4", s->source = "/tmp/clip 1.mp4", s->caption = "a bird, \xc3\xa9t\xc3\xa9";
    s->fingerprint = "00ff", s->digest = "abcdef0123", s->numeric_class = "cpu/f32/avx512";
    return s;
}

static void a_right_stream_passes(void **state)
{
    example e;
    assert_int_equal(lt_stream_check(make_stream(&e), &err), LT_OK);
}

#define REFUSED(change)                                                                                      \
    do {                                                                                                     \
        example e;                                                                                           \
        lt_stream *s = make_stream(&e);                                                                      \
        change;                                                                                              \
        assert_int_equal(lt_stream_check(s, &err), LT_E_FORMAT);                                             \
    } while (0)

static void a_wrong_stream_is_refused(void **state)
{
    REFUSED(s->kind = 77);
    REFUSED(s->kind = LT__WIRE__PORT_KIND__PORT_WINDOWS); /* without windows */
    REFUSED(s->dtype = 0);
    REFUSED(s->dtype = -3);
    REFUSED(s->width = 0);
    REFUSED(s->height = UINT32_MAX);
    REFUSED(s->channels = 0);
    REFUSED(s->chunk = 0);
    REFUSED(s->n_units = 4);
    REFUSED(s->n_frames = UINT64_MAX);
    REFUSED(s->unit_bytes = 0);
    REFUSED(s->unit_bytes = UINT64_MAX);
    REFUSED(s->time_base_den = 0);
    REFUSED(s->n_pts_delta = 19);
    REFUSED(e.delta[3] = 0);
    REFUSED(e.delta[3] = INT64_MAX);
    REFUSED(s->name = "");
    REFUSED(s->name = "../escape");
    REFUSED(s->name = ".hidden");
    REFUSED(s->digest = "xyz");
    REFUSED(s->caption = "\xff\xfe");
    REFUSED(s->caption = "\xed\xa0\x80");
    REFUSED(s->caption = "bell \x07");
    REFUSED(s->scaling_factor = 0.0 / 0.0);
}

static void text_is_made_of_what_is_none(void **state)
{
    static const struct {
        const char *from, *to;
        size_t max;
    } cases[] = {
        {"", "", 9},
        {"plain\ttext\n", "plain\ttext\n", 99},
        {"del \x7f, bell \x07", "del ?, bell ?", 99},
        {"caf\xe9/x", "caf?/x", 99},
        {"caf\xe9", "caf?", 99},
        {"\xed\xa0\x80 \xc0\x80", "??? ??", 99},
        {"\xf0\x9f\x90\xa6!", "\xf0\x9f\x90\xa6!", 99},
        {"a\xf0\x9f\x90\xa6!", "a\xf0\x9f\x90\xa6", 5},
        {"a\xf0\x9f\x90\xa6!", "a", 4},
        {"abc", "", 0},
    };
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        char *to = malloc(LT_MIN(strlen(cases[i].from), cases[i].max) + 1), *same = strdup(cases[i].from);
        lt_text_clean(to, cases[i].from, cases[i].max);
        lt_text_clean(same, same, cases[i].max);
        assert_string_equal(to, cases[i].to);
        assert_string_equal(same, cases[i].to);
        assert_true(lt_text_is_clean(to, cases[i].max));
        free(to);
        free(same);
    }
}

static void names_are_made_of_any_text(void **state)
{
    static const char *const cases[][2] = {{"my clip", "my-clip"},
                                           {".hidden", "-hidden"},
                                           {"a/../b.mp4", "a-..-b.mp4"},
                                           {"\xc3\xa9t\xe9", "--t-"},
                                           {"A_0.z-", "A_0.z-"}};
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        char *name = strdup(cases[i][0]);
        assert_int_equal(lt_is_clip_name(name), !strcmp(cases[i][0], cases[i][1]));
        lt_make_clip_name(name);
        assert_string_equal(name, cases[i][1]);
        assert_true(lt_is_clip_name(name));
        free(name);
    }
    char long_name[257] = "";
    memset(long_name, 'x', 256);
    assert_false(lt_is_clip_name(long_name));
    assert_true(lt_is_clip_name(long_name + 1));
    assert_false(lt_is_clip_name(""));
}

/* Of each text that comes from outside; what is right stays where it is. */
static void a_stream_is_made_text(void **state)
{
    enum { MEBI = 1 << 20 };
    lt_arena arena = {0};
    example e;
    lt_stream *s = make_stream(&e);
    char *caption = s->caption, *entry = s->entry, *longest = calloc(1, MEBI + 3);
    assert_int_equal(lt_stream_clean(s, &arena, &err), LT_OK);
    assert_ptr_equal(s->caption, caption);
    assert_ptr_equal(s->entry, entry);
    s->caption = "bell \x07", s->entry = "{\"text\":\"\x7f\"}";
    assert_int_equal(lt_stream_clean(s, &arena, &err), LT_OK);
    assert_string_equal(s->caption, "bell ?");
    assert_string_equal(s->entry, "{\"text\":\"?\"}");
    memset(longest, 'x', MEBI - 1);
    memcpy(longest + MEBI - 1, "\xc3\xa9", 2);
    s->caption = s->entry = longest; /* a byte too long */
    assert_int_equal(lt_stream_clean(s, &arena, &err), LT_OK);
    assert_int_equal(strlen(s->caption), MEBI - 1);
    assert_string_equal(s->entry, "");
    assert_int_equal(lt_stream_check(s, &err), LT_OK);
    lt_arena_finish(&arena);
    free(longest);
}

/* A negative and two prompts, of sequences and pooled vectors. */
static lt_stream *make_text(example *e, Lt__Wire__Text *text, double *at)
{
    lt_stream *s = make_stream(e);
    lt__wire__text__init(text);
    s->kind = LT__WIRE__PORT_KIND__PORT_TEXT;
    s->dtype = LT__WIRE__DTYPE__DTYPE_F32;
    s->width = 2048, s->height = 77, s->channels = 1280, s->bits = 0, s->chunk = 1;
    s->n_frames = s->n_units = 3, s->n_pts_delta = 0, s->picture = NULL;
    at[0] = 0, at[1] = 2.5;
    text->at = at, text->n_at = 2;
    s->text = text;
    return s;
}

#define TEXT_REFUSED(change)                                                                                 \
    do {                                                                                                     \
        example e;                                                                                           \
        Lt__Wire__Text t;                                                                                    \
        double at[2];                                                                                        \
        lt_stream *s = make_text(&e, &t, at);                                                                \
        change;                                                                                              \
        assert_int_equal(lt_stream_check(s, &err), LT_E_FORMAT);                                             \
    } while (0)

static void a_text_stream_says_when_its_prompts_begin(void **state)
{
    example e, f;
    Lt__Wire__Text t, u;
    double at[2], bt[2];
    lt_arena arena = {0};
    lt_stream *s = make_text(&e, &t, at), *other = make_text(&f, &u, bt), copy;
    assert_int_equal(lt_stream_check(s, &err), LT_OK);
    assert_int_equal(lt_stream_copy(&copy, s, &arena, &err), LT_OK);
    at[1] = 3;
    assert_null(lt_stream_difference(&copy, other, false));
    assert_string_equal(lt_stream_difference(s, other, false), "text");
    lt_arena_finish(&arena);
    s->width = s->height = 0; /* pooled only */
    assert_int_equal(lt_stream_check(s, &err), LT_OK);
    TEXT_REFUSED(s->text = NULL);
    TEXT_REFUSED(t.n_at = 1);
    TEXT_REFUSED(at[0] = 0.5);
    TEXT_REFUSED(at[1] = 0);
    TEXT_REFUSED(at[1] = 0.0 / 0.0);
    TEXT_REFUSED(s->width = 0);
    TEXT_REFUSED(s->width = s->height = s->channels = 0);
    TEXT_REFUSED(s->chunk = 2);
}

static void a_copy_owes_nothing_to_its_original(void **state)
{
    example e;
    lt_arena arena = {0};
    lt_stream copy;
    lt_stream *s = make_stream(&e);
    assert_int_equal(lt_stream_copy(&copy, s, &arena, &err), LT_OK);
    assert_null(lt_stream_difference(s, &copy, false));
    memset(&e, 0xee, sizeof e);
    s = make_stream(&e);
    assert_null(lt_stream_difference(s, &copy, false));
    assert_string_equal(copy.caption, s->caption);
    assert_int_equal(lt_stream_check(&copy, &err), LT_OK);
    lt_arena_finish(&arena);
}

static void a_difference_is_named(void **state)
{
    example a, b;
    lt_stream *s = make_stream(&a), *t = make_stream(&b);
    t->source = "elsewhere", t->caption = "for people";
    assert_null(lt_stream_difference(s, t, false));
    t->height = 16;
    assert_string_equal(lt_stream_difference(s, t, false), "height");
    t = make_stream(&b);
    b.delta[19]++;
    assert_string_equal(lt_stream_difference(s, t, false), "pts_delta");
    t = make_stream(&b);
    b.picture.rotation = 90;
    assert_string_equal(lt_stream_difference(s, t, false), "picture");
    t = make_stream(&b);
    t->digest = "00";
    assert_string_equal(lt_stream_difference(s, t, true), "digest");
    t->numeric_class = "cuda";
    assert_string_equal(lt_stream_difference(s, t, false), "numeric_class");
    assert_null(lt_stream_difference(s, t, true));
}

static void how_latents_were_made_travels(void **state)
{
    example e, f;
    lt_arena arena = {0};
    lt_stream copy;
    Lt__Wire__Latents made = LT__WIRE__LATENTS__INIT;
    lt_stream *s = make_stream(&e), *plain = make_stream(&f);
    made.model = "models/\xff", made.weights = "0a1b", made.numerics = "diffusers",
    made.encoding = "tile none", made.made_of = "f00d";
    s->latents = &made;
    assert_int_equal(lt_stream_check(s, &err), LT_OK);
    assert_null(lt_stream_difference(s, plain, false));
    made.logvar = true;
    assert_true(lt_stream_has_logvar(s) && !lt_stream_has_logvar(plain));
    assert_string_equal(lt_stream_difference(s, plain, false), "latents");
    assert_int_equal(lt_stream_copy(&copy, s, &arena, &err), LT_OK);
    memset(&made, 0, sizeof made);
    assert_true(lt_stream_has_logvar(&copy));
    assert_string_equal(copy.latents->encoding, "tile none");
    assert_string_equal(copy.latents->weights, "0a1b");
    assert_string_equal(copy.latents->made_of, "f00d");
    assert_int_equal(lt_stream_check(&copy, &err), LT_OK);
    copy.latents->numerics = "a bell \a";
    assert_int_equal(lt_stream_check(&copy, &err), LT_E_FORMAT);
    lt_arena_finish(&arena);
}

static void timestamps_go_there_and_back(void **state)
{
    example e;
    lt_arena arena = {0};
    int64_t pts[20];
    lt_stream *s = make_stream(&e);
    assert_int_equal(lt_stream_pts(s, pts, &err), LT_OK);
    assert_int_equal(pts[0], -500);
    assert_int_equal(pts[19], -500 + 19 * 3600);
    assert_int_equal(lt_stream_set_pts(s, pts, 20, &arena, &err), LT_OK);
    assert_memory_equal(s->pts_delta, e.delta, sizeof e.delta);
    pts[4] = pts[3];
    assert_int_equal(lt_stream_set_pts(s, pts, 20, &arena, &err), LT_E_INVALID);
    s->n_pts_delta = 0;
    assert_int_equal(lt_stream_pts(s, pts, &err), LT_E_INVALID);
    lt_arena_finish(&arena);
}

static void names_go_there_and_back(void **state)
{
    for (int kind = 1; kind <= 3; kind++) assert_int_equal(lt_port_kind_parse(lt_port_kind_name(kind)), kind);
    assert_int_equal(lt_port_kind_parse("sound"), 0);
    assert_string_equal(lt_port_kind_name(99), "none");
    assert_string_equal(lt_wire_dtype_name(LT__WIRE__DTYPE__DTYPE_BF16), "bf16");
    assert_int_equal(lt_wire_dtype_bytes(LT__WIRE__DTYPE__DTYPE_I64), 8);
    assert_int_equal(lt_wire_dtype_bytes(-1), 0);
}

/* ---- pipes ----------------------------------------------------------------------------------------------------- */

static Lt__Wire__Report *make_started(Lt__Wire__Started *started, Lt__Wire__Report *report)
{
    lt__wire__started__init(started);
    lt__wire__report__init(report);
    started->clip = 3;
    started->unit = 123456789;
    report->body_case = LT__WIRE__REPORT__BODY_STARTED;
    report->started = started;
    return report;
}

static void frames_survive_any_split(void **state)
{
    int ends[2], whole[2];
    unsigned char bytes[256];
    Lt__Wire__Started started;
    Lt__Wire__Report report, *read_back;
    assert_int_equal(pipe(whole), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(lt_report_write(whole[1], make_started(&started, &report), &err), LT_OK);
    ssize_t n = read(whole[0], bytes, sizeof bytes);
    assert_true(n > 12);
    for (ssize_t split = 1; split < n; split++) {
        lt_reader reader = {0};
        int got = 0;
        lt_status status;
        assert_int_equal(pipe(ends), 0);
        assert_int_equal(write(ends[1], bytes, (size_t)split), split);
        for (int part = 0; part < 2; part++) {
            while (!(status = lt_report_read(&reader, ends[0], 0, &read_back, &err))) {
                assert_int_equal(read_back->started->unit, 123456789);
                lt__wire__report__free_unpacked(read_back, NULL);
                got++;
            }
            assert_int_equal(status, part ? LT_END : LT_AGAIN);
            if (part) break;
            assert_int_equal(write(ends[1], bytes + split, (size_t)(n - split)), n - split);
            close(ends[1]);
        }
        assert_int_equal(got, 3);
        close(ends[0]);
        lt_reader_finish(&reader);
    }
    close(whole[0]);
    close(whole[1]);
}

static void a_pipe_may_break_in_a_message(void **state)
{
    int ends[2];
    lt_reader reader = {0};
    Lt__Wire__Report *message;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "\x10\0\0\0abc", 7), 7);
    close(ends[1]);
    assert_int_equal(lt_report_read(&reader, ends[0], -1, &message, &err), LT_END);
    lt_reader_finish(&reader);
    close(ends[0]);
}

static void a_length_that_is_too_large_is_refused(void **state)
{
    int ends[2];
    lt_reader reader = {0};
    Lt__Wire__Report *message;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "\xff\xff\xff\xff", 4), 4);
    assert_int_equal(lt_report_read(&reader, ends[0], 0, &message, &err), LT_E_FORMAT);
    assert_int_equal(lt_report_read(&reader, ends[0], 0, &message, &err), LT_E_FORMAT);
    assert_true(reader.capacity < 1 << 20);
    lt_reader_finish(&reader);
    close(ends[0]);
    close(ends[1]);
}

static void a_bad_message_leaves_the_next_one_readable(void **state)
{
    int ends[2];
    lt_reader reader = {0};
    Lt__Wire__Started started;
    Lt__Wire__Report report, *message;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "\3\0\0\0\xff\xff\xff", 7), 7);
    assert_int_equal(lt_report_write(ends[1], make_started(&started, &report), &err), LT_OK);
    assert_int_equal(lt_report_read(&reader, ends[0], 0, &message, &err), LT_E_FORMAT);
    assert_int_equal(lt_report_read(&reader, ends[0], 0, &message, &err), LT_OK);
    lt__wire__report__free_unpacked(message, NULL);
    lt_reader_finish(&reader);
    close(ends[0]);
    close(ends[1]);
}

static void a_reader_waits_as_long_as_it_is_told(void **state)
{
    int ends[2];
    lt_reader reader = {0};
    Lt__Wire__Report *message;
    assert_int_equal(pipe(ends), 0);
    int64_t start = lt_now_ns();
    assert_int_equal(lt_report_read(&reader, ends[0], 30, &message, &err), LT_AGAIN);
    assert_true(lt_now_ns() - start >= 25000000);
    close(ends[0]);
    Lt__Wire__Started started;
    Lt__Wire__Report report;
    assert_int_equal(lt_report_write(ends[1], make_started(&started, &report), &err), LT_END);
    close(ends[1]);
}

/* ---- headers ----------------------------------------------------------------------------------------------------- */

typedef struct unit_example {
    Lt__Wire__Header header;
    Lt__Wire__Unit unit;
    Lt__Wire__Span span[5], *spans[5];
} unit_example;

static Lt__Wire__Header *make_unit(unit_example *e)
{
    lt__wire__header__init(&e->header);
    lt__wire__unit__init(&e->unit);
    e->header.run = 42, e->header.incarnation = 1;
    e->header.body_case = LT__WIRE__HEADER__BODY_UNIT_DONE;
    e->header.unit_done = &e->unit;
    for (int i = 0; i < 5; i++) {
        lt__wire__span__init(&e->span[i]);
        e->spans[i] = &e->span[i];
        e->span[i].first = 8 * i, e->span[i].count = 8, e->span[i].dtype = LT__WIRE__DTYPE__DTYPE_F32;
        e->span[i].offset = 128 * i, e->span[i].bytes = 100;
    }
    e->unit.n_spans = 2, e->unit.spans = e->spans;
    e->unit.bytes = 228;
    e->unit.payload_case = LT__WIRE__UNIT__PAYLOAD_SLOT;
    return &e->header;
}

static lt_status through(const Lt__Wire__Header *header)
{
    void *data;
    size_t bytes;
    Lt__Wire__Header *back;
    assert_int_equal(lt_header_pack(header, &data, &bytes, &err), LT_OK);
    lt_status status = lt_header_unpack(data, bytes, &back, &err);
    if (!status) lt__wire__header__free_unpacked(back, NULL);
    free(data);
    return status;
}

#define UNIT_REFUSED(change)                                                                                 \
    do {                                                                                                     \
        unit_example e;                                                                                      \
        make_unit(&e);                                                                                       \
        change;                                                                                              \
        assert_int_equal(through(&e.header), LT_E_FORMAT);                                                   \
    } while (0)

static void spans_stay_inside_their_payload(void **state)
{
    unit_example good;
    assert_int_equal(through(make_unit(&good)), LT_OK);
    UNIT_REFUSED(e.header.incarnation = 0);
    UNIT_REFUSED(e.header.body_case = LT__WIRE__HEADER__BODY__NOT_SET);
    UNIT_REFUSED(e.unit.payload_case = LT__WIRE__UNIT__PAYLOAD__NOT_SET);
    UNIT_REFUSED(e.unit.n_spans = 0);
    static uint8_t handle[LT_DEVICE_HANDLE_MAX + 1];
    Lt__Wire__DeviceSlot device = LT__WIRE__DEVICE_SLOT__INIT;
    device.handle = (ProtobufCBinaryData){LT_DEVICE_HANDLE_MAX, handle};
    make_unit(&good);
    good.unit.payload_case = LT__WIRE__UNIT__PAYLOAD_DEVICE, good.unit.device = &device;
    assert_int_equal(through(&good.header), LT_OK);
    device.handle.len = LT_DEVICE_HANDLE_MAX + 1;
    assert_int_equal(through(&good.header), LT_E_FORMAT);
    device.handle.len = 0;
    assert_int_equal(through(&good.header), LT_E_FORMAT);
    UNIT_REFUSED(e.unit.n_spans = 5);
    UNIT_REFUSED((e.span[1].dtype = LT__WIRE__DTYPE__DTYPE_I64,
                  e.span[1].count = 3));             /* timestamps of more frames than bytes */
    UNIT_REFUSED(e.span[1].offset = 64);             /* overlaps */
    UNIT_REFUSED(e.span[1].offset = 130);            /* not aligned */
    UNIT_REFUSED(e.span[1].offset = 256);            /* behind the end */
    UNIT_REFUSED(e.span[1].bytes = UINT64_MAX - 63); /* wraps around */
    UNIT_REFUSED(e.span[1].bytes = 99);              /* no whole elements */
    UNIT_REFUSED(e.span[0].dtype = 0);
    UNIT_REFUSED(e.span[0].count = 0);
    UNIT_REFUSED(e.span[0].first = UINT64_MAX);
    UNIT_REFUSED(e.unit.bytes = UINT64_MAX);
}

/* Numbers that are reserved mean nothing, whoever sends them. */
static void reserved_numbers_say_nothing(void **state)
{
    ProtobufCMessageUnknownField key = {6, PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, 4, (uint8_t *)"\3key"};
    assert_null(protobuf_c_message_descriptor_get_field(&lt__wire__unit__descriptor, 6));
    assert_null(protobuf_c_message_descriptor_get_field(&lt__wire__boot__descriptor, 18));
    UNIT_REFUSED((e.unit.payload_case = LT__WIRE__UNIT__PAYLOAD__NOT_SET, e.unit.base.unknown_fields = &key,
                  e.unit.base.n_unknown_fields = 1));
}

static void a_truncated_header_never_passes_as_another(void **state)
{
    example e;
    Lt__Wire__Header header, *back;
    Lt__Wire__Open open;
    void *data;
    size_t bytes;
    lt__wire__header__init(&header);
    lt__wire__open__init(&open);
    open.stream = make_stream(&e);
    header.incarnation = 1, header.body_case = LT__WIRE__HEADER__BODY_OPEN, header.open = &open;
    assert_int_equal(lt_header_pack(&header, &data, &bytes, &err), LT_OK);
    for (size_t n = 0; n < bytes; n++) {
        void *exact = malloc(n ? n : 1); /* so that a sanitizer sees any read behind it */
        memcpy(exact, data, n);
        assert_int_equal(lt_header_unpack(exact, n, &back, &err), LT_E_FORMAT);
        free(exact);
    }
    free(data);
}

static void garbage_is_refused_or_harmless(void **state)
{
    example e;
    Lt__Wire__Header header, *back;
    Lt__Wire__Open open;
    void *data;
    size_t bytes;
    uint64_t random = 88172645463325252u;
    lt__wire__header__init(&header);
    lt__wire__open__init(&open);
    open.stream = make_stream(&e);
    header.incarnation = 1, header.body_case = LT__WIRE__HEADER__BODY_OPEN, header.open = &open;
    assert_int_equal(lt_header_pack(&header, &data, &bytes, &err), LT_OK);
    unsigned char *mutant = malloc(bytes);
    int passed = 0;
    for (int i = 0; i < 20000; i++) {
        memcpy(mutant, data, bytes);
        for (int k = 0; k <= i % 4; k++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            mutant[random % bytes] = (unsigned char)(random >> 32);
        }
        if (lt_header_unpack(mutant, bytes, &back, &err)) continue;
        passed++;
        lt__wire__header__free_unpacked(back, NULL);
    }
    assert_true(passed < 20000);
    free(mutant);
    free(data);
}

/* 85 80 00 is field 0 with a number of four bytes: protobuf-c unpacks it, then packs it as 05, which it does not unpack. */
static void a_field_of_number_0_is_refused(void **state)
{
    static const unsigned char at_the_top[] = {0x08, 7, 0x85, 0x80, 0, 1, 2, 3, 4};
    static const unsigned char inside_open[] = {0x08, 7, 0x2a, 9, 0x0a, 7, 0x85, 0x80, 0, 1, 2, 3, 4};
    const struct {
        const unsigned char *data;
        size_t bytes;
    } cases[] = {{at_the_top, sizeof at_the_top}, {inside_open, sizeof inside_open}};
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        Lt__Wire__Header *header;
        lt_err err = {0};
        assert_int_equal(lt_header_unpack(cases[i].data, cases[i].bytes, &header, &err), LT_E_FORMAT);
        if (!strstr(err.text, "number 0")) fail_msg("case %zu: %s", i, err.text);
    }
}

/* What a stage answers to --plan is one frame, and taken with the same care. */
static void an_answer_in_memory_is_checked(void **state)
{
    static const unsigned char right[] = {7, 0, 0, 0, 0x28, 0x80, 0x80, 0x80, 0x80, 0x80, 1};
    static const unsigned char cases[][12] = {
        {7, 0, 0},                                              /* no length */
        {8, 0, 0, 0, 0x28, 0x80, 0x80, 0x80, 0x80, 0x80, 1},    /* a longer one */
        {6, 0, 0, 0, 0x28, 0x80, 0x80, 0x80, 0x80, 0x80, 1},    /* something behind it */
        {7, 0, 0, 0, 0x85, 0x80, 0, 1, 2, 3, 4},                /* a field of number 0 */
        {7, 0, 0, 0, 0x08, 0xff, 0x01, 0x28, 0x80, 0x80, 0x01}, /* a status that there is not */
    };
    static const size_t bytes[] = {3, 11, 11, 11, 11};
    Lt__Wire__PlanReply *reply = NULL;
    assert_int_equal(lt_plan_reply_unpack(right, sizeof right, &reply, &err), LT_OK);
    assert_int_equal(reply->peak_bytes, INT64_C(1) << 35);
    lt__wire__plan_reply__free_unpacked(reply, NULL);
    reply = NULL;
    for (size_t i = 0; i < LT_COUNT(cases); i++)
        if (lt_plan_reply_unpack(cases[i], bytes[i], &reply, &err) != LT_E_FORMAT || reply)
            fail_msg("case %zu is taken", i);
    assert_int_equal(lt_plan_reply_unpack("", 0, &reply, &err), LT_E_FORMAT);
}

static void few_bytes_cannot_ask_for_much_memory(void **state)
{
    /* Empty spans: two bytes each on the wire, a hundred in memory. */
    size_t n = 4 << 20;
    unsigned char *bytes = malloc(n + 16), *p = bytes;
    *p++ = 0x3a; /* Header.unit_done */
    for (size_t left = n; left; left >>= 7) *p++ = (unsigned char)((left & 127) | (left >> 7 ? 128 : 0));
    for (size_t i = 0; i < n; i += 2) *p++ = 0x12, *p++ = 0; /* Unit.spans */
    Lt__Wire__Header *back;
    assert_int_equal(lt_header_unpack(bytes, (size_t)(p - bytes), &back, &err), LT_E_FORMAT);
    assert_non_null(strstr(err.text, "too much"));
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_right_stream_passes),
        cmocka_unit_test(a_wrong_stream_is_refused),
        cmocka_unit_test(text_is_made_of_what_is_none),
        cmocka_unit_test(names_are_made_of_any_text),
        cmocka_unit_test(a_stream_is_made_text),
        cmocka_unit_test(a_text_stream_says_when_its_prompts_begin),
        cmocka_unit_test(a_copy_owes_nothing_to_its_original),
        cmocka_unit_test(a_difference_is_named),
        cmocka_unit_test(how_latents_were_made_travels),
        cmocka_unit_test(timestamps_go_there_and_back),
        cmocka_unit_test(names_go_there_and_back),
        cmocka_unit_test(frames_survive_any_split),
        cmocka_unit_test(a_pipe_may_break_in_a_message),
        cmocka_unit_test(a_length_that_is_too_large_is_refused),
        cmocka_unit_test(a_bad_message_leaves_the_next_one_readable),
        cmocka_unit_test(a_reader_waits_as_long_as_it_is_told),
        cmocka_unit_test(spans_stay_inside_their_payload),
        cmocka_unit_test(reserved_numbers_say_nothing),
        cmocka_unit_test(a_truncated_header_never_passes_as_another),
        cmocka_unit_test(garbage_is_refused_or_harmless),
        cmocka_unit_test(a_field_of_number_0_is_refused),
        cmocka_unit_test(an_answer_in_memory_is_checked),
        cmocka_unit_test(few_bytes_cannot_ask_for_much_memory),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
