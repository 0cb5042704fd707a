/* device.c - where a stage computes. */
#include "stages/device/device.h"

#include "kernels/replay.h"

#include <stdio.h>
#include <string.h>

lt_dtype lt_stage_dtype(int choice)
{
    static const lt_dtype dtypes[] = {LT_F32, LT_BF16, LT_F16};
    return dtypes[choice];
}

lt_status lt_stage_device_open(lt_stage_device *device, const char *option, lt_err *err)
{
    lt_device_choose(option, device->name, sizeof(device->name), &device->why);
    return lt_device_probe(device->name, &device->info, err);
}

void lt_stage_device_report(lt_stage_device *device, const lt_context *context)
{
    lt_replay_info info = lt_replay_get_info(context);
    if (!*info.note || device->reported) return;
    device->reported = true;
    lt_log(LT_LOG_INFO, "%s: %s", device->name, info.note);
}

/* What is taken of the device beside workspaces and weights. */
static size_t own_bytes(const lt_device_info *info)
{
    return info->staging_bytes + info->allowance_bytes;
}

size_t lt_stage_device_memory(const lt_stage_device *device, int64_t option)
{
    const lt_device_info *info = &device->info;
    if (option > 0) return (size_t)option;
    if (info->host_memory) {
        uint64_t available = lt_available_memory();
        return available ? (size_t)available / 4 : (size_t)1 << 30;
    }
    return (info->free_bytes - LT_MIN(own_bytes(info), info->free_bytes)) / 2;
}

static double mib(size_t bytes)
{
    return (double)bytes / 0x1p20;
}

lt_status lt_stage_device_plan(const lt_stage_device *device, const char *option, const lt_context *dry,
                               size_t workspace_bytes, size_t weight_bytes, const char *advice, lt_plan *plan,
                               lt_err *err)
{
    const lt_device_info *info = &device->info;
    if (strcmp(option, "auto") == 0) lt_plan_resolve(plan, "device", "%s", device->name);
    if (device->why.status) lt_plan_note(plan, "on the CPU, because %s", device->why.text);
    if (info->host_memory) {
        plan->peak_bytes += workspace_bytes + weight_bytes;
        return LT_OK;
    }
    size_t bytes = workspace_bytes + weight_bytes + own_bytes(info);
    plan->peak_bytes += (dry ? dry->staging_peak : 0) + info->staging_bytes + info->host_allowance_bytes;
    plan->device = lt_arena_strdup(plan->arena, device->name);
    plan->device_title = lt_arena_strdup(plan->arena, info->name);
    plan->device_bytes = bytes;
    plan->device_total = info->total_bytes;
    plan->device_free = info->free_bytes;
    if (!plan->device || !plan->device_title) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_plan_note(plan, "on %s, %s: workspace %.1f MiB, weights %.1f MiB, %.0f MiB for transfers%s",
                 device->name, info->name, mib(workspace_bytes), mib(weight_bytes), mib(info->staging_bytes),
                 info->staging_bytes ? ", and as much of the host's memory" : "");
    if (own_bytes(info) > info->staging_bytes)
        lt_plan_note(
            plan,
            "for what the driver and its libraries take by themselves, which is not known before, an "
            "allowance is counted: %.0f MiB of the device's memory, %.0f MiB of the host's",
            mib(info->allowance_bytes), mib(info->host_allowance_bytes));
    if (bytes <= info->total_bytes) return LT_OK;
    return lt_fail(err, LT_E_NO_MEMORY, "%.0f MiB are wanted on %s (%s), which has %.0f MiB: %s", mib(bytes),
                   device->name, info->name, mib(info->total_bytes), advice);
}
