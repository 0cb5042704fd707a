/* vae_stage.c - options, model and memory of the VAE's stages. */
#include "stages/vae/vae_stage.h"

#include "kernels/backend.h"
#include "stages/digest/digest.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- options ------------------------------------------------------------------------------------------- */

const char *lt_vae_numerics_name(lt_numerics numerics)
{
    return numerics == LT_NUMERICS_LITE_SORA ? "lite-sora" : "diffusers";
}

/* A number of at most 6 digits; false where there is none. */
static bool take_number(const char **at, int *value)
{
    int digits = 0;
    for (*value = 0; isdigit((unsigned char)**at) && digits < 6; (*at)++, digits++)
        *value = *value * 10 + (**at - '0');
    return digits > 0;
}

lt_status lt_tile_parse(const char *text, const char *option, int factor, lt_tile_option *tile, lt_err *err)
{
    *tile = (lt_tile_option){0};
    if (!text || strcmp(text, "auto") == 0 || !*text) {
        tile->is_auto = true;
        return LT_OK;
    }
    if (strcmp(text, "none") == 0) {
        tile->none = true;
        return LT_OK;
    }
    const char *at = text;
    bool fine = take_number(&at, &tile->width);
    tile->height = tile->width;
    if (fine && *at == 'x') {
        at++;
        fine = take_number(&at, &tile->height);
    }
    if (!fine || *at || tile->width <= 0 || tile->height <= 0 || tile->width % factor ||
        tile->height % factor)
        return lt_fail(err, LT_E_INVALID,
                       "option %s is \"%s\"; wanted auto, none, or WIDTHxHEIGHT in pixels, multiples of %d, "
                       "such as 512x384",
                       option, text, factor);
    return LT_OK;
}

/* ---- the model and its memory -------------------------------------------------------------------------- */

static lt_status open_model(lt_vae_host *host, lt_err *err)
{
    const lt_vae_common *common = host->common;
    lt_status status =
        lt_vae_open(&host->vae, common->model, host->parts, (lt_numerics)common->numerics, err);
    if (status) return status;
    const lt_vae_info *info = lt_vae_get_info(host->vae);
    char text[320];
    snprintf(text, sizeof text, "vae %s %s %s epoch %d", info->digest, lt_vae_numerics_name(info->numerics),
             host->dry->numeric_class, host->dry->backend->numeric_epoch);
    lt_digest(text, strlen(text), host->digest);
    return LT_OK;
}

lt_status lt_vae_host_open(lt_vae_host *host, const lt_vae_common *common, int parts, int threads,
                           lt_err *err)
{
    *host = (lt_vae_host){.common = common, .parts = parts, .threads = threads};
    lt_status status = lt_stage_device_open(&host->device, common->device, err);
    if (status == LT_OK)
        status = lt_context_create(&host->dry, host->device.name, lt_stage_dtype(common->dtype), 0,
                                   host->threads, err);
    if (status == LT_OK) {
        host->dry->dry = true;
        status = open_model(host, err);
    }
    if (status) lt_vae_host_close(host);
    return status;
}

lt_status lt_vae_host_reserve(lt_vae_host *host, size_t bytes, lt_err *err)
{
    if (host->run && host->run_bytes >= bytes) return LT_OK;
    if (host->run) {
        /* Nothing lives in it between two calls of the model; packed weights are the context's, and stay. */
        host->run_bytes = bytes;
        return lt_context_resize(host->run, bytes, err);
    }
    host->run_bytes = bytes;
    return lt_context_create(&host->run, host->device.name, lt_stage_dtype(host->common->dtype), bytes,
                             host->threads, err);
}

lt_status lt_vae_host_measure(lt_vae_host *host, lt_vae_dry_run run, void *user, size_t *bytes, lt_err *err)
{
    lt_workspace *saved = host->dry->workspace, *own;
    lt_status status = lt_workspace_create(&own, NULL, 0, err);
    if (status) return status;
    host->dry->workspace = own;
    status = run(user, host, err);
    host->dry->workspace = saved;
    *bytes = lt_workspace_peak(own);
    lt_workspace_destroy(own);
    return status;
}

size_t lt_vae_host_held(const lt_vae_host *host, size_t weight_bytes, size_t held)
{
    return host->device.info.host_memory ? held : weight_bytes;
}

size_t lt_vae_base_bytes(const lt_device_info *device, size_t base)
{
    return base + (device->host_memory ? device->code_bytes : 0);
}

void lt_vae_host_close(lt_vae_host *host)
{
    if (host->vae) lt_vae_close(host->vae, host->run);
    lt_context_destroy(host->run);
    lt_context_destroy(host->dry);
    *host = (lt_vae_host){0};
}

/* ---- code made for shapes ------------------------------------------------------------------------------ */

void lt_tile_sizes_add(lt_tile_sizes *sizes, int size)
{
    if (size == sizes->last || size <= 0) return;
    sizes->last = size;
    sizes->all += sqrt(size);
    if (sizes->first == 0) sizes->first = sizes->all;
}

size_t lt_vae_shape_bytes(const lt_tile_sizes *rows, const lt_tile_sizes *columns, double per_pixel)
{
    double first = rows->first * columns->first, rest = rows->all * columns->all - first;
    return (size_t)(per_pixel * (first + 0.65 * rest));
}
