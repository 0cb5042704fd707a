/* hwaccel.h - decoding by hardware, as far as FFmpeg offers it: frames are fetched into host memory as what the software decoder would have
 * given, so that everything behind the decoder is one code.
 *
 * H.264, HEVC, VP8, VP9 and AV1 are standards that define every sample of what a decoder gives, so there hardware changes no byte; of other codecs
 * it may (lt_hwaccel_is_exact).
 *
 * Threads: of the decoder's. A zeroed object is none. */
#ifndef LT_VIDEO_HWACCEL_H
#define LT_VIDEO_HWACCEL_H

#include "stages/video/ffmpeg.h"

typedef struct lt_hwaccel {
    AVBufferRef *device; /* NULL: none */
    const AVCodec *codec;
    enum AVPixelFormat format; /* of frames in its memory */
    char name[64];             /* "cuda" */
    bool declined;             /* a frame came that software has decoded */
    bool stays;                /* frames are not fetched */
    AVFrame *fetched;
} lt_hwaccel;

/* Find a decoder for `codec_id` and open a device for it. wanted: what FFmpeg calls it ("cuda", `ffmpeg -hwaccels`), perhaps with ':' and a
 * device ("cuda:1", "vaapi:/dev/dri/renderD129"); or "auto", the first that opens. E_NOT_FOUND: FFmpeg knows no such name, or there is no
 * such device here; E_UNSUPPORTED: this FFmpeg does not decode the codec by it; E_NO_MEMORY. `hw` is none then. */
lt_status lt_hwaccel_open(lt_hwaccel *hw, const char *wanted, enum AVCodecID codec_id, lt_err *err);
/* The same with a device of CUDA's that is open, and frames that stay in its memory. */
lt_status lt_hwaccel_open_gpu(lt_hwaccel *hw, AVBufferRef *device, enum AVCodecID codec_id, lt_err *err);
/* Takes none. Before the decoder's context goes. */
void lt_hwaccel_close(lt_hwaccel *hw);

/* Let a decoder that is not open yet use it. */
void lt_hwaccel_use(lt_hwaccel *hw, AVCodecContext *decoder);

/* A decoded frame in the device's memory becomes one in the host's, in the format that the software decoder gives. One that is there already
 * stays, and `declined` becomes true; all do where they shall stay. E_DEVICE_LOST: it cannot be fetched; E_UNSUPPORTED: its layout is not known here; E_NO_MEMORY. */
lt_status lt_hwaccel_fetch(lt_hwaccel *hw, const AVCodecContext *decoder, AVFrame *frame, lt_err *err);

/* Samples of `from`, in any layout of up to 16 bits a sample, as those of the planar format `to`, which is as deep or less, and has the
 * same subsampling: exact, for the bits that are left out are empty. False: they are not of that kind. */
bool lt_hwaccel_repack(const AVFrame *from, AVFrame *to);

bool lt_hwaccel_is_exact(enum AVCodecID codec_id);

#endif
