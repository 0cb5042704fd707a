/* test_text_encode.c - what the stage text_encode reserves for a batch, and what it keeps from one to the next. */
#include "stages/text_encode/text_encode.h"
#include "tests/models/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 8 };

/* What stages call of the runtime. */
void lt_plan_resolve(lt_plan *plan, const char *name, const char *format, ...) {}
void lt_plan_note(lt_plan *plan, const char *format, ...) {}

static lt_text_encode_config t5_config(lt_text_weights weights)
{
    return (lt_text_encode_config){.model = in_folder("t5"),
                                   .model_2 = "",
                                   .tokenizer = LT_FIXTURES "/tokenizers/t5",
                                   .tokenizer_2 = "",
                                   .clip_skip = 1,
                                   .clip_skip_2 = 2,
                                   .batch = MOST,
                                   .device = "cpu",
                                   .weights = weights};
}

/* Embeddings of n texts on the heap. */
static float *encode(lt_text_model *m, int n, int *n_tokens)
{
    static const char *const texts[MOST] = {"a red bird", "", "the sea at night", "rain", "a", "two",
                                            "3",          "b"};
    lt_embeddings out = {malloc((size_t)n * (size_t)m->length * (size_t)m->width * sizeof(float)), NULL,
                         n_tokens};
    lt_err err = {0};
    assert_non_null(out.sequence);
    must(lt_text_model_encode(m, texts, n, 2, &out, &err), &err);
    return out.sequence;
}

/* A batch of short texts, full or not, has the room that was planned without knowing them, and each text the same bytes. */
static void batches_fit(void **state)
{
    int n_tokens[MOST];
    lt_err err = {0};
    lt_text_encode_config config = t5_config(LT_TEXT_WEIGHTS_REPACK);
    lt_text_model m;
    must(lt_text_model_open(&m, &config, 2, &err), &err);
    float *all = encode(&m, MOST, n_tokens);
    assert_true(n_tokens[0] < m.length);
    for (int n = MOST - 1; n > 0; n--) {
        float *fewer = encode(&m, n, n_tokens);
        assert_memory_equal(all, fewer, (size_t)n * (size_t)m.length * (size_t)m.width * sizeof(float));
        free(fewer);
    }
    free(all);
    lt_text_model_close(&m);
}

/* Weights that are kept are packed once, and planned so; the results are the same. */
static void weights_stay(void **state)
{
    float *values[2];
    int n_tokens[MOST];
    lt_err err = {0};
    size_t n_bytes = 0, planned[2];
    for (int keep = 0; keep < 2; keep++) {
        lt_text_encode_config config = t5_config(keep ? LT_TEXT_WEIGHTS_KEEP : LT_TEXT_WEIGHTS_REPACK);
        lt_text_model m;
        lt_text_cost cost, again;
        must(lt_text_model_open(&m, &config, 2, &err), &err);
        must(lt_text_model_cost(&m, MOST, &cost, &err), &err);
        must(lt_text_model_cost(&m, MOST, &again, &err), &err);
        assert_memory_equal(&cost, &again, sizeof(cost));
        planned[keep] = cost.packed_bytes;
        free(encode(&m, MOST, n_tokens));
        uint64_t changes = lt_weight_changes();
        values[keep] = encode(&m, MOST, n_tokens);
        assert_int_equal(lt_weight_changes() == changes, keep);
        assert_true(keep ? m.run->packed_bytes == cost.packed_bytes
                         : m.run->packed_bytes < cost.packed_bytes);
        n_bytes = (size_t)MOST * (size_t)m.length * (size_t)m.width * sizeof(float);
        lt_text_model_close(&m);
    }
    assert_true(planned[1] > planned[0]);
    assert_memory_equal(values[0], values[1], n_bytes);
    free(values[0]);
    free(values[1]);
}

int main(void)
{
    support_start();
    synthetic_write("text/t5_prompts", in_folder("t5"), &(synthetic){.stem = "model"});
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_fit),
        cmocka_unit_test(weights_stay),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    support_finish();
    return failed;
}
