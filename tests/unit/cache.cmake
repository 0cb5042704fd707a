pkg_check_modules(LMDB REQUIRED IMPORTED_TARGET lmdb)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
longtake_unit_test(cache test_cache.c lt_cache PkgConfig::LMDB PkgConfig::JANSSON)
longtake_unit_test(cache_tool test_cache_tool.c lt_cache PkgConfig::LMDB PkgConfig::JANSSON)
target_compile_definitions(unit_cache_tool PRIVATE LT_LATENTS="$<TARGET_FILE:latents>")
add_dependencies(unit_cache_tool latents)
longtake_unit_test(cache_faults test_cache_faults.c lt_cache PkgConfig::LMDB PkgConfig::JANSSON)

add_test(NAME unit_cache_python
    COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/cache_python.py $<TARGET_FILE:unit_cache>)
set_tests_properties(unit_cache_python PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120)

if(TARGET lt_vae_encode_stage AND TARGET lt_vae_decode_stage)
    longtake_unit_test(cache_stages "test_cache_stages.c;cache_troupe.c" lt_vae_encode_stage lt_vae_decode_stage
        models_support m)
    target_compile_definitions(unit_cache_stages PRIVATE LT_MODEL="${CMAKE_SOURCE_DIR}/examples/tiny-svd-vae")
    # Spinning threads of several processes on few cores cost more than the work.
    set_tests_properties(unit_cache_stages PROPERTIES ENVIRONMENT OMP_WAIT_POLICY=passive)
    longtake_unit_test(vae_encode_batch "test_vae_encode_batch.c;cache_troupe.c" lt_vae_encode_stage models_support)
    target_compile_definitions(unit_vae_encode_batch PRIVATE LT_MODEL="${CMAKE_SOURCE_DIR}/examples/tiny-svd-vae")
    add_dependencies(unit_vae_encode_batch longtake_far)
    set_tests_properties(unit_vae_encode_batch PROPERTIES
        ENVIRONMENT "OMP_WAIT_POLICY=passive;LT_BACKEND_PATH=${CMAKE_BINARY_DIR}/lib/tests")
endif()
