/* decode.h - the stage `decode`: video files as streams of frames; one, or those of a manifest. */
#ifndef LT_DECODE_H
#define LT_DECODE_H

#include "cache/cache.h"
#include "stages/device/handover.h"
#include "stages/device/device.h"
#include "stages/manifest/clip_list.h"
#include "stages/manifest/journal.h"
#include "stages/runtime/stage.h"
#include "stages/video/video.h"

extern const lt_stage lt_decode_stage;

enum {
    LT_DECODE_BUCKETS = 64,
    LT_DECODE_OPEN = 3 /* clips of a manifest that are open at once */,
    LT_DECODE_NOTES = 32
};

typedef enum { LT_SHORT_KEEP, LT_SHORT_SKIP, LT_SHORT_PAD } lt_decode_short;

typedef struct lt_decode_config {
    const char *input, *manifest, *base, *shard, *buckets, *name, *caption, *hwaccel;
    lt_size size;
    int fit, scaler, bits, short_clips, audio; /* bits: 0 auto, 1: 8, 2: 16; audio: 0 copy, 1 none */
    int convert;                               /* 0: FFmpeg, 1: the GPU that decodes */
    double start, fps;
    int64_t frames, interval, chunk, ring, seed;
    bool random_interval, random_start, random_crop, deinterlace, live;
    int64_t keep;
} lt_decode_config;

/* ---- what is read (source.c) --------------------------------------------------------------------------- */

/* One clip as it was asked for; strings in the caller's arena. */
typedef struct lt_wanted {
    const char *input, *name, *caption;
    const char *entry, *key; /* "" where there is no manifest */
    double start, end;       /* of the entry, seconds */
    bool tries_end;          /* whether its file was cut off shall be found out, as far as that can be */
} lt_wanted;

/* A description that is still to be kept. */
typedef struct lt_note {
    char *name, *key;
    void *bytes;
    size_t n_bytes;
} lt_note;

typedef struct lt_source {
    const lt_decode_config *config;
    lt_clip_list *list; /* NULL: the option `input` alone */
    lt_journal *journal;
    lt_cache *cache;         /* NULL: none, or not needed */
    const lt_video_gpu *gpu; /* on which frames stay; NULL: none does */
    lt_size buckets[LT_DECODE_BUCKETS];
    int n_buckets;
    bool keeps; /* the cache may be written to */
    lt_note notes[LT_DECODE_NOTES];
    int n_notes;
} lt_source;

/* Whether the options go together; reads nothing. E_INVALID. */
lt_status lt_source_check(const lt_decode_config *config, lt_err *err);
/* The same, and read the manifest. E_INVALID, E_FORMAT, E_NOT_FOUND, E_IO. On
 * failure the source is empty. */
lt_status lt_source_open(lt_source *source, const lt_decode_config *config, lt_err *err);
/* What an earlier part of the run was through with, so that lt_source_next can pass over it. */
lt_status lt_source_remember(lt_source *source, const char *run_folder, const char *cache, lt_err *err);
void lt_source_close(lt_source *source);

uint32_t lt_source_count(const lt_source *source);

/* Clip `index`; strings in arena. */
lt_status lt_source_get(lt_source *source, uint32_t index, lt_arena *arena, lt_wanted *wanted, lt_err *err);
/* The first clip from `index` on that still needs something; *passed: how many do not. LT_END after the last. */
lt_status lt_source_next(lt_source *source, uint32_t index, uint32_t *passed, lt_arena *arena,
                         lt_wanted *wanted, lt_err *err);

/* ---- clips read before (seen.c) -------------------------------------------------------------------------- */

/* Describe a clip from what the cache keeps of it. False: nothing, or it has sound, which must be put aside again. */
bool lt_source_recall(const lt_source *source, const lt_wanted *wanted, lt_stream *stream, lt_arena *arena);
/* Keep a clip's description, some at a time; lt_source_flush: those that wait. */
void lt_source_note(lt_source *source, const lt_stream *stream);
void lt_source_flush(lt_source *source);

/* ---- clips that kill who opens them (trial.c) --------------------------------------------------------------- */

typedef struct lt_trial lt_trial;

/* From here on a child goes on in this process's place (stdin, stdout and all); where it dies of a clip, another one begins here
 * again, and is told. The process itself waits, and ends as the last child does. For a process of one thread that has written
 * nothing yet. NULL: no memory, nothing is tried. */
lt_trial *lt_trial_begin(void);
/* Back to dying of clips: the process stays the child. Takes NULL, as the others do. */
void lt_trial_end(lt_trial *trial);
/* The clip is opened next. E_INVALID: a child has died of it. */
lt_status lt_trial_opens(lt_trial *trial, uint32_t clip, const char *input, lt_err *err);
void lt_trial_opened(lt_trial *trial);

/* ---- one clip (clip.c) ----------------------------------------------------------------------------------- */

/* Open the video of a clip as the configuration and the entry say. */
lt_status lt_source_open_video(const lt_source *source, const lt_wanted *wanted, int threads,
                               lt_video **video, lt_err *err);
lt_video_request lt_source_request(const lt_source *source, const lt_wanted *wanted, int threads);

/* What is known before the file has been opened: name, entry, key. E_NO_MEMORY. */
lt_status lt_source_announce(const lt_source *source, const lt_wanted *wanted, lt_stream *stream,
                             lt_arena *arena, lt_err *err);
/* And everything else. */
lt_status lt_source_describe(const lt_source *source, const lt_wanted *wanted, const lt_video_info *info,
                             lt_stream *stream, lt_arena *arena, lt_err *err);

/* Frames of a clip by chunks, with a ring of those made on the way to another. */
typedef struct lt_chunks lt_chunks;

/* Places of the ring for chunks of this size. */
int64_t lt_chunks_ring(const lt_decode_config *config, size_t unit_bytes);
/* Takes the video. E_NO_MEMORY. */
lt_status lt_chunks_create(lt_chunks **chunks, lt_video **video, const lt_decode_config *config, lt_err *err);
void lt_chunks_destroy(lt_chunks *chunks); /* takes NULL */
/* Frames of chunk `unit` into data. E_FORMAT and such, from reading. */
lt_status lt_chunks_read(lt_chunks *chunks, uint64_t unit, void *data, size_t bytes, lt_err *err);
const lt_video_info *lt_chunks_info(const lt_chunks *chunks);
lt_video *lt_chunks_video(const lt_chunks *chunks);

/* ---- frames that stay on a GPU (gpu.c) --------------------------------------------------------------------- */

/* The GPU that decodes and converts; a zeroed one is none. */
typedef struct lt_decode_gpu {
    lt_video_gpu *decoder;
    lt_stage_device device;
    lt_context *context; /* NULL before the first chunk */
    size_t frame_bytes;  /* that its workspace is for */
    lt_outlet outlet;
} lt_decode_gpu;

/* The number of the GPU that hwaccel names, "cuda" or "cuda:N"; -1: none. */
int lt_decode_gpu_number(const char *hwaccel);
/* With convert = device: open it for the source's videos, before anything else of the process uses a GPU. Else nothing. E_NOT_FOUND,
 * E_UNSUPPORTED. */
lt_status lt_decode_gpu_open(lt_decode_gpu *gpu, lt_source *source, lt_err *err);
void lt_decode_gpu_close(lt_decode_gpu *gpu); /* after the videos */

/* Put into the plan what it takes of the GPU's memory for frames of this size, of `n_open` videos with surfaces of surface_bytes. */
lt_status lt_decode_gpu_plan(const lt_decode_gpu *gpu, size_t frame_bytes, size_t surface_bytes,
                             uint32_t n_open, lt_plan *plan, lt_err *err);

/* Frames first .. first + count - 1 of a clip's video, as RGB, into `output`: on the GPU where they may stay there, else in the host's memory,
 * with the same bytes. */
lt_status lt_decode_gpu_make(lt_decode_gpu *gpu, const lt_setup *setup, lt_video *video, uint64_t first,
                             uint64_t count, lt_payload *output, lt_err *err);

/* What a failure of a video is in truth: E_DEVICE_LOST, where the GPU is gone, else what it was. */
lt_status lt_decode_gpu_blame(const lt_decode_gpu *gpu, lt_status status, lt_err *err);

/* ---- live inputs (live.c) ---------------------------------------------------------------------------------- */

/* Whether the input is one: a pipe, or what live = true says of it. */
bool lt_source_is_live(const lt_decode_config *config, const lt_setup *setup);

/* Chunks of a live input as they come; the last of them are kept. */
typedef struct lt_kept lt_kept;

/* Open the input and wait for its first frame. plans: what is read of a pipe is read again by who runs. */
lt_status lt_kept_open(lt_kept **kept, const lt_source *source, const lt_wanted *wanted,
                       const lt_setup *setup, bool plans, lt_err *err);
void lt_kept_close(lt_kept *kept); /* takes NULL */
const lt_video *lt_kept_video(const lt_kept *kept);
/* The file of what comes beside the pictures (side.h), or "". */
const char *lt_kept_side(const lt_kept *kept);
/* Chunks that are kept, and the memory of those. */
int64_t lt_kept_chunks(const lt_decode_config *config, size_t unit_bytes);

/* Make unit `unit` of the clip, waiting for it; tells the clip's end as soon as it is known. LT_END: it lies behind
 * the end. E_NOT_FOUND: it is not kept any more. */
lt_status lt_kept_process(lt_kept *kept, lt_clip *clip, uint64_t unit, lt_payload *output, lt_err *err);

#endif
