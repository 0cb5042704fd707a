/* ffmpeg.c - FFmpeg's errors and log as ours; files made durable. */
#include "stages/video/ffmpeg.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void forward_log(void *object, int level, const char *format, va_list arguments)
{
    if (level > AV_LOG_INFO) return;
    char text[512];
    vsnprintf(text, sizeof text, format, arguments);
    size_t length = strlen(text);
    while (length && (text[length - 1] == '\n' || text[length - 1] == '\r')) text[--length] = 0;
    if (!length) return;
    AVClass *const *class = object;
    const char *name = class && *class ? (*class)->item_name(object) : "ffmpeg";
    lt_log(level <= AV_LOG_ERROR ? LT_LOG_WARN : LT_LOG_DEBUG, "%s: %s", name, text);
}

void lt_ffmpeg_init(void)
{
    av_log_set_callback(forward_log);
}

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

const char *lt_ffmpeg_versions(char text[64])
{
    snprintf(text, 64, "%x %x %x %x", avcodec_version(), avformat_version(), swscale_version(),
             avfilter_version());
    return text;
}

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
