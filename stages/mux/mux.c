/* mux.c - sink: pictures into segments that are finished one by one, and at the end one file of them all. */
#include "stages/mux/mux.h"
#include "proto/wire.h"
#include "stages/mux/join.h"
#include "stages/mux/stills.h"

#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define AT(field) offsetof(lt_mux_config, field)
static const lt_option options[] = {
    {"output", LT_OPT_PATH, AT(output), NULL, 0, 0, NULL, NULL,
     "file to write; its ending chooses the format. Pictures (png, jpg, tiff, exr, bmp) as "
     "\"frames/%06d.png\", numbered from first_number on, or one of a clip of one frame. For several clips "
     "with {clip} in it, which stands for a clip's name: \"films/{clip}.mp4\", \"films/{clip}/%06d.png\"",
     true},
    {"first_number", LT_OPT_INT, AT(first_number), "1", 0, 2e9, NULL, NULL,
     "of the first of numbered pictures", false},
    {"codec", LT_OPT_STRING, AT(codec), "auto", 0, 0, NULL, NULL,
     "any video encoder of FFmpeg that takes pictures from the host's memory, by its name, h264_nvenc and "
     "hevc_nvenc among them; auto: "
     "libx264, or the one of the output's ending for pictures",
     false},
    {"pixel_format", LT_OPT_STRING, AT(pixel_format), "auto", 0, 0, NULL, NULL,
     "FFmpeg's name; auto: yuv420p (10 bits for deep sources) where the encoder takes it; RGB of all the "
     "bits for pictures",
     false},
    {"options", LT_OPT_DICT, AT(options), "", 0, 0, NULL, NULL,
     "options of the encoder; without any: crf=16:preset=medium for libx264, crf=18:preset=medium for "
     "libx265, "
     "rc=constqp:qp=18:preset=p5 for NVENC, the best quality for jpg",
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

typedef struct mux_state {
    const lt_setup *setup;
    const lt_mux_config *config;
} mux_state;

bool lt_mux_takes_side(const lt_mux_config *config)
{
    return config->audio == 0 && config->fps <= 0;
}

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

static void close_clip(lt_mux_clip *mux)
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
static lt_status open_finished(mux_state *state, lt_mux_clip *mux, uint32_t index, lt_err *err)
{
    const lt_mux_config *config = state->config;
    const char *run_folder = state->setup->run_folder;
    char digest[33];
    lt_status status;
    lt_mux_digest(mux, config, digest);
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

static lt_status start_writer(const lt_mux_config *config, lt_mux_clip *mux, lt_err *err)
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
    const lt_mux_config *config = state->config;
    lt_status status;
    if (clip->index > 0 && !lt_mux_is_pattern(config))
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "mux writes one clip to one output; for several put {clip} into its name");
    lt_mux_clip *mux = calloc(1, sizeof *mux);
    if (!mux) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    mux->stills.note = mux->times.fd = -1;
    mux->stream = clip->inputs[0];
    LT_TRY(lt_mux_name_output(mux, config, clip->arena, err));
    if (lt_mux_is_pattern(config) || mux->has_stills) LT_TRY(make_folder(mux->output, err));
    LT_TRY(lt_mux_check_output(mux->output, err));
    LT_TRY(lt_mux_check_source(mux, err));
    LT_TRY(lt_mux_check_stills(mux, config, err));
    LT_TRY(lt_mux_times(mux, config, clip->arena, err));
    LT_TRY(lt_mux_encoder(mux, config, err));
    LT_TRY(lt_mux_check_format_options(config, mux->output, err));
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
    lt_mux_clip *mux = context;
    AVFrame *picture;
    lt_status status = lt_encoder_picture(mux->encoder, rgb, &picture, err);
    if (!status) status = lt_writer_push(mux->writer, &picture, err);
    if (!status) mux->next = frame + 1;
    return status;
}

static void tell_safe(const lt_clip *clip)
{
    lt_mux_clip *mux = clip->state;
    lt_stage_safe(clip, lt_frames_unit_of(mux->frames, lt_writer_durable(mux->writer)));
}

/* Asked to stop: true at the end of a segment, when everything is on disk. */
static lt_status stop_between_segments(mux_state *state, lt_clip *clip, bool *stopped, lt_err *err)
{
    lt_mux_clip *mux = clip->state;
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
    lt_mux_clip *mux = clip->state;
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
static lt_status join(const mux_state *state, lt_mux_clip *mux, lt_err *err)
{
    const Lt__Wire__Picture *picture = mux->stream->picture;
    lt_join_request request = {.encoder = mux->encoder,
                               .list = &mux->list,
                               .output = mux->output,
                               .side_path = lt_mux_takes_side(state->config) ? mux->stream->side_path : NULL,
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
    bool keep = state->config->keep_segments && !lt_mux_is_pattern(state->config);
    if (!status && !keep) lt_segment_list_remove(&mux->list);
    return status;
}

/* A live clip that ends before its time cannot be gone on with: what came of it becomes a file now. */
static lt_status save_what_came(const mux_state *state, lt_mux_clip *mux, lt_err *err)
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
    lt_mux_clip *mux = clip->state;
    lt_frames_end(mux->frames, (int64_t)clip->inputs[0]->n_frames);
    clip->n_units = clip->inputs[0]->n_units;
    return LT_OK;
}

/* A file that is there when the clip is done. */
static const char *last_still(const lt_clip *clip)
{
    const lt_mux_clip *mux = clip->state;
    char path[4096];
    lt_stills_path(&mux->stills, LT_MAX(mux->stills.count, 1) - 1, path);
    return lt_arena_strdup(clip->arena, path);
}

static lt_status mux_finish_clip(void *opaque, lt_clip *clip, bool complete, const char **result, lt_err *err)
{
    const mux_state *state = opaque;
    lt_mux_clip *mux = clip->state;
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

static lt_status mux_check(const void *opaque, lt_err *err)
{
    const lt_mux_config *config = opaque;
    bool is_auto = !strcmp(config->codec, "auto"), is_picture = lt_stills_is_picture(config->output);
    return lt_encoder_check(is_auto ? NULL : config->codec, is_picture ? NULL : config->output, err);
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
    .config_bytes = sizeof(lt_mux_config),
    .check = mux_check,
    .plan = lt_mux_plan,
    .create = mux_create,
    .destroy = mux_destroy,
    .open_clip = mux_open_clip,
    .need = mux_need,
    .ended = mux_ended,
    .process = mux_process,
    .finish_clip = mux_finish_clip,
};
