/* xxh3.h - XXH3 of long inputs: by the widest vectors of this machine, where the library was built to choose them when it runs.
 * The numbers are those of xxhash.h. */
#ifndef LT_XXH3_H
#define LT_XXH3_H

#include <xxhash.h>

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h> /* defines its functions over those of xxhash.h */
#endif

#endif
