/* output.h - the final file up to its packets: format, streams, tags and header. Tried before anything is encoded, since what
 * cannot be written then is another configuration; written by lt_join. */
#ifndef LT_MUX_OUTPUT_H
#define LT_MUX_OUTPUT_H

#include "stages/mux/join_sources.h"

#include <libavcodec/bsf.h>

typedef struct lt_output {
    const lt_join_request *request;
    AVFormatContext *file;
    AVBSFContext *filter; /* that pictures go through; NULL: none */
    lt_side side;         /* its targets: streams of `file` */
    int64_t origin;       /* taken off all timestamps, in the clip's time base */
    char left_out[400]; /* of the side file, what the format refuses: "audio (pcm_s16le), ..."; "" nothing */
    const char *other;  /* an ending whose format holds all of it; NULL: not looked for, or none */
} lt_output;

/* A file with the pictures' stream and all of the side file's that the format takes: each is tried, with its header in memory.
 * Nothing is opened for writing yet. E_UNSUPPORTED: the format does not take the pictures; E_INVALID, E_NOT_FOUND: its options (where it would take them without);
 * E_FORMAT: the side file. lt_output_close frees it, on failure too. */
lt_status lt_output_open(lt_output *output, const lt_join_request *request, const AVCodecParameters *pictures,
                         AVRational aspect, lt_err *err);
/* The header into output->file->pb. FFmpeg's error, or 0. *unknown: an option the format does not have, or NULL; freed by av_free. */
int lt_output_header(lt_output *output, char **unknown);
void lt_output_close(lt_output *output);

/* Whether the file can be written: the header, and one picture, encoded by `encoder` as into a segment. The request may lack
 * list, side file and timestamps. output->left_out and other say what would be lost; lt_output_close frees it. Errors:
 * lt_output_open's, the encoder's. */
lt_status lt_output_try(lt_output *output, lt_encoder *encoder, const lt_join_request *request, lt_err *err);

#endif
