/* driver.h - what the double of the driver's library has been given. */
#ifndef LT_TESTS_CUDA_DRIVER_H
#define LT_TESTS_CUDA_DRIVER_H

enum { DRIVER_MOST_KERNELS = 256, DRIVER_NAME_BYTES = 256 };

/* The names of the kernels whose code was loaded since driver_forget, in this order; returns their number. */
int driver_kernels(const char *names[DRIVER_MOST_KERNELS]);
void driver_forget(void);

#endif
