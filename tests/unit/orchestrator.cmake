# The orchestrator with stages that only pretend.
add_test(NAME unit_orchestrator COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/orchestrator_test.py)
set_tests_properties(unit_orchestrator PROPERTIES ENVIRONMENT LT_BIN=${CMAKE_BINARY_DIR}/bin TIMEOUT ${LT_TEST_SECONDS})
longtake_unit_test(clips test_clips.c lt_orchestrator)
longtake_unit_test(supervise test_supervise.c lt_orchestrator)
