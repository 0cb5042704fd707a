/* sockets.c - the folder of a run's ipc sockets. Named longtake-PID-XXXXXX, so that it is known whose it was. */
#include "orchestrator/sockets.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A socket's name has 107 characters, and ours add up to 30. */
enum { MAX_FOLDER = 76 };

void lt_sockets_remove(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        if (fd >= 0) close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.') unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    rmdir(path);
}

/* Folders of this user whose process is gone. */
static void remove_leftovers(const char *base)
{
    DIR *dir = opendir(base);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        int pid = 0;
        struct stat info;
        char path[512];
        if (sscanf(entry->d_name, "longtake-%d-", &pid) != 1 || pid <= 0 || !kill(pid, 0) || errno != ESRCH)
            continue;
        if (fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) || !S_ISDIR(info.st_mode) ||
            info.st_uid != getuid() || (info.st_mode & 077))
            continue;
        if (snprintf(path, sizeof path, "%s/%s", base, entry->d_name) < (int)sizeof path)
            lt_sockets_remove(path);
    }
    if (dir) closedir(dir);
}

lt_status lt_sockets_make(char *path, size_t room, lt_err *err)
{
    const char *choices[] = {getenv("XDG_RUNTIME_DIR"), getenv("TMPDIR"), "/tmp"};
    for (size_t i = 0; i < LT_COUNT(choices); i++) {
        const char *base = choices[i];
        if (!base || base[0] != '/' || access(base, W_OK | X_OK)) continue;
        int n = snprintf(path, room, "%s/longtake-%d-XXXXXX", base, (int)getpid());
        if (n < 0 || (size_t)n >= room || n > MAX_FOLDER) continue; /* too long for a socket's name */
        remove_leftovers(base);
        if (mkdtemp(path)) return LT_OK;
    }
    path[0] = 0;
    return lt_fail(err, LT_E_IO, "cannot make a folder for sockets below $XDG_RUNTIME_DIR, $TMPDIR or /tmp");
}
