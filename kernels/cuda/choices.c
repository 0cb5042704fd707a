/* choices.c - what was chosen of the libraries' engines and algorithms, for whoever measures: tools/gpu-check keeps it. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>

enum { LINE_BYTES = 512 };

static bool are_asked_for(void)
{
    return getenv("LT_CUDA_CHOICES") != NULL;
}

void cuda_tell_engine(const char *op, const int64_t *sizes, int n_sizes, bool supported, int64_t engine,
                      size_t workspace)
{
    char line[LINE_BYTES];
    if (!are_asked_for()) return;
    while (n_sizes && !sizes[n_sizes - 1]) n_sizes--;
    int n = snprintf(line, sizeof(line), "choice: %s", op);
    for (int i = 0; i < n_sizes && n < LINE_BYTES; i++)
        n += snprintf(line + n, (size_t)(LINE_BYTES - n), " %lld", (long long)sizes[i]);
    if (supported)
        fprintf(stderr, "%s: engine %lld, %zu bytes\n", line, (long long)engine, workspace);
    else
        fprintf(stderr, "%s: none\n", line);
}

/* An attribute of an algorithm, -1 where it is not told. */
static long long attribute(const cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoConfigAttributes_t what,
                           size_t bytes)
{
    uint32_t value = 0;
    size_t written;
    cublasStatus_t s = cublasLtMatmulAlgoConfigGetAttribute(algo, what, &value, bytes, &written);
    return s == CUBLAS_STATUS_SUCCESS ? (long long)value : -1;
}

void cuda_tell_algorithm(const char *op, const cuda_product *p, const cublasLtMatmulAlgo_t *algo)
{
    char line[LINE_BYTES];
    if (!are_asked_for()) return;
    snprintf(line, sizeof(line), "choice: %s product %lld of %lld x %lld -> %lld%s%s%s%s%s", op,
             (long long)p->count, (long long)p->canonical_rows, (long long)p->inner, (long long)p->columns,
             p->b_plain ? " plain" : "", p->out == LT_F32 && p->in != LT_F32 ? " to f32" : "",
             p->biased ? " bias" : "", p->gelu ? " gelu" : "", p->add ? " add" : "");
    if (algo)
        fprintf(stderr, "%s: algorithm %lld, tile %lld, stages %lld, cluster %lld\n", line,
                attribute(algo, CUBLASLT_ALGO_CONFIG_ID, sizeof(int32_t)),
                attribute(algo, CUBLASLT_ALGO_CONFIG_TILE_ID, sizeof(uint32_t)),
                attribute(algo, CUBLASLT_ALGO_CONFIG_STAGES_ID, sizeof(uint32_t)),
                attribute(algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, sizeof(uint16_t)));
    else
        fprintf(stderr, "%s: none\n", line);
}
