/* fake_dnn.h - what the two files of cuDNN's double share: descriptors and their attributes (fake_dnn.cpp), which the interpreter
 * (fake_dnn_run.cpp) reads. */
#ifndef LT_FAKE_DNN_H
#define LT_FAKE_DNN_H

#include "tests/cuda_on_host/fake.h"

#include <cublasLt.h>
#include <cudnn.h>
#include <map>
#include <memory>
#include <string.h>
#include <string>
#include <vector>

struct cudnnContext {
    cudaStream_t stream;
};

namespace fake_dnn
{

/* What every engine asks for. */
enum { WORKSPACE_BYTES = 1000 };

struct attribute {
    cudnnBackendAttributeType_t type;
    int64_t n;
    std::vector<char> bytes;
};

struct descriptor;
typedef std::shared_ptr<descriptor> ref;

struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool finalized = false;
    std::map<int, attribute> attributes;
    std::vector<ref> parts; /* keeps what it was made of, as the library does */
    std::vector<ref> results;
    int64_t workspace = 0;
};

/* An attribute's value, `otherwise` where it was not set. */
template <typename T> T get(const descriptor *d, int name, T otherwise = T())
{
    auto at = d->attributes.find(name);
    if (at == d->attributes.end()) return otherwise;
    T value;
    memcpy(&value, at->second.bytes.data(), sizeof(T));
    return value;
}

/* All values of an attribute of 8 bytes each, which must be set. */
std::vector<int64_t> numbers(const descriptor *d, int name);
descriptor *part(const descriptor *d, int name);
bool is_virtual(const descriptor *t);
bool is_value(const descriptor *t);

/* Keep the text for cudnnGetLastErrorString; returns s. */
cudnnStatus_t fail(cudnnStatus_t s, const std::string &text);
/* `full` or `lost` where it is this call's turn to fail. */
cudnnStatus_t fail_as_planned(cudnnStatus_t full, cudnnStatus_t lost);
/* The living descriptor of a handle. */
ref find(const void *d);
/* Of a graph, in their order; of an operation. */
std::vector<descriptor *> operations(const descriptor *graph);
std::vector<descriptor *> tensors_of(const descriptor *op);

} // namespace fake_dnn

#endif
