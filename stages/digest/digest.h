/* digest.h - what digests of streams, models and clips are made of. */
#ifndef LT_STAGES_DIGEST_H
#define LT_STAGES_DIGEST_H

#include <stddef.h>

/* XXH3-128 of n_bytes bytes as 32 hex digits, the high half first, and a final 0. */
void lt_digest(const void *bytes, size_t n_bytes, char hex[33]);

#endif
