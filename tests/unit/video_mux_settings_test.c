/* video_mux_settings_test.c - decode into mux: settings, formats and hardware that are refused, and in whose words. */
#include "stages/decode/decode.h"
#include "stages/mux/mux.h"
#include "stages/video/encoder.h"
#include "stages/video/ffmpeg.h"
#include "tests/unit/video_clips.h"
#include "tests/unit/video_harness.h"
#include "tests/unit/video_mux_harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above, as it demands */
#include <cmocka.h>

static void refused(const char *setting, const char *output, lt_status wanted, const char *word)
{
    lt_err err = {0};
    const char *decode[] = {"input=lavfi:testsrc2=size=64x64:duration=0.5", NULL};
    const char *mux[] = {lt_clips_option("output", output), setting, NULL};
    lt_status status = lt_run_chain(lt_clips_folder("refused"), decode, mux, -1, -1, NULL, &err);
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
    const char *decode_options[] = {lt_clips_option("input", "av.mp4"), NULL};
    const char *mux_options[] = {lt_clips_option("output", output), codec, NULL};
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
    lt_run_whole("avi", "av.mp4", "out.avi", NULL);
    lt_harness_same_times(lt_clips_path("av.mp4"), lt_clips_path("out.avi"), 0.2);
    assert_true(lt_harness_audio_of(lt_clips_path("out.avi")).n > 0);
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
        cmocka_unit_test(bad_settings),      cmocka_unit_test(hardware_that_is_not_here),
        cmocka_unit_test(ffmpeg_is_heard),   cmocka_unit_test(format_options_are_tried),
        cmocka_unit_test(outputs_are_tried), cmocka_unit_test(into_avi),
    };
    lt_log_init("test", LT_LOG_ERROR);
    if (!lt_clips_begin()) return 77;
    lt_clips_make_av();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    lt_clips_end();
    return failed;
}
