/* conv.c - convolutions.
 *
 * - One pixel in, one pixel out: a linear layer.
 * - In 16 bits, over space (1,kh,kw), with the frames as images, or over time (kt,1,1), with time as height and a frame's pixels as
 *   width, so that it is one product of all pixels by the taps and none of it is pads' alone: cuDNN, with residual and bias added to
 *   its f32 sums in the same kernel. In this order, and a bias of the images' dtype: so its engines for Hopper have it. For a bias in f32, or one
 *   that is added first, 9.19 has an engine for all architectures alone, whose kernels are Ampere's there, without Hopper's matrix
 *   instructions (tests/cuda looks at the engines; so has a residual without a bias,
 *   which no model has). So the bias is rounded to the dtype, as the weight is. All channels-last; two dimensions of space, for which cuDNN has its best engines. A clip whose
 *   elements cannot be numbered in 32 bits (25 frames of 1080p with 128 channels) is convolved over time in pieces of so many frames
 *   that they can; pieces read what lies beside them, so that only the clip's own ends have pads.
 * - Over space in 16 bits from 3 or 4 channels, as those of pictures and latents: the same, of images whose channels are padded to 8,
 *   some images at a time. cuDNN moves 16 bytes at once then, where a matrix of windows would be laid out value by value.
 * - Over space in 16 bits from many channels to 4 or fewer: few.c.
 * - Whatever cuDNN has no engine for, and all of f32, where its engines with an epilogue would round to TF32: what each window sees is
 *   laid out as rows of a matrix, some rows at a time, and is a linear layer then. Which of the two it is follows from the shape
 *   of one sample.
 *
 * Upsampling by 2 before a kernel of 3 x 3: an output pixel sees two rows and two columns of the small picture, and which of the nine
 * taps fall on which element follows from its row and column being odd or even. So a kernel of 2 x 2 over the small picture with
 * a pad of 1, for 4 O outputs, has all that there is: 16 O I products an element in place of 36. Each output pixel is then taken from its
 * window (lt_launch_window_pixels). The bias, four times over, is added to the f32 sums by the convolution, so that a result is
 * rounded once and what follows only moves bytes. Of x's elements, with I = O, 13 times as many are moved as x has, as with the
 * upsampled tensor: what is saved is five ninths of the arithmetic. Four convolutions that wrote their pixels where
 * they belong, by strides, would move 8 times as many; whether an engine takes such strides is for a GPU to say. */
#include "kernels/cuda/operators.h"

enum { MATRIX_BYTES = 64 << 20, CANONICAL_IMAGES = 8 };

/* Of a tensor of one call. Tests have fewer, so that small clips take several. */
#ifndef CUDA_MOST_ELEMENTS
#define CUDA_MOST_ELEMENTS ((INT64_C(1) << 31) - 1)
#endif

/* A convolution over two dimensions, of images. */
typedef struct conv_problem {
    int64_t images, h, w, i, ho, wo, o, kh, kw, sh, sw, top, bottom, left, right;
    cudnnDataType_t type;
    bool has_bias, has_residual;
    size_t x_alignment, y_alignment;
} conv_problem;

/* What all ways need. */
typedef struct conv_call {
    const lt_conv_dims *d;
    const void *x, *weight, *residual;
    cuda_vector bias;
    bool has_bias, has_residual;
    void *y;
} conv_call;

/* ---- linear layers ----------------------------------------------------------------------------------- */

static int64_t sample_rows(const lt_conv_dims *d)
{
    return d->to * d->ho * d->wo;
}

static cuda_layer layer_of(const conv_call *k, int64_t inner)
{
    const lt_conv_dims *d = k->d;
    return (cuda_layer){.op = "conv",
                        .rows = d->n * sample_rows(d),
                        .inner = inner,
                        .columns = d->o,
                        .canonical_rows = cuda_canonical_rows(sample_rows(d)),
                        .x = k->x,
                        .weight = k->weight,
                        .residual = k->residual,
                        .bias = k->bias,
                        .has_bias = k->has_bias,
                        .has_residual = k->has_residual,
                        .y = k->y};
}

static bool is_pointwise(const lt_conv_dims *d)
{
    return d->kt * d->kh * d->kw == 1 && d->st == 1 && d->sh == 1 && d->sw == 1 && d->front == 0 &&
           d->back == 0 && d->top == 0 && d->bottom == 0 && d->left == 0 && d->right == 0;
}

static lt_status run_as_matrix(lt_context *c, const conv_call *k)
{
    const lt_conv_dims *d = k->d;
    int64_t inner = d->kt * d->kh * d->kw * d->i, rows = d->n * sample_rows(d);
    size_t size = cuda_dtype_bytes(c->dtype), row_bytes = (size_t)inner * size;
    int64_t step = LT_MAX((int64_t)(MATRIX_BYTES / row_bytes) / 256 * 256, (int64_t)256);
    step = LT_MIN(step, rows);
    void *matrix = lt_scratch(c, (size_t)step * row_bytes);
    if (!matrix) return c->err.status;
    lt_status status = LT_OK;
    for (int64_t first = 0; first < rows && status == LT_OK; first += step) {
        size_t at = (size_t)(first * d->o) * size;
        cuda_layer l = layer_of(k, inner);
        l.rows = LT_MIN(step, rows - first);
        l.x = matrix;
        l.y = (char *)k->y + at;
        if (k->has_residual) l.residual = (const char *)k->residual + at;
        if (!c->dry)
            status = cuda_launched(
                c, "conv", lt_launch_im2col(cuda_of(c)->compute, matrix, k->x, size, d, 1, 1, first, l.rows));
        if (status == LT_OK) status = cuda_layer_run(c, &l); /* when dry, too: the last rows are fewer */
    }
    lt_scratch_release(c, matrix);
    return status;
}

/* ---- cuDNN ------------------------------------------------------------------------------------------- */

/* Over space alone, or over time alone? False when it is neither. */
static bool two_dimensions(const lt_conv_dims *d, conv_problem *p)
{
    if (d->kt == 1 && d->st == 1 && d->front == 0 && d->back == 0) {
        *p = (conv_problem){.images = d->n * d->t,
                            .h = d->h,
                            .w = d->w,
                            .ho = d->ho,
                            .wo = d->wo,
                            .kh = d->kh,
                            .kw = d->kw,
                            .sh = d->sh,
                            .sw = d->sw,
                            .top = d->top,
                            .bottom = d->bottom,
                            .left = d->left,
                            .right = d->right};
    } else if (d->kh == 1 && d->kw == 1 && d->sh == 1 && d->sw == 1 && d->top == 0 && d->bottom == 0 &&
               d->left == 0 && d->right == 0) {
        *p = (conv_problem){.images = d->n,
                            .h = d->t,
                            .w = d->h * d->w,
                            .ho = d->to,
                            .wo = d->h * d->w,
                            .kh = d->kt,
                            .kw = 1,
                            .sh = d->st,
                            .sw = 1,
                            .top = d->front,
                            .bottom = d->back};
    } else {
        return false;
    }
    p->i = d->i;
    p->o = d->o;
    return true;
}

enum { UID_X = 1, UID_W, UID_Y, UID_BIAS, UID_RESIDUAL, UID_SUMS, UID_TOTALS };

/* Channels-last: the dimensions are named N, C, H, W all the same. */
static cudnnBackendDescriptor_t images(graph_builder *g, int64_t uid, cudnnDataType_t type, graph_kind kind,
                                       int64_t n, int64_t c, int64_t h, int64_t w, size_t alignment)
{
    const int64_t dims[4] = {n, c, h, w}, strides[4] = {h * w * c, 1, w * c, c};
    return graph_tensor(g, uid, type, kind, 4, dims, strides, alignment);
}

/* What is not stored, in f32. */
static cudnnBackendDescriptor_t sums(graph_builder *g, int64_t uid, const conv_problem *p, int64_t n)
{
    return images(g, uid, CUDNN_DATA_FLOAT, GRAPH_VIRTUAL, n, p->o, p->ho, p->wo, CUDA_ALIGNMENT);
}

static void build_conv(graph_builder *g, const void *problem, int64_t n)
{
    const conv_problem *p = problem;
    const int64_t pre[2] = {p->top, p->left}, post[2] = {p->bottom, p->right}, strides[2] = {p->sh, p->sw};
    cudnnBackendDescriptor_t x, w, y, at;
    x = images(g, UID_X, p->type, GRAPH_STORED, n, p->i, p->h, p->w, p->x_alignment);
    w = images(g, UID_W, p->type, GRAPH_STORED, p->o, p->i, p->kh, p->kw, CUDA_ALIGNMENT);
    y = images(g, UID_Y, p->type, GRAPH_STORED, n, p->o, p->ho, p->wo, p->y_alignment);
    at = p->has_bias || p->has_residual ? sums(g, UID_SUMS, p, n) : y;
    graph_conv(g, x, w, at, pre, post, strides);
    if (p->has_residual) {
        cudnnBackendDescriptor_t residual = images(g, UID_RESIDUAL, p->type, GRAPH_STORED, n, p->o, p->ho,
                                                   p->wo, p->y_alignment),
                                 to = p->has_bias ? sums(g, UID_TOTALS, p, n) : y;
        graph_pointwise(g, CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, 0, at, residual, NULL, to);
        at = to;
    }
    if (p->has_bias) {
        cudnnBackendDescriptor_t bias =
            images(g, UID_BIAS, p->type, GRAPH_STORED, 1, p->o, 1, 1, CUDA_ALIGNMENT);
        graph_pointwise(g, CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, 0, at, bias, NULL, y);
    }
}

static graph_key key_of(const conv_problem *p)
{
    enum { CONV = 1 };
    return (graph_key){{CONV,
                        p->h,
                        p->w,
                        p->i,
                        p->ho,
                        p->wo,
                        p->o,
                        p->kh,
                        p->kw,
                        p->sh,
                        p->sw,
                        p->top,
                        p->bottom,
                        p->left,
                        p->right,
                        p->type,
                        p->has_bias,
                        p->has_residual,
                        (int64_t)p->x_alignment,
                        (int64_t)p->y_alignment}};
}

static lt_status run_images(lt_context *c, const conv_call *k, const conv_problem *p, cuda_graph_plan *plan,
                            int64_t first)
{
    void *workspace = NULL;
    if (plan->workspace && !(workspace = lt_scratch(c, plan->workspace))) return c->err.status;
    size_t size = cuda_dtype_bytes(c->dtype), at_x = (size_t)(first * p->h * p->w * p->i) * size,
           at_y = (size_t)(first * p->ho * p->wo * p->o) * size;
    int64_t uids[5] = {UID_X, UID_W, UID_Y};
    void *pointers[5] = {(char *)(uintptr_t)k->x + at_x, (void *)(uintptr_t)k->weight, (char *)k->y + at_y};
    int n = 3;
    if (p->has_bias) {
        uids[n] = UID_BIAS;
        pointers[n++] = (void *)(uintptr_t)k->bias.narrow;
    }
    if (p->has_residual) {
        uids[n] = UID_RESIDUAL;
        pointers[n++] = (char *)(uintptr_t)k->residual + at_y;
    }
    lt_status status = c->dry ? LT_OK : cuda_graph_run(c, "conv", plan, n, uids, pointers, workspace);
    lt_scratch_release(c, workspace);
    return status;
}

/* All images, as many in one call as its tensors' elements can be numbered in 32 bits, and as there is a plan for. */
static lt_status run_cudnn(lt_context *c, const conv_call *k, const conv_problem *p, int64_t at_once,
                           const cuda_graph_plan *choice)
{
    graph_key key = key_of(p);
    lt_status status = LT_OK;
    int64_t n;
    for (int64_t first = 0; first < p->images && status == LT_OK; first += n) {
        n = LT_MIN(at_once, p->images - first);
        cuda_graph_plan *plan = cuda_graph_get(c, "conv", &key, build_conv, p, n, choice);
        if (plan && !plan->supported && n > 1) {
            cuda_tell_engine("conv of several images", key.v, GRAPH_KEY, false, 0, 0);
            n = at_once = 1;
            plan = cuda_graph_get(c, "conv", &key, build_conv, p, n, choice);
        }
        if (!plan) return c->err.status;
        if (!plan->supported) {
            return lt_context_fail(
                c, LT_E_UNSUPPORTED,
                "conv: cuDNN's engine for %lld images of %lld x %lld does not take one alone",
                (long long)choice->n, (long long)p->h, (long long)p->w);
        }
        status = run_images(c, k, p, plan, first);
    }
    return status;
}

/* ---- the operator ------------------------------------------------------------------------------------ */

static lt_status run_conv(lt_context *c, const conv_call *k);

/* Frames of the result, of a convolution over time, whose inputs and outputs are few enough for one call. */
static int64_t frames_at_once(const lt_conv_dims *d)
{
    int64_t frames = CUDA_MOST_ELEMENTS / (d->h * d->w * LT_MAX(d->i, d->o));
    return LT_MAX((frames - d->kt) / d->st + 1, (int64_t)1);
}

/* A convolution over time, so many frames of the result at a time. Where the pieces begin follows from one sample's shape. */
static lt_status run_over_time(lt_context *c, const conv_call *k, int64_t at_once)
{
    const lt_conv_dims *d = k->d;
    size_t size = cuda_dtype_bytes(c->dtype), x_frame = (size_t)(d->h * d->w * d->i) * size,
           y_frame = (size_t)(d->ho * d->wo * d->o) * size;
    lt_status status = LT_OK;
    for (int64_t i = 0; i < d->n * d->to && status == LT_OK;) {
        int64_t n = i / d->to, first = i % d->to, count = LT_MIN(at_once, d->to - first);
        int64_t low = first * d->st - d->front, high = (first + count - 1) * d->st + d->kt - d->front;
        lt_conv_dims part = *d;
        part.n = 1;
        part.front = LT_MAX(-low, (int64_t)0);
        part.back = LT_MAX(high - d->t, (int64_t)0);
        part.t = LT_MIN(high, d->t) - LT_MAX(low, (int64_t)0);
        part.to = count;
        conv_call piece = *k;
        piece.d = &part;
        piece.x = (const char *)k->x + (size_t)(n * d->t + LT_MAX(low, (int64_t)0)) * x_frame;
        piece.y = (char *)k->y + (size_t)i * y_frame;
        if (k->has_residual) piece.residual = (const char *)k->residual + (size_t)i * y_frame;
        status = run_conv(c, &piece);
        i += count;
    }
    return status;
}

/* The problem as cuDNN has it; false where it is none. */
static bool describe(const lt_context *c, const conv_call *k, conv_problem *p)
{
    const lt_conv_dims *d = k->d;
    if (d->t * d->h * d->w == 0) return false; /* all that is seen is pads */
    if (c->dtype == LT_F32 || d->i % CUDA_CHANNELS != 0 || !two_dimensions(d, p)) return false;
    size_t size = cuda_dtype_bytes(c->dtype);
    p->type = cuda_dnn_type(c->dtype);
    p->has_bias = k->has_bias;
    p->has_residual = k->has_residual;
    p->x_alignment = cuda_alignment((size_t)p->i * size);
    p->y_alignment = cuda_alignment((size_t)p->o * size);
    return true;
}

static lt_status run_conv(lt_context *c, const conv_call *k)
{
    const lt_conv_dims *d = k->d;
    conv_problem p;
    if (is_pointwise(d)) {
        cuda_layer l = layer_of(k, d->i);
        return cuda_layer_run(c, &l);
    }
    if (!describe(c, k, &p)) return run_as_matrix(c, k);
    int64_t elements = LT_MAX(p.h * p.w * p.i, p.ho * p.wo * p.o);
    int64_t at_once = LT_MAX(CUDA_MOST_ELEMENTS / elements, (int64_t)1);
    int64_t canonical = LT_MIN(at_once, (int64_t)CANONICAL_IMAGES);
    int64_t frames = frames_at_once(d);
    if (elements > CUDA_MOST_ELEMENTS && p.kw == 1 && p.h == d->t && frames < d->to)
        return run_over_time(c, k, frames);
    graph_key key = key_of(&p);
    cuda_graph_plan *choice = cuda_graph_choose(c, "conv", &key, build_conv, &p, canonical);
    if (!choice) return c->err.status;
    return choice->supported ? run_cudnn(c, k, &p, at_once, choice) : run_as_matrix(c, k);
}

/* ---- of few channels --------------------------------------------------------------------------------- */

/* Over space, with padded channels? It is, where cuDNN has an engine for that; `padded` is the convolution of one image then. False
 * after an error, too. */
static bool is_padded(lt_context *c, const conv_call *k, lt_conv_dims *padded)
{
    const lt_conv_dims *d = k->d;
    if (c->dtype == LT_F32 || d->i % CUDA_CHANNELS == 0 || is_pointwise(d)) return false;
    if (d->kt != 1 || d->st != 1 || d->front != 0 || d->back != 0) return false;
    *padded = *d;
    padded->n = padded->t = padded->to = 1;
    padded->i = (int64_t)lt_round_up((size_t)d->i, CUDA_CHANNELS);
    conv_call one = *k;
    one.d = padded;
    conv_problem p;
    int64_t elements = LT_MAX(d->h * d->w * padded->i, d->ho * d->wo * d->o);
    if (elements > CUDA_MOST_ELEMENTS || !describe(c, &one, &p)) return false;
    int64_t canonical = LT_MIN(CUDA_MOST_ELEMENTS / elements, (int64_t)CANONICAL_IMAGES);
    graph_key key = key_of(&p);
    const cuda_graph_plan *choice = cuda_graph_choose(c, "conv", &key, build_conv, &p, canonical);
    return choice && choice->supported;
}

/* Some images at a time, whose channels are padded in scratch memory. */
static lt_status run_padded(lt_context *c, const conv_call *k, const lt_conv_dims *one)
{
    const lt_conv_dims *d = k->d;
    size_t size = cuda_dtype_bytes(c->dtype);
    int64_t pixels = d->h * d->w, images = d->n * d->t, outputs = d->ho * d->wo * d->o;
    size_t image_bytes = (size_t)(pixels * one->i) * size;
    int64_t step = LT_MIN(LT_MAX((int64_t)(MATRIX_BYTES / image_bytes), (int64_t)1), images);
    void *wide = lt_scratch(c, (size_t)step * image_bytes);
    lt_status status = c->err.status;
    for (int64_t first = 0; first < images && status == LT_OK; first += step) {
        lt_conv_dims part = *one;
        conv_call piece = *k;
        part.n = LT_MIN(step, images - first);
        piece.d = &part;
        piece.x = wide;
        piece.y = (char *)k->y + (size_t)(first * outputs) * size;
        if (k->has_residual) piece.residual = (const char *)k->residual + (size_t)(first * outputs) * size;
        const char *x = (const char *)k->x + (size_t)(first * pixels * d->i) * size;
        if (!c->dry)
            status = cuda_launched(c, "conv",
                                   lt_launch_concat_channels(cuda_of(c)->compute, wide, x, NULL, size,
                                                             part.n * pixels, d->i, one->i - d->i));
        if (status == LT_OK) status = run_conv(c, &piece);
    }
    lt_scratch_release(c, wide);
    return status;
}

lt_status conv_cuda(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                    const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    cuda_of(c);
    if (cuda_has_few_outputs(c, d)) return cuda_conv_to_few(c, x, weight, bias, d, residual, y);
    conv_call k = {.d = d,
                   .x = x->data,
                   .residual = residual->data,
                   .has_bias = bias && bias->tensor.data,
                   .has_residual = residual->data != NULL,
                   .y = y->data};
    lt_conv_dims one;
    bool padded = is_padded(c, &k, &one);
    if (c->err.status != LT_OK) return c->err.status;
    k.weight = padded ? cuda_weight_padded(c, weight) : cuda_weight_matrix(c, weight);
    if ((!k.weight && !c->dry) || !cuda_weight_vector(c, bias, &k.bias)) return c->err.status;
    return padded ? run_padded(c, &k, &one) : run_conv(c, &k);
}

/* ---- after upsampling -------------------------------------------------------------------------------- */

/* The convolution of 2 x 2 over `frames` small pictures. */
static lt_conv_dims folded_dims(const lt_conv_dims *d, int64_t frames)
{
    return (lt_conv_dims){.n = frames,
                          .t = 1,
                          .h = d->h / 2,
                          .w = d->w / 2,
                          .i = d->i,
                          .to = 1,
                          .ho = d->h / 2 + 1,
                          .wo = d->w / 2 + 1,
                          .o = 4 * d->o,
                          .kt = 1,
                          .kh = 2,
                          .kw = 2,
                          .st = 1,
                          .sh = 1,
                          .sw = 1,
                          .top = 1,
                          .bottom = 1,
                          .left = 1,
                          .right = 1};
}

/* Frames first .. first + d->n - 1, by way of `windows`. */
static lt_status run_folded(lt_context *c, conv_call k, const lt_conv_dims *d, int64_t first, char *y,
                            void *windows)
{
    size_t size = cuda_dtype_bytes(c->dtype);
    int64_t pixels = d->h * d->w, outputs = d->o / 4;
    k.d = d;
    k.x = (const char *)k.x + (size_t)(first * pixels * d->i) * size;
    k.y = windows;
    lt_status status = run_conv(c, &k);
    if (status != LT_OK || c->dry) return status;
    return cuda_launched(c, "upsample_conv",
                         lt_launch_window_pixels(cuda_of(c)->compute,
                                                 y + (size_t)(first * 4 * pixels * outputs) * size, windows,
                                                 size, d->n, d->h, d->w, outputs));
}

lt_status upsample_conv_cuda(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                             const lt_conv_dims *d, lt_tensor *y)
{
    cuda_of(c);
    conv_call k = {.x = x->data, .has_bias = bias && bias->tensor.data};
    k.weight = cuda_weight_folded(c, weight);
    if ((!k.weight && !c->dry) || !cuda_weight_vector_4(c, bias, &k.bias)) return c->err.status;
    int64_t frames = d->n * d->t;
    lt_conv_dims one = folded_dims(d, 1);
    size_t frame_bytes = (size_t)(one.ho * one.wo * one.o) * cuda_dtype_bytes(c->dtype);
    int64_t at_once = LT_MIN(LT_MAX((int64_t)(MATRIX_BYTES / frame_bytes), (int64_t)1), frames);
    void *windows = lt_scratch(c, (size_t)at_once * frame_bytes);
    lt_status status = c->err.status;
    for (int64_t first = 0; first < frames && status == LT_OK; first += at_once) {
        lt_conv_dims part = folded_dims(d, LT_MIN(at_once, frames - first));
        status = run_folded(c, k, &part, first, y->data, windows);
    }
    lt_scratch_release(c, windows);
    return status;
}
