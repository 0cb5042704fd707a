/* log.c - one line at a time to standard error, and the clock that decisions are taken by. */
#include "core/core.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char log_name[64] = "longtake";
static lt_log_level log_level = LT_LOG_INFO;

void lt_log_init(const char *name, lt_log_level level)
{
    snprintf(log_name, sizeof log_name, "%s", name);
    log_level = level;
}

void lt_log(lt_log_level level, const char *format, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if (level > log_level) return;
    char line[2048];
    struct timespec now;
    struct tm local;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &local);
    int n = snprintf(line, sizeof line, "%02d:%02d:%02d.%03d %s %s: ", local.tm_hour, local.tm_min,
                     local.tm_sec, (int)(now.tv_nsec / 1000000), log_name, names[level]);
    va_list args;
    va_start(args, format);
    int m = vsnprintf(line + n, sizeof line - (size_t)n, format, args);
    va_end(args);
    size_t length = LT_MIN((size_t)n + (size_t)LT_MAX(m, 0), sizeof line - 2);
    line[length] = '\n';
    ssize_t written = write(STDERR_FILENO, line, length + 1);
    (void)written; /* nothing can be done about a log that cannot be written */
}

int64_t lt_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
