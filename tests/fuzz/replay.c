/* replay.c - feed a target every file of the folders (or the files) that are named; crashes where the target does.
 *
 *     fuzz_wire FOLDER_OR_FILE...
 *
 * Ends with "N inputs"; exits 1 when there was none, or one could not be read. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <sys/stat.h>

/* Each input has a block of its own, of exactly its size, so that a read behind it is seen. */
static int replay_file(const char *path)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &info)) {
        perror(path);
        exit(1);
    }
    size_t n_bytes = (size_t)info.st_size;
    uint8_t *data = malloc(n_bytes ? n_bytes : 1);
    if (!data || fread(data, 1, n_bytes, file) != n_bytes) {
        perror(path);
        exit(1);
    }
    fclose(file);
    fprintf(stderr, "%s\n", path);
    LLVMFuzzerTestOneInput(data, n_bytes);
    free(data);
    return 1;
}

static int replay(const char *path)
{
    DIR *folder = opendir(path);
    if (!folder) return replay_file(path);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.') n += replay_file(name);
    }
    closedir(folder);
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++) n += replay(argv[i]);
    printf("%d inputs\n", n);
    return n == 0;
}
