/* mapping.c - files that are cut short while they are mapped: a sentence instead of a signal. */
#include "core/core.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum { MAX_MAPPINGS = 4096, LINE_BYTES = 1024 };

/* start is written last and cleared first: the handler may look at any moment. */
typedef struct mapping {
    _Atomic(const char *) start;
    size_t bytes;
    const char *path;
} mapping;

static mapping mappings[MAX_MAPPINGS];
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER; /* not for the handler */
static char program[64];

void lt_mapping_begin(const void *start, size_t bytes, const char *path)
{
    pthread_mutex_lock(&changing);
    for (int i = 0; i < MAX_MAPPINGS; i++) {
        mapping *m = &mappings[i];
        if (atomic_load(&m->start)) continue;
        m->bytes = bytes;
        m->path = path;
        atomic_store(&m->start, start);
        break;
    }
    pthread_mutex_unlock(&changing);
}

void lt_mapping_end(const void *start)
{
    pthread_mutex_lock(&changing);
    for (int i = 0; i < MAX_MAPPINGS; i++)
        if (start && atomic_load(&mappings[i].start) == start) atomic_store(&mappings[i].start, NULL);
    pthread_mutex_unlock(&changing);
}

/* text after the n bytes of line; only what a signal handler may call. */
static size_t append(char line[LINE_BYTES], size_t n, const char *text)
{
    while (*text && n < LINE_BYTES - 1) line[n++] = *text++;
    return n;
}

/* One write(2), so that lines of several threads do not mix. */
static void say(const char *path)
{
    char line[LINE_BYTES];
    size_t n = append(line, 0, program);
    n = append(line, n, " error: ");
    n = append(line, n, path);
    n = append(
        line, n,
        ": cut short while it was in use, or its disk cannot read it; get the whole file back and run again");
    line[n++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written; /* nothing can be done about a log that cannot be written */
}

static void on_bus_error(int number, siginfo_t *info, void *machine)
{
    const char *at = info->si_addr;
    for (int i = 0; i < MAX_MAPPINGS; i++) {
        const char *start = atomic_load(&mappings[i].start);
        if (!start || at < start || (size_t)(at - start) >= mappings[i].bytes) continue;
        say(mappings[i].path);
        _exit(LT_EXIT_PERMANENT);
    }
    signal(number, SIG_DFL); /* the instruction is tried again, and ends the process */
}

void lt_mapping_watch(const char *name)
{
    snprintf(program, sizeof program, "%s", name);
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = on_bus_error;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}
