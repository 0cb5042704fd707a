/* checkpoint_files.h - what the sources of checkpoint.h share. Internal. */
#ifndef LT_CHECKPOINT_FILES_H
#define LT_CHECKPOINT_FILES_H

#include "kernels/safetensors.h"
#include "models/checkpoint.h"

#include <sys/stat.h>

enum { MAX_FILES = 512 };

typedef struct checkpoint_file {
    char *path;
    lt_safetensors *tensors;
    size_t bytes;
    unsigned char digest[16]; /* XXH3-128 of the whole file, big-endian */
} checkpoint_file;

typedef struct checkpoint_entry {
    const char *name;
    lt_tensor tensor;
    int file;
    bool not_finite; /* holds NaN or infinity */
} checkpoint_entry;

struct lt_checkpoint {
    lt_arena arena;
    const char *path;
    char *config_path;
    const char *config;
    size_t config_bytes;
    checkpoint_file files[MAX_FILES];
    int n_files;
    checkpoint_entry *entries; /* sorted by name */
    int n_entries;
    char digest[33];
};

/* Fill sizes, digests and not_finite of every file and tensor, from the remembered results where they are. */
lt_status lt_checkpoint_scan(lt_checkpoint *checkpoint, lt_err *err);

/* Keep the digest of the file that `info` describes, and that its values are all finite. Failing to is no failure. */
void checkpoint_remember(const struct stat *info, const unsigned char digest[16]);

#endif
