/* fuzz_segments.c - the segments.json of a run that is to continue. Three files lie there, of 4 bytes each. */
#include "tests/fuzz/fuzz.h"

#include <sys/stat.h>

#include "stages/mux/segments.h"

static void make_files(void)
{
    static const char *const names[] = {"segments/00000.mp4", "segments/00001.mp4", "segments/00002.mp4"};
    mkdir(fuzz_path("segments"), 0777);
    for (size_t i = 0; i < LT_COUNT(names); i++) fuzz_write(fuzz_path(names[i]), (const uint8_t *)"film", 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    lt_err err;
    lt_segment_list list;
    lt_log_init("fuzz", LT_LOG_ERROR);
    make_files();
    fuzz_write(fuzz_path("segments.json"), data, n_bytes);
    lt_status status = lt_segment_list_open(&list, fuzz_folder(), 0, "mp4",
                                            "00112233445566778899aabbccddeeff", 1, 90000, &err);
    if (status) {
        FUZZ_REFUSED(status, err);
        return 0;
    }
    int64_t frames = 0;
    FUZZ_MUST(list.n >= 0 && list.n <= 3);
    for (int64_t i = 0; i < list.n; i++) {
        const lt_segment_entry *entry = &list.entries[i];
        FUZZ_MUST(entry->first == frames && entry->frames > 0 && entry->bytes == 4 && entry->reorder >= 0);
        FUZZ_MUST(entry->frames <= INT32_MAX);
        frames += entry->frames;
    }
    FUZZ_MUST(frames == lt_segment_list_frames(&list));
    lt_segment_list_finish(&list);
    return 0;
}
