/* store.h - the stage `store`: latents kept in the cache, and no video made of them. */
#ifndef LT_STORE_H
#define LT_STORE_H

#include "stages/runtime/stage.h"

extern const lt_stage lt_store_stage;

#endif
