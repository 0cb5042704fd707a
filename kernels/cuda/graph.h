/* graph.h - graphs of cuDNN's operations: building one, choosing the engine that runs it, running it.
 *
 * A problem is described by a function that builds its graph for a number of samples. The engine and its knobs are those that cuDNN's
 * heuristics (mode A, then the fallback list) put first for the canonical number of samples, of those that are deterministic, do not
 * lower the precision of their inputs or sums, and do not deal out sums by the number of tiles ("stream-K"). Then the very
 * same engine and knobs are used for the actual number.
 *
 * Choosing takes milliseconds: an engine's configuration says whether it does a graph, and with how much scratch memory. Code is
 * compiled for it at the first run, never when dry. Where cuDNN is and no device, choices can be made for one that is
 * described (cuda_device.dnn_properties): tests/cuda does it for the graphs of all models. */
#ifndef LT_CUDA_GRAPH_H
#define LT_CUDA_GRAPH_H

#include "kernels/cuda/cuda.h"

enum {
    GRAPH_MOST_DESCRIPTORS = 128,
    GRAPH_MOST_OPS = 16,
    GRAPH_MOST_KNOBS = 32,
    GRAPH_MOST_CONFIGS = 32, /* of the heuristics' list */
    GRAPH_KEY = 24,
    GRAPH_MOST_RANK = 4
};

/* A graph that is being built. After the first failure nothing more is done. */
typedef struct graph_builder {
    cudnnBackendDescriptor_t owned[GRAPH_MOST_DESCRIPTORS], ops[GRAPH_MOST_OPS];
    int n_owned, n_ops;
    cudnnStatus_t status;
    const char *what; /* that failed */
} graph_builder;

typedef enum { GRAPH_STORED, GRAPH_VIRTUAL, GRAPH_BY_VALUE } graph_kind;

/* A tensor of `rank` dimensions; its data pointer is given by `uid` when the graph runs, but for virtual ones. Returns NULL
 * after a failure, like those below. */
cudnnBackendDescriptor_t graph_tensor(graph_builder *g, int64_t uid, cudnnDataType_t type, graph_kind kind,
                                      int rank, const int64_t *dims, const int64_t *strides,
                                      size_t alignment);
/* y = x convolved with w, summed in f32; two dimensions of space. */
void graph_conv(graph_builder *g, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t w,
                cudnnBackendDescriptor_t y, const int64_t pre[2], const int64_t post[2],
                const int64_t strides[2]);
/* y = mode(x, b, t); b and t may be NULL; axis is that of CUDNN_POINTWISE_GEN_INDEX. */
void graph_pointwise(graph_builder *g, cudnnPointwiseMode_t mode, cudnnDataType_t precision, int64_t axis,
                     cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t t,
                     cudnnBackendDescriptor_t y);
void graph_matmul(graph_builder *g, cudnnBackendDescriptor_t a, cudnnBackendDescriptor_t b,
                  cudnnBackendDescriptor_t c);
void graph_reduce(graph_builder *g, cudnnReduceTensorOp_t op, cudnnBackendDescriptor_t x,
                  cudnnBackendDescriptor_t y);

/* Builds the graph for n samples. */
typedef void graph_build_fn(graph_builder *g, const void *problem, int64_t n);

/* What plans are kept by: everything that the graph depends on but the number of samples. Unused places are 0. */
typedef struct graph_key {
    int64_t v[GRAPH_KEY];
} graph_key;

typedef struct cuda_graph_plan {
    struct cuda_graph_plan *next;
    graph_key key;
    int64_t n;      /* samples */
    bool supported; /* or no engine does it */
    int64_t engine; /* the choice, the same for every n */
    int n_knobs;
    cudnnBackendKnobType_t knobs[GRAPH_MOST_KNOBS];
    int64_t values[GRAPH_MOST_KNOBS];
    graph_builder graph;
    cudnnBackendDescriptor_t operation_graph, config;
    cudnnBackendDescriptor_t plan; /* NULL before the first run */
    size_t workspace;
} cuda_graph_plan;

/* The engine for a problem, chosen by its graph for `canonical` samples when it is first asked for. NULL after an error, which is in the
 * context; one that is not `supported` where cuDNN has no engine for the problem. */
cuda_graph_plan *cuda_graph_choose(lt_context *c, const char *op, const graph_key *key, graph_build_fn *build,
                                   const void *problem, int64_t canonical);

/* The plan of a supported choice's engine for n samples of its problem, or of one that is to have the same engine. NULL, and not
 * `supported`, as above. */
cuda_graph_plan *cuda_graph_get(lt_context *c, const char *op, const graph_key *key, graph_build_fn *build,
                                const void *problem, int64_t n, const cuda_graph_plan *choice);

/* Put it on the stream: n_uids tensors and their pointers (those of values are the host's), and plan->workspace bytes. The first time its
 * code is compiled. */
lt_status cuda_graph_run(lt_context *c, const char *op, cuda_graph_plan *plan, int n_uids,
                         const int64_t *uids, void *const *pointers, void *workspace);
void cuda_graphs_destroy(cuda_device *d);

#endif
