/* driver.c - a double of the CUDA driver's library, as far as cuDNN goes with it when it makes a plan: compiled code is taken, its kernels'
 * names are kept, and nothing runs. */
#include "tests/cuda/driver.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { DONE = 0, NO_DEVICE = 100 };

static char names[DRIVER_MOST_KERNELS][DRIVER_NAME_BYTES];
static int n_names;

int driver_kernels(const char *all[DRIVER_MOST_KERNELS])
{
    for (int i = 0; i < n_names; i++) all[i] = names[i];
    return n_names;
}

void driver_forget(void)
{
    n_names = 0;
}

/* The driver's interface, with its types as they are in memory. */
int cuInit(unsigned flags)
{
    return DONE;
}

int cuDriverGetVersion(int *version)
{
    *version = 13000;
    return DONE;
}

int cuDeviceGetCount(int *count)
{
    *count = 1;
    return DONE;
}

int cuLibraryLoadData(void **library, const void *code, int *jit, void **jit_values, unsigned n_jit,
                      int *options, void **option_values, unsigned n_options)
{
    static intptr_t n;
    *library = (void *)(16 * ++n);
    return DONE;
}

int cuLibraryUnload(void *library)
{
    return DONE;
}

int cuLibraryGetKernel(void **kernel, void *library, const char *name)
{
    if (n_names < DRIVER_MOST_KERNELS)
        snprintf(names[n_names++], DRIVER_NAME_BYTES, "%.*s", DRIVER_NAME_BYTES - 1, name);
    *kernel = library;
    return DONE;
}

int cuGetErrorString(int error, const char **text)
{
    *text = "there is no device";
    return DONE;
}

int cuGetErrorName(int error, const char **text)
{
    return cuGetErrorString(error, text);
}

/* What cuDNN and NVRTC look up beside. The first is called, and may fail. */
#define REFUSED(name)                                                                                        \
    int name(void)                                                                                           \
    {                                                                                                        \
        return NO_DEVICE;                                                                                    \
    }
REFUSED(cuGetExportTable)
REFUSED(cuCtxGetCurrent)
REFUSED(cuCtxGetDevice)
REFUSED(cuCtxGetLimit)
REFUSED(cuCtxPopCurrent)
REFUSED(cuCtxPushCurrent)
REFUSED(cuDeviceGet)
REFUSED(cuDeviceGetAttribute)
REFUSED(cuKernelGetAttribute)
REFUSED(cuKernelSetAttribute)
REFUSED(cuLaunchCooperativeKernel)
REFUSED(cuLaunchKernel)
REFUSED(cuLaunchKernelEx)
REFUSED(cuLibraryLoadFromFile)
REFUSED(cuLinkAddData)
REFUSED(cuLinkComplete)
REFUSED(cuLinkCreate)
REFUSED(cuLinkDestroy)
REFUSED(cuOccupancyMaxPotentialClusterSize)
REFUSED(cuStreamGetCtx)
