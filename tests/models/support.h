/* support.h - what the tests of models/ share: synthetic checkpoints, fixtures, comparison. Failures end the running test
 * through cmocka. */
#ifndef LT_TEST_SUPPORT_H
#define LT_TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/safetensors.h"
#include "models/tiling.h"

/* ---- a folder that is removed at the end ------------------------------------------------------------------------------ */

/* For main: make a temporary folder and keep the results of this run's checkpoints in it. */
void support_start(void);
void support_finish(void);
/* folder/`format`, in static memory of 8 texts. */
const char *in_folder(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- synthetic checkpoints (synthetic.c) -------------------------------------------------------------------------------- */

/* How a file shall differ from what its description says. */
typedef struct synthetic {
    lt_dtype dtype;         /* F32, F16, BF16 */
    int n_shards;           /* 0: one file */
    const char *omit[3];    /* tensors that are left out */
    const char *add[2];     /* tensors that are put in beside, f32 [3] */
    const char *reshape[2]; /* tensors that have one row more */
    const char *poison[2];  /* tensors whose last value is NaN, the second's infinity */
    bool no_config;
    const char *stem; /* of the files' names; NULL: diffusion_pytorch_model */
    void (*rename)(const char *name, char *to,
                   size_t bytes); /* names in the file; values stay; NULL: as described */
} synthetic;

/* Write the model that tests/fixtures/`name`.json describes (vae/`name`.json where the name has no folder) into `folder`
 * (made), every value as make_vae_fixtures.py has it. */
void synthetic_write(const char *name, const char *folder, const synthetic *options);
/* For synthetic.rename: ldm's names of the model "kl", which has three levels. */
void rename_ldm_vae(const char *name, char *to, size_t bytes);

/* ---- names and shapes of real checkpoints (hollow.c), from the shared folder; a test of them is skipped without it ------- */

/* main of such a test: runs it, or says that `count` of `what` are skipped. Returns the exit code. */
int hollow_main(CMUnitTestFunction test, const char *what, size_t count);
/* Write a safetensors file of f16 zeros, a hole on disk: the tensors of manifests/`manifest` whose names begin with one of the
 * NULL-terminated prefixes (NULL: all). Returns how many. */
int hollow_write(const char *manifest, const char *const *prefixes, const char *path);
/* Give the tensors whose names begin with `prefix` values that are a hash of the name: element i of a tensor is hollow_value of
 * its name and i. The others stay holes. */
void hollow_fill(const char *path, const char *prefix);
/* f16, never NaN nor infinity. */
uint16_t hollow_value(const char *name, int64_t i);
/* Copy configs/`config` to folder/config.json. */
void hollow_config(const char *config, const char *folder);

/* ---- fixtures ------------------------------------------------------------------------------------------------------------ */

typedef enum { FRAMES_FIRST, CHANNELS_FIRST } test_layout; /* [N,C,H,W], [C,T,H,W] */

typedef struct fixture {
    lt_safetensors *file;
    const char *name;
} fixture;

/* tests/fixtures/`name`.safetensors, vae/`name`.safetensors where the name has no folder. */
fixture fixture_open(const char *name);

/* Where they lie: the environment's LT_FIXTURES, on a machine that has only a bundle of this build, or the source's. */
const char *fixtures_folder(void);
void fixture_close(fixture *f);
/* A tensor as f32 [N,H,W,C]; data is the caller's to free. */
lt_tensor fixture_get(const fixture *f, const char *name, test_layout layout);
/* A tensor [N,C,T,H,W] as f32 [N,T,H,W,C]; data is the caller's to free. */
lt_tensor fixture_video(const fixture *f, const char *name);
/* A tensor of f32 as it is stored; borrowed. */
lt_tensor fixture_raw(const fixture *f, const char *name);
/* Three numbers AxBxC of a fixture's metadata. */
void fixture_box(const fixture *f, const char *key, int box[3]);

/* ||a - b|| / ||b|| and max|a - b| / max|b|, printed; fails unless they are within bound and 2 * bound. Returns the
 * first. */
double check_close(const char *label, const float *a, const float *b, int64_t n, double bound);

/* ---- contexts and models --------------------------------------------------------------------------------------------------- */

void must(lt_status status, const lt_err *err); /* fails with err's text unless status is OK */
/* device "cpu" is that of the environment variable LT_TEST_DEVICE, where there is one. */
lt_context *open_context(const char *device, lt_dtype dtype, size_t bytes, int threads);
lt_vae *open_vae(const char *folder, int parts, lt_numerics numerics);
/* A new zeroed f32 tensor [n,h,w,c] on the heap. */
lt_tensor new_host(int64_t n, int64_t h, int64_t w, int64_t c);
/* A tensor of the workspace as f32 on the heap; waits. Fails with the context's error. */
float *fetch_f32(lt_context *context, lt_tensor tensor);
/* Nothing may be left in the workspace. */
void check_empty(const lt_context *context);

#endif
