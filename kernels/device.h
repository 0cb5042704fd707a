/* device.h - from a device's name to its backend. For kernels/ only; everyone else goes through tensor.h. */
#ifndef LT_DEVICE_H
#define LT_DEVICE_H

#include "kernels/backend.h"

/* "cuda:1" -> the table of "cuda", 1; "cpu" -> that of "cpu", 0. E_NOT_FOUND for a name that is malformed or that nothing answers to;
 * E_MISMATCH, see lt_backend_find. Not for "auto". */
lt_status lt_device_find(const char *device, const lt_backend **backend, int *index, lt_err *err);

#endif
