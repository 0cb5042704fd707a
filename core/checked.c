/* checked.c - arithmetic on sizes that says when it overflows. */
#include "core/core.h"

bool lt_mul_size(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

bool lt_add_size(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out = sum;
    return true;
}

bool lt_product_i64(const int64_t *values, int n, int64_t *out)
{
    int64_t product = 1;
    bool zero = false, overflow = false;
    for (int i = 0; i < n; i++) {
        if (values[i] < 0) return false;
        if (values[i] == 0) zero = true;
        if (!zero && __builtin_mul_overflow(product, values[i], &product)) overflow = true;
    }
    if (overflow && !zero) return false;
    *out = zero ? 0 : product;
    return true;
}
