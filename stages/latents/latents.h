/* latents.h - the stage `latents`: clips of the cache as streams of latents. */
#ifndef LT_LATENTS_H
#define LT_LATENTS_H

#include "cache/cache.h"
#include "stages/manifest/journal.h"
#include "stages/runtime/stage.h"

extern const lt_stage lt_latents_stage;

typedef struct lt_latents_config {
    const char *clips, *digest;
} lt_latents_config;

/* ---- which clips (clips.c) ------------------------------------------------------------------------------ */

/* Complete clips of a cache whose names match a pattern, of those of one name the newest. The number of a clip stays what it was:
 * the list is kept in the run folder, clips that came into the cache since are put behind it. Of a name that is in the list a
 * newer clip is taken when the run is through with the older one; until then the run keeps to what it has begun with. */
typedef struct lt_cached_clips {
    char **names; /* "NAME/DIGEST" */
    uint32_t n, room;
    uint32_t n_several; /* names that the cache holds more than once */
    char several[LT_CACHE_CLIP_BYTES + LT_CACHE_DIGEST_BYTES +
                 32]; /* the first of them, and since when it is there */
} lt_cached_clips;

/* run_folder: "" when planning, then nothing is kept; journal: NULL where the run has none. E_NOT_FOUND when no clip matches, or
 * several of one name do of which it is not known when they were made; E_IO, E_NO_MEMORY, E_FORMAT. On failure the list is
 * empty. */
lt_status lt_cached_clips_find(lt_cached_clips *clips, lt_cache *cache, const lt_latents_config *config,
                               const char *run_folder, const lt_journal *journal, lt_err *err);
void lt_cached_clips_finish(lt_cached_clips *clips);
/* Take a clip out of the list; the last one gets its number. For planning alone. */
void lt_cached_clips_drop(lt_cached_clips *clips, uint32_t index);
/* Name and digest of clip `index`. */
void lt_cached_clips_get(const lt_cached_clips *clips, uint32_t index, char name[LT_CACHE_CLIP_BYTES],
                         char digest[LT_CACHE_DIGEST_BYTES]);

/* What clip NAME/DIGEST is known by in a run's journal: hex. */
void lt_cached_clip_key(const char *name_and_digest, char key[33]);

/* Whether the option `clips` is a pattern, and not one name. */
bool lt_is_pattern(const char *clips);

#endif
