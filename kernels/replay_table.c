/* replay_table.c - the table of operators that are watched: one row for one of the backend's. */
#include "kernels/replay_table.h"

#include <string.h>

/* ---- digests ------------------------------------------------------------------------------------------ */

/* The finisher of splitmix64, over the number and what was there: bijective in each. */
uint64_t replay_mix(uint64_t digest, uint64_t number)
{
    uint64_t z = (digest * 0x9e3779b97f4a7c15u + 1) ^ number;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t replay_mix_tensor(uint64_t digest, const lt_tensor *t)
{
    digest = replay_mix(digest, (uintptr_t)t->data);
    if (!t->data) return digest;
    digest = replay_mix(digest, (uint64_t)t->dtype << 8 | (uint64_t)t->rank);
    for (int i = 0; i < t->rank; i++) digest = replay_mix(digest, (uint64_t)t->shape[i]);
    return digest;
}

static replay_pass *pass_of(const lt_context *c)
{
    return (replay_pass *)(uintptr_t)c->backend;
}

static void see(replay_pass *p, uint64_t number)
{
    p->digest = replay_mix(p->digest, number);
}

static void see_tensor(replay_pass *p, const lt_tensor *t)
{
    p->digest = replay_mix_tensor(p->digest, t);
}

/* A weight's packed form lives as long as lt_weight_changes() says the same. */
static void see_weight(replay_pass *p, const lt_weight *w)
{
    see(p, w && w->tensor.data ? (uintptr_t)w : 0);
}

static void see_real(replay_pass *p, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    see(p, bits);
}

static void see_bytes(replay_pass *p, const void *data, size_t n)
{
    const unsigned char *byte = data;
    for (size_t i = 0; i < n; i++) see(p, byte[i]);
}

/* ---- operators ---------------------------------------------------------------------------------------- */

/* Lists of what an operator is given; T a tensor, W a weight, I an integer, D a real number. */
#define T(x) see_tensor(p, x);
#define W(x) see_weight(p, x);
#define I(x) see(p, (uint64_t)(x));
#define D(x) see_real(p, x);

/* A row: `given` goes into the digest behind a number of the row's own; then the real operator, but when skipping. */
#define WATCHED(op, parameters, given, ...)                                                                  \
    static lt_status op##_watched parameters                                                                 \
    {                                                                                                        \
        replay_pass *p = pass_of(c);                                                                         \
        see(p, offsetof(lt_backend, op));                                                                    \
        given return p->mode == REPLAY_SKIP ? LT_OK : p->real->op(__VA_ARGS__);                              \
    }

WATCHED(conv,
        (lt_context * c, const lt_tensor *x, lt_weight *w, lt_weight *b, const lt_conv_dims *d,
         const lt_tensor *r, lt_tensor *y),
        T(x) W(w) W(b) see_bytes(p, d, sizeof(*d));
        T(r) T(y), c, x, w, b, d, r, y)
WATCHED(linear,
        (lt_context * c, const lt_tensor *x, lt_weight *w, lt_weight *b, lt_activation act,
         const lt_tensor *r, lt_tensor *y),
        T(x) W(w) W(b) I(act) T(r) T(y), c, x, w, b, act, r, y)
WATCHED(group_norm,
        (lt_context * c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups, double eps,
         lt_activation act, lt_tensor *y),
        T(x) W(gamma) W(beta) I(groups) D(eps) I(act) T(y), c, x, gamma, beta, groups, eps, act, y)
WATCHED(attention,
        (lt_context * c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v, const lt_tensor *mask,
         double scale, bool causal, lt_tensor *y),
        T(q) T(k) T(v) T(mask) D(scale) I(causal) T(y), c, q, k, v, mask, scale, causal, y)
WATCHED(upsample_nearest, (lt_context * c, const lt_tensor *x, int ft, int fh, int fw, lt_tensor *y),
        T(x) I(ft) I(fh) I(fw) T(y), c, x, ft, fh, fw, y)
WATCHED(upsample_conv,
        (lt_context * c, const lt_tensor *x, lt_weight *w, lt_weight *b, const lt_conv_dims *d, lt_tensor *y),
        T(x) W(w) W(b) see_bytes(p, d, sizeof(*d));
        T(y), c, x, w, b, d, y)
WATCHED(add_scaled, (lt_context * c, const lt_tensor *x, const lt_tensor *y, double a, lt_tensor *out),
        T(x) T(y) D(a) T(out), c, x, y, a, out)
WATCHED(affine, (lt_context * c, const lt_tensor *x, double a, double b, lt_activation act, lt_tensor *out),
        T(x) D(a) D(b) I(act) T(out), c, x, a, b, act, out)
WATCHED(slice_channels, (lt_context * c, const lt_tensor *x, int64_t start, lt_tensor *out),
        T(x) I(start) T(out), c, x, start, out)
WATCHED(convert, (lt_context * c, const lt_tensor *x, lt_tensor *out), T(x) T(out), c, x, out)
WATCHED(layer_norm,
        (lt_context * c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
         const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y),
        T(x) W(gamma) W(beta) D(eps) T(scale) T(shift) T(y), c, x, gamma, beta, eps, scale, shift, y)
WATCHED(rms_norm, (lt_context * c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y),
        T(x) W(gamma) D(eps) T(y), c, x, gamma, eps, y)
WATCHED(add_broadcast, (lt_context * c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out),
        T(x) T(y) T(out), c, x, y, out)
WATCHED(add_gated,
        (lt_context * c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate, lt_tensor *out),
        T(x) T(y) T(gate) T(out), c, x, y, gate, out)
WATCHED(multiply, (lt_context * c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out), T(x) T(y) T(out),
        c, x, y, out)
WATCHED(combine, (lt_context * c, const lt_tensor *x, double a, const lt_tensor *y, double b, lt_tensor *out),
        T(x) D(a) T(y) D(b) T(out), c, x, a, y, b, out)
WATCHED(gated, (lt_context * c, const lt_tensor *x, lt_activation act, lt_tensor *out), T(x) I(act) T(out), c,
        x, act, out)
WATCHED(concat_channels, (lt_context * c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out),
        T(x) T(y) T(out), c, x, y, out)
WATCHED(unpatchify, (lt_context * c, const lt_tensor *x, int pt, int ph, int pw, lt_tensor *out),
        T(x) I(pt) I(ph) I(pw) T(out), c, x, pt, ph, pw, out)
WATCHED(noise, (lt_context * c, uint64_t seed, uint32_t clip, uint64_t first, lt_tensor *out),
        I(seed) I(clip) I(first) T(out), c, seed, clip, first, out)
WATCHED(pixels_to_values, (lt_context * c, const lt_tensor *x, int bits, lt_tensor *out), T(x) I(bits) T(out),
        c, x, bits, out)
WATCHED(values_to_pixels, (lt_context * c, const lt_tensor *x, int bits, bool truncate, lt_tensor *out),
        T(x) I(bits) I(truncate) T(out), c, x, bits, truncate, out)
WATCHED(add_tile,
        (lt_context * c, const lt_tensor *tile, const lt_tile_weights *weights, int64_t row, int64_t column,
         lt_tensor *sums),
        T(tile) I(weights->time.size) I(weights->time.low_end) I(weights->time.high_end) I(weights->rows.size)
            I(weights->rows.low_end) I(weights->rows.high_end) I(weights->columns.size)
                I(weights->columns.low_end) I(weights->columns.high_end) I(weights->border) I(row) I(column)
                    T(sums),
        c, tile, weights, row, column, sums)
WATCHED(copy, (lt_context * c, const lt_tensor *x, lt_tensor *out), T(x) T(out), c, x, out)
WATCHED(zero, (lt_context * c, lt_tensor *out), T(out), c, out)

/* ---- what the host brings ----------------------------------------------------------------------------- */

/* Never skipped: what is brought is another each time. */
#define BROUGHT(op, parameters, given, bytes, ...)                                                           \
    static lt_status op##_watched parameters                                                                 \
    {                                                                                                        \
        replay_pass *p = pass_of(c);                                                                         \
        see(p, offsetof(lt_backend, op));                                                                    \
        given p->host_bytes += lt_round_up(bytes, LT_RECORD_ALIGNMENT);                                      \
        return p->real->op(__VA_ARGS__);                                                                     \
    }

BROUGHT(upload, (lt_context * c, const lt_host_box *from, lt_tensor *out), T(out), lt_tensor_bytes(out), c,
        from, out)
BROUGHT(embedding, (lt_context * c, lt_weight *table, const int32_t *ids, lt_tensor *out), W(table) T(out),
        lt_tensor_bytes(out), c, table, ids, out)
BROUGHT(gather_rows, (lt_context * c, const lt_tensor *x, const int32_t *rows, lt_tensor *out), T(x) T(out),
        (size_t)out->shape[0] * sizeof(int32_t), c, x, rows, out)

/* ---- what ends it ------------------------------------------------------------------------------------- */

/* False: it must not be done now. The pass is undone. */
static bool allowed(lt_context *c, const char *what)
{
    replay_pass *p = pass_of(c);
    p->barred = what;
    if (p->mode == REPLAY_WATCH) return true;
    lt_context_fail(c, LT_E_UNSUPPORTED, "%s", what);
    return false;
}

static lt_status download_watched(lt_context *c, const lt_tensor *x, void *to)
{
    if (!allowed(c, "the host takes a result in between")) return c->err.status;
    return pass_of(c)->real->download(c, x, to);
}

static lt_status wait_watched(lt_context *c)
{
    if (!allowed(c, "the host waits in between")) return c->err.status;
    return pass_of(c)->real->wait(c);
}

static lt_status share_watched(lt_context *c, lt_share *share, bool mark)
{
    const lt_backend *real = pass_of(c)->real;
    if (!allowed(c, "other processes' memory is used in between")) return c->err.status;
    return mark ? real->share_mark(c, share) : real->share_await(c, share);
}

static lt_status share_mark_watched(lt_context *c, lt_share *share)
{
    return share_watched(c, share, true);
}

static lt_status share_await_watched(lt_context *c, lt_share *share)
{
    return share_watched(c, share, false);
}

static lt_status yuv_to_rgb_watched(lt_context *c, const lt_yuv *picture, int bits, lt_tensor *out)
{
    if (!allowed(c, "a decoder's picture is taken in between")) return c->err.status;
    return pass_of(c)->real->yuv_to_rgb(c, picture, bits, out);
}

static void release_weight_watched(lt_context *c, lt_weight *weight)
{
    allowed(c, "weights are released in between");
    pass_of(c)->real->release_weight(c, weight);
}

/* An operator that is added to the table needs a row here, too. */
_Static_assert(sizeof(lt_backend) == offsetof(lt_backend, probe) + 43 * sizeof(void (*)(void)),
               "rows of the backend's table");

/* ---- a pass ------------------------------------------------------------------------------------------- */

void replay_begin(lt_context *c, replay_pass *p, replay_mode mode)
{
    *p = (replay_pass){.table = *c->backend, .real = c->backend, .mode = mode, .digest = 1};
#define ROW(op) p->table.op = op##_watched
    ROW(conv), ROW(linear), ROW(group_norm), ROW(attention), ROW(upsample_nearest), ROW(add_scaled);
    ROW(affine), ROW(slice_channels), ROW(convert), ROW(layer_norm), ROW(rms_norm), ROW(add_broadcast);
    ROW(add_gated), ROW(multiply), ROW(combine), ROW(gated), ROW(concat_channels), ROW(unpatchify);
    ROW(upsample_conv), ROW(noise), ROW(pixels_to_values), ROW(values_to_pixels), ROW(add_tile), ROW(copy),
        ROW(zero);
    ROW(upload), ROW(embedding), ROW(gather_rows), ROW(download), ROW(wait);
    ROW(share_mark), ROW(share_await), ROW(yuv_to_rgb), ROW(release_weight);
#undef ROW
    c->backend = &p->table;
}

void replay_end(lt_context *c, replay_pass *p)
{
    c->backend = p->real;
    if (p->digest == 0) p->digest = 1;
}
