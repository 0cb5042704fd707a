/* frames.c - chunks and windows to finished pictures. */
#include "stages/mux/frames.h"
#include "models/tiling.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

struct lt_frames {
    const lt_stream *stream;
    int64_t n_frames, next;
    size_t n_values; /* of a frame: height x width x 3 */
    bool windows;
    lt_decode_plan plan;
    lt_blend *blend;
    float *values; /* one blended frame */
    void *pixels;
};

static bool is_windows(const lt_stream *stream)
{
    return stream->kind == LT__WIRE__PORT_KIND__PORT_WINDOWS;
}

static size_t sample_bytes(const lt_stream *stream)
{
    return stream->bits > 8 ? 2 : 1;
}

static lt_decode_plan plan_of(const lt_stream *stream)
{
    const Lt__Wire__Windows *w = stream->windows;
    int factor = (int)LT_MAX(stream->factor, 1);
    return (lt_decode_plan){.temporal = w->stride < w->window,
                            .factor = factor,
                            .height = (int)stream->height / factor,
                            .width = (int)stream->width / factor,
                            .window = (int)w->window,
                            .stride = (int)w->stride,
                            .tile_height = (int)w->tile_height,
                            .tile_width = (int)w->tile_width,
                            .stride_height = (int)w->stride_height,
                            .stride_width = (int)w->stride_width};
}

size_t lt_frames_peak_bytes(const lt_stream *stream)
{
    if (!is_windows(stream) || !stream->windows) return 0;
    lt_decode_plan plan = plan_of(stream);
    int64_t lead, trail, held = 0, n_frames = (int64_t)stream->n_frames;
    for (int64_t k = 0; k < lt_decode_windows_count(&plan, n_frames); k++) {
        lt_decode_window_shared(&plan, n_frames, k, &lead, &trail);
        held = LT_MAX(held, trail);
    }
    if (stream->run_clips) held = LT_MAX(held, (int64_t)plan.window - plan.stride); /* of a longer one */
    size_t pixels = (size_t)stream->width * stream->height;
    bool tiles = plan.tile_height < plan.height || plan.tile_width < plan.width; /* weights over space */
    if (!held) return 0;
    return pixels * ((size_t)held * (tiles ? 4 : 3) + 3 + tiles) * sizeof(float) +
           3 * pixels * sample_bytes(stream);
}

static lt_status start_blend(lt_frames *frames, int64_t first_frame, lt_err *err)
{
    if (!frames->stream->windows)
        return lt_fail(err, LT_E_INVALID, "the input consists of windows but does not say how they lie");
    frames->plan = plan_of(frames->stream);
    lt_status status = lt_decode_plan_check(&frames->plan, err);
    if (!status) status = lt_blend_create(&frames->blend, &frames->plan, frames->n_frames, first_frame, err);
    if (status) return status;
    frames->values = malloc(frames->n_values * sizeof *frames->values);
    frames->pixels = malloc(frames->n_values * sample_bytes(frames->stream));
    if (!frames->values || !frames->pixels) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for blending");
    return LT_OK;
}

lt_status lt_frames_create(lt_frames **out, const lt_stream *stream, int64_t first_frame, lt_err *err)
{
    lt_status status = LT_OK;
    lt_frames *frames = *out = calloc(1, sizeof *frames);
    if (!frames) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    *frames = (lt_frames){.stream = stream,
                          .n_frames = (int64_t)stream->n_frames,
                          .next = first_frame,
                          .n_values = (size_t)stream->width * stream->height * 3,
                          .windows = is_windows(stream)};
    if (frames->windows)
        status = start_blend(frames, first_frame, err);
    else if (!stream->chunk)
        status = lt_fail(err, LT_E_INVALID, "the input's chunks have no frames");
    if (status) {
        lt_frames_destroy(frames);
        *out = NULL;
    }
    return status;
}

void lt_frames_destroy(lt_frames *frames)
{
    if (!frames) return;
    if (frames->blend) lt_blend_destroy(frames->blend);
    free(frames->values);
    free(frames->pixels);
    free(frames);
}

void lt_frames_end(lt_frames *frames, int64_t n_frames)
{
    frames->n_frames = n_frames;
    if (frames->blend) lt_blend_end(frames->blend, n_frames);
}

uint64_t lt_frames_unit_of(const lt_frames *frames, int64_t frame)
{
    if (frame >= frames->n_frames) return frames->stream->n_units;
    if (!frames->windows) return (uint64_t)frame / frames->stream->chunk;
    int64_t first, last;
    lt_decode_windows_of_frame(&frames->plan, frames->n_frames, frame, &first, &last);
    return (uint64_t)first;
}

/* Give on one frame, but for those that were durable before the start. */
static lt_status give(lt_frames *frames, int64_t frame, const void *rgb, lt_frame_sink *sink, void *context,
                      lt_err *err)
{
    if (frame < frames->next) return LT_OK;
    if (frame > frames->next)
        return lt_fail(err, LT_E_FORMAT, "frame %" PRId64 " came where %" PRId64 " was due", frame,
                       frames->next);
    lt_status status = sink(context, frame, rgb, err);
    if (!status) frames->next++;
    return status;
}

/* Values in [-1, 1] to pixels: clamp((x + 1) * max / 2), rounded half to even or truncated; NaN is 0. The
 * very numbers of lt_values_to_pixels (kernels/ops.h), which made the frames that needed no blending. */
static void quantise(const lt_frames *frames)
{
    bool truncate = frames->stream->windows->truncate, wide = sample_bytes(frames->stream) == 2;
    double max = (double)((1u << frames->stream->bits) - 1);
    uint8_t *narrow = frames->pixels;
    uint16_t *deep = frames->pixels;
    for (size_t i = 0; i < frames->n_values; i++) {
        double value = ((double)frames->values[i] + 1.0) * (max * 0.5);
        value = value > 0 ? value < max ? value : max : 0;
        if (!truncate) value = nearbyint(value);
        if (wide)
            deep[i] = (uint16_t)value;
        else
            narrow[i] = (uint8_t)value;
    }
}

static lt_status add_sums(lt_frames *frames, uint64_t unit, const lt_span *span, lt_frame_sink *sink,
                          void *context, lt_err *err)
{
    lt_status status = lt_blend_add(frames->blend, (int64_t)unit, (int64_t)span->first, (int64_t)span->count,
                                    span->data, err);
    int64_t frame;
    while (!status && lt_blend_take(frames->blend, &frame, frames->values) == LT_OK) {
        quantise(frames);
        status = give(frames, frame, frames->pixels, sink, context, err);
    }
    return status;
}

static lt_status add_span(lt_frames *frames, uint64_t unit, const lt_span *span, lt_frame_sink *sink,
                          void *context, lt_err *err)
{
    bool sums = frames->windows && span->dtype == LT__WIRE__DTYPE__DTYPE_F32;
    size_t sample = sums ? sizeof(float) : sample_bytes(frames->stream);
    Lt__Wire__Dtype pixels =
        sample_bytes(frames->stream) == 2 ? LT__WIRE__DTYPE__DTYPE_U16 : LT__WIRE__DTYPE__DTYPE_U8;
    if ((!sums && span->dtype != pixels) || span->bytes != frames->n_values * sample * span->count ||
        span->first + span->count > (uint64_t)frames->n_frames)
        return lt_fail(err, LT_E_FORMAT,
                       "unit %" PRIu64 ": its frames are not of the size and type announced", unit);
    if (sums) return add_sums(frames, unit, span, sink, context, err);
    lt_status status = LT_OK;
    const uint8_t *data = span->data;
    for (uint64_t i = 0; !status && i < span->count; i++, data += frames->n_values * sample)
        status = give(frames, (int64_t)(span->first + i), data, sink, context, err);
    return status;
}

lt_status lt_frames_add(lt_frames *frames, const lt_payload *unit, lt_frame_sink *sink, void *context,
                        lt_err *err)
{
    lt_status status = LT_OK;
    for (int i = 0; !status && i < unit->n_spans; i++)
        status = add_span(frames, unit->unit, &unit->spans[i], sink, context, err);
    return status;
}
