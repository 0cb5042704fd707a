/* tool.h - what the commands of `latents` share. */
#ifndef LT_CACHE_TOOL_H
#define LT_CACHE_TOOL_H

#include <jansson.h>

#include "cache/cache.h"

enum { FINE = 0, FAILED = 1, USAGE = 2 };

typedef struct arguments {
    const char *command, *folder, *clip, *out; /* clip: the first argument after the cache, whatever it is */
    lt_cache_unsaid unsaid;                    /* import */
    bool json, newest;
} arguments;

/* Say the sentence; the exit code. */
int lt_tool_failed(const lt_err *err);
/* Print one JSON object a line, and take it. */
int lt_tool_json(json_t *object, int code);
/* "1.5 GiB", in text. */
const char *lt_tool_bytes(int64_t bytes, char text[32]);
/* Say that a clip's state is damaged, and what takes it out; FAILED. */
int lt_tool_damaged(const char *folder, const lt_cache_summary *clip);
/* The one clip that NAME, NAME/DIGEST or NAME/BEGINNING means; of several, where `complete` says so, the one that is complete. */
lt_status lt_tool_find_clip(lt_cache *cache, const char *wanted, bool complete, lt_cache_summary *found,
                            lt_err *err);

/* ---- change.c: commands that write ---------------------------------------------------------------------- */

int lt_tool_import(lt_cache *cache, const arguments *a);
int lt_tool_copy(lt_cache *cache, const arguments *a);
int lt_tool_remove(lt_cache *cache, const arguments *a);

/* ---- gc.c ------------------------------------------------------------------------------------------------- */

int lt_tool_gc(lt_cache *cache, const arguments *a);

#endif
