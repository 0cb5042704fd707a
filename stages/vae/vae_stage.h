/* vae_stage.h - what the stages vae_encode and vae_decode share: options, the opened model with the memory it runs
 * in, tiles as text, and digests.
 *
 * Threads: everything here belongs to the stage's main thread. */
#ifndef LT_VAE_STAGE_H
#define LT_VAE_STAGE_H

#include "models/tiling.h"
#include "stages/device/device.h"
#include "stages/runtime/stage.h"

/* ---- options ------------------------------------------------------------------------------------------- */

typedef struct lt_vae_common {
    const char *model, *device;
    int dtype;    /* lt_stage_dtype */
    int numerics; /* lt_numerics */
    const char *tile;
    int64_t memory;
} lt_vae_common;

/* Rows of a stage's option table, for a configuration whose first field is an lt_vae_common. `tile_help` says what
 * the stage's tiles are. */
/* clang-format off */
#define LT_VAE_COMMON_OPTIONS(tile_help)                                                                         \
    {"model", LT_OPT_PATH, offsetof(lt_vae_common, model), NULL, 0, 0, NULL, NULL,                               \
     "folder of a VAE (config.json and safetensors), or a single safetensors file", false},                      \
    LT_DEVICE_OPTIONS(lt_vae_common, "; bf16 halves the memory"),                                                \
    {"numerics", LT_OPT_ENUM, offsetof(lt_vae_common, numerics), "auto", 0, 0, "auto|diffusers|lite-sora", NULL, \
     "whose numbers are followed where the two differ; auto: the file's names decide", false},                   \
    {"tile", LT_OPT_STRING, offsetof(lt_vae_common, tile), "auto", 0, 0, NULL, "pixels", tile_help, false},      \
    {"memory", LT_OPT_BYTES, offsetof(lt_vae_common, memory), "0", 0, 0, NULL, NULL,                             \
     "what one replica may take of the host's or the device's memory, for tile = auto; 0: a quarter of what is free on the host when it is planned, half of it on a device", false}
/* clang-format on */

const char *lt_vae_numerics_name(lt_numerics numerics);

/* A tile as an option's text: "auto", "none", "512" or "512x384" (width x height, pixels). */
typedef struct lt_tile_option {
    bool is_auto, none;
    int width, height;
} lt_tile_option;

/* E_INVALID naming `option` when it is none of those, or no multiple of `factor`. */
lt_status lt_tile_parse(const char *text, const char *option, int factor, lt_tile_option *tile, lt_err *err);

/* ---- the model and its memory -------------------------------------------------------------------------- */

typedef struct lt_vae_host {
    const lt_vae_common *common;
    lt_stage_device device;
    int parts, threads;
    lt_vae *vae;
    lt_context *dry; /* for plans, and for the numeric class */
    lt_context *run; /* NULL until memory is reserved */
    size_t run_bytes;
    char digest[33]; /* of the model: weights, numerics, numeric class and epoch */
} lt_vae_host;

/* Open the model's `parts` (LT_VAE_ENCODER, LT_VAE_DECODER) and a dry context. On failure the host is empty. */
lt_status lt_vae_host_open(lt_vae_host *host, const lt_vae_common *common, int parts, int threads,
                           lt_err *err);
/* Make host->run a context whose workspace holds at least `bytes`; one that is large enough is kept. */
lt_status lt_vae_host_reserve(lt_vae_host *host, size_t bytes, lt_err *err);
/* The workspace that one call of the model takes, to the byte: `run` makes the call with the dry context it is given. */
typedef lt_status (*lt_vae_dry_run)(void *user, lt_vae_host *host, lt_err *err);
lt_status lt_vae_host_measure(lt_vae_host *host, lt_vae_dry_run run, void *user, size_t *bytes, lt_err *err);
/* What of `held` bytes, of which weight_bytes are packed weights, counts against the memory that the option names: all, or on a device
 * the weights alone. */
size_t lt_vae_host_held(const lt_vae_host *host, size_t weight_bytes, size_t held);
/* Of the host's memory, whatever is computed: the stage's own `base`, and what the backend says it takes there itself. */
size_t lt_vae_base_bytes(const lt_device_info *device, size_t base);
void lt_vae_host_close(lt_vae_host *host); /* an empty or half-open one too */

/* ---- code made for shapes ------------------------------------------------------------------------------ */

/* The different sizes of tiles along an axis: the square roots of the first one and of all. A zeroed one is empty. */
typedef struct lt_tile_sizes {
    double first, all;
    int last;
} lt_tile_sizes;

/* Take note of one more tile of `size` pixels along the axis; tiles come in their order. */
void lt_tile_sizes_add(lt_tile_sizes *sizes, int size);

/* What libraries keep for the shapes they have met, mostly code that oneDNN makes: it grows with the edge of a tile, by
 * `per_pixel` bytes, and shapes share a third of it. Measured on AVX-512, 64x48 to 384x216, whole and in tiles. */
size_t lt_vae_shape_bytes(const lt_tile_sizes *rows, const lt_tile_sizes *columns, double per_pixel);

#endif
