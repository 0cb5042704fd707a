/* onednn.c - every call of oneDNN (version 2's C API) in Longtake: convolutions of single frames.
 *
 * oneDNN's own threading is not used: it chooses its blocking, and with it the order of sums, by the number of threads and
 * by the batch (512 -> 256 channels over 18x32 pixels give other bytes on 64 threads than on 1). So every frame is cut into
 * strips of rows, by its shape alone, and each strip is computed by one thread with a primitive made for one.
 *
 * Activations stay channels-last as they are; weights are reordered once into the layout oneDNN asks for. Creating a
 * primitive takes milliseconds, so they are kept, by shape. Scratchpads are ours, from the workspace, so that a dry run
 * counts them. */
#include "kernels/cpu/cpu.h"

#include <oneapi/dnnl/dnnl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CACHED = 256 };

/* Axes of a frame: rows, columns. */
enum { ROWS, COLUMNS };

/* What a primitive depends on. Only int64 fields: compared by its bytes. */
typedef struct conv_key {
    int64_t inputs, outputs;
    dnnl_dims_t in, out, kernel, strides, pads_low, pads_high; /* rows, columns */
    int64_t has_bias, has_residual;
} conv_key;

typedef struct conv_primitive {
    struct conv_primitive *next; /* most recently used first */
    conv_key key;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive; /* NULL until it is first executed: a dry run needs the description only */
    size_t weight_bytes, scratchpad_bytes;
} conv_primitive;

/* Output rows first .. first + rows - 1 of every frame, and what computes them. */
typedef struct strip {
    int64_t first_in, first_out;
    const conv_primitive *primitive;
    const void *weight;
} strip;

struct cpu_onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream; /* for reordering weights */
    dnnl_data_type_t dtype;
    conv_primitive *primitives;
};

static const char *status_text(dnnl_status_t status)
{
    switch (status) {
    case dnnl_out_of_memory: return "out of memory";
    case dnnl_invalid_arguments: return "invalid arguments";
    case dnnl_unimplemented: return "not implemented";
    default: return "failed";
    }
}

const char *cpu_onednn_isa(void)
{
    switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_sse41: return "sse41";
    case dnnl_cpu_isa_avx: return "avx";
    case dnnl_cpu_isa_avx2: return "avx2";
    case dnnl_cpu_isa_avx2_vnni: return "avx2_vnni";
    case dnnl_cpu_isa_avx512_core: return "avx512_core";
    case dnnl_cpu_isa_avx512_core_vnni: return "avx512_core_vnni";
    case dnnl_cpu_isa_avx512_core_bf16: return "avx512_core_bf16";
    case dnnl_cpu_isa_avx512_core_amx: return "avx512_core_amx";
    default: return "other";
    }
}

lt_status cpu_onednn_open(struct cpu_onednn **onednn, lt_dtype dtype, char *version, size_t version_bytes,
                          lt_err *err)
{
    struct cpu_onednn *o = calloc(1, sizeof(*o));
    *onednn = o;
    if (!o) return lt_fail(err, LT_E_NO_MEMORY, "cannot open the cpu: out of memory");
    o->dtype = dtype == LT_BF16 ? dnnl_bf16 : dnnl_f32;
    dnnl_status_t status = dnnl_engine_create(&o->engine, dnnl_cpu, 0);
    if (status == dnnl_success) status = dnnl_stream_create(&o->stream, o->engine, dnnl_stream_default_flags);
    if (status != dnnl_success)
        return lt_fail(err, LT_E_NO_MEMORY, "cannot open oneDNN: %s", status_text(status));
    const dnnl_version_t *v = dnnl_version();
    snprintf(version, version_bytes, "%d.%d.%d", v->major, v->minor, v->patch);
    return LT_OK;
}

static void destroy_primitive(conv_primitive *p)
{
    if (!p) return;
    if (p->primitive) dnnl_primitive_destroy(p->primitive);
    if (p->desc) dnnl_primitive_desc_destroy(p->desc);
    free(p);
}

void cpu_onednn_close(struct cpu_onednn *o)
{
    if (!o) return;
    while (o->primitives) {
        conv_primitive *next = o->primitives->next;
        destroy_primitive(o->primitives);
        o->primitives = next;
    }
    if (o->stream) dnnl_stream_destroy(o->stream);
    if (o->engine) dnnl_engine_destroy(o->engine);
    free(o);
}

/* ---- shapes ------------------------------------------------------------------------------------------ */

/* The strip of output rows first .. first + rows - 1: the input rows it needs that are there, the others as padding. */
static conv_key key_of_strip(const lt_conv_dims *d, int64_t first, int64_t rows, int64_t *first_in)
{
    int64_t from = first * d->sh - d->top, until = (first + rows - 1) * d->sh - d->top + d->kh;
    int64_t low = LT_MAX(from, 0), high = LT_MIN(until, d->h);
    *first_in = low;
    return (conv_key){
        .inputs = d->i,
        .outputs = d->o,
        .in = {high - low, d->w},
        .out = {rows, d->wo},
        .kernel = {d->kh, d->kw},
        .strides = {d->sh, d->sw},
        .pads_low = {low - from, d->left},
        .pads_high = {until - high, d->right},
    };
}

static dnnl_status_t activation_desc(dnnl_memory_desc_t *desc, int64_t channels, const int64_t *size,
                                     dnnl_data_type_t dtype)
{
    dnnl_dims_t dims = {1, channels, size[ROWS], size[COLUMNS]};
    return dnnl_memory_desc_init_by_tag(desc, 4, dims, dtype, dnnl_nhwc);
}

static dnnl_status_t weight_desc(dnnl_memory_desc_t *desc, const conv_key *k, dnnl_data_type_t dtype,
                                 dnnl_format_tag_t tag)
{
    dnnl_dims_t dims = {k->outputs, k->inputs, k->kernel[ROWS], k->kernel[COLUMNS]};
    return dnnl_memory_desc_init_by_tag(desc, 4, dims, dtype, tag);
}

/* ---- primitives -------------------------------------------------------------------------------------- */

/* Scratchpad of ours; the residual, where there is one, stands in the result already and is summed. (A binary post-op
 * would read it where it is, but costs 10-14 % of a whole 3x3 convolution, and 45 % of a temporal one in bf16.) */
static dnnl_status_t make_attr(dnnl_primitive_attr_t *attr, bool has_residual)
{
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(attr);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (status == dnnl_success && has_residual) {
        status = dnnl_post_ops_create(&ops);
        if (status == dnnl_success) status = dnnl_post_ops_append_sum(ops, 1.0f);
        if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(*attr, ops);
        if (ops) dnnl_post_ops_destroy(ops);
    }
    return status;
}

static dnnl_status_t make_desc(struct cpu_onednn *o, conv_primitive *p)
{
    const conv_key *k = &p->key;
    dnnl_memory_desc_t src, weight, bias, dst;
    dnnl_convolution_desc_t conv;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_dims_t bias_dims = {k->outputs};
    dnnl_status_t status = activation_desc(&src, k->inputs, k->in, o->dtype);
    if (status == dnnl_success) status = activation_desc(&dst, k->outputs, k->out, o->dtype);
    if (status == dnnl_success) status = weight_desc(&weight, k, o->dtype, dnnl_format_tag_any);
    if (status == dnnl_success) status = dnnl_memory_desc_init_by_tag(&bias, 1, bias_dims, dnnl_f32, dnnl_x);
    if (status == dnnl_success) {
        status = dnnl_convolution_forward_desc_init(&conv, dnnl_forward_inference, dnnl_convolution_direct,
                                                    &src, &weight, k->has_bias ? &bias : NULL, &dst,
                                                    k->strides, k->pads_low, k->pads_high);
    }
    if (status == dnnl_success) status = make_attr(&attr, k->has_residual);
    if (status == dnnl_success) status = dnnl_primitive_desc_create(&p->desc, &conv, attr, o->engine, NULL);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (status != dnnl_success) return status;
    p->weight_bytes =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(p->desc, dnnl_query_weights_md, 0));
    p->scratchpad_bytes =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(p->desc, dnnl_query_scratchpad_md, 0));
    return dnnl_success;
}

/* The primitive of a key, moved to the front of the list; made when there is none. NULL with the context's error set. */
static conv_primitive *find_primitive(lt_context *c, struct cpu_onednn *o, const conv_key *key)
{
    conv_primitive **link = &o->primitives, *p = NULL;
    int n = 0;
    for (; (p = *link); link = &p->next, n++) {
        if (memcmp(&p->key, key, sizeof(*key)) == 0) break;
        if (!p->next && n + 1 >= MAX_CACHED) {
            *link = NULL;
            destroy_primitive(p);
            p = NULL;
            break;
        }
    }
    dnnl_status_t status = dnnl_success;
    if (p) {
        *link = p->next;
    } else {
        p = calloc(1, sizeof(*p));
        if (!p) status = dnnl_out_of_memory;
        if (p) {
            p->key = *key;
            status = make_desc(o, p);
        }
    }
    if (status == dnnl_success && !c->dry && !p->primitive)
        status = dnnl_primitive_create(&p->primitive, p->desc);
    if (status != dnnl_success) {
        destroy_primitive(p);
        lt_context_fail(c, status == dnnl_out_of_memory ? LT_E_NO_MEMORY : LT_E_UNSUPPORTED,
                        "conv: oneDNN: %s for %lld -> %lld channels", status_text(status),
                        (long long)key->inputs, (long long)key->outputs);
        return NULL;
    }
    p->next = o->primitives;
    o->primitives = p;
    return p;
}

/* ---- weights ----------------------------------------------------------------------------------------- */

static dnnl_status_t reorder(struct cpu_onednn *o, const dnnl_memory_desc_t *from, const void *src,
                             const dnnl_memory_desc_t *to, void *dst)
{
    dnnl_memory_t in = NULL, out = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_status_t status = dnnl_memory_create(&in, from, o->engine, (void *)(uintptr_t)src);
    if (status == dnnl_success) status = dnnl_memory_create(&out, to, o->engine, dst);
    if (status == dnnl_success)
        status = dnnl_reorder_primitive_desc_create(&desc, from, o->engine, to, o->engine, NULL);
    if (status == dnnl_success) status = dnnl_primitive_create(&primitive, desc);
    if (status == dnnl_success) {
        dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, in}, {DNNL_ARG_TO, out}};
        status = dnnl_primitive_execute(primitive, o->stream, 2, args);
        dnnl_stream_wait(o->stream);
    }
    if (primitive) dnnl_primitive_destroy(primitive);
    if (desc) dnnl_primitive_desc_destroy(desc);
    if (in) dnnl_memory_destroy(in);
    if (out) dnnl_memory_destroy(out);
    return status;
}

/* Which of the forms this layout is, nearly always one of its own. */
static int form_of(const dnnl_memory_desc_t *layout)
{
    const dnnl_blocking_desc_t *b = &layout->format_desc.blocking;
    uint64_t digest = (uint64_t)layout->data_type;
    for (int i = 0; i < layout->ndims; i++) digest = (digest ^ (uint64_t)b->strides[i]) * 0x100000001b3u;
    for (int i = 0; i < b->inner_nblks; i++)
        digest = (digest ^ (uint64_t)(b->inner_blks[i] * DNNL_MAX_NDIMS + b->inner_idxs[i])) * 0x100000001b3u;
    return CPU_FORM_ONEDNN + (int)((digest >> 32) % (N_CPU_FORMS - CPU_FORM_ONEDNN));
}

/* The weight in the layout of p. NULL when dry or after an error. */
static const void *packed_weight(lt_context *c, struct cpu_onednn *o, lt_weight *weight,
                                 const conv_primitive *p)
{
    const dnnl_memory_desc_t *wanted = dnnl_primitive_desc_query_md(p->desc, dnnl_query_weights_md, 0);
    int form = form_of(wanted);
    for (const cpu_packed *f = weight->packed; f; f = f->next) {
        if (f->form == form && dnnl_memory_desc_equal((const dnnl_memory_desc_t *)f->layout, wanted))
            return f->data;
    }
    cpu_packed *packed = cpu_packed_add(c, weight, form, c->dtype, p->weight_bytes, wanted, sizeof(*wanted));
    if (!packed) return NULL;
    dnnl_memory_desc_t plain;
    float *owned;
    const float *values = cpu_weight_f32(c, weight, &owned);
    dnnl_status_t status = values ? weight_desc(&plain, &p->key, dnnl_f32, dnnl_oihw) : dnnl_out_of_memory;
    omp_set_num_threads(cpu_of(c)->threads);
    if (status == dnnl_success) status = reorder(o, &plain, values, wanted, packed->data);
    omp_set_num_threads(1);
    free(owned);
    if (status == dnnl_success) return packed->data;
    cpu_packed_drop(c, weight);
    lt_context_fail(c, status == dnnl_out_of_memory ? LT_E_NO_MEMORY : LT_E_UNSUPPORTED,
                    "conv: oneDNN cannot reorder a weight: %s", status_text(status));
    return NULL;
}

/* ---- execution --------------------------------------------------------------------------------------- */

/* One strip of one frame. */
static dnnl_status_t execute(struct cpu_onednn *o, dnnl_stream_t stream, const strip *s, const void *x,
                             const float *bias, void *y, void *scratchpad)
{
    const struct {
        int arg;
        dnnl_query_t what;
        int index;
        const void *data;
    } all[] = {
        {DNNL_ARG_SRC, dnnl_query_src_md, 0, x},
        {DNNL_ARG_WEIGHTS, dnnl_query_weights_md, 0, s->weight},
        {DNNL_ARG_DST, dnnl_query_dst_md, 0, y},
        {DNNL_ARG_SCRATCHPAD, dnnl_query_scratchpad_md, 0, scratchpad},
        {DNNL_ARG_BIAS, dnnl_query_weights_md, 1, bias},
    };
    dnnl_exec_arg_t args[LT_COUNT(all)];
    int n = 0;
    dnnl_status_t status = dnnl_success;
    for (size_t i = 0; i < LT_COUNT(all) - !bias && status == dnnl_success; i++) {
        const dnnl_memory_desc_t *desc =
            dnnl_primitive_desc_query_md(s->primitive->desc, all[i].what, all[i].index);
        status = dnnl_memory_create(&args[n].memory, desc, o->engine, (void *)(uintptr_t)all[i].data);
        if (status == dnnl_success) args[n++].arg = all[i].arg;
    }
    if (status == dnnl_success) status = dnnl_primitive_execute(s->primitive->primitive, stream, n, args);
    if (status == dnnl_success) status = dnnl_stream_wait(stream);
    for (int i = 0; i < n; i++) dnnl_memory_destroy(args[i].memory);
    return status;
}

/* Find the primitive and the weight of every strip; *scratchpad_bytes is the most that one takes. */
static void prepare(lt_context *c, lt_weight *weight, const lt_conv_dims *d, bool has_bias, bool has_residual,
                    int64_t rows, strip *strips, int64_t n_strips, size_t *scratchpad_bytes)
{
    struct cpu_onednn *o = cpu_of(c)->onednn;
    *scratchpad_bytes = 64;
    omp_set_num_threads(1); /* what oneDNN then makes its primitives for; our own regions name their number */
    for (int64_t i = 0; i < n_strips && c->err.status == LT_OK; i++) {
        strip *s = &strips[i];
        s->first_out = i * rows;
        conv_key key = key_of_strip(d, s->first_out, LT_MIN(rows, d->ho - s->first_out), &s->first_in);
        key.has_bias = has_bias;
        key.has_residual = has_residual;
        conv_primitive *p = find_primitive(c, o, &key);
        if (!p) return;
        s->primitive = p;
        s->weight = packed_weight(c, o, weight, p);
        *scratchpad_bytes = LT_MAX(*scratchpad_bytes, lt_round_up(p->scratchpad_bytes, 64));
    }
}

static void run_strips(lt_context *c, const lt_tensor *x, const lt_conv_dims *d, const float *bias,
                       lt_tensor *y, const strip *strips, int64_t n_strips, char *scratch,
                       size_t scratch_bytes, int threads)
{
    struct cpu_onednn *o = cpu_of(c)->onednn;
    size_t in_row = (size_t)(d->w * d->i) * lt_dtype_bytes(c->dtype);
    size_t out_row = (size_t)(d->wo * d->o) * lt_dtype_bytes(c->dtype);
    int failed = dnnl_success;
#pragma omp parallel num_threads(threads)
    {
        dnnl_stream_t stream = NULL;
        dnnl_status_t status = dnnl_stream_create(&stream, o->engine, dnnl_stream_default_flags);
        void *mine = scratch + (size_t)cpu_thread() * scratch_bytes;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < d->n * d->t * n_strips; i++) {
            const strip *s = &strips[i % n_strips];
            size_t frame = (size_t)(i / n_strips);
            const char *from = (const char *)x->data + (frame * (size_t)d->h + (size_t)s->first_in) * in_row;
            char *to = (char *)y->data + (frame * (size_t)d->ho + (size_t)s->first_out) * out_row;
            if (status == dnnl_success) status = execute(o, stream, s, from, bias, to, mine);
        }
        if (stream) dnnl_stream_destroy(stream);
        if (status != dnnl_success) {
#pragma omp atomic write
            failed = (int)status;
        }
    }
    if (failed != dnnl_success)
        lt_context_fail(c, LT_E_INTERNAL, "conv: oneDNN: %s", status_text((dnnl_status_t)failed));
}

lt_status cpu_onednn_conv(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                          const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    enum { STRIP_PIXELS = 1024 };
    int64_t rows = (STRIP_PIXELS + d->wo - 1) / d->wo, n_strips = (d->ho + rows - 1) / rows;
    bool has_bias = bias && bias->tensor.data;
    size_t scratchpad_bytes;
    void *scratch = NULL;
    strip *strips = calloc((size_t)n_strips, sizeof(strip));
    if (!strips) return lt_context_fail(c, LT_E_NO_MEMORY, "conv: out of memory");
    prepare(c, weight, d, has_bias, residual->data != NULL, rows, strips, n_strips, &scratchpad_bytes);
    const float *bias_values = cpu_weight_vector(c, bias);
    int threads = (int)LT_MIN((int64_t)cpu_of(c)->threads, d->n * d->t * n_strips);
    if (c->err.status == LT_OK) scratch = lt_scratch(c, (size_t)threads * scratchpad_bytes);
    if (scratch && !c->dry) {
        if (residual->data) convert_cpu(c, residual, y);
        run_strips(c, x, d, bias_values, y, strips, n_strips, scratch, scratchpad_bytes, threads);
    }
    lt_scratch_release(c, scratch);
    free(strips);
    return c->err.status;
}
