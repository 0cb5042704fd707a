/* turns.c - passes in turn with another program. */
#include "tools/bench/turns.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/bench/flops.h"

bool bench_options_take(bench_options *options, int *argc, char **argv)
{
    int kept = 1;
    *options = (bench_options){.device = "cpu"};
    for (int i = 1; i < *argc; i++) {
        bool device = !strcmp(argv[i], "--device"), samples = !strcmp(argv[i], "--samples");
        if ((device || samples) && i + 1 == *argc) return false;
        if (device)
            options->device = argv[++i];
        else if (samples)
            options->n_samples = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--flops"))
            options->flops = true;
        else
            argv[kept++] = argv[i];
    }
    *argc = kept;
    return options->n_samples >= 0;
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void bench_begin(bench_times *times, lt_context *context)
{
    if (!context->dry) lt_wait(context);
    times->cpu = cpu_seconds();
    times->wall = (double)lt_now_ns() * 1e-9;
}

void bench_end(bench_times *times, lt_context *context)
{
    if (!context->dry) lt_wait(context);
    times->wall = (double)lt_now_ns() * 1e-9 - times->wall;
    times->cpu = cpu_seconds() - times->cpu;
}

void bench_keep_values(bench_times *times, const float *values, int64_t n)
{
    times->digest = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        times->digest = (times->digest ^ bits) * 0x100000001b3u;
    }
    for (int64_t i = 0; i < times->n_samples && n > 0; i++)
        times->samples[i] = values[i * LT_MAX(n / times->n_samples, 1) % n];
}

void bench_keep(bench_times *times, lt_context *context, lt_tensor result)
{
    int64_t n = lt_n_elements(&result);
    if (!times->n_samples || !result.data || context->dry) return;
    float *values = malloc((size_t)n * sizeof *values);
    if (!values) {
        lt_context_fail(context, LT_E_NO_MEMORY, "out of memory for a pass's result");
        return;
    }
    lt_download(context, result, LT_F32, values);
    if (lt_wait(context) == LT_OK) bench_keep_values(times, values, n);
    free(values);
}

lt_status bench_pattern(lt_tensor *tensor, int rank, const int64_t *shape, float step, lt_err *err)
{
    *tensor = (lt_tensor){.dtype = LT_F32, .rank = rank};
    for (int i = 0; i < rank; i++) tensor->shape[i] = shape[i];
    int64_t n = lt_n_elements(tensor);
    float *values = malloc(LT_MAX((size_t)n, (size_t)1) * sizeof *values);
    if (!values) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for an input");
    for (int64_t i = 0; i < n; i++) values[i] = sinf((float)i * step);
    tensor->data = values;
    return LT_OK;
}

static void print_first_line(const bench_flops *flops, const lt_context *dry, const lt_context *context,
                             const bench_times *times, bool same)
{
    printf("{");
    bench_flops_print(flops, stdout);
    printf(", \"workspace_bytes\": %zu, \"packed_bytes\": %zu, \"numeric_class\": \"%s\", \"samples\": [",
           lt_workspace_peak(dry->workspace), (context ? context : dry)->packed_bytes,
           (context ? context : dry)->numeric_class);
    for (int i = 0; i < times->n_samples; i++) printf("%s%.6g", i ? ", " : "", (double)times->samples[i]);
    printf("]");
    if (times->n_samples)
        printf(", \"digest\": \"%016" PRIx64 "\", \"same_bytes\": %s", times->digest,
               same ? "true" : "false");
    printf("}\n");
    fflush(stdout);
}

/* FLOPs and memory, of a dry run. */
static lt_status count(const bench_work *work, lt_context *dry, bench_flops *flops, lt_err *err)
{
    bench_times times = {0};
    bench_flops_watch(flops, dry);
    lt_status status = work->prepare ? work->prepare(work->user, dry, err) : LT_OK;
    if (status == LT_OK) status = work->pass(work->user, dry, &times, err);
    bench_flops_stop(flops, dry);
    return status;
}

lt_status bench_turns(const bench_work *work, const bench_options *options, lt_dtype dtype, int threads,
                      lt_context **context, lt_err *err)
{
    lt_context *dry = NULL;
    lt_status status;
    char line[16];
    bench_flops flops;
    bench_times times = {0}, first = {.n_samples = options->flops ? 0 : options->n_samples};
    bool same = true;
    *context = NULL;
    first.samples = malloc(((size_t)first.n_samples + 1) * sizeof *first.samples);
    if (!first.samples) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    LT_TRY(lt_context_create(&dry, options->device, dtype, 0, threads, err));
    LT_TRY(count(work, dry, &flops, err));
    if (!options->flops) {
        size_t peak = lt_workspace_peak(dry->workspace);
        LT_TRY(lt_context_create(context, options->device, dtype, peak, threads, err));
        if (work->prepare) LT_TRY(work->prepare(work->user, *context, err));
        LT_TRY(work->pass(work->user, *context, &first, err));
        if (first.n_samples) {
            bench_times second = first;
            LT_TRY(work->pass(work->user, *context, &second, err));
            same = second.digest == first.digest;
        }
    }
    print_first_line(&flops, dry, *context, &first, same);
    while (!options->flops && fgets(line, sizeof line, stdin)) {
        LT_TRY(work->pass(work->user, *context, &times, err));
        printf("%.6f %.6f\n", times.wall, times.cpu);
        fflush(stdout);
    }
fail:
    lt_context_destroy(dry);
    free(first.samples);
    return status;
}
