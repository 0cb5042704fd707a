/* stills.c - picture files, and the file that counts them. */
#include "stages/mux/stills.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* ---- names ----------------------------------------------------------------------------------------------- */

static const struct {
    const char *ending, *codec;
} kinds[] = {{"png", "png"},   {"jpg", "mjpeg"}, {"jpeg", "mjpeg"}, {"tif", "tiff"},
             {"tiff", "tiff"}, {"exr", "exr"},   {"bmp", "bmp"}};

const char *lt_stills_codec(const char *output)
{
    const char *dot = strrchr(output, '.');
    for (size_t i = 0; dot && i < LT_COUNT(kinds); i++)
        if (!strcasecmp(dot + 1, kinds[i].ending)) return kinds[i].codec;
    return NULL;
}

bool lt_stills_is_picture(const char *output)
{
    return lt_stills_codec(output) != NULL;
}

bool lt_stills_is_numbered(const char *output)
{
    return av_filename_number_test(output);
}

void lt_stills_path(const lt_stills *stills, int64_t index, char path[4096])
{
    if (!lt_stills_is_numbered(stills->pattern) ||
        av_get_frame_filename(path, 4096, stills->pattern, (int)(stills->first_number + index)) < 0)
        snprintf(path, 4096, "%s", stills->pattern);
}

/* ---- counting -------------------------------------------------------------------------------------------- */

/* The whole note is one line that is overwritten in place: 33 bytes of digest, a space, 20 of the count, a newline. */
static lt_status write_count(const lt_stills *stills, lt_err *err)
{
    char text[96];
    int n = snprintf(text, sizeof text, "%s %020lld\n", stills->header, (long long)stills->count);
    if (pwrite(stills->note, text, (size_t)n, 0) == n) return LT_OK;
    return lt_fail_errno(err, errno ? errno : EIO, "noting a finished picture");
}

static int64_t read_count(const lt_stills *stills)
{
    char text[96] = "", path[4096], digest[34] = "";
    long long count = 0;
    ssize_t n = pread(stills->note, text, sizeof text - 1, 0);
    bool same = n > 0 && sscanf(text, "%33s %lld", digest, &count) == 2 && !strcmp(digest, stills->header);
    int64_t there = 0;
    for (; same && there < count; there++) {
        lt_stills_path(stills, there, path);
        if (access(path, F_OK)) break;
    }
    return same ? there : -1;
}

/* Pictures of another run must not pass for this one's. */
static lt_status remove_old(const lt_stills *stills, int64_t n_frames, lt_err *err)
{
    char path[4096];
    for (int64_t i = 0; !n_frames || i < n_frames; i++) {
        lt_stills_path(stills, i, path);
        if (!unlink(path)) continue;
        if (errno != ENOENT)
            return lt_fail_errno(err, errno, "%s: removing the picture of an earlier run", path);
        if (!n_frames) break;
    }
    return LT_OK;
}

lt_status lt_stills_open(lt_stills *stills, const lt_encoder *encoder, const char *pattern,
                         int64_t first_number, const char *run_folder, uint32_t clip, const char digest[33],
                         int64_t n_frames, lt_err *err)
{
    char path[4096], number[16] = "";
    if (clip) snprintf(number, sizeof number, "-%u", clip);
    *stills = (lt_stills){.encoder = encoder, .pattern = pattern, .first_number = first_number};
    snprintf(stills->header, sizeof stills->header, "%s", digest);
    snprintf(path, sizeof path, "%s/pictures%s.txt", run_folder, number);
    stills->note = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (stills->note < 0) return lt_fail_errno(err, errno, "%s", path);
    stills->count = read_count(stills);
    if (stills->count >= 0) return LT_OK;
    stills->count = 0;
    lt_status status = ftruncate(stills->note, 0) ? lt_fail_errno(err, errno, "%s", path) : LT_OK;
    if (!status) status = remove_old(stills, n_frames, err);
    if (!status) status = write_count(stills, err);
    if (status) lt_stills_close(stills);
    return status;
}

void lt_stills_close(lt_stills *stills)
{
    if (stills->header[0] && stills->note >= 0) close(stills->note);
    *stills = (lt_stills){.note = -1};
}

/* ---- writing --------------------------------------------------------------------------------------------- */

/* Every picture has an encoder of its own: its bytes depend on nothing else. */
static lt_status encode(const lt_stills *stills, AVFrame *picture, AVPacket *packet, lt_err *err)
{
    AVCodecContext *codec = NULL;
    lt_status status = lt_encoder_open_codec(stills->encoder, &codec, err);
    if (status) return status;
    picture->pts = 0;
    picture->pict_type = AV_PICTURE_TYPE_NONE;
    int rc = avcodec_send_frame(codec, picture);
    if (rc >= 0) rc = avcodec_send_frame(codec, NULL);
    if (rc >= 0) rc = avcodec_receive_packet(codec, packet);
    lt_encoder_close_codec(&codec, true);
    return rc < 0 ? lt_fail_av(err, rc, "encoding a picture with %s", stills->encoder->codec->name) : LT_OK;
}

static lt_status write_all(const char *path, const AVPacket *packet, lt_err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return lt_fail_errno(err, errno, "%s", path);
    int error = 0;
    for (size_t done = 0; !error && done < (size_t)packet->size;) {
        ssize_t n = write(fd, packet->data + done, (size_t)packet->size - done);
        if (n > 0)
            done += (size_t)n;
        else if (errno != EINTR)
            error = errno;
    }
    if (close(fd) && !error) error = errno;
    if (error == ENOSPC || error == EDQUOT)
        return lt_fail(err, LT_E_NO_SPACE,
                       "%s: the disk is full; make room and run the same command again: what is finished is "
                       "kept",
                       path);
    return error ? lt_fail_errno(err, error, "%s: writing", path) : LT_OK;
}

lt_status lt_stills_write(lt_stills *stills, AVFrame *picture, lt_err *err)
{
    char path[4096], part[4112];
    AVPacket *packet = av_packet_alloc();
    if (!packet) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a picture");
    lt_stills_path(stills, stills->count, path);
    snprintf(part, sizeof part, "%s.part", path);
    lt_status status = encode(stills, picture, packet, err);
    if (!status) status = write_all(part, packet, err);
    if (!status) status = lt_file_sync(part, err);
    /* The name need not last through a power failure: who goes on looks whether the file is there. */
    if (!status && rename(part, path)) status = lt_fail_errno(err, errno, "%s: rename to %s", part, path);
    av_packet_free(&packet);
    if (status) {
        unlink(part);
        return status;
    }
    stills->count++;
    return write_count(stills, err);
}
