/* video_mux_test.c - decode into mux: kills, stops, frames without loss, colours, units out of order, blending. */
#include "models/tiling.h"
#include "proto/wire.h"
#include "stages/decode/decode.h"
#include "stages/mux/mux.h"
#include "stages/video/ffmpeg.h"
#include "stages/video/video.h"
#include "tests/unit/video_clips.h"
#include "tests/unit/video_harness.h"
#include "tests/unit/video_mux_harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* after the above, as it demands */
#include <cmocka.h>

/* ---- restarts
 * ---------------------------------------------------------------------------------------------- */

/* Killed after every number of units: the same file in the end, and finished segments are not touched. */
static void killed(void **state)
{
    lt_run_whole("plain", "av.mp4", "plain.mp4", NULL);
    for (int units = 1; units < 12; units += 3) {
        lt_err err = {0};
        int64_t made;
        char name[32], segment[64];
        snprintf(name, sizeof name, "killed%d", units);
        snprintf(segment, sizeof segment, "%s/segments/00000.mp4", name);
        const char *decode[] = {lt_clips_option("input", "av.mp4"), NULL},
                   *mux[] = {lt_clips_option("output", "killed.mp4"), LT_RUN_FAST, NULL};
        const char *folder = lt_clips_folder(name);
        assert_int_equal(lt_run_chain(folder, decode, mux, units, -1, NULL, &err), LT_AGAIN);
        int64_t inode = lt_clips_inode(lt_clips_path("%s", segment));
        if (lt_run_chain(folder, decode, mux, -1, -1, &made, &err)) fail_msg("%s", err.text);
        if (units >= 4) {
            assert_true(inode >= 0);
            assert_true(made < 12);
        }
        if (inode >= 0) assert_int_equal(inode, lt_clips_inode(lt_clips_path("%s", segment)));
        assert_true(lt_clips_same(lt_clips_path("plain.mp4"), lt_clips_path("killed.mp4")));
    }
}

/* Asked to stop in the middle of a segment: it is finished, and the run can go on. */
static void stopped(void **state)
{
    lt_err err = {0};
    int64_t made;
    const char *decode[] = {lt_clips_option("input", "av.mp4"), "chunk=7", NULL};
    const char *mux[] = {lt_clips_option("output", "stopped.mp4"), LT_RUN_FAST, NULL};
    const char *folder = lt_clips_folder("stopped");
    assert_int_equal(lt_run_chain(folder, decode, mux, -1, 4, &made, &err), LT_END);
    assert_int_equal(lt_clips_inode(lt_clips_path("stopped.mp4")), -1);
    assert_true(lt_clips_inode(lt_clips_path("stopped/segments/00001.mp4")) >= 0);
    assert_int_equal(lt_clips_inode(lt_clips_path("stopped/segments/00002.mp4")), -1);
    assert_int_equal(lt_clips_inode(lt_clips_path("stopped/segments/00002.mp4.part")), -1);
    assert_int_equal(lt_harness_safe, 48 / 7);
    if (lt_run_chain(folder, decode, mux, -1, -1, &made, &err)) fail_msg("%s", err.text);
    assert_true(lt_clips_same(lt_clips_path("plain.mp4"), lt_clips_path("stopped.mp4")));
}

/* A segment that is not as noted is made again, with all after it; other settings start over. */
static void distrust(void **state)
{
    lt_err err = {0};
    int64_t made;
    const char *decode[] = {lt_clips_option("input", "av.mp4"), NULL},
               *mux[] = {lt_clips_option("output", "again.mp4"), LT_RUN_FAST, NULL};
    const char *other[] = {lt_clips_option("output", "again.mp4"), "options=crf=30:preset=veryfast",
                           "segment=24", NULL};
    const char *folder = lt_clips_folder("plain");
    assert_int_equal(truncate(lt_clips_path("plain/segments/00002.mp4"), 100), 0);
    if (lt_run_chain(folder, decode, mux, -1, -1, &made, &err)) fail_msg("%s", err.text);
    assert_int_equal(made, 6);
    assert_true(lt_clips_same(lt_clips_path("plain.mp4"), lt_clips_path("again.mp4")));
    if (lt_run_chain(folder, decode, mux, -1, -1, &made, &err)) fail_msg("%s", err.text);
    assert_int_equal(made, 0);
    if (lt_run_chain(folder, decode, other, -1, -1, &made, &err)) fail_msg("%s", err.text);
    assert_int_equal(made, 12);
}

/* ---- what is written
 * ------------------------------------------------------------------------------------------ */

/* A lossless encoder in RGB gives back the very frames, deep ones too, and visible sizes are restored. */
static void lossless(void **state)
{
    static const char *const graphs[] = {"testsrc2=size=160x96:rate=24:duration=1,scale=161:97,format=rgb24",
                                         "testsrc2=size=160x96:rate=24:duration=1,format=rgb48le"};
    for (int i = 0; i < 2; i++) {
        char input[160], format[40];
        lt_err err = {0};
        snprintf(input, sizeof input, "input=lavfi:%s", graphs[i]);
        snprintf(format, sizeof format, "pixel_format=%s", i ? "gbrp16le" : "bgr0");
        const char *decode[] = {input, NULL},
                   *mux[] = {lt_clips_option("output", "lossless.mkv"), "codec=ffv1", format, NULL};
        char folder[16];
        snprintf(folder, sizeof folder, "lossless%d", i);
        if (lt_run_chain(lt_clips_folder(folder), decode, mux, -1, -1, NULL, &err)) fail_msg("%s", err.text);
        lt_video *a, *b;
        if (lt_video_open(&a, &(lt_video_request){.input = input + 6}, &err)) fail_msg("%s", err.text);
        if (lt_video_open(&b, &(lt_video_request){.input = lt_clips_path("lossless.mkv")}, &err))
            fail_msg("%s", err.text);
        assert_int_equal(lt_video_get_info(a)->visible_width, lt_video_get_info(b)->visible_width);
        assert_int_equal(lt_video_get_info(a)->bits, i ? 16 : 8);
        size_t bytes = lt_video_frame_bytes(lt_video_get_info(a));
        uint8_t *x = malloc(bytes), *y = malloc(bytes);
        for (int f = 0; f < 24; f++) {
            assert_int_equal(lt_video_read(a, f, x, &err), LT_OK);
            assert_int_equal(lt_video_read(b, f, y, &err), LT_OK);
            assert_memory_equal(x, y, bytes);
        }
        free(x);
        free(y);
        lt_video_close(a);
        lt_video_close(b);
    }
}

enum { PATCH_WIDTH = 128, PATCH_HEIGHT = 64 };

/* patches.mkv: grey 190 beside green 188, tagged as BT.709, though it is small. */
static void make_patches(bool full)
{
    const char *range = full ? "pc" : "tv";
    lt_clips_ffmpeg(
        "-f lavfi -i color=0xbebebe:size=%dx%d:duration=0.2 -f lavfi -i "
        "color=0x00bc00:size=%dx%d:duration=0.2 -filter_complex "
        "hstack,format=gbrp,scale=out_color_matrix=bt709:out_range=%s,format=yuv420p -c:v ffv1 -color_range "
        "%s -colorspace bt709 -color_primaries bt709 -color_trc bt709 patches.mkv",
        PATCH_WIDTH, PATCH_HEIGHT, PATCH_WIDTH, PATCH_HEIGHT, range, range);
}

/* The middle of both patches in the first picture. */
static void has_patches(const char *path, const char *what)
{
    static const int wanted[2][3] = {{190, 190, 190}, {0, 188, 0}};
    lt_err err = {0};
    lt_video *video;
    uint8_t rgb[PATCH_HEIGHT][2 * PATCH_WIDTH][3];
    if (lt_video_open(&video, &(lt_video_request){.input = path, .bits = 8}, &err))
        fail_msg("%s: %s", what, err.text);
    assert_int_equal(lt_video_frame_bytes(lt_video_get_info(video)), sizeof rgb);
    if (lt_video_read(video, 0, rgb, &err)) fail_msg("%s: %s", what, err.text);
    lt_video_close(video);
    for (int patch = 0; patch < 2; patch++)
        for (int c = 0; c < 3; c++) {
            int got = rgb[PATCH_HEIGHT / 2][PATCH_WIDTH / 2 + patch * PATCH_WIDTH][c];
            if (!(abs(got - wanted[patch][c]) <= 3))
                fail_msg("%s: patch %d, sample %d is %d for %d", what, patch, c, got, wanted[patch][c]);
        }
}

/* Whatever matrix and range the source has, who reads what the file says sees the source's colours. */
static void colours(void **state)
{
    static const struct {
        const char *codec, *output, *more;
    } cases[] = {
        {"auto", "still.jpg", NULL},
        {"mjpeg", "x.mov", NULL},
        {"mjpeg", "x.mkv", NULL},
        {"prores_ks", "x.mov", NULL},
        {"mpeg2video", "x.mkv", NULL},
        {"libvpx", "x.webm", NULL},
        {"libtheora", "x.ogv", "options=flags=+qscale:global_quality=1180"},
        {"libx264", "x.mp4", NULL},
        {"libvpx-vp9", "x.webm", NULL},
        {"mpeg4", "x.mkv", NULL},
        {"ffv1", "x.mkv", "pixel_format=yuv420p"},
    };
    for (int full = 0; full < 2; full++) {
        make_patches(full);
        for (size_t i = 0; i < LT_COUNT(cases); i++) {
            lt_err err = {0};
            char codec[40], what[80], folder[40];
            snprintf(codec, sizeof codec, "codec=%s", cases[i].codec);
            snprintf(folder, sizeof folder, "colours%d-%zu", full, i);
            snprintf(what, sizeof what, "%s in %s, %s range", cases[i].codec, cases[i].output,
                     full ? "full" : "limited");
            if (strcmp(cases[i].codec, "auto") && !avcodec_find_encoder_by_name(cases[i].codec)) {
                print_message("skipped: this FFmpeg has no %s\n", cases[i].codec);
                continue;
            }
            const char *decode[] = {lt_clips_option("input", "patches.mkv"), "frames=1", NULL};
            const char *mux[] = {lt_clips_option("output", cases[i].output), codec, cases[i].more, NULL};
            if (lt_run_chain(lt_clips_folder(folder), decode, mux, -1, -1, NULL, &err))
                fail_msg("%s: %s", what, err.text);
            has_patches(lt_clips_path("%s", cases[i].output), what);
        }
    }
}

/* ---- units out of order
 * ------------------------------------------------------------------------------------- */

static void any_order(void **state)
{
    static const uint64_t order[] = {2, 0, 1, 5, 3, 4, 11, 6, 6, 9, 0, 10};
    lt_err err = {0};
    lt_driver one, two;
    lt_payload a, b;
    const char *options[] = {lt_clips_option("input", "av.mp4"), "ring=2", NULL};
    assert_int_equal(lt_driver_open(&one, &lt_decode_stage, "", options, &err), LT_OK);
    assert_int_equal(lt_driver_open(&two, &lt_decode_stage, "", options, &err), LT_OK);
    if (lt_driver_open_clip(&one, NULL, &err)) fail_msg("%s", err.text);
    if (lt_driver_open_clip(&two, NULL, &err)) fail_msg("%s", err.text);
    uint8_t *units = malloc(12 * one.output.unit_bytes);
    for (uint64_t u = 0; u < 12; u++) {
        assert_int_equal(lt_driver_make(&one, u, &a, &err), LT_OK);
        memcpy(units + u * one.output.unit_bytes, a.data, a.bytes);
    }
    for (size_t i = 0; i < LT_COUNT(order); i++) {
        if (lt_driver_make(&two, order[i], &b, &err)) fail_msg("%s", err.text);
        assert_int_equal(b.spans[0].first, order[i] * 8);
        assert_memory_equal(b.data, units + order[i] * one.output.unit_bytes, b.bytes);
    }
    free(units);
    lt_driver_close(&one);
    lt_driver_close(&two);
}

/* ---- windows
 * ------------------------------------------------------------------------------------------------ */

enum { W = 64, H = 48, N = 60, WINDOW = 16, STRIDE = 12 };

/* A picture's value at a place: something that moves. */
static float value_at(int64_t frame, int i)
{
    return (float)((i * 7 + frame * 13) % 255) / 127.5f - 1;
}

/* Window k as vae_decode would send it: sums where windows overlap, bytes between. */
static void make_window(const lt_decode_plan *plan, int64_t k, lt_payload *payload)
{
    int64_t first, end, lead, trail;
    lt_decode_window_range(plan, N, k, &first, &end);
    lt_decode_window_shared(plan, N, k, &lead, &trail);
    payload->n_spans = 0;
    payload->bytes = 0;
    payload->unit = (uint64_t)k;
    const int64_t parts[3][2] = {
        {first, lead}, {first + lead, end - first - lead - trail}, {end - trail, trail}};
    for (int p = 0; p < 3; p++) {
        bool sums = p != 1;
        lt_span *span;
        if (!parts[p][1]) continue;
        size_t bytes = (size_t)parts[p][1] * W * H * 3 * (sums ? 4 : 1);
        assert_int_equal(lt_payload_add(payload, (uint64_t)parts[p][0], (uint64_t)parts[p][1],
                                        sums ? LT__WIRE__DTYPE__DTYPE_F32 : LT__WIRE__DTYPE__DTYPE_U8, bytes,
                                        &span, NULL),
                         LT_OK);
        for (int64_t f = 0; f < parts[p][1]; f++) {
            float weight = 1;
            if (sums) lt_decode_weights(plan, N, k, parts[p][0] + f, &weight);
            for (int i = 0; i < W * H * 3; i++) {
                float value = value_at(parts[p][0] + f, i);
                if (sums)
                    ((float *)span->data)[f * W * H * 3 + i] = value * weight;
                else
                    ((uint8_t *)span->data)[f * W * H * 3 + i] = (uint8_t)((value + 1) * 127.5f + 0.5f);
            }
        }
    }
}

static void fill_window_stream(lt_stream *stream, Lt__Wire__Windows *windows, Lt__Wire__Picture *picture,
                               lt_arena *arena)
{
    lt__wire__stream__init(stream);
    lt__wire__windows__init(windows);
    lt__wire__picture__init(picture);
    *picture = (Lt__Wire__Picture){
        .base = picture->base, .width = W - 2, .height = H - 1, .matrix = 2, .primaries = 2, .transfer = 2};
    windows->window = WINDOW;
    windows->stride = STRIDE;
    windows->tile_height = windows->stride_height = H / 8;
    windows->tile_width = windows->stride_width = W / 8;
    stream->kind = LT__WIRE__PORT_KIND__PORT_WINDOWS;
    stream->dtype = LT__WIRE__DTYPE__DTYPE_U8;
    stream->width = W;
    stream->height = H;
    stream->channels = 3;
    stream->bits = 8;
    stream->factor = 8;
    stream->n_frames = N;
    stream->time_base_num = 1;
    stream->time_base_den = 24;
    stream->last_duration = 1;
    stream->windows = windows;
    stream->picture = picture;
    int64_t pts[N];
    for (int i = 0; i < N; i++) pts[i] = i;
    assert_int_equal(lt_stream_set_pts(stream, pts, N, arena, NULL), LT_OK);
}

/* Feed windows from where mux wants them; stop after max_windows. */
static void run_windows(const char *folder, const char *output, int max_windows)
{
    lt_err err = {0};
    lt_arena arena = {0};
    lt_stream stream;
    Lt__Wire__Windows windows;
    Lt__Wire__Picture picture;
    lt_driver mux;
    const char *options[] = {lt_clips_option("output", output), "codec=ffv1", "pixel_format=bgr0",
                             "segment=10", NULL},
               *result;
    fill_window_stream(&stream, &windows, &picture, &arena);
    lt_decode_plan plan = {true, 8, H / 8, W / 8, WINDOW, STRIDE, H / 8, W / 8, H / 8, W / 8};
    stream.n_units = (uint64_t)lt_decode_windows_count(&plan, N);
    size_t capacity = (size_t)WINDOW * W * H * 3 * 4 + 256;
    void *data = aligned_alloc(64, lt_round_up(capacity, 64));
    if (lt_driver_open(&mux, &lt_mux_stage, lt_clips_folder(folder), options, &err)) fail_msg("%s", err.text);
    if (lt_driver_open_clip(&mux, &stream, &err)) fail_msg("%s", err.text);
    bool whole = true;
    for (uint64_t k = mux.clip.first_unit; k < mux.clip.n_units; k++) {
        if (max_windows-- == 0) {
            whole = false;
            break;
        }
        lt_payload payload = {.data = data, .capacity = capacity};
        const lt_payload *input = &payload, *const *inputs = &input;
        make_window(&plan, (int64_t)k, &payload);
        if (mux.stage->process(mux.state, &mux.clip, k, inputs, NULL, &err)) fail_msg("%s", err.text);
    }
    if (mux.stage->finish_clip(mux.state, &mux.clip, whole, &result, &err)) fail_msg("%s", err.text);
    lt_driver_close(&mux);
    free(data);
    lt_arena_finish(&arena);
}

static void blended(void **state)
{
    lt_err err = {0};
    run_windows("windows", "windows.mkv", -1);
    run_windows("windows2", "windows2.mkv", 3);
    assert_int_equal(lt_clips_inode(lt_clips_path("windows2.mkv")), -1);
    run_windows("windows2", "windows2.mkv", -1);
    assert_true(lt_clips_same(lt_clips_path("windows.mkv"), lt_clips_path("windows2.mkv")));
    lt_video *video;
    if (lt_video_open(&video, &(lt_video_request){.input = lt_clips_path("windows.mkv")}, &err))
        fail_msg("%s", err.text);
    const lt_video_info *info = lt_video_get_info(video);
    assert_int_equal(info->n_frames, N);
    assert_int_equal(info->visible_width, W - 2);
    assert_int_equal(info->visible_height, H - 1);
    uint8_t rgb[W * H * 3];
    for (int f = 0; f < N; f++) {
        assert_int_equal(lt_video_read(video, f, rgb, &err), LT_OK);
        for (int y = 0; y < H - 1; y++)
            for (int i = 0; i < (W - 2) * 3; i++) {
                int wanted = (y * W * 3 + i) * 7 + f * 13;
                int difference = rgb[y * W * 3 + i] - wanted % 255;
                if (difference > 1 || difference < -1)
                    fail_msg("frame %d: %d for %d", f, rgb[y * W * 3 + i], wanted % 255);
            }
    }
    lt_video_close(video);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed),   cmocka_unit_test(stopped),   cmocka_unit_test(distrust),
        cmocka_unit_test(lossless), cmocka_unit_test(any_order), cmocka_unit_test(blended),
        cmocka_unit_test(colours),
    };
    lt_log_init("test", LT_LOG_ERROR);
    if (!lt_clips_begin()) return 77;
    lt_clips_make_av();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    lt_clips_end();
    return failed;
}
