/* video_clips.h - a folder of small clips for the tests of video, made by the ffmpeg program. */
#ifndef LT_VIDEO_CLIPS_H
#define LT_VIDEO_CLIPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Make a temporary folder; false when there is no ffmpeg program (the test is skipped then, exit code 77). */
bool lt_clips_begin(void);
void lt_clips_end(void); /* removes the folder */

/* Path in the folder; the text lives until the sixteenth call after. */
const char *lt_clips_path(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The path of a folder in the folder, which is made where it is not there yet; the text lives as long. */
const char *lt_clips_folder(const char *name);

/* "name=" and a path in the folder; the text lives until the sixteenth call after. */
const char *lt_clips_option(const char *name, const char *file);

/* Run `ffmpeg -v error -y` with arguments in the folder; aborts when ffmpeg fails. */
void lt_clips_ffmpeg(const char *arguments, ...) __attribute__((format(printf, 1, 2)));

/* av.mp4: 160x96, four seconds at 24 frames a second, H.264 with B-frames, AAC and a title. */
void lt_clips_make_av(void);

/* H.264 whose every picture of 32x32 is coded as two fields, as no encoder here writes it: raw, 25 frames a second. */
void lt_clips_fields(const char *name, int n_frames);

/* A whole file; freed by free(). NULL: it is not there. */
void *lt_clips_load(const char *path, size_t *bytes);
bool lt_clips_same(const char *a, const char *b);
int64_t lt_clips_inode(const char *path); /* -1: not there */

#endif
