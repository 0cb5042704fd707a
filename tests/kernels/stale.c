/* stale.c - plug-ins that are refused: one of another build, and (-DWITHOUT_SYMBOL) a shared object that is none. */
#include "kernels/backend.h"

#ifndef WITHOUT_SYMBOL
__attribute__((visibility("default"))) const lt_backend *lt_backend_plugin(const lt_backend_host *host,
                                                                           lt_err *err);

const lt_backend *lt_backend_plugin(const lt_backend_host *host, lt_err *err)
{
    static const lt_backend table = {.abi = LT_BACKEND_ABI + 1, .bytes = sizeof(lt_backend), .name = "stale"};
    return &table;
}
#endif
