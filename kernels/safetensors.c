/* safetensors.c - reading: map, parse the header, and check everything before anyone touches a value. */
#include "kernels/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The format allows 100 MB, which may become thousands as a tree. 16 MB are 100,000 tensors with names as long as those of
 * the longest files. */
#define MAX_HEADER_BYTES ((uint64_t)16 * 1000 * 1000)

typedef struct entry {
    const char *name; /* of the JSON object */
    lt_tensor tensor;
    uint64_t begin, end; /* within the data */
} entry;

struct lt_safetensors {
    void *map; /* NULL when the memory is the caller's */
    size_t map_bytes;
    const char *label; /* for error sentences */
    char *own_label;
    json_t *header;
    const unsigned char *data;
    uint64_t data_bytes;
    entry *entries; /* in the order of names */
    int n_entries;
};

/* ---- one tensor's entry ------------------------------------------------------------------------------ */

static lt_status parse_shape(const lt_safetensors *f, entry *e, const json_t *shape, lt_err *err)
{
    if (!json_is_array(shape))
        return lt_fail(err, LT_E_FORMAT, "%s: tensor '%s' has no shape", f->label, e->name);
    if (json_array_size(shape) > LT_MAX_RANK) {
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: tensor '%s' has %zu dimensions; at most %d are supported",
                       f->label, e->name, json_array_size(shape), LT_MAX_RANK);
    }
    e->tensor.rank = (int32_t)json_array_size(shape);
    for (int i = 0; i < e->tensor.rank; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return lt_fail(err, LT_E_FORMAT, "%s: tensor '%s': a size in its shape is not a whole number",
                           f->label, e->name);
        e->tensor.shape[i] = json_integer_value(size);
    }
    return LT_OK;
}

static lt_status parse_offsets(const lt_safetensors *f, entry *e, const json_t *offsets, lt_err *err)
{
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return lt_fail(err, LT_E_FORMAT, "%s: tensor '%s' has malformed data_offsets", f->label, e->name);
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    if (e->end > f->data_bytes) {
        return lt_fail(err, LT_E_FORMAT,
                       "%s: tensor '%s' ends at byte %llu of %llu: the file is cut short or lies", f->label,
                       e->name, (unsigned long long)e->end, (unsigned long long)f->data_bytes);
    }
    return LT_OK;
}

/* What an entry may hold is what it must hold. */
static lt_status check_members(const lt_safetensors *f, const entry *e, const json_t *value, lt_err *err)
{
    static const char *const known[] = {"dtype", "shape", "data_offsets"};
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)(uintptr_t)value, key, member)
    {
        size_t i = 0;
        while (i < LT_COUNT(known) && strcmp(key, known[i]) != 0) i++;
        if (i == LT_COUNT(known))
            return lt_fail(err, LT_E_FORMAT,
                           "%s: tensor '%s' has a '%.64s', which is none of dtype, shape and data_offsets",
                           f->label, e->name, key);
    }
    return LT_OK;
}

static lt_status parse_entry(const lt_safetensors *f, entry *e, const json_t *value, lt_err *err)
{
    lt_status status;
    LT_TRY(check_members(f, e, value, err));
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    if (!dtype) return lt_fail(err, LT_E_FORMAT, "%s: tensor '%s' has no dtype", f->label, e->name);
    if (!lt_dtype_parse(dtype, &e->tensor.dtype)) {
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: tensor '%s' has the dtype '%.32s', which is not supported",
                       f->label, e->name, dtype);
    }
    LT_TRY(parse_shape(f, e, json_object_get(value, "shape"), err));
    LT_TRY(parse_offsets(f, e, json_object_get(value, "data_offsets"), err));
    int64_t n;
    size_t bytes;
    if (!lt_product_i64(e->tensor.shape, e->tensor.rank, &n) ||
        !lt_mul_size((size_t)n, lt_dtype_bytes(e->tensor.dtype), &bytes) || bytes != e->end - e->begin) {
        return lt_fail(err, LT_E_FORMAT,
                       "%s: tensor '%s' has %llu bytes, which its shape and dtype do not ask for", f->label,
                       e->name, (unsigned long long)(e->end - e->begin));
    }
    e->tensor.data = (void *)(uintptr_t)(f->data + e->begin);
    return LT_OK;
fail:
    return status;
}

/* ---- the header -------------------------------------------------------------------------------------- */

/* Before a tree is made of it: lists of lists, and long ones, take a hundred times their text. A header is a table of tables of
 * short lists. */
static lt_status check_nesting(const lt_safetensors *f, const char *text, size_t n_bytes, lt_err *err)
{
    enum { DEEPEST = 3, LONGEST = 64 };
    char open[DEEPEST + 1] = {0};
    int depth = 0, n_commas[DEEPEST + 1] = {0};
    bool quoted = false;
    for (size_t i = 0; i < n_bytes; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') i++;
            quoted = c != '"';
            continue;
        }
        quoted = c == '"';
        if (c == '[' || c == '{') {
            if (depth == DEEPEST)
                return lt_fail(err, LT_E_FORMAT, "%s: malformed header at byte %zu: nested too deep",
                               f->label, 8 + i);
            open[++depth] = c;
            n_commas[depth] = 0;
        } else if (c == ']' || c == '}') {
            depth = LT_MAX(depth - 1, 0);
        } else if (c == ',' && open[depth] == '[' && ++n_commas[depth] == LONGEST) {
            return lt_fail(err, LT_E_FORMAT, "%s: malformed header at byte %zu: the list is too long",
                           f->label, 8 + i);
        }
    }
    return LT_OK;
}

static int by_offset(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

/* The tensors' bytes must tile the data: no overlap, no hole, nothing left over. */
static lt_status check_tiling(lt_safetensors *f, lt_err *err)
{
    uint64_t at = 0;
    if (f->n_entries) qsort(f->entries, (size_t)f->n_entries, sizeof(entry), by_offset);
    for (int i = 0; i < f->n_entries; i++) {
        const entry *e = &f->entries[i];
        if (e->begin != at) {
            return lt_fail(err, LT_E_FORMAT, "%s: tensor '%s' %s", f->label, e->name,
                           e->begin < at ? "overlaps the one before it" : "leaves a hole before it");
        }
        at = e->end;
    }
    if (at != f->data_bytes) {
        return lt_fail(err, LT_E_FORMAT, "%s: %llu bytes after the last tensor belong to none", f->label,
                       (unsigned long long)(f->data_bytes - at));
    }
    if (f->n_entries) qsort(f->entries, (size_t)f->n_entries, sizeof(entry), by_name);
    return LT_OK;
}

static lt_status check_metadata(const lt_safetensors *f, const json_t *metadata, lt_err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return lt_fail(err, LT_E_FORMAT, "%s: __metadata__ is not a table", f->label);
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value)
    {
        if (!json_is_string(value))
            return lt_fail(err, LT_E_FORMAT, "%s: __metadata__: '%s' is not a string", f->label, key);
    }
    return LT_OK;
}

static lt_status parse_entries(lt_safetensors *f, lt_err *err)
{
    lt_status status;
    const char *name;
    json_t *value;
    f->entries = calloc(json_object_size(f->header) + 1, sizeof(entry));
    if (!f->entries) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", f->label);
    json_object_foreach(f->header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0) {
            LT_TRY(check_metadata(f, value, err));
            continue;
        }
        entry *e = &f->entries[f->n_entries++];
        e->name = name;
        LT_TRY(parse_entry(f, e, value, err));
    }
    return check_tiling(f, err);
fail:
    return status;
}

static lt_status parse(lt_safetensors *f, const unsigned char *bytes, size_t n_bytes, lt_err *err)
{
    uint64_t header_bytes = 0;
    if (n_bytes < 8) return lt_fail(err, LT_E_FORMAT, "%s: too short for a safetensors file", f->label);
    for (int i = 7; i >= 0; i--) header_bytes = header_bytes << 8 | bytes[i];
    if (header_bytes > MAX_HEADER_BYTES || header_bytes > n_bytes - 8) {
        return lt_fail(err, LT_E_FORMAT, "%s: not a safetensors file: its header would have %llu bytes",
                       f->label, (unsigned long long)header_bytes);
    }
    const char *text = (const char *)bytes + 8;
    if (header_bytes == 0 || text[0] != '{')
        return lt_fail(err, LT_E_FORMAT, "%s: not a safetensors file: its header does not start with '{'",
                       f->label);
    f->data = bytes + 8 + header_bytes;
    f->data_bytes = n_bytes - 8 - header_bytes;
    json_error_t error;
    lt_status status = check_nesting(f, text, (size_t)header_bytes, err);
    if (status != LT_OK) return status;
    f->header = json_loadb(text, (size_t)header_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!f->header) {
        return lt_fail(err, LT_E_FORMAT, "%s: malformed header at byte %d: %s", f->label, 8 + error.position,
                       error.text);
    }
    return parse_entries(f, err);
}

/* ---- public ------------------------------------------------------------------------------------------ */

static lt_status create(lt_safetensors **file, const char *label, lt_err *err)
{
    lt_safetensors *f = calloc(1, sizeof(*f));
    *file = f;
    if (f) f->label = f->own_label = strdup(label);
    return f && f->label ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", label);
}

static lt_status map_file(lt_safetensors *f, const char *path, lt_err *err)
{
    struct stat info;
    lt_status status = LT_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return lt_fail_errno(err, errno, "cannot open %s", path);
    if (fstat(fd, &info) != 0) {
        status = lt_fail_errno(err, errno, "cannot read %s", path);
    } else if (!S_ISREG(info.st_mode)) {
        status = lt_fail(err, LT_E_FORMAT, "%s: not a regular file", path);
    } else if (info.st_size < 8) {
        status = lt_fail(err, LT_E_FORMAT, "%s: too short for a safetensors file", path);
    } else {
        f->map_bytes = (size_t)info.st_size;
        f->map = mmap(NULL, f->map_bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (f->map == MAP_FAILED) {
            f->map = NULL;
            status = lt_fail_errno(err, errno, "cannot map %s", path);
        } else {
            lt_mapping_begin(f->map, f->map_bytes, f->label);
        }
    }
    close(fd);
    return status;
}

lt_status lt_safetensors_open(lt_safetensors **file, const char *path, lt_err *err)
{
    lt_status status;
    LT_TRY(create(file, path, err));
    LT_TRY(map_file(*file, path, err));
    LT_TRY(parse(*file, (*file)->map, (*file)->map_bytes, err));
    return LT_OK;
fail:
    lt_safetensors_close(*file);
    *file = NULL;
    return status;
}

lt_status lt_safetensors_open_memory(lt_safetensors **file, const void *bytes, size_t n_bytes,
                                     const char *name, lt_err *err)
{
    lt_status status;
    LT_TRY(create(file, name, err));
    LT_TRY(parse(*file, bytes, n_bytes, err));
    return LT_OK;
fail:
    lt_safetensors_close(*file);
    *file = NULL;
    return status;
}

void lt_safetensors_close(lt_safetensors *f)
{
    if (!f) return;
    if (f->map) {
        lt_mapping_end(f->map);
        munmap(f->map, f->map_bytes);
    }
    json_decref(f->header);
    free(f->entries);
    free(f->own_label);
    free(f);
}

int lt_safetensors_count(const lt_safetensors *f)
{
    return f->n_entries;
}

lt_tensor lt_safetensors_at(const lt_safetensors *f, int index, const char **name)
{
    if (name) *name = f->entries[index].name;
    return f->entries[index].tensor;
}

lt_status lt_safetensors_get(const lt_safetensors *f, const char *name, lt_tensor *tensor, lt_err *err)
{
    entry wanted = {.name = name};
    const entry *e =
        f->n_entries ? bsearch(&wanted, f->entries, (size_t)f->n_entries, sizeof(entry), by_name) : NULL;
    *tensor = e ? e->tensor : LT_NONE;
    return e ? LT_OK : lt_fail(err, LT_E_NOT_FOUND, "%s: there is no tensor '%s'", f->label, name);
}

const char *lt_safetensors_metadata(const lt_safetensors *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}
