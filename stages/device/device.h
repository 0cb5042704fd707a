/* device.h - where a stage computes: its option `device`, and what a plan says of it.
 *
 * Threads: the stage's main thread. */
#ifndef LT_STAGE_DEVICE_H
#define LT_STAGE_DEVICE_H

#include "kernels/tensor.h"
#include "stages/runtime/stage.h"

/* Rows of a stage's option table for `device` and `dtype`, which are fields of its configuration: a const char *, and an int that
 * lt_stage_dtype understands. `of` ends the sentence on dtype. */
/* clang-format off */
#define LT_DEVICE_OPTIONS(config, of)                                                                                                   \
    {"device", LT_OPT_STRING, offsetof(config, device), "cpu", 0, 0, NULL, NULL,                                                        \
     "where it is computed: cpu, cuda:0 or another number, auto (the first GPU that works, else cpu), or ref for scalar float64", false}, \
    {"dtype", LT_OPT_ENUM, offsetof(config, dtype), "f32", 0, 0, "f32|bf16|f16", NULL,                                                  \
     "of activations and weights while computing" of "; f16 on GPUs only", false}
/* clang-format on */

lt_dtype lt_stage_dtype(int choice);

typedef struct lt_stage_device {
    char name[32];       /* never "auto" */
    lt_device_info info; /* at the time of opening */
    lt_err why;          /* of "auto" that is the CPU */
    bool reported;
} lt_stage_device;

/* What the option stands for, looked at. The errors of lt_device_probe. */
lt_status lt_stage_device_open(lt_stage_device *device, const char *option, lt_err *err);

/* Say once in the log why evaluations on the context are not recorded (kernels/replay.h), where some are not. */
void lt_stage_device_report(lt_stage_device *device, const lt_context *context);

/* What an option `memory` stands for: itself, or where it is 0, half of what the device has free less what transfers, the driver and its libraries take;
 * on the host a quarter of what the system has free. */
size_t lt_stage_device_memory(const lt_stage_device *device, int64_t option);

/* Put into the plan what the context of one replica takes: into peak_bytes, to which it is added, where the device works in the host's memory,
 * else into the device's part, and the host's memory that goes with it into peak_bytes, with notes that name the allowances; and what an
 * option "auto" became, and why. dry: NULL where the host makes no values for it. E_NO_MEMORY when the device has less in all,
 * with what it has and the advice (what to make smaller). */
lt_status lt_stage_device_plan(const lt_stage_device *device, const char *option, const lt_context *dry,
                               size_t workspace_bytes, size_t weight_bytes, const char *advice, lt_plan *plan,
                               lt_err *err);

#endif
