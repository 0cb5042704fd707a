/* modelrun - run one network on tensors from a file, in the layouts and scale of the reference it is compared with. */
#include "kernels/safetensors.h"
#include "models/tiling.h"
#include "tools/modelrun/layout.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: modelrun MODEL --in X.safetensors --out Y.safetensors [options]\n"
    "\n"
    "Runs a video VAE on tensors from a file and writes the result, as the reference's own forward takes and "
    "gives them.\n"
    "MODEL is a diffusers folder or one .safetensors file.\n"
    "\n"
    "  --part PART          encoder | decoder | decode_video; by default encoder for a file that holds "
    "`sample`,\n"
    "                       decoder for one that holds `latent`\n"
    "  --device DEVICE      cpu (default) | ref (float64, slow)\n"
    "  --dtype DTYPE        f32 (default) | bf16: of activations\n"
    "  --numerics WHOSE     auto (default: lite-sora for files with its names) | diffusers | lite-sora\n"
    "  --tile TxHxW         decode_video: tile in latent units, default 32x64x64\n"
    "  --stride TxHxW       decode_video: default 16x32x32\n"
    "  --threads N          default: all cores\n"
    "\n"
    "Part by part, under diffusers' numerics:\n"
    "  encoder       sample [N,3,H,W] in [-1,1]  -> latent [N,C,h,w] = encode(sample).latent_dist.mean "
    "(unscaled), logvar\n"
    "  decoder       latent [N,C,h,w] (unscaled) -> sample [N,3,H,W] = decode(latent, num_frames = "
    "N).sample\n"
    "Under lite-sora's:\n"
    "  encoder       sample [N,3,H,W]            -> latent [N,C,h,w] = SDVAEEncoder(sample): mean times "
    "scaling_factor\n"
    "  decoder       latent [C,T,h,w] (scaled)   -> sample [3,T,H,W] = SVDVAEDecoder(latent)\n"
    "                latent [N,C,h,w] (scaled)   -> sample [N,3,H,W] = SDVAEDecoder(latent), not temporal\n"
    "Under both:\n"
    "  decode_video  latent [C,T,h,w] (scaled)   -> sample [3,T,H,W] = lite-sora's decode_video(latent, "
    "tile, stride)\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 used wrongly.\n";

typedef enum { PART_AUTO, PART_ENCODER, PART_DECODER, PART_VIDEO } part;

typedef struct arguments {
    const char *model, *in, *out, *device;
    part part;
    lt_dtype dtype;
    lt_numerics numerics;
    int tile[3], stride[3], threads;
} arguments;

/* ---- command line ------------------------------------------------------------------------------------------------------ */

/* Index of text among the choices ("a|b|c"), or -1. */
static int choice(const char *text, const char *choices)
{
    size_t n = strlen(text);
    for (int i = 0; *choices; i++) {
        const char *end = strchr(choices, '|');
        size_t length = end ? (size_t)(end - choices) : strlen(choices);
        if (length == n && strncmp(text, choices, n) == 0) return i;
        choices += length + (end ? 1 : 0);
    }
    return -1;
}

static bool read_box(const char *text, int box[3])
{
    char rest;
    return sscanf(text, "%dx%dx%d%c", &box[0], &box[1], &box[2], &rest) == 3 && box[0] > 0 && box[1] > 0 &&
           box[2] > 0;
}

static bool read_threads(const char *text, int *threads)
{
    char rest;
    return sscanf(text, "%d%c", threads, &rest) == 1 && *threads >= 0 && *threads <= 4096;
}

static bool read_option(arguments *a, int option, const char *value)
{
    int i;
    switch (option) {
    case 'i': a->in = value; return true;
    case 'o': a->out = value; return true;
    case 'd': a->device = value; return true;
    case 'p':
        if ((i = choice(value, "encoder|decoder|decode_video")) >= 0) a->part = (part)(PART_ENCODER + i);
        return i >= 0;
    case 't':
        if ((i = choice(value, "f32|bf16")) >= 0) a->dtype = i ? LT_BF16 : LT_F32;
        return i >= 0;
    case 'n':
        if ((i = choice(value, "auto|diffusers|lite-sora")) >= 0)
            a->numerics = (lt_numerics)(LT_NUMERICS_AUTO + i);
        return i >= 0;
    case 'T': return read_box(value, a->tile);
    case 'S': return read_box(value, a->stride);
    case 'j': return read_threads(value, &a->threads);
    default: return false;
    }
}

/* Exit status to leave with, or -1 to go on. */
static int read_arguments(arguments *a, int argc, char **argv)
{
    static const struct option options[] = {
        {"in", required_argument, NULL, 'i'},
        {"out", required_argument, NULL, 'o'},
        {"part", required_argument, NULL, 'p'},
        {"device", required_argument, NULL, 'd'},
        {"dtype", required_argument, NULL, 't'},
        {"numerics", required_argument, NULL, 'n'},
        {"tile", required_argument, NULL, 'T'},
        {"stride", required_argument, NULL, 'S'},
        {"threads", required_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option, index = 0;
    while ((option = getopt_long(argc, argv, "h", options, &index)) != -1) {
        if (option == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (option == '?') return 2;
        if (!read_option(a, option, optarg)) {
            fprintf(stderr, "modelrun: --%s does not take '%s' (modelrun --help)\n", options[index].name,
                    optarg);
            return 2;
        }
    }
    if (optind != argc - 1 || !a->in || !a->out) {
        fprintf(stderr, "modelrun: one MODEL, --in and --out are needed (modelrun --help)\n");
        return 2;
    }
    a->model = argv[optind];
    return -1;
}

/* ---- running ------------------------------------------------------------------------------------------------------------- */

/* What a run holds until its end. */
typedef struct run {
    arguments a;
    lt_safetensors *in;
    lt_vae *vae;
    const lt_vae_info *info;
    lt_context *dry, *context;
    lt_tensor input;      /* [N,H,W,C] f32, ours */
    lt_tensor results[2]; /* ours, channels last */
    lt_tensor stored[2];
} run;

static lt_status open_context(run *r, size_t bytes, lt_err *err)
{
    bool ref = strcmp(r->a.device, "ref") == 0;
    lt_dtype dtype = ref ? LT_F64 : r->a.dtype;
    return lt_context_create(bytes ? &r->context : &r->dry, r->a.device, dtype, bytes, r->a.threads, err);
}

static lt_status new_result(run *r, int index, const int64_t shape[4], lt_err *err)
{
    int64_t n;
    lt_tensor *t = &r->results[index];
    *t = (lt_tensor){.dtype = LT_F32, .rank = 4, .shape = {shape[0], shape[1], shape[2], shape[3]}};
    if (!lt_product_i64(shape, 4, &n) || !(t->data = calloc((size_t)LT_MAX(n, 1), sizeof(float))))
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the result");
    return LT_OK;
}

static bool lite_sora(const run *r)
{
    return r->info->numerics == LT_NUMERICS_LITE_SORA;
}

static lt_status encode(run *r, lt_err *err)
{
    lt_status status;
    const int64_t *s = r->input.shape, f = r->info->factor;
    const lt_encode_request request = {.height = (int)s[1], .width = (int)s[2], .overlap = -1};
    lt_encode_plan plan;
    lt_tile_cost cost;
    LT_TRY(lt_encode_plan_auto(r->dry, r->vae, &request, &plan, &cost, err));
    LT_TRY(open_context(r, cost.workspace_bytes, err));
    const int64_t shape[] = {s[0], s[1] / f, s[2] / f, r->info->latent_channels};
    for (int i = 0; i < 2; i++) LT_TRY(new_result(r, i, shape, err));
    LT_TRY(lt_encode_frames(r->context, r->vae, &plan, r->input, 8, r->results[0].data, r->results[1].data,
                            err));
fail:
    return status;
}

/* All windows in order, blended as a consumer does. */
static lt_status decode_windows(run *r, const lt_decode_plan *plan, lt_blend *blend, float *sums, lt_err *err)
{
    lt_status status = LT_OK;
    int64_t n = r->input.shape[0], frame;
    size_t pixels = 3 * (size_t)(r->results[0].shape[1] * r->results[0].shape[2]);
    float *out = r->results[0].data;
    for (int64_t k = 0; k < lt_decode_windows_count(plan, n); k++) {
        int64_t first, end;
        lt_decode_window_range(plan, n, k, &first, &end);
        lt_tensor latents = lt_rows(r->context, r->input, first, end - first);
        LT_TRY(lt_decode_window(r->context, r->vae, plan, n, k, latents, sums, err));
        LT_TRY(lt_blend_add(blend, k, first, end - first, sums, err));
        while (lt_blend_take(blend, &frame, out) == LT_OK) out += pixels;
    }
fail:
    return status;
}

static lt_status decode(run *r, lt_err *err)
{
    lt_status status;
    const int64_t *s = r->input.shape, f = r->info->factor;
    bool video = r->a.part == PART_VIDEO;
    const int *tile = r->a.tile, *stride = r->a.stride;
    lt_decode_request request = {
        .height = (int)s[1], .width = (int)s[2], .n_frames = s[0], .window = (int)s[0], .stride = (int)s[0]};
    if (video) {
        request = (lt_decode_request){(int)s[1], (int)s[2], s[0],      tile[0],   stride[0],
                                      tile[1],   tile[2],   stride[1], stride[2], 0};
        if (!r->info->temporal) request.stride = request.window;
    } else {
        request.tile_height = request.stride_height = (int)s[1];
        request.tile_width = request.stride_width = (int)s[2];
    }
    lt_decode_plan plan;
    lt_tile_cost cost;
    lt_blend *blend = NULL;
    float *sums = NULL;
    LT_TRY(lt_decode_plan_auto(r->dry, r->vae, &request, &plan, &cost, err));
    LT_TRY(open_context(r, cost.workspace_bytes, err));
    LT_TRY(new_result(r, 0, (int64_t[]){s[0], s[1] * f, s[2] * f, 3}, err));
    LT_TRY(lt_blend_create(&blend, &plan, s[0], 0, err));
    size_t pixels = (size_t)(s[1] * s[2] * f * f);
    sums = malloc(3 * sizeof(float) * pixels * (size_t)LT_MIN((int64_t)plan.window, s[0]));
    status = sums ? decode_windows(r, &plan, blend, sums, err)
                  : lt_fail(err, LT_E_NO_MEMORY, "out of memory for a window");
fail:
    free(sums);
    lt_blend_destroy(blend);
    return status;
}

/* Which half to run, from --part or from what the file holds. */
static lt_status choose_part(run *r, lt_err *err)
{
    lt_tensor t;
    if (r->a.part != PART_AUTO) return LT_OK;
    bool sample = lt_safetensors_get(r->in, "sample", &t, NULL) == LT_OK;
    bool latent = lt_safetensors_get(r->in, "latent", &t, NULL) == LT_OK;
    if (sample == latent)
        return lt_fail(err, LT_E_INVALID, "%s holds %s `sample` and `latent`: say which --part to run",
                       r->a.in, sample ? "both" : "neither");
    r->a.part = sample ? PART_ENCODER : PART_DECODER;
    return LT_OK;
}

static lt_status execute(run *r, lt_err *err)
{
    lt_status status;
    lt_tensor t;
    LT_TRY(lt_safetensors_open(&r->in, r->a.in, err));
    LT_TRY(choose_part(r, err));
    bool encoder = r->a.part == PART_ENCODER, video = r->a.part == PART_VIDEO;
    LT_TRY(lt_vae_open(&r->vae, r->a.model, encoder ? LT_VAE_ENCODER : LT_VAE_DECODER, r->a.numerics, err));
    r->info = lt_vae_get_info(r->vae);
    LT_TRY(open_context(r, 0, err));
    const char *from = encoder ? "sample" : "latent", *to = encoder ? "latent" : "sample";
    bool scaled = lite_sora(r) || video, clip = video || (lite_sora(r) && r->info->temporal && !encoder);
    layout l = clip ? LAYOUT_CHANNELS_FIRST : LAYOUT_FRAMES_FIRST;
    double factor = r->info->scaling_factor;
    LT_TRY(lt_safetensors_get(r->in, from, &t, err));
    LT_TRY(layout_load(&t, from, l, scaled && !encoder ? 1 / factor : 1, &r->input, err));
    if (r->input.shape[0] < 1) LT_TRY(lt_fail(err, LT_E_INVALID, "%s: `%s` holds no frames", r->a.in, from));
    LT_TRY(encoder ? encode(r, err) : decode(r, err));
    int n = encoder && !scaled ? 2 : 1;
    lt_named_tensor named[2];
    for (int i = 0; i < n; i++) {
        LT_TRY(layout_store(&r->results[i], l, scaled && encoder ? factor : 1, &r->stored[i], err));
        named[i] = (lt_named_tensor){i ? "logvar" : to, r->stored[i]};
    }
    LT_TRY(lt_safetensors_write(r->a.out, named, n, NULL, 0, err));
fail:
    return status;
}

int main(int argc, char **argv)
{
    run r = {.a = {.device = "cpu", .dtype = LT_F32, .tile = {32, 64, 64}, .stride = {16, 32, 32}}};
    int code = read_arguments(&r.a, argc, argv);
    if (code >= 0) return code;
    lt_err err = {0};
    lt_status status = execute(&r, &err);
    if (status != LT_OK) fprintf(stderr, "modelrun: %s\n", err.text);
    lt_vae_close(r.vae, r.context ? r.context : r.dry);
    lt_context_destroy(r.context);
    lt_context_destroy(r.dry);
    lt_safetensors_close(r.in);
    free(r.input.data);
    for (int i = 0; i < 2; i++) {
        free(r.results[i].data);
        free(r.stored[i].data);
    }
    return status == LT_OK ? 0 : 1;
}
