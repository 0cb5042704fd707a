/* kernelcheck_bench.c - what each operator reaches on shapes of the SVD video VAE and of a UNet, in GFLOP/s, or in GB/s of
 * activations read and written once where memory is the limit.
 *
 * The best of several runs counts: the machine may be shared. Compare operators of one run with each other and with
 * its "direct peak", a 3x3 convolution that computes every product: those
 * with a stride of 1 and many channels compute fewer than are counted (kernels/cpu/winograd.c). */
#include "tests/kernels/kernelcheck.h"
#include "kernels/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct bench_case {
    const char *name;
    enum { CONV, UPSAMPLE_CONV, LINEAR, NORM, ATTENTION, UPSAMPLE, ADD, SILU, TO_PIXELS, FROM_PIXELS } op;
    int64_t x[5]; /* N,T,H,W,C; attention: B,L,heads,D */
    int64_t out, kt, kh, kw, stride;
    bool residual;
} bench_case;

/* Too much work for a processor. The first is the ceiling that the others are measured by. */
static const bench_case device_cases[] = {
    {"linear 8192x8192->8192 (ceiling)", LINEAR, {1, 1, 1, 8192, 8192}, 8192, 1, 1, 1, 1, false},
    {"conv 3x3 512->512 8x144x256", CONV, {8, 1, 144, 256, 512}, 512, 1, 3, 3, 1, false},
    {"conv 3x3 128->128 8x576x1024", CONV, {8, 1, 576, 1024, 128}, 128, 1, 3, 3, 1, false},
    {"upsample + conv 3x3 512 8x144x256", UPSAMPLE_CONV, {8, 1, 144, 256, 512}, 512, 1, 3, 3, 1, false},
    {"linear 131072x1152->4608", LINEAR, {2, 1, 1, 65536, 1152}, 4608, 1, 1, 1, 1, false},
    {"attention 16384, 16 heads of 72", ATTENTION, {2, 16384, 16, 72, 0}, 0, 0, 0, 0, 0, false},
    {"group norm + silu 128 8x576x1024", NORM, {8, 1, 576, 1024, 128}, 0, 0, 0, 0, 0, false},
};

static const bench_case cases[] = {
    {"conv 3x3 512->512 s2 (direct peak)", CONV, {1, 1, 144, 256, 512}, 512, 1, 3, 3, 2, false},
    {"conv 3x3 512->512 72x128", CONV, {1, 1, 72, 128, 512}, 512, 1, 3, 3, 1, false},
    {"conv 3x3 512->512 + residual", CONV, {1, 1, 72, 128, 512}, 512, 1, 3, 3, 1, true},
    {"conv 3x3 256->256 288x512", CONV, {1, 1, 288, 512, 256}, 256, 1, 3, 3, 1, false},
    {"conv 3x3 128->128 576x1024", CONV, {1, 1, 576, 1024, 128}, 128, 1, 3, 3, 1, false},
    {"conv 3x3 128->128 + residual", CONV, {1, 1, 576, 1024, 128}, 128, 1, 3, 3, 1, true},
    {"conv 3x3 256->128 288x512", CONV, {1, 1, 288, 512, 256}, 128, 1, 3, 3, 1, false},
    {"conv 3x3 128->128 stride 2", CONV, {1, 1, 576, 1024, 128}, 128, 1, 3, 3, 2, false},
    {"conv 3x3 3->128 576x1024", CONV, {1, 1, 576, 1024, 3}, 128, 1, 3, 3, 1, false},
    {"conv 3x3 128->3 576x1024", CONV, {1, 1, 576, 1024, 128}, 3, 1, 3, 3, 1, false},
    {"conv 3x3 4->512 72x128", CONV, {1, 1, 72, 128, 4}, 512, 1, 3, 3, 1, false},
    {"conv 3x3 512->8 72x128", CONV, {1, 1, 72, 128, 512}, 8, 1, 3, 3, 1, false},
    {"conv 3,1,1 512->512 8x72x128", CONV, {1, 8, 72, 128, 512}, 512, 3, 1, 1, 1, false},
    {"conv 3,1,1 512->512 + residual", CONV, {1, 8, 72, 128, 512}, 512, 3, 1, 1, 1, true},
    {"conv 3,1,1 128->128 4x288x512", CONV, {1, 4, 288, 512, 128}, 128, 3, 1, 1, 1, false},
    {"conv 3,1,1 3->3 4x576x1024", CONV, {1, 4, 576, 1024, 3}, 3, 3, 1, 1, 1, false},
    {"linear 9216x512->512", LINEAR, {1, 1, 1, 9216, 512}, 512, 1, 1, 1, 1, false},
    {"linear 9216x320->2560", LINEAR, {1, 1, 1, 9216, 320}, 2560, 1, 1, 1, 1, false},
    {"linear 77x4096->10240", LINEAR, {1, 1, 1, 77, 4096}, 10240, 1, 1, 1, 1, false},
    {"linear 147456x256->128", LINEAR, {1, 1, 1, 147456, 256}, 128, 1, 1, 1, 1, false},
    {"attention 9216, 1 head of 512", ATTENTION, {1, 9216, 1, 512, 0}, 0, 0, 0, 0, 0, false},
    {"attention 2304, 8 heads of 64", ATTENTION, {1, 2304, 8, 64, 0}, 0, 0, 0, 0, 0, false},
    {"attention 14, 5 heads of 64, 2304x", ATTENTION, {2304, 14, 5, 64, 0}, 0, 0, 0, 0, 0, false},
    {"group norm + silu 128 576x1024", NORM, {1, 1, 576, 1024, 128}, 0, 0, 0, 0, 0, false},
    {"group norm + silu 512 72x128", NORM, {1, 1, 72, 128, 512}, 0, 0, 0, 0, 0, false},
    {"upsample 2x2 256 288x512", UPSAMPLE, {1, 1, 288, 512, 256}, 0, 1, 2, 2, 0, false},
    {"upsample + conv 3x3 256 144x256", UPSAMPLE_CONV, {1, 1, 144, 256, 256}, 256, 1, 3, 3, 1, false},
    {"upsample + conv 3x3 512 72x128", UPSAMPLE_CONV, {1, 1, 72, 128, 512}, 512, 1, 3, 3, 1, false},
    {"add 128 576x1024", ADD, {1, 1, 576, 1024, 128}, 0, 0, 0, 0, 0, false},
    {"silu 128 576x1024", SILU, {1, 1, 576, 1024, 128}, 0, 0, 0, 0, 0, false},
    {"pixels to values 8x576x1024x3", FROM_PIXELS, {1, 8, 576, 1024, 3}, 0, 0, 0, 0, 0, false},
    {"values to pixels 8x576x1024x3", TO_PIXELS, {1, 8, 576, 1024, 3}, 0, 0, 0, 0, 0, false},
};

static lt_weight random_weight(rng *r, int rank, const int64_t *shape, double scale)
{
    lt_weight w = {.tensor = {.dtype = LT_F32, .rank = rank}};
    for (int i = 0; i < rank; i++) w.tensor.shape[i] = shape[i];
    int64_t n = lt_n_elements(&w.tensor);
    float *values = malloc((size_t)n * sizeof(float));
    if (!values) abort();
    for (int64_t i = 0; i < n; i++) values[i] = (float)(scale * (rng_uniform(r) - 0.5));
    w.tensor.data = values;
    return w;
}

/* Uniform values in the context's dtype: the machine is as fast on them as on others, and they cost little to make. */
static lt_tensor random_activation(lt_context *c, rng *r, lt_dtype dtype, int rank, const int64_t *shape)
{
    lt_tensor t = lt_new(c, dtype, rank, shape);
    if (!t.data || c->dry) return t;
    int64_t n = lt_n_elements(&t);
    uint32_t state = (uint32_t)rng_next(r);
    void *data = lt_begin_upload(c, t);
    for (int64_t i = 0; i < n && data; i++) {
        state = state * 1664525u + 1013904223u;
        float f = (float)(state >> 8) * 0x1p-23f - 1;
        if (dtype == LT_F32) ((float *)data)[i] = f;
        if (dtype == LT_BF16)
            ((uint16_t *)data)[i] = (uint16_t)((state & 0x8000) | 0x3e00 | (state >> 24 & 0x1ff));
        if (dtype == LT_U8) ((uint8_t *)data)[i] = (uint8_t)(state >> 24);
    }
    lt_end_upload(c, t);
    return t;
}

/* Processor time of all threads: on a machine that others use too it says more than the wall's. */
static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static lt_tensor run_bench(lt_context *c, const bench_case *b, lt_tensor x, lt_tensor other, lt_weight *w,
                           lt_weight *v)
{
    lt_conv_params p = {.stride_h = (int)b->stride, .stride_w = (int)b->stride};
    p.pad_front = p.pad_back = b->kt == 3;
    p.pad_top = p.pad_left = b->kh == 3 && b->stride == 1;
    p.pad_bottom = p.pad_right = b->kh == 3;
    switch (b->op) {
    case CONV: return lt_conv(c, x, w, v, p, other);
    case UPSAMPLE_CONV: return lt_upsample_conv(c, x, w, v);
    case LINEAR: return lt_linear(c, x, w, v, LT_ACT_NONE, LT_NONE);
    case NORM: return lt_group_norm(c, x, v, v, 32, 1e-6, LT_ACT_SILU);
    case ATTENTION: return lt_attention(c, x, x, x, LT_NONE, 0.05, false);
    case UPSAMPLE: return lt_upsample_nearest(c, x, (int)b->kt, (int)b->kh, (int)b->kw);
    case ADD: return lt_add_scaled(c, x, other, 1);
    case SILU: return lt_affine(c, x, 1, 0, LT_ACT_SILU);
    case FROM_PIXELS: return lt_pixels_to_values(c, x, 8);
    default: return lt_values_to_pixels(c, x, 8, false);
    }
}

/* One case in a context that is dry or real; *seconds is the best of the repetitions, or stays. A device that works by itself is asked for
 * several at a time. */
static lt_status measure(lt_context *c, const bench_case *b, double *seconds, double *cpu, double *bytes,
                         double *flops, lt_err *err)
{
    int at_once = c->dry || c->backend->host_memory ? 1 : 10;
    rng r;
    rng_seed(&r, 1);
    int64_t last = b->op == ATTENTION ? b->x[3] : b->x[4], out = b->out ? b->out : last;
    int64_t w_shape[] = {out, last, b->kt, b->kh, b->kw},
            y_shape[] = {b->x[0], b->x[1], b->x[2], b->x[3], out};
    lt_tensor other = LT_NONE, x = random_activation(c, &r, b->op == FROM_PIXELS ? LT_U8 : c->dtype,
                                                     b->op == ATTENTION ? 4 : 5, b->x);
    if (b->residual || b->op == ADD) other = random_activation(c, &r, c->dtype, 5, y_shape);
    lt_weight w = {0}, v = random_weight(&r, 1, &out, 1);
    if (b->op == CONV || b->op == UPSAMPLE_CONV || b->op == LINEAR) w = random_weight(&r, 5, w_shape, 0.1);
    for (int i = 0; i < (c->dry ? 1 : 4); i++) {
        lt_tensor y = LT_NONE;
        lt_wait(c);
        c->flops = 0;
        double cpu_start = cpu_seconds();
        int64_t start = lt_now_ns();
        for (int k = 0; k < at_once; k++) {
            lt_drop(c, &y);
            y = run_bench(c, b, x, other, &w, &v);
        }
        lt_wait(c);
        double took = (double)(lt_now_ns() - start) * 1e-9 / at_once;
        double cpu_took = (cpu_seconds() - cpu_start) / at_once;
        c->flops /= at_once;
        if (i > 0 && (*seconds == 0 || took < *seconds)) *seconds = took;
        if (i > 0 && (*cpu == 0 || cpu_took < *cpu)) *cpu = cpu_took;
        if (y.data)
            *bytes = (double)(lt_tensor_bytes(&x) + lt_tensor_bytes(&y) +
                              (other.data ? lt_tensor_bytes(&other) : 0));
        *flops = c->flops;
        lt_drop(c, &y);
    }
    lt_drop(c, &other);
    lt_drop(c, &x);
    lt_weight_finish(c, &w);
    lt_weight_finish(c, &v);
    free(w.tensor.data);
    free(v.tensor.data);
    return lt_context_status(c, err);
}

static bool bench_one(const bench_case *b, const char *device, lt_dtype dtype, int threads)
{
    double seconds = 0, cpu = 0, bytes = 0, flops = 0;
    lt_context *dry = NULL, *c = NULL;
    lt_err err = {0};
    lt_status status = lt_context_create(&dry, device, dtype, 0, threads, &err);
    if (status == LT_OK) status = measure(dry, b, &seconds, &cpu, &bytes, &flops, &err);
    if (status == LT_OK)
        status = lt_context_create(&c, device, dtype, lt_workspace_peak(dry->workspace), threads, &err);
    seconds = cpu = 0;
    if (status == LT_OK) status = measure(c, b, &seconds, &cpu, &bytes, &flops, &err);
    lt_context_destroy(dry);
    lt_context_destroy(c);
    if (status != LT_OK) {
        printf("%-36s %s\n", b->name, err.text);
        return false;
    }
    bool compute = b->op == CONV || b->op == UPSAMPLE_CONV || b->op == LINEAR || b->op == ATTENTION;
    printf("%-36s %-5s %9.2f ms  %7.1f %s, %7.1f a processor second\n", b->name, lt_dtype_name(dtype),
           seconds * 1e3, (compute ? flops : bytes) / seconds * 1e-9, compute ? "GFLOP/s" : "GB/s",
           (compute ? flops : bytes) / cpu * 1e-9);
    fflush(stdout);
    return true;
}

int bench(const char *device, int threads, const char *filter)
{
    static const lt_dtype dtypes[] = {LT_F32, LT_BF16};
    int failures = 0;
    bool is_device = strcmp(device, "cpu") != 0;
    for (size_t i = 0; i < LT_COUNT(device_cases) && is_device; i++) {
        if (filter && !strstr(device_cases[i].name, filter)) continue;
        failures += !bench_one(&device_cases[i], device, LT_BF16, threads);
    }
    for (size_t d = 0; d < LT_COUNT(dtypes); d++) {
        for (size_t i = 0; i < LT_COUNT(cases); i++) {
            if (filter && !strstr(cases[i].name, filter)) continue;
            failures += !bench_one(&cases[i], device, dtypes[d], threads);
        }
    }
    return failures != 0;
}
