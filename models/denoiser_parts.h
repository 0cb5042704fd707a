/* denoiser_parts.h - what the sources of denoiser.h share: the table of networks, the list of parameters, sinusoids.
 * Internal. A network is one const descriptor and a row in denoiser.c. */
#ifndef LT_DENOISER_PARTS_H
#define LT_DENOISER_PARTS_H

#include "models/checkpoint.h"
#include "models/denoiser.h"

/* Whether a checkpoint holds a network. */
typedef enum {
    DENOISER_NO,
    DENOISER_IF_ASKED, /* it can be made from these weights, but they are another network's */
    DENOISER_YES
} denoiser_match;

typedef struct denoiser_network {
    lt_denoiser_kind kind;
    const char *name;   /* for people; info.name */
    const char *folder; /* that holds it in a pipeline's folder; NULL: none does */

    /* From names and shapes. prefix: what lite-sora's names stand behind, "" or "denoising_model.". */
    denoiser_match (*detect)(const lt_checkpoint *checkpoint, const char *prefix);

    /* Work out the architecture, bind all parameters (denoiser_bind) and fill denoiser->info but for kind, name, weight_bytes,
     * digest and n_parameters; denoiser->net is the network's own, in denoiser->arena. numerics may be AUTO. note as in
     * lt_denoiser_open, empty on entry, never NULL. What is left half-built after an error is closed by the caller. */
    lt_status (*open)(lt_denoiser *denoiser, lt_numerics numerics, char *note, size_t note_bytes,
                      lt_err *err);

    /* Free what is neither in the arena nor a bound weight; denoiser->net may be NULL. NULL: nothing is. */
    void (*close)(lt_denoiser *denoiser, lt_context *context);

    /* lt_denoise; sizes and condition have been checked against info. */
    lt_tensor (*predict)(lt_context *c, lt_denoiser *denoiser, lt_tensor x, double timestep,
                         const lt_condition *condition);
} denoiser_network;

extern const denoiser_network denoiser_video_dit_v1, denoiser_video_dit_v2; /* denoiser_video_dit.c */
extern const denoiser_network denoiser_pixart, denoiser_pixart_video;       /* denoiser_pixart.c */

/* Numbers made on the host that a call needs, in memory that is kept from call to call. */
typedef struct denoiser_buffer {
    void *data;
    size_t bytes;
} denoiser_buffer;

struct lt_denoiser {
    const denoiser_network *network;
    lt_checkpoint *checkpoint;
    const char *prefix; /* of lite-sora's names */
    lt_denoiser_info info;
    lt_arena arena;
    void *net;
    lt_weight **weights; /* all that were bound, for lt_weight_finish */
    int n_weights;
    denoiser_buffer sinusoids;
};

/* ---- parameters ------------------------------------------------------------------------------------------------------ */

typedef struct denoiser_affine {
    lt_weight weight, bias;
} denoiser_affine;

typedef struct denoiser_builder {
    lt_parameter *list;
    int n, capacity;
    bool no_memory;
} denoiser_builder;

/* One parameter of that shape, its name printed. weight NULL: only known by name, and may be absent. Returns it, until the
 * next is added, for its flags to be changed; NULL when memory is out, which denoiser_bind reports. */
lt_parameter *denoiser_add(denoiser_builder *b, lt_weight *weight, int rank, const int64_t *shape,
                           const char *format, ...) __attribute__((format(printf, 5, 6)));

/* `module`.weight [out,in] (or [out,in,1,1]) and, unless a->bias is not wanted, `module`.bias [out]. */
void denoiser_add_linear(denoiser_builder *b, denoiser_affine *a, const char *module, int64_t in, int64_t out,
                         bool bias);

/* Take all of the list from the checkpoint (lt_checkpoint_take, whose errors these are), count info.n_parameters of
 * those that have a weight, remember the weights for closing, and free the list, after an error too. A parameter that
 * is not required has no tensor afterwards. */
lt_status denoiser_bind(lt_denoiser *denoiser, denoiser_builder *b, const char *scope,
                        const char *const *ignored, lt_err *err);

/* prefix + `name` is there. */
bool denoiser_holds(const lt_checkpoint *checkpoint, const char *prefix, const char *name);
/* Dimension `axis` of prefix + the printed name, 0 where there is none. */
int64_t denoiser_dim(const lt_checkpoint *checkpoint, int axis, const char *prefix, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- what a call shares ------------------------------------------------------------------------------------------------ */

/* Bytes kept in a buffer, grown when they do not fit; NULL with the context's error set when memory is out. */
void *denoiser_reserve(lt_context *c, denoiser_buffer *buffer, size_t bytes);

/* [cos(v f), sin(v f)], f_i = exp(-ln(10000) i / (width/2)), in f32 as lite-sora and diffusers (flip_sin_to_cos, no shift)
 * compute them: [n,width] of n values, in the context's dtype, to be dropped. */
lt_tensor denoiser_sinusoids(lt_context *c, lt_denoiser *denoiser, const double *values, int n, int width);

/* x [1,...] or [n,...] as [n,...]: always a new tensor, to be dropped. */
lt_tensor denoiser_repeat(lt_context *c, lt_tensor x, int64_t n);

/* Result of a step that ends the life of its input. */
static inline lt_tensor denoiser_replace(lt_context *c, lt_tensor *x, lt_tensor y)
{
    lt_drop(c, x);
    return y;
}

static inline lt_tensor denoiser_linear(lt_context *c, lt_tensor x, denoiser_affine *a, lt_activation act,
                                        lt_tensor residual)
{
    return lt_linear(c, x, &a->weight, &a->bias, act, residual);
}

extern const denoiser_network sdxl3d_network;

#endif
