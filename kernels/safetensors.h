/* safetensors.h - reading (memory-mapped) and writing of safetensors files. */
#ifndef LT_SAFETENSORS_H
#define LT_SAFETENSORS_H

#include "kernels/tensor.h"

/* An open file, or a value in memory. Every tensor's offsets have been checked: inside the file, not overlapping, no holes, as many bytes
 * as shape and dtype say; header at most 100 MB, valid UTF-8 JSON, no name twice. E_FORMAT says which rule was broken, with the tensor's name. */
typedef struct lt_safetensors lt_safetensors;

lt_status lt_safetensors_open(lt_safetensors **file, const char *path, lt_err *err);
/* The same over memory that stays the caller's and must outlive the object. `name` stands in error sentences. */
lt_status lt_safetensors_open_memory(lt_safetensors **file, const void *bytes, size_t n_bytes,
                                     const char *name, lt_err *err);
void lt_safetensors_close(lt_safetensors *file);

int lt_safetensors_count(const lt_safetensors *file);
/* Tensor number `index` in the order of names; data is read-only and lives as long as the file. */
lt_tensor lt_safetensors_at(const lt_safetensors *file, int index, const char **name);
/* E_NOT_FOUND where there is none of that name. */
lt_status lt_safetensors_get(const lt_safetensors *file, const char *name, lt_tensor *tensor, lt_err *err);
/* A string of __metadata__, or NULL. */
const char *lt_safetensors_metadata(const lt_safetensors *file, const char *key);

typedef struct lt_named_tensor {
    const char *name;
    lt_tensor tensor;
} lt_named_tensor;

typedef struct lt_metadata {
    const char *key, *value;
} lt_metadata;

/* A complete file in memory (malloc'd, *n_bytes long, owned by the caller): header padded with spaces so that data starts at a multiple of 16
 * plus `data_offset` modulo 16 stays aligned for a reader. */
lt_status lt_safetensors_pack(void **bytes, size_t *n_bytes, const lt_named_tensor *tensors, int n_tensors,
                              const lt_metadata *metadata, int n_metadata, lt_err *err);
/* The same to a file: written beside it, fsynced, renamed into place. */
lt_status lt_safetensors_write(const char *path, const lt_named_tensor *tensors, int n_tensors,
                               const lt_metadata *metadata, int n_metadata, lt_err *err);

#endif
