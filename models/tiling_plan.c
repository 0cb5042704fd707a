/* tiling_plan.c - choosing windows and tiles, and saying what they cost, by dry runs of the network. */
#include "models/tiling_axis.h"
#include "models/vae_parts.h"

#include <stdlib.h>

/* Tiles of fewer than GOOD_TILE cells are taken only where no others fit, since their overlaps are too narrow to hide
 * seams well; of fewer than MIN_TILE never. At most so many tiles stand along an axis. */
enum { GOOD_TILE = 24, MIN_TILE = 8, MAX_CHOICES = 64 };

/* ---- dry runs -------------------------------------------------------------------------------------------------------- */

typedef struct measure {
    size_t peak;
    double flops;
} measure;

/* What calls work on: at most n frames (latents for a decode) of height x width (cells for a decode, pixels for an encode).
 * Where memory lies depends on sizes, and fewer frames may take more: those of a shorter call count, too. */
typedef struct job {
    int64_t n, height, width;
    int64_t last;                      /* frames of the only shorter call, n where there is none; 0: any */
    const lt_encode_request *encoding; /* NULL: a decode */
} job;

/* How many frames the next shorter call has; 0: there is none. */
static int64_t shorter(const job *j, int64_t n)
{
    if (j->last == 0) return n - 1;
    return n > j->last ? j->last : 0;
}

/* A call for n whole frames of h x w. Where that is all there is, means may be kept. */
static lt_status run_encode(lt_context *dry, lt_vae *vae, const job *j, int64_t n, int64_t h, int64_t w,
                            lt_err *err)
{
    const lt_vae_info *info = lt_vae_get_info(vae);
    const lt_encode_request *r = j->encoding;
    const lt_encode_plan plan = {.factor = info->factor, .height = (int)h, .width = (int)w, .batch = (int)n};
    lt_tensor frames = {.dtype = r->frames, .rank = 4, .shape = {n, h, w, 3}}, kept = LT_NONE;
    if (r->keep && h == j->height && w == j->width)
        kept = (lt_tensor){.data = dry, /* not looked at when dry */
                           .dtype = r->kept,
                           .rank = 4,
                           .shape = {n, h / info->factor, w / info->factor, info->latent_channels}};
    return lt_encode_frames_there(dry, vae, &plan, frames, false, r->frames == LT_U8 ? 8 : 16, NULL, NULL,
                                  kept, err);
}

/* One tile of h x w of n frames, at the corner of a whole that is at least as large; through the same code as the real call. */
static lt_status run_tile(lt_context *dry, lt_vae *vae, const job *j, int64_t n, int64_t h, int64_t w,
                          lt_err *err)
{
    const lt_vae_info *info = lt_vae_get_info(vae);
    if (j->encoding) return run_encode(dry, vae, j, n, h, w, err);
    const lt_decode_plan plan = {.temporal = info->temporal,
                                 .factor = info->factor,
                                 .height = (int)LT_MAX(h, j->height),
                                 .width = (int)LT_MAX(w, j->width),
                                 .window = (int)n,
                                 .stride = (int)n,
                                 .tile_height = (int)h,
                                 .tile_width = (int)w,
                                 .stride_height = (int)h,
                                 .stride_width = (int)w};
    lt_tensor latents = {
        .dtype = LT_F32, .rank = 4, .shape = {n, plan.height, plan.width, info->latent_channels}};
    return lt_decode_corner(dry, vae, &plan, latents, err);
}

/* Run the network dry on one tile, in a workspace of its own: the peak of all lengths, the work of the longest. */
static lt_status run_dry(lt_context *dry, lt_vae *vae, const job *j, int64_t h, int64_t w, measure *m,
                         lt_err *err)
{
    lt_workspace *saved = dry->workspace, *own;
    lt_status status = lt_workspace_create(&own, NULL, 0, err);
    if (status != LT_OK) return status;
    double before = dry->flops;
    dry->workspace = own;
    status = run_tile(dry, vae, j, j->n, h, w, err);
    double flops = dry->flops - before;
    for (int64_t n = shorter(j, j->n); n > 0 && status == LT_OK; n = shorter(j, n))
        status = run_tile(dry, vae, j, n, h, w, err);
    dry->workspace = saved;
    *m = (measure){lt_workspace_peak(own), flops};
    dry->flops = before;
    lt_workspace_destroy(own);
    return status;
}

/* The sizes that the tiles of an axis have, each once, and how many have it. */
enum { MAX_SIZES = 32 };
typedef struct axis_sizes {
    int n;
    int64_t size[MAX_SIZES], count[MAX_SIZES];
    int64_t work; /* all sizes together */
} axis_sizes;

static void note_size(axis_sizes *a, int64_t size)
{
    int i = 0;
    while (i < a->n && a->size[i] != size) i++;
    i = LT_MIN(i, MAX_SIZES - 1); /* what does not fit counts as the last: overlaps above 0.97 */
    if (i == a->n) a->size[a->n++] = size;
    a->count[i]++;
    a->work += size;
}

/* What the tiles that were tried would have packed is not counted. */
static void forget_plans(lt_context *dry, lt_vae *vae)
{
    for (int i = 0; i < vae->n_weights; i++)
        if (!vae->weights[i]->packed) lt_weight_finish(dry, vae->weights[i]);
}

/* Peak and work of one unit: the tile shapes that occur, each run once. */
static lt_status cost_of(lt_context *dry, lt_vae *vae, const job *job, const axis_sizes *rows,
                         const axis_sizes *columns, lt_tile_cost *cost, lt_err *err)
{
    *cost = (lt_tile_cost){0};
    forget_plans(dry, vae);
    for (int i = 0; i < rows->n; i++) {
        for (int j = 0; j < columns->n; j++) {
            measure m;
            lt_status status = run_dry(dry, vae, job, rows->size[i], columns->size[j], &m, err);
            if (status != LT_OK) return status;
            int64_t times = rows->count[i] * columns->count[j];
            cost->workspace_bytes = LT_MAX(cost->workspace_bytes, m.peak);
            cost->flops += (double)times * m.flops;
            cost->n_tiles += (int)times;
        }
    }
    const vae_half *h = &vae->halves[job->encoding ? VAE_ENCODER : VAE_DECODER];
    for (int i = 0; i < h->n_weights; i++)
        cost->weight_bytes += vae->weights[h->first_weight + i]->packed_bytes;
    return LT_OK;
}

/* ---- decode ---------------------------------------------------------------------------------------------------------- */

static int default_stride(int tile)
{
    return LT_MAX(tile - LT_DEFAULT_TILE_OVERLAP, (tile + 1) / 2);
}

/* The smallest tile for each count of tiles along an axis, in the order of counts. */
typedef struct axis_choice {
    int tile, stride;
    int64_t work;
} axis_choice;

static int axis_choices(int size, int tile, int stride, axis_choice *choices)
{
    if (tile > 0) {
        tile = LT_MIN(tile, size);
        stride = tile == size ? size : stride > 0 ? stride : default_stride(tile);
        choices[0] = (axis_choice){tile, stride, axis_work(size, tile, stride)};
        return 1;
    }
    int n = 0;
    for (int t = size; t >= LT_MIN(size, MIN_TILE); t--) {
        int s = t == size ? size : default_stride(t);
        int64_t count = axis_count(size, t, s);
        if (n == MAX_CHOICES && count != axis_count(size, choices[n - 1].tile, choices[n - 1].stride)) break;
        if (n == 0 || count != axis_count(size, choices[n - 1].tile, choices[n - 1].stride)) n++;
        choices[n - 1] = (axis_choice){t, s, axis_work(size, t, s)};
    }
    return n;
}

typedef struct tile_choice {
    axis_choice rows, columns;
    double work;
    bool small;
} tile_choice;

static int by_work(const void *a, const void *b)
{
    const tile_choice *x = a, *y = b;
    if (x->small != y->small) return x->small - y->small;
    if (x->work != y->work) return x->work < y->work ? -1 : 1;
    int64_t ax = (int64_t)x->rows.tile * x->columns.tile, ay = (int64_t)y->rows.tile * y->columns.tile;
    return ax != ay ? (ax > ay ? -1 : 1) : y->columns.tile - x->columns.tile;
}

static double area_of(const tile_choice *choice)
{
    return (double)choice->rows.tile * choice->columns.tile;
}

/* The choice of least area, if it fits in memory. */
static lt_status choose_smallest(lt_context *dry, lt_vae *vae, const job *job, size_t memory,
                                 const tile_choice *choices, int n_choices, const tile_choice **chosen,
                                 lt_err *err)
{
    const tile_choice *least = choices;
    for (int i = 1; i < n_choices; i++)
        if (area_of(&choices[i]) < area_of(least)) least = &choices[i];
    measure m;
    lt_status status = run_dry(dry, vae, job, least->rows.tile, least->columns.tile, &m, err);
    *chosen = least;
    if (status != LT_OK || m.peak <= memory) return status;
    return lt_fail(err, LT_E_NO_MEMORY,
                   "%.0f MiB of memory for activations are too few: the smallest tile needs %.0f MiB; give "
                   "more memory%s",
                   (double)memory / 0x1p20, (double)m.peak / 0x1p20 + 0.5,
                   job->encoding ? "" : ", or a shorter window");
}

/* The first of the choices, in order of work, whose peak is within memory. The peak is nearly proportional to the area, so
 * that few dry runs are needed: choices clearly too large by the last measurement are passed over. */
static lt_status choose_tiles(lt_context *dry, lt_vae *vae, const job *job, size_t memory,
                              const tile_choice *choices, int n_choices, const tile_choice **chosen,
                              lt_err *err)
{
    double per_cell = 0;
    measure m;
    if (memory &&
        n_choices > 1) { /* a first guess, low on purpose, from a small tile: the largest are slow to try */
        int64_t edge = job->encoding ? (int64_t)GOOD_TILE * lt_vae_get_info(vae)->factor : GOOD_TILE;
        lt_status status = run_dry(dry, vae, job, edge, edge, &m, err);
        if (status != LT_OK) return status;
        per_cell = 0.8 * (double)m.peak / (double)(edge * edge);
    }
    for (int i = 0; i < n_choices; i++) {
        if (memory && 0.95 * per_cell * area_of(&choices[i]) > (double)memory) continue;
        lt_status status = run_dry(dry, vae, job, choices[i].rows.tile, choices[i].columns.tile, &m, err);
        if (status != LT_OK) return status;
        *chosen = &choices[i];
        if (!memory || m.peak <= memory) return LT_OK;
        per_cell = (double)m.peak / area_of(&choices[i]);
    }
    return choose_smallest(dry, vae, job, memory, choices, n_choices, chosen, err);
}

static void set_tiles(lt_decode_plan *p, const tile_choice *choice)
{
    p->tile_height = choice->rows.tile;
    p->stride_height = choice->rows.stride;
    p->tile_width = choice->columns.tile;
    p->stride_width = choice->columns.stride;
}

/* The windows of the request's clip. */
static job decode_job(const lt_decode_request *r, const lt_decode_plan *p)
{
    job j = {.n = p->window, .height = r->height, .width = r->width};
    if (r->n_frames == 0) return j;
    int64_t first, end;
    lt_decode_window_range(p, r->n_frames, lt_decode_windows_count(p, r->n_frames) - 1, &first, &end);
    j.n = LT_MIN(p->window, r->n_frames);
    j.last = end - first;
    return j;
}

static lt_status choose_decode(lt_context *dry, lt_vae *vae, const lt_decode_request *r, const job *j,
                               lt_decode_plan *plan, lt_err *err)
{
    axis_choice rows[MAX_CHOICES], columns[MAX_CHOICES];
    int n_rows = axis_choices(r->height, r->tile_height, r->stride_height, rows);
    int n_columns = axis_choices(r->width, r->tile_width, r->stride_width, columns), n_choices = 0;
    tile_choice *choices = malloc(sizeof(*choices) * (size_t)(n_rows * n_columns));
    if (!choices) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a plan");
    for (int i = 0; i < n_rows; i++)
        for (int j = 0; j < n_columns; j++)
            choices[n_choices++] = (tile_choice){
                rows[i], columns[j], (double)rows[i].work * (double)columns[j].work,
                rows[i].tile < LT_MIN(r->height, GOOD_TILE) || columns[j].tile < LT_MIN(r->width, GOOD_TILE)};
    qsort(choices, (size_t)n_choices, sizeof(*choices), by_work);
    const tile_choice *chosen = NULL;
    lt_status status = choose_tiles(dry, vae, j, r->memory, choices, n_choices, &chosen, err);
    if (status == LT_OK) set_tiles(plan, chosen);
    free(choices);
    return status;
}

static axis_sizes decode_sizes(int64_t size, int64_t tile, int64_t stride)
{
    axis_sizes a = {0};
    for (int64_t k = 0; k < axis_count(size, tile, stride); k++)
        note_size(&a, axis_end(size, tile, stride, k) - k * stride);
    return a;
}

static lt_status decode_cost(lt_context *dry, lt_vae *vae, const lt_decode_plan *p, int64_t n_frames,
                             const job *j, lt_tile_cost *cost, lt_err *err)
{
    axis_sizes rows = decode_sizes(p->height, p->tile_height, p->stride_height);
    axis_sizes columns = decode_sizes(p->width, p->tile_width, p->stride_width);
    lt_status status = cost_of(dry, vae, j, &rows, &columns, cost, err);
    double time = n_frames > 0 ? (double)axis_work(n_frames, p->window, p->stride) / (double)n_frames
                               : (double)p->window / p->stride;
    size_t cells = (size_t)j->n * (size_t)p->height * (size_t)p->width;
    cost->work_factor = time * (double)rows.work / p->height * (double)columns.work / p->width;
    cost->buffer_bytes =
        cells * sizeof(float) *
        ((size_t)lt_vae_get_info(vae)->latent_channels + 3 * (size_t)p->factor * (size_t)p->factor);
    return status;
}

lt_status lt_decode_plan_auto(lt_context *dry, lt_vae *vae, const lt_decode_request *r, lt_decode_plan *plan,
                              lt_tile_cost *cost, lt_err *err)
{
    const lt_vae_info *info = lt_vae_get_info(vae);
    lt_tile_cost unused;
    lt_decode_plan p = {
        .temporal = info->temporal, .factor = info->factor, .height = r->height, .width = r->width};
    if (info->temporal) {
        p.window = r->window > 0 ? r->window : LT_DEFAULT_WINDOW;
        p.stride = r->stride > 0   ? r->stride
                   : r->window > 0 ? LT_MAX(r->window * 3 / 4, 1)
                                   : LT_DEFAULT_STRIDE;
    } else {
        p.window = p.stride = r->window > 0 ? r->window : LT_DEFAULT_BATCH;
    }
    /* What was asked for is checked before any tile is tried. */
    p.tile_height = r->tile_height > 0 ? r->tile_height : LT_MAX(r->stride_height, 1);
    p.stride_height = r->stride_height > 0 ? r->stride_height : p.tile_height;
    p.tile_width = r->tile_width > 0 ? r->tile_width : LT_MAX(r->stride_width, 1);
    p.stride_width = r->stride_width > 0 ? r->stride_width : p.tile_width;
    lt_status status = lt_decode_plan_check(&p, err);
    if (status != LT_OK) return status;
    const job j = decode_job(r, &p);
    status = choose_decode(dry, vae, r, &j, &p, err);
    if (status == LT_OK) status = decode_cost(dry, vae, &p, r->n_frames, &j, cost ? cost : &unused, err);
    if (status == LT_OK) *plan = p;
    return status;
}

/* ---- encode ---------------------------------------------------------------------------------------------------------- */

static axis_sizes encode_sizes(const lt_encode_plan *p, int size)
{
    axis_sizes a = {0};
    encode_axis axis = lt_encode_axis(p, size);
    for (int i = 0; i < axis.n; i++) note_size(&a, LT_MIN(axis.tile, size - i * axis.stride));
    return a;
}

static lt_status encode_cost(lt_context *dry, lt_vae *vae, const lt_encode_plan *p, const job *j,
                             lt_tile_cost *cost, lt_err *err)
{
    axis_sizes rows = encode_sizes(p, p->height), columns = encode_sizes(p, p->width);
    lt_status status = cost_of(dry, vae, j, &rows, &columns, cost, err);
    size_t cells = (size_t)(p->height / p->factor) * (size_t)(p->width / p->factor);
    cost->flops /= p->batch;
    cost->work_factor = (double)rows.work / p->height * (double)columns.work / p->width;
    cost->buffer_bytes = cells * (size_t)lt_vae_get_info(vae)->latent_channels * 2 * sizeof(float);
    return status;
}

/* Every tile that begins at whole cells, as choices of a square; the whole frame first. */
static int encode_choices(const lt_encode_plan *plan, tile_choice *choices, int capacity)
{
    int n = 0, largest = LT_MAX(plan->height, plan->width);
    choices[n++] = (tile_choice){{plan->height, 0, 0}, {plan->width, 0, 0}, 0, false};
    for (int tile = largest - plan->factor; tile >= MIN_TILE * plan->factor && n < capacity;
         tile -= plan->factor) {
        lt_encode_plan p = *plan;
        p.tile = tile;
        if (lt_encode_plan_check(&p, NULL) != LT_OK) continue;
        double work = (double)encode_sizes(&p, p.height).work * (double)encode_sizes(&p, p.width).work;
        choices[n++] = (tile_choice){{LT_MIN(tile, p.height), tile, 0},
                                     {LT_MIN(tile, p.width), tile, 0},
                                     work,
                                     tile < GOOD_TILE * plan->factor};
    }
    qsort(choices + 1, (size_t)(n - 1), sizeof(*choices), by_work);
    return n;
}

static lt_status choose_encode(lt_context *dry, lt_vae *vae, const job *j, lt_encode_plan *plan, lt_err *err)
{
    int capacity = LT_MAX(plan->height, plan->width) / plan->factor + 1;
    tile_choice *choices = malloc(sizeof(*choices) * (size_t)capacity);
    if (!choices) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a plan");
    int n = encode_choices(plan, choices, capacity);
    const tile_choice *chosen = NULL;
    lt_status status = choose_tiles(dry, vae, j, j->encoding->memory, choices, n, &chosen, err);
    if (status == LT_OK) plan->tile = chosen->rows.stride;
    free(choices);
    return status;
}

lt_status lt_encode_plan_auto(lt_context *dry, lt_vae *vae, const lt_encode_request *r, lt_encode_plan *plan,
                              lt_tile_cost *cost, lt_err *err)
{
    lt_tile_cost unused;
    lt_encode_plan p = {.factor = lt_vae_get_info(vae)->factor,
                        .height = r->height,
                        .width = r->width,
                        .tile = r->tile,
                        .overlap = r->overlap < 0 ? 0.25 : r->overlap,
                        .batch = r->batch > 0 ? r->batch : 1};
    const job j = {.n = p.batch, .height = p.height, .width = p.width, .encoding = r};
    lt_status status = lt_encode_plan_check(&p, err);
    if (status == LT_OK && r->tile == 0) status = choose_encode(dry, vae, &j, &p, err);
    if (status == LT_OK) status = encode_cost(dry, vae, &p, &j, cost ? cost : &unused, err);
    if (status != LT_OK) return status;
    if (r->memory && (cost ? cost : &unused)->workspace_bytes > r->memory)
        return lt_fail(err, LT_E_NO_MEMORY,
                       "tiles of %d pixels need %.0f MiB of memory for activations; %.0f are given", p.tile,
                       (double)(cost ? cost : &unused)->workspace_bytes / 0x1p20, (double)r->memory / 0x1p20);
    *plan = p;
    return LT_OK;
}
