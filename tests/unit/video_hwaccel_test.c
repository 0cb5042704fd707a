/* video_hwaccel_test.c - frames from hardware are the frames of software. There is no such hardware in a test: FFmpeg's functions that would speak to
 * it are defined here, and decode in software what then lies "on a device" as hardware lays it out, luma and pairs of chroma. */
#include "stages/video/hwaccel.h"
#include "stages/video/video.h"
#include "tests/unit/video_clips.h"

#include <dlfcn.h>
#include <libavutil/hwcontext.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above, as it demands */
#include <cmocka.h>

/* ---- the hardware -------------------------------------------------------------------------------------- */

static struct {
    bool is_there, declines; /* a device; profiles that it does not have */
    int fails_after;         /* frames that can be fetched before none can; -1: all */
    int n_fetched;
    AVCodecContext *decoders[64]; /* that use it */
} hardware;

static bool uses_it(const AVCodecContext *decoder)
{
    for (size_t i = 0; i < LT_COUNT(hardware.decoders); i++)
        if (hardware.decoders[i] == decoder) return true;
    return false;
}

const AVCodecHWConfig *avcodec_get_hw_config(const AVCodec *codec, int index)
{
    static const char *const names[] = {"h264", "hevc", "vp9", "mpeg2video"};
    static const AVCodecHWConfig config = {.pix_fmt = AV_PIX_FMT_CUDA,
                                           .methods = AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX,
                                           .device_type = AV_HWDEVICE_TYPE_CUDA};
    for (size_t i = 0; i < LT_COUNT(names) && index == 0; i++)
        if (!strcmp(codec->name, names[i])) return &config;
    return NULL;
}

int av_hwdevice_ctx_create(AVBufferRef **device, enum AVHWDeviceType type, const char *name,
                           AVDictionary *options, int flags)
{
    bool is_there = hardware.is_there && type == AV_HWDEVICE_TYPE_CUDA && (!name || !strcmp(name, "1"));
    *device = is_there ? av_buffer_alloc(8) : NULL;
    return is_there ? 0 : AVERROR(ENODEV);
}

int avcodec_open2(AVCodecContext *decoder, const AVCodec *codec, AVDictionary **options)
{
    int (*real)(AVCodecContext *, const AVCodec *, AVDictionary **);
    *(void **)&real = dlsym(RTLD_NEXT, "avcodec_open2");
    size_t at = 0;
    for (size_t i = 0; i < LT_COUNT(hardware.decoders); i++) {
        if (hardware.decoders[i] == decoder) hardware.decoders[i] = NULL;
        if (!hardware.decoders[i]) at = i;
    }
    if (decoder->hw_device_ctx) hardware.decoders[at] = decoder;
    av_buffer_unref(&decoder->hw_device_ctx);
    decoder->get_format = avcodec_default_get_format;
    return real(decoder, codec, options);
}

static void free_picture(void *opaque, uint8_t *data)
{
    AVFrame *picture = (AVFrame *)data;
    av_frame_free(&picture);
}

/* As hardware lays it out: the bits at the upper end of a sample, chroma in pairs. */
static AVFrame *lay_out(const AVFrame *planar)
{
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(planar->format);
    bool deep = d->comp[0].depth > 8;
    AVFrame *picture = av_frame_alloc();
    picture->format = d->log2_chroma_h   ? deep ? AV_PIX_FMT_P010LE : AV_PIX_FMT_NV12
                      : d->log2_chroma_w ? AV_PIX_FMT_NV16
                                         : AV_PIX_FMT_NV24;
    picture->width = planar->width;
    picture->height = planar->height;
    assert_int_equal(av_frame_get_buffer(picture, 0), 0);
    for (int c = 0; c < 3; c++) {
        int w = AV_CEIL_RSHIFT(planar->width, c ? d->log2_chroma_w : 0);
        int h = AV_CEIL_RSHIFT(planar->height, c ? d->log2_chroma_h : 0);
        for (int y = 0; y < h; y++) {
            const uint8_t *from = planar->data[c] + y * planar->linesize[c];
            uint8_t *to = picture->data[c > 0] + y * picture->linesize[c > 0];
            for (int x = 0; x < w; x++) {
                int at = c ? 2 * x + c - 1 : x;
                if (deep)
                    ((uint16_t *)to)[at] = (uint16_t)(((const uint16_t *)from)[x] << 6);
                else
                    to[at] = from[x];
            }
        }
    }
    return picture;
}

int avcodec_receive_frame(AVCodecContext *decoder, AVFrame *frame)
{
    int (*real)(AVCodecContext *, AVFrame *);
    *(void **)&real = dlsym(RTLD_NEXT, "avcodec_receive_frame");
    int rc = real(decoder, frame);
    if (rc || !uses_it(decoder) || hardware.declines) return rc;
    decoder->sw_pix_fmt = frame->format;
    AVFrame *picture = lay_out(frame), *there = av_frame_alloc();
    av_frame_copy_props(there, frame);
    there->width = frame->width;
    there->height = frame->height;
    there->format = AV_PIX_FMT_CUDA;
    there->buf[0] = av_buffer_create((uint8_t *)picture, sizeof *picture, free_picture, NULL, 0);
    av_frame_unref(frame);
    av_frame_move_ref(frame, there);
    av_frame_free(&there);
    return 0;
}

int av_hwframe_transfer_data(AVFrame *to, const AVFrame *from, int flags)
{
    if (hardware.fails_after >= 0 && hardware.n_fetched >= hardware.fails_after) return AVERROR_EXTERNAL;
    hardware.n_fetched++;
    return av_frame_ref(to, (AVFrame *)from->buf[0]->data);
}

static int reset(void **state)
{
    memset(&hardware, 0, sizeof hardware);
    hardware.is_there = true;
    hardware.fails_after = -1;
    return 0;
}

/* ---- the tests ----------------------------------------------------------------------------------------- */

static lt_video *open_video(const char *path, const char *hwaccel)
{
    lt_err err = {0};
    lt_video *video = NULL;
    lt_video_request request = {.input = path, .hwaccel = hwaccel};
    if (lt_video_open(&video, &request, &err)) fail_msg("%s", err.text);
    return video;
}

static void refused(const char *path, const char *hwaccel, lt_status status, const char *part)
{
    lt_err err = {0};
    lt_video *video = NULL;
    lt_video_request request = {.input = path, .hwaccel = hwaccel};
    assert_int_equal(lt_video_open(&video, &request, &err), status);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
    assert_null(video);
}

/* All frames, some of them out of order, of both. */
static void check_frames(lt_video *software, lt_video *other)
{
    const lt_video_info *info = lt_video_get_info(software), *same = lt_video_get_info(other);
    size_t bytes = lt_video_frame_bytes(info);
    assert_int_equal(info->n_frames, same->n_frames);
    assert_int_equal(bytes, lt_video_frame_bytes(same));
    unsigned char *a = malloc(bytes), *b = malloc(bytes);
    lt_err err = {0};
    for (int64_t i = 0; i < info->n_frames + 8; i++) {
        int64_t at = i < info->n_frames ? i : (i * 7919) % info->n_frames;
        if (lt_video_read(software, at, a, &err) || lt_video_read(other, at, b, &err))
            fail_msg("%s", err.text);
        if (memcmp(a, b, bytes)) fail_msg("frame %lld differs", (long long)at);
    }
    free(a);
    free(b);
}

static void same_bytes(void **state)
{
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=162x98:rate=24:duration=1.5 -c:v libx264 -g 12 -bf 3 -pix_fmt yuv420p "
        "a.mp4 "
        "-c:v libx264 -g 12 -pix_fmt yuvj420p -color_range pc full.mp4 -c:v libx264 -pix_fmt yuv422p b.mkv "
        "-c:v libx264 -pix_fmt yuv444p c.mkv -c:v libx264 -pix_fmt yuv420p10le d.mkv -c:v libvpx-vp9 "
        "-pix_fmt yuv420p -deadline realtime -cpu-used 8 e.webm");
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=161x97:rate=24:duration=1 -pix_fmt yuv420p10le -c:v libx265 "
                    "-x265-params log-level=none f.mp4 2>/dev/null");
    static const char *const names[] = {"a.mp4", "full.mp4", "b.mkv", "c.mkv", "d.mkv", "e.webm", "f.mp4"};
    for (size_t i = 0; i < LT_COUNT(names); i++) {
        const char *path = lt_clips_path("%s", names[i]);
        lt_video *software = open_video(path, NULL), *there = open_video(path, i % 2 ? "cuda:1" : "auto");
        assert_string_equal(lt_video_get_info(software)->hwaccel, "");
        assert_string_equal(lt_video_get_info(there)->hwaccel, "cuda");
        hardware.n_fetched = 0;
        check_frames(software, there);
        assert_true(hardware.n_fetched >= lt_video_get_info(there)->n_frames - 1);
        assert_string_equal(lt_video_get_info(software)->digest, lt_video_get_info(there)->digest);
        lt_video_close(software);
        lt_video_close(there);
    }
}

static void what_is_not_defined_to_the_bit_has_another_digest(void **state)
{
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=24:duration=1 -c:v mpeg2video -bf 2 -g 12 m2.ts");
    lt_video *software = open_video(lt_clips_path("m2.ts"), "none"),
             *there = open_video(lt_clips_path("m2.ts"), "cuda");
    assert_string_not_equal(lt_video_get_info(software)->digest, lt_video_get_info(there)->digest);
    hardware.fails_after = hardware.n_fetched + 3;
    unsigned char *rgb = malloc(lt_video_frame_bytes(lt_video_get_info(there)));
    lt_err err = {0};
    lt_status status = LT_OK;
    for (int64_t i = 0; i < 12 && !status; i++) status = lt_video_read(there, i, rgb, &err);
    assert_int_equal(status,
                     LT_E_DEVICE_LOST); /* another process may have more luck; software is something else */
    free(rgb);
    lt_video_close(software);
    lt_video_close(there);
}

static void software_takes_over(void **state)
{
    const char *path = lt_clips_path("a.mp4");
    lt_video *software = open_video(path, NULL), *there = open_video(path, "cuda");
    hardware.fails_after = hardware.n_fetched + 10;
    check_frames(software, there);
    lt_video_close(there);
    hardware.fails_after = -1;
    hardware.declines = true;
    there = open_video(path, "auto");
    assert_string_equal(lt_video_get_info(there)->hwaccel, "");
    assert_non_null(
        strstr(lt_video_get_info(there)->hwaccel_why, "does not decode this video (h264 High, 162x98)"));
    check_frames(software, there);
    lt_video_close(there);
    hardware.is_there = false;
    there = open_video(path, "auto");
    assert_non_null(strstr(lt_video_get_info(there)->hwaccel_why, "no hardware decodes h264 here"));
    check_frames(software, there);
    lt_video_close(there);
    lt_video_close(software);
}

static void refusals(void **state)
{
    const char *path = lt_clips_path("a.mp4");
    lt_clips_ffmpeg("-f lavfi -i testsrc2=size=160x96:rate=24:duration=1 -c:v mpeg4 m4.avi");
    refused(path, "nvdec", LT_E_NOT_FOUND, "hwaccel = \"nvdec\": this FFmpeg knows none, ");
    refused(lt_clips_path("m4.avi"), "cuda", LT_E_UNSUPPORTED, "does not decode mpeg4 by it");
    refused(path, "cuda:7", LT_E_NOT_FOUND, "hwaccel = \"cuda:7\": there is no such device here");
    refused("lavfi:testsrc2=duration=1", "cuda", LT_E_UNSUPPORTED, "a filter graph is not decoded");
    hardware.declines = true;
    refused(path, "cuda", LT_E_UNSUPPORTED, "does not decode this video (h264 High");
    hardware.is_there = false;
    refused(path, "cuda", LT_E_NOT_FOUND, "no such device here");
    lt_video *graph = open_video("lavfi:testsrc2=duration=1", "auto");
    assert_non_null(strstr(lt_video_get_info(graph)->hwaccel_why, "filter graph"));
    lt_video_close(graph);
}

static void live_inputs(void **state)
{
    lt_err err = {0};
    lt_video_live how = {0};
    lt_video_request request = {.input = lt_clips_path("a.mp4"), .hwaccel = "cuda"};
    lt_video *software = open_video(request.input, NULL), *there = NULL;
    for (int declines = 0; declines < 2; declines++) {
        hardware.declines = declines;
        request.hwaccel = declines ? "auto" : "cuda";
        if (lt_video_open_live(&there, &request, &how, &err)) fail_msg("%s", err.text);
        assert_string_equal(lt_video_get_info(there)->hwaccel, declines ? "" : "cuda");
        size_t bytes = lt_video_frame_bytes(lt_video_get_info(software));
        unsigned char *a = malloc(bytes), *b = malloc(bytes);
        int64_t pts;
        for (int64_t i = 0; i < lt_video_get_info(software)->n_frames; i++) {
            assert_int_equal(lt_video_read(software, i, a, &err), LT_OK);
            assert_int_equal(lt_video_next(there, b, &pts, &err), LT_OK);
            assert_memory_equal(a, b, bytes);
        }
        free(a);
        free(b);
        lt_video_close(there);
    }
    request.hwaccel = "cuda";
    assert_int_equal(lt_video_open_live(&there, &request, &how, &err), LT_E_UNSUPPORTED);
    lt_video_close(software);
}

int main(void)
{
    if (!lt_clips_begin()) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(same_bytes, reset),
        cmocka_unit_test_setup(what_is_not_defined_to_the_bit_has_another_digest, reset),
        cmocka_unit_test_setup(software_takes_over, reset),
        cmocka_unit_test_setup(refusals, reset),
        cmocka_unit_test_setup(live_inputs, reset),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    lt_clips_end();
    return failed;
}
