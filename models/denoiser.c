/* denoiser.c - which network a checkpoint holds, and what all networks have in common. */
#include "models/denoiser_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What lite-sora's training code saves beside other models. */
#define TRAINING_PREFIX "denoising_model."

/* The first that fits is taken. */
static const denoiser_network *const networks[] = {
    &denoiser_video_dit_v1, &denoiser_video_dit_v2, &denoiser_pixart,
    &denoiser_pixart_video, &sdxl3d_network,        NULL,
};

/* ---- other models ------------------------------------------------------------------------------------------------------ */

/* A tensor by which people's usual files are known, so that a wrong file is called by its name. */
typedef struct other_model {
    const char *tensor, *what;
} other_model;

static const other_model others[] = {
    {"decoder.time_conv_out.weight", "a video VAE (SVD)"},
    {"decoder.conv_in.weight", "a VAE"},
    {"encoder.conv_in.weight", "a VAE"},
    {"time_conv_out.weight", "lite-sora's SVD VAE decoder"},
    {"quant_conv.weight", "lite-sora's VAE encoder"},
    {"post_quant_conv.weight", "lite-sora's VAE decoder"},
    {"text_model.embeddings.token_embedding.weight", "a CLIP text encoder"},
    {"embeddings.token_embedding.weight", "a CLIP text encoder"},
    {"token_embedding.weight", "lite-sora's CLIP text encoder"},
    {"shared.weight", "a T5 text encoder"},
    {"encoder.embed_tokens.weight", "a T5 text encoder"},
    {"double_blocks.0.img_attn.qkv.weight", "a Flux transformer"},
    {"transformer_blocks.0.attn.to_q.weight", "a Flux or SD3 transformer"},
};

static const char *looks_like(const lt_checkpoint *checkpoint, const char *prefix)
{
    for (int i = 0; networks[i]; i++)
        if (networks[i]->detect(checkpoint, prefix) == DENOISER_YES) return networks[i]->name;
    for (size_t i = 0; i < LT_COUNT(others); i++)
        if (denoiser_holds(checkpoint, "", others[i].tensor)) return others[i].what;
    return NULL;
}

/* ---- opening --------------------------------------------------------------------------------------------------------- */

/* A pipeline's folder holds its network in a folder of a known name. Text into inner, or path itself. */
static const char *inner_path(const char *path, lt_denoiser_kind as, char *inner, size_t bytes)
{
    struct stat info;
    if ((size_t)snprintf(inner, bytes, "%s/config.json", path) >= bytes || stat(inner, &info) == 0)
        return path;
    for (int i = 0; networks[i]; i++) {
        const denoiser_network *n = networks[i];
        if (!n->folder || (as != LT_DENOISER_N_KINDS && as != n->kind)) continue;
        if ((size_t)snprintf(inner, bytes, "%s/%s/config.json", path, n->folder) >= bytes ||
            stat(inner, &info) != 0)
            continue;
        snprintf(inner, bytes, "%s/%s", path, n->folder);
        return inner;
    }
    return path;
}

static const char *prefix_of(const lt_checkpoint *checkpoint)
{
    for (int i = 0; i < lt_checkpoint_count(checkpoint); i++) {
        const char *name;
        lt_checkpoint_at(checkpoint, i, &name);
        if (strncmp(name, TRAINING_PREFIX, strlen(TRAINING_PREFIX)) == 0) return TRAINING_PREFIX;
    }
    return "";
}

static const char *kind_name(lt_denoiser_kind kind)
{
    for (int i = 0; networks[i]; i++)
        if (networks[i]->kind == kind) return networks[i]->name;
    return "a network that is not known here";
}

static lt_status choose(lt_denoiser *d, const char *path, lt_denoiser_kind as, lt_err *err)
{
    for (int i = 0; networks[i] && !d->network; i++) {
        denoiser_match match = networks[i]->detect(d->checkpoint, d->prefix);
        bool fits = as == LT_DENOISER_N_KINDS ? match == DENOISER_YES
                                              : as == networks[i]->kind && match != DENOISER_NO;
        if (fits) d->network = networks[i];
    }
    if (d->network) return LT_OK;
    const char *what = looks_like(d->checkpoint, d->prefix);
    int count = lt_checkpoint_count(d->checkpoint);
    if (as != LT_DENOISER_N_KINDS)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: wanted %s, but this looks like %s", path, kind_name(as),
                       what ? what : "none of the models that are known here");
    if (what)
        return lt_fail(err, LT_E_UNSUPPORTED, "%s: this looks like %s, which is no denoising network", path,
                       what);
    return lt_fail(
        err, LT_E_UNSUPPORTED,
        "%s: no denoising network: none of its %d tensors has a name that lite-sora or diffusers give", path,
        count);
}

static lt_status open_denoiser(lt_denoiser *d, const char *path, lt_denoiser_kind as, lt_numerics numerics,
                               char *note, size_t note_bytes, lt_err *err)
{
    char inner[4096];
    lt_status status;
    LT_TRY(lt_checkpoint_open(&d->checkpoint, inner_path(path, as, inner, sizeof(inner)), err));
    d->prefix = prefix_of(d->checkpoint);
    LT_TRY(choose(d, path, as, err));
    d->info.kind = d->network->kind;
    d->info.name = d->network->name;
    LT_TRY(d->network->open(d, numerics, note, note_bytes, err));
    d->info.weight_bytes = lt_checkpoint_bytes(d->checkpoint);
    snprintf(d->info.digest, sizeof(d->info.digest), "%s", lt_checkpoint_digest(d->checkpoint));
fail:
    return status;
}

lt_status lt_denoiser_open(lt_denoiser **denoiser, const char *path, lt_denoiser_kind as,
                           lt_numerics numerics, char *note, size_t note_bytes, lt_err *err)
{
    char unread[1];
    *denoiser = NULL;
    if (!note || !note_bytes) {
        note = unread;
        note_bytes = sizeof(unread);
    }
    note[0] = '\0';
    lt_denoiser *d = calloc(1, sizeof(*d));
    if (!d) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", path);
    lt_status status = open_denoiser(d, path, as, numerics, note, note_bytes, err);
    if (status != LT_OK) {
        lt_denoiser_close(d, NULL);
        return status;
    }
    *denoiser = d;
    return LT_OK;
}

void lt_denoiser_close(lt_denoiser *d, lt_context *context)
{
    if (!d) return;
    if (d->network && d->network->close) d->network->close(d, context);
    for (int i = 0; context && i < d->n_weights; i++) lt_weight_finish(context, d->weights[i]);
    lt_checkpoint_close(d->checkpoint);
    lt_arena_finish(&d->arena);
    free(d->sinusoids.data);
    free(d->weights);
    free(d);
}

const lt_denoiser_info *lt_denoiser_get_info(const lt_denoiser *d)
{
    return &d->info;
}

/* ---- a call ---------------------------------------------------------------------------------------------------------- */

lt_status lt_denoiser_check_size(const lt_denoiser *d, int64_t t, int64_t h, int64_t w, lt_err *err)
{
    static const char *const axes[] = {"frames", "rows", "columns"};
    const char *unit = d->info.pixels ? "pixels" : "latent cells";
    const int64_t size[] = {t, h, w};
    if (d->info.single_frame && t != 1)
        return lt_fail(err, LT_E_INVALID, "%s makes pictures: 1 frame, not %lld", d->info.name, (long long)t);
    for (int i = 0; i < 3; i++) {
        int m = d->info.multiple[i];
        if (size[i] >= 1 && size[i] % m == 0) continue;
        return lt_fail(err, LT_E_INVALID,
                       "%s takes %s in multiples of %d, not %lld (%lld frames of %lld x %lld %s were given)",
                       d->info.name, axes[i], m, (long long)size[i], (long long)t, (long long)w, (long long)h,
                       unit);
    }
    return LT_OK;
}

/* A tensor of the condition: there if and only if it is wanted, of the rank and the width it should have. */
static bool check_part(lt_context *c, const lt_denoiser *d, const char *what, lt_tensor t, int width,
                       int rank, int64_t n)
{
    char text[96];
    if (!width && !t.data) return true;
    lt_tensor_describe(&t, text, sizeof(text));
    if (!width)
        lt_context_fail(c, LT_E_INVALID, "%s takes no %s, but was given %s", d->info.name, what, text);
    else if (!t.data || t.rank != rank || t.shape[rank - 1] != width ||
             (t.shape[0] != 1 && t.shape[0] != n) || (rank == 3 && t.shape[1] < 1))
        lt_context_fail(c, LT_E_INVALID, "%s's %s is %s; wanted [1 or %lld,%s%d]", d->info.name, what, text,
                        (long long)n, rank == 3 ? "tokens," : "", width);
    return c->err.status == LT_OK;
}

static bool check_call(lt_context *c, const lt_denoiser *d, lt_tensor x, double timestep,
                       const lt_condition *condition)
{
    char text[96];
    if (c->err.status != LT_OK) return false;
    lt_tensor_describe(&x, text, sizeof(text));
    if (x.rank != 5 || x.shape[0] < 1 || x.shape[4] != d->info.channels) {
        lt_context_fail(c, LT_E_INVALID, "%s given %s; wanted [samples,frames,height,width,%d]", d->info.name,
                        text, d->info.channels);
        return false;
    }
    if (!isfinite(timestep)) {
        lt_context_fail(c, LT_E_INVALID, "%s: the timestep is not finite", d->info.name);
        return false;
    }
    if (lt_denoiser_check_size(d, x.shape[1], x.shape[2], x.shape[3], &c->err) != LT_OK) return false;
    if (!check_part(c, d, "text", condition->context, d->info.context_width, 3, x.shape[0])) return false;
    if (!check_part(c, d, "pooled text", condition->pooled, d->info.pooled_width, 2, x.shape[0]))
        return false;
    for (int64_t i = 0; condition->n_context && d->info.context_mask && i < condition->context.shape[0];
         i++) {
        if (condition->n_context[i] >= 0 && condition->n_context[i] <= condition->context.shape[1]) continue;
        lt_context_fail(c, LT_E_INVALID, "%s: %d tokens of a text of %lld", d->info.name,
                        condition->n_context[i], (long long)condition->context.shape[1]);
        return false;
    }
    return true;
}

lt_tensor lt_denoise(lt_context *c, lt_denoiser *d, lt_tensor x, double timestep,
                     const lt_condition *condition)
{
    if (!check_call(c, d, x, timestep, condition)) return LT_NONE;
    return d->network->predict(c, d, x, timestep, condition);
}
