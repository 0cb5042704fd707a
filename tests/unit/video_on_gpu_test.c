/* video_on_gpu_test.c - frames that stay on the GPU that decodes them, on a GPU that is played: tests/cuda_on_host, with FFmpeg's hardware as
 * tests/cuda_on_host/decoder.c has it. What comes is what the operator makes of the planes that software decodes, to the byte. */
#include "kernels/ops.h"
#include "stages/decode/decode.h"
#include "stages/video/video.h"
#include "tests/cuda_on_host/decoder.h"
#include "tests/unit/video_clips.h"
#include "tests/unit/video_harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the above, as it demands */
#include <cmocka.h>

enum { WORKSPACE = 1 << 20 };

static lt_video_gpu *gpu;
static lt_context *context;

static lt_video_request request_of(const char *path, int bits)
{
    return (lt_video_request){.input = path, .hwaccel = "cuda", .gpu = gpu, .bits = bits};
}

static lt_video *open_there(const char *path, int bits)
{
    lt_err err = {0};
    lt_video *video = NULL;
    lt_video_request request = request_of(path, bits);
    if (lt_video_open(&video, &request, &err)) fail_msg("%s", err.text);
    return video;
}

/* ---- pictures ------------------------------------------------------------------------------------------ */

/* How a clip was made. */
typedef struct clip {
    const char *name, *pixels; /* FFmpeg's name of what software decodes it to */
    int shift_x, shift_y, depth;
    lt_colour_matrix matrix;
    bool full;
    int at_x, at_y;
} clip;

enum { W = 20, H = 14 };

/* Frame `index` of raw planes in `file`, as RGB in the workspace. */
static lt_tensor expected(const clip *k, const unsigned char *file, int64_t index, int bits,
                          const lt_tensor *like)
{
    int64_t bytes = k->depth > 8 ? 2 : 1, wc = W >> k->shift_x, hc = H >> k->shift_y;
    int64_t frame = (W * H + 2 * wc * hc) * bytes;
    lt_tensor planes =
        lt_upload(context, (lt_tensor){(void *)(file + index * frame), LT_U8, 1, {frame}, 0}, LT_U8);
    char *at = planes.data;
    lt_yuv picture = {.y = at,
                      .u = at + W * H * bytes,
                      .v = at + (W * H + wc * hc) * bytes,
                      .y_pitch = W * bytes,
                      .uv_pitch = wc * bytes,
                      .uv_step = 1,
                      .width = W,
                      .height = H,
                      .shift_x = k->shift_x,
                      .shift_y = k->shift_y,
                      .at_x = k->at_x,
                      .at_y = k->at_y,
                      .bits = k->depth,
                      .matrix = k->matrix,
                      .full_range = k->full};
    lt_tensor out = lt_new(context, like->dtype, 4, like->shape);
    lt_yuv_to_rgb(context, &picture, bits, out);
    lt_drop(context, &planes);
    return out;
}

static void check_clip(const clip *k, int bits)
{
    size_t n_bytes;
    lt_err err = {0};
    unsigned char *file = lt_clips_load(lt_clips_path("%s.raw", k->name), &n_bytes);
    assert_non_null(file);
    lt_video *video = open_there(lt_clips_path("%s", k->name), bits);
    const lt_video_info *info = lt_video_get_info(video);
    assert_int_equal(info->visible_width, W);
    assert_int_equal(info->visible_height, H);
    assert_string_equal(info->hwaccel, "cuda");
    assert_true(lt_video_device_bytes(video) > 0);
    lt_dtype dtype = info->bits == 8 ? LT_U8 : LT_U16;
    size_t bytes = lt_video_frame_bytes(info);
    char *a = malloc(bytes), *b = malloc(bytes);
    for (int64_t i = 0; i < info->n_frames + 4; i++) {
        int64_t at = i < info->n_frames ? i : i * 7 % info->n_frames;
        lt_yuv picture;
        if (lt_video_read_there(video, at, &picture, &err)) fail_msg("%s: %s", k->name, err.text);
        lt_tensor out = lt_new(context, dtype, 4, (int64_t[]){1, info->height, info->width, 3});
        lt_yuv_to_rgb(context, &picture, info->bits, out);
        lt_download(context, out, dtype, a);
        lt_tensor other = expected(k, file, at, info->bits, &out);
        lt_download(context, other, dtype, b);
        lt_drop(context, &other);
        lt_drop(context, &out);
        if (lt_context_status(context, &err)) fail_msg("%s: %s", k->name, err.text);
        if (memcmp(a, b, bytes)) fail_msg("%s: frame %lld differs", k->name, (long long)at);
    }
    free(a);
    free(b);
    free(file);
    lt_video_close(video);
}

static void frames_are_those_of_the_planes(void **state)
{
    static const clip clips[] = {
        {"a.mp4", "yuv420p", 1, 1, 8, LT_MATRIX_601, false, 0, 1},
        {"full.mp4", "yuvj420p", 1, 1, 8, LT_MATRIX_709, true, 0, 1},
        {"b.mkv", "yuv422p", 1, 0, 8, LT_MATRIX_601, false, 0, 1},
        {"c.mkv", "yuv444p", 0, 0, 8, LT_MATRIX_601, false, 0, 1},
        {"d.mkv", "yuv420p10le", 1, 1, 10, LT_MATRIX_2020, false, 0, 0},
        {"e.mkv", "yuv444p10le", 0, 0, 10, LT_MATRIX_709, false, 0, 1},
        {"f.mkv", "yuv420p", 1, 1, 8, LT_MATRIX_709, false, 1, 1},
    };
    for (size_t i = 0; i < LT_COUNT(clips); i++) {
        lt_clips_ffmpeg("-i %s -f rawvideo -pix_fmt %s %s.raw", clips[i].name, clips[i].pixels,
                        clips[i].name);
        check_clip(&clips[i], 0);
    }
    check_clip(&clips[0], 16);
    check_clip(&clips[4], 8);
}

/* ---- what surrounds them ------------------------------------------------------------------------------- */

static void the_digest_is_another(void **state)
{
    lt_err err = {0};
    lt_video *software = NULL, *fetched = NULL, *there = open_there(lt_clips_path("a.mp4"), 0);
    lt_video_request request = {.input = lt_clips_path("a.mp4")};
    assert_int_equal(lt_video_open(&software, &request, &err), LT_OK);
    request.hwaccel = "cuda";
    assert_int_equal(lt_video_open(&fetched, &request, &err), LT_OK);
    assert_string_equal(lt_video_get_info(software)->digest, lt_video_get_info(fetched)->digest);
    assert_string_not_equal(lt_video_get_info(software)->digest, lt_video_get_info(there)->digest);
    lt_video_close(software);
    lt_video_close(fetched);
    lt_video_close(there);
}

static void refused(lt_video_request request, lt_status status, const char *part)
{
    lt_err err = {0};
    lt_video *video = NULL;
    assert_int_equal(lt_video_open(&video, &request, &err), status);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
    assert_null(video);
}

static void what_it_cannot_do_is_said(void **state)
{
    lt_video_request plain = request_of(lt_clips_path("a.mp4"), 0), sized = plain;
    sized.size = (lt_size){16, 16};
    refused(sized, LT_E_INVALID, "stay as they are");
    lt_clips_ffmpeg("-i a.mp4 -c copy -metadata:s:v:0 rotate=90 turned.mp4");
    refused(request_of(lt_clips_path("turned.mp4"), 0), LT_E_UNSUPPORTED, "to be turned");
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=20x14:rate=8:duration=0.5 -c:v libx264 -pix_fmt yuv420p -colorspace fcc "
        "fcc.mkv");
    refused(request_of(lt_clips_path("fcc.mkv"), 0), LT_E_UNSUPPORTED, "its colour matrix, fcc");
    refused(request_of("lavfi:testsrc2=duration=1", 0), LT_E_UNSUPPORTED, "a filter graph is not decoded");
    fake_decoder.unknown_layout = true;
    refused(plain, LT_E_UNSUPPORTED, "the GPU gives frames as yuv410p");
    fake_decoder.unknown_layout = false;
    fake_decoder.declines = true;
    refused(plain, LT_E_UNSUPPORTED, "does not decode this video (h264 High");
    fake_decoder.declines = false;
    lt_video_live how = {0};
    lt_video *video = NULL;
    lt_err err = {0};
    assert_int_equal(lt_video_open_live(&video, &plain, &how, &err), LT_E_UNSUPPORTED);
    lt_video_gpu *other;
    assert_int_equal(lt_video_gpu_open(&other, 7, &err), LT_E_NOT_FOUND);
}

static lt_status read_all(lt_video *video, lt_err *err)
{
    lt_status status = LT_OK;
    lt_yuv picture;
    for (int64_t i = 0; i < lt_video_get_info(video)->n_frames && !status; i++)
        status = lt_video_read_there(video, i, &picture, err);
    return status;
}

/* No software takes over: its frames would lie elsewhere. */
static void who_fails_is_told_apart(void **state)
{
    lt_err err = {0};
    lt_video *video = open_there(lt_clips_path("a.mp4"), 0);
    fake_decoder.fails_after = 0;
    assert_int_equal(read_all(video, &err), LT_E_DEVICE_LOST);
    assert_non_null(strstr(err.text, "is not decoded by the GPU, but it is by software"));
    fake_decoder.fails_after = -1;
    lt_video_close(video);
    video = open_there(lt_clips_path("a.mp4"), 0);
    fake_decoder.declines = true;
    assert_int_equal(read_all(video, &err), LT_E_DEVICE_LOST);
    fake_decoder.declines = false;
    lt_video_close(video);
    lt_clips_ffmpeg("-i a.mp4 -c copy -bsf:v noise=drop='eq(n\\,5)' -copyts broken.mkv");
    lt_video_request request = request_of(lt_clips_path("broken.mkv"), 0);
    lt_status status = lt_video_open(&video, &request, &err);
    if (!status) status = read_all(video, &err);
    assert_true(status == LT_OK || status == LT_E_FORMAT);
    lt_video_close(video);
}

/* FFmpeg takes over no context that the plug-in has made. */
static void ffmpeg_comes_first(void **state)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        lt_device_info info;
        lt_video_gpu *late;
        lt_err err;
        if (lt_device_probe("cuda:0", &info, &err)) _exit(1);
        _exit(lt_video_gpu_open(&late, 0, &err) == LT_E_UNSUPPORTED ? 0 : 2);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* ---- the stage ----------------------------------------------------------------------------------------- */

static void a_plan_says_it(void **state)
{
    lt_arena arena = {0};
    lt_stream output;
    lt_plan plan = {.arena = &arena, .output = &output};
    lt_driver driver;
    lt_err err = {0};
    char input[300];
    snprintf(input, sizeof input, "input=%s", lt_clips_path("a.mp4"));
    lt__wire__stream__init(&output);
    const char *options[] = {input, "hwaccel=cuda", "convert=device", NULL};
    if (lt_driver_open(&driver, &lt_decode_stage, "", options, &err)) fail_msg("%s", err.text);
    if (lt_decode_stage.plan(&driver.setup, NULL, &plan, &err)) fail_msg("%s", err.text);
    lt_device_info info;
    assert_int_equal(lt_device_probe("cuda:0", &info, &err), LT_OK);
    assert_string_equal(plan.device, "cuda:0");
    assert_string_equal(plan.output_device, info.id);
    size_t own = info.staging_bytes + info.allowance_bytes;
    assert_in_range(plan.device_bytes, own + 24 * 16 * 3 + 1, own + (4 << 20));
    bool said = false;
    for (int i = 0; i < plan.n_notes; i++)
        said |= strstr(plan.notes[i], "the decoder's surfaces are counted as ") != NULL;
    assert_true(said);
    lt_driver_close(&driver);
    lt_arena_finish(&arena);
}

static void options_that_do_not_go_together(void **state)
{
    static const struct {
        const char *option, *part;
    } cases[] = {{"hwaccel=none", "needs the GPU that decodes"},
                 {"hwaccel=auto", "needs the GPU that decodes"},
                 {"hwaccel=cuda:x", "needs the GPU that decodes"},
                 {"size=16x16", "size does not go with"},
                 {"scaler=pillow", "scaler does not go with"},
                 {"deinterlace=true", "deinterlace does not go with"},
                 {"live=true", "live does not go with"},
                 {"input=lavfi:testsrc2=duration=1", "a filter graph as input does not go with"}};
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        lt_driver driver;
        lt_err err = {0};
        const char *options[] = {"input=a.mp4", "hwaccel=cuda:0", "convert=device", cases[i].option, NULL};
        assert_int_equal(lt_driver_open(&driver, &lt_decode_stage, "", options, &err), LT_E_INVALID);
        if (!strstr(err.text, cases[i].part)) fail_msg("'%s' does not say '%s'", err.text, cases[i].part);
    }
}

int main(void)
{
    lt_err err;
    if (!lt_clips_begin()) return 77;
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=20x14:rate=8:duration=1.5 -c:v libx264 -g 6 -bf 2 -pix_fmt yuv420p a.mp4 "
        "-c:v libx264 -g 6 -pix_fmt yuvj420p -color_range pc -colorspace bt709 full.mp4 "
        "-c:v libx264 -pix_fmt yuv422p b.mkv -c:v libx264 -pix_fmt yuv444p c.mkv "
        "-c:v libx264 -pix_fmt yuv420p10le -colorspace bt2020nc -chroma_sample_location topleft d.mkv "
        "-c:v libx264 -pix_fmt yuv444p10le -colorspace bt709 e.mkv "
        "-c:v libx264 -pix_fmt yuv420p -colorspace bt709 -chroma_sample_location center f.mkv");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_those_of_the_planes),
        cmocka_unit_test(the_digest_is_another),
        cmocka_unit_test(what_it_cannot_do_is_said),
        cmocka_unit_test(who_fails_is_told_apart),
        cmocka_unit_test(a_plan_says_it),
        cmocka_unit_test(options_that_do_not_go_together),
    };
    const struct CMUnitTest first[] = {cmocka_unit_test(ffmpeg_comes_first)};
    int failed = cmocka_run_group_tests(first, NULL, NULL);
    if (lt_video_gpu_open(&gpu, 0, &err) ||
        lt_context_create(&context, "cuda:0", LT_F32, WORKSPACE, 1, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    failed += cmocka_run_group_tests(tests, NULL, NULL);
    lt_context_destroy(context);
    lt_video_gpu_close(gpu);
    lt_clips_end();
    return failed;
}
