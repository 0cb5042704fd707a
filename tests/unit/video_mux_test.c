/* video_mux_test.c - decode into mux: kills, stops, timestamps, audio, blending, bad settings. */
#include "models/tiling.h"
#include "proto/wire.h"
#include "stages/decode/decode.h"
#include "stages/video/encoder.h"
#include "stages/video/ffmpeg.h"
#include "stages/mux/mux.h"
#include "stages/video/video.h"
#include "tests/unit/video_clips.h"
#include "tests/unit/video_harness.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* after the above, as it demands */
#include <cmocka.h>

#define FAST "options=crf=20:preset=veryfast", "segment=24"

static const char *run_folder(const char *name)
{
    const char *path = lt_clips_path("%s", name);
    mkdir(path, 0777);
    return path;
}

/* "name=" and a path of the folder. */
static const char *option(const char *name, const char *file)
{
    static char texts[16][300];
    static int next;
    char *text = texts[next++ % 16];
    snprintf(text, sizeof texts[0], "%s=%s", name, lt_clips_path("%s", file));
    return text;
}

static void run_whole(const char *folder, const char *input, const char *output, const char *more)
{
    lt_err err = {0};
    const char *decode[] = {option("input", input), more, NULL},
               *mux[] = {option("output", output), FAST, NULL};
    if (lt_run_chain(run_folder(folder), decode, mux, -1, -1, NULL, &err)) fail_msg("%s", err.text);
}

/* ---- restarts
 * ---------------------------------------------------------------------------------------------- */

static void make_clip(void)
{
    if (access(lt_clips_path("av.mp4"), R_OK))
        lt_clips_ffmpeg(
            "-f lavfi -i testsrc2=size=160x96:rate=24:duration=4 -f lavfi -i sine=duration=4 -c:v libx264 "
            "-g 30 -bf 2 -pix_fmt yuv420p -c:a aac -metadata title=hello av.mp4");
}

/* Killed after every number of units: the same file in the end, and finished segments are not touched. */
static void killed(void **state)
{
    make_clip();
    run_whole("plain", "av.mp4", "plain.mp4", NULL);
    for (int units = 1; units < 12; units += 3) {
        lt_err err = {0};
        int64_t made;
        char name[32], segment[64];
        snprintf(name, sizeof name, "killed%d", units);
        snprintf(segment, sizeof segment, "%s/segments/00000.mp4", name);
        const char *decode[] = {option("input", "av.mp4"), NULL},
                   *mux[] = {option("output", "killed.mp4"), FAST, NULL};
        const char *folder = run_folder(name);
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
    const char *decode[] = {option("input", "av.mp4"), "chunk=7", NULL};
    const char *mux[] = {option("output", "stopped.mp4"), FAST, NULL};
    const char *folder = run_folder("stopped");
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
    const char *decode[] = {option("input", "av.mp4"), NULL},
               *mux[] = {option("output", "again.mp4"), FAST, NULL};
    const char *other[] = {option("output", "again.mp4"), "options=crf=30:preset=veryfast", "segment=24",
                           NULL};
    const char *folder = run_folder("plain");
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

/* Timestamps of two files, frame by frame, in seconds. */
static void same_times(const char *a, const char *b, double tolerance)
{
    lt_err err = {0};
    lt_video *one, *two;
    if (lt_video_open(&one, &(lt_video_request){.input = a}, &err)) fail_msg("%s", err.text);
    if (lt_video_open(&two, &(lt_video_request){.input = b}, &err)) fail_msg("%s", err.text);
    const lt_video_info *x = lt_video_get_info(one), *y = lt_video_get_info(two);
    assert_int_equal(x->n_frames, y->n_frames);
    for (int64_t i = 0; i < x->n_frames; i++) {
        double s = (double)x->pts[i] * x->time_base_num / x->time_base_den;
        double t = (double)y->pts[i] * y->time_base_num / y->time_base_den;
        if (!(s - t <= tolerance && t - s <= tolerance))
            fail_msg("frame %lld: %.6f s and %.6f s", (long long)i, s, t);
    }
    lt_video_close(one);
    lt_video_close(two);
}

static void times(void **state)
{
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=160x96:rate=24:duration=4 -vf \"select='not(mod(n,3))+not(mod(n,7))'\" "
        "-vsync vfr -c:v libx264 -g 20 -bf 3 vfr.mp4 -f lavfi -i testsrc2=size=160x96:rate=24:duration=4 "
        "-c:v libx264 -bf 2 -output_ts_offset 5 late.ts");
    run_whole("vfr", "vfr.mp4", "vfr_out.mp4", NULL);
    same_times(lt_clips_path("vfr.mp4"), lt_clips_path("vfr_out.mp4"), 0);
    run_whole("vfr_mkv", "vfr.mp4", "vfr_out.mkv", NULL);
    same_times(lt_clips_path("vfr.mp4"), lt_clips_path("vfr_out.mkv"), 0.0006);
    run_whole("late", "late.ts", "late_out.mp4", NULL);
    run_whole("single", "vfr.mp4", "single.mp4", "frames=1");
    lt_err err = {0};
    lt_video *video;
    if (lt_video_open(&video, &(lt_video_request){.input = lt_clips_path("late_out.mp4")}, &err))
        fail_msg("%s", err.text);
    assert_int_equal(lt_video_get_info(video)->pts[0], 0);
    lt_video_close(video);
    if (lt_video_open(&video, &(lt_video_request){.input = lt_clips_path("single.mp4")}, &err))
        fail_msg("%s", err.text);
    assert_int_equal(lt_video_get_info(video)->n_frames, 1);
    lt_video_close(video);
}

/* First and last audio timestamps and their number, by FFmpeg itself. */
typedef struct audio {
    double first, end;
    int n;
} audio;

static audio audio_of(const char *path)
{
    audio a = {1e9, -1e9, 0};
    AVFormatContext *file = NULL;
    AVPacket *packet = av_packet_alloc();
    assert_int_equal(avformat_open_input(&file, path, NULL, NULL), 0);
    avformat_find_stream_info(file, NULL);
    while (av_read_frame(file, packet) >= 0) {
        const AVStream *stream = file->streams[packet->stream_index];
        if (stream->codecpar->codec_type == AVMEDIA_TYPE_AUDIO) {
            double at = (double)packet->pts * av_q2d(stream->time_base);
            a.first = LT_MIN(a.first, at);
            a.end = LT_MAX(a.end, at + (double)packet->duration * av_q2d(stream->time_base));
            a.n++;
        }
        av_packet_unref(packet);
    }
    av_packet_free(&packet);
    avformat_close_input(&file);
    return a;
}

static void sound(void **state)
{
    audio source = audio_of(lt_clips_path("av.mp4")), whole = audio_of(lt_clips_path("plain.mp4"));
    assert_int_equal(source.n, whole.n);
    assert_true(source.first == whole.first);
    lt_err err = {0};
    const char *decode[] = {option("input", "av.mp4"), "start=1", "frames=48", NULL};
    const char *mux[] = {option("output", "part.mp4"), FAST, NULL};
    if (lt_run_chain(run_folder("part"), decode, mux, -1, -1, NULL, &err)) fail_msg("%s", err.text);
    audio part = audio_of(lt_clips_path("part.mp4"));
    assert_true(part.first > -0.03 && part.first < 0.03 && part.end > 1.97 && part.end < 2.05);
    const char *silent[] = {option("output", "silent.mp4"), FAST, "audio=none", NULL};
    if (lt_run_chain(run_folder("silent"), decode, silent, -1, -1, NULL, &err)) fail_msg("%s", err.text);
    assert_int_equal(audio_of(lt_clips_path("silent.mp4")).n, 0);
}

/* A clip out of a film carries its own sound and a second to each side; another of the same run folder, its own. */
static void sound_of_a_clip(void **state)
{
    static const char *const names[] = {"film.mkv", "film.mp4", "film.ts"};
    static const struct {
        const char *start;
        double from, to;
    } clips[] = {{"start=20", 19, 22}, {"start=4", 3, 6}, {"start=0", 0, 2}, {"start=39", 38, 40}};
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=24:duration=40 -f lavfi -i sine=duration=40 "
                    "-c:v libx264 -g 24 -c:a aac film.mkv");
    lt_clips_ffmpeg("-i film.mkv -c copy film.mp4 -c copy film.ts");
    for (size_t f = 0; f < LT_COUNT(names); f++)
        for (size_t i = 0; i < LT_COUNT(clips); i++) {
            lt_err err = {0};
            const char *decode[] = {option("input", names[f]), clips[i].start, "frames=24", NULL};
            const char *mux[] = {option("output", "clip.mp4"), FAST, NULL};
            if (lt_run_chain(run_folder(names[f][5] == 't' ? "clip_ts" : "clip"), decode, mux, -1, -1, NULL,
                             &err))
                fail_msg("%s", err.text);
            audio clip = audio_of(lt_clips_path("clip.mp4"));
            if (!(clip.end > 0.97 && clip.end < 1.06)) fail_msg("%s: %g s of sound", names[f], clip.end);
            audio side = audio_of(lt_clips_path("%s/side.nut", names[f][5] == 't' ? "clip_ts" : "clip"));
            double shift = names[f][5] == 't' ? 2.42 : 1; /* what is added, and where a TS begins */
            side.first -= shift;
            side.end -= shift;
            if (!(fabs(side.first - clips[i].from) < 0.1 && fabs(side.end - clips[i].to) < 0.1))
                fail_msg("%s, %s: sound from %g to %g s", names[f], clips[i].start, side.first, side.end);
        }
    lt_clips_ffmpeg("-i film.mkv -t 9 -i film.mkv -map 0:v -map 1:a -c copy quiet.mkv");
    lt_err err = {0};
    const char *decode[] = {option("input", "quiet.mkv"), "start=20", "frames=24", NULL};
    const char *mux[] = {option("output", "quiet.mp4"), FAST, NULL};
    if (lt_run_chain(run_folder("quiet"), decode, mux, -1, -1, NULL, &err)) fail_msg("%s", err.text);
    assert_int_equal(audio_of(lt_clips_path("quiet.mp4")).n, 0);
}

/* The sound of two files, decoded, is the same to the last bit. */
static void same_sound(const char *a, const char *b)
{
    lt_clips_ffmpeg("-i %s -map 0:a -f md5 a.md5", a);
    lt_clips_ffmpeg("-i %s -map 0:a -f md5 b.md5", b);
    if (!lt_clips_same(lt_clips_path("a.md5"), lt_clips_path("b.md5"))) fail_msg("%s sounds unlike %s", b, a);
}

/* Sound whose blocks have a size that not every format keeps. */
static void sound_in_blocks(void **state)
{
    static const char *const kinds[][3] = {{"wmav2", "blocks.wmv", "mkv"},
                                           {"adpcm_ms", "blocks.avi", "mkv"},
                                           {"adpcm_ima_qt", "blocks.mov", "mov"}};
    for (size_t i = 0; i < LT_COUNT(kinds); i++) {
        char output[32];
        snprintf(output, sizeof output, "%s.%s", kinds[i][0], kinds[i][2]);
        lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=24:duration=1 -f lavfi -i sine=duration=1 "
                        "-c:v mpeg4 -c:a %s %s",
                        kinds[i][0], kinds[i][1]);
        run_whole(kinds[i][0], kinds[i][1], output, NULL);
        same_sound(kinds[i][1], output);
    }
}

/* Leave out the packets of a transport stream that carry `pid`: what is announced and never comes. */
static void silence(const char *from, const char *to, int pid)
{
    enum { PACKET = 188 };
    size_t bytes;
    uint8_t *data = lt_clips_load(lt_clips_path("%s", from), &bytes);
    FILE *file = fopen(lt_clips_path("%s", to), "wb");
    for (size_t i = 0; i + PACKET <= bytes; i += PACKET)
        if (((data[i + 1] & 31) << 8 | data[i + 2]) != pid) fwrite(data + i, 1, PACKET, file);
    fclose(file);
    free(data);
}

/* Broadcasts: of two sounds one never comes, or comes when nobody expects it any more. */
static void sound_that_is_late(void **state)
{
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=24:duration=10 -f lavfi -i sine=duration=10 "
                    "-itsoffset 8.5 -f lavfi -i sine=frequency=300:duration=1 -map 0 -map 1 -map 2 "
                    "-c:v libx264 -c:a mp2 sounds.ts");
    silence("sounds.ts", "one.ts", 0x102);
    run_whole("one", "one.ts", "one.mkv", NULL);
    lt_clips_ffmpeg("-i sounds.ts -map 0:0 -map 0:1 -c copy first.ts");
    same_sound("first.ts", "one.mkv");
    run_whole("sounds", "sounds.ts", "sounds.mkv", NULL);
    lt_clips_ffmpeg("-analyzeduration 60M -probesize 50M -i sounds.ts -map 0:2 -c copy second.nut");
    lt_clips_ffmpeg("-i sounds.mkv -map 0:2 -c copy second.mkv");
    same_sound("second.nut", "second.mkv");
}

/* Recordings put one behind the other, with clocks that have nothing to do with each other: the second earlier, within the first, the same
 * again. Every frame comes, and the sound stays with the pictures. */
static void clocks_that_start_again(void **state)
{
    static const char *const offsets[] = {"10", "3", "11.5"}, *const pairs[] = {"01", "02", "00", "12"};
    for (int i = 0; i < 3; i++)
        lt_clips_ffmpeg(
            "-f lavfi -i testsrc2=size=160x96:rate=24:duration=3 -f lavfi -i sine=duration=3 -c:v "
            "libx264 -g 24 -bf 2 -c:a mp2 -output_ts_offset %s part%d.ts",
            offsets[i], i);
    for (size_t i = 0; i < LT_COUNT(pairs); i++) {
        char seam[16], output[16];
        snprintf(seam, sizeof seam, "%s.ts", pairs[i]);
        snprintf(output, sizeof output, "%s.mp4", pairs[i]);
        lt_clips_ffmpeg("-version >/dev/null && cat part%c.ts part%c.ts > %s", pairs[i][0], pairs[i][1],
                        seam);
        run_whole(pairs[i], seam, output, NULL);
        lt_err err = {0};
        lt_video *video;
        if (lt_video_open(&video, &(lt_video_request){.input = lt_clips_path("%s", output)}, &err))
            fail_msg("%s", err.text);
        const lt_video_info *info = lt_video_get_info(video);
        double unit = (double)info->time_base_num / info->time_base_den;
        audio part = audio_of(lt_clips_path("part0.ts")), both = audio_of(lt_clips_path("%s", output));
        assert_int_equal(info->n_frames, 144);
        bool jumps = pairs[i][0] == '1'; /* a clock that goes on is believed */
        if (!jumps && !(fabs((double)(info->pts[143] - info->pts[0]) * unit - 143 / 24.0) < 0.01))
            fail_msg("%s lasts %.3f s", seam, (double)(info->pts[143] - info->pts[0]) * unit);
        assert_int_equal(both.n, 2 * part.n);
        if (!(fabs(both.end - info->source_end) < 0.1))
            fail_msg("%s: sound ends at %.3f s, pictures at %.3f", seam, both.end, info->source_end);
        lt_video_close(video);
    }
}

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
                   *mux[] = {option("output", "lossless.mkv"), "codec=ffv1", format, NULL};
        char folder[16];
        snprintf(folder, sizeof folder, "lossless%d", i);
        if (lt_run_chain(run_folder(folder), decode, mux, -1, -1, NULL, &err)) fail_msg("%s", err.text);
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
            const char *decode[] = {option("input", "patches.mkv"), "frames=1", NULL};
            const char *mux[] = {option("output", cases[i].output), codec, cases[i].more, NULL};
            if (lt_run_chain(run_folder(folder), decode, mux, -1, -1, NULL, &err))
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
    const char *options[] = {option("input", "av.mp4"), "ring=2", NULL};
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
    const char *options[] = {option("output", output), "codec=ffv1", "pixel_format=bgr0", "segment=10", NULL},
               *result;
    fill_window_stream(&stream, &windows, &picture, &arena);
    lt_decode_plan plan = {true, 8, H / 8, W / 8, WINDOW, STRIDE, H / 8, W / 8, H / 8, W / 8};
    stream.n_units = (uint64_t)lt_decode_windows_count(&plan, N);
    size_t capacity = (size_t)WINDOW * W * H * 3 * 4 + 256;
    void *data = aligned_alloc(64, lt_round_up(capacity, 64));
    if (lt_driver_open(&mux, &lt_mux_stage, run_folder(folder), options, &err)) fail_msg("%s", err.text);
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

/* ---- settings that are refused
 * -------------------------------------------------------------------------------- */

static void refused(const char *setting, const char *output, lt_status wanted, const char *word)
{
    lt_err err = {0};
    const char *decode[] = {"input=lavfi:testsrc2=size=64x64:duration=0.5", NULL};
    const char *mux[] = {option("output", output), setting, NULL};
    lt_status status = lt_run_chain(run_folder("refused"), decode, mux, -1, -1, NULL, &err);
    if (status != wanted || !strstr(err.text, word))
        fail_msg("%s: %s: \"%s\" has no \"%s\"", setting, lt_status_string(status), err.text, word);
    assert_int_equal(lt_clips_inode(lt_clips_path("%s", output)), -1);
}

/* The last lines, whole, as many as there is room for; a longer one cut off; without any the number's text. */
static void ffmpeg_is_heard(void **state)
{
    char longer[500];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    lt_ffmpeg_init();
    lt_ffmpeg_listen();
    av_log(NULL, AV_LOG_WARNING, "not an error\n");
    assert_string_equal(lt_ffmpeg_reason(AVERROR(EIO)), "Input/output error");
    lt_ffmpeg_listen();
    for (int i = 10; i < 100; i++) av_log(NULL, AV_LOG_ERROR, "line %d.\n", i);
    const char *said = lt_ffmpeg_reason(AVERROR(EIO)), *end = "line 97; line 98; line 99";
    assert_true(!strncmp(said, "line ", 5) && strlen(said) > 380 &&
                !strcmp(said + strlen(said) - strlen(end), end));
    av_log(NULL, AV_LOG_ERROR, "%s\n", longer);
    assert_true(strlen(said) == 399 && strspn(said, "x") == 399);
    av_log(NULL, AV_LOG_ERROR, "last\n");
    assert_string_equal(said, "last");
}

/* The plan of `output` and `codec` for a small video. */
static lt_status plan_output(const char *output, const char *codec, lt_plan *plan, lt_err *err)
{
    lt_driver decode, mux;
    const char *decode_options[] = {option("input", "av.mp4"), NULL};
    const char *mux_options[] = {option("output", output), codec, NULL};
    lt_status status = lt_driver_open(&decode, &lt_decode_stage, "", decode_options, err);
    if (!status) status = lt_driver_open(&mux, &lt_mux_stage, "", mux_options, err);
    if (!status) status = lt_driver_open_clip(&decode, NULL, err);
    const lt_stream *input = &decode.output;
    plan->arena = &mux.arena;
    if (!status) status = lt_mux_plan(&mux.setup, &input, plan, err);
    lt_driver_close(&decode);
    lt_driver_close(&mux);
    return status;
}

/* Where the format would take the pictures, were it not for its options, these are the cause, in FFmpeg's own words. */
static void format_options_are_tried(void **state)
{
    lt_plan plan = {0};
    lt_err err = {0};
    lt_status status = plan_output("no.mp4", "format_options=encryption_scheme=cenc-aes-ctr", &plan, &err);
    assert_int_equal(status, LT_E_INVALID);
    if (!strstr(err.text, "format_options = \"encryption_scheme=cenc-aes-ctr\"") ||
        !strstr(err.text, "encryption key"))
        fail_msg("%s", err.text);
}

/* What the final format will not take is refused before anything is encoded; what it takes is not. */
static void outputs_are_tried(void **state)
{
    static const struct {
        const char *output, *codec;
        bool refused;
    } cases[] = {{"no.gif", "codec=libx264", true},    {"no.ogv", "codec=libx264", true},
                 {"no.mxf", "codec=libx264", true},    {"no.hevc", "codec=libx264", true},
                 {"no.mkv", "codec=rawvideo", true},   {"no.avi", "codec=libx264", false},
                 {"no.mkv", "codec=libx265", false},   {"no.mp4", "codec=libx265", false},
                 {"no.gif", "codec=gif", false},       {"no.ts", "codec=mpeg2video", false},
                 {"no.webm", "codec=libvpx", false},   {"no.mp4", "codec=libsvtav1", false},
                 {"no.mxf", "codec=mpeg2video", false}};
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        lt_err err = {0};
        lt_plan plan = {0};
        if (!avcodec_find_encoder_by_name(cases[i].codec + 6)) continue;
        lt_status status = plan_output(cases[i].output, cases[i].codec, &plan, &err);
        if (status != (cases[i].refused ? LT_E_UNSUPPORTED : LT_OK))
            fail_msg("%s, %s: %s: %s", cases[i].output, cases[i].codec, lt_status_string(status), err.text);
        assert_true(!status || strstr(err.text, "choose another ending"));
        assert_int_equal(lt_clips_inode(lt_clips_path("%s", cases[i].output)), -1);
    }
}

/* H.264 out of MP4 segments into AVI, which has it in another form. */
static void into_avi(void **state)
{
    run_whole("avi", "av.mp4", "out.avi", NULL);
    same_times(lt_clips_path("av.mp4"), lt_clips_path("out.avi"), 0.2);
    assert_true(audio_of(lt_clips_path("out.avi")).n > 0);
}

static lt_encoder_request hardware_request(const char *codec, int bits)
{
    return (lt_encoder_request){.codec = codec,
                                .pixel_format = "auto",
                                .options = "gpu=77", /* also where there is one */
                                .width = 320,
                                .height = 192,
                                .frame_width = 320,
                                .frame_height = 192,
                                .bits = bits,
                                .rate_num = 24,
                                .rate_den = 1,
                                .container = "x.mp4"};
}

/* What can be seen without one: it is refused in a sentence of its own, deep pictures stay deep where the codec can, and the default options are
 * options. */
static void hardware_that_is_not_here(void **state)
{
    static const struct {
        const char *codec, *format;
        int bits;
    } cases[] = {{"h264_nvenc", "yuv420p", 8}, {"h264_nvenc", "yuv420p", 16}, {"hevc_nvenc", "p010le", 16}};
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        lt_err err = {0};
        lt_encoder *encoder = NULL;
        lt_encoder_request request = hardware_request(cases[i].codec, cases[i].bits);
        const AVCodec *codec = avcodec_find_encoder_by_name(cases[i].codec);
        if (!codec) {
            print_message("skipped: this FFmpeg has no %s\n", cases[i].codec);
            continue;
        }
        assert_int_equal(lt_encoder_create(&encoder, &request, &err), LT_E_BUSY);
        assert_non_null(strstr(err.text, "did not open: its device is not here"));
        char wanted[64];
        snprintf(wanted, sizeof wanted, "(%s %s 320x192", cases[i].codec, cases[i].format);
        if (!strstr(err.text, wanted)) fail_msg("'%s' does not say '%s'", err.text, wanted);
        AVDictionary *options = NULL;
        const AVDictionaryEntry *entry = NULL;
        assert_int_equal(
            av_dict_parse_string(&options, lt_encoder_default_options(cases[i].codec), "=", ":", 0), 0);
        assert_true(av_dict_count(options) > 0);
        while ((entry = av_dict_get(options, "", entry, AV_DICT_IGNORE_SUFFIX))) {
            const AVOption *option =
                av_opt_find((void *)&codec->priv_class, entry->key, NULL, 0, AV_OPT_SEARCH_FAKE_OBJ);
            if (!option) fail_msg("%s has no option %s", cases[i].codec, entry->key);
            bool is_word = !strchr("0123456789", entry->value[0]);
            if (is_word && !av_opt_find((void *)&codec->priv_class, entry->value, option->unit, 0,
                                        AV_OPT_SEARCH_FAKE_OBJ))
                fail_msg("%s: option %s has no value %s", cases[i].codec, entry->key, entry->value);
        }
        av_dict_free(&options);
    }
}

static void bad_settings(void **state)
{
    refused("codec=libx246", "bad.mp4", LT_E_INVALID, "did you mean \"libx264\"");
    refused("codec=h264", "bad.mp4", LT_E_INVALID, "did you mean \"libx264\"");
    refused("options=crff=3", "bad.mp4", LT_E_NOT_FOUND, "did you mean \"crf\"");
    refused("options=preset=slowest", "bad.mp4", LT_E_INVALID, "preset=slowest");
    refused("options=nonsense", "bad.mp4", LT_E_INVALID, "key=value");
    refused("options=crf=abc", "bad.mp4", LT_E_INVALID, "libx264 does not take crf = \"abc\": ");
    refused("options=crf=abc", "bad.mp4", LT_E_INVALID, "Unable to parse option value \"abc\"");
    refused("options=preset=slowest", "bad.mp4", LT_E_INVALID, "Error setting preset/tune slowest");
    refused("pixel_format=yuv420", "bad.mp4", LT_E_NOT_FOUND, "did you mean \"yuv420p\"");
    refused("pixel_format=rgb24", "bad.mp4", LT_E_UNSUPPORTED, "yuv420p");
    refused("codec=libx264", "bad.foo", LT_E_INVALID, "bad.foo");
    refused("codec=libx264", "bad.webm", LT_E_UNSUPPORTED, "does not hold h264");
    if (avcodec_find_encoder_by_name("libvpx-vp9"))
        refused("codec=auto", "bad.webm", LT_E_UNSUPPORTED, "does not hold h264; set codec = \"libvpx-vp9\"");
    refused("codec=libx264", "no/such/folder/bad.mp4", LT_E_NOT_FOUND, "folder");
    refused("format_options=movflag=x", "bad.mp4", LT_E_NOT_FOUND, "movflag");
    refused("format_options=movflags=+fasstart", "bad.mp4", LT_E_INVALID,
            "format_options: the mp4 format does not take movflags = \"+fasstart\"");
    refused("format_options=movflags=+fasstart", "bad.mp4", LT_E_INVALID, "in 'fasstart'");
    if (avcodec_find_encoder_by_name("h264_vaapi"))
        refused("codec=h264_vaapi", "bad.mp4", LT_E_UNSUPPORTED, "only out of a device's memory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed),
        cmocka_unit_test(stopped),
        cmocka_unit_test(distrust),
        cmocka_unit_test(times),
        cmocka_unit_test(sound),
        cmocka_unit_test(sound_of_a_clip),
        cmocka_unit_test(sound_in_blocks),
        cmocka_unit_test(sound_that_is_late),
        cmocka_unit_test(clocks_that_start_again),
        cmocka_unit_test(lossless),
        cmocka_unit_test(any_order),
        cmocka_unit_test(blended),
        cmocka_unit_test(bad_settings),
        cmocka_unit_test(hardware_that_is_not_here),
        cmocka_unit_test(colours),
        cmocka_unit_test(ffmpeg_is_heard),
        cmocka_unit_test(format_options_are_tried),
        cmocka_unit_test(outputs_are_tried),
        cmocka_unit_test(into_avi),
    };
    lt_log_init("test", LT_LOG_ERROR);
    if (!lt_clips_begin()) return 77;
    make_clip();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    lt_clips_end();
    return failed;
}
