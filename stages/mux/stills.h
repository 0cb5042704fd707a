/* stills.h - a clip as picture files, one a frame: written beside, synced, renamed, and counted, so that what is
 * finished is never made again. */
#ifndef LT_MUX_STILLS_H
#define LT_MUX_STILLS_H

#include "stages/video/encoder.h"

typedef struct lt_stills {
    const lt_encoder *encoder; /* borrowed */
    const char *pattern;       /* borrowed: with one "%06d" or "%d" in it, or the path of a single picture */
    int64_t first_number, count;
    int note; /* descriptor of the file that counts */
    char header[64];
} lt_stills;

/* Whether `output` stands for pictures: its ending is that of a picture format. */
bool lt_stills_is_picture(const char *output);
/* Whether it has a number in it, for many of them. */
bool lt_stills_is_numbered(const char *output);
/* FFmpeg's encoder for the ending of `output`, or NULL. */
const char *lt_stills_codec(const char *output);

/* Whether pictures that `source` stands for ("shots/%04d.png", "shots/NAME*.png", "shots/one.png") would be written over: they lie where those
 * of `output` go and have such names. Of a pattern of the shell those of the same ending are enough, since what is made would be read
 * with them. Looks at every picture of the source. */
bool lt_stills_meet(const char *output, const char *source);

/* Go on where `<run_folder>/pictures[-clip].txt` says the same digest stopped; else begin anew, which removes what bears
 * the names of the first n_frames pictures (0: of a live clip, those that follow each other). Others of the pattern stay. stills->count is set to
 * what is finished. E_IO and such. */
lt_status lt_stills_open(lt_stills *stills, const lt_encoder *encoder, const char *pattern,
                         int64_t first_number, const char *run_folder, uint32_t clip, const char digest[33],
                         int64_t n_frames, lt_err *err);
void lt_stills_close(lt_stills *stills);

/* Path of picture `index` of the clip, counted from 0. */
void lt_stills_path(const lt_stills *stills, int64_t index, char path[4096]);

/* Encode the next picture; it is on disk when this returns. E_NO_SPACE, E_IO; nothing is left behind then. */
lt_status lt_stills_write(lt_stills *stills, AVFrame *picture, lt_err *err);

#endif
