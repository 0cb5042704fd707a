/* video_reader_test.c - lt_video: any frame at any time is the frame of a run from the start; colours; bad
 * files. */
#include "stages/video/video.h"
#include "tests/unit/video_clips.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* after the above, as it demands */
#include <cmocka.h>

static lt_video *open_video(const char *path, lt_video_request request)
{
    lt_err err = {0};
    lt_video *video = NULL;
    request.input = path;
    if (lt_video_open(&video, &request, &err)) fail_msg("%s", err.text);
    return video;
}

static void *read_frame(lt_video *video, int64_t index)
{
    lt_err err = {0};
    void *rgb = malloc(lt_video_frame_bytes(lt_video_get_info(video)));
    if (lt_video_read(video, index, rgb, &err)) fail_msg("%s", err.text);
    return rgb;
}

/* ---- frames by number
 * ------------------------------------------------------------------------------------ */

/* All frames in order by one reader, then `n` in a random order by another with other threads. */
static void check_seeks(const char *path, int64_t n_frames, int n)
{
    lt_video *one = open_video(path, (lt_video_request){.threads = 1});
    lt_video *two = open_video(path, (lt_video_request){.threads = 3});
    const lt_video_info *info = lt_video_get_info(one);
    assert_int_equal(info->n_frames, n_frames);
    size_t bytes = lt_video_frame_bytes(info);
    uint8_t **frames = calloc((size_t)n_frames, sizeof *frames);
    for (int64_t i = 0; i < n_frames; i++) frames[i] = read_frame(one, i);
    uint32_t seed = 12345;
    for (int k = 0; k < n; k++) {
        seed = seed * 1664525 + 1013904223;
        int64_t index = (int64_t)(seed >> 8) % n_frames;
        void *frame = read_frame(two, index);
        if (memcmp(frame, frames[index], bytes))
            fail_msg("%s: frame %lld differs after a seek", path, (long long)index);
        free(frame);
    }
    for (int64_t i = 1; i < n_frames; i++) assert_true(info->pts[i] > info->pts[i - 1]);
    for (int64_t i = 0; i < n_frames; i++) free(frames[i]);
    free(frames);
    lt_video_close(one);
    lt_video_close(two);
}

static void seeks(void **state)
{
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=160x96:rate=24:duration=5 -c:v libx264 -g 50 -bf 3 -pix_fmt yuv420p "
        "long.mp4 -c:v libx264 -g 40 -bf 3 -x264-params open-gop=1 -pix_fmt yuv420p open.mkv");
    lt_clips_ffmpeg("-i long.mp4 -c copy long.ts -c copy long.avi -c copy long.h264 -c copy long.nut");
    static const char *const names[] = {"long.mp4", "open.mkv",  "long.ts",
                                        "long.avi", "long.h264", "long.nut"};
    for (size_t i = 0; i < LT_COUNT(names); i++) check_seeks(lt_clips_path("%s", names[i]), 120, 30);
}

static void seeks_of_other_codecs(void **state)
{
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=160x96:rate=24:duration=2 -c:v mpeg2video -bf 2 -g 12 m2.ts "
        "-c:v mpeg4 -bf 2 m4.avi -c:v libvpx -auto-alt-ref 1 -lag-in-frames 12 -b:v 100k vp8.webm");
    check_seeks(lt_clips_path("m2.ts"), 48, 20);
    check_seeks(lt_clips_path("m4.avi"), 48, 20);
    check_seeks(lt_clips_path("vp8.webm"), 48, 20);
}

static void variable_rate(void **state)
{
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=160x96:rate=24:duration=4 -vf \"select='not(mod(n,3))+not(mod(n,7))'\" "
        "-vsync vfr -c:v libx264 -g 20 -bf 3 vfr.mp4");
    check_seeks(lt_clips_path("vfr.mp4"), 41, 30);
    lt_video *video =
        open_video(lt_clips_path("vfr.mp4"), (lt_video_request){.fps = 24, .start = 0.5, .frames = 24});
    const lt_video_info *info = lt_video_get_info(video);
    assert_int_equal(info->n_frames, 24);
    assert_int_equal(info->time_base_den, 24);
    assert_int_equal(info->pts[0], 12);
    /* At 13/24 s and at 12/24 s frame 12 is shown: frame 13 was left out. */
    void *a = read_frame(video, 0), *b = read_frame(video, 1);
    assert_memory_equal(a, b, lt_video_frame_bytes(info));
    free(a);
    free(b);
    lt_video_close(video);
}

/* Timestamps that a container has rounded to milliseconds: at the source's own rate each frame is taken once. Those of mp4 hold ticks
 * exactly, and choose as ever. */
static void rounded_times(void **state)
{
    static const char *const names[] = {"round.mkv", "round.webm", "round.flv", "round.mp4", "round.ts"};
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=30:duration=2 -c:v libx264 -bf 2 round.mkv "
                    "-c:v libx264 round.flv -c:v libvpx round.webm");
    lt_clips_ffmpeg("-i round.mkv -c copy round.mp4");
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=24000/1001 -frames:v 60 -c:v libx264 round.ts");
    for (size_t i = 0; i < LT_COUNT(names); i++) {
        double fps = i == 4 ? 24000 / 1001.0 : 30;
        lt_video *video = open_video(lt_clips_path("%s", names[i]), (lt_video_request){.fps = fps});
        int64_t n = lt_video_get_info(video)->n_frames;
        if (n < 60 || n > 61) fail_msg("%s: %lld frames", names[i], (long long)n);
        size_t bytes = lt_video_frame_bytes(lt_video_get_info(video));
        uint8_t *last = read_frame(video, 0);
        for (int64_t f = 1; f < 60; f++) {
            uint8_t *frame = read_frame(video, f);
            if (!memcmp(frame, last, bytes)) fail_msg("%s: frame %lld comes twice", names[i], (long long)f);
            free(last);
            last = frame;
        }
        free(last);
        lt_video_close(video);
    }
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=30000/1001 -frames:v 90 -c:v libx264 ntsc.mp4");
    lt_video *video = open_video(lt_clips_path("ntsc.mp4"), (lt_video_request){.fps = 30});
    void *a = read_frame(video, 0), *b = read_frame(video, 1);
    assert_memory_equal(a, b, lt_video_frame_bytes(lt_video_get_info(video)));
    free(a);
    free(b);
    lt_video_close(video);
}

/* Ticks begin at the first frame, wherever that lies between two of them. */
static void ticks_start_anywhere(void **state)
{
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=24:duration=3 -c:v libx264 -bf 2 "
                    "-output_ts_offset 0.377 ticks.ts");
    lt_video *video = open_video(lt_clips_path("ticks.ts"), (lt_video_request){.fps = 1});
    const lt_video_info *info = lt_video_get_info(video);
    double unit = (double)info->time_base_num / info->time_base_den, first = (double)info->pts[0] * unit;
    assert_int_equal(info->n_frames, 3);
    if (!(fabs(first - info->source_start) < 2e-5)) fail_msg("begins at %g s", first);
    assert_true(fabs((double)(info->pts[2] - info->pts[0]) * unit - 2) < 1e-9);
    assert_true(fabs((double)info->last_duration * unit - 1) < 1e-9);
    lt_video_close(video);
}

/* A field a packet, each with a timestamp: one frame of two, wherever they lie. */
static void fields_apart(void **state)
{
    static const char *const names[] = {"fields.ts", "fields.mkv", "fields.mp4"};
    lt_clips_fields("fields.h264", 30);
    lt_clips_ffmpeg("-f h264 -i fields.h264 -c copy fields.ts");
    lt_clips_ffmpeg("-i fields.ts -c copy fields.mkv -c copy fields.mp4");
    for (size_t i = 0; i < LT_COUNT(names); i++) {
        check_seeks(lt_clips_path("%s", names[i]), 30, 10);
        lt_video *video = open_video(lt_clips_path("%s", names[i]), (lt_video_request){0});
        const lt_video_info *info = lt_video_get_info(video);
        double unit = (double)info->time_base_num / info->time_base_den;
        for (int64_t f = 1; f < 30; f++)
            assert_true(fabs((double)(info->pts[f] - info->pts[f - 1]) * unit - 0.04) < 0.002);
        assert_true(fabs((double)info->last_duration * unit - 0.04) < 0.002);
        lt_video_close(video);
    }
}

static void deep_and_odd(void **state)
{
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=162x98:rate=24:duration=1 -pix_fmt yuv420p10le -c:v libx265 "
                    "-x265-params log-level=none ten.mp4 2>/dev/null");
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=162x98:rate=24:duration=1 -vf scale=161:97 -pix_fmt yuv444p -c:v libx264 "
        "odd.mp4");
    check_seeks(lt_clips_path("ten.mp4"), 24, 12);
    check_seeks(lt_clips_path("odd.mp4"), 24, 12);
    lt_video *video = open_video(lt_clips_path("ten.mp4"), (lt_video_request){0});
    assert_int_equal(lt_video_get_info(video)->bits, 16);
    lt_video_close(video);
    video = open_video(lt_clips_path("odd.mp4"), (lt_video_request){0});
    const lt_video_info *info = lt_video_get_info(video);
    assert_int_equal(info->visible_width, 161);
    assert_int_equal(info->visible_height, 97);
    assert_int_equal(info->width, 168);
    assert_int_equal(info->height, 104);
    uint8_t *frame = read_frame(video, 0);
    for (int y = 0; y < 104; y++)
        assert_memory_equal(frame + ((size_t)y * 168 + 167) * 3,
                            frame + ((size_t)LT_MIN(y, 96) * 168 + 160) * 3, 3);
    free(frame);
    lt_video_close(video);
}

/* A red upper left quarter of a blue picture, turned: where is it when the picture is upright? As FFmpeg's
 * own programs show it (rotate=90 turns to the left). */
static void turned(void **state)
{
    static const struct {
        int degrees, x, y;
    } cases[] = {{0, 20, 20}, {90, 20, 140}, {180, 140, 76}, {270, 76, 20}};
    lt_clips_ffmpeg(
        "-f lavfi -i color=blue:size=160x96:rate=24:duration=0.2 -vf drawbox=0:0:80:48:red:fill -c:v libx264 "
        "-pix_fmt yuv444p plain.mp4");
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        lt_clips_ffmpeg("-i plain.mp4 -c copy -metadata:s:v rotate=%d turned.mp4", cases[i].degrees);
        lt_video *video = open_video(lt_clips_path("turned.mp4"), (lt_video_request){0});
        const lt_video_info *info = lt_video_get_info(video);
        assert_int_equal(info->visible_width, cases[i].degrees % 180 ? 96 : 160);
        assert_int_equal(info->rotation, 0);
        uint8_t *frame = read_frame(video, 0);
        for (int corner = 0; corner < 4; corner++) {
            int x = corner & 1 ? info->visible_width - 20 : 20,
                y = corner & 2 ? info->visible_height - 20 : 20;
            const uint8_t *pixel = frame + ((size_t)y * (size_t)info->width + (size_t)x) * 3;
            bool red = abs(x - cases[i].x) < 30 && abs(y - cases[i].y) < 30;
            if ((pixel[0] > 128) != red) fail_msg("rotate=%d: red is not where it belongs", cases[i].degrees);
        }
        free(frame);
        lt_video_close(video);
    }
}

static void sizes(void **state)
{
    lt_clips_ffmpeg(
        "-f lavfi -i color=white:size=160x80:rate=24:duration=0.2 -vf setsar=2 -c:v libx264 -pix_fmt yuv444p "
        "wide.mp4");
    const char *path = lt_clips_path("wide.mp4"); /* shown as 320x80 */
    lt_video *video = open_video(path, (lt_video_request){.size = {100, 100}, .fit = LT_FIT_PAD});
    const lt_video_info *info = lt_video_get_info(video);
    assert_int_equal(info->width, 104);
    assert_int_equal(info->sample_aspect_num, info->sample_aspect_den);
    uint8_t *frame = read_frame(video, 0);
    int white = 0;
    for (int y = 0; y < 100; y++) white += frame[((size_t)y * 104 + 50) * 3] > 128;
    assert_int_equal(white, 25);
    free(frame);
    lt_video_close(video);
    video = open_video(path, (lt_video_request){.size = {100, 100}, .fit = LT_FIT_CROP});
    frame = read_frame(video, 0);
    for (int i = 0; i < 104 * 104 * 3; i++) assert_true(frame[i] > 250);
    free(frame);
    lt_video_close(video);
}

static void same_frame(lt_video *a, lt_video *b, int64_t index, bool wanted)
{
    uint8_t *x = read_frame(a, index), *y = read_frame(b, index);
    bool same = !memcmp(x, y, lt_video_frame_bytes(lt_video_get_info(a)));
    if (same != wanted) fail_msg("frame %lld is %s", (long long)index, same ? "whole" : "one field");
    free(x);
    free(y);
}

/* A recording of some parts that are interlaced and some that are not: each picture is taken as it is, whichever comes first. */
static void interlaced_in_parts(void **state)
{
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=160x96:rate=24:duration=1 -c:v libx264 -bf 0 whole.h264 "
        "-vf tinterlace=interleave_top,fieldorder=bff -r 24 -c:v libx264 -bf 0 -x264-params bff=1 half.h264");
    lt_clips_ffmpeg(
        "-version >/dev/null && cat whole.h264 half.h264 > one.h264 && cat half.h264 whole.h264 > two.h264");
    for (int i = 0; i < 4; i++) {
        static const char *const names[] = {"one", "two", "whole", "half"};
        lt_clips_ffmpeg("-r 24 -i %s.h264 -c copy %s.mkv", names[i], names[i]);
        const char *path = lt_clips_path("%s.mkv", names[i]);
        lt_video *woven = open_video(path, (lt_video_request){0});
        lt_video *field = open_video(path, (lt_video_request){.one_field = true});
        int64_t n = lt_video_get_info(field)->n_frames;
        same_frame(woven, field, 3, i == 0 || i == 2);
        same_frame(woven, field, n - 3, i == 1 || i == 2);
        bool alike = !strcmp(lt_video_get_info(woven)->digest, lt_video_get_info(field)->digest);
        assert_true(alike == (i == 2));
        lt_video_close(woven);
        lt_video_close(field);
    }
}

/* ---- colour
 * ------------------------------------------------------------------------------------------------ */

static void colours(void **state)
{
    static const char *const matrices[] = {"bt709", "smpte170m"}, *const ranges[] = {"tv", "pc"};
    static const uint32_t values[] = {0xff0000, 0x00ff00, 0x0000ff, 0xc08040, 0x204060, 0xffffff, 0x000000};
    for (int m = 0; m < 2; m++)
        for (int r = 0; r < 2; r++)
            for (size_t v = 0; v < LT_COUNT(values); v++) {
                lt_clips_ffmpeg(
                    "-f lavfi -i color=0x%06x:size=64x64:rate=24:duration=0.1 -vf "
                    "scale=out_color_matrix=%s:out_range=%s:flags=accurate_rnd+full_chroma_int,format="
                    "yuv444p "
                    "-colorspace %s -color_range %s -c:v libx264 -preset ultrafast -qp 0 colour.mp4",
                    values[v], matrices[m], ranges[r], matrices[m], ranges[r]);
                lt_video *video = open_video(lt_clips_path("colour.mp4"), (lt_video_request){0});
                uint8_t *frame = read_frame(video, 0);
                for (int c = 0; c < 3; c++) {
                    int wanted = (int)(values[v] >> (16 - 8 * c) & 255);
                    if (abs(frame[c] - wanted) > 2)
                        fail_msg("%s %s 0x%06x: channel %d is %d", matrices[m], ranges[r], values[v], c,
                                 frame[c]);
                }
                free(frame);
                lt_video_close(video);
            }
}

/* ---- what is not a video
 * ------------------------------------------------------------------------------------ */

static void refused(const char *input, lt_status wanted, const char *word)
{
    lt_err err = {0};
    lt_video *video = NULL;
    lt_status status = lt_video_open(&video, &(lt_video_request){.input = input}, &err);
    if (status != wanted || !strstr(err.text, word))
        fail_msg("%s: %s: \"%s\" has no \"%s\"", input, lt_status_string(status), err.text, word);
    assert_null(video);
}

static void cut_file(const char *from, const char *to, double part)
{
    size_t bytes;
    void *data = lt_clips_load(from, &bytes);
    FILE *file = fopen(to, "wb");
    fwrite(data, 1, (size_t)((double)bytes * part), file);
    fclose(file);
    free(data);
}

static void bad_files(void **state)
{
    lt_clips_ffmpeg("-f lavfi -i sine=duration=1 audio.m4a");
    lt_clips_ffmpeg("-i long.mp4 -c copy -movflags faststart fast.mp4");
    cut_file(lt_clips_path("fast.mp4"), lt_clips_path("cut.mp4"), 0.6);
    cut_file(lt_clips_path("long.mp4"), lt_clips_path("headless.mp4"), 0.6);
    cut_file(lt_clips_path("open.mkv"), lt_clips_path("cut.mkv"), 0.6);
    cut_file(lt_clips_path("long.mp4"), lt_clips_path("empty.mp4"), 0);
    refused(lt_clips_path("none.mp4"), LT_E_NOT_FOUND, "no such file");
    refused(lt_clips_path("empty.mp4"), LT_E_FORMAT, "empty");
    refused(lt_clips_path("audio.m4a"), LT_E_NOT_FOUND, "only audio");
    refused(lt_clips_path("headless.mp4"), LT_E_FORMAT, "index is missing");
    refused(lt_clips_path("cut.mp4"), LT_E_FORMAT, "was cut off");
    refused(lt_clips_path("cut.mkv"), LT_E_FORMAT, "was cut off");
    refused(lt_clips_path("."), LT_E_FORMAT, "folder");
    refused("/dev/null", LT_E_UNSUPPORTED, "regular file");
    refused("lavfi:testsrc", LT_E_UNSUPPORTED, "no end");
    refused("lavfi:nonsense", LT_E_INVALID, "gives video: No such filter: 'nonsense'");
    refused("", LT_E_INVALID, "input");
    lt_video *video = open_video(lt_clips_path("cut.mp4"), (lt_video_request){.frames = 20});
    free(read_frame(video, 19));
    lt_video_close(video);
}

/* Wherever a file was cut off, it is refused with a number of frames, and that many can be read. */
static void cut_off_anywhere(void **state)
{
    static const char *const names[] = {"tail.mp4", "tail.mkv", "tail.ts", "tail.flv"};
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=24:duration=4 -c:v libx264 -g 30 -bf 3 -movflags "
                    "+faststart tail.mp4");
    lt_clips_ffmpeg("-i tail.mp4 -c copy tail.mkv -c copy tail.ts -c copy tail.flv");
    for (size_t f = 0; f < LT_COUNT(names); f++)
        for (int cut = 0; cut < 12; cut++) {
            size_t bytes, kept;
            uint8_t *data = lt_clips_load(lt_clips_path("%s", names[f]), &bytes);
            kept = bytes * 2 / 5 + bytes / 23 * (size_t)cut;
            FILE *file = fopen(lt_clips_path("off-%s", names[f]), "wb");
            fwrite(data, 1, kept, file);
            fclose(file);
            free(data);
            lt_err err = {0};
            lt_video *video = NULL;
            lt_video_request request = {.input = lt_clips_path("off-%s", names[f]), .tries_end = true};
            lt_status status = lt_video_open(&video, &request, &err);
            const char *advice = strstr(err.text, "say frames = ");
            if (status && !advice) fail_msg("%s, cut at %zu: %s", names[f], kept, err.text);
            if (status) {
                request.frames = atoll(advice + 13);
                assert_true(request.frames > 20);
                if (lt_video_open(&video, &request, &err)) fail_msg("%s", err.text);
            }
            for (int64_t i = 0; i < lt_video_get_info(video)->n_frames; i++) free(read_frame(video, i));
            lt_video_close(video);
        }
    lt_video_close(open_video(lt_clips_path("tail.ts"), (lt_video_request){.tries_end = true}));
}

/* Damage in the middle: the frames before it come, the first bad one is named, and nothing crashes. */
static void damage(void **state)
{
    size_t bytes;
    uint8_t *data = lt_clips_load(lt_clips_path("long.mp4"), &bytes);
    for (size_t i = bytes / 2; i < bytes / 2 + 2000; i++) data[i] = (uint8_t)(i * 2654435761u >> 13);
    FILE *file = fopen(lt_clips_path("damaged.mp4"), "wb");
    fwrite(data, 1, bytes, file);
    fclose(file);
    free(data);
    lt_video *video = open_video(lt_clips_path("damaged.mp4"), (lt_video_request){.threads = 2});
    uint8_t *rgb = malloc(lt_video_frame_bytes(lt_video_get_info(video)));
    lt_status status = LT_OK;
    lt_err err = {0};
    int64_t i = 0;
    while (!status && i < 120) status = lt_video_read(video, i++, rgb, &err);
    assert_int_equal(status, LT_E_FORMAT);
    assert_true(i > 20 && i < 100);
    assert_non_null(strstr(err.text, "damaged.mp4: frame "));
    assert_int_equal(lt_video_read(video, 3, rgb, &err), LT_OK);
    free(rgb);
    lt_video_close(video);
}

static void size_changes(void **state)
{
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=24:duration=1 -c:v mpeg2video a.ts");
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=320x192:rate=24:duration=1 -c:v mpeg2video -output_ts_offset 1 b.ts");
    lt_clips_ffmpeg("-version >/dev/null && cat a.ts b.ts > change.ts");
    lt_video *video = open_video(lt_clips_path("change.ts"), (lt_video_request){0});
    uint8_t *rgb = malloc(lt_video_frame_bytes(lt_video_get_info(video)));
    lt_status status = LT_OK;
    lt_err err = {0};
    for (int64_t i = 0; !status && i < lt_video_get_info(video)->n_frames; i++)
        status = lt_video_read(video, i, rgb, &err);
    assert_int_equal(status, LT_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "320x192 where the video began as 160x96"));
    free(rgb);
    lt_video_close(video);
}

static void graphs(void **state)
{
    const char *text = "lavfi:testsrc2=size=160x96:rate=24:duration=2";
    check_seeks(text, 48, 10);
    check_seeks("lavfi:testsrc2=size=160x96:rate=24,trim=end_frame=30", 30, 5);
    lt_video *video =
        open_video("lavfi:testsrc2=size=160x96:rate=24", (lt_video_request){.frames = 7, .interval = 5});
    assert_int_equal(lt_video_get_info(video)->n_frames, 7);
    assert_int_equal(lt_video_get_info(video)->pts[6], 30);
    lt_video_close(video);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeks),         cmocka_unit_test(seeks_of_other_codecs),
        cmocka_unit_test(variable_rate), cmocka_unit_test(deep_and_odd),
        cmocka_unit_test(turned),        cmocka_unit_test(interlaced_in_parts),
        cmocka_unit_test(sizes),         cmocka_unit_test(colours),
        cmocka_unit_test(bad_files),     cmocka_unit_test(cut_off_anywhere),
        cmocka_unit_test(damage),        cmocka_unit_test(size_changes),
        cmocka_unit_test(graphs),        cmocka_unit_test(rounded_times),
        cmocka_unit_test(fields_apart),  cmocka_unit_test(ticks_start_anywhere),
    };
    lt_log_init("test", LT_LOG_ERROR);
    if (!lt_clips_begin()) return 77;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    lt_clips_end();
    return failed;
}
