/* ddim.c - the table of alphas in f32, as both references make it, and the steps over it in f64. */
#include "models/ddim.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

lt_ddim_params lt_ddim_defaults(void)
{
    return (lt_ddim_params){.betas = LT_BETAS_SCALED_LINEAR,
                            .beta_start = 0.00085,
                            .beta_end = 0.012,
                            .train_steps = 1000,
                            .spacing = LT_SPACING_LITE_SORA,
                            .prediction = LT_PREDICT_NOISE,
                            .steps = 20,
                            .strength = 1};
}

/* ---- scheduler_config.json -------------------------------------------------------------------------------------------- */

typedef struct reader {
    const json_t *root;
    const char *name;
    lt_err *err;
    lt_status status; /* first error */
} reader;

static double read_number(reader *r, const char *key, double fallback)
{
    const json_t *value = json_object_get(r->root, key);
    if (!value || r->status != LT_OK) return fallback;
    if (!json_is_number(value)) {
        r->status = lt_fail(r->err, LT_E_FORMAT, "%s: \"%s\" must be a number", r->name, key);
        return fallback;
    }
    return json_number_value(value);
}

static int read_int(reader *r, const char *key, int fallback, int low, int high)
{
    double number = read_number(r, key, fallback);
    if (r->status != LT_OK) return fallback;
    if (!(number >= low && number <= high) || number != floor(number)) {
        r->status = lt_fail(r->err, LT_E_FORMAT, "%s: \"%s\" must be a whole number from %d to %d", r->name,
                            key, low, high);
        return fallback;
    }
    return (int)number;
}

static bool read_bool(reader *r, const char *key, bool fallback)
{
    const json_t *value = json_object_get(r->root, key);
    if (!value || json_is_null(value) || r->status != LT_OK) return fallback;
    if (!json_is_boolean(value))
        r->status = lt_fail(r->err, LT_E_FORMAT, "%s: \"%s\" must be true or false", r->name, key);
    return json_is_true(value);
}

/* Which of `choices` (NULL-ended) the text is. */
static int read_choice(reader *r, const char *key, int fallback, const char *const *choices)
{
    const json_t *value = json_object_get(r->root, key);
    if (!value || json_is_null(value) || r->status != LT_OK) return fallback;
    const char *text = json_string_value(value);
    for (int i = 0; text && choices[i]; i++)
        if (strcmp(text, choices[i]) == 0) return i;
    r->status = lt_fail(r->err, LT_E_UNSUPPORTED, "%s: \"%s\" is \"%.64s\"; DDIM here knows %s, %s%s%s",
                        r->name, key, text ? text : "no text", choices[0], choices[1], choices[2] ? ", " : "",
                        choices[2] ? choices[2] : "");
    return fallback;
}

/* What would change every step and is not there. */
static void refuse_others(reader *r)
{
    static const char *const flags[] = {"thresholding", "rescale_betas_zero_snr"};
    for (size_t i = 0; i < LT_COUNT(flags); i++)
        if (read_bool(r, flags[i], false) && r->status == LT_OK)
            r->status = lt_fail(r->err, LT_E_UNSUPPORTED, "%s: \"%s\" is true, which DDIM here does not do",
                                r->name, flags[i]);
    const json_t *betas = json_object_get(r->root, "trained_betas");
    if (r->status == LT_OK && betas && !json_is_null(betas))
        r->status = lt_fail(r->err, LT_E_UNSUPPORTED,
                            "%s: \"trained_betas\" are not supported; they must be null", r->name);
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* Python writes -Infinity, Infinity and NaN, which are no JSON. Outside strings they become null in place. */
static void null_literals(char *text, size_t n)
{
    static const char *const literals[] = {"-Infinity", "Infinity", "NaN"};
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (quoted && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            quoted = !quoted;
        for (size_t k = 0; !quoted && i < n && k < LT_COUNT(literals); k++) {
            size_t m = strlen(literals[k]);
            if (n - i < m || memcmp(text + i, literals[k], m) != 0) continue;
            if ((i > 0 && is_word(text[i - 1])) || (i + m < n && is_word(text[i + m]))) continue;
            memset(text + i, ' ', m);
            memcpy(text + i, m < 4 ? "0" : "null", m < 4 ? 1 : 4);
            i += m - 1;
            break;
        }
    }
}

static lt_status read_fields(reader *r, lt_ddim_params *p)
{
    static const char *const betas[] = {"scaled_linear", "linear", NULL};
    static const char *const spacings[] = {"leading", "trailing", "linspace", NULL};
    static const char *const predictions[] = {"epsilon", "v_prediction", NULL};
    const char *class = json_string_value(json_object_get(r->root, "_class_name"));
    bool ddim = !class || strcmp(class, "DDIMScheduler") == 0;
    p->betas = (lt_betas)read_choice(r, "beta_schedule", LT_BETAS_LINEAR, betas);
    p->beta_start = read_number(r, "beta_start", 0.0001);
    p->beta_end = read_number(r, "beta_end", 0.02);
    p->train_steps = read_int(r, "num_train_timesteps", 1000, 1, LT_DDIM_MAX_STEPS);
    p->spacing = (lt_spacing)(LT_SPACING_LEADING + read_choice(r, "timestep_spacing", 0, spacings));
    p->steps_offset = read_int(r, "steps_offset", 0, 0, LT_DDIM_MAX_STEPS - 1);
    p->set_alpha_to_one = read_bool(r, "set_alpha_to_one", true);
    p->prediction = (lt_prediction)read_choice(r, "prediction_type", LT_PREDICT_NOISE, predictions);
    if (read_bool(r, "clip_sample", ddim) && r->status == LT_OK)
        r->status = lt_fail(
            r->err, LT_E_UNSUPPORTED,
            "%s: \"clip_sample\" is true, or left out, which means true; latents are not clipped here: set "
            "it to false",
            r->name);
    refuse_others(r);
    return r->status;
}

lt_status lt_ddim_read_config(lt_ddim_params *params, const char *text, size_t n_bytes, const char *name,
                              lt_err *err)
{
    char *copy = malloc(n_bytes + 1);
    if (!copy) return lt_fail(err, LT_E_NO_MEMORY, "no memory to read %s", name);
    if (n_bytes) memcpy(copy, text, n_bytes);
    null_literals(copy, n_bytes);
    json_error_t where;
    json_t *root = json_loadb(copy, n_bytes, JSON_REJECT_DUPLICATES, &where);
    free(copy);
    if (!root) return lt_fail(err, LT_E_FORMAT, "%s:%d:%d: %s", name, where.line, where.column, where.text);
    reader r = {.root = root, .name = name, .err = err, .status = LT_OK};
    lt_ddim_params p = *params;
    if (!json_is_object(root))
        r.status = lt_fail(err, LT_E_FORMAT, "%s is not a JSON object", name);
    else
        read_fields(&r, &p);
    if (r.status == LT_OK) *params = p;
    json_decref(root);
    return r.status;
}

/* ---- the schedule ------------------------------------------------------------------------------------------------------- */

static lt_status check(const lt_ddim_params *p, lt_err *err)
{
    if (p->train_steps < 1 || p->train_steps > LT_DDIM_MAX_STEPS)
        return lt_fail(err, LT_E_INVALID, "train_steps is %d; it must be 1 to %d", p->train_steps,
                       LT_DDIM_MAX_STEPS);
    if (p->steps < 1 || p->steps > LT_DDIM_MAX_STEPS)
        return lt_fail(err, LT_E_INVALID, "steps is %d; it must be 1 to %d", p->steps, LT_DDIM_MAX_STEPS);
    if (p->spacing != LT_SPACING_LITE_SORA && p->steps > p->train_steps)
        return lt_fail(err, LT_E_INVALID, "steps is %d; the model was trained with %d", p->steps,
                       p->train_steps);
    if (!(p->strength > 0 && p->strength <= 1))
        return lt_fail(err, LT_E_INVALID, "strength is %g; it must be above 0 and at most 1", p->strength);
    if (!(p->beta_start > 0 && p->beta_start < 1) || !(p->beta_end > 0 && p->beta_end < 1))
        return lt_fail(err, LT_E_INVALID, "betas go from %g to %g; both must lie between 0 and 1",
                       p->beta_start, p->beta_end);
    if (p->steps_offset < 0 || p->steps_offset >= LT_DDIM_MAX_STEPS)
        return lt_fail(err, LT_E_INVALID, "steps_offset is %d; it must be 0 to %d", p->steps_offset,
                       LT_DDIM_MAX_STEPS - 1);
    return LT_OK;
}

/* torch.linspace in f32: from both ends to the middle, each value rounded once. */
static float linspace(float start, float end, int n, int i)
{
    float step = n > 1 ? (end - start) / (float)(n - 1) : 0;
    return i < n / 2 || n == 1 ? fmaf(step, (float)i, start) : fmaf(-step, (float)(n - 1 - i), end);
}

/* alphas[train_steps]: as torch.cumprod has them, which adds up in f64 and rounds each to f32. */
static lt_status make_alphas(const lt_ddim_params *p, double *alphas, lt_err *err)
{
    bool scaled = p->betas == LT_BETAS_SCALED_LINEAR;
    float start = (float)(scaled ? sqrt(p->beta_start) : p->beta_start);
    float end = (float)(scaled ? sqrt(p->beta_end) : p->beta_end);
    double product = 1;
    for (int i = 0; i < p->train_steps; i++) {
        float value = linspace(start, end, p->train_steps, i);
        float beta = scaled ? value * value : value;
        product *= (double)(1.0f - beta);
        alphas[i] = (double)(float)product;
        if (!(alphas[i] > 0))
            return lt_fail(err, LT_E_INVALID,
                           "betas from %g to %g leave nothing of the picture after %d steps", p->beta_start,
                           p->beta_end, i);
    }
    return LT_OK;
}

/* lite-sora: evenly from the last step to 0. Whole numbers, halves to even; returns how many. */
static int steps_of_lite_sora(const lt_ddim_params *p, double *timesteps)
{
    int last = LT_MAX((int)rint(p->train_steps * p->strength) - 1, 0);
    int n = LT_MIN(p->steps, last + 1);
    double length = n > 1 ? (double)last / (n - 1) : 0;
    for (int i = 0; i < n; i++) timesteps[i] = rint(last - i * length);
    return n;
}

/* diffusers' lists of all steps, before strength. */
static void steps_of_diffusers(const lt_ddim_params *p, double *timesteps)
{
    int n = p->steps, train = p->train_steps, last = n - 1;
    double ratio = (double)train / n, down = (train - ratio) - train,
           up = n > 1 ? (double)(train - 1) / last : 0;
    for (int i = 0; i < n; i++) {
        if (p->spacing == LT_SPACING_LEADING)
            timesteps[i] = (double)(last - i) * (train / n) + p->steps_offset;
        else if (p->spacing == LT_SPACING_TRAILING)
            timesteps[i] = rint(train + i * down) - 1;
        else
            timesteps[i] = i == 0 && n > 1 ? train - 1 : rint((last - i) * up);
    }
}

lt_status lt_ddim_init(lt_ddim *ddim, const lt_ddim_params *params, lt_err *err)
{
    double alphas[LT_DDIM_MAX_STEPS];
    const lt_ddim_params *p = params;
    lt_status status = check(p, err);
    if (status == LT_OK) status = make_alphas(p, alphas, err);
    if (status != LT_OK) return status;
    memset(ddim, 0, sizeof *ddim);
    ddim->params = *p;
    bool lite = p->spacing == LT_SPACING_LITE_SORA;
    if (lite) {
        ddim->n_steps = steps_of_lite_sora(p, ddim->timesteps);
    } else {
        ddim->n_steps = LT_MIN((int)(p->steps * p->strength), p->steps);
        steps_of_diffusers(p, ddim->timesteps);
        memmove(ddim->timesteps, ddim->timesteps + p->steps - ddim->n_steps,
                (size_t)ddim->n_steps * sizeof(double));
        if (ddim->n_steps == 0)
            return lt_fail(err, LT_E_INVALID, "strength %g of %d steps leaves none", p->strength, p->steps);
    }
    int n = ddim->n_steps;
    double end = lite || p->set_alpha_to_one ? 1 : alphas[0];
    for (int i = 0; i < n; i++) {
        int t = (int)ddim->timesteps[i];
        if (t < 0 || t >= p->train_steps)
            return lt_fail(err, LT_E_INVALID, "%d steps with offset %d begin at step %d of %d", p->steps,
                           p->steps_offset, t, p->train_steps);
        int next = !lite ? t - p->train_steps / p->steps : i + 1 < n ? (int)ddim->timesteps[i + 1] : -1;
        ddim->alphas[i] = alphas[t];
        ddim->next[i] = next >= 0 ? alphas[next] : end;
    }
    ddim->alphas[n] = ddim->next[n - 1];
    return LT_OK;
}

void lt_ddim_step(const lt_ddim *ddim, int i, double *a, double *b)
{
    double now = ddim->alphas[i], next = ddim->next[i];
    if (ddim->params.prediction == LT_PREDICT_V) {
        *a = sqrt(next) * sqrt(now) + sqrt(1 - next) * sqrt(1 - now);
        *b = sqrt(1 - next) * sqrt(now) - sqrt(next) * sqrt(1 - now);
    } else {
        *a = sqrt(next / now);
        *b = sqrt(1 - next) - sqrt(next * (1 - now) / now);
    }
}

void lt_ddim_noise(const lt_ddim *ddim, int i, double *a, double *b)
{
    *a = sqrt(ddim->alphas[i]);
    *b = sqrt(1 - ddim->alphas[i]);
}
