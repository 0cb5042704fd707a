add_test(NAME unit_to_safetensors COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/to_safetensors_test.py)
set_tests_properties(unit_to_safetensors PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120)
add_test(NAME unit_gpu_table COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/gpu_table_test.py)
