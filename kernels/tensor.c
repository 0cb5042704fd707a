/* tensor.c - dtypes, and what can be asked of a tensor without a context. */
#include "kernels/tensor.h"

#include <stdio.h>
#include <strings.h>

#include "kernels/convert.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[LT_N_DTYPES] = {
    [LT_F32] = {"f32", 4}, [LT_BF16] = {"bf16", 2}, [LT_F16] = {"f16", 2}, [LT_F64] = {"f64", 8},
    [LT_U8] = {"u8", 1},   [LT_U16] = {"u16", 2},   [LT_I32] = {"i32", 4}, [LT_I64] = {"i64", 8},
};

size_t lt_dtype_bytes(lt_dtype dtype)
{
    return dtypes[dtype].bytes;
}

const char *lt_dtype_name(lt_dtype dtype)
{
    return dtypes[dtype].name;
}

bool lt_dtype_is_float(lt_dtype dtype)
{
    return dtype == LT_F32 || dtype == LT_BF16 || dtype == LT_F16 || dtype == LT_F64;
}

bool lt_dtype_parse(const char *name, lt_dtype *dtype)
{
    for (int i = 0; i < LT_N_DTYPES; i++) {
        if (strcasecmp(name, dtypes[i].name) == 0) {
            *dtype = (lt_dtype)i;
            return true;
        }
    }
    return false;
}

int64_t lt_n_elements(const lt_tensor *tensor)
{
    int64_t n = 1;
    for (int i = 0; i < tensor->rank; i++) n *= tensor->shape[i];
    return n;
}

size_t lt_tensor_bytes(const lt_tensor *tensor)
{
    return (size_t)lt_n_elements(tensor) * lt_dtype_bytes(tensor->dtype);
}

/* Whether any of numbers at .. end-1 has all bits of its exponent set. */
static bool has_not_finite(const void *data, lt_dtype dtype, int64_t at, int64_t end)
{
    unsigned any = 0;
    switch (dtype) {
    case LT_F32:
        for (; at < end; at++) any |= (lt_load_u32(data, at) & 0x7f800000) == 0x7f800000;
        break;
    case LT_BF16:
        for (; at < end; at++) any |= (lt_load_u16(data, at) & 0x7f80) == 0x7f80;
        break;
    case LT_F16:
        for (; at < end; at++) any |= (lt_load_u16(data, at) & 0x7c00) == 0x7c00;
        break;
    case LT_F64:
        for (; at < end; at++) any |= (lt_load_u64(data, at) & 0x7ff0000000000000) == 0x7ff0000000000000;
        break;
    default: break;
    }
    return any;
}

int64_t lt_first_not_finite(const void *data, lt_dtype dtype, int64_t n)
{
    enum { AT_ONCE = 4096 };
    for (int64_t first = 0; first < n; first += AT_ONCE) {
        if (!has_not_finite(data, dtype, first, LT_MIN(first + AT_ONCE, n))) continue;
        while (!has_not_finite(data, dtype, first, first + 1)) first++;
        return first;
    }
    return -1;
}

const char *lt_tensor_describe(const lt_tensor *tensor, char *text, size_t text_bytes)
{
    if (!tensor->data) {
        snprintf(text, text_bytes, "nothing");
        return text;
    }
    size_t at = (size_t)snprintf(text, text_bytes, "%s[", lt_dtype_name(tensor->dtype));
    for (int i = 0; i < tensor->rank && at < text_bytes; i++) {
        at += (size_t)snprintf(text + at, text_bytes - at, i ? ",%lld" : "%lld", (long long)tensor->shape[i]);
    }
    if (at < text_bytes) snprintf(text + at, text_bytes - at, "]");
    return text;
}
