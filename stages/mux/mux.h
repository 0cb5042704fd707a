/* mux.h - the stage `mux`: frames, or decoded windows to be blended, into a video file. */
#ifndef LT_MUX_H
#define LT_MUX_H

#include "stages/runtime/stage.h"

extern const lt_stage lt_mux_stage;

#endif
