/* decode.c - source: any video FFmpeg reads, or the clips of a manifest, as chunks of RGB frames, from any place at
 * any time. */
#include "stages/decode/decode.h"
#include "proto/wire.h"
#include "stages/decode/side.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(lt_decode_config, field)
static const lt_option options[] = {
    {"input", LT_OPT_PATH, AT(input), "", 0, 0, NULL, NULL,
     "video file, picture or URL; - for standard input, or a FIFO; pictures as \"shots/%04d.png\" or, by "
     "name, \"shots/*.png\", 25 a second; "
     "or "
     "lavfi:GRAPH for a synthetic source of FFmpeg",
     false},
    {"manifest", LT_OPT_PATH, AT(manifest), "", 0, 0, NULL, NULL,
     "instead of input: file with a list of clips, as JSON, JSON lines or CSV: path, and perhaps text, "
     "start, end, "
     "name",
     false},
    {"base", LT_OPT_PATH, AT(base), "", 0, 0, NULL, NULL,
     "folder that the manifest's relative paths start in; default: the manifest's own", false},
    {"shard", LT_OPT_STRING, AT(shard), "", 0, 0, NULL, NULL,
     "\"i/n\": of the manifest only the clips i, i + n, i + 2n, ...; i from 0", false},
    {"size", LT_OPT_SIZE, AT(size), "", 0, 0, NULL, "pixels",
     "size to bring the picture to, with square pixels; without it the source's own", false},
    {"buckets", LT_OPT_STRING, AT(buckets), "", 0, 0, NULL, "pixels",
     "instead of size: several, \"512x288, 288x512\"; each clip takes the one whose shape is nearest to its "
     "own",
     false},
    {"fit", LT_OPT_ENUM, AT(fit), "crop", 0, 0, "crop|pad|stretch", NULL,
     "how: fill and cut what is over, fit inside black bars, or distort", false},
    {"scaler", LT_OPT_ENUM, AT(scaler), "ffmpeg", 0, 0, "ffmpeg|pillow", NULL,
     "who scales: FFmpeg's bicubic, or as Pillow does (antialiased bicubic of a box of whole pixels), as "
     "data loaders in "
     "Python do",
     false},
    {"random_crop", LT_OPT_BOOL, AT(random_crop), "false", 0, 0, NULL, NULL,
     "with scaler pillow: cut the box out anywhere, instead of the middle", false},
    {"random_start", LT_OPT_BOOL, AT(random_start), "false", 0, 0, NULL, NULL,
     "begin anywhere that leaves enough for `frames`", false},
    {"random_interval", LT_OPT_BOOL, AT(random_interval), "false", 0, 0, NULL, NULL,
     "for every second clip take every n-th frame, n drawn from 1 to what leaves enough for `frames`", false},
    {"seed", LT_OPT_INT, AT(seed), "0", 0, 9e15, NULL, NULL, "of what is drawn; each clip draws by its name",
     false},
    {"start", LT_OPT_SECONDS, AT(start), "0", 0, 1e9, NULL, "seconds",
     "begin this long after the first frame", false},
    {"frames", LT_OPT_INT, AT(frames), "0", 0, 67108864, NULL, "frames", "at most so many frames; 0: all",
     false},
    {"short", LT_OPT_ENUM, AT(short_clips), "keep", 0, 0, "keep|skip|pad", NULL,
     "a clip with fewer than `frames`: take what there is, leave it out, or repeat its last frame", false},
    {"interval", LT_OPT_INT, AT(interval), "1", 1, 1000000, NULL, "frames", "take every n-th frame", false},
    {"fps", LT_OPT_FLOAT, AT(fps), "0", 0, 1000, NULL, "1/s",
     "resample: the frame shown at each tick of this rate; 0: the source's own timestamps", false},
    {"chunk", LT_OPT_INT, AT(chunk), "8", 1, 1024, NULL, "frames", "frames in a unit of flow", false},
    {"deinterlace", LT_OPT_BOOL, AT(deinterlace), "false", 0, 0, NULL, NULL,
     "of interlaced pictures take the first field alone, stretched to the full height; otherwise both stay "
     "in one picture",
     false},
    {"bits", LT_OPT_ENUM, AT(bits), "auto", 0, 0, "auto|8|16", NULL,
     "bits a sample; auto: 16 for sources of more than 8", false},
    {"hwaccel", LT_OPT_STRING, AT(hwaccel), "none", 0, 0, NULL, NULL,
     "who decodes: none (software), auto (hardware where this FFmpeg and this machine have some for the "
     "codec, else software), or a name "
     "that `ffmpeg -hwaccels` lists, such as cuda, or with a device, cuda:1. H.264, HEVC, VP8, VP9 and AV1 "
     "have the same bytes either way",
     false},
    {"convert", LT_OPT_ENUM, AT(convert), "ffmpeg", 0, 0, "ffmpeg|device", NULL,
     "who makes RGB of decoded frames: FFmpeg, on the host, in any size; or the GPU that hwaccel names "
     "(cuda, cuda:1), as they are, from where they go to vae_encode on the same GPU without the host. The "
     "bytes differ a little, by how chroma is interpolated",
     false},
    {"audio", LT_OPT_ENUM, AT(audio), "copy", 0, 0, "copy|none", NULL,
     "put audio, subtitles and chapters aside for mux and the cache, or leave them", false},
    {"ring", LT_OPT_INT, AT(ring), "4", 0, 64, NULL, "chunks",
     "chunks kept when consumers ask out of order, instead of seeking back (at most 128 MiB of them, at "
     "least one)",
     true},
    {"live", LT_OPT_BOOL, AT(live), "false", 0, 0, NULL, NULL,
     "read the input once, in order, until it ends, without looking for its length first: for URLs that "
     "cannot be "
     "sought in and lavfi graphs without an end; pipes (- and FIFOs) are always read so",
     false},
    {"keep", LT_OPT_INT, AT(keep), "256", 1, 1000000, NULL, "frames",
     "of a live input, for stages that die and are started again (at most 512 MiB of them)", true},
    {"name", LT_OPT_STRING, AT(name), "", 0, 0, NULL, NULL, "name of the clip; default: from the input's",
     false},
    {"caption", LT_OPT_STRING, AT(caption), "", 0, 0, NULL, NULL, "what is seen in the clip", false},
};
#undef AT

typedef struct decode_state {
    const lt_setup *setup;
    lt_source source;
    lt_decode_gpu gpu;
} decode_state;

/* ---- planning ------------------------------------------------------------------------------------------- */

static void add_notes_of_pictures(const lt_video_info *info, bool deinterlace, lt_plan *plan)
{
    if (info->interlaced)
        lt_plan_note(plan, "interlaced: %s",
                     deinterlace ? "the first field of each picture is taken"
                                 : "both fields stay in one picture (deinterlace = true takes one)");
    if (info->colour.transfer == 16 || info->colour.transfer == 18)
        lt_plan_note(plan,
                     "HDR (%s): values are taken as they are, no tone mapping; the tags go to the output",
                     info->colour.transfer == 16 ? "PQ" : "HLG");
    if (info->has_alpha) lt_plan_note(plan, "left out: transparency");
    if (info->bits == 8 && info->depth > 8)
        lt_plan_note(plan, "left out: %d of the source's %d bits a sample (bits = 16 keeps them)",
                     info->depth - 8, info->depth);
    if (info->has_mastering)
        lt_plan_note(plan,
                     "left out: what HDR10 says of the display it was mastered on, and of its brightness");
}

/* What "auto" has become, of a single input. Clips of a manifest may differ. */
static void resolve_hwaccel(const lt_decode_config *config, const lt_video_info *info, lt_plan *plan)
{
    bool automatic = !strcmp(config->hwaccel, "auto");
    if (automatic && !*config->manifest)
        lt_plan_resolve(plan, "hwaccel", "%s", *info->hwaccel ? info->hwaccel : "none");
    if (*info->hwaccel && !automatic) lt_plan_note(plan, "decoded by %s", info->hwaccel);
    if (*info->hwaccel_why) lt_plan_note(plan, "decoded in software: %s", info->hwaccel_why);
}

/* Who converts on the GPU counts this, too. */
static void add_surfaces(const lt_decode_config *config, const lt_video *video, lt_plan *plan)
{
    size_t bytes = lt_video_device_bytes(video);
    if (bytes && !config->convert)
        lt_plan_note(plan, "of its memory the decoder takes about %.0f MiB, which is not counted",
                     (double)bytes / 0x1p20);
}

static void add_notes(const lt_video_info *info, bool deinterlace, lt_plan *plan)
{
    lt_plan_note(plan, "%s, %dx%d, %" PRId64 " frames, %.3f s; %" PRId64 " selected, %dx%d visible, %d bits",
                 info->codec, info->source_width, info->source_height, info->source_frames,
                 info->source_end - info->source_start, info->n_frames, info->visible_width,
                 info->visible_height, info->bits);
    if (info->width != info->visible_width || info->height != info->visible_height)
        lt_plan_note(plan, "padded to %dx%d by repeating the edge; cut off again at the end", info->width,
                     info->height);
    if (info->skipped_leading)
        lt_plan_note(plan, "%" PRId64 " frames before the first key frame cannot be decoded and are left out",
                     info->skipped_leading);
    if (info->restarts)
        lt_plan_note(plan, "its clock starts again (%" PRId64 "): the parts are put one behind the other",
                     info->restarts);
    add_notes_of_pictures(info, deinterlace, plan);
    if (info->rotation)
        lt_plan_note(plan, "turned by %d degrees: left to the player, since it is no multiple of 90",
                     info->rotation);
}

static size_t clip_bytes(const lt_decode_config *config, const lt_video *video)
{
    const lt_video_info *info = lt_video_get_info(video);
    size_t unit = lt_video_frame_bytes(info) * (size_t)config->chunk;
    int64_t ring = info->n_frames > config->chunk ? lt_chunks_ring(config, unit) : 0;
    return lt_video_peak_bytes(video) + unit * (size_t)ring;
}

/* What comes beside the pictures is a file of its own when the run begins; planning looks at the source's. */
static bool has_side(const lt_decode_config *config, const char *input)
{
    return !config->audio && !lt_video_is_graph(input) && !lt_video_is_sequence(input);
}

static lt_status name_side(const lt_decode_config *config, lt_plan *plan, lt_err *err)
{
    const char *input = plan->output->source;
    if (!has_side(config, input) || lt_video_is_url(input)) return LT_OK;
    plan->output->side_path = lt_arena_strdup(plan->arena, input);
    return plan->output->side_path ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

static lt_status plan_one(lt_source *source, lt_decode_gpu *gpu, int threads, lt_plan *plan, lt_err *err)
{
    lt_video *video;
    lt_wanted wanted;
    lt_status status = lt_source_get(source, 0, plan->arena, &wanted, err);
    wanted.tries_end = true;
    if (!status) status = lt_decode_gpu_open(gpu, source, err);
    if (!status) status = lt_source_open_video(source, &wanted, threads, &video, err);
    if (status) return status;
    const lt_video_info *info = lt_video_get_info(video);
    status = lt_source_describe(source, &wanted, info, plan->output, plan->arena, err);
    if (!status) status = name_side(source->config, plan, err);
    plan->peak_bytes = clip_bytes(source->config, video);
    add_notes(info, source->config->deinterlace, plan);
    resolve_hwaccel(source->config, info, plan);
    add_surfaces(source->config, video, plan);
    if (!status && gpu->decoder)
        status =
            lt_decode_gpu_plan(gpu, lt_video_frame_bytes(info), lt_video_device_bytes(video), 1, plan, err);
    lt_video_close(video);
    return status;
}

/* A live input: the length is not known, and much else with it. */
static lt_status plan_live(lt_source *source, const lt_setup *setup, lt_plan *plan, lt_err *err)
{
    lt_wanted wanted;
    lt_kept *kept = NULL;
    lt_status status = lt_source_get(source, 0, plan->arena, &wanted, err);
    if (!status) status = lt_kept_open(&kept, source, &wanted, setup, true, err);
    if (status) return status;
    const lt_video *video = lt_kept_video(kept);
    const lt_video_info *info = lt_video_get_info(video);
    status = lt_source_describe(source, &wanted, info, plan->output, plan->arena, err);
    size_t unit = lt_video_frame_bytes(info) * (size_t)source->config->chunk;
    int64_t n = lt_kept_chunks(source->config, unit);
    plan->live = true;
    plan->peak_bytes = lt_video_peak_bytes(video) + unit * (size_t)n;
    lt_plan_note(plan, "live: %s, %dx%d, %dx%d visible, %d bits", info->codec, info->source_width,
                 info->source_height, info->visible_width, info->visible_height, info->bits);
    lt_plan_note(plan,
                 "it comes once: a stage that dies is started again from the last %" PRId64
                 " frames, which are kept",
                 n * source->config->chunk);
    add_notes_of_pictures(info, source->config->deinterlace, plan);
    resolve_hwaccel(source->config, info, plan);
    add_surfaces(source->config, video, plan);
    lt_kept_close(kept);
    return status;
}

/* What is found when some clips of a manifest are looked at. */
typedef struct sample {
    int n, n_failed;
    uint64_t frames, unit_bytes;
    size_t peak_bytes, frame_bytes, surface_bytes;
    lt_err first_error;
    lt_trial *trial;
} sample;

/* Look at one clip; the largest so far is the one that the plan is made for. */
static lt_status look_at(lt_source *source, uint32_t index, int threads, lt_plan *plan, sample *sample,
                         lt_err *err)
{
    lt_video *video = NULL;
    lt_wanted wanted;
    lt_err why;
    lt_status status = lt_source_get(source, index, plan->arena, &wanted, err);
    if (status) return status;
    status = lt_trial_opens(sample->trial, index, wanted.input, &why);
    if (!status) status = lt_source_open_video(source, &wanted, threads, &video, &why);
    lt_trial_opened(sample->trial);
    if (status) {
        if (!sample->n_failed++) sample->first_error = why;
        return status == LT_E_NO_MEMORY ? lt_fail(err, status, "%s", why.text) : LT_OK;
    }
    const lt_video_info *info = lt_video_get_info(video);
    uint64_t unit_bytes = lt_video_frame_bytes(info) * (uint64_t)source->config->chunk;
    sample->n++;
    sample->frames += (uint64_t)info->n_frames;
    sample->peak_bytes = LT_MAX(sample->peak_bytes, clip_bytes(source->config, video));
    sample->frame_bytes = LT_MAX(sample->frame_bytes, lt_video_frame_bytes(info));
    sample->surface_bytes = LT_MAX(sample->surface_bytes, lt_video_device_bytes(video));
    bool is_longer = unit_bytes == sample->unit_bytes && (uint64_t)info->n_frames > plan->output->n_frames;
    if (unit_bytes > sample->unit_bytes || is_longer) {
        sample->unit_bytes = unit_bytes;
        status = lt_source_describe(source, &wanted, info, plan->output, plan->arena, err);
        if (!status) status = name_side(source->config, plan, err);
    }
    lt_video_close(video);
    return status;
}

/* A manifest: some clips, spread over it, stand for all. */
static lt_status plan_list(lt_source *source, lt_decode_gpu *gpu, int threads, lt_plan *plan, lt_err *err)
{
    enum { SAMPLES = 16, TRIES = 256, BASE = 9600 << 10 };
    uint32_t count = lt_source_count(source);
    sample sample = {0};
    lt_status status =
        count ? LT_OK
              : lt_fail(err, LT_E_NOT_FOUND, "%s: this shard of it holds no clips", source->config->manifest);
    uint32_t n = LT_MIN(count, (uint32_t)SAMPLES);
    if (!status) sample.trial = lt_trial_begin();
    if (!status) status = lt_decode_gpu_open(gpu, source, err); /* in the child: a GPU is not inherited */
    for (uint32_t i = 0; i < n && !status; i++)
        status = look_at(source, (uint32_t)((uint64_t)i * count / n), threads, plan, &sample, err);
    for (uint32_t i = 0; i < LT_MIN(count, (uint32_t)TRIES) && !status && !sample.n; i++)
        status = look_at(source, i, threads, plan, &sample, err);
    lt_trial_end(sample.trial);
    if (status) return status;
    if (!sample.n)
        return lt_fail(err,
                       sample.first_error.status == LT_AGAIN ? LT_E_NOT_FOUND : sample.first_error.status,
                       "%s: none of the clips that were looked at can be read; the first: %s",
                       source->config->manifest, sample.first_error.text);
    uint64_t frames = (uint64_t)((double)sample.frames / sample.n * count);
    size_t open = LT_MIN(count, (uint32_t)LT_DECODE_OPEN);
    plan->output->run_frames = frames;
    plan->peak_bytes = sample.peak_bytes +
                       (open - 1) * (sample.peak_bytes - LT_MIN(sample.peak_bytes, (size_t)BASE)) +
                       (size_t)count * 24;
    lt_plan_note(plan, "%u clips, about %" PRIu64 " frames (%d clips looked at, %.1f frames each%s)", count,
                 frames, sample.n, (double)sample.frames / sample.n, sample.n_failed ? "" : "; none failed");
    if (sample.n_failed)
        lt_plan_note(plan, "%d of the clips looked at cannot be had; the first: %s", sample.n_failed,
                     sample.first_error.text);
    return gpu->decoder
               ? lt_decode_gpu_plan(gpu, sample.frame_bytes, sample.surface_bytes, (uint32_t)open, plan, err)
               : LT_OK;
}

/* What comes once is not converted on a GPU: the last chunks of it are kept, in the host's memory. */
static lt_status check_pipe(const lt_setup *setup, lt_err *err)
{
    const lt_decode_config *config = setup->config;
    if (!config->convert || !lt_source_is_live(config, setup)) return LT_OK;
    return lt_fail(err, LT_E_INVALID,
                   "%s does not go with convert = \"device\": the GPU takes the frames of a file",
                   *config->input ? config->input : "a live input");
}

static lt_status decode_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan,
                             lt_err *err)
{
    lt_source source;
    lt_decode_gpu gpu = {0};
    lt_status status = lt_source_open(&source, setup->config, err);
    plan->work_factor = 1;
    if (!status && source.list)
        status = lt_clip_list_check_outputs(source.list, setup->outputs, setup->n_outputs, err);
    if (!status) status = check_pipe(setup, err);
    if (!status && !source.list && lt_source_is_live(setup->config, setup))
        status = plan_live(&source, setup, plan, err);
    else if (!status)
        status = source.list ? plan_list(&source, &gpu, setup->threads, plan, err)
                             : plan_one(&source, &gpu, setup->threads, plan, err);
    lt_source_close(&source);
    lt_decode_gpu_close(&gpu);
    return status;
}

/* ---- running -------------------------------------------------------------------------------------------- */

static void decode_destroy(void *opaque)
{
    decode_state *state = opaque;
    if (!state) return;
    lt_source_close(&state->source);
    lt_decode_gpu_close(&state->gpu);
    free(state);
}

static lt_status decode_create(void **out, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    decode_state *state = calloc(1, sizeof *state);
    if (!state) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    state->setup = setup;
    lt_status status = lt_source_open(&state->source, setup->config, err);
    if (!status) status = check_pipe(setup, err);
    if (!status) status = lt_decode_gpu_open(&state->gpu, &state->source, err);
    if (!status) status = lt_source_remember(&state->source, setup->run_folder, setup->cache, err);
    if (status) {
        decode_destroy(state);
        return status;
    }
    *numeric_class = "";
    *out = state;
    return LT_OK;
}

/* A clip that is open. Its video is opened when the first frame is wanted, where what it holds is known before. */
typedef struct open_clip {
    lt_wanted wanted; /* in the clip's arena */
    lt_chunks *chunks;
    lt_kept *kept; /* of a live input, instead */
    bool is_known;
} open_clip;

static lt_status open_chunks(decode_state *state, open_clip *open, lt_video **video, lt_err *err)
{
    lt_status status = lt_source_open_video(&state->source, &open->wanted, state->setup->threads, video, err);
    if (status) status = lt_decode_gpu_blame(&state->gpu, status, err);
    return status == LT_AGAIN ? LT_E_MISMATCH : status;
}

/* The file of a clip that was known before: is it still what it was? */
static lt_status open_known(decode_state *state, lt_clip *clip, lt_err *err)
{
    open_clip *open = clip->state;
    lt_video *video = NULL;
    lt_stream now;
    lt_arena arena = {0};
    lt_status status = open_chunks(state, open, &video, err);
    lt__wire__stream__init(&now);
    if (!status)
        status =
            lt_source_describe(&state->source, &open->wanted, lt_video_get_info(video), &now, &arena, err);
    if (!status && strcmp(now.digest, clip->output->digest))
        status = lt_fail(err, LT_E_MISMATCH, "%s: has changed, though its size and time are the same",
                         open->wanted.input);
    lt_arena_finish(&arena);
    if (!status) status = lt_chunks_create(&open->chunks, &video, state->source.config, err);
    lt_video_close(video);
    return status;
}

/* Everything of a clip, from its file. */
static lt_status open_new(decode_state *state, lt_clip *clip, lt_err *err)
{
    lt_source *source = &state->source;
    open_clip *open = clip->state;
    const char *run_folder = state->setup->run_folder, *input = open->wanted.input, *side = NULL;
    lt_video *video = NULL;
    lt_status status = lt_source_open_video(source, &open->wanted, state->setup->threads, &video, err);
    if (status) return lt_decode_gpu_blame(&state->gpu, status, err);
    const lt_video_info *info = lt_video_get_info(video);
    LT_TRY(lt_source_describe(source, &open->wanted, info, clip->output, clip->arena, err));
    if (run_folder && *run_folder && has_side(source->config, input))
        LT_TRY(lt_side_copy(input, info, run_folder, clip->index + clip->passed, clip->arena, &side, err));
    if (side) clip->output->side_path = (char *)side;
    LT_TRY(lt_chunks_create(&open->chunks, &video, source->config, err));
fail:
    lt_video_close(video);
    return status;
}

static lt_status open_live(decode_state *state, lt_clip *clip, lt_err *err)
{
    open_clip *open = clip->state;
    lt_source *source = &state->source;
    lt_status status = lt_kept_open(&open->kept, source, &open->wanted, state->setup, false, err);
    if (status) return status;
    const lt_video_info *info = lt_video_get_info(lt_kept_video(open->kept));
    status = lt_source_describe(source, &open->wanted, info, clip->output, clip->arena, err);
    if (status) return status;
    clip->output->side_path = lt_arena_strdup(clip->arena, lt_kept_side(open->kept));
    return clip->output->side_path ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

static lt_status decode_open_clip(void *opaque, lt_clip *clip, lt_err *err)
{
    decode_state *state = opaque;
    lt_source *source = &state->source;
    open_clip *open = lt_arena_alloc(clip->arena, sizeof *open);
    if (!open) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_status status = lt_source_next(source, clip->index, &clip->passed, clip->arena, &open->wanted, err);
    if (!status) status = lt_source_announce(source, &open->wanted, clip->output, clip->arena, err);
    if (status) return status;
    clip->state = open;
    status = lt_stage_opens(clip, err);
    if (status) return status;
    if (!source->list && lt_source_is_live(source->config, state->setup)) {
        status = open_live(state, clip, err);
        clip->n_units = clip->output->n_units;
        return status;
    }
    open->is_known = lt_source_recall(source, &open->wanted, clip->output, clip->arena);
    if (!open->is_known) {
        status = lt_source_announce(source, &open->wanted, clip->output, clip->arena, err);
        if (!status) status = open_new(state, clip, err);
    }
    clip->n_units = clip->output->n_units;
    return status;
}

static lt_status decode_process(void *opaque, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                                lt_payload *output, lt_err *err)
{
    decode_state *state = opaque;
    open_clip *open = clip->state;
    lt_span *span;
    if (open->kept) return lt_kept_process(open->kept, clip, unit, output, err);
    lt_status status = open->chunks ? LT_OK : open_known(state, clip, err);
    if (status) return status;
    const lt_video_info *info = lt_chunks_info(open->chunks);
    uint64_t chunk = (uint64_t)state->source.config->chunk, first = unit * chunk;
    if (first >= (uint64_t)info->n_frames)
        return lt_fail(err, LT_E_INTERNAL, "unit %" PRIu64 " lies behind the end", unit);
    uint64_t count = LT_MIN(chunk, (uint64_t)info->n_frames - first);
    if (state->gpu.decoder) {
        status = lt_decode_gpu_make(&state->gpu, state->setup, lt_chunks_video(open->chunks), first, count,
                                    output, err);
        return status ? lt_decode_gpu_blame(&state->gpu, status, err) : LT_OK;
    }
    size_t bytes = lt_video_frame_bytes(info) * count;
    status = lt_payload_add(output, first, count, clip->output->dtype, bytes, &span, err);
    return status ? status : lt_chunks_read(open->chunks, unit, span->data, bytes, err);
}

static lt_status decode_finish_clip(void *opaque, lt_clip *clip, bool complete, const char **result,
                                    lt_err *err)
{
    decode_state *state = opaque;
    open_clip *open = clip->state;
    if (open) lt_chunks_destroy(open->chunks);
    if (open) lt_kept_close(open->kept);
    if (open && complete && !open->is_known && !open->kept) lt_source_note(&state->source, clip->output);
    clip->state = NULL;
    /* Of many clips what was put aside has gone where it belongs. */
    bool is_over = complete || clip->given_up;
    if (is_over && state->source.list && *clip->output->side_path) unlink(clip->output->side_path);
    *result = NULL;
    return LT_OK;
}

static lt_status decode_check(const void *config, lt_err *err)
{
    return lt_source_check(config, err);
}

static const lt_port outputs[] = {
    {"frames", 1u << LT__WIRE__PORT_KIND__PORT_FRAMES, "pictures in RGB, upright, in display order"}};

const lt_stage lt_decode_stage = {
    .kind = "decode",
    .help = "Reads a video, or those of a manifest, with FFmpeg and gives their frames in RGB. Audio, "
            "subtitles and "
            "chapters are put aside for mux.",
    .outputs = outputs,
    .n_outputs = 1,
    .options = options,
    .n_options = (int)LT_COUNT(options),
    .config_bytes = sizeof(lt_decode_config),
    .check = decode_check,
    .plan = decode_plan,
    .create = decode_create,
    .destroy = decode_destroy,
    .open_clip = decode_open_clip,
    .process = decode_process,
    .finish_clip = decode_finish_clip,
};
