"""lt_noise in NumPy, from what kernels/noise.h states, compared with the C to the bit.

    noise.py TEST_NOISE        runs `TEST_NOISE print SEED CLIP FIRST_FRAME FRAMES ELEMENTS` for several and compares
    noise.py                   prints the known answers of test_noise.c
"""

import subprocess
import sys

try:
    import numpy as np
except ImportError:
    print("skipped: NumPy is not installed, so nothing of the generator was compared with its NumPy version")
    sys.exit(77)


def philox(counter, key):
    c, k = [np.uint64(x) for x in counter], [np.uint64(x) for x in key]
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [p1 >> half ^ c[1] ^ k[0], p1 & low, p0 >> half ^ c[3] ^ k[1], p0 & low]
        k = [k[0] + np.uint64(0x9E3779B9) & low, k[1] + np.uint64(0xBB67AE85) & low]
    return c


def pair(r, s):
    m, e = np.frexp(2.0 * r.astype(np.float64) + 1)  # m in [1/2, 1)
    m, e = m * 2, e - 34
    m, e = np.where(m > 2**0.5, m / 2, m), np.where(m > 2**0.5, e + 1, e)
    z = (m - 1) / (m + 1)
    total = 1 / 21
    for k in range(19, 0, -2):
        total = total * (z * z) + 1 / k
    radius = np.sqrt(-2 * (e * 0.6931471805599453 + 2 * z * total))
    q = (s + np.uint64(1 << 29)) >> np.uint64(30)
    t = (s.astype(np.float64) - q.astype(np.float64) * 2**30) * (6.283185307179586 / 2**32)
    sine = cosine = 1.0
    for k in range(16, 1, -2):
        sine = 1 - t * t * (1 / (k * (k + 1))) * sine
        cosine = 1 - t * t * (1 / (k * (k - 1))) * cosine
    sine, q = t * sine, q.astype(np.int64) % 4
    return radius * np.choose(q, [cosine, -sine, -cosine, sine]), radius * np.choose(q, [sine, cosine, -sine, -cosine])


def noise(seed, clip, first_frame, frames, elements):
    block = np.arange((elements + 3) // 4)
    rows = []
    for frame in range(first_frame, first_frame + frames):
        zero = block * 0
        r = philox([block, zero + (frame & 0xFFFFFFFF), zero + (frame >> 32 & 0xFFFFFFFF), zero + clip], [seed & 0xFFFFFFFF, seed >> 32])
        rows.append(np.stack(pair(r[0], r[1]) + pair(r[2], r[3]), 1).ravel()[:elements])
    return np.array(rows).astype(np.float32)


CASES = [(0, 0, 0, 1, 8), (1, 2, 3, 2, 6), (0xFEDCBA9876543210, 0xFFFFFFFF, (1 << 32) - 1, 2, 7), (42, 0, 10**15, 3, 10001), (7, 9, 0, 1, 200000)]


def main():
    if len(sys.argv) == 1:
        for case in CASES[:3]:
            print(case, ", ".join(f"{x.hex()}f" for row in noise(*case).tolist() for x in row))
        return 0
    for case in CASES:
        ours = subprocess.run([sys.argv[1], "print", *map(str, case)], check=True, stdout=subprocess.PIPE).stdout
        theirs = noise(*case).tobytes()
        if ours != theirs:
            differ = np.frombuffer(ours, np.uint32) != np.frombuffer(theirs, np.uint32)
            print(f"seed, clip, first frame, frames, elements {case}: {differ.sum()} of {differ.size} values differ, first at {differ.argmax()}")
            return 1
    print(f"{sum(c[3] * c[4] for c in CASES)} values are equal to the bit")
    return 0


sys.exit(main())
