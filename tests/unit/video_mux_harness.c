/* video_mux_harness.c - whole runs, and reading what they wrote. */
#include "tests/unit/video_mux_harness.h"
#include "stages/video/ffmpeg.h"
#include "stages/video/video.h"
#include "tests/unit/video_clips.h"
#include "tests/unit/video_harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the above, as it demands */
#include <cmocka.h>

void lt_run_whole(const char *folder, const char *input, const char *output, const char *more)
{
    lt_err err = {0};
    const char *decode[] = {lt_clips_option("input", input), more, NULL},
               *mux[] = {lt_clips_option("output", output), LT_RUN_FAST, NULL};
    if (lt_run_chain(lt_clips_folder(folder), decode, mux, -1, -1, NULL, &err)) fail_msg("%s", err.text);
}

void lt_harness_same_times(const char *a, const char *b, double tolerance)
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

lt_harness_audio lt_harness_audio_of(const char *path)
{
    lt_harness_audio a = {1e9, -1e9, 0};
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
