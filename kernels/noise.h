/* noise.h - the generator of lt_noise, to the bit: inline, shared by all backends (and by CUDA, which includes this file).
 *
 * A standard normal number depends on seed, clip, absolute frame and its element's index e within the frame (row-major),
 * and on nothing else.
 *
 * 1. Four 32-bit words r0..r3 = Philox4x32-10(counter, key) (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 *    2011): key = {low, high half of seed}, counter = {e / 4, low, high half of frame, clip}.
 * 2. (r0, r1) give elements 4b and 4b + 1 of block b = e / 4, (r2, r3) elements 4b + 2 and 4b + 3, by the method of Box and
 *    Muller (1958), for a pair (r, s):
 *        radius = sqrt(-2 ln u), u = (2r + 1) / 2^33;   first = radius * cos a, second = radius * sin a, a = 2 pi s / 2^32
 *    in f64, each operation below rounded to nearest, none fused, in the order of the code:
 *    - u = m 2^e with m in (sqrt(1/2), sqrt 2] as the code decides it; z = (m - 1) / (m + 1);
 *      ln u = e ln 2 + 2 z (1 + z^2 (1/3 + z^2 (1/5 + ... + z^2 / 21))).
 *    - a = q pi/2 + d 2 pi / 2^32 with d in [-2^29, 2^29), exact in integers; sine and cosine of the rest t, |t| <= pi/4, by
 *      their Taylor polynomials to t^17 and t^16 in nested form, 1 - t^2 / (2 3) (1 - t^2 / (4 5) (1 - ...)).
 *    The result is within 4e-15 of exact arithmetic on r and s.
 * 3. The number is rounded to f32, to nearest even; and to the context's dtype from there.
 *
 * |values| are at most 6.77: u is no smaller than 2^-33. The code needs a compiler that does not contract a * b + c
 * (-ffp-contract=off; on CUDA the intrinsics below are never contracted). */
#ifndef LT_NOISE_H
#define LT_NOISE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define LT_NOISE_INLINE static inline __host__ __device__
#else
#define LT_NOISE_INLINE static inline
#endif

#if defined(__CUDA_ARCH__)
#define LT_NOISE_ADD(a, b) __dadd_rn(a, b)
#define LT_NOISE_MUL(a, b) __dmul_rn(a, b)
#else
#define LT_NOISE_ADD(a, b) ((a) + (b))
#define LT_NOISE_MUL(a, b) ((a) * (b))
#endif

/* words: counter in, four random words out. */
LT_NOISE_INLINE void lt_philox(uint32_t words[4], uint32_t key0, uint32_t key1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * words[0], p1 = (uint64_t)0xCD9E8D57u * words[2];
        words[0] = (uint32_t)(p1 >> 32) ^ words[1] ^ key0;
        words[2] = (uint32_t)(p0 >> 32) ^ words[3] ^ key1;
        words[1] = (uint32_t)p1;
        words[3] = (uint32_t)p0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

/* ln((2r + 1) / 2^33), negative. */
LT_NOISE_INLINE double lt_noise_log(uint32_t r)
{
    double x = (double)(2 * (uint64_t)r + 1); /* 2^33 u, exact */
    uint64_t bits;
    memcpy(&bits, &x, 8);
    int e = (int)(bits >> 52) - 1023 - 33;
    bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, 8);           /* [1, 2) */
    if (m > 0x1.6a09e667f3bcdp+0) { /* sqrt 2 */
        m *= 0.5;
        e++;
    }
    double z = LT_NOISE_ADD(m, -1.0) / LT_NOISE_ADD(m, 1.0), z2 = LT_NOISE_MUL(z, z), sum = 1.0 / 21;
    for (int k = 19; k >= 1; k -= 2) sum = LT_NOISE_ADD(LT_NOISE_MUL(sum, z2), 1.0 / k);
    return LT_NOISE_ADD(LT_NOISE_MUL((double)e, 0x1.62e42fefa39efp-1), LT_NOISE_MUL(2 * z, sum)); /* ln 2 */
}

/* cos and sin of 2 pi s / 2^32. */
LT_NOISE_INLINE void lt_noise_circle(uint32_t s, double *cosine, double *sine)
{
    uint32_t q = (s + 0x20000000u) >> 30; /* nearest quarter turn; 4 is 0 */
    int32_t d = (int32_t)(s - (q << 30));
    double t = LT_NOISE_MUL((double)d, 0x1.921fb54442d18p-30); /* 2 pi / 2^32 */
    double t2 = LT_NOISE_MUL(t, t), si = 1, co = 1;
    for (int k = 16; k >= 2; k -= 2) {
        si = LT_NOISE_ADD(1.0, -LT_NOISE_MUL(LT_NOISE_MUL(t2, 1.0 / (k * (k + 1))), si));
        co = LT_NOISE_ADD(1.0, -LT_NOISE_MUL(LT_NOISE_MUL(t2, 1.0 / (k * (k - 1))), co));
    }
    si = LT_NOISE_MUL(t, si);
    *cosine = q % 4 == 0 ? co : q % 4 == 1 ? -si : q % 4 == 2 ? -co : si;
    *sine = q % 4 == 0 ? si : q % 4 == 1 ? co : q % 4 == 2 ? -si : -co;
}

/* Elements 4 * block .. 4 * block + 3 of a frame. */
LT_NOISE_INLINE void lt_noise_block(float out[4], uint64_t seed, uint32_t clip, uint64_t frame,
                                    uint32_t block)
{
    uint32_t words[4] = {block, (uint32_t)frame, (uint32_t)(frame >> 32), clip};
    lt_philox(words, (uint32_t)seed, (uint32_t)(seed >> 32));
    for (int i = 0; i < 4; i += 2) {
        double radius = sqrt(LT_NOISE_MUL(-2.0, lt_noise_log(words[i]))), cosine, sine;
        lt_noise_circle(words[i + 1], &cosine, &sine);
        out[i] = (float)LT_NOISE_MUL(radius, cosine);
        out[i + 1] = (float)LT_NOISE_MUL(radius, sine);
    }
}

#endif
