/* mux_plan.c - where the pictures go, and what that takes. */
#include "stages/mux/mux.h"
#include "proto/wire.h"
#include "stages/mux/output.h"

#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Measured: libraries and buffers that no setting changes. */
enum { BASE_BYTES = 9400 << 10 };

static const char placeholder[] = "{clip}";

bool lt_mux_is_pattern(const lt_mux_config *config)
{
    return strstr(config->output, placeholder) != NULL;
}

lt_status lt_mux_name_output(lt_mux_clip *clip, const lt_mux_config *config, lt_arena *arena, lt_err *err)
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

lt_status lt_mux_check_output(const char *output, lt_err *err)
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

lt_status lt_mux_check_source(const lt_mux_clip *clip, lt_err *err)
{
    struct stat there, source;
    if (lt_stills_meet(clip->output, clip->stream->source))
        return lt_fail(
            err, LT_E_INVALID,
            "the pictures that clip %s is made from, %s, would be written over or mixed with what is "
            "made: choose an output in another folder",
            clip->stream->name, clip->stream->source);
    if (stat(clip->output, &there) || stat(clip->stream->source, &source) || there.st_dev != source.st_dev ||
        there.st_ino != source.st_ino)
        return LT_OK;
    return lt_fail(err, LT_E_INVALID,
                   "the file that clip %s is made from, %s, would be written over: choose another output",
                   clip->stream->name, clip->stream->source);
}

/* The folder of pictures is made when the run begins. */
static lt_status check_output_above(const char *output, lt_err *err)
{
    char folder[4096];
    struct stat info;
    snprintf(folder, sizeof folder, "%s", output);
    const char *parent = dirname(folder);
    return stat(parent, &info) && errno == ENOENT ? lt_mux_check_output(parent, err)
                                                  : lt_mux_check_output(output, err);
}

lt_status lt_mux_check_format_options(const lt_mux_config *config, const char *output, lt_err *err)
{
    AVDictionary *options = NULL;
    AVFormatContext *format = NULL;
    char who[64];
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
    if (!status) {
        snprintf(who, sizeof who, "the %s format", format->oformat->name);
        status = lt_ffmpeg_check_values(format, options, "format_options", who, err);
    }
    av_dict_free(&options);
    avformat_free_context(format);
    return status;
}

/* A rough guess: bits a pixel of usual material at the default quality; nothing is decided by it but a
 * warning. */
static uint64_t disk_estimate(const lt_mux_clip *clip, const lt_mux_config *config)
{
    const AVCodecDescriptor *descriptor = avcodec_descriptor_get(clip->encoder->codec->id);
    bool lossless = descriptor && !(descriptor->props & AV_CODEC_PROP_LOSSY);
    double bits = lossless ? 10 : descriptor && descriptor->props & AV_CODEC_PROP_INTRA_ONLY ? 2 : 0.3;
    double bytes = bits / 8 * clip->encoder->width * clip->encoder->height * (double)clip->stream->n_frames;
    if (!clip->stream->run_frames) return (uint64_t)(bytes * 2); /* segments and the joined file */
    return (uint64_t)(bytes * (double)clip->stream->run_frames / (double)clip->stream->n_frames);
}

/* Pictures: a number in the name where there are several, and what a video file would have kept. */
lt_status lt_mux_check_stills(const lt_mux_clip *clip, const lt_mux_config *config, lt_err *err)
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

/* Of those that arrive: who comes before says what it leaves out itself. */
static void note_bits(const lt_mux_clip *clip, lt_plan *plan)
{
    const lt_stream *stream = clip->stream;
    int kept = av_pix_fmt_desc_get(clip->encoder->format)->comp[0].depth;
    int bits = stream->picture ? (int)LT_MIN(stream->picture->bits, stream->bits) : 0;
    if (bits > kept)
        lt_plan_note(plan, "left out: %d of the source's %d bits a sample, which %s does not hold",
                     bits - kept, bits, av_get_pix_fmt_name(clip->encoder->format));
}

static void note_stills(const lt_mux_clip *clip, lt_plan *plan)
{
    const Lt__Wire__Picture *picture = clip->stream->picture;
    lt_plan_note(plan, "%s, a file a picture; their timestamps (and sound, where there is any) are not kept",
                 clip->encoder->settings);
    if (picture && picture->rotation)
        lt_plan_note(plan, "the source is to be turned by %d degrees, which a picture does not say",
                     picture->rotation);
}

/* Joining holds a packet's entry in the index of an MP4 or MOV file until it is written: of the pictures, and of sound about a third
 * as many. */
static size_t joining_bytes(const lt_mux_clip *clip)
{
    enum { FRAME_BYTES = 96 };
    const AVOutputFormat *format = av_guess_format(NULL, clip->output, NULL);
    bool index = format && !clip->has_stills && (strstr(format->name, "mp4") || strstr(format->name, "mov"));
    return index ? clip->stream->n_frames * FRAME_BYTES : 0;
}

/* A file that cannot be written is found here: another output or codec is another configuration, once pictures are encoded. */
static lt_status try_output(const lt_mux_clip *clip, const lt_mux_config *config, lt_plan *plan, lt_err *err)
{
    const lt_stream *stream = clip->stream;
    lt_join_request request = {.encoder = clip->encoder,
                               .output = clip->output,
                               .format_options = config->format_options,
                               .side_path = lt_mux_takes_side(config) ? stream->side_path : NULL,
                               .pts = clip->pts,
                               .n_frames = (int64_t)stream->n_frames,
                               .last_duration = clip->last_duration,
                               .time_base_num = clip->time_base.num,
                               .time_base_den = clip->time_base.den};
    lt_output output;
    if (clip->has_stills) return LT_OK;
    lt_status status = lt_output_try(&output, clip->encoder, &request, err);
    if (!status && *output.left_out)
        lt_plan_note(plan, "left out: %s, which the %s format does not hold%s%s%s", output.left_out,
                     output.file->oformat->name, output.other ? " (" : "", output.other ? output.other : "",
                     output.other ? " does)" : "");
    lt_output_close(&output);
    return status;
}

lt_status lt_mux_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan, lt_err *err)
{
    const lt_mux_config *config = setup->config;
    lt_mux_clip clip = {.stream = inputs[0]};
    lt_frames *frames = NULL;
    lt_status status;
    LT_TRY(lt_mux_name_output(&clip, config, plan->arena, err));
    if (inputs[0]->expendable && !lt_mux_is_pattern(config))
        return lt_fail(err, LT_E_INVALID,
                       "output = \"%s\": several clips come, each needs a file of its own: put {clip} "
                       "into the name, as in \"films/{clip}.mp4\"",
                       config->output);
    if (!lt_mux_is_pattern(config)) {
        if (clip.has_stills)
            LT_TRY(check_output_above(config->output, err));
        else
            LT_TRY(lt_mux_check_output(config->output, err));
    }
    LT_TRY(lt_mux_check_source(&clip, err));
    LT_TRY(lt_mux_check_stills(&clip, config, err));
    LT_TRY(lt_mux_times(&clip, config, plan->arena, err));
    LT_TRY(lt_mux_encoder(&clip, config, err));
    LT_TRY(lt_mux_check_format_options(config, clip.output, err));
    LT_TRY(try_output(&clip, config, plan, err));
    note_bits(&clip, plan);
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
    if (lt_encoder_is_hardware(encoder->codec))
        lt_plan_note(
            plan,
            "%s is hardware: its model and driver decide the bytes, too, and what it takes of a device's "
            "memory is not counted here",
            encoder->codec->name);
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
