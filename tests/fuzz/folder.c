/* folder.c - a folder for what a target must hand over as a file. */
#include "tests/fuzz/fuzz.h"

#include <unistd.h>

enum { MAX_PATHS = 8 };

static char folder[64];
static char paths[MAX_PATHS][128];

static void clean(void)
{
    for (int i = 0; i < MAX_PATHS && *paths[i]; i++) unlink(paths[i]);
    rmdir(folder);
}

const char *fuzz_folder(void)
{
    if (*folder) return folder;
    strcpy(folder, access("/dev/shm", W_OK) ? "/tmp/lt-fuzz-XXXXXX" : "/dev/shm/lt-fuzz-XXXXXX");
    FUZZ_MUST(mkdtemp(folder));
    atexit(clean);
    return folder;
}

const char *fuzz_path(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    for (int i = 0; i < MAX_PATHS; i++) {
        if (!*paths[i]) strcpy(paths[i], path);
        if (!strcmp(paths[i], path)) return paths[i];
    }
    FUZZ_MUST(!"too many names");
    return NULL;
}
