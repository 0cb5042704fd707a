/* graph.c - "lavfi:" sources: a filter graph that makes its own pictures. */
#include "stages/video/internal.h"

#include <libavfilter/buffersink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Graphs longer than this are refused rather than run to an end that may never come. */
enum { MAX_SCANNED = 1000000 };

/* FFmpeg's generators that count timestamps 0, 1, 2, ... in 1/rate, and filters that give a frame for each
 * they get: graphs of these alone need not be run to know their frames. */
static const char *const counting_sources[] = {"testsrc",    "testsrc2",    "color",
                                               "smptebars",  "smptehdbars", "rgbtestsrc",
                                               "yuvtestsrc", "nullsrc",     "pal75bars"};
static const char *const plain_filters[] = {"format", "scale",  "hue", "eq",        "noise", "drawbox",
                                            "setsar", "crop",   "pad", "hflip",     "vflip", "negate",
                                            "null",   "rotate", "geq", "buffersink"};

static const char *const endless_sources[] = {"life", "mandelbrot", "cellauto", "sierpinski", "frei0r_src"};

static bool is_among(const char *name, const char *const *names, size_t n_names)
{
    for (size_t i = 0; i < n_names; i++)
        if (!strcmp(name, names[i])) return true;
    return false;
}

static bool has_filter(const lt_graph *graph, const char *name)
{
    for (unsigned i = 0; i < graph->graph->nb_filters; i++)
        if (!strcmp(graph->graph->filters[i]->filter->name, name)) return true;
    return false;
}

static lt_status connect_sink(lt_graph *graph, lt_err *err)
{
    lt_status status = LT_OK;
    AVFilterInOut *ends = avfilter_inout_alloc(), *starts = NULL;
    const AVFilter *sink = avfilter_get_by_name("buffersink");
    lt_ffmpeg_listen();
    int rc = ends && sink ? avfilter_graph_create_filter(&graph->sink, sink, "out", NULL, NULL, graph->graph)
                          : AVERROR(ENOMEM);
    if (rc >= 0) {
        *ends = (AVFilterInOut){.name = av_strdup("out"), .filter_ctx = graph->sink};
        rc = avfilter_graph_parse_ptr(graph->graph, graph->text, &ends, &starts, NULL);
    }
    if (rc >= 0 && (ends || starts))
        status = lt_fail(err, LT_E_INVALID,
                         "lavfi:%s: the graph must have no input and one output, left open or named [out]",
                         graph->text);
    if (rc >= 0 && !status) rc = avfilter_graph_config(graph->graph, NULL);
    if (rc < 0)
        status = lt_fail(err, LT_E_INVALID, "lavfi:%s: is not a filter graph that gives video: %s",
                         graph->text, lt_ffmpeg_reason(rc));
    avfilter_inout_free(&ends);
    avfilter_inout_free(&starts);
    return status;
}

lt_status lt_graph_open(lt_graph *graph, const char *text, lt_err *err)
{
    *graph = (lt_graph){.graph = avfilter_graph_alloc(), .text = strdup(text)};
    lt_status status = LT_OK;
    if (!graph->graph || !graph->text) status = lt_fail(err, LT_E_NO_MEMORY, "lavfi:%s: out of memory", text);
    if (!status) {
        graph->graph->nb_threads = 1;
        status = connect_sink(graph, err);
    }
    if (!status && !strstr(graph->text, "seed") &&
        (has_filter(graph, "life") || has_filter(graph, "cellauto")))
        status = lt_fail(err, LT_E_UNSUPPORTED,
                         "lavfi:%s: gives other pictures every time it is run; give the source a seed",
                         graph->text);
    if (!status && av_buffersink_get_type(graph->sink) != AVMEDIA_TYPE_VIDEO)
        status = lt_fail(err, LT_E_NOT_FOUND, "lavfi:%s: the graph gives no video", text);
    if (status) lt_graph_close(graph);
    return status;
}

void lt_graph_close(lt_graph *graph)
{
    avfilter_graph_free(&graph->graph);
    free(graph->text);
    *graph = (lt_graph){0};
}

lt_status lt_graph_next(lt_graph *graph, AVFrame *frame, lt_err *err)
{
    int rc = av_buffersink_get_frame(graph->sink, frame);
    if (rc == AVERROR_EOF) return LT_END;
    if (rc < 0) return lt_fail_av(err, rc, "lavfi:%s: frame %lld", graph->text, (long long)graph->next);
    graph->next++;
    return LT_OK;
}

lt_status lt_graph_frame(lt_graph *graph, int64_t index, AVFrame *frame, lt_err *err)
{
    lt_status status = LT_OK;
    if (graph->next > index) { /* back: a graph only runs forward */
        char *text = strdup(graph->text);
        if (!text) return lt_fail(err, LT_E_NO_MEMORY, "lavfi: out of memory");
        lt_graph_close(graph);
        status = lt_graph_open(graph, text, err);
        free(text);
    }
    while (!status && graph->next <= index) {
        av_frame_unref(frame);
        status = lt_graph_next(graph, frame, err);
    }
    if (status == LT_END)
        return lt_fail(err, LT_E_FORMAT, "lavfi:%s: ended before frame %lld", graph->text, (long long)index);
    return status;
}

/* ---- how many frames ----------------------------------------------------------------------------------- */

static AVFilterContext *generator(const lt_graph *graph)
{
    for (unsigned i = 0; i < graph->graph->nb_filters; i++)
        if (!graph->graph->filters[i]->nb_inputs) return graph->graph->filters[i];
    return NULL;
}

/* Only one counting source, and filters that change no count. */
static bool is_counting(const lt_graph *graph)
{
    int n_sources = 0;
    for (unsigned i = 0; i < graph->graph->nb_filters; i++) {
        const AVFilterContext *filter = graph->graph->filters[i];
        if (is_among(filter->filter->name, counting_sources, LT_COUNT(counting_sources)))
            n_sources++;
        else if (!is_among(filter->filter->name, plain_filters, LT_COUNT(plain_filters)))
            return false;
    }
    return n_sources == 1;
}

/* Duration in microseconds that a generator was given; -1: without end; INT64_MAX: it knows none but ends. */
static int64_t given_duration(const lt_graph *graph, const AVFilterContext *source)
{
    int64_t duration;
    if (av_opt_get_int(source->priv, "duration", 0, &duration) < 0)
        duration =
            is_among(source->filter->name, endless_sources, LT_COUNT(endless_sources)) ? -1 : INT64_MAX;
    return duration < 0 && has_filter(graph, "trim") ? INT64_MAX : duration;
}

static lt_status refuse_endless(const lt_graph *graph, bool draws, lt_err *err)
{
    return lt_fail(err, LT_E_UNSUPPORTED, "lavfi:%s: the graph has no end; %sgive the source a duration",
                   graph->text,
                   draws ? "to draw a start or an interval from it, "
                         : "say how many frames you want with frames = N, or ");
}

static lt_status count_frames(const lt_graph *graph, int64_t duration, const lt_video_request *request,
                              lt_video_table *table, lt_err *err)
{
    /* The rule of FFmpeg's generators: they end at the first timestamp not before the duration. */
    for (int64_t i = 0; duration < 0 || av_rescale_q(i, table->time_base, AV_TIME_BASE_Q) < duration; i++) {
        lt_status status = lt_table_add(table, i, err);
        if (status) return status;
        if (lt_table_suffices(table, request)) break;
    }
    return LT_OK;
}

static lt_status run_frames(lt_graph *graph, const lt_video_request *request, lt_video_table *table,
                            lt_err *err)
{
    AVFrame *frame = av_frame_alloc();
    if (!frame) return lt_fail(err, LT_E_NO_MEMORY, "lavfi:%s: out of memory", graph->text);
    lt_status status = LT_OK;
    while (!status && !lt_table_suffices(table, request)) {
        if (table->n == MAX_SCANNED) {
            status = refuse_endless(graph, false, err);
            break;
        }
        status = lt_graph_next(graph, frame, err);
        if (status) break;
        int64_t last = table->n ? table->pts[table->n - 1] : -1;
        bool bad = frame->pts == AV_NOPTS_VALUE || (table->n && frame->pts <= last);
        status = lt_table_add(table, bad ? last + 1 : frame->pts, err);
        av_frame_unref(frame);
    }
    av_frame_free(&frame);
    return status == LT_END ? LT_OK : status;
}

lt_status lt_graph_scan(lt_graph *graph, const lt_video_request *request, lt_video_table *table, lt_err *err)
{
    AVFilterContext *source = generator(graph);
    if (!source) return lt_fail(err, LT_E_INVALID, "lavfi:%s: the graph has no source", graph->text);
    int64_t duration = given_duration(graph, source);
    AVRational rate = av_buffersink_get_frame_rate(graph->sink);
    table->time_base = av_buffersink_get_time_base(graph->sink);
    table->last_duration = rate.num > 0 ? LT_MAX(av_rescale_q(1, av_inv_q(rate), table->time_base), 1) : 1;
    bool counting = is_counting(graph) && !av_cmp_q(table->time_base, av_inv_q(rate));
    bool draws = request->random_interval || request->random_start;
    if (duration < 0 && (request->frames <= 0 || draws)) return refuse_endless(graph, draws, err);
    lt_status status = counting ? count_frames(graph, duration, request, table, err)
                                : run_frames(graph, request, table, err);
    if (!status && !table->n)
        status = lt_fail(err, LT_E_FORMAT, "lavfi:%s: the graph gives no frames", graph->text);
    return status;
}
