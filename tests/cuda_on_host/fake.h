/* fake.h - what the sources of the CUDA device on the host share. Internal. */
#ifndef FAKE_CUDA_FAKE_H
#define FAKE_CUDA_FAKE_H

#include <cuda_runtime.h>

#include <functional>
#include <mutex>
#include <string>

/* One at a time: all state of the device, and device work, which is run by the thread that waits for it. */
extern std::recursive_mutex fake_mutex;
typedef std::lock_guard<std::recursive_mutex> guard;

/* "cuda on host: ..." to standard error, and abort: a bug of the code under test. */
[[noreturn]] void fake_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Is it this call's turn to fail, of those of a library, and how? */
enum fake_failure { FAKE_WORKS, FAKE_FULL, FAKE_LOST };
fake_failure fake_library_fails();
/* A line for fake_library_calls. */
void fake_library_called(const std::string &line);

/* A draw below n; 0 with seed 0. */
uint64_t fake_draw(uint64_t n);

/* Keep an error for cudaGetLastError, and return it. */
cudaError_t fake_error(cudaError_t error);
/* The error of a device that is gone, which every call returns. */
cudaError_t fake_gone();
bool fake_is_gone();
/* Is this the work that takes the device away when it runs, by the second? */
bool fake_fault_comes();
void fake_take_away();
/* It is gone at once, and cudaGetLastError does not know. cudaSuccess: it is whole. */
void fake_lose(cudaError_t error);
/* The error of a launch or copy, counted: a planned one, or that of a device that is gone. */
cudaError_t fake_count_work();
/* The error of a call that must not be made while this thread captures a stream; it spoils the capture. */
cudaError_t fake_while_capturing();
/* Is this the call that finds no memory? */
bool fake_is_full();

/* fake_cuda_enqueue, for the libraries: cudaGetLastError does not know of its error, which is another runtime's. */
cudaError_t fake_enqueue(cudaStream_t stream, std::function<void()> work);

/* Device memory within reach between the two; they nest. */
void fake_reach_begin();
void fake_reach_end();

/* A memfd of another process, or of this one, as it is named in the handles between processes. */
struct fake_place {
    int pid, fd;
    uint64_t inode, bytes, offset;
};
/* Fill in the first four for `fd`. */
fake_place fake_place_of(int fd);
/* Open it: -1 where it is no more, or is this process's own. Until it is closed, or this process ends, its maker sees that it is open. */
int fake_place_open(const fake_place &place);
/* Of a memfd of this process: has another one it open? */
bool fake_place_is_open(int fd);

/* Wait for all streams. */
void fake_drain_all();

/* Is it memory that a copy can read later? */
bool fake_is_pinned(const void *memory, size_t bytes);
/* Does it lie whole in memory that cudaMalloc gave and nobody freed? */
bool fake_is_device(const void *memory, size_t bytes);

size_t fake_total_memory();
/* Do streams' waits sleep on this device? */
bool fake_waits_sleep();
int64_t fake_n_allocations();

/* All blocks of a launch. */
void fake_run_grid(const std::function<void()> &thread, dim3 grid, dim3 block, size_t shared_bytes);

#endif
