/* cpu.c - the CPU backend's table, and its device. */
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One choice for both oneDNN and our own kernels, so that one name tells the numeric class. */
static const cpu_simd *choose_simd(const char *isa)
{
    bool v3 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    /* oneDNN's name says that bf16 is there: AMX machines have it too. */
    bool bf16 = strcmp(isa, "avx512_core_bf16") == 0 || strcmp(isa, "avx512_core_amx") == 0;
    if (v4 && bf16) return &cpu_simd_avx512bf16;
    if (v4 && strncmp(isa, "avx512_core", 11) == 0) return &cpu_simd_avx512;
    if (v3 && strncmp(isa, "avx", 3) == 0 && strcmp(isa, "avx") != 0) return &cpu_simd_avx2;
    return &cpu_simd_base;
}

static const cpu_pairs *choose_pairs(const cpu_simd *simd, const char *isa)
{
    if (simd != &cpu_simd_avx512bf16) return NULL;
    bool tiles = strcmp(isa, "avx512_core_amx") == 0 && cpu_amx_permitted();
    return tiles ? &cpu_pairs_amx : &cpu_pairs_avx512bf16;
}

/* Cores this process may run on. Not omp_get_max_threads, which a caller's own setting would change. */
static int n_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
    return omp_get_num_procs();
}

static void close_cpu(void *device)
{
    cpu_device *d = device;
    if (!d) return;
    cpu_onednn_close(d->onednn);
    free(d);
}

/* oneDNN makes code for its products where there is AVX-512. */
static bool makes_code(const cpu_simd *simd)
{
    return simd == &cpu_simd_avx512 || simd == &cpu_simd_avx512bf16;
}

static lt_status probe_cpu(int index, lt_device_info *info, lt_err *err)
{
    /* Measured: RssAnon of a process that does, and of one that does not. */
    enum { MAKER_BYTES = 2100 << 10 };
    if (index != 0) return lt_fail(err, LT_E_NOT_FOUND, "there is one device 'cpu', not 'cpu:%d'", index);
    *info = (lt_device_info){.name = "cpu",
                             .host_memory = true,
                             .code_bytes = makes_code(choose_simd(cpu_onednn_isa())) ? MAKER_BYTES : 0};
    return LT_OK;
}

/* What changed since the epoch began, and not for all: an epoch of their own would make others' results earlier ones, which are computed
 * again and swept out of caches. 2: bf16 by Winograd's algorithm, without bf16 units. 3: bf16 on tiles (AMX). */
static const char *since_epoch(lt_dtype dtype, const cpu_pairs *pairs)
{
    if (dtype != LT_BF16) return "";
    return !pairs ? ".2" : pairs == &cpu_pairs_amx ? ".3" : "";
}

static lt_status open_cpu(void **device, int index, lt_dtype dtype, int threads, char *numeric_class,
                          size_t class_bytes, lt_err *err)
{
    *device = NULL;
    lt_device_info info;
    lt_status found = probe_cpu(index, &info, err);
    if (found != LT_OK) return found;
    if (threads < 0 || threads > 4096) return lt_fail(err, LT_E_INVALID, "%d threads", threads);
    cpu_device *d = calloc(1, sizeof(*d));
    if (!d) return lt_fail(err, LT_E_NO_MEMORY, "cannot open the cpu: out of memory");
    const char *isa = cpu_onednn_isa();
    char version[32];
    lt_status status = cpu_onednn_open(&d->onednn, dtype, version, sizeof(version), err);
    if (status != LT_OK) {
        close_cpu(d);
        return status;
    }
    d->threads = threads ? threads : n_cores();
    d->cache_bytes = (size_t)LT_MAX(sysconf(_SC_LEVEL2_CACHE_SIZE), 0);
    d->simd = choose_simd(isa);
    d->pairs = choose_pairs(d->simd, isa);
    d->has_brgemm = makes_code(d->simd);
    snprintf(numeric_class, class_bytes, "cpu/%s+%s/onednn-%s/epoch-%d/%s%s", isa, d->simd->name, version,
             lt_backend_cpu.numeric_epoch, lt_dtype_name(dtype), since_epoch(dtype, d->pairs));
    *device = d;
    return LT_OK;
}

const lt_backend lt_backend_cpu = {
    .abi = LT_BACKEND_ABI,
    .bytes = sizeof(lt_backend),
    .name = "cpu",
    .numeric_epoch = 5,
    .any_float = false,
    .host_memory = true,
    .dtypes = 1u << LT_F32 | 1u << LT_BF16,
    .probe = probe_cpu,
    .open = open_cpu,
    .close = close_cpu,
    .memory_create = lt_host_memory_create,
    .memory_destroy = lt_host_memory_destroy,
    .upload = lt_host_upload,
    .download = lt_host_download,
    .wait = lt_host_wait,
    .copy = convert_cpu,
    .zero = lt_host_zero,
    .record = lt_no_record,
    .share_create = lt_no_share_create,
    .share_open = lt_no_share_open,
    .share_close = lt_no_share_close,
    .share_mark = lt_no_share_mark,
    .share_await = lt_no_share_mark,
    .conv = conv_cpu,
    .linear = linear_cpu,
    .group_norm = group_norm_cpu,
    .attention = attention_cpu,
    .upsample_nearest = upsample_nearest_cpu,
    .upsample_conv = upsample_conv_cpu,
    .add_scaled = add_scaled_cpu,
    .affine = affine_cpu,
    .slice_channels = slice_channels_cpu,
    .convert = convert_cpu,
    .layer_norm = layer_norm_cpu,
    .rms_norm = rms_norm_cpu,
    .add_broadcast = add_broadcast_cpu,
    .add_gated = add_gated_cpu,
    .multiply = multiply_cpu,
    .combine = combine_cpu,
    .gated = gated_cpu,
    .concat_channels = concat_channels_cpu,
    .embedding = embedding_cpu,
    .gather_rows = gather_rows_cpu,
    .unpatchify = unpatchify_cpu,
    .noise = noise_cpu,
    .pixels_to_values = pixels_to_values_cpu,
    .values_to_pixels = values_to_pixels_cpu,
    .yuv_to_rgb = yuv_to_rgb_cpu,
    .add_tile = add_tile_cpu,
    .release_weight = release_weight_cpu,
};
