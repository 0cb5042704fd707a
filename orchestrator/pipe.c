/* pipe.c - opening what can be read only once. */
#include "orchestrator/pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "orchestrator/check.h"

static bool is_fifo(const char *path)
{
    struct stat info;
    return path[0] == '/' && !stat(path, &info) && S_ISFIFO(info.st_mode);
}

/* The path option of a stage that names a pipe, or NULL. */
static const char *find_pipe(const lt_graph_stage *stage)
{
    for (int i = 0; i < stage->n_given && !stage->described->n_inputs; i++) {
        const lt_given *given = &stage->given[i];
        const lt_option *option = lt_described_option(stage->described, given->name);
        if (!option || option->type != LT_OPT_PATH || !given->text) continue;
        if (!strcmp(given->text, "-") || is_fifo(given->text)) return given->text;
    }
    return NULL;
}

lt_status lt_pipe_open(const lt_graph *graph, int stage, lt_pipe *pipe, lt_err *err)
{
    const char *path = find_pipe(&graph->stages[stage]);
    *pipe = (lt_pipe){0};
    if (!path) return LT_OK;
    bool is_stdin = !strcmp(path, "-");
    for (int i = 0; i < stage && is_stdin; i++) {
        const char *other = find_pipe(&graph->stages[i]);
        if (other && !strcmp(other, "-"))
            return lt_fail(err, LT_E_INVALID, "stages \"%s\" and \"%s\" both read standard input",
                           graph->stages[i].name, graph->stages[stage].name);
    }
    if (is_stdin && isatty(STDIN_FILENO))
        return lt_fail(err, LT_E_INVALID,
                       "stage \"%s\" reads standard input, which is a terminal: pipe a video into it",
                       graph->stages[stage].name);
    int fd = is_stdin ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return lt_fail_errno(err, errno, "%s", is_stdin ? "standard input" : path);
    int head = memfd_create("longtake-head", MFD_CLOEXEC);
    if (head < 0) {
        int error = errno;
        close(fd);
        return lt_fail_errno(err, error, "memory for the beginning of %s", path);
    }
    *pipe = (lt_pipe){fd, head};
    return LT_OK;
}

void lt_pipe_close(lt_pipe *pipe)
{
    if (pipe->fd) close(pipe->fd);
    if (pipe->head_fd) close(pipe->head_fd);
    *pipe = (lt_pipe){0};
}
