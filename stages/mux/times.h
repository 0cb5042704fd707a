/* times.h - timestamps of a live clip, which come with its frames: in a file of the run folder, so that neither memory
 * nor a kill limits them. */
#ifndef LT_MUX_TIMES_H
#define LT_MUX_TIMES_H

#include "core/core.h"

/* Whole number i of the file is frame i's timestamp, in the clip's time base. */
typedef struct lt_times {
    int fd;
    const int64_t *pts; /* mapped by lt_times_map */
    size_t mapped;
} lt_times;

/* `<run_folder>/times[-clip].i64`, which is made where it is not there. */
lt_status lt_times_open(lt_times *times, const char *run_folder, uint32_t clip, lt_err *err);
void lt_times_close(lt_times *times);
/* Write those of frames first .. first+count-1; the same again does no harm. */
lt_status lt_times_write(lt_times *times, uint64_t first, uint64_t count, const int64_t *pts, lt_err *err);
lt_status lt_times_read(const lt_times *times, int64_t frame, int64_t *pts, lt_err *err);
lt_status lt_times_sync(const lt_times *times, lt_err *err);
/* Map those of the first n_frames into times->pts, until lt_times_close. E_FORMAT: they are not there, or do not rise. */
lt_status lt_times_map(lt_times *times, int64_t n_frames, lt_err *err);

#endif
