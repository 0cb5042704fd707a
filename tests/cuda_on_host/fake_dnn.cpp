/* fake_dnn.cpp - cuDNN's backend API on the host: descriptors that check their attributes, heuristics whose first answers are ones that
 * must not be taken, and an interpreter of graphs.
 *
 * Of graphs it takes what the plug-in counts on: a convolution with sums added to it, and attention; others are "not supported", as
 * are uneven pads and channels of which eight do not make a whole number. Sums run in an order that the engine's knob says, and
 * the knob that the heuristics give depends on the number of samples they were asked for. */
#include "tests/cuda_on_host/fake_dnn.h"

#include <cublasLt.h>
#include <cudnn.h>
#include <map>
#include <math.h>
#include <memory>
#include <set>
#include <stdio.h>
#include <string>
#include <string.h>
#include <vector>

using namespace fake_dnn;

namespace
{

/* What an attribute must be; n 0: any number. */
struct rule {
    cudnnBackendDescriptorType_t of;
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t n;
    bool needed;
};

const rule rules[] = {
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, true},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 0, true},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 0, true},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, true},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, true},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, false},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, false},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1,
     true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
     CUDNN_TYPE_FLOAT, 1, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
     CUDNN_TYPE_FLOAT, 1, true},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, true},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, true},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, false},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, false},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_TDESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, false},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_YDESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, CUDNN_TYPE_FLOAT, 1,
     false},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, CUDNN_TYPE_FLOAT, 1,
     false},
    {CUDNN_BACKEND_MATMUL_DESCRIPTOR, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, true},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_ADESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_BDESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_CDESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_DESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, true},
    {CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1,
     true},
    {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, CUDNN_ATTR_OPERATION_REDUCTION_XDESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, CUDNN_ATTR_OPERATION_REDUCTION_YDESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, CUDNN_ATTR_OPERATION_REDUCTION_DESC,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, true},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0,
     true},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, true},
    {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
     true},
    {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, true},
    {CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, true},
    {CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, true},
    {CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0,
     false},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, true},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, true},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 0,
     true},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 0, true},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, true},
};

std::string last_error = "";
std::map<descriptor *, ref> alive;

size_t size_of_type(cudnnBackendAttributeType_t t)
{
    switch (t) {
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
    case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
    default: return 4;
    }
}

} // namespace

cudnnStatus_t fake_dnn::fail(cudnnStatus_t s, const std::string &text)
{
    last_error = text;
    return s;
}

cudnnStatus_t fake_dnn::fail_as_planned(cudnnStatus_t full, cudnnStatus_t lost)
{
    fake_failure f = fake_library_fails();
    if (f == FAKE_WORKS) return CUDNN_STATUS_SUCCESS;
    return fail(f == FAKE_FULL ? full : lost, "a planned failure");
}

std::vector<int64_t> fake_dnn::numbers(const descriptor *d, int name)
{
    const attribute &a = d->attributes.at(name);
    std::vector<int64_t> out((size_t)a.n);
    memcpy(out.data(), a.bytes.data(), a.bytes.size());
    return out;
}

descriptor *fake_dnn::part(const descriptor *d, int name)
{
    return get<descriptor *>(d, name, NULL);
}

bool fake_dnn::is_virtual(const descriptor *t)
{
    return get<bool>(t, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
}

bool fake_dnn::is_value(const descriptor *t)
{
    return get<bool>(t, CUDNN_ATTR_TENSOR_IS_BY_VALUE);
}

/* ---- descriptors --------------------------------------------------------------------------------------- */

static cudnnStatus_t check_tensor(const descriptor *t)
{
    std::vector<int64_t> dims = numbers(t, CUDNN_ATTR_TENSOR_DIMENSIONS),
                         strides = numbers(t, CUDNN_ATTR_TENSOR_STRIDES);
    int64_t alignment = get<int64_t>(t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    if (dims.size() != strides.size() || dims.size() < 3 || dims.size() > 8)
        return fail(CUDNN_STATUS_BAD_PARAM, "a tensor's dimensions and strides differ in number");
    for (size_t i = 0; i < dims.size(); i++) {
        if (dims[i] < 1 || strides[i] < 1) return fail(CUDNN_STATUS_BAD_PARAM, "a tensor's size or stride");
    }
    if (alignment < 1 || (alignment & (alignment - 1)))
        return fail(CUDNN_STATUS_BAD_PARAM, "a tensor's alignment");
    if (is_virtual(t) && is_value(t)) return fail(CUDNN_STATUS_BAD_PARAM, "a tensor is virtual and a value");
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t check_conv(const descriptor *op)
{
    const descriptor *c = part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    auto x = numbers(part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X), CUDNN_ATTR_TENSOR_DIMENSIONS);
    auto w = numbers(part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W), CUDNN_ATTR_TENSOR_DIMENSIONS);
    auto y = numbers(part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y), CUDNN_ATTR_TENSOR_DIMENSIONS);
    auto pre = numbers(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS),
         post = numbers(c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS);
    auto stride = numbers(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
    bool good =
        x.size() == 4 && w.size() == 4 && y.size() == 4 && x[0] == y[0] && x[1] == w[1] && w[0] == y[1];
    for (size_t i = 0; i < 2 && good; i++)
        good = stride[i] > 0 && y[2 + i] == (x[2 + i] + pre[i] + post[i] - w[2 + i]) / stride[i] + 1;
    return good ? CUDNN_STATUS_SUCCESS : fail(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "a convolution's sizes");
}

static cudnnStatus_t check_matmul(const descriptor *op)
{
    auto a = numbers(part(op, CUDNN_ATTR_OPERATION_MATMUL_ADESC), CUDNN_ATTR_TENSOR_DIMENSIONS);
    auto b = numbers(part(op, CUDNN_ATTR_OPERATION_MATMUL_BDESC), CUDNN_ATTR_TENSOR_DIMENSIONS);
    auto c = numbers(part(op, CUDNN_ATTR_OPERATION_MATMUL_CDESC), CUDNN_ATTR_TENSOR_DIMENSIONS);
    bool good = a.size() == 4 && b.size() == 4 && c.size() == 4 && a[0] == b[0] && a[0] == c[0] &&
                a[1] == b[1] && a[1] == c[1] && a[3] == b[2] && c[2] == a[2] && c[3] == b[3];
    return good ? CUDNN_STATUS_SUCCESS : fail(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "a product's sizes");
}

/* Sizes of a are those of y, or 1. */
static bool broadcasts(const descriptor *a, const descriptor *y)
{
    auto da = numbers(a, CUDNN_ATTR_TENSOR_DIMENSIONS), dy = numbers(y, CUDNN_ATTR_TENSOR_DIMENSIONS);
    if (da.size() != dy.size()) return false;
    for (size_t i = 0; i < da.size(); i++) {
        if (da[i] != dy[i] && da[i] != 1) return false;
    }
    return true;
}

static cudnnStatus_t check_pointwise(const descriptor *op)
{
    const descriptor *y = part(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    int mode = get<int>(part(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR), CUDNN_ATTR_POINTWISE_MODE);
    bool unary =
        mode == CUDNN_POINTWISE_EXP || mode == CUDNN_POINTWISE_LOG || mode == CUDNN_POINTWISE_GEN_INDEX;
    bool ternary = mode == CUDNN_POINTWISE_BINARY_SELECT;
    const descriptor *b = part(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC),
                     *t = part(op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
    if (!unary != !!b || ternary != !!t)
        return fail(CUDNN_STATUS_BAD_PARAM, "an elementwise operation's inputs");
    bool good = broadcasts(part(op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC), y) && (!b || broadcasts(b, y)) &&
                (!t || broadcasts(t, y));
    return good ? CUDNN_STATUS_SUCCESS
                : fail(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "an elementwise operation's sizes");
}

static cudnnStatus_t check_reduction(const descriptor *op)
{
    bool good = broadcasts(part(op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC),
                           part(op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC));
    return good ? CUDNN_STATUS_SUCCESS : fail(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "a reduction's sizes");
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *out)
{
    cudnnStatus_t planned =
        fail_as_planned(CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED, CUDNN_STATUS_INTERNAL_ERROR);
    if (planned != CUDNN_STATUS_SUCCESS) return planned;
    ref d = std::make_shared<descriptor>();
    d->type = type;
    alive[d.get()] = d;
    fake_library_count(1);
    *out = d.get();
    return CUDNN_STATUS_SUCCESS;
}

ref fake_dnn::find(const void *d)
{
    auto at = alive.find((descriptor *)d);
    if (at == alive.end()) fake_die("cuDNN: a descriptor that is none");
    return at->second;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    find(d);
    alive.erase((descriptor *)d);
    fake_library_count(-1);
    return CUDNN_STATUS_SUCCESS;
}

static const rule *rule_of(const descriptor *d, cudnnBackendAttributeName_t name)
{
    for (const rule &r : rules) {
        if (r.of == d->type && r.name == name) return &r;
    }
    return NULL;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t handle, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n, const void *values)
{
    ref d = find(handle);
    cudnnStatus_t planned =
        fail_as_planned(CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED, CUDNN_STATUS_BAD_PARAM);
    if (planned != CUDNN_STATUS_SUCCESS) return planned;
    const rule *r = rule_of(d.get(), name);
    if (d->finalized) return fail(CUDNN_STATUS_NOT_INITIALIZED, "set after it was finalised");
    if (!r) return fail(CUDNN_STATUS_BAD_PARAM, "no attribute of this descriptor");
    if (r->type != type) return fail(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "an attribute's type");
    if (!values) return fail(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "no values");
    if (n < 1 || (r->n && r->n != n)) return fail(CUDNN_STATUS_BAD_PARAM, "an attribute's number of values");
    for (int64_t i = 0; i < n && type == CUDNN_TYPE_BACKEND_DESCRIPTOR; i++) {
        ref p = find(((void *const *)values)[i]);
        if (!p->finalized) return fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "a part that is not finalised");
        d->parts.push_back(p);
    }
    const char *bytes = (const char *)values;
    d->attributes[name] = {type, n, std::vector<char>(bytes, bytes + (size_t)n * size_of_type(type))};
    return CUDNN_STATUS_SUCCESS;
}

/* ---- graphs -------------------------------------------------------------------------------------------- */

std::vector<descriptor *> fake_dnn::operations(const descriptor *graph)
{
    std::vector<int64_t> handles = numbers(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
    std::vector<descriptor *> out;
    for (int64_t h : handles) out.push_back((descriptor *)h);
    return out;
}

/* In the order inputs, output. */
std::vector<descriptor *> fake_dnn::tensors_of(const descriptor *op)
{
    static const cudnnBackendAttributeName_t names[] = {
        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
        CUDNN_ATTR_OPERATION_POINTWISE_XDESC,       CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
        CUDNN_ATTR_OPERATION_POINTWISE_TDESC,       CUDNN_ATTR_OPERATION_MATMUL_ADESC,
        CUDNN_ATTR_OPERATION_MATMUL_BDESC,          CUDNN_ATTR_OPERATION_REDUCTION_XDESC,
        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_POINTWISE_YDESC,
        CUDNN_ATTR_OPERATION_MATMUL_CDESC,          CUDNN_ATTR_OPERATION_REDUCTION_YDESC};
    std::vector<descriptor *> out;
    for (cudnnBackendAttributeName_t name : names) {
        if (part(op, name)) out.push_back(part(op, name));
    }
    return out;
}

/* Virtual tensors are written before they are read, one uid is one tensor, and the last result is stored. */
static cudnnStatus_t check_graph(const descriptor *graph)
{
    std::map<int64_t, const descriptor *> by_uid;
    std::set<const descriptor *> written;
    bool stored = false;
    for (const descriptor *op : operations(graph)) {
        std::vector<descriptor *> all = tensors_of(op);
        for (size_t i = 0; i < all.size(); i++) {
            const descriptor *t = all[i];
            int64_t uid = get<int64_t>(t, CUDNN_ATTR_TENSOR_UNIQUE_ID);
            if (by_uid.count(uid) && by_uid[uid] != t)
                return fail(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES, "two tensors of one uid");
            by_uid[uid] = t;
            if (i + 1 < all.size() && is_virtual(t) && !written.count(t))
                return fail(CUDNN_STATUS_BAD_PARAM, "a virtual tensor is read before it is written");
        }
        written.insert(all.back());
        stored = !is_virtual(all.back());
    }
    return stored ? CUDNN_STATUS_SUCCESS : fail(CUDNN_STATUS_BAD_PARAM, "the graph stores nothing");
}

static bool supported_conv(const std::vector<descriptor *> &ops)
{
    const descriptor *c = part(ops[0], CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    const descriptor *x = part(ops[0], CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X);
    auto dims = numbers(x, CUDNN_ATTR_TENSOR_DIMENSIONS), strides = numbers(x, CUDNN_ATTR_TENSOR_STRIDES);
    auto w = numbers(part(ops[0], CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W), CUDNN_ATTR_TENSOR_DIMENSIONS);
    for (size_t i = 1; i < ops.size(); i++) {
        if (ops[i]->type != CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) return false;
    }
    return ops.size() <= 3 && strides[1] == 1 && dims[1] % 8 == 0 && w[0] % 8 == 0 &&
           numbers(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS) ==
               numbers(c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS);
}

/* Is there a LOG of a sum, and an ADD of it to what the maximum was written to? */
static bool has_statistics(const std::vector<descriptor *> &ops)
{
    const descriptor *largest = NULL, *sum = NULL, *logarithm = NULL;
    for (const descriptor *op : ops) {
        const descriptor *y = tensors_of(op).back();
        if (op->type == CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR) {
            int how = get<int>(part(op, CUDNN_ATTR_OPERATION_REDUCTION_DESC), CUDNN_ATTR_REDUCTION_OPERATOR);
            (how == CUDNN_REDUCE_TENSOR_MAX ? largest : sum) = y;
        }
        if (op->type != CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) continue;
        int mode =
            get<int>(part(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR), CUDNN_ATTR_POINTWISE_MODE);
        const descriptor *x = part(op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC);
        if (mode == CUDNN_POINTWISE_LOG && sum && x == sum) logarithm = y;
        if (mode == CUDNN_POINTWISE_ADD && logarithm && x == largest &&
            part(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC) == logarithm)
            return true;
    }
    return false;
}

/* As the library: softmax without the branch of its statistics is no attention. */
static bool supported_attention(const std::vector<descriptor *> &ops)
{
    const descriptor *q = part(ops[0], CUDNN_ATTR_OPERATION_MATMUL_ADESC);
    const descriptor *weights = part(ops.back(), CUDNN_ATTR_OPERATION_MATMUL_ADESC);
    auto dims = numbers(q, CUDNN_ATTR_TENSOR_DIMENSIONS);
    return ops.back()->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR &&
           (ops.size() == 10 || ops.size() == 11 || ops.size() == 14) && has_statistics(ops) &&
           dims[3] % 8 == 0 && dims[3] <= 256 && is_virtual(weights) &&
           get<int>(weights, CUDNN_ATTR_TENSOR_DATA_TYPE) == get<int>(q, CUDNN_ATTR_TENSOR_DATA_TYPE);
}

static bool supported(const descriptor *graph)
{
    std::vector<descriptor *> ops = operations(graph);
    int type = get<int>(tensors_of(ops[0])[0], CUDNN_ATTR_TENSOR_DATA_TYPE);
    if (type != CUDNN_DATA_HALF && type != CUDNN_DATA_BFLOAT16) return false;
    if (ops[0]->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) return supported_conv(ops);
    return ops[0]->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR && supported_attention(ops);
}

/* ---- engines ------------------------------------------------------------------------------------------- */

enum { ENGINE_ATOMIC = 3, ENGINE_FRAIL = 5, ENGINE_GOOD = 11 };

static ref made(cudnnBackendDescriptorType_t type)
{
    ref d = std::make_shared<descriptor>();
    d->type = type;
    d->finalized = true;
    return d;
}

template <typename T> static void put(const ref &d, int name, cudnnBackendAttributeType_t type, T value)
{
    const char *bytes = (const char *)&value;
    d->attributes[name] = {type, 1, std::vector<char>(bytes, bytes + sizeof(T))};
}

static ref knob(cudnnBackendKnobType_t type, int64_t value)
{
    ref d = made(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    put(d, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, (int)type);
    put(d, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, value);
    return d;
}

static ref config(int64_t engine, int64_t tile, int64_t stream_k)
{
    ref c = made(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR), e = made(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    put(e, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, engine);
    put(e, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
        (int)(engine == ENGINE_ATOMIC ? CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC
                                      : CUDNN_NUMERICAL_NOTE_TENSOR_CORE));
    c->results = {e, knob(CUDNN_KNOB_TYPE_TILE_SIZE, tile), knob(CUDNN_KNOB_TYPE_STREAM_K, stream_k)};
    return c;
}

static void make_results(descriptor *heuristics)
{
    const descriptor *graph = part(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    if (!supported(graph)) return;
    int64_t n = numbers(tensors_of(operations(graph)[0])[0], CUDNN_ATTR_TENSOR_DIMENSIONS)[0];
    int64_t tile = n >= 8 ? 64 : n > 1 ? 48 : 16;
    if (get<int>(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE) == CUDNN_HEUR_MODE_A)
        heuristics->results = {config(ENGINE_ATOMIC, tile, 0), config(ENGINE_GOOD, tile, 1),
                               config(ENGINE_FRAIL, tile, 0)};
    else
        heuristics->results = {config(ENGINE_GOOD, tile, 0)};
}

/* The support check. */
static cudnnStatus_t check_engine(const descriptor *engine)
{
    return get<int64_t>(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX) == ENGINE_GOOD
               ? CUDNN_STATUS_SUCCESS
               : fail(CUDNN_STATUS_NOT_SUPPORTED, "this engine does not do it");
}

static int64_t n_plans;
static fake_dnn_plans_are plans_are;

int64_t fake_dnn_plans(void)
{
    return n_plans;
}

void fake_dnn_make_plans(fake_dnn_plans_are how)
{
    plans_are = how;
}

/* Its code is compiled and loaded, which allocates: not while a stream is captured. */
static cudnnStatus_t make_plan(descriptor *plan)
{
    if (plans_are == FAKE_DNN_PLANS_FAIL || fake_while_capturing() != cudaSuccess)
        return fail(CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER, "a module cannot be loaded");
    n_plans++;
    plan->workspace = WORKSPACE_BYTES + (plans_are == FAKE_DNN_PLANS_ARE_LARGE);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t handle)
{
    ref d = find(handle);
    cudnnStatus_t planned = fail_as_planned(CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED,
                                            CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER);
    if (planned != CUDNN_STATUS_SUCCESS) return planned;
    for (const rule &r : rules) {
        if (r.of == d->type && r.needed && !d->attributes.count(r.name))
            return fail(CUDNN_STATUS_BAD_PARAM, "attribute " + std::to_string(r.name) + " is missing");
    }
    cudnnStatus_t s = CUDNN_STATUS_SUCCESS;
    switch (d->type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR: s = check_tensor(d.get()); break;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR: s = check_conv(d.get()); break;
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: s = check_pointwise(d.get()); break;
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR: s = check_matmul(d.get()); break;
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: s = check_reduction(d.get()); break;
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR: s = check_graph(d.get()); break;
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR: s = check_engine(d.get()); break;
    case CUDNN_BACKEND_ENGINECFG_DESCRIPTOR: d->workspace = WORKSPACE_BYTES; break;
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: s = make_plan(d.get()); break;
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: make_results(d.get()); break;
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
        if (d->attributes[CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS].n !=
            d->attributes[CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS].n)
            s = fail(CUDNN_STATUS_BAD_PARAM, "as many pointers as uids are needed");
        break;
    default: break;
    }
    d->finalized = s == CUDNN_STATUS_SUCCESS;
    return s;
}

/* Descriptors are handed out into ones that the caller has created. */
static cudnnStatus_t give(const std::vector<ref> &from, int64_t room, int64_t *n, void *values)
{
    if (n) *n = (int64_t)from.size();
    for (int64_t i = 0; i < room && i < (int64_t)from.size(); i++) {
        ref to = find(((void *const *)values)[i]);
        if (to->type != from[(size_t)i]->type)
            return fail(CUDNN_STATUS_BAD_PARAM, "a descriptor of another type");
        *to = *from[(size_t)i];
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const handle,
                                       cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                       int64_t room, int64_t *n, void *values)
{
    ref d = find(handle);
    cudnnStatus_t planned =
        fail_as_planned(CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED, CUDNN_STATUS_INTERNAL_ERROR);
    if (planned != CUDNN_STATUS_SUCCESS) return planned;
    if (!d->finalized) return fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "asked before it was finalised");
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) return give(d->results, room, n, values);
    if (name == CUDNN_ATTR_ENGINECFG_ENGINE)
        return give({d->results.begin(), d->results.begin() + 1}, room, n, values);
    if (name == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES)
        return give({d->results.begin() + 1, d->results.end()}, room, n, values);
    if ((name == CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE || name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) &&
        type == CUDNN_TYPE_INT64) {
        memcpy(values, &d->workspace, 8);
        if (n) *n = 1;
        return CUDNN_STATUS_SUCCESS;
    }
    auto at = d->attributes.find(name);
    if (at == d->attributes.end() || at->second.type != type)
        return fail(CUDNN_STATUS_BAD_PARAM, "no such attribute");
    if (n) *n = at->second.n;
    memcpy(values, at->second.bytes.data(), at->second.bytes.size());
    return CUDNN_STATUS_SUCCESS;
}

/* ---- handles ------------------------------------------------------------------------------------------- */

size_t cudnnGetVersion(void)
{
    return 91900;
}

const char *cudnnGetErrorString(cudnnStatus_t s)
{
    switch (CUDNN_STATUS_CATEGORY((int)s)) {
    case 0: return "CUDNN_STATUS_SUCCESS";
    case 2000: return "CUDNN_STATUS_BAD_PARAM";
    case 3000: return "CUDNN_STATUS_NOT_SUPPORTED";
    case 4000: return "CUDNN_STATUS_INTERNAL_ERROR";
    default: return "CUDNN_STATUS_EXECUTION_FAILED";
    }
}

void cudnnGetLastErrorString(char *message, size_t bytes)
{
    snprintf(message, bytes, "%s", last_error.c_str());
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    cudnnStatus_t planned =
        fail_as_planned(CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED, CUDNN_STATUS_NOT_INITIALIZED);
    if (planned != CUDNN_STATUS_SUCCESS) return planned;
    *handle = new cudnnContext();
    fake_library_count(1);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    delete handle;
    fake_library_count(-1);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

/* ---- NVRTC --------------------------------------------------------------------------------------------- */

static bool nvrtc_is_there = true;

void fake_nvrtc_is_there(bool there)
{
    nvrtc_is_there = there;
}

static int nvrtc_version(int *major, int *minor)
{
    *major = 13;
    *minor = 0;
    return 0;
}

extern "C" void *fake_dlopen(const char *name, int)
{
    if (!nvrtc_is_there || strcmp(name, "libnvrtc.so.13") != 0) return NULL;
    fake_library_count(1);
    return &nvrtc_is_there;
}

extern "C" void *fake_dlsym(void *library, const char *name)
{
    bool known = library == &nvrtc_is_there && strcmp(name, "nvrtcVersion") == 0;
    return known ? (void *)nvrtc_version : NULL;
}

extern "C" int fake_dlclose(void *)
{
    fake_library_count(-1);
    return 0;
}
