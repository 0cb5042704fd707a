/* test_noise.c - lt_noise: the published vectors of Philox, known answers, independence of how it is asked for, and the
 * distribution.
 *
 *     test_noise print SEED CLIP FIRST_FRAME FRAMES ELEMENTS
 *
 * writes raw f32 to the standard output instead: noise.py compares them with its own. */
#include "kernels/noise.h"
#include "kernels/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* malloc'd [frames][elements] in a context's dtype. */
static void *noise(const char *device, lt_dtype dtype, uint64_t seed, uint32_t clip, uint64_t first,
                   int64_t frames, int64_t elements)
{
    lt_context *c;
    lt_err err;
    size_t bytes = (size_t)(frames * elements) * lt_dtype_bytes(dtype);
    if (lt_context_create(&c, device, dtype, bytes + 64, 2, &err) != LT_OK) abort();
    lt_tensor y = lt_noise(c, 2, (int64_t[]){frames, elements}, seed, clip, first);
    void *copy = malloc(bytes);
    if (!y.data || !copy) abort();
    memcpy(copy, y.data, bytes);
    lt_context_destroy(c);
    return copy;
}

/* Random123's kat_vectors, philox4x32 with 10 rounds. */
static void test_philox(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < LT_COUNT(vectors); i++) {
        uint32_t words[4];
        memcpy(words, vectors[i].counter, sizeof(words));
        lt_philox(words, vectors[i].key[0], vectors[i].key[1]);
        assert_memory_equal(words, vectors[i].words, sizeof(words));
    }
}

/* Made by noise.py: not by this code. */
static void test_known_answers(void **state)
{
    static const float zero[] = {0x1.fb7666p-1f,  -0x1.d96d6p-1f, -0x1.3c373ep-1f, -0x1.eda364p-2f,
                                 -0x1.3aa6aep-3f, 0x1.7254dap-3f, 0x1.a9d93p-1f,   0x1.945b46p-3f};
    static const float frames[] = {-0x1.5774fcp-1f, 0x1.144786p+0f,  0x1.8ae1c2p+0f,  0x1.84fe04p-1f,
                                   -0x1.19b2bcp-4f, -0x1.94300ep-1f, -0x1.914b9cp-3f, -0x1.c59f04p+0f,
                                   -0x1.23d326p+0f, -0x1.ac23d4p+0f, 0x1.1e263cp-1f,  -0x1.04e854p+1f};
    /* Every word of key and counter takes part: a frame number that carries into its high half. */
    static const float wide[] = {-0x1.3f153p-3f, -0x1.a9a924p-2f, 0x1.2d6b74p+0f,  0x1.7e08a4p-1f,
                                 0x1.1f920cp-2f, -0x1.a916cp-1f,  0x1.2e3094p+0f,  0x1.38c53cp-2f,
                                 0x1.0ece9p+1f,  -0x1.38fff4p-1f, -0x1.088278p+0f, -0x1.3214c6p+0f,
                                 0x1.92ced8p+0f, -0x1.e91b98p-1f};
    const struct {
        uint64_t seed, first;
        uint32_t clip;
        int64_t frames, elements;
        const float *values;
    } cases[] = {{0, 0, 0, 1, 8, zero},
                 {1, 3, 2, 2, 6, frames},
                 {0xfedcba9876543210, 0xffffffff, 0xffffffff, 2, 7, wide}};
    for (size_t i = 0; i < LT_COUNT(cases); i++) {
        const char *devices[] = {"ref", "cpu"};
        for (int d = 0; d < 2; d++) {
            float *y = noise(devices[d], LT_F32, cases[i].seed, cases[i].clip, cases[i].first,
                             cases[i].frames, cases[i].elements);
            assert_memory_equal(y, cases[i].values,
                                (size_t)(cases[i].frames * cases[i].elements) * sizeof(float));
            free(y);
        }
    }
}

/* A frame's bytes depend on its absolute number, not on the call; bf16 is the f32 value rounded. */
static void test_frames(void **state)
{
    enum { FRAMES = 5, ELEMENTS = 30011 };
    float *all = noise("cpu", LT_F32, 17, 4, 100, FRAMES, ELEMENTS);
    for (int f = 0; f < FRAMES; f++) {
        float *one = noise("cpu", LT_F32, 17, 4, (uint64_t)(100 + f), 1, ELEMENTS);
        assert_memory_equal(one, all + f * ELEMENTS, ELEMENTS * sizeof(float));
        free(one);
    }
    float *wrapped = noise("cpu", LT_F32, 17, 4, UINT64_MAX, 2, 9),
          *zero = noise("cpu", LT_F32, 17, 4, 0, 1, 9);
    assert_memory_equal(wrapped + 9, zero, 9 * sizeof(float));
    uint16_t *half = noise("cpu", LT_BF16, 17, 4, 100, 1, ELEMENTS);
    for (int i = 0; i < ELEMENTS; i++) {
        uint32_t bits;
        memcpy(&bits, &all[i], 4);
        assert_int_equal(half[i], (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    free(half);
    free(wrapped);
    free(zero);
    free(all);
}

/* ---- distribution: one fixed sample, so these cannot fail by chance -------------------------------------- */

enum { SAMPLES = 1 << 20 };

/* Each mean of powers lies within 4 of its standard deviations from N(0,1)'s. */
static void test_moments(void **state)
{
    static const double moments[] = {0, 1, 0, 3, 0, 15}, deviations[] = {1, 2, 15, 96, 945, 10170};
    float *y = noise("cpu", LT_F32, 2024, 1, 0, 1, SAMPLES);
    for (int k = 1; k <= 6; k++) {
        double sum = 0;
        for (int i = 0; i < SAMPLES; i++) sum += pow((double)y[i], k);
        double away = (sum / SAMPLES - moments[k - 1]) / sqrt(deviations[k - 1] / SAMPLES);
        if (!(fabs(away) <= 4)) fail_msg("moment %d is %.2f deviations away", k, away);
    }
    free(y);
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Kolmogorov and Smirnov's distance below its 1 % point, and as many values in the tails as there should be. */
static void test_distribution(void **state)
{
    float *y = noise("cpu", LT_F32, 5, 0, 77, 1, SAMPLES);
    qsort(y, SAMPLES, sizeof(float), ascending);
    double distance = 0;
    for (int i = 0; i < SAMPLES; i++) {
        double p = 0.5 * erfc(-(double)y[i] * M_SQRT1_2);
        distance = fmax(distance, fmax(p - (double)i / SAMPLES, (double)(i + 1) / SAMPLES - p));
    }
    if (!(distance * sqrt(SAMPLES) <= 1.63)) fail_msg("distance %.3f", distance * sqrt(SAMPLES));
    for (int limit = 2; limit <= 4; limit++) {
        double expected = SAMPLES * 0.5 * erfc(limit * M_SQRT1_2);
        double low = 0, high = 0;
        for (int i = 0; i < SAMPLES; i++) {
            low += y[i] < -(float)limit;
            high += y[i] > (float)limit;
        }
        if (!(fabs(low - expected) <= 4 * sqrt(expected) && fabs(high - expected) <= 4 * sqrt(expected)))
            fail_msg("%.0f below -%d, %.0f above it; %.1f expected", low, limit, high, expected);
    }
    assert_true(y[0] < -4.5f && y[0] > -6.78f && y[SAMPLES - 1] > 4.5f && y[SAMPLES - 1] < 6.78f);
    free(y);
}

/* Mean of products, in deviations, of values and of their squares: 0 where the two do not depend on each other. */
static void assert_uncorrelated(const float *a, const float *b, int n, int stride, const char *what)
{
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) {
        double x = (double)a[i * stride], y = (double)b[i * stride];
        sum += x * y;
        squares += (x * x - 1) * (y * y - 1) / 2;
    }
    if (!(fabs(sum) <= 4 * sqrt(n) && fabs(squares) <= 4 * sqrt(n)))
        fail_msg("%s: %.2f and %.2f deviations", what, sum / sqrt(n), squares / sqrt(n));
}

static void test_correlation(void **state)
{
    enum { N = 1 << 18 };
    float *y = noise("cpu", LT_F32, 9, 3, 1000, 3, N);
    float *clip = noise("cpu", LT_F32, 9, 4, 1000, 1, N), *seed = noise("cpu", LT_F32, 10, 3, 1000, 1, N);
    assert_uncorrelated(y, y + N, N, 1, "frames one apart");
    assert_uncorrelated(y, y + 2 * N, N, 1, "frames two apart");
    assert_uncorrelated(y, clip, N, 1, "clips");
    assert_uncorrelated(y, seed, N, 1, "seeds");
    assert_uncorrelated(y, y + 1, N / 4, 4, "the two of a pair");
    assert_uncorrelated(y, y + 2, N / 4, 4, "the two pairs of a block");
    assert_uncorrelated(y, y + 4, N / 4 - 1, 4, "neighbouring blocks");
    free(y);
    free(clip);
    free(seed);
}

/* Against the same formulas with the library's functions: a wrong coefficient is far outside. */
static void test_formulas(void **state)
{
    uint32_t words[] = {0,          1,          0x1fffffff, 0x20000000, 0x5a827999,
                        0x7fffffff, 0x80000000, 0xb504f333, 0xffffffff};
    for (size_t i = 0; i < LT_COUNT(words) + 100000; i++) {
        uint32_t r = i < LT_COUNT(words) ? words[i] : (uint32_t)(i * 2654435761u);
        double log_u = log((2 * (double)r + 1) / 0x1p33), angle = 2 * M_PI * ((double)r / 0x1p32), cosine,
               sine;
        assert_true(fabs(lt_noise_log(r) / log_u - 1) < 1e-15);
        lt_noise_circle(r, &cosine, &sine);
        assert_true(fabs(cosine - cos(angle)) < 1e-15 && fabs(sine - sin(angle)) < 1e-15);
    }
}

static int print(char **argv)
{
    int64_t frames = atoll(argv[5]), elements = atoll(argv[6]);
    if (frames < 1 || elements < 1 || frames * elements > 1 << 24) return 2;
    float *y = noise("cpu", LT_F32, strtoull(argv[2], NULL, 10), (uint32_t)strtoull(argv[3], NULL, 10),
                     strtoull(argv[4], NULL, 10), frames, elements);
    bool ok = fwrite(y, sizeof(float), (size_t)(frames * elements), stdout) == (size_t)(frames * elements);
    free(y);
    return !ok || fflush(stdout) != 0;
}

int main(int argc, char **argv)
{
    if (argc == 7 && strcmp(argv[1], "print") == 0) return print(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),       cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_frames),       cmocka_unit_test(test_moments),
        cmocka_unit_test(test_distribution), cmocka_unit_test(test_correlation),
        cmocka_unit_test(test_formulas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
