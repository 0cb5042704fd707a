/* kernelcheck - runs every operator of every backend on random shapes and values against the f64 reference, and checks
 * what the contract promises besides: nothing is written outside the result, inputs stay as they are, the same bytes for
 * any number of threads and for a sample alone, a dry run that is exact, no workspace leaked.
 *
 *     kernelcheck [--seed N] [--cases N] [--op NAME] [--bench] [--threads N] [--verbose]
 *
 * In the manner of dav1d's checkasm. The seed is printed; --seed repeats a run. */
#include "tests/kernels/kernelcheck.h"
#include "kernels/backend.h"
#include "kernels/convert.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct checker {
    rng r;
    const char *device;
    lt_dtype dtype;
    bool verbose;
    int n_checked, n_failed;
    char what[512]; /* the case, for messages */
    double worst;   /* error in units of the bound, largest of the operator */
} checker;

/* ---- random ------------------------------------------------------------------------------------------ */

void rng_seed(rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) { /* splitmix64 */
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        r->s[i] = z ^ z >> 31;
    }
}

uint64_t rng_next(rng *r)
{
    uint64_t *s = r->s, product = s[1] * 5, result = (product << 7 | product >> 57) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = s[3] << 45 | s[3] >> 19;
    return result;
}

int64_t rng_range(rng *r, int64_t low, int64_t high)
{
    return low + (int64_t)(rng_next(r) % (uint64_t)(high - low + 1));
}

double rng_uniform(rng *r)
{
    return (double)(rng_next(r) >> 11) * 0x1p-53;
}

double rng_normal(rng *r)
{
    return sqrt(-2 * log(1 - rng_uniform(r))) * cos(2 * M_PI * rng_uniform(r));
}

static double random_value(rng *r, values v, double scale)
{
    static const double extremes[] = {0,  -0.0, 1e-40, -1e-30, 0.5,  -1,  1,    3.9,  -6,
                                      20, 88,   -88,   90,     -104, 1e4, -1e4, 1e30, -1e30};
    switch (v) {
    case VALUES_OFFSET: return 1000 + rng_normal(r);
    case VALUES_SMALL: return 1e-3 * rng_normal(r);
    case VALUES_WIDE: return rng_normal(r) * pow(10, 8 * rng_uniform(r) - 4);
    case VALUES_EXTREME: return extremes[rng_range(r, 0, (int64_t)LT_COUNT(extremes) - 1)];
    case VALUES_PIXELS: return (double)rng_range(r, 0, (int64_t)scale - 1);
    case VALUES_MASK: /* seen, not seen, and what others have for the latter */
        return rng_range(r, 0, 2) ? rng_normal(r) : rng_range(r, 0, 3) ? -INFINITY : -FLT_MAX;
    default: return scale * rng_normal(r);
    }
}

/* ---- operands ---------------------------------------------------------------------------------------- */

/* A malloc'd tensor of random values. Matrices, and what else is rounded as they are, are exact in bf16 when the context computes in it, so that the reference
 * sees what the backend sees. */
static lt_tensor random_tensor(checker *k, const spec *s, bool through_half)
{
    bool through_bf16 = through_half && k->dtype == LT_BF16;
    lt_tensor t = {.dtype = s->dtype == DTYPE_CONTEXT ? k->dtype : (lt_dtype)s->dtype, .rank = s->rank};
    if (s->left_out) return LT_NONE;
    for (int i = 0; i < s->rank; i++) t.shape[i] = s->shape[i];
    int64_t n = lt_n_elements(&t);
    t.data = malloc(lt_tensor_bytes(&t) + 8);
    if (!t.data) abort();
    double scale = s->scale != 0 ? s->scale : s->values == VALUES_PIXELS ? 256 : 1;
    for (int64_t i = 0; i < n; i++) {
        double d = random_value(&k->r, s->values, scale);
        if (through_half && k->dtype == LT_F16) {
            /* Exact in f16 and, where the weight is of bf16, in that: seven bits and f16's normal range. */
            d = (double)lt_bf16_to_f32(lt_f32_to_bf16((float)d));
            d = fabs(d) < 0x1p-14 ? 0 : d;
        }
        if (through_bf16) d = (double)lt_bf16_to_f32(lt_f32_to_bf16((float)d));
        lt_store_f64(t.data, t.dtype, i, d);
        /* A bf16 value may round once more in f16: then both sides read the f16 value rounded to bf16. */
        if (through_bf16 && t.dtype == LT_F16) {
            float f = lt_bf16_to_f32(lt_f32_to_bf16((float)lt_load_f64(t.data, LT_F16, i)));
            lt_store_f64(t.data, t.dtype, i, fabsf(f) < 0x1p-14f ? 0 : (double)f);
        }
    }
    return t;
}

typedef struct operands {
    lt_tensor inputs[MAX_INPUTS], copies[MAX_INPUTS];
    lt_weight weights[MAX_WEIGHTS];
} operands;

static lt_tensor copy_of(const lt_tensor *t)
{
    lt_tensor copy = *t;
    if (!t->data) return copy;
    copy.data = malloc(lt_tensor_bytes(t) + 8);
    if (!copy.data) abort();
    memcpy(copy.data, t->data, lt_tensor_bytes(t));
    return copy;
}

static void make_operands(checker *k, const op_case *c, operands *o)
{
    *o = (operands){0};
    for (int i = 0; i < c->n_inputs; i++) {
        o->inputs[i] = random_tensor(k, &c->inputs[i], false);
        o->copies[i] = copy_of(&o->inputs[i]);
    }
    for (int i = 0; i < c->n_weights; i++) {
        bool narrow = c->weights[i].rank > 1 || (c->narrow_bias && strncmp(k->device, "cuda", 4) == 0);
        o->weights[i].tensor = random_tensor(k, &c->weights[i], narrow && k->dtype != LT_F32);
    }
}

static void free_operands(operands *o)
{
    for (int i = 0; i < MAX_INPUTS; i++) {
        free(o->inputs[i].data);
        free(o->copies[i].data);
    }
    for (int i = 0; i < MAX_WEIGHTS; i++) free(o->weights[i].tensor.data);
}

/* ---- one run ----------------------------------------------------------------------------------------- */

static void fail(checker *k, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void fail(checker *k, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("FAIL %s/%s %s: ", k->device, lt_dtype_name(k->dtype), k->what);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    k->n_failed++;
}

typedef struct run_result {
    lt_tensor y; /* malloc'd copy; data NULL after an error */
    size_t peak, leaked;
    double flops;
    lt_err err;
} run_result;

enum { GUARD_BYTES = 256, GUARD_BYTE = 0xff };

/* Memory of the workspace becomes 0xff: a NaN in every float dtype. */
static void fill(lt_context *c, void *memory, size_t bytes)
{
    lt_tensor t = {.data = memory, .dtype = LT_U8, .rank = 1, .shape = {(int64_t)bytes}};
    void *host = lt_begin_upload(c, t);
    if (!host) abort();
    memset(host, GUARD_BYTE, bytes);
    lt_end_upload(c, t);
}

/* All of it. */
static void poison(lt_context *c, size_t bytes)
{
    void *all = lt_workspace_alloc(c->workspace, bytes);
    if (!all) abort();
    fill(c, all, bytes);
    lt_workspace_release(c->workspace, all);
}

/* A malloc'd copy of what lies in the workspace. */
static lt_tensor fetch(lt_context *c, const lt_tensor *t)
{
    lt_tensor copy = *t;
    if (!t->data) return copy;
    copy.data = malloc(lt_tensor_bytes(t) + 8);
    if (!copy.data) abort();
    lt_download(c, *t, t->dtype, copy.data);
    if (lt_wait(c) != LT_OK) abort();
    return copy;
}

/* The inputs where the backend can read them: as they lie on the host, at any address, or uploaded. Numbers of rows stay. */
static void bring(lt_context *c, const op_case *k, const lt_tensor *host, lt_tensor *inputs)
{
    for (int i = 0; i < k->n_inputs; i++) {
        bool stays = c->backend->host_memory || !host[i].data || k->inputs[i].host;
        inputs[i] = stays ? host[i] : lt_upload(c, host[i], host[i].dtype);
    }
}

static void drop_inputs(lt_context *c, const op_case *k, const lt_tensor *host, lt_tensor *inputs)
{
    for (int i = 0; i < k->n_inputs; i++)
        if (inputs[i].data && inputs[i].data != host[i].data) lt_drop(c, &inputs[i]);
}

static bool is_poison(lt_context *c, void *memory, size_t n)
{
    lt_tensor bytes = {.data = memory, .dtype = LT_U8, .rank = 1, .shape = {(int64_t)n}};
    lt_tensor copy = fetch(c, &bytes);
    const unsigned char *p = copy.data;
    bool poisoned = true;
    for (size_t i = 0; i < n; i++) poisoned = poisoned && p[i] == GUARD_BYTE;
    free(copy.data);
    return poisoned;
}

/* Run the case on a context that is there. The weights' packed forms are released afterwards. */
static run_result run_on(lt_context *c, const op_case *k, const lt_tensor *inputs, operands *o)
{
    run_result result = {0};
    lt_weight weights[MAX_WEIGHTS];
    memcpy(weights, o->weights, sizeof(weights));
    lt_tensor brought[MAX_INPUTS];
    bring(c, k, inputs, brought);
    lt_tensor y = k->run(c, k, brought, weights);
    lt_context_status(c, &result.err);
    result.peak = lt_workspace_peak(c->workspace);
    result.flops = c->flops;
    if (y.data && c->dry) result.y = (lt_tensor){.dtype = y.dtype, .rank = y.rank};
    if (y.data && !c->dry) result.y = fetch(c, &y);
    lt_drop(c, &y);
    drop_inputs(c, k, inputs, brought);
    result.leaked = lt_workspace_in_use(c->workspace);
    for (int i = 0; i < MAX_WEIGHTS; i++) lt_weight_finish(c, &weights[i]);
    if (c->packed_bytes && !c->dry) result.leaked += c->packed_bytes;
    return result;
}

static run_result run_case(const char *device, lt_dtype dtype, const op_case *k, const lt_tensor *inputs,
                           operands *o, size_t bytes, int threads)
{
    lt_context *c;
    run_result result = {0};
    if (lt_context_create(&c, device, dtype, bytes, threads, &result.err) != LT_OK) return result;
    if (bytes) poison(c, bytes);
    /* Poisoning has touched all of the block: count from a fresh context's point of view. */
    result = run_on(c, k, inputs, o);
    lt_context_destroy(c);
    return result;
}

/* ---- checks ------------------------------------------------------------------------------------------ */

static double eps_of(lt_dtype dtype)
{
    switch (dtype) {
    case LT_BF16: return 0x1p-7;
    case LT_F16: return 0x1p-10;
    case LT_F64: return 0x1p-52;
    default: return 0x1p-23;
    }
}

static double largest(const lt_tensor *t)
{
    double max = 0;
    for (int64_t i = 0; i < lt_n_elements(t); i++) {
        double d = fabs(lt_load_f64(t->data, t->dtype, i));
        if (isfinite(d) && d > max) max = d;
    }
    return max;
}

static void compare(checker *k, const op_case *c, const lt_tensor *y, const lt_tensor *ref)
{
    if (y->rank != ref->rank || lt_n_elements(y) != lt_n_elements(ref)) {
        fail(k, "the result's shape is not the reference's");
        return;
    }
    double units = c->units + (k->dtype == LT_BF16 ? c->bf16_units : 0);
    if (strncmp(k->device, "cuda", 4) == 0 && k->dtype != LT_F32)
        units += c->narrow[k->dtype == LT_F16] * 0.5 * eps_of(k->dtype) / eps_of(LT_F32);
    double f32_error = units * eps_of(LT_F32), magnitude = LT_MAX(c->magnitude, largest(ref));
    /* A result that may be exact must be: only what is computed is rounded. */
    double rounding = c->units > 0 ? 0.505 * eps_of(y->dtype) : 0;
    for (int64_t i = 0; i < lt_n_elements(y); i++) {
        double a = lt_load_f64(y->data, y->dtype, i), b = lt_load_f64(ref->data, ref->dtype, i);
        if (c->rounded) {
            char rounded[8];
            lt_store_f64(rounded, y->dtype, 0, b);
            b = lt_load_f64(rounded, y->dtype, 0);
        }
        if ((isnan(a) && isnan(b)) || a == b) continue;
        double max = rounding * fabs(b) + f32_error * (c->magnitude < 0 ? fabs(b) : magnitude) + c->absolute +
                     (c->units > 0 ? 1e-37 : 0) +
                     (rounding > 0 && y->dtype == LT_F16 ? 0x1.03p-25 : 0); /* half of the smallest */
        double err = fabs(a - b);
        /* What is too large for f16 is infinite. */
        if (y->dtype == LT_F16 && isinf(a) && a * b > 0 && fabs(b) + max >= 65520) continue;
        if (err / max > k->worst) k->worst = err / max;
        if (!(err <= max)) {
            fail(k, "element %lld is %.9g where the reference has %.9g: error %.3g, bound %.3g", (long long)i,
                 a, b, err, max);
            return;
        }
    }
}

static bool same_bytes(const lt_tensor *a, const void *b)
{
    size_t n = lt_tensor_bytes(a);
    return n == 0 || memcmp(a->data, b, n) == 0;
}

/* The result between guards: a hole of its size is left between two allocations, and first fit puts it there. */
static void check_guards(checker *k, const op_case *c, operands *o, const lt_tensor *y, size_t dry_peak)
{
    lt_context *context;
    lt_err err;
    size_t y_bytes = lt_tensor_bytes(y), hole = LT_MAX(lt_round_up(y_bytes, 64), (size_t)64);
    size_t bytes = dry_peak + hole + 4 * GUARD_BYTES;
    if (lt_context_create(&context, k->device, k->dtype, bytes, 2, &err) != LT_OK) abort();
    poison(context, bytes);
    lt_tensor inputs[MAX_INPUTS];
    bring(context, c, o->inputs, inputs);
    char *before = lt_workspace_alloc(context->workspace, GUARD_BYTES);
    char *place = lt_workspace_alloc(context->workspace, hole);
    char *after = lt_workspace_alloc(context->workspace, GUARD_BYTES);
    lt_workspace_release(context->workspace, place);
    lt_weight weights[MAX_WEIGHTS];
    memcpy(weights, o->weights, sizeof(weights));
    lt_tensor result = c->run(context, c, inputs, weights);
    if (result.data != place) {
        fail(k, "the result was not the first allocation");
    } else {
        if (!is_poison(context, before, GUARD_BYTES) || !is_poison(context, after, GUARD_BYTES) ||
            !is_poison(context, place + y_bytes, hole - y_bytes))
            fail(k, "something was written outside the result");
        lt_tensor copy = fetch(context, &result);
        if (!same_bytes(y, copy.data)) fail(k, "the result depends on where it lies");
        free(copy.data);
    }
    for (int i = 0; i < MAX_WEIGHTS; i++) lt_weight_finish(context, &weights[i]);
    for (int i = 0; i < c->n_inputs && result.data; i++) {
        if (!inputs[i].data) continue;
        lt_tensor copy =
            inputs[i].data == o->inputs[i].data ? copy_of(&inputs[i]) : fetch(context, &inputs[i]);
        if (!same_bytes(&copy, o->copies[i].data)) fail(k, "input %d was changed", i);
        free(copy.data);
    }
    lt_context_destroy(context);
}

/* One element of one input becomes NaN or infinite: the result has them where the reference has, but for what an operator's
 * contract says (spreads). */
static void check_not_finite(checker *k, const op_case *c, operands *o)
{
    static const double values[] = {NAN, INFINITY, -INFINITY};
    const double value = values[rng_range(&k->r, 0, 2)];
    const int which = (int)rng_range(&k->r, 0, c->n_inputs - 1);
    lt_tensor *t = &o->inputs[which];
    if (!t->data || !lt_dtype_is_float(t->dtype) || c->inputs[which].values == VALUES_MASK ||
        lt_n_elements(t) == 0)
        return;
    int64_t at = rng_range(&k->r, 0, lt_n_elements(t) - 1), samples = t->shape[0];
    int64_t sample = c->inputs[which].shared ? -1 : at / (lt_n_elements(t) / samples);
    double kept = lt_load_f64(t->data, t->dtype, at);
    lt_store_f64(t->data, t->dtype, at, value);
    run_result plan = run_case("ref", LT_F64, c, o->inputs, o, 0, 1);
    run_result ref = run_case("ref", LT_F64, c, o->inputs, o, plan.peak, 1);
    run_result dry = run_case(k->device, k->dtype, c, o->inputs, o, 0, 2);
    run_result real = run_case(k->device, k->dtype, c, o->inputs, o, dry.peak, 2);
    if (!real.y.data || !ref.y.data) {
        fail(k, "with %g in input %d: %s", value, which, real.y.data ? ref.err.text : real.err.text);
    } else {
        int64_t n = lt_n_elements(&real.y);
        int spreads = c->spreads | (k->dtype == LT_F16 ? c->f16_spreads : 0);
        for (int64_t i = 0; i < n && spreads >> which & 1; i++) {
            bool same = sample < 0 || i / LT_MAX(n / samples, (int64_t)1) == sample;
            double y = lt_load_f64(real.y.data, real.y.dtype, i);
            if (same && isnan(y)) lt_store_f64(ref.y.data, ref.y.dtype, i, NAN);
            if (c->joins && isinf(value) && isinf(y) && isnan(lt_load_f64(ref.y.data, ref.y.dtype, i)))
                lt_store_f64(ref.y.data, ref.y.dtype, i, y);
        }
        size_t length = strlen(k->what);
        snprintf(k->what + length, sizeof(k->what) - length, " with %g at %lld of input %d", value,
                 (long long)at, which);
        compare(k, c, &real.y, &ref.y);
        k->what[length] = 0;
    }
    free(real.y.data);
    free(ref.y.data);
    lt_store_f64(t->data, t->dtype, at, kept);
}

static void check_threads(checker *k, const op_case *c, operands *o, const lt_tensor *y)
{
    static const int counts[] = {1, 3, 16};
    for (size_t i = 0; i < LT_COUNT(counts); i++) {
        int threads = counts[i];
        run_result dry = run_case(k->device, k->dtype, c, o->inputs, o, 0, threads);
        run_result other = run_case(k->device, k->dtype, c, o->inputs, o, dry.peak, threads);
        if (!other.y.data) {
            fail(k, "with %d threads: %s", threads, other.err.text);
        } else if (!same_bytes(y, other.y.data)) {
            fail(k, "%d threads give other bytes than 2", threads);
        }
        free(other.y.data);
    }
}

static void check_batch(checker *k, const op_case *c, operands *o, const lt_tensor *y)
{
    int64_t batch = c->inputs[0].shape[0];
    size_t sample_bytes = batch ? lt_tensor_bytes(y) / (size_t)batch : 0;
    for (int64_t n = 0; n < batch && batch > 1; n++) {
        lt_tensor alone[MAX_INPUTS];
        for (int i = 0; i < c->n_inputs; i++) {
            alone[i] = o->inputs[i];
            if (!alone[i].data || c->inputs[i].shared) continue;
            size_t bytes = lt_tensor_bytes(&alone[i]) / (size_t)batch;
            alone[i].shape[0] = 1;
            alone[i].data = (char *)alone[i].data + (size_t)n * bytes;
        }
        run_result dry = run_case(k->device, k->dtype, c, alone, o, 0, 2);
        run_result one = run_case(k->device, k->dtype, c, alone, o, dry.peak, 2);
        if (!one.y.data) {
            fail(k, "sample %lld alone: %s", (long long)n, one.err.text);
        } else if (!same_bytes(&one.y, (const char *)y->data + (size_t)n * sample_bytes)) {
            fail(k, "sample %lld alone has other bytes than in its batch", (long long)n);
        }
        free(one.y.data);
    }
}

static void check_case(checker *k, const op_case *c, operands *o, bool with_reference)
{
    run_result dry = run_case(k->device, k->dtype, c, o->inputs, o, 0, 2);
    run_result real = run_case(k->device, k->dtype, c, o->inputs, o, dry.peak, 2);
    k->n_checked++;
    if (!real.y.data) {
        fail(k, "%s", real.err.text[0] ? real.err.text : dry.err.text);
        return;
    }
    if (dry.flops != real.flops) fail(k, "a dry run counts %g FLOPs, the real one %g", dry.flops, real.flops);
    if (dry.leaked || real.leaked) fail(k, "%zu bytes were not given back", dry.leaked + real.leaked);
    if (with_reference) {
        run_result plan = run_case("ref", LT_F64, c, o->inputs, o, 0, 1);
        run_result ref = run_case("ref", LT_F64, c, o->inputs, o, plan.peak, 1);
        if (!ref.y.data) {
            fail(k, "ref: %s", ref.err.text);
        } else {
            compare(k, c, &real.y, &ref.y);
        }
        if (ref.flops != real.flops) fail(k, "ref counts %g FLOPs, %s %g", ref.flops, k->device, real.flops);
        free(ref.y.data);
    }
    check_guards(k, c, o, &real.y, dry.peak);
    check_threads(k, c, o, &real.y);
    check_batch(k, c, o, &real.y);
    if (with_reference && c->n_inputs > 0) check_not_finite(k, c, o);
    free(real.y.data);
}

static void describe_case(checker *k, const op_case *c)
{
    int at = snprintf(k->what, sizeof(k->what), "%s", c->op);
    for (int i = 0; i < c->n_inputs + c->n_weights; i++) {
        const spec *s = i < c->n_inputs ? &c->inputs[i] : &c->weights[i - c->n_inputs];
        lt_tensor t = {.data = s->left_out ? NULL : k,
                       .dtype = s->dtype == DTYPE_CONTEXT ? k->dtype : (lt_dtype)s->dtype,
                       .rank = s->rank};
        memcpy(t.shape, s->shape, sizeof(t.shape));
        char text[128];
        at += snprintf(k->what + at, sizeof(k->what) - (size_t)at, " %s",
                       lt_tensor_describe(&t, text, sizeof(text)));
    }
    at += snprintf(k->what + at, sizeof(k->what) - (size_t)at, " act %d values %d ints", c->act,
                   c->inputs[0].values);
    for (int i = 0; i < MAX_INTS; i++)
        at += snprintf(k->what + at, sizeof(k->what) - (size_t)at, " %lld", (long long)c->ints[i]);
}

static void check_operator(checker *k, int which, int n_cases, uint64_t seed)
{
    k->worst = 0;
    int failed = k->n_failed;
    for (int i = 0; i < n_cases + n_cases / 10 && k->n_failed < failed + 5; i++) {
        /* Each case has its own seed, so one can be repeated with --op, whatever the others do. */
        rng_seed(&k->r, seed * 1000003u + (uint64_t)(which * 100000 + i));
        bool big = i >= n_cases;
        op_case c;
        operands o;
        generate_case(&c, which, &k->r, big);
        describe_case(k, &c);
        if (k->verbose) printf("%s\n", k->what);
        make_operands(k, &c, &o);
        check_case(k, &c, &o, !big);
        free_operands(&o);
    }
    printf("%-4s %-5s %-18s %s, worst error %.2f of its bound\n", k->device, lt_dtype_name(k->dtype),
           generator_name(which), k->n_failed > failed ? "FAILED" : "ok", k->worst);
    fflush(stdout);
}

typedef struct arguments {
    uint64_t seed;
    int n_cases, threads;
    const char *op, *device;
    bool bench, verbose;
} arguments;

static bool parse_arguments(arguments *a, int argc, char **argv)
{
    *a = (arguments){.seed = (uint64_t)time(NULL), .n_cases = 30};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--bench") == 0)
            a->bench = true;
        else if (strcmp(argv[i], "--verbose") == 0)
            a->verbose = true;
        else if (value && strcmp(argv[i], "--seed") == 0)
            a->seed = strtoull(argv[++i], NULL, 10);
        else if (value && strcmp(argv[i], "--cases") == 0)
            a->n_cases = atoi(argv[++i]);
        else if (value && strcmp(argv[i], "--op") == 0)
            a->op = argv[++i];
        else if (value && strcmp(argv[i], "--device") == 0)
            a->device = argv[++i];
        else if (value && strcmp(argv[i], "--threads") == 0)
            a->threads = atoi(argv[++i]);
        else
            return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct {
        const char *device;
        lt_dtype dtype;
    } backends[] = {{"ref", LT_F32}, {"cpu", LT_F32}, {"cpu", LT_BF16}};
    arguments a;
    if (!parse_arguments(&a, argc, argv)) {
        fprintf(stderr,
                "kernelcheck [--device NAME] [--seed N] [--cases N] [--op NAME] [--bench] [--threads N] "
                "[--verbose]\n");
        return 2;
    }
    if (a.bench) return bench(a.device ? a.device : "cpu", a.threads, a.op);
    printf("seed %llu\n", (unsigned long long)a.seed);
    lt_device_info info;
    lt_err err;
    if (a.device && lt_device_probe(a.device, &info, &err) != LT_OK) {
        fprintf(stderr, "kernelcheck: %s\n", err.text);
        return 1;
    }
    int n_checked = 0, n_failed = 0;
    const lt_dtype dtypes[] = {LT_F32, LT_BF16, LT_F16};
    for (size_t b = 0; b < LT_COUNT(backends); b++) {
        if (a.device) backends[b].device = a.device;
        if (a.device) backends[b].dtype = dtypes[b];
        if (a.device && lt_device_takes(a.device, dtypes[b], NULL) == LT_E_UNSUPPORTED) continue;
        checker k = {.device = backends[b].device, .dtype = backends[b].dtype, .verbose = a.verbose};
        int cases = strcmp(k.device, "ref") == 0 ? LT_MAX(1, a.n_cases / 8) : a.n_cases;
        for (int i = 0; i < n_generators(); i++) {
            if (!a.op || strcmp(a.op, generator_name(i)) == 0) check_operator(&k, i, cases, a.seed);
        }
        n_checked += k.n_checked;
        n_failed += k.n_failed;
    }
    printf("%d cases, %d failures (seed %llu)\n", n_checked, n_failed, (unsigned long long)a.seed);
    return n_failed || n_checked == 0;
}
