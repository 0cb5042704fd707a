/* video.h - video files in and out: frames by number, exactly; encoding into files. What decode, mux and the
 * tools share of FFmpeg.
 *
 * Frames leave and enter as RGB, [height, width, 3], u8 (bits 8) or native u16 over the full range 0..65535
 * (bits 16). Both ways the conversion uses the stream's own matrix and range and is bit-exact: the same on
 * every machine and for every number of threads.
 *
 * Threads: an object belongs to one thread at a time; different objects are independent. Files are untrusted:
 * what is wrong with one is an error sentence, never a crash. */
#ifndef LT_VIDEO_H
#define LT_VIDEO_H

#include "core/core.h"

struct AVFormatContext;
struct AVPacket;
struct lt_yuv; /* kernels/colour.h */

/* ---- reading ----------------------------------------------------------------------------------------- */

/* How a picture is brought to a wanted size, its pixel aspect considered: fill it and cut what is over in
 * equal parts, fit inside with black bars, or distort. */
typedef enum { LT_FIT_CROP, LT_FIT_PAD, LT_FIT_STRETCH } lt_video_fit;

/* A GPU that decodes, whose frames may stay in its memory. */
typedef struct lt_video_gpu lt_video_gpu;

/* Which frames of which video, and how they shall look. All zero but `input`: every frame as it is. */
typedef struct lt_video_request {
    const char *input; /* file, URL, or "lavfi:" and a filter graph without inputs; borrowed for the call */
    lt_size size;      /* 0, 0: the source's own, with the source's pixel aspect; else square pixels */
    lt_video_fit fit;
    int bits;         /* 8 or 16; 0: 16 where the source has more than 8, else 8 */
    int threads;      /* of the decoder; below 1: 1. Changes no pixel */
    double start;     /* seconds after the first frame: earlier frames are left out */
    double end;       /* seconds after the first frame: frames from here on are left out; 0: none */
    int64_t frames;   /* at most so many selected; 0: all */
    bool pad;         /* fewer than `frames`: the last one is repeated up to them */
    int64_t interval; /* every interval-th; below 1: 1 */
    const lt_size
        *buckets; /* the size is the one of these whose shape is nearest to the picture's; NULL: `size` */
    int n_buckets;
    bool one_field; /* of interlaced pictures take the field that was first, stretched to the height */
    bool exact;     /* scale a box of whole pixels as Pillow does (resample.h), instead of by FFmpeg */
    /* lite-sora's draws (loader.h), of seed: an interval, a start, a place of the box that is cut out, of the frames between `start`
     * and `end`. Without them `interval`, `start`, the middle. Intervals and starts need `frames`. */
    bool random_interval, random_start, random_crop;
    uint64_t seed;
    bool
        tries_end; /* decode the last frames, too, where the container does not say how much it holds: it may have been cut off */
    double fps;    /* > 0: the frame that is shown at each k / fps (repeated, or left out, as needed) */
    const char *
        hwaccel; /* NULL or "none": software decodes; else lt_hwaccel_open's (hwaccel.h): with "auto" software does where it must */
    const lt_video_gpu *
        gpu; /* frames stay in its memory (lt_video_read_there), as they are: no size, field or box; then hwaccel is its name. NULL: none does */
} lt_video_request;

/* What a video is, as numbers of FFmpeg's enumerations (= ITU-T H.273); as tagged, unspecified where not. */
typedef struct lt_video_colour {
    int primaries, transfer, matrix, range;
} lt_video_colour;

typedef struct lt_video_info {
    int width, height;                 /* of frames as read: multiples of 8, edge pixels repeated */
    int visible_width, visible_height; /* the picture in their upper left corner */
    int sample_aspect_num, sample_aspect_den;
    int rotation;                  /* degrees clockwise a player still has to turn; rotation by quarters
                                           is applied already */
    int bits, depth;               /* 8 or 16; that the source's samples have */
    bool has_alpha, has_mastering; /* transparency, HDR10's metadata: neither is read */
    lt_video_colour colour;
    int time_base_num, time_base_den;
    int64_t n_frames;   /* selected, at least 1 */
    const int64_t *pts; /* of the selected frames, rising */
    int64_t last_duration;
    int64_t source_frames;           /* in the file */
    double source_start, source_end; /* of the file's whole video, seconds */
    const char *codec;               /* "h264"; "lavfi" */
    int source_width, source_height; /* as coded */
    char fingerprint[33];            /* XXH3-128 of size, ends and 64 spread blocks (of a graph: its text) */
    char digest[33];                 /* of the fingerprint and of all that decides frames and pixels */
    bool interlaced;                 /* the first picture was */
    int rate_num, rate_den;          /* frames a second as the container says; 0: it does not */
    int64_t skipped_leading;         /* undecodable frames before the first key frame, left out */
    int64_t restarts;                /* of the file's clock: its parts follow on each other (timeline.h) */
    char hwaccel[64],
        hwaccel_why[256]; /* what decodes, "": software; and why, where hardware was to if it can */
} lt_video_info;

typedef struct lt_video lt_video;

/* Open, find every frame's timestamp (one pass over the file without decoding, where timestamps allow it) and
 * select. E_NOT_FOUND: no such file, no video in it, nothing selected. E_FORMAT: not a video, damaged, cut
 * off in the middle. E_UNSUPPORTED: no decoder, an endless graph, a source that cannot be read twice. */
lt_status lt_video_open(lt_video **video, const lt_video_request *request, lt_err *err);
void lt_video_close(lt_video *video);
const lt_video_info *lt_video_get_info(const lt_video *video);

/* Selected frame `index` (0 .. n_frames-1) into rgb: [height, width, 3] of bits, the caller's. In order it is
 * cheap; out of order it seeks to the key frame before and checks timestamps, so that the bytes are those of
 * a run from the start. E_FORMAT names a frame that is damaged or missing; E_UNSUPPORTED one whose size
 * changes. rgb is then undefined, the video may be used on. */
lt_status lt_video_read(lt_video *video, int64_t index, void *rgb, lt_err *err);

/* ---- frames that stay on a GPU ------------------------------------------------------------------------ */

/* Open GPU number `index` for decoding, in the context in which CUDA's runtime works in this process, so that what is decoded there has an
 * address for both. It must come before the process uses this GPU by CUDA's runtime in any other way: FFmpeg takes over no context that
 * was made with other settings than its own. E_NOT_FOUND: this FFmpeg has no CUDA, or there is no such GPU; E_UNSUPPORTED: the GPU is in use
 * already; E_NO_MEMORY. */
lt_status lt_video_gpu_open(lt_video_gpu **gpu, int index, lt_err *err);
void lt_video_gpu_close(lt_video_gpu *gpu); /* after the videos; takes NULL */

/* Selected frame `index` where it lies in the GPU's memory, of a video that was opened with request->gpu. It stays there until the next call
 * for this video. What fills it has been asked of the GPU's default stream; what reads it must have been waited for before the next call.
 * Errors of lt_video_read, and E_DEVICE_LOST: the GPU does not decode any more what it has decoded before. */
lt_status lt_video_read_there(lt_video *video, int64_t index, struct lt_yuv *picture, lt_err *err);

/* About what a decoder's surfaces take of the memory of the hardware that decodes: worked out of the size and of how many frames refer to each
 * other. 0 where software decodes. */
size_t lt_video_device_bytes(const lt_video *video);

/* ---- live inputs: read once, in order, until they end ------------------------------------------------- */

typedef struct lt_video_live {
    int fd, head_fd; /* the input, open, and a memfd of what was read of it before; 0: open request->input */
    bool keeps;      /* append what is read to the memfd, for who reads it next */
    int (*interrupted)(
        void *); /* other than 0: the input shall end now; NULL: never. Asked while waiting, on any thread */
    /* Given each packet that is not of the video, as it comes, on the reader's thread; the packet is borrowed and may be written to.
     * First NULL, when the input has been opened: of its streams, which are all discarded but the video, it switches on those
     * that it wants. NULL: none. */
    void (*other)(void *user, struct AVFormatContext *input, struct AVPacket *packet);
    void *user;
} lt_video_live;

/* Open and wait for the first frame. info: n_frames and source_frames 0, pts NULL, fingerprint and digest new ones at every
 * opening. Of a request's fields, end, pad, fps and the draws are E_UNSUPPORTED. E_NOT_FOUND: ended before a frame
 * came, and as lt_video_open. */
lt_status lt_video_open_live(lt_video **video, const lt_video_request *request, const lt_video_live *live,
                             lt_err *err);

/* The next selected frame into rgb, and its timestamp, which rises from frame to frame; waits. LT_END: there are no
 * more. Frames before the first key frame are left out; damaged ones are taken as they are. */
lt_status lt_video_next(lt_video *video, void *rgb, int64_t *pts, lt_err *err);

/* How long the frame given last is shown, once it was the last. */
int64_t lt_video_last_duration(const lt_video *video);

/* Bytes of one frame as read; and anonymous memory of a process that does nothing but read this video, all
 * in all. */
size_t lt_video_frame_bytes(const lt_video_info *info);
size_t lt_video_peak_bytes(const lt_video *video);

/* True: input is a filter graph ("lavfi:") or a URL ("scheme://"), not a path. */
bool lt_video_is_graph(const char *input);
bool lt_video_is_url(const char *input);
/* True: input names numbered pictures ("%04d.png") or a pattern of the shell ("shots/NAME*.png", pictures by name, compared
 * byte by byte as FFmpeg's image2 does), 25 of them a second, and there is no file of just that name. The second: a
 * pattern of the shell. */
bool lt_video_is_sequence(const char *input);
bool lt_video_is_glob(const char *input);

/* Of a sequence's pictures XXH3-128 of names, sizes and times of change, in hex: another one says that some may have changed. E_IO and
 * such; E_NO_MEMORY. */
lt_status lt_video_stamp_sequence(const char *pattern, char hex[33], lt_err *err);

/* The matrix (FFmpeg's number) that YUV of this tag and height is read and written with. */
int lt_video_matrix(int tagged, int height);

#endif
