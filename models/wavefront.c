/* wavefront.c - windowed co-denoising along a diagonal.
 *
 * The whole state is next[s], the first window that has not been evaluated at step s, the latents of live frames, and for
 * frames under a window that has been evaluated and one that has not, the sum so far. A frame stands at one step at a time, so
 * there is one latent and one sum a frame, in rings. */
#include "models/wavefront.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct lt_wavefront {
    lt_wavefront_params p;
    lt_wavefront_calls calls;
    double *a, *b;
    int64_t n_windows, room; /* frames in a ring */
    int64_t *next;           /* [steps] */
    int cursor;              /* the step that is looked at next: a diagonal goes from 0 to steps - 1 */
    int64_t released, entered;
    float *x, *sum;                  /* [room,frame_elements], frame f at f % room */
    float *window_x, *window_result; /* [window,frame_elements] */
};

/* ---- windows ------------------------------------------------------------------------------------------- */

static int64_t width_of(const lt_wavefront_params *p)
{
    return p->window > 0 && p->window < p->n_frames ? p->window : p->n_frames;
}

lt_status lt_wavefront_check(const lt_wavefront_params *p, lt_err *err)
{
    if (p->n_frames < 1 || p->frame_elements < 1)
        return lt_fail(err, LT_E_INVALID, "a video of %" PRId64 " latent frames of %zu numbers", p->n_frames,
                       p->frame_elements);
    if (p->window < 0 || (p->window && (p->stride < 1 || p->stride > p->window)))
        return lt_fail(err, LT_E_INVALID,
                       "windows of %" PRId64 " frames every %" PRId64
                       ": the stride must lie between 1 and the window",
                       p->window, p->stride);
    if (p->steps < 1 || p->steps > LT_WAVEFRONT_MAX_STEPS)
        return lt_fail(err, LT_E_INVALID, "%d steps; there may be 1 to %d", p->steps, LT_WAVEFRONT_MAX_STEPS);
    return LT_OK;
}

int64_t lt_wavefront_n_windows(const lt_wavefront_params *p)
{
    int64_t width = width_of(p);
    return width == p->n_frames ? 1 : (p->n_frames - width + p->stride - 1) / p->stride + 1;
}

void lt_wavefront_window(const lt_wavefront_params *p, int64_t k, int64_t *first, int64_t *end)
{
    int64_t width = width_of(p);
    *first = width == p->n_frames ? 0 : LT_MIN(k * p->stride, p->n_frames - width);
    *end = *first + width;
}

static int64_t first_of(const lt_wavefront_params *p, int64_t k)
{
    int64_t first, end;
    lt_wavefront_window(p, k, &first, &end);
    return first;
}

/* The last window that covers frame f; the first one below. */
static int64_t last_over(const lt_wavefront_params *p, int64_t f)
{
    int64_t n = lt_wavefront_n_windows(p);
    if (n == 1 || f >= first_of(p, n - 1)) return n - 1;
    return f / p->stride;
}

static int64_t first_over(const lt_wavefront_params *p, int64_t f)
{
    int64_t n = lt_wavefront_n_windows(p), width = width_of(p);
    if (n == 1 || f < width) return 0;
    return LT_MIN((f - width) / p->stride + 1, n - 1);
}

/* The last window that overlaps window k. */
static int64_t reach(const lt_wavefront_params *p, int64_t k)
{
    return last_over(p, first_of(p, k) + width_of(p) - 1);
}

static double ramp(const lt_wavefront_params *p, int64_t k, int64_t f)
{
    int64_t width = width_of(p), i = f - first_of(p, k);
    if (i < 0 || i >= width) return 0;
    int64_t top = width == p->n_frames ? 1 : width - p->stride + 1;
    return (double)LT_MIN(LT_MIN(i + 1, width - i), top);
}

double lt_wavefront_weight(const lt_wavefront_params *p, int64_t k, int64_t f)
{
    double all = 0;
    for (int64_t j = first_over(p, f); j <= last_over(p, f); j++) all += ramp(p, j, f);
    return ramp(p, k, f) / all;
}

/* The last window that must have been evaluated at step 0 for window k to be evaluated at the last step. */
static int64_t root_of(const lt_wavefront_params *p, int64_t k)
{
    int64_t last = lt_wavefront_n_windows(p) - 1;
    for (int s = 1; s < p->steps && k < last; s++) k = reach(p, k);
    return k;
}

int64_t lt_wavefront_entered_for(const lt_wavefront_params *p, int64_t end)
{
    return first_of(p, root_of(p, last_over(p, end - 1))) + width_of(p);
}

int64_t lt_wavefront_first_evaluations(const lt_wavefront_params *p)
{
    /* Step s of window 0 needs every earlier step up to the window that is reached from it. */
    int64_t last = last_over(p, 0), n = 0;
    for (int s = p->steps; s-- > 0; last = reach(p, last)) n += last + 1;
    return n;
}

int64_t lt_wavefront_n_evaluations(const lt_wavefront_params *p)
{
    return p->steps * lt_wavefront_n_windows(p);
}

int64_t lt_wavefront_live(const lt_wavefront_params *p)
{
    int64_t width = width_of(p);
    if (width == p->n_frames) return width;
    int64_t overlapping = (width - 1) / p->stride;
    /* A stride comes in before the one at the front is finished. */
    int64_t live = (p->steps - 1) * overlapping * p->stride + width + p->stride;
    return LT_MIN(live + LT_MAX(p->unreleased, 0), p->n_frames);
}

size_t lt_wavefront_bytes(const lt_wavefront_params *p)
{
    size_t frames = 2 * (size_t)lt_wavefront_live(p) + 2 * (size_t)width_of(p);
    return frames * p->frame_elements * sizeof(float);
}

/* ---- life ---------------------------------------------------------------------------------------------- */

void lt_wavefront_destroy(lt_wavefront *w)
{
    if (!w) return;
    free(w->a);
    free(w->b);
    free(w->next);
    free(w->x);
    free(w->sum);
    free(w->window_x);
    free(w->window_result);
    free(w);
}

/* Frames of frame_elements floats; NULL when they cannot be had. */
static float *new_frames(const lt_wavefront_params *p, int64_t n)
{
    size_t elements;
    if (!lt_mul_size((size_t)n, p->frame_elements, &elements)) return NULL;
    return calloc(elements, sizeof(float));
}

lt_status lt_wavefront_create(lt_wavefront **wavefront, const lt_wavefront_params *p, const double *a,
                              const double *b, const lt_wavefront_calls *calls, lt_err *err)
{
    *wavefront = NULL;
    lt_status status = lt_wavefront_check(p, err);
    if (status) return status;
    lt_wavefront *w = calloc(1, sizeof *w);
    if (!w) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    size_t steps = (size_t)p->steps;
    w->p = *p;
    w->calls = *calls;
    w->n_windows = lt_wavefront_n_windows(p);
    w->room = lt_wavefront_live(p);
    w->a = malloc(steps * sizeof *a);
    w->b = malloc(steps * sizeof *b);
    w->next = calloc(steps, sizeof *w->next);
    w->x = new_frames(p, w->room);
    w->sum = new_frames(p, w->room);
    w->window_x = new_frames(p, width_of(p));
    w->window_result = new_frames(p, width_of(p));
    if (!w->a || !w->b || !w->next || !w->x || !w->sum || !w->window_x || !w->window_result) {
        lt_wavefront_destroy(w);
        return lt_fail(err, LT_E_NO_MEMORY, "no memory for %" PRId64 " live latents of %zu numbers",
                       lt_wavefront_live(p), p->frame_elements);
    }
    memcpy(w->a, a, steps * sizeof *a);
    memcpy(w->b, b, steps * sizeof *b);
    *wavefront = w;
    return LT_OK;
}

/* ---- frames -------------------------------------------------------------------------------------------- */

static float *frame(const lt_wavefront *w, float *ring, int64_t f)
{
    return ring + (size_t)(f % w->room) * w->p.frame_elements;
}

int64_t lt_wavefront_finished(const lt_wavefront *w)
{
    int64_t k = w->next[w->p.steps - 1];
    return k == w->n_windows ? w->p.n_frames : first_of(&w->p, k);
}

int64_t lt_wavefront_entered(const lt_wavefront *w)
{
    return w->entered;
}

int64_t lt_wavefront_released(const lt_wavefront *w)
{
    return w->released;
}

void lt_wavefront_reset(lt_wavefront *w)
{
    memset(w->next, 0, (size_t)w->p.steps * sizeof *w->next);
    w->cursor = 0;
    w->released = w->entered = 0;
}

int64_t lt_wavefront_held(const lt_wavefront *w)
{
    return w->entered - w->released;
}

lt_status lt_wavefront_read(const lt_wavefront *w, int64_t first, int64_t n, float *x, lt_err *err)
{
    if (n < 0 || first < w->released || first + n > lt_wavefront_finished(w))
        return lt_fail(err, LT_E_INVALID,
                       "latents %" PRId64 " to %" PRId64 " are not finished, or were released", first,
                       first + n - 1);
    for (int64_t i = 0; i < n; i++)
        memcpy(x + (size_t)i * w->p.frame_elements, frame(w, w->x, first + i),
               w->p.frame_elements * sizeof *x);
    return LT_OK;
}

void lt_wavefront_release(lt_wavefront *w, int64_t end)
{
    w->released = LT_MAX(w->released, LT_MIN(end, lt_wavefront_finished(w)));
}

/* ---- an evaluation ------------------------------------------------------------------------------------- */

/* Latents of step 0 up to frame `end`. */
static lt_status enter(lt_wavefront *w, int64_t end, lt_err *err)
{
    while (w->entered < end) {
        int64_t first = w->entered, n = LT_MIN(end - first, width_of(&w->p));
        if (first + n - w->released > w->room)
            return lt_fail(err, LT_E_INTERNAL, "%" PRId64 " latents are live, %" PRId64 " were allowed for",
                           first + n - w->released, w->room);
        lt_status status = w->calls.enter(w->calls.user, first, n, w->window_x, err);
        if (status) return status;
        for (int64_t i = 0; i < n; i++) {
            size_t bytes = w->p.frame_elements * sizeof(float);
            memcpy(frame(w, w->x, first + i), w->window_x + (size_t)i * w->p.frame_elements, bytes);
            memset(frame(w, w->sum, first + i), 0, bytes);
        }
        w->entered += n;
    }
    return LT_OK;
}

/* Add a window's prediction to the sums; frames that no later window covers make their step. */
static void take(lt_wavefront *w, int64_t k, int s)
{
    int64_t first, end, last = w->p.n_frames;
    size_t n = w->p.frame_elements;
    lt_wavefront_window(&w->p, k, &first, &end);
    if (k + 1 < w->n_windows) last = first_of(&w->p, k + 1);
    for (int64_t f = first; f < end; f++) {
        const float *prediction = w->window_result + (size_t)(f - first) * n;
        float *x = frame(w, w->x, f), *sum = frame(w, w->sum, f);
        double part = lt_wavefront_weight(&w->p, k, f), a = w->a[s], b = w->b[s];
        for (size_t i = 0; i < n; i++) sum[i] = (float)(sum[i] + part * prediction[i]);
        if (f >= last) continue;
        for (size_t i = 0; i < n; i++) x[i] = (float)(a * x[i] + b * sum[i]);
        memset(sum, 0, n * sizeof *sum);
    }
}

static lt_status evaluate(lt_wavefront *w, int64_t k, int s, lt_err *err)
{
    int64_t first, end;
    lt_status status = LT_OK;
    lt_wavefront_window(&w->p, k, &first, &end);
    if (s == 0) status = enter(w, end, err);
    if (status) return status;
    for (int64_t f = first; f < end; f++)
        memcpy(w->window_x + (size_t)(f - first) * w->p.frame_elements, frame(w, w->x, f),
               w->p.frame_elements * sizeof(float));
    status = w->calls.predict(w->calls.user, k, s, first, end - first, w->window_x, w->window_result, err);
    if (status) return status;
    take(w, k, s);
    w->next[s]++;
    return LT_OK;
}

/* May the next window of step s be evaluated? */
static bool is_due(const lt_wavefront *w, int s, int64_t root)
{
    int64_t k = w->next[s];
    if (k >= w->n_windows) return false;
    return s ? w->next[s - 1] > reach(&w->p, k) : k <= root;
}

lt_status lt_wavefront_evaluate(lt_wavefront *w, int64_t end, bool *diagonal, lt_err *err)
{
    if (diagonal) *diagonal = false;
    if (lt_wavefront_finished(w) >= end) return LT_END;
    int64_t root = root_of(&w->p, last_over(&w->p, end - 1));
    int s = w->cursor;
    for (int tried = 0; !is_due(w, s, root); tried++) {
        if (tried > w->p.steps) return lt_fail(err, LT_E_INTERNAL, "no window of the wavefront can go on");
        s = (s + 1) % w->p.steps;
    }
    lt_status status = evaluate(w, w->next[s], s, err);
    if (status) return status;
    w->cursor = (s + 1) % w->p.steps;
    /* Where later steps have nothing to do yet, the diagonal ends here. */
    while (w->cursor && !is_due(w, w->cursor, root)) w->cursor = (w->cursor + 1) % w->p.steps;
    if (diagonal) *diagonal = w->cursor == 0;
    return LT_OK;
}

/* ---- the frontier as bytes ----------------------------------------------------------------------------- */

static const char magic[8] = "ltwave1";

/* The head of a frontier; int64 next[steps], latents and sums follow. In this machine's byte order. */
typedef struct head {
    char magic[8];
    int64_t n_frames, window, stride, steps, frame_elements, cursor, released, entered;
} head;

static head head_of(const lt_wavefront *w)
{
    head h = {.n_frames = w->p.n_frames,
              .window = width_of(&w->p),
              .stride = w->p.stride,
              .steps = w->p.steps,
              .frame_elements = (int64_t)w->p.frame_elements,
              .cursor = w->cursor,
              .released = w->released,
              .entered = w->entered};
    memcpy(h.magic, magic, sizeof magic);
    return h;
}

/* Bytes of a frontier with so many frames. */
static size_t saved_bytes(const lt_wavefront *w, int64_t held)
{
    return sizeof(head) + (size_t)w->p.steps * sizeof(int64_t) +
           2 * (size_t)held * w->p.frame_elements * sizeof(float);
}

lt_status lt_wavefront_save(const lt_wavefront *w, void **bytes, size_t *n_bytes, lt_err *err)
{
    head h = head_of(w);
    size_t frame_bytes = w->p.frame_elements * sizeof(float);
    *n_bytes = saved_bytes(w, lt_wavefront_held(w));
    unsigned char *at = *bytes = malloc(*n_bytes);
    if (!at) return lt_fail(err, LT_E_NO_MEMORY, "no memory for a frontier of %zu bytes", *n_bytes);
    memcpy(at, &h, sizeof h);
    at += sizeof h;
    memcpy(at, w->next, (size_t)w->p.steps * sizeof *w->next);
    at += (size_t)w->p.steps * sizeof *w->next;
    for (int64_t f = w->released; f < w->entered; f++, at += 2 * frame_bytes) {
        memcpy(at, frame(w, w->x, f), frame_bytes);
        memcpy(at + frame_bytes, frame(w, w->sum, f), frame_bytes);
    }
    return LT_OK;
}

/* Do counters make sense together? */
static bool is_possible(const lt_wavefront *w, const head *h, const int64_t *next)
{
    if (h->cursor < 0 || h->cursor >= h->steps || h->released < 0 || h->entered < h->released ||
        h->entered > h->n_frames || h->entered - h->released > w->room)
        return false;
    for (int64_t s = 0; s < h->steps; s++)
        if (next[s] < 0 || next[s] > (s ? next[s - 1] : w->n_windows)) return false;
    int64_t last = next[0] ? first_of(&w->p, next[0] - 1) + width_of(&w->p) : 0;
    int64_t done = next[h->steps - 1];
    return h->entered >= last && h->released <= (done == w->n_windows ? h->n_frames : first_of(&w->p, done));
}

lt_status lt_wavefront_load(lt_wavefront *w, const void *bytes, size_t n_bytes, lt_err *err)
{
    const unsigned char *at = bytes;
    head h, mine = head_of(w);
    size_t steps_bytes = (size_t)w->p.steps * sizeof *w->next,
           frame_bytes = w->p.frame_elements * sizeof(float);
    if (n_bytes < sizeof h) return lt_fail(err, LT_E_FORMAT, "a frontier of %zu bytes", n_bytes);
    memcpy(&h, at, sizeof h);
    if (memcmp(h.magic, magic, sizeof magic)) return lt_fail(err, LT_E_FORMAT, "these bytes are no frontier");
    if (h.n_frames != mine.n_frames || h.window != mine.window || h.stride != mine.stride ||
        h.steps != mine.steps || h.frame_elements != mine.frame_elements)
        return lt_fail(err, LT_E_MISMATCH, "the frontier belongs to another video or other windows");
    bool fits = n_bytes >= sizeof h + steps_bytes && h.entered >= h.released &&
                h.entered - h.released <= w->room && n_bytes == saved_bytes(w, h.entered - h.released);
    int64_t next[LT_WAVEFRONT_MAX_STEPS];
    if (fits) memcpy(next, at + sizeof h, steps_bytes);
    if (!fits || !is_possible(w, &h, next)) return lt_fail(err, LT_E_FORMAT, "the frontier is damaged");
    memcpy(w->next, next, steps_bytes);
    w->cursor = (int)h.cursor;
    w->released = h.released;
    w->entered = h.entered;
    at += sizeof h + steps_bytes;
    for (int64_t f = w->released; f < w->entered; f++, at += 2 * frame_bytes) {
        memcpy(frame(w, w->x, f), at, frame_bytes);
        memcpy(frame(w, w->sum, f), at + frame_bytes, frame_bytes);
    }
    return LT_OK;
}
