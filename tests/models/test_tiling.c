/* test_tiling.c - tiles and windows: diffusers' tiled_encode, lite-sora's decode_video, streaming, plans. */
#include "tests/models/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BOUND     1e-5
#define WORKSPACE ((size_t)256 << 20)

enum { N_VIDEOS = 7, N_TILED = 3 };

/* ---- encode ------------------------------------------------------------------------------------------------------------ */

static void tiled_encode(void **state)
{
    lt_context *c = open_context("cpu", LT_F32, WORKSPACE, 2);
    lt_vae *vae = open_vae(in_folder("kl"), LT_VAE_ENCODER, LT_NUMERICS_AUTO);
    lt_err err = {0};
    for (int i = 0; i < N_TILED; i++) {
        char name[32];
        snprintf(name, sizeof(name), "kl_tiled_%d", i);
        fixture f = fixture_open(name);
        lt_tensor x = fixture_get(&f, "sample", FRAMES_FIRST), mean = fixture_get(&f, "latent", FRAMES_FIRST);
        lt_tensor logvar = fixture_get(&f, "logvar", FRAMES_FIRST);
        lt_encode_plan plan = {.factor = 4,
                               .height = (int)x.shape[1],
                               .width = (int)x.shape[2],
                               .tile = atoi(lt_safetensors_metadata(f.file, "tile")),
                               .overlap = atof(lt_safetensors_metadata(f.file, "overlap")),
                               .batch = 1};
        must(lt_encode_plan_check(&plan, &err), &err);
        lt_tensor got[2][2];
        for (int batch = 1; batch <= 2; batch++) {
            for (int j = 0; j < 2; j++)
                got[batch - 1][j] = new_host(mean.shape[0], mean.shape[1], mean.shape[2], 4);
            plan.batch = batch;
            must(lt_encode_frames(c, vae, &plan, x, 8, got[batch - 1][0].data, got[batch - 1][1].data, &err),
                 &err);
            check_empty(c);
        }
        int64_t n = lt_n_elements(&mean);
        check_close(name, got[0][0].data, mean.data, n, BOUND);
        check_close("  log-variance", got[0][1].data, logvar.data, n, BOUND);
        for (int j = 0; j < 2; j++)
            assert_memory_equal(got[0][j].data, got[1][j].data, lt_tensor_bytes(&mean));
        for (int j = 0; j < 4; j++) free(got[j / 2][j % 2].data);
        free(x.data);
        free(mean.data);
        free(logvar.data);
        fixture_close(&f);
    }
    lt_vae_close(vae, c);
    lt_context_destroy(c);
}

/* Bytes in, and a tile that does not begin at latent cells. */
static void encode_inputs(void **state)
{
    lt_context *c = open_context("cpu", LT_F32, WORKSPACE, 2);
    lt_vae *vae = open_vae(in_folder("kl"), LT_VAE_ENCODER, LT_NUMERICS_AUTO);
    lt_err err = {0};
    lt_encode_plan plan = {.factor = 4, .height = 20, .width = 28, .tile = 16, .overlap = 0.25, .batch = 2};
    uint8_t bytes[3 * 20 * 28 * 3];
    lt_tensor values = new_host(3, 20, 28, 3), a = new_host(3, 5, 7, 4), b = new_host(3, 5, 7, 4);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(i * 37 % 251);
        ((float *)values.data)[i] = (float)(bytes[i] / 127.5 - 1);
    }
    lt_tensor pixels = values;
    pixels.data = bytes;
    pixels.dtype = LT_U8;
    must(lt_encode_frames(c, vae, &plan, pixels, 8, a.data, NULL, &err), &err);
    must(lt_encode_frames(c, vae, &plan, values, 0, b.data, NULL, &err), &err);
    check_close("bytes against values", a.data, b.data, lt_n_elements(&a), 1e-6);
    plan.tile = 18;
    assert_int_equal(lt_encode_plan_check(&plan, &err), LT_E_INVALID);
    plan = (lt_encode_plan){.factor = 4, .height = 22, .width = 28, .batch = 1};
    assert_int_equal(lt_encode_plan_check(&plan, &err), LT_E_INVALID);
    assert_non_null(strstr(err.text, "multiples of 4"));
    plan.height = 24;
    assert_int_equal(lt_encode_frames(c, vae, &plan, pixels, 8, a.data, NULL, &err), LT_E_INVALID);
    assert_non_null(strstr(err.text, "u8[3,20,28,3]"));
    free(values.data);
    free(a.data);
    free(b.data);
    lt_vae_close(vae, c);
    lt_context_destroy(c);
}

/* ---- decode -------------------------------------------------------------------------------------------------------------- */

static lt_decode_plan video_plan(const fixture *f, const lt_tensor *latents, int factor)
{
    int tile[3], stride[3];
    fixture_box(f, "tile", tile);
    fixture_box(f, "stride", stride);
    lt_decode_plan p = {true,
                        factor,
                        (int)latents->shape[1],
                        (int)latents->shape[2],
                        tile[0],
                        stride[0],
                        tile[1],
                        tile[2],
                        stride[1],
                        stride[2]};
    lt_err err = {0};
    must(lt_decode_plan_check(&p, &err), &err);
    return p;
}

static lt_tensor window_of(lt_context *c, const lt_decode_plan *p, lt_tensor latents, int64_t k,
                           int64_t *first)
{
    int64_t end;
    lt_decode_window_range(p, latents.shape[0], k, first, &end);
    return lt_rows(c, latents, *first, end - *first);
}

/* Everything a consumer collects: frames in order. */
typedef struct collected {
    float *frames;
    int64_t next;
    size_t values; /* of a frame */
} collected;

static void collect(collected *out, int64_t frame, const float *values)
{
    assert_int_equal(frame, out->next);
    memcpy(out->frames + (size_t)frame * out->values, values, out->values * sizeof(float));
    out->next++;
}

static void drain(lt_blend *blend, collected *out, float *scratch)
{
    int64_t frame;
    lt_status status;
    while ((status = lt_blend_take(blend, &frame, scratch)) == LT_OK) collect(out, frame, scratch);
    assert_int_equal(status, LT_AGAIN);
}

/* As stages do it: only what windows share goes through the blend; the rest is finished by the producer. */
static void feed_parts(lt_blend *blend, const lt_decode_plan *p, int64_t n, int64_t k, float *sums,
                       collected *out, float *scratch)
{
    int64_t first, end, lead, trail;
    lt_err err = {0};
    lt_decode_window_range(p, n, k, &first, &end);
    lt_decode_window_shared(p, n, k, &lead, &trail);
    if (lead + trail == end - first) {
        must(lt_blend_add(blend, k, first, end - first, sums, &err), &err);
        drain(blend, out, scratch);
        return;
    }
    must(lt_blend_add(blend, k, first, lead, sums, &err), &err);
    drain(blend, out, scratch);
    int64_t middle = end - first - lead - trail;
    float *own = sums + (size_t)lead * out->values;
    must(lt_decode_finish(p, n, k, first + lead, middle, own, own, &err), &err);
    for (int64_t i = 0; i < middle; i++) collect(out, first + lead + i, own + (size_t)i * out->values);
    must(lt_blend_add(blend, k, end - trail, trail, sums + (size_t)(end - trail - first) * out->values, &err),
         &err);
}

static size_t window_values(const lt_decode_plan *p)
{
    return (size_t)p->window * p->height * p->width * p->factor * p->factor * 3;
}

/* The sums of every window of a clip, as the producer makes them. */
static float *decode_windows(lt_context *c, lt_vae *vae, const lt_decode_plan *p, lt_tensor latents)
{
    int64_t n = latents.shape[0], count = lt_decode_windows_count(p, n), first;
    lt_err err = {0};
    float *sums = calloc((size_t)count * window_values(p), sizeof(*sums));
    assert_non_null(sums);
    for (int64_t k = 0; k < count; k++) {
        lt_tensor z = window_of(c, p, latents, k, &first);
        must(lt_decode_window(c, vae, p, n, k, z, sums + (size_t)k * window_values(p), &err), &err);
        check_empty(c);
    }
    return sums;
}

/* The clip from frame `from` on, as a consumer puts it together: of whole windows, or as stages do it. */
static lt_tensor put_together(const lt_decode_plan *p, int64_t n, const float *sums, int64_t from, bool parts)
{
    int64_t first, last, f = p->factor;
    lt_err err = {0};
    lt_blend *blend;
    lt_tensor frames = new_host(n, f * p->height, f * p->width, 3);
    lt_tensor scratch = new_host(1, f * p->height, f * p->width, 3);
    float *window = malloc(window_values(p) * sizeof(*window));
    collected out = {frames.data, from, (size_t)lt_n_elements(&scratch)};
    assert_non_null(window);
    must(lt_blend_create(&blend, p, n, from, &err), &err);
    lt_decode_windows_of_frame(p, n, from, &first, &last);
    for (int64_t k = first; k < lt_decode_windows_count(p, n); k++) {
        int64_t start, end;
        lt_decode_window_range(p, n, k, &start, &end);
        memcpy(window, sums + (size_t)k * window_values(p), window_values(p) * sizeof(*window));
        if (parts) {
            feed_parts(blend, p, n, k, window, &out, scratch.data);
        } else {
            must(lt_blend_add(blend, k, start, end - start, window, &err), &err);
            drain(blend, &out, scratch.data);
        }
    }
    assert_int_equal(out.next, n);
    lt_blend_destroy(blend);
    free(window);
    free(scratch.data);
    return frames;
}

static lt_tensor decode_clip(lt_context *c, lt_vae *vae, const lt_decode_plan *p, lt_tensor latents,
                             bool parts)
{
    float *sums = decode_windows(c, vae, p, latents);
    lt_tensor frames = put_together(p, latents.shape[0], sums, 0, parts);
    free(sums);
    return frames;
}

static lt_tensor load_video(const fixture *f)
{
    lt_tensor z = fixture_get(f, "latent", CHANNELS_FIRST);
    float *x = z.data;
    for (int64_t i = 0; i < lt_n_elements(&z); i++) x[i] = (float)(x[i] / 0.18215);
    return z;
}

static void decode_video(void **state)
{
    lt_context *c = open_context("cpu", LT_F32, WORKSPACE, 2);
    lt_vae *vae = open_vae(in_folder("lite_svd_decoder"), LT_VAE_DECODER, LT_NUMERICS_AUTO);
    for (int i = 0; i < N_VIDEOS; i++) {
        char name[32];
        snprintf(name, sizeof(name), "video_%d", i);
        fixture f = fixture_open(name);
        lt_tensor z = load_video(&f), wanted = fixture_get(&f, "sample", CHANNELS_FIRST);
        lt_decode_plan p = video_plan(&f, &z, 8);
        float *sums = decode_windows(c, vae, &p, z);
        lt_tensor whole = put_together(&p, z.shape[0], sums, 0, false);
        lt_tensor parts = put_together(&p, z.shape[0], sums, 0, true);
        check_close(name, whole.data, wanted.data, lt_n_elements(&wanted), BOUND);
        assert_memory_equal(whole.data, parts.data, lt_tensor_bytes(&whole));
        size_t frame = lt_tensor_bytes(&whole) / (size_t)whole.shape[0];
        int64_t from = whole.shape[0] / 2;
        lt_tensor resumed = put_together(&p, z.shape[0], sums, from, false);
        free(sums);
        assert_memory_equal((char *)resumed.data + frame * (size_t)from,
                            (char *)whole.data + frame * (size_t)from,
                            frame * (size_t)(whole.shape[0] - from));
        lt_tensor *all[] = {&z, &wanted, &whole, &parts, &resumed};
        for (size_t j = 0; j < LT_COUNT(all); j++) free(all[j]->data);
        fixture_close(&f);
    }
    lt_vae_close(vae, c);
    lt_context_destroy(c);
}

/* Frames that stand alone: the length of a window changes no byte, with tiles and without. */
static void decode_per_frame(void **state)
{
    lt_context *c = open_context("cpu", LT_F32, WORKSPACE, 2);
    lt_vae *vae = open_vae(in_folder("kl"), LT_VAE_DECODER, LT_NUMERICS_AUTO);
    fixture f = fixture_open("kl_decode");
    lt_tensor z = fixture_get(&f, "latent", FRAMES_FIRST), wanted = fixture_get(&f, "sample", FRAMES_FIRST);
    lt_decode_plan p = {false, 4, 5, 6, 3, 3, 5, 6, 5, 6};
    lt_tensor a = decode_clip(c, vae, &p, z, true);
    check_close("frames alone", a.data, wanted.data, lt_n_elements(&a), BOUND);
    p.window = p.stride = 2;
    lt_tensor b = decode_clip(c, vae, &p, z, true);
    assert_memory_equal(a.data, b.data, lt_tensor_bytes(&a));
    p = (lt_decode_plan){false, 4, 5, 6, 3, 3, 4, 3, 2, 2};
    lt_tensor d = decode_clip(c, vae, &p, z, true);
    p.window = p.stride = 1;
    lt_tensor e = decode_clip(c, vae, &p, z, false);
    assert_memory_equal(d.data, e.data, lt_tensor_bytes(&d));
    assert_memory_not_equal(a.data, d.data, lt_tensor_bytes(&d));
    lt_tensor *all[] = {&z, &wanted, &a, &b, &d, &e};
    for (size_t j = 0; j < LT_COUNT(all); j++) free(all[j]->data);
    fixture_close(&f);
    lt_vae_close(vae, c);
    lt_context_destroy(c);
}

/* ---- geometry --------------------------------------------------------------------------------------------------------------- */

/* lite-sora's rule, word by word. */
static int64_t naive_starts(int64_t size, int tile, int stride, int64_t *starts)
{
    int64_t n = 0;
    for (int64_t t = 0; t < size; t += stride)
        if (!(t - stride >= 0 && t - stride + tile >= size)) starts[n++] = t;
    return n;
}

static void geometry(void **state)
{
    unsigned random = 12345;
    for (int trial = 0; trial < 3000; trial++) {
        int64_t starts[64], n = 1 + (int64_t)((random = random * 1664525u + 1013904223u) >> 8) % 50;
        int window = 1 + (int)((random = random * 1664525u + 1013904223u) >> 8) % 20;
        int stride = 1 + (int)((random = random * 1664525u + 1013904223u) >> 8) % window;
        lt_decode_plan p = {true, 8, 2, 3, window, stride, 2, 3, 2, 3};
        int64_t count = naive_starts(n, window, stride, starts), covered = 0;
        assert_int_equal(lt_decode_windows_count(&p, n), count);
        for (int64_t k = 0; k < count; k++) {
            int64_t first, end, lead, trail;
            lt_decode_window_range(&p, n, k, &first, &end);
            lt_decode_window_shared(&p, n, k, &lead, &trail);
            assert_int_equal(first, starts[k]);
            assert_int_equal(end, LT_MIN(starts[k] + window, n));
            assert_true(lead >= 0 && trail >= 0 && lead + trail <= end - first);
            for (int64_t t = first; t < end; t++) {
                int64_t a, b, users = 0;
                float w;
                for (int64_t j = 0; j < count; j++) users += t >= starts[j] && t < starts[j] + window;
                lt_decode_windows_of_frame(&p, n, t, &a, &b);
                assert_int_equal(b - a + 1, users);
                assert_true(a <= k && k <= b);
                assert_int_equal(users > 1, t < first + lead || t >= end - trail);
                assert_true(lt_decode_weights(&p, n, k, t, &w));
                assert_true(w > 0 && w <= 1);
            }
            covered = end;
        }
        assert_int_equal(covered, n);
    }
}

/* A blend refuses what does not follow. */
static void blend_order(void **state)
{
    lt_decode_plan p = {true, 1, 1, 1, 4, 3, 1, 1, 1, 1};
    lt_err err = {0};
    lt_blend *b;
    float sums[12] = {0}, values[3];
    int64_t frame;
    must(lt_blend_create(&b, &p, 10, 0, &err), &err);
    assert_int_equal(lt_blend_add(b, 1, 3, 4, sums, &err), LT_E_INVALID); /* frame 3 wants window 0 first */
    assert_int_equal(lt_blend_add(b, 3, 9, 1, sums, &err), LT_E_INVALID); /* there are three windows */
    assert_int_equal(lt_blend_add(b, 0, 0, 5, sums, &err), LT_E_INVALID); /* window 0 ends at 4 */
    must(lt_blend_add(b, 0, 0, 4, sums, &err), &err);
    assert_int_equal(lt_blend_add(b, 0, 0, 4, sums, &err), LT_E_INVALID); /* twice */
    for (int i = 0; i < 3; i++) assert_int_equal(lt_blend_take(b, &frame, values), LT_OK);
    assert_int_equal(lt_blend_take(b, &frame, values), LT_AGAIN);
    assert_int_equal(lt_blend_add(b, 2, 6, 4, sums, &err), LT_E_INVALID); /* window 1 is missing */
    must(lt_blend_add(b, 1, 3, 4, sums, &err), &err);
    assert_int_equal(lt_blend_take(b, &frame, values), LT_OK);
    assert_int_equal(frame, 3);
    lt_blend_destroy(b);
    p.stride = 5;
    assert_int_equal(lt_blend_create(&b, &p, 10, 0, &err), LT_E_INVALID);
    assert_non_null(strstr(err.text, "stride 5"));
    lt_blend_destroy(NULL);
}

/* ---- plans ----------------------------------------------------------------------------------------------------------------- */

static void decode_plans(void **state)
{
    lt_err err = {0};
    lt_vae *vae = open_vae(in_folder("svd"), LT_VAE_DECODER, LT_NUMERICS_AUTO);
    lt_context *dry = open_context("cpu", LT_F32, 0, 2);
    lt_decode_request r = {.height = 20, .width = 36, .n_frames = 100, .window = 4, .stride = 3};
    lt_decode_plan free_plan, p;
    lt_tile_cost whole, cost;
    must(lt_decode_plan_auto(dry, vae, &r, &free_plan, &whole, &err), &err);
    assert_int_equal(free_plan.tile_height, 20);
    assert_int_equal(free_plan.tile_width, 36);
    assert_int_equal(whole.n_tiles, 1);
    assert_true(whole.work_factor >= 1 && whole.work_factor < 1.35);
    assert_true(whole.flops > 0 && whole.weight_bytes > 0);
    size_t last = whole.workspace_bytes;
    for (int part = 2; part <= 8; part *= 2) {
        r.memory = whole.workspace_bytes / (size_t)part;
        must(lt_decode_plan_auto(dry, vae, &r, &p, &cost, &err), &err);
        must(lt_decode_plan_check(&p, &err), &err);
        printf("1/%d of %zu KiB: tile %dx%d stride %dx%d, %d tiles, work %.2f, %zu KiB\n", part,
               whole.workspace_bytes >> 10, p.tile_height, p.tile_width, p.stride_height, p.stride_width,
               cost.n_tiles, cost.work_factor, cost.workspace_bytes >> 10);
        assert_true(cost.workspace_bytes <= r.memory);
        assert_true(cost.workspace_bytes < last && cost.n_tiles > 1 && cost.work_factor > whole.work_factor);
        assert_true(cost.workspace_bytes > r.memory / 3); /* not smaller than it has to be */
        last = cost.workspace_bytes;
    }
    r.memory = 100000;
    assert_int_equal(lt_decode_plan_auto(dry, vae, &r, &p, &cost, &err), LT_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "MiB"));
    r.window = 3;
    r.stride = 4;
    assert_int_equal(lt_decode_plan_auto(dry, vae, &r, &p, &cost, &err), LT_E_INVALID);
    lt_vae_close(vae, NULL);
    lt_context_destroy(dry);
}

/* A plan's peak is the peak, to the byte: a workspace of that size does, and is used up. */
static void plan_is_exact(void **state)
{
    lt_err err = {0};
    lt_vae *vae = open_vae(in_folder("svd"), LT_VAE_ENCODER | LT_VAE_DECODER, LT_NUMERICS_AUTO);
    lt_context *dry = open_context("cpu", LT_F32, 0, 2);
    const lt_decode_request r = {
        .height = 9, .width = 14, .n_frames = 5, .window = 3, .stride = 2, .tile_height = 6, .tile_width = 8};
    lt_decode_plan p;
    lt_tile_cost cost;
    must(lt_decode_plan_auto(dry, vae, &r, &p, &cost, &err), &err);
    lt_context *c = open_context("cpu", LT_F32, cost.workspace_bytes, 2);
    lt_tensor z = new_host(3, 9, 14, 4), sums = new_host(3, 72, 112, 3);
    must(lt_decode_window(c, vae, &p, 5, 0, z, sums.data, &err), &err);
    assert_int_equal(lt_workspace_peak(c->workspace), cost.workspace_bytes);
    assert_true(fabs(c->flops - cost.flops) <= 1e-9 * cost.flops);
    lt_vae_close(vae, c);
    lt_context_destroy(c);

    vae = open_vae(in_folder("svd"), LT_VAE_ENCODER, LT_NUMERICS_AUTO);
    const lt_encode_request e = {.height = 104, .width = 168, .overlap = -1, .memory = 3 << 20};
    lt_encode_plan ep;
    must(lt_encode_plan_auto(dry, vae, &e, &ep, &cost, &err), &err);
    printf("encode: tile %d, %d tiles, work %.2f, %zu KiB\n", ep.tile, cost.n_tiles, cost.work_factor,
           cost.workspace_bytes >> 10);
    assert_true(ep.tile > 0 && cost.n_tiles > 1 && cost.workspace_bytes <= e.memory);
    c = open_context("cpu", LT_F32, cost.workspace_bytes, 2);
    lt_tensor x = new_host(1, 104, 168, 3), mean = new_host(1, 13, 21, 4);
    must(lt_encode_frames(c, vae, &ep, x, 8, mean.data, NULL, &err), &err);
    assert_int_equal(lt_workspace_peak(c->workspace), cost.workspace_bytes);
    lt_vae_close(vae, c);
    lt_context_destroy(c);
    lt_context_destroy(dry);
    lt_tensor *all[] = {&z, &sums, &x, &mean};
    for (size_t j = 0; j < LT_COUNT(all); j++) free(all[j]->data);
}

/* The workspace of window k alone, dry. */
static size_t peak_of_window(lt_context *dry, lt_vae *vae, const lt_decode_plan *p, int64_t n_frames,
                             int64_t k)
{
    int64_t first, end;
    lt_err err = {0};
    lt_workspace *saved = dry->workspace, *own;
    must(lt_workspace_create(&own, NULL, 0, &err), &err);
    lt_decode_window_range(p, n_frames, k, &first, &end);
    lt_tensor z = {.dtype = LT_F32,
                   .rank = 4,
                   .shape = {end - first, p->height, p->width, lt_vae_get_info(vae)->latent_channels}};
    dry->workspace = own;
    must(lt_decode_window(dry, vae, p, n_frames, k, z, NULL, &err), &err);
    dry->workspace = saved;
    size_t peak = lt_workspace_peak(own);
    lt_workspace_destroy(own);
    return peak;
}

/* A short window at a clip's end may need more than the longest, where its tensors lie otherwise: it is planned for. */
static void short_windows_fit(void **state)
{
    lt_err err = {0};
    int n_larger = 0;
    char folder[4096];
    snprintf(folder, sizeof(folder), "%s/../../examples/tiny-svd-vae", fixtures_folder());
    lt_vae *vae = open_vae(folder, LT_VAE_DECODER, LT_NUMERICS_AUTO);
    static const int threads[] = {2, 24};
    for (size_t i = 0; i < 2 * LT_COUNT(threads); i++) {
        lt_context *dry = open_context("cpu", i % 2 ? LT_F32 : LT_BF16, 0, threads[i / 2]);
        lt_decode_request r = {.height = 8, .width = 8, .window = 32, .stride = 24};
        lt_decode_plan p;
        lt_tile_cost endless, cost;
        must(lt_decode_plan_auto(dry, vae, &r, &p, &endless, &err), &err);
        size_t longest = peak_of_window(dry, vae, &p, 32, 0);
        for (r.n_frames = 25; r.n_frames <= 54; r.n_frames++) {
            must(lt_decode_plan_auto(dry, vae, &r, &p, &cost, &err), &err);
            int64_t last = lt_decode_windows_count(&p, r.n_frames) - 1;
            size_t first = peak_of_window(dry, vae, &p, r.n_frames, 0),
                   end = peak_of_window(dry, vae, &p, r.n_frames, last);
            assert_int_equal(cost.workspace_bytes, LT_MAX(first, end));
            assert_true(cost.workspace_bytes <= endless.workspace_bytes);
            n_larger += end > longest;
        }
        lt_context_destroy(dry);
    }
    /* Whether there are such follows from the kernels of this instruction set: bf16 by oneDNN on 24 threads has some. */
    printf("%d short windows need more than the longest\n", n_larger);
    lt_vae_close(vae, NULL);
}

/* As many frames, of any kind, have room in what was planned for them; fewer, too. */
static void encode_plans_know_the_frames(void **state)
{
    static const lt_dtype dtypes[] = {LT_U8, LT_U16, LT_F32};
    enum { N = 5, H = 40, W = 64 };
    lt_err err = {0};
    float mean[N * 5 * 8 * 4];
    void *frames = calloc(N * H * W * 3, sizeof(float));
    assert_non_null(frames);
    for (int dtype = LT_F32; dtype <= LT_BF16; dtype++)
        for (size_t i = 0; i < LT_COUNT(dtypes); i++) {
            lt_vae *vae = open_vae(in_folder("svd"), LT_VAE_ENCODER, LT_NUMERICS_AUTO);
            lt_context *dry = open_context("cpu", (lt_dtype)dtype, 0, 2);
            const lt_encode_request r = {.height = H, .width = W, .batch = N, .frames = dtypes[i]};
            lt_encode_plan p;
            lt_tile_cost cost;
            must(lt_encode_plan_auto(dry, vae, &r, &p, &cost, &err), &err);
            lt_context *c = open_context("cpu", (lt_dtype)dtype, cost.workspace_bytes, 2);
            size_t most = 0;
            for (int64_t n = N; n > 0; n--) {
                lt_tensor x = {.data = frames, .dtype = dtypes[i], .rank = 4, .shape = {n, H, W, 3}};
                must(lt_encode_frames(c, vae, &p, x, dtypes[i] == LT_U8 ? 8 : 16, mean, NULL, &err), &err);
                most = LT_MAX(most, lt_workspace_peak(c->workspace));
            }
            assert_int_equal(most, cost.workspace_bytes);
            lt_vae_close(vae, c);
            lt_context_destroy(c);
            lt_context_destroy(dry);
        }
    free(frames);
}

int main(void)
{
    support_start();
    static const char *const models[] = {"svd", "kl", "lite_svd_decoder"};
    for (size_t i = 0; i < LT_COUNT(models); i++)
        synthetic_write(models[i], in_folder("%s", models[i]), &(synthetic){0});
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiled_encode),      cmocka_unit_test(encode_inputs),
        cmocka_unit_test(decode_video),      cmocka_unit_test(decode_per_frame),
        cmocka_unit_test(geometry),          cmocka_unit_test(blend_order),
        cmocka_unit_test(decode_plans),      cmocka_unit_test(plan_is_exact),
        cmocka_unit_test(short_windows_fit), cmocka_unit_test(encode_plans_know_the_frames),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
