/* test_memory.c - an operator that runs out of memory says so, and the next call is right: every allocation of its first call,
 * which packs its weights, fails once. And a plan counts what is packed. The allocator's functions are wrapped by the linker, in our own code alone. */
#include "kernels/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- the allocator ----------------------------------------------------------------------------------- */

static int n_allocations, failing; /* those of now on; the one that fails, counted from 1, or 0 */

static bool fails(void)
{
    return ++n_allocations == failing;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
int __real_posix_memalign(void **memory, size_t alignment, size_t bytes);

void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    return fails() ? NULL : __real_calloc(n, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    return fails() ? NULL : __real_realloc(memory, bytes);
}

/* What nobody has written to is never 0 by chance. */
void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    void *memory = fails() ? NULL : __real_aligned_alloc(alignment, bytes);
    return memory ? memset(memory, 0xff, bytes) : NULL;
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    int error = fails() ? 12 : __real_posix_memalign(memory, alignment, bytes);
    if (!error) memset(*memory, 0xff, bytes);
    return error;
}

/* ---- operators --------------------------------------------------------------------------------------- */

enum { MOST = 512 * 512 * 9 };
static float values[MOST], inputs[1 << 16]; /* of weights of any dtype; of tensors */

typedef struct operand_weights {
    lt_weight matrix, vector;
} operand_weights;

static lt_tensor input(const lt_context *c, int64_t h, int64_t w, int64_t channels)
{
    return (lt_tensor){.data = inputs, .dtype = c->dtype, .rank = 5, .shape = {1, 1, h, w, channels}};
}

static void shape_matrix(operand_weights *w, int64_t out, int64_t in, int64_t kt, int64_t k)
{
    w->matrix.tensor.rank = 5;
    memcpy(w->matrix.tensor.shape, (int64_t[]){out, in, kt, k, k}, 5 * sizeof(int64_t));
    w->vector.tensor.rank = 1;
    w->vector.tensor.shape[0] = out;
}

static lt_tensor conv(lt_context *c, operand_weights *w, int64_t in, int64_t out, int k, int stride)
{
    lt_conv_params p = {1, stride, stride, 0, 0, k / 2, k / 2, k / 2, k / 2};
    shape_matrix(w, out, in, 1, k);
    return lt_conv(c, input(c, 8, 12, in), &w->matrix, &w->vector, p, LT_NONE);
}

static lt_tensor narrow(lt_context *c, operand_weights *w)
{
    return conv(c, w, 64, 3, 3, 1);
}

static lt_tensor wide(lt_context *c, operand_weights *w)
{
    return conv(c, w, 64, 64, 3, 1);
}

static lt_tensor large(lt_context *c, operand_weights *w)
{
    return conv(c, w, 512, 512, 3, 1);
}

static lt_tensor strided(lt_context *c, operand_weights *w)
{
    return conv(c, w, 64, 64, 3, 2);
}

static lt_tensor pointwise(lt_context *c, operand_weights *w)
{
    return conv(c, w, 64, 40, 1, 1);
}

static lt_tensor upsample(lt_context *c, operand_weights *w)
{
    shape_matrix(w, 40, 40, 1, 3);
    return lt_upsample_conv(c, input(c, 8, 12, 40), &w->matrix, &w->vector);
}

static lt_tensor linear(lt_context *c, operand_weights *w)
{
    shape_matrix(w, 24, 96, 1, 1);
    w->matrix.tensor.rank = 2;
    return lt_linear(c, input(c, 8, 12, 96), &w->matrix, &w->vector, LT_ACT_SILU, LT_NONE);
}

static lt_tensor group_norm(lt_context *c, operand_weights *w)
{
    shape_matrix(w, 64, 0, 0, 0);
    return lt_group_norm(c, input(c, 8, 12, 64), &w->vector, &w->vector, 8, 1e-6, LT_ACT_SILU);
}

static lt_tensor layer_norm(lt_context *c, operand_weights *w)
{
    shape_matrix(w, 64, 0, 0, 0);
    return lt_layer_norm(c, input(c, 8, 12, 64), &w->vector, NULL, 1e-6, LT_NONE, LT_NONE);
}

static lt_tensor rms_norm(lt_context *c, operand_weights *w)
{
    shape_matrix(w, 64, 0, 0, 0);
    return lt_rms_norm(c, input(c, 8, 12, 64), &w->vector, 1e-6);
}

static lt_tensor attention(lt_context *c, operand_weights *w)
{
    lt_tensor q = LT_VIEW(c, input(c, 8, 12, 64), 1, 96, 2, 32);
    return lt_attention(c, q, q, q, LT_NONE, 0.2, false);
}

static const struct {
    const char *name;
    lt_tensor (*run)(lt_context *c, operand_weights *w);
} operators[] = {
    {"conv to 3", narrow},      {"conv 3x3", wide},         {"conv 3x3 of 512", large},
    {"conv stride 2", strided}, {"conv 1x1", pointwise},    {"upsample_conv", upsample},
    {"linear", linear},         {"group_norm", group_norm}, {"layer_norm", layer_norm},
    {"rms_norm", rms_norm},     {"attention", attention},
};

/* ---- checks ------------------------------------------------------------------------------------------ */

static operand_weights new_weights(lt_dtype dtype)
{
    operand_weights w = {0};
    w.matrix.tensor = w.vector.tensor = (lt_tensor){.data = values, .dtype = dtype};
    return w;
}

/* One call more: the same bytes as *wanted, which the first call sets. */
static void right(lt_context *c, int which, operand_weights *w, lt_tensor *wanted)
{
    lt_err err = {0};
    lt_tensor y = operators[which].run(c, w);
    if (lt_context_status(c, &err) != LT_OK) fail_msg("%s: %s", operators[which].name, err.text);
    if (!wanted->data) {
        *wanted = y;
        return;
    }
    if (memcmp(y.data, wanted->data, lt_tensor_bytes(&y)) != 0)
        fail_msg("%s: another result after allocation %d failed", operators[which].name, failing);
    lt_drop(c, &y);
}

static void check(lt_dtype dtype, lt_dtype weight_dtype, int which)
{
    lt_context *c, *other;
    lt_tensor wanted = LT_NONE;
    failing = 0;
    assert_int_equal(lt_context_create(&c, "cpu", dtype, 32 << 20, 2, NULL), LT_OK);
    operand_weights first = new_weights(weight_dtype);
    right(c, which, &first, &wanted);
    lt_status status = LT_E_NO_MEMORY;
    for (int n = 1; status != LT_OK; n++) {
        failing = 0; /* a context of its own: what it keeps for a shape is made again */
        assert_int_equal(lt_context_create(&other, "cpu", dtype, 32 << 20, 2, NULL), LT_OK);
        operand_weights w = new_weights(weight_dtype);
        n_allocations = 0;
        failing = n;
        lt_tensor y = operators[which].run(other, &w);
        status = lt_context_status(other, NULL);
        bool came = n_allocations >= n;
        assert_int_equal(status, came ? LT_E_NO_MEMORY : LT_OK);
        lt_drop(other, &y);
        assert_int_equal(lt_workspace_in_use(other->workspace), 0);
        n_allocations = n; /* none fails now */
        right(other, which, &w, &wanted);
        lt_weight_finish(other, &w.matrix);
        lt_weight_finish(other, &w.vector);
        assert_int_equal(other->packed_bytes, 0);
        lt_context_destroy(other);
    }
    failing = 0;
    lt_drop(c, &wanted);
    lt_weight_finish(c, &first.matrix);
    lt_weight_finish(c, &first.vector);
    lt_context_destroy(c);
}

static void every_allocation(void **state)
{
    static const lt_dtype of[][2] = {
        {LT_F32, LT_F32}, {LT_F32, LT_F16}, {LT_BF16, LT_F16}, {LT_BF16, LT_BF16}};
    for (size_t d = 0; d < LT_COUNT(of); d++) {
        /* Small numbers of either dtype, and of two bf16 where there are f32. */
        for (size_t i = 0; i < LT_COUNT(inputs); i++) {
            uint16_t two[2] = {(uint16_t)(0x3f80 + i % 61), (uint16_t)(0xbf80 + i % 53)};
            if (of[d][0] == LT_F32) inputs[i] = (float)(i % 61) / 32 - 1;
            if (of[d][0] == LT_BF16) memcpy(&inputs[i], two, sizeof(two));
        }
        for (size_t i = 0; i < LT_COUNT(values); i++) {
            uint16_t one = (uint16_t)(0x3800 + i % 67), two[2] = {one, one};
            if (of[d][1] == LT_F32) values[i] = (float)(i % 67) / 64 - 0.5f;
            if (of[d][1] != LT_F32) memcpy(&values[i], two, sizeof(two));
        }
        for (size_t i = 0; i < LT_COUNT(operators); i++) check(of[d][0], of[d][1], (int)i);
    }
}

/* A convolution's shape decides about the form of its weight: a plan of several shapes counts every form, once, and what was
 * planned is forgotten with the weight. */
static void forms_are_planned(void **state)
{
    static const int64_t sizes[][3] = {{1, 8, 12}, {1, 2, 2}, {1, 1, 1}, {1, 9, 13},
                                       {4, 3, 3},  {1, 2, 2}, {3, 5, 5}};
    static const lt_dtype dtypes[] = {LT_F32, LT_BF16};
    for (size_t d = 0; d < LT_COUNT(dtypes); d++) {
        lt_context *c, *dry;
        assert_int_equal(lt_context_create(&c, "cpu", dtypes[d], 32 << 20, 2, NULL), LT_OK);
        assert_int_equal(lt_context_create(&dry, "cpu", dtypes[d], 0, 2, NULL), LT_OK);
        lt_context *order[] = {dry, dry, c};
        size_t bytes[LT_COUNT(order)];
        operand_weights w[2] = {new_weights(LT_F32), new_weights(LT_F32)};
        for (size_t i = 0; i < LT_COUNT(order); i++) {
            for (size_t s = 0; s < LT_COUNT(sizes); s++)
                for (int over_time = 0; over_time < 2; over_time++) {
                    const int64_t *size = sizes[s];
                    lt_tensor x = input(order[i], size[1], size[2], 64), y;
                    lt_conv_params p = {1,          1,          1,          over_time, over_time,
                                        !over_time, !over_time, !over_time, !over_time};
                    x.shape[1] = size[0];
                    shape_matrix(&w[over_time], 64, 64, over_time ? 3 : 1, over_time ? 1 : 3);
                    y = lt_conv(order[i], x, &w[over_time].matrix, &w[over_time].vector, p, LT_NONE);
                    assert_int_equal(lt_context_status(order[i], NULL), LT_OK);
                    lt_drop(order[i], &y);
                }
            bytes[i] = order[i]->packed_bytes;
        }
        assert_int_equal(bytes[0], bytes[1]);
        assert_int_equal(bytes[0], bytes[2]);
        for (int i = 0; i < 2; i++) {
            assert_true(w[i].matrix.packed_bytes + w[i].vector.packed_bytes <= bytes[0]);
            lt_weight_finish(c, &w[i].matrix);
            lt_weight_finish(c, &w[i].vector);
            assert_int_equal(w[i].matrix.planned, 0);
        }
        assert_int_equal(c->packed_bytes, 0);
        lt_context_destroy(c);
        lt_context_destroy(dry);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation),
                                       cmocka_unit_test(forms_are_planned)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
