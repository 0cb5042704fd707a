/* encode_plan.c - what vae_encode will do to a clip, and what it takes. */
#include "stages/vae_encode/vae_encode.h"

#include "proto/wire.h"

#include <inttypes.h>
#include <stdio.h>

/* Measured, RssAnon of the running process less what is counted apart: libraries, threads, sockets; and what oneDNN keeps
 * for each shape of tile: code it makes, and tables for each pixel. */
enum { BASE_BYTES = 4 << 20, SHAPE_BYTES = 7 << 18, PIXEL_BYTES = 34 };

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

static bool has_tiles(const lt_encode_plan *p)
{
    return p->tile > 0 && (p->tile < p->height || p->tile < p->width);
}

/* The request for models/tiling.h that the option `tile` stands for. */
static lt_status make_request(const lt_vae_encode_config *config, const lt_stream *in, int factor,
                              lt_encode_request *request, bool *is_auto, lt_err *err)
{
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
                                   .batch = (int)LT_MIN(config->batch, (int64_t)in->chunk)};
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

/* How many different sizes the tiles of an axis have, and all of them together. */
static size_t axis_shapes(const lt_encode_plan *p, int size, size_t *total)
{
    size_t n = 0;
    int stride = (int)(p->tile * (1 - p->overlap)), before = 0;
    if (!has_tiles(p) || stride < 1) stride = size;
    for (int start = *total = 0; start < size; start += stride) {
        int length = LT_MIN(has_tiles(p) ? p->tile : size, size - start);
        if (length == before) continue;
        before = length;
        *total += (size_t)length;
        n++;
    }
    return n;
}

static size_t table_bytes(const lt_encode_plan *p)
{
    size_t height, width, shapes = axis_shapes(p, p->height, &height);
    shapes *= axis_shapes(p, p->width, &width);
    return shapes * SHAPE_BYTES + height * width * (size_t)p->batch * PIXEL_BYTES;
}

/* What a replica holds beside the workspace and the tables: packed weights; moments and values of a chunk; a cache's value, packed and
 * on its way to the disk. */
static size_t held_bytes(const lt_vae_encode_config *config, const lt_encode_geometry *g, bool cache)
{
    size_t moments = lt_encode_moment_bytes(g), values = lt_encode_value_bytes(g),
           kinds = config->logvar ? 2 : 1;
    return g->cost.weight_bytes + kinds * (moments + values) + (cache ? 2 * kinds * values : 0);
}

/* One call as it will be made, with the clip's own pixels: where memory lies depends on their size, too. */
static lt_status run_dry(void *user, lt_vae_host *host, lt_err *err)
{
    const lt_encode_geometry *g = user;
    int64_t n = LT_MIN((int64_t)g->plan.batch, LT_MIN(g->chunk, g->n_frames));
    lt_tensor frames = {.dtype = g->pixels, .rank = 4, .shape = {n, g->plan.height, g->plan.width, 3}};
    return lt_encode_frames(host->dry, host->vae, &g->plan, frames, g->pixels == LT_U8 ? 8 : 16, NULL, NULL,
                            err);
}

/* Tiles and cost, the workspace to the byte. */
static lt_status choose(lt_vae_host *host, const lt_encode_request *request, lt_encode_geometry *g,
                        lt_err *err)
{
    lt_status status = lt_encode_plan_auto(host->dry, host->vae, request, &g->plan, &g->cost, err);
    return status ? status : lt_vae_host_measure(host, run_dry, g, &g->cost.workspace_bytes, err);
}

/* Smaller tiles until all of a replica is within the option `memory`: workspace and tables shrink with them. */
static lt_status fit(const lt_vae_encode_config *config, lt_vae_host *host, lt_encode_request *request,
                     lt_encode_geometry *g, lt_err *err)
{
    double memory = (double)lt_vae_memory(&config->common), limit = 0x1p62;
    for (;;) {
        double held = (double)held_bytes(config, g, true) + BASE_BYTES;
        double workspace = (double)g->cost.workspace_bytes, tables = (double)table_bytes(&g->plan);
        if (held + workspace + tables <= memory) return LT_OK;
        if (held >= memory)
            return lt_fail(err, LT_E_NO_MEMORY,
                           "vae_encode holds %.0f MiB of weights and buffers; %.0f MiB of memory are too few",
                           held / 0x1p20, memory / 0x1p20);
        limit = LT_MIN(0.98 * limit, workspace * (memory - held) / (workspace + tables));
        request->memory = (size_t)LT_MAX(limit, 1.0);
        lt_status status = choose(host, request, g, err);
        if (status) return status;
    }
}

lt_status lt_encode_geometry_of(const lt_vae_encode_config *config, lt_vae_host *host, const lt_stream *in,
                                lt_encode_geometry *g, lt_err *err)
{
    static const lt_dtype dtypes[] = {LT_F32, LT_F16, LT_BF16};
    const lt_vae_info *info = lt_vae_get_info(host->vae);
    lt_encode_request request;
    bool is_auto = false;
    lt_status status = check_input(in, info->factor, err);
    if (status) return status;
    status = make_request(config, in, info->factor, &request, &is_auto, err);
    if (status) return status;
    *g = (lt_encode_geometry){.dtype = dtypes[config->cache_dtype],
                              .pixels = in->dtype == LT__WIRE__DTYPE__DTYPE_U8 ? LT_U8 : LT_U16,
                              .channels = info->latent_channels,
                              .height = (int)in->height / info->factor,
                              .width = (int)in->width / info->factor,
                              .n_frames = (int64_t)in->n_frames,
                              .chunk = in->chunk};
    status = choose(host, &request, g, err);
    return status || !is_auto ? status : fit(config, host, &request, g, err);
}

void lt_encode_tile_text(const lt_encode_geometry *g, char *text, size_t text_bytes)
{
    if (has_tiles(&g->plan))
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
    lt_vae_hash(text, digest);
}

lt_status lt_encode_describe(const lt_vae_encode_config *config, const lt_vae_host *host, const lt_stream *in,
                             const lt_encode_geometry *g, lt_stream *out, lt_arena *arena, lt_err *err)
{
    const lt_vae_info *info = lt_vae_get_info(host->vae);
    char digest[33];
    digest_of(config, host, in, g, digest);
    lt_status status = lt_stream_copy(out, in, arena, err);
    if (status) return status;
    out->kind = LT__WIRE__PORT_KIND__PORT_LATENTS;
    out->dtype = (Lt__Wire__Dtype)(g->dtype + 1);
    out->width = (uint32_t)g->width;
    out->height = (uint32_t)g->height;
    out->channels = (uint32_t)g->channels;
    out->bits = 0;
    out->n_units = (in->n_frames - 1) / in->chunk + 1;
    out->unit_bytes = lt_encode_value_bytes(g);
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
    if (has_tiles(p))
        lt_plan_note(plan, "%dx%d in %d tiles of %d pixels, overlap %g; work x %.2f", p->width, p->height,
                     g->cost.n_tiles, p->tile, p->overlap, g->cost.work_factor);
    else
        lt_plan_note(plan, "tile none: %dx%d fits in %.0f MiB", p->width, p->height,
                     (double)g->cost.workspace_bytes / 0x1p20);
    lt_plan_note(plan, "latents %s[%d,%d,%d] a frame, numerics %s, %s", lt_dtype_name(g->dtype), g->channels,
                 g->height, g->width, lt_vae_numerics_name(info->numerics), host->dry->numeric_class);
    if (has_tiles(p))
        lt_plan_resolve(plan, "tile", "%d", p->tile);
    else
        lt_plan_resolve(plan, "tile", "none");
    if (config->common.numerics == LT_NUMERICS_AUTO)
        lt_plan_resolve(plan, "numerics", "%s", lt_vae_numerics_name(info->numerics));
}

lt_status lt_encode_stage_plan(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan,
                               lt_err *err)
{
    const lt_vae_encode_config *config = setup->config;
    bool cache = setup->cache && *setup->cache;
    lt_vae_host host;
    lt_encode_geometry g;
    lt_status status = lt_vae_host_open(&host, &config->common, LT_VAE_ENCODER, setup->threads, err);
    if (status) return status;
    LT_TRY(lt_encode_geometry_of(config, &host, inputs[0], &g, err));
    LT_TRY(lt_encode_describe(config, &host, inputs[0], &g, plan->output, plan->arena, err));
    plan->in_flight[0] = 2;
    plan->peak_bytes =
        BASE_BYTES + g.cost.workspace_bytes + held_bytes(config, &g, cache) + table_bytes(&g.plan);
    plan->disk_bytes =
        cache ? plan->output->n_units * (lt_encode_value_bytes(&g) * (config->logvar ? 2 : 1) + 4096) : 0;
    plan->flops = g.cost.flops * (double)g.n_frames;
    plan->work_factor = g.cost.work_factor;
    add_notes(config, &host, &g, plan);
fail:
    lt_vae_host_close(&host);
    return status;
}
