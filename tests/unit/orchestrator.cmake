# The orchestrator with stages that only pretend, and with ones of the real runtime that do nothing.
foreach(name graphs runs kills)
    add_test(NAME unit_orchestrator_${name} COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/orchestrator_${name}_test.py)
    set_tests_properties(unit_orchestrator_${name} PROPERTIES ENVIRONMENT LT_BIN=${CMAKE_BINARY_DIR}/bin TIMEOUT ${LT_TEST_SECONDS})
endforeach()
longtake_unit_test(clips test_clips.c lt_orchestrator)
longtake_unit_test(supervise test_supervise.c lt_orchestrator)
