/* check.c - what check.h says, and main.
 *
 *     test_cuda_kernels [SEED [CASES]] */
#include "tests/cuda_on_host/check.h"
#include "kernels/convert.h"

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

uint64_t check_state;
int n_checked, n_failed;

/* ---- random ------------------------------------------------------------------------------------------ */

static uint64_t next(void)
{
    check_state ^= check_state >> 12;
    check_state ^= check_state << 25;
    check_state ^= check_state >> 27;
    return check_state * 0x2545f4914f6cdd1du;
}

int64_t draw(int64_t low, int64_t high)
{
    return low + (int64_t)((next() >> 16) % (uint64_t)(high - low + 1));
}

int64_t draw_of(const int64_t *from, int n)
{
    return from[draw(0, n - 1)];
}

lt_dtype draw_dtype(void)
{
    return (lt_dtype)ONE_OF(LT_F32, LT_BF16, LT_F16);
}

static double uniform(void)
{
    return (double)(next() >> 11) * 0x1p-53;
}

static double normal(void)
{
    return sqrt(-2 * log(1 - uniform())) * cos(2 * M_PI * uniform());
}

double draw_value(fill f)
{
    static const double extremes[] = {0,  -0.0, 1e-40, -1e-30, 0.5,  -1,  1,    3.9,  -6,
                                      20, 88,   -88,   90,     -104, 1e4, -1e4, 1e30, -1e30};
    switch (f) {
    case WIDE: return normal() * pow(10, 6 * uniform() - 4);
    case OFFSET: return 1000 + normal();
    case SMALL: return 1e-3 * normal();
    case EXTREME: return extremes[draw(0, (int64_t)LT_COUNT(extremes) - 1)];
    case BYTES: return (double)draw(0, 255);
    default: return normal();
    }
}

array make_array(lt_dtype dtype, int64_t n, fill f)
{
    array a = {dtype, n, malloc((size_t)LT_MAX(n, 1) * lt_dtype_bytes(dtype))};
    if (!a.data) abort();
    for (int64_t i = 0; i < n; i++) lt_store_f64(a.data, dtype, i, draw_value(f));
    return a;
}

double value_of(const array *a, int64_t i)
{
    return lt_load_f64(a->data, a->dtype, i);
}

static size_t bytes_of(const array *a)
{
    return (size_t)a->n * lt_dtype_bytes(a->dtype);
}

void complain(const test *t, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("FAIL %s: ", t->name);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    n_failed++;
}

/* ---- one run ----------------------------------------------------------------------------------------- */

/* Device memory of an array, `shift` elements after an address of 256 bytes, and as much before and behind it. */
typedef struct copy {
    char *memory, *data;
    size_t margin, bytes;
} copy;

static copy to_device(const array *a, int shift, bool fill_it)
{
    copy c = {.margin = (size_t)shift * lt_dtype_bytes(a->dtype), .bytes = bytes_of(a)};
    if (!a->n) return c;
    if (cudaMalloc((void **)&c.memory, 2 * c.margin + c.bytes + !c.bytes) != cudaSuccess) abort();
    c.data = c.memory + c.margin;
    if (fill_it) cudaMemcpy(c.data, a->data, c.bytes, cudaMemcpyHostToDevice);
    return c;
}

/* The array's bytes, malloc'd; the margins must be as the device left them. */
static void *from_device(const test *t, const copy *c)
{
    unsigned char *all = malloc(2 * c->margin + c->bytes + 1);
    if (!all) abort();
    if (c->bytes) cudaMemcpy(all, c->memory, 2 * c->margin + c->bytes, cudaMemcpyDeviceToHost);
    for (size_t i = 0; i < c->margin && c->bytes; i++) {
        if (all[i] != 0xff || all[c->margin + c->bytes + i] != 0xff) {
            complain(t, "something was written beside the array");
            break;
        }
    }
    memmove(all, all + c->margin, c->bytes);
    return all;
}

void *run_once(const test *t, uint64_t seed, int shift, bool on_stream)
{
    fake_cuda_seed(seed);
    copy in[MOST_ARRAYS];
    void *pointers[MOST_ARRAYS], *scratch = NULL;
    cudaStream_t stream = NULL;
    for (int i = 0; i < MOST_ARRAYS; i++) {
        in[i] = to_device(&t->in[i], shift, true);
        pointers[i] = in[i].data;
    }
    copy out = t->in_place ? in[0] : to_device(&t->out, shift, t->prefill);
    if (t->scratch && cudaMalloc(&scratch, t->scratch) != cudaSuccess) abort();
    if (on_stream) cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    lt_status status = t->launch(t, stream, pointers, out.data, scratch);
    if (status != LT_OK) complain(t, "%s: %s", lt_status_string(status), lt_launch_error());
    if (cudaStreamSynchronize(stream) != cudaSuccess) complain(t, "the stream failed");
    void *result = from_device(t, &out);
    for (int i = t->in_place; i < MOST_ARRAYS; i++) {
        if (!t->in[i].data) continue;
        void *after = from_device(t, &in[i]);
        if (memcmp(after, t->in[i].data, in[i].bytes) != 0) complain(t, "input %d was changed", i);
        free(after);
    }
    for (int i = 0; i < MOST_ARRAYS; i++) cudaFree(in[i].memory);
    if (!t->in_place) cudaFree(out.memory);
    cudaFree(scratch);
    if (stream) cudaStreamDestroy(stream);
    return result;
}

/* ---- checks ------------------------------------------------------------------------------------------ */

static double eps_of(lt_dtype dtype)
{
    return dtype == LT_BF16 ? 0x1p-7 : dtype == LT_F16 ? 0x1p-10 : 0x1p-23;
}

static double expected_at(const test *t, int64_t i)
{
    return t->expect ? t->expect(t, i) : value_of(&t->expected, i);
}

static void compare(const test *t, const void *result)
{
    double largest = t->magnitude > 0 ? t->magnitude : 1;
    for (int64_t i = 0; i < t->out.n; i++) {
        double b = fabs(expected_at(t, i));
        if (isfinite(b) && b > largest) largest = b;
    }
    for (int64_t i = 0; i < t->out.n; i++) {
        double a = lt_load_f64(result, t->out.dtype, i), b = expected_at(t, i), bound = t->absolute;
        if (t->units > 0)
            bound += 0.505 * eps_of(t->out.dtype) * fabs(b) +
                     t->units * 0x1p-23 * (t->magnitude < 0 ? fabs(b) : largest) + 1e-37;
        if (t->out.dtype == LT_F16 && t->units > 0) bound += 0x1p-24; /* subnormal */
        char rounded[8];
        lt_store_f64(rounded, t->out.dtype, 0, b);
        if (lt_load_f64(rounded, t->out.dtype, 0) == a || (isnan(a) && isnan(b))) continue;
        if (!(fabs(a - b) <= bound)) {
            complain(t, "element %lld is %.9g, expected %.9g: error %.3g, bound %.3g", (long long)i, a, b,
                     fabs(a - b), bound);
            return;
        }
    }
}

void free_test(test *t)
{
    for (int i = 0; i < MOST_ARRAYS; i++) free(t->in[i].data);
    free(t->out.data);
    free(t->expected.data);
}

void run_test(test *t)
{
    if (!t->out.data) t->out.data = malloc(bytes_of(&t->out) + 1);
    n_checked++;
    void *first = run_once(t, 0, 0, false);
    compare(t, first);
    for (int variant = 1; variant <= 3; variant++) {
        int shift = variant == 1 ? 0 : variant == 2 ? 1 : 2;
        void *other = run_once(t, next(), shift, variant != 3);
        if (memcmp(first, other, bytes_of(&t->out)) != 0)
            complain(t, "other bytes with other orders of threads%s", shift ? " and other addresses" : "");
        free(other);
    }
    free(first);
    free_test(t);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    int n = argc > 2 ? atoi(argv[2]) : 12;
    static const struct {
        const char *name;
        void (*check)(int n);
    } kinds[] = {{"elements", check_elements}, {"conversions", check_conversions}, {"norms", check_norms},
                 {"softmax", check_softmax},   {"layout", check_layout},           {"tiles", check_tiles},
                 {"colour", check_colour}};
    printf("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; i < LT_COUNT(kinds); i++) {
        check_state = (seed + 1) * 0x9e3779b97f4a7c15u | 1;
        int checked = n_checked, failed = n_failed;
        kinds[i].check(n);
        printf("%-12s %d cases, %d failures\n", kinds[i].name, n_checked - checked, n_failed - failed);
        fflush(stdout);
    }
    if (fake_cuda_in_use()) printf("FAIL %zu bytes of device memory are still in use\n", fake_cuda_in_use());
    return n_failed || fake_cuda_in_use() || !n_checked;
}
