/* test_choices.c - what cuDNN itself says to the graphs of CUDA's plug-in, without a GPU: the plug-in's own operators, dry, for an H200 that is
 * described to cuDNN in place of a handle. For every graph that a model asks for there is an engine that is allowed. Of every kind of graph
 * the first plan is made, for a driver that is played (driver.c). Kernels of the generation before Hopper's cannot use the matrix units as
 * they are there: so no kernel that is compiled may be one of these by its name, and the engines that convolutions of many channels have are
 * not among those that they have on an A100. Nothing runs. cuBLASLt knows no such thing: what is asked of it is taken for granted.
 *
 * cuDNN is not told how the described device's multiprocessors are grouped, and offers no engine that is compiled for groups of them: on a
 * device it has more to choose from.
 *
 *     test_cuda_choices [--verbose] [--compile]        --compile: every graph, some two minutes */
#include "kernels/backend.h"
#include "kernels/cuda/graph.h"
#include "models/denoiser.h"
#include "models/text_encoder.h"
#include "models/vae.h"
#include "tests/cuda/driver.h"
#include "tests/models/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char h200[] =
    "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
    "\"multiProcessorCount\":132,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
    "\"maxSharedMemoryPerBlockOptin\":232448,\"reservedSharedMemoryPerBlock\":1024,"
    "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,"
    "\"pciDeviceId\":0,\"isTccDriver\":0,\"supportCoopLaunch\":1,\"smClockRateKHz\":1980000,"
    "\"memClockRateKHz\":3201000,\"l2CacheSize\":62914560,\"deviceName\":\"NVIDIA H200\",\"deviceVer\":900,"
    "\"driverVer\":13000,\"cudaDeviceId\":0,\"totalGlobalMem\":150754820096}";

/* As far as an engine asks. */
static const char a100[] =
    "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
    "\"multiProcessorCount\":108,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
    "\"maxSharedMemoryPerBlockOptin\":166912,\"reservedSharedMemoryPerBlock\":1024,"
    "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,"
    "\"pciDeviceId\":0,\"isTccDriver\":0,\"supportCoopLaunch\":1,\"smClockRateKHz\":1410000,"
    "\"memClockRateKHz\":1593000,\"l2CacheSize\":41943040,\"deviceName\":\"NVIDIA A100\",\"deviceVer\":800,"
    "\"driverVer\":13000,\"cudaDeviceId\":0,\"totalGlobalMem\":84974239744}";

static cuda_device device;
static lt_context context;
static bool verbose, compile_all;

/* ---- products ------------------------------------------------------------------------------------------ */

bool cuda_can_multiply(lt_context *c, const char *op, const cuda_product *p)
{
    return true;
}

lt_status cuda_multiply(lt_context *c, const char *op, const cuda_product *p, const void *a, const void *b,
                        const void *bias, const void *c_matrix, void *d)
{
    return LT_OK;
}

void cuda_matmuls_destroy(cuda_device *d) {}

int64_t cuda_canonical_rows(int64_t sample_rows)
{
    return sample_rows;
}

/* ---- the device ---------------------------------------------------------------------------------------- */

static void describe_device(const char *json)
{
    cudnnBackendDescriptor_t *d = &device.dnn_properties;
    if (*d) cudnnBackendDestroyDescriptor(*d);
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, d);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(*d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                     (int64_t)strlen(json), json);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendFinalize(*d);
    if (s != CUDNN_STATUS_SUCCESS) fail_msg("cuDNN takes no description: %s", cudnnGetErrorString(s));
}

static void open_described(lt_dtype dtype)
{
    lt_err err;
    context = (lt_context){.backend = lt_plugin_backend(), .device = &device, .dtype = dtype, .dry = true};
    device.dtype = dtype;
    must(lt_workspace_create(&context.workspace, NULL, 0, &err), &err);
}

/* An engine's plan: code is made where it has none of its own, and no more scratch memory is taken than its configuration said. */
static void compile(const cuda_graph_plan *p)
{
    cudnnBackendDescriptor_t plan = NULL;
    int64_t bytes = 0, n = 0;
    char text[256] = "";
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &p->config);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &device.dnn_properties);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendFinalize(plan);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n,
                                     &bytes);
    if (s != CUDNN_STATUS_SUCCESS) {
        cudnnGetLastErrorString(text, sizeof(text));
        fail_msg("engine %lld makes no plan: %s %s", (long long)p->engine, cudnnGetErrorString(s), text);
    }
    if ((size_t)bytes > p->workspace)
        fail_msg("engine %lld takes %lld bytes where it said %zu", (long long)p->engine, (long long)bytes,
                 p->workspace);
    cudnnBackendDestroyDescriptor(plan);
}

/* Graphs of a kind: of an operator, and an engine. */
static bool same_kind(const cuda_graph_plan *a, const cuda_graph_plan *b)
{
    return a->key.v[0] == b->key.v[0] && a->engine == b->engine;
}

static void compile_plans(const char *what)
{
    const char *kernels[DRIVER_MOST_KERNELS];
    for (const cuda_graph_plan *p = device.graphs; p; p = p->next) {
        const cuda_graph_plan *first = device.graphs;
        while (!same_kind(first, p)) first = first->next;
        if (p->supported && (compile_all || p == first)) compile(p);
    }
    for (int i = driver_kernels(kernels) - 1; i >= 0; i--) {
        if (verbose) printf("    kernel %s\n", kernels[i]);
        if (strstr(kernels[i], "sm80")) fail_msg("%s: %s is not Hopper's", what, kernels[i]);
    }
    driver_forget();
}

/* Every graph so far has an engine; there are `least` of them at least. They are forgotten. */
static void all_supported(const char *what, int least)
{
    int n = 0, refused = 0;
    lt_err err;
    compile_plans(what);
    for (const cuda_graph_plan *p = device.graphs; p; p = p->next) {
        n++;
        refused += !p->supported;
        if (!verbose && p->supported) continue;
        printf("    %s %lld samples of", p->key.v[0] == 1 ? "conv" : "attention", (long long)p->n);
        for (int i = 1; i < GRAPH_KEY; i++) printf(" %lld", (long long)p->key.v[i]);
        printf(": engine %lld%s, %zu bytes\n", (long long)p->engine, p->supported ? "" : " (none)",
               p->workspace);
    }
    printf("%-40s %3d graphs\n", what, n);
    fflush(stdout);
    cuda_graphs_destroy(&device);
    if (lt_context_status(&context, &err) != LT_OK) fail_msg("%s: %s", what, err.text);
    if (refused) fail_msg("%s: %d of %d graphs have no engine", what, refused, n);
    if (n < least) fail_msg("%s: only %d graphs", what, n);
    lt_workspace_destroy(context.workspace);
}

static lt_tensor new_tensor(int rank, const int64_t *shape)
{
    return lt_new(&context, context.dtype, rank, shape);
}
#define NEW(...)                                                                                             \
    new_tensor((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

/* ---- attention ----------------------------------------------------------------------------------------- */

typedef struct heads {
    int64_t batch, queries, keys, n, width;
    bool causal;
    int64_t mask[3]; /* its samples, heads and queries; 0: none */
} heads;

static void attend(const heads *h)
{
    lt_tensor q = NEW(h->batch, h->queries, h->n, h->width), k = NEW(h->batch, h->keys, h->n, h->width);
    lt_tensor mask = LT_NONE;
    if (h->mask[0])
        mask = lt_new(&context, LT_F32, 4, (int64_t[]){h->mask[0], h->mask[1], h->mask[2], h->keys});
    lt_tensor y = lt_attention(&context, q, k, k, mask, 0.125, h->causal);
    lt_drop(&context, &y);
    lt_drop(&context, &mask);
    lt_drop(&context, &k);
    lt_drop(&context, &q);
}

/* Every width of the models' heads, and what their lengths may be. */
static void attention(void **state)
{
    static const heads all[] = {
        {2, 8192, 8192, 16, 64, false, {0}},
        {2, 8192, 8192, 16, 72, false, {0}},
        {1, 4096, 4096, 8, 128, false, {0}},
        {1, 1024, 1024, 4, 256, false, {0}},
        {2, 9216, 77, 10, 64, false, {0}},
        {9216, 16, 16, 5, 64, false, {0}},
        {1, 77, 77, 12, 64, true, {0}},
        {2, 1000, 1000, 20, 64, false, {0}},
        {2, 4096, 120, 16, 72, false, {0}},
        {1, 2, 2, 1, 8, false, {0}},
        {3, 1023, 511, 3, 40, false, {0}},
        {25, 144, 144, 20, 64, false, {0}},
        {8, 120, 120, 64, 64, false, {8, 64, 120}}, /* T5-xxl */
        {8, 120, 120, 64, 64, false, {1, 64, 120}},
        {2, 4096, 120, 16, 72, false, {2, 1, 1}}, /* PixArt's captions */
        {1, 8192, 120, 16, 72, false, {1, 1, 1}},
        {2, 1024, 77, 16, 72, false, {2, 16, 1}},
        {3, 99, 119, 3, 40, false, {3, 1, 99}},
        {1, 4096, 4096, 2, 256, false, {1, 2, 1}},
    };
    static const lt_dtype dtypes[] = {LT_BF16, LT_F16};
    for (size_t d = 0; d < LT_COUNT(dtypes); d++) {
        open_described(dtypes[d]);
        for (size_t i = 0; i < LT_COUNT(all); i++) attend(&all[i]);
        all_supported(d ? "attention, f16" : "attention, bf16", LT_COUNT(all));
    }
}

/* ---- models -------------------------------------------------------------------------------------------- */

static const char *hollow(const char *manifest)
{
    const char *weights = in_folder("hollow.safetensors");
    unlink(weights);
    hollow_write(manifest, NULL, weights);
    return weights;
}

static void vae_frames(void **state)
{
    lt_vae *vae;
    lt_err err = {0};
    must(lt_vae_open(&vae, hollow("svd_vae.json"), LT_VAE_ENCODER | LT_VAE_DECODER, LT_NUMERICS_DIFFUSERS,
                     &err),
         &err);
    static const int64_t sizes[][3] = {{25, 576, 1024}, {8, 1088, 1920}, {3, 256, 320}};
    for (size_t i = 0; i < LT_COUNT(sizes); i++) {
        const int64_t *s = sizes[i];
        char name[60];
        open_described(i == 2 ? LT_F16 : LT_BF16);
        lt_tensor x = NEW(s[0], s[1], s[2], 3), y = lt_vae_encode(&context, vae, x);
        lt_drop(&context, &x);
        lt_drop(&context, &y);
        snprintf(name, sizeof(name), "VAE encode %dx%dx%d", (int)s[0], (int)s[1], (int)s[2]);
        all_supported(name, 10);
        open_described(i == 2 ? LT_F16 : LT_BF16);
        x = NEW(s[0], s[1] / 8, s[2] / 8, 4);
        y = lt_vae_decode(&context, vae, x);
        lt_drop(&context, &x);
        lt_drop(&context, &y);
        snprintf(name, sizeof(name), "VAE decode %dx%dx%d", (int)s[0], (int)s[1], (int)s[2]);
        all_supported(name, 15);
    }
    lt_vae_close(vae, NULL);
}

enum { MOST_ENGINES = 1024 };

/* Which engines there are of convolutions from and to 32 channels and more, for some frames of a VAE. Returns their number. */
static int wide_engines(lt_vae *vae, bool engines[MOST_ENGINES])
{
    int n = 0;
    open_described(LT_BF16);
    lt_tensor x = NEW(8, 576, 1024, 3), y = lt_vae_encode(&context, vae, x), z = NEW(8, 72, 128, 4);
    lt_drop(&context, &y);
    y = lt_vae_decode(&context, vae, z);
    lt_drop(&context, &y);
    lt_drop(&context, &z);
    lt_drop(&context, &x);
    for (const cuda_graph_plan *p = device.graphs; p; p = p->next) {
        bool wide = p->key.v[0] == 1 && p->key.v[3] >= 32 && p->key.v[6] >= 32;
        if (!wide || !p->supported) continue;
        assert_in_range(p->engine, 0, MOST_ENGINES - 1);
        n += !engines[p->engine];
        engines[p->engine] = true;
    }
    cuda_graphs_destroy(&device);
    lt_workspace_destroy(context.workspace);
    return n;
}

static void hoppers_own(void **state)
{
    lt_vae *vae;
    lt_err err = {0};
    must(lt_vae_open(&vae, hollow("svd_vae.json"), LT_VAE_ENCODER | LT_VAE_DECODER, LT_NUMERICS_DIFFUSERS,
                     &err),
         &err);
    bool hopper[MOST_ENGINES] = {0}, ampere[MOST_ENGINES] = {0};
    assert_true(wide_engines(vae, hopper) > 0);
    describe_device(a100);
    assert_true(wide_engines(vae, ampere) > 0);
    describe_device(h200);
    lt_vae_close(vae, NULL);
    for (int i = 0; i < MOST_ENGINES; i++)
        if (hopper[i] && ampere[i]) fail_msg("an A100 has engine %d, too", i);
}

typedef struct network {
    const char *manifest;
    int64_t n, t, h, w;
    int least;
} network;

static void denoise(const network *m)
{
    lt_denoiser *d;
    lt_err err = {0};
    must(lt_denoiser_open(&d, hollow(m->manifest), LT_DENOISER_N_KINDS, LT_NUMERICS_AUTO, NULL, 0, &err),
         &err);
    const lt_denoiser_info *info = lt_denoiser_get_info(d);
    open_described(LT_BF16);
    lt_tensor x = NEW(m->n, m->t, m->h, m->w, info->channels);
    lt_condition with = {.end_sec = 1, .size_ids = {512, 512, 0, 0, 512, 512}};
    if (info->context_width) with.context = NEW(m->n, info->context_length, info->context_width);
    if (info->pooled_width) with.pooled = NEW(m->n, info->pooled_width);
    lt_tensor y = lt_denoise(&context, d, x, 500, &with);
    lt_drop(&context, &y);
    all_supported(m->manifest, m->least);
    lt_denoiser_close(d, NULL);
}

static void denoisers(void **state)
{
    static const network all[] = {
        {"lite_sora_sdxl_3d_unet.json", 2, 16, 64, 64, 8},
        {"lite_sora_videodit_v1.json", 2, 16, 64, 64, 1},
        {"lite_sora_videodit_v2.json", 2, 16, 64, 64, 1},
        {"lite_sora_pixart_dit_image.json", 2, 1, 64, 64, 1},
        {"lite_sora_pixart_video_dit.json", 2, 16, 64, 64, 1},
    };
    for (size_t i = 0; i < LT_COUNT(all); i++) denoise(&all[i]);
}

static void texts(void **state)
{
    static const char *const all[] = {"clip_l_text_encoder.json", "clip_bigg_text_encoder_2.json",
                                      "t5_v1_1_xxl_encoder.json"};
    for (size_t i = 0; i < LT_COUNT(all); i++) {
        lt_text_encoder *e;
        lt_err err = {0};
        must(lt_text_encoder_open(&e, hollow(all[i]), LT_TEXT_FIRST, &err), &err);
        open_described(LT_BF16);
        lt_tensor ids = {.dtype = LT_I32, .rank = 2, .shape = {2, 77}};
        lt_text text = lt_text_encode(&context, e, ids, NULL, &(lt_text_params){0});
        lt_drop(&context, &text.sequence);
        lt_drop(&context, &text.pooled);
        all_supported(all[i], 1);
        lt_text_encoder_close(e, NULL);
    }
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        verbose = verbose || strcmp(argv[i], "--verbose") == 0;
        compile_all = compile_all || strcmp(argv[i], "--compile") == 0;
    }
    describe_device(h200);
    char manifest[4096];
    snprintf(manifest, sizeof(manifest), "%s/models/manifests/svd_vae.json", LT_SHARED);
    const struct CMUnitTest own[] = {cmocka_unit_test(attention)};
    const struct CMUnitTest all[] = {cmocka_unit_test(attention), cmocka_unit_test(vae_frames),
                                     cmocka_unit_test(hoppers_own), cmocka_unit_test(denoisers),
                                     cmocka_unit_test(texts)};
    if (access(manifest, R_OK) != 0) {
        printf("skipped: the graphs of 8 models, since %s/models is not there\n", LT_SHARED);
        return cmocka_run_group_tests(own, NULL, NULL);
    }
    support_start();
    int failed = cmocka_run_group_tests(all, NULL, NULL);
    support_finish();
    return failed;
}
