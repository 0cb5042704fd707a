/* graph.c - graphs of cuDNN's operations, by its backend API. */
#include "kernels/cuda/graph.h"

#include <stdlib.h>
#include <string.h>

/* ---- building ---------------------------------------------------------------------------------------- */

static cudnnBackendDescriptor_t create(graph_builder *g, cudnnBackendDescriptorType_t type, const char *what)
{
    if (g->status != CUDNN_STATUS_SUCCESS) return NULL;
    g->what = what;
    if (g->n_owned == GRAPH_MOST_DESCRIPTORS) {
        g->status = CUDNN_STATUS_INTERNAL_ERROR;
        return NULL;
    }
    cudnnBackendDescriptor_t d = NULL;
    g->status = cudnnBackendCreateDescriptor(type, &d);
    if (g->status != CUDNN_STATUS_SUCCESS) return NULL;
    g->owned[g->n_owned++] = d;
    return d;
}

static void set(graph_builder *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *values)
{
    if (g->status == CUDNN_STATUS_SUCCESS) g->status = cudnnBackendSetAttribute(d, name, type, n, values);
}

static void set_descriptor(graph_builder *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                           cudnnBackendDescriptor_t value)
{
    set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finalize(graph_builder *g, cudnnBackendDescriptor_t d)
{
    if (g->status == CUDNN_STATUS_SUCCESS) g->status = cudnnBackendFinalize(d);
}

static size_t get_bytes(graph_builder *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name)
{
    int64_t bytes = 0, n = 0;
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = cudnnBackendGetAttribute(d, name, CUDNN_TYPE_INT64, 1, &n, &bytes);
    return (size_t)bytes;
}

static void add_op(graph_builder *g, cudnnBackendDescriptor_t op)
{
    finalize(g, op);
    if (g->status != CUDNN_STATUS_SUCCESS) return;
    if (g->n_ops == GRAPH_MOST_OPS) {
        g->status = CUDNN_STATUS_INTERNAL_ERROR;
        return;
    }
    g->ops[g->n_ops++] = op;
}

cudnnBackendDescriptor_t graph_tensor(graph_builder *g, int64_t uid, cudnnDataType_t type, graph_kind kind,
                                      int rank, const int64_t *dims, const int64_t *strides, size_t alignment)
{
    cudnnBackendDescriptor_t d = create(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR, "a tensor");
    int64_t bytes = (int64_t)alignment;
    bool yes = true;
    set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, rank, dims);
    set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, rank, strides);
    set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &bytes);
    if (kind == GRAPH_VIRTUAL) set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (kind == GRAPH_BY_VALUE) set(g, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    finalize(g, d);
    return d;
}

void graph_conv(graph_builder *g, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t w,
                cudnnBackendDescriptor_t y, const int64_t pre[2], const int64_t post[2],
                const int64_t strides[2])
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t rank = 2, dilations[2] = {1, 1};
    const float one = 1, zero = 0;
    cudnnBackendDescriptor_t d = create(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, "a convolution");
    set(g, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set(g, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &rank);
    set(g, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, rank, pre);
    set(g, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, rank, post);
    set(g, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, rank, dilations);
    set(g, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, rank, strides);
    finalize(g, d);
    cudnnBackendDescriptor_t op =
        create(g, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, "a convolution");
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, d);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &one);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &zero);
    add_op(g, op);
}

void graph_pointwise(graph_builder *g, cudnnPointwiseMode_t mode, cudnnDataType_t precision, int64_t axis,
                     cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t t,
                     cudnnBackendDescriptor_t y)
{
    const float one = 1;
    cudnnBackendDescriptor_t d = create(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, "an elementwise operation");
    set(g, d, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(g, d, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    if (mode == CUDNN_POINTWISE_GEN_INDEX) set(g, d, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    finalize(g, d);
    cudnnBackendDescriptor_t op =
        create(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, "an elementwise operation");
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, d);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    if (b) set_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    if (t) set_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
    set(g, op, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, CUDNN_TYPE_FLOAT, 1, &one);
    set(g, op, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, CUDNN_TYPE_FLOAT, 1, &one);
    add_op(g, op);
}

void graph_matmul(graph_builder *g, cudnnBackendDescriptor_t a, cudnnBackendDescriptor_t b,
                  cudnnBackendDescriptor_t c)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t d = create(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR, "a product");
    set(g, d, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    finalize(g, d);
    cudnnBackendDescriptor_t op = create(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, "a product");
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, d);
    add_op(g, op);
}

void graph_reduce(graph_builder *g, cudnnReduceTensorOp_t how, cudnnBackendDescriptor_t x,
                  cudnnBackendDescriptor_t y)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t d = create(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, "a reduction");
    set(g, d, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, d, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &how);
    finalize(g, d);
    cudnnBackendDescriptor_t op = create(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, "a reduction");
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, d);
    add_op(g, op);
}

/* The graph of the operations so far. */
static cudnnBackendDescriptor_t finish_graph(graph_builder *g, const cuda_device *on)
{
    cudnnBackendDescriptor_t d = create(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "the graph");
    if (on->dnn) set(g, d, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &on->dnn);
    set(g, d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_ops, g->ops);
    finalize(g, d);
    return d;
}

/* Destroy all descriptors but the first `kept`. */
static void forget(graph_builder *g, int kept)
{
    while (g->n_owned > kept) cudnnBackendDestroyDescriptor(g->owned[--g->n_owned]);
}

static void destroy_plan(cuda_graph_plan *p)
{
    if (!p) return;
    forget(&p->graph, 0);
    free(p);
}

void cuda_graphs_destroy(cuda_device *d)
{
    while (d->graphs) {
        cuda_graph_plan *next = d->graphs->next;
        destroy_plan(d->graphs);
        d->graphs = next;
    }
}

/* ---- engines ----------------------------------------------------------------------------------------- */

/* Does it say that an engine does not do what it is asked? Whoever went on to the next one for any other cause, full memory or a module that
 * does not load, would have other bytes than on a better day. */
static bool refused(cudnnStatus_t s)
{
    return CUDNN_STATUS_CATEGORY((int)s) == CUDNN_STATUS_NOT_SUPPORTED;
}

/* Does the engine keep what ops.h promises? */
static cudnnStatus_t engine_allowed(cudnnBackendDescriptor_t engine, bool *allowed)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t n = 0;
    cudnnStatus_t s =
        cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                 CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, notes);
    *allowed = s == CUDNN_STATUS_SUCCESS;
    if (!*allowed) return s;
    for (int64_t i = 0; i < n; i++) {
        switch (notes[i]) {
        case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
        case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
        case CUDNN_NUMERICAL_NOTE_FFT:
        case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13: *allowed = false; break;
        default: break;
        }
    }
    return s;
}

/* The knobs of a configuration; not allowed when one of them makes sums depend on the batch. */
static cudnnStatus_t read_knobs(cudnnBackendDescriptor_t config, cuda_graph_plan *p, bool *allowed)
{
    cudnnBackendDescriptor_t choices[GRAPH_MOST_KNOBS] = {0};
    int64_t n = 0, one;
    cudnnStatus_t s = CUDNN_STATUS_SUCCESS;
    for (int i = 0; i < GRAPH_MOST_KNOBS && s == CUDNN_STATUS_SUCCESS; i++)
        s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, &choices[i]);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                     GRAPH_MOST_KNOBS, &n, choices);
    *allowed = s == CUDNN_STATUS_SUCCESS && n <= GRAPH_MOST_KNOBS;
    for (int64_t i = 0; i < n && *allowed && s == CUDNN_STATUS_SUCCESS; i++) {
        s = cudnnBackendGetAttribute(choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1,
                                     &one, &p->knobs[i]);
        if (s == CUDNN_STATUS_SUCCESS)
            s = cudnnBackendGetAttribute(choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1,
                                         &one, &p->values[i]);
        *allowed = !(p->knobs[i] == CUDNN_KNOB_TYPE_STREAM_K && p->values[i] > 0);
    }
    *allowed = *allowed && s == CUDNN_STATUS_SUCCESS;
    p->n_knobs = *allowed ? (int)n : 0;
    for (int i = 0; i < GRAPH_MOST_KNOBS; i++) {
        if (choices[i]) cudnnBackendDestroyDescriptor(choices[i]);
    }
    return s;
}

/* The engine of a configuration of the heuristics and its knobs into p, and whether it is allowed: not after an error. */
static cudnnStatus_t read_config(cudnnBackendDescriptor_t config, cuda_graph_plan *p, bool *allowed)
{
    cudnnBackendDescriptor_t engine = NULL;
    int64_t n = 0;
    *allowed = false;
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                     &n, &engine);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &n,
                                     &p->engine);
    if (s == CUDNN_STATUS_SUCCESS) s = engine_allowed(engine, allowed);
    if (s == CUDNN_STATUS_SUCCESS && *allowed) s = read_knobs(config, p, allowed);
    if (engine) cudnnBackendDestroyDescriptor(engine);
    return s;
}

/* p's engine with its knobs for p's graph, which makes it say whether it does that, and how much scratch memory it takes. No code is
 * compiled for it. */
static cudnnStatus_t configure(cuda_graph_plan *p, const cuda_device *on)
{
    graph_builder *g = &p->graph;
    int kept = g->n_owned;
    cudnnBackendDescriptor_t engine = create(g, CUDNN_BACKEND_ENGINE_DESCRIPTOR, "an engine");
    set_descriptor(g, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, p->operation_graph);
    set(g, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &p->engine);
    if (!on->dnn) set_descriptor(g, engine, CUDNN_ATTR_ENGINE_DEVICEPROP, on->dnn_properties);
    finalize(g, engine);
    cudnnBackendDescriptor_t choices[GRAPH_MOST_KNOBS];
    for (int i = 0; i < p->n_knobs; i++) {
        choices[i] = create(g, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, "a knob");
        set(g, choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &p->knobs[i]);
        set(g, choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &p->values[i]);
        finalize(g, choices[i]);
    }
    p->config = create(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "an engine's configuration");
    set_descriptor(g, p->config, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    if (p->n_knobs)
        set(g, p->config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, p->n_knobs,
            choices);
    finalize(g, p->config);
    p->workspace = get_bytes(g, p->config, CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE);
    cudnnStatus_t s = g->status;
    if (s == CUDNN_STATUS_SUCCESS) return s;
    g->status = CUDNN_STATUS_SUCCESS; /* the graph itself is good: another engine may do it */
    forget(g, kept);
    p->config = NULL;
    return s;
}

/* The heuristics' list of one mode for p's graph, best first, into descriptors of `list`. */
static int64_t list_configs(graph_builder *list, const cuda_graph_plan *p, const cuda_device *on,
                            cudnnBackendHeurMode_t mode, cudnnBackendDescriptor_t configs[GRAPH_MOST_CONFIGS])
{
    int64_t n = 0;
    cudnnBackendDescriptor_t heuristics = create(list, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "heuristics");
    set_descriptor(list, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, p->operation_graph);
    set(list, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (!on->dnn) set_descriptor(list, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, on->dnn_properties);
    finalize(list, heuristics);
    for (int i = 0; i < GRAPH_MOST_CONFIGS; i++)
        configs[i] = create(list, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "a configuration of the heuristics");
    if (list->status == CUDNN_STATUS_SUCCESS)
        list->status =
            cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                     GRAPH_MOST_CONFIGS, &n, configs);
    return LT_MIN(n, (int64_t)GRAPH_MOST_CONFIGS);
}

/* The first allowed configuration of one mode's list that does p's graph; CUDNN_STATUS_NOT_SUPPORTED when none does. */
static cudnnStatus_t choose_from(cuda_graph_plan *p, const cuda_device *on, cudnnBackendHeurMode_t mode)
{
    graph_builder list = {0};
    cudnnBackendDescriptor_t configs[GRAPH_MOST_CONFIGS];
    int64_t n = list_configs(&list, p, on, mode, configs);
    cudnnStatus_t s = list.status == CUDNN_STATUS_SUCCESS ? CUDNN_STATUS_NOT_SUPPORTED : list.status;
    for (int64_t i = 0; i < n && refused(s); i++) {
        bool allowed;
        cudnnStatus_t read = read_config(configs[i], p, &allowed);
        if (allowed) s = configure(p, on);
        if (read != CUDNN_STATUS_SUCCESS && !refused(read)) s = read;
    }
    forget(&list, 0);
    return s;
}

/* ---- plans ------------------------------------------------------------------------------------------- */

static cuda_graph_plan *find_plan(const cuda_device *d, const graph_key *key, int64_t n)
{
    cuda_graph_plan *p = d->graphs;
    while (p && (p->n != n || memcmp(&p->key, key, sizeof(*key)) != 0)) p = p->next;
    return p;
}

static lt_status fail_graph(lt_context *c, const char *op, const cuda_graph_plan *p, cudnnStatus_t s)
{
    char text[256] = "";
    cudnnGetLastErrorString(text, sizeof(text));
    bool ours = CUDNN_STATUS_CATEGORY((int)s) == CUDNN_STATUS_BAD_PARAM && !cuda_is_gone(c);
    if (!ours) return cuda_check_dnn(c, op, s);
    return lt_context_fail(c, LT_E_INTERNAL, "%s: cuDNN does not take %s: %s %s", op,
                           p->graph.what ? p->graph.what : "the graph", cudnnGetErrorString(s), text);
}

/* A new plan's graph, built for n samples, in the list: p->supported says whether cuDNN takes it. */
static cuda_graph_plan *add_graph(lt_context *c, const char *op, const graph_key *key, graph_build_fn *build,
                                  const void *problem, int64_t n)
{
    cuda_device *d = c->device;
    cuda_graph_plan *p = calloc(1, sizeof(*p));
    if (!p) {
        lt_context_fail(c, LT_E_NO_MEMORY, "%s: out of memory", op);
        return NULL;
    }
    p->key = *key;
    p->n = n;
    build(&p->graph, problem, n);
    p->operation_graph = finish_graph(&p->graph, d);
    p->supported = p->graph.status == CUDNN_STATUS_SUCCESS;
    if (!p->supported && !refused(p->graph.status)) {
        fail_graph(c, op, p, p->graph.status);
        destroy_plan(p);
        return NULL;
    }
    p->next = d->graphs;
    d->graphs = p;
    return p;
}

cuda_graph_plan *cuda_graph_choose(lt_context *c, const char *op, const graph_key *key, graph_build_fn *build,
                                   const void *problem, int64_t canonical)
{
    cuda_device *d = cuda_of(c);
    cuda_graph_plan *p = find_plan(d, key, canonical);
    if (p) return p;
    p = add_graph(c, op, key, build, problem, canonical);
    if (!p) return NULL;
    cudnnStatus_t s = CUDNN_STATUS_NOT_SUPPORTED; /* the graph itself may not be */
    if (p->supported) s = choose_from(p, d, CUDNN_HEUR_MODE_A);
    if (p->supported && refused(s)) s = choose_from(p, d, CUDNN_HEUR_MODE_FALLBACK);
    p->supported = s == CUDNN_STATUS_SUCCESS;
    if (p->supported || refused(s)) {
        cuda_tell_engine(op, key->v, GRAPH_KEY, p->supported, p->engine, p->workspace);
        return p;
    }
    fail_graph(c, op, p, s);
    d->graphs = p->next;
    destroy_plan(p);
    return NULL;
}

cuda_graph_plan *cuda_graph_get(lt_context *c, const char *op, const graph_key *key, graph_build_fn *build,
                                const void *problem, int64_t n, const cuda_graph_plan *choice)
{
    cuda_device *d = cuda_of(c);
    cuda_graph_plan *p = find_plan(d, key, n);
    if (p) return p;
    p = add_graph(c, op, key, build, problem, n);
    if (!p || !p->supported) return p;
    p->engine = choice->engine;
    p->n_knobs = choice->n_knobs;
    memcpy(p->knobs, choice->knobs, sizeof(p->knobs));
    memcpy(p->values, choice->values, sizeof(p->values));
    cudnnStatus_t s = configure(p, d);
    p->supported = s == CUDNN_STATUS_SUCCESS;
    if (p->supported || refused(s)) return p;
    fail_graph(c, op, p, s);
    d->graphs = p->next;
    destroy_plan(p);
    return NULL;
}

/* ---- running ----------------------------------------------------------------------------------------- */

/* p's plan, for which cuDNN compiles code: about a second. What is recorded has run before. */
static lt_status make_plan(lt_context *c, const char *op, cuda_graph_plan *p)
{
    cuda_device *d = c->device;
    graph_builder *g = &p->graph;
    int kept = g->n_owned;
    if (d->record) return lt_context_fail(c, LT_E_UNSUPPORTED, "%s: it had another shape before", op);
    cudnnBackendDescriptor_t plan = create(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "a plan");
    set(g, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &d->dnn);
    set_descriptor(g, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, p->config);
    finalize(g, plan);
    size_t workspace = get_bytes(g, plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
    cudnnStatus_t s = g->status;
    if (s == CUDNN_STATUS_SUCCESS && workspace <= p->workspace) {
        p->plan = plan;
        return LT_OK;
    }
    if (s == CUDNN_STATUS_SUCCESS)
        lt_context_fail(
            c, LT_E_INTERNAL,
            "%s: cuDNN's engine %lld takes %zu bytes of scratch memory where its configuration said %zu", op,
            (long long)p->engine, workspace, p->workspace);
    else
        fail_graph(c, op, p, s);
    g->status = CUDNN_STATUS_SUCCESS;
    forget(g, kept);
    return c->err.status;
}

lt_status cuda_graph_run(lt_context *c, const char *op, cuda_graph_plan *plan, int n_uids,
                         const int64_t *uids, void *const *pointers, void *workspace)
{
    cuda_device *d = cuda_of(c);
    if (!plan->plan && make_plan(c, op, plan) != LT_OK) return c->err.status;
    cudnnBackendDescriptor_t pack = NULL;
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n_uids,
                                     pointers);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n_uids,
                                     uids);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1,
                                     &workspace);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendFinalize(pack);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendExecute(d->dnn, plan->plan, pack);
    if (pack) cudnnBackendDestroyDescriptor(pack);
    return cuda_check_dnn(c, op, s);
}
