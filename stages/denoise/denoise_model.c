/* denoise_model.c - the network, its schedule, and noise from a file. */
#include "stages/denoise/denoise.h"

#include "kernels/backend.h"
#include "stages/digest/digest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SCHEDULER_BYTES = 1 << 20 };

/* ---- the schedule -------------------------------------------------------------------------------------- */

static lt_status read_scheduler(const char *path, lt_ddim_params *params, lt_err *err)
{
    FILE *file = fopen(path, "rbe");
    if (!file) return lt_fail_errno(err, errno, "scheduler %s", path);
    char *text = malloc(SCHEDULER_BYTES);
    size_t n = text ? fread(text, 1, SCHEDULER_BYTES, file) : 0;
    lt_status status = !text          ? lt_fail(err, LT_E_NO_MEMORY, "out of memory")
                       : ferror(file) ? lt_fail_errno(err, errno, "scheduler %s", path)
                       : n == SCHEDULER_BYTES
                           ? lt_fail(err, LT_E_FORMAT, "%s: too long for a scheduler's configuration", path)
                           : lt_ddim_read_config(params, text, n, path, err);
    free(text);
    fclose(file);
    return status;
}

static lt_status make_schedule(lt_denoise_model *m, lt_err *err)
{
    const lt_denoise_config *config = m->config;
    lt_ddim_params params = lt_ddim_defaults();
    params.betas = m->info->beta_linear ? LT_BETAS_LINEAR : LT_BETAS_SCALED_LINEAR;
    params.beta_start = m->info->beta_start;
    params.beta_end = m->info->beta_end;
    if (*config->scheduler) {
        lt_status status = read_scheduler(config->scheduler, &params, err);
        if (status) return status;
    }
    if (config->spacing) params.spacing = (lt_spacing)(config->spacing - 1);
    if (config->prediction) params.prediction = (lt_prediction)(config->prediction - 1);
    params.steps = (int)config->steps;
    params.strength = config->strength;
    return lt_ddim_init(&m->ddim, &params, err);
}

/* ---- noise from a file --------------------------------------------------------------------------------- */

static lt_status open_noise(lt_denoise_model *m, lt_err *err)
{
    const char *path = m->config->initial_noise;
    char text[96];
    if (!*path) return LT_OK;
    lt_status status = lt_safetensors_open(&m->noise_file, path, err);
    if (status == LT_OK) status = lt_safetensors_get(m->noise_file, "noise", &m->noise, err);
    if (status) return status;
    lt_tensor *t = &m->noise;
    if (t->rank == 5 && t->shape[0] == 1) {
        memmove(t->shape, t->shape + 1, 4 * sizeof *t->shape);
        t->rank = 4;
    }
    if (t->rank != 4 || t->dtype != LT_F32)
        return lt_fail(err, LT_E_FORMAT, "%s: noise is %s; wanted f32 [1,C,T,h,w]", path,
                       lt_tensor_describe(t, text, sizeof text));
    lt_digest(t->data, lt_tensor_bytes(t), m->noise_digest);
    return LT_OK;
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static lt_status open_net(lt_denoise_model *m, lt_err *err)
{
    const lt_denoise_config *config = m->config;
    lt_denoiser_kind as = config->as ? (lt_denoiser_kind)(config->as - 1) : LT_DENOISER_N_KINDS;
    lt_status status = lt_denoiser_open(&m->net, config->model, as, (lt_numerics)config->numerics, m->note,
                                        sizeof m->note, err);
    if (status == LT_OK) m->info = lt_denoiser_get_info(m->net);
    return status;
}

/* Of all that decides the steps. What follows each step is told only where it is not the next that is listed: keys of caches
 * are those from before it was told at all. */
static void schedule_digest(const lt_ddim *ddim, char digest[33])
{
    double numbers[3 * LT_DDIM_MAX_STEPS + 1];
    size_t n = (size_t)ddim->n_steps, count = 2 * n + 1;
    memcpy(numbers, ddim->timesteps, n * sizeof *numbers);
    memcpy(numbers + n, ddim->alphas, (n + 1) * sizeof *numbers);
    if (memcmp(ddim->next, ddim->alphas + 1, n * sizeof *numbers) != 0) {
        memcpy(numbers + count, ddim->next, n * sizeof *numbers);
        count += n;
    }
    lt_digest(numbers, count * sizeof *numbers, digest);
}

static void make_digest(lt_denoise_model *m)
{
    char text[1024], steps[33];
    int n = m->ddim.n_steps;
    schedule_digest(&m->ddim, steps);
    snprintf(
        text, sizeof text, "denoise 1 %s kind %d numerics %d steps %d %s predict %d %s %s epoch %d noise %s",
        m->info->digest, (int)m->info->kind, (int)m->info->numerics, n, steps, (int)m->ddim.params.prediction,
        lt_dtype_name(m->dtype), m->dry->numeric_class, m->dry->backend->numeric_epoch, m->noise_digest);
    if (m->info->other_factor) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, " scale %.17g", m->info->scaling_factor);
    }
    lt_digest(text, strlen(text), m->digest);
}

lt_status lt_denoise_model_open(lt_denoise_model *m, const lt_denoise_config *config, int threads,
                                lt_err *err)
{
    *m = (lt_denoise_model){.config = config, .threads = threads, .dtype = lt_stage_dtype(config->dtype)};
    lt_status status;
    LT_TRY(lt_stage_device_open(&m->device, config->device, err));
    LT_TRY(lt_context_create(&m->dry, m->device.name, m->dtype, 0, threads, err));
    m->dry->dry = true;
    LT_TRY(open_net(m, err));
    LT_TRY(make_schedule(m, err));
    LT_TRY(open_noise(m, err));
    make_digest(m);
    return LT_OK;
fail:
    lt_denoise_model_close(m);
    return status;
}

lt_status lt_denoise_model_reserve(lt_denoise_model *m, size_t bytes, lt_err *err)
{
    if (m->run && m->run_bytes >= bytes) return LT_OK;
    if (m->run) {
        /* Packed weights belong to the context they were packed in. */
        lt_denoiser_close(m->net, m->run);
        lt_context_destroy(m->run);
        m->net = NULL;
        m->run = NULL;
        lt_status status = open_net(m, err);
        if (status) return status;
    }
    m->run_bytes = bytes;
    return lt_context_create(&m->run, m->device.name, m->dtype, bytes, m->threads, err);
}

void lt_denoise_model_close(lt_denoise_model *m)
{
    lt_denoiser_close(m->net, m->run);
    lt_safetensors_close(m->noise_file);
    lt_context_destroy(m->run);
    lt_context_destroy(m->dry);
    *m = (lt_denoise_model){0};
}
