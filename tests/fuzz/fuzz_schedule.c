/* fuzz_schedule.c - a scheduler_config.json, and the schedules it makes. */
#include "tests/fuzz/fuzz.h"

#include <math.h>

#include "models/ddim.h"

/* Timesteps of the training, and factors that are numbers. */
static void use(const lt_ddim *ddim)
{
    FUZZ_MUST(ddim->n_steps >= 1 && ddim->n_steps <= LT_DDIM_MAX_STEPS);
    for (int i = 0; i < ddim->n_steps; i++) {
        double a, b;
        FUZZ_MUST(ddim->timesteps[i] >= 0 && ddim->timesteps[i] < ddim->params.train_steps);
        FUZZ_MUST(ddim->alphas[i] > 0 && ddim->alphas[i] <= 1);
        lt_ddim_step(ddim, i, &a, &b);
        FUZZ_MUST(isfinite(a) && isfinite(b));
        lt_ddim_noise(ddim, i, &a, &b);
        FUZZ_MUST(isfinite(a) && isfinite(b));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static lt_ddim ddim;
    lt_err err;
    lt_ddim_params params = lt_ddim_defaults(), before;
    memcpy(&before, &params, sizeof before);
    lt_status status =
        lt_ddim_read_config(&params, (const char *)data, n_bytes, "scheduler_config.json", &err);
    if (status) {
        FUZZ_REFUSED(status, err);
        FUZZ_MUST(!memcmp(&params, &before, sizeof params));
        return 0;
    }
    static const int steps[] = {1, 20, LT_DDIM_MAX_STEPS};
    for (size_t i = 0; i < 2 * LT_COUNT(steps); i++) {
        params.steps = steps[i / 2];
        params.strength = i % 2 ? 0.3 : 1;
        status = lt_ddim_init(&ddim, &params, &err);
        if (status)
            FUZZ_REFUSED(status, err);
        else
            use(&ddim);
    }
    return 0;
}
