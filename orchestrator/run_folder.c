/* run_folder.c - the folder beside an output: its place, its lock, its files. */
#include "orchestrator/run_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "orchestrator/check.h"

enum { DYING_SECONDS = 10 };

/* ---- place ------------------------------------------------------------------------------------------- */

/* Which of the folders this is, by whatever name; -1: another one. */
static int find_path(const lt_run_folder *folder, const char *path, lt_arena *arena)
{
    const char *real = path ? lt_path_real(arena, path) : NULL;
    for (int i = 0; i < folder->n_paths && real; i++) {
        const char *other = lt_path_real(arena, folder->paths[i]);
        if (other && !strcmp(other, real)) return i;
    }
    return -1;
}

static bool add_path(lt_run_folder *folder, const char *path)
{
    folder->locks[folder->n_paths] = -1;
    folder->paths[folder->n_paths] = path;
    return folder->paths[folder->n_paths++] != NULL;
}

const char *lt_output_pattern(const char *output)
{
    const char *clip = strstr(output, "{clip}"), *at = strchr(output, '%');
    if (clip || !at) return clip;
    size_t digits = strspn(at + 1, "0123456789");
    return at[1 + digits] == 'd' ? at : NULL;
}

/* Of "films/{clip}.mp4" it is "films": clips of one run share a folder; so do the pictures of "frames/%06d.png". */
static int stem_bytes(const char *output)
{
    const char *clip = lt_output_pattern(output);
    if (!clip) return (int)strlen(output);
    while (clip > output + 1 && strchr("/-_. ", clip[-1])) clip--;
    return (int)(clip - output);
}

/* Whether it is the folder where relative paths start, of a graph file or of --set. */
static bool is_starting_folder(const lt_graph *graph, const char *path, size_t bytes)
{
    bool is_base = strlen(graph->base) == bytes && !strncmp(path, graph->base, bytes),
         is_here = strlen(graph->here) == bytes && !strncmp(path, graph->here, bytes);
    return is_base || is_here;
}

/* The run folder of an output. What stands beside the folder that one works in is not one's own, so that of "%06d.png" is kept in
 * it; by whatever name the output is given then, one that is there already is the one. */
static const char *path_of_output(const lt_graph *graph, const char *output, lt_arena *arena)
{
    int n = stem_bytes(output);
    const char *beside = lt_arena_printf(arena, "%.*s.longtake", n, output);
    if (!beside || output[n] != '/') return beside;
    const char *inside = lt_arena_printf(arena, "%.*s/%s.longtake", n, output,
                                         *lt_output_pattern(output) == '%' ? "pictures" : "clips");
    if (!inside || !access(inside, F_OK)) return inside;
    return is_starting_folder(graph, output, (size_t)n) && access(beside, F_OK) ? inside : beside;
}

static lt_status find_paths(const lt_graph *graph, lt_arena *arena, lt_run_folder *folder, lt_err *err)
{
    bool ok = true;
    int first = 0;
    for (int i = 0; i < graph->n_stages && ok; i++) {
        const char *output = lt_stage_output(&graph->stages[i]);
        if (!output) continue;
        folder->outputs[folder->n_outputs++] = output;
        const char *path = path_of_output(graph, output, arena);
        if (find_path(folder, path, arena) >= 0)
            path = lt_arena_printf(arena, "%.*s.%s.longtake", (int)(strlen(path) - strlen(".longtake")), path,
                                   graph->stages[i].name);
        ok = add_path(folder, path);
    }
    if (graph->run) {
        /* It may say what an output's folder is called anyway: that is one folder, and one lock. */
        const char *path = lt_arena_printf(arena, "%s.longtake", graph->run);
        first = find_path(folder, path, arena);
        if (first < 0) {
            first = folder->n_paths;
            ok = ok && add_path(folder, path);
        }
    } else if (!folder->n_paths && graph->cache) {
        ok = add_path(folder, lt_arena_printf(arena, "%s.longtake", graph->cache));
    } else if (!folder->n_paths) {
        const char *slash = strrchr(graph->file, '/'), *name = slash ? slash + 1 : graph->file;
        size_t n = strlen(name);
        if (n > 5 && !strcmp(name + n - 5, ".toml")) n -= 5;
        ok = add_path(folder, lt_arena_printf(arena, "%s/%.*s.longtake", graph->base, (int)n, name));
    }
    folder->path = folder->paths[first];
    return ok ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "no memory");
}

/* Whether a real path lies in a folder; *inside is what is left of it, NULL: it is the folder itself. */
static bool lies_in(const char *path, const char *folder, lt_arena *arena, const char **inside)
{
    const char *place = lt_path_real(arena, folder);
    size_t n = place ? strlen(place) : 0;
    if (!n || strncmp(path, place, n) || (path[n] && path[n] != '/')) return false;
    *inside = path[n] ? path + n + 1 : NULL;
    return true;
}

lt_status lt_run_folder_check(const lt_graph *graph, lt_mistakes *mistakes, lt_arena *arena, lt_err *err)
{
    lt_run_folder folder = {0};
    lt_status status = find_paths(graph, arena, &folder, err);
    const char *inside, *cache = graph->cache ? lt_path_real(arena, graph->cache) : NULL;
    for (int i = 0; i < folder.n_paths && cache && !status; i++)
        if (lies_in(cache, folder.paths[i], arena, &inside))
            lt_mistake_add(
                mistakes, graph->cache_where,
                "the cache lies in the run folder %s, which is emptied when a run starts over: keep it "
                "in another place",
                folder.paths[i]);
    return status;
}

/* What lies in a run folder is removed when the run starts over; what the run reads must not be. */
static void find_kept(const lt_graph_stage *stage, lt_arena *arena, lt_run_folder *folder)
{
    for (int i = 0; i < stage->n_given; i++) {
        const lt_given *given = &stage->given[i];
        const lt_option *option = lt_described_option(stage->described, given->name);
        bool is_output = lt_stage_output(stage) && !strcmp(given->name, "output");
        if (!option || option->type != LT_OPT_PATH || is_output || !given->text || given->text[0] != '/')
            continue;
        const char *path = lt_path_real(arena, given->text);
        for (int k = 0; path && k < folder->n_paths; k++) {
            const char *inside = NULL;
            if (!lies_in(path, folder->paths[k], arena, &inside) || !inside) continue;
            if (strchr(inside, '/') || folder->n_kept == LT_MAX_KEPT)
                folder->inside = given->text;
            else
                folder->kept[folder->n_kept++] = path;
        }
    }
}

bool lt_run_folder_keeps(const lt_run_folder *folder, const char *path, lt_arena *arena)
{
    const char *real = lt_path_real(arena, path);
    for (int i = 0; real && i < folder->n_kept; i++)
        if (!strcmp(folder->kept[i], real)) return true;
    return false;
}

const char *lt_run_folder_of(const lt_run_folder *folder, const lt_graph_stage *stage)
{
    const char *output = lt_stage_output(stage);
    for (int i = 0; output && i < folder->n_outputs; i++)
        if (!strcmp(folder->outputs[i], output)) return folder->paths[i];
    return folder->path;
}

/* ---- lock -------------------------------------------------------------------------------------------- */

/* Pid written in a lock file, 0: none. */
static int read_pid(int fd)
{
    char text[32] = "";
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    return n > 0 ? atoi(text) : 0;
}

static lt_status wait_for_lock(int fd, const char *path, lt_err *err)
{
    int64_t deadline = lt_now_ns() + DYING_SECONDS * INT64_C(1000000000);
    while (flock(fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK) return lt_fail_errno(err, errno, "locking %s", path);
        int pid = read_pid(fd);
        bool is_alive = pid > 0 && (!kill(pid, 0) || errno == EPERM);
        if (is_alive || lt_now_ns() > deadline)
            return lt_fail(err, LT_E_BUSY, "%.*s is being written by another run (pid %d)%s",
                           (int)(strlen(path) - strlen(".longtake")), path, pid,
                           is_alive ? "" : ", whose stages are still alive");
        /* Waiting for a lock with a time limit has no other way. */
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    return LT_OK;
}

static bool is_dangling(const char *path)
{
    struct stat info;
    return !lstat(path, &info) && S_ISLNK(info.st_mode) && stat(path, &info) && errno == ENOENT;
}

/* The run folder, in a folder that is there. */
static lt_status make_folder(const char *path, lt_err *err)
{
    if (!mkdir(path, 0777) || errno == EEXIST) return LT_OK;
    int error = errno;
    const char *slash = strrchr(path, '/');
    int n = slash ? (int)(slash - path) : 0;
    if (error == ENOENT && n)
        return lt_fail(err, LT_E_NOT_FOUND, "there is no folder %.*s to keep %s in: make it", n, path,
                       slash + 1);
    return lt_fail_errno(err, error, "cannot make the run folder %s", path);
}

/* Open and lock <path>/lock. AGAIN: its owner has removed it meanwhile. */
static lt_status try_lock(const char *path, const char *name, int *lock, lt_err *err)
{
    struct stat opened, there;
    lt_status status = make_folder(path, err);
    if (status) return status;
    *lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*lock < 0 && errno == ENOENT && (is_dangling(path) || is_dangling(name)))
        return lt_fail(err, LT_E_NOT_FOUND, "%s is a link to what is not there: remove it, or make that",
                       is_dangling(path) ? path : name);
    if (*lock < 0) return errno == ENOENT ? LT_AGAIN : lt_fail_errno(err, errno, "%s", name);
    status = wait_for_lock(*lock, path, err);
    if (!status && (fstat(*lock, &opened) || stat(name, &there) || opened.st_ino != there.st_ino))
        status = LT_AGAIN;
    return status;
}

static lt_status lock_path(const char *path, int *lock, lt_err *err)
{
    char name[4200], pid[32];
    lt_status status;
    snprintf(name, sizeof name, "%s/lock", path);
    while ((status = try_lock(path, name, lock, err)) == LT_AGAIN)
        if (*lock >= 0) close(*lock);
    if (status) return status;
    int n = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    if (ftruncate(*lock, 0) || pwrite(*lock, pid, (size_t)n, 0) != n)
        return lt_fail_errno(err, errno, "%s", name);
    return LT_OK;
}

/* Several files may have a folder of their own, which need not be there yet. What cannot be made is said by who needs it. */
static void make_parent(const char *path)
{
    char folder[4200];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash || slash == folder) return;
    *slash = 0;
    (void)mkdir(folder, 0777);
}

lt_status lt_run_folder_lock(const lt_graph *graph, lt_arena *arena, lt_run_folder *folder, lt_err *err)
{
    *folder = (lt_run_folder){0};
    lt_status status = find_paths(graph, arena, folder, err);
    for (int i = 0; i < folder->n_outputs && !status; i++)
        if (lt_output_pattern(folder->outputs[i])) make_parent(folder->paths[i]);
    for (int i = 0; i < folder->n_paths && !status; i++)
        status = lock_path(folder->paths[i], &folder->locks[i], err);
    for (int i = 0; i < graph->n_stages && !status; i++) find_kept(&graph->stages[i], arena, folder);
    folder->is_locked = !status;
    return status;
}

/* Nothing but the lock is in the folder. */
static bool is_unused(const char *path)
{
    DIR *dir = opendir(path);
    int n = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) n += strcmp(entry->d_name, "lock") != 0;
    if (dir) closedir(dir);
    return n == 2; /* "." and ".." */
}

void lt_run_folder_finish(lt_run_folder *folder, bool unused)
{
    char name[4200];
    for (int i = 0; i < folder->n_paths; i++) {
        if (folder->locks[i] < 0) continue;
        snprintf(name, sizeof name, "%s/lock", folder->paths[i]);
        /* Only the holder of a lock may remove it, which is this process when it has locked all. */
        if (unused && folder->is_locked && is_unused(folder->paths[i])) {
            unlink(name);
            rmdir(folder->paths[i]);
        }
        close(folder->locks[i]);
    }
    folder->n_paths = 0;
}

/* ---- outputs ----------------------------------------------------------------------------------------- */

lt_status lt_run_folder_check_outputs(const lt_run_folder *folder, lt_err *err)
{
    char manifest[4200];
    struct stat info;
    snprintf(manifest, sizeof manifest, "%s/manifest.json", folder->path);
    if (!access(manifest, F_OK)) return LT_OK;
    for (int i = 0; i < folder->n_outputs; i++) {
        const char *output = folder->outputs[i];
        if (lt_output_pattern(output) || !is_unused(folder->paths[i]) || stat(output, &info) ||
            !S_ISREG(info.st_mode) || !info.st_size)
            continue;
        return lt_fail(err, LT_E_EXISTS,
                       "%s is there already, and no run that is known here has made it: use --fresh to write "
                       "over it, or another output",
                       output);
    }
    return LT_OK;
}

/* ---- files ------------------------------------------------------------------------------------------- */

/* The lock, and what the run reads. */
static bool stays(const lt_run_folder *folder, int fd, const char *name)
{
    struct stat info, kept;
    if (!strcmp(name, "lock")) return true;
    for (int i = 0; i < folder->n_kept; i++)
        if (!fstatat(fd, name, &info, 0) && !stat(folder->kept[i], &kept) && info.st_ino == kept.st_ino &&
            info.st_dev == kept.st_dev)
            return true;
    return false;
}

/* Remove what is in an open folder; `folder`: it is one of a run, and some of it stays. Takes the descriptor. */
static bool remove_inside(int fd, const lt_run_folder *folder, int depth)
{
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    bool ok = dir != NULL && depth < 16;
    if (!dir && fd >= 0) close(fd);
    for (struct dirent *entry; ok && (entry = readdir(dir));) {
        const char *name = entry->d_name;
        if (!strcmp(name, ".") || !strcmp(name, "..") || (folder && stays(folder, dirfd(dir), name)))
            continue;
        if (!unlinkat(dirfd(dir), name, 0)) continue;
        ok = (errno == EISDIR || errno == EPERM) &&
             remove_inside(openat(dirfd(dir), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), NULL,
                           depth + 1) &&
             !unlinkat(dirfd(dir), name, AT_REMOVEDIR);
    }
    if (dir) closedir(dir);
    return ok;
}

lt_status lt_run_folder_clear(const lt_run_folder *folder, lt_err *err)
{
    if (folder->inside)
        return lt_fail(
            err, LT_E_INVALID,
            "%s lies in the run's own folder, which is emptied when the run starts over: move it to another "
            "place and name that",
            folder->inside);
    for (int i = 0; i < folder->n_paths; i++)
        if (!remove_inside(open(folder->paths[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC), folder, 0))
            return lt_fail_errno(err, errno, "clearing %s", folder->paths[i]);
    return LT_OK;
}

static lt_status sync_folder_of(const char *path, lt_err *err)
{
    char folder[4200];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    lt_status status = fd < 0 || fsync(fd) ? lt_fail_errno(err, errno, "%s", folder) : LT_OK;
    if (fd >= 0) close(fd);
    return status;
}

lt_status lt_write_file(const char *path, const char *text, size_t bytes, lt_err *err)
{
    char temporary[4200];
    snprintf(temporary, sizeof temporary, "%s.new", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return lt_fail_errno(err, errno, "%s", temporary);
    lt_status status = LT_OK;
    for (size_t done = 0; done < bytes && !status;) {
        ssize_t n = write(fd, text + done, bytes - done);
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR)
            status = lt_fail_errno(err, errno, "writing %s", temporary);
    }
    if (!status && fsync(fd)) status = lt_fail_errno(err, errno, "writing %s", temporary);
    if (close(fd) && !status) status = lt_fail_errno(err, errno, "writing %s", temporary);
    if (!status && rename(temporary, path)) status = lt_fail_errno(err, errno, "%s", path);
    if (!status) status = sync_folder_of(path, err);
    if (status) unlink(temporary);
    return status;
}
