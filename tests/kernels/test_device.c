/* Devices by name, plug-ins, and the ways between the host's memory and a device's. */
#include "kernels/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void refused(const char *device, lt_status status, const char *part)
{
    lt_err err = {0};
    lt_device_info info = {.total_bytes = 7};
    assert_int_equal(lt_device_probe(device, &info, &err), status);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
    assert_int_equal(info.total_bytes, 0);
    lt_context *c = (void *)&info;
    assert_int_equal(lt_context_create(&c, device, LT_F32, 1024, 1, &err), status);
    assert_null(c);
}

static void names(void **state)
{
    lt_device_info info;
    lt_err err;
    char name[32];
    assert_int_equal(lt_device_probe("cpu", &info, &err), LT_OK);
    assert_true(info.host_memory);
    assert_int_equal(lt_device_probe("far:0", &info, &err), LT_OK);
    assert_true(!info.host_memory && info.total_bytes && info.free_bytes);
    refused("far:1", LT_E_NOT_FOUND, "there is one device 'far'");
    refused("cpu:1", LT_E_NOT_FOUND, "there is one device 'cpu'");
    refused("far:x", LT_E_NOT_FOUND, "no device 'far:x'");
    refused("far:-1", LT_E_NOT_FOUND, "no device");
    refused("", LT_E_NOT_FOUND, "no device");
    refused("../tests/far", LT_E_NOT_FOUND, "no device '../tests/far'");
    refused("nosuch", LT_E_NOT_FOUND, "longtake_nosuch.so");
    refused("gpu", LT_E_NOT_FOUND, "no device 'gpu': use auto, cpu or cuda:0, or ref for checks");
    refused("stale", LT_E_MISMATCH, "another build");
    refused("odd", LT_E_MISMATCH, "no plug-in of Longtake for 'odd'");
    refused("broken", LT_E_NOT_FOUND, "cannot load");
    lt_device_choose("far:0", name, sizeof(name), &err);
    assert_string_equal(name, "far:0");
    assert_int_equal(err.status, LT_OK);
    lt_device_choose("auto", name, sizeof(name), NULL);
    assert_int_equal(lt_device_probe(name, &info, &err), LT_OK);
    assert_true(strcmp(name, "cpu") == 0 || strncmp(name, "cuda:", 5) == 0);
    assert_int_equal(lt_device_takes("far", LT_BF16, NULL), LT_OK);
    assert_int_equal(lt_device_takes("far", LT_F16, &err), LT_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "f32, bf16, not in f16"));
    assert_int_equal(lt_device_takes("ref", LT_F16, &err), LT_OK);
}

/* With a plug-in of another build "auto" is the CPU, and says why. */
static void auto_says_why(void **state)
{
    const char *folders = getenv("LT_BACKEND_PATH");
    char folder[] = "/tmp/lt-test-auto-XXXXXX", stale[4200], link[64], before[4096], name[32];
    lt_err why;
    assert_non_null(folders);
    assert_non_null(mkdtemp(folder));
    snprintf(before, sizeof(before), "%s", folders);
    snprintf(stale, sizeof(stale), "%s/longtake_stale.so", before);
    snprintf(link, sizeof(link), "%s/longtake_cuda.so", folder);
    assert_int_equal(symlink(stale, link), 0);
    setenv("LT_BACKEND_PATH", folder, 1);
    lt_device_choose("auto", name, sizeof(name), &why);
    setenv("LT_BACKEND_PATH", before, 1);
    unlink(link);
    rmdir(folder);
    assert_string_equal(name, "cpu");
    assert_int_equal(why.status, LT_E_MISMATCH);
    assert_non_null(strstr(why.text, "another build"));
}

/* The same on memory that the host has, and on memory that it has not. */
static void ways(const char *device)
{
    enum { N = 3, H = 5, W = 7, C = 2 };
    lt_err err;
    lt_context *c;
    assert_int_equal(lt_context_create(&c, device, LT_F32, 1 << 16, 1, &err), LT_OK);
    uint16_t pixels[N * H * W * C];
    float values[N * H * W * C], more[4] = {0};
    for (int i = 0; i < N * H * W * C; i++) pixels[i] = (uint16_t)(i * 13);
    lt_tensor host = {.data = pixels, .dtype = LT_U16, .rank = 4, .shape = {N, H, W, C}};
    lt_tensor all = lt_upload(c, host, LT_F32);
    lt_download(c, all, LT_F32, values);
    assert_int_equal(lt_wait(c), LT_OK);
    for (int i = 0; i < N * H * W * C; i++) assert_true(values[i] == (float)(i * 13));
    lt_drop(c, &all);

    lt_tensor part = lt_upload_part(c, host, 1, 2, 2, 3, 4, 2);
    assert_int_equal(part.shape[1], 3);
    pixels[0] = 1; /* what was uploaded has been read */
    lt_download(c, part, LT_F32, values);
    lt_drop(c, &part);
    assert_int_equal(lt_context_status(c, &err), LT_OK);
    for (int i = 0; i < 2 * 3 * 2 * C; i++) {
        int channel = i % C, x = i / C % 2, y = i / C / 2 % 3, n = i / C / 2 / 3;
        assert_true(values[i] == (float)(13 * ((((1 + n) * H + 2 + y) * W + 4 + x) * C + channel)));
    }
    assert_null(lt_upload_part(c, host, 1, 2, 3, 3, 4, 2).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    host.data = NULL;
    assert_null(lt_upload(c, host, LT_F32).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INVALID);
    host.data = pixels;

    lt_tensor made = lt_new(c, LT_F32, 1, (int64_t[]){4}), sums;
    float *to = lt_begin_upload(c, made);
    for (int i = 0; i < 4; i++) to[i] = (float)i;
    lt_end_upload(c, made);
    sums = lt_place(c, LT_F32, 1, (int64_t[]){4}, more);
    lt_copy(c, made, sums);
    lt_deliver(c, &sums, more);
    lt_drop(c, &made);
    assert_int_equal(lt_wait(c), LT_OK);
    for (int i = 0; i < 4; i++) assert_true(more[i] == (float)i);
    assert_int_equal(lt_workspace_in_use(c->workspace), 0);
    assert_int_equal(lt_context_resize(c, 1 << 17, &err), LT_OK);
    assert_non_null(lt_upload(c, host, LT_F32).data);
    lt_context_destroy(c);
}

static void between(void **state)
{
    ways("cpu");
    ways("ref");
    ways("far");
}

/* What the far device is for: it notices. */
static void host_memory_is_noticed(void **state)
{
    lt_context *c;
    lt_err err;
    assert_int_equal(lt_context_create(&c, "far", LT_F32, 4096, 1, &err), LT_OK);
    float x[4] = {1, 2, 3, 4}, y[4] = {0};
    lt_tensor host = {.data = x, .dtype = LT_F32, .rank = 1, .shape = {4}};
    assert_null(lt_affine(c, host, 1, 0, LT_ACT_NONE).data);
    assert_int_equal(lt_context_status(c, &err), LT_E_INTERNAL);
    assert_non_null(strstr(err.text, "not in its memory"));
    lt_tensor up = lt_upload(c, host, LT_F32);
    lt_download(c, up, LT_F32, y);
    assert_true(memcmp(x, y, sizeof(x)) != 0); /* not there before the context has waited */
    assert_int_equal(lt_context_status(c, &err), LT_OK);
    assert_memory_equal(x, y, sizeof(x));
    lt_context_destroy(c);
}

static void lost_and_small(void **state)
{
    lt_context *c;
    lt_err err;
    char path[] = "/tmp/lt-test-lost-XXXXXX", text[64];
    assert_non_null(mkdtemp(path));
    snprintf(text, sizeof(text), "1:%s/lost", path);
    setenv("LT_FAR_LOSE", text, 1);
    assert_int_equal(lt_context_create(&c, "far", LT_F32, 4096, 1, &err), LT_OK);
    lt_tensor x = {.data = text, .dtype = LT_U8, .rank = 1, .shape = {4}};
    lt_upload(c, x, LT_U8);
    for (int i = 0; i < 2; i++) { /* it stays lost */
        assert_int_equal(lt_context_status(c, &err), LT_E_DEVICE_LOST);
        assert_non_null(strstr(err.text, "lost"));
    }
    lt_context_destroy(c);
    unsetenv("LT_FAR_LOSE");
    snprintf(text, sizeof(text), "%s/lost", path);
    unlink(text);
    rmdir(path);
    setenv("LT_FAR_TOTAL", "1000000", 1);
    assert_int_equal(lt_context_create(&c, "far", LT_F32, 2000000, 1, &err), LT_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "far:0 has"));
    assert_null(c);
    unsetenv("LT_FAR_TOTAL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lost_and_small), /* first: it counts calls */
        cmocka_unit_test(auto_says_why),  /* before a plug-in for CUDA is loaded */
        cmocka_unit_test(names),          cmocka_unit_test(between), cmocka_unit_test(host_memory_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
