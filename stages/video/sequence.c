/* sequence.c - numbered pictures, and pictures by a pattern of the shell: which there are. */
#include "stages/video/internal.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4200 };

/* The number FFmpeg's image2 finds the first picture at: 0 to 4. -1: none. */
static int first_number(const char *pattern)
{
    enum { FIRST_NUMBERS = 5 };
    char path[PATH];
    for (int i = 0; i < FIRST_NUMBERS; i++)
        if (av_get_frame_filename(path, sizeof path, pattern, i) >= 0 &&
            avio_check(path, AVIO_FLAG_READ) >= 0)
            return i;
    return -1;
}

bool lt_sequence_path(const char *input, int64_t index, char *path, size_t path_bytes)
{
    if (!lt_video_is_glob(input)) {
        int first = first_number(input);
        return first >= 0 && index <= INT_MAX - first &&
               av_get_frame_filename(path, (int)path_bytes, input, first + (int)index) >= 0 &&
               avio_check(path, AVIO_FLAG_READ) >= 0;
    }
    glob_t found;
    bool there = !glob(input, GLOB_BRACE, NULL, &found) && index >= 0 && (size_t)index < found.gl_pathc;
    if (there) snprintf(path, path_bytes, "%s", found.gl_pathv[index]);
    globfree(&found);
    return there;
}

static lt_status each_numbered(const char *pattern, lt_sequence_visitor *visit, void *user, lt_err *err)
{
    char path[PATH];
    lt_status status = LT_OK;
    int i = first_number(pattern);
    for (; !status && i >= 0 && i < INT_MAX; i++) {
        if (av_get_frame_filename(path, sizeof path, pattern, i) < 0) break;
        if (avio_check(path, AVIO_FLAG_READ) < 0) break;
        status = visit(user, path, err);
    }
    return status;
}

static lt_status each_globbed(const char *pattern, lt_sequence_visitor *visit, void *user, lt_err *err)
{
    glob_t found = {0};
    lt_status status = LT_OK;
    if (glob(pattern, GLOB_BRACE, NULL, &found) == GLOB_NOSPACE)
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", pattern);
    for (size_t i = 0; !status && i < found.gl_pathc; i++) status = visit(user, found.gl_pathv[i], err);
    globfree(&found);
    return status;
}

lt_status lt_sequence_each(const char *pattern, lt_sequence_visitor *visit, void *user, lt_err *err)
{
    return lt_video_is_glob(pattern) ? each_globbed(pattern, visit, user, err)
                                     : each_numbered(pattern, visit, user, err);
}

/* Whether a file of this name is a picture of the pattern with a number above `number`. */
static bool is_later(const char *pattern, const char *name, int number)
{
    char path[PATH];
    for (const char *at = name; *at; at++) {
        bool begins = *at >= '0' && *at <= '9' && (at == name || at[-1] < '0' || at[-1] > '9');
        long value = begins ? strtol(at, NULL, 10) : 0;
        if (value <= number || value > INT_MAX) continue;
        if (av_get_frame_filename(path, sizeof path, pattern, (int)value) < 0) continue;
        const char *slash = strrchr(path, '/');
        if (!strcmp(slash ? slash + 1 : path, name)) return true;
    }
    return false;
}

bool lt_sequence_gap(const char *pattern, int64_t n, char *missing, size_t missing_bytes)
{
    char folder[PATH];
    int first = lt_video_is_glob(pattern) ? -1 : first_number(pattern);
    if (first < 0 || n > INT_MAX - first ||
        av_get_frame_filename(missing, (int)missing_bytes, pattern, first + (int)n) < 0)
        return false;
    const char *slash = strrchr(pattern, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - pattern) + 1 : 1, slash ? pattern : ".");
    DIR *listing = opendir(folder);
    bool later = false;
    for (const struct dirent *entry; listing && !later && (entry = readdir(listing));)
        later = is_later(pattern, entry->d_name, first + (int)n);
    if (listing) closedir(listing);
    return later;
}
