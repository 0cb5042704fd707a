/* tiling_blend.c - the consumer's side of a windowed decode: sums where windows overlap. */
#include "models/tiling_axis.h"

#include <stdlib.h>
#include <string.h>

/* A frame that windows have been added to. */
typedef struct held_frame {
    int64_t frame;
    int64_t wanted, last; /* windows that are still to be added to it */
    float *sums;          /* [H,W,3] */
    float *weights;       /* [H,W], or one value while all windows were constant over space */
} held_frame;

struct lt_blend {
    lt_decode_plan plan;
    int64_t n_frames, first_frame;
    int64_t taken; /* frames below this one are gone */
    size_t pixels;
    bool constant;    /* weights have one value a frame */
    float *scratch;   /* weights of one window */
    held_frame *held; /* a ring, in the order of frames */
    int n_held, first_held, capacity;
};

static held_frame *held_at(lt_blend *b, int i)
{
    return &b->held[(b->first_held + i) % b->capacity];
}

lt_status lt_blend_create(lt_blend **blend, const lt_decode_plan *plan, int64_t n_frames, int64_t first_frame,
                          lt_err *err)
{
    *blend = NULL;
    lt_status status = lt_decode_plan_check(plan, err);
    if (status != LT_OK) return status;
    if (n_frames < 0 || first_frame < 0)
        return lt_fail(err, LT_E_INVALID, "a clip of %lld frames from %lld on", (long long)n_frames,
                       (long long)first_frame);
    lt_blend *b = calloc(1, sizeof(*b));
    if (!b) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for blending windows");
    b->plan = *plan;
    b->n_frames = n_frames;
    b->first_frame = first_frame;
    b->capacity = (int)LT_MIN((int64_t)plan->window, LT_MAX(n_frames, 1));
    b->pixels = (size_t)plan->factor * plan->factor * plan->height * plan->width;
    b->constant = axis_count(plan->height, plan->tile_height, plan->stride_height) == 1 &&
                  axis_count(plan->width, plan->tile_width, plan->stride_width) == 1;
    b->scratch = malloc((b->constant ? 1 : b->pixels) * sizeof(float));
    b->held = calloc((size_t)b->capacity, sizeof(*b->held));
    if (!b->scratch || !b->held) {
        lt_blend_destroy(b);
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for blending windows");
    }
    *blend = b;
    return LT_OK;
}

void lt_blend_destroy(lt_blend *b)
{
    if (!b) return;
    for (int i = 0; b->held && i < b->capacity; i++) {
        free(b->held[i].sums);
        free(b->held[i].weights);
    }
    free(b->held);
    free(b->scratch);
    free(b);
}

void lt_blend_end(lt_blend *b, int64_t n_frames)
{
    int64_t first;
    b->n_frames = n_frames;
    for (int i = 0; i < b->n_held; i++) {
        held_frame *h = held_at(b, i);
        lt_decode_windows_of_frame(&b->plan, n_frames, h->frame, &first, &h->last);
    }
}

/* The buffers of a frame that is gone, for one that comes: as many are made as frames are held at once. */
static void inherit(lt_blend *b, int i)
{
    held_frame *h = held_at(b, i), none = {0};
    for (int j = b->capacity - 1; j > i && !h->sums; j--) {
        held_frame *gone = held_at(b, j);
        if (!gone->sums) continue;
        *h = *gone;
        *gone = none;
    }
}

/* Memory for frames up to held index n - 1; what is there is kept. */
static bool reserve(lt_blend *b, int n)
{
    for (int i = b->n_held; i < n; i++) {
        held_frame *h = held_at(b, i);
        inherit(b, i);
        if (!h->sums) h->sums = malloc(3 * b->pixels * sizeof(float));
        if (!h->weights) h->weights = malloc((b->constant ? 1 : b->pixels) * sizeof(float));
        if (!h->sums || !h->weights) return false;
    }
    return true;
}

/* Index among the held of `frame`, which is held or next to be; -1 when it is neither. */
static int64_t place(const lt_blend *b, int64_t frame)
{
    if (!b->n_held) return 0;
    int64_t i = frame - b->held[b->first_held].frame;
    return i >= 0 && i <= b->n_held ? i : -1;
}

/* Is window k the next that each of the frames first .. first+count-1 wants? */
static bool wanted_by_all(lt_blend *b, int64_t k, int64_t first, int64_t count)
{
    int64_t at = count ? place(b, first) : 0;
    if (at < 0) return false;
    for (int64_t i = 0; i < count; i++) {
        int64_t wanted, last;
        if (at + i < b->n_held)
            wanted = held_at(b, (int)(at + i))->wanted;
        else
            lt_decode_windows_of_frame(&b->plan, b->n_frames, first + i, &wanted, &last);
        if (wanted != k) return false;
    }
    return true;
}

static void add_frame(lt_blend *b, int64_t k, int64_t frame, const float *sums)
{
    int i = (int)place(b, frame);
    held_frame *h = held_at(b, i);
    lt_decode_weights(&b->plan, b->n_frames, k, frame, b->scratch);
    size_t n_weights = b->constant ? 1 : b->pixels;
    if (i == b->n_held) {
        h->frame = frame;
        lt_decode_windows_of_frame(&b->plan, b->n_frames, frame, &h->wanted, &h->last);
        memcpy(h->sums, sums, 3 * b->pixels * sizeof(float));
        memcpy(h->weights, b->scratch, n_weights * sizeof(float));
        b->n_held++;
    } else {
        for (size_t j = 0; j < 3 * b->pixels; j++) h->sums[j] += sums[j];
        for (size_t j = 0; j < n_weights; j++) h->weights[j] += b->scratch[j];
    }
    h->wanted = k + 1;
}

lt_status lt_blend_add(lt_blend *b, int64_t k, int64_t first, int64_t count, const float *sums, lt_err *err)
{
    int64_t start, end;
    if (k < 0 || k >= lt_decode_windows_count(&b->plan, b->n_frames))
        return lt_fail(err, LT_E_INVALID, "window %lld of a clip that has %lld", (long long)k,
                       (long long)lt_decode_windows_count(&b->plan, b->n_frames));
    lt_decode_window_range(&b->plan, b->n_frames, k, &start, &end);
    if (first < start || count < 0 || count > end - first)
        return lt_fail(err, LT_E_INVALID, "frames %lld to %lld are not all of window %lld, %lld to %lld",
                       (long long)first, (long long)(first + count - 1), (long long)k, (long long)start,
                       (long long)(end - 1));
    int64_t skip = LT_MIN(LT_MAX(b->first_frame - first, 0), count);
    if (first + skip < b->taken || !wanted_by_all(b, k, first + skip, count - skip))
        return lt_fail(err, LT_E_INVALID,
                       "window %lld from frame %lld on does not follow what was added before", (long long)k,
                       (long long)first);
    int64_t held = count > skip ? LT_MAX(b->n_held, place(b, first + skip) + count - skip) : b->n_held;
    if (held > b->capacity || !reserve(b, (int)held))
        return lt_fail(err, held > b->capacity ? LT_E_INVALID : LT_E_NO_MEMORY,
                       "%lld frames to be held for blending, where %d are the most", (long long)held,
                       b->capacity);
    for (int64_t i = skip; i < count; i++) add_frame(b, k, first + i, sums + 3 * (size_t)i * b->pixels);
    return LT_OK;
}

lt_status lt_blend_take(lt_blend *b, int64_t *frame, float *values)
{
    if (!b->n_held) return LT_AGAIN;
    held_frame *h = held_at(b, 0);
    if (h->wanted <= h->last) return LT_AGAIN;
    for (size_t j = 0; j < b->pixels; j++)
        for (int c = 0; c < 3; c++) values[3 * j + c] = h->sums[3 * j + c] / h->weights[b->constant ? 0 : j];
    *frame = h->frame;
    b->taken = h->frame + 1;
    b->first_held = (b->first_held + 1) % b->capacity;
    b->n_held--;
    return LT_OK;
}
