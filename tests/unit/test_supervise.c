/* When a run stands still for a fault of ours, and when not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "orchestrator/supervise.h"

static void a_stage_that_is_down_has_work(void **state)
{
    const int64_t second = 1000000000;
    lt_run_plan plan = {0};
    lt_replica replicas[3] = {{.state = LT_REPLICA_READY, .pid = 1, .is_idle = true},
                              {.state = LT_REPLICA_READY, .pid = 2, .is_idle = true},
                              {.state = LT_REPLICA_READY, .pid = 3, .is_done = true}};
    lt_run run = {.plan = &plan, .replicas = replicas, .n_replicas = 3, .moved_ns = second};
    assert_true(lt_is_stalled(&run, 400 * second));
    assert_false(lt_is_stalled(&run, 200 * second));
    replicas[0] = (lt_replica){.state = LT_REPLICA_DOWN};
    assert_false(lt_is_stalled(&run, 400 * second)); /* it waits to be started again */
    replicas[0] = (lt_replica){.state = LT_REPLICA_STARTING, .pid = 4};
    assert_false(lt_is_stalled(&run, 400 * second));
    replicas[0] = (lt_replica){.state = LT_REPLICA_ENDED};
    assert_true(lt_is_stalled(&run, 400 * second));
    plan.is_live = true;
    assert_false(lt_is_stalled(&run, 400 * second));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_stage_that_is_down_has_work)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
