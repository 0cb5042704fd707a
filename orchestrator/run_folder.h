/* run_folder.h - the folder beside an output that keeps a run: lock, manifest, logs, report.
 *
 * `<run>.longtake/` where [graph] says `run`, else `<output>.longtake/` for a sink with an option `output` (of "films/{clip}.mp4" it is `films.longtake/`,
 * and of another stage's "films/{clip}.mkv" `films.STAGE.longtake/`; of "%06d.png" in the folder where paths start `pictures.longtake/` there, and of
 * "{clip}.mp4" `clips.longtake/`), else `<cache>.longtake/`, else `<graph>.longtake/`.
 * Every output has one, with a lock; the first one's also holds the manifest:
 *
 *     lock             flock by the orchestrator and every stage; the orchestrator's pid
 *     manifest.json    configuration, its digest, the plan's resolved options, when it began and ended
 *     logs/            STAGE.REPLICA.log, what stages wrote to standard error; appended
 *     report.json      see report.h */
#ifndef LT_ORCHESTRATOR_RUN_FOLDER_H
#define LT_ORCHESTRATOR_RUN_FOLDER_H

#include "orchestrator/graph.h"

enum { LT_MAX_KEPT = 16 };

typedef struct lt_run_folder {
    const char *path;                   /* of the first */
    const char *outputs[LT_MAX_STAGES]; /* files that the sinks write */
    int n_outputs;
    const char *paths[LT_MAX_STAGES]; /* one an output; at least one */
    int locks[LT_MAX_STAGES];         /* descriptors, one a path; every stage inherits them */
    int n_paths;
    bool is_locked; /* all of them, by this process */
    const char *kept
        [LT_MAX_KEPT]; /* files of these folders that stages read, by their real paths: a list of failed clips, say */
    int n_kept;
    const char *inside; /* what a stage reads further down in one of them; NULL: nothing */
} lt_run_folder;

/* Add to `mistakes` that the cache lies in one of a graph's run folders. Stages need not be described. E_NO_MEMORY. */
lt_status lt_run_folder_check(const lt_graph *graph, lt_mistakes *mistakes, lt_arena *arena, lt_err *err);

/* Make the folders and lock them. When another run holds one: E_BUSY at once, naming its pid; when that run's
 * orchestrator is dead, its stages get 10 s to end. *folder is the caller's to finish, also after an error. Strings
 * in `arena`. Errors: E_BUSY, E_NOT_FOUND (a link to nothing), E_IO, E_PERMISSION, E_NO_SPACE. */
lt_status lt_run_folder_lock(const lt_graph *graph, lt_arena *arena, lt_run_folder *folder, lt_err *err);

/* Close the locks: the folders are free once no stage holds them either. `unused`: the run has not begun, so folders
 * with nothing but a lock are removed. */
void lt_run_folder_finish(lt_run_folder *folder, bool unused);

/* Whether a run may begin where none has: E_EXISTS where a file that it would write over is there, whose folder
 * shows no trace of an earlier run. Empty files do not count, nor do patterns, whose files are made one by one. */
lt_status lt_run_folder_check_outputs(const lt_run_folder *folder, lt_err *err);

/* Remove everything but the locks and the files that the run reads. E_INVALID, and nothing is removed, where it reads what lies
 * further down. */
lt_status lt_run_folder_clear(const lt_run_folder *folder, lt_err *err);

/* Whether `path` is one of the files that stay, since a stage reads it. */
bool lt_run_folder_keeps(const lt_run_folder *folder, const char *path, lt_arena *arena);

/* Where an output stands for several files: at {clip}, or at the number of "%06d"; NULL: it is one file. */
const char *lt_output_pattern(const char *output);

/* The run folder that stage `index` is told: that of its own output, else the first. */
const char *lt_run_folder_of(const lt_run_folder *folder, const lt_graph_stage *stage);

/* Write a file whole or not at all: temporary file, fsync, rename, fsync of the folder. */
lt_status lt_write_file(const char *path, const char *text, size_t bytes, lt_err *err);

#endif
