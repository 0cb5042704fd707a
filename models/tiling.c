/* tiling.c - decoding a window and encoding frames, tile by tile. */
#include "models/tiling_axis.h"
#include "kernels/replay.h"

#include <stdlib.h>
#include <string.h>

/* x in another dtype, x dropped; x itself where it has that dtype. */
static lt_tensor as_dtype(lt_context *c, lt_tensor x, lt_dtype dtype)
{
    if (!x.data || x.dtype == dtype) return x;
    lt_tensor y = lt_convert(c, x, dtype);
    lt_drop(c, &x);
    return y;
}

/* ---- the network, of tiles of one shape again and again ---------------------------------------------------------------- */

typedef struct vae_call {
    lt_vae *vae;
    lt_tensor x;
    bool decode;
} vae_call;

static void call_vae(lt_context *c, void *user, lt_tensor *results)
{
    const vae_call *k = user;
    results[0] = k->decode ? lt_vae_decode(c, k->vae, k->x) : lt_vae_encode(c, k->vae, k->x);
}

static lt_tensor run_vae(lt_context *c, lt_vae *vae, lt_tensor x, bool decode)
{
    vae_call k = {vae, x, decode};
    lt_tensor y = LT_NONE;
    lt_replay(c, lt_replay_key(vae, &x, 1) + decode, call_vae, &k, &y, 1);
    return y;
}

/* ---- decode ---------------------------------------------------------------------------------------------------------- */

bool lt_decode_has_tiles(const lt_decode_plan *p)
{
    return p->tile_height < p->height || p->tile_width < p->width;
}

/* z: the latents of a tile that begins at (row, column). */
static void decode_latents(lt_context *c, lt_vae *vae, const lt_decode_plan *p, lt_tensor z, int64_t n_frames,
                           int64_t first, int64_t row, int64_t column, lt_tensor sums)
{
    lt_tensor frames = run_vae(c, vae, z, true);
    lt_tile_weights weights = lt_tile_mask(p, n_frames, first, first + z.shape[0], row, column);
    lt_add_tile(c, frames, &weights, p->factor * row, p->factor * column, sums);
    lt_drop(c, &frames);
}

static void decode_tile(lt_context *c, lt_vae *vae, const lt_decode_plan *p, const lt_tensor *latents,
                        int64_t n_frames, int64_t first, int64_t row, int64_t column, lt_tensor sums)
{
    int64_t h = LT_MIN(p->tile_height, p->height - row), w = LT_MIN(p->tile_width, p->width - column);
    lt_tensor z = lt_upload_part(c, *latents, 0, latents->shape[0], row, h, column, w);
    z = as_dtype(c, z, c->dtype);
    decode_latents(c, vae, p, z, n_frames, first, row, column, sums);
    lt_drop(c, &z);
}

/* Where all tiles of a window of n frames are added up. */
static lt_tensor place_sums(lt_context *c, const lt_decode_plan *p, int64_t n, float *sums)
{
    int64_t shape[] = {n, (int64_t)p->factor * p->height, (int64_t)p->factor * p->width, 3};
    return lt_place(c, LT_F32, 4, shape, sums);
}

lt_status lt_decode_corner(lt_context *dry, lt_vae *vae, const lt_decode_plan *p, lt_tensor latents,
                           lt_err *err)
{
    lt_tensor all = place_sums(dry, p, latents.shape[0], NULL);
    decode_tile(dry, vae, p, &latents, latents.shape[0], 0, 0, 0, all);
    lt_deliver(dry, &all, NULL);
    return lt_context_status(dry, err);
}

/* Are they window k's latents? *first: its first frame. */
static lt_status check_latents(lt_vae *vae, const lt_decode_plan *p, int64_t n_frames, int64_t k,
                               const lt_tensor *x, int64_t *first, lt_err *err)
{
    int64_t end, channels = lt_vae_get_info(vae)->latent_channels;
    lt_decode_window_range(p, n_frames, k, first, &end);
    char text[96];
    if (x->rank == 4 && x->shape[0] == end - *first && x->shape[1] == p->height && x->shape[2] == p->width &&
        x->shape[3] == channels && end > *first)
        return LT_OK;
    return lt_fail(err, LT_E_INVALID, "latents of window %lld are %s; wanted [%lld,%d,%d,%lld]", (long long)k,
                   lt_tensor_describe(x, text, sizeof(text)), (long long)(end - *first), p->height, p->width,
                   (long long)channels);
}

lt_status lt_decode_window(lt_context *c, lt_vae *vae, const lt_decode_plan *p, int64_t n_frames, int64_t k,
                           lt_tensor latents, float *sums, lt_err *err)
{
    int64_t first;
    lt_status status = check_latents(vae, p, n_frames, k, &latents, &first, err);
    if (status != LT_OK) return status;
    lt_tensor all = place_sums(c, p, latents.shape[0], sums);
    lt_zero(c, all);
    int64_t rows = axis_count(p->height, p->tile_height, p->stride_height);
    int64_t columns = axis_count(p->width, p->tile_width, p->stride_width);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns && c->err.status == LT_OK; j++)
            decode_tile(c, vae, p, &latents, n_frames, first, i * p->stride_height, j * p->stride_width, all);
    lt_deliver(c, &all, sums);
    return lt_context_status(c, err);
}

lt_status lt_decode_window_there(lt_context *c, lt_vae *vae, const lt_decode_plan *p, int64_t n_frames,
                                 int64_t k, lt_tensor latents, float *sums, lt_err *err)
{
    int64_t first;
    lt_status status = check_latents(vae, p, n_frames, k, &latents, &first, err);
    if (status != LT_OK) return status;
    if (latents.dtype != c->dtype || lt_decode_has_tiles(p))
        return lt_fail(err, LT_E_INVALID, "tiles of latents in %s cannot be cut out on the device",
                       lt_dtype_name(latents.dtype));
    lt_tensor all = place_sums(c, p, latents.shape[0], sums);
    lt_zero(c, all);
    decode_latents(c, vae, p, latents, n_frames, first, 0, 0, all);
    lt_deliver(c, &all, sums);
    return lt_context_status(c, err);
}

/* ---- encode ---------------------------------------------------------------------------------------------------------- */

/* Moments of one tile of a batch, f32 [n,h,w,channels]. */
typedef struct moments {
    int64_t n, h, w, channels;
    float *data;
} moments;

static float *moment(const moments *m, int64_t i, int64_t y, int64_t x)
{
    return m->data + ((i * m->h + y) * m->w + x) * m->channels;
}

/* b = a * (1 - weight) + b * weight over one cell. */
static void mix(const float *a, float *b, int64_t channels, int64_t step, int64_t extent)
{
    float wb = (float)((double)step / (double)extent), wa = (float)(1 - (double)step / (double)extent);
    for (int64_t c = 0; c < channels; c++) b[c] = a[c] * wa + b[c] * wb;
}

/* The first rows of b, into the last of a above it. */
static void blend_down(const moments *a, moments *b, int64_t extent)
{
    extent = LT_MIN(extent, LT_MIN(a->h, b->h));
    for (int64_t i = 0; i < b->n; i++)
        for (int64_t y = 0; y < extent; y++)
            for (int64_t x = 0; x < b->w; x++)
                mix(moment(a, i, a->h - extent + y, x), moment(b, i, y, x), b->channels, y, extent);
}

/* The first columns of b, into the last of a left of it. */
static void blend_right(const moments *a, moments *b, int64_t extent)
{
    extent = LT_MIN(extent, LT_MIN(a->w, b->w));
    for (int64_t i = 0; i < b->n; i++)
        for (int64_t y = 0; y < b->h; y++)
            for (int64_t x = 0; x < extent; x++)
                mix(moment(a, i, y, a->w - extent + x), moment(b, i, y, x), b->channels, x, extent);
}

/* Where a call's results go: whole latents of the batch. */
typedef struct destination {
    int64_t h, w, channels; /* channels of the mean */
    float *mean, *logvar;
    lt_tensor kept; /* on the device, of all batches; LT_NONE: not wanted */
} destination;

/* The means of frames first .. on, of which `result` is all there is, without tiles. */
static void keep(lt_context *c, lt_tensor result, int64_t first, const destination *to)
{
    if (!to->kept.data) return;
    lt_tensor mean = as_dtype(c, lt_slice_channels(c, result, 0, to->channels), to->kept.dtype);
    lt_copy(c, mean, lt_rows(c, to->kept, first, result.shape[0]));
    lt_drop(c, &mean);
}

/* The first `rows` x `columns` cells of m to cell (y, x) of the latents. */
static void store(const moments *m, int64_t rows, int64_t columns, int64_t y0, int64_t x0,
                  const destination *to)
{
    for (int64_t i = 0; i < m->n; i++) {
        for (int64_t y = 0; y < LT_MIN(rows, m->h); y++) {
            for (int64_t x = 0; x < LT_MIN(columns, m->w); x++) {
                const float *from = moment(m, i, y, x);
                size_t at = (size_t)(((i * to->h + y0 + y) * to->w + x0 + x) * to->channels);
                memcpy(to->mean + at, from, (size_t)to->channels * sizeof(float));
                for (int64_t c = 0; to->logvar && c < to->channels; c++)
                    to->logvar[at + (size_t)c] = LT_MAX(LT_MIN(from[to->channels + c], 20.0f), -30.0f);
            }
        }
    }
}

static lt_tensor to_values(lt_context *c, lt_tensor x, int bits)
{
    if (!x.data || (x.dtype != LT_U8 && x.dtype != LT_U16)) return as_dtype(c, x, c->dtype);
    lt_tensor y = lt_pixels_to_values(c, x, bits);
    lt_drop(c, &x);
    return y;
}

/* What is encoded, [n,H,W,3], in the host's memory or, without tiles, on the device. */
typedef struct origin {
    lt_tensor frames;
    bool there;
    int bits;
} origin;

/* The pixels [y, y+h) x [x, x+w) of n frames as a tensor of the workspace: where they lie decides about no address. */
static lt_tensor take_pixels(lt_context *c, const origin *from, int64_t first, int64_t n, int64_t y,
                             int64_t h, int64_t x, int64_t w)
{
    if (!from->there) return lt_upload_part(c, from->frames, first, n, y, h, x, w);
    lt_tensor pixels = lt_new(c, from->frames.dtype, 4, (int64_t[]){n, h, w, from->frames.shape[3]});
    if (pixels.data) lt_copy(c, lt_rows(c, from->frames, first, n), pixels);
    return pixels;
}

/* Encode the pixels [y, y+h) x [x, x+w) of n frames; the moments go to m->data, where they are after lt_wait. */
static void encode_tile(lt_context *c, lt_vae *vae, const origin *from, int64_t first, int64_t n, int64_t y,
                        int64_t h, int64_t x, int64_t w, moments *m, const destination *to)
{
    lt_tensor pixels = to_values(c, take_pixels(c, from, first, n, y, h, x, w), from->bits);
    lt_tensor result = run_vae(c, vae, pixels, false);
    lt_drop(c, &pixels);
    *m = (moments){n, result.shape[1], result.shape[2], result.shape[3], m->data};
    lt_download(c, result, LT_F32, m->data);
    keep(c, result, first, to);
    lt_drop(c, &result);
}

/* One batch of frames: tiles row by row, blended with those above and to the left as they come. tiles: two rows of them. */
static void encode_batch(lt_context *c, lt_vae *vae, const lt_encode_plan *p, const origin *from,
                         int64_t first, int64_t n, moments *tiles, const destination *to)
{
    encode_axis down = lt_encode_axis(p, p->height), across = lt_encode_axis(p, p->width);
    for (int64_t i = 0; i < down.n; i++) {
        moments *row = tiles + (i % 2) * across.n, *above = tiles + ((i + 1) % 2) * across.n;
        for (int64_t j = 0; j < across.n && c->err.status == LT_OK; j++) {
            int64_t y = i * down.stride, x = j * across.stride;
            encode_tile(c, vae, from, first, n, y, LT_MIN(down.tile, p->height - y), x,
                        LT_MIN(across.tile, p->width - x), &row[j], to);
            if (lt_wait(c) != LT_OK || c->dry) continue;
            if (i > 0) blend_down(&above[j], &row[j], down.extent);
            if (j > 0) blend_right(&row[j - 1], &row[j], across.extent);
            store(&row[j], down.limit, across.limit, i * down.limit, j * across.limit, to);
        }
    }
}

/* Two rows of tiles, each with memory for the largest. NULL when memory is out. */
static moments *tile_rows(const lt_encode_plan *p, int64_t batch, int64_t channels, bool dry)
{
    encode_axis down = lt_encode_axis(p, p->height), across = lt_encode_axis(p, p->width);
    size_t h = (size_t)(LT_MIN(down.tile, p->height) / p->factor),
           w = (size_t)(LT_MIN(across.tile, p->width) / p->factor);
    size_t tile = dry ? 0 : (size_t)batch * h * w * (size_t)channels, n = 2 * (size_t)across.n;
    moments *tiles = malloc(n * (sizeof(*tiles) + tile * sizeof(float)));
    if (!tiles) return NULL;
    float *data = (float *)(tiles + n);
    for (size_t i = 0; i < n; i++) tiles[i] = (moments){.data = data + i * tile};
    return tiles;
}

lt_status lt_encode_frames(lt_context *c, lt_vae *vae, const lt_encode_plan *p, lt_tensor frames, int bits,
                           float *mean, float *logvar, lt_err *err)
{
    return lt_encode_frames_there(c, vae, p, frames, false, bits, mean, logvar, LT_NONE, err);
}

lt_status lt_encode_frames_there(lt_context *c, lt_vae *vae, const lt_encode_plan *p, lt_tensor frames,
                                 bool there, int bits, float *mean, float *logvar, lt_tensor kept,
                                 lt_err *err)
{
    int64_t channels = lt_vae_get_info(vae)->latent_channels;
    char text[96];
    if (frames.rank != 4 || frames.shape[1] != p->height || frames.shape[2] != p->width ||
        frames.shape[3] != 3)
        return lt_fail(err, LT_E_INVALID, "frames are %s; wanted [n,%d,%d,3]",
                       lt_tensor_describe(&frames, text, sizeof(text)), p->height, p->width);
    if ((kept.data || there) && lt_encode_has_tiles(p))
        return lt_fail(err, LT_E_INVALID,
                       "tiles are cut out and put together on the host: they are not kept elsewhere");
    int64_t n = frames.shape[0], batch = LT_MIN(LT_MAX(p->batch, 1), LT_MAX(n, 1));
    moments *tiles = tile_rows(p, batch, 2 * channels, c->dry);
    if (!tiles) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the tiles of a frame");
    const origin from = {frames, there, bits};
    destination to = {p->height / p->factor, p->width / p->factor, channels, mean, logvar, kept};
    for (int64_t first = 0; first < n && c->err.status == LT_OK; first += batch) {
        int64_t now = LT_MIN(batch, n - first);
        encode_batch(c, vae, p, &from, first, now, tiles, &to);
        if (c->dry) continue;
        size_t cells = (size_t)(now * to.h * to.w * channels);
        to.mean += cells;
        if (to.logvar) to.logvar += cells;
    }
    free(tiles);
    return lt_context_status(c, err);
}
