/* decode_plan.c - what vae_decode will do to a clip, and what it takes. */
#include "stages/vae_decode/vae_decode.h"

#include "proto/wire.h"
#include "stages/digest/digest.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Measured, RssAnon of the running process less what is counted apart: libraries, threads, sockets. */
enum { BASE_BYTES = 1400 << 10 };

/* ---- geometry ------------------------------------------------------------------------------------------ */

static lt_status check_input(const lt_stream *in, const lt_vae_info *info, lt_err *err)
{
    if (in->kind != LT__WIRE__PORT_KIND__PORT_LATENTS || in->chunk == 0 || in->n_frames == 0)
        return lt_fail(err, LT_E_INVALID, "vae_decode takes latents in chunks; clip %s is not that",
                       in->name);
    if (in->dtype != LT__WIRE__DTYPE__DTYPE_F32 && in->dtype != LT__WIRE__DTYPE__DTYPE_F16 &&
        in->dtype != LT__WIRE__DTYPE__DTYPE_BF16)
        return lt_fail(err, LT_E_UNSUPPORTED, "vae_decode takes latents in f32, f16 or bf16; clip %s has %s",
                       in->name, lt_wire_dtype_name(in->dtype));
    if ((int)in->channels != info->latent_channels || (in->factor && (int)in->factor != info->factor))
        return lt_fail(err, LT_E_MISMATCH,
                       "latents of clip %s have %u channels and %u pixels a cell; this VAE decodes %d "
                       "channels and %d pixels a cell",
                       in->name, in->channels, in->factor, info->latent_channels, info->factor);
    return LT_OK;
}

/* The request for models/tiling.h that the options stand for. Tiles in pixels become cells. */
static lt_status make_request(const lt_vae_decode_config *config, const lt_stream *in,
                              const lt_vae_info *info, lt_decode_request *r, bool *is_auto, lt_err *err)
{
    lt_tile_option tile, stride;
    lt_status status = lt_tile_parse(config->common.tile, "tile", info->factor, &tile, err);
    if (status == LT_OK)
        status = lt_tile_parse(config->tile_stride, "tile_stride", info->factor, &stride, err);
    if (status) return status;
    *is_auto = tile.is_auto;
    *r = (lt_decode_request){.height = (int)in->height,
                             .width = (int)in->width,
                             .n_frames = lt_stream_is_endless(in) ? 0 : (int64_t)in->n_frames,
                             .window = (int)config->window,
                             .stride = info->temporal ? (int)config->stride : 0,
                             .tile_height = tile.none ? (int)in->height : tile.height / info->factor,
                             .tile_width = tile.none ? (int)in->width : tile.width / info->factor,
                             .stride_height = stride.height / info->factor,
                             .stride_width = stride.width / info->factor};
    if (!info->temporal && config->window == 0) r->window = (int)in->chunk;
    return LT_OK;
}

size_t lt_decode_frame_elements(const lt_decode_geometry *g)
{
    const lt_decode_plan *p = &g->plan;
    return (size_t)p->height * (size_t)p->width * (size_t)p->factor * (size_t)p->factor * 3;
}

size_t lt_decode_latent_bytes(const lt_decode_geometry *g)
{
    return (size_t)g->longest * (size_t)g->plan.height * (size_t)g->plan.width * (size_t)g->channels *
           lt_dtype_bytes(g->dtype);
}

size_t lt_decode_sum_bytes(const lt_decode_geometry *g)
{
    return (size_t)g->longest * lt_decode_frame_elements(g) * sizeof(float);
}

size_t lt_decode_pixel_bytes(const lt_decode_geometry *g)
{
    return lt_decode_frame_elements(g) * (g->bits > 8 ? 2 : 1);
}

/* What a replica holds beside the workspace. */
static size_t held_bytes(const lt_device_info *device, const lt_decode_geometry *g)
{
    return g->cost.weight_bytes + lt_decode_latent_bytes(g) + lt_decode_sum_bytes(g) +
           lt_decode_pixel_bytes(g) + lt_vae_base_bytes(device, BASE_BYTES);
}

lt_tensor lt_decode_new_window(lt_context *context, const lt_decode_geometry *g, int64_t n)
{
    return lt_new(context, context->dtype, 4, (int64_t[]){n, g->plan.height, g->plan.width, g->channels});
}

/* Window k of a clip of n_frames that is put together on the device, of chunks from the host, which take more than those that
 * are there. */
static lt_status run_window_there(const lt_decode_geometry *g, lt_vae_host *host, int64_t n_frames, int64_t k,
                                  int64_t n, lt_err *err)
{
    lt_tensor window = lt_decode_new_window(host->dry, g, n);
    lt_tensor chunk = {.dtype = g->dtype,
                       .rank = 4,
                       .shape = {LT_MIN(g->chunk, n), g->plan.height, g->plan.width, g->channels}};
    lt_tensor part = lt_upload(host->dry, chunk, host->dry->dtype);
    lt_drop(host->dry, &part);
    lt_status status = lt_decode_window_there(host->dry, host->vae, &g->plan, n_frames, k, window, NULL, err);
    lt_drop(host->dry, &window);
    return status;
}

/* Window k of a clip of n_frames as it will be decoded, from the clip's own latents: where memory lies depends on their size, too. */
static lt_status run_window(const lt_decode_geometry *g, lt_vae_host *host, int64_t n_frames, int64_t k,
                            lt_err *err)
{
    int64_t first, end;
    lt_decode_window_range(&g->plan, n_frames, k, &first, &end);
    if (g->there) return run_window_there(g, host, n_frames, k, end - first, err);
    lt_tensor latents = {
        .dtype = g->dtype, .rank = 4, .shape = {end - first, g->plan.height, g->plan.width, g->channels}};
    return lt_decode_window(host->dry, host->vae, &g->plan, n_frames, k, latents, NULL, err);
}

/* Every length that a window can have: a shorter one may take more. That of a clip without end is known when it ends. */
static lt_status run_dry(void *user, lt_vae_host *host, lt_err *err)
{
    const lt_decode_geometry *g = user;
    lt_status status = run_window(g, host, g->n_frames, 0, err);
    if (status == LT_OK && !g->endless && g->n_windows > 1)
        status = run_window(g, host, g->n_frames, g->n_windows - 1, err);
    for (int64_t n = g->longest - 1; g->endless && n > 0 && status == LT_OK; n--)
        status = run_window(g, host, n, 0, err);
    return status;
}

/* Windows, tiles and cost, the workspace to the byte. */
static lt_status choose(lt_vae_host *host, const lt_decode_request *request, const char *device,
                        lt_decode_geometry *g, lt_err *err)
{
    lt_status status = lt_decode_plan_auto(host->dry, host->vae, request, &g->plan, &g->cost, err);
    if (status) return status;
    g->n_windows = lt_decode_windows_count(&g->plan, g->n_frames);
    g->longest = LT_MIN((int64_t)g->plan.window, g->n_frames);
    g->there = device && !strcmp(device, host->device.info.id) && !lt_decode_has_tiles(&g->plan);
    return lt_vae_host_measure(host, run_dry, g, &g->cost.workspace_bytes, err);
}

/* Smaller tiles until all of a replica is within the option `memory`. */
static lt_status fit(lt_vae_host *host, lt_decode_request *request, const char *device, lt_decode_geometry *g,
                     lt_err *err)
{
    /* The plan adds a fiftieth for what the allocator leaves unused. */
    double memory = (double)lt_stage_device_memory(&host->device, host->common->memory) * 50 / 51,
           limit = 0x1p62;
    for (;;) {
        double held = (double)lt_vae_host_held(host, g->cost.weight_bytes, held_bytes(&host->device.info, g));
        if (held + (double)g->cost.workspace_bytes <= memory) return LT_OK;
        if (held >= memory)
            return lt_fail(err, LT_E_NO_MEMORY,
                           "vae_decode holds %.0f MiB of weights and of one window of %" PRId64
                           " frames; %.0f MiB of memory are too few: give more memory, or a shorter window",
                           held / 0x1p20, g->longest, memory / 0x1p20);
        limit = LT_MIN(0.98 * limit, memory - held);
        request->memory = (size_t)LT_MAX(limit, 1.0);
        lt_status status = choose(host, request, device, g, err);
        if (status) return status;
    }
}

lt_status lt_decode_geometry_of(const lt_vae_decode_config *config, lt_vae_host *host, const lt_stream *in,
                                const char *device, lt_decode_geometry *g, lt_err *err)
{
    const lt_vae_info *info = lt_vae_get_info(host->vae);
    lt_decode_request request;
    bool is_auto = false;
    lt_status status = check_input(in, info, err);
    if (status) return status;
    status = make_request(config, in, info, &request, &is_auto, err);
    if (status) return status;
    *g = (lt_decode_geometry){.dtype = (lt_dtype)(in->dtype - 1),
                              .channels = info->latent_channels,
                              .bits = config->bits == 1 ? 16 : 8,
                              .n_frames = (int64_t)in->n_frames,
                              .chunk = in->chunk,
                              .endless = lt_stream_is_endless(in),
                              .truncate = info->numerics == LT_NUMERICS_LITE_SORA};
    status = choose(host, &request, device, g, err);
    return status || !is_auto ? status : fit(host, &request, device, g, err);
}

lt_window_parts lt_decode_parts(const lt_decode_geometry *g, int64_t k)
{
    lt_window_parts parts;
    int64_t end;
    lt_decode_window_range(&g->plan, g->n_frames, k, &parts.first, &end);
    lt_decode_window_shared(&g->plan, g->n_frames, k, &parts.lead, &parts.trail);
    parts.own = end - parts.first - parts.lead - parts.trail;
    return parts;
}

lt_need lt_decode_need(const lt_decode_geometry *g, int64_t k)
{
    int64_t first, end;
    lt_decode_window_range(&g->plan, g->n_frames, k, &first, &end);
    if (g->endless && g->plan.temporal) end++;
    return (lt_need){(uint64_t)(first / g->chunk), (uint64_t)((end - 1) / g->chunk - first / g->chunk + 1)};
}

/* Bytes of a payload after one more run of `bytes`. */
static uint64_t append(uint64_t payload, size_t bytes)
{
    return bytes ? lt_round_up(payload, LT_PAYLOAD_ALIGNMENT) + bytes : payload;
}

/* The largest payload, and the most chunks that a window needs. */
static void largest_unit(const lt_decode_geometry *g, uint64_t *bytes, uint64_t *chunks)
{
    size_t sum = lt_decode_frame_elements(g) * sizeof(float), pixels = lt_decode_pixel_bytes(g);
    int64_t looked_at =
        g->endless ? LT_MIN(g->n_windows, 4) : g->n_windows; /* those in the middle are all alike */
    *bytes = *chunks = 0;
    for (int64_t k = 0; k < looked_at; k++) {
        lt_window_parts parts = lt_decode_parts(g, k);
        uint64_t unit = append(append(append(0, (size_t)parts.lead * sum), (size_t)parts.own * pixels),
                               (size_t)parts.trail * sum);
        *bytes = LT_MAX(*bytes, unit);
        *chunks = LT_MAX(*chunks, lt_decode_need(g, k).count);
    }
}

/* ---- the stream ---------------------------------------------------------------------------------------- */

/* Everything that decides the frames' bytes. */
static void digest_of(const lt_vae_host *host, const lt_stream *in, const lt_decode_geometry *g,
                      char digest[33])
{
    char text[512];
    const lt_decode_plan *p = &g->plan;
    snprintf(text, sizeof text, "vae_decode 1 %.64s %s window %d %d tile %dx%d %dx%d bits %d %s", in->digest,
             host->digest, p->window, p->stride, p->tile_width, p->tile_height, p->stride_width,
             p->stride_height, g->bits, g->truncate ? "truncated" : "rounded");
    lt_digest(text, strlen(text), digest);
}

static lt_status describe_windows(const lt_decode_geometry *g, lt_stream *out, lt_arena *arena, lt_err *err)
{
    Lt__Wire__Windows *windows = lt_arena_alloc(arena, sizeof *windows);
    if (!windows) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt__wire__windows__init(windows);
    windows->window = (uint32_t)g->plan.window;
    windows->stride = (uint32_t)g->plan.stride;
    windows->tile_height = (uint32_t)g->plan.tile_height;
    windows->tile_width = (uint32_t)g->plan.tile_width;
    windows->stride_height = (uint32_t)g->plan.stride_height;
    windows->stride_width = (uint32_t)g->plan.stride_width;
    windows->truncate = g->truncate;
    out->windows = windows;
    return LT_OK;
}

lt_status lt_decode_describe(const lt_vae_host *host, const lt_stream *in, const lt_decode_geometry *g,
                             lt_stream *out, lt_arena *arena, lt_err *err)
{
    char digest[33];
    uint64_t chunks;
    digest_of(host, in, g, digest);
    lt_status status = lt_stream_copy(out, in, arena, err);
    if (status == LT_OK) status = describe_windows(g, out, arena, err);
    if (status) return status;
    out->kind = LT__WIRE__PORT_KIND__PORT_WINDOWS;
    out->dtype = g->bits > 8 ? LT__WIRE__DTYPE__DTYPE_U16 : LT__WIRE__DTYPE__DTYPE_U8;
    out->width = (uint32_t)(g->plan.width * g->plan.factor);
    out->height = (uint32_t)(g->plan.height * g->plan.factor);
    out->channels = 3;
    out->bits = (uint32_t)g->bits;
    out->chunk = 0;
    out->latents = NULL;
    out->factor = (uint32_t)g->plan.factor;
    out->n_units = (uint64_t)g->n_windows;
    largest_unit(g, &out->unit_bytes, &chunks);
    out->digest = lt_arena_strdup(arena, digest);
    out->numeric_class = lt_arena_strdup(arena, host->dry->numeric_class);
    return out->digest && out->numeric_class ? LT_OK : lt_fail(err, LT_E_NO_MEMORY, "out of memory");
}

/* ---- planning ------------------------------------------------------------------------------------------ */

static void resolve(const lt_vae_decode_config *config, const lt_vae_info *info, const lt_decode_geometry *g,
                    lt_plan *plan)
{
    const lt_decode_plan *p = &g->plan;
    int f = p->factor;
    lt_plan_resolve(plan, "window", "%d", p->window);
    lt_plan_resolve(plan, "stride", "%d", p->stride);
    if (lt_decode_has_tiles(p)) {
        lt_plan_resolve(plan, "tile", "%dx%d", p->tile_width * f, p->tile_height * f);
        lt_plan_resolve(plan, "tile_stride", "%dx%d", p->stride_width * f, p->stride_height * f);
    } else {
        lt_plan_resolve(plan, "tile", "none");
    }
    if (config->common.numerics == LT_NUMERICS_AUTO)
        lt_plan_resolve(plan, "numerics", "%s", lt_vae_numerics_name(info->numerics));
}

static void add_notes(const lt_vae_host *host, const lt_stream *in, const lt_decode_geometry *g,
                      lt_plan *plan)
{
    const lt_decode_plan *p = &g->plan;
    int f = p->factor, source_bits = in->picture ? (int)in->picture->bits : 0;
    if (source_bits > g->bits)
        lt_plan_note(plan, "left out: %d of the source's %d bits a sample (bits = 16 keeps them)",
                     source_bits - g->bits, source_bits);
    if (p->temporal && g->endless)
        lt_plan_note(plan, "each window is made when the frame behind it has come");
    if (!p->temporal) lt_plan_note(plan, "every frame alone");
    if (lt_decode_has_tiles(p))
        lt_plan_note(plan, "%dx%d in %d tiles", p->width * f, p->height * f, g->cost.n_tiles);
    else
        lt_plan_note(plan, "%dx%d in one piece, which takes %.0f MiB", p->width * f, p->height * f,
                     (double)g->cost.workspace_bytes / 0x1p20);
    lt_plan_note(plan, "computes as %s", host->dry->numeric_class);
}

lt_status lt_decode_stage_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan,
                               lt_err *err)
{
    const lt_vae_decode_config *config = setup->config;
    lt_vae_host host;
    lt_decode_geometry g;
    lt_status status = lt_vae_host_open(&host, &config->common, LT_VAE_DECODER, setup->threads, err);
    if (status) return status;
    LT_TRY(lt_decode_geometry_of(config, &host, inputs[0], setup->input_device[0], &g, err));
    LT_TRY(lt_decode_describe(&host, inputs[0], &g, plan->output, plan->arena, err));
    uint64_t bytes, chunks;
    largest_unit(&g, &bytes, &chunks);
    if (g.endless) chunks = (uint64_t)((g.plan.window + g.chunk - 1) / g.chunk + 1);
    if (inputs[0]->run_clips) /* another clip's windows may lie anywhere on the grid of its chunks */
        chunks = LT_MAX(chunks, (uint64_t)((g.plan.window + g.chunk - 2) / g.chunk + 1));
    /* The window being made and the next one, which shares none of them when it is another replica's neighbour. */
    plan->in_flight[0] = (uint32_t)(2 * chunks);
    plan->takes_device[0] = g.there;
    plan->peak_bytes = held_bytes(&host.device.info, &g) - g.cost.weight_bytes;
    LT_TRY(lt_stage_device_plan(&host.device, config->common.device, host.dry, g.cost.workspace_bytes,
                                g.cost.weight_bytes, "smaller tiles or a shorter window take less", plan,
                                err));
    plan->peak_bytes += plan->peak_bytes / 50; /* what the allocator leaves unused */
    double frames = 0;
    if (g.endless) frames = (double)g.n_windows * (double)g.longest;
    for (int64_t k = 0; k < g.n_windows && !g.endless; k++) {
        lt_window_parts parts = lt_decode_parts(&g, k);
        frames += (double)(parts.lead + parts.own + parts.trail);
    }
    plan->flops = g.cost.flops / (double)g.longest * frames;
    if (inputs[0]->run_frames) plan->flops *= (double)inputs[0]->run_frames / (double)g.n_frames;
    plan->work_factor = g.cost.work_factor;
    resolve(config, lt_vae_get_info(host.vae), &g, plan);
    add_notes(&host, inputs[0], &g, plan);
fail:
    lt_vae_host_close(&host);
    return status;
}
