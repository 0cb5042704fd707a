/* test_ddim.c - schedules and steps against lite-sora's and diffusers' own (tests/fixtures/make_ddim_fixtures.py); configurations. */
#include "tests/models/support.h"

#include "models/ddim.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_non_null(value);
    return json_is_boolean(value) ? json_is_true(value) : json_number_value(value);
}

static double item(const json_t *list, size_t i)
{
    return json_number_value(json_array_get(list, i));
}

static lt_ddim_params params_of(const json_t *c)
{
    const char *betas = json_string_value(json_object_get(c, "betas"));
    return (lt_ddim_params){.betas = strcmp(betas, "linear") == 0 ? LT_BETAS_LINEAR : LT_BETAS_SCALED_LINEAR,
                            .beta_start = number(c, "start"),
                            .beta_end = number(c, "end"),
                            .train_steps = (int)number(c, "train"),
                            .spacing = (lt_spacing)number(c, "spacing"),
                            .steps_offset = (int)number(c, "offset"),
                            .set_alpha_to_one = number(c, "one") != 0,
                            .prediction = number(c, "v") != 0 ? LT_PREDICT_V : LT_PREDICT_NOISE,
                            .steps = (int)number(c, "steps"),
                            .strength = number(c, "strength")};
}

/* lite-sora's arithmetic is ours, to the bit; diffusers takes the step by x0 first. */
static void same(double got, double wanted, bool lite)
{
    if (lite ? got != wanted : !(fabs(got - wanted) <= 1e-12 * (1 + fabs(wanted))))
        fail_msg("%.17g for %.17g", got, wanted);
}

static void steps(void **state)
{
    json_error_t where;
    json_t *root = json_load_file(LT_FIXTURES "/ddim.json", 0, &where), *c, *result;
    assert_non_null(root);
    const json_t *x = json_object_get(root, "x"), *e = json_object_get(root, "prediction");
    size_t k, j, n_results = 0;
    json_array_foreach(json_object_get(root, "cases"), k, c)
    {
        static lt_ddim ddim;
        lt_err err = {0};
        lt_ddim_params params = params_of(c);
        bool lite = params.spacing == LT_SPACING_LITE_SORA;
        const json_t *timesteps = json_object_get(c, "timesteps");
        must(lt_ddim_init(&ddim, &params, &err), &err);
        assert_int_equal(ddim.n_steps, json_array_size(timesteps));
        for (int i = 0; i < ddim.n_steps; i++)
            if (ddim.timesteps[i] != item(timesteps, (size_t)i))
                fail_msg("case %zu: step %d is %g for %g", k, i, ddim.timesteps[i],
                         item(timesteps, (size_t)i));
        json_array_foreach(json_object_get(c, "results"), j, result)
        {
            double a, b, p, q;
            int i = (int)item(result, 0);
            lt_ddim_step(&ddim, i, &a, &b);
            lt_ddim_noise(&ddim, i, &p, &q);
            for (size_t v = 0; v < 3; v++) {
                same(item(x, v) * a + item(e, v) * b, item(result, 1 + v), lite);
                same(p * item(x, v) + q * item(e, v), item(result, 4 + v), lite);
            }
            n_results++;
        }
    }
    printf("  %zu schedules, %zu steps\n", k, n_results);
    assert_true(k > 40 && n_results > 200);
    json_decref(root);
}

/* Next to one another, schedules that are easily mistaken differ by far more than the bound. */
static void differences(void **state)
{
    lt_ddim_params wrong[6];
    static lt_ddim right, other;
    lt_ddim_params p = lt_ddim_defaults();
    must(lt_ddim_init(&right, &p, NULL), NULL);
    for (size_t i = 0; i < LT_COUNT(wrong); i++) wrong[i] = p;
    wrong[0].betas = LT_BETAS_LINEAR;
    wrong[1].beta_start = 0.0001;
    wrong[2].spacing = LT_SPACING_LEADING;
    wrong[3].prediction = LT_PREDICT_V;
    wrong[4].steps = 21;
    wrong[5].strength = 0.9;
    for (size_t i = 0; i < LT_COUNT(wrong); i++) {
        double a, b, c, d;
        must(lt_ddim_init(&other, &wrong[i], NULL), NULL);
        lt_ddim_step(&right, 5, &a, &b);
        lt_ddim_step(&other, 5, &c, &d);
        assert_true(fabs(a - c) + fabs(b - d) > 1e-4);
    }
}

static void out_of_range(void **state)
{
    static const struct {
        const char *what;
        double start, end;
        int train, steps;
        double strength;
        int offset;
        lt_spacing spacing;
    } wrong[] = {
        {"steps", 0.001, 0.02, 1000, 0, 1, 0, LT_SPACING_LITE_SORA},
        {"steps", 0.001, 0.02, 1000, 1001, 1, 0, LT_SPACING_LITE_SORA},
        {"trained", 0.001, 0.02, 10, 11, 1, 0, LT_SPACING_LEADING},
        {"train_steps", 0.001, 0.02, 0, 10, 1, 0, LT_SPACING_LITE_SORA},
        {"train_steps", 0.001, 0.02, 1001, 10, 1, 0, LT_SPACING_LITE_SORA},
        {"strength", 0.001, 0.02, 1000, 10, 0, 0, LT_SPACING_LITE_SORA},
        {"strength", 0.001, 0.02, 1000, 10, 1.01, 0, LT_SPACING_LITE_SORA},
        {"strength", 0.001, 0.02, 1000, 10, NAN, 0, LT_SPACING_LITE_SORA},
        {"leaves none", 0.001, 0.02, 1000, 10, 0.05, 0, LT_SPACING_TRAILING},
        {"betas", 0.001, 1, 1000, 10, 1, 0, LT_SPACING_LITE_SORA},
        {"betas", -1, 0.02, 1000, 10, 1, 0, LT_SPACING_LITE_SORA},
        {"betas", NAN, 0.02, 1000, 10, 1, 0, LT_SPACING_LITE_SORA},
        {"nothing of the picture", 0.001, 0.9, 1000, 10, 1, 0, LT_SPACING_LITE_SORA},
        {"offset", 0.001, 0.02, 1000, 10, 1, 101, LT_SPACING_LEADING},
        {"steps_offset", 0.001, 0.02, 1000, 10, 1, -1, LT_SPACING_LITE_SORA},
    };
    for (size_t i = 0; i < LT_COUNT(wrong); i++) {
        static lt_ddim ddim;
        lt_err err = {0};
        lt_ddim_params p = {.beta_start = wrong[i].start,
                            .beta_end = wrong[i].end,
                            .train_steps = wrong[i].train,
                            .steps = wrong[i].steps,
                            .strength = wrong[i].strength,
                            .steps_offset = wrong[i].offset,
                            .spacing = wrong[i].spacing};
        assert_int_equal(lt_ddim_init(&ddim, &p, &err), LT_E_INVALID);
        if (!strstr(err.text, wrong[i].what)) fail_msg("'%s' is not in: %s", wrong[i].what, err.text);
    }
}

static lt_status read(lt_ddim_params *p, const char *text, lt_err *err)
{
    return lt_ddim_read_config(p, text, strlen(text), "scheduler_config.json", err);
}

static void configurations(void **state)
{
    lt_ddim_params p = lt_ddim_defaults();
    lt_err err = {0};
    p.steps = 33;
    p.strength = 0.25;
    must(read(&p,
              "{\"_class_name\": \"DDIMScheduler\", \"beta_end\": 0.012, \"beta_schedule\": "
              "\"scaled_linear\", \"beta_start\": 0.00085,"
              "\"clip_sample\": false, \"num_train_timesteps\": 900, \"set_alpha_to_one\": false, "
              "\"steps_offset\": 1,"
              "\"prediction_type\": \"v_prediction\", \"timestep_spacing\": \"trailing\", \"trained_betas\": "
              "null}",
              &err),
         &err);
    assert_true(p.betas == LT_BETAS_SCALED_LINEAR && p.beta_start == 0.00085 && p.beta_end == 0.012);
    assert_true(p.train_steps == 900 && !p.set_alpha_to_one && p.steps_offset == 1 &&
                p.prediction == LT_PREDICT_V);
    assert_true(p.spacing == LT_SPACING_TRAILING && p.steps == 33 && p.strength == 0.25);

    /* PixArt's, of another scheduler, with a literal that is no JSON. */
    must(read(&p,
              "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"note\": \"-Infinity \\\" NaN\", "
              "\"beta_end\": 0.02, "
              "\"beta_schedule\": \"linear\", \"beta_start\": 0.0001, \"lambda_min_clipped\": -Infinity, "
              "\"x\": NaN, \"y\":[Infinity,"
              "-Infinity],\"thresholding\": false, \"timestep_spacing\": \"linspace\"}",
              &err),
         &err);
    assert_true(p.betas == LT_BETAS_LINEAR && p.beta_start == 0.0001 && p.beta_end == 0.02);
    assert_true(p.spacing == LT_SPACING_LINSPACE && p.set_alpha_to_one && p.steps_offset == 0 &&
                p.train_steps == 1000);
}

static void wrong_configurations(void **state)
{
    static const struct {
        const char *text;
        lt_status status;
        const char *what;
    } wrong[] = {
        {"{", LT_E_FORMAT, "scheduler_config.json:1"},
        {"", LT_E_FORMAT, "scheduler_config.json"},
        {"[]", LT_E_FORMAT, "not a JSON object"},
        {"{\"beta_end\": \"x\"}", LT_E_FORMAT, "beta_end"},
        {"{\"x\": -Infinityx}", LT_E_FORMAT, "invalid token"},
        {"{\"num_train_timesteps\": 1e9}", LT_E_FORMAT, "num_train_timesteps"},
        {"{\"num_train_timesteps\": 10.5}", LT_E_FORMAT, "num_train_timesteps"},
        {"{\"clip_sample\": 1}", LT_E_FORMAT, "clip_sample"},
        {"{}", LT_E_UNSUPPORTED, "clip_sample"},
        {"{\"clip_sample\": false, \"thresholding\": true}", LT_E_UNSUPPORTED, "thresholding"},
        {"{\"clip_sample\": false, \"rescale_betas_zero_snr\": true}", LT_E_UNSUPPORTED,
         "rescale_betas_zero_snr"},
        {"{\"clip_sample\": false, \"trained_betas\": [0.1]}", LT_E_UNSUPPORTED, "trained_betas"},
        {"{\"beta_schedule\": \"squaredcos_cap_v2\"}", LT_E_UNSUPPORTED, "squaredcos_cap_v2"},
        {"{\"prediction_type\": \"sample\"}", LT_E_UNSUPPORTED, "prediction_type"},
        {"{\"timestep_spacing\": 3}", LT_E_UNSUPPORTED, "timestep_spacing"},
    };
    for (size_t i = 0; i < LT_COUNT(wrong); i++) {
        lt_ddim_params p = lt_ddim_defaults(), before = p;
        lt_err err = {0};
        assert_int_equal(read(&p, wrong[i].text, &err), wrong[i].status);
        if (!strstr(err.text, wrong[i].what)) fail_msg("'%s' is not in: %s", wrong[i].what, err.text);
        assert_true(p.spacing == before.spacing && p.betas == before.betas &&
                    p.train_steps == before.train_steps);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps),
        cmocka_unit_test(differences),
        cmocka_unit_test(out_of_range),
        cmocka_unit_test(configurations),
        cmocka_unit_test(wrong_configurations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
