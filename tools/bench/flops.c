/* flops.c - a backend's table with counters in front of its operators. */
#include "tools/bench/flops.h"

enum {
    CONV,
    LINEAR,
    ATTENTION,
    GROUP_NORM,
    LAYER_NORM,
    RMS_NORM,
    ADD_SCALED,
    AFFINE,
    ADD_BROADCAST,
    ADD_GATED,
    MULTIPLY,
    COMBINE,
    GATED,
    PIXELS
};
static const char *const names[BENCH_N_KINDS] = {[CONV] = "conv",
                                                 [LINEAR] = "linear",
                                                 [ATTENTION] = "attention",
                                                 [GROUP_NORM] = "group_norm",
                                                 [LAYER_NORM] = "layer_norm",
                                                 [RMS_NORM] = "rms_norm",
                                                 [ADD_SCALED] = "add_scaled",
                                                 [AFFINE] = "affine",
                                                 [ADD_BROADCAST] = "add_broadcast",
                                                 [ADD_GATED] = "add_gated",
                                                 [MULTIPLY] = "multiply",
                                                 [COMBINE] = "combine",
                                                 [GATED] = "gated",
                                                 [PIXELS] = "pixels"};

/* An operator counts when its backend has returned: what was added since is the one's before this. So every one that counts has to be
 * here; what another counts would be taken for the one's before it, which tests/models/flops.py sees. */
static const lt_backend *enter(lt_context *c, int kind)
{
    bench_flops *flops = (bench_flops *)c->backend;
    if (flops->last >= 0) flops->of[flops->last] += c->flops - flops->seen;
    flops->seen = c->flops;
    flops->last = kind;
    return flops->original;
}

static lt_status conv(lt_context *c, const lt_tensor *x, lt_weight *w, lt_weight *b, const lt_conv_dims *dims,
                      const lt_tensor *residual, lt_tensor *y)
{
    return enter(c, CONV)->conv(c, x, w, b, dims, residual, y);
}

static lt_status upsample_conv(lt_context *c, const lt_tensor *x, lt_weight *w, lt_weight *b,
                               const lt_conv_dims *dims, lt_tensor *y)
{
    return enter(c, CONV)->upsample_conv(c, x, w, b, dims, y);
}

static lt_status linear(lt_context *c, const lt_tensor *x, lt_weight *w, lt_weight *b, lt_activation act,
                        const lt_tensor *residual, lt_tensor *y)
{
    return enter(c, LINEAR)->linear(c, x, w, b, act, residual, y);
}

static lt_status attention(lt_context *c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v,
                           const lt_tensor *mask, double scale, bool causal, lt_tensor *y)
{
    return enter(c, ATTENTION)->attention(c, q, k, v, mask, scale, causal, y);
}

static lt_status group_norm(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups,
                            double eps, lt_activation act, lt_tensor *y)
{
    return enter(c, GROUP_NORM)->group_norm(c, x, gamma, beta, groups, eps, act, y);
}

static lt_status layer_norm(lt_context *c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
                            const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y)
{
    return enter(c, LAYER_NORM)->layer_norm(c, x, gamma, beta, eps, scale, shift, y);
}

static lt_status rms_norm(lt_context *c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y)
{
    return enter(c, RMS_NORM)->rms_norm(c, x, gamma, eps, y);
}

static lt_status add_scaled(lt_context *c, const lt_tensor *x, const lt_tensor *y, double a, lt_tensor *out)
{
    return enter(c, ADD_SCALED)->add_scaled(c, x, y, a, out);
}

static lt_status affine(lt_context *c, const lt_tensor *x, double a, double b, lt_activation act,
                        lt_tensor *out)
{
    return enter(c, AFFINE)->affine(c, x, a, b, act, out);
}

static lt_status add_broadcast(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    return enter(c, ADD_BROADCAST)->add_broadcast(c, x, y, out);
}

static lt_status add_gated(lt_context *c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate,
                           lt_tensor *out)
{
    return enter(c, ADD_GATED)->add_gated(c, x, y, gate, out);
}

static lt_status multiply(lt_context *c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out)
{
    return enter(c, MULTIPLY)->multiply(c, x, y, out);
}

static lt_status combine(lt_context *c, const lt_tensor *x, double a, const lt_tensor *y, double b,
                         lt_tensor *out)
{
    return enter(c, COMBINE)->combine(c, x, a, y, b, out);
}

static lt_status gated(lt_context *c, const lt_tensor *x, lt_activation act, lt_tensor *out)
{
    return enter(c, GATED)->gated(c, x, act, out);
}

static lt_status pixels_to_values(lt_context *c, const lt_tensor *pixels, int bits, lt_tensor *out)
{
    return enter(c, PIXELS)->pixels_to_values(c, pixels, bits, out);
}

static lt_status values_to_pixels(lt_context *c, const lt_tensor *x, int bits, bool truncate, lt_tensor *out)
{
    return enter(c, PIXELS)->values_to_pixels(c, x, bits, truncate, out);
}

void bench_flops_watch(bench_flops *flops, lt_context *context)
{
    *flops = (bench_flops){.table = *context->backend, .original = context->backend, .last = -1};
    flops->table.conv = conv;
    flops->table.upsample_conv = upsample_conv;
    flops->table.linear = linear;
    flops->table.attention = attention;
    flops->table.group_norm = group_norm;
    flops->table.layer_norm = layer_norm;
    flops->table.rms_norm = rms_norm;
    flops->table.add_scaled = add_scaled;
    flops->table.affine = affine;
    flops->table.add_broadcast = add_broadcast;
    flops->table.add_gated = add_gated;
    flops->table.multiply = multiply;
    flops->table.combine = combine;
    flops->table.gated = gated;
    flops->table.pixels_to_values = pixels_to_values;
    flops->table.values_to_pixels = values_to_pixels;
    context->backend = &flops->table;
    context->flops = 0;
}

void bench_flops_stop(bench_flops *flops, lt_context *context)
{
    enter(context, -1);
    context->backend = flops->original;
}

double bench_flops_products(const bench_flops *flops)
{
    double sum = 0;
    for (int i = 0; i < BENCH_N_PRODUCTS; i++) sum += flops->of[i];
    return sum;
}

double bench_flops_all(const bench_flops *flops)
{
    double sum = 0;
    for (int i = 0; i < BENCH_N_KINDS; i++) sum += flops->of[i];
    return sum;
}

void bench_flops_print(const bench_flops *flops, FILE *out)
{
    fprintf(out, "\"flops\": %.0f, \"products\": %.0f, \"kinds\": {", bench_flops_all(flops),
            bench_flops_products(flops));
    bool first = true;
    for (int i = 0; i < BENCH_N_KINDS; i++) {
        if (flops->of[i] == 0) continue;
        fprintf(out, "%s\"%s\": %.0f", first ? "" : ", ", names[i], flops->of[i]);
        first = false;
    }
    fprintf(out, "}");
}
