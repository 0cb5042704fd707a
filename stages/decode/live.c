/* live.c - an input whose length is not known: chunks made as they come, once, and kept for a while. */
#include "stages/decode/decode.h"
#include "stages/decode/side.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* One chunk that is kept: unit u lies at place u % n_places. */
typedef struct place {
    int64_t frames;
    int64_t *pts;
    uint8_t *data;
} place;

struct lt_kept {
    lt_video *video;
    lt_side_live *side; /* NULL: what comes beside the pictures is not wanted */
    place *places;
    int64_t n_places, chunk;
    uint64_t next; /* unit that comes next */
    bool has_ended;
    uint64_t end_frames;
    int64_t end_duration;
};

bool lt_source_is_live(const lt_decode_config *config, const lt_setup *setup)
{
    return setup->pipe_fd > 0 || config->live;
}

const lt_video *lt_kept_video(const lt_kept *kept)
{
    return kept->video;
}

int64_t lt_kept_chunks(const lt_decode_config *config, size_t unit_bytes)
{
    enum { MOST = 512 << 20 };
    int64_t wanted = (config->keep + config->chunk - 1) / config->chunk;
    return LT_MAX(LT_MIN(wanted, (int64_t)(MOST / unit_bytes)), 1);
}

void lt_kept_close(lt_kept *kept)
{
    if (!kept) return;
    for (int64_t i = 0; kept->places && i < kept->n_places; i++) {
        free(kept->places[i].pts);
        free(kept->places[i].data);
    }
    free(kept->places);
    lt_side_live_destroy(kept->side);
    lt_video_close(kept->video);
    free(kept);
}

static int asked_to_end(void *unused)
{
    return lt_stage_stopping();
}

static lt_status make_places(lt_kept *kept, const lt_decode_config *config, lt_err *err)
{
    size_t unit_bytes = lt_video_frame_bytes(lt_video_get_info(kept->video)) * (size_t)config->chunk;
    int64_t n = lt_kept_chunks(config, unit_bytes);
    kept->places = calloc((size_t)n, sizeof *kept->places);
    kept->n_places = kept->places ? n : 0;
    for (int64_t i = 0; i < kept->n_places; i++) {
        place *p = &kept->places[i];
        p->pts = malloc((size_t)config->chunk * sizeof *p->pts);
        p->data = malloc(unit_bytes);
        if (!p->pts || !p->data) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for chunks to be kept");
    }
    return kept->places ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory for chunks to be kept");
}

lt_status lt_kept_open(lt_kept **out, const lt_source *source, const lt_wanted *wanted, const lt_setup *setup,
                       bool plans, lt_err *err)
{
    const lt_decode_config *config = source->config;
    lt_video_request request = lt_source_request(source, wanted, setup->threads);
    lt_video_live how = {.fd = setup->pipe_fd,
                         .head_fd = setup->head_fd,
                         .keeps = plans,
                         .interrupted = plans ? NULL : asked_to_end};
    *out = NULL;
    if (config->short_clips != LT_SHORT_KEEP)
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "%s: short must know the length of the input, which a live one does not tell",
                       wanted->input);
    lt_kept *kept = calloc(1, sizeof *kept);
    if (!kept) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    kept->chunk = config->chunk;
    if (!plans && !config->audio && setup->run_folder && *setup->run_folder) {
        kept->side =
            lt_side_live_create(wanted->input, setup->run_folder, request.start > 0, request.frames > 0);
        how.other = kept->side ? lt_side_live_take : NULL;
        how.user = kept->side;
    }
    lt_status status = lt_video_open_live(&kept->video, &request, &how, err);
    if (!status && !plans) status = make_places(kept, config, err);
    if (status)
        lt_kept_close(kept);
    else
        *out = kept;
    return status;
}

const char *lt_kept_side(const lt_kept *kept)
{
    const char *path = kept->side ? lt_side_live_path(kept->side) : NULL;
    return path ? path : "";
}

/* Nothing more is read: what came beside the pictures is a whole file before anyone hears of the end. */
static void end(lt_kept *kept, uint64_t frames)
{
    kept->has_ended = true;
    kept->end_frames = frames;
    kept->end_duration = lt_video_last_duration(kept->video);
    if (kept->side) lt_side_live_finish(kept->side);
}

/* An input that breaks has ended; what came of it stands. */
static lt_status read_frame(lt_kept *kept, uint8_t *data, int64_t *pts, int64_t frames, lt_err *err)
{
    lt_status status = lt_video_next(kept->video, data, pts, err);
    bool breaks = status == LT_E_IO || status == LT_E_FORMAT || status == LT_E_NOT_FOUND;
    if (breaks) lt_log(LT_LOG_WARN, "the input broke off: %s", err->text);
    if (!breaks && status != LT_END) return status;
    end(kept, kept->next * (uint64_t)kept->chunk + (uint64_t)frames);
    return LT_END;
}

/* Read the next chunk, over the oldest. */
static lt_status read_chunk(lt_kept *kept, lt_err *err)
{
    place *p = &kept->places[kept->next % (uint64_t)kept->n_places];
    size_t frame_bytes = lt_video_frame_bytes(lt_video_get_info(kept->video));
    uint64_t most = LT_STREAM_FRAMES_MAX - kept->next * (uint64_t)kept->chunk;
    lt_status status = LT_OK;
    p->frames = 0;
    if (!most) end(kept, LT_STREAM_FRAMES_MAX); /* more frames than a clip may have: it ends here */
    while (!status && p->frames < kept->chunk && (uint64_t)p->frames < most) {
        status =
            read_frame(kept, p->data + (size_t)p->frames * frame_bytes, &p->pts[p->frames], p->frames, err);
        p->frames += !status;
    }
    if (status && status != LT_END) return status;
    if (p->frames) kept->next++;
    return LT_OK;
}

static lt_status give(const lt_kept *kept, const lt_clip *clip, uint64_t unit, lt_payload *output,
                      lt_err *err)
{
    const place *p = &kept->places[unit % (uint64_t)kept->n_places];
    size_t bytes = lt_video_frame_bytes(lt_video_get_info(kept->video)) * (size_t)p->frames;
    uint64_t first = unit * (uint64_t)kept->chunk;
    lt_span *span;
    int64_t *pts;
    lt_status status =
        lt_payload_add(output, first, (uint64_t)p->frames, clip->output->dtype, bytes, &span, err);
    if (!status) status = lt_payload_times(output, first, (uint64_t)p->frames, &pts, err);
    if (status) return status;
    memcpy(span->data, p->data, bytes);
    memcpy(pts, p->pts, (size_t)p->frames * sizeof *pts);
    return LT_OK;
}

lt_status lt_kept_process(lt_kept *kept, lt_clip *clip, uint64_t unit, lt_payload *output, lt_err *err)
{
    lt_status status = LT_OK;
    while (!status && !kept->has_ended && kept->next <= unit) status = read_chunk(kept, err);
    if (status) return status;
    clip->has_ended = kept->has_ended;
    clip->end_frames = kept->end_frames;
    clip->end_duration = kept->end_duration;
    if (unit >= kept->next) return LT_END;
    if (kept->next - unit <= (uint64_t)kept->n_places) return give(kept, clip, unit, output, err);
    return lt_fail(
        err, LT_E_NOT_FOUND,
        "frames from %" PRIu64 " on are needed again, by a stage that died and was started again, but "
        "a live input comes once and only the last %" PRId64 " frames are kept: a larger keep holds more",
        unit * (uint64_t)kept->chunk, kept->n_places * kept->chunk);
}
