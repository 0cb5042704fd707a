/* plugin.c - the CUDA backend's table, its devices, and what CUDA's errors mean. */
#include "kernels/cuda/operators.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors ------------------------------------------------------------------------------------------ */

/* After these nothing more can be done in this process: every later call returns the same. */
static bool is_lost(cudaError_t e)
{
    switch (e) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorLaunchFailure:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorMpsClientTerminated:
    case cudaErrorExternalDevice:
    case cudaErrorDeviceUninitialized:
    case cudaErrorSystemNotReady:
    case cudaErrorContextIsDestroyed:
    case cudaErrorCudartUnloading:
    case cudaErrorUnknown: return true;
    default: return false;
    }
}

lt_status cuda_status_of(cudaError_t e)
{
    if (e == cudaSuccess) return LT_OK;
    if (is_lost(e)) return LT_E_DEVICE_LOST;
    if (e == cudaErrorMemoryAllocation) return LT_E_NO_MEMORY;
    if (e == cudaErrorDevicesUnavailable) return LT_E_BUSY; /* others have it alone, or fill it */
    if (e == cudaErrorNoDevice || e == cudaErrorInvalidDevice || e == cudaErrorInsufficientDriver)
        return LT_E_NOT_FOUND;
    if (e == cudaErrorNotSupported || e == cudaErrorNoKernelImageForDevice ||
        e == cudaErrorUnsupportedPtxVersion)
        return LT_E_UNSUPPORTED;
    return LT_E_INTERNAL;
}

static lt_status fail_cuda(lt_context *c, const char *op, const char *whose, const char *text,
                           lt_status status)
{
    cuda_device *d = c->device;
    switch (status) {
    case LT_E_DEVICE_LOST:
        d->lost = true;
        return lt_context_fail(c, status,
                               "%s: the device cuda:%d was lost: %s; another process may go on with the work",
                               op, d->index, text);
    case LT_E_NO_MEMORY:
        return lt_context_fail(
            c, status,
            "%s: the memory of cuda:%d is full (%s: %s); give the workspace less, or use smaller tiles", op,
            d->index, whose, text);
    case LT_E_BUSY:
        return lt_context_fail(
            c, status,
            "%s: cuda:%d is in use by others, or its memory is (%s: %s): wait until they are done with it",
            op, d->index, whose, text);
    default: return lt_context_fail(c, status, "%s: %s on cuda:%d: %s", op, whose, d->index, text);
    }
}

lt_status cuda_check(lt_context *c, const char *op, cudaError_t e)
{
    if (e == cudaSuccess) return LT_OK;
    cudaGetLastError();
    return fail_cuda(c, op, "CUDA", cudaGetErrorString(e), cuda_status_of(e));
}

/* Of an error of CUDA's, where it is a cause that other failures have: E_DEVICE_LOST, E_NO_MEMORY, E_BUSY; else E_INTERNAL. */
static lt_status cause_of(cudaError_t e)
{
    lt_status status = cuda_status_of(e);
    bool is_cause = status == LT_E_DEVICE_LOST || status == LT_E_NO_MEMORY || status == LT_E_BUSY;
    return is_cause ? status : LT_E_INTERNAL;
}

/* The cause that our runtime knows of. The libraries have one of their own, of whose errors ours hears nothing: so the device itself is
 * asked; for its memory while the stream is recorded, which to ask is then an error, and the end of the recording. */
static lt_status device_status(const cuda_device *d)
{
    size_t free_bytes, total;
    lt_status status = cause_of(cudaGetLastError());
    if (status != LT_E_INTERNAL) return status;
    status = cause_of(d->record ? cudaMemGetInfo(&free_bytes, &total) : cudaStreamQuery(d->compute));
    cudaGetLastError(); /* not being ready is one, too, which the next launch would be blamed for */
    return status;
}

bool cuda_is_gone(const lt_context *c)
{
    return device_status(c->device) == LT_E_DEVICE_LOST;
}

/* Full memory: others' (E_BUSY: it passes), or that of whoever has `own` bytes of it (E_NO_MEMORY). E_INTERNAL where more than `least` bytes
 * are free. */
static lt_status memory_status(size_t own, size_t least)
{
    size_t free_bytes = 0, total = 0;
    cudaError_t e = cudaMemGetInfo(&free_bytes, &total);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return cause_of(e);
    }
    if (free_bytes >= least) return LT_E_INTERNAL;
    return own + CUDA_ROOM > total ? LT_E_NO_MEMORY : LT_E_BUSY;
}

static size_t own_bytes(const lt_context *c)
{
    return c->block_bytes + c->packed_bytes;
}

/* What a library's failure means, which says little more than "failed": `says`, where the device knows no cause. The driver says no more
 * where it finds no memory, as for a kernel's code: of what a library does with the driver (drives), that is the cause where little
 * memory is free. */
static lt_status library_status(const cuda_device *d, size_t own, lt_status says, bool drives)
{
    lt_status status = device_status(d);
    if (status == LT_E_INTERNAL && drives) status = memory_status(own, CUDA_ROOM);
    return status == LT_E_INTERNAL ? says : status;
}

lt_status cuda_check_launch(lt_context *c, const char *op, cudaError_t e)
{
    if (e == cudaSuccess) return LT_OK;
    lt_status status = cuda_status_of(e);
    if (status == LT_E_INTERNAL) status = device_status(c->device);
    if (status == LT_E_NO_MEMORY) status = memory_status(own_bytes(c), SIZE_MAX);
    return fail_cuda(c, op, "a kernel that could not be started", cudaGetErrorString(e), status);
}

bool cuda_dnn_is_full(cudnnStatus_t s)
{
    return s == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
           s == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
}

lt_status cuda_check_blas(lt_context *c, const char *op, cublasStatus_t s)
{
    if (s == CUBLAS_STATUS_SUCCESS) return LT_OK;
    lt_status status = s == CUBLAS_STATUS_ALLOC_FAILED    ? LT_E_NO_MEMORY
                       : s == CUBLAS_STATUS_NOT_SUPPORTED ? LT_E_UNSUPPORTED
                                                          : LT_E_INTERNAL;
    bool drives = s == CUBLAS_STATUS_ALLOC_FAILED || s == CUBLAS_STATUS_EXECUTION_FAILED ||
                  s == CUBLAS_STATUS_INTERNAL_ERROR;
    status = library_status(c->device, own_bytes(c), status, drives);
    return fail_cuda(c, op, "cuBLASLt", cublasLtGetStatusString(s), status);
}

lt_status cuda_check_dnn(lt_context *c, const char *op, cudnnStatus_t s)
{
    if (s == CUDNN_STATUS_SUCCESS) return LT_OK;
    int kind = CUDNN_STATUS_CATEGORY((int)s);
    lt_status status = cuda_dnn_is_full(s)                  ? LT_E_NO_MEMORY
                       : kind == CUDNN_STATUS_NOT_SUPPORTED ? LT_E_UNSUPPORTED
                                                            : LT_E_INTERNAL;
    bool drives = kind == CUDNN_STATUS_EXECUTION_FAILED || kind == CUDNN_STATUS_INTERNAL_ERROR;
    status = library_status(c->device, own_bytes(c), status, drives);
    return fail_cuda(c, op, "cuDNN", cudnnGetErrorString(s), status);
}

/* ---- dtypes ------------------------------------------------------------------------------------------ */

cuda_device *cuda_of(const lt_context *c)
{
    cuda_device *d = c->device;
    cudaSetDevice(d->index); /* this thread's; an error shows at the next call */
    return d;
}

cudaDataType_t cuda_data_type(lt_dtype dtype)
{
    return dtype == LT_BF16 ? CUDA_R_16BF : dtype == LT_F16 ? CUDA_R_16F : CUDA_R_32F;
}

cudnnDataType_t cuda_dnn_type(lt_dtype dtype)
{
    return dtype == LT_BF16 ? CUDNN_DATA_BFLOAT16 : dtype == LT_F16 ? CUDNN_DATA_HALF : CUDNN_DATA_FLOAT;
}

size_t cuda_dtype_bytes(lt_dtype dtype)
{
    return dtype == LT_F32 ? 4 : 2;
}

size_t cuda_alignment(size_t bytes)
{
    size_t a = CUDA_ALIGNMENT;
    while (a > 1 && bytes % a) a /= 2;
    return a;
}

/* ---- devices ----------------------------------------------------------------------------------------- */

/* Is there a driver, and this device? */
static lt_status find_device(int index, lt_err *err)
{
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorInsufficientDriver) {
        int version = 0;
        cudaDriverGetVersion(&version);
        cudaGetLastError();
        if (version == 0)
            return lt_fail(err, LT_E_NOT_FOUND, "no device cuda:%d: there is no NVIDIA driver here", index);
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "cuda:%d: the NVIDIA driver is too old: it is of CUDA %d.%d, this program of %d.%d",
                       index, version / 1000, version / 10 % 100, CUDART_VERSION / 1000,
                       CUDART_VERSION / 10 % 100);
    }
    if (e != cudaSuccess) {
        cudaGetLastError();
        lt_status status = cuda_status_of(e);
        bool passes = status == LT_E_DEVICE_LOST || status == LT_E_BUSY;
        return lt_fail(err, passes ? status : LT_E_NOT_FOUND, "no device cuda:%d: %s", index,
                       cudaGetErrorString(e));
    }
    if (index >= n)
        return lt_fail(err, LT_E_NOT_FOUND, "no device cuda:%d: there %s %d here", index,
                       n == 1 ? "is" : "are", n);
    return LT_OK;
}

static lt_status device_properties(int index, struct cudaDeviceProp *p, lt_err *err)
{
    lt_status status = find_device(index, err);
    if (status != LT_OK) return status;
    cudaError_t e = cudaGetDeviceProperties(p, index);
    if (e != cudaSuccess)
        return lt_fail(err, cuda_status_of(e), "cuda:%d cannot be looked at: %s", index,
                       cudaGetErrorString(e));
    if (p->major < 8) {
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "cuda:%d, %s, has compute capability %d.%d: 8.0 is the least that is supported", index,
                       p->name, p->major, p->minor);
    }
    return LT_OK;
}

/* This thread's device from now on, started at its first call. Who waits for one of its streams sleeps meanwhile: other stages have the
 * processor. Events that are waited for say so themselves (cudaEventBlockingSync). */
static cudaError_t start_device(int index)
{
    cudaError_t e = cudaInitDevice(index, cudaDeviceScheduleBlockingSync, cudaInitDeviceFlagsAreValid);
    return e == cudaSuccess ? cudaSetDevice(index) : e;
}

/* Is there code of ours for the thread's device? */
static lt_status find_kernels(int index, const struct cudaDeviceProp *p, lt_err *err)
{
    if (lt_kernels_found() != LT_E_UNSUPPORTED) return LT_OK; /* another error shows at the next call */
    return lt_fail(err, LT_E_UNSUPPORTED,
                   "cuda:%d, %s, has compute capability %d.%d: this program has no kernels for it: they were "
                   "built for another one (LT_CUDA_ARCH)",
                   index, p->name, p->major, p->minor);
}

static lt_status probe_cuda(int index, lt_device_info *info, lt_err *err)
{
    *info = (lt_device_info){0};
    struct cudaDeviceProp p;
    lt_status status = device_properties(index, &p, err);
    if (status != LT_OK) return status;
    cudaError_t e = start_device(index);
    if (e == cudaSuccess && (status = find_kernels(index, &p, err)) != LT_OK) return status;
    if (e == cudaSuccess) e = cudaMemGetInfo(&info->free_bytes, &info->total_bytes);
    if (e != cudaSuccess) {
        cudaGetLastError();
        *info = (lt_device_info){0};
        return lt_fail(err, cuda_status_of(e), "cuda:%d, %s, cannot be used: %s", index, p.name,
                       cudaGetErrorString(e));
    }
    snprintf(info->name, sizeof(info->name), "%.63s", p.name);
    cuda_share_id(index, &p, info->id, sizeof(info->id));
    info->staging_bytes = 2 * (size_t)CUDA_SLOTS * CUDA_SLOT_BYTES; /* the two rings */
    info->allowance_bytes = (size_t)768 << 20;
    info->host_allowance_bytes = (size_t)512 << 20;
    return LT_OK;
}

static void destroy_device(cuda_device *d)
{
    if (!d) return;
    cudaSetDevice(d->index);
    if (d->compute) cudaStreamSynchronize(d->compute);
    cuda_graphs_destroy(d);
    cuda_matmuls_destroy(d);
    cuda_ring_destroy(&d->uploads);
    cuda_ring_destroy(&d->downloads);
    if (d->dnn) cudnnDestroy(d->dnn);
    if (d->nvrtc) dlclose(d->nvrtc);
    if (d->preference) cublasLtMatmulPreferenceDestroy(d->preference);
    if (d->blas) cublasLtDestroy(d->blas);
    if (d->arrived) cudaEventDestroy(d->arrived);
    if (d->computed) cudaEventDestroy(d->computed);
    if (d->decoded) cudaEventDestroy(d->decoded);
    cudaStream_t streams[] = {d->compute, d->up, d->down};
    for (size_t i = 0; i < LT_COUNT(streams); i++) {
        if (streams[i]) cudaStreamDestroy(streams[i]);
    }
    cudaGetLastError(); /* nobody is told */
    free(d);
}

/* Opening the libraries, and cuDNN's compiling of plans, takes longer than what many a context is for. So a device that is closed waits
 * here for the next context of its index; one of each index at most. */
static pthread_mutex_t idle_mutex = PTHREAD_MUTEX_INITIALIZER;
static cuda_device *idle_devices;

static cuda_device *take_idle(int index)
{
    pthread_mutex_lock(&idle_mutex);
    cuda_device **at = &idle_devices;
    while (*at && (*at)->index != index) at = &(*at)->next_idle;
    cuda_device *d = *at;
    if (d) *at = d->next_idle;
    pthread_mutex_unlock(&idle_mutex);
    return d;
}

static void close_cuda(void *device)
{
    cuda_device *d = device;
    if (!d) return;
    for (int i = 0; i < CUDA_SLOTS; i++) d->downloads.slots[i].to = NULL; /* nobody waits for it any more */
    bool idle = d->dnn && !d->lost && cudaSetDevice(d->index) == cudaSuccess;
    idle = idle && cudaStreamSynchronize(d->compute) == cudaSuccess &&
           cudaStreamSynchronize(d->up) == cudaSuccess && cudaStreamSynchronize(d->down) == cudaSuccess;
    pthread_mutex_lock(&idle_mutex);
    for (const cuda_device *other = idle_devices; other; other = other->next_idle)
        idle = idle && other->index != d->index;
    if (idle) {
        d->next_idle = idle_devices;
        idle_devices = d;
    }
    pthread_mutex_unlock(&idle_mutex);
    if (!idle) destroy_device(d);
}

static cudaError_t create_streams(cuda_device *d)
{
    cudaStream_t *streams[] = {&d->compute, &d->up, &d->down};
    cudaEvent_t *events[] = {&d->arrived, &d->computed, &d->decoded};
    cudaError_t e = start_device(d->index);
    for (size_t i = 0; i < LT_COUNT(streams) && e == cudaSuccess; i++)
        e = cudaStreamCreateWithFlags(streams[i], cudaStreamNonBlocking);
    for (size_t i = 0; i < LT_COUNT(events) && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(events[i], cudaEventDisableTiming);
    return e;
}

/* Why a device that is there does not open. Its memory being full passes, as its being others' does: nothing here has taken any of it. */
static lt_status fail_open(int index, lt_status status, const char *whose, const char *why, lt_err *err)
{
    cudaGetLastError();
    if (status == LT_E_NO_MEMORY || status == LT_E_BUSY)
        return lt_fail(
            err, LT_E_BUSY,
            "cuda:%d cannot be opened: it is in use by others, or its memory is (%s: %s): wait until "
            "others are done with it, or choose another device",
            index, whose, why);
    return lt_fail(err, status, "cuda:%d cannot be opened: %s: %s%s", index, whose, why,
                   status == LT_E_DEVICE_LOST ? ": the device was lost" : "");
}

/* cuDNN compiles most of its engines by NVRTC, which it opens by name when it comes to that. Without it, it silently has other engines, and
 * other bytes: so it is here, and its version in the numeric class. */
static lt_status open_nvrtc(cuda_device *d, lt_err *err)
{
    char name[32];
    int (*version)(int *, int *) = NULL; /* nvrtcVersion; 0 is success */
    snprintf(name, sizeof(name), "libnvrtc.so.%d", CUDART_VERSION / 1000);
    d->nvrtc = dlopen(name, RTLD_NOW);
    if (d->nvrtc) *(void **)&version = dlsym(d->nvrtc, "nvrtcVersion");
    if (version && version(&d->nvrtc_version[0], &d->nvrtc_version[1]) == 0) return LT_OK;
    return lt_fail(err, LT_E_NOT_FOUND,
                   "cuda:%d cannot be opened: cuDNN needs CUDA's compiler, %s, which was not found: install "
                   "NVRTC of CUDA %d, or add its folder to LD_LIBRARY_PATH",
                   d->index, name, CUDART_VERSION / 1000);
}

/* The libraries' handles. Their own allocations and compiled kernels belong to them. Without another cause, one that does not open is not
 * there, or not the one that is needed. */
static lt_status open_libraries(cuda_device *d, lt_err *err)
{
    lt_status status = open_nvrtc(d, err);
    if (status != LT_OK) return status;
    cublasStatus_t b = cublasLtCreate(&d->blas);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasLtMatmulPreferenceCreate(&d->preference);
    if (b != CUBLAS_STATUS_SUCCESS) {
        status = b == CUBLAS_STATUS_ALLOC_FAILED ? LT_E_NO_MEMORY : LT_E_NOT_FOUND;
        status = library_status(d, 0, status, true);
        return fail_open(d->index, status, "cuBLASLt", cublasLtGetStatusString(b), err);
    }
    cudnnStatus_t s = cudnnCreate(&d->dnn);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnSetStream(d->dnn, d->compute);
    if (s == CUDNN_STATUS_SUCCESS) return LT_OK;
    status = library_status(d, 0, cuda_dnn_is_full(s) ? LT_E_NO_MEMORY : LT_E_NOT_FOUND, true);
    return fail_open(d->index, status, "cuDNN", cudnnGetErrorString(s), err);
}

/* False: it does not fit, and what is left of it would be that of other dtypes, too. */
static bool describe_class(const cuda_device *d, const struct cudaDeviceProp *p, char *text, size_t bytes)
{
    int driver = 0;
    cudaDriverGetVersion(&driver);
    size_t blas = cublasLtGetVersion(), dnn = cudnnGetVersion();
    int n = snprintf(text, bytes,
                     "cuda/%s/sm_%d%d/driver-%d.%d/cudnn-%zu.%zu.%zu/nvrtc-%d.%d/cublaslt-%zu/epoch-%d/%s",
                     p->name, p->major, p->minor, driver / 1000, driver / 10 % 100, dnn / 10000,
                     dnn / 100 % 100, dnn % 100, d->nvrtc_version[0], d->nvrtc_version[1], blas,
                     lt_plugin_backend()->numeric_epoch, lt_dtype_name(d->dtype));
    return n > 0 && (size_t)n < bytes;
}

static lt_status create_device(cuda_device **device, int index, const struct cudaDeviceProp *p, lt_err *err)
{
    lt_status status;
    cuda_device *d = calloc(1, sizeof(*d));
    if (!d) return lt_fail(err, LT_E_NO_MEMORY, "cannot open cuda:%d: out of memory", index);
    d->index = index;
    cudaError_t e = create_streams(d);
    if (e != cudaSuccess) {
        status = fail_open(index, cuda_status_of(e), p->name, cudaGetErrorString(e), err);
        goto fail;
    }
    LT_TRY(find_kernels(index, p, err));
    LT_TRY(open_libraries(d, err));
    *device = d;
    return LT_OK;
fail:
    destroy_device(d);
    return status;
}

static lt_status open_cuda(void **device, int index, lt_dtype dtype, int threads, char *numeric_class,
                           size_t class_bytes, lt_err *err)
{
    *device = NULL;
    struct cudaDeviceProp p;
    lt_status status = device_properties(index, &p, err);
    if (status != LT_OK) return status;
    cuda_device *d = take_idle(index);
    if (!d) LT_TRY(create_device(&d, index, &p, err));
    d->next_idle = NULL;
    d->record = NULL;
    d->dtype = dtype;
    if (!describe_class(d, &p, numeric_class, class_bytes)) {
        close_cuda(d);
        return lt_fail(err, LT_E_INTERNAL, "%s: its numeric class takes more than %zu bytes", p.name,
                       class_bytes);
    }
    *device = d;
fail:
    return status;
}

static const lt_backend table = {
    .abi = LT_BACKEND_ABI,
    .bytes = sizeof(lt_backend),
    .name = "cuda",
    .numeric_epoch = 4,
    .any_float = false,
    .host_memory = false,
    .records = true,
    .dtypes = 1u << LT_F32 | 1u << LT_BF16 | 1u << LT_F16,
    .probe = probe_cuda,
    .open = open_cuda,
    .close = close_cuda,
    .memory_create = memory_create_cuda,
    .memory_destroy = memory_destroy_cuda,
    .upload = upload_cuda,
    .download = download_cuda,
    .wait = wait_cuda,
    .copy = copy_cuda,
    .zero = zero_cuda,
    .record = record_cuda,
    .share_create = share_create_cuda,
    .share_open = share_open_cuda,
    .share_close = share_close_cuda,
    .share_mark = share_mark_cuda,
    .share_await = share_await_cuda,
    .conv = conv_cuda,
    .linear = linear_cuda,
    .group_norm = group_norm_cuda,
    .attention = attention_cuda,
    .upsample_nearest = upsample_nearest_cuda,
    .upsample_conv = upsample_conv_cuda,
    .add_scaled = add_scaled_cuda,
    .affine = affine_cuda,
    .slice_channels = slice_channels_cuda,
    .convert = convert_cuda,
    .layer_norm = layer_norm_cuda,
    .rms_norm = rms_norm_cuda,
    .add_broadcast = add_broadcast_cuda,
    .add_gated = add_gated_cuda,
    .multiply = multiply_cuda,
    .combine = combine_cuda,
    .gated = gated_cuda,
    .concat_channels = concat_channels_cuda,
    .embedding = embedding_cuda,
    .gather_rows = gather_rows_cuda,
    .unpatchify = unpatchify_cuda,
    .noise = noise_cuda,
    .pixels_to_values = pixels_to_values_cuda,
    .values_to_pixels = values_to_pixels_cuda,
    .yuv_to_rgb = yuv_to_rgb_cuda,
    .add_tile = add_tile_cuda,
    .release_weight = release_weight_cuda,
};

const lt_backend *lt_plugin_backend(void)
{
    return &table;
}
