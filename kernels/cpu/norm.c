/* norm.c - group normalisation: one pass for the statistics, one to normalise and activate.
 *
 * A sample's rows are cut into blocks of a size that depends on the channels only. Each block's sums are taken in f64
 * around a shift (the sample's first row), so a mean far from zero costs no digits, and are added in the order of
 * the blocks. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

typedef struct norm {
    const cpu_simd *simd;
    bool bf16;
    const char *x;
    char *y;
    int64_t samples, rows, channels, groups;
    int64_t block_rows, n_blocks; /* per sample */
    double eps;
    lt_activation act;
    const float *gamma, *beta;
    float *shift;    /* [samples][channels]: of the group's first channel, for all its channels */
    double *partial; /* [samples][n_blocks][groups][2] */
    double *sums;    /* [threads][2][channels] */
    float *mean, *factor, *offset; /* [samples][channels] */
} norm;

static const char *row_of(const norm *p, int64_t sample, int64_t row)
{
    return p->x + (size_t)((sample * p->rows + row) * p->channels) * (p->bf16 ? 2 : 4);
}

static void find_shift(const norm *p, int64_t sample)
{
    float *shift = p->shift + sample * p->channels;
    int64_t width = p->channels / p->groups;
    p->simd->load(shift, row_of(p, sample, 0), p->bf16, p->channels);
    for (int64_t i = 0; i < p->channels; i++) {
        shift[i] = shift[i / width * width];
        if (!isfinite(shift[i])) shift[i] = 0;
    }
}

static void sum_block(const norm *p, double *sum, int64_t sample, int64_t block)
{
    int64_t width = p->channels / p->groups, first = block * p->block_rows;
    double *square = sum + p->channels;
    double *out = p->partial + (sample * p->n_blocks + block) * p->groups * 2;
    memset(sum, 0, (size_t)p->channels * 2 * sizeof(double));
    p->simd->norm_sums(row_of(p, sample, first), p->bf16, LT_MIN(p->block_rows, p->rows - first), p->channels,
                       p->shift + sample * p->channels, sum, square);
    for (int64_t g = 0; g < p->groups; g++) {
        out[2 * g] = out[2 * g + 1] = 0;
        for (int64_t i = g * width; i < (g + 1) * width; i++) {
            out[2 * g] += sum[i];
            out[2 * g + 1] += square[i];
        }
    }
}

/* The three values of every channel of a group: y = (x - mean) * factor + offset. mean is rounded to f32, and what the
 * rounding took goes into the offset. */
static void finish_group(const norm *p, int64_t sample, int64_t group)
{
    int64_t width = p->channels / p->groups, at = sample * p->channels + group * width;
    double sum = 0, square = 0, count = (double)(p->rows * width);
    for (int64_t b = 0; b < p->n_blocks; b++) {
        const double *partial = p->partial + ((sample * p->n_blocks + b) * p->groups + group) * 2;
        sum += partial[0];
        square += partial[1];
    }
    double away = sum / count; /* of the mean from the shift */
    double variance = square / count - away * away;
    if (variance < 0) variance = 0;
    double inverse = 1 / sqrt(variance + p->eps), mean = (double)p->shift[at] + away;
    for (int64_t i = 0; i < width; i++) {
        double factor = inverse * (double)p->gamma[group * width + i];
        p->mean[at + i] = (float)mean;
        p->factor[at + i] = (float)factor;
        p->offset[at + i] =
            (float)((double)p->beta[group * width + i] + ((double)(float)mean - mean) * factor);
    }
}

static void apply_block(const norm *p, int64_t sample, int64_t block)
{
    int64_t first = block * p->block_rows, at = sample * p->channels;
    size_t offset = (size_t)(row_of(p, sample, first) - p->x);
    p->simd->norm_apply(p->y + offset, p->x + offset, p->bf16, LT_MIN(p->block_rows, p->rows - first),
                        p->channels, p->mean + at, p->factor + at, p->offset + at, p->act);
}

static void run(const norm *p, int threads)
{
    int64_t n_pieces = p->samples * p->n_blocks;
#pragma omp parallel num_threads(threads)
    {
        double *sums = p->sums + (size_t)cpu_thread() * 2 * (size_t)p->channels;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < p->samples; n++) find_shift(p, n);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n_pieces; i++) sum_block(p, sums, i / p->n_blocks, i % p->n_blocks);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < p->samples * p->groups; i++) finish_group(p, i / p->groups, i % p->groups);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n_pieces; i++) apply_block(p, i / p->n_blocks, i % p->n_blocks);
    }
}

lt_status group_norm_cpu(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups,
                         double eps, lt_activation act, lt_tensor *y)
{
    enum { BLOCK_ELEMENTS = 65536 };
    const cpu_device *device = cpu_of(c);
    norm p = {.simd = device->simd,
              .bf16 = c->dtype == LT_BF16,
              .x = x->data,
              .y = y->data,
              .samples = x->shape[0],
              .channels = x->shape[x->rank - 1],
              .groups = groups,
              .eps = eps,
              .act = act};
    p.rows = lt_n_elements(x) / (p.samples * p.channels);
    p.block_rows = LT_MAX(1, BLOCK_ELEMENTS / p.channels);
    p.n_blocks = (p.rows + p.block_rows - 1) / p.block_rows;
    p.gamma = cpu_weight_vector(c, gamma);
    p.beta = cpu_weight_vector(c, beta);
    if (c->err.status != LT_OK) return c->err.status;
    size_t per_channel = (size_t)(p.samples * p.channels),
           n_partial = (size_t)(p.samples * p.n_blocks * groups * 2);
    /* Waking threads for less than a block each would cost more than it gives. */
    int threads = (int)LT_MIN((int64_t)device->threads, p.samples * p.n_blocks);
    size_t n_sums = (size_t)threads * 2 * (size_t)p.channels;
    void *scratch = lt_scratch(c, (n_partial + n_sums) * sizeof(double) + 4 * per_channel * sizeof(float));
    if (!scratch) return c->err.status;
    if (!c->dry) {
        p.partial = scratch;
        p.sums = p.partial + n_partial;
        p.shift = (float *)(p.sums + n_sums);
        p.mean = p.shift + per_channel;
        p.factor = p.mean + per_channel;
        p.offset = p.factor + per_channel;
        run(&p, threads);
    }
    lt_scratch_release(c, scratch);
    return LT_OK;
}
