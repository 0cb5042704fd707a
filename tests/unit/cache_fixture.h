/* cache_fixture.h - a cache in a folder of its own for each test, and how it comes to harm. */
#ifndef LT_TESTS_CACHE_FIXTURE_H
#define LT_TESTS_CACHE_FIXTURE_H

#include "tests/unit/cache_sample.h"

typedef struct fixture {
    char folder[512];
    lt_cache *cache;
} fixture;

static inline int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    lt_err err;
    strcpy(f->folder, temporary_folder(NULL));
    if (lt_cache_open(&f->cache, f->folder, true, 0, &err)) fail_msg("%s", err.text);
    *state = f;
    return 0;
}

static inline int tear_down(void **state)
{
    fixture *f = *state;
    lt_cache_close(f->cache);
    remove_folder(f->folder);
    free(f);
    return 0;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

/* Change a value behind the cache's back: NULL bytes delete it. */
static inline void tamper(lt_cache *cache, const char *key, const void *bytes, size_t n_bytes)
{
    lt_err err;
    MDB_txn *txn;
    MUST(lt_cache_begin(cache, true, &txn, &err));
    MDB_val k = lt_cache_val(key, strlen(key)), v = lt_cache_val(bytes, n_bytes);
    assert_int_equal(bytes ? mdb_put(txn, cache->dbi, &k, &v, 0) : mdb_del(txn, cache->dbi, &k, NULL), 0);
    MUST(lt_cache_commit(cache, txn, &err));
}

static inline void flip_bit(lt_cache *cache, const char *key)
{
    lt_err err;
    MDB_txn *txn;
    MDB_val value;
    MUST(lt_cache_begin(cache, false, &txn, &err));
    MUST(lt_cache_get(cache, txn, lt_cache_val(key, strlen(key)), &value, &err));
    char *copy = malloc(value.mv_size);
    memcpy(copy, value.mv_data, value.mv_size);
    copy[value.mv_size - 5] ^= 16;
    lt_cache_abort(cache, txn);
    tamper(cache, key, copy, value.mv_size);
    free(copy);
}

#endif
