/* support.c - fixtures, comparison, contexts. */
#include "tests/models/support.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[1024];

void support_start(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%s/longtake-models-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        exit(1);
    }
    setenv("XDG_CACHE_HOME", in_folder("cache"), 1);
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *at)
{
    return remove(path);
}

void support_finish(void)
{
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *in_folder(const char *format, ...)
{
    static char texts[8][2048];
    static int next;
    char *text = texts[next++ % 8];
    int n = snprintf(text, sizeof(texts[0]), "%s/", folder);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + n, sizeof(texts[0]) - (size_t)n, format, arguments);
    va_end(arguments);
    return text;
}

void must(lt_status status, const lt_err *err)
{
    if (status != LT_OK) fail_msg("%s: %s", lt_status_string(status), err->text);
}

/* ---- fixtures -------------------------------------------------------------------------------------------------------- */

const char *fixtures_folder(void)
{
    const char *elsewhere = getenv("LT_FIXTURES");
    return elsewhere ? elsewhere : LT_FIXTURES;
}

fixture fixture_open(const char *name)
{
    char path[4096];
    lt_err err = {0};
    fixture f = {.name = name};
    snprintf(path, sizeof(path), "%s/%s%s.safetensors", fixtures_folder(), strchr(name, '/') ? "" : "vae/",
             name);
    must(lt_safetensors_open(&f.file, path, &err), &err);
    return f;
}

void fixture_close(fixture *f)
{
    lt_safetensors_close(f->file);
    f->file = NULL;
}

lt_tensor new_host(int64_t n, int64_t h, int64_t w, int64_t c)
{
    lt_tensor t = {.dtype = LT_F32, .rank = 4, .shape = {n, h, w, c}};
    assert_non_null(t.data = calloc((size_t)(n * h * w * c), sizeof(float)));
    return t;
}

lt_tensor fixture_get(const fixture *f, const char *name, test_layout layout)
{
    lt_tensor from;
    lt_err err = {0};
    must(lt_safetensors_get(f->file, name, &from, &err), &err);
    assert_int_equal(from.rank, 4);
    assert_int_equal(from.dtype, LT_F32);
    bool frames_first = layout == FRAMES_FIRST;
    int64_t n = from.shape[!frames_first], c = from.shape[frames_first], h = from.shape[2], w = from.shape[3];
    lt_tensor to = new_host(n, h, w, c);
    const float *in = from.data;
    float *out = to.data;
    for (int64_t i = 0; i < n; i++)
        for (int64_t at = 0; at < h * w; at++)
            for (int64_t j = 0; j < c; j++) *out++ = in[(frames_first ? i * c + j : j * n + i) * h * w + at];
    return to;
}

lt_tensor fixture_raw(const fixture *f, const char *name)
{
    lt_tensor t;
    lt_err err = {0};
    must(lt_safetensors_get(f->file, name, &t, &err), &err);
    assert_int_equal(t.dtype, LT_F32);
    return t;
}

lt_tensor fixture_video(const fixture *f, const char *name)
{
    lt_tensor from = fixture_raw(f, name);
    assert_int_equal(from.rank, 5);
    int64_t n = from.shape[0], channels = from.shape[1],
            cells = from.shape[2] * from.shape[3] * from.shape[4];
    lt_tensor to = {.dtype = LT_F32, .rank = 5};
    const int64_t shape[] = {n, from.shape[2], from.shape[3], from.shape[4], channels};
    memcpy(to.shape, shape, sizeof(shape));
    assert_non_null(to.data = malloc(lt_tensor_bytes(&from)));
    const float *in = from.data;
    float *out = to.data;
    for (int64_t i = 0; i < n; i++)
        for (int64_t at = 0; at < cells; at++)
            for (int64_t j = 0; j < channels; j++) *out++ = in[(i * channels + j) * cells + at];
    return to;
}

void fixture_box(const fixture *f, const char *key, int box[3])
{
    const char *text = lt_safetensors_metadata(f->file, key);
    assert_non_null(text);
    assert_int_equal(sscanf(text, "%dx%dx%d", &box[0], &box[1], &box[2]), 3);
}

double check_close(const char *label, const float *a, const float *b, int64_t n, double bound)
{
    double difference = 0, size = 0, worst = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - b[i];
        difference += d * d;
        size += (double)b[i] * b[i];
        if (!(fabs(d) <= worst)) worst = fabs(d);
        largest = fmax(largest, fabs((double)b[i]));
    }
    double l2 = sqrt(difference) / sqrt(size), max = worst / largest;
    printf("%-34s L2 %.2e  max %.2e\n", label, l2, max);
    if (!(l2 <= bound) || !(max <= 2 * bound)) fail_msg("%s: L2 %g, max %g, bound %g", label, l2, max, bound);
    return l2;
}

/* ---- contexts and models ----------------------------------------------------------------------------------------------- */

lt_context *open_context(const char *device, lt_dtype dtype, size_t bytes, int threads)
{
    lt_context *context;
    lt_err err = {0};
    const char *other = getenv("LT_TEST_DEVICE");
    if (other && strcmp(device, "cpu") == 0) device = other;
    must(lt_context_create(&context, device, dtype, bytes, threads, &err), &err);
    return context;
}

float *fetch_f32(lt_context *context, lt_tensor tensor)
{
    lt_err err = {0};
    float *values = malloc((size_t)lt_n_elements(&tensor) * sizeof(float) + 1);
    assert_non_null(values);
    lt_download(context, tensor, LT_F32, values);
    must(lt_context_status(context, &err), &err);
    return values;
}

lt_vae *open_vae(const char *path, int parts, lt_numerics numerics)
{
    lt_vae *vae;
    lt_err err = {0};
    must(lt_vae_open(&vae, path, parts, numerics, &err), &err);
    return vae;
}

void check_empty(const lt_context *context)
{
    assert_int_equal(lt_workspace_in_use(context->workspace), 0);
}
