/* ffmpeg.c - FFmpeg's errors and log as ours; files made durable. */
#include "stages/video/ffmpeg.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- its log --------------------------------------------------------------------------------------------- */

static _Thread_local char heard[LT_FFMPEG_REASON_BYTES];

/* Behind what is there; the oldest goes where there is no room. */
static void hear(const char *text)
{
    static const char between[] = "; ";
    size_t used = strlen(heard), more = strlen(text);
    while (more && strchr(". ", text[more - 1])) more--;
    if (!more) return;
    if (used && used + more + sizeof between > sizeof heard) {
        const char *rest = strstr(heard, between);
        memmove(heard, rest ? rest + sizeof between - 1 : "", rest ? strlen(rest) - 1 : 1);
        hear(text);
        return;
    }
    lt_text_print(heard + used, sizeof heard - used, "%s%.*s", used ? between : "", (int)more, text);
}

void lt_ffmpeg_listen(void)
{
    heard[0] = 0;
}

const char *lt_ffmpeg_reason(int error)
{
    if (!heard[0]) av_strerror(error, heard, sizeof heard);
    return heard;
}

static void forward_log(void *object, int level, const char *format, va_list arguments)
{
    if (level > AV_LOG_INFO) return;
    char text[512];
    vsnprintf(text, sizeof text, format, arguments);
    size_t length = strlen(text);
    while (length && (text[length - 1] == '\n' || text[length - 1] == '\r')) text[--length] = 0;
    if (!length) return;
    if (level <= AV_LOG_ERROR) hear(text);
    AVClass *const *class = object;
    const char *name = class && *class ? (*class)->item_name(object) : "ffmpeg";
    lt_log(level <= AV_LOG_ERROR ? LT_LOG_WARN : LT_LOG_DEBUG, "%s: %s", name, text);
}

void lt_ffmpeg_init(void)
{
    av_log_set_callback(forward_log);
}

/* ---- its errors ------------------------------------------------------------------------------------------ */

static lt_status status_of(int error)
{
    switch (error) {
    case AVERROR(ENOENT):
    case AVERROR_STREAM_NOT_FOUND: return LT_E_NOT_FOUND;
    case AVERROR(ENOMEM): return LT_E_NO_MEMORY;
    case AVERROR(ENOSPC):
    case AVERROR(EDQUOT): return LT_E_NO_SPACE;
    case AVERROR(EACCES):
    case AVERROR(EPERM): return LT_E_PERMISSION;
    case AVERROR(EIO): return LT_E_IO;
    case AVERROR(ENOSYS):
    case AVERROR_DECODER_NOT_FOUND:
    case AVERROR_DEMUXER_NOT_FOUND:
    case AVERROR_ENCODER_NOT_FOUND:
    case AVERROR_MUXER_NOT_FOUND:
    case AVERROR_PROTOCOL_NOT_FOUND:
    case AVERROR_PATCHWELCOME: return LT_E_UNSUPPORTED;
    case AVERROR_BUG:
    case AVERROR_BUG2: return LT_E_INTERNAL;
    default: return LT_E_FORMAT;
    }
}

lt_status lt_fail_av(lt_err *err, int error, const char *format, ...)
{
    char text[900], reason[AV_ERROR_MAX_STRING_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    av_strerror(error, reason, sizeof reason);
    return lt_fail(err, status_of(error), "%s: %s", text, reason);
}

lt_status lt_ffmpeg_check_values(void *object, const AVDictionary *options, const char *name, const char *who,
                                 lt_err *err)
{
    const AVDictionaryEntry *entry = NULL;
    while ((entry = av_dict_get(options, "", entry, AV_DICT_IGNORE_SUFFIX))) {
        lt_ffmpeg_listen();
        int rc = av_opt_set(object, entry->key, entry->value, AV_OPT_SEARCH_CHILDREN);
        if (rc < 0 && rc != AVERROR_OPTION_NOT_FOUND)
            return lt_fail(err, LT_E_INVALID, "%s: %s does not take %s = \"%s\": %s", name, who, entry->key,
                           entry->value, lt_ffmpeg_reason(rc));
    }
    return LT_OK;
}

const char *lt_ffmpeg_versions(char text[64])
{
    snprintf(text, 64, "%x %x %x %x", avcodec_version(), avformat_version(), swscale_version(),
             avfilter_version());
    return text;
}

/* ---- files ----------------------------------------------------------------------------------------------- */

lt_status lt_file_sync(const char *path, lt_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return lt_fail_errno(err, errno, "%s", path);
    int failed = fsync(fd) ? errno : 0;
    close(fd);
    return failed ? lt_fail_errno(err, failed, "%s: fsync", path) : LT_OK;
}

lt_status lt_file_replace(const char *from, const char *to, lt_err *err)
{
    lt_status status = lt_file_sync(from, err);
    if (status) return status;
    if (rename(from, to)) return lt_fail_errno(err, errno, "%s: rename to %s", from, to);
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", to);
    return lt_file_sync(dirname(folder), err);
}
