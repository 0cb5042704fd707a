/* error.c - status strings, error sentences and the exit codes of a process. */
#include "core/core.h"

#include <errno.h>
#include <string.h>

const char *lt_status_string(lt_status status)
{
    static const char *const strings[] = {
#define STRING(name, string) [LT_##name] = string,
        LT_STATUS_LIST(STRING)
#undef STRING
    };
    return (unsigned)status < LT_N_STATUS ? strings[status] : "unknown status";
}

int lt_exit_code(lt_status status)
{
    switch (status) {
    case LT_OK:
    case LT_END: return LT_EXIT_DONE;
    case LT_AGAIN:
    case LT_E_TRANSIENT:
    case LT_E_DEVICE_LOST:
    case LT_E_BUSY: return LT_EXIT_TRANSIENT;
    case LT_E_INTERNAL: return LT_EXIT_BUG;
    default: return LT_EXIT_PERMANENT;
    }
}

lt_status lt_fail(lt_err *err, lt_status status, const char *format, ...)
{
    if (err) {
        /* The arguments may point into err->text itself, so the new sentence is made beside it. */
        char text[sizeof err->text];
        va_list args;
        va_start(args, format);
        lt_text_vprint(text, sizeof text, format, args);
        va_end(args);
        memcpy(err->text, text, sizeof text);
        err->status = status;
    }
    return status;
}

lt_status lt_err_prefix(lt_err *err, const char *format, ...)
{
    if (!err) return LT_E_INTERNAL;
    char text[sizeof err->text];
    va_list args;
    va_start(args, format);
    lt_text_vprint(text, sizeof text, format, args);
    va_end(args);
    size_t n = strlen(text);
    lt_text_print(text + n, sizeof text - n, ": %s", err->text);
    memcpy(err->text, text, sizeof text);
    return err->status;
}

static lt_status status_of_errno(int error_number)
{
    switch (error_number) {
    case ENOENT:
    case ENOTDIR: return LT_E_NOT_FOUND;
    case EEXIST: return LT_E_EXISTS;
    case ENOMEM: return LT_E_NO_MEMORY;
    case ENOSPC:
    case EDQUOT: return LT_E_NO_SPACE;
    case EACCES:
    case EPERM:
    case EROFS: return LT_E_PERMISSION;
    case EBUSY:
    case EAGAIN: return LT_E_BUSY;
    default: return LT_E_IO;
    }
}

lt_status lt_fail_errno(lt_err *err, int error_number, const char *format, ...)
{
    lt_status status = status_of_errno(error_number);
    char text[sizeof err->text];
    va_list args;
    va_start(args, format);
    lt_text_vprint(text, sizeof text, format, args);
    va_end(args);
    return lt_fail(err, status, "%s: %s", text, strerror(error_number));
}
