/* folder.c - a folder for what a target must hand over as a file. */
#include "tests/fuzz/fuzz.h"

#include <unistd.h>

enum { MAX_PATHS = 8 };

static char folder[128];
static char paths[MAX_PATHS][192];

static void clean(void)
{
    /* The last first: a folder was named before what is in it. */
    for (int i = MAX_PATHS - 1; i >= 0; i--)
        if (*paths[i]) remove(paths[i]);
    rmdir(folder);
}

const char *fuzz_folder(void)
{
    if (*folder) return folder;
    const char *base = getenv("TMPDIR");
    if (!base || strlen(base) > 80) base = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(folder, sizeof folder, "%s/lt-fuzz-XXXXXX", base);
    FUZZ_MUST(mkdtemp(folder));
    atexit(clean);
    return folder;
}

const char *fuzz_path(const char *name)
{
    char path[192];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    for (int i = 0; i < MAX_PATHS; i++) {
        if (!*paths[i]) strcpy(paths[i], path);
        if (!strcmp(paths[i], path)) return paths[i];
    }
    FUZZ_MUST(!"too many names");
    return NULL;
}
