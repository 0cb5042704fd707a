/* plugin.c - the inside of a plug-in: what its operators call, by the names they have in the program, sent on to the program.
 * Linked into every plug-in, never into a program. */
#include "kernels/backend.h"

#include <stdio.h>

static const lt_backend_host *host;

__attribute__((visibility("default"))) const lt_backend *lt_backend_plugin(const lt_backend_host *from,
                                                                           lt_err *err);

const lt_backend *lt_backend_plugin(const lt_backend_host *from, lt_err *err)
{
    if (from->abi != LT_BACKEND_ABI || from->bytes != sizeof(*from)) {
        lt_fail(err, LT_E_MISMATCH, "the program's interface is %u of %u bytes, the plug-in's %d of %zu",
                from->abi, from->bytes, LT_BACKEND_ABI, sizeof(*from));
        return NULL;
    }
    host = from;
    return lt_plugin_backend();
}

lt_status lt_context_fail(lt_context *c, lt_status status, const char *format, ...)
{
    lt_err err;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err.text, sizeof(err.text), format, arguments);
    va_end(arguments);
    return host->fail(c, status, err.text);
}

void *lt_scratch(lt_context *c, size_t bytes)
{
    return host->scratch(c, bytes);
}

void lt_scratch_release(lt_context *c, void *memory)
{
    if (memory) host->release(c, memory);
}

const lt_backend *lt_backend_find(const char *name, lt_err *err)
{
    return host->find(name, err);
}
