/* text.c - times a text encoder, one pass for every line on standard input, so that a driver can take turns with another program.
 *
 *     bench-text MODEL PROMPTS TOKENS THREADS [f32|bf16|f16] [--device NAME] [--samples N] [--flops]
 *
 * What it prints: turns.h; samples are of the sequence. Token ids are a fixed pattern, none of them padding. */
#include <stdio.h>
#include <stdlib.h>

#include "models/text_encoder.h"
#include "tools/bench/turns.h"

typedef struct job {
    const char *model;
    lt_text_encoder *encoder;
    lt_tensor ids;
    int prompts, tokens, threads;
    lt_dtype dtype;
} job;

static lt_status pass(void *user, lt_context *c, bench_times *times, lt_err *err)
{
    const job *job = user;
    const lt_text_params params = {.final_norm = true, .keep_packed = true};
    bench_begin(times, c);
    lt_text text = lt_text_encode(c, job->encoder, job->ids, NULL, &params);
    bench_end(times, c);
    bench_keep(times, c, text.sequence);
    lt_drop(c, &text.sequence);
    lt_drop(c, &text.pooled);
    return lt_context_status(c, err);
}

static lt_status time_passes(job *job, const bench_options *options, lt_err *err)
{
    lt_context *context = NULL;
    int64_t n = (int64_t)job->prompts * job->tokens;
    int n_tokens = lt_text_encoder_get_info(job->encoder)->n_tokens;
    int32_t *values = malloc(sizeof *values * (size_t)n);
    if (!values) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (int64_t i = 0; i < n; i++) values[i] = (int32_t)(i * 7919 % n_tokens);
    job->ids = (lt_tensor){.data = values, .dtype = LT_I32, .rank = 2, .shape = {job->prompts, job->tokens}};
    const bench_work work = {.pass = pass, .user = job};
    lt_status status = bench_turns(&work, options, job->dtype, job->threads, &context, err);
    lt_text_encoder_close(job->encoder, context);
    lt_context_destroy(context);
    free(values);
    return status;
}

int main(int argc, char **argv)
{
    job job = {.dtype = LT_F32};
    lt_err err = {0};
    bench_options options;
    if (!bench_options_take(&options, &argc, argv) || argc < 5 ||
        (argc > 5 && !lt_dtype_parse(argv[5], &job.dtype))) {
        fprintf(stderr, "usage: bench-text MODEL PROMPTS TOKENS THREADS [f32|bf16|f16] "
                        "[--device NAME] [--samples N] [--flops]\n");
        return 2;
    }
    job.model = argv[1];
    job.prompts = atoi(argv[2]);
    job.tokens = atoi(argv[3]);
    job.threads = atoi(argv[4]);
    if (lt_text_encoder_open(&job.encoder, job.model, LT_TEXT_FIRST, &err) ||
        time_passes(&job, &options, &err)) {
        fprintf(stderr, "bench-text: %s\n", err.text);
        return 1;
    }
    return 0;
}
