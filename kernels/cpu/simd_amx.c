/* simd_amx.c - products of pairs of bf16 on tiles (Intel's Advanced Matrix Extensions): a step multiplies 16 x 32 elements of the left operand
 * with 32 x 16 of the right one and adds to 16 x 16 sums.
 *
 * Sums of 32 x 32 stand in four tiles while the inner dimension is walked, so that each tile of an operand is read once for two
 * products. What is left of the inner dimension behind its last 32 elements is a second walk, in tiles that are less deep, over sums
 * that are there already. */
#include "kernels/cpu/simd.h"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SIDE = 16,
    DEPTH = 32,
    PANEL = 32
}; /* sums of a tile along a side; inner elements of a step; columns of a panel */

/* The form of tiles as the processor is told of it: 0 to 3 hold sums, 4 and 5 rows, 6 and 7 columns. */
typedef struct tile_forms {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_forms;

static void set_forms(int64_t depth)
{
    tile_forms f = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        f.rows[i] = i < 6 ? SIDE : (uint8_t)(depth / 2);
        f.row_bytes[i] = i == 4 || i == 5 ? (uint16_t)(2 * depth) : 4 * SIDE;
    }
    /* The instruction's operand stands for 8 of its 64 bytes. */
    __asm__ volatile("" : : "r"(&f) : "memory");
    _tile_loadconfig(&f);
}

/* One or two tiles of sums along each side. `lower`, `right`: there are two. */
static inline __attribute__((always_inline)) void walk(float *c, int64_t c_stride, const uint16_t *a,
                                                       const uint16_t *b, int64_t k, int64_t depth,
                                                       bool accumulate, bool lower, bool right)
{
    const size_t line = (size_t)c_stride * sizeof(float), row = ROW_STRIDE * sizeof(uint16_t),
                 pairs = 2 * PANEL * sizeof(uint16_t);
    float *below = c + SIDE * c_stride;
    if (accumulate) {
        _tile_loadd(0, c, line);
        if (right) _tile_loadd(1, c + SIDE, line);
        if (lower) _tile_loadd(2, below, line);
        if (lower && right) _tile_loadd(3, below + SIDE, line);
    } else {
        _tile_zero(0);
        if (right) _tile_zero(1);
        if (lower) _tile_zero(2);
        if (lower && right) _tile_zero(3);
    }
    for (int64_t i = 0; i < k; i += depth) {
        _tile_loadd(6, b + i * PANEL, pairs);
        _tile_loadd(4, a + i, row);
        _tile_dpbf16ps(0, 4, 6);
        if (right) {
            _tile_loadd(7, b + i * PANEL + 2 * SIDE, pairs);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (lower) {
            _tile_loadd(5, a + SIDE * ROW_STRIDE + i, row);
            _tile_dpbf16ps(2, 5, 6);
            if (right) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, c, line);
    if (right) _tile_stored(1, c + SIDE, line);
    if (lower) _tile_stored(2, below, line);
    if (lower && right) _tile_stored(3, below + SIDE, line);
}

/* All rows and columns over k inner elements, a multiple of depth. */
static void walk_all(float *c, int64_t c_stride, const uint16_t *a, const uint16_t *b, int64_t panel_stride,
                     int64_t rows, int64_t columns, int64_t k, int64_t depth, bool accumulate)
{
    set_forms(depth);
    for (int64_t j = 0; j < columns; j += PANEL) {
        const uint16_t *panel = b + j / PANEL * panel_stride;
        bool right = columns - j > SIDE;
        for (int64_t i = 0; i < rows; i += 2 * SIDE) {
            bool lower = rows - i > SIDE;
            float *to = c + i * c_stride + j;
            const uint16_t *from = a + i * ROW_STRIDE;
            if (lower && right) {
                walk(to, c_stride, from, panel, k, depth, accumulate, true, true);
            } else if (lower) {
                walk(to, c_stride, from, panel, k, depth, accumulate, true, false);
            } else if (right) {
                walk(to, c_stride, from, panel, k, depth, accumulate, false, true);
            } else {
                walk(to, c_stride, from, panel, k, depth, accumulate, false, false);
            }
        }
    }
}

static void gemm(float *c, int64_t c_stride, const uint16_t *a, const uint16_t *b, int64_t panel_stride,
                 int64_t rows, int64_t columns, int64_t k, bool accumulate)
{
    int64_t whole = k - k % DEPTH;
    if (whole) walk_all(c, c_stride, a, b, panel_stride, rows, columns, whole, DEPTH, accumulate);
    if (whole < k)
        walk_all(c, c_stride, a + whole, b + whole * PANEL, panel_stride, rows, columns, k - whole, k - whole,
                 accumulate || whole);
    _tile_release();
}

bool cpu_amx_permitted(void)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

const cpu_pairs cpu_pairs_amx = {SIDE, 3 * BLOCK_ROWS, 1024, gemm};
