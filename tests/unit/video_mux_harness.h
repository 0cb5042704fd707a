/* video_mux_harness.h - what the tests of mux share: whole runs, and the times and the sound of what they wrote.
 * What goes wrong fails the cmocka test that calls. */
#ifndef LT_VIDEO_MUX_HARNESS_H
#define LT_VIDEO_MUX_HARNESS_H

/* mux's options for segments that are soon made and short. */
#define LT_RUN_FAST "options=crf=20:preset=veryfast", "segment=24"

/* All of input into output by way of the run folder `folder`, with LT_RUN_FAST; the three are names in the folder
 * of clips. more: another option of decode, or NULL. */
void lt_run_whole(const char *folder, const char *input, const char *output, const char *more);

/* Timestamps of two files, frame by frame, in seconds. */
void lt_harness_same_times(const char *a, const char *b, double tolerance);

/* First and last audio timestamps and their number, by FFmpeg itself. */
typedef struct lt_harness_audio {
    double first, end;
    int n;
} lt_harness_audio;

lt_harness_audio lt_harness_audio_of(const char *path);

#endif
