/* device.c - backends by name: those that are built in, and plug-ins. */
#include "kernels/device.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const lt_backend *const built_in[] = {&lt_backend_cpu, &lt_backend_ref};

/* ---- what a plug-in is given -------------------------------------------------------------------------- */

static lt_status host_fail(lt_context *c, lt_status status, const char *sentence)
{
    return lt_context_fail(c, status, "%s", sentence);
}

static const lt_backend_host host = {
    .abi = LT_BACKEND_ABI,
    .bytes = sizeof(lt_backend_host),
    .fail = host_fail,
    .scratch = lt_scratch,
    .release = lt_scratch_release,
    .find = lt_backend_find,
};

/* ---- loading ------------------------------------------------------------------------------------------ */

enum { MOST_PLUGINS = 8, NAME_BYTES = 24, PATH_BYTES = 4096 };

typedef struct plugin {
    char name[NAME_BYTES];
    const lt_backend *table;
} plugin;

/* Loaded once a process, never unloaded: contexts point to the tables. */
static plugin plugins[MOST_PLUGINS];
static int n_plugins;
static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

/* The program's folder, or "." */
static void own_folder(char *folder, size_t bytes)
{
    ssize_t n = readlink("/proc/self/exe", folder, bytes - 1);
    if (n <= 0) n = snprintf(folder, bytes, "./x");
    folder[n] = 0;
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
}

static bool try_folder(const char *folder, int length, const char *below, const char *name, char *path)
{
    int n = snprintf(path, PATH_BYTES, "%.*s%s/longtake_%s.so", length, folder, below, name);
    return length > 0 && n < PATH_BYTES && access(path, R_OK) == 0;
}

/* What a person is told to use instead. */
#define NAMES "use auto, cpu or cuda:0, or ref for checks"

/* Where the plug-in lies. E_NOT_FOUND, with the places in err. */
static lt_status look_for(const char *name, char *path, lt_err *err)
{
    char own[PATH_BYTES - 64];
    own_folder(own, sizeof(own));
    const char *folders = getenv("LT_BACKEND_PATH"), *below[] = {"", "/../lib", "/../lib/longtake"};
    for (const char *at = folders; at && *at;) {
        int length = (int)strcspn(at, ":");
        if (try_folder(at, length, "", name, path)) return LT_OK;
        at += length + (at[length] == ':');
    }
    for (size_t i = 0; i < LT_COUNT(below); i++)
        if (try_folder(own, (int)strlen(own), below[i], name, path)) return LT_OK;
    bool is_ours = strcmp(name, "cuda") == 0, has_folders = folders && *folders;
    return lt_fail(err, LT_E_NOT_FOUND,
                   "no device '%s': %s longtake_%s.so, which is neither in %s%s%s nor in ../lib from there%s",
                   name, is_ours ? "it needs" : NAMES "; one of that name needs", name, own,
                   has_folders ? ", nor in " : "", has_folders ? folders : "",
                   is_ours ? "; use cpu, or build it on a machine with the CUDA toolkit" : "");
}

static const lt_backend *load(const char *name, const char *path, lt_err *err)
{
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!object) {
        lt_fail(err, LT_E_NOT_FOUND, "cannot load the device's plug-in: %s", dlerror());
        return NULL;
    }
    lt_backend_plugin_fn *open;
    *(void **)&open = dlsym(object, LT_BACKEND_PLUGIN_SYMBOL);
    lt_err why = {0};
    const lt_backend *table = open ? open(&host, &why) : NULL;
    bool same = table && table->abi == LT_BACKEND_ABI && table->bytes == sizeof(lt_backend);
    if (same && strcmp(table->name, name) == 0) return table;
    if (!open || same)
        lt_fail(err, LT_E_MISMATCH, "%s is no plug-in of Longtake for '%s'", path, name);
    else
        lt_fail(err, LT_E_MISMATCH, "%s belongs to another build of Longtake%s%s: build both from one source",
                path, why.text[0] ? ": " : "", why.text);
    dlclose(object);
    return NULL;
}

static bool is_name(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789");
    return n > 0 && n < NAME_BYTES && name[n] == 0;
}

static const lt_backend *find_plugin(const char *name, lt_err *err)
{
    for (int i = 0; i < n_plugins; i++)
        if (strcmp(plugins[i].name, name) == 0) return plugins[i].table;
    char path[PATH_BYTES];
    if (look_for(name, path, err) != LT_OK) return NULL;
    if (n_plugins == MOST_PLUGINS) {
        lt_fail(err, LT_E_UNSUPPORTED, "device '%s' would be the %dth plug-in of this program", name,
                MOST_PLUGINS + 1);
        return NULL;
    }
    const lt_backend *table = load(name, path, err);
    if (!table) return NULL;
    snprintf(plugins[n_plugins].name, NAME_BYTES, "%s", name);
    plugins[n_plugins++].table = table;
    return table;
}

const lt_backend *lt_backend_find(const char *name, lt_err *err)
{
    for (size_t i = 0; i < LT_COUNT(built_in); i++)
        if (strcmp(built_in[i]->name, name) == 0) return built_in[i];
    if (!is_name(name)) {
        lt_fail(err, LT_E_NOT_FOUND, "no device '%s': " NAMES, name);
        return NULL;
    }
    pthread_mutex_lock(&loading);
    const lt_backend *table = find_plugin(name, err);
    pthread_mutex_unlock(&loading);
    return table;
}

/* ---- devices by name ---------------------------------------------------------------------------------- */

lt_status lt_device_find(const char *device, const lt_backend **backend, int *index, lt_err *err)
{
    char name[32];
    const char *colon = strchr(device, ':');
    size_t length = colon ? (size_t)(colon - device) : strlen(device);
    long number = 0;
    char *end = NULL;
    if (colon) number = strtol(colon + 1, &end, 10);
    bool numbered = !colon || (end != colon + 1 && !*end && number >= 0 && number <= 1023);
    if (length == 0 || length >= sizeof(name) || !numbered)
        return lt_fail(err, LT_E_NOT_FOUND, "no device '%s': " NAMES, device);
    memcpy(name, device, length);
    name[length] = 0;
    *index = (int)number;
    lt_err why = {.status = LT_E_NOT_FOUND};
    *backend = lt_backend_find(name, &why);
    if (!*backend && err) *err = why;
    return *backend ? LT_OK : why.status;
}

lt_status lt_device_probe(const char *device, lt_device_info *info, lt_err *err)
{
    const lt_backend *backend;
    int index;
    *info = (lt_device_info){0};
    lt_status status = lt_device_find(device, &backend, &index, err);
    if (status == LT_OK) status = backend->probe(index, info, err);
    if (status != LT_OK) *info = (lt_device_info){0};
    return status;
}

/* A device that is not supported says nothing of the next one, but for a driver that is not: it has no more than these. */
enum { MOST_DEVICES = 16 };

void lt_device_choose(const char *device, char *name, size_t name_bytes, lt_err *why)
{
    lt_device_info info;
    lt_err first = {.status = LT_OK};
    lt_status status = LT_E_UNSUPPORTED;
    if (why) *why = first;
    if (strcmp(device, "auto") != 0) {
        snprintf(name, name_bytes, "%s", device);
        return;
    }
    for (int i = 0; i < MOST_DEVICES && status == LT_E_UNSUPPORTED; i++) {
        lt_err err = {.status = LT_OK};
        snprintf(name, name_bytes, "cuda:%d", i);
        status = lt_device_probe(name, &info, &err);
        if (i == 0) first = err;
    }
    if (status == LT_OK) return;
    snprintf(name, name_bytes, "cpu");
    if (why) *why = first;
}

lt_status lt_device_takes(const char *device, lt_dtype dtype, lt_err *err)
{
    const lt_backend *backend;
    int index;
    lt_status status = lt_device_find(device, &backend, &index, err);
    if (status != LT_OK || (lt_dtype_is_float(dtype) && backend->dtypes >> dtype & 1)) return status;
    char list[64] = "";
    for (int i = 0; i < LT_N_DTYPES; i++) {
        size_t n = strlen(list);
        if (backend->dtypes >> i & 1)
            snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "", lt_dtype_name((lt_dtype)i));
    }
    return lt_fail(err, LT_E_UNSUPPORTED, "%s computes in %s, not in %s (weights may be of any float type)",
                   device, list, lt_dtype_name(dtype));
}
