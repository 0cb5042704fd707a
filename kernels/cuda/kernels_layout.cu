/* kernels_layout.cu - elements moved to other places. All are of one kind: the result's elements in their order, in units of the most
 * bytes, at most 16, that every run and address is a multiple of. */
#include "kernels/cuda/device.cuh"
extern "C" {
#include "kernels/backend.h"
}

struct unit1 {
    uint8_t v;
};
struct unit2 {
    uint16_t v;
};
struct unit4 {
    uint32_t v;
};
typedef uint2 unit8;
typedef uint4 unit16;

/* The most bytes that `run` bytes (of several runs: their greatest common divisor, or them or-ed) and the addresses allow. */
static size_t unit_of(uint64_t runs, const void *a, const void *b, const void *c = NULL)
{
    uint64_t all = runs | (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | 16;
    return (size_t)(all & -all);
}

/* Run the statements with U the type of a unit. */
#define WITH_UNIT(bytes, U, ...)                                                                             \
    switch (bytes) {                                                                                         \
    case 1: {                                                                                                \
        typedef unit1 U;                                                                                     \
        __VA_ARGS__;                                                                                         \
    }                                                                                                        \
    case 2: {                                                                                                \
        typedef unit2 U;                                                                                     \
        __VA_ARGS__;                                                                                         \
    }                                                                                                        \
    case 4: {                                                                                                \
        typedef unit4 U;                                                                                     \
        __VA_ARGS__;                                                                                         \
    }                                                                                                        \
    case 8: {                                                                                                \
        typedef unit8 U;                                                                                     \
        __VA_ARGS__;                                                                                         \
    }                                                                                                        \
    default: {                                                                                               \
        typedef unit16 U;                                                                                    \
        __VA_ARGS__;                                                                                         \
    }                                                                                                        \
    }

static bool is_size(size_t bytes)
{
    return bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8;
}

/* ---- channels ----------------------------------------------------------------------------------------------- */

/* Rows of `first` units from x and the rest from y (zeros without y); x's rows begin at x_start and lie x_stride apart. */
struct row_join {
    divisor row;
    int64_t first, x_stride, x_start, y_stride;
};

template <class U>
static __global__ void __launch_bounds__(THREADS)
    join_rows(U *out, const U *x, const U *y, int64_t items, row_join p)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t row = divide(i, p.row), c = i - row * p.row.d;
        if (c < p.first)
            out[i] = x[row * p.x_stride + p.x_start + c];
        else
            out[i] = y ? y[row * p.y_stride + c - p.first] : U();
    }
}

lt_status lt_launch_slice_channels(lt_stream stream, void *out, const void *x, size_t bytes, int64_t rows,
                                   int64_t channels, int64_t start, int64_t count)
{
    if (rows < 0 || start < 0 || count < 0 || start + count > channels || !is_size(bytes))
        return LT_E_INVALID;
    if (rows * count == 0) return LT_OK;
    size_t unit = unit_of((uint64_t)(channels | start | count) * bytes, out, x);
    int64_t by = (int64_t)(unit / bytes), n = count / by;
    row_join p = {divisor_of(n), n, channels / by, start / by, 0};
    WITH_UNIT(unit, U,
              return launch(join_rows<U>, blocks_of(rows * n), 0, stream, (U *)out, (const U *)x,
                            (const U *)NULL, rows * n, p));
}

lt_status lt_launch_concat_channels(lt_stream stream, void *out, const void *x, const void *y, size_t bytes,
                                    int64_t rows, int64_t a, int64_t b)
{
    if (rows < 0 || a < 0 || b < 0 || !is_size(bytes)) return LT_E_INVALID;
    if (rows * (a + b) == 0) return LT_OK;
    size_t unit = unit_of((uint64_t)(a | b) * bytes, out, x, y);
    int64_t by = (int64_t)(unit / bytes), n = (a + b) / by;
    row_join p = {divisor_of(n), a / by, a / by, 0, b / by};
    WITH_UNIT(unit, U,
              return launch(join_rows<U>, blocks_of(rows * n), 0, stream, (U *)out, (const U *)x,
                            (const U *)y, rows * n, p));
}

/* ---- videos ------------------------------------------------------------------------------------------------- */

/* Sizes of the result, in units, and what to divide its coordinates by. */
struct upsampling {
    divisor channels, w, h, t, fw, fh, ft;
};

template <class U>
static __global__ void __launch_bounds__(THREADS) upsample(U *out, const U *x, int64_t items, upsampling p)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t a = divide(i, p.channels), c = i - a * p.channels.d;
        int64_t b = divide(a, p.w), w = a - b * p.w.d;
        a = divide(b, p.h);
        int64_t h = b - a * p.h.d, n = divide(a, p.t), t = a - n * p.t.d;
        int64_t from = n * divide(p.t.d, p.ft) + divide(t, p.ft);
        from = from * divide(p.h.d, p.fh) + divide(h, p.fh);
        from = from * divide(p.w.d, p.fw) + divide(w, p.fw);
        out[i] = x[from * p.channels.d + c];
    }
}

lt_status lt_launch_upsample_nearest(lt_stream stream, void *out, const void *x, size_t bytes, int64_t n,
                                     int64_t t, int64_t h, int64_t w, int64_t channels, int ft, int fh,
                                     int fw)
{
    if (n < 0 || t < 0 || h < 0 || w < 0 || channels < 0 || ft < 1 || fh < 1 || fw < 1 || !is_size(bytes))
        return LT_E_INVALID;
    if (n * t * h * w * channels == 0) return LT_OK;
    size_t unit = unit_of((uint64_t)channels * bytes, out, x);
    int64_t run = channels / (int64_t)(unit / bytes), items = n * t * ft * h * fh * w * fw * run;
    upsampling p = {divisor_of(run), divisor_of(w * fw), divisor_of(h * fh), divisor_of(t * ft),
                    divisor_of(fw),  divisor_of(fh),     divisor_of(ft)};
    WITH_UNIT(unit, U,
              return launch(upsample<U>, blocks_of(items), 0, stream, (U *)out, (const U *)x, items, p));
}

/* h, w: of the result. */
template <class U>
static __global__ void __launch_bounds__(THREADS)
    window_pixels(U *out, const U *x, int64_t items, divisor run, divisor w, divisor h)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t a = divide(i, run), c = i - a * run.d;
        int64_t b = divide(a, w), column = a - b * w.d + 1;
        int64_t n = divide(b, h), row = b - n * h.d + 1;
        int64_t window = (n * (h.d / 2 + 1) + row / 2) * (w.d / 2 + 1) + column / 2;
        out[i] = x[(4 * window + 2 * (row & 1) + (column & 1)) * run.d + c];
    }
}

lt_status lt_launch_window_pixels(lt_stream stream, void *out, const void *x, size_t bytes, int64_t n,
                                  int64_t h, int64_t w, int64_t channels)
{
    if (n < 0 || h < 0 || w < 0 || channels < 0 || !is_size(bytes)) return LT_E_INVALID;
    if (n * h * w * channels == 0) return LT_OK;
    size_t unit = unit_of((uint64_t)channels * bytes, out, x);
    int64_t run = channels / (int64_t)(unit / bytes), items = n * 4 * h * w * run;
    WITH_UNIT(unit, U,
              return launch(window_pixels<U>, blocks_of(items), 0, stream, (U *)out, (const U *)x, items,
                            divisor_of(run), divisor_of(2 * w), divisor_of(2 * h)));
}

/* A run is a token's row of pixels, pw * channels. */
struct unpatching {
    divisor run, w, h, t, ph, pt; /* w: tokens; h, t: of the result */
    int64_t token;                /* units of a token */
};

template <class U>
static __global__ void __launch_bounds__(THREADS) unpatchify(U *out, const U *x, int64_t items, unpatching p)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t a = divide(i, p.run), c = i - a * p.run.d;
        int64_t b = divide(a, p.w), w = a - b * p.w.d;
        a = divide(b, p.h);
        int64_t h = b - a * p.h.d, n = divide(a, p.t), t = a - n * p.t.d;
        int64_t th = divide(h, p.ph), tt = divide(t, p.pt);
        int64_t token = ((n * divide(p.t.d, p.pt) + tt) * divide(p.h.d, p.ph) + th) * p.w.d + w;
        int64_t place = (t - tt * p.pt.d) * p.ph.d + h - th * p.ph.d;
        out[i] = x[token * p.token + place * p.run.d + c];
    }
}

lt_status lt_launch_unpatchify(lt_stream stream, void *out, const void *x, size_t bytes, int64_t n, int64_t t,
                               int64_t h, int64_t w, int pt, int ph, int pw, int64_t channels)
{
    if (n < 0 || t < 0 || h < 0 || w < 0 || channels < 0 || pt < 1 || ph < 1 || pw < 1 || !is_size(bytes))
        return LT_E_INVALID;
    if (n * t * h * w * channels == 0) return LT_OK;
    size_t unit = unit_of((uint64_t)(pw * channels) * bytes, out, x);
    int64_t run = pw * channels / (int64_t)(unit / bytes), items = n * t * pt * h * ph * w * run;
    unpatching p = {divisor_of(run), divisor_of(w),  divisor_of(h * ph), divisor_of(t * pt),
                    divisor_of(ph),  divisor_of(pt), pt * ph * run};
    WITH_UNIT(unit, U,
              return launch(unpatchify<U>, blocks_of(items), 0, stream, (U *)out, (const U *)x, items, p));
}

/* ---- rows by number ----------------------------------------------------------------------------------------- */

static __device__ __forceinline__ bool is_row(int32_t id, int64_t n_table, int64_t place, int64_t *bad)
{
    if (id >= 0 && id < n_table) return true;
    if (bad) atomicMin((unsigned long long *)bad, (unsigned long long)place);
    return false;
}

template <class U>
static __global__ void __launch_bounds__(THREADS)
    gather_copy(U *out, const U *table, int64_t n_table, const int32_t *ids, int64_t items, divisor run,
                int64_t *bad)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t row = divide(i, run), c = i - row * run.d;
        int32_t id = ids[row];
        if (is_row(id, n_table, row, bad)) out[i] = table[id * run.d + c];
    }
}

template <class T>
static __global__ void __launch_bounds__(THREADS)
    gather_converted(void *out, const void *table, lt_dtype from, int64_t n_table, const int32_t *ids,
                     int64_t items, divisor run, int64_t *bad)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t row = divide(i, run), c = i - row * run.d;
        int32_t id = ids[row];
        if (is_row(id, n_table, row, bad))
            ((typename T::storage *)out)[i] = T::put64(load_any(table, from, id * run.d + c));
    }
}

lt_status lt_launch_gather_rows(lt_stream stream, void *out, lt_dtype to, const void *table, lt_dtype from,
                                int64_t n_table, int64_t channels, const int32_t *ids, int64_t n,
                                int64_t *bad)
{
    if (n < 0 || channels < 0 || n_table < 0 || (!is_float(from) && from != LT_F64)) return LT_E_INVALID;
    if (to != from && !is_float(to)) return LT_E_INVALID;
    if (n * channels == 0) return LT_OK;
    if (to == from) {
        size_t bytes = lt_dtype_bytes(to), unit = unit_of((uint64_t)channels * bytes, out, table);
        int64_t run = channels / (int64_t)(unit / bytes);
        WITH_UNIT(unit, U,
                  return launch(gather_copy<U>, blocks_of(n * run), 0, stream, (U *)out, (const U *)table,
                                n_table, ids, n * run, divisor_of(run), bad));
    }
    WITH_DTYPE(to, T,
               return launch(gather_converted<T>, blocks_of(n * channels), 0, stream, out, table, from,
                             n_table, ids, n * channels, divisor_of(channels), bad));
}

/* ---- windows of a convolution -------------------------------------------------------------------------------- */

struct window {
    lt_conv_dims d;
    divisor run, kw, kh, kt, wo, ho, to, up_h, up_w;
    int64_t first;
};

template <class U>
static __global__ void __launch_bounds__(THREADS) im2col(U *out, const U *x, int64_t items, window p)
{
    for (int64_t i = first_item(); i < items; i += item_stride()) {
        int64_t a = divide(i, p.run), c = i - a * p.run.d;
        int64_t b = divide(a, p.kw), kw = a - b * p.kw.d;
        a = divide(b, p.kh);
        int64_t kh = b - a * p.kh.d;
        b = divide(a, p.kt);
        int64_t kt = a - b * p.kt.d;
        a = b + p.first;
        b = divide(a, p.wo);
        int64_t w = (a - b * p.wo.d) * p.d.sw + kw - p.d.left;
        a = divide(b, p.ho);
        int64_t h = (b - a * p.ho.d) * p.d.sh + kh - p.d.top;
        b = divide(a, p.to);
        int64_t t = (a - b * p.to.d) * p.d.st + kt - p.d.front;
        bool inside = t >= 0 && t < p.d.t && h >= 0 && h < p.d.h && w >= 0 && w < p.d.w;
        U v = U();
        if (inside) {
            int64_t from = (b * p.d.t + t) * divide(p.d.h, p.up_h) + divide(h, p.up_h);
            v = x[(from * divide(p.d.w, p.up_w) + divide(w, p.up_w)) * p.run.d + c];
        }
        out[i] = v;
    }
}

lt_status lt_launch_im2col(lt_stream stream, void *out, const void *x, size_t bytes, const lt_conv_dims *d,
                           int up_h, int up_w, int64_t first, int64_t count)
{
    if (!is_size(bytes) || up_h < 1 || up_w < 1 || d->h % up_h || d->w % up_w || first < 0 || count < 0 ||
        first + count > d->n * d->to * d->ho * d->wo)
        return LT_E_INVALID;
    size_t unit = unit_of((uint64_t)d->i * bytes, out, x);
    int64_t run = d->i / (int64_t)(unit / bytes), items = count * d->kt * d->kh * d->kw * run;
    if (items == 0) return LT_OK;
    window p = {*d,
                divisor_of(run),
                divisor_of(d->kw),
                divisor_of(d->kh),
                divisor_of(d->kt),
                divisor_of(d->wo),
                divisor_of(d->ho),
                divisor_of(d->to),
                divisor_of(up_h),
                divisor_of(up_w),
                first};
    WITH_UNIT(unit, U,
              return launch(im2col<U>, blocks_of(items), 0, stream, (U *)out, (const U *)x, items, p));
}
