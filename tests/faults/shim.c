/* shim.c - a world that is worse than this one, for LD_PRELOAD.
 *
 *     LT_SHIM_CLOCK=1         the calendar clock jumps by up to some years, back and forth, at every look at it
 *     LT_SHIM_DISK=FOLDER     the disk below FOLDER is full from a certain change on
 *     LT_SHIM_COUNT=FILE      of two 64-bit numbers: changes so far, by all processes; and how many there is room for
 *
 *     LT_SHIM_DEADLY=SUFFIX   a file whose name ends so kills who opens it, with SIGABRT
 *
 * A change is a write to a file, its growth, its sync, or a new name. Those behind the limit fail with ENOSPC, as a whole. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The function that this one stands before. */
#define NEXT(name)                                                                                           \
    static __typeof__(&name) next;                                                                           \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* ---- clock --------------------------------------------------------------------------------------------- */

static time_t jump(void)
{
    static _Atomic unsigned n;
    static int jumps = -1;
    if (jumps < 0) jumps = getenv("LT_SHIM_CLOCK") != NULL;
    if (!jumps) return 0;
    unsigned hash = (atomic_fetch_add(&n, 1) + (unsigned)getpid()) * 2654435761u;
    return (time_t)(hash >> 4) - (1 << 27); /* four years to either side */
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    NEXT(clock_gettime);
    int result = next(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    NEXT(gettimeofday);
    int result = next(now, zone);
    now->tv_sec += jump();
    return result;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

/* ---- files that kill ------------------------------------------------------------------------------------- */

static void beware(const char *path)
{
    const char *suffix = getenv("LT_SHIM_DEADLY");
    size_t n = suffix ? strlen(suffix) : 0, length = strlen(path);
    if (n && length >= n && !strcmp(path + length - n, suffix)) abort();
}

/* ---- disk ---------------------------------------------------------------------------------------------- */

typedef struct count {
    _Atomic uint64_t changes, room;
} count;

static count *shared(void)
{
    static count *counts;
    const char *path = getenv("LT_SHIM_COUNT");
    if (counts || !path) return counts;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (map != MAP_FAILED) counts = map;
    return counts;
}

/* Is this path on the disk that fills? */
static bool is_ours(const char *path)
{
    const char *folder = getenv("LT_SHIM_DISK");
    size_t n = folder ? strlen(folder) : 0;
    return n && !strncmp(path, folder, n) && (path[n] == '/' || !path[n]);
}

static bool is_our_file(int fd)
{
    char link[64], path[PATH_MAX];
    if (!getenv("LT_SHIM_DISK")) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return false;
    path[n] = 0;
    return is_ours(path);
}

/* Count a change; false, with errno, where there is no room for it. */
static bool fits(bool is_change)
{
    count *counts = is_change ? shared() : NULL;
    if (!counts || atomic_fetch_add(&counts->changes, 1) < counts->room) return true;
    errno = ENOSPC;
    return false;
}

#define WRITES(type, name, parameters, ...)                                                                  \
    type name parameters                                                                                     \
    {                                                                                                        \
        NEXT(name);                                                                                          \
        return fits(is_our_file(fd)) ? next(__VA_ARGS__) : -1;                                               \
    }
WRITES(ssize_t, write, (int fd, const void *data, size_t n), fd, data, n)
WRITES(ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at), fd, data, n, at)
WRITES(ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t at), fd, data, n, at)
WRITES(ssize_t, writev, (int fd, const struct iovec *parts, int n), fd, parts, n)
WRITES(ssize_t, pwritev, (int fd, const struct iovec *parts, int n, off_t at), fd, parts, n, at)
WRITES(int, ftruncate, (int fd, off_t size), fd, size)
WRITES(int, ftruncate64, (int fd, off64_t size), fd, size)
WRITES(int, fsync, (int fd), fd)
WRITES(int, fdatasync, (int fd), fd)

static bool makes_ours(const char *path, int flags)
{
    struct stat info;
    return (flags & O_CREAT) && is_ours(path) && lstat(path, &info);
}

#define OPENS(name)                                                                                          \
    int name(const char *path, int flags, ...)                                                               \
    {                                                                                                        \
        va_list more;                                                                                        \
        va_start(more, flags);                                                                               \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                              \
        va_end(more);                                                                                        \
        NEXT(name);                                                                                          \
        beware(path);                                                                                        \
        return fits(makes_ours(path, flags)) ? next(path, flags, mode) : -1;                                 \
    }
OPENS(open)
OPENS(open64)

int mkdir(const char *path, mode_t mode)
{
    struct stat info;
    NEXT(mkdir);
    return fits(is_ours(path) && lstat(path, &info)) ? next(path, mode) : -1;
}

int rename(const char *from, const char *to)
{
    NEXT(rename);
    return fits(is_ours(to)) ? next(from, to) : -1;
}
