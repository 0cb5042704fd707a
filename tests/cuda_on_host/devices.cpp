/* devices.cpp - errors and devices of the CUDA device on the host: how many there are, and when one fails, as a test has planned. */
#include "tests/cuda_on_host/fake.h"

#include <stdio.h>
#include <string.h>

namespace
{

thread_local cudaError_t last_error;
bool is_active, is_taken;
int n_devices = 1, driver = CUDART_VERSION, capability[2] = {9, 0};
int64_t until_failure, until_fault, until_full;
cudaError_t failure, fault, gone;

} // namespace

cudaError_t fake_error(cudaError_t error)
{
    if (error != cudaSuccess) last_error = error;
    return error;
}

void fake_cuda_fail(int64_t n, cudaError_t error)
{
    guard lock(fake_mutex);
    until_failure = n;
    failure = error;
    gone = last_error = cudaSuccess;
}

void fake_cuda_fault(int64_t n, cudaError_t error)
{
    guard lock(fake_mutex);
    until_fault = n;
    fault = error;
    gone = last_error = cudaSuccess;
}

void fake_cuda_full(int64_t n)
{
    guard lock(fake_mutex);
    until_full = n;
}

/* Errors of a call; the others are of the device. */
static bool passes(cudaError_t error)
{
    switch (error) {
    case cudaErrorInvalidValue:
    case cudaErrorMemoryAllocation:
    case cudaErrorInvalidConfiguration:
    case cudaErrorDevicesUnavailable:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorNotReady:
    case cudaErrorNotSupported: return true;
    default: return false;
    }
}

static bool comes(int64_t *until)
{
    return *until > 0 && --*until == 0;
}

cudaError_t fake_gone()
{
    return fake_error(gone);
}

bool fake_is_gone()
{
    return gone != cudaSuccess;
}

bool fake_fault_comes()
{
    return comes(&until_fault);
}

void fake_take_away()
{
    gone = fault;
}

void fake_lose(cudaError_t error)
{
    gone = error;
}

cudaError_t fake_count_work()
{
    if (gone == cudaSuccess && comes(&until_failure)) {
        if (passes(failure)) return fake_error(failure);
        gone = failure;
    }
    return fake_gone();
}

bool fake_is_full()
{
    return comes(&until_full);
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorDevicesUnavailable: return "cudaErrorDevicesUnavailable";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorHostMemoryAlreadyRegistered: return "cudaErrorHostMemoryAlreadyRegistered";
    default: return "cudaErrorUnknown";
    }
}

const char *cudaGetErrorString(cudaError_t error)
{
    return cudaGetErrorName(error);
}

int fake_cuda_planned(void)
{
    guard lock(fake_mutex);
    return until_failure || until_fault || until_full;
}

void fake_cuda_devices(int count)
{
    guard lock(fake_mutex);
    n_devices = count;
}

void fake_cuda_taken(int taken)
{
    guard lock(fake_mutex);
    is_taken = taken;
}

void fake_cuda_driver(int version)
{
    guard lock(fake_mutex);
    driver = version;
}

void fake_cuda_capability(int major, int minor)
{
    guard lock(fake_mutex);
    capability[0] = major;
    capability[1] = minor;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    guard lock(fake_mutex);
    if (driver < CUDART_VERSION) return fake_error(cudaErrorInsufficientDriver);
    if (n_devices == 0) return fake_error(cudaErrorNoDevice);
    *count = n_devices;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    guard lock(fake_mutex);
    if (driver < CUDART_VERSION) return fake_error(cudaErrorInsufficientDriver);
    if (device < 0 || device >= n_devices) return fake_error(cudaErrorInvalidDevice);
    is_active = true;
    return cudaSuccess;
}

int fake_cuda_is_active(void)
{
    guard lock(fake_mutex);
    return is_active;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

static unsigned device_flags;

bool fake_waits_sleep()
{
    return device_flags & cudaDeviceScheduleBlockingSync;
}

cudaError_t cudaSetDeviceFlags(unsigned flags)
{
    device_flags = flags;
    return cudaSuccess;
}

cudaError_t cudaInitDevice(int device, unsigned new_flags, unsigned flags)
{
    guard lock(fake_mutex);
    if (driver < CUDART_VERSION) return fake_error(cudaErrorInsufficientDriver);
    if (device < 0 || device >= n_devices) return fake_error(cudaErrorInvalidDevice);
    if (is_taken) return fake_error(cudaErrorDevicesUnavailable);
    if (flags & cudaInitDeviceFlagsAreValid) device_flags = new_flags;
    return cudaSuccess;
}

cudaError_t fake_function_attributes(cudaFuncAttributes *attributes)
{
    guard lock(fake_mutex);
    if (fake_gone() != cudaSuccess) return fake_gone();
    if (capability[0] < 9) return fake_error(cudaErrorNoKernelImageForDevice);
    *attributes = {32, 90};
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* Few multiprocessors: grids stay small, and grid-stride loops go round. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    memset(p, 0, sizeof(*p));
    snprintf(p->name, sizeof(p->name), "CUDA on host");
    memcpy(p->uuid.bytes, "of the test host", sizeof(p->uuid.bytes));
    p->totalGlobalMem = fake_total_memory();
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->major = capability[0];
    p->minor = capability[1];
    p->multiProcessorCount = 2;
    p->l2CacheSize = 50 << 20;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 2; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = capability[0]; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = capability[1]; return cudaSuccess;
    case cudaDevAttrIpcEventSupport: *value = 1; return cudaSuccess;
    default: return fake_error(cudaErrorInvalidValue);
    }
}
