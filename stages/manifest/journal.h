/* journal.h - what has become of a dataset's clips in a run: clips.jsonl in the run folder.
 *
 * The orchestrator appends a line a clip when its sinks are through with it:
 *     {"key": "...", "name": "...", "state": "done" | "failed" | "passed over", "digest": "...", "frames": 8,
 *      "result": "out/a.mp4", "reason": "...", "entry": {...}}
 * The last line of a key counts. A line that a kill cut in half is no line.
 *
 * Memory: 24 bytes a clip. Threads: one at a time. */
#ifndef LT_MANIFEST_JOURNAL_H
#define LT_MANIFEST_JOURNAL_H

#include "core/core.h"

typedef struct lt_journal lt_journal;

/* Read the journal of a run folder; one that is not there is empty. E_IO, E_NO_MEMORY. */
lt_status lt_journal_open(lt_journal **journal, const char *run_folder, lt_err *err);
void lt_journal_close(lt_journal *journal); /* takes NULL */

typedef struct lt_journal_entry {
    char name[256], digest[72]; /* of the clip, of its data */
    char result[4096];          /* file that was made; "": the cache holds it */
} lt_journal_entry;

/* Whether anything is noted of a clip: that it is done, has failed, or was passed over. */
bool lt_journal_knows(const lt_journal *journal, const char *key);

/* What was noted of a clip that is done. False: it is not. */
bool lt_journal_find(lt_journal *journal, const char *key, lt_journal_entry *entry);

#endif
