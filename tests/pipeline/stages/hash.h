/* hash.h - bytes that follow from a number, and a number that follows from bytes. */
#ifndef LT_TESTS_HASH_H
#define LT_TESTS_HASH_H

#include "stages/runtime/stage.h"

uint64_t hash_bytes(uint64_t seed, const void *data, size_t bytes);
/* Of a payload's frames and bytes, wherever they lie in memory. */
uint64_t hash_payload(uint64_t seed, const lt_payload *payload);
void fill_bytes(uint64_t seed, void *data, size_t bytes);

/* Sleep, abort or fail where the options say so. */
lt_status misbehave(int64_t sleep_ms, int64_t crash_unit, int64_t fail_unit, uint64_t unit, lt_err *err);

#endif
