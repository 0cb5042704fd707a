/* hash.c - bytes that follow from a number, and a number that follows from bytes. */
#include "tests/pipeline/stages/hash.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30, x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27, x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t hash_bytes(uint64_t seed, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint64_t hash = mix(seed + bytes), word;
    for (; bytes >= sizeof word; p += sizeof word, bytes -= sizeof word) {
        memcpy(&word, p, sizeof word);
        hash = mix(hash ^ word) + 0x9e3779b97f4a7c15u;
    }
    for (; bytes; bytes--) hash = mix(hash ^ *p++) + 1;
    return hash;
}

uint64_t hash_payload(uint64_t seed, const lt_payload *payload)
{
    uint64_t hash = mix(seed ^ payload->unit);
    for (int i = 0; i < payload->n_spans; i++) {
        const lt_span *span = &payload->spans[i];
        if ((uintptr_t)span->data % LT_PAYLOAD_ALIGNMENT) hash++; /* the contract is broken: let it be seen */
        hash = mix(hash + span->first * 31 + span->count * 7 + (uint64_t)span->dtype);
        hash = hash_bytes(hash, span->data, span->bytes);
    }
    return hash;
}

void fill_bytes(uint64_t seed, void *data, size_t bytes)
{
    unsigned char *p = data;
    for (size_t i = 0; i < bytes; i += sizeof seed) {
        uint64_t word = mix(seed + i * 0x9e3779b97f4a7c15u);
        memcpy(p + i, &word, LT_MIN(sizeof word, bytes - i));
    }
}

lt_status misbehave(int64_t sleep_ms, int64_t crash_unit, int64_t fail_unit, uint64_t unit, lt_err *err)
{
    struct timespec pause = {sleep_ms / 1000, sleep_ms % 1000 * 1000000};
    if (sleep_ms) nanosleep(&pause, NULL);
    if (crash_unit >= 0 && unit == (uint64_t)crash_unit) abort();
    if (fail_unit >= 0 && unit == (uint64_t)fail_unit)
        return lt_fail(err, LT_E_FORMAT, "unit %llu is as bad as it was told to be",
                       (unsigned long long)unit);
    return LT_OK;
}
