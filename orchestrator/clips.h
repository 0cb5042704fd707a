/* clips.h - clips of a dataset: what became of each, kept so that a later part of the run passes over what is done.
 *
 *     clips.jsonl    a line a clip that all sinks are through with (stages/manifest/journal.h); appended
 *     failed.json    clips that failed in this part of the run: a manifest again, with the reason as "error" */
#ifndef LT_ORCHESTRATOR_CLIPS_H
#define LT_ORCHESTRATOR_CLIPS_H

#include "orchestrator/run.h"

/* Whether the plan's sources give clips that may fail alone. */
bool lt_plan_is_dataset(const lt_run_plan *plan);

/* The sinks that the clips of a stage come to, bits by stage: those with the same source. 0: its clips are of no dataset. */
uint64_t lt_clip_sinks(const lt_run *run, int stage);

/* A sink is through with a clip. When all are to which it comes, it is written down and counted: as failed where one of them failed, else as
 * passed over where one was told so. */
void lt_clip_ended(lt_run *run, lt_replica *replica, const Lt__Wire__ClipEnd *end);

/* Stage `stage` cannot do this clip without dying: abandon the clip. False where it is of no dataset. */
bool lt_clip_doom(lt_run *run, int stage, uint32_t clip, const char *reason);
/* Tell a replica that was started again which clips are abandoned. */
void lt_clips_tell(lt_run *run, lt_replica *replica);

/* Before the first stage starts, and after the last one ended: failed.json. That of an earlier part stays where this one did not get to
 * its end and saw no failure. */
void lt_clips_begin(lt_run *run);
lt_status lt_clips_end(lt_run *run, lt_err *err);

#endif
