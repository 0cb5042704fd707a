/* disk.h - room on disks: what a run needs and what there is. */
#ifndef LT_ORCHESTRATOR_DISK_H
#define LT_ORCHESTRATOR_DISK_H

#include "orchestrator/plan.h"

/* One file system that a run writes to. */
typedef struct lt_disk {
    const char *path; /* of the output or the cache: the first that lies there */
    uint64_t device;
    uint64_t needed, available;
} lt_disk;

enum { LT_MAX_DISKS = 16 };

/* The file systems of outputs, cache and run folder (`run_folder`), with what the plan says is needed on each. Returns
 * how many. A folder that is not there counts as the one it would be made in. */
int lt_disk_needs(const lt_run_plan *plan, const char *run_folder, lt_disk disks[LT_MAX_DISKS]);

/* Bytes really used by a file, or a folder and all in it; 0 when there is none. */
uint64_t lt_disk_used(const char *path);

/* E_NO_SPACE naming place, need and what is missing, when a disk has less than it needs beyond the `spent` bytes that
 * an earlier part of the run has written already. */
lt_status lt_disk_check(const lt_disk *disks, int n_disks, uint64_t spent, lt_err *err);

#endif
