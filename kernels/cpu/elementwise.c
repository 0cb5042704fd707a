/* elementwise.c - operators that move or map elements, in pieces of a fixed size. */
#include "kernels/cpu/cpu.h"
#include "kernels/convert.h"

enum { PIECE = 32768 };

/* One elementwise operator: what a piece of it needs. */
typedef struct job {
    const cpu_simd *simd;
    bool bf16;
    const lt_tensor *x, *y;
    lt_tensor *out;
    float a, b;
    lt_activation act;
    bool wide, truncate;
} job;

typedef void piece_function(const job *j, int64_t start, int64_t n);

/* All pieces of `total` elements, in parallel; what fits in one stays on the calling thread. */
static lt_status for_pieces(lt_context *c, job j, int64_t total, piece_function *function)
{
    if (c->dry) return LT_OK;
    int64_t n_pieces = (total + PIECE - 1) / PIECE;
    j.simd = cpu_of(c)->simd;
    j.bf16 = c->dtype == LT_BF16;
#pragma omp parallel for num_threads(cpu_of(c)->threads) schedule(static) if (n_pieces > 1)
    for (int64_t i = 0; i < n_pieces; i++) function(&j, i * PIECE, LT_MIN((int64_t)PIECE, total - i * PIECE));
    return LT_OK;
}

static const char *at(const lt_tensor *t, int64_t element)
{
    return (const char *)t->data + (size_t)element * lt_dtype_bytes(t->dtype);
}

static char *at_out(lt_tensor *t, int64_t element)
{
    return (char *)t->data + (size_t)element * lt_dtype_bytes(t->dtype);
}

static void add_scaled(const job *j, int64_t i, int64_t n)
{
    j->simd->add_scaled(at_out(j->out, i), at(j->x, i), at(j->y, i), j->bf16, j->a, n);
}

lt_status add_scaled_cpu(lt_context *c, const lt_tensor *x, const lt_tensor *y, double a, lt_tensor *out)
{
    return for_pieces(c, (job){.x = x, .y = y, .a = (float)a, .out = out}, lt_n_elements(x), add_scaled);
}

static void affine(const job *j, int64_t i, int64_t n)
{
    j->simd->affine(at_out(j->out, i), at(j->x, i), j->bf16, j->a, j->b, j->act, n);
}

lt_status affine_cpu(lt_context *c, const lt_tensor *x, double a, double b, lt_activation act, lt_tensor *out)
{
    job j = {.x = x, .a = (float)a, .b = (float)b, .act = act, .out = out};
    return for_pieces(c, j, lt_n_elements(x), affine);
}

/* Output row (n, t, h): a source row with every pixel written fw times. */
static void widen_row(char *out, const char *in, int64_t pixels, size_t pixel_bytes, int factor)
{
    for (int64_t w = 0; w < pixels; w++, in += pixel_bytes)
        for (int i = 0; i < factor; i++, out += pixel_bytes) memcpy(out, in, pixel_bytes);
}

lt_status upsample_nearest_cpu(lt_context *c, const lt_tensor *x, int ft, int fh, int fw, lt_tensor *y)
{
    if (c->dry) return LT_OK;
    const int64_t *in = x->shape, *out = y->shape;
    int64_t n_rows = out[0] * out[1] * out[2];
    size_t pixel_bytes = (size_t)in[4] * lt_dtype_bytes(x->dtype);
    size_t in_bytes = (size_t)in[3] * pixel_bytes, out_bytes = (size_t)out[3] * pixel_bytes;
#pragma omp parallel for num_threads(cpu_of(c)->threads) schedule(static) if (lt_n_elements(y) > PIECE)
    for (int64_t row = 0; row < n_rows; row++) {
        int64_t n = row / (out[1] * out[2]), t = row / out[2] % out[1], h = row % out[2];
        int64_t from = (n * in[1] + t / ft) * in[2] + h / fh;
        widen_row((char *)y->data + (size_t)row * out_bytes, (const char *)x->data + (size_t)from * in_bytes,
                  in[3], pixel_bytes, fw);
    }
    return LT_OK;
}

lt_status slice_channels_cpu(lt_context *c, const lt_tensor *x, int64_t start, lt_tensor *out)
{
    if (c->dry) return LT_OK;
    int64_t channels = x->shape[x->rank - 1], n = out->shape[out->rank - 1], rows = lt_n_elements(out) / n;
    size_t size = lt_dtype_bytes(x->dtype);
#pragma omp parallel for num_threads(cpu_of(c)->threads) schedule(static) if (rows * n > PIECE)
    for (int64_t r = 0; r < rows; r++)
        memcpy(at_out(out, r * n), at(x, r * channels + start), (size_t)n * size);
    return LT_OK;
}

static void copy(const job *j, int64_t i, int64_t n)
{
    memcpy(at_out(j->out, i), at(j->x, i), (size_t)n * lt_dtype_bytes(j->x->dtype));
}

static void f32_to_bf16(const job *j, int64_t i, int64_t n)
{
    j->simd->store(at_out(j->out, i), (const float *)j->x->data + i, true, n);
}

static void bf16_to_f32(const job *j, int64_t i, int64_t n)
{
    j->simd->load((float *)j->out->data + i, at(j->x, i), true, n);
}

static void any_to_any(const job *j, int64_t i, int64_t n)
{
    for (int64_t e = i; e < i + n; e++)
        lt_store_f64(j->out->data, j->out->dtype, e, lt_load_f64(j->x->data, j->x->dtype, e));
}

lt_status convert_cpu(lt_context *c, const lt_tensor *x, lt_tensor *out)
{
    piece_function *function = any_to_any;
    if (x->dtype == out->dtype) function = copy;
    if (x->dtype == LT_F32 && out->dtype == LT_BF16) function = f32_to_bf16;
    if (x->dtype == LT_BF16 && out->dtype == LT_F32) function = bf16_to_f32;
    return for_pieces(c, (job){.x = x, .out = out}, lt_n_elements(x), function);
}

static void from_pixels(const job *j, int64_t i, int64_t n)
{
    j->simd->from_pixels(at_out(j->out, i), j->bf16, at(j->x, i), j->wide, j->a, n);
}

lt_status pixels_to_values_cpu(lt_context *c, const lt_tensor *pixels, int bits, lt_tensor *out)
{
    job j = {.x = pixels, .a = (float)((1 << bits) - 1) / 2, .wide = pixels->dtype == LT_U16, .out = out};
    return for_pieces(c, j, lt_n_elements(pixels), from_pixels);
}

static void to_pixels(const job *j, int64_t i, int64_t n)
{
    j->simd->to_pixels(at_out(j->out, i), j->wide, at(j->x, i), j->bf16, j->a, j->truncate, n);
}

lt_status values_to_pixels_cpu(lt_context *c, const lt_tensor *x, int bits, bool truncate, lt_tensor *out)
{
    job j = {.x = x,
             .a = (float)((1 << bits) - 1),
             .wide = out->dtype == LT_U16,
             .truncate = truncate,
             .out = out};
    return for_pieces(c, j, lt_n_elements(x), to_pixels);
}

/* One line of a tile: n pixels from column 0 on. `near` is the line's own distance from its inner sides. */
static void add_line(const lt_tile_weights *w, int64_t near, int64_t first, int64_t n, int64_t channels,
                     const float *from, float *to)
{
    for (int64_t x = first; x < first + n; x++) {
        float weight = lt_tile_weight(w, LT_MIN(near, lt_ramp_distance(&w->columns, x, w->border)));
        for (int64_t k = 0; k < channels; k++) *to++ += *from++ * weight;
    }
}

enum { LINE_VALUES = 1024 };

lt_status add_tile_cpu(lt_context *c, const lt_tensor *tile, const lt_tile_weights *w, int64_t row,
                       int64_t column, lt_tensor *sums)
{
    if (c->dry) return LT_OK;
    const int64_t *s = tile->shape, *all = sums->shape;
    int64_t width = s[2], channels = s[3], n_lines = s[0] * s[1];
#pragma omp parallel for num_threads(cpu_of(c)->threads) schedule(static) if (lt_n_elements(tile) > PIECE)
    for (int64_t line = 0; line < n_lines; line++) {
        int64_t t = line / s[1], y = line % s[1];
        int64_t near =
            LT_MIN(lt_ramp_distance(&w->time, t, w->border), lt_ramp_distance(&w->rows, y, w->border));
        float *to = (float *)sums->data + ((t * all[1] + row + y) * all[2] + column) * channels;
        float values[LINE_VALUES];
        int64_t step = tile->dtype == LT_F32 ? width : LT_MAX(LINE_VALUES / channels, 1);
        for (int64_t x = 0; x < width; x += step) {
            int64_t n = LT_MIN(step, width - x), at_tile = (line * width + x) * channels;
            const float *from = (const float *)(const void *)at(tile, at_tile);
            if (tile->dtype != LT_F32) {
                cpu_of(c)->simd->load(values, from, true, n * channels);
                from = values;
            }
            add_line(w, near, x, n, channels, from, to + x * channels);
        }
    }
    return LT_OK;
}
