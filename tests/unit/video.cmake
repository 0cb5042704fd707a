# decode, mux and what they share; the clips are made by the ffmpeg program, without which the tests are skipped.
if(TARGET lt_decode AND TARGET lt_mux)
    add_library(lt_video_harness STATIC video_harness.c video_clips.c)
    target_link_libraries(lt_video_harness PUBLIC lt_decode lt_mux)
    longtake_unit_test(video_reader video_reader_test.c lt_video_harness)
    longtake_unit_test(video_mux video_mux_test.c lt_video_harness)
    longtake_unit_test(resample resample_test.c lt_video)
    target_compile_definitions(unit_resample PRIVATE LT_FIXTURES="${CMAKE_SOURCE_DIR}/tests/fixtures")
endif()
