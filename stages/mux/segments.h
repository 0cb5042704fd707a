/* segments.h - the list of finished segments of a clip, and the folder they lie in. What stands in the
 * list is durable and never encoded again. */
#ifndef LT_MUX_SEGMENTS_H
#define LT_MUX_SEGMENTS_H

#include "core/core.h"

typedef struct lt_segment_entry {
    int64_t first, frames; /* of the clip */
    int64_t bytes;         /* of the file */
    int64_t pts, end;      /* first timestamp, and end of the last frame, in the clip's time base */
    int reorder;           /* places a picture may be coded after its turn */
} lt_segment_entry;

typedef struct lt_segment_list {
    char *folder, *suffix, *manifest; /* <run>/segments, "mp4", <run>/segments.json */
    char digest[33];                  /* of the stream and all settings of mux */
    int time_base_num, time_base_den;
    int64_t n, capacity;
    lt_segment_entry *entries;
} lt_segment_list;

/* Read the list of clip `clip` in run_folder and check it: segments that follow each other from frame 0
 * and whose files have the size noted are kept, the first that does not and all after it are forgotten and
 * their files removed. A list with another digest is dropped whole. Makes the folder. *list is filled,
 * lt_segment_list_finish frees it. E_IO and such. */
lt_status lt_segment_list_open(lt_segment_list *list, const char *run_folder, uint32_t clip,
                               const char *suffix, const char digest[33], int time_base_num,
                               int time_base_den, lt_err *err);
void lt_segment_list_finish(lt_segment_list *list);

/* Path of segment `index`, temporary while it is being written or final. path has room for path_bytes. */
void lt_segment_path(const lt_segment_list *list, int64_t index, bool temporary, char *path,
                     size_t path_bytes);

/* Segment number list->n has been written to its temporary path and synced: rename it into place, note it,
 * make the list durable. */
lt_status lt_segment_list_add(lt_segment_list *list, const lt_segment_entry *entry, lt_err *err);

/* The output is complete: remove all segments, their folder and the list. */
void lt_segment_list_remove(const lt_segment_list *list);

/* Frames of the clip that are durable. */
int64_t lt_segment_list_frames(const lt_segment_list *list);

#endif
