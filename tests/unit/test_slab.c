/* test_slab.c - slots change hands one at a time, whoever dies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stages/runtime/slab.h"

static lt_err err;

static void make(lt_slab *slab, uint64_t slot_bytes, uint32_t n_slots)
{
    int fd;
    assert_int_equal(lt_slab_create(slot_bytes, n_slots, &fd, &err), LT_OK);
    assert_int_equal(lt_slab_map(slab, fd, &err), LT_OK);
    close(fd);
}

static void a_slot_goes_round(void **state)
{
    lt_slab slab;
    make(&slab, 5000, 3);
    lt_slab_holder producer = {lt_slab_owner("read", 0), 1}, consumer = {lt_slab_owner("read.a>b.c", 0), 1};
    uint32_t slots[3], none;
    assert_int_equal(slab.slot_bytes, 8192);
    for (int i = 0; i < 3; i++) {
        assert_true(lt_slab_acquire(&slab, producer, &slots[i]));
        memset(lt_slab_memory(&slab, slots[i]), i + 1, slab.slot_bytes);
        assert_int_equal((uintptr_t)lt_slab_memory(&slab, slots[i]) % LT_SLAB_ALIGNMENT, 0);
    }
    assert_false(lt_slab_acquire(&slab, producer, &none));
    for (int i = 0; i < 3; i++) assert_int_equal(((char *)lt_slab_memory(&slab, slots[i]))[8191], i + 1);
    assert_false(lt_slab_release(&slab, slots[1], consumer));
    assert_true(lt_slab_give(&slab, slots[1], producer, consumer));
    assert_false(lt_slab_release(&slab, slots[1], producer));
    assert_true(lt_slab_holds(&slab, slots[1], consumer));
    assert_true(lt_slab_release(&slab, slots[1], consumer));
    assert_int_equal(lt_slab_n_held(&slab), 2);
    assert_false(lt_slab_release(&slab, 99, consumer));
    assert_true(lt_slab_acquire(&slab, producer, &none));
    assert_int_equal(none, slots[1]);
    lt_slab_unmap(&slab);
}

static void only_the_dead_incarnation_is_reclaimed(void **state)
{
    lt_slab slab;
    make(&slab, 4096, 4);
    lt_slab_holder old = {lt_slab_owner("read", 1), 1}, young = {old.owner, 2},
                   other = {lt_slab_owner("read", 2), 1};
    uint32_t a, b, c;
    assert_int_not_equal(old.owner, other.owner);
    assert_true(lt_slab_acquire(&slab, old, &a));
    assert_true(lt_slab_acquire(&slab, young, &b));
    assert_true(lt_slab_acquire(&slab, other, &c));
    assert_int_equal(lt_slab_reclaim(&slab, old), 1);
    assert_true(lt_slab_holds(&slab, b, young));
    assert_true(lt_slab_holds(&slab, c, other));
    assert_int_equal(lt_slab_n_held(&slab), 2);
    lt_slab_unmap(&slab);
}

static void what_is_not_a_slab_is_refused(void **state)
{
    lt_slab slab;
    int fd;
    assert_int_equal(lt_slab_create(0, 3, &fd, &err), LT_E_INVALID);
    assert_int_equal(lt_slab_create(UINT64_MAX, 3, &fd, &err), LT_E_INVALID);
    assert_int_equal(lt_slab_create(4096, 0, &fd, &err), LT_E_INVALID);
    assert_int_not_equal(lt_slab_create(UINT64_C(1) << 46, 60000, &fd, &err), LT_OK);
    fd = memfd_create("other", MFD_ALLOW_SEALING);
    assert_int_equal(lt_slab_map(&slab, fd, &err), LT_E_FORMAT);
    close(fd);
    assert_int_equal(lt_slab_create(4096, 2, &fd, &err), LT_OK);
    assert_int_not_equal(ftruncate(fd, 100), 0);
    close(fd);
}

/* Threads pass slots on as fast as they can: a slot that two hold at once would be seen. */
typedef struct racer {
    const lt_slab *slab;
    lt_slab_holder me;
    atomic_int *holders;
    atomic_bool *failed;
} racer;

static void *race(void *data)
{
    racer *r = data;
    for (int i = 0; i < 20000; i++) {
        uint32_t slot;
        if (!lt_slab_acquire(r->slab, r->me, &slot)) continue;
        if (atomic_fetch_add(&r->holders[slot], 1)) atomic_store(r->failed, true);
        atomic_fetch_sub(&r->holders[slot], 1);
        if (!lt_slab_release(r->slab, slot, r->me)) atomic_store(r->failed, true);
    }
    return NULL;
}

static void a_slot_has_one_holder(void **state)
{
    lt_slab slab;
    make(&slab, 4096, 2);
    atomic_int holders[2] = {0};
    atomic_bool failed = false;
    pthread_t threads[4];
    racer racers[4];
    for (uint32_t i = 0; i < 4; i++) {
        racers[i] = (racer){&slab, {lt_slab_owner("racer", i), 1}, holders, &failed};
        assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_false(failed);
    assert_int_equal(lt_slab_n_held(&slab), 0);
    lt_slab_unmap(&slab);
}

static void a_slab_outlives_its_holder(void **state)
{
    lt_slab slab;
    make(&slab, 4096, 2);
    lt_slab_holder child = {lt_slab_owner("child", 0), 7};
    pid_t pid = fork();
    if (pid == 0) {
        uint32_t slot;
        lt_slab_acquire(&slab, child, &slot);
        strcpy(lt_slab_memory(&slab, slot), "still here");
        raise(SIGKILL);
    }
    waitpid(pid, NULL, 0);
    assert_true(lt_slab_holds(&slab, 0, child));
    assert_string_equal(lt_slab_memory(&slab, 0), "still here");
    assert_int_equal(lt_slab_reclaim(&slab, child), 1);
    lt_slab_unmap(&slab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slot_goes_round),
        cmocka_unit_test(only_the_dead_incarnation_is_reclaimed),
        cmocka_unit_test(what_is_not_a_slab_is_refused),
        cmocka_unit_test(a_slot_has_one_holder),
        cmocka_unit_test(a_slab_outlives_its_holder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
