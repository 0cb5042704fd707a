/* trial.c - files that kill who opens them are met when a data set is planned. */
#include "stages/decode/decode.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_KILLERS = 16, NONE = -1 };

/* In memory that parent and child share. */
struct lt_trial {
    volatile int64_t current; /* the clip that is being opened, or NONE */
    int n;
    struct {
        uint32_t clip;
        int signal;
    } killers[MAX_KILLERS];
};

/* Wait for the child and end as it did; returns where it died of a clip, which is noted. */
static void wait_for(pid_t child, lt_trial *trial)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0) continue;
    if (WIFEXITED(status)) _exit(WEXITSTATUS(status));
    int number = WTERMSIG(status);
    bool was_told = number == SIGKILL || number == SIGTERM;
    if (!was_told && trial->current != NONE && trial->n < MAX_KILLERS) {
        trial->killers[trial->n].clip = (uint32_t)trial->current;
        trial->killers[trial->n++].signal = number;
        return;
    }
    signal(number, SIG_DFL);
    raise(number);
    _exit(128 + number);
}

lt_trial *lt_trial_begin(void)
{
    lt_trial *trial = mmap(NULL, sizeof *trial, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (trial == MAP_FAILED) return NULL;
    for (;;) {
        trial->current = NONE;
        fflush(NULL);
        pid_t child = fork();
        if (child > 0) {
            wait_for(child, trial);
            continue;
        }
        if (!child) prctl(PR_SET_PDEATHSIG, SIGKILL);
        return trial;
    }
}

void lt_trial_end(lt_trial *trial)
{
    if (trial) munmap(trial, sizeof *trial);
}

lt_status lt_trial_opens(lt_trial *trial, uint32_t clip, const char *input, lt_err *err)
{
    if (!trial) return LT_OK;
    for (int i = 0; i < trial->n; i++)
        if (trial->killers[i].clip == clip)
            return lt_fail(err, LT_E_FORMAT, "%s: opening it kills the stage (signal %d, %s)", input,
                           trial->killers[i].signal, strsignal(trial->killers[i].signal));
    trial->current = clip;
    return LT_OK;
}

void lt_trial_opened(lt_trial *trial)
{
    if (trial) trial->current = NONE;
}
