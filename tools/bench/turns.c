/* turns.c - passes in turn with another program. */
#include "tools/bench/turns.h"

#include <stdio.h>
#include <time.h>

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void bench_begin(bench_times *times)
{
    *times = (bench_times){(double)lt_now_ns() * 1e-9, cpu_seconds()};
}

void bench_end(bench_times *times)
{
    *times = (bench_times){(double)lt_now_ns() * 1e-9 - times->wall, cpu_seconds() - times->cpu};
}

lt_status bench_turns(bench_pass pass, void *user, lt_dtype dtype, int threads, lt_context **context,
                      lt_err *err)
{
    lt_context *dry = NULL;
    lt_status status;
    char line[16];
    bench_times times;
    *context = NULL;
    LT_TRY(lt_context_create(&dry, "cpu", dtype, 0, threads, err));
    LT_TRY(pass(user, dry, &times, err));
    size_t peak = lt_workspace_peak(dry->workspace);
    LT_TRY(lt_context_create(context, "cpu", dtype, peak, threads, err));
    LT_TRY(pass(user, *context, &times, err));
    printf("{\"flops\": %.0f, \"workspace_bytes\": %zu}\n", dry->flops, peak);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        LT_TRY(pass(user, *context, &times, err));
        printf("%.6f %.6f\n", times.wall, times.cpu);
        fflush(stdout);
    }
fail:
    lt_context_destroy(dry);
    return status;
}
