/* text.c - times a text encoder, one pass for every line on standard input, so that a driver can take turns with another program.
 *
 *     bench-text MODEL PROMPTS TOKENS THREADS [f32|bf16]
 *
 * First line out: JSON with the FLOPs of a pass. Then the seconds of each pass, by the clock and of the processors. Token ids are a
 * fixed pattern, none of them padding; the first pass, which packs the weights, is made before anything is printed. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "models/text_encoder.h"

typedef struct job {
    const char *model;
    int prompts, tokens, threads;
    lt_dtype dtype;
} job;

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static lt_status pass(lt_context *c, lt_text_encoder *encoder, lt_tensor ids, lt_err *err)
{
    const lt_text_params params = {.keep_packed = true};
    lt_text text = lt_text_encode(c, encoder, ids, NULL, &params);
    lt_drop(c, &text.sequence);
    lt_drop(c, &text.pooled);
    return lt_context_status(c, err);
}

static lt_status time_passes(lt_text_encoder *encoder, const job *job, lt_err *err)
{
    lt_context *dry = NULL, *context = NULL;
    lt_status status;
    char line[16];
    int64_t n = (int64_t)job->prompts * job->tokens;
    int n_tokens = lt_text_encoder_get_info(encoder)->n_tokens;
    int32_t *values = malloc(sizeof *values * (size_t)n);
    if (!values) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (int64_t i = 0; i < n; i++) values[i] = (int32_t)(i * 7919 % n_tokens);
    lt_tensor ids = {.data = values, .dtype = LT_I32, .rank = 2, .shape = {job->prompts, job->tokens}};

    LT_TRY(lt_context_create(&dry, "cpu", job->dtype, 0, job->threads, err));
    LT_TRY(pass(dry, encoder, ids, err));
    size_t peak = lt_workspace_peak(dry->workspace);
    LT_TRY(lt_context_create(&context, "cpu", job->dtype, peak, job->threads, err));
    LT_TRY(pass(context, encoder, ids, err));
    printf("{\"flops\": %.0f, \"workspace_bytes\": %zu}\n", dry->flops, peak);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        double cpu = cpu_seconds();
        int64_t started = lt_now_ns();
        LT_TRY(pass(context, encoder, ids, err));
        printf("%.6f %.6f\n", (double)(lt_now_ns() - started) * 1e-9, cpu_seconds() - cpu);
        fflush(stdout);
    }
fail:
    lt_text_encoder_close(encoder, context);
    lt_context_destroy(context);
    lt_context_destroy(dry);
    free(values);
    return status;
}

int main(int argc, char **argv)
{
    job job = {.dtype = LT_F32};
    lt_err err = {0};
    lt_text_encoder *encoder = NULL;
    if (argc < 5 || (argc > 5 && !lt_dtype_parse(argv[5], &job.dtype))) {
        fprintf(stderr, "usage: bench-text MODEL PROMPTS TOKENS THREADS [f32|bf16]\n");
        return 2;
    }
    job.model = argv[1];
    job.prompts = atoi(argv[2]);
    job.tokens = atoi(argv[3]);
    job.threads = atoi(argv[4]);
    if (lt_text_encoder_open(&encoder, job.model, LT_TEXT_FIRST, &err) || time_passes(encoder, &job, &err)) {
        fprintf(stderr, "bench-text: %s\n", err.text);
        return 1;
    }
    return 0;
}
