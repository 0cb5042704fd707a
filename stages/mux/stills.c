/* stills.c - picture files, and the file that counts them. */
#include "stages/mux/stills.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
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

/* ---- sources --------------------------------------------------------------------------------------------- */

/* Pictures that are to be written, and where. */
typedef struct outputs {
    const char *name; /* of the pattern, or of the one */
    const char *ending;
    struct stat folder;
} outputs;

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool stat_folder(const char *path, struct stat *info)
{
    char folder[4200];
    snprintf(folder, sizeof folder, "%.*s.", (int)(name_of(path) - path), path);
    return !stat(folder, info);
}

/* Whether the pattern "NAME%04dREST" gives this name, with as many digits as you like. */
static bool is_numbered_so(const char *name, const char *pattern)
{
    static const char digits[] = "0123456789";
    const char *at = strrchr(pattern, '%'), *rest = at ? at + 1 : NULL;
    if (!at) return !strcmp(name, pattern);
    rest += strspn(rest, digits) + 1;
    while (at > pattern && strchr(digits, at[-1])) at--;
    rest += strspn(rest, digits);
    size_t before = (size_t)(at - pattern), behind = strlen(rest), n = strlen(name);
    return n > before + behind && !strncmp(name, pattern, before) && !strcmp(name + n - behind, rest) &&
           strspn(name + before, digits) >= n - before - behind;
}

/* Whether a picture that is read lies where they go and, with `any`, just has their ending: what is made would be read, too. */
static bool is_among(const char *read, const outputs *outputs, bool any)
{
    struct stat folder;
    const char *name = name_of(read), *ending = strrchr(name, '.');
    bool fits = any ? ending && !strcasecmp(ending, outputs->ending) : is_numbered_so(name, outputs->name);
    return fits && stat_folder(read, &folder) && folder.st_ino == outputs->folder.st_ino &&
           folder.st_dev == outputs->folder.st_dev;
}

static bool meets_globbed(const char *source, const outputs *outputs)
{
    glob_t found = {0};
    bool meets = false;
    if (!glob(source, GLOB_BRACE, NULL, &found))
        for (size_t i = 0; i < found.gl_pathc && !meets; i++)
            meets = is_among(found.gl_pathv[i], outputs, true);
    globfree(&found);
    return meets;
}

static bool meets_numbered(const char *source, const outputs *outputs)
{
    enum { FIRST_NUMBERS = 5 }; /* where FFmpeg's image2 looks for the first */
    char path[4200];
    for (int i = 0; i < INT_MAX && av_get_frame_filename(path, sizeof path, source, i) >= 0; i++) {
        if (access(path, F_OK) && i >= FIRST_NUMBERS) break;
        if (is_among(path, outputs, false)) return true;
    }
    return false;
}

bool lt_stills_meet(const char *output, const char *source)
{
    outputs outputs = {.name = name_of(output), .ending = strrchr(output, '.')};
    if (!lt_stills_is_picture(output) || !stat_folder(output, &outputs.folder)) return false;
    if (!lt_video_is_sequence(source)) return is_among(source, &outputs, false);
    return lt_video_is_glob(source) ? meets_globbed(source, &outputs) : meets_numbered(source, &outputs);
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

/* Pictures of another run must not pass for this one's. What bears higher numbers is not ours to take away: whose it is, nobody knows. */
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
