/* digest.c - a short name for bytes. */
#include "stages/digest/digest.h"
#include "core/xxh3.h"

#include <stdio.h>

void lt_digest(const void *bytes, size_t n_bytes, char hex[33])
{
    XXH128_hash_t hash = XXH3_128bits(bytes, n_bytes);
    snprintf(hex, 33, "%016llx%016llx", (unsigned long long)hash.high64, (unsigned long long)hash.low64);
}
