/* ffmpeg.h - FFmpeg's headers, its errors as ours, and its log into ours. For whoever of decode, mux and the
 * tools speaks to FFmpeg directly. */
#ifndef LT_FFMPEG_H
#define LT_FFMPEG_H

#include "core/core.h"

#include <libavcodec/avcodec.h>
#include <libavfilter/avfilter.h>
#include <libavformat/avformat.h>
#include <libavutil/avstring.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

/* Send FFmpeg's messages to lt_log: errors as warnings, all else as debug. Idempotent. */
void lt_ffmpeg_init(void);

/* What FFmpeg finds wrong is a line of its log, and its error number says little. Keep the errors that it logs on this thread from here
 * on; and give them, joined by "; ", the last where there are many, or where there are none the text of `error`, an AVERROR. The text is
 * the thread's, until its next call of either. */
enum { LT_FFMPEG_REASON_BYTES = 400 }; /* it is never longer */
void lt_ffmpeg_listen(void);
const char *lt_ffmpeg_reason(int error);

/* Set each of `options` that `object` (an AVCodecContext or AVFormatContext that is not used for anything else) or its private part knows.
 * E_INVALID: a value cannot be taken; the text names option `name`, who refuses it, key and value. */
lt_status lt_ffmpeg_check_values(void *object, const AVDictionary *options, const char *name, const char *who,
                                 lt_err *err);

/* As lt_fail, from an AVERROR: its text is appended. The status is chosen from it: missing, no memory, no
 * space, permission and I/O as such, unknown codecs and formats E_UNSUPPORTED, anything about data E_FORMAT.
 */
lt_status lt_fail_av(lt_err *err, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Versions of the libraries that decide pixels and files, as loaded; for digests. Returns text. */
const char *lt_ffmpeg_versions(char text[64]);

/* fsync a file or folder by path; rename with both made durable. */
lt_status lt_file_sync(const char *path, lt_err *err);
lt_status lt_file_replace(const char *from, const char *to, lt_err *err);

#endif
