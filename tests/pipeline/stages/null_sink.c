/* null_sink.c - writes a line with the hash of every unit, in order; continues a file that is there. */
#include "tests/pipeline/stages/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 41 }; /* "%8u %14llu %016llx\n" */

typedef struct config {
    const char *output;
    int64_t sleep_ms, crash_unit, fail_unit;
    bool sync, hash;
} config;

typedef struct sink {
    const config *config;
    int fd;
} sink;

static const lt_option options[] = {
    {.name = "output", .type = LT_OPT_PATH, .offset = offsetof(config, output), .help = "file of hashes"},
    {.name = "sleep_ms",
     .type = LT_OPT_INT,
     .offset = offsetof(config, sleep_ms),
     .fallback = "0",
     .max = 60000,
     .unit = "ms",
     .help = "how long a unit takes",
     .cosmetic = true},
    {.name = "crash_unit",
     .type = LT_OPT_INT,
     .offset = offsetof(config, crash_unit),
     .fallback = "-1",
     .min = -1,
     .max = 1e9,
     .help = "unit that kills the process"},
    {.name = "fail_unit",
     .type = LT_OPT_INT,
     .offset = offsetof(config, fail_unit),
     .fallback = "-1",
     .min = -1,
     .max = 1e9,
     .help = "unit that cannot be written"},
    {.name = "sync",
     .type = LT_OPT_BOOL,
     .offset = offsetof(config, sync),
     .fallback = "true",
     .help = "a unit is on the disk before the next one is taken"},
    {.name = "hash",
     .type = LT_OPT_BOOL,
     .offset = offsetof(config, hash),
     .fallback = "true",
     .help = "read every byte; false: the hash is 0"},
};

static const lt_port inputs[] = {{.name = "in",
                                  .kinds = 1u << LT__WIRE__PORT_KIND__PORT_FRAMES |
                                           1u << LT__WIRE__PORT_KIND__PORT_LATENTS |
                                           1u << LT__WIRE__PORT_KIND__PORT_WINDOWS}};

static lt_status plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan, lt_err *err)
{
    plan->peak_bytes = 8 << 20;
    plan->in_flight[0] = 3;
    plan->disk_bytes = inputs[0]->n_units * LINE_BYTES;
    return LT_OK;
}

static void destroy(void *state)
{
    sink *sink = state;
    if (!sink) return;
    if (sink->fd >= 0) close(sink->fd);
    free(sink);
}

static lt_status create(void **state, const lt_setup *setup, const char **numeric_class, lt_err *err)
{
    sink *sink = calloc(1, sizeof *sink);
    if (!sink) return lt_fail(err, LT_E_NO_MEMORY, "no memory");
    *state = sink;
    sink->config = setup->config;
    sink->fd = open(sink->config->output, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    return sink->fd >= 0 ? LT_OK : lt_fail_errno(err, errno, "%s", sink->config->output);
}

/* Whole lines that are there count; half a line, which a kill leaves, is cut off. */
static lt_status open_clip(void *state, lt_clip *clip, lt_err *err)
{
    sink *sink = state;
    char line[LINE_BYTES + 1] = {0};
    off_t end = lseek(sink->fd, 0, SEEK_END) / LINE_BYTES * LINE_BYTES;
    unsigned index;
    if (ftruncate(sink->fd, end)) return lt_fail_errno(err, errno, "%s", sink->config->output);
    for (off_t at = 0; at < end; at += LINE_BYTES)
        if (pread(sink->fd, line, LINE_BYTES, at) == LINE_BYTES && sscanf(line, "%u", &index) == 1)
            clip->first_unit += index == clip->index;
    clip->n_units = clip->inputs[0]->n_units;
    return LT_OK;
}

static lt_status process(void *state, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                         lt_payload *output, lt_err *err)
{
    sink *sink = state;
    const config *config = sink->config;
    char line[LINE_BYTES + 1];
    lt_status status = misbehave(config->sleep_ms, config->crash_unit, config->fail_unit, unit, err);
    if (status) return status;
    if (lt_stage_stopping()) return LT_END;
    snprintf(line, sizeof line, "%8u %14llu %016llx\n", clip->index, (unsigned long long)unit,
             (unsigned long long)(config->hash ? hash_payload(0, &inputs[0][0]) : 0));
    lseek(sink->fd, 0, SEEK_END);
    if (write(sink->fd, line, LINE_BYTES) != LINE_BYTES || (config->sync && fsync(sink->fd)))
        return lt_fail_errno(err, errno, "%s", config->output);
    lt_stage_safe(clip, unit + 1);
    return LT_OK;
}

static lt_status finish_clip(void *state, lt_clip *clip, bool complete, const char **result, lt_err *err)
{
    *result = ((sink *)state)->config->output;
    return LT_OK;
}

static const lt_stage stage = {
    .kind = "null_sink",
    .help = "Writes a hash of every unit, for tests.",
    .inputs = inputs,
    .n_inputs = LT_COUNT(inputs),
    .options = options,
    .n_options = LT_COUNT(options),
    .config_bytes = sizeof(config),
    .plan = plan,
    .create = create,
    .destroy = destroy,
    .open_clip = open_clip,
    .process = process,
    .finish_clip = finish_clip,
};

int main(int argc, char **argv)
{
    return lt_stage_main(&stage, argc, argv);
}
