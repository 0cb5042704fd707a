/* video_mux_sound_test.c - decode into mux: timestamps, sound, and clocks that start again. */
#include "stages/video/video.h"
#include "tests/unit/video_clips.h"
#include "tests/unit/video_harness.h"
#include "tests/unit/video_mux_harness.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above, as it demands */
#include <cmocka.h>

static void times(void **state)
{
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=160x96:rate=24:duration=4 -vf \"select='not(mod(n,3))+not(mod(n,7))'\" "
        "-vsync vfr -c:v libx264 -g 20 -bf 3 vfr.mp4 -f lavfi -i testsrc2=size=160x96:rate=24:duration=4 "
        "-c:v libx264 -bf 2 -output_ts_offset 5 late.ts");
    lt_run_whole("vfr", "vfr.mp4", "vfr_out.mp4", NULL);
    lt_harness_same_times(lt_clips_path("vfr.mp4"), lt_clips_path("vfr_out.mp4"), 0);
    lt_run_whole("vfr_mkv", "vfr.mp4", "vfr_out.mkv", NULL);
    lt_harness_same_times(lt_clips_path("vfr.mp4"), lt_clips_path("vfr_out.mkv"), 0.0006);
    lt_run_whole("late", "late.ts", "late_out.mp4", NULL);
    lt_run_whole("single", "vfr.mp4", "single.mp4", "frames=1");
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

static void sound(void **state)
{
    lt_run_whole("plain", "av.mp4", "plain.mp4", NULL);
    lt_harness_audio source = lt_harness_audio_of(lt_clips_path("av.mp4")),
                     whole = lt_harness_audio_of(lt_clips_path("plain.mp4"));
    assert_int_equal(source.n, whole.n);
    assert_true(source.first == whole.first);
    lt_err err = {0};
    const char *decode[] = {lt_clips_option("input", "av.mp4"), "start=1", "frames=48", NULL};
    const char *mux[] = {lt_clips_option("output", "part.mp4"), LT_RUN_FAST, NULL};
    if (lt_run_chain(lt_clips_folder("part"), decode, mux, -1, -1, NULL, &err)) fail_msg("%s", err.text);
    lt_harness_audio part = lt_harness_audio_of(lt_clips_path("part.mp4"));
    assert_true(part.first > -0.03 && part.first < 0.03 && part.end > 1.97 && part.end < 2.05);
    const char *silent[] = {lt_clips_option("output", "silent.mp4"), LT_RUN_FAST, "audio=none", NULL};
    if (lt_run_chain(lt_clips_folder("silent"), decode, silent, -1, -1, NULL, &err)) fail_msg("%s", err.text);
    assert_int_equal(lt_harness_audio_of(lt_clips_path("silent.mp4")).n, 0);
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
            const char *decode[] = {lt_clips_option("input", names[f]), clips[i].start, "frames=24", NULL};
            const char *mux[] = {lt_clips_option("output", "clip.mp4"), LT_RUN_FAST, NULL};
            if (lt_run_chain(lt_clips_folder(names[f][5] == 't' ? "clip_ts" : "clip"), decode, mux, -1, -1,
                             NULL, &err))
                fail_msg("%s", err.text);
            lt_harness_audio clip = lt_harness_audio_of(lt_clips_path("clip.mp4"));
            if (!(clip.end > 0.97 && clip.end < 1.06)) fail_msg("%s: %g s of sound", names[f], clip.end);
            lt_harness_audio side =
                lt_harness_audio_of(lt_clips_path("%s/side.nut", names[f][5] == 't' ? "clip_ts" : "clip"));
            double shift = names[f][5] == 't' ? 2.42 : 1; /* what is added, and where a TS begins */
            side.first -= shift;
            side.end -= shift;
            if (!(fabs(side.first - clips[i].from) < 0.1 && fabs(side.end - clips[i].to) < 0.1))
                fail_msg("%s, %s: sound from %g to %g s", names[f], clips[i].start, side.first, side.end);
        }
    lt_clips_ffmpeg("-i film.mkv -t 9 -i film.mkv -map 0:v -map 1:a -c copy quiet.mkv");
    lt_err err = {0};
    const char *decode[] = {lt_clips_option("input", "quiet.mkv"), "start=20", "frames=24", NULL};
    const char *mux[] = {lt_clips_option("output", "quiet.mp4"), LT_RUN_FAST, NULL};
    if (lt_run_chain(lt_clips_folder("quiet"), decode, mux, -1, -1, NULL, &err)) fail_msg("%s", err.text);
    assert_int_equal(lt_harness_audio_of(lt_clips_path("quiet.mp4")).n, 0);
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
        lt_run_whole(kinds[i][0], kinds[i][1], output, NULL);
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
    lt_run_whole("one", "one.ts", "one.mkv", NULL);
    lt_clips_ffmpeg("-i sounds.ts -map 0:0 -map 0:1 -c copy first.ts");
    same_sound("first.ts", "one.mkv");
    lt_run_whole("sounds", "sounds.ts", "sounds.mkv", NULL);
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
        lt_run_whole(pairs[i], seam, output, NULL);
        lt_err err = {0};
        lt_video *video;
        if (lt_video_open(&video, &(lt_video_request){.input = lt_clips_path("%s", output)}, &err))
            fail_msg("%s", err.text);
        const lt_video_info *info = lt_video_get_info(video);
        double unit = (double)info->time_base_num / info->time_base_den;
        lt_harness_audio part = lt_harness_audio_of(lt_clips_path("part0.ts")),
                         both = lt_harness_audio_of(lt_clips_path("%s", output));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times),
        cmocka_unit_test(sound),
        cmocka_unit_test(sound_of_a_clip),
        cmocka_unit_test(sound_in_blocks),
        cmocka_unit_test(sound_that_is_late),
        cmocka_unit_test(clocks_that_start_again),
    };
    lt_log_init("test", LT_LOG_ERROR);
    if (!lt_clips_begin()) return 77;
    lt_clips_make_av();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    lt_clips_end();
    return failed;
}
