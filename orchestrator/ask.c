/* ask.c - put one question to a stage program and take its answer. */
#include "orchestrator/ask.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ANSWER_BYTES = 1 << 30, EXEC_FAILED = 127, MAX_ATTEMPTS = 20 };

/* The running child. Descriptors are -1 once closed. */
typedef struct asked {
    pid_t pid;
    int in, out, errors;
    const char *input;
    size_t input_left;
    size_t capacity;
    char tail[2048]; /* of standard error */
    size_t tail_bytes;
    const int *kept; /* descriptors that it inherits */
    int n_kept;
} asked;

static void shut(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static void become(const asked *a, const char *program, const char *argument, int in, int out, int errors)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < a->n_kept; i++) fcntl(a->kept[i], F_SETFD, 0);
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(errors, 2) < 0) _exit(EXEC_FAILED);
    /* A program that is being copied into place is busy for a moment. */
    for (int attempt = 0; attempt < 100; attempt++) {
        execl(program, program, argument, (char *)NULL);
        if (errno != ETXTBSY) break;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    dprintf(2, "%s\n", strerror(errno));
    _exit(EXEC_FAILED);
}

static lt_status start(asked *a, const char *program, const char *argument, lt_err *err)
{
    int pipes[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
    lt_status status = LT_OK;
    for (int i = 0; i < 3 && !status; i++)
        if (pipe2(pipes[i], O_CLOEXEC)) status = lt_fail_errno(err, errno, "pipe to %s", program);
    if (!status) {
        a->pid = fork();
        if (a->pid == 0) become(a, program, argument, pipes[0][0], pipes[1][1], pipes[2][1]);
        if (a->pid < 0) status = lt_fail_errno(err, errno, "starting %s", program);
    }
    a->in = pipes[0][1];
    a->out = pipes[1][0];
    a->errors = pipes[2][0];
    shut(&pipes[0][0]);
    shut(&pipes[1][1]);
    shut(&pipes[2][1]);
    int fds[] = {a->in, a->out, a->errors};
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0) fcntl(fds[i], F_SETFL, O_NONBLOCK);
    return status;
}

static lt_status read_out(asked *a, lt_answer *answer, const char *program, lt_err *err)
{
    if (answer->out_bytes + 1 >= a->capacity) {
        size_t larger = a->capacity ? 2 * a->capacity : 1 << 14;
        char *out = larger <= MAX_ANSWER_BYTES ? realloc(answer->out, larger) : NULL;
        if (!out)
            return lt_fail(err, larger > MAX_ANSWER_BYTES ? LT_E_FORMAT : LT_E_NO_MEMORY,
                           "%s answers with too much", program);
        answer->out = out;
        a->capacity = larger;
    }
    ssize_t n = read(a->out, answer->out + answer->out_bytes, a->capacity - answer->out_bytes - 1);
    if (n > 0)
        answer->out_bytes += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        shut(&a->out);
    answer->out[answer->out_bytes] = 0;
    return LT_OK;
}

static void read_errors(asked *a)
{
    if (a->tail_bytes > sizeof a->tail / 2) { /* keep the end */
        memmove(a->tail, a->tail + a->tail_bytes / 2, a->tail_bytes - a->tail_bytes / 2);
        a->tail_bytes -= a->tail_bytes / 2;
    }
    ssize_t n = read(a->errors, a->tail + a->tail_bytes, sizeof a->tail - a->tail_bytes);
    if (n > 0)
        a->tail_bytes += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        shut(&a->errors);
}

static void write_in(asked *a)
{
    ssize_t n = a->input_left ? write(a->in, a->input, a->input_left) : 0;
    if (n > 0) {
        a->input += n;
        a->input_left -= (size_t)n;
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        a->input_left = 0; /* it does not want it: its exit code will tell */
    }
    if (!a->input_left) shut(&a->in);
}

/* Until both outputs are closed. */
static lt_status converse(asked *a, const char *program, double seconds, lt_answer *answer, lt_err *err)
{
    int64_t deadline = lt_now_ns() + (int64_t)(seconds * 1e9);
    lt_status status = LT_OK;
    write_in(a);
    while (!status && (a->out >= 0 || a->errors >= 0)) {
        struct pollfd fds[] = {{a->in, POLLOUT, 0}, {a->out, POLLIN, 0}, {a->errors, POLLIN, 0}};
        int64_t left = deadline - lt_now_ns();
        if (left <= 0)
            return lt_fail(err, LT_E_TRANSIENT, "%s gave no answer in %g seconds", program, seconds);
        if (poll(fds, 3, (int)(left / 1000000) + 1) < 0 && errno != EINTR)
            return lt_fail_errno(err, errno, "waiting for %s", program);
        if (a->in >= 0 && fds[0].revents) write_in(a);
        if (a->out >= 0 && fds[1].revents) status = read_out(a, answer, program, err);
        if (a->errors >= 0 && fds[2].revents) read_errors(a);
    }
    return status;
}

/* The last line of what was written to standard error. */
static void keep_last_line(const asked *a, lt_answer *answer)
{
    size_t end = a->tail_bytes;
    while (end && (a->tail[end - 1] == '\n' || a->tail[end - 1] == '\r')) end--;
    size_t begin = end;
    while (begin && a->tail[begin - 1] != '\n') begin--;
    size_t n = LT_MIN(end - begin, sizeof answer->errors - 1);
    memcpy(answer->errors, a->tail + begin, n);
    answer->errors[n] = 0;
}

/* One attempt. */
static lt_status ask_once(asked a, const char *program, const char *argument, double seconds,
                          lt_answer *answer, lt_err *err)
{
    *answer = (lt_answer){0};
    lt_status status = start(&a, program, argument, err);
    if (!status) status = converse(&a, program, seconds, answer, err);
    shut(&a.in);
    shut(&a.out);
    shut(&a.errors);
    if (a.pid > 0) {
        int ended = 0;
        if (status) kill(a.pid, SIGKILL);
        while (waitpid(a.pid, &ended, 0) < 0 && errno == EINTR) continue;
        answer->exit_code = WIFSIGNALED(ended) ? 128 + WTERMSIG(ended) : WEXITSTATUS(ended);
    }
    keep_last_line(&a, answer);
    return status;
}

lt_status lt_ask(const char *program, const char *argument, const void *input, size_t input_bytes,
                 double seconds, lt_answer *answer, lt_err *err)
{
    return lt_ask_keeping(program, argument, input, input_bytes, seconds, NULL, 0, answer, err);
}

lt_status lt_ask_keeping(const char *program, const char *argument, const void *input, size_t input_bytes,
                         double seconds, const int *kept, int n_kept, lt_answer *answer, lt_err *err)
{
    const asked a = {.in = -1,
                     .out = -1,
                     .errors = -1,
                     .input = input,
                     .input_left = input_bytes,
                     .kept = kept,
                     .n_kept = n_kept};
    *answer = (lt_answer){0};
    if (access(program, X_OK)) return lt_fail_errno(err, errno, "cannot run %s", program);
    for (int attempt = 1;; attempt++) {
        lt_status status = ask_once(a, program, argument, seconds, answer, err);
        bool was_killed = answer->exit_code == 128 + SIGKILL || answer->exit_code == 128 + SIGTERM;
        if (status || !was_killed || attempt == MAX_ATTEMPTS) return status;
        lt_answer_finish(answer);
    }
}

void lt_answer_finish(lt_answer *answer)
{
    free(answer->out);
    *answer = (lt_answer){0};
}
