"""A data set of very many clips of one frame: speed, memory that stays flat, a run that is continued, the cache's tool.

    tests/studies/many_clips.py [CLIPS]        default 100000

Makes a few hundred small pictures and a manifest that names them over and over, each entry with a name and a caption of its own; the
model is a narrow one, since it is what surrounds the model that is looked at. Prints a line a figure, fails where memory grows.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "pipeline"))
from datasets import latents, precompute  # noqa: E402
from harness import BIN, SANITIZED, Folder, Run, narrow_model, need_model, run, wait_until  # noqa: E402
from roundtrip import ffmpeg  # noqa: E402

PICTURES = 200


def anonymous_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith(("RssAnon", "RssShmem")))


def count(cache):
    try:
        return json.loads(latents("stat", cache, "--json"))["complete"]
    except (AssertionError, json.JSONDecodeError):
        return 0


def study(folder, n):
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size=32x32:rate=24:duration={PICTURES / 24}", "-frames:v", PICTURES, folder / "%04d.png")
    manifest, cache, model = folder / "clips.jsonl", folder / "cache", narrow_model(folder / "model")
    with open(manifest, "w") as file:
        for i in range(n):
            file.write(json.dumps({"path": f"{i % PICTURES + 1:04d}.png", "text": f"picture {i}", "name": f"clip-{i:06d}"}) + "\n")
    graph = precompute(folder / "g.toml", manifest, cache, model, read='audio = "none"')
    start = time.monotonic()
    subprocess.run([BIN / "orchestrator", "plan", graph], check=True, stdout=subprocess.DEVNULL)
    print(f"plan: {time.monotonic() - start:.2f} s", flush=True)

    start, early, peaks = time.monotonic(), {}, {}
    going = Run(graph)
    wait_until(lambda: count(cache) >= n // 4 or not going.running(), 36000, "a quarter of the clips")
    for pid, program in going.stages().items():
        early[program] = anonymous_kib(pid)
    wait_until(lambda: count(cache) >= n * 3 // 4 or not going.running(), 36000, "three quarters of the clips")
    for pid, program in going.stages().items():
        peaks[program] = anonymous_kib(pid)
    if going.running():
        os.kill(going.pid, signal.SIGKILL)
    going.process.wait()
    seconds, done = time.monotonic() - start, count(cache)
    print(f"first run: {done} clips in {seconds:.1f} s, {done / seconds:.0f} clips/s; then kill -9 of the orchestrator", flush=True)
    for program in sorted(peaks):
        print(f"memory of {program}: {early.get(program, 0) / 1024:.1f} MiB at a quarter, {peaks[program] / 1024:.1f} MiB at three quarters")
        assert SANITIZED or peaks[program] <= 1.1 * early.get(program, 0) + 1024, f"{program} grows"

    start = time.monotonic()
    going = Run(graph)
    wait_until(lambda: count(cache) > done or not going.running(), 600, "the continued run adds a clip")
    print(f"continued: the first new clip after {time.monotonic() - start:.2f} s", flush=True)
    assert going.wait(36000) == 0, going.text()
    assert count(cache) == n, f"{count(cache)} of {n} clips"
    start = time.monotonic()
    run(graph, timeout=3600)
    print(f"nothing to do: {time.monotonic() - start:.2f} s")
    start = time.monotonic()
    latents("stat", cache)
    print(f"latents stat: {time.monotonic() - start:.3f} s")


if __name__ == "__main__":
    need_model()
    with Folder("many-clips") as folder:
        study(folder, int(sys.argv[1]) if len(sys.argv) > 1 else 100000)
