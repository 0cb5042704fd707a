longtake_unit_test(denoise test_denoise.c lt_denoise_stage models_support m)
# Evaluations are counted, and made to fail.
target_link_options(unit_denoise PRIVATE -Wl,--wrap=lt_denoise)
set_tests_properties(unit_denoise PROPERTIES ENVIRONMENT OMP_WAIT_POLICY=passive)
