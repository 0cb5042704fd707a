"""The cases of bench-ops in PyTorch, eager.

    torch_ops.py CASE THREADS [f32|bf16]
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

CASE, THREADS = sys.argv[1], int(sys.argv[2])
DTYPE = torch.bfloat16 if sys.argv[3:] == ["bf16"] else torch.float32
torch.set_num_threads(THREADS)


def make(*shape, scale=1.0):
    return (torch.rand(shape) * 2 - 1).mul_(scale).to(DTYPE)


def weight(*shape):
    return make(*shape, scale=torch.Size(shape[1:]).numel() ** -0.5)


def split(x, heads):
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def attend(x, w, heads, mask=None, scale=None):
    q, k, v = (split(F.linear(x, *w[i]), heads) for i in range(3))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return F.linear(y.transpose(1, 2).flatten(2), *w[3])


def dit():
    c = 1152
    x, m = make(1, 4096, c), [make(1, 1, c) for _ in range(6)]
    w = [(weight(c, c), make(c)) for _ in range(4)] + [(weight(4 * c, c), make(4 * c)), (weight(c, 4 * c), make(c))]

    def modulated(x, scale, shift):
        return F.layer_norm(x, (c,), eps=1e-6) * (1 + scale) + shift

    def run():
        y = x + m[2] * attend(modulated(x, m[0], m[1]), w, 16)
        h = F.gelu(F.linear(modulated(y, m[3], m[4]), *w[4]), approximate="tanh")
        return y + m[5] * F.linear(h, *w[5])

    return run


def t5():
    c, ff, length = 4096, 10240, 120
    x, bias, g = make(1, length, c), make(1, 64, length, length), [make(c) for _ in range(2)]
    w = [(weight(c, c),) for _ in range(4)]
    gate, up, down = weight(ff, c), weight(ff, c), weight(c, ff)

    def norm(x, g):
        return g * (x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).to(DTYPE)

    def run():
        y = x + attend(norm(x, g[0]), w, 64, bias, 1.0)
        h = norm(y, g[1])
        return y + F.linear(F.gelu(F.linear(h, gate), approximate="tanh") * F.linear(h, up), down)

    return run


def attention(length, keys, heads, width, masked):
    q, k = make(1, length, heads, width).transpose(1, 2), make(1, keys, heads, width).transpose(1, 2)
    mask = make(1, 1, 1, keys) if masked else None
    return lambda: F.scaled_dot_product_attention(q, k, k, attn_mask=mask)


def linear4608():
    x, w, b = make(1, 4096, 1152), weight(4608, 1152), make(4608)
    return lambda: F.gelu(F.linear(x, w, b), approximate="tanh")


def linear1152():
    x, w, b, r = make(1, 4096, 4608), weight(1152, 4608), make(1152), make(1, 4096, 1152)
    return lambda: r + F.linear(x, w, b)


def norm():
    x, m = make(1, 4096, 1152), [make(1, 1, 1152) for _ in range(2)]
    return lambda: F.layer_norm(x, (1152,), eps=1e-6) * (1 + m[0]) + m[1]


def conv(frames, height, width, inputs, outputs, kt, k, stride):
    patches = stride > 1 and stride == k and k != 3
    pad, pad_t = (0, 0) if patches else (k // 2, kt // 2)
    if kt == 1:
        x, w, b = make(1, inputs, height, width), weight(outputs, inputs, k, k), make(outputs)
        x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
        return lambda: F.conv2d(x, w, b, stride=stride, padding=pad)
    x, w, b = make(1, inputs, frames, height, width), weight(outputs, inputs, kt, k, k), make(outputs)
    x, w = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, w))
    return lambda: F.conv3d(x, w, b, stride=stride, padding=(pad_t, pad, pad))


CASES = {
    "dit": dit,
    "t5": t5,
    "attention64": lambda: attention(4096, 4096, 16, 64, False),
    "attention72": lambda: attention(4096, 4096, 16, 72, False),
    "cross77": lambda: attention(4096, 77, 16, 72, True),
    "cross120": lambda: attention(4096, 120, 16, 72, True),
    "linear4608": linear4608,
    "linear1152": linear1152,
    "norm": norm,
    "patchify": lambda: conv(16, 64, 64, 4, 1152, 2, 2, 2),
    "down3d": lambda: conv(8, 64, 64, 320, 320, 3, 3, 2),
    "conv3d": lambda: conv(8, 32, 32, 320, 320, 3, 3, 1),
    "conv512": lambda: conv(1, 64, 64, 512, 512, 1, 3, 1),
    "conv256": lambda: conv(1, 128, 128, 256, 256, 1, 3, 1),
    "conv128": lambda: conv(1, 256, 256, 128, 128, 1, 3, 1),
    "time512": lambda: conv(8, 64, 64, 512, 512, 3, 1, 1),
    "conv128to3": lambda: conv(1, 256, 512, 128, 3, 1, 3, 1),
    "conv4to8": lambda: conv(1, 256, 512, 4, 8, 1, 3, 1),
    "conv8to8": lambda: conv(1, 256, 512, 8, 8, 1, 3, 1),
}

with torch.inference_mode():
    run = CASES[CASE]()
    run()
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        print(f"{time.perf_counter() - wall:.6f} {time.process_time() - cpu:.6f}", flush=True)
