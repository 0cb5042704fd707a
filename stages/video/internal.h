/* internal.h - what the files of this folder share: the parts of a reader. */
#ifndef LT_VIDEO_INTERNAL_H
#define LT_VIDEO_INTERNAL_H

#include "stages/video/ffmpeg.h"
#include "stages/video/hwaccel.h"
#include "stages/video/resample.h"
#include "stages/video/timeline.h"
#include "stages/video/video.h"

/* Every frame of a source in display order. */
typedef struct lt_video_key {
    int64_t index; /* of the frame */
    int64_t pts, dts;
} lt_video_key;

typedef struct lt_video_table {
    int64_t n, capacity;
    int64_t *pts; /* rising strictly */
    int64_t last_duration;
    AVRational time_base;
    int64_t n_keys, keys_capacity;
    lt_video_key *keys;
    bool counted; /* timestamps do not tell frames apart: they are counted from the start */
    bool mixed; /* some pictures are interlaced and some not, or the other way; also where no parser tells */
    bool promised;           /* the container says how much it holds */
    int64_t missing;         /* frames the container promises and does not have; -1: an unknown number */
    int64_t skipped_leading; /* before the first key frame */
    int64_t restarts;        /* of the input's clock (timeline.h) */
} lt_video_table;

lt_status lt_table_add(lt_video_table *table, int64_t pts, lt_err *err);
lt_status lt_table_add_key(lt_video_table *table, int64_t pts, int64_t dts, lt_err *err);
/* Index of the frame with this timestamp, or -1. */
int64_t lt_table_find(const lt_video_table *table, int64_t pts);
/* Key with the largest index that is not after `index`, or -1. */
int64_t lt_table_key_before(const lt_video_table *table, int64_t index);
void lt_table_finish(lt_video_table *table);

/* True when the frames so far are all a request can select; for sources that need not be run to their end. */
bool lt_table_suffices(const lt_video_table *table, const lt_video_request *request);

/* A video file being demuxed and decoded. */
typedef struct lt_container {
    AVFormatContext *format;
    AVCodecContext *decoder;
    AVPacket *packet;
    AVStream *stream; /* borrowed from format */
    char *url, *name; /* as opened; as in sentences */
    int threads;
    lt_video_live how; /* of a live input */
    bool at_end;       /* the decoder is being drained */
    int64_t next;      /* index of the frame that comes next; -1: unknown, after a seek */
    bool from_start;   /* decoding began with the first packet */
    lt_hwaccel hw;     /* that the next decoder shall use */
    bool follows;      /* packets are moved along one timeline; sound is read for it, too */
    lt_timeline line;
} lt_container;

/* Open the file and choose its video stream; no decoder yet. */
lt_status lt_container_open(lt_container *container, const char *input, int threads, lt_err *err);
void lt_container_close(lt_container *container);
/* Open what is read once, from its start to its end, as `how` says: `pipe` is borrowed (NULL: FFmpeg opens it). No
 * decoder yet. */
lt_status lt_container_open_live(lt_container *container, const char *input, AVIOContext *pipe,
                                 const lt_video_live *how, int threads, lt_err *err);
/* A frame's timestamp, or AV_NOPTS_VALUE. */
int64_t lt_frame_pts(const AVFrame *frame);
/* Back to the first packet (the file is opened again), or to a key frame. */
lt_status lt_container_rewind(lt_container *container, lt_err *err);
lt_status lt_container_open_decoder(lt_container *container, lt_err *err);
/* Next frame the decoder gives; LT_END after the last. */
lt_status lt_container_next(lt_container *container, AVFrame *frame, lt_err *err);
/* Frame `index` of the table, from wherever decoding stands. */
lt_status lt_container_frame(lt_container *container, const lt_video_table *table, int64_t index,
                             AVFrame *frame, lt_err *err);
/* Which frames from key frame number `key` of the table on can be decoded: whole[0] is the key frame's. */
lt_status lt_container_try_end(lt_container *container, const lt_video_table *table, int64_t key, bool *whole,
                               lt_err *err);
/* Fill the table, by timestamps of packets or, where they do not tell frames apart, by decoding once. */
lt_status lt_container_scan(lt_container *container, lt_video_table *table, lt_err *err);

/* A synthetic source: a filter graph that ends in a sink. */
typedef struct lt_graph {
    AVFilterGraph *graph;
    AVFilterContext *sink; /* borrowed */
    char *text;
    int64_t next;
} lt_graph;

lt_status lt_graph_open(lt_graph *graph, const char *text, lt_err *err);
void lt_graph_close(lt_graph *graph);
lt_status lt_graph_next(lt_graph *graph, AVFrame *frame, lt_err *err);
lt_status lt_graph_frame(lt_graph *graph, int64_t index, AVFrame *frame, lt_err *err);
lt_status lt_graph_scan(lt_graph *graph, const lt_video_request *request, lt_video_table *table, lt_err *err);

/* Decoded pictures to RGB of the wanted size, upright. */
typedef struct lt_convert {
    struct SwsContext *sws[2];    /* of whole pictures, of fields */
    enum AVPixelFormat format[2]; /* of the source; a change makes a new sws */
    int source_width, source_height, bits;
    bool one_field;                  /* of a picture that is interlaced only every second row is looked at */
    int scaled_width, scaled_height; /* as decoded, not turned yet */
    bool transpose, flip_x, flip_y;
    int upright_width, upright_height;
    int offset_x, offset_y; /* of the upright picture in the visible one; negative: cut */
    int visible_width, visible_height, width, height;
    int matrix, range;
    int chroma_location;
    uint8_t *scaled; /* one picture */
    int scaled_stride;
    /* Scaling as Pillow does: a box of the upright picture, which has the source's size then, to inner_*. */
    lt_resample *exact; /* NULL: FFmpeg scales */
    int box_x, box_y, box_width, box_height, inner_width, inner_height;
    uint8_t *box, *inner; /* the upright box; the scaled one */
} lt_convert;

/* Geometry from a first frame; `turn` is its display matrix (9 numbers) or NULL. Fills the info's picture. */
lt_status lt_convert_init(lt_convert *convert, const AVFrame *frame, AVRational aspect, const int32_t *turn,
                          const lt_video_request *request, lt_video_info *info, lt_err *err);
void lt_convert_finish(lt_convert *convert);
lt_status lt_convert_frame(lt_convert *convert, const AVFrame *frame, uint8_t *rgb, lt_err *err);

/* The frame at hand, in a GPU's memory, as one that lt_convert_init can look at: of the stream's format, without what is cut off, without data.
 * *like is the caller's. E_UNSUPPORTED: its layout there is not known; E_NO_MEMORY. */
lt_status lt_gpu_describe(const lt_video *video, AVFrame **like, lt_err *err);
/* Once the geometry is known: can the GPU do it? E_UNSUPPORTED with a sentence. */
lt_status lt_gpu_check(const lt_video *video, lt_err *err);
AVBufferRef *lt_gpu_device(const lt_video_gpu *gpu); /* borrowed */

/* What a live input needs beside. */
typedef struct lt_live {
    AVIOContext *pipe; /* NULL: FFmpeg opened the input itself */
    lt_video_live how;
    int64_t head;  /* bytes of the head that were read */
    AVFrame *next; /* the frame after the one that was given, where it had to be looked at */
    bool has_next, at_end;
    int64_t start_pts, last_pts, step; /* of frames; step: of the nominal rate */
    int64_t last_duration;             /* of the frame given last, as the container says; 0: it does not */
    int64_t n_read, n_given, since;    /* frames of the source; of the selection; since the last given */
    double start;
    int64_t frames, interval;
} lt_live;

void lt_live_close(lt_live *live);

struct lt_video {
    bool is_graph;
    lt_container container;
    lt_graph graph;
    lt_video_table table;
    lt_convert convert;
    AVFrame *frame;
    int64_t *selected; /* frame of the source, by selected frame; NULL: the same */
    int64_t *pts;
    char *input;
    lt_video_info info;
    lt_live live;
};

/* The hardware that a request names, for the decoder that is opened next: found before there is a frame; and what became of it, once there
 * is one. E_NOT_FOUND and E_UNSUPPORTED for one that was named. */
lt_status lt_video_find_hwaccel(lt_video *video, const lt_video_request *request, lt_err *err);
lt_status lt_video_settle_hwaccel(lt_video *video, const lt_video_request *request, lt_err *err);

/* Look at video->frame, the first that is wanted: size, format, colour. */
lt_status lt_video_look(lt_video *video, const lt_video_request *request, lt_err *err);
/* Fill the info's rate. */
void lt_video_guess_rate(lt_video *video);
lt_status lt_video_check(const lt_video_request *request, lt_err *err);

/* Selected frame `index` into video->frame. */
lt_status lt_video_seek(lt_video *video, int64_t index, lt_err *err);

/* Path of picture `index` of a sequence; false: there is none. */
bool lt_sequence_path(const char *input, int64_t index, char *path, size_t path_bytes);

/* Each picture of a sequence in order, up to the first of which `visit` does not return LT_OK; returns what it did. E_NO_MEMORY. */
typedef lt_status lt_sequence_visitor(void *user, const char *path, lt_err *err);
lt_status lt_sequence_each(const char *pattern, lt_sequence_visitor *visit, void *user, lt_err *err);

/* Whether numbered pictures go on after the first n, which are there, and a hole; *missing: its path. */
bool lt_sequence_gap(const char *pattern, int64_t n, char *missing, size_t missing_bytes);

/* XXH3-128 of a file's size and blocks, in hex; of numbered pictures, of all of them. */
lt_status lt_fingerprint_file(const char *path, char hex[33], lt_err *err);

#endif
