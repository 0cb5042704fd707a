/* fuzz_cache_value.c - a chunk's value as it may lie in a cache that somebody else wrote. */
#include "tests/fuzz/fuzz.h"

#include "cache/internal.h"

static volatile int n_finite; /* so that every number is read */

/* What a reader of the cache relies on: [T,C,h,w] of floats, aligned, inside the value. */
static lt_status use(void *user, const lt_cache_chunk *chunk, lt_err *err)
{
    const lt_tensor *tensors[] = {&chunk->latent, &chunk->logvar};
    FUZZ_MUST(chunk->latent.data && chunk->first == 8 && chunk->value_bytes == *(size_t *)user);
    for (size_t i = 0; i < LT_COUNT(tensors) && tensors[i]->data; i++) {
        FUZZ_MUST(tensors[i]->rank == 4 && lt_dtype_is_float(tensors[i]->dtype));
        FUZZ_MUST(lt_tensor_bytes(tensors[i]) <= chunk->value_bytes);
        FUZZ_MUST((uintptr_t)tensors[i]->data % lt_dtype_bytes(tensors[i]->dtype) == 0);
        n_finite += lt_cache_is_finite(tensors[i]);
    }
    return LT_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    lt_err err;
    MDB_val value = lt_cache_val((const char *)data, n_bytes);
    lt_status status = lt_cache_unpack(&value, "latent/clip/00/000000000008", 8, use, &n_bytes, &err);
    if (status) FUZZ_REFUSED(status, err);
    return 0;
}
