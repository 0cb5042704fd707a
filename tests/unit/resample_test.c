/* resample_test.c - scaling as Pillow does it, against Pillow (tests/fixtures/make_resample_fixture.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "stages/video/video.h"

static const lt_size sizes[] = {{32, 24}, {64, 96}, {16, 16}, {61, 20}, {24, 43}, {200, 40}};

/* The largest difference of the visible picture and `expected`. */
static int worst(const lt_video_info *info, const uint8_t *rgb, const uint8_t *expected)
{
    int largest = 0;
    for (int y = 0; y < info->visible_height; y++)
        for (int x = 0; x < 3 * info->visible_width; x++) {
            int difference = abs(rgb[(size_t)y * (size_t)info->width * 3 + (size_t)x] -
                                 expected[(size_t)y * (size_t)info->visible_width * 3 + (size_t)x]);
            largest = LT_MAX(largest, difference);
        }
    return largest;
}

static void is_pillows(void **state)
{
    FILE *file = fopen(LT_FIXTURES "/resample/expected.bin", "rb");
    assert_non_null(file);
    for (size_t i = 0; i < LT_COUNT(sizes); i++) {
        lt_err err = {0};
        lt_video *video = NULL;
        lt_video_request request = {
            .input = LT_FIXTURES "/resample/picture.png", .size = sizes[i], .exact = true};
        if (lt_video_open(&video, &request, &err)) fail_msg("%s", err.text);
        const lt_video_info *info = lt_video_get_info(video);
        assert_int_equal(info->n_frames, 1);
        assert_int_equal(info->visible_width, sizes[i].width);
        assert_int_equal(info->visible_height, sizes[i].height);
        size_t bytes = (size_t)sizes[i].width * (size_t)sizes[i].height * 3;
        uint8_t *rgb = malloc(lt_video_frame_bytes(info)), *expected = malloc(bytes);
        assert_int_equal(fread(expected, 1, bytes, file), bytes);
        assert_int_equal(lt_video_read(video, 0, rgb, &err), LT_OK);
        int off = worst(info, rgb, expected);
        print_message("%dx%d: at most %d/255 off\n", sizes[i].width, sizes[i].height, off);
        assert_in_range(off, 0, 1);
        free(rgb);
        free(expected);
        lt_video_close(video);
    }
    fclose(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(is_pillows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
