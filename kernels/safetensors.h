/* safetensors.h - reading (memory-mapped) and writing of safetensors files.
 *
 * A file that arrives is hostile until checked, and all of it is checked at opening: the header is at most 16 MB of valid
 * UTF-8 JSON with no name twice, an entry has dtype, shape and data_offsets and nothing else, every dtype is known, and the tensors' bytes lie inside the file, as many as shape and dtype
 * say, without overlap, hole or rest. What is not checked: values (a NaN is a value), and that nobody truncates a file while it
 * is mapped, which is a SIGBUS: a program that watches for it (lt_mapping_watch) ends with a sentence that names the file.
 *
 * Threads: an open file is read-only and may be read from any number of threads. */
#ifndef LT_SAFETENSORS_H
#define LT_SAFETENSORS_H

#include "kernels/tensor.h"

/* An open file, or a value in memory. */
typedef struct lt_safetensors lt_safetensors;

/* Open and check a file. E_FORMAT says which rule was broken, with the tensor's name; E_UNSUPPORTED names a dtype that is
 * none of ours, or a rank above LT_MAX_RANK; E_NOT_FOUND, E_PERMISSION, E_IO, E_NO_MEMORY. *file is NULL after an error.
 * Blocks for the header only: values are read when they are touched. */
lt_status lt_safetensors_open(lt_safetensors **file, const char *path, lt_err *err);

/* The same over memory that stays the caller's and must outlive the object. `name` stands in error sentences. */
lt_status lt_safetensors_open_memory(lt_safetensors **file, const void *bytes, size_t n_bytes,
                                     const char *name, lt_err *err);

/* Tensors and names of the file end with it. Takes NULL. */
void lt_safetensors_close(lt_safetensors *file);

int lt_safetensors_count(const lt_safetensors *file);

/* Tensor number `index`, 0 .. count - 1, in the order of names (strcmp); *name, unless NULL, is set to its name. Data is
 * read-only, lives as long as the file, and need not be aligned; a tensor without elements has data too. */
lt_tensor lt_safetensors_at(const lt_safetensors *file, int index, const char **name);

/* The tensor of a name. E_NOT_FOUND, with *tensor LT_NONE, where there is none. */
lt_status lt_safetensors_get(const lt_safetensors *file, const char *name, lt_tensor *tensor, lt_err *err);

/* A string of __metadata__, living as long as the file, or NULL. */
const char *lt_safetensors_metadata(const lt_safetensors *file, const char *key);

/* Borrowed, as all below. */
typedef struct lt_named_tensor {
    const char *name;
    lt_tensor tensor;
} lt_named_tensor;

typedef struct lt_metadata {
    const char *key, *value;
} lt_metadata;

/* A complete file in memory: *bytes is malloc'd, *n_bytes long and the caller's to free. The header is padded with spaces so
 * that data starts at a multiple of 64 bytes; tensors stand in the order of their element size, largest first, then of
 * their names, so each is aligned to its element and the same input makes the same bytes. E_INVALID for a name that is
 * there twice or is not UTF-8, E_NO_MEMORY; *bytes is NULL then. */
lt_status lt_safetensors_pack(void **bytes, size_t *n_bytes, const lt_named_tensor *tensors, int n_tensors,
                              const lt_metadata *metadata, int n_metadata, lt_err *err);

/* The same to a file: written beside it, fsynced, renamed into place, the folder fsynced; a reader sees the old file or
 * the new one. After an error (as above, or of the file system) the old file is as it was and nothing is left beside it. */
lt_status lt_safetensors_write(const char *path, const lt_named_tensor *tensors, int n_tensors,
                               const lt_metadata *metadata, int n_metadata, lt_err *err);

#endif
