/* fake_dnn_run.cpp - runs a plan of cuDNN's double: its graph, an operation after the other, when the stream comes to it. */
#include "kernels/convert.h"
#include "tests/cuda_on_host/fake_dnn.h"

#include <math.h>

using namespace fake_dnn;

namespace
{

struct values {
    std::vector<int64_t> dims;
    std::vector<float> v; /* row-major over dims */
    int type;
};

struct job {
    ref graph;
    std::map<int64_t, void *> pointers;
    std::map<int64_t, float> scalars;
    int64_t tile;
    std::map<const descriptor *, values> at;
};

float load(const void *data, int type, int64_t i)
{
    if (type == CUDNN_DATA_FLOAT) return ((const float *)data)[i];
    uint16_t h = ((const uint16_t *)data)[i];
    return type == CUDNN_DATA_BFLOAT16 ? lt_bf16_to_f32(h) : lt_f16_to_f32(h);
}

float rounded(float f, int type)
{
    return type == CUDNN_DATA_BFLOAT16 ? lt_bf16_to_f32(lt_f32_to_bf16(f))
           : type == CUDNN_DATA_HALF   ? lt_f16_to_f32(lt_f32_to_f16(f))
                                       : f;
}

size_t count(const std::vector<int64_t> &dims)
{
    size_t n = 1;
    for (int64_t d : dims) n *= (size_t)d;
    return n;
}

/* Place in memory of element i, row-major over dims. */
int64_t place(size_t i, const std::vector<int64_t> &dims, const std::vector<int64_t> &strides)
{
    int64_t at = 0;
    for (size_t e = dims.size(); e-- > 0;) {
        at += (int64_t)(i % (size_t)dims[e]) * strides[e];
        i /= (size_t)dims[e];
    }
    return at;
}

const values &read(job *j, const descriptor *t)
{
    auto found = j->at.find(t);
    if (found != j->at.end()) return found->second;
    values out = {numbers(t, CUDNN_ATTR_TENSOR_DIMENSIONS), {}, get<int>(t, CUDNN_ATTR_TENSOR_DATA_TYPE)};
    auto strides = numbers(t, CUDNN_ATTR_TENSOR_STRIDES);
    int64_t uid = get<int64_t>(t, CUDNN_ATTR_TENSOR_UNIQUE_ID);
    out.v.resize(count(out.dims));
    for (size_t i = 0; i < out.v.size(); i++)
        out.v[i] =
            is_value(t) ? j->scalars[uid] : load(j->pointers[uid], out.type, place(i, out.dims, strides));
    return j->at[t] = out;
}

void write(job *j, const descriptor *t, values &out)
{
    out.type = get<int>(t, CUDNN_ATTR_TENSOR_DATA_TYPE);
    for (float &f : out.v) f = rounded(f, out.type);
    if (!is_virtual(t)) {
        auto strides = numbers(t, CUDNN_ATTR_TENSOR_STRIDES);
        char *data = (char *)j->pointers[get<int64_t>(t, CUDNN_ATTR_TENSOR_UNIQUE_ID)];
        for (size_t i = 0; i < out.v.size(); i++) {
            int64_t at = place(i, out.dims, strides);
            if (out.type == CUDNN_DATA_FLOAT)
                ((float *)data)[at] = out.v[i];
            else
                ((uint16_t *)data)[at] =
                    out.type == CUDNN_DATA_BFLOAT16 ? lt_f32_to_bf16(out.v[i]) : lt_f32_to_f16(out.v[i]);
        }
    }
    j->at[t] = out;
}

void run_conv(job *j, const descriptor *op)
{
    const descriptor *c = part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    const descriptor *yt = part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y);
    const values &x = read(j, part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X));
    const values &w = read(j, part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W));
    auto pre = numbers(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS),
         stride = numbers(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
    values y = {numbers(yt, CUDNN_ATTR_TENSOR_DIMENSIONS), {}, 0};
    y.v.resize(count(y.dims));
    int64_t H = x.dims[2], W = x.dims[3], C = x.dims[1];
    for (size_t i = 0; i < y.v.size(); i++) {
        int64_t q = (int64_t)i % y.dims[3], p = (int64_t)i / y.dims[3] % y.dims[2];
        int64_t k = (int64_t)i / (y.dims[3] * y.dims[2]) % y.dims[1],
                n = (int64_t)i / (y.dims[3] * y.dims[2] * y.dims[1]);
        float total = 0, sum = 0;
        int64_t n_summed = 0;
        for (int64_t r = 0; r < w.dims[2]; r++) {
            for (int64_t s = 0; s < w.dims[3]; s++) {
                int64_t h = p * stride[0] + r - pre[0], v = q * stride[1] + s - pre[1];
                if (h < 0 || h >= H || v < 0 || v >= W) continue;
                for (int64_t e = 0; e < C; e++) {
                    sum += x.v[(size_t)(((n * C + e) * H + h) * W + v)] *
                           w.v[(size_t)(((k * C + e) * w.dims[2] + r) * w.dims[3] + s)];
                    if (++n_summed % j->tile) continue;
                    total += sum;
                    sum = 0;
                }
            }
        }
        y.v[i] = total + sum;
    }
    write(j, yt, y);
}

void run_matmul(job *j, const descriptor *op)
{
    const descriptor *ct = part(op, CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    const values &a = read(j, part(op, CUDNN_ATTR_OPERATION_MATMUL_ADESC));
    const values &b = read(j, part(op, CUDNN_ATTR_OPERATION_MATMUL_BDESC));
    values c = {numbers(ct, CUDNN_ATTR_TENSOR_DIMENSIONS), {}, 0};
    c.v.resize(count(c.dims));
    int64_t M = c.dims[2], N = c.dims[3], K = a.dims[3];
    for (size_t i = 0; i < c.v.size(); i++) {
        int64_t n = (int64_t)i % N, m = (int64_t)i / N % M, batch = (int64_t)i / (N * M);
        float total = 0, sum = 0;
        for (int64_t k = 0; k < K; k++) {
            sum += a.v[(size_t)((batch * M + m) * K + k)] * b.v[(size_t)((batch * K + k) * N + n)];
            if ((k + 1) % j->tile) continue;
            total += sum;
            sum = 0;
        }
        c.v[i] = total + sum;
    }
    write(j, ct, c);
}

/* The value of `from` for element i of a tensor of dims. */
float broadcast(const values &from, size_t i, const std::vector<int64_t> &dims)
{
    size_t at = 0, step = 1;
    for (size_t e = dims.size(); e-- > 0;) {
        if (from.dims[e] > 1) at += i % (size_t)dims[e] * step;
        step *= (size_t)from.dims[e];
        i /= (size_t)dims[e];
    }
    return from.v[at];
}

void run_pointwise(job *j, const descriptor *op)
{
    const descriptor *how = part(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const descriptor *yt = part(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC),
                     *bt = part(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
    const descriptor *tt = part(op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
    const values &x = read(j, part(op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC));
    values y = {numbers(yt, CUDNN_ATTR_TENSOR_DIMENSIONS), {}, 0};
    y.v.resize(count(y.dims));
    int axis = (int)get<int64_t>(how, CUDNN_ATTR_POINTWISE_AXIS);
    for (size_t i = 0; i < y.v.size(); i++) {
        float a = broadcast(x, i, y.dims), b = bt ? broadcast(read(j, bt), i, y.dims) : 0;
        size_t inner = 1;
        for (size_t e = (size_t)axis + 1; e < y.dims.size(); e++) inner *= (size_t)y.dims[e];
        switch (get<int>(how, CUDNN_ATTR_POINTWISE_MODE)) {
        case CUDNN_POINTWISE_ADD: y.v[i] = a + b; break;
        case CUDNN_POINTWISE_MUL: y.v[i] = a * b; break;
        case CUDNN_POINTWISE_SUB: y.v[i] = a - b; break;
        case CUDNN_POINTWISE_DIV: y.v[i] = a / b; break;
        case CUDNN_POINTWISE_EXP: y.v[i] = expf(a); break;
        case CUDNN_POINTWISE_LOG: y.v[i] = logf(a); break;
        case CUDNN_POINTWISE_CMP_GE: y.v[i] = a >= b; break;
        case CUDNN_POINTWISE_GEN_INDEX: y.v[i] = (float)(i / inner % (size_t)y.dims[(size_t)axis]); break;
        case CUDNN_POINTWISE_BINARY_SELECT: y.v[i] = broadcast(read(j, tt), i, y.dims) != 0 ? a : b; break;
        default: fake_die("cuDNN: an elementwise operation that is not here");
        }
    }
    write(j, yt, y);
}

void run_reduction(job *j, const descriptor *op)
{
    const descriptor *yt = part(op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    int how = get<int>(part(op, CUDNN_ATTR_OPERATION_REDUCTION_DESC), CUDNN_ATTR_REDUCTION_OPERATOR);
    const values &x = read(j, part(op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC));
    values y = {numbers(yt, CUDNN_ATTR_TENSOR_DIMENSIONS), {}, 0};
    y.v.assign(count(y.dims), how == CUDNN_REDUCE_TENSOR_MAX ? -INFINITY : 0.0f);
    size_t width = x.v.size() / y.v.size(); /* over the last dimension */
    for (size_t i = 0; i < x.v.size(); i++) {
        float *to = &y.v[i / width];
        *to = how == CUDNN_REDUCE_TENSOR_MAX ? (isnan(x.v[i]) || isnan(*to) ? NAN : fmaxf(*to, x.v[i]))
                                             : *to + x.v[i];
    }
    write(j, yt, y);
}

void run_job(job *j)
{
    j->at.clear();
    for (const descriptor *op : operations(j->graph.get())) {
        switch (op->type) {
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR: run_conv(j, op); break;
        case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR: run_matmul(j, op); break;
        case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: run_pointwise(j, op); break;
        case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: run_reduction(j, op); break;
        default: fake_die("cuDNN: an operation that is not here");
        }
    }
}

} // namespace

/* Bytes from a tensor's first element to behind its last. */
static size_t extent(const descriptor *t)
{
    auto dims = numbers(t, CUDNN_ATTR_TENSOR_DIMENSIONS), strides = numbers(t, CUDNN_ATTR_TENSOR_STRIDES);
    int64_t last = 0;
    for (size_t i = 0; i < dims.size(); i++) last += (dims[i] - 1) * strides[i];
    return (size_t)(last + 1) * (get<int>(t, CUDNN_ATTR_TENSOR_DATA_TYPE) == CUDNN_DATA_FLOAT ? 4 : 2);
}

/* Every stored tensor has a pointer, to as much device memory as it needs, aligned as it was said to be. */
static cudnnStatus_t bind(job *j)
{
    for (const descriptor *op : operations(j->graph.get())) {
        for (const descriptor *t : tensors_of(op)) {
            int64_t uid = get<int64_t>(t, CUDNN_ATTR_TENSOR_UNIQUE_ID);
            if (is_virtual(t)) continue;
            auto at = j->pointers.find(uid);
            if (at == j->pointers.end()) return fail(CUDNN_STATUS_BAD_PARAM, "a tensor without a pointer");
            if (is_value(t)) {
                memcpy(&j->scalars[uid], at->second, 4); /* values are the host's, read at once */
                continue;
            }
            if ((uintptr_t)at->second % (uintptr_t)get<int64_t>(t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT))
                return fail(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, "a tensor's address");
            if (!fake_is_device(at->second, extent(t)))
                return fail(CUDNN_STATUS_BAD_PARAM, "a tensor is not in the device's memory");
        }
    }
    return CUDNN_STATUS_SUCCESS;
}

/* Sizes as they lie in memory: channels last. */
static std::string sizes_of(const descriptor *t)
{
    auto d = numbers(t, CUDNN_ATTR_TENSOR_DIMENSIONS);
    return std::to_string(d[0]) + "x" + std::to_string(d[2]) + "x" + std::to_string(d[3]) + "x" +
           std::to_string(d[1]);
}

/* The line of fake_library_calls for a graph that begins with a convolution. */
static std::string conv_line(const descriptor *graph)
{
    std::vector<descriptor *> ops = operations(graph);
    const descriptor *conv = part(ops[0], CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    auto kernel =
        numbers(part(ops[0], CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W), CUDNN_ATTR_TENSOR_DIMENSIONS);
    auto pre = numbers(conv, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS),
         post = numbers(conv, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS);
    std::string line = "conv " + sizes_of(part(ops[0], CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X)) + " -> " +
                       sizes_of(part(ops[0], CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y)) + " by " +
                       std::to_string(kernel[2]) + "x" + std::to_string(kernel[3]) + ", pads";
    for (int64_t pad : {pre[0], post[0], pre[1], post[1]}) line += " " + std::to_string(pad);
    for (size_t i = 1; i < ops.size(); i++) {
        const descriptor *how = part(ops[i], CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
        bool add = get<int>(how, CUDNN_ATTR_POINTWISE_MODE) == CUDNN_POINTWISE_ADD;
        line += std::string(i == 1 ? ", then " : " ") + (add ? "add" : "other");
    }
    return line;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan_handle,
                                  cudnnBackendDescriptor_t pack_handle)
{
    ref plan = find(plan_handle), pack = find(pack_handle);
    cudnnStatus_t planned = fail_as_planned(CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED,
                                            CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER);
    if (planned != CUDNN_STATUS_SUCCESS) return planned;
    if (!plan->finalized || !pack->finalized)
        return fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "not finalised");
    const descriptor *c = part(plan.get(), CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    auto j = std::make_shared<job>();
    descriptor *graph = part(part(c, CUDNN_ATTR_ENGINECFG_ENGINE), CUDNN_ATTR_ENGINE_OPERATION_GRAPH);
    j->graph = find(graph);
    j->tile = get<int64_t>((descriptor *)numbers(c, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES)[0],
                           CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE);
    std::vector<int64_t> uids = numbers(pack.get(), CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    std::vector<int64_t> pointers = numbers(pack.get(), CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    for (size_t i = 0; i < uids.size(); i++) j->pointers[uids[i]] = (void *)pointers[i];
    if (!fake_is_device(get<void *>(pack.get(), CUDNN_ATTR_VARIANT_PACK_WORKSPACE), WORKSPACE_BYTES))
        return fail(CUDNN_STATUS_BAD_PARAM, "the workspace is not in the device's memory, or too small");
    if ((uintptr_t)get<void *>(pack.get(), CUDNN_ATTR_VARIANT_PACK_WORKSPACE) % 256)
        return fail(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, "the workspace's address");
    cudnnStatus_t s = bind(j.get());
    if (s != CUDNN_STATUS_SUCCESS) return s;
    bool conv = operations(graph)[0]->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR;
    fake_library_called(conv ? conv_line(graph) : "attention");
    if (fake_enqueue(handle->stream, [j] { run_job(j.get()); }) != cudaSuccess)
        return fail(CUDNN_STATUS_EXECUTION_FAILED, "the device failed");
    return CUDNN_STATUS_SUCCESS;
}
