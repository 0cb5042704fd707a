/* checkpoint.h - the weights of one model as its users have them: a folder in diffusers' or transformers' form,
 * sharded or not, or a single .safetensors file. Memory-mapped; nothing is copied.
 *
 * A checkpoint belongs to one thread while it is opened or closed; in between it is read-only. */
#ifndef LT_CHECKPOINT_H
#define LT_CHECKPOINT_H

#include "kernels/tensor.h"

typedef struct lt_checkpoint lt_checkpoint;

/* A parameter that a network has: filled by lt_checkpoint_take. */
typedef struct lt_parameter {
    char name[120]; /* in the file */
    int rank;
    int64_t shape[LT_MAX_RANK];
    bool matrix;       /* [O,I] is meant: [O,I,1,1] is as good */
    bool required;     /* false: may be absent, and is not checked */
    lt_weight *weight; /* set to the mapped tensor; NULL: only known by name */
} lt_parameter;

/* Open `path`:
 *   a folder        config.json where there is one, and the first of: diffusion_pytorch_model.safetensors, its index
 *                   (.safetensors.index.json, shards beside it), the .fp16 forms of both, model.safetensors, its index,
 *                   the .fp16 forms of both
 *   *.index.json    the shards it names
 *   any other file  one safetensors file
 * A file of one of the names that are looked for in a folder has the folder's config.json.
 * E_NOT_FOUND naming what was looked for, E_FORMAT, E_IO; E_UNSUPPORTED for what PyTorch wrote (.ckpt, .pt, .pth, .bin), with
 * what makes safetensors of it. */
lt_status lt_checkpoint_open(lt_checkpoint **checkpoint, const char *path, lt_err *err);
void lt_checkpoint_close(lt_checkpoint *checkpoint);

/* The text of config.json, NULL where there is none; and the path it was read from. */
const char *lt_checkpoint_config(const lt_checkpoint *checkpoint, const char **path);
const char *lt_checkpoint_path(const lt_checkpoint *checkpoint); /* as opened */
/* The text of another file, `name` from config.json's folder on, and its path; both live as long as the checkpoint, of whose digest
 * they are no part. E_NOT_FOUND where there is none, also of a checkpoint without config.json; E_FORMAT, E_IO, E_NO_MEMORY. */
lt_status lt_checkpoint_read_beside(lt_checkpoint *checkpoint, const char *name, const char **path,
                                    const char **text, lt_err *err);

int lt_checkpoint_count(const lt_checkpoint *checkpoint);
/* Tensor number `index`, 0 .. count-1, in the order of names over all files. */
lt_tensor lt_checkpoint_at(const lt_checkpoint *checkpoint, int index, const char **name);
/* The tensor of that name, or LT_NONE. */
lt_tensor lt_checkpoint_find(const lt_checkpoint *checkpoint, const char *name);
size_t lt_checkpoint_bytes(const lt_checkpoint *checkpoint); /* of all files */

/* Give every parameter its tensor. Of the tensors that are no parameter, those whose name does not begin with `scope`
 * ("": none) and those that begin with one of the NULL-terminated `ignored` (NULL: none) may stay.
 * E_MISMATCH with one sentence that names every tensor that is missing, of another shape, or not expected;
 * E_UNSUPPORTED for a dtype other than F32, F16, BF16; E_NUMERIC naming the required tensors that hold NaN or
 * infinity. Long lists end with "and N more". */
lt_status lt_checkpoint_take(lt_checkpoint *checkpoint, const lt_parameter *parameters, int n_parameters,
                             const char *scope, const char *const *ignored, lt_err *err);

/* XXH3-128, as 32 hex digits, of the digests of config.json (where there is one) and of every file, each taken over
 * the whole file. Read once, by one process, for which others wait: digest, and that all values are finite, are remembered
 * in $XDG_CACHE_HOME/longtake/weights (or ~/.cache/...), keyed by device, inode, size and times; where that cannot be
 * written every process reads the files. */
const char *lt_checkpoint_digest(const lt_checkpoint *checkpoint);

#endif
