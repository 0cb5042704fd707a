/* decode.h - the stage `decode`: a video file as a stream of frames. */
#ifndef LT_DECODE_H
#define LT_DECODE_H

#include "stages/runtime/stage.h"

extern const lt_stage lt_decode_stage;

#endif
