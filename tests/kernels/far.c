/* far.c - a device to test with, where there is none: the cpu backend's operators on memory that the host cannot touch.
 *
 * A plug-in, loaded as that of a GPU is (device "far"). Its blocks are protected against any access but while one of its operators runs,
 * so that a program that reads or writes a tensor by itself ends with a SIGSEGV; an operator that is given a tensor of another memory
 * fails with a sentence. Uploads are read at once; downloads arrive when the context waits, and until then their place holds 0xff. Results have
 * the bytes of the cpu backend. Memory that it shares with other processes is a memfd; reading another's before its mark was set and waited for
 * fails with a sentence.
 *
 * Faults, by environment variables. Where one names a FILE, it happens once: when FILE is not there, which is made then.
 *     LT_FAR_TOTAL=BYTES      the device's memory (64 GiB), all of it free
 *     LT_FAR_LOSE=N:FILE      the device is lost at the N-th call of a process
 *     LT_FAR_FULL=FILE        there is no room for a workspace: others use the memory
 *     LT_FAR_COUNTS=FILE      when a context is closed, a line is added: the uploads and downloads it had, and their bytes */
#include "kernels/backend.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A download on its way. */
typedef struct parcel {
    struct parcel *next;
    void *to;
    size_t bytes;
    unsigned char data[];
} parcel;

typedef struct far_device {
    void *cpu; /* the cpu backend's state */
    char *block;
    size_t block_bytes;
    bool lost;
    parcel *first, **last;
    long uploads, downloads;
    size_t up_bytes, down_bytes;
} far_device;

/* Memory shared with other processes: in the memfd first a page that counts how often the mark was set. */
typedef struct far_share {
    struct far_share *next;
    int fd;
    _Atomic uint64_t *n_marks;
    char *data;
    size_t bytes;
    bool is_own, is_awaited, is_reachable;
} far_share;

static const lt_backend *cpu;
static long n_calls;
static far_share *shares; /* of the process */

/* ---- faults -------------------------------------------------------------------------------------------- */

/* True the first time anyone asks for this file. */
static bool once(const char *path)
{
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static size_t total_bytes(void)
{
    const char *text = getenv("LT_FAR_TOTAL");
    return text ? (size_t)strtoull(text, NULL, 10) : (size_t)64 << 30;
}

static bool is_lost(far_device *d)
{
    const char *text = getenv("LT_FAR_LOSE");
    n_calls++;
    if (d->lost || !text) return d->lost;
    char *file;
    long at = strtol(text, &file, 10);
    d->lost = *file == ':' && n_calls == at && once(file + 1);
    return d->lost;
}

/* ---- a call -------------------------------------------------------------------------------------------- */

static bool contains(const char *block, size_t block_bytes, const char *at, size_t bytes)
{
    return at >= block && bytes <= block_bytes && (size_t)(at - block) <= block_bytes - bytes;
}

static far_share *share_of(const char *at, size_t bytes)
{
    far_share *s = shares;
    while (s && !contains(s->data, s->bytes, at, bytes)) s = s->next;
    return s;
}

static lt_status open_block(lt_context *c, const lt_tensor *const *tensors, int n)
{
    far_device *d = c->device;
    if (c->dry) return LT_OK;
    if (is_lost(d)) return lt_context_fail(c, LT_E_DEVICE_LOST, "the device 'far' was lost");
    for (int i = 0; i < n; i++) {
        const lt_tensor *t = tensors[i];
        size_t bytes = t && t->data ? lt_tensor_bytes(t) : 0;
        const char *at = t ? t->data : NULL;
        if (!bytes || contains(d->block, d->block_bytes, at, bytes)) continue;
        far_share *shared = share_of(at, bytes);
        if (shared && !shared->is_own && !shared->is_awaited)
            return lt_context_fail(c, LT_E_INTERNAL,
                                   "another process's memory is read before its mark was waited for");
        if (shared) {
            mprotect(shared->data, shared->bytes, PROT_READ | PROT_WRITE);
            shared->is_reachable = true;
            continue;
        }
        char text[96];
        return lt_context_fail(c, LT_E_INTERNAL, "%s, a tensor given to a device, is not in its memory",
                               lt_tensor_describe(t, text, sizeof(text)));
    }
    if (d->block) mprotect(d->block, d->block_bytes, PROT_READ | PROT_WRITE);
    return LT_OK;
}

static lt_status close_block(const lt_context *c, far_device *d, lt_status status)
{
    if (!c->dry && d->block) mprotect(d->block, d->block_bytes, PROT_NONE);
    for (far_share *s = shares; s; s = s->next) {
        if (s->is_reachable) mprotect(s->data, s->bytes, PROT_NONE);
        s->is_reachable = false;
    }
    return status;
}

/* An operator of the cpu backend, in its device's place. */
#define TENSORS(...) ((const lt_tensor *const[]){__VA_ARGS__})
#define FAR(op, parameters, tensors, ...)                                                                    \
    static lt_status op##_far parameters                                                                     \
    {                                                                                                        \
        far_device *d = c->device;                                                                           \
        lt_status status = open_block(c, tensors, (int)(sizeof(tensors) / sizeof(void *)));                  \
        if (status != LT_OK) return status;                                                                  \
        c->device = d->cpu;                                                                                  \
        status = cpu->op(__VA_ARGS__);                                                                       \
        c->device = d;                                                                                       \
        return close_block(c, d, status);                                                                    \
    }

FAR(conv,
    (lt_context * c, const lt_tensor *x, lt_weight *w, lt_weight *b, const lt_conv_dims *dims,
     const lt_tensor *r, lt_tensor *y),
    TENSORS(x, r, y), c, x, w, b, dims, r, y)
FAR(linear,
    (lt_context * c, const lt_tensor *x, lt_weight *w, lt_weight *b, lt_activation act, const lt_tensor *r,
     lt_tensor *y),
    TENSORS(x, r, y), c, x, w, b, act, r, y)
FAR(group_norm,
    (lt_context * c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, int groups, double eps,
     lt_activation act, lt_tensor *y),
    TENSORS(x, y), c, x, gamma, beta, groups, eps, act, y)
FAR(attention,
    (lt_context * c, const lt_tensor *q, const lt_tensor *k, const lt_tensor *v, const lt_tensor *mask,
     double scale, bool causal, lt_tensor *y),
    TENSORS(q, k, v, mask, y), c, q, k, v, mask, scale, causal, y)
FAR(upsample_nearest, (lt_context * c, const lt_tensor *x, int ft, int fh, int fw, lt_tensor *y),
    TENSORS(x, y), c, x, ft, fh, fw, y)
FAR(upsample_conv,
    (lt_context * c, const lt_tensor *x, lt_weight *w, lt_weight *b, const lt_conv_dims *dims, lt_tensor *y),
    TENSORS(x, y), c, x, w, b, dims, y)
FAR(add_scaled, (lt_context * c, const lt_tensor *x, const lt_tensor *y, double a, lt_tensor *out),
    TENSORS(x, y, out), c, x, y, a, out)
FAR(affine, (lt_context * c, const lt_tensor *x, double a, double b, lt_activation act, lt_tensor *out),
    TENSORS(x, out), c, x, a, b, act, out)
FAR(slice_channels, (lt_context * c, const lt_tensor *x, int64_t start, lt_tensor *out), TENSORS(x, out), c,
    x, start, out)
FAR(convert, (lt_context * c, const lt_tensor *x, lt_tensor *out), TENSORS(x, out), c, x, out)
FAR(layer_norm,
    (lt_context * c, const lt_tensor *x, lt_weight *gamma, lt_weight *beta, double eps,
     const lt_tensor *scale, const lt_tensor *shift, lt_tensor *y),
    TENSORS(x, scale, shift, y), c, x, gamma, beta, eps, scale, shift, y)
FAR(rms_norm, (lt_context * c, const lt_tensor *x, lt_weight *gamma, double eps, lt_tensor *y), TENSORS(x, y),
    c, x, gamma, eps, y)
FAR(add_broadcast, (lt_context * c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out),
    TENSORS(x, y, out), c, x, y, out)
FAR(add_gated,
    (lt_context * c, const lt_tensor *x, const lt_tensor *y, const lt_tensor *gate, lt_tensor *out),
    TENSORS(x, y, gate, out), c, x, y, gate, out)
FAR(multiply, (lt_context * c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out), TENSORS(x, y, out), c,
    x, y, out)
FAR(combine, (lt_context * c, const lt_tensor *x, double a, const lt_tensor *y, double b, lt_tensor *out),
    TENSORS(x, y, out), c, x, a, y, b, out)
FAR(gated, (lt_context * c, const lt_tensor *x, lt_activation act, lt_tensor *out), TENSORS(x, out), c, x,
    act, out)
FAR(concat_channels, (lt_context * c, const lt_tensor *x, const lt_tensor *y, lt_tensor *out),
    TENSORS(x, y, out), c, x, y, out)
FAR(embedding, (lt_context * c, lt_weight *table, const int32_t *ids, lt_tensor *out), TENSORS(out), c, table,
    ids, out)
FAR(gather_rows, (lt_context * c, const lt_tensor *x, const int32_t *rows, lt_tensor *out), TENSORS(x, out),
    c, x, rows, out)
FAR(unpatchify, (lt_context * c, const lt_tensor *x, int pt, int ph, int pw, lt_tensor *out), TENSORS(x, out),
    c, x, pt, ph, pw, out)
FAR(noise, (lt_context * c, uint64_t seed, uint32_t clip, uint64_t first, lt_tensor *out), TENSORS(out), c,
    seed, clip, first, out)
FAR(pixels_to_values, (lt_context * c, const lt_tensor *x, int bits, lt_tensor *out), TENSORS(x, out), c, x,
    bits, out)
FAR(values_to_pixels, (lt_context * c, const lt_tensor *x, int bits, bool truncate, lt_tensor *out),
    TENSORS(x, out), c, x, bits, truncate, out)
FAR(add_tile,
    (lt_context * c, const lt_tensor *tile, const lt_tile_weights *weights, int64_t row, int64_t column,
     lt_tensor *sums),
    TENSORS(tile, sums), c, tile, weights, row, column, sums)
FAR(copy, (lt_context * c, const lt_tensor *x, lt_tensor *out), TENSORS(x, out), c, x, out)
FAR(zero, (lt_context * c, lt_tensor *out), TENSORS(out), c, out)

/* The picture may lie in the workspace, or anywhere else. */
FAR(yuv_to_rgb, (lt_context * c, const lt_yuv *picture, int bits, lt_tensor *out), TENSORS(out), c, picture,
    bits, out)

static void release_weight_far(lt_context *c, lt_weight *weight)
{
    far_device *d = c->device;
    c->device = d->cpu;
    cpu->release_weight(c, weight);
    c->device = d;
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static lt_status memory_create_far(void *device, size_t bytes, void **block, lt_err *err)
{
    far_device *d = device;
    const char *full = getenv("LT_FAR_FULL");
    *block = NULL;
    if (bytes > total_bytes())
        return lt_fail(err, LT_E_NO_MEMORY, "far:0 has %.1f MiB, and %.1f are wanted: use smaller tiles",
                       (double)total_bytes() / (1 << 20), (double)bytes / (1 << 20));
    if (full && once(full))
        return lt_fail(err, LT_E_BUSY, "far:0 has no %.1f MiB free now: others use it",
                       (double)bytes / (1 << 20));
    void *memory = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return lt_fail(err, LT_E_NO_MEMORY, "cannot reserve far:0's memory");
    d->block = *block = memory;
    d->block_bytes = bytes;
    return LT_OK;
}

static lt_status wait_far(lt_context *c)
{
    far_device *d = c->device;
    if (d->lost) return lt_context_fail(c, LT_E_DEVICE_LOST, "the device 'far' was lost");
    for (parcel *p = d->first, *next; p; p = next) {
        next = p->next;
        memcpy(p->to, p->data, p->bytes);
        free(p);
    }
    d->first = NULL;
    d->last = &d->first;
    return LT_OK;
}

static void memory_destroy_far(void *device, void *block, size_t bytes)
{
    far_device *d = device;
    if (block) munmap(block, bytes);
    d->block = NULL;
    d->block_bytes = 0;
}

static lt_status upload_far(lt_context *c, const lt_host_box *from, lt_tensor *out)
{
    far_device *d = c->device;
    lt_status status = open_block(c, TENSORS(out), 1);
    if (status != LT_OK) return status;
    d->uploads++;
    d->up_bytes += lt_tensor_bytes(out);
    return close_block(c, d, cpu->upload(c, from, out));
}

static lt_status download_far(lt_context *c, const lt_tensor *x, void *to)
{
    far_device *d = c->device;
    size_t bytes = lt_tensor_bytes(x);
    parcel *p = malloc(sizeof(*p) + bytes);
    if (!p) return lt_context_fail(c, LT_E_NO_MEMORY, "out of memory for a download");
    lt_status status = open_block(c, TENSORS(x), 1);
    if (status != LT_OK) {
        free(p);
        return status;
    }
    *p = (parcel){.to = to, .bytes = bytes};
    memcpy(p->data, x->data, bytes);
    memset(to, 0xff, bytes);
    *d->last = p;
    d->last = &p->next;
    d->downloads++;
    d->down_bytes += bytes;
    return close_block(c, d, LT_OK);
}

/* ---- memory shared with other processes ---------------------------------------------------------------- */

enum { FIRST_PAGE = 4096 };

/* In a handle's `memory`. */
typedef struct far_place {
    int fd; /* of the process that made it */
    ino_t inode;
} far_place;

static void share_close_far(lt_share *share)
{
    far_share *s = share->own, **at = &shares;
    if (!s) return;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    munmap((void *)s->n_marks, FIRST_PAGE);
    munmap(s->data, s->bytes);
    close(s->fd);
    free(s);
}

/* Takes fd. */
static lt_status map_share(lt_share *share, int fd, lt_err *err)
{
    far_share *s = calloc(1, sizeof(*s));
    void *first = mmap(NULL, FIRST_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *data = mmap(NULL, share->bytes, PROT_NONE, MAP_SHARED, fd, FIRST_PAGE);
    if (!s || first == MAP_FAILED || data == MAP_FAILED) {
        if (first != MAP_FAILED) munmap(first, FIRST_PAGE);
        if (data != MAP_FAILED) munmap(data, share->bytes);
        free(s);
        close(fd);
        return lt_fail(err, LT_E_NO_MEMORY, "far:0's memory cannot be shared");
    }
    *s = (far_share){.next = shares, .fd = fd, .n_marks = first, .data = data, .bytes = share->bytes};
    s->is_own = share->is_own;
    shares = s;
    share->own = s;
    share->data = data;
    return LT_OK;
}

static lt_status record_far(lt_context *c, lt_record_step step, size_t host_bytes, void **record)
{
    return lt_context_fail(c, LT_E_UNSUPPORTED, "far does not record");
}

static lt_status share_create_far(void *device, lt_share *share, lt_share_handle *handle, lt_err *err)
{
    struct stat stat;
    int fd = memfd_create("far", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)(FIRST_PAGE + share->bytes)) || fstat(fd, &stat)) {
        if (fd >= 0) close(fd);
        return lt_fail(err, LT_E_NO_MEMORY, "far:0's memory cannot be shared");
    }
    far_place place = {fd, stat.st_ino};
    memcpy(handle->memory, &place, sizeof(place));
    return map_share(share, fd, err);
}

static lt_status share_open_far(void *device, lt_share *share, const lt_share_handle *handle, lt_err *err)
{
    char path[64];
    far_place place;
    struct stat stat;
    memcpy(&place, handle->memory, sizeof(place));
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)handle->pid, place.fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && !fstat(fd, &stat) && stat.st_ino == place.inode &&
        (size_t)stat.st_size == FIRST_PAGE + share->bytes)
        return map_share(share, fd, err);
    if (fd >= 0) close(fd);
    return lt_fail(err, LT_E_TRANSIENT, "memory of process %d is not there any more", (int)handle->pid);
}

static lt_status share_mark_far(lt_context *c, lt_share *share)
{
    far_share *s = share->own;
    atomic_fetch_add(s->n_marks, 1);
    return LT_OK;
}

static lt_status share_await_far(lt_context *c, lt_share *share)
{
    far_share *s = share->own;
    s->is_awaited = atomic_load(s->n_marks) > 0;
    return LT_OK;
}

/* ---- the device ---------------------------------------------------------------------------------------- */

static lt_status probe_far(int index, lt_device_info *info, lt_err *err)
{
    if (index != 0) return lt_fail(err, LT_E_NOT_FOUND, "there is one device 'far', not 'far:%d'", index);
    *info = (lt_device_info){
        .name = "memory far away", .id = "far:0", .total_bytes = total_bytes(), .free_bytes = total_bytes()};
    return LT_OK;
}

static void close_far(void *device)
{
    far_device *d = device;
    if (!d) return;
    for (parcel *p = d->first, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    const char *path = getenv("LT_FAR_COUNTS");
    FILE *file = path && d->uploads + d->downloads ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "up %ld %zu down %ld %zu\n", d->uploads, d->up_bytes, d->downloads, d->down_bytes);
        fclose(file);
    }
    if (d->cpu) cpu->close(d->cpu);
    free(d);
}

static lt_status open_far(void **device, int index, lt_dtype dtype, int threads, char *numeric_class,
                          size_t class_bytes, lt_err *err)
{
    lt_device_info info;
    lt_status status = probe_far(index, &info, err);
    *device = NULL;
    if (status != LT_OK) return status;
    far_device *d = calloc(1, sizeof(*d));
    if (!d) return lt_fail(err, LT_E_NO_MEMORY, "cannot open far: out of memory");
    d->last = &d->first;
    status = cpu->open(&d->cpu, 0, dtype, threads, numeric_class, class_bytes, err);
    if (status != LT_OK) {
        close_far(d);
        return status;
    }
    *device = d;
    return LT_OK;
}

static lt_backend far_table = {
    .abi = LT_BACKEND_ABI,
    .bytes = sizeof(lt_backend),
    .name = "far",
    .numeric_epoch = 1,
    .any_float = false,
    .host_memory = false,
    .dtypes = 1u << LT_F32 | 1u << LT_BF16,
    .probe = probe_far,
    .open = open_far,
    .close = close_far,
    .memory_create = memory_create_far,
    .memory_destroy = memory_destroy_far,
    .upload = upload_far,
    .download = download_far,
    .wait = wait_far,
    .copy = copy_far,
    .zero = zero_far,
    .record = record_far,
    .share_create = share_create_far,
    .share_open = share_open_far,
    .share_close = share_close_far,
    .share_mark = share_mark_far,
    .share_await = share_await_far,
    .conv = conv_far,
    .linear = linear_far,
    .group_norm = group_norm_far,
    .attention = attention_far,
    .upsample_nearest = upsample_nearest_far,
    .upsample_conv = upsample_conv_far,
    .add_scaled = add_scaled_far,
    .affine = affine_far,
    .slice_channels = slice_channels_far,
    .convert = convert_far,
    .layer_norm = layer_norm_far,
    .rms_norm = rms_norm_far,
    .add_broadcast = add_broadcast_far,
    .add_gated = add_gated_far,
    .multiply = multiply_far,
    .combine = combine_far,
    .gated = gated_far,
    .concat_channels = concat_channels_far,
    .embedding = embedding_far,
    .gather_rows = gather_rows_far,
    .unpatchify = unpatchify_far,
    .noise = noise_far,
    .pixels_to_values = pixels_to_values_far,
    .values_to_pixels = values_to_pixels_far,
    .yuv_to_rgb = yuv_to_rgb_far,
    .add_tile = add_tile_far,
    .release_weight = release_weight_far,
};

const lt_backend *lt_plugin_backend(void)
{
    cpu = lt_backend_find("cpu", NULL);
    far_table.numeric_epoch = cpu->numeric_epoch;
    return &far_table;
}
