/* reader.c - frames of a video by number: source, table, selection and conversion put together. */
#include "stages/video/internal.h"

#include "stages/digest/digest.h"
#include "stages/video/loader.h"

#include <libavfilter/buffersink.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const lt_video_info *lt_video_get_info(const lt_video *video)
{
    return &video->info;
}

size_t lt_video_frame_bytes(const lt_video_info *info)
{
    return (size_t)info->width * (size_t)info->height * 3 * (size_t)(info->bits / 8);
}

/* ---- selection ----------------------------------------------------------------------------------------- */

/* First frame not before `start` seconds after the first; half a tick of tolerance. */
static int64_t first_from(const lt_video_table *table, double start)
{
    double unit = av_q2d(table->time_base);
    int64_t i = 0;
    while (i < table->n && (double)(table->pts[i] - table->pts[0]) * unit < start - unit / 2) i++;
    return i;
}

/* Take every interval-th frame from `from` on. */
static lt_status select_by_count(lt_video *video, const lt_video_request *request, int64_t from, lt_err *err)
{
    const lt_video_table *table = &video->table;
    lt_video_info *info = &video->info;
    int64_t interval = LT_MAX(request->interval, 1);
    int64_t to = request->end > 0 ? first_from(table, request->end) : table->n;
    if (to <= from) return LT_OK;
    lt_loader_draws draws = lt_loader_draw(request->seed);
    int64_t later;
    lt_loader_frames(&draws, request->random_interval, request->random_start, to - from, request->frames,
                     &interval, &later);
    from += later;
    int64_t n = (to - from + interval - 1) / interval;
    if (request->frames > 0) n = LT_MIN(n, request->frames);
    video->selected = malloc((size_t)n * sizeof *video->selected);
    video->pts = malloc((size_t)n * sizeof *video->pts);
    if (!video->selected || !video->pts)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory for timestamps", video->input);
    for (int64_t i = 0; i < n; i++) {
        video->selected[i] = from + i * interval;
        video->pts[i] = table->pts[video->selected[i]];
    }
    int64_t end = video->selected[n - 1] + interval;
    info->n_frames = n;
    info->last_duration = end < table->n
                              ? table->pts[end] - video->pts[n - 1]
                              : table->pts[table->n - 1] + table->last_duration - video->pts[n - 1];
    info->time_base_num = table->time_base.num;
    info->time_base_den = table->time_base.den;
    return LT_OK;
}

/* What timestamps are rounded to: whole milliseconds, as Matroska and FLV keep them, or the time base; 0: they are exact, or too coarse to
 * tell. */
static AVRational find_grid(const lt_video_table *table, AVRational tick)
{
    static const AVRational milli = {1, 1000}, exact = {0, 1};
    AVRational quarter = av_mul_q(tick, (AVRational){1, 4}), grid = table->time_base;
    bool whole = av_cmp_q(grid, milli) < 0;
    for (int64_t i = 0; i < table->n && whole; i++) {
        int64_t ms = av_rescale_q(table->pts[i], grid, milli);
        whole = av_rescale_q(ms, milli, grid) == table->pts[i];
    }
    if (whole) grid = milli;
    return av_cmp_q(grid, milli) > 0 || av_cmp_q(grid, quarter) > 0 ? exact : grid;
}

/* Whether a frame `later` after the first is shown at tick k already: at most as much after it as it may have been moved by rounding, less
 * than one step of the grid. */
static bool is_shown(int64_t later, AVRational time_base, int64_t k, AVRational tick, AVRational grid)
{
    if (!grid.num) return av_compare_ts(later, time_base, k, tick) <= 0;
    return av_compare_ts(later, time_base, av_rescale_q_rnd(k, tick, grid, AV_ROUND_UP), grid) <= 0;
}

/* In how many parts a tick is to be split so that time `pts` is a whole number of them, or nearly: steps of 10 microseconds. */
static int64_t split_tick(AVRational tick, int64_t pts, AVRational time_base)
{
    if (!av_compare_ts(pts, time_base, av_rescale_q(pts, time_base, tick), tick)) return 1;
    int64_t parts = av_rescale_rnd(100000, tick.num, tick.den, AV_ROUND_UP);
    return LT_MAX(LT_MIN(parts, INT32_MAX / tick.den), 1);
}

/* At each k / fps from `start` on the frame that is shown then; time base 1 / fps, or a part of it. */
static lt_status select_by_time(lt_video *video, const lt_video_request *request, lt_err *err)
{
    const lt_video_table *table = &video->table;
    lt_video_info *info = &video->info;
    AVRational rate = av_d2q(request->fps, 1 << 20), tick = av_inv_q(rate);
    int64_t interval = LT_MAX(request->interval, 1);
    int64_t end = table->pts[table->n - 1] + table->last_duration - table->pts[0];
    if (request->end > 0) end = LT_MIN(end, llrint(request->end / av_q2d(table->time_base)));
    int64_t k0 = (int64_t)ceil(request->start * av_q2d(rate) - 1e-6);
    int64_t n = av_rescale_q_rnd(end, table->time_base, tick, AV_ROUND_UP) - k0;
    n = (LT_MAX(n, 0) + interval - 1) / interval;
    if (request->frames > 0) n = LT_MIN(n, request->frames);
    if (n < 1) return LT_OK;
    video->selected = malloc((size_t)n * sizeof *video->selected);
    video->pts = malloc((size_t)n * sizeof *video->pts);
    if (!video->selected || !video->pts)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory for timestamps", video->input);
    AVRational grid = find_grid(table, tick);
    int64_t parts = split_tick(tick, table->pts[0], table->time_base);
    AVRational base = {tick.num, tick.den * (int)parts};
    int64_t offset = av_rescale_q(table->pts[0], table->time_base, base);
    for (int64_t i = 0, at = 0; i < n; i++) {
        int64_t k = k0 + i * interval;
        while (at + 1 < table->n &&
               is_shown(table->pts[at + 1] - table->pts[0], table->time_base, k, tick, grid))
            at++;
        video->selected[i] = at;
        video->pts[i] = k * parts + offset;
    }
    info->n_frames = n;
    info->last_duration = interval * parts;
    info->time_base_num = base.num;
    info->time_base_den = base.den;
    return LT_OK;
}

/* Fewer than were asked for: the last one again and again. */
static lt_status pad_selection(lt_video *video, const lt_video_request *request, lt_err *err)
{
    lt_video_info *info = &video->info;
    if (!request->pad || info->n_frames >= request->frames || !info->n_frames) return LT_OK;
    size_t bytes = (size_t)request->frames * sizeof *video->selected;
    int64_t *selected = realloc(video->selected, bytes);
    if (selected) video->selected = selected;
    int64_t *pts = realloc(video->pts, bytes);
    if (pts) video->pts = pts;
    if (!selected || !pts)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory for timestamps", video->input);
    int64_t step = LT_MAX(info->last_duration, 1);
    for (int64_t i = info->n_frames; i < request->frames; i++) {
        selected[i] = selected[i - 1];
        pts[i] = pts[i - 1] + step;
    }
    info->n_frames = request->frames;
    return LT_OK;
}

/* Nothing lost in silence: a file whose tail is missing is refused when the tail was wanted. */
static lt_status check_whole(const lt_video *video, const lt_video_request *request, lt_err *err)
{
    const lt_video_table *table = &video->table;
    if (!table->missing || (request->frames > 0 && video->info.n_frames == request->frames)) return LT_OK;
    if (request->end > 0 && first_from(table, request->end) < table->n) return LT_OK;
    char count[48] = "an unknown number of", path[4200];
    if (lt_video_is_sequence(video->input) && lt_sequence_gap(video->input, table->n, path, sizeof path))
        return lt_fail(err, LT_E_FORMAT,
                       "%s is missing, later ones are there; to use those before it, say frames = %lld", path,
                       (long long)video->info.n_frames);
    if (table->missing > 0) snprintf(count, sizeof count, "the last %lld", (long long)table->missing);
    return lt_fail(
        err, LT_E_FORMAT,
        "%s: was cut off: %s frames are missing, %lld can be read; to use those, say frames = %lld",
        video->input, count, (long long)table->n, (long long)video->info.n_frames);
}

static lt_status choose_frames(lt_video *video, const lt_video_request *request, lt_err *err)
{
    lt_status status = LT_OK;
    int64_t from = first_from(&video->table, request->start);
    if (request->fps > 0)
        status = select_by_time(video, request, err);
    else if (from < video->table.n)
        status = select_by_count(video, request, from, err);
    if (!status && !video->info.n_frames)
        status = lt_fail(err, LT_E_NOT_FOUND, "%s: start = %g s is not before its end, %g s", video->input,
                         request->start, video->info.source_end - video->info.source_start);
    if (!status) status = check_whole(video, request, err);
    if (!status) status = pad_selection(video, request, err);
    video->info.pts = video->pts;
    return status;
}

/* A container that does not say how much it holds may end anywhere: decode from the last key frame on, if frames behind it are selected.
 * *lost: the first of them that does not come; -1: none, or not looked for. */
static lt_status find_lost(lt_video *video, int64_t *lost, lt_err *err)
{
    const lt_video_table *table = &video->table;
    int64_t n = video->info.n_frames, key = lt_table_key_before(table, table->n - 1);
    *lost = -1;
    if (video->is_graph || table->promised || table->counted || key < 0) return LT_OK;
    int64_t first = table->keys[key].index;
    if (video->selected[n - 1] < first) return LT_OK;
    bool *whole = calloc((size_t)(table->n - first), sizeof *whole);
    if (!whole) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", video->input);
    lt_status status = lt_container_try_end(&video->container, table, key, whole, err);
    for (int64_t i = n - 1; !status && i >= 0 && video->selected[i] >= first; i--)
        if (!whole[video->selected[i] - first]) *lost = video->selected[i];
    free(whole);
    return status;
}

static lt_status check_end(lt_video *video, const lt_video_request *request, lt_err *err)
{
    int64_t lost;
    lt_status status = find_lost(video, &lost, err);
    if (status || lost <= 0) return status;
    video->table.n = lost;
    video->table.missing = -1;
    video->info.n_frames = 0;
    free(video->selected);
    free(video->pts);
    video->selected = video->pts = NULL;
    return choose_frames(video, request, err);
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static lt_status source_frame(lt_video *video, int64_t index, lt_err *err)
{
    av_frame_unref(video->frame);
    if (video->is_graph) return lt_graph_frame(&video->graph, index, video->frame, err);
    return lt_container_frame(&video->container, &video->table, index, video->frame, err);
}

static lt_status open_source(lt_video *video, const lt_video_request *request, lt_err *err)
{
    lt_status status;
    if (video->is_graph) {
        const char *text = request->input + 6;
        lt_digest(text, strlen(text), video->info.fingerprint);
        video->info.codec = "lavfi";
        LT_TRY(lt_graph_open(&video->graph, text, err));
        return lt_graph_scan(&video->graph, request, &video->table, err);
    }
    LT_TRY(lt_container_open(&video->container, request->input, request->threads, err));
    LT_TRY(lt_fingerprint_file(video->container.url, video->info.fingerprint, err));
    LT_TRY(lt_container_scan(&video->container, &video->table, err));
    char missing[4200];
    if (lt_video_is_sequence(request->input) &&
        lt_sequence_gap(request->input, video->table.n, missing, sizeof missing))
        video->table.missing = -1;
    LT_TRY(lt_video_find_hwaccel(video, request, err));
    LT_TRY(lt_container_rewind(&video->container, err));
    video->info.codec = avcodec_get_name(video->container.stream->codecpar->codec_id);
fail:
    return status;
}

/* The matrix that turns pictures upright: of the stream, else of the frame. NULL: none. */
static const int32_t *display_matrix(const lt_video *video)
{
    size_t size = 0;
    if (!video->is_graph) {
        const uint8_t *data =
            av_stream_get_side_data(video->container.stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
        if (data && size >= 36) return (const int32_t *)(const void *)data;
    }
    const AVFrameSideData *side = av_frame_get_side_data(video->frame, AV_FRAME_DATA_DISPLAYMATRIX);
    return side && side->size >= 36 ? (const int32_t *)(const void *)side->data : NULL;
}

lt_status lt_video_look(lt_video *video, const lt_video_request *request, lt_err *err)
{
    AVRational aspect = video->is_graph ? video->frame->sample_aspect_ratio
                                        : av_guess_sample_aspect_ratio(video->container.format,
                                                                       video->container.stream, video->frame);
    AVFrame *like = NULL;
    lt_status status = request->gpu ? lt_gpu_describe(video, &like, err) : LT_OK;
    const AVFrame *frame = like ? like : video->frame;
    video->info.source_width = frame->width;
    video->info.source_height = frame->height;
    if (!status)
        status = lt_convert_init(&video->convert, frame, aspect, display_matrix(video), request, &video->info,
                                 err);
    if (!status && request->gpu) status = lt_gpu_check(video, err);
    av_frame_free(&like);
    return status ? lt_err_prefix(err, "%s", video->input) : LT_OK;
}

void lt_video_guess_rate(lt_video *video)
{
    AVRational rate;
    if (video->is_graph)
        rate = av_buffersink_get_frame_rate(video->graph.sink);
    else
        rate = av_guess_frame_rate(video->container.format, video->container.stream, NULL);
    if (rate.num <= 0 || rate.den <= 0) return;
    video->info.rate_num = rate.num;
    video->info.rate_den = rate.den;
}

/* ---- hardware ------------------------------------------------------------------------------------------ */

static bool wants_hwaccel(const lt_video_request *request)
{
    return request->hwaccel && *request->hwaccel && strcmp(request->hwaccel, "none") != 0;
}

/* Software it is: refused where hardware was named, noted where it was to be used if it can. */
static lt_status take_software(lt_video *video, const lt_video_request *request, lt_status status,
                               const char *why, lt_err *err)
{
    if (status == LT_E_NO_MEMORY || strcmp(request->hwaccel, "auto") != 0)
        return lt_fail(err, status, "%s: %s", video->input, why);
    snprintf(video->info.hwaccel_why, sizeof video->info.hwaccel_why, "%s", why);
    return LT_OK;
}

lt_status lt_video_find_hwaccel(lt_video *video, const lt_video_request *request, lt_err *err)
{
    lt_err why;
    lt_container *container = &video->container;
    if (!wants_hwaccel(request)) return LT_OK;
    enum AVCodecID id = container->stream->codecpar->codec_id;
    lt_status status = request->gpu
                           ? lt_hwaccel_open_gpu(&container->hw, lt_gpu_device(request->gpu), id, &why)
                           : lt_hwaccel_open(&container->hw, request->hwaccel, id, &why);
    return status ? take_software(video, request, status, why.text, err) : LT_OK;
}

lt_status lt_video_settle_hwaccel(lt_video *video, const lt_video_request *request, lt_err *err)
{
    lt_container *container = &video->container;
    char why[200];
    if (!wants_hwaccel(request) || *video->info.hwaccel_why) return LT_OK;
    if (video->is_graph)
        return take_software(video, request, LT_E_UNSUPPORTED,
                             "hwaccel is for files: a filter graph is not decoded", err);
    if (container->hw.device && !container->hw.declined) {
        snprintf(video->info.hwaccel, sizeof video->info.hwaccel, "%s", container->hw.name);
        return LT_OK;
    }
    const AVCodecParameters *coded = container->stream->codecpar;
    const char *profile = avcodec_profile_name(coded->codec_id, coded->profile);
    snprintf(why, sizeof why, "hwaccel = \"%s\": does not decode this video (%s%s%s, %dx%d)",
             request->hwaccel, avcodec_get_name(coded->codec_id), profile ? " " : "", profile ? profile : "",
             coded->width, coded->height);
    lt_status status = take_software(video, request, LT_E_UNSUPPORTED, why, err);
    if (status || video->live.next) return status; /* of a live input no frame comes twice */
    lt_hwaccel_close(&container->hw);
    return lt_container_rewind(container, err);
}

/* ---- opening, continued -------------------------------------------------------------------------------- */

/* Everything that decides which frames come out and every byte of them. The number behind "device" is that of lt_yuv_to_rgb's results. */
static void make_digest(lt_video *video, const lt_video_request *request)
{
    char text[512], versions[64], frames[33];
    lt_video_info *info = &video->info;
    char exact[96] = "";
    const lt_convert *c = &video->convert;
    if (c->exact)
        snprintf(exact, sizeof exact, " exact 1 %d %d %d %d", c->box_x, c->box_y, c->box_width,
                 c->box_height);
    if (c->one_field && info->interlaced) strcat(exact, " field 1");
    if (c->one_field && video->table.mixed) strcat(exact, " each 1");
    bool may_differ = *info->hwaccel && !lt_hwaccel_is_exact(video->container.decoder->codec_id);
    lt_digest(video->selected, (size_t)info->n_frames * sizeof *video->selected, frames);
    int n = snprintf(text, sizeof text,
                     "frames 1 %s %dx%d visible %dx%d fit %d bits %d selected %s libraries %s%s%s%s%s",
                     info->fingerprint, info->width, info->height, info->visible_width, info->visible_height,
                     request->size.width || request->n_buckets ? (int)request->fit : -1, info->bits, frames,
                     lt_ffmpeg_versions(versions), exact, may_differ ? " by " : "",
                     may_differ ? info->hwaccel : "", request->gpu ? " device 1" : "");
    lt_digest(text, (size_t)n, info->digest);
}

lt_status lt_video_check(const lt_video_request *request, lt_err *err)
{
    if (!request->input || !*request->input) return lt_fail(err, LT_E_INVALID, "input is empty");
    if (request->bits && request->bits != 8 && request->bits != 16)
        return lt_fail(err, LT_E_INVALID, "bits = %d: must be 8 or 16", request->bits);
    if (request->gpu && (request->size.width || request->n_buckets || request->one_field || request->exact))
        return lt_fail(err, LT_E_INVALID, "frames that stay on a GPU stay as they are");
    return LT_OK;
}

lt_status lt_video_open(lt_video **out, const lt_video_request *request, lt_err *err)
{
    lt_ffmpeg_init();
    *out = NULL;
    lt_status status = lt_video_check(request, err);
    if (status) return status;
    lt_video *video = calloc(1, sizeof *video);
    if (!video) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    video->is_graph = lt_video_is_graph(request->input);
    video->input = strdup(request->input);
    video->frame = av_frame_alloc();
    if (!video->input || !video->frame) {
        status = lt_fail(err, LT_E_NO_MEMORY, "out of memory");
        goto fail;
    }
    LT_TRY(open_source(video, request, err));
    const lt_video_table *table = &video->table;
    video->info.source_frames = table->n;
    video->info.skipped_leading = table->skipped_leading;
    video->info.restarts = table->restarts;
    video->info.source_start = (double)table->pts[0] * av_q2d(table->time_base);
    video->info.source_end =
        (double)(table->pts[table->n - 1] + table->last_duration) * av_q2d(table->time_base);
    LT_TRY(choose_frames(video, request, err));
    if (request->tries_end) LT_TRY(check_end(video, request, err));
    LT_TRY(source_frame(video, video->selected[0], err));
    LT_TRY(lt_video_settle_hwaccel(video, request, err));
    LT_TRY(lt_video_look(video, request, err));
    lt_video_guess_rate(video);
    make_digest(video, request);
    *out = video;
    return LT_OK;
fail:
    lt_video_close(video);
    return status;
}

void lt_video_close(lt_video *video)
{
    if (!video) return;
    lt_container_close(&video->container);
    lt_live_close(&video->live);
    lt_graph_close(&video->graph);
    lt_table_finish(&video->table);
    lt_convert_finish(&video->convert);
    av_frame_free(&video->frame);
    free(video->selected);
    free(video->pts);
    free(video->input);
    free(video);
}

lt_status lt_video_seek(lt_video *video, int64_t index, lt_err *err)
{
    if (index < 0 || index >= video->info.n_frames)
        return lt_fail(err, LT_E_INTERNAL, "%s: frame %lld of %lld asked for", video->input, (long long)index,
                       (long long)video->info.n_frames);
    int64_t wanted = video->selected[index];
    int64_t next = video->is_graph ? video->graph.next : video->container.next;
    /* The frame at hand may be the one wanted: the first after opening, or one that is repeated. */
    if (next == wanted + 1 && video->frame->data[0]) return LT_OK;
    lt_status status = source_frame(video, wanted, err);
    if (status) av_frame_unref(video->frame);
    return status;
}

lt_status lt_video_read(lt_video *video, int64_t index, void *rgb, lt_err *err)
{
    lt_status status = lt_video_seek(video, index, err);
    if (status) return status;
    int64_t wanted = video->selected[index];
    status = lt_convert_frame(&video->convert, video->frame, rgb, err);
    if (!status) return LT_OK;
    char picture[4200];
    if (lt_video_is_sequence(video->input) && lt_sequence_path(video->input, wanted, picture, sizeof picture))
        lt_err_prefix(err, "%s", picture);
    else
        lt_err_prefix(err, "%s: frame %lld", video->input, (long long)wanted);
    av_frame_unref(video->frame);
    return status;
}

/* What a decoder holds, measured at 96x64 to 1920x1080 with two threads (RssAnon): tables of its own; and pictures, which are
 * references and reordering, what frame threads have in flight, and with H.264 and HEVC a third more for motion vectors. */
static size_t decoder_tables(const lt_video *video)
{
    if (video->is_graph) return 0;
    switch (video->container.decoder->codec_id) {
    case AV_CODEC_ID_H264: return 3600 << 10;
    case AV_CODEC_ID_HEVC: return 2200 << 10;
    default: return 0;
    }
}

static double decoder_pictures(const lt_video *video)
{
    if (video->is_graph) return 3;
    const AVCodecContext *decoder = video->container.decoder;
    int extra = decoder->active_thread_type & FF_THREAD_FRAME ? decoder->thread_count - 2 : 0;
    switch (decoder->codec_id) {
    case AV_CODEC_ID_H264:
    case AV_CODEC_ID_HEVC: return 1.33 * (decoder->has_b_frames + LT_MAX(decoder->refs, 1) + 4 + extra);
    case AV_CODEC_ID_AV1: return 14;
    case AV_CODEC_ID_VP8:
    case AV_CODEC_ID_VP9: return 4.5 + extra;
    default: return 2 + LT_MAX(extra, 0);
    }
}

/* What a demuxer holds of a file with an index, of sound too: its entries, and for a while the tables they are made of. */
static size_t index_bytes(const lt_video *video)
{
    enum { ENTRY_BYTES = 76 };
    size_t entries = 0;
    const AVFormatContext *format = video->is_graph ? NULL : video->container.format;
    for (unsigned i = 0; format && i < format->nb_streams; i++)
        entries += (size_t)LT_MAX(avformat_index_get_entries_count(format->streams[i]), 0);
    return entries * ENTRY_BYTES;
}

size_t lt_video_peak_bytes(const lt_video *video)
{
    enum { GRAPH_BASE = 8600 << 10, FILE_BASE = 9600 << 10 }; /* libraries, demuxer */
    const lt_convert *convert = &video->convert;
    const AVFrame *frame = video->frame;
    int one = av_image_get_buffer_size(frame->format, (int)lt_round_up((size_t)frame->width, 64) + 64,
                                       (int)lt_round_up((size_t)frame->height, 32) + 32, 64);
    size_t tables = (size_t)video->table.capacity * 8 + (size_t)video->info.n_frames * 16 +
                    (size_t)video->table.keys_capacity * sizeof(lt_video_key);
    size_t scaled = (size_t)convert->scaled_stride * (size_t)convert->scaled_height;
    if (convert->exact) /* the box, and its rows after the first pass */
        scaled += 3 * (size_t)(convert->bits / 8) * (size_t)convert->box_height *
                  (size_t)(convert->box_width + 2 * convert->inner_width);
    size_t pictures = (size_t)(LT_MAX(one, 0) * decoder_pictures(video));
    return (video->is_graph ? GRAPH_BASE : FILE_BASE) + decoder_tables(video) + pictures + tables + scaled +
           index_bytes(video);
}
