/* test_checkpoint.c - opening checkpoints: what is wrong with a file is said, all of it; digests; real manifests. */
#include "tests/models/support.h"

#include "models/checkpoint.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Open must fail with this status and a sentence that holds every one of these texts. */
static void refuse(const char *path, int parts, lt_status wanted, const char *const *texts)
{
    lt_vae *vae;
    lt_err err = {0};
    lt_status status = lt_vae_open(&vae, path, parts, LT_NUMERICS_AUTO, &err);
    printf("  %s\n", err.text);
    assert_null(vae);
    assert_int_equal(status, wanted);
    assert_int_equal(err.status, wanted);
    for (; *texts; texts++)
        if (!strstr(err.text, *texts)) fail_msg("'%s' is not in: %s", *texts, err.text);
}

#define REFUSE(path, parts, status, ...) refuse(path, parts, status, (const char *const[]){__VA_ARGS__, NULL})

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

/* ---- bad files --------------------------------------------------------------------------------------------------------- */

static void all_differences_at_once(void **state)
{
    const synthetic o = {
        .omit = {"decoder.conv_in.weight", "decoder.up_blocks.0.resnets.1.time_mixer.mix_factor"},
        .add = {"decoder.surprise", "optimizer.step"},
        .reshape = {"decoder.conv_out.bias", "decoder.time_conv_out.weight"}};
    synthetic_write("svd", in_folder("different"), &o);
    REFUSE(in_folder("different"), LT_VAE_DECODER, LT_E_MISMATCH,
           "missing: decoder.up_blocks.0.resnets.1.time_mixer.mix_factor, decoder.conv_in.weight;",
           "decoder.up_blocks.0.resnets.1.time_mixer.mix_factor",
           "not expected: decoder.surprise, optimizer.step", "decoder.conv_out.bias is [4], not [3]",
           "decoder.time_conv_out.weight is [4,3,3,1,1], not [3,3,3,1,1]");
    /* The encoder is whole, but for what belongs to neither half. */
    REFUSE(in_folder("different"), LT_VAE_ENCODER, LT_E_MISMATCH, "not expected: optimizer.step");
    lt_err err;
    lt_vae *vae;
    assert_int_equal(lt_vae_open(&vae, in_folder("different"), LT_VAE_ENCODER, LT_NUMERICS_AUTO, &err),
                     LT_E_MISMATCH);
    assert_null(strstr(err.text, "missing"));
    assert_null(strstr(err.text, "decoder"));
}

/* What is under the decoder's names is another decoder's. */
static void a_foreign_half(void **state)
{
    const synthetic o = {.omit = {"decoder.mid_block.resnets.0.spatial_res_block.conv1.weight"},
                         .add = {"decoder.mid_block.time_stack.weight", "post_quant_conv.other"},
                         .reshape = {"decoder.conv_out.weight"}};
    synthetic_write("svd", in_folder("foreign"), &o);
    lt_vae_close(open_vae(in_folder("foreign"), LT_VAE_ENCODER, LT_NUMERICS_AUTO), NULL);
    REFUSE(in_folder("foreign"), LT_VAE_DECODER, LT_E_MISMATCH, "decoder.mid_block.time_stack.weight");
}

static void half_a_file(void **state)
{
    const synthetic o = {.omit = {"decoder.conv_in.weight"}};
    synthetic_write("svd", in_folder("half"), &o);
    lt_vae *vae = open_vae(in_folder("half"), LT_VAE_ENCODER, LT_NUMERICS_AUTO);
    assert_true(lt_vae_get_info(vae)->has_encoder && !lt_vae_get_info(vae)->has_decoder);
    lt_vae_close(vae, NULL);
    REFUSE(in_folder("lite_encoder"), LT_VAE_DECODER, LT_E_NOT_FOUND, "no decoder", "lite-sora's names");
    REFUSE(in_folder("lite_svd_decoder"), LT_VAE_ENCODER, LT_E_NOT_FOUND, "no encoder", "lite-sora's names");
}

static void long_lists_are_cut(void **state)
{
    write_file(in_folder("svd_wide.json"), "");
    synthetic_write("svd", in_folder("wide"), &(synthetic){0});
    write_file(in_folder("wide/config.json"),
               "{\"_class_name\": \"AutoencoderKLTemporalDecoder\", \"block_out_channels\": "
               "[32, 32, 64, 96], \"layers_per_block\": 2}");
    REFUSE(in_folder("wide"), LT_VAE_DECODER, LT_E_MISMATCH, "of another shape", "more");
}

static void values_that_are_not_finite(void **state)
{
    const synthetic o = {.poison = {"decoder.conv_in.weight", "decoder.conv_norm_out.bias"}};
    static const lt_dtype dtypes[] = {LT_F32, LT_F16, LT_BF16};
    for (size_t i = 0; i < LT_COUNT(dtypes); i++) {
        synthetic poisoned = o;
        poisoned.dtype = dtypes[i];
        const char *folder = in_folder("poisoned_%s", lt_dtype_name(dtypes[i]));
        synthetic_write("svd", folder, &poisoned);
        /* Twice: a bad file is not remembered as a good one. */
        for (int j = 0; j < 2; j++)
            REFUSE(folder, LT_VAE_DECODER, LT_E_NUMERIC, "NaN or infinity", "decoder.conv_in.weight",
                   "decoder.conv_norm_out.bias");
        lt_vae_close(open_vae(folder, LT_VAE_ENCODER, LT_NUMERICS_AUTO), NULL);
    }
}

static void broken_files(void **state)
{
    REFUSE(in_folder("nowhere"), LT_VAE_DECODER, LT_E_NOT_FOUND, "nowhere");
    mkdir(in_folder("empty"), 0700);
    REFUSE(in_folder("empty"), LT_VAE_DECODER, LT_E_NOT_FOUND, "no weights here",
           "diffusion_pytorch_model.safetensors", "tools/to_safetensors");
    static const char *const pickles[] = {"vae.ckpt", "vae.pt", "vae.pth", "diffusion_pytorch_model.bin"};
    for (size_t i = 0; i < LT_COUNT(pickles); i++) {
        write_file(in_folder("empty/%s", pickles[i]), "PK");
        REFUSE(in_folder("empty/%s", pickles[i]), LT_VAE_DECODER, LT_E_UNSUPPORTED, pickles[i],
               "tools/to_safetensors");
    }
    REFUSE(in_folder("nowhere.ckpt"), LT_VAE_DECODER, LT_E_NOT_FOUND, "nowhere.ckpt");
    synthetic_write("svd", in_folder("cut"), &(synthetic){0});
    assert_int_equal(truncate(in_folder("cut/diffusion_pytorch_model.safetensors"), 100000), 0);
    REFUSE(in_folder("cut"), LT_VAE_DECODER, LT_E_FORMAT, "cut/diffusion_pytorch_model.safetensors");
    synthetic_write("svd", in_folder("broken"), &(synthetic){0});
    write_file(in_folder("broken/config.json"), "{\"_class_name\": \"AutoencoderKLTemporalDecoder\",\n ]");
    REFUSE(in_folder("broken"), LT_VAE_DECODER, LT_E_FORMAT, "broken/config.json:2");
    write_file(in_folder("broken/config.json"), "{\"_class_name\": \"AutoencoderTiny\"}");
    REFUSE(in_folder("broken"), LT_VAE_DECODER, LT_E_UNSUPPORTED, "AutoencoderTiny",
           "AutoencoderKLTemporalDecoder");
    write_file(
        in_folder("broken/config.json"),
        "{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [32, 100], \"layers_per_block\": 1}");
    REFUSE(in_folder("broken"), LT_VAE_DECODER, LT_E_UNSUPPORTED, "100 channels", "32 groups");
    write_file(in_folder("broken/config.json"),
               "{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [1e99]}");
    REFUSE(in_folder("broken"), LT_VAE_DECODER, LT_E_UNSUPPORTED, "block_out_channels");
}

static void broken_shards(void **state)
{
    const char *index = "shards/diffusion_pytorch_model.safetensors.index.json";
    synthetic_write("kl", in_folder("shards"), &(synthetic){.n_shards = 2});
    lt_vae_close(open_vae(in_folder("shards"), LT_VAE_ENCODER | LT_VAE_DECODER, LT_NUMERICS_AUTO), NULL);
    unlink(in_folder("shards/diffusion_pytorch_model-00002-of-00002.safetensors"));
    REFUSE(in_folder("shards"), LT_VAE_DECODER, LT_E_NOT_FOUND, "00002-of-00002.safetensors", "index.json");
    write_file(in_folder("%s", index), "{\"weight_map\": {\"a\": \"../../etc/passwd\"}}");
    REFUSE(in_folder("shards"), LT_VAE_DECODER, LT_E_FORMAT, "tensor a", "file beside it");
    write_file(in_folder("%s", index), "{\"weight_map\": {}}");
    REFUSE(in_folder("shards"), LT_VAE_DECODER, LT_E_FORMAT, "weight_map");
    synthetic_write("kl", in_folder("twice"), &(synthetic){0});
    assert_int_equal(
        rename(in_folder("twice/diffusion_pytorch_model.safetensors"), in_folder("shards/b.safetensors")), 0);
    assert_int_equal(link(in_folder("shards/b.safetensors"), in_folder("shards/c.safetensors")), 0);
    write_file(in_folder("%s", index),
               "{\"weight_map\": {\"x\": \"b.safetensors\", \"y\": \"c.safetensors\"}}");
    REFUSE(in_folder("shards"), LT_VAE_DECODER, LT_E_FORMAT, "b.safetensors", "c.safetensors");
}

/* ---- the factor of latents ----------------------------------------------------------------------------------------------- */

static void expect_factor(const char *path, lt_numerics numerics, double factor, bool told)
{
    lt_vae *vae = open_vae(path, LT_VAE_ENCODER, numerics);
    const lt_vae_info *i = lt_vae_get_info(vae);
    if (i->scaling_factor != factor || i->factor_told != told)
        fail_msg("%s: %g, %stold", path, i->scaling_factor, i->factor_told ? "" : "not ");
    lt_vae_close(vae, NULL);
}

/* The encoder of a whole checkpoint. */
static void under_first_stage(const char *name, char *to, size_t bytes)
{
    rename_ldm_vae(name, to, bytes);
    char bare[160];
    snprintf(bare, sizeof(bare), "%s", to);
    snprintf(to, bytes, "first_stage_model.%s", bare);
}

static void factors(void **state)
{
    const char *config = "factor/config.json";
    /* A file by name has its folder's configuration, if it is the folder's. */
    expect_factor(in_folder("kl"), LT_NUMERICS_AUTO, 0.13025, true);
    expect_factor(in_folder("kl/diffusion_pytorch_model.safetensors"), LT_NUMERICS_AUTO, 0.13025, true);
    synthetic_write("svd", in_folder("factor"), &(synthetic){.stem = "other"});
    expect_factor(in_folder("factor/other.safetensors"), LT_NUMERICS_AUTO, 0.18215, false);
    /* A whole SDXL. */
    synthetic o = {.no_config = true,
                   .rename = under_first_stage,
                   .add = {"conditioner.embedders.1.model.ln_final.weight"}};
    synthetic_write("svd", in_folder("whole"), &o);
    expect_factor(in_folder("whole"), LT_NUMERICS_AUTO, 0.13025, false);
    expect_factor(in_folder("whole"), LT_NUMERICS_LITE_SORA, 0.18215, false);
    o.add[0] = "cond_stage_model.transformer.x";
    synthetic_write("svd", in_folder("whole"), &o);
    expect_factor(in_folder("whole"), LT_NUMERICS_AUTO, 0.18215, false);
    /* Latents that are shifted, and of more channels than a default is known for. */
    synthetic_write("kl", in_folder("factor"), &(synthetic){0});
    write_file(in_folder("%s", config),
               "{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [32, 64, 96], "
               "\"scaling_factor\": 0.3611, \"shift_factor\": 0.1159}");
    REFUSE(in_folder("factor"), LT_VAE_ENCODER, LT_E_UNSUPPORTED, "shift_factor", "0.1159", "Flux");
    write_file(in_folder("%s", config),
               "{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [32, 64, 96], "
               "\"latent_channels\": 16}");
    REFUSE(in_folder("factor"), LT_VAE_ENCODER, LT_E_UNSUPPORTED, "16 channels", "scaling_factor");
}

/* ---- what is told about a model ------------------------------------------------------------------------------------------ */

static void info(void **state)
{
    lt_vae *vae = open_vae(in_folder("svd"), LT_VAE_ENCODER | LT_VAE_DECODER, LT_NUMERICS_AUTO);
    const lt_vae_info *i = lt_vae_get_info(vae);
    assert_true(i->temporal && i->has_encoder && i->has_decoder);
    assert_int_equal(i->factor, 8);
    assert_int_equal(i->latent_channels, 4);
    assert_true(i->scaling_factor == 0.18215 && i->numerics == LT_NUMERICS_DIFFUSERS);
    struct stat file;
    stat(in_folder("svd/diffusion_pytorch_model.safetensors"), &file);
    assert_int_equal(i->weight_bytes, file.st_size);
    lt_vae_close(vae, NULL);
    vae = open_vae(in_folder("kl"), LT_VAE_DECODER, LT_NUMERICS_AUTO);
    i = lt_vae_get_info(vae);
    assert_true(!i->temporal && !i->has_encoder && i->has_decoder && i->scaling_factor == 0.13025);
    assert_int_equal(i->factor, 4);
    lt_vae_close(vae, NULL);
    vae = open_vae(in_folder("lite_svd_decoder/diffusion_pytorch_model.safetensors"), LT_VAE_DECODER,
                   LT_NUMERICS_AUTO);
    i = lt_vae_get_info(vae);
    assert_true(i->temporal && i->numerics == LT_NUMERICS_LITE_SORA && i->scaling_factor == 0.18215);
    lt_vae_close(vae, NULL);
    /* A pipeline's folder. */
    mkdir(in_folder("pipeline"), 0700);
    synthetic_write("kl", in_folder("pipeline/vae"), &(synthetic){0});
    lt_vae_close(open_vae(in_folder("pipeline"), LT_VAE_DECODER, LT_NUMERICS_AUTO), NULL);
}

static int count_files(const char *path)
{
    int n = 0;
    DIR *folder = opendir(path);
    if (!folder) return 0;
    for (struct dirent *entry; (entry = readdir(folder));) n += entry->d_name[0] != '.';
    closedir(folder);
    return n;
}

static void digest_of(const char *folder, char digest[33])
{
    lt_vae *vae = open_vae(folder, LT_VAE_DECODER, LT_NUMERICS_AUTO);
    memcpy(digest, lt_vae_get_info(vae)->digest, 33);
    lt_vae_close(vae, NULL);
}

static void digests(void **state)
{
    char first[33], again[33], other[33];
    const char *remembered = in_folder("cache/longtake/weights");
    synthetic_write("kl", in_folder("digest"), &(synthetic){0});
    int before = count_files(remembered);
    digest_of(in_folder("digest"), first);
    assert_int_equal(strlen(first), 32);
    assert_int_equal(count_files(remembered), before + 1);
    digest_of(in_folder("digest"), again);
    assert_string_equal(first, again);
    assert_int_equal(count_files(remembered), before + 1);
    /* No place to remember: read again, the same. */
    setenv("XDG_CACHE_HOME", "/proc/no", 1);
    digest_of(in_folder("digest"), again);
    setenv("XDG_CACHE_HOME", in_folder("cache"), 1);
    assert_string_equal(first, again);
    /* One value, one letter of the configuration, the same content elsewhere. */
    synthetic_write("kl", in_folder("digest2"), &(synthetic){0});
    digest_of(in_folder("digest2"), again);
    assert_string_equal(first, again);
    synthetic_write("kl", in_folder("digest2"), &(synthetic){.dtype = LT_BF16});
    digest_of(in_folder("digest2"), other);
    assert_string_not_equal(first, other);
    FILE *config = fopen(in_folder("digest/config.json"), "a");
    fputs("\n", config);
    fclose(config);
    digest_of(in_folder("digest"), other);
    assert_string_not_equal(first, other);
}

/* ---- many processes -------------------------------------------------------------------------------------------------- */

enum { HOLE_BYTES = 96 << 20, N_REPLICAS = 4 };

/* One tensor of zeros that takes no room on disk. */
static void write_hole(const char *path)
{
    char header[256];
    int n =
        snprintf(header, sizeof(header), "{\"w\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[0,%d]}}",
                 HOLE_BYTES / 4, HOLE_BYTES);
    uint64_t length = (uint64_t)n;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fwrite(&length, 8, 1, file);
    fwrite(header, 1, length, file);
    assert_int_equal(fflush(file), 0);
    assert_int_equal(ftruncate(fileno(file), 8 + n + HOLE_BYTES), 0);
    assert_int_equal(fclose(file), 0);
}

/* Bytes that this process has asked the kernel for. */
static int64_t bytes_read(void)
{
    long long n = -1;
    FILE *file = fopen("/proc/self/io", "r");
    if (!file) return -1;
    if (fscanf(file, "rchar: %lld", &n) != 1) n = -1;
    fclose(file);
    return n;
}

/* One replica: waits for the start, opens, says how many bytes it has read and the digest. */
static void replica(const char *path, int start, int result)
{
    char text[64], byte;
    lt_checkpoint *checkpoint;
    ssize_t n = read(start, &byte, 1); /* its end: all may start */
    int64_t before = bytes_read();
    bool good = n == 0 && lt_checkpoint_open(&checkpoint, path, NULL) == LT_OK;
    snprintf(text, sizeof(text), "%32s %20lld\n", good ? lt_checkpoint_digest(checkpoint) : "failed",
             (long long)(bytes_read() - before));
    _exit(write(result, text, 54) != 54);
}

/* Replicas that start at the same time: one reads the file, the others wait for what it finds. */
static void read_by_one(void **state)
{
    int start[2], result[2];
    char path[2048], text[N_REPLICAS * 54 + 1] = "";
    snprintf(path, sizeof(path), "%s", in_folder("hole.safetensors"));
    write_hole(path);
    assert_int_equal(pipe(start) | pipe(result), 0);
    for (int i = 0; i < N_REPLICAS; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid) continue;
        close(start[1]);
        replica(path, start[0], result[1]);
    }
    close(start[1]);
    close(result[1]);
    int64_t total = 0;
    for (size_t used = 0; used < sizeof(text) - 1;) {
        ssize_t n = read(result[0], text + used, sizeof(text) - 1 - used);
        assert_true(n > 0);
        used += (size_t)n;
    }
    for (int i = 0; i < N_REPLICAS; i++) {
        assert_memory_equal(text + 54 * i, text, 32);
        total += atoll(text + 54 * i + 33);
    }
    printf("  %d replicas read %.2f times the file\n", N_REPLICAS, (double)total / HOLE_BYTES);
    assert_true(total >= HOLE_BYTES && total < HOLE_BYTES + HOLE_BYTES / 4);
    for (int i = 0, status; i < N_REPLICAS; i++) {
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    close(start[0]);
    close(result[0]);
    unlink(path);
}

int main(void)
{
    support_start();
    static const char *const models[] = {"svd", "kl", "lite_encoder", "lite_svd_decoder"};
    for (size_t i = 0; i < LT_COUNT(models); i++)
        synthetic_write(models[i], in_folder("%s", models[i]), &(synthetic){0});
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_differences_at_once),
        cmocka_unit_test(a_foreign_half),
        cmocka_unit_test(half_a_file),
        cmocka_unit_test(long_lists_are_cut),
        cmocka_unit_test(values_that_are_not_finite),
        cmocka_unit_test(broken_files),
        cmocka_unit_test(broken_shards),
        cmocka_unit_test(factors),
        cmocka_unit_test(info),
        cmocka_unit_test(digests),
        cmocka_unit_test(read_by_one),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
