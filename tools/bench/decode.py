"""decode - the SVD decoder over a video in windows and tiles against lite-sora's own decode_video: a part of tools/bench/bench.

Equal parameters, equal weights, outputs that must agree; and how much work lite-sora's default tiles are, and ours, for a video of 512x1024.
"""

import array
import json
import math
import pathlib
import statistics
import subprocess

# Latent units: size, window, its stride, tiles, their stride
PARAMETERS, SMALL = ("6x16x16", 4, 2, "12x12", "6x6"), ("3x8x8", 2, 1, "6x6", "3x3")
BOUND = 1e-5
LONG, HEIGHT, WIDTH = 128, 64, 128
PLANS = (("untiled, one window", LONG, LONG, f"{HEIGHT}x{WIDTH}", f"{HEIGHT}x{WIDTH}"), ("Longtake's default", 32, 24, f"{HEIGHT}x{WIDTH}", f"{HEIGHT}x{WIDTH}"),
         ("lite-sora's default", 32, 16, "64x64", "32x32"))


def floats(path):
    values = array.array("f")
    values.frombytes(pathlib.Path(path).read_bytes())
    return values


def distance(a, b):
    """L2 of the difference over that of b; infinite where a value is not a number."""
    assert len(a) == len(b), f"{len(a)} values against {len(b)}"
    value = math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b))
    return value if math.isfinite(value) else math.inf


def work(tools, model):
    """FLOPs of a dry run of each plan, over those of one untiled pass."""
    whole = None
    for name, *plan in PLANS:
        command = [tools / "bench-decode", model, f"{LONG}x{HEIGHT}x{WIDTH}", *plan, 2, "-", "--flops"]
        flops = json.loads(subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True).stdout)["flops"]
        whole = whole or flops
        print(f"{f'{LONG} frames of {8 * HEIGHT}x{8 * WIDTH}, {name}':<50} {flops / 1e12:8.1f} TFLOP, {flops / whole:5.2f} of an untiled pass", flush=True)


def task_of(size, window, stride, tile, tile_stride):
    frames, height, width = map(int, size.split("x"))
    both = {"tile": tile, "tile_stride": tile_stride}
    return {"frames": frames, "height": height, "width": width, "window": window, "stride": stride, **{key: list(map(int, value.split("x"))) for key, value in both.items()}}


def bench(arguments, tools, folder, model, turn, torch_turn):
    work(tools, model)
    ours_out, theirs_out = folder / "decode-ours.f32", folder / "decode-theirs.f32"
    parameters = SMALL if arguments.small else PARAMETERS
    theirs = torch_turn(work="job", model=model, threads=arguments.threads, out=theirs_out, **task_of(*parameters))
    if theirs.facts is None:
        print("$LT_PYTHON has no torch, or $LT_LITE_SORA is no checkout of lite-sora: nothing to compare with")
        return
    ours = turn(tools / "bench-decode", model, *parameters, arguments.threads, ours_out)
    far = distance(floats(ours_out), floats(theirs_out))
    print(f"{'decode_video, equal parameters: L2 apart':<50} {far:8.1e} {'' if far <= BOUND else '(TOO FAR)'}", flush=True)
    times, reference = [], []
    for _ in range(arguments.rounds):
        times.append(ours.both())
        reference.append(theirs.both())
    ours.close()
    theirs.close()
    wall, cpu = (statistics.median(column) for column in zip(*times))
    their_wall, their_cpu = (statistics.median(column) for column in zip(*reference))
    print(f"{'decode_video, equal parameters':<50} {wall:8.2f} s, {ours.facts['flops'] / cpu / 1e9:6.1f} GFLOP/s a processor second, "
          f"{their_wall / wall:5.2f}x lite-sora, {their_cpu / cpu:5.2f}x by processor time (goal: 1.8)")
