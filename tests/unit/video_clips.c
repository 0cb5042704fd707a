/* video_clips.c - making clips with the ffmpeg program. */
#include "tests/unit/video_clips.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

bool lt_clips_begin(void)
{
    if (system("ffmpeg -version >/dev/null 2>&1")) {
        fprintf(stderr, "no ffmpeg program: every test of this file is skipped\n");
        return false;
    }
    snprintf(folder, sizeof folder, "/tmp/lt_video_XXXXXX");
    return mkdtemp(folder) != NULL;
}

void lt_clips_end(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command)) fprintf(stderr, "%s was not removed\n", folder);
}

const char *lt_clips_path(const char *format, ...)
{
    static char paths[16][256];
    static int next;
    char *path = paths[next++ % 16];
    int n = snprintf(path, sizeof paths[0], "%s/", folder);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + n, sizeof paths[0] - (size_t)n, format, arguments);
    va_end(arguments);
    return path;
}

void lt_clips_ffmpeg(const char *format, ...)
{
    char command[2048];
    int n = snprintf(command, sizeof command, "cd %s && ffmpeg -nostdin -v error -y ", folder);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command + n, sizeof command - (size_t)n, format, arguments);
    va_end(arguments);
    if (system(command)) {
        fprintf(stderr, "failed: %s\n", command);
        abort();
    }
}

void *lt_clips_load(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    void *data = malloc((size_t)size + 1);
    *bytes = fread(data, 1, (size_t)size, file);
    fclose(file);
    return data;
}

bool lt_clips_same(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    void *x = lt_clips_load(a, &n), *y = lt_clips_load(b, &m);
    bool same = x && y && n == m && !memcmp(x, y, n);
    free(x);
    free(y);
    return same;
}

int64_t lt_clips_inode(const char *path)
{
    struct stat info;
    return stat(path, &info) ? -1 : (int64_t)info.st_ino;
}
