/* live.c - inputs that are read once: pipes, what cannot be sought in, graphs without an end. */
#include "stages/video/internal.h"

#include "stages/digest/digest.h"

#include <errno.h>
#include <libavfilter/buffersink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* ---- a pipe ------------------------------------------------------------------------------------------------ */

static bool is_interrupted(const lt_live *live)
{
    return live->how.interrupted && live->how.interrupted(NULL);
}

/* Wait until there is something to read. False: the input shall end. */
static bool wait_for_bytes(const lt_live *live)
{
    enum { ASK_MS = 100 }; /* how often whether to end is asked while nothing comes */
    for (;;) {
        struct pollfd fd = {live->how.fd, POLLIN, 0};
        int rc = poll(&fd, 1, ASK_MS);
        if (is_interrupted(live)) return false;
        if (rc > 0 || (rc < 0 && errno != EINTR)) return true;
    }
}

/* What was read before, then the pipe itself. */
static int read_pipe(void *opaque, uint8_t *data, int size)
{
    lt_live *live = opaque;
    ssize_t n = pread(live->how.head_fd, data, (size_t)size, live->head);
    if (n < 0) return AVERROR(errno);
    if (!n) {
        do {
            if (!wait_for_bytes(live)) return AVERROR_EOF;
            n = read(live->how.fd, data, (size_t)size);
        } while (n < 0 && (errno == EINTR || errno == EAGAIN));
        if (n < 0) return AVERROR(errno);
        if (!n) return AVERROR_EOF;
        if (!live->how.keeps) return (int)n;
        if (pwrite(live->how.head_fd, data, (size_t)n, live->head) != n) return AVERROR(ENOMEM);
    }
    live->head += n;
    return (int)n;
}

static lt_status open_pipe(lt_live *live, lt_err *err)
{
    enum { BUFFER = 1 << 16 };
    uint8_t *buffer = av_malloc(BUFFER);
    live->pipe = buffer ? avio_alloc_context(buffer, BUFFER, 0, live, read_pipe, NULL, NULL) : NULL;
    if (!live->pipe) {
        av_free(buffer);
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a pipe");
    }
    live->pipe->seekable = 0;
    return LT_OK;
}

void lt_live_close(lt_live *live)
{
    if (live->pipe) av_freep(&live->pipe->buffer);
    avio_context_free(&live->pipe);
    av_frame_free(&live->next);
}

/* ---- frames ------------------------------------------------------------------------------------------------ */

/* The next frame that can be shown, its timestamp above the last one's. */
static lt_status next_frame(lt_video *video, AVFrame *frame, lt_err *err)
{
    lt_live *live = &video->live;
    for (;;) {
        av_frame_unref(frame);
        if (is_interrupted(live)) return LT_END;
        lt_status status = video->is_graph ? lt_graph_next(&video->graph, frame, err)
                                           : lt_container_next(&video->container, frame, err);
        if (status) return status;
        bool bad = frame->decode_error_flags || frame->flags & AV_FRAME_FLAG_CORRUPT;
        if (bad && !live->n_read) { /* before the first key frame */
            video->info.skipped_leading++;
            continue;
        }
        int64_t pts = lt_frame_pts(frame), last = live->last_pts;
        if (pts == AV_NOPTS_VALUE) pts = live->n_read ? last + live->step : 0;
        if (live->n_read && pts <= last) pts = last + live->step;
        if (!live->n_read) live->start_pts = pts;
        frame->pts = live->last_pts = pts;
        live->n_read++;
        return LT_OK;
    }
}

/* The next frame of the selection, into `frame`. */
static lt_status select_frame(lt_video *video, AVFrame *frame, lt_err *err)
{
    lt_live *live = &video->live;
    double unit = (double)video->info.time_base_num / video->info.time_base_den;
    for (;;) {
        lt_status status = next_frame(video, frame, err);
        if (status) return status;
        if (!live->n_given) {
            if ((double)(frame->pts - live->start_pts) * unit < live->start - unit / 2) continue;
        } else if (++live->since < live->interval) {
            continue;
        }
        live->since = 0;
        live->n_given++;
        return LT_OK;
    }
}

/* How long the last frame is shown: to the next of the source where the selection ends before it, else as the container
 * says. */
static void end_selection(lt_video *video)
{
    lt_live *live = &video->live;
    lt_err none;
    int64_t last = video->frame->pts;
    live->at_end = true;
    if (live->frames <= 0 || live->n_given < live->frames) {
        live->last_duration = LT_MAX(live->last_pts - last, 0) + live->last_duration;
        return;
    }
    for (int64_t i = 0; i < live->interval; i++)
        if (next_frame(video, live->next, &none)) {
            live->last_duration = LT_MAX(live->last_pts - last, 0) + live->last_duration;
            return;
        }
    live->last_duration = live->last_pts - last;
}

static void note_duration(lt_video *video, const AVFrame *frame)
{
    int64_t own = video->is_graph ? 0 : frame->pkt_duration;
    video->live.last_duration = own > 0 ? own : video->live.step;
}

lt_status lt_video_next(lt_video *video, void *rgb, int64_t *pts, lt_err *err)
{
    lt_live *live = &video->live;
    lt_status status = LT_OK;
    if (live->at_end) return LT_END;
    if (live->has_next) { /* the first, which opening looked at */
        live->has_next = false;
    } else {
        if (live->frames > 0 && live->n_given >= live->frames)
            status = LT_END;
        else
            status = select_frame(video, live->next, err);
        if (status == LT_END) end_selection(video);
        if (status) return status;
        av_frame_unref(video->frame);
        av_frame_move_ref(video->frame, live->next);
    }
    note_duration(video, video->frame);
    *pts = video->frame->pts;
    status = lt_convert_frame(&video->convert, video->frame, rgb, err);
    return status ? lt_err_prefix(err, "%s: frame %lld", video->input, (long long)live->n_read - 1) : LT_OK;
}

int64_t lt_video_last_duration(const lt_video *video)
{
    return LT_MAX(video->live.last_duration, 1);
}

/* ---- opening ----------------------------------------------------------------------------------------------- */

static lt_status check_live(const lt_video_request *request, lt_err *err)
{
    const char *what = request->end > 0   ? "an end"
                       : request->pad     ? "short = pad"
                       : request->fps > 0 ? "fps"
                       : request->random_start || request->random_interval
                           ? "random_start and random_interval"
                       : request->gpu                         ? "what stays on a GPU"
                       : lt_video_is_sequence(request->input) ? "a sequence of pictures"
                                                              : NULL;
    if (!what) return lt_video_check(request, err);
    return lt_fail(err, LT_E_UNSUPPORTED,
                   "%s: %s must know the length of the input, which a live one does not tell", request->input,
                   what);
}

static lt_status open_input(lt_video *video, const lt_video_request *request, lt_err *err)
{
    lt_status status;
    lt_live *live = &video->live;
    AVRational base, rate;
    if (video->is_graph) {
        LT_TRY(lt_graph_open(&video->graph, request->input + 6, err));
        base = av_buffersink_get_time_base(video->graph.sink);
        video->info.codec = "lavfi";
    } else {
        if (live->how.fd) LT_TRY(open_pipe(live, err));
        LT_TRY(lt_container_open_live(&video->container, request->input, live->pipe, &live->how,
                                      request->threads, err));
        LT_TRY(lt_video_find_hwaccel(video, request, err));
        LT_TRY(lt_container_open_decoder(&video->container, err));
        base = video->container.stream->time_base;
        video->info.codec = avcodec_get_name(video->container.stream->codecpar->codec_id);
    }
    lt_video_guess_rate(video);
    rate = (AVRational){video->info.rate_num, video->info.rate_den};
    if (!rate.num) rate = (AVRational){25, 1};
    video->info.time_base_num = base.num;
    video->info.time_base_den = base.den;
    live->step = LT_MAX(av_rescale_q(1, av_inv_q(rate), base), 1);
fail:
    return status;
}

/* No two recordings are the same, whatever they show. */
static lt_status make_name(lt_video *video, lt_err *err)
{
    unsigned char bytes[32];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return lt_fail_errno(err, errno, "%s: making a name for what comes", video->input);
    lt_digest(bytes, sizeof bytes, video->info.fingerprint);
    lt_digest(video->info.fingerprint, 32, video->info.digest);
    return LT_OK;
}

lt_status lt_video_open_live(lt_video **out, const lt_video_request *request, const lt_video_live *how,
                             lt_err *err)
{
    lt_ffmpeg_init();
    *out = NULL;
    lt_status status = check_live(request, err);
    if (status) return status;
    lt_video *video = calloc(1, sizeof *video);
    if (!video) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    video->is_graph = lt_video_is_graph(request->input);
    video->input = strdup(request->input);
    video->frame = av_frame_alloc();
    lt_live *live = &video->live;
    *live = (lt_live){.how = *how,
                      .next = av_frame_alloc(),
                      .start = request->start,
                      .frames = request->frames,
                      .interval = LT_MAX(request->interval, 1)};
    if (!video->input || !video->frame || !live->next) {
        status = lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        goto fail;
    }
    LT_TRY(open_input(video, request, err));
    status = select_frame(video, video->frame, err);
    if (status == LT_END)
        status = lt_fail(err, LT_E_NOT_FOUND, "%s: ended before a frame came", video->input);
    if (status) goto fail;
    live->has_next = true;
    LT_TRY(lt_video_settle_hwaccel(video, request, err));
    LT_TRY(lt_video_look(video, request, err));
    LT_TRY(make_name(video, err));
    *out = video;
    return LT_OK;
fail:
    lt_video_close(video);
    return status;
}
