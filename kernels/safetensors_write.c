/* safetensors_write.c - making a safetensors file, in memory and on disk. */
#include "kernels/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADER_ALIGNMENT = 64 };

static void upper_case(char *to, const char *from)
{
    for (; *from; from++) *to++ = *from >= 'a' && *from <= 'z' ? (char)(*from - 'a' + 'A') : *from;
    *to = 0;
}

static json_t *describe(const lt_tensor *t, size_t begin, size_t end)
{
    char dtype[16];
    upper_case(dtype, lt_dtype_name(t->dtype));
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++) json_array_append_new(shape, json_integer(t->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)end);
}

/* Larger elements first, as the format's own writer does, so that all data is aligned to its element. */
static int by_alignment(const void *a, const void *b)
{
    const lt_named_tensor *x = *(const lt_named_tensor *const *)a, *y = *(const lt_named_tensor *const *)b;
    size_t p = lt_dtype_bytes(x->tensor.dtype), q = lt_dtype_bytes(y->tensor.dtype);
    return p != q ? (p < q) - (p > q) : strcmp(x->name, y->name);
}

static lt_status add_metadata(json_t *header, const lt_metadata *metadata, int n_metadata, lt_err *err)
{
    if (n_metadata == 0) return LT_OK;
    json_t *table = json_object();
    for (int i = 0; i < n_metadata; i++) {
        if (json_object_set_new(table, metadata[i].key, json_string(metadata[i].value)) != 0) {
            json_decref(table);
            return lt_fail(err, LT_E_INVALID, "metadata '%s' is not UTF-8 text", metadata[i].key);
        }
    }
    json_object_set_new(header, "__metadata__", table);
    return LT_OK;
}

/* The header as text (malloc'd), and the size of the data. */
static lt_status make_header(char **text, size_t *data_bytes, const lt_named_tensor *const *order,
                             int n_tensors, const lt_metadata *metadata, int n_metadata, lt_err *err)
{
    lt_status status;
    json_t *header = json_object();
    LT_TRY(add_metadata(header, metadata, n_metadata, err));
    for (int i = 0; i < n_tensors; i++) {
        const lt_named_tensor *t = order[i];
        size_t end;
        if (!lt_add_size(*data_bytes, lt_tensor_bytes(&t->tensor), &end)) {
            status = lt_fail(err, LT_E_INVALID, "the tensors are too large for one file");
            goto fail;
        }
        if (strcmp(t->name, "__metadata__") == 0 || json_object_get(header, t->name)) {
            status =
                lt_fail(err, LT_E_INVALID, "two tensors are named '%s', or the name is reserved", t->name);
            goto fail;
        }
        if (json_object_set_new(header, t->name, describe(&t->tensor, *data_bytes, end)) != 0) {
            status = lt_fail(err, LT_E_INVALID, "tensor name '%s' is not UTF-8 text", t->name);
            goto fail;
        }
        *data_bytes = end;
    }
    *text = json_dumps(header, JSON_COMPACT);
    status = *text ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory for a safetensors header");
fail:
    json_decref(header);
    return status;
}

static lt_status fill(unsigned char **bytes, size_t *n_bytes, const char *text, size_t data_bytes,
                      const lt_named_tensor *const *order, int n_tensors, lt_err *err)
{
    size_t length = strlen(text), start = lt_round_up(8 + length, HEADER_ALIGNMENT);
    if (!lt_add_size(start, data_bytes, n_bytes) || !(*bytes = malloc(*n_bytes)))
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for %.1f MiB of tensors",
                       (double)data_bytes / (1 << 20));
    unsigned char *at = *bytes;
    for (int i = 0; i < 8; i++) *at++ = (unsigned char)((uint64_t)(start - 8) >> 8 * i);
    memcpy(at, text, length);
    memset(at + length, ' ', start - 8 - length);
    at = *bytes + start;
    for (int i = 0; i < n_tensors; i++) {
        size_t size = lt_tensor_bytes(&order[i]->tensor);
        if (size) memcpy(at, order[i]->tensor.data, size);
        at += size;
    }
    return LT_OK;
}

lt_status lt_safetensors_pack(void **bytes, size_t *n_bytes, const lt_named_tensor *tensors, int n_tensors,
                              const lt_metadata *metadata, int n_metadata, lt_err *err)
{
    lt_status status;
    char *text = NULL;
    size_t data_bytes = 0;
    *bytes = NULL;
    *n_bytes = 0;
    const lt_named_tensor **order = malloc(((size_t)n_tensors + 1) * sizeof(*order));
    if (!order) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    for (int i = 0; i < n_tensors; i++) order[i] = &tensors[i];
    qsort(order, (size_t)n_tensors, sizeof(*order), by_alignment);
    LT_TRY(make_header(&text, &data_bytes, order, n_tensors, metadata, n_metadata, err));
    LT_TRY(fill((unsigned char **)bytes, n_bytes, text, data_bytes, order, n_tensors, err));
fail:
    free(order);
    free(text);
    return status;
}

/* ---- to a file --------------------------------------------------------------------------------------- */

static bool write_all(int fd, const char *bytes, size_t n)
{
    while (n) {
        ssize_t written = write(fd, bytes, LT_MIN(n, (size_t)1 << 30));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return false;
        bytes += written;
        n -= (size_t)written;
    }
    return true;
}

/* So that the rename itself survives a power cut. */
static bool sync_folder_of(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    if (length >= sizeof(folder)) return false;
    memcpy(folder, path, length);
    folder[length] = 0;
    int fd = open(length ? folder : slash ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = fsync(fd) == 0 || errno == EINVAL; /* some file systems cannot */
    close(fd);
    return ok;
}

lt_status lt_safetensors_write(const char *path, const lt_named_tensor *tensors, int n_tensors,
                               const lt_metadata *metadata, int n_metadata, lt_err *err)
{
    void *bytes;
    size_t n_bytes;
    char temporary[PATH_MAX];
    lt_status status = lt_safetensors_pack(&bytes, &n_bytes, tensors, n_tensors, metadata, n_metadata, err);
    if (status != LT_OK) return status;
    int fd = -1;
    if (snprintf(temporary, sizeof(temporary), "%s.%d.tmp", path, (int)getpid()) >= (int)sizeof(temporary)) {
        status = lt_fail(err, LT_E_INVALID, "the path is too long: %s", path);
        goto out;
    }
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool ok = fd >= 0 && write_all(fd, bytes, n_bytes) && fsync(fd) == 0;
    if (fd >= 0 && close(fd) != 0) ok = false;
    ok = ok && rename(temporary, path) == 0;
    if (ok) ok = sync_folder_of(path);
    if (!ok) {
        status = lt_fail_errno(err, errno, "cannot write %s", path);
        if (fd >= 0) unlink(temporary);
    }
out:
    free(bytes);
    return status;
}
