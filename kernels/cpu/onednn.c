/* onednn.c - every call of oneDNN (version 2's C API) in Longtake: convolutions.
 *
 * Activations stay channels-last as they are; weights are reordered once into the layout oneDNN asks for. Creating a
 * primitive takes milliseconds, so they are kept, by shape. A primitive belongs to the number of threads it was created
 * for. Scratchpads are ours, from the workspace, so that a dry run counts them. */
#include "kernels/cpu/cpu.h"

#include <oneapi/dnnl/dnnl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CACHED = 256 };

/* What a primitive depends on. Only int64 fields: compared by its bytes. */
typedef struct conv_key {
    int64_t rank; /* spatial dimensions, 2 or 3 */
    int64_t batch, inputs, outputs;
    dnnl_dims_t in, out, kernel, strides, pads_low, pads_high; /* spatial */
    int64_t has_bias, has_residual, threads;
} conv_key;

typedef struct conv_primitive {
    struct conv_primitive *next; /* most recently used first */
    conv_key key;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive; /* NULL until it is first executed: a dry run needs the description only */
    dnnl_memory_t src, weight, bias, dst, scratchpad;
    size_t weight_bytes, scratchpad_bytes;
} conv_primitive;

struct cpu_onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
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

static const char *isa_name(void)
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

lt_status cpu_onednn_open(struct cpu_onednn **onednn, lt_dtype dtype, const char **isa, char *version,
                          size_t version_bytes, lt_err *err)
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
    *isa = isa_name();
    return LT_OK;
}

static void destroy_primitive(conv_primitive *p)
{
    if (!p) return;
    dnnl_memory_t memories[] = {p->src, p->weight, p->bias, p->dst, p->scratchpad};
    for (size_t i = 0; i < LT_COUNT(memories); i++) {
        if (memories[i]) dnnl_memory_destroy(memories[i]);
    }
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

/* The convolution as oneDNN is to see it: per frame (2D) when the kernel is, over T and all pixels as one axis (2D) when
 * the kernel is (kt,1,1), otherwise 3D. */
static conv_key key_of(const lt_context *c, const lt_conv_dims *d, bool has_bias, bool has_residual)
{
    conv_key k = {.batch = d->n,
                  .inputs = d->i,
                  .outputs = d->o,
                  .has_bias = has_bias,
                  .has_residual = has_residual,
                  .threads = cpu_of(c)->threads};
    bool per_frame = d->kt == 1 && d->st == 1 && d->front == 0 && d->back == 0;
    bool per_pixel = d->kh == 1 && d->kw == 1 && d->sh == 1 && d->sw == 1 && d->ho == d->h && d->wo == d->w;
    int64_t axes[3][6] = {{d->t, d->to, d->kt, d->st, d->front, d->back},
                          {d->h, d->ho, d->kh, d->sh, d->top, d->bottom},
                          {d->w, d->wo, d->kw, d->sw, d->left, d->right}};
    int first = 0;
    k.rank = 3;
    if (per_frame) {
        k.batch *= d->t;
        k.rank = 2;
        first = 1;
    } else if (per_pixel) {
        k.rank = 2;
        int64_t pixels = d->h * d->w, all[6] = {pixels, pixels, 1, 1, 0, 0};
        memcpy(axes[1], all, sizeof(all));
    }
    for (int64_t i = 0; i < k.rank; i++) {
        const int64_t *a = axes[first + i];
        k.in[i] = a[0];
        k.out[i] = a[1];
        k.kernel[i] = a[2];
        k.strides[i] = a[3];
        k.pads_low[i] = a[4];
        k.pads_high[i] = a[5];
    }
    return k;
}

static dnnl_status_t activation_desc(dnnl_memory_desc_t *desc, const conv_key *k, int64_t channels,
                                     const int64_t *spatial, dnnl_data_type_t dtype)
{
    dnnl_dims_t dims = {k->batch, channels};
    for (int64_t i = 0; i < k->rank; i++) dims[2 + i] = spatial[i];
    return dnnl_memory_desc_init_by_tag(desc, (int)k->rank + 2, dims, dtype,
                                        k->rank == 2 ? dnnl_nhwc : dnnl_ndhwc);
}

static dnnl_status_t weight_desc(dnnl_memory_desc_t *desc, const conv_key *k, dnnl_data_type_t dtype,
                                 dnnl_format_tag_t tag)
{
    dnnl_dims_t dims = {k->outputs, k->inputs};
    for (int64_t i = 0; i < k->rank; i++) dims[2 + i] = k->kernel[i];
    return dnnl_memory_desc_init_by_tag(desc, (int)k->rank + 2, dims, dtype, tag);
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
    dnnl_status_t status = activation_desc(&src, k, k->inputs, k->in, o->dtype);
    if (status == dnnl_success) status = activation_desc(&dst, k, k->outputs, k->out, o->dtype);
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

static dnnl_status_t make_memory(struct cpu_onednn *o, const conv_primitive *p, dnnl_query_t what, int index,
                                 dnnl_memory_t *memory)
{
    const dnnl_memory_desc_t *desc = dnnl_primitive_desc_query_md(p->desc, what, index);
    return dnnl_memory_create(memory, desc, o->engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t make_primitive(struct cpu_onednn *o, conv_primitive *p)
{
    dnnl_status_t status = dnnl_primitive_create(&p->primitive, p->desc);
    if (status == dnnl_success) status = make_memory(o, p, dnnl_query_src_md, 0, &p->src);
    if (status == dnnl_success) status = make_memory(o, p, dnnl_query_weights_md, 0, &p->weight);
    if (status == dnnl_success && p->key.has_bias)
        status = make_memory(o, p, dnnl_query_weights_md, 1, &p->bias);
    if (status == dnnl_success) status = make_memory(o, p, dnnl_query_dst_md, 0, &p->dst);
    if (status == dnnl_success) status = make_memory(o, p, dnnl_query_scratchpad_md, 0, &p->scratchpad);
    return status;
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
    if (status == dnnl_success && !c->dry && !p->scratchpad) status = make_primitive(o, p);
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

/* The weight in the layout of p. NULL when dry or after an error. */
static void *packed_weight(lt_context *c, struct cpu_onednn *o, lt_weight *weight, const conv_primitive *p)
{
    const dnnl_memory_desc_t *wanted = dnnl_primitive_desc_query_md(p->desc, dnnl_query_weights_md, 0);
    for (const cpu_packed *f = weight->packed; f; f = f->next) {
        if (f->form == CPU_FORM_ONEDNN &&
            dnnl_memory_desc_equal((const dnnl_memory_desc_t *)f->layout, wanted))
            return f->data;
    }
    cpu_packed *packed =
        cpu_packed_add(c, weight, CPU_FORM_ONEDNN, c->dtype, p->weight_bytes, wanted, sizeof(*wanted));
    if (!packed) return NULL;
    dnnl_memory_desc_t plain;
    float *owned;
    const float *values = cpu_weight_f32(c, weight, &owned);
    if (!values) return NULL;
    dnnl_status_t status = weight_desc(&plain, &p->key, dnnl_f32, p->key.rank == 2 ? dnnl_oihw : dnnl_oidhw);
    if (status == dnnl_success) status = reorder(o, &plain, values, wanted, packed->data);
    free(owned);
    if (status == dnnl_success) return packed->data;
    lt_context_fail(c, LT_E_UNSUPPORTED, "conv: oneDNN cannot reorder a weight: %s", status_text(status));
    return NULL;
}

/* ---- execution --------------------------------------------------------------------------------------- */

static dnnl_status_t execute(struct cpu_onednn *o, const conv_primitive *p, const void *x, void *weight,
                             const float *bias, void *y, void *scratchpad)
{
    struct {
        int arg;
        dnnl_memory_t memory;
        const void *data;
    } all[] = {
        {DNNL_ARG_SRC, p->src, x},
        {DNNL_ARG_WEIGHTS, p->weight, weight},
        {DNNL_ARG_BIAS, p->bias, bias},
        {DNNL_ARG_DST, p->dst, y},
        {DNNL_ARG_SCRATCHPAD, p->scratchpad, scratchpad},
    };
    dnnl_exec_arg_t args[LT_COUNT(all)];
    int n = 0;
    for (size_t i = 0; i < LT_COUNT(all); i++) {
        if (!all[i].memory) continue;
        dnnl_status_t status = dnnl_memory_set_data_handle(all[i].memory, (void *)(uintptr_t)all[i].data);
        if (status != dnnl_success) return status;
        args[n++] = (dnnl_exec_arg_t){.arg = all[i].arg, .memory = all[i].memory};
    }
    dnnl_status_t status = dnnl_primitive_execute(p->primitive, o->stream, n, args);
    return status == dnnl_success ? dnnl_stream_wait(o->stream) : status;
}

lt_status cpu_onednn_conv(lt_context *c, const lt_tensor *x, lt_weight *weight, lt_weight *bias,
                          const lt_conv_dims *d, const lt_tensor *residual, lt_tensor *y)
{
    struct cpu_onednn *o = cpu_of(c)->onednn;
    bool has_bias = bias && bias->tensor.data;
    conv_key key = key_of(c, d, has_bias, residual->data != NULL);
    omp_set_num_threads(cpu_of(c)->threads);
    conv_primitive *p = find_primitive(c, o, &key);
    if (!p) return c->err.status;
    void *packed = packed_weight(c, o, weight, p);
    const float *bias_values = cpu_weight_vector(c, bias);
    if (c->err.status != LT_OK) return c->err.status;
    void *scratchpad = lt_scratch(c, p->scratchpad_bytes);
    if (!scratchpad) return c->err.status;
    if (!c->dry) {
        if (residual->data) convert_cpu(c, residual, y);
        dnnl_status_t status = execute(o, p, x->data, packed, bias_values, y->data, scratchpad);
        if (status != dnnl_success)
            lt_context_fail(c, LT_E_INTERNAL, "conv: oneDNN: %s", status_text(status));
    }
    lt_workspace_release(c->workspace, scratchpad);
    return c->err.status;
}
