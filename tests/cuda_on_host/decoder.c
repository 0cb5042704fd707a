/* decoder.c - FFmpeg's hardware on the CUDA device of the host: a library to be loaded before FFmpeg's (LD_PRELOAD, or linked first), whose
 * functions decode in software what then lies in memory of the device, as NVDEC lays it out.
 *
 * As the real one it works on the device's default stream (a blocking stream that the default one waits for), so what it gives is there only for
 * who waits for that; it uses a surface again once nobody refers to its frame; and it takes over the runtime's context only if it was there
 * first. Pictures begin at column 64, row 2 of their surfaces.
 *
 * LT_DECODER_COUNTS=FILE: when a process ends that has copied anything, a line is added: its program, the bytes that the plug-in has had brought to the
 * device, and those from it.
 *
 * Faults, by environment variables, once each: when FILE is not there, which is made then.
 *     LT_DECODER_LOSE=N:FILE    the device is lost after the N-th frame of a process */
#include "tests/cuda_on_host/decoder.h"

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libavcodec/avcodec.h>
#include <libavutil/hwcontext.h>
#include <libavutil/pixdesc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LEFT = 64, TOP = 2, MOST_DECODERS = 64, PRIMARY = 1 };

fake_decoder_state fake_decoder = {.fails_after = -1};

/* ---- devices ------------------------------------------------------------------------------------------- */

static struct {
    bool shares_context; /* was there before the runtime */
    const AVCodecContext *decoders[MOST_DECODERS];
    cudaStream_t stream;
    long n_frames;
} hardware;

const AVCodecHWConfig *avcodec_get_hw_config(const AVCodec *codec, int index)
{
    static const char *const names[] = {"h264", "hevc", "vp9", "mpeg2video"};
    static const AVCodecHWConfig config = {.pix_fmt = AV_PIX_FMT_CUDA,
                                           .methods = AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX,
                                           .device_type = AV_HWDEVICE_TYPE_CUDA};
    for (size_t i = 0; i < sizeof names / sizeof *names && index == 0; i++)
        if (!strcmp(codec->name, names[i])) return &config;
    return NULL;
}

int av_hwdevice_ctx_create(AVBufferRef **device, enum AVHWDeviceType type, const char *name,
                           AVDictionary *options, int flags)
{
    int count = 0;
    *device = NULL;
    if (type != AV_HWDEVICE_TYPE_CUDA || cudaGetDeviceCount(&count) || (name && atoi(name) >= count))
        return AVERROR_EXTERNAL;
    if (flags & PRIMARY && fake_cuda_is_active() && !hardware.shares_context) return AVERROR(ENOTSUP);
    hardware.shares_context |= flags & PRIMARY;
    *device = av_buffer_allocz(sizeof flags);
    memcpy((*device)->data, &flags, sizeof flags);
    return 0;
}

/* ---- decoders ------------------------------------------------------------------------------------------ */

static bool uses_it(const AVCodecContext *decoder)
{
    for (int i = 0; i < MOST_DECODERS; i++)
        if (hardware.decoders[i] == decoder) return true;
    return false;
}

/* The real function of this name. */
static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

int avcodec_open2(AVCodecContext *decoder, const AVCodec *codec, AVDictionary **options)
{
    int (*open)(AVCodecContext *, const AVCodec *, AVDictionary **);
    *(void **)&open = real("avcodec_open2");
    int at = 0;
    for (int i = 0; i < MOST_DECODERS; i++) {
        if (hardware.decoders[i] == decoder) hardware.decoders[i] = NULL;
        if (!hardware.decoders[i]) at = i;
    }
    if (!decoder->hw_device_ctx) return open(decoder, codec, options);
    hardware.decoders[at] = decoder;
    av_buffer_unref(&decoder->hw_device_ctx);
    decoder->get_format = avcodec_default_get_format;
    return open(decoder, codec, options);
}

/* ---- what is copied ------------------------------------------------------------------------------------ */

static uint64_t n_up, n_down;
static bool is_decoding;

/* The plug-in's copies go by way of this one, too. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    cudaError_t (*copy)(void *, const void *, size_t, cudaMemcpyKind, cudaStream_t);
    *(void **)&copy = real("cudaMemcpyAsync");
    if (kind == cudaMemcpyHostToDevice && !is_decoding) n_up += bytes;
    if (kind == cudaMemcpyDeviceToHost) n_down += bytes;
    return copy(to, from, bytes, kind, stream);
}

__attribute__((destructor)) static void write_counts(void)
{
    const char *path = getenv("LT_DECODER_COUNTS");
    FILE *file = path && n_up + n_down ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "%s %llu %llu\n", program_invocation_short_name, (unsigned long long)n_up,
            (unsigned long long)n_down);
    fclose(file);
}

/* ---- surfaces ------------------------------------------------------------------------------------------ */

/* Memory of the device for one frame; those that nobody refers to are used again. */
typedef struct surface {
    struct surface *next;
    uint8_t *memory;
    size_t bytes;
    enum AVPixelFormat format;
    int width, height;
    ptrdiff_t pitch;
} surface;

static surface *idle;

static void check(cudaError_t error, const char *what)
{
    if (error == cudaSuccess) return;
    fprintf(stderr, "decoder on host: %s: %s\n", what, cudaGetErrorString(error));
}

/* Nobody refers to it any more: another frame may come, whoever is still reading. */
static void give_back(void *opaque, uint8_t *data)
{
    surface *s = opaque;
    cudaMemset(s->memory, 0x55, s->bytes);
    s->next = idle;
    idle = s;
}

static surface *take(size_t bytes)
{
    for (surface **at = &idle; *at; at = &(*at)->next) {
        surface *s = *at;
        if (s->bytes != bytes) continue;
        *at = s->next;
        return s;
    }
    surface *s = calloc(1, sizeof *s);
    s->bytes = bytes;
    cudaError_t error = cudaMalloc((void **)&s->memory, bytes);
    check(error, "no surface");
    if (error == cudaSuccess) return s;
    free(s);
    return NULL;
}

static enum AVPixelFormat layout_of(const AVFrame *planar)
{
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(planar->format);
    bool deep = d->comp[0].depth > 8;
    if (d->log2_chroma_h)
        return d->comp[0].depth > 10 ? AV_PIX_FMT_P016LE : deep ? AV_PIX_FMT_P010LE : AV_PIX_FMT_NV12;
    if (d->log2_chroma_w) return deep ? AV_PIX_FMT_P210LE : AV_PIX_FMT_NV16;
    return deep ? AV_PIX_FMT_YUV444P16LE : AV_PIX_FMT_YUV444P;
}

/* Where row y of plane p begins; planes lie one behind the other, as large as luma. */
static size_t row_of(const surface *s, int p, int y)
{
    return (size_t)(p * s->height + y) * (size_t)s->pitch;
}

/* Component c of the planar frame into the host's copy of the surface. */
static void lay_out(const AVFrame *planar, int c, const surface *s, uint8_t *copy)
{
    const AVPixFmtDescriptor *from = av_pix_fmt_desc_get(planar->format),
                             *to = av_pix_fmt_desc_get(s->format);
    int sx = c ? from->log2_chroma_w : 0, sy = c ? from->log2_chroma_h : 0, step = to->comp[c].step;
    int shift = to->comp[c].depth + to->comp[c].shift - from->comp[c].depth;
    for (int y = 0; y < AV_CEIL_RSHIFT(planar->height, sy); y++) {
        const uint8_t *a = planar->data[c] + (ptrdiff_t)y * planar->linesize[c];
        uint8_t *b =
            copy + row_of(s, to->comp[c].plane, y + (TOP >> sy)) + (LEFT >> sx) * step + to->comp[c].offset;
        for (int x = 0; x < AV_CEIL_RSHIFT(planar->width, sx); x++, b += step) {
            if (from->comp[c].depth > 8) {
                uint16_t wide = (uint16_t)(((const uint16_t *)(const void *)a)[x] << shift);
                memcpy(b, &wide, 2);
            } else {
                *b = a[x];
            }
        }
    }
}

/* A surface with the picture on its way to it; NULL: there is none. */
static surface *fill(const AVFrame *planar)
{
    enum AVPixelFormat format = layout_of(planar);
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(format);
    surface shape = {.format = format, .width = planar->width + LEFT, .height = planar->height + TOP + 3};
    shape.pitch = (ptrdiff_t)(shape.width + 16) / 16 * 16 * (d->comp[0].depth > 8 ? 2 : 1);
    size_t bytes = row_of(&shape, 3, 0);
    surface *s = take(bytes);
    uint8_t *copy = s ? malloc(bytes) : NULL;
    if (!copy) return NULL;
    s->format = shape.format;
    s->width = shape.width;
    s->height = shape.height;
    s->pitch = shape.pitch;
    memset(copy, 0xaa, bytes);
    for (int c = 0; c < 3; c++) lay_out(planar, c, s, copy);
    if (!hardware.stream) check(cudaStreamCreate(&hardware.stream), "no stream");
    is_decoding = true;
    check(cudaMemcpyAsync(s->memory, copy, bytes, cudaMemcpyHostToDevice, hardware.stream), "decoding");
    is_decoding = false;
    free(copy);
    return s;
}

/* ---- frames -------------------------------------------------------------------------------------------- */

/* True the first time anyone asks for this file. */
static bool once(const char *path)
{
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static void lose_device(void)
{
    const char *text = getenv("LT_DECODER_LOSE");
    char *file;
    long at = text ? strtol(text, &file, 10) : 0;
    if (text && *file == ':' && hardware.n_frames == at && once(file + 1))
        fake_cuda_fail(1, cudaErrorLaunchFailure);
}

static int put(AVCodecContext *decoder, AVFrame *frame)
{
    surface *s = fill(frame);
    AVFrame *there = av_frame_alloc();
    if (!s || !there) return AVERROR(ENOMEM);
    decoder->sw_pix_fmt = frame->format;
    av_frame_copy_props(there, frame);
    there->format = AV_PIX_FMT_CUDA;
    there->width = s->width;
    there->height = frame->height + TOP;
    there->crop_left = LEFT;
    there->crop_top = TOP;
    there->buf[0] = av_buffer_create(s->memory, s->bytes, give_back, s, 0);
    there->hw_frames_ctx = av_buffer_allocz(sizeof(AVHWFramesContext));
    AVHWFramesContext *frames = (AVHWFramesContext *)(void *)there->hw_frames_ctx->data;
    frames->format = AV_PIX_FMT_CUDA;
    frames->sw_format = fake_decoder.unknown_layout ? AV_PIX_FMT_YUV410P : s->format;
    for (int i = 0; i < av_pix_fmt_count_planes(s->format); i++) {
        there->data[i] = s->memory + row_of(s, i, 0);
        there->linesize[i] = (int)s->pitch;
    }
    av_frame_unref(frame);
    av_frame_move_ref(frame, there);
    av_frame_free(&there);
    hardware.n_frames++;
    lose_device();
    return 0;
}

int avcodec_receive_frame(AVCodecContext *decoder, AVFrame *frame)
{
    int (*receive)(AVCodecContext *, AVFrame *);
    *(void **)&receive = real("avcodec_receive_frame");
    int rc = receive(decoder, frame);
    if (rc || !uses_it(decoder) || fake_decoder.declines) return rc;
    if (fake_decoder.fails_after >= 0 && hardware.n_frames >= fake_decoder.fails_after) {
        av_frame_unref(frame);
        return AVERROR_EXTERNAL;
    }
    return put(decoder, frame);
}

/* Out of the device's memory, without what is cut off at the right and at the bottom. */
int av_hwframe_transfer_data(AVFrame *to, const AVFrame *from, int flags)
{
    const AVHWFramesContext *frames = (const AVHWFramesContext *)(const void *)from->hw_frames_ctx->data;
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(frames->sw_format);
    to->format = frames->sw_format;
    to->width = from->width;
    to->height = from->height;
    int rc = av_frame_get_buffer(to, 0);
    for (int p = 0; p < av_pix_fmt_count_planes(to->format) && rc >= 0; p++) {
        int rows = AV_CEIL_RSHIFT(from->height, p ? d->log2_chroma_h : 0);
        int columns = AV_CEIL_RSHIFT(from->width, p ? d->log2_chroma_w : 0);
        size_t bytes = (size_t)columns * (size_t)d->comp[p ? 1 : 0].step;
        for (int y = 0; y < rows; y++)
            check(cudaMemcpy(to->data[p] + (ptrdiff_t)y * to->linesize[p],
                             from->data[p] + (ptrdiff_t)y * from->linesize[p], bytes, cudaMemcpyDeviceToHost),
                  "fetching");
    }
    return rc;
}
