/* denoiser_dit.c - the pieces of the diffusion transformers. */
#include "models/denoiser_dit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- positions ------------------------------------------------------------------------------------------------------- */

/* The place of index i of an axis, in f32 as the references compute it. */
static float place(const dit_positions *p, int axis, int64_t i)
{
    float count = (float)p->grid[axis];
    if (p->base[axis] == 0) {
        float part = (float)i / count, scaled = part * (float)(p->end - p->start);
        return scaled + (float)p->start;
    }
    float at = (float)i / (float)((double)p->grid[axis] / p->base[axis]);
    return p->scale == 1 ? at : at / (float)p->scale;
}

static void fill_axis(const dit_positions *p, int axis, double *rows)
{
    int half = p->axis_width / 2;
    for (int64_t i = 0; i < p->grid[axis] && p->offset[axis] >= 0; i++) {
        double *row = rows + i * p->width + p->offset[axis], at = (double)place(p, axis, i);
        for (int k = 0; k < half; k++) {
            double angle = at * (1.0 / pow(10000.0, (double)k * (2.0 / p->axis_width)));
            row[k] = sin(angle);
            row[half + k] = cos(angle);
        }
    }
}

/* The table for this grid, made only when it is another one than before. */
static double *positions_of(lt_context *c, dit_positions *p, const int64_t grid[3], double start, double end)
{
    bool had =
        p->table.data && memcmp(p->grid, grid, sizeof(p->grid)) == 0 && p->start == start && p->end == end;
    if (had) return p->table.data;
    size_t n = (size_t)(grid[0] + grid[1] + grid[2]) * (size_t)p->width;
    double *table = denoiser_reserve(c, &p->table, n * sizeof(double));
    if (!table) return NULL;
    memcpy(p->grid, grid, sizeof(p->grid));
    p->start = start;
    p->end = end;
    memset(table, 0, n * sizeof(double));
    fill_axis(p, 0, table);
    fill_axis(p, 1, table + grid[0] * p->width);
    fill_axis(p, 2, table + (grid[0] + grid[1]) * p->width);
    return table;
}

void dit_positions_finish(dit_positions *p)
{
    free(p->table.data);
    p->table = (denoiser_buffer){0};
}

/* Rows of one axis [n,width] in the context's dtype, projected; the bias is added with one axis only. */
static lt_tensor axis_rows(lt_context *c, const dit_positions *p, double *rows, int64_t n,
                           denoiser_affine *projection, bool bias)
{
    lt_tensor host = {.data = rows, .dtype = LT_F64, .rank = 2, .shape = {n, p->width}};
    lt_tensor x = lt_upload(c, host, c->dtype);
    if (!projection) return x;
    lt_tensor y = lt_linear(c, x, &projection->weight, bias ? &projection->bias : NULL, LT_ACT_NONE, LT_NONE);
    return denoiser_replace(c, &x, y);
}

lt_tensor dit_add_positions(lt_context *c, dit_positions *p, lt_tensor x, denoiser_affine *projection,
                            double start, double end)
{
    if (c->err.status != LT_OK) return LT_NONE;
    int64_t n = x.shape[0], gt = x.shape[1], gh = x.shape[2], gw = x.shape[3], width = x.shape[4];
    double *table = positions_of(c, p, &x.shape[1], start, end);
    if (!table) return LT_NONE;
    lt_tensor rows = axis_rows(c, p, table + gt * p->width, gh, projection, true);
    lt_tensor columns = axis_rows(c, p, table + (gt + gh) * p->width, gw, projection, false);
    lt_tensor frame = lt_upsample_nearest(c, LT_VIEW(c, rows, 1, 1, gh, 1, width), 1, 1, (int)gw);
    lt_drop(c, &rows);
    frame = denoiser_replace(c, &frame, lt_add_broadcast(c, LT_VIEW(c, frame, gh, gw, width), columns));
    lt_drop(c, &columns);
    x = denoiser_replace(c, &x, lt_add_broadcast(c, x, frame));
    lt_drop(c, &frame);
    if (p->offset[0] < 0) return x;
    lt_tensor once = axis_rows(c, p, table, gt, projection, false);
    lt_tensor frames = denoiser_repeat(c, LT_VIEW(c, once, 1, gt, width), n);
    lt_drop(c, &once);
    lt_tensor y =
        lt_add_gated(c, LT_VIEW(c, x, n * gt, gh * gw, width), LT_VIEW(c, frames, n * gt, width), LT_NONE);
    lt_drop(c, &frames);
    y = denoiser_replace(c, &x, y);
    return LT_VIEW(c, y, n, gt, gh, gw, width);
}

lt_tensor dit_patchify(lt_context *c, lt_tensor x, denoiser_affine *projection)
{
    const lt_tensor *w = &projection->weight.tensor;
    const lt_conv_params params = {.stride_t = w->rank == 5 ? (int)w->shape[2] : 1,
                                   .stride_h = (int)w->shape[w->rank - 2],
                                   .stride_w = (int)w->shape[w->rank - 1]};
    return lt_conv(c, x, &projection->weight, &projection->bias, params, LT_NONE);
}

/* ---- attention, feed-forward ------------------------------------------------------------------------------------------- */

void dit_add_attention(denoiser_builder *b, dit_attention *a, const char *module, const char *out,
                       int64_t width, int64_t context_width)
{
    char name[110];
    snprintf(name, sizeof(name), "%s.to_q", module);
    denoiser_add_linear(b, &a->q, name, width, width, true);
    snprintf(name, sizeof(name), "%s.to_k", module);
    denoiser_add_linear(b, &a->k, name, context_width, width, true);
    snprintf(name, sizeof(name), "%s.to_v", module);
    denoiser_add_linear(b, &a->v, name, context_width, width, true);
    snprintf(name, sizeof(name), "%s.%s", module, out);
    denoiser_add_linear(b, &a->out, name, width, width, true);
}

lt_tensor dit_attend(lt_context *c, dit_attention *a, lt_tensor x, lt_tensor context, lt_tensor mask,
                     int heads, lt_tensor residual)
{
    if (c->err.status != LT_OK) return LT_NONE;
    int64_t n = x.shape[0], l = x.shape[1], s = context.shape[1], head = x.shape[2] / heads;
    lt_tensor q = denoiser_linear(c, x, &a->q, LT_ACT_NONE, LT_NONE);
    lt_tensor k = denoiser_linear(c, context, &a->k, LT_ACT_NONE, LT_NONE);
    lt_tensor v = denoiser_linear(c, context, &a->v, LT_ACT_NONE, LT_NONE);
    lt_tensor o = lt_attention(c, LT_VIEW(c, q, n, l, heads, head), LT_VIEW(c, k, n, s, heads, head),
                               LT_VIEW(c, v, n, s, heads, head), mask, 1.0 / sqrt((double)head), false);
    lt_drop(c, &q);
    lt_drop(c, &k);
    lt_drop(c, &v);
    lt_tensor y = denoiser_linear(c, LT_VIEW(c, o, n, l, heads * head), &a->out, LT_ACT_NONE, residual);
    return denoiser_replace(c, &o, y);
}

lt_tensor dit_feed(lt_context *c, dit_feed_forward *f, lt_tensor x)
{
    x = denoiser_replace(c, &x, denoiser_linear(c, x, &f->in, LT_ACT_GELU_TANH, LT_NONE));
    return denoiser_replace(c, &x, denoiser_linear(c, x, &f->out, LT_ACT_NONE, LT_NONE));
}

/* ---- conditioning ------------------------------------------------------------------------------------------------------ */

lt_tensor dit_embed_values(lt_context *c, lt_denoiser *d, dit_time *t, const double *values, int n)
{
    lt_tensor x = denoiser_sinusoids(c, d, values, n, (int)t->first.weight.tensor.shape[1]);
    x = denoiser_replace(c, &x, denoiser_linear(c, x, &t->first, LT_ACT_SILU, LT_NONE));
    return denoiser_replace(c, &x, denoiser_linear(c, x, &t->second, LT_ACT_NONE, LT_NONE));
}

/* x [N,L,C] with as many leading rows as a modulation has: one for all samples, or one for each. */
static lt_tensor by_rows(lt_context *c, lt_tensor x, lt_tensor modulation)
{
    if (c->err.status != LT_OK) return LT_NONE;
    int64_t rows = modulation.shape[0];
    return LT_VIEW(c, x, rows, x.shape[0] * x.shape[1] / rows, x.shape[2]);
}

lt_tensor dit_modulated_norm(lt_context *c, lt_tensor x, double eps, lt_tensor scale, lt_tensor shift)
{
    lt_tensor y = lt_layer_norm(c, by_rows(c, x, scale), NULL, NULL, eps, scale, shift);
    return lt_view(c, y, x.rank, x.shape);
}

lt_tensor dit_add_gated(lt_context *c, lt_tensor x, lt_tensor y, lt_tensor gate)
{
    lt_tensor sum = lt_add_gated(c, by_rows(c, x, gate), by_rows(c, y, gate), gate);
    sum = lt_view(c, sum, x.rank, x.shape);
    lt_drop(c, &x);
    lt_drop(c, &y);
    return sum;
}

/* ---- architecture ------------------------------------------------------------------------------------------------------ */

int dit_dim(const lt_checkpoint *checkpoint, int axis, const char *prefix, const char *module,
            const char *leaf)
{
    int64_t size = denoiser_dim(checkpoint, axis, prefix, "%s%s", module, leaf);
    return size > 65536 ? 0 : (int)size;
}

bool dit_patch_is_sane(const int patch[3])
{
    for (int i = 0; i < 3; i++)
        if (patch[i] < 1 || patch[i] > 64) return false;
    return true;
}

int dit_count(const lt_checkpoint *checkpoint, const char *prefix, const char *pattern)
{
    int n = 0;
    for (;; n++) {
        char name[120];
        const char *at = strstr(pattern, "%d");
        snprintf(name, sizeof(name), "%.*s%d%s", (int)(at - pattern), pattern, n, at + 2);
        if (n == DIT_MAX_BLOCKS || !denoiser_holds(checkpoint, prefix, name)) return n;
    }
}
