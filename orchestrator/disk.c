/* disk.c - room on disks: what a run needs and what there is. */
#include "orchestrator/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "orchestrator/check.h"
#include "orchestrator/format.h"

/* The nearest folder above `path` (or itself) that is there. */
static void existing_folder(const char *path, char *folder, size_t room)
{
    struct stat info;
    snprintf(folder, room, "%s", path);
    while (stat(folder, &info) || !S_ISDIR(info.st_mode)) {
        char *slash = strrchr(folder, '/');
        if (!slash || slash == folder) {
            snprintf(folder, room, "/");
            return;
        }
        *slash = 0;
    }
}

static int add_need(lt_disk *disks, int n, const char *path, uint64_t bytes)
{
    char folder[4096];
    struct stat info;
    struct statvfs space;
    existing_folder(path, folder, sizeof folder);
    if (stat(folder, &info) || statvfs(folder, &space)) return n;
    int at = 0;
    while (at < n && disks[at].device != (uint64_t)info.st_dev) at++;
    if (at == LT_MAX_DISKS) return n;
    if (at == n)
        disks[n++] = (lt_disk){.path = path,
                               .device = (uint64_t)info.st_dev,
                               .available = (uint64_t)space.f_bavail * space.f_frsize};
    disks[at].needed += bytes;
    return n;
}

int lt_disk_needs(const lt_run_plan *plan, const char *run_folder, lt_disk disks[LT_MAX_DISKS])
{
    const lt_graph *graph = plan->graph;
    int n = 0;
    for (int i = 0; i < graph->n_stages; i++) {
        const char *output = lt_stage_output(&graph->stages[i]);
        const char *path = output ? output : graph->cache ? graph->cache : run_folder;
        uint64_t bytes = plan->stages[i].reply->disk_bytes;
        if (output || bytes) n = add_need(disks, n, path, bytes);
    }
    return n;
}

static uint64_t used_at(int folder, const char *name, int depth)
{
    struct stat info;
    if (fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW)) return 0;
    uint64_t bytes = (uint64_t)info.st_blocks * 512;
    if (!S_ISDIR(info.st_mode) || depth > 16) return bytes;
    int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        if (fd >= 0) close(fd);
        return bytes;
    }
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            bytes += used_at(dirfd(dir), entry->d_name, depth + 1);
    closedir(dir);
    return bytes;
}

uint64_t lt_disk_used(const char *path)
{
    return used_at(AT_FDCWD, path, 0);
}

lt_status lt_disk_check(const lt_disk *disks, int n_disks, uint64_t spent, lt_err *err)
{
    for (int i = 0; i < n_disks; i++) {
        uint64_t needed = disks[i].needed > spent ? disks[i].needed - spent : 0;
        if (needed <= disks[i].available) continue;
        return lt_fail(err, LT_E_NO_SPACE,
                       "not enough disk space at %s: about %s needed, %s free, %s missing", disks[i].path,
                       lt_format_bytes((double)needed).text, lt_format_bytes((double)disks[i].available).text,
                       lt_format_bytes((double)(needed - disks[i].available)).text);
    }
    return LT_OK;
}
