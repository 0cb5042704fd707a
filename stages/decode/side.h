/* side.h - the streams of a source that are not its video: audio, subtitles, chapters. They flow along no
 * edge: decode copies their packets into a file of the run folder, mux adds them at the end. */
#ifndef LT_DECODE_SIDE_H
#define LT_DECODE_SIDE_H

#include "stages/video/video.h"

/* Copy the packets of every audio and subtitle stream, and the chapters, of `input` into
 * run_folder/side.<format> (of clips but the first side-<clip>.<format>), timestamps exact but for an input whose clock starts again (timeline.h), written
 * beside and renamed; of a clip that leaves out more than a second of its source, the packets between its frames and a second to each side. A file that
 * is there already for the same fingerprint and range is kept. Of a source without such streams its chapters and tags alone are kept, in
 * side.txt (FFmpeg's ffmetadata). *path: of the file, in arena; NULL when there is nothing to carry. What
 * cannot be carried is named in the log: streams that no format holds, of which nothing came within 32 MiB and a minute, or that a
 * muxer refuses. Tags of the file, for mux: longtake_fingerprint; longtake_range, of what was copied of a longer source; longtake_start
 * and longtake_end, microseconds between which the source's whole video lies; longtake_shift, whole
 * seconds that were added to all timestamps so that none is negative. E_IO, E_NO_SPACE, E_FORMAT; the
 * partial file is removed. */
lt_status lt_side_copy(const char *input, const lt_video_info *info, const char *run_folder, uint32_t clip,
                       lt_arena *arena, const char **path, lt_err *err);

/* ---- of a live input: as they come ---------------------------------------------------------------------- */

typedef struct lt_side_live lt_side_live;

/* Where the packets of `input` go: run_folder/side.<format>, each written when it comes (with text subtitles, every second), so that
 * the file holds what came whenever who writes it dies. cut_start, cut_end: the clip leaves out some of its source there, and mux what was heard then. NULL: no memory. */
lt_side_live *lt_side_live_create(const char *input, const char *run_folder, bool cut_start, bool cut_end);
/* lt_video_live.other, `side` its user. What cannot be written is said once in the log, and the rest is left out. */
void lt_side_live_take(void *side, struct AVFormatContext *input, struct AVPacket *packet);
/* The file; NULL where there is nothing to carry. */
const char *lt_side_live_path(const lt_side_live *side);
/* No more comes: finish the file. May be called again. */
void lt_side_live_finish(lt_side_live *side);
void lt_side_live_destroy(lt_side_live *side); /* finishes it; takes NULL */

#endif
