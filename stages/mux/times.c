/* times.c - the file of a live clip's timestamps. */
#include "stages/mux/times.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

lt_status lt_times_open(lt_times *times, const char *run_folder, uint32_t clip, lt_err *err)
{
    char path[4200], number[16] = "";
    if (clip) snprintf(number, sizeof number, "-%u", clip);
    snprintf(path, sizeof path, "%s/times%s.i64", run_folder, number);
    *times = (lt_times){.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666)};
    return times->fd < 0 ? lt_fail_errno(err, errno, "%s", path) : LT_OK;
}

void lt_times_close(lt_times *times)
{
    if (times->pts) munmap((void *)times->pts, times->mapped);
    if (times->fd > 0) close(times->fd);
    *times = (lt_times){.fd = -1};
}

lt_status lt_times_write(lt_times *times, uint64_t first, uint64_t count, const int64_t *pts, lt_err *err)
{
    size_t bytes = (size_t)count * sizeof *pts;
    ssize_t n = pwrite(times->fd, pts, bytes, (off_t)(first * sizeof *pts));
    if (n == (ssize_t)bytes) return LT_OK;
    return n < 0 ? lt_fail_errno(err, errno, "writing timestamps into the run folder")
                 : lt_fail(err, LT_E_NO_SPACE, "writing timestamps into the run folder: the disk is full");
}

lt_status lt_times_read(const lt_times *times, int64_t frame, int64_t *pts, lt_err *err)
{
    if (pread(times->fd, pts, sizeof *pts, (off_t)frame * (off_t)sizeof *pts) == sizeof *pts) return LT_OK;
    return lt_fail(err, LT_E_FORMAT, "the run folder has no timestamp of frame %lld", (long long)frame);
}

lt_status lt_times_sync(const lt_times *times, lt_err *err)
{
    return fdatasync(times->fd) ? lt_fail_errno(err, errno, "timestamps in the run folder") : LT_OK;
}

lt_status lt_times_map(lt_times *times, int64_t n_frames, lt_err *err)
{
    struct stat info;
    size_t bytes = (size_t)n_frames * sizeof *times->pts;
    if (n_frames < 1 || fstat(times->fd, &info) || (size_t)info.st_size < bytes)
        return lt_fail(err, LT_E_FORMAT, "the run folder does not have the timestamps of %lld frames",
                       (long long)n_frames);
    void *memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, times->fd, 0);
    if (memory == MAP_FAILED) return lt_fail_errno(err, errno, "timestamps in the run folder");
    times->pts = memory;
    times->mapped = bytes;
    for (int64_t i = 1; i < n_frames; i++)
        if (times->pts[i] <= times->pts[i - 1])
            return lt_fail(err, LT_E_FORMAT, "timestamps in the run folder do not rise at frame %lld",
                           (long long)i);
    return LT_OK;
}
