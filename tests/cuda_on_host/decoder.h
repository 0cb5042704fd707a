/* decoder.h - what a test that links the decoder on the host can ask of it. */
#ifndef FAKE_CUDA_DECODER_H
#define FAKE_CUDA_DECODER_H

#include <stdbool.h>

typedef struct fake_decoder_state {
    bool declines;       /* frames are software's: a profile that it does not have */
    bool unknown_layout; /* frames come in a layout that nobody knows */
    long fails_after;    /* frames of the process that are decoded before none is; -1: all */
} fake_decoder_state;

extern fake_decoder_state fake_decoder;

#endif
