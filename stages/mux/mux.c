/* mux.c - sink: pictures into segments that are finished one by one, and at the end one file of them all. */
#include "stages/mux/mux.h"
#include "proto/wire.h"
#include "stages/mux/frames.h"
#include "stages/mux/join.h"
#include "stages/mux/writer.h"

#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct mux_config {
    const char *output, *codec, *pixel_format, *options, *format_options;
    int64_t segment, first_number;
    int audio; /* 0 copy, 1 none */
    double fps;
    bool keep_segments;
} mux_config;

#define AT(field) offsetof(mux_config, field)
static const lt_option options[] = {
    {"output", LT_OPT_PATH, AT(output), NULL, 0, 0, NULL, NULL,
     "file to write; its ending chooses the format. Pictures (png, jpg, tiff, exr, bmp) as "
     "\"frames/%06d.png\", "
     "numbered from first_number on, or one of a clip of one frame. For several clips with {clip} in it, "
     "which "
     "stands for a clip's name: \"films/{clip}.mp4\", \"films/{clip}/%06d.png\"",
     true},
    {"first_number", LT_OPT_INT, AT(first_number), "1", 0, 2e9, NULL, NULL,
     "of the first of numbered pictures", false},
    {"codec", LT_OPT_STRING, AT(codec), "auto", 0, 0, NULL, NULL,
     "any video encoder of FFmpeg, by its name; auto: libx264, or the one of the output's ending for "
     "pictures",
     false},
    {"pixel_format", LT_OPT_STRING, AT(pixel_format), "auto", 0, 0, NULL, NULL,
     "FFmpeg's name; auto: yuv420p (10 bits for deep sources) where the encoder takes it; RGB of all the "
     "bits for "
     "pictures",
     false},
    {"options", LT_OPT_DICT, AT(options), "", 0, 0, NULL, NULL,
     "options of the encoder; without any: crf=16:preset=medium for libx264, crf=18:preset=medium for "
     "libx265, the best quality for jpg",
     false},
    {"format_options", LT_OPT_DICT, AT(format_options), "", 0, 0, NULL, NULL,
     "options of the file format, such as movflags=+faststart", false},
    {"segment", LT_OPT_INT, AT(segment), "96", 1, 100000, NULL, "frames",
     "frames in a segment: what is lost at most when a run is killed", false},
    {"audio", LT_OPT_ENUM, AT(audio), "copy", 0, 0, "copy|none", NULL,
     "carry over the source's audio, subtitles and chapters, or leave them out", false},
    {"fps", LT_OPT_FLOAT, AT(fps), "0", 0, 1000, NULL, "1/s",
     "write a constant frame rate instead of the source's timestamps; leaves audio out", false},
    {"keep_segments", LT_OPT_BOOL, AT(keep_segments), "true", 0, 0, NULL, NULL,
     "keep the segments in the run folder when the output is complete", true},
};
#undef AT

typedef struct mux_clip {
    const lt_stream *stream;
    const char *output; /* file of this clip */
    lt_encoder *encoder;
    lt_segment_list list;
    lt_stills stills; /* where has_stills; the list is empty then */
    bool has_stills;
    lt_writer *writer;
    lt_frames *frames;
    int64_t *pts, last_duration; /* pts: NULL of a live clip, whose times are in a file */
    lt_times times;
    bool is_live;
    AVRational time_base;
    int64_t next; /* frame that comes next */
} mux_clip;

typedef struct mux_state {
    const lt_setup *setup;
    const mux_config *config;
} mux_state;

/* ---- what is to be encoded
 * ------------------------------------------------------------------------------- */

/* Of a live clip timestamps come with the frames. */
static lt_status fill_live_times(mux_clip *clip, const mux_config *config, lt_err *err)
{
    const lt_stream *stream = clip->stream;
    clip->last_duration = LT_MAX(stream->last_duration, 1);
    clip->time_base = (AVRational){(int)stream->time_base_num, (int)stream->time_base_den};
    if (config->fps > 0)
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "fps gives a clip a rate of its own; a live one keeps its times");
    return LT_OK;
}

/* Timestamps to write: the source's, or those of a constant rate. */
static lt_status fill_times(mux_clip *clip, const mux_config *config, lt_arena *arena, lt_err *err)
{
    const lt_stream *stream = clip->stream;
    size_t bytes;
    clip->is_live = stream->live;
    clip->times.fd = -1;
    if (clip->is_live) return fill_live_times(clip, config, err);
    if (!stream->n_frames || !lt_mul_size(stream->n_frames, sizeof *clip->pts, &bytes))
        return lt_fail(err, LT_E_FORMAT, "the input has no frames");
    clip->pts = lt_arena_alloc(arena, bytes);
    if (!clip->pts) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for timestamps");
    if (config->fps > 0) {
        clip->time_base = av_inv_q(av_d2q(config->fps, 1 << 20));
        clip->last_duration = 1;
        for (uint64_t i = 0; i < stream->n_frames; i++) clip->pts[i] = (int64_t)i;
        return LT_OK;
    }
    clip->time_base = (AVRational){(int)stream->time_base_num, (int)stream->time_base_den};
    clip->last_duration = LT_MAX(stream->last_duration, 1);
    if (clip->time_base.num <= 0 || clip->time_base.den <= 0)
        return lt_fail(err, LT_E_FORMAT, "the input has no time base");
    return lt_stream_pts(stream, clip->pts, err);
}

static AVRational rate_said(const mux_clip *clip)
{
    AVRational rate = {0, 1};
    if (clip->stream->rate_num && clip->stream->rate_den)
        av_reduce(&rate.num, &rate.den, clip->stream->rate_num, clip->stream->rate_den, 60000);
    return rate;
}

/* Whether all timestamps are those of a rate, rounded to the time base. */
static bool keeps_rate(const mux_clip *clip, AVRational rate)
{
    for (uint64_t i = 0; i < clip->stream->n_frames; i++) {
        int64_t due = clip->pts[0] + av_rescale_q((int64_t)i, av_inv_q(rate), clip->time_base);
        if (clip->pts[i] - due > 1 || due - clip->pts[i] > 1) return false;
    }
    return true;
}

/* The usual rate that timestamps are those of: a coarse time base (Matroska's milliseconds) hides it. 0/1: none. */
static AVRational usual_rate(const mux_clip *clip)
{
    static const AVRational usual[] = {{24, 1}, {24000, 1001}, {25, 1}, {30, 1}, {30000, 1001}, {50, 1},
                                       {60, 1}, {60000, 1001}, {12, 1}, {15, 1}, {48, 1},       {120, 1}};
    for (size_t i = 0; i < LT_COUNT(usual); i++)
        if (keeps_rate(clip, usual[i])) return usual[i];
    return (AVRational){0, 1};
}

/* The constant rate, or the mean of a variable one; of a live clip, what its source says. */
static AVRational frame_rate(const mux_clip *clip)
{
    AVRational said = rate_said(clip);
    if (clip->is_live) return said.num > 0 ? said : (AVRational){25, 1};
    int64_t n = (int64_t)clip->stream->n_frames,
            step = n > 1 ? clip->pts[1] - clip->pts[0] : clip->last_duration;
    bool constant = true;
    for (int64_t i = 1; i < n && constant; i++) constant = clip->pts[i] - clip->pts[i - 1] == step;
    if (!constant && (said = usual_rate(clip)).num) return said;
    int64_t ticks = constant ? step : clip->pts[n - 1] - clip->pts[0] + clip->last_duration;
    AVRational rate;
    av_reduce(&rate.num, &rate.den, (constant ? 1 : n) * clip->time_base.den, ticks * clip->time_base.num,
              60000);
    return rate.num > 0 && rate.den > 0 ? rate : (AVRational){25, 1};
}

static lt_status make_encoder(mux_clip *clip, const mux_config *config, lt_err *err)
{
    const lt_stream *stream = clip->stream;
    static const Lt__Wire__Picture none = LT__WIRE__PICTURE__INIT;
    const Lt__Wire__Picture *picture = stream->picture ? stream->picture : &none;
    AVRational rate = frame_rate(clip);
    uint32_t width = picture->width ? picture->width : stream->width;
    uint32_t height = picture->height ? picture->height : stream->height;
    if (width > stream->width || height > stream->height || stream->width > 65536 || stream->height > 65536)
        return lt_fail(err, LT_E_FORMAT, "the visible picture, %ux%u, is larger than the frames, %ux%u",
                       width, height, stream->width, stream->height);
    const char *still_codec = lt_stills_codec(clip->output), *codec = config->codec;
    if (!strcmp(codec, "auto")) codec = still_codec ? still_codec : "libx264";
    lt_encoder_request request = {.codec = codec,
                                  .still = still_codec != NULL,
                                  .pixel_format = config->pixel_format,
                                  .options = config->options,
                                  .width = (int)width,
                                  .height = (int)height,
                                  .frame_width = (int)stream->width,
                                  .frame_height = (int)stream->height,
                                  .bits = stream->bits > 8 ? 16 : 8,
                                  .colour = {AVCOL_PRI_UNSPECIFIED, AVCOL_TRC_UNSPECIFIED,
                                             AVCOL_SPC_UNSPECIFIED, AVCOL_RANGE_UNSPECIFIED},
                                  .aspect_num = (int)picture->sample_aspect_num,
                                  .aspect_den = (int)picture->sample_aspect_den,
                                  .rate_num = rate.num,
                                  .rate_den = rate.den,
                                  .container = clip->output};
    if (stream->picture)
        request.colour = (lt_video_colour){(int)picture->primaries, (int)picture->transfer,
                                           (int)picture->matrix, (int)picture->range};
    return lt_encoder_create(&clip->encoder, &request, err);
}

/* Of all that decides the bytes of a segment. */
static void make_digest(const mux_clip *clip, const mux_config *config, char digest[33])
{
    char text[1024], versions[64];
    int n = snprintf(text, sizeof text, "mux 1 %s | %s | segment %" PRId64 " of %" PRIu64 " | %s",
                     clip->stream->digest ? clip->stream->digest : "", clip->encoder->settings,
                     clip->has_stills ? config->first_number : config->segment,
                     clip->is_live ? 0 : clip->stream->n_frames, lt_ffmpeg_versions(versions));
    lt_video_hash(text, (size_t)LT_MIN(n, (int)sizeof text - 1), digest);
}

static bool takes_audio(const mux_config *config)
{
    return config->audio == 0 && config->fps <= 0;
}

/* ---- planning
 * --------------------------------------------------------------------------------------------- */

/* Measured: libraries and buffers that no setting changes. */
enum { BASE_BYTES = 9400 << 10 };

static const char placeholder[] = "{clip}";

static bool is_pattern(const mux_config *config)
{
    return strstr(config->output, placeholder) != NULL;
}

/* The file of a clip: the option with the clip's name in it. */
static lt_status name_output(mux_clip *clip, const mux_config *config, lt_arena *arena, lt_err *err)
{
    const char *at = strstr(config->output, placeholder);
    clip->output = config->output;
    clip->has_stills = lt_stills_is_picture(config->output);
    if (!at) return LT_OK;
    bool in_folder = lt_stills_is_picture(config->output) && strchr(at, '/') == strrchr(at, '/');
    if (strstr(at + 1, placeholder) || (strchr(at, '/') && !in_folder))
        return lt_fail(err, LT_E_INVALID,
                       "output = \"%s\": {clip} may stand once, in the file's name (or, of pictures, in its "
                       "folder's)",
                       config->output);
    clip->output = lt_arena_printf(arena, "%.*s%s%s", (int)(at - config->output), config->output,
                                   clip->stream->name, at + sizeof placeholder - 1);
    return clip->output ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

/* Outputs of many clips have a folder of their own, which need not be there yet. */
static lt_status make_folder(const char *output, lt_err *err)
{
    char folder[4096], above[4096];
    snprintf(folder, sizeof folder, "%s", output);
    const char *parent = dirname(folder);
    snprintf(above, sizeof above, "%s", parent);
    if (mkdir(parent, 0777) && errno == ENOENT && !mkdir(dirname(above), 0777)) errno = 0;
    if (!mkdir(parent, 0777) || errno == EEXIST) return LT_OK;
    return lt_fail_errno(err, errno, "output = \"%s\": making its folder %s", output, parent);
}

static lt_status check_output(const char *output, lt_err *err)
{
    char folder[4096];
    if (!output || !*output) return lt_fail(err, LT_E_INVALID, "output is empty");
    snprintf(folder, sizeof folder, "%s", output);
    const char *parent = dirname(folder);
    if (access(parent, W_OK | X_OK))
        return lt_fail_errno(err, errno, "output = \"%s\": its folder %s cannot be written to", output,
                             parent);
    return LT_OK;
}

/* The folder of pictures is made when the run begins. */
static lt_status check_output_above(const char *output, lt_err *err)
{
    char folder[4096];
    struct stat info;
    snprintf(folder, sizeof folder, "%s", output);
    const char *parent = dirname(folder);
    return stat(parent, &info) && errno == ENOENT ? check_output(parent, err) : check_output(output, err);
}

static lt_status check_format_options(const mux_config *config, const char *output, lt_err *err)
{
    AVDictionary *options = NULL;
    AVFormatContext *format = NULL;
    lt_status status = LT_OK;
    if (lt_stills_is_picture(output) && *config->format_options)
        return lt_fail(err, LT_E_INVALID,
                       "format_options are of a video file's format; pictures have options alone");
    int rc = av_dict_parse_string(&options, config->format_options, "=", ":", 0);
    if (rc < 0)
        status = lt_fail(err, LT_E_INVALID, "format_options = \"%s\": must be key=value pairs joined by ':'",
                         config->format_options);
    else if (avformat_alloc_output_context2(&format, NULL, NULL, output) < 0)
        status = lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    const AVDictionaryEntry *entry = NULL;
    while (!status && (entry = av_dict_get(options, "", entry, AV_DICT_IGNORE_SUFFIX)))
        if (!av_opt_find(format, entry->key, NULL, 0, AV_OPT_SEARCH_CHILDREN))
            status = lt_fail(err, LT_E_NOT_FOUND, "format_options: the format %s has no option \"%s\"",
                             format->oformat->name, entry->key);
    av_dict_free(&options);
    avformat_free_context(format);
    return status;
}

/* A rough guess: bits a pixel of usual material at the default quality; nothing is decided by it but a
 * warning. */
static uint64_t disk_estimate(const mux_clip *clip, const mux_config *config)
{
    const AVCodecDescriptor *descriptor = avcodec_descriptor_get(clip->encoder->codec->id);
    bool lossless = descriptor && !(descriptor->props & AV_CODEC_PROP_LOSSY);
    double bits = lossless ? 10 : descriptor && descriptor->props & AV_CODEC_PROP_INTRA_ONLY ? 2 : 0.3;
    double bytes = bits / 8 * clip->encoder->width * clip->encoder->height * (double)clip->stream->n_frames;
    if (!clip->stream->run_frames) return (uint64_t)(bytes * 2); /* segments and the joined file */
    return (uint64_t)(bytes * (double)clip->stream->run_frames / (double)clip->stream->n_frames);
}

/* Pictures: a number in the name where there are several, and what a video file would have kept. */
static lt_status check_stills(const mux_clip *clip, const mux_config *config, lt_err *err)
{
    uint64_t n = clip->stream->n_frames;
    if (!clip->has_stills) return LT_OK;
    if (strchr(clip->output, '%') && !lt_stills_is_numbered(clip->output))
        return lt_fail(err, LT_E_INVALID,
                       "output = \"%s\": the number of a picture stands once, as %%d or as %%06d",
                       clip->output);
    if (!lt_stills_is_numbered(clip->output) && n > 1)
        return lt_fail(err, LT_E_INVALID,
                       "output = \"%s\" is one picture, and clip %s has %" PRIu64
                       " frames: put their number into the name, as in \"frames/%%06d.png\"",
                       clip->output, clip->stream->name, n);
    if (n > INT32_MAX - (uint64_t)config->first_number)
        return lt_fail(err, LT_E_INVALID, "first_number = %" PRId64 ": too large for %" PRIu64 " pictures",
                       config->first_number, n);
    return LT_OK;
}

static void note_stills(const mux_clip *clip, lt_plan *plan)
{
    const Lt__Wire__Picture *picture = clip->stream->picture;
    lt_plan_note(plan, "%s, a file a picture; their timestamps%s are not kept", clip->encoder->settings,
                 clip->stream->side_path && *clip->stream->side_path ? ", sound and subtitles"
                                                                     : " (and sound, where there is any)");
    if (picture && picture->rotation)
        lt_plan_note(plan, "the source is to be turned by %d degrees, which a picture does not say",
                     picture->rotation);
}

/* Joining holds a packet's entry in the index of an MP4 or MOV file until it is written: of the pictures, and of sound about a third
 * as many. */
static size_t joining_bytes(const mux_clip *clip)
{
    enum { FRAME_BYTES = 96 };
    const AVOutputFormat *format = av_guess_format(NULL, clip->output, NULL);
    bool index = format && !clip->has_stills && (strstr(format->name, "mp4") || strstr(format->name, "mov"));
    return index ? clip->stream->n_frames * FRAME_BYTES : 0;
}

static lt_status mux_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan, lt_err *err)
{
    const mux_config *config = setup->config;
    mux_clip clip = {.stream = inputs[0]};
    lt_frames *frames = NULL;
    lt_status status;
    LT_TRY(name_output(&clip, config, plan->arena, err));
    if (inputs[0]->expendable && !is_pattern(config))
        return lt_fail(err, LT_E_INVALID,
                       "output = \"%s\": several clips come, each needs a file of its own: put {clip} "
                       "into the name, as in \"films/{clip}.mp4\"",
                       config->output);
    if (!is_pattern(config)) {
        if (clip.has_stills)
            LT_TRY(check_output_above(config->output, err));
        else
            LT_TRY(check_output(config->output, err));
    }
    LT_TRY(check_stills(&clip, config, err));
    LT_TRY(fill_times(&clip, config, plan->arena, err));
    LT_TRY(make_encoder(&clip, config, err));
    LT_TRY(check_format_options(config, clip.output, err));
    LT_TRY(lt_frames_create(&frames, clip.stream, 0, err));
    const lt_encoder *encoder = clip.encoder;
    plan->in_flight[0] = 2;
    plan->work_factor = 1;
    if (!clip.is_live) plan->disk_bytes = disk_estimate(&clip, config);
    int64_t encoded = LT_MIN(clip.has_stills ? 1 : config->segment, (int64_t)clip.stream->n_frames);
    plan->peak_bytes = BASE_BYTES +
                       lt_encoder_peak_bytes(encoder, encoded, encoded < (int64_t)clip.stream->n_frames) +
                       lt_frames_peak_bytes(clip.stream);
    if (!clip.is_live) plan->peak_bytes += clip.stream->n_frames * sizeof *clip.pts + joining_bytes(&clip);
    if (clip.has_stills)
        note_stills(&clip, plan);
    else if (clip.is_live)
        lt_plan_note(
            plan,
            "%s, segments of %" PRId64
            " frames; the file is put together when the input has ended, or the run for another reason",
            encoder->settings, config->segment);
    else
        lt_plan_note(plan, "%s, segments of %" PRId64 " frames", encoder->settings, config->segment);
    const Lt__Wire__Picture *picture = clip.stream->picture;
    if (picture && picture->width &&
        ((uint32_t)encoder->width != picture->width || (uint32_t)encoder->height != picture->height))
        lt_plan_note(plan, "%s needs even sizes: %ux%u becomes %dx%d, the edge repeated",
                     av_get_pix_fmt_name(encoder->format), picture->width, picture->height, encoder->width,
                     encoder->height);
fail:
    lt_frames_destroy(frames);
    lt_encoder_destroy(clip.encoder);
    return status;
}

/* ---- running
 * ---------------------------------------------------------------------------------------------- */

static lt_status mux_create(void **out, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    mux_state *state = calloc(1, sizeof *state);
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    *state = (mux_state){setup, setup->config};
    *numeric_class = "";
    *out = state;
    return LT_OK;
}

static void mux_destroy(void *state)
{
    free(state);
}

static void close_clip(mux_clip *mux)
{
    if (!mux) return;
    lt_writer_destroy(mux->writer);
    lt_frames_destroy(mux->frames);
    lt_segment_list_finish(&mux->list);
    lt_stills_close(&mux->stills);
    lt_times_close(&mux->times);
    lt_encoder_destroy(mux->encoder);
    free(mux);
}

/* What an earlier part of the run has finished; mux->next is what comes after it. */
static lt_status open_finished(mux_state *state, mux_clip *mux, uint32_t index, lt_err *err)
{
    const mux_config *config = state->config;
    const char *run_folder = state->setup->run_folder;
    char digest[33];
    lt_status status;
    make_digest(mux, config, digest);
    if (mux->has_stills) {
        status = lt_stills_open(&mux->stills, mux->encoder, mux->output, config->first_number, run_folder,
                                index, digest, mux->is_live ? 0 : (int64_t)mux->stream->n_frames, err);
        mux->next = mux->stills.count;
    } else {
        status = lt_segment_list_open(&mux->list, run_folder, index, mux->encoder->segment_suffix, digest,
                                      mux->time_base.num, mux->time_base.den, err);
        mux->next = lt_segment_list_frames(&mux->list);
    }
    if (!status && mux->is_live && !mux->has_stills)
        status = lt_times_open(&mux->times, run_folder, index, err);
    if (!status && mux->next) lt_log(LT_LOG_INFO, "%" PRId64 " frames are there already", mux->next);
    return status;
}

static lt_status start_writer(const mux_config *config, mux_clip *mux, lt_err *err)
{
    lt_writer_request request = {.encoder = mux->encoder,
                                 .list = &mux->list,
                                 .stills = mux->has_stills ? &mux->stills : NULL,
                                 .pts = mux->pts,
                                 .times = &mux->times,
                                 .n_frames = (int64_t)mux->stream->n_frames,
                                 .last_duration = mux->last_duration,
                                 .segment_frames = config->segment};
    return lt_writer_create(&mux->writer, &request, err);
}

static lt_status mux_open_clip(void *opaque, lt_clip *clip, lt_err *err)
{
    mux_state *state = opaque;
    const mux_config *config = state->config;
    lt_status status;
    if (clip->index > 0 && !is_pattern(config))
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "mux writes one clip to one output; for several put {clip} into its name");
    mux_clip *mux = calloc(1, sizeof *mux);
    if (!mux) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    mux->stills.note = mux->times.fd = -1;
    mux->stream = clip->inputs[0];
    LT_TRY(name_output(mux, config, clip->arena, err));
    if (is_pattern(config) || mux->has_stills) LT_TRY(make_folder(mux->output, err));
    LT_TRY(check_output(mux->output, err));
    LT_TRY(check_stills(mux, config, err));
    LT_TRY(fill_times(mux, config, clip->arena, err));
    LT_TRY(make_encoder(mux, config, err));
    LT_TRY(check_format_options(config, mux->output, err));
    LT_TRY(open_finished(state, mux, clip->index, err));
    LT_TRY(lt_frames_create(&mux->frames, mux->stream, mux->next, err));
    LT_TRY(start_writer(config, mux, err));
    clip->n_units = mux->stream->n_units;
    clip->first_unit = lt_frames_unit_of(mux->frames, mux->next);
    clip->state = mux;
    return LT_OK;
fail:
    close_clip(mux);
    return status;
}

static lt_status mux_need(void *state, const lt_clip *clip, uint64_t unit, lt_need needs[LT_MAX_PORTS],
                          lt_err *err)
{
    needs[0] = (lt_need){unit, 1};
    return LT_OK;
}

static lt_status take_frame(void *context, int64_t frame, const void *rgb, lt_err *err)
{
    mux_clip *mux = context;
    AVFrame *picture;
    lt_status status = lt_encoder_picture(mux->encoder, rgb, &picture, err);
    if (!status) status = lt_writer_push(mux->writer, &picture, err);
    if (!status) mux->next = frame + 1;
    return status;
}

static void tell_safe(const lt_clip *clip)
{
    mux_clip *mux = clip->state;
    lt_stage_safe(clip, lt_frames_unit_of(mux->frames, lt_writer_durable(mux->writer)));
}

/* Asked to stop: true at the end of a segment, when everything is on disk. */
static lt_status stop_between_segments(mux_state *state, lt_clip *clip, bool *stopped, lt_err *err)
{
    mux_clip *mux = clip->state;
    *stopped = lt_stage_stopping() && (mux->has_stills || mux->next % state->config->segment == 0);
    if (!*stopped) return LT_OK;
    lt_status status = lt_writer_flush(mux->writer, err);
    if (!status) tell_safe(clip);
    return status;
}

/* take_frame, but nothing behind the end of the segment once the run is to stop. */
typedef struct stoppable {
    mux_state *state;
    lt_clip *clip;
    bool stopped;
} stoppable;

static lt_status take_until_stop(void *context, int64_t frame, const void *rgb, lt_err *err)
{
    stoppable *s = context;
    lt_status status = s->stopped ? LT_OK : stop_between_segments(s->state, s->clip, &s->stopped, err);
    return status || s->stopped ? status : take_frame(s->clip->state, frame, rgb, err);
}

static lt_status mux_process(void *opaque, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                             lt_payload *output, lt_err *err)
{
    mux_clip *mux = clip->state;
    stoppable s = {opaque, clip, false};
    lt_status status = LT_OK;
    const lt_span *times = &inputs[0]->times;
    if (mux->is_live && !mux->has_stills) {
        if (!times->count)
            return lt_fail(err, LT_E_FORMAT, "unit %" PRIu64 " of a live clip came without timestamps", unit);
        status = lt_times_write(&mux->times, times->first, times->count, times->data, err);
        if (status) return status;
    }
    status = lt_frames_add(mux->frames, inputs[0], take_until_stop, &s, err);
    if (!status && !s.stopped && unit + 1 < clip->n_units)
        status = stop_between_segments(opaque, clip, &s.stopped, err);
    if (!status && unit + 1 == clip->n_units) status = lt_writer_flush(mux->writer, err);
    if (status) return status;
    tell_safe(clip);
    return s.stopped ? LT_END : LT_OK;
}

/* All that is in the list into the output. */
static lt_status join(const mux_state *state, mux_clip *mux, lt_err *err)
{
    const Lt__Wire__Picture *picture = mux->stream->picture;
    lt_join_request request = {.list = &mux->list,
                               .output = mux->output,
                               .side_path = takes_audio(state->config) ? mux->stream->side_path : NULL,
                               .format_options = state->config->format_options,
                               .pts = mux->pts,
                               .n_frames = (int64_t)mux->stream->n_frames,
                               .last_duration = mux->last_duration,
                               .time_base_num = mux->time_base.num,
                               .time_base_den = mux->time_base.den,
                               .rotation = picture ? picture->rotation : 0};
    lt_status status = LT_OK;
    if (mux->is_live) {
        request.n_frames = lt_segment_list_frames(&mux->list);
        request.last_duration = LT_MAX(mux->stream->last_duration, 1);
        status = lt_times_map(&mux->times, request.n_frames, err);
        request.pts = mux->times.pts;
    }
    if (state->config->fps > 0 && state->config->audio == 0 && mux->stream->side_path &&
        *mux->stream->side_path)
        lt_log(LT_LOG_WARN, "audio is left out, since fps gives the pictures another timing");
    if (!status) status = lt_join(&request, err);
    bool keep = state->config->keep_segments && !is_pattern(state->config);
    if (!status && !keep) lt_segment_list_remove(&mux->list);
    return status;
}

/* A live clip that ends before its time cannot be gone on with: what came of it becomes a file now. */
static lt_status save_what_came(const mux_state *state, mux_clip *mux, lt_err *err)
{
    lt_status status = lt_writer_cut(mux->writer, err);
    if (status || !lt_segment_list_frames(&mux->list)) return status;
    status = join(state, mux, err);
    if (!status)
        lt_log(LT_LOG_INFO, "%s holds the %" PRId64 " frames that came", mux->output,
               lt_segment_list_frames(&mux->list));
    return status;
}

static lt_status mux_ended(void *opaque, lt_clip *clip, lt_err *err)
{
    mux_clip *mux = clip->state;
    lt_frames_end(mux->frames, (int64_t)clip->inputs[0]->n_frames);
    clip->n_units = clip->inputs[0]->n_units;
    return LT_OK;
}

/* A file that is there when the clip is done. */
static const char *last_still(const lt_clip *clip)
{
    const mux_clip *mux = clip->state;
    char path[4096];
    lt_stills_path(&mux->stills, LT_MAX(mux->stills.count, 1) - 1, path);
    return lt_arena_strdup(clip->arena, path);
}

static lt_status mux_finish_clip(void *opaque, lt_clip *clip, bool complete, const char **result, lt_err *err)
{
    const mux_state *state = opaque;
    mux_clip *mux = clip->state;
    lt_status status = LT_OK;
    *result = NULL;
    if (mux && complete) {
        status = lt_writer_cut(mux->writer, err);
        lt_writer_destroy(mux->writer);
        mux->writer = NULL;
        if (!status && !mux->has_stills) status = join(state, mux, err);
        if (!status) *result = mux->has_stills ? last_still(clip) : mux->output;
    }
    if (mux && !complete && mux->is_live && !mux->has_stills) status = save_what_came(state, mux, err);
    close_clip(mux);
    clip->state = NULL;
    return status;
}

static const lt_port inputs[] = {
    {"frames", 1u << LT__WIRE__PORT_KIND__PORT_FRAMES | 1u << LT__WIRE__PORT_KIND__PORT_WINDOWS,
     "pictures in RGB, or decoded windows, which are blended here"}};

const lt_stage lt_mux_stage = {
    .kind = "mux",
    .help =
        "Encodes pictures with FFmpeg, segment by segment, and joins the segments with the source's audio; "
        "or writes each as a file of its own.",
    .inputs = inputs,
    .n_inputs = 1,
    .options = options,
    .n_options = (int)LT_COUNT(options),
    .config_bytes = sizeof(mux_config),
    .plan = mux_plan,
    .create = mux_create,
    .destroy = mux_destroy,
    .open_clip = mux_open_clip,
    .need = mux_need,
    .ended = mux_ended,
    .process = mux_process,
    .finish_clip = mux_finish_clip,
};
