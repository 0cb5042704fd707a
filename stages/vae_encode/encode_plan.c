/* encode_plan.c - what vae_encode will do to a clip, and what it takes. */
#include "stages/vae_encode/vae_encode.h"

#include "proto/wire.h"
#include "stages/digest/digest.h"
#include "stages/record/record.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* Measured, RssAnon of the running process less what is counted apart: libraries, threads, sockets; and what shapes of
 * tiles cost where code is made for them (lt_vae_shape_bytes). */
enum { BASE_BYTES = 1400 << 10, SHAPE_BYTES = 8 << 10 };

/* The most frames at once that a device gets unasked. One does not fill a GPU: of 576x1024 the inner levels of SVD's VAE are 144 blocks of
 * 128x256 results, for 132 multiprocessors of an H200: two waves that are 55 % full. Those of 4 frames are 87 % full, of 8 97 %. */
enum { AUTO_BATCH = 8 };

/* ---- geometry ------------------------------------------------------------------------------------------ */

static lt_status check_input(const lt_stream *in, int factor, lt_err *err)
{
    if (in->kind != LT__WIRE__PORT_KIND__PORT_FRAMES || in->channels != 3 || in->chunk == 0 ||
        in->n_frames == 0)
        return lt_fail(err, LT_E_INVALID, "vae_encode takes frames [n,H,W,3] in chunks; clip %s is not that",
                       in->name);
    if (in->dtype != LT__WIRE__DTYPE__DTYPE_U8 && in->dtype != LT__WIRE__DTYPE__DTYPE_U16)
        return lt_fail(err, LT_E_UNSUPPORTED, "vae_encode takes u8 or u16 pixels; clip %s has %s", in->name,
                       lt_wire_dtype_name(in->dtype));
    if (in->width % (unsigned)factor || in->height % (unsigned)factor)
        return lt_fail(
            err, LT_E_INVALID,
            "frames of clip %s are %ux%u; the VAE needs multiples of %d (the stage decode pads to them)",
            in->name, in->width, in->height, factor);
    return LT_OK;
}

/* The request for models/tiling.h that the option `tile` stands for. */
static lt_status make_request(const lt_vae_encode_config *config, const lt_vae_host *host,
                              const lt_stream *in, lt_encode_request *request, bool *is_auto, lt_err *err)
{
    static const lt_dtype dtypes[] = {LT_F32, LT_F16, LT_BF16};
    int factor = lt_vae_get_info(host->vae)->factor;
    int64_t most = (int64_t)LT_MIN((uint64_t)in->chunk, in->n_frames);
    lt_tile_option tile;
    lt_status status = lt_tile_parse(config->common.tile, "tile", factor, &tile, err);
    if (status) return status;
    if (tile.width != tile.height)
        return lt_fail(err, LT_E_INVALID,
                       "option tile is %dx%d; tiles of an encoder are square: give one number", tile.width,
                       tile.height);
    *is_auto = tile.is_auto;
    *request = (lt_encode_request){.height = (int)in->height,
                                   .width = (int)in->width,
                                   .tile = tile.none ? (int)LT_MAX(in->height, in->width) : tile.width,
                                   .overlap = config->overlap,
                                   .batch = (int)LT_MAX(LT_MIN(config->batch, most), 1),
                                   .frames = in->dtype == LT__WIRE__DTYPE__DTYPE_U8 ? LT_U8 : LT_U16,
                                   .keep = *host->device.info.id && !config->logvar,
                                   .kept = dtypes[config->cache_dtype]};
    return LT_OK;
}

size_t lt_encode_moment_bytes(const lt_encode_geometry *g)
{
    return (size_t)LT_MIN(g->chunk, g->n_frames) * (size_t)g->channels * (size_t)g->height *
           (size_t)g->width * sizeof(float);
}

size_t lt_encode_value_bytes(const lt_encode_geometry *g)
{
    return lt_encode_moment_bytes(g) / sizeof(float) * lt_dtype_bytes(g->dtype);
}

static size_t shape_bytes(const lt_encode_plan *p)
{
    lt_tile_sizes rows = {0}, columns = {0};
    int stride = lt_encode_has_tiles(p) ? (int)(p->tile * (1 - p->overlap)) : INT_MAX;
    int tile = lt_encode_has_tiles(p) ? p->tile : INT_MAX;
    for (int64_t y = 0; y < p->height; y += LT_MAX(stride, 1))
        lt_tile_sizes_add(&rows, (int)LT_MIN(tile, p->height - y));
    for (int64_t x = 0; x < p->width; x += LT_MAX(stride, 1))
        lt_tile_sizes_add(&columns, (int)LT_MIN(tile, p->width - x));
    return lt_vae_shape_bytes(&rows, &columns, SHAPE_BYTES);
}

/* What a replica holds beside the workspace: packed weights; moments and values of a chunk; a cache's value, packed and
 * on its way to the disk; what no option changes. */
static size_t held_bytes(const lt_vae_encode_config *config, const lt_device_info *device,
                         const lt_encode_geometry *g, bool cache)
{
    size_t moments = lt_encode_moment_bytes(g), values = lt_encode_value_bytes(g),
           kinds = config->logvar ? 2 : 1;
    return g->cost.weight_bytes + kinds * (moments + values) + (cache ? 2 * kinds * values : 0) +
           lt_vae_base_bytes(device, BASE_BYTES) + (device->code_bytes ? shape_bytes(&g->plan) : 0);
}

/* Tiles and cost, the workspace to the byte. */
static lt_status choose(lt_vae_host *host, const lt_encode_request *request, lt_encode_geometry *g,
                        lt_err *err)
{
    lt_status status = lt_encode_plan_auto(host->dry, host->vae, request, &g->plan, &g->cost, err);
    g->may_leave = !status && request->keep && !lt_encode_has_tiles(&g->plan);
    return status;
}

/* Of `memory` bytes, what may be planned with: the plan adds a fiftieth for what the allocator leaves unused. */
static double usable(size_t memory)
{
    return (double)memory * 50 / 51;
}

/* Smaller tiles until all of a replica is within the option `memory`. */
static lt_status fit(const lt_vae_encode_config *config, lt_vae_host *host, lt_encode_request *request,
                     lt_encode_geometry *g, lt_err *err)
{
    double memory = usable(lt_stage_device_memory(&host->device, config->common.memory)), limit = 0x1p62;
    for (;;) {
        double held = (double)lt_vae_host_held(host, g->cost.weight_bytes,
                                               held_bytes(config, &host->device.info, g, true));
        if (held + (double)g->cost.workspace_bytes <= memory) return LT_OK;
        if (held >= memory)
            return lt_fail(err, LT_E_NO_MEMORY,
                           "vae_encode holds %.0f MiB of weights and buffers; %.0f MiB of memory are too few",
                           held / 0x1p20, memory / 0x1p20);
        limit = LT_MIN(0.98 * limit, memory - held);
        request->memory = (size_t)LT_MAX(limit, 1.0);
        lt_status status = choose(host, request, g, err);
        if (status) return status;
    }
}

/* Whether the plan decides how many frames there are at once. */
static bool is_auto_batch(const lt_vae_encode_config *config, const lt_device_info *device)
{
    return config->batch == 0 && !device->host_memory;
}

/* What a replica may take for frames at once: the option `memory`, as far as the device has it. Where that is not given, half of what it
 * stands for, a quarter of what is free: a decoder on the same device may plan with half of what is free, and the two shall have room
 * beside each other. Whole MiB, as the plan records them. */
static size_t batch_memory(const lt_vae_encode_config *config, const lt_stage_device *device)
{
    const lt_device_info *info = &device->info;
    size_t own = info->staging_bytes + info->allowance_bytes;
    if (config->common.memory > 0)
        return LT_MIN((size_t)config->common.memory, info->total_bytes - LT_MIN(own, info->total_bytes));
    return LT_MAX(lt_stage_device_memory(device, 0) / 2 >> 20, (size_t)1) << 20;
}

/* As many frames at once as fit into memory with the tiles that were chosen for one, a chunk's calls evenly long: 4 and 4 of 8, not 5 and
 * 3, which take more memory and are two shapes. */
static lt_status fill(const lt_vae_encode_config *config, lt_vae_host *host, lt_encode_request *request,
                      lt_encode_geometry *g, lt_err *err)
{
    double memory = usable(batch_memory(config, &host->device));
    int frames = (int)LT_MIN(g->chunk, g->n_frames);
    request->memory = 0;
    request->tile = lt_encode_has_tiles(&g->plan) ? g->plan.tile : LT_MAX(request->height, request->width);
    for (int n = LT_MIN(frames, AUTO_BATCH); n > 1; n--) {
        int calls = (frames - 1) / n + 1;
        if ((frames - 1) / calls + 1 != n) continue;
        lt_encode_geometry wide = *g;
        request->batch = n;
        lt_status status = choose(host, request, &wide, err);
        if (status == LT_E_NO_MEMORY || status == LT_E_UNSUPPORTED) continue; /* so many cannot be; one can */
        if (status) return status;
        size_t held = lt_vae_host_held(host, wide.cost.weight_bytes,
                                       held_bytes(config, &host->device.info, &wide, true));
        if ((double)held + (double)wide.cost.workspace_bytes > memory) continue;
        *g = wide;
        return LT_OK;
    }
    return LT_OK;
}

lt_status lt_encode_geometry_of(const lt_vae_encode_config *config, lt_vae_host *host, const lt_stream *in,
                                lt_encode_geometry *g, lt_err *err)
{
    const lt_vae_info *info = lt_vae_get_info(host->vae);
    lt_encode_request request;
    bool is_auto = false;
    lt_status status = check_input(in, info->factor, err);
    if (status) return status;
    status = make_request(config, host, in, &request, &is_auto, err);
    if (status) return status;
    *g = (lt_encode_geometry){.dtype = request.kept,
                              .pixels = request.frames,
                              .channels = info->latent_channels,
                              .height = (int)in->height / info->factor,
                              .width = (int)in->width / info->factor,
                              .n_frames = (int64_t)in->n_frames,
                              .chunk = in->chunk};
    status = choose(host, &request, g, err);
    if (!status && is_auto) status = fit(config, host, &request, g, err);
    if (!status && is_auto_batch(config, &host->device.info)) status = fill(config, host, &request, g, err);
    return status;
}

void lt_encode_tile_text(const lt_encode_geometry *g, char *text, size_t text_bytes)
{
    if (lt_encode_has_tiles(&g->plan))
        snprintf(text, text_bytes, "tile %d, overlap %.17g", g->plan.tile, g->plan.overlap);
    else
        snprintf(text, text_bytes, "tile none");
}

/* ---- the stream ---------------------------------------------------------------------------------------- */

/* Everything that decides the latents' bytes. */
static void digest_of(const lt_vae_encode_config *config, const lt_vae_host *host, const lt_stream *in,
                      const lt_encode_geometry *g, char digest[33])
{
    char text[512], tiles[64];
    lt_encode_tile_text(g, tiles, sizeof tiles);
    snprintf(text, sizeof text, "vae_encode 1 %.64s %s chunk %" PRId64 " %s %s logvar %d", in->digest,
             host->digest, g->chunk, lt_dtype_name(g->dtype), tiles, config->logvar);
    /* Clips of a whole SDXL checkpoint were once kept with another factor. */
    const lt_vae_info *info = lt_vae_get_info(host->vae);
    size_t used = strlen(text);
    if (!info->factor_told && info->scaling_factor != 0.18215)
        snprintf(text + used, sizeof text - used, " scale %.17g", info->scaling_factor);
    lt_digest(text, strlen(text), digest);
}

lt_status lt_encode_describe(const lt_vae_encode_config *config, const lt_vae_host *host, const lt_stream *in,
                             const lt_encode_geometry *g, lt_stream *out, lt_arena *arena, lt_err *err)
{
    const lt_vae_info *info = lt_vae_get_info(host->vae);
    char digest[33], tiles[64];
    digest_of(config, host, in, g, digest);
    lt_encode_tile_text(g, tiles, sizeof tiles);
    lt_cache_clip made = {.model = config->common.model,
                          .weights = info->digest,
                          .numerics = lt_vae_numerics_name(info->numerics),
                          .encoding = tiles,
                          .made_of = in->digest,
                          .logvar = config->logvar};
    lt_status status = lt_stream_copy(out, in, arena, err);
    if (!status) status = lt_record_tell(&made, out, arena, err);
    if (status) return status;
    out->kind = LT__WIRE__PORT_KIND__PORT_LATENTS;
    out->dtype = (Lt__Wire__Dtype)(g->dtype + 1);
    out->width = (uint32_t)g->width;
    out->height = (uint32_t)g->height;
    out->channels = (uint32_t)g->channels;
    out->bits = 0;
    out->n_units = (in->n_frames - 1) / in->chunk + 1;
    out->unit_bytes = lt_record_unit_bytes(lt_encode_value_bytes(g), config->logvar);
    out->scaling_factor = info->scaling_factor;
    out->factor = (uint32_t)info->factor;
    out->digest = lt_arena_strdup(arena, digest);
    out->numeric_class = lt_arena_strdup(arena, host->dry->numeric_class);
    return out->digest && out->numeric_class ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

/* ---- planning ------------------------------------------------------------------------------------------ */

static void add_notes(const lt_vae_encode_config *config, const lt_vae_host *host,
                      const lt_encode_geometry *g, lt_plan *plan)
{
    const lt_vae_info *info = lt_vae_get_info(host->vae);
    const lt_encode_plan *p = &g->plan;
    char batch[40] = "";
    if (p->batch > 1) snprintf(batch, sizeof batch, ", %d frames at once", p->batch);
    if (lt_encode_has_tiles(p))
        lt_plan_note(plan, "%dx%d in %d tiles, overlap %g%s", p->width, p->height, g->cost.n_tiles,
                     p->overlap, batch);
    else
        lt_plan_note(plan, "%dx%d in one piece%s, which takes %.0f MiB", p->width, p->height, batch,
                     (double)g->cost.workspace_bytes / 0x1p20);
    lt_plan_note(plan, "latents %s[%d,%d,%d] a frame; computes as %s", lt_dtype_name(g->dtype), g->channels,
                 g->height, g->width, host->dry->numeric_class);
    if (!info->factor_told && info->numerics == LT_NUMERICS_DIFFUSERS)
        lt_plan_note(plan, "the model has no config.json that tells its scaling_factor: %g is recorded",
                     info->scaling_factor);
    if (lt_encode_has_tiles(p))
        lt_plan_resolve(plan, "tile", "%d", p->tile);
    else
        lt_plan_resolve(plan, "tile", "none");
    if (config->common.numerics == LT_NUMERICS_AUTO)
        lt_plan_resolve(plan, "numerics", "%s", lt_vae_numerics_name(info->numerics));
    /* The memory, and not a number of frames: in a run of many clips each has its own. */
    if (is_auto_batch(config, &host->device.info) && config->common.memory == 0)
        lt_plan_resolve(plan, "memory", "%zuM", batch_memory(config, &host->device) >> 20);
}

lt_status lt_encode_stage_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan,
                               lt_err *err)
{
    const lt_vae_encode_config *config = setup->config;
    bool cache = setup->cache && *setup->cache && !inputs[0]->live;
    lt_vae_host host;
    lt_encode_geometry g;
    lt_status status = lt_vae_host_open(&host, &config->common, LT_VAE_ENCODER, setup->threads, err);
    if (status) return status;
    LT_TRY(lt_encode_geometry_of(config, &host, inputs[0], &g, err));
    LT_TRY(lt_encode_describe(config, &host, inputs[0], &g, plan->output, plan->arena, err));
    plan->in_flight[0] = 2;
    const char *device = setup->input_device[0];
    plan->takes_device[0] = device && !strcmp(device, host.device.info.id) && !lt_encode_has_tiles(&g.plan);
    plan->peak_bytes = held_bytes(config, &host.device.info, &g, cache) - g.cost.weight_bytes;
    LT_TRY(lt_stage_device_plan(&host.device, config->common.device, host.dry, g.cost.workspace_bytes,
                                g.cost.weight_bytes, "smaller tiles take less", plan, err));
    plan->peak_bytes += plan->peak_bytes / 50; /* what the allocator leaves unused */
    lt_cache_clip record = lt_record_of_stream(plan->output);
    if (cache) plan->peak_bytes += lt_cache_record_peak(&record); /* with the last chunk */
    plan->disk_bytes =
        cache ? plan->output->n_units * (lt_encode_value_bytes(&g) * (config->logvar ? 2 : 1) + 4096) : 0;
    plan->flops = g.cost.flops * (double)g.n_frames;
    if (inputs[0]->run_frames) { /* of all clips: as many as this one, and a record each */
        double times = (double)inputs[0]->run_frames / (double)g.n_frames;
        plan->disk_bytes =
            (uint64_t)((double)plan->disk_bytes * times) + (cache ? inputs[0]->run_clips * 4096 : 0);
        plan->flops *= times;
    }
    plan->work_factor = g.cost.work_factor;
    if (g.may_leave) plan->output_device = lt_arena_strdup(plan->arena, host.device.info.id);
    add_notes(config, &host, &g, plan);
    if (setup->cache && *setup->cache && inputs[0]->live)
        lt_plan_note(plan,
                     "latents of a live input are not kept in the cache: nobody could ask for it again");
fail:
    lt_vae_host_close(&host);
    return status;
}
