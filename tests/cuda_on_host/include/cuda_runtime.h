/* cuda_runtime.h - as much of CUDA's C++ and runtime as our kernels and the plug-in use, on a CPU: a device that tests can have anywhere,
 * and that finds what a real one may hide.
 *
 * - A kernel's threads are fibers of one host thread. Between barriers they run in an order drawn from a seed (fake_cuda_seed), blocks
 *   too: a result that changes with the seed is a race. Threads that wait at different barriers, or at a warp's operation that
 *   another lane has left out, end the process with a sentence.
 * - Shared memory is filled with 0xff before every block, and ends at a page that nobody may touch.
 * - Device memory lies between such pages, is filled with 0xff, and can be reached only while device work runs: a host that reads or writes it
 *   dies. What was freed is never reached again.
 * - Memory and events can be opened by other processes, not by the one that made them. What waits for another process's event does so for
 *   ten seconds.
 * - Streams are queues. What is put on one runs when somebody waits for it, streams in an order drawn from the seed: a missing
 *   wait shows. Copies from pinned memory read it then; copies from other memory read it at once.
 *
 * The names and contracts below are CUDA's; what is not here is not emulated. Host calls from any thread; device work runs one
 * at a time. */
#ifndef FAKE_CUDA_RUNTIME_H
#define FAKE_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorCudartUnloading = 4,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorDevicesUnavailable = 46,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorDeviceUninitialized = 201,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorECCUncorrectable = 214,
    cudaErrorNvlinkUncorrectable = 220,
    cudaErrorUnsupportedPtxVersion = 222,
    cudaErrorContained = 226,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchTimeout = 702,
    cudaErrorContextIsDestroyed = 709,
    cudaErrorAssert = 710,
    cudaErrorHostMemoryAlreadyRegistered = 712,
    cudaErrorHardwareStackError = 714,
    cudaErrorIllegalInstruction = 715,
    cudaErrorMisalignedAddress = 716,
    cudaErrorInvalidAddressSpace = 717,
    cudaErrorInvalidPc = 718,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801,
    cudaErrorSystemNotReady = 802,
    cudaErrorMpsClientTerminated = 810,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorExternalDevice = 911,
    cudaErrorUnknown = 999
} cudaError_t;
#define CUDART_VERSION 13000

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
} cudaMemcpyKind;
typedef enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrIpcEventSupport = 125
} cudaDeviceAttr;
typedef enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 } cudaFuncAttribute;

typedef struct CUuuid_st {
    char bytes[16];
} cudaUUID_t;

struct cudaDeviceProp {
    char name[256];
    cudaUUID_t uuid;
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount, l2CacheSize, integrated;
};

enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum {
    cudaEventDefault = 0,
    cudaEventBlockingSync = 1,
    cudaEventDisableTiming = 2,
    cudaEventInterprocess = 4
};
enum {
    cudaHostAllocDefault = 0,
    cudaHostAllocPortable = 1,
    cudaHostRegisterDefault = 0,
    cudaHostRegisterReadOnly = 8
};
enum { cudaDeviceScheduleBlockingSync = 4, cudaInitDeviceFlagsAreValid = 1 };
typedef struct cudaFuncAttributes {
    int numRegs, binaryVersion;
} cudaFuncAttributes;

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaSetDeviceFlags(unsigned flags);
cudaError_t cudaInitDevice(int device, unsigned device_flags, unsigned flags);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);

cudaError_t cudaMalloc(void **pointer, size_t bytes);
cudaError_t cudaFree(void *pointer);
cudaError_t cudaMallocHost(void **pointer, size_t bytes);
cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *pointer);
cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void *pointer);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemset(void *to, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);

cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end);

typedef struct cudaIpcMemHandle_st {
    char reserved[64];
} cudaIpcMemHandle_t;
typedef struct cudaIpcEventHandle_st {
    char reserved[64];
} cudaIpcEventHandle_t;
enum { cudaIpcMemLazyEnablePeerAccess = 1 };
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *memory);
cudaError_t cudaIpcOpenMemHandle(void **memory, cudaIpcMemHandle_t handle, unsigned flags);
cudaError_t cudaIpcCloseMemHandle(void *memory);
cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t *handle, cudaEvent_t event);
cudaError_t cudaIpcOpenEventHandle(cudaEvent_t *event, cudaIpcEventHandle_t handle);

/* Graphs, of one stream, captured in mode ThreadLocal: until the capture ends, the stream's work is kept and not run; what cannot be captured, or
 * must not be called meanwhile, fails and spoils the capture. */
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
typedef enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 } cudaStreamCaptureMode;
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);

/* ---- for tests --------------------------------------------------------------------------------------------- */

/* The order of fibers, blocks and streams from now on. 0, at the start: as they come. */
void fake_cuda_seed(uint64_t seed);
/* Device memory that there is; 0, at the start: 64 GiB of addresses. More is cudaErrorMemoryAllocation. */
void fake_cuda_memory(size_t bytes);
/* Devices that there are; 1 at the start. */
void fake_cuda_devices(int count);
/* Do others have the devices for themselves? Who starts one then gets cudaErrorDevicesUnavailable. */
void fake_cuda_taken(int taken);
/* The version of the driver; CUDART_VERSION at the start. Less is cudaErrorInsufficientDriver; 0: there is none. */
void fake_cuda_driver(int version);
/* Of the devices; 9.0 at the start. */
void fake_cuda_capability(int major, int minor);
/* The n-th launch or copy from now on (1: the next; 0: none, and what had failed is whole again) fails with `error`. An error that says
 * that the device is gone is what every call returns from then on; any other is returned once. */
void fake_cuda_fail(int64_t n, cudaError_t error);
/* The same for an error that shows only when the work is run, as that of a kernel which reads where it must not: the launch succeeds,
 * and calls after the work was run return the error. */
void fake_cuda_fault(int64_t n, cudaError_t error);
/* The n-th call from now on that makes something (device or pinned memory, a stream, an event) fails once, for want of memory; 0: none. */
void fake_cuda_full(int64_t n);
/* Is a failure planned by one of these that has not come yet? */
int fake_cuda_planned(void);
/* Bytes of device memory and of pinned memory that are in use. */
size_t fake_cuda_in_use(void);
size_t fake_cuda_pinned(void);
/* Launches and copies that streams were given so far, graphs' apart, and launches of graphs. */
int64_t fake_cuda_work(void);
int64_t fake_cuda_graph_launches(void);
/* Waits of the host so far, for what had not been done yet; and those of them that do not sleep, but keep a processor busy. */
int64_t fake_cuda_waits(void);
int64_t fake_cuda_spins(void);
/* Pieces of both, streams, events and graphs that are in use. */
int64_t fake_cuda_objects(void);
/* Has this process made a context, by looking at the device's memory or more? */
int fake_cuda_is_active(void);
/* Put host code on a stream, as a library's kernel: work(argument) runs with device memory within reach. */
cudaError_t fake_cuda_enqueue(cudaStream_t stream, void (*work)(void *argument), void *argument);

#ifdef __cplusplus
}

/* ---- the language ------------------------------------------------------------------------------------------ */

#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

/* Of the thread that runs; device code only. */
extern uint3 fake_thread_index, fake_block_index;
extern dim3 fake_block_dim, fake_grid_dim;
#define threadIdx fake_thread_index
#define blockIdx  fake_block_index
#define blockDim  fake_block_dim
#define gridDim   fake_grid_dim

void *fake_shared_memory();
void fake_sync_threads(const char *file, int line);
/* Every lane of mask gives 8 bytes and gets those of lane `from`. */
uint64_t fake_shuffle(unsigned mask, uint64_t value, int from, const char *file, int line);
int fake_lane();

#define __syncthreads() fake_sync_threads(__FILE__, __LINE__)
#define __syncwarp()    fake_shuffle(0xffffffffu, 0, fake_lane(), __FILE__, __LINE__)

template <typename T> T fake_shuffle_xor(unsigned mask, T value, int by, const char *file, int line)
{
    static_assert(sizeof(T) <= 8, "");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = fake_shuffle(mask, bits, fake_lane() ^ by, file, line);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}
#define __shfl_xor_sync(mask, value, by) fake_shuffle_xor(mask, value, by, __FILE__, __LINE__)

/* Put a kernel, whose threads call `thread`, on a stream; more than 48 KiB of shared memory must have been allowed, as on a device. */
cudaError_t fake_launch(const void *kernel, std::function<void()> thread, dim3 grid, dim3 block,
                        size_t shared_bytes, cudaStream_t stream);
cudaError_t fake_allow_shared(const void *kernel, int bytes);
/* Kernels are there for 9.0 and later. */
cudaError_t fake_function_attributes(cudaFuncAttributes *attributes);

template <typename K> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, K *kernel)
{
    return fake_function_attributes(attributes);
}

template <typename K> cudaError_t cudaFuncSetAttribute(K *kernel, cudaFuncAttribute attribute, int value)
{
    return fake_allow_shared((const void *)kernel, value);
}

static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}

/* rcp.approx.ftz.f32, which is off by up to an ulp: here the neighbour of 1 / d that is not the nearest. Subnormal numbers count as 0. */
static inline float fake_reciprocal(float d)
{
    if (!(d >= 0x1p-126f)) return d != d ? d : __builtin_inff(); /* what is negative is not asked for */
    double exact = 1 / (double)d;
    float nearest = (float)exact,
          next = __builtin_nextafterf(nearest, (double)nearest > exact ? 0.0f : __builtin_inff());
    return exact > 0 && next >= 0x1p-126f ? next : 0.0f;
}

static inline unsigned long long atomicMin(unsigned long long *at, unsigned long long value)
{
    unsigned long long old = *at;
    if (value < old) *at = value;
    return old;
}
#endif

#endif
