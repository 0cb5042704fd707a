/* sockets.c - the folder of a run's ipc sockets. Named longtake-PID-XXXXXX, for people; who holds its
 * lock is what counts. */
#include "orchestrator/sockets.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* A socket's name has 107 characters, and ours add up to 30. */
enum { MAX_FOLDER = 76 };

void lt_sockets_remove(const char *path, int lock)
{
    int fd = openat(lock, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a list closes its descriptor */
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir && fd >= 0) close(fd);
    struct stat info;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (!fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) && S_ISSOCK(info.st_mode))
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir) closedir(dir);
    rmdir(path);
    close(lock);
}

static int open_folder(const char *path)
{
    return open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Folders of this user that nobody holds any more. A build without locks held none: its processes are asked for by their number. */
static void remove_leftovers(const char *base)
{
    DIR *dir = opendir(base);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        int pid = 0;
        struct stat info;
        char path[512];
        if (sscanf(entry->d_name, "longtake-%d-", &pid) != 1 || pid <= 0 || !kill(pid, 0)) continue;
        if (snprintf(path, sizeof path, "%s/%s", base, entry->d_name) >= (int)sizeof path) continue;
        int lock = open_folder(path);
        bool is_ours = lock >= 0 && !fstat(lock, &info) && info.st_uid == getuid() && !(info.st_mode & 077);
        if (is_ours && !flock(lock, LOCK_EX | LOCK_NB))
            lt_sockets_remove(path, lock);
        else if (lock >= 0)
            close(lock);
    }
    if (dir) closedir(dir);
}

/* Make and lock one. AGAIN: it was taken for a leftover before it was locked. */
static lt_status try_make(char *path, int *lock)
{
    struct stat made, there;
    if (!mkdtemp(path)) return LT_E_IO;
    *lock = open_folder(path);
    if (*lock < 0) return errno == ENOENT ? LT_AGAIN : LT_E_IO;
    lt_status status = flock(*lock, LOCK_EX) ? LT_E_IO : LT_OK;
    if (!status && (fstat(*lock, &made) || stat(path, &there) || made.st_ino != there.st_ino))
        status = LT_AGAIN;
    if (status) close(*lock);
    return status;
}

lt_status lt_sockets_make(char *path, size_t room, int *lock, lt_err *err)
{
    const char *choices[] = {getenv("XDG_RUNTIME_DIR"), getenv("TMPDIR"), "/tmp"};
    for (size_t i = 0; i < LT_COUNT(choices); i++) {
        const char *base = choices[i];
        lt_status status = LT_AGAIN;
        if (!base || base[0] != '/' || access(base, W_OK | X_OK)) continue;
        remove_leftovers(base);
        while (status == LT_AGAIN) {
            int n = snprintf(path, room, "%s/longtake-%d-XXXXXX", base, (int)getpid());
            bool fits = n > 0 && (size_t)n < room && n <= MAX_FOLDER;
            status = fits ? try_make(path, lock) : LT_E_IO;
        }
        if (!status) return LT_OK;
    }
    path[0] = 0;
    return lt_fail(err, LT_E_IO, "cannot make a folder for sockets below $XDG_RUNTIME_DIR, $TMPDIR or /tmp");
}
